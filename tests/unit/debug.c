/* debug.c - the ports for firmware and tests. */
#include "../../devices/chipset.h"
#include "../rig.h"

static char text[64];

static size_t text_write(void *ctx, const u8 *buf, size_t n)
{
	strncat(text, (const char *)buf, n);
	return n;
}

TEST(debugcon_is_found_and_passes_text_on)
{
	struct chardev wire = { .write = text_write };
	struct rig *r = rig_new_with(&debugcon_ops, &wire);

	EQ(in8(r, DEBUGCON_PORT), 0xe9);
	out8(r, DEBUGCON_PORT, 'h'), out8(r, DEBUGCON_PORT, 'i');
	OK(!strcmp(text, "hi"));
	rig_free(r);
}

TEST(debugcon_without_a_wire_collects_lines_of_any_length)
{
	struct rig *r = rig_new(&debugcon_ops);

	for (int i = 0; i < 1000; i++)
		out8(r, DEBUGCON_PORT, (u8)i);
	rig_free(r);
}

TEST(post_port_keeps_the_code)
{
	struct rig *r = rig_new(&post_ops);

	out8(r, POST_PORT, 0x42);
	EQ(in8(r, POST_PORT), 0x42);
	rig_free(r);
}

TEST(debug_exit_hands_on_the_value)
{
	struct rig *r = rig_new(&debug_exit_ops);

	out8(r, DEBUG_EXIT_PORT2, 0x10);
	EQ(r->request[0].what, DEV_DEBUG_EXIT);
	EQ(r->request[0].arg, 0x10);
	out32(r, DEBUG_EXIT_PORT, 0x12345678);
	EQ(r->request[1].arg, 0x12345678);
	EQ(in32(r, DEBUG_EXIT_PORT), 0);
	rig_free(r);
}

TEST(boot_timer_wants_123_at_its_start)
{
	struct rig *r = rig_new(&boot_timer_ops);

	out8(r, BOOT_TIMER_BASE + 1, 123);
	out8(r, BOOT_TIMER_BASE, 122);
	EQ(rig_take_request(r), UINT32_MAX);
	out8(r, BOOT_TIMER_BASE, 123);
	EQ(rig_take_request(r), DEV_BOOT_MARK);
	rig_free(r);
}
