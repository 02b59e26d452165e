/* trans_group.c - which memory accesses of a block share one check.
 *
 * Accesses whose addresses differ by a constant, as far as the block's instructions tell, form a
 * group if they lie close together.  The first of them checks the whole span once; the others use
 * what it found. For that, each register is a value number and an offset: additions of constants
 * change the offset, moves copy both, everything else makes a new value.
 *
 * An index that must be small (it comes from a byte, or was masked) may be any: the span is all
 * that it can reach from its base, so accesses to one table share a check, and in a loop need
 * none. */
#include "trans.h"

enum { SPAN_MAX = 256, WIDE_MAX = 1040 };

struct value {
	u32 id;
	u32 room; /* the register is below that; 0: nobody knows */
	s64 off;
};

struct plan {
	struct emit *e;
	struct value reg[16];
	u32 ids, segs; /* the last value; how often FS and GS may have changed */
};

static void plan_kill(struct plan *p, unsigned reg)
{
	p->reg[reg] = (struct value){ .id = ++p->ids };
}

static void plan_kill_all(struct plan *p)
{
	for (unsigned r = 0; r < 16; r++)
		plan_kill(p, r);
	p->segs++;
}

/* Offsets of 32-bit code are modulo 4 GiB. */
static s64 wrap(const struct plan *p, s64 off)
{
	return p->e->word == 8 ? off : (s32)off;
}

/* --- accesses --------------------------------------------------------------------------------- */
static void plan_join(struct plan *p, struct touch *x, struct group_key key, unsigned size,
		      bool write)
{
	const s64 most = x->wide ? WIDE_MAX : SPAN_MAX;
	struct emit *e = p->e;
	struct group *g;

	for (unsigned n = e->groups; n > 1; n--) {
		g = &e->group[n - 1];
		if (memcmp(&g->key, &key, sizeof key) != 0)
			continue;
		if (MAX(g->hi, x->eff + (s64)size) - MIN(g->lo, x->eff) > most)
			break;
		g->lo = MIN(g->lo, x->eff);
		g->hi = MAX(g->hi, x->eff + (s64)size);
		g->write |= write;
		g->count++, g->left++;
		x->group = (u8)(n - 1);
		return;
	}
	x->group = (u8)e->groups;
	e->group[e->groups++] = (struct group){
		.key = key, .lo = x->eff, .hi = x->eff + size, .write = write, .count = 1, .left = 1
	};
}

/* How far behind its base can the access's index take it?  0: too far, or nobody knows. */
static unsigned plan_reach(const struct plan *p, const struct insn *in)
{
	static const u16 most[] = { WIDE_MAX - 16, 64 };
	u64 reach = in->index == REG_NONE ? 0 : (u64)p->reg[in->index].room << in->scale;
	bool ok = p->e->narrow < ARRAY_LEN(most) && reach <= most[p->e->narrow];

	return ok && in->op->exec.self != exec_XCHG ? (unsigned)reach : 0;
}

static void plan_mem(struct plan *p, unsigned i, const struct insn *in, unsigned size, bool write)
{
	struct touch *x = &p->e->touch[i][ACCESS_MEM];
	struct group_key key = { .base = ~0u, .index = ~0u };
	unsigned reach = plan_reach(p, in);

	*x = (struct touch){ .eff = (s64)insn_disp(in), .wide = reach };
	if (in->base == REG_RIP) {
		key.base = ~1u;
		x->eff += in->pgoff + in->len;
	} else if (in->base != REG_NONE) {
		key.base = p->reg[in->base].id;
		x->base_off = p->reg[in->base].off;
		x->eff += x->base_off;
	}
	if (reach) {
		key.index = (u32)INDEX_SMALL;
		size += reach - (1u << in->scale);
	} else if (in->index != REG_NONE) {
		key.index = p->reg[in->index].id;
		key.scale = in->scale;
		x->index_off = p->reg[in->index].off;
		x->eff += (s64)((u64)x->index_off << in->scale);
	}
	if (in->seg >= SEG_FS)
		key.seg = p->segs << 4 | in->seg;
	x->eff = wrap(p, x->eff);
	plan_join(p, x, key, size, write);
}

static void plan_stack(struct plan *p, unsigned i, unsigned reg, s64 off, bool write)
{
	struct touch *x = &p->e->touch[i][ACCESS_STACK];

	*x = (struct touch){ .eff = p->reg[reg].off + off, .base_off = p->reg[reg].off };
	plan_join(p, x, (struct group_key){ .base = p->reg[reg].id, .index = ~0u }, p->e->word,
		  write);
}

/* --- what instructions do to registers -------------------------------------------------------- */
static void plan_written(struct plan *p, const struct insn *in)
{
	insn_fn f = in->op->exec.self;

	for (unsigned n = 0; n < in->nopd && n < 2; n++)
		if (in->op->flags & (n ? F_W1 : F_W0) &&
		    (in->opd[n].kind == OPD_REG || in->opd[n].kind == OPD_REGH))
			plan_kill(p, in->opd[n].reg);
	if (in->op->cls == CLS_DRV)
		return;
	if (f == exec_MUL || f == exec_IMUL1 || f == exec_DIV || f == exec_IDIV ||
	    f == exec_CMPXCHG || f == exec_CMPXCHG8B || f == exec_CMPXCHG16B) {
		plan_kill(p, RAX);
		plan_kill(p, RDX);
	}
	if (in->op->cls == CLS_NATIVE && (in->op->map == MAP_0F3A || in->op->map == MAP_V0F3A))
		plan_kill(p, RCX); /* PCMPESTRI, PCMPISTRI */
	if (in->op->cls == CLS_NATIVE && in->op->map == MAP_DF)
		plan_kill(p, RAX); /* FNSTSW */
}

/* What an instruction makes of its first operand is below this; 0: nobody knows. */
static u32 plan_room(const struct plan *p, const struct insn *in)
{
	drv_fn f = in->op->exec.drv;
	const struct opd *d = &in->opd[0], *s = &in->opd[1];
	unsigned bits = d->size * 8u;

	if (in->op->cls != CLS_DRV || d->kind != OPD_REG || d->size < 4)
		return 0;
	if (f == exec_MOVZX && s->size == 1)
		return 256;
	if (f == exec_MOV && s->kind == OPD_REG)
		return p->reg[s->reg].room;
	if (s->kind != OPD_IMM || in->imm < 0)
		return 0;
	if (f == exec_AND && in->imm < WIDE_MAX)
		return (u32)in->imm + 1;
	if (f == exec_SHR && (u32)in->imm < bits && bits - (u32)in->imm <= 8)
		return 1u << (bits - (u32)in->imm);
	return 0;
}

/* Is reg = a known value plus a constant afterwards? */
static bool plan_linear(struct plan *p, const struct insn *in)
{
	drv_fn f = in->op->exec.drv;
	const struct opd *d = &in->opd[0], *s = &in->opd[1];
	struct value v;

	if (in->op->cls != CLS_DRV || d->kind != OPD_REG || d->size != p->e->word)
		return false;
	v = p->reg[d->reg];
	if (f == exec_ADD && s->kind == OPD_IMM)
		v.off += (s64)in->imm;
	else if (f == exec_SUB && s->kind == OPD_IMM)
		v.off -= (s64)in->imm;
	else if (f == exec_INC || f == exec_DEC)
		v.off += f == exec_INC ? 1 : -1;
	else if (f == exec_MOV && s->kind == OPD_REG)
		v = p->reg[s->reg];
	else if (f == exec_LEA && in->base < 16 && in->index == REG_NONE && in->asize == p->e->word)
		v = (struct value){ p->reg[in->base].id, 0, p->reg[in->base].off + in->disp };
	else
		return false;
	if (f != exec_MOV)
		v.room = 0;
	p->reg[d->reg] = (struct value){ v.id, v.room, wrap(p, v.off) };
	return true;
}

static void plan_pop(struct plan *p, const struct insn *in)
{
	p->reg[RSP].off += p->e->word;
	plan_kill(p, in->opd[0].reg);
}

static void plan_leave(struct plan *p)
{
	p->reg[RSP] = (struct value){ p->reg[RBP].id, 0, p->reg[RBP].off + p->e->word };
	plan_kill(p, RBP);
}

/* One instruction, seen as trans_emit.c will do it. */
static void plan_insn(struct plan *p, unsigned i)
{
	const struct insn *in = p->e->insn[i];
	bool mem = in->opd[0].kind == OPD_MEM;
	u8 word = p->e->word;
	u32 room;

	switch (insn_way(in)) {
	case WAY_LEA:
	case WAY_OP:
		for (unsigned n = 0; n < in->nopd; n++)
			if (in->opd[n].kind == OPD_MEM && !(in->op->flags & F_NOMEM))
				plan_mem(p, i, in, in->opd[n].size, n == 0 && in->op->flags & F_W0);
		room = plan_room(p, in);
		if (!plan_linear(p, in))
			plan_written(p, in);
		if (room)
			p->reg[in->opd[0].reg].room = room;
		break;
	case WAY_PUSH:
	case WAY_PUSHF:
	case WAY_CALL:
		if (mem) /* whose slow path would leave out the other's check */
			plan_mem(p, i, in, word, false);
		else
			plan_stack(p, i, RSP, -word, true);
		p->reg[RSP].off -= word;
		break;
	case WAY_JMP:
		if (mem)
			plan_mem(p, i, in, word, false);
		break;
	case WAY_POP:
		plan_stack(p, i, RSP, 0, false);
		plan_pop(p, in);
		break;
	case WAY_RET: plan_stack(p, i, RSP, 0, false); break;
	case WAY_LEAVE:
		plan_stack(p, i, RBP, 0, false);
		plan_leave(p);
		break;
	case WAY_FROM_SREG: plan_kill(p, in->opd[0].reg); break;
	case WAY_ELEMENT:
		plan_kill(p, RAX);
		plan_kill(p, RSI);
		plan_kill(p, RDI);
		break;
	case WAY_STEP:
	case WAY_STRING: plan_kill_all(p); break;
	default: break;
	}
}

void group_plan(struct emit *e)
{
	struct plan p = { .e = e };

	e->groups = 1;
	e->loop.steady = 0;
	memset(e->touch, 0, sizeof e->touch);
	plan_kill_all(&p);
	for (unsigned i = 0; i < e->n; i++)
		plan_insn(&p, i);
	for (unsigned r = 0; r < 16; r++)
		if (p.reg[r].id == r + 1) {
			e->loop.steady |= (u16)(1 << r);
			e->loop.delta[r] = p.reg[r].off;
		}
}
