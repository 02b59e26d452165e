/* registers.S - the second CPU does nothing but access one register after the other, thousands of times each,
 * while the first reads the disk.  Says after each register how many reads got through meanwhile; when all
 * are done, DONE, and it goes round again for ever.
 * Sources: SDM vol 3 "Multiple-Processor Initialization"; machine facts: chipset.h. */
#include "tiny.h"
#include "virtio.h"

#define APIC 0xfee00000
#define LOW 0x50000 /* where the second CPU starts */
#define TIMES 20000

main:
	movl $DISK, %ebx
	leaq ring(%rip), %rdi
	xorl %r8d, %r8d
	call queue_start
	leaq low(%rip), %rsi
	movl $LOW, %edi
	movl $low_end - low, %ecx
	rep movsb
	movl $APIC, %eax
	movl $0x1ff, 0xf0(%rax)
	movl $0xc4500, 0x300(%rax) /* INIT, then SIPI, to all others */
	movl $0xc4600 | LOW >> 12, 0x300(%rax)
	xorl %r12d, %r12d
round:	movl turn(%rip), %r13d
	xorl %r14d, %r14d
1:	call read
	incl %r14d
	cmpl turn(%rip), %r13d
	je 1b
	cmpl $(registers_end - registers) / 8, %r12d
	je 1b
	incl %r12d
	say "reads "
	call number
	say "\r\n"
	cmpl $(registers_end - registers) / 8, %r12d
	jne round
	say "DONE\r\n"
	jmp round

/* r14d, in decimal */
number:	movl %r14d, %eax
	movl $10, %ecx
	leaq digits + 11(%rip), %rsi
1:	xorl %edx, %edx
	divl %ecx
	addb $'0', %dl
	decq %rsi
	movb %dl, (%rsi)
	testl %eax, %eax
	jnz 1b
	jmp puts

read:	movl $DISK, %ebx
	leaq ring(%rip), %rdi
	descriptor 0, header(%rip), $16, NEXT
	descriptor 1, data(%rip), $512, NEXT | WRITE
	descriptor 2, status(%rip), $1, WRITE
	jmp queue_submit

/* --- the second CPU ---------------------------------------------------------------------------- */
	.code16
low:	cli
	movw %cs, %ax
	movw %ax, %ds
	lgdtl low_gdtr - low
	movl $1, %eax
	movl %eax, %cr0
	ljmpl $8, $LOW + low_32 - low
	.code32
low_32:	movw $16, %ax
	movw %ax, %ds
	movl $spin, %eax
	jmp *%eax
	.balign 8
low_gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
low_gdtr: .word low_gdtr - low_gdt - 1
	.long LOW + low_gdt - low
low_end:

/* A row is an address and how to access it. */
#define IN 0
#define OUT 1
#define LOAD 2
#define STORE 3
spin:	movl $registers, %esi
1:	movl (%esi), %ebx
	movl %ebx, %edx
	movl $TIMES, %ecx
	xorl %eax, %eax
2:	cmpl $OUT, 4(%esi)
	je 4f
	ja 5f
	inb %dx, %al
	jmp 3f
4:	outb %al, %dx
	jmp 3f
5:	cmpl $STORE, 4(%esi)
	je 6f
	movl (%ebx), %edi
	jmp 3f
6:	movl $0, (%ebx)
3:	decl %ecx
	jnz 2b
	incl turn
	addl $8, %esi
	cmpl $registers_end, %esi
	jb 1b
	jmp spin
	.code64

	.section .rodata
	.balign 8
registers: /* PIC, PIT, keyboard controller, RTC, serial, ELCR, PM, debug console, POST, PCI */
	.long 0x20, IN, 0x21, IN, 0xa1, IN, 0x40, IN, 0x43, OUT, 0x61, IN, 0x64, IN, 0x60, IN, 0x70, OUT, 0x71, IN
	.long 0x3fa, IN, 0x3fd, IN, 0x3fe, IN, 0x4d0, IN, 0x600, IN, 0x604, IN, 0x608, IN, 0x402, OUT, 0x80, OUT
	.long 0xcf8, OUT, 0xcf8, IN, 0xcfc, IN, 0x510, OUT, 0x511, IN, 0x1234, IN
	/* virtio: magic, status, notify of a queue that is empty, of none; APICs; nothing */
	.long DISK, LOAD, DISK + 0x60, LOAD, DISK + 0x50, STORE, RNG + 0x70, LOAD, RNG + 0x50, STORE, DISK + 0x100, LOAD
	.long 0xfec00000, STORE, 0xfec00010, LOAD, APIC + 0x20, LOAD, APIC + 0x390, LOAD, APIC + 0xb0, STORE
	.long 0xc0000000, LOAD, 0xd8000000, LOAD, 0xd8000000, STORE
registers_end:
	.data
digits:	.skip 11
	.byte 0
	.bss
	.balign 4096
ring:	.skip 4096
data:	.skip 4096
header:	.skip 16
status:	.skip 8
turn:	.skip 8
