/* serial.c - 16550A UART: region 0 is its eight ports.
 *
 * Owns both FIFOs, the interrupt logic and the modem lines; what is plugged in is a struct chardev.
 * The transmitter is as fast as the chardev: a byte leaves while the guest writes it, and when the
 * host cannot take it THRE stays low until it can, so output neither blocks the guest nor gets
 * lost.  Input waits on the host until a FIFO has room and the guest listens (it enabled receive
 * interrupts, or reads LSR over and over), and for a moment after the guest has reprogrammed the
 * port: a driver clears the FIFOs when it opens the port, and what was typed or piped in while the
 * guest booted must survive that.
 *
 * Thread: vCPUs (registers), loop (timeout, chardev); all under machine.lock.
 * Source: National PC16550D data sheet, "Registers", "FIFO Interrupt Mode Operation".
 * Departures: no line speed on output; parity and framing errors never happen on our wire. */
#include "chipset.h"

enum { FIFO = 16, BAUD_CLOCK_HZ = 1843200, CLOCKS_PER_BIT = 16, TIMEOUT_CHARS = 4 };

/* LSR reads in a row, with nothing else between, that mean "waits for input".  A transmit loop
 * never gets there: it finds THRE high and writes, or low and then it is not counted. */
enum { LISTENING_POLLS = 16 };

/* What a driver may take from its first write to the last FIFO clear, when it opens the port. */
enum { SETTLE_NS = 10000000 };

/* clang-format off */
enum { RBR_THR_DLL, IER_DLM, IIR_FCR, LCR, MCR, LSR, MSR, SCR };
enum { IER_ERBFI = 1, IER_ETBEI = 2, IER_ELSI = 4, IER_EDSSI = 8 };
enum { IIR_NONE = 1, IIR_MODEM = 0, IIR_THRE = 2, IIR_DATA = 4, IIR_LINE = 6, IIR_TIMEOUT = 0xc,
       IIR_FIFOS = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4, FCR_DMA = 8, FCR_TRIGGER_SHIFT = 6 };
enum { LCR_WORD = 3, LCR_STOP = 4, LCR_PARITY = 8, LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10, MCR_BITS = 0x1f };
enum { LSR_DR = 1, LSR_OE = 2, LSR_PE = 4, LSR_FE = 8, LSR_BI = 0x10, LSR_THRE = 0x20,
       LSR_TEMT = 0x40, LSR_FIFO_ERROR = 0x80, LSR_CHAR_ERRORS = LSR_PE | LSR_FE | LSR_BI };
enum { MSR_DELTA = 0xf, MSR_TERI = 4, MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40,
       MSR_DCD = 0x80 };

struct serial {
	struct device dev;
	struct chardev *wire;      /* borrowed; NULL: nothing plugged in */
	struct loop_timer timeout; /* mirrors s.timeout_ns */
	struct loop_timer settled; /* mirrors s.settled_ns */
	struct serial_state {
		u8 ier, fcr, lcr, mcr, msr, scr;
		u16 divisor;
		u8 rx[FIFO], rx_error[FIFO]; /* a ring; errors as LSR bits, until LSR is read */
		u8 rx_head, rx_len;
		u8 tx[FIFO], tx_len; /* accepted from the guest, not yet by the host */
		u8 polls;            /* LSR reads in a row */
		bool overrun;
		bool thre;           /* the "THR empty" interrupt source */
		bool timed_out;      /* the "character timeout" source */
		bool line;           /* level of our IRQ */
		u64 timeout_ns;      /* guest time the FIFO goes stale, or TIMER_OFF */
		u64 settled_ns;      /* guest time from which input is let in */
	} s;
};
/* clang-format on */

static struct serial *serial_of(struct device *dev)
{
	return container_of(dev, struct serial, dev);
}

/* --- interrupts ----------------------------------------------------------------------------- */
static bool serial_fifos(const struct serial *u)
{
	return u->s.fcr & FCR_ENABLE;
}

static u8 serial_trigger(const struct serial *u)
{
	static const u8 level[4] = { 1, 4, 8, 14 };

	return serial_fifos(u) ? level[u->s.fcr >> FCR_TRIGGER_SHIFT] : 1;
}

static u8 serial_lsr(const struct serial *u)
{
	const struct serial_state *s = &u->s;
	u8 errors = 0, lsr = s->tx_len ? 0 : LSR_THRE | LSR_TEMT;

	for (u8 i = 0; i < s->rx_len; i++)
		errors |= s->rx_error[(s->rx_head + i) % FIFO];
	if (s->rx_len)
		lsr |= LSR_DR | s->rx_error[s->rx_head];
	if (errors && serial_fifos(u))
		lsr |= LSR_FIFO_ERROR;
	return s->overrun ? lsr | LSR_OE : lsr;
}

/* The highest-priority source, "Interrupt Control Functions". */
static u8 serial_iir(const struct serial *u)
{
	const struct serial_state *s = &u->s;

	if (s->ier & IER_ELSI && serial_lsr(u) & (LSR_OE | LSR_CHAR_ERRORS))
		return IIR_LINE;
	if (s->ier & IER_ERBFI && s->rx_len >= serial_trigger(u))
		return IIR_DATA;
	if (s->ier & IER_ERBFI && s->timed_out)
		return IIR_TIMEOUT;
	if (s->ier & IER_ETBEI && s->thre)
		return IIR_THRE;
	if (s->ier & IER_EDSSI && s->msr & MSR_DELTA)
		return IIR_MODEM;
	return IIR_NONE;
}

/* On a PC, OUT2 opens the gate between INTRPT and the bus; loopback forces the pin inactive. */
static void serial_update_irq(struct serial *u)
{
	bool gate = (u->s.mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
	bool line = gate && serial_iir(u) != IIR_NONE;

	if (line != u->s.line)
		irq_set(u->dev.irq[0], line);
	u->s.line = line;
}

/* --- receiver ------------------------------------------------------------------------------- */
static u64 serial_char_ns(const struct serial *u)
{
	u8 lcr = u->s.lcr;
	u32 bits = 1 + 5 + (lcr & LCR_WORD) + !!(lcr & LCR_PARITY) + (lcr & LCR_STOP ? 2 : 1);

	return NS_PER_SEC * CLOCKS_PER_BIT * MAX(u->s.divisor, 1) * bits / BAUD_CLOCK_HZ;
}

/* A byte came or was read: four quiet character times from now the rest is stale. */
static void serial_restart_timeout(struct serial *u)
{
	bool wait = serial_fifos(u) && u->s.rx_len;

	u->s.timed_out = false;
	u->s.timeout_ns = TIMER_OFF;
	if (wait)
		u->s.timeout_ns = loop_now_ns(u->dev.loop) + TIMEOUT_CHARS * serial_char_ns(u);
	timer_arm(&u->timeout, u->s.timeout_ns);
}

static void serial_timeout(void *arg)
{
	struct serial *u = arg;

	u->s.timed_out = true;
	u->s.timeout_ns = TIMER_OFF;
	serial_update_irq(u);
}

static void serial_take(struct serial *u, u8 byte, u8 error)
{
	struct serial_state *s = &u->s;
	u8 depth = serial_fifos(u) ? FIFO : 1;
	u8 at;

	if (s->rx_len == depth) {
		s->overrun = true;
		if (depth == FIFO)
			return; /* a full FIFO keeps the old bytes, a lone RBR the new one */
		s->rx_len = 0;
	}
	at = (s->rx_head + s->rx_len++) % FIFO;
	s->rx[at] = byte;
	s->rx_error[at] = error;
	serial_restart_timeout(u);
}

static u8 serial_read_rbr(struct serial *u)
{
	struct serial_state *s = &u->s;
	u8 byte = s->rx[s->rx_head]; /* an empty receiver repeats the last byte */

	if (!s->rx_len)
		return byte;
	s->rx_len--;
	if (s->rx_len)
		s->rx_head = (s->rx_head + 1) % FIFO;
	else
		s->rx_error[s->rx_head] = 0;
	serial_restart_timeout(u);
	return byte;
}

static bool serial_listening(const struct serial *u)
{
	return u->s.ier & IER_ERBFI || u->s.polls == LISTENING_POLLS;
}

static size_t serial_room(struct device *dev)
{
	struct serial *u = serial_of(dev);

	if (u->s.mcr & MCR_LOOP || !serial_listening(u) || loop_now_ns(dev->loop) < u->s.settled_ns)
		return 0;
	return (serial_fifos(u) ? FIFO : 1u) - u->s.rx_len;
}

static void serial_call_for_input(struct serial *u)
{
	if (u->wire && u->wire->readable && serial_room(&u->dev))
		u->wire->readable(u->wire->ctx);
}

static void serial_settled(void *arg)
{
	serial_call_for_input(arg);
}

/* The port is being set up: no input for now. */
static void serial_hold_input(struct serial *u)
{
	u->s.settled_ns = loop_now_ns(u->dev.loop) + SETTLE_NS;
	timer_arm(&u->settled, u->s.settled_ns);
}

static void serial_receive(struct device *dev, const u8 *buf, size_t n)
{
	struct serial *u = serial_of(dev);

	ASSERT(n <= serial_room(dev));
	while (n--)
		serial_take(u, *buf++, 0);
	serial_update_irq(u);
}

static void serial_break_in(struct device *dev)
{
	struct serial *u = serial_of(dev);

	if (u->s.mcr & MCR_LOOP)
		return;
	serial_take(u, 0, LSR_BI);
	serial_update_irq(u);
}

/* --- transmitter ---------------------------------------------------------------------------- */
static size_t serial_send(struct serial *u)
{
	struct serial_state *s = &u->s;

	if (s->mcr & MCR_LOOP) {
		for (u8 i = 0; i < s->tx_len; i++)
			serial_take(u, s->tx[i], 0);
		return s->tx_len;
	}
	return u->wire && u->wire->write ? u->wire->write(u->wire->ctx, s->tx, s->tx_len)
					 : s->tx_len;
}

static void serial_transmit(struct serial *u)
{
	struct serial_state *s = &u->s;
	size_t sent;

	if (!s->tx_len)
		return;
	sent = serial_send(u);
	ASSERT(sent <= s->tx_len);
	s->tx_len -= (u8)sent;
	memmove(s->tx, s->tx + sent, s->tx_len);
	s->thre = !s->tx_len;
}

static void serial_writable(struct device *dev)
{
	struct serial *u = serial_of(dev);

	serial_transmit(u);
	serial_update_irq(u);
}

static void serial_write_thr(struct serial *u, u8 byte)
{
	struct serial_state *s = &u->s;
	u8 depth = serial_fifos(u) ? FIFO : 1;

	s->thre = false;
	if (s->tx_len == depth) /* the guest did not look at THRE: the last byte is overwritten */
		s->tx_len--;
	s->tx[s->tx_len++] = byte;
	serial_transmit(u);
}

/* --- control and modem lines ---------------------------------------------------------------- */
static void serial_clear_rx(struct serial *u)
{
	memset(u->s.rx_error, 0, sizeof u->s.rx_error);
	u->s.rx_len = 0;
	serial_restart_timeout(u);
}

static void serial_clear_tx(struct serial *u)
{
	u->s.tx_len = 0;
	u->s.thre = true;
}

static void serial_write_fcr(struct serial *u, u8 val)
{
	bool toggled = (u->s.fcr ^ val) & FCR_ENABLE;

	serial_hold_input(u);
	/* Bits 1-7 are not programmed unless bit 0 is set with them. */
	u->s.fcr = val & FCR_ENABLE ? val & ~(FCR_CLEAR_RX | FCR_CLEAR_TX) : 0;
	if (toggled || (val & FCR_ENABLE && val & FCR_CLEAR_RX))
		serial_clear_rx(u);
	if (toggled || (val & FCR_ENABLE && val & FCR_CLEAR_TX))
		serial_clear_tx(u);
}

static void serial_write_ier(struct serial *u, u8 val)
{
	u8 enabled = val & ~u->s.ier;

	u->s.ier = val & 0xf;
	if (enabled & IER_ERBFI)
		serial_hold_input(u);
	if (enabled & IER_ETBEI && !u->s.tx_len) /* an empty THR interrupts as soon as it may */
		u->s.thre = true;
}

/* The levels of CTS, DSR, RI and DCD: a ready peer, or in loopback our own outputs. */
static u8 serial_modem_inputs(const struct serial *u)
{
	u8 mcr = u->s.mcr;

	if (!(mcr & MCR_LOOP))
		return u->wire ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
	return (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
	       (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void serial_update_modem(struct serial *u)
{
	u8 now = serial_modem_inputs(u), old = u->s.msr & ~MSR_DELTA;
	u8 delta = (now ^ old) >> 4;

	if (now & MSR_RI) /* TERI: only the trailing edge of RI counts */
		delta &= ~MSR_TERI;
	u->s.msr = now | (u->s.msr & MSR_DELTA) | delta;
}

/* --- registers ------------------------------------------------------------------------------ */
static u8 serial_read_lsr(struct serial *u)
{
	u8 lsr = serial_lsr(u);

	u->s.overrun = false;
	u->s.rx_error[u->s.rx_head] = 0;
	if (lsr & LSR_THRE && u->s.polls < LISTENING_POLLS)
		u->s.polls++;
	return lsr;
}

static u8 serial_read_iir(struct serial *u)
{
	u8 iir = serial_iir(u);

	if (iir == IIR_THRE)
		u->s.thre = false;
	return iir | (serial_fifos(u) ? IIR_FIFOS : 0);
}

static u8 serial_read_msr(struct serial *u)
{
	u8 msr = u->s.msr;

	u->s.msr &= ~MSR_DELTA;
	return msr;
}

static u8 serial_read_reg(struct serial *u, u64 off)
{
	bool dlab = u->s.lcr & LCR_DLAB;

	switch (off) {
	case RBR_THR_DLL: return dlab ? (u8)u->s.divisor : serial_read_rbr(u);
	case IER_DLM: return dlab ? u->s.divisor >> 8 : u->s.ier;
	case IIR_FCR: return serial_read_iir(u);
	case LCR: return u->s.lcr;
	case MCR: return u->s.mcr;
	case LSR: return serial_read_lsr(u);
	case MSR: return serial_read_msr(u);
	default: return u->s.scr;
	}
}

static void serial_write_reg(struct serial *u, u64 off, u8 val)
{
	bool dlab = u->s.lcr & LCR_DLAB;

	switch (off) {
	case RBR_THR_DLL:
		if (dlab)
			u->s.divisor = (u->s.divisor & 0xff00) | val;
		else
			serial_write_thr(u, val);
		break;
	case IER_DLM:
		if (dlab)
			u->s.divisor = (u8)u->s.divisor | val << 8;
		else
			serial_write_ier(u, val);
		break;
	case IIR_FCR: serial_write_fcr(u, val); break;
	case LCR:
		if (val & ~u->s.lcr & LCR_BREAK && u->s.mcr & MCR_LOOP)
			serial_take(u, 0, LSR_BI); /* a break on the real wire has no reader */
		u->s.lcr = val;
		serial_hold_input(u);
		break;
	case MCR:
		u->s.mcr = val & MCR_BITS;
		serial_update_modem(u);
		break;
	case SCR: u->s.scr = val; break;
	default: /* LSR is for factory tests; MSR is read-only */ break;
	}
}

/* After any access: the interrupt output, and the host hears of room that was not there before. */
static void serial_settle(struct serial *u, size_t room_before)
{
	serial_update_irq(u);
	if (!room_before)
		serial_call_for_input(u);
}

static u64 serial_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	struct serial *u = serial_of(dev);
	size_t room = serial_room(dev);
	u8 val;

	if (off != LSR && off != RBR_THR_DLL)
		u->s.polls = 0;
	val = serial_read_reg(u, off);
	serial_settle(u, room);
	return val;
}

static void serial_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct serial *u = serial_of(dev);
	size_t room = serial_room(dev);

	u->s.polls = 0;
	serial_write_reg(u, off, (u8)val);
	serial_settle(u, room);
}

/* --- life ----------------------------------------------------------------------------------- */
static void serial_reset(struct device *dev)
{
	struct serial *u = serial_of(dev);
	bool line = u->s.line;

	memset(&u->s, 0, sizeof u->s);
	u->s.divisor = 12; /* 9600 baud, as a PC's firmware leaves it */
	u->s.timeout_ns = TIMER_OFF;
	u->s.line = line;
	serial_update_modem(u);
	u->s.msr &= ~MSR_DELTA;
	timer_cancel(&u->timeout);
	timer_cancel(&u->settled);
	serial_update_irq(u);
}

static int serial_init(struct device *dev, struct err *e)
{
	struct serial *u = serial_of(dev);

	u->wire = dev->arg;
	if (u->wire) {
		u->wire->room = serial_room;
		u->wire->receive = serial_receive;
		u->wire->break_in = serial_break_in;
		u->wire->writable = serial_writable;
		u->wire->dev = dev;
	}
	timer_init(&u->timeout, dev->loop, serial_timeout, u);
	timer_init(&u->settled, dev->loop, serial_settled, u);
	serial_reset(dev);
	return 0;
}

static void serial_free(struct device *dev)
{
	struct serial *u = serial_of(dev);

	timer_cancel(&u->timeout);
	timer_cancel(&u->settled);
	if (u->wire)
		u->wire->dev = NULL;
}

static void serial_state(struct device *dev, struct state *st)
{
	struct serial *u = serial_of(dev);
	struct serial_state *s = &u->s;

	st_u8(st, "ier", &s->ier);
	st_u8(st, "fcr", &s->fcr);
	st_u8(st, "lcr", &s->lcr);
	st_u8(st, "mcr", &s->mcr);
	st_u8(st, "msr", &s->msr);
	st_u8(st, "scr", &s->scr);
	st_u16(st, "divisor", &s->divisor);
	st_bytes(st, "rx", s->rx, sizeof s->rx);
	st_bytes(st, "rx_error", s->rx_error, sizeof s->rx_error);
	st_u8(st, "rx_head", &s->rx_head);
	st_u8(st, "rx_len", &s->rx_len);
	st_bytes(st, "tx", s->tx, sizeof s->tx);
	st_u8(st, "tx_len", &s->tx_len);
	st_u8(st, "polls", &s->polls);
	st_bool(st, "overrun", &s->overrun);
	st_bool(st, "thre", &s->thre);
	st_bool(st, "timed_out", &s->timed_out);
	st_bool(st, "line", &s->line);
	st_u64(st, "timeout_ns", &s->timeout_ns);
	st_u64(st, "settled_ns", &s->settled_ns);
	st_check(st, s->rx_head < FIFO && s->rx_len <= FIFO && s->tx_len <= FIFO, "fifo");
	st_check(st, serial_fifos(u) || (s->rx_len <= 1 && s->tx_len <= 1), "fifo");
	st_check(st, s->polls <= LISTENING_POLLS, "polls");
	if (st->loading && !st->error) {
		irq_set(dev->irq[0], s->line);
		timer_arm(&u->timeout, s->timeout_ns);
		timer_arm(&u->settled, s->settled_ns); /* once more if past: it calls for input */
	}
}

const struct device_ops serial_ops = {
	.name = "serial",
	.version = 1,
	.bytes = sizeof(struct serial),
	.access_max = 1,
	.init = serial_init,
	.free = serial_free,
	.read = serial_read,
	.write = serial_write,
	.reset = serial_reset,
	.state = serial_state,
	.state_off = offsetof(struct serial, s),
	.state_len = sizeof(struct serial_state),
};
