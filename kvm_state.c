/* kvm_state.c - cpu_state out of the kernel (pull) and into it (push).
 *
 * Runs on the vCPU's thread or while it is parked.  PDPTEs are no part of cpu_state: the kernel
 * reads them again from memory.  Our XSAVE area is the first 832 bytes of KVM's, both in standard
 * format: components beyond AVX are not in the CPU model.
 * Source: Linux Documentation/virt/kvm/api.rst. */
#include "kvm_priv.h"

#include "devices/lapic.h"

enum { MSR_TSC = 0x10, MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0 };
enum { SHADOW_MOV_SS = 1, SHADOW_STI = 2 }; /* KVM_X86_SHADOW_INT_* */
enum { XSAVE_HEADER = 512 };
#define CLOCK_SLACK_NS 1000000 /* less is not worth a step of the guest's clock */

/* --- segments and control registers ----------------------------------------------------------- */
static struct seg_reg seg_from(const struct kvm_segment *k)
{
	u32 attr = k->type | (u32)k->s << 4 | (u32)k->dpl << ATTR_DPL_SHIFT | (u32)k->present << 7 |
		   (k->avl ? ATTR_AVL : 0) | (k->l ? ATTR_L : 0) | (k->db ? ATTR_DB : 0) |
		   (k->g ? ATTR_G : 0) | (k->unusable ? ATTR_UNUSABLE : 0);

	return (struct seg_reg){ k->selector, attr, k->limit, k->base };
}

static struct kvm_segment seg_to(const struct seg_reg *s)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->sel,
		.type = s->attr & ATTR_TYPE,
		.s = !!(s->attr & ATTR_S),
		.dpl = (s->attr & ATTR_DPL) >> ATTR_DPL_SHIFT,
		.present = !!(s->attr & ATTR_P),
		.avl = !!(s->attr & ATTR_AVL),
		.l = !!(s->attr & ATTR_L),
		.db = !!(s->attr & ATTR_DB),
		.g = !!(s->attr & ATTR_G),
		.unusable = !!(s->attr & ATTR_UNUSABLE),
	};
}

static void pull_sregs(struct kvm_cpu *c)
{
	struct cpu_state *s = &c->v.s;
	struct kvm_sregs k = { 0 };

	if (!kvm_cpu_ioctl(c, KVM_GET_SREGS, &k, "KVM_GET_SREGS"))
		return;
	s->seg[SEG_ES] = seg_from(&k.es);
	s->seg[SEG_CS] = seg_from(&k.cs);
	s->seg[SEG_SS] = seg_from(&k.ss);
	s->seg[SEG_DS] = seg_from(&k.ds);
	s->seg[SEG_FS] = seg_from(&k.fs);
	s->seg[SEG_GS] = seg_from(&k.gs);
	s->ldt = seg_from(&k.ldt);
	s->tr = seg_from(&k.tr);
	s->gdt = (struct table_reg){ k.gdt.base, k.gdt.limit };
	s->idt = (struct table_reg){ k.idt.base, k.idt.limit };
	s->cr0 = k.cr0;
	s->cr2 = k.cr2;
	s->cr3 = k.cr3;
	s->cr4 = k.cr4;
	s->efer = k.efer;
	c->lapic_base = k.apic_base;
}

/* APIC base and CR8 are the local APIC's: they change only when its state is pushed. */
static void push_sregs(struct kvm_cpu *c)
{
	const struct cpu_state *s = &c->v.s;
	struct kvm_sregs k = { 0 };
	u64 base = 0;

	if (!kvm_cpu_ioctl(c, KVM_GET_SREGS, &k, "KVM_GET_SREGS"))
		return;
	k.es = seg_to(&s->seg[SEG_ES]);
	k.cs = seg_to(&s->seg[SEG_CS]);
	k.ss = seg_to(&s->seg[SEG_SS]);
	k.ds = seg_to(&s->seg[SEG_DS]);
	k.fs = seg_to(&s->seg[SEG_FS]);
	k.gs = seg_to(&s->seg[SEG_GS]);
	k.ldt = seg_to(&s->ldt);
	k.tr = seg_to(&s->tr);
	k.gdt = (struct kvm_dtable){ .base = s->gdt.base, .limit = s->gdt.limit };
	k.idt = (struct kvm_dtable){ .base = s->idt.base, .limit = s->idt.limit };
	k.cr0 = s->cr0;
	k.cr2 = s->cr2;
	k.cr3 = s->cr3;
	k.cr4 = s->cr4;
	k.efer = s->efer;
	memset(k.interrupt_bitmap, 0, sizeof k.interrupt_bitmap); /* push_events has it */
	if (!kvm_has_lapic(c->vm)) {
		lapic_rdmsr(c->v.apic, MSR_APIC_BASE, &base);
		k.apic_base = c->run->apic_base = base;
		k.cr8 = c->run->cr8 = lapic_cr8(c->v.apic);
	}
	kvm_cpu_ioctl(c, KVM_SET_SREGS, &k, "KVM_SET_SREGS");
}

/* --- general registers: KVM's order is its own ------------------------------------------------ */
static void pull_regs(struct kvm_cpu *c)
{
	struct cpu_state *s = &c->v.s;
	struct kvm_regs k = { 0 };

	if (!kvm_cpu_ioctl(c, KVM_GET_REGS, &k, "KVM_GET_REGS"))
		return;
	s->gpr[RAX] = k.rax, s->gpr[RCX] = k.rcx, s->gpr[RDX] = k.rdx, s->gpr[RBX] = k.rbx;
	s->gpr[RSP] = k.rsp, s->gpr[RBP] = k.rbp, s->gpr[RSI] = k.rsi, s->gpr[RDI] = k.rdi;
	memcpy(&s->gpr[R8], &k.r8, 8 * sizeof k.r8);
	s->rip = k.rip;
	s->rflags = k.rflags;
}

static void push_regs(struct kvm_cpu *c)
{
	const struct cpu_state *s = &c->v.s;
	struct kvm_regs k = {
		.rax = s->gpr[RAX], .rcx = s->gpr[RCX], .rdx = s->gpr[RDX], .rbx = s->gpr[RBX],
		.rsp = s->gpr[RSP], .rbp = s->gpr[RBP], .rsi = s->gpr[RSI], .rdi = s->gpr[RDI],
		.rip = s->rip, .rflags = s->rflags,
	};

	memcpy(&k.r8, &s->gpr[R8], 8 * sizeof k.r8);
	kvm_cpu_ioctl(c, KVM_SET_REGS, &k, "KVM_SET_REGS");
}

/* --- FP, XCR0, debug registers ---------------------------------------------------------------- */
static void pull_fp(struct kvm_cpu *c)
{
	struct cpu_state *s = &c->v.s;
	struct kvm_xcrs x = { 0 };
	unsigned long request = c->vm->xsave_bytes > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2
									      : KVM_GET_XSAVE;

	if (kvm_cpu_ioctl(c, request, c->xsave, "KVM_GET_XSAVE")) {
		memcpy(s->xsave, c->xsave, XSAVE_BYTES);
		st64(s->xsave + XSAVE_HEADER, ld64(s->xsave + XSAVE_HEADER) & 7);
	}
	if (kvm_cpu_ioctl(c, KVM_GET_XCRS, &x, "KVM_GET_XCRS"))
		for (u32 i = 0; i < x.nr_xcrs; i++)
			if (x.xcrs[i].xcr == 0)
				s->xcr0 = x.xcrs[i].value;
}

static void push_fp(struct kvm_cpu *c)
{
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = c->v.s.xcr0 } } };

	memset(c->xsave, 0, c->vm->xsave_bytes);
	memcpy(c->xsave, c->v.s.xsave, XSAVE_BYTES);
	kvm_cpu_ioctl(c, KVM_SET_XCRS, &x, "KVM_SET_XCRS");
	kvm_cpu_ioctl(c, KVM_SET_XSAVE, c->xsave, "KVM_SET_XSAVE");
}

static void pull_debug(struct kvm_cpu *c)
{
	struct cpu_state *s = &c->v.s;
	struct kvm_debugregs k = { 0 };

	if (!kvm_cpu_ioctl(c, KVM_GET_DEBUGREGS, &k, "KVM_GET_DEBUGREGS"))
		return;
	memcpy(s->dr, k.db, sizeof k.db);
	s->dr[6] = k.dr6;
	s->dr[7] = k.dr7;
}

static void push_debug(struct kvm_cpu *c)
{
	const struct cpu_state *s = &c->v.s;
	struct kvm_debugregs k = { .dr6 = s->dr[6], .dr7 = s->dr[7] };

	memcpy(k.db, s->dr, sizeof k.db);
	kvm_cpu_ioctl(c, KVM_SET_DEBUGREGS, &k, "KVM_SET_DEBUGREGS");
}

/* --- MSRs ------------------------------------------------------------------------------------- */
#define MSR(index, field) { index, offsetof(struct cpu_state, field) }
static const struct msr_row {
	u32 index;
	size_t off;
} msr_rows[] = {
	MSR(0x03b, tsc_adjust),		 MSR(0x048, spec_ctrl),
	MSR(0x174, sysenter_cs),	 MSR(0x175, sysenter_esp),
	MSR(0x176, sysenter_eip),	 MSR(0x17a, mcg_status),
	MSR(0x1a0, misc_enable),	 MSR(0x277, pat),
	MSR(0x2ff, mtrr_def_type),	 MSR(0x250, mtrr_fixed[0]),
	MSR(0x258, mtrr_fixed[1]),	 MSR(0x259, mtrr_fixed[2]),
	MSR(0x268, mtrr_fixed[3]),	 MSR(0x269, mtrr_fixed[4]),
	MSR(0x26a, mtrr_fixed[5]),	 MSR(0x26b, mtrr_fixed[6]),
	MSR(0x26c, mtrr_fixed[7]),	 MSR(0x26d, mtrr_fixed[8]),
	MSR(0x26e, mtrr_fixed[9]),	 MSR(0x26f, mtrr_fixed[10]),
	MSR(0x200, mtrr_var[0]),	 MSR(0x201, mtrr_var[1]),
	MSR(0x202, mtrr_var[2]),	 MSR(0x203, mtrr_var[3]),
	MSR(0x204, mtrr_var[4]),	 MSR(0x205, mtrr_var[5]),
	MSR(0x206, mtrr_var[6]),	 MSR(0x207, mtrr_var[7]),
	MSR(0x208, mtrr_var[8]),	 MSR(0x209, mtrr_var[9]),
	MSR(0x20a, mtrr_var[10]),	 MSR(0x20b, mtrr_var[11]),
	MSR(0x20c, mtrr_var[12]),	 MSR(0x20d, mtrr_var[13]),
	MSR(0x20e, mtrr_var[14]),	 MSR(0x20f, mtrr_var[15]),
	MSR(0xc0000081, star),		 MSR(0xc0000082, lstar),
	MSR(0xc0000083, cstar),		 MSR(0xc0000084, sfmask),
	MSR(0xc0000102, kernel_gs_base), MSR(0xc0000103, tsc_aux),
	MSR(0x4b564d00, kvm_wall_clock), MSR(0x4b564d01, kvm_system_time),
};
#undef MSR
enum { MSRS_MAX = ARRAY_LEN(msr_rows) };

struct msrs {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[MSRS_MAX];
};

/* GET and SET stop at the first register that this host has not: go on behind it.  Those that were
 * not there keep what we know of them. */
static void msrs_ioctl(struct kvm_cpu *c, unsigned long request, struct kvm_msr_entry *entry, u32 n,
		       u64 *done)
{
	struct msrs m = { 0 };

	for (u32 at = 0; at < n; at++) {
		m.head.nmsrs = n - at;
		memcpy(m.entry, entry + at, (n - at) * sizeof *entry);
		int rc = ioctl(c->fd, request, &m);

		if (rc < 0)
			return;
		memcpy(entry + at, m.entry, (size_t)rc * sizeof *entry);
		for (int i = 0; i < rc; i++)
			*done |= BIT(at + (u32)i);
		at += (u32)rc;
	}
}

static void pull_msrs(struct kvm_cpu *c)
{
	struct kvm_msr_entry entry[MSRS_MAX] = { 0 };
	u64 done = 0;

	for (u32 i = 0; i < MSRS_MAX; i++)
		entry[i].index = msr_rows[i].index;
	msrs_ioctl(c, KVM_GET_MSRS, entry, MSRS_MAX, &done);
	for (u32 i = 0; i < MSRS_MAX; i++)
		if (done & BIT(i))
			st64((u8 *)&c->v.s + msr_rows[i].off, entry[i].data);
}

static void push_msrs(struct kvm_cpu *c)
{
	struct kvm_msr_entry entry[MSRS_MAX] = { 0 };
	u64 done = 0;

	for (u32 i = 0; i < MSRS_MAX; i++) {
		entry[i].index = msr_rows[i].index;
		entry[i].data = ld64((u8 *)&c->v.s + msr_rows[i].off);
	}
	msrs_ioctl(c, KVM_SET_MSRS, entry, MSRS_MAX, &done);
}

static bool msr_get(struct kvm_cpu *c, u32 index, u64 *v)
{
	struct kvm_msr_entry entry = { .index = index };
	u64 done = 0;

	msrs_ioctl(c, KVM_GET_MSRS, &entry, 1, &done);
	*v = entry.data;
	return done;
}

static void msr_set(struct kvm_cpu *c, u32 index, u64 v)
{
	struct kvm_msr_entry entry = { .index = index, .data = v };
	u64 done = 0;

	msrs_ioctl(c, KVM_SET_MSRS, &entry, 1, &done);
}

/* --- TSC and clock ---------------------------------------------------------------------------- */
static bool tsc_offset_attr(struct kvm_cpu *c, unsigned long request, u64 *offset)
{
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET,
					.addr = (uintptr_t)offset };

	return ioctl(c->fd, request, &attr) == 0;
}

static void pull_tsc(struct kvm_cpu *c)
{
	u64 offset, tsc;

	if (tsc_offset_attr(c, KVM_GET_DEVICE_ATTR, &offset))
		c->v.s.tsc_offset = offset;
	else if (msr_get(c, MSR_TSC, &tsc))
		c->v.s.tsc_offset = tsc - host_rdtsc();
}

static void push_tsc(struct kvm_cpu *c)
{
	u64 now, offset = c->v.s.tsc_offset;

	if (tsc_offset_attr(c, KVM_GET_DEVICE_ATTR, &now) && now == offset)
		return;
	if (!tsc_offset_attr(c, KVM_SET_DEVICE_ATTR, &offset)) /* Linux 5.16 */
		msr_set(c, MSR_TSC, host_rdtsc() + offset);
}

/* The paravirtual clock counts the guest's time, as under the software CPU. */
static void push_clock(struct kvm_cpu *c)
{
	struct kvm_clock_data k = { 0 };
	u64 want;

	/* "Was paused": no soft lockup.  Fails if the guest has no such clock. */
	ioctl(c->fd, KVM_KVMCLOCK_CTRL, 0);
	if (c->v.index || !c->v.env->loop || ioctl(c->vm->vm_fd, KVM_GET_CLOCK, &k) < 0)
		return;
	want = loop_now_ns(c->v.env->loop);
	if (want - k.clock + CLOCK_SLACK_NS < 2 * CLOCK_SLACK_NS)
		return;
	k = (struct kvm_clock_data){ .clock = want };
	ioctl(c->vm->vm_fd, KVM_SET_CLOCK, &k);
}

/* --- events ----------------------------------------------------------------------------------- */
static void event_note(struct cpu_state *s, u8 type, u8 vector)
{
	s->event_valid = 1;
	s->event_type = type;
	s->event_vector = vector;
	s->event_has_error = 0;
	s->event_error = 0;
}

static void pull_events(struct kvm_cpu *c)
{
	struct cpu_state *s = &c->v.s;
	struct kvm_vcpu_events k = { 0 };

	if (!kvm_cpu_ioctl(c, KVM_GET_VCPU_EVENTS, &k, "KVM_GET_VCPU_EVENTS"))
		return;
	/* AMD's hardware does not tell one from the other, and KVM then says both. */
	s->int_shadow = k.interrupt.shadow & SHADOW_STI	     ? 1
			: k.interrupt.shadow & SHADOW_MOV_SS ? 2
							     : 0;
	s->nmi_blocked = k.nmi.masked;
	s->nmi_pending = k.nmi.pending;
	s->event_valid = 0;
	if (k.exception.injected) {
		event_note(s, EVENT_EXCEPTION, k.exception.nr);
		s->event_has_error = k.exception.has_error_code;
		s->event_error = k.exception.error_code;
	} else if (k.nmi.injected) {
		event_note(s, EVENT_NMI, 2);
	} else if (k.interrupt.injected) {
		event_note(s, k.interrupt.soft ? EVENT_SOFT : EVENT_EXTERNAL, k.interrupt.nr);
	}
}

static void push_events(struct kvm_cpu *c)
{
	const struct cpu_state *s = &c->v.s;
	bool valid = s->event_valid;
	struct kvm_vcpu_events k = {
		.flags = KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING,
		.interrupt.shadow = s->int_shadow == 2 ? SHADOW_MOV_SS
				    : s->int_shadow    ? SHADOW_STI
						       : 0,
		.nmi = { .injected = valid && s->event_type == EVENT_NMI,
			 .pending = s->nmi_pending,
			 .masked = s->nmi_blocked },
	};

	if (valid && s->event_type == EVENT_EXCEPTION) {
		k.exception.injected = 1;
		k.exception.nr = s->event_vector;
		k.exception.has_error_code = s->event_has_error;
		k.exception.error_code = s->event_error;
	} else if (valid && s->event_type != EVENT_NMI) {
		k.interrupt.injected = 1;
		k.interrupt.nr = s->event_vector;
		k.interrupt.soft = s->event_type == EVENT_SOFT;
	}
	kvm_cpu_ioctl(c, KVM_SET_VCPU_EVENTS, &k, "KVM_SET_VCPU_EVENTS");
}

/* --- run state and local APIC ----------------------------------------------------------------- */
/* Without a local APIC in the kernel the run state is ours alone. */
void kvm_pull_mp_state(struct kvm_cpu *c)
{
	struct kvm_mp_state k = { 0 };

	if (!kvm_has_lapic(c->vm) || !kvm_cpu_ioctl(c, KVM_GET_MP_STATE, &k, "KVM_GET_MP_STATE"))
		return;
	c->v.s.mp_state = k.mp_state == KVM_MP_STATE_HALTED          ? MP_HALTED
			  : k.mp_state == KVM_MP_STATE_UNINITIALIZED ? MP_WAIT_INIT
			  : k.mp_state == KVM_MP_STATE_INIT_RECEIVED ? MP_WAIT_SIPI
								     : MP_RUNNABLE;
}

static void push_mp_state(struct kvm_cpu *c)
{
	static const u32 to[] = { [MP_RUNNABLE] = KVM_MP_STATE_RUNNABLE,
				  [MP_HALTED] = KVM_MP_STATE_HALTED,
				  [MP_WAIT_INIT] = KVM_MP_STATE_UNINITIALIZED,
				  [MP_WAIT_SIPI] = KVM_MP_STATE_INIT_RECEIVED };
	struct kvm_mp_state k = { .mp_state = to[c->v.s.mp_state] };

	if (kvm_has_lapic(c->vm))
		kvm_cpu_ioctl(c, KVM_SET_MP_STATE, &k, "KVM_SET_MP_STATE");
}

static void pull_lapic(struct kvm_cpu *c)
{
	u64 deadline = 0;

	if (!kvm_has_lapic(c->vm) || !kvm_cpu_ioctl(c, KVM_GET_LAPIC, &c->lapic, "KVM_GET_LAPIC"))
		return;
	msr_get(c, MSR_TSC_DEADLINE, &deadline);
	lapic_import(c->v.apic, (const u8 *)c->lapic.regs, c->lapic_base, deadline);
	/* As push_lapic will compare it. */
	lapic_export(c->v.apic, (u8 *)c->lapic.regs, &c->lapic_base, &deadline);
}

/* Is it still what was pulled?  Running counters aside. */
static bool lapic_same(const struct kvm_lapic_state *a, const struct kvm_lapic_state *b)
{
	enum { CURRENT_COUNT = 0x390 };

	return !memcmp(a, b, CURRENT_COUNT) &&
	       !memcmp(a->regs + CURRENT_COUNT + 4, b->regs + CURRENT_COUNT + 4,
		       sizeof a->regs - CURRENT_COUNT - 4);
}

/* Interrupts arrive in the kernel while the vCPU is parked, so its local APIC is only written when
 * somebody changed the shadow: a reset or a snapshot. */
static void push_lapic(struct kvm_cpu *c)
{
	struct kvm_lapic_state page = { 0 };
	struct kvm_sregs k = { 0 };
	u64 base = 0, deadline = 0;

	if (!kvm_has_lapic(c->vm))
		return;
	lapic_export(c->v.apic, (u8 *)page.regs, &base, &deadline);
	if (base == c->lapic_base && lapic_same(&page, &c->lapic))
		return;
	if (!kvm_cpu_ioctl(c, KVM_GET_SREGS, &k, "KVM_GET_SREGS"))
		return;
	k.apic_base = base;
	k.cr8 = lapic_cr8(c->v.apic);
	kvm_cpu_ioctl(c, KVM_SET_SREGS, &k, "KVM_SET_SREGS");
	kvm_cpu_ioctl(c, KVM_SET_LAPIC, &page, "KVM_SET_LAPIC");
	msr_set(c, MSR_TSC_DEADLINE, deadline);
	c->lapic = page;
	c->lapic_base = base;
}

/* --- both ways -------------------------------------------------------------------------------- */
void kvm_pull_cpu(struct kvm_cpu *c)
{
	pull_regs(c);
	pull_sregs(c);
	pull_fp(c);
	pull_debug(c);
	pull_msrs(c);
	pull_events(c);
}

/* Segments before registers: RFLAGS.VM must agree; events last, for the others clear them. */
void kvm_push_cpu(struct kvm_cpu *c)
{
	push_sregs(c);
	push_regs(c);
	push_fp(c);
	push_debug(c);
	push_msrs(c);
	push_events(c);
	c->run->ready_for_interrupt_injection = 0; /* it was said of the state before */
}

void kvm_pull(struct vcpu *v)
{
	struct kvm_cpu *c = kvm_of(v);

	kvm_pull_cpu(c);
	pull_tsc(c);
	kvm_pull_mp_state(c);
	pull_lapic(c);
}

void kvm_push(struct vcpu *v)
{
	struct kvm_cpu *c = kvm_of(v);

	kvm_cpuid_set(c);
	push_lapic(c);
	push_tsc(c);
	kvm_push_cpu(c);
	push_mp_state(c);
	push_clock(c);
}
