/* exec_str.c - string instructions.
 *
 * A repeated instruction works on chunks that lie in one page of each operand: the host's own
 * string instruction runs on host addresses, so overlap and flags come out as they should.
 * What has no host address (MMIO, ROM, elements that cross a page) is done element by element, and
 * so is what goes downwards, but for MOVS.  After each chunk the registers are up to date, so a
 * fault or a request that is waiting leaves the instruction restartable.  Source: SDM vol 2
 * "REP/REPE/REPZ/REPNE/REPNZ". */
#include "exec.h"

enum { CHUNK_COST = 16, ELEMENT_COST = 1 }; /* of the budget */

/* One operand: where it is now and how far plain memory goes from there. */
struct str_opd {
	enum sreg seg;
	unsigned reg;
	enum access acc;
	gva_t lin;
	void *host; /* NULL: not directly */
	gpa_t code; /* decoded code is near: to be told when written */
};

static struct str_opd str_src(const struct insn *in)
{
	return (struct str_opd){ .seg = in->seg, .reg = RSI, .acc = ACC_R };
}

static struct str_opd str_dst(enum access acc)
{
	return (struct str_opd){ .seg = SEG_ES, .reg = RDI, .acc = acc };
}

static u64 str_offset(const struct tcg_cpu *c, const struct insn *in, const struct str_opd *o)
{
	return c->v.s.gpr[o->reg] & addr_mask(in);
}

static bool str_repeats(const struct insn *in)
{
	return in->prefixes & (PFX_REP | PFX_REPNE);
}

static bool str_down(const struct tcg_cpu *c)
{
	return c->v.s.rflags & FL_DF;
}

/* Linear address of the current element. */
static bool str_lin(struct tcg_cpu *c, const struct insn *in, struct str_opd *o)
{
	return seg_lin(c, o->seg, str_offset(c, in, o), in->size, o->acc, &o->lin);
}

/* rSI or rDI past n elements. */
static void str_advance(struct tcg_cpu *c, const struct insn *in, unsigned reg, u64 n)
{
	u64 step = n * in->size;

	addr_reg_set(c, in, reg, c->v.s.gpr[reg] + (str_down(c) ? -step : step));
}

static u64 str_count(const struct tcg_cpu *c, const struct insn *in)
{
	return c->v.s.gpr[RCX] & addr_mask(in);
}

static void str_count_down(struct tcg_cpu *c, const struct insn *in, u64 n)
{
	addr_reg_set(c, in, RCX, c->v.s.gpr[RCX] - n);
}

/* --- chunks ------------------------------------------------------------------------------- */
/* How many of n elements from o go on in this page and before the offset wraps. */
static u64 str_room(struct tcg_cpu *c, const struct insn *in, const struct str_opd *o, u64 n)
{
	u64 to_wrap = addr_mask(in) - str_offset(c, in, o);
	u64 bytes = MIN(PAGE_SIZE - o->lin % PAGE_SIZE, to_wrap == ~0ull ? to_wrap : to_wrap + 1);

	return MIN(n, bytes / in->size);
}

/* Host address of n elements, or NULL if they must go one by one. False: a fault, of the first
 * element since all are in one page and within n of the limit. */
static bool str_map(struct tcg_cpu *c, const struct insn *in, struct str_opd *o, u64 n)
{
	unsigned bytes = (unsigned)(n * in->size);
	gva_t lin;

	if (!seg_lin(c, o->seg, str_offset(c, in, o), bytes, o->acc, &lin)) {
		c->exc.vector = EXC_NONE; /* the limit comes later: let single elements find it */
		o->host = NULL;
		return true;
	}
	o->code = NO_CODE;
	o->host = o->acc == ACC_W ? tlb_write(c, o->lin, bytes) : tlb_read(c, o->lin, bytes);
	if (o->host)
		return true;
	return o->acc == ACC_W ? lin_host_code(c, o->lin, bytes, &o->host, &o->code)
			       : lin_host(c, o->lin, bytes, o->acc, &o->host);
}

/* Is alignment checked?  It is of each element. */
static bool str_aligned(const struct tcg_cpu *c)
{
	return unlikely(c->cpl == 3 && c->v.s.rflags & FL_AC && c->v.s.cr0 & CR0_AM);
}

/* Prepare a chunk of at most n elements of a and (unless NULL) b: how many can be done at once
 * on host addresses; 0: do one element.  False: c->exc. */
static bool str_chunk(struct tcg_cpu *c, const struct insn *in, struct str_opd *a,
		      struct str_opd *b, u64 *n)
{
	if (!str_lin(c, in, a) || (b && !str_lin(c, in, b)))
		return false;
	if (str_down(c) || str_aligned(c)) {
		*n = 0;
		return true;
	}
	*n = str_room(c, in, a, *n);
	if (b)
		*n = str_room(c, in, b, *n);
	if (*n && (!str_map(c, in, a, *n) || (b && !str_map(c, in, b, *n))))
		return false;
	if (*n && (!a->host || (b && !b->host)))
		*n = 0;
	return true;
}

/* Is the instruction done, or does it leave the block to be repeated? */
static bool str_pause(struct tcg_cpu *c, u64 n)
{
	c->budget -= n > 1 ? CHUNK_COST : ELEMENT_COST;
	return must_leave(c) || c->interp->dropped || c->interp->stepping;
}

/* Does chunk(c, in, n) for all elements.  It does up to n elements (at least one), advances the
 * registers and says how many it did, or 0 with c->exc; *stop ends the repetition (a compare
 * that decided). */
typedef u64 (*str_fn)(struct tcg_cpu *c, const struct insn *in, u64 n, bool *stop);

static HANDLER str_run(struct tcg_cpu *c, const struct insn *in, str_fn chunk)
{
	bool stop = false;
	u64 n;

	if (!str_repeats(in))
		return chunk(c, in, 1, &stop) ? in + 1 : insn_fault(c, in);
	while (str_count(c, in)) {
		n = chunk(c, in, c->interp->stepping ? 1 : str_count(c, in), &stop);
		if (!n)
			return insn_fault(c, in);
		str_count_down(c, in, n);
		if (stop)
			break;
		if (str_pause(c, n) && str_count(c, in)) {
			c->v.s.rip = insn_rip(c, in);
			return NULL;
		}
	}
	return in + 1;
}

/* --- MOVS, STOS, LODS --------------------------------------------------------------------- */
#define MOVS(text) __asm__ volatile(text : "+D"(dst), "+S"(src), "+c"(n) : : "memory", "cc")

static void host_movs(void *dst, const void *src, u64 n, unsigned size)
{
	switch (size) {
	case 1: MOVS("rep movsb"); break;
	case 2: MOVS("rep movsw"); break;
	case 4: MOVS("rep movsl"); break;
	default: MOVS("rep movsq"); break;
	}
}

/* dst and src are those of the first, highest element. */
static void host_movs_down(void *dst, const void *src, u64 n, unsigned size)
{
	switch (size) {
	case 1: MOVS("std; rep movsb; cld"); break;
	case 2: MOVS("std; rep movsw; cld"); break;
	case 4: MOVS("std; rep movsl; cld"); break;
	default: MOVS("std; rep movsq; cld"); break;
	}
}

/* How many of n elements go on downwards from o in its page, inside the segment, with an address
 * that the TLB knows; the page has no decoded code then, and nothing can fault. */
static u64 movs_room_down(struct tcg_cpu *c, const struct insn *in, struct str_opd *o, u64 n)
{
	u64 off = str_offset(c, in, o), size = in->size, in_page = o->lin % PAGE_SIZE;
	gva_t lin;

	if (in_page + size > PAGE_SIZE)
		return 0;
	n = MIN(n, MIN(in_page, off) / size + 1);
	if (!seg_lin(c, o->seg, off - (n - 1) * size, (unsigned)(n * size), o->acc, &lin)) {
		c->exc.vector = EXC_NONE; /* a limit is in between: let single elements find it */
		return 0;
	}
	o->host = o->acc == ACC_W ? tlb_write(c, o->lin, (unsigned)size) :
				    tlb_read(c, o->lin, (unsigned)size);
	return o->host ? n : 0;
}

/* As memmove does it where the areas overlap: boot loaders move whole kernels so. */
static u64 movs_down(struct tcg_cpu *c, const struct insn *in, struct str_opd *src,
		     struct str_opd *dst, u64 n)
{
	if (!str_down(c) || str_aligned(c))
		return 0;
	n = movs_room_down(c, in, src, n);
	n = n ? movs_room_down(c, in, dst, n) : 0;
	if (n)
		host_movs_down(dst->host, src->host, n, in->size);
	return n;
}

static u64 movs_chunk(struct tcg_cpu *c, const struct insn *in, u64 n, bool *stop)
{
	struct str_opd src = str_src(in), dst = str_dst(ACC_W);
	u64 val, down, left = n;

	if (!str_chunk(c, in, &src, &dst, &n))
		return 0;
	down = n ? 0 : movs_down(c, in, &src, &dst, left);
	if (down) {
		n = down;
	} else if (n) {
		host_movs(dst.host, src.host, n, in->size);
		lin_wrote(c, dst.code, (unsigned)(n * in->size));
	} else {
		if (!lin_load(c, src.lin, in->size, &val) || !lin_store(c, dst.lin, in->size, val))
			return 0;
		n = 1;
	}
	str_advance(c, in, RSI, n);
	str_advance(c, in, RDI, n);
	return n;
}

HANDLER exec_MOVS(struct tcg_cpu *c, const struct insn *in)
{
	return str_run(c, in, movs_chunk);
}

static void host_stos(void *dst, u64 val, u64 n, unsigned size)
{
	switch (size) {
	case 1: __asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(val) : "memory"); break;
	case 2: __asm__ volatile("rep stosw" : "+D"(dst), "+c"(n) : "a"(val) : "memory"); break;
	case 4: __asm__ volatile("rep stosl" : "+D"(dst), "+c"(n) : "a"(val) : "memory"); break;
	default: __asm__ volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(val) : "memory"); break;
	}
}

static u64 stos_chunk(struct tcg_cpu *c, const struct insn *in, u64 n, bool *stop)
{
	struct str_opd dst = str_dst(ACC_W);
	u64 val = c->v.s.gpr[RAX];

	if (!str_chunk(c, in, &dst, NULL, &n))
		return 0;
	if (n) {
		host_stos(dst.host, val, n, in->size);
		lin_wrote(c, dst.code, (unsigned)(n * in->size));
	} else {
		if (!lin_store(c, dst.lin, in->size, val))
			return 0;
		n = 1;
	}
	str_advance(c, in, RDI, n);
	return n;
}

HANDLER exec_STOS(struct tcg_cpu *c, const struct insn *in)
{
	return str_run(c, in, stos_chunk);
}

static u64 lods_chunk(struct tcg_cpu *c, const struct insn *in, u64 n, bool *stop)
{
	struct str_opd src = str_src(in);
	u64 val;

	if (!str_chunk(c, in, &src, NULL, &n))
		return 0;
	if (n)
		val = host_load((const u8 *)src.host + (n - 1) * in->size, in->size);
	else if (!lin_load(c, src.lin, in->size, &val))
		return 0;
	n = MAX(n, 1);
	reg_set(c, RAX, in->size, val);
	str_advance(c, in, RSI, n);
	return n;
}

HANDLER exec_LODS(struct tcg_cpu *c, const struct insn *in)
{
	return str_run(c, in, lods_chunk);
}

/* --- CMPS, SCAS --------------------------------------------------------------------------- */
/* Run the host's repeated compare; returns how many elements it took.  n is not 0. */
#define SCAN(text)                                                              \
	__asm__ volatile(text ALU_FLAGS_OUT "\n\tmovw %%ax, %w[f]"              \
			 : "+D"(a), "+S"(b), "+c"(left), [f] "=&r"(f), "+a"(ax) \
			 :                                                      \
			 : "cc", "memory")
#define SCAN_BY_SIZE(rep, ins)                 \
	switch (size) {                        \
	case 1: SCAN(rep " " ins "b"); break;  \
	case 2: SCAN(rep " " ins "w"); break;  \
	case 4: SCAN(rep " " ins "l"); break;  \
	default: SCAN(rep " " ins "q"); break; \
	}

static u64 host_cmps(u16 *cc, const void *b, const void *a, u64 n, unsigned size, bool while_equal)
{
	u64 left = n, ax = 0;
	u16 f = 0;

	if (while_equal)
		SCAN_BY_SIZE("repe", "cmps")
	else
		SCAN_BY_SIZE("repne", "cmps")
	*cc = f;
	return n - left;
}

static u64 host_scas(u16 *cc, u64 ax, const void *a, u64 n, unsigned size, bool while_equal)
{
	u64 left = n, b = 0;
	u16 f = 0;

	if (while_equal)
		SCAN_BY_SIZE("repe", "scas")
	else
		SCAN_BY_SIZE("repne", "scas")
	*cc = f;
	return n - left;
}

static bool while_equal(const struct insn *in)
{
	return !(in->prefixes & PFX_REPNE);
}

/* The repetition goes on while ZF is as the prefix wants it. */
static bool str_decided(const struct tcg_cpu *c, const struct insn *in)
{
	return cc_test(c->cc, 4) != while_equal(in);
}

static u64 cmps_chunk(struct tcg_cpu *c, const struct insn *in, u64 n, bool *stop)
{
	struct str_opd src = str_src(in), dst = str_dst(ACC_R);
	u64 a, b;

	if (!str_chunk(c, in, &src, &dst, &n))
		return 0;
	if (n) {
		n = host_cmps(&c->cc, src.host, dst.host, n, in->size, while_equal(in));
	} else {
		if (!lin_load(c, src.lin, in->size, &a) || !lin_load(c, dst.lin, in->size, &b))
			return 0;
		alu_sub(in->size, &c->cc, a, b);
		n = 1;
	}
	str_advance(c, in, RSI, n);
	str_advance(c, in, RDI, n);
	*stop = str_decided(c, in);
	return n;
}

HANDLER exec_CMPS(struct tcg_cpu *c, const struct insn *in)
{
	return str_run(c, in, cmps_chunk);
}

static u64 scas_chunk(struct tcg_cpu *c, const struct insn *in, u64 n, bool *stop)
{
	struct str_opd dst = str_dst(ACC_R);
	u64 ax = reg_get(c, RAX, in->size), b;

	if (!str_chunk(c, in, &dst, NULL, &n))
		return 0;
	if (n) {
		n = host_scas(&c->cc, ax, dst.host, n, in->size, while_equal(in));
	} else {
		if (!lin_load(c, dst.lin, in->size, &b))
			return 0;
		alu_sub(in->size, &c->cc, ax, b);
		n = 1;
	}
	str_advance(c, in, RDI, n);
	*stop = str_decided(c, in);
	return n;
}

HANDLER exec_SCAS(struct tcg_cpu *c, const struct insn *in)
{
	return str_run(c, in, scas_chunk);
}

/* --- INS, OUTS ---------------------------------------------------------------------------- */
/* One element at a time, each an access on the port bus.  The right to the port is asked for
 * even if the count is 0.  Memory is checked before a port is read: what was read could not be
 * put back. */
static u64 ins_chunk(struct tcg_cpu *c, const struct insn *in, u64 n, bool *stop)
{
	struct str_opd dst = str_dst(ACC_W);
	u16 port = (u16)c->v.s.gpr[RDX];
	u64 val;

	if (!str_lin(c, in, &dst) || !lin_host(c, dst.lin, in->size, ACC_W, &dst.host))
		return 0;
	fp_leave(c);
	val = bus_read(c->v.env->pio, port, in->size);
	if (!lin_store(c, dst.lin, in->size, val))
		return 0;
	str_advance(c, in, RDI, 1);
	return 1;
}

HANDLER exec_INS(struct tcg_cpu *c, const struct insn *in)
{
	if (!io_allowed(c, (u16)c->v.s.gpr[RDX], in->size))
		return insn_fault(c, in);
	return str_run(c, in, ins_chunk);
}

static u64 outs_chunk(struct tcg_cpu *c, const struct insn *in, u64 n, bool *stop)
{
	struct str_opd src = str_src(in);
	u16 port = (u16)c->v.s.gpr[RDX];
	u64 val;

	if (!str_lin(c, in, &src) || !lin_load(c, src.lin, in->size, &val))
		return 0;
	fp_leave(c);
	bus_write(c->v.env->pio, port, in->size, val);
	str_advance(c, in, RSI, 1);
	return 1;
}

HANDLER exec_OUTS(struct tcg_cpu *c, const struct insn *in)
{
	if (!io_allowed(c, (u16)c->v.s.gpr[RDX], in->size))
		return insn_fault(c, in);
	return str_run(c, in, outs_chunk);
}
