/* interp_host.c - integer instructions in their register and memory forms, each with random
 * registers, flags and memory, run by the host and by the interpreter, both its general and its
 * block handlers.  Everything must agree, flags the SDM leaves undefined included. */
/* clang-format off: tables and assembler, laid out by hand */
#include <sys/mman.h>

#include "cpu_kit.h"

enum { ROUNDS = 300, MEM = 64, CODE_AT = 0x10000, DATA_AT = 0x20000 };

/* What an entry's operands look like. */
enum {
	M8 = 1,
	MV = 2,
	NO64 = 4,
	NO16 = 8,
	IB = 16,
	IZ = 32,
	NOMEM = 64,
	PLAIN = 128,
	W_ONLY = 256
};
static const struct {
	u8 prefix, map38, opcode; /* map38: 0 one-byte, 1 0F, 2 0F38 */
	s8 digit; /* ModRM.reg, -1: a register */
	u16 flags;
	const char *name;
} forms[] = {
#define ALU_FORMS(op, digit, name)                                                          \
	{ 0, 0, op, -1, M8, name }, { 0, 0, op + 1, -1, MV, name },                         \
		{ 0, 0, op + 2, -1, M8, name }, { 0, 0, op + 3, -1, MV, name },             \
		{ 0, 0, 0x80, digit, M8 | IB, name }, { 0, 0, 0x81, digit, MV | IZ, name }, \
	{                                                                                   \
		0, 0, 0x83, digit, MV | IB, name                                            \
	}
	ALU_FORMS(0x00, 0, "add"),
	ALU_FORMS(0x08, 1, "or"),
	ALU_FORMS(0x10, 2, "adc"),
	ALU_FORMS(0x18, 3, "sbb"),
	ALU_FORMS(0x20, 4, "and"),
	ALU_FORMS(0x28, 5, "sub"),
	ALU_FORMS(0x30, 6, "xor"),
	ALU_FORMS(0x38, 7, "cmp"),
#define SHIFT_FORMS(digit, name)                                                    \
	{ 0, 0, 0xc0, digit, M8 | IB, name }, { 0, 0, 0xc1, digit, MV | IB, name }, \
		{ 0, 0, 0xd0, digit, M8, name }, { 0, 0, 0xd1, digit, MV, name },   \
		{ 0, 0, 0xd2, digit, M8, name },                                    \
	{                                                                           \
		0, 0, 0xd3, digit, MV, name                                         \
	}
	SHIFT_FORMS(0, "rol"),
	SHIFT_FORMS(1, "ror"),
	SHIFT_FORMS(2, "rcl"),
	SHIFT_FORMS(3, "rcr"),
	SHIFT_FORMS(4, "shl"),
	SHIFT_FORMS(5, "shr"),
	SHIFT_FORMS(7, "sar"),
	{ 0, 0, 0x84, -1, M8, "test" },
	{ 0, 0, 0x85, -1, MV, "test" },
	{ 0, 0, 0xf6, 0, M8 | IB, "test" },
	{ 0, 0, 0xf7, 0, MV | IZ, "test" },
	{ 0, 0, 0xf6, 2, M8, "not" },
	{ 0, 0, 0xf7, 2, MV, "not" },
	{ 0, 0, 0xf6, 3, M8, "neg" },
	{ 0, 0, 0xf7, 3, MV, "neg" },
	{ 0, 0, 0xf6, 4, M8, "mul" },
	{ 0, 0, 0xf7, 4, MV, "mul" },
	{ 0, 0, 0xf6, 5, M8, "imul" },
	{ 0, 0, 0xf7, 5, MV, "imul" },
	{ 0, 0, 0xf6, 6, M8, "div" },
	{ 0, 0, 0xf7, 6, MV, "div" },
	{ 0, 0, 0xf6, 7, M8, "idiv" },
	{ 0, 0, 0xf7, 7, MV, "idiv" },
	{ 0, 0, 0xfe, 0, M8, "inc" },
	{ 0, 0, 0xff, 0, MV, "inc" },
	{ 0, 0, 0xfe, 1, M8, "dec" },
	{ 0, 0, 0xff, 1, MV, "dec" },
	{ 0, 0, 0x88, -1, M8, "mov" },
	{ 0, 0, 0x89, -1, MV, "mov" },
	{ 0, 0, 0x8a, -1, M8, "mov" },
	{ 0, 0, 0x8b, -1, MV, "mov" },
	{ 0, 0, 0xc6, 0, M8 | IB, "mov" },
	{ 0, 0, 0xc7, 0, MV | IZ, "mov" },
	{ 0, 0, 0x86, -1, M8, "xchg" },
	{ 0, 0, 0x87, -1, MV, "xchg" },
	{ 0, 0, 0x63, -1, MV, "movsxd" },
	{ 0, 0, 0x69, -1, MV | IZ, "imul" },
	{ 0, 0, 0x6b, -1, MV | IB, "imul" },
	{ 0, 0, 0x98, -1, MV | PLAIN, "cbw" },
	{ 0, 0, 0x99, -1, MV | PLAIN, "cwd" },
	{ 0, 0, 0x9e, -1, M8 | PLAIN, "sahf" },
	{ 0, 0, 0x9f, -1, M8 | PLAIN, "lahf" },
	{ 0, 0, 0xf5, -1, M8 | PLAIN, "cmc" },
	{ 0, 0, 0xf8, -1, M8 | PLAIN, "clc" },
	{ 0, 0, 0xf9, -1, M8 | PLAIN, "stc" },
	{ 0, 1, 0xaf, -1, MV, "imul" },
	{ 0, 1, 0xb0, -1, M8, "cmpxchg" },
	{ 0, 1, 0xb1, -1, MV, "cmpxchg" },
	{ 0, 1, 0xc0, -1, M8, "xadd" },
	{ 0, 1, 0xc1, -1, MV, "xadd" },
	{ 0, 1, 0xb6, -1, MV, "movzx" },
	{ 0, 1, 0xb7, -1, MV, "movzx" },
	{ 0, 1, 0xbe, -1, MV, "movsx" },
	{ 0, 1, 0xbf, -1, MV, "movsx" },
	{ 0, 1, 0xa3, -1, MV | NOMEM, "bt" },
	{ 0, 1, 0xab, -1, MV | NOMEM, "bts" },
	{ 0, 1, 0xb3, -1, MV | NOMEM, "btr" },
	{ 0, 1, 0xbb, -1, MV | NOMEM, "btc" },
	{ 0, 1, 0xba, 4, MV | IB, "bt" },
	{ 0, 1, 0xba, 5, MV | IB, "bts" },
	{ 0, 1, 0xba, 6, MV | IB, "btr" },
	{ 0, 1, 0xba, 7, MV | IB, "btc" },
	{ 0, 1, 0xbc, -1, MV, "bsf" },
	{ 0, 1, 0xbd, -1, MV, "bsr" },
	{ 0xf3, 1, 0xbc, -1, MV, "tzcnt" },
	{ 0xf3, 1, 0xbd, -1, MV, "lzcnt" },
	{ 0xf3, 1, 0xb8, -1, MV, "popcnt" },
	{ 0, 1, 0xa4, -1, MV | IB, "shld" },
	{ 0, 1, 0xa5, -1, MV, "shld" },
	{ 0, 1, 0xac, -1, MV | IB, "shrd" },
	{ 0, 1, 0xad, -1, MV, "shrd" },
	{ 0, 2, 0xf0, -1, MV | W_ONLY, "movbe" },
	{ 0, 2, 0xf1, -1, MV | W_ONLY, "movbe" },
	{ 0x66, 2, 0xf6, -1, MV | NO16, "adcx" },
	{ 0xf3, 2, 0xf6, -1, MV | NO16, "adox" },
	{ 0xf2, 2, 0xf0, -1, MV | NO16, "crc32" },
	{ 0xf2, 2, 0xf1, -1, MV | NO16, "crc32" },
#define COND_FORMS(cond)                          \
	{ 0, 1, 0x40 + cond, -1, MV, "cmovcc" },  \
	{                                         \
		0, 1, 0x90 + cond, 0, M8, "setcc" \
	}
	COND_FORMS(0),
	COND_FORMS(1),
	COND_FORMS(2),
	COND_FORMS(3),
	COND_FORMS(4),
	COND_FORMS(5),
	COND_FORMS(6),
	COND_FORMS(7),
	COND_FORMS(8),
	COND_FORMS(9),
	COND_FORMS(10),
	COND_FORMS(11),
	COND_FORMS(12),
	COND_FORMS(13),
	COND_FORMS(14),
	COND_FORMS(15),
};

struct regs {
	u64 gpr[16];
	u64 flags;
};

/* Run the code at rdi's registers: load them, jump, come back through interp_host_back. */
void interp_host_go(struct regs *r, void *code);
extern char interp_host_back[];
__asm__(".text\n"
	".globl interp_host_go\n"
	"interp_host_go:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"	push %rdi; push %rsi\n"
	"	push 128(%rdi); popf\n"
	"	mov 0(%rdi),%rax; mov 8(%rdi),%rcx; mov 16(%rdi),%rdx; mov 24(%rdi),%rbx\n"
	"	mov 40(%rdi),%rbp; mov 48(%rdi),%rsi\n"
	"	mov 64(%rdi),%r8; mov 72(%rdi),%r9; mov 80(%rdi),%r10; mov 88(%rdi),%r11\n"
	"	mov 96(%rdi),%r12; mov 104(%rdi),%r13; mov 112(%rdi),%r14; mov 120(%rdi),%r15\n"
	"	mov 56(%rdi),%rdi\n"
	"	jmp *(%rsp)\n"
	".globl interp_host_back\n"
	"interp_host_back:\n"
	"	push %rdi; pushf\n"
	"	mov 24(%rsp),%rdi\n"
	"	pop 128(%rdi); pop 56(%rdi)\n"
	"	mov %rax,0(%rdi); mov %rcx,8(%rdi); mov %rdx,16(%rdi); mov %rbx,24(%rdi)\n"
	"	mov %rbp,40(%rdi); mov %rsi,48(%rdi)\n"
	"	mov %r8,64(%rdi); mov %r9,72(%rdi); mov %r10,80(%rdi); mov %r11,88(%rdi)\n"
	"	mov %r12,96(%rdi); mov %r13,104(%rdi); mov %r14,112(%rdi); mov %r15,120(%rdi)\n"
	"	pop %rsi; pop %rdi\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");

struct one {
	u8 code[32];
	unsigned len;
	struct regs in;
	u8 mem[MEM]; /* [rdi] */
};

/* A random instance of form f: operand size, registers, memory form or not. */
static void one_make(struct one *o, unsigned f, gva_t data)
{
	unsigned size =
		forms[f].flags & M8 ? 0 : (unsigned)(test_random() % 3); /* 1, 2 means 66, REX.W */
	bool mem = !(forms[f].flags & NOMEM) && (test_random() % 3 == 0 || forms[f].flags & W_ONLY);
	unsigned reg = forms[f].digit >= 0 ? (unsigned)forms[f].digit
					   : (unsigned)(test_random() % 16),
		 rm = mem ? RDI : (unsigned)(test_random() % 16);
	bool rex = size == 2 || reg > 7 || rm > 7 || test_random() % 4 == 0;
	unsigned n = 0;

	if (size == 1 && forms[f].flags & NO16)
		size = 0;
	/* RSP is the host's; without REX its number is AH's kin in byte forms. */
	if (reg == RSP && forms[f].digit < 0 && !(forms[f].flags & M8 && !rex))
		reg = RAX;
	if (rm == RSP && !(forms[f].flags & M8 && !rex))
		rm = RAX;
	if (size == 1)
		o->code[n++] = 0x66;
	if (forms[f].prefix)
		o->code[n++] = forms[f].prefix;
	if (rex)
		o->code[n++] = (u8)(0x40 | (size == 2) << 3 | (reg > 7) << 2 | (rm > 7));
	if (forms[f].map38)
		o->code[n++] = 0x0f;
	if (forms[f].map38 == 2)
		o->code[n++] = 0x38;
	o->code[n++] = forms[f].opcode;
	if (!(forms[f].flags & PLAIN))
		o->code[n++] = (u8)((mem ? 0 : 0xc0) | (reg & 7) << 3 | (rm & 7));
	for (unsigned i = 0; i < (forms[f].flags & IZ	? size == 1 ? 2 : 4
				  : forms[f].flags & IB ? 1
							: 0);
	     i++)
		o->code[n++] = (u8)test_random();
	o->len = n;
	for (unsigned i = 0; i < 16; i++) {
		o->in.gpr[i] = test_random();
		if (test_random() % 4 == 0)
			o->in.gpr[i] = (u64)((s64)o->in.gpr[i] >> (test_random() % 64));
	}
	if (forms[f].digit >= 6 && forms[f].flags & (M8 | MV) && forms[f].name[1] != 'h')
		o->in.gpr[RDX] = test_random() % 16; /* so that some divisions succeed */
	if (mem)
		o->in.gpr[RDI] = data;
	o->in.flags = 0x202 | (test_random() & FL_ARITH);
	for (unsigned i = 0; i < MEM; i++)
		o->mem[i] = (u8)test_random();
}

static void show(const char *who, const struct regs *r)
{
	fprintf(stderr, "%s flags %llx:", who, (unsigned long long)(r->flags & FL_ARITH));
	for (unsigned i = 0; i < 16; i++)
		fprintf(stderr, " %llx", (unsigned long long)r->gpr[i]);
	fputc('\n', stderr);
}

static void compare(const struct one *o, unsigned f, const char *how, struct regs *want,
		    const struct cpu_kit *k, const void *host_mem)
{
	struct regs got;

	memcpy(got.gpr, k->s->gpr, sizeof got.gpr);
	got.flags = flags_get(k->c);
	got.gpr[RSP] = want->gpr[RSP] = 0;
	if (memcmp(got.gpr, want->gpr, sizeof got.gpr) == 0 &&
	    !((got.flags ^ want->flags) & FL_ARITH) && memcmp(k->ram + DATA_AT, host_mem, MEM) == 0)
		return;
	fprintf(stderr, "  %s (%s):", forms[f].name, how);
	for (unsigned i = 0; i < o->len; i++)
		fprintf(stderr, " %02x", o->code[i]);
	fputc('\n', stderr);
	show("  before", &o->in);
	show("  host  ", want);
	show("  interp", &got);
	test_fail(__FILE__, __LINE__, "the host and the interpreter disagree");
}

static void guest_load(struct cpu_kit *k, const struct one *o)
{
	u64 rsp = k->s->gpr[RSP];

	memcpy(k->ram + DATA_AT, o->mem, MEM);
	memcpy(k->s->gpr, o->in.gpr, sizeof k->s->gpr);
	k->s->gpr[RSP] = rsp;
	flags_set(k->c, o->in.flags);
	k->c->exc.vector = EXC_NONE;
	cpu_kit_code(k, o->code, o->len + 1);
}

TEST(interp_integer_instructions_do_what_the_host_does)
{
	static const u8 jump_back[6] = { 0xff, 0x25 };
	struct cpu_kit *k = cpu_kit_new();
	u8 *page = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	u8 *data = page + PAGE_SIZE;
	u64 ran = 0;

	OK(page != MAP_FAILED);
	for (unsigned f = 0; f < ARRAY_LEN(forms); f++) {
		for (unsigned i = 0; i < ROUNDS; i++) {
			struct one o = { 0 };
			struct regs host;
			struct insn in;
			u64 rdi;

			one_make(&o, f, DATA_AT);
			o.code[o.len] = 0xf4;
			if (decode(&in, o.code, sizeof o.code, MODE_64) != (int)o.len)
				continue; /* not on this host */
			guest_load(k, &o);
			if (cpu_kit_one(k) != EXC_NONE)
				continue; /* #DE: tested elsewhere */
			/* The host: the same bytes, its own address for memory. */
			host = o.in;
			rdi = host.gpr[RDI];
			memcpy(page, o.code, o.len);
			memcpy(page + o.len, jump_back, sizeof jump_back);
			st64(page + o.len + 6, (u64)interp_host_back);
			memcpy(data, o.mem, MEM);
			if (in.opd[0].kind == OPD_MEM || in.opd[1].kind == OPD_MEM)
				host.gpr[RDI] = (u64)data;
			else
				rdi = 0;
			interp_host_go(&host, page);
			if (rdi && host.gpr[RDI] == (u64)data)
				host.gpr[RDI] = rdi;
			/* RDI, the address, was an operand too: its value differs. */
			if (rdi &&
			    (in.opd[0].kind == OPD_REG ? in.opd[0].reg : in.opd[1].reg) == RDI)
				continue;
			compare(&o, f, "alone", &host, k, data);
			guest_load(k, &o);
			cpu_kit_run(k);
			compare(&o, f, "in a block", &host, k, data);
			ran++;
		}
	}
	OK(ran > ARRAY_LEN(forms) * ROUNDS / 2);
	munmap(page, 2 * PAGE_SIZE);
	cpu_kit_free(k);
}

/* One budget's worth of guest code on a small stack: a handler that is not left by a tail call
 * overflows it. */
static void *spend_budget(void *arg)
{
	struct cpu_kit *k = arg;

	atomic_store(&k->c->kicked, 0);
	interp_take_posts(k->c); /* the code was written from outside */
	k->c->budget = BUDGET;
	interp_run(k->c);
	return NULL;
}

TEST(interp_handlers_leave_by_tail_calls)
{
	enum { COPIES = 12, STACK_BYTES = 64 << 10 };
	struct cpu_kit *k = cpu_kit_new();
	pthread_attr_t attr;
	pthread_t t;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (unsigned f = 0; f < ARRAY_LEN(forms) * 4; f++) {
		u8 code[COPIES * 16 + 2];
		struct one o = { 0 };
		unsigned n = 0;
		struct insn in;

		one_make(&o, f / 4, DATA_AT);
		if (decode(&in, o.code, sizeof o.code, MODE_64) != (int)o.len)
			continue;
		guest_load(k, &o);
		for (unsigned i = 0; i < COPIES; i++, n += o.len)
			memcpy(code + n, o.code, o.len);
		code[n++] = 0xeb; /* jmp back to the first */
		code[n] = (u8) - (n + 1);
		cpu_kit_code(k, code, n + 1);
		EQ(pthread_create(&t, &attr, spend_budget, k), 0);
		pthread_join(t, NULL);
		OK(k->c->budget < BLOCK_MAX || k->c->exc.vector != EXC_NONE);
	}
	cpu_kit_free(k);
}
