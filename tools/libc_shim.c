/* libc_shim.c - the fortified entry points that Debian's glibc-built archives (libcap-ng, liblzma,
 * ...) call and musl lacks.  Each drops the check of a buffer size known to the compiler, except
 * where the size is at hand; a symbol missing here is a link error, never a silent change. Source:
 * LSB 5.0 core, "Interfaces for libc" (__*_chk). */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <syslog.h>

int __snprintf_chk(char *s, size_t n, int flag, size_t size, const char *fmt, ...);
int __sprintf_chk(char *s, int flag, size_t size, const char *fmt, ...);
int __printf_chk(int flag, const char *fmt, ...);
int __fprintf_chk(FILE *f, int flag, const char *fmt, ...);
int __asprintf_chk(char **out, int flag, const char *fmt, ...);
void __syslog_chk(int prio, int flag, const char *fmt, ...);
int __vsnprintf_chk(char *s, size_t n, int flag, size_t size, const char *fmt, va_list ap);

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

void __syslog_chk(int prio, int flag, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsyslog(prio, fmt, ap);
	va_end(ap);
}

int __vsnprintf_chk(char *s, size_t n, int flag, size_t size, const char *fmt, va_list ap)
{
	if (size < n)
		abort();
	return vsnprintf(s, n, fmt, ap);
}
