/* stats.c - what --tcg-stats prints of each vCPU, at the end, when its thread has stopped. */
#include <inttypes.h>

#include "trans.h"

enum { HANDLERS_SHOWN = 8 };

/* a in percent of b; 1 decimal. */
#define PERCENT "%" PRIu64 ".%" PRIu64 " %%"
#define PERCENT_OF(a, b) percent10(a, b) / 10, percent10(a, b) % 10
static u64 percent10(u64 a, u64 b)
{
	return b ? a * 1000 / b : 0;
}

static void stats_run(const struct tcg_cpu *c)
{
	u32 i = c->v.index;
	u64 translated = c->hot.count.insns,
		interpreted = c->stat_insns - (c->trans ? c->trans->stat.paid : 0);

	text_err("cpu%u: %" PRIu64 " instructions: %" PRIu64 " translated (" PERCENT "), %" PRIu64
		" interpreted, %" PRIu64 " one by one; %" PRIu64 " exceptions, %" PRIu64
		" exits\n",
		i, translated + interpreted, translated,
		PERCENT_OF(translated, translated + interpreted), interpreted,
		c->interp->stat_steps, c->stat_exc, c->v.stat_exits);
	text_err("cpu%u: %" PRIu64 " blocks decoded, of %" PRIu64 " instructions; %" PRIu64
		" invalidated, the idle evicted %" PRIu64 " times, all %" PRIu64 " times; %" PRIu64
		" TLB fills\n",
		i, c->stat_blocks, c->stat_decoded, c->stat_invalidated, c->interp->stat_sweeps,
		c->interp->stat_flushes,
		c->stat_tlb_fills);
}

static void stats_translator(const struct tcg_cpu *c)
{
	const struct trans_stats *s = &c->trans->stat;
	u32 i = c->v.index;
	u64 unknown = s->enters - s->unlinked - s->budget - s->ended;
	u64 indirect = c->hot.count.indirect, far = c->hot.count.far;

	text_err("cpu%u: %" PRIu64 " blocks translated: %" PRIu64 " bytes to %" PRIu64 " (%" PRIu64
		".%" PRIu64 " times), %" PRIu64 " us; %" PRIu64 " links, %" PRIu64
		" loops; all evicted %" PRIu64 " times\n",
		i, s->blocks, s->bytes_in, s->bytes_out,
		percent10(s->bytes_out, s->bytes_in) / 1000,
		percent10(s->bytes_out, s->bytes_in) / 100 % 10,
		s->cycles * 1000 / MAX(c->v.env->tsc_khz, 1), s->links, s->loops, s->flushes);
	text_err("cpu%u: translated code entered %" PRIu64 " times, left for: a jump not linked %"
		PRIu64 ", a target not known %" PRIu64 ", budget or change %" PRIu64
		", an exception %" PRIu64 ", an instruction %" PRIu64 "\n",
		i, s->enters, s->unlinked, unknown, s->budget, s->exceptions,
		s->ended - s->exceptions);
	text_err("cpu%u: %" PRIu64 " address checks, missed %" PRIu64 " (" PERCENT "); %" PRIu64
		" indirect jumps, not in the first table " PERCENT ", in none " PERCENT "\n",
		i, c->hot.count.checks, s->missed, PERCENT_OF(s->missed, c->hot.count.checks),
		indirect, PERCENT_OF(far + unknown, indirect), PERCENT_OF(unknown, indirect));
}

/* The row called most of those after last, or of all (-1); -1: none. */
static int next_handler(const u64 *count, int last)
{
	int best = -1;

	for (int i = 0; i < (int)op_rows_n; i++) {
		bool later = last < 0 || count[i] < count[last] ||
			     (i > last && count[i] == count[last]);

		if (count[i] && later && (best < 0 || count[i] > count[best]))
			best = i;
	}
	return best;
}

/* The instructions that translated code leaves to the interpreter most. */
static void stats_handlers(const struct tcg_cpu *c)
{
	const u64 *count = c->trans->stat.handler;
	int row = -1;

	if (!count)
		return;
	text_err("cpu%u: handlers called by translated code:", c->v.index);
	for (int i = 0; i < HANDLERS_SHOWN && (row = next_handler(count, row)) >= 0; i++)
		text_err("%s %" PRIu64 " %s", i ? "," : "", count[row], op_rows[row].name);
	text_err("\n");
}

void tcg_stats(struct engine_env *env)
{
	for (u32 i = 0; i < env->nr_vcpus; i++) {
		const struct tcg_cpu *c = tcg_of(env->vcpus[i]);

		stats_run(c);
		if (!c->trans)
			continue;
		stats_translator(c);
		stats_handlers(c);
	}
}
