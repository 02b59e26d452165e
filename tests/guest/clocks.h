/* clocks.h - the clocks of a PC, all running: PIT and local APIC timer at 1000 Hz, RTC at 1024 Hz, each counted
 * by its interrupts; PM timer, kvmclock and TSC to be read.
 * Sources: 82C54, MC146818A and 8259A data sheets; SDM vol 3 "APIC Timer"; Linux
 * Documentation/virt/kvm/x86/msr.rst. */
#include "tiny.h"

#define MSR_APIC_BASE 0x1b
#define MSR_DEADLINE 0x6e0
#define MSR_KVM_TIME 0x4b564d01
#define X2_EOI 0x80b
#define X2_SVR 0x80f
#define X2_LVT_TIMER 0x832
#define X2_INITIAL 0x838
#define X2_DIVIDE 0x83e
#define PM_TIMER 0x608
#define V_PIT 0x20
#define V_RTC 0x28
#define V_TIMER 0x40

.macro out port, val
	movb $\val, %al
	outb %al, $\port
.endm

.macro cmos reg, val
	out 0x70, \reg
	out 0x71, \val
.endm

/* Print a name and a variable less its value at the start, if that was kept. */
.macro show name, var
	movq \var(%rip), %rax
	movq %rax, number(%rip)
	say "\name "
	call put_number
.endm

/* Interrupts stay off. */
set_up_clocks:
	lidt idtr(%rip)
	gate V_PIT, on_pit
	gate V_RTC, on_rtc
	gate V_TIMER, on_timer
	wr MSR_APIC_BASE, 0xfee00d00
	wr X2_SVR, 0x1ff
	movl $0x40000010, %eax
	cpuid
	movl %eax, %eax
	movq %rax, khz(%rip)
	imulq $1000, %rax, %rax
	movq %rax, hz(%rip)

	/* 8259s: vectors 20h and 28h; timer, cascade and RTC let through */
	out 0x20, 0x11
	out 0x21, V_PIT
	out 0x21, 4
	out 0x21, 1
	out 0xa0, 0x11
	out 0xa1, V_RTC
	out 0xa1, 2
	out 0xa1, 1
	out 0x21, 0xfa
	out 0xa1, 0xfe
	/* PIT: mode 2, 1193 ticks; RTC: 1024 Hz; local APIC: 1 GHz bus, every 1,000,000 */
	out 0x43, 0x34
	out 0x40, 1193 & 0xff
	out 0x40, 1193 >> 8
	cmos 0x0a, 0x26
	cmos 0x0b, 0x42
	wr X2_DIVIDE, 0xb
	wr X2_LVT_TIMER, V_TIMER | 1 << 17
	wr X2_INITIAL, 1000000
	ret

/* PM timer and kvmclock to pm and kvm. */
read_clocks:
	movw $PM_TIMER, %dx
	inl %dx, %eax
	movl %eax, pm(%rip)
	leaq page(%rip), %rax
	movq %rax, %rdx
	orl $1, %eax
	shrq $32, %rdx
	movl $MSR_KVM_TIME, %ecx
	wrmsr
	tsc %rax
	subq page + 8(%rip), %rax
	movb page + 28(%rip), %cl
	testb %cl, %cl
	js 1f
	shlq %cl, %rax
	jmp 2f
1:	negb %cl
	shrq %cl, %rax
2:	movl page + 24(%rip), %edx
	mulq %rdx
	shrdq $32, %rdx, %rax
	addq page + 16(%rip), %rax
	movq %rax, kvm(%rip)
	ret

on_pit:
	pushq %rax
	incq pits(%rip)
	out 0x20, 0x20
	popq %rax
	iretq

on_rtc:
	pushq %rax
	incq rtcs(%rip)
	out 0x70, 0x0c
	inb $0x71, %al
	out 0xa0, 0x20
	out 0x20, 0x20
	popq %rax
	iretq

/* The longest time between two ticks is what a program in the guest would see as a hole. */
on_timer:
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rbx
	incq timers(%rip)
	movq $1, fired(%rip)
	tsc %rbx
	movq %rbx, %rax
	subq last(%rip), %rax
	movq %rbx, last(%rip)
	cmpq $0, elapsed(%rip) /* halt_loop measures by itself */
	jne 1f
	cmpq late(%rip), %rax
	jbe 1f
	movq %rax, late(%rip)
1:	wr X2_EOI, 0
	popq %rbx
	popq %rdx
	popq %rcx
	popq %rax
	iretq

/* number in decimal, and a new line */
put_number:
	movq number(%rip), %rax
	leaq text_end(%rip), %rsi
	movl $10, %ecx
1:	xorl %edx, %edx
	divq %rcx
	addb $'0', %dl
	decq %rsi
	movb %dl, (%rsi)
	testq %rax, %rax
	jnz 1b
	jmp puts

	.data
	.balign 8
idtr:	.word 16 * 256 - 1
	.quad idt
	.ascii "                    "
text_end: .asciz "\r\n"
	.bss
	.balign 64
page:	.skip 64
idt:	.skip 16 * 256
khz:	.skip 8
hz:	.skip 8
number:	.skip 8
elapsed: .skip 8
last:	.skip 8
late:	.skip 8
fired:	.skip 8
pits:	.skip 8
rtcs:	.skip 8
timers:	.skip 8
pm:	.skip 8
kvm:	.skip 8

	.text
