/* x64.c - host assembler.  Encodings: SDM vol 2 chapter 2 "Instruction Format", §2.3.5 "The VEX
 * Prefix". */
#include "x64.h"

enum { REX_W = 8, REX_R = 4, REX_X = 2, REX_B = 1, RSP_BITS = 4, RBP_BITS = 5 };

void x64_u8(struct x64 *a, u8 b)
{
	if (a->p == a->end)
		a->full = true;
	else
		*a->p++ = b;
}

void x64_u32(struct x64 *a, u32 v)
{
	for (unsigned i = 0; i < 4; i++)
		x64_u8(a, (u8)(v >> 8 * i));
}

void x64_u64(struct x64 *a, u64 v)
{
	x64_u32(a, (u32)v);
	x64_u32(a, (u32)(v >> 32));
}

static bool index_high(const struct x64_op *o)
{
	return o->has_index && o->index & 8;
}

static void x64_vex(struct x64 *a, const struct x64_op *o)
{
	x64_u8(a, 0xc4);
	x64_u8(a, (u8)((o->reg & 8 ? 0 : 0x80) | (index_high(o) ? 0 : 0x40) |
		       (o->rm & 8 ? 0 : 0x20) | o->map));
	x64_u8(a, (u8)((o->w ? 0x80 : 0) | (~o->vvvv & 15) << 3 | (o->l ? 4 : 0) | o->pp));
}

static void x64_legacy(struct x64 *a, const struct x64_op *o)
{
	static const u8 pp[] = { 0, 0x66, 0xf3, 0xf2 };
	u8 rex = (u8)((o->w ? REX_W : 0) | (o->reg & 8 ? REX_R : 0) | (index_high(o) ? REX_X : 0) |
		      (o->rm & 8 ? REX_B : 0));

	if (o->osz)
		x64_u8(a, 0x66);
	if (o->pp)
		x64_u8(a, pp[o->pp]);
	if (rex || o->rex)
		x64_u8(a, 0x40 | rex);
	if (o->map != X64_MAP_1)
		x64_u8(a, 0x0f);
	if (o->map == X64_MAP_0F38 || o->map == X64_MAP_0F3A)
		x64_u8(a, o->map == X64_MAP_0F38 ? 0x38 : 0x3a);
}

/* No base, or no base and no index: both need a SIB byte in 64-bit mode, and 32 bits of
 * displacement. */
static void x64_absolute(struct x64 *a, const struct x64_op *o, u8 reg)
{
	x64_u8(a, reg | RSP_BITS);
	x64_u8(a, (u8)(o->has_index ? o->scale << 6 | (o->index & 7) << 3 | RBP_BITS : 0x25));
	x64_u32(a, (u32)o->disp);
}

static void x64_modrm(struct x64 *a, const struct x64_op *o)
{
	u8 reg = (o->reg & 7) << 3, rm = o->rm & 7;
	u8 mod = !o->mem ? 3 : !o->disp && rm != RBP_BITS ? 0 : o->disp == (s8)o->disp ? 1 : 2;

	if (o->mem && o->no_base) {
		x64_absolute(a, o, reg);
		return;
	}
	x64_u8(a, (u8)(mod << 6 | reg | (o->has_index ? RSP_BITS : rm)));
	if (o->has_index)
		x64_u8(a, (u8)(o->scale << 6 | (o->index & 7) << 3 | rm));
	else if (o->mem && rm == RSP_BITS)
		x64_u8(a, 0x24); /* RSP and R12 as a base need a SIB byte */
	if (mod == 1)
		x64_u8(a, (u8)o->disp);
	if (mod == 2)
		x64_u32(a, (u32)o->disp);
}

void x64_op(struct x64 *a, const struct x64_op *o)
{
	struct x64_op field;

	if (o->mem && o->gs) {
		field = *o;
		field.gs = false;
		field.has_index = o->gs_base;
		field.index = o->rm;
		field.rm = RSP_BITS;
		o = &field;
	}
	if (o->vex)
		x64_vex(a, o);
	else
		x64_legacy(a, o);
	x64_u8(a, o->opcode);
	if (!o->no_modrm)
		x64_modrm(a, o);
	if (o->has_imm)
		x64_u8(a, o->imm);
}

void x64_load(struct x64 *a, unsigned dst, unsigned base, s32 disp)
{
	x64_op(a, &(struct x64_op){ .opcode = 0x8b,
				    .w = true,
				    .reg = (u8)dst,
				    .rm = (u8)base,
				    .mem = true,
				    .disp = disp });
}

void x64_load_gs(struct x64 *a, unsigned dst, s32 disp)
{
	x64_op(a, &(struct x64_op){ .opcode = 0x8b,
				    .w = true,
				    .reg = (u8)dst,
				    .mem = true,
				    .gs = true,
				    .disp = disp });
}

void x64_store_gs(struct x64 *a, unsigned src, s32 disp)
{
	x64_op(a, &(struct x64_op){ .opcode = 0x89,
				    .w = true,
				    .reg = (u8)src,
				    .mem = true,
				    .gs = true,
				    .disp = disp });
}

void x64_lea(struct x64 *a, unsigned dst, unsigned base, s32 disp)
{
	x64_op(a, &(struct x64_op){ .opcode = 0x8d,
				    .w = true,
				    .reg = (u8)dst,
				    .rm = (u8)base,
				    .mem = true,
				    .disp = disp });
}

void x64_alu_imm(struct x64 *a, unsigned digit, bool w, unsigned reg, s32 imm)
{
	bool byte = imm == (s8)imm;

	x64_op(a, &(struct x64_op){
			  .opcode = byte ? 0x83 : 0x81, .w = w, .reg = (u8)digit, .rm = (u8)reg });
	if (byte)
		x64_u8(a, (u8)imm);
	else
		x64_u32(a, (u32)imm);
}

void x64_mov_rr(struct x64 *a, unsigned dst, unsigned src)
{
	x64_op(a, &(struct x64_op){ .opcode = 0x89, .w = true, .reg = (u8)src, .rm = (u8)dst });
}

/* ADD AL, 7Fh overflows exactly when AL is 1; SAHF sets the others and leaves OF alone. */
void x64_flags_load(struct x64 *a)
{
	x64_u8(a, 0x04);
	x64_u8(a, 0x7f);
	x64_u8(a, 0x9e);
}

void x64_flags_store(struct x64 *a)
{
	x64_u8(a, 0x9f);                                    /* LAHF */
	x64_op(a, &(struct x64_op){ .map = X64_MAP_0F, .opcode = 0x90 }); /* SETO AL */
}

void x64_ret(struct x64 *a)
{
	x64_u8(a, 0xc3);
}
