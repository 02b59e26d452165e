/* cache.c - executable memory, see cache.h.
 *
 * Shared memory mapped twice gives W^X without mprotect, which would cost a system call and a TLB
 * flush per change.  It is the anonymous kind, since perf looks for names of code in its map only
 * where no file is mapped; mremap with an old size of 0 makes the second mapping.  Two linear
 * addresses for one physical byte: the processor's own detection of self-modifying code works on
 * physical addresses, but SDM vol 3 "Self-Modifying Code" promises it only for the same linear
 * address, so bytes that may have been executed before are reused behind a serialising
 * instruction. */
#include "cache.h"

#include <sys/mman.h>

enum { CODE_ALIGN = 16, CHUNK = 256 << 10, MADV_READ = 22, MADV_WRITE = 23 /* MADV_POPULATE_* */ };

int cache_init(struct code_cache *k, u32 size, struct err *e)
{
	void *rx, *rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (rw == MAP_FAILED)
		return err_set(e, -errno,
			"code cache: no memory for %u bytes; try a smaller --tcg-cache",
			       size);
	*k = (struct code_cache){ .rw = rw, .size = size, .gen = 1 };
	rx = mremap(rw, 0, size, MREMAP_MAYMOVE);
	if (rx == MAP_FAILED || mprotect(rx, size, PROT_READ | PROT_EXEC) < 0) {
		int rc = err_set(e, -errno,
				 "code cache: cannot map %u bytes of executable memory: %s; "
				 "does a security policy forbid it?",
				 size, strerror(errno));

		if (rx != MAP_FAILED)
			munmap(rx, size);
		cache_free(k);
		return rc;
	}
	k->rx = rx;
	return 0;
}

void cache_free(struct code_cache *k)
{
	if (k->rw)
		munmap(k->rw, k->size);
	if (k->rx)
		munmap((void *)k->rx, k->size);
	*k = (struct code_cache){ 0 };
}

u8 *cache_reserve(struct code_cache *k, u32 n)
{
	return n <= k->size - k->pos ? k->rw + k->pos : NULL;
}

/* Have the pages of the next chunk made at once, in both places: each would cost two faults.  Not
 * the first chunk, which is more than a small guest uses.  Only a hint. */
static void cache_prepare(struct code_cache *k)
{
	u32 n = MIN((u32)CHUNK, k->size - k->ready);

	if (k->ready) {
		madvise(k->rw + k->ready, n, MADV_WRITE);
		madvise((void *)(k->rx + k->ready), n, MADV_READ);
	}
	k->ready += n;
}

const u8 *cache_commit(struct code_cache *k, u32 n)
{
	const u8 *at = k->rx + k->pos;

	ASSERT(n <= k->size - k->pos);
	k->pos = (u32)MIN(ALIGN_UP(k->pos + n, CODE_ALIGN), k->size);
	while (k->pos > k->ready)
		cache_prepare(k);
	return at;
}

void cache_seal(struct code_cache *k)
{
	k->keep = k->pos;
}

void cache_flush(struct code_cache *k)
{
	u32 eax = 0, ebx, ecx = 0, edx;

	k->pos = k->keep;
	k->gen++;
	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx) : : "memory");
}
