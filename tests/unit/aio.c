/* aio.c - worker threads: order, drain, cancel. */
#include "../../host/aio.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <unistd.h>

#include "../test.h"

enum { N = 64 };

struct job {
	struct aio_req req; /* first */
	u32 nr;
	bool ran;
};

static struct job job[N];
static u32 begun, reported, last_list;
static sem_t go;
static bool hold;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct loop *loop;

static void run(struct aio_req *r)
{
	__atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&hold, __ATOMIC_SEQ_CST))
		sem_wait(&go);
	container_of(r, struct job, req)->ran = true;
}

static void done(void *arg, struct aio_req *list)
{
	OK(arg == job);
	for (last_list = 0; list; list = list->next) {
		OK(container_of(list, struct job, req)->ran);
		last_list++;
	}
	reported += last_list;
}

static struct aio *open_aio(u32 workers)
{
	struct err e;
	struct aio *a;

	sem_init(&go, 0, 0);
	loop = loop_new(&lock, true, &e);
	a = aio_new(loop, done, job, "disk0", &e);
	OK(a && aio_start(a, workers, "disk0", &e) == 0);
	OK(a);
	return a;
}

static void submit(struct aio *a, u32 n)
{
	for (u32 i = 0; i < n; i++) {
		job[i] = (struct job){ .req.work = run, .nr = i };
		aio_submit(a, &job[i].req);
	}
}

static u32 count_begun(void)
{
	return __atomic_load_n(&begun, __ATOMIC_SEQ_CST);
}

static void close_aio(struct aio *a)
{
	aio_free(a);
	loop_advance(loop, 0);
	loop_free(loop);
}

TEST(aio_reports_every_request_once_on_the_loop)
{
	struct aio *a = open_aio(3);

	for (int round = 0; round < 50; round++) {
		reported = 0;
		submit(a, N);
		for (int i = 0; i < 5000 && reported < N; i++) {
			usleep(100);
			loop_advance(loop, 0);
		}
		EQ(reported, N);
	}
	close_aio(a);
}

TEST(aio_reports_nothing_off_the_loop)
{
	struct aio *a = open_aio(2);

	submit(a, N);
	for (int i = 0; i < 5000 && count_begun() < N; i++)
		usleep(100);
	EQ(reported, 0);
	close_aio(a);
	EQ(reported, 0);
}

TEST(aio_drain_runs_and_reports_everything_here)
{
	struct aio *a = open_aio(2);

	submit(a, N);
	aio_drain(a);
	EQ(reported, N);
	EQ(last_list, N); /* in one list */
	aio_drain(a);
	loop_advance(loop, 0);
	EQ(reported, N);
	close_aio(a);
}

static void *release_later(void *arg)
{
	usleep(20000);
	for (int i = 0; i < N; i++)
		sem_post(&go);
	return NULL;
}

TEST(aio_cancel_waits_for_those_that_run_and_forgets_the_others)
{
	struct aio *a = open_aio(2);
	pthread_t t;
	u32 ran = 0;

	hold = true;
	submit(a, N);
	while (count_begun() < 2)
		usleep(100);
	OK(pthread_create(&t, NULL, release_later, NULL) == 0);
	aio_cancel(a);
	for (u32 i = 0; i < N; i++)
		ran += job[i].ran;
	EQ(ran, 2);
	pthread_join(t, NULL);
	usleep(1000);
	loop_advance(loop, 0);
	EQ(count_begun(), 2);
	EQ(reported, 0);
	__atomic_store_n(&hold, false, __ATOMIC_SEQ_CST);
	submit(a, N); /* and goes on as if nothing had been */
	aio_drain(a);
	EQ(reported, N);
	close_aio(a);
}

TEST(aio_workers_take_no_signals)
{
	struct aio *a = open_aio(2);
	sigset_t before;

	pthread_sigmask(SIG_SETMASK, NULL, &before);
	OK(!sigismember(&before, SIGTERM)); /* ours is as it was */
	close_aio(a);
}
