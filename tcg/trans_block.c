/* trans_block.c - host code for one block: what it needs to know, its entries, its instructions,
 * and what rarely runs behind them. */
#include "trans.h"

static void fp_plan(struct emit *e)
{
	e->fp_need = 0;
	for (unsigned i = 0; i < e->n; i++)
		if (insn_way(e->insn[i]) == WAY_OP && e->insn[i]->op->cls == CLS_NATIVE)
			e->fp_need |= op_fp_need(e->insn[i]);
}

/* Does the block touch EFLAGS for its own ends before it looks at the guest's?  What never looks at
 * them leaves them in memory. */
static bool begins_with_clobber(const struct emit *e)
{
	bool looks = false;

	for (unsigned i = 0; i < e->n; i++)
		looks |= insn_way(e->insn[i]) == WAY_JCC || op_flags_written(e->insn[i]) ||
			 op_flags_needed(e->insn[i], 0);
	if (!looks)
		return true;
	for (unsigned i = 0; i < e->n; i++) {
		const struct insn *in = e->insn[i];

		switch (insn_way(in)) {
		case WAY_NOP:
		case WAY_LEA: break;
		case WAY_JCC:
		case WAY_RCX: return false;
		case WAY_JMP: return in->opd[0].kind != OPD_REL;
		case WAY_OP:
			for (unsigned n = 0; n < in->nopd; n++)
				if (in->opd[n].kind == OPD_MEM)
					return true;
			if (flags_needed(e, i))
				return false;
			break;
		default: return true;
		}
	}
	return false;
}

/* Pay for the block, EFLAGS changed. */
static u8 *emit_budget(struct emit *e)
{
	emit_gs_imm(e->a, OP_SUB, GS_OFF(budget), (u32)e->b->insns);
	return emit_jcc(e->a, CC_S);
}

/* The same, EFLAGS kept: the top byte of what is left is not 0. */
static u8 *emit_budget_quiet(struct emit *e)
{
	struct x64 *a = e->a;
	u8 *short_jump, *fail;

	x64_mov_rr(a, T0, RCX);
	x64_op(a, &(struct x64_op){ .opcode = 0x8b,
				    .reg = RCX,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(budget) });
	x64_op(a,
	       &(struct x64_op){
		       .opcode = 0x8d, .reg = RCX, .rm = RCX, .mem = true, .disp = -e->b->insns });
	x64_op(a, &(struct x64_op){ .opcode = 0x89,
				    .reg = RCX,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(budget) });
	x64_op(a, &(struct x64_op){ .map = X64_MAP_0F,
				    .opcode = 0xb6,
				    .reg = RCX,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(budget) + 3 });
	x64_u8(a, 0xe3);
	x64_u8(a, 0);
	short_jump = a->p;
	x64_mov_rr(a, RCX, T0);
	x64_u8(a, 0xe9);
	x64_u32(a, 0);
	fail = a->p - 4;
	if (!a->full)
		short_jump[-1] = (u8)(a->p - short_jump);
	x64_mov_rr(a, RCX, T0);
	return fail;
}

static void emit_fp_entry(struct emit *e)
{
	struct x64 *a = e->a;
	struct late *l;
	u32 need = 0;

	for (unsigned i = 0; i < 4; i++)
		need |= e->fp_need >> i & 1 ? 0xffu << 8 * i : 0;
	need &= 0x01010101;
	x64_op(a, &(struct x64_op){ .opcode = 0x8b,
				    .reg = T0,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(fp_live) });
	x64_alu_imm(a, OP_AND, false, T0, (s32)need);
	x64_alu_imm(a, OP_CMP, false, T0, (s32)need);
	l = late_add(e, emit_jcc(a, CC_NE), NULL);
	l->thunk = e->t->fp;
	l->back = a->p;
}

static void split_late(struct emit *e, u8 *jump)
{
	late_add(e, jump, NULL)->thunk = e->t->split;
}

/* Jump away if what is at T0 is not these bytes. */
static void emit_compare(struct emit *e, const u8 *bytes, unsigned n)
{
	struct x64 *a = e->a;

	for (unsigned at = 0, size; at < n; at += size) {
		size = n - at >= 4 ? 4 : n - at >= 2 ? 2 : 1;
		x64_op(a, &(struct x64_op){ .opcode = size == 1 ? 0x80 : 0x81,
					    .osz = size == 2,
					    .reg = OP_CMP,
					    .rm = T0,
					    .mem = true,
					    .disp = (s32)at });
		for (unsigned i = 0; i < size; i++)
			x64_u8(a, bytes[at + i]);
		split_late(e, emit_jcc(a, CC_NE));
	}
}

/* Is the instruction that crosses a page still the one translated, as trans_split() would ask?  The
 * first page is known to be this one. */
static void emit_split(struct emit *e)
{
	struct block *b = e->b;
	unsigned first = PAGE_SIZE - b->insn[0].pgoff, from = e->lates;
	struct x64 *a = e->a;

	emit_imm64(a, T0, b->host);
	emit_compare(e, block_raw(b), first);
	x64_load_gs(a, T0, GS_OFF(code_rip));
	emit_lea_word(e, T0, T0, PAGE_SIZE);
	split_late(e, emit_lookup(e, offsetof(struct tlb, x), PAGE_SIZE - 1));
	x64_op(a, &(struct x64_op){ .opcode = 0x03,
				    .w = true,
				    .reg = T0,
				    .rm = T1,
				    .mem = true,
				    .disp = offsetof(struct tlb, x) + 8 });
	emit_compare(e, block_raw(b) + first, b->bytes - first);
	for (; from < e->lates; from++)
		e->late[from].back = a->p;
}

/* Both entries and the check of the budget; what is known of the flags afterwards is in e. */
static u8 *emit_entries(struct emit *e)
{
	struct x64 *a = e->a;
	bool live = e->live[0], split = e->b->key & KEY_SPLIT;
	bool clobber = !live || split || e->fp_need || begins_with_clobber(e);
	bool blind = !live && !e->seen[0] && !split;
	u8 *fail;

	e->tb->dead = !live;
	e->tb->spoilt = flags_spoilt(e, 0);
	if (clobber) {
		e->tb->enter_reg = emit_off(e, a->p);
		emit_flags_save(a);
		e->tb->enter_mem = emit_off(e, a->p);
	} else {
		e->tb->enter_mem = emit_off(e, a->p);
		emit_flags_load(a);
		e->tb->enter_reg = emit_off(e, a->p);
	}
	e->in_mem = clobber;
	e->in_reg = !clobber;
	if (split)
		emit_split(e);
	if (e->fp_need)
		emit_fp_entry(e);
	e->tb->fp_need = e->fp_need;
	e->tb->fp_mem = e->in_reg || split ? e->tb->enter_mem : emit_off(e, a->p);
	e->tb->fp_reg = clobber || split ? e->tb->enter_reg : emit_off(e, a->p);
	if (e->loop.blocks > 1)
		loop_enter(e);
	e->loop.again = a->p;
	fail = e->in_reg ? emit_budget_quiet(e) : emit_budget(e);
	if (e->loop.blocks > 1) {
		e->tb->pass_mem = e->tb->fp_mem;
		e->tb->pass_reg = e->tb->fp_reg;
	} else {
		e->tb->pass_mem = e->in_reg || split ? e->tb->enter_mem : emit_off(e, a->p);
		e->tb->pass_reg = clobber && !blind ? e->tb->enter_reg : emit_off(e, a->p);
	}
	if (e->t->counting)
		emit_count(a, T1, insns, e->b->insns);
	return fail;
}

static void emit_lates(struct emit *e)
{
	struct x64 *a = e->a;

	for (unsigned i = 0; i < e->lates; i++) {
		const struct late *l = &e->late[i];
		u32 thunk = l->thunk ? l->thunk : l->flags ? e->t->step_flags : e->t->step;

		emit_patch(l->jump, a->p);
		if (l->beside) {
			emit_call(a, trans_rw(e->t, e->t->beside));
			emit_patch(emit_jcc(a, CC_E), l->beside);
		}
		if (l->stack)
			stack_late(e, l);
		if (l->note.note)
			emit_note(e, l->note);
		if (l->thunk == e->t->group)
			emit_imm64(a, T1, l->group);
		emit_imm64(a, T0, l->in ? (u64)l->in : (u64)e->b);
		if (l->loop)
			loop_late_out(e);
		emit_call(a, trans_rw(e->t, thunk));
		if (l->loop)
			loop_late_in(e);
		if (l->back)
			emit_jump(a, l->back);
		else
			x64_u8(a, 0xcc); /* a jump or call never comes back */
	}
}

static void emit_dead(struct emit *e, u8 *budget_fail, bool in_reg, bool in_mem)
{
	struct x64 *a = e->a;
	u32 start = EXIT_AT | e->b->insn[0].pgoff;

	emit_patch(budget_fail, a->p);
	e->in_mem = in_mem;
	if (!e->in_mem)
		emit_flags_save(a);
	e->in_mem = true;
	emit_gs_imm(a, OP_ADD, GS_OFF(budget), (u32)e->b->insns);
	emit_leave(e, start);
	e->in_mem = false;
	e->tb->dead_reg = emit_off(e, a->p);
	emit_leave(e, start);
	e->in_mem = true;
	e->tb->dead_mem = emit_off(e, a->p);
	emit_leave(e, start);
}

void emit_take(struct emit *e, const struct block *b)
{
	for (unsigned i = 0; i < (unsigned)b->insns; i++)
		e->insn[e->n++] = &b->insn[i];
	e->no_groups |= b->no_groups;
	e->narrow = MAX(e->narrow, b->narrow);
}

void emit_plan(struct emit *e)
{
	flags_plan(e);
	fp_plan(e);
	group_plan(e);
}

bool trans_emit(struct tcg_cpu *c, struct block *b, struct trans_block *tb, struct x64 *a)
{
	struct emit e = {
		.a = a, .c = c, .t = c->trans, .b = b, .tb = tb, .word = insn_word(b->insn)
	};
	unsigned n = (unsigned)b->insns, i;
	bool in_reg, in_mem;
	u8 *fail;

	loop_find(&e);
	emit_take(&e, b);
	emit_plan(&e);
	if (e.live[0])
		e.loop.blocks = 0; /* its prelude is for blocks that do not read flags */
	fail = emit_entries(&e);
	in_reg = e.in_reg;
	in_mem = e.in_mem;
	for (i = 0; i < n; i++)
		emit_insn(&e, i);
	if (insn_way(&b->insn[n - 1]) < WAY_JCC) { /* what ends a block leaves by itself, mostly */
		emit_tell(&e, n - 1, b->insn[n].pgoff);
		emit_go(&e, b->insn[n].pgoff, 0);
	}
	if (e.loop.blocks)
		loop_emit(&e);
	emit_lates(&e);
	emit_dead(&e, fail, in_reg, in_mem);
	return !a->full;
}
