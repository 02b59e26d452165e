/* rtc.c - MC146818A real-time clock and CMOS RAM: region 0 is port 70h (index), then 71h (data).
 *
 * Owns the divider chain, the calendar, the alarm and 128 CMOS bytes.  Nothing ticks: the
 * divider's age is guest time plus a phase, the calendar is that plus a base, and register C is
 * brought up to date when somebody looks or an enabled interrupt falls due.  Guest time stands
 * still while the machine is paused, so neither a paused nor a restored guest sees the clock jump.
 *
 * Interrupts that fell due while register C was unread are one interrupt, as on the chip; but
 * periodic ones, which a guest counts, are owed: when C is read the next is there at once, since it
 * is the host that is late with most of them.
 *
 * Thread: vCPUs (registers), loop (timer); all under machine.lock.
 * Sources: Motorola MC146818A data sheet, "Address Map", "Registers", "Interrupts"; IBM AT
 * Technical Reference, "CMOS RAM"; the memory sizes from 34h up as SeaBIOS reads them.
 * Departures: an update takes no time, so UIP is high only for the 244 us before it; a date that
 * does not exist runs on from the one it would be (30 February is 2 March); the day of the week
 * follows from the date; no daylight saving; SQW has no pin on a PC. */
#include <time.h>

#include "chipset.h"

/* clang-format off */
enum { PORT_INDEX, PORT_DATA };
enum { CMOS_BYTES = 128, CRYSTAL_HZ = 32768, UIP_NS = 244000, DAY_S = 86400 };

enum {
	SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH,
	YEAR, REG_A, REG_B, REG_C, REG_D, CENTURY = 0x32,
};
enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_DIVIDER_RUN = 0x20, A_DIVIDER_RESET = 0x60,
       A_RATE = 0x0f };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_SQWE = 0x08, B_BINARY = 0x04,
       B_24H = 0x02 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10, C_FLAGS = C_PF | C_AF | C_UF };
enum { D_VALID = 0x80, HOUR_PM = 0x80, ALARM_ANY = 0xc0 };

struct rtc {
	struct device dev;
	struct loop_timer timer; /* the next enabled interrupt */
	struct rtc_state {
		u8 index;       /* bits 0-6 of the last byte written to 70h; bit 7 masks NMI */
		u8 cmos[CMOS_BYTES]; /* time registers are those of the last look */
		bool line;
		u64 phase_ns;   /* age of the divider chain less guest time, below one second */
		s64 base_s;     /* calendar, seconds since 1970, less whole seconds of that age */
		u64 seen_ns;    /* age up to which register C is complete */
		u32 owed;       /* periodic interrupts of the past that are still due */
	} s;
};
/* clang-format on */

static struct rtc *rtc_of(struct device *dev)
{
	return container_of(dev, struct rtc, dev);
}

/* --- the divider chain ---------------------------------------------------------------------- */
static u64 rtc_age_ns(const struct rtc *r)
{
	return loop_now_ns(r->dev.loop) + r->s.phase_ns;
}

/* Let `into_ns` of the present second have gone by. */
static void rtc_set_phase(struct rtc *r, u64 into_ns)
{
	u64 now_ns = loop_now_ns(r->dev.loop) % NS_PER_SEC;

	r->s.phase_ns = (NS_PER_SEC + into_ns - now_ns) % NS_PER_SEC;
	r->s.seen_ns = rtc_age_ns(r);
}

static u64 rtc_crystal_ticks(u64 age_ns)
{
	return (u64)((u128)age_ns * CRYSTAL_HZ / NS_PER_SEC);
}

static u64 rtc_crystal_ns(u64 ticks)
{
	return (u64)(((u128)ticks * NS_PER_SEC + CRYSTAL_HZ - 1) / CRYSTAL_HZ);
}

static bool rtc_divider_runs(const struct rtc *r)
{
	return (r->s.cmos[REG_A] & A_DIVIDER) == A_DIVIDER_RUN;
}

static bool rtc_clock_runs(const struct rtc *r)
{
	return rtc_divider_runs(r) && !(r->s.cmos[REG_B] & B_SET);
}

/* "Periodic Interrupt Rate": a power of two of crystal ticks, or 0 for none. */
static unsigned rtc_period_shift(const struct rtc *r)
{
	unsigned rate = r->s.cmos[REG_A] & A_RATE;

	return rate == 0 ? 0 : rate < 3 ? rate + 6 : rate - 1;
}

/* --- calendar ------------------------------------------------------------------------------- */
static s64 rtc_seconds(const struct rtc *r, u64 age_ns)
{
	return r->s.base_s + (s64)(age_ns / NS_PER_SEC);
}

static u8 rtc_encode(const struct rtc *r, int val)
{
	return (u8)(r->s.cmos[REG_B] & B_BINARY ? val : val / 10 << 4 | val % 10);
}

static int rtc_decode(const struct rtc *r, u8 byte)
{
	return r->s.cmos[REG_B] & B_BINARY ? byte : (byte >> 4) * 10 + (byte & 15);
}

static u8 rtc_encode_hour(const struct rtc *r, int hour)
{
	if (r->s.cmos[REG_B] & B_24H)
		return rtc_encode(r, hour);
	return rtc_encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static int rtc_decode_hour(const struct rtc *r, u8 byte)
{
	if (r->s.cmos[REG_B] & B_24H)
		return rtc_decode(r, byte);
	return rtc_decode(r, byte & ~HOUR_PM) % 12 + (byte & HOUR_PM ? 12 : 0);
}

static bool rtc_is_time(u8 reg)
{
	return reg == SECONDS || reg == MINUTES || reg == HOURS ||
	       (reg >= WEEKDAY && reg <= YEAR) || reg == CENTURY;
}

/* Calendar to time registers. */
static void rtc_store_time(struct rtc *r, s64 seconds)
{
	u8 *cmos = r->s.cmos;
	time_t t = seconds;
	struct tm tm;
	int year;

	gmtime_r(&t, &tm);
	year = ((tm.tm_year + 1900) % 10000 + 10000) % 10000; /* four digits are all there are */
	cmos[SECONDS] = rtc_encode(r, tm.tm_sec);
	cmos[MINUTES] = rtc_encode(r, tm.tm_min);
	cmos[HOURS] = rtc_encode_hour(r, tm.tm_hour);
	cmos[WEEKDAY] = rtc_encode(r, tm.tm_wday + 1);
	cmos[DAY] = rtc_encode(r, tm.tm_mday);
	cmos[MONTH] = rtc_encode(r, tm.tm_mon + 1);
	cmos[YEAR] = rtc_encode(r, year % 100);
	cmos[CENTURY] = rtc_encode(r, year / 100);
}

/* And back; timegm() carries what is out of range. */
static s64 rtc_load_time(const struct rtc *r)
{
	const u8 *cmos = r->s.cmos;
	struct tm tm = {
		.tm_sec = rtc_decode(r, cmos[SECONDS]),
		.tm_min = rtc_decode(r, cmos[MINUTES]),
		.tm_hour = rtc_decode_hour(r, cmos[HOURS]),
		.tm_mday = rtc_decode(r, cmos[DAY]),
		.tm_mon = rtc_decode(r, cmos[MONTH]) - 1,
		.tm_year = rtc_decode(r, cmos[CENTURY]) * 100 + rtc_decode(r, cmos[YEAR]) - 1900,
	};

	return timegm(&tm);
}

static void rtc_set_time(struct rtc *r, s64 seconds)
{
	r->s.base_s = 0;
	r->s.base_s = seconds - rtc_seconds(r, rtc_age_ns(r));
}

/* --- alarm ---------------------------------------------------------------------------------- */
static bool rtc_alarm_byte_matches(u8 alarm, u8 time)
{
	return alarm >= ALARM_ANY || alarm == time; /* bits 7 and 6 set: "don't care" */
}

/* Seconds from `now` to the next alarm, 1 to a day, or UINT64_MAX if there is no such time. */
static u64 rtc_next_alarm(const struct rtc *r, s64 now)
{
	const u8 *cmos = r->s.cmos;
	u32 start = (u32)((now % DAY_S + DAY_S) % DAY_S);

	for (u32 t = start + 1; t <= start + DAY_S;) {
		int hour = (int)(t % DAY_S / 3600), minute = (int)(t / 60 % 60);

		if (!rtc_alarm_byte_matches(cmos[HOURS_ALARM], rtc_encode_hour(r, hour)))
			t += 3600 - t % 3600;
		else if (!rtc_alarm_byte_matches(cmos[MINUTES_ALARM], rtc_encode(r, minute)))
			t += 60 - t % 60;
		else if (!rtc_alarm_byte_matches(cmos[SECONDS_ALARM], rtc_encode(r, (int)(t % 60))))
			t++;
		else
			return t - start;
	}
	return UINT64_MAX;
}

/* --- interrupts ----------------------------------------------------------------------------- */
/* Flags raised by what happened in (seen, now]. */
static u8 rtc_elapsed_flags(const struct rtc *r, u64 seen_ns, u64 now_ns)
{
	unsigned shift = rtc_period_shift(r);
	u64 updates = now_ns / NS_PER_SEC - seen_ns / NS_PER_SEC;
	u8 flags = 0;

	if (shift && rtc_divider_runs(r) &&
	    rtc_crystal_ticks(now_ns) >> shift != rtc_crystal_ticks(seen_ns) >> shift)
		flags |= C_PF;
	if (rtc_clock_runs(r) && updates) {
		flags |= C_UF;
		if (rtc_next_alarm(r, rtc_seconds(r, seen_ns)) <= updates)
			flags |= C_AF;
	}
	return flags;
}

/* Age at which the next enabled flag rises, or TIMER_OFF. */
static u64 rtc_next_interrupt(const struct rtc *r, u64 now_ns)
{
	u8 enabled = r->s.cmos[REG_B];
	unsigned shift = rtc_period_shift(r);
	u64 second = now_ns / NS_PER_SEC, next = TIMER_OFF, alarm;

	if (enabled & B_PIE && shift && rtc_divider_runs(r))
		next = rtc_crystal_ns(((rtc_crystal_ticks(now_ns) >> shift) + 1) << shift);
	if (!rtc_clock_runs(r))
		return next;
	if (enabled & B_UIE)
		next = MIN(next, (second + 1) * NS_PER_SEC);
	if (enabled & B_AIE) {
		alarm = rtc_next_alarm(r, rtc_seconds(r, now_ns));
		if (alarm <= DAY_S)
			next = MIN(next, (second + alarm) * NS_PER_SEC);
	}
	return next;
}

/* IRQF is the enabled flags; while it is up the line is too, and nothing more can happen. */
static void rtc_update_irq(struct rtc *r)
{
	u8 *cmos = r->s.cmos;
	bool line = cmos[REG_B] & cmos[REG_C] & C_FLAGS;
	u64 next = line ? TIMER_OFF : rtc_next_interrupt(r, r->s.seen_ns);

	cmos[REG_C] = (cmos[REG_C] & C_FLAGS) | (line ? C_IRQF : 0);
	if (line != r->s.line)
		irq_set(r->dev.irq[0], line);
	r->s.line = line;
	timer_arm(&r->timer, next == TIMER_OFF ? TIMER_OFF : next - r->s.phase_ns);
}

/* Periods in (seen, now] but for the one that sets PF. */
static void rtc_owe(struct rtc *r, u64 now_ns)
{
	unsigned shift = rtc_period_shift(r);
	u64 n = (rtc_crystal_ticks(now_ns) >> shift) - (rtc_crystal_ticks(r->s.seen_ns) >> shift);

	if (!(r->s.cmos[REG_B] & B_PIE) || !shift || !rtc_divider_runs(r))
		r->s.owed = 0;
	else if (n)
		r->s.owed = (u32)MIN(r->s.owed + n - !(r->s.cmos[REG_C] & C_PF), TICKS_OWED_MAX);
}

static void rtc_sync(struct rtc *r)
{
	u64 now_ns = rtc_age_ns(r);

	rtc_owe(r, now_ns);
	r->s.cmos[REG_C] |= rtc_elapsed_flags(r, r->s.seen_ns, now_ns);
	r->s.seen_ns = now_ns;
	if (rtc_clock_runs(r))
		rtc_store_time(r, rtc_seconds(r, now_ns));
}

static void rtc_timer(void *arg)
{
	struct rtc *r = arg;

	rtc_sync(r);
	rtc_update_irq(r);
}

/* --- registers ------------------------------------------------------------------------------ */
static u8 rtc_read_a(const struct rtc *r)
{
	u64 to_update_ns = NS_PER_SEC - r->s.seen_ns % NS_PER_SEC;
	bool uip = rtc_clock_runs(r) && to_update_ns <= UIP_NS;

	return r->s.cmos[REG_A] | (uip ? A_UIP : 0);
}

static u8 rtc_read_c(struct rtc *r)
{
	u8 flags = r->s.cmos[REG_C];

	r->s.cmos[REG_C] = 0;
	if (r->s.owed) {
		rtc_update_irq(r); /* the line drops, for the next edge */
		r->s.cmos[REG_C] = C_PF;
		r->s.owed--;
	}
	return flags;
}

/* A or B changes.  The calendar stops with the bytes that rtc_sync() left and goes on from those it
 * finds; a divider that comes out of reset makes the first update half a second later. */
static void rtc_write_control(struct rtc *r, u8 reg, u8 val)
{
	bool ran = rtc_clock_runs(r);
	bool was_reset = (r->s.cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;

	r->s.cmos[reg] = val;
	r->s.owed = 0;
	if (was_reset && rtc_divider_runs(r))
		rtc_set_phase(r, NS_PER_SEC / 2);
	if (!ran && rtc_clock_runs(r))
		rtc_set_time(r, rtc_load_time(r));
}

static u8 rtc_read_data(struct rtc *r)
{
	switch (r->s.index) {
	case REG_A: return rtc_read_a(r);
	case REG_C: return rtc_read_c(r);
	default: return r->s.cmos[r->s.index];
	}
}

static void rtc_write_data(struct rtc *r, u8 val)
{
	switch (r->s.index) {
	case REG_A: rtc_write_control(r, REG_A, val & ~A_UIP); break;
	case REG_B: /* setting SET clears UIE */
		rtc_write_control(r, REG_B, val & B_SET ? val & ~B_UIE : val);
		break;
	case REG_C: /* read-only, as is D */
	case REG_D: break;
	default:
		r->s.cmos[r->s.index] = val;
		if (rtc_is_time(r->s.index) && rtc_clock_runs(r))
			rtc_set_time(r, rtc_load_time(r));
		break;
	}
}

static u64 rtc_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct rtc *r = rtc_of(dev);
	u8 val;

	if (off == PORT_INDEX)
		return 0xff; /* write-only on an AT */
	rtc_sync(r);
	val = rtc_read_data(r);
	rtc_update_irq(r);
	return val;
}

static void rtc_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct rtc *r = rtc_of(dev);

	if (off == PORT_INDEX) {
		r->s.index = val & (CMOS_BYTES - 1);
		return;
	}
	rtc_sync(r);
	rtc_write_data(r, (u8)val);
	rtc_update_irq(r);
}

/* --- life ----------------------------------------------------------------------------------- */
/* The chip is on a battery: the RESET pin only stops its interrupts. */
static void rtc_reset(struct device *dev)
{
	struct rtc *r = rtc_of(dev);

	rtc_sync(r);
	r->s.cmos[REG_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE);
	r->s.cmos[REG_C] = 0;
	r->s.owed = 0;
	rtc_update_irq(r);
}

/* What a PC's set-up program would have stored. */
static void rtc_fill_cmos(u8 *cmos, const struct rtc_config *cfg)
{
	u64 low = MIN(cfg->ram_bytes, 3 * GIB), high = cfg->ram_bytes - low;
	u64 extended = low > MIB ? MIN((low - MIB) / KIB, 0xffff) : 0;
	u16 sum = 0;

	/* clang-format off */
	cmos[0x14] = 0x02;                                   /* equipment: coprocessor */
	st16(&cmos[0x15], (u16)MIN(low / KIB, 640));         /* base memory, KiB */
	st16(&cmos[0x17], (u16)extended);                    /* from 1 MiB up, KiB */
	st16(&cmos[0x30], (u16)extended);
	st16(&cmos[0x34], low > 16 * MIB ? (u16)((low - 16 * MIB) / (64 * KIB)) : 0);
	st16(&cmos[0x5b], (u16)(high / (64 * KIB)));         /* from 4 GiB up, 64 KiB units */
	cmos[0x5d] = (u8)(high / (64 * KIB) >> 16);
	/* clang-format on */
	cmos[0x3d] = cfg->boot_order[0];
	cmos[0x38] = cfg->boot_order[1];
	cmos[0x5f] = cfg->cpus ? cfg->cpus - 1 : 0;
	for (int i = 0x10; i <= 0x2d; i++)
		sum += cmos[i];
	cmos[0x2e] = sum >> 8;
	cmos[0x2f] = (u8)sum;
}

static int rtc_init(struct device *dev, struct err *e)
{
	struct rtc *r = rtc_of(dev);
	const struct rtc_config *cfg = dev->arg;
	struct timespec host = { .tv_sec = 0 };

	timer_init(&r->timer, dev->loop, rtc_timer, r);
	r->s.cmos[REG_A] = A_DIVIDER_RUN | 6; /* as firmware leaves it: 1024 Hz */
	r->s.cmos[REG_B] = B_24H;
	r->s.cmos[REG_D] = D_VALID;
	if (cfg)
		rtc_fill_cmos(r->s.cmos, cfg);
	if (cfg && cfg->utc_s != RTC_HOST_TIME)
		host.tv_sec = cfg->utc_s;
	else
		clock_gettime(CLOCK_REALTIME, &host);
	rtc_set_phase(r, (u64)host.tv_nsec);
	rtc_set_time(r, host.tv_sec);
	rtc_reset(dev);
	return 0;
}

static void rtc_free(struct device *dev)
{
	timer_cancel(&rtc_of(dev)->timer);
}

static void rtc_state(struct device *dev, struct state *st)
{
	struct rtc *r = rtc_of(dev);
	struct rtc_state *s = &r->s;

	st_u8(st, "index", &s->index);
	st_bytes(st, "cmos", s->cmos, sizeof s->cmos);
	st_bool(st, "line", &s->line);
	st_u64(st, "phase_ns", &s->phase_ns);
	st_bytes(st, "base_s", &s->base_s, sizeof s->base_s);
	st_u64(st, "seen_ns", &s->seen_ns);
	st_u32(st, "owed", &s->owed);
	st_check(st, s->index < CMOS_BYTES && s->owed <= TICKS_OWED_MAX, "index");
	st_check(st, s->phase_ns < NS_PER_SEC && s->seen_ns < BIT(62), "phase_ns");
	st_check(st, s->base_s > -(1ll << 40) && s->base_s < 1ll << 40, "base_s");
	if (st->loading && !st->error) {
		irq_set(dev->irq[0], s->line);
		rtc_update_irq(r);
	}
}

const struct device_ops rtc_ops = {
	.name = "rtc",
	.version = 1,
	.bytes = sizeof(struct rtc),
	.access_max = 1,
	.init = rtc_init,
	.free = rtc_free,
	.read = rtc_read,
	.write = rtc_write,
	.reset = rtc_reset,
	.state = rtc_state,
	.state_off = offsetof(struct rtc, s),
	.state_len = sizeof(struct rtc_state),
};
