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
