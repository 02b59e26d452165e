/* pci.c - the virtio-pci transport: BAR 4 holds common configuration, ISR status, device
 * configuration and doorbells, BAR 1 the MSI-X table; capabilities say so.
 *
 * With MSI-X on, a notification is the message of its vector; else it is INTA, or the one MSI
 * message, and bits in ISR status.  One doorbell a queue, so that a doorbell can be an eventfd.
 * legacy.c has the legacy interface.
 * Source: virtio 1.2 §4.1, names as in its structures.  Not offered: queue_reset,
 * VIRTIO_F_NOTIFICATION_DATA, shared memory regions. */
#include "virtio.h"

enum { BAR_MSIX = 1, BAR_REGS = 4 };
enum { REGS_COMMON = 0x0000, REGS_ISR = 0x1000, REGS_DEVICE = 0x2000, REGS_NOTIFY = VPCI_NOTIFY };
enum { REGS_PART_BYTES = 0x1000, MSIX_PBA = 0x800 };

#define VIRTIO_VENDOR 0x1af4
enum { MODERN_ID = 0x1040, REVISION_MODERN = 1 };

/* struct virtio_pci_cap, §4.1.4 */
enum {
	CAP_LEN = 2,
	CAP_CFG_TYPE = 3,
	CAP_BAR = 4,
	CAP_OFFSET = 8,
	CAP_LENGTH = 12,
	CAP_BYTES = 16,
	CAP_NOTIFY_MULTIPLIER = 16,
	CAP_PCI_CFG_DATA = 16,
	CAP_MORE_BYTES = 20
};
enum { CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4, CFG_PCI = 5 };

/* struct virtio_pci_common_cfg, §4.1.4.3 */
struct common {
	u32 device_feature_select, device_feature;
	u32 driver_feature_select, driver_feature;
	u16 config_msix_vector, num_queues;
	u8 device_status, config_generation;
	u16 queue_select;
	u16 queue_size, queue_msix_vector, queue_enable, queue_notify_off;
	u64 queue_desc, queue_driver, queue_device;
};
_Static_assert(sizeof(struct common) == 56, "as in the specification");
#define COMMON(field) offsetof(struct common, field)

/* --- interrupts: §4.1.5.1.2, §4.1.5.3, §4.1.5.4 -------------------------------------------------
 */
static u16 *queue_vector(struct vdev *v, u32 queue)
{
	return &v->s.vector[1 + queue];
}

static void vpci_interrupt(struct vdev *v, u32 isr, const struct vq *q)
{
	if (pci_msix_on(&v->pci)) { /* §4.1.4.5.1: the queue bit is for INTA */
		v->s.isr |= isr & VISR_CONFIG;
		if (isr)
			pci_msix_send(&v->pci,
				      q ? *queue_vector(v, (u32)(q - v->vq)) : v->s.vector[0]);
		return;
	}
	v->s.isr |= isr;
	if (isr)
		pci_raise(&v->pci);
	else if (!v->s.isr)
		pci_lower(&v->pci);
}

/* ISR status is cleared by reading it (§4.1.4.5). */
u8 vpci_isr_read(struct vdev *v)
{
	u8 isr = (u8)v->s.isr;

	v->s.isr = 0;
	pci_lower(&v->pci);
	return isr;
}

/* --- common configuration: §4.1.4.3 -------------------------------------------------------------
 */
static u64 common_read(struct vdev *v, u64 off, unsigned size)
{
	const struct vq_state *q = vdev_queue(v);
	struct common c = {
		.device_feature_select = v->s.features_sel,
		.device_feature = vdev_features(v),
		.driver_feature_select = v->s.driver_features_sel,
		.driver_feature = vdev_driver_features(v),
		.config_msix_vector = v->s.vector[0],
		.num_queues = (u16)v->ops->queues,
		.device_status = (u8)v->s.status,
		.config_generation = (u8)v->s.config_gen,
		.queue_select = (u16)v->s.queue_sel,
		.queue_msix_vector = VIRTIO_NO_VECTOR,
	};
	u64 val = 0;

	if (q) {
		c.queue_size = q->size;
		c.queue_msix_vector = *queue_vector(v, v->s.queue_sel);
		c.queue_enable = q->ready;
		c.queue_notify_off = (u16)v->s.queue_sel;
		c.queue_desc = q->desc;
		c.queue_driver = q->avail;
		c.queue_device = q->used;
	}
	if (off < sizeof c)
		memcpy(&val, (u8 *)&c + off, MIN(size, sizeof c - off));
	return val;
}

void vpci_vector_write(struct vdev *v, u16 *vector, u64 val)
{
	*vector = val < v->pci.vectors ? (u16)val : VIRTIO_NO_VECTOR;
}

static void set_half(gpa_t *addr, bool high, u64 val)
{
	*addr = high ? val << 32 | (u32)*addr : (*addr & ~0xffffffffull) | val;
}

/* Registers of the selected queue; all but the vector are frozen while it is in use. */
static void queue_write(struct vdev *v, u64 off, unsigned size, u64 val)
{
	struct vq_state *q = vdev_queue_config(v);

	if (size == 2 && off == COMMON(queue_msix_vector) && vdev_queue(v))
		vpci_vector_write(v, queue_vector(v, v->s.queue_sel), val);
	else if (size == 2 && off == COMMON(queue_enable) && val == 1) /* §4.1.4.3.2: never 0 */
		vdev_queue_ready(v, 1);
	else if (size == 2 && off == COMMON(queue_size) && q)
		q->size = val <= v->ops->queue_max ? (u16)val : 0; /* 0 fails when enabled */
	if (size != 4 || off % 4 || !q)
		return;
	switch (off & ~7ull) {
	case COMMON(queue_desc): set_half(&q->desc, off & 4, val); break;
	case COMMON(queue_driver): set_half(&q->avail, off & 4, val); break;
	case COMMON(queue_device): set_half(&q->used, off & 4, val); break;
	}
}

/* A reset forgets messages that wait for their mask to go. */
void vpci_driver_reset(struct vdev *v)
{
	vdev_reset(&v->dev);
	pci_msix_clear_pending(&v->pci);
}

static void status_write(struct vdev *v, u32 val)
{
	if (val)
		vdev_set_status(v, val);
	else
		vpci_driver_reset(v);
}

/* §4.1.3.1: each field is accessed as wide as it is; other writes change nothing. */
static void common_write(struct vdev *v, u64 off, unsigned size, u64 val)
{
	if (size == 4 && off == COMMON(device_feature_select))
		v->s.features_sel = (u32)val;
	else if (size == 4 && off == COMMON(driver_feature_select))
		v->s.driver_features_sel = (u32)val;
	else if (size == 4 && off == COMMON(driver_feature))
		vdev_set_driver_features(v, (u32)val);
	else if (size == 2 && off == COMMON(config_msix_vector))
		vpci_vector_write(v, &v->s.vector[0], val);
	else if (size == 1 && off == COMMON(device_status))
		status_write(v, (u32)val);
	else if (size == 2 && off == COMMON(queue_select))
		v->s.queue_sel = (u32)val;
	else
		queue_write(v, off, size, val);
}

/* --- BARs ---------------------------------------------------------------------------------------
 */
u64 vpci_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct vdev *v = to_vdev(dev);

	if (region == VPCI_MSIX)
		return pci_msix_read(&v->pci, off, size, MSIX_PBA);
	if (region == VPCI_LEGACY)
		return vpci_legacy_read(v, off, size);
	switch (ALIGN_DOWN(off, REGS_PART_BYTES)) {
	case REGS_COMMON: return common_read(v, off, size);
	case REGS_ISR: return off == REGS_ISR ? vpci_isr_read(v) : 0;
	case REGS_DEVICE: return vdev_config_read(v, off - REGS_DEVICE, size);
	default: return 0; /* doorbells are write-only */
	}
}

void vpci_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct vdev *v = to_vdev(dev);

	if (region == VPCI_MSIX)
		return pci_msix_write(&v->pci, off, size, val);
	if (region == VPCI_LEGACY)
		return vpci_legacy_write(v, off, size, val);
	switch (ALIGN_DOWN(off, REGS_PART_BYTES)) {
	case REGS_COMMON: common_write(v, off, size, val); break;
	case REGS_DEVICE: vdev_config_write(v, off - REGS_DEVICE, size, val); break;
	case REGS_NOTIFY:
		if (off % VPCI_NOTIFY_MULTIPLIER == 0)
			vdev_rang(v, (u32)(off - REGS_NOTIFY) / VPCI_NOTIFY_MULTIPLIER);
		break;
	}
}

/* --- the window in configuration space: §4.1.4.9 ------------------------------------------------
 */
/* Where pci_cfg_data leads: true, and region, offset and length. */
static bool window_target(struct pci_func *f, u32 *region, u32 *at, u32 *len)
{
	const u8 *cap = f->s->config + f->last_cap;
	const struct pci_bar *bar = cap[CAP_BAR] < PCI_BARS ? &f->bar[cap[CAP_BAR]] : NULL;

	*at = ld32(cap + CAP_OFFSET);
	*len = ld32(cap + CAP_LENGTH);
	if (!bar || (*len != 1 && *len != 2 && *len != 4) || *at % *len || *at >= bar->len)
		return false;
	*region = bar->region;
	return true;
}

static bool touches_window(const struct pci_func *f, u32 off, unsigned size)
{
	u32 data = f->last_cap + CAP_PCI_CFG_DATA;

	return off < data + 4 && data < off + size;
}

static void vpci_config_read(struct pci_func *f, u32 off, unsigned size)
{
	u32 region, at, len;

	if (touches_window(f, off, size) && window_target(f, &region, &at, &len))
		st32(f->s->config + f->last_cap + CAP_PCI_CFG_DATA,
		     (u32)vpci_read(f->dev, region, at, len));
}

static void vpci_config_written(struct pci_func *f, u32 off, unsigned size)
{
	u32 region, at, len, val = ld32(f->s->config + f->last_cap + CAP_PCI_CFG_DATA);

	if (touches_window(f, off, size) && window_target(f, &region, &at, &len))
		vpci_write(f->dev, region, at, len, val & (u32)(BIT(len * 8) - 1));
}

/* --- life ---------------------------------------------------------------------------------------
 */
static u32 vpci_cap(struct pci_func *f, u8 type, u32 offset, u32 length, u32 bytes)
{
	u32 at = pci_cap_add(f, PCI_CAP_VENDOR, bytes);
	u8 *cap = f->reset + at;

	cap[CAP_LEN] = (u8)bytes;
	cap[CAP_CFG_TYPE] = type;
	cap[CAP_BAR] = type == CFG_PCI ? 0 : BAR_REGS;
	st32(cap + CAP_OFFSET, offset);
	st32(cap + CAP_LENGTH, length);
	return at;
}

static void vpci_caps(struct pci_func *f, const struct vdev_ops *ops)
{
	u32 at;

	pci_msix_add(f, 1 + ops->queues, BAR_MSIX, 0, MSIX_PBA);
	pci_msi_add(f);
	vpci_cap(f, CFG_COMMON, REGS_COMMON, sizeof(struct common), CAP_BYTES);
	vpci_cap(f, CFG_ISR, REGS_ISR, 1, CAP_BYTES);
	if (ops->config_len)
		vpci_cap(f, CFG_DEVICE, REGS_DEVICE, ops->config_len, CAP_BYTES);
	at = vpci_cap(f, CFG_NOTIFY, REGS_NOTIFY, ops->queues * VPCI_NOTIFY_MULTIPLIER,
		      CAP_MORE_BYTES);
	st32(f->reset + at + CAP_NOTIFY_MULTIPLIER, VPCI_NOTIFY_MULTIPLIER);
	at = vpci_cap(f, CFG_PCI, 0, 0, CAP_MORE_BYTES); /* last: see window_target */
	f->write[at + CAP_BAR] = 0xff;
	memset(f->write + at + CAP_OFFSET, 0xff, CAP_MORE_BYTES - CAP_OFFSET);
	f->config_read = vpci_config_read;
	f->config_written = vpci_config_written;
}

/* Class codes, PCI Code and ID Assignment 1.11 §1; what drivers go by is the device ID. */
static u32 vpci_class(u32 virtio_id)
{
	enum { ID_NET = 1, ID_BLOCK = 2, ID_CONSOLE = 3 };

	switch (virtio_id) {
	case ID_NET: return 0x020000;
	case ID_BLOCK: return 0x018000;
	case ID_CONSOLE: return 0x078000;
	default: return 0x00ff00;
	}
}

int vpci_init(struct device *dev, const struct vdev_ops *ops, struct err *e)
{
	struct vdev *v = to_vdev(dev);
	u16 id = (u16)(MODERN_ID + ops->id);
	struct pci_id ids = { .vendor = VIRTIO_VENDOR,
			      .device = id,
			      .subsystem_vendor = VIRTIO_VENDOR,
			      .subsystem = id,
			      .class = vpci_class(ops->id),
			      .revision = REVISION_MODERN };

	pci_func_init(&v->pci, dev, &v->pci_state, &ids, true);
	pci_func_bar(&v->pci, BAR_MSIX, PCI_BAR_MEM32, VPCI_MSIX_BYTES, VPCI_MSIX);
	pci_func_bar(&v->pci, BAR_REGS, PCI_BAR_MEM64, VPCI_REGS_BYTES, VPCI_REGS);
	vpci_caps(&v->pci, ops);
	pci_func_reset(&v->pci);
	return vdev_init(v, ops, vpci_interrupt, e);
}

void vpci_reset(struct device *dev)
{
	pci_func_reset(&to_vdev(dev)->pci);
	vdev_reset(dev);
}

void vpci_state(struct device *dev, struct state *st)
{
	struct vdev *v = to_vdev(dev);

	for (u32 i = 0; i < ARRAY_LEN(v->s.vector); i++) {
		u16 *vector = &v->s.vector[i];

		st_u16(st, "vector", vector);
		st_check(st, *vector == VIRTIO_NO_VECTOR || *vector < v->pci.vectors, "vector");
	}
	pci_func_state(&v->pci, st);
	vdev_state(dev, st);
}
