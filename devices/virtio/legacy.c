/* legacy.c - the legacy interface of a transitional virtio-pci device: its registers in an I/O BAR,
 * for drivers from before virtio 1.0.  The device then has the identity that such drivers look for.
 *
 * A driver chooses: whoever writes a status here has chosen this interface until the next reset.
 * The ring is the split ring in one piece, at a page number.  Buffers may be used before DRIVER_OK,
 * as old Linux does while it looks for partitions.
 * Source: virtio 1.2 §4.1.4.10 (registers), §2.7.2 (ring layout), §3.1.2 (initialisation), §4.1.2.3
 * (IDs).
 * Departure: DEVICE_NEEDS_RESET is shown, which old drivers do not know. */
#include "virtio.h"

enum {
	REG_FEATURES = 0,
	REG_DRIVER_FEATURES = 4,
	REG_QUEUE_PAGE = 8,
	REG_QUEUE_SIZE = 12,
	REG_QUEUE_SELECT = 14,
	REG_QUEUE_NOTIFY = 16,
	REG_STATUS = 18,
	REG_ISR = 19,
	REG_CONFIG_VECTOR = 20, /* these two only while MSI-X is on */
	REG_QUEUE_VECTOR = 22,
	REGS_BYTES = 24,
};
enum { BAR_LEGACY = 0, REVISION_LEGACY = 0, LEGACY_ID = 0x1000, QUEUE_PAGE_BYTES = 4096 };
#define VIRTIO_F_ANY_LAYOUT BIT(27) /* §6.3: our requests may be cut into descriptors at will */

/* Device ID less 1000h for each kind that there was, §4.1.2.3. */
static const struct {
	u8 kind, id;
} legacy_ids[] = { { 1, 0 }, { 2, 1 }, { 3, 3 }, { 4, 5 }, { 5, 2 }, { 8, 4 }, { 9, 9 } };

bool vpci_make_transitional(struct device *dev)
{
	struct vdev *v = to_vdev(dev);
	struct pci_func *f = &v->pci;
	u32 i = 0;

	while (i < ARRAY_LEN(legacy_ids) && legacy_ids[i].kind != v->ops->id)
		i++;
	if (i == ARRAY_LEN(legacy_ids))
		return false;
	st16(f->reset + PCI_DEVICE_ID, (u16)(LEGACY_ID + legacy_ids[i].id));
	st16(f->reset + PCI_SUBSYSTEM_ID, (u16)v->ops->id);
	f->reset[PCI_REVISION_ID] = REVISION_LEGACY;
	pci_func_bar(f, BAR_LEGACY, PCI_BAR_IO, VPCI_LEGACY_BYTES, VPCI_LEGACY);
	pci_func_reset(f);
	return true;
}

/* Where the device's own configuration begins. */
static u32 regs_bytes(const struct vdev *v)
{
	return pci_msix_on(&v->pci) ? REGS_BYTES : REG_CONFIG_VECTOR;
}

/* --- queues ----------------------------------------------------------------------------------- */
static void queue_place(struct vdev *v, u32 page)
{
	struct vq_state *s = vdev_queue(v);
	struct vq *q;

	if (!s)
		return;
	q = &v->vq[s - v->s.q];
	if (v->ops->drop)
		v->ops->drop(v, q);
	vq_stop(q);
	s->ready = false;
	s->size = v->ops->queue_max;
	s->last_avail = s->used_idx = s->signalled = 0;
	s->desc = (u64)page * QUEUE_PAGE_BYTES;
	s->avail = s->desc + 16ull * s->size;
	s->used = ALIGN_UP(s->avail + 2ull * (3 + s->size), QUEUE_PAGE_BYTES);
	if (!page)
		return;
	if (vq_start(q, v->dev.mem, v->s.driver_features) < 0)
		vdev_broken(v, "queue lies outside memory");
	else
		s->ready = true;
}

/* --- registers -------------------------------------------------------------------------------- */
u64 vpci_legacy_read(struct vdev *v, u64 off, unsigned size)
{
	const struct vq_state *s = vdev_queue(v);
	u8 regs[REGS_BYTES] = { 0 };
	u64 val = 0;

	if (off >= regs_bytes(v))
		return vdev_config_read(v, off - regs_bytes(v), size);
	if (off == REG_ISR && size == 1)
		return vpci_isr_read(v);
	st32(regs + REG_FEATURES, (u32)(v->features | VIRTIO_F_ANY_LAYOUT));
	st32(regs + REG_DRIVER_FEATURES, (u32)v->s.driver_features);
	st32(regs + REG_QUEUE_PAGE, s && s->ready ? (u32)(s->desc / QUEUE_PAGE_BYTES) : 0);
	st16(regs + REG_QUEUE_SIZE, s ? v->ops->queue_max : 0);
	st16(regs + REG_QUEUE_SELECT, (u16)v->s.queue_sel);
	regs[REG_STATUS] = (u8)v->s.status;
	st16(regs + REG_CONFIG_VECTOR, v->s.vector[0]);
	st16(regs + REG_QUEUE_VECTOR, s ? v->s.vector[1 + v->s.queue_sel] : VIRTIO_NO_VECTOR);
	memcpy(&val, regs + off, MIN(size, REGS_BYTES - off));
	return val;
}

/* Status bits come in any order, and FEATURES_OK is not among them. */
static void status_write(struct vdev *v, u8 val)
{
	if (!val) {
		vpci_driver_reset(v);
		return;
	}
	v->s.legacy = 1;
	v->s.status |= val & (VSTATUS_ACKNOWLEDGE | VSTATUS_DRIVER | VSTATUS_DRIVER_OK |
			      VSTATUS_FAILED);
}

/* Each register as wide as it is; other writes change nothing. */
void vpci_legacy_write(struct vdev *v, u64 off, unsigned size, u64 val)
{
	if (off >= regs_bytes(v))
		vdev_config_write(v, off - regs_bytes(v), size, val);
	else if (size == 4 && off == REG_DRIVER_FEATURES)
		v->s.driver_features = val & (u32)v->features;
	else if (size == 4 && off == REG_QUEUE_PAGE)
		queue_place(v, (u32)val);
	else if (size == 2 && off == REG_QUEUE_SELECT)
		v->s.queue_sel = (u16)val;
	else if (size == 2 && off == REG_QUEUE_NOTIFY)
		vdev_notify(v, (u16)val);
	else if (size == 1 && off == REG_STATUS)
		status_write(v, (u8)val);
	else if (size == 2 && off == REG_CONFIG_VECTOR)
		vpci_vector_write(v, &v->s.vector[0], val);
	else if (size == 2 && off == REG_QUEUE_VECTOR && vdev_queue(v))
		vpci_vector_write(v, &v->s.vector[1 + v->s.queue_sel], val);
}
