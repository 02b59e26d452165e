/* debug.c - ports for firmware, tests and benchmarks, one region each:
 *   debugcon    402h  text from SeaBIOS and OVMF; reads E9h, by which they know it is there
 *   post         80h  power-on self-test code; also the port that delays are made with
 *   debug_exit   F4h  (and 501h) ends mvm with status (value << 1 | 1)
 *   boot_timer  a page; byte 123 written to its start says "guest ready"
 *
 * Thread: vCPUs, under machine.lock.
 * Sources: QEMU documentation, "isa-debugcon", "isa-debug-exit"; Firecracker documentation, boot
 * timer. */
#include "chipset.h"

/* --- debugcon ------------------------------------------------------------------------------- */
enum { DEBUGCON_ID = 0xe9, LINE_BYTES = 120, LINES_MOST = 1000 /* a second */ };

struct debugcon {
	struct device dev;
	struct chardev *wire; /* borrowed; NULL: whole lines go to the log */
	struct debugcon_state {
		u8 line[LINE_BYTES]; /* not yet logged; printable */
		u8 len;
	} s;
};

static struct debugcon *debugcon_of(struct device *dev)
{
	return container_of(dev, struct debugcon, dev);
}

static void debugcon_log(struct debugcon *d, u8 byte)
{
	bool printable = byte >= ' ' && byte <= '~';

	if (byte != '\n' && byte != '\r')
		d->s.line[d->s.len++] = printable ? byte : '?';
	if (d->s.len && (byte == '\n' || d->s.len == LINE_BYTES)) {
		log_limited(LOG_DBG, LINES_MOST, d->dev.id, "%.*s", d->s.len,
			    (const char *)d->s.line);
		d->s.len = 0;
	}
}

static u64 debugcon_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	return DEBUGCON_ID;
}

/* Debug text has no flow control: what the host end cannot take is gone. */
static void debugcon_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct debugcon *d = debugcon_of(dev);
	u8 byte = (u8)val;

	if (d->wire && d->wire->write)
		d->wire->write(d->wire->ctx, &byte, 1);
	else
		debugcon_log(d, byte);
}

static int debugcon_init(struct device *dev, struct err *e)
{
	debugcon_of(dev)->wire = dev->arg;
	return 0;
}

static void debugcon_reset(struct device *dev)
{
	memset(&debugcon_of(dev)->s, 0, sizeof debugcon_of(dev)->s);
}

static void debugcon_state(struct device *dev, struct state *st)
{
	struct debugcon *d = debugcon_of(dev);

	st_bytes(st, "line", d->s.line, sizeof d->s.line);
	st_u8(st, "len", &d->s.len);
	st_check(st, d->s.len < LINE_BYTES, "len");
}

const struct device_ops debugcon_ops = {
	.name = "debugcon",
	.version = 1,
	.bytes = sizeof(struct debugcon),
	.access_max = 1,
	.init = debugcon_init,
	.read = debugcon_read,
	.write = debugcon_write,
	.reset = debugcon_reset,
	.state = debugcon_state,
	.state_off = offsetof(struct debugcon, s),
	.state_len = sizeof(struct debugcon_state),
};

/* --- POST code ------------------------------------------------------------------------------ */
struct post {
	struct device dev;
	struct post_state {
		u8 code;
	} s;
};

static u64 post_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	return container_of(dev, struct post, dev)->s.code;
}

/* Kernels write here to waste a microsecond: only a change is worth a line. */
static void post_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	struct post *p = container_of(dev, struct post, dev);

	if ((u8)val != p->s.code)
		log_guest(dev->id, "code %02x", (unsigned)val);
	p->s.code = (u8)val;
}

static void post_reset(struct device *dev)
{
	container_of(dev, struct post, dev)->s.code = 0;
}

static void post_state(struct device *dev, struct state *st)
{
	st_u8(st, "code", &container_of(dev, struct post, dev)->s.code);
}

const struct device_ops post_ops = {
	.name = "post",
	.version = 1,
	.bytes = sizeof(struct post),
	.access_max = 1,
	.read = post_read,
	.write = post_write,
	.reset = post_reset,
	.state = post_state,
	.state_off = offsetof(struct post, s),
	.state_len = sizeof(struct post_state),
};

/* --- the two without state ------------------------------------------------------------------ */
enum { BOOT_READY = 123 };

static void stateless_reset(struct device *dev)
{
}

static void stateless_state(struct device *dev, struct state *st)
{
}

static u64 debug_exit_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	return 0;
}

static void debug_exit_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	dev->request(dev->request_ctx, DEV_DEBUG_EXIT, (u32)val);
}

const struct device_ops debug_exit_ops = {
	.name = "debug_exit",
	.version = 1,
	.bytes = sizeof(struct device),
	.access_max = 4,
	.read = debug_exit_read,
	.write = debug_exit_write,
	.reset = stateless_reset,
	.state = stateless_state,
};

static u64 boot_timer_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	return 0;
}

static void boot_timer_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	if (off == 0 && (u8)val == BOOT_READY)
		dev->request(dev->request_ctx, DEV_BOOT_MARK, 0);
}

const struct device_ops boot_timer_ops = {
	.name = "boot_timer",
	.version = 1,
	.bytes = sizeof(struct device),
	.access_max = 8,
	.read = boot_timer_read,
	.write = boot_timer_write,
	.reset = stateless_reset,
	.state = stateless_state,
};
