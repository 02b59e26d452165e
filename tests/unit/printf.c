/* tools/printf.c as all of mvm uses it; a sanitized build asks glibc the same. */
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "../test.h"

/* Without the compiler's opinion on formats. */
static int printf_to(char *out, size_t size, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(out, size, fmt, ap);
	va_end(ap);
	return n;
}

#define PRINTS(want, ...)                                             \
	do {                                                          \
		char text_[80];                                       \
		int n_ = printf_to(text_, sizeof text_, __VA_ARGS__); \
		if (strcmp(text_, want))                              \
			test_fail(__FILE__, __LINE__, "%s", text_);   \
		EQ(n_, strlen(want));                                 \
	} while (0)

TEST(printf_integers)
{
	PRINTS("0 -1 2147483647 -2147483648", "%d %d %i %d", 0, -1, INT32_MAX, INT32_MIN);
	PRINTS("-9223372036854775808", "%lld", INT64_MIN);
	PRINTS("18446744073709551615 ffffffffffffffff", "%llu %lx", UINT64_MAX, UINT64_MAX);
	PRINTS("4294967295 0 ff FF", "%u %u %x %X", UINT32_MAX, 0, 255, 255);
	PRINTS("-1 255 -1 65535", "%hhd %hhu %hd %hu", 255, 511, 65535, 131071);
	PRINTS("7 -7 9", "%zu %zd %jd", (size_t)7, (ssize_t)-7, (intmax_t)9);
}

TEST(printf_flags_width_and_precision)
{
	PRINTS("[   42][42   ][00042][  042]", "[%5d][%-5d][%05d][%5.3d]", 42, 42, 42, 42);
	PRINTS("[-0042][  -42][+42][ 42]", "[%05d][%5d][%+d][% d]", -42, -42, 42, 42);
	PRINTS("[0x2a][0][0x002a][  0X2A]", "[%#x][%#x][%#06x][%#6X]", 42, 0, 42, 42);
	PRINTS("[   7][7   ][]", "[%*d][%-*d][%.0d]", 4, 7, 4, 7, 0);
	PRINTS("[0000beef][00000000deadbeef]", "[%08x][%016llx]", 0xbeef, 0xdeadbeefull);
	PRINTS("[7   ]", "[%*d]", -4, 7);
}

TEST(printf_text)
{
	PRINTS("a%b", "%c%%%s", 'a', "b");
	PRINTS("[  abc][abc  ][ab][]", "[%5s][%-5s][%.2s][%.*s]", "abc", "abc", "abc", 0, "abc");
	PRINTS("[    x][0x10]", "[%5c][%p]", 'x', (void *)16);
}

TEST(printf_cuts_and_says_how_long_it_was)
{
	char text[6] = "?????";
	FILE *f = tmpfile();

	EQ(printf_to(text, 4, "%s-%d", "ab", 1234), 7);
	EQ(memcmp(text, "ab-\0?", 5), 0);
	EQ(printf_to(NULL, 0, "%d", 12345), 5);
	OK(f);
	EQ(fprintf(f, "%s %u\n", "line", 1), 7);
	rewind(f);
	OK(fgets(text, sizeof text, f));
	OK(!strcmp(text, "line "));
	fclose(f);
}
