/* fast.c - handlers for the frequent forms of frequent instructions, chosen when a block is
 * built.
 *
 * Each is a template of fast.h for constant operation, operand form and size, and goes on to
 * the next instruction by a tail call.  They do only what hits: on a TLB miss they hand the
 * whole instruction to its general handler, so faults, MMIO and code pages are no concern here. */
#pragma GCC optimize("omit-frame-pointer") /* no frame in a function of ten instructions */
#include "fast.h"

/* --- two operands ------------------------------------------------------------------------- */
static always_inline HANDLER alu_body(struct tcg_cpu *c, const struct insn *in, enum alu op,
				      enum form form, unsigned size)
{
	if (unlikely(!alu_do(c, in, op, form, size)))
		return exec_driver(c, in);
	return next(c, in);
}

#define ALU_FN(op, form, size)                                                               \
	static HANDLER fast_##op##_##form##_##size(struct tcg_cpu *c, const struct insn *in) \
	{                                                                                    \
		return alu_body(c, in, ALU_##op, F_##form, size);                            \
	}
EACH_ALU(ALU_FN)

#define ALU_ENTRY(op, form, size) \
	[ALU_##op][F_##form][__builtin_ctz(size)] = fast_##op##_##form##_##size,
static const insn_fn alu_fns[ALUS][FORMS][SIZES] = { EACH_ALU(ALU_ENTRY) };

static insn_fn choose_alu(const struct insn *in, enum alu op)
{
	enum form form = form_of(in);

	return form == FORMS ? NULL : alu_fns[op][form][size_log2(in->opd[0].size)];
}

/* --- moves with extension, LEA ------------------------------------------------------------ */
enum extend { ZERO_EXTEND, SIGN_EXTEND };

/* A negative how stands for a register source. */
static always_inline HANDLER extend_body(struct tcg_cpu *c, const struct insn *in, enum extend ext,
					 int how, unsigned from, unsigned to)
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

#define EXTEND_FN(ext, how, from, to)                                              \
	static HANDLER extend_##ext##_##how##_##from##_##to(struct tcg_cpu *c,     \
							    const struct insn *in) \
	{                                                                          \
		return extend_body(c, in, ext##_EXTEND, FROM_##how, from, to);     \
	}
enum { FROM_R = -1, FROM_B = ADDR_BASE, FROM_S = ADDR_INDEX, FROM_X = ADDR_ANY };
/* clang-format off */
#define EACH_FROM(FN, ext, from, to)                                                               \
	FN(ext, R, from, to) FN(ext, B, from, to) FN(ext, S, from, to) FN(ext, X, from, to)
#define EACH_EXTEND(X)                                                                             \
	EACH_FROM(X, ZERO, 1, 4) EACH_FROM(X, ZERO, 2, 4)                                          \
	EACH_FROM(X, SIGN, 1, 4) EACH_FROM(X, SIGN, 2, 4)                                          \
	EACH_FROM(X, SIGN, 1, 8) EACH_FROM(X, SIGN, 2, 8) EACH_FROM(X, SIGN, 4, 8)
/* clang-format on */
EACH_EXTEND(EXTEND_FN)

#define EXTEND_ENTRY(ext, how, from, to)                                         \
	[ext##_EXTEND][FROM_##how + 1][__builtin_ctz(from)][__builtin_ctz(to)] = \
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
	return in->opd[1].kind == OPD_MEM && how != ADDRESSES ? extend_fns[ext][how + 1][from][to]
							      : NULL;
}

#define LEA_FN(name, address, size)                                                  \
	static HANDLER lea_##name##_##size(struct tcg_cpu *c, const struct insn *in) \
	{                                                                            \
		reg_set(c, in->opd[0].reg, size, address);                           \
		return next(c, in);                                                  \
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
		{ lea_base_4, lea_base_8 },
		{ lea_index_4, lea_index_8 },
		{ lea_any_4, lea_any_8 },
	};
	enum address how = address_of(in);

	return how == ADDRESSES || in->size < 4 ? NULL : fns[how][in->size == 8];
}

/* --- one register, shifts, IMUL ----------------------------------------------------------- */
#define UNARY_FN(name, expr, size)                                                    \
	static HANDLER fast_##name##_##size(struct tcg_cpu *c, const struct insn *in) \
	{                                                                             \
		u64 a = reg_get(c, in->opd[0].reg, size);                             \
		reg_set(c, in->opd[0].reg, size, expr);                               \
		return next(c, in);                                                   \
	}
#define UNARY(name, expr)                                                 \
	UNARY_FN(name, expr(4), 4)                                        \
	UNARY_FN(name, expr(8), 8)                                        \
	static insn_fn choose_##name(const struct insn *in)               \
	{                                                                 \
		if (in->opd[0].kind != OPD_REG || in->size < 4)           \
			return NULL;                                      \
		return in->size == 4 ? fast_##name##_4 : fast_##name##_8; \
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
#define SHIFT_COUNT (in->opd[1].kind == OPD_IMM ? (u64)in->imm : c->v.s.gpr[RCX])
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
#define IMUL_FN(name, left, right, size)                                              \
	static HANDLER imul_##name##_##size(struct tcg_cpu *c, const struct insn *in) \
	{                                                                             \
		u64 r = alu_imul(size, &c->cc, reg_get(c, left, size), right);        \
		reg_set(c, in->opd[0].reg, size, r);                                  \
		return next(c, in);                                                   \
	}
IMUL_FN(rr, in->opd[0].reg, reg_get(c, in->opd[1].reg, 4), 4)
IMUL_FN(rr, in->opd[0].reg, reg_get(c, in->opd[1].reg, 8), 8)
IMUL_FN(rri, in->opd[1].reg, (u64)in->imm, 4)
IMUL_FN(rri, in->opd[1].reg, (u64)in->imm, 8)

static insn_fn choose_imul(const struct insn *in)
{
	if (in->opd[1].kind != OPD_REG || in->size < 4)
		return NULL;
	if (in->nopd == 3)
		return in->size == 4 ? imul_rri_4 : imul_rri_8;
	return in->size == 4 ? imul_rr_4 : imul_rr_8;
}

/* --- conditional moves and sets ----------------------------------------------------------- */
#define COND_FNS(cond)                                                                  \
	static HANDLER set_##cond(struct tcg_cpu *c, const struct insn *in)             \
	{                                                                               \
		reg_set(c, in->opd[0].reg, 1, cc_test(c->cc, cond));                    \
		return next(c, in);                                                     \
	}                                                                               \
	static HANDLER cmov4_##cond(struct tcg_cpu *c, const struct insn *in)           \
	{                                                                               \
		unsigned from = cc_test(c->cc, cond) ? in->opd[1].reg : in->opd[0].reg; \
		reg_set(c, in->opd[0].reg, 4, reg_get(c, from, 4));                     \
		return next(c, in);                                                     \
	}                                                                               \
	static HANDLER cmov8_##cond(struct tcg_cpu *c, const struct insn *in)           \
	{                                                                               \
		unsigned from = cc_test(c->cc, cond) ? in->opd[1].reg : in->opd[0].reg; \
		reg_set(c, in->opd[0].reg, 8, reg_get(c, from, 8));                     \
		return next(c, in);                                                     \
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

/* --- the stack, 64-bit mode --------------------------------------------------------------- */
static HANDLER fast_push_reg(struct tcg_cpu *c, const struct insn *in)
{
	return likely(push_8(c, c->v.s.gpr[in->opd[0].reg])) ? next(c, in) : exec_PUSH(c, in);
}

static HANDLER fast_push_imm(struct tcg_cpu *c, const struct insn *in)
{
	return likely(push_8(c, (u64)in->imm)) ? next(c, in) : exec_PUSH(c, in);
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

/* --- all other driver rows --------------------------------------------------------------- */
/* exec_driver without its calls, for operands in registers and at most one in memory.  The row's
 * meaning is called through its pointer. */
static always_inline u64 plain_value(const struct tcg_cpu *c, const struct insn *in, unsigned n)
{
	const struct opd *o = &in->opd[n];

	if (o->kind == OPD_REG)
		return reg_get(c, o->reg, o->size);
	return o->kind == OPD_IMM ? insn_imm(in) & size_mask(in->size) : 0;
}

static always_inline HANDLER drive(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	u64 r = in->op->exec.drv(c, in, a, b);

	if (in->op->flags & F_W0)
		reg_set(c, in->opd[0].reg, in->opd[0].size, r);
	return next(c, in);
}

static HANDLER drive_regs(struct tcg_cpu *c, const struct insn *in)
{
	unsigned first = in->op->flags & F_R0 ? 0 : 1;

	return drive(c, in, plain_value(c, in, first), plain_value(c, in, first + 1));
}

/* Operand 1 is in memory, and read. */
static HANDLER drive_load(struct tcg_cpu *c, const struct insn *in)
{
	void *p = tlb_read(c, lin_of(c, in, ADDR_ANY), in->opd[1].size);
	u64 m;

	if (unlikely(!p))
		return exec_driver(c, in);
	m = host_load(p, in->opd[1].size);
	if (in->op->flags & F_R0)
		return drive(c, in, plain_value(c, in, 0), m);
	return drive(c, in, m, plain_value(c, in, 2));
}

/* Operand 0 is in memory, and written. */
static HANDLER drive_store(struct tcg_cpu *c, const struct insn *in)
{
	unsigned size = in->opd[0].size;
	void *p = tlb_write(c, lin_of(c, in, ADDR_ANY), size);
	u64 a;

	if (unlikely(!p))
		return exec_driver(c, in);
	a = in->op->flags & F_R0 ? host_load(p, size) : plain_value(c, in, 1);
	host_store(p, size, in->op->exec.drv(c, in, a, plain_value(c, in, 1)));
	return next(c, in);
}

static bool is_plain(const struct insn *in, unsigned from)
{
	for (unsigned i = from; i < in->nopd; i++)
		if (in->opd[i].kind != OPD_REG && in->opd[i].kind != OPD_IMM)
			return false;
	return true;
}

static insn_fn choose_drive(const struct insn *in)
{
	const u32 out_of_the_way = F_PRIV | F_PROT | F_NOMEM;
	bool reg0 = in->nopd == 0 || in->opd[0].kind == OPD_REG;

	if (in->op->cls != CLS_DRV || in->op->flags & out_of_the_way ||
	    insn_general(in) != exec_driver)
		return NULL;
	if (reg0 && is_plain(in, 1))
		return drive_regs;
	if (address_of(in) == ADDRESSES)
		return NULL;
	if (reg0 && in->opd[1].kind == OPD_MEM && is_plain(in, 2))
		return drive_load;
	return in->opd[0].kind == OPD_MEM && in->op->flags & F_W0 && is_plain(in, 1) ? drive_store
										     : NULL;
}

/* --- choosing ----------------------------------------------------------------------------- */
static enum family family_of(const struct op *op)
{
	static const struct {
		drv_fn fn;
		enum family fam;
	} drv[] = {
		{ exec_ADD, FAM_ALU + ALU_ADD },
		{ exec_OR, FAM_ALU + ALU_OR },
		{ exec_ADC, FAM_ALU + ALU_ADC },
		{ exec_SBB, FAM_ALU + ALU_SBB },
		{ exec_AND, FAM_ALU + ALU_AND },
		{ exec_SUB, FAM_ALU + ALU_SUB },
		{ exec_XOR, FAM_ALU + ALU_XOR },
		{ exec_CMP, FAM_ALU + ALU_CMP },
		{ exec_TEST, FAM_ALU + ALU_TEST },
		{ exec_MOV, FAM_ALU + ALU_MOV },
		{ exec_MOVZX, FAM_MOVZX },
		{ exec_MOVSX, FAM_MOVSX },
		{ exec_MOVSXD, FAM_MOVSX },
		{ exec_LEA, FAM_LEA },
		{ exec_INC, FAM_INC },
		{ exec_DEC, FAM_DEC },
		{ exec_NEG, FAM_NEG },
		{ exec_NOT, FAM_NOT },
		{ exec_ROL, FAM_ROL },
		{ exec_ROR, FAM_ROR },
		{ exec_SHL, FAM_SHL },
		{ exec_SHR, FAM_SHR },
		{ exec_SAR, FAM_SAR },
		{ exec_IMUL, FAM_IMUL },
		{ exec_SETcc, FAM_SET },
		{ exec_CMOVcc, FAM_CMOV },
	};
	static const struct {
		insn_fn fn;
		enum family fam;
	} self[] = {
		{ exec_PUSH, FAM_PUSH }, { exec_POP, FAM_POP },	  { exec_LEAVE, FAM_LEAVE },
		{ exec_NOP, FAM_NOP },	 { exec_ENDBR, FAM_NOP }, { exec_PREFETCH, FAM_NOP },
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

enum family fast_family(const struct insn *in)
{
	u64 row = (u64)(in->op - op_rows);

	return row < op_rows_n ? families[row] : FAM_NONE;
}

static insn_fn choose_special(const struct insn *in)
{
	enum family fam = fast_family(in);

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

insn_fn fast_choose(const struct insn *in)
{
	insn_fn fn;

	if (in->prefixes & PFX_LOCK)
		return NULL;
	fn = choose_special(in);
	return fn ? fn : choose_drive(in);
}
