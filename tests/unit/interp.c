/* interp.c - tests of tcg/interp.c, block.c, fast.c, step.c, exec_ctl.c, exec_str.c and tcg.c:
 * small programs as bytes, with what each must leave behind. */
/* clang-format off: machine code stands beside its source */
#include <unistd.h>

#include "../../tcg/engine.h"
#include "cpu_kit.h"

#define HLT 0xf4

/* --- running ------------------------------------------------------------------------------ */
TEST(interp_runs_a_loop_to_its_end)
{
	struct cpu_kit *k = cpu_kit_new();

	CODE(k, 0xb9, 0xa0, 0x86, 0x01, 0x00, /* mov ecx, 100000 */
	     0x31, 0xc0, /* xor eax, eax */
	     0x48, 0x01, 0xc8, /* 1: add rax, rcx */
	     0xff, 0xc9, /* dec ecx */
	     0x75, 0xf9, /* jnz 1b */
	     HLT);
	cpu_kit_run(k);
	EQ(k->s->gpr[RAX], 100000ull * 100001 / 2);
	EQ(k->s->rip, KIT_CODE + 15);
	EQ(k->c->stat_insns, 300003);
	cpu_kit_free(k);
}

TEST(interp_calls_and_returns_across_pages)
{
	struct cpu_kit *k = cpu_kit_new();
	static const u8 callee[] = { 0xff, 0xc0, 0xc3 }; /* inc eax; ret */

	memcpy(k->ram + KIT_CODE + 0x2005, callee, sizeof callee);
	CODE(k, 0xb9, 0xe8, 0x03, 0x00, 0x00, /* mov ecx, 1000 */
	     0x31, 0xc0, 0xe8, 0xf9, 0x1f, 0x00, 0x00, /* 1: call +0x2005 */
	     0xff, 0xc9, 0x75, 0xf7, /* jnz 1b */
	     HLT);
	cpu_kit_run(k);
	EQ(k->s->gpr[RAX], 1000);
	EQ(k->s->gpr[RSP], KIT_STACK);
	cpu_kit_free(k);
}

TEST(interp_real_mode_wraps_and_uses_segments)
{
	struct cpu_kit *k = cpu_kit_new();
	static const u8 code[] = {
		0xb8, 0x00, 0x20, /* mov ax, 0x2000 */
		0x8e, 0xd8, /* mov ds, ax */
		0xbb, 0xff, 0xff, /* mov bx, 0xffff */
		0x43, /* inc bx */
		0xc6, 0x07, 0x5a, /* mov byte [bx], 0x5a */
		0xb9, 0x05, 0x00, /* mov cx, 5 */
		0x40, /* 1: inc ax */
		0xe2, 0xfd, /* loop 1b */
		HLT,
	};

	cpu_kit_real(k);
	memcpy(k->ram + 0x7c00, code, sizeof code);
	cpu_kit_run(k);
	EQ(k->s->gpr[RBX], 0);
	EQ(k->ram[0x20000], 0x5a);
	EQ(k->s->gpr[RAX], 0x2005);
	cpu_kit_free(k);
}

TEST(interp_flat_32_bit_code_clears_nothing_it_should_not)
{
	struct cpu_kit *k = cpu_kit_new();

	cpu_kit_flat32(k);
	k->s->gpr[RAX] = 0x1234;
	CODE(k, 0x66, 0xb8, 0xff, 0xff, /* mov ax, 0xffff */
	     0x40, /* inc eax */
	     0x50, /* push eax */
	     0x8b, 0x1c, 0x24, /* mov ebx, [esp] */
	     0xb9, 0x03, 0x00, 0x00, 0x00, 0x01, 0xc8, 0x49, 0x75,
	     0xfb, /* 1: add eax, ecx; dec ecx; jnz 1b */
	     HLT);
	cpu_kit_run(k);
	EQ(k->s->gpr[RBX], 0x10000);
	EQ(k->s->gpr[RAX], 0x10006);
	EQ(k->s->gpr[RSP], KIT_STACK - 4);
	cpu_kit_free(k);
}

static void *pause_soon(void *arg)
{
	usleep(20000);
	vcpu_request(arg, VREQ_PAUSE);
	return NULL;
}

TEST(interp_a_request_ends_an_endless_loop)
{
	struct cpu_kit *k = cpu_kit_new();
	pthread_t t;

	CODE(k, 0xeb, 0xfe); /* jmp . */
	pthread_create(&t, NULL, pause_soon, k->vcpus[0]);
	EQ(tcg_engine.run(k->vcpus[0]), VEXIT_KICK);
	pthread_join(t, NULL);
	EQ(k->s->rip, KIT_CODE);
	cpu_kit_free(k);
}

TEST(interp_triple_fault_asks_for_a_reset)
{
	struct cpu_kit *k = cpu_kit_new();

	CODE(k, 0x0f, 0x0b); /* ud2, without an IDT */
	k->s->idt.limit = 0;
	EQ(tcg_engine.run(k->vcpus[0]), VEXIT_RESET);
	cpu_kit_free(k);
}

/* --- code that changes -------------------------------------------------------------------- */
TEST(interp_a_store_into_the_running_block_takes_effect_at_once)
{
	struct cpu_kit *k = cpu_kit_new();

	for (unsigned round = 0; round < 2; round++) {
		CODE(k, 0xc6, 0x05, 0x01, 0x00, 0x00, 0x00,
		     0x07, /* mov byte [rip+1], 7: the immediate */
		     0xb8, 0x01, 0x00, 0x00, 0x00, /* mov eax, 1 */
		     HLT);
		cpu_kit_run(k);
		EQ(k->s->gpr[RAX], 7);
	}
	cpu_kit_free(k);
}

TEST(interp_code_rewritten_again_and_again_is_never_stale)
{
	struct cpu_kit *k = cpu_kit_new();

	CODE(k, 0xb9, 0xe8, 0x03, 0x00, 0x00, /* mov ecx, 1000 */
	     0xbf, 0x00, 0x10, 0x02, 0x00, /* mov edi, DATA + 0x1000 */
	     0x31, 0xdb, 0xc6, 0x07, 0xb8, /* 1: mov byte [rdi], 0xb8 */
	     0x89, 0x4f, 0x01, /* mov [rdi+1], ecx */
	     0xc6, 0x47, 0x05, 0xc3, /* mov byte [rdi+5], 0xc3 */
	     0xff, 0xd7, /* call rdi */
	     0x48, 0x01, 0xc3, /* add rbx, rax */
	     0xff, 0xc9, 0x75, 0xed, /* dec ecx; jnz 1b */
	     HLT);
	cpu_kit_run(k);
	EQ(k->s->gpr[RBX], 1000 * 1001 / 2);
	OK(k->c->stat_invalidated >= 999);
	cpu_kit_free(k);
}

TEST(interp_data_beside_code_drops_no_block)
{
	struct cpu_kit *k = cpu_kit_new();

	CODE(k, 0xb9, 0xe8, 0x03, 0x00, 0x00, /* mov ecx, 1000 */
	     0x89, 0x0d, 0xf5, 0x00, 0x00, 0x00, /* 1: mov [rip+0xf5], ecx */
	     0xff, 0xc9, 0x75, 0xf6, HLT);
	cpu_kit_run(k);
	EQ(ld32(k->ram + KIT_CODE + 0x100), 1);
	EQ(k->c->stat_invalidated, 0);
	cpu_kit_free(k);
}

TEST(interp_code_written_by_a_device_is_decoded_again)
{
	struct cpu_kit *k = cpu_kit_new();
	static const u8 other = 9;

	CODE(k, 0xb8, 0x01, 0x00, 0x00, 0x00, HLT);
	cpu_kit_run(k);
	OK(mem_write(&k->mem, KIT_CODE + 1, &other, 1));
	k->s->rip = KIT_CODE;
	k->s->mp_state = MP_RUNNABLE;
	cpu_kit_run(k);
	EQ(k->s->gpr[RAX], 9);
	cpu_kit_free(k);
}

TEST(interp_a_remapped_page_runs_its_new_code)
{
	struct cpu_kit *k = cpu_kit_new();
	static const u8 two[] = { 0xb8, 0x02, 0x00, 0x00, 0x00, HLT };

	memcpy(k->ram + KIT_DATA, two, sizeof two);
	CODE(k, 0xb8, 0x01, 0x00, 0x00, 0x00, HLT);
	cpu_kit_run(k);
	cpu_kit_map(k, KIT_CODE, KIT_DATA, 7);
	k->s->rip = KIT_CODE;
	k->s->mp_state = MP_RUNNABLE;
	cpu_kit_run(k);
	EQ(k->s->gpr[RAX], 2);
	cpu_kit_free(k);
}

/* --- instructions that cross a page ------------------------------------------------------- */
static void put_crossing(struct cpu_kit *k)
{
	static const u8 code[] = { 0xb8, 0x11, 0x22, 0x33, 0x44, HLT };

	memcpy(k->ram + KIT_CODE + PAGE_SIZE - 3, code, sizeof code);
	k->s->rip = KIT_CODE + PAGE_SIZE - 3;
	k->s->mp_state = MP_RUNNABLE;
}

TEST(interp_an_instruction_may_cross_a_page)
{
	struct cpu_kit *k = cpu_kit_new();

	put_crossing(k);
	cpu_kit_run(k);
	EQ(k->s->gpr[RAX], 0x44332211);
	k->ram[KIT_CODE + PAGE_SIZE] = 0x55; /* its part in the second page */
	k->s->rip = KIT_CODE + PAGE_SIZE - 3;
	k->s->mp_state = MP_RUNNABLE;
	cpu_kit_run(k);
	EQ(k->s->gpr[RAX], 0x44552211);
	cpu_kit_free(k);
}

TEST(interp_a_crossing_instruction_faults_at_the_second_page)
{
	struct cpu_kit *k = cpu_kit_new();

	put_crossing(k);
	cpu_kit_map(k, KIT_CODE + PAGE_SIZE, 0, 0);
	EQ(cpu_kit_one(k), EXC_PF);
	EQ(k->c->exc.cr2, KIT_CODE + PAGE_SIZE);
	EQ(k->s->rip, KIT_CODE + PAGE_SIZE - 3);
	cpu_kit_free(k);
}

/* --- faults ------------------------------------------------------------------------------- */
TEST(interp_read_modify_write_faults_as_a_write)
{
	struct cpu_kit *k = cpu_kit_new();

	cpu_kit_map(k, KIT_DATA, KIT_DATA, 1);
	k->s->gpr[RDI] = KIT_DATA;
	k->s->gpr[RAX] = 1;
	k->c->cc = 0x200;
	CODE(k, 0x01, 0x07); /* add [rdi], eax */
	EQ(cpu_kit_one(k), EXC_PF);
	EQ(k->c->exc.error, PF_P | PF_W);
	EQ(k->c->cc, 0x200);
	EQ(k->s->rip, KIT_CODE);
	cpu_kit_free(k);
}

TEST(interp_a_push_that_faults_leaves_rsp)
{
	struct cpu_kit *k = cpu_kit_new();

	cpu_kit_map(k, KIT_STACK - PAGE_SIZE, 0, 0);
	CODE(k, 0x50);
	EQ(cpu_kit_one(k), EXC_PF);
	EQ(k->s->gpr[RSP], KIT_STACK);
	EQ(k->c->exc.cr2, KIT_STACK - 8);
	cpu_kit_free(k);
}

TEST(interp_divide_errors_are_caught_before_the_host_divides)
{
	struct cpu_kit *k = cpu_kit_new();

	k->s->gpr[RDX] = 5;
	k->s->gpr[RCX] = 5;
	CODE(k, 0x48, 0xf7, 0xf1); /* div rcx: the quotient needs 65 bits */
	EQ(cpu_kit_one(k), EXC_DE);
	k->c->exc.vector = EXC_NONE;
	k->s->gpr[RAX] = 1ull << 63;
	k->s->gpr[RDX] = ~0ull;
	k->s->gpr[RCX] = ~0ull;
	CODE(k, 0x48, 0xf7, 0xf9); /* idiv rcx: -2^63 / -1 */
	EQ(cpu_kit_one(k), EXC_DE);
	k->c->exc.vector = EXC_NONE;
	k->s->gpr[RCX] = 1;
	EQ(cpu_kit_one(k), EXC_NONE);
	EQ(k->s->gpr[RAX], 1ull << 63);
	EQ(k->s->gpr[RDX], 0);
	cpu_kit_free(k);
}

/* --- the stack's special cases ------------------------------------------------------------ */
TEST(interp_pop_addresses_memory_with_the_new_rsp)
{
	struct cpu_kit *k = cpu_kit_new();

	k->s->gpr[RSP] = KIT_STACK - 64;
	st64(k->ram + KIT_STACK - 64, 0x1122);
	CODE(k, 0x8f, 0x44, 0x24, 0x08, /* pop qword [rsp+8] */
	     0x54, /* push rsp: the old value */
	     0x58, /* pop rax */
	     0x5c, /* pop rsp: no increment after */
	     HLT);
	st64(k->ram + KIT_STACK - 56, 0x2f000);
	cpu_kit_run(k);
	EQ(ld64(k->ram + KIT_STACK - 48), 0x1122);
	EQ(k->s->gpr[RAX], KIT_STACK - 56);
	EQ(k->s->gpr[RSP], 0x2f000);
	cpu_kit_free(k);
}

TEST(interp_enter_copies_the_display)
{
	struct cpu_kit *k = cpu_kit_new();
	u64 outer = KIT_STACK - 0x100;

	k->s->gpr[RBP] = outer;
	st64(k->ram + outer - 8, 0xaaaa);
	CODE(k, 0xc8, 0x20, 0x00, 0x02, HLT); /* enter 32, 2 */
	cpu_kit_run(k);
	EQ(ld64(k->ram + KIT_STACK - 8), outer);
	EQ(ld64(k->ram + KIT_STACK - 16), 0xaaaa);
	EQ(ld64(k->ram + KIT_STACK - 24), KIT_STACK - 8);
	EQ(k->s->gpr[RBP], KIT_STACK - 8);
	EQ(k->s->gpr[RSP], KIT_STACK - 24 - 32);
	cpu_kit_free(k);
}

/* --- strings ------------------------------------------------------------------------------ */
static void strings(struct cpu_kit *k, u64 src, u64 dst, u64 n)
{
	k->s->gpr[RSI] = src;
	k->s->gpr[RDI] = dst;
	k->s->gpr[RCX] = n;
}

TEST(interp_rep_movs_fault_leaves_registers_at_the_element)
{
	struct cpu_kit *k = cpu_kit_new();

	memset(k->ram + KIT_DATA, 0x77, PAGE_SIZE);
	cpu_kit_map(k, KIT_DATA + 0x3000, 0, 0);
	strings(k, KIT_DATA + 2, KIT_DATA + 0x3000 - 20, 100);
	CODE(k, 0xf3, 0xa4, HLT); /* rep movsb */
	k->c->budget = BUDGET;
	EQ(cpu_kit_one(k), EXC_PF);
	EQ(k->s->gpr[RCX], 80);
	EQ(k->s->gpr[RSI], KIT_DATA + 22);
	EQ(k->s->gpr[RDI], KIT_DATA + 0x3000);
	EQ(k->c->exc.cr2, KIT_DATA + 0x3000);
	EQ(k->c->exc.error, PF_W);
	EQ(k->s->rip, KIT_CODE);
	EQ(k->ram[KIT_DATA + 0x2fff], 0x77);
	cpu_kit_free(k);
}

TEST(interp_overlapping_movs_repeats_bytes_upwards)
{
	struct cpu_kit *k = cpu_kit_new();

	memcpy(k->ram + KIT_DATA, "abc", 3);
	strings(k, KIT_DATA, KIT_DATA + 3, 9000);
	CODE(k, 0xf3, 0xa4, HLT);
	cpu_kit_run(k);
	for (unsigned i = 0; i < 9003; i++)
		EQ(k->ram[KIT_DATA + i], "abc"[i % 3]);
	EQ(k->s->gpr[RCX], 0);
	cpu_kit_free(k);
}

TEST(interp_movs_goes_downwards_with_df)
{
	struct cpu_kit *k = cpu_kit_new();

	for (unsigned i = 0; i < 64; i++)
		st32(k->ram + KIT_DATA + 4 * i, i);
	strings(k, KIT_DATA + 252, KIT_DATA + 260, 64);
	CODE(k, 0xfd, 0xf3, 0xa5, 0xfc, HLT); /* std; rep movsd; cld */
	cpu_kit_run(k);
	for (unsigned i = 0; i < 64; i++)
		EQ(ld32(k->ram + KIT_DATA + 8 + 4 * i), i);
	EQ(k->s->gpr[RSI], KIT_DATA - 4);
	cpu_kit_free(k);
}

/* Pages' ends, elements across them, areas that overlap either way: each against a loop. */
TEST(interp_movs_downwards_is_done_in_order)
{
	static const struct {
		u32 src, dst, n, size;
	} cases[] = { { 0x2fff, 0x3fff, 9000, 1 }, { 0x3100, 0x3103, 9000, 1 },
		      { 0x3103, 0x3100, 9000, 1 }, { 0x3ffd, 0x4001, 3000, 4 },
		      { 0x4001, 0x3ffd, 3000, 4 }, { 0x3ff8, 0x4ff8, 1500, 8 },
		      { 0x3ffc, 0x5ffa, 1500, 8 }, { 0x3ffe, 0x4ffe, 5000, 2 } };
	static u8 want[0x8000];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		u32 src = cases[i].src, dst = cases[i].dst, n = cases[i].n, size = cases[i].size;
		struct cpu_kit *k = cpu_kit_new();

		for (u32 at = 0; at < sizeof want; at++)
			want[at] = k->ram[KIT_DATA + at] = (u8)(at * 7 + (at >> 8));
		strings(k, KIT_DATA + src, KIT_DATA + dst, n);
		switch (size) {
		case 1: CODE(k, 0xfd, 0xf3, 0xa4, 0xfc, HLT); break;
		case 2: CODE(k, 0xfd, 0x66, 0xf3, 0xa5, 0xfc, HLT); break;
		case 4: CODE(k, 0xfd, 0xf3, 0xa5, 0xfc, HLT); break;
		default: CODE(k, 0xfd, 0xf3, 0x48, 0xa5, 0xfc, HLT); break;
		}
		cpu_kit_run(k);
		for (u32 e = 0; e < n; e++)
			memmove(want + dst - e * size, want + src - e * size, size);
		OK(memcmp(want, k->ram + KIT_DATA, sizeof want) == 0);
		EQ(k->s->gpr[RCX], 0);
		EQ(k->s->gpr[RSI], (u64)KIT_DATA + src - (u64)n * size);
		cpu_kit_free(k);
	}
}

TEST(interp_stos_crosses_pages_unaligned)
{
	struct cpu_kit *k = cpu_kit_new();

	strings(k, 0, KIT_DATA + 3, 2000);
	k->s->gpr[RAX] = 0x0807060504030201;
	CODE(k, 0xf3, 0x48, 0xab, HLT); /* rep stosq */
	cpu_kit_run(k);
	for (unsigned i = 0; i < 16000; i++)
		EQ(k->ram[KIT_DATA + 3 + i], i % 8 + 1);
	EQ(k->ram[KIT_DATA + 2], 0);
	EQ(k->ram[KIT_DATA + 3 + 16000], 0);
	EQ(k->s->gpr[RDI], KIT_DATA + 3 + 16000);
	cpu_kit_free(k);
}

TEST(interp_repe_cmps_stops_behind_the_difference)
{
	struct cpu_kit *k = cpu_kit_new();

	k->ram[KIT_DATA + 0x5000 + 4500] = 1;
	strings(k, KIT_DATA, KIT_DATA + 0x5000, 9000);
	CODE(k, 0xf3, 0xa6, HLT);
	cpu_kit_run(k);
	EQ(k->s->gpr[RCX], 9000 - 4501);
	EQ(k->s->gpr[RSI], KIT_DATA + 4501);
	OK(cc_test(k->c->cc, 2)); /* 0 - 1 borrows */
	OK(!cc_test(k->c->cc, 4));
	cpu_kit_free(k);
}

TEST(interp_repne_scas_finds_the_byte_and_zero_count_keeps_flags)
{
	struct cpu_kit *k = cpu_kit_new();

	k->ram[KIT_DATA + 5000] = 'x';
	strings(k, 0, KIT_DATA, 10000);
	k->s->gpr[RAX] = 'x';
	CODE(k, 0xf2, 0xae, HLT);
	cpu_kit_run(k);
	EQ(k->s->gpr[RDI], KIT_DATA + 5001);
	OK(cc_test(k->c->cc, 4));
	strings(k, 0, KIT_DATA, 0);
	CODE(k, 0xf2, 0xae, HLT);
	cpu_kit_run(k);
	EQ(k->s->gpr[RDI], KIT_DATA);
	OK(cc_test(k->c->cc, 4));
	cpu_kit_free(k);
}

TEST(interp_movs_over_code_drops_it)
{
	struct cpu_kit *k = cpu_kit_new();
	static const u8 old[] = { 0xb8, 1, 0, 0, 0, 0xc3 }, new[] = { 0xb8, 2, 0, 0, 0, 0xc3 };

	memcpy(k->ram + KIT_DATA, old, sizeof old);
	memcpy(k->ram + KIT_DATA + 0x1000, new, sizeof new);
	strings(k, KIT_DATA + 0x1000, KIT_DATA, 300);
	CODE(k, 0xba, 0x00, 0x00, 0x02, 0x00, /* mov edx, DATA */
	     0xff, 0xd2, /* call rdx */
	     0x89, 0xc3, /* mov ebx, eax */
	     0xf3, 0xa4, /* rep movsb */
	     0xff, 0xd2, HLT);
	cpu_kit_run(k);
	EQ(k->s->gpr[RBX], 1);
	EQ(k->s->gpr[RAX], 2);
	cpu_kit_free(k);
}

/* --- atomic accesses ---------------------------------------------------------------------- */
TEST(interp_locked_accesses_may_cross_a_page)
{
	struct cpu_kit *k = cpu_kit_new();

	st64(k->ram + KIT_DATA + 0xffc, 0x00000000ffffffff);
	k->s->gpr[RDI] = KIT_DATA + 0xffc;
	k->s->gpr[RDX] = 3;
	CODE(k, 0xf0, 0x48, 0xff, 0x07, /* lock inc qword [rdi] */
	     0xf0, 0x48, 0x0f, 0xc1, 0x17, /* lock xadd [rdi], rdx */
	     HLT);
	cpu_kit_run(k);
	EQ(ld64(k->ram + KIT_DATA + 0xffc), 0x100000003);
	EQ(k->s->gpr[RDX], 0x100000000);
	cpu_kit_free(k);
}

TEST(interp_cmpxchg_writes_and_sets_flags_either_way)
{
	struct cpu_kit *k = cpu_kit_new();

	k->s->gpr[RDI] = KIT_DATA;
	k->s->gpr[RAX] = 0xffffffff00000005;
	k->s->gpr[RCX] = 9;
	st32(k->ram + KIT_DATA, 5);
	CODE(k, 0xf0, 0x0f, 0xb1, 0x0f); /* lock cmpxchg [rdi], ecx */
	EQ(cpu_kit_one(k), EXC_NONE);
	OK(cc_test(k->c->cc, 4));
	EQ(ld32(k->ram + KIT_DATA), 9);
	EQ(k->s->gpr[RAX], 0xffffffff00000005); /* equal: rAX is not written */
	k->s->rip = KIT_CODE;
	EQ(cpu_kit_one(k), EXC_NONE);
	OK(!cc_test(k->c->cc, 4));
	EQ(k->s->gpr[RAX], 9);
	cpu_kit_free(k);
}

TEST(interp_cmpxchg16b_needs_alignment)
{
	struct cpu_kit *k = cpu_kit_new();

	k->s->gpr[RDI] = KIT_DATA + 8;
	CODE(k, 0xf0, 0x48, 0x0f, 0xc7, 0x0f);
	EQ(cpu_kit_one(k), EXC_GP);
	k->c->exc.vector = EXC_NONE;
	k->s->gpr[RDI] = KIT_DATA;
	k->s->gpr[RAX] = k->s->gpr[RDX] = 0;
	k->s->gpr[RBX] = 1;
	k->s->gpr[RCX] = 2;
	EQ(cpu_kit_one(k), EXC_NONE);
	EQ(ld64(k->ram + KIT_DATA), 1);
	EQ(ld64(k->ram + KIT_DATA + 8), 2);
	OK(cc_test(k->c->cc, 4));
	cpu_kit_free(k);
}

TEST(interp_bit_strings_reach_below_their_base)
{
	struct cpu_kit *k = cpu_kit_new();

	k->s->gpr[RDI] = KIT_DATA + 64;
	k->s->gpr[RAX] = (u64)-65;
	CODE(k, 0x48, 0x0f, 0xab, 0x07, HLT); /* bts [rdi], rax */
	cpu_kit_run(k);
	EQ(ld64(k->ram + KIT_DATA + 48), 1ull << 63);
	cpu_kit_free(k);
}

/* --- single steps and breakpoints --------------------------------------------------------- */
TEST(interp_tf_traps_after_one_instruction)
{
	struct cpu_kit *k = cpu_kit_new();

	k->s->rflags |= FL_TF;
	CODE(k, 0xff, 0xc0, 0xff, 0xc0);
	step_one(k->c);
	EQ(k->c->exc.vector, EXC_DB);
	OK(k->c->exc.trap);
	EQ(k->c->exc.dr6, 1 << 14);
	EQ(k->s->gpr[RAX], 1);
	cpu_kit_free(k);
}

TEST(interp_tf_stops_a_repeated_instruction_at_each_element)
{
	struct cpu_kit *k = cpu_kit_new();

	k->s->rflags |= FL_TF;
	strings(k, KIT_DATA, KIT_DATA + 0x1000, 3);
	CODE(k, 0xf3, 0xa4, HLT);
	step_one(k->c);
	EQ(k->c->exc.vector, EXC_DB);
	EQ(k->s->gpr[RCX], 2);
	EQ(k->s->rip, KIT_CODE);
	cpu_kit_free(k);
}

TEST(interp_breakpoints_on_code_fault_and_on_data_trap)
{
	struct cpu_kit *k = cpu_kit_new();

	k->s->gpr[RDI] = KIT_DATA + 2;
	k->s->dr[0] = KIT_CODE;
	k->s->dr[1] = KIT_DATA;
	k->s->dr[7] = 0x402 | 0x8 | 0xd << 20; /* G0: execution; G1: four bytes, written */
	CODE(k, 0x88, 0x07); /* mov [rdi], al */
	step_one(k->c);
	EQ(k->c->exc.vector, EXC_DB);
	OK(!k->c->exc.trap);
	EQ(k->c->exc.dr6, 1);
	k->c->exc.vector = EXC_NONE;
	k->s->rflags |= FL_RF; /* as the handler would return */
	step_one(k->c);
	EQ(k->c->exc.vector, EXC_DB);
	OK(k->c->exc.trap);
	EQ(k->c->exc.dr6, 2);
	OK(!(k->s->rflags & FL_RF));
	cpu_kit_free(k);
}

/* MOV SS from watched memory, TF set, then what the caller wrote. */
static void mov_ss_watched(struct cpu_kit *k, const u8 *next, size_t n)
{
	u8 code[8] = { 0x67, 0x8e, 0x17 }; /* mov ss, [edi] */

	memcpy(code + 3, next, n);
	cpu_kit_real(k);
	cpu_kit_code(k, code, sizeof code);
	k->s->rip = KIT_CODE & 0xffff;
	k->s->seg[SEG_CS].base = KIT_CODE & ~0xffff;
	k->s->gpr[RDI] = 0x7000;
	k->s->gpr[RSP] = 0x6000;
	k->s->dr[1] = 0x7000;
	k->s->dr[7] = 0x408 | 0xf << 20; /* G1: four bytes, any access */
	k->s->rflags = 2 | FL_TF;
	tcg_engine.push(k->vcpus[0]);
	step_one(k->c);
	EQ(k->c->exc.vector, EXC_NONE);
	step_one(k->c);
}

TEST(interp_watchpoint_of_mov_ss_is_reported_after_the_next_instruction)
{
	struct cpu_kit *k = cpu_kit_new();

	mov_ss_watched(k, (const u8[]){ 0x90 }, 1);
	EQ(k->c->exc.vector, EXC_DB);
	EQ(k->c->exc.dr6, 2 | 1 << 14); /* the step counted is that of NOP */
	k->c->exc.vector = EXC_NONE;
	mov_ss_watched(k, (const u8[]){ 0xcd, 0x01 }, 2);
	EQ(k->c->exc.vector, EXC_DB); /* in the handler of INT 1 */
	EQ(k->c->exc.dr6, 2);
	EQ(k->s->gpr[RSP], 0x5ffa);
	k->c->exc.vector = EXC_NONE;
	mov_ss_watched(k, (const u8[]){ 0xcc }, 1);
	EQ(k->c->exc.vector, EXC_BP);
	OK(exc_dispatch(k->c));
	step_one(k->c);
	EQ(k->c->exc.vector, EXC_DB);
	EQ(k->c->exc.dr6, 2);
	k->c->exc.vector = EXC_NONE;
	mov_ss_watched(k, (const u8[]){ 0xf1 }, 1);
	EQ(k->c->exc.vector, EXC_NONE); /* INT1 is the one #DB */
	EQ(k->s->gpr[RSP], 0x5ffa);
	cpu_kit_free(k);
}

TEST(interp_code_breakpoint_behind_mov_ss_is_the_vendors_choice)
{
	struct cpu_kit *k = cpu_kit_new();

	cpu_kit_real(k);
	CODE(k, 0x8e, 0xd0, 0x90); /* mov ss, ax */
	k->s->rip = 0;
	k->s->seg[SEG_CS].base = KIT_CODE;
	k->s->dr[0] = KIT_CODE + 2;
	k->s->dr[7] = 0x402;
	tcg_engine.push(k->vcpus[0]);
	step_one(k->c);
	EQ(k->c->exc.vector, EXC_NONE);
	step_one(k->c);
	EQ(k->c->exc.vector, cpuid_is_amd() ? EXC_DB : EXC_NONE);
	cpu_kit_free(k);
}

/* --- NMI ---------------------------------------------------------------------------------- */
TEST(interp_two_nmis_at_once_are_two_and_one_waits_behind_a_third)
{
	static const u8 handler[] = { 0xfe, 0x06, 0x00, 0x60, 0xcf }; /* inc byte [0x6000]; iret */
	struct cpu_kit *k = cpu_kit_new();

	cpu_kit_real(k);
	CODE(k, 0x90, 0xf4, 0xf4);
	k->s->rip = 0;
	k->s->seg[SEG_CS].base = KIT_CODE;
	k->s->seg[SEG_CS].sel = KIT_CODE >> 4;
	k->s->gpr[RSP] = 0x7000;
	st32(k->ram + 4 * 2, 0x5000);
	memcpy(k->ram + 0x5000, handler, sizeof handler);
	tcg_engine.push(k->vcpus[0]);
	vcpu_request(k->vcpus[0], VREQ_NMI);
	vcpu_request(k->vcpus[0], VREQ_NMI);
	cpu_kit_run(k);
	EQ(k->ram[0x6000], 2);
	k->s->nmi_blocked = 1;
	k->s->mp_state = MP_RUNNABLE;
	for (unsigned i = 0; i < 3; i++)
		vcpu_request(k->vcpus[0], VREQ_NMI);
	k->ram[0x5100] = 0xcf;
	k->s->gpr[RSP] -= 6; /* as if in a handler: IRET unblocks */
	st16(k->ram + k->s->gpr[RSP], 1);
	st16(k->ram + k->s->gpr[RSP] + 2, KIT_CODE >> 4);
	st16(k->ram + k->s->gpr[RSP] + 4, 2);
	k->s->seg[SEG_CS].base = 0;
	k->s->rip = 0x5100;
	tcg_engine.push(k->vcpus[0]);
	cpu_kit_run(k);
	EQ(k->ram[0x6000], 3);
	cpu_kit_free(k);
}

/* --- kicks -------------------------------------------------------------------------------- */
/* What a kick stores into the budget must not have the price of a dropped block added to it: the
 * guest would never be interrupted again. */
TEST(interp_a_block_that_cannot_be_paid_takes_nothing)
{
	struct cpu_kit *k = cpu_kit_new();
	struct block dear = { .insns = BLOCK_DEAD, .to = { &dear } };

	k->c->budget = BUDGET;
	OK(!block_pay(k->c, &dear));
	EQ(k->c->budget, BUDGET);
	tcg_hurry(k->c);
	EQ(link_slow(k->c, &dear, 0, 0x1234) == NULL, true);
	EQ(k->c->budget, BUDGET_GONE);
	EQ(k->s->rip, 0x1234);
	cpu_kit_free(k);
}

/* --- events of another engine ------------------------------------------------------------- */
TEST(interp_delivers_the_event_that_another_engine_had_begun)
{
	static const struct {
		u8 type, vector;
		bool comes;
	} row[] = {
		{ EVENT_EXTERNAL, 0x40, true }, { EVENT_NMI, 2, true },
		{ EVENT_EXCEPTION, EXC_PF, true },
		{ EVENT_EXCEPTION, EXC_BP, false }, { EVENT_SOFT, 0x40, false },
	};

	for (unsigned i = 0; i < ARRAY_LEN(row); i++) {
		struct cpu_kit *k = cpu_kit_new();

		cpu_kit_real(k);
		CODE(k, 0xf4);
		k->s->rip = 0;
		k->s->rflags = 2; /* the other engine has looked at IF */
		k->s->seg[SEG_CS].base = KIT_CODE;
		k->s->seg[SEG_CS].sel = KIT_CODE >> 4;
		k->s->gpr[RSP] = 0x7000;
		st32(k->ram + 4 * row[i].vector, 0x5000);
		/* inc [0x6000]; hlt */
		memcpy(k->ram + 0x5000, (u8[]){ 0xfe, 0x06, 0x00, 0x60, 0xf4 }, 5);
		k->s->event_valid = 1;
		k->s->event_type = row[i].type;
		k->s->event_vector = row[i].vector;
		tcg_engine.push(k->vcpus[0]);
		cpu_kit_run(k);
		EQ(k->ram[0x6000], row[i].comes);
		EQ(k->s->event_valid, 0);
		if (row[i].comes)
			EQ(ld16(k->ram + 0x7000 - 6), 0); /* returns to where it was */
		cpu_kit_free(k);
	}
}

/* --- for other engines -------------------------------------------------------------------- */
TEST(interp_steps_one_instruction_for_another_engine)
{
	struct cpu_kit *k = cpu_kit_new();
	struct vcpu other = { .env = &k->env };
	struct err e;
	struct tcg_foreign *f = tcg_foreign_new(&other, &e);

	CODE(k, 0x48, 0x01, 0xd8, /* add rax, rbx */
	     0x0f, 0x0b); /* ud2 */
	OK(f);
	tcg_engine.pull(k->vcpus[0]);
	other.s = *k->s;
	other.s.gpr[RAX] = ~0ull;
	other.s.gpr[RBX] = 1;
	EQ(tcg_step_foreign(f, &other), false);
	EQ(other.s.gpr[RAX], 0);
	EQ(other.s.rip, KIT_CODE + 3);
	EQ(other.s.rflags & FL_ARITH, FL_CF | FL_ZF | FL_PF | FL_AF);
	other.s.idt.limit = 0;
	EQ(tcg_step_foreign(f, &other), true); /* no IDT: a triple fault */
	tcg_foreign_free(f);
	cpu_kit_free(k);
}

/* --- a full cache ------------------------------------------------------------------------- */
TEST(interp_a_full_arena_is_swept_and_filled_again)
{
	struct cpu_kit *k = cpu_kit_new();

	/* 90,000 blocks of two instructions, each jumping on to the next: more than the arena
	 * holds. */
	for (unsigned i = 0; i < 9000; i++) {
		st32(k->ram + 0x40000 + i * 8, 0xebc0ff40); /* inc eax (with a REX); jmp +3 */
		k->ram[0x40000 + i * 8 + 4] = 3;
	}
	k->ram[0x40000 + 9000 * 8] = HLT;
	for (unsigned round = 0; round < 10; round++) {
		interp_invalidate(k->c, 0x40000, 0x20000);
		k->s->rip = 0x40000;
		k->s->mp_state = MP_RUNNABLE;
		cpu_kit_run(k);
	}
	EQ(k->s->gpr[RAX], 90000);
	OK(k->c->interp->stat_sweeps > 0);
	cpu_kit_free(k);
}
