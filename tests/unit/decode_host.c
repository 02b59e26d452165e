/* decode_host.c - the host CPU as oracle of what exists: random encodings that the table gives to
 * the host or knows nothing of are tried there in 64-bit ring 3.  What is #UD here must be so
 * there, and the other way round, and what runs must be as long as decode() says. */
#include "../../tcg/ops.h"
#include "../test.h"
#include "host_run.h"

enum { CASES = 60000 };

/* Encodings a host may know that this CPU does not offer: map, opcodes from-to, and why. */
static const struct {
	s16 map, from, to;
	const char *why;
} host_only[] = {
	{ MAP_ONE, 0x62, 0x62, "EVEX" },
	{ MAP_ONE, 0x8f, 0x8f, "XOP" },
	{ MAP_ONE, 0xc6, 0xc7, "TSX" },
	{ MAP_ONE, 0xd5, 0xd5, "REX2" },
	{ MAP_0F, 0x00, 0x01, "SVM, VMX, SGX, PKU, UINTR, MONITORX, FRED" },
	{ MAP_0F, 0x0e, 0x0f, "3DNow!" },
	{ MAP_0F, 0x0d, 0x0d, "prefetch with a register is a NOP on some" },
	{ MAP_0F, 0x20, 0x23, "LOCK MOV CR0 is CR8 on AMD" },
	{ MAP_0F, 0x2b, 0x2b, "SSE4a" },
	{ MAP_0F, 0x36, 0x37, "SMX" },
	{ MAP_0F, 0x78, 0x79, "SSE4a, VMX" },
	{ MAP_0F, 0xa6, 0xa7, "VIA" },
	{ MAP_0F, 0xae, 0xae, "CET, WAITPKG, PTWRITE" },
	{ MAP_0F, 0xb8, 0xb8, "JMPE" },
	{ MAP_0F, 0xc7, 0xc7, "UINTR, RDSEED hidden by a hypervisor" },
	{ MAP_0F38, 0xd8, 0xdf, "Key Locker" },
	{ MAP_0F38, 0xf5, 0xff, "CET, MOVDIR64B, ENQCMD, RAO-INT, Key Locker, MOVRS" },
	{ MAP_0F3A, 0xf0, 0xf0, "HRESET" },
	{ MAP_V0F, 0x41, 0x4b, "AVX-512 masks" },
	{ MAP_V0F, 0x90, 0x99, "AVX-512 masks" },
	{ MAP_V0F38, 0x48, 0x6c, "AMX, AVX-VNNI" },
	{ MAP_V0F38, 0xb0, 0xb5, "AVX-NE-CONVERT, AVX-IFMA" },
	{ MAP_V0F38, 0xcb, 0xda, "SHA512, SM3, SM4, AVX-VNNI-INT16" },
	{ MAP_V0F38, 0xe0, 0xef, "CMPccXADD" },
	{ MAP_V0F3A, 0x00, 0x01, "some AMD hosts ignore VEX.W here" },
	{ MAP_V0F3A, 0x30, 0x33, "AVX-512 masks" },
	{ MAP_V0F3A, 0x48, 0x49, "XOP" },
	{ MAP_V0F3A, 0x5c, 0x7f, "FMA4" },
	{ MAP_V0F3A, 0xde, 0xde, "SM3" },
};

static bool may_differ(const u8 *b)
{
	unsigned map = MAP_ONE, opcode;

	while (memchr("\x66\x67\xf0\xf2\xf3\x26\x2e\x36\x3e\x64\x65", *b, 11) ||
	       (*b & 0xf0) == 0x40)
		b++;
	opcode = *b;
	if (opcode == 0xc4) {
		map = MAP_V0F + (b[1] & 31) - 1;
		opcode = b[3];
		if (map < MAP_V0F || map > MAP_V0F3A) /* newer maps */
			return true;
	} else if (opcode == 0xc5) {
		map = MAP_V0F;
		opcode = b[2];
	} else if (opcode == 0x0f) {
		map = b[1] == 0x38 ? MAP_0F38 : b[1] == 0x3a ? MAP_0F3A : MAP_0F;
		opcode = map == MAP_0F ? b[1] : b[2];
	}
	for (size_t i = 0; i < ARRAY_LEN(host_only); i++)
		if (map == (unsigned)host_only[i].map && opcode >= (unsigned)host_only[i].from &&
		    opcode <= (unsigned)host_only[i].to)
			return true;
	return false;
}

/* Random bytes, bent so that every map and prefix is seen often. */
static void random_insn(u8 b[15])
{
	static const u8 prefixes[] = { 0x66, 0xf2, 0xf3, 0x67, 0x2e, 0xf0 };
	u64 r = test_random();
	unsigned at = 0;

	for (unsigned i = 0; i < 15; i++)
		b[i] = (u8)(test_random() >> 20);
	while ((r & 3) == 0 && at < 4) {
		r >>= 2;
		b[at++] = prefixes[r % 3 == 0 ? r / 3 % 6 : r / 3 % 3];
	}
	if ((r >>= 2) & 1)
		b[at++] = 0x40 | (r >> 1 & 15);
	switch (r >> 5 & 7) {
	case 0:
	case 1:
		b[at] = 0xc4;
		b[at + 1] = (b[at + 1] & 0xe0) | (u8)(1 + (r >> 10) % 3);
		if (r >> 20 & 1)
			b[at + 2] |= 0x78; /* vvvv unused */
		break;
	case 2:
		b[at] = 0xc5;
		break;
	case 3:
	case 4:
		b[at] = 0x0f;
		break;
	case 5:
	case 6:
		b[at] = 0x0f;
		b[at + 1] = r >> 10 & 1 ? 0x38 : 0x3a;
		break;
	}
}

static void fail(const u8 *b, const char *name, int len, struct host_result host)
{
	static const char *const outcomes[] = { "runs it", "has #UD", "faults" };
	char hex[46] = "";

	for (unsigned i = 0; i < 15; i++)
		snprintf(hex + 3 * i, 4, "%02x ", b[i]);
	test_fail(__FILE__, __LINE__, "%s: %s: decode says %d, host %s, length %u", hex, name,
		  len, outcomes[host.outcome], host.len);
}

TEST(decode_host_agrees_on_what_exists_and_how_long_it_is)
{
	unsigned ran = 0, undefined = 0;

	if (!host_run_init())
		SKIP("the addresses the test wants are taken");
	for (unsigned i = 0; i < CASES; i++) {
		u8 b[15];
		struct insn in;

		random_insn(b);
		int len = decode(&in, b, sizeof b, MODE_64);

		/* CLS_SELF: system, branches, what may hang or break the test */
		if (len == DECODE_GP || in.op->cls == CLS_SELF || (len > 0 && in.op->cls == CLS_UD))
			continue;
		if (len < 0 && may_differ(b))
			continue;

		struct host_result host = host_run(b);

		if ((host.outcome == HOST_UD) != (len < 0) ||
		    (host.outcome == HOST_RAN && host.len != (unsigned)len))
			fail(b, in.op->name, len, host);
		ran += host.outcome == HOST_RAN;
		undefined += host.outcome == HOST_UD;
	}
	OK(ran > CASES / 20 && undefined > CASES / 20); /* the mix is still a useful one */
}
