/* host_run.c - single-stepping by the trap flag: an INT3 enters the signal handler, which swaps the
 * interrupted registers for the test's; the next signal swaps them back.  Apart from decode.h
 * because the C library's ucontext.h and decode.h both want the name REG_RIP. */
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "host_run.h"

#define CODE ((u8 *)0x70000000)
#define DATA ((u8 *)0x60000000)
enum { DATA_BYTES = 1 << 20, FL_FIXED = 2, FL_TF = 1 << 8, FL_IF = 1 << 9, MXCSR_RESET = 0x1f80,
       FCW_RESET = 0x37f };

static volatile bool inside;
static gregset_t outside;
static struct host_result result;

static void on_signal(int sig, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;
	greg_t *g = uc->uc_mcontext.gregs;

	if (inside) {
		result.outcome = sig == SIGTRAP ? HOST_RAN : sig == SIGILL ? HOST_UD : HOST_FAULT;
		result.len = (unsigned)(g[REG_RIP] - (greg_t)CODE);
		memcpy(g, outside, sizeof outside);
		uc->uc_mcontext.fpregs->mxcsr = MXCSR_RESET;
		uc->uc_mcontext.fpregs->cwd = FCW_RESET;
		uc->uc_mcontext.fpregs->swd = 0;
	} else {
		memcpy(outside, g, sizeof outside);
		for (int r = REG_R8; r <= REG_RSP; r++)
			g[r] = (greg_t)(DATA + DATA_BYTES / 2);
		g[REG_RIP] = (greg_t)CODE;
		g[REG_EFL] = FL_FIXED | FL_TF | FL_IF;
	}
	inside = !inside;
}

bool host_run_init(void)
{
	static u8 stack[64 << 10];
	static const int signals[] = { SIGTRAP, SIGILL, SIGSEGV, SIGBUS, SIGFPE };
	struct sigaction sa = { .sa_sigaction = on_signal,
				.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
	void *code = mmap(CODE, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0);
	void *data = mmap(DATA, DATA_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);

	sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof stack }, NULL);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		sigaction(signals[i], &sa, NULL);
	return code == CODE && data == DATA;
}

struct host_result host_run(const u8 insn[15])
{
	memcpy(CODE, insn, 15);
	__asm__ volatile("int3" ::: "memory");
	return result;
}
