/* pit.c - 82C54 interval timer and system port B: region 0 is ports 40h-43h (three counters,
 * control word), region 1 is port 61h (gate and output of counter 2, refresh toggle).
 *
 * A counter is not counted down: it remembers the tick its count was loaded at, and count and OUT
 * at any time follow from that.  Ticks are guest time in units of the 1.193182 MHz clock since
 * guest time zero, so deadlines are computed from the origin and a periodic interrupt never
 * drifts.
 *
 * A guest that counts its ticks must not lose any to a host that is late: periods that went by
 * together, or while an interrupt controller still held the last edge, are owed: each follows when
 * the one before was taken, or at four times the rate if the controllers cannot tell.  OUT itself,
 * the counts and the status are always those of the present.  A period below PIT_MIN_PERIOD
 * interrupts at that rate instead: it cannot starve the host.
 *
 * Thread: vCPUs (registers), loop (timer); all under machine.lock.
 * Sources: Intel 82C54 data sheet, "Mode Definitions", "Read Operations"; IBM AT Technical
 * Reference, port 61h.  Departure: reading a count while it is being written shows the old one. */
#include "chipset.h"

/* clang-format off */
enum { COUNTERS = 3, REGION_PORT_B = 1, CONTROL = 3, TIMER_COUNTER = 0, SPEAKER_COUNTER = 2 };
enum { PIT_MIN_PERIOD = 60 }; /* ticks, 50 us */

enum { CW_BCD = 1, CW_MODE_SHIFT = 1, CW_RW_SHIFT = 4, CW_SC_SHIFT = 6, CW_READ_BACK = 3 };
enum { RW_LATCH, RW_LSB, RW_MSB, RW_WORD };
enum { RB_NOT_STATUS = 0x10, RB_NOT_COUNT = 0x20, RB_COUNTER0 = 2 };
enum { STATUS_OUT = 0x80, STATUS_NULL_COUNT = 0x40, STATUS_CONTROL = 0x3f };
enum { B_GATE2 = 1, B_SPEAKER = 2, B_WRITABLE = 0xf, B_REFRESH = 0x10, B_OUT2 = 0x20 };
enum { REFRESH_NS = 15085 }; /* counter 1 of a PC asks for a refresh every 18 ticks */

enum mode { TERMINAL_COUNT, ONE_SHOT, RATE, SQUARE, SOFT_STROBE, HARD_STROBE };

struct pit_counter {
	u64 origin;      /* tick at which `count` was loaded; moved on by the time GATE stops it */
	u64 stopped;     /* tick since which counting is suspended, if `suspended` */
	u64 reload;      /* modes 2 and 3, if `null_count`: tick at which `next` is loaded */
	u32 count, next; /* 1 to 65536 (10000 in BCD): in effect, and last written */
	u16 latched;
	u8 control;      /* bits 0-5 of the control word */
	u8 lsb;          /* first half of a two-byte write */
	u8 status;       /* as latched */
	bool running;    /* a count was loaded (modes 1 and 5: and triggered) */
	bool suspended;  /* by GATE, or in mode 0 by a half-written count */
	bool null_count; /* `next` has not been loaded yet */
	bool gate;
	bool write_msb, read_msb; /* byte pointers of RW_WORD */
	bool has_latch, has_status;
};

struct pit {
	struct device dev;
	struct loop_timer timer;
	struct pit_state {
		struct pit_counter counter[COUNTERS];
		u64 seen;  /* tick up to which counter 0's OUT has been told */
		u64 next;  /* tick of its next interrupt, or TIMER_OFF */
		u32 owed;  /* interrupts that periods of the past are still due */
		u8 port_b; /* bits 0-3 */
		bool line;
	} s;
};
/* clang-format on */

static struct pit *pit_of(struct device *dev)
{
	return container_of(dev, struct pit, dev);
}

/* --- time ----------------------------------------------------------------------------------- */
static u64 pit_now(const struct pit *p)
{
	return (u64)((u128)loop_now_ns(p->dev.loop) * PIT_HZ / NS_PER_SEC);
}

static u64 pit_tick_ns(u64 tick)
{
	return (u64)(((u128)tick * NS_PER_SEC + PIT_HZ - 1) / PIT_HZ);
}

/* --- counters ------------------------------------------------------------------------------- */
static enum mode counter_mode(const struct pit_counter *c)
{
	unsigned mode = c->control >> CW_MODE_SHIFT & 7;

	return mode > HARD_STROBE ? mode - 4 : mode; /* 6 and 7 are 2 and 3 */
}

static bool counter_periodic(const struct pit_counter *c)
{
	return counter_mode(c) == RATE || counter_mode(c) == SQUARE;
}

static bool counter_needs_trigger(const struct pit_counter *c)
{
	return counter_mode(c) == ONE_SHOT || counter_mode(c) == HARD_STROBE;
}

static u32 counter_modulus(const struct pit_counter *c)
{
	return c->control & CW_BCD ? 10000 : 0x10000;
}

/* Clock pulses counted since the load, at tick t.  The load itself takes one: a program that looks
 * in that very tick sees the full count. */
static u64 counter_elapsed(const struct pit_counter *c, u64 t)
{
	u64 end = c->suspended ? c->stopped : t;

	return c->running && end > c->origin ? end - c->origin : 0;
}

static bool counter_out(const struct pit_counter *c, u64 t)
{
	u64 elapsed = counter_elapsed(c, t), n = c->count;

	if (!c->running)
		return counter_mode(c) != TERMINAL_COUNT;
	switch (counter_mode(c)) {
	case TERMINAL_COUNT:
	case ONE_SHOT: return elapsed >= n;
	case RATE: /* low for the last tick of a period; a count of 1 is illegal: stays high */
		return c->suspended || n <= 1 || elapsed % n != n - 1;
	case SQUARE: return c->suspended || n <= 1 || elapsed % n < (n + 1) / 2;
	default: return elapsed != n;
	}
}

/* The counting element, in binary. */
static u32 counter_left(const struct pit_counter *c, u64 t)
{
	u64 elapsed = counter_elapsed(c, t), n = c->count, half = (n + 1) / 2, left;

	if (counter_mode(c) == RATE)
		left = n - elapsed % n;
	else if (counter_mode(c) == SQUARE) /* by twos, from an even number, once per half */
		left = (n & ~1ull) - 2 * (elapsed % n % half);
	else /* runs on through zero */
		left = n - elapsed + (elapsed / counter_modulus(c) + 1) * counter_modulus(c);
	return (u32)(left % counter_modulus(c));
}

/* As a program reads it. */
static u16 counter_value(const struct pit_counter *c, u64 t)
{
	u32 left = counter_left(c, t);

	if (!(c->control & CW_BCD))
		return (u16)left;
	return (u16)(left / 1000 << 12 | left / 100 % 10 << 8 | left / 10 % 10 << 4 | left % 10);
}

static void counter_load(struct pit_counter *c, u64 t)
{
	c->origin = t;
	c->count = c->next;
	c->null_count = false;
	c->running = true;
	if (c->suspended)
		c->stopped = t;
}

/* Modes 2 and 3 take a new count at the end of the period (half a period in mode 3). */
static void counter_sync(struct pit_counter *c, u64 t)
{
	if (c->null_count && c->running && counter_periodic(c) && !c->suspended && t >= c->reload)
		counter_load(c, c->reload);
}

static u64 counter_period_end(const struct pit_counter *c, u64 t)
{
	u64 elapsed = counter_elapsed(c, t), n = c->count, half = (n + 1) / 2;
	u64 phase = elapsed % n;

	if (counter_mode(c) == SQUARE && phase < half)
		return c->origin + elapsed - phase + half;
	return c->origin + elapsed - phase + n;
}

static void counter_set_count(struct pit_counter *c, u16 written, u64 t)
{
	u32 n = written;

	if (c->control & CW_BCD)
		n = (written >> 12) * 1000 + (written >> 8 & 15) * 100 + (written >> 4 & 15) * 10 +
		    (written & 15);
	c->next = n ? n : counter_modulus(c);
	c->null_count = true;
	if (counter_needs_trigger(c))
		return;
	if (!c->running || !counter_periodic(c)) {
		c->suspended = !c->gate;
		counter_load(c, t + 1);
	} else {
		c->reload = counter_period_end(c, t);
	}
}

/* In mode 0 the first byte of two stops the count and drops OUT. */
static void counter_halt(struct pit_counter *c, u64 t)
{
	u32 left = counter_left(c, t);

	c->count = left ? left : counter_modulus(c);
	c->running = false;
}

static void counter_write(struct pit_counter *c, u8 val, u64 t)
{
	switch (c->control >> CW_RW_SHIFT) {
	case RW_LSB: counter_set_count(c, val, t); break;
	case RW_MSB: counter_set_count(c, (u16)(val << 8), t); break;
	case RW_WORD:
		c->write_msb = !c->write_msb;
		if (!c->write_msb) {
			counter_set_count(c, (u16)(val << 8 | c->lsb), t);
			break;
		}
		c->lsb = val;
		if (counter_mode(c) == TERMINAL_COUNT)
			counter_halt(c, t);
		break;
	}
}

static void counter_latch(struct pit_counter *c, u64 t)
{
	if (!c->has_latch)
		c->latched = counter_value(c, t);
	c->has_latch = true;
}

static void counter_latch_status(struct pit_counter *c, u64 t)
{
	if (!c->has_status)
		c->status = (counter_out(c, t) ? STATUS_OUT : 0) |
			    (c->null_count ? STATUS_NULL_COUNT : 0) | c->control;
	c->has_status = true;
}

/* Status first, then the latched count, else the live one. */
static u8 counter_read(struct pit_counter *c, u64 t)
{
	u16 val = c->has_latch ? c->latched : counter_value(c, t);
	u8 rw = c->control >> CW_RW_SHIFT;
	bool msb = rw == RW_MSB || (rw == RW_WORD && c->read_msb);

	if (c->has_status) {
		c->has_status = false;
		return c->status;
	}
	if (rw == RW_WORD)
		c->read_msb = !c->read_msb;
	if (rw != RW_WORD || msb)
		c->has_latch = false;
	return (u8)(msb ? val >> 8 : val);
}

static void counter_program(struct pit_counter *c, u8 control)
{
	*c = (struct pit_counter){ .control = control, .gate = c->gate, .null_count = true };
	c->count = c->next = counter_modulus(c);
}

/* "Gate Pin Operations Summary". */
static void counter_set_gate(struct pit_counter *c, bool gate, u64 t)
{
	bool rising = gate && !c->gate;

	if (gate == c->gate)
		return;
	c->gate = gate;
	if (rising && (counter_needs_trigger(c) || (counter_periodic(c) && c->running))) {
		c->suspended = false;
		counter_load(c, t + 1);
	} else if (rising) {
		c->origin += c->suspended ? t - c->stopped : 0;
		c->suspended = false;
	} else if (!counter_needs_trigger(c)) {
		c->suspended = true;
		c->stopped = MAX(t, c->origin);
	}
}

/* --- counter 0 and its interrupt ------------------------------------------------------------ */
/* The tick of the next change of OUT after t that an interrupt controller must see; rate and strobe
 * pulses are told as one event, at their rising edge. */
static u64 counter_next_event(const struct pit_counter *c, u64 t)
{
	u64 end = c->origin + c->count;

	if (!c->running || c->suspended)
		return TIMER_OFF;
	switch (counter_mode(c)) {
	case TERMINAL_COUNT:
	case ONE_SHOT: return end > t ? end : TIMER_OFF;
	case RATE:
	case SQUARE: return c->count > 1 ? counter_period_end(c, t) : TIMER_OFF;
	default: return end + 1 > t ? end + 1 : TIMER_OFF;
	}
}

static void pit_schedule(struct pit *p, u64 now)
{
	const struct pit_counter *c = &p->s.counter[TIMER_COUNTER];
	u64 next = counter_next_event(c, now);

	if (next != TIMER_OFF && counter_periodic(c) && next < now + PIT_MIN_PERIOD &&
	    c->count < PIT_MIN_PERIOD)
		next = now + PIT_MIN_PERIOD;
	if (p->s.owed)
		next = MIN(next, now + MAX(c->count / 4, PIT_MIN_PERIOD));
	p->s.next = next;
	timer_arm(&p->timer, next == TIMER_OFF ? TIMER_OFF : pit_tick_ns(next));
}

/* Periods that have ended in (seen, now]. */
static u64 pit_periods(const struct pit *p, u64 now)
{
	const struct pit_counter *c = &p->s.counter[TIMER_COUNTER];

	if (!counter_periodic(c) || c->count < PIT_MIN_PERIOD)
		return 0;
	return counter_elapsed(c, now) / c->count - counter_elapsed(c, p->s.seen) / c->count;
}

static void pit_set_line(struct pit *p, bool level)
{
	if (level != p->s.line)
		irq_set(p->dev.irq[0], level);
	p->s.line = level;
}

/* One of the interrupts that are owed. */
static void pit_pay(struct pit *p)
{
	if (!p->s.owed || irq_waiting(p->dev.irq[0]))
		return;
	p->s.owed--;
	pit_set_line(p, false);
	pit_set_line(p, true);
}

static void pit_taken(void *arg)
{
	struct pit *p = arg;

	pit_pay(p);
	if (!p->s.owed)
		irq_when_taken(p->dev.irq[0], NULL, NULL);
}

/* Bring all counters up to `now`, and IRQ0 with them: a pulse that came and went still makes an
 * edge. */
static void pit_sync(struct pit *p, u64 now)
{
	struct pit_counter *c = &p->s.counter[TIMER_COUNTER];
	u64 event = counter_next_event(c, p->s.seen);
	bool due = event != TIMER_OFF && event <= now;
	bool rose = counter_mode(c) != SQUARE || !counter_out(c, p->s.seen) ||
		    now - p->s.seen >= c->count;

	u64 periods = pit_periods(p, now);

	if (periods)
		p->s.owed = (u32)MIN(p->s.owed + periods - !irq_waiting(p->dev.irq[0]),
			TICKS_OWED_MAX);
	for (int i = 0; i < COUNTERS; i++)
		counter_sync(&p->s.counter[i], now);
	if (due && (rose || counter_out(c, now))) {
		pit_set_line(p, false);
		pit_set_line(p, true);
	} else if (!due && now >= p->s.next) {
		pit_pay(p);
	}
	irq_when_taken(p->dev.irq[0], p->s.owed ? pit_taken : NULL, p);
	if (due || !c->running || c->suspended)
		pit_set_line(p, counter_out(c, now));
	p->s.seen = now;
}

static void pit_timer(void *arg)
{
	struct pit *p = arg;
	u64 now = pit_now(p);

	pit_sync(p, now);
	pit_schedule(p, now);
}

/* --- registers ------------------------------------------------------------------------------ */
static void pit_read_back(struct pit *p, u8 val, u64 now)
{
	for (int i = 0; i < COUNTERS; i++) {
		if (!(val & RB_COUNTER0 << i))
			continue;
		if (!(val & RB_NOT_COUNT))
			counter_latch(&p->s.counter[i], now);
		if (!(val & RB_NOT_STATUS))
			counter_latch_status(&p->s.counter[i], now);
	}
}

static void pit_control(struct pit *p, u8 val, u64 now)
{
	u8 which = val >> CW_SC_SHIFT;

	if (which == CW_READ_BACK)
		pit_read_back(p, val, now);
	else if ((val >> CW_RW_SHIFT & 3) == RW_LATCH)
		counter_latch(&p->s.counter[which], now);
	else
		counter_program(&p->s.counter[which], val & STATUS_CONTROL);
	if (!counter_periodic(&p->s.counter[TIMER_COUNTER]) || !p->s.counter[TIMER_COUNTER].running)
		p->s.owed = 0;
}

static u8 pit_read_port_b(struct pit *p, u64 now)
{
	u8 refresh = loop_now_ns(p->dev.loop) / REFRESH_NS & 1 ? B_REFRESH : 0;
	u8 out = counter_out(&p->s.counter[SPEAKER_COUNTER], now) ? B_OUT2 : 0;

	return p->s.port_b | refresh | out;
}

static void pit_write_port_b(struct pit *p, u8 val, u64 now)
{
	p->s.port_b = val & B_WRITABLE;
	counter_set_gate(&p->s.counter[SPEAKER_COUNTER], val & B_GATE2, now);
}

static u64 pit_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct pit *p = pit_of(dev);
	u64 now = pit_now(p);

	pit_sync(p, now);
	if (region == REGION_PORT_B)
		return pit_read_port_b(p, now);
	if (off == CONTROL)
		return 0xff; /* three-state */
	return counter_read(&p->s.counter[off], now);
}

static void pit_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct pit *p = pit_of(dev);
	u64 now = pit_now(p);

	pit_sync(p, now);
	if (region == REGION_PORT_B)
		pit_write_port_b(p, (u8)val, now);
	else if (off == CONTROL)
		pit_control(p, (u8)val, now);
	else
		counter_write(&p->s.counter[off], (u8)val, now);
	pit_set_line(p, counter_out(&p->s.counter[TIMER_COUNTER], now));
	pit_schedule(p, now);
}

/* --- life ----------------------------------------------------------------------------------- */
/* Power-on leaves the counters undefined; ours wait in mode 0 for a count, so OUT is low.  Gates 0
 * and 1 are tied high. */
static void pit_reset(struct device *dev)
{
	struct pit *p = pit_of(dev);

	for (int i = 0; i < COUNTERS; i++) {
		p->s.counter[i] = (struct pit_counter){ .gate = i != SPEAKER_COUNTER };
		counter_program(&p->s.counter[i], RW_WORD << CW_RW_SHIFT);
	}
	p->s.seen = pit_now(p);
	p->s.port_b = 0;
	p->s.owed = 0;
	pit_set_line(p, false);
	pit_schedule(p, p->s.seen);
}

static int pit_init(struct device *dev, struct err *e)
{
	struct pit *p = pit_of(dev);

	timer_init(&p->timer, dev->loop, pit_timer, p);
	pit_reset(dev);
	return 0;
}

static void pit_free(struct device *dev)
{
	timer_cancel(&pit_of(dev)->timer);
	irq_when_taken(dev->irq[0], NULL, NULL);
}

static void counter_state(struct pit_counter *c, struct state *st)
{
	st_u64(st, "origin", &c->origin);
	st_u64(st, "stopped", &c->stopped);
	st_u64(st, "reload", &c->reload);
	st_u32(st, "count", &c->count);
	st_u32(st, "next", &c->next);
	st_u16(st, "latched", &c->latched);
	st_u8(st, "control", &c->control);
	st_u8(st, "lsb", &c->lsb);
	st_u8(st, "status", &c->status);
	st_bool(st, "running", &c->running);
	st_bool(st, "suspended", &c->suspended);
	st_bool(st, "null_count", &c->null_count);
	st_bool(st, "gate", &c->gate);
	st_bool(st, "write_msb", &c->write_msb);
	st_bool(st, "read_msb", &c->read_msb);
	st_bool(st, "has_latch", &c->has_latch);
	st_bool(st, "has_status", &c->has_status);
	st_check(st, c->origin < BIT(62) && c->stopped < BIT(62) && c->reload < BIT(62), "origin");
	st_check(st, c->count >= 1 && c->count <= 0x10000, "count");
	st_check(st, c->next >= 1 && c->next <= 0x10000, "next");
	st_check(st, c->control <= STATUS_CONTROL && c->control >> CW_RW_SHIFT, "control");
}

static void pit_state(struct device *dev, struct state *st)
{
	struct pit *p = pit_of(dev);

	for (int i = 0; i < COUNTERS; i++)
		counter_state(&p->s.counter[i], st);
	st_u64(st, "seen", &p->s.seen);
	st_u64(st, "next", &p->s.next);
	st_u32(st, "owed", &p->s.owed);
	st_u8(st, "port_b", &p->s.port_b);
	st_bool(st, "line", &p->s.line);
	st_check(st, p->s.port_b <= B_WRITABLE && p->s.owed <= TICKS_OWED_MAX, "port_b");
	if (st->loading && !st->error) {
		irq_set(dev->irq[0], p->s.line);
		timer_arm(&p->timer, p->s.next == TIMER_OFF ? TIMER_OFF : pit_tick_ns(p->s.next));
	}
}

const struct device_ops pit_ops = {
	.name = "pit",
	.version = 1,
	.bytes = sizeof(struct pit),
	.access_max = 1,
	.init = pit_init,
	.free = pit_free,
	.read = pit_read,
	.write = pit_write,
	.reset = pit_reset,
	.state = pit_state,
	.state_off = offsetof(struct pit, s),
	.state_len = sizeof(struct pit_state),
};
