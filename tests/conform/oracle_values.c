/* oracle_values.c - random integers, floats, addresses and FP states, biased to where bugs are. */
#include "oracle_gen.h"

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

/* --- values ----------------------------------------------------------------------------------- */
u64 gen_value(void)
{
	u64 r = gen_random(), edge;

	switch (below(8)) {
	case 0:
	case 1: return r;
	case 2: return r & 0xff;
	case 3: return (u64)(s64)(s8)r;
	case 4: return (u32)r;
	case 5: edge = 1ull << (r >> 32 & 63); return edge - (r & 3) + 1;
	case 6: return DATA + (r & 0x1fff);
	default: return r & 1 ? ~0ull : 0;
	}
}

static u32 value_f32(void)
{
	static const u32 odd[] = { 0,	       0x80000000, 1,	       0x7fffff,   0x800000,
				   0x7f7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x7fa00001,
				   0x3f800000, 0x4f000000, 0xcf000000, 0x5f000000 };
	u32 r = (u32)gen_random();

	if (chance(30))
		return odd[below(ARRAY_LEN(odd))];
	return chance(70) ? (r & 0x807fffff) | (u32)(120 + below(16)) << 23 : r;
}

static u64 value_f64(void)
{
	static const u64 odd[] = { 0,
				   BIT(63),
				   1,
				   BIT(52) - 1,
				   BIT(52),
				   0x7fefffffffffffff,
				   0x7ff0000000000000,
				   0xfff0000000000000,
				   0x7ff8000000000000,
				   0x7ff4000000000001,
				   0x3ff0000000000000,
				   0x41e0000000000000,
				   0xc3e0000000000000 };
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

u64 gen_value_vec(void)
{
	switch (below(4)) {
	case 0: return value_f64();
	case 1: return value_f32() | (u64)value_f32() << 32;
	case 2: return gen_random();
	default: return gen_value();
	}
}

/* --- where memory operands go ----------------------------------------------------------------- */
static u64 aligned(u64 at, unsigned size, unsigned percent)
{
	unsigned pow2 = 1;

	while (pow2 * 2 <= size && pow2 < 64)
		pow2 *= 2;
	return chance(percent) ? ALIGN_DOWN(at, pow2) : at;
}

bool gen_wide_addresses;

/* A linear address for size bytes: mostly plain, often at an edge, sometimes wrong. */
u64 gen_target(unsigned size)
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
	if (!gen_wide_addresses)
		return r < 985 ? 0x40000000 + (gen_random() >> 34) : 0xffffffff - below(size + 1);
	if (r < 995)
		return 0x800000000000ull + (gen_random() >> 18);
	return 0x7fffffffffffull - below(size + 1);
}

/* The same, where a fault would only hide what is to be tested. */
u64 gen_target_mostly_plain(unsigned size)
{
	return chance(80) ? aligned(DATA + 64 + below(8000 - MIN(size, 7000)), size, 90)
			  : gen_target(size);
}

bool gen_in_data(u64 lin, unsigned n)
{
	return lin >= DATA && lin + n <= DATA_END && n <= DATA_END - DATA;
}

void gen_poke_value(u64 lin, u64 v, unsigned n)
{
	if (gen_in_data(lin, n))
		poke(lin, &v, n);
}

void gen_poke_random(u64 lin, unsigned n)
{
	u64 v[16];

	for (unsigned i = 0; i < ARRAY_LEN(v); i++)
		v[i] = gen_value_vec();
	n = MIN(n, (unsigned)sizeof v);
	if (gen_in_data(lin, n))
		poke(lin, v, n);
}

/* An address in the code pages that holds nothing but filling. */
u64 gen_code_target(const struct test_case *t)
{
	u64 at;

	do
		at = CODE + 64 + below(CODE_BYTES - 128);
	while (at + 16 > t->start.rip && at < t->start.rip + 64);
	return at;
}

/* --- FP state --------------------------------------------------------------------------------- */
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
	st16(fx,
	     (u16)(0x40 | (chance(85) ? 0x3f : below(64)) | below(16) << 8)); /* masks, PC, RC */
	st16(fx + 2, sw);
	fx[4] = (u8)(gen_random() | gen_random());
	st32(fx + FXSAVE_MXCSR_OFF, (u32)((chance(90) ? 0x1f80 : below(64) << 7) |
					  below(64) * chance(30) | below(4) << 13 * chance(40) |
					  (chance(10) ? 0x8000 : 0) | (chance(10) ? 0x40 : 0)) &
					    0xffff);
	for (unsigned i = 0; i < 8; i++)
		value_f80(fx + 32 + 16 * i);
	for (unsigned i = 0; i < 32; i++) {
		st64(fx + FXSAVE_XMM_OFF + 8 * i, gen_value_vec());
		st64(fx + XSAVE_YMM_OFF + 8 * i, gen_value_vec());
	}
	st64(fx + XSAVE_HEADER_OFF, chance(90) ? 7 : below(8));
	initial_fp(fx);
}

enum { FP_POOL = 256 };
static u8 fp_pool[FP_POOL][XSAVE_BYTES];

/* One of a pool, refreshed now and then: filling it is what would take the time. */
void gen_fp(struct test_case *t)
{
	u8 *fx = fp_pool[below(FP_POOL)];

	if (!ld16(fx) || chance(5))
		random_fp(fx);
	memcpy(t->start.fx, fx, XSAVE_BYTES);
	if (row_is_x87(t->row) && chance(30))
		t->start.fx[4] = 0xff;
	for (unsigned i = 0; i < 2; i++)
		st64(t->start.fx + FXSAVE_XMM_OFF + 8 * below(32), gen_value_vec());
	initial_fp(t->start.fx);
}
