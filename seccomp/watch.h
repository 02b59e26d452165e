/* watch.h - the parent: what is left of the process that the user started.
 *
 * It does nothing but wait: passes signals on, and when the child has ended, puts the terminal
 * right, explains a violent end, and ends with the child's status. */
#pragma once

#include "sandbox.h"

/* Written by a thread that made a forbidden call, or by an attacker: numbers, for printing only. */
struct witness {
	u32 code, arch, nr, thread;
	u64 rip, arg[3];
	u8 pad[4096 - 48];
};

#define WITNESS_TEXT "%s thread: system call %u (%#llx, %#llx, %#llx) at mvm+%#llx"

/* An address in mvm, as its debug file has it. */
u64 watch_offset(u64 rip);

_Noreturn void watch(pid_t child, const struct witness *w, void (*restore)(void));
