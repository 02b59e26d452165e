/* crossmod.S - cross-modifying code: CPU 0 changes an instruction, then a word; CPU 1, which runs that
 * code all the time, sees the word, executes a serialising instruction, and must run the new code.
 * The word is beside the code in odd rounds, in a page of data in even ones, and pages of code come
 * and go.  Says what it has done, or which round went wrong by what ends it.
 * Source: SDM vol 3 "Handling Self- and Cross-Modifying Code". */
#include "tiny.h"
#include "second.h"

#define ROUNDS 200000
#define PAGES 64

.macro send what
	movl $1 << 24, ICR_HIGH(%rbx)
	movl $\what, ICR(%rbx)
77:	testl $1 << 12, ICR(%rbx)
	jnz 77b
.endm

/* rdi: the routine of round ecx: MOV EAX, imm32; RET, in one page after the other. */
.macro routine
	movl %ecx, %edi
	andl $PAGES - 1, %edi
	shll $12, %edi
	leaq pages(%rip), %rax
	addq %rax, %rdi
.endm

main:
	put_start
	xorl %ecx, %ecx
1:	routine
	movb $0xb8, (%rdi)
	movb $0xc3, 5(%rdi)
	incl %ecx
	cmpl $PAGES, %ecx
	jb 1b
	movl $APIC, %ebx
	movl $0x1ff, SVR(%rbx)
	send INIT
	send START_UP | LOW >> 12

	movl $1, %ecx
2:	routine
	movl %ecx, 1(%rdi)
	testb $1, %cl
	jz 3f
	movl %ecx, 64(%rdi) /* a word beside the code is a word, too */
3:	movl %ecx, word(%rip)
4:	pause
	cmpl %ecx, seen(%rip)
	jne 4b
	incl %ecx
	cmpl $ROUNDS, %ecx
	jbe 2b
	cmpl $0, bad(%rip)
	jne 5f
	say "done\r\n"
	jmp power_off
5:	say "old code\r\n"
	jmp power_off

/* The second CPU, from here on in long mode: it runs round n's routine until round n is said to be. */
second:
	movw $CODE + 8, %ax
	movw %ax, %ss
	leaq second_stack(%rip), %rsp
	movl $1, %r12d
1:	movl %r12d, %ecx
	routine
	movq %rdi, %r13
2:	call *%r13
	cmpl %r12d, word(%rip)
	jne 2b
	xorl %eax, %eax
	cpuid
	call *%r13
	cmpl %r12d, %eax
	je 3f
	movl $1, bad(%rip)
3:	movl %r12d, seen(%rip)
	incl %r12d
	jmp 1b

	.bss
	.balign 64
word:	.skip 64
seen:	.skip 4
bad:	.skip 4
	.balign 16
	.skip 4096
second_stack:
	.balign 4096
pages:	.skip 4096 * PAGES
