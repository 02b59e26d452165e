/* watch.c - see watch.h.  Single thread of the parent process, under filter_watch.
 *
 * A PID namespace begins with a fork, so there have to be two processes; this one also sees ends
 * that nobody inside can report: SIGKILL, a fault, a filter. */
#include "watch.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIGNAL_STATUS = 128, SYS_SECCOMP_CODE = 1 };
extern const char __ehdr_start[] __attribute__((visibility("hidden")));

u64 watch_offset(u64 rip)
{
	return rip - (u64)__ehdr_start;
}

static void watch_send(pid_t child, int sig, int value)
{
	siginfo_t si = { .si_signo = sig, .si_code = SI_QUEUE };

	si.si_value.sival_int = value;
	syscall(SYS_rt_sigqueueinfo, child, sig, &si);
}

/* The child's status when it has ended; meanwhile its signals. */
static int watch_wait(pid_t child, const sigset_t *all)
{
	int status, sig;

	for (;;) {
		sig = (int)syscall(SYS_rt_sigtimedwait, all, NULL, NULL, 8L);
		switch (sig) {
		case SIGCHLD:
			if (syscall(SYS_wait4, child, &status, WNOHANG, NULL) == child)
				return status;
			break;
		case SIGINT:
		case SIGTERM:
		case SIGHUP:
		case SIGTSTP:
		case SIGCONT: watch_send(child, WATCH_SIGNAL, sig); break;
		case -1:
		case SIGPIPE:
		case SIGXFSZ:
		case SIGWINCH:
		case SIGURG:
		case SIGTTIN:
		case SIGTTOU: break;
		default: /* what ends a process by default ends both */
			watch_send(child, SIGKILL, 0);
			while (syscall(SYS_wait4, child, &status, 0, NULL) < 0 && errno == EINTR)
				;
			return sig;
		}
	}
}

static int watch_explain(int status, const struct witness *w)
{
	int sig = WTERMSIG(status);

	if (sig == SIGSYS && w->code == SYS_SECCOMP_CODE)
		log_err("sandbox", WITNESS_TEXT ", which seccomp/policy.def does not allow it; "
			"please report this line; --sandbox log shows more",
			filter_thread_name(w->thread),
			w->nr, (unsigned long long)w->arg[0], (unsigned long long)w->arg[1],
			(unsigned long long)w->arg[2], (unsigned long long)watch_offset(w->rip));
	else
		log_err("machine", "the guest's process was ended by signal %d%s", sig,
			sig == SIGKILL ? " (out of memory?)" : "");
	return sig == SIGSYS ? EXIT_SANDBOX : SIGNAL_STATUS + sig;
}

_Noreturn void watch(pid_t child, const struct witness *w, void (*restore)(void))
{
	sigset_t all;
	int status;

	sigfillset(&all);
	syscall(SYS_close_range, STDERR_FILENO + 1, ~0u, 0);
	sandbox_enter(FILTER_WATCH);
	status = watch_wait(child, &all);
	restore();
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : watch_explain(status, w));
}
