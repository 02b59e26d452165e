/* trans_loop.c - a block that jumps back to its own start, as a loop inside one translation.
 *
 * The block's ordinary code runs first; its jump back leads to a prelude here, and from there to a
 * second body that runs a strip: as often as no access leaves its page and the budget lasts.  An
 * access is hoisted out of that body if a run of the block changes its address by a constant, or
 * not at all: the prelude looks its page up in the TLB once, and the body adds what it found. If
 * that fails, the ordinary code does one run, with all its checks.
 *
 * That costs what some runs of the body have to earn.  So the first translation is on trial: it
 * counts entries and runs, and then is replaced by one without the counts or without the loop.
 *
 * The body needs registers: for the hoisted accesses, for what is left to pay, for guest registers
 * that have no place in the host's.  It borrows those of guest registers that the block does not
 * name, which are in hot.borrow[] meanwhile. */
#include "trans.h"

enum { STEP_MAX = 512, VAR_OFF_MAX = 1 << 20, FAR_MAX = 1 << 30, RECIPROCAL = 24 };

/* --- what moves ------------------------------------------------------------------------------- */
/* Value numbers of registers at the start are 1 to 16, see group_plan(). */
static bool value_steady(const struct emit *e, u32 id, s64 *delta)
{
	*delta = 0;
	if (id == ~0u || id == ~1u)
		return true;
	if (id < 1 || id > 16 || !(e->loop.steady & 1 << (id - 1)))
		return false;
	*delta = e->loop.delta[id - 1];
	return true;
}

static void group_hoist(struct emit *e, struct group *g)
{
	s64 base, index;

	g->host = g->var = REG_NONE;
	g->hoisted = value_steady(e, g->key.base, &base) && value_steady(e, g->key.index, &index) &&
		     !(base && index) && g->lo > -FAR_MAX && g->lo < FAR_MAX;
	if (!g->hoisted)
		return;
	index = (s64)((u64)index << g->key.scale);
	if (base + index > STEP_MAX || base + index < -STEP_MAX) {
		g->hoisted = false;
		return;
	}
	g->step = (s32)(base + index);
	if (g->step)
		g->var = (u8)((base ? g->key.base : g->key.index) - 1);
}

/* --- registers -------------------------------------------------------------------------------- */
static u16 reg_bit(unsigned reg)
{
	return reg < 16 ? (u16)(1 << reg) : 0;
}

/* Guest registers that the block names, or may use unnamed. */
static u16 named(const struct emit *e)
{
	u16 mask = 1 << RAX | 1 << RCX | 1 << RDX | 1 << RSP;

	for (unsigned i = 0; i < (unsigned)e->b->insns; i++) {
		const struct insn *in = &e->b->insn[i];

		for (unsigned n = 0; n < in->nopd; n++) {
			if (in->opd[n].kind == OPD_REG || in->opd[n].kind == OPD_REGH)
				mask |= reg_bit(in->opd[n].reg);
			if (in->opd[n].kind == OPD_MEM)
				mask |= reg_bit(in->base) | reg_bit(in->index);
		}
		if (insn_way(in) == WAY_LEAVE)
			mask |= 1 << RBP;
		if (insn_way(in) == WAY_OP && in->op->cls == CLS_SELF)
			mask |= 1 << RBX; /* CMPXCHG16B */
	}
	return mask;
}

/* Does instruction i make use of T0 to T2, other than for guest registers? */
static bool wants_scratch(const struct emit *e, unsigned i)
{
	const struct insn *in = &e->b->insn[i];

	switch (insn_way(in)) {
	case WAY_NOP:
	case WAY_LEA:
	case WAY_JCC: return false;
	case WAY_OP:
		if ((in->op->map >= MAP_D8 && in->op->map <= MAP_DF) ||
		    in->op->exec.self == exec_XCHG)
			return true;
		for (unsigned n = 0; n < in->nopd; n++)
			if (in->opd[n].kind == OPD_MEM &&
			    !e->group[e->touch[i][ACCESS_MEM].group].hoisted)
				return true;
		return false;
	default: return true;
	}
}

static u8 pool_take(u16 *pool)
{
	unsigned r = *pool ? (unsigned)__builtin_ctz(*pool) : REG_NONE;

	*pool &= (u16)(*pool - 1);
	return (u8)r;
}

/* Gives registers of the pool away, the most useful purpose first; false if they did not suffice.
 */
static bool registers_give(struct emit *e, u16 pool)
{
	const u16 all = pool;
	bool enough = true;

	e->loop.counter = pool_take(&pool);
	for (unsigned r = 0; r < 16; r++)
		if (reg_homeless(r) && named(e) & 1 << r)
			enough &= (e->loop.home[r] = pool_take(&pool)) != REG_NONE;
	for (unsigned n = 1; n < e->groups; n++)
		if (e->group[n].hoisted)
			enough &= (e->group[n].host = pool_take(&pool)) != REG_NONE;
	e->loop.taken = all & ~pool;
	e->loop.borrowed = e->loop.taken & ~(1 << T0 | 1 << T1 | 1 << T2);
	return enough && e->loop.counter != REG_NONE;
}

static void registers_plan(struct emit *e)
{
	const u16 ours = 1 << T0 | 1 << T1 | 1 << T2;
	u16 pool = (u16)~(named(e) | ours | 1 << R15);
	bool scratch = false;

	for (unsigned i = 0; i < (unsigned)e->b->insns; i++)
		scratch |= wants_scratch(e, i);
	if (scratch || !registers_give(e, pool | ours))
		registers_give(e, pool);
	/* What an access is made of has to be in a register that nothing else will be in. */
	for (unsigned n = 1; n < e->groups; n++) {
		struct group *g = &e->group[n];

		if (g->hoisted && g->var != REG_NONE && host_reg(e, g->var) == REG_NONE)
			g->hoisted = false;
		e->loop.inductive |= g->hoisted && g->step;
	}
}

/* Register offsets within the block become displacements. */
static bool offsets_fit(const struct emit *e)
{
	for (unsigned i = 0; i < (unsigned)e->b->insns; i++)
		for (unsigned w = 0; w < ACCESSES; w++) {
			const struct touch *x = &e->touch[i][w];

			if (x->base_off > VAR_OFF_MAX || x->base_off < -VAR_OFF_MAX ||
			    x->index_off > VAR_OFF_MAX || x->index_off < -VAR_OFF_MAX)
				return false;
		}
	return true;
}

static bool is_loop(const struct emit *e)
{
	unsigned n = (unsigned)e->b->insns;
	const struct insn *last = &e->b->insn[n - 1];

	if (insn_way(last) != WAY_JCC || rel_to(last) != e->b->insn[0].pgoff || !e->b->link_ok ||
	    e->live[0] || e->b->no_loop)
		return false;
	for (unsigned i = 0; i < n; i++) {
		enum way way = insn_way(&e->b->insn[i]);

		if (way < WAY_NOP || way > WAY_LEAVE)
			return i == n - 1 && offsets_fit(e);
	}
	return false;
}

void loop_plan(struct emit *e)
{
	struct loop *l = &e->loop;

	if (!is_loop(e))
		return;
	l->able = true;
	memset(l->home, REG_NONE, sizeof l->home);
	for (unsigned n = 1; n < e->groups; n++)
		group_hoist(e, &e->group[n]);
	l->on = true; /* for host_reg() */
	registers_plan(e);
	l->on = false;
}

/* --- code ------------------------------------------------------------------------------------- */
static s32 span_slot(const struct emit *e, const struct group *g)
{
	return GS_OFF(hot.span) + 8 * (s32)(g - e->group);
}

static void emit_imul(struct x64 *a, unsigned dst, unsigned src, s32 imm)
{
	x64_op(a, &(struct x64_op){ .opcode = 0x69, .w = true, .reg = (u8)dst, .rm = (u8)src });
	x64_u32(a, (u32)imm);
}

/* op 32-bit reg with gs:[off] */
static void emit_gs32(struct x64 *a, u8 opcode, unsigned reg, s32 off)
{
	x64_op(a, &(struct x64_op){ .opcode = opcode,
				    .reg = (u8)reg,
				    .mem = true,
				    .gs = true,
				    .disp = off });
}

/* T2 is the offset in the page; becomes how often the block can run. */
static void strip_count(struct x64 *a, s32 step, s32 most)
{
	u32 by = (u32)(step < 0 ? -step : step);

	if (step > 0) {
		x64_op(a, &(struct x64_op){ .opcode = 0xf7, .w = true, .reg = 3, .rm = T2 });
		x64_alu_imm(a, OP_ADD, true, T2, most);
	}
	if (by & (by - 1)) { /* exact for numerators below 4096 */
		emit_imul(a, T2, T2, (s32)((1u << RECIPROCAL) / by + 1));
		emit_shift(a, 5, true, T2, RECIPROCAL);
	} else if (by > 1) {
		emit_shift(a, 5, true, T2, (u8)__builtin_ctz(by));
	}
	x64_lea(a, T2, T2, 1);
}

/* The page of a group's span; hot.runs becomes at most the number of runs until it is left. */
static void emit_hoist(struct emit *e, struct group *g, const u8 *again)
{
	struct x64 *a = e->a;
	struct insn at = { .base = REG_NONE,
			   .index = REG_NONE,
			   .seg = (u8)(g->key.seg & 15),
			   .scale = (u8)g->key.scale,
			   .disp = g->lo,
			   .asize = 8 };
	s32 off = g->write ? offsetof(struct tlb, w) : offsetof(struct tlb, r);
	s32 most = (s32)(PAGE_SIZE - (u64)(g->hi - g->lo));

	if (g->key.base != ~0u)
		at.base = g->key.base == ~1u ? REG_RIP : (u8)(g->key.base - 1);
	if (g->key.index != ~0u)
		at.index = (u8)(g->key.index - 1);
	emit_linear(e, &at, ACCESS_MEM, 0);
	emit_patch(emit_lookup(e, off, most), again);
	x64_op(a, &(struct x64_op){
			  .opcode = 0x03, .w = true, .reg = T0, .rm = T1, .mem = true, .disp = off + 8 });
	if (g->var != REG_NONE) {
		bool by_index = g->key.base != g->var + 1u;
		unsigned var = emit_get(e, g->var, 1 << T0 | 1 << T2);

		if (by_index && g->key.scale) {
			if (var != T1)
				x64_mov_rr(a, T1, var);
			emit_shift(a, 4, true, T1, (u8)g->key.scale);
			var = T1;
		}
		emit_rr(a, 0x29, true, T0, var);
	}
	x64_store_gs(a, T0, span_slot(e, g));
	e->cached = 0;
	e->at_t0 = NULL;
	if (!g->step)
		return;
	strip_count(a, g->step, most);
	emit_gs32(a, 0x3b, T2, GS_OFF(hot.runs));
	x64_op(a, &(struct x64_op){ .map = X64_MAP_0F, /* CMOVA */
				    .opcode = 0x47,
				    .reg = T2,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(hot.runs) });
	emit_gs32(a, 0x89, T2, GS_OFF(hot.runs));
}

/* Registers with a purpose get what it asks for. */
static void registers_load(struct emit *e)
{
	struct loop *l = &e->loop;

	if (l->counter != REG_NONE)
		x64_load_gs(e->a, l->counter, GS_OFF(hot.left));
	for (unsigned r = 0; r < 16; r++)
		if (l->home[r] != REG_NONE)
			x64_load_gs(e->a, l->home[r], gs_gpr(r));
	for (unsigned n = 1; n < e->groups; n++)
		if (e->group[n].hoisted && e->group[n].host != REG_NONE)
			x64_load_gs(e->a, e->group[n].host, span_slot(e, &e->group[n]));
}

static void borrowed_move(struct emit *e, bool back)
{
	for (unsigned r = 0; r < 16; r++)
		if (e->loop.borrowed & 1 << r) {
			if (back)
				x64_load_gs(e->a, r, GS_OFF(hot.borrow) + (s32)r * 8);
			else
				x64_store_gs(e->a, r, GS_OFF(hot.borrow) + (s32)r * 8);
		}
}

void loop_late_out(struct emit *e)
{
	if (e->loop.counter != REG_NONE)
		x64_store_gs(e->a, e->loop.counter, GS_OFF(hot.left));
	borrowed_move(e, true);
}

void loop_late_in(struct emit *e)
{
	borrowed_move(e, false);
	registers_load(e);
}

/* --- the trial -------------------------------------------------------------------------------- */
enum { TRIAL = 100, COST = 20, COST_GROUP = 20, GAIN = 4, GAIN_ACCESS = 7 };

static void trial_begin(struct emit *e)
{
	struct loop_trial *t = &e->tb->trial;

	*t = (struct loop_trial){ .left = TRIAL, .cost = COST, .gain = GAIN };
	for (unsigned n = 1; n < e->groups; n++)
		if (e->group[n].hoisted) {
			t->cost += COST_GROUP;
			t->gain += GAIN_ACCESS * (e->b->no_groups ? e->group[n].count : 1);
		}
}

static void trial_address(struct emit *e, unsigned reg)
{
	emit_imm64(e->a, reg, (u64)&e->tb->trial);
}

static void trial_enter(struct emit *e, const u8 *again)
{
	struct late *l;

	if (e->b->sure_loop)
		return;
	trial_begin(e);
	trial_address(e, T0);
	x64_op(e->a, &(struct x64_op){ .opcode = 0x83,
				       .reg = OP_SUB,
				       .rm = T0,
				       .mem = true,
				       .disp = offsetof(struct loop_trial, left),
				       .has_imm = true,
				       .imm = 1 });
	l = late_add(e, emit_jcc(e->a, CC_S), NULL);
	l->thunk = e->t->loop;
	l->back = (u8 *)again;
}

/* T2: what has been taken from the budget. */
static void trial_given(struct emit *e)
{
	if (e->b->sure_loop)
		return;
	trial_address(e, T0);
	x64_op(e->a, &(struct x64_op){ .opcode = 0x01,
				       .w = true,
				       .reg = T2,
				       .rm = T0,
				       .mem = true,
				       .disp = offsetof(struct loop_trial, given) });
}

/* T2: what was not used of it.  No flags change. */
static void trial_unused(struct emit *e)
{
	const s32 at = offsetof(struct loop_trial, unused);
	struct x64_op op = { .w = true, .reg = T0, .rm = T1, .mem = true, .disp = at };

	if (e->b->sure_loop)
		return;
	trial_address(e, T1);
	op.opcode = 0x8b;
	x64_op(e->a, &op);
	x64_op(e->a, &(struct x64_op){ .opcode = 0x8d,
				       .w = true,
				       .reg = T0,
				       .rm = T0,
				       .mem = true,
				       .has_index = true,
				       .index = T2 });
	op.opcode = 0x89;
	x64_op(e->a, &op);
}

bool loop_pays(const struct trans_block *tb)
{
	const struct loop_trial *t = &tb->trial;
	u64 runs = (t->given - t->unused) / (u32)tb->b->insns;

	return runs * t->gain > (u64)TRIAL * t->cost;
}

/* --- prelude and body ------------------------------------------------------------------------- */
/* How often the block may run, then what that costs, is taken from the budget. */
static void emit_prelude(struct emit *e, const u8 *again)
{
	struct x64 *a = e->a;
	s32 insns = e->b->insns;

	trial_enter(e, again);
	emit_gs_imm(a, OP_CMP, GS_OFF(budget), (u32)insns);
	emit_patch(emit_jcc(a, CC_L), again);
	emit_gs_set32(a, GS_OFF(hot.runs), (u32)MAX(BUDGET / insns, 1));
	for (unsigned n = 1; n < e->groups; n++)
		if (e->group[n].hoisted)
			emit_hoist(e, &e->group[n], again);
	if (e->loop.inductive) {
		emit_gs32(a, 0x8b, T2, GS_OFF(hot.runs));
		emit_imul(a, T2, T2, insns);
	} else {
		x64_op(a, &(struct x64_op){ .opcode = 0xc7, .rm = T2 });
		x64_u32(a, (u32)(MAX(BUDGET / insns, 1) * insns));
	}
	emit_gs32(a, 0x29, T2, GS_OFF(budget));
	x64_store_gs(a, T2, GS_OFF(hot.left));
	trial_given(e);
	borrowed_move(e, false);
	registers_load(e);
}

/* Some of what was paid was too much: the counter less over.  No flags change. */
static void emit_refund(struct emit *e, s32 over)
{
	struct x64 *a = e->a;
	unsigned left = e->loop.counter;

	if (left == REG_NONE) {
		left = T2;
		x64_load_gs(a, T2, GS_OFF(hot.left));
	}
	x64_lea(a, T2, left, -over); /* the counter may be T0, T1 or T2 */
	trial_unused(e);
	emit_gs32(a, 0x8b, T0, GS_OFF(budget));
	x64_op(a, &(struct x64_op){ .opcode = 0x8d,
				    .reg = T0,
				    .rm = T0,
				    .mem = true,
				    .has_index = true,
				    .index = T2 });
	emit_gs32(a, 0x89, T0, GS_OFF(budget));
}

/* Out of the body; no flags change. */
static void emit_out_of_loop(struct emit *e)
{
	emit_gs_set32(e->a, GS_OFF(hot.left), 0);
	borrowed_move(e, true);
}

static void emit_count_down(struct emit *e)
{
	s32 insns = e->b->insns;

	if (e->loop.counter != REG_NONE)
		x64_alu_imm(e->a, OP_SUB, true, e->loop.counter, insns);
	else
		emit_gs_imm(e->a, OP_SUB, GS_OFF(hot.left), (u32)insns);
}

void loop_emit(struct emit *e, const u8 *again)
{
	unsigned n = (unsigned)e->b->insns;
	const struct insn *jcc = &e->b->insn[n - 1];
	const u8 *prelude = e->a->p, *head;
	u8 *leave;

	emit_patch(e->loop.back, prelude);
	e->cached = 0;
	e->at_t0 = NULL;
	e->in_reg = e->in_mem = false;
	emit_prelude(e, again);
	for (unsigned g = 1; g < e->groups; g++)
		e->group[g].checked = false;
	e->loop.on = true;
	e->cached = 0;
	e->at_t0 = NULL;
	head = e->a->p;
	for (unsigned i = 0; i < n - 1; i++)
		emit_insn(e, i);
	emit_flags_needed(e, FL_ARITH);
	leave = emit_jcc(e->a, (jcc->op->opcode & 15) ^ 1);
	emit_count_down(e);
	emit_patch(emit_jcc(e->a, CC_NE), head);
	emit_out_of_loop(e);
	emit_jump(e->a, prelude);

	emit_patch(leave, e->a->p);
	emit_refund(e, e->b->insns);
	emit_out_of_loop(e);
	e->loop.on = false;
	e->cached = 0;
	e->at_t0 = NULL;
	emit_go(e, jcc->pgoff + jcc->len, 1);
}
