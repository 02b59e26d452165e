/* memory.h - guest physical memory: at most eight regions of RAM or ROM, bounds-checked access,
 * and the one choke point through which every write that is not a vCPU's own store must be told.
 *
 * Regions are const after machine set-up; the pointers stay valid until memory_free. */
#pragma once

#include "base.h"

enum { MEM_REGIONS_MAX = 8 };

struct mem_region {
	gpa_t gpa;  /* first byte; page-aligned */
	u64 bytes;  /* page multiple */
	u8 *host;   /* where it is mapped */
	bool rom;   /* guest writes are ignored */
	u32 slot;   /* KVM memory slot */
};

struct memory {
	/* const after set-up */
	struct mem_region region[MEM_REGIONS_MAX]; /* sorted by gpa, not overlapping */
	u32 n;
	u64 ram_bytes; /* as the user asked */
	void *map;     /* RAM with its guards; regions 0 and 1 lie inside */
	u64 map_bytes; /* 0: none */
	/* Told after bytes [gpa, gpa+len) were written by a device or the loader; drops code that
	 * was made from them.  Set by the software CPU, NULL under KVM.  Any thread. */
	void (*written)(void *ctx, gpa_t gpa, u64 len);
	/* Orders guest memory like a fence of this thread and of every vCPU at once.  NULL where
	 * the vCPUs' own fences are real. */
	void (*fence)(void);
	void *written_ctx;
};

/* Map ram_bytes of RAM: [0, 3 GiB) and the rest from 4 GiB up.  0, or -errno with *e. */
int memory_init(struct memory *m, u64 ram_bytes, struct err *e);

/* Add a region; host == NULL maps fresh zero pages.  0, or -errno (-EEXIST: overlap, -ENOSPC). */
int memory_add(struct memory *m, gpa_t gpa, u64 bytes, void *host, bool rom, struct err *e);
void memory_free(struct memory *m);

/* Host address of [gpa, gpa+len), or NULL unless wholly inside one region. len 0 counts as 1. */
void *mem_ptr(const struct memory *m, gpa_t gpa, u64 len);

/* Same, but NULL for ROM: for anything a device will write. */
void *mem_ptr_rw(const struct memory *m, gpa_t gpa, u64 len);

/* The region holding gpa, or NULL. */
const struct mem_region *mem_find(const struct memory *m, gpa_t gpa);

/* Every writer other than a vCPU calls this after writing guest memory (DMA, loaders,
 * snapshots). */
static inline void mem_dirty(struct memory *m, gpa_t gpa, u64 len)
{
	if (m->written)
		m->written(m->written_ctx, gpa, len);
}

/* A device stands between a store to guest memory and a load from it whose order a driver relies on
 * (or the other way round), having a fence of its own in the like place. */
static inline void mem_fence(const struct memory *m)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (m->fence)
		m->fence();
}

/* Copy out of or into guest memory, crossing regions if need be.  False (nothing copied past the
 * hole) if any byte is not RAM; mem_write also calls mem_dirty. */
bool mem_read(const struct memory *m, gpa_t gpa, void *dst, u64 len);
bool mem_write(struct memory *m, gpa_t gpa, const void *src, u64 len);

/* Zeroed pages of mvm's own, which the host gives as they are touched; NULL: none.  Free takes
 * NULL. */
void *host_pages_new(u64 bytes);
void host_pages_free(void *p, u64 bytes);
