/* task.c - the hardware task switch, by JMP, CALL, IRET or through a task gate; 16- and 32-bit
 * TSS.
 *
 * First everything is done that can fault in the old task: the new TSS is read and the old one
 * written (it only holds what the registers hold anyway).  Then the registers change hands, and
 * whatever is wrong with the new task's segments is its own fault, raised at its first
 * instruction.
 * Source: SDM vol 3 "Task Management", "Task Switching"; 16-bit: "16-Bit Task-State Segment". */
#include "seg.h"

struct tss_layout {
	u8 word; /* bytes of a register in it */
	u8 limit; /* smallest segment limit */
	u8 ip, flags, gpr, seg,
		ldt; /* offsets; general registers and segments lie in encoding order */
	u8 nseg;
};

static const struct tss_layout tss16 = { 2, 0x2b, 0x0e, 0x10, 0x12, 0x22, 0x2a, 4 };
static const struct tss_layout tss32 = { 4, 0x67, 0x20, 0x24, 0x28, 0x48, 0x60, 6 };
enum { TSS32_CR3 = 0x1c, TSS32_TRAP = 0x64 };
#define DR7_LOCAL 0x155ull /* L0-L3 and LE are per task */

struct task {
	u64 gpr[8], ip, flags, cr3;
	u16 seg[SEG_NR], ldt;
	bool trap;
};

static const struct tss_layout *layout_of(u32 attr)
{
	return attr & 8 ? &tss32 : &tss16;
}

/* --- the part that belongs to the old task ---------------------------------------------------- */
static bool check_descriptor(struct tcg_cpu *c, enum task_how how, u16 sel, unsigned ext,
			     struct desc *d)
{
	u8 vec = how == TASK_IRET ? EXC_TS : EXC_GP;
	u32 type;

	if (sel & 4 || sel_null(sel))
		return raise_sel(c, vec, sel, ext);
	if (!desc_fetch(c, vec, sel, ext, d))
		return false;
	type = d->attr & (ATTR_TYPE | ATTR_S);
	if ((type & ~8u) != (how == TASK_IRET ? SYS_TSS16_BUSY : SYS_TSS16))
		return raise_sel(c, vec, sel, ext);
	if (!(d->attr & ATTR_P))
		return raise_sel(c, EXC_NP, sel, ext);
	return desc_to_seg(sel, d).limit >= layout_of(d->attr)->limit ||
	       raise_sel(c, EXC_TS, sel, ext);
}

static bool read_task(struct tcg_cpu *c, const struct seg_reg *tr, struct task *t)
{
	const struct tss_layout *l = layout_of(tr->attr);
	u64 v, base = tr->base;

	for (unsigned i = 0; i < 8; i++) {
		if (!lin_load_sys(c, base + l->gpr + i * l->word, l->word, &t->gpr[i]))
			return false;
		if (l->word == 2)
			t->gpr[i] |=
				0xffff0000; /* "upper halves are undefined"; processors set them */
	}
	for (unsigned i = 0; i < l->nseg; i++) {
		if (!lin_load_sys(c, base + l->seg + i * l->word, 2, &v))
			return false;
		t->seg[i] = (u16)v;
	}
	if (!lin_load_sys(c, base + l->ldt, 2, &v))
		return false;
	t->ldt = (u16)v;
	if (!lin_load_sys(c, base + l->ip, l->word, &t->ip) ||
	    !lin_load_sys(c, base + l->flags, l->word, &t->flags))
		return false;
	if (l->word == 2)
		return true;
	if (!lin_load_sys(c, base + TSS32_CR3, 4, &t->cr3) ||
	    !lin_load_sys(c, base + TSS32_TRAP, 1, &v))
		return false;
	t->trap = v & 1;
	return true;
}

static bool save_task(struct tcg_cpu *c, u64 flags)
{
	const struct cpu_state *s = &c->v.s;
	const struct tss_layout *l = layout_of(s->tr.attr);
	u64 base = s->tr.base;

	for (unsigned i = 0; i < 8; i++)
		if (!lin_store_sys(c, base + l->gpr + i * l->word, l->word, s->gpr[i]))
			return false;
	for (unsigned i = 0; i < l->nseg; i++)
		if (!lin_store_sys(c, base + l->seg + i * l->word, 2, s->seg[i].sel))
			return false;
	return lin_store_sys(c, base + l->ip, l->word, s->rip) &&
	       lin_store_sys(c, base + l->flags, l->word, flags);
}

static bool set_busy(struct tcg_cpu *c, const struct desc *d, bool busy)
{
	u64 byte = (d->d >> 40 & ~2ull) | (busy ? 2 : 0);

	return lin_store_sys(c, d->at + 5, 1, byte & 0xff);
}

/* All stores of the switch.  The old TSS's descriptor is looked up again to clear its busy bit. */
static bool hand_over(struct tcg_cpu *c, enum task_how how, const struct desc *to,
		      const struct seg_reg *tr)
{
	const struct seg_reg *old = &c->v.s.tr;
	u64 flags = flags_get(c) & ~(how == TASK_IRET ? (u64)FL_NT : 0);
	bool nested = how == TASK_CALL || how == TASK_EVENT;
	struct desc from;

	if (!desc_fetch(c, EXC_TS, old->sel, 0, &from) || !save_task(c, flags))
		return false;
	if (nested && !lin_store_sys(c, tr->base, 2, old->sel))
		return false;
	if (!nested && !set_busy(c, &from, false))
		return false;
	return how == TASK_IRET || set_busy(c, to, true);
}

/* --- the part that belongs to the new task ---------------------------------------------------- */
static bool load_ldt(struct tcg_cpu *c, u16 sel, unsigned ext)
{
	struct desc d;

	c->v.s.ldt = seg_null(sel);
	if (sel_null(sel))
		return true;
	if (sel & 4)
		return raise_sel(c, EXC_TS, sel, ext);
	if (!desc_fetch(c, EXC_TS, sel, ext, &d))
		return false;
	if ((d.attr & (ATTR_TYPE | ATTR_S | ATTR_P)) != (SYS_LDT | ATTR_P))
		return raise_sel(c, EXC_TS, sel, ext);
	c->v.s.ldt = desc_to_seg(sel, &d);
	return true;
}

static bool load_cs(struct tcg_cpu *c, u16 sel, unsigned ext)
{
	unsigned rpl = sel & 3;
	struct desc d;

	if (sel_null(sel))
		return raise_sel(c, EXC_TS, sel, ext);
	if (!desc_fetch(c, EXC_TS, sel, ext, &d))
		return false;
	bool dpl_ok = d.attr & TYPE_C ? attr_dpl(d.attr) <= rpl : attr_dpl(d.attr) == rpl;

	if (!attr_is_code(d.attr) || !dpl_ok)
		return raise_sel(c, EXC_TS, sel, ext);
	if (!(d.attr & ATTR_P))
		return raise_sel(c, EXC_NP, sel, ext);
	if (!desc_touch(c, &d))
		return false;
	seg_put(c, SEG_CS, desc_to_seg(sel, &d));
	return true;
}

/* As seg_load, but a bad selector is #TS. */
static bool load_data(struct tcg_cpu *c, enum sreg seg, u16 sel, unsigned ext)
{
	if (seg_load(c, seg, sel))
		return true;
	if (c->exc.vector == EXC_GP)
		c->exc.vector = EXC_TS;
	if (c->exc.vector != EXC_PF)
		c->exc.error |= ext;
	return false;
}

static bool load_segments(struct tcg_cpu *c, const struct task *t, unsigned ext)
{
	struct seg_reg ss;

	if (!load_ldt(c, t->ldt, ext))
		return false;
	if (c->v.s.rflags & FL_VM) {
		seg_put_cs_real(c, t->seg[SEG_CS]);
		for (unsigned seg = 0; seg < SEG_NR; seg++)
			if (seg != SEG_CS)
				seg_load(c, seg, t->seg[seg]);
		return true;
	}
	if (!load_cs(c, t->seg[SEG_CS], ext) ||
	    !seg_check_stack(c, EXC_TS, t->seg[SEG_SS], t->seg[SEG_CS] & 3, ext, &ss))
		return false;
	seg_put(c, SEG_SS, ss);
	return load_data(c, SEG_DS, t->seg[SEG_DS], ext) &&
	       load_data(c, SEG_ES, t->seg[SEG_ES], ext) &&
	       load_data(c, SEG_FS, t->seg[SEG_FS], ext) &&
	       load_data(c, SEG_GS, t->seg[SEG_GS], ext);
}

/* Registers of the new task; its segments are still to be loaded and unusable until then. */
static void take_registers(struct tcg_cpu *c, enum task_how how, const struct task *t,
			   const struct seg_reg *tr)
{
	struct cpu_state *s = &c->v.s;
	unsigned cpl = t->flags & FL_VM ? 3 : t->seg[SEG_CS] & 3;

	memcpy(s->gpr, t->gpr, sizeof t->gpr);
	s->rip = t->ip;
	flags_set(c, t->flags | (how == TASK_CALL || how == TASK_EVENT ? FL_NT : 0));
	for (unsigned seg = 0; seg < SEG_NR; seg++)
		s->seg[seg] = seg_null(t->seg[seg]);
	s->seg[SEG_SS].attr |= cpl << ATTR_DPL_SHIFT;
	s->tr = *tr;
	s->tr.attr |= 2; /* busy */
	s->cr0 |= CR0_TS;
	s->dr[7] &= ~DR7_LOCAL;
	seg_refresh(c);
}

static bool enter_task(struct tcg_cpu *c, const struct task *t, bool has_cr3, unsigned ext)
{
	if (has_cr3 && c->v.s.cr0 & CR0_PG && !mmu_set_cr3(c, t->cr3))
		return false;
	return load_segments(c, t, ext) && code_offset_ok(c, &c->v.s.seg[SEG_CS], t->ip, 0);
}

enum task_result task_switch(struct tcg_cpu *c, enum task_how how, u16 sel, unsigned ext,
			     bool has_error, u32 error)
{
	struct task t = { 0 };
	struct seg_reg tr;
	struct desc d;

	if (!check_descriptor(c, how, sel, ext, &d))
		return TASK_FAULT_OLD;
	tr = desc_to_seg(sel, &d);
	if (!read_task(c, &tr, &t) || !hand_over(c, how, &d, &tr))
		return TASK_FAULT_OLD;
	take_registers(c, how, &t, &tr);
	if (!enter_task(c, &t, tr.attr & 8, ext))
		return TASK_FAULT_NEW;
	if (has_error) {
		struct frame k = frame_now(c, ext);

		if (!frame_push(c, &k, layout_of(tr.attr)->word, error))
			return TASK_FAULT_NEW;
		frame_commit_sp(c, &k);
	}
	if (t.trap) {
		c->exc = (struct exc){ .vector = EXC_DB, .trap = true, .dr6 = DR6_BT };
		return TASK_FAULT_NEW;
	}
	return TASK_DONE;
}
