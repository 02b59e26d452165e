/* trans_string.c - string instructions in translated code: REP MOVS and REP STOS upwards, in plain
 * memory that the TLB knows; one LODS, STOS or SCAS.  What lies in one page of each operand is
 * copied on the spot, longer runs by string_fast(), all else by the interpreter's handler, which
 * goes on where these stopped. */
#include "trans.h"

enum { RUN_MAX = 64 << 10 }; /* bytes at a time */

static bool is_movs(const struct insn *in)
{
	return in->op->exec.self == exec_MOVS;
}

static bool can_reach(const struct insn *in)
{
	return insn_reach(in) && in->seg < SEG_FS;
}

/* --- by C ------------------------------------------------------------------------------------- */
/* How many bytes from lin, at most want, lie at consecutive addresses of the host; 0: the TLB does
 * not know. */
static u64 host_run(const struct tlb_entry *array, gva_t lin, u64 want, void **host)
{
	const struct tlb_entry *t = &array[tlb_index(lin)], *next;
	u64 room = PAGE_SIZE - lin % PAGE_SIZE;

	if (lin - t->tag >= PAGE_SIZE)
		return 0;
	*host = (void *)(uintptr_t)(lin + t->addend);
	for (; room < want; room += PAGE_SIZE) {
		next = &array[tlb_index(lin + room)];
		if (next->tag != lin + room || next->addend != t->addend)
			break;
	}
	return MIN(room, want);
}

#define STRING(ins, regs...)                                                             \
	switch (in->size) {                                                              \
	case 1: __asm__ volatile("rep " ins "b" : regs : "a"(rax) : "memory"); break;    \
	case 2: __asm__ volatile("rep " ins "w" : regs : "a"(rax) : "memory"); break;    \
	case 4: __asm__ volatile("rep " ins "l" : regs : "a"(rax) : "memory"); break;    \
	default: __asm__ volatile("rep " ins "q" : regs : "a"(rax) : "memory"); break;   \
	}

/* Up to n elements: how many it was. */
static u64 string_chunk(struct tcg_cpu *c, const struct insn *in, u64 n)
{
	u64 *gpr = c->v.s.gpr, rax = gpr[RAX];
	u64 bytes = MIN(n, RUN_MAX) * in->size, count;
	void *dst, *src;

	if (in->mode == MODE_32)
		bytes = MIN(bytes, BIT(32) - MAX(gpr[RDI], gpr[RSI]));
	bytes = host_run(c->tlb->w, gpr[RDI], bytes, &dst);
	if (bytes && is_movs(in))
		bytes = host_run(c->tlb->r, gpr[RSI], bytes, &src);
	n = count = bytes >> __builtin_ctz(in->size);
	if (is_movs(in)) {
		STRING("movs", "+D"(dst), "+S"(src), "+c"(count))
		gpr[RSI] = rip_mask(in, gpr[RSI] + n * in->size);
	} else {
		STRING("stos", "+D"(dst), "+c"(count))
	}
	gpr[RDI] = rip_mask(in, gpr[RDI] + n * in->size);
	c->budget -= (s32)(bytes >> 6);
	return n;
}

bool string_fast(struct tcg_cpu *c, const struct insn *in)
{
	bool rep = in->prefixes & (PFX_REP | PFX_REPNE);
	u64 left = rep ? c->v.s.gpr[RCX] : 1, n;

	if (!can_reach(in) || c->v.s.rflags & FL_DF)
		return false;
	while (left) {
		n = string_chunk(c, in, left);
		left -= n;
		if (rep)
			c->v.s.gpr[RCX] = left;
		if (!n || (left && c->budget < 0))
			return false;
	}
	return true;
}

/* --- on the spot ------------------------------------------------------------------------------ */
static void string_rr(struct x64 *a, u8 opcode, unsigned rm, unsigned reg)
{
	emit_rr(a, opcode, true, rm, reg);
}

static void string_slow(struct emit *e, const struct insn *in, unsigned cond)
{
	late_add(e, emit_jcc(e->a, cond), in);
}

/* Downwards is for the interpreter. */
static void string_upwards(struct emit *e, const struct insn *in)
{
	x64_op(e->a, &(struct x64_op){ .opcode = 0xf7, .mem = true, .gs = true,
		.disp = GS_OFF(v.s.rflags) });
	x64_u32(e->a, FL_DF); /* TEST */
	string_slow(e, in, CC_NE);
}

static void string_mem(struct x64 *a, u8 opcode, unsigned reg, s32 disp)
{
	x64_op(a, &(struct x64_op){ .opcode = opcode,
				    .w = true,
				    .reg = (u8)reg,
				    .rm = T1,
				    .mem = true,
				    .disp = disp });
}

/* T0 becomes the last offset in a page where the operands may begin; at least 0. */
static void string_most(struct emit *e, const struct insn *in)
{
	struct x64 *a = e->a;

	x64_lea(a, T0, RCX, -1); /* no count of 0, none that wraps */
	x64_alu_imm(a, OP_CMP, true, T0, PAGE_SIZE - 1);
	string_slow(e, in, CC_A);
	x64_mov_rr(a, T0, RCX);
	if (in->size > 1)
		emit_shift(a, SHIFT_SHL, true, T0, (u8)__builtin_ctz(in->size));
	x64_op(a, &(struct x64_op){ .opcode = 0xf7, .w = true, .reg = 3, .rm = T0 }); /* NEG */
	x64_alu_imm(a, OP_ADD, true, T0, PAGE_SIZE);
	string_slow(e, in, CC_S);
}

void emit_string(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	const s32 r = offsetof(struct tlb, r), w = offsetof(struct tlb, w);
	unsigned from = e->lates;
	struct x64 *a = e->a;

	emit_clobber(e, i);
	emit_scratch(e, T0);
	e->cached = 0;
	string_upwards(e, in);
	string_most(e, in);
	emit_tlb_entry(a, RDI);
	x64_mov_rr(a, T2, RDI);
	string_mem(a, 0x2b, T2, w);
	string_rr(a, 0x39, T2, T0); /* CMP T2, T0 */
	string_slow(e, in, CC_A);
	string_mem(a, 0x8b, T2, w + 8);
	if (is_movs(in)) {
		emit_tlb_entry(a, RSI);
		string_mem(a, 0x3b, RSI, r);
		string_slow(e, in, CC_B);
		string_mem(a, 0x03, T0, r);
		string_rr(a, 0x39, RSI, T0);
		string_slow(e, in, CC_A);
		string_mem(a, 0x8b, T1, r + 8);
		string_rr(a, 0x01, RSI, T1);
	}
	string_rr(a, 0x01, RDI, T2);
	x64_u8(a, 0xf3);
	x64_op(a, &(struct x64_op){ .opcode = (is_movs(in) ? 0xa4 : 0xaa) | (in->size > 1),
				    .osz = in->size == 2,
				    .w = in->size == 8,
				    .no_modrm = true });
	emit_rr(a, 0x29, e->word == 8, RDI, T2);
	if (is_movs(in))
		emit_rr(a, 0x29, e->word == 8, RSI, T1);
	emit_late_back(e, from);
}

bool element_can(const struct insn *in)
{
	insn_fn f = in->op->exec.self;

	return (f == exec_LODS || f == exec_SCAS || f == exec_STOS) && can_reach(in) &&
	       !(in->prefixes & (PFX_REP | PFX_REPNE));
}

/* LODS, STOS or SCAS of one element. */
void emit_element(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	insn_fn f = in->op->exec.self;
	unsigned reg = f == exec_LODS ? RSI : RDI, from = e->lates;
	u8 opcode = f == exec_LODS ? 0x8a : f == exec_STOS ? 0x88 : 0x3a; /* MOV, MOV, CMP */

	emit_clobber(e, i);
	emit_scratch(e, T0);
	string_upwards(e, in);
	x64_mov_rr(e->a, T0, reg);
	emit_check(e, in, in->size, f == exec_STOS);
	x64_op(e->a, &(struct x64_op){ .opcode = opcode | (in->size > 1),
				       .osz = in->size == 2,
				       .w = in->size == 8,
				       .reg = RAX,
				       .rm = T0,
				       .mem = true });
	emit_lea_word(e, reg, reg, in->size);
	if (f == exec_SCAS)
		emit_flags_new(e, i);
	emit_late_back(e, from);
}

bool string_can(const struct insn *in)
{
	insn_fn f = in->op->exec.self;

	return (f == exec_MOVS || f == exec_STOS) && can_reach(in) && in->prefixes & PFX_REP;
}
