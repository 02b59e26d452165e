/* host_run.h - lets the host CPU try one instruction in ring 3, to see whether it exists and how
 * long it is.  Every general register holds the address of scratch memory far from everything else;
 * the caller keeps away from instructions that load segment registers, make system calls, wait. */
#pragma once

#include "../../base.h"

enum host_outcome { HOST_RAN, HOST_UD, HOST_FAULT };

struct host_result {
	enum host_outcome outcome;
	unsigned len; /* of an instruction that ran and did not jump */
};

/* Once per process; false if the memory it wants is taken. */
bool host_run_init(void);
struct host_result host_run(const u8 insn[15]);
