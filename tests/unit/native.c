/* native.c - tests of tcg/native.c, exec_fpu.c, exec_mask.c: instructions run as stubs against the
 * same bytes run by the host, and what a stub must not do. */
#include <sys/mman.h>

#include "../../tcg/exec.h"
#include "../../tcg/native.h"
#include "../test.h"

enum { CODE_RIP = 0x1000, DATA = 0x10000, HOLE = 0x20000, MXCSR_RESET = 0x1f80 };

/* A CPU in 64-bit mode, paging on: linear = physical, page HOLE not present. */
struct fix {
	struct tcg_cpu c;
	struct memory mem;
	struct engine_env env;
};

static void fix_paging(struct fix *f)
{
	u64 *pml4 = mem_ptr(&f->mem, 0x100000, PAGE_SIZE), *pdpt = pml4 + 512, *pd = pml4 + 1024,
	    *pt = pml4 + 1536;

	pml4[0] = 0x101007;
	pdpt[0] = 0x102007;
	pd[0] = 0x103007;
	for (u64 i = 0; i < 512; i++)
		pt[i] = i == HOLE >> 12 ? 0 : i << 12 | 7;
	f->c.v.s.cr3 = 0x100000;
}

static struct fix *fix_new(void)
{
	struct fix *f = aligned_alloc(64, ALIGN_UP(sizeof *f, 64));
	struct err e;
	struct cpu_state *s = &f->c.v.s;

	memset(f, 0, sizeof *f);
	OK(memory_init(&f->mem, 2 * MIB, &e) == 0);
	f->env.mem = &f->mem;
	f->c.v.env = &f->env;
	cpu_state_reset(s, true);
	fix_paging(f);
	s->cr0 = CR0_PE | CR0_NE | CR0_PG | CR0_ET | CR0_MP | CR0_WP;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	s->efer = EFER_LME | EFER_LMA;
	s->xcr0 = 7;
	s->seg[SEG_CS] =
		(struct seg_reg){ .sel = 8, .attr = 0xb | ATTR_S | ATTR_P | ATTR_L | ATTR_G };
	for (unsigned i = 0; i < SEG_NR; i++)
		if (i != SEG_CS)
			s->seg[i] =
				(struct seg_reg){ .sel = 16,
						  .limit = 0xffffffff,
						  .attr = 3 | ATTR_S | ATTR_P | ATTR_DB | ATTR_G };
	OK(mmu_init(&f->c, &e) == 0);
	mmu_start(&f->c);
	OK(native_init(&f->c, &e) == 0);
	if (f->c.native->mask != 7)
		SKIP("the host has no AVX");
	seg_refresh(&f->c);
	f->c.exc.vector = EXC_NONE;
	f->c.code_rip = CODE_RIP;
	memset(s->xsave, 0, sizeof s->xsave);
	st16(s->xsave, 0x37f);
	st32(s->xsave + FXSAVE_MXCSR_OFF, MXCSR_RESET);
	return f;
}

static void fix_free(struct fix *f)
{
	fp_leave(&f->c);
	native_free(&f->c);
	mmu_free(&f->c);
	memory_free(&f->mem);
	free(f);
}

static u8 *guest(struct fix *f, gpa_t gpa)
{
	return mem_ptr(&f->mem, gpa, 1);
}

/* Two instructions in a block: the one under test, and one that only says "the next". */
static struct insn slot[2];
static const struct insn *next_reached(struct tcg_cpu *c, const struct insn *in)
{
	return in;
}

/* Have native_exec choose the instruction's handler, without running it. */
static void prime(struct tcg_cpu *c)
{
	u64 cr0 = c->v.s.cr0;

	c->v.s.cr0 |= CR0_TS;
	seg_refresh(c);
	OK(native_exec(c, &slot[0]) == NULL);
	c->v.s.cr0 = cr0;
	seg_refresh(c);
}

/* Run one instruction, as at its first time or as later on; the vector it raised or EXC_NONE. */
static unsigned run_mode(struct fix *f, const u8 *code, unsigned len, enum cpu_mode mode)
{
	const struct insn *after;

	memset(slot, 0, sizeof slot);
	EQ(decode(&slot[0], code, len, mode), len);
	slot[0].fn = slot[0].op->cls == CLS_NATIVE ? native_exec : slot[0].op->exec.self;
	slot[1].fn = next_reached;
	if (slot[0].op->cls == CLS_NATIVE && test_random() & 1)
		prime(&f->c);
	f->c.exc.vector = EXC_NONE;
	after = slot[0].fn(&f->c, &slot[0]);
	OK((f->c.exc.vector == EXC_NONE) == (after == &slot[1]));
	if (f->c.exc.vector != EXC_NONE)
		EQ(f->c.v.s.rip, CODE_RIP);
	return f->c.exc.vector;
}

/* Instructions are written in assembler: RUN(f, "addps xmm1, xmm2"), source before destination. */
#define BYTES(text, code, len)                                            \
	const u8 *code;                                                   \
	u64 len;                                                          \
	__asm__(".pushsection .rodata\n.att_syntax noprefix\n661: " text  \
		"\n662: .att_syntax prefix\n"                             \
		".popsection\nlea 661b(%%rip), %0\nmov $662b - 661b, %k1" \
		: "=r"(code), "=r"(len))
#define RUN(f, text)                                         \
	({                                                   \
		BYTES(text, code_, len_);                    \
		run_mode(f, code_, (unsigned)len_, MODE_64); \
	})

/* The same bytes on the host itself: image in and out, RDI = mem, RAX in and out. */
static u64 host_run(const u8 *code, u64 len, u8 *image, void *mem, u64 rax)
{
	static u8 *page;
	u8 host[XSAVE_BYTES] __attribute__((aligned(64)));

	if (!page)
		page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(page, code, len);
	page[len] = 0xc3;
	memset(host, 0, sizeof host);
	__asm__ volatile("mov %%rax, %%r8; mov $7, %%eax; xor %%edx, %%edx\n"
			 "xsave64 (%[host]); xrstor64 (%[image])\n"
			 "mov %%r8, %%rax; call *%[code]; mov %%rax, %%r8\n"
			 "mov $7, %%eax; xor %%edx, %%edx\n"
			 "xsave64 (%[image]); xrstor64 (%[host]); mov %%r8, %%rax"
			 : "+a"(rax)
			 : [host] "r"(host), [image] "r"(image), [code] "r"(page), "D"(mem)
			 : "rdx", "rcx", "r8", "cc", "memory");
	return rax;
}

static void random_image(u8 *image)
{
	memset(image, 0, XSAVE_BYTES);
	st16(image, 0x37f);
	st32(image + FXSAVE_MXCSR_OFF, MXCSR_RESET);
	for (unsigned i = FXSAVE_XMM_OFF; i < 416; i += 8)
		st64(image + i, test_random());
	for (unsigned i = XSAVE_YMM_OFF; i < XSAVE_BYTES; i += 8)
		st64(image + i, test_random());
	for (unsigned i = 0; i < 8; i++) { /* x87: small integers, some registers empty */
		image[4] |= (u8)((test_random() & 3 ? 1 : 0) << i);
		st64(image + 32 + 16 * i, test_random() | BIT(63));
		st16(image + 40 + 16 * i, 0x3fff + (u16)(test_random() & 7));
	}
	st64(image + XSAVE_HEADER_OFF, 7);
}

static void same_image(const u8 *got, const u8 *want)
{
	OK(memcmp(got, want, 5) == 0); /* FCW, FSW, FTW */
	EQ(ld32(got + FXSAVE_MXCSR_OFF), ld32(want + FXSAVE_MXCSR_OFF));
	OK(memcmp(got + 32, want + 32, 416 - 32) == 0);
	OK(memcmp(got + XSAVE_YMM_OFF, want + XSAVE_YMM_OFF, 256) == 0);
}

/* One instruction, with memory operand [RDI] if it has one, on random state, at the given offset.
 */
static void compare(struct fix *f, const u8 *code, u64 len, gpa_t at)
{
	struct cpu_state *s = &f->c.v.s;
	u8 image[XSAVE_BYTES] __attribute__((aligned(64))), mem[128] __attribute__((aligned(64)));
	u64 rax = test_random(), host_rax;
	unsigned shift = at & 63;

	fp_leave(&f->c);
	random_image(image);
	memcpy(s->xsave, image, sizeof image);
	for (unsigned i = 0; i < 64; i++)
		mem[shift + i] = guest(f, at)[i] = (u8)test_random();
	s->gpr[RAX] = rax;
	s->gpr[RDI] = at;
	EQ(run_mode(f, code, (unsigned)len, MODE_64), EXC_NONE);
	fp_leave(&f->c);
	host_rax = host_run(code, len, image, mem + shift, rax);
	same_image(s->xsave, image);
	EQ(s->gpr[RAX], host_rax);
	OK(memcmp(guest(f, at), mem + shift, 64) == 0);
}

#define COMPARE(f, text, at)                         \
	do {                                         \
		BYTES(text, code_, len_);            \
		for (unsigned i_ = 0; i_ < 20; i_++) \
			compare(f, code_, len_, at); \
	} while (0)

TEST(native_register_forms_match_the_host)
{
	struct fix *f = fix_new();

	COMPARE(f, "addps xmm1, xmm2", DATA);
	COMPARE(f, "mulsd xmm12, xmm3", DATA);
	COMPARE(f, "pshufb xmm3, xmm11", DATA);
	COMPARE(f, "palignr $5, xmm9, xmm10", DATA);
	COMPARE(f, "paddb mm1, mm7", DATA);
	COMPARE(f, "movq2dq mm2, xmm9", DATA);
	COMPARE(f, "vaddpd ymm1, ymm14, ymm9", DATA);
	COMPARE(f, "vpermq $0x1b, ymm8, ymm1", DATA);
	COMPARE(f, "vblendvps ymm13, ymm2, ymm3, ymm12", DATA);
	COMPARE(f, "vfmadd231ps xmm9, xmm2, xmm3", DATA);
	COMPARE(f, "aesenc xmm4, xmm12", DATA);
	COMPARE(f, "pclmulqdq $0x11, xmm4, xmm5", DATA);
	COMPARE(f, "vzeroupper", DATA);
	COMPARE(f, "fadd st(3), st", DATA);
	COMPARE(f, "fxch st(5)", DATA);
	COMPARE(f, "fsqrt", DATA);
	COMPARE(f, "faddp st, st(1)", DATA);
	fix_free(f);
}

TEST(native_general_registers_match_the_host)
{
	struct fix *f = fix_new();

	COMPARE(f, "movd eax, xmm9", DATA);
	COMPARE(f, "movq rax, xmm0", DATA);
	COMPARE(f, "movq xmm0, rax", DATA);
	COMPARE(f, "vmovd xmm9, eax", DATA);
	COMPARE(f, "pinsrw $3, eax, xmm1", DATA);
	COMPARE(f, "pextrw $3, xmm8, eax", DATA);
	COMPARE(f, "pextrb $3, xmm0, eax", DATA);
	COMPARE(f, "pmovmskb xmm0, eax", DATA);
	COMPARE(f, "movmskpd xmm9, eax", DATA);
	COMPARE(f, "cvttsd2si xmm9, rax", DATA);
	COMPARE(f, "vcvtsi2sd rax, xmm9, xmm1", DATA);
	COMPARE(f, "fnstsw ax", DATA);
	fix_free(f);
}

TEST(native_memory_forms_match_the_host_at_any_address)
{
	static const gpa_t at[] = { DATA, DATA + 3, DATA + 0xff8, DATA + 0xff1, DATA + 0xfff };
	struct fix *f = fix_new();

	for (unsigned i = 0; i < ARRAY_LEN(at); i++) {
		COMPARE(f, "movups (rdi), xmm2", at[i]);
		COMPARE(f, "movups xmm12, (rdi)", at[i]);
		COMPARE(f, "vmovdqu ymm12, (rdi)", at[i]);
		COMPARE(f, "vpaddd (rdi), ymm12, ymm13", at[i]);
		COMPARE(f, "movhps xmm12, (rdi)", at[i]);
		COMPARE(f, "cvtps2pd (rdi), xmm1", at[i]);
		COMPARE(f, "pinsrb $7, (rdi), xmm1", at[i]);
		COMPARE(f, "vpextrd $1, xmm9, (rdi)", at[i]);
		COMPARE(f, "cvtsi2ss (rdi), xmm1", at[i]);
		COMPARE(f, "vbroadcastsd (rdi), ymm1", at[i]);
		COMPARE(f, "movq mm3, (rdi)", at[i]);
		COMPARE(f, "fldl (rdi)", at[i]);
		COMPARE(f, "fstpt (rdi)", at[i]);
		COMPARE(f, "fisttpll (rdi)", at[i]);
		COMPARE(f, "fnstcw (rdi)", at[i]);
		COMPARE(f, "fbstp (rdi)", at[i]);
	}
	fix_free(f);
}

TEST(native_flags_are_read_and_written)
{
	struct fix *f = fix_new();
	struct cpu_state *s = &f->c.v.s;

	st32(s->xsave + FXSAVE_XMM_OFF, 0x3f800000); /* 1.0 */
	st32(s->xsave + FXSAVE_XMM_OFF + 16, 0x40000000); /* 2.0 */
	st64(s->xsave + XSAVE_HEADER_OFF, 2);
	flags_set(&f->c, FL_ARITH | 2);
	EQ(RUN(f, "ucomiss xmm1, xmm0"), EXC_NONE);
	EQ(flags_get(&f->c) & FL_ARITH, FL_CF);
	EQ(RUN(f, "ptest xmm2, xmm2"), EXC_NONE);
	EQ(flags_get(&f->c) & FL_ARITH, FL_ZF | FL_CF);
	s->gpr[RAX] = s->gpr[RDX] = 4;
	s->gpr[RCX] = ~0ull;
	EQ(RUN(f, "pcmpestri $0, xmm0, xmm1"), EXC_NONE); /* any byte of 1.0 among those of 2.0 */
	EQ(s->gpr[RCX], 0);
	EQ(flags_get(&f->c) & FL_CF, FL_CF);

	EQ(RUN(f, "fld1"), EXC_NONE);
	EQ(RUN(f, "fldz"), EXC_NONE);
	flags_set(&f->c, FL_ZF | 2);
	EQ(RUN(f, "fcmovne st(1), st"), EXC_NONE);
	EQ(RUN(f, "fcomi st(1), st"), EXC_NONE);
	EQ(flags_get(&f->c) & (FL_CF | FL_ZF | FL_PF), FL_CF);
	flags_set(&f->c, 2);
	EQ(RUN(f, "fcmovne st(1), st"), EXC_NONE);
	EQ(RUN(f, "fcomi st(1), st"), EXC_NONE);
	EQ(flags_get(&f->c) & (FL_CF | FL_ZF | FL_PF), FL_ZF);
	fix_free(f);
}

TEST(native_misaligned_operand_is_general_protection)
{
	struct fix *f = fix_new();

	f->c.v.s.gpr[RDI] = DATA + 8;
	memset(guest(f, DATA), 0x55, 32);
	EQ(RUN(f, "movaps xmm0, (rdi)"), EXC_GP);
	EQ(RUN(f, "addps (rdi), xmm0"), EXC_GP);
	EQ(RUN(f, "vmovdqa (rdi), ymm0"), EXC_GP);
	EQ(RUN(f, "vmovntps ymm0, (rdi)"), EXC_GP);
	EQ(RUN(f, "fxsave (rdi)"), EXC_GP);
	EQ(f->c.exc.error, 0);
	EQ(guest(f, DATA + 8)[0], 0x55);
	EQ(RUN(f, "vaddps (rdi), ymm0, ymm0"), EXC_NONE);
	fix_free(f);
}

TEST(native_page_fault_changes_nothing)
{
	struct fix *f = fix_new();
	u8 before[XSAVE_BYTES] __attribute__((aligned(64)));

	f->c.v.s.gpr[RDI] = HOLE - 8;
	memset(guest(f, HOLE - 8), 0x55, 8);
	EQ(RUN(f, "fld1"), EXC_NONE);
	fp_leave(&f->c);
	memcpy(before, f->c.v.s.xsave, sizeof before);
	EQ(RUN(f, "movups (rdi), xmm1"), EXC_PF);
	EQ(f->c.exc.cr2, HOLE);
	EQ(RUN(f, "vmovups ymm1, (rdi)"), EXC_PF);
	EQ(RUN(f, "fstpt (rdi)"), EXC_PF);
	EQ(RUN(f, "fnsave (rdi)"), EXC_PF);
	EQ(RUN(f, "fldenv (rdi)"), EXC_PF);
	f->c.v.s.gpr[RDI] = HOLE - 64;
	EQ(RUN(f, "xsave (rdi)"), EXC_PF);
	EQ(RUN(f, "fxrstor (rdi)"), EXC_PF);
	fp_leave(&f->c);
	OK(memcmp(before, f->c.v.s.xsave, sizeof before) == 0);
	EQ(guest(f, HOLE - 8)[0], 0x55);
	fix_free(f);
}

static u32 host_mxcsr(void)
{
	u32 v;

	__asm__ volatile("stmxcsr %0" : "=m"(v));
	return v;
}

TEST(native_control_words_are_the_guests_only_while_it_runs)
{
	struct fix *f = fix_new();
	u32 odd = MXCSR_RESET | 0x8040 | 0x6000,
	    before = host_mxcsr(); /* FTZ, DAZ, round to zero */
	u16 cw;

	st32(guest(f, DATA), odd);
	st16(guest(f, DATA + 4), 0xf7f);
	f->c.v.s.gpr[RDI] = DATA;
	EQ(RUN(f, "ldmxcsr (rdi)"), EXC_NONE);
	EQ(RUN(f, "fldcw 4(rdi)"), EXC_NONE);
	EQ(host_mxcsr(), odd);
	fp_leave(&f->c);
	EQ(host_mxcsr(), before);
	__asm__ volatile("fnstcw %0" : "=m"(cw));
	EQ(cw, 0x37f);
	EQ(ld32(f->c.v.s.xsave + FXSAVE_MXCSR_OFF), odd);
	EQ(ld16(f->c.v.s.xsave), 0xf7f);
	EQ(RUN(f, "stmxcsr 8(rdi)"), EXC_NONE);
	EQ(ld32(guest(f, DATA + 8)), odd);
	st32(guest(f, DATA), 0x10000);
	EQ(RUN(f, "ldmxcsr (rdi)"), EXC_GP);
	fix_free(f);
}

TEST(native_unmasked_simd_exception_is_xm)
{
	struct fix *f = fix_new();
	struct cpu_state *s = &f->c.v.s;

	st32(s->xsave + FXSAVE_MXCSR_OFF, MXCSR_RESET & ~0x200); /* ZM clear */
	st32(s->xsave + FXSAVE_XMM_OFF, 0x3f800000);
	st64(s->xsave + XSAVE_HEADER_OFF, 2);
	EQ(RUN(f, "divss xmm1, xmm0"), EXC_XM);
	OK(!f->c.exc.has_error);
	EQ(host_mxcsr() & 0x3f, 4);
	fp_leave(&f->c);
	EQ(ld32(s->xsave + FXSAVE_XMM_OFF), 0x3f800000);
	EQ(ld32(s->xsave + FXSAVE_MXCSR_OFF) & 0x3f, 4);
	s->cr4 &= ~(u64)CR4_OSXMMEXCPT;
	EQ(RUN(f, "divss xmm1, xmm0"), EXC_UD);
	EQ(RUN(f, "addss xmm1, xmm0"), EXC_NONE);
	fix_free(f);
}

TEST(native_unmasked_x87_exception_is_mf_at_the_next_waiting_instruction)
{
	struct fix *f = fix_new();

	f->c.v.s.gpr[RDI] = DATA;
	st16(guest(f, DATA), 0x37b); /* ZM clear */
	EQ(RUN(f, "fldcw (rdi)"), EXC_NONE);
	EQ(RUN(f, "fld1"), EXC_NONE);
	EQ(RUN(f, "fldz"), EXC_NONE);
	EQ(RUN(f, "fdivrp st, st(1)"), EXC_NONE); /* 1 / 0 */
	EQ(RUN(f, "fnstsw (rdi)"), EXC_NONE);
	EQ(ld16(guest(f, DATA)) & 0x84, 0x84);
	EQ(RUN(f, "fwait"), EXC_MF);
	EQ(RUN(f, "fld1"), EXC_MF);
	EQ(RUN(f, "paddb mm0, mm1"), EXC_MF);
	EQ(RUN(f, "emms"), EXC_MF);
	EQ(RUN(f, "frstor (rdi)"), EXC_MF);
	fp_leave(&f->c);
	EQ(RUN(f, "fldz"), EXC_MF);
	EQ(RUN(f, "fnclex"), EXC_NONE);
	EQ(RUN(f, "fld1"), EXC_NONE);
	fix_free(f);
}

static u32 irqs;
static void fake_set(struct irqchip *chip, u32 gsi, bool level)
{
	irqs += level && gsi == 13;
}

TEST(native_x87_exception_without_ne_raises_irq13_and_waits)
{
	static const struct irqchip_ops ops = { .name = "fake", .set = fake_set };
	struct irqchip chip = { .ops = &ops };
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct fix *f = fix_new();

	f->env.chip = &chip;
	f->env.lock = &lock;
	f->c.v.s.cr0 &= ~(u64)CR0_NE;
	f->c.v.s.gpr[RDI] = DATA;
	st16(guest(f, DATA), 0x37b);
	EQ(RUN(f, "fldcw (rdi)"), EXC_NONE);
	EQ(RUN(f, "fldz"), EXC_NONE);
	EQ(RUN(f, "fld1"), EXC_NONE);
	EQ(RUN(f, "fdiv st(1), st"), EXC_NONE);
	BYTES("fwait", code, len);
	EQ(decode(slot, code, (unsigned)len, MODE_64), len);
	OK(exec_FWAIT(&f->c, slot) == NULL);
	EQ(f->c.exc.vector, EXC_NONE);
	EQ(f->c.v.s.rip, CODE_RIP);
	EQ(irqs, 1);
	fix_free(f);
}

TEST(native_images_show_guest_addresses)
{
	struct fix *f = fix_new();
	u8 *image = guest(f, DATA + 0x100);
	struct insn *in = slot;

	f->c.v.s.gpr[RDI] = DATA;
	f->c.v.s.gpr[RSI] = DATA + 0x100;
	f->c.v.s.gpr[RAX] = XCOMP_X87;
	EQ(RUN(f, "fldl 8(rdi)"), EXC_NONE);
	OK(in->modrm == 0x47);
	EQ(RUN(f, "fxsave64 (rsi)"), EXC_NONE);
	EQ(ld16(image + 6), 0x547);
	EQ(ld64(image + 8), CODE_RIP);
	EQ(ld64(image + 16), DATA + 8);
	EQ(RUN(f, "fxsave (rsi)"), EXC_NONE);
	EQ(ld64(image + 8), CODE_RIP | 8ull << 32);
	EQ(ld64(image + 16), (DATA + 8) | 16ull << 32);
	EQ(RUN(f, "xsave64 (rsi)"), EXC_NONE);
	EQ(ld64(image + 8), CODE_RIP);
	fp_leave(&f->c);
	EQ(ld64(f->c.v.s.xsave + 8), CODE_RIP);
	EQ(ld64(f->c.v.s.xsave + 16), DATA + 8);
	EQ(RUN(f, "fnstenv (rsi)"), EXC_NONE);
	EQ(ld32(image + 12), CODE_RIP);
	EQ(ld32(image + 16), 0x547 << 16 | 8);
	EQ(ld32(image + 20), DATA + 8);
	EQ(ld32(image + 24), 0xffff0010);
	EQ(RUN(f, ".byte 0x66; fnstenv (rsi)"), EXC_NONE);
	EQ(ld16(image + 6), CODE_RIP);
	EQ(ld16(image + 8), 8);
	EQ(ld16(image + 10), (u16)(DATA + 8));
	f->c.v.s.cr0 &= ~(u64)CR0_PE; /* real-address formats: linear addresses */
	EQ(RUN(f, "fnsave (rsi)"), EXC_NONE);
	EQ(ld32(image + 12), 0xffff0000 | (CODE_RIP + 0x80));
	EQ(ld32(image + 16), 0x547);
	EQ(ld32(image + 24), (DATA + 8 + 0x100) >> 4 & 0xffff000);
	EQ(RUN(f, "fnstenv (rsi)"), EXC_NONE);
	EQ(ld32(image + 16), 0);
	fix_free(f);
}

TEST(native_x87_environment_survives_a_round_trip)
{
	static const char *const what[] = { "28 bytes", "14 bytes" };
	struct fix *f = fix_new();
	u8 *image = guest(f, DATA);
	u8 saved[108];

	f->c.v.s.gpr[RDI] = DATA;
	for (unsigned i = 0; i < ARRAY_LEN(what); i++) {
		EQ(RUN(f, "fninit"), EXC_NONE);
		EQ(RUN(f, "fldpi"), EXC_NONE);
		EQ(RUN(f, "fld1"), EXC_NONE);
		EQ(i ? RUN(f, ".byte 0x66; fnsave (rdi)") : RUN(f, "fnsave (rdi)"), EXC_NONE);
		memcpy(saved, image, sizeof saved);
		EQ(i ? RUN(f, ".byte 0x66; frstor (rdi)") : RUN(f, "frstor (rdi)"), EXC_NONE);
		memset(image, 0, sizeof saved);
		EQ(i ? RUN(f, ".byte 0x66; fnsave (rdi)") : RUN(f, "fnsave (rdi)"), EXC_NONE);
		OK(memcmp(saved, image, i ? 94 : 108) == 0);
	}
	fix_free(f);
}

TEST(native_xrstor_refuses_bad_images)
{
	struct fix *f = fix_new();
	u8 *image = guest(f, DATA), *header = image + 512;
	static const struct {
		u16 off;
		u64 val;
	} bad[] = {
		{ 512, 8 }, { 512, BIT(63) },	  { 520, 1 },
		{ 528, 1 }, { 520, BIT(63) | 8 }, { 24, 0xffff0000 },
	};

	f->c.v.s.gpr[RDI] = DATA;
	f->c.v.s.gpr[RAX] = ~0ull;
	f->c.v.s.gpr[RDX] = ~0ull;
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		memset(image, 0, XSAVE_BYTES);
		st64(image + bad[i].off, bad[i].val);
		EQ(RUN(f, "xrstor (rdi)"), EXC_GP);
	}
	memset(image, 0, XSAVE_BYTES);
	st64(header, 4);
	st64(header + 8, BIT(63) | 3); /* a component that is not in the compact layout */
	EQ(RUN(f, "xrstor (rdi)"), EXC_GP);
	st64(header, 0);
	st64(header + 40, 1);
	EQ(RUN(f, "xrstor (rdi)"), EXC_GP);
	memset(image, 0, XSAVE_BYTES);
	EQ(RUN(f, "xrstor (rdi)"), EXC_NONE);
	f->c.v.s.gpr[RDI] = DATA + 16;
	EQ(RUN(f, "xrstor (rdi)"), EXC_GP);
	fix_free(f);
}

TEST(native_xsave_writes_only_what_was_asked_for)
{
	struct fix *f = fix_new();
	u8 *image = guest(f, DATA);

	random_image(f->c.v.s.xsave);
	f->c.v.s.gpr[RDI] = DATA;
	f->c.v.s.gpr[RAX] = 4; /* AVX, and MXCSR with it */
	f->c.v.s.gpr[RDX] = 0;
	memset(image, 0xaa, PAGE_SIZE);
	EQ(RUN(f, "xsave (rdi)"), EXC_NONE);
	EQ(image[0], 0xaa);
	EQ(ld32(image + 24), MXCSR_RESET);
	EQ(image[160], 0xaa);
	EQ(ld64(image + 512), 0xaaaaaaaaaaaaaaae);
	EQ(image[520], 0xaa);
	OK(memcmp(image + 576, f->c.v.s.xsave + 576, 256) == 0);
	EQ(image[832], 0xaa);

	memset(image, 0xaa, PAGE_SIZE);
	f->c.v.s.gpr[RAX] = 7;
	EQ(RUN(f, "vzeroupper"), EXC_NONE);
	EQ(RUN(f, "xsaveopt (rdi)"), EXC_NONE);
	EQ(image[576], 0xaa); /* AVX is in its initial state */
	EQ(ld64(image + 512), 0xaaaaaaaaaaaaaaab);
	EQ(RUN(f, "xsavec (rdi)"), EXC_NONE);
	EQ(ld64(image + 512), 3);
	EQ(ld64(image + 520), BIT(63) | 7);
	EQ(image[576], 0xaa);
	fix_free(f);
}

TEST(native_xrstor_loads_and_initialises)
{
	struct fix *f = fix_new();
	u8 *image = guest(f, DATA), want[XSAVE_BYTES];

	random_image(f->c.v.s.xsave);
	memcpy(want, f->c.v.s.xsave, sizeof want);
	f->c.v.s.gpr[RDI] = DATA;
	f->c.v.s.gpr[RAX] = 7;
	f->c.v.s.gpr[RDX] = 0;
	EQ(RUN(f, "xsavec (rdi)"), EXC_NONE);
	fp_leave(&f->c);
	random_image(f->c.v.s.xsave);
	EQ(RUN(f, "xrstor (rdi)"), EXC_NONE);
	fp_leave(&f->c);
	same_image(f->c.v.s.xsave, want);
	st64(image + 512, 1); /* SSE and AVX: initial */
	EQ(RUN(f, "xrstor (rdi)"), EXC_NONE);
	fp_leave(&f->c);
	memset(want + 160, 0, 256);
	memset(want + 576, 0, 256);
	same_image(f->c.v.s.xsave, want);
	fix_free(f);
}

TEST(native_fxrstor_outside_64_bit_mode_leaves_the_high_registers)
{
	struct fix *f = fix_new();
	u8 *image = guest(f, DATA), want[XSAVE_BYTES];
	static const u8 fxrstor[] = { 0x0f, 0xae, 0x0f }, xrstor[] = { 0x0f, 0xae, 0x2f };

	random_image(image);
	random_image(f->c.v.s.xsave);
	memcpy(want, f->c.v.s.xsave, sizeof want);
	memcpy(want, image, 288);
	f->c.v.s.gpr[RDI] = DATA;
	EQ(run_mode(f, fxrstor, sizeof fxrstor, MODE_32), EXC_NONE);
	fp_leave(&f->c);
	same_image(f->c.v.s.xsave, want);

	f->c.v.s.gpr[RAX] = 7;
	f->c.v.s.gpr[RDX] = 0;
	random_image(image);
	st64(image + 512, 5); /* SSE: initial */
	memcpy(want, image, 160);
	memset(want + 160, 0, 128);
	memcpy(want + 576, image + 576, 128);
	EQ(run_mode(f, xrstor, sizeof xrstor, MODE_32), EXC_NONE);
	fp_leave(&f->c);
	same_image(f->c.v.s.xsave, want);
	fix_free(f);
}

TEST(native_xrstor_outside_64_bit_mode_keeps_mxcsr_after_xsavec)
{
	struct fix *f = fix_new();
	u8 *image = guest(f, DATA);
	static const u8 xrstor[] = { 0x0f, 0xae, 0x2f };

	st32(f->c.v.s.xsave + FXSAVE_MXCSR_OFF, 0x1fa0);
	f->c.v.s.gpr[RDI] = DATA;
	f->c.v.s.gpr[RAX] = 7;
	f->c.v.s.gpr[RDX] = 0;
	EQ(RUN(f, "xsavec (rdi)"), EXC_NONE);
	memset(image, 0, XSAVE_BYTES);
	f->c.v.s.gpr[RAX] = 0; /* nothing is asked for, so nothing changes */
	EQ(run_mode(f, xrstor, sizeof xrstor, MODE_32), EXC_NONE);
	fp_leave(&f->c);
	EQ(ld32(f->c.v.s.xsave + FXSAVE_MXCSR_OFF), 0x1fa0);
	fix_free(f);
}

TEST(native_xsave_header_of_the_guests_never_reaches_the_hosts_xrstor)
{
	struct fix *f = fix_new();
	u8 *image = guest(f, DATA);
	static const u8 xrstor[] = { 0x0f, 0xae, 0x2f };

	f->c.v.s.gpr[RDI] = DATA;
	f->c.v.s.gpr[RAX] = 1;
	f->c.v.s.gpr[RDX] = 0;
	st64(image + XSAVE_HEADER_OFF, ~0ull);
	EQ(RUN(f, "xsave (rdi)"), EXC_NONE); /* leaves bits 1 to 63 of XSTATE_BV as they are */
	EQ(ld64(image + XSAVE_HEADER_OFF) | 1, ~0ull);
	memset(image, 0, XSAVE_BYTES);
	EQ(run_mode(f, xrstor, sizeof xrstor, MODE_32), EXC_NONE);
	fix_free(f);
}

TEST(native_control_registers_switch_units_off)
{
	struct fix *f = fix_new();
	struct cpu_state *s = &f->c.v.s;
	u64 cr0 = s->cr0, cr4 = s->cr4;

	s->cr0 = cr0 | CR0_TS;
	seg_refresh(&f->c);
	EQ(RUN(f, "addps xmm0, xmm1"), EXC_NM);
	EQ(RUN(f, "vaddps xmm0, xmm1, xmm1"), EXC_NM);
	EQ(RUN(f, "fld1"), EXC_NM);
	EQ(RUN(f, "paddb mm0, mm1"), EXC_NM);
	EQ(RUN(f, "fwait"), EXC_NM);
	EQ(RUN(f, "fxsave (rdi)"), EXC_NM);
	EQ(RUN(f, "xsave (rdi)"), EXC_NM);
	s->cr0 = cr0 | CR0_EM;
	seg_refresh(&f->c);
	EQ(RUN(f, "addps xmm0, xmm1"), EXC_UD);
	EQ(RUN(f, "fld1"), EXC_NM);
	EQ(RUN(f, "paddb mm0, mm1"), EXC_UD);
	EQ(RUN(f, "fwait"), EXC_NONE);
	s->cr0 = cr0;
	s->cr4 = cr4 & ~(u64)CR4_OSFXSR;
	seg_refresh(&f->c);
	EQ(RUN(f, "addps xmm0, xmm1"), EXC_UD);
	EQ(RUN(f, "paddb mm0, mm1"), EXC_NONE);
	s->cr4 = cr4 & ~(u64)CR4_OSXSAVE;
	seg_refresh(&f->c);
	EQ(RUN(f, "vaddps xmm0, xmm1, xmm1"), EXC_UD);
	EQ(RUN(f, "xsave (rdi)"), EXC_UD);
	s->cr4 = cr4;
	s->xcr0 = 3;
	seg_refresh(&f->c);
	EQ(RUN(f, "vaddps xmm0, xmm1, xmm1"), EXC_UD);
	fix_free(f);
}

TEST(native_full_stub_cache_starts_over)
{
	struct fix *f = fix_new();
	u8 code[] = { 0x66, 0x0f, 0x70, 0xc0, 0 }; /* pshufd xmm0, xmm0, imm */
	u32 gen = f->c.native->cache.gen;

	for (unsigned i = 0; i < 3 * 4096; i++) {
		code[3] = (u8)(0xc0 | (i >> 8 & 0x3f));
		code[4] = (u8)i;
		EQ(run_mode(f, code, sizeof code, MODE_64), EXC_NONE);
	}
	OK(f->c.native->cache.gen > gen);
	COMPARE(f, "pshufd $0x1b, xmm1, xmm2", DATA);
	fix_free(f);
}

TEST(native_masked_out_elements_do_not_fault)
{
	struct fix *f = fix_new();
	struct cpu_state *s = &f->c.v.s;
	u8 *xmm = s->xsave + FXSAVE_XMM_OFF;

	st64(s->xsave + XSAVE_HEADER_OFF, 7);
	memset(xmm, 0x80, 8); /* mask in xmm0: the low half */
	memset(xmm + 16, 0x11, 16); /* data in xmm1 */
	s->gpr[RDI] = HOLE - 8;
	EQ(RUN(f, "maskmovdqu xmm0, xmm1"), EXC_PF); /* this one wants all of it */
	s->gpr[RDI] = HOLE - 16;
	EQ(RUN(f, "maskmovdqu xmm0, xmm1"), EXC_NONE);
	EQ(ld64(guest(f, HOLE - 16)), 0x1111111111111111);
	EQ(ld64(guest(f, HOLE - 8)), 0);
	memset(guest(f, HOLE - 8), 0x11, 8);
	s->gpr[RDI] = HOLE - 8;
	EQ(RUN(f, "vmaskmovps (rdi), xmm0, xmm2"), EXC_NONE);
	fp_leave(&f->c);
	EQ(ld64(xmm + 32), 0x1111111111111111);
	EQ(ld64(xmm + 40), 0);
	EQ(RUN(f, "vpmaskmovq xmm1, xmm0, (rdi)"), EXC_NONE);
	fp_leave(&f->c);
	memset(xmm, 0x80, 16);
	EQ(RUN(f, "vmaskmovpd (rdi), xmm0, xmm2"), EXC_PF);
	EQ(f->c.exc.cr2, HOLE);
	fix_free(f);
}

TEST(native_gather_needs_an_index_register)
{
	static const u8 no_sib[] = { 0xc4, 0xe2, 0x59, 0x90, 0x00 },
			small_address[] = { 0x67, 0xc4, 0xe2, 0x59, 0x90, 0x04, 0x08 },
			same_registers[] = { 0xc4, 0xe2, 0x59, 0x90, 0x04, 0x00 };
	struct insn in;

	EQ(decode(&in, no_sib, sizeof no_sib, MODE_64), DECODE_UD);
	EQ(decode(&in, small_address, sizeof small_address, MODE_32), DECODE_UD);
	EQ(decode(&in, same_registers, sizeof same_registers, MODE_64), DECODE_UD);
}

TEST(native_gather_keeps_what_it_did_before_a_fault)
{
	struct fix *f = fix_new();
	struct cpu_state *s = &f->c.v.s;
	u8 *xmm = s->xsave + FXSAVE_XMM_OFF;

	st64(s->xsave + XSAVE_HEADER_OFF, 7);
	for (unsigned i = 0; i < 4; i++)
		st32(xmm + 16 + 4 * i, i); /* indices in xmm1 */
	st32(xmm + 32, 0x80000000); /* mask in xmm2: elements 0, 2, 3 */
	st64(xmm + 40, 0xffffffff80000000);
	memset(xmm, 0x77, 16); /* destination xmm0 */
	s->gpr[RDI] = HOLE - 12; /* element 3 lies in the hole */
	for (unsigned i = 0; i < 3; i++)
		st32(guest(f, HOLE - 12 + 4 * i), i + 100);
	EQ(RUN(f, "vpgatherdd xmm2, (rdi,xmm1,4), xmm0"), EXC_PF);
	EQ(f->c.exc.cr2, HOLE);
	fp_leave(&f->c);
	EQ(ld32(xmm), 100);
	EQ(ld32(xmm + 4), 0x77777777);
	EQ(ld32(xmm + 8), 102);
	EQ(ld32(xmm + 12), 0x77777777);
	EQ(ld32(xmm + 32) | ld32(xmm + 40), 0);
	EQ(ld32(xmm + 44) >> 31, 1);
	s->gpr[RDI] = DATA;
	EQ(RUN(f, "vpgatherdd xmm2, (rdi,xmm1,4), xmm0"), EXC_NONE);
	fp_leave(&f->c);
	EQ(ld32(xmm + 12), ld32(guest(f, DATA + 12)));
	EQ(ld32(xmm + 44), 0);
	fix_free(f);
}
