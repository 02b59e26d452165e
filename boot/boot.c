/* boot.c - one loading from beginning to end: maps the kernel file, lays out low memory, recognises
 * the kind of kernel and hands over to its loader. */
#include "parts.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RAM_MIN_MIB = 4 }; /* below that no kernel has a place to stand */

int boot_open(const char *what, const char *path, int *fd, u64 *len, struct err *e)
{
	struct stat st;
	int rc;

	*fd = open(path, O_RDONLY | O_CLOEXEC);
	if (*fd < 0)
		return err_set(e, -errno, "%s %s: cannot open (%s)", what, path, strerror(errno));
	if (fstat(*fd, &st) < 0)
		rc = err_set(e, -errno, "%s %s: cannot stat (%s)", what, path, strerror(errno));
	else if (S_ISDIR(st.st_mode))
		rc = err_set(e, -EISDIR, "%s %s: is a directory; give a file", what, path);
	else if (!S_ISREG(st.st_mode))
		rc = err_set(e, -EINVAL, "%s %s: not a regular file; copy it into one", what, path);
	else if (st.st_size == 0)
		rc = err_set(e, -EINVAL, "%s %s: is empty; give a complete file", what, path);
	else if (st.st_size > UINT32_MAX)
		rc = err_set(e, -EFBIG, "%s %s: is larger than 4 GiB", what, path);
	else
		return *len = (u64)st.st_size, 0;
	close(*fd);
	*fd = -1;
	return rc;
}

int boot_map_file(struct file *f, const char *what, const char *path, struct err *e)
{
	int rc;
	void *p;

	*f = (struct file){ .path = path, .fd = -1 };
	rc = boot_open(what, path, &f->fd, &f->len, e);
	if (rc < 0)
		return rc;
	p = mmap(NULL, f->len, PROT_READ, MAP_PRIVATE, f->fd, 0);
	if (p == MAP_FAILED)
		return err_set(e, -errno, "%s %s: cannot map (%s)", what, path, strerror(errno));
	f->data = p;
	return 0;
}

void boot_unmap_file(struct file *f)
{
	if (f->data)
		munmap((void *)f->data, f->len);
	if (f->path && f->fd >= 0)
		close(f->fd);
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

int boot_choose_initrd(struct loader *l, u64 floor, u64 limit, struct err *e)
{
	u64 top = MIN(limit, l->low_top), len = l->initrd_len;

	floor = ALIGN_UP(floor, PAGE_SIZE);
	if (top < floor || len > top - floor)
		return err_set(e, -ENOSPC,
			       "initrd %s: %llu KiB do not fit in the %llu KiB beside the "
			       "kernel; give the guest more memory with --mem",
			       l->c->initrd, (unsigned long long)(len / KIB),
			       (unsigned long long)(top > floor ? (top - floor) / KIB : 0));
	l->initrd = MAX(ALIGN_DOWN(top - len, PAGE_SIZE), floor);
	return 0;
}

int boot_load_initrd(struct loader *l, u64 floor, u64 limit, struct err *e)
{
	const char *path = l->c->initrd;
	int fd, rc;

	if (!path)
		return 0;
	rc = boot_open("initrd", path, &fd, &l->initrd_len, e);
	if (rc < 0)
		return rc;
	rc = boot_choose_initrd(l, floor, limit, e);
	if (rc == 0)
		rc = read_into(path, fd, mem_ptr_rw(l->m, l->initrd, l->initrd_len), l->initrd_len, e);
	if (rc == 0)
		mem_dirty(l->m, l->initrd, l->initrd_len);
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

int boot_set_cmdline(struct loader *l, struct err *e)
{
	int rc = boot_cmdline(l->cmdline, sizeof l->cmdline, l->c);

	if (rc < 0)
		return err_set(e, -E2BIG, "command line: longer than %zu bytes; shorten --cmdline",
			       sizeof l->cmdline - 1);
	l->cmdline_len = (size_t)rc;
	return 0;
}

static int load_kernel(struct loader *l, struct err *e)
{
	struct stat st;
	int rc = boot_set_cmdline(l, e);

	if (rc < 0)
		return rc;
	if (l->m->n == 0 || l->m->region[0].gpa != 0 || l->m->region[0].bytes < RAM_MIN_MIB * MIB)
		return err_set(e, -ENOMEM,
			       "memory: a kernel needs at least %d MiB; give more with --mem",
			       RAM_MIN_MIB);
	l->low_top = l->m->region[0].bytes;
	rc = boot_map_file(&l->kernel, "kernel", l->c->kernel, e);
	if (rc < 0)
		return rc;
	if (l->c->initrd && stat(l->c->initrd, &st) == 0 && st.st_size > 0)
		l->initrd_room = (u64)st.st_size; /* judged and reported when it is loaded */
	e820_build(&l->map, l->m, &l->c->pci);
	boot_put(l, LOW_CMDLINE, l->cmdline, l->cmdline_len + 1);
	stub_put(l);
	smbios_put(l);
	rc = acpi_put(l, e);
	if (rc == 0)
		rc = mptable_put(l, e);
	if (rc == 0)
		rc = load_by_kind(l, e);
	boot_unmap_file(&l->kernel);
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
