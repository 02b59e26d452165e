/* arena.c - what stays and what goes when the memory of decoded blocks is full. */
#include "../../tcg/trans.h"
#include "cpu_kit.h"

enum { CHAIN_AT = 0x40000, CHAIN = 2000, TURNS = 20, ROUNDS = 10, ARENA = 64 << 10 };

/* A loop of TURNS, then CHAIN blocks that each jump on to the next, with an arena that holds a
 * fraction of them; a block is translated at its heat-th run. */
static struct cpu_kit *chain_new(u16 heat)
{
	static const u8 loop[] = {
		0xb9, TURNS, 0, 0, 0, /* mov ecx, TURNS */
		0xff, 0xc3, /* inc ebx */
		0xff, 0xc9, /* dec ecx */
		0x75, 0xfa, /* jnz to the inc */
	};
	static const u8 link[] = { 0x40, 0xff, 0xc0, 0xeb, 3 }; /* inc eax; jmp +3 */
	struct cpu_kit *k = cpu_kit_new();
	struct interp *it = k->c->interp;
	u8 *p = k->ram + CHAIN_AT;

	memcpy(p, loop, sizeof loop);
	p += sizeof loop;
	for (unsigned i = 0; i < CHAIN; i++, p += 8)
		memcpy(p, link, sizeof link);
	*p = 0xf4; /* hlt */
	it->arena_bytes = ARENA;
	arena_empty(it);
	k->c->trans->heat = heat;
	return k;
}

static void chain_run(struct cpu_kit *k)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		k->s->rip = CHAIN_AT;
		k->s->mp_state = MP_RUNNABLE;
		cpu_kit_run(k);
	}
	EQ(k->s->gpr[RAX], ROUNDS * CHAIN);
	EQ(k->s->gpr[RBX], ROUNDS * TURNS);
}

TEST(arena_sweep_keeps_what_is_translated)
{
	struct cpu_kit *k = chain_new(HEAT);

	chain_run(k);
	OK(k->c->interp->stat_sweeps > ROUNDS);
	EQ(k->c->interp->stat_flushes, 0);
	EQ(k->c->trans->stat.flushes, 0);
	EQ(k->c->trans->stat.blocks, 1); /* the loop, once */
	cpu_kit_free(k);
}

/* The loop stays, and had a link to the first of the chain. */
TEST(arena_sweep_cuts_links_to_what_goes)
{
	struct cpu_kit *k = chain_new(0xffff);

	chain_run(k);
	OK(k->c->interp->stat_sweeps > ROUNDS);
	EQ(k->c->interp->stat_flushes, 0);
	cpu_kit_free(k);
}

TEST(arena_full_of_translated_blocks_is_emptied)
{
	struct cpu_kit *k = chain_new(1);

	chain_run(k);
	OK(k->c->interp->stat_flushes > ROUNDS);
	cpu_kit_free(k);
}

/* Blocks of all sizes come and go; all memory is accounted for. */
TEST(arena_is_blocks_from_end_to_end)
{
	struct cpu_kit *k = cpu_kit_new();
	struct interp *it = k->c->interp;
	u64 seed = 1;

	it->arena_bytes = ARENA;
	arena_empty(it);
	for (unsigned i = 0; i < 20000; i++) {
		u64 bytes = sizeof(struct block) + (seed >> 33) % 1600;
		struct block *b = arena_take(k->c, bytes);

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		OK((u8 *)b >= it->arena && (u8 *)b + b->size <= it->arena + it->open);
		OK(b->size >= bytes);
		memset((u8 *)b + sizeof *b, 0xaa, b->size - sizeof *b);
		b->insns = seed >> 60 ? BLOCK_DEAD : 1; /* one in sixteen stays */
		b->trans = 1;
		b->to[0] = b->to[1] = &block_none;
	}
	OK(it->stat_sweeps > 100);
	OK(it->stat_flushes > 0);
	cpu_kit_free(k);
}
