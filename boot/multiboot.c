/* multiboot.c - Multiboot 1 kernels, as test kernels are: 32-bit ELF, or a flat image whose header
 * names its addresses; the initrd becomes the one module.  The command line is the user's alone,
 * after the kernel's name, as boot loaders have it: mvm's words are Linux's.
 * Source: Multiboot Specification 0.6.96 §3. */
#include <stdio.h>

#include "parts.h"

enum { SEARCH_BYTES = 8192, HEADER_BYTES = 32 };
enum { HEADER_MAGIC = 0x1badb002, LOADER_MAGIC = 0x2badb002 };
enum { WANTS_VIDEO = 1 << 2, HAS_ADDRESSES = 1 << 16 };
enum { INFO_MEMORY = 1, INFO_CMDLINE = 4, INFO_MODS = 8, INFO_MMAP = 0x40, INFO_NAME = 0x200 };
enum {
	INFO_BYTES = 116,
	MODULE = LOW_START_INFO + 0x80,
	NAME = MODULE + 0x10,
	MMAP = MODULE + 0x20
};
enum { MMAP_ROW = 24 };

struct mb_header {
	u32 off; /* in the file */
	u32 flags, header_addr, load_addr, load_end, bss_end, entry;
};

static bool find_header(const struct file *f, struct mb_header *h)
{
	size_t end = MIN(f->len, SEARCH_BYTES);

	for (size_t off = 0; off + HEADER_BYTES <= end; off += 4) {
		const u8 *p = f->data + off;

		if (ld32(p) != HEADER_MAGIC || ld32(p) + ld32(p + 4) + ld32(p + 8) != 0)
			continue;
		*h = (struct mb_header){ (u32)off,     ld32(p + 4),  ld32(p + 12), ld32(p + 16),
					 ld32(p + 20), ld32(p + 24), ld32(p + 28) };
		return true;
	}
	return false;
}

bool multiboot_is(const struct file *f)
{
	struct mb_header h;

	return find_header(f, &h);
}

/* A flat image: the header's own place in file and memory fixes everything else. */
static int load_flat(struct loader *l, const struct mb_header *h, u64 *end, struct err *e)
{
	u32 before = h->header_addr - h->load_addr;
	u64 from, len, bss_end;
	u8 *dst;

	if (h->load_addr > h->header_addr || before > h->off)
		return err_set(e, -ENOEXEC,
			       "kernel %s: its multiboot addresses make no sense; rebuild it",
			       l->kernel.path);
	from = h->off - before;
	len = h->load_end ? (u64)h->load_end - h->load_addr : l->kernel.len - from;
	bss_end = MAX((u64)h->bss_end, h->load_addr + len);
	if ((h->load_end && h->load_end < h->load_addr) || len > l->kernel.len - from)
		return err_set(e, -ENOEXEC, "kernel %s: is truncated; copy it again",
			       l->kernel.path);
	dst = mem_ptr_rw(l->m, h->load_addr, bss_end - h->load_addr);
	if (!dst || h->load_addr < LOW_END)
		return err_set(e, -ENOMEM,
			       "kernel %s: does not fit in the guest's memory at %#x; give more "
			       "with --mem",
			       l->kernel.path, h->load_addr);
	memcpy(dst, l->kernel.data + from, len);
	mem_dirty(l->m, h->load_addr, bss_end - h->load_addr);
	*end = bss_end;
	return 0;
}

static int load_elf(struct loader *l, u32 *entry, u64 *end, struct err *e)
{
	struct elf_image img;
	const char *why = elf_parse(l->kernel.data, l->kernel.len, &img);

	if (!why && (img.is64 || !img.entry_inside))
		why = "its multiboot header needs a 32-bit ELF file with an entry point";
	if (why)
		return err_set(e, -ENOEXEC, "kernel %s: %s", l->kernel.path, why);
	*entry = (u32)img.entry;
	*end = img.hi;
	return elf_load_segments(l, &img, LOW_SETUP_DATA, LOW_CMDLINE, e);
}

static void put_info(struct loader *l)
{
	u8 p[INFO_BYTES] = { 0 }, module[16] = { 0 };

	st32(p, INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_NAME);
	st32(p + 4, LOW_RAM_END / 1024);
	st32(p + 8, (u32)((l->low_top - MIB) / KIB));
	st32(p + 16, LOW_CMDLINE);
	st32(p + 20, l->initrd_len != 0);
	st32(p + 24, MODULE);
	st32(p + 44, l->map.n * MMAP_ROW);
	st32(p + 48, MMAP);
	st32(p + 64, NAME);
	st32(module, (u32)l->initrd);
	st32(module + 4, (u32)(l->initrd + l->initrd_len));
	st32(module + 8, LOW_CMDLINE);
	boot_put(l, LOW_START_INFO, p, sizeof p);
	boot_put(l, MODULE, module, sizeof module);
	boot_put(l, NAME, "mvm", 4);
	for (u32 i = 0; i < l->map.n; i++) {
		u8 row[MMAP_ROW] = { 0 };

		st32(row, MMAP_ROW - 4); /* the size field does not count itself */
		st64(row + 4, l->map.entry[i].addr);
		st64(row + 12, l->map.entry[i].len);
		st32(row + 20, l->map.entry[i].type);
		boot_put(l, MMAP + i * MMAP_ROW, row, sizeof row);
	}
}

/* Shorter than what load_kernel() has accepted, but for the name. */
static void put_cmdline(struct loader *l)
{
	const char *words = l->c->cmdline ? l->c->cmdline : "",
		   *name = strrchr(l->kernel.path, '/');
	int n = snprintf(l->cmdline, sizeof l->cmdline, "%s%s%s", name ? name + 1 : l->kernel.path,
			 *words ? " " : "", words);

	l->cmdline_len = MIN((size_t)n, sizeof l->cmdline - 1);
	boot_put(l, LOW_CMDLINE, l->cmdline, l->cmdline_len + 1);
}

int multiboot_load(struct loader *l, struct err *e)
{
	struct mb_header h = { 0 };
	u64 end = 0;
	int rc;

	if (!find_header(&l->kernel, &h) || h.flags & WANTS_VIDEO)
		return err_set(e, -ENOTSUP,
			       "kernel %s: its multiboot header wants a video mode, and there is "
			       "no display",
			       l->kernel.path);
	if (h.flags & HAS_ADDRESSES)
		rc = load_flat(l, &h, &end, e);
	else
		rc = load_elf(l, &h.entry, &end, e);
	if (rc == 0)
		rc = boot_load_initrd(l, end, 4 * GIB, e);
	if (rc < 0)
		return rc;
	put_cmdline(l);
	put_info(l);
	entry_protected(l, h.entry);
	l->bsp->gpr[RAX] = LOADER_MAGIC;
	l->bsp->gpr[RBX] = LOW_START_INFO;
	log_dbg("boot", "multiboot kernel, entry at %#x", h.entry);
	return 0;
}
