/* test.c - runs the registered tests, each in a child process so that a crash is one failure, and
 * ends with the line `N passed, N failed, N skipped`. */
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test.h"

enum { EXIT_FAIL = 1, EXIT_SKIP = 77, TIMEOUT_S = 300 };

static struct test *tests;
static u64 seed = 0x9e3779b97f4a7c15ull, rng;

void test_register(struct test *t)
{
	t->next = tests;
	tests = t;
}

void test_seed(u64 s)
{
	seed = rng = s ? s : 1;
}

u64 test_random(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "  %s:%d: ", file, line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, " (seed %#llx)\n", (unsigned long long)seed);
	fflush(NULL);
	_exit(EXIT_FAIL);
}

void test_skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("  ", stderr);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	fflush(NULL);
	_exit(EXIT_SKIP);
}

static int run_one(const struct test *t)
{
	int status;
	pid_t pid = fork();

	if (pid < 0) {
		perror("fork");
		exit(2);
	}
	if (pid == 0) {
		alarm(TIMEOUT_S);
		test_seed(seed);
		t->fn();
		fflush(NULL);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0)
		;
	if (WIFSIGNALED(status)) {
		fprintf(stderr, "  killed by signal %d (%s)\n", WTERMSIG(status),
			strsignal(WTERMSIG(status)));
		return EXIT_FAIL;
	}
	return WEXITSTATUS(status);
}

static bool wanted(const struct test *t, char **names)
{
	if (!*names)
		return true;
	for (; *names; names++)
		if (strstr(t->name, *names) || strstr(t->file, *names))
			return true;
	return false;
}

static struct test *sort_tests(struct test *list)
{
	struct test *sorted = NULL;

	while (list) {
		struct test *t = list, **at = &sorted;

		list = list->next;
		while (*at && (strcmp((*at)->file, t->file) < 0 ||
			       (!strcmp((*at)->file, t->file) && strcmp((*at)->name, t->name) < 0)))
			at = &(*at)->next;
		t->next = *at;
		*at = t;
	}
	return sorted;
}

int main(int argc, char **argv)
{
	bool verbose = false;
	int passed = 0, failed = 0, skipped = 0;

	if (argc > 1 && !strcmp(argv[1], "-v")) {
		verbose = true;
		argv++;
	}
	if (getenv("TEST_SEED"))
		seed = strtoull(getenv("TEST_SEED"), NULL, 0);
	for (struct test *t = sort_tests(tests); t; t = t->next) {
		if (!wanted(t, argv + 1))
			continue;
		if (verbose)
			fprintf(stderr, "%s: %s\n", t->file, t->name);
		int rc = run_one(t);

		passed += rc == 0;
		skipped += rc == EXIT_SKIP;
		failed += rc != 0 && rc != EXIT_SKIP;
		if (rc)
			printf("%s %s: %s\n", rc == EXIT_SKIP ? "SKIP" : "FAIL", t->file, t->name);
		fflush(stdout);
	}
	printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	return failed != 0;
}
