/* oracle_gen.h - what the files that make cases share. */
#pragma once

#include "oracle.h"

/* --- oracle_values.c: random numbers, values, addresses, FP state ----------------------------- */
static inline unsigned below(unsigned n)
{
	return (unsigned)((gen_random() >> 32) * n >> 32);
}

static inline bool chance(unsigned percent)
{
	return below(100) < percent;
}

/* Integers, and vector elements, as likely to be interesting as to be random. */
u64 gen_value(void);
u64 gen_value_vec(void);

/* A linear address for size bytes: mostly plain, often at an edge, sometimes wrong; the other one
 * is for where a fault would only hide what is to be tested. */
u64 gen_target(unsigned size);
u64 gen_target_mostly_plain(unsigned size);
extern bool gen_wide_addresses; /* the case being made is 64-bit code */

/* An address in the code pages that holds nothing but filling. */
u64 gen_code_target(const struct test_case *t);

/* Write to DATA on both sides if [lin, lin + n) lies in it. */
bool gen_in_data(u64 lin, unsigned n);
void gen_poke_value(u64 lin, u64 v, unsigned n);
void gen_poke_random(u64 lin, unsigned n);
void gen_fp(struct test_case *t);

/* --- oracle_seq.c: instructions whose memory operands are near the address registers ---------- */
bool seq_is_address(enum cpu_mode mode, unsigned reg);
void seq_bases(struct test_case *t, enum cpu_mode mode);
/* The next instruction is at t->len, with these flags undefined. */
void seq_point(struct test_case *t, u64 undef);
/* One more instruction at t->code's end, or none if there was no luck; stack: it may move RSP. */
bool seq_add_any(struct test_case *t, enum cpu_mode mode, bool stack, u64 *undef);

/* --- oracle_draft.c: encodings ---------------------------------------------------------------- */
struct draft {
	struct test_case *t;
	enum cpu_mode mode;
	u64 forms; /* bit per enum opd_form the row has */
	bool mem; /* ModRM says memory */
	unsigned n, modrm_at;
};

static inline bool has(const struct draft *d, u64 forms)
{
	return d->forms & forms;
}
#define FORMS_MEM_ONLY (1ull << FORM_M | 1ull << FORM_VSIB)
#define FORMS_REG_ONLY (1ull << FORM_R | 1ull << FORM_RX | 1ull << FORM_U | 1ull << FORM_N)
#define FORMS_EITHER (1ull << FORM_E | 1ull << FORM_W | 1ull << FORM_Q)
#define FORMS_MODRM                                                                         \
	(FORMS_MEM_ONLY | FORMS_REG_ONLY | FORMS_EITHER | 1ull << FORM_G | 1ull << FORM_S | \
	 1ull << FORM_C | 1ull << FORM_D | 1ull << FORM_V | 1ull << FORM_P)

static inline bool row_is_x87(const struct op *row)
{
	return row->map >= MAP_D8 && row->map <= MAP_DF;
}

/* Fill d->t's code, in and len with a random encoding of row; false: the decoder disagrees. */
bool gen_draft_bytes(struct draft *d, const struct op *row);
