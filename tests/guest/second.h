/* second.h - a second CPU's way from SIPI to `second` in long mode, with the first one's page tables;
 * what it finds there is in CODE + 8.  Source: SDM vol 3 "Multiple-Processor Initialization". */

#define APIC 0xfee00000
#define SVR 0xf0
#define ICR 0x300
#define ICR_HIGH 0x310
#define INIT (0x45 << 8)
#define START_UP (0x46 << 8)
#define LOW 0x50000 /* where it starts */

.macro put_start
	leaq start(%rip), %rsi
	movl $LOW, %edi
	movl $start_end - start, %ecx
	rep movsb
	movq %cr3, %rax
	movl %eax, LOW + start_cr3 - start
.endm

/* Copied to LOW: from real mode to long mode in one go. */
	.code16
start:	cli
	movw %cs, %ax
	movw %ax, %ds
	lgdtl start_gdtr - start
	movl $0x20, %eax /* CR4.PAE */
	movl %eax, %cr4
	movl start_cr3 - start, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax /* EFER.LME */
	wrmsr
	movl $0x80000011, %eax /* PG, ET, PE */
	movl %eax, %cr0
	ljmpl $CODE, $second
start_gdtr:
	.word 31
	.long LOW + start_gdt - start
start_cr3: .long 0
	.balign 8
start_gdt:
	.quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
start_end:
	.code64
