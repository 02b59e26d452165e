/* tty.c - the host end of the serial line on terminals, pipes, files and nothing, with a device
 * that takes what it is told to take. */
#include "../../devices/device.h"
#include "../../host/tty.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "../test.h"

/* guard: lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char got[65536];
static size_t got_n, room, breaks, break_at, writables;
static bool left;

static struct loop *loop;
static pthread_t thread;
static struct chardev *cd;
static struct device device;

static size_t dev_room(struct device *dev)
{
	return MIN(room, sizeof got - got_n);
}

static void dev_receive(struct device *dev, const u8 *buf, size_t n)
{
	OK(dev == &device && n <= dev_room(dev));
	memcpy(got + got_n, buf, n);
	got_n += n;
	room -= n;
}

static void dev_break(struct device *dev)
{
	breaks++;
	break_at = got_n;
}

static void dev_writable(struct device *dev)
{
	writables++;
}

static void leave(void *ctx)
{
	OK(ctx == &left);
	__atomic_store_n(&left, true, __ATOMIC_SEQ_CST);
}

static void *run_loop(void *arg)
{
	loop_run(loop);
	return NULL;
}

static void start(int in, int out, const char *path)
{
	struct err e;

	signal(SIGPIPE, SIG_IGN);
	if (in >= 0)
		OK(dup2(in, 0) == 0);
	if (out >= 0)
		OK(dup2(out, 1) == 1);
	loop = loop_new(&lock, false, &e);
	OK(loop);
	int rc = serial_end_open(&cd, loop, path, &e);

	if (rc < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	cd->dev = &device;
	cd->room = dev_room;
	cd->receive = dev_receive;
	cd->break_in = dev_break;
	cd->writable = dev_writable;
	serial_end_start(cd, leave, &left);
	OK(pthread_create(&thread, NULL, run_loop, NULL) == 0);
}

static void finish(void)
{
	loop_stop(loop, 0);
	pthread_join(thread, NULL);
	serial_end_close(cd);
	loop_free(loop);
}

/* Wait (5 s at most) until *what, read under the lock, is at least n. */
static void wait_for(const size_t *what, size_t n)
{
	for (int i = 0; i < 5000; i++) {
		pthread_mutex_lock(&lock);
		bool there = *what >= n;

		pthread_mutex_unlock(&lock);
		if (there)
			return;
		usleep(1000);
	}
	test_fail(__FILE__, __LINE__, "got %zu, waited for %zu", *what, n);
}

static void wait_left(void)
{
	for (int i = 0; i < 5000 && !__atomic_load_n(&left, __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	OK(__atomic_load_n(&left, __ATOMIC_SEQ_CST));
}

static void make_room(size_t n)
{
	pthread_mutex_lock(&lock);
	room = n;
	cd->readable(cd->ctx);
	pthread_mutex_unlock(&lock);
}

static size_t guest_writes(const void *buf, size_t n)
{
	pthread_mutex_lock(&lock);
	n = cd->write(cd->ctx, buf, n);
	pthread_mutex_unlock(&lock);
	return n;
}

static void expect_output(int fd, const char *text)
{
	char buf[256] = "";
	size_t n = 0;
	struct pollfd p = { fd, POLLIN, 0 };

	while (n < strlen(text) && poll(&p, 1, 5000) > 0) {
		ssize_t r = read(fd, buf + n, strlen(text) - n);

		OK(r > 0);
		n += (size_t)r;
	}
	if (strcmp(buf, text))
		test_fail(__FILE__, __LINE__, "\"%s\", expected \"%s\"", buf, text);
}

static int null_fd(void)
{
	return open("/dev/null", O_RDWR);
}

/* --- pipes ------------------------------------------------------------------------------------ */

TEST(tty_passes_bytes_through_pipes_and_lives_on_after_end_of_input)
{
	int in[2], out[2];

	OK(pipe(in) == 0 && pipe(out) == 0);
	room = 100;
	start(in[0], out[1], NULL);
	OK(write(in[1], "hello", 5) == 5);
	wait_for(&got_n, 5);
	OK(!memcmp(got, "hello", 5));
	EQ(guest_writes("world", 5), 5);
	expect_output(out[0], "world");
	close(in[1]);
	close(in[0]);
	usleep(20000);
	EQ(guest_writes("more", 4), 4);
	expect_output(out[0], "more");
	finish();
}

TEST(tty_holds_input_until_the_device_has_room_and_loses_none)
{
	char text[5000];
	int in[2];

	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (char)('a' + i % 23);
	OK(pipe(in) == 0);
	start(in[0], null_fd(), NULL);
	OK(write(in[1], text, sizeof text) == sizeof text);
	close(in[1]);
	close(in[0]);
	usleep(20000);
	EQ(got_n, 0);
	for (size_t n = 0; n < sizeof text; n += 16) {
		make_room(MIN(16, sizeof text - n));
		wait_for(&got_n, MIN(n + 16, sizeof text));
	}
	OK(!memcmp(got, text, sizeof text));
	finish();
}

TEST(tty_keys_leave_break_and_escape)
{
	int in[2], out[2];

	OK(pipe(in) == 0 && pipe(out) == 0);
	start(in[0], out[1], NULL);
	OK(write(in[1], "ab\1bc\1\1d\1zq", 11) == 11);
	usleep(20000);
	make_room(3); /* a break keeps its place among the bytes */
	wait_for(&breaks, 1);
	EQ(break_at, 2);
	make_room(100);
	wait_for(&got_n, 6);
	OK(!memcmp(got, "abc\1dq", 6));
	OK(write(in[1], "\1h", 2) == 2);
	expect_output(out[0], "\r\nmvm: Ctrl-A x      leave\r\n");
	OK(!__atomic_load_n(&left, __ATOMIC_SEQ_CST));
	OK(write(in[1], "\1", 1) == 1);
	usleep(10000);
	OK(write(in[1], "x", 1) == 1);
	wait_left();
	finish();
}

TEST(tty_can_be_left_when_the_guest_takes_no_input)
{
	char text[900];
	int in[2];

	memset(text, 'a', sizeof text);
	OK(pipe(in) == 0);
	start(in[0], null_fd(), NULL);
	OK(write(in[1], text, sizeof text) == sizeof text);
	usleep(10000);
	OK(write(in[1], "\1x", 2) == 2);
	wait_left();
	finish();
}

TEST(tty_output_waits_for_a_slow_reader_without_blocking_or_loss)
{
	static char text[300000];
	int out[2];
	size_t sent = 0, seen = 0;

	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (char)(i * 31 / 7);
	OK(pipe(out) == 0);
	start(null_fd(), out[1], NULL);
	for (int idle = 0; idle < 20;) { /* until all buffers are full */
		size_t n = guest_writes(text + sent, MIN(1000, sizeof text - sent));

		sent += n;
		idle = n ? 0 : idle + 1;
		usleep(n == 1000 ? 0 : 2000);
	}
	OK(sent >= 65536 && sent < sizeof text);
	while (seen < sizeof text) {
		static char buf[4096];
		ssize_t n = read(out[0], buf, sizeof buf);

		OK(n > 0);
		OK(!memcmp(buf, text + seen, (size_t)n));
		seen += (size_t)n;
		while (sent < sizeof text) {
			size_t took = guest_writes(text + sent, MIN(1000, sizeof text - sent));

			sent += took;
			if (!took)
				break;
		}
		if (seen == sent && sent < sizeof text)
			wait_for(&writables, 1);
	}
	OK(writables);
	finish();
}

TEST(tty_reader_that_goes_away_is_survived)
{
	int out[2];

	OK(pipe(out) == 0);
	start(null_fd(), out[1], NULL);
	EQ(guest_writes("x", 1), 1);
	expect_output(out[0], "x");
	close(out[0]);
	for (size_t gone = 0, tries = 0; gone < 100000; tries++) { /* nowhere, but taken */
		static const char text[1000];
		size_t n = guest_writes(text, sizeof text);

		gone += n;
		OK(tries < 10000);
		usleep(n == sizeof text ? 0 : 1000);
	}
	finish();
}

TEST(tty_socket_is_written_without_blocking)
{
	static char text[1000];
	int s[2];
	size_t sent = 0, n;

	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
	start(s[0], s[0], NULL);
	for (int idle = 0; idle < 20; idle += !n, sent += n) {
		n = guest_writes(text, sizeof text);
		if (n < sizeof text)
			usleep(2000);
	}
	OK(sent > 8192);
	make_room(10);
	OK(write(s[1], "in", 2) == 2);
	wait_for(&got_n, 2);
	OK(!(fcntl(s[0], F_GETFL) & O_NONBLOCK));
	close(s[1]);
	finish();
}

/* --- files and nothing ------------------------------------------------------------------------ */

static void temp_file(char *path)
{
	const char *dir = getenv("TMPDIR");

	sprintf(path, "%s/mvm-tty-XXXXXX", dir ? dir : "/tmp");
	close(mkstemp(path));
}

TEST(tty_stdin_may_be_a_file_and_stdout_keeps_its_offset)
{
	char path[256], out_path[256], buf[16] = "";
	int in, out;

	temp_file(path);
	temp_file(out_path);
	in = open(path, O_RDWR);
	out = open(out_path, O_RDWR);
	unlink(path);
	unlink(out_path);
	OK(write(in, "skip:data", 9) == 9 && lseek(in, 5, SEEK_SET) == 5);
	OK(write(out, "before:", 7) == 7);
	room = 100;
	start(in, out, NULL);
	wait_for(&got_n, 4);
	OK(!memcmp(got, "data", 4));
	EQ(guest_writes("after", 5), 5);
	finish();
	OK(pread(out, buf, sizeof buf, 0) == 12);
	OK(!memcmp(buf, "before:after", 12));
}

TEST(tty_dev_null_and_closed_descriptors_are_fine)
{
	room = 100;
	start(null_fd(), null_fd(), NULL);
	EQ(guest_writes("x", 1), 1);
	finish();
	close(0);
	close(1);
	start(-1, -1, NULL);
	EQ(guest_writes("x", 1), 1);
	EQ(got_n, 0);
	finish();
}

TEST(tty_file_end_takes_the_output)
{
	char path[256], buf[16] = "";
	int fd;

	temp_file(path);
	fd = open(path, O_RDWR);
	OK(write(fd, "old contents", 12) == 12);
	start(-1, -1, path);
	EQ(guest_writes("boot\n", 5), 5);
	finish();
	OK(pread(fd, buf, sizeof buf, 0) == 5);
	OK(!strcmp(buf, "boot\n"));
	unlink(path);
}

TEST(tty_file_end_refuses_what_it_cannot_write)
{
	char path[256];
	struct err e;

	loop = loop_new(&lock, false, &e);
	EQ(serial_end_open(&cd, loop, "/", &e), -EISDIR);
	OK(strstr(e.text, "serial /: cannot open for writing"));
	temp_file(path);
	unlink(path);
	OK(mkfifo(path, 0600) == 0);
	EQ(serial_end_open(&cd, loop, path, &e), -ENXIO); /* at once */
	OK(strstr(e.text, "start its reader first"));
	unlink(path);
	loop_free(loop);
}

/* --- a terminal ------------------------------------------------------------------------------- */

static int open_pty(int *slave)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);

	if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
		SKIP("no pseudo-terminals here");
	*slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	OK(*slave >= 0);
	return master;
}

static bool is_raw(int fd)
{
	struct termios t;

	OK(tcgetattr(fd, &t) == 0);
	return !(t.c_lflag & (ICANON | ECHO | ISIG));
}

TEST(tty_terminal_is_raw_while_running_and_restored_after)
{
	int slave, master = open_pty(&slave);

	OK(!is_raw(slave));
	room = 100;
	start(slave, slave, NULL);
	OK(is_raw(slave));
	OK(write(master, "\3\r", 2) == 2); /* Ctrl-C is the guest's, and CR stays CR */
	wait_for(&got_n, 2);
	OK(!memcmp(got, "\3\r", 2));
	EQ(guest_writes("out", 3), 3);
	expect_output(master, "out"); /* and no echo before it */
	tty_restore();
	OK(!is_raw(slave));
	tty_raw();
	OK(is_raw(slave));
	OK(!(fcntl(0, F_GETFL) & O_NONBLOCK) && !(fcntl(1, F_GETFL) & O_NONBLOCK));
	finish();
	OK(!is_raw(slave));
	OK(!(fcntl(slave, F_GETFL) & O_NONBLOCK));
}

TEST(tty_terminal_that_hangs_up_ends_input_only)
{
	int slave, master = open_pty(&slave);

	signal(SIGHUP, SIG_IGN);
	start(slave, slave, NULL);
	close(master);
	for (int i = 0; i < 20; i++) {
		OK(guest_writes("x", 1) <= 1);
		usleep(1000);
	}
	finish();
}

/* A child gets the terminal and dies in some way: it must find it cooked again. */
static void die_with(int how)
{
	int slave, master = open_pty(&slave), status;
	pid_t pid = fork();

	if (pid == 0) {
		if (how)
			signal(how, SIG_DFL); /* a shell's background jobs ignore SIGQUIT */
		start(slave, slave, NULL);
		OK(is_raw(slave));
		close(2);
		if (how == 0)
			exit(0);
		if (how == SIGILL)
			ASSERT(loop == NULL);
		raise(how);
		_exit(77);
	}
	OK(waitpid(pid, &status, 0) == pid);
	if (how)
		OK(WIFSIGNALED(status) && WTERMSIG(status) == how);
	OK(!is_raw(slave));
	close(master);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true /* sanitizers have their own handlers */
#else
#define SANITIZED false
#endif

TEST(tty_terminal_is_restored_by_exit_and_fatal_signals)
{
	static const int fatal[] = { SIGABRT, SIGQUIT, SIGILL, SIGSEGV, SIGBUS, SIGFPE };

	die_with(0);
	for (size_t i = 0; i < ARRAY_LEN(fatal) && !SANITIZED; i++)
		die_with(fatal[i]);
}
