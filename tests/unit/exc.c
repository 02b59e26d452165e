/* exc.c - event delivery: the frame in every mode, stack switches, error codes, double and
 * triple faults. */
#include "cpu.h"

enum { HANDLER_AT = 0x20000 };

static u64 stack32(struct cpu_rig *r, unsigned i)
{
	return ld32(ram(r, r->s->seg[SEG_SS].base + (u32)r->s->gpr[RSP]) + 4 * i);
}

static u64 stack64(struct cpu_rig *r, unsigned i)
{
	return ld64(ram(r, r->s->gpr[RSP]) + 8 * i);
}

static void expect_exc(struct cpu_rig *r, u8 vector, u32 error)
{
	EQ(r->c->exc.vector, vector);
	OK(r->c->exc.has_error);
	EQ(r->c->exc.error, error);
}

/* Bytes of the interrupt gates 0-31, all to HANDLER_AT + 16 * vector. */
static void idt_fill(struct cpu_rig *r, u16 sel, u8 type, unsigned dpl)
{
	memset(ram(r, IDT), 0, 0x1000);
	for (unsigned v = 0; v < 32; v++)
		idt_set(r, (u8)v, sel, HANDLER_AT + 16 * v, type, dpl);
}

static void idt_fill64(struct cpu_rig *r)
{
	memset(ram(r, IDT), 0, 0x1000);
	for (unsigned v = 0; v < 32; v++)
		idt_set64(r, (u8)v, CS64, HANDLER_AT + 16 * v, SYS_INT32, 0, 0);
}

/* --- real mode -------------------------------------------------------------------------------- */
static struct cpu_rig *real_rig(void)
{
	struct cpu_rig *r = cpu_rig_new();
	struct cpu_state *s = r->s;

	s->seg[SEG_CS] = (struct seg_reg){ 0x1000, 0x9b, 0xffff, 0x10000 };
	s->seg[SEG_SS] = (struct seg_reg){ 0x500, 0x93, 0xffff, 0x5000 };
	s->idt = (struct table_reg){ 0, 0x3ff };
	s->rip = 0x123;
	s->gpr[RSP] = 0xabcd0100;
	s->rflags = 2 | FL_IF | FL_TF | FL_CF;
	tcg_engine.push(&r->c->v);
	return r;
}

TEST(exc_real_mode_pushes_three_words)
{
	struct cpu_rig *r = real_rig();

	st16(ram(r, 4 * 13), 0x4567);
	st16(ram(r, 4 * 13 + 2), 0x2000);
	OK(exc_deliver(r->c, EV_EXC, EXC_GP, true, 0x55));
	EQ(r->s->seg[SEG_CS].sel, 0x2000);
	EQ(r->s->seg[SEG_CS].base, 0x20000);
	EQ(r->s->rip, 0x4567);
	EQ(r->s->gpr[RSP], 0xabcd00fa); /* no error code; the upper half of ESP stays */
	EQ(ld16(ram(r, 0x50fa)), 0x123);
	EQ(ld16(ram(r, 0x50fc)), 0x1000);
	EQ(ld16(ram(r, 0x50fe)), 2 | FL_IF | FL_TF | FL_CF);
	EQ(flags_get(r->c), 2 | FL_CF);
	cpu_rig_free(r);
}

TEST(exc_real_mode_stack_wraps)
{
	struct cpu_rig *r = real_rig();

	r->s->gpr[RSP] = 2;
	OK(exc_deliver(r->c, EV_INTR, 8, false, 0));
	EQ(r->s->gpr[RSP], 0xfffc);
	EQ(ld16(ram(r, 0x5000)), 2 | FL_IF | FL_TF | FL_CF);
	EQ(ld16(ram(r, 0x14ffe)), 0x1000);
	cpu_rig_free(r);
}

TEST(exc_real_mode_vector_beyond_the_table_ends_in_shutdown_without_one)
{
	struct cpu_rig *r = real_rig();

	r->s->idt.limit = 8 * 4 - 1;
	OK(!exc_deliver(r->c, EV_SOFT_INT, 0x80, false, 0)); /* #GP has no entry, #DF has none */
	r->s->idt.limit = 9 * 4 - 1;
	st32(ram(r, 4 * 8), 0x30000010);
	OK(exc_deliver(r->c, EV_SOFT_INT, 0x80, false, 0));
	EQ(r->s->seg[SEG_CS].sel, 0x3000);
	cpu_rig_free(r);
}

/* --- protected mode --------------------------------------------------------------------------- */
TEST(exc_same_ring_frame)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	idt_fill(r, CS0, SYS_TRAP32, 0);
	flags_set(r->c, FL_IF | FL_TF | FL_NT | FL_ZF);
	OK(exc_deliver(r->c, EV_EXC, EXC_GP, true, 0x1234));
	EQ(r->s->rip, HANDLER_AT + 16 * EXC_GP);
	EQ(r->s->gpr[RSP], STACK0 - 16);
	EQ(stack32(r, 0), 0x1234);
	EQ(stack32(r, 1), CODE);
	EQ(stack32(r, 2), CS0);
	EQ(stack32(r, 3), 2 | FL_IF | FL_TF | FL_NT | FL_ZF | FL_RF);
	EQ(flags_get(r->c), 2 | FL_IF | FL_ZF); /* a trap gate leaves IF */
	cpu_rig_free(r);
}

TEST(exc_16_bit_gate_pushes_words)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	idt_fill(r, CS0, SYS_INT16, 0);
	flags_set(r->c, FL_IF);
	OK(exc_deliver(r->c, EV_INTR, 3, false, 0));
	EQ(r->s->gpr[RSP], STACK0 - 6);
	EQ(ld16(ram(r, STACK0 - 6)), CODE & 0xffff);
	EQ(ld16(ram(r, STACK0 - 4)), CS0);
	EQ(ld16(ram(r, STACK0 - 2)), 2 | FL_IF);
	EQ(r->s->rip, (HANDLER_AT + 16 * 3) & 0xffff);
	EQ(flags_get(r->c), 2);
	cpu_rig_free(r);
}

TEST(exc_inner_ring_switches_stacks)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 3);
	idt_fill(r, CS0, SYS_INT32, 0);
	OK(exc_deliver(r->c, EV_INTR, 5, false, 0));
	EQ(r->c->cpl, 0);
	EQ(r->s->seg[SEG_SS].sel, DS0);
	EQ(r->s->gpr[RSP], STACK0 - 20);
	EQ(stack32(r, 0), CODE);
	EQ(stack32(r, 1), CS3);
	EQ(stack32(r, 2), 2);
	EQ(stack32(r, 3), STACK3);
	EQ(stack32(r, 4), DS3);
	cpu_rig_free(r);
}

TEST(exc_ring_1_uses_its_own_stack)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 3);
	idt_fill(r, CS1 & ~3, SYS_INT32, 0);
	OK(exc_deliver(r->c, EV_INTR, 5, false, 0));
	EQ(r->c->cpl, 1);
	EQ(r->s->seg[SEG_CS].sel, CS1);
	EQ(r->s->seg[SEG_SS].sel, DS1);
	EQ(r->s->gpr[RSP], STACK1 - 20);
	cpu_rig_free(r);
}

TEST(exc_conforming_handler_stays_in_its_ring)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 3);
	idt_fill(r, CONF, SYS_INT32, 0);
	OK(exc_deliver(r->c, EV_INTR, 5, false, 0));
	EQ(r->c->cpl, 3);
	EQ(r->s->seg[SEG_CS].sel, CONF | 3);
	EQ(r->s->gpr[RSP], STACK3 - 12);
	cpu_rig_free(r);
}

/* One fault on the way: deliver vector 5 and see what arrives at the #TS, #NP, #SS or #GP
 * handler. */
static void expect_nested(struct cpu_rig *r, enum event_kind kind, u8 vector, u32 error)
{
	u8 len = 2;
	bool soft = kind == EV_SOFT_INT;

	r->c->soft_len = soft ? len : 0;
	OK(exc_deliver(r->c, kind, 5, false, 0));
	EQ(r->s->rip, HANDLER_AT + 16 * vector);
	EQ(stack32(r, 0), error);
	EQ(stack32(r, 1), CODE - (soft ? len : 0));
}

TEST(exc_bad_gates_report_themselves_with_ext)
{
	for (enum event_kind kind = EV_INTR; kind <= EV_SOFT_INT; kind++) {
		static const struct {
			u8 vector;
			u64 gate;
			u32 error;
		} rows[] = {
			{ EXC_GP, 0, 5 * 8 + 2 }, /* no gate at all */
			{ EXC_NP, (u64)(SYS_INT32 | 3 << 5) << 40 | CS0 << 16, 5 * 8 + 2 },
			{ EXC_GP, 0x0000ee0000000000, 0 }, /* null selector */
			{ EXC_GP, 0x0000ee0000000000 | DS0 << 16, DS0 }, /* not code */
			{ EXC_GP, 0x0000ee0000000000 | (u64)0xff8 << 16,
			  0xff8 }, /* empty descriptor */
			{ EXC_GP, 0x0000ee0000000000 | (u64)0x1000 << 16,
			  0x1000 }, /* beyond the GDT */
			{ EXC_GP, 0x0000ee0000000000 | (u64)0x14 << 16,
			  0x14 }, /* there is no LDT */
		};
		if (kind == EV_NMI || kind == EV_EXC)
			continue;
		for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
			struct cpu_rig *r = cpu_rig_new();

			protected_mode(r, 0);
			idt_fill(r, CS0, SYS_INT32, 3);
			st64(ram(r, IDT + 5 * 8), rows[i].gate);
			expect_nested(r, kind, rows[i].vector, rows[i].error | (kind == EV_INTR));
			cpu_rig_free(r);
		}
	}
}

TEST(exc_software_interrupts_need_the_gates_dpl)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 3);
	idt_fill(r, CS0, SYS_INT32, 0);
	expect_nested(r, EV_SOFT_INT, EXC_GP, 5 * 8 + 2);
	cpu_rig_free(r);
	r = cpu_rig_new();
	protected_mode(r, 3);
	idt_fill(r, CS0, SYS_INT32, 2);
	OK(exc_deliver(r->c, EV_ICEBP, 1, false, 0)); /* INT1 does not ask */
	EQ(r->s->rip, HANDLER_AT + 16);
	cpu_rig_free(r);
}

TEST(exc_bad_inner_stacks_are_invalid_tss)
{
	static const struct {
		u16 ss;
		u8 vector;
		u32 error;
	} rows[] = {
		{ 0, EXC_TS, 1 },
		{ DS3, EXC_TS, (DS3 & ~3) | 1 },
		{ DS1, EXC_TS, (DS1 & ~3) | 1 },
		{ CS0, EXC_TS, CS0 | 1 },
		{ RO, EXC_TS, RO | 1 },
		{ ABSENT, EXC_SS, ABSENT | 1 },
		{ 0x1000, EXC_TS, 0x1001 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct cpu_rig *r = cpu_rig_new();

		protected_mode(r, 3);
		idt_fill(r, CS0, SYS_INT32, 0);
		/* the fault is handled in ring 3's own code, or there would be no end */
		idt_set(r, EXC_TS, CONF, HANDLER_AT + 16 * EXC_TS, SYS_INT32, 0);
		idt_set(r, EXC_SS, CONF, HANDLER_AT + 16 * EXC_SS, SYS_INT32, 0);
		st32(ram(r, TSS) + 8, rows[i].ss);
		OK(exc_deliver(r->c, EV_INTR, 5, false, 0));
		EQ(r->s->rip, HANDLER_AT + 16 * rows[i].vector);
		EQ(stack32(r, 0), rows[i].error);
		cpu_rig_free(r);
	}
}

TEST(exc_short_tss_is_invalid)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 3);
	idt_fill(r, CS0, SYS_INT32, 0);
	idt_set(r, EXC_TS, CONF, HANDLER_AT, SYS_INT32, 0);
	r->s->tr.limit = 7;
	OK(exc_deliver(r->c, EV_INTR, 5, false, 0));
	EQ(stack32(r, 0), SEL_TSS | 1);
	cpu_rig_free(r);
}

TEST(exc_no_room_on_the_stack_leaves_the_registers_alone)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	idt_fill(r, CS0, SYS_INT32, 0);
	r->s->seg[SEG_SS].limit = 0xff; /* byte granular */
	r->s->gpr[RSP] = 8;
	tcg_engine.push(&r->c->v);
	OK(!exc_deliver(r->c, EV_INTR, 5, false, 0)); /* #SS, #DF, shutdown: none of them fits */
	EQ(r->s->gpr[RSP], 8);
	EQ(r->s->rip, CODE);
	cpu_rig_free(r);
}

/* --- virtual-8086 mode ------------------------------------------------------------------------ */
static struct cpu_rig *v86_rig(u64 iopl)
{
	struct cpu_rig *r = cpu_rig_new();
	struct cpu_state *s = r->s;

	protected_mode(r, 3);
	idt_fill(r, CS0, SYS_INT32, 3);
	for (unsigned i = 0; i < SEG_NR; i++)
		s->seg[i] = (struct seg_reg){ (u16)(0x100 + i), 0xf3, 0xffff, (0x100 + i) << 4 };
	s->seg[SEG_CS].base = CODE;
	s->seg[SEG_CS].sel = CODE >> 4;
	s->rflags = 2 | FL_VM | FL_IF | iopl << 12;
	s->rip = 0x10;
	s->gpr[RSP] = 0x80;
	tcg_engine.push(&r->c->v);
	EQ(r->c->cpl, 3);
	EQ(r->c->mode, MODE_16);
	return r;
}

TEST(exc_v86_pushes_all_segments_and_clears_them)
{
	struct cpu_rig *r = v86_rig(0);

	OK(exc_deliver(r->c, EV_EXC, EXC_GP, true, 0));
	EQ(r->c->cpl, 0);
	EQ(r->s->gpr[RSP], STACK0 - 40);
	EQ(stack32(r, 0), 0);
	EQ(stack32(r, 1), 0x10);
	EQ(stack32(r, 2), CODE >> 4);
	EQ(stack32(r, 3), 2 | FL_VM | FL_IF | FL_RF);
	EQ(stack32(r, 4), 0x80);
	EQ(stack32(r, 5), 0x100 + SEG_SS);
	EQ(stack32(r, 6), 0x100 + SEG_ES);
	EQ(stack32(r, 7), 0x100 + SEG_DS);
	EQ(stack32(r, 8), 0x100 + SEG_FS);
	EQ(stack32(r, 9), 0x100 + SEG_GS);
	EQ(r->s->seg[SEG_DS].sel, 0);
	OK(r->s->seg[SEG_DS].attr & ATTR_UNUSABLE);
	EQ(flags_get(r->c) & FL_VM, 0);
	RUN(r, 0x83, 0xc4, 0x04); /* add esp, 4 */
	r->s->rip = CODE;
	RUN(r, 0xcf); /* iret: back to where it came from */
	EQ(r->c->exc.vector, EXC_NONE);
	EQ(r->s->seg[SEG_GS].sel, 0x100 + SEG_GS);
	EQ(r->s->seg[SEG_GS].base, (0x100 + SEG_GS) << 4);
	EQ(r->s->gpr[RSP], 0x80);
	EQ(flags_get(r->c) & (FL_VM | FL_IF), FL_VM | FL_IF);
	EQ(r->c->cpl, 3);
	cpu_rig_free(r);
}

TEST(exc_v86_int_n_needs_iopl_3_and_int3_does_not)
{
	struct cpu_rig *r = v86_rig(0);

	r->c->soft_len = 2;
	OK(exc_deliver(r->c, EV_SOFT_INT, 5, false, 0));
	EQ(r->s->rip, HANDLER_AT + 16 * EXC_GP);
	EQ(stack32(r, 0), 0);
	EQ(stack32(r, 1), 0x10 - 2);
	cpu_rig_free(r);
	r = v86_rig(3);
	OK(exc_deliver(r->c, EV_SOFT_INT, 5, false, 0));
	EQ(r->s->rip, HANDLER_AT + 16 * 5);
	cpu_rig_free(r);
	r = v86_rig(0);
	OK(exc_deliver(r->c, EV_SOFT_EXC, EXC_BP, false, 0));
	EQ(r->s->rip, HANDLER_AT + 16 * EXC_BP);
	cpu_rig_free(r);
}

TEST(exc_v86_handlers_must_run_in_ring_0)
{
	struct cpu_rig *r = v86_rig(3);

	idt_set(r, 5, CS1, HANDLER_AT, SYS_INT32, 3);
	OK(exc_deliver(r->c, EV_INTR, 5, false, 0));
	EQ(r->s->rip, HANDLER_AT + 16 * EXC_GP);
	EQ(stack32(r, 0), (CS1 & ~3) | 1);
	cpu_rig_free(r);
}

/* --- long mode -------------------------------------------------------------------------------- */
TEST(exc_long_mode_frame_is_aligned_and_always_has_the_stack)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	idt_fill64(r);
	r->s->gpr[RSP] = STACK0 - 5;
	flags_set(r->c, FL_IF | FL_TF);
	OK(exc_deliver(r->c, EV_EXC, EXC_PF, true, 6));
	EQ(r->s->gpr[RSP], STACK0 - 16 - 48);
	EQ(stack64(r, 0), 6);
	EQ(stack64(r, 1), CODE);
	EQ(stack64(r, 2), CS64);
	EQ(stack64(r, 3), 2 | FL_IF | FL_TF | FL_RF);
	EQ(stack64(r, 4), STACK0 - 5);
	EQ(stack64(r, 5), DS0);
	EQ(r->s->seg[SEG_SS].sel, DS0);
	EQ(flags_get(r->c), 2);
	cpu_rig_free(r);
}

TEST(exc_long_mode_ring_3_gets_rsp0_and_a_null_ss)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 3);
	idt_fill64(r);
	OK(exc_deliver(r->c, EV_INTR, 7, false, 0));
	EQ(r->c->cpl, 0);
	EQ(r->s->seg[SEG_SS].sel, 0);
	EQ(r->s->gpr[RSP], STACK0 - 40);
	EQ(stack64(r, 1), CS64_3);
	EQ(stack64(r, 4), DS3);
	RUN(r, 0x48, 0xcf); /* iretq */
	EQ(r->c->exc.vector, EXC_NONE);
	EQ(r->c->cpl, 3);
	EQ(r->s->rip, CODE);
	EQ(r->s->gpr[RSP], STACK3);
	EQ(r->s->seg[SEG_SS].sel, DS3);
	cpu_rig_free(r);
}

TEST(exc_ist_is_used_even_in_ring_0)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	idt_fill64(r);
	idt_set64(r, 2, CS64, HANDLER_AT, SYS_INT32, 0, 3);
	st64(ram(r, TSS) + 0x24 + 16, STACK1 + 7);
	OK(exc_deliver(r->c, EV_NMI, 2, false, 0));
	EQ(r->s->gpr[RSP], STACK1 - 40);
	EQ(stack64(r, 3), STACK0);
	EQ(r->s->nmi_blocked, 1);
	RUN(r, 0x48, 0xcf);
	EQ(r->s->nmi_blocked, 0);
	EQ(r->s->gpr[RSP], STACK0);
	cpu_rig_free(r);
}

TEST(exc_long_mode_refuses_compatibility_code_and_old_gates)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	idt_fill64(r);
	idt_set64(r, 5, CS0, HANDLER_AT, SYS_INT32, 0, 0);
	OK(exc_deliver(r->c, EV_INTR, 5, false, 0));
	EQ(r->s->rip, HANDLER_AT + 16 * EXC_GP);
	EQ(stack64(r, 0), CS0 | 1);
	idt_set64(r, 5, CS64, HANDLER_AT, SYS_INT16, 0, 0);
	OK(exc_deliver(r->c, EV_INTR, 5, false, 0));
	EQ(stack64(r, 0), (5 * 8 + 2) | 1);
	cpu_rig_free(r);
}

TEST(exc_non_canonical_rsp0_is_a_stack_fault)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 3);
	idt_fill64(r);
	idt_set64(r, EXC_SS, CS64, HANDLER_AT, SYS_INT32, 0, 1);
	st64(ram(r, TSS) + 0x24, STACK1);
	st64(ram(r, TSS) + 4, 0x900000000000);
	OK(exc_deliver(r->c, EV_INTR, 5, false, 0));
	EQ(r->s->rip, HANDLER_AT);
	EQ(stack64(r, 0), 1);
	cpu_rig_free(r);
}

/* --- faults upon faults ----------------------------------------------------------------------- */
/* First fault: vector `first`, whose gate is absent (#NP) or whose frame page-faults. */
static u8 second_delivered(u8 first, bool page_fault)
{
	struct cpu_rig *r = cpu_rig_new();
	u8 got;

	long_mode(r, 3);
	idt_fill64(r);
	st64(ram(r, TSS) + 0x24, STACK1); /* IST1 */
	for (unsigned v = 0; v < 32; v++)
		idt_set64(r, (u8)v, CS64, HANDLER_AT + 16 * v, SYS_INT32, 0, 1);
	if (page_fault) { /* its stack is where nothing is mapped */
		idt_set64(r, first, CS64, HANDLER_AT + 16 * first, SYS_INT32, 0, 2);
		st64(ram(r, TSS) + 0x2c, 0x7000000000);
	} else {
		st64(ram(r, IDT + first * 16),
		     ld64(ram(r, IDT + first * 16)) & ~((u64)ATTR_P << 40));
	}
	if (first == EXC_PF && page_fault)
		r->s->cr2 = 0x1111;
	if (!exc_deliver(r->c, EV_EXC, first, first == EXC_PF || first == EXC_GP || first == EXC_DF,
			 0))
		got = 0xff;
	else
		got = (u8)((r->s->rip - HANDLER_AT) / 16);
	if (page_fault && got != 0xff)
		EQ(r->s->cr2, 0x7000000000 - 8);
	cpu_rig_free(r);
	return got;
}

TEST(exc_double_fault_table)
{
	static const u8 benign[] = { EXC_DB, EXC_BP, EXC_OF, EXC_BR, EXC_UD,
				     EXC_NM, EXC_MF, EXC_AC, EXC_XM };
	static const u8 contributory[] = { EXC_DE, EXC_TS, EXC_SS, EXC_GP };

	for (unsigned i = 0; i < ARRAY_LEN(benign); i++) {
		EQ(second_delivered(benign[i], false), EXC_NP);
		EQ(second_delivered(benign[i], true), EXC_PF);
	}
	for (unsigned i = 0; i < ARRAY_LEN(contributory); i++) {
		EQ(second_delivered(contributory[i], false), EXC_DF);
		EQ(second_delivered(contributory[i], true), EXC_PF);
	}
	EQ(second_delivered(EXC_PF, false), EXC_DF);
	EQ(second_delivered(EXC_PF, true), EXC_DF);
	EQ(second_delivered(EXC_DF, false), 0xff);
	EQ(second_delivered(EXC_DF, true), 0xff);
}

TEST(exc_double_fault_pushes_zero)
{
	struct cpu_rig *r = cpu_rig_new();

	protected_mode(r, 0);
	idt_fill(r, CS0, SYS_INT32, 0);
	st64(ram(r, IDT + EXC_GP * 8), 0);
	OK(exc_deliver(r->c, EV_EXC, EXC_GP, true, 0x77));
	EQ(r->s->rip, HANDLER_AT + 16 * EXC_DF);
	EQ(stack32(r, 0), 0);
	EQ(stack32(r, 1), CODE);
	cpu_rig_free(r);
}

TEST(exc_dispatch_sets_cr2_and_dr6)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	idt_fill64(r);
	r->c->exc =
		(struct exc){ .vector = EXC_PF, .has_error = true, .error = 2, .cr2 = 0x1234567 };
	OK(exc_dispatch(r->c));
	EQ(r->s->cr2, 0x1234567);
	EQ(r->c->exc.vector, EXC_NONE);
	r->s->dr[6] = 0xffff8ff2; /* BT stays until software clears it, B1 does not */
	r->s->dr[7] = 0x2400;
	r->c->exc = (struct exc){ .vector = EXC_DB, .trap = true, .dr6 = BIT(14) | BIT(2) };
	OK(exc_dispatch(r->c));
	EQ(r->s->dr[6], 0xffffcff4);
	EQ(r->s->dr[7], 0x400);
	EQ(stack64(r, 2) & FL_RF, 0);
	cpu_rig_free(r);
}

TEST(exc_iret_in_ring_3_keeps_what_it_may_not_change)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 3);
	r->s->gpr[RSP] = STACK3 - 40;
	st64(ram(r, STACK3 - 40), 0x10100);
	st64(ram(r, STACK3 - 32), CS64_3);
	st64(ram(r, STACK3 - 24), FL_IF | FL_IOPL | FL_CF | FL_AC | FL_ID);
	st64(ram(r, STACK3 - 16), STACK3);
	st64(ram(r, STACK3 - 8), DS3);
	RUN(r, 0x48, 0xcf);
	EQ(r->c->exc.vector, EXC_NONE);
	EQ(r->s->rip, 0x10100);
	EQ(flags_get(r->c), 2 | FL_CF | FL_AC | FL_ID);
	st64(ram(r, STACK3 - 32), CS64); /* inward */
	r->s->gpr[RSP] = STACK3 - 40;
	RUN(r, 0x48, 0xcf);
	expect_exc(r, EXC_GP, CS64);
	EQ(r->s->rip, 0x10100);
	cpu_rig_free(r);
}
