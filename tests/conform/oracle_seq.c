/* oracle_seq.c - cases of several instructions in a row, for what the block cache and the
 * translator do across instructions: flags kept or dropped, registers in one place or another,
 * shared address checks.
 *
 * Eight registers hold addresses and are not written; memory operands are one of them plus a small
 * displacement, so that every instruction's operands are known beforehand. */
#include "oracle_gen.h"

enum { SEQ_MAX = 6, SEQ_TRIES = 40 };

/* ModRM.rm 3, 5, 6, 7 without SIB: with REX.B or without. */
static const u8 rm_bases[] = { 3, 5, 6, 7 };
#define ADDRESS_REGS                                                                         \
	(1u << RBX | 1u << R11 | 1u << RBP | 1u << R13 | 1u << RSI | 1u << R14 | 1u << RDI | \
	 1u << R15)

static bool seq_row(const struct op *row)
{
	static const insn_fn self[] = { exec_PUSH, exec_POP,   exec_XCHG, exec_XADD, exec_CMPXCHG,
					exec_MUL,  exec_IMUL1, exec_MULX, exec_NOP,  exec_LEAVE };

	if (row->flags & (F_ENDS | F_I64 | F_REP | F_PRIV) || gen_skip_reason(row, MODE_64))
		return false;
	if (row->cls == CLS_DRV || row->cls == CLS_NATIVE)
		return true;
	for (unsigned i = 0; i < ARRAY_LEN(self); i++)
		if (row->cls == CLS_SELF && row->exec.self == self[i])
			return row->exec.self != exec_LEAVE;
	return false;
}

static bool writes_address(const struct insn *in)
{
	static const insn_fn both[] = { exec_XCHG, exec_XADD, exec_MULX };
	bool second = in->op->flags & F_W1;

	for (unsigned i = 0; i < ARRAY_LEN(both); i++)
		second |= in->op->cls == CLS_SELF && in->op->exec.self == both[i];
	for (unsigned i = 0; i < in->nopd && i < (second ? 2u : 1u); i++) {
		const struct opd *o = &in->opd[i];
		unsigned reg = o->kind == OPD_REGH ? o->reg & 3 : o->reg;

		if ((o->kind == OPD_REG || o->kind == OPD_REGH) &&
		    ((ADDRESS_REGS | 1u << RSP) >> reg & 1))
			return !(i == 0 && !(in->op->flags & F_W0) && !second);
	}
	return false;
}

/* Make a drafted memory operand one of ours: [base + disp8]. */
static bool seq_address(struct draft *d)
{
	struct test_case *t = d->t;
	u8 *modrm = t->code + d->modrm_at;
	u8 disp = (u8)gen_random();

	if (!d->mem)
		return true;
	*modrm = (u8)((*modrm & 0x38) | 0x40 | rm_bases[below(4)]);
	modrm[1] = chance(70) ? disp & 0xf0 : disp;
	return decode(&t->in, t->code, 15, MODE_64) > 0 && t->in.op == t->row &&
	       t->in.seg < SEG_FS && t->in.asize == 8 && t->in.base < 16;
}

/* One more instruction behind the len bytes there are, or not. */
static bool seq_add(struct test_case *t, const struct op *row, u64 *undef)
{
	static struct test_case one;
	struct draft d = { .t = &one, .mode = MODE_64 };

	if (row->fl_read & *undef)
		return false;
	memset(&one, 0, offsetof(struct test_case, start));
	one.row = row;
	if (!gen_draft_bytes(&d, row) || !seq_address(&d) || writes_address(&one.in))
		return false;
	if (one.in.prefixes & PFX_LOCK && chance(80))
		return false;
	if (t->len + one.in.len + 8 > sizeof t->code)
		return false;
	memcpy(t->code + t->len, one.code, one.in.len);
	t->len += one.in.len;
	t->fp |= row->cls == CLS_NATIVE;
	*undef = (*undef & ~(u64)(row->fl_write & ~row->fl_read)) | row->fl_undef;
	return true;
}

static void seq_registers(struct test_case *t)
{
	for (unsigned i = 0; i < 16; i++) {
		u64 at = DATA + 256 + below(7600);

		if (chance(6))
			at = gen_target(16);
		t->start.gpr[i] = (ADDRESS_REGS | 1u << RSP) >> i & 1
					  ? (chance(80) ? ALIGN_DOWN(at, 16) : at)
					  : gen_value();
	}
}

bool gen_sequence(struct test_case *t)
{
	static const struct op *rows[4096];
	static unsigned n_rows;
	unsigned want = 2 + below(SEQ_MAX - 1), have = 0;

	for (unsigned i = 0; !rows[0] && i < op_rows_n; i++)
		if (seq_row(&op_rows[i]))
			rows[n_rows++] = &op_rows[i];
	memset(t, 0, offsetof(struct test_case, start.fx));
	for (unsigned i = 0; have < want && i < SEQ_TRIES; i++)
		have += seq_add(t, rows[below(n_rows)], &t->undef);
	t->count = have;
	if (have < 2 || decode(&t->in, t->code, 15, MODE_64) <= 0)
		return false;
	t->row = t->in.op;
	t->how = HOW_BLOCK + chance(70);
	t->start.flags = 0x202 | (gen_random() & FL_ARITH);
	t->start.rip = CODE + 512 + below(3000);
	seq_registers(t);
	if (t->fp)
		gen_fp(t);
	return true;
}
