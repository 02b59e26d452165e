/* seccomp-gen.c - runs on the build machine: compiles seccomp/policy.def with libseccomp and prints
 * one array of struct sock_filter for each kind of thread.  `seccomp-gen --pfc` prints the same as
 * libseccomp's pseudo code, for review; `seccomp-gen --without` prints each program once for each
 * of its rows, without that row, for tests/without.c.
 *
 * Action outside the rows: SIGSYS, and at FILTER_DIE, which its handler calls, kill the process.
 * Other architectures' system calls (i386, x32) kill at once: libseccomp puts that check first. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <linux/membarrier.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

#include "seccomp/filter.h"

enum { LOOP = 1, TCG = 2, KVM = 4, DISK = 8, WATCH = 16, VCPU = TCG | KVM,
	RUN = LOOP | VCPU | DISK };

static const struct {
	unsigned bit;
	const char *name;
} threads[] = {
	{ LOOP, "loop" },
	{ TCG, "tcg" },
	{ KVM, "kvm" },
	{ DISK, "disk" },
	{ WATCH, "watch" },
};

struct rule {
	const char *syscall, *why;
	unsigned threads;
	int arg; /* -1: any arguments */
	unsigned long long mask, value;
	const char *value_name;
};

static const struct rule rules[] = {
#define SYS(name, threads, why) { #name, why, threads, -1, 0, 0, "" },
#define SYS_ARG(name, threads, arg, mask, value, why) \
	{ #name, why, threads, arg, mask, value, #value },
#include "seccomp/policy.def"
#undef SYS
#undef SYS_ARG
};
enum { RULES = sizeof(rules) / sizeof(rules[0]) };

static void die(const char *what, const char *name, int rc)
{
	fprintf(stderr, "seccomp-gen: %s %s: %s\n", what, name, strerror(-rc));
	exit(1);
}

static void add(scmp_filter_ctx ctx, const struct rule *r)
{
	int nr = seccomp_syscall_resolve_name(r->syscall), rc;

	if (nr == __NR_SCMP_ERROR)
		die("no system call", r->syscall, -EINVAL);
	if (!*r->why)
		die("a row needs its reason:", r->syscall, -EINVAL);
	if (r->arg < 0)
		rc = seccomp_rule_add_exact(ctx, SCMP_ACT_ALLOW, nr, 0);
	else
		rc = seccomp_rule_add_exact(
			ctx, SCMP_ACT_ALLOW, nr, 1,
			SCMP_CMP(r->arg, SCMP_CMP_MASKED_EQ, r->mask, r->value));
	if (rc < 0 && rc != -EEXIST)
		die("cannot add", r->syscall, rc);
}

static scmp_filter_ctx compile(unsigned thread, const struct rule *without)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	int rc;

	if (!ctx)
		die("cannot start", "a filter", -ENOMEM);
	/* libseccomp's default would end just the thread and leave a crippled process behind */
	rc = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (rc < 0)
		die("cannot set", "the action for other architectures", rc);
	rc = seccomp_rule_add_exact(ctx, SCMP_ACT_KILL_PROCESS, FILTER_DIE, 0);
	if (rc < 0)
		die("cannot add", "the end", rc);
	for (int i = 0; i < RULES; i++)
		if (rules[i].threads & thread && &rules[i] != without)
			add(ctx, &rules[i]);
	rc = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE,
			      2); /* a binary tree over the numbers */
	if (rc < 0)
		die("cannot optimise", "a filter", rc);
	return ctx;
}

static void print_bytes(scmp_filter_ctx ctx, const char *name)
{
	struct sock_filter insn;
	FILE *f = tmpfile();
	int rc;

	if (!f)
		die("cannot make", "a temporary file", -errno);
	rc = seccomp_export_bpf(ctx, fileno(f));
	if (rc < 0)
		die("cannot export", name, rc);
	rewind(f);
	printf("static const struct sock_filter filter_%s[] = {\n", name);
	while (fread(&insn, sizeof insn, 1, f) == 1)
		printf("\t{ 0x%02x, %u, %u, 0x%08x },\n", insn.code, insn.jt, insn.jf, insn.k);
	printf("};\n\n");
	fclose(f);
}

/* One program for each row of each thread; row THREAD:CALL or THREAD:CALL:VALUE. */
static void print_without(void)
{
	char name[40];

	for (size_t t = 0; t < sizeof threads / sizeof threads[0]; t++)
		for (int i = 0; i < RULES; i++) {
			if (!(rules[i].threads & threads[t].bit))
				continue;
			snprintf(name, sizeof name, "%s_%d", threads[t].name, i);
			scmp_filter_ctx ctx = compile(threads[t].bit, &rules[i]);

			print_bytes(ctx, name);
			seccomp_release(ctx);
		}
	printf("static const struct {\n\tconst char *row;\n\tenum filter_thread thread;\n"
	       "\tu16 len;\n\tconst struct sock_filter *code;\n} without[] = {\n");
	for (size_t t = 0; t < sizeof threads / sizeof threads[0]; t++)
		for (int i = 0; i < RULES; i++)
			if (rules[i].threads & threads[t].bit)
				printf("\t{ \"%s:%s%s%s\", %zu, "
				       "ARRAY_LEN(filter_%s_%d), filter_%s_%d },\n",
				       threads[t].name, rules[i].syscall,
				       *rules[i].value_name ? ":" : "", rules[i].value_name, t,
				       threads[t].name, i, threads[t].name, i);
	printf("};\n");
}

int main(int argc, char **argv)
{
	bool pfc = argc > 1 && !strcmp(argv[1], "--pfc");
	bool without = argc > 1 && !strcmp(argv[1], "--without");

	if (!pfc)
		printf("/* Made by tools/seccomp-gen.c from seccomp/policy.def. */\n\n");
	if (without)
		print_without();
	for (size_t i = 0; i < sizeof threads / sizeof threads[0] && !without; i++) {
		scmp_filter_ctx ctx = compile(threads[i].bit, NULL);

		if (pfc) {
			printf("# thread %s\n", threads[i].name);
			fflush(stdout);
			seccomp_export_pfc(ctx, STDOUT_FILENO);
		} else {
			print_bytes(ctx, threads[i].name);
		}
		seccomp_release(ctx);
	}
	return fflush(stdout) || ferror(stdout);
}
