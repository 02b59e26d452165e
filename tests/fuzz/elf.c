/* Fuzz target: an ELF kernel with its notes, or a multiboot one.  The target writes the magic
 * numbers and small, plausible table offsets itself unless the first byte says otherwise. */
#include <stdlib.h>

#include "../../boot/parts.h"

enum { FILE_MAX = 1 << 16, RAM_MIB = 32 };

static struct loader l;
static struct boot_config config = { .nr_vcpus = 1 };
static struct memory memory;
static struct cpu_state state;

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

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);
int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	struct err e;
	u8 *p;

	if (len < 1)
		return 0;
	if (!memory.n && memory_init(&memory, RAM_MIB * MIB, &e) < 0)
		abort();
	len = MIN(len - 1, FILE_MAX);
	p = malloc(len + 1);
	if (!p)
		abort();
	memcpy(p, data + 1, len);
	stamp(p, len, data[0]);
	l = (struct loader){ .c = &config,
			     .m = &memory,
			     .bsp = &state,
			     .kernel = { "fuzz", p, len },
			     .low_top = RAM_MIB * MIB };
	config.entry = (enum boot_entry)(data[0] >> 4) % 5;
	if (elf_is(&l.kernel))
		elf_load_kernel(&l, &e);
	else if (multiboot_is(&l.kernel))
		multiboot_load(&l, &e);
	free(p);
	return 0;
}
