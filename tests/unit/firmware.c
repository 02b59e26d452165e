/* Tests of boot/firmware.c and of what the other files of boot/ put into it: read as firmware
 * does. */
#include "../../devices/fwcfg.h"
#include "bootkit.h"

enum { HIGH = 0x300000, FSEG = 0xf1000 };

static u8 image[64 << 10];

static struct kit *firmware_kit(const void *kernel, size_t len)
{
	struct kit *k = kit_new(64);

	k->c.bios = "unused";
	k->c.kernel = kernel ? kit_file(kernel, len) : NULL;
	k->c.has_fw_cfg = true;
	k->c.nr_disks = 2;
	k->c.nr_slots = 2;
	k->c.slot[0] = (struct boot_slot){ 0xc0001000, 0x1000, 16 };
	k->c.slot[1] = (struct boot_slot){ 0xc0002000, 0x1000, 17 };
	return k;
}

static struct firmware *firmware_of(struct kit *k)
{
	struct firmware *f = firmware_new(&k->c, &k->m, &k->e);

	if (!f)
		test_fail(__FILE__, __LINE__, "%s", k->e.text);
	return f;
}

static const struct fwcfg_item *item(struct firmware *f, u16 key)
{
	const struct fwcfg_setup *s = firmware_setup(f);

	for (u32 i = 0; i < s->n; i++)
		if (s->item[i].key == key)
			return &s->item[i];
	return NULL;
}

static u32 number(struct firmware *f, u16 key)
{
	const struct fwcfg_item *i = item(f, key);

	return i && i->len == 4 ? ld32(i->data) : 0;
}

static const struct fwcfg_item *file(struct firmware *f, const char *name)
{
	const u8 *dir = item(f, FWCFG_FILE_DIR)->data;

	for (u32 i = 0; i < __builtin_bswap32(ld32(dir)); i++) {
		const u8 *entry = dir + 4 + i * FWCFG_DIR_ENTRY_BYTES;
		const struct fwcfg_item *it = item(f, __builtin_bswap16(ld16(entry + 4)));

		if (strcmp((const char *)entry + 8, name))
			continue;
		EQ(it->len, __builtin_bswap32(ld32(entry)));
		return it;
	}
	return NULL;
}

/* --- the loader's script, as firmware runs it ------------------------------------------------- */
static gpa_t place_of(const u8 *name)
{
	return !strcmp((const char *)name, "etc/acpi/rsdp") ? FSEG : HIGH;
}

static void run_command(struct kit *k, struct firmware *f, const u8 *cmd)
{
	const u8 *name = cmd + 4, *arg = cmd + 60;
	u8 *p = kit_at(k, place_of(name)), *field;

	if (ld32(cmd) == 1) {
		const struct fwcfg_item *it = file(f, (const char *)name);

		EQ(arg[4], place_of(name) == FSEG ? 2 : 1);
		memcpy(p, it->data, it->len);
	} else if (ld32(cmd) == 2) {
		field = p + ld32(arg + 56);
		if (arg[60] == 8)
			st64(field, ld64(field) + place_of(arg));
		else
			st32(field, ld32(field) + (u32)place_of(arg));
	} else {
		EQ(ld32(cmd), 3);
		p[ld32(arg)] += boot_checksum(p + ld32(arg + 4), ld32(arg + 8));
	}
}

static void check_table(struct kit *k, gpa_t at, const char *signature)
{
	const u8 *p = kit_at(k, at);

	OK(!signature || !memcmp(p, signature, 4));
	EQ(boot_checksum(p, ld32(p + 4)), 0);
}

TEST(firmware_tables_are_right_wherever_firmware_puts_them)
{
	struct kit *k = firmware_kit(NULL, 0);
	struct firmware *f = firmware_of(k);
	const struct fwcfg_item *script = file(f, "etc/table-loader");
	const u8 *rsdp, *xsdt, *rsdt;

	EQ(script->len % 128, 0);
	for (u64 i = 0; i < script->len; i += 128)
		run_command(k, f, script->data + i);
	rsdp = kit_at(k, FSEG);
	OK(!memcmp(rsdp, "RSD PTR ", 8));
	EQ(boot_checksum(rsdp, 20), 0);
	EQ(boot_checksum(rsdp, 36), 0);
	check_table(k, ld64(rsdp + 24), "XSDT");
	check_table(k, ld32(rsdp + 16), "RSDT");
	xsdt = kit_at(k, ld64(rsdp + 24));
	rsdt = kit_at(k, ld32(rsdp + 16));
	EQ(ld32(xsdt + 4), 36 + 2 * 8);
	for (u32 i = 0; i < 2; i++) {
		check_table(k, ld64(xsdt + 36 + i * 8), NULL);
		EQ(ld64(xsdt + 36 + i * 8), ld32(rsdt + 36 + i * 4));
	}
	const u8 *fadt = kit_at(k, ld64(xsdt + 36));

	check_table(k, ld32(fadt + 40), "DSDT");
	check_table(k, ld64(fadt + 140), "DSDT");
	OK(!memcmp(kit_at(k, ld32(fadt + 36)), "FACS", 4));
	EQ(ld32(fadt + 36) % 64, 0);
	firmware_free(f);
	kit_free(k);
}

TEST(firmware_map_and_boot_order_are_in_the_directory)
{
	struct kit *k = firmware_kit(NULL, 0);
	struct firmware *f = firmware_of(k);
	const struct fwcfg_item *map = file(f, "etc/e820"), *order = file(f, "bootorder");

	EQ(map->len, 2 * 20);
	EQ(ld64(map->data), 0);
	EQ(ld64(map->data + 8), 64 * MIB);
	EQ(ld32(map->data + 16), E820_RAM);
	OK(!strcmp((const char *)order->data, "/virtio-mmio@00000000c0001000/disk@0,0\n"
					      "/virtio-mmio@00000000c0002000/disk@0,0\nHALT"));
	OK(!file(f, KERNEL_ROM) && !item(f, FWCFG_KERNEL_DATA));
	firmware_free(f);
	k->c.pci.present = true;
	f = firmware_of(k);
	order = file(f, "bootorder");
	OK(!strcmp((const char *)order->data, "/pci@i0cf8/scsi@1/disk@0,0\n"
					      "/pci@i0cf8/scsi@2/disk@0,0\nHALT"));
	firmware_free(f);
	kit_free(k);
}

TEST(firmware_smbios_adds_up)
{
	struct kit *k = firmware_kit(NULL, 0);
	struct firmware *f = firmware_of(k);
	const struct fwcfg_item *anchor = file(f, "etc/smbios/smbios-anchor");
	const struct fwcfg_item *table = file(f, "etc/smbios/smbios-tables");
	u32 at = 0, n = 0, longest = 0, last = 0;

	EQ(anchor->len, 31);
	EQ(table->data[0], 1); /* of no UUID */
	for (u32 i = 8; i < 24; i++)
		EQ(table->data[i], 0);
	EQ(boot_checksum(anchor->data, 31), 0);
	EQ(boot_checksum(anchor->data + 16, 15), 0);
	EQ(ld16(anchor->data + 22), table->len);
	while (at < table->len) {
		u32 start = at;

		last = table->data[at];
		at += table->data[at + 1];
		while (table->data[at] || table->data[at + 1])
			at++;
		at += 2;
		longest = MAX(longest, at - start);
		n++;
	}
	EQ(at, table->len);
	EQ(last, 127);
	EQ(n, ld16(anchor->data + 28));
	EQ(longest, ld16(anchor->data + 8));
	firmware_free(f);
	kit_free(k);
}

TEST(firmware_kernel_is_split_and_its_setup_filled_in)
{
	size_t len = kit_bzimage(image, 32 << 10);
	struct kit *k = firmware_kit(image, len);
	u8 initrd[5000] = { 1 }, back[2] = { 0 };
	struct firmware *f;
	const u8 *setup;

	k->c.initrd = kit_file(initrd, sizeof initrd);
	k->c.cmdline = "a b";
	f = firmware_of(k);
	setup = item(f, FWCFG_SETUP_DATA)->data;
	EQ(number(f, FWCFG_SETUP_SIZE), KIT_SETUP);
	EQ(number(f, FWCFG_KERNEL_SIZE), 32 << 10);
	EQ(number(f, FWCFG_KERNEL_ADDR), 0x100000);
	EQ(item(f, FWCFG_KERNEL_DATA)->off, KIT_SETUP);
	OK(pread(item(f, FWCFG_KERNEL_DATA)->fd, back, 1, KIT_SETUP) == 1);
	EQ(back[0], 0xc0);
	EQ(ld32(setup + 0x218), number(f, FWCFG_INITRD_ADDR));
	EQ(ld32(setup + 0x21c), sizeof initrd);
	OK(number(f, FWCFG_INITRD_ADDR) + sizeof initrd <= 63 * MIB); /* the rest is firmware's */
	OK(number(f, FWCFG_INITRD_ADDR) >= 24 * MIB);
	EQ(ld32(setup + 0x228), number(f, FWCFG_CMDLINE_ADDR));
	EQ(number(f, FWCFG_CMDLINE_SIZE), item(f, FWCFG_CMDLINE_DATA)->len);
	OK(strstr((const char *)item(f, FWCFG_CMDLINE_DATA)->data, "a b"));
	OK(setup[0x210] && setup[0x211] & 0x80);
	OK(!strncmp((const char *)file(f, "bootorder")->data, "/rom@genroms/kernel.rom\n", 24));
	firmware_free(f);
	kit_free(k);
}

TEST(firmware_kernel_rom_is_a_boot_entry)
{
	size_t len = kit_bzimage(image, 4096);
	struct kit *k = firmware_kit(image, len);
	struct firmware *f = firmware_of(k);
	const struct fwcfg_item *rom = file(f, KERNEL_ROM);
	u32 pnp = ld16(rom->data + 0x1a);

	EQ(ld16(rom->data), 0xaa55);
	EQ(rom->data[2] * 512, rom->len);
	EQ(boot_checksum(rom->data, 512), 0);
	OK(!memcmp(rom->data + pnp, "$PnP", 4));
	OK(ld16(rom->data + pnp + 0x1a) > pnp && ld16(rom->data + pnp + 0x1a) < 512);
	OK(!strcmp((const char *)rom->data + ld16(rom->data + pnp + 16), "Linux kernel"));
	firmware_free(f);
	kit_free(k);
}

TEST(firmware_user_files_come_first_and_replace_ours)
{
	static const struct fw_file files[] = { { .name = "opt/t", .text = "text" },
						{ .name = "bootorder", .text = "HALT" } };
	struct kit *k = firmware_kit(NULL, 0);
	struct firmware *f;

	k->c.fw_file = files;
	k->c.fw_files = 2;
	f = firmware_of(k);
	EQ(file(f, "opt/t")->len, 4);
	EQ(file(f, "bootorder")->len, 4);
	firmware_free(f);
	k->c.bios = NULL; /* a kernel of ours: only what the user gave */
	f = firmware_of(k);
	OK(file(f, "opt/t") && !file(f, "etc/e820"));
	firmware_free(f);
	kit_free(k);
}

static void check_refused(struct kit *k, int code, const char *words)
{
	OK(!firmware_new(&k->c, &k->m, &k->e));
	EQ(k->e.code, code);
	OK(strstr(k->e.text, words));
}

TEST(firmware_refuses_what_it_cannot_load)
{
	static const struct fw_file twice[] = { { .name = "opt/t", .text = "" },
						{ .name = "opt/t", .text = "" } };
	static const struct fw_file missing = { .name = "opt/t", .path = "/nowhere/at/all" };
	size_t len = kit_elf(image, 4096, 4096);
	struct kit *k = firmware_kit(image, len);

	check_refused(k, -ENOEXEC, "not a bzImage");
	k->c.kernel = NULL;
	k->c.fw_file = twice;
	k->c.fw_files = 2;
	check_refused(k, -EEXIST, "twice");
	k->c.fw_file = &missing;
	k->c.fw_files = 1;
	check_refused(k, -ENOENT, "cannot open");
	k->c.fw_files = 0;
	len = kit_bzimage(image, 4096);
	st32(image + 0x260, 48 << 20); /* it unpacks into 48 MiB from 16 */
	k->c.kernel = kit_file(image, len);
	check_refused(k, -ENOMEM, "--mem");
	kit_free(k);
}
