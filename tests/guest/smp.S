/* smp.S - a second CPU, by INIT and SIPI, twice: with xAPICs and, if there are any, with x2APICs.  Interrupts between the two by
 * every kind of destination, NMIs, and time that runs on from one CPU to the other; last an INIT out of the blue.
 * Says what it has done; a step that fails hangs or is named.
 * Sources: SDM vol 3 "Multiple-Processor Initialization", "Issuing Interprocessor Interrupts". */
#include "tiny.h"
#include "second.h"

#define MSR_APIC_BASE 0x1b
#define X2 0x800 /* MSR of register 0; one each 16 bytes of the page */
#define X2_SELF 0x83f
#define EOI 0xb0
#define LDR 0xd0
#define DFR 0xe0
#define V_PING 0x40
#define V_PONG 0x41
#define V_CALL 0x42 /* as V_PING, but may come to both at once: no time in it */
#define V_NMI 2
#define LOGICAL (1 << 11)
#define NMI (4 << 8)
#define OTHERS (3 << 18)
#define ALL (2 << 18)
#define PINGS 1000

/* ICR of this CPU: edi = its low half, esi = the destination as an APIC ID or as a logical one. */
ipi:	pushq %rcx
	pushq %rax
	pushq %rdx
	cmpb $0, x2apic(%rip)
	jne 1f
	movl $APIC, %eax
	shll $24, %esi
	movl %esi, ICR_HIGH(%rax)
	movl %edi, ICR(%rax)
2:	testl $1 << 12, ICR(%rax)
	jnz 2b
	jmp 3f
1:	movl $X2 + ICR / 16, %ecx
	movl %edi, %eax
	movl %esi, %edx
	wrmsr
3:	popq %rdx
	popq %rax
	popq %rcx
	ret

.macro send what, to=0
	movl $\what, %edi
	movl $\to, %esi
	call ipi
.endm

/* This CPU's local APIC, on; rax: its logical ID for xAPICs. */
apic_on:
	pushq %rax
	movl $MSR_APIC_BASE, %ecx
	rdmsr
	orl $0x800, %eax
	cmpb $0, x2apic(%rip)
	je 1f
	orl $0x400, %eax
	wrmsr
	wr X2 + SVR / 16, 0x1ff
	popq %rax
	ret
1:	wrmsr
	popq %rax
	movl $APIC, %ecx
	shll $24, %eax
	movl $-1, DFR(%rcx)
	movl %eax, LDR(%rcx)
	movl $0x1ff, SVR(%rcx)
	ret

.macro eoi
	cmpb $0, x2apic(%rip)
	jne 77f
	movl $APIC, %eax
	movl $0, EOI(%rax)
	jmp 78f
77:	wr X2 + EOI / 16, 0
78:
.endm

/* Wait, asleep, until the variable is what it shall be. */
.macro sleep_until var, n
77:	cli
	cmpl \n, \var(%rip)
	je 78f
	sti
	hlt
	jmp 77b
78:	sti
.endm

/* Wait, awake: the other CPU does not call. */
.macro spin_until var, n
77:	pause
	cmpl \n, \var(%rip)
	jne 77b
.endm

main:
	lidt idtr(%rip)
	gate V_PING, on_ping
	gate V_PONG, on_pong
	gate V_CALL, on_call
	gate V_NMI, on_nmi
	put_start
	call round
	say "xapic done\r\n"
	movl $1, %eax
	cpuid
	testl $1 << 21, %ecx
	jz power_off
	movb $1, x2apic(%rip)
	call round
	say "x2apic done\r\n"
	jmp power_off

/* All of it, in one mode. */
round:	xorl %r15d, %r15d /* the CPU's number */
	movl $1, %eax
	call apic_on
	xorl %eax, %eax
	movl %eax, ups(%rip)
	movl %eax, pings(%rip)
	movl %eax, pongs(%rip)
	movl %eax, nmis(%rip)
	send INIT, 1
	send START_UP | LOW >> 12, 1
	spin_until ups, $1

	/* each ping is answered; no TSC is behind the other */
	movl $0, %ebx
1:	tsc %rax
	movq %rax, sent(%rip)
	incl %ebx
	send V_PING, 1
	sleep_until pongs, %ebx
	tsc %rax
	cmpq %rax, sent(%rip)
	ja bad_tsc
	cmpl $PINGS, %ebx
	jb 1b

	send V_PING | LOGICAL, 2
	sleep_until pongs, $PINGS + 1
	send V_PING | OTHERS
	sleep_until pongs, $PINGS + 2
	send V_CALL | ALL /* itself too */
	spin_until pings, $PINGS + 4
	sleep_until pongs, $PINGS + 3
	cmpb $0, x2apic(%rip)
	je 1f
	wr X2_SELF, V_PONG
	jmp 2f
1:	send V_PONG | 1 << 18
2:	sleep_until pongs, $PINGS + 4
	send NMI, 1
	spin_until nmis, $1

	/* INIT takes the other from whatever it does; a second SIPI does not start it again */
	send INIT, 1
	send START_UP | LOW >> 12, 1
	send START_UP | LOW >> 12, 1
	spin_until ups, $2
	send V_PING, 1
	sleep_until pongs, $PINGS + 5
	cmpl $2, ups(%rip)
	jne bad_count
	cli
	ret

bad_tsc:
	say "a TSC is behind\r\n"
	jmp power_off
bad_count:
	say "wrong number\r\n"
	jmp power_off

/* CPU 0 gets an answer to every ping but its own: two answers at a time could become one request. */
on_ping:
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rsi
	pushq %rdi
	tsc %rax
	cmpq %rax, sent(%rip)
	ja bad_tsc
	movq %rax, sent(%rip)
answer:	lock incl pings(%rip)
	eoi
	testl %r15d, %r15d
	jz 1f
	send V_PONG
1:	popq %rdi
	popq %rsi
	popq %rdx
	popq %rcx
	popq %rax
	iretq

on_call:
	pushq %rax
	pushq %rcx
	pushq %rdx
	pushq %rsi
	pushq %rdi
	jmp answer

on_pong:
	pushq %rax
	pushq %rcx
	pushq %rdx
	incl pongs(%rip)
	eoi
	popq %rdx
	popq %rcx
	popq %rax
	iretq

on_nmi:
	incl nmis(%rip)
	iretq

/* The second CPU, from here on in long mode. */
second:
	movw $CODE + 8, %ax
	movw %ax, %ss
	leaq second_stack(%rip), %rsp
	lidt idtr(%rip)
	movl $1, %r15d
	movl $2, %eax
	call apic_on
	lock incl ups(%rip)
	sti
1:	hlt
	jmp 1b

	.data
	.balign 8
idtr:	.word 16 * 256 - 1
	.quad idt
	.bss
	.balign 64
idt:	.skip 16 * 256
sent:	.skip 8
ups:	.skip 4
pings:	.skip 4
pongs:	.skip 4
nmis:	.skip 4
x2apic:	.skip 1
	.balign 16
	.skip 4096
second_stack:
