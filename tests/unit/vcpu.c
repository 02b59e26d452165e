/* vcpu.c - the vCPU thread: sleeping, waking, parking; with an engine that only pretends. */
#include <pthread.h>
#include <unistd.h>

#include "../../vcpu.h"
#include "../test.h"

static _Atomic u32 runs, kicks;
static enum vexit next_exit;

static enum vexit fake_run(struct vcpu *v)
{
	runs++;
	if (next_exit != VEXIT_KICK)
		return next_exit;
	while (!vcpu_pending(v))
		usleep(100);
	return VEXIT_KICK;
}

static void fake_sync(struct vcpu *v)
{
}

static void fake_kick(struct vcpu *v)
{
	kicks++;
}

static const struct engine fake_engine = { .name = "fake", .run = fake_run, .pull = fake_sync,
					   .push = fake_sync, .kick = fake_kick };

static pthread_mutex_t vcpu_test_lock = PTHREAD_MUTEX_INITIALIZER;
static struct engine_env env;
static struct vcpu cpu, *cpus[1] = { &cpu };

static void start_with(enum vexit exits, u64 rflags)
{
	struct err e;

	next_exit = exits;
	env.lock = &vcpu_test_lock;
	env.loop = loop_new(&vcpu_test_lock, false, &e);
	OK(env.loop);
	cpu_state_reset(&cpu.s, true);
	cpu.s.rflags |= rflags;
	cpu.eng = &fake_engine;
	cpu.env = &env;
	EQ(vcpu_start(&cpu, &e), 0);
}

static void start(enum vexit exits)
{
	start_with(exits, 0);
}

static void wait_runs(u32 n)
{
	for (int i = 0; i < 2000 && runs < n; i++)
		usleep(1000);
	OK(runs >= n);
}

TEST(vcpu_parks_and_goes_on)
{
	start(VEXIT_KICK);
	wait_runs(1);
	for (int i = 0; i < 50; i++) {
		u32 before;

		vcpus_pause(cpus, 1);
		OK(cpu.parked);
		before = runs;
		usleep(200);
		EQ(runs, before);
		vcpus_resume(cpus, 1);
		wait_runs(before + 1);
	}
	OK(kicks > 0);
	vcpu_stop(&cpu);
}

TEST(vcpu_stops_while_parked)
{
	start(VEXIT_KICK);
	vcpus_pause(cpus, 1);
	vcpu_stop(&cpu);
	OK(!cpu.threaded);
}

TEST(vcpu_is_dead_unless_something_that_wakes_it_is_under_way)
{
	start(VEXIT_KICK);
	wait_runs(1);
	vcpus_pause(cpus, 1);
	cpu.s.mp_state = MP_RUNNABLE;
	OK(!vcpu_is_dead(&cpu));
	cpu.s.mp_state = MP_HALTED;
	cpu.s.rflags = BIT(9);
	OK(!vcpu_is_dead(&cpu));
	cpu.s.rflags = 0;
	OK(vcpu_is_dead(&cpu));
	vcpu_request(&cpu, VREQ_EXTINT);
	OK(vcpu_is_dead(&cpu));
	vcpu_request(&cpu, VREQ_NMI);
	OK(!vcpu_is_dead(&cpu));
	cpu.s.mp_state = MP_WAIT_SIPI;
	OK(vcpu_is_dead(&cpu)); /* deaf to NMI */
	vcpu_request(&cpu, VREQ_SIPI);
	OK(!vcpu_is_dead(&cpu));
	vcpu_stop(&cpu);
}

TEST(vcpu_halted_with_interrupts_off_sleeps_through_interrupts)
{
	u32 before;

	start(VEXIT_HALT);
	wait_runs(1);
	usleep(20000);
	before = runs;
	vcpu_request(&cpu, VREQ_EXTINT); /* a level: it stays */
	usleep(50000);
	OK(runs <= before + 1); /* woken once at most, then asleep for good */
	EQ(cpu.dead_halt, 1);
	vcpu_request(&cpu, VREQ_NMI);
	wait_runs(before + 1);
	vcpu_stop(&cpu);
}

/* Sixty idle CPUs must not be woken for every page of code that one of them changes. */
TEST(vcpu_halted_sleeps_through_changes_of_code)
{
	u32 before;

	start_with(VEXIT_HALT, BIT(9));
	wait_runs(1);
	usleep(20000);
	before = runs;
	for (int i = 0; i < 50; i++) {
		vcpu_request(&cpu, VREQ_FLUSH);
		usleep(1000);
	}
	EQ(runs, before);
	OK(vcpu_pending(&cpu) & VREQ_FLUSH); /* it is still there for the next run */
	vcpu_request(&cpu, VREQ_NMI);
	wait_runs(before + 1);
	vcpu_stop(&cpu);
}

TEST(vcpu_reports_a_crash_once_and_waits)
{
	start(VEXIT_CRASH);
	wait_runs(1);
	usleep(20000);
	EQ(runs, 1);
	EQ(cpu.exit_why, VEXIT_CRASH);
	vcpu_stop(&cpu);
}

TEST(vcpu_reset_state_is_the_manuals)
{
	struct cpu_state s;

	cpu_state_reset(&s, false);
	EQ(s.rip + s.seg[SEG_CS].base, 0xfffffff0);
	EQ(s.cr0, 0x60000010);
	EQ(s.rflags, 2);
	EQ(s.mp_state, MP_WAIT_SIPI);
}

TEST(vcpu_state_survives_save_and_load)
{
	static struct cpu_state a, b;
	struct state save, load;

	for (size_t i = 0; i < sizeof a; i++)
		((u8 *)&a)[i] = (u8)test_random();
	a.mp_state = MP_HALTED;
	state_init_save(&save);
	cpu_state_visit(&a, &save);
	state_init_load(&load, save.buf, save.len);
	cpu_state_visit(&b, &load);
	EQ(load.error, 0);
	/* Saving what was loaded gives the same bytes; padding does not count. */
	struct state again;

	state_init_save(&again);
	cpu_state_visit(&b, &again);
	EQ(again.len, save.len);
	EQ(memcmp(again.buf, save.buf, save.len), 0);
	EQ(b.kvm_wall_clock, a.kvm_wall_clock);
	EQ(memcmp(b.xsave, a.xsave, sizeof a.xsave), 0);
}
