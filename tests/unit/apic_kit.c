/* apic_kit.c - see apic_kit.h. */
#include "apic_kit.h"

#include <pthread.h>

static void no_kick(struct vcpu *v)
{
}

static const struct engine fake_engine = { .name = "fake", .kick = no_kick };
static struct vcpu *cpu[APIC_CPUS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
struct vcpu cpus[APIC_CPUS_MAX];
struct irqchip chip = { .ops = &irqchip_user_ops, .vcpus = cpu };
struct engine_env env = { .chip = &chip, .lock = &lock, .vcpus = cpu, .tsc_khz = 2000000 };

void apics_open(u32 n)
{
	struct err e;

	env.loop = loop_new(&lock, true, &e);
	env.nr_vcpus = chip.nr_vcpus = n;
	for (u32 i = 0; i < n; i++) {
		cpu[i] = &cpus[i];
		cpus[i] = (struct vcpu){
			.index = i, .apic_id = i, .eng = &fake_engine, .env = &env
		};
		cpus[i].apic = lapic_new(&cpus[i], &env);
	}
}
