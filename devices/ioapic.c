/* ioapic.c - 82093AA I/O APIC, version 20h (with the EOI register): region 0 is its page.
 *
 * Owns 24 redirection entries and the levels of their pins.  A pin that fires becomes a message
 * {address, data} for irq[0].chip->ops->msi, exactly what a PCI device would write; so the same
 * chip serves our own local APICs and KVM's.  Pins come in by ioapic_set_irq, EOIs by ioapic_eoi.
 *
 * Thread: vCPUs (registers, EOI), loop (lines); all under machine.lock.
 * Sources: Intel 82093AA data sheet, "Register Description"; the EOI register: Intel ICH9, "EOIR".
 * Departure: a line says "asserted", so the polarity bit is kept but inverts nothing. */
#include "chipset.h"

enum { IOREGSEL = 0x00, IOWIN = 0x10, EOIR = 0x40 };
enum { IOAPICID = 0, IOAPICVER = 1, IOAPICARB = 2, IOREDTBL = 0x10 };
enum { VERSION = 0x20, MAX_ENTRY_SHIFT = 16, ID_MASK = 0x0f000000 };

#define RTE_VECTOR 0xffull
#define RTE_MODE_SHIFT 8
#define RTE_LOGICAL BIT(11)
#define RTE_PENDING BIT(12) /* delivery status: our messages never wait */
#define RTE_REMOTE_IRR BIT(14)
#define RTE_LEVEL BIT(15)
#define RTE_MASKED BIT(16)
#define RTE_DEST_SHIFT 56
#define RTE_WRITABLE (0xff0000000001ffffull & ~(RTE_PENDING | RTE_REMOTE_IRR))

/* SDM vol 3 "Message Address Register Format", "Message Data Register Format". */
enum { MSI_ADDR = 0xfee00000, MSI_ADDR_DEST_SHIFT = 12, MSI_ADDR_LOGICAL = 4 };
enum { MSI_DATA_MODE_SHIFT = 8, MSI_DATA_ASSERT = 1 << 14, MSI_DATA_LEVEL = 1 << 15 };

struct ioapic {
	struct device dev;
	struct ioapic_state {
		u64 rte[IOAPIC_PINS];
		u32 pins; /* levels */
		u32 id;
		u8 select;
	} s;
};

static struct ioapic *ioapic_of(struct device *dev)
{
	return container_of(dev, struct ioapic, dev);
}

/* --- delivery ------------------------------------------------------------------------------- */
static void ioapic_send(struct ioapic *io, u64 rte)
{
	struct irqchip *out = io->dev.irq[0].chip;
	u64 addr = MSI_ADDR | (rte >> RTE_DEST_SHIFT) << MSI_ADDR_DEST_SHIFT |
		   (rte & RTE_LOGICAL ? MSI_ADDR_LOGICAL : 0);
	u32 data = (u32)(rte & (RTE_VECTOR | 7 << RTE_MODE_SHIFT)) | MSI_DATA_ASSERT |
		   (rte & RTE_LEVEL ? MSI_DATA_LEVEL : 0);

	if (out)
		out->ops->msi(out, addr, data);
}

/* A level-triggered pin sends once, then waits for the EOI. */
static void ioapic_service_level(struct ioapic *io, unsigned pin)
{
	u64 rte = io->s.rte[pin];

	if (!(io->s.pins & BIT(pin)) || rte & (RTE_MASKED | RTE_REMOTE_IRR) || !(rte & RTE_LEVEL))
		return;
	io->s.rte[pin] |= RTE_REMOTE_IRR;
	ioapic_send(io, rte);
}

void ioapic_set_irq(struct device *dev, unsigned pin, bool level)
{
	struct ioapic *io = ioapic_of(dev);
	u64 rte;
	bool rising;

	ASSERT(pin < IOAPIC_PINS);
	rte = io->s.rte[pin];
	rising = level && !(io->s.pins & BIT(pin));
	io->s.pins = level ? io->s.pins | BIT(pin) : io->s.pins & ~BIT(pin);
	if (rte & RTE_LEVEL)
		ioapic_service_level(io, pin);
	else if (rising && !(rte & RTE_MASKED)) /* an edge on a masked pin is lost */
		ioapic_send(io, rte);
}

int ioapic_vector(struct device *dev, unsigned pin)
{
	u64 rte = ioapic_of(dev)->s.rte[pin];

	return rte & (RTE_MASKED | RTE_LEVEL) ? -1 : (int)(rte & RTE_VECTOR);
}

void ioapic_eoi(struct device *dev, u8 vector)
{
	struct ioapic *io = ioapic_of(dev);

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		u64 *rte = &io->s.rte[pin];

		if ((*rte & RTE_VECTOR) != vector || !(*rte & RTE_REMOTE_IRR))
			continue;
		*rte &= ~RTE_REMOTE_IRR;
		ioapic_service_level(io, pin);
	}
}

/* --- registers ------------------------------------------------------------------------------ */
static u32 ioapic_read_reg(const struct ioapic *io, u8 reg)
{
	unsigned pin = (reg - IOREDTBL) / 2;

	if (reg == IOAPICID || reg == IOAPICARB) /* arbitration starts, and stays, at the ID */
		return io->s.id;
	if (reg == IOAPICVER)
		return VERSION | (IOAPIC_PINS - 1) << MAX_ENTRY_SHIFT;
	if (reg < IOREDTBL || pin >= IOAPIC_PINS)
		return 0;
	return (u32)(reg & 1 ? io->s.rte[pin] >> 32 : io->s.rte[pin]);
}

/* An entry turned edge-triggered forgets that it waits for an EOI. */
static void ioapic_write_rte(struct ioapic *io, unsigned pin, bool high, u32 val)
{
	u64 *rte = &io->s.rte[pin];
	u64 merged = high ? (u64)val << 32 | (u32)*rte : (*rte & ~(u64)UINT32_MAX) | val;

	*rte = (merged & RTE_WRITABLE) | (*rte & RTE_REMOTE_IRR);
	if (!(*rte & RTE_LEVEL))
		*rte &= ~RTE_REMOTE_IRR;
	ioapic_service_level(io, pin);
}

static void ioapic_write_reg(struct ioapic *io, u8 reg, u32 val)
{
	unsigned pin = (reg - IOREDTBL) / 2;

	if (reg == IOAPICID)
		io->s.id = val & ID_MASK;
	else if (reg >= IOREDTBL && pin < IOAPIC_PINS)
		ioapic_write_rte(io, pin, reg & 1, val);
}

/* Registers are 32 bits wide and want aligned 32-bit accesses; IOREGSEL and EOIR use one byte. */
static u64 ioapic_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct ioapic *io = ioapic_of(dev);

	if (off == IOREGSEL)
		return io->s.select;
	if (off == IOWIN && size == 4)
		return ioapic_read_reg(io, io->s.select);
	return 0;
}

static void ioapic_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct ioapic *io = ioapic_of(dev);

	if (off == IOREGSEL)
		io->s.select = (u8)val;
	else if (off == IOWIN && size == 4)
		ioapic_write_reg(io, io->s.select, (u32)val);
	else if (off == EOIR)
		ioapic_eoi(dev, (u8)val);
}

/* --- life ----------------------------------------------------------------------------------- */
static void ioapic_reset(struct device *dev)
{
	struct ioapic *io = ioapic_of(dev);

	for (int i = 0; i < IOAPIC_PINS; i++)
		io->s.rte[i] = RTE_MASKED;
	io->s.id = 0;
	io->s.select = 0;
}

static int ioapic_init(struct device *dev, struct err *e)
{
	ioapic_reset(dev);
	return 0;
}

static void ioapic_state(struct device *dev, struct state *st)
{
	struct ioapic *io = ioapic_of(dev);

	st_bytes(st, "rte", io->s.rte, sizeof io->s.rte);
	st_u32(st, "pins", &io->s.pins);
	st_u32(st, "id", &io->s.id);
	st_u8(st, "select", &io->s.select);
	for (int i = 0; i < IOAPIC_PINS; i++)
		st_check(st, !(io->s.rte[i] & ~(RTE_WRITABLE | RTE_REMOTE_IRR)), "rte");
	st_check(st, io->s.pins < BIT(IOAPIC_PINS) && !(io->s.id & ~ID_MASK), "pins");
}

const struct device_ops ioapic_ops = {
	.name = "ioapic",
	.version = 1,
	.bytes = sizeof(struct ioapic),
	.access_max = 4,
	.init = ioapic_init,
	.read = ioapic_read,
	.write = ioapic_write,
	.reset = ioapic_reset,
	.state = ioapic_state,
	.state_off = offsetof(struct ioapic, s),
	.state_len = sizeof(struct ioapic_state),
};
