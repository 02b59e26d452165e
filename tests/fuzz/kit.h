/* kit.h - what fuzz targets share: the input as a script, the whole PC on a clock of its own, and a
 * loader with memory to load into. */
#pragma once

#include <stdlib.h>

#include "../../board.h"
#include "../../boot/parts.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

/* The input, taken from its front; bytes past its end are zero. */
struct script {
	const u8 *at;
	size_t left;
};

static inline u64 script_take(struct script *s, unsigned bytes)
{
	u64 val = 0;

	for (unsigned i = 0; i < bytes && s->left; i++, s->left--)
		val |= (u64)*s->at++ << i * 8;
	return val;
}

/* The board of board.c with two CPUs that nobody runs, a disk in memory, an entropy device,
 * firmware configuration, a serial line; the clock moves by loop_advance.  Made once; kit_pc_reset
 * makes it new, with RAM zero. */
enum { KIT_RAM = 2 << 20, KIT_CPUS = 2, KIT_SECTORS = 64 };

struct machine *kit_pc(enum transport transport);
void kit_pc_reset(struct machine *m);
/* Save every device and CPU, load all of it again: what a guest brought about can be loaded. */
void kit_pc_save_and_load(struct machine *m);

/* A kernel to load: the input's first byte, which also chooses the entry, says what stamp() writes
 * into the rest; in memory of just its size, so that a read past its end is seen. */
struct loader *kit_loader(const u8 *data, size_t len, void (*stamp)(u8 *file, size_t len, u8 how));
void kit_loader_done(struct loader *l);
