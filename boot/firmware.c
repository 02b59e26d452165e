/* firmware.c - what the firmware configuration device (devices/fwcfg.c) holds: the memory map, ACPI
 * and SMBIOS tables, the boot order, a kernel for firmware to load, and the user's own files.
 *
 * Set-up only.  Host files are opened here and kept open; the device reads them when the guest
 * asks.
 * Sources: QEMU docs/specs/fw_cfg.rst; SeaBIOS src/fw/paravirt.c, src/boot.c and
 * docs/Runtime_config.md for which files firmware looks for. */
#include "parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../devices/fwcfg.h"

enum { ITEMS_MAX = 64, FILES_MAX = 32, E820_ENTRY_BYTES = 20 };
enum { FIRMWARE_TOP = MIB }; /* of low RAM: where firmware keeps its tables and data */

struct firmware {
	struct fwcfg_setup setup;
	struct fwcfg_item item[ITEMS_MAX]; /* owns data or fd of each */
	u32 files;
	u8 dir[4 + FILES_MAX * FWCFG_DIR_ENTRY_BYTES];
	bool failed; /* no host memory for an item */
};

/* --- items ------------------------------------------------------------------------------------ */
static struct fwcfg_item *item_new(struct firmware *f, u16 key, u64 len)
{
	struct fwcfg_item *item = &f->item[f->setup.n++];

	ASSERT(f->setup.n <= ITEMS_MAX);
	*item = (struct fwcfg_item){ .key = key, .len = len, .fd = -1 };
	return item;
}

static void add(struct firmware *f, u16 key, const void *data, size_t len)
{
	u8 *copy = malloc(MAX(len, 1));

	item_new(f, key, len)->data = copy;
	if (copy)
		memcpy(copy, data, len);
	f->failed |= !copy;
}

static void add_u16(struct firmware *f, u16 key, u16 val)
{
	add(f, key, &val, sizeof val);
}

static void add_u32(struct firmware *f, u16 key, u32 val)
{
	add(f, key, &val, sizeof val);
}

/* Takes the descriptor over. */
static void add_fd(struct firmware *f, u16 key, int fd, u64 off, u64 len)
{
	struct fwcfg_item *item = item_new(f, key, len);

	item->fd = fd;
	item->off = off;
}

/* --- files ------------------------------------------------------------------------------------ */
static bool has_file(const struct firmware *f, const char *name)
{
	for (u32 i = 0; i < f->files; i++)
		if (!strcmp((const char *)f->dir + 4 + i * FWCFG_DIR_ENTRY_BYTES + 8, name))
			return true;
	return false;
}

/* The new file's key: an entry of the directory is size, key (both big-endian), 0, name. */
static u16 file_new(struct firmware *f, const char *name, u64 len)
{
	u8 *entry = f->dir + 4 + f->files * FWCFG_DIR_ENTRY_BYTES;
	u16 key = (u16)(FWCFG_FILE_FIRST + f->files++);

	ASSERT(f->files <= FILES_MAX && strlen(name) < FWCFG_NAME_MAX);
	st32(entry, __builtin_bswap32((u32)len));
	st16(entry + 4, __builtin_bswap16(key));
	boot_put_text(entry + 8, name);
	return key;
}

/* The user's files come first and win. */
void firmware_add_file(struct firmware *f, const char *name, const void *data, size_t len)
{
	if (!has_file(f, name))
		add(f, file_new(f, name, len), data, len);
}

static int add_user_files(struct firmware *f, const struct boot_config *c, struct err *e)
{
	for (u32 i = 0; i < c->fw_files; i++) {
		const struct fw_file *u = &c->fw_file[i];
		int fd, rc;
		u64 len;

		if (has_file(f, u->name))
			return err_set(e, -EEXIST, "fw_cfg %s: is given twice; leave one out",
				u->name);
		if (u->text) {
			firmware_add_file(f, u->name, u->text, strlen(u->text));
			continue;
		}
		rc = boot_open("fw_cfg", u->path, &fd, &len, e);
		if (rc < 0)
			return rc;
		add_fd(f, file_new(f, u->name, len), fd, 0, len);
	}
	return 0;
}

/* RAM as it is, and what nobody may use: firmware takes its own share from both. */
static void add_e820(struct firmware *f, const struct boot_config *c, const struct memory *m)
{
	struct e820 map;
	u8 file[E820_MAX * E820_ENTRY_BYTES];

	e820_build_bare(&map, m, &c->pci);
	for (u32 i = 0; i < map.n; i++) {
		st64(file + i * E820_ENTRY_BYTES, map.entry[i].addr);
		st64(file + i * E820_ENTRY_BYTES + 8, map.entry[i].len);
		st32(file + i * E820_ENTRY_BYTES + 16, map.entry[i].type);
	}
	firmware_add_file(f, "etc/e820", file, map.n * E820_ENTRY_BYTES);
}

/* The kernel, then the disks as given, then nothing: Open Firmware paths, as SeaBIOS's boot.c forms
 * them.  Disks take the first slots of their bus. */
static void add_boot_order(struct firmware *f, const struct boot_config *c)
{
	char text[BOOT_SLOTS_MAX * 64];
	size_t n = 0;

	if (c->kernel)
		n = (size_t)snprintf(text, sizeof text, "/rom@%s\n", KERNEL_ROM);
	for (u32 i = 0; i < c->nr_disks; i++)
		n += (size_t)(c->pci.present ?
			snprintf(text + n, sizeof text - n, "/pci@i0cf8/scsi@%x/disk@0,0\n",
				i + 1) :
			snprintf(text + n, sizeof text - n, "/virtio-mmio@%016llx/disk@0,0\n",
				 (unsigned long long)c->slot[i].base));
	n += (size_t)snprintf(text + n, sizeof text - n, "HALT");
	firmware_add_file(f, "bootorder", text, n + 1);
}

/* --- a kernel for firmware to load ------------------------------------------------------------ */
static int add_initrd(struct firmware *f, struct loader *l, u64 floor, u64 limit, struct err *e)
{
	int fd, rc;

	if (!l->c->initrd)
		return 0;
	rc = boot_open("initrd", l->c->initrd, &fd, &l->initrd_len, e);
	if (rc < 0)
		return rc;
	add_fd(f, FWCFG_INITRD_DATA, fd, 0, l->initrd_len);
	rc = boot_choose_initrd(l, floor, limit, e);
	add_u32(f, FWCFG_INITRD_ADDR, (u32)l->initrd);
	add_u32(f, FWCFG_INITRD_SIZE, (u32)l->initrd_len);
	return rc;
}

static int add_bzimage(struct firmware *f, struct loader *l, struct err *e)
{
	struct linux_header h;
	int rc = linux_check_for_firmware(l, &h, e);

	if (rc == 0)
		rc = add_initrd(f, l, h.pref_address + h.init_size, (u64)h.initrd_max + 1, e);
	if (rc < 0)
		return rc;
	add(f, FWCFG_SETUP_DATA, l->kernel.data, h.setup_len);
	if (!f->failed)
		linux_finish_setup(l, (u8 *)f->item[f->setup.n - 1].data);
	add_u32(f, FWCFG_SETUP_ADDR, LOW_REAL_MODE);
	add_u32(f, FWCFG_SETUP_SIZE, h.setup_len);
	add_fd(f, FWCFG_KERNEL_DATA, l->kernel.fd, h.setup_len, h.code_len);
	l->kernel.fd = -1;
	add_u32(f, FWCFG_KERNEL_ADDR, LINUX_LOAD_HIGH);
	add_u32(f, FWCFG_KERNEL_SIZE, (u32)h.code_len);
	add(f, FWCFG_CMDLINE_DATA, l->cmdline, l->cmdline_len + 1);
	add_u32(f, FWCFG_CMDLINE_ADDR, LOW_CMDLINE);
	add_u32(f, FWCFG_CMDLINE_SIZE, (u32)l->cmdline_len + 1);
	firmware_add_kernel_rom(f, l, &h);
	return 0;
}

static int add_kernel(struct firmware *f, const struct boot_config *c, struct memory *m,
		      struct err *e)
{
	struct loader *l = calloc(1, sizeof *l);
	int rc;

	if (!l)
		return err_set(e, -ENOMEM, "kernel %s: no host memory to load it", c->kernel);
	l->c = c;
	l->m = m;
	l->low_top = m->region[0].bytes - MIN(m->region[0].bytes, FIRMWARE_TOP);
	rc = boot_set_cmdline(l, e);
	if (rc == 0)
		rc = boot_map_file(&l->kernel, "kernel", c->kernel, e);
	if (rc == 0)
		rc = add_bzimage(f, l, e);
	boot_unmap_file(&l->kernel);
	free(l);
	return rc;
}

/* --- all of it -------------------------------------------------------------------------------- */
static void add_numbers(struct firmware *f, const struct boot_config *c, const struct memory *m)
{
	add(f, FWCFG_RAM_SIZE, &m->ram_bytes, sizeof m->ram_bytes);
	add_u16(f, FWCFG_NB_CPUS, (u16)c->nr_vcpus);
	add_u16(f, FWCFG_MAX_CPUS, (u16)c->nr_vcpus);
	add_u16(f, FWCFG_NOGRAPHIC, c->serial_ports > 0); /* SeaBIOS: text goes to COM1 */
	add_u16(f, FWCFG_BOOT_MENU, has_file(f, "etc/boot-menu-wait"));
	add_u32(f, FWCFG_IRQ0_OVERRIDE, 1); /* the timer is on pin 2 */
}

static int firmware_fill(struct firmware *f, const struct boot_config *c, struct memory *m,
			 struct err *e)
{
	int rc = add_user_files(f, c, e);

	if (rc < 0 || !c->bios)
		return rc;
	add_numbers(f, c, m);
	add_e820(f, c, m);
	add_boot_order(f, c);
	smbios_add_files(f, c, m);
	rc = acpi_add_files(f, c, e);
	if (rc == 0 && c->kernel)
		rc = add_kernel(f, c, m, e);
	return rc;
}

struct firmware *firmware_new(const struct boot_config *c, struct memory *m, struct err *e)
{
	struct firmware *f = calloc(1, sizeof *f);
	int rc;

	if (!f) {
		err_set(e, -ENOMEM, "fw_cfg: no host memory");
		return NULL;
	}
	f->setup.item = f->item;
	rc = firmware_fill(f, c, m, e);
	st32(f->dir, __builtin_bswap32(f->files));
	add(f, FWCFG_FILE_DIR, f->dir, 4 + f->files * FWCFG_DIR_ENTRY_BYTES);
	if (rc == 0 && f->failed)
		rc = err_set(e, -ENOMEM, "fw_cfg: no host memory");
	if (rc == 0)
		return f;
	firmware_free(f);
	return NULL;
}

struct fwcfg_setup *firmware_setup(struct firmware *f)
{
	return &f->setup;
}

void firmware_free(struct firmware *f)
{
	for (u32 i = 0; f && i < f->setup.n; i++) {
		free((void *)f->item[i].data);
		if (f->item[i].fd >= 0)
			close(f->item[i].fd);
	}
	free(f);
}
