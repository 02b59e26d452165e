/* rng.c - virtio entropy device (virtio 1.2 §5.4): no configuration space, one queue of writable
 * buffers, each answered with at least one random byte of the host's getrandom().
 *
 * Answers on the loop thread: no vCPU's thread may call getrandom.  RNG_QUEUE * RNG_MAX bytes at
 * most.
 */
#include <sys/random.h>

#include "virtio.h"

enum {
	RNG_ID = 4,
	RNG_QUEUE = 8,
	RNG_MAX = 64 << 10, /* bytes per request: bounds the host's work whatever the chain */
};

/* Random bytes into the chain's in part.  The number written. */
static u32 rng_fill(const struct chain *c)
{
	u32 done = 0;

	for (u32 i = c->in_at; i < (u32)c->in_at + c->in_n && done < RNG_MAX; i++) {
		size_t at = 0, want = MIN(c->iov[i].iov_len, (size_t)RNG_MAX - done);

		while (at < want) {
			ssize_t n = getrandom((u8 *)c->iov[i].iov_base + at, want - at, 0);

			if (n < 0 && errno != EINTR)
				return done;
			at += n > 0 ? (size_t)n : 0;
		}
		done += (u32)want;
	}
	return done;
}

static void rng_notify(struct vdev *v, struct vq *q)
{
	struct chain c;
	int rc;

	if (!loop_is_mine(v->dev.loop)) {
		vdev_notify_later(v);
		return;
	}
	while ((rc = vq_pop(q, &c)) > 0)
		vq_push(q, &c, rng_fill(&c)); /* a readable part is ignored, §5.4.6.1 */
	if (rc < 0)
		vdev_broken(v, "bad descriptor chain");
	vq_signal(v, q);
}

static int rng_init(struct vdev *v, struct err *e)
{
	return 0;
}

static const struct vdev_ops rng_ops = {
	.id = RNG_ID,
	.queues = 1,
	.queue_max = RNG_QUEUE,
	.init = rng_init,
	.notify = rng_notify,
};

static int rng_mmio_init(struct device *dev, struct err *e)
{
	return vmmio_init(dev, &rng_ops, e);
}

const struct device_ops virtio_rng_mmio_ops = {
	.name = "virtio-rng",
	.version = 1,
	.bytes = sizeof(struct vdev),
	.init = rng_mmio_init,
	VMMIO_DEVICE_OPS,
};

static int rng_pci_init(struct device *dev, struct err *e)
{
	return vpci_init(dev, &rng_ops, e);
}

const struct device_ops virtio_rng_pci_ops = {
	.name = "virtio-rng",
	.version = 1,
	.bytes = sizeof(struct vdev),
	.init = rng_pci_init,
	VPCI_DEVICE_OPS,
};
