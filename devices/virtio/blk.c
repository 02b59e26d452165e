/* blk.c - virtio block device (virtio 1.2 §5.2) on a host/image.
 *
 * Requests run on the disk's workers (host/aio) straight between guest memory and the image, and
 * are finished on the loop thread.  Short reads of data that the host has in its page cache are
 * done on the notifying thread instead: that is a copy, and cheaper than two thread switches.
 *
 * Owns the requests in flight; a slot lies in a fixed array, so a guest cannot make us allocate.
 * After reset, stop of the queue, or free no worker touches guest memory.  machine.lock guards all
 * but a submitted request, which is its worker's. */
#include <stdlib.h>

#include "../../host/aio.h"
#include "../../host/image.h"
#include "virtio.h"

/* §5.2.3 feature bits, §5.2.6 request types and status */
#define BLK_F_SEG_MAX BIT(2)
#define BLK_F_RO BIT(5)
#define BLK_F_BLK_SIZE BIT(6)
#define BLK_F_FLUSH BIT(9)
#define BLK_F_TOPOLOGY BIT(10)
#define BLK_F_CONFIG_WCE BIT(11)
#define BLK_F_DISCARD BIT(13)
#define BLK_F_WRITE_ZEROES BIT(14)

enum blk_type {
	BLK_T_IN = 0,
	BLK_T_OUT = 1,
	BLK_T_FLUSH = 4,
	BLK_T_GET_ID = 8,
	BLK_T_DISCARD = 11,
	BLK_T_WRITE_ZEROES = 13,
};
enum blk_status { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2 };
enum { BLK_ZEROES_UNMAP = 1 }; /* §5.2.6 flags of a range */

/* clang-format off */
/* §5.2.4 struct virtio_blk_config, offsets */
enum {
	CFG_CAPACITY = 0, CFG_SEG_MAX = 12, CFG_BLK_SIZE = 20, CFG_PHYS_EXP = 24,
	CFG_MIN_IO = 26, CFG_OPT_IO = 28, CFG_WRITEBACK = 32, CFG_DISCARD_SECTORS = 36,
	CFG_DISCARD_SEG = 40, CFG_DISCARD_ALIGN = 44, CFG_ZEROES_SECTORS = 48, CFG_ZEROES_SEG = 52,
	CFG_ZEROES_UNMAP = 56, CFG_BYTES = 60,
};
/* clang-format on */

enum {
	BLK_ID = 2,
	BLK_WORKERS = 4,
	BLK_SLOTS = VQ_MAX + 1, /* vq_pop lets VQ_MAX be in flight; one to pop into */
	BLK_HEADER = 16,
	BLK_ID_BYTES = 20,
	BLK_RANGE_BYTES = 16,
	BLK_RANGES = 32, /* of one discard or write-zeroes request */
	BLK_DISCARD_SECTORS = 1 << 22, /* of one range: 2 GiB */
	BLK_ZEROES_SECTORS = 1 << 18, /* 128 MiB: a reset may wait while it is written */
	BLK_INLINE_MAX = 128 << 10, /* bytes read on the notifying thread at most */
};

struct blk_range {
	u64 off, len;
	bool unmap;
};

struct blk_req {
	struct aio_req aio; /* first */
	struct blk_req *next_free;
	struct blk *blk;
	u32 type;
	bool sync; /* write-through: flush after the write */
	bool busy;
	gpa_t status_at;
	u64 in_len; /* of the chain, status byte included */
	u64 off;
	int result; /* 0 or -errno, by the worker */
	u32 ranges;
	struct blk_range range[BLK_RANGES];
	struct chain c;
};

struct blk {
	struct vdev v; /* first */
	/* const after init */
	struct image *image; /* borrowed */
	char serial[BLK_ID_BYTES];
	struct aio *aio;
	/* atomic */
	bool dropping; /* workers: do no more than you must */
	/* guard: machine.lock */
	struct blk_req *req; /* BLK_SLOTS; memory of those never needed stays untouched */
	u32 reqs; /* slots that were ever needed */
	struct blk_req *free_req; /* of these, the idle ones */
};

static struct blk *to_blk(struct vdev *v)
{
	return container_of(v, struct blk, v);
}

/* --- slots and completion --------------------------------------------------------------------- */

static struct blk_req *blk_req_get(struct blk *b)
{
	struct blk_req *r = b->free_req;

	if (r) {
		b->free_req = r->next_free;
	} else {
		ASSERT(b->reqs < BLK_SLOTS);
		r = &b->req[b->reqs++];
		r->blk = b;
	}
	r->busy = true;
	return r;
}

static void blk_req_free(struct blk_req *r)
{
	r->busy = false;
	r->next_free = r->blk->free_req;
	r->blk->free_req = r;
}

/* The one status byte goes back, whatever was asked.  `data` bytes of the in part are valid;
 * used.len counts from its start (§2.7.8.2), so the status is in it only if no gap lies before it.
 */
static void blk_finish(struct blk_req *r, u8 status, u64 data)
{
	struct blk *b = r->blk;
	u64 written = data + 1 == r->in_len ? r->in_len : data;

	mem_write(b->v.dev.mem, r->status_at, &status, 1);
	vq_push(&b->v.vq[0], &r->c, (u32)written);
	blk_req_free(r);
}

static void blk_finish_result(struct blk_req *r)
{
	u64 data = r->type == BLK_T_IN && r->result == 0 ? r->in_len - 1 : 0;

	blk_finish(r, r->result == 0 ? BLK_S_OK : BLK_S_IOERR, data);
}

/* The workers are done with a list of requests. */
static void blk_done(void *arg, struct aio_req *list)
{
	struct blk *b = arg;

	while (list) {
		struct blk_req *r = container_of(list, struct blk_req, aio);

		list = list->next;
		blk_finish_result(r);
	}
	vq_signal(&b->v, &b->v.vq[0]);
}

/* --- what a worker does ----------------------------------------------------------------------- */

static int blk_write(struct blk_req *r, struct image *im)
{
	int rc = image_writev(im, r->c.iov + r->c.out_at, r->c.out_n, r->off);

	return rc == 0 && r->sync ? image_flush(im) : rc;
}

static int blk_ranges(struct blk_req *r, struct image *im)
{
	int rc = 0;

	for (u32 i = 0; i < r->ranges && rc == 0; i++) {
		const struct blk_range *g = &r->range[i];

		if (__atomic_load_n(&r->blk->dropping, __ATOMIC_RELAXED))
			return -ECANCELED;
		if (r->type == BLK_T_DISCARD)
			rc = image_discard(im, g->off, g->len);
		else
			rc = image_write_zeroes(im, g->off, g->len, g->unmap);
	}
	return rc == 0 && r->sync ? image_flush(im) : rc;
}

static void blk_work(struct aio_req *aio)
{
	struct blk_req *r = container_of(aio, struct blk_req, aio);
	struct image *im = r->blk->image;

	switch (r->type) {
	case BLK_T_IN: r->result = image_readv(im, r->c.iov + r->c.in_at, r->c.in_n, r->off); break;
	case BLK_T_OUT: r->result = blk_write(r, im); break;
	case BLK_T_FLUSH: r->result = image_flush(im); break;
	default: r->result = blk_ranges(r, im);
	}
}

/* --- requests --------------------------------------------------------------------------------- */

/* Is the write cache off?  §5.2.5.2, §5.2.6.2: a driver without FLUSH cannot ask for durability. */
static bool blk_write_through(const struct blk *b)
{
	if (vdev_has(&b->v, BLK_F_CONFIG_WCE))
		return !b->v.s.config[CFG_WRITEBACK];
	return !vdev_has(&b->v, BLK_F_FLUSH);
}

/* Byte range of len bytes from a sector: false if it is not whole sectors inside the disk. */
static bool blk_locate(const struct blk *b, u64 sector, u64 len, u64 *off)
{
	u64 sectors = b->image->bytes / IMAGE_SECTOR;

	*off = sector * IMAGE_SECTOR;
	return len % IMAGE_SECTOR == 0 && sector <= sectors &&
	       len / IMAGE_SECTOR <= sectors - sector;
}

static void blk_submit(struct blk_req *r)
{
	struct blk *b = r->blk;

	r->sync = blk_write_through(b);
	r->aio.work = blk_work;
	aio_submit(b->aio, &r->aio);
}

static void blk_start_in(struct blk_req *r, u64 sector)
{
	struct blk *b = r->blk;
	struct chain *c = &r->c;

	if (!blk_locate(b, sector, c->in_len, &r->off))
		return blk_finish(r, BLK_S_IOERR, 0);
	if (c->in_len <= BLK_INLINE_MAX &&
	    image_readv_nowait(b->image, c->iov + c->in_at, c->in_n, r->off) == 0)
		return blk_finish(r, BLK_S_OK, c->in_len);
	blk_submit(r);
}

static void blk_start_out(struct blk_req *r, u64 sector)
{
	struct blk *b = r->blk;

	if (b->image->ro || !blk_locate(b, sector, r->c.out_len, &r->off))
		return blk_finish(r, BLK_S_IOERR, 0);
	blk_submit(r);
}

static void blk_get_id(struct blk_req *r)
{
	blk_finish(r, BLK_S_OK, chain_give(&r->c, r->blk->serial, BLK_ID_BYTES));
}

/* Take and check one range {le64 sector, le32 sectors, le32 flags}.  BLK_S_OK or what to answer. */
static u8 blk_take_range(struct blk_req *r, struct blk_range *g)
{
	u8 raw[BLK_RANGE_BYTES];

	chain_take(&r->c, raw, sizeof raw);
	u64 sector = ld64(raw);
	u32 sectors = ld32(raw + 8), flags = ld32(raw + 12);
	u32 max = r->type == BLK_T_DISCARD ? BLK_DISCARD_SECTORS : BLK_ZEROES_SECTORS;

	/* §5.2.6.2: unknown flags, and unmap in a discard, are unsupported */
	if (flags & ~(r->type == BLK_T_WRITE_ZEROES ? BLK_ZEROES_UNMAP : 0u))
		return BLK_S_UNSUPP;
	g->len = (u64)sectors * IMAGE_SECTOR;
	g->unmap = flags & BLK_ZEROES_UNMAP;
	if (!sectors || sectors > max || !blk_locate(r->blk, sector, g->len, &g->off))
		return BLK_S_IOERR;
	return BLK_S_OK;
}

static void blk_start_ranges(struct blk_req *r)
{
	u64 len = r->c.out_len;
	u8 status = BLK_S_OK;

	if (r->blk->image->ro || !len || len % BLK_RANGE_BYTES ||
	    len > BLK_RANGES * BLK_RANGE_BYTES)
		return blk_finish(r, BLK_S_IOERR, 0);
	r->ranges = (u32)len / BLK_RANGE_BYTES;
	for (u32 i = 0; i < r->ranges && status == BLK_S_OK; i++)
		status = blk_take_range(r, &r->range[i]);
	if (status != BLK_S_OK)
		return blk_finish(r, status, 0);
	blk_submit(r);
}

/* Begin the request in r->c.  False if it has no place for a status: nothing can be answered. */
static bool blk_start(struct blk_req *r)
{
	u8 header[BLK_HEADER]; /* le32 type, le32 reserved, le64 sector: read once, here */

	r->in_len = r->c.in_len;
	if (!chain_cut_last(&r->c, &r->status_at))
		return false;
	if (chain_take(&r->c, header, sizeof header) != sizeof header) {
		blk_finish(r, BLK_S_IOERR, 0);
		return true;
	}
	r->type = ld32(header);
	switch (r->type) {
	case BLK_T_IN: blk_start_in(r, ld64(header + 8)); break;
	case BLK_T_OUT: blk_start_out(r, ld64(header + 8)); break;
	case BLK_T_FLUSH: blk_submit(r); break;
	case BLK_T_GET_ID: blk_get_id(r); break;
	case BLK_T_DISCARD:
	case BLK_T_WRITE_ZEROES: blk_start_ranges(r); break;
	default: blk_finish(r, BLK_S_UNSUPP, 0);
	}
	return true;
}

static void blk_notify(struct vdev *v, struct vq *q)
{
	struct blk *b = to_blk(v);
	int rc;

	do {
		struct blk_req *r = blk_req_get(b);

		rc = vq_pop(q, &r->c);
		if (rc > 0 && !blk_start(r))
			rc = -EPROTO;
		if (rc <= 0)
			blk_req_free(r);
	} while (rc > 0);
	if (rc < 0)
		vdev_broken(v, "bad request chain");
	vq_signal(v, q);
}

/* --- life ------------------------------------------------------------------------------------- */

static void blk_drop(struct vdev *v, struct vq *q)
{
	struct blk *b = to_blk(v);

	__atomic_store_n(&b->dropping, true, __ATOMIC_RELAXED);
	aio_cancel(b->aio);
	__atomic_store_n(&b->dropping, false, __ATOMIC_RELAXED);
	for (u32 i = 0; i < b->reqs; i++) {
		if (!b->req[i].busy)
			continue;
		chain_dirty(v->dev.mem, &b->req[i].c); /* a worker may have got to it */
		blk_req_free(&b->req[i]);
	}
}

static void blk_quiesce(struct vdev *v)
{
	aio_drain(to_blk(v)->aio);
}

static void blk_config_reset(struct vdev *v)
{
	const struct image *im = to_blk(v)->image;
	u8 *c = v->s.config;

	st64(c + CFG_CAPACITY, im->bytes / IMAGE_SECTOR);
	st32(c + CFG_SEG_MAX, VQ_MAX - 2); /* beside header and status, in a queue of full size */
	st32(c + CFG_BLK_SIZE, im->block);
	c[CFG_PHYS_EXP] = (u8)__builtin_ctz(im->phys_block / im->block);
	st16(c + CFG_MIN_IO, (u16)(im->phys_block / im->block));
	c[CFG_WRITEBACK] = 1;
	if (im->ro)
		return;
	st32(c + CFG_DISCARD_SECTORS, BLK_DISCARD_SECTORS);
	st32(c + CFG_DISCARD_SEG, BLK_RANGES);
	st32(c + CFG_DISCARD_ALIGN, im->phys_block / IMAGE_SECTOR);
	st32(c + CFG_ZEROES_SECTORS, BLK_ZEROES_SECTORS);
	st32(c + CFG_ZEROES_SEG, BLK_RANGES);
	c[CFG_ZEROES_UNMAP] = 1;
}

static void blk_config_write(struct vdev *v, u32 off, unsigned size, u64 val)
{
	if (off == CFG_WRITEBACK && size == 1 && vdev_has(v, BLK_F_CONFIG_WCE))
		v->s.config[CFG_WRITEBACK] = val & 1;
}

static int blk_init(struct vdev *v, struct err *e)
{
	struct blk *b = to_blk(v);
	const struct blk_setup *setup = v->dev.arg;

	b->image = setup->image;
	memcpy(b->serial, setup->serial, strnlen(setup->serial, BLK_ID_BYTES));
	v->features = BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_FLUSH | BLK_F_TOPOLOGY |
		      BLK_F_CONFIG_WCE;
	v->features |= b->image->ro ? BLK_F_RO : BLK_F_DISCARD | BLK_F_WRITE_ZEROES;
	b->req = calloc(BLK_SLOTS, sizeof *b->req);
	if (!b->req)
		return err_set(e, -ENOMEM, "disk %s: out of memory", b->image->path);
	b->aio = aio_new(v->dev.loop, blk_done, b, v->dev.id, e);
	if (!b->aio) {
		free(b->req);
		return e->code;
	}
	return 0;
}

static int blk_start_workers(struct vdev *v, struct err *e)
{
	return aio_start(to_blk(v)->aio, BLK_WORKERS, v->dev.id, e);
}

static void blk_free(struct vdev *v)
{
	struct blk *b = to_blk(v);

	aio_free(b->aio);
	free(b->req);
}

static const struct vdev_ops blk_ops = {
	.id = BLK_ID,
	.queues = 1,
	.queue_max = VQ_MAX,
	.config_len = CFG_BYTES,
	.init = blk_init,
	.start = blk_start_workers,
	.free = blk_free,
	.notify = blk_notify,
	.config_write = blk_config_write,
	.drop = blk_drop,
	.config_reset = blk_config_reset,
	.quiesce = blk_quiesce,
};

static int blk_mmio_init(struct device *dev, struct err *e)
{
	return vmmio_init(dev, &blk_ops, e);
}

const struct device_ops virtio_blk_mmio_ops = {
	.name = "virtio-blk",
	.version = 1,
	.bytes = sizeof(struct blk),
	.init = blk_mmio_init,
	VMMIO_DEVICE_OPS,
};

static int blk_pci_init(struct device *dev, struct err *e)
{
	return vpci_init(dev, &blk_ops, e);
}

const struct device_ops virtio_blk_pci_ops = {
	.name = "virtio-blk",
	.version = 1,
	.bytes = sizeof(struct blk),
	.init = blk_pci_init,
	VPCI_DEVICE_OPS,
};
