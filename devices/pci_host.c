/* pci_host.c - the host bridge: bus 0 with up to 32 single-function devices, found through ports
 * CF8h and CFCh or the memory-mapped ECAM space; its windows; INTA of all slots on four lines.
 *
 * Owns CONFIG_ADDRESS and its own header (slot 0).  Where BARs are mapped follows from the
 * functions' states alone: after any change all are placed anew, lowest slot first.
 * Sources: PCI Local Bus Specification 3.0 §3.2.2.3.2 (mechanism #1), PCI Express Base 3.0 §7.2.2.
 */
#include "pci.h"

/* CONFIG_ADDRESS */
#define ADDRESS_ENABLE BIT(31)
enum {
	ADDRESS_BUS_SHIFT = 16,
	ADDRESS_SLOT_SHIFT = 11,
	ADDRESS_FUNC_SHIFT = 8,
	ADDRESS_WRITABLE = 0x00fffffc
};
enum { ECAM_SLOT_SHIFT = 15, ECAM_FUNC_SHIFT = 12, ECAM_REG_MASK = 0xfff };

/* "Generic PCIe host bridge" of Red Hat's ID space: no operating system has quirks for it.  By the
 * subsystem SeaBIOS knows a virtual machine with fw_cfg and debugcon (src/fw/paravirt.c). */
static const struct pci_id host_id = { .vendor = 0x1b36,
				       .device = 0x0008,
				       .subsystem_vendor = 0x1af4,
				       .subsystem = 0x1100,
				       .class = 0x060000 };

struct pci_host {
	struct device dev;
	/* const after set-up */
	struct bus *mmio, *pio;
	struct pci_window window[2], io;
	struct irq_line isa[PCI_LINES];
	struct pci_func *func[PCI_SLOTS]; /* borrowed, but for slot 0 */
	struct pci_func own;
	/* guard: machine.lock */
	u32 lines; /* levels of PIRQ A to D; follows from the functions' states */
	struct pci_host_state {
		u64 address;
		struct pci_func_state config;
	} s;
};

static struct pci_host *host_of(struct device *dev)
{
	return container_of(dev, struct pci_host, dev);
}

/* --- where BARs lie -----------------------------------------------------------------------------
 */
static bool window_holds(const struct pci_window *w, u64 base, u64 len)
{
	return base >= w->base && len <= w->len && base - w->base <= w->len - len;
}

static bool host_forwards(const struct pci_host *h, const struct pci_bar *bar, u64 base)
{
	if (bar->kind == PCI_BAR_IO)
		return window_holds(&h->io, base, bar->len);
	return window_holds(&h->window[0], base, bar->len) ||
	       window_holds(&h->window[1], base, bar->len);
}

static struct bus *host_bus(const struct pci_host *h, const struct pci_bar *bar)
{
	return bar->kind == PCI_BAR_IO ? h->pio : h->mmio;
}

static void func_unmap(struct pci_host *h, struct pci_func *f)
{
	for (u32 i = 0; i < PCI_BARS; i++) {
		if (f->mapped[i] != PCI_UNMAPPED)
			bus_unmap(host_bus(h, &f->bar[i]), f->mapped[i]);
		f->mapped[i] = PCI_UNMAPPED;
	}
}

/* What lies outside the windows, or where something else is, stays unmapped. */
static void func_map(struct pci_host *h, struct pci_func *f)
{
	for (u32 i = 0; i < PCI_BARS; i++) {
		const struct pci_bar *bar = &f->bar[i];
		u64 base = pci_bar_base(f, i);

		if (base == PCI_UNMAPPED || !host_forwards(h, bar, base))
			continue;
		if (bus_map(host_bus(h, bar), base, bar->len, f->dev, bar->region) == 0)
			f->mapped[i] = base;
	}
}

void pci_host_remap(struct pci_host *h)
{
	for (u32 i = 0; h && i < PCI_SLOTS; i++)
		if (h->func[i])
			func_unmap(h, h->func[i]);
	for (u32 i = 0; h && i < PCI_SLOTS; i++)
		if (h->func[i])
			func_map(h, h->func[i]);
}

/* --- INTA ---------------------------------------------------------------------------------------
 */
void pci_host_update_line(struct pci_host *h, u32 slot)
{
	u32 line = slot % PCI_LINES;
	bool level = false;

	if (!h)
		return;
	for (u32 i = line; i < PCI_SLOTS; i += PCI_LINES)
		level |= h->func[i] && pci_intx_level(h->func[i]);
	if (level == (h->lines >> line & 1))
		return;
	h->lines ^= (u32)BIT(line);
	irq_set(h->dev.irq[line], level);
	irq_set(h->isa[line], level);
}

/* --- configuration accesses ---------------------------------------------------------------------
 */
static struct pci_func *host_find(struct pci_host *h, u32 slot, u32 function)
{
	return function ? NULL : h->func[slot];
}

/* The function that CONFIG_ADDRESS selects, or NULL. */
static struct pci_func *host_selected(struct pci_host *h)
{
	u64 a = h->s.address;

	if (!(a & ADDRESS_ENABLE) || a >> ADDRESS_BUS_SHIFT & 0xff)
		return NULL;
	return host_find(h, a >> ADDRESS_SLOT_SHIFT & 31, a >> ADDRESS_FUNC_SHIFT & 7);
}

static struct pci_func *host_ecam(struct pci_host *h, u64 off)
{
	return host_find(h, (u32)(off >> ECAM_SLOT_SHIFT) & 31, off >> ECAM_FUNC_SHIFT & 7);
}

static u64 host_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct pci_host *h = host_of(dev);
	struct pci_func *f;

	switch (region) {
	case PCI_HOST_ADDRESS: return size == 4 ? h->s.address : UINT64_MAX;
	case PCI_HOST_DATA:
		f = host_selected(h);
		off |= h->s.address & 0xfc;
		break;
	default: f = host_ecam(h, off); off &= ECAM_REG_MASK;
	}
	return f ? pci_config_read(f, (u32)off, size) : UINT64_MAX;
}

static void host_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct pci_host *h = host_of(dev);
	struct pci_func *f;

	switch (region) {
	case PCI_HOST_ADDRESS:
		if (size == 4)
			h->s.address = val & (ADDRESS_WRITABLE | ADDRESS_ENABLE);
		return;
	case PCI_HOST_DATA:
		f = host_selected(h);
		off |= h->s.address & 0xfc;
		break;
	default: f = host_ecam(h, off); off &= ECAM_REG_MASK;
	}
	if (f)
		pci_config_write(f, (u32)off, size, (u32)val);
}

/* --- set-up -------------------------------------------------------------------------------------
 */
void pci_attach(struct device *host, struct pci_func *f, u32 slot)
{
	struct pci_host *h = host_of(host);

	ASSERT(slot < PCI_SLOTS && !h->func[slot]);
	h->func[slot] = f;
	f->slot = slot;
	f->host = h;
	/* The wiring is fixed and so is what tells of it: SeaBIOS, which does not know our bridge,
	 * would leave 0 there, and its MP table and systems without ACPI would believe it. */
	f->reset[PCI_INTERRUPT_LINE] = f->reset[PCI_INTERRUPT_PIN] ?
					       (u8)h->isa[slot % PCI_LINES].gsi : 0;
	f->s->config[PCI_INTERRUPT_LINE] = f->reset[PCI_INTERRUPT_LINE];
}

/* What is left of a window, of which BARs are given out in a row, each on a multiple of its
 * size. */
static void assign_bar(struct pci_func *f, u32 i, struct pci_window *left)
{
	u64 len = f->bar[i].len, base = ALIGN_UP(left->base, len);

	if (!window_holds(left, base, len))
		return; /* the guest's to place */
	pci_config_write(f, PCI_BAR0 + i * 4, 4, (u32)base);
	left->len -= base + len - left->base;
	left->base = base + len;
}

void pci_assign(struct device *host)
{
	struct pci_host *h = host_of(host);
	struct pci_window mem = h->window[0], io = h->io;

	for (u32 slot = 1; slot < PCI_SLOTS; slot++) {
		struct pci_func *f = h->func[slot];

		if (!f)
			continue;
		for (u32 i = 0; i < PCI_BARS; i++)
			if (f->bar[i].len)
				assign_bar(f, i, f->bar[i].kind == PCI_BAR_IO ? &io : &mem);
		pci_config_write(f, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
	}
}

static void host_reset(struct device *dev)
{
	struct pci_host *h = host_of(dev);

	h->s.address = 0;
	pci_func_reset(&h->own);
}

static int host_init(struct device *dev, struct err *e)
{
	struct pci_host *h = host_of(dev);
	const struct pci_setup *setup = dev->arg;

	h->mmio = setup->mmio;
	h->pio = setup->pio;
	h->io = setup->io;
	h->window[0] = setup->mem32;
	h->window[1] = setup->mem64;
	for (u32 i = 0; i < PCI_LINES; i++)
		h->isa[i] = (struct irq_line){ dev->irq[i].chip, setup->isa_irq[i] };
	pci_func_init(&h->own, dev, &h->s.config, &host_id, false);
	pci_attach(dev, &h->own, 0);
	host_reset(dev);
	return 0;
}

static void host_state(struct device *dev, struct state *st)
{
	struct pci_host *h = host_of(dev);

	st_u64(st, "address", &h->s.address);
	st_check(st, !(h->s.address & ~(ADDRESS_WRITABLE | ADDRESS_ENABLE)), "address");
	pci_func_state(&h->own, st);
}

const struct device_ops pci_host_ops = {
	.name = "pci-host",
	.version = 1,
	.bytes = sizeof(struct pci_host),
	.access_max = 4,
	.init = host_init,
	.read = host_read,
	.write = host_write,
	.reset = host_reset,
	.state = host_state,
	.state_off = offsetof(struct pci_host, s),
	.state_len = sizeof(struct pci_host_state),
};
