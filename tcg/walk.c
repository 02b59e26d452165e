/* walk.c - the page-table walker: 32-bit, PAE and four-level paging.
 *
 * Owns nothing but the meaning of the tables.  Reads and updates them in guest RAM as a
 * processor does: entries change by compare-and-swap, and a table outside RAM reads as all ones.
 * Runs on the vCPU's thread.
 * Source: SDM vol 3 "Paging" (32-bit, PAE, 4-level paging; access rights; page-fault exceptions;
 * accessed and dirty flags).  Departure: A bits are set only when the whole walk succeeds, which
 * the SDM permits ("whenever there is a linear-address translation"). */
#include "walk.h"

enum {
	PTE_P = 1,
	PTE_W = 2,
	PTE_U = 4,
	PTE_A = 1 << 5,
	PTE_D = 1 << 6,
	PTE_PS = 1 << 7,
	PTE_G = 1 << 8
};
#define PTE_NX BIT(63)
#define PTE_ADDR 0x000ffffffffff000ull

/* One of the three table formats. */
struct format {
	u8 levels; /* tables to go through */
	u8 entry; /* bytes of an entry */
	u8 index_bits;
	u64 reserved; /* bits that must be 0 in every entry */
};

/* The entries of one walk, top first, to be marked accessed at its end. */
struct path {
	unsigned n;
	struct {
		void *host; /* NULL: not in RAM */
		gpa_t gpa;
		u64 old;
		bool rom;
	} at[4];
};

static struct format format_now(const struct tcg_cpu *c)
{
	const struct cpu_state *s = &c->v.s;
	u64 nx = s->efer & EFER_NX ? 0 : PTE_NX;

	if (c->long_mode)
		return (struct format){ 4, 8, 9, (PTE_ADDR & ~mmu_phys_mask(c)) | nx };
	if (s->cr4 & CR4_PAE) /* bits 62-52 are reserved too */
		return (struct format){ 2, 8, 9, (~mmu_phys_mask(c) & ~PTE_NX) | nx };
	return (struct format){ 2, 4, 10, 0 };
}

bool walk_pdpte_ok(const struct tcg_cpu *c, u64 e)
{
	return !(e & PTE_P) || !(e & (~mmu_phys_mask(c) | 0x1e6));
}

/* Is this entry the last of the walk? level counts down to 1. */
static bool is_leaf(const struct tcg_cpu *c, const struct format *f, unsigned level, u64 e)
{
	if (level == 1)
		return true;
	if (!(e & PTE_PS))
		return false;
	return f->entry == 4 ? c->v.s.cr4 & CR4_PSE : level <= 3;
}

/* Reserved bits beyond those of every entry: of large pages, and PS where there are none. */
static bool is_reserved(const struct tcg_cpu *c, const struct format *f, unsigned level, bool leaf,
			u64 e)
{
	if (e & f->reserved)
		return true;
	if (f->entry == 4) /* PSE-36: bits 20-13 are address bits 39-32 */
		return leaf && level == 2 &&
		       (e & BIT(21) || ((e >> 13 & 0xff) << 32 & ~mmu_phys_mask(c)));
	if (level == 4)
		return e & PTE_PS;
	if (leaf && level == 3)
		return e & 0x3fffe000;
	return leaf && level == 2 && e & 0x1fe000;
}

static u64 entry_load(const struct path *p, unsigned i, unsigned bytes)
{
	const void *host = p->at[i].host;

	if (!host)
		return ~0ull >> (64 - 8 * bytes);
	if (bytes == 4)
		return __atomic_load_n((const u32 *)host, __ATOMIC_ACQUIRE);
	return __atomic_load_n((const u64 *)host, __ATOMIC_ACQUIRE);
}

static bool entry_swap(void *host, unsigned bytes, u64 old, u64 new)
{
	u32 old32 = (u32)old;

	if (bytes == 4)
		return __atomic_compare_exchange_n((u32 *)host, &old32, (u32) new, false,
						   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	return __atomic_compare_exchange_n((u64 *)host, &old, new, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_RELAXED);
}

/* Set A along the path and D in the leaf.  False: an entry changed meanwhile, walk again. */
static bool mark_path(struct tcg_cpu *c, const struct path *p, unsigned bytes, bool dirty)
{
	for (unsigned i = 0; i < p->n; i++) {
		u64 old = p->at[i].old;
		u64 new = old | PTE_A | (dirty && i == p->n - 1 ? PTE_D : 0);

		if (new == old || !p->at[i].host || p->at[i].rom)
			continue;
		if (!entry_swap(p->at[i].host, bytes, old, new))
			return false;
		phys_written(c, p->at[i].gpa, bytes);
	}
	return true;
}

/* SDM vol 3 "Determination of Access Rights"; protection keys and shadow stacks are not offered. */
static bool write_allowed(const struct tcg_cpu *c, struct walk_for how, u64 rights)
{
	if (how.user)
		return (rights & (PTE_U | PTE_W)) == (PTE_U | PTE_W);
	if ((rights & PTE_U) && (c->v.s.cr4 & CR4_SMAP) && !how.ac)
		return false;
	return rights & PTE_W || !(c->v.s.cr0 & CR0_WP);
}

static bool access_allowed(const struct tcg_cpu *c, struct walk_for how, u64 rights, bool nx)
{
	if (how.acc & ACC_W)
		return write_allowed(c, how, rights);
	if (how.acc & ACC_X)
		return !nx &&
		       (how.user ? rights & PTE_U : !(rights & PTE_U && c->v.s.cr4 & CR4_SMEP));
	if (how.user)
		return rights & PTE_U;
	return !(rights & PTE_U) || !(c->v.s.cr4 & CR4_SMAP) || how.ac;
}

static u32 fault_code(const struct tcg_cpu *c, struct walk_for how, u32 why)
{
	const struct cpu_state *s = &c->v.s;
	bool fetch = (how.acc & (ACC_X | ACC_W)) == ACC_X &&
		     (s->cr4 & CR4_SMEP || (s->cr4 & CR4_PAE && s->efer & EFER_NX));

	return why | (how.acc & ACC_W ? PF_W : 0) | (how.user ? PF_U : 0) | (fetch ? PF_I : 0);
}

static void fill_leaf(const struct format *f, gva_t lin, unsigned level, u64 e, struct walk *w)
{
	u64 page;

	w->shift = (u8)(12 + (level - 1) * f->index_bits);
	page = e & PTE_ADDR;
	if (f->entry == 4 && level == 2)
		page = (e & 0xffc00000) | (e >> 13 & 0xff) << 32;
	w->gpa = (page & ~(BIT(w->shift) - 1)) | (lin & (BIT(w->shift) - 1) & ~0xfffull);
	w->global = e & PTE_G;
}

/* Table or PDPTE to start at.  False: the PDPTE is not present. */
static bool walk_root(struct tcg_cpu *c, gva_t lin, gpa_t *table)
{
	if (c->long_mode || !(c->v.s.cr4 & CR4_PAE)) {
		*table = c->v.s.cr3 & (c->long_mode ? PTE_ADDR & mmu_phys_mask(c) : 0xfffff000);
		return true;
	}
	u64 e = mmu_pdptes(c)[lin >> 30 & 3];

	*table = e & PTE_ADDR;
	return e & PTE_P;
}

enum outcome { WALK_OK, WALK_FAULT, WALK_AGAIN };

static enum outcome walk_once(struct tcg_cpu *c, gva_t lin, struct walk_for how, struct walk *w)
{
	struct format f = format_now(c);
	struct path p = { 0 };
	u64 rights = PTE_U | PTE_W;
	bool nx = false, leaf = false;
	gpa_t table;

	if (!walk_root(c, lin, &table)) {
		w->error = fault_code(c, how, 0);
		return WALK_FAULT;
	}
	for (unsigned level = f.levels; !leaf; level--) {
		unsigned shift = 12 + (level - 1) * f.index_bits, i = p.n++;

		p.at[i].gpa = table + (lin >> shift & (BIT(f.index_bits) - 1)) * f.entry;
		p.at[i].host = phys_ptr(c, p.at[i].gpa, &p.at[i].rom);
		u64 e = p.at[i].old = entry_load(&p, i, f.entry);

		if (!(e & PTE_P)) {
			w->error = fault_code(c, how, 0);
			return WALK_FAULT;
		}
		leaf = is_leaf(c, &f, level, e);
		if (is_reserved(c, &f, level, leaf, e)) {
			w->error = fault_code(c, how, PF_P | PF_RSVD);
			return WALK_FAULT;
		}
		rights &= e;
		nx |= f.entry == 8 && e & PTE_NX;
		table = e & (f.entry == 8 ? PTE_ADDR : 0xfffff000);
		if (leaf)
			fill_leaf(&f, lin, level, e, w);
	}
	if (!access_allowed(c, how, rights, nx)) {
		w->error = fault_code(c, how, PF_P);
		return WALK_FAULT;
	}
	w->user = rights & PTE_U;
	w->write = write_allowed(c, how, rights);
	w->dirty = how.acc & ACC_W || p.at[p.n - 1].old & PTE_D;
	w->global = w->global && c->v.s.cr4 & CR4_PGE;
	return mark_path(c, &p, f.entry, how.acc & ACC_W) ? WALK_OK : WALK_AGAIN;
}

bool walk_tables(struct tcg_cpu *c, gva_t lin, struct walk_for how, struct walk *w)
{
	enum outcome got;

	do /* round again only if another vCPU changed an entry: that one got on */
		got = walk_once(c, lin, how, w);
	while (got == WALK_AGAIN);
	return got == WALK_OK;
}
