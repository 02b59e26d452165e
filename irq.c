/* irq.c - where an interrupt line leads, and the user-space irqchip: our PIC, IOAPIC and local
 * APICs.
 *
 * A GSI goes to both controllers at once, as on a board; the guest masks it in the one it does not
 * use. GSIs 0 to 15 are the 8259s' inputs and, but for one, the IOAPIC pins of the same number:
 * the timer, GSI 0, is wired to pin 2, which the cascade leaves free.  The MADT and the MP table
 * say the same.
 *
 * Thread: irq_set under machine.lock; msi_send from anywhere.
 * Sources: MultiProcessor Specification 1.4 §3.6.2.3; SDM vol 3 "Message Signalled Interrupts". */
#include "irq.h"

#include "vcpu.h"

enum { PIC_INPUTS = 16, TIMER_GSI = 0, TIMER_PIN = 2 };
enum { MSI_ADDR_DEST_SHIFT = 12, MSI_ADDR_LOGICAL = 4, MSI_ADDR_REDIRECT = 8, MSI_ADDR_SHIFT = 20 };
enum { MSI_DATA_MODE_SHIFT = 8, MSI_DATA_ASSERT = 1 << 14, MSI_DATA_LEVEL = 1 << 15 };
enum { MODE_FIXED = 0, MODE_LOWEST = 1, MODE_SIPI = 6 };

void irq_set(struct irq_line l, bool level)
{
	if (!l.chip || l.gsi >= GSI_MAX) /* not connected */
		return;
	l.chip->level = level ? l.chip->level | BIT(l.gsi) : l.chip->level & ~BIT(l.gsi);
	l.chip->ops->set(l.chip, l.gsi, level);
}

bool irq_waiting(struct irq_line l)
{
	return l.chip && l.gsi < GSI_MAX && l.chip->ops->waiting &&
	       l.chip->ops->waiting(l.chip, l.gsi);
}

void irq_when_taken(struct irq_line l, void (*fn)(void *), void *arg)
{
	if (!l.chip)
		return;
	l.chip->taken_arg = arg;
	__atomic_store_n(&l.chip->taken, fn, __ATOMIC_RELAXED);
}

void msi_send(struct irqchip *c, u64 addr, u32 data)
{
	c->ops->msi(c, addr, data);
}

static void user_set(struct irqchip *c, u32 gsi, bool level)
{
	u32 pin = gsi == TIMER_GSI ? TIMER_PIN : gsi;

	if (c->pic && gsi < PIC_INPUTS)
		pic_set_irq(c->pic, gsi, level);
	if (c->ioapic && gsi != TIMER_PIN && pin < IOAPIC_PINS)
		ioapic_set_irq(c->ioapic, pin, level);
}

static bool user_waiting(const struct irqchip *c, u32 gsi)
{
	u32 pin = gsi == TIMER_GSI ? TIMER_PIN : gsi;
	int vector = c->ioapic && pin < IOAPIC_PINS ? ioapic_vector(c->ioapic, pin) : -1;

	if (c->pic && gsi < PIC_INPUTS && pic_waiting(c->pic, gsi) && c->nr_vcpus &&
	    c->vcpus[0]->apic && lapic_accepts_extint(c->vcpus[0]->apic))
		return true;
	for (u32 i = 0; vector >= 0 && i < c->nr_vcpus; i++)
		if (c->vcpus[i]->apic && lapic_is_requested(c->vcpus[i]->apic, (u8)vector))
			return true;
	return false;
}

/* A guest can write any message; what is not one goes nowhere, as on the bus. */
static void user_msi(struct irqchip *c, u64 addr, u32 data)
{
	u32 dest = addr >> MSI_ADDR_DEST_SHIFT & 0xff;
	u8 mode = data >> MSI_DATA_MODE_SHIFT & 7;
	bool level = data & MSI_DATA_LEVEL;

	if (addr >> MSI_ADDR_SHIFT != 0xfee || mode == MODE_SIPI || !c->nr_vcpus)
		return;
	if (level && !(data & MSI_DATA_ASSERT))
		return; /* a de-assertion: the level lives in the IOAPIC */
	if (addr & MSI_ADDR_REDIRECT && mode == MODE_FIXED)
		mode = MODE_LOWEST;
	lapic_route(c->vcpus, c->nr_vcpus, dest, addr & MSI_ADDR_LOGICAL, mode, (u8)data, level);
}

/* INTR is wired to LINT0 of the boot CPU, which alone decides whether it gets through. */
static void user_intr(struct irqchip *c, bool level)
{
	if (c->nr_vcpus && c->vcpus[0]->apic)
		lapic_set_lint(c->vcpus[0]->apic, 0, level);
}

const struct irqchip_ops irqchip_user_ops = {
	.name = "user",
	.set = user_set,
	.waiting = user_waiting,
	.msi = user_msi,
	.intr = user_intr,
};
