/* acpi_pci.c - the PCI root bridge in the DSDT: bus 0, its windows and the wiring of INTA; the ECAM
 * space as a board resource, without which Linux does not use it. Source: ACPI 6.4 §6.2.13 "_PRT";
 * PCI Firmware Specification 3.2 §4.1.2. */
#include "parts.h"

#include "../devices/pci.h"
#include "aml.h"

/* One entry a slot: {slot and any function, INTA, no link device, GSI}. */
static void put_prt(struct aml *a, const struct boot_pci *pci)
{
	aml_name_package(a, "_PRT", (u8)__builtin_popcount(pci->slots));
	for (u32 slot = 0; slot < PCI_SLOTS; slot++) {
		if (!(pci->slots & BIT(slot)))
			continue;
		aml_package(a, 4);
		aml_int(a, slot << 16 | 0xffff);
		aml_int(a, 0);
		aml_int(a, 0);
		aml_int(a, pci->gsi + slot % PCI_LINES);
		aml_end(a);
	}
	aml_end(a);
}

static void put_root(struct aml *a, const struct boot_pci *pci)
{
	struct aml_crs crs = { 0 };

	aml_crs_buses(&crs, 0, 1);
	aml_crs_io(&crs, PCI_ADDRESS_PORT, 8);
	aml_crs_ports(&crs, (u16)pci->io.base, (u16)pci->io.len);
	aml_crs_window32(&crs, (u32)pci->mem32.base, (u32)pci->mem32.len);
	if (pci->mem64.len)
		aml_crs_window64(&crs, pci->mem64.base, pci->mem64.len);
	aml_device(a, "PCI0");
	aml_name_eisaid(a, "_HID", "PNP0A08");
	aml_name_eisaid(a, "_CID", "PNP0A03");
	aml_name_int(a, "_UID", 0);
	aml_name_int(a, "_SEG", 0);
	aml_name_int(a, "_BBN", 0);
	aml_name_int(a, "_CCA", 1);
	aml_name_crs(a, &crs);
	put_prt(a, pci);
	aml_end(a);
}

void acpi_put_pci(struct aml *a, const struct boot_pci *pci)
{
	struct aml_crs crs = { 0 };

	put_root(a, pci);
	aml_crs_memory(&crs, (u32)pci->ecam, pci->ecam_len);
	aml_device(a, "ECAM");
	aml_name_eisaid(a, "_HID", "PNP0C02");
	aml_name_int(a, "_UID", 0);
	aml_name_crs(a, &crs);
	aml_end(a);
}
