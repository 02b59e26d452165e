/* filter.h - the seccomp program of each kind of thread, as bytes for seccomp(2).
 *
 * The programs are compiled from policy.def when mvm is built; nothing here allocates or can fail.
 * A thread of mvm that makes a system call outside its row set is killed with the whole process. */
#pragma once

#include <linux/filter.h>

#include "../base.h"

enum filter_thread { FILTER_LOOP, FILTER_VCPU, FILTER_DISK, FILTER_NR };

/* What SECCOMP_SET_MODE_FILTER wants; const, never freed. */
const struct sock_fprog *filter_program(enum filter_thread t);

const char *filter_thread_name(enum filter_thread t);
