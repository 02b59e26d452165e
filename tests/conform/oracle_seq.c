/* oracle_seq.c - cases of several instructions in a row, for what the block cache and the
 * translator do across instructions: flags kept or dropped, registers in one place or another,
 * shared address checks.
 *
 * Eight registers hold addresses and are not written; memory operands are one of them plus a small
 * displacement, so that every instruction's operands are known beforehand. */
#include "oracle_gen.h"

enum { SEQ_MAX = 6, SEQ_TRIES = 40, ROWS_MAX = 4096 };

/* ModRM.rm 3, 5, 6, 7 without SIB: with REX.B or without.  EDI is not one in 32-bit code, nor are
 * R12 and EDI written: programs count by them. */
static const u8 rm_bases[] = { 3, 5, 6, 7 };
#define ADDRESS_REGS                                                                         \
	(1u << RBX | 1u << R11 | 1u << RBP | 1u << R13 | 1u << RSI | 1u << R14 | 1u << RDI | \
	 1u << R15)

/* Bases of FS and GS that leave an address near where it is. */
void seq_bases(struct test_case *t, enum cpu_mode mode)
{
	if (mode == MODE_64 || native_side_has_32bit())
		return;
	t->start.fs_base = (u32)(below(8) * 16 - 64);
	t->start.gs_base = below(40);
}

bool seq_is_address(enum cpu_mode mode, unsigned reg)
{
	return ADDRESS_REGS >> reg & 1 && !(mode != MODE_64 && reg == RDI);
}

void seq_point(struct test_case *t, u64 undef)
{
	if (t->points < POINTS_MAX)
		t->point[t->points++] = (struct seq_point){ (u16)t->len, (u16)undef };
}

static bool seq_row(const struct op *row, enum cpu_mode mode, bool stack)
{
	static const insn_fn self[] = { exec_XCHG, exec_XADD, exec_CMPXCHG, exec_MUL,
					exec_IMUL1, exec_MULX, exec_NOP,    exec_PUSH,
					exec_POP };
	unsigned n = stack ? ARRAY_LEN(self) : ARRAY_LEN(self) - 2;

	if (row->flags & (F_ENDS | F_REP | F_PRIV) || gen_skip_reason(row, mode))
		return false;
	if (row->cls == CLS_DRV || row->cls == CLS_NATIVE)
		return true;
	for (unsigned i = 0; i < n; i++)
		if (row->cls == CLS_SELF && row->exec.self == self[i])
			return true;
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
		    ((ADDRESS_REGS | 1u << RSP | 1u << R12) >> reg & 1))
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

	if (!d->mem) { /* an address in the instruction itself is not for us */
		for (unsigned i = 0; i < t->in.nopd; i++)
			if (t->in.opd[i].kind == OPD_MEM)
				return false;
		return true;
	}
	*modrm = (u8)((*modrm & 0x38) | 0x40 | rm_bases[below(d->mode == MODE_64 ? 4 : 3)]);
	modrm[1] = chance(70) ? disp & 0xf0 : disp;
	return decode(&t->in, t->code, 15, d->mode) > 0 && t->in.op == t->row &&
	       (t->in.seg < SEG_FS || (d->mode == MODE_32 && !native_side_has_32bit())) &&
	       t->in.asize == (d->mode == MODE_64 ? 8 : 4) &&
	       t->in.base < 16;
}

/* One more instruction behind the len bytes there are, or not. */
static bool seq_add(struct test_case *t, const struct op *row, enum cpu_mode mode, u64 *undef)
{
	static struct test_case one;
	struct draft d = { .t = &one, .mode = mode };

	if (row->fl_read & *undef)
		return false;
	memset(&one, 0, offsetof(struct test_case, code));
	one.row = row;
	if (!gen_draft_bytes(&d, row) || !seq_address(&d) || writes_address(&one.in))
		return false;
	if (one.in.prefixes & PFX_LOCK && chance(80))
		return false;
	if (t->len + one.in.len + 8 > sizeof t->code)
		return false;
	seq_point(t, *undef);
	memcpy(t->code + t->len, one.code, one.in.len);
	t->len += one.in.len;
	t->fp |= row->cls == CLS_NATIVE;
	*undef = (*undef & ~(u64)(row->fl_write & ~row->fl_read)) | row->fl_undef;
	return true;
}

bool seq_add_any(struct test_case *t, enum cpu_mode mode, bool stack, u64 *undef)
{
	static const struct op *rows[3][2][ROWS_MAX];
	static unsigned count[3][2];
	const struct op **list = rows[mode][stack];
	unsigned *n = &count[mode][stack];

	if (!*n)
		for (unsigned i = 0; i < op_rows_n; i++)
			if (seq_row(&op_rows[i], mode, stack))
				list[(*n)++] = &op_rows[i];
	return seq_add(t, list[below(*n)], mode, undef);
}

static void seq_registers(struct test_case *t, enum cpu_mode mode)
{
	for (unsigned i = 0; i < 16; i++) {
		u64 at = DATA + 256 + below(7600);

		if (chance(6))
			at = gen_target(16);
		t->start.gpr[i] = seq_is_address(mode, i) || i == RSP
					  ? (chance(80) ? ALIGN_DOWN(at, 16) : at)
					  : gen_value();
	}
	for (unsigned i = 0; mode != MODE_64 && i < 16; i++)
		t->start.gpr[i] = i < 8 ? (u32)t->start.gpr[i] : 0;
}

bool gen_sequence(struct test_case *t, enum cpu_mode mode)
{
	unsigned want = 2 + below(SEQ_MAX - 1), have = 0;

	memset(t, 0, offsetof(struct test_case, start.fx));
	gen_wide_addresses = mode == MODE_64;
	t->in.mode = (u8)mode;
	for (unsigned i = 0; have < want && i < SEQ_TRIES; i++)
		have += seq_add_any(t, mode, true, &t->undef);
	if (have < 2 || decode(&t->in, t->code, 15, mode) <= 0)
		return false;
	t->row = t->in.op;
	t->how = HOW_BLOCK + chance(70);
	t->start.flags = 0x202 | (gen_random() & FL_ARITH);
	t->start.rip = CODE + 512 + below(3000);
	seq_registers(t, mode);
	seq_bases(t, mode);
	if (t->fp)
		gen_fp(t);
	return true;
}
