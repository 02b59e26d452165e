/* exec.c - fuzz target: hostile machine code with all privileged state.  The input gives the mode,
 * some words to write into tables and control registers, and code at CODE.  Three times: by the
 * interpreter, by blocks translated at their first chance, and, if the two disagree, by the
 * interpreter again: code that reads a clock or a random number disagrees with itself. */
#include "kit.h"

#include <stdio.h>

#include "../../tcg/exec.h"
#include "../../tcg/native.h"

enum {
	GDT = 0x1000, IDT = 0x2000, TSS = 0x3000, HANDLERS = 0x3800, TABLES = 0x4000,
		STACK = 0x9000,
	STACK3 = 0xa000, CODE = 0x10000, CODE_MAX = 0x1000, RAM = 1 << 20, SLICE = 300, SLICES = 12,
};
enum { CS64 = 8, DS = 16, CS32 = 24, CS64_3 = 0x23, DS_3 = 0x2b, CS32_3 = 0x33, TSS_SEL = 0x38 };
enum start { REAL, FLAT32, LONG0, LONG3, STARTS };

struct side {
	struct memory mem;
	struct bus pio, mmio;
	pthread_mutex_t lock;
	struct engine_env env;
	struct vcpu *vcpus[1];
	struct tcg_cpu *c;
};

static struct side *side_new(bool interp_only)
{
	struct side *s = calloc(1, sizeof *s);
	struct err e;

	pthread_mutex_init(&s->lock, NULL);
	bus_init(&s->pio, "pio", &s->lock);
	bus_init(&s->mmio, "mmio", &s->lock);
	if (memory_init(&s->mem, RAM, &e) < 0)
		abort();
	s->env = (struct engine_env){ .mem = &s->mem, .pio = &s->pio, .mmio = &s->mmio,
				      .lock = &s->lock, .vcpus = s->vcpus, .nr_vcpus = 1,
				      .tsc_khz = 2000000, .interp_only = interp_only,
				      .tcg_cache_bytes = 4 * MIB };
	if (tcg_engine.init(&s->env, &e) < 0 ||
	    !(s->vcpus[0] = tcg_engine.vcpu_new(&s->env, 0, &e)))
		abort();
	s->c = tcg_of(s->vcpus[0]);
	return s;
}

/* --- where it starts -------------------------------------------------------------------------- */
static u64 descriptor(u32 attr)
{
	return 0xffff | (u64)(attr & 0xf0ff) << 40 | 0xfull << 48;
}

/* Every vector's handler is at HANDLERS, or 16 bytes on if there is an error code to drop: it goes
 * on two bytes further. */
static void put_tables(u8 *ram)
{
	static const u32 errors = 0x227d00; /* vectors with an error code: 8, 10-14, 17, 21 */
	static const u8 back[7] = { 0x48, 0x83, 0x04, 0x24, 2, 0x48, 0xcf };
	static const u8 drop[6] = { 0x48, 0x83, 0xc4, 8, 0xeb, 0xea };
	u64 *gdt = (u64 *)(ram + GDT), *table = (u64 *)(ram + TABLES);

	gdt[1] = descriptor(0xa09b);
	gdt[2] = descriptor(0xc093);
	gdt[3] = descriptor(0xc09b);
	gdt[4] = descriptor(0xa0fb);
	gdt[5] = descriptor(0xc0f3);
	gdt[6] = descriptor(0xc0fb);
	gdt[7] = 0x67 | (u64)TSS << 16 | 0x8bull << 40;
	memcpy(ram + HANDLERS, back, sizeof back);
	memcpy(ram + HANDLERS + 16, drop, sizeof drop);
	for (unsigned v = 0; v < 32; v++) {
		u64 at = HANDLERS + (errors >> v & 1 ? 16 : 0);

		st64(ram + IDT + v * 16, (at & 0xffff) | CS64 << 16 | 0x8eull << 40 |
			(at >> 16) << 48);
		st32(ram + v * 4, CODE + 0x800); /* real mode's table */
	}
	st64(ram + TSS + 4, STACK);
	for (unsigned i = 0; i < 3; i++)
		table[512 * i] = (u64)(TABLES + 0x1000 * (i + 1)) | 7;
	for (u64 page = 0; page < RAM / PAGE_SIZE; page++)
		table[512 * 3 + page] = page << 12 | 7;
}

static void set_long(struct cpu_state *s, unsigned cpl)
{
	u32 dpl = cpl << ATTR_DPL_SHIFT;

	s->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_ET | CR0_MP | CR0_WP;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	s->xcr0 = 7;
	s->cr3 = TABLES;
	s->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NX;
	s->seg[SEG_CS] = (struct seg_reg){ cpl ? CS64_3 : CS64, 0xa09b | dpl, 0xffffffff, 0 };
	s->gpr[RSP] = cpl ? STACK3 : STACK;
}

static void set_state(struct cpu_state *s, enum start start)
{
	cpu_state_reset(s, true);
	s->seg[SEG_CS].sel = CODE >> 4;
	s->seg[SEG_CS].base = CODE;
	s->rip = start == REAL ? 0 : CODE;
	s->gpr[RSP] = STACK;
	s->gdt = (struct table_reg){ GDT, 0x3f };
	s->idt = (struct table_reg){ start == REAL ? 0 : IDT, 0x1ff };
	s->tsc_offset = 0;
	for (unsigned i = 0; i < 16; i++)
		if (i != RSP)
			s->gpr[i] = CODE + 0x2000 + i * 0x108;
	if (start == REAL)
		return;
	for (unsigned i = 0; i < SEG_NR; i++)
		s->seg[i] = (struct seg_reg){ start == LONG3 ? DS_3 : DS,
			start == LONG3 ? 0xc0f3 : 0xc093, 0xffffffff, 0 };
	s->tr = (struct seg_reg){ TSS_SEL, 0x8b, 0x67, TSS };
	s->cr0 = CR0_PE | CR0_NE | CR0_ET;
	s->seg[SEG_CS] = (struct seg_reg){ CS32, 0xc09b, 0xffffffff, 0 };
	if (start >= LONG0)
		set_long(s, start == LONG3 ? 3 : 0);
}

/* One word of the script: into a register that only the kernel has, or into the tables. */
static void patch(struct side *side, struct script *in)
{
	struct cpu_state *s = &side->c->v.s;
	u8 what = (u8)script_take(in, 1);
	u64 val = script_take(in, 2);

	switch (what & 15) {
	case 0:
		s->cr0 ^= val << (what >> 4 & 1 ? 16 : 0) &
			  (CR0_WP | CR0_TS | CR0_EM | CR0_AM | CR0_NE);
		break;
	case 1: s->cr4 ^= val & ~(u64)CR4_PAE & 0x3f; break;
	case 2: s->rflags ^= val & 0x7fd5; break;
	case 3: s->dr[what >> 4 & 3] = CODE + val % CODE_MAX; break;
	case 4: s->dr[7] = val | (u64)what << 16; break;
	case 5: s->seg[(what >> 4) % SEG_NR].base = val << 8; break;
	case 6: s->idt.limit = (u16)val; break;
	case 7: s->gpr[what >> 4] = val << (val & 15); break;
	default: st32(mem_ptr(&side->mem, GDT, 1) + (val & 0x6ffc), (u32)script_take(in, 4));
	}
}

/* --- running ---------------------------------------------------------------------------------- */
enum end { HALTED, SHUT_DOWN, RAN_ON };

/* What has been found so far is translated at its next run. */
static void warm(struct tcg_cpu *c)
{
	for (unsigned i = 0; i < HASH_SIZE; i++)
		for (struct block *b = c->interp->hash[i]; b; b = b->hash_next)
			if (b->heat > 1)
				b->heat = 1;
}

static enum end run(struct tcg_cpu *c)
{
	native_thread_init(c);
	for (unsigned slice = 0; slice < SLICES; slice++) {
		c->budget = slice ? SLICE : SLICE / 10;
		interp_run(c);
		if (c->exc.vector != EXC_NONE) {
			c->v.s.mp_state = MP_RUNNABLE;
			c->shutdown |= !exc_dispatch(c);
		} else if (c->v.s.mp_state == MP_RUNNABLE && !c->shutdown) {
			interp_one(c); /* a breakpoint or the trap flag keeps interp_run away */
			if (c->exc.vector != EXC_NONE)
				c->shutdown |= !exc_dispatch(c);
		}
		if (c->shutdown || c->v.s.mp_state != MP_RUNNABLE)
			break;
		if (c->trans && slice < 3) {
			fp_leave(c);
			warm(c);
		}
	}
	tcg_engine.pull(&c->v);
	/* Whether a part in its initial state counts as in use is the host's business;
	 * MXCSR_MASK is there once the state has been in its registers. */
	st64(c->v.s.xsave + XSAVE_HEADER_OFF, 7);
	st32(c->v.s.xsave + 28, 0);
	return c->shutdown ? SHUT_DOWN : c->v.s.mp_state == MP_RUNNABLE ? RAN_ON : HALTED;
}

static enum end play(struct side *side, const u8 *data, size_t len)
{
	struct script in = { data, len };
	u8 *ram = mem_ptr(&side->mem, 0, RAM), head = (u8)script_take(&in, 1);

	memset(ram, 0, RAM);
	put_tables(ram);
	memset(&side->c->v.s, 0, sizeof side->c->v.s);
	set_state(&side->c->v.s, (enum start)(head & 3));
	for (unsigned n = head >> 2 & 7; n; n--)
		patch(side, &in);
	memset(ram + CODE, 0xf4, CODE_MAX); /* HLT: runs end where the code does */
	memcpy(ram + CODE, in.at, MIN(in.left, CODE_MAX));
	tcg_engine.push(&side->c->v);
	return run(side->c);
}

/* Saved, since the plain struct has holes. */
static bool same_state(struct side *a, struct side *b)
{
	struct state x, y;
	bool same;

	state_init_save(&x);
	state_init_save(&y);
	cpu_state_visit(&a->c->v.s, &x);
	cpu_state_visit(&b->c->v.s, &y);
	same = x.len == y.len && !memcmp(x.buf, y.buf, x.len);
	state_free(&x);
	state_free(&y);
	return same;
}

static bool same(struct side *a, struct side *b)
{
	return !memcmp(mem_ptr(&a->mem, 0, RAM), mem_ptr(&b->mem, 0, RAM), RAM) && same_state(a, b);
}

static void first_difference(const char *what, const void *a, const void *b, size_t n)
{
	const u8 *p = a, *q = b;

	for (size_t i = 0; i < n; i++)
		if (p[i] != q[i]) {
			fprintf(stderr, "%s differ at %#zx: %02x, %02x\n", what, i, p[i], q[i]);
			return;
		}
}

static void show(const char *who, const struct side *side)
{
	char text[1024];

	cpu_state_text(&side->c->v.s, text, sizeof text);
	fprintf(stderr, "%s:\n%s\n", who, text);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	static struct side *interp, *trans, *again;
	enum end end;

	if (!interp) {
		interp = side_new(true);
		trans = side_new(false);
		again = side_new(true);
	}
	end = play(interp, data, len);
	if (play(trans, data, len) == end && (end != HALTED || same(interp, trans)))
		return 0;
	if (end == RAN_ON || play(again, data, len) != end || !same(interp, again))
		return 0;
	if (trans->c->v.s.mp_state == MP_RUNNABLE && !trans->c->shutdown)
		return 0; /* it did not get as far */
	show("interpreter", interp);
	show("translator", trans);
	first_difference("states", &interp->c->v.s, &trans->c->v.s, sizeof interp->c->v.s);
	first_difference("memories", mem_ptr(&interp->mem, 0, RAM), mem_ptr(&trans->mem, 0, RAM),
		RAM);
	abort();
}
