/* machine.c - life cycle: build, run, reset, stop.
 *
 * Threads: machine_new, machine_run and machine_free on the main thread, which is the loop thread.
 * machine_request is called by devices with the lock held, on any thread, and only posts. */
#include "board.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "devices/chipset.h"
#include "devices/lapic.h"
#include "host/tty.h"
#include "kvm.h"
#include "trace.h"

enum { SIGNAL_STATUS = 128 };

/* --- set-up ----------------------------------------------------------------------------------- */
static int machine_pick_engine(struct machine *m, struct err *e)
{
	char why[120];
	enum kvm_verdict verdict;

	m->eng = m->cfg->accel == ACCEL_KVM ? &kvm_engine : &tcg_engine;
	snprintf(m->eng_why, sizeof m->eng_why, "as asked by --accel");
	if (m->cfg->accel != ACCEL_AUTO)
		return 0;
	verdict = kvm_probe(why, sizeof why);
	if (verdict == KVM_HARDWARE)
		m->eng = &kvm_engine;
	snprintf(m->eng_why, sizeof m->eng_why, "%s", why);
	return 0;
}

static void machine_boot_config(struct machine *m)
{
	const struct config *cfg = m->cfg;
	static const enum boot_entry entries[] = { [ENTRY_AUTO] = BOOT_AUTO, [ENTRY_64] = BOOT_64,
						   [ENTRY_16] = BOOT_16 };

	m->boot.kernel = cfg->kernel;
	m->boot.initrd = cfg->initrd;
	m->boot.cmdline = cfg->cmdline;
	m->boot.bios = cfg->bios;
	m->boot.entry = entries[cfg->entry];
	m->boot.keep_compressed = cfg->entry != ENTRY_AUTO;
	m->boot.nr_disks = cfg->disks;
	memcpy(m->boot.uuid, cfg->uuid, sizeof m->boot.uuid);
	m->boot.has_fw_cfg = cfg->bios || cfg->fw_files;
	m->boot.fw_file = cfg->fw_file;
	m->boot.fw_files = cfg->fw_files;
	m->boot.has_i8042 = true;
	m->boot.serial_ports = 1;
	m->boot.nr_vcpus = cfg->vcpus;
}

static int machine_vcpus(struct machine *m, struct err *e)
{
	for (u32 i = 0; i < m->cfg->vcpus; i++) {
		struct vcpu *v = m->eng->vcpu_new(&m->env, i, e);

		if (!v)
			return e->code;
		m->vcpus[m->nr_vcpus++] = v;
		m->env.nr_vcpus = m->chip.nr_vcpus = m->nr_vcpus;
		if (m->chip.ops == &irqchip_user_ops && !(v->apic = lapic_new(v, &m->env)))
			return err_set(e, -ENOMEM, "vcpu%u: out of memory", i);
	}
	return 0;
}

/* Signals that end mvm arrive as reads of a descriptor, on the loop. */
static int machine_signals(struct machine *m, struct err *e)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGTSTP);
	sigaddset(&set, SIGCONT);
	sigaddset(&set, WATCH_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &set, NULL); /* vCPU and disk threads inherit it */
	m->sigfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (m->sigfd < 0)
		return err_set(e, -errno, "signals: cannot open a signalfd (%s)", strerror(errno));
	return 0;
}

static u64 tcg_cache_share(const struct config *cfg)
{
	return MAX(ALIGN_DOWN(cfg->tcg_cache_bytes / cfg->vcpus, PAGE_SIZE), TCG_CACHE_LEAST);
}

static void machine_env(struct machine *m)
{
	m->env = (struct engine_env){ .mem = &m->mem, .pio = &m->pio, .mmio = &m->mmio,
				      .chip = &m->chip, .loop = m->loop, .lock = &m->lock,
				      .vcpus = m->vcpus,
				      .tcg_cache_bytes = tcg_cache_share(m->cfg),
				      .irqchip_kind = m->cfg->irqchip,
				      .interp_only = m->cfg->accel == ACCEL_INTERP,
				      .stats = m->cfg->stats,
				      .want_perf_map = m->cfg->perf_map };
	m->chip.ops = &irqchip_user_ops;
	m->chip.vcpus = m->vcpus;
}

static void machine_vcpu_exit(void *arg);

/* Files, descriptors, the board: all that needs the host's file system or a privilege. */
static int machine_open(struct machine *m, struct err *e)
{
	int rc = machine_signals(m, e);

	m->host_tsc = host_tsc_look();
	if (rc == 0)
		rc = boot_files_open(&m->boot, e);
	if (rc == 0)
		rc = machine_pick_engine(m, e);
	trace_mark("engine chosen");
	if (rc == 0)
		rc = memory_init(&m->mem, m->cfg->mem_bytes, e);
	if (rc < 0)
		return rc;
	m->loop = loop_new(&m->lock, false, e);
	if (!m->loop)
		return e->code;
	machine_env(m);
	trace_mark("memory and loop");
	if (m->eng->open)
		rc = m->eng->open(&m->env, e);
	if (rc == 0 && m->cfg->serial != SERIAL_NONE)
		rc = serial_end_open(&m->console, m->loop, m->cfg->serial_path, e);
	if (rc == 0)
		rc = board_build(m, e);
	trace_mark("devices");
	return rc;
}

/* The guest in its memory, engine and vCPUs: with no more than what is open. */
static int machine_load(struct machine *m, struct err *e)
{
	struct cpu_state bsp;
	int rc;

	cpu_state_reset(&bsp, true);
	rc = board_looks_at_kernel(m->cfg) ? board_attach(m, e) : 0;
	if (rc == 0)
		rc = boot_load(&m->boot, &m->mem, &bsp, e);
	m->env.tsc_khz = host_tsc_khz(&m->host_tsc);
	if (!m->cfg->restart)
		boot_files_close(&m->boot);
	trace_mark("kernel loaded");
	if (rc == 0)
		rc = m->eng->init(&m->env, e);
	if (rc == 0)
		rc = machine_vcpus(m, e);
	if (rc == 0)
		rc = doorbells_init(m, e);
	if (rc < 0)
		return rc;
	m->vcpus[0]->s = bsp;
	for (u32 i = 0; i < m->nr_vcpus; i++) {
		if (!m->cfg->bios)
			boot_memory_types(&m->vcpus[i]->s);
		m->vcpus[i]->exit_work = (struct loop_work){
			machine_vcpu_exit, m->vcpus[i], NULL, 0 };
	}
	trace_mark("vCPUs");
	return 0;
}

static int machine_build(struct machine *m, struct err *e)
{
	const struct config *cfg = m->cfg;
	int rc = cfg->dry_run ? 0 : sandbox_join(&cfg->sandbox, e);

	if (rc == 0)
		rc = machine_open(m, e);
	if (rc == 0 && cfg->perf_map && (m->eng != &tcg_engine || cfg->accel == ACCEL_INTERP))
		rc = err_set(e, -EINVAL, "--perf-map: nothing is translated here; use --accel tcg");
	if (rc == 0 && !cfg->dry_run)
		rc = sandbox_raise(&cfg->sandbox, tty_restore, e);
	trace_mark("sandbox");
	return rc < 0 ? rc : machine_load(m, e);
}

struct machine *machine_new(const struct config *cfg, struct err *e)
{
	struct machine *m = calloc(1, sizeof *m);

	if (!m) {
		err_set(e, -ENOMEM, "machine: out of memory");
		return NULL;
	}
	m->cfg = cfg;
	m->sigfd = -1;
	pthread_mutex_init(&m->lock, NULL);
	bus_init(&m->pio, "pio", &m->lock);
	bus_init(&m->mmio, "mmio", &m->lock);
	machine_boot_config(m);
	if (machine_build(m, e) < 0) {
		machine_free(m);
		return NULL;
	}
	return m;
}

/* --- requests of devices and vCPUs ------------------------------------------------------------ */
static void machine_stop(struct machine *m, int status)
{
	m->run = RUN_STOPPED;
	loop_stop(m->loop, status);
}

/* Put RAM back to zero, devices and vCPUs to power-on, and load the kernel again.  The vCPUs are
 * parked, the lock is held. */
static int machine_reload(struct machine *m, struct err *e)
{
	struct cpu_state bsp;
	u64 tsc_offset;
	int rc;

	for (u32 i = 0; i < m->mem.n; i++)
		if (!m->mem.region[i].rom)
			madvise(m->mem.region[i].host, m->mem.region[i].bytes, MADV_DONTNEED);
	board_reset(m);
	cpu_state_reset(&bsp, true);
	rc = boot_load(&m->boot, &m->mem, &bsp, e);
	tsc_offset = -host_rdtsc(); /* read once: all guest TSCs agree to the cycle */
	for (u32 i = 0; i < m->nr_vcpus; i++) {
		struct vcpu *v = m->vcpus[i];

		atomic_fetch_and(&v->req, (u32)VREQ_PAUSE);
		v->s = bsp;
		if (i)
			cpu_state_reset(&v->s, false);
		if (!m->cfg->bios)
			boot_memory_types(&v->s);
		v->s.tsc_offset = tsc_offset;
		if (v->apic)
			lapic_power_on(v->apic);
	}
	return rc;
}

/* A vCPU may be waiting for the lock inside a device access, so it is let go while they park. */
static void machine_reset(struct machine *m)
{
	struct err e;
	int rc;

	if (!m->cfg->restart) {
		log_info("machine",
			"guest reset; ending (--on-reboot restart would start it again)");
		return machine_stop(m, EXIT_OK);
	}
	log_limited(LOG_INFO, LOG_GUEST_MOST, "machine", "guest reset; starting again");
	pthread_mutex_unlock(&m->lock);
	vcpus_pause(m->vcpus, m->nr_vcpus);
	pthread_mutex_lock(&m->lock);
	m->request = 0;
	rc = machine_reload(m, &e);
	if (rc < 0) {
		log_err("machine", "cannot start again: %s", e.text);
		return machine_stop(m, EXIT_HOST);
	}
	vcpus_resume(m->vcpus, m->nr_vcpus);
}

static void machine_do_requests(void *arg)
{
	struct machine *m = arg;
	u32 request = m->request;

	if (m->run != RUN_RUNNING)
		return;
	m->request = 0;
	if (request & BIT(DEV_DEBUG_EXIT))
		return machine_stop(m, (int)((m->debug_exit << 1 | 1) & 0xff));
	if (request & BIT(DEV_POWEROFF)) {
		log_info("machine", "guest powered off");
		return machine_stop(m, EXIT_OK);
	}
	if (request & BIT(DEV_RESET))
		machine_reset(m);
}

void machine_request(void *ctx, enum device_request req, u32 arg)
{
	struct machine *m = ctx;

	if (req == DEV_BOOT_MARK) {
		if (m->cfg->boot_trace)
			trace_guest_mark();
		return;
	}
	if (req == DEV_A20) /* the gate is always open: nothing since the 80286 needs it shut */
		return;
	if (req == DEV_DEBUG_EXIT)
		m->debug_exit = arg;
	m->request |= BIT(req);
	/* No vCPU may run far past the instruction that asked. */
	if (req == DEV_RESET || req == DEV_POWEROFF || req == DEV_DEBUG_EXIT)
		for (u32 i = 0; i < m->nr_vcpus; i++)
			vcpu_request(m->vcpus[i], VREQ_PAUSE);
	loop_post(m->loop, &m->request_work);
}

/* Does every vCPU wait for another one?  All look so at first; then they are parked, since an NMI
 * or SIPI may be under way to one from another that has halted since.  They stay parked if it is
 * true. */
static bool machine_all_dead(struct machine *m)
{
	bool dead = true;

	for (u32 i = 0; i < m->nr_vcpus; i++)
		if (!m->vcpus[i]->dead_halt && m->vcpus[i]->s.mp_state != MP_WAIT_SIPI)
			return false;
	pthread_mutex_unlock(&m->lock);
	vcpus_pause(m->vcpus, m->nr_vcpus);
	pthread_mutex_lock(&m->lock);
	for (u32 i = 0; i < m->nr_vcpus; i++)
		dead &= vcpu_is_dead(m->vcpus[i]);
	dead &= !m->request;
	if (!dead)
		vcpus_resume(m->vcpus, m->nr_vcpus);
	return dead;
}

static void machine_crash(struct machine *m, struct vcpu *v)
{
	static char text[1024];

	pthread_mutex_unlock(&m->lock);
	vcpus_pause(m->vcpus, m->nr_vcpus);
	pthread_mutex_lock(&m->lock);
	cpu_state_text(&v->s, text, sizeof text);
	log_err("cpu", "vcpu%u cannot go on: %s", v->index, v->crash);
	for (char *line = text, *save; (line = strtok_r(line, "\n", &save)); line = NULL)
		log_err("cpu", "%s", line);
	machine_stop(m, EXIT_GUEST);
}

/* A vCPU stopped for a reason of its own; on the loop thread, lock held. */
static void machine_vcpu_exit(void *arg)
{
	struct vcpu *v = arg;
	struct machine *m = container_of(v->env, struct machine, env);

	if (m->run != RUN_RUNNING)
		return;
	switch ((enum vexit)atomic_exchange(&v->exit_why, VEXIT_KICK)) {
	case VEXIT_RESET:
		log_limited(LOG_INFO, LOG_GUEST_MOST, "machine", "vcpu%u: triple fault", v->index);
		if (m->cfg->restart)
			machine_reset(m);
		else
			/* a PC would reset, but nobody means to do it so */
			machine_stop(m, EXIT_GUEST);
		break;
	case VEXIT_CRASH:
		machine_crash(m, v);
		break;
	case VEXIT_HALT:
		if (!machine_all_dead(m))
			break;
		log_err("machine", "guest halted with interrupts off at rip %#llx; nothing can "
				   "wake it, ending", (unsigned long long)v->s.rip);
		machine_stop(m, EXIT_GUEST);
		break;
	case VEXIT_KICK:
		break;
	}
}

/* --- signals ---------------------------------------------------------------------------------- */
/* The guest stops, and time with it. */
static void machine_pause(struct machine *m)
{
	if (m->run != RUN_RUNNING)
		return;
	pthread_mutex_unlock(&m->lock); /* a vCPU may wait for it inside a device access */
	vcpus_pause(m->vcpus, m->nr_vcpus);
	pthread_mutex_lock(&m->lock);
	loop_clock_pause(m->loop);
	m->paused_tsc = host_rdtsc();
	m->run = RUN_PAUSED;
	log_info("machine", "paused, until SIGCONT");
}

/* What came to pass while the vCPUs were parking is dealt with now; a vCPU that had stopped by
 * itself must not run on before. */
static void machine_resume(struct machine *m)
{
	u64 gone = host_rdtsc() - m->paused_tsc; /* read once: all guest TSCs agree to the cycle */

	if (m->run != RUN_PAUSED)
		return;
	m->run = RUN_RUNNING;
	loop_clock_resume(m->loop);
	kvmclock_start(&m->env);
	for (u32 i = 0; i < m->nr_vcpus; i++)
		m->vcpus[i]->s.tsc_offset -= gone;
	for (u32 i = 0; i < m->nr_vcpus; i++) {
		kvmclock_update(m->vcpus[i]);
		if (m->vcpus[i]->exit_why == VEXIT_RESET || m->vcpus[i]->exit_why == VEXIT_CRASH)
			loop_post(m->loop, &m->vcpus[i]->exit_work);
		else
			vcpus_resume(&m->vcpus[i], 1);
	}
	if (m->request)
		loop_post(m->loop, &m->request_work);
}

static void machine_out_of_patience(void *arg)
{
	log_info("machine", "the guest has not powered off; ending");
	machine_stop(arg, SIGNAL_STATUS + SIGTERM);
}

/* The first SIGTERM is a press of the power button, where the guest has said that it listens. */
static bool machine_press_button(struct machine *m)
{
	if (!m->cfg->stop_s || m->run != RUN_RUNNING || timer_armed(&m->stop) ||
	    !acpi_pm_power_button(board_find(m, &acpi_pm_ops)))
		return false;
	timer_arm(&m->stop, loop_now_ns(m->loop) + m->cfg->stop_s * NS_PER_SEC);
	log_info("machine", "signal %d; power button pressed, ending in %u s or at the next signal",
		 SIGTERM, m->cfg->stop_s);
	return true;
}

static void machine_signal(void *arg, u32 events)
{
	struct machine *m = arg;
	struct signalfd_siginfo si;
	u32 sig;

	if (read(m->sigfd, &si, sizeof si) != sizeof si)
		return;
	if (sandbox_is_up() != (si.ssi_signo == WATCH_SIGNAL))
		return;
	sig = sandbox_is_up() ? (u32)si.ssi_int : si.ssi_signo;
	if (sig == SIGTSTP)
		return machine_pause(m);
	if (sig == SIGCONT) { /* after a SIGSTOP the shell has reset the terminal */
		machine_resume(m);
		return tty_raw();
	}
	if (sig == SIGTERM && machine_press_button(m))
		return;
	log_info("machine", "signal %u; ending", sig);
	machine_stop(m, SIGNAL_STATUS + (int)sig);
}

/* --- running ---------------------------------------------------------------------------------- */

/* The user pressed Ctrl-A x; loop thread. */
static void machine_leave(void *ctx)
{
	machine_stop(ctx, EXIT_OK);
}

/* Threads of devices and vCPUs, each in its sandbox: the vCPUs park when they are ready. */
static int machine_start_threads(struct machine *m, struct err *e)
{
	int rc = 0;

	for (u32 i = 0; i < m->devs && rc == 0; i++)
		rc = device_start(m->dev[i], e);
	for (u32 i = 0; i < m->nr_vcpus && rc == 0; i++) {
		vcpu_request(m->vcpus[i], VREQ_PAUSE);
		rc = vcpu_start(m->vcpus[i], e);
	}
	if (rc == 0)
		vcpus_pause(m->vcpus, m->nr_vcpus);
	return rc;
}

/* What the guest wrote must be where it belongs before mvm says that it has ended.  Threads and
 * memory go with the process. */
static void machine_end(struct machine *m)
{
	vcpus_pause(m->vcpus, m->nr_vcpus);
	pthread_mutex_lock(&m->lock);
	for (u32 i = 0; i < m->devs; i++)
		if (m->dev[i]->ops->quiesce)
			m->dev[i]->ops->quiesce(m->dev[i]);
	pthread_mutex_unlock(&m->lock);
	board_flush(m);
	serial_end_finish(m->console);
	if (m->cfg->stats && m->eng->stats)
		m->eng->stats(&m->env);
}

int machine_run(struct machine *m)
{
	struct err e;
	int rc = loop_fd_add(m->loop, m->sigfd, POLLIN, machine_signal, m);
	u64 tsc_offset = -host_rdtsc(); /* read once: all guest TSCs agree to the cycle */
	int status;

	ASSERT(rc == 0);
	if (m->cfg->accel == ACCEL_AUTO)
		log_info("cpu", "%s: %s", m->eng == &kvm_engine ? "KVM" : "software CPU",
			m->eng_why);
	m->run = RUN_RUNNING;
	kvmclock_start(&m->env);
	m->request_work = (struct loop_work){ .fn = machine_do_requests, .arg = m };
	timer_init(&m->stop, m->loop, machine_out_of_patience, m);
	for (u32 i = 0; i < m->nr_vcpus; i++)
		m->vcpus[i]->s.tsc_offset = tsc_offset;
	serial_end_start(m->console, machine_leave, m);
	prctl(PR_SET_TIMERSLACK, 1L); /* guest timers fire when they are due */
	rc = machine_start_threads(m, &e);
	if (rc < 0) {
		log_err("machine", "%s", e.text);
		return EXIT_HOST;
	}
	sandbox_limit(board_file_max(m));
	trace_mark("threads started");
	sandbox_enter(FILTER_LOOP);
	trace_mark("filters on");
	if (m->cfg->boot_trace)
		trace_print();
	vcpus_resume(m->vcpus, m->nr_vcpus);
	status = loop_run(m->loop);
	machine_end(m);
	return status;
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	board_free(m);
	serial_end_close(m->console);
	for (u32 i = 0; i < m->nr_vcpus; i++) {
		lapic_free(m->vcpus[i]->apic);
		m->eng->vcpu_free(m->vcpus[i]);
	}
	if (m->env.engine_priv)
		m->eng->free(&m->env);
	boot_files_close(&m->boot);
	loop_free(m->loop);
	memory_free(&m->mem);
	if (m->sigfd >= 0)
		close(m->sigfd);
	free(m);
}
