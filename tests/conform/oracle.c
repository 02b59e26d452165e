/* oracle.c - `mvm-oracle [-n CASES] [-s SEED] [-r ROW] [-j JOBS] [-d DIFFERENCES] [-v]`: see
 * oracle.h.  Prints the rows never compared with the reason, and ends with `N passed, N failed, N
 * skipped`, counted in rows; exit status 1 if a case differs or a row was not compared without a
 * reason. */
#include "oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ROWS_MAX = 4096, TRIES = 200 };

struct options {
	u64 cases, seed;
	const char *row;
	unsigned jobs, reports;
	bool verbose;
};

/* Shared by the jobs. */
struct tally {
	u64 compared[ROWS_MAX], failed[ROWS_MAX], undefined[ROWS_MAX], faults[ROWS_MAX];
	u64 cases, differences;
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
	u64 ea = (u64)in->disp;

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
	if (fn == exec_CALL && t->how == HOW_TRANSLATED && host->vector != EXC_NONE)
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

/* The flags that count: all but those the instruction leaves undefined. */
static u64 flags_mask(const struct test_case *t, const struct regs *host)
{
	u64 all = FL_ARITH | FL_DF | FL_AC | FL_ID | FL_NT | FL_IF | FL_IOPL;

	if (host->vector == EXC_NONE)
		return all & ~t->undef;
	/* A fault changes none; but the translator may have dropped some that would be written
	 * before anybody reads them, and an earlier instruction may have left some undefined. */
	return host->rip == t->start.rip ? all : all & ~(u64)FL_ARITH;
}

/* Linux says "present" of every address it keeps from user space. */
static bool same_error(const struct regs *host, const struct regs *guest)
{
	u32 hidden = host->vector == EXC_PF && host->cr2 >= 0x7ffffffff000 ? PF_P : 0;

	return (host->error | hidden) == (guest->error | hidden);
}

/* An instruction with several accesses or a large one may find what is wrong in any order. */
static bool order_is_free(const struct test_case *t)
{
	static const insn_fn list[] = { exec_IRET,     exec_RET_FAR, exec_CALL, exec_MASKMOVDQU,
					exec_MASKMOVQ, exec_LSS,     exec_LFS,	exec_LGS,
					exec_LDS,      exec_LES };
	const struct opd *o = &t->in.opd[t->in.opd[0].kind != OPD_MEM];

	for (unsigned i = 0; i < ARRAY_LEN(list); i++)
		if (t->row->cls == CLS_SELF && t->row->exec.self == list[i])
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
	if (order_is_free(t) && is_access_fault(host->vector) && is_access_fault(guest->vector))
		return same_memory() ? NULL : "memory";
	if (host->vector != guest->vector)
		return "exception";
	if (host->rip != guest->rip)
		return "rip";
	if (host->vector != EXC_NONE && !(host->vector == EXC_PF && order_is_free(t))) {
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

static const char *const how[] = { "interp_one", "block", "translator" };

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

static void report(const struct test_case *t, const char *what, const struct regs *host,
		   const struct regs *guest)
{
	char text[96];

	struct insn in;

	printf("DIFFERENCE in %s: %s (row %u)\n", what, t->row->name, (unsigned)(t->row - op_rows));
	for (unsigned at = 0; at < t->len; at += in.len) {
		if (decode(&in, t->code + at, 15, t->in.mode) <= 0)
			break;
		decode_text(&in, t->start.rip + at, text, sizeof text);
		printf("  %s%s", text, at + in.len < t->len ? "\n" : "");
	}
	printf(" by %s, %s:", how[t->how], t->in.mode == MODE_64 ? "64-bit" : "32-bit");
	for (unsigned i = 0; i < t->len; i++)
		printf(" %02x", t->code[i]);
	putchar('\n');
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
static void run_case(const struct test_case *t, const struct options *o)
{
	static struct regs host, guest;
	unsigned row = (unsigned)(t->row - op_rows);
	const char *what;

	if (o->verbose) {
		char text[96];

		decode_text(&t->in, t->start.rip, text, sizeof text);
		printf("%s (%s)\n", text, how[t->how]);
		fflush(stdout);
	}
	native_side_run(&(struct native_case){ t->code, t->len, t->fp, t->segs, t->own_bases,
					       t->in.mode != MODE_64, &t->start },
			&host);
	guest_side_run(t, &guest);
	blank_free_bytes(t, &host);
	what = difference(t, &host, &guest);
	__atomic_fetch_add(&tally->compared[row], 1, __ATOMIC_RELAXED);
	if (host.vector != EXC_NONE)
		__atomic_fetch_add(&tally->faults[row], 1, __ATOMIC_RELAXED);
	if (!what && t->how != HOW_TRANSLATED && (host.flags ^ guest.flags) & FL_ARITH)
		__atomic_fetch_add(&tally->undefined[row], 1, __ATOMIC_RELAXED);
	if (!what)
		return;
	if (__atomic_fetch_add(&tally->failed[row], 1, __ATOMIC_RELAXED) <
		    (o->row ? o->reports : 2) &&
	    __atomic_fetch_add(&tally->differences, 1, __ATOMIC_RELAXED) < o->reports)
		report(t, what, &host, &guest);
	memcpy(guest_data, native_data, DATA_END - DATA);
}

static bool row_wanted(const struct op *row, const struct options *o, enum cpu_mode mode)
{
	return !gen_skip_reason(row, mode) && (!o->row || !strcmp(o->row, row->name));
}

/* Why in neither mode, or NULL. */
static const char *skip_reason(const struct op *row)
{
	const char *why = gen_skip_reason(row, MODE_64), *why32 = gen_skip_reason(row, MODE_32);

	return why && why32 ? (row->flags & F_I64 ? why32 : why) : NULL;
}

/* Rows in turn, so that each gets its share. */
static void run_job(void *arg, unsigned job)
{
	const struct options *o = arg;
	static struct test_case t;
	u64 cases = o->cases / o->jobs, done = 0, rounds_without = 0, round = 0;

	gen_seed(o->seed + job);
	guest_side_init();
	native_side_init(); /* second: its signal handlers go before the other's */
	while (done < cases && rounds_without < TRIES) {
		enum cpu_mode mode = round++ % 3 ? MODE_64
						 : MODE_32; /* the former has more forms */
		u64 before = done;

		for (unsigned i = 0; i < op_rows_n && done < cases; i++)
			if (row_wanted(&op_rows[i], o, mode) && gen_case(&t, &op_rows[i], mode)) {
				run_case(&t, o);
				done++;
			}
		for (unsigned i = 0; !o->row && i < op_rows_n / 2 && done < cases; i++)
			if (gen_sequence(&t)) {
				run_case(&t, o);
				done++;
			}
		rounds_without = done == before ? rounds_without + 1 : 0;
	}
	__atomic_fetch_add(&tally->cases, done, __ATOMIC_RELAXED);
}

static bool host_has_row(const struct op *row);

static int summary(const struct options *o)
{
	unsigned passed = 0, failed = 0, skipped = 0;

	for (unsigned i = 0; i < op_rows_n; i++) {
		const struct op *row = &op_rows[i];
		const char *why = skip_reason(row);

		if (o->row && strcmp(o->row, row->name))
			continue;
		if (!why && !tally->compared[i] && !host_has_row(row))
			why = "the host lacks it";
		if (tally->failed[i] || (!why && !tally->compared[i])) {
			failed++;
			printf("FAIL row %u %s (opcode %02x): %llu of %llu cases differ\n", i,
			       row->name, row->opcode, (unsigned long long)tally->failed[i],
			       (unsigned long long)tally->compared[i]);
		} else if (why) {
			skipped++;
			printf("not compared: %s (row %u): %s\n", row->name, i, why);
		} else {
			passed++;
		}
		if (tally->undefined[i])
			printf("note: %s (row %u): undefined flags differ in %llu cases\n",
			       row->name, i, (unsigned long long)tally->undefined[i]);
	}
	printf("coverage: %llu cases, %u of %u rows compared\n", (unsigned long long)tally->cases,
	       passed + failed, passed + failed + skipped);
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
	fputs("usage: mvm-oracle [-n CASES] [-s SEED] [-r ROW] [-j JOBS] [-d DIFFERENCES] [-v]\n",
	      stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	struct options o = { .cases = 5000000,
			     .seed = 1,
			     .reports = 20,
			     .jobs = (unsigned)sysconf(_SC_NPROCESSORS_ONLN) };
	bool ok;
	int opt;

	while ((opt = getopt(argc, argv, "n:s:r:j:d:v")) != -1) {
		switch (opt) {
		case 'n': o.cases = strtoull(optarg, NULL, 0); break;
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
	tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	native_side_probe();
	ok = jobs_run(o.jobs, run_job, &o);
	return summary(&o) || !ok;
}
