/* doorbell.c - queue notifications that do not leave the kernel, under an engine that has them
 * (KVM's ioeventfd): the loop thread serves the queue while the vCPU runs on.
 *
 * The engine learns of a doorbell when it is first rung, by an ordinary access, so that only queues
 * in use cost anything; and forgets it when its registers move or go, because PCI drivers and
 * firmware size BARs by moving them.  A doorbell of a device that was reset stays: it rings for
 * nothing.  machine.lock is held throughout, on a vCPU or the loop thread. */
#include "board.h"

static struct doorbell bell_of(const struct machine *m, const struct vdev *v, const struct vq *q)
{
	u32 queue = (u32)(q - v->vq);
	u64 base = bus_base(&m->mmio, &v->dev, m->pci ? VPCI_REGS : 0);

	if (m->pci) /* drivers write two bytes there, and may write four (virtio 1.2 §4.1.5.2) */
		return (struct doorbell){
			.addr = base + VPCI_NOTIFY + queue * VPCI_NOTIFY_MULTIPLIER,
			.fd = q->kick_fd };
	return (struct doorbell){ .addr = base + VMMIO_QUEUE_NOTIFY, .len = 4, .match = true,
				  .value = queue, .fd = q->kick_fd };
}

/* vdev.rang */
static void bell_rang(void *ctx, struct vdev *v, struct vq *q)
{
	struct machine *m = ctx;
	struct doorbell bell = bell_of(m, v, q);

	if (m->eng->doorbell(&m->env, &bell, true) == 0) /* if it cannot, it goes on as it was */
		q->bell = bell;
}

/* bus.unmapped */
static void bell_gone(void *ctx, struct device *dev, u32 region)
{
	struct machine *m = ctx;

	for (u32 i = 0; i < m->vdevs; i++) {
		struct vdev *v = m->vdev[i];

		if (&v->dev != dev || region != (m->pci ? VPCI_REGS : 0))
			continue;
		for (u32 q = 0; q < v->ops->queues; q++) {
			if (v->vq[q].bell.fd >= 0)
				m->eng->doorbell(&m->env, &v->vq[q].bell, false);
			v->vq[q].bell.fd = -1;
		}
	}
}

int doorbells_init(struct machine *m, struct err *e)
{
	if (!m->eng->doorbell)
		return 0;
	m->mmio.unmapped = bell_gone;
	m->mmio.unmapped_ctx = m;
	for (u32 i = 0; i < m->vdevs; i++) {
		struct vdev *v = m->vdev[i];

		v->rang = bell_rang;
		v->rang_ctx = m;
		for (u32 q = 0; q < v->ops->queues; q++) {
			int fd = vdev_queue_eventfd(&v->dev, q);

			if (fd < 0)
				return err_set(e, fd, "%s: cannot make an eventfd (%s)", v->dev.id,
					       strerror(-fd));
		}
	}
	return 0;
}
