/* fast.h - templates of the fast handlers: operand forms, two-operand operations, the stack.
 *
 * Everything is always_inline and meant for constant arguments; fast.c and fast_end.c make
 * functions of it.  Memory forms are for 64-bit mode with 64-bit addresses. */
#pragma once

#include "exec.h"

/* --- forms -------------------------------------------------------------------------------- */
/* Addresses: base + displacement; base + index too; anything else (RIP, FS, GS, no base). */
enum address { ADDR_BASE, ADDR_INDEX, ADDR_ANY, ADDRESSES };
/* Operands: R register, I immediate, M memory, by address form; destination first. */
/* clang-format off */
enum form { F_RR, F_RI, F_RM_B, F_RM_S, F_RM_X, F_MR_B, F_MR_S, F_MR_X, F_MI_B, F_MI_S, F_MI_X,
	    FORMS };
/* clang-format on */
enum { SIZES = 4 }; /* 1, 2, 4, 8 bytes: by log2 */

static always_inline u64 ea_base(const struct tcg_cpu *c, const struct insn *in)
{
	return c->v.s.gpr[in->base] + (u64)in->disp;
}

static always_inline u64 ea_any(const struct tcg_cpu *c, const struct insn *in)
{
	u64 ea = insn_disp(in);

	if (in->base < 16)
		ea += c->v.s.gpr[in->base];
	else if (in->base == REG_RIP)
		ea += c->code_rip + in->pgoff + in->len;
	if (in->index < 16)
		ea += c->v.s.gpr[in->index] << in->scale;
	return ea;
}

static always_inline gva_t lin_of(const struct tcg_cpu *c, const struct insn *in, enum address how)
{
	u64 ea;

	if (how == ADDR_BASE)
		return ea_base(c, in);
	if (how == ADDR_INDEX)
		return ea_base(c, in) + (c->v.s.gpr[in->index] << in->scale);
	ea = ea_any(c, in);
	return in->seg >= SEG_FS ? ea + c->v.s.seg[in->seg].base : ea;
}

/* The form of a memory operand's address, or ADDRESSES if it is not for us. */
static inline enum address address_of(const struct insn *in)
{
	if (in->mode != MODE_64 || in->asize != 8)
		return ADDRESSES;
	if (in->base >= 16 || in->seg >= SEG_FS)
		return ADDR_ANY;
	return in->index == REG_NONE ? ADDR_BASE : ADDR_INDEX;
}

static inline unsigned size_log2(unsigned size)
{
	return (unsigned)__builtin_ctz(size);
}

/* --- two operands ------------------------------------------------------------------------- */
/* clang-format off */
enum alu { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST,
	   ALU_MOV, ALUS };
/* clang-format on */

static always_inline bool alu_writes(enum alu op)
{
	return op != ALU_CMP && op != ALU_TEST;
}

static always_inline u64 alu(struct tcg_cpu *c, enum alu op, unsigned size, u64 a, u64 b)
{
	switch (op) {
	case ALU_ADD: return alu_add(size, &c->cc, a, b);
	case ALU_OR: return alu_or(size, &c->cc, a, b);
	case ALU_ADC: return alu_adc(size, &c->cc, a, b);
	case ALU_SBB: return alu_sbb(size, &c->cc, a, b);
	case ALU_AND:
	case ALU_TEST: return alu_and(size, &c->cc, a, b);
	case ALU_SUB:
	case ALU_CMP: return alu_sub(size, &c->cc, a, b);
	case ALU_XOR: return alu_xor(size, &c->cc, a, b);
	default: return b;
	}
}

/* The whole instruction; false on a TLB miss, nothing done. */
static always_inline bool alu_do(struct tcg_cpu *c, const struct insn *in, enum alu op,
				 enum form form, unsigned size)
{
	u64 a = 0, b;
	void *p = NULL;

	if (form >= F_RM_B && form < F_MR_B) {
		p = tlb_read(c, lin_of(c, in, form - F_RM_B), size);
		if (unlikely(!p))
			return false;
		b = host_load(p, size);
		if (op != ALU_MOV)
			a = reg_get(c, in->opd[0].reg, size);
	} else if (form >= F_MR_B) {
		gva_t lin = lin_of(c, in, (form - F_MR_B) % ADDRESSES);

		p = alu_writes(op) ? tlb_write(c, lin, size) : tlb_read(c, lin, size);
		if (unlikely(!p))
			return false;
		if (op != ALU_MOV)
			a = host_load(p, size);
		b = form >= F_MI_B ? (u64)in->imm : reg_get(c, in->opd[1].reg, size);
	} else {
		a = reg_get(c, in->opd[0].reg, size);
		b = form != F_RI			    ? reg_get(c, in->opd[1].reg, size)
		    : op == ALU_MOV && size == 8 ? insn_imm(in)
						 : (u64)in->imm;
	}
	a = alu(c, op, size, a, b);
	if (alu_writes(op) && form >= F_MR_B)
		host_store(p, size, a);
	else if (alu_writes(op))
		reg_set(c, in->opd[0].reg, size, a);
	return true;
}

/* X(operation, form, size) for all of them. */
/* clang-format off */
#define EACH_SIZE(X, op, form) X(op, form, 1) X(op, form, 2) X(op, form, 4) X(op, form, 8)
#define EACH_FORM(X, op)                                                                           \
	EACH_SIZE(X, op, RR) EACH_SIZE(X, op, RI)                                                  \
	EACH_SIZE(X, op, RM_B) EACH_SIZE(X, op, RM_S) EACH_SIZE(X, op, RM_X)                       \
	EACH_SIZE(X, op, MR_B) EACH_SIZE(X, op, MR_S) EACH_SIZE(X, op, MR_X)                       \
	EACH_SIZE(X, op, MI_B) EACH_SIZE(X, op, MI_S) EACH_SIZE(X, op, MI_X)
#define EACH_ALU(X)                                                                                \
	EACH_FORM(X, ADD) EACH_FORM(X, OR) EACH_FORM(X, ADC) EACH_FORM(X, SBB) EACH_FORM(X, AND)   \
	EACH_FORM(X, SUB) EACH_FORM(X, XOR) EACH_FORM(X, CMP) EACH_FORM(X, TEST) EACH_FORM(X, MOV)
/* clang-format on */

/* Which form two operands are, or FORMS. */
static inline enum form form_of(const struct insn *in)
{
	enum address how = address_of(in);
	u8 k0 = in->opd[0].kind, k1 = in->opd[1].kind;

	if (k0 == OPD_REG && k1 == OPD_REG)
		return F_RR;
	if (k0 == OPD_REG && k1 == OPD_IMM)
		return F_RI;
	if (how == ADDRESSES)
		return FORMS;
	if (k0 == OPD_REG && k1 == OPD_MEM)
		return F_RM_B + how;
	if (k0 == OPD_MEM && k1 == OPD_REG)
		return F_MR_B + how;
	return k0 == OPD_MEM && k1 == OPD_IMM ? F_MI_B + how : FORMS;
}

/* X(condition) */
/* clang-format off */
#define EACH_COND(X)                                                                               \
	X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
/* clang-format on */

/* --- the stack, 64-bit mode --------------------------------------------------------------- */
/* False on a TLB miss, nothing done. */
static always_inline bool push_8(struct tcg_cpu *c, u64 val)
{
	u64 rsp = c->v.s.gpr[RSP] - 8;
	void *p = tlb_write(c, rsp, 8);

	if (unlikely(!p))
		return false;
	host_store(p, 8, val);
	c->v.s.gpr[RSP] = rsp;
	return true;
}

/* --- families ----------------------------------------------------------------------------- */
/* What a row is to the fast handlers. */
/* clang-format off */
enum family { FAM_NONE, FAM_ALU, FAM_MOVZX = FAM_ALU + ALUS, FAM_MOVSX, FAM_LEA, FAM_INC, FAM_DEC,
	      FAM_NEG, FAM_NOT, FAM_ROL, FAM_ROR, FAM_SHL, FAM_SHR, FAM_SAR, FAM_IMUL, FAM_SET,
	      FAM_CMOV, FAM_PUSH, FAM_POP, FAM_LEAVE, FAM_NOP };
/* clang-format on */

enum family fast_family(const struct insn *in);
