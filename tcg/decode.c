/* decode.c - bytes and a CPU mode to struct insn, by the rows of ops.def.
 *
 * Owns the index over the rows, built once at the first call.  Knows no CPU state; any thread.
 * Source: SDM vol 2 "Instruction Format".  Where Intel and AMD differ, Intel is followed: 66 is
 * ignored by near branches in 64-bit code, REX.R by segment register numbers. */
#include <cpuid.h>
#include <pthread.h>
#include <stdatomic.h>

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
	u32 accept;   /* KEY_*; 0: the host lacks the feature */
	u16 next;     /* row + 1 of the next candidate for this opcode, 0: none */
	u8 size;      /* enum opd_size of in->size */
	u8 nopd;
	bool vvvv;    /* an operand is in VEX.vvvv */
	bool vsib;
	bool address; /* a ModRM byte with mod < 3 means memory */
};

/* Where a register number comes from. */
enum source { SRC_NONE, SRC_RM, SRC_REG, SRC_OPCODE, SRC_VVVV, SRC_SUB, SRC_NR };

/* const after build_index */
static pthread_once_t index_once = PTHREAD_ONCE_INIT;
static _Atomic bool index_ready;
static struct row_info rows[ROWS_MAX];
static u16 slots[MAP_NR][256]; /* row + 1 of the first candidate, SLOT_MODRM */
static u8 sizes[24][SZ_NR];    /* operand sizes in bytes, by size_context() */

static const struct op op_undefined = { .name = "(bad)", .cls = CLS_UD, .flags = F_ENDS };

/* --- the index -------------------------------------------------------------------------------- */

/* A leaf of the host's CPUID, asked once: each costs tens of microseconds in a virtual machine. */
static const u32 *host_leaf(u32 leaf, u32 subleaf)
{
	enum { LEAVES = 8 };
	static struct {
		u32 leaf, subleaf, r[4];
	} asked[LEAVES];
	static unsigned n;

	for (unsigned i = 0; i < n; i++)
		if (asked[i].leaf == leaf && asked[i].subleaf == subleaf)
			return asked[i].r;
	ASSERT(n < LEAVES);
	asked[n].leaf = leaf;
	asked[n].subleaf = subleaf;
	__get_cpuid_count(leaf, subleaf, &asked[n].r[0], &asked[n].r[1], &asked[n].r[2],
			  &asked[n].r[3]); /* leaves zeros if there is no such leaf */
	return asked[n++].r;
}

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
	const u32 *r;

	if (feature == FEAT_BASE)
		return true;
	r = host_leaf(where[feature].leaf, where[feature].subleaf);
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
		key &= ~(255 * KEY_DIGIT) |
		       KEY_DIGIT << (op->ext < 0xc0 ? op->ext & 7 : op->ext >> 3 & 7);
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
	row->address = op_has_modrm(op);
	for (unsigned i = 0; i < ARRAY_LEN(op->spec); i++) {
		u8 form = opd_specs[op->spec[i]].form;

		row->nopd += form != FORM_NONE;
		row->vvvv |= form == FORM_B || form == FORM_H;
		row->vsib |= form == FORM_VSIB;
		row->address &= form != FORM_RX;
		if (form == FORM_Z || form == FORM_STI)
			span = 8 - (op->opcode & 7);
	}
	row->next = slots[op->map][op->opcode] & SLOT_ROW;
	for (unsigned i = 0; i < span; i++) {
		u16 *slot = &slots[op->map][op->opcode + i];

		*slot = (u16)((*slot & SLOT_MODRM) | (op_has_modrm(op) ? SLOT_MODRM : 0) | (n + 1));
	}
}

/* Everything that operand sizes depend on, as a number below 24. */
static unsigned size_context(unsigned osize, bool mode64, bool w, bool l)
{
	return (osize >> 2) * 8 + mode64 * 4 + w * 2 + l; /* osize 2, 4, 8: 0, 1, 2 */
}

/* SZ_DB and SZ_DW: the size in memory. */
static u8 size_bytes(u8 size, u8 v, bool mode64, bool w, bool l)
{
	u8 x = l ? 32 : 16;

	if (size <= SZ_LITERAL)
		return size;
	switch ((enum opd_size)size) {
	case SZ_V:
		return v;
	case SZ_Y:
		return mode64 && w ? 8 : 4;
	case SZ_Z:
		return v == 2 ? 2 : 4;
	case SZ_N:
		return mode64 ? 8 : 4;
	case SZ_HV:
		return v / 2;
	case SZ_2V:
		return v * 2;
	case SZ_P:
		return v + 2;
	case SZ_S:
		return mode64 ? 10 : 6;
	case SZ_X:
		return x;
	case SZ_HX:
		return x / 2;
	case SZ_FX:
		return x / 4;
	case SZ_EX:
		return x / 8;
	case SZ_DB:
		return 1;
	case SZ_DW:
		return 2;
	case SZ_ENV:
		return v == 2 ? 14 : 28;
	default:
		return v == 2 ? 94 : 108; /* SZ_SAVE */
	}
}

static void index_sizes(void)
{
	for (unsigned v = 2; v <= 8; v *= 2)
		for (unsigned n = 0; n < 8; n++)
			for (unsigned size = 0; size < SZ_NR; size++)
				sizes[size_context(v, n & 4, n & 2, n & 1)][size] =
					size_bytes((u8)size, (u8)v, n & 4, n & 2, n & 1);
}

static void build_index(void)
{
	ASSERT(op_rows_n < ROWS_MAX);
	for (unsigned n = op_rows_n; n-- > 0;)
		index_row(n);
	index_sizes();
	atomic_store_explicit(&index_ready, true, memory_order_release);
}

static void need_index(void)
{
	if (unlikely(!atomic_load_explicit(&index_ready, memory_order_acquire)))
		pthread_once(&index_once, build_index);
}

bool op_available(const struct op *op)
{
	need_index();
	return rows[op - op_rows].accept != 0;
}

/* --- one instruction -------------------------------------------------------------------------- */

struct cursor {
	struct insn *in;
	unsigned at;         /* bytes looked at so far */
	u8 rep;              /* effective prefix 2 (F3) or 3 (F2), or 0 */
	u8 rex;              /* the byte, or 0 */
	u8 seg;              /* override or SEG_NONE */
	u8 opcode;
	u8 map;
	u8 osize;            /* effective operand size */
	u8 imms;             /* immediates taken */
	u8 b[48];            /* the bytes, then zeros: reads need no check, the end does */
};

static u64 take(struct cursor *d, unsigned size)
{
	unsigned shift = 64 - 8 * size;
	u64 v = ld64(d->b + d->at) << shift >> shift;

	d->at += size;
	return v;
}

static s64 take_signed(struct cursor *d, unsigned size)
{
	unsigned shift = 64 - 8 * size;
	s64 v = (s64)(ld64(d->b + d->at) << shift) >> shift;

	d->at += size;
	return v;
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
			d->rex = b; /* counts only if the opcode follows */
			continue;
		}
		d->rex = 0;
	}
}

static int take_vex(struct cursor *d)
{
	struct insn *in = d->in;
	u8 b = (u8)take(d, 1), last = b;

	d->map = MAP_V0F;
	if (d->rex || d->rep || in->prefixes & (PFX_OPSIZE | PFX_LOCK))
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
	if (d->rex)
		in->prefixes |= PFX_REX;
	in->rex = d->rex & 15;
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

	return (u32)KEY_PP << in->pp | (u32)KEY_LW << in->vexl |
	       (u32)KEY_LW << (2 + (in->rex >> 3)) |
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
		in->disp = (s32)take_signed(d, 2);
		return;
	}
	in->base = bases[rm];
	in->index = indexes[rm];
	if (mod)
		in->disp = (s32)take_signed(d, mod);
}

static void take_mem(struct cursor *d, bool vsib)
{
	struct insn *in = d->in;
	unsigned mod = in->modrm >> 6, base = in->modrm & 7;
	bool sib = base == 4;

	if (sib) {
		u8 b = (u8)take(d, 1);
		u8 index = (b >> 3 & 7) | (in->rex << 2 & 8);

		base = b & 7;
		if (index != RSP || vsib) {
			in->index = index;
			in->scale = b >> 6;
		}
	}
	if (mod == 0 && base == 5) {
		in->base = !sib && in->mode == MODE_64 ? REG_RIP : REG_NONE;
		in->disp = (s32)take_signed(d, 4);
		return;
	}
	in->base = (u8)(base | (in->rex << 3 & 8));
	if (mod)
		in->disp = (s32)take_signed(d, mod == 1 ? 1 : 4);
}

/* SIB, displacement and segment of the memory operand. */
static void take_address(struct cursor *d, bool vsib)
{
	struct insn *in = d->in;

	if (in->asize == 2)
		take_mem16(d);
	else
		take_mem(d, vsib);
	in->seg = in->base == RSP || in->base == RBP ? SEG_SS : SEG_DS;
}

static void set_imm(struct cursor *d, struct opd *o, u64 value)
{
	o->kind = OPD_IMM;
	if (d->imms++)
		d->in->imm2 = (u16)value;
	else if (o->size == 8 && value != (u64)(s32)value)
		d->in->far = value, d->in->is_far = true;
	else
		d->in->imm = (s32)value;
}

/* Operands that are bytes of the instruction. */
static void take_immediate(struct cursor *d, struct opd *o, u8 form)
{
	struct insn *in = d->in;

	switch ((enum opd_form)form) {
	case FORM_I:
		set_imm(d, o, take(d, o->size));
		break;
	case FORM_IS:
		set_imm(d, o, (u64)take_signed(d, o->size));
		o->size = d->osize;
		break;
	case FORM_ONE:
		set_imm(d, o, 1);
		break;
	case FORM_J:
		in->imm = (s32)take_signed(d, o->size);
		break;
	case FORM_A:
		in->imm = (s32)take(d, d->osize);
		in->imm2 = (u16)take(d, 2);
		break;
	case FORM_O:
		in->far = take(d, in->asize);
		in->is_far = true;
		break;
	default: /* FORM_L; bit 7 is ignored outside 64-bit code */
		o->reg = take(d, 1) >> 4 & (in->mode == MODE_64 ? 15 : 7);
	}
}

/* What a form becomes: kind with mod = 3 and else, where its number is, how much of it counts. */
static const struct form_info {
	u8 reg_kind, mem_kind, source, mask;
	bool immediate;
} forms[] = {
	[FORM_E] = { OPD_REG, OPD_MEM, SRC_RM, 15 },
	[FORM_G] = { OPD_REG, OPD_REG, SRC_REG, 15 },
	[FORM_R] = { OPD_REG, OPD_REG, SRC_RM, 15 },
	[FORM_RX] = { OPD_REG, OPD_REG, SRC_RM, 15 },
	[FORM_M] = { OPD_MEM, OPD_MEM },
	[FORM_VSIB] = { OPD_MEM, OPD_MEM },
	[FORM_Z] = { OPD_REG, OPD_REG, SRC_OPCODE, 15 },
	[FORM_B] = { OPD_REG, OPD_REG, SRC_VVVV, 15 },
	[FORM_FIX] = { OPD_REG, OPD_REG, SRC_SUB, 15 },
	[FORM_FIXH] = { OPD_REGH, OPD_REGH, SRC_SUB, 15 },
	[FORM_IMP] = { OPD_REG, OPD_REG, SRC_SUB, 15 },
	[FORM_IMPH] = { OPD_REGH, OPD_REGH, SRC_SUB, 15 },
	[FORM_I] = { OPD_IMM, OPD_IMM, .immediate = true },
	[FORM_IS] = { OPD_IMM, OPD_IMM, .immediate = true },
	[FORM_ONE] = { OPD_IMM, OPD_IMM, .immediate = true },
	[FORM_J] = { OPD_REL, OPD_REL, .immediate = true },
	[FORM_A] = { OPD_FAR, OPD_FAR, .immediate = true },
	[FORM_O] = { OPD_MEM, OPD_MEM, .immediate = true },
	[FORM_X] = { OPD_STR_SRC, OPD_STR_SRC },
	[FORM_Y] = { OPD_STR_DST, OPD_STR_DST },
	[FORM_S] = { OPD_SREG, OPD_SREG, SRC_REG, 7 },
	[FORM_SFIX] = { OPD_SREG, OPD_SREG, SRC_SUB, 15 },
	[FORM_C] = { OPD_CR, OPD_CR, SRC_REG, 15 },
	[FORM_D] = { OPD_DR, OPD_DR, SRC_REG, 15 },
	[FORM_V] = { OPD_VEC, OPD_VEC, SRC_REG, 15 },
	[FORM_H] = { OPD_VEC, OPD_VEC, SRC_VVVV, 15 },
	[FORM_W] = { OPD_VEC, OPD_MEM, SRC_RM, 15 },
	[FORM_U] = { OPD_VEC, OPD_VEC, SRC_RM, 15 },
	[FORM_L] = { OPD_VEC, OPD_VEC, .immediate = true },
	[FORM_XMM0] = { OPD_VEC, OPD_VEC },
	[FORM_P] = { OPD_MMX, OPD_MMX, SRC_REG, 7 },
	[FORM_Q] = { OPD_MMX, OPD_MEM, SRC_RM, 7 },
	[FORM_N] = { OPD_MMX, OPD_MMX, SRC_RM, 7 },
	[FORM_ST0] = { OPD_ST, OPD_ST },
	[FORM_STI] = { OPD_ST, OPD_ST, SRC_RM, 7 },
};

/* Fill in->opd[i]; regs: the register numbers by enum source. */
static void take_operand(struct cursor *d, unsigned i, u8 *regs, const u8 *size)
{
	struct insn *in = d->in;
	struct opd *o = &in->opd[i];
	const struct opd_spec *s = &opd_specs[in->op->spec[i]];
	const struct form_info *f = &forms[s->form];
	bool mem = in->modrm < 0xc0;

	regs[SRC_SUB] = s->sub;
	o->kind = mem ? f->mem_kind : f->reg_kind;
	o->reg = regs[f->source] & f->mask;
	o->size = size[s->size];
	if (f->immediate)
		take_immediate(d, o, s->form);
	else if (o->kind == OPD_MEM)
		o->reg = 0;
	else if (o->kind == OPD_REG && o->size <= 2 && (s->size == SZ_DB || s->size == SZ_DW))
		o->size = 4;
	else if (o->kind == OPD_REG && o->size == 1 && o->reg >= 4 && !(in->prefixes & PFX_REX)) {
		o->kind = OPD_REGH; /* 4-7 without REX: AH-BH */
		o->reg -= 4;
	}
}

/* Registers that do not exist, and CS as a destination. */
static bool opd_exists(const struct insn *in, unsigned i)
{
	u8 reg = in->opd[i].reg;

	switch (in->opd[i].kind) {
	case OPD_SREG:
		return reg < SEG_NR && !(i == 0 && reg == SEG_CS && in->op->flags & F_W0);
	case OPD_CR:
		return reg == 0 || (reg >= 2 && reg <= 4) || reg == 8;
	case OPD_DR:
		return reg < 8;
	default:
		return true;
	}
}

/* A gather needs a SIB byte, which 16-bit addresses have not, and three different registers, SDM
 * vol 2 "VGATHERDPS". */
static bool gather_ok(const struct insn *in)
{
	return in->asize != 2 && (in->modrm & 7) == 4 && in->opd[0].reg != in->index &&
	       in->opd[0].reg != in->vvvv &&
	       in->index != in->vvvv;
}

/* False: #UD. */
static bool take_operands(struct cursor *d, const struct row_info *row)
{
	struct insn *in = d->in;
	unsigned rex = in->rex;
	u8 regs[SRC_NR] = {
		[SRC_RM] = (in->modrm & 7) | (rex << 3 & 8),
		[SRC_REG] = (in->modrm >> 3 & 7) | (rex << 1 & 8),
		[SRC_OPCODE] = (d->opcode & 7) | (rex << 3 & 8),
		[SRC_VVVV] = in->vvvv,
	};
	const u8 *size = sizes[size_context(d->osize, in->mode == MODE_64, rex & 8, in->vexl)];
	bool exist = true;

	in->size = size[row->size];
	if (row->address && in->modrm < 0xc0)
		take_address(d, row->vsib);
	if (d->seg != SEG_NONE) {
		in->seg = d->seg;
		in->prefixes |= PFX_SEG;
	}
	in->nopd = row->nopd;
	for (unsigned i = 0; i < row->nopd; i++) {
		take_operand(d, i, regs, size);
		exist &= opd_exists(in, i);
	}
	return exist && (!row->vsib || gather_ok(in));
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
	if (!take_operands(d, row))
		return DECODE_UD;
	if (in->prefixes & PFX_LOCK && (!(op->flags & F_LOCKOK) || in->opd[0].kind != OPD_MEM))
		return DECODE_UD;
	return 1;
}

int decode(struct insn *in, const u8 *bytes, unsigned avail, enum cpu_mode mode)
{
	struct cursor d = { .in = in, .seg = SEG_NONE };
	int rc;

	need_index();
	*in = (struct insn){ .mode = (u8)mode, .seg = SEG_DS, .base = REG_NONE, .index = REG_NONE };
	if (likely(avail >= INSN_MAX)) /* a copy of known size is a few moves */
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
	in->nopd = 0;
	return rc;
}
