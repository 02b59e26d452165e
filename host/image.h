/* image.h - a disk image: bytes at offsets, whatever holds them.
 *
 * image_open opens, checks and locks; the rest is called by any number of threads at once and
 * blocks as the host's I/O blocks.  Transfers are whole or an error: short reads and writes are
 * dealt with here.  Offsets and lengths must lie inside im->bytes; the caller checks its guest. */
#pragma once

#include <sys/uio.h>

#include "../base.h"

enum { IMAGE_SECTOR = 512 };

struct image;

/* A format.  Functions return 0 or -errno unless said otherwise. */
struct image_ops {
	const char *name;
	int (*open)(struct image *im, struct err *e); /* im->fd is open, locked; set bytes */
	void (*close)(struct image *im);              /* not the fd itself; NULL: nothing to do */
	int (*readv)(struct image *im, const struct iovec *iov, u32 n, u64 off);
	int (*writev)(struct image *im, const struct iovec *iov, u32 n, u64 off);
	/* As readv, but -EAGAIN rather than wait for the disk.  NULL: never without waiting. */
	int (*readv_nowait)(struct image *im, const struct iovec *iov, u32 n, u64 off);
	int (*flush)(struct image *im);
	int (*discard)(struct image *im, u64 off, u64 len);
	/* unmap: the blocks may be given back to the host. */
	int (*write_zeroes)(struct image *im, u64 off, u64 len, bool unmap);
};

struct image_opts {
	const char *path;
	const char *format; /* NULL: raw.  Never guessed: a guest can write any format's header. */
	bool ro, direct;
};

struct image {
	/* const after open */
	const struct image_ops *ops;
	const char *path; /* borrowed */
	int fd;
	bool ro, direct, blockdev;
	u64 bytes;        /* multiple of IMAGE_SECTOR */
	u32 block;        /* smallest unit the host transfers well: 512 to 4096 */
	u32 phys_block;   /* smallest unit it writes without reading */
	void *priv;       /* the format's */
	/* atomic */
	u32 reported;     /* bits: kinds of I/O error that were logged already */
};

/* 0 and *out, to be freed with image_close(); or -errno with *e and nothing left behind. */
int image_open(struct image **out, const struct image_opts *o, struct err *e);
void image_close(struct image *im); /* NULL is fine; does not flush */

int image_readv(struct image *im, const struct iovec *iov, u32 n, u64 off);
int image_readv_nowait(struct image *im, const struct iovec *iov, u32 n, u64 off);
int image_writev(struct image *im, const struct iovec *iov, u32 n, u64 off);
int image_flush(struct image *im);
int image_discard(struct image *im, u64 off, u64 len);
int image_write_zeroes(struct image *im, u64 off, u64 len, bool unmap);

/* The formats: raw.c */
extern const struct image_ops image_raw_ops;
