/* alu.h - integer operations done by the host's own instructions, with the host's own flags.
 *
 * alu_X(size, cc, a, b) returns the result zero-extended from size (1, 2, 4 or 8 bytes) and leaves
 * the six arithmetic flags in *cc in the LAHF + SETO form of tcg.h.  An operation that reads flags,
 * keeps some of them or leaves some undefined (SDM vol 2, "Flags Affected") starts from the guest's
 * flags in the host's EFLAGS, so whatever the host does to them is what the guest sees.  With a
 * constant size each call is one switch arm. */
#pragma once

#include "../base.h"

#define ALU_INLINE static inline __attribute__((always_inline))

/* AX = flags <-> EFLAGS.  Adding 0x7f to AL overflows exactly if AL is 1, which restores OF. */
#define ALU_FLAGS_IN "addb $0x7f, %%al\n\tsahf\n\t"
#define ALU_CARRY_IN "btw $8, %%ax\n\t"
#define ALU_FLAGS_OUT "\n\tlahf\n\tseto %%al"

#define ALU_BY_SIZE(arm)                                                                           \
	switch (size) {                                                                            \
	case 1: arm("b"); break;                                                                   \
	case 2: arm("w"); break;                                                                   \
	case 4: arm("k"); break;                                                                   \
	default: arm("q"); break;                                                                  \
	}

/* a = a op b; the flags that were do not matter. */
#define ALU_BINARY(name, ins)                                                                      \
	ALU_INLINE u64 alu_##name(unsigned size, u16 *cc, u64 a, u64 b)                            \
	{                                                                                          \
		u16 f;                                                                             \
		ALU_BY_SIZE(ALU_##name##_ARM)                                                      \
		*cc = f;                                                                           \
		return a;                                                                          \
	}
#define ALU_BINARY_ARM(ins, m)                                                                     \
	__asm__(ins " %" m "[b], %" m "[a]" ALU_FLAGS_OUT                                          \
		: "=&a"(f), [a] "+r"(a) : [b] "r"(b) : "cc")
#define ALU_add_ARM(m) ALU_BINARY_ARM("add", m)
#define ALU_sub_ARM(m) ALU_BINARY_ARM("sub", m)
#define ALU_and_ARM(m) ALU_BINARY_ARM("and", m)
#define ALU_or_ARM(m) ALU_BINARY_ARM("or", m)
#define ALU_xor_ARM(m) ALU_BINARY_ARM("xor", m)
ALU_BINARY(add, "add")
ALU_BINARY(sub, "sub")
ALU_BINARY(and, "and")
ALU_BINARY(or, "or")
ALU_BINARY(xor, "xor")

/* a = a op b, starting from the guest's flags; b in RCX for the shifts' sake. */
#define ALU_FLAGGED(name)                                                                          \
	ALU_INLINE u64 alu_##name(unsigned size, u16 *cc, u64 a, u64 b)                            \
	{                                                                                          \
		u16 f = *cc;                                                                       \
		ALU_BY_SIZE(ALU_##name##_ARM)                                                      \
		*cc = f;                                                                           \
		return a;                                                                          \
	}
#define ALU_FLAGGED_ARM(text)                                                                      \
	__asm__(text ALU_FLAGS_OUT : "+&a"(f), [a] "+r"(a) : [b] "c"(b) : "cc")
#define ALU_adc_ARM(m) ALU_FLAGGED_ARM(ALU_CARRY_IN "adc %" m "[b], %" m "[a]")
#define ALU_sbb_ARM(m) ALU_FLAGGED_ARM(ALU_CARRY_IN "sbb %" m "[b], %" m "[a]")
#define ALU_rol_ARM(m) ALU_FLAGGED_ARM(ALU_FLAGS_IN "rol %%cl, %" m "[a]")
#define ALU_ror_ARM(m) ALU_FLAGGED_ARM(ALU_FLAGS_IN "ror %%cl, %" m "[a]")
#define ALU_rcl_ARM(m) ALU_FLAGGED_ARM(ALU_FLAGS_IN "rcl %%cl, %" m "[a]")
#define ALU_rcr_ARM(m) ALU_FLAGGED_ARM(ALU_FLAGS_IN "rcr %%cl, %" m "[a]")
#define ALU_shl_ARM(m) ALU_FLAGGED_ARM(ALU_FLAGS_IN "shl %%cl, %" m "[a]")
#define ALU_shr_ARM(m) ALU_FLAGGED_ARM(ALU_FLAGS_IN "shr %%cl, %" m "[a]")
#define ALU_sar_ARM(m) ALU_FLAGGED_ARM(ALU_FLAGS_IN "sar %%cl, %" m "[a]")
ALU_FLAGGED(adc)
ALU_FLAGGED(sbb)
ALU_FLAGGED(rol)
ALU_FLAGGED(ror)
ALU_FLAGGED(rcl)
ALU_FLAGGED(rcr)
ALU_FLAGGED(shl)
ALU_FLAGGED(shr)
ALU_FLAGGED(sar)

/* a = op a */
#define ALU_UNARY(name, text)                                                                      \
	ALU_INLINE u64 alu_##name(unsigned size, u16 *cc, u64 a)                                   \
	{                                                                                          \
		u16 f = *cc;                                                                       \
		ALU_BY_SIZE(ALU_##name##_ARM)                                                      \
		*cc = f;                                                                           \
		return a;                                                                          \
	}
#define ALU_UNARY_ARM(text) __asm__(text ALU_FLAGS_OUT : "+&a"(f), [a] "+r"(a) : : "cc")
#define ALU_inc_ARM(m) ALU_UNARY_ARM(ALU_CARRY_IN "inc %" m "[a]")
#define ALU_dec_ARM(m) ALU_UNARY_ARM(ALU_CARRY_IN "dec %" m "[a]")
#define ALU_neg_ARM(m) ALU_UNARY_ARM("neg %" m "[a]")
ALU_UNARY(inc, )
ALU_UNARY(dec, )
ALU_UNARY(neg, )

/* Operations without an 8-bit form; from the guest's flags. */
#define ALU_WIDE_BY_SIZE(ins)                                                                      \
	switch (size) {                                                                            \
	case 2: ALU_WIDE_ARM(ins, "w"); break;                                                     \
	case 4: ALU_WIDE_ARM(ins, "k"); break;                                                     \
	default: ALU_WIDE_ARM(ins, "q"); break;                                                    \
	}
#define ALU_WIDE_ARM(ins, m)                                                                       \
	__asm__(ALU_FLAGS_IN ins " %" m "[b], %" m "[a]" ALU_FLAGS_OUT                             \
		: "+&a"(f), [a] "+r"(a) : [b] "r"(b) : "cc")
#define ALU_WIDE(name, ins)                                                                        \
	ALU_INLINE u64 alu_##name(unsigned size, u16 *cc, u64 a, u64 b)                            \
	{                                                                                          \
		u16 f = *cc;                                                                       \
		ALU_WIDE_BY_SIZE(ins)                                                              \
		*cc = f;                                                                           \
		return a;                                                                          \
	}
ALU_WIDE(bt, "bt")
ALU_WIDE(bts, "bts")
ALU_WIDE(btr, "btr")
ALU_WIDE(btc, "btc")
ALU_WIDE(imul, "imul")
/* a is the destination's old value (BSF and BSR of 0 may keep it), b the source. */
ALU_WIDE(bsf, "bsf")
ALU_WIDE(bsr, "bsr")
ALU_WIDE(tzcnt, "tzcnt")
ALU_WIDE(lzcnt, "lzcnt")
ALU_WIDE(popcnt, "popcnt")

/* ADCX and ADOX: sizes 4 and 8. */
#define ALU_CHAIN(name, ins)                                                                       \
	ALU_INLINE u64 alu_##name(unsigned size, u16 *cc, u64 a, u64 b)                            \
	{                                                                                          \
		u16 f = *cc;                                                                       \
		if (size == 4)                                                                     \
			ALU_WIDE_ARM(ins, "k");                                                    \
		else                                                                               \
			ALU_WIDE_ARM(ins, "q");                                                    \
		*cc = f;                                                                           \
		return a;                                                                          \
	}
ALU_CHAIN(adcx, "adcx")
ALU_CHAIN(adox, "adox")

/* SHLD and SHRD: bits of b are shifted into a. */
#define ALU_DOUBLE_ARM(ins, m)                                                                     \
	__asm__(ALU_FLAGS_IN ins " %%cl, %" m "[b], %" m "[a]" ALU_FLAGS_OUT                       \
		: "+&a"(f), [a] "+r"(a) : [b] "r"(b), "c"(n) : "cc")
#define ALU_DOUBLE(name, ins)                                                                      \
	ALU_INLINE u64 alu_##name(unsigned size, u16 *cc, u64 a, u64 b, u8 n)                      \
	{                                                                                          \
		u16 f = *cc;                                                                       \
		switch (size) {                                                                    \
		case 2: ALU_DOUBLE_ARM(ins, "w"); break;                                           \
		case 4: ALU_DOUBLE_ARM(ins, "k"); break;                                           \
		default: ALU_DOUBLE_ARM(ins, "q"); break;                                          \
		}                                                                                  \
		*cc = f;                                                                           \
		return a;                                                                          \
	}
ALU_DOUBLE(shld, "shld")
ALU_DOUBLE(shrd, "shrd")

/* VEX-encoded: r = op(b, a) in AT&T operand order; sizes 4 and 8. */
#define ALU_VEX3_ARM(ins, m)                                                                       \
	__asm__(ALU_FLAGS_IN ins " %" m "[b], %" m "[a], %" m "[r]" ALU_FLAGS_OUT                  \
		: "+&a"(f), [r] "=&r"(r) : [a] "r"(a), [b] "r"(b) : "cc")
#define ALU_VEX3(name, ins)                                                                        \
	ALU_INLINE u64 alu_##name(unsigned size, u16 *cc, u64 a, u64 b)                            \
	{                                                                                          \
		u16 f = *cc;                                                                       \
		u64 r;                                                                             \
		if (size == 4)                                                                     \
			ALU_VEX3_ARM(ins, "k");                                                    \
		else                                                                               \
			ALU_VEX3_ARM(ins, "q");                                                    \
		*cc = f;                                                                           \
		return r;                                                                          \
	}
ALU_VEX3(andn, "andn")   /* ~a & b */
ALU_VEX3(bextr, "bextr") /* of a, by the control b: AT&T has the control first */
ALU_VEX3(bzhi, "bzhi")

#define ALU_VEX2_ARM(ins, m)                                                                       \
	__asm__(ALU_FLAGS_IN ins " %" m "[a], %" m "[r]" ALU_FLAGS_OUT                             \
		: "+&a"(f), [r] "=&r"(r) : [a] "r"(a) : "cc")
#define ALU_VEX2(name, ins)                                                                        \
	ALU_INLINE u64 alu_##name(unsigned size, u16 *cc, u64 a)                                   \
	{                                                                                          \
		u16 f = *cc;                                                                       \
		u64 r;                                                                             \
		if (size == 4)                                                                     \
			ALU_VEX2_ARM(ins, "k");                                                    \
		else                                                                               \
			ALU_VEX2_ARM(ins, "q");                                                    \
		*cc = f;                                                                           \
		return r;                                                                          \
	}
ALU_VEX2(blsi, "blsi")
ALU_VEX2(blsr, "blsr")
ALU_VEX2(blsmsk, "blsmsk")

/* --- conditions --------------------------------------------------------------------------- */

/* SDM vol 2 appendix B, "Condition Test": cond is the low nibble of the opcode. */
ALU_INLINE bool cc_test(u16 cc, unsigned cond)
{
	enum { CF = 0x100, PF = 0x400, ZF = 0x4000, SF = 0x8000, OF = 1 };
	bool yes;

	switch (cond >> 1) {
	case 0: yes = cc & OF; break;
	case 1: yes = cc & CF; break;
	case 2: yes = cc & ZF; break;
	case 3: yes = cc & (CF | ZF); break;
	case 4: yes = cc & SF; break;
	case 5: yes = cc & PF; break;
	case 6: yes = (cc >> 15 ^ cc) & 1; break;
	default: yes = (cc & ZF) || ((cc >> 15 ^ cc) & 1); break;
	}
	return yes != (cond & 1);
}

ALU_INLINE u64 size_mask(unsigned size)
{
	return size == 8 ? ~0ull : (1ull << size * 8) - 1;
}

ALU_INLINE u64 sign_extend(u64 v, unsigned size)
{
	switch (size) {
	case 1: return (u64)(s8)v;
	case 2: return (u64)(s16)v;
	case 4: return (u64)(s32)v;
	default: return v;
	}
}
