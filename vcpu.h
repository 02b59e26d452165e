/* vcpu.h - the canonical CPU state, the vCPU with its thread and request bits, and the contract
 * between a vCPU and its engine (kvm.c or tcg/).
 *
 * An engine knows struct engine_env and nothing else of the machine; the machine knows struct
 * engine and nothing of what is behind it. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base.h"
#include "bus.h"
#include "irq.h"
#include "loop.h"
#include "memory.h"
#include "seccomp/sandbox.h"
#include "state.h"

enum gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum sreg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_NR };

/* Descriptor attributes, laid out as the VMX access rights (SDM vol 3 "Guest Register State"): bits
 * 8-15 and 20-23 of the descriptor's second word, moved down by 8. */
enum {
	ATTR_TYPE = 0xf, ATTR_S = 1 << 4, ATTR_DPL_SHIFT = 5, ATTR_DPL = 3 << 5, ATTR_P = 1 << 7,
	ATTR_AVL = 1 << 12, ATTR_L = 1 << 13, ATTR_DB = 1 << 14, ATTR_G = 1 << 15,
	ATTR_UNUSABLE = 1 << 16, /* loaded with a null selector, or LDTR/TR never loaded */
};

struct seg_reg {
	u16 sel;
	u32 attr;
	u32 limit; /* in bytes, granularity already applied */
	u64 base;
};

struct table_reg {
	u64 base;
	u16 limit;
};

enum mp_state { MP_RUNNABLE, MP_HALTED, MP_WAIT_INIT, MP_WAIT_SIPI };

/* XSAVE area in standard format, components x87, SSE, AVX: 512 + 64 + 256 bytes. */
enum { XSAVE_BYTES = 832, XSAVE_YMM_OFF = 576 };

/* Everything the guest can observe of one CPU apart from its local APIC; engine-free, saved.
 * TCG runs on it directly (arithmetic flags and FP registers are folded in by engine.pull); KVM
 * copies by pull and push.  Owner: this vCPU's thread, or anyone while it is parked. */
struct cpu_state {
	u64 gpr[16];
	u64 rip;
	u64 rflags;
	struct seg_reg seg[SEG_NR], ldt, tr;
	struct table_reg gdt, idt;
	u64 cr0, cr2, cr3, cr4, efer, xcr0;
	u64 dr[8]; /* 4 and 5 unused */
	/* MSRs; FS.base and GS.base live in seg[] */
	u64 star, lstar, cstar, sfmask, kernel_gs_base;
	u64 sysenter_cs, sysenter_esp, sysenter_eip;
	u64 pat, tsc_aux, misc_enable, spec_ctrl, tsc_adjust;
	u64 mtrr_def_type, mtrr_fixed[11], mtrr_var[16];
	u64 mcg_status, kvm_system_time, kvm_wall_clock;
	u64 tsc_offset; /* guest TSC = host TSC + this */
	u8 int_shadow;  /* 1: STI, 2: MOV SS; cleared by the next instruction */
	u8 nmi_blocked;
	u8 nmi_pending;
	u8 mp_state;    /* enum mp_state */
	/* An event whose delivery a fault of the host's own interrupted when the state was taken
	 * (KVM only); event_type: enum state_event. */
	u8 event_valid, event_type, event_vector, event_has_error;
	u32 event_error;
	u8 xsave[XSAVE_BYTES] __attribute__((aligned(64)));
};

/* As in VMCS and VMCB, SDM vol 3 "Format of the VM-Entry Interruption-Information Field". */
enum state_event { EVENT_EXTERNAL = 0, EVENT_NMI = 2, EVENT_EXCEPTION = 3, EVENT_SOFT = 4 };

/* Request bits; set by anyone, taken by the vCPU's thread at block ends, exits and wake-ups. */
enum {
	VREQ_IRQ = 1 << 0,    /* look at the local APIC's IRR */
	VREQ_EXTINT = 1 << 1, /* level, not edge: the 8259's INTR is high (boot vCPU only) */
	VREQ_NMI = 1 << 2,
	VREQ_INIT = 1 << 3,
	VREQ_SIPI = 1 << 4,
	VREQ_PAUSE = 1 << 5,
	VREQ_QUIT = 1 << 6,
	VREQ_FLUSH = 1 << 7,  /* software CPU: drop the TLB, someone found code on a page */
	VREQ_RESET = 1 << 8,  /* back to the power-on state, then run or wait for SIPI */
};

enum vexit {
	VEXIT_KICK,  /* a request bit wants attention; state is consistent */
	VEXIT_HALT,  /* HLT: sleep until an interrupt or a request */
	VEXIT_RESET, /* triple fault */
	VEXIT_CRASH, /* the engine cannot go on; v->crash says why */
};

struct engine;

enum { TCG_CACHE_LEAST = 512 << 10 }; /* bytes for each vCPU, however many there are */

/* All that an engine and a vCPU know of the machine.  Const after set-up. */
struct engine_env {
	struct memory *mem;
	struct bus *pio, *mmio;
	struct irqchip *chip;
	struct loop *loop;     /* for the guest clock */
	pthread_mutex_t *lock; /* machine.lock */
	struct vcpu **vcpus;
	u32 nr_vcpus;
	u64 tsc_khz;           /* of the host's TSC, which the guest sees */
	/* a moment on the host's TSC and in guest time; written while all are parked */
	u64 clock_tsc, clock_ns;
	/* of each software CPU's code; and as much of decoded instructions */
	u64 tcg_cache_bytes;
	bool interp_only;      /* --accel interp */
	bool stats;            /* --tcg-stats */
	bool want_perf_map;    /* --perf-map */
	struct perf_map *perf_map; /* the engine's, NULL if not wanted */
	u32 irqchip_kind;      /* KVM: enum irqchip_kind of options.h */
	void *engine_priv;
};

struct vcpu {
	struct cpu_state s; /* first: the software CPU reaches gpr[] with one-byte offsets */
	/* atomic */
	_Atomic u32 req;
	_Atomic u32 nmis;     /* how many came with VREQ_NMI */
	_Atomic u8 sipi_vector; /* of VREQ_SIPI */
	_Atomic u32 sleeping; /* futex: 1 while in vcpu_sleep */
	/* const after create */
	u32 index, apic_id;
	const struct engine *eng;
	struct engine_env *env;
	struct lapic *apic; /* NULL when the kernel has it */
	pthread_t thread;
	bool threaded;
	/* guard: park_lock */
	pthread_mutex_t park_lock;
	pthread_cond_t park_cond;
	bool parked;        /* the thread is in vcpu_park, the state is pulled and may be touched */
	/* How the loop learns why the vCPU stopped; fn and arg are the machine's. */
	struct loop_work exit_work;
	_Atomic u32 exit_why; /* enum vexit */
	/* 1 while halted with interrupts off: only NMI, INIT or reset wake it */
	_Atomic u32 dead_halt;
	char crash[400];    /* VEXIT_CRASH: why, one line */
	u64 stat_exits;
};

struct engine {
	const char *name; /* "kvm", "tcg" */
	enum filter_thread filter; /* its vCPUs' system calls */
	/* What init wants from the file system; NULL: nothing.  0 or -errno with *e. */
	int (*open)(struct engine_env *env, struct err *e);
	/* Set up the engine for env (env->engine_priv); memory is already laid out. */
	int (*init)(struct engine_env *env, struct err *e);
	void (*free)(struct engine_env *env);
	/* A vCPU in power-on state; the engine allocates (its own struct starts with struct
	 * vcpu). */
	struct vcpu *(*vcpu_new)(struct engine_env *env, u32 index, struct err *e);
	void (*vcpu_free)(struct vcpu *v);
	/* On the vCPU's thread, before anything else there: whatever takes system calls that are
	 * only for set-up.  False: v->crash says why.  May be NULL. */
	bool (*enter)(struct vcpu *v);
	/* Run guest code until something concerns the vCPU loop. Own thread, lock not held. */
	enum vexit (*run)(struct vcpu *v);
	/* Bring v->s up to date from / into the engine.  Own thread or parked. */
	void (*pull)(struct vcpu *v);
	void (*push)(struct vcpu *v);
	/* Make a vCPU in run() look at its requests soon.  Any thread; must not block. */
	void (*kick)(struct vcpu *v);
	/* Print engine statistics for --stats. May be NULL. */
	void (*stats)(struct engine_env *env);
	/* Signal d->fd on such writes, or no longer.  0 or -errno; NULL: every write leaves the
	 * guest. */
	int (*doorbell)(struct engine_env *env, const struct doorbell *d, bool on);
};

extern const struct engine kvm_engine, tcg_engine;

/* --- vcpu.c ------------------------------------------------------------------------------- */
/* Power-on state, SDM vol 3 "Processor State After Reset"; the boot vCPU runs, others wait. */
void cpu_state_reset(struct cpu_state *s, bool boot_cpu);
/* INIT: as after power-on but for the FP state, cache control, MSRs and time.  SIPI: real mode at
 * the page that the vector names. */
void cpu_state_init(struct cpu_state *s, bool boot_cpu);
void cpu_state_start_up(struct cpu_state *s, u8 vector);
void cpu_state_visit(struct cpu_state *s, struct state *st);

/* Registers as a multi-line text for crash messages; buf gets at most n bytes. */
void cpu_state_text(const struct cpu_state *s, char *buf, size_t n);

/* Set request bits and make the vCPU notice, whatever it is doing. Any thread, lock held or not. */
void vcpu_request(struct vcpu *v, u32 bits);
static inline u32 vcpu_pending(struct vcpu *v)
{
	return atomic_load_explicit(&v->req, memory_order_acquire);
}

/* Start the vCPU's thread (it parks at once if VREQ_PAUSE is set); stop and join it. */
int vcpu_start(struct vcpu *v, struct err *e);
void vcpu_stop(struct vcpu *v);

/* Park every vCPU and wait until all are; machine.lock must NOT be held (a vCPU may be waiting for
 * it).  Afterwards v->s may be read and written from this thread.  vcpus_resume lets them go on. */
void vcpus_pause(struct vcpu **v, u32 n);
void vcpus_resume(struct vcpu **v, u32 n);
/* Would a parked vCPU stay halted if it were let go, unless another one or the machine wakes it? */
bool vcpu_is_dead(struct vcpu *v);

static inline u64 host_rdtsc(void)
{
	u32 lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

/* --- cpuid.c: the CPU model, one table for both engines ------------------------------------ */
struct cpuid_out {
	u32 eax, ebx, ecx, edx;
};
/* What the guest's CPUID answers, given the live state (OSXSAVE, APIC ID, XCR0-dependent sizes). */
void cpuid_query(const struct vcpu *v, u32 leaf, u32 subleaf, struct cpuid_out *out);
/* Is the feature in what we show?  (leaf, subleaf, register 0-3 = eax..edx, bit) */
bool cpuid_has(u32 leaf, u32 subleaf, unsigned reg, unsigned bit);
/* Does the vendor shown follow AMD where AMD and Intel differ (SYSCALL, SYSENTER)? */
bool cpuid_is_amd(void);
/* Does the guest run on the host's own processor (KVM), whose flaws it then has? */
bool cpuid_is_native(const struct vcpu *v);
/* MSRs that are the same for both engines' models (not APIC, not FS/GS/TSC): false: #GP. */
bool msr_read(struct vcpu *v, u32 msr, u64 *val);
bool msr_write(struct vcpu *v, u32 msr, u64 val);
/* The moment that all vCPUs' paravirtual clocks count from is now: before they run, and after a
 * pause. */
void kvmclock_start(struct engine_env *env);
/* Write the paravirtual clock's page afresh, if the guest has one: after a pause or a restore. */
void kvmclock_update(struct vcpu *v);
/* Host TSC frequency in kHz: CPUID 0x40000010, CPUID 0x15, else the kernel's own conversion
 * (perf event page), else measured from the look, which needs the host's files, until it is asked
 * for: a millisecond later at least. */
struct host_tsc {
	u64 khz, told; /* 0: not known; told: what the host's kernel says, to be checked */
	struct host_moment {
		u64 tsc, ns;
	} from;
};
struct host_tsc host_tsc_look(void);
u64 host_tsc_khz(const struct host_tsc *t);
