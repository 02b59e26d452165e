/* vq.c - the split ring: what drivers do, and what hostile ones try. */
#include <pthread.h>
#include <sched.h>

#include "../../devices/virtio/virtio.h"
#include "../test.h"

enum { SIZE = 8, DESC = 0x1000, AVAIL = 0x2000, USED = 0x3000, DATA = 0x10000, TABLE = 0x5000 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
#define RAM (1 * MIB)

static struct memory mem;
static struct vq_state qs;
static struct vq q;
static struct chain c;
static u64 dirty_lo, dirty_hi;

static void note_dirty(void *ctx, gpa_t gpa, u64 len)
{
	dirty_lo = MIN(dirty_lo, gpa);
	dirty_hi = MAX(dirty_hi, gpa + len);
}

static u8 *ptr(gpa_t gpa)
{
	return mem_ptr(&mem, gpa, 1);
}

static void set_up(u64 features)
{
	struct err e;

	EQ(memory_init(&mem, RAM, &e), 0);
	mem.written = note_dirty;
	qs = (struct vq_state){ .desc = DESC, .avail = AVAIL, .used = USED, .size = SIZE };
	q = (struct vq){ .s = &qs };
	EQ(vq_start(&q, &mem, features), 0);
}

static void desc(gpa_t table, u16 i, gpa_t addr, u32 len, u16 flags, u16 next)
{
	u8 *p = ptr(table + i * 16u);

	st64(p, addr);
	st32(p + 8, len);
	st16(p + 12, flags);
	st16(p + 14, next);
}

static void offer(u16 head)
{
	u16 idx = ld16(ptr(AVAIL + 2));

	st16(ptr(AVAIL + 4 + idx % SIZE * 2u), head);
	st16(ptr(AVAIL + 2), idx + 1);
}

static int pop_one(u16 head)
{
	offer(head);
	return vq_pop(&q, &c);
}

TEST(vq_pops_readable_then_writable_buffers)
{
	set_up(0);
	EQ(vq_pop(&q, &c), 0);
	desc(DESC, 3, DATA, 16, NEXT, 5);
	desc(DESC, 5, DATA + 0x100, 32, NEXT, 1);
	desc(DESC, 1, DATA + 0x200, 64, WRITE | NEXT, 0);
	desc(DESC, 0, DATA + 0x300, 1, WRITE, 7);
	EQ(pop_one(3), 1);
	EQ(c.head, 3);
	EQ(c.out_n, 2);
	EQ(c.in_n, 2);
	EQ(c.out_len, 48);
	EQ(c.in_len, 65);
	OK(c.iov[c.out_at + 1].iov_base == ptr(DATA + 0x100));
	OK(c.iov[c.in_at + 1].iov_base == ptr(DATA + 0x300));
	EQ(vq_pop(&q, &c), 0);
}

TEST(vq_push_fills_the_used_ring_and_marks_memory_dirty)
{
	set_up(0);
	desc(DESC, 2, DATA, 100, WRITE, 0);
	EQ(pop_one(2), 1);
	dirty_lo = ~0ull;
	dirty_hi = 0;
	vq_push(&q, &c, 77);
	EQ(ld16(ptr(USED + 2)), 1);
	EQ(ld32(ptr(USED + 4)), 2);
	EQ(ld32(ptr(USED + 8)), 77);
	EQ(dirty_lo, USED + 2);
	EQ(dirty_hi, DATA + 100);
}

TEST(vq_start_refuses_bad_sizes_alignments_and_places)
{
	/* clang-format off */
	static const struct vq_state bad[] = {
		{ .desc = DESC, .avail = AVAIL, .used = USED, .size = 0 },
		{ .desc = DESC, .avail = AVAIL, .used = USED, .size = 3 },
		{ .desc = DESC, .avail = AVAIL, .used = USED, .size = VQ_MAX * 2 },
		{ .desc = DESC + 8, .avail = AVAIL, .used = USED, .size = 8 },
		{ .desc = DESC, .avail = AVAIL + 1, .used = USED, .size = 8 },
		{ .desc = DESC, .avail = AVAIL, .used = USED + 2, .size = 8 },
		{ .desc = RAM - 16, .avail = AVAIL, .used = USED, .size = 8 },
		{ .desc = DESC, .avail = RAM - 4, .used = USED, .size = 8 },
		{ .desc = DESC, .avail = AVAIL, .used = RAM - 4, .size = 8 },
		{ .desc = DESC, .avail = AVAIL, .used = ~0ull << 4, .size = 8 },
		{ .desc = ~0ull << 4, .avail = AVAIL, .used = USED, .size = 8 },
	};
	/* clang-format on */

	set_up(0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct vq_state s = bad[i];
		struct vq v = { .s = &s };

		EQ(vq_start(&v, &mem, 0), -EINVAL);
		OK(!vq_active(&v));
	}
}

TEST(vq_start_refuses_a_used_ring_in_rom_and_pop_a_writable_buffer_there)
{
	struct err e;
	struct vq_state s = { .desc = DESC, .avail = AVAIL, .used = 0xfff00000, .size = 8 };
	struct vq v = { .s = &s };

	set_up(0);
	EQ(memory_add(&mem, 0xfff00000, 0x10000, NULL, true, &e), 0);
	EQ(vq_start(&v, &mem, 0), -EINVAL);
	desc(DESC, 0, 0xfff00000, 16, 0, 0); /* reading ROM is fine */
	EQ(pop_one(0), 1);
	desc(DESC, 1, 0xfff00000, 16, WRITE, 0);
	EQ(pop_one(1), -EPROTO);
}

TEST(vq_refuses_an_avail_index_more_than_size_ahead)
{
	set_up(0);
	desc(DESC, 0, DATA, 16, 0, 0);
	st16(ptr(AVAIL + 2), SIZE + 1);
	EQ(vq_pop(&q, &c), -EPROTO);
	st16(ptr(AVAIL + 2), 0xffff);
	EQ(vq_pop(&q, &c), -EPROTO);
	st16(ptr(AVAIL + 2), SIZE);
	EQ(vq_pop(&q, &c), 1);
}

TEST(vq_refuses_more_chains_in_flight_than_entries)
{
	set_up(0);
	desc(DESC, 0, DATA, 16, 0, 0);
	for (int i = 0; i < SIZE; i++) {
		EQ(pop_one(0), 1);
		q.budget = SIZE;
	}
	EQ(pop_one(0), -EPROTO);
	vq_push(&q, &c, 0);
	EQ(vq_pop(&q, &c), 1);
}

TEST(vq_refuses_heads_and_links_outside_the_table)
{
	set_up(0);
	EQ(pop_one(SIZE), -EPROTO);
	qs.last_avail++;
	desc(DESC, 0, DATA, 16, NEXT, SIZE);
	EQ(pop_one(0), -EPROTO);
	qs.last_avail++;
	desc(DESC, 0, DATA, 16, NEXT, 0xffff);
	EQ(pop_one(0), -EPROTO);
}

TEST(vq_refuses_chains_that_loop)
{
	set_up(0);
	desc(DESC, 0, DATA, 16, NEXT, 0);
	EQ(pop_one(0), -EPROTO);
	qs.last_avail++;
	for (u16 i = 0; i < SIZE; i++)
		desc(DESC, i, DATA, 0, NEXT, (i + 1) % SIZE); /* empty ones loop no better */
	EQ(pop_one(0), -EPROTO);
	qs.last_avail++;
	desc(DESC, SIZE - 1, DATA, 16, 0, 0);
	EQ(pop_one(0), 1); /* all entries once is the longest chain */
}

TEST(vq_refuses_a_readable_buffer_after_a_writable_one)
{
	set_up(0);
	desc(DESC, 0, DATA, 16, WRITE | NEXT, 1);
	desc(DESC, 1, DATA, 16, 0, 0);
	EQ(pop_one(0), -EPROTO);
}

TEST(vq_refuses_buffers_outside_ram)
{
	/* clang-format off */
	static const struct { gpa_t at; u32 len; } bad[] = {
		{ RAM, 1 }, { RAM - 1, 2 }, { ~0ull, 1 }, { ~0ull, 2 }, { ~0ull - 15, 16 },
		{ 0, 0xffffffff }, { 0xc0000000, 512 }, { 1ull << 63, 16 },
	};
	/* clang-format on */

	set_up(0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		desc(DESC, 0, bad[i].at, bad[i].len, i & 1 ? WRITE : 0, 0);
		EQ(pop_one(0), -EPROTO);
		st16(ptr(AVAIL + 2), 0);
	}
	desc(DESC, 0, RAM - 1, 1, 0, 0);
	EQ(pop_one(0), 1);
}

TEST(vq_refuses_chains_above_four_gib_in_total)
{
	struct err e;

	EQ(memory_init(&mem, 1 * GIB, &e), 0);
	qs = (struct vq_state){ .desc = DESC, .avail = AVAIL, .used = USED, .size = SIZE };
	q = (struct vq){ .s = &qs };
	EQ(vq_start(&q, &mem, 0), 0);
	for (u16 i = 0; i < 5; i++)
		desc(DESC, i, 0, 1 << 30, i < 4 ? NEXT : 0, i + 1);
	EQ(pop_one(0), -EPROTO);
	desc(DESC, 2, 0, 1 << 30, 0, 0);
	EQ(vq_pop(&q, &c), 1);
	EQ(c.out_len, 3 * GIB);
}

TEST(vq_skips_empty_buffers)
{
	set_up(0);
	desc(DESC, 0, ~0ull, 0, NEXT, 1);
	desc(DESC, 1, DATA, 16, NEXT, 2);
	desc(DESC, 2, 0, 0, WRITE, 0);
	EQ(pop_one(0), 1);
	EQ(c.out_n, 1);
	EQ(c.in_n, 0);
}

TEST(vq_splits_a_buffer_that_crosses_two_regions)
{
	struct err e;

	set_up(0);
	EQ(memory_add(&mem, RAM, 0x10000, NULL, false, &e), 0);
	desc(DESC, 0, RAM - 100, 300, WRITE, 0);
	EQ(pop_one(0), 1);
	EQ(c.in_n, 2);
	EQ(c.in_len, 300);
	EQ(c.iov[0].iov_len, 100);
	EQ(c.iov[1].iov_len, 200);
	EQ(c.gpa[1], RAM);
	u8 bytes[300];

	memset(bytes, 0x5a, sizeof bytes);
	EQ(chain_give(&c, bytes, sizeof bytes), 300);
	EQ(*ptr(RAM + 199), 0x5a);
	EQ(*ptr(RAM + 200), 0);
}

TEST(vq_reads_an_indirect_table_after_direct_buffers)
{
	set_up(VIRTIO_F_INDIRECT_DESC);
	desc(DESC, 0, DATA, 16, NEXT, 1);
	desc(DESC, 1, TABLE, 3 * 16, INDIRECT, 0);
	desc(TABLE, 0, DATA + 0x100, 8, NEXT, 2);
	desc(TABLE, 2, DATA + 0x200, 512, WRITE, 0);
	EQ(pop_one(0), 1);
	EQ(c.out_len, 24);
	EQ(c.in_len, 512);
	desc(DESC, 1, TABLE + 4, 16, INDIRECT, 0); /* at any alignment */
	memmove(ptr(TABLE + 4), ptr(TABLE + 32), 16);
	EQ(pop_one(1), 1);
	EQ(c.in_len, 512);
}

TEST(vq_takes_an_indirect_table_longer_than_the_queue)
{
	set_up(VIRTIO_F_INDIRECT_DESC);
	for (u16 i = 0; i < VQ_MAX; i++)
		desc(TABLE, i, DATA + i, 1, (i < VQ_MAX - 1 ? NEXT : 0), i + 1);
	desc(DESC, 0, TABLE, VQ_MAX * 16, INDIRECT, 0);
	EQ(pop_one(0), 1);
	EQ(c.out_n, VQ_MAX);
	desc(TABLE, VQ_MAX - 1, DATA, 1, NEXT, 0); /* but not for ever */
	EQ(pop_one(0), -EPROTO);
}

TEST(vq_refuses_bad_indirect_tables)
{
	/* clang-format off */
	static const struct { gpa_t at; u32 len; u16 flags; } bad[] = {
		{ TABLE, 0, INDIRECT }, { TABLE, 15, INDIRECT }, { TABLE, 17, INDIRECT },
		{ TABLE, 16, INDIRECT | NEXT }, { RAM, 16, INDIRECT }, { RAM - 8, 16, INDIRECT },
		{ ~0ull - 15, 32, INDIRECT }, { ~0ull - 15, 16, INDIRECT },
	};
	/* clang-format on */

	set_up(VIRTIO_F_INDIRECT_DESC);
	desc(TABLE, 0, DATA, 16, 0, 0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		desc(DESC, 0, bad[i].at, bad[i].len, bad[i].flags, 1);
		EQ(pop_one(0), -EPROTO);
		st16(ptr(AVAIL + 2), 0);
	}
	desc(DESC, 0, TABLE, 32, INDIRECT, 0);
	desc(TABLE, 0, TABLE, 16, INDIRECT, 0); /* tables do not nest */
	EQ(pop_one(0), -EPROTO);
	st16(ptr(AVAIL + 2), 0);
	desc(TABLE, 0, DATA, 16, NEXT, 2); /* a link past its end */
	EQ(pop_one(0), -EPROTO);
}

TEST(vq_refuses_indirect_tables_that_were_not_negotiated)
{
	set_up(0);
	desc(DESC, 0, TABLE, 16, INDIRECT, 0);
	desc(TABLE, 0, DATA, 16, 0, 0);
	EQ(pop_one(0), -EPROTO);
}

TEST(vq_size_and_place_stay_as_they_were_at_start)
{
	set_up(0);
	desc(DESC, 0, DATA, 16, 0, 0);
	qs.size = 0x8000; /* what a register written later would leave */
	for (int i = 0; i < 3 * SIZE; i++) {
		q.budget = SIZE;
		u16 idx = ld16(ptr(AVAIL + 2));

		st16(ptr(AVAIL + 4 + idx % SIZE * 2u), 0);
		st16(ptr(AVAIL + 2), idx + 1);
		EQ(vq_pop(&q, &c), 1);
		vq_push(&q, &c, 0);
	}
	EQ(ld16(ptr(USED + 2)), 3 * SIZE);
	EQ(ld32(ptr(USED + 4 + SIZE * 8)), 0); /* nothing past the ring */
}

TEST(vq_indices_wrap_at_65536)
{
	set_up(0);
	desc(DESC, 0, DATA, 16, 0, 0);
	qs.last_avail = qs.used_idx = qs.signalled = 0xfffe;
	st16(ptr(AVAIL + 2), 0xfffe);
	for (int i = 0; i < 4; i++) {
		EQ(pop_one(0), 1);
		vq_push(&q, &c, 0);
		OK(vq_wants_signal(&q));
	}
	EQ(ld16(ptr(USED + 2)), 2);
}

TEST(vq_pass_ends_when_its_budget_does)
{
	set_up(0);
	desc(DESC, 0, DATA, 16, 0, 0);
	q.budget = 2;
	st16(ptr(AVAIL + 2), 4);
	EQ(vq_pop(&q, &c), 1);
	EQ(vq_pop(&q, &c), 1);
	EQ(vq_pop(&q, &c), 0);
	OK(vq_kick_on(&q));
}

TEST(vq_signal_obeys_the_no_interrupt_flag)
{
	set_up(0);
	desc(DESC, 0, DATA, 16, 0, 0);
	EQ(pop_one(0), 1);
	OK(!vq_wants_signal(&q)); /* nothing pushed */
	vq_push(&q, &c, 0);
	OK(vq_wants_signal(&q));
	OK(!vq_wants_signal(&q)); /* told once */
	st16(ptr(AVAIL), 1);
	EQ(pop_one(0), 1);
	vq_push(&q, &c, 0);
	OK(!vq_wants_signal(&q));
}

TEST(vq_signal_obeys_the_event_index)
{
	gpa_t used_event = AVAIL + 4 + SIZE * 2, avail_event = USED + 4 + SIZE * 8;

	set_up(VIRTIO_F_EVENT_IDX);
	desc(DESC, 0, DATA, 16, 0, 0);
	st16(ptr(used_event), 2); /* wake me at the third */
	st16(ptr(AVAIL), 1); /* the flag counts no more */
	for (int i = 0; i < 5; i++) {
		EQ(pop_one(0), 1);
		vq_push(&q, &c, 0);
		EQ(vq_wants_signal(&q), i == 2);
	}
	vq_kick_off(&q);
	EQ(ld16(ptr(USED)), 0);
	OK(!vq_kick_on(&q));
	EQ(ld16(ptr(avail_event)), 5);
	offer(0);
	OK(vq_kick_on(&q));
}

static gpa_t watched;
static u16 seen;

/* A driver that acts just while the device stands at its fence. */
static void driver_at_fence(void)
{
	seen = ld16(ptr(watched));
	if (watched == USED + 2)
		st16(ptr(AVAIL + 4 + SIZE * 2), seen - 1); /* tell me of the last one */
	else
		offer(0);
}

TEST(vq_fences_between_its_own_index_and_the_drivers)
{
	set_up(VIRTIO_F_EVENT_IDX);
	desc(DESC, 0, DATA, 16, 0, 0);
	EQ(pop_one(0), 1);
	mem.fence = driver_at_fence;
	watched = USED + 2;
	st16(ptr(AVAIL + 4 + SIZE * 2), 77); /* not of this one */
	vq_push(&q, &c, 0);
	OK(vq_wants_signal(&q));
	EQ(seen, 1);
	watched = USED + 4 + SIZE * 8;
	OK(vq_kick_on(&q));
	EQ(seen, 1);
	mem.fence = NULL;
}

TEST(vq_kick_off_and_on_use_the_flag_without_the_event_index)
{
	set_up(0);
	vq_kick_off(&q);
	EQ(ld16(ptr(USED)), 1);
	vq_kick_on(&q);
	EQ(ld16(ptr(USED)), 0);
}

TEST(vq_chain_take_crosses_buffers_and_cut_last_takes_the_last_byte)
{
	u8 head[16];
	gpa_t at;

	set_up(0);
	for (u8 i = 0; i < 32; i++)
		*ptr(DATA + i) = i;
	desc(DESC, 0, DATA, 3, NEXT, 1);
	desc(DESC, 1, DATA + 3, 20, NEXT, 2);
	desc(DESC, 2, DATA + 0x100, 10, WRITE | NEXT, 3);
	desc(DESC, 3, DATA + 0x200, 1, WRITE, 0);
	EQ(pop_one(0), 1);
	EQ(chain_take(&c, head, 16), 16);
	EQ(head[15], 15);
	EQ(c.out_n, 1);
	EQ(c.out_len, 7);
	OK(chain_cut_last(&c, &at));
	EQ(at, DATA + 0x200);
	EQ(c.in_n, 1);
	EQ(c.in_len, 10);
	OK(chain_cut_last(&c, &at));
	EQ(at, DATA + 0x109);
	EQ(chain_take(&c, head, 16), 7);
	EQ(head[6], 22);
	EQ(chain_take(&c, head, 16), 0);
	EQ(chain_give(&c, head, 16), 9);
	while (chain_cut_last(&c, &at))
		;
	EQ(c.in_n, 0);
}

/* Another vCPU rewrites a descriptor while it is read: what vq_pop accepts must be what it
 * checked. */
static bool stop;

static void *rewrite(void *arg)
{
	static const u64 good[] = { DATA, (u64)WRITE << 32 | 64 };
	static const u64 bad[] = { RAM + 0x100000, (u64)(NEXT | INDIRECT) << 32 | 0xffffffff };
	u64 *p = (u64 *)ptr(DESC);

	for (u32 i = 0; !__atomic_load_n(&stop, __ATOMIC_SEQ_CST); i++) {
		__atomic_store_n(&p[i & 1], (i & 2 ? bad : good)[i & 1], __ATOMIC_SEQ_CST);
		if (i % 61 == 0) /* in each of the four states */
			sched_yield();
	}
	return NULL;
}

TEST(vq_uses_only_the_copy_of_a_descriptor_that_it_checked)
{
	u32 taken = 0, refused = 0;
	pthread_t t;

	set_up(VIRTIO_F_INDIRECT_DESC);
	OK(pthread_create(&t, NULL, rewrite, NULL) == 0);
	for (int i = 0; i < 10000000 && (i < 20000 || taken < 100 || refused < 100); i++) {
		q.budget = SIZE;
		st16(ptr(AVAIL + 2), qs.last_avail + 1);
		int rc = vq_pop(&q, &c);

		OK(rc == 1 || rc == -EPROTO);
		refused += rc < 0;
		taken += rc > 0;
		if (rc < 0)
			continue;
		for (u32 k = 0; k < (u32)c.in_n + c.out_n; k++)
			OK((u8 *)c.iov[k].iov_base >= ptr(0) &&
			   (u8 *)c.iov[k].iov_base + c.iov[k].iov_len <= ptr(0) + RAM);
		vq_push(&q, &c, 0);
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	pthread_join(t, NULL);
	OK(taken && refused);
}
