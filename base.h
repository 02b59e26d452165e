/* base.h - what every file of mvm may use: integer names, checked arithmetic, errors, log.
 *
 * Errors come in three kinds and only the first uses struct err: (1) a user's or the host's fault
 * at set-up: a function returns -errno and fills *e with "object: what failed; what to do";
 * (2) a guest's fault: never an error of ours, the device answers as hardware would; (3) a bug of
 * ours: ASSERT, which stays on in release builds and never tests guest or file data. */
#pragma once

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef unsigned __int128 u128;
typedef u64 gpa_t; /* guest physical address */
typedef u64 gva_t; /* guest linear address */

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
/* The lesser or greater argument is evaluated twice: no side effects in it. */
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define BIT(n) (1ull << (n))
#define ALIGN_DOWN(x, a) ((x) & ~((u64)(a) - 1))
#define ALIGN_UP(x, a) (((x) + (u64)(a) - 1) & ~((u64)(a) - 1))
#define PAGE_SIZE 4096ull
#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)
#define NS_PER_SEC 1000000000ull

/* One reported failure of set-up; main prints text once and exits with the status for code. */
struct err {
	int code;       /* -errno */
	char text[400]; /* "object: what failed; what to do", no newline */
};

/* Fill *e and return code (a negative errno), so that `return err_set(...)` reads well. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#ifdef __clang_analyzer__ /* which sees one file at a time */
static inline int err_negative(int code)
{
	return code < 0 ? code : -1;
}
#define err_set(e, code, ...) err_negative(err_set(e, code, __VA_ARGS__))
#endif

enum log_level { LOG_ERR, LOG_WARN, LOG_INFO, LOG_DBG };

/* One line to stderr or the log file: "mvm: who: text".  Thread-safe.  Bytes that came from a guest
 * must be passed through log_escape() first. */
void log_at(enum log_level lvl, const char *who, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Plain text to stderr, up to 500 bytes, by nothing but write(2). */
void text_err(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_set_level(enum log_level lvl);

#define log_err(who, ...) log_at(LOG_ERR, who, __VA_ARGS__)
#define log_warn(who, ...) log_at(LOG_WARN, who, __VA_ARGS__)
#define log_info(who, ...) log_at(LOG_INFO, who, __VA_ARGS__)
#define log_dbg(who, ...) log_at(LOG_DBG, who, __VA_ARGS__)

/* A line that a guest can cause at will: at most so many a second from one place, then, in a later
 * second, how many were suppressed. */
struct log_limit {
	u32 second, used, dropped; /* atomic */
};
#define log_limited(lvl, most, who, ...)                                                           \
	do {                                                                                       \
		static struct log_limit log_limit_;                                                \
		if (log_limit_ok(&log_limit_, most, lvl, who))                                     \
			log_at(lvl, who, __VA_ARGS__);                                             \
	} while (0)
bool log_limit_ok(struct log_limit *l, u32 most, enum log_level lvl, const char *who);

/* What a guest does wrong. */
enum { LOG_GUEST_MOST = 10 };
#define log_guest(who, ...) log_limited(LOG_DBG, LOG_GUEST_MOST, who, __VA_ARGS__)

/* A bug of ours: prints file, line and condition, restores the terminal, aborts.  No side effects
 * in cond; never about guest, disk, socket or kernel data. */
#define ASSERT(cond)                                                                               \
	do {                                                                                       \
		if (unlikely(!(cond)))                                                             \
			assert_failed(__FILE__, __LINE__, #cond);                                  \
	} while (0)
_Noreturn void assert_failed(const char *file, int line, const char *cond);

/* A function to run before the process dies by ASSERT or a fatal signal (host/tty.c registers the
 * restoring of the terminal); one slot, must be async-signal-safe. */
extern void (*fatal_hook)(void);

/* True and *out, or false if the result does not fit u64. */
static inline bool add_u64(u64 a, u64 b, u64 *out)
{
	return !__builtin_add_overflow(a, b, out);
}

static inline bool mul_u64(u64 a, u64 b, u64 *out)
{
	return !__builtin_mul_overflow(a, b, out);
}

/* Read all of len bytes at off; 0, or -errno, which is -EIO past the file's end.  preadv2 is the
 * one system call by which threads read files. */
int file_read_at(int fd, void *dst, u64 len, u64 off);

/* Unaligned little-endian access to plain (not guest-shared) memory. */
static inline u16 ld16(const void *p)
{
	u16 v;
	memcpy(&v, p, sizeof v);
	return v;
}

static inline u32 ld32(const void *p)
{
	u32 v;
	memcpy(&v, p, sizeof v);
	return v;
}

static inline u64 ld64(const void *p)
{
	u64 v;
	memcpy(&v, p, sizeof v);
	return v;
}

static inline void st16(void *p, u16 v)
{
	memcpy(p, &v, sizeof v);
}

static inline void st32(void *p, u32 v)
{
	memcpy(p, &v, sizeof v);
}

static inline void st64(void *p, u64 v)
{
	memcpy(p, &v, sizeof v);
}
