/* devices.c - what every device promises, whatever it is: each test goes through device_kinds[]. */
#include "../../board.h"
#include "../rig.h"
#include "../unit/apic_kit.h"
#include "../unit/bootkit.h"

enum { POKES = 3000 };

/* The board as it is built: a device of which the tests below know nothing is a failure. */
TEST(contract_knows_every_device_of_the_board)
{
	static const u8 transports[] = { TRANSPORT_MMIO, TRANSPORT_PCI,
					 TRANSPORT_PCI_TRANSITIONAL };
	static u8 kernel[8192];
	const char *path = kit_file(kernel, kit_elf(kernel, 0x1000, 0x1000));
	const char *disk = kit_file(kernel, sizeof kernel);
	struct fw_file file = { .name = "opt/test", .text = "text" };

	for (size_t t = 0; t < ARRAY_LEN(transports); t++) {
		struct config cfg = { .kernel = path, .mem_bytes = 64 * MIB, .vcpus = 1,
				      .rng = true, .disks = 1,
				      .disk[0] = { .path = disk, .ro = true },
				      .fw_file[0] = file, .fw_files = 1, .accel = ACCEL_INTERP,
				      .serial = SERIAL_NONE, .tcg_cache_bytes = 8 * MIB,
				      .transport = transports[t], .dry_run = true };
		struct err e;
		struct machine *m = machine_new(&cfg, &e);

		if (!m)
			test_fail(__FILE__, __LINE__, "%s", e.text);
		OK(m->devs >= 14 && m->vdevs == 2);
		for (u32 i = 0; i < m->devs; i++) {
			size_t k = 0;

			while (k < nr_device_kinds && device_kinds[k].ops != m->dev[i]->ops)
				k++;
			if (k == nr_device_kinds)
				test_fail(__FILE__, __LINE__, "%s is not in device_kinds[]",
					  m->dev[i]->id);
		}
		machine_free(m);
	}
}

TEST(contract_ops_are_complete)
{
	for (size_t k = 0; k < nr_device_kinds; k++) {
		const struct device_kind *kind = &device_kinds[k];
		const struct device_ops *ops = kind->ops;

		OK(ops->name && ops->version && ops->read && ops->write && ops->reset &&
		   ops->state);
		OK(ops->bytes >= sizeof(struct device));
		OK(ops->state_off + ops->state_len <= ops->bytes);
		OK(ops->access_max && ops->access_max <= 8);
		EQ(ops->access_max & (ops->access_max - 1), 0);
	}
}

TEST(contract_every_access_at_any_time_is_survived)
{
	for (size_t k = 0; k < nr_device_kinds; k++) {
		const struct device_kind *kind = &device_kinds[k];
		struct rig *r = rig_new(kind->ops);

		rig_poke(r, POKES);
		rig_free(r);
	}
}

/* The plain structs agree byte for byte: a field forgotten in .state fails here. */
TEST(contract_state_survives_save_and_load)
{
	for (size_t k = 0; k < nr_device_kinds; k++) {
		const struct device_kind *kind = &device_kinds[k];

		for (int round = 0; round < 20; round++) {
			struct rig *a = rig_new(kind->ops), *b = rig_new(kind->ops);
			struct state saved;

			rig_poke(a, 200);
			rig_poke(b, 200);
			rig_save(a, &saved);
			if (rig_load(b, &saved) < 0)
				test_fail(__FILE__, __LINE__, "%s does not load what it saved",
					  kind->ops->name);
			if (memcmp(rig_state_of(a), rig_state_of(b), kind->ops->state_len) != 0)
				test_fail(__FILE__, __LINE__, "%s: state differs after load",
					  kind->ops->name);
			if (memcmp(a->line, b->line, sizeof a->line) != 0 || a->intr != b->intr)
				test_fail(__FILE__, __LINE__, "%s: lines differ after load",
					  kind->ops->name);
			rig_poke(b, 200);
			state_free(&saved);
			rig_free(a);
			rig_free(b);
		}
	}
}

/* Change a few bytes of a saved section and seal it again (state.c: length, version, CRC, name). */
static void corrupt(struct state *saved)
{
	enum { SECTION_HEAD = 36, CRC_OFF = 8 };
	u64 body = saved->len - SECTION_HEAD;
	u32 crc = ~0u;

	if (!body)
		return;
	for (int n = 1 + (int)(test_random() % 3); n; n--)
		saved->buf[SECTION_HEAD + test_random() % body] = (u8)test_random();
	for (size_t i = SECTION_HEAD; i < saved->len; i++) {
		crc ^= saved->buf[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (0xedb88320u & -(crc & 1));
	}
	st32(saved->buf + CRC_OFF, ~crc);
}

/* A snapshot is input too: nonsense is refused or lived with, and never crashes later. */
TEST(contract_corrupt_state_is_harmless)
{
	for (size_t k = 0; k < nr_device_kinds; k++) {
		const struct device_kind *kind = &device_kinds[k];
		u32 loaded = 0;

		for (int round = 0; round < 200; round++) {
			struct rig *r = rig_new(kind->ops);
			struct state saved;

			rig_poke(r, 20);
			rig_save(r, &saved);
			corrupt(&saved);
			rig_free(r);
			r = rig_new(kind->ops);
			if (rig_load(r, &saved) == 0) {
				loaded++;
				rig_poke(r, 100);
			}
			state_free(&saved);
			rig_free(r);
		}
		OK(loaded || !kind->ops->state_len); /* else the seal is wrong */
	}
}

TEST(contract_reset_is_the_same_from_any_state)
{
	for (size_t k = 0; k < nr_device_kinds; k++) {
		const struct device_kind *kind = &device_kinds[k];
		struct rig *a = rig_new(kind->ops), *b = rig_new(kind->ops);

		rig_poke(b, 500);
		rig_reset(a);
		rig_reset(b);
		for (int i = 0; i < DEVICE_LINES; i++)
			EQ(b->line[i], a->line[i]);
		rig_free(a);
		rig_free(b);
	}
}

TEST(contract_reset_may_come_at_any_time)
{
	for (size_t k = 0; k < nr_device_kinds; k++) {
		const struct device_kind *kind = &device_kinds[k];
		struct rig *r = rig_new(kind->ops);

		for (int i = 0; i < 100; i++) {
			rig_poke(r, test_random() % 30);
			rig_reset(r);
		}
		rig_free(r);
	}
}

/* Saving must not disturb: the same device saved twice gives the same bytes. */
TEST(contract_saving_changes_nothing)
{
	for (size_t k = 0; k < nr_device_kinds; k++) {
		const struct device_kind *kind = &device_kinds[k];
		struct rig *r = rig_new(kind->ops);
		struct state first, second;

		rig_poke(r, 200);
		rig_save(r, &first);
		rig_save(r, &second);
		EQ(first.len, second.len);
		OK(memcmp(first.buf, second.buf, first.len) == 0);
		state_free(&first);
		state_free(&second);
		rig_free(r);
	}
}

/* --- local APICs: a part of the CPU, but as much the guest's to ill-treat --------------------- */
static void apic_save(struct lapic *a, struct state *st)
{
	state_init_save(st);
	lapic_state(a, st);
	EQ(st->error, 0);
}

static void apic_poke(struct lapic *a, unsigned times)
{
	while (times--) {
		u64 val = test_random() >> test_random() % 64;
		u32 reg = test_random() % 0x400;

		switch (test_random() % 8) {
		case 0:
			lapic_wrmsr(a, 0x800 + reg, val);
			break;
		case 1:
			lapic_rdmsr(a, 0x800 + reg, &val);
			break;
		case 2: /* between disabled, xAPIC and x2APIC, mostly there */
			lapic_wrmsr(a, 0x1b, 0xfee00800 | (val & 0x400) | (val % 16 ? 0 : val));
			break;
		case 3:
			lapic_mmio_read(a, reg);
			break;
		case 4:
			loop_advance(env.loop, test_random() % NS_PER_SEC >> test_random() % 30);
			lapic_timer_poll(a, loop_now_ns(env.loop), test_random());
			break;
		default:
			lapic_mmio_write(a, reg & ~15u, (u32)val);
		}
	}
}

TEST(contract_lapic_survives_and_keeps_its_state)
{
	apics_open(4);
	for (int round = 0; round < 200; round++) {
		struct lapic *a = cpus[test_random() % 4].apic, *b = cpus[test_random() % 4].apic;
		struct state saved, loaded, in;

		apic_poke(a, 200);
		apic_poke(b, 200);
		if (round % 4 == 0)
			lapic_power_on(a);
		apic_save(a, &saved);
		apic_poke(a, 50);
		state_init_load(&in, saved.buf, saved.len);
		lapic_state(a, &in);
		EQ(in.error, 0);
		apic_save(a, &loaded);
		EQ(loaded.len, saved.len);
		OK(memcmp(loaded.buf, saved.buf, saved.len) == 0);
		state_free(&saved);
		state_free(&loaded);
		state_free(&in);
	}
}
