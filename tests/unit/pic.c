/* pic.c - the 8259A pair. */
#include "../../devices/chipset.h"
#include "../rig.h"

enum { M = PIC_MASTER_PORT, S = PIC_SLAVE_PORT, EOI = 0x20, READ_ISR = 0x0b, READ_IRR = 0x0a };

/* Initialised as Linux does it: vectors 30h and 38h, everything unmasked. */
static struct rig *pic_rig(u8 icw4)
{
	struct rig *r = rig_new(&pic_ops);

	out8(r, M, 0x11), out8(r, M + 1, 0x30), out8(r, M + 1, 4), out8(r, M + 1, icw4);
	out8(r, S, 0x11), out8(r, S + 1, 0x38), out8(r, S + 1, 2), out8(r, S + 1, icw4);
	out8(r, M + 1, 0), out8(r, S + 1, 0);
	return r;
}

static void pulse(struct rig *r, unsigned irq)
{
	pic_set_irq(r->dev, irq, true);
	pic_set_irq(r->dev, irq, false);
}

TEST(pic_is_silent_before_it_is_initialised)
{
	struct rig *r = rig_new(&pic_ops);

	pulse(r, 4);
	OK(!r->intr);
	EQ(in8(r, M + 1), 0xff);
	rig_free(r);
}

TEST(pic_mask_reads_back_as_linux_probes_it)
{
	struct rig *r = rig_new(&pic_ops);

	out8(r, S + 1, 0xff);
	out8(r, M + 1, 0xfb);
	EQ(in8(r, M + 1), 0xfb);
	rig_free(r);
}

TEST(pic_edge_goes_from_irr_to_isr_to_eoi)
{
	struct rig *r = pic_rig(1);

	pic_set_irq(r->dev, 4, true);
	OK(r->intr);
	EQ(in8(r, M), 0x10);
	EQ(pic_ack(r->dev), 0x34);
	OK(!r->intr);
	EQ(in8(r, M), 0);
	out8(r, M, READ_ISR);
	EQ(in8(r, M), 0x10);
	pic_set_irq(r->dev, 4, true); /* still high: no new edge */
	out8(r, M, EOI);
	EQ(in8(r, M), 0);
	OK(!r->intr);
	rig_free(r);
}

TEST(pic_slave_comes_through_the_cascade)
{
	struct rig *r = pic_rig(1);

	pulse(r, 12);
	OK(r->intr);
	EQ(pic_ack(r->dev), 0x3c);
	out8(r, M, READ_ISR), out8(r, S, READ_ISR);
	EQ(in8(r, M), 4);
	EQ(in8(r, S), 0x10);
	pulse(r, 13); /* lower than 12: waits for the slave's EOI */
	out8(r, M, EOI);
	OK(!r->intr);
	out8(r, S, EOI);
	OK(r->intr);
	EQ(pic_ack(r->dev), 0x3d);
	rig_free(r);
}

TEST(pic_better_input_interrupts_a_worse_one)
{
	struct rig *r = pic_rig(1);

	pulse(r, 4);
	EQ(pic_ack(r->dev), 0x34);
	pulse(r, 5);
	OK(!r->intr);
	pulse(r, 1);
	OK(r->intr);
	EQ(pic_ack(r->dev), 0x31);
	out8(r, M, EOI); /* non-specific: the better one */
	OK(!r->intr);
	out8(r, M, EOI);
	EQ(pic_ack(r->dev), 0x35);
	rig_free(r);
}

TEST(pic_special_fully_nested_slave_interrupts_itself)
{
	struct rig *r = pic_rig(0x11);

	pulse(r, 12);
	EQ(pic_ack(r->dev), 0x3c);
	pulse(r, 8);
	OK(r->intr);
	EQ(pic_ack(r->dev), 0x38);
	rig_free(r);
}

TEST(pic_spurious_interrupts_are_7_and_15)
{
	struct rig *r = pic_rig(1);

	out8(r, PIC_ELCR_PORT, 0x20);
	pic_set_irq(r->dev, 5, true);
	OK(r->intr);
	pic_set_irq(r->dev, 5, false); /* level gone before INTA */
	OK(!r->intr);
	EQ(pic_ack(r->dev), 0x37);
	out8(r, M, READ_ISR);
	EQ(in8(r, M), 0);

	pic_set_irq(r->dev, 9, true);
	out8(r, S + 1, 0xff); /* masked between INTR and INTA */
	EQ(pic_ack(r->dev), 0x37);
	rig_free(r);
}

TEST(pic_level_input_asks_again_until_it_falls)
{
	struct rig *r = pic_rig(1);

	out8(r, PIC_ELCR_PORT + 1, 0xff);
	EQ(in8(r, PIC_ELCR_PORT + 1), 0xde);
	out8(r, PIC_ELCR_PORT, 0xff);
	EQ(in8(r, PIC_ELCR_PORT), 0xf8);
	pic_set_irq(r->dev, 11, true);
	EQ(pic_ack(r->dev), 0x3b);
	out8(r, S, EOI), out8(r, M, EOI);
	OK(r->intr);
	EQ(pic_ack(r->dev), 0x3b);
	pic_set_irq(r->dev, 11, false);
	out8(r, S, EOI), out8(r, M, EOI);
	OK(!r->intr);
	rig_free(r);
}

TEST(pic_rotation_moves_the_lowest_priority)
{
	struct rig *r = pic_rig(1);

	pulse(r, 0), pulse(r, 1);
	EQ(pic_ack(r->dev), 0x30);
	pulse(r, 0);
	out8(r, M, 0xa0); /* rotate on non-specific EOI: 0 is last now */
	EQ(pic_ack(r->dev), 0x31);
	out8(r, M, 0x61); /* specific EOI of 1 */
	EQ(pic_ack(r->dev), 0x30);
	out8(r, M, 0x60);
	out8(r, M, 0xc4); /* set priority: 4 last, 5 first */
	pulse(r, 0), pulse(r, 5);
	EQ(pic_ack(r->dev), 0x35);
	out8(r, M, 0xe5); /* rotate on specific EOI: 5 last */
	EQ(pic_ack(r->dev), 0x30);
	rig_free(r);
}

TEST(pic_automatic_eoi_leaves_nothing_in_service)
{
	struct rig *r = pic_rig(3);

	out8(r, M, READ_ISR);
	pulse(r, 3), pulse(r, 4);
	EQ(pic_ack(r->dev), 0x33);
	EQ(in8(r, M), 0);
	EQ(pic_ack(r->dev), 0x34);
	out8(r, M, 0x80); /* rotate in automatic EOI */
	pulse(r, 3), pulse(r, 4);
	EQ(pic_ack(r->dev), 0x33);
	pulse(r, 3);
	EQ(pic_ack(r->dev), 0x34);
	EQ(pic_ack(r->dev), 0x33);
	rig_free(r);
}

TEST(pic_special_mask_lets_lower_inputs_through)
{
	struct rig *r = pic_rig(1);

	pulse(r, 3);
	EQ(pic_ack(r->dev), 0x33);
	out8(r, M + 1, 0x08);
	pulse(r, 6);
	OK(!r->intr);
	out8(r, M, 0x68); /* set special mask mode */
	OK(r->intr);
	EQ(pic_ack(r->dev), 0x36);
	out8(r, M, EOI); /* does not touch the masked 3 */
	out8(r, M, READ_ISR);
	EQ(in8(r, M), 0x08);
	out8(r, M, 0x48);
	out8(r, M + 1, 0);
	pulse(r, 6);
	OK(!r->intr);
	rig_free(r);
}

TEST(pic_poll_is_an_acknowledge)
{
	struct rig *r = pic_rig(1);

	out8(r, M, 0x0c);
	EQ(in8(r, M), 0);
	pulse(r, 6);
	out8(r, M, 0x0c);
	EQ(in8(r, M), 0x86);
	OK(!r->intr);
	out8(r, M, READ_ISR);
	EQ(in8(r, M), 0x40);
	rig_free(r);
}

TEST(pic_icw1_forgets_edges_masks_and_service)
{
	struct rig *r = pic_rig(1);

	pulse(r, 3);
	pic_ack(r->dev);
	pulse(r, 1);
	out8(r, M, 0x11);
	OK(!r->intr);
	out8(r, M + 1, 0x50), out8(r, M + 1, 4), out8(r, M + 1, 1);
	EQ(in8(r, M + 1), 0);
	out8(r, M, READ_ISR);
	EQ(in8(r, M), 0);
	out8(r, M, READ_IRR);
	EQ(in8(r, M), 0);
	pulse(r, 1);
	EQ(pic_ack(r->dev), 0x51);
	rig_free(r);
}

TEST(pic_intr_is_told_only_when_it_changes)
{
	struct rig *r = pic_rig(1);
	u32 before = r->intr_changes;

	pulse(r, 4), pulse(r, 5), pulse(r, 4);
	EQ(r->intr_changes, before + 1);
	rig_free(r);
}
