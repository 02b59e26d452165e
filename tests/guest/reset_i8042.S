/* reset_i8042.S - resets through the keyboard controller's output port */
#include "tiny.h"

main:
	say "about to reset\r\n"
	movb $0xfe, %al
	outb %al, $0x64
	jmp halt_off
