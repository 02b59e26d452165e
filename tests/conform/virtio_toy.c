/* virtio_toy.c - see virtio_toy.h. */
#include "virtio_toy.h"

u32 toy_notified[TOY_QUEUES], toy_dropped;

static int toy_init(struct vdev *v, struct err *e)
{
	v->features = BIT(3);
	return 0;
}

static void toy_notify(struct vdev *v, struct vq *q)
{
	static struct chain c;
	int rc;

	toy_notified[q - v->vq]++;
	while ((rc = vq_pop(q, &c)) > 0)
		vq_push(q, &c, 0);
	if (rc < 0)
		vdev_broken(v, "toy: bad chain");
	vq_signal(v, q);
}

static void toy_config_reset(struct vdev *v)
{
	for (u8 i = 0; i < TOY_CONFIG; i++)
		v->s.config[i] = 0x10 + i;
}

static void toy_config_write(struct vdev *v, u32 off, unsigned size, u64 val)
{
	if (off == 4 && size == 2)
		st16(v->s.config + 4, (u16)val);
}

static void toy_drop(struct vdev *v, struct vq *q)
{
	toy_dropped++;
}

const struct vdev_ops toy_vops = {
	.id = TOY_ID,
	.queues = TOY_QUEUES,
	.queue_max = TOY_QUEUE_MAX,
	.config_len = TOY_CONFIG,
	.init = toy_init,
	.notify = toy_notify,
	.config_write = toy_config_write,
	.config_reset = toy_config_reset,
	.drop = toy_drop,
};
