/* mmu.c - page walks, permissions, the TLB and what must drop out of it, stores into code. */
#include "cpu.h"

#include "../../tcg/walk.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX BIT(63)
#define PAGE_AT 0x800000ull /* the guest physical page that tests map */

enum shape { L4_4K, L4_2M, L4_1G, PAE_4K, PAE_2M, LEG_4K, LEG_4M, SHAPES };
static const u8 shape_shift[SHAPES] = { 12, 21, 30, 12, 21, 12, 22 };

/* --- building tables -------------------------------------------------------------------------- */
static bool is_wide(enum shape sh)
{
	return sh < LEG_4K;
}

static void entry_put(struct cpu_rig *r, enum shape sh, gpa_t at, u64 e)
{
	if (is_wide(sh))
		st64(ram(r, at), e);
	else
		st32(ram(r, at), (u32)e);
}

static u64 entry_get(struct cpu_rig *r, enum shape sh, gpa_t at)
{
	return is_wide(sh) ? ld64(ram(r, at)) : ld32(ram(r, at));
}

/* Address of the level's entry for lin, making tables on the way with all rights. */
static gpa_t walk_to(struct cpu_rig *r, enum shape sh, gva_t lin, unsigned level)
{
	unsigned bits = is_wide(sh) ? 9 : 10, size = is_wide(sh) ? 8 : 4;
	unsigned top = sh <= L4_1G ? 4 : sh <= PAE_2M ? 3 : 2;
	gpa_t table = r->s->cr3 & ~0xfffull;

	for (unsigned l = top; l > level; l--) {
		gpa_t at = table + (lin >> (12 + (l - 1) * bits) & ((1 << bits) - 1)) * size;

		if (!(entry_get(r, sh, at) & P))
			entry_put(r, sh, at,
				  table_new(r) | P | (sh >= PAE_4K && l == 3 ? 0 : W | U));
		table = entry_get(r, sh, at) & 0xffffffffff000ull;
	}
	return table + (lin >> (12 + (level - 1) * bits) & ((1 << bits) - 1)) * size;
}

static unsigned leaf_level(enum shape sh)
{
	return shape_shift[sh] == 12 ? 1 : shape_shift[sh] == 30 ? 3 : 2;
}

/* Map lin's page to gpa; returns where the leaf entry is. */
static gpa_t map(struct cpu_rig *r, enum shape sh, gva_t lin, gpa_t gpa, u64 flags)
{
	gpa_t at = walk_to(r, sh, lin, leaf_level(sh));

	entry_put(r, sh, at, gpa | flags | (leaf_level(sh) > 1 ? PS : 0));
	return at;
}

/* Paging on in the given shape, nothing mapped, ring cpl. */
static struct cpu_rig *paging_rig(enum shape sh, unsigned cpl)
{
	struct cpu_rig *r = cpu_rig_new();
	struct cpu_state *s = r->s;

	if (sh <= L4_1G)
		long_mode(r, cpl);
	else
		protected_mode(r, cpl);
	s->cr3 = table_new(r);
	s->cr0 |= CR0_PG | CR0_WP;
	s->cr4 = (is_wide(sh) ? CR4_PAE : CR4_PSE) | CR4_PGE;
	s->efer |= EFER_NX;
	sync_state(r);
	return r;
}

/* PAE reads its four pointers with CR3. */
static void tables_done(struct cpu_rig *r)
{
	sync_state(r);
}

static void expect_fault(struct cpu_rig *r, u32 error, gva_t cr2)
{
	EQ(r->c->exc.vector, EXC_PF);
	EQ(r->c->exc.error, error);
	EQ(r->c->exc.cr2, cr2);
}

/* --- permissions ------------------------------------------------------------------------------ */
struct setting {
	bool u, w, nx, wp, smep, smap, ac, user, implicit;
	enum access acc;
};

/* SDM vol 3 "Determination of Access Rights", as its sentences stand. */
static bool may(const struct setting *t)
{
	bool supervisor_access = !t->user || t->implicit;

	if (!supervisor_access) {
		if (!t->u)
			return false;
		return t->acc == ACC_R || (t->acc == ACC_W && t->w) || (t->acc == ACC_X && !t->nx);
	}
	if (t->acc == ACC_X)
		return !t->nx && !(t->u && t->smep);
	if (t->u && t->smap && (t->implicit || !t->ac))
		return false;
	return t->acc == ACC_R || t->w || !t->wp;
}

static bool try_access(struct cpu_rig *r, const struct setting *t, gva_t lin)
{
	const u8 *host;
	gpa_t gpa;
	u64 v;

	if (t->acc == ACC_X)
		return mmu_fetch(r->c, lin, &host, &gpa);
	if (t->acc == ACC_W)
		return t->implicit ? lin_store_sys(r->c, lin, 4, 1) : lin_store(r->c, lin, 4, 1);
	return t->implicit ? lin_load_sys(r->c, lin, 4, &v) : lin_load(r->c, lin, 4, &v);
}

static void check_setting(struct cpu_rig *r, enum shape sh, const struct setting *t, gva_t lin)
{
	struct cpu_state *s = r->s;
	bool user_access = t->user && !t->implicit;
	u32 error = P | (t->acc == ACC_W ? PF_W : 0) | (user_access ? PF_U : 0);

	s->cr0 = (s->cr0 & ~(u64)CR0_WP) | (t->wp ? CR0_WP : 0);
	s->cr4 = (s->cr4 & ~(u64)(CR4_SMEP | CR4_SMAP)) | (t->smep ? CR4_SMEP : 0) |
		 (t->smap ? CR4_SMAP : 0);
	s->rflags = 2 | (t->ac ? FL_AC : 0);
	r->c->cc = 0x200;
	s->seg[SEG_SS].attr = (s->seg[SEG_SS].attr & ~(u32)ATTR_DPL) | (t->user ? ATTR_DPL : 0);
	map(r, sh, lin, ALIGN_DOWN(PAGE_AT, BIT(shape_shift[sh])),
	    P | (t->u ? U : 0) | (t->w ? W : 0) | (t->nx ? NX : 0));
	sync_state(r);
	if (t->acc == ACC_X && (t->smep || is_wide(sh)))
		error |= PF_I;
	/* twice: by the walk and by what the walk left in the TLB */
	for (unsigned i = 0; i < 2; i++) {
		bool ok = try_access(r, t, lin + 0x10);

		if (ok != may(t))
			test_fail(__FILE__, __LINE__,
				  "shape %d u%d w%d nx%d wp%d smep%d smap%d ac%d user%d "
				  "implicit%d acc %d: %s",
				  sh, t->u, t->w, t->nx, t->wp, t->smep, t->smap, t->ac, t->user,
				  t->implicit, t->acc, ok ? "allowed" : "refused");
		if (!ok)
			expect_fault(r, error, lin + 0x10);
	}
}

TEST(mmu_permissions_follow_the_manual_in_every_combination)
{
	for (enum shape sh = 0; sh < SHAPES; sh++) {
		struct cpu_rig *r = paging_rig(sh, 0);

		for (unsigned bits = 0; bits < 1 << 9; bits++) {
			for (enum access acc = ACC_R; acc <= ACC_X; acc <<= 1) {
				struct setting t = { bits & 1,
						     bits >> 1 & 1,
						     bits >> 2 & 1 && is_wide(sh),
						     bits >> 3 & 1,
						     bits >> 4 & 1,
						     bits >> 5 & 1,
						     bits >> 6 & 1,
						     bits >> 7 & 1,
						     bits >> 8 & 1,
						     acc };

				if (!(t.implicit && acc == ACC_X))
					check_setting(r, sh, &t, 0x40000000);
			}
		}
		cpu_rig_free(r);
	}
}

TEST(mmu_rights_of_every_level_count)
{
	for (enum shape sh = 0; sh < SHAPES; sh++) {
		struct cpu_rig *r = paging_rig(sh, 3);
		gva_t lin = 0x40001000;
		unsigned top = sh <= L4_1G ? 4 : 2;
		u64 v;

		map(r, sh, lin, ALIGN_DOWN(PAGE_AT, BIT(shape_shift[sh])), P | W | U);
		for (unsigned level = leaf_level(sh); level <= top; level++) {
			gpa_t at = walk_to(r, sh, lin, level);
			u64 e = entry_get(r, sh, at);

			tables_done(r);
			OK(lin_store(r->c, lin, 4, 1));
			entry_put(r, sh, at, e & ~(u64)U);
			tables_done(r);
			OK(!lin_load(r->c, lin, 4, &v));
			expect_fault(r, PF_P | PF_U, lin);
			entry_put(r, sh, at, e & ~(u64)W);
			tables_done(r);
			OK(lin_load(r->c, lin, 4, &v));
			OK(!lin_store(r->c, lin, 4, 1));
			expect_fault(r, PF_P | PF_U | PF_W, lin);
			entry_put(r, sh, at, 0);
			tables_done(r);
			OK(!lin_load(r->c, lin, 4, &v));
			expect_fault(r, PF_U, lin);
			entry_put(r, sh, at, e);
		}
		cpu_rig_free(r);
	}
}

TEST(mmu_reserved_bits_fault)
{
	static const struct {
		enum shape sh;
		unsigned level;
		u64 bits;
		bool need_no_nx;
	} rows[] = {
		{ L4_4K, 1, BIT(51), 0 },  { L4_4K, 4, PS, 0 },	      { L4_2M, 2, BIT(13), 0 },
		{ L4_2M, 2, BIT(20), 0 },  { L4_1G, 3, BIT(29), 0 },  { L4_1G, 3, BIT(13), 0 },
		{ L4_4K, 1, BIT(63), 1 },  { L4_4K, 3, BIT(63), 1 },  { PAE_4K, 1, BIT(62), 0 },
		{ PAE_4K, 2, BIT(52), 0 }, { PAE_2M, 2, BIT(14), 0 }, { PAE_4K, 1, BIT(63), 1 },
		{ LEG_4M, 2, BIT(21), 0 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct cpu_rig *r = paging_rig(rows[i].sh, 3);
		gva_t lin = 0x40000000;
		gpa_t at;
		u64 v;

		if (rows[i].need_no_nx)
			r->s->efer &= ~(u64)EFER_NX;
		map(r, rows[i].sh, lin, 0, P | W | U);
		tables_done(r);
		OK(lin_load(r->c, lin, 4, &v));
		at = walk_to(r, rows[i].sh, lin, rows[i].level);
		entry_put(r, rows[i].sh, at, entry_get(r, rows[i].sh, at) | rows[i].bits);
		tables_done(r);
		OK(!lin_load(r->c, lin, 4, &v));
		expect_fault(r, PF_P | PF_U | PF_RSVD, lin);
		cpu_rig_free(r);
	}
}

TEST(mmu_pae_pointers_are_checked_and_latched_with_cr3)
{
	struct cpu_rig *r = paging_rig(PAE_4K, 0);
	u64 v, cr3 = r->s->cr3;

	map(r, PAE_4K, 0x40000000, PAGE_AT, P | W);
	tables_done(r);
	OK(lin_load(r->c, 0x40000000, 4, &v));
	st64(ram(r, cr3) + 8, 0); /* not seen before CR3 is written */
	mmu_flush_page(r->c, 0x40000000);
	OK(lin_load(r->c, 0x40000000, 4, &v));
	OK(mmu_set_cr3(r->c, cr3));
	OK(!lin_load(r->c, 0x40000000, 4, &v));
	st64(ram(r, cr3) + 8, 0x1e7);
	OK(!mmu_set_cr3(r->c, cr3));
	EQ(r->c->exc.vector, EXC_GP);
	cpu_rig_free(r);
}

TEST(mmu_pse36_reaches_above_4_gib)
{
	struct cpu_rig *r = paging_rig(LEG_4M, 0);
	u64 v;

	map(r, LEG_4M, 0x40000000, 0, P | W | 1 << 13); /* 4 GiB: not backed, reads ones */
	tables_done(r);
	OK(lin_load(r->c, 0x40000000, 4, &v));
	EQ(v, 0xffffffff);
	cpu_rig_free(r);
}

/* --- accessed and dirty ----------------------------------------------------------------------- */
TEST(mmu_accessed_at_fill_and_dirty_at_the_first_write)
{
	for (enum shape sh = 0; sh < SHAPES; sh++) {
		struct cpu_rig *r = paging_rig(sh, 0);
		gva_t lin = 0x40000000;
		gpa_t at = map(r, sh, lin, ALIGN_DOWN(PAGE_AT, BIT(shape_shift[sh])), P | W);
		u64 v;

		tables_done(r);
		EQ(entry_get(r, sh, at) & (A | D), 0);
		OK(lin_load(r->c, lin, 4, &v));
		EQ(entry_get(r, sh, at) & (A | D), A);
		OK(tlb_read(r->c, lin, 4) && !tlb_write(r->c, lin, 4));
		OK(lin_store(r->c, lin, 4, 7));
		EQ(entry_get(r, sh, at) & (A | D), A | D);
		OK(tlb_write(r->c, lin, 4));
		for (unsigned l = leaf_level(sh) + 1; l <= (sh <= L4_1G ? 4u : 2u); l++)
			EQ(entry_get(r, sh, walk_to(r, sh, lin, l)) & (A | D), A);
		cpu_rig_free(r);
	}
}

TEST(mmu_a_refused_access_marks_nothing)
{
	struct cpu_rig *r = paging_rig(L4_4K, 3);
	gpa_t at = map(r, L4_4K, 0x1000000, PAGE_AT, P | U);

	tables_done(r);
	OK(!lin_store(r->c, 0x1000000, 4, 7));
	EQ(ld64(ram(r, at)) & (A | D), 0);
	cpu_rig_free(r);
}

/* --- addresses -------------------------------------------------------------------------------- */
TEST(mmu_an_empty_tlb_matches_no_address_at_all)
{
	struct cpu_rig *r = cpu_rig_new();
	static const u64 base[] = { 0,
				    0x8000000000000000,
				    0x8000000000000fff,
				    0xffff800000000000,
				    0x7ffffffff000,
				    0x800000000000,
				    ~0ull };

	long_mode(r, 3);
	for (unsigned i = 0; i < ARRAY_LEN(base); i++)
		for (u64 off = 0; off < 0x402000; off += 0x7ff)
			OK(!tlb_read(r->c, base[i] + off, 1) && !tlb_write(r->c, base[i] + off, 1));
	cpu_rig_free(r);
}

TEST(mmu_non_canonical_is_gp_and_for_the_stack_ss)
{
	struct cpu_rig *r = cpu_rig_new();
	gva_t lin;
	u64 v;

	long_mode(r, 0);
	OK(!lin_load(r->c, 0x800000000000, 8, &v));
	EQ(r->c->exc.vector, EXC_GP);
	EQ(r->c->exc.error, 0);
	OK(!lin_load(r->c, 0x7ffffffffffc, 8, &v)); /* its second half */
	EQ(r->c->exc.vector, EXC_GP); /* although the first half is not mapped */
	OK(!seg_lin(r->c, SEG_SS, 0x7ffffffffffc, 8, ACC_W, &lin));
	EQ(r->c->exc.vector, EXC_SS);
	OK(seg_lin(r->c, SEG_SS, 0x7ffffffffff8, 8, ACC_W, &lin));
	cpu_rig_free(r);
}

TEST(mmu_a_crossing_store_is_all_or_nothing)
{
	struct cpu_rig *r = paging_rig(L4_4K, 0);
	u64 v;

	map(r, L4_4K, 0x1000000, PAGE_AT, P | W);
	map(r, L4_4K, 0x1001000, PAGE_AT + 0x5000, P);
	tables_done(r);
	st32(ram(r, PAGE_AT) + 0xffc, 0x11111111);
	OK(!lin_store(r->c, 0x1000ffd, 8, ~0ull));
	expect_fault(r, PF_P | PF_W, 0x1001000);
	EQ(ld32(ram(r, PAGE_AT) + 0xffc), 0x11111111);
	map(r, L4_4K, 0x1001000, PAGE_AT + 0x5000, P | W);
	tables_done(r);
	for (unsigned size = 2; size <= 8; size *= 2) {
		for (unsigned off = 1; off < size; off++) {
			gva_t at = 0x1001000 - off;
			u64 mask = size == 8 ? ~0ull : BIT(8 * size) - 1;

			OK(lin_store(r->c, at, size, 0x8877665544332211));
			OK(lin_load(r->c, at, size, &v));
			EQ(v, 0x8877665544332211 & mask);
			EQ(ram(r, PAGE_AT + 0xfff)[0],
			   (0x8877665544332211 >> 8 * (off - 1)) & 0xff);
			EQ(ram(r, PAGE_AT + 0x5000)[0], (0x8877665544332211 >> 8 * off) & 0xff);
		}
	}
	cpu_rig_free(r);
}

TEST(mmu_32_bit_addresses_wrap)
{
	struct cpu_rig *r = paging_rig(LEG_4K, 0);
	u64 v;

	map(r, LEG_4K, 0xfffff000, PAGE_AT, P | W);
	map(r, LEG_4K, 0, PAGE_AT + 0x1000, P | W);
	tables_done(r);
	OK(lin_store(r->c, 0xfffffffe, 4, 0x44332211));
	EQ(ram(r, PAGE_AT)[0xfff], 0x22);
	EQ(ram(r, PAGE_AT + 0x1000)[0], 0x33);
	OK(lin_load(r->c, 0xfffffffe, 4, &v));
	EQ(v, 0x44332211);
	cpu_rig_free(r);
}

TEST(mmu_alignment_is_checked_at_ring_3_only)
{
	struct cpu_rig *r = cpu_rig_new();
	u64 v;

	long_mode(r, 3);
	r->s->cr0 |= CR0_AM;
	r->s->rflags |= FL_AC;
	tcg_engine.push(&r->c->v);
	OK(lin_load(r->c, 0x5000, 8, &v) && lin_load(r->c, 0x5001, 1, &v));
	OK(!lin_load(r->c, 0x5002, 4, &v));
	EQ(r->c->exc.vector, EXC_AC);
	OK(!lin_store(r->c, 0x5004, 8, 0));
	OK(lin_load_sys(r->c, 0x5002, 4, &v));
	r->s->rflags &= ~(u64)FL_AC;
	mmu_select(r->c);
	OK(lin_load(r->c, 0x5002, 4, &v));
	cpu_rig_free(r);
}

/* --- what is not RAM -------------------------------------------------------------------------- */
static struct {
	u64 off, val;
	unsigned size, reads, writes;
} seen;

static u64 probe_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	seen.off = off;
	seen.size = size;
	seen.reads++;
	return 0x8877665544332211 & (size == 8 ? ~0ull : BIT(8 * size) - 1);
}

static void probe_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	seen.off = off;
	seen.size = size;
	seen.val = val;
	seen.writes++;
}

static const struct device_ops probe_ops = {
	.name = "probe", .access_max = 8, .read = probe_read, .write = probe_write
};

TEST(mmu_devices_rom_and_holes)
{
	struct device dev = { .ops = &probe_ops };
	struct cpu_rig *r = cpu_rig_new();
	u8 rom[PAGE_SIZE] __attribute__((aligned(4096))) = { 0x5a };
	struct err e;
	void *host;
	u64 v;

	OK(memory_add(&r->mem, 0xfffff000, PAGE_SIZE, rom, true, &e) == 0);
	tcg_engine.free(&r->env); /* memory is laid out before the engine starts */
	tcg_engine.vcpu_free(r->vcpus[0]);
	OK(tcg_engine.init(&r->env, &e) == 0);
	r->c = tcg_of(r->vcpus[0] = tcg_engine.vcpu_new(&r->env, 0, &e));
	r->s = &r->c->v.s;
	long_mode(r, 0);
	OK(bus_map(&r->mmio, 0xd0000000, 0x1000, &dev, 0) == 0);
	OK(lin_load(r->c, 0xd0000010, 4, &v));
	EQ(v, 0x44332211);
	EQ(seen.off, 0x10);
	OK(!tlb_read(r->c, 0xd0000010, 4));
	OK(lin_store(r->c, 0xd0000018, 8, 0x123456789a));
	EQ(seen.size, 8);
	EQ(seen.val, 0x123456789a);
	OK(lin_host(r->c, 0xd0000010, 4, ACC_R, &host) && !host);
	OK(lin_load(r->c, 0xe0000000, 8, &v));
	EQ(v, -1);
	OK(lin_store(r->c, 0xe0000000, 8, 1));
	OK(lin_load(r->c, 0xfffff000, 1, &v));
	EQ(v, 0x5a);
	OK(lin_store(r->c, 0xfffff000, 1, 0));
	EQ(rom[0], 0x5a);
	OK(lin_host(r->c, 0xfffff000, 1, ACC_W, &host) && !host);
	r->mem.n--; /* the ROM is this function's */
	cpu_rig_free(r);
}

TEST(mmu_byte_copies_cross_pages_or_do_nothing)
{
	struct cpu_rig *r = paging_rig(L4_4K, 0);
	u8 in[600], out[600];

	map(r, L4_4K, 0x1000000, PAGE_AT, P | W);
	map(r, L4_4K, 0x1001000, PAGE_AT + 0x7000, P | W);
	tables_done(r);
	for (unsigned i = 0; i < sizeof in; i++)
		in[i] = (u8)test_random();
	OK(lin_write_bytes(r->c, 0x1000f00, in, sizeof in));
	OK(lin_read_bytes(r->c, 0x1000f00, out, sizeof out));
	EQ(memcmp(in, out, sizeof in), 0);
	EQ(memcmp(ram(r, PAGE_AT + 0x7000), in + 256, sizeof in - 256), 0);
	memset(ram(r, PAGE_AT + 0x7000), 0, 0x1000);
	OK(!lin_write_bytes(r->c, 0x1001f00, in, sizeof in));
	EQ(ram(r, PAGE_AT + 0x7f00)[0], 0);
	cpu_rig_free(r);
}

/* --- flushing --------------------------------------------------------------------------------- */
static u64 peek(struct cpu_rig *r, gva_t lin)
{
	u64 v = 0;

	return lin_load(r->c, lin, 4, &v) ? v : 0xdead;
}

TEST(mmu_invlpg_drops_all_of_a_large_page_and_only_it)
{
	for (enum shape sh = L4_2M; sh <= L4_1G; sh++) {
		struct cpu_rig *r = paging_rig(sh, 0);
		gpa_t at = map(r, sh, 0x40000000, 0, P | W);
		gva_t a = 0x40000000 + 0x100000, b = a + 0x3000;

		map(r, L4_4K, 0x8000000000, PAGE_AT, P | W);
		st32(ram(r, 0x100000), 1);
		st32(ram(r, 0x103000), 2);
		st32(ram(r, PAGE_AT), 3);
		tables_done(r);
		st32(ram(r, 0x103000), 2);
		OK(peek(r, a) != 0xdead && peek(r, b) == 2 && peek(r, 0x8000000000) == 3);
		st64(ram(r, at), 0);
		EQ(peek(r, b), 2);
		mmu_flush_page(r->c, a);
		EQ(peek(r, b), 0xdead);
		OK(tlb_read(r->c, 0x8000000000, 4));
		cpu_rig_free(r);
	}
}

static struct cpu_rig *pcid_rig(gpa_t pte[2])
{
	struct cpu_rig *r = paging_rig(L4_4K, 0);

	pte[0] = map(r, L4_4K, 0x1000000, PAGE_AT, P | W);
	pte[1] = map(r, L4_4K, 0x2001000, PAGE_AT + 0x1000, P | W | G);
	st32(ram(r, PAGE_AT), 1);
	st32(ram(r, PAGE_AT + 0x1000), 2);
	st32(ram(r, PAGE_AT + 0x2000), 9);
	r->s->cr4 |= CR4_PCIDE;
	tables_done(r);
	EQ(peek(r, 0x1000000), 1);
	EQ(peek(r, 0x2001000), 2);
	/* from now on the tables say 9 */
	st64(ram(r, pte[0]), (PAGE_AT + 0x2000) | P | W);
	st64(ram(r, pte[1]), (PAGE_AT + 0x2000) | P | W | G);
	return r;
}

TEST(mmu_cr3_keeps_global_pages_and_with_bit_63_everything)
{
	gpa_t pte[2];
	struct cpu_rig *r = pcid_rig(pte);
	u64 cr3 = r->s->cr3;

	OK(mmu_set_cr3(r->c, cr3 | BIT(63)));
	EQ(r->s->cr3, cr3);
	EQ(peek(r, 0x1000000), 1);
	OK(mmu_set_cr3(r->c, cr3));
	EQ(peek(r, 0x1000000), 9);
	EQ(peek(r, 0x2001000), 2);
	mmu_flush_all(r->c);
	EQ(peek(r, 0x2001000), 9);
	cpu_rig_free(r);
}

TEST(mmu_each_pcid_has_its_own_entries)
{
	gpa_t pte[2];
	struct cpu_rig *r = pcid_rig(pte);
	u64 cr3 = r->s->cr3;

	OK(mmu_set_cr3(r->c, cr3 | 5));
	EQ(peek(r, 0x1000000), 9);
	OK(mmu_set_cr3(r->c, cr3 | BIT(63)));
	EQ(peek(r, 0x1000000), 1);
	for (unsigned pcid = 100; pcid < 130; pcid++) /* more than there are banks */
		OK(mmu_set_cr3(r->c, cr3 | pcid | BIT(63)));
	OK(mmu_set_cr3(r->c, cr3 | BIT(63)));
	EQ(peek(r, 0x1000000), 9);
	cpu_rig_free(r);
}

TEST(mmu_invlpg_drops_global_entries_of_other_pcids)
{
	gpa_t pte[2];
	struct cpu_rig *r = pcid_rig(pte);
	u64 cr3 = r->s->cr3;

	OK(mmu_set_cr3(r->c, cr3 | 5));
	mmu_flush_page(r->c, 0x2001000);
	OK(mmu_set_cr3(r->c, cr3 | BIT(63)));
	EQ(peek(r, 0x2001000), 9);
	cpu_rig_free(r);
}

TEST(mmu_invpcid_types)
{
	static const struct {
		u64 type, pcid;
		gva_t lin;
		u32 first, second; /* what the two pages read as afterwards, seen from PCID 0 */
	} rows[] = {
		{ 0, 0, 0x1000000, 9, 2 }, { 0, 5, 0x1000000, 1, 2 }, { 1, 0, 0, 9, 2 },
		{ 1, 5, 0, 1, 2 },	   { 2, 0, 0, 9, 9 },	      { 3, 0, 0, 9, 2 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		gpa_t pte[2];
		struct cpu_rig *r = pcid_rig(pte);

		OK(mmu_set_cr3(r->c, r->s->cr3 | 5));
		OK(mmu_invpcid(r->c, rows[i].type, rows[i].pcid, rows[i].lin));
		OK(mmu_set_cr3(r->c, (r->s->cr3 & ~0xfffull) | BIT(63)));
		EQ(peek(r, 0x1000000), rows[i].first);
		EQ(peek(r, 0x2001000), rows[i].second);
		OK(!mmu_invpcid(r->c, 4, 0, 0) && !mmu_invpcid(r->c, 0, 0x1000, 0));
		OK(!mmu_invpcid(r->c, 0, 0, 0x800000000000));
		EQ(r->c->exc.vector, EXC_GP);
		cpu_rig_free(r);
	}
}

TEST(mmu_random_flushes_against_a_flat_model)
{
	/* Sixteen 4 KiB pages and two 2 MiB pages whose entries change; after each INVLPG or CR3
	 * load the pages it covers must read through the new entry.  Pages not covered may read
	 * old or new. */
	struct cpu_rig *r = paging_rig(L4_4K, 0);
	gva_t lin[18];
	gpa_t pte[18];
	u64 now[18];

	for (unsigned i = 0; i < 18; i++) {
		lin[i] = i < 16 ? 0x1000000 + i * 0x401000ull : 0x80000000 + i * 0x200000ull;
		pte[i] = map(r, i < 16 ? L4_4K : L4_2M, lin[i], i < 16 ? PAGE_AT : 0x400000, P | W);
	}
	for (unsigned k = 0; k < 8; k++) {
		st32(ram(r, PAGE_AT + k * 0x1000), k);
		st32(ram(r, 0x400000 + k * 0x200000 + 0x5000), k + 100);
	}
	st32(ram(r, PAGE_AT + 0x5000), 5); /* both kinds of page may share it */
	tables_done(r);
	for (unsigned step = 0; step < 4000; step++) {
		unsigned i = test_random() % 18, k = test_random() % 8;
		u64 off = i < 16 ? 0 : 0x5000;

		if (i >= 16)
			k = k % 2; /* 4 and 6 MiB: below the small pages' targets */
		st64(ram(r, pte[i]), (i < 16 ? PAGE_AT + k * 0x1000 : 0x400000 + k * 0x200000) | P |
					     W | (i < 16 ? 0 : PS));
		now[i] = i < 16 ? k : k + 100;
		if (test_random() % 8)
			mmu_flush_page(r->c, lin[i] + (i < 16 ? 0x123 : test_random() % 0x200000));
		else
			OK(mmu_set_cr3(r->c, r->s->cr3));
		EQ(peek(r, lin[i] + off), now[i]);
	}
	cpu_rig_free(r);
}

/* --- stores into code ------------------------------------------------------------------------- */
TEST(mmu_code_pages_lose_their_write_entries)
{
	struct cpu_rig *r = cpu_rig_new();
	void *host;

	long_mode(r, 0);
	OK(lin_store(r->c, CODE, 4, 0));
	OK(tlb_write(r->c, CODE, 4));
	mmu_code_added(r->c, CODE + 0x40, 8);
	OK(!tlb_write(r->c, CODE, 4));
	OK(lin_store(r->c, CODE + 0x80, 4, 0x12345678));
	OK(!tlb_write(r->c, CODE, 4));
	EQ(ld32(ram(r, CODE + 0x80)), 0x12345678);
	OK(code_map_hit(r->c->code, CODE + 0x7f, 1) && !code_map_hit(r->c->code, CODE + 0x80, 64));
	OK(code_map_hit(r->c->code, CODE, 0x41) && !code_map_hit(r->c->code, CODE, 0x40));
	OK(lin_host(r->c, CODE + 0x40, 8, ACC_W, &host) && !host);
	OK(lin_host(r->c, CODE + 0x80, 8, ACC_W, &host) && host == ram(r, CODE + 0x80));
	code_map_clear(r->c->code, CODE, PAGE_SIZE);
	OK(lin_store(r->c, CODE, 4, 0));
	OK(tlb_write(r->c, CODE, 4));
	cpu_rig_free(r);
}

TEST(mmu_changed_code_is_executed_as_changed)
{
	struct cpu_rig *r = cpu_rig_new();

	long_mode(r, 0);
	for (unsigned i = 0; i < 50; i++) {
		/* mov $i, %eax; hlt */
		OK(lin_store(r->c, CODE + 100, 1, 0xb8) && lin_store(r->c, CODE + 101, 4, i));
		OK(lin_store(r->c, CODE + 105, 1, 0xf4));
		r->s->rip = CODE + 100;
		r->s->mp_state = MP_RUNNABLE;
		interp_run(r->c);
		EQ(r->s->gpr[RAX], i);
	}
	cpu_rig_free(r);
}

TEST(mmu_the_walk_itself_can_change_code)
{
	struct cpu_rig *r = paging_rig(L4_4K, 0);
	gpa_t at = map(r, L4_4K, 0x1000000, PAGE_AT, P | W);
	u64 v;

	tables_done(r);
	mmu_code_added(r->c, at, 8); /* the entry's bytes count as code: setting A must drop it */
	u64 before = r->c->stat_invalidated;

	OK(lin_load(r->c, 0x1000000, 4, &v));
	OK(r->c->stat_invalidated >= before);
	EQ(ld64(ram(r, at)) & A, A);
	cpu_rig_free(r);
}
