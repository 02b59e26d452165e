"""Ends and pauses of a Linux guest: every way to reboot, the power button, stopped clocks."""

import glob
import os
import signal
import subprocess
import time

from harness import Scratch, Vm, check, fsck, initrd_shell, login, run, test
from test_linux import check_dmesg

# Ways to reboot, by Linux's names (reboot=, /sys/kernel/reboot/type), and mvm's status without a restart.
REBOOTS = {"acpi": 0, "kbd": 0, "pci": 0, "triple": 3}


@test(weight=30)
def power_every_reboot_ends_mvm(env):
    for way, status in REBOOTS.items():
        r = run(env, *env.linux(), "--cmdline", f"reboot={way} quiet rdinit=/bin/busybox -- reboot -f", timeout=60)
        check(r.returncode == status, f"reboot={way}: status {r.returncode}, expected {status}: {r.stderr!r}")


@test(weight=40)
def power_every_reboot_restarts(env):
    with Vm(env, *env.linux(), "--on-reboot", "restart", "--cmdline", "quiet", "--cpus", "2") as vm:
        for way in REBOOTS:
            initrd_shell(vm)
            _, out = vm.command(f"echo {way} >/sys/kernel/reboot/type; cat /sys/kernel/reboot/type")
            check(way in out, f"Linux does not know the way {way}: {out}")
            vm.send("reboot -f\n")
        initrd_shell(vm)
        vm.send("poweroff -f\n")
        vm.expect_exit(0, 30)


def initrd_with(env, scratch, *modules):
    """The initrd with more modules behind: an initrd may be several archives, one after another."""
    os.makedirs(scratch.path("more/modules"))
    for i, name in enumerate(modules):
        found = glob.glob(os.path.join(env.guest("kernel/modules"), "**", name + ".ko"), recursive=True)
        check(found, f"the kernel has no module {name}")
        subprocess.run(["cp", found[0], scratch.path(f"more/modules/9{i}-{name}.ko")], check=True)
    names = "modules\n" + "".join(f"modules/{n}\n" for n in os.listdir(scratch.path("more/modules")))
    more = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), cwd=scratch.path("more"),
                          stdout=subprocess.PIPE, check=True).stdout
    with open(env.guest("initrd.img"), "rb") as f:
        first = f.read()
    return scratch.file("initrd.img", first + bytes(-len(first) % 4) + more)


# What acpid does: wait for a key of the input device named "Power Button", then power off.
LISTEN = ("for d in /sys/class/input/event*; do grep -q 'Power Button' $d/device/name && "
          "{ (dd if=/dev/input/${d##*/} bs=24 count=1 of=/dev/null 2>/dev/null; touch /pressed; poweroff) & }; done")


@test(weight=60)
def power_button_by_sigterm(env):
    """SIGTERM: Debian hears the button, shuts down in order, and mvm ends with status 0."""
    with Scratch() as s:
        disk = s.copy(env.guest("root.img"))
        with Vm(env, "--kernel", env.guest("vmlinuz"), "--initrd", initrd_with(env, s, "button", "evdev"),
                "--disk", disk) as vm:
            login(vm)
            status, out = vm.command(LISTEN + "; for t in 1 2 3 4 5 6 7 8 9; do "
                                     "ls -l /proc/[0-9]*/fd 2>/dev/null | grep input/event && break; sleep 1; done")
            check(status == 0 and "input/event" in out, f"no power button in the guest: {out}")
            vm.signal(signal.SIGTERM)
            vm.expect("power button pressed", 10)
            vm.expect("guest powered off", 90)
            vm.expect_exit(0, 30)
        fsck(disk)
        r = subprocess.run(["debugfs", "-R", "stat /pressed", disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        check(b"Inode:" in r.stdout, "the guest did not power off by its button")


@test(weight=40)
def power_button_that_nobody_answers(env):
    """A guest that listens but does nothing is ended by the time limit or a second signal, others at once."""
    with Scratch() as s:
        initrd = initrd_with(env, s, "button", "evdev")
        for limit, again in (("2", False), ("600", True), ("0", False)):
            with Vm(env, "--kernel", env.guest("vmlinuz"), "--initrd", initrd, "--stop-timeout", limit) as vm:
                initrd_shell(vm)
                vm.signal(signal.SIGTERM)
                if limit != "0":
                    vm.expect("power button pressed", 10)
                if again:
                    vm.signal(signal.SIGTERM)
                vm.expect_exit(128 + signal.SIGTERM, 20)


@test(weight=40)
def power_pause_stops_the_clocks(env):
    """SIGTSTP and SIGCONT: neither uptime nor time of day went on, and no clock is called unstable."""
    with Vm(env, *env.linux(), "--cpus", "2") as vm:
        initrd_shell(vm)
        for source in ("tsc", "kvm-clock", "acpi_pm"):
            _, out = vm.command(f"cd /sys/devices/system/clocksource/clocksource0; echo {source} >current_clocksource; "
                                "cat current_clocksource; cut -d' ' -f1 /proc/uptime; date +%s")
            name, up, day = out.split()[-3:]
            check(name == source, f"no clock {source}: {out}")
            began = time.monotonic()
            vm.signal(signal.SIGTSTP)
            vm.expect("until SIGCONT", 10)
            time.sleep(6)
            vm.signal(signal.SIGCONT)
            _, out = vm.command("cut -d' ' -f1 /proc/uptime; date +%s")
            host = time.monotonic() - began
            passed = (float(out.split()[0]) - float(up), int(out.split()[1]) - int(day))
            check(all(-1 <= p <= host - 4 for p in passed), f"{source}: {passed} s passed in a pause of 6 s ({host:.1f} s)")
        check_dmesg(vm)
        vm.send("poweroff -f\n")
        vm.expect_exit(0, 30)
