"""Guests that begin with firmware: SeaBIOS and qboot, kernels and boot loaders that they start."""

import os
import re
import subprocess

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


@test(weight=30)
def interrupt_lines_survive_seabios(env):
    """A system without ACPI goes by the interrupt line registers; the disk's legacy registers are there too."""
    with Vm(env, *bios(env), *env.linux(), "--disk", env.guest("small.img") + ",ro", "--transport", "pci-transitional",
            "--cmdline", "shell acpi=off pci=nomsi") as vm:
        initrd_shell(vm)
        status, out = vm.command("rmmod virtio_pci; insmod /modules/*-virtio_pci.ko force_legacy=1; sleep 1; "
                                 "dd if=/dev/vda of=/dev/null bs=1M count=20 2>&1; grep virtio0 /proc/interrupts", 30)
        check(status == 0 and "20+0 records out" in out and re.search(r"^ 11: +[1-9]\d* ", out, re.M), out)


def grub_menu(vm):
    """SeaBIOS and GRUB, which waits at its menu: both talk to the serial port by way of the BIOS."""
    vm.expect(r"SeaBIOS \(version", 30)
    vm.expect(r"memtest86\+", 60)


@test(weight=70)
def grub_boots_linux_from_a_virtio_disk(env):
    """An MBR disk, found by SeaBIOS on PCI by its own scan and on mmio by our DSDT."""
    for transport in ("pci", "mmio"):
        with Scratch() as s:
            disk = s.copy(env.guest("grub.img"))
            with Vm(env, *bios(env), "--disk", disk, "--transport", transport) as vm:
                grub_menu(vm)
                vm.send("\r")
                login(vm)
                check_dmesg(vm)
                _, out = vm.command("cat /proc/cmdline; mount; ls -d /sys/bus/virtio/devices/virtio0/driver/")
                check("BOOT_IMAGE=/boot/vmlinuz" in out and "/dev/vda1 on / type ext4 (rw" in out, f"who booted: {out}")
                vm.send("poweroff\n")
                vm.expect_exit(0, 60)


@test(weight=20)
def grub_without_its_files_is_a_rescue_prompt(env):
    with Vm(env, *bios(env, "bios.bin"), "--disk", env.guest("rescue.img") + ",ro") as vm:
        vm.expect(r"grub rescue> ", 60)
        vm.send("ls\r")
        vm.expect(r"\(hd0\)", 20)


@test(weight=30)
def memtest_from_grub_finds_no_errors(env):
    """It reads ACPI and SMBIOS tables, and the keyboard through SeaBIOS took us to it."""
    with Vm(env, *bios(env), "--disk", env.guest("grub.img") + ",ro", "--mem", "32M") as vm:
        grub_menu(vm)
        vm.send("\x1b[B\r")
        vm.expect(r"mvm MVMPC", 60)
        vm.expect(r"#([4-9]|10) +\[", 90)  # it shows where it is every other second
        check(b"Errors: 0" in vm.log, f"no count of errors: {vm.tail(300)}")


@test(weight=30)
def memtest_on_two_cpus_meets_at_barriers(env):
    """Its CPUs halt with interrupts off until the last one sends NMIs: that is not a dead machine."""
    with Vm(env, "--kernel", env.guest("firmware/memtest86+x64.bin"), "--cmdline", "console=ttyS0,115200", "--mem",
            "16M", "--cpus", "2", tty=False) as vm:
        vm.expect(r"CPU: 2 Cores", 30)
        vm.expect(r"#([4-9]|10) +\[", 90)  # it shows where it is every other second


@test(weight=10)
def disk_without_a_boot_sector_is_reported(env):
    with Scratch() as s:
        with Vm(env, *bios(env), "--disk", s.sparse("empty.img", 1 << 20)) as vm:
            vm.expect(r"not a bootable disk", 30)
            vm.expect(r"No bootable device", 10)


UUID = "01234567-89ab-cdef-0123-456789abcdef"


def check_acpi(vm, s):
    """The guest's tables, taken apart and put together again by ACPICA on the host."""
    _, text = vm.command("acpidump", 60)
    s.file("dump", text.encode())
    ran = subprocess.run("acpixtract -a dump && iasl -d *.dat && iasl -tc dsdt.dsl", shell=True, cwd=s.dir,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = ran.stdout.decode(errors="replace")
    check(ran.returncode == 0 and re.search(r"Compilation successful\. 0 Errors, 0 Warnings", said) and
          not re.search(r"(?im)^(warning|error)|invalid|incorrect|unknown", said), said[-2500:])
    return {name[:-4] for name in os.listdir(s.dir) if name.endswith(".dat")}


# The disk's MSI-X table goes elsewhere and comes back while interrupts are under way: they are the function's own affair.
MOVE_BAR = """cd /sys/bus/pci/devices/0000:00:01.0; dd if=config of=/tmp/was bs=4 skip=5 count=1 2>/dev/null
dd if=/dev/vda of=/dev/null bs=4096 count=5000 iflag=direct 2>/tmp/said &
for i in 1 2 3 4 5; do printf '\\000\\000\\000\\360' | dd of=config bs=4 seek=5 2>/dev/null
dd if=config bs=4 skip=5 count=1 2>/dev/null | od -An -tx4; dd if=/tmp/was of=config bs=4 seek=5 2>/dev/null; done
wait; cat /tmp/said"""


def check_tools(vm, cpus, mib):
    """lspci, dmidecode and /proc/interrupts of a machine with one disk on PCI."""
    _, out = vm.command("lspci -vv", 60)
    check(out.count("Kernel driver in use: virtio-pci") == 2 and "MSI-X: Enable+" in out and "[virtual]" not in out and
          "ignored" not in out and "disabled" not in out, f"lspci: {out}")
    _, out = vm.command("dmidecode", 60)
    bad = re.search(r"(?i)wrong|invalid|bad|broken|truncated|<OUT OF SPEC>|inconsistent|checksum", out)
    check(not bad, f"dmidecode: {out}")
    size = f"{mib} MB" if mib < 1024 else f"{mib // 1024} GB"
    for words in ("Product Name: MVMPC", f"UUID: {UUID}", f"Core Count: {cpus}", f"Core Enabled: {cpus}",
                  f"\tSize: {size}", f"Maximum Capacity: {size}", "End Of Table"):
        check(words in out, f"dmidecode has no {words!r}: {out}")
    check(sum(int(n) << (10 if unit == "GB" else 0) for n, unit in re.findall(r"Range Size: (\d+) (.B)", out)) == mib,
          f"dmidecode's ranges are not {mib} MiB: {out}")
    _, out = vm.command(MOVE_BAR, 60)
    check(out.count("f0000000") == 5 and "5000+0 records out" in out, f"MSI-X table elsewhere: {out}")
    _, out = vm.command("cat /proc/interrupts")
    check(re.search(r"^ERR: +0$", out, re.M) and re.search(r"^MIS: +0$", out, re.M) and "PCI-MSI" in out, out)


@test(weight=90)
def tools_see_a_sane_pc(env):
    """The same tables from us and by way of SeaBIOS, of small machines and the largest, and a user's fw_cfg file."""
    for firmware, cpus, mib in (([], 1, 256), (bios(env), 2, 256), ([], 64, 8192)):
        with Scratch() as s:
            with Vm(env, *firmware, *env.linux(), "--disk", s.copy(env.guest("tools.img")), "--transport", "pci",
                    "--cpus", str(cpus), "--mem", str(mib), "--uuid", UUID, "--fw-cfg",
                    "opt/mvm/test,string=a,b c") as vm:
                login(vm)
                check_dmesg(vm)
                check_tools(vm, cpus, mib)
                _, out = vm.command("nproc; awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo")
                nproc, total = map(int, out.split())
                check(nproc == cpus and total > mib * 3 // 4, f"{nproc} CPUs and {total} MiB")
                tables = check_acpi(vm, s)
                check({"dsdt", "facp", "apic", "mcfg"} <= tables, f"tables: {tables}")
                _, out = vm.command("insmod /lib/modules/qemu_fw_cfg.ko; cd /sys/firmware/qemu_fw_cfg/by_name; "
                                    "cat opt/mvm/test/raw; echo; ls")
                check("a,b c" in out and ("bootorder" in out) == bool(firmware), f"fw_cfg in sysfs: {out}")
