/* virtio.c - what every virtio device does whatever its kind and transport: status, feature
 * negotiation, queue set-up, reset, notification, interrupts, save and load.
 *
 * Owns struct vdev_state.  Does not own registers (mmio.c, pci.c) or requests (the kinds).  Runs
 * with machine.lock held.  Source: virtio 1.2 §2.1 to §2.6, §3.1.
 *
 * A driver that breaks a rule gets what the text allows: a step out of order is not taken, a queue
 * that cannot be used is not made ready, and a broken ring stops the device until reset. */
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "virtio.h"

enum {
	VSTATUS_DRIVER_BITS = VSTATUS_ACKNOWLEDGE | VSTATUS_DRIVER | VSTATUS_DRIVER_OK |
			      VSTATUS_FEATURES_OK | VSTATUS_FAILED,
	/* Guest time after which a queue that outlasted its pass is looked at again: long enough
	 * for the loop's other events, short against a disk request. */
	AGAIN_NS = 20000,
};

static void vdev_again(void *arg)
{
	struct vdev *v = arg;

	for (u32 i = 0; i < v->ops->queues; i++)
		vdev_notify(v, i);
}

int vdev_init(struct vdev *v, const struct vdev_ops *ops,
	      void (*interrupt)(struct vdev *, u32, const struct vq *), struct err *e)
{
	int rc;

	ASSERT(ops->queues <= VDEV_QUEUES_MAX && ops->queue_max <= VQ_MAX);
	ASSERT(ops->config_len <= VDEV_CONFIG_MAX);
	v->ops = ops;
	v->interrupt = interrupt;
	timer_init(&v->again, v->dev.loop, vdev_again, v);
	for (u32 i = 0; i < VDEV_QUEUES_MAX; i++) {
		v->vq[i].s = &v->s.q[i];
		v->vq[i].dev = v;
		v->vq[i].kick_fd = v->vq[i].bell.fd = -1;
	}
	rc = ops->init(v, e);
	if (rc < 0)
		return rc;
	v->features |= VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
	vdev_reset(&v->dev);
	return 0;
}

void vdev_free(struct device *dev)
{
	struct vdev *v = to_vdev(dev);

	timer_cancel(&v->again);
	for (u32 i = 0; i < v->ops->queues; i++) {
		if (v->vq[i].kick_fd < 0)
			continue;
		loop_fd_del(dev->loop, v->vq[i].kick_fd);
		close(v->vq[i].kick_fd);
	}
	if (v->ops->free)
		v->ops->free(v);
}

void vdev_reset(struct device *dev)
{
	struct vdev *v = to_vdev(dev);

	if (v->ops->drop)
		v->ops->drop(v, NULL);
	timer_cancel(&v->again);
	memset(&v->s, 0, sizeof v->s);
	memset(v->s.vector, 0xff, sizeof v->s.vector); /* VIRTIO_NO_VECTOR */
	for (u32 i = 0; i < v->ops->queues; i++) {
		vq_stop(&v->vq[i]);
		v->s.q[i].size = v->ops->queue_max;
	}
	if (v->ops->config_reset)
		v->ops->config_reset(v);
	v->interrupt(v, 0, NULL);
}

int vdev_start(struct device *dev, struct err *e)
{
	struct vdev *v = to_vdev(dev);

	return v->ops->start ? v->ops->start(v, e) : 0;
}

void vdev_quiesce(struct device *dev)
{
	struct vdev *v = to_vdev(dev);

	if (v->ops->quiesce)
		v->ops->quiesce(v);
}

/* --- features and status: §2.1, §2.2, §3.1.1 -------------------------------------------------- */

u32 vdev_features(const struct vdev *v)
{
	return v->s.features_sel > 1 ? 0 : (u32)(v->features >> (v->s.features_sel * 32));
}

u32 vdev_driver_features(const struct vdev *v)
{
	u32 sel = v->s.driver_features_sel;

	return sel > 1 ? 0 : (u32)(v->s.driver_features >> (sel * 32));
}

void vdev_set_driver_features(struct vdev *v, u32 val)
{
	u32 sel = v->s.driver_features_sel;

	if (sel > 1 || (v->s.status & VSTATUS_FEATURES_OK))
		return;
	v->s.driver_features &= ~(0xffffffffull << (sel * 32));
	v->s.driver_features |= (u64)val << (sel * 32);
}

/* May this status bit be set, given those that are? */
static bool status_step_ok(const struct vdev *v, u32 bit)
{
	u32 have = v->s.status;

	switch (bit) {
	case VSTATUS_DRIVER: return have & VSTATUS_ACKNOWLEDGE;
	case VSTATUS_FEATURES_OK: /* §2.2.2: only a subset of the offer, and no legacy driver */
		return (have & VSTATUS_DRIVER) && !(v->s.driver_features & ~v->features) &&
		       vdev_has(v, VIRTIO_F_VERSION_1);
	case VSTATUS_DRIVER_OK: return have & VSTATUS_FEATURES_OK;
	default: return true;
	}
}

void vdev_set_status(struct vdev *v, u32 val)
{
	static const u32 order[] = { VSTATUS_ACKNOWLEDGE, VSTATUS_DRIVER, VSTATUS_FEATURES_OK,
				     VSTATUS_DRIVER_OK, VSTATUS_FAILED };
	u32 before = v->s.status;

	if (val == 0) {
		vdev_reset(&v->dev);
		return;
	}
	if (before & VSTATUS_DRIVER_BITS & ~val) { /* §2.1.1: bits are cleared by reset alone */
		log_guest(v->dev.id, "status %#x after %#x ignored", val, before);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(order); i++)
		if ((val & order[i]) && status_step_ok(v, order[i]))
			v->s.status |= order[i];
	if (!(before & VSTATUS_DRIVER_OK) && vdev_running(v))
		for (u32 i = 0; i < v->ops->queues; i++) /* buffers may lie there already */
			vdev_notify(v, i);
}

void vdev_broken(struct vdev *v, const char *why)
{
	if (v->s.status & VSTATUS_NEEDS_RESET)
		return;
	log_guest(v->dev.id, "%s: the device stops until it is reset", why);
	v->s.status |= VSTATUS_NEEDS_RESET;
	if (v->s.status & VSTATUS_DRIVER_OK) /* §2.1.2 */
		v->interrupt(v, VISR_CONFIG, NULL);
}

/* --- queues ----------------------------------------------------------------------------------- */

struct vq_state *vdev_queue(struct vdev *v)
{
	return v->s.queue_sel < v->ops->queues ? &v->s.q[v->s.queue_sel] : NULL;
}

struct vq_state *vdev_queue_config(struct vdev *v)
{
	struct vq_state *s = vdev_queue(v);

	return s && !s->ready && !(v->s.status & VSTATUS_DRIVER_OK) ? s : NULL;
}

/* A queue is checked and pinned down here, once: what it points to is used until it is stopped. */
void vdev_queue_ready(struct vdev *v, u32 val)
{
	struct vq_state *s = vdev_queue(v);

	if (!s || s->ready == (val & 1))
		return;
	struct vq *q = &v->vq[s - v->s.q];

	if (!(val & 1)) { /* §4.2.2.2: the driver stops the queue and takes its memory back */
		if (v->ops->drop)
			v->ops->drop(v, q);
		vq_stop(q);
		s->ready = false;
		return;
	}
	if ((v->s.status & VSTATUS_DRIVER_OK) || !(v->s.status & VSTATUS_FEATURES_OK))
		return; /* §3.1.1: between the two */
	if (s->size > v->ops->queue_max || vq_start(q, v->dev.mem, v->s.driver_features) < 0)
		vdev_broken(v, "queue size, alignment or address not usable");
	else
		s->ready = true;
}

/* One pass over queue i.  Bounded: a driver that keeps adding buffers gets queue-size chains per
 * pass, and the lock is let go between passes. */
void vdev_notify(struct vdev *v, u32 i)
{
	bool more;

	if (i >= v->ops->queues || !vq_active(&v->vq[i]) || !vdev_running(v))
		return;
	struct vq *q = &v->vq[i];

	q->budget = q->size;
	do {
		u16 budget = q->budget;

		vq_kick_off(q);
		v->ops->notify(v, q);
		if (!vq_active(q) || !vdev_running(v))
			return;
		more = vq_kick_on(q) && q->budget != budget; /* no progress: not now, then */
	} while (more && q->budget);
	if (more && !timer_armed(&v->again))
		timer_arm(&v->again, loop_now_ns(v->dev.loop) + AGAIN_NS);
}

void vdev_rang(struct vdev *v, u32 i)
{
	if (v->rang && i < v->ops->queues && v->vq[i].kick_fd >= 0 && v->vq[i].bell.fd < 0)
		v->rang(v->rang_ctx, v, &v->vq[i]);
	vdev_notify(v, i);
}

u32 vdev_queue_count(const struct device *dev)
{
	return container_of(dev, const struct vdev, dev)->ops->queues;
}

static void queue_kicked(void *arg, u32 events)
{
	struct vq *q = arg;
	u64 n;

	if (read(q->kick_fd, &n, sizeof n) == sizeof n)
		vdev_notify(q->dev, (u32)(q - q->dev->vq));
}

void vdev_notify_later(struct vdev *v)
{
	if (!timer_armed(&v->again))
		timer_arm(&v->again, loop_now_ns(v->dev.loop));
}

int vdev_queue_eventfd(struct device *dev, u32 queue)
{
	struct vdev *v = to_vdev(dev);
	int fd, rc;

	if (queue >= v->ops->queues)
		return -EINVAL;
	if (v->vq[queue].kick_fd >= 0)
		return v->vq[queue].kick_fd;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	rc = loop_fd_add(dev->loop, fd, POLLIN, queue_kicked, &v->vq[queue]);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	v->vq[queue].kick_fd = fd;
	return fd;
}

/* --- interrupts ------------------------------------------------------------------------------- */

void vq_signal(struct vdev *v, struct vq *q)
{
	if (vq_active(q) && vq_wants_signal(q))
		v->interrupt(v, VISR_QUEUE, q);
}

/* --- configuration space: §2.5 ---------------------------------------------------------------- */

u64 vdev_config_read(const struct vdev *v, u64 off, unsigned size)
{
	u64 val = 0;

	for (unsigned i = 0; i < size; i++) {
		u64 byte = off + i < v->ops->config_len ? v->s.config[off + i] : 0xff;

		val |= byte << (i * 8);
	}
	return val;
}

void vdev_config_write(struct vdev *v, u64 off, unsigned size, u64 val)
{
	if (v->ops->config_write && off + size <= v->ops->config_len)
		v->ops->config_write(v, (u32)off, size, val);
}

void vdev_config_changed(struct vdev *v)
{
	v->s.config_gen++;
	if (vdev_running(v))
		v->interrupt(v, VISR_CONFIG, NULL);
}

/* --- save and load ---------------------------------------------------------------------------- */

static void queue_state(struct vq_state *s, struct state *st)
{
	st_u64(st, "desc", &s->desc);
	st_u64(st, "avail", &s->avail);
	st_u64(st, "used", &s->used);
	st_u16(st, "size", &s->size);
	st_u16(st, "last_avail", &s->last_avail);
	st_u16(st, "used_idx", &s->used_idx);
	st_u16(st, "signalled", &s->signalled);
	st_bool(st, "ready", &s->ready);
}

/* Make the loaded state live: rings are looked up anew, and what waits in them is looked at. */
static void vdev_loaded(struct vdev *v, struct state *st)
{
	st_check(st, !(v->s.driver_features & ~v->features) || !(v->s.status & VSTATUS_FEATURES_OK),
		 "driver_features");
	st_check(st, !(v->s.status & ~(VSTATUS_DRIVER_BITS | VSTATUS_NEEDS_RESET)), "status");
	st_check(st, v->s.legacy <= (v->pci.bar[0].len != 0), "legacy");
	st_check(st, !(v->s.isr & ~(VISR_QUEUE | VISR_CONFIG)), "isr");
	for (u32 i = 0; i < v->ops->queues; i++) {
		struct vq *q = &v->vq[i];

		vq_stop(q);
		if (!q->s->ready)
			continue;
		bool ok = q->s->size <= v->ops->queue_max &&
			  vq_start(q, v->dev.mem, v->s.driver_features) == 0;

		st_check(st, ok, "ready");
	}
	timer_arm(&v->again, loop_now_ns(v->dev.loop));
	v->interrupt(v, 0, NULL);
}

void vdev_state(struct device *dev, struct state *st)
{
	struct vdev *v = to_vdev(dev);

	if (st->loading && v->ops->drop)
		v->ops->drop(v, NULL);
	st_u64(st, "driver_features", &v->s.driver_features);
	st_u32(st, "features_sel", &v->s.features_sel);
	st_u32(st, "driver_features_sel", &v->s.driver_features_sel);
	st_u32(st, "queue_sel", &v->s.queue_sel);
	st_u32(st, "config_gen", &v->s.config_gen);
	st_u32(st, "status", &v->s.status);
	st_u32(st, "isr", &v->s.isr);
	st_u32(st, "legacy", &v->s.legacy);
	for (u32 i = 0; i < v->ops->queues; i++)
		queue_state(&v->s.q[i], st);
	st_bytes(st, "config", v->s.config, sizeof v->s.config);
	if (st->loading)
		vdev_loaded(v, st);
}
