/* lapic_irq.c - the local APIC's interrupts: in from messages, pins and other CPUs, by priority to
 * the CPU, out to other CPUs.
 *
 * Thread: accepting, routing and pins from any; the rest the vCPU's own.
 * Source: SDM vol 3 "Handling Interrupts", "Issuing Interprocessor Interrupts", "Handling Local
 * Interrupts".
 * Departures: no SMM, so SMI is accepted and dropped; LINT0 in fixed mode is edge-sensitive; an
 * ExtINT message is for the boot CPU alone, which is the one wired to the 8259s; physical
 * destination FFh is a broadcast in x2APIC mode too, since a message has eight bits of
 * destination. */
#include "lapic_priv.h"

enum { DEST_FIELD, DEST_SELF, DEST_ALL, DEST_OTHERS };
#define DEST_BROADCAST UINT32_MAX

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

/* Was it there? */
static bool set_add(u32 *set, u8 vector)
{
	u32 bit = 1u << vector % 32;

	return __atomic_fetch_or(&set[vector / 32], bit, __ATOMIC_SEQ_CST) & bit;
}

static void set_remove(u32 *set, u8 vector)
{
	__atomic_fetch_and(&set[vector / 32], ~(1u << vector % 32), __ATOMIC_SEQ_CST);
}

static bool set_has(const u32 *set, u8 vector)
{
	return lapic_load(&set[vector / 32]) & 1u << vector % 32;
}

bool lapic_is_requested(const struct lapic *a, u8 vector)
{
	return set_has(a->s.irr, vector);
}

/* --- accepting ------------------------------------------------------------------------------ */
/* "Error Handling".  The error interrupt itself cannot cause another one. */
void lapic_error(struct lapic *a, u32 bit)
{
	u32 lvt = lapic_load(&a->s.lvt[LVT_ERROR]);

	__atomic_fetch_or(&a->s.error, bit, __ATOMIC_SEQ_CST);
	if (!(lvt & LVT_MASKED) && (u8)lvt >= VECTOR_MIN)
		lapic_accept(a, (u8)lvt, false);
}

/* A fixed interrupt arrives.  TMR before IRR: who sees the request sees how it was triggered. */
void lapic_accept(struct lapic *a, u8 vector, bool level)
{
	if (!(lapic_load(&a->s.svr) & SVR_ENABLE) || !(lapic_load_base(a) & BASE_EN))
		return;
	if (vector < VECTOR_MIN)
		return lapic_error(a, ESR_RECEIVE_ILLEGAL);
	if (level)
		set_add(a->s.tmr, vector);
	else
		set_remove(a->s.tmr, vector);
	/* Whoever set the bit has told the CPU; again and again, by a timer of a nanosecond, it
	 * would run nothing. */
	if (!set_add(a->s.irr, vector))
		vcpu_request(a->v, VREQ_IRQ);
}

void lapic_deliver(struct lapic *a, u8 mode, u8 vector, bool level)
{
	switch ((enum delivery)mode) {
	case FIXED:
	case LOWEST: lapic_accept(a, vector, level); break;
	case SMI: break;
	case NMI: vcpu_request(a->v, VREQ_NMI); break;
	case INIT: vcpu_request(a->v, VREQ_INIT); break;
	case SIPI:
		atomic_store(&a->v->sipi_vector, vector);
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
u32 lapic_ppr(const struct lapic *a)
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

void lapic_eoi(struct lapic *a)
{
	struct irqchip *chip = a->env->chip;
	struct device *ioapic = chip->ioapic;
	int vector = set_highest(a->s.isr);

	if (vector < 0)
		return;
	set_remove(a->s.isr, (u8)vector);
	lapic_timer_eoi(a, (u8)vector);
	if (ioapic && set_has(a->s.tmr, (u8)vector) && !(a->s.svr & SVR_NO_EOI_BROADCAST)) {
		pthread_mutex_lock(a->env->lock);
		ioapic_eoi(ioapic, (u8)vector);
		pthread_mutex_unlock(a->env->lock);
	}
	if (__atomic_load_n(&chip->taken, __ATOMIC_RELAXED)) {
		pthread_mutex_lock(a->env->lock);
		if (chip->taken)
			chip->taken(chip->taken_arg);
		pthread_mutex_unlock(a->env->lock);
	}
	lapic_recheck(a);
}

void lapic_set_tpr(struct lapic *a, u8 tpr)
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

/* Make VREQ_EXTINT say whether INTR reaches the CPU.  The pin's thread and the register's may both
 * be here: each looks again after acting, so whoever is last has seen what the other did. */
void lapic_update_extint(struct lapic *a)
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
void lapic_send_ipi(struct lapic *a)
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
	case DEST_OTHERS: lapic_send_all(a, mode, vector, false); break;
	}
}
