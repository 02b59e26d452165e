/* oracle_native.h - the host's side of the oracle.  Kept apart from tcg/'s headers, some of whose
 * names <signal.h> uses too. */
#pragma once

#include "../../base.h"

/* Linear address space.  Code: two pages, then nothing.  Data: nothing, two writable pages, one
 * read-only page, nothing. */
enum {
	CODE = 0x10000000,
	CODE_BYTES = 2 * 4096,
	CODE_END = CODE + CODE_BYTES,
	DATA = 0x20000000,
	DATA_RW_PAGES = 2,
	DATA_PAGES = 3,
	DATA_RO = DATA + DATA_RW_PAGES * 4096,
	DATA_END = DATA + DATA_PAGES * 4096,
	LOW = 0x5a5a0000,
	LOW_BYTES = 2 * 4096, /* the native side's way in and out of 32-bit code */
};
/* What lies around the instruction: traps on each side, so that a jump is seen where it lands. */
enum { FILL_NATIVE = 0xcc /* INT3 */, FILL_GUEST = 0xf4 /* HLT: #GP in ring 3 */ };
enum { VECTOR_BP = 3, VECTOR_PF = 14, VECTOR_AC = 17, VECTOR_NONE = 0xff };
/* 32-bit code runs in an LDT segment of ours: a kernel without 32-bit programs has none in its GDT.
 */
enum { SEL_CS64 = 0x33, SEL_CS32 = 0x07, SEL_DATA = 0x2b };

/* Registers before, and after on either side.  oracle_native.c's assembler knows the offsets. */
struct regs {
	u64 gpr[16];
	u64 flags, rip;
	u64 fs_base, gs_base;
	u16 sel[8]; /* enum sreg */
	u64 cr2;
	u32 error;
	u32 vector; /* VECTOR_NONE: completed; rip is then where it went on */
	u8 fx[832] __attribute__((aligned(64)));
};

/* What the host is to run: len bytes of code at start->rip. */
struct native_case {
	const u8 *code;
	unsigned len;
	bool fp, segs, own_bases;
	bool mode32;
	const struct regs *start;
};

/* What can the host do for us?  Before any job. */
void native_side_probe(void);
void native_side_init(void); /* in each job */
bool native_side_has_fsgsbase(void);
bool native_side_has_32bit(void);
void native_side_run(const struct native_case *t, struct regs *out);
extern u8 *native_data; /* writable view of DATA */

/* Run job(arg, 0) ... job(arg, n - 1), each in a process (and on a processor) of its own; false if
 * one died. */
bool jobs_run(unsigned n, void (*job)(void *arg, unsigned i), void *arg);
