/* oracle_native.c - runs a case on the host: registers loaded, a jump to the code, registers saved.
 *
 * The code is followed by a jump back; whatever else happens arrives as a signal, whose frame holds
 * the registers.  Where the case has an FS base of its own or loads segment registers, ours is gone
 * meanwhile: exit path and handler take it back, in assembler, before any C runs.  By system call,
 * as the kernel may not allow WRFSBASE. */
#include "oracle_native.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

/* In data of its own, so that the assembler reaches it RIP-relative. */
struct native_context {
	struct regs r;
	u64 host_rsp, host_fs;
	u32 fp, segs, running;
	u32 own_bases; /* FS and GS base are the case's, and it may change them */
	u32 fsgsbase;
	bool ldt;
	u8 clean[832] __attribute__((aligned(64)));
};
struct native_context oracle_ctx;

_Static_assert(offsetof(struct regs, flags) == 128 && offsetof(struct regs, rip) == 136 &&
		       offsetof(struct regs, fs_base) == 144 &&
		       offsetof(struct regs, gs_base) == 152 && offsetof(struct regs, sel) == 160 &&
		       offsetof(struct regs, fx) == 192 &&
		       offsetof(struct native_context, host_rsp) == 1024 &&
		       offsetof(struct native_context, clean) == 1088,
	       "the assembler below knows these");

/* What the 32-bit way in loads; at LOW_STATE. */
struct low_state {
	u32 gpr[8], flags, rip;
};
enum { LOW_STATE = LOW + 4096, LOW_EXIT = LOW + 258 };

void oracle_enter(void);
void oracle_enter32(void);
extern const u8 oracle_low[], oracle_low_end[];
struct far_pointer {
	u32 off;
	u16 sel;
} __attribute__((packed));
const struct far_pointer oracle_far32 = { LOW, SEL_CS32 };
void oracle_exit(void);
void oracle_exit_fault(void);
void oracle_handler_entry(int sig, siginfo_t *si, void *ctx);

/* clang-format off */
#define C(off) "oracle_ctx+" #off "(%rip)"
#define ARCH_PRCTL_SET_FS "mov $0x1002, %edi; mov $158, %eax; syscall\n"
#define SAVE_BASES "rdfsbase %rax; mov %rax, " C(144) "; rdgsbase %rax; mov %rax, " C(152) "\n"
#define ENTRY                                                                                      \
	"push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"                       \
	"mov %rsp, " C(1024) "\n"                                                                  \
	"cmpl $0, " C(1040) "; je 1f\n" /* fp */                                                   \
	"mov $7, %eax; xor %edx, %edx; xrstor64 " C(192) "\n"
__asm__(".text\n"
	".globl oracle_enter, oracle_enter32, oracle_exit, oracle_exit_fault\n"
	".globl oracle_handler_entry, oracle_low, oracle_low_end\n"
	"oracle_enter:\n" ENTRY
	"1: cmpl $0, " C(1052) "; je 1f\n" /* own_bases */
	"mov " C(144) ", %rsi;" ARCH_PRCTL_SET_FS
	"1: pushq " C(128) "; popfq\n"
	"mov " C(8) ", %rcx; mov " C(16) ", %rdx; mov " C(24) ", %rbx; mov " C(32) ", %rsp\n"
	"mov " C(40) ", %rbp; mov " C(48) ", %rsi; mov " C(56) ", %rdi; mov " C(64) ", %r8\n"
	"mov " C(72) ", %r9; mov " C(80) ", %r10; mov " C(88) ", %r11; mov " C(96) ", %r12\n"
	"mov " C(104) ", %r13; mov " C(112) ", %r14; mov " C(120) ", %r15\n"
	"mov " C(0) ", %rax; jmp *" C(136) "\n"
	"oracle_enter32:\n" ENTRY
	"1: ljmp *oracle_far32(%rip)\n"
	".pushsection .rodata; .code32\n"
	"oracle_low:\n" /* is copied to LOW */
	"mov $0x5a5a1020, %esp; popfl\n"
	"mov 0x5a5a1000, %eax; mov 0x5a5a1004, %ecx; mov 0x5a5a1008, %edx\n"
	"mov 0x5a5a100c, %ebx; mov 0x5a5a1010, %esp; mov 0x5a5a1014, %ebp\n"
	"mov 0x5a5a1018, %esi; mov 0x5a5a101c, %edi; jmp *0x5a5a1024\n"
	"oracle_low_end: .code64; .popsection\n"
	"oracle_exit:\n"
	"mov %rax, " C(0) "; mov %rcx, " C(8) "; mov %rdx, " C(16) "; mov %rbx, " C(24) "\n"
	"mov %rsp, " C(32) "; mov %rbp, " C(40) "; mov %rsi, " C(48) "; mov %rdi, " C(56) "\n"
	"mov %r8, " C(64) "; mov %r9, " C(72) "; mov %r10, " C(80) "; mov %r11, " C(88) "\n"
	"mov %r12, " C(96) "; mov %r13, " C(104) "; mov %r14, " C(112) "; mov %r15, " C(120) "\n"
	"mov " C(1024) ", %rsp; pushfq; popq " C(128) "; pushq $2; popfq\n"
	"mov %es, " C(160) "; mov %cs, " C(162) "; mov %ss, " C(164) "; mov %ds, " C(166) "\n"
	"mov %fs, " C(168) "; mov %gs, " C(170) "\n"
	"cmpl $0, " C(1056) "; je oracle_exit_fault\n" /* fsgsbase */
	SAVE_BASES
	"oracle_exit_fault:\n" /* registers are saved, RSP is ours */
	"cmpl $0, " C(1044) "; je 1f\n" /* segs */
	"mov $0x2b, %eax; mov %eax, %es; mov %eax, %ds\n"
	"xor %eax, %eax; mov %eax, %fs; mov %eax, %gs\n"
	"1: cmpl $0, " C(1052) "; je 1f\n"
	"mov " C(1032) ", %rsi;" ARCH_PRCTL_SET_FS
	"1: cmpl $0, " C(1040) "; je 1f\n"
	"mov $7, %eax; xor %edx, %edx; xsave64 " C(192) "; xrstor64 " C(1088) "\n"
	"1: pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
	"oracle_handler_entry:\n"
	"cmpl $0, " C(1048) "; je oracle_handler\n" /* running */
	"cmpl $0, " C(1052) "; je oracle_handler\n"
	"mov %es, " C(160) "; mov %ds, " C(166) "; mov %fs, " C(168) "; mov %gs, " C(170) "\n"
	"push %rdi; push %rsi; push %rdx; cmpl $0, " C(1056) "; je 1f\n"
	SAVE_BASES
	"1: mov " C(1032) ", %rsi;" ARCH_PRCTL_SET_FS
	"pop %rdx; pop %rsi; pop %rdi; jmp oracle_handler\n");
/* clang-format on */

u8 *native_data;
static u8 *native_code;
static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
static struct sigaction chained[ARRAY_LEN(signals)];

static void oracle_take_frame(const greg_t *g)
{
	static const int order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				       REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
				       REG_R12, REG_R13, REG_R14, REG_R15 };
	struct regs *r = &oracle_ctx.r;

	for (unsigned i = 0; i < 16; i++)
		r->gpr[i] = (u64)g[order[i]];
	r->flags = (u64)g[REG_EFL];
	r->rip = (u64)g[REG_RIP];
	r->sel[1] = (u16)g[REG_CSGSFS];
	r->sel[2] = (u16)((u64)g[REG_CSGSFS] >> 48);
	r->vector = (u32)g[REG_TRAPNO];
	r->error = (u32)g[REG_ERR];
	r->cr2 = (u64)g[REG_CR2];
}

/* Called with our FS base; nothing of the frame's registers is ours but the stack. */
__attribute__((used)) void oracle_handler(int sig, siginfo_t *si, void *ctx)
{
	greg_t *g = ((ucontext_t *)ctx)->uc_mcontext.gregs;

	if (!oracle_ctx.running) {
		for (unsigned i = 0; i < ARRAY_LEN(signals); i++)
			if (signals[i] == sig && chained[i].sa_flags & SA_SIGINFO)
				return chained[i].sa_sigaction(sig, si, ctx);
		signal(sig, SIG_DFL);
		return;
	}
	oracle_ctx.running = 0;
	oracle_take_frame(g);
	g[REG_RIP] = (greg_t)oracle_exit_fault;
	g[REG_RSP] = (greg_t)oracle_ctx.host_rsp;
	g[REG_EFL] = 0x202;
	g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xffffll) | SEL_CS64;
}

static void *map_at(u64 at, u64 len, int prot, int flags, int fd)
{
	void *p = mmap((void *)at, len, prot, flags | (at ? MAP_FIXED_NOREPLACE : 0), fd, 0);

	if (p == MAP_FAILED) {
		perror("oracle: mmap");
		exit(2);
	}
	return p;
}

static void native_map(void)
{
	int fd = memfd_create("oracle-data", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, DATA_PAGES * PAGE_SIZE) < 0) {
		perror("oracle: memfd");
		exit(2);
	}
	native_data = map_at(0, DATA_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	map_at(DATA, DATA_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	mprotect((void *)(u64)DATA_RO, PAGE_SIZE, PROT_READ);
	if (mlock((void *)(u64)DATA, DATA_END - DATA) <
	    0) /* present, so that error codes show it */
		for (u64 at = DATA; at < DATA_END; at += PAGE_SIZE)
			(void)*(volatile u8 *)at;
	close(fd);
	native_code = map_at(CODE, CODE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memset(native_code, FILL_NATIVE, CODE_BYTES);
}

/* JMP [RIP+0]: to anywhere from 64-bit code. */
static void put_jump(u8 *at, const void *to)
{
	static const u8 jmp[6] = { 0xff, 0x25 };

	memcpy(at, jmp, sizeof jmp);
	st64(at + 6, (u64)to);
}

static void native_map_low(void)
{
	u8 *low = map_at(LOW, LOW_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1);

	memcpy(low, oracle_low, (u64)(oracle_low_end - oracle_low));
	put_jump(low + (LOW_EXIT - LOW), oracle_exit);
}

void native_side_probe(void)
{
	struct user_desc d = {
		.limit = 0xfffff,
		.seg_32bit = 1,
		.contents = 2,
		.limit_in_pages = 1,
		.useable = 1,
	};
	u32 attr = 0;

	/* LAR is asked, since a paravirtual host may have an LDT in name only. */
	syscall(SYS_modify_ldt, 1, &d, sizeof d);
	__asm__("lar %2, %0; setz %1" : "+r"(attr), "=q"(oracle_ctx.ldt) : "r"(SEL_CS32) : "cc");
	oracle_ctx.fsgsbase = getauxval(AT_HWCAP2) >> 1 & 1; /* HWCAP2_FSGSBASE */
}

bool native_side_has_32bit(void)
{
	return oracle_ctx.ldt;
}

bool native_side_has_fsgsbase(void)
{
	return oracle_ctx.fsgsbase;
}

void native_side_init(void)
{
	struct sigaction sa = { .sa_sigaction = oracle_handler_entry,
				.sa_flags = SA_SIGINFO | SA_ONSTACK };

	native_map();
	native_map_low();
	for (unsigned i = 0; i < ARRAY_LEN(signals); i++)
		sigaction(signals[i], &sa, &chained[i]);
	syscall(SYS_arch_prctl, ARCH_GET_FS, &oracle_ctx.host_fs);
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(SEL_DATA));
	st16(oracle_ctx.clean, 0x37f);
	st32(oracle_ctx.clean + 24, 0x1f80);
}

/* The code, and behind it the way back, as much of it as there is room for. */
static unsigned put_code(const struct native_case *t)
{
	u8 *at = native_code + (t->start->rip - CODE), back[14] = { 0xea, 0, 0, 0, 0, SEL_CS64 };
	unsigned room = (unsigned)(CODE_END - t->start->rip), n = MIN(t->len, room);
	unsigned tail = t->mode32 ? 7 : sizeof back;

	if (t->mode32)
		st32(back + 1, LOW_EXIT); /* JMP FAR */
	else
		put_jump(back, oracle_exit);
	memcpy(at, t->code, n);
	memcpy(at + n, back, MIN(tail, room - n));
	return n + MIN(tail, room - n);
}

static void enter32(const struct native_case *t)
{
	struct low_state *s = (void *)(u64)LOW_STATE;

	for (unsigned i = 0; i < 8; i++)
		s->gpr[i] = (u32)t->start->gpr[i];
	s->flags = (u32)t->start->flags;
	s->rip = (u32)t->start->rip;
	oracle_enter32();
}

/* A trap where a jump landed, or at the end of what is mapped, is not the instruction's. */
static void native_completed(const struct native_case *t, struct regs *r)
{
	if (r->vector == VECTOR_BP && r->rip > CODE && r->rip <= CODE_END &&
	    native_code[r->rip - 1 - CODE] == FILL_NATIVE && r->rip - 1 != t->start->rip) {
		r->rip--;
		r->vector = VECTOR_NONE;
	} else if (r->rip != t->start->rip &&
		   ((r->vector == VECTOR_PF && r->cr2 == r->rip) ||
		    (r->vector == VECTOR_AC && r->rip == t->start->rip + t->len))) {
		r->vector =
			VECTOR_NONE; /* nothing to fetch; or our own jump's pointer, misaligned */
	}
}

void native_side_run(const struct native_case *t, struct regs *out)
{
	struct native_context *x = &oracle_ctx;
	unsigned n = put_code(t);
	u64 gs = 0; /* the translator's */

	memcpy(&x->r, t->start, offsetof(struct regs, fx));
	if (t->fp)
		memcpy(x->r.fx, t->start->fx, sizeof x->r.fx);
	x->r.vector = VECTOR_NONE;
	x->fp = t->fp;
	x->segs = t->segs;
	x->own_bases = t->own_bases || t->segs;
	if (x->own_bases) {
		syscall(SYS_arch_prctl, ARCH_GET_GS, &gs);
		syscall(SYS_arch_prctl, ARCH_SET_GS, t->start->gs_base);
	}
	x->running = 1;
	if (t->mode32)
		enter32(t);
	else
		oracle_enter();
	x->running = 0;
	if (x->own_bases)
		syscall(SYS_arch_prctl, ARCH_SET_GS, gs);
	if (x->r.vector == VECTOR_NONE) {
		x->r.rip = t->start->rip + t->len;
		x->r.sel[1] = t->mode32 ? SEL_CS32 : SEL_CS64; /* the way back is 64-bit code */
	} else {
		native_completed(t, &x->r);
	}
	memcpy(out, &x->r, t->fp ? sizeof *out : offsetof(struct regs, fx));
	memset(native_code + (t->start->rip - CODE), FILL_NATIVE, n);
}

bool jobs_run(unsigned n, void (*job)(void *arg, unsigned i), void *arg)
{
	unsigned cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	bool ok = true;
	int status;

	for (unsigned i = 0; i < n; i++)
		if (fork() == 0) {
			cpu_set_t set;

			CPU_ZERO(&set);
			CPU_SET((unsigned)(sched_getcpu() + (int)i) % cpus, &set);
			sched_setaffinity(0, sizeof set,
					  &set); /* LSL knows the processor's number */
			job(arg, i);
			exit(0);
		}
	while (wait(&status) > 0)
		if (!WIFEXITED(status) || WEXITSTATUS(status)) {
			printf("a job died: status %#x\n", (unsigned)status);
			ok = false;
		}
	return ok;
}
