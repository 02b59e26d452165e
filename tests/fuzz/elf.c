/* Fuzz target: an ELF kernel with its notes, or a multiboot one.  The target writes the magic
 * numbers and small, plausible table offsets itself unless the first byte says otherwise. */
#include "kit.h"

static void stamp(u8 *p, size_t len, u8 how)
{
	bool is64 = how & 2;

	if (how & 1 || len < 256)
		return;
	memcpy(p, "\177ELF\0\1\1", 7);
	p[4] = is64 ? 2 : 1;
	st16(p + 18, is64 ? 62 : 3);
	if (is64) {
		st64(p + 32, p[32]);
		st16(p + 54, 56);
		st16(p + 56, p[56] % 4);
	} else {
		st32(p + 28, p[28]);
		st16(p + 42, 32);
		st16(p + 44, p[44] % 4);
	}
	if (how & 4)
		memcpy(p + 128, "\2\260\255\33\0\0\0\0\376\117\122\344", 12); /* multiboot header */
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	struct loader *l;
	struct err e;

	if (len < 1)
		return 0;
	l = kit_loader(data, len, stamp);
	if (elf_is(&l->kernel))
		elf_load_kernel(l, &e);
	else if (multiboot_is(&l->kernel))
		multiboot_load(l, &e);
	kit_loader_done(l);
	return 0;
}
