/* pci.c - a PCI function: configuration space as reset values and write masks, BARs, INTA.
 *
 * Sizing a BAR needs no code: its low bits are read-only, so all ones come back as the mask.
 * Source: PCI Local Bus Specification 3.0 §6.1, §6.2, §2.2.6 (INTx).
 * Departures: a function may master the bus whatever the command register says; the interrupt line
 * register is the host bridge's to set and read-only (pci_attach). */
#include "pci.h"

enum { BAR_IO = 1, BAR_IO_FLAGS = 3, BAR_MEM64 = 2 << 1, BAR_MEM_FLAGS = 0xf,
	COMMAND_SERR = 1 << 8, COMMAND_PARITY = 1 << 6 };
enum {
	COMMAND_WRITABLE = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
			   COMMAND_PARITY | COMMAND_SERR | PCI_COMMAND_INTX_DISABLE
};

/* --- set-up -------------------------------------------------------------------------------------
 */
void pci_func_init(struct pci_func *f, struct device *dev, struct pci_func_state *s,
		   const struct pci_id *id, bool interrupt_pin)
{
	f->dev = dev;
	f->s = s;
	st16(f->reset + PCI_VENDOR_ID, id->vendor);
	st16(f->reset + PCI_DEVICE_ID, id->device);
	st32(f->reset + PCI_REVISION_ID, id->class << 8 | id->revision);
	st16(f->reset + PCI_SUBSYSTEM_VENDOR_ID, id->subsystem_vendor);
	st16(f->reset + PCI_SUBSYSTEM_ID, id->subsystem);
	f->reset[PCI_INTERRUPT_PIN] = interrupt_pin;
	st16(f->write + PCI_COMMAND, COMMAND_WRITABLE);
	f->live[PCI_STATUS] = PCI_STATUS_INTERRUPT;
	f->next_cap = PCI_FIRST_CAP;
	for (u32 i = 0; i < PCI_BARS; i++)
		f->mapped[i] = PCI_UNMAPPED;
}

void pci_func_bar(struct pci_func *f, u32 bar, enum pci_bar_kind kind, u64 len, u32 region)
{
	u32 off = PCI_BAR0 + bar * 4;

	ASSERT(bar + (kind == PCI_BAR_MEM64) < PCI_BARS);
	ASSERT(len > BAR_MEM_FLAGS && len <= BIT(31) && !(len & (len - 1)));
	f->bar[bar] = (struct pci_bar){ len, region, kind };
	st32(f->write + off, (u32)-len);
	f->reset[off] = kind == PCI_BAR_IO ? BAR_IO : 0;
	if (kind != PCI_BAR_MEM64)
		return;
	f->reset[off] = BAR_MEM64;
	st32(f->write + off + 4, UINT32_MAX);
}

u32 pci_cap_add(struct pci_func *f, u8 id, u32 len)
{
	u32 at = f->next_cap;

	ASSERT(len >= 2 && at + len <= PCI_CONFIG_BYTES);
	f->reset[at] = id;
	f->reset[f->last_cap ? f->last_cap + 1 : PCI_CAPABILITIES] = (u8)at;
	f->reset[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	f->last_cap = at;
	f->next_cap = (u32)ALIGN_UP(at + len, 4);
	return at;
}

/* --- configuration space ------------------------------------------------------------------------
 */
static bool overlaps(u32 off, unsigned size, u32 reg, u32 len)
{
	return off < reg + len && reg < off + size;
}

u32 pci_config_read(struct pci_func *f, u32 off, unsigned size)
{
	u32 val = 0;

	if (f->config_read)
		f->config_read(f, off, size);
	for (unsigned i = 0; i < size && off + i < PCI_CONFIG_BYTES; i++)
		val |= (u32)f->s->config[off + i] << i * 8;
	return val;
}

void pci_config_write(struct pci_func *f, u32 off, unsigned size, u32 val)
{
	for (unsigned i = 0; i < size && off + i < PCI_CONFIG_BYTES; i++) {
		u8 *byte = &f->s->config[off + i], mask = f->write[off + i];

		*byte = (u8)((*byte & ~mask) | (val >> i * 8 & mask));
	}
	if (overlaps(off, size, PCI_COMMAND, 2) || overlaps(off, size, PCI_BAR0, PCI_BARS * 4))
		pci_host_remap(f->host);
	pci_msi_config_written(f, off, size);
	pci_host_update_line(f->host, f->slot);
	if (f->config_written)
		f->config_written(f, off, size);
}

u64 pci_bar_base(const struct pci_func *f, u32 bar)
{
	const u8 *reg = f->s->config + PCI_BAR0 + bar * 4;
	bool io = f->bar[bar].kind == PCI_BAR_IO;
	u64 base = ld32(reg) & ~(u32)(io ? BAR_IO_FLAGS : BAR_MEM_FLAGS);

	if (!f->bar[bar].len ||
	    !(f->s->config[PCI_COMMAND] & (io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
		return PCI_UNMAPPED;
	return f->bar[bar].kind == PCI_BAR_MEM64 ? (u64)ld32(reg + 4) << 32 | base : base;
}

/* --- INTA ---------------------------------------------------------------------------------------
 */
static void pci_set_intx(struct pci_func *f, bool level)
{
	u8 *status = &f->s->config[PCI_STATUS];

	f->s->intx = level;
	*status = (u8)(level ? *status | PCI_STATUS_INTERRUPT : *status & ~PCI_STATUS_INTERRUPT);
	pci_host_update_line(f->host, f->slot);
}

bool pci_intx_level(const struct pci_func *f)
{
	return f->s->intx && !(ld16(f->s->config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE) &&
	       !pci_msi_on(f) && !pci_msix_on(f);
}

void pci_raise(struct pci_func *f)
{
	pci_set_intx(f, true);
	if (pci_msi_on(f))
		pci_msi_send(f);
}

void pci_lower(struct pci_func *f)
{
	pci_set_intx(f, false);
}

/* --- life ---------------------------------------------------------------------------------------
 */
void pci_func_reset(struct pci_func *f)
{
	memset(f->s, 0, sizeof *f->s);
	memcpy(f->s->config, f->reset, sizeof f->reset);
	for (u32 i = 0; i < f->vectors; i++)
		f->s->msix[i * PCI_MSIX_ENTRY_BYTES + PCI_MSIX_ENTRY_BYTES - 4] = 1; /* masked */
	pci_host_remap(f->host);
	pci_host_update_line(f->host, f->slot);
}

/* Bits that no driver can change are as they were made. */
static bool pci_config_possible(const struct pci_func *f)
{
	for (u32 i = 0; i < PCI_CONFIG_BYTES; i++) {
		u8 fixed = (u8) ~(f->write[i] | f->live[i]);

		if ((f->s->config[i] ^ f->reset[i]) & fixed)
			return false;
	}
	return true;
}

void pci_func_state(struct pci_func *f, struct state *st)
{
	bool interrupt;

	st_bytes(st, "config", f->s->config, sizeof f->s->config);
	st_u32(st, "intx", &f->s->intx);
	pci_msi_state(f, st);
	if (!st->loading)
		return;
	interrupt = f->s->config[PCI_STATUS] & PCI_STATUS_INTERRUPT;
	st_check(st, pci_config_possible(f), "config");
	st_check(st, f->s->intx == interrupt, "intx");
	pci_host_remap(f->host);
	pci_host_update_line(f->host, f->slot);
}
