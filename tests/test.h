/* test.h - the test runner's whole interface.  TEST(name) { ... } registers itself; the name is a
 * sentence.  EQ and OK stop the test at the first failure and print both values; SKIP says why.
 * tests/test.c has main(): `mvm-test [-v] [SUBSTRING...]` runs the matching tests. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include "../base.h"

struct test {
	const char *name, *file;
	void (*fn)(void);
	struct test *next;
};
void test_register(struct test *t);
_Noreturn void test_fail(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
_Noreturn void test_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
u64 test_random(void);         /* xorshift; the seed is printed when a test fails */
void test_seed(u64 seed);

#define TEST(id)                                                                                   \
	static void test_##id(void);                                                               \
	static struct test test_entry_##id = { .name = #id, .file = __FILE__, .fn = test_##id };   \
	__attribute__((constructor)) static void test_ctor_##id(void)                              \
	{                                                                                          \
		test_register(&test_entry_##id);                                                   \
	}                                                                                          \
	static void test_##id(void)

#define EQ(a, b)                                                                                   \
	do {                                                                                       \
		long long a_ = (long long)(a), b_ = (long long)(b);                                \
		if (a_ != b_)                                                                      \
			test_fail(__FILE__, __LINE__, "%s = %#llx, expected %s = %#llx", #a, a_,   \
				  #b, b_);                                                         \
	} while (0)
#define OK(cond)                                                                                   \
	do {                                                                                       \
		if (!(cond))                                                                       \
			test_fail(__FILE__, __LINE__, "%s", #cond);                                \
	} while (0)
#define SKIP(...) test_skip(__VA_ARGS__)
