/* apic_kit.h - a machine's local APICs, with CPUs that do not run: requests are what they would
 * see.  Each test runs in its own process, so there is one machine and nobody takes it down. */
#pragma once

#include "../../devices/lapic.h"
#include "../../vcpu.h"
#include "../test.h"

enum { APIC_CPUS_MAX = 64 };
enum { APIC_SVR = 0xf0, APIC_ON = 0x1ff }; /* with vector FFh for spurious interrupts */

extern struct vcpu cpus[APIC_CPUS_MAX];
extern struct irqchip chip; /* the user-space one; its PIC and IOAPIC are the test's to add */
extern struct engine_env env;

/* n CPUs with their APICs, and a loop whose clock a test advances; the TSC runs at 2 GHz. */
void apics_open(u32 n);
