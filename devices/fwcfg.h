/* fwcfg.h - the firmware configuration device of QEMU's machines: numbered items and named files
 * that firmware (and a guest's own fw_cfg driver) reads through a selector and a data port, or by
 * DMA.
 *
 * Items never change while the machine runs; the device does not own them. */
#pragma once

#include "device.h"

/* Keys, QEMU docs/specs/fw_cfg.rst and include/standard-headers/linux/qemu_fw_cfg.h.  Addresses and
 * sizes are 32 bits, little-endian. */
enum {
	FWCFG_SIGNATURE = 0x00,
	FWCFG_ID = 0x01,
	FWCFG_RAM_SIZE = 0x03,
	FWCFG_NOGRAPHIC = 0x04,
	FWCFG_NB_CPUS = 0x05,
	FWCFG_KERNEL_ADDR = 0x07,
	FWCFG_KERNEL_SIZE = 0x08,
	FWCFG_INITRD_ADDR = 0x0a,
	FWCFG_INITRD_SIZE = 0x0b,
	FWCFG_BOOT_MENU = 0x0e,
	FWCFG_MAX_CPUS = 0x0f,
	FWCFG_KERNEL_ENTRY = 0x10,
	FWCFG_KERNEL_DATA = 0x11,
	FWCFG_INITRD_DATA = 0x12,
	FWCFG_CMDLINE_ADDR = 0x13,
	FWCFG_CMDLINE_SIZE = 0x14,
	FWCFG_CMDLINE_DATA = 0x15,
	FWCFG_SETUP_ADDR = 0x16,
	FWCFG_SETUP_SIZE = 0x17,
	FWCFG_SETUP_DATA = 0x18,
	FWCFG_FILE_DIR = 0x19,
	FWCFG_FILE_FIRST = 0x20, /* files: their place in the directory, from here */
	FWCFG_IRQ0_OVERRIDE = 0x8002,
};
enum { FWCFG_NAME_MAX = 56, FWCFG_DIR_ENTRY_BYTES = 64 };

/* DMA descriptor: control, length (32 bits each), address (64 bits), all big-endian. */
enum { FWCFG_DMA_BYTES = 16 };
enum {
	FWCFG_DMA_ERROR = 1,
	FWCFG_DMA_READ = 2,
	FWCFG_DMA_SKIP = 4,
	FWCFG_DMA_SELECT = 8, /* the key is in the upper half */
	FWCFG_DMA_WRITE = 16,
};

struct fwcfg_item {
	u16 key;
	const u8 *data; /* NULL: bytes of fd from off; a file that became shorter reads as zero */
	u64 len;        /* at most 4 GiB - 1 */
	int fd;
	u64 off;
};

/* device.arg: borrowed as long as the device lives. NULL: no items. */
struct fwcfg_setup {
	const struct fwcfg_item *item;
	u32 n;
};

/* Regions: 0 selector (16 bits) and, in its second byte, data; 1 the DMA address, big-endian. */
extern const struct device_ops fwcfg_ops;
enum { FWCFG_PORT = 0x510, FWCFG_PORTS = 2, FWCFG_DMA_PORT = 0x514, FWCFG_DMA_PORTS = 8 };
