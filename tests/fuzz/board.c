/* board.c - fuzz target: the whole PC as a guest reaches it.  A script of accesses of every size to
 * every port and register, by way of the buses; local APICs' registers and MSRs; messages; memory,
 * so rings and descriptors; input on the serial line; interrupts taken; time; reset, save and load.
 *  The first byte chooses the transport of the virtio devices. */
#include "kit.h"

#include "../../devices/chardev.h"
#include "../../devices/lapic.h"
#include "../../devices/virtio/virtio.h"

enum { STEPS_MAX = 256, TIME_MAX = 200000000, RING = 0x1000 };

static struct machine *m;

/* A place on the bus: usually in a range that somebody has, sometimes anywhere. */
static u64 place(const struct bus *b, struct script *s)
{
	u8 which = (u8)script_take(s, 1);
	u64 off = script_take(s, 2);
	const struct bus_range *r;

	if (which == 0xff)
		return b == &m->pio ? off : 0xc0000000u + (off << 16);
	if (which == 0xfe)
		return 0xd0000000u + off; /* where BARs begin */
	r = &b->range[which % b->n];
	return r->base + off % r->len;
}

static void access_bus(struct bus *b, struct script *s)
{
	u8 how = (u8)script_take(s, 1);
	u64 addr = place(b, s);
	unsigned size = 1u << (how & 3);

	if (b == &m->pio)
		size = MIN(size, 4u);
	if (how & 4)
		bus_write(b, addr, size, script_take(s, how & 8 ? 1 : size));
	else
		bus_read(b, addr, size);
}

static void access_pci(struct script *s)
{
	u32 addr = 0x80000000u | (u32)(script_take(s, 2) & 0x3ffc);
	u8 how = (u8)script_take(s, 1);

	bus_write(&m->pio, 0xcf8, 4, addr);
	if (how & 4)
		bus_write(&m->pio, 0xcfc, 4, script_take(s, 4));
	else
		bus_read(&m->pio, 0xcfc + (how & 3), 1);
}

static void access_lapic(struct script *s)
{
	u8 how = (u8)script_take(s, 1);
	struct lapic *a = m->vcpus[how & 1]->apic;
	u32 reg = (u32)script_take(s, 1) << 4;
	u64 val = how & 8 ? script_take(s, 8) : script_take(s, 4);

	switch (how >> 1 & 3) {
	case 0: lapic_mmio_read(a, reg | (how >> 4)); break;
	case 1: lapic_mmio_write(a, reg, (u32)val); break;
	case 2: lapic_rdmsr(a, 0x800 + (reg >> 4), &val); break;
	default:
		if (how & 0x80)
			lapic_wrmsr(a, how & 0x40 ? 0x1b : 0x6e0, val);
		else
			lapic_wrmsr(a, 0x800 + (reg >> 4), val);
	}
}

/* As the run loop of an engine does it. */
static void take_interrupt(struct script *s)
{
	struct lapic *a = m->vcpus[script_take(s, 1) & 1]->apic;
	int vector = lapic_pending(a);

	lapic_deadline_ns(a);
	lapic_timer_poll(a, loop_now_ns(m->loop), loop_now_ns(m->loop));
	if (vector >= 0)
		lapic_ack(a, (u8)vector);
	pthread_mutex_lock(&m->lock);
	if (pic_intr(m->chip.pic))
		pic_ack(m->chip.pic);
	pthread_mutex_unlock(&m->lock);
}

static void type(struct script *s)
{
	struct chardev *c = m->console;
	u8 text[8];
	size_t n = script_take(s, 1) & 7, room;

	for (size_t i = 0; i < n; i++)
		text[i] = (u8)script_take(s, 1);
	pthread_mutex_lock(&m->lock);
	room = c->room(c->dev);
	c->receive(c->dev, text, MIN(n, room));
	if (n == 7)
		c->break_in(c->dev);
	c->writable(c->dev);
	pthread_mutex_unlock(&m->lock);
}

static void poke_memory(struct script *s)
{
	u64 at = script_take(s, 2);
	u8 *p = mem_ptr(&m->mem, RING + at % 0xf000, 8);

	st64(p, script_take(s, at & 1 ? 8 : 2));
}

/* A virtio-mmio device set up as a driver would, at once: scripts rarely get so far by
 * themselves. */
static void start_virtio(struct script *s)
{
	static const u32 steps[][2] = { { 0x70, 0 },	  { 0x70, 3 },	{ 0x24, 1 },  { 0x20, 1 },
					{ 0x70, 11 },	  { 0x30, 0 },	{ 0x38, 8 },
					{ 0x80, RING },	  { 0x90, 0x1800 }, { 0xa0, 0x1c00 },
					{ 0x44, 1 },	  { 0x70, 15 } };
	u64 base = 0xc0001000u + (script_take(s, 1) & 1) * 0x1000;

	for (size_t i = 0; i < ARRAY_LEN(steps); i++)
		bus_write(&m->mmio, base + steps[i][0], 4, steps[i][1]);
}

static void step(struct script *s)
{
	switch (script_take(s, 1) % 16) {
	case 0:
	case 1:
	case 2: access_bus(&m->pio, s); break;
	case 3:
	case 4:
	case 5: access_bus(&m->mmio, s); break;
	case 6: access_pci(s); break;
	case 7: access_lapic(s); break;
	case 8: take_interrupt(s); break;
	case 9:
	case 10: poke_memory(s); break;
	case 11: loop_advance(m->loop, script_take(s, 4) % TIME_MAX); break;
	case 12: type(s); break;
	case 13: msi_send(&m->chip, 0xfee00000u | script_take(s, 3), (u32)script_take(s, 2)); break;
	case 14: start_virtio(s); break;
	default:
		if (script_take(s, 1) & 1)
			kit_pc_save_and_load(m);
		else
			kit_pc_reset(m);
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	static const enum transport transports[] = { TRANSPORT_MMIO, TRANSPORT_PCI,
						     TRANSPORT_PCI_TRANSITIONAL };
	static struct machine *pc[ARRAY_LEN(transports)];
	struct script s = { data, len };
	unsigned which = (unsigned)script_take(&s, 1) % ARRAY_LEN(transports);

	if (!pc[which])
		pc[which] = kit_pc(transports[which]);
	m = pc[which];
	kit_pc_reset(m);
	for (unsigned i = 0; i < STEPS_MAX && s.left; i++)
		step(&s);
	return 0;
}
