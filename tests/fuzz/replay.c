/* replay.c - a plain main() for the fuzz targets: `NAME-replay PATH...` runs the target over every
 * file given or found in the folders given, then over mutations of them (and of the empty input),
 * from a fixed seed: always the same ones, up to a number and a time.  No sanitizer or clang is
 * needed, so `make test` can do it. */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../../base.h"

enum { INPUT_MAX = 1 << 16, MUTATIONS = 20000, SECONDS_MAX = 5, INPUT_SECONDS = 30,
	SEEDS_MAX = 512 };

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

struct input {
	u8 *data;
	size_t len;
};

static struct input seeds[SEEDS_MAX];
static size_t nr_seeds;
static u64 rng = 0x9e3779b97f4a7c15ull;

static u64 replay_random(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

static void replay_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	u8 *buf = malloc(INPUT_MAX);

	if (!f || !buf || nr_seeds == SEEDS_MAX) {
		fprintf(stderr, "replay: cannot take %s\n", path);
		exit(2);
	}
	seeds[nr_seeds++] = (struct input){ buf, fread(buf, 1, INPUT_MAX, f) };
	fclose(f);
}

static int replay_by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void replay_path(const char *path)
{
	struct dirent **names;
	struct stat st;

	if (stat(path, &st) < 0)
		return; /* a target without a stored corpus */
	if (!S_ISDIR(st.st_mode)) {
		replay_file(path);
		return;
	}
	for (int i = 0, n = scandir(path, &names, NULL, replay_by_name); i < n; i++) {
		char full[4096];

		snprintf(full, sizeof full, "%s/%s", path, names[i]->d_name);
		if (names[i]->d_name[0] != '.')
			replay_file(full);
	}
}

/* A seed with a few bytes changed, cut short or grown; seed 0 is empty, so it may become anything.
 */
static size_t replay_mutate(u8 *out)
{
	const struct input *in = &seeds[replay_random() % nr_seeds];
	size_t len = in->len;

	memcpy(out, in->data, len);
	if (len == 0 || replay_random() % 4 == 0) {
		size_t grown = MIN(len + replay_random() % 256, INPUT_MAX);

		while (len < grown)
			out[len++] = (u8)replay_random();
	}
	for (u64 n = len ? replay_random() % 8 : 0; n > 0; n--)
		out[replay_random() % len] = (u8)replay_random();
	if (replay_random() % 4 == 0)
		len = replay_random() % (len + 1);
	return len;
}

static struct input running;

static void replay_run(const u8 *data, size_t len)
{
	running = (struct input){ (u8 *)data, len };
	alarm(INPUT_SECONDS);
	LLVMFuzzerTestOneInput(data, len);
}

/* What it crashed on, for xxd -r -p. */
static void replay_crashed(int sig)
{
	fprintf(stderr, "replay: signal %d on these %zu bytes:\n", sig, running.len);
	for (size_t i = 0; i < running.len; i++)
		fprintf(stderr, "%02x%s", running.data[i], i % 32 == 31 ? "\n" : "");
	fputc('\n', stderr);
	_exit(128 + sig);
}

int main(int argc, char **argv)
{
	static u8 buf[INPUT_MAX];
	time_t end = time(NULL) + SECONDS_MAX;
	int n;

	signal(SIGABRT, replay_crashed);
	signal(SIGALRM, replay_crashed);
	seeds[nr_seeds++] = (struct input){ malloc(1), 0 };
	for (int i = 1; i < argc; i++)
		replay_path(argv[i]);
	for (size_t i = 0; i < nr_seeds; i++)
		replay_run(seeds[i].data, seeds[i].len);
	for (n = 0; n < MUTATIONS && time(NULL) < end; n++) {
		/* a fresh block of just that size, so that a sanitizer sees an overrun */
		size_t len = replay_mutate(buf);
		u8 *copy = malloc(len + 1);

		memcpy(copy, buf, len);
		replay_run(copy, len);
		free(copy);
	}
	printf("%s: %zu stored inputs, %d mutations\n", argv[0], nr_seeds - 1, n);
	return 0;
}
