/* Fuzz target: a bzImage and the payload inside it.  So that mutations get past the magic numbers,
 * the target writes them itself unless the first byte says otherwise; its next bits choose the
 * method. */
#include <stdlib.h>

#include "../../boot/parts.h"

enum { FILE_MAX = 1 << 16, RAM_MIB = 32, PAYLOAD = 0x800 };

static struct loader l;
static struct boot_config config = { .nr_vcpus = 1 };
static struct memory memory;
static struct cpu_state state;

static void stamp(u8 *p, size_t len, u8 how)
{
	static const u8 magic[4][6] = { { 0x1f, 0x8b, 8 }, { 0xfd, '7', 'z', 'X', 'Z', 0 },
					{ 0x02, 0x21, 0x4c, 0x18 }, { 0x28, 0xb5, 0x2f, 0xfd } };

	if (how & 1 || len < PAYLOAD + 64)
		return;
	p[0x1f1] = 1;
	st16(p + 0x1fe, 0xaa55);
	st32(p + 0x202, 0x53726448);
	st16(p + 0x206, 0x20f);
	p[0x211] |= 1;
	if (how & 2)
		return;
	st32(p + 0x1f4, (u32)(len - 1024) / 16);
	st32(p + 0x248, PAYLOAD - 1024);
	st32(p + 0x24c, (u32)len - PAYLOAD);
	st64(p + 0x258, 8 * MIB);
	st32(p + 0x260, MIB);
	memcpy(p + PAYLOAD, magic[how >> 2 & 3],
	       (how >> 2 & 3) == 1   ? 6
	       : (how >> 2 & 3) == 0 ? 3
				     : 4);
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
	if (linux_is_bzimage(&l.kernel))
		linux_load_bzimage(&l, &e);
	free(p);
	return 0;
}
