/* sandbox.h - the walls around mvm; SECURITY.md says what each is for.
 *
 * Order: sandbox_join while nothing is open; the machine opens all it needs; sandbox_raise puts the
 * walls up and splits off a parent; in the child the machine takes all memory and starts its
 * threads, each of which calls sandbox_enter; the main thread does so last, after sandbox_limit. */
#pragma once

#include <sys/types.h>

#include "filter.h"

enum sandbox_mode { SANDBOX_ON, SANDBOX_OFF, SANDBOX_LOG };
enum { EXIT_SANDBOX = 4 }; /* exit status: the sandbox ended mvm */

/* The parent hands its signals on as values of this one.  What is sent to the process group or
 * the control group reaches the child as well, which leaves it alone; but while that is pending a
 * second of the same number would be lost, and real-time signals queue. */
enum { WATCH_SIGNAL = 64 };

#define SANDBOX_NO_ID UINT32_MAX

struct sandbox_config {
	u32 mode; /* enum sandbox_mode */
	/* For service managers that start mvm as root; NULL, SANDBOX_NO_ID: stay as it is. */
	const char *cgroup, *netns, *chroot;
	u32 uid, gid;
};

/* What the user asked to be: control group, network namespace, root, group, user.  0 or -errno. */
int sandbox_join(const struct sandbox_config *c, struct err *e);

/* All walls but limits and filters; what the host does not offer is said in a line and left out.
 * Then fork: 0 and *child true in the process that goes on, inside; the parent watches it and exits
 * with its status, after calling restore.  Single-threaded.  -errno with *e if the fork itself
 * fails. */
int sandbox_raise(const struct sandbox_config *c, void (*restore)(void), struct err *e);

/* In the child: no more files, processes, locked memory; files grow no further than file_max. */
void sandbox_limit(u64 file_max);

/* The calling thread is one of these from now on.  Nothing happens outside a sandbox. */
void sandbox_enter(enum filter_thread t);
bool sandbox_is_up(void);
