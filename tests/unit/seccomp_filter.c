/* The seccomp programs as data: run by a small classic-BPF interpreter of our own over every system
 * call number and compared with policy.def row by row; then by the real kernel. */
#include <linux/audit.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "../../seccomp/filter.h"
#include "../test.h"

enum { LOOP = 1, VCPU = 2, DISK = 4, ALL = 7, SYSCALLS_MAX = 512 };

static const struct row {
	int nr;
	unsigned threads;
	int arg;
	u64 mask, value;
} rows[] = {
#define SYS(name, threads, why) { SYS_##name, threads, -1, 0, 0 },
#define SYS_ARG(name, threads, arg, mask, value, why) { SYS_##name, threads, arg, mask, value },
#include "../../seccomp/policy.def"
#undef SYS
#undef SYS_ARG
};

/* The instructions that libseccomp emits, over struct seccomp_data.  Source: seccomp(2), bpf_jit.
 */
static u32 bpf_run(const struct sock_fprog *p, const struct seccomp_data *d)
{
	u32 a = 0;

	for (u32 pc = 0; pc < p->len; pc++) {
		const struct sock_filter *f = &p->filter[pc];

		switch (f->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			OK(f->k % 4 == 0 && f->k + 4 <= sizeof *d);
			a = ld32((const u8 *)d + f->k);
			break;
		case BPF_ALU | BPF_AND | BPF_K: a &= f->k; break;
		case BPF_JMP | BPF_JA: pc += f->k; break;
		case BPF_JMP | BPF_JEQ | BPF_K: pc += a == f->k ? f->jt : f->jf; break;
		case BPF_JMP | BPF_JGT | BPF_K: pc += a > f->k ? f->jt : f->jf; break;
		case BPF_JMP | BPF_JGE | BPF_K: pc += a >= f->k ? f->jt : f->jf; break;
		case BPF_RET | BPF_K: return f->k;
		default: test_fail(__FILE__, __LINE__, "instruction %u: code %#x", pc, f->code);
		}
	}
	test_fail(__FILE__, __LINE__, "the program ran off its end");
}

static u32 seccomp_verdict(enum filter_thread t, u32 arch, int nr, const u64 args[6])
{
	struct seccomp_data d = { .nr = nr, .arch = arch };

	if (args)
		memcpy(d.args, args, sizeof d.args);
	return bpf_run(filter_program(t), &d);
}

/* Do the rows let this call with these arguments through? */
static bool row_allows(unsigned thread, int nr, const u64 args[6])
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (rows[i].nr == nr && rows[i].threads & thread &&
		    (rows[i].arg < 0 || (args[rows[i].arg] & rows[i].mask) == rows[i].value))
			return true;
	return false;
}

TEST(seccomp_programs_say_what_the_policy_says)
{
	for (int t = 0; t < FILTER_NR; t++)
		for (int nr = 0; nr < SYSCALLS_MAX; nr++) {
			u64 args[6] = { 0 }; /* no row wants an argument of 0 */
			u32 want = row_allows(1u << t, nr, args) ? SECCOMP_RET_ALLOW
								 : SECCOMP_RET_KILL_PROCESS;

			EQ(seccomp_verdict((enum filter_thread)t, AUDIT_ARCH_X86_64, nr, args),
			   want);
		}
}

TEST(seccomp_arguments_are_compared_whole)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		for (int t = 0; t < FILTER_NR && rows[i].arg >= 0; t++)
			for (int bit = -1; bit < 64; bit++) {
				u64 args[6] = { 0 };

				args[rows[i].arg] = rows[i].value ^ (bit < 0 ? 0 : BIT(bit));
				EQ(seccomp_verdict((enum filter_thread)t, AUDIT_ARCH_X86_64,
						   rows[i].nr, args),
				   row_allows(1u << t, rows[i].nr, args)
					   ? SECCOMP_RET_ALLOW
					   : SECCOMP_RET_KILL_PROCESS);
			}
}

TEST(seccomp_other_architectures_are_killed)
{
	for (int t = 0; t < FILTER_NR; t++)
		for (int nr = 0; nr < SYSCALLS_MAX; nr++) {
			const u32 x32 = 0x40000000;

			EQ(seccomp_verdict((enum filter_thread)t, AUDIT_ARCH_I386, nr, NULL),
			   SECCOMP_RET_KILL_PROCESS);
			EQ(seccomp_verdict((enum filter_thread)t, AUDIT_ARCH_X86_64,
					   (int)(nr | x32), NULL),
			   SECCOMP_RET_KILL_PROCESS);
		}
}

TEST(seccomp_nobody_may_open_or_start_anything)
{
	static const int never[] = { SYS_open,	   SYS_openat,
				     SYS_openat2,  SYS_execve,
				     SYS_execveat, SYS_clone,
				     SYS_clone3,   SYS_fork,
				     SYS_socket,   SYS_ptrace,
				     SYS_mount,	   SYS_setuid,
				     SYS_seccomp,  SYS_process_vm_writev,
				     SYS_kill,	   SYS_bpf };

	for (int t = 0; t < FILTER_NR; t++)
		for (size_t i = 0; i < ARRAY_LEN(never); i++)
			EQ(seccomp_verdict((enum filter_thread)t, AUDIT_ARCH_X86_64, never[i],
					   NULL),
			   SECCOMP_RET_KILL_PROCESS);
}

/* In a child under the program of thread t: make the call, then exit as that thread may. */
static int seccomp_child(enum filter_thread t, int nr)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter_program(t)))
			_exit(99);
		syscall(nr, -1, NULL, 0);
		_exit(7);
	}
	OK(pid > 0);
	EQ(waitpid(pid, &status, 0), pid);
	return status;
}

TEST(seccomp_kernel_takes_the_programs)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	SKIP("a sanitizer's run-time makes system calls of its own");
#endif
	for (int t = 0; t < FILTER_NR; t++) {
		int status = seccomp_child((enum filter_thread)t, SYS_write);

		if (WIFEXITED(status) && WEXITSTATUS(status) == 99)
			SKIP("the kernel refuses seccomp filters here");
		EQ(status, 7 << 8);
		status = seccomp_child((enum filter_thread)t, SYS_socket);
		OK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
	}
}
