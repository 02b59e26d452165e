/* Tests of boot/mptable.c. */
#include "../../devices/chipset.h"
#include "bootkit.h"

static u8 image[64 << 10];

static u8 sum(const u8 *p, u32 n)
{
	u8 s = 0;

	while (n--)
		s += *p++;
	return s;
}

TEST(mptable_has_cpus_ioapic_and_wired_interrupts)
{
	static const u8 size[] = { 20, 8, 8, 8, 8 };
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);
	u32 count[5] = { 0 }, boot_cpus = 0, entries = 0, timer_pin = 99;

	k->c.nr_vcpus = 5;
	EQ(kit_boot(k, image, len), 0);
	const u8 *fp = kit_at(k, LOW_MP), *t = kit_at(k, ld32(fp + 4));

	EQ(sum(fp, 16), 0);
	OK(!memcmp(t, "PCMP", 4));
	EQ(sum(t, ld16(t + 4)), 0);
	for (u32 at = 44; at < ld16(t + 4); at += size[t[at]], entries++) {
		OK(t[at] < 5);
		count[t[at]]++;
		boot_cpus += t[at] == 0 && t[at + 3] & 2;
		if (t[at] == 2)
			EQ(ld32(t + at + 4), IOAPIC_BASE);
		if (t[at] == 3 && t[at + 5] == 0)
			timer_pin = t[at + 7];
	}
	EQ(entries, ld16(t + 34));
	EQ(count[0], 5);
	EQ(boot_cpus, 1);
	EQ(count[1], 1);
	EQ(count[2], 1);
	EQ(count[3], 23);
	EQ(count[4], 2);
	EQ(timer_pin, 2);
	kit_free(k);
}

TEST(mptable_ends_where_ids_of_8_bits_end)
{
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);

	k->c.nr_vcpus = 300;
	EQ(kit_boot(k, image, len), 0);
	const u8 *t = kit_at(k, LOW_MP + 16);

	EQ(sum(t, ld16(t + 4)), 0);
	EQ(ld16(t + 34), 254 + 1 + 1 + 23 + 2);
	kit_free(k);
}

TEST(mptable_routes_inta_of_pci_slots)
{
	static const u8 size[] = { 20, 8, 8, 8, 8 };
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);
	u32 routes = 0, isa = 0;

	k->c.nr_vcpus = 1;
	k->c.pci = (struct boot_pci){ .present = true, .slots = 1 << 1 | 1 << 6, .gsi = 16 };
	EQ(kit_boot(k, image, len), 0);
	const u8 *t = kit_at(k, LOW_MP + 16);

	EQ(sum(t, ld16(t + 4)), 0);
	for (u32 at = 44; at < ld16(t + 4); at += size[t[at]]) {
		if (t[at] == 1) /* a PCI bus's ID is its number */
			OK(!memcmp(t + at + 2, t[at + 1] ? "ISA   " : "PCI   ", 6));
		if (t[at] != 3)
			continue;
		isa += t[at + 4] == 1;
		if (t[at + 4] == 0) {
			OK(t[at + 5] == 1 << 2 || t[at + 5] == 6 << 2);
			EQ(t[at + 7], 16 + (t[at + 5] >> 2) % 4);
			routes++;
		}
	}
	EQ(routes, 2);
	EQ(isa, 15);
	kit_free(k);
}
