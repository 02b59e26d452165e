/* Tests of boot/linux.c, vmlinux.c, cmdline.c and boot.c. */
#include "bootkit.h"

#include <zlib.h>

static u8 image[KIT_BZIMAGE_MAX];

TEST(linux_bzimage_enters_in_long_mode_with_boot_params)
{
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);

	k->c.cmdline = "quiet";
	EQ(kit_boot(k, image, len), 0);
	EQ(k->s.rip, 0x1000200);
	EQ(k->s.gpr[RSI], LOW_ZERO_PAGE);
	EQ(k->s.efer, 0x500);
	EQ(k->s.cr0 & 0x80000001, 0x80000001);
	EQ(k->s.seg[SEG_CS].sel, 0x10);
	OK(k->s.seg[SEG_CS].attr & ATTR_L);
	EQ(k->s.seg[SEG_DS].sel, 0x18);
	EQ(*kit_at(k, 0x1000000), 0xc0);
	u8 *zp = kit_at(k, LOW_ZERO_PAGE);

	EQ(zp[0x210], 0xff);
	EQ(ld32(zp + 0x202), 0x53726448);
	EQ(ld16(zp + 0x1fe), 0xaa55);
	OK(!strcmp((char *)kit_at(k, ld32(zp + 0x228)), "console=ttyS0 panic=-1 quiet"));
	EQ(ld64(zp + 0x70), LOW_RSDP);
	EQ(zp[0x1e8], 6);
	kit_free(k);
}

TEST(linux_page_tables_map_the_first_4_gib_one_to_one)
{
	struct kit *k = kit_new(32);
	size_t len = kit_bzimage(image, 4096);

	EQ(kit_boot(k, image, len), 0);
	for (u64 at = 0; at < 4 * GIB; at += 511 * MIB) {
		u64 pml4e = ld64(kit_at(k, k->s.cr3));
		u64 pdpte = ld64(kit_at(k, (pml4e & ~0xfffull) + 8 * (at >> 30)));
		u64 pde = ld64(kit_at(k, (pdpte & ~0xfffull) + 8 * (at >> 21 & 511)));

		EQ(pml4e & pdpte & pde & 3, 3);
		EQ(pde & 0x80, 0x80);
		EQ(pde & ~0x1fffffull, ALIGN_DOWN(at, 2 * MIB));
	}
	kit_free(k);
}

TEST(linux_initrd_lies_high_and_above_the_kernel)
{
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);

	k->c.initrd = kit_file("0123456789", 10);
	EQ(kit_boot(k, image, len), 0);
	u8 *zp = kit_at(k, LOW_ZERO_PAGE);

	EQ(ld32(zp + 0x218), 64 * MIB - PAGE_SIZE);
	EQ(ld32(zp + 0x21c), 10);
	OK(!memcmp(kit_at(k, ld32(zp + 0x218)), "0123456789", 10));
	kit_free(k);
}

TEST(linux_initrd_that_does_not_fit_is_refused_with_advice)
{
	struct kit *k = kit_new(25);
	size_t len = kit_bzimage(image, 4096);
	u8 *big = calloc(1, 2 * MIB);

	k->c.initrd = kit_file(big, 2 * MIB);
	EQ(kit_boot(k, image, len), -ENOSPC);
	OK(strstr(k->e.text, "2048 KiB do not fit in the 1024 KiB"));
	OK(strstr(k->e.text, "--mem"));
	kit_free(k);
	free(big);
}

TEST(linux_real_mode_entry_sets_segments_and_heap)
{
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);

	k->c.entry = BOOT_16;
	EQ(kit_boot(k, image, len), 0);
	EQ(k->s.cr0 & 1, 0);
	EQ(k->s.seg[SEG_CS].sel, 0x1020);
	EQ(k->s.seg[SEG_CS].base, 0x10200);
	EQ(k->s.seg[SEG_DS].sel, 0x1000);
	EQ(k->s.rip, 0);
	u8 *hdr = kit_at(k, LOW_REAL_MODE);

	EQ(ld32(hdr + 0x214), 0x1000000);
	EQ(hdr[0x211], 0x81);
	EQ(ld32(hdr + 0x228), LOW_CMDLINE);
	/* int 15h points into the stub, whose map is ours */
	EQ(ld16(kit_at(k, 0x15 * 4 + 2)), LOW_STUB >> 4);
	kit_free(k);
}

TEST(linux_32_bit_kernel_enters_in_protected_mode)
{
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);

	st16(image + 0x236, 0);
	EQ(kit_boot(k, image, len), 0);
	EQ(k->s.cr0 & 0x80000001, 1);
	EQ(k->s.efer, 0);
	EQ(k->s.rip, 0x1000000);
	OK(k->s.seg[SEG_CS].attr & ATTR_DB);
	k->c.entry = BOOT_64;
	EQ(kit_boot(k, image, len), -ENOTSUP);
	kit_free(k);
}

TEST(linux_bad_kernels_each_get_their_own_error)
{
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);

	EQ(kit_boot(k, "#!/bin/sh\n", 10), -ENOEXEC);
	OK(strstr(k->e.text, "not an x86 kernel"));
	EQ(kit_boot(k, image, len - 512), -ENOEXEC);
	OK(strstr(k->e.text, "truncated"));
	EQ(kit_boot(k, image, 600), -ENOEXEC);
	EQ(kit_boot(k, "", 0), -EINVAL);
	OK(strstr(k->e.text, "is empty"));
	st16(image + 0x206, 0x204);
	EQ(kit_boot(k, image, len), -ENOEXEC);
	OK(strstr(k->e.text, "older than 2.06"));
	k->c.kernel = "/";
	EQ(boot_load(&k->c, &k->m, &k->s, &k->e), -EISDIR);
	k->c.kernel = "/nonexistent";
	EQ(boot_load(&k->c, &k->m, &k->s, &k->e), -ENOENT);
	k->c.kernel = NULL;
	EQ(boot_load(&k->c, &k->m, &k->s, &k->e), -EINVAL);
	kit_free(k);
}

TEST(linux_kernel_bigger_than_memory_is_refused_with_advice)
{
	struct kit *k = kit_new(16);
	size_t len = kit_bzimage(image, 4096);

	EQ(kit_boot(k, image, len), -ENOMEM);
	OK(strstr(k->e.text, "24 MiB"));
	kit_free(k);
}

TEST(linux_command_line_too_long_for_the_kernel_is_refused)
{
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);
	char *words = malloc(BOOT_CMDLINE_MAX + 1);

	memset(words, 'x', BOOT_CMDLINE_MAX);
	words[BOOT_CMDLINE_MAX] = 0;
	k->c.cmdline = words;
	EQ(kit_boot(k, image, len), -E2BIG);
	words[2100] = 0;
	EQ(kit_boot(k, image, len), -E2BIG);
	OK(strstr(k->e.text, "2047"));
	words[2000] = 0;
	EQ(kit_boot(k, image, len), 0);
	free(words);
	kit_free(k);
}

TEST(linux_cmdline_defaults_give_way_to_the_users_words)
{
	struct boot_config c = { .serial_ports = 1, .nr_disks = 1 };
	char buf[200];

	EQ(boot_cmdline(buf, sizeof buf, &c), 39);
	OK(!strcmp(buf, "console=ttyS0 panic=-1 root=/dev/vda rw"));
	c.cmdline = "root=LABEL=x panic=5";
	EQ(boot_cmdline(buf, sizeof buf, &c), (int)strlen(buf));
	OK(!strcmp(buf, "console=ttyS0 root=LABEL=x panic=5"));
	c.cmdline = "nroot=1";
	boot_cmdline(buf, sizeof buf, &c);
	OK(strstr(buf, "root=/dev/vda"));
	EQ(boot_cmdline(buf, 20, &c), -ENOSPC);
}

TEST(linux_cmdline_names_virtio_devices_when_acpi_is_off)
{
	struct boot_config c = { .cmdline = "acpi=off", .nr_slots = 1,
				 .slot = { { 0xc0001000, 0x1000, 16 } } };
	char buf[200];

	boot_cmdline(buf, sizeof buf, &c);
	OK(strstr(buf, "virtio_mmio.device=4096@0xc0001000:16 acpi=off"));
}

/* --- the payload ------------------------------------------------------------------------------ */
/* A bzImage whose payload is a gzipped ELF with relocation lists. */
enum { ELF_OFF = 0x200000, ELF_CODE = 0x3000 };

static size_t kaslr_image(u8 *out, const u32 *lists, size_t n)
{
	u8 *elf = malloc(ELF_OFF + ELF_CODE + n * 4);
	size_t len = kit_elf(elf, ELF_OFF, ELF_CODE);
	z_stream z = { 0 };

	st64(elf + ELF_OFF + 0x10, 0xffffffff81000123);
	st32(elf + ELF_OFF + 0x20, 0x81000456);
	st32(elf + ELF_OFF + 0x30, (u32)-0x1000);
	memcpy(elf + len, lists, n * 4);
	len += n * 4;
	kit_bzimage(out, 64 << 10);
	z.next_in = elf, z.avail_in = (u32)len;
	z.next_out = out + KIT_SETUP + 0x400, z.avail_out = 60 << 10;
	OK(deflateInit2(&z, 9, Z_DEFLATED, 31, 9, Z_DEFAULT_STRATEGY) == Z_OK);
	OK(deflate(&z, Z_FINISH) == Z_STREAM_END);
	st32(out + 0x248, 0x400);
	st32(out + 0x24c, (u32)z.total_out);
	deflateEnd(&z);
	free(elf);
	return KIT_SETUP + (64 << 10);
}

static const u32 three_lists[] = { 0, 0x81000010, 0, 0x81000030, 0, 0x81000020 };

TEST(linux_payload_is_unpacked_to_its_place_without_kaslr)
{
	struct kit *k = kit_new(64);
	size_t len = kaslr_image(image, three_lists, 6);

	k->c.cmdline = "nokaslr";
	EQ(kit_boot(k, image, len), 0);
	EQ(k->s.rip, 0x1000000);
	EQ(*kit_at(k, 0x1000000), 0x90);
	EQ(ld64(kit_at(k, 0x1000010)), 0xffffffff81000123);
	EQ(ld32(kit_at(k, 0x1000000 + ELF_CODE)), 0); /* bss: where the lists were */
	EQ(kit_at(k, LOW_ZERO_PAGE)[0x211] & 2, 0);
	kit_free(k);
}

TEST(linux_kaslr_moves_code_and_fixes_every_list)
{
	u64 seen = 0;

	for (int i = 0; i < 8; i++) {
		struct kit *k = kit_new(256);
		size_t len = kaslr_image(image, three_lists, 6);

		EQ(kit_boot(k, image, len), 0);
		u64 at = k->s.rip, shift = ld64(kit_at(k, at + 0x10)) - 0xffffffff81000123;

		EQ(at % (2 * MIB), 0);
		OK(at >= 16 * MIB && at < 248 * MIB);
		EQ(shift % (2 * MIB), 0);
		OK(shift < GIB);
		EQ(ld32(kit_at(k, at + 0x20)), 0x81000456 + (u32)shift);
		EQ(ld32(kit_at(k, at + 0x30)), (u32)-0x1000 - (u32)shift);
		EQ(kit_at(k, LOW_ZERO_PAGE)[0x211] & 2, 2);
		seen |= shift | at;
		kit_free(k);
	}
	OK(seen & (seen - 1)); /* eight times the same place and shift would be no chance */
}

TEST(linux_kaslr_takes_lists_without_the_inverse_one)
{
	static const u32 two[] = { 0, 0x81000010, 0, 0x81000020 };
	struct kit *k = kit_new(256);
	size_t len = kaslr_image(image, two, 4);

	EQ(kit_boot(k, image, len), 0);
	u64 shift = ld64(kit_at(k, k->s.rip + 0x10)) - 0xffffffff81000123;

	EQ(ld32(kit_at(k, k->s.rip + 0x20)), 0x81000456 + (u32)shift);
	EQ(ld32(kit_at(k, k->s.rip + 0x30)), (u32)-0x1000);
	kit_free(k);
}

TEST(linux_damaged_relocations_leave_the_kernel_to_unpack_itself)
{
	static const u32 outside[] = { 0, 0x81000010, 0, 0x81000030, 0, 0x80000020 };
	static const u32 unclosed[] = { 0x81000010, 0, 0x81000030, 0x81000020 };
	struct kit *k = kit_new(256);
	size_t len = kaslr_image(image, outside, 6);

	EQ(kit_boot(k, image, len), 0);
	EQ(k->s.rip, 0x1000200);
	len = kaslr_image(image, unclosed, 4);
	EQ(kit_boot(k, image, len), 0);
	EQ(k->s.rip, 0x1000200);
	kit_free(k);
}

TEST(linux_damaged_payload_leaves_the_kernel_to_unpack_itself)
{
	struct kit *k = kit_new(64);
	size_t len = kaslr_image(image, three_lists, 6);

	memset(image + KIT_SETUP + 0x420, 0xff, 64);
	EQ(kit_boot(k, image, len), 0);
	EQ(k->s.rip, 0x1000200);
	kit_free(k);
}

TEST(linux_small_memory_gets_the_kernel_below_its_linked_place)
{
	struct kit *k = kit_new(16);
	size_t len = kaslr_image(image, three_lists, 6);

	st32(image + 0x248 + 4, ld32(image + 0x24c)); /* unpacked size sits in gzip's own trailer */
	EQ(kit_boot(k, image, len), 0);
	EQ(k->s.rip, 4 * MIB);
	kit_free(k);
}

TEST(linux_pvh_and_reset_vector_are_not_disturbed_by_tables)
{
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);

	EQ(kit_boot(k, image, len), 0);
	EQ(*kit_at(k, 0xffff0), 0xb0);
	OK(!memcmp(kit_at(k, LOW_RSDP), "RSD PTR ", 8));
	OK(!memcmp(kit_at(k, LOW_MP), "_MP_", 4));
	EQ(ld16(kit_at(k, 0x413)), 639);
	kit_free(k);
}
