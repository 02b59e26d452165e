/* rng.c - the entropy device. */
#include "../conform/virtio_driver.h"

static struct drv d;

TEST(rng_fills_all_buffers_of_a_chain)
{
	drv_open(&d, &virtio_rng_mmio_ops, NULL);
	drv_start(&d, ~0ull, 8);
	drv_add(&d,
		(struct buf[]){ { DRV_DATA, 300, D_WRITE }, { DRV_DATA + 0x1000, 300, D_WRITE } },
		2);
	drv_kick(&d);
	EQ(drv_wait(&d), 600);
	for (int part = 0; part < 2; part++) {
		const u8 *p = drv_ptr(&d, DRV_DATA + (gpa_t)part * 0x1000);
		u32 seen[256] = { 0 }, kinds = 0;

		for (int i = 0; i < 300; i++)
			kinds += !seen[p[i]]++;
		OK(kinds > 100); /* 176 expected of 300 throws */
		EQ(p[300], 0);
	}
	drv_close(&d);
}

TEST(rng_gives_64_kib_to_a_request_at_most)
{
	struct buf b[8];
	const u8 *p;

	drv_open(&d, &virtio_rng_mmio_ops, NULL);
	drv_start(&d, ~0ull, 8);
	for (int i = 0; i < 8; i++)
		b[i] = (struct buf){ DRV_DATA, 0x80000, D_WRITE };
	drv_add(&d, b, 8);
	drv_kick(&d);
	EQ(drv_wait(&d), 64 << 10);
	p = drv_ptr(&d, DRV_DATA + 0x10000);
	for (int i = 0; i < 4096; i++)
		EQ(p[i], 0);
	drv_close(&d);
}

TEST(rng_answers_a_chain_without_writable_buffers_with_no_bytes)
{
	drv_open(&d, &virtio_rng_mmio_ops, NULL);
	drv_start(&d, ~0ull, 8);
	drv_add(&d, (struct buf[]){ { DRV_DATA, 16, 0 } }, 1);
	drv_kick(&d);
	EQ(drv_wait(&d), 0);
	EQ(r32(&d, R_STATUS), 15);
	drv_close(&d);
}

TEST(rng_breaks_on_a_buffer_outside_ram)
{
	drv_open(&d, &virtio_rng_mmio_ops, NULL);
	drv_start(&d, ~0ull, 8);
	drv_add(&d, (struct buf[]){ { DRV_RAM, 16, D_WRITE } }, 1);
	drv_kick(&d);
	OK(r32(&d, R_STATUS) & VSTATUS_NEEDS_RESET);
	drv_close(&d);
}
