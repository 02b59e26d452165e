/* trans_code.c - translated code whose bytes, pages or privilege change under it, and calls to
 * where there is none. */
#include "../../tcg/trans.h"
#include "cpu_kit.h"

TEST(trans_sees_code_that_the_guest_rewrites)
{
	struct cpu_kit *k = cpu_kit_new();
	u64 rax = 0;

	/* mov eax, 1; jmp +0; hlt */
	CODE(k, 0xb8, 1, 0, 0, 0, 0xeb, 0, 0xf4);
	cpu_kit_rounds(k, 3 * HEAT, &rax);
	EQ(rax, 1);
	OK(k->c->trans->stat.blocks > 0);
	k->ram[KIT_CODE + 1] = 2;
	interp_invalidate(k->c, KIT_CODE + 1, 1);
	cpu_kit_rounds(k, 1, &rax);
	EQ(rax, 2);
	cpu_kit_rounds(k, 3 * HEAT, &rax);
	EQ(rax, 2);
	cpu_kit_free(k);
}

TEST(trans_link_to_code_that_was_rewritten_is_cut)
{
	struct cpu_kit *k = cpu_kit_new();
	u64 rax = 0;

	/* jmp to 0x20: mov eax, 1; hlt */
	CODE(k, 0xeb, 0x1e);
	k->ram[KIT_CODE + 0x20] = 0xb8;
	st32(k->ram + KIT_CODE + 0x21, 1);
	k->ram[KIT_CODE + 0x25] = 0xf4;
	cpu_kit_rounds(k, 4 * HEAT, &rax);
	EQ(rax, 1);
	k->ram[KIT_CODE + 0x21] = 3;
	interp_invalidate(k->c, KIT_CODE + 0x21, 1);
	cpu_kit_rounds(k, 1, &rax);
	EQ(rax, 3);
	cpu_kit_free(k);
}

TEST(trans_user_code_does_not_find_the_supervisors_jumps)
{
	struct cpu_kit *k = cpu_kit_new();
	u64 rax = 0;

	/* mov ecx, 0x10010; jmp rcx ... 0x10: inc eax; hlt */
	CODE(k, 0xb9, 0x10, 0, 1, 0, 0xff, 0xe1);
	k->ram[KIT_CODE + 0x10] = 0xff;
	k->ram[KIT_CODE + 0x11] = 0xc0;
	k->ram[KIT_CODE + 0x12] = 0xf4;
	cpu_kit_rounds(k, 4 * HEAT, &rax);
	EQ(rax, 1);
	/* The same addresses, for a user who may not see the page. */
	*(u64 *)(k->ram + KIT_TABLES + 0x3000 + (KIT_CODE >> 12) * 8) &= ~4ull;
	mmu_flush_all(k->c);
	cpu_kit_rounds(k, 1, &rax);
	k->s->seg[SEG_SS].attr |= 3 << 5;
	k->s->seg[SEG_CS].attr |= 3 << 5;
	k->s->seg[SEG_CS].sel = 8 | 3;
	seg_refresh(k->c);
	k->s->rip = KIT_CODE;
	k->s->mp_state = MP_RUNNABLE;
	cpu_kit_go(k);
	EQ(k->c->exc.vector, EXC_PF);
	EQ(k->s->rip, KIT_CODE);
	cpu_kit_free(k);
}

/* Nor by an address that becomes one of them under the key that keeps them apart. */
TEST(trans_user_code_jumps_to_no_address_but_its_own)
{
	struct cpu_kit *k = cpu_kit_new();

	CODE(k, 0xff, 0xe1); /* jmp rcx */
	memcpy(k->ram + KIT_CODE + 0x10, (const u8[]){ 0xff, 0xc0, 0xf4 }, 3); /* inc eax; hlt */
	k->s->gpr[RCX] = KIT_CODE + 0x10;
	for (unsigned bit = 0; bit < 64; bit++) {
		u64 rax = 0;

		k->s->seg[SEG_SS].attr &= ~(u32)ATTR_DPL;
		seg_refresh(k->c);
		k->s->gpr[RCX] = KIT_CODE + 0x10;
		cpu_kit_rounds(k, 2 * HEAT, &rax);
		EQ(rax, 1);
		k->s->seg[SEG_SS].attr |= ATTR_DPL;
		seg_refresh(k->c);
		k->s->rip = KIT_CODE;
		k->s->gpr[RCX] = (KIT_CODE + 0x10) ^ 1ull << bit;
		k->s->gpr[RAX] = 0;
		k->s->mp_state = MP_RUNNABLE;
		if (bit >= 21) { /* beyond what is mapped */
			cpu_kit_go(k);
			OK(k->c->exc.vector == EXC_PF || k->c->exc.vector == EXC_GP);
			EQ(k->s->gpr[RAX], 0);
			k->c->exc.vector = EXC_NONE;
		}
	}
	cpu_kit_free(k);
}

TEST(trans_runs_an_instruction_that_crosses_a_page_and_sees_it_change)
{
	struct cpu_kit *k = cpu_kit_new();
	u64 rax = 0;

	/* jmp to the end of the page: mov eax, imm32 over the border; hlt */
	CODE(k, 0xe9, 0xf8, 0x0f, 0, 0);
	k->ram[KIT_CODE + 0xffd] = 0xb8;
	st32(k->ram + KIT_CODE + 0xffe, 0x11223344);
	k->ram[KIT_CODE + 0x1002] = 0xf4;
	cpu_kit_rounds(k, 4 * HEAT, &rax);
	EQ(rax, 0x11223344);
	k->ram[KIT_CODE + 0x1001] = 0x55;
	cpu_kit_rounds(k, 2, &rax);
	EQ(rax, 0x55223344);
	cpu_kit_rounds(k, 3 * HEAT, &rax);
	k->ram[KIT_CODE + 0xffe] = 0x66; /* in the first page */
	cpu_kit_rounds(k, 2, &rax);
	EQ(rax, 0x55223366);
	cpu_kit_free(k);
}

/* --- stores to pages with code ---------------------------------------------------------------- */
/* One store to page offset `at`, made by translated code that lies elsewhere. */
static void store_beside(struct cpu_kit *k, unsigned at, unsigned times)
{
	k->s->gpr[RDI] = KIT_DATA + at;
	k->s->gpr[RCX] = times;
	k->s->rip = KIT_CODE;
	k->s->mp_state = MP_RUNNABLE;
	cpu_kit_go(k);
	EQ(k->c->exc.vector, EXC_NONE);
}

TEST(trans_stores_beside_code_and_into_it)
{
	struct cpu_kit *k = cpu_kit_new();
	const u64 *data = (const u64 *)(k->ram + KIT_DATA);
	u64 dropped;

	/* mov [rdi], rcx; dec ecx; jmp over; (over:) jnz back; hlt */
	CODE(k, 0x48, 0x89, 0x0f, 0xff, 0xc9, 0xeb, 0, 0x75, 0xf7, 0xf4);
	memcpy(k->ram + KIT_DATA + 2 * GRANULE, "\xb0\x07\xf4", 3); /* mov al, 7; hlt */
	store_beside(k, 0, 4 * HEAT);
	OK(k->c->trans->stat.blocks > 0);
	k->s->rip = KIT_DATA + 2 * GRANULE;
	k->s->mp_state = MP_RUNNABLE;
	cpu_kit_go(k);
	dropped = k->c->stat_invalidated;
	store_beside(k, 8, 300); /* another granule, then one half of a store, then all of it */
	EQ(data[1], 1);
	EQ(k->c->stat_invalidated, dropped);
	store_beside(k, 2 * GRANULE - 8, 300);
	EQ(k->c->stat_invalidated, dropped);
	store_beside(k, 2 * GRANULE - 7, 1);
	EQ(k->c->stat_invalidated, dropped + 1);
	EQ(ld64(k->ram + KIT_DATA + 2 * GRANULE - 7), 1);
	cpu_kit_free(k);
}

TEST(trans_page_written_anew_loses_its_code_at_once_and_new_code_is_seen)
{
	enum { FUNCTIONS = 20, ROUNDS_OF_CODE = 4 };
	struct cpu_kit *k = cpu_kit_new();
	u64 before;

	/* mov [rdi], rax; hlt */
	CODE(k, 0x48, 0x89, 0x07, 0xf4);
	for (unsigned round = 0; round < ROUNDS_OF_CODE; round++) {
		before = k->c->stat_invalidated;
		for (unsigned f = 0; f < FUNCTIONS; f++) { /* mov eax, n; hlt */
			k->s->gpr[RAX] = 0xb8 | (u64)(round * 100 + f) << 8 | (u64)0xf4 << 40;
			store_beside(k, f * GRANULE, 1);
		}
		EQ(k->c->stat_invalidated, before + (round ? FUNCTIONS : 0));
		for (unsigned f = 0; f < FUNCTIONS; f++) {
			k->s->rip = KIT_DATA + f * GRANULE;
			k->s->mp_state = MP_RUNNABLE;
			cpu_kit_go(k);
			EQ(k->s->gpr[RAX], round * 100 + f);
		}
		/* so the page has code again, though it had none after the ninth store */
		OK(code_map_hit(k->c->code, KIT_DATA, PAGE_SIZE));
	}
	cpu_kit_free(k);
}

/* --- indirect calls --------------------------------------------------------------------------- */
TEST(trans_call_to_a_bad_address_pushes_nothing)
{
	struct cpu_kit *k = cpu_kit_new();
	struct cpu_state *s = k->s;

	/* call rax; mov qword [rsp - 8], 5ah; dec ecx; cmovz rax, rbx; jmp back */
	CODE(k, 0xff, 0xd0, 0x48, 0xc7, 0x44, 0x24, 0xf8, 0x5a, 0, 0, 0, 0xff, 0xc9, 0x48, 0x0f,
	     0x44, 0xc3, 0xeb, 0xed, 0xc3 /* ret */);
	s->gpr[RAX] = KIT_CODE + 19;
	s->gpr[RBX] = 1ull << 47;
	s->gpr[RCX] = 4 * HEAT;
	cpu_kit_go(k);
	EQ(k->c->exc.vector, EXC_GP);
	EQ(s->rip, KIT_CODE);
	EQ(s->gpr[RSP], KIT_STACK);
	EQ(ld64(k->ram + KIT_STACK - 8), 0x5a);
	OK(k->c->trans->stat.enters > 0);
	cpu_kit_free(k);
}

TEST(trans_call_reads_its_target_from_where_it_pushes)
{
	struct cpu_kit *k = cpu_kit_new();
	struct cpu_state *s = k->s;
	static const u8 callee[] = { 0xff, 0xc3, 0xc3 }; /* inc ebx; ret */

	/* mov [rsp - 8], rdx; invlpg [rdx]; call [rax]; dec ecx; jnz back; hlt */
	CODE(k, 0x48, 0x89, 0x54, 0x24, 0xf8, 0x0f, 0x01, 0x3a, 0xff, 0x10, 0xff, 0xc9, 0x75, 0xf2,
	     0xf4);
	memcpy(k->ram + KIT_CODE + PAGE_SIZE, callee, sizeof callee);
	s->gpr[RAX] = KIT_STACK - 8;
	s->gpr[RBX] = 0;
	s->gpr[RCX] = 8 * HEAT;
	s->gpr[RDX] = KIT_CODE + PAGE_SIZE;
	cpu_kit_run(k);
	EQ(s->gpr[RBX], 8 * HEAT);
	OK(k->c->trans->stat.enters > 0);
	cpu_kit_free(k);
}
