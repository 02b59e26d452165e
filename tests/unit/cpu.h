/* cpu.h - a software CPU with RAM and two buses for unit tests: page tables, descriptors, code
 * by hand.
 *
 * Static helpers for the files of tests/unit that include it. Layout of the tests' RAM (64 MiB):
 * page tables from 1 MiB, GDT 0x1000, IDT 0x2000, TSS 0x3000 and 0x3800, LDT 0x4000, stacks
 * below 0x8000 (ring 3), 0x9000 (ring 0), 0xa000, code at 0x10000. */
#pragma once

#include "../../devices/device.h"
#include "../../tcg/exec.h"
#include "../../tcg/seg.h"
#include "../test.h"

enum { GDT = 0x1000, IDT = 0x2000, TSS = 0x3000, TSS_B = 0x3800, LDT = 0x4000, STACK3 = 0x8000,
       STACK0 = 0x9000, STACK1 = 0xa000, CODE = 0x10000, TABLES = 0x100000 };
enum { RIG_RAM = 64 << 20 };

struct cpu_rig {
	struct memory mem;
	struct bus pio, mmio;
	pthread_mutex_t lock;
	struct engine_env env;
	struct vcpu *vcpus[2];
	struct tcg_cpu *c;
	struct cpu_state *s;
	gpa_t next_table;
};

static inline struct cpu_rig *cpu_rig_new(void)
{
	struct cpu_rig *r = calloc(1, sizeof *r);
	struct err e = { 0 };

	OK(r && memory_init(&r->mem, RIG_RAM, &e) == 0);
	pthread_mutex_init(&r->lock, NULL);
	bus_init(&r->pio, "pio", &r->lock);
	bus_init(&r->mmio, "mmio", &r->lock);
	r->env = (struct engine_env){
		.mem = &r->mem, .pio = &r->pio, .mmio = &r->mmio, .lock = &r->lock,
		.vcpus = r->vcpus, .nr_vcpus = 1, .tsc_khz = 2000000, .interp_only = true,
	};
	OK(tcg_engine.init(&r->env, &e) == 0);
	r->vcpus[0] = tcg_engine.vcpu_new(&r->env, 0, &e);
	OK(r->vcpus[0]);
	r->c = tcg_of(r->vcpus[0]);
	r->s = &r->c->v.s;
	r->next_table = TABLES;
	return r;
}

static inline void cpu_rig_free(struct cpu_rig *r)
{
	tcg_engine.vcpu_free(r->vcpus[0]);
	tcg_engine.free(&r->env);
	memory_free(&r->mem);
	free(r);
}

static inline u8 *ram(struct cpu_rig *r, gpa_t gpa)
{
	return mem_ptr(&r->mem, gpa, 1);
}

static inline gpa_t table_new(struct cpu_rig *r)
{
	gpa_t t = r->next_table;

	r->next_table += PAGE_SIZE;
	memset(ram(r, t), 0, PAGE_SIZE);
	return t;
}

static inline u64 gdt_entry(u32 base, u32 limit, u32 attr)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(attr & 0xf0ff) << 40 |
	       (u64)(limit >> 16 & 0xf) << 48 | (u64)(base >> 24) << 56;
}

static inline void gdt_set(struct cpu_rig *r, u16 sel, u64 d)
{
	st64(ram(r, GDT) + (sel & ~7), d);
}

/* Push what was changed by hand into the engine. */
static inline void sync_state(struct cpu_rig *r)
{
	r->s->rflags = flags_get(r->c);
	tcg_engine.push(&r->c->v);
}

static inline struct seg_reg flat32(u16 sel, u32 type, unsigned dpl)
{
	u32 attr = type | ATTR_S | ATTR_P | ATTR_DB | ATTR_G | dpl << ATTR_DPL_SHIFT;

	return (struct seg_reg){ .sel = sel, .limit = 0xffffffff, .attr = attr };
}

/* Selectors of the tests' GDT: 32-bit flat, 16-bit, and 64-bit segments for rings 0 and 3. */
enum { CS0 = 0x08, DS0 = 0x10, CS3 = 0x1b, DS3 = 0x23, CS0_16 = 0x28, DS0_16 = 0x30, CS64 = 0x38,
       CS64_3 = 0x43, CONF = 0x48, CS1 = 0x51, DS1 = 0x59, SEL_LDT = 0x60, GATE = 0x70,
       SEL_TSS = 0x80, SEL_TSS_B = 0x90,
       TASKGATE = 0xa0, ABSENT = 0xa8, RO = 0xb0, XO = 0xb8, CS2 = 0xc2 };

static inline void gdt_build(struct cpu_rig *r)
{
	enum { P = ATTR_P, S = ATTR_S, CODE32 = 0xc09b, DATA32 = 0xc093 };

	memset(ram(r, GDT), 0, 0x1000);
	gdt_set(r, CS0, gdt_entry(0, 0xfffff, CODE32));
	gdt_set(r, DS0, gdt_entry(0, 0xfffff, DATA32));
	gdt_set(r, CS3, gdt_entry(0, 0xfffff, CODE32 | ATTR_DPL));
	gdt_set(r, DS3, gdt_entry(0, 0xfffff, DATA32 | ATTR_DPL));
	gdt_set(r, CS0_16, gdt_entry(0, 0xffff, 0x9b));
	gdt_set(r, DS0_16, gdt_entry(0, 0xffff, 0x93));
	gdt_set(r, CS64, gdt_entry(0, 0xfffff, 0xa09b));
	gdt_set(r, CS64_3, gdt_entry(0, 0xfffff, 0xa0fb));
	gdt_set(r, CONF, gdt_entry(0, 0xfffff, CODE32 | 4));
	gdt_set(r, CS1, gdt_entry(0, 0xfffff, CODE32 | 1 << 5));
	gdt_set(r, DS1, gdt_entry(0, 0xfffff, DATA32 | 1 << 5));
	gdt_set(r, CS2, gdt_entry(0, 0xfffff, CODE32 | 2 << 5));
	gdt_set(r, SEL_LDT, gdt_entry(LDT, 0xff, 0x82));
	gdt_set(r, SEL_TSS, gdt_entry(TSS, 0x67, 0x89));
	gdt_set(r, SEL_TSS_B, gdt_entry(TSS_B, 0x67, 0x89));
	gdt_set(r, ABSENT, gdt_entry(0, 0xfffff, DATA32 & ~P));
	gdt_set(r, RO, gdt_entry(0, 0xfffff, 0xc091));
	gdt_set(r, XO, gdt_entry(0, 0xfffff, 0xc099));
	r->s->gdt = (struct table_reg){ GDT, 0xfff };
	r->s->idt = (struct table_reg){ IDT, 0xfff };
}

/* 32-bit protected mode without paging at ring cpl, the TSS loaded with stacks for rings 0 and
 * 1. */
static inline void protected_mode(struct cpu_rig *r, unsigned cpl)
{
	struct cpu_state *s = r->s;

	gdt_build(r);
	memset(ram(r, TSS), 0, 0x1000);
	st32(ram(r, TSS) + 4, STACK0);
	st32(ram(r, TSS) + 8, DS0);
	st32(ram(r, TSS) + 12, STACK1);
	st32(ram(r, TSS) + 16, DS1);
	s->cr0 = CR0_PE | CR0_ET;
	s->rflags = 2;
	s->seg[SEG_CS] = flat32(cpl ? CS3 : CS0, 11, cpl);
	s->seg[SEG_SS] = flat32(cpl ? DS3 : DS0, 3, cpl);
	for (unsigned i = 0; i < SEG_NR; i++)
		if (i != SEG_CS && i != SEG_SS)
			s->seg[i] = flat32(DS3, 3, 3);
	s->tr = (struct seg_reg){ SEL_TSS, SYS_TSS32_BUSY | ATTR_P, 0x67, TSS };
	gdt_set(r, SEL_TSS, gdt_entry(TSS, 0x67, 0x8b));
	s->ldt = seg_null(0);
	s->gpr[RSP] = cpl ? STACK3 : STACK0;
	s->rip = CODE;
	tcg_engine.push(&r->c->v);
}

/* Identity-map the first 4 GiB by 1 GiB user pages, 64-bit mode at ring cpl. */
static inline void long_mode(struct cpu_rig *r, unsigned cpl)
{
	struct cpu_state *s = r->s;
	gpa_t pml4, pdpt;

	protected_mode(r, cpl);
	pml4 = table_new(r);
	pdpt = table_new(r);
	st64(ram(r, pml4), pdpt | 7);
	for (unsigned i = 0; i < 4; i++)
		st64(ram(r, pdpt) + i * 8, (u64)i << 30 | 0xe7);
	memset(ram(r, TSS), 0, 0x1000);
	st64(ram(r, TSS) + 4, STACK0);
	st64(ram(r, TSS) + 12, STACK1);
	gdt_set(r, SEL_LDT + 8, 0);
	s->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR;
	s->cr3 = pml4;
	s->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NX;
	s->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET | CR0_NE;
	s->seg[SEG_CS] = (struct seg_reg){ cpl ? CS64_3 : CS64, 0xa09b | cpl << 5, 0xffffffff, 0 };
	s->gpr[RSP] = cpl ? STACK3 : STACK0;
	tcg_engine.push(&r->c->v);
}

/* Put bytes at CS:RIP and execute exactly one instruction. */
#define RUN(r, ...) run_bytes(r, (const u8[]){ __VA_ARGS__ }, sizeof((const u8[]){ __VA_ARGS__ }))
static inline void run_bytes(struct cpu_rig *r, const u8 *code, size_t n)
{
	gpa_t at = (u32)(r->s->rip + (r->c->mode == MODE_64 ? 0 : r->s->seg[SEG_CS].base));

	OK(mem_write(&r->mem, at, code, n));
	r->c->exc.vector = EXC_NONE;
	interp_one(r->c);
}

/* 32-bit interrupt gate (or another type) in the legacy IDT; 64-bit one in long mode. */
static inline void idt_set(struct cpu_rig *r, u8 vector, u16 sel, u32 off, u8 type, unsigned dpl)
{
	st64(ram(r, IDT) + vector * 8, (off & 0xffff) | (u64)sel << 16 |
	     (u64)(ATTR_P | dpl << 5 | type) << 40 | (u64)(off >> 16) << 48);
}

static inline void idt_set64(struct cpu_rig *r, u8 vector, u16 sel, u64 off, u8 type, unsigned dpl,
			     unsigned ist)
{
	st64(ram(r, IDT) + vector * 16, (off & 0xffff) | (u64)sel << 16 | (u64)ist << 32 |
	     (u64)(ATTR_P | dpl << 5 | type) << 40 | (off >> 16 & 0xffff) << 48);
	st64(ram(r, IDT) + vector * 16 + 8, off >> 32);
}
