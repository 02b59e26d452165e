/* reset_cf9.S - resets through port CF9h */
#include "tiny.h"

main:
	say "about to reset\r\n"
	movw $0xcf9, %dx
	movb $2, %al
	outb %al, %dx
	movb $6, %al
	outb %al, %dx
	jmp halt_off
