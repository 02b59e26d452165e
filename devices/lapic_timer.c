/* lapic_timer.c - the local APIC's timer: one-shot, periodic, TSC deadline.
 *
 * The bus clock is 1 GHz, so timer ticks are nanoseconds of guest time.  There is no loop timer:
 * the vCPU's thread asks lapic_deadline_ns how long it may run or sleep and calls
 * lapic_timer_poll.
 *
 * Thread: the vCPU's own.
 * Source: SDM vol 3 "APIC Timer". */
#include "lapic_priv.h"

enum timer_mode lapic_timer_mode(const struct lapic *a)
{
	return a->s.lvt[LVT_TIMER] >> TIMER_MODE_SHIFT & 3;
}

/* "Divide Configuration Register": bits 3, 1, 0 are 000 for 2 up to 110 for 128, and 111 for 1. */
static unsigned lapic_divide_shift(const struct lapic *a)
{
	unsigned code = (a->s.divide & 3) | (a->s.divide >> 1 & 4);

	return (code + 1) & 7;
}

static u64 lapic_period_ns(const struct lapic *a)
{
	return (u64)a->s.initial << lapic_divide_shift(a);
}

static bool lapic_counting(const struct lapic *a)
{
	return a->s.armed && lapic_timer_mode(a) <= TIMER_PERIODIC;
}

static u64 lapic_now_tsc(const struct lapic *a)
{
	return host_rdtsc() + a->v->s.tsc_offset;
}

/* n periods have passed.  A host that is late must not cost a guest that counts its ticks any:
 * those that find the last one still in IRR, or each other, come one by one as it is dealt with. */
static void lapic_timer_fire(struct lapic *a, u64 n)
{
	u32 lvt = a->s.lvt[LVT_TIMER];

	if (lvt & LVT_MASKED)
		return;
	if (lapic_timer_mode(a) == TIMER_PERIODIC)
		a->s.owed = (u32)MIN(a->s.owed + n - !lapic_is_requested(a, (u8)lvt),
			TICKS_OWED_MAX);
	lapic_accept(a, (u8)lvt, false);
}

void lapic_timer_eoi(struct lapic *a, u8 vector)
{
	if (!a->s.owed || vector != (u8)a->s.lvt[LVT_TIMER] || lapic_is_requested(a, vector))
		return;
	a->s.owed--;
	lapic_accept(a, vector, false);
}

void lapic_timer_poll(struct lapic *a, u64 now_ns, u64 now_tsc)
{
	u64 period_ns = lapic_period_ns(a), n = 1;

	if (lapic_timer_mode(a) == TIMER_DEADLINE) {
		if (!a->s.deadline_tsc || now_tsc < a->s.deadline_tsc)
			return;
		a->s.deadline_tsc = 0;
	} else if (lapic_counting(a) && now_ns >= a->s.origin_ns + period_ns) {
		a->s.armed = lapic_timer_mode(a) == TIMER_PERIODIC;
		n = (now_ns - a->s.origin_ns) / period_ns;
		if (a->s.armed)
			a->s.origin_ns += n * period_ns;
	} else {
		return;
	}
	lapic_timer_fire(a, n);
}

void lapic_timer_catch_up(struct lapic *a)
{
	lapic_timer_poll(a, lapic_now_ns(a), lapic_now_tsc(a));
}

static u64 lapic_tsc_deadline_ns(const struct lapic *a)
{
	u64 now_tsc = lapic_now_tsc(a), now_ns = lapic_now_ns(a);
	u128 left_ns;

	if (a->s.deadline_tsc <= now_tsc)
		return now_ns;
	left_ns = (u128)(a->s.deadline_tsc - now_tsc) * 1000000 / a->env->tsc_khz + 1;
	return left_ns < UINT64_MAX - now_ns ? now_ns + (u64)left_ns : UINT64_MAX;
}

/* A masked timer need not wake anyone: writes to its LVT catch up first. */
u64 lapic_deadline_ns(const struct lapic *a)
{
	if (a->s.lvt[LVT_TIMER] & LVT_MASKED)
		return UINT64_MAX;
	if (lapic_timer_mode(a) == TIMER_DEADLINE)
		return a->s.deadline_tsc ? lapic_tsc_deadline_ns(a) : UINT64_MAX;
	return lapic_counting(a) ? a->s.origin_ns + lapic_period_ns(a) : UINT64_MAX;
}

u32 lapic_current_count(const struct lapic *a)
{
	u64 ticks = (lapic_now_ns(a) - a->s.origin_ns) >> lapic_divide_shift(a);

	if (!lapic_counting(a))
		return 0;
	if (lapic_timer_mode(a) == TIMER_PERIODIC)
		ticks %= a->s.initial;
	return ticks < a->s.initial ? a->s.initial - (u32)ticks : 0;
}

void lapic_write_initial(struct lapic *a, u32 val)
{
	if (lapic_timer_mode(a) == TIMER_DEADLINE)
		return;
	a->s.initial = val;
	a->s.armed = val != 0;
	a->s.owed = 0;
	a->s.origin_ns = lapic_now_ns(a);
}

void lapic_set_count(struct lapic *a, u32 count)
{
	u64 gone_ns = (u64)(a->s.initial - MIN(count, a->s.initial)) << lapic_divide_shift(a);

	a->s.origin_ns = lapic_now_ns(a) - gone_ns;
}

/* A new divisor goes on from the present count. */
void lapic_write_divide(struct lapic *a, u32 val)
{
	u32 count;

	lapic_timer_catch_up(a);
	count = lapic_current_count(a);
	a->s.divide = val & DIVIDE_BITS;
	lapic_set_count(a, count);
}

/* Going into or out of deadline mode disarms the timer. */
void lapic_write_lvt_timer(struct lapic *a, u32 val)
{
	enum timer_mode old = lapic_timer_mode(a);

	lapic_timer_catch_up(a);
	a->s.lvt[LVT_TIMER] = val;
	if (val & LVT_MASKED || lapic_timer_mode(a) != TIMER_PERIODIC)
		a->s.owed = 0;
	if ((old == TIMER_DEADLINE) != (lapic_timer_mode(a) == TIMER_DEADLINE)) {
		a->s.deadline_tsc = 0;
		a->s.armed = false;
	}
}
