/* main.c - argv to exit status.  The only caller of exit paths; everything else returns errors. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "machine.h"
#include "trace.h"

static int usage_error(const struct err *e)
{
	fprintf(stderr, "mvm: %s\n", e->text);
	return EXIT_USAGE;
}

static int host_error(const struct err *e)
{
	fprintf(stderr, "mvm: %s\n", e->text);
	return EXIT_HOST;
}

/* Has all that was printed arrived?  A write that failed before the last one shows in ferror
 * alone. */
static int check_output(void)
{
	return fflush(stdout) == 0 && !ferror(stdout) ? EXIT_OK : EXIT_HOST;
}

static int print_and_check(void (*print)(void))
{
	print();
	return check_output();
}

static void print_version(void)
{
	printf("mvm %s\n", MVM_VERSION);
}

static int run_machine(const struct config *cfg)
{
	static struct machine *m; /* never freed after a run: the filters allow no munmap */
	struct err e;
	int status;

	m = machine_new(cfg, &e);
	if (!m)
		return host_error(&e);
	if (!cfg->dry_run)
		return machine_run(m);
	machine_print_json(m);
	status = check_output();
	machine_free(m);
	return status;
}

/* Whoever started us may have closed 0, 1 or 2; a descriptor of ours must not land there. */
static bool open_standard_fds(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

int main(int argc, char **argv)
{
	static struct config cfg; /* what options_parse allocates lives as long */
	struct err e;

	trace_mark("main");
	if (!open_standard_fds())
		return EXIT_HOST;
	signal(SIGPIPE, SIG_IGN); /* a closed pipe, a file at its limit: errors of write */
	signal(SIGXFSZ, SIG_IGN);
	if (argc == 2 && !strcmp(argv[1], "--man-options")) /* for the build: see Makefile */
		return print_and_check(options_man);
	if (options_parse(&cfg, argv, &e) < 0)
		return usage_error(&e);
	if (cfg.help)
		return print_and_check(options_help);
	if (cfg.version)
		return print_and_check(print_version);
	log_set_level(cfg.quiet ? LOG_ERR : cfg.verbose ? LOG_DBG : LOG_INFO);
	return run_machine(&cfg);
}
