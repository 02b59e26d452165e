/* place.c - guest memory access behind the TLB: what misses it, crosses pages, is no memory, or may
 * have to drop code.  The vCPU's thread.
 * Sources: SDM vol 3 "Alignment-Check Exception (#AC)", "Handling Self- and Cross-Modifying
 * Code". */
#include "place.h"

static u64 mmio_read(struct tcg_cpu *c, gpa_t gpa, unsigned size)
{
	fp_leave(c);
	if (place_is_lapic(c, gpa))
		return size == 4 && gpa % 4 == 0 ? lapic_mmio_read(c->v.apic, gpa % PAGE_SIZE) : 0;
	return bus_read(c->v.env->mmio, gpa, size);
}

static void mmio_write(struct tcg_cpu *c, gpa_t gpa, unsigned size, u64 val)
{
	fp_leave(c);
	if (!place_is_lapic(c, gpa)) {
		bus_write(c->v.env->mmio, gpa, size, val);
	} else if (size == 4 && gpa % 4 == 0) {
		lapic_mmio_write(c->v.apic, gpa % PAGE_SIZE, (u32)val);
		interp_timer_moved(c);
	}
}

/* n is 1 to 8; the odd sizes are parts of accesses that cross pages. */
static u64 place_read(struct tcg_cpu *c, const struct place *p, unsigned n)
{
	bool whole = (n & (n - 1)) == 0;
	u64 val = 0;

	if (whole)
		return p->host ? host_load(p->host, n) : mmio_read(c, p->gpa, n);
	for (unsigned i = 0; i < n; i++)
		val |= (p->host ? p->host[i] : mmio_read(c, p->gpa + i, 1) & 0xff) << 8 * i;
	return val;
}

/* p's bytes are written: was code made of them?  Where there are other vCPUs, mmu_locate()'s look
 * at the map may be too old by now: one of them has marked the granule since, and compared the
 * bytes before ours were there.  There is a fence between its mark and its comparison
 * (block_build), and here one between our store and our look, so one of the two sees the other. */
static void place_written(struct tcg_cpu *c, const struct place *p, unsigned n)
{
	u64 code = p->code;

	if (c->v.env->nr_vcpus > 1) {
		atomic_thread_fence(memory_order_seq_cst);
		code = atomic_load(code_map_word(c->code, p->gpa));
	}
	if (unlikely(code & code_map_span(p->gpa, n)))
		interp_invalidate(c, p->gpa, n);
}

static void place_write(struct tcg_cpu *c, const struct place *p, unsigned n, u64 val)
{
	bool whole = (n & (n - 1)) == 0;

	if (p->rom)
		return;
	if (!whole) {
		for (unsigned i = 0; i < n; i++) {
			struct place at = { p->gpa + i, p->host ? p->host + i : NULL, false,
					    p->code };

			place_write(c, &at, 1, val >> 8 * i);
		}
		return;
	}
	if (!p->host) {
		mmio_write(c, p->gpa, n, val);
		return;
	}
	host_store(p->host, n, val);
	place_written(c, p, n);
}

/* CR0.AM and EFLAGS.AC at CPL 3; mmu_select sees to it that such accesses all come here.  A
 * non-canonical address comes first, a page fault after it (on AMD; the SDM has them the other
 * way round). */
static bool aligned(struct tcg_cpu *c, gva_t lin, unsigned size, bool sup)
{
	if (likely(!mmu_checks_alignment(c)) || sup || size > 8 || !(lin & (size - 1)))
		return true;
	return !is_canonical(lin) || !is_canonical(lin + size - 1) || raise_err(c, EXC_AC, 0);
}

bool mmu_load(struct tcg_cpu *c, gva_t lin, unsigned size, u64 *val, bool sup)
{
	struct place p[2];
	unsigned n;

	lin = lin_wrap(c, lin, sup);
	if (!aligned(c, lin, size, sup) || !mmu_locate(c, lin, size, ACC_R, sup, p, &n))
		return false;
	*val = place_read(c, &p[0], n);
	if (n < size)
		*val |= place_read(c, &p[1], size - n) << 8 * n;
	return true;
}

bool mmu_store(struct tcg_cpu *c, gva_t lin, unsigned size, u64 val, bool sup)
{
	struct place p[2];
	unsigned n;

	lin = lin_wrap(c, lin, sup);
	if (!aligned(c, lin, size, sup) || !mmu_locate(c, lin, size, ACC_W, sup, p, &n))
		return false;
	place_write(c, &p[0], n, val);
	if (n < size)
		place_write(c, &p[1], size - n, val >> 8 * n);
	return true;
}

bool lin_host_code(struct tcg_cpu *c, gva_t lin, unsigned size, void **host, gpa_t *code)
{
	struct place p[2];
	unsigned n;

	lin = lin_wrap(c, lin, false);
	*host = NULL;
	*code = NO_CODE;
	if (!aligned(c, lin, size, false) || !mmu_locate(c, lin, size, ACC_W, false, p, &n))
		return false;
	if (n < size || !p[0].host || p[0].rom)
		return true;
	*host = p[0].host;
	if (c->v.env->nr_vcpus > 1 || p[0].code & code_map_span(p[0].gpa, size))
		*code = p[0].gpa;
	return true;
}

bool lin_host(struct tcg_cpu *c, gva_t lin, unsigned size, enum access acc, void **host)
{
	struct place p[2];
	unsigned n;
	u64 code;

	lin = lin_wrap(c, lin, false);
	*host = NULL;
	if (!aligned(c, lin, size, false) || !mmu_locate(c, lin, size, acc, false, p, &n))
		return false;
	/* Nobody will look at the map afterwards, so others must not make code beside code. */
	code = c->v.env->nr_vcpus > 1 ? p[0].code : p[0].code & code_map_span(p[0].gpa, n);
	if (n == size && p[0].host && !(acc & ACC_W && (p[0].rom || code)))
		*host = p[0].host;
	return true;
}

bool lin_read_bytes(struct tcg_cpu *c, gva_t lin, void *buf, unsigned len)
{
	struct place p[2];
	unsigned n, at = 0;

	lin = lin_wrap(c, lin, false);
	if (!len)
		return true;
	if (!mmu_locate(c, lin, len, ACC_R, false, p, &n))
		return false;
	for (unsigned part = 0; at < len; part++, n = len - at) {
		for (unsigned i = 0; i < n && !p[part].host; i++)
			((u8 *)buf)[at + i] = (u8)mmio_read(c, p[part].gpa + i, 1);
		if (p[part].host)
			memcpy((u8 *)buf + at, p[part].host, n);
		at += n;
	}
	return true;
}

static void place_write_bytes(struct tcg_cpu *c, const struct place *p, const u8 *buf, unsigned n)
{
	if (p->rom)
		return;
	for (unsigned i = 0; i < n && !p->host; i++)
		mmio_write(c, p->gpa + i, 1, buf[i]);
	if (!p->host)
		return;
	memcpy(p->host, buf, n);
	place_written(c, p, n);
}

bool lin_write_bytes(struct tcg_cpu *c, gva_t lin, const void *buf, unsigned len)
{
	struct place p[2];
	unsigned n;

	lin = lin_wrap(c, lin, false);
	if (!len)
		return true;
	if (!mmu_locate(c, lin, len, ACC_W, false, p, &n))
		return false;
	place_write_bytes(c, &p[0], buf, n);
	if (n < len)
		place_write_bytes(c, &p[1], (const u8 *)buf + n, len - n);
	return true;
}
