/* native.c - x87, MMX, SSE and AVX instructions run on the host's own units.
 *
 * Owns the moves of the guest's FP state between cpu_state.xsave and the host's registers, and the
 * stubs: each is one instruction, encoded anew from its decoded form, never copied.  Vector, x87
 * and MMX registers are the guest's own; a general register becomes RAX (written) or RSI (read); a
 * memory operand becomes [RDI].  What a stub does to MXCSR, FSW and the destination is the host's
 * doing, and so is exactly what hardware does, traps included: signal.c turns them back into guest
 * exceptions.
 *
 * Runs on the vCPU's own thread.  Sources: SDM vol 1 chapters 8-14, vol 2 §2.3 "Intel AVX", vol 3
 * "Device-Not-Available Exception", "x87 FPU Floating-Point Error". */
#include "native.h"

#include <cpuid.h>
#include <stdlib.h>

#include "exec.h"

/* --- FP state --------------------------------------------------------------------------------- */
/* What the ABI asks for on entry to a C function: x87 empty, default control words, no upper
 * halves.  Cheaper than an XRSTOR of everything; what else the registers hold does not matter. */
static void fp_clean(const struct native *n)
{
	const u32 mxcsr = 0x1f80;

	__asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
	if (n->mask & XCOMP_AVX)
		__asm__ volatile("vzeroupper");
}

void fp_save_all(struct native *n, void *image)
{
	/* XSAVE keeps what it does not write of the header; XRSTOR would object to most of that. */
	memset((u8 *)image + XSAVE_HEADER_OFF, 0, 64);
	if (n->xsave) {
		__asm__ volatile("xsave64 (%0)"
				 :
				 : "r"(image), "a"((u32)n->mask), "d"(0)
				 : "memory");
	} else {
		__asm__ volatile("fxsave64 (%0)" : : "r"(image) : "memory");
		st64((u8 *)image + XSAVE_HEADER_OFF, XCOMP_X87 | XCOMP_SSE);
	}
}

void fp_load_all(struct native *n, const void *image)
{
	if (n->xsave)
		__asm__ volatile("xrstor64 (%0)"
				 :
				 : "r"(image), "a"((u32)n->mask), "d"(0)
				 : "memory");
	else
		__asm__ volatile("fxrstor64 (%0)" : : "r"(image) : "memory");
}

/* s.xsave may come from a snapshot or another engine: nothing in it may make XRSTOR fault. */
static void fp_sanitise(const struct native *n, u8 *image)
{
	u8 *header = image + XSAVE_HEADER_OFF, *mxcsr = image + FXSAVE_MXCSR_OFF;

	st64(header, ld64(header) & n->mask);
	memset(header + 8, 0, 56);
	st32(mxcsr, ld32(mxcsr) & n->mxcsr_mask);
}

void fp_enter_slow(struct tcg_cpu *c)
{
	struct native *n = c->native;
	u8 *image = c->v.s.xsave;

	native_thread_init(c);
	fp_sanitise(n, image);
	if (ld64(image + XSAVE_HEADER_OFF) & XCOMP_X87) {
		n->ptr.fop = ld16(image + 6) & 0x7ff;
		n->ptr.fip = ld64(image + 8);
		n->ptr.fdp = ld64(image + 16);
	} else {
		n->ptr = (struct x87_ptr){ 0 };
	}
	fp_load_all(n, image);
	c->fp_live = true;
}

void fp_leave_slow(struct tcg_cpu *c)
{
	struct native *n = c->native;
	u8 *image = c->v.s.xsave;

	fp_save_all(n, image);
	st16(image + 6, n->ptr.fop);
	st64(image + 8, n->ptr.fip);
	st64(image + 16, n->ptr.fdp);
	fp_clean(n);
	c->fp_live = false;
}

void native_thread_init(struct tcg_cpu *c)
{
	if (unlikely(signal_guard_current() != &c->native->guard))
		signal_guard_enter(&c->native->guard);
}

static always_inline bool fp_allowed(const struct tcg_cpu *c, enum fp_unit unit)
{
	return unit == UNIT_SSE ? c->fp_ok_sse : unit == UNIT_AVX ? c->fp_ok_avx : c->fp_ok_x87;
}

/* SDM vol 3 table "Action Taken for Combinations of EM and TS", vol 2 "AVX Exception Classes". */
static bool fp_denied(struct tcg_cpu *c, enum fp_unit unit)
{
	const struct cpu_state *s = &c->v.s;
	u64 avx = XCOMP_SSE | XCOMP_AVX;

	switch (unit) {
	case UNIT_AVX:
		if (!(s->cr4 & CR4_OSXSAVE) || (s->xcr0 & avx) != avx)
			return raise(c, EXC_UD);
		break;
	case UNIT_SSE:
		if (s->cr0 & CR0_EM || !(s->cr4 & CR4_OSFXSR))
			return raise(c, EXC_UD);
		break;
	case UNIT_MMX:
		if (s->cr0 & CR0_EM)
			return raise(c, EXC_UD);
		break;
	case UNIT_X87: break;
	}
	return raise(c, EXC_NM);
}

bool fp_ready(struct tcg_cpu *c, enum fp_unit unit)
{
	if (unlikely(!fp_allowed(c, unit)))
		return fp_denied(c, unit);
	fp_enter(c);
	return true;
}

/* --- exceptions ------------------------------------------------------------------------------- */
/* With CR0.NE clear the PC's way of reporting is IRQ 13, and the instruction waits for it: it is
 * tried again until a handler has cleared the exception.  SDM vol 3 "x87 FPU Floating-Point Error".
 */
const struct insn *x87_error(struct tcg_cpu *c, const struct insn *in)
{
	const struct engine_env *env = c->v.env;

	if (c->v.s.cr0 & CR0_NE)
		return insn_raise(c, in, EXC_MF);
	fp_leave(c);
	if (env && env->chip) {
		pthread_mutex_lock(env->lock);
		irq_pulse((struct irq_line){ env->chip, 13 });
		pthread_mutex_unlock(env->lock);
	}
	c->v.s.rip = insn_rip(c, in);
	return NULL;
}

const struct insn *native_trap(struct tcg_cpu *c, const struct insn *in)
{
	u8 vector = c->native->guard.trap;

	c->native->guard.trap = 0;
	switch (vector) {
	case EXC_MF: return x87_error(c, in);
	case EXC_XM: return insn_raise(c, in, c->v.s.cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
	case EXC_GP: return insn_raise_err(c, in, EXC_GP, 0);
	default: return insn_raise(c, in, EXC_UD);
	}
}

/* --- making stubs ----------------------------------------------------------------------------- */
static enum opd_form opd_form(const struct insn *in, unsigned n)
{
	return opd_specs[in->op->spec[n]].form;
}

static bool map_is_x87(u8 map)
{
	return map >= MAP_D8 && map <= MAP_DF;
}

/* PCMPESTRM, PCMPESTRI: 0F3A 60, 61; ISTRM, ISTRI: 62, 63. */
static bool insn_is_pcmpstr(const struct insn *in)
{
	u8 map = in->op->map;

	return (map == MAP_0F3A || map == MAP_V0F3A) && in->op->opcode >= 0x60 &&
	       in->op->opcode <= 0x63;
}

/* CVTSI2SS, CVTTSS2SI, CVTSS2SI, MOVD, PEXTRD, PINSRD, PCMPESTRx. */
bool native_w_is_size(const struct insn *in)
{
	u8 op = in->op->opcode;

	switch (in->op->map) {
	case MAP_0F:
	case MAP_V0F: return op == 0x2a || op == 0x2c || op == 0x2d || op == 0x6e || op == 0x7e;
	case MAP_0F3A:
	case MAP_V0F3A: return op == 0x16 || op == 0x22 || op == 0x60 || op == 0x61;
	}
	return false;
}

static enum fp_unit insn_unit(const struct insn *in)
{
	enum fp_unit unit = map_is_x87(in->op->map) ? UNIT_X87 : UNIT_MMX;

	if (in->prefixes & PFX_VEX)
		return UNIT_AVX;
	for (unsigned i = 0; i < in->nopd; i++)
		if (in->opd[i].kind == OPD_VEC)
			return UNIT_SSE;
	return unit;
}

/* FCLEX, FINIT, FLDCW, FSTCW, FSTSW and the 8087's and 80287's no-operations leave the pointers to
 * the last instruction alone; FINIT clears them. */
static u16 x87_ptr_flags(const struct insn *in)
{
	u8 map = in->op->map, op = in->modrm < 0xc0 ? in->modrm >> 3 & 7 : in->modrm;

	if (!map_is_x87(map) || (map == MAP_D9 && (op == 5 || op == 7)) ||
	    (map == MAP_DD && op == 7) || (map == MAP_DF && op == 0xe0) ||
	    (map == MAP_DB && op >= 0xe0 && op <= 0xe4 && op != 0xe3))
		return 0;
	return map == MAP_DB && op == 0xe3 ? STUB_X87_INIT : STUB_X87_PTR;
}

/* All x87 and MMX instructions but FNSTCW, FNSTSW, FNCLEX, FNINIT and their kin. */
static bool insn_waits(const struct insn *in)
{
	for (unsigned i = 0; i < in->nopd; i++)
		if (in->opd[i].kind == OPD_MMX)
			return true;
	return x87_ptr_flags(in) & STUB_X87_PTR ||
	       (in->op->map == MAP_D9 && in->op->opcode == 5); /* FLDCW */
}

static void stub_describe(struct stub *s, const struct insn *in)
{
	u32 row = in->op->flags;

	s->unit = insn_unit(in);
	s->flags = x87_ptr_flags(in) | (insn_waits(in) ? STUB_WAITS : 0);
	for (unsigned i = 0; i < in->nopd; i++) {
		bool out = i == 0 && row & F_W0;

		if (in->opd[i].kind == OPD_MEM) {
			s->mem_size = in->opd[i].size;
			s->flags |= out ? STUB_STORE : STUB_LOAD;
			s->flags |= row & F_ALIGN ? STUB_ALIGN : 0;
		} else if (in->opd[i].kind == OPD_REG && opd_form(in, i) != FORM_IMP) {
			s->gpr_opd = (u8)i;
			s->flags |= out ? STUB_GPR_OUT : STUB_GPR_IN;
		}
	}
	if (in->op->fl_write & FL_ARITH)
		s->flags |= STUB_CC_OUT;
	if ((in->op->fl_read | in->op->fl_write) & FL_ARITH && !insn_is_pcmpstr(in))
		s->flags |= STUB_CC_IN; /* even if only written: some leave a flag alone */
	if (insn_is_pcmpstr(in))
		s->flags |= (in->op->opcode & 1 ? STUB_RCX_OUT : 0) |
			    (in->op->opcode & 2 ? 0 : STUB_RAX_RDX_IN);
}

/* The instruction's fields with its general register and memory operand renamed. */
static struct x64_op stub_op(const struct insn *in, const struct stub *s)
{
	u8 map = in->op->map, gpr = s->flags & STUB_GPR_OUT ? RAX : RSI;
	bool vex = in->prefixes & PFX_VEX, x87 = map_is_x87(map), mem = in->modrm < 0xc0;
	struct x64_op o = {
		.map = x87   ? X64_MAP_1
		       : vex ? map - MAP_V0F + X64_MAP_0F
			     : map,
		.opcode = x87 ? 0xd8 + map - MAP_D8 : in->op->opcode,
		.pp = x87 || in->op->pp & (in->op->pp - 1)
			      ? 0
			      : in->pp, /* several: they select nothing */
		.vex = vex,
		.l = in->vexl,
		.vvvv = in->vvvv,
		.mem = mem,
		.w = in->rex & 8 &&
		     (vex ? in->mode == MODE_64 || !native_w_is_size(in) : native_w_is_size(in)),
		.reg = in->modrm >> 3 & 7,
		.rm = mem ? RDI : in->modrm & 7,
	};

	for (unsigned i = 0; i < in->nopd; i++) {
		switch (opd_form(in, i)) {
		case FORM_V: o.reg |= in->rex << 1 & 8; break;
		case FORM_G: o.reg = gpr; break;
		case FORM_E:
		case FORM_R: o.rm = mem ? RDI : gpr; break;
		case FORM_W:
		case FORM_U: o.rm |= mem ? 0 : in->rex << 3 & 8; break;
		case FORM_I:
		case FORM_IS:
			o.has_imm = true;
			o.imm = (u8)in->imm;
			break;
		case FORM_L:
			o.has_imm = true;
			o.imm = (u8)(in->opd[i].reg << 4 | (in->imm & 15));
			break;
		default: break;
		}
	}
	return o;
}

static void stub_emit(struct x64 *a, const struct insn *in, const struct stub *s)
{
	struct x64_op o = stub_op(in, s);

	o.no_modrm = in->nopd == 0 && !map_is_x87(in->op->map); /* VZEROUPPER, VZEROALL, EMMS */
	if (s->flags & STUB_RAX_RDX_IN)
		x64_mov_rr(a, RAX, RSI);
	if (s->flags & STUB_CC_IN)
		x64_mov_rr(a, RAX, RCX), x64_flags_load(a);
	x64_op(a, &o);
	if (s->flags & STUB_CC_OUT)
		x64_flags_store(a);
	if (s->flags & STUB_RCX_OUT)
		x64_mov_rr(a, RDX, RCX);
	x64_ret(a);
}

/* --- keeping stubs ---------------------------------------------------------------------------- */
static void stub_flush(struct tcg_cpu *c)
{
	struct native *n = c->native;

	cache_flush(&n->cache);
	if (n->cache.gen % STUB_GENS == 0) {
		n->cache.gen++; /* 0 is of a fresh instruction */
		interp_flush(c);
	}
	memset(n->hash, 0, sizeof n->hash);
	n->stubs = 0;
}

static stub_fn stub_install(struct native *n, const u8 *code, u32 len)
{
	u8 *at = cache_reserve(&n->cache, len);

	if (!at)
		return NULL;
	memcpy(at, code, len);
	return (stub_fn)cache_commit(&n->cache, len);
}

static u16 *stub_slot(struct native *n, const struct stub *want)
{
	u32 h = 2166136261u;

	for (unsigned i = 0; i < want->code_len; i++)
		h = (h ^ want->code[i]) * 16777619;
	for (h ^= h >> 15;; h++) {
		u16 *slot = &n->hash[h % STUB_HASH];
		const struct stub *s = *slot ? &n->stub[*slot - 1] : NULL;

		if (!s ||
		    (s->code_len == want->code_len && s->flags == want->flags &&
		     s->mem_size == want->mem_size && !memcmp(s->code, want->code, s->code_len)))
			return slot;
	}
}

static const struct stub *stub_find(struct tcg_cpu *c, const struct insn *in)
{
	struct native *n = c->native;
	struct stub s = { 0 };
	struct x64 a = { .p = s.code, .end = s.code + sizeof s.code };
	u16 *slot;

	stub_describe(&s, in);
	stub_emit(&a, in, &s);
	ASSERT(!a.full);
	s.code_len = (u8)(a.p - s.code);
	slot = stub_slot(n, &s);
	if (*slot)
		return &n->stub[*slot - 1];
	if (n->stubs == STUBS_MAX || !(s.fn = stub_install(n, s.code, s.code_len))) {
		stub_flush(c);
		slot = stub_slot(n, &s);
		s.fn = stub_install(n, s.code, s.code_len);
	}
	n->stub[n->stubs] = s;
	*slot = (u16)++n->stubs;
	return &n->stub[n->stubs - 1];
}

/* insn.aux holds the generation of the cache and the stub's index; one of a flushed cache does not
 * match, so decoded blocks need not be told, unless generations begin anew: stub_flush(). */
static always_inline const struct stub *stub_cached(const struct native *n, const struct insn *in)
{
	return likely(in->aux / STUBS_MAX == n->cache.gen % STUB_GENS)
		       ? &n->stub[in->aux % STUBS_MAX]
		       : NULL;
}

const struct stub *native_stub(struct tcg_cpu *c, const struct insn *in)
{
	struct insn *self =
		(struct insn *)in; /* blocks are writable; const keeps handlers honest */
	struct native *n = c->native;
	const struct stub *s = stub_cached(n, in);

	if (!s) {
		s = stub_find(c, in);
		self->aux = n->cache.gen % STUB_GENS * STUBS_MAX + (u32)(s - n->stub);
	}
	return s;
}

/* --- running stubs ---------------------------------------------------------------------------- */
static always_inline void x87_note(struct tcg_cpu *c, const struct insn *in, const struct stub *s,
				   u64 ea)
{
	struct x87_ptr *p = &c->native->ptr;

	if (s->flags & STUB_X87_PTR) {
		p->fip = insn_rip(c, in);
		p->fcs = c->v.s.seg[SEG_CS].sel;
		p->fop = (u16)((in->op->map - MAP_D8) << 8 | in->modrm);
		if (s->flags & (STUB_LOAD | STUB_STORE)) {
			p->fdp = ea;
			p->fds = c->v.s.seg[in->seg].sel;
		}
	} else if (s->flags & STUB_X87_INIT) {
		*p = (struct x87_ptr){ 0 };
	}
}

/* AMD's MXCSR.MM: legacy SSE operands need not be aligned. */
static bool fp_misaligned_ok(const struct native *n)
{
	u32 mxcsr;

	__asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
	return mxcsr & n->mxcsr_mask & 1 << 17;
}

/* Is the operand badly aligned?  In 64-bit mode that comes before any check of the address. */
static bool operand_aligned(struct tcg_cpu *c, const struct insn *in, const struct stub *s, u64 ea)
{
	u64 base = c->mode != MODE_64 || in->seg >= SEG_FS ? c->v.s.seg[in->seg].base : 0;

	return !(s->flags & STUB_ALIGN) || !((ea + base) & (s->mem_size - 1u)) ||
	       fp_misaligned_ok(c->native);
}

/* Where the stub finds its memory operand: in guest RAM, or in n->bounce, which has the same
 * alignment and, for a load, the operand's bytes.  False: c->exc. */
static bool native_operand(struct tcg_cpu *c, const struct insn *in, const struct stub *s, u64 ea,
			   gva_t *lin, void **mem)
{
	enum access acc = s->flags & STUB_STORE ? ACC_W : ACC_R;
	unsigned size = s->mem_size;

	if (c->mode == MODE_64 && !operand_aligned(c, in, s, ea))
		return raise_err(c, EXC_GP, 0);
	if (!seg_lin(c, in->seg, ea, size, acc, lin))
		return false;
	if (!operand_aligned(c, in, s, ea))
		return raise_err(c, EXC_GP, 0);
	if (!lin_host(c, *lin, size, acc, mem))
		return false;
	if (*mem)
		return true;
	*mem = c->native->bounce + (*lin & 63);
	if (acc == ACC_R && !lin_read_bytes(c, *lin, *mem, size))
		return false;
	fp_enter(c); /* a device may have been asked */
	return true;
}

/* An x87 store with an unmasked invalid-operation, overflow or underflow exception stores nothing.
 */
static bool x87_store_done(const struct stub *s)
{
	u16 sw, cw;

	if (!(s->flags & STUB_X87_PTR))
		return true; /* not FNSTCW, FNSTSW */
	__asm__ volatile("fnstsw %0; fnstcw %1" : "=m"(sw), "=m"(cw));
	return !(sw & ~cw & 0x19);
}

static void native_results(struct tcg_cpu *c, const struct insn *in, const struct stub *s,
			   struct stub_result r)
{
	const struct opd *o = &in->opd[s->gpr_opd];

	if (s->flags & STUB_GPR_OUT)
		reg_set(c, o->reg, o->size, r.ax);
	if (s->flags & STUB_CC_OUT)
		c->cc = (u16)r.ax;
	if (s->flags & STUB_RCX_OUT)
		c->v.s.gpr[RCX] = (u32)r.dx;
}

/* Any stub, any operand. */
static HANDLER native_general(struct tcg_cpu *c, const struct insn *in)
{
	struct native *n = c->native;
	const struct stub *s = native_stub(c, in);
	u64 *gpr = c->v.s.gpr, arg = 0, ea = 0;
	struct stub_result r;
	void *mem = NULL;
	gva_t lin = 0;

	if (!fp_ready(c, s->unit))
		return insn_fault(c, in);
	if (s->flags & (STUB_LOAD | STUB_STORE)) {
		ea = insn_ea(c, in);
		if (s->flags & STUB_WAITS && x87_pending())
			return x87_error(c, in);
		if (!native_operand(c, in, s, ea, &lin, &mem))
			return insn_fault(c, in);
	}
	if (s->flags & (STUB_GPR_IN | STUB_RAX_RDX_IN))
		arg = gpr[s->flags & STUB_GPR_IN ? in->opd[s->gpr_opd].reg : RAX];
	r = s->fn(mem, arg, gpr[RDX], c->cc);
	if (unlikely(n->guard.trap))
		return native_trap(c, in);
	x87_note(c, in, s, ea);
	native_results(c, in, s, r);
	if (s->flags & STUB_STORE && mem == n->bounce + (lin & 63) && x87_store_done(s) &&
	    !lin_write_bytes(c, lin, mem, s->mem_size))
		return insn_fault(c, in);
	return in + 1;
}

/* The common case: nothing but vector or x87 registers and at most one operand in plain RAM. */
static always_inline HANDLER native_fast(struct tcg_cpu *c, const struct insn *in,
					 enum fp_unit unit, unsigned acc)
{
	struct native *n = c->native;
	const struct stub *s = stub_cached(n, in);
	void *mem = NULL;
	u64 ea = 0;

	if (unlikely(!s || !c->fp_live || !fp_allowed(c, unit)))
		return native_general(c, in);
	if (acc) {
		/* A local whose address is taken would keep next() from being a tail call. */
		if (unlikely(in->mode != MODE_64))
			return native_general(c, in);
		ea = insn_ea(c, in);
		gva_t lin = ea + (in->seg >= SEG_FS ? c->v.s.seg[in->seg].base : 0);

		mem = acc == ACC_W ? tlb_write(c, lin, s->mem_size) : tlb_read(c, lin, s->mem_size);
		if (unlikely(!mem || (s->flags & STUB_ALIGN && lin & (s->mem_size - 1u))))
			return native_general(c, in);
	}
	s->fn(mem, 0, 0, 0);
	if (unlikely(n->guard.trap))
		return native_trap(c, in);
	if (unit == UNIT_X87)
		x87_note(c, in, s, ea);
	return next(c, in);
}

#define NATIVE_FAST(name, unit, acc)                                  \
	static HANDLER name(struct tcg_cpu *c, const struct insn *in) \
	{                                                             \
		return native_fast(c, in, unit, acc);                 \
	}
NATIVE_FAST(native_sse_reg, UNIT_SSE, 0)
NATIVE_FAST(native_sse_load, UNIT_SSE, ACC_R)
NATIVE_FAST(native_sse_store, UNIT_SSE, ACC_W)
NATIVE_FAST(native_avx_reg, UNIT_AVX, 0)
NATIVE_FAST(native_avx_load, UNIT_AVX, ACC_R)
NATIVE_FAST(native_avx_store, UNIT_AVX, ACC_W)
NATIVE_FAST(native_x87_reg, UNIT_X87, 0)
NATIVE_FAST(native_x87_load, UNIT_X87, ACC_R)
NATIVE_FAST(native_x87_store, UNIT_X87, ACC_W)
NATIVE_FAST(native_mmx_reg, UNIT_MMX, 0)
NATIVE_FAST(native_mmx_load, UNIT_MMX, ACC_R)
NATIVE_FAST(native_mmx_store, UNIT_MMX, ACC_W)

static insn_fn native_choose(const struct stub *s)
{
	static const insn_fn fast[][3] = {
		[UNIT_SSE] = { native_sse_reg, native_sse_load, native_sse_store },
		[UNIT_AVX] = { native_avx_reg, native_avx_load, native_avx_store },
		[UNIT_X87] = { native_x87_reg, native_x87_load, native_x87_store },
		[UNIT_MMX] = { native_mmx_reg, native_mmx_load, native_mmx_store },
	};

	if (s->flags &
	    ~(STUB_LOAD | STUB_STORE | STUB_ALIGN | STUB_X87_PTR | STUB_X87_INIT | STUB_WAITS))
		return native_general;
	return fast[s->unit][s->flags & STUB_STORE ? 2 : s->flags & STUB_LOAD ? 1 : 0];
}

/* First execution: from now on the block calls the right handler itself (unless the interpreter has
 * put one of its own around us). */
const struct insn *native_exec(struct tcg_cpu *c, const struct insn *in)
{
	if (in->fn == native_exec)
		((struct insn *)in)->fn = native_choose(native_stub(c, in));
	return native_general(c, in);
}

/* --- set-up ----------------------------------------------------------------------------------- */
static void native_probe_host(struct native *n)
{
	u32 eax, ebx, ecx, edx;
	u8 *image = n->area;

	__cpuid(1, eax, ebx, ecx, edx);
	n->xsave = ecx >> 27 & 1; /* OSXSAVE */
	n->mask = XCOMP_X87 | XCOMP_SSE;
	if (n->xsave) {
		__asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
		n->mask = eax & (XCOMP_X87 | XCOMP_SSE | XCOMP_AVX);
	}
	__asm__ volatile("fxsave64 (%0)" : : "r"(image) : "memory");
	n->mxcsr_mask = ld32(image + 28) ? ld32(image + 28) : 0xffbf; /* SDM vol 1 §11.6.6 */
}

/* MOVUPS, VMOVUPS, MOVQ between a register and [RDI], as functions. */
static stub_fn stub_move(struct native *n, bool mmx, bool store, u8 reg)
{
	bool avx = n->mask & XCOMP_AVX && !mmx;
	u8 code[16] = { 0 };
	struct x64 a = { .p = code, .end = code + sizeof code };

	x64_op(&a, &(struct x64_op){ .map = X64_MAP_0F,
				     .vex = avx,
				     .l = avx,
				     .reg = reg,
				     .rm = RDI,
				     .mem = true,
				     .opcode = mmx     ? 0x7f
					       : store ? 0x11
						       : 0x10 });
	x64_ret(&a);
	return stub_install(n, code, (u32)(a.p - code));
}

int native_init(struct tcg_cpu *c, struct err *e)
{
	const u8 ret = 0xc3;
	struct native *n = host_pages_new(sizeof *n);
	int rc;

	if (!n)
		return err_set(e, -ENOMEM, "CPU %u: no memory for its FP stubs", c->v.index);
	c->native = n;
	rc = signal_guard_init(&n->guard, e);
	if (rc == 0)
		rc = cache_init(&n->cache, STUB_CACHE_BYTES, e);
	if (rc < 0) {
		native_free(c);
		return rc;
	}
	native_probe_host(n);
	n->guard.code = n->cache.rx;
	n->guard.len = n->cache.size;
	n->guard.resume = (const u8 *)stub_install(n, &ret, 1);
	for (u8 i = 0; i < 16; i++) {
		n->vec_load[i] = stub_move(n, false, false, i);
		n->vec_store[i] = stub_move(n, false, true, i);
		n->mmx_store[i & 7] = stub_move(n, true, true, i & 7);
	}
	cache_seal(&n->cache);
	return 0;
}

void native_free(struct tcg_cpu *c)
{
	if (!c->native)
		return;
	signal_guard_free(&c->native->guard);
	cache_free(&c->native->cache);
	host_pages_free(c->native, sizeof *c->native);
	c->native = NULL;
}
