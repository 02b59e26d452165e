/* trans.c - the translator against the interpreter: loops of random instructions, made from the
 * rows of ops.def, with branches, memory operands, pushes and pops, run long enough to be
 * translated; all state must agree, faults included. */
#include <sched.h>
#include <unistd.h>

#include "../../tcg/native.h"
#include "../../tcg/trans.h"
#include "cpu_kit.h"

enum {
	DATA_AT = KIT_DATA,
	DATA_BYTES = 0x2000,
	HOLE = KIT_DATA + DATA_BYTES,
	ROUNDS = 60,
	COUNTER = 0x800,
	STACK_BYTES = 0x2000
};

struct pair {
	struct cpu_kit *trans, *interp;
};

struct program {
	u8 code[1024];
	unsigned n, at[64], insns;
	u16 undefined; /* flags that nothing may look at */
	u16 vague[64]; /* these, before each */
};

static bool reserved(unsigned reg)
{
	return reg == RSP || reg == RSI || reg == RBX || reg == R10 || reg == R13 || reg == R14;
}

static bool self_wanted(const struct op *op)
{
	insn_fn f = op->exec.self;

	return f == exec_MUL || f == exec_IMUL1 || f == exec_MULX || f == exec_XCHG ||
	       f == exec_XADD || f == exec_CMPXCHG || f == exec_CMPXCHG8B || f == exec_CMPXCHG16B ||
	       f == exec_NOP || f == exec_CLD || f == exec_PUSHF || f == exec_POPF ||
	       f == exec_CLI ||
	       f == exec_STI || f == exec_MOV_FROM_SREG || f == exec_BT_MEM || f == exec_BTS_MEM ||
	       f == exec_BTR_MEM || f == exec_BTC_MEM;
}

static bool row_wanted(const struct op *op)
{
	if (op->flags & (F_ENDS | F_PRIV | F_I64) || op->map >= MAP_NR || !op_available(op))
		return false;
	switch (op->cls) {
	case CLS_DRV: return op->exec.drv != exec_LAHF && op->exec.drv != exec_SAHF;
	case CLS_SELF: return self_wanted(op);
	case CLS_NATIVE: return true;
	default: return false;
	}
}

/* Bytes that may be the row's instruction. */
static void row_encode(const struct op *op, u8 *p)
{
	static const u8 bases[] = { RSI, RBX, R10 & 7, R14 & 7 };
	bool vex = op->map >= MAP_V0F, x87 = op->map >= MAP_D8 && op->map <= MAP_DF, high = false;
	unsigned pp = op->pp & PP_NP ? 0 : (unsigned)__builtin_ctz(op->pp), map;
	u8 rex = test_random() % 2 ? 0x40 | (u8)(test_random() & 15) : 0, modrm = (u8)test_random(),
	   *start;
	unsigned base = (unsigned)(test_random() % 4);

	if (op->pp == PP_ANY && test_random() % 4 == 0)
		pp = 1;
	rex &= 0xd; /* no REX.X: no index but ours */
	modrm |= 0xc0;
	if (test_random() % 2) {
		modrm = (u8)((modrm & 0x38) | 0x40 | bases[base]);
		high = base >= 2;
		rex = (u8)((rex & ~1) | (high ? 0x41 : 0));
	}
	if (op->ext <= 7)
		modrm = (u8)((modrm & 0xc7) | op->ext << 3);
	if (x87)
		modrm = op->opcode < 8 ? (u8)((modrm & 7) | op->opcode << 3 | 0x40) : op->opcode;
	if (x87 && op->opcode < 8 && modrm >> 6 == 1 && (modrm & 7) != RSI)
		modrm = (u8)((modrm & ~7) | RSI), rex &= ~1;
	if (vex) {
		u8 r = rex & 4 ? 0 : 0x80, b = rex & 1 ? 0 : 0x20;

		map = op->map - MAP_V0F + 1;
		*p++ = 0xc4;
		*p++ = (u8)(r | 0x40 | b | map);
		*p++ = (u8)((test_random() & 0xf8) |
			    (op->lw & LW_L0 ? op->lw & LW_L1 ? test_random() & 4 : 0 : 4) | pp);
	} else {
		static const u8 prefix[] = { 0, 0x66, 0xf3, 0xf2 };

		if (op->flags & F_LOCKOK && modrm >> 6 == 1 && test_random() % 2)
			*p++ = 0xf0;
		if (pp)
			*p++ = prefix[pp];
		if (rex)
			*p++ = rex;
		if (x87)
			*p++ = (u8)(0xd8 + op->map - MAP_D8);
		if (op->map >= MAP_0F && op->map <= MAP_0F3A)
			*p++ = 0x0f;
		if (op->map == MAP_0F38 || op->map == MAP_0F3A)
			*p++ = op->map == MAP_0F38 ? 0x38 : 0x3a;
	}
	if (!x87)
		*p++ = op->opcode;
	*p++ = modrm;
	start = p;
	for (unsigned i = 0; i < 12; i++)
		p[i] = (u8)test_random();
	if (modrm >> 6 == 1 && (op->flags & F_ALIGN || test_random() % 2))
		start[0] &= 0xf0;
}

static bool writes_reserved(const struct insn *in)
{
	for (unsigned n = 0; n < in->nopd && n < 2; n++)
		if (in->op->flags & (n ? F_W1 : F_W0) &&
		    (in->opd[n].kind == OPD_REG || in->opd[n].kind == OPD_REGH) &&
		    reserved(in->opd[n].reg))
			return true;
	return in->op->exec.self == exec_XCHG && in->opd[1].kind == OPD_REG &&
	       reserved(in->opd[1].reg);
}

static bool memory_wanted(const struct insn *in)
{
	for (unsigned n = 0; n < in->nopd; n++)
		if (in->opd[n].kind == OPD_MEM &&
		    (in->index != REG_NONE || in->base >= 16 || !reserved(in->base)))
			return false;
	return in->opd[0].kind != OPD_STR_DST;
}

/* Append one instruction of the row; false if it is none we want. */
static bool add_row(struct program *p, const struct op *op)
{
	u8 bytes[32];
	struct insn in;
	u16 kept;
	int len;

	row_encode(op, bytes);
	len = decode(&in, bytes, INSN_MAX, MODE_64);
	if (len <= 0 || in.op != op || in.asize != 8 || in.prefixes & PFX_SEG ||
	    writes_reserved(&in) || !memory_wanted(&in))
		return false;
	if (op_flags_before(&in, 0) & p->undefined)
		return false;
	p->vague[p->insns] = p->undefined;
	kept = op_flags_before(&in, FL_ARITH) & ~op_flags_before(&in, 0);
	p->undefined = (u16)((p->undefined & (~op->fl_write | kept)) | op->fl_undef);
	memcpy(p->code + p->n, bytes, (size_t)len);
	p->at[p->insns++] = p->n;
	p->n += (unsigned)len;
	return true;
}

static void add_bytes(struct program *p, const void *bytes, unsigned n)
{
	memcpy(p->code + p->n, bytes, n);
	p->vague[p->insns] = p->undefined;
	p->at[p->insns++] = p->n;
	p->n += n;
}
#define ADD(p, ...)                              \
	do {                                     \
		const u8 b_[] = { __VA_ARGS__ }; \
		add_bytes(p, b_, sizeof b_);     \
	} while (0)

static void add_stack(struct program *p)
{
	static const u8 regs[] = { RAX, RCX, RDX, RBP, RDI };
	u8 reg = regs[test_random() % sizeof regs];

	switch (test_random() % 8) {
	case 0: ADD(p, (u8)(0x50 + reg), (u8)(0x58 + regs[test_random() % sizeof regs])); break;
	case 1: ADD(p, 0x41, (u8)(0x50 + (R9 & 7)), 0x41, (u8)(0x58 + (R15 & 7))); break;
	case 2: ADD(p, 0x6a, (u8)test_random(), (u8)(0x58 + reg)); break;
	case 3: ADD(p, 0xff, 0x76, (u8)test_random(), (u8)(0x58 + reg)); break; /* push [rsi + x] */
	case 4: ADD(p, 0xe8, 0, 0, 0, 0, (u8)(0x58 + reg)); break; /* call $; pop */
	case 5: /* mov [rsp - 16], rcx; lea r11, [rsp - 24]; mov rdx, [r11 + 8] */
		ADD(p, 0x48, 0x89, 0x4c, 0x24, 0xf0, 0x4c, 0x8d, 0x5c, 0x24, 0xe8, 0x49, 0x8b,
		    0x53, 0x08);
		break;
	case 6: /* push rbp; mov rbp, rsp; mov [rbp - 8], rdi; leave */
		ADD(p, 0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0x7d, 0xf8, 0xc9);
		break;
	default: /* call over a jump to a ret */ ADD(p, 0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3); break;
	}
}

/* Accesses by an index that is known to be small; the last one only seems to be. */
static void add_small_index(struct program *p)
{
	switch (test_random() % 8) {
	case 0:
	case 1: /* movzx edx, al; mov rcx, [rsi + rdx * 4 + 8]; mov [rsi + rdx * 4], edi */
		ADD(p, 0x0f, 0xb6, 0xd0, 0x48, 0x8b, 0x4c, 0x96, 8, 0x89, 0x3c, 0x96);
		break;
	case 2:
	case 3: /* and edi, 31; xor [rbx + rdi * 8 - 128], eax; mov ecx, [rbx + rdi * 8] */
		ADD(p, 0x83, 0xe7, 0x1f, 0x31, 0x44, 0xfb, 0x80, 0x8b, 0x0c, 0xfb);
		break;
	case 4:
	case 5: /* shr r11d, 28; movzx eax, byte [r10 + r11]; mov [r10 + r11 + 5], cl */
		ADD(p, 0x41, 0xc1, 0xeb, 0x1c, 0x43, 0x0f, 0xb6, 0x04, 0x1a, 0x43, 0x88, 0x4c,
		    0x1a, 5);
		break;
	case 6: /* movzx edx, cl; mov edi, edx; mov rax, [rsi + rdi]; mov rcx, [rsi + rdx] */
		ADD(p, 0x0f, 0xb6, 0xd1, 0x89, 0xd7, 0x48, 0x8b, 0x04, 0x3e, 0x48, 0x8b, 0x0c,
		    0x16);
		break;
	default: /* movzx edx, al; and al, 3; mov dh, al; mov cl, [rsi + rdx], and back */
		ADD(p, 0x0f, 0xb6, 0xd0, 0x24, 3, 0x88, 0xc6, 0x8a, 0x0c, 0x16, 0x88, 0x0c, 0x16);
		break;
	}
	p->undefined |= FL_AF | FL_OF;
}

/* A conditional jump over instructions that come later. */
static void add_branch(struct program *p, const struct op *const *rows, unsigned n)
{
	static const u16 reads[8] = { FL_OF, FL_CF, FL_ZF,	   FL_CF | FL_ZF,
				      FL_SF, FL_PF, FL_SF | FL_OF, FL_SF | FL_OF | FL_ZF };
	u8 cond = (u8)(test_random() & 15);
	unsigned at, skipped = 1 + (unsigned)(test_random() % 3);
	u16 undefined = p->undefined;

	if (reads[cond >> 1] & undefined)
		return;
	ADD(p, (u8)(0x70 | cond), 0);
	at = p->n;
	while (skipped)
		skipped -= add_row(p, rows[test_random() % n]);
	p->code[at - 1] = (u8)(p->n - at);
	p->undefined |= undefined;
}

static void program_make(struct program *p, const struct op *const *rows, unsigned n)
{
	unsigned want = 4 + (unsigned)(test_random() % 20);
	u32 back;

	memset(p, 0, sizeof *p);
	ADD(p, 0x4d, 0x8d, 0x6d, 0x40); /* lea r13, [r13 + 64] */
	while (p->insns < want) {
		unsigned k = (unsigned)(test_random() % 16);

		if (k == 0)
			add_branch(p, rows, n);
		else if (k == 1)
			add_stack(p);
		else if (k == 6)
			add_small_index(p);
		else if (k == 2) /* mov rax, [r14 + r13]: leaves the page at last */
			ADD(p, 0x4b, 0x8b, 0x04, 0x2e);
		else if (k == 3) /* mov [r14 + r13], r9 */
			ADD(p, 0x4f, 0x89, 0x0c, 0x2e);
		else if (k == 4) { /* xor edx, edx; mov ecx, 7; div ecx */
			ADD(p, 0x31, 0xd2, 0xb9, 7, 0, 0, 0, 0xf7, 0xf1);
			p->undefined = FL_ARITH;
		} else if (k == 5) /* lea r9d, [rip + 5] */
			ADD(p, 0x44, 0x8d, 0x0d, 5, 0, 0, 0);
		else
			add_row(p, rows[test_random() % n]);
	}
	ADD(p, 0x48, 0xff, 0x8e, COUNTER & 0xff, COUNTER >> 8, 0,
	    0); /* dec qword [rsi + COUNTER] */
	ADD(p, 0x0f, 0x85, 0, 0, 0, 0); /* jnz to the start */
	back = (u32) - (s32)p->n;
	memcpy(p->code + p->n - 4, &back, 4);
	ADD(p, 0xf4);
}

static void kit_start(struct cpu_kit *k, const struct program *p, u64 seed)
{
	struct tcg_cpu *c = k->c;
	struct cpu_state *s = k->s;
	u64 x = seed;

	tcg_engine.pull(k->vcpus[0]);
	memset(s->xsave, 0, XSAVE_BYTES);
	st16(s->xsave, 0x37f);
	st32(s->xsave + FXSAVE_MXCSR_OFF, seed % 5 ? 0x1f80 : 0x1f80 & ~(1u << (7 + seed % 6)));
	st64(s->xsave + XSAVE_HEADER_OFF, 3);
	for (unsigned i = 0; i < 256; i++)
		s->xsave[FXSAVE_XMM_OFF + i] =
			(u8)(x = x * 6364136223846793005 + 1442695040888963407) >> 5;
	for (unsigned i = 0; i < DATA_BYTES; i += 8)
		st64(k->ram + DATA_AT + i, (x = x * 6364136223846793005 + 1442695040888963407));
	memset(k->ram + KIT_STACK - STACK_BYTES / 2, 0x5a, STACK_BYTES);
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = x = x * 6364136223846793005 + 1442695040888963407;
	st64(k->ram + DATA_AT + 0x400 + COUNTER, ROUNDS);
	s->gpr[RSP] = KIT_STACK;
	s->gpr[RSI] = DATA_AT + 0x400;
	s->gpr[RBX] = DATA_AT + 0xff0;
	s->gpr[R10] = DATA_AT + 0x1800;
	s->gpr[R14] = HOLE - 64 * 40;
	s->gpr[R13] = 0;
	s->rflags = 2 | (seed & (FL_ARITH));
	s->mp_state = MP_RUNNABLE;
	memcpy(k->ram + KIT_CODE, p->code, sizeof p->code);
	s->rip = KIT_CODE + (seed % 7 ? 0 : 0);
	s->cr4 |= CR4_OSXSAVE;
	s->xcr0 = 7;
	tcg_engine.push(k->vcpus[0]);
	c->budget = BUDGET;
}

/* Do flags differ that are defined where they were left? */
static bool same_flags(const struct pair *p, const struct program *g)
{
	u64 at = p->interp->s->rip - KIT_CODE;
	u16 vague = g->undefined & FL_CF; /* DEC, which ends the loop, keeps it */
	unsigned i = g->insns;

	while (i && g->at[--i] > at)
		;
	vague |= g->vague[i];
	return !((flags_get(p->trans->c) ^ flags_get(p->interp->c)) & FL_ARITH & ~(u64)vague);
}

static bool same(struct pair *p, const struct program *g)
{
	struct cpu_state *a = p->trans->s, *b = p->interp->s;
	struct tcg_cpu *ca = p->trans->c, *cb = p->interp->c;
	bool fault = ca->exc.vector != EXC_NONE;

	if (ca->exc.vector != cb->exc.vector || a->rip != b->rip || !same_flags(p, g) ||
	    memcmp(a->gpr, b->gpr, sizeof a->gpr) != 0)
		return false;
	if (fault && (ca->exc.cr2 != cb->exc.cr2 || ca->exc.error != cb->exc.error))
		return false;
	if (memcmp(a->xsave, b->xsave, 6) || memcmp(a->xsave + 24, b->xsave + 24, 512 - 24 - 96) ||
	    memcmp(a->xsave + 576, b->xsave + 576, 256))
		return false;
	return !memcmp(p->trans->ram + DATA_AT, p->interp->ram + DATA_AT, DATA_BYTES) &&
	       !memcmp(p->trans->ram + KIT_STACK - STACK_BYTES / 2,
		       p->interp->ram + KIT_STACK - STACK_BYTES / 2, STACK_BYTES);
}

static void tell(struct pair *p, const struct program *g)
{
	struct cpu_state *a = p->trans->s, *b = p->interp->s;

	for (unsigned at = 0; at < g->n;) {
		struct insn in;
		char text[96];
		int len = decode(&in, g->code + at, INSN_MAX, MODE_64);

		decode_text(&in, KIT_CODE + at, text, sizeof text);
		printf("    %x: %s\n", KIT_CODE + at, text);
		at += len > 0 ? (unsigned)len : 1;
	}
	printf("    translator: exc %u rip %llx cc %x; interpreter: exc %u rip %llx cc %x\n",
	       p->trans->c->exc.vector, (unsigned long long)a->rip, p->trans->c->cc,
	       p->interp->c->exc.vector, (unsigned long long)b->rip, p->interp->c->cc);
	for (unsigned i = 0; i < 16; i++)
		if (a->gpr[i] != b->gpr[i])
			printf("    r%u: %llx, %llx\n", i, (unsigned long long)a->gpr[i],
			       (unsigned long long)b->gpr[i]);
	for (unsigned i = 0; i < XSAVE_BYTES; i++)
		if (a->xsave[i] != b->xsave[i] && (i < 6 || i >= 24))
			printf("    xsave[%u]: %x, %x\n", i, a->xsave[i], b->xsave[i]);
	for (unsigned i = 0; i < DATA_BYTES; i++)
		if (p->trans->ram[DATA_AT + i] != p->interp->ram[DATA_AT + i])
			printf("    data[%x]: %x, %x\n", i, p->trans->ram[DATA_AT + i],
			       p->interp->ram[DATA_AT + i]);
}

static struct pair pair_new(void)
{
	struct pair p = { cpu_kit_new(), cpu_kit_new() };

	trans_free(p.interp->c);
	cpu_kit_map(p.trans, HOLE, HOLE, 0);
	cpu_kit_map(p.interp, HOLE, HOLE, 0);
	return p;
}

static void pair_free(struct pair *p)
{
	cpu_kit_free(p->trans);
	cpu_kit_free(p->interp);
}

/* Is it worth running: does the interpreter get far enough for the code to become hot? */
static void compare(struct pair *p, const struct program *g, u64 seed, unsigned *hot)
{
	kit_start(p->interp, g, seed);
	cpu_kit_go(p->interp);
	*hot += p->interp->s->gpr[R13] > HEAT * 64;
	kit_start(p->trans, g, seed);
	cpu_kit_go(p->trans);
	if (!same(p, g)) {
		tell(p, g);
		OK(!"translator and interpreter agree");
	}
}

TEST(trans_agrees_with_the_interpreter_on_random_loops)
{
	static const struct op *rows[4096], *ints[4096];
	unsigned n = 0, n_ints = 0, hot = 0;
	struct pair p = pair_new();
	struct program g;
	enum { PROGRAMS = 6000 };

	for (unsigned i = 0; i < op_rows_n; i++)
		if (row_wanted(&op_rows[i])) {
			rows[n++] = &op_rows[i];
			if (op_rows[i].cls != CLS_NATIVE)
				ints[n_ints++] = &op_rows[i];
		}
	OK(p.trans->mem.fence);
	for (unsigned i = 0; i < PROGRAMS; i++) {
		if (i == PROGRAMS / 2)
			p.trans->mem.fence = NULL; /* LOCK stays, from now on */
		if (i % 3)
			program_make(&g, ints, n_ints);
		else
			program_make(&g, rows, n);
		compare(&p, &g, test_random(), &hot);
	}
	OK(hot > PROGRAMS / 4);
	OK(p.trans->c->trans->stat.blocks > PROGRAMS / 2);
	pair_free(&p);
}

/* Run by slices: is the interpreter, an instruction at a time, ever where the translator was left,
 * and are the flags those? */
static void compare_slices(struct pair *p, const struct program *g, u64 seed)
{
	struct tcg_cpu *c = p->trans->c, *one = p->interp->c;
	const struct cpu_state *a = p->trans->s, *b = p->interp->s;
	const u8 *left = p->trans->ram + DATA_AT + 0x400 + COUNTER;
	unsigned steps = 0;

	kit_start(p->interp, g, seed);
	kit_start(p->trans, g, seed);
	native_thread_init(c);
	for (unsigned n = 0; n < 100 && c->exc.vector == EXC_NONE; n++) {
		c->budget = (s32)(test_random() % 200);
		interp_run(c);
		if (p->trans->s->mp_state != MP_RUNNABLE)
			break;
		for (steps = 0; steps < 20000 && one->exc.vector == EXC_NONE; steps++) {
			if (a->rip == b->rip && !memcmp(a->gpr, b->gpr, sizeof a->gpr) &&
			    ld64(left) == ld64(p->interp->ram + DATA_AT + 0x400 + COUNTER))
				break;
			one->budget = BUDGET;
			interp_one(one);
		}
		if (c->exc.vector == EXC_NONE && (one->exc.vector != EXC_NONE || steps == 20000 ||
						  !same_flags(p, g))) {
			tell(p, g);
			OK(!"flags are exact where translated code is left");
		}
	}
	fp_leave(c);
	fp_leave(one);
}

TEST(trans_flags_are_exact_wherever_it_is_left)
{
	static const struct op *rows[4096];
	struct pair p = pair_new();
	struct program g;
	unsigned n = 0;

	for (unsigned i = 0; i < op_rows_n; i++)
		if (row_wanted(&op_rows[i]) && op_rows[i].cls != CLS_NATIVE)
			rows[n++] = &op_rows[i];
	for (unsigned i = 0; i < 600; i++) {
		program_make(&g, rows, n);
		compare_slices(&p, &g, test_random());
	}
	OK(p.trans->c->trans->stat.blocks > 300);
	pair_free(&p);
}

/* --- loops of one block, whose accesses move by constants ------------------------------------ */
static u8 small_step(void)
{
	return (u8)(test_random() % 49 - 24);
}

static void add_stride(struct program *p)
{
	u8 step = small_step(), at = (u8)test_random();

	switch (test_random() % 22) {
	case 0: ADD(p, 0x4a, 0x8b, 0x54, 0x2e, at); break; /* mov rdx, [rsi + r13 + at] */
	case 1: ADD(p, 0x4a, 0x89, 0x54, 0x2b, at); break; /* mov [rbx + r13 + at], rdx */
	case 2: ADD(p, 0x41, 0x01, 0x42, at); break; /* add [r10 + at], eax */
	case 3: ADD(p, 0x49, 0x83, 0xc2, step); break; /* add r10, step */
	case 4:
	case 5: ADD(p, 0x49, 0x83, 0xc5, step); break; /* add r13, step */
	case 6: ADD(p, 0xf3, 0x0f, 0x6f, 0x07); break; /* movdqu xmm0, [rdi] */
	case 7: ADD(p, 0x48, 0x8d, 0x7f, step); break; /* lea rdi, [rdi + step] */
	case 8: ADD(p, 0x4f, 0x8b, 0x0c, 0x6e); break; /* mov r9, [r14 + r13 * 2] */
	case 9: ADD(p, 0x0f, 0xb6, 0xc2, 0xfe, 0x04, 0x03); break; /* movzx; inc byte [rbx + rax] */
	case 10: ADD(p, 0x52, 0x41, 0x5f); break; /* push rdx; pop r15 */
	case 11: ADD(p, 0x41, 0x51, 0x48, 0x83, 0xc4, 8); break; /* push r9; add rsp, 8 */
	case 12: ADD(p, 0x4e, 0x03, 0x4c, 0xaf, 8); break; /* add r9, [rdi + r13 * 4 + 8] */
	case 13: ADD(p, 0x66, 0x0f, 0xfe, 0x4e, at); break; /* paddd xmm1, [rsi + at] */
	case 14: ADD(p, 0xdd, 0x07, 0xdd, 0x1f); break; /* fld, fstp qword [rdi] */
	case 15: ADD(p, 0x4d, 0x01, 0xca, 0x4d, 0x29, 0xca); break; /* add, sub r10, r9 */
	case 16: ADD(p, 0x48, 0x8b, 0x15, at, 0, 0, 0); break; /* mov rdx, [rip + at] */
	case 17: ADD(p, 0xf0, 0x4c, 0x0f, 0xc1, 0x0f); break; /* lock xadd [rdi], r9 */
	case 18: ADD(p, 0x48, 0x8b, 0x06, 0x48, 0x83, 0xc6, 0); break; /* mov rax, [rsi] */
	/* movzx r9d, dl; inc byte [rsi + r9] */
	case 19: ADD(p, 0x44, 0x0f, 0xb6, 0xca, 0x42, 0xfe, 0x04, 0x0e); break;
	case 20: ADD(p, 0x0f, 0xb6, 0xc2, 0x03, 0x14, 0x87); break; /* add edx, [rdi + rax * 4] */
	/* mov r11, r15; add [r10], r11 */
	default: ADD(p, 0x4d, 0x89, 0xfb, 0x4d, 0x01, 0x1a); break;
	}
}

static void add_jnz(struct program *p, unsigned to)
{
	u32 rel = to - (p->n + 6);

	ADD(p, 0x0f, 0x85, 0, 0, 0, 0);
	memcpy(p->code + p->n - 4, &rel, 4);
}

static void strides_make(struct program *p)
{
	unsigned n = 1 + (unsigned)(test_random() % 9), outer, inner;
	u8 times = (u8)(1 + test_random() % (test_random() % 3 ? 8 : 100));

	memset(p, 0, sizeof *p);
	ADD(p, 0xbd, 250, 0, 0, 0); /* mov ebp, 250 */
	outer = p->n;
	ADD(p, 0x4d, 0x31, 0xed, 0x49, 0xc7, 0xc2, (u8)test_random(), 0x0d, 2, 0); /* r13, r10 */
	ADD(p, 0x48, 0xc7, 0xc7, (u8)test_random(), 0x10, 2, 0); /* mov rdi, 0x210xx */
	ADD(p, 0x49, 0xc7, 0xc6, 0xe0, 0x0f, 2, 0, 0xb9, times, 0, 0, 0); /* r14, ecx */
	inner = p->n;
	while (n--) {
		u8 jcc = test_random() % 2 ? 0x74 : 0x75;
		unsigned at;

		if (test_random() % 3) {
			add_stride(p);
			continue;
		}
		if (test_random() % 2)
			ADD(p, 0x83, 0xf9, (u8)(1 + test_random() % 8)); /* cmp ecx, n */
		else
			ADD(p, 0xf6, 0xc2, 1); /* test dl, 1 */
		ADD(p, jcc, 0);
		at = p->n;
		add_stride(p);
		if (test_random() % 2) { /* else */
			ADD(p, 0xeb, 0);
			p->code[at - 1] = (u8)(p->n - at);
			at = p->n;
			add_stride(p);
		}
		p->code[at - 1] = (u8)(p->n - at);
	}
	ADD(p, 0xff, 0xc9); /* dec ecx */
	add_jnz(p, inner);
	ADD(p, 0xff, 0xcd); /* dec ebp */
	add_jnz(p, outer);
	ADD(p, 0xf4);
}

TEST(trans_strips_of_a_loop_agree_with_the_interpreter)
{
	struct pair p = pair_new();
	struct program g;
	unsigned hot = 0;
	u64 loops;

	p.trans->c->trans->bmi2 = false; /* other tests have what the host has */
	for (unsigned i = 0; i < 6000; i++) {
		strides_make(&g);
		compare(&p, &g, test_random(), &hot);
	}
	loops = p.trans->c->trans->stat.loops;
	OK(loops > 1000);
	pair_free(&p);
}

static void add_string(struct program *p)
{
	u32 count = (u32)(test_random() % (test_random() % 4 ? 40 : 700));
	u32 dst = DATA_AT + 0x200 + (u32)(test_random() % 0x1d00);
	u32 src = test_random() % 4 ? DATA_AT + 0x200 + (u32)(test_random() % 0x1d00)
				    : dst - 9 + (u32)(test_random() % 19);
	u8 movs = test_random() % 3 ? 0xa4 : 0xaa;

	ADD(p, 0xb9, (u8)count, (u8)(count >> 8), 0, 0);
	ADD(p, 0xbf, (u8)dst, (u8)(dst >> 8), (u8)(dst >> 16), 0);
	ADD(p, 0xbe, (u8)src, (u8)(src >> 8), (u8)(src >> 16), 0);
	if (test_random() % 16 == 0)
		ADD(p, 0xfd);
	switch (test_random() % 4) {
	case 0: ADD(p, 0xf3, movs); break;
	case 1: ADD(p, 0xf3, 0x66, movs + 1); break;
	case 2: ADD(p, 0xf3, movs + 1); break;
	default: ADD(p, 0xf3, 0x48, movs + 1); break;
	}
	ADD(p, 0xfc);
}

TEST(trans_repeated_strings_agree_with_the_interpreter)
{
	struct pair p = pair_new();
	struct program g;
	unsigned hot = 0;

	for (unsigned i = 0; i < 1500; i++) {
		unsigned outer;

		memset(&g, 0, sizeof g);
		ADD(&g, 0xbd, 3 * HEAT, 0, 0, 0); /* mov ebp, n */
		outer = g.n;
		for (unsigned n = 1 + (unsigned)(test_random() % 3); n; n--)
			add_string(&g);
		ADD(&g, 0xff, 0xcd); /* dec ebp */
		add_jnz(&g, outer);
		ADD(&g, 0xf4);
		compare(&p, &g, test_random(), &hot);
	}
	pair_free(&p);
}

/* The most that a block can ask for: two checked accesses in each instruction, three at its end. */
TEST(trans_takes_a_block_of_accesses_that_share_nothing)
{
	struct pair p = pair_new();
	struct program g = { .n = 0 };

	for (unsigned i = 0; i < BLOCK_MAX - 1; i++) {
		ADD(&g, 0x41, 0xff, 0x34, 0x24); /* push [r12] */
		if (++i < BLOCK_MAX - 1)
			ADD(&g, 0x4c, 0x8b, 0x26); /* mov r12, [rsi] */
	}
	ADD(&g, 0xff, 0x16); /* call [rsi] */
	for (unsigned round = 0; round < 3 * HEAT; round++) {
		struct cpu_kit *k[] = { p.trans, p.interp };

		for (unsigned i = 0; i < 2; i++) {
			if (!round)
				kit_start(k[i], &g, 1);
			st64(k[i]->ram + DATA_AT + 0x400, DATA_AT + 0x600);
			k[i]->ram[DATA_AT + 0x600] = 0xf4;
			k[i]->s->gpr[R12] = DATA_AT + 0x400;
			k[i]->s->gpr[RSP] = KIT_STACK;
			k[i]->s->rip = KIT_CODE;
			k[i]->s->mp_state = MP_RUNNABLE;
			cpu_kit_go(k[i]);
			EQ(k[i]->c->exc.vector, EXC_NONE);
		}
	}
	OK(p.trans->c->trans->stat.blocks > 0);
	OK(same(&p, &g));
	pair_free(&p);
}

static void *spin_on(void *arg)
{
	struct cpu_kit *k = arg;

	native_thread_init(k->c);
	__atomic_store_n(&k->c->budget, BLOCK_DEAD - 1, __ATOMIC_RELAXED);
	interp_run(k->c);
	return NULL;
}

/* One kick may be lost against a block that is just paying, hence the loop. */
TEST(trans_is_left_soon_when_kicked)
{
	enum { TRIES = 1000, A_MOMENT_US = 200 };
	struct cpu_kit *k = cpu_kit_new();
	_Atomic u32 *spins = (_Atomic u32 *)(k->ram + KIT_DATA);
	pthread_t t;
	unsigned n = 0;

	/* inc dword [rsi]; jmp back */
	CODE(k, 0xff, 0x06, 0xeb, 0xfc);
	k->s->gpr[RSI] = KIT_DATA;
	EQ(pthread_create(&t, NULL, spin_on, k), 0);
	while (*spins < 1000)
		usleep(A_MOMENT_US);
	do {
		tcg_engine.kick(k->vcpus[0]);
		usleep(A_MOMENT_US);
	} while (__atomic_load_n(&k->c->budget, __ATOMIC_RELAXED) > BUDGET_GONE / 2 && ++n < TRIES);
	pthread_join(t, NULL);
	OK(k->c->trans->stat.enters > 0);
	OK(k->c->budget < BUDGET_GONE / 2);
	cpu_kit_free(k);
}

/* --- LOCK ------------------------------------------------------------------------------------- */
static bool emitted(const struct cpu_kit *k, const void *code, size_t n)
{
	const struct code_cache *cache = &k->c->trans->cache;

	return memmem(cache->rw + cache->keep, cache->pos - cache->keep, code, n);
}

static void lock_expect(bool devices_fence, u32 vcpus, bool kept)
{
	static const u8 inc[] = { 0xf0, 0x41, 0xff }, xchg[] = { 0x41, 0x87, 0x01 };
	struct cpu_kit *k = cpu_kit_new();

	/* lock inc dword [rsi]; xchg [rdi], eax; dec ecx; jnz back; hlt */
	CODE(k, 0xf0, 0xff, 0x06, 0x87, 0x07, 0xff, 0xc9, 0x75, 0xf7, 0xf4);
	k->s->gpr[RSI] = KIT_DATA;
	k->s->gpr[RDI] = KIT_DATA + 512;
	k->s->gpr[RCX] = 4 * HEAT;
	k->env.vcpus = (struct vcpu *[]){ k->vcpus[0], NULL };
	k->env.nr_vcpus = vcpus;
	if (!devices_fence)
		k->mem.fence = NULL;
	cpu_kit_run(k);
	EQ(ld32(k->ram + KIT_DATA), 4 * HEAT);
	OK(k->c->trans->stat.blocks > 0);
	EQ(emitted(k, inc, sizeof inc), kept);
	EQ(emitted(k, xchg, sizeof xchg), kept);
	k->env.nr_vcpus = 1;
	cpu_kit_free(k);
}

TEST(trans_locks_unless_the_vcpu_is_alone_and_devices_fence_for_it)
{
	lock_expect(true, 1, false);
	lock_expect(true, 2, true);
	lock_expect(false, 1, true);
}

/* Offsets of what a guest and a device share, each in a line of its own. */
enum { DRIVERS = 0, DEVICES = 0x40, GO = 0x80, DRIVER_SAW = 0xc0, DONE = 0x100,
	LITMUS_ROUNDS = 500 };

static void *litmus_guest(void *arg)
{
	cpu_kit_run(arg);
	return NULL;
}

static _Atomic u32 *litmus_word(struct cpu_kit *k, unsigned off)
{
	return (_Atomic u32 *)(k->ram + KIT_DATA + off);
}

/* Store, fence, look: one of both must see the other's store.  True if one did. */
static bool litmus_round(struct cpu_kit *k, u32 n)
{
	u32 saw;

	atomic_store(litmus_word(k, GO), n);
	for (u32 i = 0; i < n % 256; i++)
		__asm__ volatile("" : : : "memory");
	atomic_store_explicit(litmus_word(k, DEVICES), n, memory_order_release);
	mem_fence(&k->mem);
	saw = atomic_load(litmus_word(k, DRIVERS));
	while (atomic_load(litmus_word(k, DONE)) < n)
		sched_yield();
	return saw == n || atomic_load(litmus_word(k, DRIVER_SAW)) == n;
}

static void litmus(const u8 *fence, size_t len)
{
	static const u8 head[] = {
		0xff, 0xc1, /* inc ecx */
		0x39, 0x0f, /* cmp [rdi], ecx */
		0x72, 0xfc, /* jb back to that */
		0x89, 0x0e, /* mov [rsi], ecx */
	}, tail[] = {
		0x8b, 0x46, 0x40, /* mov eax, [rsi + 64] */
		0x89, 0x47, 0x40, /* mov [rdi + 64], eax */
		0x89, 0x0b, /* mov [rbx], ecx */
		0x81, 0xf9, LITMUS_ROUNDS & 0xff, LITMUS_ROUNDS >> 8, 0, 0, /* cmp ecx, ROUNDS */
		0x72, 0, /* jb to the start */
		0xf4,
	};
	struct cpu_kit *k = cpu_kit_new();
	u8 code[sizeof head + 8 + sizeof tail];
	size_t n = sizeof head + len + sizeof tail;
	pthread_t t;

	memcpy(code, head, sizeof head);
	memcpy(code + sizeof head, fence, len);
	memcpy(code + sizeof head + len, tail, sizeof tail);
	code[n - 2] = (u8)(1 - n);
	cpu_kit_code(k, code, n);
	k->s->gpr[RSI] = KIT_DATA;
	k->s->gpr[RDI] = KIT_DATA + GO;
	k->s->gpr[RBX] = KIT_DATA + DONE;
	EQ(pthread_create(&t, NULL, litmus_guest, k), 0);
	for (u32 i = 1; i <= LITMUS_ROUNDS; i++)
		OK(litmus_round(k, i));
	pthread_join(t, NULL);
	OK(k->c->trans->stat.enters > 0);
	cpu_kit_free(k);
}

TEST(trans_guest_without_lock_and_device_never_miss_each_other)
{
	static const u8 add[] = { 0xf0, 0x83, 0x43, 0x40, 0 }, /* lock add dword [rbx + 64], 0 */
		xchg[] = { 0x87, 0x53, 0x40 }; /* xchg [rbx + 64], edx */

	litmus(add, sizeof add);
	litmus(xchg, sizeof xchg);
}

TEST(trans_sti_lets_a_waiting_interrupt_in_after_one_more_instruction)
{
	struct cpu_kit *k = cpu_kit_new();
	u64 rax = 0;

	/* cli; mov eax, 1; sti; inc eax; inc eax; hlt */
	CODE(k, 0xfa, 0xb8, 1, 0, 0, 0, 0xfb, 0xff, 0xc0, 0xff, 0xc0, 0xf4);
	for (unsigned hot = 0; hot < 2; hot++) {
		k->c->irq_masked = true;
		k->s->rflags &= ~(u64)FL_IF;
		k->s->rip = KIT_CODE;
		k->s->mp_state = MP_RUNNABLE;
		k->c->budget = BUDGET;
		interp_run(k->c);
		EQ(k->s->gpr[RAX], 2);
		EQ(k->s->rip, KIT_CODE + 9);
		OK(k->s->rflags & FL_IF && !k->s->int_shadow);
		k->c->irq_masked = false;
		cpu_kit_rounds(k, 2 * HEAT, &rax);
		EQ(rax, 3);
	}
	OK(k->c->trans->stat.enters > 0);
	cpu_kit_free(k);
}

TEST(trans_serialising_instructions_look_at_what_others_told)
{
	/* SERIALIZE, CPUID */
	static const u8 code[][3] = { { 0x0f, 0x01, 0xe8 }, { 0x0f, 0xa2, 0x90 } };

	for (unsigned i = 0; i < ARRAY_LEN(code); i++) {
		struct cpu_kit *k = cpu_kit_new();
		struct insn *in = &k->c->interp->one;

		cpu_kit_code(k, code[i], 3);
		OK(insn_fetch(k->c, in));
		OK(in->fn(k->c, in) == in + 1);
		tcg_engine.kick(k->vcpus[0]);
		OK(in->fn(k->c, in) == NULL);
		EQ(k->s->rip, KIT_CODE + in->len);
		cpu_kit_free(k);
	}
}

/* --- x87 pointers ----------------------------------------------------------------------------- */
enum { FADD_AT = 4, STORE_AT = 6, FADD2_AT = 9 };

static void x87_program(struct cpu_kit *k, u64 rdi)
{
	k->s->gpr[RDI] = rdi;
	k->s->rip = KIT_CODE;
	k->s->mp_state = MP_RUNNABLE;
	cpu_kit_go(k);
}

TEST(trans_x87_pointers_are_those_of_the_instruction_before_a_fault)
{
	struct cpu_kit *k = cpu_kit_new();

	/* fninit; fld1; fadd st, st; mov [rdi], eax; fadd st, st; fnstsw ax; hlt */
	CODE(k, 0xdb, 0xe3, 0xd9, 0xe8, 0xd8, 0xc0, 0x48, 0x89, 0x07, 0xd8, 0xc0, 0xdf, 0xe0, 0xf4);
	for (unsigned i = 0; i < 3 * HEAT; i++) {
		x87_program(k, KIT_DATA);
		EQ(k->c->exc.vector, EXC_NONE);
		EQ(k->c->native->ptr.fip, KIT_CODE + FADD2_AT);
		EQ(k->c->native->ptr.fop, 0x0c0);
	}
	OK(k->c->trans->stat.blocks > 0);
	k->c->native->ptr.fip = 0;
	cpu_kit_map(k, KIT_DATA, 0, 0);
	x87_program(k, KIT_DATA);
	EQ(k->c->exc.vector, EXC_PF);
	EQ(k->s->rip, KIT_CODE + STORE_AT);
	EQ(k->c->native->ptr.fip, KIT_CODE + FADD_AT);
	cpu_kit_free(k);
}

TEST(trans_x87_pointers_in_an_image_are_those_of_the_instruction_before)
{
	struct cpu_kit *k = cpu_kit_new();

	/* fninit; fld1; fadd st, st; fnstenv [rdi]; fadd st, st; hlt */
	CODE(k, 0xdb, 0xe3, 0xd9, 0xe8, 0xd8, 0xc0, 0xd9, 0x37, 0xd8, 0xc0, 0xf4);
	for (unsigned i = 0; i < 3 * HEAT; i++) {
		x87_program(k, KIT_DATA);
		EQ(ld32(k->ram + KIT_DATA + 12), KIT_CODE + FADD_AT);
	}
	OK(k->c->trans->stat.blocks > 0);
	cpu_kit_free(k);
}
