/* bench_loop.S - one thousand million integer instructions, for instructions per second */
#include "tiny.h"
#include "bench.h"

main:
	say "READY\r\n"
	movl $100000000, %ecx
	leaq stack_top(%rip), %rdi
1:	addq %rcx, %rax
	xorq %rax, %rdx
	leaq 3(%rdx,%rax), %rbx
	shrq $5, %rbx
	movq %rbx, -8(%rdi)
	addq -8(%rdi), %rdx
	cmpq %rdx, %rax
	adcq $0, %r8
	decl %ecx
	jnz 1b
	say "DONE\r\n"
	jmp power_off
