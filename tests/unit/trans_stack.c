/* trans_stack.c - pushes and pops by the remembered write entry of the stack's page, when that
 * goes. */
#include "../../tcg/trans.h"
#include "cpu_kit.h"

enum { PAGE_AT = KIT_STACK - PAGE_SIZE, OTHER_PAGE = KIT_DATA };

/* push rax; mov rcx, [rsp]; pop rbx; hlt: translated, and the stack's page remembered */
static struct cpu_kit *kit_warm(void)
{
	struct cpu_kit *k = cpu_kit_new();
	u64 rax;

	CODE(k, 0x50, 0x48, 0x8b, 0x0c, 0x24, 0x5b, 0xf4);
	cpu_kit_rounds(k, 4 * HEAT, &rax);
	OK(k->c->trans->stat.blocks > 0);
	EQ(k->c->top.stack.tag, PAGE_AT);
	return k;
}

static void push_pop(struct cpu_kit *k, u64 value)
{
	k->s->gpr[RAX] = value;
	k->s->rip = KIT_CODE;
	k->s->mp_state = MP_RUNNABLE;
	cpu_kit_go(k);
}

static void by_invlpg(struct cpu_kit *k)
{
	mmu_flush_page(k->c, PAGE_AT);
}

static void by_cr3(struct cpu_kit *k)
{
	OK(mmu_set_cr3(k->c, k->s->cr3));
}

static void by_invpcid_address(struct cpu_kit *k)
{
	OK(mmu_invpcid(k->c, 0, 0, PAGE_AT));
}

static void by_invpcid_context(struct cpu_kit *k)
{
	OK(mmu_invpcid(k->c, 1, 0, 0));
}

static void by_flush(struct cpu_kit *k)
{
	mmu_flush_all(k->c);
}

TEST(trans_stack_moves_with_its_page)
{
	static void (*const ways[])(struct cpu_kit *) = { by_invlpg, by_cr3, by_invpcid_address,
							  by_invpcid_context, by_flush };

	for (unsigned i = 0; i < ARRAY_LEN(ways); i++) {
		struct cpu_kit *k = kit_warm();
		u64 *pte = (u64 *)(k->ram + KIT_TABLES + 0x3000) + (PAGE_AT >> 12);

		*pte = OTHER_PAGE | 7;
		ways[i](k);
		push_pop(k, 0x1234);
		EQ(k->c->exc.vector, EXC_NONE);
		EQ(k->s->gpr[RBX], 0x1234);
		EQ(k->s->gpr[RCX], 0x1234);
		EQ(ld64(k->ram + OTHER_PAGE + PAGE_SIZE - 8), 0x1234);
		EQ(ld64(k->ram + KIT_STACK - 8), 0);
		*pte = OTHER_PAGE | 5; /* read-only */
		ways[i](k);
		push_pop(k, 0x5678);
		EQ(k->c->exc.vector, EXC_PF);
		EQ(k->s->rip, KIT_CODE);
		EQ(ld64(k->ram + OTHER_PAGE + PAGE_SIZE - 8), 0x1234);
		cpu_kit_free(k);
	}
}

TEST(trans_stack_that_may_only_be_read_is_read)
{
	struct cpu_kit *k = cpu_kit_new();
	u64 rax;

	/* mov rax, [rsp - 16]; add rax, [rsp - 8]; hlt */
	CODE(k, 0x48, 0x8b, 0x44, 0x24, 0xf0, 0x48, 0x03, 0x44, 0x24, 0xf8, 0xf4);
	st64(k->ram + KIT_STACK - 8, 5);
	st64(k->ram + KIT_STACK - 16, 7);
	cpu_kit_map(k, PAGE_AT, PAGE_AT, 5);
	cpu_kit_rounds(k, 4 * HEAT, &rax);
	OK(k->c->trans->stat.blocks > 0);
	EQ(rax, 12);
	OK(k->c->top.stack.tag != PAGE_AT);
	cpu_kit_free(k);
}

TEST(trans_stack_of_the_supervisor_is_not_the_users)
{
	struct cpu_kit *k = kit_warm();

	*((u64 *)(k->ram + KIT_TABLES + 0x3000) + (PAGE_AT >> 12)) &= ~4ull;
	mmu_flush_all(k->c);
	push_pop(k, 1);
	EQ(k->c->exc.vector, EXC_NONE);
	EQ(k->c->top.stack.tag, PAGE_AT);
	k->s->seg[SEG_SS].attr |= 3 << 5;
	k->s->seg[SEG_CS].attr |= 3 << 5;
	k->s->seg[SEG_CS].sel = 8 | 3;
	seg_refresh(k->c);
	push_pop(k, 2);
	EQ(k->c->exc.vector, EXC_PF);
	EQ(k->s->rip, KIT_CODE);
	EQ(ld64(k->ram + KIT_STACK - 8), 1);
	cpu_kit_free(k);
}

TEST(trans_stack_on_a_page_with_code_changes_the_code)
{
	enum { CODE_AT = PAGE_AT + 0x800 };
	struct cpu_kit *k = kit_warm();

	memcpy(k->ram + CODE_AT, "\xbb\x07\0\0\0\xf4", 6); /* mov ebx, 7; hlt */
	k->s->rip = CODE_AT;
	k->s->mp_state = MP_RUNNABLE;
	cpu_kit_go(k);
	EQ(k->s->gpr[RBX], 7);
	k->s->gpr[RSP] = CODE_AT + 8;
	push_pop(k, 0xf400000009bb); /* mov ebx, 9; hlt */
	EQ(k->s->gpr[RBX], 0xf400000009bb);
	k->s->rip = CODE_AT;
	k->s->mp_state = MP_RUNNABLE;
	cpu_kit_go(k);
	EQ(k->s->gpr[RBX], 9);
	cpu_kit_free(k);
}

TEST(trans_stack_pointer_that_is_not_canonical_or_crosses_a_page)
{
	static const u64 bad[] = { 1ull << 47, 1ull << 62, 1ull << 63, 0xdeadbeef00000000 };
	struct cpu_kit *k = kit_warm();

	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		k->s->gpr[RSP] = bad[i] + 8;
		push_pop(k, 1);
		EQ(k->c->exc.vector, EXC_SS);
		EQ(k->s->gpr[RSP], bad[i] + 8);
		k->c->exc.vector = EXC_NONE;
	}
	k->s->gpr[RSP] = PAGE_AT + 3;
	push_pop(k, 0x1122334455667788);
	EQ(k->c->exc.vector, EXC_NONE);
	EQ(k->s->gpr[RBX], 0x1122334455667788);
	EQ(ld64(k->ram + PAGE_AT - 5), 0x1122334455667788);
	cpu_kit_free(k);
}
