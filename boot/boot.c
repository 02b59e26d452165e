/* boot.c - one loading from beginning to end: maps the kernel file, lays out low memory, recognises
 * the kind of kernel and hands over to its loader. */
#include "parts.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RAM_MIN_MIB = 4 }; /* below that no kernel has a place to stand */

/* Map a file the user named; what ("kernel", "initrd") begins the error text. */
static int file_map(struct file *f, const char *what, const char *path, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int rc = 0;
	struct stat st;
	void *p;

	*f = (struct file){ .path = path };
	if (fd < 0)
		return err_set(e, -errno, "%s %s: cannot open (%s)", what, path, strerror(errno));
	if (fstat(fd, &st) < 0)
		rc = err_set(e, -errno, "%s %s: cannot stat (%s)", what, path, strerror(errno));
	else if (S_ISDIR(st.st_mode))
		rc = err_set(e, -EISDIR, "%s %s: is a directory; give a file", what, path);
	else if (!S_ISREG(st.st_mode))
		rc = err_set(e, -EINVAL, "%s %s: not a regular file; copy it into one", what, path);
	else if (st.st_size == 0)
		rc = err_set(e, -EINVAL, "%s %s: is empty; give a complete file", what, path);
	if (rc == 0) {
		p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED)
			rc = err_set(e, -errno, "%s %s: cannot map (%s)", what, path,
				     strerror(errno));
		else
			f->data = p, f->len = (size_t)st.st_size;
	}
	close(fd);
	return rc;
}

static void file_unmap(struct file *f)
{
	if (f->data)
		munmap((void *)f->data, f->len);
}

void boot_put(struct loader *l, gpa_t gpa, const void *src, size_t len)
{
	bool ok = mem_write(l->m, gpa, src, len);

	ASSERT(ok);
}

bool boot_has_word(const char *cmdline, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = cmdline; (p = strstr(p, word)); p += n)
		if ((p == cmdline || p[-1] == ' ') && (p[n] == 0 || p[n] == ' '))
			return true;
	return false;
}

/* Read the file straight into guest memory: it is used once, so it is not worth mapping. */
static int read_into(const char *path, int fd, u8 *dst, u64 len, struct err *e)
{
	while (len) {
		ssize_t n = read(fd, dst, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(e, -errno, "initrd %s: cannot read (%s)", path,
				       strerror(errno));
		if (n == 0)
			return err_set(e, -EIO, "initrd %s: became shorter while read; try again",
				       path);
		dst += n;
		len -= (u64)n;
	}
	return 0;
}

static int place_initrd(struct loader *l, int fd, u64 len, u64 floor, u64 limit, struct err *e)
{
	const char *path = l->c->initrd;
	u64 top = MIN(limit, l->low_top);

	floor = ALIGN_UP(floor, PAGE_SIZE);
	if (top < floor || len > top - floor)
		return err_set(e, -ENOSPC,
			       "initrd %s: %llu KiB do not fit in the %llu KiB beside the "
			       "kernel; give the guest more memory with --mem",
			       path, (unsigned long long)(len / KIB),
			       (unsigned long long)(top > floor ? (top - floor) / KIB : 0));
	l->initrd = ALIGN_DOWN(top - len, PAGE_SIZE);
	l->initrd_len = len;
	if (l->initrd < floor)
		l->initrd = floor;
	int rc = read_into(path, fd, mem_ptr_rw(l->m, l->initrd, len), len, e);

	mem_dirty(l->m, l->initrd, len);
	return rc;
}

int boot_load_initrd(struct loader *l, u64 floor, u64 limit, struct err *e)
{
	const char *path = l->c->initrd;
	struct stat st;
	int fd, rc;

	if (!path)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, -errno, "initrd %s: cannot open (%s)", path, strerror(errno));
	if (fstat(fd, &st) < 0)
		rc = err_set(e, -errno, "initrd %s: cannot stat (%s)", path, strerror(errno));
	else if (S_ISDIR(st.st_mode))
		rc = err_set(e, -EISDIR, "initrd %s: is a directory; give a cpio archive", path);
	else if (!S_ISREG(st.st_mode))
		rc = err_set(e, -EINVAL, "initrd %s: not a regular file; copy it into one", path);
	else if (st.st_size == 0)
		rc = err_set(e, -EINVAL, "initrd %s: is empty; leave --initrd out for none", path);
	else
		rc = place_initrd(l, fd, (u64)st.st_size, floor, limit, e);
	close(fd);
	return rc;
}

static int load_by_kind(struct loader *l, struct err *e)
{
	if (linux_is_bzimage(&l->kernel))
		return linux_load_bzimage(l, e);
	if (elf_is(&l->kernel))
		return elf_load_kernel(l, e);
	if (multiboot_is(&l->kernel))
		return multiboot_load(l, e);
	return err_set(e, -ENOEXEC,
		       "kernel %s: not an x86 kernel (no bzImage, ELF or multiboot header); "
		       "give a bzImage such as /boot/vmlinuz-*, or a vmlinux",
		       l->kernel.path);
}

static int load_kernel(struct loader *l, struct err *e)
{
	int rc = boot_cmdline(l->cmdline, sizeof l->cmdline, l->c);
	struct stat st;

	if (rc < 0)
		return err_set(e, -E2BIG, "command line: longer than %zu bytes; shorten --cmdline",
			       sizeof l->cmdline - 1);
	l->cmdline_len = (size_t)rc;
	if (l->m->n == 0 || l->m->region[0].gpa != 0 || l->m->region[0].bytes < RAM_MIN_MIB * MIB)
		return err_set(e, -ENOMEM,
			       "memory: a kernel needs at least %d MiB; give more with --mem",
			       RAM_MIN_MIB);
	l->low_top = l->m->region[0].bytes;
	rc = file_map(&l->kernel, "kernel", l->c->kernel, e);
	if (rc < 0)
		return rc;
	if (l->c->initrd && stat(l->c->initrd, &st) == 0 && st.st_size > 0)
		l->initrd_room = (u64)st.st_size; /* judged and reported when it is loaded */
	e820_build(&l->map, l->m);
	if (l->c->pci.present) /* Linux uses the ECAM space only if it is reserved */
		e820_reserve(&l->map, l->c->pci.ecam, l->c->pci.ecam_len);
	boot_put(l, LOW_CMDLINE, l->cmdline, l->cmdline_len + 1);
	stub_put(l);
	rc = acpi_put(l, e);
	if (rc == 0)
		rc = mptable_put(l, e);
	if (rc == 0)
		rc = load_by_kind(l, e);
	file_unmap(&l->kernel);
	return rc;
}

int boot_load(const struct boot_config *c, struct memory *m, struct cpu_state *bsp, struct err *e)
{
	struct loader *l;
	int rc;

	if (c->bios)
		return bios_load(c, m, e); /* the power-on state is the entry state */
	if (!c->kernel)
		return err_set(e, -EINVAL, "nothing to boot; give --kernel FILE or --bios FILE");
	l = calloc(1, sizeof *l);
	if (!l)
		return err_set(e, -ENOMEM, "kernel %s: no host memory to load it", c->kernel);
	l->c = c;
	l->m = m;
	l->bsp = bsp;
	rc = load_kernel(l, e);
	free(l);
	return rc;
}
