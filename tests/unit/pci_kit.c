/* pci_kit.c - see pci_kit.h. */
#include "pci_kit.h"

static void kit_set(struct irqchip *c, u32 gsi, bool level)
{
	struct pci_kit *k = container_of(c, struct pci_kit, chip);

	if (gsi >= PK_ISA) {
		OK(gsi < PK_ISA + PCI_LINES);
		k->isa[gsi - PK_ISA] = level;
		return;
	}
	OK(gsi < PCI_LINES);
	k->rises[gsi] += level && !k->line[gsi];
	k->line[gsi] = level;
}

static void kit_msi(struct irqchip *c, u64 addr, u32 data)
{
	struct pci_kit *k = container_of(c, struct pci_kit, chip);
	u32 i = k->messages++ % PK_MESSAGES;

	k->message[i].addr = addr;
	k->message[i].data = data;
}

static const struct irqchip_ops kit_ops = { .name = "kit", .set = kit_set, .msi = kit_msi };

struct device pk_wires(struct pci_kit *k, void *arg)
{
	struct device w = { .id = "dut", .loop = k->loop, .mem = &k->mem, .arg = arg };

	for (u32 i = 0; i < DEVICE_LINES; i++)
		w.irq[i] = (struct irq_line){ &k->chip, GSI_MAX };
	return w;
}

void pk_open(struct pci_kit *k)
{
	static const u32 isa_irq[] = { PK_ISA, PK_ISA + 1, PK_ISA + 2, PK_ISA + 3 };
	struct pci_setup setup = { .mmio = &k->mmio,
				   .pio = &k->pio,
				   .io = { PK_IO, PK_IO_BYTES },
				   .mem32 = { PK_MEM32, PK_MEM32_BYTES },
				   .mem64 = { PK_MEM64, PK_MEM64_BYTES },
				   .isa_irq = isa_irq };
	struct device w;
	struct err e;

	memset(k, 0, sizeof *k);
	pthread_mutex_init(&k->lock, NULL);
	bus_init(&k->pio, "pio", &k->lock);
	bus_init(&k->mmio, "mmio", &k->lock);
	EQ(memory_init(&k->mem, PK_RAM, &e), 0);
	k->loop = loop_new(&k->lock, true, &e);
	k->chip.ops = &kit_ops;
	w = pk_wires(k, &setup);
	for (u32 i = 0; i < PCI_LINES; i++)
		w.irq[i].gsi = i;
	k->host = device_new(&pci_host_ops, &w, &e);
	OK(k->loop && k->host);
	bus_map_whole(&k->pio, PCI_ADDRESS_PORT, 4, k->host, PCI_HOST_ADDRESS);
	EQ(bus_map(&k->pio, PCI_DATA_PORT, 4, k->host, PCI_HOST_DATA), 0);
	EQ(bus_map(&k->mmio, PCI_ECAM_BASE, PCI_ECAM_BYTES, k->host, PCI_HOST_ECAM), 0);
}

void pk_close(struct pci_kit *k)
{
	for (u32 i = 0; i < PK_SLOTS; i++)
		device_free(k->dev[i]);
	device_free(k->host);
	loop_free(k->loop);
	memory_free(&k->mem);
}

void pk_put(struct pci_kit *k, u32 slot, struct device *dev, struct pci_func *f)
{
	k->dev[slot] = dev;
	pci_attach(k->host, f, slot);
}

struct vdev *pk_add(struct pci_kit *k, u32 slot, const struct device_ops *ops, void *arg)
{
	struct device w = pk_wires(k, arg);
	struct err e = { .code = 0 };
	struct device *dev = device_new(ops, &w, &e);

	if (!dev)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	pk_put(k, slot, dev, &to_vdev(dev)->pci);
	return to_vdev(dev);
}

static void kit_select(struct pci_kit *k, u32 slot, u32 off)
{
	bus_write(&k->pio, PCI_ADDRESS_PORT, 4, 0x80000000u | slot << 11 | (off & 0xfc));
}

u32 pk_in(struct pci_kit *k, u32 slot, u32 off, unsigned size)
{
	kit_select(k, slot, off);
	return (u32)bus_read(&k->pio, PCI_DATA_PORT + (off & 3), size);
}

void pk_out(struct pci_kit *k, u32 slot, u32 off, unsigned size, u32 val)
{
	kit_select(k, slot, off);
	bus_write(&k->pio, PCI_DATA_PORT + (off & 3), size, val);
}

u32 pk_cap(struct pci_kit *k, u32 slot, u8 id, u32 nth)
{
	u32 at = pk_in(k, slot, PCI_CAPABILITIES, 1);

	for (u32 n = 0; at; n++, at = pk_in(k, slot, at + 1, 1)) {
		OK(n < 48 && at >= PCI_FIRST_CAP && at % 4 == 0);
		if (pk_in(k, slot, at, 1) == id && nth-- == 0)
			return at;
	}
	return 0;
}

u64 pk_read(struct pci_kit *k, u64 addr, unsigned size)
{
	return bus_read(&k->mmio, addr, size);
}

void pk_write(struct pci_kit *k, u64 addr, unsigned size, u64 val)
{
	bus_write(&k->mmio, addr, size, val);
}
