/* i8042.c - the keyboard controller, asked as Linux and firmware ask it. */
#include "../../devices/chipset.h"
#include "../rig.h"

enum { DATA = I8042_DATA_PORT, CMD = I8042_CMD_PORT, PORT_A = I8042_PORT_A };
enum { OBF = 1, AUX = 0x20, TIMEOUT = 0x40, ACK = 0xfa };

static u8 answer(struct rig *r)
{
	OK(in8(r, CMD) & OBF);
	return in8(r, DATA);
}

static void expect(struct rig *r, const u8 *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		EQ(answer(r), bytes[i]);
	EQ(in8(r, CMD) & OBF, 0);
}

#define EXPECT(r, ...) expect(r, (const u8[]){ __VA_ARGS__ }, sizeof((const u8[]){ __VA_ARGS__ }))

static void set_ctr(struct rig *r, u8 ctr)
{
	out8(r, CMD, 0x60);
	out8(r, DATA, ctr);
}

TEST(i8042_self_tests)
{
	struct rig *r = rig_new(&i8042_ops);

	EQ(in8(r, CMD), 0x14);
	out8(r, CMD, 0xaa);
	EXPECT(r, 0x55);
	out8(r, CMD, 0xab);
	EXPECT(r, 0);
	rig_free(r);
}

TEST(i8042_command_byte_and_ram)
{
	struct rig *r = rig_new(&i8042_ops);

	set_ctr(r, 0x70);
	out8(r, CMD, 0x20);
	EXPECT(r, 0x70);
	EQ(in8(r, CMD) & 4, 0); /* the system flag follows the command byte */
	out8(r, CMD, 0x7f);
	out8(r, DATA, 0x99);
	out8(r, CMD, 0x3f);
	EXPECT(r, 0x99);
	out8(r, CMD, 0xad);
	out8(r, CMD, 0xa8);
	out8(r, CMD, 0x20);
	EXPECT(r, 0x50);
	rig_free(r);
}

/* i8042.c, i8042_check_aux(): the loop's answer lacks the AUX flag, then the port test fails. */
TEST(i8042_linux_finds_no_aux_port_at_once)
{
	struct rig *r = rig_new(&i8042_ops);

	out8(r, CMD, 0xd3);
	out8(r, DATA, 0x5a);
	EQ(in8(r, CMD) & (OBF | AUX), OBF);
	EXPECT(r, 0x5a);
	out8(r, CMD, 0xa9);
	EXPECT(r, 1);
	out8(r, CMD, 0xd4);
	out8(r, DATA, 0xff);
	EQ(in8(r, CMD) & (OBF | AUX | TIMEOUT), OBF | AUX | TIMEOUT);
	EXPECT(r, 0xfe);
	rig_free(r);
}

TEST(i8042_linux_finds_the_keyboard)
{
	struct rig *r = rig_new(&i8042_ops);

	out8(r, DATA, 0xf2);
	EXPECT(r, ACK, 0xab, 0x41); /* 83h as translated */
	out8(r, DATA, 0xed);
	EXPECT(r, ACK);
	out8(r, DATA, 0x02);
	EXPECT(r, ACK);
	out8(r, DATA, 0xff);
	EXPECT(r, ACK, 0xaa);
	out8(r, DATA, 0xf3);
	EXPECT(r, ACK);
	out8(r, DATA, 0x00);
	EXPECT(r, ACK);
	out8(r, DATA, 0xf4);
	EXPECT(r, ACK);
	out8(r, DATA, 0xee);
	EXPECT(r, 0xee);
	out8(r, DATA, 0xe5);
	EXPECT(r, 0xfe);
	out8(r, DATA, 0xfe); /* resend */
	EXPECT(r, 0xfe);
	rig_free(r);
}

TEST(i8042_scan_sets)
{
	struct rig *r = rig_new(&i8042_ops);

	set_ctr(r, 0); /* no translation */
	out8(r, DATA, 0xf0);
	EXPECT(r, ACK);
	out8(r, DATA, 0);
	EXPECT(r, ACK, 2);
	out8(r, DATA, 0xf0);
	EXPECT(r, ACK);
	out8(r, DATA, 3);
	EXPECT(r, ACK);
	i8042_ctrl_alt_del(r->dev);
	EXPECT(r, 0x11, 0x19, 0x64, 0xf0, 0x64, 0xf0, 0x19, 0xf0, 0x11);
	out8(r, DATA, 0xf0);
	EXPECT(r, ACK);
	out8(r, DATA, 4);
	EXPECT(r, 0xfe);
	rig_free(r);
}

TEST(i8042_ctrl_alt_del_is_translated)
{
	struct rig *r = rig_new(&i8042_ops);

	i8042_ctrl_alt_del(r->dev);
	EXPECT(r, 0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d);
	set_ctr(r, 0x05);
	i8042_ctrl_alt_del(r->dev);
	EXPECT(r, 0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14);
	out8(r, DATA, 0xf5); /* scanning off: keys are not seen */
	EXPECT(r, ACK);
	i8042_ctrl_alt_del(r->dev);
	EQ(in8(r, CMD) & OBF, 0);
	rig_free(r);
}

TEST(i8042_each_byte_is_an_edge)
{
	struct rig *r = rig_new(&i8042_ops);

	out8(r, DATA, 0xf2);
	EQ(r->line[0], 1);
	EQ(r->rises[0], 1);
	EXPECT(r, ACK, 0xab, 0x41);
	EQ(r->rises[0], 3);
	EQ(r->line[0], 0);
	out8(r, CMD, 0xd4);
	out8(r, DATA, 0xff);
	EQ(r->rises[0], 3);
	EQ(r->rises[1], 0); /* masked */
	in8(r, DATA);
	set_ctr(r, 0x46);
	out8(r, CMD, 0xd4);
	out8(r, DATA, 0xff);
	EQ(r->line[1], 1);
	rig_free(r);
}

TEST(i8042_disabled_keyboard_waits)
{
	struct rig *r = rig_new(&i8042_ops);

	out8(r, CMD, 0xad);
	i8042_ctrl_alt_del(r->dev);
	EQ(in8(r, CMD) & OBF, 0);
	out8(r, CMD, 0xae);
	EQ(answer(r), 0x1d);
	rig_free(r);
}

TEST(i8042_full_keyboard_says_overrun)
{
	struct rig *r = rig_new(&i8042_ops);
	unsigned n = 0;
	u8 last = 0;

	for (int i = 0; i < 10; i++)
		i8042_ctrl_alt_del(r->dev);
	for (; in8(r, CMD) & OBF; n++)
		last = in8(r, DATA);
	OK(n > 20 && n <= 33);
	EQ(last, 0xff); /* 00h, translated */
	rig_free(r);
}

TEST(i8042_resets_the_machine)
{
	struct rig *r = rig_new(&i8042_ops);

	out8(r, CMD, 0xfe);
	EQ(rig_take_request(r), DEV_RESET);
	out8(r, CMD, 0xff);
	EQ(rig_take_request(r), UINT32_MAX);
	out8(r, CMD, 0xd1);
	out8(r, DATA, 0x02);
	EQ(rig_take_request(r), DEV_RESET);
	out8(r, PORT_A, 0x03);
	EQ(rig_take_request(r), DEV_RESET);
	out8(r, PORT_A, 0x03); /* still one: no edge */
	EQ(rig_take_request(r), UINT32_MAX);
	rig_free(r);
}

TEST(i8042_a20_has_three_switches)
{
	struct rig *r = rig_new(&i8042_ops);

	EQ(in8(r, PORT_A), 2);
	out8(r, PORT_A, 0);
	EQ(r->request[0].what, DEV_A20);
	EQ(r->request[0].arg, 0);
	out8(r, CMD, 0xd0);
	EXPECT(r, 0x01); /* output port before its own answer */
	out8(r, CMD, 0xd1);
	out8(r, DATA, 0x03);
	EQ(r->request[1].arg, 1);
	out8(r, CMD, 0xdd);
	EQ(r->request[2].arg, 0);
	out8(r, CMD, 0xdf);
	EQ(r->request[3].arg, 1);
	EQ(r->requests, 4);
	EQ(in8(r, PORT_A), 2);
	rig_free(r);
}

TEST(i8042_reset_opens_a20)
{
	struct rig *r = rig_new(&i8042_ops);

	out8(r, CMD, 0xdd);
	rig_reset(r);
	EQ(r->request[1].what, DEV_A20);
	EQ(r->request[1].arg, 1);
	rig_free(r);
}
