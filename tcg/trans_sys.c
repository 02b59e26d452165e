/* trans_sys.c - host code for what kernels do all the time beside computing: the interrupt flag,
 * PUSHF, selectors, bit strings. */
#include "trans.h"

enum { MOVZX8 = 0xb6, MOVZX16 = 0xb7, MOVSXD = 0x63, LOAD = 0x8b, OR8 = 0x0a, OR32 = 0x0b };

void emit_gs(struct x64 *a, u8 map, u8 opcode, unsigned reg, s32 off)
{
	x64_op(a, &(struct x64_op){ .map = map,
				    .opcode = opcode,
				    .reg = (u8)reg,
				    .mem = true,
				    .gs = true,
				    .disp = off });
}

/* --- RFLAGS ----------------------------------------------------------------------------------- */
/* T1 becomes what PUSHF pushes: the arithmetic flags from c->cc, the others from s.rflags, VM and
 * RF clear. */
static void sys_rflags(struct x64 *a)
{
	emit_gs(a, X64_MAP_0F, MOVZX16, T1, GS_OFF(cc));
	x64_mov_rr(a, T2, T1);
	emit_shift(a, SHIFT_SHR, false, T1, 8);
	x64_alu_imm(a, OP_AND, false, T1, FL_ARITH & 0xff);
	x64_alu_imm(a, OP_AND, false, T2, 1);
	emit_shift(a, SHIFT_SHL, false, T2, 11);
	emit_rr(a, 0x09, false, T1, T2);
	emit_gs(a, X64_MAP_1, LOAD, T2, GS_OFF(v.s.rflags));
	x64_alu_imm(a, OP_AND, false, T2, ~(FL_ARITH | FL_VM | FL_RF));
	emit_rr(a, 0x09, false, T1, T2);
}

void emit_pushf(struct emit *e, unsigned i)
{
	unsigned from = e->lates;

	emit_clobber(e, i); /* it reads the flags, so now they are in c->cc */
	emit_access(e, i, ACCESS_STACK, e->word, true);
	emit_scratch(e, T1);
	emit_scratch(e, T2);
	sys_rflags(e->a);
	emit_store(e, T1);
	emit_lea_word(e, HOST_SP, HOST_SP, -e->word);
	emit_late_back(e, from);
}

/* CLI and STI for CPL 0; and STI where no interrupt waits for it, which makes its shadow void. */
void emit_if(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	bool sti = in->op->exec.self == exec_STI;
	struct x64 *a = e->a;
	unsigned from = e->lates;

	emit_clobber(e, i);
	emit_scratch(e, T0);
	emit_scratch(e, T1);
	emit_gs(a, X64_MAP_0F, MOVZX8, T1, GS_OFF(cpl));
	if (sti) {
		emit_gs(a, X64_MAP_1, OR8, T1, GS_OFF(irq_masked));
		emit_gs(a, X64_MAP_1, OR32, T1, GS_OFF(kicked));
	} else {
		emit_rr(a, 0x85, false, T1, T1);
	}
	late_add(e, emit_jcc(a, CC_NE), in);
	emit_gs_imm(a, sti ? OP_OR : OP_AND, GS_OFF(v.s.rflags), sti ? FL_IF : ~(u32)FL_IF);
	emit_late_back(e, from);
}

/* --- selectors -------------------------------------------------------------------------------- */
void emit_from_sreg(struct emit *e, const struct insn *in)
{
	unsigned reg = in->opd[0].reg, h = host_reg(e, reg);

	if (h == REG_NONE)
		h = emit_home(e, reg, 0);
	emit_gs(e->a, X64_MAP_0F, MOVZX16, h,
	       GS_OFF(v.s.seg) + in->opd[1].reg * (s32)sizeof(struct seg_reg) +
		       (s32)offsetof(struct seg_reg, sel));
	if (reg_homeless(reg))
		emit_put(e, h, reg);
}

/* --- bit strings ------------------------------------------------------------------------------ */
/* BT, BTS, BTR, BTC of memory by a register, a signed offset in bits: the operand is found first,
 * and the offset within it left to the host. */
void emit_bits(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	bool w = in->size == 8;
	unsigned from = e->lates, reg = in->opd[1].reg;
	struct x64 *a = e->a;

	emit_clobber(e, i);
	emit_scratch(e, T0);
	emit_open(e, in);
	emit_linear(e, in, ACCESS_MEM, 0);
	e->at_t0 = NULL;
	emit_scratch(e, T1);
	x64_op(a, &(struct x64_op){ .opcode = w ? LOAD : MOVSXD,
				    .w = true,
				    .reg = T1,
				    .rm = (u8)emit_get(e, reg, 1 << T0 | 1 << T1) });
	emit_shift(a, SHIFT_SAR, true, T1, w ? 6 : 5);
	x64_op(a, &(struct x64_op){ .opcode = 0x8d,
				    .w = e->word == 8,
				    .reg = T0,
				    .rm = T0,
				    .mem = true,
				    .has_index = true,
				    .index = T1,
				    .scale = w ? 3 : 2 });
	emit_check(e, in, in->size, in->op->flags & F_W0);
	x64_mov_rr(a, T1, emit_get(e, reg, 1 << T0 | 1 << T1));
	x64_alu_imm(a, OP_AND, false, T1, w ? 63 : 31);
	emit_flags_needed(e, flags_needed(e, i));
	if (in->prefixes & PFX_LOCK && !tcg_may_drop_lock(e->c))
		x64_u8(a, 0xf0);
	x64_op(a, &(struct x64_op){ .map = X64_MAP_0F,
				    .opcode = in->op->opcode,
				    .w = w,
				    .reg = T1,
				    .rm = T0,
				    .mem = true });
	emit_flags_new(e, i);
	emit_late_back(e, from);
}
