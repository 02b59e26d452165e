/* image.c - opening disk images: what the user can get wrong, locks, and the format's vtable.
 *
 * Owns struct image and its fd.  Set-up thread for open and close, any thread for I/O. */
#include "image.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct image_ops *const formats[] = { &image_raw_ops };

static const struct image_ops *format_find(const struct image_opts *o, struct err *e)
{
	const char *name = o->format ? o->format : "raw";

	for (size_t i = 0; i < ARRAY_LEN(formats); i++)
		if (!strcmp(formats[i]->name, name))
			return formats[i];
	err_set(e, -EINVAL, "disk %s: unknown format %s; convert it: qemu-img convert -O raw",
		o->path, name);
	return NULL;
}

static int open_failed(const struct image_opts *o, int err, struct err *e)
{
	const char *remedy = "";

	if (err == ENOENT)
		return err_set(e, -err, "disk %s: no such file; to create one: truncate -s 1G %s",
			       o->path, o->path);
	if ((err == EACCES || err == EROFS || err == EPERM) && !o->ro)
		remedy = "; make it writable, or add ,ro";
	else if (err == EACCES)
		remedy = "; check its permissions";
	else if (err == EBUSY)
		remedy = "; the host uses it: unmount it, or add ,ro";
	else if (err == EINVAL && o->direct)
		remedy = "; its file system has no direct I/O: leave out ,direct";
	return err_set(e, -err, "disk %s: cannot open%s (%s)%s", o->path,
		       o->ro ? "" : " for writing", strerror(err), remedy);
}

/* Refuse what is no disk, before open() could block on it or have effects. */
static int image_check_kind(const struct image_opts *o, struct stat *st, struct err *e)
{
	if (stat(o->path, st) < 0)
		return open_failed(o, errno, e);
	if (S_ISDIR(st->st_mode))
		return err_set(e, -EISDIR, "disk %s: is a directory; give an image file", o->path);
	if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
		return err_set(e, -EINVAL,
			       "disk %s: neither a file nor a block device; give an image file",
			       o->path);
	return 0;
}

/* One writer or many readers, among all processes that ask (QEMU does, too).  The lock belongs to
 * the open file: it ends with the last close, and a second --disk of the same file meets it as
 * well. */
static int image_lock(const struct image *im, struct err *e)
{
	struct flock lock = { .l_type = im->ro ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(im->fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(e, -EBUSY,
			       "disk %s: locked by another process or --disk; stop that one, or "
			       "open both with ,ro",
			       im->path);
	log_warn("disk", "%s: cannot be locked (%s); make sure that nobody else writes to it",
		 im->path, strerror(errno));
	return 0;
}

static int image_open_flags(const struct image *im)
{
	int flags = (im->ro ? O_RDONLY : O_RDWR) | (im->direct ? O_DIRECT : 0) | O_CLOEXEC;

	/* On a block device O_EXCL means: not while it is mounted. */
	return im->blockdev && !im->ro ? flags | O_EXCL : flags;
}

int image_open(struct image **out, const struct image_opts *o, struct err *e)
{
	const struct image_ops *ops = format_find(o, e);
	struct stat st;
	int rc;

	if (!ops)
		return -EINVAL;
	rc = image_check_kind(o, &st, e);
	if (rc < 0)
		return rc;
	struct image *im = calloc(1, sizeof *im);

	if (!im)
		return err_set(e, -ENOMEM, "disk %s: out of memory", o->path);
	im->ops = ops;
	im->path = o->path;
	im->ro = o->ro;
	im->direct = o->direct;
	im->blockdev = S_ISBLK(st.st_mode);
	im->block = im->phys_block = IMAGE_SECTOR;
	im->fd = open(o->path, image_open_flags(im));
	if (im->fd < 0) {
		rc = open_failed(o, errno, e);
		goto free_im;
	}
	rc = image_lock(im, e);
	if (rc < 0)
		goto close_fd;
	rc = ops->open(im, e);
	if (rc < 0)
		goto close_fd;
	*out = im;
	return 0;
close_fd:
	close(im->fd);
free_im:
	free(im);
	return rc;
}

void image_close(struct image *im)
{
	if (!im)
		return;
	if (im->ops->close)
		im->ops->close(im);
	close(im->fd);
	free(im);
}

/* The guest is told of every error by its own request; the user once for each kind, since a guest
 * that meets a full host disk will meet it again with each write. */
static int image_result(struct image *im, const char *what, int rc)
{
	u32 kind = rc == -ENOSPC ? 1 : rc == -EIO ? 2 : 4;

	if (rc >= 0 || rc == -EAGAIN)
		return rc;
	if (!(__atomic_fetch_or(&im->reported, kind, __ATOMIC_RELAXED) & kind))
		log_err("disk", "%s: %s failed (%s); the guest sees an I/O error", im->path, what,
			strerror(-rc));
	return rc;
}

int image_readv(struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	return image_result(im, "read", im->ops->readv(im, iov, n, off));
}

int image_readv_nowait(struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	return im->ops->readv_nowait ? im->ops->readv_nowait(im, iov, n, off) : -EAGAIN;
}

int image_writev(struct image *im, const struct iovec *iov, u32 n, u64 off)
{
	return image_result(im, "write", im->ops->writev(im, iov, n, off));
}

int image_flush(struct image *im)
{
	return image_result(im, "flush", im->ops->flush(im));
}

int image_discard(struct image *im, u64 off, u64 len)
{
	return image_result(im, "discard", im->ops->discard(im, off, len));
}

int image_write_zeroes(struct image *im, u64 off, u64 len, bool unmap)
{
	return image_result(im, "write", im->ops->write_zeroes(im, off, len, unmap));
}
