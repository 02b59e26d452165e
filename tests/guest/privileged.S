/* privileged.S - what only ring 0 can see, in 64-bit mode: shadows, NMI blocking, priorities, page
 * faults, a double fault.  Leaves through isa-debug-exit with 0, or with the number of the check
 * that failed.  Source: SDM vol 3, chapters "Paging", "Interrupt and Exception Handling", "APIC". */
#include "tiny.h"

#define MSR_APIC_BASE 0x1b
#define MSR_DEADLINE 0x6e0
#define MSR_EFER 0xc0000080
#define X2_TPR 0x808
#define X2_EOI 0x80b
#define X2_SVR 0x80f
#define X2_ICR 0x830
#define X2_LVT_TIMER 0x832
#define X2_SELF 0x83f
#define VECTOR 0x41
#define VICTIM 0x4000000 /* a 2 MiB page that nothing else uses */

/* Check number n: fails unless a counter has this value. */
.macro expect n, counter, value
	movl $\n, %ebp
	cmpl $\value, \counter(%rip)
	jne failed
.endm

/* An access that must fault with this error code, at VICTIM. */
.macro faults n, error, insn:vararg
	movl $\n, %ebp
	leaq 88f(%rip), %r15
	movq $-1, got_error(%rip)
	\insn
	jmp failed
88:	cmpq $\error, got_error(%rip)
	jne failed
	movq %cr2, %rax
	cmpq $VICTIM, %rax
	jne failed
.endm

/* Rewrite VICTIM's page-directory entry: low and high flags beside the address. */
.macro victim low, high=0
	movl $VICTIM + \low, (%r14)
	movl $\high, 4(%r14)
	invlpg VICTIM
.endm

main:
	lidt idtr(%rip)
	gate 2, on_nmi
	gate 8, on_double
	gate 14, on_page
	gate VECTOR, on_irq
	wr MSR_APIC_BASE, 0xfee00d00
	wr X2_SVR, 0x1ff

	/* STI keeps interrupts out of one more instruction, here CLI. */
	wr X2_SELF, VECTOR
	expect 1, irqs, 0
	sti
	cli
	expect 2, irqs, 0
	sti
	nop
	cli
	expect 3, irqs, 1

	/* A deadline in the past has passed. */
	wr X2_LVT_TIMER, 0x40000 + VECTOR
	rdtsc
	movl $MSR_DEADLINE, %ecx
	sti
	wrmsr
	nop
	cli
	expect 4, irqs, 2

	/* The task priority holds back what is not above it; CR8 lets it in. */
	movl $4, %eax
	movq %rax, %cr8
	wr X2_SELF, VECTOR
	sti
	nop
	expect 5, irqs, 2
	xorl %eax, %eax
	movq %rax, %cr8
	nop
	cli
	expect 6, irqs, 3

	/* HLT ends with an interrupt that came before it, if IF is set in time. */
	wr X2_SELF, VECTOR
	sti
	hlt
	cli
	expect 7, irqs, 4

	/* An NMI in the NMI handler waits for its IRET; more of them are one. */
	wr X2_ICR, 0x4400
	nop
	expect 8, nmis, 2
	expect 9, nmi_depth_max, 1

	/* Page faults: P, W, RSVD and I/D; nothing is user here. */
	movl $MSR_EFER, %ecx
	rdmsr
	btsl $11, %eax
	wrmsr
	movq %cr0, %rax
	btsl $16, %eax
	movq %rax, %cr0
	movq %cr3, %r14
	movq (%r14), %r14 /* page-directory pointers */
	andq $-4096, %r14
	movq (%r14), %r14 /* first page directory */
	andq $-4096, %r14
	addq $VICTIM >> 21 << 3, %r14
	victim 0x82
	faults 10, 0, movb VICTIM, %al
	faults 11, 2, movb %al, VICTIM
	victim 0x81
	movb VICTIM, %al
	faults 12, 3, lock incb VICTIM
	victim 0x83, 0x80000000
	movb $0xc3, VICTIM
	faults 13, 0x11, jmp VICTIM
	victim 0x2083 /* bit 13 of a large page is reserved */
	faults 14, 9, movb VICTIM, %al
	victim 0x83
	movb $0xc3, VICTIM
	call VICTIM

	/* A page fault whose handler's gate is absent is a double fault. */
	movl $15, %ebp
	movw $0x0e00, idt + 16 * 14 + 4(%rip)
	leaq 1f(%rip), %r15
	victim 0x82
	movq $-1, got_error(%rip)
	movb VICTIM, %al
	jmp failed
1:	expect 16, got_error, 0
	xorl %ebp, %ebp
failed:
	movl %ebp, %eax
	outb %al, $DEBUG_EXIT
	jmp halt_off

on_irq:
	pushq %rax
	pushq %rcx
	pushq %rdx
	incl irqs(%rip)
	wr X2_EOI, 0
	popq %rdx
	popq %rcx
	popq %rax
	iretq

on_nmi:
	incl nmi_depth(%rip)
	movl nmi_depth(%rip), %eax
	cmpl nmi_depth_max(%rip), %eax
	cmovb nmi_depth_max(%rip), %eax
	movl %eax, nmi_depth_max(%rip)
	incl nmis(%rip)
	cmpl $1, nmis(%rip)
	jne 1f
	wr X2_ICR, 0x4400
	wr X2_ICR, 0x4400
	wr X2_ICR, 0x4400
1:	decl nmi_depth(%rip)
	iretq

on_page:
on_double:
	popq got_error(%rip)
	movq %r15, (%rsp)
	iretq

	.data
idtr:	.word 256 * 16 - 1
	.quad idt
	.bss
	.balign 16
idt:	.skip 256 * 16
got_error: .skip 8
irqs:	.skip 4
nmis:	.skip 4
nmi_depth: .skip 4
nmi_depth_max: .skip 4
