/* exec.h - what the interpreter's files share: block cache structures, operand templates for
 * handlers, and how one handler goes on to the next.
 *
 * A handler does its whole instruction and then either calls the next one as a tail call, next(),
 * or returns it to the loop of interp_run (`return in + 1`): after a slow path, since that loop
 * looks whether a store has dropped the running block.  Fast handlers cover only the hit path; on a
 * TLB miss they tail-call the general handler, which does the instruction from its start. */
#pragma once

#include "alu.h"
#include "mmu.h"
#include "ops.h"
#include "tcg.h"

enum {
	BLOCK_MAX = 32,           /* instructions */
	FRONT_SIZE = 1 << 12,     /* direct-mapped by host address */
	HASH_SIZE = 1 << 16,
	CODE_PAGES = 1 << 12,     /* buckets of pages that hold blocks */
	GRANULE = 64,             /* bytes of a page that share a list */
	QUIET_MAX = 32,           /* after so many stores a page's empty granules are plain data */
	KILLS_MAX = 8,            /* after so many that hit code a page's code is gone */
	BUDGET = 10000,           /* instructions between two looks at the clock */
	KEY_WIDE_CS = 4,          /* code segment not flat: its limit needs a look at each entry */
	KEY_SPLIT = 8,            /* one instruction that crosses into another page */
	/* 32-bit code as everybody runs it: protected mode, ES, CS, SS and DS flat, 32-bit stack */
	KEY_FLAT = 16,
	INSN_MAX = 15,            /* bytes */
	INBOX_MAX = 32,
};
#define BLOCK_DEAD (1 << 30)      /* insns of a dropped block: no budget can pay for it */

/* A run of decoded instructions inside one page.  Blocks are found by the host address of their
 * first byte, which stands for the guest physical address, and by key: enum cpu_mode and KEY_*. */
struct block {
	u64 host;
	struct block *to[2];      /* linked successors in the same page: next, taken; never NULL */
	gpa_t gpa;
	insn_fn first;            /* insn[0].fn before the translator put its own there */
	struct block *hash_next, *granule_next;
	s32 insns;                /* what running it costs the budget; BLOCK_DEAD once dropped */
	u32 trans;                /* its translation, 0: none */
	u32 size;                 /* of its memory */
	u16 bytes;
	u16 heat;                 /* runs left before it is translated */
	u16 seen;                 /* what that was at the last sweep of the arena */
	u8 key;
	bool link_ok;             /* may have and be the end of links */
	bool no_groups;           /* its translation checks each access by itself */
	u8 narrow;                /* how often what small indices reach was not in one page */
	bool no_loop, sure_loop;  /* ... is not made a loop of; that has been worth it */
	/* The last one always leaves the block.  KEY_SPLIT: behind it are the bytes it was made
	 * from. */
	struct insn insn[];
};

static inline u8 *block_raw(struct block *b)
{
	return (u8 *)&b->insn[1] + INSN_HEAD;
}

/* The block of its last instruction or of what stands behind that, whose aux says how far in. */
static inline struct block *insn_block(const struct insn *in)
{
	return (struct block *)((char *)(in - in->aux) - offsetof(struct block, insn));
}

/* The blocks that begin in one guest page, by granule of their first byte. */
struct code_page {
	gpa_t gpa;
	struct code_page *next;
	u32 longest;              /* bytes of the longest block */
	u32 quiet;                /* stores to its empty granules since a block was built here */
	u32 kills;                /* stores that dropped blocks since then */
	struct block *granule[PAGE_SIZE / GRANULE];
};

enum {
	ARENA_BYTES = 16 << 20, /* unless --tcg-cache says otherwise */
	BLOCK_MOST = sizeof(struct block) + (BLOCK_MAX + 1) * sizeof(struct insn) + INSN_MAX,
};

enum { FRESH_MAX = 256 };

struct interp {
	struct {
		u64 host;         /* b's: a miss must not cost a look at some cold block */
		struct block *b;
	} front[FRONT_SIZE];
	struct block *hash[HASH_SIZE];
	struct code_page *page[CODE_PAGES];
	/* Memory of blocks, see arena.c */
	u8 *arena, *at, *end;     /* at to end is free */
	struct block *gap;        /* so are these, by hash_next */
	u64 arena_bytes, open;    /* open: of them are used */
	struct code_page *pages, *page_spare;
	u32 pages_used;           /* of pages[CODE_PAGES] */
	_Alignas(16) u8 draft[BLOCK_MOST]; /* the block that is being decoded */
	bool dropped;             /* a block was dropped: the running one must be left */
	u8 key;
	struct block **link;      /* link to set once the next block is known, or NULL */
	u64 link_page;            /* host page of the block it belongs to */
	struct insn one;          /* for interp_one */
	bool stepping;            /* a repeated instruction does one iteration */
	u64 pause_tsc, spin_tsc;  /* the last PAUSE; the first of those in quick succession */
	u64 look_tsc;             /* host TSC when the timer is worth a look */
	/* Code changed by others: another vCPU's stores, DMA.  guard: inbox_lock */
	pthread_mutex_t inbox_lock;
	u32 inbox_n;              /* INBOX_MAX + 1: too many to list */
	struct {
		gpa_t gpa;
		u64 len;
	} inbox[INBOX_MAX];
	/* Blocks made while another vCPU could still store to their page unseen: see fresh_look. */
	struct fresh {
		const u8 *host;
		gpa_t gpa;
		u32 len;
		u64 sum;
	} fresh[FRESH_MAX];
	u32 fresh_n;
	u64 stat_flushes, stat_sweeps, stat_steps;
};

extern struct block block_none; /* what unset links point to: costs more than any budget */

#define HANDLER const struct insn *
#define always_inline inline __attribute__((always_inline))

/* Go on with in.  Only an optimizing compiler makes this a jump; without that the stack would grow
 * with every instruction, and the loop of interp_run has to do it.  A caller must not have the
 * address of a local in use: tests/unit/interp_host.c finds out. */
static always_inline HANDLER go_on(struct tcg_cpu *c, const struct insn *in)
{
#ifdef __NO_INLINE__
	return in;
#else
	return in->fn(c, in);
#endif
}

static always_inline HANDLER next(struct tcg_cpu *c, const struct insn *in)
{
	return go_on(c, in + 1);
}

/* --- registers and operands --------------------------------------------------------------- */
static always_inline u64 reg_get(const struct tcg_cpu *c, unsigned reg, unsigned size)
{
	const void *p = &c->v.s.gpr[reg];

	switch (size) {
	case 1: return *(const u8 *)p;
	case 2: return *(const u16 *)p;
	case 4: return *(const u32 *)p;
	default: return *(const u64 *)p;
	}
}

/* 32-bit results clear the upper half; 8- and 16-bit ones leave the rest alone. */
static always_inline void reg_set(struct tcg_cpu *c, unsigned reg, unsigned size, u64 val)
{
	void *p = &c->v.s.gpr[reg];

	switch (size) {
	case 1: *(u8 *)p = (u8)val; break;
	case 2: *(u16 *)p = (u16)val; break;
	case 4: *(u64 *)p = (u32)val; break;
	default: *(u64 *)p = val; break;
	}
}

/* A far or near transfer's target wraps to the code segment's width. */
static inline u64 rip_mask(const struct insn *in, u64 rip)
{
	return in->mode == MODE_64 ? rip : in->mode == MODE_32 ? (u32)rip : (u16)rip;
}

/* Width of rCX, rSI and rDI in string instructions and loops. */
static inline u64 addr_mask(const struct insn *in)
{
	return size_mask(in->asize);
}

static inline void addr_reg_set(struct tcg_cpu *c, const struct insn *in, unsigned reg, u64 val)
{
	reg_set(c, reg, in->asize, val);
}

static inline HANDLER insn_raise(struct tcg_cpu *c, const struct insn *in, u8 vector)
{
	raise(c, vector);
	return insn_fault(c, in);
}

static inline HANDLER insn_raise_err(struct tcg_cpu *c, const struct insn *in, u8 vector, u32 error)
{
	raise_err(c, vector, error);
	return insn_fault(c, in);
}

/* Linear address of the memory operand, checked for acc. */
static inline bool insn_lin(struct tcg_cpu *c, const struct insn *in, unsigned size,
			    enum access acc, gva_t *lin)
{
	return seg_lin(c, in->seg, insn_ea(c, in), size, acc, lin);
}

/* The stack: values move at rSP, whose width is the stack segment's. */
bool stack_push(struct tcg_cpu *c, unsigned size, u64 val);
bool stack_peek(struct tcg_cpu *c, u64 skip, unsigned size, u64 *val); /* at rSP + skip */
void stack_drop(struct tcg_cpu *c, u64 bytes);                          /* rSP += bytes */

/* --- leaving a block ---------------------------------------------------------------------- */
static always_inline bool is_kicked(const struct tcg_cpu *c)
{
	return atomic_load_explicit(&c->kicked, memory_order_relaxed);
}

/* A serialising instruction: what is fresh must be looked at before the next one. */
static always_inline void serialise(struct tcg_cpu *c)
{
	if (unlikely(c->interp->fresh_n))
		atomic_store(&c->kicked, 1);
}

/* What a handler returns that may have brought about a request, such as an interrupt or the drop of
 * code, which must be looked at before the next instruction. */
static always_inline HANDLER insn_end_if_kicked(struct tcg_cpu *c, const struct insn *in)
{
	serialise(c);
	return is_kicked(c) ? insn_end(c, in) : in + 1;
}

/* Are there requests to look at before an instruction is repeated or a block run? */
static inline bool must_leave(const struct tcg_cpu *c)
{
	return c->budget < BLOCK_MAX || is_kicked(c);
}

/* Pay for running b, or take nothing: what is taken and given back could be added to what tcg_hurry
 * stores between the two. */
static always_inline bool block_pay(struct tcg_cpu *c, const struct block *b)
{
	s32 left = c->budget - b->insns;

	if (unlikely(left < 0) || unlikely(is_kicked(c)))
		return false;
	c->budget = left;
	return true;
}

static always_inline HANDLER block_enter(struct tcg_cpu *c, struct block *b, u64 rip)
{
	if (!block_pay(c, b)) {
		c->v.s.rip = rip;
		return NULL;
	}
	return go_on(c, b->insn);
}

HANDLER link_slow(struct tcg_cpu *c, struct block *from, unsigned n, u64 rip);

/* To a target in this page: follow link n of the block we are in, or have it set. */
static always_inline HANDLER go_link(struct tcg_cpu *c, struct block *from, unsigned n, u64 rip)
{
	struct block *b = from->to[n];

	if (!block_pay(c, b))
		return link_slow(c, from, n, rip);
	return go_on(c, b->insn);
}

static always_inline unsigned front_index(u64 host)
{
	return (unsigned)(host ^ host >> 12) & (FRONT_SIZE - 1);
}

/* The block at a 64-bit address if the fetch TLB and the front cache know it, else NULL. */
static always_inline struct block *front_64(struct tcg_cpu *c, u64 rip)
{
	const struct tlb_entry *t = &c->tlb->x[tlb_index(rip)];
	u64 host = rip + t->addend;
	unsigned i = front_index(host);

	if (unlikely(rip - t->tag >= PAGE_SIZE) || unlikely(c->interp->front[i].host != host))
		return NULL;
	return likely(c->interp->front[i].b->key == MODE_64) ? c->interp->front[i].b : NULL;
}

static always_inline HANDLER front_go(struct tcg_cpu *c, struct block *b, u64 rip)
{
	c->code_rip = rip & ~(PAGE_SIZE - 1);
	return block_enter(c, b, rip);
}

/* To any 64-bit address, or leave and have it looked for. */
static always_inline HANDLER go_64(struct tcg_cpu *c, u64 rip)
{
	struct block *b = front_64(c, rip);

	if (likely(b))
		return front_go(c, b, rip);
	c->v.s.rip = rip;
	return NULL;
}

/* --- handlers other files of the interpreter choose --------------------------------------- */
insn_fn insn_general(const struct insn *in);              /* works alone, in any mode */
insn_fn fast_choose(const struct insn *in);               /* NULL: none */
bool fast_end(struct insn *in, struct block *b);          /* terminators that follow links */
void fast_fuse(struct insn *in);                          /* in and in + 1 as one */
void fast_init(void);

/* Operand 0 is memory at lin, read, changed by drv with b, and written: atomically under LOCK. */
HANDLER drive_rmw_at(struct tcg_cpu *c, const struct insn *in, gva_t lin, drv_fn drv, u64 b);
HANDLER exec_driver(struct tcg_cpu *c, const struct insn *in);
HANDLER exec_bit_scan(struct tcg_cpu *c, const struct insn *in);
HANDLER exec_guarded(struct tcg_cpu *c, const struct insn *in);

/* arena.c */
int arena_init(struct interp *it, u64 bytes);
void arena_free(struct interp *it);
void arena_empty(struct interp *it); /* no block is there any more */
/* For a block of so many bytes; all pointers to blocks may be void afterwards.  There is then one
 * for arena_take_page() too. */
struct block *arena_take(struct tcg_cpu *c, u64 bytes);
struct code_page *arena_take_page(struct interp *it);

/* block.c */
void block_forget(struct tcg_cpu *c, struct block *b);
bool block_drop_range(struct tcg_cpu *c, gpa_t gpa, u64 len);
bool block_in_range(struct tcg_cpu *c, gpa_t gpa, u64 len);
/* Another thread made code in [gpa, gpa+len) stale: drop it at c's next look at its requests. */
void interp_post(struct tcg_cpu *c, gpa_t gpa, u64 len);
void interp_take_posts(struct tcg_cpu *c);
void fresh_look(struct tcg_cpu *c); /* unless fresh_n is 0 */
/* For s.rip; NULL: c->exc, or not cacheable. */
struct block *block_find(struct tcg_cpu *c);
bool insn_fetch(struct tcg_cpu *c, struct insn *in);      /* decode at s.rip; false: c->exc */
HANDLER exec_fall_through(struct tcg_cpu *c, const struct insn *in);

/* Atomic accesses that no host instruction can make (MMIO, page crossing) exclude each other by one
 * lock. */
void split_lock(void);
void split_unlock(void);

/* step.c: TF and debug registers need a look at every instruction. */
bool step_wanted(const struct tcg_cpu *c);
void step_one(struct tcg_cpu *c);
