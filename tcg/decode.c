/* decode.c - bytes and a CPU mode to struct insn, by the rows of ops.def.
 *
 * Owns the index over the rows, built once at the first call.  Knows no CPU state; any thread.
 * Source: SDM vol 2 "Instruction Format".  Where Intel and AMD differ Intel is followed: 66 is ignored
 * by near branches in 64-bit code, REX.R by segment register numbers. */
#include <cpuid.h>
#include <pthread.h>

#include "ops.h"

enum { INSN_MAX = 15, ROWS_MAX = 2048, SLOT_MODRM = 0x8000, SLOT_ROW = 0x7fff, SEG_NONE = 0xff };

/* What selects a row, one bit per possible value; a row accepts an instruction if it has all of the
 * instruction's bits. */
enum {
	KEY_PP = 1 << 0,    /* 4 bits: effective prefix */
	KEY_LW = 1 << 4,    /* 4 bits: L0 L1 W0 W1 */
	KEY_MEM = 1 << 8, KEY_REG = 1 << 9,
	KEY_64 = 1 << 10, KEY_NOT64 = 1 << 11,
	KEY_DIGIT = 1 << 12, /* 8 bits: ModRM.reg */
	KEY_RM = 1 << 20,    /* 8 bits: ModRM.rm */
	KEY_ALL = (1 << 28) - 1,
};

struct row_info {
	u32 accept; /* KEY_*; 0: the host lacks the feature */
	u16 next;   /* row + 1 of the next candidate for this opcode, 0: none */
	u8 size;    /* enum opd_size of in->size */
	bool vvvv;  /* an operand is in VEX.vvvv */
};

/* const after build_index */
static pthread_once_t index_once = PTHREAD_ONCE_INIT;
static struct row_info rows[ROWS_MAX];
static u16 slots[MAP_NR][256]; /* row + 1 of the first candidate, SLOT_MODRM */

static const struct op op_undefined = { .name = "(bad)", .cls = CLS_UD, .flags = F_ENDS };

/* --- the index --------------------------------------------------------------------------------- */

static bool host_has(unsigned feature)
{
	static const struct {
		u32 leaf;
		u8 subleaf, reg, bit;
	} where[FEAT_NR] = {
#define FEATURE(name, leaf, subleaf, reg, bit) [FEAT_##name] = { leaf, subleaf, reg, bit },
		CPU_FEATURES(FEATURE)
#undef FEATURE
	};
	static u32 leaf, subleaf, r[4]; /* CPUID is slow in a VM: ask once per leaf */

	if (feature == FEAT_BASE)
		return true;
	if (where[feature].leaf != leaf || where[feature].subleaf != subleaf) {
		leaf = where[feature].leaf;
		subleaf = where[feature].subleaf;
		if (!__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]))
			memset(r, 0, sizeof r);
	}
	return r[where[feature].reg] >> where[feature].bit & 1;
}

static bool form_has_modrm(u8 form)
{
	switch (form) {
	case FORM_E: case FORM_G: case FORM_R: case FORM_RX: case FORM_M: case FORM_VSIB:
	case FORM_S: case FORM_C: case FORM_D:
	case FORM_V: case FORM_W: case FORM_U: case FORM_P: case FORM_Q: case FORM_N:
		return true;
	default:
		return false;
	}
}

static bool op_has_modrm(const struct op *op)
{
	for (unsigned i = 0; i < ARRAY_LEN(op->spec); i++)
		if (form_has_modrm(opd_specs[op->spec[i]].form))
			return true;
	return op->ext != EXT___;
}

static u32 row_accept(const struct op *op)
{
	u32 key = KEY_ALL & ~(15 * (KEY_PP | KEY_LW));

	key |= op->pp * KEY_PP | op->lw * KEY_LW;
	for (unsigned i = 0; i < ARRAY_LEN(op->spec); i++) {
		u8 form = opd_specs[op->spec[i]].form;

		if (op->map >= MAP_D8 && op->map <= MAP_DF)
			break; /* the opcode says it already */
		if (form == FORM_M || form == FORM_VSIB)
			key &= ~KEY_REG;
		if (form == FORM_R || form == FORM_U || form == FORM_N)
			key &= ~KEY_MEM;
	}
	if (op->flags & F_I64)
		key &= ~KEY_64;
	if (op->flags & F_O64)
		key &= ~KEY_NOT64;
	if (op->ext != EXT___)
		key &= ~(255 * KEY_DIGIT) | KEY_DIGIT << (op->ext < 0xc0 ? op->ext & 7 : op->ext >> 3 & 7);
	if (op->ext != EXT___ && op->ext >= EXT_REG)
		key &= ~KEY_MEM;
	if (op->ext >= 0xc0)
		key &= ~(255u * KEY_RM) | (u32)KEY_RM << (op->ext & 7);
	return key;
}

/* in->size: that of the first operand that says something about it, else the operand size. */
static u8 row_size(const struct op *op)
{
	for (unsigned i = 0; i < ARRAY_LEN(op->spec); i++) {
		const struct opd_spec *s = &opd_specs[op->spec[i]];

		if (s->form >= FORM_V && s->form <= FORM_XMM0)
			return SZ_X;
	}
	for (unsigned i = 0; i < ARRAY_LEN(op->spec); i++) {
		const struct opd_spec *s = &opd_specs[op->spec[i]];

		if (s->form == FORM_I || s->form == FORM_IS || s->form == FORM_J)
			continue;
		if (s->size == SZ_B || s->size == SZ_V || s->size == SZ_Y || s->size == SZ_Z ||
		    s->size == SZ_N)
			return s->size;
	}
	return SZ_V;
}

static void index_row(unsigned n)
{
	const struct op *op = &op_rows[n];
	struct row_info *row = &rows[n];
	unsigned span = 1;

	row->accept = host_has(op->feature) ? row_accept(op) : 0;
	row->size = row_size(op);
	for (unsigned i = 0; i < ARRAY_LEN(op->spec); i++) {
		u8 form = opd_specs[op->spec[i]].form;

		if (form == FORM_B || form == FORM_H)
			row->vvvv = true;
		if (form == FORM_Z || form == FORM_STI)
			span = 8 - (op->opcode & 7);
	}
	row->next = slots[op->map][op->opcode] & SLOT_ROW;
	for (unsigned i = 0; i < span; i++) {
		u16 *slot = &slots[op->map][op->opcode + i];

		*slot = (u16)((*slot & SLOT_MODRM) | (op_has_modrm(op) ? SLOT_MODRM : 0) | (n + 1));
	}
}

static void build_index(void)
{
	ASSERT(op_rows_n < ROWS_MAX);
	for (unsigned n = op_rows_n; n-- > 0;)
		index_row(n);
}

/* --- one instruction --------------------------------------------------------------------------- */

struct cursor {
	struct insn *in;
	unsigned at;         /* bytes looked at so far */
	u8 rep;              /* effective prefix 2 (F3) or 3 (F2), or 0 */
	u8 seg;              /* override or SEG_NONE */
	u8 opcode;
	u8 map;
	u8 osize;            /* effective operand size */
	u8 imms;             /* immediates taken */
	bool vsib;
	u8 b[48];            /* the bytes, zeros after them: reads never need a check, the end does */
};

static u64 take(struct cursor *d, unsigned size)
{
	const u8 *p = d->b + d->at;

	d->at += size;
	switch (size) {
	case 1:
		return *p;
	case 2:
		return ld16(p);
	case 4:
		return ld32(p);
	default:
		return ld64(p);
	}
}

static s64 take_signed(struct cursor *d, unsigned size)
{
	unsigned shift = 64 - 8 * size;

	return (s64)(take(d, size) << shift) >> shift;
}

/* Legacy prefixes and REX; d->at is then at the opcode. */
static void take_prefixes(struct cursor *d)
{
	struct insn *in = d->in;

	for (; d->at < INSN_MAX; d->at++) {
		u8 b = d->b[d->at];

		switch (b) {
		case 0x66:
			in->prefixes |= PFX_OPSIZE;
			break;
		case 0x67:
			in->prefixes |= PFX_ADDRSIZE;
			break;
		case 0xf0:
			in->prefixes |= PFX_LOCK;
			break;
		case 0xf2:
		case 0xf3:
			in->prefixes &= ~(PFX_REP | PFX_REPNE);
			in->prefixes |= b == 0xf3 ? PFX_REP : PFX_REPNE;
			d->rep = b == 0xf3 ? 2 : 3;
			break;
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
			if (in->mode != MODE_64)
				d->seg = b >> 3 & 3;
			break;
		case 0x64:
		case 0x65:
			d->seg = b & 7;
			break;
		default:
			if (in->mode != MODE_64 || (b & 0xf0) != 0x40)
				return;
			in->rex = b; /* counts only if the opcode follows */
			continue;
		}
		in->rex = 0;
	}
}

static int take_vex(struct cursor *d)
{
	struct insn *in = d->in;
	u8 b = (u8)take(d, 1), last = b;

	d->map = MAP_V0F;
	if (in->rex || d->rep || in->prefixes & (PFX_OPSIZE | PFX_LOCK))
		return DECODE_UD;
	in->rex = (u8)(~b >> 5 & 4); /* R */
	if (d->opcode == 0xc4) {
		unsigned m = b & 31;

		if (m < 1 || m > 3)
			return DECODE_UD;
		d->map = (u8)(MAP_V0F + m - 1);
		last = (u8)take(d, 1);
		in->rex = (u8)((~b >> 5 & 7) | (last >> 4 & 8));
	}
	in->vvvv = ~last >> 3 & 15;
	in->vexl = last >> 2 & 1;
	in->pp = last & 3;
	if (in->mode != MODE_64) {
		in->vvvv &= 7;
		in->rex &= 8;
	}
	in->prefixes |= PFX_VEX;
	d->opcode = (u8)take(d, 1);
	return 1;
}

/* Opcode bytes: sets map, opcode, in->pp.  1 or DECODE_UD. */
static int take_opcode(struct cursor *d)
{
	struct insn *in = d->in;
	u8 op = d->opcode = (u8)take(d, 1);

	/* Outside 64-bit code a VEX prefix is an LES or LDS with register operands. */
	if ((op & 0xfe) == 0xc4 && (in->mode == MODE_64 || d->b[d->at] >= 0xc0))
		return take_vex(d);
	if (in->rex)
		in->prefixes |= PFX_REX;
	in->rex &= 15;
	in->pp = d->rep ? d->rep : in->prefixes & PFX_OPSIZE ? 1 : 0;
	if (op == 0x0f) {
		op = d->opcode = (u8)take(d, 1);
		d->map = MAP_0F;
		if (op == 0x38 || op == 0x3a) {
			d->map = op == 0x38 ? MAP_0F38 : MAP_0F3A;
			d->opcode = (u8)take(d, 1);
		}
	} else if ((op & 0xf8) == 0xd8) {
		u8 modrm = d->b[d->at];

		d->map = (u8)(MAP_D8 + (op & 7));
		d->opcode = modrm >= 0xc0 ? modrm : modrm >> 3 & 7;
	}
	return 1;
}

static u32 key_of(const struct cursor *d)
{
	const struct insn *in = d->in;

	return (u32)KEY_PP << in->pp | (u32)KEY_LW << in->vexl | (u32)KEY_LW << (2 + (in->rex >> 3)) |
	       (in->modrm >= 0xc0 ? KEY_REG : KEY_MEM) |
	       (in->mode == MODE_64 ? KEY_64 : KEY_NOT64) |
	       (u32)KEY_DIGIT << (in->modrm >> 3 & 7) | (u32)KEY_RM << (in->modrm & 7);
}

/* The row, or NULL; takes the ModRM byte. */
static const struct op *find_row(struct cursor *d)
{
	unsigned opcode = d->opcode;

	if (d->map == MAP_ONE && opcode == 0x90 && d->in->rex & 1)
		opcode = 0x91; /* XCHG R8, rAX, not NOP */

	u16 slot = slots[d->map][opcode];

	if (slot & SLOT_MODRM || (d->map >= MAP_D8 && d->map <= MAP_DF))
		d->in->modrm = (u8)take(d, 1);

	u32 key = key_of(d);

	for (unsigned n = slot & SLOT_ROW; n; n = rows[n - 1].next)
		if ((rows[n - 1].accept & key) == key)
			return &op_rows[n - 1];
	return NULL;
}

static u8 operand_size(const struct insn *in, const struct op *op)
{
	bool o16 = in->prefixes & PFX_OPSIZE;

	if (in->mode != MODE_64)
		return o16 == (in->mode == MODE_16) ? 4 : 2;
	if (op->flags & F_F64 || in->rex & 8)
		return 8;
	return o16 ? 2 : op->flags & F_D64 ? 8 : 4;
}

static u8 address_size(const struct insn *in)
{
	bool a16 = in->prefixes & PFX_ADDRSIZE;

	if (in->mode == MODE_64)
		return a16 ? 4 : 8;
	return a16 == (in->mode == MODE_16) ? 4 : 2;
}

static void take_mem16(struct cursor *d)
{
	static const u8 bases[8] = { RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX };
	static const u8 indexes[8] = { RSI, RDI, RSI, RDI, REG_NONE, REG_NONE, REG_NONE, REG_NONE };
	struct insn *in = d->in;
	unsigned mod = in->modrm >> 6, rm = in->modrm & 7;

	if (mod == 0 && rm == 6) {
		in->disp = take_signed(d, 2);
		return;
	}
	in->base = bases[rm];
	in->index = indexes[rm];
	if (mod)
		in->disp = take_signed(d, mod);
}

static void take_mem(struct cursor *d)
{
	struct insn *in = d->in;
	unsigned mod = in->modrm >> 6, base = in->modrm & 7;
	bool sib = base == 4;

	if (sib) {
		u8 b = (u8)take(d, 1);
		u8 index = (b >> 3 & 7) | (in->rex << 2 & 8);

		base = b & 7;
		if (index != RSP || d->vsib) {
			in->index = index;
			in->scale = b >> 6;
		}
	}
	if (mod == 0 && base == 5) {
		in->base = !sib && in->mode == MODE_64 ? REG_RIP : REG_NONE;
		in->disp = take_signed(d, 4);
		return;
	}
	in->base = (u8)(base | (in->rex << 3 & 8));
	if (mod)
		in->disp = take_signed(d, mod == 1 ? 1 : 4);
}

/* SIB, displacement and segment of the memory operand. */
static void take_address(struct cursor *d)
{
	struct insn *in = d->in;

	if (in->asize == 2)
		take_mem16(d);
	else
		take_mem(d);
	in->seg = in->base == RSP || in->base == RBP ? SEG_SS : SEG_DS;
}

static u8 resolve_size(const struct cursor *d, u8 size, bool is_reg)
{
	const struct insn *in = d->in;
	u8 v = d->osize, x = in->vexl ? 32 : 16;

	if (size <= SZ_LITERAL)
		return size;
	switch ((enum opd_size)size) {
	case SZ_V:
		return v;
	case SZ_Y:
		return in->mode == MODE_64 && in->rex & 8 ? 8 : 4;
	case SZ_Z:
		return v == 2 ? 2 : 4;
	case SZ_N:
		return in->mode == MODE_64 ? 8 : 4;
	case SZ_HV:
		return v / 2;
	case SZ_2V:
		return v * 2;
	case SZ_P:
		return v + 2;
	case SZ_S:
		return in->mode == MODE_64 ? 10 : 6;
	case SZ_X:
		return x;
	case SZ_HX:
		return x / 2;
	case SZ_FX:
		return x / 4;
	case SZ_EX:
		return x / 8;
	case SZ_DB:
		return is_reg ? 4 : 1;
	case SZ_DW:
		return is_reg ? 4 : 2;
	case SZ_ENV:
		return v == 2 ? 14 : 28;
	default:
		return v == 2 ? 94 : 108; /* SZ_SAVE */
	}
}

/* A byte register is AH-BH if numbered 4-7 without any REX. */
static void set_reg(struct cursor *d, struct opd *o, unsigned reg)
{
	bool high = o->size == 1 && reg >= 4 && !(d->in->prefixes & (PFX_REX | PFX_VEX));

	o->kind = high ? OPD_REGH : OPD_REG;
	o->reg = (u8)(high ? reg - 4 : reg);
}

static void set_imm(struct cursor *d, struct opd *o, u64 value)
{
	o->kind = OPD_IMM;
	if (d->imms++)
		d->in->imm2 = (u16)value;
	else
		d->in->imm = value;
}

static void set_opd(struct opd *o, enum opd_kind kind, unsigned reg)
{
	o->kind = (u8)kind;
	o->reg = (u8)reg;
}

/* Immediates, branch targets, far pointers, memory offsets, string operands. */
static void take_other_operand(struct cursor *d, struct opd *o, const struct opd_spec *s)
{
	struct insn *in = d->in;

	switch ((enum opd_form)s->form) {
	case FORM_I:
		set_imm(d, o, take(d, o->size));
		break;
	case FORM_IS:
		set_imm(d, o, (u64)take_signed(d, o->size) & (~0ull >> (64 - 8 * d->osize)));
		o->size = d->osize;
		break;
	case FORM_ONE:
		set_imm(d, o, 1);
		break;
	case FORM_J:
		in->imm = (u64)take_signed(d, o->size);
		o->kind = OPD_REL;
		break;
	case FORM_A:
		in->imm = take(d, d->osize);
		in->imm2 = (u16)take(d, 2);
		o->kind = OPD_FAR;
		break;
	case FORM_O:
		in->disp = (s64)take(d, in->asize);
		o->kind = OPD_MEM;
		break;
	case FORM_X:
		o->kind = OPD_STR_SRC;
		break;
	case FORM_Y:
		o->kind = OPD_STR_DST;
		break;
	case FORM_L: /* bit 7 is ignored outside 64-bit code */
		set_opd(o, OPD_VEC, take(d, 1) >> 4 & (in->mode == MODE_64 ? 15 : 7));
		break;
	default:
		o->kind = OPD_NONE;
	}
}

/* Fill in->opd[i].  False: #UD. */
static bool take_operand(struct cursor *d, unsigned i, const struct opd_spec *s)
{
	struct insn *in = d->in;
	struct opd *o = &in->opd[i];
	unsigned reg = (in->modrm >> 3 & 7) | (in->rex << 1 & 8);
	unsigned rm = (in->modrm & 7) | (in->rex << 3 & 8);
	bool mem = in->modrm < 0xc0;

	o->size = resolve_size(d, s->size, !mem);
	switch ((enum opd_form)s->form) {
	case FORM_E:
	case FORM_W:
	case FORM_Q:
		if (mem)
			o->kind = OPD_MEM;
		else if (s->form == FORM_E)
			set_reg(d, o, rm);
		else
			set_opd(o, s->form == FORM_W ? OPD_VEC : OPD_MMX, s->form == FORM_W ? rm : rm & 7);
		return true;
	case FORM_M:
	case FORM_VSIB:
		o->kind = OPD_MEM;
		return true;
	case FORM_G:
		set_reg(d, o, reg);
		return true;
	case FORM_R:
	case FORM_RX:
		set_reg(d, o, rm);
		return true;
	case FORM_Z:
		set_reg(d, o, (d->opcode & 7u) | (in->rex << 3 & 8));
		return true;
	case FORM_B:
		set_opd(o, OPD_REG, in->vvvv);
		return true;
	case FORM_FIX:
	case FORM_IMP:
		set_opd(o, OPD_REG, s->sub);
		return true;
	case FORM_IMPH:
		set_opd(o, OPD_REGH, s->sub);
		return true;
	case FORM_S: /* there are six; CS is not to be loaded */
		set_opd(o, OPD_SREG, reg & 7);
		return o->reg < SEG_NR && (i != 0 || o->reg != SEG_CS);
	case FORM_SFIX:
		set_opd(o, OPD_SREG, s->sub);
		return true;
	case FORM_C:
		set_opd(o, OPD_CR, reg);
		return reg == 0 || (reg >= 2 && reg <= 4) || reg == 8;
	case FORM_D:
		set_opd(o, OPD_DR, reg);
		return reg < 8;
	case FORM_V:
		set_opd(o, OPD_VEC, reg);
		return true;
	case FORM_H:
		set_opd(o, OPD_VEC, in->vvvv);
		return true;
	case FORM_U:
		set_opd(o, OPD_VEC, rm);
		return true;
	case FORM_XMM0:
		set_opd(o, OPD_VEC, 0);
		return true;
	case FORM_P:
		set_opd(o, OPD_MMX, reg & 7);
		return true;
	case FORM_N:
		set_opd(o, OPD_MMX, rm & 7);
		return true;
	case FORM_ST0:
		set_opd(o, OPD_ST, 0);
		return true;
	case FORM_STI:
		set_opd(o, OPD_ST, in->modrm & 7);
		return true;
	default:
		take_other_operand(d, o, s);
		return true;
	}
}

/* A gather needs a SIB byte and three different registers, SDM vol 2 "VGATHERDPS". */
static bool gather_ok(const struct insn *in)
{
	return (in->modrm & 7) == 4 && in->opd[0].reg != in->index && in->opd[0].reg != in->vvvv &&
	       in->index != in->vvvv;
}

static bool take_operands(struct cursor *d)
{
	struct insn *in = d->in;
	const struct op *op = in->op;
	const struct opd_spec *first = &opd_specs[op->spec[0]];
	bool has_mem = in->modrm < 0xc0 && slots[d->map][d->opcode] & SLOT_MODRM;

	d->vsib = opd_specs[op->spec[1]].form == FORM_VSIB;
	if (has_mem && first->form != FORM_RX && opd_specs[op->spec[1]].form != FORM_RX)
		take_address(d);
	if (d->seg != SEG_NONE) {
		in->seg = d->seg;
		in->prefixes |= PFX_SEG;
	}
	for (unsigned i = 0; i < ARRAY_LEN(op->spec) && op->spec[i] != OT___; i++) {
		if (!take_operand(d, i, &opd_specs[op->spec[i]]))
			return false;
		in->nopd++;
	}
	return !d->vsib || gather_ok(in);
}

/* 1, DECODE_UD or DECODE_GP.  d->at is the length either way. */
static int decode_at(struct cursor *d)
{
	struct insn *in = d->in;

	take_prefixes(d);
	if (d->at == INSN_MAX)
		return DECODE_GP;
	if (take_opcode(d) < 0)
		return DECODE_UD;

	const struct op *op = find_row(d);

	if (!op)
		return DECODE_UD;

	const struct row_info *row = &rows[op - op_rows];

	if (in->prefixes & PFX_VEX && !row->vvvv && in->vvvv)
		return DECODE_UD;
	if ((op->pp & (op->pp - 1)) != 0) /* several prefixes will do: they do not select */
		in->pp = 0;
	in->op = op;
	d->osize = operand_size(in, op);
	in->asize = address_size(in);
	in->size = resolve_size(d, row->size, true);
	if (!take_operands(d))
		return DECODE_UD;
	if (in->prefixes & PFX_LOCK && (!(op->flags & F_LOCKOK) || in->opd[0].kind != OPD_MEM))
		return DECODE_UD;
	return 1;
}

int decode(struct insn *in, const u8 *bytes, unsigned avail, enum cpu_mode mode)
{
	struct cursor d = { .in = in, .seg = SEG_NONE };
	int rc;

	pthread_once(&index_once, build_index);
	*in = (struct insn){ .mode = (u8)mode, .seg = SEG_DS, .base = REG_NONE, .index = REG_NONE };
	if (avail >= INSN_MAX)
		memcpy(d.b, bytes, avail = INSN_MAX);
	else
		memcpy(d.b, bytes, avail);
	rc = decode_at(&d);
	if (d.at > avail) {
		rc = avail == INSN_MAX ? DECODE_GP : DECODE_MORE;
		d.at = avail;
	}
	in->len = (u8)d.at;
	if (rc == 1)
		return in->len;
	in->op = &op_undefined;
	return rc;
}
