/* Fuzz target: a script of accesses to a PCI bus with two virtio functions: configuration space by
 * both mechanisms, BARs wherever the script puts them, registers, doorbells, memory, time, save and
 * load. */
#include <stdlib.h>

#include "../../bus.h"
#include "../../devices/virtio/virtio.h"

enum { RAM = 1 << 20, SLOTS = 2, STEP = 8 };
enum { PORTS = 0x1000 }; /* where the second function has its legacy registers */
#define WINDOW 0xd0000000ull
#define WINDOW_HIGH 0x100000000ull

static struct bus pio, mmio;
static struct memory memory;
static struct loop *loop;
static struct device *host, *dev[SLOTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void line_set(struct irqchip *c, u32 gsi, bool level)
{
}

static void message(struct irqchip *c, u64 addr, u32 data)
{
}

static const struct irqchip_ops chip_ops = { .name = "fuzz", .set = line_set, .msi = message };
static struct irqchip chip = { .ops = &chip_ops };

static struct device *make(const struct device_ops *ops, void *arg)
{
	struct device wires = { .id = "fuzz", .mem = &memory, .loop = loop, .arg = arg };
	struct err e;
	struct device *d;

	for (u32 i = 0; i < DEVICE_LINES; i++)
		wires.irq[i] = (struct irq_line){ &chip, i };
	d = device_new(ops, &wires, &e);
	if (!d)
		abort();
	return d;
}

static void open_once(void)
{
	static const u32 isa_irq[] = { 10, 11, 5, 7 };
	struct pci_setup setup = { .mmio = &mmio, .pio = &pio, .io = { PORTS, 0x1000 },
				   .mem32 = { WINDOW, 0x10000000 },
				   .mem64 = { WINDOW_HIGH, GIB },
				   .isa_irq = isa_irq };
	struct err e;

	if (host)
		return;
	bus_init(&pio, "pio", &lock);
	bus_init(&mmio, "mmio", &lock);
	if (memory_init(&memory, RAM, &e) < 0)
		abort();
	loop = loop_new(&lock, true, &e);
	host = make(&pci_host_ops, &setup);
	bus_map_whole(&pio, PCI_ADDRESS_PORT, 4, host, PCI_HOST_ADDRESS);
	bus_map(&pio, PCI_DATA_PORT, 4, host, PCI_HOST_DATA);
	bus_map(&mmio, PCI_ECAM_BASE, PCI_ECAM_BYTES, host, PCI_HOST_ECAM);
	for (u32 i = 0; i < SLOTS; i++) {
		dev[i] = make(&virtio_rng_pci_ops, NULL);
		if (i && !vpci_make_transitional(dev[i]))
			abort();
		pci_attach(host, &to_vdev(dev[i])->pci, i + 1);
	}
}

static void save_and_load(struct device *d)
{
	struct state out, in;

	state_init_save(&out);
	st_begin(&out, "fuzz", 1);
	d->ops->state(d, &out);
	st_end(&out);
	state_init_load(&in, out.buf, out.len);
	st_begin(&in, "fuzz", 1);
	d->ops->state(d, &in);
	st_end(&in);
	if (out.error || in.error) /* what a guest can bring about can be loaded */
		abort();
	state_free(&in);
	state_free(&out);
}

static void access_bus(struct bus *b, u64 addr, u8 how, u64 val)
{
	unsigned size = 1u << (how & 3);

	if (how & 4)
		bus_write(b, addr, size, val);
	else
		bus_read(b, addr, size);
}

/* data: what, how, two bytes of place, four of value. */
static void step(const u8 *data)
{
	u64 place = ld16(data + 2), val = ld32(data + 4);
	u64 ecam = PCI_ECAM_BASE + (1u << 15) + (place >> 8 << 15) % (SLOTS << 15) + (place & 0xff);

	switch (data[0] & 7) {
	case 0: bus_write(&pio, PCI_ADDRESS_PORT, 4, 0x80000000u | place); break;
	case 1:
		access_bus(&pio, data[1] & 8 ? PORTS + place % VPCI_LEGACY_BYTES :
					       PCI_DATA_PORT + (place & 3), data[1], val);
		break;
	case 2: access_bus(&mmio, ecam, data[1], val); break;
	case 3: access_bus(&mmio, WINDOW + place, data[1], val); break;
	case 4: access_bus(&mmio, WINDOW_HIGH + place, data[1], val); break;
	case 5: memcpy(mem_ptr(&memory, place, 8), data + 4, 4); break;
	case 6: loop_advance(loop, val % 1000000); break;
	default: save_and_load(data[1] & 1 ? host : dev[data[1] >> 1 & 1]);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);
int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	open_once();
	memset(mem_ptr(&memory, 0, RAM), 0, 0x10100);
	host->ops->reset(host);
	for (u32 i = 0; i < SLOTS; i++)
		dev[i]->ops->reset(dev[i]);
	pci_assign(host);
	for (; len >= STEP; data += STEP, len -= STEP)
		step(data);
	return 0;
}
