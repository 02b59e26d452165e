/* cpu_kit.c - see cpu_kit.h. */
#include "cpu_kit.h"

static u64 *page_entry(struct cpu_kit *k, gva_t lin)
{
	return (u64 *)(k->ram + KIT_TABLES + 0x3000) + (lin >> 12);
}

void cpu_kit_map(struct cpu_kit *k, gva_t lin, gpa_t gpa, u64 flags)
{
	*page_entry(k, lin) = flags ? gpa | flags : 0;
	mmu_flush_all(k->c);
}

static void kit_paging(struct cpu_kit *k)
{
	u64 *table = (u64 *)(k->ram + KIT_TABLES);

	for (unsigned i = 0; i < 3; i++)
		table[512 * i] = (u64)(KIT_TABLES + 0x1000 * (i + 1)) | 7;
	for (u64 lin = 0; lin < KIT_BYTES; lin += PAGE_SIZE)
		*page_entry(k, lin) = lin | 7;
	k->s->cr3 = KIT_TABLES;
}

static void kit_long_mode(struct cpu_kit *k)
{
	struct cpu_state *s = k->s;

	kit_paging(k);
	s->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_ET | CR0_MP | CR0_WP;
	s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	s->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NX;
	for (unsigned i = 0; i < SEG_NR; i++)
		s->seg[i] = (struct seg_reg){ .sel = 16,
					      .limit = 0xffffffff,
					      .attr = 3 | ATTR_S | ATTR_P | ATTR_DB | ATTR_G };
	s->seg[SEG_CS] = (struct seg_reg){ .sel = 8,
					   .limit = 0xffffffff,
					   .attr = 0xb | ATTR_S | ATTR_P | ATTR_L | ATTR_G };
	s->gpr[RSP] = KIT_STACK;
	s->rip = KIT_CODE;
}

struct cpu_kit *cpu_kit_new(void)
{
	struct cpu_kit *k = calloc(1, sizeof *k);
	struct err e;

	pthread_mutex_init(&k->lock, NULL);
	OK(memory_init(&k->mem, KIT_BYTES, &e) == 0);
	bus_init(&k->pio, "pio", &k->lock);
	bus_init(&k->mmio, "mmio", &k->lock);
	k->env = (struct engine_env){ .mem = &k->mem,
				      .pio = &k->pio,
				      .mmio = &k->mmio,
				      .lock = &k->lock,
				      .vcpus = k->vcpus,
				      .nr_vcpus = 1,
				      .tsc_khz = 1000000 };
	OK(tcg_engine.init(&k->env, &e) == 0);
	k->vcpus[0] = tcg_engine.vcpu_new(&k->env, 0, &e);
	OK(k->vcpus[0]);
	k->c = tcg_of(k->vcpus[0]);
	k->s = &k->vcpus[0]->s;
	k->ram = mem_ptr(&k->mem, 0, KIT_BYTES);
	kit_long_mode(k);
	tcg_engine.push(k->vcpus[0]);
	return k;
}

void cpu_kit_free(struct cpu_kit *k)
{
	tcg_engine.vcpu_free(k->vcpus[0]);
	tcg_engine.free(&k->env);
	memory_free(&k->mem);
	free(k);
}

void cpu_kit_code(struct cpu_kit *k, const void *code, size_t n)
{
	memcpy(k->ram + KIT_CODE, code, n);
	mem_dirty(&k->mem, KIT_CODE, n);
	k->s->rip = KIT_CODE;
	k->s->mp_state = MP_RUNNABLE;
}

void cpu_kit_run(struct cpu_kit *k)
{
	EQ(tcg_engine.run(k->vcpus[0]), VEXIT_HALT);
	EQ(k->s->mp_state, MP_HALTED);
}

void cpu_kit_go(struct cpu_kit *k)
{
	struct tcg_cpu *c = k->c;

	native_thread_init(c);
	while (c->exc.vector == EXC_NONE && k->s->mp_state == MP_RUNNABLE) {
		c->budget = BUDGET;
		interp_run(c);
	}
	fp_leave(c);
}

void cpu_kit_rounds(struct cpu_kit *k, unsigned rounds, u64 *rax)
{
	while (rounds--) {
		k->s->rip = KIT_CODE;
		k->s->mp_state = MP_RUNNABLE;
		k->s->gpr[RAX] = 0;
		cpu_kit_go(k);
		EQ(k->c->exc.vector, EXC_NONE);
		*rax = k->s->gpr[RAX];
	}
}

u8 cpu_kit_one(struct cpu_kit *k)
{
	u8 vector;

	interp_one(k->c);
	vector = k->c->exc.vector;
	return vector;
}

void cpu_kit_real(struct cpu_kit *k)
{
	cpu_state_reset(k->s, true);
	k->s->seg[SEG_CS].sel = 0;
	k->s->seg[SEG_CS].base = 0;
	k->s->rip = 0x7c00;
	tcg_engine.push(k->vcpus[0]);
}

void cpu_kit_flat32(struct cpu_kit *k)
{
	k->s->cr0 = CR0_PE | CR0_NE | CR0_ET;
	k->s->efer = 0;
	k->s->cr4 = 0;
	k->s->seg[SEG_CS].attr = 0xb | ATTR_S | ATTR_P | ATTR_DB | ATTR_G;
	tcg_engine.push(k->vcpus[0]);
}
