/* raw.c - raw images: plain files and block devices.
 *
 * A file whose size is no multiple of 512 is rounded up: its last sector reads as if zeros
 * followed, and the file grows to the full sector once the guest writes there; nothing is hidden.
 * Direct I/O wants aligned memory, offsets and lengths; a request without them goes through a
 * second, buffered descriptor, which the kernel keeps coherent with the first. Sources:
 * fallocate(2), open(2) "O_DIRECT", preadv2(2). */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image.h"

enum { ZERO_CHUNK = 64 << 10 };

struct raw {
	u64 file_bytes; /* where the file ended when it was opened: reads past it are zeros */
	int buffered_fd; /* direct only, else -1 */
	/* atomic: what the host turned out not to offer */
	bool no_nowait, no_discard, no_zero_range, no_unmap;
};

static bool flag_get(const bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_RELAXED);
}

static void flag_set(bool *flag)
{
	__atomic_store_n(flag, true, __ATOMIC_RELAXED);
}

static bool not_offered(int err)
{
	return err == EOPNOTSUPP || err == ENOSYS || err == ENOTTY || err == EINVAL ||
	       err == ENODEV;
}

/* --- opening ---------------------------------------------------------------------------------- */

static int raw_size_blockdev(struct image *im, struct raw *r, struct err *e)
{
	int sector = 0;
	u32 phys = 0;

	if (ioctl(im->fd, BLKGETSIZE64, &r->file_bytes) < 0)
		return err_set(e, -errno, "disk %s: cannot read the device's size (%s)", im->path,
			       strerror(errno));
	if (ioctl(im->fd, BLKSSZGET, &sector) == 0 && sector > IMAGE_SECTOR)
		im->block = (u32)sector;
	if (ioctl(im->fd, BLKPBSZGET, &phys) == 0)
		im->phys_block = phys;
	return 0;
}

static int raw_size_file(struct image *im, struct raw *r, struct err *e)
{
	struct stat st;

	if (fstat(im->fd, &st) < 0)
		return err_set(e, -errno, "disk %s: cannot read its size (%s)", im->path,
			       strerror(errno));
	r->file_bytes = (u64)st.st_size;
	im->phys_block = (u32)MIN((u64)st.st_blksize, 4096);
	return 0;
}

/* The user said raw, and raw it is; but these four bytes deserve a word (qcow2 specification,
 * "Header").  The format is never taken from the bytes: a guest can write them. */
static void raw_look_for_qcow2(struct image *im, const struct raw *r)
{
	char magic[4];
	int fd = r->buffered_fd >= 0 ? r->buffered_fd : im->fd;

	if (pread(fd, magic, sizeof magic, 0) == sizeof magic && !memcmp(magic, "QFI\xfb", 4))
		log_warn("disk",
			 "%s: has a qcow2 header; as raw it makes no disk: qemu-img convert -O raw",
			 im->path);
}

static bool power_of_two_block(u32 n)
{
	return n >= IMAGE_SECTOR && n <= 4096 && !(n & (n - 1));
}

static int raw_open(struct image *im, struct err *e)
{
	struct raw *r = calloc(1, sizeof *r);
	int rc;

	if (!r)
		return err_set(e, -ENOMEM, "disk %s: out of memory", im->path);
	r->buffered_fd = -1;
	rc = im->blockdev ? raw_size_blockdev(im, r, e) : raw_size_file(im, r, e);
	if (rc < 0)
		goto free_raw;
	if (r->file_bytes == 0) {
		rc = err_set(e, -EINVAL,
			     "disk %s: is empty (0 bytes); give it a size: truncate -s 1G %s",
			     im->path, im->path);
		goto free_raw;
	}
	if (im->direct) {
		r->buffered_fd = open(im->path, (im->ro ? O_RDONLY : O_RDWR) | O_CLOEXEC);
		if (r->buffered_fd < 0) {
			rc = err_set(e, -errno, "disk %s: cannot open a second time (%s)", im->path,
				     strerror(errno));
			goto free_raw;
		}
	}
	if (!power_of_two_block(im->block))
		im->block = IMAGE_SECTOR;
	if (!power_of_two_block(im->phys_block) || im->phys_block < im->block)
		im->phys_block = im->block;
	im->bytes = ALIGN_UP(r->file_bytes, IMAGE_SECTOR);
	if (im->bytes != r->file_bytes)
		log_warn("disk", "%s: size is no multiple of 512; zeros fill the last sector",
			 im->path);
	raw_look_for_qcow2(im, r);
	im->priv = r;
	return 0;
free_raw:
	free(r);
	return rc;
}

static void raw_close(struct image *im)
{
	struct raw *r = im->priv;

	if (r->buffered_fd >= 0)
		close(r->buffered_fd);
	free(r);
}

/* --- transfers -------------------------------------------------------------------------------- */

/* The descriptor for this transfer: direct I/O takes whole, aligned blocks only. */
static int raw_fd(const struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	const struct raw *r = im->priv;
	u64 bits = off;

	if (r->buffered_fd < 0)
		return im->fd;
	for (u32 i = 0; i < n; i++)
		bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
	return bits & (im->block - 1) ? r->buffered_fd : im->fd;
}

/* After a failed call: go on?  The host's file system may want more alignment than its block size
 * says, and then answers EINVAL. */
static bool raw_retry(const struct image *im, int *fd)
{
	const struct raw *r = im->priv;

	if (errno == EINTR)
		return true;
	if (errno != EINVAL || r->buffered_fd < 0 || *fd == r->buffered_fd)
		return false;
	*fd = r->buffered_fd;
	return true;
}

/* Where in a vector a transfer that was cut short goes on. */
struct cursor {
	const struct iovec *iov;
	u32 n;
	u64 off;
	size_t skip; /* bytes of iov[0] that are done */
	struct iovec one; /* what is left of iov[0] when skip is not 0 */
};

static void cursor_advance(struct cursor *c, size_t done)
{
	c->off += done;
	for (c->skip += done; c->n && c->skip >= c->iov->iov_len; c->n--, c->iov++)
		c->skip -= c->iov->iov_len;
}

/* The vector for the next call: the rest, or first the rest of a part. */
static const struct iovec *cursor_iov(struct cursor *c, int *n)
{
	*n = (int)c->n;
	if (!c->skip)
		return c->iov;
	c->one.iov_base = (u8 *)c->iov->iov_base + c->skip;
	c->one.iov_len = c->iov->iov_len - c->skip;
	*n = 1;
	return &c->one;
}

/* The file ended here: legitimate only past its size at opening, where zeros are read. */
static int read_past_end(const struct raw *r, struct cursor *c)
{
	int n;

	if (c->off < r->file_bytes)
		return -EIO; /* someone cut the file short */
	while (c->n) {
		const struct iovec *v = cursor_iov(c, &n);

		memset(v->iov_base, 0, v->iov_len);
		cursor_advance(c, v->iov_len);
	}
	return 0;
}

static int raw_readv(struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	struct cursor c = { .iov = iov, .n = n, .off = off };
	int fd = raw_fd(im, iov, n, off), parts;

	while (c.n) {
		const struct iovec *v = cursor_iov(&c, &parts);
		ssize_t got = syscall(SYS_preadv2, fd, v, (long)parts, (long)c.off, 0L, 0L);

		if (got == 0)
			return read_past_end(im->priv, &c);
		if (got < 0 && !raw_retry(im, &fd))
			return -errno;
		cursor_advance(&c, got > 0 ? (size_t)got : 0);
	}
	return 0;
}

static int raw_readv_nowait(struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	struct raw *r = im->priv;
	ssize_t got;
	size_t want = 0;

	if (im->direct || flag_get(&r->no_nowait))
		return -EAGAIN;
	for (u32 i = 0; i < n; i++)
		want += iov[i].iov_len;
	/* The offset's two halves are the kernel's convention; on x86-64 the first holds it all. */
	got = syscall(SYS_preadv2, im->fd, iov, (long)n, (long)off, 0L, RWF_NOWAIT);
	if (got < 0 && not_offered(errno))
		flag_set(&r->no_nowait);
	/* If only a part was at hand, a worker does it all. */
	return got == (ssize_t)want ? 0 : -EAGAIN;
}

static int raw_writev(struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	struct cursor c = { .iov = iov, .n = n, .off = off };
	int fd = raw_fd(im, iov, n, off), parts;

	while (c.n) {
		const struct iovec *v = cursor_iov(&c, &parts);
		ssize_t put = pwritev(fd, v, parts, (off_t)c.off);

		if (put == 0)
			return -EIO; /* never for a request of some bytes, but never loop either */
		if (put < 0 && !raw_retry(im, &fd))
			return -errno;
		cursor_advance(&c, put > 0 ? (size_t)put : 0);
	}
	return 0;
}

static int raw_flush(struct image *im)
{
	return fdatasync(im->fd) < 0 ? -errno : 0;
}

/* --- discard and zeroes ----------------------------------------------------------------------- */

/* fallocate() on whichever kind; 0 or -errno. */
static int raw_fallocate(struct image *im, int mode, u64 off, u64 len)
{
	int rc;

	do
		rc = fallocate(im->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

/* A hint: a host that has no use for it is no error. */
static int raw_discard(struct image *im, u64 off, u64 len)
{
	struct raw *r = im->priv;
	u64 range[2] = { off, len };
	int rc;

	if (flag_get(&r->no_discard))
		return 0;
	if (im->blockdev)
		rc = ioctl(im->fd, BLKDISCARD, range) < 0 ? -errno : 0;
	else
		rc = raw_fallocate(im, FALLOC_FL_PUNCH_HOLE, off, len);
	if (rc == 0 || !not_offered(-rc))
		return rc;
	if (rc != -EINVAL) /* that one is about this range's alignment */
		flag_set(&r->no_discard);
	return 0;
}

static int raw_write_zero_bytes(struct image *im, u64 off, u64 len)
{
	static u8 zeros[ZERO_CHUNK] __attribute__((aligned(4096))); /* in .bss: not in the file */
	int rc = 0;

	while (len && rc == 0) {
		struct iovec v = { zeros, MIN(len, sizeof zeros) };

		rc = raw_writev(im, &v, 1, off);
		off += v.iov_len;
		len -= v.iov_len;
	}
	return rc;
}

static int raw_write_zeroes(struct image *im, u64 off, u64 len, bool unmap)
{
	struct raw *r = im->priv;
	int rc;

	if (unmap && !flag_get(&r->no_unmap)) {
		rc = raw_fallocate(im, FALLOC_FL_PUNCH_HOLE, off, len);
		if (rc == 0 || !not_offered(-rc))
			return rc;
		flag_set(&r->no_unmap);
	}
	if (!flag_get(&r->no_zero_range)) {
		rc = raw_fallocate(im, FALLOC_FL_ZERO_RANGE, off, len);
		if (rc == 0 || !not_offered(-rc))
			return rc;
		flag_set(&r->no_zero_range);
	}
	return raw_write_zero_bytes(im, off, len);
}

const struct image_ops image_raw_ops = {
	.name = "raw",
	.open = raw_open,
	.close = raw_close,
	.readv = raw_readv,
	.writev = raw_writev,
	.readv_nowait = raw_readv_nowait,
	.flush = raw_flush,
	.discard = raw_discard,
	.write_zeroes = raw_write_zeroes,
};
