/* hostile.c - drivers that break every rule of the ring and of requests, on each kind of device,
 * with all features and with none: the device goes on or asks for a reset, and after one serves an
 * honest driver.
 * Source: virtio 1.2 §2.7 (what a driver must and must not), §5.2.6, §5.4. */
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "../../host/image.h"
#include "virtio_driver.h"

enum {
	DATA = DRV_DATA,
	TABLE = DRV_DATA + 0x4000, /* an indirect one */
	STATUS = DRV_DATA + 0x800,
	END = DRV_RAM,
	SIZE = 8,
	N = D_NEXT, W = D_WRITE, I = D_INDIRECT,
};

struct hostile_desc {
	u64 addr;
	u32 len;
	u16 flags, next;
};

static const struct hostile {
	const char *what;
	struct hostile_desc d[3], indirect[2];
	u16 head[4], heads; /* heads 0: head[0] once */
	u16 jump;           /* of the available index, beyond the heads */
	bool poison;        /* the used ring, the flags and both event indices */
} hostiles[] = {
	{ "ends in itself", .d = { { DATA, 16, N, 0 } } },
	{ "two that end in each other", .d = { { DATA, 16, N, 1 }, { DATA, 16, N, 0 } } },
	{ "link to the table's end", .d = { { DATA, 16, N, SIZE } } },
	{ "link far outside", .d = { { DATA, 16, N, 0xffff } } },
	{ "address zero", .d = { { 0, 16, 0, 0 } } },
	{ "address past RAM", .d = { { END, 16, W, 0 } } },
	{ "end past RAM", .d = { { END - 8, 16, W, 0 } } },
	{ "end past RAM, readable", .d = { { END - 8, 16, 0, 0 } } },
	{ "address at the top", .d = { { -8ull, 16, W, 0 } } },
	{ "address and length wrap", .d = { { -4096ull, -1u, W, 0 } } },
	{ "nothing, writable", .d = { { DATA, 0, W, 0 } } },
	{ "nothing at all", .d = { { 0, 0, 0, 0 } } },
	{ "length of 4 GiB", .d = { { DATA, -1u, W, 0 } } },
	{ "lengths add up past 4 GiB",
	  .d = { { DATA, -1u, N, 1 }, { DATA, -1u, N, 2 }, { STATUS, -1u, W, 0 } } },
	{ "readable after writable",
	  .d = { { DATA, 16, N | W, 1 }, { DATA, 16, N, 2 }, { STATUS, 1, W, 0 } } },
	{ "header alone", .d = { { DATA, 16, 0, 0 } } },
	{ "status alone", .d = { { STATUS, 1, W, 0 } } },
	{ "header too short", .d = { { DATA, 8, N, 1 }, { STATUS, 1, W, 0 } } },
	{ "header writable", .d = { { DATA, 16, N | W, 1 }, { STATUS, 1, W, 0 } } },
	{ "status readable", .d = { { DATA, 16, N, 1 }, { STATUS, 1, 0, 0 } } },
	{ "status of no length", .d = { { DATA, 16, N, 1 }, { STATUS, 0, W, 0 } } },
	{ "data of one byte",
	  .d = { { DATA, 16, N, 1 }, { TABLE, 1, N | W, 2 }, { STATUS, 1, W, 0 } } },
	{ "data past RAM",
	  .d = { { DATA, 16, N, 1 }, { END, 512, N | W, 2 }, { STATUS, 1, W, 0 } } },
	{ "data over the ring itself",
	  .d = { { DATA, 16, N, 1 }, { 0x1000, 4096, N | W, 2 }, { STATUS, 1, W, 0 } } },
	{ "writable over the ring itself", .d = { { 0x1000, 4096, W, 0 } } },
	{ "all flags", .d = { { DATA, 16, 0xffff, 1 }, { STATUS, 1, 0xffff, 2 } } },
	{ "all ones", .d = { { -1ull, -1u, 0xffff, 0xffff } } },
	{ "indirect table of no length", .d = { { TABLE, 0, I, 0 } } },
	{ "indirect table of one and a half",
	  .d = { { TABLE, 24, I, 0 } }, .indirect = { { DATA, 16, W, 0 } } },
	{ "indirect table of 4 GiB",
	  .d = { { TABLE, -16u, I, 0 } }, .indirect = { { DATA, 16, W, 0 } } },
	{ "indirect table past RAM", .d = { { END, 32, I, 0 } } },
	{ "indirect table across RAM's end", .d = { { END - 16, 32, I, 0 } } },
	{ "indirect table at the top", .d = { { -16ull, 32, I, 0 } } },
	{ "indirect table unaligned", .d = { { TABLE + 1, 32, I, 0 } } },
	{ "indirect and next",
	  .d = { { TABLE, 32, I | N, 1 }, { STATUS, 1, W, 0 } },
	  .indirect = { { DATA, 16, 0, 0 } } },
	{ "indirect and writable",
	  .d = { { TABLE, 32, I | W, 0 } }, .indirect = { { DATA, 16, W, 0 } } },
	{ "indirect in indirect",
	  .d = { { TABLE, 32, I, 0 } }, .indirect = { { TABLE, 32, I, 0 } } },
	{ "indirect that ends in itself",
	  .d = { { TABLE, 32, I, 0 } }, .indirect = { { DATA, 16, N, 0 } } },
	{ "indirect link outside",
	  .d = { { TABLE, 32, I, 0 } }, .indirect = { { DATA, 16, N, 2 } } },
	{ "indirect buffer past RAM",
	  .d = { { TABLE, 32, I, 0 } }, .indirect = { { DATA, 16, N, 1 }, { END, 1, W, 0 } } },
	{ "the same head four times",
	  .d = { { DATA, 64, W, 0 } }, .head = { 0, 0, 0, 0 }, .heads = 4 },
	{ "head at the table's end", .d = { { DATA, 64, W, 0 } }, .head = { SIZE }, .heads = 1 },
	{ "heads far outside",
	  .d = { { DATA, 64, W, 0 } }, .head = { 0xffff, 0x8000 }, .heads = 2 },
	{ "index ahead by more than the queue", .d = { { DATA, 64, W, 0 } }, .jump = SIZE + 1 },
	{ "index half way round", .d = { { DATA, 64, W, 0 } }, .jump = 0x8000 },
	{ "index backwards", .d = { { DATA, 64, W, 0 } }, .jump = 0xfffe },
	{ "poisoned rings", .d = { { DATA, 64, W, 0 } }, .poison = true },
};

static void hostile_write(struct drv *d, const struct hostile *h)
{
	for (u16 i = 0; i < ARRAY_LEN(h->d); i++)
		drv_desc(d, d->desc, i, h->d[i].addr, h->d[i].len, h->d[i].flags, h->d[i].next);
	for (u16 i = 0; i < ARRAY_LEN(h->indirect); i++)
		drv_desc(d, TABLE, i, h->indirect[i].addr, h->indirect[i].len, h->indirect[i].flags,
			 h->indirect[i].next);
	if (h->poison) {
		memset(drv_ptr(d, d->used), 0xff, 4 + 8 * SIZE + 2);
		st16(drv_ptr(d, d->avail), 0xffff);
		st16(drv_ptr(d, d->avail + 4 + 2 * SIZE), 0xffff);
	}
	for (u16 i = 0; i < MAX(h->heads, 1); i++)
		drv_offer(d, h->head[i]);
	d->avail_idx = (u16)(d->avail_idx + h->jump);
	st16(drv_ptr(d, d->avail + 2), d->avail_idx);
}

/* Twice, since the second must be as harmless; then what workers do comes to the loop. */
static void hostile_try(struct drv *d, const struct hostile *h)
{
	struct timespec pause = { 0, 100000 };
	u32 status;

	memset(drv_ptr(d, DRV_DATA), 0, 0x8000);
	hostile_write(d, h);
	drv_kick(d);
	drv_kick(d);
	for (int i = 0; i < 5; i++) {
		loop_advance(d->loop, 0);
		nanosleep(&pause, NULL);
	}
	status = r32(d, R_STATUS) & ~(u32)VSTATUS_NEEDS_RESET;
	if (status != 15)
		test_fail(__FILE__, __LINE__, "%s: status %#x", h->what, status);
}

static void rng_serves(struct drv *d, const char *what)
{
	drv_add(d, (struct buf[]){ { DATA, 64, W } }, 1);
	drv_kick(d);
	if (drv_wait(d) != 64)
		test_fail(__FILE__, __LINE__, "%s: no entropy afterwards", what);
}

static void blk_serves(struct drv *d, const char *what)
{
	memset(drv_ptr(d, DATA), 0, 16);
	*(u8 *)drv_ptr(d, STATUS) = 0xff;
	drv_add(d, (struct buf[]){ { DATA, 16, 0 }, { TABLE, 512, W }, { STATUS, 1, W } }, 3);
	drv_kick(d);
	if (drv_wait(d) != 513 || *(u8 *)drv_ptr(d, STATUS))
		test_fail(__FILE__, __LINE__, "%s: no sector afterwards", what);
}

static void hostile_run(const struct device_ops *ops, void *arg,
			void (*serves)(struct drv *d, const char *what))
{
	static const u64 features[] = { 0, VIRTIO_F_INDIRECT_DESC, ~0ull };
	struct drv d;

	drv_open(&d, ops, arg);
	for (size_t f = 0; f < ARRAY_LEN(features); f++)
		for (size_t i = 0; i < ARRAY_LEN(hostiles); i++) {
			drv_start(&d, features[f], SIZE);
			hostile_try(&d, &hostiles[i]);
			drv_start(&d, features[f], SIZE);
			serves(&d, hostiles[i].what);
		}
	drv_close(&d);
}

TEST(virtio_rng_outlives_hostile_rings)
{
	hostile_run(&virtio_rng_mmio_ops, NULL, rng_serves);
}

TEST(virtio_blk_outlives_hostile_rings)
{
	const char *dir = getenv("TMPDIR");
	char path[256];
	struct image *im;
	struct err e;
	int fd;

	snprintf(path, sizeof path, "%s/mvm-hostile-XXXXXX", dir ? dir : "/tmp");
	fd = mkstemp(path);
	OK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	EQ(image_open(&im, &(struct image_opts){ .path = path }, &e), 0);
	struct blk_setup setup = { .image = im, .serial = "hostile" };

	hostile_run(&virtio_blk_mmio_ops, &setup, blk_serves);
	image_close(im);
	unlink(path);
	close(fd);
}
