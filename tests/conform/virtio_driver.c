/* virtio_driver.c - the fake driver of virtio_driver.h. */
#include <time.h>

#include "virtio_driver.h"

enum { RING_SPACE = 0x2000 };

static void line_set(struct irqchip *c, u32 gsi, bool level)
{
	struct drv *d = container_of(c, struct drv, chip);

	d->edges += level && !d->line;
	d->line = level;
}

static const struct irqchip_ops line_ops = { .name = "line", .set = line_set };

void drv_open(struct drv *d, const struct device_ops *ops, void *arg)
{
	struct err e = { 0 };

	memset(d, 0, sizeof *d);
	pthread_mutex_init(&d->lock, NULL);
	if (memory_init(&d->mem, DRV_RAM, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	d->loop = loop_new(&d->lock, true, &e);
	OK(d->loop);
	d->chip.ops = &line_ops;
	struct device wires = {
		.id = "dut",
		.loop = d->loop,
		.mem = &d->mem,
		.arg = arg,
		.irq = { { &d->chip, 5 } },
	};

	d->dev = device_new(ops, &wires, &e);
	if (!d->dev || device_start(d->dev, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
}

void drv_close(struct drv *d)
{
	device_free(d->dev);
	loop_advance(d->loop, 0);
	loop_free(d->loop);
	memory_free(&d->mem);
}

u32 r32(struct drv *d, u64 reg)
{
	return (u32)d->dev->ops->read(d->dev, 0, reg, 4);
}

void w32(struct drv *d, u64 reg, u32 val)
{
	d->dev->ops->write(d->dev, 0, reg, 4, val);
}

void *drv_ptr(struct drv *d, gpa_t gpa)
{
	void *p = mem_ptr(&d->mem, gpa, 1);

	OK(p);
	return p;
}

void drv_negotiate(struct drv *d, u64 features)
{
	u64 offered;

	w32(d, R_STATUS, 0);
	w32(d, R_STATUS, VSTATUS_ACKNOWLEDGE);
	w32(d, R_STATUS, VSTATUS_ACKNOWLEDGE | VSTATUS_DRIVER);
	w32(d, R_FEATURES_SEL, 0);
	offered = r32(d, R_FEATURES);
	w32(d, R_FEATURES_SEL, 1);
	offered |= (u64)r32(d, R_FEATURES) << 32;
	features = (features & offered) | VIRTIO_F_VERSION_1;
	w32(d, R_DRV_FEATURES_SEL, 0);
	w32(d, R_DRV_FEATURES, (u32)features);
	w32(d, R_DRV_FEATURES_SEL, 1);
	w32(d, R_DRV_FEATURES, (u32)(features >> 32));
	w32(d, R_STATUS, 11);
	OK(r32(d, R_STATUS) & VSTATUS_FEATURES_OK);
	d->event_idx = features & VIRTIO_F_EVENT_IDX;
}

void drv_queue(struct drv *d, u32 queue, u16 size)
{
	d->desc = 0x1000 + queue * RING_SPACE;
	d->avail = d->desc + size * 16u;
	d->used = ALIGN_UP(d->avail + 6 + size * 2u, 4);
	memset(drv_ptr(d, d->desc), 0, RING_SPACE);
	d->size = size;
	d->next_desc = d->avail_idx = d->used_idx = 0;
	w32(d, R_QUEUE_SEL, queue);
	w32(d, R_QUEUE_NUM, size);
	w32(d, R_DESC, (u32)d->desc);
	w32(d, R_DESC + 4, (u32)(d->desc >> 32));
	w32(d, R_AVAIL, (u32)d->avail);
	w32(d, R_AVAIL + 4, (u32)(d->avail >> 32));
	w32(d, R_USED, (u32)d->used);
	w32(d, R_USED + 4, (u32)(d->used >> 32));
	w32(d, R_QUEUE_READY, 1);
}

void drv_start(struct drv *d, u64 features, u16 size)
{
	drv_negotiate(d, features);
	drv_queue(d, 0, size);
	EQ(r32(d, R_QUEUE_READY), 1);
	w32(d, R_STATUS, 15);
	EQ(r32(d, R_STATUS), 15);
}

void drv_desc(struct drv *d, gpa_t table, u16 i, gpa_t addr, u32 len, u16 flags, u16 next)
{
	u8 *p = drv_ptr(d, table + i * 16u);

	st64(p, addr);
	st32(p + 8, len);
	st16(p + 12, flags);
	st16(p + 14, next);
}

void drv_offer(struct drv *d, u16 head)
{
	u8 *avail = drv_ptr(d, d->avail);

	st16(avail + 4 + (d->avail_idx % d->size) * 2, head);
	__atomic_store_n((u16 *)(avail + 2), ++d->avail_idx, __ATOMIC_RELEASE);
}

u16 drv_add(struct drv *d, const struct buf *b, u32 n)
{
	u16 head = d->next_desc, i = head;

	for (u32 k = 0; k < n; k++, i = (i + 1) % d->size)
		drv_desc(d, d->desc, i, b[k].gpa, b[k].len, b[k].flags | (k + 1 < n ? D_NEXT : 0),
			 (i + 1) % d->size);
	d->next_desc = i;
	drv_offer(d, head);
	return head;
}

void drv_kick(struct drv *d)
{
	w32(d, R_NOTIFY, 0);
}

bool drv_used(struct drv *d, u32 *head, u32 *len)
{
	u8 *used = drv_ptr(d, d->used);

	if (__atomic_load_n((u16 *)(used + 2), __ATOMIC_ACQUIRE) == d->used_idx)
		return false;
	used += 4 + (d->used_idx++ % d->size) * 8;
	*head = ld32(used);
	*len = ld32(used + 4);
	return true;
}

u32 drv_wait(struct drv *d)
{
	struct timespec pause = { 0, 100000 };
	u32 head, len;

	for (int i = 0; i < 50000; i++) {
		loop_advance(d->loop, 0);
		if (drv_used(d, &head, &len))
			return len;
		nanosleep(&pause, NULL);
	}
	test_fail(__FILE__, __LINE__, "no used buffer after 5 s");
}
