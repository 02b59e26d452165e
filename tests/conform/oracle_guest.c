/* oracle_guest.c - runs a case on the software CPU: ring 3 under Linux's segments, with page tables
 * that give the case's code and data the linear addresses they have on the host. */
#include "oracle.h"

#include <stdio.h>
#include <stdlib.h>

/* Guest physical pages. */
enum {
	GPA_PML4 = 0x10000,
	GPA_PT = 0x20000,
	GPA_GDT = 0x40000,
	GPA_TSS = 0x41000,
	GPA_LDT = 0x42000,
	GPA_CODE = 0x50000,
	GPA_DATA = 0x60000,
	GPA_BYTES = 0x100000,
	RUN_MAX = 50000 /* instructions: more than any case should take */
};
#define SYS_BASE 0xffff800000000000ull /* GDT and TSS live here, for ring 0 */
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4 };
#define PTE_NX BIT(63)

static struct tcg_cpu *cpu;
static struct memory mem;
static struct bus pio, mmio;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct engine_env env;
u8 *guest_data;
static u8 *guest_code;
static gpa_t next_table = GPA_PT;

static u64 *table(gpa_t gpa)
{
	return mem_ptr(&mem, gpa, PAGE_SIZE);
}

static void map(u64 lin, gpa_t gpa, u64 flags)
{
	gpa_t at = GPA_PML4;

	for (int shift = 39; shift > 12; shift -= 9) {
		u64 *e = &table(at)[lin >> shift & 511];

		if (!*e) {
			*e = next_table | PTE_P | PTE_W | PTE_U;
			next_table += PAGE_SIZE;
		}
		at = *e & ~0xfffull;
	}
	table(at)[lin >> 12 & 511] = gpa | flags;
}

/* A descriptor of the host's as ring 3 can see it: what LAR and LSL say of its selector. */
static u64 host_descriptor(u32 sel)
{
	u32 attr = 0, limit = 0;
	bool ok;

	__asm__("lar %3, %0; lsl %3, %1; setz %2"
		: "+r"(attr), "+r"(limit), "=q"(ok)
		: "r"(sel)
		: "cc");
	if (!ok)
		return 0;
	limit = attr & 1 << 23 ? limit >> 12 : limit;
	return (u64)(attr & 0xf0ff00) << 32 | (u64)(limit & 0xf0000) << 32 | (limit & 0xffff);
}

static void build_tables(void)
{
	u64 gdt[16] = { 0 };

	for (u32 i = 1; i < 16; i++)
		gdt[i] = host_descriptor(i << 3 | 3);
	st64(mem_ptr(&mem, GPA_LDT, 8), host_descriptor(SEL_CS32));
	map(SYS_BASE + 2 * PAGE_SIZE, GPA_LDT, PTE_P | PTE_W);
	memcpy(mem_ptr(&mem, GPA_GDT, sizeof gdt), gdt, sizeof gdt);
	map(SYS_BASE, GPA_GDT, PTE_P | PTE_W);
	map(SYS_BASE + PAGE_SIZE, GPA_TSS, PTE_P | PTE_W);
	st16(mem_ptr(&mem, GPA_TSS + 0x66, 2), 0x68); /* no I/O bitmap within the limit */
	for (unsigned i = 0; i < CODE_BYTES / PAGE_SIZE; i++)
		map(CODE + i * PAGE_SIZE, GPA_CODE + i * PAGE_SIZE, PTE_P | PTE_W | PTE_U);
	for (unsigned i = 0; i < DATA_PAGES; i++)
		map(DATA + i * PAGE_SIZE, GPA_DATA + i * PAGE_SIZE,
		    PTE_P | PTE_U | PTE_NX | (i < DATA_RW_PAGES ? PTE_W : 0));
}

static const struct seg_reg seg_data = { .sel = SEL_DATA,
					 .limit = 0xffffffff,
					 .attr = 3 | ATTR_S | ATTR_DPL | ATTR_P | ATTR_DB |
						 ATTR_G };
static const struct seg_reg seg_null3 = { .attr = ATTR_UNUSABLE };

static void set_segments(struct cpu_state *s, const struct test_case *t)
{
	bool long_mode = t->in.mode == MODE_64;

	s->seg[SEG_CS] = (struct seg_reg){ .sel = long_mode ? SEL_CS64 : SEL_CS32,
					   .limit = 0xffffffff,
					   .attr = 0xb | ATTR_S | ATTR_DPL | ATTR_P | ATTR_G |
						   (long_mode ? ATTR_L : ATTR_DB) };
	s->seg[SEG_DS] = s->seg[SEG_ES] = s->seg[SEG_SS] = seg_data;
	s->seg[SEG_FS] = s->seg[SEG_GS] = seg_null3;
	if (!long_mode && !native_side_has_32bit()) { /* all of memory, and a part of it */
		s->seg[SEG_FS] = s->seg[SEG_GS] = seg_data;
		s->seg[SEG_GS].limit = DATA + 4096 + 100;
	}
	s->seg[SEG_FS].base = t->start.fs_base;
	s->seg[SEG_GS].base = t->start.gs_base;
}

static void die(const char *what, const struct err *e)
{
	fprintf(stderr, "oracle: %s: %s\n", what, e->text);
	exit(2);
}

void guest_side_init(void)
{
	struct err e = { 0 };
	struct cpu_state *s;

	if (memory_init(&mem, GPA_BYTES, &e) < 0)
		die("memory", &e);
	bus_init(&pio, "pio", &lock);
	bus_init(&mmio, "mmio", &lock);
	env = (struct engine_env){ .mem = &mem, .pio = &pio, .mmio = &mmio, .lock = &lock };
	cpu = aligned_alloc(64, ALIGN_UP(sizeof *cpu, 64));
	memset(cpu, 0, sizeof *cpu);
	cpu->v.env = &env;
	s = &cpu->v.s;
	cpu_state_reset(s, true);
	build_tables();
	guest_code = mem_ptr(&mem, GPA_CODE, CODE_BYTES);
	guest_data = mem_ptr(&mem, GPA_DATA, DATA_END - DATA);
	memset(guest_code, FILL_GUEST, CODE_BYTES);
	if (mmu_init(cpu, &e) < 0 || interp_init(cpu, &e) < 0 || native_init(cpu, &e) < 0 ||
	    trans_init(cpu, &e) < 0)
		die("cpu", &e);
	mmu_start(cpu);
	native_thread_init(cpu);
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	s->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
	s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX;
	s->xcr0 = cpu->native->mask;
	s->cr3 = GPA_PML4;
	s->gdt = (struct table_reg){ SYS_BASE, 0x7f };
	s->tr = (struct seg_reg){
		.sel = 0x40, .base = SYS_BASE + PAGE_SIZE, .limit = 0x67, .attr = 0xb | ATTR_P
	};
	s->ldt = (struct seg_reg){
		.sel = 0x50, .base = SYS_BASE + 2 * PAGE_SIZE, .limit = 7, .attr = 2 | ATTR_P
	};
	mmu_flush_all(cpu);
}

static void set_state(const struct test_case *t)
{
	struct cpu_state *s = &cpu->v.s;

	memcpy(s->gpr, t->start.gpr, sizeof s->gpr);
	s->rip = t->start.rip;
	s->int_shadow = 0;
	cpu->exc.vector = EXC_NONE;
	set_segments(s, t);
	flags_set(cpu, t->start.flags);
	seg_refresh(cpu);
	cpu->budget = RUN_MAX;
	if (t->fp) {
		memcpy(s->xsave, t->start.fx, sizeof s->xsave);
		cpu->native->ptr = (struct x87_ptr){ 0 };
	}
}

static void put_code(const struct test_case *t, bool fill)
{
	u64 off = t->start.rip - CODE;
	unsigned n = (unsigned)MIN(t->len, CODE_END - t->start.rip);

	interp_invalidate(cpu, GPA_CODE + off, n);
	if (fill)
		memset(guest_code + off, FILL_GUEST, n);
	else
		memcpy(guest_code + off, t->code, n);
}

/* HLT's #GP where control went, or a fetch fault there, is not the instruction's. */
static bool completed(const struct test_case *t)
{
	u64 rip = cpu->v.s.rip;

	if (cpu->exc.vector == EXC_NONE)
		return true;
	if (rip == t->start.rip)
		return false;
	if (cpu->exc.vector == EXC_GP && rip >= CODE && rip < CODE_END)
		return guest_code[rip - CODE] == FILL_GUEST;
	return cpu->exc.vector == EXC_PF && cpu->exc.cr2 == rip;
}

static bool inside(const struct test_case *t)
{
	return cpu->v.s.rip - t->start.rip < t->len;
}

/* A block is translated when it has run so often: now, or never.  A quarter of the programs are
 * interrupted all the time. */
static void run_block(const struct test_case *t)
{
	static const u16 heat[HOWS] = {
		[HOW_BLOCK] = UINT16_MAX, [HOW_TRANSLATED] = 1, [HOW_MIXED] = 3
	};

	s32 slice = t->points && t->len % 4 == 0 ? 2 * BLOCK_MAX : RUN_MAX;

	cpu->trans->heat = heat[t->how];
	if (!block_find(cpu) && cpu->exc.vector != EXC_NONE) {
		cpu->v.s.rip = t->start.rip;
		return;
	}
	for (s32 left = RUN_MAX; left > 0; left -= BLOCK_MAX) {
		cpu->budget = slice;
		interp_run(cpu);
		if (cpu->exc.vector != EXC_NONE || !inside(t))
			break;
	}
}

void guest_side_run(const struct test_case *t, struct regs *out)
{
	struct cpu_state *s = &cpu->v.s;
	unsigned steps = 0;

	put_code(t, false);
	set_state(t);
	if (t->how != HOW_ONE)
		run_block(t);
	else
		do
			interp_one(cpu);
		while (cpu->exc.vector == EXC_NONE && inside(t) && ++steps < RUN_MAX);
	fp_leave(cpu);
	memcpy(out->gpr, s->gpr, sizeof out->gpr);
	out->rip = s->rip;
	out->flags = flags_get(cpu);
	out->fs_base = s->seg[SEG_FS].base;
	out->gs_base = s->seg[SEG_GS].base;
	for (unsigned i = 0; i < SEG_NR; i++)
		out->sel[i] = s->seg[i].sel;
	out->vector = completed(t) ? EXC_NONE : cpu->exc.vector;
	out->error = cpu->exc.has_error ? cpu->exc.error : 0;
	out->cr2 = cpu->exc.cr2;
	if (t->fp)
		memcpy(out->fx, s->xsave, sizeof out->fx);
	put_code(t, true);
}
