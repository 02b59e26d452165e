/* exec_fpu.c - instructions that move FP state as a whole: FXSAVE and XSAVE family, x87
 * environment, MXCSR and FWAIT.
 *
 * Images are made and read by the host's own instructions in native.area, then corrected and
 * copied: FIP, FDP and FOP in them are the guest's (struct x87_ptr), never the host's, and nothing
 * a guest writes reaches an XRSTOR before it was checked.  Faults come before any change.
 *
 * Sources: SDM vol 1 §8.1.10 (environments), chapter 13 "Managing State Using the XSAVE Feature
 * Set", vol 2 "FXSAVE".  Departure: FIP, FDP and FOP are always saved, also where AMD saves them
 * only while an exception is pending. */
#include "exec.h"
#include "native.h"

enum {
	FXSAVE_BYTES = 512,
	FXSAVE_USED = 416,
	HEADER_BYTES = 64,
	ENV_BYTES = 28,
	X87_REGS_BYTES = 80
};
#define XCOMP_COMPACT (1ull << 63)

static bool in_64(const struct insn *in)
{
	return in->mode == MODE_64;
}

static bool rex_w(const struct insn *in)
{
	return in->rex & 8;
}

/* The operand's address, with all of it known to be accessible. */
static bool area_lin(struct tcg_cpu *c, const struct insn *in, unsigned size, unsigned align,
		     enum access acc, gva_t *lin)
{
	void *host;

	if (!insn_lin(c, in, size, acc, lin))
		return false;
	if (*lin & (align - 1))
		return raise_err(c, EXC_GP, 0);
	return lin_host(c, *lin, size, acc, &host);
}

/* --- x87 pointers in images ------------------------------------------------------------------- */
/* FXSAVE and XSAVE formats: 64-bit offsets with REX.W, else 32-bit ones and selectors. */
static void ptr_to_fxsave(const struct tcg_cpu *c, const struct insn *in, u8 *image)
{
	const struct x87_ptr *p = &c->native->ptr;

	st16(image + 6, p->fop);
	st64(image + 8, rex_w(in) ? p->fip : (u32)p->fip | (u64)p->fcs << 32);
	st64(image + 16, rex_w(in) ? p->fdp : (u32)p->fdp | (u64)p->fds << 32);
}

static void ptr_from_fxsave(struct tcg_cpu *c, const struct insn *in, const u8 *image)
{
	u64 mask = rex_w(in) ? ~0ull : 0xffffffff, fip = ld64(image + 8), fdp = ld64(image + 16);

	c->native->ptr = (struct x87_ptr){
		.fop = ld16(image + 6) & 0x7ff,
		.fip = fip & mask,
		.fdp = fdp & mask,
		.fcs = rex_w(in) ? 0 : (u16)(fip >> 32),
		.fds = rex_w(in) ? 0 : (u16)(fdp >> 32),
	};
}

/* --- FXSAVE, FXRSTOR -------------------------------------------------------------------------- */
/* SDM vol 2 "FXSAVE": #NM for TS, #UD for EM; neither asks for CR4.OSFXSR. */
static bool fxsave_ready(struct tcg_cpu *c)
{
	if (c->v.s.cr0 & CR0_EM)
		return raise(c, EXC_UD);
	if (c->v.s.cr0 & CR0_TS)
		return raise(c, EXC_NM);
	fp_enter(c);
	return true;
}

HANDLER exec_FXSAVE(struct tcg_cpu *c, const struct insn *in)
{
	u8 *image = c->native->area;
	gva_t lin;

	if (!fxsave_ready(c) || !area_lin(c, in, FXSAVE_BYTES, 16, ACC_W, &lin))
		return insn_fault(c, in);
	__asm__ volatile("fxsave64 (%0)" : : "r"(image) : "memory");
	ptr_to_fxsave(c, in, image);
	if (!lin_write_bytes(c, lin, image, in_64(in) ? FXSAVE_USED : FXSAVE_XMM_OFF + 8 * 16))
		return insn_fault(c, in);
	return in + 1;
}

HANDLER exec_FXRSTOR(struct tcg_cpu *c, const struct insn *in)
{
	u8 image[FXSAVE_BYTES] __attribute__((aligned(16)));
	unsigned used = in_64(in) ? FXSAVE_USED : FXSAVE_XMM_OFF + 8 * 16;
	gva_t lin;

	if (!fxsave_ready(c) || !area_lin(c, in, FXSAVE_BYTES, 16, ACC_R, &lin))
		return insn_fault(c, in);
	__asm__ volatile("fxsave64 (%0)" : : "r"(image) : "memory");
	if (!lin_read_bytes(c, lin, image, used))
		return insn_fault(c, in);
	if (ld32(image + FXSAVE_MXCSR_OFF) & ~c->native->mxcsr_mask)
		return insn_raise_err(c, in, EXC_GP, 0);
	fp_enter(c);
	__asm__ volatile("fxrstor64 (%0)" : : "r"(image) : "memory");
	ptr_from_fxsave(c, in, image);
	return in + 1;
}

/* --- XSAVE family ----------------------------------------------------------------------------- */
static bool xsave_ready(struct tcg_cpu *c)
{
	if (!(c->v.s.cr4 & CR4_OSXSAVE))
		return raise(c, EXC_UD);
	if (c->v.s.cr0 & CR0_TS)
		return raise(c, EXC_NM);
	fp_enter(c);
	return true;
}

/* The requested-feature bitmap, SDM vol 1 §13.3. */
static u64 xsave_rfbm(const struct tcg_cpu *c)
{
	const struct cpu_state *s = &c->v.s;

	return s->xcr0 & c->native->mask & ((u64)(u32)s->gpr[RDX] << 32 | (u32)s->gpr[RAX]);
}

/* Bytes [from, to) of native.area to the guest's area. */
static bool xsave_put(struct tcg_cpu *c, gva_t lin, unsigned from, unsigned to)
{
	return lin_write_bytes(c, lin + from, c->native->area + from, to - from);
}

/* The components in which, and MXCSR; eight registers outside 64-bit mode. */
static bool xsave_components(struct tcg_cpu *c, const struct insn *in, gva_t lin, u64 which,
			     bool mxcsr)
{
	unsigned regs = in_64(in) ? 16 : 8;

	if (which & XCOMP_X87 && !(xsave_put(c, lin, 0, FXSAVE_MXCSR_OFF) &&
				   xsave_put(c, lin, FXSAVE_MXCSR_OFF + 8, FXSAVE_XMM_OFF)))
		return false;
	if (mxcsr && !xsave_put(c, lin, FXSAVE_MXCSR_OFF, FXSAVE_MXCSR_OFF + 8))
		return false;
	if (which & XCOMP_SSE && !xsave_put(c, lin, FXSAVE_XMM_OFF, FXSAVE_XMM_OFF + regs * 16))
		return false;
	return !(which & XCOMP_AVX) || xsave_put(c, lin, XSAVE_YMM_OFF, XSAVE_YMM_OFF + regs * 16);
}

enum xsave_form { XSAVE_ALL, XSAVE_IN_USE, XSAVE_COMPACT };

static HANDLER xsave(struct tcg_cpu *c, const struct insn *in, enum xsave_form form)
{
	u8 *image = c->native->area, *header = image + XSAVE_HEADER_OFF;
	u64 rfbm, used, old;
	bool mxcsr;
	gva_t lin;

	if (!xsave_ready(c))
		return insn_fault(c, in);
	rfbm = xsave_rfbm(c);
	if (!area_lin(c, in, rfbm & XCOMP_AVX ? XSAVE_BYTES : XSAVE_YMM_OFF, 64, ACC_W, &lin) ||
	    (form != XSAVE_COMPACT && !lin_load(c, lin + XSAVE_HEADER_OFF, 8, &old)))
		return insn_fault(c, in);
	fp_enter(c);
	fp_save_all(c->native, image);
	ptr_to_fxsave(c, in, image);
	used = ld64(header) & rfbm;
	mxcsr = rfbm & (XCOMP_SSE | XCOMP_AVX);
	if (form == XSAVE_COMPACT) {
		if (rfbm & XCOMP_SSE && ld32(image + FXSAVE_MXCSR_OFF) != 0x1f80)
			used |= XCOMP_SSE; /* SDM vol 1 §13.10: XINUSE[1] minds MXCSR here */
		mxcsr = used & XCOMP_SSE;
		st64(header, used);
		st64(header + 8, rfbm | XCOMP_COMPACT);
	} else {
		st64(header, (old & ~rfbm) | used);
	}
	if (!xsave_components(c, in, lin, form == XSAVE_ALL ? rfbm : used, mxcsr) ||
	    !xsave_put(c, lin, XSAVE_HEADER_OFF,
		       XSAVE_HEADER_OFF + (form == XSAVE_COMPACT ? 16 : 8)))
		return insn_fault(c, in);
	return in + 1;
}

HANDLER exec_XSAVE(struct tcg_cpu *c, const struct insn *in)
{
	return xsave(c, in, XSAVE_ALL);
}

/* Only the init optimization; the modified one depends on hidden state and is optional. */
HANDLER exec_XSAVEOPT(struct tcg_cpu *c, const struct insn *in)
{
	return xsave(c, in, XSAVE_IN_USE);
}

HANDLER exec_XSAVEC(struct tcg_cpu *c, const struct insn *in)
{
	return xsave(c, in, XSAVE_COMPACT);
}

/* SDM vol 2 "XRSTOR", the #GP conditions on the header. */
static bool xrstor_header_ok(const struct tcg_cpu *c, const u8 *header)
{
	u64 bv = ld64(header), comp = ld64(header + 8), allowed = c->v.s.xcr0;
	unsigned zero_from = comp & XCOMP_COMPACT ? 16 : 24;

	if (comp & XCOMP_COMPACT) {
		if (comp & ~XCOMP_COMPACT & ~allowed || bv & ~comp)
			return false;
	} else if (bv & ~allowed || comp || ld64(header + 16)) {
		return false;
	}
	for (unsigned i = zero_from; comp & XCOMP_COMPACT && i < HEADER_BYTES; i++)
		if (header[i])
			return false;
	return true;
}

/* Outside 64-bit mode registers 8-15 keep their values: lay what is loaded over a full image. */
static void xrstor_low_half(struct native *n, const u8 *image, u64 rfbm, u64 bv)
{
	static const unsigned off[] = { FXSAVE_XMM_OFF, XSAVE_YMM_OFF };
	u8 *area = n->area;
	u64 used;

	fp_save_all(n, area);
	used = ld64(area + XSAVE_HEADER_OFF);
	if (rfbm & XCOMP_X87) {
		memcpy(area, image, FXSAVE_MXCSR_OFF);
		memcpy(area + 32, image + 32, FXSAVE_XMM_OFF - 32);
		used = (used & ~(u64)XCOMP_X87) | (bv & XCOMP_X87);
	}
	memcpy(area + FXSAVE_MXCSR_OFF, image + FXSAVE_MXCSR_OFF, 4);
	for (unsigned i = 0; i < 2; i++) {
		u64 bit = XCOMP_SSE << i;

		if (rfbm & bit && bv & bit)
			memcpy(area + off[i], image + off[i], 8 * 16);
		else if (rfbm & bit)
			memset(area + off[i], 0, 8 * 16);
		used |= rfbm & bv & bit;
	}
	st64(area + XSAVE_HEADER_OFF, used);
	fp_load_all(n, area);
}

/* MXCSR after XRSTOR: the standard form loads it with SSE or AVX whatever XSTATE_BV says. */
static u32 xrstor_mxcsr(const u8 *image, u64 rfbm, u64 bv, bool compact)
{
	u32 now;

	if (compact ? rfbm & bv & XCOMP_SSE : rfbm & (XCOMP_SSE | XCOMP_AVX))
		return ld32(image + FXSAVE_MXCSR_OFF);
	if (compact && rfbm & XCOMP_SSE)
		return 0x1f80;
	__asm__ volatile("stmxcsr %0" : "=m"(now));
	return now;
}

HANDLER exec_XRSTOR(struct tcg_cpu *c, const struct insn *in)
{
	u8 image[XSAVE_BYTES] __attribute__((aligned(64))), *header = image + XSAVE_HEADER_OFF;
	u64 rfbm, bv;
	u32 mxcsr;
	gva_t lin;

	if (!xsave_ready(c))
		return insn_fault(c, in);
	rfbm = xsave_rfbm(c);
	if (!area_lin(c, in, rfbm & XCOMP_AVX ? XSAVE_BYTES : XSAVE_YMM_OFF, 64, ACC_R, &lin) ||
	    !lin_read_bytes(c, lin, image, XSAVE_YMM_OFF))
		return insn_fault(c, in);
	if (!xrstor_header_ok(c, header))
		return insn_raise_err(c, in, EXC_GP, 0);
	bv = ld64(header);
	if (rfbm & bv & XCOMP_AVX &&
	    !lin_read_bytes(c, lin + XSAVE_YMM_OFF, image + XSAVE_YMM_OFF, 256))
		return insn_fault(c, in);
	fp_enter(c);
	mxcsr = xrstor_mxcsr(image, rfbm, bv, ld64(header + 8) & XCOMP_COMPACT);
	if (mxcsr & ~c->native->mxcsr_mask)
		return insn_raise_err(c, in, EXC_GP, 0);
	st32(image + FXSAVE_MXCSR_OFF, mxcsr);
	memset(header, 0, HEADER_BYTES);
	st64(header, bv & rfbm);
	if (in_64(in))
		__asm__ volatile("xrstor64 (%0)" : : "r"(image), "a"((u32)rfbm), "d"(0) : "memory");
	else
		xrstor_low_half(c->native, image, rfbm, bv);
	if (rfbm & bv & XCOMP_X87)
		ptr_from_fxsave(c, in, image);
	else if (rfbm & XCOMP_X87)
		c->native->ptr = (struct x87_ptr){ 0 };
	return in + 1;
}

/* --- x87 environment -------------------------------------------------------------------------- */
/* Four layouts, SDM vol 1 figures "Protected Mode x87 FPU State Image in Memory, 32-Bit Format" and
 * the three after it.  Here and on the host: 32-bit protected. */
static bool env_is_real(const struct tcg_cpu *c)
{
	return !(c->v.s.cr0 & CR0_PE) || c->v.s.rflags & FL_VM;
}

static unsigned env_bytes(const struct insn *in)
{
	return in->size == 2 ? ENV_BYTES / 2 : ENV_BYTES;
}

static void env_to_guest(const struct tcg_cpu *c, const struct insn *in, const u8 *host, u8 *out)
{
	const struct x87_ptr *p = &c->native->ptr;
	u32 fip = (u32)p->fip, fdp = (u32)p->fdp;
	bool small = in->size == 2;
	u32 v[7] = { ld16(host), ld16(host + 4), ld16(host + 8), fip, p->fcs, fdp, p->fds };

	if (env_is_real(c)) {
		fip += (u32)p->fcs << 4;
		fdp += (u32)p->fds << 4;
		v[3] = fip & 0xffff;
		v[4] = (small ? fip >> 4 & 0xf000 : fip >> 4 & 0xffff000) | p->fop;
		v[5] = fdp & 0xffff;
		v[6] = small ? fdp >> 4 & 0xf000 : fdp >> 4 & 0xffff000;
	} else if (!small) {
		v[4] |= (u32)p->fop << 16;
	}
	for (unsigned i = 0; i < ARRAY_LEN(v); i++) {
		bool high_ones = i < 3 || (env_is_real(c) ? i == 3 || i == 5 : i == 6);

		if (small)
			st16(out + 2 * i, (u16)v[i]);
		else
			st32(out + 4 * i, high_ones ? v[i] | 0xffff0000 : v[i]);
	}
}

static void env_from_guest(struct tcg_cpu *c, const struct insn *in, const u8 *image, u8 *host)
{
	bool small = in->size == 2;
	u32 v[7];

	for (unsigned i = 0; i < ARRAY_LEN(v); i++)
		v[i] = small ? ld16(image + 2 * i) : ld32(image + 4 * i);
	memset(host, 0, ENV_BYTES);
	for (unsigned i = 0; i < 3; i++)
		st16(host + 4 * i, (u16)v[i]);
	if (env_is_real(c))
		c->native->ptr = (struct x87_ptr){
			.fip = (v[3] & 0xffff) | (v[4] & 0xffff000) << 4,
			.fop = v[4] & 0x7ff,
			.fdp = (v[5] & 0xffff) | (v[6] & 0xffff000) << 4,
		};
	else
		c->native->ptr = (struct x87_ptr){
			.fip = v[3],
			.fcs = (u16)v[4],
			.fop = small ? 0 : v[4] >> 16 & 0x7ff,
			.fdp = v[5],
			.fds = (u16)v[6],
		};
}

HANDLER exec_FNSTENV(struct tcg_cpu *c, const struct insn *in)
{
	u8 host[ENV_BYTES], out[ENV_BYTES];
	gva_t lin;

	if (!fp_ready(c, UNIT_X87) || !area_lin(c, in, env_bytes(in), 1, ACC_W, &lin))
		return insn_fault(c, in);
	__asm__ volatile("fnstenv (%0)" : : "r"(host) : "memory"); /* masks all exceptions, too */
	env_to_guest(c, in, host, out);
	if (!lin_write_bytes(c, lin, out, env_bytes(in)))
		return insn_fault(c, in);
	return in + 1;
}

HANDLER exec_FLDENV(struct tcg_cpu *c, const struct insn *in)
{
	u8 host[ENV_BYTES], image[ENV_BYTES];
	gva_t lin;

	if (!fp_ready(c, UNIT_X87))
		return insn_fault(c, in);
	if (x87_pending())
		return x87_error(c, in);
	if (!area_lin(c, in, env_bytes(in), 1, ACC_R, &lin) ||
	    !lin_read_bytes(c, lin, image, env_bytes(in)))
		return insn_fault(c, in);
	fp_enter(c);
	env_from_guest(c, in, image, host);
	__asm__ volatile("fldenv (%0)" : : "r"(host) : "memory");
	return in + 1;
}

HANDLER exec_FNSAVE(struct tcg_cpu *c, const struct insn *in)
{
	u8 host[ENV_BYTES + X87_REGS_BYTES], out[ENV_BYTES + X87_REGS_BYTES];
	unsigned env = env_bytes(in);
	gva_t lin;

	if (!fp_ready(c, UNIT_X87) || !area_lin(c, in, env + X87_REGS_BYTES, 1, ACC_W, &lin))
		return insn_fault(c, in);
	__asm__ volatile("fnsave (%0)" : : "r"(host) : "memory"); /* and FNINIT */
	env_to_guest(c, in, host, out);
	memcpy(out + env, host + ENV_BYTES, X87_REGS_BYTES);
	c->native->ptr = (struct x87_ptr){ 0 };
	if (!lin_write_bytes(c, lin, out, env + X87_REGS_BYTES))
		return insn_fault(c, in);
	return in + 1;
}

HANDLER exec_FRSTOR(struct tcg_cpu *c, const struct insn *in)
{
	u8 host[ENV_BYTES + X87_REGS_BYTES], image[ENV_BYTES + X87_REGS_BYTES];
	unsigned env = env_bytes(in);
	gva_t lin;

	if (!fp_ready(c, UNIT_X87))
		return insn_fault(c, in);
	if (x87_pending())
		return x87_error(c, in);
	if (!area_lin(c, in, env + X87_REGS_BYTES, 1, ACC_R, &lin) ||
	    !lin_read_bytes(c, lin, image, env + X87_REGS_BYTES))
		return insn_fault(c, in);
	fp_enter(c);
	env_from_guest(c, in, image, host);
	memcpy(host + ENV_BYTES, image + env, X87_REGS_BYTES);
	__asm__ volatile("frstor (%0)" : : "r"(host) : "memory");
	return in + 1;
}

/* --- small ones ------------------------------------------------------------------------------- */
/* FWAIT heeds TS only together with MP, and EM not at all: SDM vol 3 "Device-Not-Available
 * Exception". */
HANDLER exec_FWAIT(struct tcg_cpu *c, const struct insn *in)
{
	u64 mp_ts = CR0_MP | CR0_TS;

	if ((c->v.s.cr0 & mp_ts) == mp_ts)
		return insn_raise(c, in, EXC_NM);
	fp_enter(c);
	return x87_pending() ? x87_error(c, in) : in + 1;
}

static enum fp_unit mxcsr_unit(const struct insn *in)
{
	return in->prefixes & PFX_VEX ? UNIT_AVX : UNIT_SSE;
}

HANDLER exec_LDMXCSR(struct tcg_cpu *c, const struct insn *in)
{
	gva_t lin;
	u64 val;
	u32 mxcsr;

	if (!fp_ready(c, mxcsr_unit(in)) || !insn_lin(c, in, 4, ACC_R, &lin) ||
	    !lin_load(c, lin, 4, &val))
		return insn_fault(c, in);
	mxcsr = (u32)val;
	if (mxcsr & ~c->native->mxcsr_mask)
		return insn_raise_err(c, in, EXC_GP, 0);
	fp_enter(c);
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	return in + 1;
}

HANDLER exec_STMXCSR(struct tcg_cpu *c, const struct insn *in)
{
	gva_t lin;
	u32 mxcsr;

	if (!fp_ready(c, mxcsr_unit(in)) || !insn_lin(c, in, 4, ACC_W, &lin))
		return insn_fault(c, in);
	__asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
	if (!lin_store(c, lin, 4, mxcsr))
		return insn_fault(c, in);
	return in + 1;
}
