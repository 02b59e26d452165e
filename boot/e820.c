/* e820.c - the one memory map, for boot_params, PVH, multiboot and int 15h alike.
 * Source: ACPI 6.4 §15 "System Address Map Interfaces". */
#include "parts.h"

/* What an Intel CPU without unrestricted guest mode needs for KVM's TSS and identity map. */
#define KVM_PAGES 0xfeffc000ull
#define KVM_PAGES_END 0xff000000ull

static void add(struct e820 *map, u64 addr, u64 end, u32 type)
{
	ASSERT(map->n < E820_MAX);
	if (addr < end)
		map->entry[map->n++] = (struct e820_entry){ addr, end - addr, type };
}

/* RAM and ECAM space, in order: what begins below 4 GiB is below the KVM pages too. */
static void add_regions(struct e820 *map, const struct memory *m, u64 floor,
			const struct boot_pci *pci)
{
	for (u32 i = 0; i < m->n; i++)
		if (!m->region[i].rom && m->region[i].gpa < 4 * GIB)
			add(map, MAX(m->region[i].gpa, floor),
			    m->region[i].gpa + m->region[i].bytes, E820_RAM);
	if (pci->present) /* Linux uses the ECAM space only if it is reserved */
		add(map, pci->ecam, pci->ecam + pci->ecam_len, E820_RESERVED);
	add(map, KVM_PAGES, KVM_PAGES_END, E820_RESERVED);
	for (u32 i = 0; i < m->n; i++)
		if (!m->region[i].rom && m->region[i].gpa >= 4 * GIB)
			add(map, m->region[i].gpa, m->region[i].gpa + m->region[i].bytes, E820_RAM);
}

void e820_build(struct e820 *map, const struct memory *m, const struct boot_pci *pci)
{
	map->n = 0;
	add(map, 0, LOW_RAM_END, E820_RAM);
	add(map, LOW_EBDA, LOW_EBDA + KIB, E820_RESERVED);
	add(map, LOW_ACPI, LOW_RSDP, E820_ACPI);
	add(map, LOW_RSDP, LOW_END, E820_RESERVED);
	add_regions(map, m, LOW_END, pci);
}

void e820_build_bare(struct e820 *map, const struct memory *m, const struct boot_pci *pci)
{
	map->n = 0;
	add_regions(map, m, 0, pci);
}
