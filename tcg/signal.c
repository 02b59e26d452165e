/* signal.c - SIGFPE, SIGSEGV, SIGBUS and SIGILL raised by generated code, see signal.h.
 *
 * The handlers run on an alternate stack and with a fresh FP state; the kernel keeps the
 * interrupted one, in which MXCSR or FSW already show the exception, in the signal frame and puts
 * it back on return.  Handlers touch nothing but the guard and the frame.  A fault that is not ours
 * goes to whoever handled the signal before, at last to the default action, after fatal_hook.
 * Source: Linux arch/x86/kernel/traps.c for which exception makes which signal. */
#include "signal.h"

#include <pthread.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>

/* Vectors that a stub may cause, as the frame gives them: the processor's numbers. */
enum { TRAP_DE = 0, TRAP_UD = 6, TRAP_GP = 13, TRAP_MF = 16, TRAP_XM = 19 };

static const int signals[] = { SIGFPE, SIGSEGV, SIGBUS, SIGILL };
static struct sigaction old_action[ARRAY_LEN(signals)];
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int install_error;
static __thread struct stub_guard *current;

/* #PF is not among them: an address in a stub was checked before, so it can only be a bug. */
static bool vector_is_guests(u64 vector)
{
	return vector == TRAP_UD || vector == TRAP_GP || vector == TRAP_MF || vector == TRAP_XM;
}

/* The same fault once more, inside its handler, where it is blocked: the kernel ends the process
 * then.  Nothing else would do without a system call. */
static void signal_die(int sig)
{
	if (fatal_hook)
		fatal_hook();
	if (sig == SIGFPE)
		__asm__ volatile("xorl %%ecx, %%ecx; divl %%ecx" : : : "eax", "ecx", "edx");
	if (sig == SIGILL)
		__builtin_trap();
	__asm__ volatile("hlt");
}

static void signal_chain(int sig, siginfo_t *si, void *ctx)
{
	const struct sigaction *old = old_action;

	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		if (signals[i] == sig)
			old = &old_action[i];
	if (old->sa_flags & SA_SIGINFO)
		old->sa_sigaction(sig, si, ctx);
	else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)
		old->sa_handler(sig);
	else
		signal_die(sig);
}

static bool in_trans(const struct stub_guard *g, u64 rip)
{
	return rip - (u64)g->trans < g->trans_len;
}

static void signal_fault(int sig, siginfo_t *si, void *ctx)
{
	greg_t *regs = ((ucontext_t *)ctx)->uc_mcontext.gregs;
	struct stub_guard *g = current;

	/* si_code <= 0 is a kill(): then the frame's vector is of an older fault. */
	if (g && si->si_code > 0 && in_trans(g, (u64)regs[REG_RIP]) &&
	    (vector_is_guests((u64)regs[REG_TRAPNO]) || regs[REG_TRAPNO] == TRAP_DE)) {
		g->trap_rip = (u64)regs[REG_RIP];
		g->trap = (u8)regs[REG_TRAPNO];
		regs[REG_RIP] = (greg_t)g->trans_resume;
		return;
	}
	if (!g || si->si_code <= 0 || (u64)regs[REG_RIP] - (u64)g->code >= g->len ||
	    !vector_is_guests((u64)regs[REG_TRAPNO])) {
		signal_chain(sig, si, ctx);
		return;
	}
	g->trap = (u8)regs[REG_TRAPNO];
	regs[REG_RIP] = (greg_t)g->resume;
}

static void signal_install(void)
{
	struct sigaction sa = { .sa_sigaction = signal_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	sigemptyset(&sa.sa_mask);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		if (sigaction(signals[i], &sa, &old_action[i]) < 0)
			install_error = -errno;
}

int signal_guard_init(struct stub_guard *g, struct err *e)
{
	pthread_once(&once, signal_install);
	if (install_error)
		return err_set(e, install_error, "fault handlers: sigaction failed: %s",
			       strerror(-install_error));
	g->stack_bytes = ALIGN_UP(getauxval(AT_MINSIGSTKSZ) + 32 * KIB, PAGE_SIZE);
	g->stack = mmap(NULL, g->stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
	if (g->stack == MAP_FAILED) {
		g->stack = NULL;
		return err_set(e, -errno, "signal stack: cannot allocate %llu bytes",
			       (unsigned long long)g->stack_bytes);
	}
	return 0;
}

void signal_guard_free(struct stub_guard *g)
{
	const stack_t none = { .ss_flags = SS_DISABLE };

	if (current == g) {
		current = NULL;
		sigaltstack(&none, NULL);
	}
	if (g->stack)
		munmap(g->stack, g->stack_bytes);
	g->stack = NULL;
}

void signal_guard_enter(struct stub_guard *g)
{
	const stack_t ss = { .ss_sp = g->stack, .ss_size = g->stack_bytes };

	sigaltstack(&ss, NULL);
	current = g;
}

struct stub_guard *signal_guard_current(void)
{
	return current;
}
