/* rtc.c - the real-time clock: 2026-02-28 23:59:58 UTC, a Saturday, unless a test says otherwise.
 */
#include "../../devices/chipset.h"
#include "../rig.h"

enum { A = 10, B, C, D, CENTURY = 0x32 };
enum { SET = 0x80, PIE = 0x40, AIE = 0x20, UIE = 0x10, BINARY = 4, H24 = 2 };
enum { EVENING = 1772323198 };

static struct rig *rtc_rig(void)
{
	struct rtc_config cfg = {
		.utc_s = EVENING, .ram_bytes = 5 * GIB, .boot_order = { 2, 0 }, .cpus = 4
	};

	return rig_new_with(&rtc_ops, &cfg);
}

static u8 get(struct rig *r, u8 reg)
{
	out8(r, 0x70, reg);
	return in8(r, 0x71);
}

static void put(struct rig *r, u8 reg, u8 val)
{
	out8(r, 0x70, reg);
	out8(r, 0x71, val);
}

static void expect_time(struct rig *r, unsigned hour, unsigned minute, unsigned second)
{
	EQ(get(r, 4), hour);
	EQ(get(r, 2), minute);
	EQ(get(r, 0), second);
}

TEST(rtc_index_has_seven_bits)
{
	struct rig *r = rtc_rig();

	EQ(get(r, 0x80 | D), 0x80); /* bit 7 masks NMI; register D: valid RAM and time */
	EQ(in8(r, 0x70), 0xff);
	rig_free(r);
}

TEST(rtc_date_reads_in_bcd)
{
	struct rig *r = rtc_rig();

	expect_time(r, 0x23, 0x59, 0x58);
	EQ(get(r, 6), 7);
	EQ(get(r, 7), 0x28);
	EQ(get(r, 8), 0x02);
	EQ(get(r, 9), 0x26);
	EQ(get(r, CENTURY), 0x20);
	rig_free(r);
}

TEST(rtc_midnight_carries_into_the_month)
{
	struct rig *r = rtc_rig();

	rig_advance(r, 2 * NS_PER_SEC);
	expect_time(r, 0, 0, 0);
	EQ(get(r, 7), 0x01);
	EQ(get(r, 8), 0x03);
	EQ(get(r, 6), 1);
	rig_free(r);
}

TEST(rtc_binary_and_twelve_hours)
{
	struct rig *r = rtc_rig();

	put(r, B, BINARY);
	expect_time(r, 0x80 | 11, 59, 58);
	EQ(get(r, CENTURY), 20);
	rig_advance(r, 2 * NS_PER_SEC);
	expect_time(r, 12, 0, 0); /* midnight is 12 AM */
	rig_advance(r, 12 * 3600 * NS_PER_SEC);
	put(r, B, 0);
	expect_time(r, 0x92, 0, 0); /* noon is 12 PM */
	rig_free(r);
}

/* As Linux does it: SET and the divider in reset, write, SET off, divider on. */
TEST(rtc_set_time_starts_half_a_second_before_the_update)
{
	struct rig *r = rtc_rig();

	put(r, B, SET | H24);
	put(r, A, 0x76);
	rig_advance(r, NS_PER_SEC * 5);
	put(r, 9, 0x99), put(r, CENTURY, 0x19), put(r, 8, 0x12), put(r, 7, 0x31);
	put(r, 4, 0x23), put(r, 2, 0x59), put(r, 0, 0x59);
	put(r, B, H24);
	expect_time(r, 0x23, 0x59, 0x59);
	put(r, A, 0x26);
	rig_advance(r, NS_PER_SEC / 2 - 1);
	expect_time(r, 0x23, 0x59, 0x59);
	rig_advance(r, 1);
	expect_time(r, 0, 0, 0);
	EQ(get(r, 9), 0);
	EQ(get(r, CENTURY), 0x20);
	EQ(get(r, 6), 7); /* 2000-01-01 was a Saturday */
	rig_free(r);
}

TEST(rtc_set_bit_freezes_the_registers)
{
	struct rig *r = rtc_rig();

	put(r, B, SET | H24);
	rig_advance(r, 10 * NS_PER_SEC);
	expect_time(r, 0x23, 0x59, 0x58);
	put(r, B, H24);
	rig_advance(r, NS_PER_SEC);
	expect_time(r, 0x23, 0x59, 0x59);
	rig_free(r);
}

TEST(rtc_one_register_written_while_running)
{
	struct rig *r = rtc_rig();

	put(r, 4, 0x10);
	rig_advance(r, NS_PER_SEC);
	expect_time(r, 0x10, 0x59, 0x59);
	rig_free(r);
}

TEST(rtc_impossible_date_runs_on)
{
	struct rig *r = rtc_rig();

	put(r, B, SET | H24);
	put(r, 7, 0x30);
	put(r, B, H24);
	EQ(get(r, 8), 3);
	EQ(get(r, 7), 2);
	rig_free(r);
}

TEST(rtc_uip_announces_the_update)
{
	struct rig *r = rtc_rig();

	EQ(get(r, A), 0x26);
	rig_advance(r, NS_PER_SEC - 244001);
	EQ(get(r, A), 0x26);
	rig_advance(r, 1);
	EQ(get(r, A), 0xa6);
	rig_advance(r, 244000);
	EQ(get(r, A), 0x26);
	EQ(get(r, 0), 0x59);
	rig_free(r);
}

TEST(rtc_update_interrupt_once_a_second)
{
	struct rig *r = rtc_rig();

	put(r, B, UIE | H24);
	get(r, C);
	for (u32 i = 1; i <= 3; i++) {
		rig_advance(r, NS_PER_SEC - 1);
		EQ(r->rises[0], i - 1);
		rig_advance(r, 1);
		EQ(r->rises[0], i);
		EQ(get(r, C) & 0x90, 0x90);
		EQ(r->line[0], 0);
	}
	rig_free(r);
}

TEST(rtc_unread_flags_hold_the_line)
{
	struct rig *r = rtc_rig();

	put(r, B, UIE | H24);
	rig_advance(r, 10 * NS_PER_SEC);
	EQ(r->rises[0], 1);
	EQ(r->line[0], 1);
	put(r, B, H24);
	EQ(r->line[0], 0);
	put(r, B, UIE | H24);
	EQ(r->line[0], 1);
	rig_free(r);
}

TEST(rtc_setting_set_clears_uie)
{
	struct rig *r = rtc_rig();

	put(r, B, SET | UIE | PIE | H24);
	EQ(get(r, B), SET | PIE | H24);
	rig_free(r);
}

TEST(rtc_periodic_rates)
{
	struct rig *r = rtc_rig();
	static const struct {
		u8 rate;
		u32 hz;
	} rates[] = { { 1, 256 }, { 2, 128 }, { 3, 8192 }, { 6, 1024 }, { 15, 2 } };

	put(r, B, PIE | H24);
	for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
		u64 end = loop_now_ns(r->loop) + 2 * NS_PER_SEC;

		put(r, A, 0x20 | rates[i].rate);
		get(r, C);
		r->rises[0] = 0;
		while (loop_now_ns(r->loop) < end) {
			rig_advance(r, 20000);
			if (r->line[0])
				EQ(get(r, C) & 0xc0, 0xc0);
		}
		EQ(r->rises[0], 2 * rates[i].hz);
	}
	put(r, A, 0x20);
	rig_advance(r, NS_PER_SEC);
	EQ(r->line[0], 0);
	rig_free(r);
}

TEST(rtc_periodic_interrupts_left_unread_come_later)
{
	struct rig *r = rtc_rig();
	u32 taken = 0;

	put(r, B, PIE | H24);
	put(r, A, 0x26);
	get(r, C);
	rig_advance(r, 100 * NS_PER_SEC / 1024 + 1000);
	r->rises[0] = 0;
	while (r->line[0] && taken < 200)
		taken += get(r, C) == 0xc0;
	EQ(taken, 100);
	EQ(r->rises[0], 99); /* an edge for each that had none */
	put(r, B, H24); /* nobody counts any more */
	rig_advance(r, NS_PER_SEC);
	put(r, B, PIE | H24);
	get(r, C);
	r->rises[0] = 0;
	rig_advance(r, NS_PER_SEC / 1024 + 1);
	get(r, C);
	rig_advance(r, NS_PER_SEC / 1024 * 3 / 4);
	EQ(r->rises[0], 1);
	rig_free(r);
}

TEST(rtc_polled_flags_need_no_interrupt)
{
	struct rig *r = rtc_rig();

	get(r, C);
	EQ(get(r, C), 0);
	rig_advance(r, NS_PER_SEC / 1024 + 1);
	EQ(get(r, C), 0x40);
	rig_advance(r, NS_PER_SEC);
	EQ(get(r, C), 0x50);
	EQ(r->rises[0], 0);
	rig_free(r);
}

TEST(rtc_alarm_at_a_time_of_day)
{
	struct rig *r = rtc_rig();

	put(r, 5, 0x00), put(r, 3, 0x01), put(r, 1, 0x30);
	put(r, B, AIE | H24);
	rig_advance(r, 91 * NS_PER_SEC);
	EQ(r->rises[0], 0);
	rig_advance(r, NS_PER_SEC);
	EQ(r->rises[0], 1);
	EQ(get(r, C) & 0xa0, 0xa0);
	expect_time(r, 0, 1, 0x30);
	rig_advance(r, (86400ull - 1) * NS_PER_SEC);
	EQ(r->rises[0], 1);
	rig_advance(r, NS_PER_SEC);
	EQ(r->rises[0], 2);
	rig_free(r);
}

TEST(rtc_alarm_with_dont_care_bytes)
{
	struct rig *r = rtc_rig();

	put(r, 5, 0xc0), put(r, 3, 0xff), put(r, 1, 0x05);
	put(r, B, AIE | H24);
	for (u32 i = 0; i < 3; i++) {
		rig_advance(r, 60 * NS_PER_SEC);
		EQ(r->rises[0], i + 1);
		get(r, C);
	}
	put(r, 1, 0xc0); /* every second */
	rig_advance(r, NS_PER_SEC);
	EQ(r->rises[0], 4);
	rig_free(r);
}

TEST(rtc_alarm_that_cannot_happen_never_does)
{
	struct rig *r = rtc_rig();

	put(r, 5, 0x24);
	put(r, B, AIE | H24);
	rig_advance(r, 3 * 86400 * NS_PER_SEC);
	EQ(r->rises[0], 0);
	rig_free(r);
}

TEST(rtc_alarm_flag_is_found_long_after)
{
	struct rig *r = rtc_rig();

	put(r, 5, 0x12), put(r, 3, 0), put(r, 1, 0);
	get(r, C);
	rig_advance(r, 11 * 3600 * NS_PER_SEC);
	EQ(get(r, C) & 0x20, 0);
	rig_advance(r, 2 * 3600 * NS_PER_SEC);
	EQ(get(r, C) & 0x20, 0x20);
	rig_free(r);
}

TEST(rtc_reset_keeps_time_and_ram)
{
	struct rig *r = rtc_rig();

	put(r, 0x0f, 0x5a);
	put(r, B, UIE | H24);
	rig_advance(r, NS_PER_SEC);
	EQ(r->line[0], 1);
	rig_reset(r);
	EQ(r->line[0], 0);
	EQ(get(r, B), H24);
	EQ(get(r, C), 0);
	EQ(get(r, 0x0f), 0x5a);
	EQ(get(r, 0), 0x59);
	rig_free(r);
}

TEST(rtc_cmos_describes_the_machine)
{
	struct rig *r = rtc_rig();
	u16 sum = 0;

	EQ(get(r, 0x15) | get(r, 0x16) << 8, 640);
	EQ(get(r, 0x17) | get(r, 0x18) << 8, 0xffff);
	EQ(get(r, 0x34) | get(r, 0x35) << 8, (3072 - 16) * 16);
	EQ(get(r, 0x5b) | get(r, 0x5c) << 8 | get(r, 0x5d) << 16, 2048 * 16);
	EQ(get(r, 0x3d), 2);
	EQ(get(r, 0x5f), 3);
	for (u8 i = 0x10; i <= 0x2d; i++)
		sum += get(r, i);
	EQ(get(r, 0x2e) << 8 | get(r, 0x2f), sum);
	rig_free(r);
}

TEST(rtc_host_time_by_default)
{
	struct rig *r = rig_new(&rtc_ops);

	OK(get(r, 9) >= 0x24);
	EQ(get(r, CENTURY), 0x20);
	rig_free(r);
}

TEST(rtc_paused_guest_sees_no_jump)
{
	struct rig *a = rtc_rig(), *b = rtc_rig();
	struct state saved;

	rig_advance(a, 100 * NS_PER_SEC);
	rig_save(a, &saved);
	loop_clock_set(b->loop, loop_now_ns(a->loop));
	EQ(rig_load(b, &saved), 0);
	expect_time(b, 0, 1, 0x38);
	state_free(&saved);
	rig_free(a), rig_free(b);
}
