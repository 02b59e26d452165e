/* lapic.c - local APICs of a machine whose CPUs do not run: requests are what they would see. */
#include "../../devices/chipset.h"
#include "apic_kit.h"

enum {
	CPUS = 4,
	TPR = 0x80,
	PPR = 0xa0,
	EOI = 0xb0,
	LDR = 0xd0,
	DFR = 0xe0,
	SVR = 0xf0,
	ISR = 0x100,
	TMR = 0x180,
	IRR = 0x200,
	ESR = 0x280,
	ICR = 0x300,
	ICR_HIGH = 0x310,
	TIMER = 0x320,
	LINT0 = 0x350,
	LINT1 = 0x360,
	LVT_ERROR = 0x370,
	INITIAL = 0x380,
	CURRENT = 0x390,
	DIVIDE = 0x3e0
};
enum {
	MASKED = 1 << 16,
	PERIODIC = 1 << 17,
	DEADLINE = 2 << 17,
	BASE = 0x1b,
	TSC_DEADLINE = 0x6e0
};
enum { OTHERS = 3 << 18, ALL = 2 << 18, SELF = 1 << 18, LOGICAL = 1 << 11 };

static struct lapic *apic[CPUS];

static u32 get(int i, u32 reg)
{
	return lapic_mmio_read(apic[i], reg);
}

static void put(int i, u32 reg, u32 val)
{
	lapic_mmio_write(apic[i], reg, val);
}

static void machine(void)
{
	apics_open(CPUS);
	for (int i = 0; i < CPUS; i++) {
		apic[i] = cpus[i].apic;
		put(i, SVR, APIC_ON);
	}
}

static u32 take(int i)
{
	return atomic_exchange(&cpus[i].req, 0);
}

static void deliver(int i, u8 vector)
{
	lapic_deliver(apic[i], 0, vector, false);
}

static int service(int i)
{
	int vector = lapic_pending(apic[i]);

	if (vector >= 0)
		lapic_ack(apic[i], (u8)vector);
	return vector;
}

static void poll_at(int i, u64 advance_ns)
{
	loop_advance(env.loop, advance_ns);
	lapic_timer_poll(apic[i], loop_now_ns(env.loop), 0);
}

static void x2apic(int i)
{
	u64 base;

	OK(lapic_rdmsr(apic[i], BASE, &base));
	OK(lapic_wrmsr(apic[i], BASE, base | 0xc00));
}

/* --- registers ------------------------------------------------------------------------------ */
TEST(lapic_power_on_registers)
{
	u64 base;

	machine();
	lapic_power_on(apic[1]);
	EQ(get(1, 0x20), 1 << 24);
	EQ(get(1, 0x30), 0x01050014);
	EQ(get(1, SVR), 0xff);
	EQ(get(1, DFR), 0xffffffff);
	EQ(get(1, LINT0), MASKED);
	EQ(get(1, TIMER), MASKED);
	OK(lapic_rdmsr(apic[1], BASE, &base));
	EQ(base, 0xfee00800);
	OK(lapic_rdmsr(apic[0], BASE, &base));
	EQ(base, 0xfee00900);
	EQ(lapic_base(apic[0]), 0xfee00000);
}

TEST(lapic_accepts_nothing_while_software_disabled)
{
	machine();
	put(0, SVR, 0xff);
	deliver(0, 0x40);
	EQ(lapic_pending(apic[0]), -1);
	put(0, TIMER, 0x40);
	EQ(get(0, TIMER), MASKED | 0x40);
	lapic_deliver(apic[0], 4, 0, false); /* but NMI always */
	EQ(take(0) & VREQ_NMI, VREQ_NMI);
}

TEST(lapic_priority_decides)
{
	machine();
	deliver(0, 0x41), deliver(0, 0x52), deliver(0, 0x45);
	OK(take(0) & VREQ_IRQ);
	EQ(service(0), 0x52);
	EQ(get(0, PPR), 0x50);
	EQ(service(0), -1);
	deliver(0, 0x5f); /* same class */
	EQ(service(0), -1);
	deliver(0, 0x60);
	EQ(service(0), 0x60);
	put(0, EOI, 0);
	take(0);
	put(0, EOI, 0);
	EQ(take(0), VREQ_IRQ); /* 5f is deliverable now */
	EQ(service(0), 0x5f);
	put(0, EOI, 0);
	EQ(service(0), 0x45);
	put(0, EOI, 0);
	EQ(service(0), 0x41);
}

TEST(lapic_tpr_and_cr8_are_the_same)
{
	machine();
	lapic_set_cr8(apic[0], 5);
	EQ(get(0, TPR), 0x50);
	deliver(0, 0x5f);
	EQ(service(0), -1);
	take(0);
	put(0, TPR, 0x4f);
	EQ(lapic_cr8(apic[0]), 4);
	EQ(take(0), VREQ_IRQ);
	EQ(get(0, PPR), 0x4f);
	EQ(service(0), 0x5f);
	EQ(get(0, PPR), 0x50);
}

TEST(lapic_irr_isr_tmr_read_back)
{
	machine();
	lapic_deliver(apic[0], 0, 0x85, true);
	EQ(get(0, IRR + 0x40), 0x20);
	EQ(get(0, TMR + 0x40), 0x20);
	service(0);
	EQ(get(0, IRR + 0x40), 0);
	EQ(get(0, ISR + 0x40), 0x20);
	deliver(0, 0x85);
	EQ(get(0, TMR + 0x40), 0);
}

TEST(lapic_errors_latch_until_esr_is_written)
{
	machine();
	put(0, LVT_ERROR, 0xfe);
	deliver(0, 0x0f);
	EQ(get(0, ESR), 0);
	EQ(service(0), 0xfe);
	put(0, ICR, SELF | 0x05);
	put(0, ESR, 0);
	EQ(get(0, ESR), 0x60);
	put(0, ESR, 0);
	EQ(get(0, ESR), 0);
	EQ(get(0, 0x3d0), 0);
	put(0, ESR, 0);
	EQ(get(0, ESR), 0x80);
	put(0, LVT_ERROR, 3); /* an error interrupt that is an error itself ends there */
	deliver(0, 1);
}

/* --- interprocessor interrupts -------------------------------------------------------------- */
static u32 who_got(u8 vector)
{
	u32 set = 0;

	for (int i = 0; i < CPUS; i++) {
		if (lapic_pending(apic[i]) != vector)
			continue;
		set |= 1u << i;
		service(i);
		put(i, EOI, 0);
	}
	return set;
}

/* A timer that is always due must not call the CPU away from its next instruction for ever. */
TEST(lapic_request_that_is_pending_is_not_made_again)
{
	machine();
	lapic_deliver(apic[0], 0, 0x41, false);
	EQ(take(0), VREQ_IRQ);
	lapic_deliver(apic[0], 0, 0x41, false);
	EQ(take(0), 0);
	EQ(service(0), 0x41);
	lapic_deliver(apic[0], 0, 0x41, false);
	EQ(take(0), VREQ_IRQ);
}

TEST(lapic_ipi_shorthands)
{
	machine();
	put(1, ICR, OTHERS | 0x50);
	EQ(who_got(0x50), 0xd);
	put(1, ICR, ALL | 0x50);
	EQ(who_got(0x50), 0xf);
	put(1, ICR, SELF | 0x50);
	EQ(who_got(0x50), 0x2);
	EQ(get(1, ICR), SELF | 0x50); /* delivery status is idle */
}

TEST(lapic_ipi_physical_and_broadcast)
{
	machine();
	put(0, ICR_HIGH, 2 << 24);
	put(0, ICR, 0x50);
	EQ(who_got(0x50), 4);
	put(0, ICR_HIGH, 0xff000000);
	put(0, ICR, 0x50);
	EQ(who_got(0x50), 0xf);
	put(0, ICR_HIGH, 9 << 24);
	put(0, ICR, 0x50);
	EQ(who_got(0x50), 0);
}

TEST(lapic_ipi_logical_flat_and_cluster)
{
	machine();
	for (int i = 0; i < CPUS; i++)
		put(i, LDR, 1u << (24 + i));
	put(0, ICR_HIGH, 0x0a000000);
	put(0, ICR, LOGICAL | 0x50);
	EQ(who_got(0x50), 0xa);
	for (int i = 0; i < CPUS; i++) { /* two clusters of two */
		put(i, DFR, 0);
		put(i, LDR, (u32)((i / 2) << 4 | 1 << i % 2) << 24);
	}
	put(0, ICR_HIGH, 0x13000000);
	put(0, ICR, LOGICAL | 0x50);
	EQ(who_got(0x50), 0xc);
	put(0, ICR_HIGH, 0xf2000000); /* all clusters */
	put(0, ICR, LOGICAL | 0x50);
	EQ(who_got(0x50), 0xa);
	EQ(get(0, DFR), 0x0fffffff);
}

TEST(lapic_lowest_priority_goes_to_the_least_busy)
{
	machine();
	for (int i = 0; i < CPUS; i++) {
		put(i, LDR, 0xff000000);
		put(i, TPR, i == 2 ? 0x10 : 0x20);
	}
	lapic_route(env.vcpus, CPUS, 0xff, true, 1, 0x50, false);
	EQ(who_got(0x50), 4);
	put(2, SVR, 0xff);
	lapic_route(env.vcpus, CPUS, 0xff, true, 1, 0x50, false);
	OK(who_got(0x50) & 0xb);
}

TEST(lapic_init_and_startup)
{
	machine();
	put(0, ICR_HIGH, 3 << 24);
	put(0, ICR, 0xc500); /* INIT, assert, level: Linux */
	EQ(take(3), VREQ_INIT);
	put(0, ICR, 0x8500); /* de-assert */
	EQ(take(3), 0);
	put(0, ICR, 0x69a);
	EQ(take(3), VREQ_SIPI);
	EQ(cpus[3].sipi_vector, 0x9a);
	put(0, ICR, 0x400);
	EQ(take(3), VREQ_NMI);
	put(0, ICR, 0x700); /* reserved */
	EQ(take(3), 0);
}

TEST(lapic_init_keeps_mode_and_forgets_the_rest)
{
	u64 v;

	machine();
	x2apic(1);
	deliver(1, 0x40);
	lapic_init_reset(apic[1]);
	EQ(lapic_pending(apic[1]), -1);
	OK(lapic_rdmsr(apic[1], 0x80f, &v));
	EQ(v, 0xff);
	OK(lapic_rdmsr(apic[1], 0x80d, &v));
	EQ(v, 2);
	lapic_power_on(apic[1]);
	OK(!lapic_rdmsr(apic[1], 0x80f, &v));
}

/* --- EOI broadcast -------------------------------------------------------------------------- */
static void use_ioapic(void)
{
	struct device wires = { .irq = { { &chip, 0 } } };
	struct err e;

	chip.ioapic = device_new(&ioapic_ops, &wires, &e);
}

TEST(lapic_level_eoi_reaches_the_ioapic)
{
	const struct device_ops *ops;

	machine();
	use_ioapic();
	ops = chip.ioapic->ops;
	ops->write(chip.ioapic, 0, 0, 4, 0x10 + 2 * 10);
	ops->write(chip.ioapic, 0, 0x10, 4, 0x8040);
	ioapic_set_irq(chip.ioapic, 10, true);
	EQ(service(0), 0x40);
	EQ(service(0), -1);
	put(0, EOI, 0); /* still high: it comes again at once */
	EQ(service(0), 0x40);
	ioapic_set_irq(chip.ioapic, 10, false);
	put(0, EOI, 0);
	EQ(service(0), -1);
	put(0, SVR, 0x11ff); /* broadcast suppressed: the guest does it itself */
	ioapic_set_irq(chip.ioapic, 10, true);
	EQ(service(0), 0x40);
	put(0, EOI, 0);
	EQ(service(0), -1);
	ops->write(chip.ioapic, 0, 0x40, 4, 0x40);
	EQ(service(0), 0x40);
}

/* --- LINT pins ------------------------------------------------------------------------------ */
TEST(lapic_extint_follows_pin_and_lvt)
{
	machine();
	lapic_power_on(apic[0]);
	OK(lapic_accepts_extint(apic[0]));
	lapic_set_lint(apic[0], 0, true);
	EQ(take(0), VREQ_EXTINT);
	lapic_set_lint(apic[0], 0, false);
	put(0, SVR, 0x1ff);
	put(0, LINT0, 0x10700);
	lapic_set_lint(apic[0], 0, true);
	EQ(take(0), 0);
	put(0, LINT0, 0x700);
	EQ(cpus[0].req, VREQ_EXTINT);
	put(0, LINT0, 0x10700);
	EQ(cpus[0].req, 0);
	OK(lapic_wrmsr(apic[0], BASE, 0xfee00100)); /* no APIC: INTR is the pin's name again */
	EQ(cpus[0].req, VREQ_EXTINT);
	lapic_set_lint(apic[0], 0, false);
	EQ(cpus[0].req, 0);
}

TEST(lapic_lint1_is_nmi_as_programmed)
{
	machine();
	lapic_set_lint(apic[0], 1, true);
	EQ(take(0), 0);
	lapic_set_lint(apic[0], 1, false);
	put(0, LINT1, 0x400);
	lapic_set_lint(apic[0], 1, true);
	EQ(take(0), VREQ_NMI);
	lapic_set_lint(apic[0], 1, true);
	EQ(take(0), 0);
}

TEST(lapic_lint0_in_fixed_mode_gives_its_vector)
{
	machine();
	put(0, LINT0, 0x31);
	lapic_set_lint(apic[0], 0, true);
	EQ(service(0), 0x31);
	EQ(take(0), VREQ_IRQ);
}

/* --- timer ---------------------------------------------------------------------------------- */
TEST(lapic_timer_fires_once)
{
	machine();
	put(0, DIVIDE, 0xb); /* by one */
	put(0, TIMER, 0xec);
	put(0, INITIAL, 1000);
	EQ(lapic_deadline_ns(apic[0]), 1000);
	poll_at(0, 400);
	EQ(get(0, CURRENT), 600);
	EQ(service(0), -1);
	poll_at(0, 600);
	EQ(service(0), 0xec);
	EQ(get(0, CURRENT), 0);
	EQ(lapic_deadline_ns(apic[0]), UINT64_MAX);
	poll_at(0, 10000);
	EQ(service(0), -1);
}

TEST(lapic_timer_divides)
{
	static const struct {
		u8 code;
		u32 by;
	} codes[] = { { 0, 2 },	 { 1, 4 },  { 2, 8 },	 { 3, 16 },
		      { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 } };

	machine();
	put(0, TIMER, 0xec);
	for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
		u64 now = loop_now_ns(env.loop);

		put(0, DIVIDE, codes[i].code);
		put(0, INITIAL, 100);
		EQ(lapic_deadline_ns(apic[0]), now + 100ull * codes[i].by);
	}
}

TEST(lapic_periodic_timer_does_not_drift)
{
	u32 fired = 0;

	machine();
	put(0, DIVIDE, 0xb);
	put(0, TIMER, PERIODIC | 0xec);
	put(0, INITIAL, 1000);
	for (int i = 0; i < 1000; i++) {
		poll_at(0, 333);
		if (service(0) == 0xec) {
			fired++;
			put(0, EOI, 0);
		}
	}
	EQ(fired, 333);
	EQ(lapic_deadline_ns(apic[0]), 334000);
	poll_at(0, 5500 - 0); /* late: one interrupt, and on with the old rhythm */
	EQ(service(0), 0xec);
	EQ(lapic_deadline_ns(apic[0]) % 1000, 0);
	put(0, INITIAL, 0);
	EQ(lapic_deadline_ns(apic[0]), UINT64_MAX);
}

TEST(lapic_periodic_timer_makes_up_for_lost_ticks)
{
	machine();
	put(0, DIVIDE, 0xb);
	put(0, TIMER, PERIODIC | 0xec);
	put(0, INITIAL, 1000);
	poll_at(0, 3500);
	poll_at(0, 2000); /* the first three still wait */
	for (int i = 0; i < 5; i++) {
		EQ(service(0), 0xec);
		EQ(service(0), -1); /* one at a time */
		put(0, EOI, 0);
	}
	EQ(service(0), -1);
	poll_at(0, 500);
	EQ(service(0), 0xec);
	put(0, EOI, 0);
	EQ(service(0), -1);
	poll_at(0, 5000);
	put(0, INITIAL, 2000); /* a new period owes nothing for the old one */
	EQ(service(0), 0xec);
	put(0, EOI, 0);
	EQ(service(0), -1);
}

TEST(lapic_masked_timer_expires_in_silence)
{
	machine();
	put(0, DIVIDE, 0xb);
	put(0, TIMER, MASKED | 0xec);
	put(0, INITIAL, 1000);
	EQ(lapic_deadline_ns(apic[0]), UINT64_MAX);
	loop_advance(env.loop, 2000);
	EQ(get(0, CURRENT), 0);
	put(0, TIMER, 0xec); /* it is over: unmasking brings nothing */
	EQ(lapic_deadline_ns(apic[0]), UINT64_MAX);
	poll_at(0, 10000);
	EQ(service(0), -1);
}

TEST(lapic_new_divisor_keeps_the_count)
{
	machine();
	put(0, DIVIDE, 0xb);
	put(0, TIMER, 0xec);
	put(0, INITIAL, 1000);
	loop_advance(env.loop, 400);
	put(0, DIVIDE, 0); /* by two */
	EQ(get(0, CURRENT), 600);
	EQ(lapic_deadline_ns(apic[0]), 400 + 1200);
}

TEST(lapic_tsc_deadline)
{
	u64 v, tsc;

	machine();
	OK(lapic_wrmsr(apic[0], TSC_DEADLINE, 12345)); /* ignored in another mode */
	OK(lapic_rdmsr(apic[0], TSC_DEADLINE, &v));
	EQ(v, 0);
	put(0, TIMER, DEADLINE | 0xec);
	put(0, INITIAL, 1000); /* ignored in this one */
	EQ(get(0, INITIAL), 0);
	tsc = host_rdtsc() + 2000000000000ull; /* in 1000 seconds at 2 GHz */
	OK(lapic_wrmsr(apic[0], TSC_DEADLINE, tsc));
	OK(lapic_rdmsr(apic[0], TSC_DEADLINE, &v));
	EQ(v, tsc);
	OK(lapic_deadline_ns(apic[0]) > 990 * NS_PER_SEC);
	OK(lapic_deadline_ns(apic[0]) <= 1000 * NS_PER_SEC + 1);
	lapic_timer_poll(apic[0], 0, tsc - 1);
	EQ(service(0), -1);
	lapic_timer_poll(apic[0], 0, tsc);
	EQ(service(0), 0xec);
	OK(lapic_rdmsr(apic[0], TSC_DEADLINE, &v));
	EQ(v, 0);
	EQ(lapic_deadline_ns(apic[0]), UINT64_MAX);
	OK(lapic_wrmsr(apic[0], TSC_DEADLINE, 1)); /* the past: now */
	EQ(lapic_deadline_ns(apic[0]), loop_now_ns(env.loop));
	OK(lapic_wrmsr(apic[0], TSC_DEADLINE, UINT64_MAX)); /* never, near enough */
	put(0, TIMER, 0xec);
	EQ(lapic_deadline_ns(apic[0]), UINT64_MAX);
}

/* --- MSRs ----------------------------------------------------------------------------------- */
TEST(lapic_base_transitions)
{
	struct cpuid_out o;
	u64 v;

	machine();
	OK(!lapic_wrmsr(apic[0], BASE, 0xfee00500)); /* x2APIC without enable */
	OK(!lapic_wrmsr(apic[0], BASE, 0xfee00901)); /* reserved bit */
	OK(!lapic_wrmsr(apic[0], BASE, BIT(60) | 0xfee00900));
	OK(lapic_wrmsr(apic[0], BASE, 0xfee00d00));
	EQ(lapic_base(apic[0]), ~0ull);
	OK(!lapic_wrmsr(apic[0], BASE, 0xfee00900)); /* no way straight back */
	cpuid_query(&cpus[0], 1, 0, &o);
	OK(o.edx >> 9 & 1);
	OK(lapic_wrmsr(apic[0], BASE, 0xfee00100));
	cpuid_query(&cpus[0], 1, 0, &o);
	OK(!(o.edx >> 9 & 1)); /* switched off is not there */
	OK(!lapic_wrmsr(apic[0], BASE, 0xfee00d00)); /* nor from off to x2APIC */
	deliver(0, 0x40);
	OK(lapic_wrmsr(apic[0], BASE, 0xfee00800));
	EQ(lapic_base(apic[0]), 0xfee00000);
	EQ(lapic_pending(apic[0]), -1);
	OK(lapic_rdmsr(apic[0], BASE, &v));
	EQ(v, 0xfee00900); /* who boots is not for software to say */
	EQ(get(0, SVR), 0xff);
}

TEST(lapic_x2apic_registers)
{
	u64 v;

	machine();
	OK(!lapic_rdmsr(apic[0], 0x802, &v));
	cpus[1].apic_id = 0x23;
	x2apic(1);
	OK(lapic_rdmsr(apic[1], 0x802, &v));
	EQ(v, 0x23);
	OK(lapic_rdmsr(apic[1], 0x80d, &v));
	EQ(v, 2 << 16 | 1 << 3);
	OK(lapic_wrmsr(apic[1], 0x808, 0x20));
	OK(!lapic_wrmsr(apic[1], 0x808, 0x100));
	OK(!lapic_wrmsr(apic[1], 0x80d, 1)); /* LDR is read-only, DFR and ICR high are gone */
	OK(!lapic_wrmsr(apic[1], 0x802, 1));
	OK(!lapic_rdmsr(apic[1], 0x80e, &v));
	OK(!lapic_rdmsr(apic[1], 0x831, &v));
	OK(!lapic_rdmsr(apic[1], 0x80b, &v)); /* EOI is write-only, and wants zero */
	OK(!lapic_wrmsr(apic[1], 0x80b, 1));
	OK(lapic_wrmsr(apic[1], 0x80b, 0));
	OK(!lapic_wrmsr(apic[1], 0x828, 1));
	OK(!lapic_wrmsr(apic[1], 0x830, 1 << 20));
	OK(!lapic_wrmsr(apic[1], 0x832, BIT(32)));
	OK(lapic_wrmsr(apic[1], 0x832, MASKED | DEADLINE | 0xec));
	OK(lapic_rdmsr(apic[1], 0x832, &v));
	EQ(v, MASKED | DEADLINE | 0xec);
	OK(lapic_wrmsr(apic[1], 0x83f, 0x45)); /* self IPI */
	EQ(service(1), 0x45);
	OK(!lapic_rdmsr(apic[1], 0x83f, &v));
	OK(!lapic_rdmsr(apic[1], 0x8ff, &v));
}

TEST(lapic_x2apic_ipis)
{
	u64 v;

	machine();
	for (int i = 0; i < CPUS; i++)
		x2apic(i);
	OK(lapic_wrmsr(apic[0], 0x830, 2ull << 32 | 0x50));
	EQ(service(2), 0x50);
	OK(lapic_rdmsr(apic[0], 0x830, &v));
	EQ(v, 2ull << 32 | 0x50);
	OK(lapic_wrmsr(apic[0], 0x830, 0xaull << 32 | LOGICAL | 0x60)); /* cluster 0: 1 and 3 */
	EQ(service(0), -1);
	EQ(service(1), 0x60);
	EQ(service(3), 0x60);
	OK(lapic_wrmsr(apic[0], 0x830, 0xffffffffull << 32 | 0x70));
	for (int i = 0; i < CPUS; i++)
		EQ(service(i), 0x70);
}

/* --- state ---------------------------------------------------------------------------------- */
TEST(lapic_state_survives_save_and_load)
{
	struct state saved, st;
	u32 before, after;

	machine();
	put(0, TIMER, PERIODIC | 0xec);
	put(0, INITIAL, 5000);
	put(0, LDR, 0x01000000);
	lapic_set_lint(apic[0], 0, true);
	put(0, LINT0, 0x700);
	deliver(0, 0x40), deliver(0, 0x90);
	service(0);
	before = get(0, CURRENT);
	state_init_save(&saved);
	lapic_state(apic[0], &saved);
	EQ(saved.error, 0);
	lapic_power_on(apic[0]);
	lapic_set_lint(apic[0], 0, false);
	take(0);
	state_init_load(&st, saved.buf, saved.len);
	lapic_state(apic[0], &st);
	EQ(st.error, 0);
	after = get(0, CURRENT);
	EQ(after, before);
	EQ(get(0, LDR), 0x01000000);
	EQ(cpus[0].req, VREQ_IRQ | VREQ_EXTINT);
	EQ(service(0), -1);
	put(0, EOI, 0);
	EQ(service(0), 0x40);
	state_free(&saved);
}

TEST(lapic_goes_to_the_kernel_layout_and_back)
{
	u8 page[LAPIC_PAGE_BYTES];
	u64 base, deadline;

	machine();
	put(0, DIVIDE, 0xb);
	put(0, TIMER, PERIODIC | 0xec);
	put(0, INITIAL, 5000);
	loop_advance(env.loop, 2000);
	put(0, TPR, 0x30);
	deliver(0, 0x40), deliver(0, 0x90);
	service(0);
	lapic_export(apic[0], page, &base, &deadline);
	EQ(ld32(page + CURRENT), 3000);
	EQ(ld32(page + ISR + 0x40), 1 << 16);
	lapic_power_on(apic[0]);
	lapic_import(apic[0], page, base, deadline);
	EQ(get(0, CURRENT), 3000);
	EQ(get(0, PPR), 0x90);
	put(0, EOI, 0);
	EQ(service(0), 0x40);
	EQ(lapic_deadline_ns(apic[0]), 5000);
}

/* --- threads -------------------------------------------------------------------------------- */
enum { DELIVERIES = 20000 };

static void *sender(void *arg)
{
	for (int i = 0; i < DELIVERIES; i++)
		lapic_route(env.vcpus, CPUS, 0, false, 0, (u8)(0x20 + i % 0xd0), false);
	return arg;
}

/* However the two race, at the end nothing is pending that the CPU was not told of. */
TEST(lapic_no_interrupt_is_lost_between_threads)
{
	pthread_t thread;
	bool seen[256] = { false };
	int vector;

	machine();
	pthread_create(&thread, NULL, sender, NULL);
	for (int idle = 0; idle < 1000; idle++) {
		if (!(take(0) & VREQ_IRQ))
			continue;
		for (idle = 0; (vector = service(0)) >= 0;) {
			seen[vector] = true;
			put(0, EOI, 0);
		}
	}
	pthread_join(thread, NULL);
	if (take(0) & VREQ_IRQ)
		while ((vector = service(0)) >= 0) {
			seen[vector] = true;
			put(0, EOI, 0);
		}
	EQ(lapic_pending(apic[0]), -1);
	for (int i = 0x20; i < 0xf0; i++)
		OK(seen[i]);
}

static void *pin_wiggler(void *arg)
{
	for (int i = 0; i < DELIVERIES; i++)
		lapic_set_lint(apic[0], 0, i % 2 == 0 || i == DELIVERIES - 1);
	return arg;
}

TEST(lapic_extint_request_is_right_after_a_race)
{
	for (int round = 0; round < 10; round++) {
		pthread_t thread;

		machine();
		pthread_create(&thread, NULL, pin_wiggler, NULL);
		for (int i = 0; i < DELIVERIES; i++)
			put(0, LINT0, i % 2 ? 0x700 : 0x10700);
		pthread_join(thread, NULL);
		EQ(cpus[0].req & VREQ_EXTINT, VREQ_EXTINT);
	}
}
