/* words.c - a Linux program without a C library, built for 32 and for 64 bits, that says the same
 * either way: what it computes uses no type whose size differs.  For e2e: 32-bit processes under a
 * 64-bit kernel, beside the host's own run of the 64-bit one. */
typedef unsigned char u8;
typedef unsigned u32;
typedef unsigned long long u64;
typedef unsigned long word;

#ifdef __i386__
enum { WRITE = 4, MMAP = 192, EXIT = 1, THREAD_AREA = 243 };

static long call(long n, long a, long b, long c, long d, long e, long f)
{
	long r;

	/* the sixth argument is in EBP, which GCC keeps */
	__asm__ volatile("push %[f]; push %%ebp; mov 4(%%esp), %%ebp; int $0x80; pop %%ebp; add $4, %%esp"
			 : "=a"(r)
			 : "0"(n), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), [f] "m"(f)
			 : "memory");
	return r;
}

/* Linux: struct user_desc. */
static void own_segment(void *base)
{
	static struct {
		u32 entry, base, limit, flags;
	} d = { -1u, 0, 0xfffff, 0x51 }; /* 32-bit, pages, usable */

	d.base = (u32)base;
	call(THREAD_AREA, (long)&d, 0, 0, 0, 0, 0);
	__asm__ volatile("mov %0, %%gs" : : "r"(d.entry << 3 | 3));
}
#define OWN "gs"
#else
enum { WRITE = 1, MMAP = 9, EXIT = 60, ARCH_PRCTL = 158, SET_FS = 0x1002 };

static long call(long n, long a, long b, long c, long d, long e, long f)
{
	long r;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return r;
}

static void own_segment(void *base)
{
	call(ARCH_PRCTL, SET_FS, (long)base, 0, 0, 0, 0);
}
#define OWN "fs"
#endif

/* --- saying ----------------------------------------------------------------------------------- */
static void say(const char *name, u32 value)
{
	char line[64];
	u32 n = 0;

	while (*name)
		line[n++] = *name++;
	line[n++] = ' ';
	for (int shift = 28; shift >= 0; shift -= 4)
		line[n++] = "0123456789abcdef"[value >> shift & 15];
	line[n++] = '\n';
	call(WRITE, 1, (long)line, (long)n, 0, 0, 0);
}

static u32 seed = 1;
static u32 random_word(void)
{
	return seed = seed * 1664525 + 1013904223;
}

/* --- what is computed ------------------------------------------------------------------------- */
enum { N = 1 << 14 };
static u32 array[N];
static u8 bytes[4 * N], other[4 * N];

static u32 sum(const void *p, u32 n)
{
	const u8 *b = p;
	u32 h = 2166136261;

	while (n--)
		h = (h ^ *b++) * 16777619;
	return h;
}

static void quicksort(u32 *a, int lo, int hi)
{
	while (lo < hi) {
		u32 pivot = a[(lo + hi) / 2], t;
		int i = lo, j = hi;

		while (i <= j) {
			while (a[i] < pivot)
				i++;
			while (a[j] > pivot)
				j--;
			if (i <= j)
				t = a[i], a[i++] = a[j], a[j--] = t;
		}
		quicksort(a, lo, j);
		lo = i;
	}
}

static u32 sort(void)
{
	for (u32 i = 0; i < N; i++)
		array[i] = random_word();
	quicksort(array, 0, N - 1);
	return sum(array, sizeof array);
}

static u32 fib(u32 n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static u32 calls(void)
{
	return fib(27);
}

/* Carries, borrows, wide products, shifts across words. */
static u32 wide(void)
{
	u64 a = 0x0123456789abcdef, b = 1;

	for (u32 i = 0; i < 1000000; i++) {
		b = b * 6364136223846793005u + a;
		a = (a << (b & 31)) ^ (a >> 17) ^ (b - i);
	}
	return (u32)(a ^ b >> 32);
}

static u32 strings(void)
{
	u32 h = 0;

	for (u32 i = 0; i < sizeof bytes; i++)
		bytes[i] = (u8)random_word();
	for (u32 i = 0; i < 400; i++) {
		word n = random_word() % 5000;
		void *d = other + random_word() % 9000, *s = bytes + random_word() % 9000;

		if (i & 1)
			__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
		else
			__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(i) : "memory");
		h += sum(other, 512);
	}
	return h + sum(other, sizeof other);
}

static u32 add(u32 a, u32 b) { return a + b; }
static u32 mix(u32 a, u32 b) { return (a ^ b) * 31; }
static u32 turn(u32 a, u32 b) { return a << (b & 7) | a >> 25; }
static u32 (*volatile ways[4])(u32, u32) = { add, mix, turn, add };

static u32 indirect(void)
{
	u32 h = 7;

	for (u32 i = 0; i < 300000; i++)
		h = ways[(h ^ i) & 3](h, i);
	return h;
}

/* Vectors of bytes and doubles whose sums are exact. */
static u32 vectors(void)
{
	typedef u8 v16 __attribute__((vector_size(16)));
	v16 v = { 1, 2, 3, 4, 5, 6, 7, 8 }, w = { 9 };
	double d = 0;

	for (u32 i = 0; i < 100000; i++) {
		w += v;
		v ^= w << 1;
		d += i & 255;
	}
	return sum(&v, sizeof v) + (u32)d;
}

/* By the segment register that threads use, and past its base. */
static u32 own(void)
{
	static u32 area[1024];
	u32 h = 0, v;

	for (u32 i = 0; i < 1024; i++)
		area[i] = random_word();
	own_segment(area + 512);
	for (word i = 0; i < 200000; i++) {
		word at = (i * 36 & 4092) - 2048;

		__asm__ volatile("mov %%" OWN ":(%1), %0; addl $1, %%" OWN ":(%1)" : "=&r"(v) : "r"(at));
		h = h * 33 + v;
	}
	return h;
}

/* MOV EAX, n; RET, written again and again. */
static u32 rewritten(void)
{
	u8 *p = (u8 *)call(MMAP, 0, 4096, 7, 0x22, -1, 0);
	u32 h = 0;

	for (u32 i = 0; i < 3000; i++) {
		p[0] = 0xb8, p[1] = (u8)i, p[2] = (u8)(i >> 8), p[3] = p[4] = 0, p[5] = 0xc3;
		for (u32 n = 0; n < 20; n++)
			h = h * 5 + ((u32(*)(void))p)();
	}
	return h;
}

__attribute__((force_align_arg_pointer)) void _start(void)
{
	static const struct {
		const char *name;
		u32 (*fn)(void);
	} list[] = { { "sort", sort },	     { "calls", calls },     { "wide", wide },
		     { "strings", strings }, { "indirect", indirect }, { "vectors", vectors },
		     { "own", own },	     { "rewritten", rewritten } };

	for (u32 round = 0; round < 3; round++)
		for (u32 i = 0; i < sizeof list / sizeof *list; i++)
			say(list[i].name, list[i].fn());
	call(EXIT, 0, 0, 0, 0, 0, 0);
}
