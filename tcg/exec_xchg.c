/* exec_xchg.c - instructions that write a register besides memory, or may be atomic on it:
 * XCHG, XADD, CMPXCHG and its wide forms, bit strings.
 *
 * On plain memory the host's own locked instruction does the work, LOCK prefix or not: XCHG is
 * always locked, and for the others it does no harm.  What has no host address goes through
 * checked accesses under split_lock().  Source: SDM vol 2, the instruction pages; vol 3 "Locked
 * Atomic Operations". */
#include "exec.h"

/* --- exchange and add --------------------------------------------------------------------- */
static u64 xchg_host(void *p, unsigned size, u64 val)
{
	switch (size) {
	case 1: return __atomic_exchange_n((u8 *)p, (u8)val, __ATOMIC_SEQ_CST);
	case 2: return __atomic_exchange_n((u16 *)p, (u16)val, __ATOMIC_SEQ_CST);
	case 4: return __atomic_exchange_n((u32 *)p, (u32)val, __ATOMIC_SEQ_CST);
	default: return __atomic_exchange_n((u64 *)p, val, __ATOMIC_SEQ_CST);
	}
}

static u64 xadd_host(void *p, unsigned size, u64 val)
{
	switch (size) {
	case 1: return __atomic_fetch_add((u8 *)p, (u8)val, __ATOMIC_SEQ_CST);
	case 2: return __atomic_fetch_add((u16 *)p, (u16)val, __ATOMIC_SEQ_CST);
	case 4: return __atomic_fetch_add((u32 *)p, (u32)val, __ATOMIC_SEQ_CST);
	default: return __atomic_fetch_add((u64 *)p, val, __ATOMIC_SEQ_CST);
	}
}

static u64 exchanged(struct tcg_cpu *c, const struct insn *in, u64 a, u64 b)
{
	return b;
}

/* Load and store at lin what no single host instruction can, under the lock. */
static bool exchange_split(struct tcg_cpu *c, gva_t lin, unsigned size, u64 *old,
			   u64 (*fn)(struct tcg_cpu *, const struct insn *, u64, u64),
			   const struct insn *in, u64 b)
{
	u16 cc = c->cc;
	bool ok;

	fp_leave(c);
	split_lock();
	ok = lin_load(c, lin, size, old) && lin_store(c, lin, size, fn(c, in, *old, b));
	split_unlock();
	if (!ok)
		c->cc = cc;
	return ok;
}

/* The first operand's old value goes to the second, and what fn makes of both, with the flags, to
 * the first; the host's own instruction does it on plain memory. */
static always_inline HANDLER exchange(struct tcg_cpu *c, const struct insn *in,
				      u64 (*host_fn)(void *, unsigned, u64),
				      u64 (*fn)(struct tcg_cpu *, const struct insn *, u64, u64))
{
	unsigned size = in->opd[0].size;
	u64 a, b;
	gva_t lin;
	void *host;
	gpa_t code;

	opd_load(c, in, 1, &b);
	if (in->opd[0].kind != OPD_MEM) {
		opd_load(c, in, 0, &a);
		opd_store(c, in, 1, a);
		opd_store(c, in, 0, fn(c, in, a, b)); /* last: wins if both are the same */
		return in + 1;
	}
	if (!insn_lin(c, in, size, ACC_W, &lin) || !lin_host_code(c, lin, size, &host, &code))
		return insn_fault(c, in);
	if (host) {
		a = host_fn(host, size, b);
		fn(c, in, a, b);
	} else if (!exchange_split(c, lin, size, &a, fn, in, b)) {
		return insn_fault(c, in);
	}
	lin_wrote(c, code, size);
	opd_store(c, in, 1, a);
	return in + 1;
}

HANDLER exec_XCHG(struct tcg_cpu *c, const struct insn *in)
{
	return exchange(c, in, xchg_host, exchanged);
}

HANDLER exec_XADD(struct tcg_cpu *c, const struct insn *in)
{
	return exchange(c, in, xadd_host, exec_ADD);
}

/* CMPXCHG on a host object: rAX is compared and maybe replaced, whole registers as the host has
 * them. */
#define CMPXCHG_ARM(m)                                     \
	__asm__ volatile("lock cmpxchg %" m "[b], %[p]"    \
			 : "+a"(*rax), [p] "+m"(*(u64 *)p) \
			 : [b] "r"(b)                      \
			 : "cc", "memory")
static void cmpxchg_host(void *p, unsigned size, u64 *rax, u64 b)
{
	switch (size) {
	case 1: CMPXCHG_ARM("b"); break;
	case 2: CMPXCHG_ARM("w"); break;
	case 4: CMPXCHG_ARM("k"); break;
	default: CMPXCHG_ARM("q"); break;
	}
}

/* Destination in a register: as the host does it, upper halves included.  AH to BH are shifted
 * down and back. */
static void cmpxchg_reg(struct tcg_cpu *c, const struct insn *in, u64 b)
{
	u64 rax = c->v.s.gpr[RAX], a, dest;

	opd_load(c, in, 0, &a);
	exec_CMP(c, in, reg_get(c, RAX, in->size), a);
	dest = in->opd[0].kind == OPD_REG ? c->v.s.gpr[in->opd[0].reg] : a;
#define ARM(m) \
	__asm__("cmpxchg %" m "[b], %" m "[d]" : "+a"(rax), [d] "+r"(dest) : [b] "r"(b) : "cc")
	switch (in->size) {
	case 1: ARM("b"); break;
	case 2: ARM("w"); break;
	case 4: ARM("k"); break;
	default: ARM("q"); break;
	}
#undef ARM
	if (in->opd[0].kind == OPD_REGH)
		opd_store(c, in, 0, dest);
	else if (in->opd[0].reg != RAX)
		c->v.s.gpr[in->opd[0].reg] = dest;
	else
		rax = in->size == 4 ? (u32)b
				    : (rax & ~size_mask(in->size)) | b; /* rAX equals itself */
	if (in->opd[0].kind == OPD_REGH && in->opd[0].reg == RAX)
		reg_set(c, RAX, 1, rax);
	else
		c->v.s.gpr[RAX] = rax;
}

/* Under the lock: the destination is written back even if unequal. */
static bool cmpxchg_split(struct tcg_cpu *c, const struct insn *in, gva_t lin, u64 *rax, u64 b)
{
	unsigned size = in->opd[0].size;
	u64 a, want = *rax & size_mask(size);
	bool ok;

	fp_leave(c);
	split_lock();
	ok = lin_load(c, lin, size, &a) && lin_store(c, lin, size, a == want ? b : a);
	split_unlock();
	if (ok)
		cmpxchg_host(&a, size, rax, b);
	return ok;
}

HANDLER exec_CMPXCHG(struct tcg_cpu *c, const struct insn *in)
{
	unsigned size = in->opd[0].size;
	u64 b, rax = c->v.s.gpr[RAX];
	gva_t lin;
	void *host;
	gpa_t code;

	opd_load(c, in, 1, &b);
	if (in->opd[0].kind != OPD_MEM) {
		cmpxchg_reg(c, in, b);
		return in + 1;
	}
	if (!insn_lin(c, in, size, ACC_W, &lin) || !lin_host_code(c, lin, size, &host, &code))
		return insn_fault(c, in);
	if (host)
		cmpxchg_host(host, size, &rax, b);
	else if (!cmpxchg_split(c, in, lin, &rax, b))
		return insn_fault(c, in);
	lin_wrote(c, code, size);
	/* Flags as CMP of the old rAX with what was found there; equal if rAX did not change. */
	exec_CMP(c, in, reg_get(c, RAX, size), rax & size_mask(size));
	c->v.s.gpr[RAX] = rax;
	return in + 1;
}

/* ZF alone changes. */
static void zf_set(struct tcg_cpu *c, bool zf)
{
	c->cc = (u16)((c->cc & ~(FL_ZF << 8)) | (zf ? FL_ZF << 8 : 0));
}

HANDLER exec_CMPXCHG8B(struct tcg_cpu *c, const struct insn *in)
{
	u64 old, want = (u64)reg_get(c, RDX, 4) << 32 | reg_get(c, RAX, 4);
	u64 new = (u64)reg_get(c, RCX, 4) << 32 | reg_get(c, RBX, 4);
	gva_t lin;
	void *host;
	gpa_t code;

	if (!insn_lin(c, in, 8, ACC_W, &lin) || !lin_host_code(c, lin, 8, &host, &code))
		return insn_fault(c, in);
	old = want;
	if (host)
		cmpxchg_host(host, 8, &old, new);
	else if (!cmpxchg_split(c, in, lin, &old, new))
		return insn_fault(c, in);
	lin_wrote(c, code, 8);
	zf_set(c, old == want);
	if (old != want) {
		reg_set(c, RAX, 4, old);
		reg_set(c, RDX, 4, old >> 32);
	}
	return in + 1;
}

/* The operand is aligned, so it never crosses a page; MMIO takes two halves. */
static bool cmpxchg16b_split(struct tcg_cpu *c, gva_t lin, u64 old[2], const u64 new[2])
{
	u64 now[2];
	bool ok, same;

	fp_leave(c);
	split_lock();
	ok = lin_load(c, lin, 8, &now[0]) && lin_load(c, lin + 8, 8, &now[1]);
	same = ok && now[0] == old[0] && now[1] == old[1];
	ok = ok && lin_store(c, lin, 8, same ? new[0] : now[0]) &&
	     lin_store(c, lin + 8, 8, same ? new[1] : now[1]);
	split_unlock();
	if (ok)
		old[0] = now[0], old[1] = now[1];
	return ok;
}

HANDLER exec_CMPXCHG16B(struct tcg_cpu *c, const struct insn *in)
{
	u64 *gpr = c->v.s.gpr;
	u64 old[2] = { gpr[RAX], gpr[RDX] };
	const u64 new[2] = { gpr[RBX], gpr[RCX] };
	gva_t lin;
	void *host;
	gpa_t code;

	if ((insn_ea(c, in) + (in->seg >= SEG_FS ? c->v.s.seg[in->seg].base : 0)) & 15)
		return insn_raise_err(c, in, EXC_GP, 0); /* before the address is checked */
	if (!insn_lin(c, in, 16, ACC_W, &lin))
		return insn_fault(c, in);
	if (!lin_host_code(c, lin, 16, &host, &code))
		return insn_fault(c, in);
	if (host)
		__asm__ volatile("lock cmpxchg16b %2"
				 : "+a"(old[0]), "+d"(old[1]), "+m"(*(u128 *)host)
				 : "b"(new[0]), "c"(new[1])
				 : "cc", "memory");
	else if (!cmpxchg16b_split(c, lin, old, new))
		return insn_fault(c, in);
	lin_wrote(c, code, 16);
	zf_set(c, old[0] == gpr[RAX] && old[1] == gpr[RDX]);
	gpr[RAX] = old[0];
	gpr[RDX] = old[1];
	return in + 1;
}

/* --- bit strings -------------------------------------------------------------------------- */
/* Bit offset in a register, memory operand: the offset is signed and may reach any distance. */
static bool bit_lin(struct tcg_cpu *c, const struct insn *in, enum access acc, gva_t *lin, u64 *bit)
{
	unsigned size = in->size;
	s64 off;

	opd_load(c, in, 1, bit);
	off = (s64)sign_extend(*bit, size) >> (size == 2 ? 4 : size == 4 ? 5 : 6);
	return seg_lin(c, in->seg, (insn_ea(c, in) + (u64)(off * size)) & addr_mask(in), size, acc,
		       lin);
}

HANDLER exec_BT_MEM(struct tcg_cpu *c, const struct insn *in)
{
	u64 a, bit;
	gva_t lin;

	if (!bit_lin(c, in, ACC_R, &lin, &bit) || !lin_load(c, lin, in->size, &a))
		return insn_fault(c, in);
	exec_BT(c, in, a, bit);
	return in + 1;
}

static HANDLER bit_change(struct tcg_cpu *c, const struct insn *in, drv_fn drv)
{
	u64 bit;
	gva_t lin;

	if (!bit_lin(c, in, ACC_W, &lin, &bit))
		return insn_fault(c, in);
	return drive_rmw_at(c, in, lin, drv, bit);
}

HANDLER exec_BTS_MEM(struct tcg_cpu *c, const struct insn *in)
{
	return bit_change(c, in, exec_BTS);
}

HANDLER exec_BTR_MEM(struct tcg_cpu *c, const struct insn *in)
{
	return bit_change(c, in, exec_BTR);
}

HANDLER exec_BTC_MEM(struct tcg_cpu *c, const struct insn *in)
{
	return bit_change(c, in, exec_BTC);
}
