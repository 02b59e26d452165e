/* mptable.c - the MP floating pointer and configuration table, for kernels without ACPI.
 * Source: Intel MultiProcessor Specification 1.4, chapter 4. */
#include "parts.h"

#include <stdlib.h>

#include "../devices/chipset.h"
#include "../devices/pci.h"

enum { FLOATING_BYTES = 16, HEAD_BYTES = 44, TABLE_MAX = LOW_SMBIOS - LOW_MP };
enum { ENTRY_CPU = 0, ENTRY_BUS = 1, ENTRY_IOAPIC = 2, ENTRY_IO_INT = 3, ENTRY_LOCAL_INT = 4 };
enum { INT = 0, NMI = 1, EXTINT = 3 };
enum { CPU_ENABLED = 1, CPU_BOOT = 2, LAPIC_VERSION = 0x14, IOAPIC_VERSION = 0x11 };
enum { CPU_FAMILY_6 = 6 << 8, FEATURE_FPU = 1, FEATURE_APIC = 1 << 9 };
enum { FLAGS_BUS = 0, FLAGS_LEVEL_HIGH = 1 | 3 << 2, FLAGS_LEVEL_LOW = 3 | 3 << 2 };
enum { PCI_BUS = 0 }; /* if there is one: its ID is its number (appendix D.3) */
enum { ISA_IRQS = 16, CASCADE_IRQ = 2, ALL_LAPICS = 0xff, APIC_IDS = 255 };

struct table {
	u32 len, entries;
	u8 isa_bus; /* its ID */
	u8 buf[TABLE_MAX];
};

static u8 *append(struct table *t, u32 n)
{
	u8 *p = t->buf + t->len;

	ASSERT(n <= sizeof t->buf - t->len);
	t->len += n;
	t->entries++;
	return p;
}

static void put_cpu(struct table *t, u32 id)
{
	u8 *p = append(t, 20);

	p[0] = ENTRY_CPU;
	p[1] = (u8)id;
	p[2] = LAPIC_VERSION;
	p[3] = CPU_ENABLED | (id == 0 ? CPU_BOOT : 0);
	st32(p + 4, CPU_FAMILY_6); /* kernels ask CPUID itself, not these */
	st32(p + 8, FEATURE_FPU | FEATURE_APIC);
}

static void put_bus(struct table *t, u8 id, const char *type)
{
	u8 *p = append(t, 8);

	p[0] = ENTRY_BUS;
	p[1] = id;
	memcpy(p + 2, type, 6);
}

static void put_int(struct table *t, u8 entry, u8 type, u16 flags, u8 irq, u8 dest, u8 pin)
{
	u8 *p = append(t, 8);

	p[0] = entry;
	p[1] = type;
	st16(p + 2, flags);
	p[4] = t->isa_bus;
	p[5] = irq;
	p[6] = dest;
	p[7] = pin;
}

/* INTA of each slot, by slot and pin number (appendix D.3). */
static void put_pci_interrupts(struct table *t, const struct boot_pci *pci, u8 ioapic_id)
{
	for (u32 slot = 0; slot < PCI_SLOTS; slot++) {
		if (!(pci->slots & BIT(slot)))
			continue;
		u8 *p = append(t, 8);

		p[0] = ENTRY_IO_INT;
		p[1] = INT;
		st16(p + 2, FLAGS_LEVEL_LOW);
		p[4] = PCI_BUS;
		p[5] = (u8)(slot << 2);
		p[6] = ioapic_id;
		p[7] = (u8)(pci->gsi + slot % PCI_LINES);
	}
}

/* The 8259's interrupts are wired one to one, but the timer, whose pin is 2.  Without PCI, GSIs
 * that no ISA bus has are given as if it had them: Linux then takes the number for the IRQ. */
static void put_interrupts(struct table *t, const struct boot_pci *pci, u8 ioapic_id)
{
	if (pci->present)
		put_pci_interrupts(t, pci, ioapic_id);
	for (u32 irq = 0; irq < (u32)(pci->present ? ISA_IRQS : IOAPIC_PINS); irq++) {
		u16 flags = irq >= ISA_IRQS || irq == ACPI_SCI_GSI ? FLAGS_LEVEL_HIGH : FLAGS_BUS;

		if (irq != CASCADE_IRQ)
			put_int(t, ENTRY_IO_INT, INT, flags, (u8)irq, ioapic_id,
				irq == PIT_GSI ? 2 : (u8)irq);
	}
	put_int(t, ENTRY_LOCAL_INT, EXTINT, FLAGS_BUS, 0, 0, 0);
	put_int(t, ENTRY_LOCAL_INT, NMI, FLAGS_BUS, 0, ALL_LAPICS, 1);
}

static void finish(struct table *t)
{
	u8 *p = t->buf;

	boot_put_text(p, "PCMP");
	st16(p + 4, (u16)t->len);
	p[6] = 4; /* specification revision 1.4 */
	boot_put_text(p + 8, "MVM     MVMPC       ");
	st16(p + 34, (u16)t->entries);
	st32(p + 36, LAPIC_BASE);
	p[7] = boot_checksum(p, t->len);
}

static void put_floating(struct loader *l)
{
	u8 p[FLOATING_BYTES] = "_MP_";

	st32(p + 4, LOW_MP + FLOATING_BYTES);
	p[8] = 1; /* length in paragraphs */
	p[9] = 4;
	/* feature bytes 0: a table follows; no IMCR (virtual wire mode) */
	p[10] = boot_checksum(p, sizeof p);
	boot_put(l, LOW_MP, p, sizeof p);
}

int mptable_put(struct loader *l, struct err *e)
{
	u32 cpus = MIN(l->c->nr_vcpus, APIC_IDS - 1); /* IDs are 8 bits; the rest need ACPI */
	struct table *t = boot_alloc(l->heap, sizeof *t);
	u8 *p;

	if (!t)
		return err_set(e, -ENOMEM, "MP table: no host memory");
	t->len = HEAD_BYTES;
	for (u32 i = 0; i < cpus; i++)
		put_cpu(t, i);
	if (l->c->pci.present)
		put_bus(t, PCI_BUS, "PCI   ");
	t->isa_bus = l->c->pci.present ? PCI_BUS + 1 : 0;
	put_bus(t, t->isa_bus, "ISA   ");
	p = append(t, 8);
	p[0] = ENTRY_IOAPIC;
	p[2] = IOAPIC_VERSION;
	p[3] = 1; /* usable */
	st32(p + 4, IOAPIC_BASE);
	put_interrupts(t, &l->c->pci, 0);
	finish(t);
	boot_put(l, LOW_MP + FLOATING_BYTES, t->buf, t->len);
	put_floating(l);
	return 0;
}
