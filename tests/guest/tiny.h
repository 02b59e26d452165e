/* tiny.h - the bare guests of the end-to-end tests: ELF64 programs entered by Linux's 64-bit boot
 * protocol (long mode, identity mapping, interrupts off).  Each prints on COM1 by polling.
 * Ports are machine facts: chipset.h. */

#define COM1 0x3f8
#define COM1_LSR 0x3fd
#define DEBUG_EXIT 0xf4
#define PM1_CNT 0x604
#define PM1_S5 0x3400 /* SLP_TYP 5, SLP_EN */

#define CODE 0x10 /* the boot protocol's code segment */

.macro wr msr, lo, hi=0
	movl $\msr, %ecx
	movl $\lo, %eax
	movl $\hi, %edx
	wrmsr
.endm

.macro tsc reg
	rdtsc
	shlq $32, %rdx
	leaq (%rdx, %rax), \reg
.endm

/* An interrupt gate of ring 0 in the guest's table idt. */
.macro gate vector, handler
	leaq \handler(%rip), %rax
	leaq idt + 16 * \vector(%rip), %rdi
	movw %ax, (%rdi)
	movw $CODE, 2(%rdi)
	movw $0x8e00, 4(%rdi)
	shrq $16, %rax
	movw %ax, 6(%rdi)
.endm

	.section .bss
	.balign 16
	.skip 4096
stack_top:
	.text
	.globl _start
_start:
	leaq stack_top(%rip), %rsp
	jmp main

/* al: the character to send; keeps all registers */
putc:
	pushq %rax
	pushq %rdx
	movw $COM1_LSR, %dx
1:	inb %dx, %al
	testb $0x20, %al /* THR empty */
	jz 1b
	movq 8(%rsp), %rax
	movw $COM1, %dx
	outb %al, %dx
	popq %rdx
	popq %rax
	ret

/* rsi: text ending in NUL */
puts:
	lodsb
	testb %al, %al
	jz 2f
	call putc
	jmp puts
2:	ret

/* al: the character received; waits for one */
getc:
	movw $COM1_LSR, %dx
1:	inb %dx, %al
	testb $1, %al
	jz 1b
	movw $COM1, %dx
	inb %dx, %al
	ret

power_off:
	movw $PM1_CNT, %dx
	movw $PM1_S5, %ax
	outw %ax, %dx
halt_off:
	cli
	hlt
	jmp halt_off

.macro say text
	.pushsection .rodata
77:	.asciz "\text"
	.popsection
	leaq 77b(%rip), %rsi
	call puts
.endm
