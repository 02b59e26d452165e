/* triple_fault.S - faults without an IDT */
#include "tiny.h"

main:
	say "about to fault\r\n"
	lidt no_idt(%rip)
	ud2

	.section .rodata
no_idt:
	.word 0
	.quad 0
