/* loop.c - descriptors, guest-clock timers in a binary heap, posted work.
 *
 * Thread: loop_run on the loop thread; loop_post, loop_stop and loop_now_ns from any.  All waiting
 * is one ppoll, which is given the earliest deadline: what other threads add or arm is only noted,
 * and an eventfd ends the wait if it cannot stand.  So a vCPU's thread needs one system call here,
 * write, and that only while the loop sleeps. */
#include "loop.h"

#include <stdatomic.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { FDS_MAX = 64, TIMERS_MAX = 64 };

struct loop_fd {
	int fd; /* -1: free */
	u32 events; /* POLL*; 0: quiet */
	u32 generation;
	loop_fd_fn fn;
	void *arg;
};

struct loop {
	pthread_mutex_t *lock; /* borrowed: machine.lock */
	bool fake;
	_Atomic(pthread_t) thread; /* in loop_run */
	int wakefd;
	/* guard: machine.lock */
	struct loop_fd fds[FDS_MAX];
	struct loop_timer *heap[TIMERS_MAX + 1]; /* 1-based, earliest first */
	u32 timers;
	u64 armed_ns; /* the deadline that the loop sleeps until, guest time, or TIMER_OFF */
	bool paused;
	/* guest time = monotonic + offset, or the frozen value while paused; written under the
	 * lock, read by anyone */
	_Atomic u64 clock_offset_ns, frozen_ns;
	_Atomic bool frozen;
	/* atomic */
	/* in ppoll, or about to be, and nobody has woken it yet */
	_Atomic bool sleeping;
	_Atomic(struct loop_work *) posted; /* newest first */
	_Atomic int stop_status;            /* -1: run on */
};

static u64 monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * NS_PER_SEC + (u64)ts.tv_nsec;
}

u64 loop_now_ns(const struct loop *l)
{
	if (atomic_load_explicit(&l->frozen, memory_order_acquire))
		return atomic_load_explicit(&l->frozen_ns, memory_order_relaxed);
	return monotonic_ns() + atomic_load_explicit(&l->clock_offset_ns, memory_order_relaxed);
}

/* --- timers --------------------------------------------------------------------------------- */
static void heap_put(struct loop *l, u32 pos, struct loop_timer *t)
{
	l->heap[pos] = t;
	t->heap_pos = pos;
}

static void heap_up(struct loop *l, u32 pos, struct loop_timer *t)
{
	for (; pos > 1 && l->heap[pos / 2]->deadline_ns > t->deadline_ns; pos /= 2)
		heap_put(l, pos, l->heap[pos / 2]);
	heap_put(l, pos, t);
}

static void heap_down(struct loop *l, u32 pos, struct loop_timer *t)
{
	for (u32 child; (child = pos * 2) <= l->timers; pos = child) {
		if (child < l->timers &&
		    l->heap[child + 1]->deadline_ns < l->heap[child]->deadline_ns)
			child++;
		if (l->heap[child]->deadline_ns >= t->deadline_ns)
			break;
		heap_put(l, pos, l->heap[child]);
	}
	heap_put(l, pos, t);
}

static void heap_remove(struct loop *l, struct loop_timer *t)
{
	u32 pos = t->heap_pos;
	struct loop_timer *last = l->heap[l->timers--];

	t->heap_pos = 0;
	if (last == t)
		return;
	heap_up(l, pos, last);
	heap_down(l, last->heap_pos, last);
}

/* The loop's sleep ends; if it does not sleep, it will look before it does. */
static void loop_wake(struct loop *l)
{
	u64 one = 1;

	if (!l->fake && atomic_exchange(&l->sleeping, false))
		(void)!write(l->wakefd, &one, sizeof one); /* EAGAIN: it is awake already */
}

static u64 loop_next_ns(const struct loop *l)
{
	return l->timers && !l->paused ? l->heap[1]->deadline_ns : TIMER_OFF;
}

/* The heap has changed.  A deadline that is gone costs one vain look at its time. */
static void loop_arm(struct loop *l)
{
	if (loop_next_ns(l) < l->armed_ns)
		loop_wake(l);
}

void timer_init(struct loop_timer *t, struct loop *l, void (*fn)(void *), void *arg)
{
	*t = (struct loop_timer){ .fn = fn, .arg = arg, .loop = l, .deadline_ns = TIMER_OFF };
}

void timer_arm(struct loop_timer *t, u64 deadline_ns)
{
	struct loop *l = t->loop;

	if (deadline_ns == TIMER_OFF)
		return timer_cancel(t);
	if (t->heap_pos)
		heap_remove(l, t);
	/* devices are counted at set-up; a guest cannot add timers */
	ASSERT(l->timers < TIMERS_MAX);
	t->deadline_ns = deadline_ns;
	heap_up(l, ++l->timers, t);
	loop_arm(l);
}

void timer_cancel(struct loop_timer *t)
{
	if (t->heap_pos) {
		heap_remove(t->loop, t);
		loop_arm(t->loop);
	}
	t->deadline_ns = TIMER_OFF;
}

static void loop_fire(struct loop *l)
{
	while (l->timers && !l->paused) {
		struct loop_timer *t = l->heap[1];

		if (t->deadline_ns > loop_now_ns(l))
			break;
		heap_remove(l, t);
		t->deadline_ns = TIMER_OFF;
		t->fn(t->arg);
	}
}

/* --- the clock ------------------------------------------------------------------------------ */
void loop_clock_pause(struct loop *l)
{
	if (l->paused)
		return;
	l->frozen_ns = loop_now_ns(l);
	atomic_store_explicit(&l->frozen, true, memory_order_release);
	l->paused = true;
	loop_arm(l);
}

void loop_clock_resume(struct loop *l)
{
	if (!l->paused)
		return;
	if (!l->fake) {
		l->clock_offset_ns = l->frozen_ns - monotonic_ns();
		atomic_store_explicit(&l->frozen, false, memory_order_release);
	}
	l->paused = false;
	loop_arm(l);
}

void loop_clock_set(struct loop *l, u64 now_ns)
{
	ASSERT(l->paused || l->fake);
	l->frozen_ns = now_ns;
}

/* --- file descriptors ----------------------------------------------------------------------- */
static struct loop_fd *loop_fd_find(struct loop *l, int fd)
{
	for (u32 i = 0; i < FDS_MAX; i++)
		if (l->fds[i].fd == fd)
			return &l->fds[i];
	return NULL;
}

int loop_fd_add(struct loop *l, int fd, u32 events, loop_fd_fn fn, void *arg)
{
	struct loop_fd *f = loop_fd_find(l, -1);

	if (!f)
		return -ENOSPC;
	*f = (struct loop_fd){ fd, events, f->generation + 1, fn, arg };
	loop_wake(l);
	return 0;
}

void loop_fd_del(struct loop *l, int fd)
{
	struct loop_fd *f = loop_fd_find(l, fd);

	if (f)
		f->fd = -1;
}

/* --- posted work ---------------------------------------------------------------------------- */
void loop_post(struct loop *l, struct loop_work *w)
{
	if (__atomic_exchange_n(&w->queued, 1, __ATOMIC_ACQ_REL))
		return;
	struct loop_work *head = atomic_load_explicit(&l->posted, memory_order_relaxed);

	do
		w->next = head;
	while (!atomic_compare_exchange_weak_explicit(&l->posted, &head, w, memory_order_acq_rel,
						      memory_order_relaxed));
	loop_wake(l);
}

static void loop_run_posted(struct loop *l)
{
	struct loop_work *w = atomic_exchange_explicit(&l->posted, NULL, memory_order_acq_rel);
	struct loop_work *fifo = NULL;

	while (w) {
		struct loop_work *next = w->next;

		w->next = fifo;
		fifo = w;
		w = next;
	}
	while (fifo) {
		w = fifo;
		fifo = w->next;
		/* From here on it may be posted again, even by its own function. */
		__atomic_store_n(&w->queued, 0, __ATOMIC_RELEASE);
		w->fn(w->arg);
	}
}

/* --- life ----------------------------------------------------------------------------------- */
struct loop *loop_new(pthread_mutex_t *lock, bool fake, struct err *e)
{
	struct loop *l = calloc(1, sizeof *l);

	if (!l) {
		err_set(e, -ENOMEM, "event loop: out of memory");
		return NULL;
	}
	l->lock = lock;
	l->fake = fake;
	l->armed_ns = TIMER_OFF;
	l->stop_status = -1;
	l->wakefd = -1;
	for (u32 i = 0; i < FDS_MAX; i++)
		l->fds[i].fd = -1;
	if (fake) {
		l->frozen = true;
		return l;
	}
	l->clock_offset_ns = -monotonic_ns(); /* guest time starts at 0 */
	l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wakefd < 0) {
		err_set(e, -errno, "event loop: cannot open its descriptor (%s)", strerror(errno));
		loop_free(l);
		return NULL;
	}
	return l;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	if (l->wakefd >= 0)
		close(l->wakefd);
	free(l);
}

void loop_stop(struct loop *l, int status)
{
	int running = -1;

	atomic_compare_exchange_strong(&l->stop_status, &running, status);
	loop_wake(l);
}

/* What one ppoll waits for.  A descriptor may change hands meanwhile, hence the generations. */
struct loop_wait {
	struct pollfd fd[FDS_MAX + 1]; /* wakefd comes last */
	struct {
		u32 slot, generation;
	} of[FDS_MAX];
	u32 n;
};

static void loop_wait_for(struct loop *l, struct loop_wait *w)
{
	w->n = 0;
	for (u32 i = 0; i < FDS_MAX; i++) {
		const struct loop_fd *f = &l->fds[i];

		if (f->fd < 0 || !f->events)
			continue;
		w->of[w->n].slot = i;
		w->of[w->n].generation = f->generation;
		w->fd[w->n++] = (struct pollfd){ .fd = f->fd, .events = (short)f->events };
	}
	w->fd[w->n] = (struct pollfd){ .fd = l->wakefd, .events = POLLIN };
	l->armed_ns = loop_next_ns(l);
	/* Before posted is looked at, and loop_post does the reverse; and under the lock, so that
	 * nobody arms or adds between the look above and this. */
	atomic_store(&l->sleeping, true);
}

/* Without the lock. */
static void loop_sleep(struct loop *l, struct loop_wait *w, u64 deadline_ns)
{
	u64 now_ns = loop_now_ns(l), count;
	u64 left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
	struct timespec ts;
	int n;

	if (atomic_load(&l->posted) || atomic_load(&l->stop_status) >= 0)
		left_ns = 0;
	ts = (struct timespec){ (time_t)(left_ns / NS_PER_SEC), (long)(left_ns % NS_PER_SEC) };
	n = ppoll(w->fd, w->n + 1, &ts, NULL);
	ASSERT(n >= 0 || errno == EINTR);
	atomic_store(&l->sleeping, false);
	if (n > 0 && w->fd[w->n].revents)
		(void)!read(l->wakefd, &count, sizeof count);
	if (n <= 0)
		w->n = 0;
}

static void loop_dispatch(struct loop *l, const struct loop_wait *w)
{
	for (u32 i = 0; i < w->n; i++) {
		const struct loop_fd *f = &l->fds[w->of[i].slot];

		if (w->fd[i].revents && f->fd >= 0 && f->generation == w->of[i].generation)
			f->fn(f->arg, (u32)w->fd[i].revents);
	}
}

bool loop_is_mine(const struct loop *l)
{
	return l->fake || l->thread == pthread_self();
}

int loop_run(struct loop *l)
{
	struct loop_wait w;

	l->thread = pthread_self();
	pthread_mutex_lock(l->lock);
	while (l->stop_status < 0) {
		loop_wait_for(l, &w);
		pthread_mutex_unlock(l->lock);
		loop_sleep(l, &w, l->armed_ns);
		pthread_mutex_lock(l->lock);
		loop_dispatch(l, &w);
		loop_run_posted(l);
		loop_fire(l);
	}
	pthread_mutex_unlock(l->lock);
	return l->stop_status;
}

void loop_advance(struct loop *l, u64 ns)
{
	u64 end = l->frozen_ns + ns;

	ASSERT(l->fake);
	loop_run_posted(l);
	while (l->timers && l->heap[1]->deadline_ns <= end) {
		if (l->heap[1]->deadline_ns > l->frozen_ns)
			l->frozen_ns = l->heap[1]->deadline_ns;
		loop_fire(l);
		loop_run_posted(l);
	}
	l->frozen_ns = end;
}
