/* memory.c - guest physical memory.  Regions change only at set-up; look-ups take no lock. */
#include "memory.h"

#include <sys/mman.h>
#include <sys/sysinfo.h>

enum { HOLE_START_GIB = 3, HOLE_END_GIB = 4, OVERCOMMIT_MAX = 2 };
enum { GUARD_BYTES = 2 << 20 }; /* a huge page: RAM is aligned to one */

/* Pages are taken from the host as the guest touches them, so somewhat more than it has is the
 * user's business; far more is a slip of the pen, and would end in the host's OOM killer. */
static int memory_check(u64 ram_bytes, struct err *e)
{
	struct sysinfo si;
	u64 host;

	if (sysinfo(&si) < 0)
		return 0;
	host = ((u64)si.totalram + si.totalswap) * si.mem_unit;
	if (ram_bytes / OVERCOMMIT_MAX <= host)
		return 0;
	return err_set(e, -ENOMEM, "guest memory: %llu MiB is far more than the host's %llu MiB; "
		       "give less with --mem", (unsigned long long)(ram_bytes / MIB),
		       (unsigned long long)(host / MIB));
}

int memory_init(struct memory *m, u64 ram_bytes, struct err *e)
{
	u64 low = MIN(ram_bytes, HOLE_START_GIB * GIB);
	u8 *host;
	int rc;

	memset(m, 0, sizeof *m);
	rc = memory_check(ram_bytes, e);
	if (rc < 0)
		return rc;
	m->ram_bytes = ram_bytes;
	/* One mapping, so that huge pages may straddle what the guest sees as two ranges, between
	 * two guards: what runs past RAM by a mistake of ours must not find mvm's own data. */
	m->map_bytes = ram_bytes + 3 * GUARD_BYTES;
	m->map = mmap(NULL, m->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		-1, 0);
	host = (u8 *)ALIGN_UP((uintptr_t)m->map + GUARD_BYTES, GUARD_BYTES);
	if (m->map == MAP_FAILED || mprotect(host, ram_bytes, PROT_READ | PROT_WRITE) < 0)
		return err_set(e, -errno,
			"guest memory: cannot map %llu MiB (%s); give less with --mem",
			       (unsigned long long)(ram_bytes / MIB), strerror(errno));
	/* One fault of the host for 2 MiB, where it has huge pages: else a boot spends a sixth of
	 * its time in faults. */
	madvise(host, ram_bytes, MADV_HUGEPAGE);
	rc = memory_add(m, 0, low, host, false, e);
	if (rc == 0 && ram_bytes > low)
		rc = memory_add(m, HOLE_END_GIB * GIB, ram_bytes - low, host + low, false, e);
	if (rc < 0)
		memory_free(m);
	return rc;
}

int memory_add(struct memory *m, gpa_t gpa, u64 bytes, void *host, bool rom, struct err *e)
{
	u32 at = 0;

	ASSERT(bytes && gpa % PAGE_SIZE == 0 && bytes % PAGE_SIZE == 0);
	if (m->n == MEM_REGIONS_MAX)
		return err_set(e, -ENOSPC, "guest memory: no region left");
	while (at < m->n && m->region[at].gpa < gpa)
		at++;
	if ((at && m->region[at - 1].gpa + m->region[at - 1].bytes > gpa) ||
	    (at < m->n && gpa + bytes > m->region[at].gpa))
		return err_set(e, -EEXIST, "guest memory: %#llx is taken", (unsigned long long)gpa);
	if (!host) {
		host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);
		if (host == MAP_FAILED)
			return err_set(e, -errno, "guest memory: cannot map %llu KiB (%s)",
				       (unsigned long long)(bytes / KIB), strerror(errno));
	}
	memmove(&m->region[at + 1], &m->region[at], (m->n - at) * sizeof m->region[0]);
	m->region[at] = (struct mem_region){ gpa, bytes, host, rom, m->n };
	m->n++;
	return 0;
}

void memory_free(struct memory *m)
{
	for (u32 i = 0; i < m->n; i++)
		munmap(m->region[i].host, m->region[i].bytes);
	if (m->map_bytes)
		munmap(m->map, m->map_bytes); /* the guards, and RAM that is no region */
	m->n = 0;
	m->map_bytes = 0;
}

const struct mem_region *mem_find(const struct memory *m, gpa_t gpa)
{
	for (u32 i = 0; i < m->n; i++)
		if (gpa - m->region[i].gpa < m->region[i].bytes)
			return &m->region[i];
	return NULL;
}

void *mem_ptr(const struct memory *m, gpa_t gpa, u64 len)
{
	const struct mem_region *r = mem_find(m, gpa);

	if (!r || len > r->bytes - (gpa - r->gpa))
		return NULL;
	return r->host + (gpa - r->gpa);
}

void *mem_ptr_rw(const struct memory *m, gpa_t gpa, u64 len)
{
	const struct mem_region *r = mem_find(m, gpa);

	return r && !r->rom ? mem_ptr(m, gpa, len) : NULL;
}

bool mem_read(const struct memory *m, gpa_t gpa, void *dst, u64 len)
{
	while (len) {
		const struct mem_region *r = mem_find(m, gpa);

		if (!r)
			return false;
		u64 n = MIN(len, r->bytes - (gpa - r->gpa));

		memcpy(dst, r->host + (gpa - r->gpa), n);
		dst = (u8 *)dst + n;
		gpa += n;
		len -= n;
	}
	return true;
}

bool mem_write(struct memory *m, gpa_t gpa, const void *src, u64 len)
{
	while (len) {
		const struct mem_region *r = mem_find(m, gpa);

		if (!r || r->rom)
			return false;
		u64 n = MIN(len, r->bytes - (gpa - r->gpa));

		memcpy(r->host + (gpa - r->gpa), src, n);
		mem_dirty(m, gpa, n);
		src = (const u8 *)src + n;
		gpa += n;
		len -= n;
	}
	return true;
}

void *host_pages_new(u64 bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void host_pages_free(void *p, u64 bytes)
{
	if (p)
		munmap(p, bytes);
}
