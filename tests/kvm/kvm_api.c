/* kvm_api.c - the KVM engine against a real /dev/kvm, emulated or not: small guests, each for one
 * thing. Run them inside a nested machine with scripts/kvm-nested.sh build/mvm-test kvm_ where
 * there is none. */
#include <sys/eventfd.h>
#include <time.h>

#include "kvmkit.h"

static u64 clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000 + (u64)t.tv_nsec / 1000000;
}

TEST(kvm_probe_gives_a_verdict_and_a_reason)
{
	char why[160] = "";
	enum kvm_verdict v = kvm_probe(why, sizeof why);

	OK(strlen(why) > 10);
	fprintf(stderr, "  kvm: %s\n", why);
	if (v == KVM_NONE)
		SKIP("%s", why);
}

/* --- ports and memory ------------------------------------------------------------------------- */
GUEST(guest_ports,
      "mov $0x11223344, %eax\n"
      "out %al, $0xf0\n"
      "out %ax, $0xf0\n"
      "out %eax, $0xf0\n"
      "in $0xf8, %al\n"
      "out %al, $0xf0\n"
      "mov $0xf8, %edx\n"
      "mov $0x200000, %edi\n"
      "mov $5, %ecx\n"
      "cld\n"
      "rep insb\n"
      "mov $0xf0, %edx\n"
      "mov $0x200000, %esi\n"
      "mov $5, %ecx\n"
      "rep outsb" DONE);

TEST(kvm_ports_of_every_size_and_strings)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_ports, guest_ports_end);

	EQ(kvmkit_run(k), VEXIT_KICK);
	EQ(k->notes, 9);
	EQ(k->note[0], 0x44);
	EQ(k->note[1], 0x3344);
	EQ(k->note[2], 0x11223344);
	EQ(k->note_size[2], 4);
	EQ(k->note[3], 1);
	for (int i = 0; i < 5; i++)
		EQ(k->note[4 + i], 2 + i);
	kvmkit_free(k);
}

GUEST(guest_mmio,
      "mov $0xc0000000, %ebx\n"
      "mov $0x1122334455667788, %rax\n"
      "mov %al, (%rbx)\n"
      "mov %ax, 2(%rbx)\n"
      "mov %eax, 4(%rbx)\n"
      "mov %rax, 8(%rbx)\n"
      "mov %rax, 0xffd(%rbx)\n"   /* three bytes, then five */
      "mov 8(%rbx), %rcx\n"
      "lock addl $1, 4(%rbx)\n"
      "mov 4(%rbx), %edx\n"
      "movzbl (%rbx), %esi" DONE);

TEST(kvm_memory_accesses_of_every_size_and_across_pages)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_mmio, guest_mmio_end);
	u32 bytes = 0;

	EQ(kvmkit_run(k), VEXIT_KICK);
	EQ(k->vcpus[0]->s.gpr[RCX], 0x1122334455667788);
	EQ(k->vcpus[0]->s.gpr[RDX], 0x55667789);
	EQ(k->vcpus[0]->s.gpr[RSI], 0x88);
	EQ(k->write[0].size, 1);
	EQ(k->write[1].size, 2);
	EQ(k->write[2].size, 4);
	EQ(k->write[3].size, 8);
	for (u32 i = 4; i < k->writes; i++)
		if (k->write[i].off >= 0xffd) {
			u64 want = 0x1122334455667788ull >> 8 * (k->write[i].off - 0xffd);

			EQ(k->write[i].val,
			   want & (k->write[i].size == 8 ? ~0ull : BIT(8 * k->write[i].size) - 1));
			bytes += k->write[i].size;
		}
	EQ(bytes, 8);
	kvmkit_free(k);
}

GUEST(guest_real,
      ".code16\n"
      "mov $0xbeef, %ax\n"
      "out %ax, $0xf0\n"
      "mov %cs, %ax\n"
      "out %ax, $0xf0" DONE ".code64\n");

TEST(kvm_real_mode_runs)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_real, guest_real_end);

	kvmkit_real_mode(k, guest_real, guest_real_end);
	EQ(kvmkit_run(k), VEXIT_KICK);
	EQ(k->note[0], 0xbeef);
	EQ(k->note[1], KIT_REAL >> 4);
	kvmkit_free(k);
}

GUEST(guest_rom,
      "mov $0xfffff000, %ebx\n"
      "mov (%rbx), %eax\n"
      "out %eax, $0xf0\n"
      "movl $0x55555555, (%rbx)\n"
      "mov (%rbx), %eax\n"
      "out %eax, $0xf0" DONE);

TEST(kvm_rom_reads_and_ignores_writes)
{
	struct kvmkit_setup setup = {
		&kvm_engine, 1, IRQCHIP_SPLIT, guest_rom, guest_rom_end, NULL
	};
	u32 *rom = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	struct kvmkit *k;

	kvmkit_need_kvm();
	OK(rom);
	*rom = 0xdec0de;
	setup.rom = rom;
	k = kvmkit_build(&setup);
	EQ(kvmkit_run(k), VEXIT_KICK);
	EQ(k->note[0], 0xdec0de);
	EQ(k->note[1], 0xdec0de);
}

/* --- how a run ends --------------------------------------------------------------------------- */
GUEST(guest_triple, "lidt zero_idt(%rip)\n ud2\n zero_idt: .quad 0, 0");

TEST(kvm_triple_fault_is_a_reset)
{
	for (u32 chip = IRQCHIP_SPLIT; chip <= IRQCHIP_USER; chip++) {
		struct kvmkit *k = kvmkit_new(1, chip, guest_triple, guest_triple_end);

		EQ(kvmkit_run(k), VEXIT_RESET);
		kvmkit_free(k);
	}
}

GUEST(guest_halt, "hlt\n" DONE);

TEST(kvm_halt_leaves_when_the_local_apic_is_ours)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_USER, guest_halt, guest_halt_end);

	EQ(kvmkit_run(k), VEXIT_HALT);
	EQ(k->vcpus[0]->s.mp_state, MP_HALTED);
	EQ(k->vcpus[0]->s.rip, KIT_CODE + 1);
	kvmkit_free(k);
}

TEST(kvm_refused_state_is_a_crash_with_a_text)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_halt, guest_halt_end);

	k->vcpus[0]->s.cr0 &= ~1ull; /* paging without protection */
	EQ(kvmkit_run(k), VEXIT_CRASH);
	OK(strstr(k->vcpus[0]->crash, "KVM_"));
	kvmkit_free(k);
}

GUEST(guest_spin, "out %al, $0xf0\n 1: inc %rbx\n jmp 1b");

static void *pause_later(void *arg)
{
	struct kvmkit *k = arg;

	while (!__atomic_load_n(&k->notes, __ATOMIC_SEQ_CST))
		usleep(1000);
	usleep(20000);
	vcpu_request(k->vcpus[0], VREQ_PAUSE);
	return NULL;
}

TEST(kvm_kick_stops_a_spinning_guest)
{
	for (u32 chip = IRQCHIP_SPLIT; chip <= IRQCHIP_USER; chip++) {
		struct kvmkit *k = kvmkit_new(1, chip, guest_spin, guest_spin_end);
		pthread_t t;

		OK(pthread_create(&t, NULL, pause_later, k) == 0);
		EQ(kvmkit_run(k), VEXIT_KICK);
		pthread_join(t, NULL);
		OK(k->vcpus[0]->s.gpr[RBX] > 0);
		EQ(k->notes, 1); /* the OUT was finished before, and not done twice after */
		kvmkit_free(k);
	}
}

TEST(kvm_kick_stops_a_halted_guest)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_halt, guest_halt_end);
	pthread_t t;

	k->notes = 1;
	OK(pthread_create(&t, NULL, pause_later, k) == 0);
	EQ(kvmkit_run(k), VEXIT_KICK);
	pthread_join(t, NULL);
	EQ(k->vcpus[0]->s.mp_state, MP_HALTED);
	kvmkit_free(k);
}

TEST(kvm_pause_asked_before_running_is_seen)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_spin, guest_spin_end);

	kvmkit_push(k);
	vcpu_request(k->vcpus[0], VREQ_PAUSE);
	EQ(k->eng->run(k->vcpus[0]), VEXIT_KICK);
	EQ(k->notes, 0);
	kvmkit_free(k);
}

/* --- interrupts ------------------------------------------------------------------------------- */
/* Programs the 8259s for vectors 0x20.., unmasks IRQ 4 and waits; its handler notes 0x24 and ends.
 */
GUEST(guest_pic,
      "mov $0x11, %al\n out %al, $0x20\n out %al, $0xa0\n"
      "mov $0x20, %al\n out %al, $0x21\n mov $0x28, %al\n out %al, $0xa1\n"
      "mov $4, %al\n out %al, $0x21\n mov $2, %al\n out %al, $0xa1\n"
      "mov $1, %al\n out %al, $0x21\n out %al, $0xa1\n"
      "mov $0xef, %al\n out %al, $0x21\n mov $0xff, %al\n out %al, $0xa1\n"
      "mov $1, %al\n out %al, $0xf0\n"
      "1: sti\n hlt\n jmp 1b\n"
      "guest_pic_irq: mov $0x24, %al\n out %al, $0xf0\n mov $0x20, %al\n out %al, $0x20" DONE);
extern const u8 guest_pic_irq[];
__asm__(".hidden guest_pic_irq\n.globl guest_pic_irq");

struct raise {
	struct kvmkit *k;
	u32 gsi;
};

static void *raise_later(void *arg)
{
	struct raise *r = arg;

	while (!__atomic_load_n(&r->k->notes, __ATOMIC_SEQ_CST))
		usleep(1000);
	usleep(20000);
	pthread_mutex_lock(&r->k->lock);
	irq_set((struct irq_line){ &r->k->chip, r->gsi }, true);
	pthread_mutex_unlock(&r->k->lock);
	return NULL;
}

/* As vcpu.c's loop does it. */
static enum vexit run_and_sleep(struct kvmkit *k)
{
	enum vexit why;
	u64 limit = clock_ms() + 20000;

	atomic_fetch_and(&k->vcpus[0]->req, ~(u32)VREQ_PAUSE);
	kvmkit_push(k);
	while ((why = k->eng->run(k->vcpus[0])) == VEXIT_HALT && clock_ms() < limit)
		usleep(1000);
	k->eng->pull(k->vcpus[0]);
	if (why != VEXIT_KICK) {
		char text[1024];

		cpu_state_text(&k->vcpus[0]->s, text, sizeof text);
		fprintf(stderr, "  %s irqchip %u: %s\n%s\n", k->eng->name, k->env.irqchip_kind,
			k->vcpus[0]->crash, text);
	}
	return why;
}

TEST(kvm_pic_interrupt_wakes_a_halted_guest)
{
	for (u32 chip = IRQCHIP_SPLIT; chip <= IRQCHIP_USER; chip++) {
		struct kvmkit *k = kvmkit_new(1, chip, guest_pic, guest_pic_end);
		struct raise r = { k, 4 };
		pthread_t t;

		kvmkit_gate(k, 0x24, kvmkit_addr(guest_pic, guest_pic_irq));
		OK(pthread_create(&t, NULL, raise_later, &r) == 0);
		EQ(run_and_sleep(k), VEXIT_KICK);
		pthread_join(t, NULL);
		EQ(k->notes, 2);
		EQ(k->note[1], 0x24);
		kvmkit_free(k);
	}
}

/* Enables the local APIC by its page and sets IOAPIC pin 16 to vector 0x41, level.  The handler
 * does not lower the line, so each EOI brings the next; the third ends. */
GUEST(guest_level,
      "mov $0xfee00000, %ebx\n"
      "movl $0x1ff, 0xf0(%rbx)\n"
      "mov $0xfec00000, %ecx\n"
      "movl $0x30, (%rcx)\n movl $0x8041, 0x10(%rcx)\n"   /* 0x10 + 2 * 16 */
      "movl $0x31, (%rcx)\n movl $0, 0x10(%rcx)\n"
      "mov $1, %al\n out %al, $0xf0\n"
      "1: sti\n hlt\n jmp 1b\n"
      "guest_level_irq: inc %esi\n mov %esi, %eax\n out %al, $0xf0\n"
      "movl $0, 0xb0(%rbx)\n cmp $3, %esi\n je 2f\n iretq\n"
      "2:" DONE);
extern const u8 guest_level_irq[];
__asm__(".hidden guest_level_irq\n.globl guest_level_irq");

TEST(kvm_level_interrupt_comes_again_while_the_line_is_high)
{
	for (u32 chip = IRQCHIP_SPLIT; chip <= IRQCHIP_USER; chip++) {
		struct kvmkit *k = kvmkit_new(1, chip, guest_level, guest_level_end);
		struct raise r = { k, 16 };
		pthread_t t;

		kvmkit_gate(k, 0x41, kvmkit_addr(guest_level, guest_level_irq));
		OK(pthread_create(&t, NULL, raise_later, &r) == 0);
		EQ(run_and_sleep(k),
		   VEXIT_KICK); /* never, unless each EOI made the pin look again */
		pthread_join(t, NULL);
		OK(k->notes >= 4);
		kvmkit_free(k);
	}
}

GUEST(guest_msi,
      "mov $0xfee00000, %ebx\n"
      "movl $0x1ff, 0xf0(%rbx)\n"
      "mov $1, %al\n out %al, $0xf0\n"
      "1: sti\n hlt\n jmp 1b\n"
      "guest_msi_irq: mov $0x51, %al\n out %al, $0xf0\n movl $0, 0xb0(%rbx)" DONE);
extern const u8 guest_msi_irq[];
__asm__(".hidden guest_msi_irq\n.globl guest_msi_irq");

static void *msi_later(void *arg)
{
	struct kvmkit *k = arg;

	while (!__atomic_load_n(&k->notes, __ATOMIC_SEQ_CST))
		usleep(1000);
	usleep(20000);
	msi_send(&k->chip, 0xfee00000, 0x4051);
	return NULL;
}

TEST(kvm_message_interrupt_arrives)
{
	for (u32 chip = IRQCHIP_SPLIT; chip <= IRQCHIP_USER; chip++) {
		struct kvmkit *k = kvmkit_new(1, chip, guest_msi, guest_msi_end);
		pthread_t t;

		kvmkit_gate(k, 0x51, kvmkit_addr(guest_msi, guest_msi_irq));
		OK(pthread_create(&t, NULL, msi_later, k) == 0);
		EQ(run_and_sleep(k), VEXIT_KICK);
		pthread_join(t, NULL);
		EQ(k->note[1], 0x51);
		kvmkit_free(k);
	}
}

/* Local APIC timer, one-shot, 1 GHz / 2: 10 ms. */
GUEST(guest_timer,
      "mov $0xfee00000, %ebx\n"
      "movl $0x1ff, 0xf0(%rbx)\n"
      "movl $0, 0x3e0(%rbx)\n"
      "movl $0x51, 0x320(%rbx)\n"
      "movl $5000000, 0x380(%rbx)\n"
      "1: sti\n hlt\n jmp 1b\n"
      "guest_timer_irq: mov $0x51, %al\n out %al, $0xf0" DONE);
extern const u8 guest_timer_irq[];
__asm__(".hidden guest_timer_irq\n.globl guest_timer_irq");

TEST(kvm_local_apic_timer_fires_in_time)
{
	for (u32 chip = IRQCHIP_SPLIT; chip <= IRQCHIP_USER; chip++) {
		struct kvmkit *k = kvmkit_new(1, chip, guest_timer, guest_timer_end);
		u64 from = clock_ms();

		kvmkit_gate(k, 0x51, kvmkit_addr(guest_timer, guest_timer_irq));
		EQ(run_and_sleep(k), VEXIT_KICK);
		EQ(k->note[0], 0x51);
		OK(clock_ms() - from >= 9);
		OK(clock_ms() - from < 5000);
		kvmkit_free(k);
	}
}

/* The same while the guest spins: the signal must get it out. */
GUEST(guest_timer_spin,
      "mov $0xfee00000, %ebx\n"
      "movl $0x1ff, 0xf0(%rbx)\n"
      "movl $0, 0x3e0(%rbx)\n"
      "movl $0x51, 0x320(%rbx)\n"
      "movl $5000000, 0x380(%rbx)\n"
      "sti\n 1: jmp 1b\n"
      "guest_timer_spin_irq: mov $0x51, %al\n out %al, $0xf0" DONE);
extern const u8 guest_timer_spin_irq[];
__asm__(".hidden guest_timer_spin_irq\n.globl guest_timer_spin_irq");

TEST(kvm_local_apic_timer_interrupts_a_spinning_guest)
{
	for (u32 chip = IRQCHIP_SPLIT; chip <= IRQCHIP_USER; chip++) {
		struct kvmkit *k = kvmkit_new(1, chip, guest_timer_spin, guest_timer_spin_end);

		kvmkit_gate(k, 0x51, kvmkit_addr(guest_timer_spin, guest_timer_spin_irq));
		EQ(run_and_sleep(k), VEXIT_KICK);
		EQ(k->note[0], 0x51);
		kvmkit_free(k);
	}
}

GUEST(guest_nmi,
      "out %al, $0xf0\n 1: hlt\n jmp 1b\n guest_nmi_irq: mov $2, %al\n out %al, $0xf0" DONE);
extern const u8 guest_nmi_irq[];
__asm__(".hidden guest_nmi_irq\n.globl guest_nmi_irq");

static void *nmi_later(void *arg)
{
	struct kvmkit *k = arg;

	while (!__atomic_load_n(&k->notes, __ATOMIC_SEQ_CST))
		usleep(1000);
	usleep(20000);
	vcpu_request(k->vcpus[0], VREQ_NMI);
	return NULL;
}

TEST(kvm_nmi_wakes_a_guest_with_interrupts_off)
{
	for (u32 chip = IRQCHIP_SPLIT; chip <= IRQCHIP_USER; chip++) {
		struct kvmkit *k = kvmkit_new(1, chip, guest_nmi, guest_nmi_end);
		pthread_t t;

		kvmkit_gate(k, 2, kvmkit_addr(guest_nmi, guest_nmi_irq));
		OK(pthread_create(&t, NULL, nmi_later, k) == 0);
		EQ(run_and_sleep(k), VEXIT_KICK);
		pthread_join(t, NULL);
		EQ(k->note[1], 2);
		kvmkit_free(k);
	}
}

static void stop_loop(void *arg)
{
	struct kvmkit *k = arg;

	loop_stop(k->loop, 7);
}

TEST(kvm_halt_for_good_is_noticed)
{
	for (u32 chip = IRQCHIP_SPLIT; chip <= IRQCHIP_USER; chip++) {
		struct kvmkit *k = kvmkit_new(1, chip, guest_halt, guest_halt_end);

		k->vcpus[0]->exit_work = (struct loop_work){ stop_loop, k, NULL, 0 };
		OK(vcpu_start(k->vcpus[0], &k->e) == 0);
		EQ(kvmkit_loop_end(k), 7);
		EQ(k->vcpus[0]->exit_why, VEXIT_HALT);
		EQ(k->vcpus[0]->dead_halt, 1);
		EQ(k->vcpus[0]->s.rip, KIT_CODE + 1);
		kvmkit_free(k);
	}
}

/* --- two CPUs --------------------------------------------------------------------------------- */
/* The boot CPU sends INIT and SIPI to page 8, whose real-mode code notes 0xa9 and halts. */
GUEST(guest_smp,
      "mov $0xfee00000, %ebx\n"
      "movl $0x1ff, 0xf0(%rbx)\n"
      "movl $0x01000000, 0x310(%rbx)\n movl $0x4500, 0x300(%rbx)\n"
      "movl $0x01000000, 0x310(%rbx)\n movl $0x4608, 0x300(%rbx)\n"
      "1: pause\n cmpb $0xa9, 0x5000\n jne 1b" DONE);
GUEST(guest_ap,
      ".code16\n mov $0xa9, %al\n out %al, $0xf0\n mov $0x500, %bx\n mov %bx, %ds\n mov %al, 0\n"
      "1: hlt\n jmp 1b\n .code64\n");

TEST(kvm_second_cpu_starts_by_init_and_sipi)
{
	for (u32 chip = IRQCHIP_SPLIT; chip <= IRQCHIP_USER; chip++) {
		struct kvmkit *k = kvmkit_new(2, chip, guest_smp, guest_smp_end);
		enum vexit why;

		OK(mem_write(&k->mem, 0x8000, guest_ap, (u64)(guest_ap_end - guest_ap)));
		OK(vcpu_start(k->vcpus[1], &k->e) == 0);
		why = run_and_sleep(k);
		EQ(why, VEXIT_KICK);
		EQ(k->note[0], 0xa9);
		kvmkit_free(k);
	}
}

/* --- doorbells and irqfds --------------------------------------------------------------------- */
GUEST(guest_bell,
      "mov $0xc0000050, %ebx\n"
      "movl $7, (%rbx)\n"
      "movl $8, (%rbx)\n"
      "mov $0x60, %edx\n mov $1, %al\n out %al, (%dx)" DONE);

TEST(kvm_doorbells_signal_without_an_exit)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_bell, guest_bell_end);
	struct doorbell mmio = { .addr = KIT_MMIO + 0x50, .len = 4, .match = true, .value = 7,
				     .fd = eventfd(0, EFD_NONBLOCK) };
	struct doorbell pio = {
		.pio = true, .addr = 0x60, .len = 1, .fd = eventfd(0, EFD_NONBLOCK)
	};
	u64 n;

	EQ(kvm_ioeventfd(&k->env, &mmio, true), 0);
	EQ(kvm_ioeventfd(&k->env, &pio, true), 0);
	EQ(kvmkit_run(k), VEXIT_KICK);
	EQ(k->writes, 1); /* the 8 did not match */
	EQ(k->write[0].val, 8);
	EQ(read(mmio.fd, &n, 8), 8);
	EQ(n, 1);
	EQ(read(pio.fd, &n, 8), 8);
	EQ(kvm_ioeventfd(&k->env, &mmio, false), 0);
	kvmkit_free(k);
}

static int irq_fd = -1;

static void *irqfd_later(void *arg)
{
	struct kvmkit *k = arg;
	u64 one = 1;

	while (!__atomic_load_n(&k->notes, __ATOMIC_SEQ_CST))
		usleep(1000);
	usleep(20000);
	if (write(irq_fd, &one, 8) != 8)
		perror("irqfd");
	return NULL;
}

TEST(kvm_irqfd_raises_a_routed_message)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_msi, guest_msi_end);
	pthread_t t;

	irq_fd = eventfd(0, EFD_NONBLOCK);
	EQ(kvm_route_msi(&k->env, 30, 0xfee00000, 0x4051), 0);
	EQ(kvm_irqfd(&k->env, 30, irq_fd, -1, true), 0);
	EQ(kvm_route_msi(&k->env, 5, 0xfee00000, 0x4051), -EINVAL);
	kvmkit_gate(k, 0x51, kvmkit_addr(guest_msi, guest_msi_irq));
	OK(pthread_create(&t, NULL, irqfd_later, k) == 0);
	EQ(run_and_sleep(k), VEXIT_KICK);
	pthread_join(t, NULL);
	EQ(k->note[1], 0x51);
	kvmkit_free(k);
}

/* --- memory log ------------------------------------------------------------------------------- */
GUEST(guest_dirty,
      "movb $1, 0x200000\n movb $1, 0x205fff\n movb $1, 0x400000\n mov 0x600000, %al" DONE);

/* The kernel may also name a page that was only read, if it had to map it. */
TEST(kvm_dirty_log_names_the_written_pages)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_dirty, guest_dirty_end);
	u64 bitmap[KIT_RAM / 4096 / 64] = { 0 };

	EQ(kvm_dirty_log(&k->env, true), 0);
	EQ(kvmkit_run(k), VEXIT_KICK);
	EQ(kvm_dirty_take(&k->env, 0, bitmap), 0);
	EQ(bitmap[0x200 / 64], BIT(0) | BIT(5));
	EQ(bitmap[0x400 / 64], BIT(0));
	EQ(bitmap[0x500 / 64] | bitmap[0x700 / 64], 0);
	EQ(kvm_dirty_take(&k->env, 0, bitmap), 0);
	for (u32 i = 0; i < ARRAY_LEN(bitmap); i++)
		EQ(bitmap[i], 0);
	kvmkit_free(k);
}

/* --- state ------------------------------------------------------------------------------------ */
/* Fills what it can with values of its own, ends a first run, then checks that all is still there.
 */
GUEST(guest_state,
      "mov $0x1111222233334444, %rbx\n mov $0x5555, %r12\n mov $0x7777, %r15\n"
      "movq %rbx, %xmm3\n"
      "movups %xmm3, 0x200000\n"
      "fldpi\n"
      "mov $0xc0000082, %ecx\n mov $0x1234, %eax\n xor %edx, %edx\n wrmsr\n"   /* LSTAR */
      "mov $0x600000, %eax\n mov %rax, %dr1\n"
      "stc\n"
      "out %al, $0xf4\n"
      "jnc 1f\n"
      "cmp $0x5555, %r12\n jne 1f\n"
      "mov $0x1111222233334444, %rax\n cmp %rax, %rbx\n jne 1f\n"
      "movq %xmm3, %rax\n cmp %rax, %rbx\n jne 1f\n"
      "fstpl 0x200020\n"
      "mov $0xc0000082, %ecx\n rdmsr\n cmp $0x1234, %eax\n jne 1f\n"
      "mov %dr1, %rax\n cmp $0x600000, %rax\n jne 1f\n"
      "mov $0x99, %al\n out %al, $0xf0\n"
      "1:" DONE);

static void state_goes_to(const struct engine *from, const struct engine *to)
{
	struct kvmkit_setup one = { from,
				    1,
				    from == &kvm_engine ? IRQCHIP_SPLIT : IRQCHIP_USER,
				    guest_state,
				    guest_state_end,
				    NULL };
	struct kvmkit_setup two = { to,
				    1,
				    to == &kvm_engine ? IRQCHIP_SPLIT : IRQCHIP_USER,
				    guest_state,
				    guest_state_end,
				    NULL };
	struct kvmkit *a, *b;
	u8 *page;

	kvmkit_need_kvm();
	a = kvmkit_build(&one);
	EQ(kvmkit_run(a), VEXIT_KICK);
	EQ(a->vcpus[0]->s.gpr[R15], 0x7777);
	EQ(a->vcpus[0]->s.lstar, 0x1234);
	EQ(a->vcpus[0]->s.dr[1], 0x600000);
	EQ(a->vcpus[0]->s.rflags & 1, 1);
	EQ(ld64(a->vcpus[0]->s.xsave + 160 + 3 * 16), 0x1111222233334444);
	b = kvmkit_build(&two);
	memcpy(mem_ptr(&b->mem, 0, KIT_RAM), mem_ptr(&a->mem, 0, KIT_RAM), KIT_RAM);
	b->vcpus[0]->s = a->vcpus[0]->s;
	EQ(kvmkit_run(b), VEXIT_KICK);
	EQ(b->notes, 1);
	EQ(b->note[0], 0x99);
	page = mem_ptr(&b->mem, 0x200020, 8);
	EQ(ld64(page), 0x400921fb54442d18); /* pi */
	kvmkit_free(a);
	kvmkit_free(b);
}

TEST(kvm_state_moves_into_a_new_vm)
{
	state_goes_to(&kvm_engine, &kvm_engine);
}

TEST(kvm_state_moves_to_the_software_cpu)
{
	state_goes_to(&kvm_engine, &tcg_engine);
}

TEST(kvm_state_moves_from_the_software_cpu)
{
	state_goes_to(&tcg_engine, &kvm_engine);
}

TEST(kvm_pull_gives_back_what_push_took)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_halt, guest_halt_end);
	struct cpu_state *s = &k->vcpus[0]->s, want;

	for (int i = 0; i < 16; i++)
		s->gpr[i] = test_random();
	s->rflags = 0x246;
	s->cr2 = test_random();
	s->dr[0] = 0x12345000;
	s->star = test_random();
	s->cstar = 0x55555;
	s->sfmask = 0x47700;
	s->kernel_gs_base = 0xffff888000001000;
	s->sysenter_cs = 0x10;
	s->pat = 0x0007010600070106;
	s->seg[SEG_FS].base = 0x7f0000001000;
	s->seg[SEG_GS].base = 0xffff888000002000;
	s->int_shadow = 1;
	s->nmi_blocked = 1;
	s->event_valid = 1;
	s->event_type = 3;
	s->event_vector = 13;
	s->event_has_error = 1;
	s->event_error = 0x18;
	st16(s->xsave, 0x27f);
	st32(s->xsave + 24, 0x1fa0);
	st64(s->xsave + 512, 3);
	for (int i = 0; i < 16; i++)
		st64(s->xsave + 160 + 16 * i, test_random());
	want = *s;
	kvmkit_push(k);
	memset(s->gpr, 0, sizeof s->gpr);
	k->eng->pull(k->vcpus[0]);
	OK(!memcmp(s->gpr, want.gpr, sizeof s->gpr));
	OK(!memcmp(s->seg, want.seg, sizeof s->seg));
	OK(!memcmp(s->dr, want.dr, 4 * 8));
	EQ(s->rflags, want.rflags);
	EQ(s->cr2, want.cr2);
	EQ(s->cr4, want.cr4);
	EQ(s->efer, want.efer);
	EQ(s->star, want.star);
	EQ(s->cstar, want.cstar);
	EQ(s->sfmask, want.sfmask);
	EQ(s->kernel_gs_base, want.kernel_gs_base);
	EQ(s->sysenter_cs, want.sysenter_cs);
	EQ(s->pat, want.pat);
	EQ(s->int_shadow, 1);
	EQ(s->nmi_blocked, 1);
	EQ(s->event_valid, 1);
	EQ(s->event_type, 3);
	EQ(s->event_vector, 13);
	EQ(s->event_error, 0x18);
	EQ(ld16(s->xsave), 0x27f);
	EQ(ld32(s->xsave + 24), 0x1fa0);
	OK(!memcmp(s->xsave + 160, want.xsave + 160, 256));
	kvmkit_free(k);
}

/* The local APIC's registers, by way of our own struct, into a new VM: the armed timer still fires.
 */
GUEST(guest_lapic,
      "mov $0xfee00000, %ebx\n"
      "movl $0x1ff, 0xf0(%rbx)\n"
      "movl $0, 0x3e0(%rbx)\n"
      "movl $0x51, 0x320(%rbx)\n"
      "movl $20000000, 0x380(%rbx)\n"
      "out %al, $0xf4\n"
      "1: sti\n hlt\n jmp 1b\n"
      "guest_lapic_irq: mov $0x51, %al\n out %al, $0xf0" DONE);
extern const u8 guest_lapic_irq[];
__asm__(".hidden guest_lapic_irq\n.globl guest_lapic_irq");

TEST(kvm_armed_timer_survives_the_move_to_a_new_vm)
{
	struct kvmkit *a = kvmkit_new(1, IRQCHIP_SPLIT, guest_lapic, guest_lapic_end);
	struct kvmkit *b = kvmkit_new(1, IRQCHIP_KERNEL, guest_lapic, guest_lapic_end);
	struct state out, in;

	kvmkit_gate(a, 0x51, kvmkit_addr(guest_lapic, guest_lapic_irq));
	EQ(kvmkit_run(a), VEXIT_KICK);
	EQ(lapic_mmio_read(a->vcpus[0]->apic, 0xf0), 0x1ff);
	EQ(lapic_mmio_read(a->vcpus[0]->apic, 0x380), 20000000);
	state_init_save(&out);
	lapic_state(a->vcpus[0]->apic, &out);
	state_init_load(&in, out.buf, out.len);
	lapic_state(b->vcpus[0]->apic, &in);
	EQ(in.error, 0);
	memcpy(mem_ptr(&b->mem, 0, KIT_RAM), mem_ptr(&a->mem, 0, KIT_RAM), KIT_RAM);
	b->vcpus[0]->s = a->vcpus[0]->s;
	EQ(run_and_sleep(b), VEXIT_KICK);
	EQ(b->note[0], 0x51);
	kvmkit_free(a);
	kvmkit_free(b);
}

GUEST(guest_tsc, "rdtsc\n shl $32, %rdx\n or %rdx, %rax\n mov %rax, %rbx" DONE);

TEST(kvm_tsc_counts_from_the_offset)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_tsc, guest_tsc_end);
	u64 offset = k->vcpus[0]->s.tsc_offset = 1000000000000ull - host_rdtsc();

	EQ(kvmkit_run(k), VEXIT_KICK);
	if (k->vcpus[0]->s.gpr[RBX] < 1000000000000ull)
		SKIP("this KVM ignores the TSC offset");
	OK(k->vcpus[0]->s.gpr[RBX] < host_rdtsc() + offset);
	OK(k->vcpus[0]->s.tsc_offset - offset + 1000000 < 2000000);
	kvmkit_free(k);
}

/* --- one instruction in the software CPU ------------------------------------------------------ */
/* Arithmetic on device memory that no kernel emulates. */
GUEST(guest_odd,
      "mov $0xc0000010, %ebx\n"
      "movl $5, (%rbx)\n movl $6, 4(%rbx)\n movl $7, 8(%rbx)\n movl $8, 12(%rbx)\n"
      "mov $0x0000000200000001, %rax\n movq %rax, %xmm1\n punpcklqdq %xmm1, %xmm1\n"
      "paddd (%rbx), %xmm1\n"
      "movq %xmm1, %rcx\n"
      "punpckhqdq %xmm1, %xmm1\n"
      "movq %xmm1, %rdx" DONE);

TEST(kvm_instruction_that_cannot_be_emulated_is_executed_here)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_odd, guest_odd_end);

	EQ(kvmkit_run(k), VEXIT_KICK);
	EQ(k->vcpus[0]->s.gpr[RCX], 0x0000000800000006);
	EQ(k->vcpus[0]->s.gpr[RDX], 0x0000000a00000008);
	OK(kvm_fixups(&k->env) >= 1);
	kvmkit_free(k);
}

/* The same that faults: the exception is the guest's. */
GUEST(guest_odd_fault,
      "mov $0xc0000011, %ebx\n"
      "paddd (%rbx), %xmm1" DONE
      "guest_odd_gp: mov $13, %al\n out %al, $0xf0" DONE);
extern const u8 guest_odd_gp[];
__asm__(".hidden guest_odd_gp\n.globl guest_odd_gp");

TEST(kvm_fault_of_an_instruction_executed_here_is_the_guests)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_odd_fault, guest_odd_fault_end);

	kvmkit_gate(k, 13, kvmkit_addr(guest_odd_fault, guest_odd_gp));
	EQ(kvmkit_run(k), VEXIT_KICK);
	EQ(k->notes, 1);
	EQ(k->note[0], 13);
	kvmkit_free(k);
}

TEST(kvm_reset_request_starts_again_at_the_reset_vector)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_SPLIT, guest_spin, guest_spin_end);

	kvmkit_push(k);
	atomic_fetch_or(&k->vcpus[0]->req, VREQ_RESET | VREQ_PAUSE);
	EQ(k->eng->run(k->vcpus[0]), VEXIT_KICK);
	k->eng->pull(k->vcpus[0]);
	EQ(k->vcpus[0]->s.rip, 0xfff0);
	EQ(k->vcpus[0]->s.seg[SEG_CS].base, 0xffff0000);
	EQ(k->vcpus[0]->s.cr0, 0x60000010);
	kvmkit_free(k);
}

GUEST(guest_cpuid, "mov $1, %eax\n cpuid\n mov %ecx, %esi\n mov $0x40000000, %eax\n cpuid" DONE);

TEST(kvm_cpuid_is_our_model_cut_to_what_kvm_can)
{
	struct kvmkit *k = kvmkit_new(1, IRQCHIP_USER, guest_cpuid, guest_cpuid_end);
	struct cpuid_out o;

	EQ(kvmkit_run(k), VEXIT_KICK);
	cpuid_query(k->vcpus[0], 1, 0, &o);
	OK(k->vcpus[0]->s.gpr[RSI] & 1u << 31);
	EQ(k->vcpus[0]->s.gpr[RSI] & ~(u64)o.ecx & ~(1ull << 27), 0);
	EQ(k->vcpus[0]->s.gpr[RSI] >> 21 & 1, 0); /* no x2APIC by a local APIC of our own */
	EQ(k->vcpus[0]->s.gpr[RBX], 0x4b4d564b);
	kvmkit_free(k);
}
