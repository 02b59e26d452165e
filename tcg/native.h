/* native.h - what native.c and exec_fpu.c share: the vCPU's stubs, its private FP state and scratch
 * memory. */
#pragma once

#include "cache.h"
#include "signal.h"
#include "tcg.h"
#include "x64.h"

/* Which state an instruction needs, and so which of #UD and #NM it gets when that is switched off.
 */
enum fp_unit { UNIT_SSE, UNIT_AVX, UNIT_X87, UNIT_MMX };

enum {
	XCOMP_X87 = 1,
	XCOMP_SSE = 2,
	XCOMP_AVX = 4, /* state components, SDM vol 1 §13.1 */
	XSAVE_HEADER_OFF = 512,
	FXSAVE_MXCSR_OFF = 24,
	FXSAVE_XMM_OFF = 160,
	STUBS_MAX = 4096,
	STUB_HASH = 2 * STUBS_MAX,
	STUB_GENS = 1 << 20, /* of the cache, that insn.aux can tell apart */
	STUB_CACHE_BYTES = 160 << 10,
};

struct stub_result {
	u64 ax, dx;
};

/* A stub is a C function: the memory operand's host address, the general register operand, guest
 * RDX, the arithmetic flags in tcg_cpu.cc's form.  Which of them it looks at is in the flags below.
 */
typedef struct stub_result (*stub_fn)(void *mem, u64 gpr, u64 dx, u64 cc);

enum {
	STUB_LOAD = 1,
	STUB_STORE = 2, /* has a memory operand that is read, written */
	STUB_ALIGN = 4, /* which must be aligned to its size */
	STUB_GPR_IN = 8,
	STUB_GPR_OUT = 16,
	STUB_CC_IN = 32,
	STUB_CC_OUT = 1024, /* flags: loaded first; come back in ax */
	STUB_RCX_OUT = 64, /* dx comes back as guest RCX (PCMPxSTRI) */
	STUB_RAX_RDX_IN = 128, /* PCMPESTRx lengths */
	STUB_X87_PTR = 256, /* sets FIP, FCS, FOP, and FDP, FDS if it has a memory operand */
	STUB_X87_INIT = 512, /* clears them */
	STUB_WAITS = 2048, /* a pending x87 exception comes before any other fault of it */
};

struct stub {
	stub_fn fn;
	u16 flags;
	u8 unit; /* enum fp_unit */
	u8 mem_size;
	u8 gpr_opd; /* index of the general register operand */
	u8 code_len;
	u8 code[42]; /* as it was written: the stub's identity */
};

/* Last x87 instruction and operand (SDM vol 1 §8.1.8).  The host's own registers hold addresses of
 * ours, so these take their place wherever the guest could look.  FIP and FDP are offsets. */
struct x87_ptr {
	u64 fip, fdp;
	u16 fcs, fds, fop;
};

struct native {
	struct stub_guard guard;
	struct code_cache cache;
	u64 mask; /* components we switch: 3 or 7 */
	bool xsave; /* the host has XSAVE; else FXSAVE */
	u32 mxcsr_mask;
	struct x87_ptr ptr; /* fip, fdp, fop: of use while fp_live; else they are in s.xsave */
	u32 stubs;
	u16 hash[STUB_HASH]; /* open addressing: index + 1 of a stub, 0 none */
	struct stub stub[STUBS_MAX];
	stub_fn vec_load[16], vec_store[16]; /* whole XMM or YMM register from, to memory */
	stub_fn mmx_store[8];
	u8 area[XSAVE_BYTES] __attribute__((aligned(64))); /* an XSAVE or FNSAVE image on its way */
	u8 bounce[128] __attribute__((aligned(64))); /* an operand that has no host address */
};

/* May this unit's instructions run?  False: #UD or #NM.  Afterwards the guest's state is live. */
bool fp_ready(struct tcg_cpu *c, enum fp_unit unit);

/* Is an unmasked x87 exception pending?  The state must be live. */
static inline bool x87_pending(void)
{
	u16 sw;

	__asm__ volatile("fnstsw %0" : "=m"(sw));
	return sw & 0x80;
}

/* The end of a waiting x87 or MMX instruction that finds an unmasked exception pending. */
const struct insn *x87_error(struct tcg_cpu *c, const struct insn *in);

/* What a stub left behind in guard.trap, as the guest's exception at in. */
const struct insn *native_trap(struct tcg_cpu *c, const struct insn *in);
/* Is W the size of a general register, or of memory in its place?  Then it is void outside 64-bit
 * mode. */
bool native_w_is_size(const struct insn *in);

/* The stub for exactly this instruction, remembered in in->aux; valid until the next call. */
const struct stub *native_stub(struct tcg_cpu *c, const struct insn *in);

/* A vector register's bytes: 32, or 16 where there is no AVX.  The state must be live. */
static inline void vec_get(struct native *n, unsigned reg, void *buf)
{
	n->vec_store[reg](buf, 0, 0, 0);
}

static inline void vec_set(struct native *n, unsigned reg, const void *buf)
{
	n->vec_load[reg]((void *)buf, 0, 0, 0);
}

/* XSAVE and XRSTOR of everything we switch, standard format, 64-byte aligned. */
void fp_save_all(struct native *n, void *image);
void fp_load_all(struct native *n, const void *image);
