/* The seccomp programs as data: run by a small classic-BPF interpreter of our own over every system
 * call number and compared with policy.def row by row; then by the real kernel. */
#include <fcntl.h>
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
#include <fcntl.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

#include "../../seccomp/filter.h"
#include "../test.h"

enum { LOOP = 1, TCG = 2, KVM = 4, DISK = 8, WATCH = 16, VCPU = TCG | KVM,
	RUN = LOOP | VCPU | DISK };
enum { SYSCALLS_MAX = 512 };
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; musl does not name it */
#endif

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
				   : nr == FILTER_DIE		 ? SECCOMP_RET_KILL_PROCESS
								 : SECCOMP_RET_TRAP;

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
					   : SECCOMP_RET_TRAP);
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
				     SYS_mmap,	   SYS_process_vm_writev,
				     SYS_kill,	   SYS_bpf,
				     SYS_mprotect, SYS_mremap,
				     SYS_brk,	   SYS_rt_sigaction,
				     SYS_prctl,	   SYS_dup,
				     SYS_pipe2,	   SYS_memfd_create };

	for (int t = 0; t < FILTER_NR; t++)
		for (size_t i = 0; i < ARRAY_LEN(never); i++)
			EQ(seccomp_verdict((enum filter_thread)t, AUDIT_ARCH_X86_64, never[i],
					   NULL),
			   SECCOMP_RET_TRAP);
	EQ(FILTER_DIE, SYS_seccomp);
}

/* The promise is for threads: 8 calls for a vCPU's, 14 for the loop's and the disks', 24 for
 * all. */
TEST(seccomp_lists_are_short)
{
	static const u32 most[FILTER_NR] = { 14, 8, 8, 14, 14 };
	bool any[SYSCALLS_MAX] = { 0 };
	u32 all = 0;

	for (int t = 0; t < FILTER_NR; t++) {
		u32 n = 0;

		for (int nr = 0; nr < SYSCALLS_MAX; nr++) {
			bool has = false;

			for (size_t i = 0; i < ARRAY_LEN(rows); i++)
				has |= rows[i].nr == nr && rows[i].threads & 1u << t;
			n += has;
			all += has && !any[nr];
			any[nr] |= has;
		}
		printf("seccomp: %s: %u system calls\n",
		       t == FILTER_KVM ? "vcpu (KVM)" : filter_thread_name((enum filter_thread)t),
		       n);
		OK(n <= most[t]);
	}
	printf("seccomp: all together: %u\n", all);
	OK(all <= 24);
}

/* In a child under the program of thread t: a call that it may make, then nr. */
static int seccomp_child(enum filter_thread t, int nr, int out)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter_program(t)))
			_exit(99);
		if (write(out, "x", 1) == 1)
			syscall(nr, -1, NULL, 0);
		for (;;)
			;
	}
	OK(pid > 0);
	EQ(waitpid(pid, &status, 0), pid);
	return status;
}

TEST(seccomp_kernel_takes_the_programs)
{
	static const int end[] = { SYS_socket, SYS_mprotect, FILTER_DIE };
	int fd[2];
	char c;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	SKIP("a sanitizer's run-time makes system calls of its own");
#endif
	EQ(pipe(fd), 0);
	for (int t = 0; t < FILTER_NR; t++)
		for (size_t i = 0; i < ARRAY_LEN(end); i++) {
			int status = seccomp_child((enum filter_thread)t, end[i], fd[1]);

			if (WIFEXITED(status) && WEXITSTATUS(status) == 99)
				SKIP("the kernel refuses seccomp filters here");
			OK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
			EQ(read(fd[0], &c, 1), 1);
		}
}
