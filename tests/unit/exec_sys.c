/* exec_sys.c - control registers and mode switches, descriptor tables, MSRs, ports, fast system
 * calls. */
#include <unistd.h>

#include "cpu.h"

static void expect_gp0(struct cpu_rig *r)
{
	EQ(r->c->exc.vector, EXC_GP);
	EQ(r->c->exc.error, 0);
}

static void expect_ok(struct cpu_rig *r)
{
	EQ(r->c->exc.vector, EXC_NONE);
}

static void wrmsr(struct cpu_rig *r, u32 msr, u64 val)
{
	r->s->gpr[RCX] = msr;
	r->s->gpr[RAX] = (u32)val;
	r->s->gpr[RDX] = val >> 32;
	RUN(r, 0x0f, 0x30);
}

static u64 rdmsr(struct cpu_rig *r, u32 msr)
{
	r->s->gpr[RCX] = msr;
	RUN(r, 0x0f, 0x32);
	return (u32)r->s->gpr[RAX] | r->s->gpr[RDX] << 32;
}

static void mov_cr(struct cpu_rig *r, unsigned cr, u64 val)
{
	r->s->gpr[RAX] = val;
	RUN(r, 0x0f, 0x22, (u8)(0xc0 | cr << 3)); /* mov crN, rax */
}

/* --- modes ------------------------------------------------------------------------------------ */
TEST(sys_from_reset_to_64_bit_mode_and_back)
{
	struct cpu_rig *r = cpu_rig_new();
	struct cpu_state *s = r->s;
	gpa_t pml4 = table_new(r), pdpt = table_new(r);

	gdt_build(r);
	s->gdt = (struct table_reg){ 0, 0xffff };
	st64(ram(r, pml4), pdpt | 3);
	st64(ram(r, pdpt), 0x83);
	st16(ram(r, 0x5000), 0xfff);
	st32(ram(r, 0x5002), GDT);
	s->seg[SEG_CS].base = 0;
	s->seg[SEG_CS].sel = 0;
	s->rip = 0x7c00;
	tcg_engine.push(&r->c->v);
	RUN(r, 0x66, 0x0f, 0x01, 0x16, 0x00, 0x50); /* lgdtl [0x5000] */
	EQ(s->gdt.base, GDT);
	mov_cr(r, 0, CR0_PE | CR0_ET);
	EQ(r->c->mode, MODE_16);
	RUN(r, 0x66, 0xea, 0x00, 0x00, 0x01, 0x00, CS0, 0); /* ljmpl $CS0, $CODE */
	EQ(r->c->mode, MODE_32);
	EQ(s->rip, CODE);
	mov_cr(r, 4, CR4_PAE);
	mov_cr(r, 3, pml4);
	wrmsr(r, 0xc0000080, EFER_LME);
	EQ(s->efer, EFER_LME);
	mov_cr(r, 0, CR0_PE | CR0_PG | CR0_ET);
	expect_ok(r);
	EQ(s->efer, EFER_LME | EFER_LMA);
	EQ(r->c->mode, MODE_32);
	RUN(r, 0xea, 0x00, 0x00, 0x02, 0x00, CS64, 0);
	EQ(r->c->mode, MODE_64);
	EQ(s->rip, 0x20000);
	mov_cr(r, 0, CR0_PE | CR0_ET); /* not from 64-bit code */
	expect_gp0(r);
	st32(ram(r, 0x6000), 0x30000);
	st16(ram(r, 0x6004), CS0);
	RUN(r, 0xff, 0x2c, 0x25, 0x00, 0x60, 0x00, 0x00); /* ljmp *0x6000 */
	EQ(r->c->mode, MODE_32);
	EQ(r->c->long_mode, true);
	mov_cr(r, 0, CR0_PE | CR0_ET);
	expect_ok(r);
	EQ(s->efer, EFER_LME);
	EQ(r->c->long_mode, false);
	mov_cr(r, 0, CR0_ET);
	EQ(r->c->cpl, 0);
	OK(!(s->cr0 & CR0_PE));
	cpu_rig_free(r);
}

TEST(sys_cr0_refuses_impossible_states)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	mov_cr(r, 0, CR0_PG | CR0_ET); /* PG without PE */
	expect_gp0(r);
	mov_cr(r, 0, CR0_PE | CR0_NW);
	expect_gp0(r);
	r->s->efer |= EFER_LME; /* long mode without PAE */
	mov_cr(r, 0, CR0_PE | CR0_PG);
	expect_gp0(r);
	EQ(r->s->cr0, CR0_PE | CR0_ET);
	mov_cr(r, 0, CR0_PE); /* ET is fixed */
	EQ(r->s->cr0, CR0_PE | CR0_ET);
	cpu_rig_free(r);
	r = cpu_rig_new();
	long_mode(r, 0);
	mov_cr(r, 0, BIT(32) | r->s->cr0);
	expect_gp0(r);
	cpu_rig_free(r);
}

TEST(sys_cr4_refuses_what_cpuid_does_not_show)
{
	struct cpu_rig *r = cpu_rig_new();
	u64 cr4;

	long_mode(r, 0);
	cr4 = r->s->cr4;
	for (unsigned bit = 0; bit < 64; bit++) {
		bool known = BIT(bit) & (CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE |
					 CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE |
					 CR4_PCIDE | CR4_SMEP) ||
			     (BIT(bit) == CR4_OSXSAVE && cpuid_has(1, 0, 2, 26));

		r->s->cr4 = cr4;
		mov_cr(r, 4, cr4 | BIT(bit));
		EQ(r->c->exc.vector, known ? EXC_NONE : EXC_GP);
	}
	r->s->cr4 = cr4;
	mov_cr(r, 4, cr4 & ~(u64)CR4_PAE); /* long mode needs it */
	expect_gp0(r);
	r->s->cr3 |= 5;
	mov_cr(r, 4, cr4 | CR4_PCIDE); /* CR3's low bits must be 0 then */
	expect_gp0(r);
	cpu_rig_free(r);
}

TEST(sys_cr3_reserved_bits_and_unknown_registers)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	mov_cr(r, 3, r->s->cr3 | BIT(63)); /* without PCIDE */
	expect_gp0(r);
	mov_cr(r, 3, r->s->cr3 | BIT(52));
	expect_gp0(r);
	mov_cr(r, 5, 0);
	EQ(r->c->exc.vector, EXC_UD);
	mov_cr(r, 1, 0);
	EQ(r->c->exc.vector, EXC_UD);
	cpu_rig_free(r);
}

TEST(sys_efer_rules)
{
	struct cpu_rig *r = cpu_rig_new();
	u64 efer;

	long_mode(r, 0);
	efer = r->s->efer;
	wrmsr(r, 0xc0000080, efer & ~(u64)EFER_LME); /* paging is on */
	expect_gp0(r);
	wrmsr(r, 0xc0000080, efer | BIT(12)); /* SVME */
	expect_gp0(r);
	wrmsr(r, 0xc0000080, efer & ~(u64)EFER_LMA); /* read-only */
	expect_ok(r);
	EQ(r->s->efer, efer);
	cpu_rig_free(r);
}

TEST(sys_lmsw_sets_pe_but_cannot_clear_it)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	r->s->gpr[RAX] = CR0_MP;
	RUN(r, 0x0f, 0x01, 0xf0); /* lmsw ax */
	EQ(r->s->cr0, CR0_PE | CR0_MP | CR0_ET);
	RUN(r, 0x0f, 0x01, 0xe3); /* smsw ebx */
	EQ(r->s->gpr[RBX], CR0_PE | CR0_MP | CR0_ET);
	cpu_rig_free(r);
}

/* --- debug registers -------------------------------------------------------------------------- */
TEST(sys_debug_registers)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	r->s->gpr[RAX] = 0xffffffff;
	RUN(r, 0x0f, 0x23, 0xf0); /* mov dr6, rax */
	EQ(r->s->dr[6], 0xffffefff);
	RUN(r, 0x0f, 0x23, 0xe0); /* mov dr4, rax: is DR6 */
	expect_ok(r);
	r->s->gpr[RAX] = 0xd800;
	RUN(r, 0x0f, 0x23, 0xf8);
	EQ(r->s->dr[7], 0x400);
	r->s->gpr[RAX] = BIT(32);
	RUN(r, 0x0f, 0x23, 0xf8);
	expect_gp0(r);
	r->s->cr4 |= CR4_DE;
	RUN(r, 0x0f, 0x23, 0xe0);
	EQ(r->c->exc.vector, EXC_UD);
	r->s->dr[7] = 0x2400; /* GD: any access traps before it happens */
	RUN(r, 0x0f, 0x21, 0xf0);
	EQ(r->c->exc.vector, EXC_DB);
	EQ(r->c->exc.dr6, BIT(13));
	cpu_rig_free(r);
}

/* --- tables ----------------------------------------------------------------------------------- */
TEST(sys_table_registers_in_each_size)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	st16(ram(r, 0x5000), 0x1234);
	st32(ram(r, 0x5002), 0xaabbccdd);
	RUN(r, 0x0f, 0x01, 0x1d, 0x00, 0x50, 0x00, 0x00); /* lidt [0x5000] */
	EQ(r->s->idt.limit, 0x1234);
	EQ(r->s->idt.base, 0xaabbccdd);
	RUN(r, 0x66, 0x0f, 0x01, 0x1d, 0x00, 0x50, 0x00, 0x00);
	EQ(r->s->idt.base, 0xbbccdd);
	RUN(r, 0x0f, 0x01, 0x0d, 0x00, 0x60, 0x00, 0x00); /* sidt [0x6000] */
	EQ(ld32(ram(r, 0x6002)), 0xbbccdd);
	cpu_rig_free(r);
	r = cpu_rig_new();
	long_mode(r, 0);
	st64(ram(r, 0x5002), 0x800000000000);
	RUN(r, 0x0f, 0x01, 0x1c, 0x25, 0x00, 0x50, 0x00, 0x00);
	expect_gp0(r);
	cpu_rig_free(r);
}

TEST(sys_ltr_wants_an_available_tss)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	r->s->gpr[RAX] = SEL_TSS_B;
	RUN(r, 0x0f, 0x00, 0xd8); /* ltr ax */
	expect_ok(r);
	EQ(r->s->tr.base, TSS_B);
	EQ(ram(r, GDT + SEL_TSS_B)[5], 0x8b);
	RUN(r, 0x0f, 0x00, 0xd8); /* busy now */
	EQ(r->c->exc.vector, EXC_GP);
	EQ(r->c->exc.error, SEL_TSS_B);
	r->s->gpr[RAX] = 0;
	RUN(r, 0x0f, 0x00, 0xd8);
	expect_gp0(r);
	cpu_rig_free(r);
	r = cpu_rig_new();
	long_mode(r, 0);
	gdt_set(r, SEL_TSS_B + 8, 0x7f);
	r->s->gpr[RAX] = SEL_TSS_B;
	RUN(r, 0x0f, 0x00, 0xd8);
	EQ(r->s->tr.base, 0x7f00000000 + TSS_B);
	RUN(r, 0x0f, 0x00, 0xc9); /* str ecx */
	EQ(r->s->gpr[RCX], SEL_TSS_B);
	cpu_rig_free(r);
}

TEST(sys_lar_lsl_verr_verw)
{
	static const struct {
		u8 cpl;
		u16 sel;
		bool lar, lsl, verr, verw;
	} rows[] = {
		{ 0, DS0, 1, 1, 1, 1 },	   { 0, CS0, 1, 1, 1, 0 },     { 0, XO, 1, 1, 0, 0 },
		{ 0, RO, 1, 1, 1, 0 },	   { 0, SEL_TSS, 1, 1, 0, 0 }, { 0, GATE, 1, 0, 0, 0 },
		{ 0, 0, 0, 0, 0, 0 },	   { 0, 0xff0, 0, 0, 0, 0 },   { 3, DS0, 0, 0, 0, 0 },
		{ 3, DS3, 1, 1, 1, 1 },	   { 3, CONF, 1, 1, 1, 0 },    { 0, DS0 | 3, 0, 0, 0, 0 },
		{ 0, 0x1ff8, 0, 0, 0, 0 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		static const u8 op[4][3] = { { 0x0f, 0x02, 0xc3 },
					     { 0x0f, 0x03, 0xc3 },
					     { 0x0f, 0x00, 0xe3 },
					     { 0x0f, 0x00, 0xeb } };
		bool want[4] = { rows[i].lar, rows[i].lsl, rows[i].verr, rows[i].verw };
		struct cpu_rig *r = cpu_rig_new();

		protected_mode(r, rows[i].cpl);
		gdt_set(r, GATE, (u64)(SYS_CALL32 | ATTR_P) << 40);
		for (unsigned k = 0; k < 4; k++) {
			r->s->gpr[RBX] = rows[i].sel;
			r->s->gpr[RAX] = 0x12345678;
			run_bytes(r, op[k], 3);
			expect_ok(r);
			EQ(!!(flags_get(r->c) & FL_ZF), want[k]);
			if (k < 2 && !want[k])
				EQ(r->s->gpr[RAX], 0x12345678);
		}
		cpu_rig_free(r);
	}
}

TEST(sys_lsl_scales_and_lar_masks)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	r->s->gpr[RBX] = DS0;
	RUN(r, 0x0f, 0x03, 0xc3);
	EQ(r->s->gpr[RAX], 0xffffffff);
	RUN(r, 0x0f, 0x02, 0xc3);
	EQ(r->s->gpr[RAX] & 0xf0ff00, 0xc09300);
	EQ(r->s->gpr[RAX] & 0xff0000ff, 0);
	cpu_rig_free(r);
}

TEST(sys_arpl)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	r->s->gpr[RAX] = 0x10;
	r->s->gpr[RBX] = 0x03;
	RUN(r, 0x63, 0xd8); /* arpl ax, bx */
	EQ(r->s->gpr[RAX], 0x13);
	OK(flags_get(r->c) & FL_ZF);
	RUN(r, 0x63, 0xd8);
	OK(!(flags_get(r->c) & FL_ZF));
	cpu_rig_free(r);
}

/* --- MSRs, time ------------------------------------------------------------------------------- */
TEST(sys_msrs_hold_what_a_processor_lets_them)
{
	static const struct {
		u32 msr;
		u64 good, bad; /* bad 0: none */
	} rows[] = {
		{ 0xc0000081, 0x23001000000000, 0 },
		{ 0xc0000082, 0xffffffff81000000, 0x800000000000 },
		{ 0xc0000100, 0x7fff00000000, 0x800000000000 },
		{ 0xc0000101, 0xffff888000000000, BIT(62) },
		{ 0xc0000102, 0x1000, BIT(50) },
		{ 0xc0000103, 7, BIT(32) },
		{ 0x176, 0xffffffff82000000, BIT(55) },
		{ 0x277, 0x0007040600070406, 0x0000000000000002 },
		{ 0x277, 0x0107040600070406, 0x8000000000000000 },
		{ 0x2ff, 0xc06, 0x1000 },
		{ 0x250, 0x0606060606060606, 0x0606060606060602 },
		{ 0x200, 0x80000006, 0x80000002 },
		{ 0x201, 0xffff80000800, 0x0400 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct cpu_rig *r = cpu_rig_new();

		long_mode(r, 0);
		wrmsr(r, rows[i].msr, rows[i].good);
		expect_ok(r);
		EQ(rdmsr(r, rows[i].msr), rows[i].good);
		if (rows[i].bad) {
			wrmsr(r, rows[i].msr, rows[i].bad);
			expect_gp0(r);
			EQ(rdmsr(r, rows[i].msr), rows[i].good);
		}
		cpu_rig_free(r);
	}
}

TEST(sys_unknown_msrs_fault_and_constants_read)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	rdmsr(r, 0x12345);
	expect_gp0(r);
	wrmsr(r, 0x12345, 0);
	expect_gp0(r);
	EQ(rdmsr(r, 0x179), 0); /* no machine-check banks */
	expect_ok(r);
	EQ(rdmsr(r, 0xfe), 0x508);
	if (cpuid_is_amd()) /* K7's performance counters have no CPUID bit */
		for (u32 msr = 0xc0010000; msr < 0xc0010008; msr++) {
			wrmsr(r, msr, 0);
			expect_ok(r);
			EQ(rdmsr(r, msr), 0);
		}
	wrmsr(r, 0xfe, 0);
	expect_gp0(r);
	rdmsr(r, 0x48); /* SPEC_CTRL: no CPUID bit shows it */
	expect_gp0(r);
	wrmsr(r, 0x49, 1);
	expect_gp0(r);
	cpu_rig_free(r);
	r = cpu_rig_new();
	long_mode(r, 3);
	rdmsr(r, 0xc0000082);
	expect_gp0(r);
	cpu_rig_free(r);
}

TEST(sys_tsc_follows_writes_and_adjust_follows_it)
{
	struct cpu_rig *r = cpu_rig_new();
	u64 a, b;

	long_mode(r, 0);
	wrmsr(r, 0x10, 1000);
	RUN(r, 0x0f, 0x31);
	a = (u32)r->s->gpr[RAX] | r->s->gpr[RDX] << 32;
	OK(a >= 1000 && a < 1000000000);
	b = rdmsr(r, 0x3b);
	wrmsr(r, 0x3b, b + (1ull << 40));
	RUN(r, 0x0f, 0x31);
	OK(((u32)r->s->gpr[RAX] | r->s->gpr[RDX] << 32) - a >= 1ull << 40);
	r->s->tsc_aux = 0x55;
	RUN(r, 0x0f, 0x01, 0xf9); /* rdtscp */
	EQ(r->s->gpr[RCX], 0x55);
	cpu_rig_free(r);
	r = cpu_rig_new();
	long_mode(r, 3);
	RUN(r, 0x0f, 0x31);
	expect_ok(r);
	r->s->cr4 |= CR4_TSD;
	RUN(r, 0x0f, 0x31);
	expect_gp0(r);
	cpu_rig_free(r);
}

TEST(sys_paravirtual_clock_page_converts_cycles_to_nanoseconds)
{
	struct host_tsc tsc = host_tsc_look();
	struct cpu_rig *r = cpu_rig_new();
	u64 t0, t1, ns;
	s8 shift;

	long_mode(r, 0);
	r->env.tsc_khz = host_tsc_khz(&tsc);
	kvmclock_start(&r->env);
	wrmsr(r, 0x4b564d01, 0x5000 | 1);
	expect_ok(r);
	usleep(1000);
	/* another vCPU's, later: it counts from the same moment */
	wrmsr(r, 0x4b564d01, 0x5100 | 1);
	OK(!memcmp(ram(r, 0x5008), ram(r, 0x5108), 24));
	EQ(ld32(ram(r, 0x5000)) & 1, 0);
	OK(ld32(ram(r, 0x5000)) >= 2);
	EQ(ram(r, 0x5000)[29], 1);
	shift = (s8)ram(r, 0x5000)[28];
	t0 = ld64(ram(r, 0x5008));
	t1 = t0 + r->env.tsc_khz * 1000; /* a second later */
	ns = shift < 0 ? (t1 - t0) >> -shift : (t1 - t0) << shift;
	ns = (u64)((u128)ns * ld32(ram(r, 0x5018)) >> 32);
	OK(ns > 999990000 && ns < 1000010000);
	wrmsr(r, 0x4b564d00, 0x6000);
	OK(ld32(ram(r, 0x6004)) > 1700000000);
	wrmsr(r, 0x4b564d01, 0xfffffffff000 | 1); /* nowhere: nothing happens */
	expect_ok(r);
	cpu_rig_free(r);
}

TEST(sys_fsgsbase_and_swapgs)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	RUN(r, 0xf3, 0x48, 0x0f, 0xae, 0xd0); /* wrfsbase rax */
	EQ(r->c->exc.vector, EXC_UD);
	r->s->cr4 |= CR4_FSGSBASE;
	r->s->gpr[RAX] = 0x7fff12345678;
	RUN(r, 0xf3, 0x48, 0x0f, 0xae, 0xd0);
	EQ(r->s->seg[SEG_FS].base, 0x7fff12345678);
	RUN(r, 0xf3, 0x0f, 0xae, 0xc1); /* rdfsbase ecx */
	EQ(r->s->gpr[RCX], 0x12345678);
	r->s->gpr[RAX] = 0x800000000000;
	RUN(r, 0xf3, 0x48, 0x0f, 0xae, 0xd8); /* wrgsbase */
	expect_gp0(r);
	r->s->kernel_gs_base = 0x1111;
	r->s->seg[SEG_GS].base = 0x2222;
	RUN(r, 0x0f, 0x01, 0xf8);
	EQ(r->s->seg[SEG_GS].base, 0x1111);
	EQ(r->s->kernel_gs_base, 0x2222);
	cpu_rig_free(r);
}

TEST(sys_hypercalls_are_refused_by_number)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	RUN(r, 0x0f, 0x01, 0xd9); /* vmmcall */
	expect_ok(r);
	EQ(r->s->gpr[RAX], (u64)-1000);
	RUN(r, 0x0f, 0x01, 0xc1); /* vmcall */
	expect_ok(r);
	EQ(r->s->gpr[RAX], (u64)-1000);
	cpu_rig_free(r);
	r = cpu_rig_new();
	protected_mode(r, 3);
	RUN(r, 0x0f, 0x01, 0xc1);
	expect_ok(r);
	EQ(r->s->gpr[RAX], (u32)-1);
	cpu_rig_free(r);
}

TEST(sys_xsetbv_rules)
{
	static const struct {
		u64 val;
		bool ok;
	} rows[] = { { 1, 1 }, { 3, 1 }, { 0, 0 }, { 2, 0 }, { 5, 0 }, { 0x200 | 7, 0 } };
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	r->s->gpr[RCX] = r->s->gpr[RDX] = 0;
	r->s->gpr[RAX] = 1;
	RUN(r, 0x0f, 0x01, 0xd1);
	EQ(r->c->exc.vector, EXC_UD); /* CR4.OSXSAVE is clear */
	r->s->cr4 |= CR4_OSXSAVE;
	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		r->s->gpr[RAX] = rows[i].val;
		RUN(r, 0x0f, 0x01, 0xd1);
		EQ(r->c->exc.vector, rows[i].ok ? EXC_NONE : EXC_GP);
	}
	EQ(r->s->xcr0, 3);
	cpu_rig_free(r);
}

/* --- ports ------------------------------------------------------------------------------------ */
TEST(sys_io_permission_by_iopl_and_bitmap)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 3);
	OK(!io_allowed(r->c, 0x80, 1)); /* the TSS ends before any map */
	expect_gp0(r);
	flags_set(r->c, FL_IOPL);
	OK(io_allowed(r->c, 0x80, 1));
	flags_set(r->c, 0);
	r->s->tr.limit = 0x68 + 0x20;
	st16(ram(r, TSS) + 0x66, 0x68);
	memset(ram(r, TSS) + 0x68, 0xff, 0x21);
	ram(r, TSS)[0x68 + 0x80 / 8] = 0xf0; /* ports 0x80-0x83 */
	OK(io_allowed(r->c, 0x80, 4) && io_allowed(r->c, 0x83, 1));
	OK(!io_allowed(r->c, 0x83, 2) && !io_allowed(r->c, 0x7f, 2));
	ram(r, TSS)[0x68 + 0x1f] = 0;
	OK(io_allowed(r->c, 0xf8, 1)); /* its neighbour byte is the last one */
	OK(!io_allowed(r->c, 0x100, 1)); /* beyond */
	r->s->rflags |= FL_VM | FL_IOPL; /* IOPL does not count in virtual-8086 mode */
	OK(!io_allowed(r->c, 0x84, 1) && io_allowed(r->c, 0x80, 1));
	cpu_rig_free(r);
}

/* --- privilege -------------------------------------------------------------------------------- */
TEST(sys_ring_3_may_not)
{
	static const u8 code[][4] = {
		{ 0x0f, 0x22, 0xc0 },
		{ 0x0f, 0x20, 0xc0 },
		{ 0x0f, 0x06 },
		{ 0x0f, 0x01, 0x17 },
		{ 0x0f, 0x00, 0xd8 },
		{ 0x0f, 0x01, 0x38 },
		{ 0x0f, 0x09 },
		{ 0x0f, 0x08 },
		{ 0xf4 },
		{ 0xfa },
		{ 0xfb },
		{ 0x0f, 0x21, 0xf8 },
		{ 0x0f, 0x01, 0xf8 },
		{ 0x0f, 0x33 },
		{ 0x0f, 0x07 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(code); i++) {
		struct cpu_rig *r = cpu_rig_new();

		long_mode(r, 3);
		run_bytes(r, code[i], 4);
		expect_gp0(r);
		EQ(r->s->rip, CODE);
		cpu_rig_free(r);
	}
}

TEST(sys_sti_casts_a_shadow_only_when_it_opens)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	RUN(r, 0xfb);
	EQ(r->s->int_shadow, 1);
	RUN(r, 0xfb);
	EQ(r->s->int_shadow, 0);
	cpu_rig_free(r);
}

/* --- fast system calls ------------------------------------------------------------------------ */
TEST(sys_syscall_and_sysret)
{
	struct cpu_rig *r = cpu_rig_new();
	struct cpu_state *s = r->s;

	long_mode(r, 3);
	s->star = 0x0023000800000000 | (u64)(CS64 - 8) << 32;
	s->star = (u64)0x0033 << 48 | (u64)CS64 << 32;
	s->lstar = 0x12000;
	s->sfmask = FL_IF | FL_DF | FL_TF;
	flags_set(r->c, FL_IF | FL_DF | FL_CF | FL_ZF);
	RUN(r, 0x0f, 0x05);
	expect_ok(r);
	EQ(s->rip, 0x12000);
	EQ(s->gpr[RCX], CODE + 2);
	EQ(s->gpr[R11], 2 | FL_IF | FL_DF | FL_CF | FL_ZF);
	EQ(flags_get(r->c), 2 | FL_CF | FL_ZF);
	EQ(s->seg[SEG_CS].sel, CS64);
	EQ(s->seg[SEG_SS].sel, CS64 + 8);
	EQ(r->c->cpl, 0);
	s->gpr[R11] |= FL_VM | FL_RF;
	RUN(r, 0x48, 0x0f, 0x07); /* sysretq */
	expect_ok(r);
	EQ(s->rip, CODE + 2);
	EQ(flags_get(r->c), 2 | FL_IF | FL_DF | FL_CF | FL_ZF);
	EQ(s->seg[SEG_CS].sel, 0x33 + 16);
	EQ(s->seg[SEG_SS].sel, 0x33 + 8);
	EQ(r->c->cpl, 3);
	EQ(r->c->mode, MODE_64);
	RUN(r, 0x0f, 0x05);
	RUN(r, 0x0f, 0x07); /* sysretl */
	EQ(r->c->mode, MODE_32);
	EQ(r->c->long_mode, true);
	EQ(s->seg[SEG_CS].sel, 0x33);
	s->gpr[R11] = 2 | FL_TF;
	s->seg[SEG_CS] = (struct seg_reg){ CS64, 0xa09b, 0xffffffff, 0 };
	s->seg[SEG_SS] = flat32(DS0, 3, 0);
	seg_refresh(r->c);
	RUN(r, 0x48, 0x0f, 0x07);
	EQ(r->c->exc.vector, EXC_DB); /* a step over SYSCALL ends with SYSRET */
	OK(r->c->exc.trap);
	EQ(r->c->cpl, 3);
	cpu_rig_free(r);
}

TEST(sys_syscall_needs_sce_and_sysret_a_canonical_target)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 3);
	r->s->efer &= ~(u64)EFER_SCE;
	RUN(r, 0x0f, 0x05);
	EQ(r->c->exc.vector, EXC_UD);
	cpu_rig_free(r);
	r = cpu_rig_new();
	long_mode(r, 0);
	r->s->gpr[RCX] = 0x800000000000;
	RUN(r, 0x48, 0x0f, 0x07);
	expect_gp0(r);
	EQ(r->c->cpl, 0);
	cpu_rig_free(r);
}

TEST(sys_sysenter_and_sysexit_in_protected_mode)
{
	struct cpu_rig *r = cpu_rig_new();
	struct cpu_state *s = r->s;

	protected_mode(r, 3);
	RUN(r, 0x0f, 0x34);
	expect_gp0(r); /* IA32_SYSENTER_CS is null */
	s->sysenter_cs = CS0;
	s->sysenter_eip = 0x12000;
	s->sysenter_esp = STACK1;
	RUN(r, 0x0f, 0x34);
	expect_ok(r);
	EQ(s->rip, 0x12000);
	EQ(s->gpr[RSP], STACK1);
	EQ(r->c->cpl, 0);
	EQ(s->seg[SEG_SS].sel, CS0 + 8);
	s->gpr[RDX] = 0x13000;
	s->gpr[RCX] = STACK3;
	RUN(r, 0x0f, 0x35);
	expect_ok(r);
	EQ(s->rip, 0x13000);
	EQ(s->gpr[RSP], STACK3);
	EQ(s->seg[SEG_CS].sel, CS3);
	EQ(r->c->cpl, 3);
	cpu_rig_free(r);
}

TEST(sys_vendors_differ_in_their_system_calls)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 3);
	r->s->sysenter_cs = CS64;
	RUN(r, 0x0f, 0x34); /* SYSENTER in long mode */
	EQ(r->c->exc.vector, cpuid_is_amd() ? EXC_UD : EXC_NONE);
	cpu_rig_free(r);
	r = cpu_rig_new();
	long_mode(r, 3);
	r->s->seg[SEG_CS] = flat32(CS3, 11, 3);
	r->s->cstar = 0x14000;
	tcg_engine.push(&r->c->v);
	RUN(r, 0x0f, 0x05); /* SYSCALL in compatibility mode */
	EQ(r->c->exc.vector, cpuid_is_amd() ? EXC_NONE : EXC_UD);
	EQ(r->s->rip, cpuid_is_amd() ? 0x14000 : CODE);
	cpu_rig_free(r);
}

TEST(sys_sysenter_leaves_virtual_8086_mode_and_faults_in_real_mode)
{
	struct cpu_rig *r = cpu_rig_new();
	struct cpu_state *s = r->s;

	protected_mode(r, 3);
	s->rflags = 2 | FL_VM;
	s->seg[SEG_CS] = (struct seg_reg){ CODE >> 4, 0xf3, 0xffff, CODE };
	s->rip = 0;
	s->sysenter_cs = CS0;
	s->sysenter_eip = 0x12000;
	tcg_engine.push(&r->c->v);
	RUN(r, 0x0f, 0x34);
	expect_ok(r);
	EQ(s->rip, 0x12000);
	EQ(r->c->cpl, 0);
	EQ(r->c->mode, MODE_32);
	OK(!(flags_get(r->c) & FL_VM));
	cpu_rig_free(r);
	r = cpu_rig_new();
	r->s->seg[SEG_CS].base = 0;
	r->s->rip = CODE & 0xffff;
	r->s->sysenter_cs = CS0;
	tcg_engine.push(&r->c->v);
	RUN(r, 0x0f, 0x34);
	expect_gp0(r);
	cpu_rig_free(r);
}
