/* interp.c - the interpreter: operands, the general handlers and the loop that runs blocks.
 *
 * Every row of ops.def can be run by a general handler that works alone and in any mode; blocks
 * use faster ones (fast.c) where there are some.  Runs on the vCPU's thread. */
#include <stdlib.h>

#include "exec.h"

/* --- operands ----------------------------------------------------------------------------- */
u64 insn_ea(const struct tcg_cpu *c, const struct insn *in)
{
	u64 ea = insn_disp(in);

	if (in->base == REG_RIP)
		ea += insn_next_rip(c, in);
	else if (in->base != REG_NONE)
		ea += c->v.s.gpr[in->base];
	if (in->index != REG_NONE)
		ea += c->v.s.gpr[in->index] << in->scale;
	return ea & addr_mask(in);
}

static bool mem_load(struct tcg_cpu *c, const struct insn *in, unsigned size, u64 *val)
{
	gva_t lin;

	if (in->op->flags & F_NOMEM) {
		*val = insn_ea(c, in);
		return true;
	}
	return insn_lin(c, in, size, ACC_R, &lin) && lin_load(c, lin, size, val);
}

bool opd_load(struct tcg_cpu *c, const struct insn *in, unsigned n, u64 *val)
{
	const struct opd *o = &in->opd[n];

	switch (o->kind) {
	case OPD_REG: *val = reg_get(c, o->reg, o->size); return true;
	case OPD_REGH: *val = c->v.s.gpr[o->reg] >> 8 & 0xff; return true;
	case OPD_MEM: return mem_load(c, in, o->size, val);
	case OPD_IMM: *val = insn_imm(in) & size_mask(in->size); return true;
	case OPD_SREG: *val = c->v.s.seg[o->reg].sel; return true;
	default: *val = 0; return true;
	}
}

bool opd_store(struct tcg_cpu *c, const struct insn *in, unsigned n, u64 val)
{
	const struct opd *o = &in->opd[n];
	gva_t lin;

	switch (o->kind) {
	case OPD_REG: reg_set(c, o->reg, o->size, val); return true;
	case OPD_REGH: ((u8 *)&c->v.s.gpr[o->reg])[1] = (u8)val; return true;
	default: return insn_lin(c, in, o->size, ACC_W, &lin) && lin_store(c, lin, o->size, val);
	}
}

/* --- the stack ---------------------------------------------------------------------------- */
static u64 stack_mask(const struct tcg_cpu *c)
{
	return size_mask(c->stack_size);
}

static bool stack_lin(struct tcg_cpu *c, u64 sp, unsigned size, enum access acc, gva_t *lin)
{
	return seg_lin(c, SEG_SS, sp & stack_mask(c), size, acc, lin);
}

bool stack_push(struct tcg_cpu *c, unsigned size, u64 val)
{
	u64 sp = c->v.s.gpr[RSP] - size;
	gva_t lin;

	if (!stack_lin(c, sp, size, ACC_W, &lin) || !lin_store(c, lin, size, val))
		return false;
	reg_set(c, RSP, c->stack_size, sp);
	return true;
}

bool stack_peek(struct tcg_cpu *c, u64 skip, unsigned size, u64 *val)
{
	gva_t lin;

	return stack_lin(c, c->v.s.gpr[RSP] + skip, size, ACC_R, &lin) &&
	       lin_load(c, lin, size, val);
}

void stack_drop(struct tcg_cpu *c, u64 bytes)
{
	reg_set(c, RSP, c->stack_size, c->v.s.gpr[RSP] + bytes);
}

/* --- general handlers --------------------------------------------------------------------- */
/* One writer at a time among accesses that the host cannot make atomic. */
static pthread_mutex_t split_mutex = PTHREAD_MUTEX_INITIALIZER;

void split_lock(void)
{
	pthread_mutex_lock(&split_mutex);
}

void split_unlock(void)
{
	pthread_mutex_unlock(&split_mutex);
}

static bool host_cas(void *p, unsigned size, u64 *old, u64 new)
{
#define CAS(type)                                                                             \
	({                                                                                    \
		type o_ = (type)*old;                                                         \
		bool done_ = __atomic_compare_exchange_n((type *)p, &o_, (type) new, false,   \
							 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
		*old = o_;                                                                    \
		done_;                                                                        \
	})
	switch (size) {
	case 1: return CAS(u8);
	case 2: return CAS(u16);
	case 4: return CAS(u32);
	default: return CAS(u64);
	}
#undef CAS
}

static void rmw_host(struct tcg_cpu *c, const struct insn *in, void *host, drv_fn drv, u64 b)
{
	unsigned size = in->opd[0].size;
	u64 a = host_load(host, size);
	u16 cc = c->cc;

	if (!(in->prefixes & PFX_LOCK)) {
		host_store(host, size, drv(c, in, a, b));
		return;
	}
	while (!host_cas(host, size, &a, drv(c, in, a, b)))
		c->cc = cc;
}

/* Through the checked accesses; *false* leaves flags and memory alone. */
static bool rmw_split(struct tcg_cpu *c, const struct insn *in, gva_t lin, drv_fn drv, u64 b)
{
	unsigned size = in->opd[0].size;
	u16 cc = c->cc;
	bool ok;
	u64 a;

	fp_leave(c);
	split_lock();
	ok = lin_load(c, lin, size, &a) && lin_store(c, lin, size, drv(c, in, a, b));
	split_unlock();
	if (!ok)
		c->cc = cc;
	return ok;
}

HANDLER drive_rmw_at(struct tcg_cpu *c, const struct insn *in, gva_t lin, drv_fn drv, u64 b)
{
	void *host = tlb_write(c, lin, in->opd[0].size);
	gpa_t code = NO_CODE;

	/* The right to write is checked before the read: a fault is a write fault. */
	if (!host && !lin_host_code(c, lin, in->opd[0].size, &host, &code))
		return insn_fault(c, in);
	if (host)
		rmw_host(c, in, host, drv, b);
	else if (!rmw_split(c, in, lin, drv, b))
		return insn_fault(c, in);
	lin_wrote(c, code, in->opd[0].size);
	return in + 1;
}

static HANDLER drive_rmw(struct tcg_cpu *c, const struct insn *in)
{
	gva_t lin;
	u64 b = 0;

	if (!insn_lin(c, in, in->opd[0].size, ACC_W, &lin))
		return insn_fault(c, in);
	opd_load(c, in, 1, &b); /* a register or an immediate */
	return drive_rmw_at(c, in, lin, in->op->exec.drv, b);
}

/* Load the operands, call the row's meaning, store the result. */
HANDLER exec_driver(struct tcg_cpu *c, const struct insn *in)
{
	u32 flags = in->op->flags;
	unsigned first = flags & F_R0 ? 0 : 1;
	u16 cc = c->cc;
	u64 a, b, r;

	if (in->opd[0].kind == OPD_MEM && (flags & (F_R0 | F_W0)) == (F_R0 | F_W0))
		return drive_rmw(c, in);
	if (!opd_load(c, in, first, &a) || !opd_load(c, in, first + 1, &b))
		return insn_fault(c, in);
	r = in->op->exec.drv(c, in, a, b);
	if (c->exc.vector != EXC_NONE)
		return insn_fault(c, in);
	if (flags & F_W0 && !opd_store(c, in, 0, r)) {
		c->cc = cc;
		return insn_fault(c, in);
	}
	return in + 1;
}

/* Rows that need CPL 0 or protected mode. */
HANDLER exec_guarded(struct tcg_cpu *c, const struct insn *in)
{
	u32 flags = in->op->flags;

	if (flags & F_PROT && (!(c->v.s.cr0 & CR0_PE) || c->v.s.rflags & FL_VM))
		return insn_raise(c, in, EXC_UD);
	if (flags & F_PRIV && c->cpl)
		return insn_raise_err(c, in, EXC_GP, 0);
	return in->op->cls == CLS_DRV ? exec_driver(c, in) : in->op->exec.self(c, in);
}

static HANDLER exec_undefined(struct tcg_cpu *c, const struct insn *in)
{
	return insn_raise(c, in, EXC_UD);
}

insn_fn insn_general(const struct insn *in)
{
	switch (in->op->cls) {
	case CLS_UD: return exec_undefined;
	case CLS_NATIVE: return native_exec;
	}
	if (in->op->flags & (F_PRIV | F_PROT))
		return exec_guarded;
	if (in->op->cls != CLS_DRV)
		return in->op->exec.self;
	return in->op->exec.drv == exec_BSF || in->op->exec.drv == exec_BSR ? exec_bit_scan
									    : exec_driver;
}

/* --- running ------------------------------------------------------------------------------ */

int interp_init(struct tcg_cpu *c, struct err *e)
{
	const u64 asked = c->v.env->tcg_cache_bytes;
	struct interp *it = calloc(1, sizeof *it);

	if (!it)
		return err_set(e, -ENOMEM, "cpu%u: no memory for the interpreter", c->v.index);
	if (arena_init(it, asked ? ALIGN_DOWN(asked * 2 / 3, PAGE_SIZE) : ARENA_BYTES) < 0) {
		arena_free(it);
		free(it);
		return err_set(e, -ENOMEM,
			       "cpu%u: no memory for decoded code; try a smaller --tcg-cache",
			       c->v.index);
	}
	pthread_mutex_init(&it->inbox_lock, NULL);
	c->interp = it;
	fast_init();
	return 0;
}

void interp_free(struct tcg_cpu *c)
{
	if (!c->interp)
		return;
	arena_free(c->interp);
	pthread_mutex_destroy(&c->interp->inbox_lock);
	free(c->interp);
	c->interp = NULL;
}

void interp_one(struct tcg_cpu *c)
{
	struct insn *in = &c->interp->one;

	c->interp->link = NULL;
	c->interp->dropped = false;
	if (!insn_fetch(c, in))
		return;
	c->v.s.int_shadow = 0;
	c->v.s.rflags &= ~(u64)FL_RF;
	if (in->fn(c, in))
		insn_end(c, in);
	c->budget--;
	c->interp->stat_steps++;
}

/* Run from the block at s.rip through everything chained to it, until a handler leaves. */
static void run_blocks(struct tcg_cpu *c)
{
	struct interp *it = c->interp;
	struct block *b = block_find(c);
	const struct insn *in;

	if (!b) {
		if (c->exc.vector == EXC_NONE)
			interp_one(c);
		return;
	}
	it->dropped = false;
	in = block_enter(c, b, c->v.s.rip);
	while (in) {
		if (unlikely(it->dropped)) {
			c->v.s.rip = rip_mask(in, insn_rip(c, in));
			return;
		}
		in = in->fn(c, in);
	}
}

/* An interrupt that was held back can be taken now. */
static bool event_unmasked(const struct tcg_cpu *c)
{
	const struct cpu_state *s = &c->v.s;

	return (c->irq_masked && s->rflags & FL_IF) || (s->nmi_pending && !s->nmi_blocked);
}

void interp_run(struct tcg_cpu *c)
{
	c->paid_from = c->budget;
	while (c->exc.vector == EXC_NONE && c->v.s.mp_state == MP_RUNNABLE && !c->shutdown &&
	       !must_leave(c) && !step_wanted(c)) {
		if (unlikely(c->v.s.int_shadow)) {
			interp_one(c);
			continue;
		}
		if (unlikely(event_unmasked(c)))
			break;
		c->v.s.rflags &= ~(u64)FL_RF;
		run_blocks(c);
	}
	count_insns(c);
	c->interp->link = NULL;
}
