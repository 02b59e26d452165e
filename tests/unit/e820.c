/* Tests of boot/e820.c. */
#include "bootkit.h"

static const struct boot_pci no_pci;
static const struct boot_pci with_ecam = { .present = true, .ecam = 0xc8000000, .ecam_len = MIB };

static u64 ram_in(const struct e820 *map)
{
	u64 sum = 0;

	for (u32 i = 0; i < map->n; i++)
		sum += map->entry[i].type == E820_RAM ? map->entry[i].len : 0;
	return sum;
}

TEST(e820_map_is_sorted_and_covers_all_ram_but_the_pc_hole)
{
	static const u64 mib[] = { 4, 64, 256, 3071, 3072, 3073, 4096, 8192 };

	for (size_t i = 0; i < ARRAY_LEN(mib); i++) {
		struct memory m;
		struct err e;
		struct e820 map;

		OK(memory_init(&m, mib[i] * MIB, &e) == 0);
		e820_build(&map, &m, &no_pci);
		EQ(ram_in(&map), mib[i] * MIB - (LOW_END - LOW_RAM_END));
		for (u32 j = 1; j < map.n; j++)
			OK(map.entry[j - 1].addr + map.entry[j - 1].len <= map.entry[j].addr);
		for (u32 j = 0; j < map.n; j++)
			if (map.entry[j].type == E820_RAM)
				OK(mem_ptr(&m, map.entry[j].addr, map.entry[j].len));
		memory_free(&m);
	}
}

TEST(e820_rom_is_not_listed_as_ram)
{
	struct memory m;
	struct err e;
	struct e820 map;

	OK(memory_init(&m, 64 * MIB, &e) == 0);
	OK(memory_add(&m, 4 * GIB - 256 * KIB, 256 * KIB, NULL, true, &e) == 0);
	e820_build(&map, &m, &no_pci);
	EQ(ram_in(&map), 64 * MIB - (LOW_END - LOW_RAM_END));
	memory_free(&m);
}

static void check_sorted(const struct e820 *map)
{
	for (u32 j = 1; j < map->n; j++)
		OK(map->entry[j - 1].addr + map->entry[j - 1].len <= map->entry[j].addr);
}

static u32 reserved(const struct e820 *map, u64 addr, u64 len)
{
	u32 seen = 0;

	for (u32 j = 0; j < map->n; j++)
		seen += map->entry[j].addr == addr && map->entry[j].len == len &&
			map->entry[j].type == E820_RESERVED;
	return seen;
}

TEST(e820_ecam_space_is_reserved_in_its_place)
{
	static const u64 mib[] = { 64, 4096 };

	for (size_t i = 0; i < ARRAY_LEN(mib); i++) {
		struct memory m;
		struct err e;
		struct e820 map;

		OK(memory_init(&m, mib[i] * MIB, &e) == 0);
		e820_build(&map, &m, &with_ecam);
		check_sorted(&map);
		EQ(reserved(&map, 0xc8000000, MIB), 1);
		memory_free(&m);
	}
}

TEST(e820_for_firmware_has_all_ram_from_0)
{
	struct memory m;
	struct err e;
	struct e820 map;

	OK(memory_init(&m, 4096 * MIB, &e) == 0);
	OK(memory_add(&m, 4 * GIB - 256 * KIB, 256 * KIB, NULL, true, &e) == 0);
	e820_build_bare(&map, &m, &with_ecam);
	check_sorted(&map);
	EQ(map.entry[0].addr, 0);
	EQ(map.entry[0].len, 3 * GIB);
	EQ(ram_in(&map), 4096 * MIB);
	EQ(reserved(&map, 0xc8000000, MIB), 1);
	memory_free(&m);
}
