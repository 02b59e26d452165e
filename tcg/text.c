/* text.c - struct insn to text, in the manner of objdump -M intel, for logs and tests.
 *
 * A row's name may hold alternatives: "a/b/c" for operand size 2, 4, 8 (address size for JCXZ),
 * "a/b" for REX.W clear and set.  Departures from objdump: no pseudo-mnemonics (cmpltps), no
 * prefixes that do nothing, no riz. */
#include <stdio.h>

#include "ops.h"

struct text {
	char *buf;
	size_t n, at;
};

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(t->buf + t->at, t->n - t->at, fmt, ap);
	va_end(ap);
	if (len > 0)
		t->at = MIN(t->at + (size_t)len, t->n - 1);
}

static const char *reg_name(unsigned reg, unsigned size)
{
	static const char *const names[4][16] = {
		{ "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b",
		  "r12b", "r13b", "r14b", "r15b" },
		{ "ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w",
		  "r12w", "r13w", "r14w", "r15w" },
		{ "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d",
		  "r11d", "r12d", "r13d", "r14d", "r15d" },
		{ "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11",
		  "r12", "r13", "r14", "r15" },
	};

	return names[size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3][reg & 15];
}

static const char *const seg_names[8] = { "es", "cs", "ss", "ds", "fs", "gs", "?", "?" };

static void put_name(struct text *t, const struct insn *in)
{
	const char *name = in->op->name, *first = strchr(name, '/');
	unsigned skip = in->mode == MODE_64 && in->rex & 8;

	if (!first) {
		put(t, "%s", name);
		return;
	}
	if (strchr(first + 1, '/')) {
		unsigned size = name[0] == 'j' ? in->asize : in->size;

		skip = size == 2 ? 0 : size == 4 ? 1 : 2;
	}
	while (skip--)
		name = strchr(name, '/') + 1;
	put(t, "%.*s", (int)strcspn(name, "/"), name);
}

static const char *ptr_name(unsigned size)
{
	switch (size) {
	case 1:
		return "BYTE PTR ";
	case 2:
		return "WORD PTR ";
	case 4:
		return "DWORD PTR ";
	case 6:
		return "FWORD PTR ";
	case 8:
		return "QWORD PTR ";
	case 10:
		return "TBYTE PTR ";
	case 16:
		return "XMMWORD PTR ";
	case 32:
		return "YMMWORD PTR ";
	default:
		return "";
	}
}

static u64 mask(u64 v, unsigned size)
{
	return v & (~0ull >> (64 - 8 * size));
}

/* The index of a gather is a YMM register unless its dwords fit an XMM one. */
static void put_index(struct text *t, const struct insn *in, bool vsib)
{
	bool half = !(in->op->opcode & 1) && in->rex & 8;

	if (vsib)
		put(t, "%cmm%u", in->vexl && !half ? 'y' : 'x', in->index);
	else
		put(t, "%s", reg_name(in->index, in->asize));
	if (in->asize != 2)
		put(t, "*%u", 1u << in->scale);
}

static void put_address(struct text *t, const struct insn *in, bool vsib)
{
	bool seg = in->prefixes & PFX_SEG;

	if (in->base == REG_NONE && in->index == REG_NONE) {
		put(t, "%s:0x%llx", seg_names[in->seg],
		    (unsigned long long)mask(insn_disp(in), in->asize));
		return;
	}
	if (seg)
		put(t, "%s:", seg_names[in->seg]);
	put(t, "[");
	if (in->base == REG_RIP)
		put(t, "%s", in->asize == 8 ? "rip" : "eip");
	else if (in->base != REG_NONE)
		put(t, "%s", reg_name(in->base, in->asize));
	if (in->index != REG_NONE) {
		if (in->base != REG_NONE)
			put(t, "+");
		put_index(t, in, vsib);
	}
	if (in->base == REG_RIP)
		put(t, "+0x%llx", (unsigned long long)(s64)in->disp);
	else if (in->modrm >> 6 || in->base == REG_NONE)
		put(t, "%c0x%llx", in->disp < 0 ? '-' : '+',
		    (unsigned long long)(in->disp < 0 ? -(s64)in->disp : in->disp));
	put(t, "]");
}

static void put_string(struct text *t, const struct insn *in, const struct opd *o)
{
	bool src = o->kind == OPD_STR_SRC;

	put(t, "%s%s:[%s]", ptr_name(o->size), seg_names[src ? in->seg : SEG_ES],
	    reg_name(src ? RSI : RDI, in->asize));
}

static void put_operand(struct text *t, const struct insn *in, unsigned i, u64 rip)
{
	static const char *const high[4] = { "ah", "ch", "dh", "bh" };
	const struct opd_spec *s = &opd_specs[in->op->spec[i]];
	const struct opd *o = &in->opd[i];
	unsigned next = in->mode == MODE_64 ? 8 : in->size;

	switch ((enum opd_kind)o->kind) {
	case OPD_NONE:
		break;
	case OPD_REG:
		put(t, "%s", reg_name(o->reg, o->size));
		break;
	case OPD_REGH:
		put(t, "%s", high[o->reg & 3]);
		break;
	case OPD_MEM:
		put(t, "%s", s->size == SZ_S || s->form == FORM_O ? "" : ptr_name(o->size));
		put_address(t, in, s->form == FORM_VSIB);
		break;
	case OPD_IMM:
		if (s->form == FORM_ONE)
			put(t, "1");
		else
			put(t, "0x%llx",
			    (unsigned long long)(i && in->opd[0].kind == OPD_IMM
							 ? in->imm2
							 : mask(insn_imm(in), o->size)));
		break;
	case OPD_REL:
		put(t, "0x%llx", (unsigned long long)mask(rip + in->len + (u64)in->imm, next));
		break;
	case OPD_FAR:
		put(t, "0x%x:0x%llx", in->imm2, (unsigned long long)(u32)in->imm);
		break;
	case OPD_SREG:
		put(t, "%s", seg_names[o->reg & 7]);
		break;
	case OPD_CR:
		put(t, "cr%u", o->reg);
		break;
	case OPD_DR:
		put(t, "dr%u", o->reg);
		break;
	case OPD_MMX:
		put(t, "mm%u", o->reg);
		break;
	case OPD_VEC:
		put(t, "%cmm%u", o->size == 32 ? 'y' : 'x', o->reg);
		break;
	case OPD_ST:
		put(t, s->form == FORM_ST0 ? "st" : "st(%u)", o->reg);
		break;
	case OPD_STR_SRC:
	case OPD_STR_DST:
		put_string(t, in, o);
		break;
	}
}

static void put_prefixes(struct text *t, const struct insn *in)
{
	bool compares = in->op->fl_write; /* CMPS, SCAS: the repetition looks at ZF */

	if (in->prefixes & PFX_LOCK)
		put(t, "lock ");
	if (in->op->flags & F_REP && in->prefixes & PFX_REP)
		put(t, compares ? "repz " : "rep ");
	if (in->op->flags & F_REP && in->prefixes & PFX_REPNE)
		put(t, "repnz ");
}

void decode_text(const struct insn *in, u64 rip, char *buf, size_t n)
{
	struct text t = { .buf = buf, .n = n };
	const char *sep = " ";

	buf[0] = 0;
	put_prefixes(&t, in);
	put_name(&t, in);
	for (unsigned i = 0; i < in->nopd; i++) {
		u8 form = opd_specs[in->op->spec[i]].form;

		if (form == FORM_IMP || form == FORM_IMPH)
			continue;
		put(&t, "%s", sep);
		put_operand(&t, in, i, rip);
		sep = ",";
	}
	if (in->base == REG_RIP)
		put(&t, "        # 0x%llx",
		    (unsigned long long)mask(rip + in->len + (u64)in->disp, in->asize));
}
