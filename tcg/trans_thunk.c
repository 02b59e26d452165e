/* trans_thunk.c - code that all translated blocks of a vCPU share: ways in and out, and calls of C.
 */
#include "trans.h"

static const u8 pinned[] = { RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, R12, R13, R14 };
static const u8 saved[] = { RBX, RBP, R12, R13, R14, R15 }; /* of our caller's */

static void thunk_spill(struct x64 *a)
{
	for (unsigned i = 0; i < ARRAY_LEN(pinned); i++)
		x64_store_gs(a, pinned[i], gs_gpr(pinned[i]));
	x64_store_gs(a, HOST_SP, gs_gpr(RSP));
}

static void thunk_reload(struct x64 *a)
{
	for (unsigned i = 0; i < ARRAY_LEN(pinned); i++)
		x64_load_gs(a, pinned[i], gs_gpr(pinned[i]));
	x64_load_gs(a, HOST_SP, gs_gpr(RSP));
}

/* What T0 to T2 hold after a call. */
static void thunk_reload_cached(struct x64 *a)
{
	for (unsigned r = R9; r <= R11; r++)
		x64_load_gs(a, r, gs_gpr(r));
}

static void thunk_push(struct x64 *a, unsigned reg)
{
	x64_op(a, &(struct x64_op){ .opcode = 0xff, .reg = 6, .rm = (u8)reg });
}

static void thunk_pop(struct x64 *a, unsigned reg)
{
	x64_op(a, &(struct x64_op){ .opcode = 0x8f, .reg = 0, .rm = (u8)reg });
}

static void thunk_bit_test(struct x64 *a, unsigned reg, unsigned bit)
{
	x64_op(a, &(struct x64_op){ .map = X64_MAP_0F,
				    .opcode = 0xa3,
				    .w = true,
				    .reg = (u8)bit,
				    .rm = (u8)reg });
}

static void thunk_rsp(struct x64 *a, s32 by)
{
	x64_lea(a, RSP, RSP, by);
}

static void thunk_call(struct x64 *a, u64 fn)
{
	x64_u8(a, 0x48);
	x64_u8(a, 0xb8 + RAX);
	x64_u64(a, fn);
	x64_op(a, &(struct x64_op){ .opcode = 0xff, .reg = 2, .rm = RAX });
}

/* void enter(const u8 *code, struct vcpu *v) */
static void thunk_enter(struct x64 *a)
{
	for (unsigned i = 0; i < ARRAY_LEN(saved); i++)
		thunk_push(a, saved[i]);
	thunk_rsp(a, -8);
	x64_op(a, &(struct x64_op){ .opcode = 0x89,
				    .w = true,
				    .reg = RSP,
				    .rm = RSI,
				    .mem = true,
				    .disp = GS_OFF(hot.stack) });
	x64_mov_rr(a, T0, RDI);
	x64_mov_rr(a, RSP, RSI);
	thunk_reload(a);
	x64_op(a, &(struct x64_op){ .opcode = 0xff, .reg = 4, .rm = T0 });
}

/* From the C stack.  Registers are in s.gpr[] already. */
static void thunk_return(struct x64 *a)
{
	thunk_rsp(a, 8);
	for (unsigned i = ARRAY_LEN(saved); i--;)
		thunk_pop(a, saved[i]);
	x64_ret(a);
}

static void thunk_leave(struct x64 *a)
{
	thunk_spill(a);
	x64_load_gs(a, RSP, GS_OFF(hot.stack));
	thunk_return(a);
}

/* T0 says where to go on: top.exit. */
static void thunk_exit(struct x64 *a)
{
	x64_op(a, &(struct x64_op){ .opcode = 0x89,
				    .reg = T0,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(top.exit) });
	thunk_leave(a);
}

/* fn(c, ...) on the C stack, and RBX is where RSP was. */
static void thunk_call_c(struct x64 *a, u64 fn)
{
	x64_lea(a, RDI, RSP, -(s32)offsetof(struct tcg_cpu, v));
	x64_mov_rr(a, RBX, RSP);
	x64_load_gs(a, RSP, GS_OFF(hot.stack));
	thunk_call(a, fn);
}

/* Called with T0 and T1, the second and third argument of fn, which says whether to come back. */
static void thunk_c(struct x64 *a, u64 fn, bool flags)
{
	u8 *leave;

	thunk_rsp(a, 8); /* the return address stays below, where nothing else writes */
	thunk_spill(a);
	x64_mov_rr(a, RSI, T0);
	x64_mov_rr(a, RDX, T1);
	thunk_call_c(a, fn);
	x64_op(a, &(struct x64_op){ .opcode = 0x84, .reg = RAX, .rm = RAX }); /* TEST AL, AL */
	leave = emit_jcc(a, CC_E);
	x64_mov_rr(a, RSP, RBX);
	thunk_reload(a);
	if (flags)
		emit_flags_load(a);
	thunk_reload_cached(a);
	thunk_rsp(a, -8);
	x64_ret(a);
	emit_patch(leave, a->p);
	thunk_return(a);
}

/* signal.c comes here with all registers as they were. */
static void thunk_trap(struct x64 *a)
{
	x64_load_gs(a, T0, GS_OFF(cc_low)); /* and what follows */
	x64_store_gs(a, T0, GS_OFF(hot.old_cc));
	emit_flags_save(a);
	thunk_spill(a);
	thunk_call_c(a, (u64)trans_trap);
	thunk_return(a);
}

/* Put rip T0, for which T1 is the entry of the fetch TLB, into hot.near[], found by its host
 * address.  T2 becomes its offset there; jumps if there is none. */
static u8 *thunk_find_near(struct x64 *a, bool counting)
{
	struct x64_op at = { .w = true, .rm = T2, .mem = true, .gs = true, .gs_base = true };
	u8 *none;

	x64_load(a, T1, T1, offsetof(struct tlb, x) + 8);
	emit_rr(a, 0x01, true, T1, T0);
	x64_mov_rr(a, T2, T1);
	emit_shift(a, 5, true, T2, 12);
	emit_rr(a, 0x31, true, T2, T1);
	x64_alu_imm(a, OP_AND, false, T2, (1 << JUMP_BITS) - 1);
	emit_shift(a, 4, false, T2, 4);
	emit_near_key(a);
	at.opcode = 0x39, at.reg = T1, at.disp = GS_OFF(hot.jump);
	x64_op(a, &at);
	none = emit_jcc(a, CC_NE);
	at.opcode = 0x8b, at.disp = GS_OFF(hot.jump) + 8;
	x64_op(a, &at);
	if (counting)
		emit_count(a, T2, far, 1);
	emit_near_index(a);
	at.opcode = 0x89, at.disp = GS_OFF(hot.near) + 8;
	x64_op(a, &at);
	emit_near_tag(a);
	at.disp = GS_OFF(hot.near);
	x64_op(a, &at);
	return none;
}

static void thunk_far(struct x64 *a, u8 *leave_rip, bool counting)
{
	emit_patch(thunk_find_near(a, counting), leave_rip);
	x64_alu_imm(a, OP_AND, true, T0, -(s32)PAGE_SIZE);
	x64_store_gs(a, T0, GS_OFF(code_rip));
	emit_near_go(a);
}

/* The same, called: E or NE. */
static void thunk_find(struct x64 *a, bool counting)
{
	u8 *none;

	thunk_rsp(a, 8);
	none = thunk_find_near(a, counting);
	emit_rr(a, 0x39, true, T0, T0);
	emit_patch(none, a->p);
	thunk_rsp(a, -8);
	x64_ret(a);
}

/* A store of at most 8 bytes to T0, linear, that found no write entry: to a page with decoded code,
 * but not where that is?  Then ZF, and T0 becomes the host's.  T1, T2 and the other flags are lost.
 */
static void thunk_beside(struct x64 *a)
{
	struct x64_op at = { .w = true, .mem = true, .disp = offsetof(struct tlb, c) };
	u8 *fail[4];

	thunk_rsp(a, 8);
	x64_store_gs(a, RAX, GS_OFF(top.rax));
	x64_mov_rr(a, T1, T0);
	emit_shift(a, SHIFT_SHR, true, T1, 12);
	x64_alu_imm(a, OP_AND, false, T1, TLB_SIZE - 1);
	emit_shift(a, SHIFT_SHL, false, T1, 3);
	x64_load_gs(a, T2, GS_OFF(tlb));
	emit_rr(a, 0x01, true, T2, T1); /* + 8 * index */
	x64_mov_rr(a, RAX, T0);
	at.opcode = 0x2b, at.reg = RAX, at.rm = T2, at.has_index = true, at.index = T1;
	x64_op(a, &at); /* + 16 * index: entries are twice as large as pointers */
	x64_alu_imm(a, OP_CMP, true, RAX, PAGE_SIZE - 8);
	fail[0] = emit_jcc(a, CC_A);
	x64_load(a, RAX, T2, offsetof(struct tlb, c_word));
	x64_load(a, RAX, RAX, 0);
	at.opcode = 0x8b, at.reg = T1, at.disp += 8;
	x64_op(a, &at); /* the addend */
	x64_mov_rr(a, T2, T0);
	emit_shift(a, SHIFT_SHR, true, T2, 6); /* BT counts granules modulo 64 */
	thunk_bit_test(a, RAX, T2);
	fail[1] = emit_jcc(a, CC_B);
	x64_lea(a, T2, T0, 7);
	emit_shift(a, SHIFT_SHR, true, T2, 6);
	thunk_bit_test(a, RAX, T2);
	fail[2] = emit_jcc(a, CC_B);
	emit_rr(a, 0x85, true, RAX, RAX);
	fail[3] = emit_jcc(a, CC_E); /* plain data by now: let it have its write entry */
	emit_rr(a, 0x01, true, T0, T1);
	x64_load_gs(a, RAX, GS_OFF(top.rax));
	thunk_rsp(a, -8);
	emit_rr(a, 0x39, true, RSP, RSP); /* CMP: equal */
	x64_ret(a);
	for (unsigned i = 0; i < ARRAY_LEN(fail); i++)
		emit_patch(fail[i], a->p);
	x64_load_gs(a, RAX, GS_OFF(top.rax));
	thunk_rsp(a, -8);
	emit_rr(a, 0x85, true, RSP, RSP); /* TEST: not zero */
	x64_ret(a);
}

void trans_thunks(struct tcg_cpu *c, struct trans *t)
{
	struct x64 a = { .p = cache_reserve(&t->cache, PAGE_SIZE),
			 .end = t->cache.rw + PAGE_SIZE,
			 .bmi2 = t->bmi2 };
	u8 *start = a.p;
#define HERE (u32)(a.p - t->cache.rw)

	t->enter = HERE;
	thunk_enter(&a);
	t->out_flags = HERE;
	emit_flags_save(&a);
	t->out = HERE;
	thunk_exit(&a);
	t->leave_rip = HERE;
	x64_store_gs(&a, T0, GS_OFF(v.s.rip));
	thunk_leave(&a);
	t->far = HERE;
	thunk_far(&a, trans_rw(t, t->leave_rip), t->counting);
	t->find = HERE;
	thunk_find(&a, t->counting);
	t->step = HERE;
	thunk_c(&a, (u64)trans_step, false);
	t->step_flags = HERE;
	thunk_c(&a, (u64)trans_step, true);
	t->fp = HERE;
	thunk_c(&a, (u64)trans_fp, false);
	t->group = HERE;
	thunk_c(&a, (u64)trans_group, false);
	t->split = HERE;
	thunk_c(&a, (u64)trans_split, false);
	t->loop = HERE;
	thunk_c(&a, (u64)trans_loop, false);
	t->beside = HERE;
	thunk_beside(&a);
	t->stack_r = HERE;
	stack_thunk(&a, false);
	t->stack_w = HERE;
	stack_thunk(&a, true);
	t->trap = HERE;
	thunk_trap(&a);
	ASSERT(!a.full);
	cache_commit(&t->cache, (u32)(a.p - start));
	cache_seal(&t->cache);
}
