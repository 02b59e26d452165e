/* x64.h - host assembler: a byte sink and the few primitives that generated code is made of. */
#pragma once

#include "../base.h"

struct x64 {
	u8 *p, *end;
	bool full; /* something did not fit; what was written is useless */
	bool bmi2; /* the host has it */
};

enum x64_map { X64_MAP_1, X64_MAP_0F, X64_MAP_0F38, X64_MAP_0F3A };

/* One instruction by its fields.  Register numbers 0-15; the register file is the opcode's
 * business. */
struct x64_op {
	u8 map, opcode;
	u8 pp;     /* 0 none, 1 66, 2 F3, 3 F2 */
	bool vex, w, l;
	bool osz;  /* an operand-size prefix beside pp F2 or F3 (CRC32) */
	u8 reg;    /* ModRM.reg: a register or the opcode's extension */
	u8 rm;     /* ModRM.rm: a register, or the base register when mem */
	u8 vvvv;
	bool mem;  /* [rm + disp] */
	s32 disp;
	bool gs;   /* with mem: [RSP + disp], or [RSP + rm + disp] with gs_base */
	bool gs_base;
	bool has_index, no_base; /* with mem: [rm + index << scale + disp], rm or not */
	u8 index, scale;
	bool rex;  /* a REX prefix even if empty: SPL to DIL instead of AH to BH */
	bool no_modrm; /* the opcode is all there is */
	bool has_imm;
	u8 imm;
};

void x64_u8(struct x64 *a, u8 b);
void x64_u32(struct x64 *a, u32 v);
void x64_u64(struct x64 *a, u64 v);
void x64_op(struct x64 *a, const struct x64_op *o);

/* [r + disp], for x64_op's mem forms; the other operand is reg. */
void x64_load(struct x64 *a, unsigned dst, unsigned base, s32 disp);   /* 64 bits */
void x64_load_gs(struct x64 *a, unsigned dst, s32 disp);
void x64_store_gs(struct x64 *a, unsigned src, s32 disp);
void x64_lea(struct x64 *a, unsigned dst, unsigned base, s32 disp);
/* ADD, OR, ADC, SBB, AND, SUB, XOR, CMP: digits 0-7. */
void x64_alu_imm(struct x64 *a, unsigned digit, bool w, unsigned reg, s32 imm);

void x64_mov_rr(struct x64 *a, unsigned dst, unsigned src); /* 64 bits */
void x64_flags_load(struct x64 *a);  /* EFLAGS from AX in tcg_cpu.cc's form; AL is lost */
void x64_flags_store(struct x64 *a); /* and to it */
void x64_ret(struct x64 *a);
