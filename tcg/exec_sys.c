/* exec_sys.c - instructions of the system programmer: control and debug registers, descriptor
 * tables, the TLB, ports, flags that guard privilege.
 *
 * Owns no state.  CPL 0 and protected mode are checked by the driver for rows that say PRIV or
 * PROT; all else is checked here.  Source: SDM vol 2 instruction pages; vol 3 "Control
 * Registers", "Initializing IA-32e Mode", "Debug Registers". */
#include "exec.h"
#include "seg.h"

enum { CR0_KNOWN = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD };
#define CR0_VALID ((u64)CR0_KNOWN | CR0_PG)

static HANDLER gp0(struct tcg_cpu *c, const struct insn *in)
{
	return insn_raise_err(c, in, EXC_GP, 0);
}

/* --- control registers ------------------------------------------------------------------------ */
/* Long mode begins and ends with CR0.PG, SDM vol 3 "Initializing IA-32e Mode". */
static bool cr0_efer(struct tcg_cpu *c, u64 val, u64 *efer)
{
	const struct cpu_state *s = &c->v.s;
	bool on = val & CR0_PG, was = s->cr0 & CR0_PG;

	*efer = s->efer;
	if (on && !was && s->efer & EFER_LME) {
		if (!(s->cr4 & CR4_PAE) || s->seg[SEG_CS].attr & ATTR_L)
			return false;
		*efer |= EFER_LMA;
	}
	if (!on && was) {
		if (c->mode == MODE_64 || s->cr4 & CR4_PCIDE)
			return false;
		*efer &= ~(u64)EFER_LMA;
	}
	return true;
}

static bool cr0_write(struct tcg_cpu *c, u64 val)
{
	struct cpu_state *s = &c->v.s;
	u64 changed, efer;

	if (val >> 32 || ((val & CR0_PG) && !(val & CR0_PE)) || ((val & CR0_NW) && !(val & CR0_CD)))
		return raise_err(c, EXC_GP, 0);
	val = (val & CR0_VALID) | CR0_ET;
	changed = val ^ s->cr0;
	if (!cr0_efer(c, val, &efer))
		return raise_err(c, EXC_GP, 0);
	if (changed & (CR0_PG | CR0_CD | CR0_NW) && !mmu_load_pdptes(c, val, s->cr3, s->cr4, efer))
		return false;
	s->cr0 = val;
	s->efer = efer;
	if (changed & (CR0_PE | CR0_PG | CR0_WP))
		mmu_flush_all(c);
	seg_refresh(c);
	return true;
}

static u64 cr4_valid(void)
{
	static const struct {
		u32 leaf;
		u8 reg, bit;
		u32 cr4;
	} rows[] = {
		{ 1, 3, 1, CR4_VME | CR4_PVI }, { 7, 1, 0, CR4_FSGSBASE }, { 1, 2, 17, CR4_PCIDE },
		{ 1, 2, 26, CR4_OSXSAVE },	{ 7, 1, 7, CR4_SMEP },	   { 7, 1, 20, CR4_SMAP },
		{ 7, 2, 2, CR4_UMIP },
	};
	u64 valid = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |
		    CR4_OSFXSR | CR4_OSXMMEXCPT;

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
		if (cpuid_has(rows[i].leaf, 0, rows[i].reg, rows[i].bit))
			valid |= rows[i].cr4;
	return valid;
}

static bool cr4_write(struct tcg_cpu *c, u64 val)
{
	struct cpu_state *s = &c->v.s;
	u64 changed = val ^ s->cr4;

	if (changed & val & ~cr4_valid() || (c->long_mode && !(val & CR4_PAE)))
		return raise_err(c, EXC_GP, 0);
	if (changed & val & CR4_PCIDE && (!c->long_mode || s->cr3 & 0xfff))
		return raise_err(c, EXC_GP, 0);
	if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP) &&
	    !mmu_load_pdptes(c, s->cr0, s->cr3, val, s->efer))
		return false;
	s->cr4 = val;
	if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PCIDE))
		mmu_flush_all(c);
	seg_refresh(c);
	return true;
}

static bool cr8_write(struct tcg_cpu *c, u64 val)
{
	if (val > 15)
		return raise_err(c, EXC_GP, 0);
	fp_leave(c);
	if (c->v.apic)
		lapic_set_cr8(c->v.apic, val);
	return true;
}

const struct insn *exec_MOV_TO_CR(struct tcg_cpu *c, const struct insn *in)
{
	u64 val = reg_get(c, in->opd[1].reg, in->opd[1].size);
	bool ok;

	switch (in->opd[0].reg) {
	case 0: ok = cr0_write(c, val); break;
	case 2:
		c->v.s.cr2 = val;
		ok = true;
		break;
	case 3: ok = mmu_set_cr3(c, val); break;
	case 4: ok = cr4_write(c, val); break;
	case 8: ok = cr8_write(c, val); break;
	default: return insn_raise(c, in, EXC_UD);
	}
	return ok ? insn_end(c, in) : insn_fault(c, in);
}

const struct insn *exec_MOV_FROM_CR(struct tcg_cpu *c, const struct insn *in)
{
	const struct cpu_state *s = &c->v.s;
	u64 val;

	switch (in->opd[1].reg) {
	case 0: val = s->cr0; break;
	case 2: val = s->cr2; break;
	case 3: val = s->cr3; break;
	case 4: val = s->cr4; break;
	case 8: val = c->v.apic ? lapic_cr8(c->v.apic) : 0; break;
	default: return insn_raise(c, in, EXC_UD);
	}
	reg_set(c, in->opd[0].reg, in->opd[0].size, val);
	return in + 1;
}

const struct insn *exec_CLTS(struct tcg_cpu *c, const struct insn *in)
{
	c->v.s.cr0 &= ~(u64)CR0_TS;
	seg_refresh(c);
	return insn_end(c, in);
}

/* UMIP hides these registers' values from rings 1 to 3. */
static bool umip_ok(struct tcg_cpu *c)
{
	return !(c->v.s.cr4 & CR4_UMIP && c->cpl) || raise_err(c, EXC_GP, 0);
}

static HANDLER store_value(struct tcg_cpu *c, const struct insn *in, u64 val)
{
	return umip_ok(c) && opd_store(c, in, 0, val) ? in + 1 : insn_fault(c, in);
}

const struct insn *exec_SMSW(struct tcg_cpu *c, const struct insn *in)
{
	return store_value(c, in, c->v.s.cr0);
}

const struct insn *exec_LMSW(struct tcg_cpu *c, const struct insn *in)
{
	u64 val;

	if (!opd_load(c, in, 0, &val))
		return insn_fault(c, in);
	val = (c->v.s.cr0 & ~0xeull) | (val & 0xf); /* PE can be set, not cleared */
	return cr0_write(c, val) ? insn_end(c, in) : insn_fault(c, in);
}

const struct insn *exec_XGETBV(struct tcg_cpu *c, const struct insn *in)
{
	struct cpu_state *s = &c->v.s;
	u32 index = (u32)s->gpr[RCX];
	u64 val = s->xcr0;

	if (!(s->cr4 & CR4_OSXSAVE))
		return insn_raise(c, in, EXC_UD);
	if (index > 1 || (index == 1 && !cpuid_has(0xd, 1, 0, 2)))
		return gp0(c, in);
	if (index == 1) { /* components in use: what XSAVE has noted in its header */
		fp_leave(c);
		val &= ld64(s->xsave + 512);
	}
	s->gpr[RAX] = (u32)val;
	s->gpr[RDX] = val >> 32;
	return in + 1;
}

/* CPUID says KVM (for its clock), so its hypercalls must be there: each is refused by a number, as
 * drivers expect.  Linux Documentation/virt/kvm/x86/hypercalls.rst. */
const struct insn *exec_HYPERCALL(struct tcg_cpu *c, const struct insn *in)
{
	enum { KVM_EPERM = 1, KVM_ENOSYS = 1000 };
	s64 no = c->cpl ? -KVM_EPERM : -KVM_ENOSYS;

	c->v.s.gpr[RAX] = c->mode == MODE_64 ? (u64)no : (u32)no;
	return in + 1;
}

const struct insn *exec_XSETBV(struct tcg_cpu *c, const struct insn *in)
{
	struct cpu_state *s = &c->v.s;
	u64 val = (u32)s->gpr[RAX] | s->gpr[RDX] << 32;
	struct cpuid_out known;

	if (!(s->cr4 & CR4_OSXSAVE))
		return insn_raise(c, in, EXC_UD);
	cpuid_query(&c->v, 0xd, 0, &known);
	if (c->cpl || (u32)s->gpr[RCX] || val & ~(u64)known.eax || !(val & 1) || (val & 6) == 4)
		return gp0(c, in);
	fp_leave(c);
	s->xcr0 = val;
	seg_refresh(c);
	return insn_end(c, in);
}

/* --- debug registers -------------------------------------------------------------------------- */
/* The register meant, or -1 with c->exc: DR4 and DR5 are DR6 and DR7 unless CR4.DE. */
static int dr_index(struct tcg_cpu *c, unsigned reg)
{
	if (reg > 7 || ((reg == 4 || reg == 5) && c->v.s.cr4 & CR4_DE)) {
		raise(c, EXC_UD);
		return -1;
	}
	if (c->v.s.dr[7] & DR7_GD) {
		c->exc = (struct exc){ .vector = EXC_DB, .dr6 = DR6_BD };
		return -1;
	}
	return reg == 4 || reg == 5 ? (int)reg + 2 : (int)reg;
}

const struct insn *exec_MOV_FROM_DR(struct tcg_cpu *c, const struct insn *in)
{
	int n = dr_index(c, in->opd[1].reg);

	if (n < 0)
		return insn_fault(c, in);
	reg_set(c, in->opd[0].reg, in->opd[0].size, c->v.s.dr[n]);
	return in + 1;
}

const struct insn *exec_MOV_TO_DR(struct tcg_cpu *c, const struct insn *in)
{
	u64 val = reg_get(c, in->opd[1].reg, in->opd[1].size);
	int n = dr_index(c, in->opd[0].reg);

	if (n < 0)
		return insn_fault(c, in);
	if (n >= 6 && val >> 32)
		return gp0(c, in);
	if (n == 6)
		val = (val & 0xe00f) | 0xffff0ff0;
	else if (n == 7)
		val = (val & 0xffff23ff) | 0x400;
	c->v.s.dr[n] = val;
	return insn_end(c, in);
}

/* --- descriptor tables ------------------------------------------------------------------------ */
static HANDLER store_table(struct tcg_cpu *c, const struct insn *in, const struct table_reg *t)
{
	unsigned n = in->mode == MODE_64 ? 10 : 6;
	u8 buf[10];
	gva_t lin;

	st16(buf, t->limit);
	st64(buf + 2, t->base);
	if (!umip_ok(c) || !insn_lin(c, in, n, ACC_W, &lin) || !lin_write_bytes(c, lin, buf, n))
		return insn_fault(c, in);
	return in + 1;
}

static HANDLER load_table(struct tcg_cpu *c, const struct insn *in, struct table_reg *t)
{
	unsigned n = in->mode == MODE_64 ? 10 : 6;
	u8 buf[10] = { 0 };
	gva_t lin;
	u64 base;

	if (!insn_lin(c, in, n, ACC_R, &lin) || !lin_read_bytes(c, lin, buf, n))
		return insn_fault(c, in);
	base = ld64(buf + 2);
	if (in->mode == MODE_64 && !is_canonical(base))
		return gp0(c, in);
	if (in->mode != MODE_64 && in->size == 2)
		base &= 0xffffff;
	t->limit = ld16(buf);
	t->base = base;
	return in + 1;
}

const struct insn *exec_SGDT(struct tcg_cpu *c, const struct insn *in)
{
	return store_table(c, in, &c->v.s.gdt);
}

const struct insn *exec_SIDT(struct tcg_cpu *c, const struct insn *in)
{
	return store_table(c, in, &c->v.s.idt);
}

const struct insn *exec_LGDT(struct tcg_cpu *c, const struct insn *in)
{
	return load_table(c, in, &c->v.s.gdt);
}

const struct insn *exec_LIDT(struct tcg_cpu *c, const struct insn *in)
{
	return load_table(c, in, &c->v.s.idt);
}

const struct insn *exec_SLDT(struct tcg_cpu *c, const struct insn *in)
{
	return store_value(c, in, c->v.s.ldt.sel);
}

const struct insn *exec_STR(struct tcg_cpu *c, const struct insn *in)
{
	return store_value(c, in, c->v.s.tr.sel);
}

/* An LDT or available TSS descriptor from the GDT, 16 bytes in long mode. */
static bool system_segment(struct tcg_cpu *c, u16 sel, bool tss, struct desc *d, struct seg_reg *r)
{
	u64 high = 0;
	u32 type;

	if (sel & 4)
		return raise_sel(c, EXC_GP, sel, 0);
	if (!desc_fetch(c, EXC_GP, sel, 0, d))
		return false;
	type = d->attr & (ATTR_TYPE | ATTR_S);
	if (type != (tss ? SYS_TSS32 : SYS_LDT) && !(tss && !c->long_mode && type == SYS_TSS16))
		return raise_sel(c, EXC_GP, sel, 0);
	if (c->long_mode && !desc_fetch_high(c, EXC_GP, sel, 0, d, &high))
		return false;
	*r = desc_to_seg(sel, d);
	r->base |= high << 32;
	if (!is_canonical(r->base) || high >> 40 & 0x1f)
		return raise_sel(c, EXC_GP, sel, 0);
	return d->attr & ATTR_P || raise_sel(c, EXC_NP, sel, 0);
}

const struct insn *exec_LLDT(struct tcg_cpu *c, const struct insn *in)
{
	struct seg_reg r;
	struct desc d;
	u64 sel;

	if (!opd_load(c, in, 0, &sel))
		return insn_fault(c, in);
	if (sel_null((u16)sel))
		r = seg_null((u16)sel);
	else if (!system_segment(c, (u16)sel, false, &d, &r))
		return insn_fault(c, in);
	c->v.s.ldt = r;
	return in + 1;
}

const struct insn *exec_LTR(struct tcg_cpu *c, const struct insn *in)
{
	struct seg_reg r;
	struct desc d;
	u64 sel;

	if (!opd_load(c, in, 0, &sel))
		return insn_fault(c, in);
	if (sel_null((u16)sel))
		return gp0(c, in);
	if (!system_segment(c, (u16)sel, true, &d, &r) ||
	    !lin_store_sys(c, d.at + 5, 1, (d.d >> 40 & 0xff) | 2)) /* busy */
		return insn_fault(c, in);
	r.attr |= 2;
	c->v.s.tr = r;
	return in + 1;
}

/* --- TLB and caches --------------------------------------------------------------------------- */
const struct insn *exec_INVLPG(struct tcg_cpu *c, const struct insn *in)
{
	u64 base = in->mode == MODE_64 && in->seg < SEG_FS ? 0 : c->v.s.seg[in->seg].base;
	gva_t lin = base + insn_ea(c, in);

	mmu_flush_page(c, in->mode == MODE_64 ? lin : (u32)lin);
	return insn_end(c, in);
}

const struct insn *exec_INVPCID(struct tcg_cpu *c, const struct insn *in)
{
	u64 type = reg_get(c, in->opd[0].reg, in->opd[0].size);
	u8 buf[16];
	gva_t lin;

	if (!insn_lin(c, in, 16, ACC_R, &lin) || !lin_read_bytes(c, lin, buf, 16) ||
	    !mmu_invpcid(c, type, ld64(buf), ld64(buf + 8)))
		return insn_fault(c, in);
	return insn_end(c, in);
}

/* Memory is coherent whatever the guest does to its caches. */
const struct insn *exec_INVD(struct tcg_cpu *c, const struct insn *in)
{
	return in + 1;
}

const struct insn *exec_WBINVD(struct tcg_cpu *c, const struct insn *in)
{
	return in + 1;
}

/* Not shown by CPUID. */
const struct insn *exec_MONITOR(struct tcg_cpu *c, const struct insn *in)
{
	return insn_raise(c, in, EXC_UD);
}

const struct insn *exec_MWAIT(struct tcg_cpu *c, const struct insn *in)
{
	return insn_raise(c, in, EXC_UD);
}

/* --- ports ------------------------------------------------------------------------------------ */
/* SDM vol 1 "I/O Permission Bit Map": all bits of the ports must be clear; the map's last byte
 * has a neighbour that is read along. */
static bool io_bitmap_allows(struct tcg_cpu *c, u16 port, unsigned size)
{
	const struct seg_reg *tr = &c->v.s.tr;
	u64 map, bits;

	if (tr->attr & ATTR_UNUSABLE || !(tr->attr & 8) || tr->limit < 0x67)
		return raise_err(c, EXC_GP, 0);
	if (!lin_load_sys(c, tr->base + 0x66, 2, &map))
		return false;
	map += port / 8;
	if (map + 1 > tr->limit)
		return raise_err(c, EXC_GP, 0);
	if (!lin_load_sys(c, tr->base + map, 2, &bits))
		return false;
	return !(bits >> port % 8 & ((1u << size) - 1)) || raise_err(c, EXC_GP, 0);
}

bool io_allowed(struct tcg_cpu *c, u16 port, unsigned size)
{
	const struct cpu_state *s = &c->v.s;

	if (!(s->cr0 & CR0_PE) || (!(s->rflags & FL_VM) && c->cpl <= (s->rflags & FL_IOPL) >> 12))
		return true;
	return io_bitmap_allows(c, port, size);
}

const struct insn *exec_IN(struct tcg_cpu *c, const struct insn *in)
{
	unsigned size = in->opd[0].size;
	u64 port;

	opd_load(c, in, 1, &port);
	if (!io_allowed(c, (u16)port, size))
		return insn_fault(c, in);
	fp_leave(c);
	reg_set(c, RAX, size, bus_read(c->v.env->pio, (u16)port, size));
	return insn_end_if_kicked(c, in);
}

const struct insn *exec_OUT(struct tcg_cpu *c, const struct insn *in)
{
	unsigned size = in->opd[1].size;
	u64 port;

	opd_load(c, in, 0, &port);
	if (!io_allowed(c, (u16)port, size))
		return insn_fault(c, in);
	fp_leave(c);
	bus_write(c->v.env->pio, (u16)port, size, reg_get(c, RAX, size));
	return insn_end_if_kicked(c, in);
}

/* --- flags ------------------------------------------------------------------------------------ */
/* Neither VME nor PVI is offered: below IOPL, CLI and STI fault. */
static bool if_allowed(struct tcg_cpu *c)
{
	return c->cpl <= (c->v.s.rflags & FL_IOPL) >> 12 || raise_err(c, EXC_GP, 0);
}

const struct insn *exec_CLI(struct tcg_cpu *c, const struct insn *in)
{
	if (!if_allowed(c))
		return insn_fault(c, in);
	c->v.s.rflags &= ~(u64)FL_IF;
	return in + 1;
}

const struct insn *exec_STI(struct tcg_cpu *c, const struct insn *in)
{
	if (!if_allowed(c))
		return insn_fault(c, in);
	if (c->v.s.rflags & FL_IF)
		return in + 1;
	c->v.s.rflags |= FL_IF;
	/* The shadow matters only to an interrupt that waits; one that comes later is seen at the
	 * end of the block, and so behind the next instruction if there is one. */
	if (in != &c->interp->one && in[1].fn != exec_fall_through && !c->irq_masked &&
	    !is_kicked(c))
		return in + 1;
	c->v.s.int_shadow = 1;
	return insn_end(c, in);
}

const struct insn *exec_CLD(struct tcg_cpu *c, const struct insn *in)
{
	c->v.s.rflags &= ~(u64)FL_DF;
	return in + 1;
}

const struct insn *exec_STD(struct tcg_cpu *c, const struct insn *in)
{
	c->v.s.rflags |= FL_DF;
	return in + 1;
}

/* CPUID does not show SMAP, but a guest that KVM runs may use it and have us execute these for
 * it. */
static bool smap_ok(struct tcg_cpu *c)
{
	return (!c->cpl && (c->v.s.cr4 & CR4_SMAP || cpuid_has(7, 0, 1, 20))) || raise(c, EXC_UD);
}

const struct insn *exec_CLAC(struct tcg_cpu *c, const struct insn *in)
{
	if (!smap_ok(c))
		return insn_fault(c, in);
	c->v.s.rflags &= ~(u64)FL_AC;
	return in + 1;
}

const struct insn *exec_STAC(struct tcg_cpu *c, const struct insn *in)
{
	if (!smap_ok(c))
		return insn_fault(c, in);
	c->v.s.rflags |= FL_AC;
	return in + 1;
}
