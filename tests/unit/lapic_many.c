/* lapic_many.c - interprocessor interrupts among 64 CPUs in x2APIC mode, four clusters of 16. */
#include "apic_kit.h"

enum { CPUS = 64, MSR_BASE = 0x1b, MSR_TPR = 0x808, MSR_LDR = 0x80d, MSR_SVR = 0x80f,
	MSR_ICR = 0x830 };
enum { VECTOR = 0x50, LOWEST = 1 << 8, LOGICAL = 1 << 11, ALL = 2 << 18, OTHERS = 3 << 18 };

static void machine(void)
{
	u64 base;

	apics_open(CPUS);
	for (u32 i = 0; i < CPUS; i++) {
		OK(lapic_rdmsr(cpus[i].apic, MSR_BASE, &base));
		OK(lapic_wrmsr(cpus[i].apic, MSR_BASE, base | 0xc00));
		OK(lapic_wrmsr(cpus[i].apic, MSR_SVR, APIC_ON));
	}
}

/* CPU 20 sends; a bit for every CPU that got the vector. */
static u64 who_gets(u32 dest, u32 low)
{
	u64 who = 0;

	OK(lapic_wrmsr(cpus[20].apic, MSR_ICR, (u64)dest << 32 | low | VECTOR));
	for (u32 i = 0; i < CPUS; i++) {
		if (lapic_pending(cpus[i].apic) != VECTOR)
			continue;
		who |= BIT(i);
		lapic_ack(cpus[i].apic, VECTOR);
		OK(lapic_wrmsr(cpus[i].apic, 0x80b, 0)); /* EOI */
	}
	return who;
}

TEST(lapic_many_clusters_of_sixteen)
{
	u64 ldr;

	machine();
	OK(lapic_rdmsr(cpus[37].apic, MSR_LDR, &ldr));
	EQ(ldr, 2 << 16 | 1 << 5);
	EQ(who_gets(2 << 16 | 1 << 5, LOGICAL), BIT(37));
	EQ(who_gets(3 << 16 | 0x8001, LOGICAL), BIT(48) | BIT(63));
	EQ(who_gets(1 << 16 | 0xffff, LOGICAL), 0xffff0000);
	EQ(who_gets(4 << 16 | 0xffff, LOGICAL), 0); /* no such cluster */
	EQ(who_gets(2 << 16, LOGICAL), 0);
}

TEST(lapic_many_physical_and_broadcast)
{
	machine();
	EQ(who_gets(63, 0), BIT(63));
	EQ(who_gets(64, 0), 0);
	EQ(who_gets(0x100, 0), 0); /* an ID has 32 bits */
	EQ(who_gets(0xffffffff, 0), ~0ull);
	EQ(who_gets(0xffffffff, LOGICAL), ~0ull);
	EQ(who_gets(0, OTHERS), ~BIT(20));
	EQ(who_gets(0, ALL), ~0ull);
}

TEST(lapic_many_lowest_priority_in_a_cluster)
{
	machine();
	for (u32 i = 32; i < 48; i++)
		OK(lapic_wrmsr(cpus[i].apic, MSR_TPR, i == 41 ? 0 : 0x20));
	EQ(who_gets(2 << 16 | 0xffff, LOGICAL | LOWEST), BIT(41));
	OK(lapic_wrmsr(cpus[41].apic, MSR_SVR, 0xff)); /* software-disabled ones are out */
	EQ(__builtin_popcountll(who_gets(2 << 16 | 0xffff, LOGICAL | LOWEST)), 1);
	EQ(lapic_pending(cpus[41].apic), -1);
}
