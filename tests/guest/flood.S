/* flood.S - has mvm say something thousands of times a second: resets, for --on-reboot restart. */
#include "tiny.h"

main:
	movw $0xcf9, %dx
	movb $6, %al
	outb %al, %dx
	jmp halt_off
