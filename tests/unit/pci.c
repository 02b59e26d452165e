/* Tests of devices/pci.c, pci_msi.c and pci_host.c: a toy function with one BAR of each kind, MSI
 * and MSI-X, behind the host bridge. */
#include "pci_kit.h"

enum { TOY_BYTES = 0x1000, TOY_BIG = 0x100000, TOY_VECTORS = 3, TOY_PBA = 0x400 };
enum { BAR_SMALL = 0, BAR_MSIX = 1, BAR_BIG = 2 };

struct toy {
	struct device dev;
	struct pci_func pci;
	struct pci_func_state s;
	u64 last; /* offset of the last access, with its region in bit 32 and up */
};

static u64 toy_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct toy *t = container_of(dev, struct toy, dev);

	t->last = (u64)region << 32 | off;
	return region == BAR_MSIX ? pci_msix_read(&t->pci, off, size, TOY_PBA) : 0xa5a5a5a5;
}

static void toy_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct toy *t = container_of(dev, struct toy, dev);

	t->last = (u64)region << 32 | off;
	if (region == BAR_MSIX)
		pci_msix_write(&t->pci, off, size, val);
}

static void toy_reset(struct device *dev)
{
	pci_func_reset(&container_of(dev, struct toy, dev)->pci);
}

static void toy_state(struct device *dev, struct state *st)
{
	pci_func_state(&container_of(dev, struct toy, dev)->pci, st);
}

static int toy_init(struct device *dev, struct err *e)
{
	static const struct pci_id id = { .vendor = 0x1234,
					  .device = 0x5678,
					  .class = 0x0c0330,
					  .subsystem_vendor = 1,
					  .subsystem = 2,
					  .revision = 9 };
	struct toy *t = container_of(dev, struct toy, dev);

	pci_func_init(&t->pci, dev, &t->s, &id, true);
	pci_func_bar(&t->pci, BAR_SMALL, PCI_BAR_MEM32, TOY_BYTES, BAR_SMALL);
	pci_func_bar(&t->pci, BAR_MSIX, PCI_BAR_MEM32, TOY_BYTES, BAR_MSIX);
	pci_func_bar(&t->pci, BAR_BIG, PCI_BAR_MEM64, TOY_BIG, BAR_BIG);
	pci_msi_add(&t->pci);
	pci_msix_add(&t->pci, TOY_VECTORS, BAR_MSIX, 0, TOY_PBA);
	toy_reset(dev);
	return 0;
}

static const struct device_ops toy_ops = {
	.name = "toy",
	.version = 1,
	.bytes = sizeof(struct toy),
	.access_max = 8,
	.init = toy_init,
	.read = toy_read,
	.write = toy_write,
	.reset = toy_reset,
	.state = toy_state,
};

static struct pci_kit k;

static struct toy *toy_add(u32 slot)
{
	struct device w = pk_wires(&k, NULL);
	struct err e;
	struct device *dev = device_new(&toy_ops, &w, &e);
	struct toy *t = container_of(dev, struct toy, dev);

	OK(dev);
	pk_put(&k, slot, dev, &t->pci);
	return t;
}

static struct toy *toy_open(void)
{
	pk_open(&k);
	return toy_add(1);
}

/* --- finding functions --------------------------------------------------------------------------
 */
TEST(pci_functions_are_found_through_both_mechanisms)
{
	toy_open();
	EQ(pk_in(&k, 1, PCI_VENDOR_ID, 4), 0x56781234);
	EQ(pk_in(&k, 1, PCI_REVISION_ID, 4), 0x0c033009);
	EQ(pk_in(&k, 1, PCI_SUBSYSTEM_ID, 2), 2);
	EQ(pk_in(&k, 1, PCI_INTERRUPT_PIN, 1), 1);
	EQ(pk_in(&k, 0, PCI_CLASS + 1, 2), 0x0600);
	EQ(pk_in(&k, 0, PCI_SUBSYSTEM_VENDOR_ID, 4), 0x11001af4); /* SeaBIOS asks for this */
	EQ(pk_read(&k, PCI_ECAM_BASE + (1 << 15), 4), 0x56781234);
	EQ(pk_read(&k, PCI_ECAM_BASE + (1 << 15) + PCI_DEVICE_ID, 2), 0x5678);
	EQ(pk_read(&k, PCI_ECAM_BASE + (1 << 15) + 0x100, 4), 0); /* no extended capability */
	EQ(pk_read(&k, PCI_ECAM_BASE + (1 << 15) + 0xffe, 4), 0);
	pk_close(&k);
}

TEST(pci_what_is_not_there_reads_as_ones)
{
	toy_open();
	EQ(pk_in(&k, 2, 0, 4), UINT32_MAX);
	pk_out(&k, 2, PCI_COMMAND, 2, 7);
	EQ(pk_read(&k, PCI_ECAM_BASE + (2 << 15), 4), UINT32_MAX);
	EQ(pk_read(&k, PCI_ECAM_BASE + (1 << 15) + (1 << 12), 4), UINT32_MAX); /* function 1 */
	bus_write(&k.pio, PCI_ADDRESS_PORT, 4, 0x80010800); /* bus 1 */
	EQ(bus_read(&k.pio, PCI_DATA_PORT, 4), UINT32_MAX);
	bus_write(&k.pio, PCI_ADDRESS_PORT, 4, 0x00000800); /* not enabled */
	EQ(bus_read(&k.pio, PCI_DATA_PORT, 4), UINT32_MAX);
	pk_close(&k);
}

TEST(pci_address_register_is_one_double_word)
{
	toy_open();
	bus_write(&k.pio, PCI_ADDRESS_PORT, 4, UINT32_MAX);
	EQ(bus_read(&k.pio, PCI_ADDRESS_PORT, 4), 0x80fffffc);
	bus_write(&k.pio, PCI_ADDRESS_PORT, 1, 0);
	bus_write(&k.pio, PCI_ADDRESS_PORT, 2, 0);
	bus_write(&k.pio, PCI_ADDRESS_PORT + 1, 1, 0);
	bus_write(&k.pio, PCI_ADDRESS_PORT + 2, 2, 0);
	EQ(bus_read(&k.pio, PCI_ADDRESS_PORT, 4), 0x80fffffc);
	EQ(bus_read(&k.pio, PCI_ADDRESS_PORT + 1, 1), 0xff); /* free for another chip */
	EQ(bus_map(&k.pio, PCI_ADDRESS_PORT + 1, 1, k.dev[1], BAR_SMALL), 0);
	EQ(bus_read(&k.pio, PCI_ADDRESS_PORT + 1, 1), 0xa5);
	EQ(bus_read(&k.pio, PCI_ADDRESS_PORT, 4), 0x80fffffc);
	pk_close(&k);
}

TEST(pci_read_only_bits_stay)
{
	toy_open();
	for (u32 off = 0; off < PCI_CONFIG_BYTES; off += 4)
		if (off != PCI_COMMAND && (off < PCI_BAR0 || off >= PCI_SUBSYSTEM_VENDOR_ID) &&
		    off < PCI_FIRST_CAP) {
			u32 before = pk_in(&k, 1, off, 4);

			pk_out(&k, 1, off, 4, ~before);
			EQ(pk_in(&k, 1, off, 4), before);
		}
	EQ(pk_in(&k, 1, PCI_INTERRUPT_LINE, 2), 0x100 | (PK_ISA + 1)); /* SeaBIOS writes 0 */
	pk_out(&k, 1, PCI_COMMAND, 4, UINT32_MAX);
	EQ(pk_in(&k, 1, PCI_COMMAND, 4), 0x00100547);
	pk_close(&k);
}

/* --- BARs ---------------------------------------------------------------------------------------
 */
TEST(pci_bars_tell_their_size)
{
	toy_open();
	for (u32 i = 0; i < PCI_BARS; i++)
		pk_out(&k, 1, PCI_BAR0 + i * 4, 4, UINT32_MAX);
	EQ(pk_in(&k, 1, PCI_BAR0, 4), 0xfffff000);
	EQ(pk_in(&k, 1, PCI_BAR0 + 4, 4), 0xfffff000);
	EQ(pk_in(&k, 1, PCI_BAR0 + 8, 4), 0xfff00004);
	EQ(pk_in(&k, 1, PCI_BAR0 + 12, 4), UINT32_MAX);
	EQ(pk_in(&k, 1, PCI_BAR0 + 16, 4), 0);
	EQ(pk_in(&k, 1, PCI_BAR0 + 20, 4), 0);
	pk_close(&k);
}

/* What an access to addr finds: region and offset, or -1. */
static s64 found(struct toy *t, u64 addr)
{
	t->last = (u64)-1;
	pk_read(&k, addr, 4);
	return (s64)t->last;
}

TEST(pci_bars_move_and_follow_the_decode_bit)
{
	struct toy *t = toy_open();
	u32 ranges = k.mmio.n;

	pk_out(&k, 1, PCI_BAR0, 4, 0xd0002000);
	EQ(found(t, 0xd0002010), -1);
	pk_out(&k, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	EQ(found(t, 0xd0002010), 0x10);
	EQ(found(t, 0xd0002ffc), 0xffc);
	EQ(found(t, 0xd0003000), -1);
	pk_out(&k, 1, PCI_BAR0, 4, 0xdffff000);
	EQ(found(t, 0xd0002010), -1);
	EQ(found(t, 0xdffff010), 0x10);
	pk_write(&k, PCI_ECAM_BASE + (1 << 15) + PCI_BAR0 + 2, 1, 0); /* a byte of it */
	EQ(found(t, 0xdf00f010), 0x10);
	pk_out(&k, 1, PCI_COMMAND, 1, 0);
	EQ(found(t, 0xdf00f010), -1);
	EQ(k.mmio.n, ranges);
	pk_close(&k);
}

TEST(pci_64_bit_bar_reaches_above_4_gib)
{
	struct toy *t = toy_open();

	pk_out(&k, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	pk_out(&k, 1, PCI_BAR0 + 8, 4, 0x80000000);
	EQ(found(t, 0x80000000), -1); /* on the way: below the window */
	pk_out(&k, 1, PCI_BAR0 + 12, 4, 1);
	EQ(found(t, 0x180000020), (s64)BAR_BIG << 32 | 0x20);
	pk_out(&k, 1, PCI_BAR0 + 12, 4, UINT32_MAX);
	EQ(found(t, 0x180000020), -1);
	pk_close(&k);
}

TEST(pci_bars_in_odd_places_lead_nowhere)
{
	static const u32 places[] = { 0,	  0x1000,     0xc0000000, PCI_ECAM_BASE, 0xcffff000,
				      0xe0000000, 0xfec00000, 0xfee00000, 0xfffff000 };
	struct toy *t = toy_open();
	u32 ranges = k.mmio.n;

	pk_out(&k, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		for (u32 bar = 0; bar < 3; bar++)
			pk_out(&k, 1, PCI_BAR0 + bar * 4, 4, places[i]);
		EQ(k.mmio.n, ranges);
		EQ(found(t, places[i]), -1);
	}
	EQ(pk_in(&k, 1, 0, 2), 0x1234); /* ECAM and all still work */
	pk_close(&k);
}

TEST(pci_of_two_bars_at_one_place_the_lower_slot_wins)
{
	struct toy *a = toy_open(), *b = toy_add(2);

	pk_out(&k, 2, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	pk_out(&k, 2, PCI_BAR0, 4, 0xd0000000);
	EQ(found(b, 0xd0000004), 4);
	pk_out(&k, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	pk_out(&k, 1, PCI_BAR0, 4, 0xd0000000);
	EQ(found(a, 0xd0000004), 4);
	EQ(found(b, 0xd0000004), -1);
	pk_out(&k, 1, PCI_BAR0, 4, 0xd0001000); /* and the other one comes back */
	EQ(found(b, 0xd0000004), 4);
	EQ(found(a, 0xd0001004), 4);
	pk_close(&k);
}

TEST(pci_assign_gives_every_bar_a_place_of_its_own)
{
	struct toy *a = toy_open(), *b = toy_add(3);

	pci_assign(k.host);
	for (u32 slot = 1; slot <= 3; slot += 2) {
		struct toy *t = slot == 1 ? a : b;

		EQ(found(t, pk_in(&k, slot, PCI_BAR0, 4)), 0);
		EQ(found(t, pk_in(&k, slot, PCI_BAR0 + 4, 4)), (s64)BAR_MSIX << 32);
		EQ(found(t, pk_in(&k, slot, PCI_BAR0 + 8, 4) & ~0xfu), (s64)BAR_BIG << 32);
		EQ(pk_in(&k, slot, PCI_INTERRUPT_LINE, 1), PK_ISA + slot % 4);
	}
	a->dev.ops->reset(&a->dev);
	EQ(pk_in(&k, 1, PCI_BAR0, 4), 0);
	EQ(pk_in(&k, 1, PCI_COMMAND, 2), 0);
	pk_close(&k);
}

/* --- INTA ---------------------------------------------------------------------------------------
 */
TEST(pci_inta_is_shared_by_slots_and_can_be_disabled)
{
	struct toy *a, *b;

	pk_open(&k);
	a = toy_add(1);
	b = container_of(
		device_new(&toy_ops, &(struct device){ .irq = { { &k.chip, GSI_MAX } } }, NULL),
		struct toy, dev);
	pk_put(&k, 2, &b->dev, &b->pci);
	pci_raise(&a->pci);
	pci_raise(&b->pci);
	OK(k.line[1] && k.line[2]);
	OK(k.isa[1] && k.isa[2] && !k.isa[0]);
	OK(pk_in(&k, 1, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	pk_out(&k, 1, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
	OK(!k.line[1] && k.line[2]);
	OK(!k.isa[1] && k.isa[2]);
	OK(pk_in(&k, 1, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	pk_out(&k, 1, PCI_COMMAND, 2, 0);
	OK(k.line[1]);
	pci_lower(&a->pci);
	OK(!k.line[1]);
	b->dev.ops->reset(&b->dev);
	OK(!k.line[2]);
	EQ(k.messages, 0);
	pk_close(&k);
}

/* --- MSI ----------------------------------------------------------------------------------------
 */
TEST(pci_msi_sends_a_message_in_place_of_inta)
{
	struct toy *t = toy_open();
	u32 cap = pk_cap(&k, 1, PCI_CAP_MSI, 0);

	OK(cap);
	pci_raise(&t->pci);
	OK(k.line[1]);
	pk_out(&k, 1, cap + 4, 4, 0xfee00003);
	pk_out(&k, 1, cap + 12, 2, 0x4041);
	pk_out(&k, 1, cap + 2, 2, 1);
	EQ(pk_in(&k, 1, cap + 2, 2), 0x181);
	EQ(pk_in(&k, 1, cap + 4, 4), 0xfee00000);
	OK(!k.line[1]);
	EQ(k.messages, 0);
	pci_raise(&t->pci);
	EQ(k.messages, 1);
	EQ(k.message[0].addr, 0xfee00000);
	EQ(k.message[0].data, 0x4041);
	pk_out(&k, 1, cap + 16, 4, 1);
	pci_raise(&t->pci);
	pci_raise(&t->pci);
	EQ(k.messages, 1);
	pk_out(&k, 1, cap + 16, 4, 0);
	EQ(k.messages, 2);
	pk_out(&k, 1, cap + 2, 2, 0);
	OK(k.line[1]);
	pk_close(&k);
}

TEST(pci_msi_shows_that_a_message_is_pending)
{
	struct toy *t = toy_open();
	u32 cap = pk_cap(&k, 1, PCI_CAP_MSI, 0);

	pk_out(&k, 1, cap + 16, 4, 1);
	pk_out(&k, 1, cap + 2, 2, 1);
	EQ(pk_in(&k, 1, cap + 20, 4), 0);
	pci_raise(&t->pci);
	EQ(pk_in(&k, 1, cap + 20, 4), 1);
	pk_out(&k, 1, cap + 16, 4, 0);
	EQ(pk_in(&k, 1, cap + 20, 4), 0);
	EQ(k.messages, 1);
	pk_close(&k);
}

/* --- MSI-X --------------------------------------------------------------------------------------
 */
enum { MSIX_AT = 0xd0001000 };

/* Memory decoding on, the table at MSIX_AT, a different message in each entry. */
static u32 msix_open(struct toy *t)
{
	u32 cap = pk_cap(&k, 1, PCI_CAP_MSIX, 0);

	pk_out(&k, 1, PCI_BAR0 + 4, 4, MSIX_AT);
	pk_out(&k, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	EQ(pk_in(&k, 1, cap + 2, 2), TOY_VECTORS - 1);
	EQ(pk_in(&k, 1, cap + 4, 4), BAR_MSIX);
	EQ(pk_in(&k, 1, cap + 8, 4), TOY_PBA | BAR_MSIX);
	for (u32 i = 0; i < TOY_VECTORS; i++) {
		EQ(pk_read(&k, MSIX_AT + i * 16 + 12, 4), 1);
		pk_write(&k, MSIX_AT + i * 16, 8, 0xfee01003 + i * 0x1000);
		pk_write(&k, MSIX_AT + i * 16 + 8, 4, 0x30 + i);
	}
	return cap;
}

TEST(pci_msix_masks_by_vector_and_by_function)
{
	struct toy *t = toy_open();
	u32 cap = msix_open(t);

	pci_msix_send(&t->pci, 0); /* off */
	pk_out(&k, 1, cap + 2, 2, 0xffff);
	EQ(pk_in(&k, 1, cap + 2, 2), 0xc002);
	pk_write(&k, MSIX_AT + 28, 4, UINT32_MAX - 1); /* unmask 1 */
	EQ(pk_read(&k, MSIX_AT + 28, 4), 0);
	pci_msix_send(&t->pci, 0);
	pci_msix_send(&t->pci, 1);
	EQ(k.messages, 0);
	EQ(pk_read(&k, MSIX_AT + TOY_PBA, 8), 3);
	pk_out(&k, 1, cap + 2, 2, 0x8000);
	EQ(k.messages, 1);
	EQ(k.message[0].addr, 0xfee02000);
	EQ(k.message[0].data, 0x31);
	EQ(pk_read(&k, MSIX_AT + TOY_PBA, 4), 1);
	pk_write(&k, MSIX_AT + 12, 1, 0);
	EQ(k.messages, 2);
	EQ(k.message[1].data, 0x30);
	EQ(pk_read(&k, MSIX_AT + TOY_PBA, 8), 0);
	pci_msix_send(&t->pci, 1);
	EQ(k.messages, 3);
	pci_msix_send(&t->pci, TOY_VECTORS);
	pci_msix_send(&t->pci, 0xffff);
	EQ(k.messages, 3);
	pk_close(&k);
}

TEST(pci_msix_takes_the_place_of_inta)
{
	struct toy *t = toy_open();
	u32 cap = msix_open(t);

	pci_raise(&t->pci);
	OK(k.line[1]);
	pk_out(&k, 1, cap + 2, 2, 0x8000);
	OK(!k.line[1]);
	pk_out(&k, 1, cap + 2, 2, 0);
	OK(k.line[1]);
	pk_close(&k);
}

TEST(pci_msix_pending_bits_and_space_past_the_table_are_read_only)
{
	struct toy *t = toy_open();

	msix_open(t);
	for (u64 off = TOY_VECTORS * 16; off < TOY_BYTES; off += 8) {
		pk_write(&k, MSIX_AT + off, 8, UINT64_MAX);
		EQ(pk_read(&k, MSIX_AT + off, 8), 0);
	}
	pk_close(&k);
}

/* --- state --------------------------------------------------------------------------------------
 */
static void save(struct toy *t, struct state *st)
{
	state_init_save(st);
	st_begin(st, "toy", 1);
	toy_state(&t->dev, st);
	st_end(st);
	EQ(st->error, 0);
}

static int load(struct toy *t, const struct state *blob)
{
	struct state st;

	state_init_load(&st, blob->buf, blob->len);
	st_begin(&st, "toy", 1);
	toy_state(&t->dev, &st);
	st_end(&st);
	return st.error;
}

TEST(pci_state_brings_bars_lines_and_pending_messages_back)
{
	struct toy *t = toy_open();
	struct pci_func_state before;
	struct state st;
	u32 cap = msix_open(t);

	pk_out(&k, 1, cap + 2, 2, 0x8000);
	pci_msix_send(&t->pci, 2);
	pk_out(&k, 1, cap + 2, 2, 0);
	pci_raise(&t->pci);
	before = t->s;
	save(t, &st);
	toy_reset(&t->dev);
	OK(!k.line[1]);
	EQ(found(t, MSIX_AT), -1);
	EQ(load(t, &st), 0);
	EQ(memcmp(&before, &t->s, sizeof before), 0);
	OK(k.line[1]);
	EQ(found(t, MSIX_AT), (s64)BAR_MSIX << 32);
	EQ(pk_read(&k, MSIX_AT + TOY_PBA, 8), 4);
	state_free(&st);
	pk_close(&k);
}

TEST(pci_state_that_no_driver_could_reach_is_refused)
{
	struct toy *t = toy_open();
	struct state st;

	for (int i = 0; i < 5; i++) {
		toy_reset(&t->dev);
		switch (i) {
		case 0: t->s.config[PCI_VENDOR_ID]++; break;
		case 1: t->s.config[PCI_BAR0] = 1; break;
		case 2: t->s.msix_pending = 1 << TOY_VECTORS; break;
		case 3: t->s.intx = 1; break;
		case 4: t->s.config[pk_cap(&k, 1, PCI_CAP_MSI, 0) + 20] = 2; break;
		}
		save(t, &st);
		toy_reset(&t->dev);
		OK(load(t, &st) < 0);
		state_free(&st);
	}
	pk_close(&k);
}
