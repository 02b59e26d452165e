/* stub.c - the few BIOS calls that real-mode Linux set-up code makes, and what else a PC's firmware
 * leaves behind: interrupt vectors, BIOS data area, a reset vector.  Everything not listed fails
 * with carry set, which set-up code takes for "not there".
 * Sources: Ralf Brown's Interrupt List (int 10h, 12h, 13h, 15h, 16h); Linux
 * arch/x86/boot/{memory,tty, video,edd}.c for what is called; IBM AT Technical Reference, BIOS data
 * area. */
#include "parts.h"

/* Offsets are from the stub's start, where CS points. */
__asm__(
"	.pushsection .rodata.boot_stub, \"a\", @progbits\n"
"	.code16\n"
"	.globl boot_stub, boot_stub_map, boot_stub_count, boot_stub_e801, boot_stub_vec\n"
"	.hidden boot_stub, boot_stub_map, boot_stub_count, boot_stub_e801, boot_stub_vec\n"
"	.globl boot_stub_end\n"
"	.hidden boot_stub_end\n"
"boot_stub:\n"

"int10:	cmp $0x0e, %ah\n"          /* teletype output, to COM1 */
"	jne 1f\n"
"	push %dx\n"
"	mov $0x3f8, %dx\n"
"	out %al, %dx\n"
"	pop %dx\n"
"	iret\n"
"1:	cmp $0x0f, %ah\n"          /* video mode: 3, page 0; the BDA says 0 columns: no display */
"	jne 2f\n"
"	mov $0x5003, %ax\n"
"	xor %bh, %bh\n"
"2:	iret\n"

"int12:	mov $639, %ax\n"           /* base memory in KiB */
"	iret\n"

"int15:	cmp $0xe820, %ax\n"
"	je e820\n"
"	cmp $0xe801, %ax\n"
"	je e801\n"
"	cmp $0x88, %ah\n"          /* KiB above 1 MiB, up to 15 MiB as the call's users expect */
"	jne fail\n"
"	mov %cs:boot_stub_e801 - boot_stub, %ax\n"
"good:	push %bp\n"
"	mov %sp, %bp\n"
"	andb $0xfe, 6(%bp)\n"      /* carry in the flags that IRET restores */
"	pop %bp\n"
"	iret\n"

"e801:	mov %cs:boot_stub_e801 - boot_stub, %ax\n"     /* KiB from 1 to 16 MiB */
"	mov %cs:boot_stub_e801 - boot_stub + 2, %bx\n" /* 64 KiB units above */
"	mov %ax, %cx\n"
"	mov %bx, %dx\n"
"	jmp good\n"

"e820:	cmp $0x534d4150, %edx\n"   /* "SMAP" */
"	jne fail\n"
"	cmp %cs:boot_stub_count - boot_stub, %ebx\n"
"	jae fail\n"
"	push %ds\n"
"	push %si\n"
"	push %di\n"
"	push %cs\n"
"	pop %ds\n"
"	imul $20, %bx, %si\n"
"	add $boot_stub_map - boot_stub, %si\n"
"	mov $10, %cx\n"
"	cld\n"
"	rep movsw\n"
"	pop %di\n"
"	pop %si\n"
"	pop %ds\n"
"	inc %ebx\n"                /* the next row, or 0 after the last */
"	cmp %cs:boot_stub_count - boot_stub, %ebx\n"
"	jb 1f\n"
"	xor %ebx, %ebx\n"
"1:	mov %edx, %eax\n"
"	mov $20, %ecx\n"
"	jmp good\n"

"int16:	cmp $1, %ah\n"             /* is a key waiting?  Never: ZF */
"	jne 1f\n"
"	push %bp\n"
"	mov %sp, %bp\n"
"	orb $0x40, 6(%bp)\n"
"	pop %bp\n"
"1:	xor %ax, %ax\n"            /* nor is any shift key down */
"	iret\n"

"fail:	mov $0x86, %ah\n"          /* unsupported function */
"	push %bp\n"
"	mov %sp, %bp\n"
"	orb $1, 6(%bp)\n"
"	pop %bp\n"
"	iret\n"

"irq_slave:\n"                      /* a stray interrupt: acknowledge it */
"	push %ax\n"
"	mov $0x20, %al\n"
"	out %al, $0xa0\n"
"	jmp 1f\n"
"irq_master:\n"
"	push %ax\n"
"	mov $0x20, %al\n"
"1:	out %al, $0x20\n"
"	pop %ax\n"
"	iret\n"

"	.balign 4\n"
"boot_stub_vec:\n"                  /* as enum vec */
"	.word int10 - boot_stub, int12 - boot_stub, int15 - boot_stub, int16 - boot_stub\n"
"	.word fail - boot_stub, irq_master - boot_stub, irq_slave - boot_stub\n"
"	.balign 4\n"
"boot_stub_e801:\n"
"	.word 0, 0\n"
"boot_stub_count:\n"
"	.long 0\n"
"boot_stub_map:\n"
"	.skip 20 * 16\n"
"boot_stub_end:\n"
"	.code64\n"
"	.popsection\n");

extern const u8 boot_stub[], boot_stub_end[], boot_stub_map[], boot_stub_count[], boot_stub_e801[];
extern const u8 boot_stub_vec[];
_Static_assert(E820_MAX == 16, "boot_stub_map has room for 16 rows");

enum vec { VEC_INT10, VEC_INT12, VEC_INT15, VEC_INT16, VEC_FAIL, VEC_IRQ_MASTER, VEC_IRQ_SLAVE };

/* mov $6, %al; mov $0xcf9, %dx; out %al, %dx; 1: hlt; jmp 1b - a jump to FFFF:0 resets the machine.
 */
static const u8 reset_code[] = { 0xb0, 0x06, 0xba, 0xf9, 0x0c, 0xee, 0xf4, 0xeb, 0xfd };
enum { RESET_VECTOR = 0xffff0 };

static enum vec handler_of(unsigned vector)
{
	switch (vector) {
	case 0x08 ... 0x0f: return VEC_IRQ_MASTER;
	case 0x70 ... 0x77: return VEC_IRQ_SLAVE;
	case 0x10: return VEC_INT10;
	case 0x12: return VEC_INT12;
	case 0x15: return VEC_INT15;
	case 0x16: return VEC_INT16;
	default: return VEC_FAIL;
	}
}

static void put_vectors(struct loader *l)
{
	u8 ivt[256 * 4];

	for (unsigned i = 0; i < 256; i++) {
		st16(ivt + 4 * i, ld16(boot_stub_vec + 2 * handler_of(i)));
		st16(ivt + 4 * i + 2, LOW_STUB >> 4);
	}
	boot_put(l, 0, ivt, sizeof ivt);
}

static void put_bda(struct loader *l)
{
	u8 bda[256] = { 0 };

	if (l->c->serial_ports)
		st16(bda, 0x3f8);
	st16(bda + 0x0e, LOW_EBDA >> 4);
	st16(bda + 0x10, 0x0002);              /* equipment: an FPU, no floppy, no display */
	st16(bda + 0x13, LOW_RAM_END / 1024);
	boot_put(l, LOW_BDA, bda, sizeof bda); /* 0x4a, columns, stays 0 */
	boot_put(l, LOW_EBDA, (u8[]){ 1 }, 1); /* its own size in KiB */
}

/* Where a label of the stub lies in it. */
static size_t stub_off(const u8 *label)
{
	return (uintptr_t)label - (uintptr_t)boot_stub;
}

static void put_memory_sizes(struct loader *l, u8 *stub)
{
	u64 below16 = MIN(l->low_top, 16 * MIB) - MIB;
	u64 above16 = l->low_top - MIN(l->low_top, 16 * MIB);

	st16(stub + stub_off(boot_stub_e801), (u16)(below16 / KIB));
	st16(stub + stub_off(boot_stub_e801) + 2, (u16)(above16 / (64 * KIB)));
	st32(stub + stub_off(boot_stub_count), l->map.n);
	for (u32 i = 0; i < l->map.n; i++) {
		u8 *row = stub + stub_off(boot_stub_map) + 20 * i;

		st64(row, l->map.entry[i].addr);
		st64(row + 8, l->map.entry[i].len);
		st32(row + 16, l->map.entry[i].type);
	}
}

void stub_put(struct loader *l)
{
	u8 stub[1024];
	size_t len = stub_off(boot_stub_end);

	ASSERT(len <= sizeof stub);
	memcpy(stub, boot_stub, len);
	put_memory_sizes(l, stub);
	boot_put(l, LOW_STUB, stub, len);
	put_vectors(l);
	put_bda(l);
	boot_put(l, RESET_VECTOR, reset_code, sizeof reset_code);
}
