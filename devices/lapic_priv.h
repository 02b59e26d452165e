/* lapic_priv.h - what the files of the local APIC share: its registers and state.
 *
 *	lapic.c         registers, the xAPIC page, MSRs, life, saving
 *	lapic_irq.c     accepting, routing, priority, EOI, LINT pins, interprocessor interrupts
 *	lapic_timer.c   the timer
 *
 * Registers belong to the vCPU's thread.  Any thread may deliver without a lock: IRR, TMR, the
 * error latch and the LINT levels are written atomically, and the few registers that routing looks
 * at are read so.  A level-triggered EOI takes machine.lock to tell the IOAPIC. */
#pragma once

#include "lapic.h"

#include "../vcpu.h"

/* --- registers ------------------------------------------------------------------------------ */
enum { BASE_BSP = 1 << 8, BASE_EXTD = 1 << 10, BASE_EN = 1 << 11, BASE_FLAGS = 0xfff };
#define BASE_RESET 0xfee00000ull

enum {
	REG_ID = 0x020, REG_VERSION = 0x030, REG_TPR = 0x080, REG_APR = 0x090, REG_PPR = 0x0a0,
	REG_EOI = 0x0b0, REG_RRD = 0x0c0, REG_LDR = 0x0d0, REG_DFR = 0x0e0, REG_SVR = 0x0f0,
	REG_ISR = 0x100, REG_TMR = 0x180, REG_IRR = 0x200, REG_ESR = 0x280, REG_ICR = 0x300,
	REG_ICR_HIGH = 0x310, REG_LVT = 0x320, REG_LVT_END = 0x370, REG_INITIAL = 0x380,
	REG_CURRENT = 0x390, REG_DIVIDE = 0x3e0, REG_SELF_IPI = 0x3f0,
};
enum lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVTS };

enum { VERSION = 0x14 | (LVTS - 1) << 16 | 1 << 24 }; /* integrated, six LVTs, EOI suppression */
enum { SVR_ENABLE = 1 << 8, SVR_NO_EOI_BROADCAST = 1 << 12, SVR_BITS = 0x13ff };
enum { DFR_FLAT = 0xf, DFR_MODEL_SHIFT = 28 };
enum { ESR_SEND_ILLEGAL = 1 << 5, ESR_RECEIVE_ILLEGAL = 1 << 6, ESR_ILLEGAL_REGISTER = 1 << 7 };
enum { LVT_MASKED = 1 << 16, LVT_MODE_SHIFT = 8, LVT_READ_ONLY = 1 << 12 | 1 << 14 };
enum timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_DEADLINE, TIMER_RESERVED };
enum { TIMER_MODE_SHIFT = 17, DIVIDE_BITS = 0xb };
enum { ICR_LOGICAL = 1 << 11, ICR_BUSY = 1 << 12, ICR_ASSERT = 1 << 14, ICR_LEVEL = 1 << 15 };
enum { ICR_SHORTHAND_SHIFT = 18, VECTOR_MIN = 16 };
#define ICR_RESERVED 0xfff32000u

enum delivery { FIXED, LOWEST, SMI, NMI = 4, INIT, SIPI, EXTINT };

/* --- state ---------------------------------------------------------------------------------- */
struct lapic {
	/* const after create */
	struct vcpu *v;         /* borrowed, as is env */
	struct engine_env *env;
	struct lapic_state {
		/* INIT leaves these two alone */
		u64 base; /* owner: this vCPU's thread; other threads load it atomically */
		u32 lint; /* atomic: levels of LINT0 and LINT1, written by any thread */
		/* atomic: written by any thread */
		u32 error; /* collected for the next write to ESR */
		u32 irr[8], tmr[8];
		/* owner: this vCPU's thread; other threads load these atomically */
		u32 tpr, svr, ldr, dfr;
		u32 lvt[LVTS];
		/* owner: this vCPU's thread */
		u32 isr[8];
		u32 esr;
		u32 icr, icr_high;
		u32 divide, initial;
		u32 armed;        /* the count has not run out (always, when periodic) */
		u64 origin_ns;    /* when the count was `initial` */
		u64 deadline_tsc; /* 0: disarmed */
		u32 owed;         /* periods that are to interrupt yet, up to TICKS_OWED_MAX */
	} s;
};

static inline u32 lapic_load(const u32 *reg)
{
	return __atomic_load_n(reg, __ATOMIC_SEQ_CST);
}

static inline void lapic_store(u32 *reg, u32 val)
{
	__atomic_store_n(reg, val, __ATOMIC_SEQ_CST);
}

static inline u64 lapic_load_base(const struct lapic *a)
{
	return __atomic_load_n(&a->s.base, __ATOMIC_SEQ_CST);
}

static inline bool lapic_x2(const struct lapic *a)
{
	return lapic_load_base(a) & BASE_EXTD;
}

static inline u64 lapic_now_ns(const struct lapic *a)
{
	return loop_now_ns(a->env->loop);
}

/* --- lapic_irq.c ---------------------------------------------------------------------------- */
void lapic_accept(struct lapic *a, u8 vector, bool level); /* a fixed interrupt; any thread */
void lapic_error(struct lapic *a, u32 esr_bit);            /* any thread */
u32 lapic_ppr(const struct lapic *a);
void lapic_eoi(struct lapic *a);
void lapic_set_tpr(struct lapic *a, u8 tpr);
void lapic_send_ipi(struct lapic *a);      /* as ICR says */
void lapic_update_extint(struct lapic *a); /* LINT0, its LVT or the base changed; any thread */

/* --- lapic_timer.c -------------------------------------------------------------------------- */
enum timer_mode lapic_timer_mode(const struct lapic *a);
void lapic_timer_catch_up(struct lapic *a); /* poll it now */
/* the next of the ticks it owes, if it was the timer's */
void lapic_timer_eoi(struct lapic *a, u8 vector);
u32 lapic_current_count(const struct lapic *a);
void lapic_write_initial(struct lapic *a, u32 val);
void lapic_write_divide(struct lapic *a, u32 val);
void lapic_write_lvt_timer(struct lapic *a, u32 val);
void lapic_set_count(struct lapic *a, u32 count); /* from `initial` down to here, by now */
