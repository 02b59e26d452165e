/* seg.c - segment registers: descriptors, loads with their checks, what is derived from them.
 *
 * Owns c->cpl, mode, long_mode, stack_size, flat and fp_ok_*; runs on the vCPU's thread.
 * Source: SDM vol 3 "Protected-Mode Memory Management", "Protection"; MOV, LDS, POP in vol 2.
 * Choices where processors differ: loading a null selector clears the base of FS and GS (Intel;
 * AMD with NullSelectorClearsBase, which cpuid.c shows). */
#include "seg.h"

struct seg_reg desc_to_seg(u16 sel, const struct desc *d)
{
	u32 limit = (u32)(d->d & 0xffff) | ((u32)(d->d >> 32) & 0xf0000);

	if (d->attr & ATTR_G)
		limit = limit << 12 | 0xfff;
	return (struct seg_reg){
		.sel = sel,
		.attr = d->attr,
		.limit = limit,
		.base = (d->d >> 16 & 0xffffff) | (d->d >> 32 & 0xff000000),
	};
}

struct seg_reg seg_null(u16 sel)
{
	return (struct seg_reg){ .sel = sel, .attr = ATTR_UNUSABLE };
}

int desc_probe(struct tcg_cpu *c, u16 sel, struct desc *out)
{
	const struct cpu_state *s = &c->v.s;
	u64 base = s->gdt.base, limit = s->gdt.limit;

	if (sel & 4) {
		if (s->ldt.attr & ATTR_UNUSABLE || !(s->ldt.attr & ATTR_P))
			return 0;
		base = s->ldt.base;
		limit = s->ldt.limit;
	}
	if ((sel | 7u) > limit)
		return 0;
	out->at = base + (sel & ~7u);
	if (!lin_load_sys(c, out->at, 8, &out->d))
		return -1;
	out->attr = desc_attr(out->d);
	return 1;
}

bool desc_fetch(struct tcg_cpu *c, u8 vec, u16 sel, unsigned ext, struct desc *out)
{
	int got = desc_probe(c, sel, out);

	return got > 0 || (got == 0 && raise_sel(c, vec, sel, ext));
}

bool desc_fetch_high(struct tcg_cpu *c, u8 vec, u16 sel, unsigned ext, const struct desc *low,
		     u64 *high)
{
	u64 limit = sel & 4 ? c->v.s.ldt.limit : c->v.s.gdt.limit;

	if ((sel | 7u) + 8ull > limit)
		return raise_sel(c, vec, sel, ext);
	return lin_load_sys(c, low->at + 8, 8, high);
}

bool desc_touch(struct tcg_cpu *c, struct desc *d)
{
	if (d->attr & TYPE_A)
		return true;
	d->attr |= TYPE_A;
	d->d |= BIT(40);
	return lin_store_sys(c, d->at + 5, 1, d->d >> 40 & 0xff);
}

/* --- derived state ---------------------------------------------------------------------------- */
/* No check can fail on a data access of up to 4 GiB through r. */
static bool seg_is_open(const struct tcg_cpu *c, const struct seg_reg *r)
{
	if (r->limit != 0xffffffff)
		return false;
	return seg_is_real(c) || (attr_is_wdata(r->attr) && !(r->attr & (TYPE_E | ATTR_UNUSABLE)));
}

static void refresh_seg(struct tcg_cpu *c, enum sreg seg)
{
	u8 open = seg_is_open(c, &c->v.s.seg[seg]), flat = open && !c->v.s.seg[seg].base;

	c->open = (u8)((c->open & ~(1u << seg)) | open << seg);
	c->flat = (u8)((c->flat & ~(1u << seg)) | flat << seg);
}

static void refresh_mode(struct tcg_cpu *c)
{
	const struct cpu_state *s = &c->v.s;
	u32 cs = s->seg[SEG_CS].attr;
	bool vm = s->rflags & FL_VM;

	c->long_mode = s->efer & EFER_LMA;
	c->cpl = !(s->cr0 & CR0_PE) ? 0 : vm ? 3 : (u8)attr_dpl(s->seg[SEG_SS].attr);
	if (c->long_mode && cs & ATTR_L)
		c->mode = MODE_64;
	else
		c->mode = cs & ATTR_DB && !vm ? MODE_32 : MODE_16;
	c->stack_size = c->mode == MODE_64 ? 8 : s->seg[SEG_SS].attr & ATTR_DB ? 4 : 2;
}

static void refresh_fp(struct tcg_cpu *c)
{
	const struct cpu_state *s = &c->v.s;
	bool on = !(s->cr0 & (CR0_EM | CR0_TS));

	c->fp_ok_x87 = on;
	c->fp_ok_sse = on && s->cr4 & CR4_OSFXSR;
	c->fp_ok_avx = !(s->cr0 & CR0_TS) && s->cr4 & CR4_OSXSAVE && (s->xcr0 & 6) == 6 &&
		       !seg_is_real(c);
}

void seg_refresh(struct tcg_cpu *c)
{
	refresh_mode(c);
	refresh_fp(c);
	for (unsigned seg = 0; seg < SEG_NR; seg++)
		refresh_seg(c, seg);
	mmu_select(c);
}

void seg_put(struct tcg_cpu *c, enum sreg seg, struct seg_reg r)
{
	c->v.s.seg[seg] = r;
	refresh_seg(c, seg);
	if (seg != SEG_CS && seg != SEG_SS)
		return;
	u8 cpl = c->cpl;

	refresh_mode(c);
	if (c->cpl != cpl)
		mmu_select(c);
}

void seg_put_base(struct tcg_cpu *c, enum sreg seg, u64 base)
{
	c->v.s.seg[seg].base = base;
	refresh_seg(c, seg);
}

void seg_put_cs_real(struct tcg_cpu *c, u16 sel)
{
	struct seg_reg r = c->v.s.seg[SEG_CS];

	r.sel = sel;
	r.base = (u64)sel << 4;
	if (c->v.s.rflags & FL_VM) {
		r.limit = 0xffff;
		r.attr = 0xf3;
	}
	seg_put(c, SEG_CS, r);
}

/* --- loading data and stack segments ---------------------------------------------------------- */
static bool load_real(struct tcg_cpu *c, enum sreg seg, u16 sel)
{
	struct seg_reg r = c->v.s.seg[seg];

	r.sel = sel;
	r.base = (u64)sel << 4;
	if (c->v.s.rflags & FL_VM) {
		r.limit = 0xffff;
		r.attr = 0xf3;
	} else { /* the limit stays as it was: "unreal" mode */
		r.attr &= ~(u32)ATTR_UNUSABLE;
	}
	seg_put(c, seg, r);
	return true;
}

/* In 64-bit mode rings 0 to 2 may have a null stack segment. */
static bool load_null(struct tcg_cpu *c, enum sreg seg, u16 sel)
{
	struct seg_reg r = seg_null(sel);

	if (seg == SEG_SS) {
		if (c->mode != MODE_64 || c->cpl == 3 || (sel & 3) != c->cpl)
			return raise_err(c, EXC_GP, 0);
		r.attr |= (u32)c->cpl << ATTR_DPL_SHIFT;
	}
	seg_put(c, seg, r);
	return true;
}

bool seg_check_stack(struct tcg_cpu *c, u8 vec, u16 sel, unsigned cpl, unsigned ext,
		     struct seg_reg *out)
{
	struct desc d;

	if (sel_null(sel))
		return raise_err(c, vec, ext);
	if (!desc_fetch(c, vec, sel, ext, &d))
		return false;
	if ((sel & 3u) != cpl || !attr_is_wdata(d.attr) || attr_dpl(d.attr) != cpl)
		return raise_sel(c, vec, sel, ext);
	if (!(d.attr & ATTR_P))
		return raise_sel(c, EXC_SS, sel, ext);
	if (!desc_touch(c, &d))
		return false;
	*out = desc_to_seg(sel, &d);
	return true;
}

bool seg_load(struct tcg_cpu *c, enum sreg seg, u16 sel)
{
	struct seg_reg r;
	struct desc d;

	if (seg_is_real(c))
		return load_real(c, seg, sel);
	if (sel_null(sel))
		return load_null(c, seg, sel);
	if (seg == SEG_SS) {
		if (!seg_check_stack(c, EXC_GP, sel, c->cpl, 0, &r))
			return false;
		seg_put(c, seg, r);
		return true;
	}
	if (!desc_fetch(c, EXC_GP, sel, 0, &d))
		return false;
	bool code = attr_is_code(d.attr), conforming = code && d.attr & TYPE_C;

	if (!(d.attr & ATTR_S) || (code && !(d.attr & TYPE_R)))
		return raise_sel(c, EXC_GP, sel, 0);
	if (!conforming && (attr_dpl(d.attr) < c->cpl || attr_dpl(d.attr) < (sel & 3u)))
		return raise_sel(c, EXC_GP, sel, 0);
	if (!(d.attr & ATTR_P))
		return raise_sel(c, EXC_NP, sel, 0);
	if (!desc_touch(c, &d))
		return false;
	seg_put(c, seg, desc_to_seg(sel, &d));
	return true;
}

void seg_drop_inner(struct tcg_cpu *c)
{
	static const enum sreg data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned i = 0; i < ARRAY_LEN(data); i++) {
		const struct seg_reg *r = &c->v.s.seg[data[i]];
		bool conforming = attr_is_code(r->attr) && r->attr & TYPE_C;
		struct seg_reg none = seg_null(0);

		none.base = r->base; /* FS and GS keep what an MSR gave them */
		if (!sel_null(r->sel) && !conforming && attr_dpl(r->attr) < c->cpl)
			seg_put(c, data[i], none);
	}
}

/* --- addresses -------------------------------------------------------------------------------- */
static bool limit_ok(const struct seg_reg *r, u64 off, unsigned size)
{
	u64 last = off + size - 1;

	if ((r->attr & (ATTR_S | TYPE_CODE | TYPE_E)) == (ATTR_S | TYPE_E)) /* expand-down */
		return off > r->limit && last <= (r->attr & ATTR_DB ? 0xffffffff : 0xffff);
	/* A 4 GiB segment has no end: the access goes on at offset 0. */
	return last <= r->limit || r->limit == 0xffffffff;
}

static bool type_ok(const struct tcg_cpu *c, const struct seg_reg *r, enum access acc)
{
	if (seg_is_real(c))
		return true;
	if (r->attr & ATTR_UNUSABLE)
		return false;
	if (acc & ACC_W)
		return attr_is_wdata(r->attr);
	return !(r->attr & TYPE_CODE) || r->attr & TYPE_R;
}

bool seg_lin_slow(struct tcg_cpu *c, enum sreg seg, u64 off, unsigned size, enum access acc,
		  gva_t *lin)
{
	const struct seg_reg *r = &c->v.s.seg[seg];

	if (!type_ok(c, r, acc) || !limit_ok(r, off, size))
		return raise_err(c, seg == SEG_SS ? EXC_SS : EXC_GP, 0);
	*lin = (u32)(r->base + off);
	return true;
}

bool code_offset_ok(struct tcg_cpu *c, const struct seg_reg *cs, u64 offset, unsigned ext)
{
	bool ok = c->v.s.efer & EFER_LMA && cs->attr & ATTR_L ? is_canonical(offset)
							      : offset <= cs->limit;

	return ok || raise_err(c, EXC_GP, ext);
}

/* --- stacks under construction ---------------------------------------------------------------- */
struct frame frame_now(const struct tcg_cpu *c, u32 error)
{
	return (struct frame){
		.ss = c->v.s.seg[SEG_SS],
		.sp = c->v.s.gpr[RSP],
		.width = c->stack_size,
		.sys = c->cpl < 3,
		.error = error,
	};
}

static u64 frame_mask(const struct frame *k)
{
	return k->width == 8 ? ~0ull : k->width == 4 ? 0xffffffff : 0xffff;
}

static bool frame_lin(struct tcg_cpu *c, const struct frame *k, u64 off, unsigned size, gva_t *lin)
{
	if (k->width == 8) {
		*lin = off;
		return (is_canonical(off) && is_canonical(off + size - 1)) ||
		       raise_err(c, EXC_SS, k->error);
	}
	*lin = (u32)(k->ss.base + off);
	return limit_ok(&k->ss, off, size) || raise_err(c, EXC_SS, k->error);
}

bool frame_push(struct tcg_cpu *c, struct frame *k, unsigned size, u64 val)
{
	u64 sp = (k->sp - size) & frame_mask(k);
	gva_t lin;

	if (!frame_lin(c, k, sp, size, &lin))
		return false;
	if (k->sys ? !lin_store_sys(c, lin, size, val) : !lin_store(c, lin, size, val))
		return false;
	k->sp = sp;
	return true;
}

bool frame_pop(struct tcg_cpu *c, struct frame *k, unsigned size, u64 *val)
{
	u64 sp = k->sp & frame_mask(k);
	gva_t lin;

	if (!frame_lin(c, k, sp, size, &lin))
		return false;
	if (k->sys ? !lin_load_sys(c, lin, size, val) : !lin_load(c, lin, size, val))
		return false;
	k->sp = (sp + size) & frame_mask(k);
	return true;
}

void frame_skip(struct frame *k, u64 bytes)
{
	k->sp = (k->sp + bytes) & frame_mask(k);
}

void frame_commit_sp(struct tcg_cpu *c, const struct frame *k)
{
	u64 *rsp = &c->v.s.gpr[RSP];

	*rsp = k->width == 2 ? (*rsp & ~0xffffull) | (k->sp & 0xffff) : k->sp & frame_mask(k);
}

static bool tss_load(struct tcg_cpu *c, u64 off, unsigned size, unsigned ext, u64 *val)
{
	const struct seg_reg *tr = &c->v.s.tr;

	if (off + size - 1 > tr->limit)
		return raise_sel(c, EXC_TS, tr->sel, ext);
	return lin_load_sys(c, tr->base + off, size, val);
}

bool frame_inner(struct tcg_cpu *c, unsigned cpl, unsigned ext, struct frame *k)
{
	bool wide = c->v.s.tr.attr & 8; /* 32-bit TSS */
	u64 sp, ss;

	if (!tss_load(c, wide ? 4 + 8 * cpl : 2 + 4 * cpl, wide ? 4 : 2, ext, &sp) ||
	    !tss_load(c, wide ? 8 + 8 * cpl : 4 + 4 * cpl, 2, ext, &ss))
		return false;
	*k = (struct frame){ .sp = sp, .sys = cpl < 3, .error = ((u32)ss & ~3u) | ext };
	if (!seg_check_stack(c, EXC_TS, (u16)ss, cpl, ext, &k->ss))
		return false;
	k->width = k->ss.attr & ATTR_DB ? 4 : 2;
	return true;
}

bool frame_inner64(struct tcg_cpu *c, unsigned cpl, unsigned index, unsigned ext, struct frame *k)
{
	*k = (struct frame){ .ss = seg_null((u16)cpl), .width = 8, .sys = true, .error = ext };
	k->ss.attr |= cpl << ATTR_DPL_SHIFT;
	return tss_load(c, 4 + 8ull * index, 8, ext, &k->sp);
}
