/* seg.h - descriptors, stacks under construction, gates and task switches: what seg.c, exc.c,
 * task.c and exec_far.c share.
 *
 * ext is 1 while an event that the program did not ask for is being delivered: it becomes bit 0
 * (EXT) of the selector error codes raised on the way, SDM vol 3 "Error Code". */
#pragma once

#include "mmu.h"

enum { /* descriptor types with S = 0 */
	SYS_TSS16 = 1, SYS_LDT = 2, SYS_TSS16_BUSY = 3, SYS_CALL16 = 4, SYS_TASK = 5, SYS_INT16 = 6,
	SYS_TRAP16 = 7, SYS_TSS32 = 9, SYS_TSS32_BUSY = 11, SYS_CALL32 = 12, SYS_INT32 = 14,
	SYS_TRAP32 = 15,
};
/* Types with S = 1.  Data: W writable, E expand-down; code: R readable, C conforming. */
enum { TYPE_A = 1, TYPE_W = 2, TYPE_R = 2, TYPE_E = 4, TYPE_C = 4, TYPE_CODE = 8 };

static inline u32 desc_attr(u64 d)
{
	return (u32)(d >> 40) & 0xf0ff;
}

static inline unsigned attr_dpl(u32 attr)
{
	return (attr & ATTR_DPL) >> ATTR_DPL_SHIFT;
}

static inline bool attr_is_code(u32 attr)
{
	return (attr & (ATTR_S | TYPE_CODE)) == (ATTR_S | TYPE_CODE);
}

static inline bool attr_is_wdata(u32 attr)
{
	return (attr & (ATTR_S | TYPE_CODE | TYPE_W)) == (ATTR_S | TYPE_W);
}

static inline bool sel_null(u16 sel)
{
	return !(sel & ~3);
}

/* Real mode or virtual-8086 mode: selectors are paragraph numbers. */
static inline bool seg_is_real(const struct tcg_cpu *c)
{
	return !(c->v.s.cr0 & CR0_PE) || c->v.s.rflags & FL_VM;
}

/* #vec(sel with its RPL replaced by ext). */
static inline bool raise_sel(struct tcg_cpu *c, u8 vec, u16 sel, unsigned ext)
{
	return raise_err(c, vec, (sel & ~3u) | ext);
}

struct desc {
	u64 d;     /* the eight bytes as stored */
	u32 attr;  /* ATTR_* */
	gva_t at;  /* linear address of them */
};

/* Read sel's descriptor: 1; 0 if it lies outside its table (nothing raised); -1: c->exc. */
int desc_probe(struct tcg_cpu *c, u16 sel, struct desc *out);
/* The same, raising #vec(sel) when outside. */
bool desc_fetch(struct tcg_cpu *c, u8 vec, u16 sel, unsigned ext, struct desc *out);
/* The upper half of a 16-byte descriptor (long mode TSS, LDT, call gate). */
bool desc_fetch_high(struct tcg_cpu *c, u8 vec, u16 sel, unsigned ext,
		     const struct desc *low, u64 *high);
/* Set the accessed bit, in memory too; false: c->exc. */
bool desc_touch(struct tcg_cpu *c, struct desc *d);
struct seg_reg desc_to_seg(u16 sel, const struct desc *d);

/* Put a segment into its register and bring everything derived from it up to date. */
void seg_put(struct tcg_cpu *c, enum sreg seg, struct seg_reg r);
/* WRFSBASE and the like: only the base. */
void seg_put_base(struct tcg_cpu *c, enum sreg seg, u64 base);
/* A null selector's register. */
struct seg_reg seg_null(u16 sel);
/* Code segment for real and virtual-8086 mode at CS = sel. */
void seg_put_cs_real(struct tcg_cpu *c, u16 sel);
/* After a change of CPL to an outer ring: null out data segments it may not use. */
void seg_drop_inner(struct tcg_cpu *c);
/* Is offset inside code segment cs (canonical in 64-bit mode)?  Else raises #GP(ext). */
bool code_offset_ok(struct tcg_cpu *c, const struct seg_reg *cs, u64 offset, unsigned ext);

/* A stack that is being pushed to or popped from before anything is committed. */
struct frame {
	struct seg_reg ss;
	u64 sp;
	u8 width;  /* bytes of the stack pointer that count: 2, 4 or 8 */
	bool sys;  /* accessed as supervisor */
	u32 error; /* code of its #SS */
};
struct frame frame_now(const struct tcg_cpu *c, u32 error);
bool frame_push(struct tcg_cpu *c, struct frame *k, unsigned size, u64 val);
bool frame_pop(struct tcg_cpu *c, struct frame *k, unsigned size, u64 *val);
void frame_skip(struct frame *k, u64 bytes); /* move up, as RET n does */
/* Write rSP, keeping what the width leaves alone. */
void frame_commit_sp(struct tcg_cpu *c, const struct frame *k);

/* The current TSS's stack for a more privileged ring, checked and not yet loaded.  False: #TS,
 * #SS, #PF. */
bool frame_inner(struct tcg_cpu *c, unsigned cpl, unsigned ext, struct frame *k);
/* Long mode: RSPn (index 0-2) or ISTn (index 4-10, i.e. n + 3) from the TSS, with SS null. */
bool frame_inner64(struct tcg_cpu *c, unsigned cpl, unsigned index, unsigned ext, struct frame *k);
/* Check a selector as the stack segment of cpl, raising #vec (#SS if not present). */
bool seg_check_stack(struct tcg_cpu *c, u8 vec, u16 sel, unsigned cpl, unsigned ext,
		     struct seg_reg *out);

/* --- task.c ----------------------------------------------------------------------------------- */
enum task_how { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };
/* A fault of the new task is raised in it: s.rip is then already the new task's. */
enum task_result { TASK_DONE, TASK_FAULT_OLD, TASK_FAULT_NEW };
/* Switch to the task of TSS selector sel.  s.rip must be where the old task is to go on.  An
 * event's error code is pushed on the new stack if has_error. */
enum task_result task_switch(struct tcg_cpu *c, enum task_how how, u16 sel, unsigned ext,
			     bool has_error, u32 error);
