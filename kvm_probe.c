/* kvm_probe.c - is there hardware behind /dev/kvm?  Some hosts offer a KVM that emulates: it
 * opens, has every capability and then runs a kernel a hundred times slower than our own CPU, or
 * not at all.
 *
 * A throw-away VM with one vCPU tries what such hosts cannot do, cheapest first, and stops at the
 * first failure: an SSE instruction in ring 0, reading CS back, SYSCALL from ring 3, and a loop
 * against the clock.  Neither CPU flags nor capabilities are asked: they lie.  Main thread, at
 * set-up. */
#include "kvm_priv.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { API_VERSION = 12, EXITS_MAX = 4, LOOP_ROUNDS = 3, LOOP_INSNS = 4000 };
#define LOOP_SLOWEST_NS 400000 /* 10 million instructions a second; hardware does hundreds */

/* Guest memory: one table for each level of paging, then the code, which is at CODE too. */
enum { PML4 = 0, PDPT = 0x1000, PD = 0x2000, CODE = 0x4000, MEM_BYTES = 0x8000 };
enum { PAGE_USER_RW = 7, PAGE_LARGE = 0x80 };
enum { SEL_CODE0 = 0x08, SEL_DATA0 = 0x10, SEL_DATA3 = 0x1b, SEL_CODE3 = 0x23, DONE_PORT = 0xf0 };

/* Each piece ends with an OUT that carries its result in EAX. */
__asm__("	.pushsection .rodata.kvm_probe, \"a\", @progbits\n"
	"	.globl kvm_probe_code, kvm_probe_cs, kvm_probe_user, kvm_probe_entry, "
	"kvm_probe_loop, kvm_probe_end\n"
	"	.hidden kvm_probe_code, kvm_probe_cs, kvm_probe_user, kvm_probe_entry, "
	"kvm_probe_loop, kvm_probe_end\n"
	"kvm_probe_code:\n"
	"	mov $0x1234, %eax\n"
	"	movq %rax, %xmm0\n"
	"	xor %eax, %eax\n"
	"	movq %xmm0, %rax\n"
	"	out %eax, $0xf0\n"
	"kvm_probe_cs:\n"
	"	mov %cs, %eax\n"
	"	out %eax, $0xf0\n"
	"kvm_probe_user:\n"
	"	syscall\n"
	"	ud2\n"
	"kvm_probe_entry:\n" /* where SYSCALL goes */
	"	mov %cs, %eax\n"
	"	out %eax, $0xf0\n"
	"kvm_probe_loop:\n"
	"	mov $2000, %ecx\n"
	"1:	dec %ecx\n"
	"	jnz 1b\n"
	"	xor %eax, %eax\n"
	"	out %eax, $0xf0\n"
	"kvm_probe_end:\n"
	"	.popsection\n");

extern const u8 kvm_probe_code[], kvm_probe_cs[], kvm_probe_user[], kvm_probe_entry[],
	kvm_probe_loop[];
extern const u8 kvm_probe_end[];

struct probe {
	int dev, vm, cpu;
	struct kvm_run *run;
	size_t run_bytes;
	u8 *mem;
};

static u64 probe_at(const u8 *label)
{
	return CODE + (uintptr_t)label - (uintptr_t)kvm_probe_code;
}

static struct kvm_segment probe_segment(u16 sel, u8 type, bool code)
{
	return (struct kvm_segment){ .limit = 0xffffffff,
				     .selector = sel,
				     .type = type,
				     .s = 1,
				     .present = 1,
				     .dpl = sel & 3,
				     .l = code,
				     .db = !code,
				     .g = 1 };
}

/* Long mode at label, in the ring of the selectors. */
static bool probe_set(struct probe *p, const u8 *label, u16 code, u16 data)
{
	struct kvm_sregs s;
	struct kvm_regs r = { .rip = probe_at(label), .rflags = 2, .rsp = MEM_BYTES };
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[3];
	} m = { .head.nmsrs = 3,
		.entry = { { .index = 0xc0000081,
			     .data = (u64)SEL_DATA0 << 48 | (u64)SEL_CODE0 << 32 },
			   { .index = 0xc0000082, .data = probe_at(kvm_probe_entry) },
			   { .index = 0xc0000084, .data = 0x200 } } };

	if (ioctl(p->cpu, KVM_GET_SREGS, &s) < 0)
		return false;
	s.cs = probe_segment(code, 0xb, true);
	s.ds = s.es = s.ss = s.fs = s.gs = probe_segment(data, 3, false);
	s.cr0 = 0x80000011;
	s.cr3 = PML4;
	s.cr4 = 0x220; /* PAE, OSFXSR */
	s.efer = 0x501; /* SYSCALL, long mode */
	return ioctl(p->cpu, KVM_SET_SREGS, &s) == 0 && ioctl(p->cpu, KVM_SET_REGS, &r) == 0 &&
	       ioctl(p->cpu, KVM_SET_MSRS, &m) == 3;
}

/* Run to the piece's OUT; what it said, or -1. */
static s64 probe_run(struct probe *p)
{
	for (int i = 0; i < EXITS_MAX; i++) {
		if (ioctl(p->cpu, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			return -1;
		}
		if (p->run->exit_reason == KVM_EXIT_IO && p->run->io.port == DONE_PORT)
			return ld32((u8 *)p->run + p->run->io.data_offset);
		if (p->run->exit_reason != KVM_EXIT_INTR)
			return -1;
	}
	return -1;
}

static s64 probe_piece(struct probe *p, const u8 *label, u16 code, u16 data)
{
	return probe_set(p, label, code, data) ? probe_run(p) : -1;
}

static u64 thread_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (u64)t.tv_sec * NS_PER_SEC + (u64)t.tv_nsec;
}

static bool probe_is_fast(struct probe *p)
{
	for (int i = 0; i < LOOP_ROUNDS; i++) {
		u64 from;

		if (!probe_set(p, kvm_probe_loop, SEL_CODE0, SEL_DATA0))
			return false;
		from = thread_ns();
		if (probe_run(p) == 0 && thread_ns() - from < LOOP_SLOWEST_NS)
			return true;
	}
	return false;
}

static enum kvm_verdict probe_judge(struct probe *p, char *why, size_t n)
{
	const char *what = NULL;

	if (probe_piece(p, kvm_probe_code, SEL_CODE0, SEL_DATA0) != 0x1234)
		what = "kernel code with SSE instructions does not run";
	else if (probe_piece(p, kvm_probe_cs, SEL_CODE0, SEL_DATA0) != SEL_CODE0)
		what = "kernel code sees another CS than it loaded";
	else if (probe_piece(p, kvm_probe_user, SEL_CODE3, SEL_DATA3) != SEL_CODE0)
		what = "SYSCALL does not reach ring 0";
	else if (!probe_is_fast(p))
		what = "kernel code runs far too slowly";
	if (!what) {
		snprintf(why, n, "/dev/kvm works and has hardware behind it");
		return KVM_HARDWARE;
	}
	snprintf(why, n, "/dev/kvm has no virtualisation hardware behind it (%s)", what);
	return KVM_EMULATED;
}

static void probe_fill(struct probe *p)
{
	st64(p->mem + PML4, PDPT + PAGE_USER_RW);
	st64(p->mem + PDPT, PD + PAGE_USER_RW);
	st64(p->mem + PD, PAGE_LARGE + PAGE_USER_RW);
	memcpy(p->mem + CODE, kvm_probe_code, probe_at(kvm_probe_end) - CODE);
}

/* The CPUID that SYSCALL and long mode need is whatever this KVM supports. */
static bool probe_cpuid(struct probe *p)
{
	enum { ENTRIES = 256 };
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[ENTRIES];
	} list;

	list.head.nent = ENTRIES;
	return ioctl(p->dev, KVM_GET_SUPPORTED_CPUID, &list) == 0 &&
	       ioctl(p->cpu, KVM_SET_CPUID2, &list) == 0;
}

/* NULL, or what failed. */
static const char *probe_build(struct probe *p)
{
	struct kvm_userspace_memory_region slot = { .memory_size = MEM_BYTES };
	int bytes;

	do
		p->vm = ioctl(p->dev, KVM_CREATE_VM, 0);
	while (p->vm < 0 && errno == EINTR);
	if (p->vm < 0)
		return "cannot create a VM";
	p->mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->mem == MAP_FAILED)
		return "no memory";
	probe_fill(p);
	slot.userspace_addr = (uintptr_t)p->mem;
	if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return "refuses memory";
	p->cpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
	bytes = ioctl(p->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (p->cpu < 0 || bytes < (int)sizeof *p->run)
		return "cannot create a vCPU";
	p->run_bytes = (size_t)bytes;
	p->run = mmap(NULL, p->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->cpu, 0);
	if (p->run == MAP_FAILED)
		return "cannot map a vCPU";
	return probe_cpuid(p) ? NULL : "does not tell its CPUID";
}

static void probe_free(struct probe *p)
{
	if (p->run != MAP_FAILED)
		munmap(p->run, p->run_bytes);
	if (p->mem != MAP_FAILED)
		munmap(p->mem, MEM_BYTES);
	if (p->cpu >= 0)
		close(p->cpu);
	if (p->vm >= 0)
		close(p->vm);
	close(p->dev);
}

enum kvm_verdict kvm_probe(char *why, size_t n)
{
	struct probe p = { .dev = -1, .vm = -1, .cpu = -1, .run = MAP_FAILED, .mem = MAP_FAILED };
	enum kvm_verdict verdict = KVM_NONE;
	const char *what;

	p.dev = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (p.dev < 0) {
		snprintf(why, n, "no KVM: /dev/kvm %s",
			 errno == ENOENT   ? "is not there"
			 : errno == EACCES ? "may not be opened (join the group kvm)"
					   : strerror(errno));
		return KVM_NONE;
	}
	if (ioctl(p.dev, KVM_GET_API_VERSION, 0) != API_VERSION) {
		snprintf(why, n, "no KVM: /dev/kvm is not KVM's API 12");
		close(p.dev);
		return KVM_NONE;
	}
	what = probe_build(&p);
	if (what)
		snprintf(why, n, "no KVM: /dev/kvm opens, but %s (%s)", what, strerror(errno));
	else
		verdict = probe_judge(&p, why, n);
	probe_free(&p);
	return verdict;
}
