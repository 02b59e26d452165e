/* linux.c - bzImage: reads the setup header, places kernel, initrd and boot_params, and enters by
 * the 64-bit, 32-bit or 16-bit protocol.
 * Sources: Linux Documentation/x86/boot.rst (protocol 2.06 and later), zero-page.rst. */
#include "parts.h"

#include <sys/random.h>

/* Offsets in the file's first bytes and in boot_params alike. */
enum {
	HDR_ACPI_RSDP = 0x070,
	HDR_EXT_RAMDISK = 0x0c0,
	HDR_ALT_MEM_K = 0x1e0,
	HDR_E820_ENTRIES = 0x1e8,
	HDR_SETUP_SECTS = 0x1f1, /* the header begins */
	HDR_SYSSIZE = 0x1f4,
	HDR_VID_MODE = 0x1fa,
	HDR_BOOT_FLAG = 0x1fe,
	HDR_LENGTH = 0x201,
	HDR_MAGIC = 0x202,
	HDR_VERSION = 0x206,
	HDR_LOADER_TYPE = 0x210,
	HDR_LOADFLAGS = 0x211,
	HDR_CODE32_START = 0x214,
	HDR_RAMDISK = 0x218,
	HDR_HEAP_END = 0x224,
	HDR_CMD_LINE = 0x228,
	HDR_INITRD_MAX = 0x22c,
	HDR_ALIGNMENT = 0x230,
	HDR_RELOCATABLE = 0x234,
	HDR_XLOADFLAGS = 0x236,
	HDR_CMDLINE_SIZE = 0x238,
	HDR_PAYLOAD = 0x248,
	HDR_SETUP_DATA = 0x250,
	HDR_PREF_ADDRESS = 0x258,
	HDR_INIT_SIZE = 0x260,
	HDR_MAX = 0x290, /* boot_params has other fields from here */
	HDR_E820_TABLE = 0x2d0,
};

enum { BOOT_FLAG = 0xaa55, LOADER_UNDEFINED = 0xff };
enum { LOADED_HIGH = 1, KASLR_FLAG = 2, CAN_USE_HEAP = 0x80 };
enum { XLF_KERNEL_64 = 1 };
enum {
	VIDEO_CURRENT_MODE = 0x0f04
}; /* no mode is set, so no display is found (admin-guide/svga.rst) */
enum { PROTOCOL_OLDEST = 0x206, ENTRY_64_OFF = 0x200 };
enum { REAL_MODE_STACK = 0xf000 }; /* end of heap and stack in the real-mode segment */
enum { SETUP_RNG_SEED = 9, RNG_SEED_BYTES = 32 };
#define HDR_MAGIC_VALUE 0x53726448 /* "HdrS" */

bool linux_is_bzimage(const struct file *f)
{
	return f->len >= HDR_MAX && ld16(f->data + HDR_BOOT_FLAG) == BOOT_FLAG &&
	       ld32(f->data + HDR_MAGIC) == HDR_MAGIC_VALUE;
}

/* The fields that came with protocol 2.08 to 2.12, or what older kernels mean by not having them.
 */
static void parse_newer_fields(const u8 *p, struct linux_header *h)
{
	if (h->version >= 0x208 && ld32(p + HDR_PAYLOAD) < h->code_len &&
	    ld32(p + HDR_PAYLOAD + 4) <= h->code_len - ld32(p + HDR_PAYLOAD)) {
		h->payload = h->code + ld32(p + HDR_PAYLOAD);
		h->payload_len = ld32(p + HDR_PAYLOAD + 4);
	}
	h->pref_address = LINUX_LOAD_HIGH;
	h->init_size = h->code_len * 4; /* unpacked size is not told: a guess that holds for gzip */
	if (h->version >= 0x20a) {
		h->pref_address = ld64(p + HDR_PREF_ADDRESS);
		h->init_size = MAX(h->code_len, ld32(p + HDR_INIT_SIZE));
	}
	if (h->version >= 0x20c)
		h->xloadflags = ld16(p + HDR_XLOADFLAGS);
}

const char *linux_parse_header(const struct file *f, struct linux_header *h)
{
	const u8 *p = f->data;
	u64 code_len;

	if (!linux_is_bzimage(f))
		return "not a bzImage";
	*h = (struct linux_header){ .version = ld16(p + HDR_VERSION) };
	if (h->version < PROTOCOL_OLDEST)
		return "its boot protocol is older than 2.06 (Linux 2.6.22)";
	h->setup_len = ((p[HDR_SETUP_SECTS] ? p[HDR_SETUP_SECTS] : 4) + 1) * 512u;
	h->header_len = MIN(HDR_MAGIC + p[HDR_LENGTH], HDR_MAX) - HDR_SETUP_SECTS;
	h->loadflags = p[HDR_LOADFLAGS];
	if (!(h->loadflags & LOADED_HIGH))
		return "it is a zImage, which loads low; build a bzImage";
	code_len = (u64)ld32(p + HDR_SYSSIZE) * 16;
	if (code_len == 0 || h->setup_len >= f->len)
		return "is truncated; copy it again";
	/* The build may round syssize up past the file's end by less than a paragraph. */
	if (h->setup_len + code_len > ALIGN_UP(f->len, 16))
		return "is truncated; copy it again";
	h->code = p + h->setup_len;
	h->code_len = f->len - h->setup_len; /* with the checksum or signature behind the code */
	h->relocatable = p[HDR_RELOCATABLE];
	h->alignment = ld32(p + HDR_ALIGNMENT);
	h->cmdline_size = ld32(p + HDR_CMDLINE_SIZE);
	h->initrd_max = ld32(p + HDR_INITRD_MAX);
	h->code32_start = ld32(p + HDR_CODE32_START);
	parse_newer_fields(p, h);
	if (h->pref_address % PAGE_SIZE || h->pref_address < LINUX_LOAD_HIGH ||
	    h->pref_address >= 4 * GIB)
		return "its preferred load address makes no sense; the file is damaged";
	return NULL;
}

/* A seed for the kernel's random numbers, used since Linux 6.0; the kernel erases it. */
static void put_rng_seed(struct loader *l)
{
	u8 data[16 + RNG_SEED_BYTES] = { 0 };

	st32(data + 8, SETUP_RNG_SEED);
	st32(data + 12, RNG_SEED_BYTES);
	if (getrandom(data + 16, RNG_SEED_BYTES, 0) == RNG_SEED_BYTES)
		boot_put(l, LOW_SETUP_DATA, data, sizeof data);
}

/* The fields every boot loader sets ("write (obligatory)" in boot.rst). */
static void fill_header(struct loader *l, u8 *p)
{
	p[HDR_LOADER_TYPE] = LOADER_UNDEFINED;
	st32(p + HDR_CMD_LINE, LOW_CMDLINE);
	st32(p + HDR_RAMDISK, (u32)l->initrd);
	st32(p + HDR_RAMDISK + 4, (u32)l->initrd_len);
}

static void fill_setup_data(struct loader *l, u8 *p)
{
	if (ld16(p + HDR_VERSION) < 0x209)
		return;
	put_rng_seed(l);
	st64(p + HDR_SETUP_DATA, LOW_SETUP_DATA);
}

void linux_put_zero_page(struct loader *l, const u8 *header, u32 header_len, u8 loadflags)
{
	u8 p[4096] = { 0 };

	if (header) {
		memcpy(p + HDR_SETUP_SECTS, header, header_len);
	} else {
		st16(p + HDR_BOOT_FLAG, BOOT_FLAG);
		st32(p + HDR_MAGIC, HDR_MAGIC_VALUE);
		st16(p + HDR_VERSION, 0x20f);
	}
	p[HDR_LOADFLAGS] = loadflags;
	fill_header(l, p);
	fill_setup_data(l, p);
	st64(p + HDR_ACPI_RSDP, l->rsdp);
	st32(p + HDR_EXT_RAMDISK, (u32)(l->initrd >> 32));
	st32(p + HDR_EXT_RAMDISK + 4, (u32)(l->initrd_len >> 32));
	st32(p + HDR_ALT_MEM_K, (u32)((l->low_top - MIB) / KIB));
	p[HDR_E820_ENTRIES] = (u8)l->map.n;
	for (u32 i = 0; i < l->map.n; i++) {
		u8 *at = p + HDR_E820_TABLE + i * 20;

		st64(at, l->map.entry[i].addr);
		st64(at + 8, l->map.entry[i].len);
		st32(at + 16, l->map.entry[i].type);
	}
	boot_put(l, LOW_ZERO_PAGE, p, sizeof p);
}

static u64 initrd_limit(const struct linux_header *h)
{
	return (u64)h->initrd_max + 1;
}

static int too_small(struct loader *l, u64 need, struct err *e)
{
	return err_set(e, -ENOMEM,
		       "kernel %s: needs %llu MiB of memory to unpack itself; give more with --mem",
		       l->kernel.path, (unsigned long long)((need + MIB - 1) / MIB));
}

/* Copy the compressed kernel to where it wants to be and the initrd behind all it will use; *at is
 * the address. */
static int place_compressed(struct loader *l, const struct linux_header *h, u64 *at, struct err *e)
{
	u64 run = h->pref_address, end = run + h->init_size;
	u8 *dst;

	*at = h->relocatable ? run : LINUX_LOAD_HIGH;
	end = MAX(end, *at + h->code_len);
	if (end > l->low_top)
		return too_small(l, end, e);
	dst = mem_ptr_rw(l->m, *at, h->code_len);
	ASSERT(dst);
	memcpy(dst, h->code, h->code_len);
	mem_dirty(l->m, *at, h->code_len);
	return boot_load_initrd(l, end, initrd_limit(h), e);
}

static int load_compressed(struct loader *l, const struct linux_header *h, bool entry64,
			   struct err *e)
{
	u64 at;
	int rc = place_compressed(l, h, &at, e);

	if (rc < 0)
		return rc;
	linux_put_zero_page(l, l->kernel.data + HDR_SETUP_SECTS, h->header_len, h->loadflags);
	if (entry64) {
		entry_long_mode(l, at + ENTRY_64_OFF, LOW_ZERO_PAGE);
	} else {
		entry_protected(l, (u32)at);
		l->bsp->gpr[RSI] = LOW_ZERO_PAGE;
	}
	log_dbg("boot", "kernel at %#llx unpacks itself, %s-bit entry", (unsigned long long)at,
		entry64 ? "64" : "32");
	return 0;
}

/* boot.rst "Sample Boot Configuration" and "Running the Kernel". */
static int check_setup_len(const struct loader *l, const struct linux_header *h, struct err *e)
{
	if (h->setup_len <= REAL_MODE_STACK - 0x1000)
		return 0;
	return err_set(e, -EINVAL, "kernel %s: its set-up code is too big for one segment; "
		       "the file is damaged", l->kernel.path);
}

static void fill_real_mode(struct loader *l, u8 *setup, u64 code32)
{
	fill_header(l, setup);
	setup[HDR_LOADFLAGS] |= CAN_USE_HEAP;
	st16(setup + HDR_VID_MODE, VIDEO_CURRENT_MODE);
	st32(setup + HDR_CODE32_START, (u32)code32);
	st16(setup + HDR_HEAP_END, REAL_MODE_STACK - 0x1000 - 0x200);
}

void linux_finish_setup(struct loader *l, u8 *setup)
{
	fill_real_mode(l, setup, LINUX_LOAD_HIGH);
}

static int load_real_mode(struct loader *l, const struct linux_header *h, struct err *e)
{
	u8 setup[(255 + 1) * 512];
	u64 at;
	int rc = check_setup_len(l, h, e);

	if (rc >= 0)
		rc = place_compressed(l, h, &at, e);
	if (rc < 0)
		return rc;
	memcpy(setup, l->kernel.data, h->setup_len);
	fill_real_mode(l, setup, at);
	fill_setup_data(l, setup);
	boot_put(l, LOW_REAL_MODE, setup, h->setup_len);
	entry_real_mode(l, (LOW_REAL_MODE >> 4) + 0x20, 0, REAL_MODE_STACK);
	log_dbg("boot", "kernel at %#llx unpacks itself, 16-bit entry", (unsigned long long)at);
	return 0;
}

static int load_unpacked(struct loader *l, const struct linux_header *h, struct err *e)
{
	struct vmlinux v = l->c->vmlinux;
	int rc = l->c->unpacked ? l->c->unpack_rc : vmlinux_unpack(l, h, &v);

	if (rc < 0) {
		log_at(rc == -ENOTSUP ? LOG_DBG : LOG_INFO, "boot",
		       "kernel %s: mvm cannot unpack it (%s); it will do so itself", l->kernel.path,
		       strerror(-rc));
		return -ENOTSUP;
	}
	rc = boot_load_initrd(l, v.end, initrd_limit(h), e);
	if (rc < 0)
		return rc == -ENOTSUP ? -EIO : rc;
	linux_put_zero_page(l, l->kernel.data + HDR_SETUP_SECTS, h->header_len,
			    (u8)(h->loadflags | (v.kaslr ? KASLR_FLAG : 0)));
	entry_long_mode(l, v.entry, LOW_ZERO_PAGE);
	log_dbg("boot", "kernel (%s) unpacked, 64-bit entry at %#llx%s",
		payload_method(h->payload, h->payload_len), (unsigned long long)v.entry,
		v.kaslr ? ", addresses randomised" : "");
	return 0;
}

static int check_header(struct loader *l, struct linux_header *h, struct err *e)
{
	const char *why = linux_parse_header(&l->kernel, h);

	if (why)
		return err_set(e, -ENOEXEC, "kernel %s: %s", l->kernel.path, why);
	if (l->cmdline_len > h->cmdline_size)
		return err_set(e, -E2BIG,
			       "kernel %s: takes a command line of at most %u bytes, this one has "
			       "%zu; shorten --cmdline",
			       l->kernel.path, h->cmdline_size, l->cmdline_len);
	return 0;
}

int linux_check_for_firmware(struct loader *l, struct linux_header *h, struct err *e)
{
	u64 end;
	int rc = check_header(l, h, e);

	if (rc == 0)
		rc = check_setup_len(l, h, e);
	if (rc < 0)
		return rc;
	end = MAX(h->pref_address + h->init_size, LINUX_LOAD_HIGH + h->code_len);
	return end > l->low_top ? too_small(l, end, e) : 0;
}

static bool mvm_unpacks(const struct loader *l, const struct linux_header *h)
{
	return (l->c->entry == BOOT_AUTO || l->c->entry == BOOT_64) && !l->c->keep_compressed &&
	       h->xloadflags & XLF_KERNEL_64;
}

int linux_unpack(struct loader *l, struct vmlinux *v)
{
	struct linux_header h;

	if (linux_parse_header(&l->kernel, &h) || !mvm_unpacks(l, &h))
		return -ENOTSUP;
	return vmlinux_unpack(l, &h, v);
}

int linux_load_bzimage(struct loader *l, struct err *e)
{
	struct linux_header h;
	enum boot_entry entry = l->c->entry;
	bool has64;
	int rc = check_header(l, &h, e);

	if (rc < 0)
		return rc;
	has64 = h.xloadflags & XLF_KERNEL_64;
	if (entry == BOOT_PVH || (entry == BOOT_64 && !has64))
		return err_set(e, -ENOTSUP,
			       "kernel %s: a bzImage without %s entry; choose another entry",
			       l->kernel.path, entry == BOOT_PVH ? "PVH" : "64-bit");
	if (entry == BOOT_AUTO)
		entry = has64 ? BOOT_64 : BOOT_32;
	if (entry == BOOT_16)
		return load_real_mode(l, &h, e);
	if (mvm_unpacks(l, &h)) {
		rc = load_unpacked(l, &h, e);
		if (rc != -ENOTSUP)
			return rc;
	}
	return load_compressed(l, &h, entry == BOOT_64, e);
}
