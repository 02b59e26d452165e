/* exec_mask.c - vector instructions that touch only some elements of memory: masked moves and
 * gathers.
 *
 * An element whose mask bit is clear is not accessed and cannot fault, so the host's instruction
 * can be used only where all of the range is plain RAM; else the elements go one by one. Source:
 * SDM vol 2 "MASKMOVDQU", "VMASKMOV", "VPMASKMOV", "VPGATHERDD/VPGATHERQD". */
#include "exec.h"
#include "native.h"

enum { VEC_BYTES = 32 };

/* Elements of one access: element i is size bytes at offset off + i * size, if bit i of mask is
 * set. */
struct elements {
	u64 off;
	unsigned size, n;
	u32 mask;
};

static u32 mask_bits(const u8 *vec, unsigned size, unsigned n)
{
	u32 bits = 0;

	for (unsigned i = 0; i < n; i++)
		bits |= (u32)(vec[i * size + size - 1] >> 7) << i;
	return bits;
}

/* Only the operand's own offset wraps to the address size in 64-bit mode. */
static u64 element_off(const struct insn *in, const struct elements *e, unsigned i)
{
	u64 off = e->off + i * e->size;

	return in->mode == MODE_64 ? off : off & addr_mask(in);
}

static bool elements_load(struct tcg_cpu *c, const struct insn *in, const struct elements *e,
			  u8 *vec)
{
	gva_t lin;
	u64 val;

	for (unsigned i = 0; i < e->n; i++) {
		if (!(e->mask >> i & 1))
			continue;
		if (!seg_lin(c, in->seg, element_off(in, e, i), e->size, ACC_R, &lin) ||
		    !lin_load(c, lin, e->size, &val))
			return false;
		memcpy(vec + i * e->size, &val, e->size);
	}
	return true;
}

/* All or nothing: every element is checked before the first is written. */
static bool elements_store(struct tcg_cpu *c, const struct insn *in, const struct elements *e,
			   const u8 *vec)
{
	gva_t lin[VEC_BYTES];
	void *host;

	for (unsigned i = 0; i < e->n; i++)
		if (e->mask >> i & 1 &&
		    (!seg_lin(c, in->seg, element_off(in, e, i), e->size, ACC_W, &lin[i]) ||
		     !lin_host(c, lin[i], e->size, ACC_W, &host)))
			return false;
	for (unsigned i = 0; i < e->n; i++)
		if (e->mask >> i & 1 && !lin_write_bytes(c, lin[i], vec + i * e->size, e->size))
			return false;
	return true;
}

/* --- MASKMOVQ, MASKMOVDQU: bytes to DS:rDI ---------------------------------------------------- */
/* Which bytes may fault is left to the processor; here, as on AMD's, all of the operand must be
 * writable. */
static HANDLER mask_bytes(struct tcg_cpu *c, const struct insn *in, const u8 *data, const u8 *mask,
			  unsigned n)
{
	gva_t lin;
	void *host;

	if (!seg_lin(c, in->seg, c->v.s.gpr[RDI] & addr_mask(in), n, ACC_W, &lin) ||
	    !lin_host(c, lin, n, ACC_W, &host))
		return insn_fault(c, in);
	for (unsigned i = 0; i < n; i++)
		if (mask[i] & 0x80 && !lin_write_bytes(c, lin + i, data + i, 1))
			return insn_fault(c, in);
	return in + 1;
}

HANDLER exec_MASKMOVQ(struct tcg_cpu *c, const struct insn *in)
{
	struct native *n = c->native;
	u8 data[8], mask[8];

	if (!fp_ready(c, UNIT_MMX))
		return insn_fault(c, in);
	n->mmx_store[in->modrm >> 3 & 7](data, 0, 0,
					 0); /* also does what MMX does to the x87 tags */
	if (n->guard.trap)
		return native_trap(c, in);
	n->mmx_store[in->modrm & 7](mask, 0, 0, 0);
	return mask_bytes(c, in, data, mask, sizeof data);
}

HANDLER exec_MASKMOVDQU(struct tcg_cpu *c, const struct insn *in)
{
	u8 data[VEC_BYTES], mask[VEC_BYTES];

	if (!fp_ready(c, in->prefixes & PFX_VEX ? UNIT_AVX : UNIT_SSE))
		return insn_fault(c, in);
	vec_get(c->native, (in->modrm >> 3 & 7) | (in->rex << 1 & 8), data);
	vec_get(c->native, (in->modrm & 7) | (in->rex << 3 & 8), mask);
	return mask_bytes(c, in, data, mask, 16);
}

/* --- VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ ------------------------------------------- */
HANDLER exec_MASKMOV(struct tcg_cpu *c, const struct insn *in)
{
	u8 op = in->op->opcode, width = in->vexl ? 32 : 16; /* 2C-2F: PS, PD; 8C, 8E: by W */
	bool store = op & 2, wide = op < 0x80 ? op & 1 : in->rex >> 3 & 1;
	u8 reg = (in->modrm >> 3 & 7) | (in->rex << 1 & 8), vec[VEC_BYTES] = { 0 }, mask[VEC_BYTES];
	struct elements e = { .off = insn_ea(c, in), .size = wide ? 8 : 4 };
	gva_t lin;
	void *host;

	if (!fp_ready(c, UNIT_AVX))
		return insn_fault(c, in);
	e.n = width / e.size;
	if (seg_lin(c, in->seg, e.off, width, store ? ACC_W : ACC_R, &lin)) {
		host = store ? tlb_write(c, lin, width) : tlb_read(c, lin, width);
		if (host) {
			native_stub(c, in)->fn(host, 0, 0, 0);
			return in + 1;
		}
	}
	c->exc.vector = EXC_NONE; /* what lies outside the segment may be masked */
	vec_get(c->native, in->vvvv, mask);
	e.mask = mask_bits(mask, e.size, e.n);
	if (store)
		vec_get(c->native, reg, vec);
	if (!(store ? elements_store(c, in, &e, vec) : elements_load(c, in, &e, vec)))
		return insn_fault(c, in);
	fp_enter(c);
	if (!store)
		vec_set(c->native, reg, vec);
	return in + 1;
}

/* --- gathers ---------------------------------------------------------------------------------- */
struct gather {
	unsigned size, index_size, n; /* element, index, how many */
	u8 dst, mask, index; /* registers */
	u64 base;
};

static struct gather gather_of(const struct tcg_cpu *c, const struct insn *in)
{
	struct gather g = {
		.size = in->rex & 8 ? 8 : 4,
		.index_size = in->op->opcode & 1 ? 8 : 4,
		.dst = (in->modrm >> 3 & 7) | (in->rex << 1 & 8),
		.mask = in->vvvv,
		.index = in->index,
		.base = (u64)in->disp + (in->base == REG_NONE ? 0 : c->v.s.gpr[in->base]),
	};

	g.n = (in->vexl ? 32 : 16) / MAX(g.size, g.index_size);
	return g;
}

static bool gather_one(struct tcg_cpu *c, const struct insn *in, const struct gather *g,
		       const u8 *index, u64 *val)
{
	u64 i = g->index_size == 8 ? ld64(index) : (u64)(s32)ld32(index);
	gva_t lin;

	return seg_lin(c, in->seg, (g->base + (i << in->scale)) & addr_mask(in), g->size, ACC_R,
		       &lin) &&
	       lin_load(c, lin, g->size, val);
}

/* Elements are done from the lowest up; a fault leaves those before it done and their mask cleared,
 * so that the instruction goes on from there. */
HANDLER exec_GATHER(struct tcg_cpu *c, const struct insn *in)
{
	struct gather g = gather_of(c, in);
	u8 dst[VEC_BYTES], mask[VEC_BYTES], index[VEC_BYTES];
	bool ok = true;
	u32 bits;
	u64 val;

	if (!fp_ready(c, UNIT_AVX))
		return insn_fault(c, in);
	vec_get(c->native, g.dst, dst);
	vec_get(c->native, g.mask, mask);
	vec_get(c->native, g.index, index);
	bits = mask_bits(mask, g.size, g.n);
	for (unsigned i = 0; i < g.n && ok; i++) {
		if (bits >> i & 1 && (ok = gather_one(c, in, &g, index + i * g.index_size, &val)))
			memcpy(dst + i * g.size, &val, g.size);
		if (ok)
			memset(mask + i * g.size, 0, g.size);
	}
	if (ok) {
		memset(dst + g.n * g.size, 0, VEC_BYTES - g.n * g.size);
		memset(mask, 0, VEC_BYTES);
	}
	fp_enter(c);
	vec_set(c->native, g.dst, dst);
	vec_set(c->native, g.mask, mask);
	return ok ? in + 1 : insn_fault(c, in);
}
