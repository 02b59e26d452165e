/* blk.c - the block device on an image of our own making: memory whose calls can be counted, held
 * up and made to fail. */
#include <semaphore.h>
#include <unistd.h>

#include "../../host/image.h"
#include "../conform/virtio_driver.h"

enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { SECTORS = 64, HEADER = DRV_DATA, STATUS = DRV_DATA + 0x100, DATA = DRV_DATA + 0x1000 };
enum { ID_BYTES = 20 };

/* --- the image -------------------------------------------------------------------------------- */
static u8 store[SECTORS * 512];
static u32 reads, nowait_reads, writes, flushes, discards, zeroes;
static bool cached, last_unmap; /* readv_nowait succeeds */
static int fail; /* -errno of every call, or 0 */
static _Atomic bool hold; /* workers wait for `go` in each call */
static sem_t entered, go;

static int begin(u32 *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
	if (hold) {
		sem_post(&entered);
		sem_wait(&go);
	}
	return fail;
}

static int copy(const struct iovec *iov, u32 n, u64 off, bool in)
{
	for (u32 i = 0; i < n; off += iov[i++].iov_len) {
		OK(off + iov[i].iov_len <= sizeof store);
		if (in)
			memcpy(iov[i].iov_base, store + off, iov[i].iov_len);
		else
			memcpy(store + off, iov[i].iov_base, iov[i].iov_len);
	}
	return 0;
}

static int fake_readv(struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	int rc = begin(&reads);

	return rc ? rc : copy(iov, n, off, true);
}

static int fake_readv_nowait(struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	nowait_reads++;
	return cached ? copy(iov, n, off, true) : -EAGAIN;
}

static int fake_writev(struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	int rc = begin(&writes);

	return rc ? rc : copy(iov, n, off, false);
}

static int fake_flush(struct image *im)
{
	return begin(&flushes);
}

static int fake_discard(struct image *im, u64 off, u64 len)
{
	OK(off + len <= sizeof store && len);
	return begin(&discards);
}

static int fake_write_zeroes(struct image *im, u64 off, u64 len, bool unmap)
{
	int rc = begin(&zeroes);

	OK(off + len <= sizeof store && len);
	last_unmap = unmap;
	memset(store + off, 0, len);
	return rc;
}

static const struct image_ops fake_ops = {
	.name = "fake",
	.readv = fake_readv,
	.readv_nowait = fake_readv_nowait,
	.writev = fake_writev,
	.flush = fake_flush,
	.discard = fake_discard,
	.write_zeroes = fake_write_zeroes,
};

static struct image image;
static struct blk_setup setup;
static struct drv d;

static void open_disk(u64 features, bool ro)
{
	sem_init(&entered, 0, 0);
	sem_init(&go, 0, 0);
	for (u32 i = 0; i < sizeof store; i++)
		store[i] = (u8)(i / 512 + 1);
	image = (struct image){ .ops = &fake_ops,
				.path = "fake",
				.fd = -1,
				.ro = ro,
				.bytes = sizeof store,
				.block = 512,
				.phys_block = 4096 };
	setup = (struct blk_setup){ .image = &image, .serial = "0123456789abcdefghij" };
	drv_open(&d, &virtio_blk_mmio_ops, &setup);
	drv_start(&d, features, 16);
}

/* --- requests --------------------------------------------------------------------------------- */
static void header(u32 type, u64 sector)
{
	u8 *h = drv_ptr(&d, HEADER);

	st32(h, type);
	st32(h + 4, 0);
	st64(h + 8, sector);
	*(u8 *)drv_ptr(&d, STATUS) = 0xee;
}

static u8 finish(void)
{
	drv_kick(&d);
	drv_wait(&d);
	EQ(r32(&d, R_STATUS), 15);
	return *(u8 *)drv_ptr(&d, STATUS);
}

static u8 request(u32 type, u64 sector, u32 len, u16 data_flags)
{
	header(type, sector);
	drv_add(&d,
		(struct buf[]){
			{ HEADER, 16, 0 }, { DATA, len, data_flags }, { STATUS, 1, D_WRITE } },
		3);
	return finish();
}

static void range(u32 i, u64 sector, u32 sectors, u32 flags)
{
	u8 *p = drv_ptr(&d, DATA + i * 16);

	st64(p, sector);
	st32(p + 8, sectors);
	st32(p + 12, flags);
}

TEST(blk_config_space_tells_the_disk)
{
	open_disk(~0ull, false);
	EQ(r32(&d, R_CONFIG), SECTORS);
	EQ(r32(&d, R_CONFIG + 4), 0);
	EQ(r32(&d, R_CONFIG + 12), VQ_MAX - 2); /* seg_max */
	EQ(r32(&d, R_CONFIG + 20), 512); /* blk_size */
	EQ(r32(&d, R_CONFIG + 24), 3 | 8 << 16); /* 4 KiB physical, min_io 8 blocks */
	EQ(r32(&d, R_CONFIG + 32) & 0xff, 1); /* write-back */
	OK(r32(&d, R_CONFIG + 36) && r32(&d, R_CONFIG + 40) && r32(&d, R_CONFIG + 44));
	OK(r32(&d, R_CONFIG + 48) && r32(&d, R_CONFIG + 52));
	EQ(d.dev->ops->read(d.dev, 0, R_CONFIG + 56, 1), 1);
	EQ(to_vdev(d.dev)->features & BIT(5), 0);
	drv_close(&d);
}

TEST(blk_reads_and_writes_sectors)
{
	open_disk(~0ull, false);
	for (u64 sector = 0; sector < SECTORS; sector += 4) {
		memset(drv_ptr(&d, DATA), 0, 2048);
		EQ(request(IN, sector, 2048, D_WRITE), S_OK);
		EQ(*(u8 *)drv_ptr(&d, DATA), sector + 1);
		EQ(*(u8 *)drv_ptr(&d, DATA + 2047), sector + 4);
		memset(drv_ptr(&d, DATA), 0x80 + (int)sector, 2048);
		EQ(request(OUT, sector, 2048, 0), S_OK);
		EQ(store[sector * 512], 0x80 + sector);
		EQ(store[sector * 512 + 2047], 0x80 + sector);
	}
	EQ(reads, SECTORS / 4);
	EQ(writes, SECTORS / 4);
	drv_close(&d);
}

TEST(blk_reads_what_is_cached_without_a_worker)
{
	u32 head, len;

	cached = true;
	open_disk(~0ull, false);
	header(IN, 5);
	drv_add(&d,
		(struct buf[]){ { HEADER, 16, 0 }, { DATA, 512, D_WRITE }, { STATUS, 1, D_WRITE } },
		3);
	drv_kick(&d);
	OK(drv_used(&d, &head, &len)); /* already */
	EQ(len, 513);
	EQ(*(u8 *)drv_ptr(&d, DATA), 6);
	EQ(reads, 0);
	OK(d.line);
	drv_close(&d);
}

TEST(blk_takes_any_framing_of_a_request)
{
	/* clang-format off */
	static const struct { u32 out[3], in[3]; } frames[] = { /* §2.7.4: lengths mean nothing */
		{ { 16 }, { 512, 1 } },       { { 16 }, { 513 } },
		{ { 1, 15 }, { 511, 2 } },    { { 8, 4, 4 }, { 1, 511, 1 } },
		{ { 16 }, { 256, 256, 1 } },  { { 15, 1 }, { 500, 12, 1 } },
	};
	/* clang-format on */

	open_disk(~0ull, false);
	for (size_t f = 0; f < ARRAY_LEN(frames); f++) {
		struct buf b[6];
		u32 n = 0, at = 0;

		header(IN, 7);
		for (int i = 0; i < 3 && frames[f].out[i]; at += frames[f].out[i++])
			b[n++] = (struct buf){ HEADER + at, frames[f].out[i], 0 };
		at = 0;
		for (int i = 0; i < 3 && frames[f].in[i]; at += frames[f].in[i++])
			b[n++] = (struct buf){ DATA + at, frames[f].in[i], D_WRITE };
		memset(drv_ptr(&d, DATA), 0xee, 520);
		drv_add(&d, b, n);
		drv_kick(&d);
		EQ(drv_wait(&d), 513);
		EQ(*(u8 *)drv_ptr(&d, DATA + 511), 8);
		EQ(*(u8 *)drv_ptr(&d, DATA + 512), S_OK);
		EQ(*(u8 *)drv_ptr(&d, DATA + 513), 0xee);
	}
	drv_close(&d);
}

TEST(blk_write_data_may_share_a_buffer_with_the_header)
{
	open_disk(~0ull, false);
	header(OUT, 3);
	memset(drv_ptr(&d, HEADER + 16), 0x77, 512);
	drv_add(&d, (struct buf[]){ { HEADER, 16 + 512, 0 }, { DATA, 1, D_WRITE } }, 2);
	drv_kick(&d);
	EQ(drv_wait(&d), 1);
	EQ(*(u8 *)drv_ptr(&d, DATA), S_OK);
	EQ(store[3 * 512 + 511], 0x77);
	EQ(store[4 * 512], 5);
	drv_close(&d);
}

TEST(blk_refuses_sectors_outside_the_disk)
{
	/* clang-format off */
	static const struct { u64 sector; u32 len; u8 status; } rows[] = {
		{ SECTORS - 1, 512, S_OK },
		{ SECTORS - 1, 1024, S_IOERR },
		{ SECTORS, 512, S_IOERR },
		{ SECTORS, 0, S_OK },
		{ ~0ull, 512, S_IOERR },
		{ 1ull << 55, 512, S_IOERR },
		{ (1ull << 55) + 1, 512, S_IOERR },
		{ ~0ull >> 9, 1024, S_IOERR },
		{ 0, 511, S_IOERR },
		{ 0, 513, S_IOERR },
		{ 0, 0, S_OK },
		{ 0, SECTORS * 512, S_OK },
		{ 0, SECTORS * 512 + 512, S_IOERR },
		{ 1, SECTORS * 512, S_IOERR },
	};
	/* clang-format on */

	open_disk(~0ull, false);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		EQ(request(IN, rows[i].sector, rows[i].len, D_WRITE), rows[i].status);
		EQ(request(OUT, rows[i].sector, rows[i].len, 0), rows[i].status);
	}
	drv_close(&d);
}

TEST(blk_answers_unknown_types_with_unsupported)
{
	static const u32 types[] = { 2, 3, 5, 7, 9, 10, 12, 14, 15, 17, 24, 0x80000000, ~0u };

	open_disk(~0ull, false);
	for (size_t i = 0; i < ARRAY_LEN(types); i++)
		EQ(request(types[i], 0, 512, i & 1 ? D_WRITE : 0), S_UNSUPP);
	drv_close(&d);
}

TEST(blk_answers_a_short_header_with_an_error)
{
	open_disk(~0ull, false);
	header(IN, 0);
	drv_add(&d, (struct buf[]){ { HEADER, 15, 0 }, { STATUS, 1, D_WRITE } }, 2);
	EQ(finish(), S_IOERR);
	header(IN, 0);
	drv_add(&d, (struct buf[]){ { STATUS, 1, D_WRITE } }, 1);
	EQ(finish(), S_IOERR);
	drv_close(&d);
}

TEST(blk_breaks_on_a_request_without_room_for_a_status)
{
	open_disk(~0ull, false);
	header(OUT, 0);
	drv_add(&d, (struct buf[]){ { HEADER, 16, 0 }, { DATA, 512, 0 } }, 2);
	drv_kick(&d);
	OK(r32(&d, R_STATUS) & VSTATUS_NEEDS_RESET);
	EQ(writes, 0);
	drv_start(&d, ~0ull, 16);
	EQ(request(IN, 0, 512, D_WRITE), S_OK);
	drv_close(&d);
}

TEST(blk_get_id_gives_the_serial_number)
{
	open_disk(~0ull, false);
	memset(drv_ptr(&d, DATA), 0xee, 32);
	EQ(request(GET_ID, 0, ID_BYTES, D_WRITE), S_OK);
	EQ(memcmp(drv_ptr(&d, DATA), "0123456789abcdefghij", ID_BYTES), 0);
	EQ(*(u8 *)drv_ptr(&d, DATA + ID_BYTES), 0xee);
	EQ(request(GET_ID, 0, 4, D_WRITE), S_OK); /* less is asked, less is given */
	drv_close(&d);
}

/* --- durability ------------------------------------------------------------------------------- */

TEST(blk_flush_reaches_the_image)
{
	open_disk(~0ull, false);
	EQ(request(OUT, 0, 512, 0), S_OK);
	EQ(flushes, 0);
	EQ(request(FLUSH, 0, 0, 0), S_OK);
	EQ(flushes, 1);
	drv_close(&d);
}

TEST(blk_writes_through_when_the_driver_cannot_flush_or_turns_the_cache_off)
{
	open_disk(0, false);
	EQ(request(OUT, 0, 512, 0), S_OK);
	EQ(flushes, 1);
	drv_start(&d, BIT(9), 16); /* FLUSH alone: write-back */
	EQ(request(OUT, 0, 512, 0), S_OK);
	EQ(flushes, 1);
	d.dev->ops->write(d.dev, 0, R_CONFIG + 32, 1, 0); /* CONFIG_WCE is not negotiated */
	EQ(r32(&d, R_CONFIG + 32) & 0xff, 1);
	drv_start(&d, BIT(9) | BIT(11), 16);
	EQ(request(OUT, 0, 512, 0), S_OK);
	EQ(flushes, 1);
	d.dev->ops->write(d.dev, 0, R_CONFIG + 32, 1, 0);
	EQ(r32(&d, R_CONFIG + 32) & 0xff, 0);
	EQ(request(OUT, 0, 512, 0), S_OK);
	EQ(flushes, 2);
	w32(&d, R_STATUS, 0);
	EQ(r32(&d, R_CONFIG + 32) & 0xff, 1);
	drv_close(&d);
}

/* --- discard, write zeroes, read-only --------------------------------------------------------- */

TEST(blk_write_zeroes_and_discard_take_several_ranges)
{
	open_disk(~0ull, false);
	range(0, 2, 3, 0);
	range(1, 10, 1, 0);
	EQ(request(ZEROES, 0, 32, 0), S_OK);
	EQ(store[2 * 512 - 1], 2);
	EQ(store[2 * 512], 0);
	EQ(store[5 * 512 - 1], 0);
	EQ(store[5 * 512], 6);
	EQ(store[10 * 512], 0);
	EQ(zeroes, 2);
	OK(!last_unmap);
	range(0, 20, 1, 1);
	EQ(request(ZEROES, 0, 16, 0), S_OK);
	OK(last_unmap);
	range(0, 0, SECTORS, 0);
	EQ(request(DISCARD, 0, 16, 0), S_OK);
	EQ(discards, 1);
	drv_close(&d);
}

TEST(blk_refuses_bad_ranges)
{
	/* clang-format off */
	static const struct { u64 sector; u32 sectors, flags; u8 zeroes, discard; } rows[] = {
		{ 0, 1, 2, S_UNSUPP, S_UNSUPP }, { 0, 1, 1u << 31, S_UNSUPP, S_UNSUPP },
		{ 0, 1, 1, S_OK, S_UNSUPP }, { SECTORS, 1, 0, S_IOERR, S_IOERR },
		{ 1, SECTORS, 0, S_IOERR, S_IOERR }, { ~0ull, 1, 0, S_IOERR, S_IOERR },
		{ ~0ull, ~0u, 0, S_IOERR, S_IOERR }, { 0, ~0u, 0, S_IOERR, S_IOERR },
		{ 0, 1u << 23, 0, S_IOERR, S_IOERR }, { 1ull << 55, 1, 0, S_IOERR, S_IOERR },
		{ 0, 0, 0, S_IOERR, S_IOERR },
	};
	/* clang-format on */
	static const u32 lengths[] = { 0, 8, 15, 17, 33 * 16, 0x10000 };

	open_disk(~0ull, false);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		range(0, rows[i].sector, rows[i].sectors, rows[i].flags);
		EQ(request(ZEROES, 0, 16, 0), rows[i].zeroes);
		EQ(request(DISCARD, 0, 16, 0), rows[i].discard);
	}
	for (u32 i = 0; i < 0x1010; i++)
		range(i, 0, 1, 0);
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++)
		EQ(request(ZEROES, 0, lengths[i], 0), S_IOERR);
	EQ(request(ZEROES, 0, 32 * 16, 0), S_OK);
	drv_close(&d);
}

TEST(blk_read_only_disk_refuses_all_that_writes)
{
	open_disk(~0ull, true);
	OK(to_vdev(d.dev)->features & BIT(5));
	EQ(to_vdev(d.dev)->features & (BIT(13) | BIT(14)), 0);
	EQ(r32(&d, R_CONFIG + 36), 0);
	range(0, 0, 1, 0);
	EQ(request(OUT, 0, 512, 0), S_IOERR);
	EQ(request(DISCARD, 0, 16, 0), S_IOERR);
	EQ(request(ZEROES, 0, 16, 0), S_IOERR);
	EQ(request(FLUSH, 0, 0, 0), S_OK);
	EQ(request(IN, 0, 512, D_WRITE), S_OK);
	EQ(writes + discards + zeroes, 0);
	drv_close(&d);
}

TEST(blk_host_errors_become_the_guests)
{
	static const int errors[] = { -EIO, -ENOSPC, -EDQUOT, -EBADF };

	open_disk(~0ull, false);
	range(0, 0, 1, 0);
	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		fail = errors[i];
		EQ(request(IN, 0, 512, D_WRITE), S_IOERR);
		EQ(request(FLUSH, 0, 0, 0), S_IOERR);
		range(0, 0, 1, 0);
		EQ(request(ZEROES, 0, 16, 0), S_IOERR);
		EQ(request(DISCARD, 0, 16, 0), S_IOERR);
		EQ(request(OUT, 0, 512, 0), S_IOERR);
	}
	fail = 0;
	EQ(request(IN, 0, 512, D_WRITE), S_OK);
	drv_close(&d);
}

/* --- many at once ----------------------------------------------------------------------------- */

/* n one-sector requests of the type, each with its own header, status and data, in one indirect
 * table each so that the whole ring can be in flight. */
static void submit_many(u32 n, u32 type)
{
	for (u32 i = 0; i < n; i++) {
		gpa_t base = 0x20000 + i * 0x1000, table = base + 0x100;

		st32(drv_ptr(&d, base), type);
		st64(drv_ptr(&d, base + 8), i);
		*(u8 *)drv_ptr(&d, base + 16) = 0xee;
		drv_desc(&d, table, 0, base, 16, D_NEXT, 1);
		drv_desc(&d, table, 1, base + 0x800, 512, D_NEXT | (type == IN ? D_WRITE : 0), 2);
		drv_desc(&d, table, 2, base + 16, 1, D_WRITE, 0);
		drv_add(&d, (struct buf[]){ { table, 48, D_INDIRECT } }, 1);
	}
	drv_kick(&d);
}

TEST(blk_keeps_a_full_ring_of_requests_in_flight)
{
	open_disk(~0ull, false);
	hold = true;
	submit_many(16, IN);
	for (int i = 0; i < 4; i++)
		sem_wait(&entered); /* the workers */
	u32 head, len;

	loop_advance(d.loop, 0);
	OK(!drv_used(&d, &head, &len));
	hold = false;
	for (int i = 0; i < 16; i++)
		sem_post(&go);
	for (int i = 0; i < 16; i++)
		EQ(drv_wait(&d), 513);
	for (u32 i = 0; i < 16; i++)
		EQ(*(u8 *)drv_ptr(&d, 0x20000 + i * 0x1000 + 0x800), i + 1);
	drv_close(&d);
}

TEST(blk_quiesce_finishes_what_is_in_flight)
{
	u32 head, len;

	open_disk(~0ull, false);
	submit_many(16, OUT);
	d.dev->ops->quiesce(d.dev);
	EQ(writes, 16);
	for (int i = 0; i < 16; i++)
		OK(drv_used(&d, &head, &len));
	EQ(to_vdev(d.dev)->vq[0].inflight, 0);
	loop_advance(d.loop, 0);
	OK(!drv_used(&d, &head, &len));
	drv_close(&d);
}

/* Lets go of the workers that are held up, a moment after the reset began to wait for them: of as
 * many requests as there can be, if the reset is late itself. */
static void *release_later(void *arg)
{
	usleep(100000);
	for (int i = 0; i < 16; i++)
		sem_post(&go);
	return NULL;
}

static void drop_with(void (*drop)(void))
{
	u8 *data = drv_ptr(&d, 0x20800);
	pthread_t t;
	u32 head, len;

	hold = true;
	submit_many(16, IN);
	for (int i = 0; i < 4; i++)
		sem_wait(&entered);
	OK(pthread_create(&t, NULL, release_later, NULL) == 0);
	drop();
	/* From here on the memory is the driver's again. */
	hold = false;
	memset(data, 0x99, 512);
	pthread_join(t, NULL);
	EQ(reads, 4); /* the twelve that had not begun never ran */
	for (int i = 0; i < 3; i++)
		loop_advance(d.loop, 0);
	for (int i = 0; i < 512; i++)
		EQ(data[i], 0x99);
	OK(!drv_used(&d, &head, &len));
	OK(!d.line);
	drv_start(&d, ~0ull, 16);
	EQ(request(IN, 9, 512, D_WRITE), S_OK);
	EQ(*(u8 *)drv_ptr(&d, DATA), 10);
}

static void drop_by_reset(void)
{
	w32(&d, R_STATUS, 0);
}

static void drop_by_stop(void)
{
	w32(&d, R_QUEUE_READY, 0);
}

TEST(blk_reset_leaves_no_request_behind)
{
	open_disk(~0ull, false);
	drop_with(drop_by_reset);
	drv_close(&d);
}

TEST(blk_queue_stop_leaves_no_request_behind)
{
	open_disk(~0ull, false);
	drop_with(drop_by_stop);
	drv_close(&d);
}

TEST(blk_free_waits_for_its_workers)
{
	pthread_t t;

	open_disk(~0ull, false);
	hold = true;
	submit_many(16, IN);
	sem_wait(&entered);
	OK(pthread_create(&t, NULL, release_later, NULL) == 0);
	drv_close(&d); /* with the completion still posted, perhaps */
	pthread_join(t, NULL);
}

TEST(blk_broken_ring_does_not_stop_requests_in_flight)
{
	u32 head, len;

	open_disk(~0ull, false);
	hold = true;
	submit_many(2, OUT);
	sem_wait(&entered);
	sem_wait(&entered);
	drv_offer(&d, 0x7fff);
	drv_kick(&d);
	OK(r32(&d, R_STATUS) & VSTATUS_NEEDS_RESET);
	hold = false;
	sem_post(&go);
	sem_post(&go);
	d.dev->ops->quiesce(d.dev);
	OK(drv_used(&d, &head, &len));
	OK(drv_used(&d, &head, &len));
	drv_close(&d);
}

static u64 dirty_lo = ~0ull, dirty_hi;

static void note_dirty(void *ctx, gpa_t gpa, u64 len)
{
	dirty_lo = MIN(dirty_lo, gpa);
	dirty_hi = MAX(dirty_hi, gpa + len);
}

TEST(blk_memory_written_by_reads_is_reported_dirty)
{
	open_disk(~0ull, false);
	d.mem.written = note_dirty;
	EQ(request(IN, 0, 4096, D_WRITE), S_OK);
	EQ(dirty_hi, DATA + 4096);
	OK(dirty_lo <= STATUS);
	d.mem.written = NULL;
	drv_close(&d);
}

static void visit(struct state *st)
{
	st_begin(st, "blk", 1);
	d.dev->ops->state(d.dev, st);
	st_end(st);
	EQ(st->error, 0);
}

TEST(blk_state_goes_on_where_it_was_saved)
{
	struct state saved, st;

	open_disk(~0ull, false);
	d.dev->ops->write(d.dev, 0, R_CONFIG + 32, 1, 0); /* write-through */
	EQ(request(OUT, 1, 512, 0), S_OK);
	d.dev->ops->quiesce(d.dev);
	state_init_save(&saved);
	visit(&saved);
	hold = true;
	submit_many(4, IN); /* under way in the machine that the load replaces */
	sem_wait(&entered);
	for (int i = 0; i < 4; i++)
		sem_post(&go);
	hold = false;
	state_init_load(&st, saved.buf, saved.len);
	visit(&st);
	EQ(to_vdev(d.dev)->vq[0].inflight, 0);
	EQ(r32(&d, R_CONFIG + 32) & 0xff, 0);
	loop_advance(d.loop, 1000000); /* the four, seen in the ring, are done again */
	for (int i = 0; i < 4; i++)
		drv_wait(&d);
	EQ(request(OUT, 2, 512, 0), S_OK);
	EQ(flushes, 2);
	state_free(&saved);
	drv_close(&d);
}

/* A request of many ranges must not keep a reset waiting for all of them. */
TEST(blk_reset_waits_for_one_range_only)
{
	pthread_t t;

	open_disk(~0ull, false);
	for (u32 i = 0; i < 32; i++)
		range(i, i, 1, 0);
	hold = true;
	header(ZEROES, 0);
	drv_add(&d, (struct buf[]){ { HEADER, 16, 0 }, { DATA, 512, 0 }, { STATUS, 1, D_WRITE } },
		3);
	drv_kick(&d);
	sem_wait(&entered);
	OK(pthread_create(&t, NULL, release_later, NULL) == 0);
	w32(&d, R_STATUS, 0);
	EQ(zeroes, 1);
	pthread_join(t, NULL);
	drv_close(&d);
}
