/* halt.S - halts with interrupts off: nothing can ever wake it */
#include "tiny.h"

main:
	say "about to halt\r\n"
	jmp halt_off
