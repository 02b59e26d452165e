/* Tests of boot/elf.c, pvh.c and multiboot.c. */
#include "bootkit.h"

static u8 image[64 << 10];

TEST(elf_kernel_loads_at_its_physical_address)
{
	struct kit *k = kit_new(64);
	size_t len = kit_elf(image, 0x1000, 0x2000);

	EQ(kit_boot(k, image, len), 0);
	EQ(k->s.rip, 0x1000000);
	EQ(k->s.gpr[RSI], LOW_ZERO_PAGE);
	EQ(*kit_at(k, 0x1001fff), 0x90);
	EQ(*kit_at(k, 0x1002000), 0);
	EQ(kit_at(k, LOW_ZERO_PAGE)[0x210], 0xff);
	kit_free(k);
}

TEST(elf_virtual_entry_is_turned_into_a_physical_one)
{
	struct elf_image img;
	size_t len = kit_elf(image, 0x1000, 0x2000);

	st64(image + 24, 0xffffffff81000040);
	OK(!elf_parse(image, len, &img));
	EQ(img.entry, 0x1000040);
	OK(img.entry_inside);
}

TEST(elf_hostile_headers_are_refused)
{
	struct elf_image img;
	size_t len = kit_elf(image, 0x1000, 0x2000);

	OK(elf_parse(image, 40, &img));
	OK(elf_parse(image, len - 1, &img));
	st64(image + 72, UINT64_MAX - 8); /* file offset wraps */
	OK(elf_parse(image, len, &img));
	kit_elf(image, 0x1000, 0x2000);
	st64(image + 88, UINT64_MAX - 0x1000); /* physical end wraps */
	OK(elf_parse(image, len, &img));
	kit_elf(image, 0x1000, 0x2000);
	st64(image + 104, 0x1000); /* memsz < filesz */
	OK(elf_parse(image, len, &img));
	kit_elf(image, 0x1000, 0x2000);
	st64(image + 32, UINT64_MAX - 20); /* program headers wrap */
	OK(elf_parse(image, len, &img));
	kit_elf(image, 0x1000, 0x2000);
	st16(image + 56, 0xffff); /* 65535 program headers */
	OK(elf_parse(image, len, &img));
	kit_elf(image, 0x1000, 0x2000);
	st16(image + 18, 183); /* AArch64 */
	OK(elf_parse(image, len, &img));
}

TEST(elf_segments_that_overlap_are_refused)
{
	struct elf_image img;
	size_t len = kit_elf(image, 0x1000, 0x2000);

	st16(image + 56, 2);
	memcpy(image + 120, image + 64, 56);
	OK(elf_parse(image, len, &img));
	st64(image + 120 + 24, 0x1000000 + 0x3000);
	OK(!elf_parse(image, len, &img));
	EQ(img.n, 2);
}

TEST(elf_segment_outside_memory_is_refused_with_advice)
{
	struct kit *k = kit_new(8);
	size_t len = kit_elf(image, 0x1000, 0x2000);

	EQ(kit_boot(k, image, len), -ENOMEM);
	OK(strstr(k->e.text, "--mem"));
	st64(image + 24, 0x7000);
	st64(image + 88, 0x7000); /* over boot_params */
	EQ(kit_boot(k, image, len), -ENOMEM);
	kit_free(k);
}

/* A second program header: notes at the end of the one segment. */
static size_t elf_with_note(u32 namesz, u32 descsz, u32 type)
{
	size_t len = kit_elf(image, 0x1000, 0x2000);
	u8 *note = image + len - 64;

	st16(image + 56, 2);
	st32(image + 120, 4);
	st64(image + 128, len - 64);
	st64(image + 152, 64);
	memset(note, 0, 64);
	st32(note, namesz);
	st32(note + 4, descsz);
	st32(note + 8, type);
	memcpy(note + 12, "Xen", 4);
	st32(note + 16, 0x1000100);
	return len;
}

TEST(elf_pvh_note_gives_the_32_bit_entry)
{
	struct kit *k = kit_new(64);
	size_t len = elf_with_note(4, 4, 18);

	k->c.entry = BOOT_PVH;
	k->c.initrd = kit_file("rd", 2);
	EQ(kit_boot(k, image, len), 0);
	EQ(k->s.rip, 0x1000100);
	EQ(k->s.cr0 & 0x80000001, 1);
	u8 *info = kit_at(k, k->s.gpr[RBX]);

	EQ(ld32(info), 0x336ec578);
	EQ(ld32(info + 12), 1);
	EQ(ld64(kit_at(k, ld64(info + 16)) + 8), 2);
	EQ(ld64(info + 32), LOW_RSDP);
	EQ(ld32(info + 48), 6);
	EQ(ld32(kit_at(k, ld64(info + 40)) + 16), E820_RAM);
	k->c.entry = BOOT_AUTO; /* a Linux vmlinux has both; the 64-bit entry is better */
	EQ(kit_boot(k, image, len), 0);
	EQ(k->s.rip, 0x1000000);
	kit_free(k);
}

/* The class of GHSA-52h2-m2cf-9jh6: note sizes that make a parser stand still or run away. */
TEST(elf_hostile_notes_end)
{
	static const u32 size[] = { 0,	1,	    3,		4,	    48,
				    52, 0x7fffffff, 0xfffffff4, 0xfffffffc, 0xffffffff };
	struct elf_image img;

	for (size_t i = 0; i < ARRAY_LEN(size); i++)
		for (size_t j = 0; j < ARRAY_LEN(size); j++) {
			size_t len = elf_with_note(size[i], size[j], 18);

			OK(!elf_parse(image, len, &img));
			EQ(img.pvh_entry != 0, size[i] == 4 && (size[j] == 4 || size[j] == 48));
		}
}

TEST(elf_without_the_wanted_entry_is_refused)
{
	struct kit *k = kit_new(64);
	size_t len = kit_elf(image, 0x1000, 0x2000);

	k->c.entry = BOOT_PVH;
	EQ(kit_boot(k, image, len), -ENOTSUP);
	k->c.entry = BOOT_16;
	EQ(kit_boot(k, image, len), -ENOTSUP);
	kit_free(k);
}

TEST(elf_multiboot_flat_image_starts_with_its_info)
{
	struct kit *k = kit_new(64);

	memset(image, 0, 4096);
	st32(image + 0x10, 0x1badb002);
	st32(image + 0x14, 1 << 16);
	st32(image + 0x18, (u32)-(0x1badb002 + (1 << 16)));
	st32(image + 0x1c, 0x200010); /* header_addr */
	st32(image + 0x20, 0x200000); /* load_addr */
	st32(image + 0x28, 0x203000); /* bss_end */
	st32(image + 0x2c, 0x200040); /* entry */
	k->c.cmdline = "a b";
	EQ(kit_boot(k, image, 4096), 0);
	OK(!strcmp(strchr((char *)kit_at(k, LOW_CMDLINE), ' '),
		   " a b")); /* name, then the user's */
	EQ(k->s.rip, 0x200040);
	EQ(k->s.gpr[RAX], 0x2badb002);
	EQ(ld32(kit_at(k, 0x200010)), 0x1badb002);
	EQ(ld32(kit_at(k, k->s.gpr[RBX]) + 16), LOW_CMDLINE);
	st32(image + 0x20, 0x200020); /* begins after its own header */
	EQ(kit_boot(k, image, 4096), -ENOEXEC);
	st32(image + 0x20, 0x200000);
	st32(image + 0x24, 0x300000); /* more than the file has */
	EQ(kit_boot(k, image, 4096), -ENOEXEC);
	kit_free(k);
}

/* Test kernels that stay in real mode live below 1 MiB, but not on top of what mvm puts there. */
TEST(elf_multiboot_kernel_may_load_low)
{
	struct kit *k = kit_new(64);
	u8 *ph = image + 52, *mb = image + 0x100;

	memset(image, 0, 4096);
	memcpy(image, "\177ELF\1\1\1", 7);
	st16(image + 16, 2);
	st16(image + 18, 3);
	st32(image + 24, 0x8010);
	st32(image + 28, 52);
	st16(image + 42, 32);
	st16(image + 44, 1);
	st32(ph, 1);
	st32(ph + 8, 0x8000);
	st32(ph + 12, 0x8000);
	st32(ph + 16, 4096);
	st32(ph + 20, 8192);
	st32(mb, 0x1badb002);
	st32(mb + 8, (u32)-0x1badb002);
	EQ(kit_boot(k, image, 4096), 0);
	EQ(k->s.rip, 0x8010);
	EQ(ld32(kit_at(k, 0x8100)), 0x1badb002);
	st32(ph + 12, 0x1f000); /* runs into the command line */
	EQ(kit_boot(k, image, 4096), -ENOMEM);
	st32(ph + 12, 0x7000);
	EQ(kit_boot(k, image, 4096), -ENOMEM);
	kit_free(k);
}
