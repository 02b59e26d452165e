/* Tests of boot/acpi.c and aml.c. */
#include <sys/wait.h>

#include "../../devices/chipset.h"
#include "bootkit.h"

static u8 image[64 << 10];

static struct kit *acpi_kit(u32 cpus, u32 slots)
{
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);

	k->c.nr_vcpus = cpus;
	k->c.has_i8042 = true;
	k->c.serial_ports = 4;
	k->c.nr_slots = slots;
	for (u32 i = 0; i < slots; i++)
		k->c.slot[i] = (struct boot_slot){ 0xc0001000 + i * 0x1000, 0x1000, 16 + i % 8 };
	EQ(kit_boot(k, image, len), 0);
	return k;
}

static u8 sum(const u8 *p, u32 n)
{
	u8 s = 0;

	while (n--)
		s += *p++;
	return s;
}

/* The table with this signature, by way of RSDP and XSDT, all sums checked. */
static const u8 *table(struct kit *k, const char *sig)
{
	const u8 *rsdp = kit_at(k, LOW_RSDP), *xsdt, *rsdt;

	EQ(sum(rsdp, 20), 0);
	EQ(sum(rsdp, 36), 0);
	xsdt = kit_at(k, ld64(rsdp + 24));
	rsdt = kit_at(k, ld32(rsdp + 16));
	EQ(sum(xsdt, ld32(xsdt + 4)), 0);
	EQ(sum(rsdt, ld32(rsdt + 4)), 0);
	EQ((ld32(xsdt + 4) - 36) / 8, (ld32(rsdt + 4) - 36) / 4);
	for (u32 i = 0; i < (ld32(xsdt + 4) - 36) / 8; i++) {
		const u8 *t = kit_at(k, ld64(xsdt + 36 + 8 * i));

		EQ(ld64(xsdt + 36 + 8 * i), ld32(rsdt + 36 + 4 * i));
		EQ(sum(t, ld32(t + 4)), 0);
		if (!memcmp(t, sig, 4))
			return t;
	}
	test_fail(__FILE__, __LINE__, "no table %s", sig);
}

TEST(acpi_fadt_describes_the_pm_chip)
{
	struct kit *k = acpi_kit(2, 3);
	const u8 *f = table(k, "FACP");

	EQ(ld32(f + 4), 276);
	EQ(ld32(f + 56), ACPI_PM1_EVT_PORT);
	EQ(ld64(f + 148 + 4), ACPI_PM1_EVT_PORT);
	EQ(ld64(f + 208 + 4), ACPI_PM_TMR_PORT);
	EQ(ld16(f + 46), ACPI_SCI_GSI);
	EQ(ld32(f + 48), 0);                   /* SMI_CMD: ACPI mode is always on */
	EQ(ld32(f + 112) >> 20 & 1, 0);        /* not hardware-reduced */
	EQ(ld64(f + 116 + 4), ACPI_RESET_PORT);
	EQ(f[128], ACPI_RESET_VALUE);
	EQ(ld16(f + 109), 7);
	OK(!memcmp(kit_at(k, ld64(f + 140)), "DSDT", 4));
	OK(!memcmp(kit_at(k, ld32(f + 36)), "FACS", 4));
	EQ(ld32(f + 36) % 64, 0);
	kit_free(k);
}

TEST(acpi_madt_lists_every_cpu_and_the_overrides)
{
	struct kit *k = acpi_kit(300, 1);
	const u8 *m = table(k, "APIC");
	u32 xapic = 0, x2apic = 0, ioapic = 0, nmi = 0, irq0_gsi = 99, sci_flags = 0;

	for (u32 at = 44; at < ld32(m + 4); at += m[at + 1]) {
		OK(m[at + 1] >= 6);
		xapic += m[at] == 0;
		x2apic += m[at] == 9;
		ioapic += m[at] == 1 && ld32(m + at + 4) == IOAPIC_BASE;
		nmi += m[at] == 4 || m[at] == 10;
		if (m[at] == 2 && m[at + 3] == 0)
			irq0_gsi = ld32(m + at + 4);
		if (m[at] == 2 && m[at + 3] == ACPI_SCI_GSI)
			sci_flags = ld16(m + at + 8);
	}
	EQ(xapic, 255);
	EQ(x2apic, 45);
	EQ(ioapic, 1);
	EQ(nmi, 2);
	EQ(irq0_gsi, 2);
	EQ(sci_flags, 0xd);
	kit_free(k);
}

TEST(acpi_too_much_for_the_space_is_refused)
{
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);

	k->c.nr_vcpus = 4000;
	EQ(kit_boot(k, image, len), -ENOSPC);
	kit_free(k);
}

/* Write each table to a file of its own and let ACPICA take it apart. */
static void disassemble(struct kit *k, const u8 *t, const char *name)
{
	char dir[] = "/tmp/acpiXXXXXX", cmd[200], path[100];
	FILE *f;

	OK(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/%s", dir, name);
	f = fopen(path, "w");
	OK(f && fwrite(t, 1, ld32(t + 4), f) == ld32(t + 4));
	fclose(f);
	snprintf(cmd, sizeof cmd,
		 "cd %s && iasl -d %s >log 2>&1 && ! grep -iE 'error|warning|invalid' log %s.dsl "
		 "&& iasl -f %s.dsl >log2 2>&1; r=$?; [ $r = 0 ] || cat log log2 >&2; exit $r",
		 dir, name, name, name);
	int rc = system(cmd);

	snprintf(cmd, sizeof cmd, "rm -r %s", dir);
	OK(system(cmd) == 0);
	EQ(WEXITSTATUS(rc), 0);
}

static struct kit *pci_kit(void)
{
	struct kit *k = kit_new(64);
	size_t len = kit_bzimage(image, 4096);

	k->c.nr_vcpus = 2;
	k->c.pci = (struct boot_pci){ .present = true, .slots = 1 << 1 | 1 << 2 | 1u << 31,
				      .gsi = 16,
				      .ecam = 0xc8000000, .ecam_len = MIB,
				      .mem32 = { 0xd0000000, 0x2ec00000 },
				      .mem64 = { 0x100000000, 0x100000000 } };
	EQ(kit_boot(k, image, len), 0);
	return k;
}

TEST(acpi_mcfg_gives_the_ecam_space_of_bus_0)
{
	struct kit *k = pci_kit();
	const u8 *m = table(k, "MCFG");

	EQ(ld32(m + 4), 60);
	EQ(ld64(m + 44), 0xc8000000);
	EQ(ld32(m + 52), 0); /* segment 0, buses 0 to 0 */
	kit_free(k);
}

TEST(acpi_tables_with_pci_pass_through_iasl)
{
	if (system("command -v iasl >/dev/null 2>&1"))
		SKIP("iasl is not installed (apt-get install acpica-tools)");
	struct kit *k = pci_kit();

	disassemble(k, kit_at(k, ld64(table(k, "FACP") + 140)), "dsdt");
	disassemble(k, table(k, "MCFG"), "mcfg");
	kit_free(k);
}

TEST(acpi_tables_pass_through_iasl)
{
	if (system("command -v iasl >/dev/null 2>&1"))
		SKIP("iasl is not installed (apt-get install acpica-tools)");
	struct kit *k = acpi_kit(3, 9);

	disassemble(k, kit_at(k, ld64(table(k, "FACP") + 140)), "dsdt");
	disassemble(k, table(k, "FACP"), "facp");
	disassemble(k, table(k, "APIC"), "apic");
	kit_free(k);
}
