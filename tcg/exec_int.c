/* exec_int.c - integer instructions: arithmetic, logic, shifts, bits, moves, BCD.
 *
 * The u64 exec_X(c, in, a, b) are meanings for the driver: operands arrive zero-extended, a
 * being operand 0 if the row reads it, else operand 1; the driver stores the result.  Flags:
 * alu.h.  Source: SDM vol 2, the instruction pages. */
#include "exec.h"

/* --- two operands, all sizes -------------------------------------------------------------- */
#define EXEC_BINARY(NAME, name)                                                 \
	u64 exec_##NAME(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b) \
	{                                                                       \
		return alu_##name(in->size, &c->cc, a, b);                      \
	}
EXEC_BINARY(ADD, add)
EXEC_BINARY(OR, or)
EXEC_BINARY(ADC, adc)
EXEC_BINARY(SBB, sbb)
EXEC_BINARY(AND, and)
EXEC_BINARY(SUB, sub)
EXEC_BINARY(XOR, xor)
EXEC_BINARY(CMP, sub)
EXEC_BINARY(TEST, and)
EXEC_BINARY(ROL, rol)
EXEC_BINARY(ROR, ror)
EXEC_BINARY(RCL, rcl)
EXEC_BINARY(RCR, rcr)
EXEC_BINARY(SHL, shl)
EXEC_BINARY(SHR, shr)
EXEC_BINARY(SAR, sar)
EXEC_BINARY(IMUL, imul)
EXEC_BINARY(BT, bt)
EXEC_BINARY(BTS, bts)
EXEC_BINARY(BTR, btr)
EXEC_BINARY(BTC, btc)
EXEC_BINARY(BSF, bsf)
EXEC_BINARY(BSR, bsr)
EXEC_BINARY(ADCX, adcx)
EXEC_BINARY(ADOX, adox)
EXEC_BINARY(ANDN, andn)
EXEC_BINARY(BEXTR, bextr)
EXEC_BINARY(BZHI, bzhi)

/* One source; the row does not read the destination. */
#define EXEC_COUNT(NAME, name)                                                  \
	u64 exec_##NAME(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b) \
	{                                                                       \
		return alu_##name(in->size, &c->cc, 0, a);                      \
	}
EXEC_COUNT(TZCNT, tzcnt)
EXEC_COUNT(LZCNT, lzcnt)
EXEC_COUNT(POPCNT, popcnt)

#define EXEC_UNARY(NAME, name)                                                  \
	u64 exec_##NAME(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b) \
	{                                                                       \
		return alu_##name(in->size, &c->cc, a);                         \
	}
EXEC_UNARY(INC, inc)
EXEC_UNARY(DEC, dec)
EXEC_UNARY(NEG, neg)
EXEC_UNARY(BLSI, blsi)
EXEC_UNARY(BLSR, blsr)
EXEC_UNARY(BLSMSK, blsmsk)

u64 exec_NOT(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return ~a;
}

/* The count is the third operand: an immediate, or CL. */
static u8 double_count(const struct tcg_cpu *c, const struct insn *in)
{
	return in->opd[2].kind == OPD_IMM ? (u8)in->imm : (u8)c->v.s.gpr[RCX];
}

u64 exec_SHLD(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return alu_shld(in->size, &c->cc, a, b, double_count(c, in));
}

u64 exec_SHRD(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return alu_shrd(in->size, &c->cc, a, b, double_count(c, in));
}

/* BSF and BSR of 0 leave the destination as the host leaves it, all 64 bits of it. */
HANDLER exec_bit_scan(struct tcg_cpu *c, const struct insn *in)
{
	unsigned reg = in->opd[0].reg;
	u64 src, r;

	if (!opd_load(c, in, 1, &src))
		return insn_fault(c, in);
	r = in->op->exec.drv(c, in, c->v.s.gpr[reg], src);
	c->v.s.gpr[reg] = r;
	return in + 1;
}

/* --- BMI without flags -------------------------------------------------------------------- */
#define EXEC_BMI2(NAME, text32, text64)                                         \
	u64 exec_##NAME(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b) \
	{                                                                       \
		u64 r;                                                          \
                                                                                \
		if (in->size == 4)                                              \
			__asm__(text32 : [r] "=r"(r) : [a] "r"(a), [b] "r"(b)); \
		else                                                            \
			__asm__(text64 : [r] "=r"(r) : [a] "r"(a), [b] "r"(b)); \
		return r;                                                       \
	}
EXEC_BMI2(PDEP, "pdep %k[b], %k[a], %k[r]", "pdep %[b], %[a], %[r]")
EXEC_BMI2(PEXT, "pext %k[b], %k[a], %k[r]", "pext %[b], %[a], %[r]")
EXEC_BMI2(SHLX, "shlx %k[b], %k[a], %k[r]", "shlx %[b], %[a], %[r]")
EXEC_BMI2(SHRX, "shrx %k[b], %k[a], %k[r]", "shrx %[b], %[a], %[r]")
EXEC_BMI2(SARX, "sarx %k[b], %k[a], %k[r]", "sarx %[b], %[a], %[r]")

u64 exec_RORX(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	unsigned bits = in->size * 8, n = b & (bits - 1);

	return n ? (a >> n | a << (bits - n)) & size_mask(in->size) : a;
}

HANDLER exec_MULX(struct tcg_cpu *c, const struct insn *in)
{
	u64 src, lo, hi, d = reg_get(c, RDX, in->size);

	if (!opd_load(c, in, 2, &src))
		return insn_fault(c, in);
	if (in->size == 4) {
		lo = (u32)(d * src);
		hi = d * src >> 32;
	} else {
		u128 p = (u128)d * src;

		lo = (u64)p;
		hi = (u64)(p >> 64);
	}
	reg_set(c, in->opd[1].reg, in->size, lo);
	reg_set(c, in->opd[0].reg, in->size, hi); /* last: wins if both are the same */
	return in + 1;
}

u64 exec_CRC32(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	switch (in->opd[1].size) {
	case 1: __asm__("crc32b %b1, %k0" : "+r"(a) : "r"(b)); break;
	case 2: __asm__("crc32w %w1, %k0" : "+r"(a) : "r"(b)); break;
	case 4: __asm__("crc32l %k1, %k0" : "+r"(a) : "r"(b)); break;
	default: __asm__("crc32q %1, %0" : "+r"(a) : "r"(b)); break;
	}
	return a;
}

/* --- moves -------------------------------------------------------------------------------- */
u64 exec_MOV(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return a;
}

u64 exec_MOVZX(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return a;
}

u64 exec_LEA(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return a;
}

u64 exec_MOVSX(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return sign_extend(a, in->opd[1].size);
}

u64 exec_MOVSXD(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return sign_extend(a, in->opd[1].size);
}

u64 exec_CBW(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return sign_extend(a, in->opd[1].size);
}

u64 exec_CWD(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return a >> (in->opd[1].size * 8 - 1) & 1 ? ~0ull : 0;
}

u64 exec_MOVBE(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	switch (in->size) {
	case 2: return __builtin_bswap16((u16)a);
	case 4: return __builtin_bswap32((u32)a);
	default: return __builtin_bswap64(a);
	}
}

u64 exec_BSWAP(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	if (in->size == 2) { /* undefined: what the host makes of it, in EAX */
		__asm__(".byte 0x66, 0x0f, 0xc8" : "+a"(a));
		return a;
	}
	return in->size == 4 ? __builtin_bswap32((u32)a) : __builtin_bswap64(a);
}

u64 exec_SETcc(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return cc_test(c->cc, in->op->opcode & 15);
}

u64 exec_CMOVcc(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return cc_test(c->cc, in->op->opcode & 15) ? b : a;
}

/* --- flags as operands -------------------------------------------------------------------- */
enum { CC_CF = 0x100, CC_FIXED = 0x200, CC_AH = 0xd500 };

u64 exec_SAHF(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	c->cc = (u16)((c->cc & 1) | CC_FIXED | (a << 8 & CC_AH));
	return 0;
}

u64 exec_LAHF(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return c->cc >> 8;
}

u64 exec_CLC(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	c->cc &= (u16)~CC_CF;
	return 0;
}

u64 exec_STC(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	c->cc |= CC_CF;
	return 0;
}

u64 exec_CMC(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	c->cc ^= CC_CF;
	return 0;
}

u64 exec_SALC(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return c->cc & CC_CF ? 0xff : 0;
}

/* --- multiplication and division ---------------------------------------------------------- */
/* rDX:rAX, or AX for bytes. */
static void wide_set(struct tcg_cpu *c, unsigned size, u64 lo, u64 hi)
{
	if (size == 1) {
		reg_set(c, RAX, 2, (lo & 0xff) | hi << 8);
		return;
	}
	reg_set(c, RAX, size, lo);
	reg_set(c, RDX, size, hi);
}

/* Host flags <- f, multiply or divide RDX:RAX, f <- host flags.  AX is an operand, so the flags
 * pass through CX. */
#define WIDE_ARM(ins, m)                                                                          \
	__asm__("xchg %%rcx, %%rax\n\t" ALU_FLAGS_IN "xchg %%rcx, %%rax\n\t" ins " %" m "[b]\n\t" \
		"xchg %%rcx, %%rax" ALU_FLAGS_OUT "\n\txchg %%rcx, %%rax"                         \
		: "+a"(lo), "+d"(hi), "+c"(f)                                                     \
		: [b] "r"(b)                                                                      \
		: "cc")
/* The byte forms live in AX alone. */
#define WIDE_OP(name, ins)                                                 \
	static void wide_##name(struct tcg_cpu *c, unsigned size, u64 b)   \
	{                                                                  \
		u64 lo = c->v.s.gpr[RAX], hi = c->v.s.gpr[RDX], f = c->cc; \
                                                                           \
		switch (size) {                                            \
		case 1: WIDE_ARM(ins, "b"); break;                         \
		case 2: WIDE_ARM(ins, "w"); break;                         \
		case 4: WIDE_ARM(ins, "k"); break;                         \
		default: WIDE_ARM(ins, "q"); break;                        \
		}                                                          \
		c->cc = (u16)f;                                            \
		if (size == 1)                                             \
			wide_set(c, 1, lo, lo >> 8);                       \
		else                                                       \
			wide_set(c, size, lo, hi);                         \
	}
WIDE_OP(mul, "mul")
WIDE_OP(imul, "imul")
WIDE_OP(div, "div")
WIDE_OP(idiv, "idiv")

HANDLER exec_MUL(struct tcg_cpu *c, const struct insn *in)
{
	u64 b;

	if (!opd_load(c, in, 0, &b))
		return insn_fault(c, in);
	wide_mul(c, in->size, b);
	return in + 1;
}

HANDLER exec_IMUL1(struct tcg_cpu *c, const struct insn *in)
{
	u64 b;

	if (!opd_load(c, in, 0, &b))
		return insn_fault(c, in);
	wide_imul(c, in->size, b);
	return in + 1;
}

/* The upper half of the dividend, or AH. */
static u64 dividend_high(const struct tcg_cpu *c, unsigned size)
{
	return size == 1 ? c->v.s.gpr[RAX] >> 8 & 0xff : reg_get(c, RDX, size);
}

HANDLER exec_DIV(struct tcg_cpu *c, const struct insn *in)
{
	u64 b;

	if (!opd_load(c, in, 0, &b))
		return insn_fault(c, in);
	if (dividend_high(c, in->size) >= b) /* the quotient does not fit, or b is 0 */
		return insn_raise(c, in, EXC_DE);
	wide_div(c, in->size, b);
	return in + 1;
}

/* Does hi:lo / b fit size bytes, all signed?  Magnitudes: |quotient| < 2^(bits-1), or equal to
 * it if negative. */
static bool idiv_fits(unsigned size, u64 hi, u64 lo, u64 b)
{
	u64 top = 1ull << (size * 8 - 1), mask = size_mask(size);
	bool neg = hi & top, neg_b = b & top;
	u128 n = size == 8 ? (u128)hi << 64 | lo : (u128)(hi << size * 8 | lo);
	u64 q_max = neg == neg_b ? top - 1 : top;
	u128 n_mask = size == 8 ? ~(u128)0 : ((u128)1 << size * 16) - 1;

	if (!b)
		return false;
	if (neg)
		n = -n & n_mask;
	if (neg_b)
		b = -b & mask;
	/* q <= q_max exactly if n < (q_max + 1) * b */
	return n < ((u128)q_max + 1) * b;
}

HANDLER exec_IDIV(struct tcg_cpu *c, const struct insn *in)
{
	u64 b;

	if (!opd_load(c, in, 0, &b))
		return insn_fault(c, in);
	if (!idiv_fits(in->size, dividend_high(c, in->size), reg_get(c, RAX, in->size), b))
		return insn_raise(c, in, EXC_DE);
	wide_idiv(c, in->size, b);
	return in + 1;
}

/* --- BCD: outside 64-bit mode ------------------------------------------------------------- */
/* DAA and DAS, SDM's own steps; b is 6 or -6.  The result's SF, ZF, PF come from a host TEST. */
static HANDLER decimal_adjust(struct tcg_cpu *c, const struct insn *in, int sign)
{
	u8 al = (u8)c->v.s.gpr[RAX], r = al;
	bool cf = c->cc & CC_CF, af = c->cc & FL_AF << 8;
	bool low = (al & 15) > 9 || af, high = al > 0x99 || cf;

	if (low)
		r = (u8)(r + 6 * sign);
	if (high)
		r = (u8)(r + 0x60 * sign);
	if (sign < 0) /* the borrow of the low step counts as well */
		cf = high || (low && al < 6);
	else
		cf = high;
	reg_set(c, RAX, 1, r);
	alu_and(1, &c->cc, r, r);
	c->cc = (u16)(c->cc | (cf ? CC_CF : 0) | (low ? FL_AF << 8 : 0));
	return in + 1;
}

HANDLER exec_DAA(struct tcg_cpu *c, const struct insn *in)
{
	return decimal_adjust(c, in, 1);
}

HANDLER exec_DAS(struct tcg_cpu *c, const struct insn *in)
{
	return decimal_adjust(c, in, -1);
}

static HANDLER ascii_adjust(struct tcg_cpu *c, const struct insn *in, int sign)
{
	u16 ax = (u16)c->v.s.gpr[RAX];
	bool adjust = (ax & 15) > 9 || c->cc & FL_AF << 8;

	if (adjust)
		ax = (u16)(ax + 0x106 * sign);
	alu_and(1, &c->cc, (u8)ax, (u8)ax); /* SF, ZF, PF: undefined */
	c->cc = (u16)(c->cc | (adjust ? CC_CF | FL_AF << 8 : 0));
	reg_set(c, RAX, 2, ax & 0xff0f);
	return in + 1;
}

HANDLER exec_AAA(struct tcg_cpu *c, const struct insn *in)
{
	return ascii_adjust(c, in, 1);
}

HANDLER exec_AAS(struct tcg_cpu *c, const struct insn *in)
{
	return ascii_adjust(c, in, -1);
}

HANDLER exec_AAM(struct tcg_cpu *c, const struct insn *in)
{
	u8 al = (u8)c->v.s.gpr[RAX], base = (u8)in->imm;

	if (!base)
		return insn_raise(c, in, EXC_DE);
	reg_set(c, RAX, 2, (u64)(al / base) << 8 | al % base);
	alu_and(1, &c->cc, al % base, al % base);
	return in + 1;
}

HANDLER exec_AAD(struct tcg_cpu *c, const struct insn *in)
{
	u64 ax = c->v.s.gpr[RAX];
	u8 al = (u8)alu_add(1, &c->cc, ax & 0xff, (u8)((ax >> 8 & 0xff) * (u8)in->imm));

	reg_set(c, RAX, 2, al);
	return in + 1;
}
