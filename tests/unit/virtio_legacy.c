/* Tests of devices/virtio/legacy.c: a toy disk with two queues behind the host bridge, driven as
 * drivers from before virtio 1.0 do (virtio 1.2 §4.1.4.10, §3.1.2). */
#include "pci_kit.h"

enum { FEATURES = 0, DRIVER_FEATURES = 4, PAGE = 8, SIZE = 12, SELECT = 14, NOTIFY = 16,
	STATUS = 18, ISR = 19, CONFIG_VECTOR = 20, QUEUE_VECTOR = 22 };
enum { QUEUE = 0x4000, QSIZE = 16, DATA = 0x10000, MSI_ADDR = 0xfee00000 };
/* Where a ring of 16 at QUEUE has its parts: descriptors, 256 bytes; then avail; used on the next
 * page. */
enum { AVAIL = QUEUE + QSIZE * 16, USED = QUEUE + 0x1000 };
enum { KICKED = VSTATUS_ACKNOWLEDGE | VSTATUS_DRIVER };

static struct pci_kit k;
static struct vdev *v;
static u32 chains;

static int toy_init(struct vdev *t, struct err *e)
{
	t->features = BIT(9) | BIT(40);
	return 0;
}

static void toy_notify(struct vdev *t, struct vq *q)
{
	struct chain c;
	int rc;

	while ((rc = vq_pop(q, &c)) > 0) {
		chains++;
		vq_push(q, &c, 0);
	}
	if (rc < 0)
		vdev_broken(t, "bad chain");
	vq_signal(t, q);
}

static void toy_config_reset(struct vdev *t)
{
	t->s.config[0] = 0x77;
}

static const struct vdev_ops toy_vops = {
	.id = 2,
	.queues = 2,
	.queue_max = QSIZE,
	.config_len = 8,
	.init = toy_init,
	.notify = toy_notify,
	.config_reset = toy_config_reset,
};
static const struct vdev_ops new_vops = { .id = 19, .queues = 1, .queue_max = QSIZE,
					  .init = toy_init, .notify = toy_notify };

static int toy_pci_init(struct device *dev, struct err *e)
{
	return vpci_init(dev, dev->arg ? &new_vops : &toy_vops, e);
}

static const struct device_ops toy_ops = {
	.name = "toy",
	.version = 1,
	.bytes = sizeof(struct vdev),
	.init = toy_pci_init,
	VPCI_DEVICE_OPS,
};

static void open_toy(void)
{
	struct device w;
	struct err e;
	struct device *dev;

	pk_open(&k);
	w = pk_wires(&k, NULL);
	dev = device_new(&toy_ops, &w, &e);
	OK(dev && vpci_make_transitional(dev));
	pk_put(&k, 1, dev, &to_vdev(dev)->pci);
	v = to_vdev(dev);
	pci_assign(k.host);
	chains = 0;
}

static u32 in(u32 reg, unsigned size)
{
	return (u32)bus_read(&k.pio, PK_IO + reg, size);
}

static void out(u32 reg, unsigned size, u32 val)
{
	bus_write(&k.pio, PK_IO + reg, size, val);
}

static u8 *at(gpa_t gpa)
{
	return mem_ptr(&k.mem, gpa, 1);
}

static void start_queue(void)
{
	out(STATUS, 1, 0);
	out(STATUS, 1, VSTATUS_ACKNOWLEDGE);
	out(STATUS, 1, KICKED);
	out(DRIVER_FEATURES, 4, 0);
	out(SELECT, 2, 0);
	EQ(in(SIZE, 2), QSIZE);
	out(PAGE, 4, QUEUE >> 12);
}

/* One buffer for the device to write. */
static void offer(u16 nr)
{
	u8 *d = at(QUEUE);

	st64(d, DATA);
	st32(d + 8, 64);
	st16(d + 12, 2);
	st16(at(AVAIL + 4 + nr % QSIZE * 2), 0);
	st16(at(AVAIL + 2), (u16)(nr + 1));
	out(NOTIFY, 2, 0);
}

TEST(virtio_legacy_identity_and_bar)
{
	open_toy();
	EQ(pk_in(&k, 1, PCI_VENDOR_ID, 2), 0x1af4);
	EQ(pk_in(&k, 1, PCI_DEVICE_ID, 2), 0x1001);
	EQ(pk_in(&k, 1, PCI_SUBSYSTEM_ID, 2), 2);
	EQ(pk_in(&k, 1, PCI_REVISION_ID, 1), 0);
	EQ(pk_in(&k, 1, PCI_BAR0, 4), PK_IO | 1);
	pk_out(&k, 1, PCI_BAR0, 4, UINT32_MAX);
	EQ(pk_in(&k, 1, PCI_BAR0, 4), (u32)-VPCI_LEGACY_BYTES | 1);
	pk_out(&k, 1, PCI_BAR0, 4, 0x1f00);
	EQ(bus_read(&k.pio, 0x1f00 + SIZE, 2), QSIZE);
	pk_out(&k, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	EQ(bus_read(&k.pio, 0x1f00 + SIZE, 2), 0xffff);
	OK(pk_cap(&k, 1, PCI_CAP_VENDOR, 0)); /* the modern interface is there too */
	pk_close(&k);
}

TEST(virtio_legacy_bar_outside_the_window_leads_nowhere)
{
	open_toy();
	pk_out(&k, 1, PCI_BAR0, 4, 0x0400);
	EQ(bus_read(&k.pio, 0x0400 + SIZE, 2), 0xffff);
	pk_out(&k, 1, PCI_BAR0, 4, 0xfffff000); /* ports have 16 bits */
	EQ(bus_read(&k.pio, 0xf000 + SIZE, 2), 0xffff);
	pk_close(&k);
}

TEST(virtio_legacy_features_are_32_bits_and_cut_to_the_offer)
{
	open_toy();
	EQ(in(FEATURES, 4), BIT(9) | BIT(27) | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
	out(DRIVER_FEATURES, 4, UINT32_MAX);
	EQ(v->s.driver_features, BIT(9) | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
	EQ(in(DRIVER_FEATURES, 4), v->s.driver_features);
	pk_close(&k);
}

TEST(virtio_legacy_ring_works_from_driver_on)
{
	open_toy();
	start_queue();
	EQ(in(PAGE, 4), QUEUE >> 12);
	offer(0); /* before DRIVER_OK */
	EQ(chains, 1);
	EQ(ld16(at(USED + 2)), 1);
	OK(k.line[1]); /* INTA of slot 1 */
	EQ(in(ISR, 1), VISR_QUEUE);
	OK(!k.line[1]);
	EQ(in(ISR, 1), 0);
	out(STATUS, 1, KICKED | VSTATUS_DRIVER_OK);
	EQ(in(STATUS, 1), KICKED | VSTATUS_DRIVER_OK);
	offer(1);
	EQ(chains, 2);
	out(STATUS, 1, 0);
	EQ(in(PAGE, 4), 0);
	EQ(v->s.legacy, 0);
	offer(2);
	EQ(chains, 2);
	pk_close(&k);
}

TEST(virtio_legacy_queue_goes_and_comes_back_from_its_start)
{
	open_toy();
	start_queue();
	offer(0);
	out(PAGE, 4, 0);
	offer(1);
	EQ(chains, 1);
	memset(at(AVAIL), 0, 64);
	out(PAGE, 4, QUEUE >> 12);
	offer(0);
	EQ(chains, 2);
	out(SELECT, 2, 2); /* there are two */
	EQ(in(SIZE, 2), 0);
	out(PAGE, 4, 1);
	EQ(in(PAGE, 4), 0);
	pk_close(&k);
}

TEST(virtio_legacy_queue_outside_memory_breaks_the_device)
{
	open_toy();
	start_queue();
	out(PAGE, 4, UINT32_MAX);
	OK(in(STATUS, 1) & VSTATUS_NEEDS_RESET);
	EQ(in(PAGE, 4), 0);
	offer(0);
	EQ(chains, 0);
	start_queue();
	offer(0);
	EQ(chains, 1);
	pk_close(&k);
}

TEST(virtio_legacy_registers_take_their_own_width_only)
{
	open_toy();
	start_queue();
	out(PAGE, 2, 0);
	out(PAGE + 2, 2, 0);
	out(SELECT, 1, 1);
	out(STATUS, 2, 0);
	EQ(in(PAGE, 4), QUEUE >> 12);
	EQ(in(STATUS, 1), KICKED);
	EQ(in(STATUS, 2), KICKED); /* a wider read does not acknowledge interrupts */
	pk_close(&k);
}

TEST(virtio_legacy_configuration_moves_behind_the_vectors)
{
	u32 cap, msix;

	open_toy();
	EQ(in(CONFIG_VECTOR, 1), 0x77);
	cap = pk_cap(&k, 1, PCI_CAP_MSIX, 0);
	pk_out(&k, 1, cap + 2, 2, 0x8000);
	EQ(in(CONFIG_VECTOR, 2), VIRTIO_NO_VECTOR);
	EQ(in(CONFIG_VECTOR + 4, 1), 0x77);
	msix = pk_in(&k, 1, PCI_BAR0 + 4, 4);
	pk_write(&k, msix + 16, 4, MSI_ADDR);
	pk_write(&k, msix + 24, 4, 0x41);
	pk_write(&k, msix + 28, 4, 0);
	start_queue();
	out(CONFIG_VECTOR, 2, 0);
	out(QUEUE_VECTOR, 2, 1);
	EQ(in(QUEUE_VECTOR, 2), 1);
	offer(0);
	EQ(k.messages, 1);
	EQ(k.message[0].data, 0x41);
	OK(!k.line[1]);
	out(QUEUE_VECTOR, 2, 99);
	EQ(in(QUEUE_VECTOR, 2), VIRTIO_NO_VECTOR);
	pk_close(&k);
}

TEST(virtio_legacy_state_goes_on_after_save_and_load)
{
	struct state saved, st;

	open_toy();
	start_queue();
	offer(0);
	state_init_save(&saved);
	v->dev.ops->state(&v->dev, &saved);
	EQ(saved.error, 0);
	out(STATUS, 1, 0);
	state_init_load(&st, saved.buf, saved.len);
	st.section_end = saved.len;
	v->dev.ops->state(&v->dev, &st);
	EQ(st.error, 0);
	EQ(in(PAGE, 4), QUEUE >> 12);
	offer(1);
	EQ(chains, 2);
	state_free(&saved);
	pk_close(&k);
}

TEST(virtio_legacy_kinds_that_came_later_stay_modern)
{
	struct device w, *dev;
	struct err e;

	pk_open(&k);
	w = pk_wires(&k, &k);
	dev = device_new(&toy_ops, &w, &e);
	OK(dev && !vpci_make_transitional(dev));
	pk_put(&k, 1, dev, &to_vdev(dev)->pci);
	EQ(pk_in(&k, 1, PCI_DEVICE_ID, 2), 0x1040 + 19);
	EQ(pk_in(&k, 1, PCI_BAR0, 4), 0);
	pk_close(&k);
}
