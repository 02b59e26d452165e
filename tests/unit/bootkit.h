/* bootkit.h - for the tests of boot/: kernel files made in memory, and a loading without a machine.
 */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../boot/parts.h"
#include "../test.h"

/* A file that exists only as long as the test; its path. */
static inline const char *kit_file(const void *data, size_t len)
{
	static char path[8][32];
	static int n;
	char *p = path[n++ % 8];
	int fd = memfd_create("kit", 0);

	OK(fd >= 0);
	OK(write(fd, data, len) == (ssize_t)len);
	snprintf(p, 32, "/proc/self/fd/%d", fd);
	return p;
}

struct kit {
	struct boot_config c;
	struct memory m;
	struct cpu_state s;
	struct err e;
};

static inline struct kit *kit_new(u64 mib)
{
	struct kit *k = calloc(1, sizeof *k);

	OK(k);
	k->c.nr_vcpus = 1;
	k->c.serial_ports = 1;
	OK(memory_init(&k->m, mib * MIB, &k->e) == 0);
	return k;
}

static inline int kit_boot(struct kit *k, const void *kernel, size_t len)
{
	k->c.kernel = kit_file(kernel, len);
	cpu_state_reset(&k->s, true);
	return boot_load(&k->c, &k->m, &k->s, &k->e);
}

static inline u8 *kit_at(struct kit *k, gpa_t gpa)
{
	u8 *p = mem_ptr(&k->m, gpa, 1);

	OK(p);
	return p;
}

static inline void kit_free(struct kit *k)
{
	memory_free(&k->m);
	free(k);
}

/* A minimal bzImage: protocol 2.15, five set-up sectors, `code_len` bytes of 0xc0 as its code. */
enum { KIT_SETUP = 6 * 512, KIT_BZIMAGE_MAX = 1 << 20 };

static inline size_t kit_bzimage(u8 *p, size_t code_len)
{
	memset(p, 0, KIT_SETUP);
	memset(p + KIT_SETUP, 0xc0, code_len);
	p[0x1f1] = 5;
	st32(p + 0x1f4, (u32)(code_len / 16));
	st16(p + 0x1fe, 0xaa55);
	p[0x201] = 0x6a;
	st32(p + 0x202, 0x53726448);
	st16(p + 0x206, 0x20f);
	p[0x211] = 1;
	st32(p + 0x214, 0x100000);
	st32(p + 0x22c, 0x7fffffff);
	st32(p + 0x230, 0x200000);
	p[0x234] = 1;
	st16(p + 0x236, 0x3f);
	st32(p + 0x238, 2047);
	st64(p + 0x258, 0x1000000);
	st32(p + 0x260, 0x800000);
	return KIT_SETUP + code_len;
}

/* An ELF64 of one segment, `len` bytes at 16 MiB; returns the file's size. */
static inline size_t kit_elf(u8 *p, u32 off, u32 len)
{
	memset(p, 0, off + len);
	memcpy(p, "\177ELF\2\1\1", 7);
	st16(p + 16, 2);
	st16(p + 18, 62);
	st32(p + 20, 1);
	st64(p + 24, 0x1000000);
	st64(p + 32, 64);
	st16(p + 52, 64);
	st16(p + 54, 56);
	st16(p + 56, 1);
	st32(p + 64, 1);
	st64(p + 72, off);
	st64(p + 80, 0xffffffff81000000);
	st64(p + 88, 0x1000000);
	st64(p + 96, len);
	st64(p + 104, len + 0x1000);
	memset(p + off, 0x90, len);
	return off + len;
}
