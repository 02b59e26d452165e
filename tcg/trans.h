/* trans.h - the translator: hot blocks of 64-bit and of flat 32-bit code as host code, see trans.c;
 * shared by its files.
 *
 * Registers in translated code, everywhere: guest RAX to RDI but RSP, R8 and R12 to R14 are the
 * host's of the same number, guest RSP is host R15, guest R9, R10, R11 and R15 are in s.gpr[]. Host
 * R9, R10, R11 are ours, host RSP is at tcg_cpu.v, by which they are reached: a processor that
 * renames memory (AMD since Zen 2, Intel since Golden Cove) forwards a store to a load by the same
 * register and displacement in no time, which takes five to eight cycles by other ways.  Signals
 * have a stack of their own; what our calls push lies in front (tcg_cpu.pushed).  Guest x87 and
 * vector state is in the host's registers whenever an instruction needs it.
 *
 * Flags are in EFLAGS or in c->cc, known for each place when it is translated; a block has an entry
 * for either.  Those that will be written before anything in the block reads them may be in
 * neither: trans_flags.c. */
#pragma once

#include "exec.h"
#include "native.h"

enum {
	T0 = R9,
	T1 = R10,
	T2 = R11, /* ours; T0: the operand's address */
	HOST_SP = R15, /* where guest RSP is */
	TRANS_BLOCKS = 1 << 16,
	TRANS_SITES = 1 << 19,
	TRANS_BLOCK_BYTES = 32 << 10, /* of host code, at most */
	HEAT = 16, /* runs before a block is translated, unless a test says otherwise */
	JUMP_BITS = 14,
	EDGES = 4, /* two of the block, the rest of its loop */
	USERS = 4,
	PATH_MAX = 5, /* blocks of a loop */
	NO_EXIT = 0,
	EXIT_AT = 1 << 30, /* trans_hot.exit: where to go on, see trans_leave */
};

/* How flags can be computed: trans_flags.c.  note 0: no way, or none needed. */
struct flags_made {
	u32 note, top;
};

/* An instruction that the host may answer with a fault of the guest's. */
struct trans_site {
	u32 at; /* offset of its code */
	const struct insn *in;
	bool flags_live; /* the guest's flags are in EFLAGS there, not in c->cc */
	u16 borrowed;    /* registers of the guest that are in hot.borrow[] */
	struct flags_made note;
};

/* A jump to another block of the same page. */
struct trans_edge {
	u32 at; /* offset of its rel32; 0: none */
	u16 pgoff; /* where it goes */
	bool reg; /* flags are in EFLAGS */
	bool told; /* and in c->cc, or a note of them, by these registers */
	u16 regs;
	u32 out; /* offset of the code that leaves, where it goes while not linked */
	u32 next; /* another edge to the same block: EDGES * block + edge; 0: none */
};

struct trans_block {
	struct block *b; /* NULL: dropped */
	u32 at; /* offset of its first byte; blocks are in order of it */
	u64 rip; /* where the guest ran it first */
	u32 enter_mem, enter_reg, dead_mem, dead_reg;
	/* For jumps from a block that has seen to the FP state: the same without that, and forward
	 * also without a look at the budget. */
	u32 fp_mem, fp_reg, pass_mem, pass_reg;
	u8 fp_need, mode; /* enum cpu_mode */
	bool dead;   /* it reads no flags, nor leaves any that it finds */
	u16 spoilt;  /* registers that it may change while those could be seen */
	u32 site, sites;
	u32 in; /* the first edge that leads here, see next */
	u16 misses; /* of groups' checks, that a fill of the TLB did not help */
	u64 since;  /* TSC when the first of them was */
	struct loop_trial {
		u32 insns; /* of a run */
		s32 left; /* entries until it is decided */
		u16 cost, gain; /* of an entry, of each run: in host instructions */
		u64 given, unused; /* runs, in guest instructions */
	} trial;
	struct trans_edge edge[EDGES];
	u32 used_by[USERS]; /* translations of loops with this block in them; 0: none */
};

struct trans {
	struct code_cache cache;
	struct trans_block *pool; /* [0] is none */
	u32 blocks;
	struct trans_site *site;
	u32 sites;
	u32 pending; /* EDGES * block + edge: that edge led out of translated code; 0 none */
	u16 heat;
	bool busy; /* translating: a dropped block is not to be reused */
	/* Offsets of the common code */
	u32 enter, out, out_flags, leave_rip, far, find, step, step_flags, fp, group, split, loop,
		trap, beside, stack_r, stack_w;
	u64 near_gen; /* c->xlat_gen when hot.near[] was emptied last */
	bool counting; /* --tcg-stats: translated code counts as well */
	bool bmi2;     /* the host has it */
	struct trans_stats {
		u64 blocks, bytes_in, bytes_out, cycles, flushes, enters, paid;
		u64 links; /* made between blocks */
		u64 loops; /* that passed their trial */
		/* why it was left; the rest: target unknown */
		u64 unlinked, budget, ended, exceptions;
		u64 missed; /* checks of addresses, whose access the interpreter did */
		u64 *handler; /* calls of each row's handler; NULL unless counting */
	} stat;
	u32 map_gen; /* of the perf map these blocks are in */
	bool map_stale; /* it has blocks that are no more */
};

static inline u8 *trans_rw(const struct trans *t, u32 off)
{
	return t->cache.rw + off;
}

/* trans.c */
HANDLER trans_count(struct tcg_cpu *c, const struct insn *in);
/* Called by translated code: false to leave it. */
bool trans_step(struct tcg_cpu *c, const struct insn *in);
bool trans_fp(struct tcg_cpu *c, struct block *b);
/* The check of a group missed; info: see group_info(). */
bool trans_group(struct tcg_cpu *c, const struct insn *in, u64 info);
bool trans_split(struct tcg_cpu *c, struct block *b);
/* The loop b's trial is over. */
bool trans_loop(struct tcg_cpu *c, struct block *b);
bool trans_trap(struct tcg_cpu *c, const struct insn *unused);

/* perfmap.c: the newest block gets its line; code memory is about to be used again. */
void perf_map_block(struct tcg_cpu *c);
void perf_map_flush(struct tcg_cpu *c);

/* trans_thunk.c: the code that all blocks share. */
void trans_thunks(struct tcg_cpu *c, struct trans *t);

/* trans_block.c: b's translation at a; false if it did not fit. */
bool trans_emit(struct tcg_cpu *c, struct block *b, struct trans_block *tb, struct x64 *a);

/* --- a block being translated ----------------------------------------------------------------- */
/* How an instruction is done. */
enum way {
	WAY_STEP,
	WAY_NOP,
	WAY_LEA,
	WAY_OP,
	WAY_PUSH,
	WAY_POP,
	WAY_LEAVE,
	WAY_PUSHF,
	WAY_IF, /* CLI, STI */
	WAY_FROM_SREG,
	WAY_BITS, /* of memory, by a register */
	WAY_STRING, /* REP MOVS, REP STOS */
	WAY_ELEMENT, /* LODS, STOS, SCAS */
	WAY_JCC,
	WAY_JMP,
	WAY_CALL,
	WAY_RET,
	WAY_RCX
};

/* Accesses that share a check: see trans_group.c.  INDEX_SMALL: each by an index of its own that is
 * known to be small, so the span is of all that they can reach. */
enum { INDEX_SMALL = ~2 };
struct group_key {
	u32 base, index, seg, scale;
};

struct group {
	struct group_key key;
	s64 lo, hi; /* the span, from the key's address */
	u32 count, left; /* accesses; those to come */
	bool write, checked;
	bool stack; /* checked by c->top.stack: what is known is how far the host's addresses are */
	bool saved; /* and it is in hot.span[] */
	/* In a loop, see trans_loop.c */
	bool hoisted;
	u8 host;     /* register with what is to be added, or REG_NONE: it is in hot.span[] */
	/* guest register in the key that changes from one run to the next, or REG_NONE */
	u8 var;
	s32 step;    /* of the address, each time */
};

enum { ACCESS_MEM, ACCESS_STACK, ACCESSES };
struct touch {
	u8 group;
	bool wide; /* eff is without the index, which is small */
	s64 eff; /* from the key's address */
	s64 base_off, index_off; /* of the registers, from the key's */
};

/* [base + index << scale + disp] of the host. */
struct host_at {
	u8 base, index; /* index: REG_NONE, none */
	u8 scale;
	s32 disp;
};

struct group_info;

struct late { /* code that stands behind the block */
	u8 *jump; /* its rel32 */
	u8 *back; /* where it goes on, or NULL */
	u8 *beside; /* a store that may be to a page with code: where it goes on if it hits none */
	const struct insn *in;
	u32 thunk; /* what is called, unless the interpreter for the instruction */
	u64 group; /* for trans_group */
	u8 *stack;    /* where it goes on if c->top.stack only was another page's */
	s32 stack_at; /* the span's start, from RSP */
	struct flags_made note;
	bool flags; /* EFLAGS are expected there */
	bool loop; /* from the loop's body, whose registers are not as elsewhere */
};

static inline void host_at_put(struct x64_op *o, const struct host_at *m)
{
	o->mem = true;
	o->rm = m->base;
	o->has_index = m->index != REG_NONE;
	o->index = m->index;
	o->scale = m->scale;
	o->disp = m->disp;
}

/* The block as a loop: see trans_loop.c. */
struct loop {
	bool on;           /* its body is being emitted */
	bool inductive;    /* some group's address changes */
	u16 borrowed;      /* registers of the guest that are used for something else */
	u16 taken;         /* borrowed ones and of T0 to T2, that have a purpose */
	u8 counter;        /* the register with what is left to pay, or REG_NONE: in top.left */
	u8 home[16];       /* of guest registers that have none elsewhere, or REG_NONE */
	s64 delta[16];     /* what a run adds to a register */
	u16 steady;        /* registers that a run changes by delta only */
	u8 *back;          /* rel32 of the ordinary code's jump to the loop */
	struct block *path[PATH_MAX]; /* what it is made of */
	unsigned blocks;   /* 0: none */
	u8 *again;         /* where the ordinary code pays and begins */
	u8 fp_need;        /* the ordinary code's */
	u32 told;           /* on the flags after a run; 0: they have to be kept */
};

/* Bytes of an address, a stack slot, a jump's operand. */
static inline u8 insn_word(const struct insn *in)
{
	return in->mode == MODE_64 ? 8 : 4;
}

struct emit {
	struct x64 *a;
	struct tcg_cpu *c;
	struct trans *t;
	struct block *b;
	struct trans_block *tb;
	const struct insn *insn[BLOCK_MAX]; /* the block's, or its loop's */
	unsigned n;
	u8 word; /* see insn_word() */
	bool no_groups;
	u8 narrow; /* see struct block */
	/* Flags before each instruction that are read; and those that a fault would show. */
	u16 live[BLOCK_MAX + 1], seen[BLOCK_MAX + 1];
	bool in_reg, in_mem; /* where they are now; both may be */
	bool lazy[BLOCK_MAX]; /* flags that it keeps need not be where it leaves its own */
	struct flags_made made_at[BLOCK_MAX + 1]; /* what can be noted before each */
	struct flags_made note; /* on those that are nowhere; else none */
	u32 told; /* the note in c->cc, for the next block */
	/* Up to six for each, and some at the start. */
	struct late late[6 * BLOCK_MAX + 4];
	unsigned lates;
	struct touch touch[BLOCK_MAX][ACCESSES];
	struct group group[2 * BLOCK_MAX + 1]; /* [0] is none */
	unsigned groups;
	u16 cached; /* bits T0 to T2 */
	struct group *at_t0; /* T0 is what is known of it */
	struct host_at mem; /* the memory operand */
	struct loop loop;
	u8 fp_need; /* bytes of c->fp_live ff. */
};

_Static_assert(offsetof(struct tcg_cpu, v) == 128, "what is in front has one-byte offsets");
#define GS_OFF(field) ((s32)(offsetof(struct tcg_cpu, field) - offsetof(struct tcg_cpu, v)))
static inline s32 gs_gpr(unsigned reg)
{
	return GS_OFF(v.s.gpr) + (s32)reg * 8;
}

/* Has guest reg no register of the host's? */
static inline bool reg_homeless(unsigned reg)
{
	return (reg >= R9 && reg <= R11) || reg == R15;
}

/* The host register that holds guest reg, or REG_NONE. */
static inline unsigned host_reg(const struct emit *e, unsigned reg)
{
	if (reg == RSP)
		return HOST_SP;
	if (reg_homeless(reg))
		return e->loop.on ? e->loop.home[reg] : REG_NONE;
	return reg;
}

/* trans_code.c */
enum { OP_ADD, OP_OR, OP_ADC, OP_SBB, OP_AND, OP_SUB, OP_XOR, OP_CMP }; /* for x64_alu_imm */
enum { CC_B = 2, CC_E = 4, CC_NE = 5, CC_A = 7, CC_S = 8, CC_L = 12 };
void emit_call(struct x64 *a, const u8 *to);
void emit_gs_imm(struct x64 *a, unsigned digit, s32 off, u32 imm); /* op dword gs:[off], imm */
void emit_gs_set32(struct x64 *a, s32 off, u32 imm);
void emit_imm32(struct x64 *a, unsigned reg, u32 imm);
void emit_imm64(struct x64 *a, unsigned reg, u64 imm);
void emit_flags_save(struct x64 *a);
void emit_flags_load(struct x64 *a);
/* Add to a counter, flags kept, by way of register tmp. */
#define emit_count(a, tmp, field, by) emit_add_quiet(a, tmp, GS_OFF(hot.count.field), by)
void emit_add_quiet(struct x64 *a, unsigned tmp, s32 off, s32 by);

/* trans_emit.c */
struct late *late_add(struct emit *e, u8 *jump, const struct insn *in);
u32 emit_off(const struct emit *e, const u8 *p);            /* in the cache */
void emit_leave(struct emit *e, u32 exit);                  /* for exit & 0xfff in this page */
void emit_go(struct emit *e, s64 to, unsigned edge);        /* to to of this page or beyond */
void emit_insn(struct emit *e, unsigned i);
/* Whatever of e->late is not complete goes on here. */
void emit_late_back(struct emit *e, unsigned from);
/* T0 becomes the linear address of an access, by from it. */
void emit_linear(struct emit *e, const struct insn *in, unsigned which, s64 by);
/* The interpreter does what goes through an FS or GS of 32-bit code that has a limit. */
struct late *emit_open(struct emit *e, const struct insn *in);
/* dst becomes src + disp; no flags change. */
void emit_lea_word(struct emit *e, unsigned dst, unsigned src, s32 disp);
/* An access of instruction i: it is at [T0 + result] of the host. */
void emit_access(struct emit *e, unsigned i, unsigned which, unsigned size, bool write);
void emit_store(struct emit *e, unsigned reg); /* a word, to e->mem */
void emit_jump(struct x64 *a, const u8 *to);
void emit_tlb_entry(struct x64 *a, unsigned reg); /* T1 becomes the TLB's for address reg */
u8 *emit_jcc(struct x64 *a, unsigned cond); /* rel32 to be filled in */
void emit_patch(u8 *rel32, const u8 *to);
void emit_address(struct emit *e, const struct insn *in, unsigned dst,
		  bool w); /* the effective one */
/* T0 is linear; becomes the host's.  Misses are left to the interpreter. */
void emit_check(struct emit *e, const struct insn *in, unsigned size, bool write);
/* T0 becomes the linear address of an access, by from it. */
void emit_linear(struct emit *e, const struct insn *in, unsigned which, s64 by);
/* T1 becomes the TLB entry of T0 in the array at off of struct tlb, T2 the offset in its page;
 * jumps if it is another page's or more than most. */
u8 *emit_lookup(struct emit *e, s32 off, s32 most);
/* An edge's jump goes to code that leaves, until it is linked. */
struct out {
	u8 *jump;
	s64 to; /* from the page's start */
	unsigned edge;
};
void emit_out(struct emit *e, struct out o);
s64 rel_to(const struct insn *in);
/* Guest R9 to R11 and R15 have their place in s.gpr[], which is always right.  Between other uses
 * T0 to T2 hold guest R9 to R11 as well: e->cached says which. */
void emit_group_save(struct emit *e); /* T0 is about to be something else */
static inline void emit_scratch(struct emit *e, unsigned t)
{
	e->cached &= (u16) ~(1 << t);
	if (t == T0 && e->at_t0)
		emit_group_save(e);
}
unsigned emit_get(struct emit *e, unsigned reg, u16 avoid); /* the host register with guest reg */
unsigned emit_home(struct emit *e, unsigned reg, u16 avoid); /* one to put it in */
void emit_fetch(struct emit *e, unsigned t, unsigned reg);
void emit_put(struct emit *e, unsigned t, unsigned reg);

/* trans_way.c */
enum way insn_way(const struct insn *in);
/* Do we know how to get at the memory operand? */
bool insn_reach(const struct insn *in);

/* trans_flags.c */
void flags_plan(struct emit *e);
u16 flags_needed(const struct emit *e, unsigned i); /* by instruction i, in EFLAGS */
u16 flags_spoilt(const struct emit *e, unsigned i); /* by i ff., while flags before it are seen */
u16 note_regs(u32 note);                       /* that it needs */
void emit_clobber(struct emit *e, unsigned i); /* our code changes EFLAGS before instruction i */
void emit_flags_needed(struct emit *e, u16 need);
void emit_kept(struct emit *e, unsigned i);
void emit_flags_new(struct emit *e, unsigned i);
void emit_note(struct emit *e, struct flags_made m); /* instead of c->cc */
void emit_tell(struct emit *e, unsigned i, s64 to);
void flags_settle(struct tcg_cpu *c);          /* c->cc is right from now on */
static inline void flags_put(struct tcg_cpu *c, struct flags_made m)
{
	c->cc_low = (u16)m.note;
	c->cc = (u16)(m.note >> 16);
	c->cc_top = m.top;
}

/* trans_string.c */
bool string_can(const struct insn *in);
void emit_string(struct emit *e, unsigned i);
bool element_can(const struct insn *in);
void emit_element(struct emit *e, unsigned i);
/* MOVS or STOS as far as the TLB knows the way; false: the interpreter is to go on. */
bool string_fast(struct tcg_cpu *c, const struct insn *in);

/* trans_block.c */
void emit_take(struct emit *e, const struct block *b); /* its instructions are next in e */
void emit_plan(struct emit *e);

/* trans_group.c */
void group_plan(struct emit *e);

/* trans_stack.c */
bool stack_can(const struct emit *e, unsigned i, unsigned which);
void stack_check(struct emit *e, unsigned i, unsigned which, const struct group_info *info);
void stack_late(struct emit *e, const struct late *l);
void stack_access(struct emit *e, unsigned i, unsigned which);
void stack_thunk(struct x64 *a, bool write);

/* trans_loop.c */
void loop_find(struct emit *e);  /* does a loop begin with the block? */
void loop_enter(struct emit *e); /* instead of the ordinary code, if it can be */
void loop_back(struct emit *e, u8 *taken); /* a jump of the ordinary code's */
void loop_emit(struct emit *e); /* after the block's ordinary code */
void loop_late_out(struct emit *e); /* before and after C is called from its body */
void loop_late_in(struct emit *e);
bool loop_pays(const struct trans_block *tb);

/* A group's check, as its slow path is told: the access that makes it, and the span. */
struct group_info {
	u8 size;
	bool own_write, write, stack : 1, wide : 1;
	s16 lo; /* the span from that access's address */
	u16 span;
};
_Static_assert(sizeof(struct group_info) == 8, "goes through a register");

/* T2 becomes the offset of rip T0 in hot.near[]. */
void emit_near_index(struct x64 *a);
void emit_near_tag(struct x64 *a);
void emit_near_key(struct x64 *a); /* T1 ^= top.near_key */
void emit_near_go(struct x64 *a);
void emit_rr(struct x64 *a, u8 opcode, bool w, unsigned rm, unsigned reg);
enum { SHIFT_SHL = 4, SHIFT_SHR, SHIFT_SAR = 7 };
void emit_shift(struct x64 *a, unsigned digit, bool w, unsigned reg, u8 n);

/* trans_sys.c */
void emit_pushf(struct emit *e, unsigned i);
void emit_if(struct emit *e, unsigned i);
void emit_from_sreg(struct emit *e, const struct insn *in);
void emit_bits(struct emit *e, unsigned i);
/* One operand is at gs:[off]. */
void emit_gs(struct x64 *a, u8 map, u8 opcode, unsigned reg, s32 off);

/* trans_op.c */
bool op_can(const struct insn *in);
void op_emit(struct emit *e, unsigned i);
u16 op_flags_needed(const struct insn *in, u16 live_after); /* in EFLAGS when it runs */
u16 op_flags_before(const struct insn *in, u16 live_after);
u16 op_flags_written(const struct insn *in);
u8 op_fp_need(const struct insn *in);
bool x87_notes(const struct insn *in); /* it leaves its address in FIP */
