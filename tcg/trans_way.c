/* trans_way.c - how the translator does an instruction: by code of its own, or by calling the
 * interpreter's handler. */
#include "trans.h"

static bool is_nop(const struct insn *in)
{
	insn_fn self = in->op->exec.self;

	return self == exec_NOP || self == exec_ENDBR || self == exec_PREFETCH;
}

static bool is_bit_string(const struct insn *in)
{
	insn_fn self = in->op->exec.self;

	return self == exec_BT_MEM || self == exec_BTS_MEM || self == exec_BTR_MEM ||
	       self == exec_BTC_MEM;
}

/* In 32-bit code, CS is not flat as data. */
bool insn_reach(const struct insn *in)
{
	return in->asize == insn_word(in) && (in->mode == MODE_64 || in->seg != SEG_CS);
}

static enum way end_way(const struct insn *in)
{
	insn_fn self = in->op->exec.self;
	bool mem = in->opd[0].kind == OPD_MEM;
	u8 word = insn_word(in);

	if (in->size != word || (mem && !insn_reach(in)))
		return WAY_STEP;
	if (self == exec_Jcc)
		return WAY_JCC;
	if (self == exec_JMP)
		return WAY_JMP;
	if (self == exec_CALL) /* [rsp - 8] is what is pushed */
		return mem && in->base == RSP ? WAY_STEP : WAY_CALL;
	if (self == exec_RET)
		return WAY_RET;
	return (self == exec_JCXZ || self == exec_LOOP) && in->asize == word ? WAY_RCX : WAY_STEP;
}

static enum way self_way(const struct insn *in)
{
	insn_fn self = in->op->exec.self;
	u8 kind = in->opd[0].kind;

	if (is_nop(in))
		return WAY_NOP;
	if (self == exec_CLI || self == exec_STI)
		return WAY_IF;
	if (self == exec_MOV_FROM_SREG && kind == OPD_REG && in->size >= 4)
		return WAY_FROM_SREG;
	if (string_can(in))
		return WAY_STRING;
	if (element_can(in))
		return WAY_ELEMENT;
	if (is_bit_string(in) && insn_reach(in) && in->size >= 4)
		return WAY_BITS;
	if (in->size != insn_word(in) || (kind == OPD_MEM && !insn_reach(in)))
		return WAY_STEP;
	if (self == exec_PUSH)
		return WAY_PUSH;
	if (self == exec_POP && kind == OPD_REG)
		return WAY_POP;
	if (self == exec_PUSHF)
		return WAY_PUSHF;
	return self == exec_LEAVE ? WAY_LEAVE : WAY_STEP;
}

enum way insn_way(const struct insn *in)
{
	enum way way = WAY_STEP;

	if (in->op->cls == CLS_DRV && in->op->exec.drv == exec_LEA)
		return in->asize == insn_word(in) && in->size >= 4 ? WAY_LEA : WAY_STEP;
	if (in->op->cls == CLS_SELF)
		way = in->op->flags & F_ENDS ? end_way(in) : self_way(in);
	return way == WAY_STEP && !(in->op->flags & F_ENDS) && op_can(in) ? WAY_OP : way;
}
