/* options.h - the command line: one table makes the parser, --help, the man page and completion. */
#pragma once

#include "base.h"
#include "seccomp/sandbox.h"

enum accel { ACCEL_AUTO, ACCEL_KVM, ACCEL_TCG, ACCEL_INTERP };
enum serial_kind { SERIAL_STDIO, SERIAL_FILE, SERIAL_NONE };
enum irqchip_kind { IRQCHIP_SPLIT, IRQCHIP_KERNEL, IRQCHIP_USER };
enum transport { TRANSPORT_AUTO, TRANSPORT_MMIO, TRANSPORT_PCI, TRANSPORT_PCI_TRANSITIONAL };
enum kernel_entry { ENTRY_AUTO, ENTRY_64, ENTRY_16 };
enum { DISKS_MAX = 8, CPUS_MAX = 64, FW_FILES_MAX = 16, FW_NAME_MAX = 55 };

struct disk_config {
	const char *path;
	char id[20]; /* virtio-blk serial number; default disk0, disk1, ... */
	bool ro, direct;
};

/* A file for the firmware configuration device: text, or the bytes of a host file. */
struct fw_file {
	const char *name;
	const char *text, *path; /* one of the two */
};

/* What the user asked for; const once parsed. Strings are borrowed from argv or static. */
struct config {
	const char *kernel, *initrd, *cmdline, *bios;
	struct disk_config disk[DISKS_MAX];
	u32 disks;
	struct fw_file fw_file[FW_FILES_MAX];
	u32 fw_files;
	u64 mem_bytes;
	u8 uuid[16]; /* as it is written, first digits first; zeros: none */
	u32 vcpus;
	u32 stop_s;  /* from the power button to the end */
	u32 accel;   /* enum accel */
	u32 irqchip; /* enum irqchip_kind */
	u32 entry;   /* enum kernel_entry */
	u32 serial;  /* enum serial_kind */
	u32 transport; /* enum transport */
	const char *serial_path;
	u64 tcg_cache_bytes;
	bool rng, restart, dry_run, boot_trace, stats, perf_map, quiet, verbose;
	bool help, version;
	struct sandbox_config sandbox;
};

/* 0, or -EINVAL with *e in one line. argv[0] is skipped. */
int options_parse(struct config *cfg, char **argv, struct err *e);

void options_help(void);     /* --help on stdout */
void options_man(void);      /* the OPTIONS section of mvm.1, in mdoc, on stdout */
