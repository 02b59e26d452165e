/* bus.h - a PIO or MMIO address space: sorted ranges to (device, region).
 *
 * Mapping is done at set-up (and by PCI BAR moves, under the lock).  bus_read/bus_write are called
 * by vCPU threads without the lock; they take machine.lock around the device call. */
#pragma once

#include <pthread.h>

#include "base.h"

struct device;

struct bus_range {
	u64 base, len;
	struct device *dev;
	u32 region; /* passed to the device's ops; offset is address - base */
};

/* A write that an engine can turn into a signal of fd, without a bus access: of len bytes (0: any
 * number, memory only) to addr; with match only of value. */
struct doorbell {
	bool pio, match;
	u64 addr, value;
	u32 len;
	int fd;
};

enum { BUS_RANGES_MAX = 128 };

struct bus {
	const char *name; /* "pio" or "mmio" */
	pthread_mutex_t *lock; /* borrowed: machine.lock */
	u32 n;
	struct bus_range range[BUS_RANGES_MAX]; /* sorted by base, not overlapping */
	u32 last; /* where the last access led, tried first: guests poll */
	struct bus_range whole; /* len 0: none; see bus_map_whole */
	/* after bus_unmap; may be NULL */
	void (*unmapped)(void *ctx, struct device *dev, u32 region);
	void *unmapped_ctx;
	u64 unclaimed; /* accesses that no device claimed; a guest can cause them at will */
};

void bus_init(struct bus *b, const char *name, pthread_mutex_t *lock);

/* 0, -EEXIST if it overlaps, -ENOSPC. Caller holds the lock or is single-threaded. */
int bus_map(struct bus *b, u64 base, u64 len, struct device *dev, u32 region);
void bus_unmap(struct bus *b, u64 base);
/* Where a region of a device lies, or UINT64_MAX.  Caller holds the lock. */
u64 bus_base(const struct bus *b, const struct device *dev, u32 region);

/* One register that answers accesses of exactly its width at its address, whatever lies beneath:
 * the PC's CF8h, which is 32 bits wide and has another chip's byte at CF9h.  Set-up only. */
void bus_map_whole(struct bus *b, u64 base, unsigned width, struct device *dev, u32 region);

/* One access of 1, 2, 4 or 8 bytes.  An access wider than the device's access_max, or reaching
 * past the range's end, is split into naturally smaller pieces, lowest address first; parts
 * nobody claims read as all ones and swallow writes. */
u64 bus_read(struct bus *b, u64 addr, unsigned size);
void bus_write(struct bus *b, u64 addr, unsigned size, u64 val);
