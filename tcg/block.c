/* block.c - the cache of decoded blocks: finding, building, linking and dropping them.
 *
 * One cache per vCPU, touched only by its thread.  Blocks come from an arena that is swept when it
 * is full (arena.c); a dropped block stays as it is until then, so the instruction that dropped
 * it can finish.  A dropped block costs more than any budget, which sends whoever
 * follows a link to it into link_slow(), where the link is taken away.
 *
 * An instruction that crosses a page is a block of its own that compares the bytes it was made
 * from at each entry: its second page need not be watched. */
#include "exec.h"

struct block block_none = { .insns = BLOCK_DEAD };

enum { INSN_BYTES_MAX = BLOCK_MAX * INSN_MAX };

/* --- code bytes --------------------------------------------------------------------------- */
static gva_t code_lin(const struct tcg_cpu *c, u64 rip)
{
	return c->mode == MODE_64 ? rip : (u32)(c->v.s.seg[SEG_CS].base + rip);
}

static bool code_wide(const struct tcg_cpu *c)
{
	const struct seg_reg *cs = &c->v.s.seg[SEG_CS];

	return c->mode != MODE_64 && (cs->base || cs->limit != 0xffffffff);
}

/* Blocks of one key mean the same, and may follow each other unseen. */
static u8 block_key(const struct tcg_cpu *c)
{
	const u8 data = 1 << SEG_ES | 1 << SEG_SS | 1 << SEG_DS;

	if (c->mode == MODE_64)
		return MODE_64;
	if (code_wide(c))
		return c->mode | KEY_WIDE_CS;
	if (c->mode == MODE_32 && c->stack_size == 4 && (c->flat & data) == data &&
	    c->v.s.cr0 & CR0_PE)
		return MODE_32 | KEY_FLAT;
	return c->mode;
}

/* Bytes from rip to the end of the code segment; 0: beyond it. */
static u64 code_room(const struct tcg_cpu *c, u64 rip)
{
	u64 limit = c->v.s.seg[SEG_CS].limit;

	if (c->mode == MODE_64)
		return PAGE_SIZE;
	return rip <= limit ? limit - rip + 1 : 0;
}

/* Bytes of an MMIO page, as a read on the bus would have them. */
static void code_read_mmio(struct tcg_cpu *c, gpa_t gpa, u8 *buf, unsigned n)
{
	fp_leave(c);
	for (unsigned i = 0; i < n; i++)
		buf[i] = (u8)bus_read(c->v.env->mmio, gpa + i, 1);
}

/* Copy n bytes of code at lin, all in one page. */
static bool code_read(struct tcg_cpu *c, gva_t lin, u8 *buf, unsigned n)
{
	const u8 *host;
	gpa_t gpa;

	if (!mmu_fetch(c, lin, &host, &gpa))
		return false;
	if (host)
		memcpy(buf, host + lin % PAGE_SIZE, n);
	else
		code_read_mmio(c, ALIGN_DOWN(gpa, PAGE_SIZE) + lin % PAGE_SIZE, buf, n);
	return true;
}

bool insn_fetch(struct tcg_cpu *c, struct insn *in)
{
	u64 rip = c->v.s.rip, room = code_room(c, rip);
	gva_t lin = code_lin(c, rip);
	unsigned page_left = PAGE_SIZE - lin % PAGE_SIZE;
	unsigned n = (unsigned)MIN(MIN(room, page_left), INSN_MAX);
	u8 raw[INSN_MAX];
	int len;

	if (!n)
		return raise_err(c, EXC_GP, 0);
	if (!code_read(c, lin, raw, n))
		return false;
	len = decode(in, raw, n, c->mode);
	if (len == DECODE_MORE && n < INSN_MAX) {
		unsigned all = (unsigned)MIN(room, INSN_MAX);

		if (all == n)
			return raise_err(c, EXC_GP, 0);
		if (!code_read(c, code_lin(c, rip + n), raw + n, all - n))
			return false;
		len = decode(in, raw, all, c->mode);
	}
	if (len == DECODE_GP || len == DECODE_MORE)
		return raise_err(c, EXC_GP, 0);
	in->pgoff = lin % PAGE_SIZE;
	c->code_rip = rip - in->pgoff;
	in->fn = insn_general(in);
	return true;
}

/* --- tables ------------------------------------------------------------------------------- */
static struct block **hash_head(struct interp *it, u64 host)
{
	return &it->hash[(host ^ host >> 12 ^ host >> 24) & (HASH_SIZE - 1)];
}

static struct code_page **page_head(struct interp *it, gpa_t gpa)
{
	return &it->page[gpa >> 12 & (CODE_PAGES - 1)];
}

static struct code_page *page_find(struct interp *it, gpa_t gpa)
{
	struct code_page *p = *page_head(it, gpa);

	while (p && p->gpa != gpa)
		p = p->next;
	return p;
}

void interp_flush(struct tcg_cpu *c)
{
	struct interp *it = c->interp;

	if (it->at != it->arena) { /* else they are empty, and perhaps not even there */
		memset(it->front, 0, sizeof it->front);
		memset(it->hash, 0, sizeof it->hash);
		memset(it->page, 0, sizeof it->page);
		it->stat_flushes++;
	}
	arena_empty(it);
	it->link = NULL;
	it->dropped = true;
	if (c->trans)
		trans_flush(c);
}

static struct code_page *page_add(struct interp *it, gpa_t gpa)
{
	struct code_page *p = page_find(it, gpa), **head = page_head(it, gpa);

	if (p)
		return p;
	p = arena_take_page(it);
	p->gpa = gpa;
	p->next = *head;
	return *head = p;
}

static void block_insert(struct tcg_cpu *c, struct block *b)
{
	struct interp *it = c->interp;
	struct block **head = hash_head(it, b->host);

	b->hash_next = *head;
	*head = b;
	if (!(b->key & KEY_SPLIT)) {
		struct code_page *p = page_add(it, ALIGN_DOWN(b->gpa, PAGE_SIZE));
		struct block **granule = &p->granule[b->gpa % PAGE_SIZE / GRANULE];

		b->granule_next = *granule;
		*granule = b;
		p->longest = MAX(p->longest, b->bytes);
		p->quiet = p->kills = 0;
	}
}

/* No entry, link or lookup reaches the block any more; its memory stays.  Its granule's list is
 * the caller's business. */
void block_forget(struct tcg_cpu *c, struct block *b)
{
	struct interp *it = c->interp;
	struct block **at = hash_head(it, b->host);
	unsigned front = front_index(b->host);

	while (*at != b)
		at = &(*at)->hash_next;
	*at = b->hash_next;
	if (it->front[front].b == b)
		it->front[front].b = NULL, it->front[front].host = 0;
	if (b->trans)
		trans_drop(c, b);
	b->host = 0;
	b->insns = BLOCK_DEAD;
	it->dropped = true;
}

static void block_drop(struct tcg_cpu *c, struct block *b)
{
	block_forget(c, b);
	c->stat_invalidated++;
}

static void granule_invalidate(struct tcg_cpu *c, struct block **at, gpa_t gpa, u64 len)
{
	while (*at) {
		struct block *b = *at;

		if (b->gpa < gpa + len && gpa < b->gpa + b->bytes) {
			*at = b->granule_next;
			block_drop(c, b);
		} else {
			at = &b->granule_next;
		}
	}
}

/* Lists of the page's granules that may hold blocks reaching into [gpa, gpa+len): first and
 * last. */
static void page_span(const struct code_page *p, gpa_t gpa, u64 len, u64 *first, u64 *last)
{
	u64 off = gpa % PAGE_SIZE;

	*first = (off > p->longest ? off - p->longest : 0) / GRANULE;
	*last = (off + len - 1) / GRANULE;
}

/* Drop the blocks that overlap [gpa, gpa+len).  True if there were any. */
bool block_drop_range(struct tcg_cpu *c, gpa_t gpa, u64 len)
{
	u64 before = c->stat_invalidated;

	while (len) {
		u64 n = MIN(len, PAGE_SIZE - gpa % PAGE_SIZE), i, last;
		struct code_page *p = page_find(c->interp, ALIGN_DOWN(gpa, PAGE_SIZE));

		if (p)
			for (page_span(p, gpa, n, &i, &last); i <= last; i++)
				granule_invalidate(c, &p->granule[i], gpa, n);
		gpa += n;
		len -= n;
	}
	return c->stat_invalidated != before;
}

/* Does any block overlap [gpa, gpa+len), which lies in one page? */
bool block_in_range(struct tcg_cpu *c, gpa_t gpa, u64 len)
{
	struct code_page *p = page_find(c->interp, ALIGN_DOWN(gpa, PAGE_SIZE));
	u64 i, last;

	if (!p)
		return false;
	for (page_span(p, gpa, len, &i, &last); i <= last; i++)
		for (const struct block *b = p->granule[i]; b; b = b->granule_next)
			if (b->gpa < gpa + len && gpa < b->gpa + b->bytes)
				return true;
	return false;
}

/* --- code that changes -------------------------------------------------------------------- */
void interp_post(struct tcg_cpu *c, gpa_t gpa, u64 len)
{
	struct interp *it = c->interp;

	pthread_mutex_lock(&it->inbox_lock);
	if (it->inbox_n < INBOX_MAX) {
		it->inbox[it->inbox_n].gpa = gpa;
		it->inbox[it->inbox_n].len = len;
	}
	it->inbox_n = MIN(it->inbox_n + 1, INBOX_MAX + 1);
	pthread_mutex_unlock(&it->inbox_lock);
	vcpu_request(&c->v, VREQ_FLUSH);
}

void interp_take_posts(struct tcg_cpu *c)
{
	struct interp *it = c->interp;

	pthread_mutex_lock(&it->inbox_lock);
	if (it->inbox_n > INBOX_MAX)
		interp_flush(c);
	else
		for (u32 i = 0; i < it->inbox_n; i++)
			block_drop_range(c, it->inbox[i].gpa, it->inbox[i].len);
	it->inbox_n = 0;
	pthread_mutex_unlock(&it->inbox_lock);
}

static void post_to_others(struct tcg_cpu *c, gpa_t gpa, u64 len)
{
	const struct engine_env *env = c->v.env;

	if (env->nr_vcpus < 2)
		return;
	fp_leave(c);
	for (u32 i = 0; i < env->nr_vcpus; i++)
		if (env->vcpus[i] && env->vcpus[i] != &c->v)
			interp_post(tcg_of(env->vcpus[i]), gpa, len);
}

/* The empty granules of a page become plain data again.  The bits go first, then all that the
 * others have in the page: whatever they build from now on sets them again. */
static void page_sweep(struct tcg_cpu *c, struct code_page *p)
{
	for (u64 off = 0; off < PAGE_SIZE; off += GRANULE)
		if (!block_in_range(c, p->gpa + off, GRANULE))
			code_map_clear(c->code, p->gpa + off, GRANULE);
	p->quiet = 0;
	post_to_others(c, p->gpa, PAGE_SIZE);
}

/* A store to [gpa, gpa+len), inside one page, touched a granule with its bit set.  Code that is
 * written once is often written again soon; so the bits stay for a while when the blocks are
 * gone, and the page needs no new TLB entries each time. */
static void code_changed(struct tcg_cpu *c, gpa_t gpa, u64 len)
{
	struct code_page *p = page_find(c->interp, ALIGN_DOWN(gpa, PAGE_SIZE));
	gpa_t first = ALIGN_DOWN(gpa, GRANULE);
	u64 span = ALIGN_UP(gpa + len, GRANULE) - first;

	if (p && p->kills == KILLS_MAX) { /* the whole page is being written anew */
		p->kills = 0;
		first = p->gpa;
		len = span = PAGE_SIZE;
	}
	if (block_drop_range(c, len == PAGE_SIZE ? first : gpa, len) && p)
		p->kills++;
	if (!p || len == PAGE_SIZE) {
		code_map_clear(c->code, first, span);
		post_to_others(c, first, span);
	} else if (!block_in_range(c, first, span) && ++p->quiet == QUIET_MAX) {
		page_sweep(c, p);
	} else {
		post_to_others(c, gpa, len);
	}
}

/* Own thread only; other writers use interp_post. */
void interp_invalidate(struct tcg_cpu *c, gpa_t gpa, u64 len)
{
	for (u64 n; len; gpa += n, len -= n) {
		n = MIN(len, PAGE_SIZE - gpa % PAGE_SIZE);
		if (code_map_hit(c->code, gpa, n))
			code_changed(c, gpa, n);
	}
}

/* --- fresh code --------------------------------------------------------------------------- */
/* May another vCPU have write entries for pages that hold code?  One that sleeps answers before it
 * runs on. */
static bool others_owe_flush(const struct tcg_cpu *c)
{
	const struct engine_env *env = c->v.env;

	for (u32 i = 0; i < env->nr_vcpus; i++) {
		struct vcpu *v = env->vcpus[i];

		if (v && v != &c->v && atomic_load(&v->req) & VREQ_FLUSH &&
		    !atomic_load(&v->sleeping))
			return true;
	}
	return false;
}

static u64 fresh_sum(const u8 *p, u32 len)
{
	u64 sum = len;

	while (len--)
		sum = (sum ^ *p++) * 0x100000001b3; /* FNV-1a: the guest could only fool itself */
	return sum;
}

static void fresh_add(struct tcg_cpu *c, const struct block *b, gpa_t gpa, const u8 *bytes)
{
	struct interp *it = c->interp;
	const u8 *host = (const u8 *)(uintptr_t)b->host;

	if (c->v.env->nr_vcpus < 2 || !others_owe_flush(c))
		return;
	if (it->fresh_n < FRESH_MAX)
		it->fresh[it->fresh_n] =
			(struct fresh){ host, gpa, b->bytes, fresh_sum(bytes, b->bytes) };
	it->fresh_n = MIN(it->fresh_n + 1, FRESH_MAX + 1u);
}

/* Cross-modifying code, SDM vol 3 "Handling Self- and Cross-Modifying Code": a vCPU that stored
 * to code and then said so, in memory, may not have answered VREQ_FLUSH yet, nor told us of the
 * store.  Who has seen its word executes a serialising instruction, comes by here, and the bytes
 * are there.  The last look is one after all have answered: their stores come before that. */
void fresh_look(struct tcg_cpu *c)
{
	struct interp *it = c->interp;
	bool more = others_owe_flush(c);

	if (it->fresh_n > FRESH_MAX) {
		interp_flush(c);
		it->fresh_n = 0;
		return;
	}
	for (u32 i = 0; i < it->fresh_n; i++) {
		struct fresh *f = &it->fresh[i];

		if (fresh_sum(f->host, f->len) != f->sum)
			block_drop_range(c, f->gpa, f->len);
	}
	it->fresh_n = more ? it->fresh_n : 0;
}

/* --- building ----------------------------------------------------------------------------- */
static void insn_end_of_block(struct insn *in, struct block *b, unsigned pgoff, u8 mode)
{
	static const struct op row = { .name = "(next)", .cls = CLS_SELF };

	const struct insn end = {
		.fn = exec_fall_through, .op = &row, .aux = (u32)(in - b->insn),
		.pgoff = (u16)pgoff, .mode = mode
	};

	memcpy(in, &end, INSN_HEAD);
}

/* What lies behind the last instruction: in this page, or at the start of the next one. */
HANDLER exec_fall_through(struct tcg_cpu *c, const struct insn *in)
{
	struct block *b = insn_block(in);
	u64 rip = rip_mask(in, c->code_rip + in->pgoff);

	if (b->link_ok && in->pgoff < PAGE_SIZE)
		return go_link(c, b, 0, rip);
	if (in->mode == MODE_64)
		return go_64(c, rip);
	c->v.s.rip = rip;
	return NULL;
}

/* A block in the making, which is not where it will be. */
static struct block *block_start(struct tcg_cpu *c, u64 host, gpa_t gpa, u8 key)
{
	struct block *b = (struct block *)c->interp->draft;

	memset(b, 0, sizeof *b);
	b->host = host;
	b->gpa = gpa;
	b->key = key;
	b->to[0] = b->to[1] = &block_none;
	b->link_ok = key == MODE_64 || (key & ~KEY_FLAT) == MODE_32;
	return b;
}

/* The draft, with all its instructions, becomes a block; more bytes of it lie behind them. */
static struct block *block_place(struct tcg_cpu *c, const struct block *draft, u32 more)
{
	u64 bytes = sizeof *draft + (u32)draft->insns * sizeof(struct insn) + INSN_HEAD + more;
	struct block *b = arena_take(c, bytes);
	u32 size = b->size;

	memcpy(b, draft, bytes);
	b->size = size;
	return b;
}

/* Decode up to BLOCK_MAX instructions of code; b->insns and b->bytes say how far it came.
 * Returns decode()'s last word if not even one could be decoded. */
static int block_decode(struct block *b, const u8 *code, unsigned n, unsigned pgoff, u8 mode)
{
	struct insn *in = b->insn;
	unsigned at = 0;

	while (b->insns < BLOCK_MAX && at < n) {
		int len = decode(in, code + at, n - at, mode);

		if (len == DECODE_MORE || len == DECODE_GP)
			return b->insns ? 1 : len;
		in->pgoff = (u16)(pgoff + at);
		at += len == DECODE_UD ? MAX(in->len, 1) : (unsigned)len;
		b->bytes = (u16)at;
		b->insns++;
		in++;
		if (in[-1].op->cls == CLS_UD || in[-1].op->flags & F_ENDS)
			break;
	}
	return 1;
}

static void block_choose_handlers(struct block *b, unsigned pgoff, u8 mode)
{
	unsigned n = (unsigned)b->insns;

	insn_end_of_block(&b->insn[n], b, pgoff + b->bytes, mode);
	for (unsigned i = 0; i < n; i++) {
		struct insn *in = &b->insn[i];
		insn_fn fast = fast_choose(in);

		in->fn = fast ? fast : insn_general(in);
	}
	if (fast_end(&b->insn[n - 1], b) && n > 1)
		fast_fuse(&b->insn[n - 2]);
}

/* A block from the page at host_page; NULL with c->exc, or without if the first instruction
 * goes on in the next page. */
static struct block *block_build(struct tcg_cpu *c, gva_t lin, const u8 *host_page, gpa_t gpa)
{
	struct interp *it = c->interp;
	unsigned pgoff = lin % PAGE_SIZE;
	u64 room = MIN(code_room(c, c->v.s.rip), PAGE_SIZE - pgoff);
	unsigned n = (unsigned)MIN(room, (u64)INSN_BYTES_MAX);
	u8 code[INSN_BYTES_MAX];
	struct block *b = block_start(c, (u64)host_page + pgoff, gpa, it->key);
	int rc;

	/* From a copy, compared once writes to it are being watched: another thread may be
	 * writing. */
	do {
		b->insns = b->bytes = 0;
		memcpy(code, host_page + pgoff, n);
		rc = block_decode(b, code, n, pgoff, c->mode);
		if (rc == DECODE_GP)
			raise_err(c, EXC_GP, 0);
		if (rc != 1)
			return NULL;
		mmu_code_added(c, gpa, b->bytes);
		atomic_thread_fence(memory_order_seq_cst);
	} while (memcmp(code, host_page + pgoff, b->bytes) != 0);
	fresh_add(c, b, gpa, code);
	b = block_place(c, b, 0);
	block_choose_handlers(b, pgoff, c->mode);
	if (c->trans)
		trans_block_new(c, b);
	block_insert(c, b);
	c->stat_blocks++;
	c->stat_decoded += (u32)b->insns;
	return b;
}

/* --- instructions that cross a page ------------------------------------------------------- */
static bool split_read(struct tcg_cpu *c, gva_t lin, unsigned len, u8 *raw)
{
	unsigned first = PAGE_SIZE - lin % PAGE_SIZE;

	return code_read(c, lin, raw, first) &&
	       code_read(c, c->mode == MODE_64 ? lin + first : (u32)(lin + first), raw + first,
			 len - first);
}

static struct block *split_build(struct tcg_cpu *c, gva_t lin, u64 host, gpa_t gpa)
{
	struct block *b = block_start(c, host, gpa, c->interp->key | KEY_SPLIT);

	if (!insn_fetch(c, b->insn))
		return NULL;
	b->insns = 1;
	b->bytes = MAX(b->insn->len, 1);
	b->link_ok = false;
	if (!split_read(c, lin, b->bytes, block_raw(b)))
		return NULL;
	b = block_place(c, b, b->bytes);
	insn_end_of_block(&b->insn[1], b, lin % PAGE_SIZE + b->bytes, c->mode);
	if (c->trans)
		trans_block_new(c, b);
	block_insert(c, b);
	c->stat_blocks++;
	c->stat_decoded++;
	return b;
}

/* The block for a split instruction at lin if its bytes are still the same; drops it if not. */
static bool split_valid(struct tcg_cpu *c, struct block *b, gva_t lin)
{
	u8 raw[INSN_MAX];

	if (!split_read(c, lin, b->bytes, raw))
		return false;
	if (memcmp(raw, block_raw(b), b->bytes) == 0)
		return true;
	block_drop(c, b);
	return false;
}

/* --- finding ------------------------------------------------------------------------------ */
static struct block *hash_find(struct interp *it, u64 host, u8 key)
{
	struct block *b = *hash_head(it, host);

	while (b && (b->host != host || (b->key & ~KEY_SPLIT) != key))
		b = b->hash_next;
	return b;
}

/* A block at lin, found or built, that is not in the front cache. */
static struct block *block_find_slow(struct tcg_cpu *c, gva_t lin)
{
	struct interp *it = c->interp;
	const u8 *page;
	gpa_t gpa;
	u64 host;
	struct block *b;

	if (!mmu_fetch(c, lin, &page, &gpa) || !page)
		return NULL;
	gpa = ALIGN_DOWN(gpa, PAGE_SIZE) + lin % PAGE_SIZE;
	host = (u64)page + lin % PAGE_SIZE;
	b = hash_find(it, host, it->key);
	if (b && b->key & KEY_SPLIT) {
		if (split_valid(c, b, lin))
			return b;
		b = NULL;
	}
	if (!b && c->exc.vector == EXC_NONE)
		b = block_build(c, lin, page, gpa);
	if (!b && c->exc.vector == EXC_NONE)
		return split_build(c, lin, host, gpa);
	if (b)
		it->front[front_index(host)].host = host, it->front[front_index(host)].b = b;
	return b;
}

/* Set the link that led here if both ends allow it and lie in the same page, of linear and of host
 * memory (which may differ: the guest may be using a stale translation for one of them). */
static void link_set(struct tcg_cpu *c, struct block *b, u64 page_rip)
{
	struct interp *it = c->interp;

	if (it->link && b->link_ok && c->v.s.rip - page_rip < PAGE_SIZE &&
	    ALIGN_DOWN(b->host, PAGE_SIZE) == it->link_page)
		*it->link = b;
	it->link = NULL;
}

struct block *block_find(struct tcg_cpu *c)
{
	struct interp *it = c->interp;
	u64 rip = c->v.s.rip, page_rip = c->code_rip;
	gva_t lin = code_lin(c, rip);
	const struct tlb_entry *t = &c->tlb->x[tlb_index(lin)];
	unsigned i = front_index(lin + t->addend);
	struct block *b = NULL;

	it->key = block_key(c);
	if (likely(lin - t->tag < PAGE_SIZE) && it->front[i].host == lin + t->addend)
		b = it->front[i].b;
	if (!b || b->key != it->key) {
		if (!code_room(c, rip)) {
			raise_err(c, EXC_GP, 0);
			return NULL;
		}
		b = block_find_slow(c, lin);
		if (!b)
			return NULL;
	}
	if (unlikely(it->key & KEY_WIDE_CS) && code_room(c, rip) < b->bytes)
		return NULL;
	c->code_rip = rip - lin % PAGE_SIZE;
	link_set(c, b, page_rip);
	return b;
}

/* A link that is not set, leads to a dropped block or cannot be paid for now. */
HANDLER link_slow(struct tcg_cpu *c, struct block *from, unsigned n, u64 rip)
{
	struct block *b = from->to[n];

	if (b->insns == BLOCK_DEAD) {
		from->to[n] = &block_none;
		c->interp->link = &from->to[n];
		c->interp->link_page = ALIGN_DOWN(from->host, PAGE_SIZE);
	}
	c->v.s.rip = rip;
	return NULL;
}
