/* base.c - errors, log, assertions.  Any thread; the log serialises whole lines by one write(2). */
#include "base.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 512 };

void (*fatal_hook)(void);
static enum log_level log_max = LOG_INFO;
static bool log_tty;

int (err_set)(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;
	int n;

	e->code = code;
	va_start(ap, fmt);
	n = vsnprintf(e->text, sizeof e->text, fmt, ap);
	va_end(ap);
	if (n < 0)
		e->text[0] = '\0';
	return code;
}

void log_set_level(enum log_level lvl)
{
	log_max = lvl;
	log_tty = isatty(STDERR_FILENO);
}

void log_at(enum log_level lvl, const char *who, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	va_list ap;
	int n, m;

	if (lvl > log_max)
		return;
	n = snprintf(line, sizeof line, "mvm: %s: ", who);
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof line - (size_t)n - 2, fmt, ap);
	va_end(ap);
	n += m < 0 ? 0 : MIN(m, (int)sizeof line - n - 3);
	/* A raw terminal needs the carriage return, and nothing else minds it. */
	line[n++] = '\r';
	line[n++] = '\n';
	if (!log_tty) {
		line[n - 2] = '\n';
		n--;
	}
	/* Nowhere is left to report to if stderr itself fails. */
	(void)!write(STDERR_FILENO, line, (size_t)n);
}

void text_err(const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	if (n > 0)
		(void)!write(STDERR_FILENO, line, MIN((size_t)n, sizeof line - 1));
}

/* Two threads at the turn of a second may let a line too many through. */
bool log_limit_ok(struct log_limit *l, u32 most, enum log_level lvl, const char *who)
{
	struct timespec now;
	u32 dropped, second;

	if (lvl > log_max)
		return false;
	clock_gettime(CLOCK_MONOTONIC, &now);
	second = __atomic_exchange_n(&l->second, (u32)now.tv_sec, __ATOMIC_RELAXED);
	if (second != (u32)now.tv_sec) {
		__atomic_store_n(&l->used, 0, __ATOMIC_RELAXED);
		dropped = __atomic_exchange_n(&l->dropped, 0, __ATOMIC_RELAXED);
		if (dropped)
			log_at(lvl, who, "%u messages suppressed", dropped);
	}
	if (__atomic_fetch_add(&l->used, 1, __ATOMIC_RELAXED) < most)
		return true;
	__atomic_fetch_add(&l->dropped, 1, __ATOMIC_RELAXED);
	return false;
}

int file_read_at(int fd, void *dst, u64 len, u64 off)
{
	while (len) {
		struct iovec v = { dst, len };
		ssize_t n = syscall(SYS_preadv2, fd, &v, 1L, (long)off, 0L, 0L);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		dst = (u8 *)dst + n;
		off += (u64)n;
		len -= (u64)n;
	}
	return 0;
}

_Noreturn void assert_failed(const char *file, int line, const char *cond)
{
	if (fatal_hook)
		fatal_hook();
	log_err("bug", "%s:%d: %s does not hold; please report this line", file, line, cond);
	__builtin_trap(); /* the sandbox allows no call that would end us at once */
}
