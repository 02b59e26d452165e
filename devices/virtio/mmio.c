/* mmio.c - the virtio-mmio transport, version 2: region 0 is 0x100 bytes of registers, then the
 * device's configuration space.
 *
 * Registers take aligned 32-bit accesses; others read 0 and change nothing.  Configuration space
 * takes any width.  The interrupt line is high while InterruptStatus is not 0.
 * Source: virtio 1.2 §4.2.2, names as in its table.  Not offered: the legacy interface (§4.2.4),
 * QueueReset, shared memory regions. */
#include <unistd.h>

#include "virtio.h"

enum {
	REG_MAGIC = 0x000,
	REG_VERSION = 0x004,
	REG_DEVICE_ID = 0x008,
	REG_VENDOR_ID = 0x00c,
	REG_DEVICE_FEATURES = 0x010,
	REG_DEVICE_FEATURES_SEL = 0x014,
	REG_DRIVER_FEATURES = 0x020,
	REG_DRIVER_FEATURES_SEL = 0x024,
	REG_QUEUE_SEL = 0x030,
	REG_QUEUE_NUM_MAX = 0x034,
	REG_QUEUE_NUM = 0x038,
	REG_QUEUE_READY = 0x044,
	REG_QUEUE_NOTIFY = VMMIO_QUEUE_NOTIFY,
	REG_INTERRUPT_STATUS = 0x060,
	REG_INTERRUPT_ACK = 0x064,
	REG_STATUS = 0x070,
	REG_QUEUE_DESC_LOW = 0x080,
	REG_QUEUE_DESC_HIGH = 0x084,
	REG_QUEUE_DRIVER_LOW = 0x090,
	REG_QUEUE_DRIVER_HIGH = 0x094,
	REG_QUEUE_DEVICE_LOW = 0x0a0,
	REG_QUEUE_DEVICE_HIGH = 0x0a4,
	REG_SHM_LEN_LOW = 0x0b0,
	REG_SHM_LEN_HIGH = 0x0b4,
	REG_SHM_BASE_LOW = 0x0b8,
	REG_SHM_BASE_HIGH = 0x0bc,
	REG_CONFIG_GENERATION = 0x0fc,
	REG_CONFIG = 0x100,
};

#define VMMIO_MAGIC 0x74726976 /* "virt" */
#define VMMIO_VENDOR 0x004d564d /* "MVM" */

static void vmmio_interrupt(struct vdev *v, u32 isr, const struct vq *q)
{
	v->s.isr |= isr;
	irq_set(v->dev.irq[0], v->s.isr != 0);
}

int vmmio_init(struct device *dev, const struct vdev_ops *ops, struct err *e)
{
	return vdev_init(to_vdev(dev), ops, vmmio_interrupt, e);
}

static u32 vmmio_reg_read(struct vdev *v, u64 off)
{
	const struct vq_state *q = vdev_queue(v);

	switch (off) {
	case REG_MAGIC: return VMMIO_MAGIC;
	case REG_VERSION: return 2;
	case REG_DEVICE_ID: return v->ops->id;
	case REG_VENDOR_ID: return VMMIO_VENDOR;
	case REG_DEVICE_FEATURES: return vdev_features(v);
	case REG_QUEUE_NUM_MAX: return q ? v->ops->queue_max : 0;
	case REG_QUEUE_READY: return q && q->ready;
	case REG_INTERRUPT_STATUS: return v->s.isr;
	case REG_STATUS: return v->s.status;
	case REG_SHM_LEN_LOW ... REG_SHM_BASE_HIGH + 3: /* no such region: length and base are -1 */
		return 0xffffffff;
	case REG_CONFIG_GENERATION: return v->s.config_gen;
	default: return 0;
	}
}

u64 vmmio_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct vdev *v = to_vdev(dev);

	if (off >= REG_CONFIG)
		return vdev_config_read(v, off - REG_CONFIG, size);
	return size == 4 && off % 4 == 0 ? vmmio_reg_read(v, off) : 0;
}

static void set_half(gpa_t *addr, bool high, u32 val)
{
	*addr = high ? (u64)val << 32 | (u32)*addr : (*addr & ~0xffffffffull) | val;
}

static void vmmio_queue_write(struct vdev *v, u64 off, u32 val)
{
	struct vq_state *q = vdev_queue_config(v);

	if (!q) /* no such queue, or in use: its set-up no longer changes */
		return;
	switch (off) {
	case REG_QUEUE_NUM:
		q->size = val <= v->ops->queue_max ? (u16)val : 0; /* 0 fails when made ready */
		break;
	case REG_QUEUE_DESC_LOW:
	case REG_QUEUE_DESC_HIGH: set_half(&q->desc, off == REG_QUEUE_DESC_HIGH, val); break;
	case REG_QUEUE_DRIVER_LOW:
	case REG_QUEUE_DRIVER_HIGH: set_half(&q->avail, off == REG_QUEUE_DRIVER_HIGH, val); break;
	case REG_QUEUE_DEVICE_LOW:
	case REG_QUEUE_DEVICE_HIGH: set_half(&q->used, off == REG_QUEUE_DEVICE_HIGH, val); break;
	}
}

static void vmmio_reg_write(struct vdev *v, u64 off, u32 val)
{
	switch (off) {
	case REG_DEVICE_FEATURES_SEL: v->s.features_sel = val; break;
	case REG_DRIVER_FEATURES: vdev_set_driver_features(v, val); break;
	case REG_DRIVER_FEATURES_SEL: v->s.driver_features_sel = val; break;
	case REG_QUEUE_SEL: v->s.queue_sel = val; break;
	case REG_QUEUE_READY: vdev_queue_ready(v, val); break;
	case REG_QUEUE_NOTIFY: vdev_rang(v, val); break;
	case REG_INTERRUPT_ACK:
		v->s.isr &= ~val;
		if (!v->s.isr)
			v->interrupt(v, 0, NULL);
		break;
	case REG_STATUS: vdev_set_status(v, val); break;
	default: vmmio_queue_write(v, off, val);
	}
}

void vmmio_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct vdev *v = to_vdev(dev);

	if (off >= REG_CONFIG)
		vdev_config_write(v, off - REG_CONFIG, size, val);
	else if (size == 4 && off % 4 == 0)
		vmmio_reg_write(v, off, (u32)val);
}
