/* Tests of boot/drivers.c: which transports of virtio a kernel and its initrd can use. */
#include "bootkit.h"

#include <zlib.h>

enum { ARCHIVE_MAX = 6 << 20, BOTH = DRIVER_MMIO | DRIVER_PCI };
static u8 archive[ARCHIVE_MAX], packed[ARCHIVE_MAX], kernel[KIT_BZIMAGE_MAX];
#define LNRO0005 0x353030304f524e4cull
#define VIRTIO_ANY 0xffffffff00001af4ull

/* A member of a cpio archive behind `at`; the end of it. */
static size_t member(u8 *p, size_t at, const char *name, u32 bytes)
{
	char head[120];
	size_t n = strlen(name) + 1;

	snprintf(head, sizeof head, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 1,
		 0x81a4, 0, 0, 1, 0, bytes, 0, 0, 0, 0, (u32)n, 0);
	memcpy(p + at, head, 110);
	memcpy(p + at + 110, name, n);
	at = ALIGN_UP(at + 110 + n, 4);
	memset(p + at, 0x5a, bytes);
	return ALIGN_UP(at + bytes, 4);
}

static size_t pack(const u8 *src, size_t n, u8 *dst)
{
	z_stream z = { .next_in = (u8 *)src, .avail_in = (uInt)n, .next_out = dst,
		       .avail_out = ARCHIVE_MAX };

	OK(deflateInit2(&z, 1, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
	OK(deflate(&z, Z_FINISH) == Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

/* What boot_drivers says of a kernel without drivers and this initrd. */
static u32 look(const u8 *initrd, size_t len)
{
	struct kit *k = kit_new(64);
	size_t n = kit_elf(kernel, 0x1000, 0x2000);
	u32 found;

	k->c.kernel = kit_file(kernel, n);
	k->c.initrd = kit_file(initrd, len);
	EQ(boot_files_open(&k->c, &k->e), 0);
	found = boot_drivers(&k->c, &k->m);
	boot_files_close(&k->c);
	kit_free(k);
	return found;
}

/* An archive of a file, the module if it has a name, and another file of `bytes`. */
static size_t archive_with(const char *module, u32 bytes)
{
	size_t n = member(archive, 0, "bin/busybox", 12345);

	if (module)
		n = member(archive, n, module, 100);
	n = member(archive, n, "last", bytes);
	return member(archive, n, "TRAILER!!!", 0);
}

TEST(drivers_are_modules_of_the_initrd)
{
	static const struct {
		const char *name;
		u32 found;
	} cases[] = {
		{ "modules/07-virtio_mmio.ko", DRIVER_MMIO },
		{ "lib/modules/6.1/kernel/drivers/virtio/virtio_mmio.ko.zst", DRIVER_MMIO },
		{ "lib/modules/6.1/kernel/drivers/virtio/virtio_pci.ko", DRIVER_PCI },
		{ "lib/modules/6.1/kernel/drivers/virtio/virtio_pci_modern_dev.ko", 0 },
		{ NULL, 0 },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		size_t n = archive_with(cases[i].name, 100);

		EQ(look(archive, n), cases[i].found);
		EQ(look(packed, pack(archive, n, packed)), cases[i].found);
	}
}

/* As distributions do it: microcode first, not compressed. */
TEST(drivers_are_found_behind_an_archive_in_front)
{
	size_t n = archive_with("virtio_mmio.ko", 100), at = member(packed, 0, "microcode", 999);
	static u8 all[ARCHIVE_MAX];

	at = member(packed, at, "TRAILER!!!", 0);
	memset(packed + at, 0, 512);
	memcpy(all, packed, at + 300);
	EQ(look(all, at + 300 + pack(archive, n, all + at + 300)), DRIVER_MMIO);
}

TEST(drivers_that_nobody_can_tell_are_pci)
{
	size_t n = archive_with(NULL, 5 << 20), len = pack(archive, n, packed);

	EQ(look(packed, len), DRIVER_PCI);  /* longer than is looked at */
	n = archive_with(NULL, 100);
	len = pack(archive, n, packed);
	EQ(look(packed, len - 9), DRIVER_PCI);
	EQ(look((const u8 *)"BZh91AY&SY", 10), DRIVER_PCI);
	memset(archive, 0, ARCHIVE_MAX);
	EQ(look(archive, ARCHIVE_MAX), DRIVER_PCI);
	EQ(look(archive, 1000), 0);
}

TEST(drivers_survive_a_damaged_initrd)
{
	for (int i = 0; i < 300; i++) {
		size_t n = archive_with("virtio_mmio.ko", 100);
		u8 *p = archive;

		if (i % 2) {
			n = pack(archive, n, packed);
			p = packed;
		}
		for (int hits = 1 + (int)(test_random() % 8); hits; hits--)
			p[test_random() % n] = (u8)test_random();
		OK(look(p, n - test_random() % n) <= BOTH);
	}
}

TEST(drivers_built_in_are_known_by_what_they_match)
{
	u64 image[64] = { 0 };

	EQ(drivers_in_kernel((u8 *)image, sizeof image), 0);
	image[20] = VIRTIO_ANY;
	EQ(drivers_in_kernel((u8 *)image, sizeof image), 0);
	image[21] = UINT64_MAX;
	EQ(drivers_in_kernel((u8 *)image, sizeof image), DRIVER_PCI);
	image[40] = LNRO0005;
	EQ(drivers_in_kernel((u8 *)image, sizeof image), BOTH);
	EQ(drivers_in_kernel((u8 *)image, 40 * 8), DRIVER_PCI);
}

/* A bzImage is unpacked once, and boots as if nobody had looked. */
TEST(drivers_in_a_bzimage_and_then_it_is_loaded)
{
	static u8 elf[0x200000 + 0x3000];
	struct kit *k = kit_new(64);
	size_t len = kit_elf(elf, 0x200000, 0x3000), n;

	st64(elf + 0x200000 + 0x1000, LNRO0005);
	kit_bzimage(kernel, 64 << 10);
	n = pack(elf, len, kernel + KIT_SETUP + 0x400);
	OK(n < 60 << 10);
	st32(kernel + 0x248, 0x400);
	st32(kernel + 0x24c, (u32)n);
	k->c.kernel = kit_file(kernel, KIT_SETUP + (64 << 10));
	EQ(boot_files_open(&k->c, &k->e), 0);
	EQ(boot_drivers(&k->c, &k->m), DRIVER_MMIO);
	OK(k->c.unpacked);
	cpu_state_reset(&k->s, true);
	EQ(boot_load(&k->c, &k->m, &k->s, &k->e), 0);
	EQ(k->s.rip, k->c.vmlinux.entry);
	EQ(ld64(kit_at(k, k->s.rip + 0x1000)), LNRO0005);
	OK(!k->c.unpacked);
	k->c.entry = BOOT_16; /* its own affair */
	EQ(boot_drivers(&k->c, &k->m), DRIVER_PCI);
	boot_files_close(&k->c);
	kit_free(k);
}
