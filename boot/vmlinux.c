/* vmlinux.c - does the work of a bzImage's own unpacker: payload to ELF, segments to their places,
 * and KASLR with the relocation lists that the kernel's build appends to the ELF file.
 *
 * The payload is unpacked so that the first segment, most of the kernel, lands where it runs; the
 * others only ever move down.  Whatever looks unusual is an error, on which the caller lets the
 * kernel unpack itself.
 * Sources: Linux arch/x86/boot/compressed/{misc,kaslr}.c, arch/x86/tools/relocs.c; all memory below
 * 4 GiB is ours to choose from, as nothing else has been loaded. */
#include "parts.h"

#include <sys/mman.h>
#include <sys/random.h>

#define KERNEL_MAP 0xffffffff80000000ull      /* __START_KERNEL_map */
#define KERNEL_WINDOW GIB                     /* KERNEL_IMAGE_SIZE with CONFIG_RANDOMIZE_BASE */
#define ELF_HEAD (2 * MIB) /* file offset of the first segment in x86-64 builds */
#define LOWEST_PLACE (2 * ELF_HEAD)           /* leaves the first 2 MiB alone */
enum { POPULATE_WRITE = 23 }; /* MADV_POPULATE_WRITE of Linux 5.14; musl does not name it */
#define ALIGNMENT (2 * MIB)                   /* the kernel's page tables map it in such pages */

static u64 random_below(u64 n)
{
	u64 r;

	if (n < 2 || getrandom(&r, sizeof r, 0) != sizeof r)
		return 0;
	return r % n;
}

/* --- relocation ------------------------------------------------------------------------------- */
struct reloc_walk {
	const u8 *lists;
	u64 pos;      /* the next word ends here */
	u8 *code;
	u64 code_len;
	u64 link;     /* virtual address of code[0] */
};

/* Apply one list, backwards to its zero word.   size is 4 or 8; false: it runs off or points
 * outside. */
static bool apply_list(struct reloc_walk *w, unsigned size, u64 shift)
{
	while (w->pos >= 4) {
		u32 site = ld32(w->lists + (w->pos -= 4));
		u64 off = (u64)(s64)(s32)site - w->link;

		if (site == 0)
			return true;
		if (w->code_len < size || off > w->code_len - size)
			return false;
		if (size == 8)
			st64(w->code + off, ld64(w->code + off) + shift);
		else
			st32(w->code + off, ld32(w->code + off) + (u32)shift);
	}
	return false;
}

static unsigned count_lists(const u8 *lists, u64 len)
{
	unsigned n = 0;

	for (u64 i = 0; i < len; i += 4)
		n += ld32(lists + i) == 0;
	return n;
}

/* From the end: 32-bit sites, 32-bit sites relative to per-CPU data at 0 (inverse; gone since Linux
 * 6.15), 64-bit sites.  Each list is closed by a zero at its lower end. */
bool vmlinux_relocate(const u8 *lists, u64 lists_len, u8 *code, u64 code_len, u64 pref, u64 shift)
{
	struct reloc_walk w = { lists, lists_len, code, code_len, KERNEL_MAP + pref };
	unsigned n = lists_len % 4 ? 0 : count_lists(lists, lists_len);

	if (n != 2 && n != 3)
		return false;
	return apply_list(&w, 4, shift) && (n == 2 || apply_list(&w, 4, -shift)) &&
	       apply_list(&w, 8, shift) && w.pos == 0;
}

/* --- placement -------------------------------------------------------------------------------- */
/* Where the first segment goes: at random if there is room, else where it is linked, else lower: a
 * kernel entered directly does not mind, and a small guest has no other place.  The initrd
 * lies above it, and there is a limit to where a kernel looks for that. */
static u64 choose_place(struct loader *l, const struct linux_header *h, u64 unpacked, bool kaslr)
{
	u64 top = l->initrd_room ? MIN(l->low_top, (u64)h->initrd_max + 1) : l->low_top;
	u64 want = MAX(unpacked, h->init_size) + l->initrd_room + MIB;
	u64 lowest = ALIGN_UP(MAX(h->pref_address, LOWEST_PLACE), ALIGNMENT);

	if (lowest + want > top)
		return lowest - ELF_HEAD + unpacked + l->initrd_room + MIB > top
			       ? LOWEST_PLACE
			       : lowest;
	if (!kaslr)
		return lowest;
	return lowest + random_below((top - want - lowest) / ALIGNMENT + 1) * ALIGNMENT;
}

struct placing {
	u8 *ram;       /* host address of guest address 0 */
	u64 ram_len;
	u64 file;      /* guest address of the unpacked file */
	u64 file_len;
	u64 place;     /* of the first segment */
	struct elf_image img;
};

static bool parse_unpacked(struct placing *p)
{
	const struct elf_image *img = &p->img;
	u64 link;

	if (elf_parse(p->ram + p->file, p->file_len, &p->img) || !img->is64 || !img->entry_inside)
		return false;
	link = img->seg[0].vaddr - KERNEL_MAP;
	return img->lo == link && img->lo % ALIGNMENT == 0 &&
	       img->hi - img->lo <= KERNEL_WINDOW - img->lo &&
	       img->hi - img->lo <= p->ram_len - p->place;
}

/* Usually nothing to do: see ELF_HEAD. */
static bool align_file(struct placing *p)
{
	u64 to = p->place - p->img.seg[0].off;

	if (p->img.seg[0].off > p->place - MIB || p->file_len > p->ram_len - to)
		return false;
	if (to != p->file)
		memmove(p->ram + to, p->ram + p->file, p->file_len);
	p->file = to;
	return true;
}

static u64 seg_place(const struct placing *p, const struct elf_seg *s)
{
	return p->place + (s->paddr - p->img.lo);
}

/* Segments are sorted by address and do not overlap; if they also lie in the file in that order and
 * none moves up, then none overwrites a later one's source. */
static bool move_segments(struct placing *p)
{
	for (u32 i = 0; i < p->img.n; i++) {
		const struct elf_seg *s = &p->img.seg[i];

		if (seg_place(p, s) > p->file + s->off || (i && s->off < s[-1].off + s[-1].filesz))
			return false;
	}
	for (u32 i = 0; i < p->img.n; i++) {
		const struct elf_seg *s = &p->img.seg[i];

		if (seg_place(p, s) != p->file + s->off)
			memmove(p->ram + seg_place(p, s), p->ram + p->file + s->off, s->filesz);
	}
	return true;
}

/* What the file left where segments have no file bytes (bss). */
static void clear_bss(struct placing *p)
{
	u64 file_end = p->file + p->file_len;

	for (u32 i = 0; i < p->img.n; i++) {
		const struct elf_seg *s = &p->img.seg[i];
		u64 from = seg_place(p, s) + s->filesz,
		    to = MIN(seg_place(p, s) + s->memsz, file_end);

		if (from < to)
			memset(p->ram + from, 0, to - from);
	}
}

/* Move the kernel in its virtual window.  True if it moved (or might have); *ok is false if the
 * lists were damaged, which leaves the image half relocated. */
static bool randomise(struct placing *p, bool *ok)
{
	u64 lists = p->img.file_end, len = p->file_len - lists;
	u64 size = MAX(p->file_len, p->img.hi - p->img.lo);
	u64 slots;

	*ok = true;
	if (len < 8 || p->img.lo + size > KERNEL_WINDOW)
		return false; /* no lists: not built for KASLR */
	slots = (KERNEL_WINDOW - p->img.lo - size) / ALIGNMENT + 1;
	*ok = vmlinux_relocate(p->ram + p->file + lists, len, p->ram + p->place,
			       p->img.hi - p->img.lo, p->img.lo, random_below(slots) * ALIGNMENT);
	return *ok;
}

/* One call for all page faults to come: they would cost more than the unpacking.  Only a hint: an
 * old host kernel may refuse. */
static void populate(u8 *p, u64 len)
{
	u8 *page = (u8 *)ALIGN_DOWN((uintptr_t)p, PAGE_SIZE);

	madvise(page, len + (u64)(p - page), POPULATE_WRITE);
}

int vmlinux_unpack(struct loader *l, const struct linux_header *h, struct vmlinux *v)
{
	bool kaslr = !boot_has_word(l->cmdline, "nokaslr"), ok = true;
	struct placing p = { .ram = mem_ptr_rw(l->m, 0, l->low_top), .ram_len = l->low_top };
	u64 expect;
	s64 n;

	if (!h->payload || h->payload_len < 8 || !p.ram)
		return -ENOTSUP;
	expect = ld32(h->payload + h->payload_len - 4);
	p.place = choose_place(l, h, expect, kaslr);
	p.file = p.place - ELF_HEAD;
	if (p.place >= l->low_top || expect > l->low_top - p.file)
		return -ENOSPC;
	populate(p.ram + p.file, expect);
	n = payload_unpack(l->heap, h->payload, h->payload_len, p.ram + p.file,
		l->low_top - p.file);
	if (n < 0)
		return (int)n;
	p.file_len = (u64)n;
	if (!parse_unpacked(&p) || !align_file(&p) || !move_segments(&p))
		return -ENOEXEC;
	v->kaslr = kaslr && randomise(&p, &ok);
	if (!ok)
		return -EINVAL;
	clear_bss(&p);
	mem_dirty(l->m, p.file, p.file_len);
	v->start = p.place;
	v->text_len = p.img.seg[0].filesz;
	v->entry = p.place + (p.img.entry - p.img.lo);
	v->end = p.place + (p.img.hi - p.img.lo);
	return 0;
}
