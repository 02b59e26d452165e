/* step.c - running one instruction at a time: RFLAGS.TF and the debug registers.
 *
 * While TF is set or a breakpoint is enabled the vCPU leaves the block cache.  Breakpoints on
 * data are recognised from the operands the table gives and the implicit ones of the stack;
 * accesses to descriptor tables and task segments do not count.  Source: SDM vol 3 "Debug
 * Registers", "Debug Exceptions". */
#include "exec.h"

enum { DR7_ENABLES = 0xff };
enum { BREAK_EXEC, BREAK_WRITE, BREAK_IO, BREAK_ACCESS };

struct access_range {
	gva_t at; /* linear address, or port */
	unsigned len;
	bool write, io;
};
enum { RANGES_MAX = 4 };

bool step_wanted(const struct tcg_cpu *c)
{
	return c->v.s.rflags & FL_TF || c->v.s.dr[7] & DR7_ENABLES;
}

static unsigned break_type(u64 dr7, unsigned i)
{
	return dr7 >> (16 + 4 * i) & 3;
}

static unsigned break_len(u64 dr7, unsigned i)
{
	static const u8 len[4] = { 1, 2, 8, 4 };

	return len[dr7 >> (18 + 4 * i) & 3];
}

static bool break_type_matches(unsigned type, const struct access_range *r)
{
	if (r->io)
		return type == BREAK_IO;
	return type == BREAK_ACCESS || (type == BREAK_WRITE && r->write);
}

/* Bits of DR6 for the enabled breakpoints that r touches. */
static u64 break_hits(const struct tcg_cpu *c, const struct access_range *r)
{
	u64 dr7 = c->v.s.dr[7], hits = 0;

	for (unsigned i = 0; i < 4; i++) {
		unsigned len = break_len(dr7, i);
		gva_t at = ALIGN_DOWN(c->v.s.dr[i], len);

		if (dr7 >> 2 * i & 3 && break_type_matches(break_type(dr7, i), r) &&
		    at < r->at + r->len && r->at < at + len)
			hits |= BIT(i);
	}
	return hits;
}

/* An instruction breakpoint at the current instruction. */
static u64 break_at_code(const struct tcg_cpu *c)
{
	gva_t lin = c->v.s.rip + (c->mode == MODE_64 ? 0 : c->v.s.seg[SEG_CS].base);
	u64 dr7 = c->v.s.dr[7], hits = 0;

	for (unsigned i = 0; i < 4; i++)
		if (dr7 >> 2 * i & 3 && break_type(dr7, i) == BREAK_EXEC && c->v.s.dr[i] == lin)
			hits |= BIT(i);
	return hits;
}

/* --- what an instruction touches ---------------------------------------------------------- */
static gva_t seg_address(const struct tcg_cpu *c, unsigned seg, u64 off)
{
	if (c->mode == MODE_64)
		return off + (seg == SEG_FS || seg == SEG_GS ? c->v.s.seg[seg].base : 0);
	return (u32)(c->v.s.seg[seg].base + off);
}

static bool runs(const struct insn *in, insn_fn fn)
{
	return in->op->cls == CLS_SELF && in->op->exec.self == fn;
}

static bool pushes(const struct insn *in)
{
	return runs(in, exec_PUSH) || runs(in, exec_PUSH_SREG) || runs(in, exec_PUSHF) ||
	       runs(in, exec_CALL) || runs(in, exec_ENTER);
}

static bool pops(const struct insn *in)
{
	return runs(in, exec_POP) || runs(in, exec_POP_SREG) || runs(in, exec_POPF) ||
	       runs(in, exec_RET);
}

static bool touches_port(const struct insn *in)
{
	return runs(in, exec_IN) || runs(in, exec_OUT) || runs(in, exec_INS) || runs(in, exec_OUTS);
}

static struct access_range opd_range(const struct tcg_cpu *c, const struct insn *in, unsigned n)
{
	const struct opd *o = &in->opd[n];
	bool write = n == 0 ? in->op->flags & F_W0 : n == 1 && in->op->flags & F_W1;
	gva_t at;

	switch (o->kind) {
	case OPD_STR_SRC: at = seg_address(c, in->seg, c->v.s.gpr[RSI] & addr_mask(in)); break;
	case OPD_STR_DST: at = seg_address(c, SEG_ES, c->v.s.gpr[RDI] & addr_mask(in)); break;
	default: at = seg_address(c, in->seg, insn_ea(c, in)); break;
	}
	return (struct access_range){ at, o->size, write, false };
}

static unsigned insn_ranges(const struct tcg_cpu *c, const struct insn *in, struct access_range *r)
{
	u64 rsp = c->v.s.gpr[RSP] & size_mask(c->stack_size);
	unsigned n = 0;

	for (unsigned i = 0; i < in->nopd && n < RANGES_MAX - 1; i++) {
		u8 kind = in->opd[i].kind;

		if (kind == OPD_STR_SRC || kind == OPD_STR_DST ||
		    (kind == OPD_MEM && !(in->op->flags & F_NOMEM)))
			r[n++] = opd_range(c, in, i);
	}
	if (pushes(in))
		r[n++] = (struct access_range){ seg_address(c, SEG_SS, rsp - in->size), in->size,
						true, false };
	else if (pops(in))
		r[n++] = (struct access_range){ seg_address(c, SEG_SS, rsp), in->size, false,
						false };
	else if (touches_port(in) && c->v.s.cr4 & CR4_DE)
		r[n++] = (struct access_range){ in->opd[0].kind == OPD_IMM ||
								in->opd[1].kind == OPD_IMM
							? (u8)in->imm
							: (u16)c->v.s.gpr[RDX],
						in->size, false, true };
	return n;
}

static u64 break_at_data(struct tcg_cpu *c)
{
	struct access_range r[RANGES_MAX];
	u64 hits = 0;
	struct insn in;
	unsigned n;

	if (!(c->v.s.dr[7] & DR7_ENABLES) || !insn_fetch(c, &in)) {
		c->exc.vector = EXC_NONE; /* the instruction itself will fault */
		return 0;
	}
	n = insn_ranges(c, &in, r);
	for (unsigned i = 0; i < n; i++)
		hits |= break_hits(c, &r[i]);
	return hits;
}

/* --- the step ----------------------------------------------------------------------------- */
/* Does TF as it was before the instruction count?  INT n drops the trap; for SYSCALL the flags it
 * leaves behind decide; SYSRET sees to it itself. */
static bool trap_after(const struct tcg_cpu *c, bool tf_before)
{
	const struct insn *in = &c->interp->one;

	if (runs(in, exec_INTn) || runs(in, exec_SYSRET))
		return false;
	if (runs(in, exec_SYSCALL))
		return c->v.s.rflags & FL_TF;
	return tf_before;
}

/* What an instruction did that ended without a #DB: data breakpoints are held back by MOV SS (the
 * single-step trap is lost) and come after what follows it; if that is INT3 or INTO, in the
 * handler. SDM vol 3 "Masking Exceptions and Interrupts When Switching Stacks". */
static bool hold_back(struct tcg_cpu *c, u64 hits)
{
	bool trap = c->exc.vector != EXC_NONE && c->exc.trap && c->exc.vector != EXC_DB;

	if (trap || (c->exc.vector == EXC_NONE && c->v.s.int_shadow == 2))
		c->db_pending = (u8)hits;
	return c->exc.vector != EXC_NONE || c->shutdown || c->v.s.int_shadow == 2;
}

/* One instruction, with the #DB due before or after it in c->exc. */
void step_one(struct tcg_cpu *c)
{
	bool tf = c->v.s.rflags & FL_TF;
	u64 held = c->db_pending, hits;

	c->db_pending = 0;
	if (held && !c->v.s.int_shadow) {
		c->exc = (struct exc){ .vector = EXC_DB, .trap = true, .dr6 = held };
		return;
	}
	/* Behind MOV SS Intel's processors do not look, AMD's do. */
	if (c->v.s.rflags & FL_RF || (c->v.s.int_shadow == 2 && !cpuid_is_amd()))
		hits = 0;
	else
		hits = break_at_code(c);
	if (hits) {
		c->exc = (struct exc){ .vector = EXC_DB, .dr6 = hits };
		return;
	}
	hits = break_at_data(c) | held;
	c->interp->stepping = true;
	interp_one(c);
	c->interp->stepping = false;
	if (hold_back(c, hits) || runs(&c->interp->one, exec_INT1)) /* INT1's #DB stands for all */
		return;
	if (trap_after(c, tf))
		hits |= DR6_BS;
	if (hits)
		c->exc = (struct exc){ .vector = EXC_DB, .trap = true, .dr6 = hits };
}
