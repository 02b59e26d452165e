/* i8042.c - keyboard controller with a keyboard and an empty auxiliary port: region 0 is port 60h
 * (data), region 1 port 64h (command, status), region 2 port 92h (system control port A).
 *
 * There is one output buffer.  A controller reply goes straight into it; bytes of the keyboard
 * wait in the keyboard's own queue until it is free and the keyboard's clock is enabled, and each
 * one lowers and raises IRQ1.  The auxiliary port answers as a controller without one: the loop
 * command comes back on the keyboard's side and the port test fails, which an operating system
 * understands at once, where silence would cost it half a second.
 *
 * Thread: vCPUs (registers), loop (keys); all under machine.lock.
 * Sources: IBM PS/2 Technical Reference, "Keyboard and Auxiliary Device Controller", "Keyboard
 * (101- and 102-Key)"; Intel 82371FB, "Port 92". */
#include "chipset.h"

enum { REGION_DATA, REGION_CMD, REGION_PORT_A };
enum { LINE_KBD, LINE_AUX };
enum { KBD_QUEUE = 32, RAM_BYTES = 32 };

/* clang-format off */
enum { STS_OBF = 1, STS_SYS = 4, STS_CMD = 8, STS_UNLOCKED = 0x10, STS_AUX = 0x20,
       STS_TIMEOUT = 0x40 };
enum { CTR_KBD_INT = 1, CTR_AUX_INT = 2, CTR_SYS = 4, CTR_KBD_OFF = 0x10, CTR_AUX_OFF = 0x20,
       CTR_TRANSLATE = 0x40 };
enum { OUT_NOT_RESET = 1, OUT_A20 = 2, OUT_KBD_OBF = 0x10, OUT_AUX_OBF = 0x20 };
enum { PORT_A_RESET = 1, PORT_A_A20 = 2 };

enum {
	CMD_READ_RAM = 0x20, CMD_WRITE_RAM = 0x60, CMD_PASSWORD_TEST = 0xa4, CMD_AUX_OFF = 0xa7,
	CMD_AUX_ON, CMD_AUX_TEST, CMD_SELF_TEST, CMD_KBD_TEST, CMD_KBD_OFF = 0xad, CMD_KBD_ON,
	CMD_READ_INPUT = 0xc0, CMD_READ_OUTPUT = 0xd0, CMD_WRITE_OUTPUT, CMD_WRITE_KBD_OBF,
	CMD_WRITE_AUX_OBF, CMD_WRITE_AUX, CMD_A20_OFF = 0xdd, CMD_A20_ON = 0xdf, CMD_PULSE = 0xf0,
};
enum { SELF_TEST_OK = 0x55, PORT_OK = 0, PORT_CLOCK_LOW = 1, NO_PASSWORD = 0xf1,
       INPUT_UNLOCKED = 0x80 };

enum {
	KBD_SET_LEDS = 0xed, KBD_ECHO = 0xee, KBD_SCAN_SET = 0xf0, KBD_IDENTIFY = 0xf2,
	KBD_TYPEMATIC, KBD_ENABLE, KBD_DEFAULT_OFF, KBD_DEFAULT, KBD_ALL_KEYS_FIRST,
	KBD_ALL_KEYS_LAST = 0xfa, KBD_KEY_FIRST, KBD_KEY_LAST = 0xfd, KBD_RESEND, KBD_RESET,
};
enum { KBD_ACK = 0xfa, KBD_BAT_OK = 0xaa, KBD_NAK = 0xfe, KBD_BREAK = 0xf0, KBD_OVERRUN = 0 };

struct i8042 {
	struct device dev;
	struct i8042_state {
		u8 ram[RAM_BYTES];  /* byte 0 is the command byte (CTR) */
		u8 command;         /* controller command that waits for its data byte, or 0 */
		u8 status;          /* OBF, CMD, AUX and TIMEOUT of the status register */
		u8 data;            /* output buffer */
		u8 outport;         /* NOT_RESET and A20 */
		u8 port_a;          /* bit 0 as written, for its rising edge */
		bool break_prefix;  /* F0h has been seen and is folded into the next code */
		bool line[2];
		/* the keyboard */
		u8 queue[KBD_QUEUE];
		u8 head, len;
		u8 kbd_command;     /* keyboard command that waits for its argument, or 0 */
		u8 last;            /* for RESEND */
		u8 scan_set;        /* 1 to 3 */
		bool scanning;
	} s;
};
/* clang-format on */

static struct i8042 *i8042_of(struct device *dev)
{
	return container_of(dev, struct i8042, dev);
}

/* --- output buffer -------------------------------------------------------------------------- */
static void i8042_set_line(struct i8042 *k, int which, bool level)
{
	if (level != k->s.line[which])
		irq_set(k->dev.irq[which], level);
	k->s.line[which] = level;
}

/* The interrupts are the buffer-full signals, let through by CTR. */
static void i8042_update_irq(struct i8042 *k)
{
	bool full = k->s.status & STS_OBF, aux = k->s.status & STS_AUX;
	u8 ctr = k->s.ram[0];

	i8042_set_line(k, LINE_KBD, full && !aux && ctr & CTR_KBD_INT);
	i8042_set_line(k, LINE_AUX, full && aux && ctr & CTR_AUX_INT);
}

/* Fill the output buffer; an unread byte is overwritten, so its interrupt is withdrawn first. */
static void i8042_put(struct i8042 *k, u8 byte, u8 flags)
{
	k->s.status &= ~(STS_OBF | STS_AUX | STS_TIMEOUT);
	i8042_update_irq(k);
	k->s.data = byte;
	k->s.status |= STS_OBF | flags;
	i8042_update_irq(k);
}

/* Scan set 2 to set 1, as the controller's ROM has it: index is the set 2 code; codes from 0x85 up
 * pass unchanged.  A break code is F0 and the make code in set 2, bit 7 set in set 1. */
/* clang-format off */
static const u8 set2_to_set1[0x85] = {
	0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58,
	0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
	0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a,
	0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
	0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c,
	0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
	0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e,
	0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
	0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60,
	0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
	0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e,
	0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
	0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b,
	0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
	0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45,
	0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
	0x80, 0x81, 0x82, 0x41, 0x54,
};
/* clang-format on */

/* The next byte of the keyboard into the buffer, if both are willing. */
static void i8042_pump(struct i8042 *k)
{
	struct i8042_state *s = &k->s;

	while (s->len && !(s->status & STS_OBF) && !(s->ram[0] & CTR_KBD_OFF)) {
		u8 code = s->queue[s->head];

		s->head = (s->head + 1) % KBD_QUEUE;
		s->len--;
		if (!(s->ram[0] & CTR_TRANSLATE)) {
			i8042_put(k, code, 0);
		} else if (code == KBD_BREAK) {
			s->break_prefix = true;
		} else {
			code = code < sizeof set2_to_set1 ? set2_to_set1[code] : code;
			i8042_put(k, s->break_prefix ? code | 0x80 : code, 0);
			s->break_prefix = false;
		}
	}
}

/* --- keyboard ------------------------------------------------------------------------------- */
/* The last place is kept for the overrun code, which then stands for all that was lost. */
static void kbd_send(struct i8042 *k, u8 byte)
{
	struct i8042_state *s = &k->s;

	if (s->len == KBD_QUEUE)
		return;
	if (s->len == KBD_QUEUE - 1)
		byte = KBD_OVERRUN;
	s->queue[(s->head + s->len++) % KBD_QUEUE] = byte;
}

static void kbd_reply(struct i8042 *k, u8 byte)
{
	k->s.last = byte;
	kbd_send(k, byte);
}

static void kbd_defaults(struct i8042 *k, bool scanning)
{
	k->s.scan_set = 2;
	k->s.scanning = scanning;
	k->s.kbd_command = 0;
	k->s.head = k->s.len = 0;
	k->s.break_prefix = false;
}

static void kbd_argument(struct i8042 *k, u8 command, u8 val)
{
	k->s.kbd_command = 0;
	if (command == KBD_SCAN_SET && val > 3)
		return kbd_reply(k, KBD_NAK);
	kbd_reply(k, KBD_ACK);
	if (command == KBD_SCAN_SET && val == 0)
		kbd_reply(k, k->s.scan_set);
	else if (command == KBD_SCAN_SET)
		k->s.scan_set = val;
}

static void kbd_command(struct i8042 *k, u8 val)
{
	switch (val) {
	case KBD_SET_LEDS: /* nobody sees them; the argument is acknowledged */
	case KBD_SCAN_SET:
	case KBD_TYPEMATIC:
	case KBD_KEY_FIRST ... KBD_KEY_LAST: k->s.kbd_command = val; return kbd_reply(k, KBD_ACK);
	case KBD_ALL_KEYS_FIRST ... KBD_ALL_KEYS_LAST: /* scan set 3: make, break, typematic */
		return kbd_reply(k, KBD_ACK);
	case KBD_ECHO: return kbd_reply(k, KBD_ECHO);
	case KBD_IDENTIFY: /* an MF2 keyboard */
		kbd_reply(k, KBD_ACK);
		kbd_reply(k, 0xab);
		return kbd_reply(k, 0x83);
	case KBD_ENABLE: k->s.scanning = true; return kbd_reply(k, KBD_ACK);
	case KBD_DEFAULT_OFF:
	case KBD_DEFAULT: kbd_defaults(k, val == KBD_DEFAULT); return kbd_reply(k, KBD_ACK);
	case KBD_RESEND: return kbd_send(k, k->s.last);
	case KBD_RESET:
		kbd_defaults(k, true);
		kbd_reply(k, KBD_ACK);
		return kbd_reply(k, KBD_BAT_OK);
	default: return kbd_reply(k, KBD_NAK);
	}
}

/* A byte for the keyboard also turns its clock on; a command in an argument's place is one. */
static void kbd_write(struct i8042 *k, u8 val)
{
	k->s.ram[0] &= ~CTR_KBD_OFF;
	if (k->s.kbd_command && val < KBD_SET_LEDS)
		kbd_argument(k, k->s.kbd_command, val);
	else
		kbd_command(k, val);
}

/* Make and break of left Ctrl, left Alt and Delete, in each scan set. */
void i8042_ctrl_alt_del(struct device *dev)
{
	static const u8 set1[] = { 0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d };
	static const u8 set2[] = {
		0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14
	};
	static const u8 set3[] = { 0x11, 0x19, 0x64, 0xf0, 0x64, 0xf0, 0x19, 0xf0, 0x11 };
	static const struct {
		const u8 *code;
		size_t n;
	} keys[] = { { set1, sizeof set1 }, { set2, sizeof set2 }, { set3, sizeof set3 } };
	struct i8042 *k = i8042_of(dev);
	int set = k->s.scan_set - 1;

	if (!k->s.scanning)
		return;
	for (size_t i = 0; i < keys[set].n; i++)
		kbd_send(k, keys[set].code[i]);
	i8042_pump(k);
}

/* --- controller ----------------------------------------------------------------------------- */
static void i8042_set_a20(struct i8042 *k, bool on)
{
	if (on == !!(k->s.outport & OUT_A20))
		return;
	k->s.outport ^= OUT_A20;
	k->dev.request(k->dev.request_ctx, DEV_A20, on);
}

static void i8042_pull_reset(struct i8042 *k)
{
	k->dev.request(k->dev.request_ctx, DEV_RESET, 0);
}

static u8 i8042_output_port(const struct i8042 *k)
{
	u8 full = k->s.status & STS_OBF ? (k->s.status & STS_AUX ? OUT_AUX_OBF : OUT_KBD_OBF) : 0;

	return k->s.outport | full;
}

/* The data byte that a controller command asked for. */
static void i8042_argument(struct i8042 *k, u8 command, u8 val)
{
	switch (command) {
	case CMD_WRITE_RAM ... CMD_WRITE_RAM + RAM_BYTES - 1:
		k->s.ram[command - CMD_WRITE_RAM] = val;
		break;
	case CMD_WRITE_OUTPUT:
		i8042_set_a20(k, val & OUT_A20);
		if (!(val & OUT_NOT_RESET))
			i8042_pull_reset(k);
		break;
	case CMD_WRITE_KBD_OBF:
	case CMD_WRITE_AUX_OBF: /* without an auxiliary port there is but one buffer */
		i8042_put(k, val, 0);
		break;
	case CMD_WRITE_AUX: /* nobody there */ i8042_put(k, KBD_NAK, STS_AUX | STS_TIMEOUT); break;
	}
}

static void i8042_set_ctr(struct i8042 *k, u8 set, u8 clear)
{
	k->s.ram[0] = (k->s.ram[0] | set) & ~clear;
}

static void i8042_command(struct i8042 *k, u8 val)
{
	k->s.command = 0;
	switch (val) {
	case CMD_READ_RAM ... CMD_READ_RAM + RAM_BYTES - 1:
		i8042_put(k, k->s.ram[val - CMD_READ_RAM], 0);
		break;
	case CMD_WRITE_RAM ... CMD_WRITE_RAM + RAM_BYTES - 1:
	case CMD_WRITE_OUTPUT ... CMD_WRITE_AUX: k->s.command = val; break;
	case CMD_PASSWORD_TEST: i8042_put(k, NO_PASSWORD, 0); break;
	case CMD_AUX_OFF: i8042_set_ctr(k, CTR_AUX_OFF, 0); break;
	case CMD_AUX_ON: i8042_set_ctr(k, 0, CTR_AUX_OFF); break;
	case CMD_AUX_TEST: i8042_put(k, PORT_CLOCK_LOW, 0); break;
	case CMD_SELF_TEST: /* also resets the controller */
		i8042_set_ctr(k, CTR_SYS | CTR_KBD_OFF | CTR_AUX_OFF, CTR_KBD_INT | CTR_AUX_INT);
		i8042_put(k, SELF_TEST_OK, 0);
		break;
	case CMD_KBD_TEST: i8042_put(k, PORT_OK, 0); break;
	case CMD_KBD_OFF: i8042_set_ctr(k, CTR_KBD_OFF, 0); break;
	case CMD_KBD_ON: i8042_set_ctr(k, 0, CTR_KBD_OFF); break;
	case CMD_READ_INPUT: i8042_put(k, INPUT_UNLOCKED, 0); break;
	case CMD_READ_OUTPUT: i8042_put(k, i8042_output_port(k), 0); break;
	case CMD_A20_OFF:
	case CMD_A20_ON: i8042_set_a20(k, val == CMD_A20_ON); break;
	case CMD_PULSE ... 0xff: /* low bits: output lines not to pulse; bit 0 is RESET */
		if (!(val & OUT_NOT_RESET))
			i8042_pull_reset(k);
		break;
	default: /* the controller ignores what it does not know */ break;
	}
}

/* --- ports ---------------------------------------------------------------------------------- */
static u8 i8042_read_data(struct i8042 *k)
{
	u8 byte = k->s.data;

	k->s.status &= ~(STS_OBF | STS_AUX | STS_TIMEOUT);
	return byte;
}

static void i8042_write_data(struct i8042 *k, u8 val)
{
	u8 command = k->s.command;

	k->s.status &= ~STS_CMD;
	k->s.command = 0;
	if (command)
		i8042_argument(k, command, val);
	else
		kbd_write(k, val);
}

static void i8042_write_port_a(struct i8042 *k, u8 val)
{
	bool reset = val & ~k->s.port_a & PORT_A_RESET;

	k->s.port_a = val & PORT_A_RESET;
	i8042_set_a20(k, val & PORT_A_A20);
	if (reset)
		i8042_pull_reset(k);
}

static u64 i8042_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct i8042 *k = i8042_of(dev);
	u8 val;

	if (region == REGION_PORT_A)
		return k->s.port_a | (k->s.outport & OUT_A20);
	if (region == REGION_CMD)
		return k->s.status | STS_UNLOCKED | (k->s.ram[0] & CTR_SYS);
	val = i8042_read_data(k);
	i8042_update_irq(k);
	i8042_pump(k);
	return val;
}

static void i8042_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct i8042 *k = i8042_of(dev);

	if (region == REGION_PORT_A)
		return i8042_write_port_a(k, (u8)val);
	if (region == REGION_CMD) {
		k->s.status |= STS_CMD;
		i8042_command(k, (u8)val);
	} else {
		i8042_write_data(k, (u8)val);
	}
	i8042_update_irq(k);
	i8042_pump(k);
}

/* --- life ----------------------------------------------------------------------------------- */
/* As firmware leaves it: tested, translating, keyboard interrupt on, A20 open. */
static void i8042_reset(struct device *dev)
{
	struct i8042 *k = i8042_of(dev);
	bool kbd = k->s.line[LINE_KBD], aux = k->s.line[LINE_AUX];

	i8042_set_a20(k, true);
	memset(&k->s, 0, sizeof k->s);
	k->s.line[LINE_KBD] = kbd;
	k->s.line[LINE_AUX] = aux;
	k->s.ram[0] = CTR_KBD_INT | CTR_SYS | CTR_AUX_OFF | CTR_TRANSLATE;
	k->s.outport = OUT_NOT_RESET | OUT_A20;
	kbd_defaults(k, true);
	i8042_update_irq(k);
}

static int i8042_init(struct device *dev, struct err *e)
{
	i8042_of(dev)->s.outport = OUT_A20; /* the machine starts so: nothing to tell it */
	i8042_reset(dev);
	return 0;
}

static void i8042_state(struct device *dev, struct state *st)
{
	struct i8042_state *s = &i8042_of(dev)->s;

	st_bytes(st, "ram", s->ram, sizeof s->ram);
	st_u8(st, "command", &s->command);
	st_u8(st, "status", &s->status);
	st_u8(st, "data", &s->data);
	st_u8(st, "outport", &s->outport);
	st_u8(st, "port_a", &s->port_a);
	st_bool(st, "break_prefix", &s->break_prefix);
	st_bool(st, "line_kbd", &s->line[LINE_KBD]);
	st_bool(st, "line_aux", &s->line[LINE_AUX]);
	st_bytes(st, "queue", s->queue, sizeof s->queue);
	st_u8(st, "head", &s->head);
	st_u8(st, "len", &s->len);
	st_u8(st, "kbd_command", &s->kbd_command);
	st_u8(st, "last", &s->last);
	st_u8(st, "scan_set", &s->scan_set);
	st_bool(st, "scanning", &s->scanning);
	st_check(st, s->head < KBD_QUEUE && s->len <= KBD_QUEUE, "queue");
	st_check(st, s->scan_set >= 1 && s->scan_set <= 3, "scan_set");
	for (int i = 0; i < 2 && st->loading && !st->error; i++)
		irq_set(dev->irq[i], s->line[i]);
	if (st->loading && !st->error)
		dev->request(dev->request_ctx, DEV_A20, !!(s->outport & OUT_A20));
}

const struct device_ops i8042_ops = {
	.name = "i8042",
	.version = 1,
	.bytes = sizeof(struct i8042),
	.access_max = 1,
	.init = i8042_init,
	.read = i8042_read,
	.write = i8042_write,
	.reset = i8042_reset,
	.state = i8042_state,
	.state_off = offsetof(struct i8042, s),
	.state_len = sizeof(struct i8042_state),
};
