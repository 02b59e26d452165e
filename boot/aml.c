/* aml.c - see aml.h.
 * Sources: ACPI 6.4 §20.2 "AML Grammar Definition", §6.4 "Resource Data Types". */
#include "aml.h"

enum { OP_ZERO = 0, OP_ONE = 1, OP_NAME = 8, OP_BYTE = 0x0a, OP_WORD = 0x0b, OP_DWORD = 0x0c,
       OP_STRING = 0x0d, OP_QWORD = 0x0e, OP_SCOPE = 0x10, OP_BUFFER = 0x11, OP_PACKAGE = 0x12,
       OP_EXT = 0x5b, OP_EXT_DEVICE = 0x82 };
enum { PKG_BYTES = 3 }; /* every PkgLength is written with three bytes: up to 1 MiB */

static void put(struct aml *a, const void *p, u32 n)
{
	if (n > a->cap - a->len) {
		a->full = true;
		return;
	}
	memcpy(a->buf + a->len, p, n);
	a->len += n;
}

static void put8(struct aml *a, u8 v)
{
	put(a, &v, 1);
}

/* PkgLength: the lead byte holds the count of further bytes and the low four bits of the length,
 * which counts itself. */
static void patch_length(struct aml *a, u32 at)
{
	u32 n = a->len - at;

	if (a->full)
		return;
	ASSERT(n < 1 << 20);
	a->buf[at] = (u8)((PKG_BYTES - 1) << 6 | (n & 15));
	a->buf[at + 1] = (u8)(n >> 4);
	a->buf[at + 2] = (u8)(n >> 12);
}

static void begin(struct aml *a)
{
	ASSERT(a->depth < AML_DEPTH);
	a->open[a->depth++] = a->len;
	put(a, "\0\0", PKG_BYTES);
}

void aml_end(struct aml *a)
{
	ASSERT(a->depth);
	patch_length(a, a->open[--a->depth]);
}

void aml_scope(struct aml *a, const char *path)
{
	put8(a, OP_SCOPE);
	begin(a);
	put(a, path, (u32)strlen(path));
}

void aml_device(struct aml *a, const char *name)
{
	put8(a, OP_EXT);
	put8(a, OP_EXT_DEVICE);
	begin(a);
	put(a, name, 4);
}

static void put_int(struct aml *a, u64 v)
{
	unsigned bytes = v < 0x100 ? 1 : v < 0x10000 ? 2 : v <= 0xffffffff ? 4 : 8;

	if (v <= 1) {
		put8(a, v ? OP_ONE : OP_ZERO);
		return;
	}
	put8(a, bytes == 1 ? OP_BYTE : bytes == 2 ? OP_WORD : bytes == 4 ? OP_DWORD : OP_QWORD);
	put(a, &v, bytes);
}

static void put_name(struct aml *a, const char *name)
{
	put8(a, OP_NAME);
	put(a, name, 4);
}

void aml_name_int(struct aml *a, const char *name, u64 v)
{
	put_name(a, name);
	put_int(a, v);
}

void aml_name_str(struct aml *a, const char *name, const char *v)
{
	put_name(a, name);
	put8(a, OP_STRING);
	put(a, v, (u32)strlen(v) + 1);
}

/* Three letters of five bits, four hexadecimal digits, big-endian. */
void aml_name_eisaid(struct aml *a, const char *name, const char *id)
{
	u32 v = (u32)(id[0] - '@') << 26 | (u32)(id[1] - '@') << 21 | (u32)(id[2] - '@') << 16;

	for (int i = 0; i < 4; i++)
		v |= (u32)(id[3 + i] <= '9' ? id[3 + i] - '0' : id[3 + i] - 'A' + 10)
		     << (12 - 4 * i);
	v = __builtin_bswap32(v);
	put_name(a, name);
	put8(a, OP_DWORD);
	put(a, &v, 4);
}

void aml_name_ints(struct aml *a, const char *name, const u8 *v, u8 n)
{
	aml_name_package(a, name, n);
	for (u8 i = 0; i < n; i++)
		put_int(a, v[i]);
	aml_end(a);
}

void aml_name_package(struct aml *a, const char *name, u8 n)
{
	put_name(a, name);
	aml_package(a, n);
}

void aml_package(struct aml *a, u8 n)
{
	put8(a, OP_PACKAGE);
	begin(a);
	put8(a, n);
}

void aml_int(struct aml *a, u64 v)
{
	put_int(a, v);
}

/* --- resources -------------------------------------------------------------------------------- */
static void crs_put(struct aml_crs *r, const void *p, u32 n)
{
	ASSERT(n <= sizeof r->buf - r->len);
	memcpy(r->buf + r->len, p, n);
	r->len += n;
}

/* §6.4.3.4: large item 6, 9 bytes: read-write, base, length. */
void aml_crs_memory(struct aml_crs *r, u32 base, u32 len)
{
	u8 item[12] = { 0x86, 9, 0, 1 };

	st32(item + 4, base);
	st32(item + 8, len);
	crs_put(r, item, sizeof item);
}

/* §6.4.3.6: large item 9, 6 bytes: flags (bit 0 consumer, 1 edge, 2 low, 3 shared), count, number.
 */
void aml_crs_irq(struct aml_crs *r, u32 gsi)
{
	u8 item[9] = { 0x89, 6, 0, 0x09, 1 };

	st32(item + 5, gsi);
	crs_put(r, item, sizeof item);
}

/* §6.4.2.1: small item 4 with a two-byte mask; no flags byte means edge, active high, exclusive. */
void aml_crs_isa_irq(struct aml_crs *r, u8 irq)
{
	u8 item[3] = { 0x22 };

	st16(item + 1, (u16)(1 << irq));
	crs_put(r, item, sizeof item);
}

/* §6.4.2.5: small item 8, 7 bytes: 16-bit decode, minimum, maximum, alignment, length. */
void aml_crs_io(struct aml_crs *r, u16 port, u8 len)
{
	u8 item[8] = { 0x47, 1 };

	st16(item + 2, port);
	st16(item + 4, port);
	item[6] = 1;
	item[7] = len;
	crs_put(r, item, sizeof item);
}

/* §6.4.3.5 "Address Space Resource Descriptors": large items 8 (word), 7 (dword), 10 (qword): type,
 * flags (producer, minimum and maximum fixed), the type's own flags, then granularity, minimum,
 * maximum, translation offset and length, each of `width` bytes. */
static void crs_range(struct aml_crs *r, u8 item, u8 type, u8 type_flags, u8 width, u64 base,
		      u64 len)
{
	enum { FIXED = 0x0c };
	u64 fields[] = { 0, base, base + len - 1, 0, len };
	u8 head[] = { (u8)(0x80 | item), (u8)(3 + 5 * width), 0, type, FIXED, type_flags };

	crs_put(r, head, sizeof head);
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		crs_put(r, &fields[i], width);
}

void aml_crs_buses(struct aml_crs *r, u16 first, u16 n)
{
	crs_range(r, 8, 2, 0, 2, first, n);
}

/* Type 1 is I/O; its flag 3 means the entire range. */
void aml_crs_ports(struct aml_crs *r, u16 first, u16 n)
{
	crs_range(r, 8, 1, 3, 2, first, n);
}

/* Type 0 is memory; its flag 1 means read-write, with the caching left to the system. */
void aml_crs_window32(struct aml_crs *r, u32 base, u32 len)
{
	crs_range(r, 7, 0, 1, 4, base, len);
}

void aml_crs_window64(struct aml_crs *r, u64 base, u64 len)
{
	crs_range(r, 10, 0, 1, 8, base, len);
}

void aml_name_crs(struct aml *a, struct aml_crs *r)
{
	u8 end_tag[2] = { 0x79, 0 }; /* a checksum of 0 counts as right (§6.4.2.9) */

	crs_put(r, end_tag, sizeof end_tag);
	put_name(a, "_CRS");
	put8(a, OP_BUFFER);
	begin(a);
	put_int(a, r->len);
	put(a, r->buf, r->len);
	aml_end(a);
}
