/* entry.c - the boot vCPU's registers and the tables they point to, for each way to enter a kernel.
 * Sources: Linux Documentation/x86/boot.rst "32-bit Boot Protocol", "64-bit Boot Protocol"; PVH
 * (Xen docs/misc/pvh.pandoc) "Start-of-day"; SDM vol 3 "4-Level Paging". */
#include "parts.h"

enum { SEL_CODE = 0x10, SEL_DATA = 0x18 }; /* __BOOT_CS, __BOOT_DS */
enum { PTE_P = 1, PTE_W = 2, PTE_PS = 0x80 };
enum { CR0_PE = 1, CR0_ET = 0x10, CR4_PAE = 0x20, EFER_LME = 0x100, EFER_LMA = 0x400 };
#define CR0_PG 0x80000000u
enum { PAGE_DIRS = 4 }; /* of 1 GiB each: all that loaders use lies below 4 GiB */

#define ATTR_CODE (ATTR_P | ATTR_S | ATTR_G | 0xb) /* execute/read, accessed */
#define ATTR_DATA (ATTR_P | ATTR_S | ATTR_G | ATTR_DB | 3) /* read/write, accessed */

/* A flat 4 GiB descriptor; attr's layout is the descriptor's own, moved down by 8. */
static u64 flat_descriptor(u32 attr)
{
	return (u64)attr << 40 | 0x000f00000000ffffull;
}

static void load_flat_segments(struct loader *l, u32 code_attr)
{
	u64 gdt[4] = { 0, 0, flat_descriptor(code_attr), flat_descriptor(ATTR_DATA) };
	struct cpu_state *s = l->bsp;

	boot_put(l, LOW_GDT, gdt, sizeof gdt);
	s->gdt = (struct table_reg){ LOW_GDT, sizeof gdt - 1 };
	s->idt = (struct table_reg){ 0, 0 };
	for (int i = 0; i < SEG_NR; i++)
		s->seg[i] = (struct seg_reg){ SEL_DATA, ATTR_DATA, 0xffffffff, 0 };
	s->seg[SEG_CS] = (struct seg_reg){ SEL_CODE, code_attr, 0xffffffff, 0 };
	s->ldt = (struct seg_reg){ .attr = ATTR_UNUSABLE };
	s->tr = (struct seg_reg){ .attr = ATTR_P | 0xb, .limit = 0x67 };
	s->rflags = 2;
}

/* Map the first 4 GiB one to one, in 2 MiB pages. */
static void put_page_tables(struct loader *l)
{
	u64 table[512] = { LOW_PAGE_TABLES + PAGE_SIZE + PTE_P + PTE_W };

	boot_put(l, LOW_PAGE_TABLES, table, sizeof table);
	table[0] = 0;
	for (u64 i = 0; i < PAGE_DIRS; i++)
		table[i] = LOW_PAGE_TABLES + (2 + i) * PAGE_SIZE + PTE_P + PTE_W;
	boot_put(l, LOW_PAGE_TABLES + PAGE_SIZE, table, sizeof table);
	for (u64 dir = 0; dir < PAGE_DIRS; dir++) {
		for (u64 i = 0; i < 512; i++)
			table[i] = (dir * 512 + i) * 2 * MIB + PTE_P + PTE_W + PTE_PS;
		boot_put(l, LOW_PAGE_TABLES + (2 + dir) * PAGE_SIZE, table, sizeof table);
	}
}

void entry_long_mode(struct loader *l, u64 rip, u64 rsi)
{
	struct cpu_state *s = l->bsp;

	put_page_tables(l);
	load_flat_segments(l, ATTR_CODE | ATTR_L);
	s->tr.attr = ATTR_P | 0xb; /* busy 64-bit TSS: the same type number */
	s->cr0 = CR0_PE | CR0_ET | CR0_PG;
	s->cr3 = LOW_PAGE_TABLES;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
	s->rip = rip;
	s->gpr[RSI] = rsi;
}

void entry_protected(struct loader *l, u32 eip)
{
	load_flat_segments(l, ATTR_CODE | ATTR_DB);
	l->bsp->cr0 = CR0_PE | CR0_ET;
	l->bsp->rip = eip;
}

void entry_real_mode(struct loader *l, u16 cs, u16 ip, u16 sp)
{
	struct cpu_state *s = l->bsp;
	u16 data =
		cs - 0x20; /* boot.rst: the code segment is 0x20 paragraphs (the boot sector) on */

	for (int i = 0; i < SEG_NR; i++)
		s->seg[i] = (struct seg_reg){ data, ATTR_P | ATTR_S | 3, 0xffff, (u64)data << 4 };
	s->seg[SEG_CS] = (struct seg_reg){ cs, ATTR_P | ATTR_S | 0xb, 0xffff, (u64)cs << 4 };
	s->idt = (struct table_reg){ 0, 0x3ff };
	s->cr0 = CR0_ET;
	s->rflags = 2;
	s->rip = ip;
	s->gpr[RSP] = sp;
}

/* SDM vol 3 "Memory Type Range Registers": E and FE set, default type 6. */
void boot_memory_types(struct cpu_state *s)
{
	s->mtrr_def_type = 0xc06;
	memset(s->mtrr_fixed, 6, sizeof s->mtrr_fixed);
}
