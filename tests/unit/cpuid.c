/* cpuid.c - what the CPU model promises: to Linux's tables, to the XSAVE code, between leaves. */
#include <time.h>

#include "../../vcpu.h"
#include "../test.h"

enum { EAX, EBX, ECX, EDX };

static struct engine_env env = { .tsc_khz = 2345678, .nr_vcpus = 6 };

static struct vcpu *cpu(u32 id)
{
	static struct vcpu v;

	memset(&v, 0, sizeof v);
	v.env = &env;
	v.apic_id = v.index = id;
	v.s.xcr0 = 1;
	return &v;
}

static struct cpuid_out ask(const struct vcpu *v, u32 leaf, u32 subleaf)
{
	struct cpuid_out o;

	cpuid_query(v, leaf, subleaf, &o);
	return o;
}

static u64 msr(u32 index)
{
	u64 val = 0;

	OK(msr_read(cpu(0), index, &val));
	return val;
}

TEST(cpuid_what_the_software_cpu_needs_is_there)
{
	static const struct {
		u32 leaf;
		u8 reg, bit;
	} rows[] = {
		{ 1, EDX, 0 },		 { 1, EDX, 6 },		  { 1, EDX, 13 },
		{ 1, EDX, 26 },		 { 1, ECX, 17 },	  { 1, ECX, 21 },
		{ 1, ECX, 24 },		 { 1, ECX, 31 },	  { 7, EBX, 0 },
		{ 7, EBX, 7 },		 { 7, EBX, 9 },		  { 7, EBX, 10 },
		{ 7, EDX, 4 },	  { 7, EDX, 14 },
		{ 7, EDX, 29 },	  { 0x80000001, EDX, 11 },
		{ 0x80000001, EDX, 20 }, { 0x80000001, EDX, 26 }, { 0x80000001, EDX, 27 },
		{ 0x80000001, EDX, 29 }, { 0x80000007, EDX, 8 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct cpuid_out o = ask(cpu(0), rows[i].leaf, 0);
		u32 reg[4] = { o.eax, o.ebx, o.ecx, o.edx };

		OK(reg[rows[i].reg] >> rows[i].bit & 1);
		OK(cpuid_has(rows[i].leaf, 0, rows[i].reg, rows[i].bit));
	}
}

TEST(cpuid_what_costs_or_is_missing_is_hidden)
{
	struct cpuid_out one = ask(cpu(0), 1, 0), seven = ask(cpu(0), 7, 0);

	OK(!(one.ecx & (BIT(2) | BIT(3) | BIT(5)))); /* DTES64 MONITOR VMX */
	OK(!(one.edx & BIT(1))); /* VME */
	OK(!(seven.ebx & (BIT(4) | BIT(11) | BIT(16) | BIT(20) | BIT(30) | BIT(31) |
			  BIT(28)))); /* TSX AVX-512 SMAP */
	OK(!(seven.ecx & (BIT(1) | BIT(2) | BIT(3) | BIT(7) | BIT(16)))); /* UMIP PKU SHSTK LA57 */
	OK(!(seven.edx &
	     (BIT(10) | BIT(20) | BIT(26) | BIT(27) | BIT(31)))); /* MD_CLEAR IBT IBRS STIBP SSBD */
	OK(!(ask(cpu(0), 0xd, 1).eax & BIT(3))); /* XSAVES */
	EQ(ask(cpu(0), 7, 0).eax, 0);
	EQ(ask(cpu(0), 7, 1).eax, 0);
}

/* The entries of Linux's cpu_vuln_whitelist and cpu_set_bug_bits() that this model relies on. */
TEST(cpuid_linux_needs_no_mitigation)
{
	struct cpuid_out v = ask(cpu(0), 0, 0), one = ask(cpu(0), 1, 0);
	u32 family = (one.eax >> 8 & 0xf) + (one.eax >> 20 & 0xff);
	u32 model = (one.eax >> 4 & 0xf) | (one.eax >> 12 & 0xf0);
	u64 caps = msr(0x10a);

	EQ(caps & 0x0d10e17b, 0x0d10e17b);
	OK(caps >> 62 & 1);
	if (v.ebx == 0x756e6547) { /* GenuineIntel */
		EQ(family, 6);
		EQ(model, 0x36); /* Saltwell: "no speculation" */
		return;
	}
	EQ(v.ebx, 0x68747541);
	EQ(family, 0x19);
	OK(ask(cpu(0), 0x80000021, 0).eax >> 8 & 1);
	OK(ask(cpu(0), 0x80000021, 0).eax >> 29 & 1);
	EQ(ask(cpu(0), 0x80000021, 0).ecx & 6, 6);
	EQ(ask(cpu(0), 0x80000008, 0).ebx & (BIT(26) | BIT(29)), BIT(26) | BIT(29));
	OK(msr(0xc0010015) >> 24 & 1); /* bsp_init_amd() reads these two unguarded */
	EQ(msr(0xc0010010), 0);
}

TEST(cpuid_no_feature_the_host_lacks)
{
	static const struct {
		u32 leaf, mask;
		u8 reg;
	} rows[] = {
		{ 1, 0x7698320b, ECX }, { 1, 0x07888111, EDX },	    { 7, 0x218c0128, EBX },
		{ 7, 0x08000700, ECX }, { 0x80000001, 0x121, ECX },
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct cpuid_out o = ask(cpu(0), rows[i].leaf, 0);
		u32 shown[4] = { o.eax, o.ebx, o.ecx, o.edx }, host[4];

		__asm__ volatile("cpuid"
				 : "=a"(host[0]), "=b"(host[1]), "=c"(host[2]), "=d"(host[3])
				 : "a"(rows[i].leaf), "c"(0));
		EQ(shown[rows[i].reg] & rows[i].mask & ~host[rows[i].reg], 0);
	}
}

TEST(cpuid_avx_family_hangs_together)
{
	struct cpuid_out one = ask(cpu(0), 1, 0), seven = ask(cpu(0), 7, 0);

	if (!(one.ecx & BIT(28)))
		OK(!(one.ecx & (BIT(12) | BIT(29))) && !(seven.ebx & BIT(5)));
	else
		OK(one.ecx & BIT(26));
}

TEST(cpuid_xsave_sizes_follow_xcr0)
{
	struct vcpu *v = cpu(0);
	struct cpuid_out d0;

	if (!cpuid_has(1, 0, ECX, 28))
		SKIP("the host has no AVX");
	d0 = ask(v, 0xd, 0);
	EQ(d0.eax, 7);
	EQ(d0.ebx, 576);
	EQ(d0.ecx, XSAVE_BYTES);
	v->s.xcr0 = 7;
	EQ(ask(v, 0xd, 0).ebx, XSAVE_BYTES);
	EQ(ask(v, 0xd, 1).ebx,
	   XSAVE_BYTES); /* Linux compares the compacted size with its own sum */
	EQ(ask(v, 0xd, 2).eax, 256);
	EQ(ask(v, 0xd, 2).ebx, XSAVE_YMM_OFF);
	EQ(ask(v, 0xd, 3).eax, 0);
}

TEST(cpuid_live_bits_follow_the_state)
{
	struct vcpu *v = cpu(3);

	OK(!(ask(v, 1, 0).ecx & BIT(27)));
	v->s.cr4 = BIT(18);
	OK(ask(v, 1, 0).ecx & BIT(27));
	EQ(ask(v, 1, 0).ebx >> 24, 3);
	EQ(ask(v, 0xb, 0).edx, 3);
}

TEST(cpuid_ecx_counts_only_where_there_are_subleaves)
{
	static const u32 leaves[] = { 0,	  1,	      6,	  0x80000000, 0x80000001,
				      0x80000007, 0x80000008, 0x80000021, 0x40000000 };

	for (unsigned i = 0; i < ARRAY_LEN(leaves); i++) {
		struct cpuid_out a = ask(cpu(0), leaves[i], 0),
				 b = ask(cpu(0), leaves[i], 0xc0000080);

		EQ(memcmp(&a, &b, sizeof a), 0);
	}
}

TEST(cpuid_topology_is_one_package_of_single_thread_cores)
{
	struct vcpu *v = cpu(5);
	struct cpuid_out t;

	t = ask(v, 0xb, 0);
	EQ(t.eax, 0);
	EQ(t.ebx, 1);
	EQ(t.ecx, 0x100);
	t = ask(v, 0xb, 1);
	EQ(t.eax, 3); /* six vCPUs need three bits */
	EQ(t.ebx, 6);
	EQ(t.ecx, 0x201);
	EQ(ask(v, 0xb, 2).ecx, 2);
	EQ(ask(v, 1, 0).ebx >> 16 & 0xff, 6);
	if (cpuid_is_amd()) {
		EQ(ask(v, 0x80000008, 0).ecx, 5 | 3 << 12);
		EQ(ask(v, 0x8000001e, 0).eax, 5);
	}
}

TEST(cpuid_frequencies_agree)
{
	struct cpuid_out crystal = ask(cpu(0), 0x15, 0), kvm = ask(cpu(0), 0x40000010, 0);

	EQ((u64)crystal.ecx * crystal.ebx / crystal.eax / 1000, env.tsc_khz);
	EQ(kvm.eax, env.tsc_khz);
	EQ(kvm.ebx, crystal.ecx / 1000);
	EQ(ask(cpu(0), 0x16, 0).eax, env.tsc_khz / 1000);
}

TEST(cpuid_hypervisor_leaves_offer_only_the_clock)
{
	struct cpuid_out o = ask(cpu(0), 0x40000000, 0);

	EQ(o.eax, 0x40000010);
	EQ(o.ebx, 0x4b4d564b);
	EQ(o.ecx, 0x564b4d56);
	EQ(o.edx, 0x4d);
	EQ(ask(cpu(0), 0x40000001, 0).eax, BIT(3) | BIT(24));
	EQ(ask(cpu(0), 0x40000001, 0).edx, 0);
}

TEST(cpuid_the_host_tsc_rate_is_right)
{
	struct host_tsc look = host_tsc_look();
	u64 khz = host_tsc_khz(&look), t0 = host_rdtsc(), measured;
	struct timespec a, b;
	s64 ns;

	clock_gettime(CLOCK_MONOTONIC, &a);
	do {
		clock_gettime(CLOCK_MONOTONIC, &b);
		ns = (b.tv_sec - a.tv_sec) * 1000000000ll + b.tv_nsec - a.tv_nsec;
	} while (ns < 30000000);
	measured = (host_rdtsc() - t0) * 1000000 / (u64)ns;
	OK(khz > measured / 100 * 97 && khz < measured / 100 * 103);
}
