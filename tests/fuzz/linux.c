/* Fuzz target: a bzImage and the payload inside it.  So that mutations get past the magic numbers,
 * the target writes them itself unless the first byte says otherwise; its next bits choose the
 * method. */
#include "kit.h"

enum { PAYLOAD = 0x800 };

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

/* As firmware.c does it: the set-up code in a block of its own. */
static void finish_setup(struct loader *l, u32 len)
{
	u8 *setup = malloc(len);

	if (!setup)
		abort();
	memcpy(setup, l->kernel.data, len);
	linux_finish_setup(l, setup);
	free(setup);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	struct linux_header h;
	struct loader *l;
	struct err e;

	if (len < 1)
		return 0;
	l = kit_loader(data, len, stamp);
	if (linux_is_bzimage(&l->kernel)) {
		linux_load_bzimage(l, &e);
		if (linux_check_for_firmware(l, &h, &e) == 0)
			finish_setup(l, h.setup_len);
	}
	kit_loader_done(l);
	return 0;
}
