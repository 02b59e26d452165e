/* walk.h - what mmu.c, walk.c and codemap.c share: the page-table walk, physical memory, code
 * words. */
#pragma once

#include "mmu.h"

/* What a walk found out about the page that holds lin. */
struct walk {
	gpa_t gpa;    /* of the page's 4 KiB piece that holds lin */
	u8 shift;     /* log2 of the page's size: 12, 21, 22 or 30 */
	bool user;    /* U/S set at every level */
	bool write;   /* a write at this privilege would be allowed */
	bool dirty;   /* the leaf's D bit, after this access */
	bool global;
	u32 error;    /* the #PF error code if the walk failed */
};

/* What kind of access, at whose privilege. */
struct walk_for {
	enum access acc; /* ACC_W counts if several are set */
	bool user;       /* user-mode access (CPL 3 and not an implicit system access) */
	bool ac;         /* EFLAGS.AC lifts SMAP for it: explicit supervisor access only */
};

/* Walk the tables that CR3 names; CR0.PG must be set.  True: *w is filled, the A bits are set
 * and, for ACC_W, D. False: w->error. */
bool walk_tables(struct tcg_cpu *c, gva_t lin, struct walk_for how, struct walk *w);

/* PAE page-directory pointers: loaded and checked with CR3, not at each walk. */
bool walk_pdpte_ok(const struct tcg_cpu *c, u64 e);

/* Host address of guest RAM or ROM at gpa, or NULL; *rom tells which. */
u8 *phys_ptr(const struct tcg_cpu *c, gpa_t gpa, bool *rom);
/* A vCPU wrote [gpa, gpa+len) by other means than a checked store: drop code made from it. */
void phys_written(struct tcg_cpu *c, gpa_t gpa, unsigned len);
u64 *mmu_pdptes(struct tcg_cpu *c);
u64 mmu_phys_mask(const struct tcg_cpu *c); /* valid physical address bits */

/* --- codemap.c -------------------------------------------------------------------------------- */
/* The word for gpa's page, or NULL outside memory. */
_Atomic u64 *code_map_word(const struct code_map *cm, gpa_t gpa);

/* The granules of [off, off+len), which ends in the same page. */
static inline u64 code_map_span(u64 off, u64 len)
{
	u64 first = off % PAGE_SIZE / 64, last = (off % PAGE_SIZE + len - 1) / 64;

	return (~0ull << first) & (~0ull >> (63 - last));
}
