/* filter.h - the seccomp program of each kind of thread, as bytes for seccomp(2).
 *
 * The programs are compiled from policy.def when mvm is built.  A call outside a thread's rows is
 * not made: SIGSYS comes instead, its handler notes what was called and calls FILTER_DIE, at which
 * the programs kill the process (see sandbox.c).  Calls of other architectures kill at once. */
#pragma once

#include <linux/filter.h>

#include "../base.h"

enum filter_thread { FILTER_LOOP, FILTER_TCG, FILTER_KVM, FILTER_DISK, FILTER_WATCH, FILTER_NR };
enum { FILTER_DIE = 317 /* seccomp(2): nobody installs filters any more */ };

/* What SECCOMP_SET_MODE_FILTER wants; const, never freed. */
const struct sock_fprog *filter_program(enum filter_thread t);

const char *filter_thread_name(enum filter_thread t);
