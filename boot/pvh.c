/* pvh.c - the PVH start: hvm_start_info with modules and memory map, 32-bit entry.
 * Source: Xen public/arch-x86/hvm/start_info.h (version 1), docs/misc/pvh.pandoc. */
#include "parts.h"

enum { START_MAGIC = 0x336ec578, START_BYTES = 56, MODULE_BYTES = 32, MEMMAP_BYTES = 24 };
enum { MODULES = LOW_START_INFO + 0x40, MEMMAP = LOW_START_INFO + 0x80 };

static void put_memmap(struct loader *l)
{
	for (u32 i = 0; i < l->map.n; i++) {
		u8 row[MEMMAP_BYTES] = { 0 };

		st64(row, l->map.entry[i].addr);
		st64(row + 8, l->map.entry[i].len);
		st32(row + 16, l->map.entry[i].type); /* the numbers of e820 */
		boot_put(l, MEMMAP + i * MEMMAP_BYTES, row, sizeof row);
	}
}

static void put_start_info(struct loader *l)
{
	u8 p[START_BYTES] = { 0 }, module[MODULE_BYTES] = { 0 };

	st32(p, START_MAGIC);
	st32(p + 4, 1); /* version */
	st32(p + 12, l->initrd_len != 0);
	st64(p + 16, MODULES);
	st64(p + 24, LOW_CMDLINE);
	st64(p + 32, l->rsdp);
	st64(p + 40, MEMMAP);
	st32(p + 48, l->map.n);
	st64(module, l->initrd);
	st64(module + 8, l->initrd_len);
	boot_put(l, LOW_START_INFO, p, sizeof p);
	boot_put(l, MODULES, module, sizeof module);
}

int pvh_start(struct loader *l, const struct elf_image *img, struct err *e)
{
	int rc = boot_load_initrd(l, img->hi, 2 * GIB, e);

	if (rc < 0)
		return rc;
	put_memmap(l);
	put_start_info(l);
	entry_protected(l, img->pvh_entry);
	l->bsp->gpr[RBX] = LOW_START_INFO;
	log_dbg("boot", "ELF kernel, PVH entry at %#x", img->pvh_entry);
	return 0;
}
