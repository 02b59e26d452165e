/* parts.h - what the files of boot/ share: the layout of low memory, one loading in progress, and
 * each file's entry points. */
#pragma once

#include "boot.h"

/* Below 1 MiB.  What Linux reads before it has copied it may lie anywhere here; all of it is either
 * reserved in the e820 map or free for the kernel once it runs. */
enum {
	LOW_BDA = 0x400,
	LOW_GDT = 0x1000,
	LOW_START_INFO = 0x6000,  /* PVH start info or multiboot information */
	LOW_ZERO_PAGE = 0x7000,   /* struct boot_params */
	LOW_SETUP_DATA = 0x8000,
	LOW_PAGE_TABLES = 0x9000, /* PML4, PDPT, four page directories */
	LOW_REAL_MODE = 0x10000,  /* 16-bit set-up code, its heap and stack: one segment */
	LOW_CMDLINE = 0x20000,
	LOW_RAM_END = 0x9fc00,    /* then 1 KiB of EBDA, as on a PC with 640 KiB */
	LOW_EBDA = 0x9fc00,
	LOW_ACPI = 0xe0000,       /* 64 KiB: all ACPI tables but the RSDP */
	LOW_RSDP = 0xf0000,
	LOW_MP = 0xf0040,         /* MP floating pointer, then its table */
	LOW_SMBIOS = 0xfb000,     /* SMBIOS entry point, then its table */
	LOW_STUB = 0xfc000,       /* stub.c: real-mode BIOS calls, up to the reset vector's end */
	LOW_END = 0x100000,
};

#define LAPIC_BASE 0xfee00000u

/* --- e820.c ----------------------------------------------------------------------------------- */
enum { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };
enum { E820_MAX = 16 };

struct e820_entry {
	u64 addr, len;
	u32 type;
};

struct e820 {
	u32 n;
	struct e820_entry entry[E820_MAX]; /* sorted, not overlapping */
};

/* The map of a machine that mvm itself starts; of one that firmware starts, which takes its
 * share. */
void e820_build(struct e820 *map, const struct memory *m, const struct boot_pci *pci);
void e820_build_bare(struct e820 *map, const struct memory *m, const struct boot_pci *pci);

/* --- one loading ------------------------------------------------------------------------------ */
struct aml;

struct loader {
	const struct boot_config *c;
	struct boot_heap *heap;
	struct memory *m;
	struct cpu_state *bsp;
	struct file kernel;
	struct e820 map;
	u64 low_top;     /* end of the RAM that starts at 0 */
	gpa_t rsdp;      /* 0: no ACPI */
	u64 initrd_room; /* size of the initrd file, for placing the kernel */
	gpa_t initrd;
	u64 initrd_len;
	size_t cmdline_len;
	char cmdline[BOOT_CMDLINE_MAX];
};

/* boot.c: open a file that the user named; what ("kernel", "initrd") begins the error text. */
int boot_open(const char *what, const char *path, int *fd, u64 *len, struct err *e);
int boot_map_file(struct file *f, const char *what, const char *path, struct err *e);
void boot_unmap_file(struct file *f); /* one of zeros is fine */
/* boot.c: the command line of l->c. */
int boot_set_cmdline(struct loader *l, struct err *e);
/* boot.c: the highest page below limit for an initrd of l->initrd_len bytes: l->initrd. */
int boot_choose_initrd(struct loader *l, u64 floor, u64 limit, struct err *e);
/* boot.c: put the initrd as high as it goes in [floor, limit), page-aligned; sets l->initrd*.  0
 * when there is none. */
int boot_load_initrd(struct loader *l, u64 floor, u64 limit, struct err *e);
/* boot.c: the memory of one loading after the other. */
int boot_heap_new(struct boot_heap *h); /* 0 or -ENOMEM */
void boot_heap_free(struct boot_heap *h);
void boot_heap_reset(struct boot_heap *h);
/* boot.c: zeroed memory until the loading ends; NULL if it asks for more than any kernel needs. */
void *boot_alloc(struct boot_heap *h, u64 bytes);
/* boot.c: is the bare word `word` on the command line? */
bool boot_has_word(const char *cmdline, const char *word);
/* boot.c: copy len bytes to gpa, which is known to be RAM. */
void boot_put(struct loader *l, gpa_t gpa, const void *src, size_t len);

/* The byte that makes the sum of all of them 0. */
static inline u8 boot_checksum(const void *bytes, u32 len)
{
	const u8 *p = bytes;
	u8 sum = 0;

	while (len--)
		sum += *p++;
	return (u8)-sum;
}

/* Put a text without its NUL, as tables have them. */
static inline void boot_put_text(u8 *dst, const char *text)
{
	while (*text)
		*dst++ = (u8)*text++;
}

/* --- entry states (entry.c) ------------------------------------------------------------------- */
void entry_long_mode(struct loader *l, u64 rip, u64 rsi);
void entry_protected(struct loader *l, u32 eip);
void entry_real_mode(struct loader *l, u16 cs, u16 ip, u16 sp);

/* --- linux.c ---------------------------------------------------------------------------------- */
bool linux_is_bzimage(const struct file *f);
int linux_load_bzimage(struct loader *l, struct err *e);
/* The first step of it, ahead of time: 0 with *v, or -errno if the kernel has to unpack itself. */
int linux_unpack(struct loader *l, struct vmlinux *v);

/* The fields of a bzImage's setup header that we act on (boot.rst "The Real-Mode Kernel Header").
 */
struct linux_header {
	u16 version;
	u16 xloadflags;
	u32 setup_len;   /* bytes of real-mode code, with the boot sector */
	u32 header_len;  /* bytes from 0x1f1 to copy into boot_params */
	u8 loadflags;
	bool relocatable;
	u32 alignment;
	u32 cmdline_size;
	u32 initrd_max;
	u32 code32_start;
	u64 pref_address;
	u64 init_size;
	const u8 *code;  /* the protected-mode part */
	u64 code_len;
	const u8 *payload; /* compressed; NULL if none is described */
	u64 payload_len;
};
/* For a kernel that firmware puts at LINUX_LOAD_HIGH and enters at its set-up code: can it be done,
 * with this command line and memory below l->low_top; then, fill in the set-up code. */
int linux_check_for_firmware(struct loader *l, struct linux_header *h, struct err *e);
void linux_finish_setup(struct loader *l, u8 *setup);
enum { LINUX_LOAD_HIGH = 0x100000 };
/* NULL, or what is wrong with it. */
const char *linux_parse_header(const struct file *f, struct linux_header *h);
/* Fill and place boot_params: header is the kernel's setup header from 0x1f1 (NULL: an ELF kernel,
 * which has none). */
void linux_put_zero_page(struct loader *l, const u8 *header, u32 header_len, u8 loadflags);

/* --- payload.c -------------------------------------------------------------------------------- */
/* Unpack a compressed payload (as the kernel's build makes it) to dst.  Returns the unpacked size,
 * or -ENOTSUP (method not known), -EINVAL (damaged), -ENOSPC (more than cap). */
s64 payload_unpack(struct boot_heap *heap, const u8 *src, size_t len, u8 *dst, size_t cap);
#define BOOT_UNPACK_MAX (144 * MIB) /* of memory: an xz dictionary; kernels use 32 to 128 MiB */
/* "gzip", "xz", ... or NULL. */
const char *payload_method(const u8 *src, size_t len);

/* --- drivers.c -------------------------------------------------------------------------------- */
/* DRIVER_MMIO, DRIVER_PCI: in an image of 64-bit code, aligned to 8; in an initrd, if any. */
u32 drivers_in_kernel(const u8 *image, u64 len);
u32 drivers_in_initrd(struct boot_heap *heap, const struct file *f);

/* --- elf.c ------------------------------------------------------------------------------------ */
enum { ELF_SEGS_MAX = 16 };

struct elf_seg {
	u64 off, filesz, vaddr, paddr, memsz;
};

struct elf_image {
	bool is64;
	u64 entry;        /* physical */
	bool entry_inside; /* it lies in a loaded segment */
	u64 lo, hi;       /* physical, of all segments */
	u64 file_end;     /* end of headers, segments and section headers in the file */
	u32 pvh_entry;    /* 0: no note */
	u32 n;
	struct elf_seg seg[ELF_SEGS_MAX]; /* PT_LOAD with memsz, sorted by paddr */
};
bool elf_is(const struct file *f);
/* NULL, or what is wrong with it.  data may be guest memory: headers are copied once. */
const char *elf_parse(const u8 *data, u64 len, struct elf_image *img);
/* Above 1 MiB, or between low and low_end, where the caller has put nothing. */
int elf_load_segments(struct loader *l, const struct elf_image *img, u64 low, u64 low_end,
		      struct err *e);
int elf_load_kernel(struct loader *l, struct err *e);

/* --- vmlinux.c: a bzImage's payload, unpacked and entered by us ------------------------------- */
/* Place the kernel, or -errno: the caller then lets the bzImage unpack itself. */
int vmlinux_unpack(struct loader *l, const struct linux_header *h, struct vmlinux *v);
/* Add shift to the words that the relocation lists name, in an image whose first byte is at code
 * and linked at 0xffffffff80000000 + pref.  False: the lists are damaged. */
bool vmlinux_relocate(const u8 *lists, u64 lists_len, u8 *code, u64 code_len, u64 pref, u64 shift);

/* --- the rest --------------------------------------------------------------------------------- */
bool multiboot_is(const struct file *f);
int multiboot_load(struct loader *l, struct err *e);
int pvh_start(struct loader *l, const struct elf_image *img, struct err *e); /* pvh.c */
int bios_load(const struct boot_config *c, struct memory *m, struct err *e);
int acpi_put(struct loader *l, struct err *e);              /* sets l->rsdp */
void acpi_put_pci(struct aml *a, const struct boot_pci *pci); /* acpi_pci.c: its devices */
int mptable_put(struct loader *l, struct err *e);
void smbios_put(struct loader *l);
void stub_put(struct loader *l);                             /* IVT, BDA, BIOS calls */

/* --- for firmware: firmware.c, and the files that others make --------------------------------- */
/* Copies are kept; the first failure is kept too, and reported at the end. */
void firmware_add_file(struct firmware *f, const char *name, const void *data, size_t len);
int acpi_add_files(struct firmware *f, const struct boot_config *c, struct err *e);
void smbios_add_files(struct firmware *f, const struct boot_config *c, const struct memory *m);
#define KERNEL_ROM "genroms/kernel.rom" /* kernel_rom.c: SeaBIOS runs all files with such a name */
void firmware_add_kernel_rom(struct firmware *f, const struct loader *l,
			     const struct linux_header *h);
