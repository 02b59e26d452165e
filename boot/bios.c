/* bios.c - boot firmware (SeaBIOS and the like): a ROM whose last byte is the last below 4 GiB, and
 * a writable copy of its end below 1 MiB, as PC chipsets shadow it.  The CPU's power-on state
 * enters it.
 * Source: SeaBIOS src/romlayout.S, docs/Memory_Model.md. */
#include "parts.h"

#define ROM_MIN (64 * KIB)
#define ROM_MAX (8 * MIB)
#define SHADOW_MAX (256 * KIB) /* from 0xc0000: what option ROMs leave */

/* The ROM region: there already after a reset. */
static u8 *rom_region(struct memory *m, u64 bytes, struct err *e)
{
	const struct mem_region *r = mem_find(m, 4 * GIB - bytes);

	if (r && r->rom && r->bytes == bytes)
		return r->host;
	if (memory_add(m, 4 * GIB - bytes, bytes, NULL, true, e) < 0)
		return NULL;
	return mem_ptr(m, 4 * GIB - bytes, bytes);
}

int bios_load(const struct boot_config *c, struct memory *m, struct err *e)
{
	u64 len = c->bios_file.len, shadow = MIN(len, SHADOW_MAX);
	u8 *rom;
	int rc;

	if (len < ROM_MIN || len > ROM_MAX || len % ROM_MIN)
		return err_set(
			e, -EINVAL,
			"bios %s: not a firmware image (a file of 64 KiB to 8 MiB, a multiple "
			"of 64 KiB); try /usr/share/seabios/bios.bin",
			c->bios);
	if (!mem_ptr_rw(m, LOW_END - shadow, shadow))
		return err_set(e, -ENOMEM, "bios %s: needs 1 MiB of memory; give more with --mem",
			       c->bios);
	rom = rom_region(m, len, e);
	if (!rom)
		return e->code;
	rc = file_read_at(c->bios_file.fd, rom, len, 0);
	if (rc < 0)
		return err_set(e, rc, "bios %s: cannot read (%s)", c->bios, strerror(-rc));
	mem_dirty(m, 4 * GIB - len, len);
	mem_write(m, LOW_END - shadow, rom + len - shadow, shadow);
	return 0;
}
