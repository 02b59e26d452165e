/* trans_loop.c - hot blocks of one page that lead from the first back to it, as a loop inside one
 * translation.
 *
 * They are found when the last of them is translated: a path along jumps that the interpreter has
 * seen taken. Beside the block's ordinary code there is then a prelude, and a body of the whole
 * path that runs a strip: as often as no access leaves its page and the budget lasts.  Conditional
 * jumps off the path leave it.  An access is hoisted out of the body if a run changes its address
 * by a constant, or not at all: the prelude looks its page up in the TLB once, and the body adds
 * what it found.  If that fails, the ordinary code goes on, with all its checks.
 *
 * The prelude costs what some runs of the body have to earn.  So the first translation is on trial:
 * it counts entries and runs, and then is replaced by one without the counts or without the loop.
 *
 * The body needs registers: for the hoisted accesses, for what is left to pay, for guest registers
 * that have no place in the host's.  It borrows those of guest registers that the path does not
 * name, which are in hot.borrow[] meanwhile. */
#include "trans.h"

enum { MARGIN_BITS = 21, MARGIN = 1 << MARGIN_BITS };
enum { STEP_MAX = 512, VAR_OFF_MAX = 1 << 20, FAR_MAX = 1 << 30, RECIPROCAL = 24 };

/* --- what moves ------------------------------------------------------------------------------- */
/* Value numbers of registers at the start are 1 to 16, see group_plan(). */
static bool value_steady(const struct emit *e, u32 id, s64 *delta)
{
	*delta = 0;
	if (id == ~0u || id == ~1u || id == (u32)INDEX_SMALL)
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
		     !(base && index) && g->lo > -FAR_MAX && g->lo < FAR_MAX &&
		     !(e->word == 4 && g->key.seg);
	if (!g->hoisted)
		return;
	index = (s64)((u64)index << g->key.scale);
	if (base + index > STEP_MAX || base + index < -STEP_MAX) {
		g->hoisted = false;
		return;
	}
	g->step = (s32)(base + index);
	if (g->step && g->key.index == (u32)INDEX_SMALL) /* two registers to add */
		g->hoisted = false;
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

	for (unsigned i = 0; i < e->n; i++) {
		const struct insn *in = e->insn[i];

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
	const struct insn *in = e->insn[i];

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
	bool scratch = !e->loop.told;

	for (unsigned i = 0; i < e->n; i++)
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
	for (unsigned i = 0; i < e->n; i++)
		for (unsigned w = 0; w < ACCESSES; w++) {
			const struct touch *x = &e->touch[i][w];

			if (x->base_off > VAR_OFF_MAX || x->base_off < -VAR_OFF_MAX ||
			    x->index_off > VAR_OFF_MAX || x->index_off < -VAR_OFF_MAX)
				return false;
		}
	return true;
}

/* --- finding it ------------------------------------------------------------------------------- */
static bool block_fits(const struct block *b)
{
	unsigned n = (unsigned)b->insns;

	for (unsigned i = 0; i < n; i++) {
		enum way way = insn_way(&b->insn[i]);
		bool rel = way == WAY_JMP && b->insn[i].opd[0].kind == OPD_REL;

		if ((way < WAY_NOP || way > WAY_LEAVE) && (i < n - 1 || (way != WAY_JCC && !rel)))
			return false;
	}
	return true;
}

/* May next, hot, be a part of the loop that e->b begins?  Not if it is one itself. */
static bool may_follow(const struct emit *e, const struct block *next, unsigned insns)
{
	const struct loop *l = &e->loop;

	for (unsigned i = 0; i < l->blocks; i++)
		if (l->path[i] == next)
			return false;
	return next->trans && next->to[1] != next && next->key == e->b->key &&
	       (next->host & ~(u64)(PAGE_SIZE - 1)) == (e->b->host & ~(u64)(PAGE_SIZE - 1)) &&
	       insns + (u32)next->insns <= BLOCK_MAX && block_fits(next);
}

/* From the last block of the path back to the first, along jumps that have been taken. */
static bool path_close(struct emit *e, unsigned insns)
{
	struct loop *l = &e->loop;
	struct block *last = l->path[l->blocks - 1];

	for (unsigned i = 0; i < 2; i++)
		if (last->to[i] == e->b)
			return true;
	for (unsigned i = 0; i < 2 && l->blocks < PATH_MAX; i++) {
		struct block *next = last->to[i];

		if (next->insns == BLOCK_DEAD || !may_follow(e, next, insns))
			continue;
		l->path[l->blocks++] = next;
		if (path_close(e, insns + (u32)next->insns))
			return true;
		l->blocks--;
	}
	return false;
}

/* The loop's translation ends with any of its blocks'. */
static bool path_users(struct emit *e)
{
	struct trans *t = e->t;

	for (unsigned i = 1; i < e->loop.blocks; i++) {
		u32 *user = t->pool[e->loop.path[i]->trans].used_by, n = 0;

		while (n < USERS && user[n] && t->pool[user[n]].b)
			n++;
		if (n == USERS)
			return false;
		user[n] = (u32)(e->tb - t->pool);
	}
	return true;
}

/* The plan of the loop's body. */
static void path_plan(struct emit *e)
{
	e->n = 0;
	e->no_groups = false;
	e->narrow = 0;
	for (unsigned i = 0; i < e->loop.blocks; i++)
		emit_take(e, e->loop.path[i]);
	emit_plan(e);
}

void loop_find(struct emit *e)
{
	struct loop *l = &e->loop;

	if (!e->b->link_ok || e->b->no_loop || !block_fits(e->b))
		return;
	l->path[l->blocks++] = e->b;
	if (path_close(e, (u32)e->b->insns))
		path_plan(e);
	if (!e->n || (l->blocks == 1 && insn_way(e->insn[e->n - 1]) != WAY_JCC) || e->live[0] ||
	    !offsets_fit(e) || !path_users(e))
		l->blocks = 0;
	e->n = 0;
	e->no_groups = false;
	e->narrow = 0;
}

static void loop_plan(struct emit *e)
{
	struct loop *l = &e->loop;

	l->fp_need = e->fp_need;
	path_plan(e);
	memset(l->home, REG_NONE, sizeof l->home);
	for (unsigned n = 1; n < e->groups; n++)
		group_hoist(e, &e->group[n]);
	e->tb->spoilt |= flags_spoilt(e, 0);
	l->told = e->made_at[e->n].top ? 0 : e->made_at[e->n].note;
	if (note_regs(l->told) & e->tb->spoilt)
		l->told = 0;
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

/* Does some access in the group come when a run has made its register smaller? */
static bool goes_below(const struct emit *e, const struct group *g)
{
	bool below = g->step < 0;

	for (unsigned i = 0; i < e->n; i++)
		for (unsigned w = 0; w < ACCESSES; w++) {
			const struct touch *x = &e->touch[i][w];

			if (x->group == g - e->group)
				below |= x->base_off < 0 || x->index_off < 0;
		}
	return below;
}

/* The body adds the 64 bits of a 32-bit register that moves: away if it might wrap on the way. */
static void emit_no_wrap(struct emit *e, const struct group *g, unsigned var)
{
	const bool below = goes_below(e, g);

	x64_lea(e->a, T1, var, below ? -MARGIN : 0);
	emit_shift(e->a, SHIFT_SHR, true, T1, MARGIN_BITS);
	x64_alu_imm(e->a, OP_CMP, true, T1, (1 << (32 - MARGIN_BITS)) - 2 - below);
	emit_patch(emit_jcc(e->a, CC_A), e->loop.again);
}

/* The page of a group's span; top.runs becomes at most the number of runs until it is left. */
static void emit_hoist(struct emit *e, struct group *g)
{
	struct x64 *a = e->a;
	struct insn at = { .base = REG_NONE,
			   .index = REG_NONE,
			   .seg = (u8)(g->key.seg & 15),
			   .scale = (u8)g->key.scale,
			   .disp = (s32)g->lo,
			   .asize = 8 };
	s32 off = g->write ? offsetof(struct tlb, w) : offsetof(struct tlb, r);
	s32 most = (s32)(PAGE_SIZE - (u64)(g->hi - g->lo));

	if (g->key.base != ~0u)
		at.base = g->key.base == ~1u ? REG_RIP : (u8)(g->key.base - 1);
	if (g->key.index != ~0u && g->key.index != (u32)INDEX_SMALL)
		at.index = (u8)(g->key.index - 1);
	emit_linear(e, &at, ACCESS_MEM, 0);
	emit_patch(emit_lookup(e, off, most), e->loop.again);
	x64_op(a, &(struct x64_op){
			  .opcode = 0x03, .w = true, .reg = T0, .rm = T1, .mem = true,
			  .disp = off + 8 });
	if (g->var != REG_NONE) {
		bool by_index = g->key.base != g->var + 1u;
		unsigned var = emit_get(e, g->var, 1 << T0 | 1 << T2);

		if (e->word == 4)
			emit_no_wrap(e, g, var);
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
	emit_gs32(a, 0x3b, T2, GS_OFF(top.runs));
	x64_op(a, &(struct x64_op){ .map = X64_MAP_0F, /* CMOVA */
				    .opcode = 0x47,
				    .reg = T2,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(top.runs) });
	emit_gs32(a, 0x89, T2, GS_OFF(top.runs));
}

/* Registers with a purpose get what it asks for. */
static void registers_load(struct emit *e)
{
	struct loop *l = &e->loop;

	if (l->counter != REG_NONE)
		x64_load_gs(e->a, l->counter, GS_OFF(top.left));
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
		x64_store_gs(e->a, e->loop.counter, GS_OFF(top.left));
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

	*t = (struct loop_trial){ .insns = e->n,
				  .left = TRIAL,
				  .cost = COST,
				  .gain = (u16)(GAIN * e->loop.blocks) };
	for (unsigned n = 1; n < e->groups; n++)
		if (e->group[n].hoisted) {
			t->cost += COST_GROUP;
			t->gain += GAIN_ACCESS * (e->no_groups ? e->group[n].count : 1);
		}
}

static void trial_address(struct emit *e, unsigned reg)
{
	emit_imm64(e->a, reg, (u64)&e->tb->trial);
}

static void trial_enter(struct emit *e)
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
	l->back = e->loop.again;
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
	u64 runs = (t->given - t->unused) / t->insns;

	return runs * t->gain > (u64)TRIAL * t->cost;
}

/* --- instructions counted for --tcg-stats: T2 of them ----------------------------------------- */
static void count_given(struct emit *e)
{
	if (e->t->counting)
		x64_op(e->a, &(struct x64_op){ .opcode = 0x01,
					       .w = true,
					       .reg = T2,
					       .mem = true,
					       .gs = true,
					       .disp = GS_OFF(hot.count.insns) });
}

/* No flags change; T0 is lost. */
static void count_unused(struct emit *e)
{
	struct x64_op not = { .opcode = 0xf7, .w = true, .reg = 2, .rm = T2 };

	if (!e->t->counting)
		return;
	x64_op(e->a, &not);
	x64_load_gs(e->a, T0, GS_OFF(hot.count.insns));
	x64_op(e->a, &(struct x64_op){ .opcode = 0x8d,
				       .w = true,
				       .reg = T0,
				       .rm = T0,
				       .mem = true,
				       .has_index = true,
				       .index = T2,
				       .disp = 1 });
	x64_store_gs(e->a, T0, GS_OFF(hot.count.insns));
	x64_op(e->a, &not);
}

/* The FP state may be used by the ordinary code and not by the rest of the loop. */
static void emit_fp_here(struct emit *e)
{
	struct x64 *a = e->a;
	u32 need = 0;

	if (!(e->fp_need & ~e->loop.fp_need))
		return;
	for (unsigned i = 0; i < 4; i++)
		need |= (u32)(e->fp_need >> i & 1) << 8 * i;
	emit_gs32(a, 0x8b, T0, GS_OFF(fp_live));
	x64_alu_imm(a, OP_AND, false, T0, (s32)need);
	x64_alu_imm(a, OP_CMP, false, T0, (s32)need);
	emit_patch(emit_jcc(a, CC_NE), e->loop.again);
}

/* --- prelude and body ------------------------------------------------------------------------- */
/* How often the block may run, then what that costs, is taken from the budget. */
static void emit_prelude(struct emit *e)
{
	struct x64 *a = e->a;
	s32 insns = (s32)e->n;

	trial_enter(e);
	emit_gs_imm(a, OP_CMP, GS_OFF(budget), (u32)insns);
	emit_patch(emit_jcc(a, CC_L), e->loop.again);
	emit_fp_here(e);
	emit_gs_set32(a, GS_OFF(top.runs), (u32)MAX(BUDGET / insns, 1));
	for (unsigned n = 1; n < e->groups; n++)
		if (e->group[n].hoisted)
			emit_hoist(e, &e->group[n]);
	if (e->loop.inductive) {
		emit_gs32(a, 0x8b, T2, GS_OFF(top.runs));
		emit_imul(a, T2, T2, insns);
	} else {
		x64_op(a, &(struct x64_op){ .opcode = 0xc7, .rm = T2 });
		x64_u32(a, (u32)(MAX(BUDGET / insns, 1) * insns));
	}
	emit_gs32(a, 0x29, T2, GS_OFF(budget));
	x64_store_gs(a, T2, GS_OFF(top.left));
	count_given(e);
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
		x64_load_gs(a, T2, GS_OFF(top.left));
	}
	x64_lea(a, T2, left, -over); /* the counter may be T0, T1 or T2 */
	trial_unused(e);
	count_unused(e);
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
	emit_gs_set32(e->a, GS_OFF(top.left), 0);
	borrowed_move(e, true);
}

static void emit_count_down(struct emit *e)
{
	s32 insns = (s32)e->n;

	if (e->loop.counter != REG_NONE)
		x64_alu_imm(e->a, OP_SUB, true, e->loop.counter, insns);
	else
		emit_gs_imm(e->a, OP_SUB, GS_OFF(top.left), (u32)insns);
}

void loop_enter(struct emit *e)
{
	emit_jump(e->a, e->a->p);
	e->loop.back = e->a->p - 4;
}

/* The prelude has no use for EFLAGS. */
void loop_back(struct emit *e, u8 *taken)
{
	if (!e->in_mem && (!e->told || note_regs(e->told) & e->tb->spoilt)) {
		emit_patch(taken, e->a->p);
		emit_flags_save(e->a);
		emit_jump(e->a, e->a->p);
		taken = e->a->p - 4;
	}
	e->loop.back = taken;
}

/* The end of a run: its flags, or a note, for the next one if it may show them; else only for what
 * comes after the strip: true. */
static bool emit_run_flags(struct emit *e)
{
	if (e->in_mem)
		return false;
	if (!e->loop.told)
		emit_flags_save(e->a);
	else if (e->seen[0] && e->loop.blocks > 1)
		emit_note(e, (struct flags_made){ e->loop.told, 0 });
	else
		return true;
	return false;
}

/* A jump out of the body, to be filled in, and what it leads to. */
struct side {
	u8 *jump;
	s64 to;
	unsigned done; /* instructions of this run */
	bool in_reg, in_mem;
};

/* Conditional jump i, which stays in the loop or leaves it. */
static void emit_side(struct emit *e, unsigned i, struct side *s)
{
	const struct insn *in = e->insn[i], *next = e->insn[i + 1 < e->n ? i + 1 : 0];
	bool taken = rel_to(in) == next->pgoff;

	emit_flags_needed(e, FL_ARITH);
	*s = (struct side){ .jump = emit_jcc(e->a, (in->op->opcode & 15) ^ taken),
			    .to = taken ? in->pgoff + in->len : rel_to(in),
			    .done = i + 1,
			    .in_reg = e->in_reg,
			    .in_mem = e->in_mem };
}

static unsigned emit_body(struct emit *e, struct side *side)
{
	unsigned sides = 0;

	for (unsigned i = 0; i < e->n; i++) {
		enum way way = insn_way(e->insn[i]);

		if (way == WAY_JCC)
			emit_side(e, i, &side[sides++]);
		else if (way != WAY_JMP)
			emit_insn(e, i);
	}
	return sides;
}

static void emit_forget(struct emit *e)
{
	e->cached = 0;
	e->at_t0 = NULL;
}

static void emit_sides(struct emit *e, const struct side *side, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		emit_patch(side[i].jump, e->a->p);
		e->in_reg = side[i].in_reg;
		e->in_mem = side[i].in_mem;
		emit_refund(e, (s32)side[i].done);
		emit_out_of_loop(e);
		emit_forget(e);
		emit_tell(e, side[i].done - 1, side[i].to);
		emit_go(e, side[i].to, MIN(2 + i, EDGES));
	}
}

void loop_emit(struct emit *e)
{
	struct side side[PATH_MAX];
	const u8 *prelude = e->a->p, *head;
	unsigned sides;
	bool last;

	loop_plan(e);
	emit_patch(e->loop.back, prelude);
	emit_forget(e);
	emit_prelude(e);
	e->loop.on = true;
	emit_forget(e);
	/* A loop of one block begins behind itself: its flags are always those of a run before. */
	e->in_reg = false;
	e->in_mem = e->loop.blocks > 1 || !e->loop.told;
	e->note = (struct flags_made){ e->in_mem ? 0 : e->loop.told, 0 };
	head = e->a->p;
	sides = emit_body(e, side);
	last = emit_run_flags(e);
	emit_count_down(e);
	emit_patch(emit_jcc(e->a, CC_NE), head);
	if (last)
		emit_note(e, (struct flags_made){ e->loop.told, 0 });
	emit_out_of_loop(e);
	emit_jump(e->a, prelude);
	emit_sides(e, side, sides);
	e->loop.on = false;
}
