/* loop.h - the event loop: file descriptors, guest-clock timers, work posted from other threads.
 *
 * One loop thread.  Callbacks run on it with machine.lock held.  Timers count guest-clock
 * nanoseconds: the clock stops while the machine is paused. */
#pragma once

#include <pthread.h>

#include "base.h"

struct loop;

/* Guest time: CLOCK_MONOTONIC less the time spent paused, plus what a restored snapshot brought.
 * A test's loop is `fake`: time moves only by loop_advance. */
u64 loop_now_ns(const struct loop *l); /* any thread */

struct loop_timer {
	void (*fn)(void *arg);
	void *arg;
	struct loop *loop;
	u64 deadline_ns; /* absolute guest time, or TIMER_OFF; guard: machine.lock */
	u32 heap_pos;    /* 1-based place in the loop's heap, 0 when not armed */
};
#define TIMER_OFF UINT64_MAX

struct loop *loop_new(pthread_mutex_t *lock, bool fake, struct err *e);
void loop_free(struct loop *l);

/* Run callbacks until loop_stop; returns loop_stop's status. */
int loop_run(struct loop *l);
void loop_stop(struct loop *l, int status); /* any thread; the first status wins */

/* Is the calling thread the one in loop_run?  Of a fake loop, always. */
bool loop_is_mine(const struct loop *l);

/* Call fn(arg, events) when fd is ready (events: POLL*).  0 or -ENOSPC.  Caller holds the lock or
 * is single-threaded.  With events 0 it stays registered but quiet, even if the other side hangs
 * up. */
typedef void (*loop_fd_fn)(void *arg, u32 events);
int loop_fd_add(struct loop *l, int fd, u32 events, loop_fd_fn fn, void *arg);
void loop_fd_del(struct loop *l, int fd);

/* Timers: init once, arm at an absolute guest time (re-arming moves it), cancel. Under the lock,
 * from any thread.  A deadline in the past fires at once, on the loop thread. */
void timer_init(struct loop_timer *t, struct loop *l, void (*fn)(void *), void *arg);
void timer_arm(struct loop_timer *t, u64 deadline_ns);
void timer_cancel(struct loop_timer *t);
static inline bool timer_armed(const struct loop_timer *t)
{
	return t->heap_pos != 0;
}

/* Run fn(arg) on the loop thread, in posting order; any thread, lock held or not.  Never fails: the
 * node is the caller's (embedded) and is busy until fn starts. Posting a busy node is a no-op. */
struct loop_work {
	void (*fn)(void *arg);
	void *arg;
	struct loop_work *next;
	u32 queued; /* atomic */
};
void loop_post(struct loop *l, struct loop_work *w);

/* The guest clock stops and goes on; under the lock. */
void loop_clock_pause(struct loop *l);
void loop_clock_resume(struct loop *l);
void loop_clock_set(struct loop *l, u64 now_ns); /* snapshot load, while paused */

/* Fake loops only: move time on, firing timers in order; run posted work. */
void loop_advance(struct loop *l, u64 ns);
