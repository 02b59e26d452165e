/* without.c - takes the place of seccomp/filter.c in a mvm for tests.
 *
 * MVM_WITHOUT=THREAD:CALL[:VALUE] leaves that row of seccomp/policy.def out of that thread's
 * program: for the row to be needed there has to be a run that dies without it.  The clock is read
 * by a system call, as on a host whose clock source wants that.  MVM_BUG: an ASSERT fails once the
 * guest runs. */
#define filter_program filter_program_whole
#include "../seccomp/filter.c"
#undef filter_program

#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "seccomp_without.h" /* generated: without[] */

static bool bug;

int __wrap_clock_gettime(clockid_t clock, struct timespec *t);

int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
	ASSERT(!bug);
	return (int)syscall(SYS_clock_gettime, clock, t);
}

const struct sock_fprog *filter_program(enum filter_thread t)
{
	static struct sock_fprog prog; /* all threads that ask for it write the same */
	const char *row = getenv("MVM_WITHOUT");

	bug = t == FILTER_LOOP && getenv("MVM_BUG"); /* the last thread to ask */
	for (size_t i = 0; row && i < ARRAY_LEN(without); i++)
		if (without[i].thread == t && !strcmp(without[i].row, row)) {
			prog = (struct sock_fprog){ without[i].len,
						    (struct sock_filter *)without[i].code };
			return &prog;
		}
	return filter_program_whole(t);
}
