/* image.c - disk images: what users get wrong, and that bytes arrive. */
#include "../../host/image.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../test.h"

static char dir[256], path[300];
static struct image *im;
static struct err e;

static void set_up(u64 bytes)
{
	const char *tmp = getenv("TMPDIR");
	int fd;

	snprintf(dir, sizeof dir, "%s/mvm-image-XXXXXX", tmp ? tmp : "/tmp");
	OK(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/disk", dir);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	OK(fd >= 0);
	OK(ftruncate(fd, (off_t)bytes) == 0);
	close(fd);
}

static void tear_down(void)
{
	image_close(im);
	unlink(path);
	rmdir(dir);
}

static int open_image(struct image_opts o)
{
	o.path = path;
	memset(&e, 0, sizeof e);
	return image_open(&im, &o, &e);
}

/* The line names the object and what to do. */
static void expect_error(struct image_opts o, int code, const char *what)
{
	EQ(open_image(o), code);
	EQ(e.code, code);
	if (!strstr(e.text, path) || !strstr(e.text, what) || strchr(e.text, '\n'))
		test_fail(__FILE__, __LINE__, "\"%s\" lacks \"%s\"", e.text, what);
	OK(!im);
}

static struct iovec vec(void *p, size_t n)
{
	return (struct iovec){ p, n };
}

TEST(image_refuses_what_is_no_disk)
{
	set_up(0);
	expect_error((struct image_opts){ 0 }, -EINVAL, "empty (0 bytes)");
	unlink(path);
	expect_error((struct image_opts){ 0 }, -ENOENT, "truncate -s");
	OK(mkdir(path, 0700) == 0);
	expect_error((struct image_opts){ .ro = true }, -EISDIR, "is a directory");
	rmdir(path);
	OK(mkfifo(path, 0600) == 0);
	expect_error((struct image_opts){ .ro = true }, -EINVAL,
		     "neither a file nor a block device");
	unlink(path);
	OK(symlink("/dev/null", path) == 0);
	expect_error((struct image_opts){ 0 }, -EINVAL, "neither");
	unlink(path);
	OK(symlink(path, path) == 0);
	expect_error((struct image_opts){ 0 }, -ELOOP, "cannot open");
	tear_down();
}

TEST(image_refuses_unknown_formats_and_never_guesses_one)
{
	set_up(4096);
	expect_error((struct image_opts){ .format = "vmdk" }, -EINVAL, "qemu-img convert");
	int fd = open(path, O_WRONLY);

	OK(pwrite(fd, "QFI\xfb\0\0\0\3", 8, 0) == 8);
	close(fd);
	EQ(open_image((struct image_opts){ 0 }), 0); /* raw, with a warning */
	OK(im->ops == &image_raw_ops);
	EQ(im->bytes, 4096);
	tear_down();
}

TEST(image_read_only_file_wants_ro)
{
	if (geteuid() == 0) {
		OK(setegid(65534) == 0 && seteuid(65534) == 0); /* root may write anything */
	}
	set_up(4096);
	OK(chmod(path, 0400) == 0);
	expect_error((struct image_opts){ 0 }, -EACCES, "add ,ro");
	EQ(open_image((struct image_opts){ .ro = true }), 0);
	OK(im->ro);
	tear_down();
}

TEST(image_lock_admits_one_writer_or_many_readers)
{
	struct image *first, *second;

	set_up(4096);
	EQ(open_image((struct image_opts){ 0 }), 0);
	first = im;
	im = NULL;
	expect_error((struct image_opts){ 0 }, -EBUSY, "locked by another process");
	expect_error((struct image_opts){ .ro = true }, -EBUSY, ",ro");
	image_close(first);
	EQ(open_image((struct image_opts){ .ro = true }), 0);
	first = im;
	EQ(open_image((struct image_opts){ .ro = true }), 0);
	second = im;
	im = NULL;
	expect_error((struct image_opts){ 0 }, -EBUSY, "locked");
	image_close(first);
	image_close(second);
	EQ(open_image((struct image_opts){ 0 }), 0);
	tear_down();
}

TEST(image_lock_is_seen_by_another_process)
{
	int status;

	set_up(4096);
	EQ(open_image((struct image_opts){ 0 }), 0);
	pid_t pid = fork();

	if (pid == 0)
		_exit(open_image((struct image_opts){ 0 }) == -EBUSY ? 0 : 1);
	OK(waitpid(pid, &status, 0) == pid);
	EQ(status, 0);
	tear_down();
}

static void fill(u8 *p, size_t n, u8 seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (u8)(i * 7 + i / 251 + seed);
}

static void round_trip(struct image_opts o)
{
	static u8 a[5][8192 + 512] __attribute__((aligned(4096))), b[5][8192 + 512];
	static const size_t len[] = { 4096, 512, 1, 511, 8192 };
	struct iovec out[5], in[5];

	set_up(1 << 20);
	int rc = open_image(o);

	if (rc == -EINVAL && o.direct) {
		unlink(path);
		rmdir(dir);
		SKIP("no direct I/O in %s: %s", dir, e.text);
	}
	EQ(rc, 0);
	for (u64 off = 0; off < 1 << 20; off += 77 * 512) {
		for (int i = 0; i < 5; i++) {
			fill(a[i], len[i], (u8)(off >> 9));
			memset(b[i], 0, len[i]);
			out[i] = vec(a[i], len[i]);
			in[i] = vec(b[i], len[i]);
		}
		u64 n = off + 13312 <= im->bytes ? 5 : 2;

		EQ(image_writev(im, out, n, off), 0);
		EQ(image_readv(im, in, n, off), 0);
		for (u32 i = 0; i < n; i++)
			OK(!memcmp(a[i], b[i], len[i]));
	}
	EQ(image_flush(im), 0);
	tear_down();
}

TEST(image_writes_and_reads_vectors)
{
	round_trip((struct image_opts){ 0 });
}

TEST(image_direct_takes_aligned_and_unaligned_transfers)
{
	round_trip((struct image_opts){ .direct = true });
}

TEST(image_nowait_reads_only_what_is_cached)
{
	u8 buf[4096], want[4096];
	struct iovec v = vec(buf, sizeof buf);

	set_up(1 << 20);
	EQ(open_image((struct image_opts){ 0 }), 0);
	fill(want, sizeof want, 1);
	EQ(image_writev(im, &(struct iovec){ want, sizeof want }, 1, 8192), 0);
	int rc = image_readv_nowait(im, &v, 1, 8192);

	OK(rc == 0 || rc == -EAGAIN); /* a file system need not offer it */
	if (rc == 0)
		OK(!memcmp(buf, want, sizeof buf));
	tear_down();
}

TEST(image_size_is_rounded_up_to_a_sector)
{
	u8 buf[1024];
	struct iovec v = vec(buf, 1024);
	struct stat st;

	set_up(700);
	int fd = open(path, O_WRONLY);

	fill(buf, 700, 3);
	OK(pwrite(fd, buf, 700, 0) == 700);
	close(fd);
	EQ(open_image((struct image_opts){ 0 }), 0);
	EQ(im->bytes, 1024);
	memset(buf, 0xee, sizeof buf);
	EQ(image_readv(im, &v, 1, 0), 0);
	EQ(buf[699], (u8)(699 * 7 + 699 / 251 + 3));
	for (int i = 700; i < 1024; i++)
		EQ(buf[i], 0);
	v = vec(buf, 512);
	EQ(image_writev(im, &v, 1, 512), 0);
	OK(stat(path, &st) == 0);
	EQ(st.st_size, 1024);
	tear_down();
}

TEST(image_cut_short_behind_our_back_is_an_error_not_zeros)
{
	u8 buf[512];
	struct iovec v = vec(buf, 512);

	set_up(8192);
	EQ(open_image((struct image_opts){ 0 }), 0);
	OK(truncate(path, 4096) == 0);
	EQ(image_readv(im, &v, 1, 0), 0);
	EQ(image_readv(im, &v, 1, 4096), -EIO);
	tear_down();
}

TEST(image_full_disk_is_an_error_to_the_caller)
{
	static u8 buf[8192];
	struct iovec v[2] = { vec(buf, 4096), vec(buf, 4096) };
	struct rlimit limit = { 4096, 4096 };

	set_up(1000); /* grows to 1024 when written: past the limit it cannot */
	EQ(open_image((struct image_opts){ 0 }), 0);
	signal(SIGXFSZ, SIG_IGN);
	OK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	EQ(image_writev(im, v, 2, 0), -EFBIG); /* after a short write of 4096 */
	tear_down();
}

TEST(image_write_zeroes_and_discard)
{
	u8 buf[16384];
	struct iovec v = vec(buf, sizeof buf);
	struct stat st;

	for (int unmap = 0; unmap < 2; unmap++) {
		set_up(1 << 20);
		EQ(open_image((struct image_opts){ 0 }), 0);
		fill(buf, sizeof buf, 9);
		buf[511] = buf[12288 + 512] = 0xaa;
		EQ(image_writev(im, &v, 1, 0), 0);
		EQ(image_write_zeroes(im, 512, 12288, unmap), 0);
		EQ(image_readv(im, &v, 1, 0), 0);
		EQ(buf[511], 0xaa);
		for (int i = 512; i < 512 + 12288; i++)
			EQ(buf[i], 0);
		EQ(buf[12288 + 512], 0xaa);
		EQ(image_discard(im, 0, 16384), 0);
		OK(stat(path, &st) == 0);
		EQ(st.st_size, 1 << 20);
		image_close(im);
		im = NULL;
		unlink(path);
		rmdir(dir);
	}
}

TEST(image_discard_gives_blocks_back)
{
	static u8 buf[1 << 20];
	struct iovec v = vec(buf, sizeof buf);
	struct stat before, after;

	set_up(1 << 20);
	EQ(open_image((struct image_opts){ 0 }), 0);
	memset(buf, 1, sizeof buf);
	EQ(image_writev(im, &v, 1, 0), 0);
	EQ(image_flush(im), 0);
	OK(stat(path, &before) == 0);
	EQ(image_discard(im, 65536, 524288), 0);
	OK(stat(path, &after) == 0);
	if (after.st_blocks == before.st_blocks) {
		tear_down();
		SKIP("the file system of %s has no holes", dir);
	}
	OK(before.st_blocks - after.st_blocks >= 512);
	tear_down();
}
