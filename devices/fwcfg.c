/* fwcfg.c - the firmware configuration device: region 0 is ports 510h (selector) and 511h (data),
 * region 1 port 514h (address of a DMA descriptor).
 *
 * Owns the selected key, the place in its item and the upper half of a DMA address.  Reading past
 * an item's end, or an item that is not there, gives zeros.  No item can be written.  A transfer is
 * done when the write that started it is.
 *
 * Thread: vCPUs, under machine.lock; items that are files of the host's are read there and then,
 * which happens while firmware loads a kernel.
 * Source: QEMU docs/specs/fw_cfg.rst.  Departure: a transfer that is mostly beyond its item
 * fails. */

#include "fwcfg.h"

enum { REGION_SELECT, REGION_DMA };
enum { CHUNK = 4096 }; /* of a transfer: on the stack of a vCPU's thread */
/* behind an item in one transfer: bounds how long the lock is held */
enum { ZEROS_MAX = 64 << 10 };

static const u8 signature[] = "QEMU";
static const u8 version[4] = { 3 }; /* ports and DMA */
static const u8 dma_signature[FWCFG_DMA_PORTS] = "QEMU CFG";

static const struct fwcfg_item own_items[] = {
	{ .key = FWCFG_SIGNATURE, .data = signature, .len = 4 },
	{ .key = FWCFG_ID, .data = version, .len = sizeof version },
};

struct fwcfg {
	struct device dev;
	struct fwcfg_state {
		u32 at; /* place in the item; stays at its highest value */
		u32 dma_high;
		u16 key;
		u16 spare; /* 0 */
	} s;
};

static struct fwcfg *fwcfg_of(struct device *dev)
{
	return container_of(dev, struct fwcfg, dev);
}

/* --- items ------------------------------------------------------------------------------------ */
static const struct fwcfg_item *find_in(const struct fwcfg_item *item, u32 n, u16 key)
{
	for (u32 i = 0; i < n; i++)
		if (item[i].key == key)
			return &item[i];
	return NULL;
}

static const struct fwcfg_item *fwcfg_item(const struct fwcfg *f)
{
	const struct fwcfg_setup *setup = f->dev.arg;
	const struct fwcfg_item *item = find_in(own_items, ARRAY_LEN(own_items), f->s.key);

	return item || !setup ? item : find_in(setup->item, setup->n, f->s.key);
}

static u64 bytes_left(const struct fwcfg *f)
{
	const struct fwcfg_item *item = fwcfg_item(f);

	return item && item->len > f->s.at ? item->len - f->s.at : 0;
}

/* The next n bytes, and zeros where there are none. */
static void fwcfg_take(struct fwcfg *f, u8 *dst, u32 n)
{
	const struct fwcfg_item *item = fwcfg_item(f);
	u32 have = (u32)MIN(bytes_left(f), n);

	memset(dst, 0, n);
	if (have && item->data)
		memcpy(dst, item->data + f->s.at, have);
	else if (have)
		/* a file cut short: zeros */
		(void)file_read_at(item->fd, dst, have, item->off + f->s.at);
	f->s.at += MIN(n, UINT32_MAX - f->s.at);
}

static void fwcfg_select(struct fwcfg *f, u16 key)
{
	f->s.key = key;
	f->s.at = 0;
}

/* --- DMA -------------------------------------------------------------------------------------- */
static bool dma_read(struct fwcfg *f, u64 addr, u32 len)
{
	u8 chunk[CHUNK];

	if (len > bytes_left(f) + ZEROS_MAX || (len && !mem_ptr_rw(f->dev.mem, addr, len)))
		return false; /* nothing is moved rather than a part */
	for (u32 n; len; len -= n, addr += n) {
		n = MIN(len, CHUNK);
		fwcfg_take(f, chunk, n);
		mem_write(f->dev.mem, addr, chunk, n);
	}
	return true;
}

static void fwcfg_dma(struct fwcfg *f, u64 at)
{
	u8 desc[FWCFG_DMA_BYTES];
	bool ok = true;
	u32 control, len;

	if (!mem_read(f->dev.mem, at, desc, sizeof desc))
		return;
	control = __builtin_bswap32(ld32(desc));
	len = __builtin_bswap32(ld32(desc + 4));
	if (control & FWCFG_DMA_SELECT)
		fwcfg_select(f, (u16)(control >> 16));
	if (control & FWCFG_DMA_READ)
		ok = dma_read(f, __builtin_bswap64(ld64(desc + 8)), len);
	else if (control & FWCFG_DMA_WRITE)
		ok = false;
	else if (control & FWCFG_DMA_SKIP)
		f->s.at += MIN(len, UINT32_MAX - f->s.at);
	st32(desc, ok ? 0 : __builtin_bswap32(FWCFG_DMA_ERROR));
	mem_write(f->dev.mem, at, desc, 4);
}

/* The upper half waits for the lower one, which starts the transfer. */
static void fwcfg_dma_write(struct fwcfg *f, u64 off, unsigned size, u64 val)
{
	u32 half = __builtin_bswap32((u32)val);

	if (size == 8) {
		fwcfg_dma(f, __builtin_bswap64(val));
	} else if (size == 4 && off == 0) {
		f->s.dma_high = half;
	} else if (size == 4 && off == 4) {
		u64 at = (u64)f->s.dma_high << 32 | half;

		f->s.dma_high = 0;
		fwcfg_dma(f, at);
	}
}

/* --- registers -------------------------------------------------------------------------------- */
static u64 fwcfg_read(struct device *dev, unsigned region, u64 off, unsigned size)
{
	u64 val = 0;

	if (region == REGION_DMA) {
		memcpy(&val, dma_signature + off, size);
		return val;
	}
	if (off != 1 || size != 1) /* the selector is write-only */
		return ~0ull;
	fwcfg_take(fwcfg_of(dev), (u8 *)&val, 1);
	return val;
}

static void fwcfg_write(struct device *dev, unsigned region, u64 off, unsigned size, u64 val)
{
	if (region == REGION_DMA)
		fwcfg_dma_write(fwcfg_of(dev), off, size, val);
	else if (size == 2)
		fwcfg_select(fwcfg_of(dev), (u16)val);
}

/* --- life ------------------------------------------------------------------------------------- */
static void fwcfg_reset(struct device *dev)
{
	memset(&fwcfg_of(dev)->s, 0, sizeof fwcfg_of(dev)->s);
}

static void fwcfg_state(struct device *dev, struct state *st)
{
	struct fwcfg *f = fwcfg_of(dev);

	st_u32(st, "at", &f->s.at);
	st_u32(st, "dma_high", &f->s.dma_high);
	st_u16(st, "key", &f->s.key);
}

const struct device_ops fwcfg_ops = {
	.name = "fw_cfg",
	.version = 1,
	.bytes = sizeof(struct fwcfg),
	.access_max = 8,
	.read = fwcfg_read,
	.write = fwcfg_write,
	.reset = fwcfg_reset,
	.state = fwcfg_state,
	.state_off = offsetof(struct fwcfg, s),
	.state_len = sizeof(struct fwcfg_state),
};
