/* exc.c - delivery of exceptions and interrupts in every mode, up to the double and the triple
 * fault.
 *
 * Owns no state.  Nothing is committed before everything that can fault has been done: an event
 * that cannot be delivered leaves registers as they were, and the fault found on the way is
 * delivered instead.
 * Source: SDM vol 3 "Interrupt and Exception Handling", "Interrupt 8 - Double Fault Exception",
 * "Handling Exceptions and Interrupts in Virtual-8086 Mode"; INT n in vol 2; real mode: "8086
 * Emulation". Without CPUID's VME there is no redirection bitmap: INT n in virtual-8086 mode
 * needs IOPL 3. */
#include "seg.h"

/* #AC upon #AC for ever would be the processor's answer to some stacks; it is a shutdown here. */
enum { NESTED_MAX = 8 };

struct event {
	enum event_kind kind;
	u8 vector;
	bool has_error;
	u32 error;
	unsigned ext; /* 1: the program did not ask for it */
};

struct gate {
	u8 type; /* SYS_* */
	u16 sel;
	u64 offset;
	u8 ist;
};

static bool is_soft(const struct event *ev)
{
	return ev->kind == EV_SOFT_INT || ev->kind == EV_SOFT_EXC;
}

/* RFLAGS as pushed: RF is set for faults, but not for those of breakpoints, SDM vol 3 "Instruction-
 * Breakpoint Exception Condition". */
static u64 pushed_flags(const struct tcg_cpu *c, const struct event *ev)
{
	return flags_get(c) | (ev->kind == EV_EXC && ev->vector != EXC_DB ? FL_RF : 0);
}

static void flags_clear(struct tcg_cpu *c, u64 bits)
{
	c->v.s.rflags &= ~bits;
}

static bool raise_gate(struct tcg_cpu *c, u8 vec, const struct event *ev)
{
	return raise_err(c, vec, ev->vector * 8u + 2 + ev->ext);
}

/* --- real mode -------------------------------------------------------------------------------- */
static bool deliver_real(struct tcg_cpu *c, const struct event *ev)
{
	struct cpu_state *s = &c->v.s;
	struct frame k = frame_now(c, 0);
	u64 vec;

	k.width = 2;
	if (ev->vector * 4u + 3 > s->idt.limit)
		return raise(c, EXC_GP);
	if (!lin_load_sys(c, s->idt.base + ev->vector * 4u, 4, &vec) ||
	    !frame_push(c, &k, 2, flags_get(c)) || !frame_push(c, &k, 2, s->seg[SEG_CS].sel) ||
	    !frame_push(c, &k, 2, s->rip))
		return false;
	frame_commit_sp(c, &k);
	seg_put_cs_real(c, (u16)(vec >> 16));
	s->rip = vec & 0xffff;
	flags_clear(c, FL_IF | FL_TF | FL_AC | FL_RF);
	return true;
}

/* --- gates ------------------------------------------------------------------------------------ */
static bool gate_type_ok(const struct tcg_cpu *c, u8 type)
{
	if (type == SYS_INT32 || type == SYS_TRAP32)
		return true;
	return !c->long_mode && (type == SYS_INT16 || type == SYS_TRAP16 || type == SYS_TASK);
}

static bool gate_fetch(struct tcg_cpu *c, const struct event *ev, struct gate *g)
{
	const struct cpu_state *s = &c->v.s;
	unsigned bytes = c->long_mode ? 16 : 8;
	u64 lo, hi = 0;

	if (ev->vector * bytes + bytes - 1 > s->idt.limit)
		return raise_gate(c, EXC_GP, ev);
	if (!lin_load_sys(c, s->idt.base + ev->vector * bytes, 8, &lo) ||
	    (bytes == 16 && !lin_load_sys(c, s->idt.base + ev->vector * bytes + 8, 8, &hi)))
		return false;
	u32 attr = desc_attr(lo);

	g->type = attr & (ATTR_TYPE | ATTR_S);
	g->sel = (u16)(lo >> 16);
	g->ist = c->long_mode ? lo >> 32 & 7 : 0;
	g->offset = (lo & 0xffff) | (lo >> 32 & 0xffff0000) | hi << 32;
	if (g->type == SYS_INT16 || g->type == SYS_TRAP16)
		g->offset &= 0xffff;
	if (!gate_type_ok(c, g->type) || (is_soft(ev) && attr_dpl(attr) < c->cpl))
		return raise_gate(c, EXC_GP, ev);
	return attr & ATTR_P || raise_gate(c, EXC_NP, ev);
}

/* The gate's code segment, checked; *cpl is the ring it will run in. */
static bool gate_code(struct tcg_cpu *c, const struct event *ev, const struct gate *g,
		      struct seg_reg *cs, unsigned *cpl)
{
	struct desc d;

	if (sel_null(g->sel))
		return raise_err(c, EXC_GP, ev->ext);
	if (!desc_fetch(c, EXC_GP, g->sel, ev->ext, &d))
		return false;
	unsigned dpl = attr_dpl(d.attr);

	if (!attr_is_code(d.attr) || dpl > c->cpl ||
	    (c->long_mode && (d.attr & (ATTR_L | ATTR_DB)) != ATTR_L))
		return raise_sel(c, EXC_GP, g->sel, ev->ext);
	if (!(d.attr & ATTR_P))
		return raise_sel(c, EXC_NP, g->sel, ev->ext);
	*cpl = d.attr & TYPE_C ? c->cpl : dpl;
	if (c->v.s.rflags & FL_VM && *cpl)
		return raise_sel(c, EXC_GP, g->sel, ev->ext);
	if (!desc_touch(c, &d))
		return false;
	*cs = desc_to_seg((u16)((g->sel & ~3u) | *cpl), &d);
	return code_offset_ok(c, cs, g->offset, ev->ext);
}

/* Everything has been pushed: load CS, SS, rSP and rIP. */
static void enter_handler(struct tcg_cpu *c, const struct gate *g, const struct frame *k,
			  const struct seg_reg *cs, bool new_stack)
{
	bool vm = c->v.s.rflags & FL_VM;

	flags_clear(c, FL_TF | FL_NT | FL_VM | FL_RF | (g->type & 1 ? 0 : FL_IF));
	for (unsigned seg = 0; vm && seg < SEG_NR; seg++)
		if (seg != SEG_CS && seg != SEG_SS)
			c->v.s.seg[seg] = seg_null(0);
	if (new_stack)
		c->v.s.seg[SEG_SS] = k->ss;
	c->v.s.seg[SEG_CS] = *cs;
	seg_refresh(c);
	frame_commit_sp(c, k);
	c->v.s.rip = g->offset;
}

/* --- long mode -------------------------------------------------------------------------------- */
static bool deliver_long(struct tcg_cpu *c, const struct event *ev)
{
	struct cpu_state *s = &c->v.s;
	struct frame k = frame_now(c, ev->ext);
	struct seg_reg cs;
	struct gate g;
	unsigned cpl;

	if (!gate_fetch(c, ev, &g) || !gate_code(c, ev, &g, &cs, &cpl))
		return false;
	bool inner = cpl < c->cpl;

	if (g.ist || inner) {
		if (!frame_inner64(c, cpl, g.ist ? g.ist + 3u : cpl, ev->ext, &k))
			return false;
		k.sys = cpl < 3;
	}
	k.width = 8;
	k.sp &= ~15ull;
	if (!frame_push(c, &k, 8, s->seg[SEG_SS].sel) || !frame_push(c, &k, 8, s->gpr[RSP]) ||
	    !frame_push(c, &k, 8, pushed_flags(c, ev)) ||
	    !frame_push(c, &k, 8, s->seg[SEG_CS].sel) || !frame_push(c, &k, 8, s->rip) ||
	    (ev->has_error && !frame_push(c, &k, 8, ev->error)))
		return false;
	enter_handler(c, &g, &k, &cs, inner);
	return true;
}

/* --- protected and virtual-8086 mode ---------------------------------------------------------- */
/* Once in the new task, no fault is one of the INT n any more: there is nothing to go back to. */
static bool deliver_task(struct tcg_cpu *c, struct event *ev, u16 sel)
{
	enum task_result got = task_switch(c, TASK_EVENT, sel, ev->ext, ev->has_error, ev->error);

	if (got == TASK_FAULT_NEW && ev->kind != EV_EXC)
		ev->kind = EV_INTR;
	return got == TASK_DONE;
}

static bool push_v86_segments(struct tcg_cpu *c, struct frame *k, unsigned size)
{
	const struct seg_reg *seg = c->v.s.seg;

	return frame_push(c, k, size, seg[SEG_GS].sel) && frame_push(c, k, size, seg[SEG_FS].sel) &&
	       frame_push(c, k, size, seg[SEG_DS].sel) && frame_push(c, k, size, seg[SEG_ES].sel);
}

static bool deliver_protected(struct tcg_cpu *c, struct event *ev)
{
	struct cpu_state *s = &c->v.s;
	struct frame k = frame_now(c, ev->ext);
	struct seg_reg cs;
	struct gate g;
	unsigned cpl;

	if (!gate_fetch(c, ev, &g))
		return false;
	if (g.type == SYS_TASK)
		return deliver_task(c, ev, g.sel);
	if (!gate_code(c, ev, &g, &cs, &cpl))
		return false;
	unsigned size = g.type & 8 ? 4 : 2;
	bool inner = cpl < c->cpl;

	if (inner && !frame_inner(c, cpl, ev->ext, &k))
		return false;
	if (s->rflags & FL_VM && !push_v86_segments(c, &k, size))
		return false;
	if (inner &&
	    (!frame_push(c, &k, size, s->seg[SEG_SS].sel) || !frame_push(c, &k, size, s->gpr[RSP])))
		return false;
	if (!frame_push(c, &k, size, pushed_flags(c, ev)) ||
	    !frame_push(c, &k, size, s->seg[SEG_CS].sel) || !frame_push(c, &k, size, s->rip) ||
	    (ev->has_error && !frame_push(c, &k, size, ev->error)))
		return false;
	enter_handler(c, &g, &k, &cs, inner);
	return true;
}

static bool deliver_once(struct tcg_cpu *c, struct event *ev)
{
	const struct cpu_state *s = &c->v.s;

	if (!(s->cr0 & CR0_PE))
		return deliver_real(c, ev);
	if (c->long_mode)
		return deliver_long(c, ev);
	if (ev->kind == EV_SOFT_INT && s->rflags & FL_VM && (s->rflags & FL_IOPL) != FL_IOPL)
		return raise_err(c, EXC_GP, 0);
	return deliver_protected(c, ev);
}

/* --- faults during delivery ------------------------------------------------------------------- */
static bool is_contributory(u8 vector)
{
	return vector == EXC_DE || (vector >= EXC_TS && vector <= EXC_GP);
}

/* A fault came up while ev was delivered: does that make a double fault?  SDM vol 3 table
 * "Conditions for Generating a Double Fault". */
static bool is_double(const struct event *ev, u8 second)
{
	if (ev->kind != EV_EXC)
		return false;
	if (ev->vector == EXC_PF)
		return second == EXC_PF || is_contributory(second);
	return is_contributory(ev->vector) && is_contributory(second);
}

static bool is_triple(const struct event *ev, u8 second)
{
	return ev->kind == EV_EXC && ev->vector == EXC_DF &&
	       (is_contributory(second) || second == EXC_PF);
}

/* Which breakpoints have been hit is said anew, the other causes add up; GD goes.  SDM vol 3 "Debug
 * Status Register (DR6)". */
static void dr6_report(struct tcg_cpu *c, u64 causes)
{
	c->v.s.dr[6] = (c->v.s.dr[6] & ~(u64)DR6_B0_B3) | causes;
	c->v.s.dr[7] &= ~(u64)DR7_GD;
}

static struct event next_event(struct tcg_cpu *c, const struct event *ev)
{
	struct exc x = c->exc;

	c->exc.vector = EXC_NONE;
	if (x.vector == EXC_PF)
		c->v.s.cr2 = x.cr2;
	if (x.vector == EXC_DB)
		dr6_report(c, x.dr6);
	if (is_double(ev, x.vector))
		return (struct event){ EV_EXC, EXC_DF, true, 0, 1 };
	return (struct event){ EV_EXC, x.vector, x.has_error, x.error, 1 };
}

bool exc_deliver(struct tcg_cpu *c, enum event_kind kind, u8 vector, bool has_error, u32 error)
{
	struct cpu_state *s = &c->v.s;
	struct event ev = { kind, vector, has_error, error,
			    kind != EV_SOFT_INT && kind != EV_SOFT_EXC };
	u64 begin = s->rip - c->soft_len;

	c->soft_len = 0;
	c->stat_exc++;
	for (unsigned nested = 0; !deliver_once(c, &ev); nested++) {
		if (nested == NESTED_MAX || is_triple(&ev, c->exc.vector)) {
			c->exc.vector = EXC_NONE;
			return false;
		}
		if (ev.kind == EV_SOFT_INT || ev.kind == EV_SOFT_EXC || ev.kind == EV_ICEBP)
			s->rip = c->mode == MODE_64   ? begin
				 : c->mode == MODE_32 ? (u32)begin
						      : (u16)begin;
		ev = next_event(c, &ev);
	}
	s->int_shadow = 0;
	if (kind == EV_NMI)
		s->nmi_blocked = 1;
	return true;
}

bool exc_dispatch(struct tcg_cpu *c)
{
	struct exc x = c->exc;
	enum event_kind kind = x.trap && (x.vector == EXC_BP || x.vector == EXC_OF) ? EV_SOFT_EXC
										    : EV_EXC;

	c->exc.vector = EXC_NONE;
	if (x.vector == EXC_PF)
		c->v.s.cr2 = x.cr2;
	if (x.vector == EXC_DB) {
		dr6_report(c, x.dr6);
	}
	return exc_deliver(c, kind, x.vector, x.has_error, x.error);
}
