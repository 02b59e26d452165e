/* exec_seg.c - instructions that load, store or ask about segment registers and selectors.
 *
 * Owns no state; the checks of a load are seg.c's.  Source: SDM vol 2: MOV, POP, LDS, LAR, LSL,
 * VERR, ARPL, SWAPGS, WRFSBASE. */
#include "exec.h"
#include "seg.h"

/* --- questions about selectors ---------------------------------------------------------------- */
static HANDLER answer_zf(struct tcg_cpu *c, const struct insn *in, bool zf)
{
	c->cc = (u16)((c->cc & ~(FL_ZF << 8)) | (zf ? FL_ZF << 8 : 0));
	return in + 1;
}

/* The selector's descriptor if CPL and RPL let it be seen: 1, 0, or -1 with c->exc. */
static int visible(struct tcg_cpu *c, u16 sel, struct desc *d)
{
	int got;

	if (sel_null(sel))
		return 0;
	got = desc_probe(c, sel, d);
	if (got <= 0 || (attr_is_code(d->attr) && d->attr & TYPE_C))
		return got;
	return attr_dpl(d->attr) >= c->cpl && attr_dpl(d->attr) >= (sel & 3u);
}

static HANDLER verify(struct tcg_cpu *c, const struct insn *in, bool write)
{
	struct desc d;
	u64 sel;
	int got;

	if (!opd_load(c, in, 0, &sel) || (got = visible(c, (u16)sel, &d)) < 0)
		return insn_fault(c, in);
	if (!got || !(d.attr & ATTR_S))
		return answer_zf(c, in, false);
	if (write)
		return answer_zf(c, in, attr_is_wdata(d.attr));
	return answer_zf(c, in, !(d.attr & TYPE_CODE) || d.attr & TYPE_R);
}

const struct insn *exec_VERR(struct tcg_cpu *c, const struct insn *in)
{
	return verify(c, in, false);
}

const struct insn *exec_VERW(struct tcg_cpu *c, const struct insn *in)
{
	return verify(c, in, true);
}

/* Does the descriptor's type have access rights (LAR) or a limit (LSL) to tell? */
static bool tells(const struct tcg_cpu *c, u32 attr, bool limit)
{
	u32 types = c->long_mode ? BIT(SYS_LDT) | BIT(SYS_TSS32) | BIT(SYS_TSS32_BUSY)
				 : BIT(SYS_TSS16) | BIT(SYS_LDT) | BIT(SYS_TSS16_BUSY) |
					   BIT(SYS_TSS32) | BIT(SYS_TSS32_BUSY);

	if (!limit)
		types |= BIT(SYS_CALL32) | (c->long_mode ? 0 : BIT(SYS_CALL16) | BIT(SYS_TASK));
	return attr & ATTR_S || types >> (attr & ATTR_TYPE) & 1;
}

static HANDLER ask(struct tcg_cpu *c, const struct insn *in, bool limit)
{
	struct desc d;
	u64 sel;
	int got;

	if (!opd_load(c, in, 1, &sel) || (got = visible(c, (u16)sel, &d)) < 0)
		return insn_fault(c, in);
	if (!got || !tells(c, d.attr, limit))
		return answer_zf(c, in, false);
	reg_set(c, in->opd[0].reg, in->opd[0].size,
		limit ? desc_to_seg((u16)sel, &d).limit : d.d >> 32 & 0xffff00);
	return answer_zf(c, in, true);
}

const struct insn *exec_LAR(struct tcg_cpu *c, const struct insn *in)
{
	return ask(c, in, false);
}

const struct insn *exec_LSL(struct tcg_cpu *c, const struct insn *in)
{
	return ask(c, in, true);
}

const struct insn *exec_ARPL(struct tcg_cpu *c, const struct insn *in)
{
	u64 dst, src;

	if (!opd_load(c, in, 0, &dst) || !opd_load(c, in, 1, &src))
		return insn_fault(c, in);
	if ((dst & 3) >= (src & 3))
		return answer_zf(c, in, false);
	if (!opd_store(c, in, 0, (dst & ~3ull) | (src & 3)))
		return insn_fault(c, in);
	return answer_zf(c, in, true);
}

/* --- segment registers ------------------------------------------------------------------------ */
static HANDLER loaded(struct tcg_cpu *c, const struct insn *in, enum sreg seg)
{
	if (seg == SEG_SS)
		c->v.s.int_shadow = 2;
	return insn_end(c, in);
}

const struct insn *exec_MOV_TO_SREG(struct tcg_cpu *c, const struct insn *in)
{
	enum sreg seg = in->opd[0].reg;
	u64 sel;

	if (seg == SEG_CS || seg >= SEG_NR)
		return insn_raise(c, in, EXC_UD);
	if (!opd_load(c, in, 1, &sel) || !seg_load(c, seg, (u16)sel))
		return insn_fault(c, in);
	return loaded(c, in, seg);
}

const struct insn *exec_MOV_FROM_SREG(struct tcg_cpu *c, const struct insn *in)
{
	if (in->opd[1].reg >= SEG_NR)
		return insn_raise(c, in, EXC_UD);
	return opd_store(c, in, 0, c->v.s.seg[in->opd[1].reg].sel) ? in + 1 : insn_fault(c, in);
}

/* The selector's upper bytes are pushed as zero, as processors do that write the whole slot. */
const struct insn *exec_PUSH_SREG(struct tcg_cpu *c, const struct insn *in)
{
	return stack_push(c, in->size, c->v.s.seg[in->opd[0].reg].sel) ? in + 1 : insn_fault(c, in);
}

const struct insn *exec_POP_SREG(struct tcg_cpu *c, const struct insn *in)
{
	enum sreg seg = in->opd[0].reg;
	unsigned width = c->stack_size;
	u64 sel;

	if (!stack_peek(c, 0, in->size, &sel) || !seg_load(c, seg, (u16)sel))
		return insn_fault(c, in);
	reg_set(c, RSP, width,
		c->v.s.gpr[RSP] + in->size); /* a new SS counts from the next access */
	return loaded(c, in, seg);
}

static HANDLER load_far_pointer(struct tcg_cpu *c, const struct insn *in, enum sreg seg)
{
	u64 off, sel;
	gva_t lin;

	if (!insn_lin(c, in, in->size + 2u, ACC_R, &lin) || !lin_load(c, lin, in->size, &off) ||
	    !lin_load(c, lin + in->size, 2, &sel) || !seg_load(c, seg, (u16)sel))
		return insn_fault(c, in);
	reg_set(c, in->opd[0].reg, in->size, off);
	return insn_end(c, in);
}

const struct insn *exec_LES(struct tcg_cpu *c, const struct insn *in)
{
	return load_far_pointer(c, in, SEG_ES);
}

const struct insn *exec_LDS(struct tcg_cpu *c, const struct insn *in)
{
	return load_far_pointer(c, in, SEG_DS);
}

const struct insn *exec_LSS(struct tcg_cpu *c, const struct insn *in)
{
	return load_far_pointer(c, in, SEG_SS);
}

const struct insn *exec_LFS(struct tcg_cpu *c, const struct insn *in)
{
	return load_far_pointer(c, in, SEG_FS);
}

const struct insn *exec_LGS(struct tcg_cpu *c, const struct insn *in)
{
	return load_far_pointer(c, in, SEG_GS);
}

const struct insn *exec_SWAPGS(struct tcg_cpu *c, const struct insn *in)
{
	struct cpu_state *s = &c->v.s;
	u64 base = s->seg[SEG_GS].base;

	seg_put_base(c, SEG_GS, s->kernel_gs_base);
	s->kernel_gs_base = base;
	return in + 1;
}

static HANDLER read_base(struct tcg_cpu *c, const struct insn *in, enum sreg seg)
{
	if (!(c->v.s.cr4 & CR4_FSGSBASE))
		return insn_raise(c, in, EXC_UD);
	reg_set(c, in->opd[0].reg, in->opd[0].size, c->v.s.seg[seg].base);
	return in + 1;
}

static HANDLER write_base(struct tcg_cpu *c, const struct insn *in, enum sreg seg)
{
	u64 base = reg_get(c, in->opd[0].reg, in->opd[0].size);

	if (!(c->v.s.cr4 & CR4_FSGSBASE))
		return insn_raise(c, in, EXC_UD);
	if (!is_canonical(base))
		return insn_raise_err(c, in, EXC_GP, 0);
	seg_put_base(c, seg, base);
	return in + 1;
}

const struct insn *exec_RDFSBASE(struct tcg_cpu *c, const struct insn *in)
{
	return read_base(c, in, SEG_FS);
}

const struct insn *exec_RDGSBASE(struct tcg_cpu *c, const struct insn *in)
{
	return read_base(c, in, SEG_GS);
}

const struct insn *exec_WRFSBASE(struct tcg_cpu *c, const struct insn *in)
{
	return write_base(c, in, SEG_FS);
}

const struct insn *exec_WRGSBASE(struct tcg_cpu *c, const struct insn *in)
{
	return write_base(c, in, SEG_GS);
}
