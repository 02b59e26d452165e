/* fast.c - handlers for the frequent forms of frequent instructions, chosen when a block is built.
 *
 * Each is an always_inline body instantiated for constant operation, operand form and size, and goes
 * on to the next instruction by a tail call.  They do only what hits: on a TLB miss they hand the
 * whole instruction to its general handler, so faults, MMIO and code pages are no concern here.
 * Memory forms are for 64-bit mode with 64-bit addresses; register forms for any mode. */
#pragma GCC optimize("omit-frame-pointer") /* no frame in a function of ten instructions */
#include "exec.h"

/* --- forms ---------------------------------------------------------------------------------------- */
/* Addresses: base + displacement; base + index too; anything else (RIP, FS, GS, no base). */
enum address { ADDR_BASE, ADDR_INDEX, ADDR_ANY, ADDRESSES };
/* Operands: R register, I immediate, M memory, by address form; destination first. */
enum form { F_RR, F_RI, F_RM_B, F_RM_S, F_RM_X, F_MR_B, F_MR_S, F_MR_X, F_MI_B, F_MI_S, F_MI_X, FORMS };
enum { SIZES = 4 }; /* 1, 2, 4, 8 bytes: by log2 */

static always_inline u64 ea_base(const struct tcg_cpu *c, const struct insn *in)
{
	return c->v.s.gpr[in->base] + (u64)in->disp;
}

static always_inline u64 ea_any(const struct tcg_cpu *c, const struct insn *in)
{
	u64 ea = (u64)in->disp;

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
static enum address address_of(const struct insn *in)
{
	if (in->mode != MODE_64 || in->asize != 8)
		return ADDRESSES;
	if (in->base >= 16 || in->seg >= SEG_FS)
		return ADDR_ANY;
	return in->index == REG_NONE ? ADDR_BASE : ADDR_INDEX;
}

static unsigned size_log2(unsigned size)
{
	return (unsigned)__builtin_ctz(size);
}

/* --- two operands ----------------------------------------------------------------------------------- */
enum alu { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST, ALU_MOV, ALUS };

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
static always_inline bool alu_do(struct tcg_cpu *c, const struct insn *in, enum alu op, enum form form,
				 unsigned size)
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
		b = form >= F_MI_B ? in->imm : reg_get(c, in->opd[1].reg, size);
	} else {
		a = reg_get(c, in->opd[0].reg, size);
		b = form == F_RI ? in->imm : reg_get(c, in->opd[1].reg, size);
	}
	a = alu(c, op, size, a, b);
	if (alu_writes(op) && form >= F_MR_B)
		host_store(p, size, a);
	else if (alu_writes(op))
		reg_set(c, in->opd[0].reg, size, a);
	return true;
}

static always_inline HANDLER alu_body(struct tcg_cpu *c, const struct insn *in, enum alu op, enum form form,
				      unsigned size)
{
	if (unlikely(!alu_do(c, in, op, form, size)))
		return exec_driver(c, in);
	return next(c, in);
}

#define ALU_FN(op, form, size)                                                                     \
	static HANDLER fast_##op##_##form##_##size(struct tcg_cpu *c, const struct insn *in)       \
	{                                                                                          \
		return alu_body(c, in, ALU_##op, F_##form, size);                                  \
	}
#define EACH_SIZE(X, op, form) X(op, form, 1) X(op, form, 2) X(op, form, 4) X(op, form, 8)
#define EACH_FORM(X, op)                                                                           \
	EACH_SIZE(X, op, RR) EACH_SIZE(X, op, RI)                                                  \
	EACH_SIZE(X, op, RM_B) EACH_SIZE(X, op, RM_S) EACH_SIZE(X, op, RM_X)                       \
	EACH_SIZE(X, op, MR_B) EACH_SIZE(X, op, MR_S) EACH_SIZE(X, op, MR_X)                       \
	EACH_SIZE(X, op, MI_B) EACH_SIZE(X, op, MI_S) EACH_SIZE(X, op, MI_X)
#define EACH_ALU(X)                                                                                \
	EACH_FORM(X, ADD) EACH_FORM(X, OR) EACH_FORM(X, ADC) EACH_FORM(X, SBB) EACH_FORM(X, AND)   \
	EACH_FORM(X, SUB) EACH_FORM(X, XOR) EACH_FORM(X, CMP) EACH_FORM(X, TEST) EACH_FORM(X, MOV)
EACH_ALU(ALU_FN)

#define ALU_ENTRY(op, form, size) [ALU_##op][F_##form][__builtin_ctz(size)] = fast_##op##_##form##_##size,
static const insn_fn alu_fns[ALUS][FORMS][SIZES] = { EACH_ALU(ALU_ENTRY) };

/* Which form two operands are, or FORMS. */
static enum form form_of(const struct insn *in)
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

static insn_fn choose_alu(const struct insn *in, enum alu op)
{
	enum form form = form_of(in);

	return form == FORMS ? NULL : alu_fns[op][form][size_log2(in->opd[0].size)];
}

/* --- moves with extension, LEA ------------------------------------------------------------------------ */
enum extend { ZERO_EXTEND, SIGN_EXTEND };

/* A negative how stands for a register source. */
static always_inline HANDLER extend_body(struct tcg_cpu *c, const struct insn *in, enum extend ext, int how,
					 unsigned from, unsigned to)
{
	u64 v;

	if (how < 0) {
		v = reg_get(c, in->opd[1].reg, from);
	} else {
		void *p = tlb_read(c, lin_of(c, in, (enum address)how), from);

		if (unlikely(!p))
			return exec_driver(c, in);
		v = host_load(p, from);
	}
	reg_set(c, in->opd[0].reg, to, ext == SIGN_EXTEND ? sign_extend(v, from) : v);
	return next(c, in);
}

#define EXTEND_FN(ext, how, from, to)                                                              \
	static HANDLER extend_##ext##_##how##_##from##_##to(struct tcg_cpu *c, const struct insn *in) \
	{                                                                                          \
		return extend_body(c, in, ext##_EXTEND, FROM_##how, from, to);                     \
	}
enum { FROM_R = -1, FROM_B = ADDR_BASE, FROM_S = ADDR_INDEX, FROM_X = ADDR_ANY };
#define EACH_FROM(FN, ext, from, to)                                                                \
	FN(ext, R, from, to) FN(ext, B, from, to) FN(ext, S, from, to) FN(ext, X, from, to)
#define EACH_EXTEND(X)                                                                             \
	EACH_FROM(X, ZERO, 1, 4) EACH_FROM(X, ZERO, 2, 4) EACH_FROM(X, SIGN, 1, 4) EACH_FROM(X, SIGN, 2, 4) \
	EACH_FROM(X, SIGN, 1, 8) EACH_FROM(X, SIGN, 2, 8) EACH_FROM(X, SIGN, 4, 8)
EACH_EXTEND(EXTEND_FN)

#define EXTEND_ENTRY(ext, how, from, to)                                                           \
	[ext##_EXTEND][FROM_##how + 1][__builtin_ctz(from)][__builtin_ctz(to)] =                   \
		extend_##ext##_##how##_##from##_##to,
static const insn_fn extend_fns[2][ADDRESSES + 1][SIZES][SIZES] = { EACH_EXTEND(EXTEND_ENTRY) };

static insn_fn choose_extend(const struct insn *in, enum extend ext)
{
	unsigned from = size_log2(in->opd[1].size), to = size_log2(in->opd[0].size);
	enum address how = address_of(in);

	if (ext == ZERO_EXTEND && to == 3) /* the upper half is zero either way */
		to = 2;
	if (in->opd[1].kind == OPD_REG)
		return extend_fns[ext][0][from][to];
	return in->opd[1].kind == OPD_MEM && how != ADDRESSES ? extend_fns[ext][how + 1][from][to] : NULL;
}

#define LEA_FN(name, address, size)                                                                \
	static HANDLER lea_##name##_##size(struct tcg_cpu *c, const struct insn *in)               \
	{                                                                                          \
		reg_set(c, in->opd[0].reg, size, address);                                         \
		return next(c, in);                                                                \
	}
LEA_FN(base, ea_base(c, in), 4)
LEA_FN(base, ea_base(c, in), 8)
LEA_FN(index, ea_base(c, in) + (c->v.s.gpr[in->index] << in->scale), 4)
LEA_FN(index, ea_base(c, in) + (c->v.s.gpr[in->index] << in->scale), 8)
LEA_FN(any, ea_any(c, in), 4)
LEA_FN(any, ea_any(c, in), 8)

static insn_fn choose_lea(const struct insn *in)
{
	static const insn_fn fns[ADDRESSES][2] = {
		{ lea_base_4, lea_base_8 }, { lea_index_4, lea_index_8 }, { lea_any_4, lea_any_8 },
	};
	enum address how = address_of(in);

	return how == ADDRESSES || in->size < 4 ? NULL : fns[how][in->size == 8];
}

/* --- one register, shifts, IMUL ------------------------------------------------------------------------- */
#define UNARY_FN(name, expr, size)                                                                 \
	static HANDLER fast_##name##_##size(struct tcg_cpu *c, const struct insn *in)              \
	{                                                                                          \
		u64 a = reg_get(c, in->opd[0].reg, size);                                          \
		reg_set(c, in->opd[0].reg, size, expr);                                            \
		return next(c, in);                                                                \
	}
#define UNARY(name, expr)                                                                          \
	UNARY_FN(name, expr(4), 4)                                                                 \
	UNARY_FN(name, expr(8), 8)                                                                 \
	static insn_fn choose_##name(const struct insn *in)                                        \
	{                                                                                          \
		if (in->opd[0].kind != OPD_REG || in->size < 4)                                    \
			return NULL;                                                               \
		return in->size == 4 ? fast_##name##_4 : fast_##name##_8;                          \
	}
#define INC_EXPR(size) alu_inc(size, &c->cc, a)
#define DEC_EXPR(size) alu_dec(size, &c->cc, a)
#define NEG_EXPR(size) alu_neg(size, &c->cc, a)
#define NOT_EXPR(size) ~a
UNARY(inc, INC_EXPR)
UNARY(dec, DEC_EXPR)
UNARY(neg, NEG_EXPR)
UNARY(not, NOT_EXPR)
/* The count: an immediate, or CL, which the host masks as the guest's CPU would. */
#define SHIFT_COUNT (in->opd[1].kind == OPD_IMM ? in->imm : c->v.s.gpr[RCX])
#define ROL_EXPR(size) alu_rol(size, &c->cc, a, SHIFT_COUNT)
#define ROR_EXPR(size) alu_ror(size, &c->cc, a, SHIFT_COUNT)
#define SHL_EXPR(size) alu_shl(size, &c->cc, a, SHIFT_COUNT)
#define SHR_EXPR(size) alu_shr(size, &c->cc, a, SHIFT_COUNT)
#define SAR_EXPR(size) alu_sar(size, &c->cc, a, SHIFT_COUNT)
UNARY(rol, ROL_EXPR)
UNARY(ror, ROR_EXPR)
UNARY(shl, SHL_EXPR)
UNARY(shr, SHR_EXPR)
UNARY(sar, SAR_EXPR)

/* Three operands: destination, register, register or immediate; or two. */
#define IMUL_FN(name, left, right, size)                                                           \
	static HANDLER imul_##name##_##size(struct tcg_cpu *c, const struct insn *in)              \
	{                                                                                          \
		u64 r = alu_imul(size, &c->cc, reg_get(c, left, size), right);                     \
		reg_set(c, in->opd[0].reg, size, r);                                               \
		return next(c, in);                                                                \
	}
IMUL_FN(rr, in->opd[0].reg, reg_get(c, in->opd[1].reg, 4), 4)
IMUL_FN(rr, in->opd[0].reg, reg_get(c, in->opd[1].reg, 8), 8)
IMUL_FN(rri, in->opd[1].reg, in->imm, 4)
IMUL_FN(rri, in->opd[1].reg, in->imm, 8)

static insn_fn choose_imul(const struct insn *in)
{
	if (in->opd[1].kind != OPD_REG || in->size < 4)
		return NULL;
	if (in->nopd == 3)
		return in->size == 4 ? imul_rri_4 : imul_rri_8;
	return in->size == 4 ? imul_rr_4 : imul_rr_8;
}

/* --- conditional moves and sets ---------------------------------------------------------------------------- */
#define EACH_COND(X)                                                                               \
	X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define COND_FNS(cond)                                                                             \
	static HANDLER set_##cond(struct tcg_cpu *c, const struct insn *in)                        \
	{                                                                                          \
		reg_set(c, in->opd[0].reg, 1, cc_test(c->cc, cond));                               \
		return next(c, in);                                                                \
	}                                                                                          \
	static HANDLER cmov4_##cond(struct tcg_cpu *c, const struct insn *in)                      \
	{                                                                                          \
		unsigned from = cc_test(c->cc, cond) ? in->opd[1].reg : in->opd[0].reg;            \
		reg_set(c, in->opd[0].reg, 4, reg_get(c, from, 4));                                \
		return next(c, in);                                                                \
	}                                                                                          \
	static HANDLER cmov8_##cond(struct tcg_cpu *c, const struct insn *in)                      \
	{                                                                                          \
		unsigned from = cc_test(c->cc, cond) ? in->opd[1].reg : in->opd[0].reg;            \
		reg_set(c, in->opd[0].reg, 8, reg_get(c, from, 8));                                \
		return next(c, in);                                                                \
	}
EACH_COND(COND_FNS)

#define SET_ENTRY(cond) set_##cond,
#define CMOV4_ENTRY(cond) cmov4_##cond,
#define CMOV8_ENTRY(cond) cmov8_##cond,
static const insn_fn set_fns[16] = { EACH_COND(SET_ENTRY) };
static const insn_fn cmov_fns[2][16] = { { EACH_COND(CMOV4_ENTRY) }, { EACH_COND(CMOV8_ENTRY) } };

static insn_fn choose_set(const struct insn *in)
{
	return in->opd[0].kind == OPD_REG ? set_fns[in->op->opcode & 15] : NULL;
}

static insn_fn choose_cmov(const struct insn *in)
{
	if (in->opd[1].kind != OPD_REG || in->size < 4)
		return NULL;
	return cmov_fns[in->size == 8][in->op->opcode & 15];
}

/* --- the stack, 64-bit mode ------------------------------------------------------------------------------------ */
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

static HANDLER fast_push_reg(struct tcg_cpu *c, const struct insn *in)
{
	return likely(push_8(c, c->v.s.gpr[in->opd[0].reg])) ? next(c, in) : exec_PUSH(c, in);
}

static HANDLER fast_push_imm(struct tcg_cpu *c, const struct insn *in)
{
	return likely(push_8(c, in->imm)) ? next(c, in) : exec_PUSH(c, in);
}

static HANDLER fast_pop_reg(struct tcg_cpu *c, const struct insn *in)
{
	void *p = tlb_read(c, c->v.s.gpr[RSP], 8);

	if (unlikely(!p))
		return exec_POP(c, in);
	c->v.s.gpr[RSP] += 8;
	c->v.s.gpr[in->opd[0].reg] = host_load(p, 8);
	return next(c, in);
}

static HANDLER fast_leave(struct tcg_cpu *c, const struct insn *in)
{
	u64 rbp = c->v.s.gpr[RBP];
	void *p = tlb_read(c, rbp, 8);

	if (unlikely(!p))
		return exec_LEAVE(c, in);
	c->v.s.gpr[RSP] = rbp + 8;
	c->v.s.gpr[RBP] = host_load(p, 8);
	return next(c, in);
}

static HANDLER fast_nop(struct tcg_cpu *c, const struct insn *in)
{
	return next(c, in);
}

static bool is_stack_64(const struct insn *in)
{
	return in->mode == MODE_64 && in->size == 8;
}

static insn_fn choose_push(const struct insn *in)
{
	if (!is_stack_64(in) || in->opd[0].kind == OPD_MEM)
		return NULL;
	return in->opd[0].kind == OPD_IMM ? fast_push_imm : fast_push_reg;
}

static insn_fn choose_pop(const struct insn *in)
{
	return is_stack_64(in) && in->opd[0].kind == OPD_REG ? fast_pop_reg : NULL;
}

/* --- ends of blocks ------------------------------------------------------------------------------------------------ */
/* Such an instruction has its block in aux.  For conditional jumps imm2 and vvvv hold the condition as
 * a mask over the flags: see cond_mask(). */
enum { MASK_LESS = 2 }; /* a bit of cc that is always 0, where SF != OF is put */

static u16 cond_mask(unsigned cond)
{
	static const u16 mask[8] = { 1, 0x100, 0x4000, 0x4100, 0x8000, 0x400, MASK_LESS, MASK_LESS | 0x4000 };

	return mask[cond >> 1];
}

static always_inline bool cond_test(u16 cc, u16 mask, bool inverted)
{
	u16 less = (u16)(((cc >> 15 ^ cc) & 1) * MASK_LESS);

	return !((cc | less) & mask) == inverted;
}

static always_inline struct block *front_64(struct tcg_cpu *c, u64 rip)
{
	const struct tlb_entry *t = &c->tlb->x[tlb_index(rip)];
	u64 host = rip + t->addend;
	struct block *b;

	if (unlikely(rip - t->tag >= PAGE_SIZE))
		return NULL;
	b = c->interp->front[front_index(host)];
	return likely(b && b->host == host && b->key == MODE_64) ? b : NULL;
}

static always_inline HANDLER front_go(struct tcg_cpu *c, struct block *b, u64 rip)
{
	c->code_rip = rip & ~(PAGE_SIZE - 1);
	return block_enter(c, b, rip);
}

/* in->imm bytes on: in this page. */
static always_inline HANDLER go_taken(struct tcg_cpu *c, const struct insn *in)
{
	struct block *b = in->aux;

	return go_link(c, &b->to[1], c->code_rip + in->pgoff + in->len + in->imm);
}

static always_inline HANDLER go_next(struct tcg_cpu *c, const struct insn *in)
{
	struct block *b = in->aux;

	return go_link(c, &b->to[0], c->code_rip + in->pgoff + in->len);
}

/* Both ways stay in the page. */
#define JCC_FN(cond)                                                                               \
	static HANDLER jcc_##cond(struct tcg_cpu *c, const struct insn *in)                        \
	{                                                                                          \
		return cc_test(c->cc, cond) ? go_taken(c, in) : go_next(c, in);                    \
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
		return rel ? end_rel(in, b, call_link, call_out) : end_indirect(in, call_reg, call_mem);
	if (self == exec_RET && in->mode == MODE_64 && in->nopd == 0)
		return ret_near;
	return NULL;
}

/* The last instruction of b: have it follow links.  Is it a conditional jump that could be fused? */
bool fast_end(struct insn *in, struct block *b)
{
	insn_fn fn;

	if (in->op->cls != CLS_SELF || in->size != (in->mode == MODE_64 ? 8 : 4))
		return false;
	fn = end_fn(in, b);
	if (!fn)
		return false;
	in->fn = fn;
	in->aux = b;
	if (in->op->exec.self != exec_Jcc)
		return false;
	in->imm2 = cond_mask(in->op->opcode & 15);
	in->vvvv = in->op->opcode & 1;
	return fn != jcc_out;
}

/* --- compare and branch ------------------------------------------------------------------------------------------------- */
static always_inline HANDLER fused_body(struct tcg_cpu *c, const struct insn *in, enum alu op, enum form form,
					unsigned size)
{
	if (unlikely(!alu_do(c, in, op, form, size)))
		return exec_driver(c, in);
	in++;
	return cond_test(c->cc, in->imm2, in->vvvv) ? go_taken(c, in) : go_next(c, in);
}

#define FUSED_FN(op, form, size)                                                                   \
	static HANDLER fused_##op##_##form##_##size(struct tcg_cpu *c, const struct insn *in)      \
	{                                                                                          \
		return fused_body(c, in, ALU_##op, F_##form, size);                                \
	}
#define FUSED_ENTRY(op, form, size) [ALU_##op][F_##form][__builtin_ctz(size)] = fused_##op##_##form##_##size,
#define EACH_FUSED(X) EACH_FORM(X, CMP) EACH_FORM(X, TEST) EACH_SIZE(X, SUB, RI) EACH_SIZE(X, ADD, RI)
EACH_FUSED(FUSED_FN)
static const insn_fn fused_fns[ALUS][FORMS][SIZES] = { EACH_FUSED(FUSED_ENTRY) };

/* --- choosing ---------------------------------------------------------------------------------------------------------------- */
/* What a row is to this file, by its handler; looked up once per row. */
enum family { FAM_NONE, FAM_ALU, FAM_MOVZX = FAM_ALU + ALUS, FAM_MOVSX, FAM_LEA, FAM_INC, FAM_DEC, FAM_NEG, FAM_NOT,
	      FAM_ROL, FAM_ROR, FAM_SHL, FAM_SHR, FAM_SAR, FAM_IMUL, FAM_SET, FAM_CMOV, FAM_PUSH, FAM_POP,
	      FAM_LEAVE, FAM_NOP };

static enum family family_of(const struct op *op)
{
	static const struct {
		drv_fn fn;
		enum family fam;
	} drv[] = {
		{ exec_ADD, FAM_ALU + ALU_ADD }, { exec_OR, FAM_ALU + ALU_OR }, { exec_ADC, FAM_ALU + ALU_ADC },
		{ exec_SBB, FAM_ALU + ALU_SBB }, { exec_AND, FAM_ALU + ALU_AND }, { exec_SUB, FAM_ALU + ALU_SUB },
		{ exec_XOR, FAM_ALU + ALU_XOR }, { exec_CMP, FAM_ALU + ALU_CMP }, { exec_TEST, FAM_ALU + ALU_TEST },
		{ exec_MOV, FAM_ALU + ALU_MOV }, { exec_MOVZX, FAM_MOVZX }, { exec_MOVSX, FAM_MOVSX },
		{ exec_MOVSXD, FAM_MOVSX }, { exec_LEA, FAM_LEA }, { exec_INC, FAM_INC }, { exec_DEC, FAM_DEC },
		{ exec_NEG, FAM_NEG }, { exec_NOT, FAM_NOT }, { exec_ROL, FAM_ROL }, { exec_ROR, FAM_ROR },
		{ exec_SHL, FAM_SHL }, { exec_SHR, FAM_SHR }, { exec_SAR, FAM_SAR }, { exec_IMUL, FAM_IMUL },
		{ exec_SETcc, FAM_SET }, { exec_CMOVcc, FAM_CMOV },
	};
	static const struct {
		insn_fn fn;
		enum family fam;
	} self[] = {
		{ exec_PUSH, FAM_PUSH }, { exec_POP, FAM_POP }, { exec_LEAVE, FAM_LEAVE }, { exec_NOP, FAM_NOP },
		{ exec_ENDBR, FAM_NOP }, { exec_PREFETCH, FAM_NOP },
	};

	for (unsigned i = 0; op->cls == CLS_DRV && i < ARRAY_LEN(drv); i++)
		if (op->exec.drv == drv[i].fn)
			return drv[i].fam;
	for (unsigned i = 0; op->cls == CLS_SELF && i < ARRAY_LEN(self); i++)
		if (op->exec.self == self[i].fn)
			return self[i].fam;
	return FAM_NONE;
}

enum { ROWS_MAX = 4096 };
static u8 families[ROWS_MAX]; /* by row */
static pthread_once_t families_once = PTHREAD_ONCE_INIT;

static void families_fill(void)
{
	ASSERT(op_rows_n <= ROWS_MAX);
	for (unsigned i = 0; i < op_rows_n; i++)
		families[i] = (u8)family_of(&op_rows[i]);
}

void fast_init(void)
{
	pthread_once(&families_once, families_fill);
}

insn_fn fast_choose(const struct insn *in)
{
	u64 row = (u64)(in->op - op_rows);
	enum family fam = row < op_rows_n ? families[row] : FAM_NONE;

	if (in->prefixes & PFX_LOCK)
		return NULL;
	if (fam >= FAM_ALU && fam < FAM_ALU + ALUS)
		return choose_alu(in, fam - FAM_ALU);
	switch (fam) {
	case FAM_MOVZX: return choose_extend(in, ZERO_EXTEND);
	case FAM_MOVSX: return choose_extend(in, SIGN_EXTEND);
	case FAM_LEA: return choose_lea(in);
	case FAM_INC: return choose_inc(in);
	case FAM_DEC: return choose_dec(in);
	case FAM_NEG: return choose_neg(in);
	case FAM_NOT: return choose_not(in);
	case FAM_ROL: return choose_rol(in);
	case FAM_ROR: return choose_ror(in);
	case FAM_SHL: return choose_shl(in);
	case FAM_SHR: return choose_shr(in);
	case FAM_SAR: return choose_sar(in);
	case FAM_IMUL: return choose_imul(in);
	case FAM_SET: return choose_set(in);
	case FAM_CMOV: return choose_cmov(in);
	case FAM_PUSH: return choose_push(in);
	case FAM_POP: return choose_pop(in);
	case FAM_LEAVE: return is_stack_64(in) ? fast_leave : NULL;
	case FAM_NOP: return fast_nop;
	default: return NULL;
	}
}

/* in + 1 ends its block with a conditional jump inside the page: one handler for both, if there is one. */
void fast_fuse(struct insn *in)
{
	u64 row = (u64)(in->op - op_rows);
	enum alu op = row < op_rows_n ? families[row] - FAM_ALU : ALUS;
	enum form form = form_of(in);
	insn_fn fn;

	if (op >= ALUS || form == FORMS || in->prefixes & PFX_LOCK)
		return;
	fn = fused_fns[op][form][size_log2(in->opd[0].size)];
	if (fn)
		in->fn = fn;
}
