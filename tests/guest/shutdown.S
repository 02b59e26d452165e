/* shutdown.S - ways to lose the processor: each ends in a triple fault.  The character typed chooses. */
#include "tiny.h"

#define NOWHERE 0xfffffffff000 /* above RAM and devices, inside 52 bits or not */
#define IOAPIC 0xfec00000

.macro when letter, label
	cmpb $\letter, %al
	je \label
.endm

main:
	say "READY\r\n"
	call getc
	when 'a', no_tables
	when 'b', tables_in_a_device
	when 'c', idt_nowhere
	when 'd', idt_in_a_device
	when 'e', stack_nowhere
	when 'f', ist_without_tss
	when 'g', gate_to_itself
	when 'h', compatibility_mode
	jmp halt_off

no_tables:
	movabsq $NOWHERE, %rax
	movq %rax, %cr3
	ud2

tables_in_a_device:
	movl $IOAPIC, %eax
	movq %rax, %cr3
	ud2

idt_nowhere:
	lidt at_nowhere(%rip)
	ud2

idt_in_a_device:
	lidt at_ioapic(%rip)
	int3

stack_nowhere:
	call build_idt
	movabsq $0x8000000000000000, %rsp
	pushq %rax

ist_without_tss:
	call build_idt
	movb $7, idt + 6 * 16 + 4(%rip)
	movb $7, idt + 8 * 16 + 4(%rip)
	movb $7, idt + 10 * 16 + 4(%rip)
	movb $7, idt + 13 * 16 + 4(%rip)
	movb $7, idt + 14 * 16 + 4(%rip)
	ud2

	/* The handler of a fault faults, until the stack has left RAM. */
gate_to_itself:
	call build_idt
	leaq 1f(%rip), %rsp
1:	ud2

	/* 32-bit code with a 64-bit IDT that is not there. */
compatibility_mode:
	lgdt gdtr(%rip)
	lidt at_nowhere(%rip)
	pushq $8
	leaq 1f(%rip), %rax
	pushq %rax
	lretq
	.code32
1:	int $0x80
	.code64

build_idt:
	leaq handler(%rip), %rax
	leaq idt(%rip), %rdi
	movl $32, %ecx
1:	movw %ax, (%rdi)
	movw $0x10, 2(%rdi)
	movw $0x8e00, 4(%rdi)
	movq %rax, %rdx
	shrq $16, %rdx
	movw %dx, 6(%rdi)
	addq $16, %rdi
	decl %ecx
	jnz 1b
	lidt idtr(%rip)
	ret
handler:
	movq $0x1000, %rsp /* down to 0 and below in a few thousand faults */
	xorl %ebp, %ebp
2:	subq $4096, %rsp
	ud2

	.data
at_nowhere: .word 0xfff
	.quad NOWHERE
at_ioapic: .word 0xfff
	.quad IOAPIC
idtr:	.word 32 * 16 - 1
	.quad idt
gdt:	.quad 0, 0x00cf9b000000ffff, 0x00af9b000000ffff
gdtr:	.word 3 * 8 - 1
	.quad gdt
	.bss
	.balign 16
idt:	.skip 32 * 16
