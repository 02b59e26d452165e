/* san_shim.c - sanitized builds only: memcpy and its kin that keep the vector registers.
 *
 * While guest code runs, its FP state lives in the host's registers (tcg/native.c); mvm's own code
 * has no vector instructions and musl's memcpy has none, but glibc's and the sanitizers' have.  The
 * linker sends every such call of mvm's here (--wrap), and here the registers are put aside. */
#include "../base.h"

enum { XCOMP_ALL = 7, AREA_BYTES = 832 };

#define PLAIN __attribute__((no_sanitize("address", "thread", "undefined")))

/* XRSTOR objects to most of what may be in a header that XSAVE did not write. */
static inline PLAIN void fp_save(u8 *area)
{
	u8 *header = area + 512;
	u64 n = 64;

	__asm__ volatile("rep stosb" : "+D"(header), "+c"(n) : "a"(0) : "memory");
	__asm__ volatile("xsave64 (%0)" : : "r"(area), "a"(XCOMP_ALL), "d"(0) : "memory");
}

static inline PLAIN void fp_load(const u8 *area)
{
	__asm__ volatile("xrstor64 (%0)" : : "r"(area), "a"(XCOMP_ALL), "d"(0) : "memory");
}

#define WRAP(type, name, arg2)                                         \
	type __real_##name(void *, arg2, size_t);                      \
	type __wrap_##name(void *, arg2, size_t);                      \
	PLAIN type __wrap_##name(void *a, arg2 b, size_t n)            \
	{                                                              \
		u8 area[AREA_BYTES] __attribute__((aligned(64)));      \
		type result;                                           \
                                                                       \
		fp_save(area);                                         \
		result = __real_##name(a, b, n);                       \
		fp_load(area);                                         \
		return result;                                         \
	}

WRAP(void *, memcpy, const void *)
WRAP(void *, memmove, const void *)
WRAP(void *, memset, int)
WRAP(int, memcmp, const void *)
#ifdef __clang__
WRAP(void *, __asan_memcpy, const void *)
WRAP(void *, __asan_memmove, const void *)
WRAP(void *, __asan_memset, int)
#endif

/* A vCPU lives in a mapping of its own, which LeakSanitizer does not search for pointers: what it
 * owns looks lost at the end of a process that frees nothing. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:tcg_vcpu_new\nleak:lapic_new\n";
}
