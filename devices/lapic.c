/* lapic.c - the local APIC of one vCPU: xAPIC page, x2APIC MSRs, timer, interprocessor interrupts.
 *
 * The bus clock is 1 GHz, so timer ticks are nanoseconds of guest time.  There is no loop timer: the
 * vCPU's thread asks lapic_deadline_ns how long it may run or sleep and calls lapic_timer_poll.
 *
 * Thread: registers belong to the vCPU's thread.  Any thread may deliver without a lock: IRR, TMR, the
 * error latch and the LINT levels are written atomically, and the few registers that routing looks at
 * are read so.  A level-triggered EOI takes machine.lock to tell the IOAPIC.
 *
 * Source: SDM vol 3 "Advanced Programmable Interrupt Controller (APIC)" (chapter 10; 11 in newer
 * editions).  Departures: no SMM, so SMI is accepted and dropped; the APIC ID is fixed; LINT0 in fixed
 * mode is edge-sensitive; on the boot CPU LINT0 powers on as ExtINT, unmasked, as firmware would leave
 * it ("virtual wire mode", MultiProcessor Specification 1.4 §3.6.2); an ExtINT message is for the boot
 * CPU alone, which is the one wired to the 8259s; physical destination FFh is a broadcast in x2APIC
 * mode too, since a message has eight bits of destination. */
#include "lapic.h"

#include <stdlib.h>

#include "../vcpu.h"

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC = 0x800, MSR_X2APIC_END = 0x8ff };
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
enum { TIMER_MODE_SHIFT = 17, TIMER_ONE_SHOT = 0, TIMER_PERIODIC = 1, TIMER_DEADLINE = 2 };
enum { ICR_LOGICAL = 1 << 11, ICR_BUSY = 1 << 12, ICR_ASSERT = 1 << 14, ICR_LEVEL = 1 << 15 };
enum { DEST_FIELD, DEST_SELF, DEST_ALL, DEST_OTHERS };
enum { ICR_SHORTHAND_SHIFT = 18, DIVIDE_BITS = 0xb, VECTOR_MIN = 16 };
#define ICR_RESERVED 0xfff32000u
#define DEST_BROADCAST UINT32_MAX

enum delivery { FIXED, LOWEST, SMI, NMI = 4, INIT, SIPI, EXTINT };

/* Bits a write can set, by LVT. */
static const u32 lvt_bits[LVTS] = { 0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff };

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
	} s;
};

static u32 lapic_load(const u32 *reg)
{
	return __atomic_load_n(reg, __ATOMIC_SEQ_CST);
}

static void lapic_store(u32 *reg, u32 val)
{
	__atomic_store_n(reg, val, __ATOMIC_SEQ_CST);
}

static u64 lapic_load_base(const struct lapic *a)
{
	return __atomic_load_n(&a->s.base, __ATOMIC_SEQ_CST);
}

static bool lapic_x2(const struct lapic *a)
{
	return lapic_load_base(a) & BASE_EXTD;
}

gpa_t lapic_base(const struct lapic *a)
{
	return (a->s.base & (BASE_EN | BASE_EXTD)) == BASE_EN ? a->s.base & ~(u64)BASE_FLAGS : ~0ull;
}

/* --- vector sets: IRR, ISR, TMR ------------------------------------------------------------- */
static int set_highest(const u32 *set)
{
	for (int i = 7; i >= 0; i--) {
		u32 word = lapic_load(&set[i]);

		if (word)
			return i * 32 + 31 - __builtin_clz(word);
	}
	return -1;
}

static void set_add(u32 *set, u8 vector)
{
	__atomic_fetch_or(&set[vector / 32], 1u << vector % 32, __ATOMIC_SEQ_CST);
}

static void set_remove(u32 *set, u8 vector)
{
	__atomic_fetch_and(&set[vector / 32], ~(1u << vector % 32), __ATOMIC_SEQ_CST);
}

static bool set_has(const u32 *set, u8 vector)
{
	return lapic_load(&set[vector / 32]) & 1u << vector % 32;
}

/* --- accepting ------------------------------------------------------------------------------ */
static void lapic_accept(struct lapic *a, u8 vector, bool level);

/* "Error Handling".  The error interrupt itself cannot cause another one. */
static void lapic_error(struct lapic *a, u32 bit)
{
	u32 lvt = lapic_load(&a->s.lvt[LVT_ERROR]);

	__atomic_fetch_or(&a->s.error, bit, __ATOMIC_SEQ_CST);
	if (!(lvt & LVT_MASKED) && (u8)lvt >= VECTOR_MIN)
		lapic_accept(a, (u8)lvt, false);
}

/* A fixed interrupt arrives.  TMR before IRR: who sees the request sees how it was triggered. */
static void lapic_accept(struct lapic *a, u8 vector, bool level)
{
	if (!(lapic_load(&a->s.svr) & SVR_ENABLE) || !(lapic_load_base(a) & BASE_EN))
		return;
	if (vector < VECTOR_MIN)
		return lapic_error(a, ESR_RECEIVE_ILLEGAL);
	if (level)
		set_add(a->s.tmr, vector);
	else
		set_remove(a->s.tmr, vector);
	set_add(a->s.irr, vector);
	vcpu_request(a->v, VREQ_IRQ);
}

void lapic_deliver(struct lapic *a, u8 mode, u8 vector, bool level)
{
	switch ((enum delivery)mode) {
	case FIXED:
	case LOWEST:
		lapic_accept(a, vector, level);
		break;
	case SMI:
		break;
	case NMI:
		vcpu_request(a->v, VREQ_NMI);
		break;
	case INIT:
		vcpu_request(a->v, VREQ_INIT);
		break;
	case SIPI:
		__atomic_store_n(&a->v->s.sipi_vector, vector, __ATOMIC_SEQ_CST);
		vcpu_request(a->v, VREQ_SIPI);
		break;
	case EXTINT:
		if (a->v->index == 0)
			vcpu_request(a->v, VREQ_EXTINT);
		break;
	}
}

/* --- routing -------------------------------------------------------------------------------- */
/* "Logical Destination Mode": flat, cluster, and x2APIC's cluster. */
static bool lapic_matches_logical(const struct lapic *a, u32 dest)
{
	u32 ldr = lapic_load(&a->s.ldr), id = ldr >> 24;

	if (lapic_x2(a))
		return ldr >> 16 == dest >> 16 && ldr & dest & 0xffff;
	if (dest > 0xff)
		return false;
	if (lapic_load(&a->s.dfr) >> DFR_MODEL_SHIFT == DFR_FLAT)
		return id & dest;
	return (dest >> 4 == 0xf || dest >> 4 == id >> 4) && id & dest & 0xf;
}

static bool lapic_matches(const struct lapic *a, u32 dest, bool logical)
{
	if (!(lapic_load_base(a) & BASE_EN))
		return false;
	if (dest == DEST_BROADCAST)
		return true;
	if (logical)
		return lapic_matches_logical(a, dest);
	return dest == 0xff || dest == a->v->apic_id;
}

/* Lowest-priority delivery: the smallest TPR wins; ties go round by vector. */
static struct lapic *lapic_arbitrate(struct vcpu **vcpus, u32 n, u32 dest, bool logical, u8 vector)
{
	struct lapic *best = NULL;

	for (u32 i = 0; i < n; i++) {
		struct lapic *a = vcpus[(vector + i) % n]->apic;

		if (!a || !lapic_matches(a, dest, logical) || !(lapic_load(&a->s.svr) & SVR_ENABLE))
			continue;
		if (!best || lapic_load(&a->s.tpr) >> 4 < lapic_load(&best->s.tpr) >> 4)
			best = a;
	}
	return best;
}

void lapic_route(struct vcpu **vcpus, u32 n, u32 dest, bool logical, u8 mode, u8 vector, bool level)
{
	if (mode == LOWEST) {
		struct lapic *a = lapic_arbitrate(vcpus, n, dest, logical, vector);

		if (a)
			lapic_deliver(a, FIXED, vector, level);
		return;
	}
	for (u32 i = 0; i < n; i++) {
		struct lapic *a = vcpus[i]->apic;

		if (a && lapic_matches(a, dest, logical))
			lapic_deliver(a, mode, vector, level);
	}
}

/* --- priority, acknowledge, EOI ------------------------------------------------------------- */
static u32 lapic_ppr(const struct lapic *a)
{
	int isr = set_highest(a->s.isr);
	u32 class = isr < 0 ? 0 : (u32)isr & 0xf0;

	return (a->s.tpr & 0xf0) >= class ? a->s.tpr : class;
}

int lapic_pending(struct lapic *a)
{
	int irr = set_highest(a->s.irr);

	return irr >= 0 && ((u32)irr & 0xf0) > (lapic_ppr(a) & 0xf0) ? irr : -1;
}

void lapic_ack(struct lapic *a, u8 vector)
{
	set_remove(a->s.irr, vector);
	set_add(a->s.isr, vector);
}

/* The priority dropped: something held back may now be deliverable. */
static void lapic_recheck(struct lapic *a)
{
	if (lapic_pending(a) >= 0)
		vcpu_request(a->v, VREQ_IRQ);
}

static void lapic_eoi(struct lapic *a)
{
	struct device *ioapic = a->env->chip->ioapic;
	int vector = set_highest(a->s.isr);

	if (vector < 0)
		return;
	set_remove(a->s.isr, (u8)vector);
	if (ioapic && set_has(a->s.tmr, (u8)vector) && !(a->s.svr & SVR_NO_EOI_BROADCAST)) {
		pthread_mutex_lock(a->env->lock);
		ioapic_eoi(ioapic, (u8)vector);
		pthread_mutex_unlock(a->env->lock);
	}
	lapic_recheck(a);
}

static void lapic_set_tpr(struct lapic *a, u8 tpr)
{
	lapic_store(&a->s.tpr, tpr);
	lapic_recheck(a);
}

u64 lapic_cr8(const struct lapic *a)
{
	return a->s.tpr >> 4;
}

void lapic_set_cr8(struct lapic *a, u64 v)
{
	lapic_set_tpr(a, (u8)(v << 4));
}

/* --- LINT0 and LINT1 ------------------------------------------------------------------------ */
bool lapic_accepts_extint(const struct lapic *a)
{
	u32 lvt = lapic_load(&a->s.lvt[LVT_LINT0]);

	return !(lapic_load_base(a) & BASE_EN) ||
	       (lvt & (LVT_MASKED | 7 << LVT_MODE_SHIFT)) == EXTINT << LVT_MODE_SHIFT;
}

/* Make VREQ_EXTINT say whether INTR reaches the CPU.  The pin's thread and the register's may both be
 * here: each looks again after acting, so whoever is last has seen what the other did. */
static void lapic_update_extint(struct lapic *a)
{
	bool want;

	if (a->v->index != 0)
		return;
	do {
		want = lapic_load(&a->s.lint) & 1 && lapic_accepts_extint(a);
		if (want)
			vcpu_request(a->v, VREQ_EXTINT);
		else
			atomic_fetch_and(&a->v->req, ~(u32)VREQ_EXTINT);
	} while (want != (lapic_load(&a->s.lint) & 1 && lapic_accepts_extint(a)));
}

void lapic_set_lint(struct lapic *a, unsigned pin, bool level)
{
	u32 bit = 1u << pin, lvt, mode;
	u32 old = level ? __atomic_fetch_or(&a->s.lint, bit, __ATOMIC_SEQ_CST)
			: __atomic_fetch_and(&a->s.lint, ~bit, __ATOMIC_SEQ_CST);

	if (pin == 0)
		lapic_update_extint(a);
	if (!level || old & bit)
		return;
	lvt = lapic_load(&a->s.lvt[LVT_LINT0 + pin]);
	mode = lvt >> LVT_MODE_SHIFT & 7;
	if (!(lapic_load_base(a) & BASE_EN)) {
		if (pin == 1) /* without an APIC the pins are INTR and NMI */
			vcpu_request(a->v, VREQ_NMI);
	} else if (!(lvt & LVT_MASKED) && mode != EXTINT && mode != SIPI) {
		lapic_deliver(a, (u8)mode, (u8)lvt, false);
	}
}

/* --- timer ---------------------------------------------------------------------------------- */
static u32 lapic_timer_mode(const struct lapic *a)
{
	return a->s.lvt[LVT_TIMER] >> TIMER_MODE_SHIFT & 3;
}

/* "Divide Configuration Register": bits 3, 1, 0 are 000 for 2 up to 110 for 128, and 111 for 1. */
static unsigned lapic_divide_shift(const struct lapic *a)
{
	unsigned code = (a->s.divide & 3) | (a->s.divide >> 1 & 4);

	return (code + 1) & 7;
}

static u64 lapic_period_ns(const struct lapic *a)
{
	return (u64)a->s.initial << lapic_divide_shift(a);
}

static bool lapic_counting(const struct lapic *a)
{
	return a->s.armed && lapic_timer_mode(a) <= TIMER_PERIODIC;
}

static u64 lapic_now_ns(const struct lapic *a)
{
	return loop_now_ns(a->env->loop);
}

static u64 lapic_now_tsc(const struct lapic *a)
{
	return host_rdtsc() + a->v->s.tsc_offset;
}

static void lapic_timer_fire(struct lapic *a)
{
	u32 lvt = a->s.lvt[LVT_TIMER];

	if (!(lvt & LVT_MASKED))
		lapic_accept(a, (u8)lvt, false);
}

/* Periods that nobody was awake for are one interrupt, as they are one bit in IRR. */
void lapic_timer_poll(struct lapic *a, u64 now_ns, u64 now_tsc)
{
	u64 period_ns = lapic_period_ns(a);

	if (lapic_timer_mode(a) == TIMER_DEADLINE) {
		if (!a->s.deadline_tsc || now_tsc < a->s.deadline_tsc)
			return;
		a->s.deadline_tsc = 0;
	} else if (lapic_counting(a) && now_ns >= a->s.origin_ns + period_ns) {
		a->s.armed = lapic_timer_mode(a) == TIMER_PERIODIC;
		if (a->s.armed)
			a->s.origin_ns += (now_ns - a->s.origin_ns) / period_ns * period_ns;
	} else {
		return;
	}
	lapic_timer_fire(a);
}

static void lapic_timer_catch_up(struct lapic *a)
{
	lapic_timer_poll(a, lapic_now_ns(a), lapic_now_tsc(a));
}

static u64 lapic_tsc_deadline_ns(const struct lapic *a)
{
	u64 now_tsc = lapic_now_tsc(a), now_ns = lapic_now_ns(a);
	u128 left_ns;

	if (a->s.deadline_tsc <= now_tsc)
		return now_ns;
	left_ns = (u128)(a->s.deadline_tsc - now_tsc) * 1000000 / a->env->tsc_khz + 1;
	return left_ns < UINT64_MAX - now_ns ? now_ns + (u64)left_ns : UINT64_MAX;
}

/* A masked timer need not wake anyone: writes to its LVT catch up first. */
u64 lapic_deadline_ns(const struct lapic *a)
{
	if (a->s.lvt[LVT_TIMER] & LVT_MASKED)
		return UINT64_MAX;
	if (lapic_timer_mode(a) == TIMER_DEADLINE)
		return a->s.deadline_tsc ? lapic_tsc_deadline_ns(a) : UINT64_MAX;
	return lapic_counting(a) ? a->s.origin_ns + lapic_period_ns(a) : UINT64_MAX;
}

static u32 lapic_current_count(const struct lapic *a)
{
	u64 ticks = (lapic_now_ns(a) - a->s.origin_ns) >> lapic_divide_shift(a);

	if (!lapic_counting(a))
		return 0;
	if (lapic_timer_mode(a) == TIMER_PERIODIC)
		ticks %= a->s.initial;
	return ticks < a->s.initial ? a->s.initial - (u32)ticks : 0;
}

static void lapic_write_initial(struct lapic *a, u32 val)
{
	if (lapic_timer_mode(a) == TIMER_DEADLINE)
		return;
	a->s.initial = val;
	a->s.armed = val != 0;
	a->s.origin_ns = lapic_now_ns(a);
}

/* A new divisor goes on from the present count. */
static void lapic_write_divide(struct lapic *a, u32 val)
{
	u32 count;

	lapic_timer_catch_up(a);
	count = lapic_current_count(a);
	a->s.divide = val & DIVIDE_BITS;
	a->s.origin_ns = lapic_now_ns(a) - ((u64)(a->s.initial - count) << lapic_divide_shift(a));
}

/* Going into or out of deadline mode disarms the timer. */
static void lapic_write_lvt_timer(struct lapic *a, u32 val)
{
	u32 old = lapic_timer_mode(a);

	lapic_timer_catch_up(a);
	a->s.lvt[LVT_TIMER] = val;
	if ((old == TIMER_DEADLINE) != (lapic_timer_mode(a) == TIMER_DEADLINE)) {
		a->s.deadline_tsc = 0;
		a->s.armed = false;
	}
}

/* --- interprocessor interrupts -------------------------------------------------------------- */
static void lapic_send_all(struct lapic *a, u8 mode, u8 vector, bool self)
{
	for (u32 i = 0; i < a->env->nr_vcpus; i++) {
		struct lapic *to = a->env->vcpus[i]->apic;

		if (to && (to != a || self) && lapic_load_base(to) & BASE_EN)
			lapic_deliver(to, mode, vector, false);
	}
}

/* "Interrupt Command Register (ICR)", with table "Valid Combinations ... (ICR)": self takes fixed
 * interrupts only, and "all including self" no others than fixed and lowest priority. */
static void lapic_send_ipi(struct lapic *a)
{
	u32 icr = a->s.icr, dest = lapic_x2(a) ? a->s.icr_high : a->s.icr_high >> 24;
	u8 mode = icr >> 8 & 7, vector = (u8)icr;

	if (mode == INIT && (icr & (ICR_ASSERT | ICR_LEVEL)) == ICR_LEVEL)
		return; /* INIT level de-assert: not since the Pentium */
	if (mode <= LOWEST && vector < VECTOR_MIN)
		return lapic_error(a, ESR_SEND_ILLEGAL);
	if (mode == EXTINT || mode == 3)
		return; /* reserved in ICR */
	switch (icr >> ICR_SHORTHAND_SHIFT & 3) {
	case DEST_FIELD:
		if (!lapic_x2(a) && !(icr & ICR_LOGICAL) && dest == 0xff)
			dest = DEST_BROADCAST;
		lapic_route(a->env->vcpus, a->env->nr_vcpus, dest, icr & ICR_LOGICAL, mode, vector,
			    false);
		break;
	case DEST_SELF:
		if (mode == FIXED)
			lapic_accept(a, vector, false);
		break;
	case DEST_ALL:
		if (mode <= LOWEST)
			lapic_send_all(a, FIXED, vector, true);
		break;
	case DEST_OTHERS:
		lapic_send_all(a, mode, vector, false);
		break;
	}
}

static void lapic_write_icr(struct lapic *a, u32 val)
{
	a->s.icr = val & ~(ICR_RESERVED | ICR_BUSY);
	lapic_send_ipi(a);
}

/* --- registers ------------------------------------------------------------------------------ */
/* In x2APIC mode the logical ID follows from the APIC ID: 16 CPUs to a cluster. */
static u32 lapic_x2_ldr(const struct lapic *a)
{
	return (a->v->apic_id & ~15u) << 12 | 1u << (a->v->apic_id & 15);
}

/* While the APIC is software-disabled the masks stay set. */
static void lapic_write_lvt(struct lapic *a, enum lvt i, u32 val)
{
	u32 lvt = val & lvt_bits[i];

	if (!(a->s.svr & SVR_ENABLE))
		lvt |= LVT_MASKED;
	if (i == LVT_TIMER)
		return lapic_write_lvt_timer(a, lvt);
	lapic_store(&a->s.lvt[i], lvt);
	if (i == LVT_LINT0)
		lapic_update_extint(a);
}

static void lapic_write_svr(struct lapic *a, u32 val)
{
	lapic_store(&a->s.svr, val & SVR_BITS);
	if (val & SVR_ENABLE)
		return;
	for (int i = 0; i < LVTS; i++)
		lapic_write_lvt(a, i, a->s.lvt[i] | LVT_MASKED);
}

static void lapic_write_esr(struct lapic *a)
{
	a->s.esr = __atomic_exchange_n(&a->s.error, 0, __ATOMIC_SEQ_CST);
}

/* A register common to both modes by its xAPIC offset; false: there is none. */
static bool lapic_read_reg(struct lapic *a, u32 reg, u32 *val)
{
	u32 i = reg >> 4 & 7;

	switch (reg) {
	case REG_ID:
		*val = lapic_x2(a) ? a->v->apic_id : a->v->apic_id << 24;
		return true;
	case REG_VERSION:
		*val = VERSION;
		return true;
	case REG_TPR:
		*val = a->s.tpr;
		return true;
	case REG_PPR:
		*val = lapic_ppr(a);
		return true;
	case REG_LDR:
		*val = a->s.ldr;
		return true;
	case REG_SVR:
		*val = a->s.svr;
		return true;
	case REG_ISR ... REG_ISR + 0x70:
		*val = a->s.isr[i];
		return true;
	case REG_TMR ... REG_TMR + 0x70:
		*val = lapic_load(&a->s.tmr[i]);
		return true;
	case REG_IRR ... REG_IRR + 0x70:
		*val = lapic_load(&a->s.irr[i]);
		return true;
	case REG_ESR:
		*val = a->s.esr;
		return true;
	case REG_ICR:
		*val = a->s.icr;
		return true;
	case REG_LVT ... REG_LVT_END:
		*val = a->s.lvt[(reg - REG_LVT) >> 4];
		return true;
	case REG_INITIAL:
		*val = a->s.initial;
		return true;
	case REG_CURRENT:
		*val = lapic_current_count(a);
		return true;
	case REG_DIVIDE:
		*val = a->s.divide;
		return true;
	default:
		return false;
	}
}

/* The same for writes, reserved bits already dealt with. */
static bool lapic_write_reg(struct lapic *a, u32 reg, u32 val)
{
	switch (reg) {
	case REG_TPR:
		lapic_set_tpr(a, (u8)val);
		return true;
	case REG_EOI:
		lapic_eoi(a);
		return true;
	case REG_SVR:
		lapic_write_svr(a, val);
		return true;
	case REG_ESR:
		lapic_write_esr(a);
		return true;
	case REG_ICR:
		lapic_write_icr(a, val);
		return true;
	case REG_LVT ... REG_LVT_END:
		lapic_write_lvt(a, (reg - REG_LVT) >> 4, val);
		return true;
	case REG_INITIAL:
		lapic_write_initial(a, val);
		return true;
	case REG_DIVIDE:
		lapic_write_divide(a, val);
		return true;
	default:
		return false;
	}
}

/* --- the xAPIC page ------------------------------------------------------------------------- */
u32 lapic_mmio_read(struct lapic *a, u32 off)
{
	u32 val = 0;

	if (off % 16)
		return 0;
	if (off == REG_DFR)
		return a->s.dfr;
	if (off == REG_ICR_HIGH)
		return a->s.icr_high;
	if (off == REG_APR || off == REG_RRD || off == REG_EOI) /* not there any more, or write-only */
		return 0;
	if (!lapic_read_reg(a, off, &val))
		lapic_error(a, ESR_ILLEGAL_REGISTER);
	return val;
}

void lapic_mmio_write(struct lapic *a, u32 off, u32 val)
{
	u32 ignored;

	if (off % 16)
		return;
	if (off == REG_LDR)
		lapic_store(&a->s.ldr, val & 0xff000000);
	else if (off == REG_DFR)
		lapic_store(&a->s.dfr, val | 0x0fffffff);
	else if (off == REG_ICR_HIGH)
		a->s.icr_high = val & 0xff000000;
	else if (!lapic_write_reg(a, off, val) && !lapic_read_reg(a, off, &ignored))
		lapic_error(a, ESR_ILLEGAL_REGISTER);
}

/* --- MSRs ----------------------------------------------------------------------------------- */
static void lapic_clear(struct lapic *a);

/* "x2APIC State Transitions": out of x2APIC mode only by way of disabled, into it only from xAPIC. */
static bool lapic_write_base(struct lapic *a, u64 val)
{
	u64 old = a->s.base, mode = val & (BASE_EN | BASE_EXTD);
	struct cpuid_out sizes;

	cpuid_query(a->v, 0x80000008, 0, &sizes);
	if (val & (BASE_FLAGS & ~(BASE_BSP | BASE_EXTD | BASE_EN)) || val >> (sizes.eax & 0xff))
		return false;
	if (mode == BASE_EXTD || (old & BASE_EXTD && mode == BASE_EN) ||
	    (!(old & BASE_EN) && mode == (BASE_EN | BASE_EXTD)))
		return false;
	val = (val & ~(u64)BASE_BSP) | (old & BASE_BSP);
	__atomic_store_n(&a->s.base, val, __ATOMIC_SEQ_CST);
	if (!(val & BASE_EN)) {
		lapic_clear(a);
	} else if (val & ~old & BASE_EXTD) {
		lapic_store(&a->s.ldr, lapic_x2_ldr(a));
		a->s.icr_high = 0;
	}
	lapic_update_extint(a);
	return true;
}

/* Bits that WRMSR may set without #GP, or ~0 for a register that has no such bits. */
static u64 lapic_x2_bits(u32 reg)
{
	switch (reg) {
	case REG_TPR:
	case REG_SELF_IPI:
		return 0xff;
	case REG_EOI:
	case REG_ESR:
		return 0;
	case REG_SVR:
		return SVR_BITS;
	case REG_ICR:
		return ~(u64)ICR_RESERVED;
	case REG_LVT ... REG_LVT_END:
		return lvt_bits[(reg - REG_LVT) >> 4] | LVT_READ_ONLY;
	case REG_DIVIDE:
		return DIVIDE_BITS;
	default:
		return UINT32_MAX;
	}
}

static bool lapic_x2_read(struct lapic *a, u32 reg, u64 *val)
{
	u32 low;

	if (!lapic_x2(a) || !lapic_read_reg(a, reg, &low))
		return false;
	*val = reg == REG_ICR ? (u64)a->s.icr_high << 32 | low : low;
	return true;
}

static bool lapic_x2_write(struct lapic *a, u32 reg, u64 val)
{
	if (!lapic_x2(a) || val & ~lapic_x2_bits(reg))
		return false;
	if (reg == REG_ICR)
		a->s.icr_high = (u32)(val >> 32);
	if (reg == REG_SELF_IPI) {
		if (val < VECTOR_MIN)
			lapic_error(a, ESR_SEND_ILLEGAL);
		else
			lapic_accept(a, (u8)val, false);
		return true;
	}
	return lapic_write_reg(a, reg, (u32)val);
}

bool lapic_rdmsr(struct lapic *a, u32 msr, u64 *v)
{
	if (msr == MSR_APIC_BASE) {
		*v = a->s.base;
		return true;
	}
	if (msr == MSR_TSC_DEADLINE) {
		lapic_timer_catch_up(a);
		*v = a->s.deadline_tsc;
		return true;
	}
	return msr >= MSR_X2APIC && msr <= MSR_X2APIC_END &&
	       lapic_x2_read(a, (msr - MSR_X2APIC) << 4, v);
}

bool lapic_wrmsr(struct lapic *a, u32 msr, u64 v)
{
	if (msr == MSR_APIC_BASE)
		return lapic_write_base(a, v);
	if (msr == MSR_TSC_DEADLINE) {
		if (lapic_timer_mode(a) == TIMER_DEADLINE)
			a->s.deadline_tsc = v;
		return true;
	}
	return msr >= MSR_X2APIC && msr <= MSR_X2APIC_END &&
	       lapic_x2_write(a, (msr - MSR_X2APIC) << 4, v);
}

/* --- life ----------------------------------------------------------------------------------- */
/* "Local APIC State After Power-Up or Reset"; keeps the base, and the levels of the pins. */
static void lapic_clear(struct lapic *a)
{
	memset(&a->s.error, 0, sizeof a->s - offsetof(struct lapic_state, error));
	a->s.svr = 0xff;
	a->s.dfr = UINT32_MAX;
	for (int i = 0; i < LVTS; i++)
		a->s.lvt[i] = LVT_MASKED;
	if (a->v->index == 0)
		a->s.lvt[LVT_LINT0] = EXTINT << LVT_MODE_SHIFT;
	if (a->s.base & BASE_EXTD)
		a->s.ldr = lapic_x2_ldr(a);
}

void lapic_init_reset(struct lapic *a)
{
	lapic_clear(a);
	lapic_update_extint(a);
}

void lapic_power_on(struct lapic *a)
{
	a->s.base = BASE_RESET | BASE_EN | (a->v->index == 0 ? BASE_BSP : 0);
	lapic_init_reset(a);
}

struct lapic *lapic_new(struct vcpu *v, struct engine_env *env)
{
	struct lapic *a = calloc(1, sizeof *a);

	if (!a)
		return NULL;
	a->v = v;
	a->env = env;
	lapic_power_on(a);
	return a;
}

void lapic_free(struct lapic *a)
{
	free(a);
}

static void lapic_check(const struct lapic_state *s, struct state *st)
{
	u64 mode = s->base & (BASE_EN | BASE_EXTD);

	st_check(st, mode != BASE_EXTD && !(s->base & 0x2ff) && s->base < BIT(52), "base");
	st_check(st, s->tpr <= 0xff && !(s->svr & ~SVR_BITS), "tpr");
	for (int i = 0; i < LVTS; i++)
		st_check(st, !(s->lvt[i] & ~lvt_bits[i]), "lvt");
	st_check(st, !(s->divide & ~DIVIDE_BITS) && s->armed <= 1, "divide");
	st_check(st, !s->armed || s->initial, "initial");
	st_check(st, s->origin_ns < BIT(63), "origin_ns");
}

void lapic_state(struct lapic *a, struct state *st)
{
	struct lapic_state *s = &a->s;

	st_begin(st, "lapic", 1);
	st_u64(st, "base", &s->base);
	st_u32(st, "lint", &s->lint);
	st_u32(st, "error", &s->error);
	st_bytes(st, "irr", s->irr, sizeof s->irr);
	st_bytes(st, "tmr", s->tmr, sizeof s->tmr);
	st_u32(st, "tpr", &s->tpr);
	st_u32(st, "svr", &s->svr);
	st_u32(st, "ldr", &s->ldr);
	st_u32(st, "dfr", &s->dfr);
	st_bytes(st, "lvt", s->lvt, sizeof s->lvt);
	st_bytes(st, "isr", s->isr, sizeof s->isr);
	st_u32(st, "esr", &s->esr);
	st_u32(st, "icr", &s->icr);
	st_u32(st, "icr_high", &s->icr_high);
	st_u32(st, "divide", &s->divide);
	st_u32(st, "initial", &s->initial);
	st_u32(st, "armed", &s->armed);
	st_u64(st, "origin_ns", &s->origin_ns);
	st_u64(st, "deadline_tsc", &s->deadline_tsc);
	lapic_check(s, st);
	st_end(st);
	if (st->loading && !st->error) {
		lapic_update_extint(a);
		vcpu_request(a->v, VREQ_IRQ);
	}
}

/* --- KVM's layout --------------------------------------------------------------------------- */
/* Eight registers of 32 bits, 16 bytes apart. */
static void lapic_set_from(u32 *set, const u8 *page, u32 reg)
{
	for (u32 i = 0; i < 8; i++)
		set[i] = ld32(page + reg + i * 16);
}

static void lapic_set_to(const u32 *set, u8 *page, u32 reg)
{
	for (u32 i = 0; i < 8; i++)
		st32(page + reg + i * 16, set[i]);
}

void lapic_import(struct lapic *a, const u8 *page, u64 base, u64 deadline_tsc)
{
	struct lapic_state *s = &a->s;
	u32 count = ld32(page + REG_CURRENT);

	s->base = base;
	s->tpr = ld32(page + REG_TPR) & 0xff;
	s->svr = ld32(page + REG_SVR) & SVR_BITS;
	s->ldr = ld32(page + REG_LDR);
	s->dfr = ld32(page + REG_DFR);
	s->esr = ld32(page + REG_ESR);
	s->icr = ld32(page + REG_ICR);
	s->icr_high = ld32(page + REG_ICR_HIGH);
	for (u32 i = 0; i < LVTS; i++)
		s->lvt[i] = ld32(page + REG_LVT + i * 16) & lvt_bits[i];
	lapic_set_from(s->isr, page, REG_ISR);
	lapic_set_from(s->tmr, page, REG_TMR);
	lapic_set_from(s->irr, page, REG_IRR);
	s->divide = ld32(page + REG_DIVIDE) & DIVIDE_BITS;
	s->initial = ld32(page + REG_INITIAL);
	s->armed = count && count <= s->initial;
	s->origin_ns = lapic_now_ns(a) - ((u64)(s->initial - MIN(count, s->initial)) << lapic_divide_shift(a));
	s->deadline_tsc = deadline_tsc;
}

void lapic_export(const struct lapic *a, u8 *page, u64 *base, u64 *deadline_tsc)
{
	const struct lapic_state *s = &a->s;

	memset(page, 0, LAPIC_PAGE_BYTES);
	st32(page + REG_ID, a->v->apic_id << 24);
	st32(page + REG_VERSION, VERSION);
	st32(page + REG_TPR, s->tpr);
	st32(page + REG_SVR, s->svr);
	st32(page + REG_LDR, s->ldr);
	st32(page + REG_DFR, s->dfr);
	st32(page + REG_ESR, s->esr);
	st32(page + REG_ICR, s->icr);
	st32(page + REG_ICR_HIGH, s->icr_high);
	for (u32 i = 0; i < LVTS; i++)
		st32(page + REG_LVT + i * 16, s->lvt[i]);
	lapic_set_to(s->isr, page, REG_ISR);
	lapic_set_to(s->tmr, page, REG_TMR);
	lapic_set_to(s->irr, page, REG_IRR);
	st32(page + REG_DIVIDE, s->divide);
	st32(page + REG_INITIAL, s->initial);
	st32(page + REG_CURRENT, lapic_current_count(a));
	*base = s->base;
	*deadline_tsc = s->deadline_tsc;
}
