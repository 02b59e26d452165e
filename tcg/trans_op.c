/* trans_op.c - one guest operation as the same operation of the host: encoded anew, registers
 * renamed, memory at [T0].  What is not known to be harmless that way is left to the interpreter:
 * op_can(). */
#include "trans.h"

/* --- what can be done ------------------------------------------------------------------------- */
static enum opd_form form_of(const struct insn *in, unsigned n)
{
	return opd_specs[in->op->spec[n]].form;
}

static bool map_is_x87(u8 map)
{
	return map >= MAP_D8 && map <= MAP_DF;
}

static bool form_can(const struct insn *in, unsigned n)
{
	switch (form_of(in, n)) {
	case FORM_NONE:
	case FORM_E:
	case FORM_G:
	case FORM_R:
	case FORM_M:
	case FORM_Z:
	case FORM_B:
	case FORM_FIX:
	case FORM_FIXH:
	case FORM_IMP:
	case FORM_IMPH:
	case FORM_I:
	case FORM_IS:
	case FORM_ONE:
	case FORM_V:
	case FORM_H:
	case FORM_W:
	case FORM_U:
	case FORM_L:
	case FORM_XMM0:
	case FORM_P:
	case FORM_Q:
	case FORM_N:
	case FORM_ST0:
	case FORM_STI: return true;
	case FORM_O: return in->mode == MODE_32;
	default: return false;
	}
}

static bool self_can(const struct insn *in)
{
	insn_fn f = in->op->exec.self;
	bool mem = in->opd[0].kind == OPD_MEM;

	if (f == exec_XADD || f == exec_CMPXCHG || f == exec_CMPXCHG8B || f == exec_CMPXCHG16B)
		return mem;
	return f == exec_MUL || f == exec_IMUL1 || f == exec_DIV || f == exec_IDIV ||
	       f == exec_MULX || f == exec_XCHG;
}

/* AH to BH exist only without REX, so only beside the first eight registers. */
static bool high_byte_can(const struct insn *in)
{
	bool high = false, other = in->rex != 0;

	for (unsigned n = 0; n < in->nopd; n++) {
		const struct opd *o = &in->opd[n];

		high |= o->kind == OPD_REGH && form_of(in, n) != FORM_IMPH;
		other |= o->kind == OPD_MEM ||
			 (o->kind == OPD_REG &&
			  (reg_homeless(o->reg) || o->reg >= 8 || o->reg == RSP));
	}
	return !high || !other;
}

static bool class_can(const struct insn *in)
{
	switch (in->op->cls) {
	case CLS_DRV: return in->op->exec.drv != exec_LEA && in->op->exec.drv != exec_SALC;
	case CLS_SELF: return self_can(in);
	/* FNINIT clears the pointers to the last instruction. */
	case CLS_NATIVE: return !(in->op->map == MAP_DB && in->modrm == 0xe3);
	default: return false;
	}
}

bool op_can(const struct insn *in)
{
	if (!class_can(in) || in->op->flags & (F_NOMEM | F_REP | F_PRIV))
		return false;
	for (unsigned n = 0; n < in->nopd; n++) {
		if (!form_can(in, n))
			return false;
		if (in->opd[n].kind == OPD_MEM && (!insn_reach(in) || !in->opd[n].size))
			return false;
	}
	return high_byte_can(in);
}

/* --- flags ------------------------------------------------------------------------------------ */
/* Shifts and rotates: a count of 0 changes no flag. */
static bool is_shift(const struct insn *in)
{
	drv_fn f = in->op->exec.drv;

	return in->op->cls == CLS_DRV &&
	       (f == exec_ROL || f == exec_ROR || f == exec_RCL || f == exec_RCR || f == exec_SHL ||
		f == exec_SHR || f == exec_SAR || f == exec_SHLD || f == exec_SHRD);
}

enum count { COUNT_NO_SHIFT, COUNT_ZERO, COUNT_SOME, COUNT_CL };

static enum count shift_count(const struct insn *in)
{
	u8 mask = in->opd[0].size == 8 ? 63 : 31;

	if (!is_shift(in))
		return COUNT_NO_SHIFT;
	if (in->opd[in->nopd - 1].kind != OPD_IMM)
		return COUNT_CL;
	return in->imm & mask ? COUNT_SOME : COUNT_ZERO;
}

static u16 flags_read(const struct insn *in)
{
	drv_fn f = in->op->exec.drv;

	if (is_shift(in))
		return f == exec_RCL || f == exec_RCR ? FL_CF : 0;
	return in->op->fl_read & FL_ARITH;
}

u16 op_flags_written(const struct insn *in)
{
	return shift_count(in) == COUNT_ZERO ? 0 : (in->op->fl_write | in->op->fl_undef) & FL_ARITH;
}

/* Byte and word rotates through carry take their count modulo 9 or 17, so it may be none after all.
 */
static bool may_keep(const struct insn *in)
{
	enum count n = shift_count(in);

	return n == COUNT_CL || (n == COUNT_SOME && in->opd[0].size < 4);
}

u16 op_flags_before(const struct insn *in, u16 live_after)
{
	if (may_keep(in))
		return live_after | flags_read(in);
	return (live_after & ~op_flags_written(in)) | flags_read(in);
}

u16 op_flags_needed(const struct insn *in, u16 live_after)
{
	u16 written = op_flags_written(in);

	if (!written)
		return flags_read(in);
	return op_flags_before(in, live_after);
}

/* --- FP --------------------------------------------------------------------------------------- */
/* Bits: bytes of c->fp_live, fp_ok_sse, fp_ok_avx, fp_ok_x87. */
u8 op_fp_need(const struct insn *in)
{
	_Static_assert(offsetof(struct tcg_cpu, fp_ok_x87) == offsetof(struct tcg_cpu, fp_live) + 3,
		       "one word");

	if (map_is_x87(in->op->map))
		return 1 | 8;
	if (in->prefixes & PFX_VEX)
		return 1 | 4;
	for (unsigned n = 0; n < in->nopd; n++)
		if (in->opd[n].kind == OPD_VEC)
			return 1 | 2;
	return 1 | 8; /* MMX */
}

static void site_add(struct emit *e, unsigned i)
{
	struct trans *t = e->t;

	t->site[t->sites++] = (struct trans_site){ (u32)(e->a->p - t->cache.rw), e->insn[i],
						   e->in_reg && !e->in_mem,
						   e->loop.on ? e->loop.borrowed : 0, e->note };
	e->tb->sites++;
}

/* FCLEX, FLDCW, FSTCW, FSTSW and no-operations leave the pointers alone. */
bool x87_notes(const struct insn *in)
{
	u8 map = in->op->map, op = in->modrm < 0xc0 ? in->modrm >> 3 & 7 : in->modrm;

	return map_is_x87(map) && !(map == MAP_D9 && (op == 5 || op == 7)) &&
	       !(map == MAP_DD && op == 7) && !(map == MAP_DF && op == 0xe0) &&
	       !(map == MAP_DB && op >= 0xe0 && op <= 0xe4);
}

/* The last x87 instruction, in place of the host's pointers, which are addresses of ours.  Another
 * one behind it will do the same, unless the interpreter comes in between; if a fault does, trans.c
 * makes up for it. */
static void x87_note(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	struct x64 *a = e->a;
	s32 ptr = offsetof(struct native, ptr);

	for (unsigned n = i + 1; n < e->n; n++) {
		if (e->insn[n] != e->insn[n - 1] + 1 || insn_way(e->insn[n]) == WAY_STEP)
			break; /* another block, or the interpreter */
		if (x87_notes(e->insn[n]))
			return;
	}
	emit_scratch(e, T1);
	emit_scratch(e, T2);
	x64_load_gs(a, T1, GS_OFF(native));
	x64_load_gs(a, T2, GS_OFF(code_rip));
	x64_lea(a, T2, T2, in->pgoff);
	x64_op(a, &(struct x64_op){ .opcode = 0x89,
				    .w = true,
				    .reg = T2,
				    .rm = T1,
				    .mem = true,
				    .disp = ptr + (s32)offsetof(struct x87_ptr, fip) });
	x64_op(a, &(struct x64_op){ .opcode = 0xc7,
				    .osz = true,
				    .rm = T1,
				    .mem = true,
				    .disp = ptr + (s32)offsetof(struct x87_ptr, fop) });
	x64_u8(a, in->modrm);
	x64_u8(a, (u8)(in->op->map - MAP_D8));
	if (e->word == 8)
		return; /* 64-bit images have no selectors */
	emit_gs(a, X64_MAP_0F, 0xb7, T2, GS_OFF(v.s.seg[SEG_CS].sel)); /* MOVZX */
	x64_op(a, &(struct x64_op){ .opcode = 0x89,
				    .osz = true,
				    .reg = T2,
				    .rm = T1,
				    .mem = true,
				    .disp = ptr + (s32)offsetof(struct x87_ptr, fcs) });
}

/* --- encoding --------------------------------------------------------------------------------- */
/* A general register operand: where the host has it, and what of guest state goes there and back.
 */
struct place {
	u8 reg; /* guest's; REG_NONE: no operand */
	u8 host, size;
	bool read, written;
};

static u8 imm_bytes(const struct insn *in, unsigned n)
{
	switch (opd_specs[in->op->spec[n]].size) {
	case SZ_B: return 1;
	case SZ_W: return 2;
	case SZ_Z: return in->size == 2 ? 2 : 4;
	default: return in->size;
	}
}

/* Registers 4 to 7 as bytes are SPL to DIL only with a REX prefix. */
static void byte_reg(struct x64_op *o, const struct place *p)
{
	o->rex |= p->size == 1 && p->host >= 4;
}

struct opcode {
	struct x64_op o;
	struct place reg, rm, vvvv;
	u16 avoid; /* of T0 to T2: taken, or somebody's own */
	u64 imm;
	u8 imm_len;
	bool modrm;
};

static const struct place *place_of(const struct opcode *c, unsigned reg)
{
	const struct place *p[] = { &c->reg, &c->rm, &c->vvvv };

	for (unsigned i = 0; i < ARRAY_LEN(p); i++)
		if (p[i]->reg == reg && p[i]->host != REG_NONE)
			return p[i];
	return NULL;
}

static void place_take(struct emit *e, struct opcode *c, struct place *p, const struct insn *in,
		       unsigned n)
{
	const struct opd *o = &in->opd[n];
	u32 row = in->op->flags;
	const struct place *same = place_of(c, o->reg);
	bool fetch;

	*p = (struct place){ .reg = o->reg, .size = o->size, .host = (u8)host_reg(e, o->reg) };
	p->written = n == 0 ? row & F_W0 : n == 1 && row & F_W1;
	p->read = n == 0 ? row & F_R0 : true;
	ASSERT(o->reg < 16);
	if (p->host != REG_NONE)
		return;
	fetch = p->read || p->size < 4;
	if (same) {
		p->host = same->host;
		if (fetch && !same->read && same->size >= 4)
			emit_fetch(e, p->host, p->reg);
		return;
	}
	if (fetch && p->reg != R15 && e->cached & 1 << p->reg) {
		p->host = p->reg;
	} else {
		u16 own = p->reg == R15 || (p->reg == T0 && c->o.mem) ? 0 : 1 << p->reg;

		p->host = (u8)emit_home(e, p->reg, c->avoid & ~own);
		if (fetch)
			emit_fetch(e, p->host, p->reg);
	}
	c->avoid |= 1 << p->host;
}

static void place_put(struct emit *e, const struct place *p)
{
	if (p->reg != REG_NONE && p->written && reg_homeless(p->reg))
		emit_put(e, p->host, p->reg);
}

static bool insn_has_mem(const struct insn *in)
{
	for (unsigned n = 0; n < in->nopd; n++)
		if (in->opd[n].kind == OPD_MEM)
			return true;
	return false;
}

/* Registers of ours that operands want: for memory, and those of their own number. */
static u16 wanted(const struct emit *e, const struct insn *in)
{
	u16 mask = 0;

	if (insn_has_mem(in)) {
		mask = (u16)(1 << e->mem.base);
		mask |= e->mem.index != REG_NONE ? (u16)(1 << e->mem.index) : 0;
		mask &= 1 << T0 | 1 << T1 | 1 << T2;
	}

	for (unsigned n = 0; n < in->nopd; n++)
		if (in->opd[n].kind == OPD_REG && in->opd[n].reg >= R9 && in->opd[n].reg <= R11)
			mask |= 1 << in->opd[n].reg;
	return mask;
}

static void operand(struct emit *e, const struct insn *in, unsigned n, struct opcode *c)
{
	const struct opd *o = &in->opd[n];

	switch (form_of(in, n)) {
	case FORM_G:
		c->modrm = true;
		if (o->kind == OPD_REGH) {
			c->o.reg = o->reg + 4;
			break;
		}
		place_take(e, c, &c->reg, in, n);
		c->o.reg = c->reg.host;
		byte_reg(&c->o, &c->reg);
		break;
	case FORM_E:
	case FORM_R:
	case FORM_M:
	case FORM_O:
		c->modrm = true;
		if (o->kind == OPD_MEM) {
			host_at_put(&c->o, &e->mem);
		} else if (o->kind == OPD_REGH) {
			c->o.rm = o->reg + 4;
		} else {
			place_take(e, c, &c->rm, in, n);
			c->o.rm = c->rm.host;
			byte_reg(&c->o, &c->rm);
		}
		break;
	case FORM_B:
		place_take(e, c, &c->vvvv, in, n);
		c->o.vvvv = c->vvvv.host;
		break;
	case FORM_Z:
		if (o->kind == OPD_REGH) {
			c->o.rm = o->reg + 4;
			break;
		}
		place_take(e, c, &c->rm, in, n);
		c->o.rm = c->rm.host;
		byte_reg(&c->o, &c->rm);
		break;
	case FORM_V:
		c->modrm = true;
		c->o.reg = (in->modrm >> 3 & 7) | (in->rex << 1 & 8);
		break;
	case FORM_P:
		c->modrm = true;
		c->o.reg = in->modrm >> 3 & 7;
		break;
	case FORM_W:
	case FORM_U:
	case FORM_Q:
	case FORM_N:
		c->modrm = true;
		if (o->kind == OPD_MEM)
			host_at_put(&c->o, &e->mem);
		else
			c->o.rm = (in->modrm & 7) | (o->kind == OPD_VEC ? in->rex << 3 & 8 : 0);
		break;
	case FORM_H: c->o.vvvv = in->vvvv; break;
	case FORM_I:
	case FORM_IS:
		c->imm = insn_imm(in);
		c->imm_len = imm_bytes(in, n);
		break;
	case FORM_L:
		c->imm = (u8)(o->reg << 4 | (in->imm & 15));
		c->imm_len = 1;
		break;
	default: /* implied */ break;
	}
}

/* INC and DEC of one byte, which is a REX prefix for the host. */
static bool is_inc_dec(const struct insn *in)
{
	return in->op->map == MAP_ONE && (in->op->opcode & 0xf0) == 0x40;
}

/* What 64-bit code has instead of encodings that it lacks. */
static u8 opcode_of(const struct insn *in)
{
	u8 opcode = in->op->opcode;

	if (in->op->map != MAP_ONE)
		return opcode;
	if (is_inc_dec(in))
		return 0xff;
	if (opcode >= 0xa0 && opcode <= 0xa3) /* MOV by absolute address: by ModRM */
		return 0x88 | (opcode & 1) | (opcode < 0xa2 ? 2 : 0);
	return opcode == 0x82 ? 0x80 : opcode;
}

/* Outside 64-bit mode, W selects some vector instructions and says nothing to the others. */
static bool w_counts(const struct insn *in)
{
	return in->mode == MODE_64 || (in->op->cls == CLS_NATIVE && !native_w_is_size(in));
}

static void opcode_fields(const struct emit *e, const struct insn *in, struct opcode *c)
{
	static const u8 prefix[16] = { [PP_66] = 1, [PP_F3] = 2, [PP_F2] = 3 };
	u8 map = in->op->map, pp = in->op->pp;
	bool x87 = map_is_x87(map), vex = in->prefixes & PFX_VEX;

	c->o = (struct x64_op){
		.map = x87   ? X64_MAP_1
		       : vex ? map - MAP_V0F + X64_MAP_0F
			     : map,
		.opcode = x87 ? 0xd8 + map - MAP_D8 : opcode_of(in),
		.pp = vex   ? in->pp
		      : x87 ? 0
			    : prefix[pp],
		.vex = vex,
		.l = in->vexl,
		.w = in->rex & 8 && w_counts(in),
		.osz = !vex && !x87 && in->op->cls != CLS_NATIVE && in->prefixes & PFX_OPSIZE &&
		       pp != PP_66,
	};
	c->reg.reg = c->rm.reg = c->vvvv.reg = REG_NONE;
	c->reg.host = c->rm.host = c->vvvv.host = REG_NONE;
	c->avoid = wanted(e, in);
	c->o.mem = insn_has_mem(in);
	if (x87) {
		c->modrm = true;
		c->o.w = false;
		c->o.mem = in->modrm < 0xc0;
		c->o.reg = in->modrm >> 3 & 7;
		c->o.rm = in->modrm & 7;
		if (c->o.mem)
			host_at_put(&c->o, &e->mem);
	} else if (is_inc_dec(in)) {
		c->modrm = true;
		c->o.reg = in->op->opcode >> 3 & 1;
	} else if (in->op->ext <= EXT_7 || (in->op->ext & EXT_REG && in->op->ext < EXT___)) {
		c->modrm = true;
		c->o.reg = in->op->ext & 7;
	}
}

/* Opcode with a register in its low bits. */
static void emit_short(struct x64 *a, struct opcode *c)
{
	c->o.no_modrm = true;
	c->o.opcode = (u8)((c->o.opcode & ~7) | (c->o.rm & 7));
	c->o.reg = 0; /* REX.R says nothing here */
	x64_op(a, &c->o);
}

static bool is_short(const struct insn *in)
{
	if (is_inc_dec(in))
		return false;
	for (unsigned n = 0; n < in->nopd; n++)
		if (form_of(in, n) == FORM_Z)
			return true;
	return false;
}

/* XCHG with memory, which is locked by itself, without being so. */
static void emit_exchange(struct emit *e, const struct opcode *c)
{
	unsigned t = c->avoid & 1 << T1 ? T2 : T1;
	struct x64_op o = { .w = c->reg.size == 8,
			    .osz = c->reg.size == 2,
			    .rex = true };
	u8 wide = c->reg.size > 1;

	emit_scratch(e, t);
	host_at_put(&o, &e->mem);
	o.opcode = 0x8a | wide, o.reg = (u8)t;
	x64_op(e->a, &o);
	o.opcode = 0x88 | wide, o.reg = c->reg.host;
	x64_op(e->a, &o);
	o.mem = o.has_index = false;
	o.rm = c->reg.host, o.reg = (u8)t;
	x64_op(e->a, &o);
}

static void emit_encoded(struct emit *e, const struct insn *in, struct opcode *c)
{
	struct x64 *a = e->a;
	bool alone = tcg_may_drop_lock(e->c);

	if (alone && in->op->exec.self == exec_XCHG && c->o.mem && c->reg.host != REG_NONE) {
		emit_exchange(e, c);
		return;
	}
	if (in->prefixes & PFX_LOCK && !alone)
		x64_u8(a, 0xf0);
	if (is_short(in)) {
		emit_short(a, c);
	} else {
		c->o.no_modrm = !c->modrm;
		x64_op(a, &c->o);
	}
	for (unsigned n = 0; n < c->imm_len; n++)
		x64_u8(a, (u8)(c->imm >> 8 * n));
}

void op_emit(struct emit *e, unsigned i)
{
	const struct insn *in = e->insn[i];
	struct opcode c = { 0 };
	insn_fn self = in->op->exec.self;
	/* DIV, and CMPXCHG16B if it is not aligned */
	bool faults = self == exec_DIV || self == exec_IDIV || self == exec_CMPXCHG16B;

	if (x87_notes(in))
		x87_note(e, i);
	opcode_fields(e, in, &c);
	for (unsigned n = 0; n < in->nopd; n++)
		operand(e, in, n, &c);
	if (in->op->cls == CLS_NATIVE || faults)
		site_add(e, i);
	emit_encoded(e, in, &c);
	place_put(e, &c.rm);
	place_put(e, &c.vvvv);
	place_put(e, &c.reg);
}
