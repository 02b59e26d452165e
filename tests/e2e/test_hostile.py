"""Guests that mean harm: mvm answers as hardware would, stays quiet, and ends as documented."""

import os
import signal
import time

from harness import Scratch, Vm, check, run, test


@test()
def hostile_guest_reaches_its_end(env):
    for transport in ("mmio", "pci"):
        for accel in ("interp", "tcg"):
            with Scratch() as s:
                r = run(env, "--kernel", env.tiny("hostile"), "--accel", accel, "--transport", transport,
                        "--disk", s.sparse("d.img", 1 << 20), timeout=60)
            where = f"{transport}, {accel}"
            check(r.returncode == 1, f"{where}: status {r.returncode}; {r.stdout[-200:]!r} {r.stderr[-400:]!r}")
            check(len(r.stderr) < 4096, f"{where}: {len(r.stderr)} bytes of complaints")


@test()
def every_triple_fault_ends_with_3(env):
    for accel in ("interp", "tcg"):
        for way in "abcdefgh":
            with Vm(env, "--kernel", env.tiny("shutdown"), "--accel", accel, tty=False) as vm:
                vm.expect("READY", 20)
                vm.send(way)
                status = vm.wait(20)
                check(status == 3, f"way {way}, {accel}: status {status}: {vm.tail(300)}")
                check("triple fault" in vm.tail(), f"way {way}, {accel}: {vm.tail(300)}")


@test()
def flood_of_resets_is_cut_short_and_still_ends(env):
    """Thousands of lines a second become ten and a count; SIGTERM to the whole group and Ctrl-A x work."""
    def storm():
        return Vm(env, "--kernel", env.tiny("flood"), "--mem", "16M", "--on-reboot", "restart")

    with storm() as vm:
        vm.expect(r"\d\d+ messages suppressed", 20)
        before, began = vm.log.count(b"starting again"), time.monotonic()
        vm.expect(r"messages suppressed(?s:.*)messages suppressed", 30)
        lines = vm.log.count(b"starting again") - before
        check(lines <= 10 * (time.monotonic() - began + 2), f"{lines} lines in {time.monotonic() - began:.1f} s")
        vm.send("\x01x")
        vm.expect_exit(0, 10)
    for _ in range(10):
        with storm() as vm:
            vm.expect("starting again", 20)
            os.killpg(vm.proc.pid, signal.SIGTERM)
            vm.expect_exit(128 + signal.SIGTERM, 10)
