/* irq.c - the user-space irqchip as a whole: line in at one end, request and vector at the other.
 */
#include "../../irq.h"

#include "../../devices/chipset.h"
#include "apic_kit.h"

enum { CPUS = 2, EOI = 0xb0, LINT0 = 0x350 };

static void machine(void)
{
	struct device wires = { .irq = { { &chip, 0 } } };
	struct err e;

	apics_open(CPUS);
	chip.pic = device_new(&pic_ops, &wires, &e);
	chip.ioapic = device_new(&ioapic_ops, &wires, &e);
	for (int i = 0; i < CPUS; i++)
		lapic_mmio_write(cpus[i].apic, APIC_SVR, APIC_ON);
}

static struct irq_line line(u32 gsi)
{
	return (struct irq_line){ &chip, gsi };
}

static void pic_program(void)
{
	static const u8 master[] = { 0x30, 4, 1, 0 }, slave[] = { 0x38, 2, 1, 0 };

	pic_ops.write(chip.pic, 0, 0, 1, 0x11);
	pic_ops.write(chip.pic, 1, 0, 1, 0x11);
	for (int i = 0; i < 4; i++) {
		pic_ops.write(chip.pic, 0, 1, 1, master[i]);
		pic_ops.write(chip.pic, 1, 1, 1, slave[i]);
	}
}

static void ioapic_program(unsigned pin, u32 low, u32 high)
{
	ioapic_ops.write(chip.ioapic, 0, 0, 4, 0x11 + 2 * pin);
	ioapic_ops.write(chip.ioapic, 0, 0x10, 4, high);
	ioapic_ops.write(chip.ioapic, 0, 0, 4, 0x10 + 2 * pin);
	ioapic_ops.write(chip.ioapic, 0, 0x10, 4, low);
}

TEST(irq_line_reaches_the_boot_cpu_through_the_pic)
{
	machine();
	pic_program();
	irq_set(line(9), true);
	EQ(cpus[0].req, VREQ_EXTINT);
	EQ(cpus[1].req, 0);
	EQ(pic_ack(chip.pic), 0x39);
	EQ(cpus[0].req, 0);
	EQ(chip.level, BIT(9));
}

TEST(irq_pic_is_cut_off_by_lint0)
{
	machine();
	pic_program();
	lapic_mmio_write(cpus[0].apic, LINT0, 0x10700);
	irq_pulse(line(4));
	EQ(cpus[0].req, 0);
	OK(pic_intr(chip.pic));
	lapic_mmio_write(cpus[0].apic, LINT0, 0x700);
	EQ(cpus[0].req, VREQ_EXTINT);
}

TEST(irq_timer_is_pin_2_and_others_are_themselves)
{
	machine();
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		ioapic_program(pin, 0x40 + pin, 1 << 24);
	for (u32 gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		int want = gsi == 0 ? 0x42 : gsi == 2 ? -1 : 0x40 + (int)gsi;

		irq_pulse(line(gsi));
		EQ(lapic_pending(cpus[1].apic), want);
		if (want < 0)
			continue;
		lapic_ack(cpus[1].apic, (u8)want);
		lapic_mmio_write(cpus[1].apic, EOI, 0);
	}
	EQ(cpus[1].req, VREQ_IRQ);
}

TEST(irq_unconnected_lines_lead_nowhere)
{
	machine();
	irq_set((struct irq_line){ NULL, 3 }, true);
	irq_set(line(GSI_MAX), true);
	irq_set(line(40), true);
	EQ(chip.level, BIT(40));
}

TEST(irq_message_goes_to_its_destination)
{
	machine();
	msi_send(&chip, 0xfee01000, 0x4055);
	EQ(lapic_pending(cpus[0].apic), -1);
	EQ(lapic_pending(cpus[1].apic), 0x55);
	msi_send(&chip, 0xfee00000, 0x0400); /* NMI */
	EQ(cpus[0].req, VREQ_NMI);
}

TEST(irq_message_with_redirection_hint_picks_one)
{
	machine();
	lapic_mmio_write(cpus[0].apic, 0xd0, 0x01000000);
	lapic_mmio_write(cpus[1].apic, 0xd0, 0x02000000);
	msi_send(&chip, 0xfee0300c, 0x55);
	OK((lapic_pending(cpus[0].apic) == 0x55) != (lapic_pending(cpus[1].apic) == 0x55));
}

TEST(irq_nonsense_messages_vanish)
{
	machine();
	msi_send(&chip, 0xfed00000, 0x55);
	msi_send(&chip, BIT(32) | 0xfee00000, 0x55);
	msi_send(&chip, 0xfee00000, 0x8055); /* level, de-asserted */
	msi_send(&chip, 0xfee00000, 0x0655); /* startup is for ICR alone */
	msi_send(&chip, 0xfee00000, 0x0355);
	EQ(cpus[0].req, 0);
	for (int i = 0; i < 10000; i++)
		msi_send(&chip, test_random(), (u32)test_random());
}
