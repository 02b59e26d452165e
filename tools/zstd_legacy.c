/* zstd_legacy.c - what Debian's libzstd.a calls for frames of zstd 0.5 to 0.7 (2016, before the
 * format was settled): here every such frame is an error.  No kernel was ever packed so, and
 * leaving those decoders out of the link saves 90 KB and three parsers of untrusted data. */
#include <stddef.h>
#include <zstd_errors.h>

#define UNSUPPORTED ((size_t)-ZSTD_error_version_unsupported)

#define LEGACY(v)                                                                                 \
	void *ZSTDv##v##_createDCtx(void);                                                        \
	void *ZSTDv##v##_createDCtx(void)                                                         \
	{                                                                                         \
		return NULL;                                                                      \
	}                                                                                         \
	size_t ZSTDv##v##_freeDCtx(void *ctx);                                                    \
	size_t ZSTDv##v##_freeDCtx(void *ctx)                                                     \
	{                                                                                         \
		return 0;                                                                         \
	}                                                                                         \
	size_t ZSTDv##v##_getFrameParams(void *params, const void *src, size_t len);              \
	size_t ZSTDv##v##_getFrameParams(void *params, const void *src, size_t len)               \
	{                                                                                         \
		return UNSUPPORTED;                                                               \
	}                                                                                         \
	size_t ZSTDv##v##_decompress_usingDict(void *ctx, void *dst, size_t cap, const void *src, \
					       size_t len, const void *dict, size_t dict_len);    \
	size_t ZSTDv##v##_decompress_usingDict(void *ctx, void *dst, size_t cap, const void *src, \
					       size_t len, const void *dict, size_t dict_len)     \
	{                                                                                         \
		return UNSUPPORTED;                                                               \
	}                                                                                         \
	void ZSTDv##v##_findFrameSizeInfoLegacy(const void *src, size_t len, size_t *size,        \
						unsigned long long *bound);                       \
	void ZSTDv##v##_findFrameSizeInfoLegacy(const void *src, size_t len, size_t *size,        \
						unsigned long long *bound)                        \
	{                                                                                         \
		*size = UNSUPPORTED;                                                              \
		*bound = ~0ull - 1; /* ZSTD_CONTENTSIZE_ERROR */                                  \
	}                                                                                         \
	void *ZBUFFv##v##_createDCtx(void);                                                       \
	void *ZBUFFv##v##_createDCtx(void)                                                        \
	{                                                                                         \
		return NULL;                                                                      \
	}                                                                                         \
	size_t ZBUFFv##v##_freeDCtx(void *ctx);                                                   \
	size_t ZBUFFv##v##_freeDCtx(void *ctx)                                                    \
	{                                                                                         \
		return 0;                                                                         \
	}                                                                                         \
	size_t ZBUFFv##v##_decompressInitDictionary(void *ctx, const void *dict, size_t len);     \
	size_t ZBUFFv##v##_decompressInitDictionary(void *ctx, const void *dict, size_t len)      \
	{                                                                                         \
		return UNSUPPORTED;                                                               \
	}                                                                                         \
	size_t ZBUFFv##v##_decompressContinue(void *ctx, void *dst, size_t *cap, const void *src, \
					      size_t *len);                                       \
	size_t ZBUFFv##v##_decompressContinue(void *ctx, void *dst, size_t *cap, const void *src, \
					      size_t *len)                                        \
	{                                                                                         \
		return UNSUPPORTED;                                                               \
	}

LEGACY(05)
LEGACY(06)
LEGACY(07)
