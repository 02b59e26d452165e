/* exec_msr.c - CPUID, time stamps, RDMSR and WRMSR with the registers whose writes reach into
 * this engine.
 *
 * Owns no state; the registers that only hold a value are msr.c's, the local APIC's are
 * lapic.c's.
 * Source: SDM vol 2 instruction pages, vol 4 for the registers. */
#include "exec.h"
#include "seg.h"

#define EFER_AUTOIBRS BIT(21)
enum {
	MSR_TSC = 0x10,
	MSR_APIC_BASE = 0x1b,
	MSR_TSC_ADJUST = 0x3b,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC = 0x800,
	MSR_X2APIC_END = 0x8ff
};
#define MSR_EFER 0xc0000080
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101

/* --- CPUID, time, MSRs ------------------------------------------------------------------------ */
const struct insn *exec_SERIALIZE(struct tcg_cpu *c, const struct insn *in)
{
	return insn_end_if_kicked(c, in);
}

const struct insn *exec_CPUID(struct tcg_cpu *c, const struct insn *in)
{
	struct cpu_state *s = &c->v.s;
	struct cpuid_out o;

	cpuid_query(&c->v, (u32)s->gpr[RAX], (u32)s->gpr[RCX], &o);
	s->gpr[RAX] = o.eax;
	s->gpr[RBX] = o.ebx;
	s->gpr[RCX] = o.ecx;
	s->gpr[RDX] = o.edx;
	return insn_end_if_kicked(c, in);
}

static u64 guest_tsc(const struct tcg_cpu *c)
{
	return host_rdtsc() + c->v.s.tsc_offset;
}

static bool tsc_allowed(struct tcg_cpu *c)
{
	return !(c->v.s.cr4 & CR4_TSD && c->cpl) || raise_err(c, EXC_GP, 0);
}

const struct insn *exec_RDTSC(struct tcg_cpu *c, const struct insn *in)
{
	u64 tsc = guest_tsc(c);

	if (!tsc_allowed(c))
		return insn_fault(c, in);
	c->v.s.gpr[RAX] = (u32)tsc;
	c->v.s.gpr[RDX] = tsc >> 32;
	return in + 1;
}

const struct insn *exec_RDTSCP(struct tcg_cpu *c, const struct insn *in)
{
	if (!tsc_allowed(c))
		return insn_fault(c, in);
	c->v.s.gpr[RCX] = (u32)c->v.s.tsc_aux;
	return exec_RDTSC(c, in);
}

const struct insn *exec_RDPID(struct tcg_cpu *c, const struct insn *in)
{
	reg_set(c, in->opd[0].reg, in->opd[0].size, (u32)c->v.s.tsc_aux);
	return in + 1;
}

/* CPUID shows no performance counter, so every index is a wrong one. */
const struct insn *exec_RDPMC(struct tcg_cpu *c, const struct insn *in)
{
	return insn_raise_err(c, in, EXC_GP, 0);
}

static bool efer_write(struct tcg_cpu *c, u64 val)
{
	struct cpu_state *s = &c->v.s;
	u64 valid = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX;
	u64 changed;

	if (cpuid_has(0x80000021, 0, 0, 8))
		valid |= EFER_AUTOIBRS;
	val = (val & ~(u64)EFER_LMA) | (s->efer & EFER_LMA); /* read-only */
	changed = val ^ s->efer;
	if (val & ~valid || (changed & EFER_LME && s->cr0 & CR0_PG))
		return false;
	s->efer = val;
	if (changed & EFER_NX)
		mmu_flush_all(c);
	seg_refresh(c);
	return true;
}

static bool is_lapic_msr(u32 msr)
{
	return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
	       (msr >= MSR_X2APIC && msr <= MSR_X2APIC_END);
}

static bool rdmsr(struct tcg_cpu *c, u32 msr, u64 *val)
{
	const struct cpu_state *s = &c->v.s;

	if (is_lapic_msr(msr))
		return c->v.apic && lapic_rdmsr(c->v.apic, msr, val);
	switch (msr) {
	case MSR_TSC: *val = guest_tsc(c); return true;
	case MSR_TSC_ADJUST: *val = s->tsc_adjust; return true;
	case MSR_EFER: *val = s->efer; return true;
	case MSR_FS_BASE: *val = s->seg[SEG_FS].base; return true;
	case MSR_GS_BASE: *val = s->seg[SEG_GS].base; return true;
	default: return msr_read(&c->v, msr, val);
	}
}

/* SDM vol 3 "IA32_TSC_ADJUST Support": a write of either moves both. */
static void tsc_move(struct cpu_state *s, u64 delta)
{
	s->tsc_offset += delta;
	s->tsc_adjust += delta;
}

static bool wrmsr(struct tcg_cpu *c, u32 msr, u64 val)
{
	struct cpu_state *s = &c->v.s;

	if (is_lapic_msr(msr)) {
		if (!c->v.apic || !lapic_wrmsr(c->v.apic, msr, val))
			return false;
		if (msr == MSR_APIC_BASE) /* its page may now hide, or no longer hide, memory */
			mmu_flush_all(c);
		interp_timer_moved(c);
		return true;
	}
	switch (msr) {
	case MSR_TSC: tsc_move(s, val - guest_tsc(c)); return true;
	case MSR_TSC_ADJUST: tsc_move(s, val - s->tsc_adjust); return true;
	case MSR_EFER: return efer_write(c, val);
	case MSR_FS_BASE:
	case MSR_GS_BASE:
		if (!is_canonical(val))
			return false;
		seg_put_base(c, msr == MSR_FS_BASE ? SEG_FS : SEG_GS, val);
		return true;
	default: return msr_write(&c->v, msr, val);
	}
}

const struct insn *exec_RDMSR(struct tcg_cpu *c, const struct insn *in)
{
	struct cpu_state *s = &c->v.s;
	u64 val;

	fp_leave(c);
	if (!rdmsr(c, (u32)s->gpr[RCX], &val))
		return insn_raise_err(c, in, EXC_GP, 0);
	s->gpr[RAX] = (u32)val;
	s->gpr[RDX] = val >> 32;
	return in + 1;
}

const struct insn *exec_WRMSR(struct tcg_cpu *c, const struct insn *in)
{
	struct cpu_state *s = &c->v.s;

	fp_leave(c);
	if (!wrmsr(c, (u32)s->gpr[RCX], (u32)s->gpr[RAX] | s->gpr[RDX] << 32))
		return insn_raise_err(c, in, EXC_GP, 0);
	return insn_end(c, in);
}
