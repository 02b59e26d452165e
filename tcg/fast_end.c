/* fast_end.c - the instructions that end blocks, following links and the front cache; compare
 * and branch as one.
 *
 * A jump whose target lies in its own page follows a link of its block, which stays right as
 * long as the target block lives: the page cannot come to mean another without leaving the
 * chain.  Other jumps go through the fetch TLB.  When that finds nothing the general handler
 * does the instruction. */
#pragma GCC optimize("omit-frame-pointer")
#include "fast.h"

/* --- ends of blocks ----------------------------------------------------------------------- */
/* Such an instruction has its block in aux.  For conditional jumps imm2 and vvvv hold the
 * condition as a mask over the flags: see cond_mask(). */
enum { MASK_LESS = 2 }; /* a bit of cc that is always 0, where SF != OF is put */

static u16 cond_mask(unsigned cond)
{
	static const u16 mask[8] = { 1,	     0x100, 0x4000,    0x4100,
				     0x8000, 0x400, MASK_LESS, MASK_LESS | 0x4000 };

	return mask[cond >> 1];
}

static always_inline bool cond_test(u16 cc, u16 mask, bool inverted)
{
	u16 less = (u16)(((cc >> 15 ^ cc) & 1) * MASK_LESS);

	return !((cc | less) & mask) == inverted;
}

/* in->imm bytes on: in this page. */
static always_inline HANDLER go_taken(struct tcg_cpu *c, const struct insn *in)
{
	struct block *b = insn_block(in);

	return go_link(c, b, 1, c->code_rip + in->pgoff + in->len + in->imm);
}

static always_inline HANDLER go_next(struct tcg_cpu *c, const struct insn *in)
{
	struct block *b = insn_block(in);

	return go_link(c, b, 0, c->code_rip + in->pgoff + in->len);
}

/* Both ways stay in the page. */
#define JCC_FN(cond)                                                            \
	static HANDLER jcc_##cond(struct tcg_cpu *c, const struct insn *in)     \
	{                                                                       \
		return cc_test(c->cc, cond) ? go_taken(c, in) : go_next(c, in); \
	}
EACH_COND(JCC_FN)
#define JCC_ENTRY(cond) jcc_##cond,
static const insn_fn jcc_fns[16] = { EACH_COND(JCC_ENTRY) };

/* A way out of the page, 64-bit mode. */
static HANDLER jcc_out(struct tcg_cpu *c, const struct insn *in)
{
	u64 rip = c->code_rip + in->pgoff + in->len;

	if (cond_test(c->cc, in->imm2, in->vvvv))
		rip += in->imm;
	else if (in->pgoff + in->len < (int)PAGE_SIZE)
		return go_next(c, in);
	return go_64(c, rip);
}

static HANDLER jmp_link(struct tcg_cpu *c, const struct insn *in)
{
	return go_taken(c, in);
}

static HANDLER jmp_out(struct tcg_cpu *c, const struct insn *in)
{
	return go_64(c, c->code_rip + in->pgoff + in->len + in->imm);
}

static HANDLER jmp_reg(struct tcg_cpu *c, const struct insn *in)
{
	u64 rip = c->v.s.gpr[in->opd[0].reg];
	struct block *b = front_64(c, rip);

	return likely(b) ? front_go(c, b, rip) : exec_JMP(c, in);
}

static HANDLER jmp_mem(struct tcg_cpu *c, const struct insn *in)
{
	void *p = tlb_read(c, lin_of(c, in, ADDR_ANY), 8);
	u64 rip = p ? host_load(p, 8) : 0;
	struct block *b = p ? front_64(c, rip) : NULL;

	return likely(b) ? front_go(c, b, rip) : exec_JMP(c, in);
}

static HANDLER call_link(struct tcg_cpu *c, const struct insn *in)
{
	if (unlikely(!push_8(c, c->code_rip + in->pgoff + in->len)))
		return exec_CALL(c, in);
	return go_taken(c, in);
}

static HANDLER call_out(struct tcg_cpu *c, const struct insn *in)
{
	u64 rip = c->code_rip + in->pgoff + in->len;

	if (unlikely(!push_8(c, rip)))
		return exec_CALL(c, in);
	return go_64(c, rip + in->imm);
}

static HANDLER call_reg(struct tcg_cpu *c, const struct insn *in)
{
	u64 rip = c->v.s.gpr[in->opd[0].reg];
	struct block *b = front_64(c, rip);

	if (unlikely(!b) || unlikely(!push_8(c, c->code_rip + in->pgoff + in->len)))
		return exec_CALL(c, in);
	return front_go(c, b, rip);
}

static HANDLER call_mem(struct tcg_cpu *c, const struct insn *in)
{
	void *p = tlb_read(c, lin_of(c, in, ADDR_ANY), 8);
	u64 rip = p ? host_load(p, 8) : 0;
	struct block *b = p ? front_64(c, rip) : NULL;

	if (unlikely(!b) || unlikely(!push_8(c, c->code_rip + in->pgoff + in->len)))
		return exec_CALL(c, in);
	return front_go(c, b, rip);
}

static HANDLER ret_near(struct tcg_cpu *c, const struct insn *in)
{
	void *p = tlb_read(c, c->v.s.gpr[RSP], 8);
	u64 rip = p ? host_load(p, 8) : 0;
	struct block *b = p ? front_64(c, rip) : NULL;

	if (unlikely(!b))
		return exec_RET(c, in);
	c->v.s.gpr[RSP] += 8;
	return front_go(c, b, rip);
}

/* Does the relative target lie in the instruction's page? */
static bool target_in_page(const struct insn *in)
{
	return (u64)in->pgoff + in->len + in->imm < PAGE_SIZE;
}

static insn_fn end_rel(const struct insn *in, const struct block *b, insn_fn link, insn_fn out)
{
	if (b->link_ok && target_in_page(in))
		return link;
	return in->mode == MODE_64 ? out : NULL;
}

static insn_fn end_indirect(const struct insn *in, insn_fn reg, insn_fn mem)
{
	if (in->mode != MODE_64)
		return NULL;
	if (in->opd[0].kind == OPD_REG)
		return reg;
	return address_of(in) == ADDRESSES ? NULL : mem;
}

static insn_fn end_jcc(const struct insn *in, const struct block *b)
{
	if (b->link_ok && target_in_page(in) && in->pgoff + in->len < (int)PAGE_SIZE)
		return jcc_fns[in->op->opcode & 15];
	return in->mode == MODE_64 ? jcc_out : NULL;
}

static insn_fn end_fn(const struct insn *in, const struct block *b)
{
	insn_fn self = in->op->exec.self;
	bool rel = in->opd[0].kind == OPD_REL;

	if (self == exec_Jcc)
		return end_jcc(in, b);
	if (self == exec_JMP)
		return rel ? end_rel(in, b, jmp_link, jmp_out) : end_indirect(in, jmp_reg, jmp_mem);
	if (self == exec_CALL && in->mode == MODE_64)
		return rel ? end_rel(in, b, call_link, call_out)
			   : end_indirect(in, call_reg, call_mem);
	if (self == exec_RET && in->mode == MODE_64 && in->nopd == 0)
		return ret_near;
	return NULL;
}

/* The last instruction of b: have it follow links.  Is it a conditional jump that could be
 * fused? */
bool fast_end(struct insn *in, struct block *b)
{
	insn_fn fn;

	if (in->op->cls != CLS_SELF || in->size != (in->mode == MODE_64 ? 8 : 4))
		return false;
	fn = end_fn(in, b);
	if (!fn)
		return false;
	in->fn = fn;
	in->aux = (u32)(in - b->insn);
	if (in->op->exec.self != exec_Jcc)
		return false;
	in->imm2 = cond_mask(in->op->opcode & 15);
	in->vvvv = in->op->opcode & 1;
	return fn != jcc_out;
}

/* --- compare and branch ------------------------------------------------------------------- */
static always_inline HANDLER fused_body(struct tcg_cpu *c, const struct insn *in, enum alu op,
					enum form form, unsigned size)
{
	if (unlikely(!alu_do(c, in, op, form, size)))
		return exec_driver(c, in);
	in++;
	return cond_test(c->cc, in->imm2, in->vvvv) ? go_taken(c, in) : go_next(c, in);
}

#define FUSED_FN(op, form, size)                                                              \
	static HANDLER fused_##op##_##form##_##size(struct tcg_cpu *c, const struct insn *in) \
	{                                                                                     \
		return fused_body(c, in, ALU_##op, F_##form, size);                           \
	}
#define FUSED_ENTRY(op, form, size) \
	[ALU_##op][F_##form][__builtin_ctz(size)] = fused_##op##_##form##_##size,
#define EACH_FUSED(X) \
	EACH_FORM(X, CMP) EACH_FORM(X, TEST) EACH_SIZE(X, SUB, RI) EACH_SIZE(X, ADD, RI)
EACH_FUSED(FUSED_FN)
static const insn_fn fused_fns[ALUS][FORMS][SIZES] = { EACH_FUSED(FUSED_ENTRY) };

/* in + 1 ends its block with a conditional jump inside the page: one handler for both, if there
 * is one. */
void fast_fuse(struct insn *in)
{
	enum alu op = fast_family(in) - FAM_ALU;
	enum form form = form_of(in);
	insn_fn fn;

	if (op >= ALUS || form == FORMS || in->prefixes & PFX_LOCK)
		return;
	fn = fused_fns[op][form][size_log2(in->opd[0].size)];
	if (fn)
		in->fn = fn;
}
