/* codemap.c - which 64-byte granules of guest memory hold decoded code: one bit each, a word for
 * a page.
 *
 * Shared by the machine's vCPUs and by whoever does DMA; every word is atomic and there is no
 * lock.  Who sets a bit, who may clear it and what follows from it: mmu.h. */
#include <stdlib.h>
#include <sys/mman.h>

#include "walk.h"

struct code_map {
	const struct memory *mem; /* borrowed */
	_Atomic u64 *mask[MEM_REGIONS_MAX]; /* a word per page of each region */
};

struct code_map *code_map_new(const struct memory *m, struct err *e)
{
	struct code_map *cm = calloc(1, sizeof *cm);

	if (!cm) {
		err_set(e, -ENOMEM, "software CPU: no memory for the code map");
		return NULL;
	}
	cm->mem = m;
	for (u32 i = 0; i < m->n; i++) { /* sparse: only touched parts take memory */
		void *p = mmap(NULL, m->region[i].bytes / PAGE_SIZE * sizeof(u64),
			       PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			       -1, 0);

		if (p == MAP_FAILED) {
			err_set(e, -ENOMEM, "software CPU: no memory for the code map");
			code_map_free(cm);
			return NULL;
		}
		cm->mask[i] = p;
	}
	return cm;
}

void code_map_free(struct code_map *cm)
{
	if (!cm)
		return;
	for (u32 i = 0; i < cm->mem->n; i++)
		if (cm->mask[i])
			munmap((void *)cm->mask[i],
			       cm->mem->region[i].bytes / PAGE_SIZE * sizeof(u64));
	free(cm);
}

_Atomic u64 *code_map_word(const struct code_map *cm, gpa_t gpa)
{
	for (u32 i = 0; i < cm->mem->n; i++) {
		const struct mem_region *r = &cm->mem->region[i];

		if (gpa - r->gpa < r->bytes && cm->mask[i])
			return &cm->mask[i][(gpa - r->gpa) / PAGE_SIZE];
	}
	return NULL;
}

bool code_map_hit(const struct code_map *cm, gpa_t gpa, u64 len)
{
	while (len) {
		u64 n = MIN(len, PAGE_SIZE - gpa % PAGE_SIZE);
		_Atomic u64 *w = code_map_word(cm, gpa);

		if (w && atomic_load_explicit(w, memory_order_acquire) & code_map_span(gpa, n))
			return true;
		gpa += n;
		len -= n;
	}
	return false;
}

void code_map_clear(struct code_map *cm, gpa_t gpa, u64 len)
{
	while (len) {
		u64 n = MIN(len, PAGE_SIZE - gpa % PAGE_SIZE);
		_Atomic u64 *w = code_map_word(cm, gpa);

		if (w)
			atomic_fetch_and(w, ~code_map_span(gpa, n));
		gpa += n;
		len -= n;
	}
}
