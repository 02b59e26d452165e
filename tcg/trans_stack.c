/* trans_stack.c - accesses by RSP, which hardly ever leave the page that they were in last: its
 * write entry of the TLB is in c->top.stack and is tried first.  What is kept is the distance from
 * guest to host addresses, so that accesses add it to the guest's own register. */
#include "trans.h"

/* The register that says where an access is, if there is one. */
static unsigned stack_reg(const struct insn *in, unsigned which)
{
	if (which == ACCESS_STACK)
		return insn_way(in) == WAY_LEAVE ? RBP : RSP;
	return in->base < 16 && in->index == REG_NONE && in->seg < SEG_FS ? in->base : REG_NONE;
}

/* May access i be checked that way?  It is in a group. */
bool stack_can(const struct emit *e, unsigned i, unsigned which)
{
	return e->touch[i][which].group && stack_reg(e->insn[i], which) == RSP;
}

/* T0 += reg, flags kept. */
static void stack_add(struct x64 *a, unsigned reg)
{
	x64_op(a, &(struct x64_op){ .opcode = 0x8d,
				    .w = true,
				    .reg = T0,
				    .rm = T0,
				    .mem = true,
				    .has_index = true,
				    .index = (u8)reg });
}

/* T0 becomes the distance, for a whole group.  Registers of 32-bit code may wrap between one access
 * and the next, so there it becomes the span's address. */
void stack_check(struct emit *e, unsigned i, unsigned which, const struct group_info *info)
{
	const struct touch *x = &e->touch[i][which];
	s32 at = (s32)(x->eff - x->base_off) + info->lo;
	u8 *again = e->a->p;
	struct x64 *a = e->a;
	struct late *l;

	emit_scratch(e, T2);
	if (e->t->counting)
		emit_count(a, T2, checks, 1);
	emit_lea_word(e, T2, HOST_SP, at);
	x64_op(a, &(struct x64_op){ .opcode = 0x2b,
				    .w = true,
				    .reg = T2,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(top.stack.tag) });
	x64_alu_imm(a, OP_CMP, true, T2, PAGE_SIZE - info->span);
	l = late_add(e, emit_jcc(a, CC_A), e->insn[i]);
	l->thunk = e->t->group;
	memcpy(&l->group, info, sizeof *info);
	l->back = again;
	l->stack_at = at;
	x64_load_gs(a, T0, GS_OFF(top.stack.addend));
	l->stack = a->p;
	e->group[x->group].stack = e->word == 8;
	if (e->word == 4) {
		emit_lea_word(e, T2, HOST_SP, at);
		stack_add(a, T2);
	}
}

/* What the check does if the page is another one, before it asks trans_group(). */
void stack_late(struct emit *e, const struct late *l)
{
	struct group_info info;

	memcpy(&info, &l->group, sizeof info);
	emit_lea_word(e, T0, HOST_SP, l->stack_at);
	x64_op(e->a, &(struct x64_op){ .opcode = 0xc7, .rm = T1 });
	x64_u32(e->a, PAGE_SIZE - info.span);
	emit_call(e->a, trans_rw(e->t, info.write ? e->t->stack_w : e->t->stack_r));
	emit_patch(emit_jcc(e->a, CC_E), l->stack);
}

/* T0 is the distance: e->mem is the operand of access i. */
void stack_access(struct emit *e, unsigned i, unsigned which)
{
	const struct touch *x = &e->touch[i][which];
	unsigned reg = stack_reg(e->insn[i], which), h = host_reg(e, reg);

	e->mem.disp = (s32)(x->eff - x->base_off);
	if (h == REG_NONE) {
		h = emit_get(e, reg, 1 << T0);
		emit_scratch(e, T0);
		stack_add(e->a, h);
		return;
	}
	e->mem.index = (u8)h;
}

/* T1 becomes the entry of array off of the TLB for T0, T2 how far T0 is behind its start; jumps if
 * that is more than top.rax. */
static u8 *thunk_lookup(struct x64 *a, s32 off)
{
	struct x64_op op = { .w = true, .mem = true };

	emit_tlb_entry(a, T0);
	x64_mov_rr(a, T2, T0);
	op.opcode = 0x2b, op.reg = T2, op.rm = T1, op.disp = off;
	x64_op(a, &op);
	op.opcode = 0x3b, op.gs = true, op.disp = GS_OFF(top.rax);
	x64_op(a, &op);
	return emit_jcc(a, CC_A);
}

/* Called with T0, the address of a span, and T1, the last offset in a page where it may begin.  E
 * if the TLB has it: T0 is the distance then, T1 is guest R10, and c->top.stack is this page's if
 * it may be written to. */
void stack_thunk(struct x64 *a, bool write)
{
	u8 *no_write;

	x64_lea(a, RSP, RSP, 8);
	x64_store_gs(a, T1, GS_OFF(top.rax));
	no_write = thunk_lookup(a, offsetof(struct tlb, w));
	x64_load(a, T2, T1, offsetof(struct tlb, w));
	x64_store_gs(a, T2, GS_OFF(top.stack.tag));
	x64_load(a, T0, T1, offsetof(struct tlb, w) + 8);
	x64_store_gs(a, T0, GS_OFF(top.stack.addend));
	x64_load_gs(a, T1, gs_gpr(R10));
	emit_rr(a, 0x39, true, T0, T0);
	x64_lea(a, RSP, RSP, -8);
	x64_ret(a);
	emit_patch(no_write, a->p);
	if (!write) {
		u8 *none = thunk_lookup(a, offsetof(struct tlb, r));

		x64_load(a, T0, T1, offsetof(struct tlb, r) + 8);
		x64_load_gs(a, T1, gs_gpr(R10));
		emit_rr(a, 0x39, true, T0, T0);
		emit_patch(none, a->p);
	}
	x64_lea(a, RSP, RSP, -8);
	x64_ret(a);
}
