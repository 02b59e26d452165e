/* decode.c - the decoder against hand-made encodings, against objdump over programs of this host,
 * and the table against its own rules. */
#include <ctype.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../tcg/ops.h"
#include "../test.h"

enum { TEXT_MAX = 128, INSN_LONGEST = 15 };

/* "48 8b 05" to bytes; returns how many. */
static unsigned bytes_of(const char *hex, u8 *b, unsigned max)
{
	unsigned n = 0;

	while (n < max && isxdigit((unsigned char)hex[0]) && isxdigit((unsigned char)hex[1])) {
		b[n++] = (u8)strtoul((char[]){ hex[0], hex[1], 0 }, NULL, 16);
		hex += 2;
		while (*hex == ' ')
			hex++;
	}
	return n;
}

/* --- golden lines ----------------------------------------------------------------------------- */

struct golden {
	enum cpu_mode mode;
	const char *hex, *text; /* at address 0x1000; "UD", "GP", "MORE" if it has none */
};

static const struct golden goldens[] = {
	/* byte registers with and without REX; partial widths */
	{ MODE_64, "88 e0", "mov al,ah" },
	{ MODE_64, "40 88 e0", "mov al,spl" },
	{ MODE_64, "41 88 e0", "mov r8b,spl" },
	{ MODE_64, "b4 7f", "mov ah,0x7f" },
	{ MODE_64, "40 b4 7f", "mov spl,0x7f" },
	{ MODE_32, "40", "inc eax" },
	{ MODE_64, "48 66 01 c8", "add ax,cx" }, /* REX not before the opcode is void */
	{ MODE_64, "66 48 01 c8", "add rax,rcx" },
	{ MODE_64, "83 c0 ff", "add eax,0xffffffff" },
	{ MODE_64, "66 83 c0 ff", "add ax,0xffff" },
	{ MODE_64, "48 c7 c0 ff ff ff ff", "mov rax,0xffffffffffffffff" },
	{ MODE_64, "48 b8 01 02 03 04 05 06 07 08", "mov rax,0x807060504030201" },
	{ MODE_64, "6a 80", "push 0xffffffffffffff80" },
	{ MODE_64, "66 68 34 12", "push 0x1234" },
	/* addressing */
	{ MODE_64, "8b 05 10 00 00 00", "mov eax,DWORD PTR [rip+0x10]        # 0x1016" },
	{ MODE_64, "80 3d 00 00 00 00 05", "cmp BYTE PTR [rip+0x0],0x5        # 0x1007" },
	{ MODE_64, "67 8b 05 10 00 00 00", "mov eax,DWORD PTR [eip+0x10]        # 0x1017" },
	{ MODE_64, "8b 04 25 78 56 34 12", "mov eax,DWORD PTR ds:0x12345678" },
	{ MODE_64, "8b 04 25 00 00 00 80", "mov eax,DWORD PTR ds:0xffffffff80000000" },
	{ MODE_32, "8b 05 78 56 34 12", "mov eax,DWORD PTR ds:0x12345678" },
	{ MODE_64, "8b 04 24", "mov eax,DWORD PTR [rsp]" },
	{ MODE_64, "41 8b 04 24", "mov eax,DWORD PTR [r12]" },
	{ MODE_64, "41 8b 45 00", "mov eax,DWORD PTR [r13+0x0]" },
	{ MODE_64, "42 8b 04 20", "mov eax,DWORD PTR [rax+r12*1]" },
	{ MODE_64, "8b 04 cd f8 ff ff ff", "mov eax,DWORD PTR [rcx*8-0x8]" },
	{ MODE_64, "64 48 8b 04 25 28 00 00 00", "mov rax,QWORD PTR fs:0x28" },
	{ MODE_64, "3e 8b 00", "mov eax,DWORD PTR [rax]" }, /* DS is no override in 64-bit code */
	{ MODE_64, "64 2e 8b 00", "mov eax,DWORD PTR fs:[rax]" },
	{ MODE_32, "2e 8b 00", "mov eax,DWORD PTR cs:[eax]" },
	{ MODE_16, "8b 02", "mov ax,WORD PTR [bp+si]" },
	{ MODE_16, "8b 0e 34 12", "mov cx,WORD PTR ds:0x1234" },
	{ MODE_16, "8b 46 fe", "mov ax,WORD PTR [bp-0x2]" },
	{ MODE_16, "67 66 8b 44 24 04", "mov eax,DWORD PTR [esp+0x4]" },
	{ MODE_32, "67 8b 07", "mov eax,DWORD PTR [bx]" },
	{ MODE_64, "a1 08 07 06 05 04 03 02 01", "mov eax,ds:0x102030405060708" },
	{ MODE_64, "67 a1 04 03 02 01", "mov eax,ds:0x1020304" },
	{ MODE_16, "a3 34 12", "mov ds:0x1234,ax" },
	/* branches */
	{ MODE_64, "66 e9 00 00 00 00", "jmp 0x1006" }, /* 66 ignored, as Intel does */
	{ MODE_32, "66 e9 00 00", "jmp 0x1004" },
	{ MODE_16, "e9 fd ef", "jmp 0x0" },
	{ MODE_64, "67 e3 00", "jecxz 0x1003" },
	{ MODE_32, "67 e3 00", "jcxz 0x1003" },
	{ MODE_32, "9a 78 56 34 12 cd ab", "call 0xabcd:0x12345678" },
	{ MODE_16, "ea 34 12 00 f0", "jmp 0xf000:0x1234" },
	{ MODE_64, "9a 78 56 34 12 cd ab", "UD" },
	{ MODE_64, "ff 28", "jmp FWORD PTR [rax]" },
	{ MODE_64, "48 ff 28", "jmp TBYTE PTR [rax]" },
	{ MODE_64, "ff e8", "UD" }, /* far jump through a register */
	{ MODE_64, "ff f8", "UD" },
	/* names by size */
	{ MODE_64, "66 98", "cbw" },
	{ MODE_64, "48 98", "cdqe" },
	{ MODE_64, "48 99", "cqo" },
	{ MODE_64, "48 cf", "iretq" },
	{ MODE_64, "48 0f ae 00", "fxsave64 [rax]" },
	/* prefixes that select */
	{ MODE_64, "f3 90", "pause" },
	{ MODE_64, "90", "nop" },
	{ MODE_64, "41 90", "xchg r8d,eax" },
	{ MODE_64, "f3 0f b8 c1", "popcnt eax,ecx" },
	{ MODE_64, "66 f3 0f b8 c1", "popcnt ax,cx" },
	{ MODE_64, "0f b8 c1", "UD" },
	{ MODE_64, "f2 0f bc c1", "bsf eax,ecx" },
	{ MODE_64, "66 f2 0f 10 c1", "movsd xmm0,xmm1" }, /* F2, F3 go before 66 */
	{ MODE_64, "f3 f2 0f 10 c1", "movsd xmm0,xmm1" }, /* the last one counts */
	{ MODE_64, "f2 f3 0f 10 c1", "movss xmm0,xmm1" },
	{ MODE_64, "66 f2 0f 38 f1 c1", "crc32 eax,cx" },
	{ MODE_64, "f2 48 0f 38 f0 c1", "crc32 rax,cl" },
	{ MODE_64, "f3 0f 1e fa", "endbr64" },
	{ MODE_64, "0f 1e fa", "nop edx" },
	{ MODE_64, "f3 48 a5", "rep movs QWORD PTR es:[rdi],QWORD PTR ds:[rsi]" },
	{ MODE_64, "f2 ae", "repnz scas al,BYTE PTR es:[rdi]" },
	{ MODE_32, "65 ac", "lods al,BYTE PTR gs:[esi]" },
	{ MODE_16, "66 67 6d", "ins DWORD PTR es:[edi],dx" },
	{ MODE_64, "0f c7 08", "cmpxchg8b QWORD PTR [rax]" },
	{ MODE_64, "48 0f c7 08", "cmpxchg16b XMMWORD PTR [rax]" },
	{ MODE_64, "0f c7 c8", "UD" },
	/* LOCK */
	{ MODE_64, "f0 01 08", "lock add DWORD PTR [rax],ecx" },
	{ MODE_64, "f0 01 c8", "UD" },
	{ MODE_64, "f0 03 08", "UD" },
	{ MODE_64, "f0 39 08", "UD" },
	{ MODE_64, "f0 89 08", "UD" },
	{ MODE_64, "f0 87 08", "lock xchg DWORD PTR [rax],ecx" },
	{ MODE_64, "f0 0f ba 20 01", "UD" },
	{ MODE_64, "f0 0f ba 28 01", "lock bts DWORD PTR [rax],0x1" },
	{ MODE_64, "f0 90", "UD" },
	/* not everywhere */
	{ MODE_64, "06", "UD" },
	{ MODE_64, "27", "UD" },
	{ MODE_64, "62 00 00 00 00 00", "UD" },
	{ MODE_32, "62 00", "bound eax,QWORD PTR [eax]" },
	{ MODE_32, "62 c0", "UD" },
	{ MODE_64, "82 c0 01", "UD" },
	{ MODE_32, "82 c0 01", "add al,0x1" },
	{ MODE_32, "63 c8", "arpl ax,cx" },
	{ MODE_64, "48 63 c8", "movsxd rcx,eax" },
	{ MODE_64, "d6", "UD" },
	{ MODE_32, "0f 01 f8", "UD" }, /* SWAPGS */
	{ MODE_64, "0f 0b", "ud2" },
	{ MODE_64, "0f ff c1", "ud0 eax,ecx" },
	{ MODE_64, "0f 04", "UD" },
	{ MODE_64, "0f 24 c0", "UD" },
	/* segment, control and debug registers */
	{ MODE_64, "8e d8", "mov ds,ax" },
	{ MODE_64, "8e c8", "UD" }, /* MOV CS */
	{ MODE_64, "8c f0", "UD" },
	{ MODE_64, "48 8c d8", "mov rax,ds" },
	{ MODE_64, "8c 18", "mov WORD PTR [rax],ds" },
	{ MODE_64, "0f 22 d8", "mov cr3,rax" },
	{ MODE_64, "0f 22 18", "mov cr3,rax" }, /* mod is not looked at */
	{ MODE_32, "0f 20 c0", "mov eax,cr0" },
	{ MODE_64, "44 0f 20 c0", "mov rax,cr8" },
	{ MODE_64, "0f 20 c8", "UD" }, /* CR1 */
	{ MODE_64, "0f 23 f8", "mov dr7,rax" },
	{ MODE_64, "44 0f 23 f8", "UD" },
	{ MODE_64, "0f 00 c8", "str eax" },
	{ MODE_64, "0f 01 10", "lgdt [rax]" },
	{ MODE_64, "0f 01 d0", "xgetbv" },
	{ MODE_64, "66 0f 01 d0", "UD" },
	{ MODE_64, "0f 01 38", "invlpg BYTE PTR [rax]" },
	{ MODE_64, "66 0f 38 82 08", "invpcid rcx,XMMWORD PTR [rax]" },
	{ MODE_64, "c8 34 12 05", "enter 0x1234,0x5" },
	/* group 15 by prefix and mod */
	{ MODE_64, "0f ae e8", "lfence" },
	{ MODE_64, "0f ae ef", "lfence" },
	{ MODE_64, "66 0f ae e8", "UD" },
	{ MODE_64, "0f ae 38", "clflush BYTE PTR [rax]" },
	{ MODE_64, "f3 48 0f ae d8", "wrgsbase rax" },
	{ MODE_32, "f3 0f ae d8", "UD" },
	{ MODE_64, "0f ae c0", "UD" }, /* FXSAVE with a register */
	/* MMX, SSE */
	{ MODE_64, "0f 6e c0", "movd mm0,eax" },
	{ MODE_64, "44 0f 6f c1", "movq mm0,mm1" }, /* REX.R is void for MMX */
	{ MODE_64, "66 48 0f 6e c0", "movq xmm0,rax" },
	{ MODE_32, "66 0f 6e c0", "movd xmm0,eax" },
	{ MODE_64, "0f 12 c1", "movhlps xmm0,xmm1" },
	{ MODE_64, "0f 12 01", "movlps xmm0,QWORD PTR [rcx]" },
	{ MODE_64, "66 0f 12 c1", "UD" },
	{ MODE_64, "66 0f c4 c0 01", "pinsrw xmm0,eax,0x1" },
	{ MODE_64, "66 0f c4 00 01", "pinsrw xmm0,WORD PTR [rax],0x1" },
	{ MODE_64, "66 0f 73 d8 04", "psrldq xmm0,0x4" },
	{ MODE_64, "0f 73 d8 04", "UD" },
	{ MODE_64, "66 0f 73 18 04", "UD" },
	/* VEX */
	{ MODE_64, "c5 f8 77", "vzeroupper" },
	{ MODE_64, "c5 fc 77", "vzeroall" },
	{ MODE_64, "c5 e8 77", "UD" }, /* vvvv must be 1111 */
	{ MODE_64, "c5 f4 58 c2", "vaddps ymm0,ymm1,ymm2" },
	{ MODE_64, "c5 f2 58 c2", "vaddss xmm0,xmm1,xmm2" },
	{ MODE_64, "66 c5 f4 58 c2", "UD" },
	{ MODE_64, "f3 c5 f4 58 c2", "UD" },
	{ MODE_64, "48 c5 f4 58 c2", "UD" },
	{ MODE_64, "f0 c5 f4 58 c2", "UD" },
	{ MODE_64, "64 67 c5 f4 58 00", "vaddps ymm0,ymm1,YMMWORD PTR fs:[eax]" },
	{ MODE_64, "c4 e0 78 58 c2", "UD" }, /* map 0 */
	{ MODE_64, "c4 42 79 18 c8", "vbroadcastss xmm9,xmm8" },
	{ MODE_64, "c4 e2 79 19 c0", "UD" }, /* VBROADCASTSD needs L = 1 */
	{ MODE_64, "c4 e3 69 4a c1 40", "vblendvps xmm0,xmm2,xmm1,xmm4" },
	{ MODE_64, "c4 e2 69 90 04 0b", "vpgatherdd xmm0,DWORD PTR [rbx+xmm1*1],xmm2" },
	{ MODE_64, "c4 e2 ed 91 04 23", "vpgatherqq ymm0,QWORD PTR [rbx+ymm4*1],ymm2" },
	{ MODE_64, "c4 e2 69 90 03", "UD" },       /* no SIB byte */
	{ MODE_64, "c4 e2 69 90 04 13", "UD" },    /* index = mask */
	{ MODE_64, "c4 e2 f8 f2 c2", "andn rax,rax,rdx" },
	{ MODE_64, "c4 e2 fc f2 c2", "UD" }, /* L */
	{ MODE_64, "c4 e3 fb f0 c2 05", "rorx rax,rdx,0x5" },
	{ MODE_32, "c4 e2 f8 f2 c2", "andn eax,eax,edx" }, /* W is void for general registers */
	{ MODE_32, "c4 00", "les eax,FWORD PTR [eax]" },
	{ MODE_32, "c5 f8 77", "vzeroupper" },
	{ MODE_32, "c5 78 77", "lds edi,FWORD PTR [eax+0x77]" },
	{ MODE_16, "c5 07", "lds ax,DWORD PTR [bx]" },
	{ MODE_16, "c4 e2", "MORE" }, /* VEX, not LES */
	{ MODE_16, "c4 c4", "UD" },   /* of map 4 */
	/* x87 */
	{ MODE_64, "d8 c1", "fadd st,st(1)" },
	{ MODE_64, "dc c1", "fadd st(1),st" },
	{ MODE_64, "db 28", "fld TBYTE PTR [rax]" },
	{ MODE_64, "df e0", "fnstsw ax" },
	{ MODE_64, "d9 e2", "UD" },
	{ MODE_64, "d9 08", "UD" },
	/* length */
	{ MODE_64, "", "MORE" },
	{ MODE_64, "66", "MORE" },
	{ MODE_64, "48 8b 05 10 00 00", "MORE" },
	{ MODE_64, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 90", "nop" },
	{ MODE_64, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 66", "GP" },
	{ MODE_64, "66 66 66 66 66 66 66 66 66 66 66 66 66 01 c8", "add ax,cx" },
	{ MODE_64, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 01 c8", "GP" },
};

static const char *golden_text(const struct golden *g, char *buf)
{
	struct insn in;
	u8 b[32];
	unsigned n = bytes_of(g->hex, b, sizeof b);
	int len = decode(&in, b, n, g->mode);

	if (len > 0)
		decode_text(&in, 0x1000, buf, TEXT_MAX);
	if (len > 0 && (unsigned)len != n)
		return "wrong length";
	return len == DECODE_UD	    ? "UD" :
	       len == DECODE_GP	    ? "GP" :
	       len == DECODE_MORE   ? "MORE" :
				      buf;
}

TEST(decode_gives_the_text_of_tricky_encodings)
{
	for (size_t i = 0; i < ARRAY_LEN(goldens); i++) {
		char buf[TEXT_MAX];
		const char *text = golden_text(&goldens[i], buf);

		if (strcmp(text, goldens[i].text))
			test_fail(__FILE__, __LINE__, "%s (mode %d): %s, expected %s",
				  goldens[i].hex, goldens[i].mode, text, goldens[i].text);
	}
}

TEST(decode_keeps_fields_that_handlers_need)
{
	struct insn in;

	/* lock cmpxchg [gs:rbp+r9*4-8], cx */
	static const u8 cmpxchg[] = { 0x65, 0x66, 0xf0, 0x42, 0x0f, 0xb1, 0x4c, 0x8d, 0xf8 };

	EQ(decode(&in, cmpxchg, sizeof cmpxchg, MODE_64), sizeof cmpxchg);
	EQ(in.size, 2);
	EQ(in.asize, 8);
	EQ(in.seg, SEG_GS);
	EQ(in.base, RBP);
	EQ(in.index, R9);
	EQ(in.scale, 2);
	EQ(in.disp, -8);
	EQ(in.prefixes, PFX_SEG | PFX_OPSIZE | PFX_LOCK | PFX_REX);
	EQ(in.pp, 0);
	EQ(in.opd[0].kind, OPD_MEM);
	EQ(in.opd[0].size, 2);
	EQ(in.opd[1].kind, OPD_REG);
	/* the stack segment is the default with rBP and rSP, not with r12 and r13 */
	EQ(decode(&in, (u8[]){ 0x8b, 0x45, 0x00 }, 3, MODE_64), 3);
	EQ(in.seg, SEG_SS);
	EQ(decode(&in, (u8[]){ 0x41, 0x8b, 0x45, 0x00 }, 4, MODE_64), 4);
	EQ(in.seg, SEG_DS);
	/* enter: both immediates */
	EQ(decode(&in, (u8[]){ 0xc8, 0x34, 0x12, 0x1f }, 4, MODE_16), 4);
	EQ(in.imm, 0x1234);
	EQ(in.imm2, 0x1f);
	EQ(in.size, 2);
	/* in->size is the data's: out 0x80, eax and out dx, ax */
	EQ(decode(&in, (u8[]){ 0xe7, 0x80 }, 2, MODE_64), 2);
	EQ(in.size, 4);
	EQ(decode(&in, (u8[]){ 0x66, 0xef }, 2, MODE_64), 2);
	EQ(in.size, 2);
	/* near branches and the stack are 64 bits wide there */
	EQ(decode(&in, (u8[]){ 0x50 }, 1, MODE_64), 1);
	EQ(in.size, 8);
	EQ(decode(&in, (u8[]){ 0x66, 0xff, 0xd0 }, 3, MODE_64), 3);
	EQ(in.opd[0].size, 8);
	/* vaddsd xmm8, xmm9, [rax]: what a stub builder renumbers */
	EQ(decode(&in, (u8[]){ 0xc5, 0x33, 0x58, 0x00 }, 4, MODE_64), 4);
	EQ(in.pp, 3);
	EQ(in.vvvv, 9);
	EQ(in.opd[0].reg, 8);
	EQ(in.opd[2].kind, OPD_MEM);
	EQ(in.opd[2].size, 8);
	EQ(in.rex, 4);
}

/* --- every byte string ------------------------------------------------------------------------ */

/* A page with no memory after it: what lies before is all that may be read. */
static u8 *edge_page(void)
{
	u8 *p = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);

	OK(p != MAP_FAILED && mprotect(p + PAGE_SIZE, PAGE_SIZE, PROT_NONE) == 0);
	return p + PAGE_SIZE;
}

static void check_all_lengths(const u8 b[INSN_LONGEST], u8 *edge, enum cpu_mode mode)
{
	struct insn whole, in;
	int want = decode(&whole, b, INSN_LONGEST, mode);

	OK(want != DECODE_MORE && want <= INSN_LONGEST);
	for (unsigned avail = 0; avail < INSN_LONGEST; avail++) {
		u8 *at = edge - avail;

		memcpy(at, b, avail);
		int got = decode(&in, at, avail, mode);

		if (got == DECODE_MORE) /* then it does go on, or turns out to be nothing */
			OK(want < 0 || (unsigned)want > avail);
		else
			EQ(got, want);
		if (got > 0)
			OK(!memcmp(&in, &whole, sizeof in));
	}
}

TEST(decode_of_random_bytes_is_the_same_however_many_are_given)
{
	u8 *edge = edge_page();

	for (unsigned i = 0; i < 20000; i++) {
		u8 b[INSN_LONGEST];

		for (unsigned n = 0; n < sizeof b; n++)
			b[n] = (u8)(test_random() >> 32);
		if (i & 1)
			b[0] = 0x0f;
		check_all_lengths(b, edge, i % 3);
	}
}

/* --- the table -------------------------------------------------------------------------------- */

static u8 form_of(const struct op *op, unsigned i)
{
	return opd_specs[op->spec[i]].form;
}

static bool has_form(const struct op *op, u8 form)
{
	for (unsigned i = 0; i < ARRAY_LEN(op->spec); i++)
		if (form_of(op, i) == form)
			return true;
	return false;
}

static bool is_x87(const struct op *op)
{
	return op->map >= MAP_D8 && op->map <= MAP_DF;
}

/* A ModRM byte that a row takes: memory [rax] if it can; digit, reg: where it leaves them open. */
static u8 row_modrm(const struct op *op, unsigned digit, bool reg)
{
	reg |= has_form(op, FORM_R) || has_form(op, FORM_U) || has_form(op, FORM_N) ||
	       has_form(op, FORM_RX);
	if (op->ext >= 0xc0)
		return op->ext;
	if (op->ext != EXT___) {
		digit = op->ext & 7;
		reg |= op->ext & EXT_REG;
	}
	return (u8)((reg ? 0xc0 : has_form(op, FORM_VSIB) ? 4 : 0) | digit << 3);
}

/* Encode a form of the row into b[INSN_LONGEST], zeros after it. */
static void encode_row(const struct op *op, u8 *b, unsigned digit, bool reg)
{
	static const u8 pps[] = { 0, 0x66, 0xf3, 0xf2 };
	unsigned pp = op->pp == PP_ANY || op->pp & PP_NP ? 0 : (unsigned)__builtin_ctz(op->pp);
	bool w = !(op->lw & LW_W0), l = !(op->lw & LW_L0);
	bool vvvv = has_form(op, FORM_H) || has_form(op, FORM_B);
	unsigned at = 0;

	memset(b, 0, INSN_LONGEST);
	if (op->map >= MAP_V0F) {
		b[at++] = 0xc4;
		b[at++] = (u8)(0xe0 | (op->map - MAP_V0F + 1));
		b[at++] = (u8)(w << 7 | (vvvv ? 12 : 15) << 3 | l << 2 | pp);
		b[at++] = op->opcode;
	} else {
		if (pp)
			b[at++] = pps[pp];
		if (w)
			b[at++] = 0x48;
		if (is_x87(op)) {
			b[at++] = (u8)(0xd8 + op->map - MAP_D8);
			b[at++] = op->opcode < 8 ? (u8)(op->opcode << 3) : op->opcode;
			return;
		}
		if (op->map != MAP_ONE)
			b[at++] = 0x0f;
		if (op->map == MAP_0F38 || op->map == MAP_0F3A)
			b[at++] = op->map == MAP_0F38 ? 0x38 : 0x3a;
		b[at++] = op->opcode;
	}
	b[at++] = row_modrm(op, digit, reg);
	if (has_form(op, FORM_VSIB))
		b[at] = 0x08; /* index 1: not the destination, not the mask */
}

static void fail_row(const struct op *op, const char *what)
{
	test_fail(__FILE__, __LINE__, "row %u, %s, map %u opcode %#x: %s", (unsigned)(op - op_rows),
		  op->name, op->map, op->opcode, what);
}

/* Rows before it may take some of its forms: not all. */
static bool row_is_found(const struct op *op)
{
	for (unsigned form = 0; form < 16; form++) {
		struct insn in;
		u8 b[INSN_LONGEST];

		encode_row(op, b, form & 7, form & 8);
		if (decode(&in, b, sizeof b, op->flags & F_I64 ? MODE_32 : MODE_64) > 0 &&
		    in.op == op)
			return true;
	}
	return false;
}

TEST(decode_reaches_every_row)
{
	unsigned absent = 0;

	for (const struct op *op = op_rows; op < op_rows + op_rows_n; op++) {
		if (op_available(op) != row_is_found(op))
			fail_row(op, "another row, or none, is found for its encoding");
		absent += !op_available(op);
	}
	if (absent)
		fprintf(stderr, "  %u rows need features this host lacks\n", absent);
	OK(absent < op_rows_n / 2);
}

TEST(decode_table_locks_only_what_reads_and_writes_memory)
{
	for (const struct op *op = op_rows; op < op_rows + op_rows_n; op++) {
		u8 form = form_of(op, 0);

		if (op->flags & F_LOCKOK && ((op->flags & (F_R0 | F_W0)) != (F_R0 | F_W0) ||
					     (form != FORM_E && form != FORM_M)))
			fail_row(op, "LOCKOK");
	}
}

TEST(decode_table_flags_agree_with_each_other)
{
	for (const struct op *op = op_rows; op < op_rows + op_rows_n; op++) {
		u32 f = op->flags;
		bool strings = has_form(op, FORM_X) || has_form(op, FORM_Y);

		if (f & F_I64 && f & (F_O64 | F_D64 | F_F64))
			fail_row(op, "a 64-bit rule, and not in 64-bit code");
		if (!!(f & F_REP) != strings)
			fail_row(op, "REP and string operands");
		if (f & F_W1 && (form_of(op, 1) == FORM_NONE || form_of(op, 1) == FORM_I))
			fail_row(op, "W1 without a second operand to write");
		if (op->cls == CLS_UD && !(f & F_ENDS))
			fail_row(op, "an undefined instruction ends a block");
		if (op->map >= MAP_V0F && !(f & F_PROT))
			fail_row(op, "VEX outside protected mode");
		if (op->fl_write & op->fl_undef)
			fail_row(op, "flags both defined and undefined");
		if (!op->pp || !(op->lw & LW_LX) || !(op->lw & LW_WX))
			fail_row(op, "nothing selects it");
		if (op->cls != CLS_UD && !op->exec.self)
			fail_row(op, "no handler");
	}
}

/* Legacy SSE wants 16-byte operands aligned, but for the moves and compares named unaligned.
 * Of the SHA rows the host decides: AMD's take any address, Intel's do not. */
TEST(decode_table_aligns_legacy_sse_memory)
{
	static const char *const unaligned[] = { "movups", "movupd", "movdqu", "lddqu", "pcmpestrm",
						 "pcmpestri", "pcmpistrm", "pcmpistri" };

	for (const struct op *op = op_rows; op < op_rows + op_rows_n; op++) {
		bool want = false;

		if (op->cls != CLS_NATIVE || op->map > MAP_0F3A || op->feature == FEAT_SHA)
			continue;
		for (unsigned i = 0; i < ARRAY_LEN(op->spec); i++) {
			const struct opd_spec *s = &opd_specs[op->spec[i]];

			want |= (s->form == FORM_W || s->form == FORM_M) &&
				(s->size == SZ_X || s->size == SZ_DQ);
		}
		for (size_t i = 0; i < ARRAY_LEN(unaligned); i++)
			want &= strcmp(op->name, unaligned[i]) != 0;
		if (want != !!(op->flags & F_ALIGN))
			fail_row(op, "ALIGN");
	}
}

/* --- objdump ---------------------------------------------------------------------------------- */

struct tally {
	unsigned seen, skipped, wrong_len, wrong_text;
};

/* Prefixes that objdump names apart, whether or not they do anything. */
static char *skip_prefixes(char *s)
{
	static const char *const words[] = {
		"data16 ", "addr32 ", "addr16 ", "cs ", "ds ", "es ", "ss ", "fs ", "gs ", "rex ",
		"rex.", "rep ", "repz ", "repnz ", "bnd ", "notrack ", "lock ", "{vex} ",
	};

	for (size_t i = 0; i < ARRAY_LEN(words);)
		if (!strncmp(s, words[i], strlen(words[i])) && strchr(s, ' ')) {
			s = strchr(s, ' ') + 1;
			i = 0;
		} else {
			i++;
		}
	return s;
}

/* One space between words, no comment, no symbol. */
static char *tidy(char *s)
{
	char *to = s, *from;

	s[strcspn(s, "#<\n")] = 0;
	for (from = s; *from; from++)
		if (*from != ' ' || (from[1] != ' ' && from[1] != 0))
			*to++ = *from;
	*to = 0;
	return skip_prefixes(s);
}

/* What this CPU leaves out, and objdump's own ways: FWAIT as part of the next instruction. */
static bool out_of_scope(const u8 *b, const char *text, enum cpu_mode mode)
{
	return (b[0] == 0x62 && mode == MODE_64) || (b[0] == 0x8f && b[1] & 0x38) ||
	       ((b[0] == 0xc4 || b[0] == 0xc5) && text[0] == 'k') ||
	       (b[0] == 0xc4 && (b[1] & 31) == 3 && b[3] >= 0x5c && b[3] <= 0x7f &&
		(b[3] & 0xfc) != 0x60) || /* FMA4 */
	       b[0] == 0x9b || strstr(text, "(bad)") || !*text || strstr(text, "data32");
}

/* An instruction by that name exists, but not on this host. */
static bool host_lacks(const char *text)
{
	size_t n = strcspn(text, " ");

	for (const struct op *op = op_rows; op < op_rows + op_rows_n; op++)
		if (strlen(op->name) == n && !memcmp(op->name, text, n) && !op_available(op))
			return true;
	return false;
}

/* Text that is meant to differ. */
static bool has_other_name(const char *text)
{
	return strstr(text, "cmp") || strstr(text, "pclmul") || strstr(text, "lddqu") ||
	       !strncmp(text, "xlat", 4) || !strncmp(text, "xchg ax,ax", 10);
}

static void drop(char *s, const char *what)
{
	char *at = strstr(s, what);

	if (at)
		memmove(at, at + strlen(what), strlen(at + strlen(what)) + 1);
}

static void compare_text(struct tally *t, const struct insn *in, u64 rip, char *theirs,
			 const char *line)
{
	char ours[TEXT_MAX], *a, *b;

	decode_text(in, rip, ours, sizeof ours);
	a = tidy(ours);
	b = tidy(theirs);
	if (!strncmp(b, "movabs", 6))
		drop(b, "abs");
	if (in->nopd && in->opd[0].kind == OPD_REL)
		drop(a, "0x");
	if (has_other_name(b) || !strcmp(a, b))
		return;
	if (t->wrong_text++ < 5)
		fprintf(stderr, "  text %s: %s, objdump has %s\n", line, a, b);
}

/* One line of objdump -w: "address:<tab>bytes<tab>text". */
static void compare_line(struct tally *t, char *line, enum cpu_mode mode, bool strict)
{
	char *hex = strchr(line, '\t'), *text = hex ? strchr(hex + 1, '\t') : NULL;
	u8 b[INSN_LONGEST] = { 0 };
	struct insn in;

	if (!text)
		return;
	*text++ = 0;
	text[strcspn(text, "\n")] = 0;
	unsigned n = bytes_of(hex + 1, b, sizeof b);

	if (out_of_scope(b, text, mode)) {
		t->skipped++;
		return;
	}

	int len = decode(&in, b, n, mode);

	if (len < 0 && host_lacks(skip_prefixes(text))) {
		t->skipped++;
		return;
	}
	t->seen++;

	if (len == (int)n) {
		if (strict)
			compare_text(t, &in, strtoull(line, NULL, 16), text, hex + 1);
	} else if (strict || len > 0) {
		if (t->wrong_len++ < 5)
			fprintf(stderr, "  length %s: %d, objdump has %s\n", hex + 1, len, text);
	}
}

static void compare_file(struct tally *t, const char *options, const char *path, enum cpu_mode mode,
			 bool strict, unsigned lines)
{
	char cmd[512], line[1024];
	FILE *f;

	if (access(path, R_OK) != 0)
		return;
	snprintf(cmd, sizeof cmd, "objdump -w -M intel %s %s 2>/dev/null", options, path);
	f = popen(cmd, "r");
	OK(f != NULL);
	while (lines-- && fgets(line, sizeof line, f))
		compare_line(t, line, mode, strict);
	pclose(f);
}

static void need_objdump(void)
{
	if (system("objdump --version >/dev/null 2>&1") != 0)
		SKIP("objdump is not installed (package binutils)");
}

TEST(decode_agrees_with_objdump_on_64_bit_programs)
{
	static const char *const paths[] = {
		"/usr/lib/x86_64-linux-gnu/libc.so.6",
		"/usr/lib/x86_64-linux-gnu/libm.so.6",
		"/usr/lib/x86_64-linux-gnu/libgmp.so.10",
		"/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
		"/bin/bash",
	};
	struct tally t = { 0 };

	need_objdump();
	for (size_t i = 0; i < ARRAY_LEN(paths); i++)
		compare_file(&t, "-d -j .text", paths[i], MODE_64, true, 120000);
	if (!t.seen)
		SKIP("none of the programs to disassemble is here");
	EQ(t.wrong_len, 0);
	EQ(t.wrong_text, 0);
}

/* Raw firmware: 16 and 32-bit code among data, so what objdump lets pass may well be undefined. */
TEST(decode_agrees_with_objdump_on_lengths_of_firmware)
{
	const char *path = "/usr/share/seabios/bios-256k.bin";
	struct tally t = { 0 };

	need_objdump();
	compare_file(&t, "-D -b binary -m i386", path, MODE_32, false, 120000);
	compare_file(&t, "-D -b binary -m i8086", path, MODE_16, false, 120000);
	if (!t.seen)
		SKIP("no firmware image here (package seabios)");
	EQ(t.wrong_len, 0);
}
