/* elf.c - ELF kernels: reads headers, program segments and the PVH note with every bound checked,
 * and loads the segments at their physical addresses.
 * Sources: System V ABI "Object Files", "Program Header"; Xen public/elfnote.h; Linux
 * Documentation/x86/boot.rst "64-bit Boot Protocol". */
#include "parts.h"

enum { CLASS_32 = 1, CLASS_64 = 2, LITTLE_ENDIAN_DATA = 1, MACHINE_386 = 3, MACHINE_X86_64 = 62 };
enum { PT_LOAD = 1, PT_NOTE = 4, PHDRS_MAX = 64 };
enum { EHDR32 = 52, EHDR64 = 64, PHDR32 = 32, PHDR64 = 56 };
enum { XEN_NOTE_PHYS32_ENTRY = 18, NOTE_HEAD = 12 };
enum { LINUX_CMDLINE_SIZE = 2047 };
#define LINUX_INITRD_LIMIT (2 * GIB)

bool elf_is(const struct file *f)
{
	return f->len >= EHDR32 && !memcmp(f->data, "\177ELF", 4);
}

struct phdr {
	u32 type;
	struct elf_seg s;
};

static struct phdr phdr_read(const u8 *p, bool is64)
{
	if (is64)
		return (struct phdr){ ld32(p), { .off = ld64(p + 8), .vaddr = ld64(p + 16),
			.paddr = ld64(p + 24), .filesz = ld64(p + 32), .memsz = ld64(p + 40) } };
	return (struct phdr){ ld32(p),
			      { .off = ld32(p + 4),
				.vaddr = ld32(p + 8),
				.paddr = ld32(p + 12),
				.filesz = ld32(p + 16),
				.memsz = ld32(p + 20) } };
}

/* Look for the PVH entry in one note segment.  Every step moves on by at least a note's head, and
 * all sums are of 32-bit sizes in 64 bits, so hostile sizes neither loop nor wrap. */
static void find_pvh_note(const u8 *p, u64 len, struct elf_image *img)
{
	u64 pos = 0;

	while (len - pos >= NOTE_HEAD) {
		u64 namesz = ld32(p + pos), descsz = ld32(p + pos + 4);
		u32 type = ld32(p + pos + 8);
		u64 desc = pos + NOTE_HEAD + ALIGN_UP(namesz, 4);
		u64 next = desc + ALIGN_UP(descsz, 4);

		if (desc > len || descsz > len - desc)
			return;
		if (type == XEN_NOTE_PHYS32_ENTRY && namesz == 4 &&
		    !memcmp(p + pos + NOTE_HEAD, "Xen", 4) && descsz >= 4)
			img->pvh_entry = ld32(p + desc);
		if (next > len)
			return;
		pos = next;
	}
}

/* Keep img->seg sorted by physical address; what is wrong, or NULL. */
static const char *add_segment(struct elf_image *img, const struct elf_seg *s)
{
	u32 at = img->n;
	u64 end;

	if (s->filesz > s->memsz || !add_u64(s->paddr, s->memsz, &end))
		return "has a segment with impossible sizes";
	if (img->n == ELF_SEGS_MAX)
		return "has more segments than any kernel";
	while (at && img->seg[at - 1].paddr > s->paddr)
		at--;
	if ((at && img->seg[at - 1].paddr + img->seg[at - 1].memsz > s->paddr) ||
	    (at < img->n && end > img->seg[at].paddr))
		return "has segments that overlap";
	memmove(&img->seg[at + 1], &img->seg[at], (img->n - at) * sizeof img->seg[0]);
	img->seg[at] = *s;
	img->n++;
	img->lo = img->seg[0].paddr;
	img->hi = MAX(img->hi, end);
	return NULL;
}

/* Linux gives a physical entry, others a virtual one. */
static void resolve_entry(struct elf_image *img, u64 entry)
{
	img->entry = entry;
	for (u32 i = 0; i < img->n && !img->entry_inside; i++)
		img->entry_inside = entry - img->seg[i].paddr < img->seg[i].memsz;
	for (u32 i = 0; i < img->n && !img->entry_inside; i++) {
		if (entry - img->seg[i].vaddr >= img->seg[i].memsz)
			continue;
		img->entry_inside = true;
		img->entry = img->seg[i].paddr + (entry - img->seg[i].vaddr);
	}
}

static const char *parse_segments(const u8 *data, u64 len, u64 phoff, u32 n, struct elf_image *img)
{
	u64 size = img->is64 ? PHDR64 : PHDR32;

	if (n == 0 || n > PHDRS_MAX)
		return "has no segments to load";
	if (phoff > len || n * size > len - phoff)
		return "is truncated; copy it again";
	img->file_end = MAX(img->file_end, phoff + n * size);
	for (u32 i = 0; i < n; i++) {
		struct phdr ph = phdr_read(data + phoff + i * size, img->is64);
		const char *why = NULL;

		if (ph.type != PT_LOAD && ph.type != PT_NOTE)
			continue;
		if (ph.s.off > len || ph.s.filesz > len - ph.s.off)
			return "is truncated; copy it again";
		img->file_end = MAX(img->file_end, ph.s.off + ph.s.filesz);
		if (ph.type == PT_NOTE)
			find_pvh_note(data + ph.s.off, ph.s.filesz, img);
		else if (ph.s.memsz)
			why = add_segment(img, &ph.s);
		if (why)
			return why;
	}
	return img->n ? NULL : "has no segments to load";
}

const char *elf_parse(const u8 *data, u64 len, struct elf_image *img)
{
	u8 h[EHDR64];
	u64 phoff, shoff, shdrs;
	const char *why;

	memset(img, 0, sizeof *img);
	if (len < sizeof h || memcmp(data, "\177ELF", 4))
		return "not an ELF file";
	memcpy(h, data, sizeof h);
	img->is64 = h[4] == CLASS_64;
	if ((h[4] != CLASS_32 && h[4] != CLASS_64) || h[5] != LITTLE_ENDIAN_DATA ||
	    ld16(h + 18) != (img->is64 ? MACHINE_X86_64 : MACHINE_386))
		return "is for another kind of machine; give an x86 kernel";
	if (ld16(h + (img->is64 ? 54 : 42)) != (img->is64 ? PHDR64 : PHDR32))
		return "is not an executable; give a linked vmlinux";
	phoff = img->is64 ? ld64(h + 32) : ld32(h + 28);
	shoff = img->is64 ? ld64(h + 40) : ld32(h + 32);
	shdrs = (u64)ld16(h + (img->is64 ? 58 : 46)) * ld16(h + (img->is64 ? 60 : 48));
	img->file_end = img->is64 ? EHDR64 : EHDR32;
	if (shoff <= len && shdrs <= len - shoff)
		img->file_end = MAX(img->file_end, shoff + shdrs);
	why = parse_segments(data, len, phoff, ld16(h + (img->is64 ? 56 : 44)), img);
	if (!why)
		resolve_entry(img, img->is64 ? ld64(h + 24) : ld32(h + 24));
	return why;
}

int elf_load_segments(struct loader *l, const struct elf_image *img, u64 low, u64 low_end,
		      struct err *e)
{
	for (u32 i = 0; i < img->n; i++) {
		const struct elf_seg *s = &img->seg[i];
		u8 *dst = mem_ptr_rw(l->m, s->paddr, s->memsz);

		if (!dst ||
		    (s->paddr < LOW_END && (s->paddr < low || s->paddr + s->memsz > low_end)))
			return err_set(e, -ENOMEM,
				       "kernel %s: its segment at %#llx, %llu KiB, is not in the "
				       "guest's memory; give more with --mem",
				       l->kernel.path, (unsigned long long)s->paddr,
				       (unsigned long long)(s->memsz / KIB));
		memcpy(dst, l->kernel.data + s->off, s->filesz);
		mem_dirty(l->m, s->paddr, s->memsz);
	}
	return 0;
}

static int load_linux(struct loader *l, const struct elf_image *img, struct err *e)
{
	int rc;

	if (l->cmdline_len > LINUX_CMDLINE_SIZE)
		return err_set(e, -E2BIG,
			       "kernel %s: takes a command line of at most %d bytes, this one has "
			       "%zu; shorten --cmdline",
			       l->kernel.path, LINUX_CMDLINE_SIZE, l->cmdline_len);
	rc = boot_load_initrd(l, img->hi, LINUX_INITRD_LIMIT, e);
	if (rc < 0)
		return rc;
	linux_put_zero_page(l, NULL, 0, 1 /* LOADED_HIGH */);
	entry_long_mode(l, img->entry, LOW_ZERO_PAGE);
	log_dbg("boot", "ELF kernel, 64-bit entry at %#llx", (unsigned long long)img->entry);
	return 0;
}

int elf_load_kernel(struct loader *l, struct err *e)
{
	struct elf_image img;
	const char *why = elf_parse(l->kernel.data, l->kernel.len, &img);
	enum boot_entry entry = l->c->entry;
	int rc;

	if (why)
		return err_set(e, -ENOEXEC, "kernel %s: %s", l->kernel.path, why);
	if (entry == BOOT_AUTO)
		entry = img.pvh_entry && !(img.is64 && img.entry_inside) ? BOOT_PVH : BOOT_64;
	if (entry == BOOT_64 && !img.is64 && multiboot_is(&l->kernel))
		return multiboot_load(l, e);
	if (entry == BOOT_PVH ? !img.pvh_entry : entry != BOOT_64 || !img.is64 || !img.entry_inside)
		return err_set(e, -ENOTSUP,
			       "kernel %s: an ELF file without %s entry; choose another entry",
			       l->kernel.path,
			       entry == BOOT_PVH  ? "PVH"
			       : entry == BOOT_64 ? "64-bit"
			       : entry == BOOT_32 ? "32-bit"
						  : "16-bit");
	rc = elf_load_segments(l, &img, 0, 0, e);
	if (rc < 0)
		return rc;
	if (entry == BOOT_PVH)
		return pvh_start(l, &img, e);
	return load_linux(l, &img, e);
}
