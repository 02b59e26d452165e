/* filter.c - hands out the programs that tools/seccomp-gen.c made of policy.def at build time.
 *
 * Owns no state; any thread.  Source: Linux Documentation/userspace-api/seccomp_filter.rst. */
#include "filter.h"

#include "seccomp_filters.h" /* generated: filter_{loop,tcg,kvm,disk,watch}[] */

static const struct {
	const char *name;
	struct sock_fprog prog;
} filters[FILTER_NR] = {
#define PROGRAM(a)                                      \
	{                                               \
		ARRAY_LEN(a), (struct sock_filter *)(a) \
	}
	[FILTER_LOOP] = { "loop", PROGRAM(filter_loop) },
	[FILTER_TCG] = { "vcpu", PROGRAM(filter_tcg) },
	[FILTER_KVM] = { "vcpu", PROGRAM(filter_kvm) },
	[FILTER_DISK] = { "disk", PROGRAM(filter_disk) },
	[FILTER_WATCH] = { "watch", PROGRAM(filter_watch) },
#undef PROGRAM
};

const struct sock_fprog *filter_program(enum filter_thread t)
{
	ASSERT(t < FILTER_NR);
	return &filters[t].prog;
}

const char *filter_thread_name(enum filter_thread t)
{
	return t < FILTER_NR ? filters[t].name : "unknown";
}
