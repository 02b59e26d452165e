/* trans32.c - the translator on 32-bit code, against the interpreter: what is not the same as in
 * 64-bit code.  Random programs are the oracle's business. */
#include "../../tcg/native.h"
#include "../../tcg/trans.h"
#include "cpu_kit.h"

enum { TOP_RAM = 0x40000 }; /* where the last linear page below 4 GiB is */

struct pair {
	struct cpu_kit *k[2]; /* the second without a translator */
};

/* Compatibility mode: the kit's page tables, a 32-bit code segment; and the last page below 4 GiB.
 */
static void narrow(struct cpu_kit *k)
{
	u64 *table = (u64 *)(k->ram + KIT_TABLES);

	for (unsigned i = 0; i < 2; i++) {
		u64 *at = (u64 *)(k->ram + KIT_TABLES + 0x10000) + 512 * i;

		at[511] = (i ? TOP_RAM : KIT_TABLES + 0x11000) | 7;
	}
	table[512 + 3] = (KIT_TABLES + 0x10000) | 7;
	k->s->seg[SEG_CS].attr = 0xb | ATTR_S | ATTR_P | ATTR_DB | ATTR_G;
	tcg_engine.push(k->vcpus[0]);
	EQ(k->c->mode, MODE_32);
}

static struct pair pair_new(void)
{
	struct pair p = { { cpu_kit_new(), cpu_kit_new() } };

	trans_free(p.k[1]->c);
	narrow(p.k[0]);
	narrow(p.k[1]);
	return p;
}

static void pair_free(struct pair *p)
{
	cpu_kit_free(p->k[0]);
	cpu_kit_free(p->k[1]);
}

/* Until HLT or a fault. */
static void go(struct cpu_kit *k)
{
	native_thread_init(k->c);
	k->s->rip = KIT_CODE;
	k->s->mp_state = MP_RUNNABLE;
	k->c->exc.vector = EXC_NONE;
	while (k->c->exc.vector == EXC_NONE && k->s->mp_state == MP_RUNNABLE) {
		k->c->budget = BUDGET;
		interp_run(k->c);
	}
}

static void put_code(struct pair *p, const void *code, size_t n)
{
	for (unsigned i = 0; i < 2; i++) {
		interp_invalidate(p->k[i]->c, KIT_CODE, 4096);
		cpu_kit_code(p->k[i], code, n);
	}
}

/* From the same registers; they, memory and faults must agree. */
static void compare(struct pair *p, const u32 *gpr)
{
	struct tcg_cpu *a = p->k[0]->c, *b = p->k[1]->c;

	for (unsigned i = 0; i < 2; i++) {
		for (unsigned r = 0; r < 8; r++)
			p->k[i]->s->gpr[r] = gpr[r];
		p->k[i]->c->cc = 0x200;
		go(p->k[i]);
	}
	EQ(a->exc.vector, b->exc.vector);
	EQ(a->v.s.rip, b->v.s.rip);
	for (unsigned r = 0; r < 8; r++)
		EQ(a->v.s.gpr[r], b->v.s.gpr[r]);
	OK(a->exc.vector != EXC_NONE || a->cc == b->cc);
	OK(!memcmp(p->k[0]->ram, p->k[1]->ram, KIT_TABLES));
}

static u8 pick(const char *of)
{
	return (u8)of[test_random() % strlen(of)];
}

/* A loop of ECX runs of ADD [EBX + ESI << scale + disp], EAX and the like, which ESI, a stranger to
 * the count, runs through: up or down, and past 0. */
TEST(trans32_index_that_wraps_in_a_loop_is_seen)
{
	struct pair p = pair_new();

	for (unsigned i = 0; i < 4000; i++) {
		u8 scale = (u8)(test_random() % 4), step = (u8)(test_random() % 9) - 4;
		u8 modrm = 0x44 | (u8)(test_random() % 2 ? 0 : RDX << 3),
		   sib = (u8)(scale << 6 | RSI << 3 | RBX);
		u8 code[] = {
			0xbd, 40, 0, 0, 0, /* mov ebp, 40 */
			0xbf, 0, 0, 0, 0, /* mov edi, start */
			0xb9, 0, 0, 0, 0, /* mov ecx, runs */
			0x89, 0xfe, /* mov esi, edi */
			pick("\x01\x03\x8b\x89"), modrm, sib, 0, /* op [ebx + esi << scale + x] */
			0x83, 0xc6, step, /* add esi, step */
			pick("\x01\x03\x31"), 0x54, sib, 8,
			0x49, 0x75, 0xf2, /* dec ecx; jnz */
			0x4d, 0x75, 0xe3, /* dec ebp; jnz */
			0xf4
		};
		u32 runs = 1 + (u32)(test_random() % 60),
		    gpr[8] = { 1, 0, 2, KIT_DATA + 0x800, KIT_STACK };

		st32(code + 6, (u32)(test_random() % 80 - 40));
		if (test_random() % 4 == 0) {
			gpr[RBX] = 0x80000000 - (0x7fffff00u << scale) + KIT_DATA + 0x800;
			st32(code + 6, 0x7fffff00u + (0x80000000u >> scale));
		}
		if (test_random() % 8 == 0)
			gpr[RBX] = 0xfffffff0 + (u32)(test_random() % 64);
		st32(code + 11, runs);
		put_code(&p, code, sizeof code);
		compare(&p, gpr);
	}
	OK(p.k[0]->c->trans->stat.loops > 100);
	pair_free(&p);
}

TEST(trans32_repeated_strings_agree_with_the_interpreter)
{
	struct pair p = pair_new();
	u64 entered;

	for (unsigned i = 0; i < 300; i++) {
		u8 code[] = {
			0x4d, 0x75, 3, 0xf4, 0x90, 0x90, /* dec ebp; jnz; hlt */
			0xb9, 0, 0, 0, 0, 0xbe, 0, 0, 0, 0, 0xbf, 0, 0, 0, 0, 0xfc, 0x90,
			pick("\xf3\x90"),
			pick("\xa4\xa5\xaa\xab"), 0xeb, (u8)-27
		};
		u32 at = (u32)(test_random() % 2 ? KIT_DATA + 0xf00 : -0x80);
		u32 gpr[8] = { (u32)test_random(), 0, 0, 0, KIT_STACK, 2 * HEAT };

		st32(code + 7, (u32)(test_random() % 300));
		st32(code + 12, at + (u32)(test_random() % 256));
		st32(code + 17, (u32)(test_random() % 8 ? KIT_DATA + 0x2000 : -0x40) +
					(u32)(test_random() % 64));
		code[21] = test_random() % 8 ? 0xfc : 0xfd;
		put_code(&p, code, sizeof code);
		compare(&p, gpr);
	}
	entered = p.k[0]->c->trans->stat.enters;
	OK(entered > 300);
	pair_free(&p);
}

/* The last bytes of 4 GiB and the first: a run of bytes, a load, a push, code. */
TEST(trans32_addresses_go_round_at_4_gib)
{
	struct pair p = pair_new();
	const u8 code[] = {
		0xbd, 3 * HEAT, 0, 0, 0, /* mov ebp, n */
		0xb9, 0x20, 0, 0, 0, 0xbf, 0xf0, 0xff, 0xff, 0xff, 0xf3, 0xaa,
		0x8b, 0x1d, 0xfe, 0xff, 0xff, 0xff, /* mov ebx, [-2] */
		0xbc, 2, 0, 0, 0, 0x53, 0x59, /* mov esp, 2; push; pop */
		0xbe, 8, 0, 0, 0, 0x8b, 0x94, 0xb7, 0xb0, 0xff, 0xff, 0xff, /* [edi+esi*4-80] */
		0x40, 0x4d, 0x75, 0xd7, 0xf4 /* inc eax; dec ebp; jnz */
	};

	put_code(&p, code, sizeof code);
	compare(&p, (const u32[8]){ 0x11223344 });
	EQ(p.k[0]->c->exc.vector, EXC_NONE);
	EQ(p.k[0]->ram[0xf], p.k[0]->ram[TOP_RAM + 0xfff]);
	OK(p.k[0]->c->trans->stat.blocks > 0);
	pair_free(&p);
}

/* The same bytes, hot in one mode and then in the other: 48 FF C0 is INC RAX, or DEC EAX, INC EAX.
 */
TEST(trans32_stack_by_a_register_that_wraps_is_the_stack)
{
	struct pair p = pair_new();
	const u8 code[] = {
		0xbd, 3 * HEAT, 0, 0, 0, /* mov ebp, n */
		0x50, 0x55, 0x8d, 0x9c, 0x24, 0, 0, 0, 0x80, /* push; push; lea ebx, [esp+2^31] */
		0x8d, 0x9c, 0x1b, 0, 0, 0, 0xc0, /* lea ebx, [ebx+ebx-2^30] */
		0x8d, 0x94, 0x24, 0, 0, 0, 0xc0, /* lea edx, [esp-2^30] */
		0x89, 0x8a, 4, 0, 0, 0x40, /* mov [edx+2^30+4], ecx */
		0x5d, 0x5e, 0x41, 0x4d, 0x75, 0xdd, 0xf4 /* pop; pop; inc ecx; dec ebp; jnz */
	};

	put_code(&p, code, sizeof code);
	compare(&p, (const u32[8]){ [RSP] = KIT_STACK });
	EQ(p.k[0]->c->exc.vector, EXC_NONE);
	OK(p.k[0]->c->trans->stat.enters > 0);
	pair_free(&p);
}

TEST(trans32_code_is_not_taken_for_64_bit_code)
{
	struct cpu_kit *k = cpu_kit_new();

	CODE(k, 0x31, 0xc0, 0xb9, 0x10, 0, 1, 0, 0xff,
	     0xe1); /* xor eax, eax; mov ecx, 0x10010; jmp */
	memcpy(k->ram + KIT_CODE + 0x10, (const u8[]){ 0x48, 0xff, 0xc0, 0xf4 }, 4);
	for (unsigned i = 0; i < 12 * HEAT; i++) {
		bool wide = i / (2 * HEAT) % 2;

		k->s->seg[SEG_CS].attr = 0xb | ATTR_S | ATTR_P | ATTR_G | (wide ? ATTR_L : ATTR_DB);
		seg_refresh(k->c);
		go(k);
		EQ(k->s->gpr[RAX], wide);
	}
	EQ(k->c->trans->stat.blocks, 4);
	cpu_kit_free(k);
}

/* Where a segment ends, or does not begin at 0, hot code for flat ones is not used. */
TEST(trans32_segments_that_are_not_flat_are_honoured)
{
	static const struct {
		u8 seg;
		u32 base, limit;
		u8 vector;
		u32 value;
	} t[] = {
		{ SEG_DS, 0, 0xffffffff, EXC_NONE, 1 }, { SEG_DS, 0x1000, 0xffffffff, EXC_NONE, 2 },
		{ SEG_DS, 0, KIT_DATA + 2, EXC_GP, 0 }, { SEG_SS, 0, 0xfff, EXC_SS, 0 },
		{ SEG_ES, 0, KIT_DATA, EXC_NONE, 1 },	{ SEG_FS, 0x1000, 0xffffffff, EXC_NONE, 1 },
		{ SEG_FS, 0, 0xfff, EXC_GP, 0 },	{ SEG_CS, 0, 0xfffff, EXC_NONE, 1 },
		{ SEG_CS, 0, KIT_CODE + 4, EXC_GP, 0 },
	};
	struct cpu_kit *k = cpu_kit_new();
	struct seg_reg flat[SEG_NR];

	/* push eax; pop eax; mov eax, [KIT_DATA]; mov ecx, fs:[KIT_DATA]; xor ecx, fs:[...]; hlt */
	CODE(k, 0x50, 0x58, 0xa1, 0, 0, 2, 0, 0x64, 0x8b, 0x0d, 0, 0, 2, 0, 0x64, 0x33, 0x0d, 0, 0,
	     2, 0, 0xf4);
	st32(k->ram + KIT_DATA, 1);
	st32(k->ram + KIT_DATA + 0x1000, 2);
	narrow(k);
	memcpy(flat, k->s->seg, sizeof flat);
	for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
		for (unsigned n = 0; n < 3 * HEAT; n++)
			go(k);
		EQ(k->c->exc.vector, EXC_NONE);
		EQ(k->s->gpr[RCX], 0);
		k->s->seg[t[i].seg].base = t[i].base;
		k->s->seg[t[i].seg].limit = t[i].limit;
		seg_refresh(k->c);
		for (unsigned n = 0; n < 3 * HEAT; n++) {
			k->s->gpr[RAX] = 0;
			go(k);
			EQ(k->c->exc.vector, t[i].vector);
			EQ(k->s->gpr[RAX], t[i].seg == SEG_FS ? 1 : t[i].value);
		}
		memcpy(k->s->seg, flat, sizeof flat);
		seg_refresh(k->c);
	}
	OK(k->c->trans->stat.blocks > 0);
	cpu_kit_free(k);
}

/* What 64-bit code left above bit 31 is no part of an address. */
TEST(trans32_upper_halves_do_not_count)
{
	struct cpu_kit *k = cpu_kit_new();

	/* mov eax, [ebx + esi * 4]; push eax; mov edi, 0x21000; mov ecx, 4; rep stosb; mov ebx,
	 * [esp]; hlt */
	CODE(k, 0x8b, 0x04, 0xb3, 0x50, 0xbf, 0, 0x10, 2, 0, 0xb9, 4, 0, 0, 0, 0xf3, 0xaa, 0x8b,
	     0x1c, 0x24, 0xf4);
	st32(k->ram + KIT_DATA + 8, 0x01010101);
	narrow(k);
	for (unsigned i = 0; i < 3 * HEAT; i++) {
		st32(k->ram + KIT_DATA + 0x1000, 0);
		k->s->gpr[RBX] = test_random() << 32 | KIT_DATA;
		k->s->gpr[RSI] = test_random() << 32 | 2;
		k->s->gpr[RSP] = test_random() << 32 | KIT_STACK;
		go(k);
		EQ(k->c->exc.vector, EXC_NONE);
		EQ(ld32(k->ram + KIT_DATA + 0x1000), 0x01010101);
		EQ(k->s->gpr[RBX], 0x01010101);
		EQ((u32)k->s->gpr[RSP], KIT_STACK - 4);
	}
	OK(k->c->trans->stat.blocks > 0);
	cpu_kit_free(k);
}
