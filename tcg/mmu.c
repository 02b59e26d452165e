/* mmu.c - the software TLB, the places behind it, and pages that hold code; place.c reads and
 * writes the places.
 *
 * Owns struct mmu: one bank of TLB arrays per recently used PCID, each with a supervisor's and a
 * user's view.  Everything is the vCPU thread's own but struct code_map, which the machine's vCPUs
 * share without a lock.
 *
 * A view has four arrays: reads, writes, fetches (those three inline code looks up, mmu.h), and
 * stores to pages with decoded code, which only this file looks up.  Filled slots are noted in bit
 * maps, so that a flush costs what was filled.  An entry is filled only if every later access it
 * lets through would pass the walk: a write entry needs D set, and with SMAP on a user page gets
 * no entry in the supervisor's view, where EFLAGS.AC would have to be asked each time.
 *
 * Invariant: a page with a bit in the code map has no write entry on any vCPU, except between
 * mmu_code_added on one vCPU and the others' answer to VREQ_FLUSH (mmu_drop_code_writers).
 * What is stored by one in that time the vCPU with the code finds itself: block.c, fresh_look.
 * Source: SDM vol 3 "Caching Translation Information", "Process-Context Identifiers". */
#include <stdlib.h>

#include "place.h"

enum { BANKS = 8, KINDS = 4, WORDS = TLB_SIZE / 64, NO_BANK = -1 };
enum kind { KIND_R, KIND_W, KIND_X, KIND_C };

struct view {
	struct tlb t; /* kinds R, W, X, C */
	gpa_t x_gpa[TLB_SIZE], c_gpa[TLB_SIZE]; /* of kinds X and C */
	u64 used[KINDS * WORDS], global[KINDS * WORDS], big[KINDS * WORDS];
	u64 some[KINDS]; /* words of used that may not be 0 */
	/* Linear range that pieces of large pages came from, for the lower and the upper half. */
	struct {
		gva_t lo, hi;
	} large[2];
};
_Static_assert(WORDS == 64, "struct view's some");
_Static_assert(offsetof(struct view, t.c) == 3 * TLB_SIZE * sizeof(struct tlb_entry),
	       "view_entry() takes the four arrays for one");

struct bank {
	u16 pcid;
	u64 stamp; /* of its last selection, for choosing a victim */
	struct view view[2]; /* supervisor, user */
};

struct mmu {
	struct bank *bank[BANKS]; /* NULL: never used; of pool */
	struct bank *pool; /* BANKS and one more: memory that the host gives when it is touched */
	unsigned now; /* the bank of the current PCID */
	u64 stamp;
	struct bank *empty; /* never filled: every access takes the slow path (alignment checks) */
	gva_t global_lo, global_hi; /* linear range of global pages in any bank */
	u64 phys_mask;
	u64 pdpte[4];
	bool pdpte_valid;
	bool own_code; /* c->code is ours to free */
	struct tlb_entry no_stack; /* of a page nobody can name, for c->top.stack */
	u8 nobody[PAGE_SIZE];
};

/* --- views: fill, drop, flush ----------------------------------------------------------------- */
/* slot counts through all four arrays: kind * TLB_SIZE + index. */
static struct tlb_entry *view_entry(struct view *v, unsigned slot)
{
	return (struct tlb_entry *)v + slot;
}

static void view_put(u64 *map, unsigned slot, bool on)
{
	map[slot / 64] = (map[slot / 64] & ~BIT(slot % 64)) | (u64)on << slot % 64;
}

static void view_drop(struct view *v, unsigned slot)
{
	view_entry(v, slot)->tag = tlb_invalid_tag(slot % TLB_SIZE);
	view_put(v->used, slot, false);
}

static void view_init(struct view *v)
{
	for (unsigned slot = 0; slot < KINDS * TLB_SIZE; slot += TLB_SIZE)
		view_entry(v, slot)->tag = tlb_invalid_tag(0); /* the others are zero */
	for (unsigned half = 0; half < 2; half++)
		v->large[half].lo = ~0ull, v->large[half].hi = 0;
}

static void word_flush(struct view *v, unsigned w, bool keep_global)
{
	u64 drop = v->used[w] & ~(keep_global ? v->global[w] : 0);

	v->used[w] &= ~drop;
	view_put(v->some, w, v->used[w]);
	for (; drop; drop &= drop - 1) {
		unsigned slot = w * 64 + (unsigned)__builtin_ctzll(drop);

		view_entry(v, slot)->tag = tlb_invalid_tag(slot % TLB_SIZE);
	}
}

static void view_flush(struct view *v, bool keep_global)
{
	for (unsigned kind = 0; kind < KINDS; kind++)
		for (u64 some = v->some[kind]; some; some &= some - 1)
			word_flush(v, kind * WORDS + (unsigned)__builtin_ctzll(some), keep_global);
	for (unsigned half = 0; half < 2 && !keep_global; half++)
		v->large[half].lo = ~0ull, v->large[half].hi = 0;
}

/* Pieces of large pages in lin's gigabyte. */
static void word_drop_big(struct view *v, unsigned w, gva_t lin)
{
	for (u64 bits = v->used[w] & v->big[w]; bits; bits &= bits - 1) {
		unsigned slot = w * 64 + (unsigned)__builtin_ctzll(bits);

		if (view_entry(v, slot)->tag >> 30 == lin >> 30)
			view_drop(v, slot);
	}
}

/* Drop what INVLPG of lin must: its 4 KiB page, and if lin may lie in a large page, every piece
 * of large pages in the same gigabyte (no need to know which size it was). */
static void view_drop_page(struct view *v, gva_t lin)
{
	unsigned half = lin >> 63;

	for (unsigned slot = tlb_index(lin); slot < KINDS * TLB_SIZE; slot += TLB_SIZE)
		if (view_entry(v, slot)->tag == ALIGN_DOWN(lin, PAGE_SIZE))
			view_drop(v, slot);
	if (lin < v->large[half].lo || lin > v->large[half].hi)
		return;
	for (unsigned kind = 0; kind < KINDS; kind++)
		for (u64 some = v->some[kind]; some; some &= some - 1)
			word_drop_big(v, kind * WORDS + (unsigned)__builtin_ctzll(some), lin);
}

static void view_fill(struct mmu *m, struct view *v, enum kind kind, gva_t lin, const u8 *page,
		      const struct walk *w)
{
	unsigned slot = kind * TLB_SIZE + tlb_index(lin), half = lin >> 63;
	gva_t tag = ALIGN_DOWN(lin, PAGE_SIZE);

	*view_entry(v, slot) = (struct tlb_entry){ tag, (u64)(uintptr_t)page - tag };
	view_put(v->used, slot, true);
	view_put(v->some, slot / 64, true);
	view_put(v->global, slot, w->global);
	view_put(v->big, slot, w->shift > 12);
	if (w->shift > 12) {
		gva_t first = ALIGN_DOWN(lin, BIT(w->shift));

		v->large[half].lo = MIN(v->large[half].lo, first);
		v->large[half].hi = MAX(v->large[half].hi, first + BIT(w->shift) - 1);
	}
	if (w->global) {
		m->global_lo = MIN(m->global_lo, ALIGN_DOWN(lin, BIT(w->shift)));
		m->global_hi = MAX(m->global_hi, lin | (BIT(w->shift) - 1));
	}
}

/* --- banks ------------------------------------------------------------------------------------ */
static void bank_flush(struct bank *b, bool keep_global)
{
	view_flush(&b->view[0], keep_global);
	view_flush(&b->view[1], keep_global);
}

static int bank_of(const struct mmu *m, unsigned pcid)
{
	for (int i = 0; i < BANKS; i++)
		if (m->bank[i] && m->bank[i]->pcid == pcid)
			return i;
	return NO_BANK;
}

/* The n-th of the pool, for its first use. */
static struct bank *bank_new(struct mmu *m, unsigned n)
{
	view_init(&m->pool[n].view[0]);
	view_init(&m->pool[n].view[1]);
	return &m->pool[n];
}

/* Find or make room for a PCID. */
static unsigned bank_take(struct mmu *m, unsigned pcid)
{
	int i = bank_of(m, pcid);
	unsigned victim = 0;

	if (i != NO_BANK)
		return (unsigned)i;
	for (unsigned k = 0; k < BANKS; k++) {
		if (!m->bank[k]) {
			m->bank[k] = bank_new(m, k);
			victim = k;
			break;
		}
		if (m->bank[k]->stamp < m->bank[victim]->stamp)
			victim = k;
	}
	bank_flush(m->bank[victim], false);
	m->bank[victim]->pcid = (u16)pcid;
	return victim;
}

/* No tag is one that no address matches, as an entry of a TLB can have: code looks at c->top.stack
 * without an index.  So it is a page that is not canonical and that no guest can know, and whoever
 * hits on it nevertheless finds memory of nobody's. */
static void no_stack_init(struct mmu *m)
{
	u64 x = host_rdtsc() * 0x9e3779b97f4a7c15;

	m->no_stack.tag = ALIGN_DOWN((x ^ x >> 29) >> 2, PAGE_SIZE) | BIT(62);
	m->no_stack.addend = (u64)(uintptr_t)m->nobody - m->no_stack.tag;
}

void mmu_stack_forget(struct tcg_cpu *c)
{
	c->top.stack = c->mmu->no_stack;
}

void mmu_select(struct tcg_cpu *c)
{
	struct mmu *m = c->mmu;
	const struct cpu_state *s = &c->v.s;
	const struct tlb *before = c->tlb;
	unsigned pcid = s->cr4 & CR4_PCIDE && c->long_mode ? s->cr3 & 0xfff : 0;

	if (unlikely(m->bank[m->now]->pcid != pcid))
		m->now = bank_take(m, pcid);
	m->bank[m->now]->stamp = ++m->stamp;
	c->tlb_sup = &m->bank[m->now]->view[0].t;
	c->tlb = &m->bank[m->now]->view[c->cpl == 3].t;
	if (unlikely(c->cpl == 3 && s->rflags & FL_AC && s->cr0 & CR0_AM))
		c->tlb = &m->empty->view[0].t;
	if (c->tlb != before)
		mmu_stack_forget(c);
}

int mmu_init(struct tcg_cpu *c, struct err *e)
{
	struct mmu *m = calloc(1, sizeof *m);
	struct cpuid_out sizes;

	if (!m)
		return err_set(e, -ENOMEM, "software CPU: no memory for its TLB");
	c->mmu = m;
	no_stack_init(m);
	mmu_stack_forget(c);
	m->pool = host_pages_new((BANKS + 1) * sizeof *m->pool);
	if (!m->pool) {
		mmu_free(c);
		return err_set(e, -ENOMEM, "software CPU: no memory for its TLB");
	}
	if (!c->code) {
		c->code = code_map_new(c->v.env->mem, e);
		m->own_code = true;
	}
	if (!c->code) {
		mmu_free(c);
		return -ENOMEM;
	}
	cpuid_query(&c->v, 0x80000008, 0, &sizes);
	m->phys_mask = BIT(sizes.eax & 0xff) - 1;
	m->global_lo = ~0ull;
	return 0;
}

void mmu_start(struct tcg_cpu *c)
{
	struct mmu *m = c->mmu;

	if (m->bank[0])
		return;
	m->bank[0] = bank_new(m, 0);
	m->empty = bank_new(m, BANKS);
	c->tlb = c->tlb_sup = &m->bank[0]->view[0].t;
}

void mmu_free(struct tcg_cpu *c)
{
	struct mmu *m = c->mmu;

	if (!m)
		return;
	host_pages_free(m->pool, (BANKS + 1) * sizeof *m->pool);
	if (m->own_code) {
		code_map_free(c->code);
		c->code = NULL;
	}
	free(m);
	c->mmu = NULL;
}

/* --- maintenance ------------------------------------------------------------------------------ */
static void flush_banks(struct tcg_cpu *c, bool keep_global)
{
	struct mmu *m = c->mmu;

	for (unsigned i = 0; i < BANKS; i++)
		if (m->bank[i])
			bank_flush(m->bank[i], keep_global);
	if (!keep_global)
		m->global_lo = ~0ull, m->global_hi = 0;
	mmu_stack_forget(c);
	c->xlat_gen++;
}

void mmu_flush_all(struct tcg_cpu *c)
{
	flush_banks(c, false);
	c->mmu->pdpte_valid = false;
}

void mmu_flush_page(struct tcg_cpu *c, gva_t lin)
{
	struct mmu *m = c->mmu;
	bool global = lin >= m->global_lo && lin <= m->global_hi; /* then PCIDs do not matter */

	for (unsigned i = 0; i < BANKS; i++) {
		if (!m->bank[i] || (i != m->now && !global))
			continue;
		view_drop_page(&m->bank[i]->view[0], lin);
		view_drop_page(&m->bank[i]->view[1], lin);
	}
	mmu_stack_forget(c);
	c->xlat_gen++;
}

bool mmu_load_pdptes(struct tcg_cpu *c, u64 cr0, u64 cr3, u64 cr4, u64 efer)
{
	gpa_t table = cr3 & 0xffffffe0;
	u64 e[4];

	if (!(cr0 & CR0_PG) || !(cr4 & CR4_PAE) || efer & EFER_LMA)
		return true;
	for (unsigned i = 0; i < 4; i++) {
		bool rom;
		const u8 *p = phys_ptr(c, table + i * 8, &rom);

		e[i] = p ? __atomic_load_n((const u64 *)p, __ATOMIC_ACQUIRE) : ~0ull;
		if (!walk_pdpte_ok(c, e[i]))
			return raise_err(c, EXC_GP, 0);
	}
	memcpy(c->mmu->pdpte, e, sizeof e);
	c->mmu->pdpte_valid = true;
	return true;
}

/* The latched pointers.  After the state was replaced from outside (they are not part of it),
 * they are read again; one that fails the check counts as not present. */
u64 *mmu_pdptes(struct tcg_cpu *c)
{
	struct mmu *m = c->mmu;

	for (unsigned i = 0; i < 4 && !m->pdpte_valid; i++) {
		bool rom;
		const u8 *p = phys_ptr(c, (c->v.s.cr3 & 0xffffffe0) + i * 8, &rom);

		m->pdpte[i] = p ? ld64(p) : 0;
		if (!walk_pdpte_ok(c, m->pdpte[i]))
			m->pdpte[i] = 0;
	}
	m->pdpte_valid = true;
	return m->pdpte;
}

u64 mmu_phys_mask(const struct tcg_cpu *c)
{
	return c->mmu->phys_mask;
}

bool mmu_set_cr3(struct tcg_cpu *c, u64 val)
{
	struct cpu_state *s = &c->v.s;
	bool keep = false;

	if (c->long_mode) {
		if (s->cr4 & CR4_PCIDE) {
			keep = val >> 63;
			val &= ~BIT(63);
		}
		if (val & ~c->mmu->phys_mask)
			return raise_err(c, EXC_GP, 0);
	}
	if (!mmu_load_pdptes(c, s->cr0, val, s->cr4, s->efer))
		return false;
	s->cr3 = val;
	if (!(s->cr0 & CR0_PG))
		return true;
	mmu_select(c);
	if (!keep)
		bank_flush(c->mmu->bank[c->mmu->now], true);
	mmu_stack_forget(c);
	c->xlat_gen++;
	return true;
}

bool mmu_invpcid(struct tcg_cpu *c, u64 type, u64 pcid, gva_t lin)
{
	struct mmu *m = c->mmu;
	bool pcide = c->v.s.cr4 & CR4_PCIDE;

	if (type > 3 || (type < 2 && !pcide && pcid) || pcid > 0xfff ||
	    (type == 0 && !is_canonical(lin)))
		return raise_err(c, EXC_GP, 0);
	if (type >= 2) {
		flush_banks(c, type == 3);
		return true;
	}
	int i = bank_of(m, (unsigned)pcid);

	mmu_stack_forget(c);
	c->xlat_gen++;
	if (i == NO_BANK)
		return true;
	if (type == 1) {
		bank_flush(m->bank[i], true);
		return true;
	}
	view_drop_page(&m->bank[i]->view[0], lin); /* global entries too: allowed */
	view_drop_page(&m->bank[i]->view[1], lin);
	return true;
}

/* --- finding the place ------------------------------------------------------------------------ */
u8 *phys_ptr(const struct tcg_cpu *c, gpa_t gpa, bool *rom)
{
	const struct memory *m = c->v.env->mem;

	for (u32 i = 0; i < m->n; i++) {
		const struct mem_region *r = &m->region[i];

		if (gpa - r->gpa < r->bytes) {
			*rom = r->rom;
			return r->host + (gpa - r->gpa);
		}
	}
	return NULL;
}

void phys_written(struct tcg_cpu *c, gpa_t gpa, unsigned len)
{
	if (unlikely(code_map_hit(c->code, gpa, len)))
		interp_invalidate(c, gpa, len);
}

static bool lookup(struct tcg_cpu *c, struct view *v, gva_t lin, enum access acc, struct place *p)
{
	unsigned i = tlb_index(lin);
	const struct tlb_entry *t = acc & ACC_W	  ? &v->t.w[i]
				    : acc & ACC_X ? &v->t.x[i]
						  : &v->t.r[i];
	gva_t page = ALIGN_DOWN(lin, PAGE_SIZE);

	*p = (struct place){ .gpa = v->x_gpa[i] | lin % PAGE_SIZE };
	if (acc & ACC_W && v->t.c[i].tag == page) {
		t = &v->t.c[i];
		p->gpa = v->c_gpa[i] | lin % PAGE_SIZE;
		p->code = atomic_load_explicit(v->t.c_word[i], memory_order_acquire);
		if (!p->code) /* the page has become plain data: let a write entry be made */
			return false;
	}
	if (t->tag != page)
		return false;
	p->host = (u8 *)(uintptr_t)(lin + t->addend);
	return true;
}

/* Enter what the walk w allows: the kind asked for, and beside a read what needs no further
 * check. */
static void fill(struct tcg_cpu *c, struct view *v, gva_t lin, enum access acc,
		 const struct walk *w, const struct place *p)
{
	struct mmu *m = c->mmu;
	const u8 *page = (const u8 *)ALIGN_DOWN((uintptr_t)p->host, PAGE_SIZE);
	unsigned i = tlb_index(lin);

	c->stat_tlb_fills++;
	if (v == &m->bank[m->now]->view[0] && w->user && c->v.s.cr4 & CR4_SMAP && !(acc & ACC_X))
		return;
	if ((acc & (ACC_X | ACC_W)) == ACC_X) {
		v->x_gpa[i] = ALIGN_DOWN(p->gpa, PAGE_SIZE);
		view_fill(m, v, KIND_X, lin, page, w);
		return;
	}
	if (acc & ACC_R || !(acc & ACC_W))
		view_fill(m, v, KIND_R, lin, page, w);
	if (p->rom || !w->write || !w->dirty)
		return;
	if (p->code) {
		v->c_gpa[i] = ALIGN_DOWN(p->gpa, PAGE_SIZE);
		v->t.c_word[i] = code_map_word(c->code, p->gpa);
		view_fill(m, v, KIND_C, lin, page, w);
		return;
	}
	view_drop(v, KIND_C * TLB_SIZE + i);
	view_fill(m, v, KIND_W, lin, page, w);
}

/* Translate and check one byte's access, which stands for all in its page.  False: #PF, or
 * #GP(0) for an address that is not canonical. */
static bool locate(struct tcg_cpu *c, gva_t lin, enum access acc, bool sup, struct place *p)
{
	const struct cpu_state *s = &c->v.s;
	bool user = c->cpl == 3 && !sup;
	struct view *v = &c->mmu->bank[c->mmu->now]->view[user];
	struct walk w = {
		.gpa = ALIGN_DOWN(lin, PAGE_SIZE), .shift = 12, .write = true, .dirty = true
	};

	if (lookup(c, v, lin, acc, p))
		return true;
	if (c->long_mode && !is_canonical(lin))
		return raise_err(c, EXC_GP, 0);
	if (s->cr0 & CR0_PG) {
		struct walk_for how = { acc, user, s->rflags & FL_AC && c->cpl < 3 && !sup };

		if (!walk_tables(c, lin, how, &w)) {
			c->exc = (struct exc){
				.vector = EXC_PF, .has_error = true, .error = w.error, .cr2 = lin
			};
			return false;
		}
	}
	*p = (struct place){ .gpa = w.gpa | lin % PAGE_SIZE };
	if (place_is_lapic(c, p->gpa))
		return true;
	p->host = phys_ptr(c, p->gpa, &p->rom);
	if (!p->host)
		return true;
	if (w.write && !p->rom)
		p->code =
			atomic_load_explicit(code_map_word(c->code, p->gpa), memory_order_acquire);
	fill(c, v, lin, acc, &w, p);
	return true;
}

bool mmu_locate(struct tcg_cpu *c, gva_t lin, unsigned size, enum access acc, bool sup,
		struct place place[2], unsigned *first)
{
	gva_t second = lin_wrap(c, lin + PAGE_SIZE - lin % PAGE_SIZE, sup);

	*first = (unsigned)MIN(size, PAGE_SIZE - lin % PAGE_SIZE);
	if (*first == size)
		return locate(c, lin, acc, sup, &place[0]);
	if (!is_canonical(second))
		return raise_err(c, EXC_GP, 0); /* before a page fault on the first part */
	return locate(c, lin, acc, sup, &place[0]) && locate(c, second, acc, sup, &place[1]);
}

bool mmu_checks_alignment(const struct tcg_cpu *c)
{
	return c->tlb == &c->mmu->empty->view[0].t;
}

bool mmu_fetch(struct tcg_cpu *c, gva_t lin, const u8 **host, gpa_t *gpa)
{
	struct place p;

	lin = lin_wrap(c, lin, false);
	if (!locate(c, ALIGN_DOWN(lin, PAGE_SIZE), ACC_X, false, &p)) {
		if (c->exc.vector == EXC_PF)
			c->exc.cr2 = lin;
		return false;
	}
	*host = p.host;
	*gpa = p.gpa;
	return true;
}

/* --- code pages ------------------------------------------------------------------------------- */
/* Call fn, which may drop it, for each used write entry of every bank, or only those for the host
 * page `only`. */
static void each_writer(struct tcg_cpu *c, const u8 *only,
			void (*fn)(struct tcg_cpu *, struct view *, unsigned, const u8 *))
{
	mmu_stack_forget(c);
	for (unsigned i = 0; i < BANKS * 2; i++) {
		struct bank *b = c->mmu->bank[i / 2];

		struct view *v = b ? &b->view[i % 2] : NULL;

		for (u64 some = v ? v->some[KIND_W] : 0; some; some &= some - 1) {
			unsigned w = KIND_W * WORDS + (unsigned)__builtin_ctzll(some);

			for (u64 bits = v->used[w]; bits; bits &= bits - 1) {
				unsigned slot = w * 64 + (unsigned)__builtin_ctzll(bits);
				const struct tlb_entry *t = view_entry(v, slot);
				const u8 *host = (const u8 *)(uintptr_t)(t->tag + t->addend);

				if (!only || host == only)
					fn(c, v, slot, host);
			}
		}
	}
}

static void drop_writer(struct tcg_cpu *c, struct view *v, unsigned slot, const u8 *host)
{
	view_drop(v, slot);
}

void mmu_code_added(struct tcg_cpu *c, gpa_t gpa, u32 len)
{
	struct engine_env *env = c->v.env;
	bool rom;
	_Atomic u64 *w = code_map_word(c->code, gpa);

	if (!w || atomic_fetch_or(w, code_map_span(gpa, len)))
		return; /* not memory, or nobody has write entries */
	each_writer(c, phys_ptr(c, ALIGN_DOWN(gpa, PAGE_SIZE), &rom), drop_writer);
	if (env->nr_vcpus < 2)
		return;
	fp_leave(c);
	for (u32 i = 0; i < env->nr_vcpus; i++)
		if (env->vcpus[i] && env->vcpus[i] != &c->v)
			vcpu_request(env->vcpus[i], VREQ_FLUSH);
}

static void drop_if_code(struct tcg_cpu *c, struct view *v, unsigned slot, const u8 *host)
{
	const struct memory *m = c->v.env->mem;

	for (u32 i = 0; i < m->n; i++) {
		u64 off = (u64)(host - m->region[i].host);

		if (off >= m->region[i].bytes)
			continue;
		if (code_map_hit(c->code, m->region[i].gpa + off, PAGE_SIZE)) {
			view_drop(v, slot);
			interp_invalidate(c, m->region[i].gpa + off, PAGE_SIZE);
		}
		return;
	}
}

void mmu_drop_code_writers(struct tcg_cpu *c)
{
	each_writer(c, NULL, drop_if_code);
}
