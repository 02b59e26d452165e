/* serial.c - the 16550A against a chardev of our own. */
#include "../../devices/chipset.h"
#include "../rig.h"

enum { SETTLE_NS = 10000000 }; /* as in devices/serial.c */
enum { RBR = COM1_PORT, IER, FCR, LCR, MCR, LSR, MSR, SCR, IIR = FCR, THR = RBR };

struct end {
	struct chardev wire;
	char sent[256];
	size_t n, limit; /* takes no more than limit bytes */
	u32 readable;
};

static size_t end_write(void *ctx, const u8 *buf, size_t n)
{
	struct end *e = ctx;
	size_t take = MIN(n, e->limit - e->n);

	memcpy(e->sent + e->n, buf, take);
	e->n += take;
	return take;
}

static void end_readable(void *ctx)
{
	((struct end *)ctx)->readable++;
}

static struct end end;

static struct rig *serial_rig(void)
{
	end = (struct end){ .limit = sizeof end.sent,
			    .wire = { .write = end_write, .readable = end_readable, .ctx = &end } };
	return rig_new_with(&serial_ops, &end.wire);
}

/* FIFOs on with trigger level 8, receive interrupts, OUT2: as Linux runs it. */
static struct rig *open_rig(void)
{
	struct rig *r = serial_rig();

	out8(r, LCR, 0x83), out8(r, RBR, 1), out8(r, IER, 0), out8(r, LCR, 3);
	out8(r, FCR, 0x81);
	out8(r, MCR, 0x0b);
	out8(r, IER, 0x05);
	rig_advance(r, SETTLE_NS);
	return r;
}

static size_t type(const char *s)
{
	size_t n = MIN(strlen(s), end.wire.room(end.wire.dev));

	end.wire.receive(end.wire.dev, (const u8 *)s, n);
	return n;
}

TEST(serial_registers_after_reset)
{
	struct rig *r = serial_rig();

	EQ(in8(r, IER), 0);
	EQ(in8(r, IIR), 1);
	EQ(in8(r, LCR), 0);
	EQ(in8(r, MCR), 0);
	EQ(in8(r, LSR), 0x60);
	EQ(in8(r, MSR), 0xb0);
	rig_free(r);
}

/* 8250_port.c, autoconfig(): IER bits, loopback modem lines, FIFO type; nothing that waits. */
TEST(serial_is_what_linux_calls_16550a)
{
	struct rig *r = serial_rig();

	out8(r, IER, 0);
	EQ(in8(r, IER) & 0x0f, 0);
	out8(r, IER, 0x0f);
	EQ(in8(r, IER), 0x0f);
	out8(r, IER, 0);
	out8(r, MCR, 0x1a);
	EQ(in8(r, MSR) & 0xf0, 0x90);
	out8(r, MCR, 0);
	out8(r, LCR, 0xbf);
	EQ(in8(r, 0x3fa) >> 6, 0);
	out8(r, LCR, 0);
	out8(r, FCR, 1);
	EQ(in8(r, IIR) >> 6, 3);
	out8(r, LCR, 0x80), out8(r, FCR, 0x21);
	EQ(in8(r, IIR) >> 5 & 1, 0); /* no 64-byte FIFO of a 16750 */
	out8(r, LCR, 0);
	out8(r, IER, 0x40);
	EQ(in8(r, IER), 0); /* no UART-enable bit of an XScale */
	out8(r, SCR, 0x5a);
	EQ(in8(r, SCR), 0x5a);
	rig_free(r);
}

TEST(serial_output_reaches_the_host_in_order)
{
	struct rig *r = open_rig();

	for (const char *p = "hello"; *p; p++) {
		OK(in8(r, LSR) & 0x20);
		out8(r, THR, (u8)*p);
	}
	EQ(end.n, 5);
	OK(memcmp(end.sent, "hello", 5) == 0);
	EQ(in8(r, LSR), 0x60);
	rig_free(r);
}

TEST(serial_slow_host_holds_thre_low_and_loses_nothing)
{
	struct rig *r = open_rig();

	end.limit = 4;
	for (int i = 0; i < 16; i++)
		out8(r, THR, (u8)('a' + i));
	EQ(in8(r, LSR) & 0x60, 0);
	out8(r, IER, 0x02);
	EQ(r->line[0], 0);
	end.limit = 10;
	end.wire.writable(end.wire.dev);
	EQ(in8(r, LSR) & 0x60, 0);
	end.limit = 100;
	end.wire.writable(end.wire.dev);
	EQ(in8(r, LSR) & 0x60, 0x60);
	EQ(r->line[0], 1);
	EQ(in8(r, IIR), 0xc2);
	EQ(end.n, 16);
	OK(memcmp(end.sent, "abcdefghijklmnop", 16) == 0);
	rig_free(r);
}

TEST(serial_thre_interrupt_rises_and_is_cleared_by_iir)
{
	struct rig *r = open_rig();

	out8(r, IER, 2); /* THR is empty already */
	EQ(r->line[0], 1);
	EQ(in8(r, IIR), 0xc2);
	EQ(r->line[0], 0);
	EQ(in8(r, IIR), 0xc1);
	out8(r, THR, 'x');
	EQ(r->line[0], 1);
	EQ(in8(r, IIR), 0xc2);
	out8(r, IER, 0), out8(r, IER, 2);
	EQ(in8(r, IIR), 0xc2);
	rig_free(r);
}

TEST(serial_fifo_interrupts_at_the_trigger_level)
{
	struct rig *r = open_rig();

	EQ(type("1234567"), 7);
	EQ(r->line[0], 0);
	EQ(in8(r, LSR) & 1, 1);
	EQ(type("8"), 1);
	EQ(r->line[0], 1);
	EQ(in8(r, IIR), 0xc4);
	EQ(in8(r, RBR), '1');
	EQ(r->line[0], 0);
	EQ(in8(r, IIR), 0xc1);
	rig_free(r);
}

TEST(serial_stale_characters_time_out)
{
	struct rig *r = open_rig();
	u64 four_chars_ns = 4 * 10 * NS_PER_SEC / 115200;

	type("ab");
	rig_advance(r, four_chars_ns - 10);
	EQ(r->line[0], 0);
	rig_advance(r, 20);
	EQ(r->line[0], 1);
	EQ(in8(r, IIR), 0xcc);
	EQ(in8(r, RBR), 'a');
	EQ(r->line[0], 0);
	rig_advance(r, four_chars_ns + 10);
	EQ(in8(r, IIR), 0xcc);
	EQ(in8(r, RBR), 'b');
	EQ(in8(r, IIR), 0xc1);
	rig_advance(r, NS_PER_SEC);
	EQ(r->line[0], 0);
	rig_free(r);
}

TEST(serial_input_waits_on_the_host_until_there_is_room)
{
	struct rig *r = open_rig();

	EQ(type("0123456789abcdefghij"), 16);
	EQ(end.wire.room(end.wire.dev), 0);
	end.readable = 0;
	for (int i = 0; i < 16; i++)
		EQ(in8(r, RBR), "0123456789abcdef"[i]);
	EQ(end.readable, 1);
	EQ(type("ghij"), 4);
	EQ(in8(r, RBR), 'g');
	rig_free(r);
}

TEST(serial_input_waits_until_the_guest_listens)
{
	struct rig *r = serial_rig();

	EQ(end.wire.room(end.wire.dev), 0);
	for (int i = 0; i < 100; i++) { /* a console that polls to write is no reader */
		in8(r, LSR);
		out8(r, THR, 'x');
	}
	EQ(end.wire.room(end.wire.dev), 0);
	EQ(end.readable, 0);
	out8(r, FCR, 7);
	out8(r, IER, 1);
	EQ(end.wire.room(end.wire.dev), 0); /* the driver may not be done clearing the FIFOs */
	rig_advance(r, SETTLE_NS);
	EQ(end.readable, 1);
	EQ(type("root"), 4);
	rig_free(r);
}

TEST(serial_polling_for_input_counts_as_listening)
{
	struct rig *r = serial_rig();

	for (int i = 0; i < 16; i++)
		EQ(in8(r, LSR), 0x60);
	EQ(end.readable, 1);
	EQ(end.wire.room(end.wire.dev), 1); /* FIFOs are off */
	EQ(type("ok"), 1);
	EQ(in8(r, LSR), 0x61);
	EQ(in8(r, RBR), 'o');
	EQ(end.readable, 2);
	EQ(type("k"), 1);
	EQ(in8(r, RBR), 'k');
	rig_free(r);
}

TEST(serial_loopback_turns_output_into_input)
{
	struct rig *r = serial_rig();

	out8(r, FCR, 1);
	out8(r, MCR, 0x10);
	for (int i = 0; i < 17; i++)
		out8(r, THR, (u8)i);
	EQ(end.n, 0);
	EQ(in8(r, LSR), 0x63); /* and the seventeenth overran */
	EQ(in8(r, LSR), 0x61);
	for (int i = 0; i < 16; i++)
		EQ(in8(r, RBR), i);
	EQ(in8(r, LSR), 0x60);
	rig_free(r);
}

TEST(serial_lone_receiver_overrun_keeps_the_new_byte)
{
	struct rig *r = serial_rig();

	out8(r, MCR, 0x10);
	out8(r, THR, 1), out8(r, THR, 2);
	EQ(in8(r, LSR), 0x63);
	EQ(in8(r, RBR), 2);
	EQ(in8(r, LSR), 0x60);
	rig_free(r);
}

TEST(serial_modem_lines_and_their_deltas)
{
	struct rig *r = serial_rig();

	out8(r, MCR, 0x10); /* loopback: all four inputs fall */
	EQ(in8(r, MSR), 0x0b);
	EQ(in8(r, MSR), 0x00);
	out8(r, MCR, 0x14); /* OUT1 is RI: its rise is no event */
	EQ(in8(r, MSR), 0x40);
	out8(r, MCR, 0x10); /* its fall is */
	EQ(in8(r, MSR), 0x04);
	out8(r, MCR, 0x1f);
	EQ(in8(r, MSR), 0xfb);
	rig_free(r);
}

TEST(serial_modem_interrupt_is_the_last_in_line)
{
	struct rig *r = open_rig();

	out8(r, IER, 0x0f);
	out8(r, MCR, 0x1b), out8(r, MCR, 0x19);
	type("");
	EQ(in8(r, IIR), 0xc2);
	EQ(in8(r, IIR), 0xc0);
	EQ(r->line[0], 0); /* OUT2 is cut off in loopback */
	in8(r, MSR);
	EQ(in8(r, IIR), 0xc1);
	rig_free(r);
}

TEST(serial_break_comes_with_its_character)
{
	struct rig *r = open_rig();

	type("a");
	end.wire.break_in(end.wire.dev);
	EQ(in8(r, LSR), 0xe1); /* an error, but not at the top of the FIFO */
	EQ(r->line[0], 0);
	EQ(in8(r, RBR), 'a');
	EQ(r->line[0], 1);
	EQ(in8(r, IIR), 0xc6);
	EQ(in8(r, LSR), 0xf1);
	EQ(in8(r, LSR), 0x61);
	EQ(in8(r, RBR), 0);
	EQ(in8(r, LSR), 0x60);
	rig_free(r);
}

TEST(serial_out2_gates_the_interrupt)
{
	struct rig *r = serial_rig();

	out8(r, IER, 2);
	EQ(r->line[0], 0);
	EQ(in8(r, IIR), 2);
	out8(r, IER, 0), out8(r, IER, 2);
	out8(r, MCR, 8);
	EQ(r->line[0], 1);
	rig_free(r);
}

TEST(serial_divisor_latch_hides_data_and_ier)
{
	struct rig *r = open_rig();

	out8(r, LCR, 0x83);
	out8(r, RBR, 0x34), out8(r, IER, 0x12);
	EQ(in8(r, RBR), 0x34);
	EQ(in8(r, IER), 0x12);
	EQ(end.n, 0);
	out8(r, LCR, 3);
	EQ(in8(r, IER), 5);
	rig_free(r);
}

TEST(serial_fcr_clears_and_switches)
{
	struct rig *r = open_rig();

	type("abc");
	out8(r, FCR, 0x83);
	EQ(in8(r, LSR), 0x60);
	rig_advance(r, SETTLE_NS);
	EQ(type("abc"), 3);
	out8(r, FCR, 0);
	EQ(in8(r, LSR), 0x60);
	EQ(in8(r, IIR), 1);
	rig_advance(r, SETTLE_NS);
	EQ(end.wire.room(end.wire.dev), 1);
	out8(r, FCR, 0xc0); /* without bit 0 nothing else is programmed */
	EQ(in8(r, IIR), 1);
	rig_free(r);
}

TEST(serial_nothing_plugged_in)
{
	struct rig *r = rig_new(&serial_ops);

	EQ(in8(r, MSR), 0);
	out8(r, THR, 'x');
	EQ(in8(r, LSR), 0x60);
	rig_free(r);
}

TEST(serial_saved_timeout_still_comes)
{
	struct rig *r = open_rig();
	struct state saved;

	type("a");
	rig_save(r, &saved);
	rig_reset(r);
	EQ(rig_load(r, &saved), 0);
	rig_advance(r, NS_PER_SEC / 1000);
	EQ(r->line[0], 1);
	EQ(in8(r, IIR), 0xcc);
	state_free(&saved);
	rig_free(r);
}

TEST(serial_saved_interrupt_is_there_after_loading)
{
	struct rig *r = open_rig();
	struct state saved;

	type("12345678");
	EQ(r->line[0], 1);
	rig_save(r, &saved);
	rig_free(r);
	r = serial_rig();
	EQ(r->line[0], 0);
	EQ(rig_load(r, &saved), 0);
	EQ(r->line[0], 1);
	for (unsigned i = 0; i < 8; i++)
		EQ(in8(r, RBR), '1' + i);
	EQ(r->line[0], 0);
	rig_advance(r, SETTLE_NS);
	type("abcdefgh"); /* and the next one comes */
	EQ(r->line[0], 1);
	state_free(&saved);
	rig_free(r);
}
