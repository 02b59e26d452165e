/* trans.c - tiers: counts how often a block runs, has hot ones of 64-bit and flat 32-bit code
 * translated, enters them, links them, and forgets them.
 *
 * A block's first handler is trans_count until it is hot, then trans_enter.  From there on control
 * stays in translated code: direct jumps inside a page are linked, all others go through the fetch
 * TLB and hot.jump[], which is by host address of the code.  What is not found leads back to the
 * interpreter's loop, which finds or makes the block and so comes by here again: then the jump that
 * led out is linked.
 *
 * A dropped block's entries are overwritten with a way out; its code stays until all translations
 * go at once, when the code memory is full or the interpreter's arena is emptied.  An interrupt is
 * seen when the budget is used up.  Jumps forward in a page cost none of it, so it is a multiple of
 * BUDGET instructions at most.  Runs on the vCPU's thread. */
#include "trans.h"

#include <stdlib.h>

enum { CACHE_BYTES = 16 << 20, MISSES_MAX = 64, MISS_CYCLES = 20000 };

/* An empty entry has the tag of an address that belongs in another slot, whatever the key. */
static void near_clear(struct tcg_cpu *c)
{
	for (unsigned i = 0; i < ARRAY_LEN(c->hot.near); i++)
		c->hot.near[i].tag = (u64)(i ^ 4) << 2;
	c->trans->near_gen = c->xlat_gen;
}

/* Whose an address is, and that 32-bit code begins there.  These bits are among those that choose
 * the slot, by the address itself: so in one slot no address under one key has the tag of another
 * under another key, canonical or not. */
enum { USER_KEY = 1 << 2, NARROW_KEY = 1 << 3, NEAR_KEYS = USER_KEY | NARROW_KEY };

/* --- one block -------------------------------------------------------------------------------- */
static struct block *block_of(const struct insn *in)
{
	return (struct block *)((char *)in - offsetof(struct block, insn));
}

static void jump_forget(struct tcg_cpu *c, u64 host)
{
	struct trans_jump *j = &c->hot.jump[trans_jump_index(host)];

	if (!((j->host ^ host) & ~(u64)NEAR_KEYS))
		j->host = 0;
}

/* A jump at off over what is there. */
static void jump_write(struct trans *t, u32 off, u32 to)
{
	trans_rw(t, off)[0] = 0xe9;
	st32(trans_rw(t, off) + 1, to - (off + 5));
}

static void edge_set(struct trans *t, const struct trans_edge *e, u32 to)
{
	st32(trans_rw(t, e->at), to - (e->at + 4));
}

static void trans_again(struct tcg_cpu *c, struct block *b);

/* No way leads into b's translation any more. */
static void trans_retire(struct tcg_cpu *c, struct block *b)
{
	struct trans *t = c->trans;
	struct trans_block *tb = &t->pool[b->trans];

	for (u32 id = tb->in, next; id; id = next) {
		struct trans_edge *e = &t->pool[id / EDGES].edge[id % EDGES];

		next = e->next;
		edge_set(t, e, e->out);
	}
	jump_forget(c, b->host);
	jump_write(t, tb->enter_mem, tb->dead_mem);
	jump_write(t, tb->enter_reg, tb->dead_reg);
	tb->b = NULL;
	b->trans = 0;
	for (unsigned i = 0; i < USERS; i++)
		if (tb->used_by[i] && t->pool[tb->used_by[i]].b)
			trans_again(c, t->pool[tb->used_by[i]].b);
}

/* b is to be translated anew when it comes next. */
static void trans_again(struct tcg_cpu *c, struct block *b)
{
	trans_retire(c, b);
	b->heat = 1;
	b->insn[0].fn = trans_count;
}

void trans_drop(struct tcg_cpu *c, struct block *b)
{
	trans_retire(c, b);
}

/* The blocks themselves may be gone. */
static void trans_forget(struct tcg_cpu *c)
{
	struct trans *t = c->trans;

	cache_flush(&t->cache);
	memset(c->hot.jump, 0, sizeof c->hot.jump);
	near_clear(c);
	t->blocks = 1;
	t->sites = 0;
	t->pending = 0;
	perf_map_flush(c);
	t->stat.flushes++;
}

void trans_flush(struct tcg_cpu *c)
{
	if (c->trans->blocks > 1)
		trans_forget(c);
}

void trans_block_new(struct tcg_cpu *c, struct block *b)
{
	u8 key = b->key & ~KEY_SPLIT;

	if (key != MODE_64 && key != (MODE_32 | KEY_FLAT))
		return;
	b->heat = b->seen = c->trans->heat;
	b->first = b->insn[0].fn;
	b->insn[0].fn = trans_count;
}

/* Room for another translation; all go if there is none, and their blocks become cold again. */
static void trans_reserve(struct tcg_cpu *c)
{
	struct trans *t = c->trans;

	if (cache_reserve(&t->cache, TRANS_BLOCK_BYTES) && t->blocks < TRANS_BLOCKS &&
	    t->sites + 2 * BLOCK_MAX <= TRANS_SITES)
		return;
	for (u32 i = 1; i < t->blocks; i++)
		if (t->pool[i].b) {
			t->pool[i].b->trans = 0;
			t->pool[i].b->heat = c->trans->heat;
			t->pool[i].b->insn[0].fn = trans_count;
		}
	trans_forget(c);
}

static HANDLER trans_enter(struct tcg_cpu *c, const struct insn *in);

static void trans_make(struct tcg_cpu *c, struct block *b)
{
	struct trans *t = c->trans;
	struct trans_block *tb;
	struct x64 a;
	u64 began = host_rdtsc();

	trans_reserve(c);
	tb = &t->pool[t->blocks];
	a.p = cache_reserve(&t->cache, TRANS_BLOCK_BYTES);
	a.end = a.p + TRANS_BLOCK_BYTES;
	a.full = false;
	a.bmi2 = t->bmi2;
	*tb = (struct trans_block){ .b = b, .at = t->cache.pos,
		.rip = c->code_rip + b->insn[0].pgoff, .mode = c->mode, .site = t->sites };
	ASSERT(trans_emit(c, b, tb, &a));
	cache_commit(&t->cache, (u32)(a.p - trans_rw(t, tb->at)));
	b->trans = t->blocks++;
	b->insn[0].fn = trans_enter;
	t->stat.blocks++;
	t->stat.bytes_in += b->bytes;
	t->stat.bytes_out += (u64)(a.p - trans_rw(t, tb->at));
	perf_map_block(c);
	t->stat.cycles += host_rdtsc() - began;
}

/* The edge that led out last leads to tb: have it go there by itself. */
static void trans_link(struct tcg_cpu *c, struct trans_block *tb)
{
	struct trans *t = c->trans;
	struct trans_block *from = &t->pool[t->pending / EDGES];
	struct trans_edge *e = &from->edge[t->pending % EDGES];

	if (t->pending && from->b && e->pgoff == tb->b->insn[0].pgoff && from->mode == tb->mode &&
	    !((from->b->host ^ tb->b->host) & ~(u64)(PAGE_SIZE - 1))) {
		/* Flags that nobody will read are as well in memory, or a note of them. */
		bool reg = e->reg && !(tb->dead && e->told && !(e->regs & tb->spoilt));

		if (tb->fp_need & ~from->fp_need)
			edge_set(t, e, reg ? tb->enter_reg : tb->enter_mem);
		else if (e->pgoff <= from->b->insn[0].pgoff)
			edge_set(t, e, reg ? tb->fp_reg : tb->fp_mem);
		else /* no circle of jumps forward is without one back, or to elsewhere */
			edge_set(t, e, reg ? tb->pass_reg : tb->pass_mem);
		t->stat.links++;
		e->next = tb->in;
		tb->in = t->pending;
	}
	t->pending = 0;
}

/* hot.near[] is for the current address space and privilege, and now knows this block. */
static void near_set(struct tcg_cpu *c, u64 rip, const u8 *code)
{
	struct trans_near *n = &c->hot.near[rip >> 2 & (ARRAY_LEN(c->hot.near) - 1)];

	if (c->trans->near_gen != c->xlat_gen)
		near_clear(c);
	c->top.near_key = (c->cpl == 3 ? USER_KEY : 0) | (c->mode == MODE_32 ? NARROW_KEY : 0);
	*n = (struct trans_near){ rip ^ c->top.near_key, code };
}

/* 32-bit code has addresses in registers as they are.  What a way from 64-bit code left in the
 * upper halves is undefined, SDM vol 1 "General-Purpose Registers in 64-Bit Mode". */
static void halves_clear(struct tcg_cpu *c)
{
	for (unsigned r = RAX; r <= RDI; r++)
		c->v.s.gpr[r] = (u32)c->v.s.gpr[r];
}

/* Instead of b's first instruction; the budget for b is taken. */
static HANDLER trans_enter(struct tcg_cpu *c, const struct insn *in)
{
	struct trans *t = c->trans;
	struct block *b = block_of(in);
	struct trans_block *tb = &t->pool[b->trans];
	struct trans_jump *j = &c->hot.jump[trans_jump_index(b->host)];

	trans_link(c, tb);
	if (c->mode == MODE_32)
		halves_clear(c);
	j->code = t->cache.rx + tb->enter_mem;
	near_set(c, c->code_rip + in->pgoff, j->code);
	j->host = b->host ^ c->top.near_key;
	c->budget += b->insns;
	count_insns(c);
	c->top.exit = NO_EXIT;
	((void (*)(const u8 *, struct vcpu *))(t->cache.rx + t->enter))(j->code, &c->v);
	flags_settle(c);
	c->budget += (s32)c->top.left;
	c->hot.count.insns -= t->counting ? c->top.left : 0;
	c->top.left = 0;
	t->stat.enters++;
	t->stat.paid += count_insns(c);
	if (c->top.exit != NO_EXIT) {
		c->v.s.rip = c->code_rip + (c->top.exit & (PAGE_SIZE - 1));
		t->pending = (c->top.exit & ~(u32)EXIT_AT) >> 12;
		t->stat.unlinked += t->pending != 0;
		t->stat.budget += t->pending == 0;
	}
	return NULL;
}

HANDLER trans_count(struct tcg_cpu *c, const struct insn *in)
{
	struct block *b = block_of(in);

	if (likely(--b->heat))
		return b->first(c, in);
	trans_make(c, b);
	return trans_enter(c, in);
}

/* in leaves translated code half way through its block, and the x87 instructions before it may not
 * have left their address yet; those before an instruction of the interpreter's have. */
static void x87_catch_up(struct tcg_cpu *c, const struct insn *in)
{
	const struct insn *end = in, *p = in;

	while (end->fn != exec_fall_through)
		end++;
	while (p-- > insn_block(end)->insn && insn_way(p) != WAY_STEP)
		if (x87_notes(p)) {
			c->native->ptr.fip = insn_rip(c, p);
			c->native->ptr.fop = (u16)((p->op->map - MAP_D8) << 8 | p->modrm);
			return;
		}
}

/* --- called by translated code ---------------------------------------------------------------- */
/* false: translated code is left. */
static bool trans_end(struct tcg_cpu *c)
{
	c->trans->stat.ended++;
	c->trans->stat.exceptions += c->exc.vector != EXC_NONE;
	return false;
}

static void count_step(struct trans *t, const struct insn *in)
{
	if (unlikely(t->stat.handler))
		t->stat.handler[in->op - op_rows]++;
	t->stat.missed += insn_way(in) != WAY_STEP;
}

bool trans_step(struct tcg_cpu *c, const struct insn *in)
{
	bool fp = c->fp_live;
	const struct insn *next;

	flags_settle(c);
	if (unlikely(c->trans->counting))
		count_step(c->trans, in);
	if ((in->op->exec.self == exec_MOVS || in->op->exec.self == exec_STOS) &&
	    string_fast(c, in))
		return true;
	next = insn_general(in)(c, in);
	if (!next) {
		if (c->exc.vector != EXC_NONE)
			x87_catch_up(c, in);
		return trans_end(c);
	}
	if (unlikely(c->interp->dropped)) {
		c->v.s.rip = rip_mask(next, insn_rip(c, next));
		return trans_end(c);
	}
	if (fp)
		fp_enter(c);
	return true;
}

/* Interpret the rest of a block, whose it is. */
static struct block *trans_rest(struct tcg_cpu *c, const struct insn *in)
{
	const struct insn *end = in;

	while (end->fn != exec_fall_through)
		end++;
	do
		in = insn_general(in)(c, in);
	while (in && in < end && !c->interp->dropped);
	if (in)
		c->v.s.rip = rip_mask(in, insn_rip(c, in));
	return insn_block(end);
}

/* Does the fetch TLB have lin's page, and are its bytes these? */
static bool code_is(const struct tcg_cpu *c, gva_t lin, const u8 *bytes, unsigned n)
{
	const struct tlb_entry *t = &c->tlb->x[tlb_index(lin)];

	return lin - t->tag < PAGE_SIZE && memcmp((const u8 *)(lin + t->addend), bytes, n) == 0;
}

/* b is an instruction that crosses a page, about to run: if its bytes are not the ones it was made
 * from, or not at hand, the interpreter sees to it. */
bool trans_split(struct tcg_cpu *c, struct block *b)
{
	gva_t lin = insn_rip(c, b->insn);
	unsigned first = PAGE_SIZE - lin % PAGE_SIZE;

	if (code_is(c, lin, block_raw(b), first) &&
	    code_is(c, rip_mask(b->insn, lin + first), block_raw(b) + first, b->bytes - first))
		return true;
	trans_retire(c, b);
	b->heat = c->trans->heat;
	b->insn[0].fn = trans_count;
	c->v.s.rip = lin;
	return trans_end(c);
}

/* b wants the FP state and it is not there, or may not be used. */
bool trans_fp(struct tcg_cpu *c, struct block *b)
{
	const struct insn *in = b->insn;
	u8 need = 0, ok = (u8)(1 | c->fp_ok_sse << 1 | c->fp_ok_avx << 2 | c->fp_ok_x87 << 3);

	flags_settle(c);
	for (; in->fn != exec_fall_through; in++)
		if (insn_way(in) == WAY_OP && in->op->cls == CLS_NATIVE)
			need |= op_fp_need(in);
	if ((need & ok) == need) {
		fp_enter(c);
		return true;
	}
	trans_rest(c, b->insn);
	return trans_end(c);
}

static gva_t group_linear(const struct tcg_cpu *c, const struct insn *in,
			  const struct group_info *g)
{
	gva_t lin;

	if (g->stack)
		lin = c->v.s.gpr[insn_way(in) == WAY_LEAVE ? RBP : RSP] -
		      (g->own_write ? insn_word(in) : 0);
	else
		lin = insn_ea(c, in) + (in->seg >= SEG_FS ? c->v.s.seg[in->seg].base : 0);
	return rip_mask(in, lin);
}

/* A miss costs as much as many checks. */
static bool group_fails(struct trans_block *tb)
{
	u64 now = host_rdtsc();

	if (!tb->misses)
		tb->since = now;
	if (++tb->misses < MISSES_MAX)
		return false;
	tb->misses = 0;
	return now - tb->since < MISSES_MAX * MISS_CYCLES;
}

/* Fill the TLB for the access that made the check.  If that does not help, the span is not all in
 * one page of plain memory: a block that this happens to often does without groups. */
bool trans_group(struct tcg_cpu *c, const struct insn *in, u64 info)
{
	struct group_info g;
	gva_t lin;
	void *host;
	struct block *b;

	flags_settle(c);
	c->trans->stat.missed++;
	memcpy(&g, &info, sizeof g);
	lin = group_linear(c, in, &g);
	if (!(in->mode == MODE_32 && !g.stack && in->seg >= SEG_FS && !(c->open >> in->seg & 1)) &&
	    is_canonical(lin) && is_canonical(lin + g.size - 1)) {
		bool fp = c->fp_live;
		bool ok = lin_host(c, lin, g.size, g.own_write ? ACC_W : ACC_R, &host);

		if (!ok && in->op->cls != CLS_NATIVE) {
			x87_catch_up(c, in);
			insn_fault(c, in);
			return trans_end(c);
		}
		if (fp)
			fp_enter(c);
		lin -= g.wide ? c->v.s.gpr[in->index] << in->scale : 0;
		lin = rip_mask(in, lin + (u64)(s64)g.lo);
		if (ok && (g.write ? tlb_write(c, lin, g.span) : tlb_read(c, lin, g.span)))
			return true;
		c->exc.vector = EXC_NONE; /* #MF or a misaligned operand's #GP may go first */
	}
	x87_catch_up(c, in);
	b = trans_rest(c, in);
	if (b->trans && group_fails(&c->trans->pool[b->trans])) {
		if (g.wide)
			b->narrow++;
		else
			b->no_groups = true;
		trans_again(c, b);
	}
	return trans_end(c);
}

bool trans_loop(struct tcg_cpu *c, struct block *b)
{
	if (loop_pays(&c->trans->pool[b->trans]))
		b->sure_loop = true, c->trans->stat.loops++;
	else
		b->no_loop = true;
	trans_again(c, b);
	c->v.s.rip = insn_rip(c, b->insn);
	return false;
}

static const struct trans_block *trans_at(const struct trans *t, u32 off)
{
	u32 lo = 1, hi = t->blocks;

	while (hi - lo > 1) {
		u32 mid = (lo + hi) / 2;

		if (t->pool[mid].at <= off)
			lo = mid;
		else
			hi = mid;
	}
	return &t->pool[lo];
}

bool trans_trap(struct tcg_cpu *c, const struct insn *unused)
{
	struct trans *t = c->trans;
	struct stub_guard *g = &c->native->guard;
	u32 off = (u32)(g->trap_rip - (u64)t->cache.rx);
	const struct trans_block *tb = trans_at(t, off);
	const struct trans_site *s = &t->site[tb->site], *end = s + tb->sites;
	u8 vector = g->trap;
	const struct insn *in;

	while (s < end && s->at != off)
		s++;
	ASSERT(s < end && tb->b);
	in = s->in;
	x87_catch_up(c, in);
	if (!s->flags_live)
		flags_put(c, s->note.note ? s->note : (struct flags_made){ (u32)c->hot.old_cc, 0 });
	c->top.left = 0; /* a register has it, which is lost */
	for (unsigned r = 0; r < 16; r++)
		if (s->borrowed & 1 << r)
			c->v.s.gpr[r] = c->hot.borrow[r];
	flags_settle(c); /* by registers as they are now */
	if (vector == EXC_DE) {
		g->trap = 0;
		insn_raise(c, in, EXC_DE);
	} else {
		native_trap(c, in);
	}
	return trans_end(c);
}

/* --- set-up ----------------------------------------------------------------------------------- */
int trans_init(struct tcg_cpu *c, struct err *e)
{
	const u64 asked = c->v.env->tcg_cache_bytes;
	struct trans *t = calloc(1, sizeof *t);
	int rc;

	if (!t)
		return err_set(e, -ENOMEM, "cpu%u: no memory for the translator", c->v.index);
	c->trans = t;
	t->pool = host_pages_new(TRANS_BLOCKS * sizeof *t->pool);
	t->site = host_pages_new(TRANS_SITES * sizeof *t->site);
	rc = t->pool && t->site
		     ? cache_init(&t->cache, (u32)(asked ? asked : CACHE_BYTES), e)
		     : err_set(e, -ENOMEM, "cpu%u: no memory for the translator", c->v.index);
	if (rc == 0 && c->v.env->stats) {
		t->counting = true;
		t->stat.handler = calloc(op_rows_n, sizeof *t->stat.handler);
	}
	if (rc < 0) {
		trans_free(c);
		return rc;
	}
	t->blocks = 1;
	t->heat = HEAT;
	t->bmi2 = cpuid_has(7, 0, 1 /* EBX */, 8);
	trans_thunks(c, t);
	near_clear(c);
	c->native->guard.trans = t->cache.rx;
	c->native->guard.trans_len = t->cache.size;
	c->native->guard.trans_resume = t->cache.rx + t->trap;
	return 0;
}

void trans_free(struct tcg_cpu *c)
{
	struct trans *t = c->trans;

	if (!t)
		return;
	cache_free(&t->cache);
	host_pages_free(t->pool, TRANS_BLOCKS * sizeof *t->pool);
	host_pages_free(t->site, TRANS_SITES * sizeof *t->site);
	free(t->stat.handler);
	free(t);
	c->trans = NULL;
}
