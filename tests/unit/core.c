/* core.c - base, memory, bus, state visitor and event loop. */
#include <pthread.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../bus.h"
#include "../../devices/device.h"
#include "../../loop.h"
#include "../../memory.h"
#include "../../state.h"
#include "../test.h"

TEST(memory_splits_ram_around_the_hole)
{
	struct memory m;
	struct err e;

	EQ(memory_init(&m, 5 * GIB, &e), 0);
	OK(mem_ptr(&m, 3 * GIB - 1, 1));
	OK(!mem_ptr(&m, 3 * GIB - 1, 2));
	OK(!mem_ptr(&m, 3 * GIB, 1));
	OK(mem_ptr(&m, 4 * GIB, 2 * GIB));
	OK(!mem_ptr(&m, 6 * GIB, 1));
	OK(!mem_ptr(&m, 4 * GIB, UINT64_MAX));
	memory_free(&m);
}

TEST(memory_has_guards_around_it)
{
	struct memory m;
	struct err e;
	u8 *ram, vec;

	EQ(memory_init(&m, 2 * MIB, &e), 0);
	ram = mem_ptr(&m, 0, 1);
	ram[0] = ram[2 * MIB - 1] = 1;
	/* a guard takes no write: the kernel says so when it is asked to fill it */
	EQ(madvise(ram - PAGE_SIZE, PAGE_SIZE, 23 /* MADV_POPULATE_WRITE */), -1);
	EQ(madvise(ram + 2 * MIB, PAGE_SIZE, 23), -1);
	memory_free(&m);
	EQ(mincore(ram - PAGE_SIZE, PAGE_SIZE, &vec), -1); /* nothing is left behind */
}

TEST(memory_starts_at_a_huge_page)
{
	for (u64 bytes = PAGE_SIZE; bytes < 8 * MIB; bytes = 3 * bytes + PAGE_SIZE) {
		struct memory m;
		struct err e;

		EQ(memory_init(&m, bytes, &e), 0);
		EQ((uintptr_t)mem_ptr(&m, 0, 1) % (2 * MIB), 0);
		memory_free(&m);
	}
}

TEST(memory_refuses_overlapping_regions)
{
	struct memory m;
	struct err e;

	EQ(memory_init(&m, 1 * MIB, &e), 0);
	EQ(memory_add(&m, 1 * MIB - PAGE_SIZE, PAGE_SIZE, NULL, true, &e), -EEXIST);
	EQ(memory_add(&m, 1 * MIB, PAGE_SIZE, NULL, true, &e), 0);
	OK(mem_ptr(&m, 1 * MIB, 8));
	OK(!mem_ptr_rw(&m, 1 * MIB, 8));
	OK(!mem_ptr(&m, 1 * MIB - 4, 8)); /* never across regions */
	memory_free(&m);
}

TEST(memory_copies_across_regions_and_stops_at_holes)
{
	struct memory m;
	struct err e;
	u8 buf[16];

	EQ(memory_init(&m, 1 * MIB, &e), 0);
	EQ(memory_add(&m, 1 * MIB, PAGE_SIZE, NULL, false, &e), 0);
	memset(buf, 0x5a, sizeof buf);
	OK(mem_write(&m, 1 * MIB - 8, buf, 16));
	memset(buf, 0, sizeof buf);
	OK(mem_read(&m, 1 * MIB - 8, buf, 16));
	EQ(buf[0], 0x5a);
	EQ(buf[15], 0x5a);
	OK(!mem_read(&m, 1 * MIB + PAGE_SIZE - 8, buf, 16));
	memory_free(&m);
}

/* A device that remembers the last access. */
struct probe {
	struct device dev;
	u64 off, val;
	unsigned size, calls, region;
};

static u64 probe_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct probe *p = container_of(dev, struct probe, dev);

	p->off = off;
	p->size = size;
	p->region = region;
	p->calls++;
	return 0x1122334455667788ull >> off * 8;
}

static void probe_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct probe *p = container_of(dev, struct probe, dev);

	p->off = off;
	p->size = size;
	p->val = val;
	p->calls++;
}

static pthread_mutex_t core_lock = PTHREAD_MUTEX_INITIALIZER;

static struct device_ops probe_ops(unsigned access_max)
{
	return (struct device_ops){ .name = "probe", .access_max = access_max, .read = probe_read,
				    .write = probe_write };
}

TEST(bus_splits_what_a_device_cannot_take_at_once)
{
	struct bus b;
	struct device_ops ops = probe_ops(1);
	struct probe p = { .dev.ops = &ops };

	bus_init(&b, "pio", &core_lock);
	EQ(bus_map(&b, 0x70, 2, &p.dev, 3), 0);
	EQ(bus_read(&b, 0x70, 2), 0x7788);
	EQ(p.calls, 2);
	EQ(p.off, 1);
	EQ(p.region, 3);
	/* the part past the range belongs to nobody */
	EQ(bus_read(&b, 0x71, 4), 0xffffff77);
	EQ(b.unclaimed, 3);
}

TEST(bus_gives_naturally_smaller_pieces_at_the_end_of_a_range)
{
	struct bus b;
	struct device_ops ops = probe_ops(8);
	struct probe p = { .dev.ops = &ops };

	bus_init(&b, "mmio", &core_lock);
	EQ(bus_map(&b, 0x1000, 7, &p.dev, 0), 0);
	bus_write(&b, 0x1000, 8, 0x8877665544332211ull);
	EQ(p.calls, 3); /* 4 + 2 + 1 */
	EQ(p.off, 6);
	EQ(p.size, 1);
	EQ(p.val, 0x77);
}

static void note_gone(void *ctx, struct device *dev, u32 region)
{
	*(u32 *)ctx = region;
}

TEST(bus_tells_where_a_region_lies_and_that_it_went)
{
	struct bus b;
	struct device_ops ops = probe_ops(8);
	struct probe p = { .dev.ops = &ops };
	u32 gone = 0;

	bus_init(&b, "mmio", &core_lock);
	b.unmapped = note_gone;
	b.unmapped_ctx = &gone;
	EQ(bus_map(&b, 0x1000, 8, &p.dev, 3), 0);
	EQ(bus_map(&b, 0x2000, 8, &p.dev, 4), 0);
	EQ(bus_base(&b, &p.dev, 4), 0x2000);
	bus_unmap(&b, 0x1800);
	EQ(gone, 0);
	bus_unmap(&b, 0x2000);
	EQ(gone, 4);
	EQ(bus_base(&b, &p.dev, 4), UINT64_MAX);
}
TEST(bus_refuses_overlaps_and_reads_ones_where_nobody_is)
{
	struct bus b;
	struct device_ops ops = probe_ops(4);
	struct probe p = { .dev.ops = &ops };

	bus_init(&b, "mmio", &core_lock);
	EQ(bus_map(&b, 0x100, 0x10, &p.dev, 0), 0);
	EQ(bus_map(&b, 0x10f, 1, &p.dev, 0), -EEXIST);
	EQ(bus_map(&b, 0xf8, 9, &p.dev, 0), -EEXIST);
	EQ(bus_map(&b, 0xf8, 8, &p.dev, 0), 0);
	bus_unmap(&b, 0x100);
	EQ(bus_read(&b, 0x100, 8), -1);
	EQ(bus_read(&b, ~0ull, 2), 0xffff); /* wraps without harm */
}

static void visit(struct state *st, u32 *a, bool *flag, const char *second)
{
	st_begin(st, "thing", 2);
	st_u32(st, "a", a);
	st_bool(st, second, flag);
	st_end(st);
}

TEST(state_survives_save_and_load)
{
	struct state save, load;
	u32 a = 0x12345678;
	bool flag = true;

	state_init_save(&save);
	visit(&save, &a, &flag, "flag");
	EQ(save.error, 0);
	a = 0;
	flag = false;
	state_init_load(&load, save.buf, save.len);
	visit(&load, &a, &flag, "flag");
	EQ(load.error, 0);
	EQ(a, 0x12345678);
	EQ(flag, true);
	state_free(&save);
}

TEST(state_detects_damage_renames_and_truncation)
{
	struct state save, load;
	u32 a = 1;
	bool flag = true;

	state_init_save(&save);
	visit(&save, &a, &flag, "flag");
	for (size_t i = 0; i < save.len; i++) {
		save.buf[i] ^= 0x40;
		state_init_load(&load, save.buf, save.len);
		visit(&load, &a, &flag, "flag");
		OK(load.error != 0);
		save.buf[i] ^= 0x40;
		state_init_load(&load, save.buf, i);
		visit(&load, &a, &flag, "flag");
		OK(load.error != 0);
	}
	state_init_load(&load, save.buf, save.len);
	visit(&load, &a, &flag, "flog");
	EQ(load.error, -EINVAL);
	state_free(&save);
}

static u64 fired[8];
static u32 fired_n;
static struct loop *core_loop;

static void note_time(void *arg)
{
	fired[fired_n++] = loop_now_ns(core_loop);
}

TEST(loop_fires_timers_in_order_of_their_deadline)
{
	struct err e;
	struct loop_timer t[5];
	static const u64 at[5] = { 500, 100, 400, 200, 300 };

	core_loop = loop_new(&core_lock, true, &e);
	for (int i = 0; i < 5; i++) {
		timer_init(&t[i], core_loop, note_time, NULL);
		timer_arm(&t[i], at[i]);
	}
	timer_cancel(&t[4]);
	timer_arm(&t[0], 150); /* re-arming moves it */
	loop_advance(core_loop, 1000);
	EQ(fired_n, 4);
	EQ(fired[0], 100);
	EQ(fired[1], 150);
	EQ(fired[2], 200);
	EQ(fired[3], 400);
	EQ(loop_now_ns(core_loop), 1000);
	loop_free(core_loop);
}

static int pipe_fd[2];
static char order[8];
static struct loop_work work_a, work_b;

static void on_pipe(void *arg, u32 events)
{
	char c;

	EQ(read(pipe_fd[0], &c, 1), 1);
	strcat(order, "p");
	loop_post(core_loop, &work_a);
	loop_post(core_loop, &work_b);
	loop_post(core_loop, &work_a); /* busy: once only */
}

static void on_a(void *arg)
{
	strcat(order, "a");
}

static void on_timer(void *arg)
{
	strcat(order, "t");
	loop_stop(core_loop, 7);
}

static struct loop_timer core_timer;

static void on_b(void *arg)
{
	strcat(order, "b");
	timer_arm(&core_timer, loop_now_ns(core_loop) + 1000000);
}

TEST(loop_runs_descriptors_then_posted_work_then_timers)
{
	struct err e;

	core_loop = loop_new(&core_lock, false, &e);
	OK(core_loop);
	EQ(pipe(pipe_fd), 0);
	work_a = (struct loop_work){ .fn = on_a };
	work_b = (struct loop_work){ .fn = on_b };
	timer_init(&core_timer, core_loop, on_timer, NULL);
	EQ(loop_fd_add(core_loop, pipe_fd[0], POLLIN, on_pipe, NULL), 0);
	EQ(write(pipe_fd[1], "x", 1), 1);
	EQ(loop_run(core_loop), 7);
	EQ(strcmp(order, "pabt"), 0);
	loop_free(core_loop);
}

static void *arm_sooner(void *arg)
{
	usleep(20000); /* let the loop sleep */
	pthread_mutex_lock(&core_lock);
	timer_arm(&core_timer, loop_now_ns(core_loop) + 1000000);
	pthread_mutex_unlock(&core_lock);
	return NULL;
}

TEST(loop_sleeps_less_when_another_thread_arms_a_timer)
{
	struct loop_timer late;
	struct err e;
	pthread_t t;

	core_loop = loop_new(&core_lock, false, &e);
	timer_init(&late, core_loop, note_time, NULL);
	timer_init(&core_timer, core_loop, on_timer, NULL);
	timer_arm(&late, loop_now_ns(core_loop) + 60 * NS_PER_SEC);
	EQ(pthread_create(&t, NULL, arm_sooner, NULL), 0);
	EQ(loop_run(core_loop), 7);
	EQ(fired_n, 0);
	pthread_join(t, NULL);
	loop_free(core_loop);
}

static void on_hang_up(void *arg, u32 events)
{
	loop_stop(core_loop, 3);
}

TEST(loop_is_not_disturbed_by_a_quiet_descriptor)
{
	struct err e;

	core_loop = loop_new(&core_lock, false, &e);
	EQ(pipe(pipe_fd), 0);
	EQ(loop_fd_add(core_loop, pipe_fd[0], 0, on_hang_up, NULL), 0);
	close(pipe_fd[1]);
	timer_init(&core_timer, core_loop, on_timer, NULL);
	timer_arm(&core_timer, loop_now_ns(core_loop) + 20000000);
	EQ(loop_run(core_loop), 7);
	loop_free(core_loop);
}

TEST(loop_clock_stands_still_while_paused)
{
	struct err e;
	u64 t0;

	core_loop = loop_new(&core_lock, false, &e);
	loop_clock_pause(core_loop);
	t0 = loop_now_ns(core_loop);
	usleep(3000);
	EQ(loop_now_ns(core_loop), t0);
	loop_clock_resume(core_loop);
	OK(loop_now_ns(core_loop) - t0 < 2000000);
	loop_free(core_loop);
}

/* Seconds are the clock's: a flood that meets the turn of one has two bursts. */
TEST(log_limit_ends_a_flood)
{
	struct log_limit limit = { 0 };
	u32 shown = 0;

	for (int i = 0; i < 10000; i++)
		shown += log_limit_ok(&limit, 10, LOG_INFO, "test");
	OK(shown == 10 || shown == 20);
	EQ(limit.dropped, shown == 10 ? 9990 : limit.dropped);
	limit.second--;
	limit.dropped = 0;
	OK(log_limit_ok(&limit, 10, LOG_INFO, "test"));
	EQ(limit.used, 1);
	OK(!log_limit_ok(&limit, 10, LOG_DBG, "test"));
}
