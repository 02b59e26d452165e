/* trans_code.c - the small pieces that translated code is put together from.  None knows of a
 * block. */
#include "trans.h"

void emit_patch(u8 *rel32, const u8 *to)
{
	st32(rel32, (u32)(to - (rel32 + 4)));
}

void emit_jump(struct x64 *a, const u8 *to)
{
	x64_u8(a, 0xe9);
	x64_u32(a, (u32)(to - (a->p + 4)));
}

void emit_call(struct x64 *a, const u8 *to)
{
	x64_u8(a, 0xe8);
	x64_u32(a, (u32)(to - (a->p + 4)));
}

u8 *emit_jcc(struct x64 *a, unsigned cond)
{
	x64_u8(a, 0x0f);
	x64_u8(a, (u8)(0x80 | cond));
	x64_u32(a, 0);
	return a->p - 4;
}

void emit_rr(struct x64 *a, u8 opcode, bool w, unsigned rm, unsigned reg)
{
	x64_op(a, &(struct x64_op){ .opcode = opcode, .w = w, .reg = (u8)reg, .rm = (u8)rm });
}

/* RORX takes one instruction where a copy and a shift are two. */
void emit_tlb_entry(struct x64 *a, unsigned reg)
{
	if (a->bmi2) {
		x64_op(a, &(struct x64_op){ .vex = true,
					    .map = X64_MAP_0F3A,
					    .pp = 3,
					    .opcode = 0xf0,
					    .w = true,
					    .reg = T1,
					    .rm = (u8)reg,
					    .has_imm = true,
					    .imm = 8 });
	} else {
		x64_mov_rr(a, T1, reg);
		emit_shift(a, SHIFT_SHR, true, T1, 8);
	}
	x64_alu_imm(a, OP_AND, false, T1, (TLB_SIZE - 1) << 4);
	x64_op(a, &(struct x64_op){ .opcode = 0x03,
				    .w = true,
				    .reg = T1,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(tlb) });
}

/* digit: SHIFT_* */
void emit_shift(struct x64 *a, unsigned digit, bool w, unsigned reg, u8 n)
{
	x64_op(a, &(struct x64_op){ .opcode = 0xc1,
				    .w = w,
				    .reg = (u8)digit,
				    .rm = (u8)reg,
				    .has_imm = true,
				    .imm = n });
}

/* op dword gs:[off], imm */
void emit_gs_imm(struct x64 *a, unsigned digit, s32 off, u32 imm)
{
	bool byte = (s32)imm == (s8)imm;

	x64_op(a, &(struct x64_op){ .opcode = byte ? 0x83 : 0x81,
				    .reg = (u8)digit,
				    .mem = true,
				    .gs = true,
				    .disp = off,
				    .has_imm = byte,
				    .imm = (u8)imm });
	if (!byte)
		x64_u32(a, imm);
}

void emit_gs_set32(struct x64 *a, s32 off, u32 imm)
{
	x64_op(a, &(struct x64_op){ .opcode = 0xc7, .mem = true, .gs = true, .disp = off });
	x64_u32(a, imm);
}

void emit_add_quiet(struct x64 *a, unsigned tmp, s32 off, s32 by)
{
	x64_load_gs(a, tmp, off);
	x64_lea(a, tmp, tmp, by);
	x64_store_gs(a, tmp, off);
}

void emit_imm32(struct x64 *a, unsigned reg, u32 imm)
{
	if (reg & 8)
		x64_u8(a, 0x41);
	x64_u8(a, (u8)(0xb8 | (reg & 7)));
	x64_u32(a, imm);
}

void emit_imm64(struct x64 *a, unsigned reg, u64 imm)
{
	x64_u8(a, (u8)(0x48 | (reg & 8 ? 1 : 0)));
	x64_u8(a, (u8)(0xb8 | (reg & 7)));
	x64_u64(a, imm);
}

/* --- flags ------------------------------------------------------------------------------------ */
/* T2 is lost. */
void emit_flags_save(struct x64 *a)
{
	x64_mov_rr(a, T2, RAX);
	x64_flags_store(a);
	x64_op(a, &(struct x64_op){ .opcode = 0x89,
				    .osz = true,
				    .reg = RAX,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(cc) });
	x64_mov_rr(a, RAX, T2);
}

void emit_flags_load(struct x64 *a)
{
	x64_mov_rr(a, T2, RAX);
	x64_op(a, &(struct x64_op){ .map = X64_MAP_0F,
				    .opcode = 0xb7,
				    .reg = RAX,
				    .mem = true,
				    .gs = true,
				    .disp = GS_OFF(cc) });
	x64_flags_load(a);
	x64_mov_rr(a, RAX, T2);
}
