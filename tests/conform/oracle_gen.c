/* oracle_gen.c - random cases: an encoding of the wanted row, registers, memory.
 *
 * Bytes are drawn from the row's description and decoded; if that does not give the row back, the draw is
 * lost.  Then the registers of the address are solved for a chosen target, and implicit operands (stack,
 * strings, jump targets, selectors) get values that mean something: wholly random ones would only fault. */
#include "oracle.h"

#include <stdlib.h>

static u64 rng = 88172645463325252ull;

void gen_seed(u64 seed)
{
	rng = seed * 0x9e3779b97f4a7c15ull | 1;
}

u64 gen_random(void)
{
	rng ^= rng >> 12;
	rng ^= rng << 25;
	rng ^= rng >> 27;
	return rng * 0x2545f4914f6cdd1dull;
}

static unsigned below(unsigned n)
{
	return (unsigned)((gen_random() >> 32) * n >> 32);
}

static bool chance(unsigned percent)
{
	return below(100) < percent;
}

/* --- values --------------------------------------------------------------------------------------- */
static u64 value(void)
{
	u64 r = gen_random(), edge;

	switch (below(8)) {
	case 0: case 1: return r;
	case 2: return r & 0xff;
	case 3: return (u64)(s64)(s8)r;
	case 4: return (u32)r;
	case 5:
		edge = 1ull << (r >> 32 & 63);
		return edge - (r & 3) + 1;
	case 6: return DATA + (r & 0x1fff);
	default: return r & 1 ? ~0ull : 0;
	}
}

static u32 value_f32(void)
{
	static const u32 odd[] = { 0, 0x80000000, 1, 0x7fffff, 0x800000, 0x7f7fffff, 0x7f800000, 0xff800000,
				   0x7fc00000, 0x7fa00001, 0x3f800000, 0x4f000000, 0xcf000000, 0x5f000000 };
	u32 r = (u32)gen_random();

	if (chance(30))
		return odd[below(ARRAY_LEN(odd))];
	return chance(70) ? (r & 0x807fffff) | (u32)(120 + below(16)) << 23 : r;
}

static u64 value_f64(void)
{
	static const u64 odd[] = { 0, BIT(63), 1, BIT(52) - 1, BIT(52), 0x7fefffffffffffff, 0x7ff0000000000000,
				   0xfff0000000000000, 0x7ff8000000000000, 0x7ff4000000000001,
				   0x3ff0000000000000, 0x41e0000000000000, 0xc3e0000000000000 };
	u64 r = gen_random();

	if (chance(30))
		return odd[below(ARRAY_LEN(odd))];
	return chance(70) ? (r & 0x800fffffffffffff) | (u64)(1016 + below(16)) << 52 : r;
}

static void value_f80(u8 *p)
{
	static const u16 exps[] = { 0, 1, 0x3fff, 0x4000, 0x403e, 0x403f, 0x7ffe, 0x7fff };
	u64 r = gen_random();
	u16 exp = chance(60) ? (u16)(0x3ff0 + below(40)) : exps[below(ARRAY_LEN(exps))];
	u64 man = chance(20) ? (r & 1 ? BIT(63) : chance(50) ? 0 : 0xc000000000000000) : r;

	if (exp && chance(97))
		man |= BIT(63); /* else: pseudo-denormals, unnormals and the like */
	st64(p, man);
	st16(p + 8, exp | (u16)(r & 0x8000));
}

static u64 value_vec(void)
{
	switch (below(4)) {
	case 0: return value_f64();
	case 1: return value_f32() | (u64)value_f32() << 32;
	case 2: return gen_random();
	default: return value();
	}
}

/* --- where memory operands go ----------------------------------------------------------------------- */
static u64 aligned(u64 at, unsigned size, unsigned percent)
{
	unsigned pow2 = 1;

	while (pow2 * 2 <= size && pow2 < 64)
		pow2 *= 2;
	return chance(percent) ? ALIGN_DOWN(at, pow2) : at;
}

static bool wide_addresses; /* the case being made is 64-bit code */

/* A linear address for size bytes: mostly plain, often at an edge, sometimes wrong. */
static u64 target(unsigned size)
{
	unsigned r = below(1000), rw = DATA_RW_PAGES * 4096;

	if (r < 700)
		return aligned(DATA + below(rw - MIN(size, rw - 64)), size, 80);
	if (r < 800)
		return DATA + 4096 - below(size + 1);
	if (r < 840)
		return DATA_RO - below(size + 1);
	if (r < 870)
		return aligned(DATA_RO + below(2048), size, 50);
	if (r < 910)
		return DATA_END - below(size + 1);
	if (r < 940)
		return DATA - below(size + 1);
	if (r < 970)
		return DATA_END + below(1 << 26);
	if (!wide_addresses)
		return r < 985 ? 0x40000000 + (gen_random() >> 34) : 0xffffffff - below(size + 1);
	if (r < 995)
		return 0x800000000000ull + (gen_random() >> 18);
	return 0x7fffffffffffull - below(size + 1);
}

/* The same, where a fault would only hide what is to be tested. */
static u64 target_mostly_plain(unsigned size)
{
	return chance(80) ? aligned(DATA + 64 + below(8000 - MIN(size, 7000)), size, 90) : target(size);
}

static bool in_data(u64 lin, unsigned n)
{
	return lin >= DATA && lin + n <= DATA_END && n <= DATA_END - DATA;
}

static void poke_value(u64 lin, u64 v, unsigned n)
{
	if (in_data(lin, n))
		poke(lin, &v, n);
}

static void poke_random(u64 lin, unsigned n)
{
	u64 v[16];

	for (unsigned i = 0; i < ARRAY_LEN(v); i++)
		v[i] = value_vec();
	n = MIN(n, (unsigned)sizeof v);
	if (in_data(lin, n))
		poke(lin, v, n);
}

/* An address in the code pages that holds nothing but filling. */
static u64 code_target(const struct test_case *t)
{
	u64 at;

	do
		at = CODE + 64 + below(CODE_BYTES - 128);
	while (at + 16 > t->start.rip && at < t->start.rip + 64);
	return at;
}

/* --- encodings --------------------------------------------------------------------------------------- */
struct draft {
	struct test_case *t;
	enum cpu_mode mode;
	u64 forms;      /* bit per enum opd_form the row has */
	bool mem;       /* ModRM says memory */
	unsigned n, modrm_at;
};

static bool has(const struct draft *d, u64 forms)
{
	return d->forms & forms;
}
#define FORMS_MEM_ONLY (1ull << FORM_M | 1ull << FORM_VSIB)
#define FORMS_REG_ONLY (1ull << FORM_R | 1ull << FORM_RX | 1ull << FORM_U | 1ull << FORM_N)
#define FORMS_EITHER (1ull << FORM_E | 1ull << FORM_W | 1ull << FORM_Q)
#define FORMS_MODRM (FORMS_MEM_ONLY | FORMS_REG_ONLY | FORMS_EITHER | 1ull << FORM_G | 1ull << FORM_S | \
		     1ull << FORM_C | 1ull << FORM_D | 1ull << FORM_V | 1ull << FORM_P)

static void put(struct draft *d, u8 b)
{
	d->t->code[d->n++] = b;
}

static bool row_is_x87(const struct op *row)
{
	return row->map >= MAP_D8 && row->map <= MAP_DF;
}

static bool row_is_vex(const struct op *row)
{
	return row->map >= MAP_V0F;
}

/* One of the bits set in mask. */
static unsigned pick_bit(unsigned mask)
{
	unsigned i;

	do
		i = below(8);
	while (!(mask >> i & 1));
	return i;
}

static unsigned pick_pp(const struct op *row)
{
	if (row->pp != PP_ANY)
		return pick_bit(row->pp);
	if (row->flags & F_REP && chance(60))
		return 2 + below(2);
	return chance(70) ? 0 : chance(80) ? 1 : 2 + below(2);
}

static void put_prefixes(struct draft *d, const struct op *row, unsigned pp)
{
	static const u8 segs[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 };
	u8 p[6], n = 0;

	if (pp)
		p[n++] = pp == 1 ? 0x66 : pp == 2 ? 0xf3 : 0xf2;
	if (row->pp == PP_ANY && pp >= 2 && chance(20))
		p[n++] = 0x66;
	if (chance(8))
		p[n++] = 0x67;
	if (chance(8))
		p[n++] = segs[below(6)];
	if (row->flags & F_LOCKOK && d->mem && chance(25))
		p[n++] = 0xf0;
	while (n) {
		unsigned i = below(n);

		put(d, p[i]);
		p[i] = p[--n];
	}
}

static void put_vex(struct draft *d, const struct op *row, unsigned pp)
{
	unsigned l = pick_bit(row->lw & LW_LX), w = pick_bit(row->lw >> 2 & 3);
	unsigned map = row->map - MAP_V0F + 1, rxb = d->mode == MODE_64 ? below(8) : 0;
	unsigned vvvv = has(d, 1ull << FORM_H | 1ull << FORM_B) ? below(d->mode == MODE_64 ? 16 : 8) : 0;
	u8 last = (u8)((~vvvv & 15) << 3 | l << 2 | pp);

	if (map == 1 && !w && !(rxb & 3) && chance(60)) {
		put(d, 0xc5);
		put(d, (u8)((rxb & 4 ? 0 : 0x80) | last));
		return;
	}
	put(d, 0xc4);
	put(d, (u8)((~rxb & 7) << 5 | map));
	put(d, (u8)(w << 7 | last));
}

static void put_rex(struct draft *d, const struct op *row)
{
	unsigned w = row->lw & LW_WX ? pick_bit(row->lw >> 2 & 3) : below(2);

	if (d->mode == MODE_64 && (w || chance(50)))
		put(d, (u8)(0x40 | w << 3 | below(8)));
}

static void put_opcode(struct draft *d, const struct op *row)
{
	if (row->map >= MAP_0F && row->map <= MAP_0F3A)
		put(d, 0x0f);
	if (row->map == MAP_0F38 || row->map == MAP_0F3A)
		put(d, row->map == MAP_0F38 ? 0x38 : 0x3a);
	put(d, row_is_x87(row) ? (u8)(0xd8 + row->map - MAP_D8) : row->opcode);
}

static void put_modrm(struct draft *d, const struct op *row)
{
	u8 b = (u8)gen_random(), ext = row->ext;

	if (row_is_x87(row)) {
		if (row->opcode < 8)
			b = (u8)((b & 7) | row->opcode << 3 | below(3) << 6);
		else
			b = row->opcode | (has(d, 1ull << FORM_STI) ? b & 7 : 0);
	} else {
		if (!has(d, FORMS_MODRM) && ext == EXT___)
			return;
		b = (u8)((b & 0x3f) | (d->mem ? below(3) << 6 : 0xc0));
		if (ext >= 0xc0)
			b = ext;
		else if (ext != EXT___)
			b = (u8)((b & 0xc7) | (ext & 7) << 3);
	}
	if (b < 0xc0 && (has(d, 1ull << FORM_VSIB) || chance(25)))
		b = (u8)((b & ~7) | 4);
	d->modrm_at = d->n;
	put(d, b);
}

/* SIB, displacement, immediate: whatever the decoder makes of it. */
static void put_tail(struct draft *d)
{
	unsigned style = below(4);

	for (unsigned i = 0; i < 14; i++) {
		u8 r = (u8)gen_random();

		put(d, style < 2 ? r : style == 2 ? (i & 3 ? (u8)-(r & 1) : r) : r & 0x1f);
	}
}

static bool draft_mem(const struct draft *d, const struct op *row)
{
	if (row_is_x87(row))
		return row->opcode < 8;
	if (has(d, FORMS_REG_ONLY) || row->ext >= 0xc0 || (row->ext != EXT___ && row->ext & EXT_REG))
		return false;
	return has(d, FORMS_MEM_ONLY) || (has(d, FORMS_EITHER) && chance(50));
}

static bool draft_bytes(struct draft *d, const struct op *row)
{
	struct test_case *t = d->t;
	unsigned pp;

	for (unsigned i = 0; i < 4; i++)
		d->forms |= 1ull << opd_specs[row->spec[i]].form;
	d->mem = draft_mem(d, row);
	pp = pick_pp(row);
	put_prefixes(d, row, row_is_vex(row) ? 0 : pp);
	if (row_is_vex(row))
		put_vex(d, row, pp);
	else
		put_rex(d, row);
	if (row_is_vex(row))
		put(d, row->opcode);
	else
		put_opcode(d, row);
	put_modrm(d, row);
	put_tail(d);
	if (decode(&t->in, t->code, 15, d->mode) <= 0 || t->in.op != row)
		return false;
	t->len = t->in.len;
	return true;
}

/* --- solving addresses --------------------------------------------------------------------------------- */
static const struct opd *mem_opd(const struct insn *in)
{
	for (unsigned i = 0; i < in->nopd; i++)
		if (in->opd[i].kind == OPD_MEM)
			return &in->opd[i];
	return NULL;
}

static u64 seg_base_of(const struct test_case *t)
{
	return t->in.seg == SEG_FS ? t->start.fs_base : t->in.seg == SEG_GS ? t->start.gs_base : 0;
}

static bool patch_disp(struct draft *d, u64 disp)
{
	struct test_case *t = d->t;
	bool sib = (t->in.modrm & 7) == 4;

	if (disp != (u64)(s32)disp)
		return false;
	st32(t->code + d->modrm_at + 1 + sib, (u32)disp);
	return decode(&t->in, t->code, 15, d->mode) == (int)t->len;
}

/* Choose registers or displacement so that the operand lies at lin. */
static bool solve(struct draft *d, u64 lin)
{
	struct test_case *t = d->t;
	const struct insn *in = &t->in;
	u64 *gpr = t->start.gpr, ea = lin - seg_base_of(t), want = ea - (u64)in->disp, high;
	bool vsib = has(d, 1ull << FORM_VSIB), index = in->index != REG_NONE && !vsib;
	unsigned reg;

	if (in->asize == 2)
		return true;
	if (has(d, 1ull << FORM_O)) {
		st64(t->code + t->len - in->asize, ea);
		return decode(&t->in, t->code, 15, d->mode) == (int)t->len;
	}
	if (in->base == REG_RIP)
		return patch_disp(d, ea - (t->start.rip + t->len));
	if (in->base == REG_NONE && !index)
		return patch_disp(d, ea);
	reg = in->base != REG_NONE ? in->base : in->index;
	if (in->base == REG_NONE)
		want = (u64)((s64)want >> in->scale);
	else if (index && in->base != in->index)
		want -= gpr[in->index] << in->scale;
	else if (index)
		want = (u64)((s64)want / (1 + (1 << in->scale)));
	high = in->asize == 4 && chance(50) ? gen_random() << 32 : 0;
	if (d->mode != MODE_64)
		high = 0;
	gpr[reg] = in->asize == 4 ? (u32)want | high : want;
	return true;
}

static u64 operand_lin(const struct draft *d)
{
	const struct insn *in = &d->t->in;
	const u64 *gpr = d->t->start.gpr;
	u64 ea = (u64)in->disp;

	if (in->base == REG_RIP)
		ea += d->t->start.rip + d->t->len;
	else if (in->base != REG_NONE)
		ea += gpr[in->base];
	if (in->index != REG_NONE && !has(d, 1ull << FORM_VSIB))
		ea += gpr[in->index] << in->scale;
	return (ea & addr_mask(in)) + seg_base_of(d->t);
}

/* --- what particular instructions want -------------------------------------------------------------------- */
static bool runs(const struct op *row, insn_fn fn)
{
	return row->cls == CLS_SELF && row->exec.self == fn;
}

static bool runs_any(const struct op *row, const insn_fn *fn)
{
	while (*fn)
		if (runs(row, *fn++))
			return true;
	return false;
}

static const insn_fn fp_handlers[] = { exec_FXSAVE, exec_FXRSTOR, exec_LDMXCSR, exec_STMXCSR, exec_XSAVE, exec_XRSTOR,
	exec_XSAVEOPT, exec_XSAVEC, exec_MASKMOVQ, exec_MASKMOVDQU, exec_MASKMOV, exec_GATHER, exec_FLDENV,
	exec_FNSTENV, exec_FRSTOR, exec_FNSAVE, exec_FWAIT, NULL };
static const insn_fn image_handlers[] = { exec_FXSAVE, exec_FXRSTOR, exec_XSAVE, exec_XRSTOR, exec_XSAVEOPT,
	exec_XSAVEC, NULL };
static const insn_fn xsave_handlers[] = { exec_XSAVE, exec_XRSTOR, exec_XSAVEOPT, exec_XSAVEC, NULL };
static const insn_fn sel_handlers[] = { exec_MOV_TO_SREG, exec_POP_SREG, exec_LAR, exec_LSL, exec_VERR, exec_VERW,
	NULL };
static const insn_fn seg_handlers[] = { exec_MOV_TO_SREG, exec_POP_SREG, exec_LFS, exec_LGS, exec_LSS, exec_LDS,
	exec_LES, exec_MOV_FROM_SREG, exec_PUSH_SREG, exec_CALL_FAR, exec_JMP_FAR, exec_RET_FAR, exec_IRET,
	NULL };
static const insn_fn far_mem_handlers[] = { exec_LFS, exec_LGS, exec_LSS, exec_LDS, exec_LES, exec_CALL_FAR,
	exec_JMP_FAR, NULL };

static u64 a_selector(void)
{
	static const u16 sel[] = { 0, 3, 0x23, 0x2b, 0x2b, 0x33, 0x7b, 0x08, 0x10, 0x18, 0x28, 0x40, 0x4b, 0x0c, 0x83, 7, 4 };

	return chance(85) ? sel[below(ARRAY_LEN(sel))] : (u16)gen_random();
}

/* How many bytes at the operand matter. */
static unsigned operand_bytes(const struct op *row, const struct opd *o)
{
	if (runs_any(row, xsave_handlers))
		return XSAVE_BYTES;
	return runs_any(row, image_handlers) ? 512 : o->size ? o->size : 16;
}

static void prepare_image(struct test_case *t, u64 lin)
{
	u8 image[XSAVE_BYTES];

	if (!in_data(lin, XSAVE_BYTES) || !(runs(t->row, exec_XRSTOR) || runs(t->row, exec_FXRSTOR)))
		return;
	memcpy(image, t->start.fx, sizeof image);
	st64(image + 512, below(8));
	if (chance(40))
		st64(image + 520, BIT(63) | below(8));
	if (chance(30))
		image[chance(50) ? 512 + below(32) : 24 + below(4)] = (u8)gen_random();
	image[512] &= 0x1f; /* not what the host has beyond AVX */
	image[520] &= 0x1f;
	poke(lin, image, sizeof image);
}

/* BT and its kin with a register: the offset counts bits from the operand, either way. */
static bool prepare_bit_offset(struct test_case *t)
{
	const struct insn *in = &t->in;
	u8 reg = in->opd[1].reg;

	if (!runs_any(t->row, (const insn_fn[]){ exec_BT_MEM, exec_BTS_MEM, exec_BTR_MEM, exec_BTC_MEM, NULL }) ||
	    in->opd[1].kind != OPD_REG)
		return true;
	t->start.gpr[reg] = (u64)((s64)below(8192) - 4096) & (in->opd[1].size == 2 ? 0xffff : ~0ull);
	return reg != in->base && reg != in->index;
}

static void prepare_gather(struct test_case *t)
{
	u8 *xmm = t->start.fx + FXSAVE_XMM_OFF + 16 * t->in.index;
	u8 *ymm = t->start.fx + XSAVE_YMM_OFF + 16 * t->in.index;
	bool wide = t->row->opcode & 1;

	t->start.fx[XSAVE_HEADER_OFF] = 7;
	for (unsigned i = 0; i < 16; i += wide ? 8 : 4) {
		s64 a = (s64)below(256) - 128, b = (s64)below(256) - 128;

		if (wide)
			st64(xmm + i, (u64)a), st64(ymm + i, (u64)b);
		else
			st32(xmm + i, (u32)a), st32(ymm + i, (u32)b);
	}
}

static bool is_ours(u64 lin)
{
	return (lin + 4096 > CODE && lin < CODE_END + 4096) || (lin + 4096 > LOW && lin < LOW + LOW_BYTES + 4096);
}

static bool prepare_memory(struct draft *d)
{
	struct test_case *t = d->t;
	const struct opd *o = mem_opd(&t->in);
	unsigned bytes;
	u64 lin;

	if (!o || t->row->flags & F_NOMEM)
		return !o || !is_ours(operand_lin(d));
	bytes = operand_bytes(t->row, o);
	if (!prepare_bit_offset(t))
		return false;
	lin = bytes >= 16 && chance(80) ? ALIGN_DOWN(target(bytes), 64) + (bytes == 16 ? 16 * below(4) : 0) :
					  target(bytes);
	if (runs_any(t->row, xsave_handlers) && (t->in.base == RAX || t->in.index == RAX))
		return false; /* RAX says what to save */
	if (!solve(d, lin))
		return false;
	lin = operand_lin(d);
	if (is_ours(lin))
		return false; /* a store there would be a different test */
	if (runs(t->row, exec_GATHER))
		prepare_gather(t);
	else if (runs_any(t->row, image_handlers))
		prepare_image(t, lin);
	else if (runs_any(t->row, sel_handlers))
		poke_value(lin, a_selector(), 2);
	else if (runs_any(t->row, far_mem_handlers))
		poke_value(lin, code_target(t), 8),
			poke_value(lin + o->size - 2, chance(30) ? SEL_CS64 : chance(30) ? SEL_CS32 : a_selector(), 2);
	else if (runs(t->row, exec_JMP) || runs(t->row, exec_CALL))
		poke_value(lin, chance(85) ? code_target(t) : value(), 8);
	else if (runs(t->row, exec_LDMXCSR))
		poke_value(lin, gen_random() & (chance(90) ? 0xffff : ~0ull), 4);
	else if (chance(70))
		poke_random(lin, bytes);
	if (runs(t->row, exec_CMPXCHG) && chance(50))
		poke_value(lin, t->start.gpr[RAX], o->size);
	if (runs(t->row, exec_CMPXCHG8B) && chance(50))
		poke_value(lin, (u32)t->start.gpr[RAX] | t->start.gpr[RDX] << 32, 8);
	if (runs(t->row, exec_CMPXCHG16B) && chance(50))
		poke_value(lin, t->start.gpr[RAX], 8), poke_value(lin + 8, t->start.gpr[RDX], 8);
	return true;
}

static void prepare_string(struct test_case *t)
{
	const struct insn *in = &t->in;
	bool narrow = in->mode == MODE_64 && in->asize == 4;
	u64 *gpr = t->start.gpr, high = narrow && chance(50) ? gen_random() << 32 : 0;
	bool used = false;

	for (unsigned i = 0; i < in->nopd; i++) {
		u64 at = chance(50) ? target_mostly_plain(in->opd[i].size) : target(in->opd[i].size);

		if (in->opd[i].kind == OPD_STR_SRC)
			gpr[RSI] = (at - seg_base_of(t)) | high, used = true;
		if (in->opd[i].kind == OPD_STR_DST)
			gpr[RDI] = at | high, used = true;
		if (used && chance(30))
			poke_random(at, 32);
	}
	if (!used)
		return;
	if (in->prefixes & (PFX_REP | PFX_REPNE))
		gpr[RCX] = (chance(90) ? below(20) : below(700)) | high;
	if (chance(40))
		t->start.flags |= FL_DF;
	if (chance(40)) /* equal bytes, for SCAS and CMPS to run over */
		gpr[RAX] = 0x0101010101010101 * (gen_random() & 1);
}

/* The top of the stack, as the instruction will want it. */
static void prepare_stack(struct test_case *t)
{
	struct regs *r = &t->start;
	if (runs(t->row, exec_RET_FAR) && t->in.opd[0].kind == OPD_IMM) {
		st16(t->code + t->len - 2, (u16)below(64)); /* near, or the order of checks shows */
		decode(&t->in, t->code, 15, t->in.mode);
	}
	bool is_64 = t->in.mode == MODE_64;
	u64 frame[5] = { code_target(t), chance(90) == is_64 ? SEL_CS64 : SEL_CS32, (gen_random() & ~(u64)FL_TF) | 2, target_mostly_plain(8), SEL_DATA };
	bool iret = runs(t->row, exec_IRET), far = iret || runs(t->row, exec_RET_FAR);

	if (far && is_64 && chance(50))
		frame[chance(50) ? 1 : 4] = a_selector();
	if (runs(t->row, exec_RET))
		poke_value(r->gpr[RSP], chance(85) ? frame[0] : value(), 8);
	else if (runs(t->row, exec_POPF))
		poke_value(r->gpr[RSP], frame[2], 8);
	else if (runs(t->row, exec_POP_SREG))
		poke_value(r->gpr[RSP], a_selector(), 8);
	else if (far)
		for (unsigned i = 0; i < (iret ? 5u : 2u); i++)
			poke_value(r->gpr[RSP] + i * t->in.size, frame[i], t->in.size);
}

static bool prepare_jump(struct test_case *t)
{
	const struct insn *in = &t->in;
	u64 next = t->start.rip + t->len, to;

	if (in->opd[0].kind == OPD_FAR && in->size == 4) {
		st32(t->code + t->len - 6, (u32)code_target(t));
		st16(t->code + t->len - 2, chance(40) ? SEL_CS32 : chance(30) ? SEL_CS64 : (u16)a_selector());
		return decode(&t->in, t->code, 15, in->mode) == (int)t->len;
	}
	if (in->opd[0].kind == OPD_REL) {
		if (in->opd[0].size > 1 && chance(70)) {
			st32(t->code + t->len - 4, (u32)(code_target(t) - next));
			if (decode(&t->in, t->code, 15, in->mode) != (int)t->len)
				return false;
		}
		to = next + in->imm;
		return to + 16 <= t->start.rip || to >= next + 32;
	}
	if ((runs(t->row, exec_JMP) || runs(t->row, exec_CALL)) && in->opd[0].kind == OPD_REG)
		t->start.gpr[in->opd[0].reg] = chance(85) ? code_target(t) : value();
	return true;
}

static void prepare_registers(struct test_case *t)
{
	const struct insn *in = &t->in;
	u64 *gpr = t->start.gpr;

	if (runs(t->row, exec_LEAVE) || runs(t->row, exec_ENTER))
		gpr[RBP] = target_mostly_plain(8);
	if (runs_any(t->row, xsave_handlers))
		gpr[RAX] = chance(80) ? below(8) : gen_random() & ~0xe0ull; /* not what the host has beyond AVX */
	if (runs(t->row, exec_XLAT))
		gpr[RBX] = target(1) - (u8)gpr[RAX];
	if (runs(t->row, exec_MASKMOVDQU) || runs(t->row, exec_MASKMOVQ))
		gpr[RDI] = target(16) - seg_base_of(t);
	if (runs(t->row, exec_CMPXCHG) && in->opd[0].kind == OPD_REG && chance(50))
		gpr[RAX] = gpr[in->opd[0].reg];
	if ((runs(t->row, exec_DIV) || runs(t->row, exec_IDIV)) && chance(70))
		gpr[RDX] = chance(50) ? 0 : (u64)((s64)gpr[RAX] >> 63);
	if (runs_any(t->row, sel_handlers))
		for (unsigned i = 0; i < in->nopd; i++)
			if (in->opd[i].kind == OPD_REG && !(i == 0 && t->row->flags & F_W0))
				gpr[in->opd[i].reg] = a_selector() | (gen_random() & ~0xffffull);
}

/* --- FP state ---------------------------------------------------------------------------------------------- */
/* Components not in use hold their initial values, as XSAVE would show them. */
static void initial_fp(u8 *fx)
{
	u8 used = fx[XSAVE_HEADER_OFF];

	if (!(used & XCOMP_X87)) {
		memset(fx, 0, FXSAVE_MXCSR_OFF);
		memset(fx + 32, 0, FXSAVE_XMM_OFF - 32);
		st16(fx, 0x37f);
	}
	if (ld16(fx + 2) & ~ld16(fx) & 0x3f)
		st16(fx + 2, ld16(fx + 2) | 0x8080); /* ES and B follow from flags and masks */
	if (!(used & XCOMP_SSE))
		memset(fx + FXSAVE_XMM_OFF, 0, 256);
	if (!(used & XCOMP_AVX))
		memset(fx + XSAVE_YMM_OFF, 0, 256);
}

static void random_fp(u8 *fx)
{
	u16 sw = (u16)gen_random() & 0x7f7f;

	memset(fx, 0, XSAVE_BYTES);
	if (chance(70))
		sw &= 0x7f00; /* no exception pending */
	st16(fx, (u16)(0x40 | (chance(85) ? 0x3f : below(64)) | below(16) << 8)); /* masks, PC, RC */
	st16(fx + 2, sw);
	fx[4] = (u8)(gen_random() | gen_random());
	st32(fx + FXSAVE_MXCSR_OFF, (u32)((chance(90) ? 0x1f80 : below(64) << 7) | below(64) * chance(30) |
					  below(4) << 13 * chance(40) | (chance(10) ? 0x8000 : 0) |
					  (chance(10) ? 0x40 : 0)) & 0xffff);
	for (unsigned i = 0; i < 8; i++)
		value_f80(fx + 32 + 16 * i);
	for (unsigned i = 0; i < 32; i++) {
		st64(fx + FXSAVE_XMM_OFF + 8 * i, value_vec());
		st64(fx + XSAVE_YMM_OFF + 8 * i, value_vec());
	}
	st64(fx + XSAVE_HEADER_OFF, chance(90) ? 7 : below(8));
	initial_fp(fx);
}

enum { FP_POOL = 256 };
static u8 fp_pool[FP_POOL][XSAVE_BYTES];

/* One of a pool, refreshed now and then: filling it is what would take the time. */
static void prepare_fp(struct test_case *t)
{
	u8 *fx = fp_pool[below(FP_POOL)];

	if (!ld16(fx) || chance(5))
		random_fp(fx);
	memcpy(t->start.fx, fx, XSAVE_BYTES);
	if (row_is_x87(t->row) && chance(30))
		t->start.fx[4] = 0xff;
	for (unsigned i = 0; i < 2; i++)
		st64(t->start.fx + FXSAVE_XMM_OFF + 8 * below(32), value_vec());
	initial_fp(t->start.fx);
}

/* Encodings that mean different things to different makers' processors, or harm ourselves. */
static bool is_unfit(const struct insn *in)
{
	bool wide = in->rex & 8;

	/* The target would be the stack pointer, into the code. */
	if (in->opd[0].kind == OPD_REG && in->opd[0].reg == RSP && (runs(in->op, exec_JMP) || runs(in->op, exec_CALL)))
		return true;
	/* Near branch with 66 in 64-bit mode: Intel ignores the prefix, AMD truncates RIP. */
	if (in->mode == MODE_64 && in->prefixes & PFX_OPSIZE && !wide &&
	    (in->opd[0].kind == OPD_REL || runs(in->op, exec_JMP) || runs(in->op, exec_CALL) ||
	     runs(in->op, exec_RET)))
		return true;
	/* MOVSXD to 16 bits: AMD reads 32. */
	if (in->op->map == MAP_ONE && in->op->opcode == 0x63 && in->size == 2)
		return true;
	/* LOOPE and LOOPNE with a REP prefix: on AMD the prefix chooses the condition. */
	if ((runs(in->op, exec_LOOPE) || runs(in->op, exec_LOOPNE)) && in->prefixes & (PFX_REP | PFX_REPNE))
		return true;
	/* 64-bit offset in a far pointer: AMD has none. */
	return wide && runs_any(in->op, far_mem_handlers);
}

/* --- a case -------------------------------------------------------------------------------------------------- */
static u64 random_flags(void)
{
	u64 r = gen_random();

	return 0x202 | (r & FL_ARITH) | (chance(5) ? FL_DF : 0) | (chance(1) ? FL_AC : 0) |
	       (chance(5) ? FL_ID : 0);
}

/* Mostly in the middle of a page; else across the two pages, or at the end of what is mapped. */
static u64 random_rip(const struct test_case *t)
{
	unsigned r = below(100);

	if (r < 94)
		return CODE + 512 + below(3000);
	if (r < 98)
		return CODE + 4096 - below(t->len + 1);
	return CODE_END - 1 - below(t->len);
}

/* An instruction that looks at the flags, behind one that sets them: the block cache fuses some pairs. */
static void append_consumer(struct test_case *t)
{
	u8 cond = (u8)below(16), *p = t->code + t->len, reg = (u8)below(8);

	switch (below(4)) {
	case 0: /* Jcc rel8, onto filling */
		*p++ = 0x70 | cond;
		*p++ = (u8)(chance(50) ? 32 + below(64) : 160 + below(32));
		break;
	case 1: /* Jcc rel32 */
		*p++ = 0x0f;
		*p++ = 0x80 | cond;
		st32(p, (u32)(code_target(t) - (t->start.rip + t->len + 6)));
		p += 4;
		break;
	case 2: /* SETcc on a low byte register */
		*p++ = 0x0f;
		*p++ = 0x90 | cond;
		*p++ = 0xc0 | (reg & 3);
		break;
	default: /* CMOVcc */
		*p++ = 0x0f;
		*p++ = 0x40 | cond;
		*p++ = 0xc0 | reg << 3 | (u8)below(4);
	}
	t->len = (unsigned)(p - t->code);
}

bool gen_case(struct test_case *t, const struct op *row, enum cpu_mode mode)
{
	struct draft d = { .t = t, .mode = mode };
	struct regs *r = &t->start;

	memset(t, 0, offsetof(struct test_case, start.fx));
	t->row = row;
	wide_addresses = mode == MODE_64;
	if (!draft_bytes(&d, row) || is_unfit(&t->in))
		return false;
	t->fp = row->cls == CLS_NATIVE || runs_any(row, fp_handlers);
	t->segs = runs_any(row, seg_handlers);
	t->block = chance(50);
	for (unsigned i = 0; i < (mode == MODE_64 ? 16 : 8); i++)
		r->gpr[i] = value();
	r->flags = random_flags();
	r->rip = random_rip(t);
	t->own_fs = (mode == MODE_64 && t->in.seg == SEG_FS) || (row->feature == FEAT_FSGSBASE);
	r->fs_base = t->own_fs ? gen_random() & 0x7fff000 : 0;
	r->gs_base = mode == MODE_64 ? GS_BASE : 0;
	r->gpr[RSP] = target_mostly_plain(8);
	if (t->fp) {
		prepare_fp(t);
		r->flags &= ~(u64)FL_AC; /* whether vector operands are checked is up to the processor */
	}
	if (runs(row, exec_IRET) && chance(10))
		r->flags |= FL_NT; /* not elsewhere: a task switch of the host may clear it */
	prepare_registers(t);
	prepare_string(t);
	if (!prepare_memory(&d) || !prepare_jump(t))
		return false;
	prepare_stack(t);
	if (t->block && row->cls == CLS_DRV && row->fl_write && r->rip < CODE + 3600 && chance(30))
		append_consumer(t);
	for (unsigned i = 0; mode != MODE_64 && i < 8; i++)
		r->gpr[i] = (u32)r->gpr[i];
	return !is_ours(r->gpr[RSP]) && !is_ours(r->gpr[RSI]) && !is_ours(r->gpr[RDI]);
}

const char *gen_skip_reason(const struct op *row, enum cpu_mode mode)
{
	static const struct {
		insn_fn fn;
		const char *why;
	} list[] = {
		{ exec_SYSCALL, "enters the host's kernel" },
		{ exec_SYSENTER, "enters the host's kernel" },
		{ exec_INTn, "enters the host's kernel" },
		{ exec_INT3, "delivered through the IDT, not reported" },
		{ exec_INT1, "delivered through the IDT, not reported" },
		{ exec_INTO, "delivered through the IDT, not reported" },
		{ exec_RDTSC, "differs from run to run" },
		{ exec_RDTSCP, "differs from run to run" },
		{ exec_RDPMC, "whether ring 3 may is the host kernel's choice" },
		{ exec_RDRAND, "differs from run to run" },
		{ exec_RDSEED, "differs from run to run" },
		{ exec_RDPID, "the host kernel's TSC_AUX" },
		{ exec_CPUID, "shows our CPU model, not the host's" },
		{ exec_XGETBV, "the host's XCR0 has more components" },
		{ exec_SGDT, "shows the host kernel's table, or UMIP" },
		{ exec_SIDT, "shows the host kernel's table, or UMIP" },
		{ exec_SLDT, "shows the host kernel's table, or UMIP" },
		{ exec_STR, "shows the host kernel's table, or UMIP" },
		{ exec_SMSW, "shows the host kernel's CR0, or UMIP" },
	};

	if (row->cls == CLS_UD)
		return "names encodings that are #UD";
	for (unsigned i = 0; i < ARRAY_LEN(list); i++)
		if (runs(row, list[i].fn))
			return list[i].why;
	if (mode == MODE_64 ? row->flags & F_I64 : row->flags & F_O64)
		return mode == MODE_64 ? "does not exist in 64-bit mode" : "exists only in 64-bit mode";
	if (mode != MODE_64 && !native_side_has_32bit())
		return "the host has no 32-bit code segment for us";
	if (!native_side_has_fsgsbase() &&
	    runs_any(row, (const insn_fn[]){ exec_RDFSBASE, exec_RDGSBASE, exec_WRFSBASE, exec_WRGSBASE, NULL }))
		return "the host kernel forbids it";
	return NULL;
}
