/* printf.c - vfprintf, on which musl builds all of printf's family, without floating point: musl's
 * own is 10 KiB, most of it for conversions that nothing here makes and mvm is not to contain.
 *
 * Flags, width, precision, all lengths; d i u x X c s p %.  Anything else is a bug of the caller's
 * and ends the program.  Any thread; no state.  Source: C17 7.21.6.1. */
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct spec {
	bool left, plus, space, alt, zero;
	int width, precision; /* precision -1: not given */
	int bytes;
};

struct out {
	FILE *f;
	size_t n;
};

static void put(struct out *o, const char *s, size_t n)
{
	if (n)
		fwrite(s, 1, n, o->f);
	o->n += n;
}

static void pad(struct out *o, char c, int n)
{
	while (n-- > 0)
		put(o, &c, 1);
}

/* before: a sign or 0x; zeros go between it and the text, blanks around both. */
static void put_field(struct out *o, const struct spec *s, const char *before, int zeros,
		      const char *text, size_t len)
{
	int blanks = s->width - (int)strlen(before) - zeros - (int)len;

	if (!s->left)
		pad(o, ' ', blanks);
	put(o, before, strlen(before));
	pad(o, '0', zeros);
	put(o, text, len);
	if (s->left)
		pad(o, ' ', blanks);
}

static void put_number(struct out *o, const struct spec *s, uint64_t v, const char *before,
		       char kind)
{
	const char *digits = kind == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
	unsigned base = kind == 'x' || kind == 'X' ? 16 : 10;
	char text[20], *p = text + sizeof text;
	int len, least = s->precision;

	if (base == 16 && s->alt && v)
		before = kind == 'X' ? "0X" : "0x";
	for (; v; v /= base)
		*--p = digits[v % base];
	len = (int)(text + sizeof text - p);
	if (least < 0)
		least = s->zero && !s->left && s->width > 1 ? s->width - (int)strlen(before) : 1;
	put_field(o, s, before, least > len ? least - len : 0, p, (size_t)len);
}

static void put_signed(struct out *o, const struct spec *s, int64_t v)
{
	const char *sign = v < 0 ? "-" : s->plus ? "+" : s->space ? " " : "";

	put_number(o, s, v < 0 ? -(uint64_t)v : (uint64_t)v, sign, 'd');
}

static void put_string(struct out *o, const struct spec *s, const char *text)
{
	size_t most = s->precision < 0 ? SIZE_MAX : (size_t)s->precision;

	put_field(o, s, "", 0, text, strnlen(text, most));
}

static bool take_flag(struct spec *s, char c)
{
	switch (c) {
	case '-': return s->left = true;
	case '+': return s->plus = true;
	case ' ': return s->space = true;
	case '#': return s->alt = true;
	case '0': return s->zero = true;
	default: return false;
	}
}

static const char *take_int(const char *f, int *v, va_list *ap)
{
	if (*f == '*') {
		*v = va_arg(*ap, int);
		return f + 1;
	}
	for (*v = 0; *f >= '0' && *f <= '9'; f++)
		*v = *v * 10 + *f - '0';
	return f;
}

static const char *take_spec(const char *f, struct spec *s, va_list *ap)
{
	*s = (struct spec){ .precision = -1, .bytes = 4 };
	while (take_flag(s, *f))
		f++;
	f = take_int(f, &s->width, ap);
	if (s->width < 0) {
		s->left = true;
		s->width = -s->width;
	}
	if (*f == '.')
		f = take_int(f + 1, &s->precision, ap);
	for (; *f == 'h'; f++)
		s->bytes /= 2;
	for (; *f && strchr("lzjt", *f); f++)
		s->bytes = 8;
	return f;
}

static int64_t signed_arg(const struct spec *s, va_list *ap)
{
	int64_t v = s->bytes == 8 ? va_arg(*ap, int64_t) : va_arg(*ap, int);

	return s->bytes == 1 ? (int8_t)v : s->bytes == 2 ? (int16_t)v : v;
}

static uint64_t unsigned_arg(const struct spec *s, va_list *ap)
{
	uint64_t v = s->bytes == 8 ? va_arg(*ap, uint64_t) : va_arg(*ap, unsigned);

	return s->bytes < 4 ? v & ((1u << 8 * s->bytes) - 1) : v;
}

static void convert(struct out *o, struct spec *s, char kind, va_list *ap)
{
	char c;

	switch (kind) {
	case 'd':
	case 'i': return put_signed(o, s, signed_arg(s, ap));
	case 'u':
	case 'x':
	case 'X': return put_number(o, s, unsigned_arg(s, ap), "", kind);
	case 'p':
		s->alt = true;
		return put_number(o, s, (uint64_t)va_arg(*ap, void *), "", 'x');
	case 's': return put_string(o, s, va_arg(*ap, const char *));
	case 'c': c = (char)va_arg(*ap, int); return put_field(o, s, "", 0, &c, 1);
	case '%': return put(o, "%", 1);
	default: abort();
	}
}

int vfprintf(FILE *restrict file, const char *restrict f, va_list args)
{
	struct out o = { file, 0 };
	struct spec s;
	va_list ap;

	va_copy(ap, args);
	while (*f) {
		size_t plain = strcspn(f, "%");

		put(&o, f, plain);
		f += plain;
		if (!*f)
			break;
		f = take_spec(f + 1, &s, &ap);
		convert(&o, &s, *f++, &ap);
	}
	va_end(ap);
	return ferror(file) ? -1 : (int)o.n;
}
