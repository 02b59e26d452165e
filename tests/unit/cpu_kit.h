/* cpu_kit.h - a software CPU with a little memory for the tests of the interpreter: 64-bit mode at
 * CPL 0, linear = physical in 4 KiB pages, code at KIT_CODE, data at KIT_DATA, a stack below
 * KIT_STACK. */
#pragma once

#include "../../tcg/exec.h"
#include "../test.h"

enum { KIT_CODE = 0x10000, KIT_DATA = 0x20000, KIT_STACK = 0x30000, KIT_TABLES = 0x100000,
       KIT_BYTES = 2 << 20 };

struct cpu_kit {
	struct memory mem;
	struct bus pio, mmio;
	pthread_mutex_t lock;
	struct engine_env env;
	struct vcpu *vcpus[1];
	struct tcg_cpu *c;
	struct cpu_state *s;
	u8 *ram;
};

struct cpu_kit *cpu_kit_new(void);
void cpu_kit_free(struct cpu_kit *k);
/* Put code at KIT_CODE and let rip point there. */
void cpu_kit_code(struct cpu_kit *k, const void *code, size_t n);
/* Rewrite the entry of linear page lin: flags of 0 make it not present. */
void cpu_kit_map(struct cpu_kit *k, gva_t lin, gpa_t gpa, u64 flags);
/* Run until HLT; fails the test if something else happens. */
void cpu_kit_run(struct cpu_kit *k);
/* Run until HLT or an exception, which is left undelivered in c->exc. */
void cpu_kit_go(struct cpu_kit *k);
/* The program at KIT_CODE some times over, each time with RAX = 0; *rax is what it was at last. */
void cpu_kit_rounds(struct cpu_kit *k, unsigned rounds, u64 *rax);
/* One instruction; returns the exception's vector, EXC_NONE if none. */
u8 cpu_kit_one(struct cpu_kit *k);
/* Real mode, CS = DS = ES = SS = 0. */
void cpu_kit_real(struct cpu_kit *k);
/* Flat 32-bit protected mode without paging. */
void cpu_kit_flat32(struct cpu_kit *k);

#define CODE(k, ...)                                                                               \
	do {                                                                                       \
		static const u8 code_[] = { __VA_ARGS__ };                                         \
		cpu_kit_code(k, code_, sizeof code_);                                              \
	} while (0)
