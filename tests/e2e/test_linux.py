"""Linux guests: the sessions that mvm promises, from the boot to the exit status."""

import os
import re
import signal
import subprocess
import threading
import time

from harness import Failure, Scratch, Skip, Vm, check, fsck, initrd_shell, login, test

# Words in dmesg that would tell of a fault in the machine we show to Linux.
BAD_DMESG = re.compile(r"(?-i:BUG:|WARNING:)|Oops|Call Trace|unable to handle|spurious|not functional|"
                       r"firmware bug|timer doesn't work|I/O error|hung task|soft lockup|"
                       r"Clocksource .* unstable|IRQ .* nobody cared|ACPI Error|ACPI Warning|"
                       r"TSC calibration failed|PCI: Fatal|unchecked MSR|i8042: (No controller|Can't)", re.I)
# ... and what Debian's kernel says on good hardware too.
FINE_DMESG = re.compile(r"Spectre|Meltdown|mitigation|bugs:|RETBleed|regulatory", re.I)


def check_dmesg(vm):
    _, text = vm.command("dmesg", 60)
    bad = [line for line in text.splitlines() if BAD_DMESG.search(line) and not FINE_DMESG.search(line)]
    check(not bad, "dmesg has errors:\n" + "\n".join(bad[:20]))


@test(weight=200)
def debian_session_with_100_mib(env):
    """Boot, log in, write 100 MiB, power off; boot again: the checksum holds; e2fsck is content."""
    with Scratch() as s:
        disk = s.copy(env.guest("root.img"))
        args = [*env.linux(), "--disk", disk, "--accel", "interp"]
        with Vm(env, *args) as vm:
            login(vm)
            status, out = vm.command("uname -a")
            check(status == 0 and "Linux mvm 6." in out and "x86_64" in out, f"uname: {out}")
            check_dmesg(vm)
            status, out = vm.command("dd if=/dev/urandom of=/data bs=1M count=100 && sync && md5sum /data", 400)
            check(status == 0, f"writing: {out}")
            digest = re.search(r"([0-9a-f]{32})  /data", out).group(1)
            vm.send("poweroff\n")
            vm.expect_exit(0, 90)
        fsck(disk)
        with Vm(env, *args) as vm:
            login(vm)
            status, out = vm.command("md5sum /data", 200)
            check(digest in out, f"the checksum changed from {digest}: {out}")
            vm.send("reboot\n")
            vm.expect_exit(0, 90)
            check("re" in vm.tail(200), f"no note about the reboot: {vm.tail(300)}")
        fsck(disk)


@test(weight=90)
def generic_kernel_boots(env):
    with Scratch() as s:
        disk = s.copy(env.guest("small.img"))
        with Vm(env, "--kernel", env.guest("vmlinuz-generic"), "--initrd", env.guest("initrd-generic.img"),
                "--disk", disk, "--mem", "512M") as vm:
            login(vm, 240)
            status, out = vm.command("uname -r; mount; echo data >/x; sync")
            check("amd64" in out and "cloud" not in out, f"uname: {out}")
            check("/dev/vda on / type ext4 (rw" in out, f"the root disk is not mounted: {out}")
            check_dmesg(vm)
            vm.send("poweroff\n")
            vm.expect_exit(0, 90)
        fsck(disk)


@test(weight=60)
def works_on_pipes_without_a_terminal(env):
    with Scratch() as s:
        disk = s.copy(env.guest("small.img"))
        with Vm(env, *env.linux(), "--disk", disk, tty=False) as vm:
            login(vm)
            status, out = vm.command("cat /proc/cmdline")
            check("root=/dev/vda" in out and "console=ttyS0" in out, f"command line: {out}")
            vm.send("poweroff\n")
            vm.expect_exit(0, 60)
        fsck(disk)


@test(weight=60)
def small_things_of_the_machine(env):
    """Clock, entropy, two more disks, input that is pasted fast: one boot for all."""
    with Scratch() as s:
        disk = s.copy(env.guest("small.img"))
        second, third = s.sparse("b.img", 8 << 20), s.file("c.img", b"read only " * 51200)
        with Vm(env, *env.linux(), "--disk", disk, "--disk", f"{second},id=second",
                "--disk", third + ",ro", "--cmdline", "quiet one=1 two=2") as vm:
            login(vm)
            check_dmesg(vm)
            _, out = vm.command("cat /proc/cmdline")
            check(out.rstrip().endswith("quiet one=1 two=2"), f"the user's words are not last: {out}")
            _, out = vm.command("date +%s")
            drift = abs(int(out.split()[-1]) - time.time())
            check(drift < 5, f"the guest's clock is {drift:.0f} s off")
            _, out = vm.command("cat /sys/block/vdb/serial; echo; cat /sys/block/vdb/size /sys/block/vdc/ro")
            check(out.split() == ["second", "16384", "1"], f"second and third disk: {out}")
            status, _ = vm.command("dd if=/dev/zero of=/dev/vdc bs=512 count=1 2>/dev/null")
            check(status != 0, "a read-only disk was written")
            status, out = vm.command("dd if=/dev/hwrng bs=16 count=4 2>/dev/null | md5sum")
            check(status == 0, f"no entropy device: {out}")
            status, out = vm.command("mke2fs /dev/vdb >/dev/null 2>&1; blkdiscard /dev/vdb; "
                                     "dd if=/dev/vdb bs=1M count=8 2>/dev/null | md5sum")
            check("96995b58d4cbf6aaa9041b4f00c7f6ae" in out, f"discarded blocks are not zero: {out}")
            lines = "".join(f"line {i:04d} of a long paste, typed faster than any person can\n" for i in range(300))
            vm.send("cat >/paste <<'END'\n" + lines + "END\n")
            _, out = vm.command("md5sum </paste", 60)
            import hashlib
            check(hashlib.md5(lines.encode()).hexdigest() in out, "a paste of 18 KB lost bytes")
            vm.send("poweroff\n")
            vm.expect_exit(0, 60)
        check(os.stat(second).st_blocks == 0, "discard left blocks allocated in the image")
        with open(third, "rb") as f:
            check(f.read() == b"read only " * 51200, "the read-only image changed")


@test(weight=40)
def sysrq_b_resets(env):
    with Vm(env, *env.linux()) as vm:
        initrd_shell(vm)
        vm.send("echo b >/proc/sysrq-trigger\n")
        vm.expect_exit(0, 30)


@test(weight=40)
def panic_ends_it(env):
    with Vm(env, *env.linux()) as vm:
        initrd_shell(vm)
        vm.send("echo c >/proc/sysrq-trigger\n")
        vm.expect("Kernel panic", 60)
        vm.expect_exit(0, 60)


@test(weight=70)
def on_reboot_restart_boots_again(env):
    with Vm(env, *env.linux(), "--on-reboot", "restart") as vm:
        initrd_shell(vm)
        vm.send("reboot -f\n")
        initrd_shell(vm)
        vm.send("poweroff -f\n")
        vm.expect_exit(0, 30)


@test(weight=40)
def halt_in_linux_ends_with_3(env):
    with Vm(env, *env.linux()) as vm:
        initrd_shell(vm)
        vm.send("halt -f\n")
        vm.expect_exit(3, 30)


@test(weight=60)
def sigterm_while_writing_keeps_the_image_sound(env):
    with Scratch() as s:
        disk = s.copy(env.guest("small.img"))
        with Vm(env, *env.linux(), "--disk", disk) as vm:
            login(vm)
            status, _ = vm.command("echo kept >/kept; sync")
            vm.send("while :; do dd if=/dev/urandom of=/big bs=64k count=500 conv=fsync; done 2>/dev/null\n")
            time.sleep(6)
            vm.signal(signal.SIGTERM)
            vm.expect_exit(128 + signal.SIGTERM, 15)
        r = subprocess.run(["e2fsck", "-fp", disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        check(r.returncode in (0, 1), f"the journal does not repair it: {r.returncode} {r.stdout.decode()}")
        fsck(disk)
        r = subprocess.run(["debugfs", "-R", "cat /kept", disk], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        check(r.stdout == b"kept\n", "what was synced before is gone")


@test(weight=60)
def memory_from_64_mib_to_8_gib(env):
    # In 64 MiB Debian's kernel has no room for the 8 MiB of inodes that tracefs makes; locked down it
    # makes none.
    for size, words, least, most in (("64M", "lockdown=confidentiality", 10, 64), ("8G", "", 7500, 8192)):
        with Vm(env, *env.linux(), "--mem", size, "--cmdline", words) as vm:
            initrd_shell(vm)
            _, out = vm.command("cat /proc/meminfo")
            total = int(re.search(r"MemTotal: +(\d+)", out).group(1)) >> 10
            check(least < total <= most, f"--mem {size}: the guest sees {total} MiB")
            vm.send("poweroff -f\n")
            vm.expect_exit(0, 30)


@test(weight=60)
def two_cpus(env):
    with Vm(env, *env.linux(), "--cpus", "2") as vm:
        initrd_shell(vm)
        _, out = vm.command("grep -c ^processor /proc/cpuinfo")
        check(out.split()[-1] == "2", f"the guest sees {out} CPUs")
        status, _ = vm.command("md5sum /bin/busybox & md5sum /bin/busybox; wait")
        check_dmesg(vm)
        vm.send("poweroff -f\n")
        vm.expect_exit(0, 30)


@test(weight=40)
def kernel_unpacks_itself(env):
    with Vm(env, *env.linux(), "--entry", "16") as vm:
        initrd_shell(vm, 240)
        vm.send("poweroff -f\n")
        vm.expect_exit(0, 30)


@test(weight=60)
def root_on_virtio_pci(env):
    """The same Debian kernel with its disks on PCI: MSI-X counts, configuration space is sane, BARs move."""
    with Scratch() as s:
        disk, second = s.copy(env.guest("small.img")), s.sparse("b.img", 8 << 20)
        with Vm(env, *env.linux(), "--disk", disk, "--disk", second, "--transport", "pci") as vm:
            login(vm)
            check_dmesg(vm)
            _, out = vm.command("mount; echo data >/x; sync; dd if=/dev/hwrng bs=16 count=4 2>/dev/null | wc -c")
            check("/dev/vda on / type ext4 (rw" in out and "64" in out.split(), f"disk or entropy: {out}")
            _, out = vm.command("grep -E 'PCI-MSI.*virtio0-req' /proc/interrupts")
            check(re.search(r": +[1-9]\d* ", out), f"no MSI-X interrupt was counted: {out}")
            _, out = vm.command("cd /sys/bus/pci/devices; cat */vendor */class | tr '\\n' ' '; ls 0000:00:01.0/msi_irqs")
            check(out.split()[:4] == ["0x1b36"] + ["0x1af4"] * 3, f"who is on the bus: {out}")
            check("0x060000 0x018000 0x018000 0x00ff00" in out, f"classes: {out}")
            _, out = vm.command("dmesg | grep -c 'MMCONFIG at .* reserved'")
            check(out.split()[-1] == "1", f"the ECAM space is not used: {out}")
            # Unplug the second disk and find it again: Linux sizes and places its BARs anew.
            status, out = vm.command("echo 1 >0000:00:02.0/remove; test ! -b /dev/vdb && echo 1 >../rescan; sleep 1; "
                                     "dd if=/dev/zero of=/dev/vdb bs=1M count=8 conv=fsync 2>&1", 60)
            check(status == 0, f"the second disk did not come back: {out}")
            vm.send("poweroff\n")
            vm.expect_exit(0, 60)
        fsck(disk)
        check(os.stat(second).st_blocks >= 8 << 11, "the second disk was not written")


@test(weight=60)
def virtio_pci_with_inta(env):
    """Without MSI: by the IOAPIC as ACPI says, and by the 8259 on a kernel without ACPI."""
    for words, chip in (("pci=nomsi", "IO-APIC"), ("pci=nomsi acpi=off", "XT-PIC")):
        with Scratch() as s:
            disk = s.copy(env.guest("small.img"))
            with Vm(env, *env.linux(), "--disk", disk, "--transport", "pci", "--cmdline", words) as vm:
                login(vm)
                _, out = vm.command("grep virtio0 /proc/interrupts")
                check(chip in out and re.search(r": +[1-9]\d* ", out), f"{words}: {out}")
                check_dmesg(vm)


@test(weight=40)
def virtio_pci_survives_a_restart(env):
    with Vm(env, *env.linux(), "--transport", "pci", "--on-reboot", "restart") as vm:
        for end in ("reboot -f", "poweroff -f"):
            initrd_shell(vm)
            status, _ = vm.command("dd if=/dev/hwrng bs=16 count=4 2>/dev/null | md5sum")
            check(status == 0, "no entropy device")
            vm.send(end + "\n")
        vm.expect_exit(0, 30)


@test(weight=40)
def virtio_pci_legacy_interface(env):
    """Linux's legacy driver, which looks only at the I/O BAR of a transitional device, with MSI-X and with INTA."""
    for words in ("", "pci=nomsi"):
        with Scratch() as s:
            disk = s.copy(env.guest("small.img"))
            with Vm(env, *env.linux(), "--disk", disk, "--transport", "pci-transitional", "--cmdline",
                    "shell " + words) as vm:
                initrd_shell(vm)
                status, out = vm.command("rmmod virtio_pci; insmod /modules/*-virtio_pci.ko force_legacy=1; sleep 1; "
                                         "cat /sys/bus/virtio/devices/virtio*/features")
                check(status == 0 and re.findall(r"^[01]{32}(.)", out, re.M) == ["0", "0"], f"not legacy: {out}")
                status, out = vm.command("mount -t ext4 /dev/vda /root && dd if=/dev/urandom of=/root/f bs=1M count=5 "
                                         "2>/dev/null; sync; md5sum /root/f; umount /root; mount -t ext4 /dev/vda /root "
                                         "&& md5sum /root/f; umount /root; dd if=/dev/hwrng bs=16 count=4 2>/dev/null | wc -c")
                sums = re.findall(r"([0-9a-f]{32})  /root/f", out)
                check(len(sums) == 2 and sums[0] == sums[1] and "64" in out.split(), f"disk or entropy: {out}")
                check_dmesg(vm)
                vm.send("poweroff -f\n")
                vm.expect_exit(0, 30)
            fsck(disk)
