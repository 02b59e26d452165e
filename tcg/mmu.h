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
/* before the first use; what is never used stays untouched memory */
void mmu_start(struct tcg_cpu *c);
void mmu_free(struct tcg_cpu *c);

/* Bits 63-47 all equal (48-bit linear addresses). */
static inline bool is_canonical(gva_t lin)
{
	return (gva_t)((s64)(lin << 16) >> 16) == lin;
}

static inline unsigned tlb_index(gva_t lin)
{
	return (unsigned)(lin >> 12) & (TLB_SIZE - 1);
}

/* Slow paths: walk, fill the TLB if the page is plain RAM, do the access whatever it is.  sup: at
 * supervisor privilege regardless of CPL. */
bool mmu_load(struct tcg_cpu *c, gva_t lin, unsigned size, u64 *val, bool sup);
bool mmu_store(struct tcg_cpu *c, gva_t lin, unsigned size, u64 val, bool sup);

/* Guest memory as the guest's instructions see it: any alignment, one access. */
typedef u16 u16_any __attribute__((aligned(1), may_alias));
typedef u32 u32_any __attribute__((aligned(1), may_alias));
typedef u64 u64_any __attribute__((aligned(1), may_alias));

static inline u64 host_load(const void *p, unsigned size)
{
	switch (size) {
	case 1: return *(const volatile u8 *)p;
	case 2: return *(const volatile u16_any *)p;
	case 4: return *(const volatile u32_any *)p;
	default: return *(const volatile u64_any *)p;
	}
}

static inline void host_store(void *p, unsigned size, u64 val)
{
	switch (size) {
	case 1: *(volatile u8 *)p = (u8)val; break;
	case 2: *(volatile u16_any *)p = (u16)val; break;
	case 4: *(volatile u32_any *)p = (u32)val; break;
	default: *(volatile u64_any *)p = val; break;
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

/* Check that [lin, lin+size) may be accessed (acc), walking if need be.  True and *host = the
 * host address if it lies in one page of plain RAM and a direct access is right (for ACC_W: no
 * decoded code near it); true and *host = NULL if the access is allowed but must go byte-wise
 * through lin_load and lin_store (page crossing, MMIO, ROM, code page); false: c->exc. */
bool lin_host(struct tcg_cpu *c, gva_t lin, unsigned size, enum access acc, void **host);

/* The same for writing, but memory with decoded code near it has an address too: *code is then
 * where that is, and whoever has written there calls lin_wrote(); else it is NO_CODE. */
#define NO_CODE (~(gpa_t)0)
bool lin_host_code(struct tcg_cpu *c, gva_t lin, unsigned size, void **host, gpa_t *code);
static inline void lin_wrote(struct tcg_cpu *c, gpa_t code, unsigned size)
{
	if (likely(code == NO_CODE))
		return;
	atomic_thread_fence(memory_order_seq_cst); /* as in place_written() */
	interp_invalidate(c, code, size);
}

/* Copy between the guest and a host buffer, len <= 4096; nothing is copied unless all of it can
 * be. */
bool lin_read_bytes(struct tcg_cpu *c, gva_t lin, void *buf, unsigned len);
bool lin_write_bytes(struct tcg_cpu *c, gva_t lin, const void *buf, unsigned len);

/* Instruction fetch: the host address of lin's page (page-aligned) and its gpa; false: #PF etc.
 * A page that is not RAM gives *host NULL and *gpa valid. */
bool mmu_fetch(struct tcg_cpu *c, gva_t lin, const u8 **host, gpa_t *gpa);

/* Segment + offset to linear: limit, type, canonical checks; false: #GP/#SS in c->exc. */
bool seg_lin_slow(struct tcg_cpu *c, enum sreg seg, u64 off, unsigned size, enum access acc,
		  gva_t *lin);
static inline bool seg_lin(struct tcg_cpu *c, enum sreg seg, u64 off, unsigned size,
			   enum access acc, gva_t *lin)
{
	if (likely(c->mode == MODE_64)) {
		/* A non-canonical address never hits the TLB, and the slow path raises #GP(0)
		 * for it. Only here is it known that the access goes through SS, which makes it
		 * #SS(0). */
		*lin = off + (seg == SEG_FS || seg == SEG_GS ? c->v.s.seg[seg].base : 0);
		if (seg == SEG_SS && unlikely(!is_canonical(off) || !is_canonical(off + size - 1)))
			return raise_err(c, EXC_SS, 0);
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
void mmu_flush_page(struct tcg_cpu *c, gva_t lin);  /* INVLPG */
bool mmu_set_cr3(struct tcg_cpu *c, u64 val);       /* PCID, no-flush bit, PAE PDPTEs; false: #GP */
bool mmu_invpcid(struct tcg_cpu *c, u64 type, u64 pcid, gva_t lin);

/* c->top.stack is a copy of a write entry, made by translated code.  To be called whenever an entry
 * may go, even one that was there when the copy was made and has left its slot since. */
void mmu_stack_forget(struct tcg_cpu *c);

/* Point c->tlb and c->tlb_sup at the arrays for the current CPL, PCID and alignment checking. */
void mmu_select(struct tcg_cpu *c);
/* CR0, CR4 or EFER made the PAE page-directory pointers count (again): load them.  False:
 * #GP(0). */
bool mmu_load_pdptes(struct tcg_cpu *c, u64 cr0, u64 cr3, u64 cr4, u64 efer);

/* --- code pages ------------------------------------------------------------------------------- */
/* Which 64-byte granules of RAM hold decoded code, one bit each; a page with any bit set has no
 * write TLB entry on any vCPU, so every store to it comes through mmu.c.  Lock-free. */
struct code_map *code_map_new(const struct memory *m, struct err *e);
void code_map_free(struct code_map *cm);
bool code_map_hit(const struct code_map *cm, gpa_t gpa, u64 len);
/* Blocks from all granules that [gpa, gpa+len) touches are gone from every vCPU. */
void code_map_clear(struct code_map *cm, gpa_t gpa, u64 len);

/* interp.c is about to decode code from [gpa, gpa+len), inside one page: from now on writes
 * there are seen and reported by interp_invalidate().  Other vCPUs get VREQ_FLUSH if they might
 * still hold a write TLB entry for the page. */
void mmu_code_added(struct tcg_cpu *c, gpa_t gpa, u32 len);
/* VREQ_FLUSH: give up write TLB entries for pages that hold code.  As stores may have gone
 * through them unseen since, what was decoded there is invalidated. */
void mmu_drop_code_writers(struct tcg_cpu *c);
