/* pic.c - the PC's two 8259A interrupt controllers and ELCR: regions 0 and 1 are the master's and
 * the slave's two ports, region 2 the two edge/level registers.
 *
 * Owns the pair's registers and the levels of its sixteen inputs.  Interrupts come in by
 * pic_set_irq, INTR goes out by irq[0].chip->ops->intr, and the CPU's two INTA cycles are pic_ack.
 *
 * Thread: vCPUs (registers, INTA), loop (lines); all under machine.lock.
 * Sources: Intel 8259A data sheet, "Interrupt Sequence", "Programming the 8259A"; Intel 82371FB,
 * "ELCR1, ELCR2".  Departures: an edge stays latched when its line falls before INTA (on the chip
 * it becomes a spurious IR7), so that a short pulse is not lost; MCS-80 mode answers as 8086 mode;
 * the cascade is wired as on a PC whatever ICW3 says. */
#include "chipset.h"

/* clang-format off */
enum { MASTER, SLAVE, CHIPS, REGION_ELCR = 2, CASCADE_IR = 2, SPURIOUS_IR = 7, NONE = -1 };

enum { ICW1_IC4 = 1, ICW1_SNGL = 2, ICW1_LTIM = 8, ICW1 = 0x10 };
enum { ICW4_AEOI = 2, ICW4_SFNM = 0x10 };
enum { OCW2_LEVEL = 7, OCW2_EOI = 0x20, OCW2_SL = 0x40, OCW2_ROTATE = 0x80 };
enum { OCW3 = 8, OCW3_RIS = 1, OCW3_RR = 2, OCW3_POLL = 4, OCW3_SMM = 0x20, OCW3_ESMM = 0x40 };

/* Timer, keyboard and cascade, and RTC and coprocessor, are always edge-triggered. */
static const u8 elcr_mask[CHIPS] = { 0xf8, 0xde };

struct pic_chip {
	u8 irr, isr, imr;
	u8 pins;        /* input levels */
	u8 elcr;        /* level-triggered inputs */
	u8 vector_base; /* ICW2, bits 3-7 */
	u8 icw1, icw3, icw4;
	u8 next_icw;    /* 2, 3 or 4 while initialising, else 0 */
	u8 top;         /* the input of highest priority */
	bool read_isr;  /* OCW3: the even port reads ISR, not IRR */
	bool poll;      /* OCW3: the next read is an INTA */
	bool special_mask;
	bool rotate_in_aeoi;
};
/* clang-format on */

struct pic {
	struct device dev;
	struct pic_state {
		struct pic_chip chip[CHIPS];
		bool intr; /* as last told */
	} s;
};

static struct pic *pic_of(struct device *dev)
{
	return container_of(dev, struct pic, dev);
}

/* --- priority ------------------------------------------------------------------------------- */
static u8 chip_level_pins(const struct pic_chip *c)
{
	return c->icw1 & ICW1_LTIM ? 0xff : c->elcr;
}

/* How many inputs come before the best one in set: 0-7, or 8 for the empty set. */
static unsigned chip_rank(const struct pic_chip *c, u8 set)
{
	for (unsigned rank = 0; rank < 8; rank++)
		if (set & 1u << ((c->top + rank) & 7))
			return rank;
	return 8;
}

/* The input that deserves service now, or NONE. */
static int chip_pending(const struct pic_chip *c)
{
	unsigned rank = chip_rank(c, c->irr & ~c->imr);
	u8 busy = c->isr;

	if (c->special_mask) /* masked inputs in service hold nobody back */
		busy &= ~c->imr;
	if (c->icw4 & ICW4_SFNM) /* nor does the cascade hold back the slave's better inputs */
		busy &= ~(1u << CASCADE_IR);
	return rank < chip_rank(c, busy) ? (int)((c->top + rank) & 7) : NONE;
}

static void chip_set_pin(struct pic_chip *c, unsigned ir, bool level)
{
	u8 bit = 1u << ir;

	if (chip_level_pins(c) & bit)
		c->irr = level ? c->irr | bit : c->irr & ~bit;
	else if (level && !(c->pins & bit))
		c->irr |= bit;
	c->pins = level ? c->pins | bit : c->pins & ~bit;
}

/* First the slave's output into the master, then the master's to the CPU. */
static void pic_update(struct pic *p)
{
	struct pic_chip *master = &p->s.chip[MASTER];
	struct irqchip *out = p->dev.irq[0].chip;
	bool intr;

	/* The cascade input follows the slave: a request withdrawn is a request forgotten. */
	if (chip_pending(&p->s.chip[SLAVE]) == NONE)
		master->irr &= ~(1u << CASCADE_IR);
	else
		master->irr |= 1u << CASCADE_IR;
	intr = chip_pending(master) != NONE;
	if (intr != p->s.intr && out)
		out->ops->intr(out, intr);
	p->s.intr = intr;
}

void pic_set_irq(struct device *dev, unsigned irq, bool level)
{
	struct pic *p = pic_of(dev);

	ASSERT(irq < 16);
	chip_set_pin(&p->s.chip[irq / 8], irq % 8, level);
	pic_update(p);
}

bool pic_intr(struct device *dev)
{
	return pic_of(dev)->s.intr;
}

/* --- interrupt acknowledge ------------------------------------------------------------------ */
static void chip_rotate(struct pic_chip *c, unsigned lowest)
{
	c->top = (lowest + 1) & 7;
}

/* INTA: the pending input moves from IRR to ISR; returns it, or IR7 when there is none any more. */
static unsigned chip_ack(struct pic_chip *c)
{
	int ir = chip_pending(c);
	u8 bit;

	if (ir == NONE)
		return SPURIOUS_IR;
	bit = 1u << ir;
	if (!(chip_level_pins(c) & bit))
		c->irr &= ~bit;
	if (!(c->icw4 & ICW4_AEOI))
		c->isr |= bit;
	else if (c->rotate_in_aeoi)
		chip_rotate(c, (unsigned)ir);
	return (unsigned)ir;
}

int pic_ack(struct device *dev)
{
	struct pic *p = pic_of(dev);
	struct pic_chip *from = &p->s.chip[MASTER];
	unsigned ir = chip_ack(from);

	if (ir == CASCADE_IR) {
		from = &p->s.chip[SLAVE];
		ir = chip_ack(from);
	}
	pic_update(p);
	if (dev->irq[0].chip && dev->irq[0].chip->taken)
		dev->irq[0].chip->taken(dev->irq[0].chip->taken_arg);
	return from->vector_base + (int)ir;
}

bool pic_waiting(struct device *dev, unsigned irq)
{
	const struct pic_chip *c = &pic_of(dev)->s.chip[irq / 8];

	return c->irr & ~c->imr & 1u << irq % 8;
}

/* --- command words -------------------------------------------------------------------------- */
static void chip_icw1(struct pic_chip *c, u8 val)
{
	c->icw1 = val;
	c->icw4 = 0;
	c->next_icw = 2;
	c->imr = c->isr = 0;
	c->top = 0;
	c->read_isr = c->poll = c->special_mask = c->rotate_in_aeoi = false;
	c->irr = c->pins & chip_level_pins(c); /* the edge latches are cleared */
}

/* ICW3 is left out on a single chip, ICW4 when ICW1 said so. */
static void chip_icw(struct pic_chip *c, u8 val)
{
	switch (c->next_icw) {
	case 2:
		c->vector_base = val & 0xf8;
		c->next_icw = c->icw1 & ICW1_SNGL ? 4 : 3;
		break;
	case 3:
		c->icw3 = val;
		c->next_icw = 4;
		break;
	default:
		c->icw4 = val;
		c->next_icw = 0;
		break;
	}
	if (c->next_icw == 4 && !(c->icw1 & ICW1_IC4))
		c->next_icw = 0;
}

/* End of interrupt: the given input's, or the one of highest priority in service. */
static void chip_eoi(struct pic_chip *c, u8 val)
{
	u8 set = c->special_mask ? c->isr & ~c->imr : c->isr;
	unsigned rank = chip_rank(c, set);
	unsigned ir = val & OCW2_SL ? val & OCW2_LEVEL : (c->top + rank) & 7;

	if (!(val & OCW2_SL) && rank == 8)
		return; /* nothing in service */
	c->isr &= ~(1u << ir);
	if (val & OCW2_ROTATE)
		chip_rotate(c, ir);
}

static void chip_ocw2(struct pic_chip *c, u8 val)
{
	if (val & OCW2_EOI)
		chip_eoi(c, val);
	else if (!(val & OCW2_SL))
		c->rotate_in_aeoi = val & OCW2_ROTATE;
	else if (val & OCW2_ROTATE)
		chip_rotate(c, val & OCW2_LEVEL);
}

static void chip_ocw3(struct pic_chip *c, u8 val)
{
	c->poll = val & OCW3_POLL;
	if (val & OCW3_RR)
		c->read_isr = val & OCW3_RIS;
	if (val & OCW3_ESMM)
		c->special_mask = val & OCW3_SMM;
}

static void chip_write(struct pic_chip *c, u64 off, u8 val)
{
	if (off == 0 && val & ICW1)
		chip_icw1(c, val);
	else if (off == 0 && val & OCW3)
		chip_ocw3(c, val);
	else if (off == 0)
		chip_ocw2(c, val);
	else if (c->next_icw)
		chip_icw(c, val);
	else
		c->imr = val;
}

static u8 chip_poll(struct pic_chip *c)
{
	c->poll = false;
	if (chip_pending(c) == NONE)
		return 0;
	return 0x80 | (u8)chip_ack(c);
}

static u8 chip_read(struct pic_chip *c, u64 off)
{
	if (c->poll)
		return chip_poll(c);
	if (off == 1)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

static void chip_write_elcr(struct pic_chip *c, u8 val)
{
	u8 changed = c->elcr ^ val, level;

	c->elcr = val;
	level = chip_level_pins(c);
	c->irr = (c->irr & ~(changed & level)) | (c->pins & changed & level);
}

/* --- device --------------------------------------------------------------------------------- */
static u64 pic_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct pic *p = pic_of(dev);
	u8 val;

	if (region == REGION_ELCR)
		return p->s.chip[off].elcr;
	val = chip_read(&p->s.chip[region], off);
	pic_update(p);
	return val;
}

static void pic_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct pic *p = pic_of(dev);

	if (region == REGION_ELCR)
		chip_write_elcr(&p->s.chip[off], (u8)val & elcr_mask[off]);
	else
		chip_write(&p->s.chip[region], off, (u8)val);
	pic_update(p);
}

/* The data sheet leaves the state after power-on open; masked, nothing can come out before ICW1. */
static void pic_reset(struct device *dev)
{
	struct pic *p = pic_of(dev);

	for (int i = 0; i < CHIPS; i++)
		p->s.chip[i] = (struct pic_chip){ .imr = 0xff, .pins = p->s.chip[i].pins };
	pic_update(p);
}

static int pic_init(struct device *dev, struct err *e)
{
	pic_reset(dev);
	return 0;
}

static void chip_state(struct pic_chip *c, struct state *st)
{
	st_u8(st, "irr", &c->irr);
	st_u8(st, "isr", &c->isr);
	st_u8(st, "imr", &c->imr);
	st_u8(st, "pins", &c->pins);
	st_u8(st, "elcr", &c->elcr);
	st_u8(st, "vector_base", &c->vector_base);
	st_u8(st, "icw1", &c->icw1);
	st_u8(st, "icw3", &c->icw3);
	st_u8(st, "icw4", &c->icw4);
	st_u8(st, "next_icw", &c->next_icw);
	st_u8(st, "top", &c->top);
	st_bool(st, "read_isr", &c->read_isr);
	st_bool(st, "poll", &c->poll);
	st_bool(st, "special_mask", &c->special_mask);
	st_bool(st, "rotate_in_aeoi", &c->rotate_in_aeoi);
	st_check(st, !(c->vector_base & 7) && c->top < 8, "vector_base");
	st_check(st, c->next_icw == 0 || (c->next_icw >= 2 && c->next_icw <= 4), "next_icw");
}

static void pic_state(struct device *dev, struct state *st)
{
	struct pic *p = pic_of(dev);
	struct irqchip *out = dev->irq[0].chip;

	chip_state(&p->s.chip[MASTER], st);
	chip_state(&p->s.chip[SLAVE], st);
	st_bool(st, "intr", &p->s.intr);
	if (st->loading && !st->error && out)
		out->ops->intr(out, p->s.intr);
}

const struct device_ops pic_ops = {
	.name = "pic",
	.version = 1,
	.bytes = sizeof(struct pic),
	.access_max = 1,
	.init = pic_init,
	.read = pic_read,
	.write = pic_write,
	.reset = pic_reset,
	.state = pic_state,
	.state_off = offsetof(struct pic, s),
	.state_len = sizeof(struct pic_state),
};
