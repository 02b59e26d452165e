/* spin.S - computes for ever with interrupts off and never leaves the CPU */
#include "tiny.h"

main:
	say "READY\r\n"
1:	addq $1, %rax
	jmp 1b
