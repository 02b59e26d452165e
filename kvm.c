/* kvm.c - the KVM engine: the VM, its memory slots and vCPUs, the run loop and every exit.
 *
 * A vCPU's thread is the only one to touch its fd and its kvm_run page, but for the kick, which
 * sets immediate_exit and sends a signal.  The instruction behind a port or memory exit is
 * finished only by the next KVM_RUN, so requests that look at the state wait for that (io_pending).
 * What the kernel cannot emulate, the software CPU executes: one instruction, state out and in.
 * Source: Linux Documentation/virt/kvm/api.rst. */
#include "kvm_priv.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "devices/lapic.h"
#include "tcg/engine.h"

enum { RUN_ON = -1 };
enum { API_VERSION = 12, XSAVE_LEGACY_AREA = 4096 };
/* Pages for CPUs whose VT-x cannot run real mode, reserved in the e820 map. */
enum { TSS_ADDR = 0xfeffd000u, IDENTITY_ADDR = 0xfeffc000u };
enum { HC_ENOSYS = 1000 }; /* KVM_ENOSYS of the hypercall interface */

bool kvm_cpu_ioctl(struct kvm_cpu *c, unsigned long request, void *arg, const char *name)
{
	if (ioctl(c->fd, request, arg) >= 0)
		return true;
	if (!c->broken)
		snprintf(c->v.crash, sizeof c->v.crash, "%s failed (%s)", name, strerror(errno));
	c->broken = true;
	return false;
}

/* --- the VM ----------------------------------------------------------------------------------- */
static int vm_create(struct kvm_vm *vm, struct err *e)
{
	if (ioctl(vm->dev_fd, KVM_GET_API_VERSION, 0) != API_VERSION)
		return err_set(e, -ENOTSUP, "/dev/kvm: not KVM's API 12; use --accel tcg");
	do
		vm->vm_fd = ioctl(vm->dev_fd, KVM_CREATE_VM, 0);
	while (vm->vm_fd < 0 && errno == EINTR);
	if (vm->vm_fd < 0)
		return err_set(e, -errno, "/dev/kvm: cannot create a VM (%s); use --accel tcg",
			       strerror(errno));
	return 0;
}

static int vm_need(struct kvm_vm *vm, struct err *e)
{
	static const struct {
		int cap;
		const char *name;
	} need[] = {
		{ KVM_CAP_USER_MEMORY, "user memory" },
		{ KVM_CAP_READONLY_MEM, "read-only memory" },
		{ KVM_CAP_IMMEDIATE_EXIT, "immediate exit" },
		{ KVM_CAP_SPLIT_IRQCHIP, "split irqchip" },
		{ KVM_CAP_XSAVE, "XSAVE" },
		{ KVM_CAP_XCRS, "XCRs" },
		{ KVM_CAP_DEBUGREGS, "debug registers" },
		{ KVM_CAP_VCPU_EVENTS, "vCPU events" },
		{ KVM_CAP_MP_STATE, "MP state" },
		{ KVM_CAP_SIGNAL_MSI, "MSI" },
		{ KVM_CAP_ADJUST_CLOCK, "clock" },
	};
	int bytes;

	for (size_t i = 0; i < ARRAY_LEN(need); i++)
		if (ioctl(vm->vm_fd, KVM_CHECK_EXTENSION, need[i].cap) <= 0)
			return err_set(e, -ENOTSUP, "/dev/kvm: has no %s; use --accel tcg",
				       need[i].name);
	bytes = ioctl(vm->dev_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (bytes < (int)sizeof(struct kvm_run))
		return err_set(e, -ENOTSUP, "/dev/kvm: vCPU pages are too small; use --accel tcg");
	vm->run_bytes = (size_t)bytes;
	bytes = ioctl(vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	vm->xsave_bytes = (u32)MAX(bytes, XSAVE_LEGACY_AREA);
	return 0;
}

static bool vm_enable(struct kvm_vm *vm, u32 cap, u64 arg)
{
	struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };

	return ioctl(vm->vm_fd, KVM_ENABLE_CAP, &enable) >= 0;
}

/* Things a kernel may lack: without them unknown MSRs raise #GP and odd instructions of programs
 * #UD. */
static void vm_enable_extras(struct kvm_vm *vm)
{
	u64 identity = IDENTITY_ADDR;

	vm_enable(vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN);
	vm_enable(vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
	ioctl(vm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)TSS_ADDR);
}

static int vm_slot(struct kvm_vm *vm, const struct mem_region *r, u32 flags)
{
	struct kvm_userspace_memory_region slot = {
		.slot = r->slot,
		.flags = flags | (r->rom ? KVM_MEM_READONLY : 0),
		.guest_phys_addr = r->gpa,
		.memory_size = r->bytes,
		.userspace_addr = (uintptr_t)r->host,
	};

	return ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0 ? -errno : 0;
}

static int vm_memory(struct kvm_vm *vm, struct err *e)
{
	const struct memory *m = vm->env->mem;
	int rc;

	for (u32 i = 0; i < m->n; i++) {
		rc = vm_slot(vm, &m->region[i], 0);
		if (rc < 0)
			return err_set(e, rc,
				       "/dev/kvm: refuses memory at %#" PRIx64
				       " (%s); give less with --mem",
				       m->region[i].gpa, strerror(-rc));
	}
	return 0;
}

/* The kick only has to interrupt KVM_RUN. */
static void on_kick(int sig)
{
}

static void install_kick(void)
{
	struct sigaction sa = { .sa_handler = on_kick }; /* no SA_RESTART */

	sigaction(KVM_KICK_SIGNAL, &sa, NULL);
}

static void vm_free(struct kvm_vm *vm)
{
	if (!vm)
		return;
	if (vm->vm_fd >= 0)
		close(vm->vm_fd);
	if (vm->dev_fd >= 0)
		close(vm->dev_fd);
	free(vm->supported);
	pthread_mutex_destroy(&vm->route_lock);
	free(vm);
}

static void kvm_watch(void *arg);

static int kvm_open(struct engine_env *env, struct err *e)
{
	struct kvm_vm *vm = calloc(1, sizeof *vm);

	if (!vm)
		return err_set(e, -ENOMEM, "/dev/kvm: no host memory");
	vm->vm_fd = -1;
	vm->env = env;
	vm->irqchip = env->irqchip_kind;
	pthread_mutex_init(&vm->route_lock, NULL);
	vm->dev_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->dev_fd < 0) {
		err_set(e, -errno, "/dev/kvm: cannot open (%s); use --accel tcg%s", strerror(errno),
			errno == EACCES ? ", or join the group kvm" : "");
		vm_free(vm);
		return e->code;
	}
	env->engine_priv = vm;
	return 0;
}

static int kvm_init(struct engine_env *env, struct err *e)
{
	struct kvm_vm *vm;
	int rc = env->engine_priv ? 0 : kvm_open(env, e);

	if (rc < 0)
		return rc;
	vm = env->engine_priv;
	vm->pid = getpid();
	rc = vm_create(vm, e);
	if (rc == 0)
		rc = vm_need(vm, e);
	if (rc == 0)
		rc = kvm_cpuid_supported(vm, e);
	if (rc == 0)
		rc = vm_memory(vm, e);
	if (rc == 0) {
		vm_enable_extras(vm);
		rc = kvm_irq_init(vm, e);
	}
	if (rc < 0) {
		env->engine_priv = NULL;
		vm_free(vm);
		return rc;
	}
	install_kick();
	if (env->loop && kvm_has_lapic(vm)) {
		timer_init(&vm->watch, env->loop, kvm_watch, vm);
		timer_arm(&vm->watch, loop_now_ns(env->loop) + NS_PER_SEC);
	}
	return 0;
}

static void kvm_free(struct engine_env *env)
{
	struct kvm_vm *vm = env->engine_priv;

	if (vm->watch.loop)
		timer_cancel(&vm->watch);
	vm_free(vm);
	env->engine_priv = NULL;
}

int kvm_dirty_log(struct engine_env *env, bool on)
{
	const struct memory *m = env->mem;
	int rc = 0;

	for (u32 i = 0; i < m->n && rc == 0; i++)
		if (!m->region[i].rom)
			rc = vm_slot(env->engine_priv, &m->region[i],
				     on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
	return rc;
}

int kvm_dirty_take(struct engine_env *env, u32 i, u64 *bitmap)
{
	struct kvm_vm *vm = env->engine_priv;
	struct kvm_dirty_log log = { .slot = env->mem->region[i].slot, .dirty_bitmap = bitmap };

	return ioctl(vm->vm_fd, KVM_GET_DIRTY_LOG, &log) < 0 ? -errno : 0;
}

/* --- vCPUs ------------------------------------------------------------------------------------ */
static void kvm_vcpu_free(struct vcpu *v)
{
	struct kvm_cpu *c;

	if (!v)
		return;
	c = kvm_of(v);
	tcg_foreign_free(c->step);
	free(c->xsave);
	if (c->run)
		munmap(c->run, c->vm->run_bytes);
	if (c->fd >= 0)
		close(c->fd);
	free(c);
}

static int vcpu_create(struct kvm_cpu *c, struct err *e)
{
	u32 index = c->v.index;
	void *run;

	c->fd = ioctl(c->vm->vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (c->fd < 0)
		return err_set(e, -errno,
			       "/dev/kvm: cannot create vCPU %u (%s); give fewer with --cpus",
			       index, strerror(errno));
	run = mmap(NULL, c->vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (run == MAP_FAILED)
		return err_set(e, -errno, "/dev/kvm: cannot map vCPU %u (%s)", index,
			       strerror(errno));
	c->run = run;
	c->xsave = aligned_alloc(64, ALIGN_UP(c->vm->xsave_bytes, 64));
	if (!c->xsave)
		return err_set(e, -ENOMEM, "vcpu%u: no host memory", index);
	if (!kvm_has_lapic(c->vm))
		return 0; /* the machine gives it one */
	/* A shadow, up to date whenever the vCPU is parked: what resets and snapshots work on. */
	c->v.apic = lapic_new(&c->v, c->v.env);
	return c->v.apic ? 0 : err_set(e, -ENOMEM, "vcpu%u: no host memory", index);
}

static struct vcpu *kvm_vcpu_new(struct engine_env *env, u32 index, struct err *e)
{
	struct kvm_cpu *c = aligned_alloc(64, ALIGN_UP(sizeof *c, 64));

	if (!c) {
		err_set(e, -ENOMEM, "vcpu%u: no host memory", index);
		return NULL;
	}
	memset(c, 0, sizeof *c);
	c->v.env = env;
	c->v.eng = &kvm_engine;
	c->v.index = c->v.apic_id = index;
	c->vm = env->engine_priv;
	c->fd = -1;
	cpu_state_reset(&c->v.s, index == 0);
	if (vcpu_create(c, e) < 0) {
		lapic_free(c->v.apic);
		kvm_vcpu_free(&c->v);
		return NULL;
	}
	return &c->v;
}

/* Any thread.  The vCPU clears immediate_exit before it looks at its requests, so either it sees
 * them or KVM_RUN comes back at once; the signal is for a guest that runs already. */
static void kvm_kick(struct vcpu *v)
{
	struct kvm_cpu *c = kvm_of(v);
	int tid = atomic_load(&c->tid);

	__atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (tid && tid != gettid())
		syscall(SYS_tgkill, c->vm->pid, tid, KVM_KICK_SIGNAL);
}

/* --- exits ------------------------------------------------------------------------------------ */
static int crash(struct kvm_cpu *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int crash(struct kvm_cpu *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->v.crash, sizeof c->v.crash, fmt, ap);
	va_end(ap);
	return VEXIT_CRASH;
}

static u64 load_le(const u8 *p, unsigned size)
{
	u64 v = 0;

	memcpy(&v, p, size);
	return v;
}

/* IN, OUT, and what the kernel batches of INS and OUTS. */
static int exit_io(struct kvm_cpu *c)
{
	struct kvm_run *run = c->run;
	u8 *data = (u8 *)run + run->io.data_offset;
	unsigned size = run->io.size;

	for (u32 i = 0; i < run->io.count; i++, data += size) {
		if (run->io.direction == KVM_EXIT_IO_IN) {
			u64 v = bus_read(c->v.env->pio, run->io.port, size);

			memcpy(data, &v, size);
		} else {
			bus_write(c->v.env->pio, run->io.port, size, load_le(data, size));
		}
	}
	return RUN_ON;
}

/* User irqchip: the local APIC's page. */
static bool lapic_page(struct kvm_cpu *c, u64 addr, u8 *data, u32 len, bool write)
{
	gpa_t base;
	u32 v;

	if (kvm_has_lapic(c->vm))
		return false;
	base = lapic_base(c->v.apic);
	if (addr - base >= PAGE_SIZE)
		return false;
	if (write && len == 4) {
		lapic_mmio_write(c->v.apic, (u32)(addr - base), ld32(data));
	} else if (!write) {
		memset(data, 0, len);
		if (len == 4) {
			v = lapic_mmio_read(c->v.apic, (u32)(addr - base));
			memcpy(data, &v, 4);
		}
	}
	return true;
}

/* The kernel splits at page boundaries, so any length up to 8 occurs; the bus takes powers of two.
 */
static int exit_mmio(struct kvm_cpu *c)
{
	struct kvm_run *run = c->run;
	struct bus *bus = c->v.env->mmio;
	u64 addr = run->mmio.phys_addr;
	u32 len = MIN(run->mmio.len, 8u);

	if (lapic_page(c, addr, run->mmio.data, len, run->mmio.is_write))
		return RUN_ON;
	for (u32 at = 0; at < len;) {
		u32 left = len - at, n = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;

		if (run->mmio.is_write) {
			bus_write(bus, addr + at, n, load_le(run->mmio.data + at, n));
		} else {
			u64 v = bus_read(bus, addr + at, n);

			memcpy(run->mmio.data + at, &v, n);
		}
		at += n;
	}
	return RUN_ON;
}

static int exit_msr(struct kvm_cpu *c, bool write)
{
	struct kvm_run *run = c->run;
	u64 v = run->msr.data;
	bool ok = write ? msr_write(&c->v, run->msr.index, v) : msr_read(&c->v, run->msr.index, &v);

	run->msr.data = v;
	run->msr.error = !ok;
	return RUN_ON;
}

/* Only without a local APIC in the kernel.  The vCPU's loop sleeps, and comes back through
 * why_not_run; it looks at RFLAGS.IF, and shows more only of a guest that nothing can wake. */
static int exit_hlt(struct kvm_cpu *c)
{
	c->v.s.rflags |= BIT(9);
	if (!c->run->if_flag)
		kvm_pull_cpu(c);
	c->v.s.mp_state = MP_HALTED;
	return RUN_ON;
}

/* KVM_INTERNAL_ERROR_EMULATION: do it here, and tell once. */
static int step(struct kvm_cpu *c)
{
	bool triple;

	kvm_pull_cpu(c);
	c->v.s.event_valid = 0; /* the #UD that the kernel had in mind instead */
	if (!c->stat_fixups++)
		log_dbg("kvm", "vcpu%u: the software CPU executes an instruction at %#" PRIx64,
			c->v.index, c->v.s.rip);
	triple = tcg_step_foreign(c->step, &c->v);
	kvm_push_cpu(c);
	return triple ? VEXIT_RESET : RUN_ON;
}

static int exit_internal_error(struct kvm_cpu *c)
{
	const struct kvm_run *run = c->run;
	u32 n = MIN(run->internal.ndata, ARRAY_LEN(run->internal.data));

	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
		return step(c);
	return crash(c,
		     "KVM internal error %u (data %#" PRIx64 " %#" PRIx64
		     "); the host's log may say more",
		     run->internal.suberror, n > 0 ? (u64)run->internal.data[0] : 0,
		     n > 1 ? (u64)run->internal.data[1] : 0);
}

static int exit_system_event(struct kvm_cpu *c)
{
	u32 type = c->run->system_event.type;

	if (type == KVM_SYSTEM_EVENT_RESET || type == KVM_SYSTEM_EVENT_SHUTDOWN)
		return VEXIT_RESET;
	return crash(c, "KVM system event %u: the guest reports a crash", type);
}

/* Does the kernel finish the instruction at the next entry? */
static bool exit_is_io(u32 reason)
{
	return reason == KVM_EXIT_IO || reason == KVM_EXIT_MMIO || reason == KVM_EXIT_HYPERCALL ||
	       reason == KVM_EXIT_X86_RDMSR || reason == KVM_EXIT_X86_WRMSR;
}

static int handle_exit(struct kvm_cpu *c)
{
	struct kvm_run *run = c->run;
	u32 reason = run->exit_reason;

	c->stat_exit[MIN(reason, ARRAY_LEN(c->stat_exit) - 1)]++;
	c->io_pending = exit_is_io(reason);
	switch (reason) {
	case KVM_EXIT_IO: return exit_io(c);
	case KVM_EXIT_MMIO: return exit_mmio(c);
	case KVM_EXIT_X86_RDMSR: return exit_msr(c, false);
	case KVM_EXIT_X86_WRMSR: return exit_msr(c, true);
	case KVM_EXIT_HLT: return exit_hlt(c);
	case KVM_EXIT_IRQ_WINDOW_OPEN: /* kvm_irq_inject comes next */
	case KVM_EXIT_INTR:
	case KVM_EXIT_SET_TPR:
	case KVM_EXIT_TPR_ACCESS:
	case KVM_EXIT_NMI:
	case KVM_EXIT_X86_BUS_LOCK:
	case KVM_EXIT_DIRTY_RING_FULL: return RUN_ON;
	case KVM_EXIT_IOAPIC_EOI: kvm_irq_eoi(c, run->eoi.vector); return RUN_ON;
	case KVM_EXIT_HYPERCALL: run->hypercall.ret = (u64)-HC_ENOSYS; return RUN_ON;
	case KVM_EXIT_SHUTDOWN: return VEXIT_RESET;
	case KVM_EXIT_SYSTEM_EVENT: return exit_system_event(c);
	case KVM_EXIT_INTERNAL_ERROR: return exit_internal_error(c);
	case KVM_EXIT_FAIL_ENTRY:
		return crash(c, "KVM cannot enter the guest (reason %#" PRIx64 ", host CPU %u)",
			     (u64)run->fail_entry.hardware_entry_failure_reason,
			     run->fail_entry.cpu);
	case KVM_EXIT_EXCEPTION:
		return crash(c, "KVM exception exit (vector %u, error %#x)", run->ex.exception,
			     run->ex.error_code);
	case KVM_EXIT_DEBUG:
		return crash(c, "KVM debug exit at %#" PRIx64 ", and nobody is debugging",
			     (u64)run->debug.arch.pc);
	case KVM_EXIT_UNKNOWN:
		return crash(c, "KVM exit for an unknown hardware reason %#" PRIx64,
			     (u64)run->hw.hardware_exit_reason);
	default: return crash(c, "KVM exit %u, which this machine has no cause for", reason);
	}
}

/* --- guests that halt for good ---------------------------------------------------------------- */
/* A HLT with interrupts off never leaves a KVM that has the local APICs.  So once a second vCPUs
 * without exits are kicked, and those that turn out to sleep so tell the loop; they stay in
 * KVM_RUN, for an INIT or an NMI may still come. */
static void kvm_watch(void *arg)
{
	struct kvm_vm *vm = arg;

	for (u32 i = 0; i < vm->env->nr_vcpus; i++) {
		struct kvm_cpu *c = kvm_of(vm->env->vcpus[i]);
		u64 exits = __atomic_load_n(&c->v.stat_exits, __ATOMIC_RELAXED);

		if (exits == c->watched_exits)
			kvm_kick(&c->v);
		c->watched_exits = exits;
	}
	timer_arm(&vm->watch, loop_now_ns(vm->env->loop) + NS_PER_SEC);
}

/* After a KVM_RUN that was interrupted.  The second look counts: by then all vCPUs have had their
 * first, so that the machine, which asks whether all are dead, knows of those that were started
 * meanwhile. */
static void note_dead_halt(struct kvm_cpu *c)
{
	if (!kvm_has_lapic(c->vm))
		return;
	kvm_pull_mp_state(c);
	if (c->v.s.mp_state != MP_HALTED || c->run->if_flag) {
		c->dead_looks = 0;
		return;
	}
	if (++c->dead_looks < 2 || !c->v.exit_work.fn || atomic_exchange(&c->v.dead_halt, 1))
		return;
	kvm_pull_cpu(c);
	c->v.exit_why = VEXIT_HALT;
	loop_post(c->v.env->loop, &c->v.exit_work);
}

static void note_alive(struct kvm_cpu *c)
{
	c->v.stat_exits++;
	c->dead_looks = 0;
	if (kvm_has_lapic(c->vm))
		c->v.s.mp_state = MP_RUNNABLE;
	atomic_store_explicit(&c->v.dead_halt, 0, memory_order_relaxed);
}

/* --- requests --------------------------------------------------------------------------------- */
/* Requests that read or change the vCPU's state: INIT and SIPI come from our own local APICs only.
 */
static void change_state(struct kvm_cpu *c, u32 req)
{
	struct vcpu *v = &c->v;
	u64 offset = v->s.tsc_offset;

	if (req & VREQ_RESET) {
		cpu_state_reset(&v->s, v->index == 0);
		v->s.tsc_offset = offset;
		lapic_power_on(v->apic);
		kvm_push(v);
	}
	if (kvm_has_lapic(c->vm))
		return;
	if (req & VREQ_INIT) {
		kvm_pull(v);
		cpu_state_init(&v->s, v->index == 0);
		lapic_init_reset(v->apic);
		kvm_push(v);
	}
	if (req & VREQ_SIPI && v->s.mp_state == MP_WAIT_SIPI) {
		cpu_state_start_up(&v->s, v->sipi_vector);
		kvm_push(v);
	}
}

/* What was asked since the last look.  VREQ_EXTINT is a level and stays. */
static void take_requests(struct kvm_cpu *c)
{
	enum { OURS = VREQ_IRQ | VREQ_NMI | VREQ_INIT | VREQ_SIPI | VREQ_FLUSH | VREQ_RESET };
	enum { NMIS_MAX = 2 }; /* one is delivered, one waits: the kernel keeps no more either */
	u32 req = vcpu_pending(&c->v);

	if (!(req & ~(u32)VREQ_EXTINT))
		return;
	if (c->io_pending) {
		c->run->immediate_exit = 1; /* finish the instruction, come back */
		return;
	}
	req = atomic_fetch_and(&c->v.req, ~(u32)OURS) & OURS;
	if (req & (VREQ_RESET | VREQ_INIT | VREQ_SIPI))
		change_state(c, req);
	if (req & VREQ_NMI) {
		u32 n = atomic_exchange(&c->v.nmis, 0);

		for (n = MIN(n, NMIS_MAX); n; n--)
			kvm_cpu_ioctl(c, KVM_NMI, NULL, "KVM_NMI");
		if (c->v.s.mp_state == MP_HALTED)
			c->v.s.mp_state = MP_RUNNABLE;
	}
}

/* May the guest run?  VEXIT_*, or RUN_ON. */
static int why_not_run(struct kvm_cpu *c)
{
	u32 req = vcpu_pending(&c->v);

	if (c->broken)
		return VEXIT_CRASH;
	if (c->io_pending)
		return RUN_ON;
	if (req & (VREQ_PAUSE | VREQ_QUIT))
		return VEXIT_KICK;
	if (kvm_has_lapic(c->vm) || c->v.s.mp_state == MP_RUNNABLE)
		return RUN_ON;
	if (c->v.s.mp_state == MP_HALTED && c->v.s.rflags & BIT(9) && kvm_irq_due(c)) {
		c->v.s.mp_state = MP_RUNNABLE;
		return RUN_ON;
	}
	return VEXIT_HALT;
}

/* User irqchip: CR8 and IA32_APIC_BASE are our local APIC's, but the guest writes them in the
 * kernel. */
static void sync_apic(struct kvm_cpu *c)
{
	u64 base;

	if (kvm_has_lapic(c->vm))
		return;
	if (c->run->cr8 != lapic_cr8(c->v.apic))
		lapic_set_cr8(c->v.apic, c->run->cr8);
	if (lapic_rdmsr(c->v.apic, 0x1b, &base) && base != c->run->apic_base)
		lapic_wrmsr(c->v.apic, 0x1b, c->run->apic_base);
}

static bool kvm_enter(struct vcpu *v)
{
	struct kvm_cpu *c = kvm_of(v);
	struct err e;

	atomic_store(&c->tid, gettid());
	kvm_cpuid_set(c);
	if (!c->step && !(c->step = tcg_foreign_new(v, &e))) {
		crash(c, "%s", e.text);
		c->broken = true;
	}
	return !c->broken;
}

static enum vexit kvm_run(struct vcpu *v)
{
	struct kvm_cpu *c = kvm_of(v);
	int why, rc;

	for (;;) {
		__atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		take_requests(c);
		if (!kvm_has_lapic(c->vm))
			kvm_timer_arm(c);
		why = why_not_run(c);
		if (why != RUN_ON)
			return (enum vexit)why;
		if (!c->io_pending)
			kvm_irq_inject(c);
		rc = ioctl(c->fd, KVM_RUN, 0);
		sync_apic(c);
		if (rc < 0 && errno != EINTR && errno != EAGAIN)
			return (enum vexit)crash(c, "KVM_RUN failed (%s)", strerror(errno));
		if (rc < 0) {
			c->io_pending = false;
			note_dead_halt(c);
			continue;
		}
		note_alive(c);
		why = handle_exit(c);
		if (why != RUN_ON)
			return (enum vexit)why;
	}
}

/* --- statistics ------------------------------------------------------------------------------- */
u64 kvm_fixups(const struct engine_env *env)
{
	u64 sum = 0;

	for (u32 i = 0; i < env->nr_vcpus; i++)
		sum += kvm_of(env->vcpus[i])->stat_fixups;
	return sum;
}

static void kvm_stats(struct engine_env *env)
{
	for (u32 i = 0; i < env->nr_vcpus; i++) {
		const struct kvm_cpu *c = kvm_of(env->vcpus[i]);

		text_err("vcpu%u: %" PRIu64 " exits: %" PRIu64 " port, %" PRIu64 " memory, %" PRIu64
			" interrupt window, %" PRIu64 " EOI; %" PRIu64
			" instructions executed here\n",
			i, c->v.stat_exits, c->stat_exit[KVM_EXIT_IO], c->stat_exit[KVM_EXIT_MMIO],
			c->stat_exit[KVM_EXIT_IRQ_WINDOW_OPEN], c->stat_exit[KVM_EXIT_IOAPIC_EOI],
			c->stat_fixups);
	}
}

const struct engine kvm_engine = {
	.name = "kvm",
	.filter = FILTER_KVM,
	.open = kvm_open,
	.init = kvm_init,
	.free = kvm_free,
	.vcpu_new = kvm_vcpu_new,
	.vcpu_free = kvm_vcpu_free,
	.enter = kvm_enter,
	.run = kvm_run,
	.pull = kvm_pull,
	.push = kvm_push,
	.kick = kvm_kick,
	.stats = kvm_stats,
	.doorbell = kvm_ioeventfd,
};
