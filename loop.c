/* loop.c - epoll, guest-clock timers in a binary heap, posted work.
 *
 * Thread: loop_run on the loop thread; loop_post, loop_stop and loop_now_ns from any.  One timerfd
 * carries the earliest deadline; it is re-armed only when that changes, so that a periodic guest timer
 * costs one system call a period.  One eventfd wakes the loop for posted work and stop. */
#include "loop.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { FDS_MAX = 64, TIMERS_MAX = 64, EVENTS = 16 };

struct loop_fd {
	int fd; /* -1: free */
	u32 generation;
	loop_fd_fn fn;
	void *arg;
};

struct loop {
	pthread_mutex_t *lock; /* borrowed: machine.lock */
	bool fake;
	int epfd, timerfd, wakefd;
	/* guard: machine.lock */
	struct loop_fd fds[FDS_MAX];
	struct loop_timer *heap[TIMERS_MAX + 1]; /* 1-based, earliest first */
	u32 timers;
	u64 armed_ns; /* what the timerfd is set to, guest time, or TIMER_OFF */
	bool paused;
	/* guest time = monotonic + offset, or the frozen value while paused; written under the lock,
	 * read by anyone */
	_Atomic u64 clock_offset_ns, frozen_ns;
	_Atomic bool frozen;
	/* atomic */
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

/* Bring the timerfd in line with the heap. */
static void loop_arm(struct loop *l)
{
	u64 next = l->timers && !l->paused ? l->heap[1]->deadline_ns : TIMER_OFF;
	struct itimerspec its = { 0 };

	if (l->fake || next == l->armed_ns)
		return;
	l->armed_ns = next;
	if (next != TIMER_OFF) {
		u64 at = next - l->clock_offset_ns;

		if ((s64)at <= 0)
			at = 1; /* long past; zero would disarm */
		its.it_value.tv_sec = (time_t)(at / NS_PER_SEC);
		its.it_value.tv_nsec = (long)(at % NS_PER_SEC);
	}
	ASSERT(timerfd_settime(l->timerfd, TFD_TIMER_ABSTIME, &its, NULL) == 0);
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
	ASSERT(l->timers < TIMERS_MAX); /* devices are counted at set-up; a guest cannot add timers */
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
	loop_arm(l);
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

/* A stale event (its fd was removed by an earlier callback of the same batch) must not reach a new
 * owner of the slot: the generation tells. */
static u64 loop_fd_key(const struct loop *l, const struct loop_fd *f)
{
	return (u64)f->generation << 32 | (u64)(f - l->fds);
}

int loop_fd_add(struct loop *l, int fd, u32 events, loop_fd_fn fn, void *arg)
{
	struct loop_fd *f = loop_fd_find(l, -1);
	struct epoll_event ev = { .events = events };

	if (!f)
		return -ENOSPC;
	f->generation++;
	ev.data.u64 = loop_fd_key(l, f);
	if (!l->fake && epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	f->fd = fd;
	f->fn = fn;
	f->arg = arg;
	return 0;
}

int loop_fd_mod(struct loop *l, int fd, u32 events)
{
	struct loop_fd *f = loop_fd_find(l, fd);
	struct epoll_event ev = { .events = events };

	if (!f)
		return -ENOENT;
	ev.data.u64 = loop_fd_key(l, f);
	if (!l->fake && epoll_ctl(l->epfd, EPOLL_CTL_MOD, fd, &ev) < 0)
		return -errno;
	return 0;
}

void loop_fd_del(struct loop *l, int fd)
{
	struct loop_fd *f = loop_fd_find(l, fd);

	if (!f)
		return;
	if (!l->fake)
		epoll_ctl(l->epfd, EPOLL_CTL_DEL, fd, NULL);
	f->fd = -1;
	f->generation++;
}

static void loop_dispatch_fd(struct loop *l, const struct epoll_event *ev)
{
	struct loop_fd *f = &l->fds[(u32)ev->data.u64];

	if (f->fd >= 0 && f->generation == ev->data.u64 >> 32)
		f->fn(f->arg, ev->events);
}

/* --- posted work ---------------------------------------------------------------------------- */
static void loop_wake(struct loop *l)
{
	u64 one = 1;

	if (!l->fake)
		(void)!write(l->wakefd, &one, sizeof one); /* EAGAIN: it is awake already */
}

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
static int loop_open_fds(struct loop *l)
{
	struct epoll_event ev = { .events = EPOLLIN };

	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	l->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->epfd < 0 || l->timerfd < 0 || l->wakefd < 0)
		return -errno;
	ev.data.u64 = FDS_MAX; /* past the table: the loop's own */
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->timerfd, &ev) < 0)
		return -errno;
	ev.data.u64 = FDS_MAX + 1;
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->wakefd, &ev) < 0)
		return -errno;
	return 0;
}

struct loop *loop_new(pthread_mutex_t *lock, bool fake, struct err *e)
{
	struct loop *l = calloc(1, sizeof *l);
	int rc;

	if (!l) {
		err_set(e, -ENOMEM, "event loop: out of memory");
		return NULL;
	}
	l->lock = lock;
	l->fake = fake;
	l->armed_ns = TIMER_OFF;
	l->stop_status = -1;
	l->epfd = l->timerfd = l->wakefd = -1;
	for (u32 i = 0; i < FDS_MAX; i++)
		l->fds[i].fd = -1;
	if (fake) {
		l->frozen = true;
		return l;
	}
	l->clock_offset_ns = -monotonic_ns(); /* guest time starts at 0 */
	rc = loop_open_fds(l);
	if (rc < 0) {
		err_set(e, rc, "event loop: cannot open its descriptors (%s)", strerror(-rc));
		loop_free(l);
		return NULL;
	}
	return l;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	if (l->epfd >= 0)
		close(l->epfd);
	if (l->timerfd >= 0)
		close(l->timerfd);
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

static void loop_own_event(struct loop *l, u64 which)
{
	u64 count;

	if (which == FDS_MAX) {
		(void)!read(l->timerfd, &count, sizeof count);
		l->armed_ns = TIMER_OFF; /* it has expired: the next arm must set it */
	} else {
		(void)!read(l->wakefd, &count, sizeof count);
	}
}

int loop_run(struct loop *l)
{
	struct epoll_event ev[EVENTS];

	while (l->stop_status < 0) {
		int n = epoll_wait(l->epfd, ev, EVENTS, -1);

		ASSERT(n >= 0 || errno == EINTR);
		pthread_mutex_lock(l->lock);
		for (int i = 0; i < n; i++) {
			if (ev[i].data.u64 == FDS_MAX || ev[i].data.u64 == FDS_MAX + 1)
				loop_own_event(l, ev[i].data.u64);
			else
				loop_dispatch_fd(l, &ev[i]);
		}
		loop_run_posted(l);
		loop_fire(l);
		pthread_mutex_unlock(l->lock);
	}
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
