/* kit.c - see kit.h. */
#include "kit.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../devices/chardev.h"
#include "../../devices/lapic.h"

enum { LOADER_MIB = 32, FILE_MAX = 1 << 16 };

/* --- the PC ----------------------------------------------------------------------------------- */
static size_t kit_write(void *ctx, const u8 *buf, size_t n)
{
	return n / 2 + 1 < n ? n / 2 + 1 : n; /* a slow end */
}

static struct chardev kit_console = { .write = kit_write };

static void kit_requests(void *arg)
{
	struct machine *m = arg;

	m->request = 0;
	for (u32 i = 0; i < m->nr_vcpus; i++)
		atomic_store(&m->vcpus[i]->req, 0);
}

static const char *kit_disk(void)
{
	char path[32];
	int fd = memfd_create("disk", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, KIT_SECTORS * 512) < 0)
		abort();
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return strdup(path);
}

static void kit_cpus(struct machine *m, struct err *e)
{
	for (u32 i = 0; i < KIT_CPUS; i++) {
		struct vcpu *v = m->eng->vcpu_new(&m->env, i, e);

		if (!v || !(v->apic = lapic_new(v, &m->env)))
			abort();
		m->vcpus[m->nr_vcpus++] = v;
		m->env.nr_vcpus = m->chip.nr_vcpus = m->nr_vcpus;
	}
}

struct machine *kit_pc(enum transport transport)
{
	struct config *cfg = calloc(1, sizeof *cfg);
	struct machine *m = calloc(1, sizeof *m);
	struct err e = { 0 };

	*cfg = (struct config){ .vcpus = KIT_CPUS, .mem_bytes = KIT_RAM, .disks = 1, .rng = true,
				.transport = transport, .accel = ACCEL_INTERP,
				.disk[0] = { .path = kit_disk(), .id = "disk0" } };
	log_set_level(LOG_ERR);
	m->cfg = cfg;
	m->eng = &tcg_engine;
	m->console = &kit_console;
	m->boot = (struct boot_config){ .bios = "never opened", .nr_vcpus = KIT_CPUS, .nr_disks = 1,
					.has_fw_cfg = true };
	m->request_work = (struct loop_work){ .fn = kit_requests, .arg = m };
	pthread_mutex_init(&m->lock, NULL);
	bus_init(&m->pio, "pio", &m->lock);
	bus_init(&m->mmio, "mmio", &m->lock);
	if (memory_init(&m->mem, KIT_RAM, &e) < 0 || !(m->loop = loop_new(&m->lock, true, &e)))
		abort();
	m->chip.ops = &irqchip_user_ops;
	m->chip.vcpus = m->vcpus;
	m->env = (struct engine_env){ .mem = &m->mem, .pio = &m->pio, .mmio = &m->mmio,
				      .chip = &m->chip, .loop = m->loop, .lock = &m->lock,
				      .vcpus = m->vcpus, .tsc_khz = 2000000, .interp_only = true };
	if (board_build(m, &e) < 0 || m->eng->init(&m->env, &e) < 0) {
		fprintf(stderr, "kit: %s\n", e.text);
		abort();
	}
	for (u32 i = 0; i < m->devs; i++)
		if (device_start(m->dev[i], &e) < 0)
			abort();
	kit_cpus(m, &e);
	return m;
}

void kit_pc_reset(struct machine *m)
{
	pthread_mutex_lock(&m->lock);
	for (u32 i = 0; i < m->devs; i++)
		if (m->dev[i]->ops->quiesce)
			m->dev[i]->ops->quiesce(m->dev[i]);
	board_reset(m);
	pthread_mutex_unlock(&m->lock);
	loop_advance(m->loop, 0);
	for (u32 i = 0; i < m->nr_vcpus; i++) {
		cpu_state_reset(&m->vcpus[i]->s, i == 0);
		lapic_power_on(m->vcpus[i]->apic);
		atomic_store(&m->vcpus[i]->req, 0);
	}
	memset(mem_ptr(&m->mem, 0, KIT_RAM), 0, KIT_RAM);
}

static void kit_pc_state(struct machine *m, struct state *st)
{
	for (u32 i = 0; i < m->devs; i++) {
		st_begin(st, m->dev[i]->id, m->dev[i]->ops->version);
		m->dev[i]->ops->state(m->dev[i], st);
		st_end(st);
	}
	for (u32 i = 0; i < m->nr_vcpus; i++) {
		cpu_state_visit(&m->vcpus[i]->s, st);
		lapic_state(m->vcpus[i]->apic, st);
	}
}

void kit_pc_save_and_load(struct machine *m)
{
	struct state out, in;

	pthread_mutex_lock(&m->lock);
	for (u32 i = 0; i < m->devs; i++)
		if (m->dev[i]->ops->quiesce)
			m->dev[i]->ops->quiesce(m->dev[i]);
	state_init_save(&out);
	kit_pc_state(m, &out);
	state_init_load(&in, out.buf, out.len);
	kit_pc_state(m, &in);
	pthread_mutex_unlock(&m->lock);
	if (out.error || in.error)
		abort();
	state_free(&in);
	state_free(&out);
}

/* --- loading ---------------------------------------------------------------------------------- */
struct loader *kit_loader(const u8 *data, size_t len, void (*stamp)(u8 *file, size_t len, u8 how))
{
	static struct boot_config config = { .nr_vcpus = 1 };
	static struct memory memory;
	static struct cpu_state state;
	static struct boot_heap heap;
	static struct loader l;
	struct err e;
	u8 *file;

	len = MIN(len - 1, FILE_MAX);
	file = malloc(len + !len);
	log_set_level(LOG_ERR);
	if (!file || (!memory.n && (memory_init(&memory, LOADER_MIB * MIB, &e) < 0 ||
					boot_heap_new(&heap) < 0)))
		abort();
	memcpy(file, data + 1, len);
	stamp(file, len, data[0]);
	config.entry = (enum boot_entry)(data[0] >> 4) % 5;
	l = (struct loader){ .c = &config, .heap = &heap, .m = &memory, .bsp = &state,
			     .kernel = { "fuzz", file, len }, .low_top = LOADER_MIB * MIB };
	return &l;
}

void kit_loader_done(struct loader *l)
{
	boot_heap_reset(l->heap);
	free((void *)l->kernel.data);
}
