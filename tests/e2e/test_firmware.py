"""Guests that begin with firmware: SeaBIOS and qboot, kernels and boot loaders that they start."""

from harness import Scratch, Vm, check, expect_error, initrd_shell, login, test
from test_linux import check_dmesg


def bios(env, name="bios-256k.bin"):
    return ["--bios", env.guest("firmware/" + name)]


@test(weight=60)
def seabios_loads_a_kernel(env):
    """--bios with --kernel: SeaBIOS runs our option ROM; ACPI, SMBIOS and PCI are as it left them."""
    with Scratch() as s:
        disk = s.copy(env.guest("small.img"))
        with Vm(env, *bios(env), *env.linux(), "--disk", disk, "--fw-cfg", "opt/mvm/test,string=hello") as vm:
            vm.expect(r"SeaBIOS \(version", 30)
            login(vm)
            check_dmesg(vm)
            _, out = vm.command("dmesg | grep -E 'SMBIOS 2.8|DMI:|ACPI: (FACP|APIC|MCFG)'; cat /proc/iomem; mount")
            for words in ("SMBIOS 2.8 present", "DMI: mvm MVMPC, BIOS", "ACPI: FACP", "ACPI: APIC", "ACPI: MCFG",
                          "PCI MMCONFIG", "/dev/vda on / type ext4 (rw"):
                check(words in out, f"no {words!r} in: {out}")
            _, out = vm.command("cat /sys/bus/acpi/devices/QEMU0002*/path")
            check("FWCF" in out, f"no fw_cfg device in the DSDT: {out}")
            vm.send("poweroff\n")
            vm.expect_exit(0, 60)


@test(weight=50)
def qboot_loads_a_kernel(env):
    """qboot does no PCI of its own for this bridge: Linux places the BARs; and with mmio there are none."""
    for transport in ("pci", "mmio"):
        with Scratch() as s:
            disk = s.copy(env.guest("small.img"))
            with Vm(env, *bios(env, "qboot.rom"), *env.linux(), "--disk", disk, "--transport", transport,
                    "--mem", "128M") as vm:
                login(vm)
                check_dmesg(vm)
                vm.send("poweroff\n")
                vm.expect_exit(0, 60)


@test(weight=60)
def firmware_starts_again_after_a_reset(env):
    with Vm(env, *bios(env, "bios.bin"), *env.linux(), "--on-reboot", "restart", "--cpus", "2") as vm:
        for end in ("reboot -f", "poweroff -f"):
            vm.expect(r"SeaBIOS \(version", 30)
            initrd_shell(vm)
            _, out = vm.command("grep -c ^processor /proc/cpuinfo")
            check(out.split()[-1] == "2", f"CPUs: {out}")
            vm.send(end + "\n")
        vm.expect_exit(0, 30)


@test()
def firmware_mistakes_are_named(env):
    seabios = bios(env)
    expect_error(env, 2, ["not a bzImage"], *seabios, "--kernel", env.tiny("halt"))
    expect_error(env, 2, ["kernel", "--mem"], *seabios, "--kernel", env.guest("vmlinuz"), "--mem", "32M")
    expect_error(env, 2, ["fw_cfg /nowhere", "cannot open"], *seabios, "--fw-cfg", "opt/x,file=/nowhere")
    expect_error(env, 1, ["--fw-cfg", "behind it"], *seabios, "--fw-cfg", "opt/x,value=1")
