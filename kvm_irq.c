/* kvm_irq.c - interrupts under KVM, in three shapes:
 * - split (the default): local APICs in the kernel; our own 8259s and IOAPIC.  Pins become
 *   messages (KVM_SIGNAL_MSI), the 8259's vector is given at an interrupt window (KVM_INTERRUPT).
 *   The kernel tells of an EOI only for vectors in its routing table, so each level-triggered
 *   message is entered there first.
 * - kernel: both controllers in the kernel too; lines are KVM_IRQ_LINE.
 * - user: everything ours; the vCPU's thread polls its local APIC, whose timer kicks it.
 *
 * Thread: ops as irq.h says; injection and timer on the vCPU's thread.
 * Source: Linux Documentation/virt/kvm/api.rst. */
#include "kvm_priv.h"


#include "devices/lapic.h"

enum { PIC_PINS = 8, ISA_IRQS = 16, TIMER_GSI = 0, TIMER_PIN = 2, MSI_DATA_LEVEL = 1 << 15 };

/* --- routes ----------------------------------------------------------------------------------- */
/* Hand the whole table to the kernel; route_lock held or single-threaded. */
static int routes_set(struct kvm_vm *vm)
{
	return ioctl(vm->vm_fd, KVM_SET_GSI_ROUTING, &vm->routes) < 0 ? -errno : 0;
}

static struct kvm_irq_routing_entry *routes_add(struct kvm_vm *vm, u32 gsi, u32 type)
{
	struct kvm_irq_routing_entry *r;

	if (vm->routes.head.nr == KVM_ROUTES_MAX)
		return NULL;
	r = &vm->routes.entry[vm->routes.head.nr++];
	*r = (struct kvm_irq_routing_entry){ .gsi = gsi, .type = type };
	return r;
}

static void route_to_msi(struct kvm_irq_routing_entry *r, u64 addr, u32 data)
{
	r->type = KVM_IRQ_ROUTING_MSI;
	r->u.msi = (struct kvm_irq_routing_msi){ .address_lo = (u32)addr,
						 .address_hi = (u32)(addr >> 32),
						 .data = data };
}

static bool route_is(const struct kvm_irq_routing_entry *r, u64 addr, u32 data)
{
	return r->u.msi.address_lo == (u32)addr && r->u.msi.address_hi == (u32)(addr >> 32) &&
	       r->u.msi.data == data;
}

/* Split: make sure that the EOI of this level-triggered message will be told.  Pins and messages
 * are few and settle early, so the table changes rarely. */
static void route_for_eoi(struct kvm_vm *vm, u64 addr, u32 data)
{
	struct kvm_irq_routing_entry *pin = vm->routes.entry;
	u32 i;

	pthread_mutex_lock(&vm->route_lock);
	for (i = 0; i < IOAPIC_PINS && !route_is(&pin[i], addr, data); i++)
		;
	if (i == IOAPIC_PINS) {
		route_to_msi(&pin[vm->next_pin], addr, data);
		vm->next_pin = (vm->next_pin + 1) % IOAPIC_PINS;
		routes_set(vm);
	}
	pthread_mutex_unlock(&vm->route_lock);
}

int kvm_route_msi(struct engine_env *env, u32 gsi, u64 addr, u32 data)
{
	struct kvm_vm *vm = env->engine_priv;
	struct kvm_irq_routing_entry *r = NULL;
	int rc = -ENOSPC;

	if (gsi < IOAPIC_PINS || !kvm_has_lapic(vm))
		return -EINVAL;
	pthread_mutex_lock(&vm->route_lock);
	for (u32 i = 0; i < vm->routes.head.nr && !r; i++)
		if (vm->routes.entry[i].gsi == gsi)
			r = &vm->routes.entry[i];
	if (!r)
		r = routes_add(vm, gsi, KVM_IRQ_ROUTING_MSI);
	if (r) {
		route_to_msi(r, addr, data);
		rc = routes_set(vm);
	}
	pthread_mutex_unlock(&vm->route_lock);
	return rc;
}

int kvm_ioeventfd(struct engine_env *env, const struct doorbell *d, bool on)
{
	struct kvm_vm *vm = env->engine_priv;
	struct kvm_ioeventfd k = {
		.addr = d->addr,
		.len = d->len,
		.fd = d->fd,
		.datamatch = d->value,
		.flags = (d->pio ? KVM_IOEVENTFD_FLAG_PIO : 0) |
			 (d->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
			 (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	return ioctl(vm->vm_fd, KVM_IOEVENTFD, &k) < 0 ? -errno : 0;
}

int kvm_irqfd(struct engine_env *env, u32 gsi, int fd, int resample, bool on)
{
	struct kvm_vm *vm = env->engine_priv;
	struct kvm_irqfd k = { .fd = (u32)fd,
			       .gsi = gsi,
			       .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN };

	if (resample >= 0) {
		k.flags |= KVM_IRQFD_FLAG_RESAMPLE;
		k.resamplefd = (u32)resample;
	}
	return ioctl(vm->vm_fd, KVM_IRQFD, &k) < 0 ? -errno : 0;
}

/* --- the irqchips ----------------------------------------------------------------------------- */
static void kvm_signal_msi(struct irqchip *c, u64 addr, u32 data)
{
	struct kvm_vm *vm = c->priv;
	struct kvm_msi msi = { .address_lo = (u32)addr,
			       .address_hi = (u32)(addr >> 32),
			       .data = data };

	ioctl(vm->vm_fd, KVM_SIGNAL_MSI,
	      &msi); /* a message for nobody is an error we do not share */
}

static void split_msi(struct irqchip *c, u64 addr, u32 data)
{
	if (data & MSI_DATA_LEVEL)
		route_for_eoi(c->priv, addr, data);
	kvm_signal_msi(c, addr, data);
}

static void split_set(struct irqchip *c, u32 gsi, bool level)
{
	irqchip_user_ops.set(c, gsi, level);
}

static void split_intr(struct irqchip *c, bool level)
{
	if (!c->nr_vcpus)
		return;
	if (level)
		vcpu_request(c->vcpus[0], VREQ_EXTINT);
	else
		atomic_fetch_and(&c->vcpus[0]->req, ~(u32)VREQ_EXTINT);
}

static void kernel_set(struct irqchip *c, u32 gsi, bool level)
{
	struct kvm_vm *vm = c->priv;
	struct kvm_irq_level line = { .irq = gsi, .level = level };

	if (gsi < IOAPIC_PINS)
		ioctl(vm->vm_fd, KVM_IRQ_LINE, &line);
}

static void kernel_intr(struct irqchip *c, bool level)
{
}

static const struct irqchip_ops split_ops = {
	.name = "kvm-split", .set = split_set, .msi = split_msi, .intr = split_intr
};
static const struct irqchip_ops kernel_ops = { .name = "kvm-kernel", .set = kernel_set,
					       .msi = kvm_signal_msi, .intr = kernel_intr };

/* Every pin needs a route of its own for the kernel to look at; a message to nowhere until it is
 * used. */
static int split_init(struct kvm_vm *vm, struct err *e)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { IOAPIC_PINS } };

	if (ioctl(vm->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		return err_set(e, -errno, "/dev/kvm: no split irqchip (%s); use --irqchip kernel",
			       strerror(errno));
	for (u32 i = 0; i < IOAPIC_PINS; i++)
		route_to_msi(routes_add(vm, i, KVM_IRQ_ROUTING_MSI), 0, 0);
	vm->env->chip->ops = &split_ops;
	return 0;
}

/* As irq.c wires our own: GSI 0 to 15 to both controllers, but the timer to pin 2 of the IOAPIC. */
static void kernel_routes(struct kvm_vm *vm)
{
	for (u32 gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		struct kvm_irq_routing_entry *r;

		if (gsi < ISA_IRQS) {
			r = routes_add(vm, gsi, KVM_IRQ_ROUTING_IRQCHIP);
			r->u.irqchip.irqchip = gsi < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER
							      : KVM_IRQCHIP_PIC_SLAVE;
			r->u.irqchip.pin = gsi % PIC_PINS;
		}
		if (gsi == TIMER_PIN)
			continue;
		r = routes_add(vm, gsi, KVM_IRQ_ROUTING_IRQCHIP);
		r->u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		r->u.irqchip.pin = gsi == TIMER_GSI ? TIMER_PIN : gsi;
	}
}

static int kernel_init(struct kvm_vm *vm, struct err *e)
{
	if (ioctl(vm->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return err_set(e, -errno,
			       "/dev/kvm: cannot create an irqchip (%s); use --irqchip split",
			       strerror(errno));
	kernel_routes(vm);
	vm->env->chip->ops = &kernel_ops;
	return 0;
}

int kvm_irq_init(struct kvm_vm *vm, struct err *e)
{
	int rc = vm->irqchip == IRQCHIP_USER   ? 0
		 : vm->irqchip == IRQCHIP_SPLIT ? split_init(vm, e)
						: kernel_init(vm, e);

	if (rc < 0 || vm->irqchip == IRQCHIP_USER)
		return rc;
	vm->env->chip->priv = vm;
	rc = routes_set(vm);
	return rc < 0 ? err_set(e, rc, "/dev/kvm: refuses interrupt routes (%s)", strerror(-rc))
		      : 0;
}

/* --- injection -------------------------------------------------------------------------------- */
static bool extint_due(struct kvm_cpu *c)
{
	return vcpu_pending(&c->v) & VREQ_EXTINT && c->v.env->chip->pic &&
	       (kvm_has_lapic(c->vm) || lapic_accepts_extint(c->v.apic));
}

bool kvm_irq_due(struct kvm_cpu *c)
{
	return extint_due(c) || (!kvm_has_lapic(c->vm) && lapic_pending(c->v.apic) >= 0);
}

/* The 8259's first, which is a legacy of its own.  -1: it was nothing. */
static int acknowledge(struct kvm_cpu *c)
{
	struct device *pic = c->v.env->chip->pic;
	int vector = -1;

	if (extint_due(c)) {
		pthread_mutex_lock(c->v.env->lock);
		if (pic_intr(pic))
			vector = pic_ack(pic);
		pthread_mutex_unlock(c->v.env->lock);
	}
	if (vector >= 0 || kvm_has_lapic(c->vm))
		return vector;
	vector = lapic_pending(c->v.apic);
	if (vector >= 0)
		lapic_ack(c->v.apic, (u8)vector);
	return vector;
}

/* The kernel takes one vector at a time and only when the guest could take it at once; if there is
 * another, or it cannot, an exit is asked for. */
void kvm_irq_inject(struct kvm_cpu *c)
{
	struct kvm_run *run = c->run;
	struct kvm_interrupt k;
	int vector;

	run->request_interrupt_window = 0;
	if (c->vm->irqchip == IRQCHIP_KERNEL || !kvm_irq_due(c))
		return;
	if (run->ready_for_interrupt_injection) {
		vector = acknowledge(c);
		k.irq = (u32)vector;
		if (vector >= 0 && kvm_cpu_ioctl(c, KVM_INTERRUPT, &k, "KVM_INTERRUPT"))
			run->ready_for_interrupt_injection = 0;
	}
	run->request_interrupt_window = kvm_irq_due(c);
}

void kvm_irq_eoi(struct kvm_cpu *c, u8 vector)
{
	pthread_mutex_lock(c->v.env->lock);
	if (c->v.env->chip->ioapic)
		ioapic_eoi(c->v.env->chip->ioapic, vector);
	pthread_mutex_unlock(c->v.env->lock);
}

/* --- the user irqchip's timer ----------------------------------------------------------------- */
static void timer_due(void *arg)
{
	struct kvm_cpu *c = arg;

	c->v.eng->kick(&c->v);
}

void kvm_timer_arm(struct kvm_cpu *c)
{
	u64 now_ns = loop_now_ns(c->v.env->loop), due_ns;

	lapic_timer_poll(c->v.apic, now_ns, host_rdtsc() + c->v.s.tsc_offset);
	due_ns = lapic_deadline_ns(c->v.apic);
	if (due_ns == c->timer_at_ns)
		return;
	pthread_mutex_lock(c->v.env->lock);
	if (!c->timer.loop)
		timer_init(&c->timer, c->v.env->loop, timer_due, c);
	timer_arm(&c->timer, due_ns);
	pthread_mutex_unlock(c->v.env->lock);
	c->timer_at_ns = due_ns;
}
