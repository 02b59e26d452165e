/* ioapic.c - the 82093AA: pins in, messages out. */
#include "../../devices/chipset.h"
#include "../rig.h"

enum { VERSION = 1, MASKED = 1 << 16, LEVEL = 1 << 15, REMOTE_IRR = 1 << 14, LOGICAL = 1 << 11 };

static u32 get(struct rig *r, u8 reg)
{
	out32(r, IOAPIC_BASE, reg);
	return in32(r, IOAPIC_BASE + 0x10);
}

static void put(struct rig *r, u8 reg, u32 val)
{
	out32(r, IOAPIC_BASE, reg);
	out32(r, IOAPIC_BASE + 0x10, val);
}

static void route(struct rig *r, unsigned pin, u32 low, u8 dest)
{
	put(r, (u8)(0x11 + 2 * pin), (u32)dest << 24);
	put(r, (u8)(0x10 + 2 * pin), low);
}

static u32 low_of(struct rig *r, unsigned pin)
{
	return get(r, (u8)(0x10 + 2 * pin));
}

TEST(ioapic_says_what_it_is)
{
	struct rig *r = rig_new(&ioapic_ops);

	EQ(get(r, VERSION), 0x00170020);
	put(r, 0, 0xffffffff);
	EQ(get(r, 0), 0x0f000000);
	EQ(get(r, 2), 0x0f000000);
	EQ(low_of(r, 0), MASKED);
	EQ(get(r, 0x40), 0);
	rig_free(r);
}

TEST(ioapic_edge_becomes_a_message)
{
	struct rig *r = rig_new(&ioapic_ops);

	route(r, 4, 0x34, 0);
	ioapic_set_irq(r->dev, 4, true);
	EQ(r->messages, 1);
	EQ(r->message[0].addr, 0xfee00000);
	EQ(r->message[0].data, 0x4034);
	ioapic_set_irq(r->dev, 4, true);
	EQ(r->messages, 1);
	ioapic_set_irq(r->dev, 4, false);
	ioapic_set_irq(r->dev, 4, true);
	EQ(r->messages, 2);
	EQ(low_of(r, 4), 0x34);
	rig_free(r);
}

TEST(ioapic_message_carries_destination_and_mode)
{
	struct rig *r = rig_new(&ioapic_ops);

	route(r, 9, 0x155 | LOGICAL | LEVEL, 0xa5);
	ioapic_set_irq(r->dev, 9, true);
	EQ(r->message[0].addr, 0xfeea5004);
	EQ(r->message[0].data, 0xc155);
	rig_free(r);
}

TEST(ioapic_edge_on_a_masked_pin_is_lost)
{
	struct rig *r = rig_new(&ioapic_ops);

	route(r, 4, 0x34 | MASKED, 0);
	ioapic_set_irq(r->dev, 4, true);
	route(r, 4, 0x34, 0);
	EQ(r->messages, 0);
	rig_free(r);
}

TEST(ioapic_level_waits_for_unmask_and_eoi)
{
	struct rig *r = rig_new(&ioapic_ops);

	route(r, 10, 0x40 | LEVEL | MASKED, 1);
	ioapic_set_irq(r->dev, 10, true);
	EQ(r->messages, 0);
	route(r, 10, 0x40 | LEVEL, 1);
	EQ(r->messages, 1);
	EQ(low_of(r, 10), 0x40 | LEVEL | REMOTE_IRR);
	ioapic_set_irq(r->dev, 10, false);
	ioapic_set_irq(r->dev, 10, true);
	EQ(r->messages, 1);
	ioapic_eoi(r->dev, 0x41);
	EQ(r->messages, 1);
	ioapic_eoi(r->dev, 0x40); /* still high: again */
	EQ(r->messages, 2);
	ioapic_set_irq(r->dev, 10, false);
	ioapic_eoi(r->dev, 0x40);
	EQ(r->messages, 2);
	EQ(low_of(r, 10), 0x40 | LEVEL);
	rig_free(r);
}

TEST(ioapic_eoi_register_and_the_edge_trick_clear_remote_irr)
{
	struct rig *r = rig_new(&ioapic_ops);

	route(r, 10, 0x40 | LEVEL, 1);
	ioapic_set_irq(r->dev, 10, true);
	ioapic_set_irq(r->dev, 10, false);
	out32(r, IOAPIC_BASE + 0x40, 0x40);
	EQ(low_of(r, 10), 0x40 | LEVEL);
	ioapic_set_irq(r->dev, 10, true);
	EQ(low_of(r, 10), 0x40 | LEVEL | REMOTE_IRR);
	route(r, 10, 0x40 | MASKED, 1); /* Linux, __eoi_ioapic_pin() for old chips */
	route(r, 10, 0x40 | LEVEL | MASKED, 1);
	EQ(low_of(r, 10), 0x40 | LEVEL | MASKED);
	rig_free(r);
}

TEST(ioapic_read_only_bits_stay)
{
	struct rig *r = rig_new(&ioapic_ops);

	route(r, 3, 0xffffffff, 0xff);
	EQ(low_of(r, 3), 0x1afff);
	EQ(get(r, 0x17), 0xff000000);
	rig_free(r);
}

TEST(ioapic_registers_want_dwords)
{
	struct rig *r = rig_new(&ioapic_ops);

	out8(r, IOAPIC_BASE, VERSION);
	EQ(in8(r, IOAPIC_BASE), VERSION);
	EQ(in8(r, IOAPIC_BASE + 0x10), 0);
	EQ(in32(r, IOAPIC_BASE + 0x10), 0x00170020);
	rig_free(r);
}

TEST(ioapic_reset_masks_everything)
{
	struct rig *r = rig_new(&ioapic_ops);

	route(r, 10, 0x40 | LEVEL, 1);
	ioapic_set_irq(r->dev, 10, true);
	rig_reset(r);
	EQ(low_of(r, 10), MASKED);
	route(r, 10, 0x40 | LEVEL, 1); /* the pin is still high */
	EQ(r->messages, 2);
	rig_free(r);
}
