/* latency.c [MILLISECONDS]: how late does a sleeping thread wake?  One thread for each CPU, bound to it, with
 * real-time priority if it may, sleeps until a moment a millisecond further each time, as cyclictest does.  Prints a
 * line for each CPU. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CPUS_MAX = 64, STEP_NS = 1000000 };

static int rounds = 2000;

struct sleeper {
	pthread_t thread;
	int cpu, n;
	long long sum;
	int *late; /* microseconds, each time */
};
static struct sleeper sleepers[CPUS_MAX];

static long long ns(const struct timespec *t)
{
	return t->tv_sec * 1000000000ll + t->tv_nsec;
}

static void *sleeper(void *arg)
{
	struct sleeper *s = arg;
	struct sched_param high = { .sched_priority = 80 };
	struct timespec due, now;
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(s->cpu, &one);
	pthread_setaffinity_np(pthread_self(), sizeof one, &one);
	pthread_setschedparam(pthread_self(), SCHED_FIFO, &high);
	clock_gettime(CLOCK_MONOTONIC, &due);
	for (s->n = 0; s->n < rounds; s->n++) {
		due.tv_nsec += STEP_NS;
		if (due.tv_nsec >= 1000000000) {
			due.tv_nsec -= 1000000000;
			due.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
		clock_gettime(CLOCK_MONOTONIC, &now);
		s->late[s->n] = (int)((ns(&now) - ns(&due)) / 1000);
		s->sum += s->late[s->n];
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

int main(int argc, char **argv)
{
	int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);

	if (argc > 1)
		rounds = atoi(argv[1]);
	if (cpus > CPUS_MAX || rounds < 100)
		return 1;
	for (int i = 0; i < cpus; i++) {
		sleepers[i].cpu = i;
		sleepers[i].late = calloc((size_t)rounds, sizeof(int));
		if (!sleepers[i].late || pthread_create(&sleepers[i].thread, NULL, sleeper, &sleepers[i]))
			return 1;
	}
	for (int i = 0; i < cpus; i++) {
		struct sleeper *s = &sleepers[i];

		pthread_join(s->thread, NULL);
		qsort(s->late, (size_t)s->n, sizeof(int), compare);
		printf("cpu%d wakes late by us: min %d, median %d, mean %lld, 99%% %d, max %d\n", i, s->late[0],
		       s->late[s->n / 2], s->sum / s->n, s->late[s->n * 99ll / 100], s->late[s->n - 1]);
	}
	return 0;
}
