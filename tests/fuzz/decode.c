/* decode.c - fuzz target: one byte chooses the mode, the rest is decoded from every start, with its
 * text.  Whatever the bytes, the length is in bounds and the fields stay in their ranges. */
#include <stdlib.h>

#include "../../tcg/ops.h"

enum { STARTS_MAX = 64 };

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

static void check(const struct insn *in, int len, size_t avail)
{
	char buf[96];

	ASSERT(len >= DECODE_GP && len <= 15 && (len <= 0 || (size_t)len <= avail));
	ASSERT(in->op && in->len <= 15 && in->nopd <= ARRAY_LEN(in->opd) && in->seg < SEG_NR);
	ASSERT(in->base < 16 || in->base == REG_NONE || in->base == REG_RIP);
	ASSERT(in->index < 16 || in->index == REG_NONE);
	for (unsigned i = 0; i < in->nopd; i++)
		ASSERT(in->opd[i].kind != OPD_NONE && in->opd[i].reg < 16);
	decode_text(in, 0, buf, sizeof buf);
	ASSERT(strlen(buf) < sizeof buf);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	for (size_t at = 1; at < MIN(len, STARTS_MAX); at++) {
		size_t avail = MIN(len - at, 15);
		u8 *exact = malloc(avail); /* ASan sees a read past it */
		struct insn in;

		ASSERT(exact);
		memcpy(exact, data + at, avail);
		check(&in, decode(&in, exact, (unsigned)avail, data[0] % 3), avail);
		free(exact);
	}
	return 0;
}
