/* oracle.h - the host CPU as oracle: random instructions with random state, run by the host itself
 * and by the software CPU, compared.
 *
 * oracle_gen.c makes a case, oracle_native.c and oracle_guest.c run it, oracle.c compares and
 * counts. Both sides see the same code, data and registers at the same linear addresses below 4
 * GiB, where the test program itself has nothing mapped, so that a stray 32-bit address finds
 * nothing of ours. */
#pragma once

#include "../../tcg/exec.h"
#include "../../tcg/native.h"
#include "../../tcg/trans.h"
#include "oracle_native.h"

/* Ways through the software CPU: one instruction by itself, the block cache, the translator, and
 * the block cache until a block has run a few times. */
enum how { HOW_ONE, HOW_BLOCK, HOW_TRANSLATED, HOW_MIXED, HOWS };

enum { CODE_MAX = 384, POINTS_MAX = 64 };

struct test_case {
	const struct op *row;
	struct insn in; /* as decode() sees it */
	unsigned len; /* of code: one instruction or more; in and row are the first's */
	unsigned points; /* how many, if not one */
	struct seq_point {
		u16 at, undef; /* flags not defined before it */
	} point[POINTS_MAX];
	u64 undef; /* flags undefined after them */
	bool fp; /* FP state matters: load, save and compare it */
	bool segs; /* so do segment selectors */
	bool own_bases; /* FS base matters */
	u8 how; /* enum how */
	u8 code[CODE_MAX];
	struct regs start;
};

/* --- oracle_gen.c ----------------------------------------------------------------------------- */
void gen_seed(u64 seed);
u64 gen_random(void);
/* A case for this row, with memory prepared by poke(); false: no luck this time. */
bool gen_case(struct test_case *t, const struct op *row, enum cpu_mode mode);
/* Several instructions in a row. */
bool gen_sequence(struct test_case *t, enum cpu_mode mode);
/* With jumps, loops, calls, and code that changes. */
bool gen_program(struct test_case *t, enum cpu_mode mode);
/* Why no case is made for this row, or NULL. */
const char *gen_skip_reason(const struct op *row, enum cpu_mode mode);

/* --- oracle_guest.c --------------------------------------------------------------------------- */
void guest_side_init(void);
void guest_side_run(const struct test_case *t, struct regs *out);
extern u8 *guest_data;

/* Write to DATA on both sides. */
static inline void poke(u64 lin, const void *p, unsigned n)
{
	memcpy(native_data + (lin - DATA), p, n);
	memcpy(guest_data + (lin - DATA), p, n);
}
