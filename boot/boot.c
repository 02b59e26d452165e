/* boot.c - one loading from beginning to end: maps the kernel file, lays out low memory, recognises
 * the kind of kernel and hands over to its loader. */
#include "parts.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RAM_MIN_MIB = 4 }; /* below that no kernel has a place to stand */
enum { HEAP_ALIGN = 64 };
#define HEAP_BYTES (BOOT_UNPACK_MAX + 16 * MIB)

/* --- memory ----------------------------------------------------------------------------------- */
int boot_heap_new(struct boot_heap *h)
{
	*h = (struct boot_heap){ .base = host_pages_new(HEAP_BYTES) };
	return h->base ? 0 : -ENOMEM;
}

void boot_heap_free(struct boot_heap *h)
{
	host_pages_free(h->base, HEAP_BYTES);
	*h = (struct boot_heap){ 0 };
}

void *boot_alloc(struct boot_heap *h, u64 bytes)
{
	void *p = h->base + h->used;

	bytes = ALIGN_UP(bytes, HEAP_ALIGN);
	if (bytes > HEAP_BYTES - h->used)
		return NULL;
	h->used += bytes;
	return p;
}

/* Untouched memory is zero again, and costs nothing. */
void boot_heap_reset(struct boot_heap *h)
{
	madvise(h->base, ALIGN_UP(h->used, PAGE_SIZE), MADV_DONTNEED);
	h->used = 0;
}

/* --- files ------------------------------------------------------------------------------------ */

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

int boot_files_open(struct boot_config *c, struct err *e)
{
	struct file *bios = &c->bios_file, *initrd = &c->initrd_file;
	int rc = 0;

	if (!c->bios && !c->kernel)
		return err_set(e, -EINVAL, "nothing to boot; give --kernel FILE or --bios FILE");
	*bios = (struct file){ .path = c->bios, .fd = -1 };
	if (c->bios) /* it gets its kernel from fw_cfg */
		rc = boot_open("bios", c->bios, &bios->fd, &bios->len, e);
	else
		rc = boot_map_file(&c->kernel_file, "kernel", c->kernel, e);
	*initrd = (struct file){ .path = c->initrd, .fd = -1 };
	if (rc == 0 && c->initrd && !c->bios)
		rc = boot_open("initrd", c->initrd, &initrd->fd, &initrd->len, e);
	if (rc == 0 && boot_heap_new(&c->heap) < 0)
		rc = err_set(e, -ENOMEM, "boot: no host memory");
	if (rc < 0)
		boot_files_close(c);
	return rc;
}

void boot_files_close(struct boot_config *c)
{
	boot_unmap_file(&c->kernel_file);
	boot_unmap_file(&c->initrd_file);
	boot_unmap_file(&c->bios_file);
	boot_heap_free(&c->heap);
	c->kernel_file = c->initrd_file = c->bios_file = (struct file){ 0 };
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

/* Read straight into guest memory: it is used once, so it is not worth mapping. */
int boot_load_initrd(struct loader *l, u64 floor, u64 limit, struct err *e)
{
	const struct file *f = &l->c->initrd_file;
	int rc;

	if (!f->path)
		return 0;
	l->initrd_len = f->len;
	rc = boot_choose_initrd(l, floor, limit, e);
	if (rc < 0)
		return rc;
	rc = file_read_at(f->fd, mem_ptr_rw(l->m, l->initrd, f->len), f->len, 0);
	if (rc < 0)
		return err_set(e, rc, "initrd %s: cannot read (%s)", f->path, strerror(-rc));
	mem_dirty(l->m, l->initrd, f->len);
	return 0;
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

/* What the kernel's place depends on. */
static int loader_init(struct loader *l, struct boot_config *c, struct memory *m, struct err *e)
{
	int rc;

	l->c = c;
	l->heap = &c->heap;
	l->m = m;
	rc = boot_set_cmdline(l, e);
	if (rc < 0)
		return rc;
	if (m->n == 0 || m->region[0].gpa != 0 || m->region[0].bytes < RAM_MIN_MIB * MIB)
		return err_set(e, -ENOMEM,
			       "memory: a kernel needs at least %d MiB; give more with --mem",
			       RAM_MIN_MIB);
	l->low_top = m->region[0].bytes;
	l->kernel = c->kernel_file;
	l->initrd_room = c->initrd_file.len;
	return 0;
}

static u32 drivers_built_in(struct loader *l, struct boot_config *c)
{
	const u8 *text;

	if (elf_is(&l->kernel) && !multiboot_is(&l->kernel))
		return drivers_in_kernel(l->kernel.data, l->kernel.len);
	if (!linux_is_bzimage(&l->kernel))
		return DRIVER_PCI;
	c->unpack_rc = linux_unpack(l, &c->vmlinux);
	c->unpacked = true;
	text = c->unpack_rc ? NULL : mem_ptr(l->m, c->vmlinux.start, c->vmlinux.text_len);
	return text ? drivers_in_kernel(text, c->vmlinux.text_len) : DRIVER_PCI;
}

/* The initrd first: it takes less. */
u32 boot_drivers(struct boot_config *c, struct memory *m)
{
	u32 found = drivers_in_initrd(&c->heap, &c->initrd_file);
	struct loader *l;
	struct err e; /* boot_load will say it again */

	boot_heap_reset(&c->heap);
	if (found & DRIVER_MMIO)
		return found;
	l = boot_alloc(&c->heap, sizeof *l);
	if (loader_init(l, c, m, &e) == 0)
		found |= drivers_built_in(l, c);
	boot_heap_reset(&c->heap);
	return found;
}

static int load_kernel(struct loader *l, struct err *e)
{
	int rc;

	e820_build(&l->map, l->m, &l->c->pci);
	boot_put(l, LOW_CMDLINE, l->cmdline, l->cmdline_len + 1);
	stub_put(l);
	smbios_put(l);
	rc = acpi_put(l, e);
	if (rc == 0)
		rc = mptable_put(l, e);
	if (rc == 0)
		rc = load_by_kind(l, e);
	return rc;
}

static int load(struct boot_config *c, struct memory *m, struct cpu_state *bsp, struct err *e)
{
	struct loader *l;
	int rc;

	if (c->bios)
		return bios_load(c, m, e); /* the power-on state is the entry state */
	l = boot_alloc(&c->heap, sizeof *l);
	l->bsp = bsp;
	rc = loader_init(l, c, m, e);
	if (rc == 0)
		rc = load_kernel(l, e);
	c->unpacked = false;
	boot_heap_reset(&c->heap);
	return rc;
}

int boot_load(struct boot_config *c, struct memory *m, struct cpu_state *bsp, struct err *e)
{
	bool opened = c->heap.base;
	int rc = opened ? 0 : boot_files_open(c, e);

	if (rc < 0)
		return rc;
	rc = load(c, m, bsp, e);
	if (!opened)
		boot_files_close(c);
	return rc;
}
