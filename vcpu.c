/* vcpu.c - the vCPU's thread: run, sleep, park; and the power-on state.
 *
 * Every vCPU thread is here: vcpu_main drives whatever engine it was given.  Requests arrive as
 * bits in v->req from any thread; the sender then wakes a sleeping thread by futex or kicks a
 * running one. */
#include "vcpu.h"

#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { STACK_BYTES = 256 << 10 };

/* --- state ---------------------------------------------------------------------------------- */
/* SDM vol 3 "Processor State After Reset" (table 9-1 / 10-1). */
void cpu_state_reset(struct cpu_state *s, bool boot_cpu)
{
	memset(s, 0, sizeof *s);
	s->rip = 0xfff0;
	s->rflags = 2;
	for (int i = 0; i < SEG_NR; i++)
		s->seg[i] = (struct seg_reg){ .limit = 0xffff, .attr = ATTR_P | ATTR_S | 3 };
	s->seg[SEG_CS] = (struct seg_reg){ 0xf000, ATTR_P | ATTR_S | 0xb, 0xffff, 0xffff0000 };
	s->ldt = (struct seg_reg){ .limit = 0xffff, .attr = ATTR_P | 2 };
	s->tr = (struct seg_reg){ .limit = 0xffff, .attr = ATTR_P | 0xb };
	s->gdt.limit = s->idt.limit = 0xffff;
	s->cr0 = 0x60000010;
	s->dr[6] = 0xffff0ff0;
	s->dr[7] = 0x400;
	s->xcr0 = 1;
	s->pat = 0x0007040600070406;
	s->misc_enable = 1; /* fast strings */
	st16(s->xsave, 0x37f);            /* FCW */
	st32(s->xsave + 24, 0x1f80);      /* MXCSR */
	s->mp_state = boot_cpu ? MP_RUNNABLE : MP_WAIT_SIPI;
}

/* SDM vol 3 table "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT". */
void cpu_state_init(struct cpu_state *s, bool boot_cpu)
{
	enum { CR0_ET = 0x10, CR0_NW_CD = 0x60000000 };
	struct cpu_state old = *s;

	cpu_state_reset(s, boot_cpu);
	memcpy(s->xsave, old.xsave, sizeof s->xsave);
	memcpy(s->mtrr_fixed, old.mtrr_fixed, sizeof s->mtrr_fixed);
	memcpy(s->mtrr_var, old.mtrr_var, sizeof s->mtrr_var);
	s->cr0 = (old.cr0 & CR0_NW_CD) | CR0_ET;
	s->xcr0 = old.xcr0;
	s->mtrr_def_type = old.mtrr_def_type;
	s->pat = old.pat;
	s->tsc_aux = old.tsc_aux;
	s->tsc_adjust = old.tsc_adjust;
	s->tsc_offset = old.tsc_offset;
	s->misc_enable = old.misc_enable;
	s->mcg_status = old.mcg_status;
	s->kvm_system_time = old.kvm_system_time;
	s->kvm_wall_clock = old.kvm_wall_clock;
}

void cpu_state_start_up(struct cpu_state *s, u8 vector)
{
	s->seg[SEG_CS].sel = (u16)(vector << 8);
	s->seg[SEG_CS].base = (u64)vector << 12;
	s->rip = 0;
	s->mp_state = MP_RUNNABLE;
}

static void seg_visit(struct state *st, const char *name, struct seg_reg *r)
{
	st_u16(st, name, &r->sel);
	st_u32(st, "attr", &r->attr);
	st_u32(st, "limit", &r->limit);
	st_u64(st, "base", &r->base);
}

static void msrs_visit(struct state *st, struct cpu_state *s)
{
	st_u64(st, "star", &s->star);
	st_u64(st, "lstar", &s->lstar);
	st_u64(st, "cstar", &s->cstar);
	st_u64(st, "sfmask", &s->sfmask);
	st_u64(st, "kernel_gs_base", &s->kernel_gs_base);
	st_u64(st, "sysenter_cs", &s->sysenter_cs);
	st_u64(st, "sysenter_esp", &s->sysenter_esp);
	st_u64(st, "sysenter_eip", &s->sysenter_eip);
	st_u64(st, "pat", &s->pat);
	st_u64(st, "tsc_aux", &s->tsc_aux);
	st_u64(st, "misc_enable", &s->misc_enable);
	st_u64(st, "spec_ctrl", &s->spec_ctrl);
	st_u64(st, "tsc_adjust", &s->tsc_adjust);
	st_u64(st, "tsc_offset", &s->tsc_offset);
	st_u64(st, "mtrr_def_type", &s->mtrr_def_type);
	st_bytes(st, "mtrr_fixed", s->mtrr_fixed, sizeof s->mtrr_fixed);
	st_bytes(st, "mtrr_var", s->mtrr_var, sizeof s->mtrr_var);
	st_u64(st, "mcg_status", &s->mcg_status);
	st_u64(st, "kvm_system_time", &s->kvm_system_time);
	st_u64(st, "kvm_wall_clock", &s->kvm_wall_clock);
}

static void event_visit(struct state *st, struct cpu_state *s)
{
	st_u8(st, "int_shadow", &s->int_shadow);
	st_u8(st, "nmi_blocked", &s->nmi_blocked);
	st_u8(st, "nmi_pending", &s->nmi_pending);
	st_u8(st, "mp_state", &s->mp_state);
	st_check(st, s->mp_state <= MP_WAIT_SIPI, "mp_state");
	st_u8(st, "event_valid", &s->event_valid);
	st_u8(st, "event_type", &s->event_type);
	st_u8(st, "event_vector", &s->event_vector);
	st_u8(st, "event_has_error", &s->event_has_error);
	st_u32(st, "event_error", &s->event_error);
}

void cpu_state_visit(struct cpu_state *s, struct state *st)
{
	st_begin(st, "cpu", 1);
	st_bytes(st, "gpr", s->gpr, sizeof s->gpr);
	st_u64(st, "rip", &s->rip);
	st_u64(st, "rflags", &s->rflags);
	for (int i = 0; i < SEG_NR; i++)
		seg_visit(st, "seg", &s->seg[i]);
	seg_visit(st, "ldt", &s->ldt);
	seg_visit(st, "tr", &s->tr);
	st_u64(st, "gdt.base", &s->gdt.base);
	st_u16(st, "gdt.limit", &s->gdt.limit);
	st_u64(st, "idt.base", &s->idt.base);
	st_u16(st, "idt.limit", &s->idt.limit);
	st_u64(st, "cr0", &s->cr0);
	st_u64(st, "cr2", &s->cr2);
	st_u64(st, "cr3", &s->cr3);
	st_u64(st, "cr4", &s->cr4);
	st_u64(st, "efer", &s->efer);
	st_u64(st, "xcr0", &s->xcr0);
	st_bytes(st, "dr", s->dr, sizeof s->dr);
	msrs_visit(st, s);
	event_visit(st, s);
	st_bytes(st, "xsave", s->xsave, sizeof s->xsave);
	st_end(st);
}

void cpu_state_text(const struct cpu_state *s, char *buf, size_t n)
{
	static const char *const reg[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15" };
	size_t at = 0;

	for (int i = 0; i < 16 && at < n; i++)
		at += (size_t)snprintf(buf + at, n - at, "%s %016llx%s", reg[i],
				       (unsigned long long)s->gpr[i], i % 4 == 3 ? "\n" : "  ");
	if (at < n)
		at += (size_t)snprintf(buf + at, n - at,
				       "rip %016llx  rflags %llx  cs %04x base %llx  ss %04x\n",
				       (unsigned long long)s->rip, (unsigned long long)s->rflags,
				       s->seg[SEG_CS].sel, (unsigned long long)s->seg[SEG_CS].base,
				       s->seg[SEG_SS].sel);
	if (at < n)
		snprintf(buf + at, n - at, "cr0 %llx  cr2 %llx  cr3 %llx  cr4 %llx  efer %llx",
			 (unsigned long long)s->cr0, (unsigned long long)s->cr2,
			 (unsigned long long)s->cr3, (unsigned long long)s->cr4,
			 (unsigned long long)s->efer);
}

/* --- requests and sleep --------------------------------------------------------------------- */
static void vcpu_futex_wake(struct vcpu *v)
{
	syscall(SYS_futex, &v->sleeping, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void vcpu_request(struct vcpu *v, u32 bits)
{
	u32 old;

	if (bits & VREQ_NMI)
		atomic_fetch_add(&v->nmis, 1);
	old = atomic_fetch_or(&v->req, bits);
	if (bits == VREQ_FLUSH && atomic_load(&v->sleeping))
		return; /* it takes its requests before it runs again: soon enough to forget code */

	/* seq_cst here and in vcpu_sleep: either we see it sleeping or it sees the bits. */
	if (atomic_exchange(&v->sleeping, 0))
		vcpu_futex_wake(v);
	else if ((old & bits) != bits)
		v->eng->kick(v);
}

/* Which requests may end a HLT now?  With interrupts off only NMI, INIT, reset and ours do. */
static u32 vcpu_wake_mask(struct vcpu *v)
{
	u32 deaf = VREQ_FLUSH;

	if (v->s.mp_state == MP_WAIT_SIPI || v->s.mp_state == MP_WAIT_INIT)
		deaf |= VREQ_IRQ | VREQ_EXTINT | VREQ_NMI;
	else if (!(v->s.rflags & BIT(9)))
		deaf |= VREQ_IRQ | VREQ_EXTINT;
	else if (v->apic && !lapic_accepts_extint(v->apic))
		deaf |= VREQ_EXTINT;
	return ~deaf;
}

static u64 vcpu_deadline_ns(struct vcpu *v)
{
	bool deaf = v->s.mp_state == MP_WAIT_SIPI || !(v->s.rflags & BIT(9));

	return deaf || !v->apic ? UINT64_MAX : lapic_deadline_ns(v->apic);
}

/* HLT: until a request that matters, or the local APIC's timer. */
static void vcpu_sleep(struct vcpu *v)
{
	u64 deadline_ns = vcpu_deadline_ns(v), now_ns = loop_now_ns(v->env->loop);
	struct timespec ts, *timeout = NULL;
	u32 mask = vcpu_wake_mask(v);

	if (deadline_ns <= now_ns)
		return;
	if (deadline_ns != UINT64_MAX) {
		u64 left_ns = deadline_ns - now_ns;

		ts = (struct timespec){ .tv_sec = (time_t)MIN(left_ns / NS_PER_SEC, 3600),
					.tv_nsec = (long)(left_ns % NS_PER_SEC) };
		timeout = &ts;
	}
	atomic_store(&v->sleeping, 1);
	if (!(atomic_load(&v->req) & mask))
		syscall(SYS_futex, &v->sleeping, FUTEX_WAIT_PRIVATE, 1, timeout, NULL, 0);
	atomic_store(&v->sleeping, 0);
}

/* --- the thread ----------------------------------------------------------------------------- */
static void vcpu_report(struct vcpu *v, enum vexit why)
{
	v->exit_why = why;
	loop_post(v->env->loop, &v->exit_work);
}

/* Until VREQ_PAUSE goes away.  The state is pulled before and pushed after, so that whoever asked
 * may look at it and change it. */
static void vcpu_park(struct vcpu *v)
{
	v->eng->pull(v);
	pthread_mutex_lock(&v->park_lock);
	v->parked = true;
	pthread_cond_broadcast(&v->park_cond);
	while (vcpu_pending(v) & VREQ_PAUSE && !(vcpu_pending(v) & VREQ_QUIT))
		pthread_cond_wait(&v->park_cond, &v->park_lock);
	v->parked = false;
	pthread_mutex_unlock(&v->park_lock);
	v->eng->push(v);
}

/* Parks while paused; false means quit. */
static bool vcpu_may_run(struct vcpu *v)
{
	for (;;) {
		u32 req = vcpu_pending(v);

		if (req & VREQ_QUIT)
			return false;
		if (!(req & VREQ_PAUSE))
			return true;
		vcpu_park(v);
	}
}

/* Nothing will wake this vCPU but another vCPU or a reset: the loop may want to end the machine. */
static void vcpu_note_dead_halt(struct vcpu *v)
{
	bool dead = v->s.mp_state != MP_WAIT_SIPI && !(v->s.rflags & BIT(9)) &&
		    !(vcpu_pending(v) & vcpu_wake_mask(v));

	if (dead && !atomic_exchange(&v->dead_halt, 1))
		vcpu_report(v, VEXIT_HALT);
}

bool vcpu_is_dead(struct vcpu *v)
{
	bool stopped = v->s.mp_state == MP_WAIT_INIT || v->s.mp_state == MP_WAIT_SIPI ||
		       (v->s.mp_state == MP_HALTED && !(v->s.rflags & BIT(9)));

	return stopped && !(vcpu_pending(v) & vcpu_wake_mask(v) & ~(u32)VREQ_PAUSE);
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;

	if (v->eng->enter && !v->eng->enter(v))
		vcpu_report(v, VEXIT_CRASH);
	sandbox_enter(v->eng->filter);
	v->eng->push(v);
	while (vcpu_may_run(v)) {
		enum vexit why = v->eng->run(v);

		if (why == VEXIT_HALT) {
			vcpu_note_dead_halt(v);
			vcpu_sleep(v);
			v->dead_halt = 0;
		} else if (why != VEXIT_KICK) {
			/* The loop thread decides; until it has, this vCPU must not run on. */
			atomic_fetch_or(&v->req, VREQ_PAUSE);
			vcpu_report(v, why);
		}
	}
	v->eng->pull(v);
	return NULL;
}

int vcpu_start(struct vcpu *v, struct err *e)
{
	pthread_attr_t attr;
	int rc;

	pthread_mutex_init(&v->park_lock, NULL);
	pthread_cond_init(&v->park_cond, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	rc = pthread_create(&v->thread, &attr, vcpu_main, v);
	pthread_attr_destroy(&attr);
	if (rc)
		return err_set(e, -rc,
			"vcpu%u: cannot start its thread (%s); check the process limit",
			       v->index, strerror(rc));
	v->threaded = true;
	return 0;
}

static void vcpu_unpark(struct vcpu *v)
{
	pthread_mutex_lock(&v->park_lock);
	pthread_cond_broadcast(&v->park_cond);
	pthread_mutex_unlock(&v->park_lock);
}

void vcpu_stop(struct vcpu *v)
{
	if (!v->threaded)
		return;
	vcpu_request(v, VREQ_QUIT);
	vcpu_unpark(v);
	pthread_join(v->thread, NULL);
	v->threaded = false;
}

void vcpus_pause(struct vcpu **v, u32 n)
{
	for (u32 i = 0; i < n; i++)
		vcpu_request(v[i], VREQ_PAUSE);
	for (u32 i = 0; i < n; i++) {
		pthread_mutex_lock(&v[i]->park_lock);
		while (!v[i]->parked)
			pthread_cond_wait(&v[i]->park_cond, &v[i]->park_lock);
		pthread_mutex_unlock(&v[i]->park_lock);
	}
}

void vcpus_resume(struct vcpu **v, u32 n)
{
	for (u32 i = 0; i < n; i++) {
		atomic_fetch_and(&v[i]->req, ~(u32)VREQ_PAUSE);
		vcpu_unpark(v[i]);
	}
}
