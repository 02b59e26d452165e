/* lapic.c - the local APIC of one vCPU: its registers as a page (xAPIC) and as MSRs (x2APIC),
 * reset, saving.  What the registers do is in lapic_irq.c and lapic_timer.c.
 *
 * Thread: the vCPU's own; set-up and saving while it is parked.
 * Source: SDM vol 3 "Advanced Programmable Interrupt Controller (APIC)" (chapter 10; 11 in newer
 * editions).  Departures: the APIC ID is fixed; on the boot CPU LINT0 powers on as ExtINT,
 * unmasked, as firmware would leave it ("virtual wire mode", MultiProcessor Specification 1.4
 * §3.6.2). */
#include "lapic_priv.h"

#include <stdlib.h>

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC = 0x800, MSR_X2APIC_END = 0x8ff };

/* Bits a write can set, by LVT. */
static const u32 lvt_bits[LVTS] = { 0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff };

gpa_t lapic_base(const struct lapic *a)
{
	return (a->s.base & (BASE_EN | BASE_EXTD)) == BASE_EN ? a->s.base & ~(u64)BASE_FLAGS
							      : ~0ull;
}

bool lapic_enabled(const struct lapic *a)
{
	return a->s.base & BASE_EN;
}

/* --- registers ------------------------------------------------------------------------------ */
static void lapic_write_icr(struct lapic *a, u32 val)
{
	a->s.icr = val & ~(ICR_RESERVED | ICR_BUSY);
	lapic_send_ipi(a);
}

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
	case REG_ID: *val = lapic_x2(a) ? a->v->apic_id : a->v->apic_id << 24; return true;
	case REG_VERSION: *val = VERSION; return true;
	case REG_TPR: *val = a->s.tpr; return true;
	case REG_PPR: *val = lapic_ppr(a); return true;
	case REG_LDR: *val = a->s.ldr; return true;
	case REG_SVR: *val = a->s.svr; return true;
	case REG_ISR ... REG_ISR + 0x70: *val = a->s.isr[i]; return true;
	case REG_TMR ... REG_TMR + 0x70: *val = lapic_load(&a->s.tmr[i]); return true;
	case REG_IRR ... REG_IRR + 0x70: *val = lapic_load(&a->s.irr[i]); return true;
	case REG_ESR: *val = a->s.esr; return true;
	case REG_ICR: *val = a->s.icr; return true;
	case REG_LVT ... REG_LVT_END: *val = a->s.lvt[(reg - REG_LVT) >> 4]; return true;
	case REG_INITIAL: *val = a->s.initial; return true;
	case REG_CURRENT: *val = lapic_current_count(a); return true;
	case REG_DIVIDE: *val = a->s.divide; return true;
	default: return false;
	}
}

/* The same for writes, reserved bits already dealt with. */
static bool lapic_write_reg(struct lapic *a, u32 reg, u32 val)
{
	switch (reg) {
	case REG_TPR: lapic_set_tpr(a, (u8)val); return true;
	case REG_EOI: lapic_eoi(a); return true;
	case REG_SVR: lapic_write_svr(a, val); return true;
	case REG_ESR: lapic_write_esr(a); return true;
	case REG_ICR: lapic_write_icr(a, val); return true;
	case REG_LVT ... REG_LVT_END: lapic_write_lvt(a, (reg - REG_LVT) >> 4, val); return true;
	case REG_INITIAL: lapic_write_initial(a, val); return true;
	case REG_DIVIDE: lapic_write_divide(a, val); return true;
	default: return false;
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
	if (off == REG_APR || off == REG_RRD || off == REG_EOI)
		return 0; /* not there any more, or write-only */
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

/* "x2APIC State Transitions": into x2APIC mode only from xAPIC, out of it only to disabled. */
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
	case REG_SELF_IPI: return 0xff;
	case REG_EOI:
	case REG_ESR: return 0;
	case REG_SVR: return SVR_BITS;
	case REG_ICR: return ~(u64)ICR_RESERVED;
	case REG_LVT ... REG_LVT_END: return lvt_bits[(reg - REG_LVT) >> 4] | LVT_READ_ONLY;
	case REG_DIVIDE: return DIVIDE_BITS;
	default: return UINT32_MAX;
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
	st_check(st, s->owed <= TICKS_OWED_MAX, "owed");
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
	st_u32(st, "owed", &s->owed);
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
	lapic_set_count(a, count);
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
