/* kvm_priv.h - what the files of the KVM engine share.  Only they include linux/kvm.h.
 *
 * kvm.c        VM, memory slots, vCPUs, the run loop and its exits
 * kvm_state.c  struct cpu_state out of the kernel and into it
 * kvm_cpuid.c  our CPU model, less what this KVM cannot do
 * kvm_irq.c    the three irqchips, routes, injection, ioeventfd and irqfd
 * kvm_probe.c  is there hardware behind /dev/kvm? */
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "kvm.h"
#include "options.h"

struct tcg_foreign;

enum { KVM_ROUTES_MAX = 280 }; /* of GSIs: the IOAPIC's pins, or PIC and IOAPIC; then MSIs */

struct kvm_vm {
	/* const after init */
	int dev_fd, vm_fd;
	int pid;              /* ours, which is no system call at run time */
	size_t run_bytes;
	u32 irqchip;          /* enum irqchip_kind */
	u32 xsave_bytes;      /* what KVM_GET_XSAVE2 wants, or 4096 */
	struct loop_timer watch; /* guard: machine.lock; see kvm_watch */
	struct kvm_cpuid2 *supported;
	struct engine_env *env;
	/* guard: route_lock, the innermost lock: msi_send comes with or without machine.lock */
	pthread_mutex_t route_lock;
	u32 next_pin;         /* split: the IOAPIC route to be replaced next */
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[KVM_ROUTES_MAX];
	} routes;
};

struct kvm_cpu {
	struct vcpu v; /* first */
	/* const after create */
	int fd;
	struct kvm_run *run;
	struct kvm_vm *vm;
	/* atomic */
	_Atomic int tid;      /* of the thread in kvm_run, 0 when none was there yet */
	/* owner: this vCPU's thread */
	bool cpuid_set;
	bool io_pending;      /* the exit's instruction is only finished by the next KVM_RUN */
	bool broken;          /* the kernel refused something: v.crash says what */
	struct tcg_foreign *step;
	struct kvm_lapic_state lapic; /* as last pulled */
	u64 lapic_base;
	struct loop_timer timer; /* user irqchip: kicks when the local APIC's timer is due */
	u64 timer_at_ns;
	u8 *xsave;            /* KVM's area, xsave_bytes long */
	u32 dead_looks;       /* how often in a row it was seen halted with interrupts off */
	u64 watched_exits;    /* guard: machine.lock: exits when the watch last looked */
	u64 stat_fixups, stat_exit[KVM_EXIT_NOTIFY + 2];
};

static inline struct kvm_cpu *kvm_of(struct vcpu *v)
{
	return container_of(v, struct kvm_cpu, v);
}

static inline bool kvm_has_lapic(const struct kvm_vm *vm)
{
	return vm->irqchip != IRQCHIP_USER;
}

/* An ioctl on the vCPU that must not fail.  If it does, the vCPU is broken and the next run says
 * why. */
bool kvm_cpu_ioctl(struct kvm_cpu *c, unsigned long request, void *arg, const char *name);

/* --- kvm_state.c ------------------------------------------------------------------------------ */
void kvm_pull(struct vcpu *v);
void kvm_push(struct vcpu *v);
/* Without the local APIC, the clocks and the run state: around one emulated instruction. */
void kvm_pull_cpu(struct kvm_cpu *c);
void kvm_push_cpu(struct kvm_cpu *c);
void kvm_pull_mp_state(struct kvm_cpu *c);

/* --- kvm_cpuid.c ------------------------------------------------------------------------------ */
int kvm_cpuid_supported(struct kvm_vm *vm, struct err *e);
void kvm_cpuid_set(struct kvm_cpu *c);

/* --- kvm_irq.c -------------------------------------------------------------------------------- */
int kvm_irq_init(struct kvm_vm *vm, struct err *e);
/* Before KVM_RUN: give the kernel the interrupt that is due from our own controllers, or ask for
 * the exit at which it can take one. */
void kvm_irq_inject(struct kvm_cpu *c);
bool kvm_irq_due(struct kvm_cpu *c); /* user irqchip: would kvm_irq_inject find something? */
void kvm_irq_eoi(struct kvm_cpu *c, u8 vector);
/* User irqchip: have the vCPU kicked when its local APIC's timer is due. */
void kvm_timer_arm(struct kvm_cpu *c);
enum { KVM_KICK_SIGNAL = 10 /* SIGUSR1 */ };
