/* Tests of devices/fwcfg.c. */
#include <sys/mman.h>
#include <unistd.h>

#include "../../devices/fwcfg.h"
#include "../rig.h"

enum { KEY_TEXT = 0x20, KEY_FILE = 0x21, DESC = 0x1000, BUF = 0x2000 };

static const char text[] = "firmware";

static struct rig *fwcfg_rig(const struct fwcfg_item *item, u32 n)
{
	static struct fwcfg_setup setup;

	setup = (struct fwcfg_setup){ item, n };
	return rig_new_with(&fwcfg_ops, &setup);
}

static struct rig *fwcfg_rig_with_text(void)
{
	static const struct fwcfg_item item = { .key = KEY_TEXT, .data = (const u8 *)text,
		.len = 8 };

	return fwcfg_rig(&item, 1);
}

static void ports_say(struct rig *r, const char *want)
{
	while (*want)
		EQ(in8(r, FWCFG_PORT + 1), (u8)*want++);
}

static u8 *at(struct rig *r, gpa_t gpa)
{
	return mem_ptr(&r->mem, gpa, 1);
}

/* Let a descriptor run; what is left in its control field. */
static u32 dma(struct rig *r, u32 control, u32 len, u64 addr)
{
	u8 *desc = at(r, DESC);

	st32(desc, __builtin_bswap32(control));
	st32(desc + 4, __builtin_bswap32(len));
	st64(desc + 8, __builtin_bswap64(addr));
	out32(r, FWCFG_DMA_PORT, 0);
	out32(r, FWCFG_DMA_PORT + 4, __builtin_bswap32(DESC));
	return __builtin_bswap32(ld32(desc));
}

TEST(fwcfg_is_recognised)
{
	struct rig *r = rig_new(&fwcfg_ops);

	out16(r, FWCFG_PORT, FWCFG_SIGNATURE);
	ports_say(r, "QEMU");
	out16(r, FWCFG_PORT, FWCFG_ID);
	EQ(in8(r, FWCFG_PORT + 1), 3);
	EQ(in32(r, FWCFG_DMA_PORT), ld32("QEMU"));
	EQ(in32(r, FWCFG_DMA_PORT + 4), ld32(" CFG"));
	rig_free(r);
}

TEST(fwcfg_data_port_walks_through_an_item_and_on_into_zeros)
{
	struct rig *r = fwcfg_rig_with_text();

	out16(r, FWCFG_PORT, KEY_TEXT);
	ports_say(r, "firmware");
	EQ(in8(r, FWCFG_PORT + 1), 0);
	out16(r, FWCFG_PORT, KEY_TEXT);
	ports_say(r, "firm");
	out8(r, FWCFG_PORT, 0); /* half a selector, and the data port: not writable */
	out8(r, FWCFG_PORT + 1, 0x55);
	ports_say(r, "ware");
	out16(r, FWCFG_PORT, 0x99);
	EQ(in8(r, FWCFG_PORT + 1), 0);
	EQ(in8(r, FWCFG_PORT), 0xff);
	rig_free(r);
}

TEST(fwcfg_dma_reads_skips_and_selects)
{
	struct rig *r = fwcfg_rig_with_text();

	memset(at(r, BUF), 0x55, 16);
	EQ(dma(r, KEY_TEXT << 16 | FWCFG_DMA_SELECT | FWCFG_DMA_READ, 10, BUF), 0);
	OK(!memcmp(at(r, BUF), "firmware\0\0\x55", 11));
	EQ(dma(r, KEY_TEXT << 16 | FWCFG_DMA_SELECT | FWCFG_DMA_SKIP, 4, 0), 0);
	EQ(dma(r, FWCFG_DMA_READ, 4, BUF), 0);
	OK(!memcmp(at(r, BUF), "warewareno" , 4));
	EQ(dma(r, FWCFG_DMA_READ, 0, ~0ull), 0);
	rig_free(r);
}

TEST(fwcfg_dma_takes_the_address_in_one_or_two_pieces)
{
	struct rig *r = fwcfg_rig_with_text();
	u8 *desc = at(r, DESC);

	memset(desc, 0, FWCFG_DMA_BYTES);
	desc[3] = FWCFG_DMA_WRITE;
	out32(r, FWCFG_DMA_PORT, 1); /* 1000000h above: nothing is there */
	out32(r, FWCFG_DMA_PORT + 4, __builtin_bswap32(DESC));
	EQ(desc[3], FWCFG_DMA_WRITE);
	bus_write(&r->bus, FWCFG_DMA_PORT, 8, __builtin_bswap64(DESC));
	EQ(desc[3], FWCFG_DMA_ERROR);
	rig_free(r);
}

TEST(fwcfg_dma_reports_what_it_cannot_do)
{
	struct rig *r = fwcfg_rig_with_text();

	EQ(dma(r, KEY_TEXT << 16 | FWCFG_DMA_SELECT | FWCFG_DMA_WRITE, 4, BUF), FWCFG_DMA_ERROR);
	EQ(dma(r, FWCFG_DMA_READ, 4, r->mem.ram_bytes - 2), FWCFG_DMA_ERROR);
	EQ(dma(r, FWCFG_DMA_READ, 4, ~0ull - 1), FWCFG_DMA_ERROR);
	EQ(dma(r, FWCFG_DMA_READ, UINT32_MAX, 0), FWCFG_DMA_ERROR);
	EQ(text[0], 'f');
	rig_free(r);
}

TEST(fwcfg_dma_of_nothing_is_bounded)
{
	struct rig *r = fwcfg_rig_with_text();

	EQ(dma(r, KEY_TEXT << 16 | FWCFG_DMA_SELECT | FWCFG_DMA_READ, (64 << 10) + 9, BUF),
		FWCFG_DMA_ERROR);
	ports_say(r, "firmware"); /* it has not moved */
	EQ(dma(r, KEY_TEXT << 16 | FWCFG_DMA_SELECT | FWCFG_DMA_READ, (64 << 10) + 8, BUF), 0);
	rig_free(r);
}

TEST(fwcfg_place_never_wraps)
{
	struct rig *r = fwcfg_rig_with_text();

	EQ(dma(r, KEY_TEXT << 16 | FWCFG_DMA_SELECT | FWCFG_DMA_SKIP, UINT32_MAX, 0), 0);
	EQ(dma(r, FWCFG_DMA_SKIP, 2, 0), 0);
	EQ(dma(r, FWCFG_DMA_READ, 1, BUF), 0);
	EQ(*at(r, BUF), 0);
	rig_free(r);
}

TEST(fwcfg_reads_a_host_file_that_may_have_become_shorter)
{
	int fd = memfd_create("fwcfg", 0);
	struct fwcfg_item item = { .key = KEY_FILE, .fd = fd, .off = 100, .len = 9000 };
	struct rig *r = fwcfg_rig(&item, 1);

	OK(pwrite(fd, "A", 1, 100) == 1 && pwrite(fd, "Z", 1, 9099) == 1);
	EQ(dma(r, KEY_FILE << 16 | FWCFG_DMA_SELECT | FWCFG_DMA_READ, 10000, BUF), 0);
	EQ(*at(r, BUF), 'A');
	EQ(*at(r, BUF + 8999), 'Z');
	EQ(*at(r, BUF + 9000), 0);
	OK(ftruncate(fd, 5000) == 0);
	EQ(dma(r, KEY_FILE << 16 | FWCFG_DMA_SELECT | FWCFG_DMA_READ, 9000, BUF), 0);
	EQ(*at(r, BUF), 'A');
	EQ(*at(r, BUF + 8999), 0);
	rig_free(r);
	close(fd);
}
