/* drivers.c - which of virtio's transports a kernel and its initrd have drivers for, as far as that
 * can be told for less than a PCI bus would cost the guest.  Set-up only, single-threaded.
 *
 * Built-in drivers are known by the tables of devices that they match, modules by their names in
 * the initrd.  What cannot be looked into counts as having PCI's, as kernels of all ages do.
 * Sources: Linux drivers/virtio/virtio_mmio.c (virtio_mmio_acpi_match), virtio_pci_common.c
 * (virtio_pci_id_table), init/initramfs.c, and
 * Documentation/driver-api/early-userspace/buffer-format.rst. */
#include "parts.h"

#include <sys/mman.h>

/* Of the unpacked initrd: 15 ms for gzip; a PCI bus takes the software CPU 17. */
#define LOOK_BYTES (4 * MIB)

/* --- in a kernel ------------------------------------------------------------------------------ */
#define ACPI_ID_MMIO 0x353030304f524e4cull     /* "LNRO0005" in struct acpi_device_id */
#define PCI_ID_VENDOR_ANY 0xffffffff00001af4ull /* struct pci_device_id: vendor, any device, */
#define PCI_ID_ANY_ANY UINT64_MAX              /* any subsystem */

u32 drivers_in_kernel(const u8 *image, u64 len)
{
	const u64 *word = (const u64 *)image;
	u32 found = 0;

	ASSERT((uintptr_t)image % sizeof *word == 0);
	for (u64 i = 0; i + 1 < len / sizeof *word; i++) {
		if (unlikely(word[i] == ACPI_ID_MMIO))
			return found | DRIVER_MMIO;
		if (unlikely(word[i] == PCI_ID_VENDOR_ANY) && word[i + 1] == PCI_ID_ANY_ANY)
			found |= DRIVER_PCI;
	}
	return found;
}

/* --- in an initrd ----------------------------------------------------------------------------- */
enum { CPIO_HEAD = 110, CPIO_FILE_SIZE = 54, CPIO_NAME_SIZE = 94 };

/* Eight digits, as they stand in a member's head. */
static u32 hex8(const u8 *p)
{
	u32 n = 0;

	for (int i = 0; i < 8; i++)
		n = n << 4 | ((p[i] & 15u) + (p[i] > '9' ? 9 : 0));
	return n;
}

static u32 driver_named(const u8 *name, u32 len)
{
	return (memmem(name, len, "virtio_mmio.ko", 14) ? DRIVER_MMIO : 0) |
	       (memmem(name, len, "virtio_pci.ko", 13) ? DRIVER_PCI : 0);
}

/* Archives one after the other, with zeros between; returns where something else begins. */
static u64 cpio_walk(const u8 *p, u64 len, u32 *found)
{
	u64 at = 0, zeros = 0;

	while (at < len) {
		u32 name_len;

		if (!p[at] && zeros++ < LOOK_BYTES) {
			at++;
			continue;
		}
		if (at % 4 || len - at < CPIO_HEAD || memcmp(p + at, "07070", 5))
			break;
		name_len = hex8(p + at + CPIO_NAME_SIZE);
		if (name_len > len - at - CPIO_HEAD)
			break;
		*found |= driver_named(p + at + CPIO_HEAD, name_len);
		at = ALIGN_UP(at + CPIO_HEAD + name_len, 4) +
		     ALIGN_UP((u64)hex8(p + at + CPIO_FILE_SIZE), 4);
	}
	return at;
}

/* What is behind the archives that are not compressed.  If it breaks off or is too long, its
 * beginning has been unpacked. */
static u32 drivers_in_packed(struct boot_heap *heap, const u8 *p, u64 len)
{
	u8 *dst = boot_alloc(heap, LOOK_BYTES);
	s64 n = payload_unpack(heap, p, len, dst, LOOK_BYTES);
	u32 found = 0;

	if ((n < 0 && !dst[0]) || cpio_walk(dst, n < 0 ? LOOK_BYTES : (u64)n, &found) != (u64)n)
		found |= DRIVER_PCI;
	return found;
}

u32 drivers_in_initrd(struct boot_heap *heap, const struct file *f)
{
	u32 found = 0;
	u64 at;
	u8 *p;

	if (!f->path)
		return 0;
	p = mmap(NULL, f->len, PROT_READ, MAP_PRIVATE, f->fd, 0);
	if (p == MAP_FAILED)
		return DRIVER_PCI;
	at = cpio_walk(p, f->len, &found);
	if (at < f->len && !(found & DRIVER_MMIO))
		found |= drivers_in_packed(heap, p + at, f->len - at);
	munmap(p, f->len);
	return found;
}
