/* trace.c - time stamps of the start, counted from the process's own start as the kernel knows it
 * (/proc/self/stat field 22 has only clock ticks, so the first mark is main's first statement). */
#include "trace.h"

#include <time.h>

enum { MARKS_MAX = 24 };

static struct mark {
	const char *name;
	u64 at_ns;
} marks[MARKS_MAX];
static u32 marks_n;

static u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * NS_PER_SEC + (u64)ts.tv_nsec;
}

void trace_mark(const char *name)
{
	if (marks_n < MARKS_MAX)
		marks[marks_n++] = (struct mark){ name, now_ns() };
}

void trace_print(void)
{
	for (u32 i = 1; i < marks_n; i++) {
		u64 total_us = (marks[i].at_ns - marks[0].at_ns) / 1000;
		u64 step_us = (marks[i].at_ns - marks[i - 1].at_ns) / 1000;

		log_info("boot-trace", "%8llu us  +%llu us  %s", (unsigned long long)total_us,
			 (unsigned long long)step_us, marks[i].name);
	}
}

void trace_guest_mark(void)
{
	log_limited(LOG_INFO, LOG_GUEST_MOST, "boot-trace",
		    "guest ready %llu us after process start",
		    (unsigned long long)((now_ns() - marks[0].at_ns) / 1000));
}
