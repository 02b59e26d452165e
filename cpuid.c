/* cpuid.c - the CPU model: what CPUID answers under either engine, and the host's TSC rate.
 *
 * Owns the table of features; the MSRs that go with it are msr.c's.  Const after the first query
 * (the host is asked once, since CPUID traps when the host is a virtual machine itself); any
 * thread.
 *
 * A feature is shown if this project implements it and, where the host's own units do the work,
 * the host has it.  Under KVM the guest runs on the host's processor and sees its vendor, family
 * and model (kvm.c further takes away what KVM does not support).
 *
 * Under the software CPU no speculation is ours, so no mitigation makes sense, and Linux must be
 * told (translator.md's price: 1.3 to 4 times on kernel work).  Its tables go by vendor:
 * - AMD (and Hygon) hosts: AuthenticAMD, Zen 4: never Meltdown, L1TF, MDS.  Automatic IBRS
 *   answers Spectre v2 (no retpolines, one EFER write), SSB_NO, BTC_NO, SRSO_NO, TSA_*_NO the
 *   rest.
 * - all other hosts: GenuineIntel, Cedarview, an in-order Atom: on the list of processors
 *   without speculation, for which Linux looks at nothing else.  The C library picks its
 *   routines by feature bits for this model.
 * - both: IA32_ARCH_CAPABILITIES with every *_NO bit; Linux reads it whatever the vendor. An
 *   unknown vendor would be taken for vulnerable to everything; the real vendor also keeps
 *   libraries' cache size detection working, and agrees with what KVM shows on the same host.
 *   Hidden though we could do it: SMAP, UMIP (they cost kernel entries and give nothing here),
 *   VME.
 *
 * Sources: SDM vol 2 "CPUID"; AMD APM vol 3 appendix E; Linux
 * Documentation/virt/kvm/x86/cpuid.rst. */
#include <fcntl.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "vcpu.h"

enum { EAX, EBX, ECX, EDX };
enum { HOST_CACHES = 5, XSAVE_LEGACY = 576, LAPIC_BUS_KHZ = 1000000 };
enum {
	SIG_AMD = 0x00a10f11 /* family 19h model 11h */,
	SIG_ATOM = 0x00030661 /* family 6 model 36h */
};

#define B(n) (1u << (n))

/* host: shown if the host has it; ours: shown whatever the host is. */
static const struct feature_word {
	u32 leaf, subleaf, host, ours;
	u8 reg;
} features[] = {
	/* FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE
	 * SSE2 SS */
	{ .leaf = 1,
	  .reg = EDX,
	  .host = B(0) | B(4) | B(8) | B(15) | B(19) | B(23) | B(24) | B(25) | B(26),
	  .ours = B(2) | B(3) | B(5) | B(6) | B(7) | B(9) | B(11) | B(12) | B(13) | B(14) | B(16) |
		  B(17) | B(27) },
	/* SSE3 PCLMUL SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND;
	 * PCID x2APIC TSC-deadline hypervisor */
	{ .leaf = 1,
	  .reg = ECX,
	  .host = B(0) | B(1) | B(9) | B(12) | B(13) | B(19) | B(20) | B(22) | B(23) | B(25) |
		  B(26) | B(28) | B(29) | B(30),
	  .ours = B(17) | B(21) | B(24) | B(31) },
	/* BMI1 AVX2 FDP-on-exception BMI2 no-FCS/FDS RDSEED ADX CLFLUSHOPT CLWB SHA;
	 * FSGSBASE TSC_ADJUST SMEP ERMS INVPCID */
	{ .leaf = 7,
	  .reg = EBX,
	  .host = B(3) | B(5) | B(6) | B(8) | B(13) | B(18) | B(19) | B(23) | B(24) | B(29),
	  .ours = B(0) | B(1) | B(7) | B(9) | B(10) },
	/* GFNI VAES VPCLMULQDQ MOVDIRI; RDPID */
	{ .leaf = 7, .reg = ECX, .host = B(8) | B(9) | B(10) | B(27), .ours = B(22) },
	/* FSRM SERIALIZE (Linux would else do an IRET each time) ARCH_CAPABILITIES */
	{ .leaf = 7, .reg = EDX, .ours = B(4) | B(14) | B(29) },
	/* XSAVEOPT XSAVEC; XGETBV with ECX = 1 */
	{ .leaf = 0xd, .subleaf = 1, .reg = EAX, .host = B(0) | B(1), .ours = B(2) },
	/* LAHF LZCNT PREFETCHW */
	{ .leaf = 0x80000001, .reg = ECX, .host = B(0) | B(5) | B(8) },
	/* SYSCALL NX 1-GiB-pages RDTSCP LM */
	{ .leaf = 0x80000001, .reg = EDX, .ours = B(11) | B(20) | B(26) | B(27) | B(29) },
	/* invariant TSC */
	{ .leaf = 0x80000007, .reg = EDX, .ours = B(8) },
	/* FXSAVE always stores the error pointers; SSB_NO BTC_NO */
	{ .leaf = 0x80000008, .reg = EBX, .host = B(2), .ours = B(26) | B(29) },
	/* LFENCE serialises; null selectors clear the base; automatic IBRS; SRSO_NO */
	{ .leaf = 0x80000021, .reg = EAX, .ours = B(2) | B(6) | B(8) | B(29) },
	/* TSA_SQ_NO TSA_L1_NO */
	{ .leaf = 0x80000021, .reg = ECX, .ours = B(1) | B(2) },
	/* always-running APIC timer */
	{ .leaf = 6, .reg = EAX, .ours = B(2) },
};

/* What the host said, read once. */
static struct host {
	bool amd;
	struct cpuid_out vendor, signature;
	struct cpuid_out brand[3];
	u32 word[ARRAY_LEN(features)];
	u64 xcr0; /* enabled by the host's kernel */
	u32 phys_bits;
	struct cpuid_out cache[HOST_CACHES]; /* leaf 4 or 0x8000001d */
	struct cpuid_out l1, l2; /* 0x80000005, 0x80000006 */
} host;
static pthread_once_t host_once = PTHREAD_ONCE_INIT;

static struct cpuid_out host_cpuid(u32 leaf, u32 subleaf)
{
	struct cpuid_out o, max;

	__asm__ volatile("cpuid"
			 : "=a"(max.eax), "=b"(max.ebx), "=c"(max.ecx), "=d"(max.edx)
			 : "a"(leaf & 0xc0000000), "c"(0));
	if (leaf > max.eax || (max.eax ^ leaf) >> 30)
		return (struct cpuid_out){ 0 };
	__asm__ volatile("cpuid"
			 : "=a"(o.eax), "=b"(o.ebx), "=c"(o.ecx), "=d"(o.edx)
			 : "a"(leaf), "c"(subleaf));
	return o;
}

static u32 reg_of(const struct cpuid_out *o, unsigned reg)
{
	return reg == EAX ? o->eax : reg == EBX ? o->ebx : reg == ECX ? o->ecx : o->edx;
}

static u32 *reg_in(struct cpuid_out *o, unsigned reg)
{
	return reg == EAX ? &o->eax : reg == EBX ? &o->ebx : reg == ECX ? &o->ecx : &o->edx;
}

/* AVX and what builds on it need the host's kernel to save the registers. */
static void host_drop_avx(u32 leaf, u8 reg, u32 *word)
{
	if (leaf == 1 && reg == ECX)
		*word &= ~(B(12) | B(28) | B(29));
	if (leaf == 7 && reg == EBX)
		*word &= ~B(5);
	if (leaf == 7 && reg == ECX)
		*word &= ~(B(9) | B(10));
}

static void host_read(void)
{
	struct cpuid_out one = host_cpuid(1, 0), sizes = host_cpuid(0x80000008, 0);
	u32 lo = 1, hi = 0;

	host.vendor = host_cpuid(0, 0);
	host.amd = host.vendor.ebx == 0x68747541 /* Auth */ ||
		   host.vendor.ebx == 0x6f677948 /* Hygo */;
	host.signature = one;
	host.phys_bits = sizes.eax & 0xff;
	if (host.phys_bits < 36 || host.phys_bits > 52)
		host.phys_bits = 36;
	if (one.ecx & B(27))
		__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	host.xcr0 = lo & 7;
	for (unsigned i = 0; i < ARRAY_LEN(features); i++) {
		const struct feature_word *f = &features[i];
		struct cpuid_out o = host_cpuid(f->leaf, f->subleaf);

		host.word[i] = reg_of(&o, f->reg);
		if ((host.xcr0 & 6) != 6)
			host_drop_avx(f->leaf, f->reg, &host.word[i]);
	}
	for (unsigned i = 0; i < 3; i++)
		host.brand[i] = host_cpuid(0x80000002 + i, 0);
	for (unsigned i = 0; i < HOST_CACHES; i++)
		host.cache[i] = host_cpuid(host.amd ? 0x8000001d : 4, i);
	host.l1 = host_cpuid(0x80000005, 0);
	host.l2 = host_cpuid(0x80000006, 0);
}

static const struct host *host_get(void)
{
	pthread_once(&host_once, host_read);
	return &host;
}

/* The register's feature bits, 0 for one that holds none. */
static u32 feature_bits(u32 leaf, u32 subleaf, unsigned reg)
{
	const struct host *h = host_get();

	for (unsigned i = 0; i < ARRAY_LEN(features); i++) {
		const struct feature_word *f = &features[i];

		if (f->leaf == leaf && f->subleaf == subleaf && f->reg == reg)
			return f->ours | (f->host & h->word[i]);
	}
	return 0;
}

static void fill_features(u32 leaf, u32 subleaf, struct cpuid_out *o)
{
	for (unsigned reg = EAX; reg <= EDX; reg++)
		*reg_in(o, reg) |= feature_bits(leaf, subleaf, reg);
}

bool cpuid_has(u32 leaf, u32 subleaf, unsigned reg, unsigned bit)
{
	return feature_bits(leaf, subleaf, reg) >> bit & 1;
}

bool cpuid_is_amd(void)
{
	return host_get()->amd;
}

bool cpuid_is_native(const struct vcpu *v)
{
	return v->eng && !strcmp(v->eng->name, "kvm");
}

/* --- leaves ----------------------------------------------------------------------------------- */
static u32 cpus(const struct vcpu *v)
{
	return v->env && v->env->nr_vcpus ? v->env->nr_vcpus : 1;
}

/* Bits of an APIC ID that tell the vCPUs apart. */
static u32 id_bits(const struct vcpu *v)
{
	u32 n = cpus(v);

	return n > 1 ? 32 - (u32)__builtin_clz(n - 1) : 0;
}

static u64 tsc_khz(const struct vcpu *v)
{
	return v->env && v->env->tsc_khz ? v->env->tsc_khz : LAPIC_BUS_KHZ;
}

static void leaf_vendor(const struct vcpu *v, u32 max, struct cpuid_out *o)
{
	const struct host *h = host_get();

	*o = (struct cpuid_out){ max, 0x756e6547, 0x6c65746e, 0x49656e69 }; /* GenuineIntel */
	if (h->amd)
		*o = (struct cpuid_out){ max, 0x68747541, 0x444d4163,
					 0x69746e65 }; /* AuthenticAMD */
	if (cpuid_is_native(v))
		o->ebx = h->vendor.ebx, o->ecx = h->vendor.ecx, o->edx = h->vendor.edx;
}

static u32 signature(const struct vcpu *v)
{
	return cpuid_is_native(v) ? host_get()->signature.eax
	       : host_get()->amd  ? SIG_AMD
				  : SIG_ATOM;
}

/* By IA32_APIC_BASE; when the local APIC is KVM's, KVM sees to the bit. */
static bool apic_enabled(const struct vcpu *v)
{
	return !v->apic || lapic_enabled(v->apic);
}

static void leaf_1(const struct vcpu *v, struct cpuid_out *o)
{
	o->eax = signature(v);
	o->ebx = v->apic_id << 24 | MIN(cpus(v), 255) << 16 | 64 / 8 << 8;
	if (cpus(v) > 1)
		o->edx |= B(28); /* more than one logical processor in the package */
	if (v->s.cr4 & B(18))
		o->ecx |= B(27); /* OSXSAVE */
	if (!apic_enabled(v))
		o->edx &= ~B(9);
}

/* A host cache, shared as this machine's topology has it: up to L2 by nobody, L3 by all. */
static void leaf_cache(const struct vcpu *v, u32 subleaf, struct cpuid_out *o)
{
	const struct host *h = host_get();

	if (subleaf >= HOST_CACHES || !(h->cache[subleaf].eax & 0x1f))
		return;
	*o = h->cache[subleaf];
	o->eax &= 0x3fff;
	if ((o->eax >> 5 & 7) >= 3)
		o->eax |= (B(id_bits(v)) - 1) << 14;
	if (!h->amd)
		o->eax |= (B(id_bits(v)) - 1) << 26;
}

static void leaf_topology(const struct vcpu *v, u32 subleaf, struct cpuid_out *o)
{
	*o = (struct cpuid_out){ .ecx = subleaf & 0xff, .edx = v->apic_id };
	if (subleaf == 0) { /* one thread in a core */
		o->ebx = 1;
		o->ecx |= 1 << 8;
	} else if (subleaf == 1) { /* all cores in one package */
		o->eax = id_bits(v);
		o->ebx = cpus(v);
		o->ecx |= 2 << 8;
	}
}

static u32 xsave_size(u64 xcr0)
{
	return xcr0 & 4 ? XSAVE_BYTES : XSAVE_LEGACY;
}

static void leaf_xsave(const struct vcpu *v, u32 subleaf, struct cpuid_out *o)
{
	u64 known = cpuid_has(1, 0, ECX, 28) ? 7 : 3;

	if (!cpuid_has(1, 0, ECX, 26)) {
		o->eax = 0;
	} else if (subleaf == 0) {
		*o = (struct cpuid_out){ (u32)known, xsave_size(v->s.xcr0), xsave_size(known), 0 };
	} else if (subleaf == 1) {
		o->ebx = xsave_size(v->s.xcr0);
	} else if (subleaf == 2 && known & 4) {
		o->eax = XSAVE_BYTES - XSAVE_YMM_OFF;
		o->ebx = XSAVE_YMM_OFF;
	}
}

/* The APIC timer counts at the crystal's rate, so that is what the crystal must be: 1 GHz. */
static void leaf_tsc(const struct vcpu *v, struct cpuid_out *o)
{
	*o = (struct cpuid_out){ LAPIC_BUS_KHZ, (u32)tsc_khz(v), LAPIC_BUS_KHZ * 1000u, 0 };
}

static void leaf_frequency(const struct vcpu *v, struct cpuid_out *o)
{
	u32 mhz = (u32)(tsc_khz(v) / 1000);

	*o = (struct cpuid_out){ mhz, mhz, 100, 0 };
}

static void leaf_brand(const struct vcpu *v, unsigned part, struct cpuid_out *o)
{
	static const char name[48] = "mvm software CPU";

	*o = host_get()->brand[part];
	if (!cpuid_is_native(v))
		*o = (struct cpuid_out){ ld32(name + part * 16), ld32(name + part * 16 + 4),
					 ld32(name + part * 16 + 8), ld32(name + part * 16 + 12) };
}

static void leaf_hypervisor(const struct vcpu *v, u32 leaf, struct cpuid_out *o)
{
	if (leaf == 0x40000000)
		*o = (struct cpuid_out){ 0x40000010, 0x4b4d564b, 0x564b4d56, 0x4d }; /* KVMKVMKVM */
	else if (leaf == 0x40000001)
		o->eax = B(3) | B(24); /* the clock, by MSRs 0x4b564d00 ff., stable across vCPUs */
	else if (leaf == 0x40000010)
		o->eax = (u32)tsc_khz(v), o->ebx = LAPIC_BUS_KHZ;
}

/* Leaves that only AMD has, and its copies of leaf 1. */
static void leaf_amd(const struct vcpu *v, u32 leaf, u32 subleaf, struct cpuid_out *o)
{
	const struct host *h = host_get();

	switch (leaf) {
	case 0x80000001:
		o->eax = signature(v);
		o->edx |= feature_bits(1, 0, EDX) & 0x0183f3ff & (apic_enabled(v) ? ~0u : ~B(9));
		o->ecx |= B(22) |
			  (cpus(v) > 1 ? B(1) : 0); /* topology extensions; legacy multi-core */
		break;
	case 0x80000005: *o = h->l1; break;
	case 0x80000006: *o = h->l2; break;
	case 0x80000008: o->ecx = (cpus(v) - 1) | id_bits(v) << 12; break;
	case 0x8000001d: leaf_cache(v, subleaf, o); break;
	case 0x8000001e:
		*o = (struct cpuid_out){ .eax = v->apic_id, .ebx = v->apic_id & 0xff };
		break;
	}
}

static void leaf_extended(const struct vcpu *v, u32 leaf, u32 subleaf, struct cpuid_out *o)
{
	const struct host *h = host_get();

	if (leaf == 0x80000000) {
		leaf_vendor(v, h->amd ? 0x80000021 : 0x80000008, o);
		if (!h->amd)
			o->ebx = o->ecx = o->edx = 0;
		return;
	}
	if (leaf > 0x80000008 && !h->amd) {
		*o = (struct cpuid_out){ 0 };
		return;
	}
	if (leaf >= 0x80000002 && leaf <= 0x80000004)
		leaf_brand(v, leaf - 0x80000002, o);
	if (leaf == 0x80000008)
		o->eax = h->phys_bits | 48 << 8;
	if (h->amd)
		leaf_amd(v, leaf, subleaf, o);
	else if (leaf == 0x80000006)
		o->ecx = h->l2.ecx;
}

/* Bits that would tell a guest under KVM that the host's processor is immune: that is for KVM to
 * say (IA32_ARCH_CAPABILITIES) or for the host's own CPUID. */
static void drop_immunity(u32 leaf, u32 subleaf, struct cpuid_out *o)
{
	struct cpuid_out real;

	if (leaf != 0x80000008 && leaf != 0x80000021)
		return;
	real = host_cpuid(leaf, subleaf);
	if (leaf == 0x80000008) {
		o->ebx &= real.ebx;
		return;
	}
	o->eax &= real.eax;
	o->ecx &= real.ecx;
}

/* Leaves whose answer depends on ECX; in all others it is whatever the guest left there. */
static bool has_subleaves(u32 leaf)
{
	return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f ||
	       leaf == 0x8000001d;
}

void cpuid_query(const struct vcpu *v, u32 leaf, u32 subleaf, struct cpuid_out *o)
{
	enum { MAX_BASIC = 0x1f };
	bool amd = host_get()->amd;

	*o = (struct cpuid_out){ 0 };
	if (!has_subleaves(leaf))
		subleaf = 0;
	if (leaf >= 0x40000000 && leaf <= 0x4fffffff) {
		leaf_hypervisor(v, leaf, o);
		return;
	}
	if (!(leaf >> 31) &&
	    leaf > MAX_BASIC) /* Intel answers with the last basic leaf, AMD with zeros */
		return;
	fill_features(leaf, leaf == 7 || leaf == 0xd ? subleaf : 0,
		      o); /* elsewhere ECX is not looked at */
	if (leaf >> 31)
		leaf_extended(v, leaf, subleaf, o);
	if (cpuid_is_native(v))
		drop_immunity(leaf, subleaf, o);
	switch (leaf) {
	case 0: leaf_vendor(v, MAX_BASIC, o); break;
	case 1: leaf_1(v, o); break;
	case 2: o->eax = amd ? 0 : 0x0000ff01; break; /* "see leaf 4" */
	case 4:
		if (!amd)
			leaf_cache(v, subleaf, o);
		break;
	case 0xb:
	case 0x1f: leaf_topology(v, subleaf, o); break;
	case 0xd: leaf_xsave(v, subleaf, o); break;
	case 0x15: leaf_tsc(v, o); break;
	case 0x16: leaf_frequency(v, o); break;
	}
}

/* --- the host's TSC --------------------------------------------------------------------------- */
/* The kernel's own factor from cycles to nanoseconds, published in the first page of any perf
 * event. */
static u64 tsc_khz_perf(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof attr,
		.config = PERF_COUNT_SW_DUMMY,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};
	int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	const struct perf_event_mmap_page *p;
	u64 khz = 0;

	if (fd < 0)
		return 0;
	p = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	if (p != MAP_FAILED) {
		if (p->cap_user_time && p->time_mult && p->time_shift < 44)
			khz = (1000000ull << p->time_shift) / p->time_mult;
		munmap((void *)p, PAGE_SIZE);
	}
	close(fd);
	return khz;
}

/* A moment on both clocks, read as close together as a few tries bring it. */
static struct host_moment moment_now(void)
{
	struct host_moment best = { 0 };
	u64 least = ~0ull;

	for (unsigned i = 0; i < 8; i++) {
		struct timespec t;
		u64 before = host_rdtsc(), after;

		clock_gettime(CLOCK_MONOTONIC_RAW, &t);
		after = host_rdtsc();
		if (after - before >= least)
			continue;
		least = after - before;
		best = (struct host_moment){ before + least / 2,
					(u64)t.tv_sec * NS_PER_SEC + (u64)t.tv_nsec };
	}
	return best;
}

static u64 tsc_khz_measured(const struct host_moment *from, u64 ns)
{
	struct host_moment b;

	do
		b = moment_now();
	while (b.ns - from->ns < ns);
	return (b.tsc - from->tsc) * 1000000 / (b.ns - from->ns);
}

/* "cpu MHz" in a virtual machine without frequency scaling is the kernel's own idea of the TSC. */
static u64 tsc_khz_cpuinfo(void)
{
	char text[2048], *at;
	int fd = open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	u64 mhz;

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return 0;
	text[n] = 0;
	at = strstr(text, "cpu MHz");
	at = at ? strchr(at, ':') : NULL;
	mhz = at ? strtoull(at + 1, &at, 10) : 0;
	if (!mhz || *at != '.') /* three digits follow, the kernel has always said */
		return 0;
	return mhz * 1000 + strtoull(at + 1, NULL, 10);
}

static u64 tsc_khz_cpuid(void)
{
	struct cpuid_out o = host_cpuid(1, 0);
	u64 khz;

	if (o.ecx & B(31) && (khz = host_cpuid(0x40000010, 0).eax))
		return khz;
	o = host_cpuid(0x15, 0);
	return o.eax && o.ebx && o.ecx ? (u64)o.ecx * o.ebx / o.eax / 1000 : 0;
}

struct host_tsc host_tsc_look(void)
{
	struct host_tsc t = { .khz = tsc_khz_cpuid() };

	if (!t.khz)
		t.khz = tsc_khz_perf();
	if (!t.khz) {
		t.told = tsc_khz_cpuinfo();
		t.from = moment_now();
	}
	return t;
}

/* By the host kernel's word if a short measurement confirms it, else by a long measurement. */
u64 host_tsc_khz(const struct host_tsc *t)
{
	enum { SHORT_NS = 1000000, LONG_NS = 20000000 };
	u64 seen;

	if (t->khz)
		return t->khz;
	if (!t->told)
		return tsc_khz_measured(&t->from, LONG_NS);
	seen = tsc_khz_measured(&t->from, SHORT_NS);
	return t->told > seen - seen / 500 && t->told < seen + seen / 500 ?
		       t->told : tsc_khz_measured(&t->from, LONG_NS);
}
