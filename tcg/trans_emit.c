/* trans_emit.c - host code for instructions: addresses and their checks, flags, ways out.
 *
 * What rarely runs stands behind the block: TLB misses, jumps that are taken. */
#include "trans.h"

/* --- addresses -------------------------------------------------------------------------------- */
unsigned emit_get(struct emit *e, unsigned reg, u16 avoid)
{
	unsigned h = host_reg(e, reg);

	ASSERT(reg < 16);
	if (h != REG_NONE)
		return h;
	if (reg != R15 && e->cached & 1 << reg)
		return reg;
	h = emit_home(e, reg, avoid);
	emit_fetch(e, h, reg);
	return h;
}

/* A register of ours for guest reg, which has none: its own number, if that is free. */
unsigned emit_home(struct emit *e, unsigned reg, u16 avoid)
{
	unsigned t = reg;

	avoid |= e->loop.on ? e->loop.taken : 0;
	if (reg == R15 || avoid & 1 << reg) {
		for (t = T0; t < T2 && (avoid | e->cached) & 1 << t; t++)
			;
		if ((avoid | e->cached) & 1 << t)
			for (t = T0; avoid & 1 << t; t++)
				;
	}
	ASSERT(t <= T2);
	emit_scratch(e, t);
	return t;
}

void emit_fetch(struct emit *e, unsigned t, unsigned reg)
{
	x64_load_gs(e->a, t, gs_gpr(reg));
	if (t == reg)
		e->cached |= 1 << t;
}

/* t is guest reg's new value. */
void emit_put(struct emit *e, unsigned t, unsigned reg)
{
	x64_store_gs(e->a, t, gs_gpr(reg));
	if (t == reg)
		e->cached |= 1 << t;
}

void emit_lea_word(struct emit *e, unsigned dst, unsigned src, s32 disp)
{
	x64_op(e->a, &(struct x64_op){ .opcode = 0x8d,
				       .w = e->word == 8,
				       .reg = (u8)dst,
				       .rm = (u8)src,
				       .mem = true,
				       .disp = disp });
}

/* No flags change.  w: 64 bits, else the lower 32. */
void emit_address(struct emit *e, const struct insn *in, unsigned dst, bool w)
{
	struct x64_op o = {
		.opcode = 0x8d, .w = w, .mem = true, .reg = (u8)dst, .disp = in->disp
	};
	u16 avoid = 0;

	if (in->base == REG_RIP) {
		emit_scratch(e, dst);
		x64_load_gs(e->a, dst, GS_OFF(code_rip));
		/* the displacement and the page offset may not fit 32 bits together */
		x64_lea(e->a, dst, dst, in->pgoff + in->len);
		o.rm = (u8)dst;
		x64_op(e->a, &o);
		return;
	}
	if (in->base == REG_NONE && in->index == REG_NONE) {
		emit_scratch(e, dst);
		x64_op(e->a, &(struct x64_op){ .opcode = 0xc7, .w = w, .rm = (u8)dst });
		x64_u32(e->a, (u32)in->disp);
		return;
	}
	if (in->base >= R9 && in->base <= R11)
		avoid |= 1 << in->base;
	if (in->index != REG_NONE) {
		o.has_index = true;
		o.index = (u8)emit_get(e, in->index, in->index == in->base ? 0 : avoid);
		o.scale = in->scale;
		avoid = o.index >= T0 && o.index <= T2 ? 1 << o.index : 0;
	}
	o.no_base = in->base == REG_NONE;
	if (!o.no_base)
		o.rm = (u8)(in->base == in->index ? o.index : emit_get(e, in->base, avoid));
	emit_scratch(e, dst);
	if (!o.has_index && !o.disp && w)
		x64_mov_rr(e->a, dst, o.rm);
	else
		x64_op(e->a, &o);
}

struct late *late_add(struct emit *e, u8 *jump, const struct insn *in)
{
	struct late *l = &e->late[e->lates++];

	ASSERT(e->lates <= ARRAY_LEN(e->late));
	*l = (struct late){ .jump = jump, .in = in, .note = e->note, .loop = e->loop.on };
	return l;
}

/* Whatever of e->late is not complete goes on here. */
void emit_late_back(struct emit *e, unsigned from)
{
	for (; from < e->lates; from++) {
		if (e->late[from].thunk)
			continue;
		e->late[from].back = e->a->p;
		e->late[from].flags = e->in_reg;
		ASSERT(!e->at_t0 || e->at_t0->saved || !e->at_t0->left);
		e->at_t0 = NULL; /* there it is guest R9 */
	}
}

u8 *emit_lookup(struct emit *e, s32 off, s32 most)
{
	struct x64 *a = e->a;

	emit_scratch(e, T1);
	emit_scratch(e, T2);
	emit_tlb_entry(a, T0);
	x64_mov_rr(a, T2, T0);
	x64_op(a,
	       &(struct x64_op){
		       .opcode = 0x2b, .w = true, .reg = T2, .rm = T1, .mem = true, .disp = off });
	x64_alu_imm(a, OP_CMP, true, T2, most);
	return emit_jcc(a, CC_A);
}

void emit_check(struct emit *e, const struct insn *in, unsigned size, bool write)
{
	s32 off = write ? offsetof(struct tlb, w) : offsetof(struct tlb, r);
	struct late *l;

	if (e->t->counting)
		emit_count(e->a, T1, checks, 1);
	l = late_add(e, emit_lookup(e, off, PAGE_SIZE - size), in);
	x64_op(e->a, &(struct x64_op){ .opcode = 0x03,
				       .w = true,
				       .reg = T0,
				       .rm = T1,
				       .mem = true,
				       .disp = off + 8 });
	/* Another vCPU could make code of the bytes between the look at the map and the store. */
	if (write && size <= 8 && e->c->v.env->nr_vcpus == 1)
		l->beside = e->a->p;
}

void emit_linear(struct emit *e, const struct insn *in, unsigned which, s64 by)
{
	struct insn moved = *in;

	if (which == ACCESS_STACK) {
		bool push;

		emit_scratch(e, T0);
		push = insn_way(in) == WAY_PUSH || insn_way(in) == WAY_CALL ||
		       insn_way(in) == WAY_PUSHF;

		emit_lea_word(e, T0, insn_way(in) == WAY_LEAVE ? (unsigned)RBP : HOST_SP,
			      (s32)by - (push ? e->word : 0));
		return;
	}
	moved.disp += by;
	emit_address(e, &moved, T0, e->word == 8);
	if (in->seg >= SEG_FS)
		x64_op(e->a, &(struct x64_op){ .opcode = 0x03,
					       .w = e->word == 8,
					       .reg = T0,
					       .mem = true,
					       .gs = true,
					       .disp = GS_OFF(v.s.seg) +
						       in->seg * (s32)sizeof(struct seg_reg) +
						       (s32)offsetof(struct seg_reg, base) });
}

struct late *emit_open(struct emit *e, const struct insn *in)
{
	struct x64 *a = e->a;

	if (e->word == 8 || in->seg < SEG_FS)
		return NULL;
	x64_op(a, &(struct x64_op){ .opcode = 0xf6, .mem = true, .gs = true,
		.disp = GS_OFF(open), .has_imm = true, .imm = (u8)(1 << in->seg) }); /* TEST */
	return late_add(e, emit_jcc(a, CC_E), in);
}

void emit_group_save(struct emit *e)
{
	struct group *g = e->at_t0;

	if (g->left && !g->saved) {
		x64_store_gs(e->a, T0, GS_OFF(hot.span) + 8 * (s32)(g - e->group));
		g->saved = true;
	}
	e->at_t0 = NULL;
}

/* The displacement has to fit after being moved as well. */
static bool group_usable(const struct emit *e, unsigned i, unsigned which)
{
	const struct insn *in = e->insn[i];
	const struct group *g = &e->group[e->touch[i][which].group];

	return g->count > !stack_can(e, i, which) && !e->no_groups && !in->is_far &&
	       (s64)in->disp + 4096 < INT32_MAX && (s64)in->disp - 4096 > INT32_MIN;
}

/* T0 becomes the host's address of g's span. */
static void emit_group_check(struct emit *e, unsigned i, unsigned which, const struct group *g,
			     const struct group_info *info)
{
	const struct insn *in = e->insn[i];
	s32 off = g->write ? offsetof(struct tlb, w) : offsetof(struct tlb, r);
	u8 *again = e->a->p;
	struct late *l, *shut = which == ACCESS_MEM ? emit_open(e, in) : NULL;
	struct insn all = *in;

	if (info->wide)
		all.index = REG_NONE;
	emit_linear(e, &all, which, info->lo);
	if (e->t->counting)
		emit_count(e->a, T1, checks, 1);
	l = late_add(e, emit_lookup(e, off, PAGE_SIZE - info->span), in);
	l->thunk = e->t->group;
	memcpy(&l->group, info, sizeof *info);
	l->back = again;
	if (shut) {
		u8 *jump = shut->jump;

		*shut = *l;
		shut->jump = jump;
	}
	x64_op(e->a, &(struct x64_op){ .opcode = 0x03,
				       .w = true,
				       .reg = T0,
				       .rm = T1,
				       .mem = true,
				       .disp = off + 8 });
}

static void emit_group(struct emit *e, unsigned i, unsigned which, unsigned size, bool write)
{
	const struct touch *x = &e->touch[i][which];
	struct group *g = &e->group[x->group];
	struct group_info info = { (u8)size,
				   write,
				   g->write,
				   which == ACCESS_STACK,
				   x->wide,
				   (s16)(g->lo - x->eff),
				   (u16)(g->hi - g->lo) };

	emit_clobber(e, i);
	emit_scratch(e, T0);
	if (stack_can(e, i, which))
		stack_check(e, i, which, &info);
	else
		emit_group_check(e, i, which, g, &info);
	g->checked = true;
}

/* e->mem, the start of what a small index goes through, becomes the operand. */
static void emit_index(struct emit *e, const struct insn *in)
{
	unsigned h = host_reg(e, in->index);

	if (h != REG_NONE) {
		e->mem.index = (u8)h;
		e->mem.scale = in->scale;
		return;
	}
	h = emit_get(e, in->index, 1 << T0);
	emit_scratch(e, T0);
	x64_op(e->a, &(struct x64_op){ .opcode = 0x8d,
				       .w = true,
				       .reg = T0,
				       .rm = e->mem.base,
				       .mem = true,
				       .has_index = true,
				       .index = (u8)h,
				       .scale = in->scale });
	e->mem.base = T0;
}

/* In a loop, by a register that was checked before. */
static void emit_hoisted(struct emit *e, unsigned i, unsigned which)
{
	const struct insn *in = e->insn[i];
	const struct touch *x = &e->touch[i][which];
	struct group *g = &e->group[x->group];
	bool by_index = g->var != REG_NONE && g->key.base != g->var + 1u;
	s64 off = g->var == REG_NONE ? 0 :
		  by_index	     ? x->index_off * (s64)BIT(in->scale) :
				       x->base_off;

	e->mem = (struct host_at){ g->host, REG_NONE, 0, (s32)(x->eff - g->lo - off) };
	if (g->host == REG_NONE) {
		if (e->at_t0 != g) {
			emit_scratch(e, T0);
			x64_load_gs(e->a, T0, GS_OFF(hot.span) + 8 * (s32)x->group);
		}
		e->at_t0 = g;
		g->saved = true; /* by the prelude */
		e->mem.base = T0;
	}
	if (x->wide)
		emit_index(e, in);
	if (g->var == REG_NONE)
		return;
	if (which == ACCESS_STACK)
		e->mem.index = insn_way(in) == WAY_LEAVE ? (u8)RBP : (u8)HOST_SP;
	else
		e->mem.index = (u8)emit_get(e, by_index ? in->index : in->base, 1 << T0);
	e->mem.scale = by_index ? in->scale : 0;
}

/* An access of instruction i: e->mem. */
void emit_access(struct emit *e, unsigned i, unsigned which, unsigned size, bool write)
{
	const struct insn *in = e->insn[i];
	const struct touch *x = &e->touch[i][which];
	struct group *g = &e->group[x->group];

	if (e->loop.on && g->hoisted) {
		emit_hoisted(e, i, which);
		return;
	}
	e->mem = (struct host_at){ T0, REG_NONE, 0, 0 };
	if (!g->checked && !group_usable(e, i, which)) {
		g->count = 0; /* nor for the others */
		emit_clobber(e, i);
		emit_scratch(e, T0); /* before any jump to the interpreter */
		if (which == ACCESS_MEM)
			emit_open(e, in);
		emit_linear(e, in, which, 0);
		emit_check(e, in, size, write);
		e->at_t0 = NULL;
		return;
	}
	if (!g->checked) {
		emit_group(e, i, which, size, write);
	} else if (e->at_t0 != g) {
		ASSERT(g->saved);
		emit_scratch(e, T0);
		x64_load_gs(e->a, T0, GS_OFF(hot.span) + 8 * (s32)x->group);
	}
	e->at_t0 = g;
	g->left--;
	if (g->stack)
		stack_access(e, i, which);
	else
		e->mem.disp = (s32)(x->eff - g->lo);
	if (x->wide)
		emit_index(e, in);
}

/* Between the host's register reg and e->mem, a word. */
static void emit_move(struct emit *e, u8 opcode, unsigned reg)
{
	struct x64_op o = { .opcode = opcode, .w = e->word == 8, .reg = (u8)reg };

	host_at_put(&o, &e->mem);
	x64_op(e->a, &o);
}

static void emit_load(struct emit *e, unsigned reg)
{
	emit_move(e, 0x8b, reg);
}

void emit_store(struct emit *e, unsigned reg)
{
	emit_move(e, 0x89, reg);
}

/* --- ways out --------------------------------------------------------------------------------- */
void emit_near_index(struct x64 *a)
{
	x64_op(a, &(struct x64_op){ .opcode = 0x8d,
				    .reg = T2,
				    .mem = true,
				    .no_base = true,
				    .has_index = true,
				    .index = T0,
				    .scale = 2 });
	x64_alu_imm(a, OP_AND, false, T2, (ARRAY_LEN(((struct tcg_cpu *)0)->hot.near) - 1) << 4);
}

void emit_near_key(struct x64 *a)
{
	x64_op(a, &(struct x64_op){ .opcode = 0x33,
				    .w = true,
				    .reg = T1,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(top.near_key) });
}

/* T1 becomes what hot.near[] calls rip T0. */
void emit_near_tag(struct x64 *a)
{
	x64_mov_rr(a, T1, T0);
	emit_near_key(a);
}

/* One operand is field off of the entry of hot.near[] at T2. */
static void near_op(struct x64 *a, u8 opcode, unsigned reg, size_t off)
{
	x64_op(a, &(struct x64_op){ .opcode = opcode,
				    .w = true,
				    .reg = (u8)reg,
				    .rm = T2,
				    .mem = true,
				    .gs = true,
				    .gs_base = true,
				    .disp = GS_OFF(hot.near) + (s32)off });
}

/* Jump to the code of the entry of hot.near[] at T2. */
void emit_near_go(struct x64 *a)
{
	near_op(a, 0xff, 4, offsetof(struct trans_near, code));
}

/* T2 becomes the offset of rip T0 in hot.near[]; jumps if that is another's. */
static u8 *emit_near(struct emit *e)
{
	struct x64 *a = e->a;

	if (e->t->counting)
		emit_count(a, T1, indirect, 1);
	emit_near_tag(a);
	emit_near_index(a);
	near_op(a, 0x39, T1, offsetof(struct trans_near, tag)); /* CMP */
	return emit_jcc(a, CC_NE);
}

/* To rip T0, which is anywhere.  add: to guest RSP, once it is sure.  In is left to the interpreter
 * if the fetch TLB does not know the page; without it, that is somebody else's business. */
static void emit_indirect(struct emit *e, const struct insn *in, s32 add)
{
	struct x64 *a = e->a;
	u8 *far = emit_near(e), *miss;

	if (add)
		emit_lea_word(e, HOST_SP, HOST_SP, add);
	x64_alu_imm(a, OP_AND, true, T0, -(s32)PAGE_SIZE);
	x64_store_gs(a, T0, GS_OFF(code_rip));
	emit_near_go(a);
	emit_patch(far, a->p);
	miss = emit_lookup(e, offsetof(struct tlb, x), PAGE_SIZE - 1);
	if (in)
		late_add(e, miss, in);
	else
		emit_patch(miss, trans_rw(e->t, e->t->leave_rip));
	if (add)
		emit_lea_word(e, HOST_SP, HOST_SP, add);
	emit_jump(a, trans_rw(e->t, e->t->far));
}

u32 emit_off(const struct emit *e, const u8 *p)
{
	return (u32)(p - e->t->cache.rw);
}

/* Leave for pgoff of this page; flags are where e says. */
void emit_leave(struct emit *e, u32 exit)
{
	emit_imm32(e->a, T0, exit);
	emit_jump(e->a, trans_rw(e->t, e->in_mem ? e->t->out : e->t->out_flags));
}

void emit_out(struct emit *e, struct out o)
{
	bool in_reg = e->in_reg, in_mem = e->in_mem;
	u16 told_regs = in_mem ? 0 : note_regs(e->told);

	emit_patch(o.jump, e->a->p);
	if (o.to >= 0 && o.to < (s64)PAGE_SIZE && e->b->link_ok) {
		u32 id = (u32)(e->tb - e->t->pool) * EDGES + o.edge;

		e->tb->edge[o.edge] = (struct trans_edge){ .at = emit_off(e, o.jump),
							   .out = emit_off(e, e->a->p),
							   .pgoff = (u16)o.to,
							   .reg = in_reg,
							   .told = in_mem || e->told,
							   .regs = told_regs };
		emit_leave(e, EXIT_AT | id << 12 | (u32)o.to);
	} else {
		if (!in_mem)
			emit_flags_save(e->a);
		x64_load_gs(e->a, T0, GS_OFF(code_rip));
		emit_lea_word(e, T0, T0, (s32)o.to);
		emit_indirect(e, NULL, 0);
	}
	e->in_reg = in_reg;
	e->in_mem = in_mem;
}

/* Unconditionally on to to. */
void emit_go(struct emit *e, s64 to, unsigned edge)
{
	if (to >= 0 && to < (s64)PAGE_SIZE && e->b->link_ok && edge < EDGES) {
		emit_jump(e->a, e->a->p);
		emit_out(e, (struct out){ e->a->p - 4, to, edge });
		return;
	}
	if (!e->in_mem)
		emit_flags_save(e->a);
	x64_load_gs(e->a, T0, GS_OFF(code_rip));
	emit_lea_word(e, T0, T0, (s32)to);
	emit_indirect(e, NULL, 0);
}

s64 rel_to(const struct insn *in)
{
	return (s64)in->pgoff + in->len + (s64)in->imm;
}

static void emit_two_ways(struct emit *e, const struct insn *in, u8 *taken)
{
	emit_go(e, in->pgoff + in->len, 0);
	if (e->loop.blocks == 1)
		loop_back(e, taken);
	else
		emit_out(e, (struct out){ taken, rel_to(in), 1 });
}

/* JRCXZ and LOOP, by a short jump around. */
static void emit_rcx_branch(struct emit *e, const struct insn *in, bool loop)
{
	struct x64 *a = e->a;
	u8 *taken;

	if (loop)
		emit_lea_word(e, RCX, RCX, -1);
	if (e->word == 4)
		x64_u8(a, 0x67);
	x64_u8(a, 0xe3);
	x64_u8(a, loop ? 5 : 2);
	if (!loop) {
		x64_u8(a, 0xeb);
		x64_u8(a, 5);
	}
	x64_u8(a, 0xe9);
	x64_u32(a, 0);
	taken = a->p - 4;
	emit_two_ways(e, in, taken);
}

/* --- instructions that are more than an operation --------------------------------------------- */
static void emit_step(struct emit *e, unsigned i)
{
	emit_clobber(e, i);
	if (e->note.note)
		emit_note(e, e->note);
	emit_scratch(e, T0);
	emit_imm64(e->a, T0, (u64)e->insn[i]);
	emit_call(e->a, trans_rw(e->t, e->t->step));
	e->cached = 1 << T0 | 1 << T1 | 1 << T2;
	e->in_mem = true;
	e->note = (struct flags_made){ 0 };
}

static void emit_push(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	unsigned from = e->lates;

	if (in->opd[0].kind == OPD_MEM) {
		emit_access(e, i, ACCESS_MEM, e->word, false);
		emit_scratch(e, T1);
		emit_load(e, T1);
		x64_store_gs(e->a, T1, GS_OFF(top.scratch));
	}
	emit_access(e, i, ACCESS_STACK, e->word, true);
	if (in->opd[0].kind == OPD_IMM) {
		emit_move(e, 0xc7, 0);
		x64_u32(e->a, (u32)in->imm);
	} else if (in->opd[0].kind == OPD_MEM) {
		emit_scratch(e, T1);
		x64_load_gs(e->a, T1, GS_OFF(top.scratch));
		emit_store(e, T1);
	} else {
		emit_store(e, emit_get(e, in->opd[0].reg, 1 << T0));
	}
	emit_lea_word(e, HOST_SP, HOST_SP, -e->word);
	emit_late_back(e, from);
}

static void emit_pop(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	unsigned from = e->lates, reg = in->opd[0].reg, h = host_reg(e, reg);

	emit_access(e, i, ACCESS_STACK, e->word, false);
	if (e->mem.index != REG_NONE)
		e->mem.disp -= e->word; /* it is RSP */
	if (reg != RSP)
		emit_lea_word(e, HOST_SP, HOST_SP, e->word);
	else if (e->mem.index != REG_NONE)
		e->mem.disp += e->word;
	if (h == REG_NONE)
		h = emit_home(e, reg, 1 << T0);
	emit_load(e, h);
	if (reg_homeless(reg))
		emit_put(e, h, reg);
	emit_late_back(e, from);
}

static void emit_leave_frame(struct emit *e, unsigned i)
{
	unsigned from = e->lates;

	emit_access(e, i, ACCESS_STACK, e->word, false);
	emit_lea_word(e, HOST_SP, RBP, e->word);
	emit_load(e, RBP);
	emit_late_back(e, from);
}

static void emit_lea(struct emit *e, const struct insn *in)
{
	unsigned reg = in->opd[0].reg, h = host_reg(e, reg), dst = h;

	if (h == REG_NONE)
		dst = reg == R15 ? (unsigned)T0 : reg;
	emit_address(e, in, dst, in->size == 8);
	if (reg_homeless(reg))
		emit_put(e, dst, reg);
}

/* Where a call or an indirect jump goes: T0. */
static void emit_target(struct emit *e, const struct insn *in, unsigned i)
{
	if (in->opd[0].kind == OPD_MEM) {
		emit_access(e, i, ACCESS_MEM, e->word, false);
		emit_scratch(e, T0);
		emit_load(e, T0);
	} else {
		unsigned h = emit_get(e, in->opd[0].reg, 0);

		emit_scratch(e, T0);
		if (h != T0)
			x64_mov_rr(e->a, T0, h);
	}
	emit_clobber(e, i); /* by what follows */
}

static void emit_push_return(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];

	emit_access(e, i, ACCESS_STACK, e->word, true);
	emit_scratch(e, T1);
	x64_load_gs(e->a, T1, GS_OFF(code_rip));
	x64_lea(e->a, T1, T1, in->pgoff + in->len);
	emit_store(e, T1);
	emit_lea_word(e, HOST_SP, HOST_SP, -e->word);
}

/* Nothing is pushed before the target is known to be good: the interpreter then begins anew. */
static void emit_call_indirect(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	struct x64 *a = e->a;
	u8 *again, *far;

	emit_target(e, in, i);
	emit_scratch(e, T1);
	emit_scratch(e, T2);
	again = a->p;
	far = emit_near(e);
	near_op(a, 0x8b, T1, offsetof(struct trans_near, code)); /* MOV */
	x64_store_gs(a, T1, GS_OFF(top.callee));
	x64_alu_imm(a, OP_AND, true, T0, -(s32)PAGE_SIZE);
	x64_store_gs(a, T0, GS_OFF(top.scratch));
	emit_push_return(e, i);
	x64_load_gs(a, T0, GS_OFF(top.scratch));
	x64_store_gs(a, T0, GS_OFF(code_rip));
	x64_op(a, &(struct x64_op){ .opcode = 0xff,
				    .reg = 4,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(top.callee) });
	emit_patch(far, a->p);
	late_add(e, emit_lookup(e, offsetof(struct tlb, x), PAGE_SIZE - 1), in);
	emit_call(a, trans_rw(e->t, e->t->find));
	late_add(e, emit_jcc(a, CC_NE), in);
	emit_jump(a, again);
}

static void emit_call_insn(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];

	if (in->opd[0].kind != OPD_REL) {
		emit_call_indirect(e, i);
	} else {
		emit_push_return(e, i);
		emit_tell(e, i, rel_to(in));
		emit_go(e, rel_to(in), 1);
	}
}

static void emit_ret(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];

	emit_access(e, i, ACCESS_STACK, e->word, false);
	emit_load(e, T0);
	emit_clobber(e, i);
	emit_indirect(e, in, e->word + (in->opd[0].kind == OPD_IMM ? (u16)in->imm : 0));
}

/* An operation on registers and at most one memory operand, whose size and direction the row says.
 */
static void emit_operation(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	unsigned from = e->lates;
	u16 written = op_flags_written(in);

	for (unsigned n = 0; n < in->nopd; n++)
		if (in->opd[n].kind == OPD_MEM)
			emit_access(e, i, ACCESS_MEM, in->opd[n].size,
				    n == 0 && in->op->flags & F_W0);
	emit_flags_needed(e, flags_needed(e, i));
	emit_kept(e, i);
	op_emit(e, i);
	if (written)
		emit_flags_new(e, i);
	emit_late_back(e, from);
}

void emit_insn(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];

	switch (insn_way(in)) {
	case WAY_NOP: break;
	case WAY_LEA: emit_lea(e, in); break;
	case WAY_OP: emit_operation(e, i); break;
	case WAY_PUSH: emit_push(e, i); break;
	case WAY_POP: emit_pop(e, i); break;
	case WAY_LEAVE: emit_leave_frame(e, i); break;
	case WAY_PUSHF: emit_pushf(e, i); break;
	case WAY_IF: emit_if(e, i); break;
	case WAY_FROM_SREG: emit_from_sreg(e, in); break;
	case WAY_BITS: emit_bits(e, i); break;
	case WAY_STRING: emit_string(e, i); break;
	case WAY_ELEMENT: emit_element(e, i); break;
	case WAY_JCC:
		emit_flags_needed(e, FL_ARITH);
		emit_tell(e, i, in->pgoff + in->len);
		emit_two_ways(e, in, emit_jcc(e->a, in->op->opcode & 15));
		break;
	case WAY_JMP:
		if (in->opd[0].kind == OPD_REL) {
			emit_tell(e, i, rel_to(in));
			emit_go(e, rel_to(in), 1);
		} else {
			emit_target(e, in, i);
			emit_indirect(e, in, 0);
		}
		break;
	case WAY_CALL: emit_call_insn(e, i); break;
	case WAY_RET: emit_ret(e, i); break;
	case WAY_RCX:
		emit_tell(e, i, in->pgoff + in->len);
		emit_rcx_branch(e, in, in->op->exec.self == exec_LOOP);
		break;
	default: emit_step(e, i); break;
	}
}
