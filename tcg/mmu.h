/* mmu.h - guest linear memory: inline TLB fast paths, page walks behind them.
 *
 * lin_*: linear addresses at the current privilege; *_sys: supervisor privilege (descriptor tables,
 * TSS, event frames to inner stacks are the caller's business).  seg_lin(): segment + offset to
 * linear with limit, type and canonical checks.  All return false with c->exc set on a fault.
 * Accesses may cross pages; MMIO goes to the bus; stores that hit decoded code drop it. */
#pragma once

#include "tcg.h"

enum access { ACC_R = 1, ACC_W = 2, ACC_X = 4 };

int mmu_init(struct tcg_cpu *c, struct err *e);
void mmu_free(struct tcg_cpu *c);

static inline unsigned tlb_index(gva_t lin)
{
	return (unsigned)(lin >> 12) & (TLB_SIZE - 1);
}

/* Slow paths: walk, fill the TLB if the page is plain RAM, do the access whatever it is.  sup: at
 * supervisor privilege regardless of CPL. */
bool mmu_load(struct tcg_cpu *c, gva_t lin, unsigned size, u64 *val, bool sup);
bool mmu_store(struct tcg_cpu *c, gva_t lin, unsigned size, u64 val, bool sup);

static inline u64 host_load(const void *p, unsigned size)
{
	switch (size) {
	case 1: return *(const volatile u8 *)p;
	case 2: return *(const volatile u16 *)p;
	case 4: return *(const volatile u32 *)p;
	default: return *(const volatile u64 *)p;
	}
}

static inline void host_store(void *p, unsigned size, u64 val)
{
	switch (size) {
	case 1: *(volatile u8 *)p = (u8)val; break;
	case 2: *(volatile u16 *)p = (u16)val; break;
	case 4: *(volatile u32 *)p = (u32)val; break;
	default: *(volatile u64 *)p = val; break;
	}
}

/* The host address if [lin, lin+size) hits the TLB inside one page, else NULL (nothing raised). */
static inline void *tlb_read(struct tcg_cpu *c, gva_t lin, unsigned size)
{
	const struct tlb_entry *t = &c->tlb->r[tlb_index(lin)];

	return likely(lin - t->tag <= PAGE_SIZE - size) ? (void *)(lin + t->addend) : NULL;
}

static inline void *tlb_write(struct tcg_cpu *c, gva_t lin, unsigned size)
{
	const struct tlb_entry *t = &c->tlb->w[tlb_index(lin)];

	return likely(lin - t->tag <= PAGE_SIZE - size) ? (void *)(lin + t->addend) : NULL;
}

static inline bool lin_load(struct tcg_cpu *c, gva_t lin, unsigned size, u64 *val)
{
	void *p = tlb_read(c, lin, size);

	if (unlikely(!p))
		return mmu_load(c, lin, size, val, false);
	*val = host_load(p, size);
	return true;
}

static inline bool lin_store(struct tcg_cpu *c, gva_t lin, unsigned size, u64 val)
{
	void *p = tlb_write(c, lin, size);

	if (unlikely(!p))
		return mmu_store(c, lin, size, val, false);
	host_store(p, size, val);
	return true;
}

static inline bool lin_load_sys(struct tcg_cpu *c, gva_t lin, unsigned size, u64 *val)
{
	const struct tlb_entry *t = &c->tlb_sup->r[tlb_index(lin)];

	if (unlikely(lin - t->tag > PAGE_SIZE - size))
		return mmu_load(c, lin, size, val, true);
	*val = host_load((void *)(lin + t->addend), size);
	return true;
}

static inline bool lin_store_sys(struct tcg_cpu *c, gva_t lin, unsigned size, u64 val)
{
	const struct tlb_entry *t = &c->tlb_sup->w[tlb_index(lin)];

	if (unlikely(lin - t->tag > PAGE_SIZE - size))
		return mmu_store(c, lin, size, val, true);
	host_store((void *)(lin + t->addend), size, val);
	return true;
}

/* Check that [lin, lin+size) may be accessed (acc), walking if need be.  True and *host = the host
 * address if it lies in one page of plain RAM and a direct access is right (for ACC_W: no decoded code
 * near it); true and *host = NULL if the access is allowed but must go byte-wise through lin_load and
 * lin_store (page crossing, MMIO, ROM, code page); false: c->exc. */
bool lin_host(struct tcg_cpu *c, gva_t lin, unsigned size, enum access acc, void **host);

/* Copy between the guest and a host buffer, len <= 4096; nothing is copied unless all of it can be. */
bool lin_read_bytes(struct tcg_cpu *c, gva_t lin, void *buf, unsigned len);
bool lin_write_bytes(struct tcg_cpu *c, gva_t lin, const void *buf, unsigned len);

/* Instruction fetch: the host address of lin's page (page-aligned) and its gpa; false: #PF etc. A page
 * that is not RAM gives *host NULL and *gpa valid. */
bool mmu_fetch(struct tcg_cpu *c, gva_t lin, const u8 **host, gpa_t *gpa);

/* Segment + offset to linear: limit, type, canonical checks; false: #GP/#SS in c->exc. */
bool seg_lin_slow(struct tcg_cpu *c, enum sreg seg, u64 off, unsigned size, enum access acc, gva_t *lin);
static inline bool seg_lin(struct tcg_cpu *c, enum sreg seg, u64 off, unsigned size, enum access acc,
			   gva_t *lin)
{
	if (likely(c->mode == MODE_64)) {
		/* A non-canonical address never hits the TLB; the walk raises #GP, or #SS by way of
		 * c->exc being rewritten in mmu.c's caller: see mmu_bad_address(). */
		*lin = off + (seg >= SEG_FS ? c->v.s.seg[seg].base : 0);
		return true;
	}
	if (likely(c->flat >> seg & 1) && likely((u32)off <= 0xffffffffu - (size - 1))) {
		*lin = (u32)off;
		return true;
	}
	return seg_lin_slow(c, seg, off, size, acc, lin);
}

/* --- TLB maintenance -------------------------------------------------------------------------- */
void mmu_flush_all(struct tcg_cpu *c);              /* everything, global pages too, all PCIDs */
void mmu_flush_nonglobal(struct tcg_cpu *c);        /* current PCID */
void mmu_flush_page(struct tcg_cpu *c, gva_t lin);  /* INVLPG */
bool mmu_set_cr3(struct tcg_cpu *c, u64 val);       /* PCID, no-flush bit, PAE PDPTEs; false: #GP */
bool mmu_invpcid(struct tcg_cpu *c, u64 type, u64 pcid, gva_t lin);

/* --- code pages ------------------------------------------------------------------------------- */
/* interp.c decoded code from [gpa, gpa+len): writes there must be seen.  Removes write TLB entries. */
void mmu_code_added(struct tcg_cpu *c, gpa_t gpa, u32 len);
