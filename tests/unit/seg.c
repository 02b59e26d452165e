/* seg.c - segment loads, far transfers, call gates and task switches. */
#include "cpu.h"

enum { TARGET = 0x12340 };

static void expect_exc(struct cpu_rig *r, u8 vector, u32 error)
{
	EQ(r->c->exc.vector, vector);
	OK(r->c->exc.has_error);
	EQ(r->c->exc.error, error);
	EQ(r->s->rip, CODE);
}

/* --- loading registers ------------------------------------------------------------------------ */
TEST(seg_data_registers_take_what_the_manual_lets_them)
{
	static const struct {
		u8 cpl;
		u16 sel;
		u8 vector; /* EXC_NONE: fine */
	} rows[] = {
		{ 0, DS0, EXC_NONE },	   { 0, DS0 | 3, EXC_GP }, { 0, DS3, EXC_NONE },
		{ 0, RO, EXC_NONE },	   { 0, CS0, EXC_NONE },   { 0, XO, EXC_GP },
		{ 0, SEL_TSS, EXC_GP },	   { 0, ABSENT, EXC_NP },  { 0, 0x1000, EXC_GP },
		{ 0, 0xffc, EXC_GP },	   { 0, 0, EXC_NONE },	   { 0, 3, EXC_NONE },
		{ 3, DS0, EXC_GP },	   { 3, DS3, EXC_NONE },   { 3, DS3 & ~3, EXC_NONE },
		{ 3, CONF | 3, EXC_NONE }, { 3, DS1, EXC_GP },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct cpu_rig *r = cpu_rig_new();

		protected_mode(r, rows[i].cpl);
		r->s->gpr[RAX] = rows[i].sel;
		RUN(r, 0x8e, 0xc0); /* mov es, ax */
		if (rows[i].vector != EXC_NONE) {
			expect_exc(r, rows[i].vector, rows[i].sel & ~3u);
		} else {
			EQ(r->c->exc.vector, EXC_NONE);
			EQ(r->s->seg[SEG_ES].sel, rows[i].sel);
			EQ(!!(r->s->seg[SEG_ES].attr & ATTR_UNUSABLE), sel_null(rows[i].sel));
		}
		cpu_rig_free(r);
	}
}

TEST(seg_stack_segment_is_stricter)
{
	static const struct {
		u8 cpl;
		u16 sel;
		u8 vector;
	} rows[] = {
		{ 0, DS0, EXC_NONE },  { 0, DS3, EXC_GP },   { 0, DS0 | 3, EXC_GP },
		{ 0, RO, EXC_GP },     { 0, CS0, EXC_GP },   { 0, 0, EXC_GP },
		{ 0, ABSENT, EXC_SS }, { 3, DS3, EXC_NONE }, { 3, DS3 & ~3, EXC_GP },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct cpu_rig *r = cpu_rig_new();

		protected_mode(r, rows[i].cpl);
		r->s->gpr[RAX] = rows[i].sel;
		RUN(r, 0x8e, 0xd0); /* mov ss, ax */
		if (rows[i].vector != EXC_NONE) {
			expect_exc(r, rows[i].vector, rows[i].sel & ~3u);
		} else {
			EQ(r->s->seg[SEG_SS].sel, rows[i].sel);
			EQ(r->s->int_shadow, 2);
		}
		cpu_rig_free(r);
	}
}

TEST(seg_null_stack_in_64_bit_mode_outside_ring_3)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	r->s->gpr[RAX] = 0;
	RUN(r, 0x8e, 0xd0);
	EQ(r->c->exc.vector, EXC_NONE);
	EQ(r->c->cpl, 0);
	cpu_rig_free(r);
	r = cpu_rig_new();
	long_mode(r, 3);
	r->s->gpr[RAX] = 3;
	RUN(r, 0x8e, 0xd0);
	expect_exc(r, EXC_GP, 0);
	cpu_rig_free(r);
}

TEST(seg_loads_mark_descriptors_accessed)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	gdt_set(r, DS0, gdt_entry(0, 0xfffff, 0xc092));
	r->s->gpr[RAX] = DS0;
	RUN(r, 0x8e, 0xc0);
	EQ(ram(r, GDT + DS0)[5], 0x93);
	EQ(r->s->seg[SEG_ES].attr, 0xc093);
	cpu_rig_free(r);
}

TEST(seg_ldt_selectors_need_a_loaded_ldt)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	st64(ram(r, LDT + 0x18), gdt_entry(0x5000, 0xfff, 0x93));
	r->s->gpr[RAX] = 0x1c;
	RUN(r, 0x8e, 0xc0);
	expect_exc(r, EXC_GP, 0x1c);
	r->s->gpr[RBX] = SEL_LDT;
	RUN(r, 0x0f, 0x00, 0xd3); /* lldt bx */
	EQ(r->c->exc.vector, EXC_NONE);
	EQ(r->s->ldt.base, LDT);
	RUN(r, 0x8e, 0xc0);
	EQ(r->s->seg[SEG_ES].base, 0x5000);
	EQ(r->s->seg[SEG_ES].limit, 0xfff);
	cpu_rig_free(r);
}

TEST(seg_limits_types_and_expand_down)
{
	struct cpu_rig *r = cpu_rig_new();
	gva_t lin;

	protected_mode(r, 0);
	r->s->seg[SEG_ES] = (struct seg_reg){ 8, 0x93, 0xfff, 0x5000 };
	r->s->seg[SEG_FS] = (struct seg_reg){ 8, 0x97, 0xfff, 0x5000 }; /* expand-down, 16-bit */
	r->s->seg[SEG_GS] = (struct seg_reg){ 8, 0x91, 0xfff, 0 }; /* read-only */
	tcg_engine.push(&r->c->v);
	OK(seg_lin(r->c, SEG_ES, 0xffc, 4, ACC_W, &lin) && lin == 0x5ffc);
	OK(!seg_lin(r->c, SEG_ES, 0xffd, 4, ACC_R, &lin));
	EQ(r->c->exc.vector, EXC_GP);
	OK(!seg_lin(r->c, SEG_FS, 0xfff, 1, ACC_R, &lin));
	OK(seg_lin(r->c, SEG_FS, 0x1000, 1, ACC_R, &lin) &&
	   seg_lin(r->c, SEG_FS, 0xffff, 1, ACC_R, &lin));
	OK(!seg_lin(r->c, SEG_FS, 0xffff, 2, ACC_R, &lin));
	OK(seg_lin(r->c, SEG_GS, 0, 4, ACC_R, &lin) && !seg_lin(r->c, SEG_GS, 0, 4, ACC_W, &lin));
	OK(seg_lin(r->c, SEG_CS, 0, 4, ACC_R, &lin) && !seg_lin(r->c, SEG_CS, 0, 4, ACC_W, &lin));
	OK(seg_lin(r->c, SEG_DS, 0xfffffffe, 4, ACC_R, &lin));
	cpu_rig_free(r);
}

TEST(seg_real_mode_keeps_limits_and_v86_resets_them)
{
	struct cpu_rig *r = cpu_rig_new();

	r->s->seg[SEG_ES] = flat32(0, 3, 0); /* left behind by protected mode */
	r->s->seg[SEG_CS].base = 0;
	r->s->rip = CODE;
	r->s->seg[SEG_CS].limit = 0xffffffff;
	tcg_engine.push(&r->c->v);
	OK(seg_load(r->c, SEG_ES, 0x1234));
	EQ(r->s->seg[SEG_ES].base, 0x12340);
	EQ(r->s->seg[SEG_ES].limit, 0xffffffff);
	cpu_rig_free(r);
	r = cpu_rig_new();
	protected_mode(r, 0);
	r->s->rflags |= FL_VM;
	tcg_engine.push(&r->c->v);
	OK(seg_load(r->c, SEG_ES, 0x1234));
	EQ(r->s->seg[SEG_ES].limit, 0xffff);
	EQ(r->s->seg[SEG_ES].attr, 0xf3);
	cpu_rig_free(r);
}

/* --- far jumps and calls ---------------------------------------------------------------------- */
static void jump_far(struct cpu_rig *r, u8 opcode, u16 sel, u32 off)
{
	RUN(r, opcode, (u8)off, (u8)(off >> 8), (u8)(off >> 16), (u8)(off >> 24), (u8)sel,
	    (u8)(sel >> 8));
}

TEST(seg_far_jump_checks)
{
	static const struct {
		u8 cpl;
		u16 sel, lands_in;
		u8 vector;
	} rows[] = {
		{ 0, CS0, CS0, EXC_NONE },	 { 0, CS0 | 3, 0, EXC_GP },
		{ 0, CS3, 0, EXC_GP },		 { 3, CS0, 0, EXC_GP },
		{ 3, CS3, CS3, EXC_NONE },	 { 3, CS3 & ~3, CS3, EXC_NONE },
		{ 3, CONF, CONF | 3, EXC_NONE }, { 0, CONF | 3, CONF, EXC_NONE },
		{ 0, DS0, 0, EXC_GP },		 { 0, 0, 0, EXC_GP },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct cpu_rig *r = cpu_rig_new();

		protected_mode(r, rows[i].cpl);
		jump_far(r, 0xea, rows[i].sel, TARGET);
		if (rows[i].vector != EXC_NONE) {
			expect_exc(r, rows[i].vector, rows[i].sel & ~3u);
		} else {
			EQ(r->s->rip, TARGET);
			EQ(r->s->seg[SEG_CS].sel, rows[i].lands_in);
			EQ(r->c->cpl, rows[i].cpl);
		}
		cpu_rig_free(r);
	}
}

TEST(seg_far_jump_beyond_the_limit_or_absent)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	jump_far(r, 0xea, CS0_16, 0x10000);
	expect_exc(r, EXC_GP, 0);
	gdt_set(r, CS1, gdt_entry(0, 0xfffff, 0xc01b));
	jump_far(r, 0xea, CS1 & ~3, TARGET);
	expect_exc(r, EXC_NP, CS1 & ~3);
	jump_far(r, 0xea, CS0_16, 0x1234);
	EQ(r->c->mode, MODE_16);
	cpu_rig_free(r);
}

TEST(seg_far_call_and_return)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	jump_far(r, 0x9a, CONF, TARGET);
	EQ(r->s->gpr[RSP], STACK0 - 8);
	EQ(ld32(ram(r, STACK0 - 8)), CODE + 7);
	EQ(ld32(ram(r, STACK0 - 4)), CS0);
	RUN(r, 0xca, 0x10, 0x00); /* retf 16 */
	EQ(r->s->rip, CODE + 7);
	EQ(r->s->seg[SEG_CS].sel, CS0);
	EQ(r->s->gpr[RSP], STACK0 + 16);
	cpu_rig_free(r);
}

TEST(seg_far_return_outward_changes_stacks_and_drops_segments)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	r->s->seg[SEG_ES] = flat32(DS0, 3, 0);
	r->s->seg[SEG_GS] = flat32(DS0, 3, 0);
	r->s->seg[SEG_GS].base = 0x400000;
	r->s->gpr[RSP] = STACK0 - 24;
	st32(ram(r, STACK0 - 24), TARGET);
	st32(ram(r, STACK0 - 20), CS3);
	st32(ram(r, STACK0 - 8), STACK3);
	st32(ram(r, STACK0 - 4), DS3);
	tcg_engine.push(&r->c->v);
	RUN(r, 0xca, 0x08, 0x00); /* retf 8 */
	EQ(r->c->exc.vector, EXC_NONE);
	EQ(r->c->cpl, 3);
	EQ(r->s->gpr[RSP], STACK3 + 8);
	EQ(r->s->seg[SEG_SS].sel, DS3);
	OK(r->s->seg[SEG_ES].attr & ATTR_UNUSABLE);
	OK(r->s->seg[SEG_GS].attr & ATTR_UNUSABLE);
	EQ(r->s->seg[SEG_GS].base, 0x400000); /* which 64-bit code still uses */
	EQ(r->s->seg[SEG_DS].sel, DS3);
	cpu_rig_free(r);
}

static void gate_set(struct cpu_rig *r, u16 cs, u32 off, u8 type, unsigned dpl, unsigned params)
{
	gdt_set(r, GATE,
		(off & 0xffff) | (u64)cs << 16 | (u64)params << 32 |
			(u64)(type | ATTR_P | dpl << 5) << 40 | (u64)(off >> 16) << 48);
}

TEST(seg_call_gate_copies_parameters_to_the_inner_stack)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 3);
	gate_set(r, CS0, TARGET, SYS_CALL32, 3, 3);
	r->s->gpr[RSP] = STACK3 - 12;
	for (unsigned i = 0; i < 3; i++)
		st32(ram(r, STACK3 - 12 + 4 * i), 0x100 + i);
	jump_far(r, 0x9a, GATE, 0);
	EQ(r->c->exc.vector, EXC_NONE);
	EQ(r->c->cpl, 0);
	EQ(r->s->rip, TARGET);
	EQ(r->s->gpr[RSP], STACK0 - 28);
	EQ(ld32(ram(r, STACK0 - 28)), CODE + 7);
	EQ(ld32(ram(r, STACK0 - 24)), CS3);
	for (unsigned i = 0; i < 3; i++)
		EQ(ld32(ram(r, STACK0 - 20 + 4 * i)), 0x100 + i);
	EQ(ld32(ram(r, STACK0 - 8)), STACK3 - 12);
	EQ(ld32(ram(r, STACK0 - 4)), DS3);
	RUN(r, 0xca, 0x0c, 0x00); /* retf 12 */
	EQ(r->c->cpl, 3);
	EQ(r->s->rip, CODE + 7);
	EQ(r->s->gpr[RSP], STACK3);
	cpu_rig_free(r);
}

TEST(seg_16_bit_call_gate_moves_words)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 3);
	gate_set(r, CS0, 0xdead2340, SYS_CALL16, 3, 1);
	r->s->gpr[RSP] = STACK3 - 2;
	st16(ram(r, STACK3 - 2), 0xbeef);
	jump_far(r, 0x9a, GATE, 0);
	EQ(r->s->rip, 0x2340);
	EQ(r->s->gpr[RSP], STACK0 - 10);
	EQ(ld16(ram(r, STACK0 - 10)), (CODE + 7) & 0xffff);
	EQ(ld16(ram(r, STACK0 - 6)), 0xbeef);
	cpu_rig_free(r);
}

TEST(seg_gate_rules)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 3);
	gate_set(r, CS0, TARGET, SYS_CALL32, 0, 0);
	jump_far(r, 0x9a, GATE, 0);
	expect_exc(r, EXC_GP, GATE); /* the gate's DPL */
	gate_set(r, CS0, TARGET, SYS_CALL32, 3, 0);
	jump_far(r, 0xea, GATE, 0);
	expect_exc(r, EXC_GP, CS0); /* JMP cannot go inward */
	gate_set(r, CONF, TARGET, SYS_CALL32, 3, 0);
	jump_far(r, 0xea, GATE, 0);
	EQ(r->s->rip, TARGET);
	EQ(r->s->seg[SEG_CS].sel, CONF | 3);
	r->s->rip = CODE;
	gate_set(r, DS0, TARGET, SYS_CALL32, 3, 0);
	jump_far(r, 0x9a, GATE, 0);
	expect_exc(r, EXC_GP, DS0);
	gate_set(r, 0, TARGET, SYS_CALL32, 3, 0);
	jump_far(r, 0x9a, GATE, 0);
	expect_exc(r, EXC_GP, 0);
	st32(ram(r, TSS) + 8, DS3); /* a bad inner stack */
	gate_set(r, CS0, TARGET, SYS_CALL32, 3, 0);
	jump_far(r, 0x9a, GATE, 0);
	expect_exc(r, EXC_TS, DS3 & ~3);
	cpu_rig_free(r);
}

TEST(seg_64_bit_call_gate)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 3);
	gate_set(r, CS64, TARGET, SYS_CALL32, 3, 0);
	gdt_set(r, GATE + 8, 0x7f);
	st64(ram(r, 0x5000), (u64)GATE << 32);
	RUN(r, 0xff, 0x1c, 0x25, 0x00, 0x50, 0x00, 0x00); /* call far [0x5000] */
	EQ(r->c->exc.vector, EXC_NONE);
	EQ(r->c->cpl, 0);
	EQ(r->s->rip, 0x7f00000000 + TARGET);
	EQ(r->s->gpr[RSP], STACK0 - 32);
	EQ(ld64(ram(r, STACK0 - 32)), CODE + 7);
	EQ(ld64(ram(r, STACK0 - 16)), STACK3);
	EQ(r->s->seg[SEG_SS].sel, 0);
	cpu_rig_free(r);
	r = cpu_rig_new();
	long_mode(r, 3);
	gate_set(r, CS64, TARGET, SYS_CALL32, 3, 0);
	gdt_set(r, GATE + 8, 0x1f00ull << 32);
	st64(ram(r, 0x5000), (u64)GATE << 32);
	RUN(r, 0xff, 0x1c, 0x25, 0x00, 0x50, 0x00, 0x00);
	expect_exc(r, EXC_GP, GATE);
	cpu_rig_free(r);
}

/* --- tasks ------------------------------------------------------------------------------------ */
enum { T_EIP = 0x20, T_FLAGS = 0x24, T_EAX = 0x28, T_ESP = 0x38, T_ES = 0x48, T_LDT = 0x60 };

static void task_build(struct cpu_rig *r, u64 flags)
{
	u8 *t = ram(r, TSS_B);

	memset(t, 0, 0x100);
	st32(t + T_EIP, TARGET);
	st32(t + T_FLAGS, (u32)flags);
	for (unsigned i = 0; i < 8; i++)
		st32(t + T_EAX + 4 * i, 0xb0 + i);
	st32(t + T_ESP, STACK1);
	for (unsigned i = 0; i < SEG_NR; i++)
		st32(t + T_ES + 4 * i, i == SEG_CS ? CS0 : DS0);
}

TEST(seg_task_switch_by_call_and_back_by_iret)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	task_build(r, FL_CF);
	for (unsigned i = 0; i < SEG_NR; i++) /* the old task's segments are loaded again */
		if (i != SEG_CS)
			r->s->seg[i] = flat32(DS0, 3, 0);
	r->s->gpr[RBX] = 0x1111;
	tcg_engine.push(&r->c->v);
	jump_far(r, 0x9a, SEL_TSS_B, 0);
	EQ(r->c->exc.vector, EXC_NONE);
	EQ(r->s->rip, TARGET);
	EQ(r->s->gpr[RAX], 0xb0);
	EQ(r->s->gpr[RSP], STACK1);
	EQ(flags_get(r->c), 2 | FL_CF | FL_NT);
	EQ(r->s->tr.sel, SEL_TSS_B);
	EQ(ram(r, GDT + SEL_TSS_B)[5], 0x8b);
	EQ(ram(r, GDT + SEL_TSS)[5], 0x8b); /* both busy */
	EQ(ld16(ram(r, TSS_B)), SEL_TSS);
	EQ(ld32(ram(r, TSS) + T_EIP), CODE + 7);
	EQ(ld32(ram(r, TSS) + T_EAX + 4 * RBX), 0x1111);
	OK(r->s->cr0 & CR0_TS);
	RUN(r, 0xcf);
	EQ(r->c->exc.vector, EXC_NONE);
	EQ(r->s->rip, CODE + 7);
	EQ(r->s->gpr[RBX], 0x1111);
	EQ(flags_get(r->c), 2);
	EQ(r->s->tr.sel, SEL_TSS);
	EQ(ram(r, GDT + SEL_TSS_B)[5], 0x89);
	EQ(ld32(ram(r, TSS_B) + T_FLAGS) & FL_NT, 0);
	cpu_rig_free(r);
}

TEST(seg_task_jump_leaves_no_link)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	task_build(r, 0);
	jump_far(r, 0xea, SEL_TSS_B, 0);
	EQ(r->s->rip, TARGET);
	EQ(flags_get(r->c), 2);
	EQ(ram(r, GDT + SEL_TSS)[5], 0x89);
	EQ(ld16(ram(r, TSS_B)), 0);
	r->s->rip = CODE;
	jump_far(r, 0xea, SEL_TSS_B, 0); /* to itself: busy */
	expect_exc(r, EXC_GP, SEL_TSS_B);
	cpu_rig_free(r);
}

TEST(seg_task_gate_takes_an_exception_with_its_error_code)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 3);
	task_build(r, 0);
	memset(ram(r, IDT), 0, 0x1000);
	idt_set(r, EXC_GP, SEL_TSS_B, 0, SYS_TASK, 0);
	OK(exc_deliver(r->c, EV_EXC, EXC_GP, true, 0x42));
	EQ(r->c->cpl, 0);
	EQ(r->s->rip, TARGET);
	EQ(r->s->gpr[RSP], STACK1 - 4);
	EQ(ld32(ram(r, STACK1 - 4)), 0x42);
	EQ(ld32(ram(r, TSS) + T_EIP), CODE);
	EQ(flags_get(r->c) & FL_NT, FL_NT);
	cpu_rig_free(r);
}

TEST(seg_task_with_a_bad_segment_faults_in_the_new_task)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	task_build(r, 0);
	st32(ram(r, TSS_B) + T_ES + 4 * SEG_FS, XO);
	jump_far(r, 0xea, SEL_TSS_B, 0);
	EQ(r->c->exc.vector, EXC_TS);
	EQ(r->c->exc.error, XO);
	EQ(r->s->rip, TARGET);
	EQ(r->s->tr.sel, SEL_TSS_B);
	cpu_rig_free(r);
}

TEST(seg_int_n_into_a_bad_task_has_no_way_back)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	task_build(r, 0);
	memset(ram(r, IDT), 0, 0x1000);
	st32(ram(r, TSS_B) + T_ES + 4 * SEG_FS, XO);
	idt_set(r, 0x40, SEL_TSS_B, 0, SYS_TASK, 0);
	idt_set(r, EXC_TS, CS0, 0x20000, SYS_INT32, 0);
	r->c->soft_len = 2;
	r->s->rip = CODE + 2;
	OK(exc_deliver(r->c, EV_SOFT_INT, 0x40, false, 0));
	EQ(r->s->rip, 0x20000);
	EQ(ld32(ram(r, r->s->gpr[RSP])), XO);
	EQ(ld32(ram(r, r->s->gpr[RSP] + 4)), TARGET); /* the new task's first instruction */
	cpu_rig_free(r);
}

TEST(seg_task_debug_trap)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	task_build(r, 0);
	ram(r, TSS_B)[0x64] = 1;
	jump_far(r, 0xea, SEL_TSS_B, 0);
	EQ(r->c->exc.vector, EXC_DB);
	EQ(r->c->exc.dr6, BIT(15));
	EQ(r->s->rip, TARGET);
	cpu_rig_free(r);
}

TEST(seg_task_into_virtual_8086_mode)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	task_build(r, FL_VM);
	jump_far(r, 0xea, SEL_TSS_B, 0);
	EQ(r->c->cpl, 3);
	EQ(r->c->mode, MODE_16);
	EQ(r->s->seg[SEG_CS].base, CS0 << 4);
	EQ(r->s->seg[SEG_DS].limit, 0xffff);
	cpu_rig_free(r);
}

TEST(seg_task_of_16_bits)
{
	struct cpu_rig *r = cpu_rig_new();
	u8 *t;

	protected_mode(r, 0);
	gdt_set(r, SEL_TSS_B, gdt_entry(TSS_B, 0x2b, 0x81));
	t = ram(r, TSS_B);
	memset(t, 0, 0x100);
	st16(t + 0x0e, 0x2340);
	st16(t + 0x12 + 2 * RSP, STACK1 & 0xffff);
	st16(t + 0x12 + 2 * RCX, 0xc0de);
	for (unsigned i = 0; i < 4; i++)
		st16(t + 0x22 + 2 * i, i == SEG_CS ? CS0 : DS0);
	jump_far(r, 0xea, SEL_TSS_B, 0);
	EQ(r->c->exc.vector, EXC_NONE);
	EQ(r->s->rip, 0x2340);
	EQ(r->s->gpr[RCX] & 0xffff, 0xc0de);
	OK(r->s->seg[SEG_FS].attr & ATTR_UNUSABLE);
	cpu_rig_free(r);
}
