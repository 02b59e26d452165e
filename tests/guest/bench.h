/* bench.h - entry of the guests that `make bench` runs in mvm and in QEMU alike: a PVH note, which
 * QEMU needs, and the way from its 32-bit entry to long mode with the low 4 GiB identity-mapped.
 * Source: xen/include/public/arch-x86/hvm/start_info.h; SDM vol 3 "Initializing IA-32e Mode". */

	.pushsection .note.pvh, "a", @note
	.long 4, 4, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long pvh_entry
	.popsection

	.pushsection .data
	.balign 4096
bench_pml4:
	.quad bench_pdpt + 3
	.balign 4096
bench_pdpt:
	.quad 0x00000083, 0x40000083, 0x80000083, 0xc0000083 /* 1 GiB pages */
	.balign 4096
bench_gdt:
	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
bench_gdtr:
	.word 23
	.long bench_gdt
	.popsection

	.code32
pvh_entry:
	cli
	lgdt bench_gdtr
	movl $0x20, %eax /* CR4.PAE */
	movl %eax, %cr4
	movl $bench_pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax /* EFER.LME */
	wrmsr
	movl $0x80000011, %eax /* PG, ET, PE */
	movl %eax, %cr0
	ljmp $8, $bench_64
	.code64
bench_64:
	movl $16, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	jmp _start
