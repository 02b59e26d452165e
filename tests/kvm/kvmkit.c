/* kvmkit.c - see kvmkit.h. */
#include "kvmkit.h"

struct kit_device {
	struct device dev;
	struct kvmkit *k;
};

static struct kvmkit *kit_of(struct device *dev)
{
	return dev->arg;
}

/* --- ports: region 0 note, 1 done, 2 count; region 3: memory ---------------------------------- */
static u64 kit_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct kvmkit *k = kit_of(dev);
	u64 v = 0;

	if (region == 2)
		return ++k->count;
	if (region == 3)
		memcpy(&v, k->reg + off % 248, size);
	return v;
}

static void kit_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct kvmkit *k = kit_of(dev);

	if (region == 0) {
		k->note_size[k->notes % KIT_LOG] = size;
		k->note[k->notes++ % KIT_LOG] = val;
	} else if (region == 1) {
		vcpu_request(k->vcpus[0], VREQ_PAUSE);
	} else if (region == 3) {
		k->write[k->writes % KIT_LOG].off = off;
		k->write[k->writes % KIT_LOG].val = val;
		k->write[k->writes++ % KIT_LOG].size = size;
		memcpy(k->reg + off % 248, &val, size);
	}
}

static void kit_reset(struct device *dev)
{
}

static void kit_state(struct device *dev, struct state *st)
{
}

static const struct device_ops kit_ops = {
	.name = "kit", .version = 1, .bytes = sizeof(struct kit_device), .access_max = 8,
	.read = kit_read, .write = kit_write, .reset = kit_reset, .state = kit_state,
};

/* --- the machine ------------------------------------------------------------------------------ */
static void kit_devices(struct kvmkit *k)
{
	struct device w = { .loop = k->loop, .mem = &k->mem, .arg = k };
	struct device *dev;

	for (u32 i = 0; i < DEVICE_LINES; i++)
		w.irq[i] = (struct irq_line){ &k->chip, GSI_MAX };
	dev = device_new(&kit_ops, &w, &k->e);
	w.arg = NULL;
	k->pic = device_new(&pic_ops, &w, &k->e);
	k->ioapic = device_new(&ioapic_ops, &w, &k->e);
	OK(dev && k->pic && k->ioapic);
	k->chip.pic = k->pic;
	k->chip.ioapic = k->ioapic;
	OK(bus_map(&k->pio, KIT_NOTE, 4, dev, 0) == 0);
	OK(bus_map(&k->pio, KIT_DONE, 4, dev, 1) == 0);
	OK(bus_map(&k->pio, KIT_COUNT, 4, dev, 2) == 0);
	OK(bus_map(&k->mmio, KIT_MMIO, 0x2000, dev, 3) == 0);
	OK(bus_map(&k->pio, PIC_MASTER_PORT, PIC_PORTS, k->pic, 0) == 0);
	OK(bus_map(&k->pio, PIC_SLAVE_PORT, PIC_PORTS, k->pic, 1) == 0);
	OK(bus_map(&k->mmio, IOAPIC_BASE, IOAPIC_BYTES, k->ioapic, 0) == 0);
}

/* Long mode by the loader's own code, with our IDT and a stack. */
static void kit_long_mode(struct kvmkit *k, const u8 *guest, const u8 *end)
{
	struct loader *l = calloc(1, sizeof *l);
	struct cpu_state *s = &k->vcpus[0]->s;

	OK(l && mem_write(&k->mem, KIT_CODE, guest, (u64)(end - guest)));
	l->m = &k->mem;
	l->bsp = s;
	entry_long_mode(l, KIT_CODE, 0);
	s->cr4 |= 0x600; /* OSFXSR, OSXMMEXCPT */
	s->idt = (struct table_reg){ KIT_IDT, 0xfff };
	s->gpr[RSP] = KIT_STACK;
	s->tsc_offset = -host_rdtsc();
	free(l);
}

static void kit_exit(void *arg)
{
	struct vcpu *v = arg;

	if (v->exit_why == VEXIT_CRASH)
		fprintf(stderr, "  vcpu%u: %s\n", v->index, v->crash);
}

static void *kit_loop(void *arg)
{
	return (void *)(intptr_t)loop_run(arg);
}

struct kvmkit *kvmkit_build(const struct kvmkit_setup *s)
{
	const struct engine *eng = s->eng;
	struct kvmkit *k = calloc(1, sizeof *k);
	struct host_tsc tsc = host_tsc_look();

	OK(k);
	pthread_mutex_init(&k->lock, NULL);
	k->eng = eng;
	OK(memory_init(&k->mem, KIT_RAM, &k->e) == 0);
	bus_init(&k->pio, "pio", &k->lock);
	bus_init(&k->mmio, "mmio", &k->lock);
	k->loop = loop_new(&k->lock, false, &k->e);
	k->chip.ops = &irqchip_user_ops;
	k->chip.vcpus = k->vcpus;
	k->env = (struct engine_env){ .mem = &k->mem,
				      .pio = &k->pio,
				      .mmio = &k->mmio,
				      .chip = &k->chip,
				      .loop = k->loop,
				      .lock = &k->lock,
				      .vcpus = k->vcpus,
				      .tsc_khz = host_tsc_khz(&tsc),
				      .tcg_cache_bytes = 1 << 20,
				      .irqchip_kind = s->irqchip };
	if (s->rom)
		OK(memory_add(&k->mem, 4 * GIB - PAGE_SIZE, PAGE_SIZE, s->rom, true, &k->e) == 0);
	kit_devices(k);
	if (eng->init(&k->env, &k->e) < 0) {
		fprintf(stderr, "  %s\n", k->e.text);
		OK(!"the engine starts");
	}
	for (u32 i = 0; i < s->cpus; i++) {
		k->vcpus[i] = eng->vcpu_new(&k->env, i, &k->e);
		OK(k->vcpus[i]);
		k->vcpus[i]->exit_work = (struct loop_work){ kit_exit, k->vcpus[i], NULL, 0 };
		if (k->chip.ops == &irqchip_user_ops)
			k->vcpus[i]->apic = lapic_new(k->vcpus[i], &k->env);
		k->env.nr_vcpus = k->chip.nr_vcpus = i + 1;
	}
	kit_long_mode(k, s->guest, s->guest_end);
	k->looping = pthread_create(&k->loop_thread, NULL, kit_loop, k->loop) == 0;
	OK(k->looping);
	return k;
}

void kvmkit_need_kvm(void)
{
	char why[160];

	if (kvm_probe(why, sizeof why) == KVM_NONE)
		SKIP("%s", why);
}

struct kvmkit *kvmkit_new(u32 n, u32 irqchip, const u8 *guest, const u8 *guest_end)
{
	struct kvmkit_setup s = { &kvm_engine, n, irqchip, guest, guest_end, NULL };

	kvmkit_need_kvm();
	return kvmkit_build(&s);
}

int kvmkit_loop_end(struct kvmkit *k)
{
	void *status;

	pthread_join(k->loop_thread, &status);
	k->looping = false;
	return (int)(intptr_t)status;
}

void kvmkit_free(struct kvmkit *k)
{
	if (k->looping) {
		loop_stop(k->loop, 0);
		kvmkit_loop_end(k);
	}
	for (u32 i = 0; i < k->env.nr_vcpus; i++) {
		vcpu_stop(k->vcpus[i]);
		lapic_free(k->vcpus[i]->apic);
		k->eng->vcpu_free(k->vcpus[i]);
	}
	k->eng->free(&k->env);
	loop_free(k->loop);
	memory_free(&k->mem);
	free(k);
}

void kvmkit_push(struct kvmkit *k)
{
	OK(k->eng->enter(k->vcpus[0]));
	k->eng->push(k->vcpus[0]);
}

enum vexit kvmkit_run(struct kvmkit *k)
{
	struct vcpu *v = k->vcpus[0];
	enum vexit why;

	atomic_fetch_and(&v->req, ~(u32)VREQ_PAUSE);
	kvmkit_push(k);
	why = k->eng->run(v);
	k->eng->pull(v);
	if (why == VEXIT_CRASH)
		fprintf(stderr, "  vCPU: %s\n", v->crash);
	return why;
}

void kvmkit_gate(struct kvmkit *k, u8 vector, u64 addr)
{
	u8 gate[16] = { 0 };

	st16(gate, (u16)addr);
	st16(gate + 2, 0x10);
	gate[5] = 0x8e;
	st16(gate + 6, (u16)(addr >> 16));
	st32(gate + 8, (u32)(addr >> 32));
	OK(mem_write(&k->mem, KIT_IDT + 16u * vector, gate, sizeof gate));
}

u64 kvmkit_addr(const u8 *guest, const u8 *label)
{
	return KIT_CODE + (u64)(label - guest);
}

void kvmkit_real_mode(struct kvmkit *k, const u8 *guest, const u8 *end)
{
	struct loader *l = calloc(1, sizeof *l);
	struct cpu_state *s = &k->vcpus[0]->s;

	OK(l && mem_write(&k->mem, KIT_REAL, guest, (u64)(end - guest)));
	cpu_state_reset(s, true);
	l->m = &k->mem;
	l->bsp = s;
	entry_real_mode(l, KIT_REAL >> 4, 0, 0xf000);
	free(l);
}
