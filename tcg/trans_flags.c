/* trans_flags.c - flags that nothing in a block reads before they are written again.
 *
 * Nobody sees them, unless an instruction in between faults, or an interrupt comes where the block
 * begins: the handler's frame shows them all.  So they are not kept, as those that count are, but
 * a note says how to compute them again, from registers that still have what the last instruction
 * to write flags had or left.  It costs nothing before a fault, and one store on the way to another
 * block: it takes the place of c->cc, and the one bit that is never clear in flags tells the two
 * apart.  C that translated code calls, or leaves to, finds flags (flags_settle).  What has no
 * note, being computed from memory or from what is gone, is kept.  Runs on the vCPU's thread.
 *
 * SDM vol 1 3.4.3.1; vol 3 6.5 and 6.12.1: a fault's frame has EFLAGS as before the instruction. */
#include "alu.h"
#include "trans.h"

/* --- notes ------------------------------------------------------------------------------------ */
/* Bits 2-0 kind; 3 is val a number; 5-4 log2 of the size; 9-6 register; 24-10 val, register or
 * signed number.  A shift has a number always, and its operand in hot.kept if bit 3 is clear. */
enum kind { NOTE_LOGIC = 1, NOTE_TEST, NOTE_CMP, NOTE_ADD, NOTE_SUB, NOTE_NEG, NOTE_SHIFT };
/* What changes some flags only has a second note. */
enum top { TOP_INC = 1, TOP_DEC, TOP_ROL, TOP_ROR };
enum { SHIFT_OF_SHL, SHIFT_OF_SHR, SHIFT_OF_SAR, COUNT_BITS = 6 };
enum { NUMBER = 8, SIZE_SHIFT = 4, REG_SHIFT = 6, VAL_SHIFT = 10, VAL_BITS = 15, IS_FLAGS = 0x200 };

static u32 note(u32 kind, const struct opd *d, u32 number, u32 val)
{
	return kind | number | (u32)__builtin_ctz(d->size) << SIZE_SHIFT |
	       (u32)d->reg << REG_SHIFT | (val & (BIT(VAL_BITS) - 1)) << VAL_SHIFT;
}

static u32 note_of_two(enum kind kind, const struct insn *in)
{
	const struct opd *d = &in->opd[0], *s = &in->opd[1];
	s64 imm = (s64)in->imm;
	bool changed = kind == NOTE_ADD || kind == NOTE_SUB;

	if (s->kind == OPD_IMM && imm >= -(1 << (VAL_BITS - 1)) && imm < 1 << (VAL_BITS - 1))
		return note(kind, d, NUMBER, (u32)imm);
	if (s->kind != OPD_REG || (changed && s->reg == d->reg))
		return 0;
	return note(kind, d, 0, s->reg);
}

static u16 regs_written(const struct insn *in);

/* The register that instruction i's first operand was copied from a little before, or REG_NONE. */
static unsigned copied_from(const struct emit *e, unsigned i)
{
	const struct opd *d = &e->insn[i]->opd[0];
	u16 spoilt = 0;

	for (unsigned n = 1; n <= MIN(i, 3u); n++) {
		const struct insn *in = e->insn[i - n];
		const struct opd *to = &in->opd[0], *from = &in->opd[1];

		if (in->op->cls == CLS_DRV && in->op->exec.drv == exec_MOV && to->kind == OPD_REG &&
		    from->kind == OPD_REG && to->reg == d->reg && to->size == d->size) {
			spoilt |= (u16)(1 << to->reg);
			return spoilt & 1 << from->reg ? REG_NONE : from->reg;
		}
		spoilt |= regs_written(in);
		if (spoilt & 1 << d->reg)
			break;
	}
	return REG_NONE;
}

static u32 note_of_shift(const struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	drv_fn f = in->op->exec.drv;
	u32 how = f == exec_SHL ? SHIFT_OF_SHL : f == exec_SHR ? SHIFT_OF_SHR : SHIFT_OF_SAR;
	unsigned from = copied_from(e, i);
	struct opd d = in->opd[0];

	if ((f != exec_SHL && f != exec_SHR && f != exec_SAR) || d.size < 4 ||
	    in->opd[1].kind != OPD_IMM || !e->seen[i + 1])
		return 0;
	d.reg = from == REG_NONE ? 0 : (u8)from;
	return note(NOTE_SHIFT, &d, from == REG_NONE ? 0 : NUMBER,
		    how << COUNT_BITS | (in->imm & (d.size * 8 - 1)));
}

static bool note_is_of_kept(u32 n)
{
	return (n & (7 | NUMBER)) == NOTE_SHIFT;
}

/* How to compute all flags from what instruction i, which writes them, leaves; 0: no way. */
static u32 note_of(const struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	drv_fn f = in->op->exec.drv;

	if (insn_way(in) != WAY_OP || in->op->cls != CLS_DRV || in->opd[0].kind != OPD_REG)
		return 0;
	if (f == exec_AND || f == exec_OR || f == exec_XOR)
		return note(NOTE_LOGIC, &in->opd[0], NUMBER, 0);
	if (f == exec_NEG)
		return note(NOTE_NEG, &in->opd[0], NUMBER, 0);
	if (f == exec_TEST || f == exec_CMP)
		return note_of_two(f == exec_TEST ? NOTE_TEST : NOTE_CMP, in);
	if (f == exec_ADD || f == exec_SUB)
		return note_of_two(f == exec_ADD ? NOTE_ADD : NOTE_SUB, in);
	return note_of_shift(e, i);
}

static u32 top_of(const struct insn *in)
{
	const struct opd *d = &in->opd[0];
	drv_fn f = in->op->exec.drv;

	if (insn_way(in) != WAY_OP || in->op->cls != CLS_DRV || d->kind != OPD_REG)
		return 0;
	if (f == exec_INC || f == exec_DEC)
		return note(f == exec_INC ? TOP_INC : TOP_DEC, d, NUMBER, 0);
	if ((f != exec_ROL && f != exec_ROR) || d->size < 4 || in->opd[1].kind != OPD_IMM)
		return 0;
	return note(f == exec_ROL ? TOP_ROL : TOP_ROR, d, NUMBER, 0);
}

/* Do both change the same flags? */
static bool top_replaces(u32 top, u32 old)
{
	return !old || ((top & 7) >= TOP_ROL) == ((old & 7) >= TOP_ROL);
}

u16 note_regs(u32 n)
{
	u16 mask = (u16)(1 << (n >> REG_SHIFT & 15));

	if (note_is_of_kept(n))
		return 0;
	return n & NUMBER ? mask : mask | (u16)(1 << (n >> VAL_SHIFT & 15));
}

static void note_shift(unsigned size, u16 *cc, u64 a, u32 how)
{
	u64 count = how & (BIT(COUNT_BITS) - 1);

	switch (how >> COUNT_BITS & 3) {
	case SHIFT_OF_SHL: alu_shl(size, cc, a, count); break;
	case SHIFT_OF_SHR: alu_shr(size, cc, a, count); break;
	default: alu_sar(size, cc, a, count); break;
	}
}

static u16 note_flags(const struct tcg_cpu *c, u32 n)
{
	unsigned size = 1u << (n >> SIZE_SHIFT & 3);
	u64 a = note_is_of_kept(n) ? c->hot.kept : reg_get(c, n >> REG_SHIFT & 15, size);
	s32 number = (s32)(n << (32 - VAL_SHIFT - VAL_BITS)) >> (32 - VAL_BITS);
	bool is_number = n & NUMBER || (n & 7) == NOTE_SHIFT;
	u64 b = is_number ? (u64)(s64)number : c->v.s.gpr[n >> VAL_SHIFT & 15];
	u16 cc = 0;

	switch (n & 7) {
	case NOTE_LOGIC: alu_and(size, &cc, a, a); break;
	case NOTE_TEST: alu_and(size, &cc, a, b); break;
	case NOTE_CMP: alu_sub(size, &cc, a, b); break;
	case NOTE_ADD: alu_add(size, &cc, a - b, b); break;
	case NOTE_SUB: alu_sub(size, &cc, a + b, b); break;
	case NOTE_NEG: alu_sub(size, &cc, 0, 0 - a); break;
	default: note_shift(size, &cc, a, (u32)b); break;
	}
	return cc;
}

static u16 top_flags(const struct tcg_cpu *c, u32 n, u16 cc)
{
	unsigned size = 1u << (n >> SIZE_SHIFT & 3), top = size * 8 - 1;
	u64 a = reg_get(c, n >> REG_SHIFT & 15, size), carry, other;

	if ((n & 7) == TOP_INC) {
		alu_inc(size, &cc, a - 1);
		return cc;
	}
	if ((n & 7) == TOP_DEC) {
		alu_dec(size, &cc, a + 1);
		return cc;
	}
	carry = (n & 7) == TOP_ROL ? a & 1 : a >> top & 1;
	other = (n & 7) == TOP_ROL ? a >> top & 1 : a >> (top - 1) & 1;
	return (u16)((cc & ~0x101) | carry << 8 | (carry ^ other));
}

void flags_settle(struct tcg_cpu *c)
{
	if (likely(c->cc & IS_FLAGS))
		return;
	c->cc = note_flags(c, c->cc_low | (u32)c->cc << 16);
	if (c->cc_top)
		c->cc = top_flags(c, c->cc_top, c->cc);
	c->cc_top = 0;
}

/* --- what a block does ------------------------------------------------------------------------ */
/* Registers that in may change; the memory operand's do not count. */
static u16 regs_written(const struct insn *in)
{
	const u16 ax_dx = 1 << RAX | 1 << RDX;
	u16 mask = 0;

	switch (insn_way(in)) {
	case WAY_STEP: return 0xffff;
	case WAY_NOP:
	case WAY_JCC:
	case WAY_JMP:
	case WAY_IF:
	case WAY_BITS: return 0;
	case WAY_STRING: return 1 << RSI | 1 << RDI | 1 << RCX;
	case WAY_ELEMENT: return 1 << RSI | 1 << RDI | 1 << RAX;
	case WAY_RCX: return 1 << RCX;
	case WAY_LEAVE: return 1 << RSP | 1 << RBP;
	case WAY_PUSH:
	case WAY_PUSHF:
	case WAY_CALL:
	case WAY_RET: return 1 << RSP;
	case WAY_POP: mask = 1 << RSP; break;
	default: break;
	}
	for (unsigned n = 0; n < in->nopd && n < 2; n++)
		if (in->opd[n].kind == OPD_REG || in->opd[n].kind == OPD_REGH)
			mask |= (u16)(1 << in->opd[n].reg);
	if (in->op->cls == CLS_NATIVE)
		return mask | 1 << RAX | 1 << RCX; /* FNSTSW, PCMPESTRI */
	return in->op->cls == CLS_SELF ? mask | ax_dx : mask;
}

static bool may_fault(const struct insn *in)
{
	insn_fn self = in->op->exec.self;

	switch (insn_way(in)) {
	case WAY_NOP:
	case WAY_LEA:
	case WAY_FROM_SREG:
	case WAY_RCX: return false;
	case WAY_OP: break;
	case WAY_JMP: return in->opd[0].kind != OPD_REL;
	default: return true;
	}
	if (in->op->cls == CLS_NATIVE)
		return true;
	for (unsigned n = 0; n < in->nopd; n++)
		if (in->opd[n].kind == OPD_MEM)
			return true;
	return in->op->cls == CLS_SELF && (self == exec_DIV || self == exec_IDIV);
}

u16 flags_spoilt(const struct emit *e, unsigned i)
{
	u16 mask = 0;

	for (; i < e->n && !op_flags_written(e->insn[i]) && e->seen[i + 1]; i++)
		mask |= regs_written(e->insn[i]);
	return mask;
}

static u16 made_regs(struct flags_made m)
{
	return (m.note ? note_regs(m.note) : 0) | (m.top ? note_regs(m.top) : 0);
}

/* What can be noted behind instruction i. */
static struct flags_made made_after(const struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	const struct flags_made none = { 0 };
	struct flags_made m = e->made_at[i];
	u16 written = op_flags_written(in);
	u32 top = top_of(in);

	if (insn_way(in) == WAY_STEP)
		return none;
	if (written && !top)
		return (struct flags_made){ note_of(e, i), 0 };
	if (made_regs((struct flags_made){ m.note, top ? 0 : m.top }) & regs_written(in))
		return none;
	if (!top)
		return m;
	return m.note && top_replaces(top, m.top) ? (struct flags_made){ m.note, top } : none;
}

static bool made_lasts(const struct emit *e, unsigned i)
{
	return e->made_at[i].note && !(made_regs(e->made_at[i]) & flags_spoilt(e, i));
}

/* Flags that instruction i keeps, while it writes others, have to be with those afterwards: they
 * are read before it, unless all are noted behind it. */
static void live_before(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	u16 seen = e->seen[i + 1], live = e->live[i + 1];

	e->lazy[i] = seen && !live && top_of(in) && made_lasts(e, i + 1);
	e->live[i] = op_flags_before(in, op_flags_written(in) && !e->lazy[i] ? seen : live);
	if (insn_way(in) == WAY_JCC)
		e->live[i] = FL_ARITH; /* a way out */
}

void flags_plan(struct emit *e)
{
	unsigned n = e->n;

	e->live[n] = e->seen[n] = FL_ARITH;
	while (n--) {
		e->seen[n] = op_flags_before(e->insn[n], e->seen[n + 1]);
		if (may_fault(e->insn[n]) || insn_way(e->insn[n]) == WAY_JCC)
			e->seen[n] = FL_ARITH;
	}
	e->made_at[0] = (struct flags_made){ 0 };
	for (unsigned i = 0; i < e->n; i++)
		e->made_at[i + 1] = made_after(e, i);
	for (n = e->n; n--;)
		live_before(e, n);
}

/* --- code ------------------------------------------------------------------------------------- */
void emit_note(struct emit *e, struct flags_made m)
{
	_Static_assert(offsetof(struct tcg_cpu, cc) == offsetof(struct tcg_cpu, cc_low) + 2,
		       "one word");

	emit_gs_set32(e->a, GS_OFF(cc_low), m.note);
	if (m.top)
		emit_gs_set32(e->a, GS_OFF(cc_top), m.top);
}

void emit_clobber(struct emit *e, unsigned i)
{
	if (e->seen[i] && e->in_reg && !e->in_mem) {
		if (!e->live[i] && made_lasts(e, i)) {
			e->note = e->made_at[i];
		} else {
			emit_scratch(e, T2);
			emit_flags_save(e->a);
			e->in_mem = true;
		}
	}
	e->in_reg = false;
}

u16 flags_needed(const struct emit *e, unsigned i)
{
	return op_flags_needed(e->insn[i], e->lazy[i] ? 0 : e->seen[i + 1]);
}

void emit_flags_needed(struct emit *e, u16 need)
{
	if (need && !e->in_reg) {
		emit_scratch(e, T2);
		emit_flags_load(e->a);
		e->in_reg = true;
	}
}

/* Before instruction i changes its operand: what the note will be about. */
void emit_kept(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	const struct flags_made *m = &e->made_at[i + 1];

	/* With a second note it is an earlier instruction's. */
	if (op_flags_written(in) && !m->top && note_is_of_kept(m->note))
		x64_store_gs(e->a, emit_get(e, in->opd[0].reg, 0), GS_OFF(hot.kept));
}

/* Instruction i has left its flags in EFLAGS. */
void emit_flags_new(struct emit *e, unsigned i)
{
	e->in_reg = !e->lazy[i];
	e->in_mem = false;
	e->note = e->lazy[i] ? e->made_at[i + 1] : (struct flags_made){ 0 };
}

/* Behind instruction i, on to another block of the page: should that not keep the flags, it finds
 * how they were made. */
void emit_tell(struct emit *e, unsigned i, s64 to)
{
	bool here = to >= 0 && to < (s64)PAGE_SIZE && e->b->link_ok && e->in_reg && !e->in_mem;
	struct flags_made m = e->made_at[i + 1];

	e->told = here && !m.top ? m.note : 0;
	if (e->told)
		emit_note(e, (struct flags_made){ e->told, 0 });
}
