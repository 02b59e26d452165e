/* irq.h - interrupt lines, GSI routing and message-signalled interrupts.
 *
 * A device knows an irq_line and nothing of what is behind it.  The irqchip fans a GSI out to the
 * 8259 pair and the IOAPIC (our own, or KVM's in-kernel ones).  irq_set and irq_pulse are called
 * with machine.lock held; msi_send from any thread, lock held or not. */
#pragma once

#include "base.h"

enum { GSI_MAX = 64, IOAPIC_PINS = 24 };
/* Periodic timers make up for this many ticks that a late host has cost, a second's at 1000 Hz. */
enum { TICKS_OWED_MAX = 1000 };

struct irqchip;

struct irq_line {
	struct irqchip *chip; /* borrowed; NULL: not connected */
	u32 gsi;
};

/* What is behind the GSIs; one table per kind of irqchip (user space in irq.c, KVM in kvm.c). */
struct irqchip_ops {
	const char *name;
	void (*set)(struct irqchip *c, u32 gsi, bool level);
	void (*msi)(struct irqchip *c, u64 addr, u32 data);
	/* Has an edge on this line not reached the CPU yet?  NULL: nobody can tell. */
	bool (*waiting)(const struct irqchip *c, u32 gsi);
	/* The 8259's INTR output changed: raise or drop the ExtINT request of the boot vCPU. */
	void (*intr)(struct irqchip *c, bool level);
};

struct device;
struct vcpu;

struct irqchip {
	const struct irqchip_ops *ops;
	struct device *pic;    /* borrowed; NULL when in the kernel */
	struct device *ioapic; /* borrowed; NULL when in the kernel */
	struct vcpu **vcpus;   /* borrowed: machine.vcpus */
	u32 nr_vcpus;
	/* A timer that owes ticks, see irq_when_taken.  Written under machine.lock, read by
	 * anyone. */
	void (*taken)(void *arg);
	void *taken_arg;
	u64 level;             /* bit per GSI: the level last set; guard: machine.lock */
	void *priv;            /* the engine's */
};

void irq_set(struct irq_line l, bool level);
/* Call fn(arg), with machine.lock held, whenever a vCPU has taken or finished an interrupt; fn
 * NULL: no more.  There is one such timer, and an irqchip that cannot tell never calls. */
void irq_when_taken(struct irq_line l, void (*fn)(void *arg), void *arg);
bool irq_waiting(struct irq_line l); /* another edge would be lost in the one before */
static inline void irq_pulse(struct irq_line l)
{
	irq_set(l, true);
	irq_set(l, false);
}
/* SDM vol 3 "Message Address/Data Register Format" */
void msi_send(struct irqchip *c, u64 addr, u32 data);

extern const struct irqchip_ops irqchip_user_ops; /* our own PIC, IOAPIC and local APICs */

/* --- what irq.c needs from devices/pic.c and devices/ioapic.c ------------------------------- */
void pic_set_irq(struct device *pic, unsigned irq, bool level);   /* irq 0-15, machine.lock held */
/* INTA: the vector, 0-255 (spurious: IRQ7's) */
int pic_ack(struct device *pic);
bool pic_intr(struct device *pic);                                /* INTR output */
bool pic_waiting(struct device *pic, unsigned irq);               /* in IRR and not masked */
void ioapic_set_irq(struct device *ioapic, unsigned pin, bool level);
/* of an edge that is let through, or -1 */
int ioapic_vector(struct device *ioapic, unsigned pin);
/* EOI broadcast, machine.lock held */
void ioapic_eoi(struct device *ioapic, u8 vector);

/* --- local APIC (devices/lapic.c), as the software CPU and the loop see it ------------------ */
struct lapic;

bool lapic_is_requested(const struct lapic *a, u8 vector); /* in IRR; any thread */
/* Any thread, no lock: IRR is atomic; sets VREQ_IRQ and kicks. */
void lapic_deliver(struct lapic *a, u8 mode, u8 vector, bool level_triggered);
/* Route an interrupt message (MSI or IPI) to the matching local APICs of vcpus[]. */
void lapic_route(struct vcpu **vcpus, u32 n, u32 dest, bool logical, u8 mode, u8 vector,
	bool level);

/* Level of the LINT0 (pin 0: the 8259's INTR) or LINT1 (pin 1: NMI) input.  Keeps VREQ_EXTINT equal
 * to "LINT0 is high and set up as ExtINT". Any thread, no lock. */
void lapic_set_lint(struct lapic *a, unsigned pin, bool level);

/* The rest only on the owning vCPU's thread, machine.lock not held (an EOI may take it): */
int lapic_pending(struct lapic *a);      /* highest deliverable vector above the priority, or -1 */
void lapic_ack(struct lapic *a, u8 vector); /* IRR to ISR */
/* LINT0 in ExtINT mode unmasked, or APIC disabled */
bool lapic_accepts_extint(const struct lapic *a);
u64 lapic_deadline_ns(const struct lapic *a);  /* guest time the timer is due, or UINT64_MAX */
void lapic_timer_poll(struct lapic *a, u64 now_ns, u64 now_tsc); /* fires it when due */
u64 lapic_cr8(const struct lapic *a);
void lapic_set_cr8(struct lapic *a, u64 v);
/* IA32_APIC_BASE, x2APIC MSRs 0x800-0x8ff, IA32_TSC_DEADLINE; false: #GP. */
bool lapic_rdmsr(struct lapic *a, u32 msr, u64 *v);
bool lapic_wrmsr(struct lapic *a, u32 msr, u64 v);
/* The xAPIC page: aligned 32-bit accesses; others read 0 / are ignored. */
u32 lapic_mmio_read(struct lapic *a, u32 off);
void lapic_mmio_write(struct lapic *a, u32 off, u32 v);
gpa_t lapic_base(const struct lapic *a); /* page address when enabled in xAPIC mode, or ~0 */
bool lapic_enabled(const struct lapic *a);     /* by IA32_APIC_BASE, in either mode */
void lapic_init_reset(struct lapic *a); /* INIT: everything but the APIC ID, base and mode */
