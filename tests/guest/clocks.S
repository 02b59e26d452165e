/* clocks.S - counts the interrupts of PIT, RTC and local APIC timer over seconds of TSC, in a loop that computes
 * and in one that halts, and reads PM timer and kvmclock beside them.  Prints one line "NAME VALUE" for each. */
#include "clocks.h"

#define BUSY_S 10
#define HALT_S 3

main:
	call set_up_clocks
	show "khz", khz

	/* --- busy: nothing but arithmetic, ten million steps between two looks at the TSC */
	say "begin\r\n"
	call read_clocks
	movq pm(%rip), %r8
	movq kvm(%rip), %r9
	imulq $BUSY_S, hz(%rip), %r10
	tsc %r14
	movq %r14, last(%rip)
	addq %r14, %r10
	sti
1:	movl $10000000, %ecx
2:	decl %ecx
	jnz 2b
	tsc %rbx
	cmpq %r10, %rbx
	jb 1b
	cli
	subq %r14, %rbx
	movq %rbx, elapsed(%rip)
	call read_clocks
	subl %r8d, pm(%rip) /* it has 32 bits */
	subq %r9, kvm(%rip)
	say "end\r\n"
	show "busy_tsc", elapsed
	show "busy_pit", pits
	show "busy_rtc", rtcs
	show "busy_periodic", timers
	show "busy_late", late
	show "busy_pm", pm
	show "busy_kvmclock", kvm

	/* --- halted: deadlines a millisecond apart, by TSC and by one-shot counts */
	out 0x21, 0xff
	out 0xa1, 0xff
	wr X2_LVT_TIMER, V_TIMER | 2 << 17
	leaq arm_deadline(%rip), %r15
	call halt_loop
	show "deadline_tsc", elapsed
	show "deadline_ticks", timers
	show "deadline_late", late
	wr X2_LVT_TIMER, V_TIMER
	leaq arm_one_shot(%rip), %r15
	call halt_loop
	show "oneshot_tsc", elapsed
	show "oneshot_ticks", timers
	show "oneshot_late", late
	say "done\r\n"
	jmp power_off

/* HALT_S seconds of sleep between interrupts that are due a millisecond apart; *r15 arms the next, for r12. */
halt_loop:
	movq $0, timers(%rip)
	movq $0, late(%rip)
	imulq $HALT_S, hz(%rip), %r10
	tsc %r12
	movq %r12, %r14
	addq %r12, %r10
1:	addq khz(%rip), %r12
	cmpq %r10, %r12
	ja 3f
	movq $0, fired(%rip)
	call *%r15
2:	sti
	hlt
	cli
	cmpq $0, fired(%rip)
	je 2b
	tsc %rbx
	subq %r12, %rbx
	cmpq late(%rip), %rbx
	jle 1b
	movq %rbx, late(%rip)
	jmp 1b
3:	tsc %rbx
	subq %r14, %rbx
	movq %rbx, elapsed(%rip)
	ret

arm_deadline:
	movl $MSR_DEADLINE, %ecx
	movl %r12d, %eax
	movq %r12, %rdx
	shrq $32, %rdx
	wrmsr
	ret

/* What is left until r12, in nanoseconds; at least one. */
arm_one_shot:
	tsc %rbx
	movq %r12, %rax
	subq %rbx, %rax
	ja 1f
	movl $1, %eax
1:	imulq $1000000, %rax, %rax
	xorl %edx, %edx
	divq khz(%rip)
	orl $1, %eax
	movl $X2_INITIAL, %ecx
	xorl %edx, %edx
	wrmsr
	ret
