/* virtio.h - what the virtio devices, the ring and the transports share (virtio 1.2 §2, §3).
 *
 * A virtio device is a struct device whose first member is a struct vdev.  Its kind (rng.c, blk.c)
 * supplies a vdev_ops and sees queues, chains and its configuration bytes; a transport (mmio.c,
 * pci.c) supplies the registers and the interrupt; virtio.c holds what both need: status, features,
 * reset.
 * All of it runs with machine.lock held, on a vCPU thread (register access) or the loop thread. */
#pragma once

#include <sys/uio.h>

#include "../../bus.h"
#include "../device.h"
#include "../pci.h"

enum {
	VQ_MAX = 256,        /* largest queue offered */
	CHAIN_MAX = VQ_MAX + MEM_REGIONS_MAX, /* a buffer over two RAM regions takes two iovecs */
	VDEV_QUEUES_MAX = 4,
	VDEV_CONFIG_MAX = 64,
};

enum vdev_status { /* §2.1 */
	VSTATUS_ACKNOWLEDGE = 1,
	VSTATUS_DRIVER = 2,
	VSTATUS_DRIVER_OK = 4,
	VSTATUS_FEATURES_OK = 8,
	VSTATUS_NEEDS_RESET = 64,
	VSTATUS_FAILED = 128,
};

#define VIRTIO_F_INDIRECT_DESC BIT(28) /* §6 */
#define VIRTIO_F_EVENT_IDX BIT(29)
#define VIRTIO_F_VERSION_1 BIT(32)

enum { VISR_QUEUE = 1, VISR_CONFIG = 2 }; /* §4.1.4.5, §4.2.2 InterruptStatus */

/* MSI-X vectors, §4.1.5.1.2: of the configuration, then of each queue. */
enum { VIRTIO_NO_VECTOR = 0xffff, VDEV_VECTORS = 1 + VDEV_QUEUES_MAX };

struct vdev;

/* What the driver set up of one queue, and how far it got; all of it is saved. */
struct vq_state {
	gpa_t desc, avail, used;
	u16 size;       /* as the driver wrote it: checked when the queue is made ready */
	u16 last_avail; /* next avail ring entry to look at */
	u16 used_idx;   /* next used ring entry to fill */
	u16 signalled;  /* used_idx when the driver was last considered for an interrupt */
	bool ready;
};

/* A split ring in use.  Everything but *s is const between vq_start and vq_stop, whatever the
 * driver writes to the registers or the memory meanwhile. */
struct vq {
	struct vq_state *s;
	struct memory *mem;
	u8 *desc, *avail, *used; /* host addresses; NULL: not started */
	u16 size;
	u16 inflight; /* chains popped and not yet pushed */
	u16 budget;   /* chains that may still be popped in this pass, see vdev_notify */
	bool event_idx, indirect;
	int kick_fd;  /* vdev_queue_eventfd, or -1 */
	struct doorbell bell; /* guard: machine.lock: as given to the engine; fd -1: it was not */
	struct vdev *dev;
};

/* One request: the buffers the device may read (out), then those it may write (in). */
struct chain {
	u16 head;
	u16 out_n, in_n, in_at; /* out is iov[out_at..], in is iov[in_at..] */
	u16 out_at;
	u64 out_len, in_len;
	struct iovec iov[CHAIN_MAX];
	gpa_t gpa[CHAIN_MAX];
};

/* Take the ring described by *q->s into use.  0; -EINVAL if size, alignment or place are bad. */
int vq_start(struct vq *q, struct memory *mem, u64 features);
void vq_stop(struct vq *q);
static inline bool vq_active(const struct vq *q)
{
	return q->desc != NULL;
}

/* 1 and *c filled; 0 if there is none or the pass is over; -EPROTO if the driver broke a rule. */
int vq_pop(struct vq *q, struct chain *c);

/* Give the chain back with `written` bytes at the start of its in part valid. */
void vq_push(struct vq *q, const struct chain *c, u32 written);

/* Tell the driver of what was pushed, unless it asked not to be told. */
void vq_signal(struct vdev *v, struct vq *q);

/* Is the driver to be told?  Notes that it was considered. */
bool vq_wants_signal(struct vq *q);

/* Ask the driver for no notifications, for notifications; the latter is true if buffers wait. */
void vq_kick_off(struct vq *q);
bool vq_kick_on(struct vq *q);

/* Move up to n bytes from the front of the out part to dst.  The number moved. */
u64 chain_take(struct chain *c, void *dst, u64 n);

/* Copy up to n bytes to the front of the in part.  The number copied. */
u64 chain_give(const struct chain *c, const void *src, u64 n);

/* Cut off the last byte of the in part: false if there is none; else its address in *at. */
bool chain_cut_last(struct chain *c, gpa_t *at);

/* The in part was, or may have been, written: vq_push does this, a dropped request must. */
void chain_dirty(struct memory *mem, const struct chain *c);

struct vdev_ops {
	u32 id; /* §5 */
	u32 queues;
	u16 queue_max;
	u32 config_len; /* at most VDEV_CONFIG_MAX */

	/* Once: sets v->features and whatever it needs.  0, or -errno with *e and nothing left. */
	int (*init)(struct vdev *v, struct err *e);
	void (*free)(struct vdev *v); /* may be NULL */

	/* There may be chains in q: pop them until vq_pop says 0.  May be called for nothing. */
	void (*notify)(struct vdev *v, struct vq *q);

	/* The driver wrote configuration bytes; update v->s.config as the kind allows.  NULL: all
	 * are read-only. */
	void (*config_write)(struct vdev *v, u32 off, unsigned size, u64 val);

	/* Drop the requests of q (NULL: of all queues) that are in flight, and leave guest memory
	 * alone from now on.  NULL: there are none, ever. */
	void (*drop)(struct vdev *v, struct vq *q);
	void (*config_reset)(struct vdev *v); /* set v->s.config; NULL: there is none */
	int (*start)(struct vdev *v, struct err *e); /* its threads; NULL: none */
	void (*quiesce)(struct vdev *v);      /* finish all requests in flight; NULL: none ever */
};

struct vdev {
	struct device dev; /* first */
	/* const after init */
	const struct vdev_ops *ops;
	u64 features; /* offered, with the ring's and VERSION_1 */
	/* Transport: tell the driver of isr, that is of used buffers in q or of the configuration
	 * (q NULL); or, with isr 0, that there is nothing more to tell. */
	void (*interrupt)(struct vdev *v, u32 isr, const struct vq *q);
	/* The driver rang a queue's doorbell by an access.  An engine that can spare it the next
	 * one does so here; NULL: none can. */
	void (*rang)(void *ctx, struct vdev *v, struct vq *q);
	void *rang_ctx;
	/* guard: machine.lock */
	struct vq vq[VDEV_QUEUES_MAX];
	struct loop_timer again; /* a driver kept a queue busy: go on after others had their turn */
	struct vdev_state { /* all that the guest can observe; all of it is saved */
		u64 driver_features;
		u32 features_sel, driver_features_sel, queue_sel;
		u32 config_gen;
		u32 status;
		u32 isr;
		struct vq_state q[VDEV_QUEUES_MAX];
		u8 config[VDEV_CONFIG_MAX];
		u16 vector[VDEV_VECTORS + 1]; /* PCI only; the last is spare */
		u32 legacy; /* 1: the driver uses the legacy interface */
	} s;
	/* PCI only */
	struct pci_func_state pci_state; /* follows s: both are the device's state */
	struct pci_func pci;
};
_Static_assert(offsetof(struct vdev, pci_state) ==
		       offsetof(struct vdev, s) + sizeof(struct vdev_state),
	       "VPCI_DEVICE_OPS describes both as one");

static inline struct vdev *to_vdev(struct device *dev)
{
	return container_of(dev, struct vdev, dev);
}

/* --- virtio.c: for transports ----------------------------------------------------------------- */
int vdev_init(struct vdev *v, const struct vdev_ops *ops,
	      void (*interrupt)(struct vdev *, u32, const struct vq *), struct err *e);
void vdev_free(struct device *dev);
void vdev_reset(struct device *dev);   /* also what the driver does by writing status 0 */
void vdev_state(struct device *dev, struct state *st);
int vdev_start(struct device *dev, struct err *e);
void vdev_quiesce(struct device *dev);

u32 vdev_features(const struct vdev *v); /* the 32 bits that features_sel selects */
u32 vdev_driver_features(const struct vdev *v); /* ... that driver_features_sel selects */
void vdev_set_driver_features(struct vdev *v, u32 val);
void vdev_set_status(struct vdev *v, u32 val);
struct vq_state *vdev_queue(struct vdev *v);        /* the selected queue, or NULL */
struct vq_state *vdev_queue_config(struct vdev *v); /* same, NULL also when it is frozen */
void vdev_queue_ready(struct vdev *v, u32 val);
void vdev_notify(struct vdev *v, u32 queue);        /* any queue number */
void vdev_notify_later(struct vdev *v);            /* all queues, by the loop's thread, soon */
/* same, by the driver's access to the doorbell */
void vdev_rang(struct vdev *v, u32 queue);
u64 vdev_config_read(const struct vdev *v, u64 off, unsigned size);
void vdev_config_write(struct vdev *v, u64 off, unsigned size, u64 val);

/* --- virtio.c: for the kinds ------------------------------------------------------------------ */
/* The driver broke a rule: the device stops until it is reset (§2.1.2). */
void vdev_broken(struct vdev *v, const char *why);
/* The device changed v->s.config: tell the driver (§2.5). */
void vdev_config_changed(struct vdev *v);

/* DRIVER_OK is set and nothing is broken; a legacy driver need not have come that far. */
static inline bool vdev_running(const struct vdev *v)
{
	u32 want = v->s.legacy ? VSTATUS_DRIVER : VSTATUS_DRIVER_OK;

	return (v->s.status & (want | VSTATUS_NEEDS_RESET)) == want;
}
static inline bool vdev_has(const struct vdev *v, u64 feature)
{
	return v->s.driver_features & feature;
}

/* --- for the machine and the KVM engine ------------------------------------------------------- */
u32 vdev_queue_count(const struct device *dev);

/* An eventfd that stands for a notification of this queue; made on the first call, watched by the
 * loop, closed with the device.  The fd, or -errno. */
int vdev_queue_eventfd(struct device *dev, u32 queue);

/* --- mmio.c: the memory-mapped transport (§4.2) ----------------------------------------------- */
enum { VMMIO_LEN = 0x200, VMMIO_QUEUE_NOTIFY = 0x50 }; /* region 0; irq[0]: level-triggered */
int vmmio_init(struct device *dev, const struct vdev_ops *ops, struct err *e);
u64 vmmio_read(struct device *dev, unsigned region, u64 off, unsigned size);
void vmmio_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val);

/* The part of a device_ops that is the same for every kind behind virtio-mmio. */
#define VMMIO_DEVICE_OPS                                                                           \
	.access_max = 8, .start = vdev_start, .free = vdev_free,                                   \
	.read = vmmio_read, .write = vmmio_write,                                                  \
	.reset = vdev_reset, .state = vdev_state, .quiesce = vdev_quiesce,                         \
	.state_off = offsetof(struct vdev, s), .state_len = sizeof(struct vdev_state)

/* --- pci.c: the PCI transport (§4.1) ---------------------------------------------------------- */
enum { VPCI_REGS, VPCI_MSIX, VPCI_LEGACY }; /* regions: BARs of v->pci, which the board attaches */
enum { VPCI_REGS_BYTES = 0x4000, VPCI_MSIX_BYTES = 0x1000, VPCI_LEGACY_BYTES = 0x80 };
enum { VPCI_NOTIFY = 0x3000, VPCI_NOTIFY_MULTIPLIER = 4 }; /* queue i's doorbell in VPCI_REGS */
int vpci_init(struct device *dev, const struct vdev_ops *ops, struct err *e);
u64 vpci_read(struct device *dev, unsigned region, u64 off, unsigned size);
void vpci_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val);
void vpci_reset(struct device *dev);
void vpci_state(struct device *dev, struct state *st);
void vpci_driver_reset(struct vdev *v);
u8 vpci_isr_read(struct vdev *v); /* and clear it */
void vpci_vector_write(struct vdev *v, u16 *vector, u64 val);

/* legacy.c: give a new device behind virtio-pci the legacy interface too, and the identity that
 * goes with it. False: there never was such a device. */
bool vpci_make_transitional(struct device *dev);
u64 vpci_legacy_read(struct vdev *v, u64 off, unsigned size);
void vpci_legacy_write(struct vdev *v, u64 off, unsigned size, u64 val);

/* The part of a device_ops that is the same for every kind behind virtio-pci. */
#define VPCI_DEVICE_OPS                                                                            \
	.access_max = 4, .start = vdev_start, .free = vdev_free,                                   \
	.read = vpci_read, .write = vpci_write,                                                    \
	.reset = vpci_reset, .state = vpci_state, .quiesce = vdev_quiesce,                         \
	.state_off = offsetof(struct vdev, s),                                                     \
	.state_len = sizeof(struct vdev_state) + sizeof(struct pci_func_state)

/* --- the kinds -------------------------------------------------------------------------------- */
extern const struct device_ops virtio_rng_mmio_ops; /* needs mem, loop, irq[0] */
extern const struct device_ops virtio_rng_pci_ops;  /* needs mem, loop, irq[0].chip */

struct image;
struct blk_setup {
	struct image *image; /* borrowed until the device is freed */
	char serial[21];     /* what GET_ID answers */
};
extern const struct device_ops virtio_blk_mmio_ops; /* needs mem, loop, irq[0]; arg: blk_setup */
extern const struct device_ops virtio_blk_pci_ops;  /* needs mem, loop, irq[0].chip; the same arg */
