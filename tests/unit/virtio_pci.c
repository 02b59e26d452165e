/* Tests of devices/virtio/pci.c: a toy device with two queues behind the host bridge, driven as
 * §4.1 tells a driver to. */
#include "../conform/virtio_toy.h"
#include "pci_kit.h"

enum {
	C_DEV_SEL = 0,
	C_DEV = 4,
	C_DRV_SEL = 8,
	C_DRV = 12,
	C_VECTOR = 16,
	C_QUEUES = 18,
	C_STATUS = 20,
	C_GENERATION = 21,
	C_QSEL = 22,
	C_QSIZE = 24,
	C_QVECTOR = 26,
	C_QENABLE = 28,
	C_QNOTIFY = 30,
	C_DESC = 32,
	C_AVAIL = 40,
	C_USED = 48
};
enum { T_COMMON = 1, T_NOTIFY = 2, T_ISR = 3, T_DEVICE = 4, T_PCI = 5 };
enum { DESC = 0x1000, AVAIL = 0x2000, USED = 0x3000, DATA = 0x10000, QSIZE = 8 };
enum { MSI_ADDR = 0xfee00000, NO_VECTOR = 0xffff };

static int toy_pci_init(struct device *dev, struct err *e)
{
	return vpci_init(dev, &toy_vops, e);
}

static const struct device_ops toy_ops = {
	.name = "toy",
	.version = 1,
	.bytes = sizeof(struct vdev),
	.init = toy_pci_init,
	VPCI_DEVICE_OPS,
};

/* --- a driver --------------------------------------------------------------------------------- */
static struct pci_kit k;
static struct vdev *v;
static u64 common, isr, device, notify, msix;
static u16 avail_idx;

/* The address that a virtio capability leads to, or 0. */
static u64 part(u8 type)
{
	u32 cap;

	for (u32 n = 0; (cap = pk_cap(&k, 1, PCI_CAP_VENDOR, n)); n++) {
		u32 bar = pk_in(&k, 1, cap + 4, 1);

		if (pk_in(&k, 1, cap + 3, 1) == type)
			return (pk_in(&k, 1, PCI_BAR0 + bar * 4, 4) & ~0xfu) +
			       pk_in(&k, 1, cap + 8, 4);
	}
	return 0;
}

static void open_with(const struct device_ops *ops)
{
	pk_open(&k);
	v = pk_add(&k, 1, ops, NULL);
	pci_assign(k.host);
	common = part(T_COMMON);
	isr = part(T_ISR);
	device = part(T_DEVICE);
	notify = part(T_NOTIFY);
	msix = pk_in(&k, 1, PCI_BAR0 + 4, 4);
	avail_idx = 0;
}

static u64 c_in(u32 off, unsigned size)
{
	return pk_read(&k, common + off, size);
}

static void c_out(u32 off, unsigned size, u64 val)
{
	pk_write(&k, common + off, size, val);
}

static void start(bool with_msix)
{
	c_out(C_STATUS, 1, 0);
	c_out(C_STATUS, 1, 1);
	c_out(C_STATUS, 1, 3);
	c_out(C_DRV_SEL, 4, 1);
	c_out(C_DRV, 4, 1);
	c_out(C_STATUS, 1, 11);
	EQ(c_in(C_STATUS, 1), 11);
	if (with_msix) {
		pk_out(&k, 1, pk_cap(&k, 1, PCI_CAP_MSIX, 0) + 2, 2, 0x8000);
		for (u32 i = 0; i < 3; i++) {
			pk_write(&k, msix + i * 16, 4, MSI_ADDR);
			pk_write(&k, msix + i * 16 + 8, 4, 0x40 + i);
			pk_write(&k, msix + i * 16 + 12, 4, 0);
		}
		c_out(C_VECTOR, 2, 0);
	}
	c_out(C_QSEL, 2, 0);
	c_out(C_QSIZE, 2, QSIZE);
	c_out(C_QVECTOR, 2, with_msix ? 2 : NO_VECTOR);
	c_out(C_DESC, 4, DESC);
	c_out(C_AVAIL, 4, AVAIL);
	c_out(C_USED, 8, USED);
	c_out(C_QENABLE, 2, 1);
	EQ(c_in(C_QENABLE, 2), 1);
	c_out(C_STATUS, 1, 15);
	EQ(c_in(C_STATUS, 1), 15);
}

static void offer_and_kick(u16 head)
{
	u8 *desc = mem_ptr(&k.mem, DESC, 16), *avail = mem_ptr(&k.mem, AVAIL, 64);

	st64(desc, DATA);
	st32(desc + 8, 64);
	st16(avail + 4 + avail_idx % QSIZE * 2, head);
	st16(avail + 2, ++avail_idx);
	pk_write(&k, notify, 2, 0);
}

/* --- structure ----------------------------------------------------------------------------------
 */
TEST(virtio_pci_identifies_itself)
{
	open_with(&toy_ops);
	EQ(pk_in(&k, 1, PCI_VENDOR_ID, 4), 0x10911af4);
	EQ(pk_in(&k, 1, PCI_REVISION_ID, 1), 1);
	OK(common && isr && device && notify && pk_cap(&k, 1, PCI_CAP_MSIX, 0));
	EQ(c_in(C_QUEUES, 2), 2);
	EQ(c_in(C_VECTOR, 2), NO_VECTOR);
	c_out(C_QSEL, 2, 1);
	EQ(c_in(C_QSIZE, 2), 16);
	EQ(c_in(C_QNOTIFY, 2), 1);
	EQ(c_in(C_QVECTOR, 2), NO_VECTOR);
	c_out(C_QSEL, 2, 2);
	EQ(c_in(C_QSIZE, 2), 0);
	EQ(c_in(C_QSEL, 2), 2);
	pk_close(&k);
}

TEST(virtio_pci_rng_has_no_device_config)
{
	open_with(&virtio_rng_pci_ops);
	EQ(pk_in(&k, 1, PCI_DEVICE_ID, 2), 0x1044);
	EQ(device, 0);
	pk_close(&k);
}

TEST(virtio_pci_features_come_in_two_words_and_read_back)
{
	open_with(&toy_ops);
	EQ(c_in(C_DEV, 4), BIT(3) | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
	c_out(C_DEV_SEL, 4, 1);
	EQ(c_in(C_DEV, 4), 1);
	EQ(c_in(C_DEV_SEL, 4), 1);
	c_out(C_DRV_SEL, 4, 0);
	c_out(C_DRV, 4, 8);
	EQ(c_in(C_DRV, 4), 8);
	c_out(C_DRV_SEL, 4, 2);
	EQ(c_in(C_DRV, 4), 0);
	EQ(c_in(C_DRV_SEL, 4), 2);
	pk_close(&k);
}

TEST(virtio_pci_fields_are_written_as_wide_as_they_are)
{
	open_with(&toy_ops);
	c_out(C_QSEL, 4, 1);
	EQ(c_in(C_QSEL, 2), 0);
	c_out(C_STATUS, 2, 1);
	EQ(c_in(C_STATUS, 1), 0);
	c_out(C_QSIZE + 1, 1, 1);
	EQ(c_in(C_QSIZE, 2), 16);
	c_out(C_DESC, 8, 0x123456789ab0);
	EQ(c_in(C_DESC, 8), 0x123456789ab0);
	EQ(c_in(C_DESC + 4, 4), 0x1234);
	EQ(c_in(56, 4), 0);
	EQ(c_in(0xffc, 4), 0);
	pk_close(&k);
}

TEST(virtio_pci_device_config_is_read_and_written)
{
	open_with(&toy_ops);
	EQ(pk_read(&k, device, 8), 0x1716151413121110);
	pk_write(&k, device + 4, 2, 0xbeef);
	EQ(pk_read(&k, device + 4, 2), 0xbeef);
	EQ(pk_read(&k, device + 8, 4), 0xffffffff);
	pk_close(&k);
}

/* --- queues and interrupts ----------------------------------------------------------------------
 */
TEST(virtio_pci_without_msix_asserts_inta_until_isr_is_read)
{
	open_with(&toy_ops);
	start(false);
	OK(!k.line[1]);
	offer_and_kick(0);
	EQ(ld16((u8 *)mem_ptr(&k.mem, USED, 4) + 2), 1);
	OK(k.line[1]);
	EQ(pk_read(&k, isr, 1), VISR_QUEUE);
	OK(!k.line[1]);
	EQ(pk_read(&k, isr, 1), 0);
	vdev_config_changed(v);
	EQ(c_in(C_GENERATION, 1), 1);
	OK(k.line[1]);
	EQ(pk_read(&k, isr, 1), VISR_CONFIG);
	EQ(k.messages, 0);
	pk_close(&k);
}

TEST(virtio_pci_with_msi_sends_its_one_message)
{
	u32 cap;

	open_with(&toy_ops);
	cap = pk_cap(&k, 1, PCI_CAP_MSI, 0);
	pk_out(&k, 1, cap + 4, 4, MSI_ADDR);
	pk_out(&k, 1, cap + 12, 2, 0x55);
	pk_out(&k, 1, cap + 2, 2, 1);
	start(false);
	offer_and_kick(0);
	EQ(k.messages, 1);
	EQ(k.message[0].data, 0x55);
	EQ(k.rises[1], 0);
	EQ(pk_read(&k, isr, 1), VISR_QUEUE);
	pk_close(&k);
}

TEST(virtio_pci_with_msix_has_a_vector_for_each_queue)
{
	open_with(&toy_ops);
	start(true);
	offer_and_kick(0);
	EQ(k.messages, 1);
	EQ(k.message[0].data, 0x42);
	EQ(pk_read(&k, isr, 1), 0); /* §4.1.4.5.1 */
	vdev_config_changed(v);
	EQ(k.messages, 2);
	EQ(k.message[1].data, 0x40);
	EQ(pk_read(&k, isr, 1), VISR_CONFIG);
	c_out(C_QSEL, 2, 0);
	c_out(C_QVECTOR, 2, NO_VECTOR); /* while in use, too */
	offer_and_kick(0);
	EQ(k.messages, 2);
	EQ(k.rises[1], 0);
	pk_close(&k);
}

TEST(virtio_pci_queue_registers_are_frozen_while_in_use)
{
	struct vq_state before;

	open_with(&toy_ops);
	start(false);
	before = v->s.q[0];
	c_out(C_QSIZE, 2, 16);
	for (u32 off = C_DESC; off < C_USED + 8; off += 4)
		c_out(off, 4, 0xfffff000);
	c_out(C_QENABLE, 2, 0); /* §4.1.4.3.2: only a reset takes it back */
	EQ(memcmp(&before, &v->s.q[0], sizeof before), 0);
	EQ(v->vq[0].size, QSIZE);
	/* Queues that do not exist have no registers. */
	for (u32 queue = 2; queue < 0x10000; queue += queue < 70 ? 1 : 0xfff) {
		c_out(C_QSEL, 2, queue);
		c_out(C_QSIZE, 2, 16);
		c_out(C_DESC, 4, DESC);
		c_out(C_QENABLE, 2, 1);
		EQ(c_in(C_QSIZE, 2), 0);
		EQ(c_in(C_QENABLE, 2), 0);
		pk_write(&k, notify, 2, queue);
	}
	offer_and_kick(0);
	EQ(ld16(mem_ptr(&k.mem, USED + 2, 2)), 1);
	pk_close(&k);
}

TEST(virtio_pci_vector_that_does_not_exist_reads_back_as_none)
{
	open_with(&toy_ops);
	c_out(C_VECTOR, 2, 3);
	EQ(c_in(C_VECTOR, 2), NO_VECTOR);
	c_out(C_VECTOR, 2, 2);
	EQ(c_in(C_VECTOR, 2), 2);
	c_out(C_QVECTOR, 2, 0x100);
	EQ(c_in(C_QVECTOR, 2), NO_VECTOR);
	c_out(C_QSEL, 2, 7);
	c_out(C_QVECTOR, 2, 1);
	EQ(c_in(C_QVECTOR, 2), NO_VECTOR);
	pk_close(&k);
}

TEST(virtio_pci_device_reset_leaves_configuration_space_alone)
{
	open_with(&toy_ops);
	start(true);
	pk_write(&k, msix + 2 * 16 + 12, 4, 1);
	offer_and_kick(0);
	EQ(pk_read(&k, msix + 0x800, 4), 4);
	c_out(C_STATUS, 1, 0);
	EQ(pk_read(&k, msix + 0x800, 4), 0);
	EQ(c_in(C_STATUS, 1), 0);
	EQ(c_in(C_VECTOR, 2), NO_VECTOR);
	EQ(c_in(C_QSIZE, 2), 16);
	EQ(pk_in(&k, 1, pk_cap(&k, 1, PCI_CAP_MSIX, 0) + 2, 2), 0x8002);
	avail_idx = 0;
	start(true);
	st16((u8 *)mem_ptr(&k.mem, AVAIL, 4) + 2, 0);
	offer_and_kick(0);
	EQ(k.message[0].data, 0x42);
	pk_close(&k);
}

TEST(virtio_pci_doorbells_are_one_a_queue)
{
	u32 before;

	open_with(&toy_ops);
	start(false);
	before = toy_notified[0];
	pk_write(&k, notify, 4, 99); /* the place counts, not the value */
	EQ(toy_notified[0], before + 1);
	pk_write(&k, notify + 4, 2, 0); /* queue 1 is not enabled */
	pk_write(&k, notify + 2, 2, 0);
	pk_write(&k, notify + 8, 2, 0);
	pk_write(&k, notify + 0xffc, 4, 0);
	EQ(toy_notified[0], before + 1);
	EQ(toy_notified[1], 0);
	EQ(pk_read(&k, notify, 4), 0);
	pk_close(&k);
}

TEST(virtio_pci_broken_ring_is_told_as_a_config_change)
{
	open_with(&toy_ops);
	start(true);
	offer_and_kick(0x1234);
	EQ(c_in(C_STATUS, 1), 15 | VSTATUS_NEEDS_RESET);
	EQ(k.message[0].data, 0x40);
	pk_close(&k);
}

/* --- the window in configuration space ----------------------------------------------------------
 */
TEST(virtio_pci_config_window_reaches_the_bars)
{
	u32 cap, at;

	open_with(&toy_ops);
	for (u32 n = 0; (cap = pk_cap(&k, 1, PCI_CAP_VENDOR, n)); n++)
		if (pk_in(&k, 1, cap + 3, 1) == T_PCI)
			break;
	OK(cap);
	at = cap + 16;
	pk_out(&k, 1, PCI_COMMAND, 2, 0); /* as firmware has it that maps nothing */
	pk_out(&k, 1, cap + 4, 1, 4);
	pk_out(&k, 1, cap + 8, 4, C_QUEUES);
	pk_out(&k, 1, cap + 12, 4, 2);
	EQ(pk_in(&k, 1, at, 2), 2);
	pk_out(&k, 1, cap + 8, 4, C_STATUS);
	pk_out(&k, 1, cap + 12, 4, 1);
	pk_out(&k, 1, at, 1, 1);
	EQ(pk_in(&k, 1, at, 1), 1);
	EQ(v->s.status, 1);
	pk_out(&k, 1, cap + 12, 4, 3); /* no such length: the bytes are just kept */
	pk_out(&k, 1, at, 1, 0);
	pk_out(&k, 1, cap + 12, 4, 1);
	pk_out(&k, 1, cap + 8, 4, VPCI_REGS_BYTES);
	pk_out(&k, 1, at, 1, 0);
	pk_out(&k, 1, cap + 4, 1, 9);
	pk_out(&k, 1, at, 1, 0);
	pk_out(&k, 1, cap + 4, 1, 0);
	pk_out(&k, 1, at, 4, 0);
	EQ(v->s.status, 1);
	pk_close(&k);
}

/* --- everything at once -------------------------------------------------------------------------
 */
/* Any access anywhere: registers, table, configuration space by both ways, places BARs moved to. */
static void poke(void)
{
	static const u64 bases[] = { PK_MEM32, PK_MEM64, PCI_ECAM_BASE, PCI_ECAM_BASE + (1 << 15) };
	u64 r = test_random(), val = test_random() >> r % 64;
	u64 addr = bases[r >> 8 & 3] + (r >> 16) % 0x10000;
	unsigned size = 1u << (r >> 32 & 3);

	switch (r >> 40 & 3) {
	case 0: pk_read(&k, addr, size); break;
	case 1: pk_write(&k, addr, size, val); break;
	case 2: bus_write(&k.pio, PCI_ADDRESS_PORT, 4, 0x80000000 | (r >> 48 & 0xffc)); break;
	default:
		if (r >> 42 & 1)
			bus_write(&k.pio, PCI_DATA_PORT + (r >> 43 & 3), size, val);
		else
			bus_read(&k.pio, PCI_DATA_PORT + (r >> 43 & 3), size);
	}
}

TEST(virtio_pci_survives_every_access_anywhere)
{
	u32 ranges;

	open_with(&toy_ops);
	pk_add(&k, 2, &virtio_rng_pci_ops, NULL);
	for (int i = 0; i < 200000; i++) {
		poke();
		if (i % 1000 == 0)
			loop_advance(k.loop, 1000000);
	}
	v->dev.ops->reset(&v->dev);
	k.dev[2]->ops->reset(k.dev[2]);
	ranges = k.mmio.n;
	EQ(ranges, 1);
	pci_assign(k.host);
	start(true);
	st16((u8 *)mem_ptr(&k.mem, AVAIL, 4) + 2, 0);
	avail_idx = 0;
	c_out(C_STATUS, 1, 0);
	start(true);
	pk_close(&k);
}
