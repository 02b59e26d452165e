/* boot.h - puts a guest into memory: Linux bzImage (64-bit, 32-bit and 16-bit entry), ELF kernels
 * by the Linux 64-bit protocol or PVH, multiboot kernels, or firmware; with the tables all of them
 * read (e820, ACPI, MP) and the boot vCPU's first registers.
 *
 * Runs at set-up, single-threaded, before engine.init (--bios adds a ROM region to the memory). */
#pragma once

#include "../base.h"
#include "../memory.h"
#include "../options.h"
#include "../vcpu.h"

enum boot_entry {
	BOOT_AUTO, /* the best it offers: 64-bit, else 32-bit; PVH or multiboot for others */
	BOOT_64,   /* Linux 64-bit protocol */
	BOOT_32,   /* Linux 32-bit protocol */
	BOOT_16,   /* the kernel's own real-mode set-up code, on a few BIOS calls of ours */
	BOOT_PVH,
};

/* One virtio-mmio slot that has a device. */
struct boot_slot {
	gpa_t base;
	u32 len;
	u32 gsi;
};

struct boot_window {
	gpa_t base;
	u64 len;
};

/* The PCI bus, if there is one: a root bridge with bus 0. */
struct boot_pci {
	bool present;
	u32 slots; /* bit per slot that has a device, which has an interrupt */
	u32 gsi;   /* of PIRQ A; INTA of slot n is gsi + n mod 4 */
	gpa_t ecam;
	u32 ecam_len;
	struct boot_window mem32, mem64, io; /* where BARs may lie; mem64.len may be 0 */
};

enum { BOOT_SLOTS_MAX = 64, BOOT_CMDLINE_MAX = 64 << 10 };

/* A file the user named. */
struct file {
	const char *path;
	const u8 *data; /* mapped, or NULL */
	u64 len;
	int fd;
};

/* Memory for a loading, taken beforehand; the host gives it when it is touched. */
struct boot_heap {
	u8 *base; /* NULL: none yet */
	u64 used;
};

/* A bzImage's kernel, unpacked by mvm (vmlinux.c). */
struct vmlinux {
	gpa_t start, entry, end;
	u64 text_len; /* of the first segment: code and constants */
	bool kaslr;   /* addresses were randomised */
};

struct boot_config {
	const char *kernel;  /* path; may be NULL with bios */
	const char *initrd;  /* path or NULL */
	const char *cmdline; /* the user's words or NULL */
	/* path: boot firmware, which loads the kernel if there is one; or NULL */
	const char *bios;
	enum boot_entry entry;
	bool keep_compressed; /* let a bzImage unpack itself */
	u32 nr_disks;         /* the first is /dev/vda; they come first on their bus */
	bool has_i8042;       /* there is a keyboard controller */
	u32 serial_ports;     /* COM1.. present, 0-4 */
	u32 nr_vcpus;         /* APIC IDs are 0 to nr_vcpus - 1 */
	u8 uuid[16];          /* as it is written; zeros: none */
	u32 nr_slots;
	struct boot_slot slot[BOOT_SLOTS_MAX];
	struct boot_pci pci;
	bool has_fw_cfg;      /* there is a firmware configuration device */
	const struct fw_file *fw_file; /* borrowed: the user's files for it */
	u32 fw_files;
	/* boot_files_open's; zero before */
	struct file kernel_file, initrd_file, bios_file;
	struct boot_heap heap;
	/* boot_drivers's, for the next boot_load */
	bool unpacked; /* it tried: unpack_rc, vmlinux */
	int unpack_rc;
	struct vmlinux vmlinux;
};

/* Open the files and take all memory that boot_load needs: from then on it makes no system call but
 * preadv2 and madvise, so that a guest can be restarted in the sandbox.  0, or -errno with *e and
 * nothing left behind.  boot_load does it for itself if nobody has. */
int boot_files_open(struct boot_config *c, struct err *e);
void boot_files_close(struct boot_config *c); /* also of zeros */

/* Which of virtio's transports the kernel and its initrd have drivers for, and DRIVER_PCI where
 * nobody can tell.  After boot_files_open; may unpack the kernel into m, for boot_load. */
enum { DRIVER_MMIO = 1, DRIVER_PCI = 2 };
u32 boot_drivers(struct boot_config *c, struct memory *m);

/* Load everything into m, whose RAM must be zero, and change *bsp from its power-on state
 * (cpu_state_reset) to the entry state.  0, or -errno with *e.  May be called again after a reset
 * with the same m, zeroed: a firmware ROM region is then found and refilled. */
int boot_load(struct boot_config *c, struct memory *m, struct cpu_state *bsp, struct err *e);

/* Memory types as firmware leaves them for a kernel entered directly: write-back everywhere, MTRRs
 * on. Every vCPU wants the same, or Linux complains. */
void boot_memory_types(struct cpu_state *s);

/* The kernel command line: our defaults, then the user's words, which win.  Returns its length, or
 * -ENOSPC when it does not fit in n bytes with its NUL. */
int boot_cmdline(char *buf, size_t n, const struct boot_config *c);

/* What the firmware configuration device holds.  Call when the board is complete; NULL with *e.
 * With both bios and kernel the kernel is here, for firmware to load. */
struct firmware;
struct fwcfg_setup;
struct firmware *firmware_new(const struct boot_config *c, struct memory *m, struct err *e);
struct fwcfg_setup *firmware_setup(struct firmware *f); /* the device's arg */
void firmware_free(struct firmware *f); /* after the device; NULL is fine */
