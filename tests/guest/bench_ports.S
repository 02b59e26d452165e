/* bench_ports.S - one million writes to port 80h, for exits per second */
#include "tiny.h"
#include "bench.h"

main:
	say "READY\r\n"
	movl $1000000, %ecx
1:	outb %al, $0x80
	decl %ecx
	jnz 1b
	say "DONE\r\n"
	jmp power_off
