/* oracle_gen.c - random cases: an encoding of the wanted row, registers, memory.
 *
 * Bytes are drawn from the row's description and decoded; if that does not give the row back, the
 * draw is lost.  Then the registers of the address are solved for a chosen target, and implicit
 * operands (stack, strings, jump targets, selectors) get values that mean something: wholly random
 * ones would only fault. */
#include "oracle_gen.h"

/* --- solving addresses ------------------------------------------------------------------------ */
static const struct opd *mem_opd(const struct insn *in)
{
	for (unsigned i = 0; i < in->nopd; i++)
		if (in->opd[i].kind == OPD_MEM)
			return &in->opd[i];
	return NULL;
}

static u64 seg_base_of(const struct test_case *t)
{
	return t->in.seg == SEG_FS ? t->start.fs_base : t->in.seg == SEG_GS ? t->start.gs_base : 0;
}

static bool patch_disp(struct draft *d, u64 disp)
{
	struct test_case *t = d->t;
	bool sib = (t->in.modrm & 7) == 4;

	if (disp != (u64)(s32)disp)
		return false;
	st32(t->code + d->modrm_at + 1 + sib, (u32)disp);
	return decode(&t->in, t->code, 15, d->mode) == (int)t->len;
}

/* Choose registers or displacement so that the operand lies at lin. */
static bool solve(struct draft *d, u64 lin)
{
	struct test_case *t = d->t;
	const struct insn *in = &t->in;
	u64 *gpr = t->start.gpr, ea = lin - seg_base_of(t), want = ea - insn_disp(in), high;
	bool vsib = has(d, 1ull << FORM_VSIB), index = in->index != REG_NONE && !vsib;
	unsigned reg;

	if (in->asize == 2)
		return true;
	if (has(d, 1ull << FORM_O)) {
		st64(t->code + t->len - in->asize, ea);
		return decode(&t->in, t->code, 15, d->mode) == (int)t->len;
	}
	if (in->base == REG_RIP)
		return patch_disp(d, ea - (t->start.rip + t->len));
	if (in->base == REG_NONE && !index)
		return patch_disp(d, ea);
	reg = in->base != REG_NONE ? in->base : in->index;
	if (in->base == REG_NONE)
		want = (u64)((s64)want >> in->scale);
	else if (index && in->base != in->index)
		want -= gpr[in->index] << in->scale;
	else if (index)
		want = (u64)((s64)want / (1 + (1 << in->scale)));
	high = in->asize == 4 && chance(50) ? gen_random() << 32 : 0;
	if (d->mode != MODE_64)
		high = 0;
	gpr[reg] = in->asize == 4 ? (u32)want | high : want;
	return true;
}

static u64 operand_lin(const struct draft *d)
{
	const struct insn *in = &d->t->in;
	const u64 *gpr = d->t->start.gpr;
	u64 ea = insn_disp(in);

	if (in->base == REG_RIP)
		ea += d->t->start.rip + d->t->len;
	else if (in->base != REG_NONE)
		ea += gpr[in->base];
	if (in->index != REG_NONE && !has(d, 1ull << FORM_VSIB))
		ea += gpr[in->index] << in->scale;
	return (ea & addr_mask(in)) + seg_base_of(d->t);
}

/* --- what particular instructions want -------------------------------------------------------- */
static bool runs(const struct op *row, insn_fn fn)
{
	return row->cls == CLS_SELF && row->exec.self == fn;
}

static bool runs_any(const struct op *row, const insn_fn *fn)
{
	while (*fn)
		if (runs(row, *fn++))
			return true;
	return false;
}

static const insn_fn fp_handlers[] = {
	exec_FXSAVE,   exec_FXRSTOR, exec_LDMXCSR,  exec_STMXCSR,    exec_XSAVE,   exec_XRSTOR,
	exec_XSAVEOPT, exec_XSAVEC,  exec_MASKMOVQ, exec_MASKMOVDQU, exec_MASKMOV, exec_GATHER,
	exec_FLDENV,   exec_FNSTENV, exec_FRSTOR,   exec_FNSAVE,     exec_FWAIT,   NULL
};
static const insn_fn image_handlers[] = { exec_FXSAVE,	 exec_FXRSTOR, exec_XSAVE, exec_XRSTOR,
					  exec_XSAVEOPT, exec_XSAVEC,  NULL };
static const insn_fn xsave_handlers[] = { exec_XSAVE, exec_XRSTOR, exec_XSAVEOPT, exec_XSAVEC,
					  NULL };
static const insn_fn sel_handlers[] = { exec_MOV_TO_SREG, exec_POP_SREG, exec_LAR, exec_LSL,
					exec_VERR,	  exec_VERW,	 NULL };
static const insn_fn seg_handlers[] = {
	exec_MOV_TO_SREG, exec_POP_SREG, exec_LFS,     exec_LGS,
	exec_LSS,	  exec_LDS,	 exec_LES,     exec_MOV_FROM_SREG,
	exec_PUSH_SREG,	  exec_CALL_FAR, exec_JMP_FAR, exec_RET_FAR,
	exec_IRET,	  NULL
};
static const insn_fn base_handlers[] = { exec_RDFSBASE, exec_RDGSBASE, exec_WRFSBASE, exec_WRGSBASE,
					 NULL };
static const insn_fn far_mem_handlers[] = { exec_LFS, exec_LGS,	     exec_LSS,	   exec_LDS,
					    exec_LES, exec_CALL_FAR, exec_JMP_FAR, NULL };

static u64 a_selector(void)
{
	static const u16 sel[] = { 0,	 3,    0x23, 0x2b, 0x2b, 0x33, 0x7b, 0x08, 0x10,
				   0x18, 0x28, 0x40, 0x4b, 0x0c, 0x83, 7,    4 };

	return chance(85) ? sel[below(ARRAY_LEN(sel))] : (u16)gen_random();
}

/* How many bytes at the operand matter. */
static unsigned operand_bytes(const struct op *row, const struct opd *o)
{
	if (runs_any(row, xsave_handlers))
		return XSAVE_BYTES;
	return runs_any(row, image_handlers) ? 512 : o->size ? o->size : 16;
}

static void prepare_image(struct test_case *t, u64 lin)
{
	u8 image[XSAVE_BYTES];

	if (!gen_in_data(lin, XSAVE_BYTES) ||
	    !(runs(t->row, exec_XRSTOR) || runs(t->row, exec_FXRSTOR)))
		return;
	memcpy(image, t->start.fx, sizeof image);
	st64(image + 512, below(8));
	if (chance(40))
		st64(image + 520, BIT(63) | below(8));
	if (chance(30))
		image[chance(50) ? 512 + below(32) : 24 + below(4)] = (u8)gen_random();
	image[512] &= 0x1f; /* not what the host has beyond AVX */
	image[520] &= 0x1f;
	poke(lin, image, sizeof image);
}

/* BT and its kin with a register: the offset counts bits from the operand, either way. */
static bool prepare_bit_offset(struct test_case *t)
{
	const struct insn *in = &t->in;
	u8 reg = in->opd[1].reg;

	if (!runs_any(t->row, (const insn_fn[]){ exec_BT_MEM, exec_BTS_MEM, exec_BTR_MEM,
						 exec_BTC_MEM, NULL }) ||
	    in->opd[1].kind != OPD_REG)
		return true;
	t->start.gpr[reg] = (u64)((s64)below(8192) - 4096) &
			    (in->opd[1].size == 2 ? 0xffff : ~0ull);
	return reg != in->base && reg != in->index;
}

static void prepare_gather(struct test_case *t)
{
	u8 *xmm = t->start.fx + FXSAVE_XMM_OFF + 16 * t->in.index;
	u8 *ymm = t->start.fx + XSAVE_YMM_OFF + 16 * t->in.index;
	bool wide = t->row->opcode & 1;

	t->start.fx[XSAVE_HEADER_OFF] = 7;
	for (unsigned i = 0; i < 16; i += wide ? 8 : 4) {
		s64 a = (s64)below(256) - 128, b = (s64)below(256) - 128;

		if (wide)
			st64(xmm + i, (u64)a), st64(ymm + i, (u64)b);
		else
			st32(xmm + i, (u32)a), st32(ymm + i, (u32)b);
	}
}

static bool is_ours(u64 lin)
{
	return (lin + 4096 > CODE && lin < CODE_END + 4096) ||
	       (lin + 4096 > LOW && lin < LOW + LOW_BYTES + 4096);
}

static bool prepare_memory(struct draft *d)
{
	struct test_case *t = d->t;
	const struct opd *o = mem_opd(&t->in);
	unsigned bytes;
	u64 lin;

	if (!o || t->row->flags & F_NOMEM)
		return !o || !is_ours(operand_lin(d));
	bytes = operand_bytes(t->row, o);
	if (!prepare_bit_offset(t))
		return false;
	lin = bytes >= 16 && chance(80)
		      ? ALIGN_DOWN(gen_target(bytes), 64) + (bytes == 16 ? 16 * below(4) : 0)
		      : gen_target(bytes);
	if (runs_any(t->row, xsave_handlers) && (t->in.base == RAX || t->in.index == RAX))
		return false; /* RAX says what to save */
	if (!solve(d, lin))
		return false;
	lin = operand_lin(d);
	if (is_ours(lin))
		return false; /* a store there would be a different test */
	if (runs(t->row, exec_GATHER))
		prepare_gather(t);
	else if (runs_any(t->row, image_handlers))
		prepare_image(t, lin);
	else if (runs_any(t->row, sel_handlers))
		gen_poke_value(lin, a_selector(), 2);
	else if (runs_any(t->row, far_mem_handlers))
		gen_poke_value(lin, gen_code_target(t), 8),
			gen_poke_value(lin + o->size - 2,
				       chance(30)   ? SEL_CS64
				       : chance(30) ? SEL_CS32
						    : a_selector(),
				       2);
	else if (runs(t->row, exec_JMP) || runs(t->row, exec_CALL))
		gen_poke_value(lin, chance(85) ? gen_code_target(t) : gen_value(), 8);
	else if (runs(t->row, exec_LDMXCSR))
		gen_poke_value(lin, gen_random() & (chance(90) ? 0xffff : ~0ull), 4);
	else if (chance(70))
		gen_poke_random(lin, bytes);
	if (runs(t->row, exec_CMPXCHG) && chance(50))
		gen_poke_value(lin, t->start.gpr[RAX], o->size);
	if (runs(t->row, exec_CMPXCHG8B) && chance(50))
		gen_poke_value(lin, (u32)t->start.gpr[RAX] | t->start.gpr[RDX] << 32, 8);
	if (runs(t->row, exec_CMPXCHG16B) && chance(50))
		gen_poke_value(lin, t->start.gpr[RAX], 8),
			gen_poke_value(lin + 8, t->start.gpr[RDX], 8);
	return true;
}

static void prepare_string(struct test_case *t)
{
	const struct insn *in = &t->in;
	bool narrow = in->mode == MODE_64 && in->asize == 4;
	u64 *gpr = t->start.gpr, high = narrow && chance(50) ? gen_random() << 32 : 0;
	bool used = false;

	for (unsigned i = 0; i < in->nopd; i++) {
		u64 at = chance(50) ? gen_target_mostly_plain(in->opd[i].size)
				    : gen_target(in->opd[i].size);

		if (in->opd[i].kind == OPD_STR_SRC)
			gpr[RSI] = (at - seg_base_of(t)) | high, used = true;
		if (in->opd[i].kind == OPD_STR_DST)
			gpr[RDI] = at | high, used = true;
		if (used && chance(30))
			gen_poke_random(at, 32);
	}
	if (!used)
		return;
	if (in->prefixes & (PFX_REP | PFX_REPNE))
		gpr[RCX] = (chance(90) ? below(20) : below(700)) | high;
	if (chance(40))
		t->start.flags |= FL_DF;
	if (chance(40)) /* equal bytes, for SCAS and CMPS to run over */
		gpr[RAX] = 0x0101010101010101 * (gen_random() & 1);
}

/* The top of the stack, as the instruction will want it. */
static void prepare_stack(struct test_case *t)
{
	struct regs *r = &t->start;
	if (runs(t->row, exec_RET_FAR) && t->in.opd[0].kind == OPD_IMM) {
		st16(t->code + t->len - 2, (u16)below(64)); /* near, or the order of checks shows */
		decode(&t->in, t->code, 15, t->in.mode);
	}
	bool is_64 = t->in.mode == MODE_64;
	u64 frame[5] = { gen_code_target(t), chance(90) == is_64 ? SEL_CS64 : SEL_CS32,
			 (gen_random() & ~(u64)(FL_TF | FL_NT)) | 2, gen_target_mostly_plain(8),
			 SEL_DATA };
	bool iret = runs(t->row, exec_IRET), far = iret || runs(t->row, exec_RET_FAR);

	if (far && is_64 && chance(50))
		frame[chance(50) ? 1 : 4] = a_selector();
	if (runs(t->row, exec_RET))
		gen_poke_value(r->gpr[RSP], chance(85) ? frame[0] : gen_value(), 8);
	else if (runs(t->row, exec_POPF))
		gen_poke_value(r->gpr[RSP], frame[2], t->in.size);
	else if (runs(t->row, exec_POP_SREG))
		gen_poke_value(r->gpr[RSP], a_selector(), 8);
	else if (far)
		for (unsigned i = 0; i < (iret ? 5u : 2u); i++)
			gen_poke_value(r->gpr[RSP] + i * t->in.size, frame[i], t->in.size);
}

static bool prepare_jump(struct test_case *t)
{
	const struct insn *in = &t->in;
	u64 next = t->start.rip + t->len, to;

	if (in->opd[0].kind == OPD_FAR && in->size == 4) {
		st32(t->code + t->len - 6, (u32)gen_code_target(t));
		st16(t->code + t->len - 2, chance(40)	? SEL_CS32
					   : chance(30) ? SEL_CS64
							: (u16)a_selector());
		return decode(&t->in, t->code, 15, in->mode) == (int)t->len;
	}
	if (in->opd[0].kind == OPD_REL) {
		if (in->opd[0].size == 4 && chance(70)) {
			st32(t->code + t->len - 4, (u32)(gen_code_target(t) - next));
			if (decode(&t->in, t->code, 15, in->mode) != (int)t->len)
				return false;
		}
		to = next + (u64)in->imm;
		return to + 16 <= t->start.rip || to >= next + 32;
	}
	if ((runs(t->row, exec_JMP) || runs(t->row, exec_CALL)) && in->opd[0].kind == OPD_REG)
		t->start.gpr[in->opd[0].reg] = chance(85) ? gen_code_target(t) : gen_value();
	return true;
}

static void prepare_registers(struct test_case *t)
{
	const struct insn *in = &t->in;
	u64 *gpr = t->start.gpr;

	if (runs(t->row, exec_LEAVE) || runs(t->row, exec_ENTER))
		gpr[RBP] = gen_target_mostly_plain(8);
	if (runs_any(t->row, xsave_handlers))
		gpr[RAX] = chance(80)
				   ? below(8)
				   : gen_random() & ~0xe0ull; /* not what the host has beyond AVX */
	if (runs(t->row, exec_XLAT))
		gpr[RBX] = gen_target(1) - (u8)gpr[RAX];
	if (runs(t->row, exec_MASKMOVDQU) || runs(t->row, exec_MASKMOVQ))
		gpr[RDI] = gen_target(16) - seg_base_of(t);
	if (runs(t->row, exec_CMPXCHG) && in->opd[0].kind == OPD_REG && chance(50))
		gpr[RAX] = gpr[in->opd[0].reg];
	if ((runs(t->row, exec_DIV) || runs(t->row, exec_IDIV)) && chance(70))
		gpr[RDX] = chance(50) ? 0 : (u64)((s64)gpr[RAX] >> 63);
	if (runs_any(t->row, sel_handlers))
		for (unsigned i = 0; i < in->nopd; i++)
			if (in->opd[i].kind == OPD_REG && !(i == 0 && t->row->flags & F_W0))
				gpr[in->opd[i].reg] = a_selector() | (gen_random() & ~0xffffull);
}

/* Encodings that mean different things to different makers' processors, or harm ourselves. */
static bool is_unfit(const struct insn *in)
{
	bool wide = in->rex & 8;

	/* The target would be the stack pointer, into the code. */
	if (in->opd[0].kind == OPD_REG && in->opd[0].reg == RSP &&
	    (runs(in->op, exec_JMP) || runs(in->op, exec_CALL)))
		return true;
	/* Near branch with 66 in 64-bit mode: Intel ignores the prefix, AMD truncates RIP. */
	if (in->mode == MODE_64 && in->prefixes & PFX_OPSIZE && !wide &&
	    (in->opd[0].kind == OPD_REL || runs(in->op, exec_JMP) || runs(in->op, exec_CALL) ||
	     runs(in->op, exec_RET)))
		return true;
	/* MOVSXD to 16 bits: AMD reads 32. */
	if (in->op->map == MAP_ONE && in->op->opcode == 0x63 && in->size == 2)
		return true;
	/* LOOPE and LOOPNE with a REP prefix: on AMD the prefix chooses the condition. */
	if ((runs(in->op, exec_LOOPE) || runs(in->op, exec_LOOPNE)) &&
	    in->prefixes & (PFX_REP | PFX_REPNE))
		return true;
	/* 64-bit offset in a far pointer: AMD has none. */
	return wide && runs_any(in->op, far_mem_handlers);
}

/* --- a case ----------------------------------------------------------------------------------- */
static u64 random_flags(void)
{
	u64 r = gen_random();

	return 0x202 | (r & FL_ARITH) | (chance(5) ? FL_DF : 0) | (chance(1) ? FL_AC : 0) |
	       (chance(5) ? FL_ID : 0);
}

/* Mostly in the middle of a page; else across the two pages, or at the end of what is mapped. */
static u64 random_rip(const struct test_case *t)
{
	unsigned r = below(100);

	if (r < 94)
		return CODE + 512 + below(3000);
	if (r < 98)
		return CODE + 4096 - below(t->len + 1);
	return CODE_END - 1 - below(t->len);
}

/* An instruction that looks at the flags, behind one that sets them: the block cache fuses some
 * pairs. */
static void append_consumer(struct test_case *t)
{
	static const u16 reads[8] = { FL_OF, FL_CF, FL_ZF,	   FL_CF | FL_ZF,
				      FL_SF, FL_PF, FL_SF | FL_OF, FL_SF | FL_OF | FL_ZF };
	u8 cond = (u8)below(16), *p = t->code + t->len, reg = (u8)below(8);

	if (reads[cond >> 1] & t->row->fl_undef)
		return; /* the translator may lose those */
	switch (below(4)) {
	case 0: /* Jcc rel8, onto filling */
		*p++ = 0x70 | cond;
		*p++ = (u8)(chance(50) ? 32 + below(64) : 160 + below(32));
		break;
	case 1: /* Jcc rel32 */
		*p++ = 0x0f;
		*p++ = 0x80 | cond;
		st32(p, (u32)(gen_code_target(t) - (t->start.rip + t->len + 6)));
		p += 4;
		break;
	case 2: /* SETcc on a low byte register */
		*p++ = 0x0f;
		*p++ = 0x90 | cond;
		*p++ = 0xc0 | (reg & 3);
		break;
	default: /* CMOVcc */
		*p++ = 0x0f;
		*p++ = 0x40 | cond;
		*p++ = 0xc0 | reg << 3 | (u8)below(4);
	}
	t->len = (unsigned)(p - t->code);
}

bool gen_case(struct test_case *t, const struct op *row, enum cpu_mode mode)
{
	struct draft d = { .t = t, .mode = mode };
	struct regs *r = &t->start;

	memset(t, 0, offsetof(struct test_case, start.fx));
	t->row = row;
	t->undef = row->fl_undef;
	gen_wide_addresses = mode == MODE_64;
	if (!gen_draft_bytes(&d, row) || is_unfit(&t->in))
		return false;
	t->fp = row->cls == CLS_NATIVE || runs_any(row, fp_handlers);
	t->segs = runs_any(row, seg_handlers);
	t->how = chance(34) ? HOW_ONE : HOW_BLOCK + below(2);
	for (unsigned i = 0; i < (mode == MODE_64 ? 16 : 8); i++)
		r->gpr[i] = gen_value();
	r->flags = random_flags();
	r->rip = random_rip(t);
	t->own_bases = (mode == MODE_64 && t->in.seg >= SEG_FS) || runs_any(row, base_handlers);
	r->fs_base = t->own_bases ? gen_random() & 0x7fff000 : 0;
	r->gs_base = t->own_bases ? gen_random() & 0x7fff000 : 0;
	r->gpr[RSP] = gen_target_mostly_plain(8);
	if (t->fp) {
		gen_fp(t);
		r->flags &= ~(
			u64)FL_AC; /* whether vector operands are checked is up to the processor */
	}
	if (runs(row, exec_IRET) && chance(10))
		r->flags |= FL_NT; /* not elsewhere: a task switch of the host may clear it */
	if (r->flags & FL_AC && t->how == HOW_TRANSLATED)
		t->how = HOW_BLOCK; /* there a split instruction is left to the interpreter, again
				       and again */
	prepare_registers(t);
	prepare_string(t);
	if (!prepare_memory(&d) || !prepare_jump(t))
		return false;
	prepare_stack(t);
	if (t->how != HOW_ONE && row->cls == CLS_DRV && row->fl_write && r->rip < CODE + 3600 &&
	    chance(30))
		append_consumer(t);
	for (unsigned i = 0; mode != MODE_64 && i < 8; i++)
		r->gpr[i] = (u32)r->gpr[i];
	return !is_ours(r->gpr[RSP]) && !is_ours(r->gpr[RSI]) && !is_ours(r->gpr[RDI]);
}

const char *gen_skip_reason(const struct op *row, enum cpu_mode mode)
{
	static const struct {
		insn_fn fn;
		const char *why;
	} list[] = {
		{ exec_SYSCALL, "enters the host's kernel" },
		{ exec_SYSENTER, "enters the host's kernel" },
		{ exec_INTn, "enters the host's kernel" },
		{ exec_INT3, "delivered through the IDT, not reported" },
		{ exec_INT1, "delivered through the IDT, not reported" },
		{ exec_INTO, "delivered through the IDT, not reported" },
		{ exec_RDTSC, "differs from run to run" },
		{ exec_RDTSCP, "differs from run to run" },
		{ exec_RDPMC, "whether ring 3 may is the host kernel's choice" },
		{ exec_RDRAND, "differs from run to run" },
		{ exec_RDSEED, "differs from run to run" },
		{ exec_RDPID, "the host kernel's TSC_AUX" },
		{ exec_CPUID, "shows our CPU model, not the host's" },
		{ exec_SERIALIZE, "changes no state, and hosts may lack it" },
		{ exec_XGETBV, "the host's XCR0 has more components" },
		{ exec_HYPERCALL, "leaves the virtual machine, if the host is one" },
		{ exec_SGDT, "shows the host kernel's table, or UMIP" },
		{ exec_SIDT, "shows the host kernel's table, or UMIP" },
		{ exec_SLDT, "shows the host kernel's table, or UMIP" },
		{ exec_STR, "shows the host kernel's table, or UMIP" },
		{ exec_SMSW, "shows the host kernel's CR0, or UMIP" },
	};

	if (row->cls == CLS_UD)
		return "names encodings that are #UD";
	for (unsigned i = 0; i < ARRAY_LEN(list); i++)
		if (runs(row, list[i].fn))
			return list[i].why;
	if (mode == MODE_64 ? row->flags & F_I64 : row->flags & F_O64)
		return mode == MODE_64 ? "does not exist in 64-bit mode"
				       : "exists only in 64-bit mode";
	if (!native_side_has_fsgsbase() && runs_any(row, base_handlers))
		return "the host kernel forbids it";
	return NULL;
}
