/* tty.c - raw terminal, escape keys, bounded buffers, restore on every way out.
 *
 * Owns the terminal's mode and struct tty.  stdin and stdout are shared with the shell and its
 * other children, and so is O_NONBLOCK on them: terminals and pipes are opened anew through
 * /proc/self/fd; where that is refused, the flag is set and taken back by tty_restore. Threads:
 * see tty.h; tty_raw and tty_restore from signal handlers too. */
#include "tty.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "../seccomp/sandbox.h"

enum {
	OUT_BYTES = 8192, /* power of two */
	IN_ITEMS = 1024,
	IN_BREAK = 0x100, /* an item of the input buffer that is no byte */
	CTRL_A = 1,
	FLUSH_S = 1,
};

struct tty {
	struct chardev cd; /* first */
	/* const after open */
	struct loop *loop;
	const char *path; /* borrowed; NULL: stdin and stdout */
	void (*leave)(void *ctx);
	void *leave_ctx;
	int own[2]; /* what we opened for it, or -1 */
	/* guard: machine.lock */
	int in, out; /* -1: ended, or none; own[] are closed at the end only */
	bool in_polled, out_polled;
	bool out_socket;
	bool escape; /* the last byte was Ctrl-A */
	bool starved; /* the device had more than fitted */
	struct loop_work flush;
	u32 out_head, out_tail; /* free-running; head - tail bytes wait */
	u32 in_len;
	u8 out_buf[OUT_BYTES];
	u16 in_buf[IN_ITEMS];
};

/* What must be undone, kept where a signal handler finds it. */
static struct {
	volatile sig_atomic_t have_mode, flags_changed[2];
	int fd;
	struct termios saved, raw;
	int flags[2];
} undo;

void tty_raw(void)
{
	int err = errno;

	if (undo.have_mode)
		tcsetattr(undo.fd, TCSANOW, &undo.raw);
	errno = err;
}

void tty_restore(void)
{
	int err = errno;

	if (undo.have_mode)
		tcsetattr(undo.fd, TCSANOW, &undo.saved);
	for (int i = 0; i < 2; i++)
		if (undo.flags_changed[i])
			fcntl(i, F_SETFL, undo.flags[i]);
	errno = err;
}

static void tty_fatal(int sig)
{
	if (fatal_hook)
		fatal_hook();
	raise(sig); /* blocked until we return, then the default action: SA_RESETHAND */
}

/* Undo it all on every way out: exit(), ASSERT, and signals that end a process by default and that
 * nobody else has claimed. */
static void tty_guard_exits(void)
{
	static bool registered;
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGQUIT, SIGSYS };
	struct sigaction old, act = { .sa_handler = tty_fatal,
				      .sa_flags = (int)SA_RESETHAND | SA_ONSTACK };

	if (sandbox_is_up()) /* the parent sees to it */
		return;
	for (size_t i = 0; i < ARRAY_LEN(fatal); i++)
		if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
			sigaction(fatal[i], &act, NULL);
	fatal_hook = tty_restore;
	if (!registered)
		atexit(tty_restore);
	registered = true;
}

/* Every key to the guest, Ctrl-C too; output processing stays, for our own lines between the
 * guest's. */
static void tty_prepare(void)
{
	sigset_t ttou;

	if (tcgetattr(STDIN_FILENO, &undo.saved) < 0)
		return;
	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU); /* from the background, tcsetattr would stop us */
	pthread_sigmask(SIG_BLOCK, &ttou, NULL);
	undo.raw = undo.saved;
	undo.raw.c_iflag &= ~(tcflag_t)(BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	undo.raw.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	undo.raw.c_cc[VMIN] = 1;
	undo.raw.c_cc[VTIME] = 0;
	undo.fd = STDIN_FILENO;
	undo.have_mode = 1;
}

/* --- output ----------------------------------------------------------------------------------- */

static u32 out_waiting(const struct tty *t)
{
	return t->out_head - t->out_tail;
}

static void out_poll(struct tty *t, bool on);

/* The other side is gone, or broken: output is thrown away from now on, and the guest runs on. */
static void out_end(struct tty *t)
{
	if (t->path)
		log_err("serial", "%s: write failed (%s); further output is lost", t->path,
			strerror(errno));
	out_poll(t, false);
	t->out = -1;
	t->out_tail = t->out_head;
}

/* Write what fits, up to the buffer's end.  False if nothing more goes now. */
static bool out_write(struct tty *t)
{
	u32 at = t->out_tail % OUT_BYTES, n = MIN(out_waiting(t), OUT_BYTES - at);
	ssize_t put;

	if (t->out_socket)
		put = sendto(t->out, t->out_buf + at, n, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
	else
		put = write(t->out, t->out_buf + at, n);
	if (put > 0) {
		t->out_tail += (u32)put;
		return true;
	}
	if (put < 0 && errno != EAGAIN && errno != EINTR)
		out_end(t);
	return put < 0 && errno == EINTR;
}

static void out_flush(struct tty *t)
{
	while (t->out >= 0 && out_waiting(t))
		if (!out_write(t))
			break;
	out_poll(t, t->out >= 0 && out_waiting(t));
	if (t->starved && out_waiting(t) < OUT_BYTES) {
		t->starved = false;
		t->cd.writable(t->cd.dev);
	}
}

static void out_posted(void *arg)
{
	out_flush(arg);
}

static void out_event(void *arg, u32 events)
{
	out_flush(arg);
}

static void out_poll(struct tty *t, bool on)
{
	if (on == t->out_polled)
		return;
	if (!on)
		loop_fd_del(t->loop, t->out);
	else if (loop_fd_add(t->loop, t->out, POLLOUT, out_event, t) < 0)
		return; /* the next byte tries again */
	t->out_polled = on;
}

/* chardev.write.  Bytes are written by the loop, many at once: a system call for each would be
 * most of what a guest's console costs. */
static size_t tty_write(void *ctx, const u8 *buf, size_t n)
{
	struct tty *t = ctx;
	size_t took = MIN(n, (size_t)OUT_BYTES - out_waiting(t));

	if (t->out < 0)
		return n;
	for (size_t i = 0; i < took; i++)
		t->out_buf[t->out_head++ % OUT_BYTES] = buf[i];
	t->starved = took < n;
	if (!t->out_polled)
		loop_post(t->loop, &t->flush);
	return took;
}

/* --- input ------------------------------------------------------------------------------------ */

static void in_item(struct tty *t, u16 item)
{
	if (t->in_len < IN_ITEMS)
		t->in_buf[t->in_len++] = item;
}

static void tty_help(struct tty *t)
{
	static const char text[] =
		"\r\nmvm: Ctrl-A x      leave\r\n"
		"mvm: Ctrl-A b      send a break (Linux: SysRq, a key follows)\r\n"
		"mvm: Ctrl-A h      this list\r\n"
		"mvm: Ctrl-A Ctrl-A send Ctrl-A\r\n";

	if (out_waiting(t) + sizeof text <= OUT_BYTES)
		tty_write(t, (const u8 *)text, sizeof text - 1);
}

static void tty_escape_key(struct tty *t, u8 key)
{
	switch (key) {
	case 'x':
	case 'X': t->leave(t->leave_ctx); break;
	case 'b':
	case 'B': in_item(t, IN_BREAK); break;
	case 'h':
	case 'H':
	case '?': tty_help(t); break;
	case CTRL_A: in_item(t, CTRL_A); break;
	}
}

/* A byte from the host becomes at most one item. */
static void tty_key(struct tty *t, u8 byte)
{
	if (t->escape) {
		t->escape = false;
		tty_escape_key(t, byte);
	} else if (byte == CTRL_A) {
		t->escape = true;
	} else {
		in_item(t, byte);
	}
}

/* Give the device what it has room for, in order. */
static void tty_deliver(struct tty *t)
{
	u32 done = 0;

	while (done < t->in_len) {
		u8 run[64];
		size_t n = 0, room = MIN(t->cd.room(t->cd.dev), sizeof run);

		if (!room)
			break;
		while (n < room && done + n < t->in_len && t->in_buf[done + n] < IN_BREAK) {
			run[n] = (u8)t->in_buf[done + n];
			n++;
		}
		if (n)
			t->cd.receive(t->cd.dev, run, n);
		else
			t->cd.break_in(t->cd.dev);
		done += n ? (u32)n : 1;
	}
	t->in_len -= done;
	memmove(t->in_buf, t->in_buf + done, t->in_len * sizeof t->in_buf[0]);
}

static void in_poll(struct tty *t, bool on);

static void in_end(struct tty *t)
{
	in_poll(t, false);
	t->in = -1;
}

static void in_read(struct tty *t)
{
	u8 buf[IN_ITEMS];
	ssize_t n = read(t->in, buf, IN_ITEMS - t->in_len);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) /* end of file, or the terminal is gone: the guest goes on without us */
		in_end(t);
	for (ssize_t i = 0; i < n; i++)
		tty_key(t, buf[i]);
}

/* Move input along: to the device; and from the host, by the loop, while there is space for it. */
static void in_pump(struct tty *t)
{
	tty_deliver(t);
	in_poll(t, t->in >= 0 && t->in_len < IN_ITEMS);
}

static void in_event(void *arg, u32 events)
{
	in_read(arg);
	in_pump(arg);
}

/* Registered only while there is space. */
static void in_poll(struct tty *t, bool on)
{
	if (on == t->in_polled)
		return;
	if (!on)
		loop_fd_del(t->loop, t->in);
	else if (loop_fd_add(t->loop, t->in, POLLIN, in_event, t) < 0)
		return;
	t->in_polled = on;
}

static void tty_readable(void *ctx)
{
	in_pump(ctx);
}

/* --- life ------------------------------------------------------------------------------------- */

/* A descriptor of ours for stdin or stdout that does not block: fd itself if it cannot block, -1 if
 * it is closed. */
static int tty_reopen(int fd, int mode)
{
	char path[32];
	struct stat st;
	int own;

	if (fstat(fd, &st) < 0)
		return -1;
	if (!isatty(fd) && !S_ISFIFO(st.st_mode))
		return fd; /* a file, whose offset is in the description; a socket, see out_write */
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	own = open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (own >= 0)
		return own;
	undo.flags[fd] = fcntl(fd, F_GETFL);
	if (undo.flags[fd] >= 0 && fcntl(fd, F_SETFL, undo.flags[fd] | O_NONBLOCK) == 0)
		undo.flags_changed[fd] = 1;
	return fd;
}

static void tty_open_stdio(struct tty *t)
{
	struct stat st;

	tty_prepare();
	t->in = tty_reopen(STDIN_FILENO, O_RDONLY);
	t->out = tty_reopen(STDOUT_FILENO, O_WRONLY);
	t->own[0] = t->in == STDIN_FILENO ? -1 : t->in;
	t->own[1] = t->out == STDOUT_FILENO ? -1 : t->out;
	t->out_socket = t->out >= 0 && fstat(t->out, &st) == 0 && S_ISSOCK(st.st_mode);
}

static int tty_open_file(struct tty *t, struct err *e)
{
	t->in = t->own[0] = -1;
	/* O_NONBLOCK: a FIFO without a reader is an error at once, not a wait. */
	t->out = open(t->path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
		      0666);
	t->own[1] = t->out;
	if (t->out >= 0)
		return 0;
	return err_set(
		e, -errno, "serial %s: cannot open for writing (%s)%s", t->path, strerror(errno),
		errno == ENXIO ? "; start its reader first" : "; give a file that can be written");
}

int serial_end_open(struct chardev **out, struct loop *loop, const char *path, struct err *e)
{
	struct tty *t = calloc(1, sizeof *t);
	int rc;

	if (!t)
		return err_set(e, -ENOMEM, "serial: out of memory");
	t->loop = loop;
	t->path = path;
	t->flush = (struct loop_work){ .fn = out_posted, .arg = t };
	t->cd.write = tty_write;
	t->cd.readable = tty_readable;
	t->cd.ctx = t;
	if (!path) {
		tty_open_stdio(t);
	} else {
		rc = tty_open_file(t, e);
		if (rc < 0) {
			free(t);
			return rc;
		}
	}
	*out = &t->cd;
	return 0;
}

void serial_end_start(struct chardev *cd, void (*leave)(void *ctx), void *ctx)
{
	if (!cd)
		return;
	struct tty *t = container_of(cd, struct tty, cd);

	t->leave = leave;
	t->leave_ctx = ctx;
	if (!t->path) {
		tty_guard_exits();
		tty_raw();
	}
	in_pump(t);
}

static void out_drain(struct tty *t)
{
	const struct timespec patience = { .tv_sec = FLUSH_S };
	struct pollfd p = { .fd = t->out, .events = POLLOUT };

	while (t->out >= 0 && out_waiting(t))
		if (!out_write(t) && (t->out < 0 || ppoll(&p, 1, &patience, NULL) <= 0))
			return;
}

void serial_end_finish(struct chardev *cd)
{
	if (!cd)
		return;
	struct tty *t = container_of(cd, struct tty, cd);

	out_drain(t);
	if (!t->path && !sandbox_is_up())
		tty_restore();
}

void serial_end_close(struct chardev *cd)
{
	if (!cd)
		return;
	struct tty *t = container_of(cd, struct tty, cd);

	serial_end_finish(cd);
	in_poll(t, false);
	out_poll(t, false);
	for (int i = 0; i < 2; i++)
		if (t->own[i] >= 0)
			close(t->own[i]);
	undo.have_mode = 0;
	free(t);
}
