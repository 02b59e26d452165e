/* native_code.c - tests of tcg/cache.c and tcg/x64.c: memory for made code, encodings, faults in
 * it. */
#include "../../tcg/cache.h"
#include "../../tcg/signal.h"
#include "../../tcg/x64.h"
#include "../test.h"

enum {
	BYTES = 64 << 10,
	RAX = 0,
	RBP = 5,
	RDI = 7,
	R12 = 12,
	R13 = 13,
	VECTOR_UD = 6,
	VECTOR_GP = 13
};

static void encodes(const struct x64_op *o, const char *want)
{
	u8 buf[16];
	char text[48] = "";
	struct x64 a = { .p = buf, .end = buf + sizeof buf };

	x64_op(&a, o);
	for (const u8 *p = buf; p < a.p; p++)
		sprintf(text + 3 * (p - buf), "%02x ", *p);
	if (strcmp(text, want))
		test_fail(__FILE__, __LINE__, "encoded %s, expected %s", text, want);
}

TEST(x64_encodes_every_addressing_corner)
{
	struct x64_op movups = { .map = X64_MAP_0F, .opcode = 0x10, .reg = 9, .mem = true };

	movups.rm = RDI;
	encodes(&movups, "44 0f 10 0f ");
	movups.rm = RBP; /* needs a displacement */
	encodes(&movups, "44 0f 10 4d 00 ");
	movups.rm = R13;
	encodes(&movups, "45 0f 10 4d 00 ");
	movups.rm = R12; /* needs a SIB byte */
	encodes(&movups, "45 0f 10 0c 24 ");
	movups.disp = -128;
	encodes(&movups, "45 0f 10 4c 24 80 ");
	movups.disp = 128;
	encodes(&movups, "45 0f 10 8c 24 80 00 00 00 ");
}

TEST(x64_encodes_prefixes_and_vex)
{
	encodes(&(struct x64_op){ .map = X64_MAP_0F, .opcode = 0x2a, .pp = 3, .w = true, .reg = 1 },
		"f2 48 0f 2a c8 ");
	encodes(&(struct x64_op){ .map = X64_MAP_0F3A,
				  .opcode = 0x0f,
				  .pp = 1,
				  .reg = 10,
				  .rm = 9,
				  .has_imm = true,
				  .imm = 5 },
		"66 45 0f 3a 0f d1 05 ");
	encodes(&(struct x64_op){ .map = X64_MAP_0F38,
				  .opcode = 0xb8,
				  .pp = 1,
				  .vex = true,
				  .w = true,
				  .l = true,
				  .reg = 12,
				  .vvvv = 3,
				  .rm = 13 },
		"c4 42 e5 b8 e5 ");
	encodes(
		&(struct x64_op){
			.map = X64_MAP_0F, .opcode = 0x77, .vex = true, .no_modrm = true },
		"c4 e1 78 77 ");
}

TEST(x64_says_when_it_is_full)
{
	u8 buf[3];
	struct x64 a = { .p = buf, .end = buf + sizeof buf };

	x64_mov_rr(&a, 0, 1);
	OK(!a.full);
	x64_ret(&a);
	OK(a.full);
}

static struct code_cache cache;
static struct err e;

/* flags in, flags out, through EFLAGS */
TEST(x64_flags_survive_a_round_trip)
{
	struct x64 a;
	u16 (*fn)(u64, u64, u64, u64);

	OK(cache_init(&cache, BYTES, &e) == 0);
	a = (struct x64){ .p = cache_reserve(&cache, 32) };
	a.end = a.p + 32;
	x64_mov_rr(&a, RAX, RDI);
	x64_flags_load(&a);
	x64_flags_store(&a);
	x64_ret(&a);
	fn = (u16(*)(u64, u64, u64, u64))cache_commit(&cache, 32);
	for (unsigned cc = 0; cc < 0x10000; cc++) /* bits 15-8: SF ZF 0 AF 0 PF 1 CF; bit 0: OF */
		if ((cc & 0x2afe) == 0x200)
			EQ(fn(cc, 0, 0, 0), cc);
	cache_free(&cache);
}

TEST(cache_flush_keeps_what_was_sealed)
{
	const u8 *kept, *gone;
	u32 gen;

	OK(cache_init(&cache, BYTES, &e) == 0);
	memset(cache_reserve(&cache, 5), 0xc3, 5);
	kept = cache_commit(&cache, 5);
	cache_seal(&cache);
	gone = cache_commit(&cache, BYTES - 16);
	OK(cache_reserve(&cache, 1) == NULL);
	gen = cache.gen;
	cache_flush(&cache);
	OK(cache.gen != gen);
	OK(cache_reserve(&cache, BYTES - 16) != NULL);
	OK(cache_commit(&cache, 1) == gone);
	EQ(*kept, 0xc3);
	cache_free(&cache);
	OK(cache.rw == NULL);
}

static struct stub_guard guard;

TEST(signal_fault_in_made_code_comes_back_as_a_vector)
{
	static const u8 ud2[] = { 0x0f, 0x0b }, movaps[] = { 0x0f, 0x28, 0x47, 0x01 }; /* [RDI+1] */
	static u8 operand[64] __attribute__((aligned(16)));
	const struct {
		const u8 *code;
		u32 len;
		u8 vector;
	} cases[] = {
		{ ud2, sizeof ud2, VECTOR_UD },
		{ movaps, sizeof movaps, VECTOR_GP },
	};

	OK(cache_init(&cache, BYTES, &e) == 0);
	OK(signal_guard_init(&guard, &e) == 0);
	guard.code = cache.rx;
	guard.len = cache.size;
	*cache_reserve(&cache, 1) = 0xc3;
	guard.resume = cache_commit(&cache, 1);
	signal_guard_enter(&guard);
	OK(signal_guard_current() == &guard);
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		memcpy(cache_reserve(&cache, 16), cases[i].code, cases[i].len);
		guard.trap = 0;
		((void (*)(void *))cache_commit(&cache, 16))(operand);
		EQ(guard.trap, cases[i].vector);
	}
	signal_guard_free(&guard);
	OK(signal_guard_current() == NULL);
	cache_free(&cache);
}
