/* exec_ctl.c - near control transfers, the stack, flags as a word, and small instructions
 * without a better home, in their general form: any mode, one at a time.  Far transfers are in
 * exec_sys.c.
 *
 * Source: SDM vol 2, the instruction pages; vol 1 "Procedure Calls" for the stack. */
#include <sys/syscall.h>

#include "exec.h"

/* --- jumps -------------------------------------------------------------------------------- */
/* Go on at rip, wrapped to the operand size: inside the code segment, or canonical, else
 * #GP(0). */
static HANDLER jump(struct tcg_cpu *c, const struct insn *in, u64 rip)
{
	rip &= size_mask(in->size);
	if (in->mode == MODE_64 ? !is_canonical(rip) : rip > c->v.s.seg[SEG_CS].limit)
		return insn_raise_err(c, in, EXC_GP, 0);
	c->v.s.rip = rip;
	return NULL;
}

static u64 rel_target(const struct tcg_cpu *c, const struct insn *in)
{
	return insn_next_rip(c, in) + in->imm;
}

HANDLER exec_JMP(struct tcg_cpu *c, const struct insn *in)
{
	u64 to = rel_target(c, in);

	if (in->opd[0].kind != OPD_REL && !opd_load(c, in, 0, &to))
		return insn_fault(c, in);
	return jump(c, in, to);
}

HANDLER exec_Jcc(struct tcg_cpu *c, const struct insn *in)
{
	if (!cc_test(c->cc, in->op->opcode & 15))
		return insn_end(c, in);
	return jump(c, in, rel_target(c, in));
}

HANDLER exec_CALL(struct tcg_cpu *c, const struct insn *in)
{
	u64 to = rel_target(c, in);

	if (in->opd[0].kind != OPD_REL && !opd_load(c, in, 0, &to))
		return insn_fault(c, in);
	jump(c, in, to); /* first: with a bad target nothing is pushed */
	if (c->exc.vector == EXC_NONE && !stack_push(c, in->size, insn_next_rip(c, in)))
		return insn_fault(c, in);
	return NULL;
}

HANDLER exec_RET(struct tcg_cpu *c, const struct insn *in)
{
	u64 to;

	if (!stack_peek(c, 0, in->size, &to))
		return insn_fault(c, in);
	jump(c, in, to);
	if (c->exc.vector == EXC_NONE)
		stack_drop(c, in->size + (in->opd[0].kind == OPD_IMM ? (u16)in->imm : 0));
	return NULL;
}

/* Decrement rCX, of the address size, if the jump is not out of bounds. */
static HANDLER loop_if(struct tcg_cpu *c, const struct insn *in, bool cond)
{
	u64 count = (c->v.s.gpr[RCX] - 1) & addr_mask(in);

	if (count && cond) {
		jump(c, in, rel_target(c, in));
		if (c->exc.vector != EXC_NONE)
			return NULL;
	} else {
		insn_end(c, in);
	}
	addr_reg_set(c, in, RCX, count);
	return NULL;
}

HANDLER exec_LOOP(struct tcg_cpu *c, const struct insn *in)
{
	return loop_if(c, in, true);
}

HANDLER exec_LOOPE(struct tcg_cpu *c, const struct insn *in)
{
	return loop_if(c, in, cc_test(c->cc, 4));
}

HANDLER exec_LOOPNE(struct tcg_cpu *c, const struct insn *in)
{
	return loop_if(c, in, cc_test(c->cc, 5));
}

HANDLER exec_JCXZ(struct tcg_cpu *c, const struct insn *in)
{
	if (c->v.s.gpr[RCX] & addr_mask(in))
		return insn_end(c, in);
	return jump(c, in, rel_target(c, in));
}

/* --- push and pop ------------------------------------------------------------------------- */
HANDLER exec_PUSH(struct tcg_cpu *c, const struct insn *in)
{
	u64 val;

	if (!opd_load(c, in, 0, &val) || !stack_push(c, in->size, val))
		return insn_fault(c, in);
	return in + 1;
}

/* The address of a memory destination is formed with the new rSP; a popped rSP is not
 * incremented. */
HANDLER exec_POP(struct tcg_cpu *c, const struct insn *in)
{
	u64 val, rsp = c->v.s.gpr[RSP];

	if (!stack_peek(c, 0, in->size, &val))
		return insn_fault(c, in);
	stack_drop(c, in->size);
	if (!opd_store(c, in, 0, val)) {
		c->v.s.gpr[RSP] = rsp;
		return insn_fault(c, in);
	}
	return in + 1;
}

HANDLER exec_PUSHA(struct tcg_cpu *c, const struct insn *in)
{
	u64 rsp = c->v.s.gpr[RSP];

	for (unsigned r = RAX; r <= RDI; r++) {
		if (!stack_push(c, in->size, r == RSP ? rsp : c->v.s.gpr[r])) {
			c->v.s.gpr[RSP] = rsp;
			return insn_fault(c, in);
		}
	}
	return in + 1;
}

HANDLER exec_POPA(struct tcg_cpu *c, const struct insn *in)
{
	u64 val[8];

	for (unsigned i = 0; i < 8; i++)
		if (!stack_peek(c, i * in->size, in->size, &val[i]))
			return insn_fault(c, in);
	for (unsigned i = 0; i < 8; i++)
		if (RDI - i != RSP)
			reg_set(c, RDI - i, in->size, val[i]);
	stack_drop(c, 8 * in->size);
	return in + 1;
}

/* The frame pointers of level - 1 outer frames, then this one's. */
static bool enter_display(struct tcg_cpu *c, const struct insn *in, unsigned level, u64 frame)
{
	u64 rbp = c->v.s.gpr[RBP], mask = size_mask(c->stack_size), ptr;
	gva_t lin;

	for (unsigned i = 1; i < level; i++) {
		rbp -= in->size;
		if (!seg_lin(c, SEG_SS, rbp & mask, in->size, ACC_R, &lin) ||
		    !lin_load(c, lin, in->size, &ptr) || !stack_push(c, in->size, ptr))
			return false;
	}
	return stack_push(c, in->size, frame);
}

/* The new top of the stack must be writable. */
static bool stack_probe(struct tcg_cpu *c, u64 sp, unsigned size)
{
	gva_t lin;
	void *host;

	return seg_lin(c, SEG_SS, sp & size_mask(c->stack_size), size, ACC_W, &lin) &&
	       lin_host(c, lin, size, ACC_W, &host);
}

HANDLER exec_ENTER(struct tcg_cpu *c, const struct insn *in)
{
	unsigned level = in->imm2 & 31;
	u64 rsp = c->v.s.gpr[RSP], frame;

	if (!stack_push(c, in->size, c->v.s.gpr[RBP]))
		return insn_fault(c, in);
	frame = c->v.s.gpr[RSP];
	if ((level && !enter_display(c, in, level, frame)) ||
	    !stack_probe(c, c->v.s.gpr[RSP] - (u16)in->imm, in->size)) {
		c->v.s.gpr[RSP] = rsp;
		return insn_fault(c, in);
	}
	stack_drop(c, -(u64)(u16)in->imm);
	reg_set(c, RBP, in->size, frame);
	return in + 1;
}

HANDLER exec_LEAVE(struct tcg_cpu *c, const struct insn *in)
{
	u64 rbp = c->v.s.gpr[RBP], val;
	gva_t lin;

	if (!seg_lin(c, SEG_SS, rbp & size_mask(c->stack_size), in->size, ACC_R, &lin) ||
	    !lin_load(c, lin, in->size, &val))
		return insn_fault(c, in);
	reg_set(c, RSP, c->stack_size, rbp + in->size);
	reg_set(c, RBP, in->size, val);
	return in + 1;
}

/* --- flags as a word ---------------------------------------------------------------------- */
static unsigned iopl(const struct tcg_cpu *c)
{
	return c->v.s.rflags >> 12 & 3;
}

/* Virtual-8086 mode with IOPL < 3: PUSHF and POPF trap, or with CR4.VME and 16-bit operands
 * they work on VIF instead of IF. */
static bool v86_restricted(const struct tcg_cpu *c)
{
	return c->v.s.rflags & FL_VM && iopl(c) < 3;
}

static bool v86_vme(const struct tcg_cpu *c, const struct insn *in)
{
	return c->v.s.cr4 & CR4_VME && in->size == 2;
}

HANDLER exec_PUSHF(struct tcg_cpu *c, const struct insn *in)
{
	u64 fl = flags_get(c) & ~(u64)(FL_VM | FL_RF);

	if (v86_restricted(c)) {
		if (!v86_vme(c, in))
			return insn_raise_err(c, in, EXC_GP, 0);
		fl = (fl & ~(u64)FL_IF) | FL_IOPL | (fl & FL_VIF ? FL_IF : 0);
	}
	return stack_push(c, in->size, fl) ? in + 1 : insn_fault(c, in);
}

/* Which bits POPF may change here. */
static u64 popf_mask(const struct tcg_cpu *c, const struct insn *in)
{
	u64 mask = FL_ARITH | FL_TF | FL_DF | FL_NT | FL_AC | FL_ID;

	if (c->cpl == 0)
		mask |= FL_IOPL;
	if (c->cpl <= iopl(c))
		mask |= FL_IF;
	return mask & (in->size == 2 ? 0xffff : ~0ull);
}

HANDLER exec_POPF(struct tcg_cpu *c, const struct insn *in)
{
	u64 old = flags_get(c), fl, mask = popf_mask(c, in);

	if (v86_restricted(c) && !v86_vme(c, in))
		return insn_raise_err(c, in, EXC_GP, 0);
	if (!stack_peek(c, 0, in->size, &fl))
		return insn_fault(c, in);
	if (v86_restricted(c)) {
		if (fl & FL_TF || (fl & FL_IF && old & FL_VIP))
			return insn_raise_err(c, in, EXC_GP, 0);
		mask &= ~(u64)FL_IF;
		old = (old & ~(u64)FL_VIF) | (fl & FL_IF ? FL_VIF : 0);
	}
	stack_drop(c, in->size);
	flags_set(c, (old & ~(mask | FL_RF)) | (fl & mask));
	mmu_select(c); /* AC may have changed */
	return insn_end(c, in);
}

/* --- small things ------------------------------------------------------------------------- */
HANDLER exec_NOP(struct tcg_cpu *c, const struct insn *in)
{
	return in + 1;
}

HANDLER exec_ENDBR(struct tcg_cpu *c, const struct insn *in)
{
	return in + 1;
}

HANDLER exec_PREFETCH(struct tcg_cpu *c, const struct insn *in)
{
	return in + 1;
}

/* A guest that has been spinning for longer than whoever it waits for should need, if that one
 * runs, lets it have the host CPU.  A PAUSE long after the last one begins a new spin. */
HANDLER exec_PAUSE(struct tcg_cpu *c, const struct insn *in)
{
	enum { GAP_NS = 1000, YIELD_NS = 1000 };
	u64 now = host_rdtsc(), khz = c->v.env->tsc_khz;
	struct interp *it = c->interp;
	long rc;

	if (c->v.env->nr_vcpus < 2)
		return in + 1;
	__asm__ volatile("pause");
	if (now - it->pause_tsc > GAP_NS * khz / 1000000)
		it->spin_tsc = now;
	it->pause_tsc = now;
	if (now - it->spin_tsc > YIELD_NS * khz / 1000000) {
		__asm__ volatile("syscall"
				 : "=a"(rc)
				 : "a"(SYS_sched_yield)
				 : "rcx", "r11", "memory");
		it->pause_tsc = it->spin_tsc = host_rdtsc();
	}
	return in + 1;
}

HANDLER exec_LFENCE(struct tcg_cpu *c, const struct insn *in)
{
	__asm__ volatile("lfence" : : : "memory");
	return in + 1;
}

HANDLER exec_MFENCE(struct tcg_cpu *c, const struct insn *in)
{
	__asm__ volatile("mfence" : : : "memory");
	return in + 1;
}

HANDLER exec_SFENCE(struct tcg_cpu *c, const struct insn *in)
{
	__asm__ volatile("sfence" : : : "memory");
	return in + 1;
}

/* The guest's memory is coherent; what is left is the access check, that of a byte load. */
HANDLER exec_CLFLUSH(struct tcg_cpu *c, const struct insn *in)
{
	gva_t lin;
	void *host;

	if (!insn_lin(c, in, 1, ACC_R, &lin) || !lin_host(c, lin, 1, ACC_R, &host))
		return insn_fault(c, in);
	return in + 1;
}

HANDLER exec_HLT(struct tcg_cpu *c, const struct insn *in)
{
	c->v.s.mp_state = MP_HALTED;
	return insn_end(c, in);
}

HANDLER exec_XLAT(struct tcg_cpu *c, const struct insn *in)
{
	u64 ea = (c->v.s.gpr[RBX] + (u8)c->v.s.gpr[RAX]) & addr_mask(in), val;
	gva_t lin;

	if (!seg_lin(c, in->seg, ea, 1, ACC_R, &lin) || !lin_load(c, lin, 1, &val))
		return insn_fault(c, in);
	reg_set(c, RAX, 1, val);
	return in + 1;
}

/* Two signed bounds in memory. */
HANDLER exec_BOUND(struct tcg_cpu *c, const struct insn *in)
{
	s64 index = (s64)sign_extend(reg_get(c, in->opd[0].reg, in->size), in->size);
	u64 ea = insn_ea(c, in), lo, hi;
	gva_t lin;

	if (!seg_lin(c, in->seg, ea, 2 * in->size, ACC_R, &lin) ||
	    !lin_load(c, lin, in->size, &lo) || !lin_load(c, (u32)(lin + in->size), in->size, &hi))
		return insn_fault(c, in);
	if (index < (s64)sign_extend(lo, in->size) || index > (s64)sign_extend(hi, in->size))
		return insn_raise(c, in, EXC_BR);
	return in + 1;
}

/* The host's own generators; CF says whether there was a number, the other flags are cleared. */
#define RANDOM(name, ins)                                                                        \
	HANDLER exec_##name(struct tcg_cpu *c, const struct insn *in)                            \
	{                                                                                        \
		u64 val;                                                                         \
		u16 f;                                                                           \
                                                                                                 \
		switch (in->size) {                                                              \
		case 2: __asm__ volatile(ins " %w1" ALU_FLAGS_OUT : "=&a"(f), "=r"(val)); break; \
		case 4: __asm__ volatile(ins " %k1" ALU_FLAGS_OUT : "=&a"(f), "=r"(val)); break; \
		default: __asm__ volatile(ins " %1" ALU_FLAGS_OUT : "=&a"(f), "=r"(val)); break; \
		}                                                                                \
		c->cc = f;                                                                       \
		opd_store(c, in, 0, val);                                                        \
		return in + 1;                                                                   \
	}
RANDOM(RDRAND, "rdrand")
RANDOM(RDSEED, "rdseed")

/* --- software interrupts ------------------------------------------------------------------ */
static HANDLER soft_int(struct tcg_cpu *c, const struct insn *in, enum event_kind kind, u8 vector)
{
	insn_end(c, in);
	c->soft_len = in->len;
	fp_leave(c);
	if (!exc_deliver(c, kind, vector, false, 0))
		c->shutdown = true;
	return NULL;
}

/* INT3 and INTO are traps: they wait in c->exc like any other exception. */
static HANDLER soft_exc(struct tcg_cpu *c, const struct insn *in, u8 vector)
{
	raise(c, vector);
	c->exc.trap = true;
	c->soft_len = in->len;
	return insn_end(c, in);
}

HANDLER exec_INT3(struct tcg_cpu *c, const struct insn *in)
{
	return soft_exc(c, in, EXC_BP);
}

HANDLER exec_INTO(struct tcg_cpu *c, const struct insn *in)
{
	return cc_test(c->cc, 0) ? soft_exc(c, in, EXC_OF) : insn_end(c, in);
}

HANDLER exec_INTn(struct tcg_cpu *c, const struct insn *in)
{
	return soft_int(c, in, EV_SOFT_INT, (u8)in->imm);
}

HANDLER exec_INT1(struct tcg_cpu *c, const struct insn *in)
{
	return soft_int(c, in, EV_ICEBP, EXC_DB);
}
