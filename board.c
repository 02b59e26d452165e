/* board.c - the whole PC on one screen: the table of chips, then the virtio slots.
 *
 * Set-up only, single-threaded.  Addresses and lines are those of an AT-compatible PC; the virtio
 * slots lie 4 KiB apart from 0xC0001000 (doc/ARCHITECTURE.md, "The guest's PC"). */
#include "board.h"

#include <stdio.h>
#include <stdlib.h>

#include "devices/chipset.h"
#include "devices/fwcfg.h"
#include "host/image.h"
#include "host/tty.h"

enum space { PIO, MMIO };

struct slot {
	const struct device_ops *ops;
	enum space space;
	u32 base, len;
	int gsi; /* becomes the device's line `region`; -1: none */
};

/* One row per region; a device's rows stand together and are its regions 0, 1, ... */
static const struct slot pc_board[] = {
	/* device           space  base                 len              gsi */
	{ &pic_ops,         PIO,   PIC_MASTER_PORT,     PIC_PORTS,       -1 },
	{ &pic_ops,         PIO,   PIC_SLAVE_PORT,      PIC_PORTS,       -1 },
	{ &pic_ops,         PIO,   PIC_ELCR_PORT,       PIC_PORTS,       -1 },
	{ &ioapic_ops,      MMIO,  IOAPIC_BASE,         IOAPIC_BYTES,    -1 },
	{ &pit_ops,         PIO,   PIT_PORT,            PIT_PORTS,       PIT_GSI },
	{ &pit_ops,         PIO,   PIT_PORT_B,          1,               -1 },
	{ &rtc_ops,         PIO,   RTC_PORT,            RTC_PORTS,       RTC_GSI },
	{ &i8042_ops,       PIO,   I8042_DATA_PORT,     1,               I8042_KBD_GSI },
	{ &i8042_ops,       PIO,   I8042_CMD_PORT,      1,               I8042_AUX_GSI },
	{ &i8042_ops,       PIO,   I8042_PORT_A,        1,               -1 },
	{ &acpi_pm_ops,     PIO,   ACPI_PM_PORT,        ACPI_PM_PORTS,   ACPI_SCI_GSI },
	{ &acpi_pm_ops,     PIO,   ACPI_RESET_BASE,     ACPI_RESET_PORTS, -1 },
	{ &debugcon_ops,    PIO,   DEBUGCON_PORT,       1,               -1 },
	{ &post_ops,        PIO,   POST_PORT,           1,               -1 },
	{ &debug_exit_ops,  PIO,   DEBUG_EXIT_PORT,     DEBUG_EXIT_PORTS, -1 },
	{ &debug_exit_ops,  PIO,   DEBUG_EXIT_PORT2,    1,               -1 },
	{ &boot_timer_ops,  MMIO,  BOOT_TIMER_BASE,     BOOT_TIMER_BYTES, -1 },
	{ &serial_ops,      PIO,   COM1_PORT,           COM_PORTS,       COM1_GSI },
};

/* IOAPIC pins that no ISA device has; the first eight slots get one to themselves above the ISA
 * range. */
static const u32 virtio_gsi[] = { 16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11 };
enum { VIRTIO_SLOT_BYTES = 0x1000 };
#define VIRTIO_BASE 0xc0001000u

/* The window for BARs has in it what SeaBIOS takes for one if it does not know the bridge:
 * 0xE0000000 and up. */
enum { PCI_GSI = 16 }; /* PIRQ A; B, C and D follow */
static const u32 pci_isa_irq[PCI_LINES] = { 10, 11, 5, 7 };
#define PCI_MEM32_BASE 0xd0000000u
#define PCI_MEM32_END 0xfec00000u
#define PCI_MEM64_BYTES (4 * GIB)
enum { PCI_IO_BASE = 0x1000, PCI_IO_BYTES = 0xf000 }; /* above all the chips' ports */

/* With firmware, or files of the user's for the guest. */
static const struct slot fw_cfg_board[] = {
	/* device           space  base             len              gsi */
	{ &fwcfg_ops,       PIO,   FWCFG_PORT,      FWCFG_PORTS,     -1 },
	{ &fwcfg_ops,       PIO,   FWCFG_DMA_PORT,  FWCFG_DMA_PORTS, -1 },
};

static void board_wires(struct machine *m, struct device *w, const char *id)
{
	memset(w, 0, sizeof *w);
	snprintf(w->id, sizeof w->id, "%s", id);
	w->loop = m->loop;
	w->mem = &m->mem;
	w->request = machine_request;
	w->request_ctx = m;
	for (u32 i = 0; i < DEVICE_LINES; i++)
		w->irq[i] = (struct irq_line){ &m->chip, GSI_MAX };
}

static int board_add(struct machine *m, const struct device_ops *ops, const struct device *wires,
		     struct err *e)
{
	struct device *dev;

	ASSERT(m->devs < DEVICES_MAX);
	dev = device_new(ops, wires, e);
	if (!dev)
		return e->code;
	m->dev[m->devs++] = dev;
	return 0;
}

static int board_map(struct machine *m, const struct slot *s, u32 region, struct err *e)
{
	struct bus *bus = s->space == PIO ? &m->pio : &m->mmio;
	int rc = bus_map(bus, s->base, s->len, m->dev[m->devs - 1], region);

	if (rc < 0)
		return err_set(e, rc, "%s: %#x on the %s bus is taken", s->ops->name, s->base,
			bus->name);
	return 0;
}

/* Set-up data of the few chips that want some. */
static void *board_arg(struct machine *m, const struct device_ops *ops, struct rtc_config *rtc)
{
	if (ops == &serial_ops)
		return m->console;
	if (ops == &fwcfg_ops)
		return firmware_setup(m->firmware);
	if (ops == &rtc_ops) {
		*rtc = (struct rtc_config){ .utc_s = RTC_HOST_TIME, .ram_bytes = m->cfg->mem_bytes,
					    .boot_order = { 2, 0 }, .cpus = (u8)m->cfg->vcpus };
		return rtc;
	}
	return NULL;
}

static int board_chip(struct machine *m, const struct slot *first, u32 rows, struct err *e)
{
	struct rtc_config rtc;
	struct device wires;
	int rc;

	board_wires(m, &wires, first->ops->name);
	wires.arg = board_arg(m, first->ops, &rtc);
	for (u32 i = 0; i < rows; i++)
		if (first[i].gsi >= 0)
			wires.irq[i].gsi = (u32)first[i].gsi;
	rc = board_add(m, first->ops, &wires, e);
	for (u32 i = 0; i < rows && rc == 0; i++)
		rc = board_map(m, &first[i], i, e);
	return rc;
}

/* The window above 4 GiB begins where RAM ends. */
static struct pci_setup board_pci_setup(struct machine *m)
{
	const struct mem_region *top = &m->mem.region[m->mem.n - 1];
	u64 high = ALIGN_UP(MAX(top->gpa + top->bytes, 4 * GIB), GIB);

	return (struct pci_setup){ .mmio = &m->mmio, .pio = &m->pio,
				   .io = { PCI_IO_BASE, PCI_IO_BYTES },
				   .mem32 = { PCI_MEM32_BASE, PCI_MEM32_END - PCI_MEM32_BASE },
				   .mem64 = { high, PCI_MEM64_BYTES },
				   .isa_irq = pci_isa_irq };
}

/* The bridge is there without a function on its bus, too, as on any PC: a kernel that cannot find a
 * way to PCI's configuration space takes that for an error. */
static int board_bridge(struct machine *m, struct err *e)
{
	static const struct slot data = { &pci_host_ops, PIO, PCI_DATA_PORT, 4, -1 };
	struct pci_setup setup = board_pci_setup(m);
	struct device wires;
	int rc;

	board_wires(m, &wires, "pci0");
	wires.arg = &setup;
	for (u32 i = 0; i < PCI_LINES; i++)
		wires.irq[i].gsi = PCI_GSI + i;
	rc = board_add(m, &pci_host_ops, &wires, e);
	if (rc < 0)
		return rc;
	bus_map_whole(&m->pio, PCI_ADDRESS_PORT, 4, m->dev[m->devs - 1], PCI_HOST_ADDRESS);
	return board_map(m, &data, PCI_HOST_DATA, e);
}

/* Functions on its bus, and the tables tell of it. */
static void board_pci(struct machine *m)
{
	struct pci_setup setup = board_pci_setup(m);
	int rc;

	m->pci = board_find(m, &pci_host_ops);
	m->boot.pci = (struct boot_pci){ .present = true, .ecam = PCI_ECAM_BASE,
					 .ecam_len = PCI_ECAM_BYTES, .gsi = PCI_GSI,
					 .io = { setup.io.base, setup.io.len },
					 .mem32 = { setup.mem32.base, setup.mem32.len },
					 .mem64 = { setup.mem64.base, setup.mem64.len } };
	rc = bus_map(&m->mmio, PCI_ECAM_BASE, PCI_ECAM_BYTES, m->pci, PCI_HOST_ECAM);
	ASSERT(rc == 0);
}

/* The next slot; the function's interrupt is the bridge's to connect. */
static int board_virtio_pci(struct machine *m, const struct device_ops *ops, struct device *wires,
			    struct err *e)
{
	u32 slot = 1;
	int rc = board_add(m, ops, wires, e);

	if (rc < 0)
		return rc;
	while (m->boot.pci.slots & BIT(slot))
		slot++;
	if (m->cfg->transport == TRANSPORT_PCI_TRANSITIONAL)
		vpci_make_transitional(m->dev[m->devs - 1]);
	pci_attach(m->pci, &to_vdev(m->dev[m->devs - 1])->pci, slot);
	m->boot.pci.slots |= (u32)BIT(slot);
	return 0;
}

static int board_virtio_mmio(struct machine *m, const struct device_ops *ops, struct device *wires,
			     struct err *e)
{
	u32 nr = m->boot.nr_slots;
	struct slot s;
	int rc;

	ASSERT(nr < ARRAY_LEN(virtio_gsi));
	s = (struct slot){ ops, MMIO, VIRTIO_BASE + nr * VIRTIO_SLOT_BYTES, VMMIO_LEN,
			   (int)virtio_gsi[nr] };
	wires->irq[0].gsi = virtio_gsi[nr];
	rc = board_add(m, ops, wires, e);
	if (rc == 0)
		rc = board_map(m, &s, 0, e);
	m->boot.slot[m->boot.nr_slots++] = (struct boot_slot){ s.base, VIRTIO_SLOT_BYTES,
							       virtio_gsi[nr] };
	return rc;
}

/* A kind of virtio device behind each transport. */
struct virtio_kind {
	const struct device_ops *mmio, *pci;
};
static const struct virtio_kind virtio_blk = { &virtio_blk_mmio_ops, &virtio_blk_pci_ops };
static const struct virtio_kind virtio_rng = { &virtio_rng_mmio_ops, &virtio_rng_pci_ops };

static int board_virtio(struct machine *m, const struct virtio_kind *kind, const char *id,
			void *arg, struct err *e)
{
	struct device wires;
	int rc;

	board_wires(m, &wires, id);
	wires.arg = arg;
	rc = m->pci ? board_virtio_pci(m, kind->pci, &wires, e) :
		      board_virtio_mmio(m, kind->mmio, &wires, e);
	if (rc == 0)
		m->vdev[m->vdevs++] = to_vdev(m->dev[m->devs - 1]);
	return rc;
}

static int board_images(struct machine *m, struct err *e)
{
	int rc = 0;

	for (u32 i = 0; i < m->cfg->disks && rc == 0; i++) {
		const struct disk_config *d = &m->cfg->disk[i];
		struct image_opts opts = { .path = d->path, .ro = d->ro, .direct = d->direct };

		rc = image_open(&m->image[i], &opts, e);
		m->blk[i].image = m->image[i];
		snprintf(m->blk[i].serial, sizeof m->blk[i].serial, "%s", d->id);
	}
	return rc;
}

struct device *board_find(const struct machine *m, const struct device_ops *ops)
{
	for (u32 i = 0; i < m->devs; i++)
		if (m->dev[i]->ops == ops)
			return m->dev[i];
	return NULL;
}

/* Firmware looks for disks on PCI.  A kernel that we load finds virtio-mmio slots in ACPI tables
 * at no cost, if it has the driver; a PCI bus it has to probe. */
static bool board_wants_pci(struct machine *m)
{
	const struct config *cfg = m->cfg;

	if (cfg->transport != TRANSPORT_AUTO)
		return cfg->transport >= TRANSPORT_PCI;
	if (cfg->bios)
		return true;
	if (!board_looks_at_kernel(cfg) || boot_drivers(&m->boot, &m->mem) != DRIVER_PCI)
		return false;
	log_dbg("board", "virtio devices are on PCI: no virtio_mmio driver was found in kernel and "
		"initrd");
	return true;
}

/* What firmware would do: BARs, and the 8259 inputs of PCI level-triggered.  SeaBIOS places the
 * BARs anew; qboot leaves both as they are. */
static void board_power_on(struct machine *m)
{
	enum { ELCR_REGION = 2 };
	struct device *pic = m->chip.pic;
	u32 mask = 0;

	if (!m->pci)
		return;
	pci_assign(m->pci);
	for (u32 i = 0; i < PCI_LINES; i++)
		mask |= 1u << pci_isa_irq[i];
	pic->ops->write(pic, ELCR_REGION, 0, 1, mask & 0xff);
	pic->ops->write(pic, ELCR_REGION, 1, 1, mask >> 8);
}

static int board_fw_cfg(struct machine *m, struct err *e)
{
	m->firmware = firmware_new(&m->boot, &m->mem, e);
	if (!m->firmware)
		return e->code;
	return board_chip(m, fw_cfg_board, ARRAY_LEN(fw_cfg_board), e);
}

bool board_looks_at_kernel(const struct config *cfg)
{
	return cfg->transport == TRANSPORT_AUTO && !cfg->bios && (cfg->disks || cfg->rng);
}

int board_attach(struct machine *m, struct err *e)
{
	int rc = 0;

	if (board_wants_pci(m))
		board_pci(m);
	for (u32 i = 0; i < m->cfg->disks && rc == 0; i++)
		rc = board_virtio(m, &virtio_blk, m->cfg->disk[i].id, &m->blk[i], e);
	if (rc == 0 && m->cfg->rng)
		rc = board_virtio(m, &virtio_rng, "rng0", NULL, e);
	board_power_on(m);
	return rc;
}

int board_build(struct machine *m, struct err *e)
{
	int rc = 0;

	for (u32 i = 0, rows; i < ARRAY_LEN(pc_board) && rc == 0; i += rows) {
		for (rows = 1; i + rows < ARRAY_LEN(pc_board); rows++)
			if (pc_board[i + rows].ops != pc_board[i].ops)
				break;
		rc = board_chip(m, &pc_board[i], rows, e);
	}
	if (rc < 0)
		return rc;
	m->chip.pic = board_find(m, &pic_ops);
	m->chip.ioapic = board_find(m, &ioapic_ops);
	rc = board_bridge(m, e);
	if (rc == 0)
		rc = board_images(m, e);
	if (rc == 0 && !board_looks_at_kernel(m->cfg))
		rc = board_attach(m, e);
	if (rc == 0 && m->boot.has_fw_cfg) /* last: a firmware's tables in it describe the others */
		rc = board_fw_cfg(m, e);
	return rc;
}

void board_reset(struct machine *m)
{
	for (u32 i = 0; i < m->devs; i++)
		m->dev[i]->ops->reset(m->dev[i]);
	board_power_on(m);
}

void board_flush(struct machine *m)
{
	for (u32 i = 0; i < m->cfg->disks; i++) {
		struct image *im = m->image[i];
		int rc = im->ro ? 0 : image_flush(im);

		if (rc < 0)
			log_err("disk", "%s: the last writes may be lost: flush failed (%s)",
				im->path, strerror(-rc));
	}
}

/* No file grows further: a disk to its own end, the console's output to a bound. */
u64 board_file_max(const struct machine *m)
{
	u64 max = GIB;

	for (u32 i = 0; i < m->cfg->disks; i++)
		max = MAX(max, m->image[i]->bytes);
	return max;
}

void board_free(struct machine *m)
{
	while (m->devs)
		device_free(m->dev[--m->devs]);
	firmware_free(m->firmware);
	for (u32 i = 0; i < m->cfg->disks; i++)
		image_close(m->image[i]);
}

/* --- --dry-run -------------------------------------------------------------------------------- */
static void json_string(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		u8 c = (u8)*s;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void json_field(const char *name, const char *value, const char *end)
{
	printf("  \"%s\": ", name);
	if (value)
		json_string(value);
	else
		printf("null");
	printf("%s\n", end);
}

static void json_ranges(const struct bus *bus, const struct device *dev, bool *first)
{
	for (u32 i = 0; i < bus->n; i++) {
		const struct bus_range *r = &bus->range[i];

		if (r->dev != dev)
			continue;
		printf("%s{ \"space\": \"%s\", \"base\": %llu, \"length\": %llu }",
			*first ? "" : ", ",
		       bus->name, (unsigned long long)r->base, (unsigned long long)r->len);
		*first = false;
	}
}

static void json_device(const struct machine *m, const struct device *dev, bool last)
{
	bool first = true;

	printf("    { \"id\": ");
	json_string(dev->id);
	printf(", \"type\": \"%s\", \"regions\": [", dev->ops->name);
	json_ranges(&m->pio, dev, &first);
	json_ranges(&m->mmio, dev, &first);
	printf("], \"gsi\": [");
	first = true;
	for (u32 i = 0; i < DEVICE_LINES; i++) {
		if (dev->irq[i].gsi >= GSI_MAX)
			continue;
		printf("%s%u", first ? "" : ", ", dev->irq[i].gsi);
		first = false;
	}
	printf("] }%s\n", last ? "" : ",");
}

static void json_disks(const struct machine *m)
{
	printf("  \"drives\": [");
	for (u32 i = 0; i < m->cfg->disks; i++) {
		const struct disk_config *d = &m->cfg->disk[i];

		printf("%s\n    { \"drive_id\": ", i ? "," : "");
		json_string(d->id);
		printf(", \"path_on_host\": ");
		json_string(d->path);
		printf(", \"is_read_only\": %s, \"direct\": %s }", d->ro ? "true" : "false",
		       d->direct ? "true" : "false");
	}
	printf("%s],\n", m->cfg->disks ? "\n  " : "");
}

void machine_print_json(const struct machine *m)
{
	static char cmdline[BOOT_CMDLINE_MAX];

	printf("{\n");
	json_field("engine", m->cfg->accel == ACCEL_INTERP ? "interp" : m->eng->name, ",");
	json_field("engine_reason", m->eng_why, ",");
	printf("  \"machine-config\": { \"vcpu_count\": %u, \"mem_size_mib\": %llu },\n",
		m->nr_vcpus, (unsigned long long)(m->cfg->mem_bytes / MIB));
	printf("  \"boot-source\": { \"kernel_image_path\": ");
	if (m->cfg->kernel)
		json_string(m->cfg->kernel);
	else
		printf("null");
	printf(", \"initrd_path\": ");
	if (m->cfg->initrd)
		json_string(m->cfg->initrd);
	else
		printf("null");
	printf(", \"boot_args\": ");
	if (m->cfg->kernel && boot_cmdline(cmdline, sizeof cmdline, &m->boot) >= 0)
		json_string(cmdline);
	else
		printf("null");
	printf(" },\n");
	json_field("firmware", m->cfg->bios, ",");
	json_disks(m);
	printf("  \"devices\": [\n");
	for (u32 i = 0; i < m->devs; i++)
		json_device(m, m->dev[i], i + 1 == m->devs);
	printf("  ]\n}\n");
}
