/* chipset.h - the PC's own chips: their ops, the data each wants in device.arg, their interrupt
 * outputs, their regions and where a PC has them.  The board table of machine.c, the ACPI tables
 * and the tests read the port numbers from here. */
#pragma once

#include "chardev.h"
#include "device.h"

/* --- 8259A pair.  irq[0].chip: told of INTR by ops->intr; lines come in by pic_set_irq (irq.h).
 * Regions: 0 master, 1 slave, 2 ELCR. */
extern const struct device_ops pic_ops;
enum { PIC_MASTER_PORT = 0x20, PIC_SLAVE_PORT = 0xa0, PIC_ELCR_PORT = 0x4d0, PIC_PORTS = 2 };

/* --- 82093AA.  irq[0].chip: gets each interrupt as a message by ops->msi; pins come in by
 * ioapic_set_irq (irq.h).  Region 0: memory. */
extern const struct device_ops ioapic_ops;
enum { IOAPIC_BYTES = 0x1000 };
#define IOAPIC_BASE 0xfec00000u

/* --- 82C54 timer.  irq[0]: output of counter 0.  Regions: 0 counters, 1 system port B. */
extern const struct device_ops pit_ops;
enum { PIT_PORT = 0x40, PIT_PORTS = 4, PIT_PORT_B = 0x61, PIT_HZ = 1193182, PIT_GSI = 0 };

/* --- MC146818A.  irq[0]: its IRQ pin.  arg: struct rtc_config, or NULL for the host's time and
 * an empty CMOS; read in init only.  Region 0: index, data. */
extern const struct device_ops rtc_ops;
enum { RTC_PORT = 0x70, RTC_PORTS = 2, RTC_GSI = 8 };
struct rtc_config {
	s64 utc_s;       /* seconds since 1970 at creation; RTC_HOST_TIME: the host's clock */
	u64 ram_bytes;   /* told to firmware in CMOS 0x15-18, 0x30-31, 0x34-35 and 0x5b-5d */
	u8 boot_order[2]; /* CMOS 0x3d, 0x38, as SeaBIOS reads them: 1 floppy, 2 disk, 3 CD */
	u8 cpus;         /* CMOS 0x5f holds the number of CPUs less one */
};
#define RTC_HOST_TIME INT64_MIN

/* --- 16550A.  irq[0]: its INTRPT pin behind OUT2.  arg: struct chardev, or NULL when nothing is
 * plugged in.  Region 0. */
extern const struct device_ops serial_ops;
enum { COM1_PORT = 0x3f8, COM2_PORT = 0x2f8, COM3_PORT = 0x3e8, COM4_PORT = 0x2e8, COM_PORTS = 8 };
enum { COM1_GSI = 4, COM2_GSI = 3 };

/* --- Keyboard controller.  irq[0]: keyboard, irq[1]: auxiliary port.
 * Regions: 0 data port, 1 command and status port, 2 system control port A. */
extern const struct device_ops i8042_ops;
enum { I8042_DATA_PORT = 0x60, I8042_CMD_PORT = 0x64, I8042_PORT_A = 0x92 };
enum { I8042_KBD_GSI = 1, I8042_AUX_GSI = 12 };
void i8042_ctrl_alt_del(struct device *dev); /* the user pressed it; machine.lock held */

/* --- ACPI fixed hardware.  irq[0]: SCI, level.  Regions: 0 the PM block, 1 port CF9h.
 * The FADT describes it so: PM1a_EVT_BLK 600h (4 bytes), PM1a_CNT_BLK 604h (2), PM_TMR_BLK 608h (4,
 * TMR_VAL_EXT set), SMI_CMD 0 (ACPI mode is always on), RESET_REG CF9h with value 6. */
extern const struct device_ops acpi_pm_ops;
enum {
	ACPI_PM_PORT = 0x600, ACPI_PM_PORTS = 16,
	ACPI_PM1_EVT_PORT = ACPI_PM_PORT, ACPI_PM1_EVT_BYTES = 4,
	ACPI_PM1_CNT_PORT = ACPI_PM_PORT + 4, ACPI_PM1_CNT_BYTES = 2,
	ACPI_PM_TMR_PORT = ACPI_PM_PORT + 8, ACPI_PM_TMR_BYTES = 4,
	/* an access of one byte only: a wider one at */
	ACPI_RESET_PORT = 0xcf9, ACPI_RESET_VALUE = 6,
	ACPI_RESET_BASE = 0xcf8, ACPI_RESET_PORTS = 4, /* CF8h is PCI's configuration address */
	ACPI_SLP_TYP_S5 = 5, /* for the DSDT's _S5_ package */
	ACPI_SCI_GSI = 9,
};
/* A press; says whether the guest has enabled it.  machine.lock held. */
bool acpi_pm_power_button(struct device *dev);

/* --- Ports for firmware and tests; one region each */
extern const struct device_ops debugcon_ops; /* arg: struct chardev, or NULL for the log */
extern const struct device_ops post_ops;
extern const struct device_ops debug_exit_ops;
extern const struct device_ops boot_timer_ops; /* memory */
enum {
	DEBUGCON_PORT = 0x402, POST_PORT = 0x80,
	DEBUG_EXIT_PORT = 0xf4, DEBUG_EXIT_PORTS = 4, DEBUG_EXIT_PORT2 = 0x501,
	BOOT_TIMER_BYTES = 0x1000,
};
#define BOOT_TIMER_BASE 0xc0000000u
