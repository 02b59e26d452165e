/* bench_start.S - says so at once, stamps the boot timer and waits for a key */
#include "tiny.h"
#include "bench.h"

main:
	movl $0xc0000000, %edi
	movb $123, (%rdi)
	say "READY\r\n"
	call getc
	jmp power_off
