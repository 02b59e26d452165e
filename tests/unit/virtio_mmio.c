/* virtio_mmio.c - the registers of virtio-mmio and the status machine, seen by a driver; the device
 * behind them is the entropy device, or a small one of our own where configuration matters. */
#include <unistd.h>

#include "../conform/virtio_driver.h"
#include "../conform/virtio_toy.h"

static int toy_mmio_init(struct device *dev, struct err *e)
{
	return vmmio_init(dev, &toy_vops, e);
}

static const struct device_ops toy_mmio_ops = {
	.name = "toy",
	.version = 1,
	.bytes = sizeof(struct vdev),
	.init = toy_mmio_init,
	VMMIO_DEVICE_OPS,
};

static struct drv d;

static u64 rn(u64 off, unsigned size)
{
	return d.dev->ops->read(d.dev, 0, off, size);
}

static void wn(u64 off, unsigned size, u64 val)
{
	d.dev->ops->write(d.dev, 0, off, size, val);
}

/* --- registers -------------------------------------------------------------------------------- */

TEST(virtio_mmio_identifies_itself)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	EQ(r32(&d, R_MAGIC), 0x74726976);
	EQ(r32(&d, R_VERSION), 2);
	EQ(r32(&d, R_DEVICE_ID), 0x51);
	OK(r32(&d, R_VENDOR));
	EQ(r32(&d, R_STATUS), 0);
	EQ(r32(&d, R_QUEUE_MAX), 16);
	drv_close(&d);
}

TEST(virtio_mmio_header_takes_aligned_32_bit_accesses_only)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	EQ(rn(R_MAGIC, 1), 0);
	EQ(rn(R_MAGIC, 2), 0);
	EQ(rn(R_MAGIC, 8), 0);
	EQ(rn(R_MAGIC + 1, 4), 0);
	EQ(rn(R_MAGIC + 2, 2), 0);
	wn(R_STATUS, 1, 1);
	wn(R_STATUS, 2, 1);
	wn(R_STATUS, 8, 1);
	wn(R_STATUS + 2, 4, 1);
	EQ(r32(&d, R_STATUS), 0);
	drv_close(&d);
}

TEST(virtio_mmio_config_takes_any_width_and_nothing_past_its_end)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	EQ(rn(R_CONFIG, 1), 0x10);
	EQ(rn(R_CONFIG + 3, 2), 0x1413);
	EQ(rn(R_CONFIG + 1, 4), 0x14131211);
	EQ(rn(R_CONFIG, 8), 0x1716151413121110);
	EQ(rn(R_CONFIG + 6, 4), 0xffff1716);
	EQ(rn(R_CONFIG + 8, 8), -1);
	EQ(rn(VMMIO_LEN - 8, 8), -1);
	wn(R_CONFIG + 4, 2, 0xbeef);
	EQ(rn(R_CONFIG + 4, 2), 0xbeef);
	wn(R_CONFIG, 4, 0);
	EQ(rn(R_CONFIG, 4), 0x13121110);
	wn(R_CONFIG + 6, 4, 0);
	wn(VMMIO_LEN - 1, 1, 0);
	wn(VMMIO_LEN - 8, 8, 0);
	EQ(rn(R_CONFIG + 6, 2), 0x1716);
	drv_close(&d);
}

TEST(virtio_mmio_rng_has_no_config_space)
{
	drv_open(&d, &virtio_rng_mmio_ops, NULL);
	EQ(rn(R_CONFIG, 4), 0xffffffff);
	wn(R_CONFIG, 4, 0);
	drv_close(&d);
}

TEST(virtio_mmio_reads_write_only_and_unknown_registers_as_zero)
{
	static const u16 regs[] = { R_FEATURES_SEL, R_DRV_FEATURES, R_DRV_FEATURES_SEL,
				    R_QUEUE_SEL,    R_QUEUE_NUM,    R_NOTIFY,
				    R_ACK,	    R_DESC,	    R_DESC + 4,
				    R_AVAIL,	    R_USED,	    R_SHM_SEL,
				    R_RESET,	    0x18,	    0x1c,
				    0x28,	    0x3c,	    0xf8 };

	drv_open(&d, &toy_mmio_ops, NULL);
	for (size_t i = 0; i < ARRAY_LEN(regs); i++) {
		w32(&d, regs[i], 1);
		EQ(r32(&d, regs[i]), 0);
	}
	for (u32 sel = 0; sel < 3; sel++) { /* §4.2.2: a region that is not there has length -1 */
		w32(&d, R_SHM_SEL, sel);
		for (u64 r = R_SHM; r < R_SHM + 16; r += 4)
			EQ(r32(&d, r), 0xffffffff);
	}
	drv_close(&d);
}

TEST(virtio_mmio_survives_every_register_with_every_value)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	for (int i = 0; i < 200000; i++) {
		u64 r = test_random(), off = r % VMMIO_LEN;
		unsigned size = 1u << (r >> 20 & 3);
		u64 val = r >> 32 & (r >> 24 & 1 ? 0xf : r >> 25 & 1 ? 0xffff : ~0ull);

		off &= ~(u64)(size - 1);
		if (r >> 30 & 1)
			wn(off, size, val);
		else
			rn(off, size);
	}
	drv_start(&d, ~0ull, 16);
	drv_close(&d);
}

/* --- features and status ---------------------------------------------------------------------- */

TEST(virtio_mmio_offers_features_in_two_words)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	w32(&d, R_FEATURES_SEL, 0);
	EQ(r32(&d, R_FEATURES), BIT(3) | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
	w32(&d, R_FEATURES_SEL, 1);
	EQ(r32(&d, R_FEATURES), VIRTIO_F_VERSION_1 >> 32);
	for (u32 sel = 2; sel; sel <<= 1) {
		w32(&d, R_FEATURES_SEL, sel);
		EQ(r32(&d, R_FEATURES), 0);
		w32(&d, R_DRV_FEATURES_SEL, sel);
		w32(&d, R_DRV_FEATURES, ~0u); /* into nothing */
	}
	EQ(to_vdev(d.dev)->s.driver_features, 0);
	drv_close(&d);
}

static void offer_features(u32 low, u32 high)
{
	w32(&d, R_STATUS, 0);
	w32(&d, R_STATUS, 1);
	w32(&d, R_STATUS, 3);
	w32(&d, R_DRV_FEATURES_SEL, 0);
	w32(&d, R_DRV_FEATURES, low);
	w32(&d, R_DRV_FEATURES_SEL, 1);
	w32(&d, R_DRV_FEATURES, high);
	w32(&d, R_STATUS, 11);
}

TEST(virtio_mmio_refuses_features_that_were_not_offered_and_legacy_drivers)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	offer_features(1 << 4, 1);
	EQ(r32(&d, R_STATUS), 3);
	offer_features(0, 1 | 2); /* ACCESS_PLATFORM */
	EQ(r32(&d, R_STATUS), 3);
	offer_features(1 << 3, 0);
	EQ(r32(&d, R_STATUS), 3);
	w32(&d, R_STATUS, 15); /* nor by jumping ahead */
	EQ(r32(&d, R_STATUS), 3);
	offer_features(1 << 3, 1);
	EQ(r32(&d, R_STATUS), 11);
	drv_close(&d);
}

TEST(virtio_mmio_features_are_frozen_once_ok)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	offer_features(1 << 3, 1);
	w32(&d, R_DRV_FEATURES_SEL, 0);
	w32(&d, R_DRV_FEATURES, ~0u);
	EQ(to_vdev(d.dev)->s.driver_features, BIT(3) | VIRTIO_F_VERSION_1);
	drv_close(&d);
}

TEST(virtio_mmio_status_steps_keep_their_order)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	w32(&d, R_STATUS, VSTATUS_DRIVER);
	EQ(r32(&d, R_STATUS), 0);
	w32(&d, R_STATUS, VSTATUS_DRIVER_OK);
	EQ(r32(&d, R_STATUS), 0);
	w32(&d, R_STATUS, VSTATUS_NEEDS_RESET | 0xffffff00); /* not the driver's bits */
	EQ(r32(&d, R_STATUS), 0);
	w32(&d, R_STATUS, 3); /* both at once, as SeaBIOS does */
	EQ(r32(&d, R_STATUS), 3);
	w32(&d, R_STATUS, 1); /* bits are not taken back */
	EQ(r32(&d, R_STATUS), 3);
	w32(&d, R_STATUS, 3 | VSTATUS_FAILED);
	EQ(r32(&d, R_STATUS), 3 | VSTATUS_FAILED);
	w32(&d, R_STATUS, 0);
	EQ(r32(&d, R_STATUS), 0);
	drv_close(&d);
}

TEST(virtio_mmio_reset_clears_everything)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	drv_start(&d, ~0ull, 8);
	wn(R_CONFIG + 4, 2, 0xbeef);
	drv_add(&d, (struct buf[]){ { DRV_DATA, 8, 0 } }, 1);
	drv_kick(&d);
	OK(d.line);
	u32 dropped = toy_dropped;

	w32(&d, R_STATUS, 0);
	OK(!d.line);
	EQ(toy_dropped, dropped + 1);
	EQ(r32(&d, R_ISR), 0);
	EQ(r32(&d, R_QUEUE_READY), 0);
	EQ(rn(R_CONFIG + 4, 2), 0x1514);
	EQ(to_vdev(d.dev)->s.driver_features, 0);
	drv_add(&d, (struct buf[]){ { DRV_DATA, 8, 0 } }, 1);
	drv_kick(&d); /* no effect */
	EQ(ld16(drv_ptr(&d, d.used + 2)), 1);
	drv_start(&d, 0, 16);
	drv_close(&d);
}

/* --- queues ----------------------------------------------------------------------------------- */

TEST(virtio_mmio_queue_numbers_are_checked)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	drv_start(&d, 0, 8);
	for (u64 sel = 2; sel <= 0xffffffff; sel = sel * 2 + 1) {
		w32(&d, R_QUEUE_SEL, (u32)sel);
		EQ(r32(&d, R_QUEUE_MAX), 0);
		EQ(r32(&d, R_QUEUE_READY), 0);
		w32(&d, R_QUEUE_NUM, 4);
		w32(&d, R_DESC, 0x1000);
		w32(&d, R_QUEUE_READY, 1);
		w32(&d, R_NOTIFY, (u32)sel);
	}
	w32(&d, R_NOTIFY, 0x80000000);
	w32(&d, R_NOTIFY, 1); /* there, but not ready */
	EQ(toy_notified[1], 0);
	drv_close(&d);
}

TEST(virtio_mmio_queue_registers_are_frozen_while_in_use)
{
	struct vq_state before;

	drv_open(&d, &toy_mmio_ops, NULL);
	drv_negotiate(&d, 0);
	drv_queue(&d, 0, 8);
	for (int running = 0; running < 2; running++) {
		before = to_vdev(d.dev)->s.q[0];
		w32(&d, R_QUEUE_NUM, 16);
		for (u64 r = R_DESC; r <= R_USED + 4; r += 4)
			w32(&d, r, 0xfffff000);
		EQ(memcmp(&before, &to_vdev(d.dev)->s.q[0], sizeof before), 0);
		EQ(to_vdev(d.dev)->vq[0].size, 8);
		w32(&d, R_STATUS, 15);
	}
	/* Queue 1 was not made ready before DRIVER_OK: too late now. */
	w32(&d, R_QUEUE_SEL, 1);
	w32(&d, R_QUEUE_NUM, 4);
	w32(&d, R_QUEUE_READY, 1);
	EQ(r32(&d, R_QUEUE_READY), 0);
	EQ(to_vdev(d.dev)->s.q[1].size, 16);
	drv_close(&d);
}

TEST(virtio_mmio_queue_stopped_while_running_stays_stopped)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	drv_start(&d, 0, 8);
	u32 dropped = toy_dropped, notified = toy_notified[0];

	w32(&d, R_QUEUE_READY, 0);
	EQ(r32(&d, R_QUEUE_READY), 0);
	EQ(toy_dropped, dropped + 1);
	drv_kick(&d);
	EQ(toy_notified[0], notified);
	w32(&d, R_DESC, 0xdead0000);
	w32(&d, R_QUEUE_READY, 1);
	EQ(r32(&d, R_QUEUE_READY), 0);
	drv_close(&d);
}

TEST(virtio_mmio_queue_needs_features_ok_first)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	w32(&d, R_STATUS, 3);
	drv_queue(&d, 0, 8);
	EQ(r32(&d, R_QUEUE_READY), 0);
	drv_close(&d);
}

static void expect_unusable(u32 num, gpa_t desc)
{
	drv_negotiate(&d, 0);
	w32(&d, R_QUEUE_SEL, 0);
	w32(&d, R_QUEUE_NUM, num);
	w32(&d, R_DESC, (u32)desc);
	w32(&d, R_DESC + 4, (u32)(desc >> 32));
	w32(&d, R_AVAIL, 0x2000);
	w32(&d, R_USED, 0x3000);
	w32(&d, R_QUEUE_READY, 1);
	EQ(r32(&d, R_QUEUE_READY), 0);
	OK(r32(&d, R_STATUS) & VSTATUS_NEEDS_RESET);
}

TEST(virtio_mmio_queue_that_cannot_work_is_not_made_ready)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	expect_unusable(0, 0x1000);
	expect_unusable(7, 0x1000);
	expect_unusable(32, 0x1000); /* above QueueNumMax */
	expect_unusable(0x10008, 0x1000);
	expect_unusable(8, 0x1008);
	expect_unusable(8, 1ull << 40);
	expect_unusable(8, ~0ull << 4);
	drv_start(&d, 0, 8);
	drv_close(&d);
}

TEST(virtio_mmio_buffers_offered_before_driver_ok_are_served_then)
{
	u32 head, len;

	drv_open(&d, &toy_mmio_ops, NULL);
	drv_negotiate(&d, 0);
	drv_queue(&d, 0, 8);
	drv_add(&d, (struct buf[]){ { DRV_DATA, 8, 0 } }, 1);
	drv_kick(&d);
	OK(!drv_used(&d, &head, &len)); /* §3.1.1: nothing is consumed before DRIVER_OK */
	w32(&d, R_STATUS, 15);
	OK(drv_used(&d, &head, &len));
	drv_close(&d);
}

/* --- interrupts and errors -------------------------------------------------------------------- */

TEST(virtio_mmio_line_follows_interrupt_status)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	drv_start(&d, 0, 8);
	OK(!d.line);
	drv_add(&d, (struct buf[]){ { DRV_DATA, 8, 0 } }, 1);
	drv_kick(&d);
	EQ(r32(&d, R_ISR), VISR_QUEUE);
	OK(d.line);
	vdev_config_changed(to_vdev(d.dev));
	EQ(r32(&d, R_ISR), VISR_QUEUE | VISR_CONFIG);
	EQ(r32(&d, R_GENERATION), 1);
	w32(&d, R_ACK, VISR_QUEUE);
	OK(d.line);
	w32(&d, R_ACK, 0xfffffffc);
	OK(d.line);
	w32(&d, R_ACK, VISR_CONFIG);
	OK(!d.line);
	drv_add(&d, (struct buf[]){ { DRV_DATA, 8, 0 } }, 1);
	drv_kick(&d);
	OK(d.line);
	EQ(d.edges, 2);
	drv_close(&d);
}

TEST(virtio_mmio_broken_ring_stops_the_device_until_reset)
{
	u32 head, len;

	drv_open(&d, &toy_mmio_ops, NULL);
	drv_start(&d, 0, 8);
	drv_offer(&d, 0x1234);
	drv_kick(&d);
	EQ(r32(&d, R_STATUS), 15 | VSTATUS_NEEDS_RESET);
	EQ(r32(&d, R_ISR), VISR_CONFIG); /* §2.1.2 */
	OK(d.line);
	u32 notified = toy_notified[0];

	drv_kick(&d);
	w32(&d, R_STATUS, 15);
	EQ(toy_notified[0], notified);
	EQ(r32(&d, R_STATUS), 15 | VSTATUS_NEEDS_RESET);
	OK(!drv_used(&d, &head, &len));
	drv_start(&d, 0, 8);
	drv_add(&d, (struct buf[]){ { DRV_DATA, 8, 0 } }, 1);
	drv_kick(&d);
	OK(drv_used(&d, &head, &len));
	drv_close(&d);
}

/* A second vCPU that refills the ring as fast as it is emptied: our notion of it is the hook that
 * sees each write to the used ring. */
static void refill(void *ctx, gpa_t gpa, u64 len)
{
	struct drv *b = ctx;

	if (gpa == b->used + 2)
		drv_offer(b, 0);
}

TEST(virtio_mmio_driver_that_never_stops_adding_does_not_hold_the_thread)
{
	drv_open(&d, &toy_mmio_ops, NULL);
	drv_start(&d, 0, 8);
	drv_add(&d, (struct buf[]){ { DRV_DATA, 8, 0 } }, 1);
	d.mem.written = refill;
	d.mem.written_ctx = &d;
	drv_kick(&d);
	u16 used = ld16(drv_ptr(&d, d.used + 2));

	OK(used >= 1 && used <= 8);
	OK(timer_armed(&to_vdev(d.dev)->again));
	loop_advance(d.loop, 1000000); /* later the loop goes on with it */
	OK(ld16(drv_ptr(&d, d.used + 2)) > used);
	d.mem.written = NULL;
	loop_advance(d.loop, 1000000);
	OK(!timer_armed(&to_vdev(d.dev)->again));
	EQ(ld16(drv_ptr(&d, d.used + 2)), d.avail_idx);
	drv_close(&d);
}

/* --- save and load ---------------------------------------------------------------------------- */

static void save(struct state *st)
{
	state_init_save(st);
	st_begin(st, "toy", 1);
	d.dev->ops->state(d.dev, st);
	st_end(st);
	EQ(st->error, 0);
}

static int load(const struct state *blob)
{
	struct state st;

	state_init_load(&st, blob->buf, blob->len);
	st_begin(&st, "toy", 1);
	d.dev->ops->state(d.dev, &st);
	st_end(&st);
	return st.error;
}

TEST(virtio_mmio_state_goes_on_where_it_was_saved)
{
	struct vdev_state before;
	struct state st;
	u32 head, len;

	drv_open(&d, &toy_mmio_ops, NULL);
	drv_start(&d, ~0ull, 8);
	for (int i = 0; i < 5; i++) {
		drv_add(&d, (struct buf[]){ { DRV_DATA, 8, 0 } }, 1);
		drv_kick(&d);
		OK(drv_used(&d, &head, &len));
	}
	wn(R_CONFIG + 4, 2, 0xbeef);
	before = to_vdev(d.dev)->s;
	save(&st);
	w32(&d, R_STATUS, 0);
	OK(!d.line);
	drv_add(&d, (struct buf[]){ { DRV_DATA, 8, 0 } }, 1); /* was offered before the save, say */
	EQ(load(&st), 0);
	EQ(memcmp(&before, &to_vdev(d.dev)->s, sizeof before), 0);
	OK(d.line);
	loop_advance(d.loop, 1000000);
	OK(drv_used(&d, &head, &len));
	state_free(&st);
	drv_close(&d);
}

TEST(virtio_mmio_state_that_no_driver_could_reach_is_refused)
{
	struct vdev_state good, *s;
	struct state st;

	drv_open(&d, &toy_mmio_ops, NULL);
	drv_start(&d, ~0ull, 8);
	s = &to_vdev(d.dev)->s;
	good = *s;
	for (int i = 0; i < 6; i++) {
		switch (i) {
		case 0: s->q[0].size = 9; break;
		case 1: s->q[0].size = 256; break;
		case 2: s->q[0].used = DRV_RAM; break;
		case 3: s->driver_features |= BIT(33); break;
		case 4: s->status |= 0x100; break;
		case 5: s->isr = 4; break;
		}
		save(&st);
		*s = good;
		OK(load(&st) < 0);
		state_free(&st);
		drv_start(&d, ~0ull, 8);
	}
	drv_close(&d);
}

/* --- eventfds --------------------------------------------------------------------------------- */

static void note_ring(void *ctx, struct vdev *v, struct vq *q)
{
	*(int *)ctx += 1;
	q->bell.fd = q->kick_fd;
}

TEST(virtio_mmio_first_ring_of_a_queue_is_told_to_the_engine)
{
	struct vdev *v;
	u32 head, len;
	int rings = 0;

	drv_open(&d, &toy_mmio_ops, NULL);
	v = to_vdev(d.dev);
	v->rang = note_ring;
	v->rang_ctx = &rings;
	drv_start(&d, 0, 8);
	w32(&d, R_NOTIFY, 0);
	EQ(rings, 0); /* there is no eventfd to ring instead */
	v->vq[0].kick_fd = 1000;
	w32(&d, R_NOTIFY, 99);
	EQ(rings, 0);
	drv_add(&d, (struct buf[]){ { DRV_DATA, 8, 0 } }, 1);
	drv_kick(&d);
	EQ(rings, 1);
	OK(drv_used(&d, &head, &len)); /* and served all the same */
	drv_kick(&d);
	EQ(rings, 1);
	v->vq[0].kick_fd = -1;
	drv_close(&d);
}

static void *run_loop(void *arg)
{
	loop_run(arg);
	return NULL;
}

TEST(virtio_mmio_queue_eventfd_is_a_notification)
{
	struct err e;
	pthread_t t;
	u64 one = 1;
	u32 head, len;
	bool came = false;
	int fd;

	drv_open(&d, &toy_mmio_ops, NULL);
	device_free(d.dev);
	loop_free(d.loop);
	d.loop = loop_new(&d.lock, false, &e); /* this one needs a loop that watches fds */
	OK(d.loop);
	struct device wires = {
		.id = "toy", .loop = d.loop, .mem = &d.mem, .irq = { { &d.chip, 5 } }
	};

	d.dev = device_new(&toy_mmio_ops, &wires, &e);
	EQ(vdev_queue_count(d.dev), 2);
	EQ(vdev_queue_eventfd(d.dev, 2), -EINVAL);
	fd = vdev_queue_eventfd(d.dev, 0);
	OK(fd >= 0);
	EQ(vdev_queue_eventfd(d.dev, 0), fd);
	drv_start(&d, 0, 8);
	drv_add(&d, (struct buf[]){ { DRV_DATA, 8, 0 } }, 1);
	OK(pthread_create(&t, NULL, run_loop, d.loop) == 0);
	OK(write(fd, &one, 8) == 8);
	for (int i = 0; i < 5000 && !came; i++) {
		usleep(1000);
		pthread_mutex_lock(&d.lock);
		came = drv_used(&d, &head, &len);
		pthread_mutex_unlock(&d.lock);
	}
	OK(came);
	loop_stop(d.loop, 0);
	pthread_join(t, NULL);
	device_free(d.dev);
	loop_free(d.loop);
	memory_free(&d.mem);
}
