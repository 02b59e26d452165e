/* rig.c - the machine with one device.  No threads: the lock is taken by the bus and by nobody
 * else. */
#include "rig.h"

#include "../devices/chipset.h"
#include "../devices/fwcfg.h"
#include "../devices/virtio/virtio.h"
#include "../host/image.h"

enum { RIG_RAM = 1 << 20, RIG_VIRTIO_BASE = 0x10000 };
/* A function's BARs, one after the other. */
enum { RIG_MSIX = RIG_VIRTIO_BASE + VPCI_REGS_BYTES, RIG_LEGACY = RIG_MSIX + VPCI_MSIX_BYTES };
#define RIG_BARS                                                                      \
	{ { RIG_VIRTIO_BASE, VPCI_REGS_BYTES },                                       \
	  { RIG_MSIX, VPCI_MSIX_BYTES },                                              \
	  { RIG_LEGACY, VPCI_LEGACY_BYTES } }

/* --- kinds ---------------------------------------------------------------------------------- */
const struct device_kind device_kinds[] = {
	{ &pic_ops,
	  { { PIC_MASTER_PORT, PIC_PORTS },
	    { PIC_SLAVE_PORT, PIC_PORTS },
	    { PIC_ELCR_PORT, PIC_PORTS } } },
	{ &ioapic_ops, { { IOAPIC_BASE, IOAPIC_BYTES } } },
	{ &pit_ops, { { PIT_PORT, PIT_PORTS }, { PIT_PORT_B, 1 } } },
	{ &rtc_ops, { { RTC_PORT, RTC_PORTS } } },
	{ &serial_ops, { { COM1_PORT, COM_PORTS } } },
	{ &i8042_ops, { { I8042_DATA_PORT, 1 }, { I8042_CMD_PORT, 1 }, { I8042_PORT_A, 1 } } },
	{ &acpi_pm_ops,
	  { { ACPI_PM_PORT, ACPI_PM_PORTS }, { ACPI_RESET_BASE, ACPI_RESET_PORTS } } },
	{ &debugcon_ops, { { DEBUGCON_PORT, 1 } } },
	{ &post_ops, { { POST_PORT, 1 } } },
	{ &debug_exit_ops, { { DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS }, { DEBUG_EXIT_PORT2, 1 } } },
	{ &boot_timer_ops, { { BOOT_TIMER_BASE, BOOT_TIMER_BYTES } } },
	{ &fwcfg_ops, { { FWCFG_PORT, FWCFG_PORTS }, { FWCFG_DMA_PORT, FWCFG_DMA_PORTS } } },
	{ &virtio_rng_mmio_ops, { { RIG_VIRTIO_BASE, VMMIO_LEN } } },
	{ &virtio_rng_pci_ops, RIG_BARS },
	{ &virtio_blk_mmio_ops, { { RIG_VIRTIO_BASE, VMMIO_LEN } } },
	{ &virtio_blk_pci_ops, RIG_BARS },
	{ &pci_host_ops,
	  { { PCI_ADDRESS_PORT, 4 }, { PCI_DATA_PORT, 4 }, { PCI_ECAM_BASE, PCI_ECAM_BYTES } } },
};
const size_t nr_device_kinds = ARRAY_LEN(device_kinds);

static const struct device_kind *rig_kind(const struct device_ops *ops)
{
	for (size_t i = 0; i < nr_device_kinds; i++)
		if (device_kinds[i].ops == ops)
			return &device_kinds[i];
	test_fail(__FILE__, __LINE__, "%s is not in device_kinds[]", ops->name);
}

/* --- recorders ------------------------------------------------------------------------------ */
static struct rig *rig_of_chip(struct irqchip *c)
{
	return container_of(c, struct rig, chip);
}

static void rig_chip_set(struct irqchip *c, u32 gsi, bool level)
{
	struct rig *r = rig_of_chip(c);

	OK(gsi < DEVICE_LINES);
	r->rises[gsi] += level && !r->line[gsi];
	r->line[gsi] = level;
}

static void rig_chip_msi(struct irqchip *c, u64 addr, u32 data)
{
	struct rig *r = rig_of_chip(c);
	u32 i = r->messages++ % RIG_MESSAGES;

	r->message[i].addr = addr;
	r->message[i].data = data;
}

static void rig_chip_intr(struct irqchip *c, bool level)
{
	struct rig *r = rig_of_chip(c);

	r->intr_changes += level != r->intr;
	r->intr = level;
}

static const struct irqchip_ops rig_chip_ops = {
	.name = "rig",
	.set = rig_chip_set,
	.msi = rig_chip_msi,
	.intr = rig_chip_intr,
};

static void rig_request(void *ctx, enum device_request req, u32 arg)
{
	struct rig *r = ctx;
	u32 i = r->requests++ % RIG_REQUESTS;

	r->request[i].what = req;
	r->request[i].arg = arg;
}

u32 rig_take_request(struct rig *r)
{
	u32 last = r->requests ? r->request[(r->requests - 1) % RIG_REQUESTS].what : UINT32_MAX;

	r->requests = 0;
	return last;
}

/* --- life ----------------------------------------------------------------------------------- */
static void rig_map(struct rig *r)
{
	for (u32 i = 0; i < ARRAY_LEN(r->kind->region) && r->kind->region[i].len; i++)
		EQ(bus_map(&r->bus, r->kind->region[i].base, r->kind->region[i].len, r->dev, i), 0);
}

/* What those want that do not take NULL.  No request reaches the image. */
static struct image rig_image = { .path = "rig", .fd = -1, .bytes = MIB, .block = 512,
				  .phys_block = 512 };
static struct blk_setup rig_blk = { .image = &rig_image, .serial = "rig" };
static const u32 rig_pci_isa[] = { GSI_MAX, GSI_MAX, GSI_MAX, GSI_MAX };
static struct pci_setup rig_pci = { .mem32 = { 0xd0000000, 0x10000000 }, .isa_irq = rig_pci_isa };

struct rig *rig_new(const struct device_ops *ops)
{
	if (ops == &pci_host_ops)
		return rig_new_with(ops, &rig_pci);
	if (ops == &virtio_blk_mmio_ops || ops == &virtio_blk_pci_ops)
		return rig_new_with(ops, &rig_blk);
	return rig_new_with(ops, NULL);
}

struct rig *rig_new_with(const struct device_ops *ops, void *arg)
{
	struct rig *r = calloc(1, sizeof *r);
	struct device wires = { .arg = arg, .id = "rig", .request = rig_request };
	struct err e = { .code = 0 };

	OK(r);
	r->kind = rig_kind(ops);
	pthread_mutex_init(&r->lock, NULL);
	bus_init(&r->bus, "rig", &r->lock);
	EQ(memory_init(&r->mem, RIG_RAM, &e), 0);
	r->loop = loop_new(&r->lock, true, &e);
	OK(r->loop);
	r->chip.ops = &rig_chip_ops;
	wires.loop = r->loop;
	wires.mem = &r->mem;
	wires.request_ctx = r;
	for (u32 i = 0; i < DEVICE_LINES; i++)
		wires.irq[i] = (struct irq_line){ &r->chip, i };
	r->dev = device_new(ops, &wires, &e);
	if (!r->dev)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	if (ops == &virtio_rng_pci_ops || ops == &virtio_blk_pci_ops)
		OK(vpci_make_transitional(r->dev));
	rig_map(r);
	return r;
}

void rig_free(struct rig *r)
{
	device_free(r->dev);
	loop_free(r->loop);
	memory_free(&r->mem);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

void rig_advance(struct rig *r, u64 ns)
{
	loop_advance(r->loop, ns);
}

void rig_reset(struct rig *r)
{
	r->dev->ops->reset(r->dev);
}

/* --- state ---------------------------------------------------------------------------------- */
void rig_save(struct rig *r, struct state *st)
{
	state_init_save(st);
	st_begin(st, r->dev->id, r->dev->ops->version);
	r->dev->ops->state(r->dev, st);
	st_end(st);
	EQ(st->error, 0);
}

int rig_load(struct rig *r, const struct state *saved)
{
	struct state st;
	int error;

	state_init_load(&st, saved->buf, saved->len);
	st_begin(&st, r->dev->id, r->dev->ops->version);
	r->dev->ops->state(r->dev, &st);
	st_end(&st);
	error = st.error;
	state_free(&st);
	return error;
}

const void *rig_state_of(const struct rig *r)
{
	return (const char *)r->dev + r->dev->ops->state_off;
}

/* --- pokes ---------------------------------------------------------------------------------- */
void rig_poke(struct rig *r, unsigned times)
{
	u32 regions = r->bus.n;

	while (times--) {
		const struct bus_range *range = &r->bus.range[test_random() % regions];
		u64 addr = range->base + test_random() % range->len;
		unsigned size = 1 + test_random() % 8; /* odd ones straddle two pages */

		if (test_random() % 2)
			bus_read(&r->bus, addr, size);
		else
			bus_write(&r->bus, addr, size, test_random() >> test_random() % 64);
		if (test_random() % 8 == 0)
			rig_advance(r, test_random() % NS_PER_SEC >> test_random() % 30);
	}
}
