/* acpi.c - the ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, MADT, MCFG and a DSDT that names the
 * devices a kernel cannot probe for.  Full hardware ACPI: PM1 registers, PM timer and SCI as
 * devices/chipset.h has them; ACPI mode is always on.
 *
 * They are put at LOW_ACPI, or given to firmware, which places them where it likes: then addresses
 * count from the first table, and a script tells firmware which fields to add its address to.
 * Sources: ACPI 6.4 §5.2 "ACPI System Description Tables", §8.4 "Declaring Processors"; SeaBIOS
 * src/fw/romfile_loader.h for the script. */
#include "parts.h"

#include <stdio.h>
#include <stdlib.h>

#include "../devices/chipset.h"
#include "../devices/fwcfg.h"
#include "aml.h"

enum { TABLES_BYTES = LOW_RSDP - LOW_ACPI, HEAD_BYTES = 36, RSDP_BYTES = 36, RSDP_V1_BYTES = 20 };
enum { RSDP_RSDT = 16, RSDP_XSDT = 24 };
enum { FADT_BYTES = 276, FACS_BYTES = 64 };
enum { SUM_OFF = 9, RSDP_SUM_OFF = 8, RSDP_EXT_SUM_OFF = 32 };

/* FADT "Fixed ACPI Description Table Fixed Feature Flags" */
enum { FADT_WBINVD = 1 << 0, FADT_PROC_C1 = 1 << 2, FADT_SLP_BUTTON = 1 << 5, FADT_FIX_RTC = 1 << 6,
       FADT_TMR_VAL_EXT = 1 << 8, FADT_RESET_REG_SUP = 1 << 10, FADT_HEADLESS = 1 << 12 };
/* FADT "IA-PC Boot Architecture Flags" */
enum { IAPC_LEGACY = 1 << 0, IAPC_8042 = 1 << 1, IAPC_NO_VGA = 1 << 2 };
enum { MADT_PCAT_COMPAT = 1, MADT_ENABLED = 1 };
enum { INTI_ACTIVE_HIGH = 1, INTI_LEVEL = 3 << 2 };
enum { X2APIC_FIRST_ID = 255, ALL_PROCESSORS_8 = 0xff };

enum { LIST_MAX = 4, TABLES_MAX = 8, POINTERS_MAX = 3 + 2 * LIST_MAX };

/* All tables but the RSDP. */
struct tables {
	u32 len;
	bool full;
	gpa_t base;         /* where the first byte will lie; 0 when firmware decides */
	u32 list[LIST_MAX]; /* addresses for RSDT and XSDT */
	u32 n;
	struct {
		u32 at, bytes;
	} pointer[POINTERS_MAX], table[TABLES_MAX];
	u32 pointers, tables;
	u8 buf[TABLES_BYTES];
};

/* Append bytes; their place, or a dummy when full (the caller sees t->full at the end). */
static u8 *append(struct tables *t, u32 n)
{
	u8 *p = t->buf + t->len;

	if (n > sizeof t->buf - t->len) {
		t->full = true;
		return t->buf;
	}
	t->len += n;
	return p;
}

static u32 address(const struct tables *t, const u8 *p)
{
	return (u32)t->base + (u32)(p - t->buf);
}

/* The address of a table in a field of 4 or 8 bytes, which are zero. */
static void put_pointer(struct tables *t, u8 *p, u32 bytes, u32 addr)
{
	ASSERT(t->pointers < POINTERS_MAX);
	st32(p, addr);
	t->pointer[t->pointers].at = (u32)(p - t->buf);
	t->pointer[t->pointers++].bytes = bytes;
}

/* Begin a table on a 16-byte boundary. */
static u8 *begin(struct tables *t, const char *signature, u8 revision)
{
	append(t, (u32)(ALIGN_UP(t->len, 16) - t->len));
	u8 *p = append(t, HEAD_BYTES);

	memcpy(p, signature, 4);
	p[8] = revision;
	boot_put_text(p + 10, "MVM   MVMPC   ");
	st32(p + 24, 1);
	boot_put_text(p + 28, "MVM ");
	st32(p + 32, 1);
	return p;
}

/* Everything appended since begin belongs to the table at p. */
static void end(struct tables *t, u8 *p)
{
	u32 len = t->len - (u32)(p - t->buf);

	ASSERT(t->tables < TABLES_MAX);
	t->table[t->tables].at = (u32)(p - t->buf);
	t->table[t->tables++].bytes = len;
	st32(p + 4, len);
	if (!t->full)
		p[SUM_OFF] = boot_checksum(p, len);
}

static void list(struct tables *t, const u8 *p)
{
	ASSERT(t->n < ARRAY_LEN(t->list));
	t->list[t->n++] = address(t, p);
}

/* --- DSDT ------------------------------------------------------------------------------------- */
static void put_isa_device(struct aml *a, const char *name, const char *hid, u32 uid,
			   struct aml_crs *crs)
{
	aml_device(a, name);
	aml_name_eisaid(a, "_HID", hid);
	aml_name_int(a, "_UID", uid);
	aml_name_crs(a, crs);
	aml_end(a);
}

static void put_serial(struct aml *a, u32 nr)
{
	static const struct {
		u16 port;
		u8 irq;
	} com[] = { { COM1_PORT, COM1_GSI }, { COM2_PORT, COM2_GSI }, { COM3_PORT, COM1_GSI },
		    { COM4_PORT, COM2_GSI } };

	for (u32 i = 0; i < MIN(nr, ARRAY_LEN(com)); i++) {
		const char name[] = { 'C', 'O', 'M', (char)('1' + i), 0 };
		struct aml_crs crs = { 0 };

		aml_crs_io(&crs, com[i].port, COM_PORTS);
		aml_crs_isa_irq(&crs, com[i].irq);
		put_isa_device(a, name, "PNP0501", i + 1, &crs);
	}
}

static void put_pc_devices(struct aml *a, const struct boot_config *c)
{
	struct aml_crs rtc = { 0 }, kbd = { 0 }, aux = { 0 };

	put_serial(a, c->serial_ports);
	aml_crs_io(&rtc, RTC_PORT, RTC_PORTS);
	aml_crs_isa_irq(&rtc, RTC_GSI);
	put_isa_device(a, "RTC_", "PNP0B00", 0, &rtc);
	if (!c->has_i8042)
		return;
	aml_crs_io(&kbd, I8042_DATA_PORT, 1);
	aml_crs_io(&kbd, I8042_CMD_PORT, 1);
	aml_crs_isa_irq(&kbd, I8042_KBD_GSI);
	put_isa_device(a, "KBD_", "PNP0303", 0, &kbd);
	/* The auxiliary port: nothing is plugged in, but a controller without one makes Linux
	 * warn. */
	aml_crs_isa_irq(&aux, I8042_AUX_GSI);
	put_isa_device(a, "AUX_", "PNP0F13", 0, &aux);
}

/* Its _CRS as QEMU has it: Linux's qemu_fw_cfg driver takes the registers' places from there. */
static void put_fw_cfg(struct aml *a)
{
	struct aml_crs crs = { 0 };

	aml_crs_io(&crs, FWCFG_PORT, FWCFG_DMA_PORT + FWCFG_DMA_PORTS - FWCFG_PORT);
	aml_device(a, "FWCF");
	aml_name_str(a, "_HID", "QEMU0002");
	aml_name_int(a, "_STA", 0x0b); /* present, enabled, working, not shown to the user */
	aml_name_crs(a, &crs);
	aml_end(a);
}

/* "LNRO0005" is what Linux's virtio_mmio driver matches (drivers/virtio/virtio_mmio.c). */
static void put_virtio(struct aml *a, const struct boot_config *c)
{
	for (u32 i = 0; i < c->nr_slots; i++) {
		char name[8];
		struct aml_crs crs = { 0 };

		snprintf(name, sizeof name, "VR%02X", i & 0xff);
		aml_crs_memory(&crs, (u32)c->slot[i].base, c->slot[i].len);
		aml_crs_irq(&crs, c->slot[i].gsi);
		aml_device(a, name);
		aml_name_str(a, "_HID", "LNRO0005");
		aml_name_int(a, "_UID", i);
		aml_name_int(a, "_CCA", 1);
		aml_name_crs(a, &crs);
		aml_end(a);
	}
}

static void put_processors(struct aml *a, u32 n)
{
	for (u32 i = 0; i < n; i++) {
		char name[8];

		snprintf(name, sizeof name, "C%03X", i & 0xfff);
		aml_device(a, name);
		aml_name_str(a, "_HID", "ACPI0007");
		aml_name_int(a, "_UID", i); /* as in the MADT */
		aml_end(a);
	}
}

static u32 put_dsdt(struct tables *t, const struct boot_config *c)
{
	static const u8 s5[4] = { ACPI_SLP_TYP_S5, ACPI_SLP_TYP_S5, 0, 0 };
	u8 *p = begin(t, "DSDT", 2);
	struct aml a = { .buf = t->buf + t->len, .cap = (u32)sizeof t->buf - t->len };

	aml_name_ints(&a, "_S5_", s5, sizeof s5);
	aml_scope(&a, "\\_SB_");
	put_pc_devices(&a, c);
	if (c->has_fw_cfg)
		put_fw_cfg(&a);
	put_virtio(&a, c);
	if (c->pci.present)
		acpi_put_pci(&a, &c->pci);
	put_processors(&a, c->nr_vcpus);
	aml_end(&a);
	t->full |= a.full;
	append(t, a.len);
	end(t, p);
	return address(t, p);
}

/* --- FACS, FADT ------------------------------------------------------------------------------- */
static u32 put_facs(struct tables *t)
{
	append(t, (u32)(ALIGN_UP(t->len, 64) - t->len));
	u8 *p = append(t, FACS_BYTES);

	boot_put_text(p, "FACS");
	st32(p + 4, FACS_BYTES);
	p[32] = 2; /* version */
	return address(t, p);
}

/* Generic Address Structure for an I/O port (§5.2.3.2); access 1 byte, 2 word, 3 dword. */
static void put_gas(u8 *p, u16 port, u8 bits, u8 access)
{
	p[0] = 1;
	p[1] = bits;
	p[3] = access;
	st64(p + 4, port);
}

static void put_fadt(struct tables *t, const struct boot_config *c, u32 facs, u32 dsdt)
{
	u8 *p = begin(t, "FACP", 6);

	append(t, FADT_BYTES - HEAD_BYTES);
	put_pointer(t, p + 36, 4, facs);
	put_pointer(t, p + 40, 4, dsdt);
	st16(p + 46, ACPI_SCI_GSI);
	st32(p + 56, ACPI_PM1_EVT_PORT);
	st32(p + 64, ACPI_PM1_CNT_PORT);
	st32(p + 76, ACPI_PM_TMR_PORT);
	p[88] = ACPI_PM1_EVT_BYTES;
	p[89] = ACPI_PM1_CNT_BYTES;
	p[91] = ACPI_PM_TMR_BYTES;
	st16(p + 96, 0xffff); /* C2 and C3 latencies: no such states */
	st16(p + 98, 0xffff);
	p[108] = 0x32;        /* CMOS index of the century */
	st16(p + 109, IAPC_LEGACY | IAPC_NO_VGA | (c->has_i8042 ? IAPC_8042 : 0));
	st32(p + 112, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC |
			      FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP | FADT_HEADLESS);
	put_gas(p + 116, ACPI_RESET_PORT, 8, 1);
	p[128] = ACPI_RESET_VALUE;
	p[131] = 4; /* minor version: ACPI 6.4 */
	/* X_FIRMWARE_CTRL at 132 stays 0: FIRMWARE_CTRL holds it (§5.2.9) */
	put_pointer(t, p + 140, 8, dsdt);
	put_gas(p + 148, ACPI_PM1_EVT_PORT, 8 * ACPI_PM1_EVT_BYTES, 2);
	put_gas(p + 172, ACPI_PM1_CNT_PORT, 8 * ACPI_PM1_CNT_BYTES, 2);
	put_gas(p + 208, ACPI_PM_TMR_PORT, 8 * ACPI_PM_TMR_BYTES, 3);
	boot_put_text(p + 268, "MVM"); /* hypervisor vendor identity */
	end(t, p);
	list(t, p);
}

/* --- MADT ------------------------------------------------------------------------------------- */
static void put_local_apic(struct tables *t, u32 id)
{
	if (id < X2APIC_FIRST_ID) {
		u8 *p = append(t, 8);

		memcpy(p, (u8[]){ 0, 8, (u8)id, (u8)id, MADT_ENABLED, 0, 0, 0 }, 8);
	} else {
		u8 *p = append(t, 16);

		p[0] = 9;
		p[1] = 16;
		st32(p + 4, id);
		st32(p + 8, MADT_ENABLED);
		st32(p + 12, id);
	}
}

static void put_override(struct tables *t, u8 irq, u32 gsi, u16 flags)
{
	u8 *p = append(t, 10);

	p[0] = 2;
	p[1] = 10;
	p[3] = irq;
	st32(p + 4, gsi);
	st16(p + 8, flags);
}

static void put_madt(struct tables *t, u32 nr_vcpus)
{
	u8 *p = begin(t, "APIC", 5), *q;

	append(t, 8);
	st32(p + 36, LAPIC_BASE);
	st32(p + 40, MADT_PCAT_COMPAT);
	for (u32 i = 0; i < nr_vcpus; i++)
		put_local_apic(t, i);
	q = append(t, 12); /* the IOAPIC, id 0, GSI 0 and up */
	q[0] = 1;
	q[1] = 12;
	st32(q + 4, IOAPIC_BASE);
	put_override(t, PIT_GSI, 2, 0); /* the timer is on pin 2, as on every PC */
	put_override(t, ACPI_SCI_GSI, ACPI_SCI_GSI, INTI_ACTIVE_HIGH | INTI_LEVEL);
	q = append(t, 6); /* NMI on LINT1 of every CPU */
	memcpy(q, (u8[]){ 4, 6, ALL_PROCESSORS_8, 0, 0, 1 }, 6);
	if (nr_vcpus > X2APIC_FIRST_ID) {
		q = append(t, 12);
		q[0] = 10;
		q[1] = 12;
		st32(q + 4, 0xffffffff);
		q[8] = 1;
	}
	end(t, p);
	list(t, p);
}

/* --- MCFG: PCI Firmware Specification 3.2 §4.1.2 ---------------------------------------------- */
static void put_mcfg(struct tables *t, const struct boot_pci *pci)
{
	u8 *p = begin(t, "MCFG", 1), *q;

	append(t, 8);
	q = append(t, 16); /* segment 0, buses 0 to 0 */
	st64(q, pci->ecam);
	end(t, p);
	list(t, p);
}

/* --- RSDT, XSDT, RSDP ------------------------------------------------------------------------- */
static u32 put_root(struct tables *t, const char *signature, u32 entry_bytes)
{
	u8 *p = begin(t, signature, 1);

	for (u32 i = 0; i < t->n; i++)
		put_pointer(t, append(t, entry_bytes), entry_bytes, t->list[i]);
	end(t, p);
	return address(t, p);
}

static void put_rsdp(u8 *p, u32 rsdt, u32 xsdt)
{
	boot_put_text(p, "RSD PTR ");
	boot_put_text(p + 9, "MVM   ");
	p[15] = 2;
	st32(p + RSDP_RSDT, rsdt);
	st32(p + 20, RSDP_BYTES);
	st64(p + RSDP_XSDT, xsdt);
	p[RSDP_SUM_OFF] = boot_checksum(p, RSDP_V1_BYTES);
	p[RSDP_EXT_SUM_OFF] = boot_checksum(p, RSDP_BYTES);
}

/* Everything: the tables in *t, the RSDP in rsdp[RSDP_BYTES], which are zero. */
static int put_all(struct tables *t, const struct boot_config *c, u8 *rsdp, struct err *e)
{
	u32 facs = put_facs(t), dsdt = put_dsdt(t, c), rsdt, xsdt;

	put_fadt(t, c, facs, dsdt);
	put_madt(t, c->nr_vcpus);
	if (c->pci.present)
		put_mcfg(t, &c->pci);
	rsdt = put_root(t, "RSDT", 4);
	xsdt = put_root(t, "XSDT", 8);
	put_rsdp(rsdp, rsdt, xsdt);
	if (!t->full)
		return 0;
	return err_set(e, -ENOSPC,
		       "ACPI tables: %u CPUs and %u devices do not fit in 64 KiB; give fewer",
		       c->nr_vcpus, c->nr_slots);
}

int acpi_put(struct loader *l, struct err *e)
{
	struct tables *t = boot_alloc(l->heap, sizeof *t);
	u8 rsdp[RSDP_BYTES] = { 0 };
	int rc;

	if (!t)
		return err_set(e, -ENOMEM, "ACPI tables: no host memory");
	t->base = LOW_ACPI;
	rc = put_all(t, l->c, rsdp, e);
	if (rc == 0) {
		boot_put(l, LOW_ACPI, t->buf, t->len);
		boot_put(l, LOW_RSDP, rsdp, sizeof rsdp);
		l->rsdp = LOW_RSDP;
	}
	return rc;
}

/* --- for firmware ----------------------------------------------------------------------------- */
static const char tables_file[] = "etc/acpi/tables", rsdp_file[] = "etc/acpi/rsdp";

/* The script: commands of 128 bytes, each with the names of the files that it is about. */
enum { CMD_ALLOCATE = 1, CMD_ADD_POINTER = 2, CMD_ADD_CHECKSUM = 3, CMD_BYTES = 128 };
enum { CMD_NAME = 4, CMD_ARGS = CMD_NAME + FWCFG_NAME_MAX, CMD_SOURCE = CMD_ARGS };
enum { ZONE_HIGH = 1, ZONE_FSEG = 2, CMDS_MAX = 2 + POINTERS_MAX + 2 + TABLES_MAX + 2 };

struct script {
	u32 len;
	u8 buf[CMDS_MAX * CMD_BYTES];
};

/* The next command's arguments. */
static u8 *cmd(struct script *s, u32 what, const char *file)
{
	u8 *p = s->buf + s->len;

	ASSERT(s->len < sizeof s->buf);
	s->len += CMD_BYTES;
	st32(p, what);
	boot_put_text(p + CMD_NAME, file);
	return p + CMD_ARGS;
}

static void cmd_allocate(struct script *s, const char *file, u32 align, u8 zone)
{
	u8 *p = cmd(s, CMD_ALLOCATE, file);

	st32(p, align);
	p[4] = zone;
}

/* Every pointer is to a table. */
static void cmd_pointer(struct script *s, const char *file, u32 at, u32 bytes)
{
	u8 *p = cmd(s, CMD_ADD_POINTER, file);

	boot_put_text(p, tables_file);
	st32(p + FWCFG_NAME_MAX, at);
	p[FWCFG_NAME_MAX + 4] = (u8)bytes;
}

static void cmd_checksum(struct script *s, const char *file, u32 at, u32 start, u32 len)
{
	u8 *p = cmd(s, CMD_ADD_CHECKSUM, file);

	st32(p, at);
	st32(p + 4, start);
	st32(p + 8, len);
}

static void put_script(struct script *s, const struct tables *t)
{
	cmd_allocate(s, rsdp_file, 16, ZONE_FSEG);
	cmd_allocate(s, tables_file, 64, ZONE_HIGH);
	for (u32 i = 0; i < t->pointers; i++)
		cmd_pointer(s, tables_file, t->pointer[i].at, t->pointer[i].bytes);
	for (u32 i = 0; i < t->tables; i++)
		cmd_checksum(s, tables_file, t->table[i].at + SUM_OFF, t->table[i].at,
			     t->table[i].bytes);
	cmd_pointer(s, rsdp_file, RSDP_RSDT, 4);
	cmd_pointer(s, rsdp_file, RSDP_XSDT, 8);
	cmd_checksum(s, rsdp_file, RSDP_SUM_OFF, 0, RSDP_V1_BYTES);
	cmd_checksum(s, rsdp_file, RSDP_EXT_SUM_OFF, 0, RSDP_BYTES);
}

int acpi_add_files(struct firmware *f, const struct boot_config *c, struct err *e)
{
	struct tables *t = calloc(1, sizeof *t);
	struct script s = { 0 };
	u8 rsdp[RSDP_BYTES] = { 0 };
	int rc;

	if (!t)
		return err_set(e, -ENOMEM, "ACPI tables: no host memory");
	rc = put_all(t, c, rsdp, e);
	if (rc == 0) {
		put_script(&s, t);
		firmware_add_file(f, rsdp_file, rsdp, sizeof rsdp);
		firmware_add_file(f, tables_file, t->buf, t->len);
		firmware_add_file(f, "etc/table-loader", s.buf, s.len);
	}
	free(t);
	return rc;
}
