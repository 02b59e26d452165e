/* msr.c - the model-specific registers both engines have in common: everything but the APIC's,
 * the TSC, EFER and the segment bases, whose writes reach into an engine.
 *
 * State lives in cpu_state.  Runs on the vCPU's thread.  Values that a processor would refuse
 * are refused (#GP); memory types are stored and read back but change nothing, since guest
 * memory is the host's.
 * Sources: SDM vol 4; vol 3 "Memory Cache Control"; AMD APM vol 2 appendix A; Linux
 * Documentation/virt/kvm/x86/msr.rst for the clock. */
#include <time.h>

#include "vcpu.h"

enum {
	MSR_PLATFORM_ID = 0x17,
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_SPEC_CTRL = 0x48,
	MSR_PRED_CMD = 0x49,
	MSR_BIOS_UPDT = 0x79,
	MSR_BIOS_SIGN = 0x8b,
	MSR_PLATFORM_INFO = 0xce,
	MSR_MTRR_CAP = 0xfe,
	MSR_ARCH_CAPS = 0x10a,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_MCG_CAP = 0x179,
	MSR_MCG_STATUS = 0x17a,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_DEBUGCTL = 0x1d9,
	MSR_MTRR_VAR = 0x200,
	MSR_MTRR_VAR_END = 0x20f,
	MSR_PAT = 0x277,
	MSR_MTRR_DEF = 0x2ff,
	MSR_KVM_WALL = 0x4b564d00,
	MSR_KVM_TIME = 0x4b564d01,
};
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u
#define MSR_AMD_PERF 0xc0010000u /* four event selectors, four counters */
#define MSR_AMD_SYSCFG 0xc0010010u
#define MSR_AMD_HWCR 0xc0010015u
#define MSR_AMD_NB_CFG 0xc001001fu
#define MSR_AMD_VM_CR 0xc0010114u
#define MSR_AMD_LS_CFG 0xc0011020u
#define MSR_AMD_DE_CFG 0xc0011029u

/* IA32_ARCH_CAPABILITIES of a processor that does not speculate: RDCL_NO, IBRS_ALL, SKIP_L1DFL,
 * SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO,
 * GDS_NO, RFDS_NO, ITS_NO. */
#define ARCH_CAPS                                                                           \
	(BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | \
	 BIT(15) | BIT(20) | BIT(24) | BIT(26) | BIT(27) | BIT(62))
#define HWCR_TSC_FREQ_SEL BIT(24) /* "TSC counts at the P0 rate": else Linux complains */
#define DE_CFG_LFENCE BIT(1) /* LFENCE serialises */
#define VM_CR_SVM_OFF (BIT(3) | BIT(4))
#define MISC_ENABLE_KNOWN                                                                       \
	(BIT(0) | BIT(3) | BIT(7) | BIT(11) | BIT(12) | BIT(16) | BIT(18) | BIT(22) | BIT(23) | \
	 BIT(34))
enum {
	MTRR_CAP = 8 /* variable */ | 1 << 8 /* fixed */ | 1 << 10 /* WC */,
	UCODE_REV = 0x0a101148
};

static bool is_canonical_msr(u64 v)
{
	return (u64)((s64)(v << 16) >> 16) == v;
}

static u64 phys_mask(const struct vcpu *v)
{
	struct cpuid_out o;

	cpuid_query(v, 0x80000008, 0, &o);
	return BIT(o.eax & 0xff) - 1;
}

/* --- memory types ----------------------------------------------------------------------------- */
/* Each byte one of the types in the bit mask. */
static bool types_ok(u64 val, u32 types)
{
	for (unsigned i = 0; i < 8; i++)
		if ((val >> 8 * i & 0xff) > 7 || !(types >> (val >> 8 * i & 7) & 1))
			return false;
	return true;
}

enum { TYPES_MTRR = 0x73 /* UC WC WT WP WB */, TYPES_PAT = 0xf3 /* and UC- */ };

static int mtrr_fixed_index(u32 msr)
{
	if (msr == 0x250)
		return 0;
	if (msr == 0x258 || msr == 0x259)
		return (int)msr - 0x258 + 1;
	return msr >= 0x268 && msr <= 0x26f ? (int)msr - 0x268 + 3 : -1;
}

static bool mtrr_var_ok(const struct vcpu *v, u32 msr, u64 val)
{
	if (val & ~phys_mask(v))
		return false;
	if (msr & 1) /* mask: bits 10-0 are reserved, 11 is valid */
		return !(val & 0x7ff);
	return !(val & 0xf00) && (val & 0xff) <= 7 && TYPES_MTRR >> (val & 7) & 1;
}

static bool mtrr_find(struct cpu_state *s, u32 msr, u64 **reg)
{
	if (msr >= MSR_MTRR_VAR && msr <= MSR_MTRR_VAR_END)
		*reg = &s->mtrr_var[msr - MSR_MTRR_VAR];
	else if (msr == MSR_MTRR_DEF)
		*reg = &s->mtrr_def_type;
	else if (mtrr_fixed_index(msr) >= 0)
		*reg = &s->mtrr_fixed[mtrr_fixed_index(msr)];
	else
		return false;
	return true;
}

static bool mtrr_ok(const struct vcpu *v, u32 msr, u64 val)
{
	if (msr == MSR_MTRR_DEF)
		return !(val & ~0xcffull) && (val & 0xff) <= 7 && TYPES_MTRR >> (val & 7) & 1;
	if (mtrr_fixed_index(msr) >= 0)
		return types_ok(val, TYPES_MTRR);
	return mtrr_var_ok(v, msr, val);
}

/* --- the paravirtual clock -------------------------------------------------------------------- */
/* ns = ((cycles << shift) * mul) >> 32, with a right shift for a negative one. */
static void clock_scale(u64 tsc_hz, u32 *mul, s8 *shift)
{
	u64 ns = NS_PER_SEC, hz = tsc_hz;
	int by = 0;

	while (hz > 2 * ns || hz >> 32) {
		hz >>= 1;
		by--;
	}
	while (hz <= ns) {
		hz <<= 1;
		by++;
	}
	*mul = (u32)((ns << 32) / hz);
	*shift = (s8)by;
}

static void write_guest(struct vcpu *v, u64 gpa, const void *src, unsigned len)
{
	mem_write(v->env->mem, gpa, src, len);
}

/* Read between two looks at the TSC, the closest of a few tries: one that was preempted is far
 * off. */
void kvmclock_start(struct engine_env *env)
{
	u64 least = ~0ull;

	for (unsigned i = 0; i < 8; i++) {
		u64 before = host_rdtsc(), ns = env->loop ? loop_now_ns(env->loop) : 0;
		u64 width = host_rdtsc() - before;

		if (width >= least)
			continue;
		least = width;
		env->clock_tsc = before + width / 2;
		env->clock_ns = ns;
	}
}

/* The guest reads: version (odd while we write), pad, TSC stamp, system time, mul, shift, flags.
 * One stamp for all vCPUs: with two, each a little wrong, time would go back from one vCPU to the
 * next. */
void kvmclock_update(struct vcpu *v)
{
	u64 gpa = v->s.kvm_system_time & ~1ull;
	u8 page[32] = { 0 };
	u32 version = 0, mul;
	s8 shift;

	if (!(v->s.kvm_system_time & 1) || !v->env->tsc_khz ||
	    !mem_read(v->env->mem, gpa, &version, 4))
		return;
	version |= 1;
	write_guest(v, gpa, &version, 4);
	clock_scale(v->env->tsc_khz * 1000, &mul, &shift);
	st32(page, version);
	st64(page + 8, v->env->clock_tsc + v->s.tsc_offset);
	st64(page + 16, v->env->clock_ns);
	st32(page + 24, mul);
	page[28] = (u8)shift;
	page[29] = 1; /* stable: all vCPUs' clocks agree */
	write_guest(v, gpa, page, sizeof page);
	version++;
	write_guest(v, gpa, &version, 4);
}

/* Time of day when the system time above was 0. */
static void write_wall_clock(struct vcpu *v, u64 gpa)
{
	struct timespec t;
	u32 version = 0;
	u8 out[12];
	u64 ns;

	clock_gettime(CLOCK_REALTIME, &t);
	ns = (u64)t.tv_sec * NS_PER_SEC + (u64)t.tv_nsec - v->env->clock_ns;
	if (v->env->tsc_khz)
		ns -= (u64)((u128)(host_rdtsc() - v->env->clock_tsc) * 1000000 / v->env->tsc_khz);
	mem_read(v->env->mem, gpa, &version, 4);
	st32(out, (version | 1) + 1);
	st32(out + 4, (u32)(ns / NS_PER_SEC));
	st32(out + 8, (u32)(ns % NS_PER_SEC));
	write_guest(v, gpa, out, sizeof out);
}

static bool write_clock(struct vcpu *v, u32 msr, u64 val)
{
	if (msr == MSR_KVM_TIME) {
		v->s.kvm_system_time = val;
		kvmclock_update(v);
		return true;
	}
	v->s.kvm_wall_clock = val;
	write_wall_clock(v, val & ~3ull);
	return true;
}

/* --- registers that just hold a value --------------------------------------------------------- */
enum rule { ANY, CANONICAL, LOW32 };

static u64 *plain(struct cpu_state *s, u32 msr, enum rule *rule)
{
	*rule = ANY;
	switch (msr) {
	case MSR_STAR: return &s->star;
	case MSR_SFMASK: *rule = LOW32; return &s->sfmask;
	case MSR_LSTAR: *rule = CANONICAL; return &s->lstar;
	case MSR_CSTAR: *rule = CANONICAL; return &s->cstar;
	case MSR_KERNEL_GS_BASE: *rule = CANONICAL; return &s->kernel_gs_base;
	case MSR_TSC_AUX: *rule = LOW32; return &s->tsc_aux;
	case MSR_SYSENTER_CS: return &s->sysenter_cs;
	case MSR_SYSENTER_ESP: *rule = CANONICAL; return &s->sysenter_esp;
	case MSR_SYSENTER_EIP: *rule = CANONICAL; return &s->sysenter_eip;
	case MSR_MCG_STATUS: return &s->mcg_status;
	default: return NULL;
	}
}

static bool rule_ok(enum rule rule, u64 val)
{
	return rule == ANY || (rule == CANONICAL ? is_canonical_msr(val) : !(val >> 32));
}

static bool read_amd(u32 msr, u64 *val)
{
	*val = 0;
	if (msr - MSR_AMD_PERF < 8)
		return true; /* no CPUID bit says whether they are there: ours count nothing */
	switch (msr) {
	case MSR_AMD_SYSCFG:
	case MSR_AMD_NB_CFG:
	case MSR_AMD_LS_CFG: return true;
	case MSR_AMD_HWCR: *val = HWCR_TSC_FREQ_SEL; return true;
	case MSR_AMD_VM_CR: *val = VM_CR_SVM_OFF; return true;
	case MSR_AMD_DE_CFG: *val = DE_CFG_LFENCE; return true;
	default: return false;
	}
}

bool msr_read(struct vcpu *v, u32 msr, u64 *val)
{
	struct cpu_state *s = &v->s;
	enum rule rule;
	u64 *reg = plain(s, msr, &rule);

	if (reg || mtrr_find(s, msr, &reg)) {
		*val = *reg;
		return true;
	}
	switch (msr) {
	case MSR_PAT: *val = s->pat; return true;
	case MSR_MISC_ENABLE: *val = s->misc_enable; return true;
	case MSR_SPEC_CTRL: *val = s->spec_ctrl; return cpuid_is_native(v);
	case MSR_KVM_TIME: *val = s->kvm_system_time; return true;
	case MSR_KVM_WALL: *val = s->kvm_wall_clock; return true;
	case MSR_MTRR_CAP: *val = MTRR_CAP; return true;
	case MSR_ARCH_CAPS: *val = cpuid_is_native(v) ? 0 : ARCH_CAPS; return true;
	case MSR_BIOS_SIGN: *val = cpuid_is_amd() ? UCODE_REV : (u64)UCODE_REV << 32; return true;
	case MSR_FEATURE_CONTROL: *val = 1; return true; /* locked, nothing enabled */
	case MSR_PLATFORM_ID:
	case MSR_PLATFORM_INFO:
	case MSR_DEBUGCTL:
	case MSR_MCG_CAP: *val = 0; return true; /* no machine-check banks */
	}
	if (cpuid_is_amd() && read_amd(msr, val))
		return true;
	log_guest("cpu", "cpu%u reads unknown MSR %#x", v->index, msr);
	return false;
}

bool msr_write(struct vcpu *v, u32 msr, u64 val)
{
	struct cpu_state *s = &v->s;
	enum rule rule;
	u64 *reg = plain(s, msr, &rule), known;

	if (reg) {
		if (!rule_ok(rule, val))
			return false;
		*reg = val;
		return true;
	}
	if (mtrr_find(s, msr, &reg)) {
		if (!mtrr_ok(v, msr, val))
			return false;
		*reg = val;
		return true;
	}
	switch (msr) {
	case MSR_PAT:
		if (!types_ok(val, TYPES_PAT))
			return false;
		s->pat = val;
		return true;
	case MSR_MISC_ENABLE: s->misc_enable = val & MISC_ENABLE_KNOWN; return true;
	case MSR_SPEC_CTRL: /* IBRS, STIBP, SSBD: nothing to restrict */
		if (val & ~7ull || !cpuid_is_native(v))
			return false;
		s->spec_ctrl = val;
		return true;
	case MSR_PRED_CMD: return !(val & ~1ull) && cpuid_is_native(v);
	case MSR_KVM_TIME:
	case MSR_KVM_WALL: return write_clock(v, msr, val);
	case MSR_BIOS_SIGN: /* written before CPUID to have the revision put there */
	case MSR_BIOS_UPDT: return true;
	case MSR_DEBUGCTL: return !val; /* no branch records */
	}
	if (cpuid_is_amd() && read_amd(msr, &known))
		return true; /* chicken bits */
	log_guest("cpu", "cpu%u writes %#llx to unknown MSR %#x", v->index, (unsigned long long)val,
		  msr);
	return false;
}
