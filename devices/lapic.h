/* lapic.h - the machine's side of a local APIC: make, reset, save.  What CPUs and interrupt
 * sources do with one is in irq.h. */
#pragma once

#include "../irq.h"
#include "../state.h"

struct vcpu;
struct engine_env;

/* One per vCPU, in its power-on state; NULL when out of memory.  v, env and env->chip are
 * borrowed. */
struct lapic *lapic_new(struct vcpu *v, struct engine_env *env);
void lapic_free(struct lapic *a); /* NULL is fine */

/* Power-on reset: unlike INIT it also leaves x2APIC mode.  The vCPU is parked, or the caller. */
void lapic_power_on(struct lapic *a);

/* Save or load, in a section of its own; the vCPU is parked. */
void lapic_state(struct lapic *a, struct state *st);

/* To and from the layout in which KVM holds a local APIC: the registers' page, IA32_APIC_BASE and
 * IA32_TSC_DEADLINE.  The vCPU is parked, or the caller. */
enum { LAPIC_PAGE_BYTES = 1024 };
void lapic_import(struct lapic *a, const u8 *page, u64 base, u64 deadline_tsc);
void lapic_export(const struct lapic *a, u8 *page, u64 *base, u64 *deadline_tsc);
