/* acpi_pm.c - ACPI fixed hardware: region 0 is the PM block at 600h (PM1a events, PM1a control, PM
 * timer), region 1 ports CF8h to CFBh, of which CF9h (reset control) is there.
 *
 * There is no SMI_CMD port, so the machine is in ACPI mode from the start and SCI_EN reads as one.
 * The PM timer is guest time in units of 3.579545 MHz, 32 bits of it.  S5 and reset are requests to
 * the machine; other sleep types do not exist in our _Sx_ objects and do nothing.
 *
 * Thread: vCPUs (registers), loop (timer, button); all under machine.lock.
 * Sources: ACPI 6.4 §4.8.3 "PM1 Event Grouping", "PM1 Control Registers", "Power Management Timer";
 * Intel 82371FB, "RC - Reset Control Register" for CF9h. */
#include "chipset.h"

enum { REGION_PM, REGION_RESET };
/* clang-format off */
enum { PM1_STS = 0, PM1_EN = 2, PM1_CNT = 4, PM_TMR = 8 };
enum { TMR_STS = 1 << 0, GBL_STS = 1 << 5, PWRBTN_STS = 1 << 8, RTC_STS = 1 << 10,
       WAK_STS = 1 << 15 };
enum { EN_BITS = TMR_STS | GBL_STS | PWRBTN_STS | RTC_STS, STS_BITS = EN_BITS | WAK_STS };
enum { CNT_SCI_EN = 1 << 0, CNT_BM_RLD = 1 << 1, CNT_SLP_TYP_SHIFT = 10, CNT_SLP_EN = 1 << 13 };
enum { CNT_KEPT = CNT_BM_RLD | 7 << CNT_SLP_TYP_SHIFT };
enum { RC_SRST = 2, RC_RCPU = 4, RC_FULL = 8, RC_KEPT = RC_SRST | RC_RCPU | RC_FULL };
enum { PM_TIMER_HZ = 3579545 };

struct acpi_pm {
	struct device dev;
	struct loop_timer timer; /* the next turn of PM_TMR's top bit, when that interrupts */
	struct acpi_pm_state {
		u16 sts, en, cnt;
		u8 rc;
		bool line;
		u64 half_turns; /* turns of the timer's top bit that TMR_STS knows of */
	} s;
};
/* clang-format on */

static struct acpi_pm *acpi_pm_of(struct device *dev)
{
	return container_of(dev, struct acpi_pm, dev);
}

/* --- timer and SCI -------------------------------------------------------------------------- */
static u64 acpi_pm_ticks(const struct acpi_pm *a)
{
	return (u64)((u128)loop_now_ns(a->dev.loop) * PM_TIMER_HZ / NS_PER_SEC);
}

/* TMR_STS rises whenever bit 31 changes. */
static void acpi_pm_sync(struct acpi_pm *a)
{
	u64 half_turns = acpi_pm_ticks(a) >> 31;

	if (half_turns != a->s.half_turns)
		a->s.sts |= TMR_STS;
	a->s.half_turns = half_turns;
}

static void acpi_pm_update(struct acpi_pm *a)
{
	bool line = a->s.sts & a->s.en;
	u64 due = TIMER_OFF;

	if (line != a->s.line)
		irq_set(a->dev.irq[0], line);
	a->s.line = line;
	if (a->s.en & TMR_STS && !line)
		due = (u64)(((u128)(a->s.half_turns + 1) << 31) * NS_PER_SEC / PM_TIMER_HZ) + 1;
	timer_arm(&a->timer, due);
}

static void acpi_pm_timer(void *arg)
{
	struct acpi_pm *a = arg;

	acpi_pm_sync(a);
	acpi_pm_update(a);
}

bool acpi_pm_power_button(struct device *dev)
{
	struct acpi_pm *a = acpi_pm_of(dev);

	a->s.sts |= PWRBTN_STS;
	acpi_pm_update(a);
	return a->s.en & PWRBTN_STS;
}

/* --- registers ------------------------------------------------------------------------------ */
/* The PM block as bytes: registers may be read in any size at any offset inside it. */
static u8 acpi_pm_read_byte(const struct acpi_pm *a, u64 off)
{
	u32 ticks = (u32)acpi_pm_ticks(a);
	u8 block[ACPI_PM_PORTS] = { 0 };

	st16(block + PM1_STS, a->s.sts);
	st16(block + PM1_EN, a->s.en);
	st16(block + PM1_CNT, a->s.cnt | CNT_SCI_EN);
	st32(block + PM_TMR, ticks);
	return block[off];
}

static void acpi_pm_write_cnt(struct acpi_pm *a, u16 val)
{
	a->s.cnt = val & CNT_KEPT; /* SLP_EN and GBL_RLS read as zero */
	if (val & CNT_SLP_EN && (val >> CNT_SLP_TYP_SHIFT & 7) == ACPI_SLP_TYP_S5)
		a->dev.request(a->dev.request_ctx, DEV_POWEROFF, 0);
}

static void acpi_pm_write_byte(struct acpi_pm *a, u64 off, u8 val)
{
	unsigned shift = off % 2 * 8;
	u16 bits = (u16)(val << shift), keep = 0xffff ^ 0xff << shift;

	switch (off & ~1ull) {
	case PM1_STS: a->s.sts &= ~bits; break;
	case PM1_EN: a->s.en = (a->s.en & keep) | (bits & EN_BITS); break;
	case PM1_CNT: acpi_pm_write_cnt(a, (a->s.cnt & keep) | bits); break;
	default: /* the timer is read-only; nothing else is there */ break;
	}
}

/* CF9h: RST_CPU going up resets, hard or soft alike. */
static void acpi_pm_write_rc(struct acpi_pm *a, u8 val)
{
	bool rising = val & ~a->s.rc & RC_RCPU;

	a->s.rc = val & RC_KEPT;
	if (rising)
		a->dev.request(a->dev.request_ctx, DEV_RESET, 0);
}

/* A doubleword at CF8h is PCI's: looking for function 4 there must not reset the machine. */
static bool is_reset_control(u64 off, unsigned size)
{
	return off == ACPI_RESET_PORT - ACPI_RESET_BASE && size == 1;
}

static u64 acpi_pm_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct acpi_pm *a = acpi_pm_of(dev);
	u64 val = 0;

	if (region == REGION_RESET)
		return is_reset_control(off, size) ? a->s.rc : ~0ull;
	acpi_pm_sync(a);
	acpi_pm_update(a);
	if (off == PM_TMR && size == 4) /* in one piece: the bytes would be of different times */
		return (u32)acpi_pm_ticks(a);
	for (unsigned i = 0; i < size; i++)
		val |= (u64)acpi_pm_read_byte(a, off + i) << i * 8;
	return val;
}

/* Byte by byte is right for any access: SLP_TYP and SLP_EN share a byte. */
static void acpi_pm_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct acpi_pm *a = acpi_pm_of(dev);

	if (region == REGION_RESET) {
		if (is_reset_control(off, size))
			acpi_pm_write_rc(a, (u8)val);
		return;
	}
	acpi_pm_sync(a);
	for (unsigned i = 0; i < size; i++)
		acpi_pm_write_byte(a, off + i, (u8)(val >> i * 8));
	acpi_pm_update(a);
}

/* --- life ----------------------------------------------------------------------------------- */
static void acpi_pm_reset(struct device *dev)
{
	struct acpi_pm *a = acpi_pm_of(dev);

	a->s.sts = a->s.en = a->s.cnt = 0;
	a->s.rc = 0;
	a->s.half_turns = acpi_pm_ticks(a) >> 31;
	acpi_pm_update(a);
}

static int acpi_pm_init(struct device *dev, struct err *e)
{
	struct acpi_pm *a = acpi_pm_of(dev);

	timer_init(&a->timer, dev->loop, acpi_pm_timer, a);
	acpi_pm_reset(dev);
	return 0;
}

static void acpi_pm_free(struct device *dev)
{
	timer_cancel(&acpi_pm_of(dev)->timer);
}

static void acpi_pm_state(struct device *dev, struct state *st)
{
	struct acpi_pm *a = acpi_pm_of(dev);
	struct acpi_pm_state *s = &a->s;

	st_u16(st, "sts", &s->sts);
	st_u16(st, "en", &s->en);
	st_u16(st, "cnt", &s->cnt);
	st_u8(st, "rc", &s->rc);
	st_bool(st, "line", &s->line);
	st_u64(st, "half_turns", &s->half_turns);
	st_check(st, !(s->sts & ~STS_BITS) && !(s->en & ~EN_BITS), "sts");
	st_check(st, !(s->cnt & ~CNT_KEPT) && !(s->rc & ~RC_KEPT), "cnt");
	st_check(st, s->half_turns < BIT(32), "half_turns");
	if (st->loading && !st->error) {
		irq_set(dev->irq[0], s->line);
		acpi_pm_update(a);
	}
}

const struct device_ops acpi_pm_ops = {
	.name = "acpi_pm",
	.version = 1,
	.bytes = sizeof(struct acpi_pm),
	.access_max = 4,
	.init = acpi_pm_init,
	.free = acpi_pm_free,
	.read = acpi_pm_read,
	.write = acpi_pm_write,
	.reset = acpi_pm_reset,
	.state = acpi_pm_state,
	.state_off = offsetof(struct acpi_pm, s),
	.state_len = sizeof(struct acpi_pm_state),
};
