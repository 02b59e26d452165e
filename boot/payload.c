/* payload.c - unpacks a kernel's compressed payload with the methods' own libraries.
 *
 * The destination is guest memory, so nothing is copied twice; its size bounds the output whatever
 * the input says.   bzip2, LZMA and LZO kernels unpack themselves.
 * Sources: Linux lib/decompress.c (magic numbers), scripts/Makefile.lib (all but gzip append the
 * unpacked size, 4 bytes); LZ4 "Legacy frame" (lz4_Frame_format.md). */
#include "parts.h"

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#define ZSTD_STATIC_LINKING_ONLY /* ZSTD_initStaticDCtx */
#include <zstd.h>

enum { SIZE_TRAILER = 4 };
#define LZ4_LEGACY_BLOCK (8 * MIB)

/* The libraries' calls for memory: all of it goes when the loading ends. */
static void *heap_calloc(void *heap, size_t n, size_t size)
{
	u64 bytes;

	return mul_u64(n, size, &bytes) ? boot_alloc(heap, bytes) : NULL;
}

static void heap_free(void *heap, void *p)
{
}

static void *heap_zalloc(void *heap, uInt n, uInt size)
{
	return heap_calloc(heap, n, size);
}

static s64 unpack_gzip(struct boot_heap *heap, const u8 *src, size_t len, u8 *dst, size_t cap)
{
	z_stream z = {
		.zalloc = heap_zalloc, .zfree = heap_free, .opaque = heap,
		.next_in = (u8 *)src, .avail_in = (uInt)len, .next_out = dst, .avail_out = (uInt)cap
	};
	int rc;

	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return -ENOMEM;
	rc = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	if (rc == Z_STREAM_END)
		return (s64)z.total_out;
	return rc == Z_BUF_ERROR && z.avail_out == 0 ? -ENOSPC : -EINVAL;
}

static s64 unpack_xz(struct boot_heap *heap, const u8 *src, size_t len, u8 *dst, size_t cap)
{
	const lzma_allocator memory = { heap_calloc, heap_free, heap };
	u64 limit = BOOT_UNPACK_MAX;
	size_t in = 0, out = 0;
	lzma_ret rc = lzma_stream_buffer_decode(&limit, 0, &memory, src, &in, len, dst,
						   &out, cap);

	if (rc == LZMA_OK)
		return (s64)out;
	if (rc == LZMA_MEM_ERROR || rc == LZMA_MEMLIMIT_ERROR)
		return -ENOMEM;
	return rc == LZMA_BUF_ERROR ? -ENOSPC : -EINVAL;
}

/* A magic number, then blocks: u32 compressed size, bytes.  Each unpacks to 8 MiB but the last. */
static s64 unpack_lz4(struct boot_heap *heap, const u8 *src, size_t len, u8 *dst, size_t cap)
{
	size_t pos = 4, out = 0;

	if (len < SIZE_TRAILER + pos)
		return -EINVAL;
	len -= SIZE_TRAILER;
	while (len - pos >= 4) {
		u32 n = ld32(src + pos);
		size_t room = MIN(cap - out, LZ4_LEGACY_BLOCK);
		int got;

		pos += 4;
		if (n > len - pos || n > INT32_MAX)
			return -EINVAL;
		got = LZ4_decompress_safe((const char *)src + pos, (char *)dst + out, (int)n,
					  (int)room);
		if (got < 0)
			return room < LZ4_LEGACY_BLOCK ? -ENOSPC : -EINVAL;
		pos += n;
		out += (size_t)got;
	}
	return pos == len ? (s64)out : -EINVAL;
}

static s64 unpack_zstd(struct boot_heap *heap, const u8 *src, size_t len, u8 *dst, size_t cap)
{
	size_t room = ZSTD_estimateDCtxSize();
	void *space = boot_alloc(heap, room);
	ZSTD_DCtx *ctx = space ? ZSTD_initStaticDCtx(space, room) : NULL;
	size_t frame = ZSTD_findFrameCompressedSize(src, len);
	unsigned long long size;
	size_t got;

	if (!ctx)
		return -ENOMEM;
	if (ZSTD_isError(frame))
		return -EINVAL;
	size = ZSTD_getFrameContentSize(src, frame);
	if (size != ZSTD_CONTENTSIZE_UNKNOWN && size != ZSTD_CONTENTSIZE_ERROR && size > cap)
		return -ENOSPC;
	got = ZSTD_decompressDCtx(ctx, dst, cap, src, frame);
	return ZSTD_isError(got) ? -EINVAL : (s64)got;
}

static const struct method {
	const char *name;
	u8 magic_len;
	u8 magic[6];
	s64 (*unpack)(struct boot_heap *heap, const u8 *src, size_t len, u8 *dst, size_t cap);
} methods[] = {
	{ "gzip", 2, { 0x1f, 0x8b }, unpack_gzip },
	{ "xz", 6, { 0xfd, '7', 'z', 'X', 'Z', 0 }, unpack_xz },
	{ "lz4", 4, { 0x02, 0x21, 0x4c, 0x18 }, unpack_lz4 },
	{ "zstd", 4, { 0x28, 0xb5, 0x2f, 0xfd }, unpack_zstd },
};

static const struct method *find_method(const u8 *src, size_t len)
{
	for (size_t i = 0; i < ARRAY_LEN(methods); i++)
		if (len >= methods[i].magic_len &&
		    !memcmp(src, methods[i].magic, methods[i].magic_len))
			return &methods[i];
	return NULL;
}

const char *payload_method(const u8 *src, size_t len)
{
	const struct method *m = find_method(src, len);

	return m ? m->name : NULL;
}

s64 payload_unpack(struct boot_heap *heap, const u8 *src, size_t len, u8 *dst, size_t cap)
{
	const struct method *m = find_method(src, len);

	if (!m)
		return -ENOTSUP;
	/* zlib counts in 32 bits; a kernel's virtual window is 1 GiB. */
	if (len > INT32_MAX)
		return -EINVAL;
	return m->unpack(heap, src, len, dst, MIN(cap, GIB));
}
