/* tcg.h - the software CPU's own view of a vCPU, shared by the files of tcg/.
 *
 * Rules inside tcg/: the guest's x87/SSE/AVX state may sit in the host's registers while guest code
 * runs (c->fp_live).  mvm is built with -mgeneral-regs-only; before calling anything that may touch
 * vector registers (libc other than memcpy/memmove/memset, bus_*, lapic slow paths, log_*), call
 * fp_leave(c).  No longjmp: memory helpers return false with the fault in c->exc.
 *
 * RIP: while a block runs, s.rip is stale; an instruction's RIP is insn_rip(c, in).  A handler that
 * ends the block sets s.rip; one that faults returns insn_fault(c, in).
 *
 * Flags: the six arithmetic flags live in c->cc in the form LAHF + SETO leave in AX: bits 15-8 =
 * SF ZF 0 AF 0 PF 1 CF, bit 0 = OF.  They are computed by the host's own instructions, so even the
 * flags the SDM leaves undefined are the host's.  Everything else is in s.rflags, whose arithmetic
 * bits are stale between flags_get and flags_set. */
#pragma once

#include "../vcpu.h"
#include "decode.h"

enum { CR0_PE = 1, CR0_MP = 2, CR0_EM = 4, CR0_TS = 8, CR0_ET = 16, CR0_NE = 32, CR0_WP = 1 << 16,
       CR0_AM = 1 << 18, CR0_NW = 1 << 29, CR0_CD = 1 << 30 };
#define CR0_PG (1u << 31)
enum { CR4_VME = 1, CR4_PVI = 2, CR4_TSD = 4, CR4_DE = 8, CR4_PSE = 16, CR4_PAE = 32, CR4_MCE = 64,
       CR4_PGE = 128, CR4_PCE = 256, CR4_OSFXSR = 512, CR4_OSXMMEXCPT = 1024, CR4_UMIP = 2048,
       CR4_FSGSBASE = 1 << 16, CR4_PCIDE = 1 << 17, CR4_OSXSAVE = 1 << 18, CR4_SMEP = 1 << 20,
       CR4_SMAP = 1 << 21 };
enum { EFER_SCE = 1, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NX = 1 << 11 };
enum { FL_CF = 1, FL_PF = 4, FL_AF = 16, FL_ZF = 64, FL_SF = 128, FL_TF = 256, FL_IF = 512,
       FL_DF = 1024, FL_OF = 2048, FL_IOPL = 3 << 12, FL_NT = 1 << 14, FL_RF = 1 << 16,
       FL_VM = 1 << 17, FL_AC = 1 << 18, FL_VIF = 1 << 19, FL_VIP = 1 << 20, FL_ID = 1 << 21 };
#define FL_ARITH (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)

enum vector { EXC_DE, EXC_DB, EXC_NMI, EXC_BP, EXC_OF, EXC_BR, EXC_UD, EXC_NM, EXC_DF, EXC_TS = 10,
	      EXC_NP, EXC_SS, EXC_GP, EXC_PF, EXC_MF = 16, EXC_AC, EXC_MC, EXC_XM,
	      EXC_NONE = 0xff };
enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

enum { DR6_B0_B3 = 15, DR6_BD = 1 << 13, DR6_BS = 1 << 14, DR6_BT = 1 << 15, DR7_GD = 1 << 13 };

/* A fault (or trap) waiting for delivery. */
struct exc {
	u8 vector; /* EXC_NONE: none */
	bool has_error;
	bool trap; /* s.rip already points past the instruction (#DB traps, #BP, #OF) */
	u32 error;
	u64 cr2;   /* EXC_PF: put into CR2 at delivery */
	u64 dr6;   /* EXC_DB: causes, DR6_* */
};

/* Software TLB entry: hit if lin - tag <= 4096 - size (unsigned), then host = lin + addend.  Code
 * that looks entries up does not check lin for being canonical, so an invalid entry must match no
 * address at all: it carries the tag of a page that belongs in another slot. */
struct tlb_entry {
	u64 tag;
	u64 addend;
};
enum { TLB_BITS = 12, TLB_SIZE = 1 << TLB_BITS };
static inline u64 tlb_invalid_tag(unsigned slot)
{
	return slot ? 0 : 1 << 12; /* so that fresh memory is nearly right, and not touched */
}

struct tlb {
	struct tlb_entry r[TLB_SIZE], w[TLB_SIZE], x[TLB_SIZE];
	/* stores to pages with decoded code; never a w entry as well */
	struct tlb_entry c[TLB_SIZE];
	_Atomic u64 *c_word[TLB_SIZE];    /* such a page's word in the code map */
};

struct block; /* decoded block, interp.c */

struct tcg_cpu {
	/* In front of v, where translated code has the host's RSP: one-byte offsets reach it. */
	struct tlb *tlb; /* data and fetch at the current CPL: &tlbs[bank][user] */
	u64 code_rip;    /* RIP of offset 0 of the page the running block is in */
	struct {         /* translated code's own */
		u64 scratch, callee, rax;
		u64 near_key; /* XORed with rip to make a tag: privilege and mode */
		u64 runs;     /* of a loop that is to begin */
		u64 left;     /* of what a loop has paid, when it is left by the way; else 0 */
		u32 exit;
		struct tlb_entry stack; /* to write where RSP was last: mmu_stack_forget() */
	} top;
	s32 budget;      /* instructions until timers are looked at again */
	bool fp_live;    /* guest FP state is in the host's registers */
	/* CR0/CR4/XCR0 allow it now; else slow path decides #NM/#UD */
	bool fp_ok_sse, fp_ok_avx, fp_ok_x87;
	/* Arithmetic flags, see above, or what translated code left there: trans_flags.c */
	u16 cc_low, cc;
	u32 cc_top;
	u64 pushed[3];   /* by translated code on the host: return addresses */
	struct vcpu v;

	u8 cpl;          /* 0-3; 3 in virtual-8086 mode; seg.c keeps it */
	u8 mode;         /* enum cpu_mode of CS; seg.c keeps it */
	bool long_mode;  /* EFER.LMA */
	u8 stack_size;   /* 2, 4 or 8: size of rSP used by the stack (SS.B, 64-bit mode) */
	/* bit per segment register: base 0, limit 4 GiB, access as data needs, no checks */
	u8 flat;
	u8 open;         /* the same, but whatever the base */
	bool shutdown;   /* a triple fault: the machine must be reset */
	u8 db_pending;   /* data breakpoints held back by MOV SS, or by INT3 after one */
	/* length of the INT n, INT3, INTO or INT1 being delivered; exc.c clears it */
	u8 soft_len;
	struct exc exc;
	bool irq_masked; /* an interrupt waits for RFLAGS.IF */
	_Atomic u32 kicked; /* requests are waiting, see tcg_hurry */

	struct tlb *tlb_sup;   /* supervisor view (descriptor tables, TSS) of the same bank */

	/* Bumped when a code address may have come to mean another page (flush, CR3,
	 * CR0/CR4/EFER). */
	u64 xlat_gen;
	/* Shared by the machine's vCPUs; set before mmu_init (which makes a private one for
	 * NULL). */
	struct code_map *code;

	/* tcg/ files' private parts */
	struct mmu *mmu;          /* mmu.c */
	struct interp *interp;    /* interp.c */
	struct native *native;    /* native.c */

	struct trans *trans;      /* trans.c; NULL: interpreter only */
	struct {                  /* translated code's own as well */
		u64 stack;      /* C's stack pointer, while RSP is the tcg_cpu */
		u64 old_cc;     /* and cc_low */
		u64 kept;       /* what was shifted last, see trans_flags.c */
		struct trans_near {
			u64 tag;
			const u8 *code;
		} near[1 << 10]; /* by rip; emptied when addresses change their meaning */
		u64 span[65];   /* host addresses of groups' spans */
		struct {        /* counted by translated code itself, under --tcg-stats only */
			u64 insns, checks, indirect, far;
		} count;
		u64 borrow[16]; /* guest registers while a loop uses the host's for others */
		struct trans_jump {
			u64 host;       /* of the block's first byte; 0: none */
			const u8 *code;
		} jump[1 << 14];
	} hot;

	s32 paid_from;   /* budget when it was looked at last for stat_insns */
	u64 stat_insns /* paid for */, stat_blocks, stat_decoded, stat_tlb_fills, stat_exc,
		stat_invalidated;
};

static inline struct tcg_cpu *tcg_of(struct vcpu *v)
{
	return container_of(v, struct tcg_cpu, v);
}

/* Have c leave the code it runs soon.  Any thread.  Translated code looks at the budget alone, so
 * that is taken away too; a block that is just paying may put back what it read, and then c->kicked
 * is seen when that is used up. */
enum { BUDGET_GONE = -(1 << 24) };
static inline void tcg_hurry(struct tcg_cpu *c)
{
	atomic_store(&c->kicked, 1);
	__atomic_store_n(&c->budget, BUDGET_GONE, __ATOMIC_RELAXED);
}

/* Is the vCPU alone, and are devices' fences the vCPU's too?  See tcg_fence. */
static inline bool tcg_may_drop_lock(const struct tcg_cpu *c)
{
	return c->v.env->nr_vcpus == 1 && c->v.env->mem->fence;
}

/* Instructions paid for since the last time; nobody knows how much of a budget that is gone was. */
static inline u64 count_insns(struct tcg_cpu *c)
{
	s32 n = c->budget > BUDGET_GONE / 2 ? c->paid_from - c->budget : 0;

	c->paid_from = c->budget;
	c->stat_insns += (u64)n;
	return (u64)n;
}

/* --- flags ---------------------------------------------------------------------------------- */
static inline u64 flags_get(const struct tcg_cpu *c)
{
	return (c->v.s.rflags & ~(u64)FL_ARITH) | (c->cc >> 8 & 0xd5) | (u64)(c->cc & 1) << 11;
}

static inline void flags_set(struct tcg_cpu *c, u64 fl)
{
	c->v.s.rflags = (fl & 0x3f7fd5) | 2;
	c->cc = (u16)((fl & 0xd5) << 8 | 0x200 | (fl >> 11 & 1));
}

/* --- raising -------------------------------------------------------------------------------- */
static inline bool raise(struct tcg_cpu *c, u8 vector)
{
	c->exc = (struct exc){ .vector = vector };
	return false;
}

static inline bool raise_err(struct tcg_cpu *c, u8 vector, u32 error)
{
	c->exc = (struct exc){ .vector = vector, .has_error = true, .error = error };
	return false;
}

static inline u64 insn_rip(const struct tcg_cpu *c, const struct insn *in)
{
	return c->code_rip + in->pgoff;
}

static inline u64 insn_next_rip(const struct tcg_cpu *c, const struct insn *in)
{
	u64 rip = c->code_rip + in->pgoff + in->len;
	return in->mode == MODE_64 ? rip : in->mode == MODE_32 ? (u32)rip : (u16)rip;
}

/* What a handler returns when c->exc was set by something it called. */
static inline const struct insn *insn_fault(struct tcg_cpu *c, const struct insn *in)
{
	c->v.s.rip = insn_rip(c, in);
	return NULL;
}

/* What a handler returns when the block must end and the guest goes on at the next instruction. */
static inline const struct insn *insn_end(struct tcg_cpu *c, const struct insn *in)
{
	c->v.s.rip = insn_next_rip(c, in);
	return NULL;
}

/* --- exc.c ---------------------------------------------------------------------------------- */
enum event_kind { EV_INTR, EV_NMI, EV_EXC, EV_SOFT_INT /* INT n */, EV_SOFT_EXC /* INT3, INTO */,
	EV_ICEBP };
/* Deliver through the IDT (or IVT); on entry s.rip is the address to push.  Handles nested faults
 * up to the double fault; false: triple fault (shutdown).  For EV_SOFT_INT, EV_SOFT_EXC and
 * EV_ICEBP set c->soft_len before: if delivery faults, that fault is reported at the instruction's
 * start. */
bool exc_deliver(struct tcg_cpu *c, enum event_kind kind, u8 vector, bool has_error, u32 error);
/* Deliver c->exc and clear it; false: triple fault. */
bool exc_dispatch(struct tcg_cpu *c);

/* --- seg.c ---------------------------------------------------------------------------------- */
/* Recompute cpl, mode, long_mode, stack_size, flat, tlb pointers, fp_ok_* from s.  After any direct
 * change of s (reset, push, KVM fix-up), CR0/CR4/EFER/XCR0 write or segment load, and after
 * RFLAGS.AC or VM changed.  CPL is the DPL in SS's attributes, as in VMX; a null SS carries it
 * too. */
void seg_refresh(struct tcg_cpu *c);
/* MOV/POP/LDS.. to a data segment register or SS; SDM checks.  False: c->exc. */
bool seg_load(struct tcg_cpu *c, enum sreg seg, u16 sel);

/* --- exec_sys.c ----------------------------------------------------------------------------- */
/* May IN, OUT, INS, OUTS touch these ports: CPL <= IOPL, or the TSS's permission bitmap.  False:
 * c->exc (#GP, or a fault on reading the bitmap). */
bool io_allowed(struct tcg_cpu *c, u16 port, unsigned size);

/* --- native.c ------------------------------------------------------------------------------- */
/* The handler of every CLS_NATIVE row: builds (once) and runs a stub made of just this instruction
 * on guest registers and memory. */
const struct insn *native_exec(struct tcg_cpu *c, const struct insn *in);
int native_init(struct tcg_cpu *c, struct err *e);
void native_free(struct tcg_cpu *c);
/* The calling thread's faults in stubs are c's from now on; fp_enter does it too. */
void native_thread_init(struct tcg_cpu *c);
/* Bring the guest's FP state from the host's registers into s.xsave and give the host its own
 * back. */
void fp_leave_slow(struct tcg_cpu *c);
/* Load the guest's FP state into the host's registers. */
void fp_enter_slow(struct tcg_cpu *c);
static inline void fp_leave(struct tcg_cpu *c)
{
	if (c->fp_live)
		fp_leave_slow(c);
}
static inline void fp_enter(struct tcg_cpu *c)
{
	if (!c->fp_live)
		fp_enter_slow(c);
}

/* --- trans.c -------------------------------------------------------------------------------- */
int trans_init(struct tcg_cpu *c, struct err *e);
void trans_free(struct tcg_cpu *c);
/* What the block cache tells the translator, if there is one. */
void trans_block_new(struct tcg_cpu *c, struct block *b); /* has all its handlers */
void trans_drop(struct tcg_cpu *c, struct block *b);      /* was translated */
void trans_flush(struct tcg_cpu *c);                      /* all blocks are gone */
static inline unsigned trans_jump_index(u64 host)
{
	return (unsigned)(host ^ host >> 12) & ((1 << 14) - 1);
}

/* --- stats.c -------------------------------------------------------------------------------- */
void tcg_stats(struct engine_env *env);

/* --- perfmap.c ------------------------------------------------------------------------------ */
int perf_map_open(struct engine_env *env, struct err *e);
void perf_map_close(struct engine_env *env);

/* --- interp.c ------------------------------------------------------------------------------- */
int interp_init(struct tcg_cpu *c, struct err *e);
void interp_free(struct tcg_cpu *c);
/* Run blocks from s.rip until a request, a fault to deliver, HLT or the budget ends. */
void interp_run(struct tcg_cpu *c);
/* Execute exactly one instruction at s.rip (all of a REP's one iteration at least); the result is a
 * consistent state or c->exc.  Used by tests, TF single-stepping and the KVM engine. */
void interp_one(struct tcg_cpu *c);
/* Drop decoded blocks overlapping [gpa, gpa+len); any thread for another vCPU's DMA: see
 * interp.c. */
void interp_invalidate(struct tcg_cpu *c, gpa_t gpa, u64 len);
void interp_flush(struct tcg_cpu *c);
/* The guest wrote to its local APIC: the timer may be due sooner than the next look at it. */
void interp_timer_moved(struct tcg_cpu *c);
/* Operand access for CLS_SELF handlers; false: c->exc. n is the operand index. */
bool opd_load(struct tcg_cpu *c, const struct insn *in, unsigned n, u64 *val);
bool opd_store(struct tcg_cpu *c, const struct insn *in, unsigned n, u64 val);
/* Effective address of the memory operand (without segment base), wrapped to asize. */
u64 insn_ea(const struct tcg_cpu *c, const struct insn *in);

/* Set to leave HLT etc.: why interp_run came back (VEXIT_*), or -1 to keep going. */
enum { RUN_ON = -1 };
