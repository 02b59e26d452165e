/* engine.h - what the software CPU offers beside struct engine: one instruction for somebody else.
 *
 * The KVM engine calls tcg_step_foreign when the kernel cannot emulate an instruction.  v is that
 * engine's vCPU with v->s pulled; on return v->s is the state after the instruction, or after the
 * delivery of the exception it raised, ready to be pushed.  Memory, ports and MMIO go through
 * v->env as usual.  The calling thread must be v's. */
#pragma once

#include "../vcpu.h"

struct tcg_foreign; /* the stepper's own state; hardly any memory before its first use */

/* On v's thread, with v->apic set.  NULL with *e. */
struct tcg_foreign *tcg_foreign_new(struct vcpu *v, struct err *e);
/* Makes no system call.  True: a triple fault; a HLT shows as mp_state. */
bool tcg_step_foreign(struct tcg_foreign *f, struct vcpu *v);
void tcg_foreign_free(struct tcg_foreign *f); /* NULL is fine */
