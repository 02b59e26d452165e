/* libc_shim.c - the fortified entry points that Debian's glibc-built archives (libcap-ng, liblzma,
 * ...) call and musl lacks.  Each drops the check of a buffer size known to the compiler, except
 * where the size is at hand; a symbol missing here is a link error, never a silent change. Source:
 * LSB 5.0 core, "Interfaces for libc" (__*_chk). */
#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int __snprintf_chk(char *s, size_t n, int flag, size_t size, const char *fmt, ...);
int __sprintf_chk(char *s, int flag, size_t size, const char *fmt, ...);
int __printf_chk(int flag, const char *fmt, ...);
int __fprintf_chk(FILE *f, int flag, const char *fmt, ...);
int __asprintf_chk(char **out, int flag, const char *fmt, ...);
void __syslog_chk(int prio, int flag, const char *fmt, ...);
int __vsnprintf_chk(char *s, size_t n, int flag, size_t size, const char *fmt, va_list ap);
int __isoc99_sscanf(const char *s, const char *fmt, ...);

int __snprintf_chk(char *s, size_t n, int flag, size_t size, const char *fmt, ...)
{
	va_list ap;

	if (size < n)
		abort();
	va_start(ap, fmt);
	int r = vsnprintf(s, n, fmt, ap);
	va_end(ap);
	return r;
}

int __sprintf_chk(char *s, int flag, size_t size, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int r = vsnprintf(s, size, fmt, ap);
	va_end(ap);
	if (r >= 0 && (size_t)r >= size)
		abort();
	return r;
}

int __printf_chk(int flag, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int r = vprintf(fmt, ap);
	va_end(ap);
	return r;
}

int __fprintf_chk(FILE *f, int flag, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int r = vfprintf(f, fmt, ap);
	va_end(ap);
	return r;
}

int __asprintf_chk(char **out, int flag, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int r = vasprintf(out, fmt, ap);
	va_end(ap);
	return r;
}

/* libcap-ng's one message, about a failure that its caller is told of as well: nobody reads a log
 * of the system's inside the sandbox. */
void __syslog_chk(int prio, int flag, const char *fmt, ...)
{
}

/* capng_change_id alone wants these two, and nobody wants that: they bring name services. */
struct passwd *getpwuid(uid_t uid)
{
	errno = ENOSYS;
	return NULL;
}

int initgroups(const char *user, gid_t group)
{
	errno = ENOSYS;
	return -1;
}

int __vsnprintf_chk(char *s, size_t n, int flag, size_t size, const char *fmt, va_list ap)
{
	if (size < n)
		abort();
	return vsnprintf(s, n, fmt, ap);
}

/* libcap-ng reads two numbers of eight hexadecimal digits in a line of /proc/self/status, and that
 * only if there is one: elsewhere mvm needs no scanf, which with floating point is 15 KiB. */
int __isoc99_sscanf(const char *s, const char *fmt, ...)
{
	char digits[9];
	int done = 0;
	va_list ap;

	va_start(ap, fmt);
	for (; *fmt; fmt++) {
		if (isspace((unsigned char)*fmt)) {
			s += strspn(s, " \t");
		} else if (!strncmp(fmt, "%08x", 4)) {
			snprintf(digits, sizeof digits, "%s", s);
			s += strspn(digits, "0123456789abcdefABCDEF");
			*va_arg(ap, unsigned *) = (unsigned)strtoul(digits, NULL, 16);
			done++;
			fmt += 3;
		} else if (*fmt == '%') {
			abort();
		} else if (*s++ != *fmt) {
			break;
		}
	}
	va_end(ap);
	return done;
}
