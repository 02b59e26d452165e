/* acpi_pm.c - PM1 registers, PM timer, reset and power. */
#include "../../devices/chipset.h"
#include "../rig.h"

enum { STS = ACPI_PM_PORT, EN = STS + 2, CNT = STS + 4, TMR = STS + 8 };
enum { PWRBTN = 0x100, SLP_EN = 0x2000 };

TEST(acpi_pm_timer_runs_at_its_rate)
{
	struct rig *r = rig_new(&acpi_pm_ops);

	EQ(in32(r, TMR), 0);
	rig_advance(r, NS_PER_SEC);
	EQ(in32(r, TMR), 3579545);
	rig_advance(r, 1200 * NS_PER_SEC); /* wraps at 32 bits */
	EQ(in32(r, TMR), (u32)(1201ull * 3579545));
	out32(r, TMR, 0);
	EQ(in16(r, TMR), (u16)(1201ull * 3579545));
	rig_free(r);
}

TEST(acpi_pm_timer_interrupts_when_its_top_bit_turns)
{
	struct rig *r = rig_new(&acpi_pm_ops);
	u64 half_ns = (u64)((u128)NS_PER_SEC * BIT(31) / 3579545);

	out16(r, EN, 1);
	rig_advance(r, half_ns - 1000);
	EQ(r->line[0], 0);
	rig_advance(r, 2000);
	EQ(r->line[0], 1);
	EQ(in16(r, STS), 1);
	out16(r, STS, 1);
	EQ(r->line[0], 0);
	rig_advance(r, half_ns);
	EQ(r->rises[0], 2);
	rig_free(r);
}

TEST(acpi_pm_timer_status_is_found_without_an_interrupt)
{
	struct rig *r = rig_new(&acpi_pm_ops);

	EQ(in16(r, STS), 0);
	rig_advance(r, 700 * NS_PER_SEC);
	EQ(in16(r, STS), 1);
	rig_free(r);
}

TEST(acpi_pm_power_button_raises_sci)
{
	struct rig *r = rig_new(&acpi_pm_ops);

	OK(!acpi_pm_power_button(r->dev)); /* nobody listens */
	EQ(r->line[0], 0);
	EQ(in16(r, STS), PWRBTN);
	out16(r, EN, PWRBTN);
	EQ(r->line[0], 1);
	out16(r, STS, 0xfe00);
	EQ(r->line[0], 1);
	out8(r, STS + 1, 1); /* byte access, as AML may do */
	EQ(r->line[0], 0);
	OK(acpi_pm_power_button(r->dev));
	EQ(r->line[0], 1);
	rig_free(r);
}

TEST(acpi_pm_is_always_in_acpi_mode)
{
	struct rig *r = rig_new(&acpi_pm_ops);

	EQ(in16(r, CNT), 1);
	out16(r, CNT, 0);
	EQ(in16(r, CNT), 1);
	rig_free(r);
}

TEST(acpi_pm_s5_powers_off)
{
	struct rig *r = rig_new(&acpi_pm_ops);

	out16(r, CNT, ACPI_SLP_TYP_S5 << 10);
	EQ(rig_take_request(r), UINT32_MAX);
	out16(r, CNT, 1 << 10 | SLP_EN);
	EQ(rig_take_request(r), UINT32_MAX);
	out16(r, CNT, ACPI_SLP_TYP_S5 << 10 | SLP_EN);
	EQ(rig_take_request(r), DEV_POWEROFF);
	EQ(in16(r, CNT), ACPI_SLP_TYP_S5 << 10 | 1);
	rig_free(r);
}

TEST(acpi_pm_reset_register)
{
	struct rig *r = rig_new(&acpi_pm_ops);

	out8(r, ACPI_RESET_PORT, 2); /* Linux: first the kind, then the edge */
	EQ(rig_take_request(r), UINT32_MAX);
	out8(r, ACPI_RESET_PORT, ACPI_RESET_VALUE);
	EQ(rig_take_request(r), DEV_RESET);
	EQ(in8(r, ACPI_RESET_PORT), 6);
	out8(r, ACPI_RESET_PORT, 6);
	EQ(rig_take_request(r), UINT32_MAX);
	rig_reset(r);
	out32(r, ACPI_RESET_BASE, 0x80000c00); /* PCI's configuration address */
	EQ(rig_take_request(r), UINT32_MAX);
	EQ(in32(r, ACPI_RESET_BASE), 0xffffffff);
	out8(r, ACPI_RESET_PORT, 0x0e);
	EQ(rig_take_request(r), DEV_RESET);
	rig_free(r);
}

TEST(acpi_pm_reset_drops_sci)
{
	struct rig *r = rig_new(&acpi_pm_ops);

	out16(r, EN, PWRBTN);
	acpi_pm_power_button(r->dev);
	rig_reset(r);
	EQ(r->line[0], 0);
	EQ(in16(r, EN), 0);
	EQ(in16(r, STS), 0);
	rig_free(r);
}
