/* kvmkit.h - a KVM machine as small as a test needs: 8 MiB of RAM, a few recording devices, our own
 * 8259s and IOAPIC, guests of some instructions.  Every test SKIPs, saying so, where /dev/kvm
 * cannot be used. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../boot/parts.h"
#include "../../devices/chipset.h"
#include "../../devices/lapic.h"
#include "../../kvm.h"
#include "../../options.h"
#include "../test.h"

enum {
	KIT_CODE = 0x100000,
	KIT_IDT = 0x2000,
	KIT_STACK = 0x300000,
	KIT_RAM = 8 << 20,
	KIT_CPUS = 2
};
enum { KIT_LOG = 64 };
#define KIT_MMIO 0xc0000000u
/* Ports: a byte written to 0xf0 is noted; to 0xf4 ends the run. 0xf8: reads count up from 1. */
enum { KIT_NOTE = 0xf0, KIT_DONE = 0xf4, KIT_COUNT = 0xf8 };

struct kvmkit {
	pthread_mutex_t lock;
	struct memory mem;
	struct bus pio, mmio;
	struct loop *loop;
	pthread_t loop_thread;
	bool looping;
	struct irqchip chip;
	struct engine_env env;
	struct vcpu *vcpus[KIT_CPUS];
	struct device *pic, *ioapic;
	const struct engine *eng;
	struct err e;
	/* What the guest did.  guard: lock */
	u32 notes;
	u64 note[KIT_LOG];
	unsigned note_size[KIT_LOG];
	u32 writes;
	struct {
		u64 off, val;
		unsigned size;
	} write[KIT_LOG]; /* of the memory device */
	u64 count;
	u8 reg[256];          /* the memory device's bytes */
};

/* A machine of n vCPUs under an irqchip, vCPU 0 about to run the guest in long mode.  SKIPs
 * without KVM. */
struct kvmkit *kvmkit_new(u32 n, u32 irqchip, const u8 *guest, const u8 *guest_end);
/* The same on any engine; with rom, one page of it just below 4 GiB. */
struct kvmkit_setup {
	const struct engine *eng;
	u32 cpus, irqchip;
	const u8 *guest, *guest_end;
	void *rom;
};
struct kvmkit *kvmkit_build(const struct kvmkit_setup *s);
void kvmkit_need_kvm(void);
/* The calling thread becomes vCPU 0's. */
void kvmkit_push(struct kvmkit *k);
/* Wait until the loop, which has its own thread, is stopped; with what status. */
int kvmkit_loop_end(struct kvmkit *k);
void kvmkit_free(struct kvmkit *k);

/* Run vCPU 0 here until it halts, resets, crashes or writes KIT_DONE (VEXIT_KICK). */
enum vexit kvmkit_run(struct kvmkit *k);

/* An interrupt gate to an address in the guest. */
void kvmkit_gate(struct kvmkit *k, u8 vector, u64 addr);
/* Real mode at KIT_REAL instead of long mode. */
enum { KIT_REAL = 0x8000 };
void kvmkit_real_mode(struct kvmkit *k, const u8 *guest, const u8 *end);
u64 kvmkit_addr(const u8 *guest, const u8 *label);

/* A guest's code: between name and name_end, linked into the test. */
#define GUEST(name, text)                                                                          \
	__asm__(".pushsection .rodata.guest, \"a\", @progbits\n"                                   \
		".globl " #name ", " #name "_end\n.hidden " #name ", " #name "_end\n"              \
		#name ":\n" text "\n" #name "_end:\n.popsection\n");                               \
	extern const u8 name[], name##_end[]

#define DONE "\n out %al, $0xf4\n 99: hlt\n jmp 99b\n"
