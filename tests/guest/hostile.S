/* hostile.S - a guest that does what no guest should: every port and device register with every size
 * and odd values, every MSR, BARs on top of everything, storms of interrupts, a repeated store to a
 * device that would take years.  Leaves through isa-debug-exit with 0 when it has survived, else with
 * the number of the stage. */
#include "tiny.h"

#define MSR_APIC_BASE 0x1b
#define LAPIC 0xfee00000
#define IOAPIC 0xfec00000
#define TICK 0x40
#define SPURIOUS 0xff

.macro stage number, text
	movb $\number, at_stage(%rip)
	say "\text\r\n"
.endm

main:
	call build_idt
	stage 1, "ports"
	call ports
	stage 2, "memory"
	call memory
	stage 3, "model-specific registers"
	call msrs
	stage 4, "base addresses"
	call bars
	call memory
	stage 5, "interrupts"
	call storm
	stage 6, "port 80h"
	movl $1000000, %ecx
	movb $0x55, %al
1:	outb %al, $0x80
	decl %ecx
	jnz 1b
	stage 7, "a long store"
	call long_store
	stage 0, "survived"
leave:
	movb at_stage(%rip), %al
	outb %al, $DEBUG_EXIT
	jmp halt_off

/* --- exceptions and interrupts ---------------------------------------------------------------- */
/* 256 gates, each to its own stub of 16 bytes, which pushes its vector. */
build_idt:
	leaq stubs(%rip), %rax
	leaq idt(%rip), %rdi
	movl $256, %ecx
1:	movw %ax, (%rdi)
	movw $CODE, 2(%rdi)
	movw $0x8e00, 4(%rdi)
	movq %rax, %rdx
	shrq $16, %rdx
	movw %dx, 6(%rdi)
	addq $16, %rdi
	addq $16, %rax
	decl %ecx
	jnz 1b
	lidt idtr(%rip)
	ret

	.balign 16
stubs:
	.set v, 0
	.rept 256
	.balign 16
	.if (v == 8) || (v >= 10 && v <= 14) || (v == 17) || (v == 21) || (v == 29) || (v == 30)
	addq $8, %rsp
	.endif
	pushq $v
	jmp common
	.set v, v + 1
	.endr

/* An exception goes on at r15.  Of the interrupts every other one is acknowledged; in the last stage
 * all are, and end a repeated instruction. */
common:
	cmpq $32, (%rsp)
	jb 1f
	addq $8, %rsp
	incq interrupts(%rip)
	cmpl $0, cut(%rip)
	je 2f
	movl $1, %ecx
	jmp 4f
2:	testb $1, interrupts(%rip)
	jz 3f
4:
	pushq %rax
	movl $LAPIC, %eax
	movl $0, 0xb0(%rax)
	movb $0x20, %al
	outb %al, $0x20
	outb %al, $0xa0
	popq %rax
3:	iretq
1:	addq $8, %rsp
	testq %r15, %r15
	jz leave
	movq %r15, (%rsp)
	iretq

/* --- ports ------------------------------------------------------------------------------------ */
/* ebx: port.  CF set if an access of four bytes there could end the machine, or this text. */
port_deadly:
	leaq deadly(%rip), %rsi
1:	movzwl (%rsi), %eax
	movzwl 2(%rsi), %edx
	addq $4, %rsi
	testl %edx, %edx
	jz 2f
	cmpl %edx, %ebx /* port >= end */
	jae 1b
	addl $3, %ebx
	cmpl %eax, %ebx /* port + 3 < start */
	leal -3(%ebx), %ebx
	jb 1b
	stc
	ret
2:	clc
	ret

ports:
	xorl %ebx, %ebx
1:	call port_deadly
	jc 2f
	movl %ebx, %edx
	inb %dx, %al
	inw %dx, %ax
	inl %dx, %eax
	.irp value, 0, 0x55555555, 0xffffffff
	movl $\value, %eax
	outb %al, %dx
	outw %ax, %dx
	outl %eax, %dx
	.endr
2:	incl %ebx
	cmpl $0x10000, %ebx
	jb 1b
	ret

/* --- memory ----------------------------------------------------------------------------------- */
/* One access to each page from 3 GiB on; all of a page where a device is. */
memory:
	movl $0xc0000000, %ebx
1:	cmpl $LAPIC, %ebx
	je 2f
	movq (%rbx), %rax
	movl $-1, 0x70(%rbx)
2:	addl $0x1000, %ebx
	jnz 1b
	leaq windows(%rip), %rsi
3:	lodsl
	testl %eax, %eax
	jz 5f
	movl %eax, %ebx
	xorl %ecx, %ecx
4:	.irp value, 0, 0x5555555555555555, -1
	movq $\value, %rax
	movb %al, (%rbx,%rcx)
	movw %ax, (%rbx,%rcx)
	movl %eax, (%rbx,%rcx)
	movq %rax, (%rbx,%rcx)
	.endr
	movb (%rbx,%rcx), %al
	movw (%rbx,%rcx), %ax
	movl (%rbx,%rcx), %eax
	movq (%rbx,%rcx), %rax
	lock xaddl %eax, (%rbx,%rcx)
	incl %ecx
	cmpl $0x1000, %ecx
	jb 4b
	jmp 3b
	/* The local APIC, but for the registers that send. */
5:	movl $LAPIC, %ebx
	xorl %ecx, %ecx
6:	movl %ecx, %eax
	andl $0xfe0, %eax
	cmpl $0x300, %eax
	je 7f
	movl (%rbx,%rcx), %eax
	movq (%rbx,%rcx), %rax
	movb $-1, (%rbx,%rcx)
	movl $-1, (%rbx,%rcx)
	movl $0, (%rbx,%rcx)
7:	incl %ecx
	cmpl $0x1000 - 8, %ecx
	jb 6b
	ret

/* --- model-specific registers ----------------------------------------------------------------- */
msrs:
	leaq 3f(%rip), %r15
	xorl %ebx, %ebx
1:	movl %ebx, %ecx
	rdmsr
	.irp value, 0xffffffff, 0x55555555
	leaq 77f(%rip), %r15
	movl %ebx, %ecx
	movl $\value, %eax
	movl %eax, %edx
	wrmsr
77:
	.endr
3:	leaq 3b(%rip), %r15
	incl %ebx
	movl %ebx, %eax
	andl $0x3fffffff, %eax
	cmpl $0x1000, %eax
	jb 1b
	testl %ebx, %ebx
	movl $0xc0000000, %ebx
	jns 1b
	xorl %r15d, %r15d
	ret

/* --- base addresses --------------------------------------------------------------------------- */
/* Every BAR of every slot of bus 0 at each of these places, decoding on. */
bars:
	leaq places(%rip), %rdi
1:	cmpl $1, (%rdi)
	je 4f
	xorl %ebx, %ebx /* slot, BAR */
2:	movl %ebx, %ecx
	shll $8, %ecx
	andl $0xf800, %ecx
	movl %ebx, %eax
	andl $7, %eax
	leal 0x80000004(%rcx,%rax,4), %eax /* BAR n is at 10h + 4n; 04h is the command */
	testb $7, %bl
	jz 3f
	addl $8, %eax
3:	movw $0xcf8, %dx
	outl %eax, %dx
	movw $0xcfc, %dx
	movl (%rdi), %eax
	testb $7, %bl
	jnz 5f
	movl $7, %eax
5:	outl %eax, %dx
	inl %dx, %eax
	incl %ebx
	cmpl $256, %ebx
	jb 2b
	addq $4, %rdi
	jmp 1b
4:	ret

/* --- interrupts ------------------------------------------------------------------------------- */
storm:
	movl $LAPIC, %ebx
	movl $0x1ff, 0xf0(%rbx)
	movl $0, 0x80(%rbx)
	movl $TICK, 0x320(%rbx)
	orl $0x20000, 0x320(%rbx) /* periodic */
	movl $0xb, 0x3e0(%rbx)
	movl $1, 0x380(%rbx) /* every nanosecond */
	movl $IOAPIC, %edi
	movl $0x10, %ecx
1:	movl %ecx, (%rdi) /* all pins: level, active low, vector by number */
	leal 0xa020(%rcx), %eax
	movl %eax, 0x10(%rdi)
	incl %ecx
	cmpl $0x40, %ecx
	jb 1b
	movb $0x34, %al
	outb %al, $0x43
	movb $2, %al
	outb %al, $0x40
	movb $0, %al
	outb %al, $0x40
	sti
	movl $2000, %ecx
2:	movl $0x4041, 0x300(%rbx) /* to ourselves, by number */
	movl $0xc4051, 0x300(%rbx) /* to all others */
	movl $0x77000000, 0x310(%rbx)
	movl $0x0000, 0x300(%rbx) /* an illegal vector, to nobody */
	movl $0x44ff1, %eax
	movl %eax, 0x300(%rbx)
	movl $0, 0xb0(%rbx)
	pause
	decl %ecx
	jnz 2b
	cli
	cmpq $0, interrupts(%rip)
	je leave
	movl $0x10000, 0x320(%rbx)
	ret

/* --- a long store ----------------------------------------------------------------------------- */
/* Years of stores to a device, and of reads from a port; an interrupt cuts each short. */
.macro cut_short insn:vararg
	movl $10000000, 0x380(%rbx)
	movl $1, %ecx
	shlq $40, %rcx
	sti
	\insn
	cli
.endm

long_store:
	movl $IOAPIC, %edi
	movl $0x10, %ecx
1:	movl %ecx, (%rdi)
	movl $0x10000, 0x10(%rdi)
	incl %ecx
	cmpl $0x40, %ecx
	jb 1b
	movl $LAPIC, %ebx
	movl $300, %ecx
2:	movl $0, 0xb0(%rbx)
	decl %ecx
	jnz 2b
	movl $1, cut(%rip)
	movl $TICK, 0x320(%rbx)
	movl $IOAPIC + 0x20, %edi
	cut_short rep stosb
	leaq long_store(%rip), %rsi
	movw $0x80, %dx
	cut_short rep outsb
	ret

	.section .rodata
deadly:	/* from, to: keyboard controller, port A, debug exit, PCI address and reset, power, this text */
	.word 0x64, 0x65, 0x92, 0x93, 0xf4, 0xf8, 0x501, 0x502, 0xcf8, 0xcfc, 0x600, 0x610
	.word 0x3f8, 0x400, 0, 0
windows: /* virtio slots, IOAPIC, PCI's BARs, ECAM */
	.long 0xc0001000, 0xc0002000, IOAPIC, 0xd0000000, 0xd0004000, 0xd0008000, 0xc8008000, 0
places:
	.long 0, 0x100000, 0xd0000000, 0xc8000000, 0xfebff000, IOAPIC, LAPIC, 0xfffff000, 0xffffffff, 4
	.long 0xd0000004, 1
	.data
idtr:	.word 256 * 16 - 1
	.quad idt
	.bss
	.balign 16
idt:	.skip 256 * 16
interrupts: .skip 8
cut:	.skip 4
at_stage: .skip 1
