/* oracle.c - `mvm-oracle [-n CASES | -t SECONDS | -e] [-s SEED] [-r ROW] [-p] [-j JOBS]
 * [-d DIFFERENCES] [-v]`: see oracle.h.  -e goes on until a case differs, -p makes programs only.
 *
 * Prints the rows never compared with the reason, and ends with `N passed, N failed, N skipped`,
 * counted in rows; exit status 1 if a case differs or, where cases are counted, a row was not
 * compared without a reason. */
#include "oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ROWS_MAX = 4096, TRIES = 200 };
enum kind { SINGLE, SEQUENCE, PROGRAM, KINDS };

struct options {
	u64 cases, seed;
	u64 seconds; /* 0: count cases */
	const char *row;
	unsigned jobs, reports;
	bool verbose, programs, endless;
};

/* Shared by the jobs. */
struct tally {
	u64 compared[ROWS_MAX], failed[ROWS_MAX], undefined[ROWS_MAX], faults[ROWS_MAX];
	u64 differences;
	u64 cases[KINDS], faulted[KINDS];
	u64 fickle; /* the host gave another answer when asked again */
	u64 unwitnessed; /* 32-bit cases on a host that cannot run them */
};
static struct tally *tally;

/* --- comparing -------------------------------------------------------------------------------- */
/* Bytes of the x87 environment that a processor may leave out or keep in its own way: FIP, FDP, FOP
 * and the selectors.  Blanked on both sides before memory is compared. */
static void blank(u64 lin, unsigned off, unsigned n)
{
	if (lin >= DATA && lin + off + n <= DATA_END) {
		memset(native_data + (lin + off - DATA), 0, n);
		memset(guest_data + (lin + off - DATA), 0, n);
	}
}

static u64 operand_lin(const struct test_case *t)
{
	const struct insn *in = &t->in;
	const u64 *gpr = t->start.gpr;
	u64 ea = insn_disp(in);

	if (in->base == REG_RIP)
		ea += t->start.rip + t->len;
	else if (in->base != REG_NONE)
		ea += gpr[in->base];
	if (in->index != REG_NONE)
		ea += gpr[in->index] << in->scale;
	ea &= addr_mask(in);
	return ea + (in->seg == SEG_FS	 ? t->start.fs_base
		     : in->seg == SEG_GS ? t->start.gs_base
					 : 0);
}

static void blank_free_bytes(const struct test_case *t, const struct regs *host)
{
	insn_fn fn = t->row->cls == CLS_SELF ? t->row->exec.self : NULL;
	u64 lin = fn ? operand_lin(t) : 0;

	if (fn == exec_FXSAVE || fn == exec_XSAVE || fn == exec_XSAVEC || fn == exec_XSAVEOPT)
		blank(lin, 6, 18);
	if (fn == exec_FNSTENV || fn == exec_FNSAVE)
		blank(lin, t->in.size == 2 ? 6 : 12, t->in.size == 2 ? 8 : 16);
	/* Translated code has stored the return address before it finds the target bad. */
	if (fn == exec_CALL && t->how >= HOW_TRANSLATED && host->vector != EXC_NONE)
		blank(t->start.gpr[RSP] - 8, 0, 8);
}

static bool same_memory(void)
{
	const u64 *a = (const u64 *)native_data, *b = (const u64 *)guest_data;
	u64 diff = 0;

	for (unsigned i = 0; i < (DATA_END - DATA) / 8; i++)
		diff |= a[i] ^ b[i];
	return !diff;
}

static bool same_fp(const u8 *a, const u8 *b)
{
	return !memcmp(a, b, 5) && ld32(a + 24) == ld32(b + 24) && !memcmp(a + 32, b + 32, 384) &&
	       !memcmp(a + XSAVE_YMM_OFF, b + XSAVE_YMM_OFF, 256);
}

static const struct seq_point *point_at(const struct test_case *t, u64 rip)
{
	for (unsigned i = 0; i < t->points; i++)
		if (t->start.rip + t->point[i].at == rip)
			return &t->point[i];
	return NULL;
}

/* The flags that count: all but those that are undefined.  A fault changes none. */
static u64 flags_mask(const struct test_case *t, const struct regs *host)
{
	u64 all = FL_ARITH | FL_DF | FL_AC | FL_ID | FL_NT | FL_IF | FL_IOPL;
	const struct seq_point *p = point_at(t, host->rip);

	if (host->vector == EXC_NONE)
		return all & ~t->undef;
	if (!p)
		return host->rip == t->start.rip ? all : all & ~(u64)FL_ARITH;
	return all & ~(u64)p->undef;
}

/* Linux says "present" of every address it keeps from user space. */
static bool same_error(const struct regs *host, const struct regs *guest)
{
	u32 hidden = host->vector == EXC_PF && host->cr2 >= 0x7ffffffff000 ? PF_P : 0;

	return (host->error | hidden) == (guest->error | hidden);
}

/* An instruction with several accesses or a large one may find what is wrong in any order. */
static bool order_is_free(const struct test_case *t, u64 rip)
{
	static const insn_fn list[] = { exec_IRET,     exec_RET_FAR, exec_CALL_FAR, exec_JMP_FAR,
					exec_CALL,     exec_MASKMOVDQU,
					exec_MASKMOVQ, exec_LSS,     exec_LFS,	exec_LGS,
					exec_LDS,      exec_LES };
	const struct seq_point *p = point_at(t, rip);
	struct insn in = t->in;
	const struct opd *o;

	if (p)
		decode(&in, t->code + p->at, 15, t->in.mode);
	o = &in.opd[in.opd[0].kind != OPD_MEM];
	for (unsigned i = 0; i < ARRAY_LEN(list); i++)
		if (in.op->cls == CLS_SELF && in.op->exec.self == list[i])
			return true;
	return o->kind == OPD_MEM && (!o->size || o->size & (o->size - 1));
}

static bool is_access_fault(u32 vector)
{
	return vector == EXC_PF || vector == EXC_GP || vector == EXC_SS || vector == EXC_AC;
}

/* In 32-bit code the upper halves mean nothing. */
static bool same_gprs(const struct test_case *t, const struct regs *host, const struct regs *guest)
{
	if (t->in.mode == MODE_64)
		return !memcmp(host->gpr, guest->gpr, sizeof host->gpr);
	for (unsigned i = 0; i < 8; i++)
		if ((u32)host->gpr[i] != (u32)guest->gpr[i])
			return false;
	return true;
}

/* A null selector's low bits: the host kernel need not keep them. */
static bool same_selectors(const struct regs *host, const struct regs *guest)
{
	for (unsigned i = 0; i < SEG_NR; i++)
		if (host->sel[i] != guest->sel[i] && (host->sel[i] > 3 || guest->sel[i] > 3))
			return false;
	return true;
}

/* What differs, or NULL. */
static const char *difference(const struct test_case *t, const struct regs *host,
			      const struct regs *guest)
{
	if (order_is_free(t, host->rip) && is_access_fault(host->vector) &&
		is_access_fault(guest->vector))
		return same_memory() ? NULL : "memory";
	if (host->vector != guest->vector)
		return "exception";
	if (host->rip != guest->rip)
		return "rip";
	if (host->vector != EXC_NONE && !(host->vector == EXC_PF && order_is_free(t, host->rip))) {
		if (!same_error(host, guest))
			return "error code";
		if (host->vector == EXC_PF && host->cr2 != guest->cr2)
			return "cr2";
	}
	if (!same_gprs(t, host, guest))
		return "registers";
	if ((host->flags ^ guest->flags) & flags_mask(t, host))
		return "flags";
	if (native_side_has_fsgsbase() && t->own_bases && !t->segs &&
	    (host->fs_base != guest->fs_base || host->gs_base != guest->gs_base))
		return "fs or gs base";
	if (t->segs && host->vector == EXC_NONE && !same_selectors(host, guest))
		return "selectors";
	if (t->fp && !same_fp(host->fx, guest->fx))
		return "fp state";
	return same_memory() ? NULL : "memory";
}

static const char *const how[] = { "interp_one", "block", "translator", "block, then translator" };

/* --- reporting -------------------------------------------------------------------------------- */
static void print_regs(const char *who, const struct regs *r, const struct regs *other)
{
	static const char *const name[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
					      "rsi", "rdi", "r8",  "r9",  "r10", "r11",
					      "r12", "r13", "r14", "r15" };

	printf("  %s: rip %#llx flags %#llx", who, (unsigned long long)r->rip,
	       (unsigned long long)r->flags);
	if (r->vector != EXC_NONE)
		printf(" vector %u error %#x cr2 %#llx", r->vector, r->error,
		       (unsigned long long)r->cr2);
	for (unsigned i = 0; i < 16; i++)
		printf("%s%s%s %016llx", i % 4 ? "  " : "\n    ", name[i],
		       r->gpr[i] == other->gpr[i] ? " " : "!", (unsigned long long)r->gpr[i]);
	putchar('\n');
}

static void print_bytes_that_differ(const char *what, const u8 *a, const u8 *b, unsigned n,
				    unsigned max)
{
	for (unsigned i = 0; i < n && max; i++)
		if (a[i] != b[i]) {
			printf("  %s+%#x: host %02x, guest %02x\n", what, i, a[i], b[i]);
			max--;
		}
}

static void print_code(const struct test_case *t)
{
	char text[96];
	struct insn in;

	for (unsigned at = 0; at < t->len; at += in.len) {
		if (decode(&in, t->code + at, 15, t->in.mode) <= 0)
			break;
		decode_text(&in, t->start.rip + at, text, sizeof text);
		printf("  %#llx  %s\n", (unsigned long long)t->start.rip + at, text);
	}
	printf(" by %s, %s:", how[t->how], t->in.mode == MODE_64 ? "64-bit" : "32-bit");
	for (unsigned i = 0; i < t->len; i++)
		printf(" %02x", t->code[i]);
	putchar('\n');
}

static void report(const struct test_case *t, const char *what, const struct regs *host,
		   const struct regs *guest)
{
	printf("DIFFERENCE in %s: %s (row %u)\n", what, t->row->name, (unsigned)(t->row - op_rows));
	print_code(t);
	print_regs("before", &t->start, &t->start);
	print_regs("host  ", host, guest);
	print_regs("guest ", guest, host);
	if (t->segs)
		for (unsigned i = 0; i < SEG_NR; i++)
			printf("  sel[%u] host %x guest %x\n", i, host->sel[i], guest->sel[i]);
	if (t->fp)
		printf("  before: fcw %04x fsw %04x ftw %02x mxcsr %04x xstate_bv %x\n",
		       ld16(t->start.fx), ld16(t->start.fx + 2), t->start.fx[4],
		       ld32(t->start.fx + 24), t->start.fx[512]);
	if (t->fp)
		print_bytes_that_differ("fx", host->fx, guest->fx, XSAVE_BYTES, 24);
	print_bytes_that_differ("data", native_data, guest_data, DATA_END - DATA, 24);
	fflush(stdout);
}

/* --- running ---------------------------------------------------------------------------------- */
static void failed(const struct test_case *t, const struct options *o, const char *what,
		   const struct regs *host, const struct regs *guest)
{
	unsigned row = (unsigned)(t->row - op_rows);

	if (__atomic_fetch_add(&tally->failed[row], 1, __ATOMIC_RELAXED) <
		    (o->row || t->points ? o->reports : 2) &&
	    __atomic_fetch_add(&tally->differences, 1, __ATOMIC_RELAXED) < o->reports)
		report(t, what, host, guest);
	memcpy(guest_data, native_data, DATA_END - DATA);
}

static u8 before[DATA_END - DATA]; /* what memory holds before a case */

static void run_native(const struct test_case *t, struct regs *host)
{
	native_side_run(&(struct native_case){ t->code, t->len, t->fp, t->segs, t->own_bases,
					       t->in.mode != MODE_64, &t->start },
			host);
}

/* The host cannot run it: the interpreter, one instruction after the other, is what the other ways
 * are compared with. */
static void run_alone(struct test_case *t, struct regs *host)
{
	t->how = HOW_ONE;
	guest_side_run(t, host);
	memcpy(native_data, guest_data, DATA_END - DATA);
}

static bool is_alone(const struct test_case *t)
{
	return t->in.mode != MODE_64 && !native_side_has_32bit();
}

/* The software CPU's turn, in the way t->how; what differs. */
static const char *run_guest(const struct test_case *t, const struct options *o,
			     const struct regs *host, struct regs *guest)
{
	if (o->verbose) {
		print_code(t);
		fflush(stdout);
	}
	guest_side_run(t, guest);
	blank_free_bytes(t, host);
	return difference(t, host, guest);
}

/* A host that is a virtual machine itself has been seen to raise an exception out of nowhere, once
 * in a million cases: it is asked again.  The software CPU is not. */
static const char *ask_again(const struct test_case *t, struct regs *host, const struct regs *guest)
{
	const char *what;

	memcpy(native_data, before, sizeof before);
	run_native(t, host);
	blank_free_bytes(t, host);
	what = difference(t, host, guest);
	if (!what)
		__atomic_fetch_add(&tally->fickle, 1, __ATOMIC_RELAXED);
	return what;
}

static void compare(const struct test_case *t, const struct options *o, struct regs *host)
{
	static struct regs guest;
	const char *what = run_guest(t, o, host, &guest);

	if (what && !is_alone(t))
		what = ask_again(t, host, &guest);
	if (what)
		failed(t, o, what, host, &guest);
	else if (!t->points && t->how < HOW_TRANSLATED && (host->flags ^ guest.flags) & FL_ARITH)
		__atomic_fetch_add(&tally->undefined[t->row - op_rows], 1, __ATOMIC_RELAXED);
}

static void run_case(struct test_case *t, enum kind kind, const struct options *o)
{
	static struct regs host;
	bool alone = is_alone(t);

	memcpy(before, native_data, sizeof before);
	if (alone)
		run_alone(t, &host);
	else
		run_native(t, &host);
	__atomic_fetch_add(&tally->cases[kind], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&tally->faulted[kind], host.vector != EXC_NONE, __ATOMIC_RELAXED);
	if (alone)
		__atomic_fetch_add(&tally->unwitnessed, 1, __ATOMIC_RELAXED);
	else if (kind == SINGLE)
		__atomic_fetch_add(&tally->compared[t->row - op_rows], 1, __ATOMIC_RELAXED);
	if (kind != PROGRAM && !alone) {
		compare(t, o, &host);
		return;
	}
	for (t->how = 0; t->how < HOWS; t->how++) { /* all ways, from the same memory */
		memcpy(guest_data, before, sizeof before);
		compare(t, o, &host);
	}
}

static bool row_wanted(const struct op *row, const struct options *o, enum cpu_mode mode)
{
	return !gen_skip_reason(row, mode) && (!o->row || !strcmp(o->row, row->name));
}

/* Why in neither mode, or NULL. */
static const char *skip_reason(const struct op *row)
{
	const char *why = gen_skip_reason(row, MODE_64), *why32 = gen_skip_reason(row, MODE_32);

	if (!why32 && !native_side_has_32bit())
		why32 = "the host has no 32-bit code segment for us";
	return why && why32 ? (row->flags & F_I64 ? why32 : why) : NULL;
}

struct job {
	const struct options *o;
	u64 cases, done, deadline; /* of this job; in seconds */
};

static u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec;
}

static bool job_over(const struct job *j)
{
	if (j->o->endless)
		return __atomic_load_n(&tally->differences, __ATOMIC_RELAXED) != 0;
	return j->o->seconds ? j->done % 256 == 0 && now() >= j->deadline : j->done >= j->cases;
}

/* Rows in turn, so that each gets its share; then as many of other kinds as take about as long. */
static void run_round(struct job *j, enum cpu_mode mode)
{
	static struct test_case t;
	const struct options *o = j->o;

	for (unsigned i = 0; !o->programs && i < op_rows_n && !job_over(j); i++)
		if (row_wanted(&op_rows[i], o, mode) && gen_case(&t, &op_rows[i], mode)) {
			run_case(&t, SINGLE, o);
			j->done++;
		}
	for (unsigned i = 0; !o->programs && !o->row && i < op_rows_n / 2 && !job_over(j); i++)
		if (gen_sequence(&t, mode)) {
			run_case(&t, SEQUENCE, o);
			j->done++;
		}
	for (unsigned i = 0; !o->row && i < op_rows_n / 8 && !job_over(j); i++)
		if (gen_program(&t, mode)) {
			run_case(&t, PROGRAM, o);
			j->done++;
		}
}

static void run_job(void *arg, unsigned job)
{
	const struct options *o = arg;
	struct job j = { .o = o, .cases = o->cases / o->jobs, .deadline = now() + o->seconds };
	unsigned rounds_without = 0;

	gen_seed(o->seed + job);
	guest_side_init();
	native_side_init(); /* second: its signal handlers go before the other's */
	for (u64 round = 0; !job_over(&j) && rounds_without < TRIES; round++) {
		u64 before = j.done;

		/* 64-bit code has more forms */
		run_round(&j, round % 3 ? MODE_64 : MODE_32);
		rounds_without = j.done == before ? rounds_without + 1 : 0;
	}
}

static bool host_has_row(const struct op *row);

static int summary(const struct options *o)
{
	unsigned passed = 0, failed = 0, skipped = 0;
	bool every_row = !o->programs && !o->seconds && !o->endless;

	for (unsigned i = 0; i < op_rows_n; i++) {
		const struct op *row = &op_rows[i];
		const char *why = skip_reason(row);

		if (o->row && strcmp(o->row, row->name))
			continue;
		if (!why && !tally->compared[i] && !host_has_row(row))
			why = "the host lacks it";
		if (tally->failed[i] || (!why && !tally->compared[i] && every_row)) {
			failed++;
			printf("FAIL row %u %s (opcode %02x): %llu of %llu cases differ\n", i,
			       row->name, row->opcode, (unsigned long long)tally->failed[i],
			       (unsigned long long)tally->compared[i]);
		} else if (why) {
			skipped++;
			if (every_row)
				printf("not compared: %s (row %u): %s\n", row->name, i, why);
		} else {
			passed++;
		}
		if (tally->undefined[i])
			printf("note: %s (row %u): undefined flags differ in %llu cases\n",
			       row->name, i, (unsigned long long)tally->undefined[i]);
	}
	if (tally->fickle)
		printf("note: the host changed its mind in %llu cases\n",
		       (unsigned long long)tally->fickle);
	if (tally->unwitnessed)
		printf("note: %llu cases of 32-bit code compared with the interpreter, not with "
		       "the host: it has no 32-bit code segment for us\n",
		       (unsigned long long)tally->unwitnessed);
	printf("coverage: %llu instructions by themselves, %llu in a row, %llu programs (%llu "
	       "ended in a fault), %u of %u rows compared\n",
	       (unsigned long long)tally->cases[SINGLE], (unsigned long long)tally->cases[SEQUENCE],
	       (unsigned long long)tally->cases[PROGRAM],
	       (unsigned long long)tally->faulted[PROGRAM], passed + failed,
	       passed + failed + skipped);
	printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
	return failed != 0;
}

/* A row whose feature the host lacks never decodes. */
static bool host_has_row(const struct op *row)
{
	static const struct {
		u32 leaf, sub;
		u8 reg, bit;
	} where[FEAT_NR] = {
#define FEATURE(name, leaf, subleaf, reg, bit) [FEAT_##name] = { leaf, subleaf, reg, bit },
		CPU_FEATURES(FEATURE)
#undef FEATURE
	};
	u32 r[4];

	if (row->feature == FEAT_BASE)
		return true;
	__asm__ volatile("cpuid"
			 : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
			 : "0"(where[row->feature].leaf), "2"(where[row->feature].sub));
	return r[where[row->feature].reg] >> where[row->feature].bit & 1;
}

static void usage(void)
{
	fputs("usage: mvm-oracle [-n CASES | -t SECONDS | -e] [-s SEED] [-r ROW] [-p] [-j JOBS] "
	      "[-d DIFFERENCES] [-v]\n"
	      "-t, -e: for so long, or until a case differs; the seed is then the time\n",
	      stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	struct options o = { .cases = 20000000,
			     .seed = 0,
			     .reports = 20,
			     .jobs = (unsigned)sysconf(_SC_NPROCESSORS_ONLN) };
	bool ok;
	int opt;

	while ((opt = getopt(argc, argv, "n:t:es:r:pj:d:v")) != -1) {
		switch (opt) {
		case 'n': o.cases = strtoull(optarg, NULL, 0); break;
		case 't': o.seconds = strtoull(optarg, NULL, 0); break;
		case 'e': o.endless = true; break;
		case 'p': o.programs = true; break;
		case 's': o.seed = strtoull(optarg, NULL, 0); break;
		case 'r': o.row = optarg; break;
		case 'j': o.jobs = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'd': o.reports = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'v': o.verbose = true; break;
		default: usage();
		}
	}
	if (!o.jobs || op_rows_n > ROWS_MAX)
		usage();
	if (!o.seed)
		o.seed = o.seconds || o.endless ? (u64)time(NULL) * 1000 : 1;
	printf("seed %llu\n", (unsigned long long)o.seed);
	fflush(stdout);
	tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	native_side_probe();
	ok = jobs_run(o.jobs, run_job, &o);
	return summary(&o) || !ok;
}
