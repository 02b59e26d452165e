/* signal.h - faults of generated code become guest exceptions instead of killing mvm. */
#pragma once

#include "../base.h"

/* What the fault handlers know of one vCPU thread.  A fault at [code, code+len) with a vector that
 * generated code may cause stores the vector in trap and goes on at resume; any other fault is a
 * bug of ours and kills the process.  Generated code never pushes, so a RET at resume returns to
 * its caller. */
struct stub_guard {
	const u8 *code;
	u64 len;
	const u8 *resume;
	/* The same for translated code, which goes on at trans_resume with all registers as they
	 * were. */
	const u8 *trans;
	u64 trans_len;
	const u8 *trans_resume;
	u64 trap_rip; /* there */
	volatile u8 trap; /* EXC_* of the last stub, 0: it ran to its end  */
	void *stack; /* alternate signal stack; owned */
	u64 stack_bytes;
};

/* Install the process-wide handlers (once) and allocate g's stack. */
int signal_guard_init(struct stub_guard *g, struct err *e);
void signal_guard_free(struct stub_guard *g);

/* From now on the calling thread's faults belong to g. */
void signal_guard_enter(struct stub_guard *g);
/* Whose faults they are now; NULL: nobody's. */
struct stub_guard *signal_guard_current(void);
