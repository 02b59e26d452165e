/* pit.c - the 82C54 and port 61h. */
#include "../../devices/chipset.h"
#include "../rig.h"

enum { C0 = 0x40, C1 = 0x41, C2 = 0x42, CW = 0x43 };

/* Guest time of tick n, rounded up: at that time n whole ticks have gone by. */
static u64 tick_ns(u64 n)
{
	return (n * NS_PER_SEC + PIT_HZ - 1) / PIT_HZ;
}

static u64 now_ticks(struct rig *r)
{
	return loop_now_ns(r->loop) * PIT_HZ / NS_PER_SEC;
}

static void advance_ticks(struct rig *r, u64 n)
{
	rig_advance(r, tick_ns(now_ticks(r) + n) - loop_now_ns(r->loop));
}

static void program(struct rig *r, unsigned counter, unsigned mode, u16 count)
{
	out8(r, CW, (u8)(counter << 6 | 0x30 | mode << 1));
	out8(r, C0 + counter, (u8)count);
	out8(r, C0 + counter, count >> 8);
}

static u16 read_count(struct rig *r, unsigned counter)
{
	u8 low;

	out8(r, CW, (u8)(counter << 6)); /* latch */
	low = in8(r, C0 + counter);
	return low | in8(r, C0 + counter) << 8;
}

static bool out2(struct rig *r)
{
	return in8(r, 0x61) & 0x20;
}

TEST(pit_mode0_raises_once_after_n_plus_1)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 0, 0, 100);
	advance_ticks(r, 100);
	EQ(r->line[0], 0);
	advance_ticks(r, 1);
	EQ(r->line[0], 1);
	advance_ticks(r, 200000);
	EQ(r->rises[0], 1);
	EQ(r->line[0], 1);
	program(r, 0, 0, 50);
	EQ(r->line[0], 0);
	advance_ticks(r, 51);
	EQ(r->rises[0], 2);
	rig_free(r);
}

TEST(pit_mode0_counts_on_through_zero)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 0, 0, 10);
	EQ(read_count(r, 0), 10);
	advance_ticks(r, 1);
	EQ(read_count(r, 0), 10);
	advance_ticks(r, 4);
	EQ(read_count(r, 0), 6);
	advance_ticks(r, 7);
	EQ(read_count(r, 0), 0xffff);
	rig_free(r);
}

TEST(pit_mode0_first_byte_stops_the_count)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 0, 0, 1000);
	advance_ticks(r, 101);
	out8(r, C0, 20);
	advance_ticks(r, 5000);
	EQ(r->rises[0], 0);
	EQ(read_count(r, 0), 900);
	out8(r, C0, 0);
	advance_ticks(r, 21);
	EQ(r->rises[0], 1);
	rig_free(r);
}

TEST(pit_mode2_never_drifts)
{
	struct rig *r = rig_new(&pit_ops);
	u64 start;

	program(r, 0, 2, 1193); /* nearly 1 kHz */
	start = now_ticks(r) + 1;
	r->rises[0] = 0;
	rig_advance(r, 10 * NS_PER_SEC);
	EQ(r->rises[0], (now_ticks(r) - start) / 1193);
	EQ(r->rises[0], 10001);
	rig_free(r);
}

TEST(pit_mode2_reloads_without_reaching_zero)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 0, 2, 10);
	advance_ticks(r, 1);
	EQ(read_count(r, 0), 10);
	advance_ticks(r, 9);
	EQ(read_count(r, 0), 1);
	advance_ticks(r, 1);
	EQ(read_count(r, 0), 10);
	rig_free(r);
}

TEST(pit_mode2_new_count_waits_for_the_period_to_end)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 0, 2, 1000);
	advance_ticks(r, 501);
	out8(r, C0, 200), out8(r, C0, 0);
	EQ(read_count(r, 0), 500);
	r->rises[0] = 0;
	advance_ticks(r, 499);
	EQ(r->rises[0], 0);
	advance_ticks(r, 1);
	EQ(r->rises[0], 1);
	advance_ticks(r, 400);
	EQ(r->rises[0], 3);
	rig_free(r);
}

/* Behind the timer's back: the clock jumps as it does when the loop thread was held up. */
static void jump_ticks(struct rig *r, u64 n)
{
	loop_clock_set(r->loop, loop_now_ns(r->loop) + tick_ns(n));
	rig_advance(r, 0);
}

TEST(pit_late_host_makes_up_for_lost_ticks)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 0, 2, 1000);
	r->rises[0] = 0;
	jump_ticks(r, 10500);
	EQ(r->rises[0], 1); /* one edge at a time */
	advance_ticks(r, 251);
	EQ(r->rises[0], 2);
	advance_ticks(r, 4350);
	EQ(r->rises[0], 15);
	advance_ticks(r, 85000);
	EQ(r->rises[0], 100); /* and not one too many */
	jump_ticks(r, 5000000);
	r->rises[0] = 0;
	advance_ticks(r, 1000000);
	EQ(r->rises[0], 1000 + TICKS_OWED_MAX);
	jump_ticks(r, 10000);
	program(r, 0, 2, 2000); /* a new rate owes nothing for the old one */
	r->rises[0] = 0;
	advance_ticks(r, 20100);
	EQ(r->rises[0], 10);
	rig_free(r);
}

static bool edge_waits;

static bool fake_waiting(const struct irqchip *c, u32 gsi)
{
	return edge_waits;
}

TEST(pit_edges_that_nobody_took_come_again)
{
	struct rig *r = rig_new(&pit_ops);
	struct irqchip_ops ops = *r->chip.ops;

	ops.waiting = fake_waiting;
	r->chip.ops = &ops;
	program(r, 0, 2, 1000);
	r->rises[0] = 0;
	edge_waits = true; /* interrupts are off for five ticks */
	advance_ticks(r, 5100);
	EQ(r->rises[0], 5); /* five edges, all in one request */
	edge_waits = false;
	advance_ticks(r, 5000);
	EQ(r->rises[0], 5 + 5 + 5);
	rig_free(r);
}

TEST(pit_mode3_is_high_for_the_longer_half)
{
	struct rig *r = rig_new(&pit_ops);
	u64 high = 0;

	program(r, 2, 3, 101);
	out8(r, 0x61, 1);
	advance_ticks(r, 1);
	for (int i = 0; i < 1010; i++, advance_ticks(r, 1))
		high += out2(r);
	EQ(high, 510);
	rig_free(r);
}

TEST(pit_mode3_counts_by_twos_and_interrupts_once_a_period)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 0, 3, 1000);
	r->rises[0] = 0;
	advance_ticks(r, 1);
	EQ(read_count(r, 0), 1000);
	advance_ticks(r, 10);
	EQ(read_count(r, 0), 980);
	EQ(r->line[0], 1);
	advance_ticks(r, 490);
	EQ(r->line[0], 0);
	EQ(read_count(r, 0), 1000);
	advance_ticks(r, 500);
	EQ(r->line[0], 1);
	EQ(r->rises[0], 1);
	advance_ticks(r, 9000);
	EQ(r->rises[0], 10);
	rig_free(r);
}

TEST(pit_mode4_strobes_once)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 0, 4, 300);
	EQ(r->line[0], 1); /* OUT goes high with the control word */
	r->rises[0] = 0;
	advance_ticks(r, 301);
	EQ(r->rises[0], 0);
	advance_ticks(r, 1);
	EQ(r->rises[0], 1);
	advance_ticks(r, 100000);
	EQ(r->rises[0], 1);
	rig_free(r);
}

TEST(pit_gate_of_counter_2_suspends_mode0)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 2, 0, 100);
	advance_ticks(r, 1000);
	OK(!out2(r)); /* gate low since reset */
	EQ(read_count(r, 2), 100);
	out8(r, 0x61, 1);
	advance_ticks(r, 50);
	EQ(read_count(r, 2), 50);
	out8(r, 0x61, 0);
	advance_ticks(r, 1000);
	EQ(read_count(r, 2), 50);
	out8(r, 0x61, 1);
	advance_ticks(r, 49);
	OK(!out2(r));
	advance_ticks(r, 1);
	OK(out2(r));
	rig_free(r);
}

TEST(pit_mode1_is_a_retriggerable_one_shot)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 2, 1, 100);
	OK(out2(r));
	out8(r, 0x61, 1);
	OK(!out2(r));
	advance_ticks(r, 80);
	out8(r, 0x61, 0), out8(r, 0x61, 1);
	advance_ticks(r, 80);
	OK(!out2(r));
	advance_ticks(r, 21);
	OK(out2(r));
	rig_free(r);
}

TEST(pit_mode5_strobes_after_a_trigger)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 2, 5, 10);
	advance_ticks(r, 50);
	OK(out2(r));
	out8(r, 0x61, 1);
	advance_ticks(r, 10);
	OK(out2(r));
	advance_ticks(r, 1);
	OK(!out2(r));
	advance_ticks(r, 1);
	OK(out2(r));
	rig_free(r);
}

TEST(pit_gate_restarts_mode2_and_holds_out_high)
{
	struct rig *r = rig_new(&pit_ops);

	out8(r, 0x61, 1);
	program(r, 2, 2, 10);
	advance_ticks(r, 10);
	OK(!out2(r));
	out8(r, 0x61, 0);
	OK(out2(r));
	advance_ticks(r, 35);
	out8(r, 0x61, 1);
	advance_ticks(r, 1);
	EQ(read_count(r, 2), 10);
	rig_free(r);
}

TEST(pit_read_back_gives_status_then_count)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 1, 2, 0x1234);
	advance_ticks(r, 2);
	out8(r, CW, 0xc4); /* count and status of counter 1 */
	advance_ticks(r, 7);
	EQ(in8(r, C1), 0x80 | 0x30 | 2 << 1);
	EQ(in8(r, C1), 0x33);
	EQ(in8(r, C1), 0x12);
	out8(r, CW, 0x74); /* control word alone: null count */
	out8(r, CW, 0xe4);
	EQ(in8(r, C1), 0x80 | 0x40 | 0x34);
	rig_free(r);
}

TEST(pit_latch_holds_until_both_bytes_are_read)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 1, 2, 0x2000);
	advance_ticks(r, 1);
	out8(r, CW, 0x40);
	advance_ticks(r, 0x101);
	out8(r, CW, 0x40); /* ignored: one is pending */
	EQ(in8(r, C1), 0x00);
	EQ(in8(r, C1), 0x20);
	EQ(in8(r, C1), 0xff); /* live again: 0x1eff */
	EQ(in8(r, C1), 0x1e);
	rig_free(r);
}

TEST(pit_counts_in_bcd)
{
	struct rig *r = rig_new(&pit_ops);

	out8(r, CW, 0x75); /* counter 1, word, mode 2, BCD */
	out8(r, C1, 0x00), out8(r, C1, 0x10);
	advance_ticks(r, 2);
	EQ(read_count(r, 1), 0x0999);
	advance_ticks(r, 998);
	EQ(read_count(r, 1), 0x0001);
	advance_ticks(r, 1);
	EQ(read_count(r, 1), 0x1000);
	rig_free(r);
}

TEST(pit_count_zero_is_the_longest)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 0, 2, 0);
	r->rises[0] = 0;
	advance_ticks(r, 65536);
	EQ(r->rises[0], 0);
	advance_ticks(r, 1);
	EQ(r->rises[0], 1);
	rig_free(r);
}

TEST(pit_single_byte_access_modes)
{
	struct rig *r = rig_new(&pit_ops);

	out8(r, CW, 0x54); /* counter 1, LSB, mode 2 */
	out8(r, C1, 18);
	advance_ticks(r, 4);
	EQ(in8(r, C1), 15);
	EQ(in8(r, C1), 15);
	out8(r, CW, 0x64); /* MSB */
	out8(r, C1, 0x10);
	advance_ticks(r, 2);
	EQ(in8(r, C1), 0x0f);
	rig_free(r);
}

TEST(pit_tiny_periods_do_not_drown_the_host)
{
	struct rig *r = rig_new(&pit_ops);

	program(r, 0, 2, 2);
	r->rises[0] = 0;
	rig_advance(r, NS_PER_SEC / 100);
	OK(r->rises[0] > 150 && r->rises[0] < 210);
	program(r, 0, 2, 1); /* illegal */
	program(r, 0, 3, 1);
	rig_advance(r, NS_PER_SEC / 100);
	rig_free(r);
}

TEST(pit_port_b_keeps_its_low_bits_and_shows_refresh)
{
	struct rig *r = rig_new(&pit_ops);
	unsigned toggles = 0;

	out8(r, 0x61, 0xff);
	EQ(in8(r, 0x61) & 0xcf, 0x0f);
	for (int i = 0; i < 1000; i++) {
		u8 before = in8(r, 0x61) & 0x10;

		rig_advance(r, 1000);
		toggles += before != (in8(r, 0x61) & 0x10);
	}
	OK(toggles >= 65 && toggles <= 67); /* every 15.085 us */
	rig_free(r);
}

TEST(pit_control_port_is_write_only)
{
	struct rig *r = rig_new(&pit_ops);

	EQ(in8(r, CW), 0xff);
	rig_free(r);
}

/* Linux: pit_calibrate_tsc() */
TEST(pit_calibration_by_counter_2_takes_its_time)
{
	struct rig *r = rig_new(&pit_ops);
	unsigned us = 0;

	out8(r, 0x61, (in8(r, 0x61) & ~2) | 1);
	out8(r, CW, 0xb0);
	out8(r, C2, 11932 & 0xff), out8(r, C2, 11932 >> 8);
	for (; !out2(r); us++)
		rig_advance(r, 1000);
	OK(us >= 10000 && us <= 10003);
	rig_free(r);
}

TEST(pit_saved_timer_goes_on_where_it_was)
{
	struct rig *a = rig_new(&pit_ops), *b = rig_new(&pit_ops);
	struct state saved;

	program(a, 0, 2, 1000);
	advance_ticks(a, 400);
	rig_save(a, &saved);
	loop_clock_set(b->loop, loop_now_ns(a->loop));
	EQ(rig_load(b, &saved), 0);
	b->rises[0] = 0;
	advance_ticks(b, 600);
	EQ(b->rises[0], 0);
	advance_ticks(b, 1);
	EQ(b->rises[0], 1);
	state_free(&saved);
	rig_free(a), rig_free(b);
}

/* Linux: pit_next_event() writes nothing but counts, from its interrupt handler and long after. */
TEST(pit_mode4_goes_again_with_every_count)
{
	struct rig *r = rig_new(&pit_ops);

	out8(r, CW, 0x38);
	r->rises[0] = 0;
	for (u32 i = 1; i <= 50; i++) {
		out8(r, C0, 0x2c), out8(r, C0, 1);
		advance_ticks(r, 301);
		EQ(r->rises[0], i - 1);
		advance_ticks(r, i % 3 ? 1 : 1000);
		EQ(r->rises[0], i);
	}
	out8(r, CW, 0x30), out8(r, C0, 0), out8(r, C0, 0); /* shutdown, as Linux does it */
	advance_ticks(r, 100);
	out8(r, CW, 0x34), out8(r, C0, 0x9c), out8(r, C0, 0x2e);
	r->rises[0] = 0;
	advance_ticks(r, 11933);
	EQ(r->rises[0], 1);
	rig_free(r);
}
