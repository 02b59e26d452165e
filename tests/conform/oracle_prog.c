/* oracle_prog.c - cases that are small programs: blocks of a few instructions that loop, jump both
 * ways, call, return and change their own code, with memory operands at all the edges, so that a
 * fault may come anywhere in between.
 *
 * A program ends: only jumps that count a register down lead back.  Nothing but such a program's
 * own stores reaches its code or its stack: the stack has half a page that no address register is
 * near to, and stores to code change immediates and the opcodes of plain ADD and its kin only. */
#include "oracle_gen.h"

enum { MAIN_MAX = 5, SUBS_MAX = 2, BODY_MAX = 4, FIXUPS_MAX = 48, SITES_MAX = 8, FUEL_MAX = 24,
       MANY = 400 /* the translator measures a loop for a while before it settles on it */ };
enum { STACK = DATA + 4096 + 2048 };
/* ADD OR ADC SBB AND SUB XOR CMP: a store may make something read flags that nothing read. */
static const u8 alu[] = { 0, 1, 2, 3, 4, 5, 6, 7 };

/* Labels: main blocks, the end of the program, subs. */
enum { LABEL_END = MAIN_MAX, LABEL_SUB, LABELS = LABEL_SUB + SUBS_MAX };

enum fix_kind { FIX_REL8, FIX_REL32, FIX_ABS32, FIX_SITE };
struct fixup {
	u16 at;
	u8 kind, label;
};

struct prog {
	struct test_case *t;
	enum cpu_mode mode;
	u64 undef;
	u16 label[LABELS];
	struct fixup fix[FIXUPS_MAX];
	unsigned fixes, blocks, subs, strings;
	struct site {
		u16 at;
		bool opcode; /* else four bytes of an immediate */
	} site[SITES_MAX];
	unsigned sites;
	bool ok;
};

/* --- bytes ------------------------------------------------------------------------------------ */
static void put(struct prog *p, u8 b)
{
	if (p->t->len < sizeof p->t->code)
		p->t->code[p->t->len++] = b;
	else
		p->ok = false;
}

static void put32(struct prog *p, u32 v)
{
	for (unsigned i = 0; i < 4; i++)
		put(p, (u8)(v >> 8 * i));
}

/* An instruction of ours begins; undef: flags not defined before it. */
static void begin(struct prog *p)
{
	seq_point(p->t, p->undef);
}

static void put_fix(struct prog *p, enum fix_kind kind, unsigned label)
{
	if (p->fixes == FIXUPS_MAX) {
		p->ok = false;
		return;
	}
	p->fix[p->fixes++] = (struct fixup){ (u16)p->t->len, (u8)kind, (u8)label };
	if (kind == FIX_REL8)
		put(p, 0);
	else
		put32(p, 0);
}

static void put_jump(struct prog *p, unsigned cond, unsigned label, bool is_short)
{
	begin(p);
	if (is_short) {
		put(p, (u8)(0x70 | cond));
		put_fix(p, FIX_REL8, label);
	} else {
		put(p, 0x0f);
		put(p, (u8)(0x80 | cond));
		put_fix(p, FIX_REL32, label);
	}
}

static void put_jmp(struct prog *p, u8 opcode, unsigned label)
{
	begin(p);
	put(p, opcode);
	put_fix(p, opcode == 0xeb ? FIX_REL8 : FIX_REL32, label);
}

/* One of EAX, ECX, EDX. */
static u8 free_reg(void)
{
	return (u8)below(3);
}

static u8 an_alu(void)
{
	return alu[below(ARRAY_LEN(alu))];
}

/* MOV reg, address of label */
static void put_address(struct prog *p, u8 reg, unsigned label)
{
	begin(p);
	put(p, 0xb8 | reg);
	put_fix(p, FIX_ABS32, label);
}

/* DEC of the register that makes loops end: R12, or EDI where there is none. */
static void put_dec_fuel(struct prog *p)
{
	begin(p);
	if (p->mode == MODE_64)
		put(p, 0x41);
	put(p, 0xff);
	put(p, p->mode == MODE_64 ? 0xcc : 0xcf);
	p->undef &= FL_CF;
}

/* An instruction that defines all flags. */
static void put_definer(struct prog *p)
{
	u8 rm = (u8)(0xc0 | free_reg() << 3 | free_reg());

	begin(p);
	switch (below(3)) {
	case 0: put(p, 0x39), put(p, rm); break;
	case 1: put(p, 0x83), put(p, 0xf8 | (rm & 3)), put(p, (u8)gen_random()); break;
	default: put(p, chance(50) ? 0x01 : 0x29), put(p, rm); break;
	}
	p->undef = 0;
}

/* --- code that changes ------------------------------------------------------------------------ */
static void note_site(struct prog *p, bool opcode)
{
	if (p->sites < SITES_MAX)
		p->site[p->sites++] = (struct site){ (u16)p->t->len, opcode };
}

/* ADD EAX, ECX and the like, or with an immediate: what some store may change. */
static void put_site(struct prog *p)
{
	bool opcode = chance(50);

	if (p->undef & FL_CF) /* it may become ADC */
		put_definer(p);
	begin(p);
	if (!opcode)
		put(p, 0x81);
	else
		note_site(p, true);
	if (opcode)
		put(p, (u8)(an_alu() << 3 | 1));
	put(p, (u8)(0xc0 | (opcode ? free_reg() : an_alu()) << 3 | free_reg()));
	if (!opcode) {
		note_site(p, false);
		put32(p, (u32)gen_value());
	}
	p->undef = FL_AF; /* it may become AND, whatever it is now */
}

/* MOV [site], immediate.  Which site is decided when all are known; an opcode is one byte, whatever
 * the size, so the sizes are two instructions. */
static void put_store(struct prog *p, bool opcode)
{
	begin(p);
	put(p, opcode ? 0xc6 : 0xc7);
	put(p, p->mode == MODE_64 ? 0x04 : 0x05);
	if (p->mode == MODE_64)
		put(p, 0x25);
	put_fix(p, FIX_SITE, opcode);
	if (opcode)
		put(p, (u8)(an_alu() << 3 | 1));
	else
		put32(p, (u32)gen_value());
}

static bool pick_site(const struct prog *p, bool opcode, u16 *at)
{
	unsigned first = p->sites ? below(p->sites) : 0;

	for (unsigned i = 0; i < p->sites; i++) {
		const struct site *s = &p->site[(first + i) % p->sites];

		if (s->opcode == opcode) {
			*at = s->at;
			return true;
		}
	}
	return false;
}

/* --- blocks ----------------------------------------------------------------------------------- */
/* REP MOVS or STOS of a few elements: too few to come near the stack, however often.  STOS, LODS or
 * SCAS of one; LODS alone where EDI counts the loops. */
static void put_string(struct prog *p)
{
	bool narrow = p->mode != MODE_64;

	p->strings++;
	begin(p);
	if (narrow || chance(50)) {
		put(p, narrow ? 0xac + below(2) : 0xaa + below(6));
		return;
	}
	put(p, 0xb9);
	put32(p, below(12));
	begin(p);
	put(p, 0xf3);
	put(p, (u8)((chance(50) ? 0xa4 : 0xaa) + below(2)));
}

static void put_push_pop(struct prog *p)
{
	begin(p);
	put(p, 0x50 | free_reg());
	seq_add_any(p->t, p->mode, false, &p->undef);
	begin(p);
	put(p, 0x58 | free_reg());
}

static void put_body(struct prog *p, bool in_main)
{
	for (unsigned n = below(BODY_MAX + 1); n; n--)
		if (chance(10))
			put_site(p);
		else if (chance(8))
			put_store(p, chance(50));
		else if (chance(3) && in_main && !p->strings)
			put_string(p);
		else if (chance(5))
			put_push_pop(p);
		else
			seq_add_any(p->t, p->mode, false, &p->undef);
}

static void put_call(struct prog *p)
{
	unsigned sub = LABEL_SUB + below(p->subs);
	u8 reg = free_reg();

	if (chance(60)) {
		put_jmp(p, 0xe8, sub);
		return;
	}
	put_address(p, reg, sub);
	begin(p);
	put(p, 0xff);
	put(p, 0xd0 | reg);
}

/* To a later block without a condition, in one of the ways there are. */
static void put_go(struct prog *p, unsigned label)
{
	u8 reg = free_reg();

	switch (below(4)) {
	case 0:
	case 1: put_jmp(p, 0xe9, label); break;
	case 2:
		put_address(p, reg, label);
		begin(p);
		put(p, 0xff);
		put(p, 0xe0 | reg);
		break;
	default: /* PUSH imm32; RET: returns to where no call was */
		begin(p);
		put(p, 0x68);
		put_fix(p, FIX_ABS32, label);
		begin(p);
		put(p, 0xc3);
	}
}

static unsigned later_block(const struct prog *p, unsigned i)
{
	unsigned to = i + 1 + below(p->blocks - i);

	return to == p->blocks ? LABEL_END : to;
}

/* A counted way back, which is taken always, or by a condition as well. */
static void put_back(struct prog *p, unsigned i)
{
	unsigned to = below(i + 1);

	put_dec_fuel(p);
	if (chance(50)) {
		put_jump(p, 15, to, false); /* JG */
		return;
	}
	put_jump(p, 14, LABEL_END, false); /* JLE */
	put_definer(p);
	put_jump(p, below(16), to, chance(50));
}

static void put_end_of_block(struct prog *p, unsigned i)
{
	unsigned r = below(100);

	if (chance(75) || p->undef)
		put_definer(p);
	if (r < 30) {
		put_jump(p, below(16), later_block(p, i), chance(30));
	} else if (r < 60) {
		put_back(p, i);
	} else if (r < 75 && p->subs) {
		put_call(p);
	} else if (r < 85) {
		put_go(p, later_block(p, i));
	} else if (r < 90) { /* LOOP, JRCXZ */
		begin(p);
		put(p, 0xe2 + below(2));
		put_fix(p, FIX_REL8, i + 1 == p->blocks ? LABEL_END : i + 1);
	}
}

static void put_subs(struct prog *p)
{
	for (unsigned i = 0; i < p->subs; i++) {
		p->label[LABEL_SUB + i] = (u16)p->t->len;
		p->undef = 0;
		put_body(p, false);
		put_definer(p);
		if (i + 1 < p->subs && chance(40))
			put_jmp(p, 0xe8, LABEL_SUB + i + 1);
		begin(p);
		put(p, 0xc3);
	}
}

static void apply(struct prog *p, const struct fixup *f)
{
	u64 start = p->t->start.rip;
	u16 to = f->kind == FIX_SITE ? 0 : p->label[f->label];
	s32 rel = to - (f->at + (f->kind == FIX_REL8 ? 1 : 4));
	u8 *at = p->t->code + f->at;

	switch (f->kind) {
	case FIX_REL8:
		p->ok &= rel == (s8)rel;
		*at = (u8)rel;
		break;
	case FIX_REL32: st32(at, (u32)rel); break;
	case FIX_ABS32: st32(at, (u32)(start + to)); break;
	default:
		p->ok &= pick_site(p, f->label, &to);
		st32(at, (u32)(start + to));
	}
}

/* --- a case ----------------------------------------------------------------------------------- */
static u64 prog_address(void)
{
	static const u32 edge[] = { DATA, DATA + 4096, DATA_RO, DATA_END };

	if (chance(80))
		return chance(70) ? ALIGN_DOWN(DATA + 200 + below(3400), 16) :
				    DATA + 200 + below(3400);
	if (chance(5) && gen_wide_addresses)
		return 0x800000000000 - below(200);
	return edge[below(ARRAY_LEN(edge))] + below(160) - 120;
}

static void prog_registers(struct prog *p)
{
	struct regs *r = &p->t->start;

	for (unsigned i = 0; i < 16; i++)
		r->gpr[i] = seq_is_address(p->mode, i) ? prog_address() : gen_value();
	r->gpr[p->mode == MODE_64 ? R12 : RDI] =
		below(chance(95) || p->strings ? FUEL_MAX : MANY);
	r->gpr[RSP] = STACK + (chance(90) ? 0 : below(8));
	seq_bases(p->t, p->mode);
	for (unsigned i = 0; p->mode != MODE_64 && i < 16; i++)
		r->gpr[i] = i < 8 ? (u32)r->gpr[i] : 0;
	r->flags = 0x202 | (gen_random() & FL_ARITH) | (chance(10) ? FL_DF : 0);
}

bool gen_program(struct test_case *t, enum cpu_mode mode)
{
	struct prog p = { .t = t, .mode = mode, .ok = true };

	memset(t, 0, offsetof(struct test_case, start.fx));
	gen_wide_addresses = mode == MODE_64;
	t->in.mode = (u8)mode;
	p.blocks = 1 + below(MAIN_MAX);
	p.subs = below(SUBS_MAX + 1);
	t->start.rip = chance(85) ? CODE + 512 + below(3000) : CODE + 4096 - below(300);
	for (unsigned i = 0; i < p.blocks; i++) {
		p.label[i] = (u16)t->len;
		p.undef = 0; /* as every block ends */
		put_body(&p, true);
		put_end_of_block(&p, i);
	}
	if (p.subs)
		put_jmp(&p, 0xe9, LABEL_END);
	put_subs(&p);
	p.label[LABEL_END] = (u16)t->len;
	for (unsigned i = 0; i < p.fixes; i++)
		apply(&p, &p.fix[i]);
	if (!p.ok || t->points < 2 || decode(&t->in, t->code, 15, mode) <= 0)
		return false;
	t->row = t->in.op;
	prog_registers(&p);
	if (t->fp)
		gen_fp(t);
	return true;
}
