/* cache.c - executable memory, see cache.h.
 *
 * A memfd mapped shared twice gives W^X without mprotect, which would cost a system call and a TLB
 * flush per change.  Two linear addresses for one physical byte: the processor's own detection of
 * self-modifying code works on physical addresses, but SDM vol 3 "Self-Modifying Code" promises it
 * only for the same linear address, so bytes that may have been executed before are reused behind a
 * serialising instruction. */
#include "cache.h"

#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL \
	8U /* Linux 6.3: the file gets no x bits; mapping it executable is still fine */
#endif

enum { CODE_ALIGN = 16 };

static int cache_memfd(void)
{
	int fd = memfd_create("mvm-code", MFD_CLOEXEC | MFD_NOEXEC_SEAL);

	return fd >= 0 || errno != EINVAL ? fd : memfd_create("mvm-code", MFD_CLOEXEC);
}

int cache_init(struct code_cache *k, u32 size, struct err *e)
{
	int rc, fd = cache_memfd();
	void *rw, *rx;

	if (fd < 0)
		return err_set(e, -errno, "code cache: memfd_create failed: %s", strerror(errno));
	if (ftruncate(fd, size) < 0)
		goto fail_fd;
	rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rw == MAP_FAILED)
		goto fail_fd;
	rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (rx == MAP_FAILED)
		goto fail_rw;
	close(fd);
	*k = (struct code_cache){ .rw = rw, .rx = rx, .size = size, .gen = 1 };
	return 0;
fail_rw:
	rc = errno;
	munmap(rw, size);
	errno = rc;
fail_fd:
	rc = err_set(e, -errno,
		     "code cache: cannot map %u bytes of executable memory: %s; "
		     "does a security policy forbid it?",
		     size, strerror(errno));
	close(fd);
	return rc;
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

const u8 *cache_commit(struct code_cache *k, u32 n)
{
	const u8 *at = k->rx + k->pos;

	ASSERT(n <= k->size - k->pos);
	k->pos = (u32)MIN(ALIGN_UP(k->pos + n, CODE_ALIGN), k->size);
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
