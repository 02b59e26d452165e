/* virtio.c - whole sessions of the fake driver with each kind: what Linux does, in its order. */
#include <fcntl.h>
#include <unistd.h>

#include "../../host/image.h"
#include "virtio_driver.h"

#define ALL_FEATURES (~0ull)

TEST(virtio_rng_serves_a_linux_like_driver)
{
	struct drv d;

	drv_open(&d, &virtio_rng_mmio_ops, NULL);
	EQ(r32(&d, R_DEVICE_ID), 4);
	drv_start(&d, ALL_FEATURES, 8);
	for (u32 round = 0; round < 70000; round += 1000) {
		u8 *data = drv_ptr(&d, DRV_DATA);
		u32 zeros = 0;

		memset(data, 0, 64);
		drv_add(&d, (struct buf[]){ { DRV_DATA, 64, D_WRITE } }, 1);
		drv_kick(&d);
		EQ(drv_wait(&d), 64);
		for (int i = 0; i < 64; i++)
			zeros += !data[i];
		OK(zeros < 16);
	}
	OK(d.edges);
	drv_close(&d);
}

static int image_file(char *path)
{
	const char *dir = getenv("TMPDIR");
	int fd;

	sprintf(path, "%s/mvm-conform-XXXXXX", dir ? dir : "/tmp");
	fd = mkstemp(path);
	OK(fd >= 0);
	return fd;
}

/* Write pattern sectors, flush, read them back, with every feature and with none. */
static void blk_session(u64 features)
{
	char path[256];
	int fd = image_file(path);
	struct image *im;
	struct err e;
	struct drv d;

	OK(ftruncate(fd, 1 << 20) == 0);
	EQ(image_open(&im, &(struct image_opts){ .path = path }, &e), 0);
	struct blk_setup setup = { .image = im, .serial = "conform" };

	drv_open(&d, &virtio_blk_mmio_ops, &setup);
	EQ(r32(&d, R_DEVICE_ID), 2);
	EQ(r32(&d, R_CONFIG), (1 << 20) / 512);
	drv_start(&d, features, 16);
	gpa_t header = DRV_DATA, data = DRV_DATA + 0x1000, status = DRV_DATA + 0x800;

	for (u32 sector = 0; sector < 2048; sector += 64) {
		u8 *p = drv_ptr(&d, data);

		st32(drv_ptr(&d, header), 1);
		st32(drv_ptr(&d, header + 4), 0);
		st64(drv_ptr(&d, header + 8), sector);
		for (u32 i = 0; i < 4096; i += 4)
			st32(p + i, sector * 0x10001 + i);
		*(u8 *)drv_ptr(&d, status) = 0xff;
		drv_add(&d,
			(struct buf[]){
				{ header, 16, 0 }, { data, 4096, 0 }, { status, 1, D_WRITE } },
			3);
		drv_kick(&d);
		EQ(drv_wait(&d), 1);
		EQ(*(u8 *)drv_ptr(&d, status), 0);
		memset(p, 0, 4096);
		st32(drv_ptr(&d, header), 0);
		drv_add(&d,
			(struct buf[]){ { header, 16, 0 },
					{ data, 4096, D_WRITE },
					{ status, 1, D_WRITE } },
			3);
		drv_kick(&d);
		EQ(drv_wait(&d), 4097);
		EQ(ld32(p + 4092), sector * 0x10001 + 4092);
	}
	st32(drv_ptr(&d, header), 4);
	drv_add(&d, (struct buf[]){ { header, 16, 0 }, { status, 1, D_WRITE } }, 2);
	drv_kick(&d);
	EQ(drv_wait(&d), 1);
	EQ(*(u8 *)drv_ptr(&d, status), 0);
	drv_close(&d);
	image_close(im);
	unlink(path);
	close(fd);
}

TEST(virtio_blk_serves_a_linux_like_driver)
{
	blk_session(ALL_FEATURES);
}

TEST(virtio_blk_serves_a_driver_that_wants_nothing)
{
	blk_session(0);
}
