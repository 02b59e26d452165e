/* exec_far.c - transfers that change the code segment: far JMP, CALL, RET, IRET, SYSCALL and
 * SYSENTER with their returns.
 *
 * Owns no state.  Each handler reads and checks everything first and commits at its end, so that
 * a fault finds the registers as they were.
 * Source: SDM vol 2 instruction pages; vol 3 "Privilege Level Checking When Transferring Program
 * Control". Where Intel and AMD differ the guest gets what its CPUID vendor does: SYSCALL
 * outside 64-bit mode is AMD's, SYSENTER in long mode Intel's.  SYSRET loads all of SS (Intel)
 * and checks RIP (Intel) for both: the other way is known to be a trap for kernels and nothing
 * can depend on it. */
#include "exec.h"
#include "seg.h"

enum { /* attributes that SYSCALL and the like load without looking at a descriptor */
       CODE64 = 0xa09b,
       CODE32 = 0xc09b,
       DATA32 = 0xc093,
       RING3 = 3 << ATTR_DPL_SHIFT,
};

/* --- small parts ------------------------------------------------------------------------------ */
static HANDLER far_go(struct tcg_cpu *c, u64 rip)
{
	c->v.s.rip = rip;
	return NULL;
}

static HANDLER far_task(struct tcg_cpu *c, const struct insn *in, enum task_how how, u16 sel)
{
	c->v.s.rip = insn_next_rip(c, in);
	return task_switch(c, how, sel, 0, false, 0) == TASK_FAULT_OLD ? insn_fault(c, in) : NULL;
}

static bool far_operand(struct tcg_cpu *c, const struct insn *in, u16 *sel, u64 *off)
{
	u64 s;
	gva_t lin;

	if (in->opd[0].kind == OPD_FAR) {
		*sel = in->imm2;
		*off = in->imm & size_mask(in->size);
		return true;
	}
	if (!insn_lin(c, in, in->size + 2u, ACC_R, &lin) || !lin_load(c, lin, in->size, off) ||
	    !lin_load(c, lin + in->size, 2, &s))
		return false;
	*sel = (u16)s;
	return true;
}

/* L and D together are reserved in long mode. */
static bool code_bits_ok(const struct tcg_cpu *c, u32 attr)
{
	return !c->long_mode || (attr & (ATTR_L | ATTR_DB)) != (ATTR_L | ATTR_DB);
}

/* Check a code segment that JMP or CALL names directly; the new CS runs at the current ring. */
static bool direct_code(struct tcg_cpu *c, u16 sel, struct desc *d, u64 off, struct seg_reg *cs)
{
	unsigned dpl = attr_dpl(d->attr);
	bool dpl_ok = d->attr & TYPE_C ? dpl <= c->cpl : dpl == c->cpl && (sel & 3) <= c->cpl;

	if (!dpl_ok || !code_bits_ok(c, d->attr))
		return raise_sel(c, EXC_GP, sel, 0);
	if (!(d->attr & ATTR_P))
		return raise_sel(c, EXC_NP, sel, 0);
	if (!desc_touch(c, d))
		return false;
	*cs = desc_to_seg((u16)((sel & ~3u) | c->cpl), d);
	return code_offset_ok(c, cs, off, 0);
}

/* A gate or TSS named by a far pointer must be visible from here. */
static bool gate_visible(struct tcg_cpu *c, u16 sel, const struct desc *d)
{
	if (attr_dpl(d->attr) < c->cpl || attr_dpl(d->attr) < (sel & 3u))
		return raise_sel(c, EXC_GP, sel, 0);
	return d->attr & ATTR_P || raise_sel(c, EXC_NP, sel, 0);
}

/* --- call gates ------------------------------------------------------------------------------- */
struct call_gate {
	struct seg_reg cs;
	u64 off;
	unsigned cpl; /* ring of the target */
	unsigned size; /* of what is pushed: 2, 4, 8 */
	unsigned params;
};

static bool gate_target(struct tcg_cpu *c, u16 sel, bool jump, struct call_gate *g)
{
	struct desc d;

	if (sel_null(sel))
		return raise_err(c, EXC_GP, 0);
	if (!desc_fetch(c, EXC_GP, sel, 0, &d))
		return false;
	unsigned dpl = attr_dpl(d.attr);
	bool conforming = d.attr & TYPE_C;

	if (!attr_is_code(d.attr) || dpl > c->cpl || (jump && !conforming && dpl != c->cpl) ||
	    (c->long_mode && (d.attr & (ATTR_L | ATTR_DB)) != ATTR_L))
		return raise_sel(c, EXC_GP, sel, 0);
	if (!(d.attr & ATTR_P))
		return raise_sel(c, EXC_NP, sel, 0);
	if (!desc_touch(c, &d))
		return false;
	g->cpl = conforming ? c->cpl : dpl;
	g->cs = desc_to_seg((u16)((sel & ~3u) | g->cpl), &d);
	return code_offset_ok(c, &g->cs, g->off, 0);
}

static bool gate_read(struct tcg_cpu *c, u16 sel, const struct desc *d, bool jump,
		      struct call_gate *g)
{
	u64 high = 0;

	if (!gate_visible(c, sel, d))
		return false;
	if (c->long_mode && !desc_fetch_high(c, EXC_GP, sel, 0, d, &high))
		return false;
	if (high >> 40 & 0x1f) /* the type field of the upper half must be 0 */
		return raise_sel(c, EXC_GP, sel, 0);
	g->off = (d->d & 0xffff) | (d->d >> 32 & 0xffff0000) | high << 32;
	g->params = d->d >> 32 & 0x1f;
	g->size = c->long_mode ? 8 : 4;
	if ((d->attr & ATTR_TYPE) == SYS_CALL16) {
		g->off &= 0xffff;
		g->size = 2;
	}
	return gate_target(c, (u16)(d->d >> 16), jump, g);
}

/* Copy the caller's parameters: the deepest is pushed first. */
static bool copy_params(struct tcg_cpu *c, const struct call_gate *g, struct frame *to)
{
	for (unsigned i = g->params; i--;) {
		struct frame from = frame_now(c, 0);
		u64 v;

		frame_skip(&from, i * g->size);
		if (!frame_pop(c, &from, g->size, &v) || !frame_push(c, to, g->size, v))
			return false;
	}
	return true;
}

static bool gate_new_stack(struct tcg_cpu *c, const struct call_gate *g, struct frame *k)
{
	const struct cpu_state *s = &c->v.s;

	if (c->long_mode ? !frame_inner64(c, g->cpl, g->cpl, 0, k) : !frame_inner(c, g->cpl, 0, k))
		return false;
	return frame_push(c, k, g->size, s->seg[SEG_SS].sel) &&
	       frame_push(c, k, g->size, s->gpr[RSP]) && (c->long_mode || copy_params(c, g, k));
}

static HANDLER call_gate(struct tcg_cpu *c, const struct insn *in, const struct call_gate *g)
{
	struct cpu_state *s = &c->v.s;
	struct frame k = frame_now(c, 0);
	bool inner = g->cpl < c->cpl;

	if (c->long_mode)
		k.width = 8;
	if ((inner && !gate_new_stack(c, g, &k)) ||
	    !frame_push(c, &k, g->size, s->seg[SEG_CS].sel) ||
	    !frame_push(c, &k, g->size, insn_next_rip(c, in)))
		return insn_fault(c, in);
	if (inner)
		seg_put(c, SEG_SS, k.ss);
	seg_put(c, SEG_CS, g->cs);
	frame_commit_sp(c, &k);
	return far_go(c, g->off);
}

/* --- far JMP ---------------------------------------------------------------------------------- */
static HANDLER jump_system(struct tcg_cpu *c, const struct insn *in, u16 sel, const struct desc *d)
{
	struct call_gate g;
	u32 type = d->attr & ATTR_TYPE;

	if (type == SYS_CALL32 || (type == SYS_CALL16 && !c->long_mode)) {
		if (!gate_read(c, sel, d, true, &g))
			return insn_fault(c, in);
		seg_put(c, SEG_CS, g.cs);
		return far_go(c, g.off);
	}
	if (c->long_mode ||
	    (type != SYS_TASK && (type & ~8u) != SYS_TSS16 && (type & ~8u) != SYS_TSS16_BUSY)) {
		raise_sel(c, EXC_GP, sel, 0);
		return insn_fault(c, in);
	}
	if (!gate_visible(c, sel, d))
		return insn_fault(c, in);
	return far_task(c, in, TASK_JMP, type == SYS_TASK ? (u16)(d->d >> 16) : sel);
}

/* What a far jump or call names: a code segment, or a system descriptor for the caller to judge. */
static bool far_desc(struct tcg_cpu *c, u16 sel, struct desc *d)
{
	if (sel_null(sel))
		return raise_err(c, EXC_GP, 0);
	if (!desc_fetch(c, EXC_GP, sel, 0, d))
		return false;
	return !(d->attr & ATTR_S) || attr_is_code(d->attr) || raise_sel(c, EXC_GP, sel, 0);
}

const struct insn *exec_JMP_FAR(struct tcg_cpu *c, const struct insn *in)
{
	struct seg_reg cs;
	struct desc d;
	u16 sel;
	u64 off;

	if (!far_operand(c, in, &sel, &off))
		return insn_fault(c, in);
	if (seg_is_real(c)) {
		if (off > c->v.s.seg[SEG_CS].limit)
			return insn_raise_err(c, in, EXC_GP, 0);
		seg_put_cs_real(c, sel);
		return far_go(c, off);
	}
	if (!far_desc(c, sel, &d))
		return insn_fault(c, in);
	if (!(d.attr & ATTR_S))
		return jump_system(c, in, sel, &d);
	if (!direct_code(c, sel, &d, off, &cs))
		return insn_fault(c, in);
	seg_put(c, SEG_CS, cs);
	return far_go(c, off);
}

/* --- far CALL --------------------------------------------------------------------------------- */
static HANDLER call_system(struct tcg_cpu *c, const struct insn *in, u16 sel, const struct desc *d)
{
	struct call_gate g;
	u32 type = d->attr & ATTR_TYPE;

	if (type == SYS_CALL32 || (type == SYS_CALL16 && !c->long_mode))
		return gate_read(c, sel, d, false, &g) ? call_gate(c, in, &g) : insn_fault(c, in);
	if (c->long_mode ||
	    (type != SYS_TASK && (type & ~8u) != SYS_TSS16 && (type & ~8u) != SYS_TSS16_BUSY)) {
		raise_sel(c, EXC_GP, sel, 0);
		return insn_fault(c, in);
	}
	if (!gate_visible(c, sel, d))
		return insn_fault(c, in);
	return far_task(c, in, TASK_CALL, type == SYS_TASK ? (u16)(d->d >> 16) : sel);
}

static bool push_return(struct tcg_cpu *c, const struct insn *in, struct frame *k)
{
	return frame_push(c, k, in->size, c->v.s.seg[SEG_CS].sel) &&
	       frame_push(c, k, in->size, insn_next_rip(c, in));
}

const struct insn *exec_CALL_FAR(struct tcg_cpu *c, const struct insn *in)
{
	struct frame k = frame_now(c, 0);
	struct seg_reg cs;
	struct desc d;
	u16 sel;
	u64 off;

	if (!far_operand(c, in, &sel, &off))
		return insn_fault(c, in);
	if (seg_is_real(c)) {
		if (off > c->v.s.seg[SEG_CS].limit)
			return insn_raise_err(c, in, EXC_GP, 0);
		if (!push_return(c, in, &k))
			return insn_fault(c, in);
		frame_commit_sp(c, &k);
		seg_put_cs_real(c, sel);
		return far_go(c, off);
	}
	if (!far_desc(c, sel, &d))
		return insn_fault(c, in);
	if (!(d.attr & ATTR_S))
		return call_system(c, in, sel, &d);
	if (!direct_code(c, sel, &d, off, &cs) || !push_return(c, in, &k))
		return insn_fault(c, in);
	frame_commit_sp(c, &k);
	seg_put(c, SEG_CS, cs);
	return far_go(c, off);
}

/* --- far RET and IRET: the way out ------------------------------------------------------------ */
/* Check the code segment to return to; its RPL is the ring. */
static bool return_code(struct tcg_cpu *c, u16 sel, u64 off, struct seg_reg *cs)
{
	unsigned rpl = sel & 3;
	struct desc d;

	if (sel_null(sel))
		return raise_err(c, EXC_GP, 0);
	if (!desc_fetch(c, EXC_GP, sel, 0, &d))
		return false;
	bool dpl_ok = d.attr & TYPE_C ? attr_dpl(d.attr) <= rpl : attr_dpl(d.attr) == rpl;

	if (!attr_is_code(d.attr) || rpl < c->cpl || !dpl_ok || !code_bits_ok(c, d.attr))
		return raise_sel(c, EXC_GP, sel, 0);
	if (!(d.attr & ATTR_P))
		return raise_sel(c, EXC_NP, sel, 0);
	if (!desc_touch(c, &d))
		return false;
	*cs = desc_to_seg(sel, &d);
	return code_offset_ok(c, cs, off, 0);
}

/* The stack segment that comes with it; null is fine for 64-bit code outside ring 3. */
static bool return_stack(struct tcg_cpu *c, u16 sel, const struct seg_reg *cs, struct seg_reg *ss)
{
	unsigned rpl = cs->sel & 3;

	if (sel_null(sel) && c->long_mode && cs->attr & ATTR_L && rpl != 3 && (sel & 3u) == rpl) {
		*ss = seg_null(sel);
		ss->attr |= rpl << ATTR_DPL_SHIFT;
		return true;
	}
	if (sel_null(sel))
		return raise_err(c, EXC_GP, 0);
	return seg_check_stack(c, EXC_GP, sel, rpl, 0, ss);
}

/* Load CS and SS of an outer (or, for IRETQ, any) ring and its stack pointer. */
static void return_outer(struct tcg_cpu *c, const struct seg_reg *cs, const struct seg_reg *ss,
			 u64 sp)
{
	struct frame k = { .sp = sp };
	u8 from = c->cpl;

	seg_put(c, SEG_SS, *ss);
	seg_put(c, SEG_CS, *cs);
	k.width = c->stack_size;
	frame_commit_sp(c, &k);
	if (c->cpl != from)
		seg_drop_inner(c);
}

static HANDLER ret_real(struct tcg_cpu *c, const struct insn *in, u64 extra)
{
	struct frame k = frame_now(c, 0);
	u64 rip, cs;

	if (!frame_pop(c, &k, in->size, &rip) || !frame_pop(c, &k, in->size, &cs))
		return insn_fault(c, in);
	if (rip > c->v.s.seg[SEG_CS].limit)
		return insn_raise_err(c, in, EXC_GP, 0);
	frame_skip(&k, extra);
	frame_commit_sp(c, &k);
	seg_put_cs_real(c, (u16)cs);
	return far_go(c, rip);
}

const struct insn *exec_RET_FAR(struct tcg_cpu *c, const struct insn *in)
{
	u64 extra = in->nopd ? in->imm & 0xffff : 0, rip, sel, sp, ss_sel;
	struct frame k = frame_now(c, 0);
	struct seg_reg cs, ss;

	if (seg_is_real(c))
		return ret_real(c, in, extra);
	if (!frame_pop(c, &k, in->size, &rip) || !frame_pop(c, &k, in->size, &sel) ||
	    !return_code(c, (u16)sel, rip, &cs))
		return insn_fault(c, in);
	frame_skip(&k, extra);
	if ((sel & 3) == c->cpl) {
		frame_commit_sp(c, &k);
		seg_put(c, SEG_CS, cs);
		return far_go(c, rip);
	}
	if (!frame_pop(c, &k, in->size, &sp) || !frame_pop(c, &k, in->size, &ss_sel) ||
	    !return_stack(c, (u16)ss_sel, &cs, &ss))
		return insn_fault(c, in);
	return_outer(c, &cs, &ss, sp);
	reg_set(c, RSP, c->stack_size,
		c->v.s.gpr[RSP] + extra); /* the parameters are on both stacks */
	return far_go(c, rip);
}

/* What IRET may change, decided by the ring it runs in. */
static void iret_flags(struct tcg_cpu *c, unsigned size, u64 popped)
{
	u64 old = flags_get(c), may = FL_ARITH | FL_TF | FL_DF | FL_NT;

	if (size > 2)
		may |= FL_RF | FL_AC | FL_ID;
	if (c->cpl == 0)
		may |= FL_IF | FL_IOPL | (size > 2 ? FL_VIF | FL_VIP : 0);
	else if (c->cpl <= (old & FL_IOPL) >> 12)
		may |= FL_IF;
	flags_set(c, (old & ~may) | (popped & may));
}

static HANDLER iret_real(struct tcg_cpu *c, const struct insn *in)
{
	struct frame k = frame_now(c, 0);
	u64 rip, cs, fl, old = flags_get(c), may = FL_ARITH | FL_TF | FL_DF | FL_NT | FL_IF;

	if (c->v.s.rflags & FL_VM && (old & FL_IOPL) != FL_IOPL)
		return insn_raise_err(c, in, EXC_GP, 0);
	if (!frame_pop(c, &k, in->size, &rip) || !frame_pop(c, &k, in->size, &cs) ||
	    !frame_pop(c, &k, in->size, &fl))
		return insn_fault(c, in);
	if (rip > c->v.s.seg[SEG_CS].limit)
		return insn_raise_err(c, in, EXC_GP, 0);
	if (in->size > 2)
		may |= FL_RF | FL_AC | FL_ID;
	if (!(old & FL_VM))
		may |= FL_IOPL;
	flags_set(c, (old & ~may) | (fl & may));
	frame_commit_sp(c, &k);
	seg_put_cs_real(c, (u16)cs);
	return far_go(c, rip);
}

/* Ring 0 returns to virtual-8086 mode: six more words on the stack. */
static HANDLER iret_to_v86(struct tcg_cpu *c, const struct insn *in, struct frame *k, u64 rip,
			   u64 cs, u64 fl)
{
	static const enum sreg order[] = { SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	u64 sp, sel[ARRAY_LEN(order)];

	if (!frame_pop(c, k, 4, &sp))
		return insn_fault(c, in);
	for (unsigned i = 0; i < ARRAY_LEN(order); i++)
		if (!frame_pop(c, k, 4, &sel[i]))
			return insn_fault(c, in);
	if (rip > 0xffff)
		return insn_raise_err(c, in, EXC_GP, 0);
	flags_set(c, fl);
	for (unsigned i = 0; i < ARRAY_LEN(order); i++)
		seg_load(c, order[i], (u16)sel[i]);
	seg_put_cs_real(c, (u16)cs);
	c->v.s.gpr[RSP] = (u32)sp;
	seg_refresh(c);
	return far_go(c, rip);
}

static HANDLER iret_task(struct tcg_cpu *c, const struct insn *in)
{
	u64 link;

	if (!lin_load_sys(c, c->v.s.tr.base, 2, &link))
		return insn_fault(c, in);
	return far_task(c, in, TASK_IRET, (u16)link);
}

const struct insn *exec_IRET(struct tcg_cpu *c, const struct insn *in)
{
	struct frame k = frame_now(c, 0);
	u64 rip, sel, fl, sp, ss_sel;
	unsigned size = in->size;
	struct seg_reg cs, ss;

	serialise(c);
	c->v.s.nmi_blocked = 0; /* whatever becomes of this IRET */
	if (seg_is_real(c))
		return iret_real(c, in);
	if (c->v.s.rflags & FL_NT) {
		if (c->long_mode)
			return insn_raise_err(c, in, EXC_GP, 0);
		return iret_task(c, in);
	}
	if (!frame_pop(c, &k, size, &rip) || !frame_pop(c, &k, size, &sel) ||
	    !frame_pop(c, &k, size, &fl))
		return insn_fault(c, in);
	if (fl & FL_VM && size == 4 && c->cpl == 0 && !c->long_mode)
		return iret_to_v86(c, in, &k, rip, sel, fl);
	if (!return_code(c, (u16)sel, rip, &cs))
		return insn_fault(c, in);
	if ((sel & 3) == c->cpl && in->mode != MODE_64) {
		iret_flags(c, size, fl);
		frame_commit_sp(c, &k);
		seg_put(c, SEG_CS, cs);
	} else {
		if (!frame_pop(c, &k, size, &sp) || !frame_pop(c, &k, size, &ss_sel) ||
		    !return_stack(c, (u16)ss_sel, &cs, &ss))
			return insn_fault(c, in);
		iret_flags(c, size, fl);
		return_outer(c, &cs, &ss, sp);
	}
	if (unlikely(c->v.s.cr0 & CR0_AM)) /* AC may have changed what accesses need */
		mmu_select(c);
	return far_go(c, rip);
}

/* --- fast system calls ------------------------------------------------------------------------ */
static struct seg_reg flat_seg(u64 sel, u32 attr)
{
	return (struct seg_reg){ .sel = (u16)sel, .attr = attr, .limit = 0xffffffff };
}

static void enter_flat(struct tcg_cpu *c, u64 cs, u32 cs_attr, u64 ss, u32 ss_attr)
{
	seg_put(c, SEG_SS, flat_seg(ss, ss_attr));
	seg_put(c, SEG_CS, flat_seg(cs, cs_attr));
	if (unlikely(c->v.s.cr0 & CR0_AM))
		mmu_select(c);
}

const struct insn *exec_SYSCALL(struct tcg_cpu *c, const struct insn *in)
{
	struct cpu_state *s = &c->v.s;
	u64 cs = s->star >> 32 & 0xfffc, next_rip = insn_next_rip(c, in), rip;
	bool from64 = c->mode == MODE_64;

	if (!(s->efer & EFER_SCE) || (!from64 && (!cpuid_is_amd() || !(s->cr0 & CR0_PE))))
		return insn_raise(c, in, EXC_UD);
	s->gpr[RCX] = next_rip;
	if (c->long_mode) {
		s->gpr[R11] = flags_get(c) & ~(u64)FL_RF;
		flags_set(c, flags_get(c) & ~(s->sfmask | FL_RF));
		rip = from64 ? s->lstar : s->cstar;
		enter_flat(c, cs, CODE64, cs + 8, DATA32);
	} else {
		s->rflags &= ~(u64)(FL_VM | FL_IF | FL_RF);
		rip = (u32)s->star;
		enter_flat(c, cs, CODE32, cs + 8, DATA32);
	}
	return far_go(c, rip);
}

const struct insn *exec_SYSRET(struct tcg_cpu *c, const struct insn *in)
{
	struct cpu_state *s = &c->v.s;
	u64 base = s->star >> 48, rip = s->gpr[RCX];
	bool to64 = in->size == 8;

	if (!(s->efer & EFER_SCE) || !(s->cr0 & CR0_PE) ||
	    (c->mode != MODE_64 && !cpuid_is_amd()))
		return insn_raise(c, in, EXC_UD);
	if (c->cpl || (to64 && !is_canonical(rip)))
		return insn_raise_err(c, in, EXC_GP, 0);
	if (c->long_mode)
		flags_set(c, s->gpr[R11] & 0x3c7fd7);
	else
		s->rflags |= FL_IF;
	enter_flat(c, (to64 ? base + 16 : base) | 3, (to64 ? CODE64 : CODE32) | RING3,
		   (base + 8) | 3, DATA32 | RING3);
	if (s->rflags & FL_TF) /* unlike after POPF: the SYSCALL being stepped ends here */
		c->exc = (struct exc){ .vector = EXC_DB, .trap = true, .dr6 = DR6_BS };
	return far_go(c, to64 ? rip : (u32)rip);
}

const struct insn *exec_SYSENTER(struct tcg_cpu *c, const struct insn *in)
{
	struct cpu_state *s = &c->v.s;
	u64 cs = s->sysenter_cs & 0xfffc;

	if (c->long_mode && cpuid_is_amd())
		return insn_raise(c, in, EXC_UD);
	if (!(s->cr0 & CR0_PE) || !cs)
		return insn_raise_err(c, in, EXC_GP, 0);
	s->rflags &= ~(u64)(FL_VM | FL_IF | FL_RF);
	enter_flat(c, cs, c->long_mode ? CODE64 : CODE32, cs + 8, DATA32);
	s->gpr[RSP] = c->long_mode ? s->sysenter_esp : (u32)s->sysenter_esp;
	return far_go(c, c->long_mode ? s->sysenter_eip : (u32)s->sysenter_eip);
}

const struct insn *exec_SYSEXIT(struct tcg_cpu *c, const struct insn *in)
{
	struct cpu_state *s = &c->v.s;
	u64 cs = s->sysenter_cs & 0xfffc, rip = s->gpr[RDX], rsp = s->gpr[RCX];
	bool to64 = in->size == 8;

	if (c->long_mode && cpuid_is_amd())
		return insn_raise(c, in, EXC_UD);
	if (!(s->cr0 & CR0_PE) || c->cpl || !cs ||
	    (to64 && (!is_canonical(rip) || !is_canonical(rsp))))
		return insn_raise_err(c, in, EXC_GP, 0);
	cs += to64 ? 32 : 16;
	enter_flat(c, cs | 3, (to64 ? CODE64 : CODE32) | RING3, (cs + 8) | 3, DATA32 | RING3);
	s->gpr[RSP] = to64 ? rsp : (u32)rsp;
	return far_go(c, to64 ? rip : (u32)rip);
}
