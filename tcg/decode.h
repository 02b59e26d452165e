/* decode.h - one decoded x86 instruction, and the table row it came from.
 *
 * decode() turns bytes and a CPU mode into struct insn using the rows of ops.def, the only list of
 * encodings.  It knows no CPU state but the mode.  Interpreter, native stubs, translator, the text
 * disassembler and the coverage report all read struct insn and struct op. */
#pragma once

#include "../vcpu.h"

struct tcg_cpu;
struct insn;

/* Default operand/address size of the code segment: what decides an instruction's meaning. */
enum cpu_mode { MODE_16, MODE_32, MODE_64 };

/* Runs one instruction and returns the next one to run in this block, or NULL to leave the block:
 * then either c->exc holds a fault and s.rip points at the instruction, or s.rip is where to go
 * on. */
typedef const struct insn *(*insn_fn)(struct tcg_cpu *c, const struct insn *in);

/* A driver-class meaning: operands arrive loaded and zero-extended, the result is stored in op0 by
 * the driver if the row says W0.  May set c->exc (then nothing is stored). */
typedef u64 (*drv_fn)(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b);

enum op_class {
	CLS_DRV,    /* exec.drv, operands by the driver */
	CLS_SELF,   /* exec.self does everything */
	/* vector, x87 and other instructions run on the host by a one-instruction stub */
	CLS_NATIVE,
	CLS_UD,     /* always #UD */
};

/* Row flags */
enum {
	F_R0 = 1 << 0,      /* operand 0 is read */
	F_W0 = 1 << 1,      /* operand 0 is written */
	F_LOCKOK = 1 << 2,  /* LOCK allowed when operand 0 is memory */
	/* operand size defaults to 64 in 64-bit mode (and 32 cannot be encoded) */
	F_D64 = 1 << 3,
	F_F64 = 1 << 4,     /* operand size is forced to 64 in 64-bit mode whatever the prefixes */
	F_I64 = 1 << 5,     /* #UD in 64-bit mode */
	F_O64 = 1 << 6,     /* #UD outside 64-bit mode */
	/* ends a block: control transfer, or may change mode, paging, or code */
	F_ENDS = 1 << 7,
	F_PRIV = 1 << 8,    /* #GP(0) unless CPL is 0 */
	/* memory operand must be aligned to its size, else #GP(0) (legacy SSE) */
	F_ALIGN = 1 << 9,
	F_REP = 1 << 10,    /* a string instruction: F3/F2 are repeat prefixes */
	F_W1 = 1 << 11,     /* operand 1 is written too (XCHG, XADD) */
	F_NOMEM = 1 << 12,  /* memory operand is only an address (LEA, INVLPG, prefetch, NOP) */
	F_PROT = 1 << 13,   /* #UD in real and virtual-8086 mode */
};

struct op {
	const char *name;  /* SDM mnemonic, lower case; "a/b/c" by size, see text.c */
	u8 map;            /* enum op_map */
	u8 opcode;         /* x87 maps: 0-7 = ModRM.reg of a memory form, else the ModRM byte */
	u8 cls;            /* enum op_class */
	u8 feature;        /* enum cpu_feature, 0: base */
	u32 flags;         /* F_* */
	/* RFLAGS bits read, defined by, undefined after.  A bit that may also pass through
	 * unchanged (a shift by CL = 0) is in fl_read too. */
	u16 fl_read, fl_write, fl_undef;
	u8 pp;             /* PP_*: which mandatory prefixes select the row */
	u8 ext;            /* EXT_*: ModRM.reg digit, or the whole ModRM byte */
	u8 lw;             /* LW_*: which VEX.L and W select it */
	u8 spec[4];        /* enum op_spec: operands as in SDM vol 2 appendix A.2 */
	union {
		drv_fn drv;
		insn_fn self;
	} exec;
};

enum opd_kind {
	OPD_NONE,
	OPD_REG,   /* general register reg, low `size` bytes */
	OPD_REGH,  /* AH, CH, DH, BH: reg 0-3 */
	OPD_MEM,   /* the memory operand */
	/* in->imm, sign- or zero-extended as the row says (constants 1 and CL: imm/REG) */
	OPD_IMM,
	OPD_REL,   /* in->imm: signed displacement from the next instruction */
	OPD_FAR,   /* in->imm offset, in->imm2 selector */
	OPD_SREG, OPD_CR, OPD_DR,
	OPD_MMX, OPD_VEC, /* size 4, 8, 16 or 32: how much is accessed */
	OPD_ST,    /* x87 register */
	OPD_STR_SRC, OPD_STR_DST, /* DS:rSI (seg override), ES:rDI */
};

struct opd {
	u8 kind : 4, reg : 4;
	u8 size; /* in bytes; 0: none or address only; far pointers: offset + 2 */
};

enum { REG_NONE = 0xff, REG_RIP = 0xfe };
enum { PFX_LOCK = 1, PFX_REP = 2, PFX_REPNE = 4, PFX_OPSIZE = 8, PFX_ADDRSIZE = 16, PFX_REX = 32,
       PFX_VEX = 64, PFX_SEG = 128 };

/* A guest's code is a hundred thousand of these, so they are small: 48 bytes. */
struct insn {
	insn_fn fn;       /* interpreter's handler for this form; set by interp.c */
	const struct op *op;
	u32 aux;          /* native stub, or handler's own */
	u16 pgoff;        /* offset of its first byte in its page: rip = c->code_rip + pgoff */
	u8 mode : 2;      /* enum cpu_mode it was decoded for */
	u8 scale : 2;     /* log2 */
	u8 pp : 2;        /* mandatory prefix: 0 none, 1 66, 2 F3, 3 F2 */
	u8 vexl : 1;      /* VEX.L */
	bool is_far : 1;
	u8 len : 4;       /* 1-15 */
	u8 asize : 4;     /* address size: 2, 4, 8 */
	union {           /* what ends a block has all of the above, and no more */
		struct {
			union {
				s32 disp; /* displacement */
				u16 imm2; /* far selector; the second OPD_IMM (ENTER's level) */
			};
			s32 imm;  /* as many of its low bytes count as the operand has */
		};
		u64 far;          /* is_far: an immediate or absolute offset (moffs) of 64 bits */
	};
	u8 size;          /* operand size: 1, 2, 4, 8; vectors 16, 32 */
	u8 prefixes;      /* PFX_* */
	u8 modrm;         /* 0 if none */
	u8 base, index;   /* of the memory operand; REG_NONE, or base REG_RIP */
	u8 rex : 4;       /* W R X B in bits 3-0, also from VEX (un-inverted) */
	u8 vvvv : 4;      /* VEX register, un-inverted; 0 */
	u8 seg : 3;       /* enum sreg: effective segment of the memory operand */
	u8 nopd : 3;
	struct opd opd[4];
};
enum { INSN_HEAD = offsetof(struct insn, far) };
_Static_assert(sizeof(struct insn) == 48 && INSN_HEAD == 24, "struct insn is small");

static inline u64 insn_imm(const struct insn *in)
{
	return in->is_far ? in->far : (u64)in->imm;
}

static inline u64 insn_disp(const struct insn *in)
{
	return in->is_far ? in->far : (u64)in->disp;
}

enum { DECODE_MORE = 0, DECODE_UD = -1, DECODE_GP = -2 };

/* Decode at most avail bytes (15 are enough).  Length 1-15; DECODE_MORE if the instruction goes on
 * past avail; DECODE_UD if no row matches (in->len counts the bytes looked at, in->op is a CLS_UD
 * row); DECODE_GP if it would be longer than 15 bytes.  in->fn, aux and pgoff are left 0.  A row
 * whose feature the host lacks decodes as DECODE_UD.  A row of class UD (UD2, VMCALL) has a
 * length. */
int decode(struct insn *in, const u8 *bytes, unsigned avail, enum cpu_mode mode);

/* Text as objdump -M intel would print it, for logs and tests.  buf of at least 96 bytes. */
void decode_text(const struct insn *in, u64 rip, char *buf, size_t n);

extern const struct op op_rows[];
extern const unsigned op_rows_n;
