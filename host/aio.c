/* aio.c - worker threads with one queue in and one list out.
 *
 * Threads: submit, drain, cancel and free with machine.lock held; workers take the queue's own
 * lock and never machine.lock, so waiting for them under it (drain, cancel) cannot dead-lock.
 * Workers are started together rather than on demand: a sandboxed process cannot start any
 * later. */
#include "aio.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "../seccomp/sandbox.h"

enum { AIO_WORKERS_MAX = 16, AIO_STACK = 128 << 10 };

struct aio_list {
	struct aio_req *head, **tail;
};

struct aio {
	/* const after new */
	struct loop *loop; /* borrowed */
	void (*done_fn)(void *arg, struct aio_req *list);
	void *arg;
	struct loop_work work;
	pthread_t worker[AIO_WORKERS_MAX];
	u32 workers;
	/* guard: machine.lock */
	bool dead; /* freed while `work` was posted: aio_report frees it */
	/* guard: lock */
	pthread_mutex_t lock;
	pthread_cond_t more, idle;
	struct aio_list todo, done;
	u32 ready, running;
	bool quit;
};

static void list_init(struct aio_list *l)
{
	l->head = NULL;
	l->tail = &l->head;
}

static void list_add(struct aio_list *l, struct aio_req *r)
{
	r->next = NULL;
	*l->tail = r;
	l->tail = &r->next;
}

static struct aio_req *list_take_all(struct aio_list *l)
{
	struct aio_req *head = l->head;

	list_init(l);
	return head;
}

static void *aio_worker(void *arg)
{
	struct aio *a = arg;

	sandbox_enter(FILTER_DISK);
	pthread_mutex_lock(&a->lock);
	a->ready++;
	pthread_cond_signal(&a->idle);
	for (;;) {
		while (!a->todo.head && !a->quit)
			pthread_cond_wait(&a->more, &a->lock);
		struct aio_req *r = a->todo.head;

		if (!r)
			break;
		a->todo.head = r->next;
		if (!r->next)
			a->todo.tail = &a->todo.head;
		a->running++;
		pthread_mutex_unlock(&a->lock);
		r->work(r);
		pthread_mutex_lock(&a->lock);
		list_add(&a->done, r);
		if (--a->running == 0 && !a->todo.head)
			pthread_cond_signal(&a->idle);
		loop_post(a->loop, &a->work);
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

/* On the loop thread. */
static void aio_report(void *arg)
{
	struct aio *a = arg;
	struct aio_req *list;

	if (a->dead) {
		free(a);
		return;
	}
	pthread_mutex_lock(&a->lock);
	list = list_take_all(&a->done);
	pthread_mutex_unlock(&a->lock);
	if (list)
		a->done_fn(a->arg, list);
}

void aio_submit(struct aio *a, struct aio_req *r)
{
	pthread_mutex_lock(&a->lock);
	list_add(&a->todo, r);
	pthread_cond_signal(&a->more);
	pthread_mutex_unlock(&a->lock);
}

static void aio_wait_idle(struct aio *a)
{
	while (a->running || a->todo.head)
		pthread_cond_wait(&a->idle, &a->lock);
}

void aio_drain(struct aio *a)
{
	pthread_mutex_lock(&a->lock);
	aio_wait_idle(a);
	pthread_mutex_unlock(&a->lock);
	aio_report(a);
}

void aio_cancel(struct aio *a)
{
	pthread_mutex_lock(&a->lock);
	list_init(&a->todo);
	aio_wait_idle(a);
	list_init(&a->done);
	pthread_mutex_unlock(&a->lock);
}

/* Signals are the main thread's business, so the workers are born with all of them blocked but the
 * sandbox's. */
static int aio_start_workers(struct aio *a, u32 workers)
{
	pthread_attr_t attr;
	sigset_t all, before;
	int rc = 0;

	sigfillset(&all);
	sigdelset(&all, SIGSYS);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, AIO_STACK);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (a->workers < workers && rc == 0) {
		rc = pthread_create(&a->worker[a->workers], &attr, aio_worker, a);
		a->workers += rc == 0;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -rc;
}

struct aio *aio_new(struct loop *loop, void (*done)(void *arg, struct aio_req *list), void *arg,
		    const char *who, struct err *e)
{
	struct aio *a = calloc(1, sizeof *a);

	if (!a) {
		err_set(e, -ENOMEM, "%s: out of memory", who);
		return NULL;
	}
	a->loop = loop;
	a->done_fn = done;
	a->arg = arg;
	a->work.fn = aio_report;
	a->work.arg = a;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->more, NULL);
	pthread_cond_init(&a->idle, NULL);
	list_init(&a->todo);
	list_init(&a->done);
	return a;
}

int aio_start(struct aio *a, u32 workers, const char *who, struct err *e)
{
	int rc;

	ASSERT(workers && workers <= AIO_WORKERS_MAX && !a->workers);
	rc = aio_start_workers(a, workers);
	if (rc < 0)
		return err_set(e, rc, "%s: cannot start a worker thread (%s)", who, strerror(-rc));
	pthread_mutex_lock(&a->lock);
	while (a->ready < workers)
		pthread_cond_wait(&a->idle, &a->lock);
	pthread_mutex_unlock(&a->lock);
	return 0;
}

void aio_free(struct aio *a)
{
	if (!a)
		return;
	aio_cancel(a);
	pthread_mutex_lock(&a->lock);
	a->quit = true;
	pthread_cond_broadcast(&a->more);
	pthread_mutex_unlock(&a->lock);
	for (u32 i = 0; i < a->workers; i++)
		pthread_join(a->worker[i], NULL);
	pthread_mutex_destroy(&a->lock);
	pthread_cond_destroy(&a->more);
	pthread_cond_destroy(&a->idle);
	/* The loop may still hold our node; then the loop's call is the last that needs us. */
	a->dead = true;
	if (!__atomic_load_n(&a->work.queued, __ATOMIC_ACQUIRE))
		free(a);
}
