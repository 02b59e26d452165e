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

void e820_build(struct e820 *map, const struct memory *m)
{
	map->n = 0;
	add(map, 0, LOW_RAM_END, E820_RAM);
	add(map, LOW_EBDA, LOW_EBDA + KIB, E820_RESERVED);
	add(map, LOW_ACPI, LOW_RSDP, E820_ACPI);
	add(map, LOW_RSDP, LOW_END, E820_RESERVED);
	for (u32 i = 0; i < m->n; i++) {
		const struct mem_region *r = &m->region[i];

		if (r->gpa >= 4 * GIB && map->entry[map->n - 1].addr < KVM_PAGES)
			add(map, KVM_PAGES, KVM_PAGES_END, E820_RESERVED);
		if (!r->rom)
			add(map, MAX(r->gpa, LOW_END), r->gpa + r->bytes, E820_RAM);
	}
	if (map->entry[map->n - 1].addr < KVM_PAGES)
		add(map, KVM_PAGES, KVM_PAGES_END, E820_RESERVED);
}

void e820_reserve(struct e820 *map, u64 addr, u64 len)
{
	u32 at = 0;

	ASSERT(map->n < E820_MAX);
	while (at < map->n && map->entry[at].addr < addr)
		at++;
	memmove(&map->entry[at + 1], &map->entry[at], (map->n - at) * sizeof map->entry[0]);
	map->entry[at] = (struct e820_entry){ addr, len, E820_RESERVED };
	map->n++;
}
