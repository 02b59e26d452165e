/* sums.c - compiled and run in a guest and on the host, which must print the same: integers of all
 * sizes, floating point, long double, sorting, hashing, a small interpreter, recursion, setjmp,
 * signals, threads, and code written at run time. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t state = 88172645463325252ull;

static uint64_t rnd(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

static uint64_t fold(uint64_t h, const void *p, size_t n)
{
	for (const unsigned char *c = p; n--; c++)
		h = (h ^ *c) * 0x100000001b3ull;
	return h;
}

static uint64_t integers(void)
{
	uint64_t h = 0;

	for (unsigned i = 0; i < 300000; i++) {
		uint64_t a = rnd(), b = rnd() | 1;
		unsigned n = b >> 58;

		h += a / b + a % (uint32_t)b + (uint64_t)((int64_t)a / (int32_t)b);
		h ^= (a << n | a >> ((64 - n) & 63)) * b;
		h += (uint16_t)a * (int8_t)b + ((int32_t)a >> (n & 31));
		h += (uint64_t)((unsigned __int128)a * b >> 64);
		h ^= (uint64_t)__builtin_popcountll(a) << __builtin_ctzll(b << n | 1ull << 63);
		h = __builtin_bswap64(h) + (a < b ? a : b) + ((int64_t)a < (int64_t)b);
	}
	return h;
}

static uint64_t floats(void)
{
	double x = 0.5, s = 0;
	float f = 1;
	long double l = 1;

	for (int i = 1; i < 200000; i++) {
		x = 3.9 * x * (1 - x);
		s += sqrt(x) / i + (double)(int)(x * 1000) * 1e-3;
		f = f * 1.0001f + (float)x;
		if (f > 1e6f)
			f = 1;
		l = l / 3 + (long double)x * i;
	}
	s += (double)f + (double)l;
	return fold(0, &s, sizeof s);
}

enum { DIM = 96 };
static double ma[DIM][DIM], mb[DIM][DIM], mc[DIM][DIM];

static uint64_t matrices(void)
{
	for (int i = 0; i < DIM; i++)
		for (int j = 0; j < DIM; j++) {
			ma[i][j] = (double)(rnd() & 0xffff) / 256;
			mb[i][j] = (double)(rnd() & 0xffff) / 512;
		}
	for (int r = 0; r < 4; r++)
		for (int i = 0; i < DIM; i++)
			for (int k = 0; k < DIM; k++)
				for (int j = 0; j < DIM; j++)
					mc[i][j] += ma[i][k] * mb[k][j];
	return fold(1, mc, sizeof mc);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint64_t sorting(void)
{
	enum { N = 60000 };
	uint64_t *v = malloc(N * sizeof *v), h;

	for (int i = 0; i < N; i++)
		v[i] = rnd();
	qsort(v, N, sizeof *v, by_value);
	h = fold(2, v, N * sizeof *v);
	free(v);
	return h;
}

static uint64_t strings(void)
{
	char text[4096], *p = text;
	uint64_t h = 3;

	for (int i = 0; i < 400; i++) {
		p = text;
		for (int k = 0; k < 40; k++)
			p += sprintf(p, "%d:%x,%g ", k * i, (unsigned)rnd(), k / 7.0);
		h = fold(h, text, (size_t)(p - text)) + strlen(text);
		memmove(text + 3, text, (size_t)(p - text - 3));
		h += (uint64_t)(strchr(text, ':') - text) + strtoull(text + 5, NULL, 16);
		h ^= (uint64_t)memcmp(text, text + 100, 100) & 1;
	}
	return h;
}

/* A stack machine by computed goto: unpredictable indirect jumps. */
static uint64_t machine(void)
{
	static unsigned char code[256];
	uint64_t st[16] = { 1, 2, 3 }, h = 4;
	unsigned sp = 3, pc = 0;

	for (unsigned i = 0; i < sizeof code; i++)
		code[i] = rnd() & 7;
	for (unsigned n = 0; n < 2000000; n++) {
		static void *const op[] = { &&add, &&sub, &&mul, &&dup, &&drop, &&rot, &&jmp, &&mix };
		uint64_t *t = &st[sp];

		goto *op[code[pc++ & 255]];
	add: t[-1] += t[-2]; continue;
	sub: t[-2] -= t[-1]; continue;
	mul: t[-1] *= t[-2] | 1; continue;
	dup: if (sp < 15) st[sp] = t[-1] + n, sp++; continue;
	drop: if (sp > 3) sp--; continue;
	rot: t[-1] = t[-1] << 7 | t[-1] >> 57; continue;
	jmp: pc += (unsigned)t[-1] & 31; continue;
	mix: h ^= t[-1] + h * 31; continue;
	}
	return h;
}

static unsigned ackermann(unsigned m, unsigned n)
{
	return !m ? n + 1 : !n ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static sigjmp_buf back;
static volatile uint64_t faults;

static void on_signal(int sig, siginfo_t *si, void *ctx)
{
	faults = faults * 31 + (uint64_t)sig + (sig == SIGSEGV ? (uintptr_t)si->si_addr & 0xfff : 0);
	siglongjmp(back, 1);
}

static uint64_t signals(void)
{
	static const int list[] = { SIGSEGV, SIGFPE, SIGILL, SIGTRAP };
	struct sigaction sa = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	char *none = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	volatile int zero = 0;

	for (unsigned i = 0; i < 4; i++)
		sigaction(list[i], &sa, NULL);
	for (volatile int i = 0; i < 400; i++)
		if (!sigsetjmp(back, 1))
			switch (i & 3) {
			case 0: none[i] = 1; break;
			case 1: zero = i / zero; break;
			case 2: __asm__ volatile("ud2"); break;
			default: __asm__ volatile("1: movaps %%xmm0, 1(%%rsp)" : : : "memory");
			}
	for (unsigned i = 0; i < 4; i++)
		signal(list[i], SIG_DFL);
	return faults & 0xffffffff;
}

static uint64_t shared;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void *worker(void *arg)
{
	for (int i = 0; i < 50000; i++) {
		__atomic_fetch_add(&shared, (uint64_t)(uintptr_t)arg, __ATOMIC_SEQ_CST);
		pthread_mutex_lock(&mutex);
		ma[0][0] += 1;
		pthread_mutex_unlock(&mutex);
	}
	return NULL;
}

static uint64_t threads(void)
{
	pthread_t t[4];

	ma[0][0] = 0;
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, worker, (void *)(i + 1));
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	return shared + (uint64_t)ma[0][0];
}

/* mov eax, n; ret: written anew, and changed in place, each time before it is called. */
static uint64_t code(void)
{
	unsigned char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t h = 5;

	for (uint32_t i = 0; i < 3000; i++) {
		unsigned char *f = p + (i % 32) * 64 + i % 7;

		f[0] = 0xb8;
		memcpy(f + 1, &i, 4);
		f[5] = 0xc3;
		h = h * 33 + ((uint32_t(*)(void))f)();
		f[1] ^= 0x5a;
		h = h * 33 + ((uint32_t(*)(void))f)();
	}
	return h;
}

static uint64_t processes(void)
{
	uint64_t h = 6;

	for (int i = 0; i < 20; i++) {
		int status, fd[2];
		char c;

		if (pipe(fd) < 0)
			exit(1);
		if (fork() == 0) {
			c = (char)(integers() >> i);
			_exit(write(fd[1], &c, 1) == 1 ? i + 3 : 0);
		}
		wait(&status);
		if (read(fd[0], &c, 1) != 1)
			exit(1);
		h = h * 33 + (uint64_t)WEXITSTATUS(status) + (unsigned char)c;
		close(fd[0]);
		close(fd[1]);
	}
	return h;
}

int main(void)
{
#define SHOW(f) printf("%s %016llx\n", #f, (unsigned long long)f())
	SHOW(integers);
	SHOW(floats);
	SHOW(matrices);
	SHOW(sorting);
	SHOW(strings);
	SHOW(machine);
	printf("ackermann %u\n", ackermann(2, 2000));
	SHOW(signals);
	SHOW(threads);
	SHOW(code);
	fflush(stdout);
	SHOW(processes);
	return 0;
}
