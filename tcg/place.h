/* place.h - where a linear address leads for one kind of access: mmu.c finds out, place.c reads and
 * writes there. */
#pragma once

#include "walk.h"

struct place {
	gpa_t gpa;
	u8 *host; /* NULL: not memory */
	bool rom;
	u64 code; /* the page's word in the code map; 0 for reads */
};

/* The one or two pages of [lin, lin+size); place[1] is used if it crosses.  *first: bytes in page
 * one.  False: #PF, or #GP(0) for an address that is not canonical. */
bool mmu_locate(struct tcg_cpu *c, gva_t lin, unsigned size, enum access acc, bool sup,
		struct place place[2], unsigned *first);
/* Must accesses be aligned now, at CPL 3? */
bool mmu_checks_alignment(const struct tcg_cpu *c);

static inline gva_t lin_wrap(const struct tcg_cpu *c, gva_t lin, bool sup)
{
	return (sup ? c->long_mode : c->mode == MODE_64) ? lin : (u32)lin;
}

static inline bool place_is_lapic(const struct tcg_cpu *c, gpa_t gpa)
{
	return c->v.apic && lapic_base(c->v.apic) == ALIGN_DOWN(gpa, PAGE_SIZE);
}
