/* kvm_cpuid.c - our CPU model as KVM_SET_CPUID2 wants it: every leaf of cpuid.c, its feature bits
 * cut to those that this KVM supports.
 * Source: Linux Documentation/virt/kvm/api.rst "KVM_GET_SUPPORTED_CPUID". */
#include "kvm_priv.h"

#include <stdio.h>
#include <stdlib.h>

enum { ENTRIES_MAX = 256, SUBLEAVES_MAX = 8 };
enum { EAX, EBX, ECX, EDX };

/* What GET_SUPPORTED_CPUID does not tell although KVM does it: TSC deadline timer, OSXSAVE (follows
 * CR4) and the hypervisor bit. */
enum { ECX_ALWAYS = 1u << 24 | 1u << 27 | 1u << 31 };
/* What a local APIC outside the kernel cannot do under KVM: x2APIC and the TSC deadline timer. */
enum { ECX_KERNEL_APIC = 1u << 21 | 1u << 24 };

static const struct {
	u32 leaf, subleaf;
	u8 reg;
} feature_regs[] = {
	{ 1, 0, ECX }, { 1, 0, EDX }, { 7, 0, EBX }, { 7, 0, ECX }, { 7, 0, EDX }, { 0xd, 0, EAX },
	{ 0xd, 1, EAX }, { 0x80000001, 0, ECX }, { 0x80000001, 0, EDX }, { 0x80000008, 0, EBX },
	{ 0x80000021, 0, EAX }, { 0x40000001, 0, EAX },
};

int kvm_cpuid_supported(struct kvm_vm *vm, struct err *e)
{
	vm->supported =
		calloc(1, sizeof *vm->supported + ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2));
	if (!vm->supported)
		return err_set(e, -ENOMEM, "/dev/kvm: no host memory");
	vm->supported->nent = ENTRIES_MAX;
	if (ioctl(vm->dev_fd, KVM_GET_SUPPORTED_CPUID, vm->supported) < 0)
		return err_set(e, -errno, "/dev/kvm: does not tell its CPUID (%s); use --accel tcg",
			       strerror(errno));
	return 0;
}

static u32 *entry_reg(struct kvm_cpuid_entry2 *k, u8 reg)
{
	return reg == EAX ? &k->eax : reg == EBX ? &k->ebx : reg == ECX ? &k->ecx : &k->edx;
}

static u32 supported(const struct kvm_vm *vm, u32 leaf, u32 subleaf, u8 reg)
{
	for (u32 i = 0; i < vm->supported->nent; i++) {
		struct kvm_cpuid_entry2 *k = &vm->supported->entries[i];

		if (k->function == leaf && k->index == subleaf)
			return *entry_reg(k, reg);
	}
	return 0;
}

/* Keep only what KVM can do. */
static void cut(const struct kvm_vm *vm, struct kvm_cpuid_entry2 *k)
{
	for (size_t i = 0; i < ARRAY_LEN(feature_regs); i++) {
		u32 allowed;

		if (feature_regs[i].leaf != k->function || feature_regs[i].subleaf != k->index)
			continue;
		allowed = supported(vm, k->function, k->index, feature_regs[i].reg);
		if (k->function == 1 && feature_regs[i].reg == ECX) {
			allowed |= ECX_ALWAYS;
			if (!kvm_has_lapic(vm))
				allowed &= ~(u32)ECX_KERNEL_APIC;
		}
		if (k->function == 1 && feature_regs[i].reg == EDX)
			allowed |= 1u << 9 | 1u << 28; /* APIC; more than one logical processor */
		*entry_reg(k, feature_regs[i].reg) &= allowed;
	}
}

/* The sizes of the XSAVE area follow the components that are left. */
static void cut_xsave(const struct kvm_vm *vm, struct kvm_cpuid_entry2 *k)
{
	enum { LEGACY_BYTES = 576, AVX = 1 << 2 };
	bool avx = supported(vm, 0xd, 0, EAX) & AVX;

	if (k->index == 0 && k->eax) {
		k->ecx = avx ? k->ecx : LEGACY_BYTES;
		k->ebx = LEGACY_BYTES; /* the kernel keeps it up to date */
	} else if (k->index == 2 && !avx) {
		k->eax = k->ebx = k->ecx = k->edx = 0;
	}
}

static bool has_subleaves(u32 leaf)
{
	return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f ||
	       leaf == 0x8000001d;
}

static void add_leaf(struct kvm_cpu *c, struct kvm_cpuid2 *list, u32 leaf)
{
	u32 n = has_subleaves(leaf) ? SUBLEAVES_MAX : 1;

	for (u32 sub = 0; sub < n; sub++) {
		struct kvm_cpuid_entry2 *k = &list->entries[list->nent];
		struct cpuid_out o;

		cpuid_query(&c->v, leaf, sub, &o);
		if (sub && !(o.eax | o.ebx | o.edx))
			continue;
		ASSERT(list->nent < ENTRIES_MAX);
		*k = (struct kvm_cpuid_entry2){ .function = leaf,
						.index = sub,
						.eax = o.eax,
						.ebx = o.ebx,
						.ecx = o.ecx,
						.edx = o.edx,
						.flags = n > 1 ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX
							       : 0 };
		cut(c->vm, k);
		if (leaf == 0xd)
			cut_xsave(c->vm, k);
		list->nent++;
	}
}

static void add_range(struct kvm_cpu *c, struct kvm_cpuid2 *list, u32 base)
{
	struct cpuid_out o;

	cpuid_query(&c->v, base, 0, &o);
	for (u32 leaf = base; leaf <= o.eax && leaf - base <= 0x40; leaf++)
		add_leaf(c, list, leaf);
}

/* Once, before the vCPU's first entry: the number of vCPUs is known only then. */
void kvm_cpuid_set(struct kvm_cpu *c)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[ENTRIES_MAX];
	} *list;

	if (c->cpuid_set)
		return;
	list = calloc(1, sizeof *list);
	if (!list) {
		snprintf(c->v.crash, sizeof c->v.crash, "no host memory");
		c->broken = true;
		return;
	}
	add_range(c, &list->head, 0);
	add_range(c, &list->head, 0x40000000);
	add_range(c, &list->head, 0x80000000);
	c->cpuid_set = kvm_cpu_ioctl(c, KVM_SET_CPUID2, list, "KVM_SET_CPUID2");
	free(list);
}
