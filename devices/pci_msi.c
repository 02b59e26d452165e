/* pci_msi.c - message-signalled interrupts: MSI with one maskable vector, MSI-X with its table and
 * pending bits.
 *
 * A message that is masked is remembered in a pending bit and sent when the mask goes away.
 * Source: PCI Local Bus Specification 3.0 §6.8.1 (MSI), §6.8.2 (MSI-X), §6.8.3 (operation). */
#include "pci.h"

/* The MSI capability with 64-bit address and per-vector mask. */
enum {
	MSI_CONTROL = 2,
	MSI_ADDR = 4,
	MSI_DATA = 12,
	MSI_MASK = 16,
	MSI_PENDING = 20,
	MSI_BYTES = 24
};
enum { MSI_ENABLE = 1, MSI_64BIT = 1 << 7, MSI_MASKABLE = 1 << 8 };

enum { MSIX_CONTROL = 2, MSIX_TABLE = 4, MSIX_PBA = 8, MSIX_BYTES = 12 };
enum { MSIX_MASK_ALL = 1 << 14, MSIX_ENABLE = 1 << 15 };
enum { ENTRY_ADDR = 0, ENTRY_DATA = 8, ENTRY_CONTROL = 12, ENTRY_MASKED = 1 };

static void send(struct pci_func *f, u64 addr, u32 data)
{
	struct irqchip *chip = f->dev->irq[0].chip;

	if (chip)
		msi_send(chip, addr, data);
}

/* --- MSI ----------------------------------------------------------------------------------------
 */
void pci_msi_add(struct pci_func *f)
{
	u32 at = pci_cap_add(f, PCI_CAP_MSI, MSI_BYTES);

	f->msi_cap = at;
	st16(f->reset + at + MSI_CONTROL, MSI_64BIT | MSI_MASKABLE);
	f->write[at + MSI_CONTROL] = MSI_ENABLE;
	st32(f->write + at + MSI_ADDR, ~3u);
	st32(f->write + at + MSI_ADDR + 4, UINT32_MAX);
	st16(f->write + at + MSI_DATA, UINT16_MAX);
	f->write[at + MSI_MASK] = 1;
	f->live[at + MSI_PENDING] = 1;
}

bool pci_msi_on(const struct pci_func *f)
{
	return f->msi_cap && f->s->config[f->msi_cap + MSI_CONTROL] & MSI_ENABLE;
}

static void msi_flush(struct pci_func *f)
{
	u8 *cap = f->s->config + f->msi_cap;

	if (!pci_msi_on(f) || !cap[MSI_PENDING] || cap[MSI_MASK])
		return;
	cap[MSI_PENDING] = 0;
	send(f, ld64(cap + MSI_ADDR), ld16(cap + MSI_DATA));
}

void pci_msi_send(struct pci_func *f)
{
	f->s->config[f->msi_cap + MSI_PENDING] = 1;
	msi_flush(f);
}

/* --- MSI-X --------------------------------------------------------------------------------------
 */
void pci_msix_add(struct pci_func *f, u32 vectors, u32 bar, u32 table_off, u32 pba_off)
{
	u32 at = pci_cap_add(f, PCI_CAP_MSIX, MSIX_BYTES);

	ASSERT(vectors && vectors <= PCI_VECTORS_MAX && bar < PCI_BARS);
	f->msix_cap = at;
	f->vectors = vectors;
	st16(f->reset + at + MSIX_CONTROL, (u16)(vectors - 1));
	st16(f->write + at + MSIX_CONTROL, MSIX_ENABLE | MSIX_MASK_ALL);
	st32(f->reset + at + MSIX_TABLE, table_off | bar);
	st32(f->reset + at + MSIX_PBA, pba_off | bar);
}

static u16 msix_control(const struct pci_func *f)
{
	return f->msix_cap ? ld16(f->s->config + f->msix_cap + MSIX_CONTROL) : 0;
}

bool pci_msix_on(const struct pci_func *f)
{
	return msix_control(f) & MSIX_ENABLE;
}

/* Send what is pending and no longer masked. */
static void msix_flush(struct pci_func *f)
{
	if ((msix_control(f) & (MSIX_ENABLE | MSIX_MASK_ALL)) != MSIX_ENABLE)
		return;
	for (u32 i = 0; i < f->vectors && f->s->msix_pending; i++) {
		const u8 *entry = f->s->msix + i * PCI_MSIX_ENTRY_BYTES;

		if (!(f->s->msix_pending & BIT(i)) || entry[ENTRY_CONTROL] & ENTRY_MASKED)
			continue;
		f->s->msix_pending &= ~(1u << i);
		send(f, ld64(entry + ENTRY_ADDR), ld32(entry + ENTRY_DATA));
	}
}

void pci_msix_send(struct pci_func *f, u32 vector)
{
	if (vector >= f->vectors || !pci_msix_on(f))
		return;
	f->s->msix_pending |= 1u << vector;
	msix_flush(f);
}

void pci_msix_clear_pending(struct pci_func *f)
{
	f->s->msix_pending = 0;
}

u64 pci_msix_read(struct pci_func *f, u64 off, unsigned size, u64 pba_off)
{
	u64 val = 0;

	for (unsigned i = 0; i < size; i++, off++) {
		u8 byte = 0;

		if (off < f->vectors * PCI_MSIX_ENTRY_BYTES)
			byte = f->s->msix[off];
		else if (off >= pba_off && off < pba_off + sizeof f->s->msix_pending)
			byte = (u8)(f->s->msix_pending >> (off - pba_off) * 8);
		val |= (u64)byte << i * 8;
	}
	return val;
}

void pci_msix_write(struct pci_func *f, u64 off, unsigned size, u64 val)
{
	for (unsigned i = 0; i < size; i++, off++) {
		static const u8 writable[PCI_MSIX_ENTRY_BYTES] = {
			[0] = 0xfc, [1 ... 11] = 0xff, [ENTRY_CONTROL] = ENTRY_MASKED
		};

		if (off < f->vectors * PCI_MSIX_ENTRY_BYTES)
			f->s->msix[off] = (u8)(val >> i * 8) & writable[off % PCI_MSIX_ENTRY_BYTES];
	}
	msix_flush(f);
}

/* --- both ---------------------------------------------------------------------------------------
 */
/* Enable and mask bits live in configuration space. */
void pci_msi_config_written(struct pci_func *f, u32 off, unsigned size)
{
	if (f->msi_cap && off < f->msi_cap + MSI_BYTES && f->msi_cap < off + size)
		msi_flush(f);
	if (f->msix_cap && off < f->msix_cap + MSIX_BYTES && f->msix_cap < off + size)
		msix_flush(f);
}

void pci_msi_state(struct pci_func *f, struct state *st)
{
	st_bytes(st, "msix", f->s->msix, sizeof f->s->msix);
	st_u32(st, "msix_pending", &f->s->msix_pending);
	st_check(st, !(f->s->msix_pending >> f->vectors), "msix_pending");
}
