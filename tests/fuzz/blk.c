/* Fuzz target: a script of register writes, memory writes and kicks, run against a block device
 * that is set up and running.  The image aborts when it is asked for a byte it does not have. */
#include <stdlib.h>

#include "../../devices/virtio/virtio.h"
#include "../../host/image.h"

enum { SECTORS = 32, SIZE = 16, DESC = 0x1000, AVAIL = 0x1800, USED = 0x1c00, RAM = 1 << 20 };
enum { REG_NOTIFY = 0x50, REG_STATUS = 0x70 };

static u8 store[SECTORS * 512];
static struct memory memory;
static struct loop *loop;
static struct device *dev;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int inside(u64 off, u64 len)
{
	if (off > sizeof store || len > sizeof store - off)
		abort();
	return 0;
}

static int fuzz_readv(struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	for (u32 i = 0; i < n; off += iov[i++].iov_len) {
		inside(off, iov[i].iov_len);
		memcpy(iov[i].iov_base, store + off, iov[i].iov_len);
	}
	return 0;
}

static int fuzz_writev(struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	for (u32 i = 0; i < n; off += iov[i++].iov_len) {
		inside(off, iov[i].iov_len);
		memcpy(store + off, iov[i].iov_base, iov[i].iov_len);
	}
	return 0;
}

static int fuzz_flush(struct image *im)
{
	return 0;
}

static int fuzz_discard(struct image *im, u64 off, u64 len)
{
	return inside(off, len);
}

static int fuzz_zeroes(struct image *im, u64 off, u64 len, bool unmap)
{
	return inside(off, len);
}

static const struct image_ops fuzz_ops = {
	.name = "fuzz",
	.readv = fuzz_readv,
	.writev = fuzz_writev,
	.flush = fuzz_flush,
	.discard = fuzz_discard,
	.write_zeroes = fuzz_zeroes,
};
static struct image image = { .ops = &fuzz_ops,
			      .path = "fuzz",
			      .fd = -1,
			      .bytes = sizeof store,
			      .block = 512,
			      .phys_block = 512 };
static struct blk_setup setup = { .image = &image, .serial = "fuzz" };

static void line_set(struct irqchip *c, u32 gsi, bool level)
{
}

static const struct irqchip_ops line_ops = { .name = "line", .set = line_set };
static struct irqchip chip = { .ops = &line_ops };

static void reg(u64 off, u32 val)
{
	dev->ops->write(dev, 0, off, 4, val);
}

static void open_once(void)
{
	struct device wires = {
		.id = "fuzz", .mem = &memory, .arg = &setup, .irq = { { &chip, 5 } }
	};
	struct err e;

	if (dev)
		return;
	if (memory_init(&memory, RAM, &e) < 0)
		abort();
	wires.loop = loop = loop_new(&lock, true, &e);
	dev = device_new(&virtio_blk_mmio_ops, &wires, &e);
	if (!dev || device_start(dev, &e) < 0)
		abort();
}

static void start(void)
{
	/* clang-format off */
	static const u32 script[][2] = {
		{ REG_STATUS, 0 }, { REG_STATUS, 3 }, { 0x24, 1 }, { 0x20, 1 }, { 0x24, 0 },
		{ 0x20, 0x30006e44 }, { REG_STATUS, 11 }, { 0x30, 0 }, { 0x38, SIZE },
		{ 0x80, DESC },
		{ 0x84, 0 }, { 0x90, AVAIL }, { 0x94, 0 }, { 0xa0, USED }, { 0xa4, 0 }, { 0x44, 1 },
		{ REG_STATUS, 15 },
	};
	/* clang-format on */

	memset(mem_ptr(&memory, 0, RAM), 0, 0x4000);
	for (size_t i = 0; i < ARRAY_LEN(script); i++)
		reg(script[i][0], script[i][1]);
}

/* A well-formed request of the script's type, sector and length, then the avail entry. */
static void request(const u8 *p)
{
	u8 *desc = mem_ptr(&memory, DESC, SIZE * 16), *avail = mem_ptr(&memory, AVAIL, 64);
	u8 *header = mem_ptr(&memory, 0x2000, 16);
	u16 idx = ld16(avail + 2);

	st32(header, p[0]);
	st64(header + 8, p[1]);
	for (int i = 0; i < 3; i++) {
		st64(desc + i * 16, 0x2000 + i * 0x800u);
		st32(desc + i * 16 + 8, i == 0 ? 16 : i == 1 ? ld16(p + 2) : 1);
		st16(desc + i * 16 + 12, (i < 2) | (i == 2 || (i == 1 && p[4] & 1) ? 2 : 0));
		st16(desc + i * 16 + 14, i + 1);
	}
	st16(avail + 4 + idx % SIZE * 2, p[4] >> 1 & 1);
	st16(avail + 2, idx + 1);
	reg(REG_NOTIFY, 0);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);
int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	enum { STEP = 6 };

	open_once();
	start();
	for (; len >= STEP; data += STEP, len -= STEP) {
		switch (data[0] & 7) {
		case 0: reg((u64)data[1] * 4 % VMMIO_LEN, ld32(data + 2)); break;
		case 1:
			dev->ops->write(dev, 0, 0x100 + data[1] % 0xf8, 1u << (data[2] & 3),
					data[3]);
			break;
		case 2:
		case 3:
			memcpy(mem_ptr(&memory, 0x1000 + ld16(data + 1) % 0x3000, 4), data + 2, 4);
			break;
		case 4: reg(REG_NOTIFY, 0); break;
		case 5: loop_advance(loop, 1000000); break;
		default: request(data + 1);
		}
	}
	dev->ops->quiesce(dev);
	loop_advance(loop, 1000000);
	return 0;
}
