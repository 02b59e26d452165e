/* kvm.h - engine 1: KVM.  Only kvm*.c includes linux/kvm.h. */
#pragma once

#include "vcpu.h"

enum kvm_verdict {
	KVM_NONE,     /* /dev/kvm is missing, not permitted or too old */
	KVM_EMULATED, /* it works, but no VT-x or AMD-V is behind it: our own CPU is faster */
	KVM_HARDWARE,
};

/* Try the host's KVM in a throw-away VM.  why gets one sentence for the user. */
enum kvm_verdict kvm_probe(char *why, size_t n);

/* --- short cuts past the vCPU threads; env is the KVM engine's -------------------------------- */
/* engine.doorbell */
int kvm_ioeventfd(struct engine_env *env, const struct doorbell *d, bool on);

/* Have signals of fd raise gsi, a pin of the in-kernel IOAPIC or a GSI of kvm_route_msi.  A level
 * interrupt gives resample, signalled at EOI; else -1. 0 or -errno. */
int kvm_irqfd(struct engine_env *env, u32 gsi, int fd, int resample, bool on);

/* Route a GSI of 24 or more to a message.  0 or -errno; -ENOSPC after 256 of them. */
int kvm_route_msi(struct engine_env *env, u32 gsi, u64 addr, u32 data);

/* Log writes to RAM, and take the log: one bit per page of region i, which is cleared by taking. */
int kvm_dirty_log(struct engine_env *env, bool on);
int kvm_dirty_take(struct engine_env *env, u32 i, u64 *bitmap);

/* Instructions that the kernel could not emulate and the software CPU executed, of all vCPUs. */
u64 kvm_fixups(const struct engine_env *env);
