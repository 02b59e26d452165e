/* Tests of boot/payload.c: each method on data made here, then on Debian kernels if they are at
 * hand. */
#include "bootkit.h"

#include <lz4.h>
#include <lzma.h>
#include <time.h>
#include <zlib.h>
#include <zstd.h>

enum { PLAIN = 300000, PACKED_MAX = 400000 };
static u8 plain[PLAIN], packed[PACKED_MAX], out[PLAIN + 100];

static void make_plain(void)
{
	for (size_t i = 0; i < PLAIN; i++)
		plain[i] = (u8)(i * i >> 7 ^ (i % 97 ? 0 : test_random()));
}

/* The packed size with the 4-byte trailer that kernel builds append to all but gzip. */
static size_t trailer(size_t n)
{
	st32(packed + n, PLAIN);
	return n + 4;
}

static size_t pack_gzip(void)
{
	z_stream z = {
		.next_in = plain, .avail_in = PLAIN, .next_out = packed, .avail_out = PACKED_MAX
	};

	OK(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
	OK(deflate(&z, Z_FINISH) == Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

static size_t pack_xz(void)
{
	size_t n = 0;

	OK(lzma_easy_buffer_encode(3, LZMA_CHECK_CRC32, NULL, plain, PLAIN, packed, &n,
				   PACKED_MAX) == LZMA_OK);
	return trailer(n);
}

static size_t pack_lz4(void)
{
	int n = LZ4_compress_default((char *)plain, (char *)packed + 8, PLAIN, PACKED_MAX - 12);

	OK(n > 0);
	st32(packed, 0x184c2102);
	st32(packed + 4, (u32)n);
	return trailer(8 + (size_t)n);
}

static size_t pack_zstd(void)
{
	size_t n = ZSTD_compress(packed, PACKED_MAX - 4, plain, PLAIN, 3);

	OK(!ZSTD_isError(n));
	return trailer(n);
}

static const struct {
	const char *name;
	size_t (*pack)(void);
} methods[] = {
	{ "gzip", pack_gzip }, { "xz", pack_xz }, { "lz4", pack_lz4 }, { "zstd", pack_zstd }
};

static s64 unpack(const u8 *src, size_t len, u8 *dst, size_t cap)
{
	struct boot_heap heap = { 0 };
	s64 rc;

	OK(boot_heap_new(&heap) == 0);
	rc = payload_unpack(&heap, src, len, dst, cap);
	boot_heap_free(&heap);
	return rc;
}

TEST(payload_every_method_unpacks)
{
	make_plain();
	for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
		size_t n = methods[i].pack();

		OK(!strcmp(payload_method(packed, n), methods[i].name));
		EQ(unpack(packed, n, out, sizeof out), PLAIN);
		OK(!memcmp(out, plain, PLAIN));
	}
}

TEST(payload_output_never_exceeds_its_buffer)
{
	make_plain();
	for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
		size_t n = methods[i].pack();

		memset(out, 0x55, sizeof out);
		EQ(unpack(packed, n, out, PLAIN - 1), -ENOSPC);
		EQ(out[PLAIN - 1], 0x55);
		OK(unpack(packed, n, out, 0) < 0);
	}
}

TEST(payload_truncated_or_damaged_input_is_an_error)
{
	make_plain();
	for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
		size_t n = methods[i].pack();

		for (size_t cut = 0; cut < n - 8; cut += 1 + cut / 3)
			OK(unpack(packed, cut, out, sizeof out) != PLAIN);
		for (int round = 0; round < 50; round++) {
			u64 at = 12 + test_random() % (n - 12);

			packed[at] ^= (u8)(1 + test_random() % 255);
			s64 rc = unpack(packed, n, out, sizeof out);

			OK(rc < 0 || rc <= (s64)sizeof out);
		}
	}
}

TEST(payload_unknown_method_is_not_supported)
{
	EQ(unpack((const u8 *)"BZh91AY", 7, out, sizeof out), -ENOTSUP);
	EQ(unpack(out, 0, out, sizeof out), -ENOTSUP);
	OK(!payload_method((const u8 *)"\x1f", 1));
}

/* --- real kernels ----------------------------------------------------------------------------- */
static void boot_real(const char *path, const char *method, u64 mib, const char *words)
{
	struct kit *k = kit_new(mib);
	struct timespec a, b;

	if (access(path, R_OK) < 0)
		SKIP("%s is not there; `make guest` fetches it", path);
	k->c.kernel = path;
	k->c.cmdline = words;
	cpu_state_reset(&k->s, true);
	clock_gettime(CLOCK_MONOTONIC, &a);
	EQ(boot_load(&k->c, &k->m, &k->s, &k->e), 0);
	clock_gettime(CLOCK_MONOTONIC, &b);
	fprintf(stderr, "  %s (%s), %llu MiB: loaded in %lld us, entry %#llx\n", path, method,
		(unsigned long long)mib, (long long)(b.tv_sec - a.tv_sec) * 1000000 +
		(b.tv_nsec - a.tv_nsec) / 1000, (unsigned long long)k->s.rip);
	EQ(k->s.rip % (2 * MIB), 0); /* startup_64 itself: it was unpacked here */
	EQ(!(kit_at(k, LOW_ZERO_PAGE)[0x211] & 2), words != NULL);
	/* startup_64 begins with lea ...(%rip), %rsp in all kernels since 4.x */
	OK(!memcmp(kit_at(k, k->s.rip), "\x48\x8d\x25", 3));
	kit_free(k);
}

TEST(payload_debian_cloud_kernel_lz4)
{
	boot_real("build/guest/vmlinuz", "lz4", 256, NULL);
	boot_real("build/guest/vmlinuz", "lz4", 64, "nokaslr");
}

TEST(payload_debian_generic_kernel_xz)
{
	boot_real("build/guest/vmlinuz-generic", "xz", 256, NULL);
}
