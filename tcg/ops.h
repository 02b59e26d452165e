/* ops.h - the vocabulary of ops.def: maps, prefixes, operand letters, features, and the prototypes
 * of every handler that a row names.
 *
 * A row is ROW(map, opcode, pp, ext, lw, name, class, op0, op1, op2, op3, flags, fx, feature);
 * whoever includes ops.def defines ROW for what it wants.  Source: SDM vol 2 "Opcode Map". */
#pragma once

#include "decode.h"

enum op_map {
	MAP_ONE, MAP_0F, MAP_0F38, MAP_0F3A,
	MAP_D8, MAP_D9, MAP_DA, MAP_DB, MAP_DC, MAP_DD, MAP_DE, MAP_DF,
	MAP_V0F, MAP_V0F38, MAP_V0F3A, /* VEX-encoded */
	MAP_NR,
};

/* struct op.pp: bit n set: the row takes effective prefix n (0 none, 1 66, 2 F3, 3 F2; F3 and F2 go
 * before 66, the last of F3 and F2 wins).  Rows that take none and 66 use 66 as operand size. */
enum { PP_NP = 1, PP_66 = 2, PP_F3 = 4, PP_F2 = 8, PP_NF = PP_NP | PP_66, PP_ANY = 15 };

/* struct op.ext: 0-7 is ModRM.reg; with EXT_REG mod must be 3; 0xc0-0xff is the whole byte. */
enum { EXT_0, EXT_1, EXT_2, EXT_3, EXT_4, EXT_5, EXT_6, EXT_7,
       EXT_REG = 0x10, EXT_R5 = EXT_REG | 5, EXT_R6, EXT_R7, EXT___ = 0x80 };
#define EXT_B(byte) byte

/* struct op.lw: bit L and bit 2 + W.  Legacy encodings have L = 0; W is REX.W in 64-bit mode. */
enum { LW_L0 = 1, LW_L1 = 2, LW_LX = 3, LW_W0 = 4, LW_W1 = 8, LW_WX = 12 };

/* Where an operand comes from. */
enum opd_form {
	FORM_NONE,
	FORM_E,      /* ModRM.rm: general register or memory */
	FORM_G,      /* ModRM.reg: general register */
	FORM_R,      /* ModRM.rm: general register, mod = 3 only */
	FORM_RX,     /* the same, mod is not looked at (MOV CR, DR) */
	FORM_M,      /* ModRM.rm: memory, mod < 3 only */
	FORM_VSIB,   /* memory with a vector index */
	FORM_Z,      /* low three bits of the opcode */
	FORM_B,      /* VEX.vvvv: general register */
	FORM_FIX,    /* named general register: sub */
	FORM_FIXH,   /* AH */
	FORM_IMP,    /* the same, not written in the text */
	FORM_IMPH,
	FORM_I,      /* immediate, zero-extended */
	FORM_IS,     /* immediate, sign-extended to the operand size */
	FORM_ONE,    /* constant 1 */
	FORM_J, FORM_A, FORM_O, FORM_X, FORM_Y,
	FORM_S,      /* ModRM.reg: segment register */
	FORM_SFIX,   /* named segment register: sub */
	FORM_C, FORM_D,
	FORM_V, FORM_H, FORM_W, FORM_U, FORM_L, FORM_XMM0,
	FORM_P, FORM_Q, FORM_N,
	FORM_ST0, FORM_STI,
};

/* How large it is: up to 32 literally, else by mode and prefixes. */
enum opd_size {
	SZ_0 = 0, SZ_B = 1, SZ_W = 2, SZ_D = 4, SZ_Q = 8, SZ_T = 10, SZ_DQ = 16, SZ_QQ = 32,
	SZ_LITERAL = 32,
	SZ_V,    /* operand size: 2, 4, 8 */
	SZ_Y,    /* 4, or 8 with REX.W; 66 is not looked at */
	SZ_Z,    /* 2 or 4 */
	SZ_N,    /* 8 in 64-bit mode, else 4 */
	SZ_HV,   /* half the operand size */
	SZ_2V,   /* twice (BOUND) */
	SZ_P,    /* far pointer: operand size + 2 */
	SZ_S,    /* descriptor table register: 6, or 10 in 64-bit mode */
	SZ_X,    /* whole vector: 16, or 32 with VEX.L */
	SZ_HX, SZ_FX, SZ_EX, /* half, a quarter, an eighth of it */
	SZ_DB, SZ_DW,        /* general register 4, memory 1 or 2 */
	SZ_ENV, SZ_SAVE,     /* x87 environment 14 or 28, state 94 or 108 */
	SZ_NR,
};

/* OPERAND(letters, form, size, sub): the letters of SDM vol 2 "Key to Abbreviations" where it has
 * some.  Suffixes beyond it: Ibs sign-extended; Mn, Ms as in enum opd_size. */
#define OP_SPECS(OPERAND)                                                                          \
	OPERAND(__, FORM_NONE, SZ_0, 0)                                                            \
	OPERAND(Eb, FORM_E, SZ_B, 0) OPERAND(Ew, FORM_E, SZ_W, 0) OPERAND(Ed, FORM_E, SZ_D, 0)     \
	OPERAND(Ev, FORM_E, SZ_V, 0) OPERAND(Ey, FORM_E, SZ_Y, 0) OPERAND(Ez, FORM_E, SZ_Z, 0)     \
	OPERAND(Edb, FORM_E, SZ_DB, 0) OPERAND(Edw, FORM_E, SZ_DW, 0)                              \
	OPERAND(Gb, FORM_G, SZ_B, 0) OPERAND(Gw, FORM_G, SZ_W, 0) OPERAND(Gd, FORM_G, SZ_D, 0)     \
	OPERAND(Gv, FORM_G, SZ_V, 0) OPERAND(Gy, FORM_G, SZ_Y, 0) OPERAND(Gz, FORM_G, SZ_Z, 0)     \
	OPERAND(Gn, FORM_G, SZ_N, 0)                                                               \
	OPERAND(Rv, FORM_R, SZ_V, 0) OPERAND(Rd, FORM_R, SZ_D, 0) OPERAND(Ry, FORM_R, SZ_Y, 0)     \
	OPERAND(Rn, FORM_R, SZ_N, 0) OPERAND(Rx, FORM_RX, SZ_N, 0)                                 \
	OPERAND(M, FORM_M, SZ_0, 0) OPERAND(Mb, FORM_M, SZ_B, 0) OPERAND(Mw, FORM_M, SZ_W, 0)      \
	OPERAND(Md, FORM_M, SZ_D, 0) OPERAND(Mq, FORM_M, SZ_Q, 0) OPERAND(Mt, FORM_M, SZ_T, 0)     \
	OPERAND(Mdq, FORM_M, SZ_DQ, 0) OPERAND(Mv, FORM_M, SZ_V, 0) OPERAND(My, FORM_M, SZ_Y, 0)   \
	OPERAND(Mx, FORM_M, SZ_X, 0) OPERAND(Mp, FORM_M, SZ_P, 0) OPERAND(Ms, FORM_M, SZ_S, 0)     \
	OPERAND(Ma, FORM_M, SZ_2V, 0) OPERAND(Menv, FORM_M, SZ_ENV, 0)                             \
	OPERAND(Msave, FORM_M, SZ_SAVE, 0)                                                         \
	OPERAND(VMd, FORM_VSIB, SZ_D, 0) OPERAND(VMq, FORM_VSIB, SZ_Q, 0)                          \
	OPERAND(Zb, FORM_Z, SZ_B, 0) OPERAND(Zv, FORM_Z, SZ_V, 0) OPERAND(By, FORM_B, SZ_Y, 0)     \
	OPERAND(AL, FORM_FIX, SZ_B, RAX) OPERAND(CL, FORM_FIX, SZ_B, RCX)                          \
	OPERAND(AX, FORM_FIX, SZ_W, RAX) OPERAND(DX, FORM_FIX, SZ_W, RDX)                          \
	OPERAND(rAX, FORM_FIX, SZ_V, RAX) OPERAND(zAX, FORM_FIX, SZ_Z, RAX)                        \
	OPERAND(iAL, FORM_IMP, SZ_B, RAX) OPERAND(iAH, FORM_IMPH, SZ_B, 0)                         \
	OPERAND(iAX, FORM_IMP, SZ_V, RAX) OPERAND(iHX, FORM_IMP, SZ_HV, RAX)                       \
	OPERAND(iDX, FORM_IMP, SZ_V, RDX)                                                          \
	OPERAND(Ib, FORM_I, SZ_B, 0) OPERAND(Iw, FORM_I, SZ_W, 0) OPERAND(Iv, FORM_I, SZ_V, 0)     \
	OPERAND(Ibs, FORM_IS, SZ_B, 0) OPERAND(Iz, FORM_IS, SZ_Z, 0)                               \
	OPERAND(One, FORM_ONE, SZ_B, 0) OPERAND(Jb, FORM_J, SZ_B, 0) OPERAND(Jz, FORM_J, SZ_Z, 0)  \
	OPERAND(Ap, FORM_A, SZ_P, 0)                                                               \
	OPERAND(Ob, FORM_O, SZ_B, 0) OPERAND(Ov, FORM_O, SZ_V, 0)                                  \
	OPERAND(Xb, FORM_X, SZ_B, 0) OPERAND(Xv, FORM_X, SZ_V, 0) OPERAND(Xz, FORM_X, SZ_Z, 0)     \
	OPERAND(Yb, FORM_Y, SZ_B, 0) OPERAND(Yv, FORM_Y, SZ_V, 0) OPERAND(Yz, FORM_Y, SZ_Z, 0)     \
	OPERAND(Sw, FORM_S, SZ_W, 0)                                                               \
	OPERAND(ES, FORM_SFIX, SZ_W, SEG_ES) OPERAND(CS, FORM_SFIX, SZ_W, SEG_CS)                  \
	OPERAND(SS, FORM_SFIX, SZ_W, SEG_SS) OPERAND(DS, FORM_SFIX, SZ_W, SEG_DS)                  \
	OPERAND(FS, FORM_SFIX, SZ_W, SEG_FS) OPERAND(GS, FORM_SFIX, SZ_W, SEG_GS)                  \
	OPERAND(Cn, FORM_C, SZ_N, 0) OPERAND(Dn, FORM_D, SZ_N, 0)                                  \
	OPERAND(Vx, FORM_V, SZ_X, 0) OPERAND(Vdq, FORM_V, SZ_DQ, 0) OPERAND(Vqq, FORM_V, SZ_QQ, 0) \
	OPERAND(Vq, FORM_V, SZ_Q, 0) OPERAND(Vd, FORM_V, SZ_D, 0) OPERAND(Vhx, FORM_V, SZ_HX, 0)   \
	OPERAND(Hx, FORM_H, SZ_X, 0) OPERAND(Hdq, FORM_H, SZ_DQ, 0) OPERAND(Hqq, FORM_H, SZ_QQ, 0) \
	OPERAND(Hq, FORM_H, SZ_Q, 0) OPERAND(Hd, FORM_H, SZ_D, 0) OPERAND(Hhx, FORM_H, SZ_HX, 0)   \
	OPERAND(Wx, FORM_W, SZ_X, 0) OPERAND(Wdq, FORM_W, SZ_DQ, 0) OPERAND(Wqq, FORM_W, SZ_QQ, 0) \
	OPERAND(Wq, FORM_W, SZ_Q, 0) OPERAND(Wd, FORM_W, SZ_D, 0) OPERAND(Ww, FORM_W, SZ_W, 0)     \
	OPERAND(Wb, FORM_W, SZ_B, 0) OPERAND(Whx, FORM_W, SZ_HX, 0)                                \
	OPERAND(Wfx, FORM_W, SZ_FX, 0) OPERAND(Wex, FORM_W, SZ_EX, 0)                              \
	OPERAND(Ux, FORM_U, SZ_X, 0) OPERAND(Udq, FORM_U, SZ_DQ, 0) OPERAND(Uq, FORM_U, SZ_Q, 0)   \
	OPERAND(Ud, FORM_U, SZ_D, 0)                                                               \
	OPERAND(Lx, FORM_L, SZ_X, 0) OPERAND(XMM0, FORM_XMM0, SZ_DQ, 0)                            \
	OPERAND(Pq, FORM_P, SZ_Q, 0) OPERAND(Qq, FORM_Q, SZ_Q, 0) OPERAND(Qd, FORM_Q, SZ_D, 0)     \
	OPERAND(Nq, FORM_N, SZ_Q, 0)                                                               \
	OPERAND(ST, FORM_ST0, SZ_T, 0) OPERAND(STi, FORM_STI, SZ_T, 0)

enum op_spec {
#define OPERAND(letters, form, size, sub) OT_##letters,
	OP_SPECS(OPERAND)
#undef OPERAND
	OT_NR
};

/* FEATURE(name, CPUID leaf, subleaf, register 0-3 = EAX-EDX, bit): a row needs its feature in the
 * host, since handlers and stubs use the host's own instruction. */
#define CPU_FEATURES(FEATURE)                                                                      \
	FEATURE(FPU, 1, 0, 3, 0) FEATURE(TSC, 1, 0, 3, 4) FEATURE(MSR, 1, 0, 3, 5)                 \
	FEATURE(CX8, 1, 0, 3, 8) FEATURE(SEP, 1, 0, 3, 11) FEATURE(CMOV, 1, 0, 3, 15)              \
	FEATURE(CLFSH, 1, 0, 3, 19) FEATURE(MMX, 1, 0, 3, 23) FEATURE(FXSR, 1, 0, 3, 24)           \
	FEATURE(SSE, 1, 0, 3, 25) FEATURE(SSE2, 1, 0, 3, 26)                                       \
	FEATURE(SSE3, 1, 0, 2, 0) FEATURE(PCLMUL, 1, 0, 2, 1) FEATURE(SSSE3, 1, 0, 2, 9)           \
	FEATURE(FMA, 1, 0, 2, 12) FEATURE(CX16, 1, 0, 2, 13) FEATURE(SSE41, 1, 0, 2, 19)           \
	FEATURE(SSE42, 1, 0, 2, 20) FEATURE(MOVBE, 1, 0, 2, 22) FEATURE(POPCNT, 1, 0, 2, 23)       \
	FEATURE(AES, 1, 0, 2, 25) FEATURE(XSAVE, 1, 0, 2, 26) FEATURE(AVX, 1, 0, 2, 28)            \
	FEATURE(F16C, 1, 0, 2, 29) FEATURE(RDRAND, 1, 0, 2, 30)                                    \
	FEATURE(FSGSBASE, 7, 0, 1, 0) FEATURE(BMI1, 7, 0, 1, 3) FEATURE(AVX2, 7, 0, 1, 5)          \
	FEATURE(BMI2, 7, 0, 1, 8) FEATURE(RDSEED, 7, 0, 1, 18) FEATURE(ADX, 7, 0, 1, 19)           \
	FEATURE(CLFLUSHOPT, 7, 0, 1, 23) FEATURE(CLWB, 7, 0, 1, 24) FEATURE(SHA, 7, 0, 1, 29)      \
	FEATURE(GFNI, 7, 0, 2, 8) FEATURE(VAES, 7, 0, 2, 9) FEATURE(VPCLMUL, 7, 0, 2, 10)          \
	FEATURE(MOVDIRI, 7, 0, 2, 27)                                  \
	FEATURE(XSAVEOPT, 0xd, 1, 0, 0) FEATURE(XSAVEC, 0xd, 1, 0, 1)                              \
	FEATURE(LZCNT, 0x80000001, 0, 2, 5)

enum cpu_feature {
	FEAT_BASE,
#define FEATURE(name, leaf, subleaf, reg, bit) FEAT_##name,
	CPU_FEATURES(FEATURE)
#undef FEATURE
	FEAT_NR
};

/* The handlers: defined in exec_*.c, named by the rows. */
#define DECLARE_DRV(x) u64 exec_##x(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b);
#define DECLARE_SELF(x) const struct insn *exec_##x(struct tcg_cpu *c, const struct insn *in);
#define DECLARE_NATIVE
#define DECLARE_UD
#define ROW(map, opcode, pp, ext, lw, name, cls, op0, op1, op2, op3, flags, fx, feature)           \
	DECLARE_##cls
#include "ops.def"
#undef ROW
#undef DECLARE_DRV
#undef DECLARE_SELF
#undef DECLARE_NATIVE
#undef DECLARE_UD

/* Form and size of every operand letter, by enum op_spec. */
struct opd_spec {
	u8 form, size, sub;
};
extern const struct opd_spec opd_specs[OT_NR];

/* Does the host have what the row needs?  If not, the row is never found. */
bool op_available(const struct op *op);
