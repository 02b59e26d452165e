"""Every way a run can end, with the tiny guests of tests/guest: fast, no Linux needed."""

import signal
import subprocess
import time

from harness import Scratch, Vm, check, run, test


def tiny(env, name, *args, **more):
    return run(env, "--kernel", env.tiny(name), *args, **more)


@test()
def power_off_is_status_0(env):
    r = tiny(env, "poweroff")
    check(r.returncode == 0, f"status {r.returncode}: {r.stderr!r}")
    check(b"hello from the guest" in r.stdout, f"the console printed {r.stdout!r}")


@test()
def reset_ends_with_0_and_says_so(env):
    for name in ("reset_cf9", "reset_i8042", "reset_acpi"):
        r = tiny(env, name)
        check(r.returncode == 0, f"{name}: status {r.returncode}: {r.stderr!r}")
        check(b"re" in r.stderr and r.stderr.count(b"\n") >= 1, f"{name}: no note about the reset: {r.stderr!r}")


@test()
def reset_restarts_when_asked(env):
    with Vm(env, "--kernel", env.tiny("reset_cf9"), "--on-reboot", "restart", tty=False) as vm:
        for _ in range(5):
            vm.expect("about to reset", 20)
        vm.signal(signal.SIGTERM)
        vm.expect_exit(128 + signal.SIGTERM)


@test()
def halt_with_interrupts_off_is_status_3(env):
    r = tiny(env, "halt")
    check(r.returncode == 3, f"status {r.returncode}: {r.stderr!r}")
    check(b"halt" in r.stderr, f"no reason given: {r.stderr!r}")


@test()
def triple_fault_ends_as_documented(env):
    r = tiny(env, "triple_fault")
    check(r.returncode == 3, f"status {r.returncode}: {r.stderr!r}")
    check(b"triple fault" in r.stderr, f"no reason given: {r.stderr!r}")


@test()
def debug_exit_sets_the_status(env):
    r = tiny(env, "debug_exit")
    check(r.returncode == 0x21 << 1 | 1, f"status {r.returncode}: {r.stderr!r}")


@test()
def signals_end_it_at_once(env):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Vm(env, "--kernel", env.tiny("echo")) as vm:
            vm.expect("READY", 20)
            began = time.monotonic()
            vm.signal(number)
            vm.expect_exit(128 + number, 10)
            check(time.monotonic() - began < 5, f"signal {number} took {time.monotonic() - began:.1f} s")


@test()
def signal_ends_a_guest_that_only_computes(env):
    with Vm(env, "--kernel", env.tiny("spin"), tty=False) as vm:
        vm.expect("READY", 20)
        time.sleep(0.3)
        vm.signal(signal.SIGTERM)
        vm.expect_exit(128 + signal.SIGTERM, 10)


@test()
def crash_of_ours_restores_the_terminal(env):
    for number in (signal.SIGABRT, signal.SIGSEGV):
        with Vm(env, "--kernel", env.tiny("echo")) as vm:
            vm.expect("READY", 20)
            vm.signal(number)
            check(vm.wait(10) != 0, "a crash ended with status 0")
            vm.check_terminal()


@test()
def nothing_lingers(env):
    with Scratch() as s:
        disk = s.sparse("d.img", 1 << 20)
        for _ in range(3):
            r = tiny(env, "poweroff", "--disk", disk)
            check(r.returncode == 0, f"status {r.returncode}: {r.stderr!r}")


@test()
def boot_mark_is_stamped(env):
    r = tiny(env, "boot_mark", "--boot-trace")
    check(r.returncode == 0, f"status {r.returncode}: {r.stderr!r}")
    check(b"kernel loaded" in r.stderr, f"no trace of the start: {r.stderr!r}")
    check(b"guest ready" in r.stderr, f"no boot mark: {r.stderr!r}")


@test()
def relocated_data_is_read_only_when_it_runs(env):
    with Vm(env, "--kernel", env.tiny("spin"), tty=False) as vm:
        vm.expect("READY", 20)
        with open(f"/proc/{vm.proc.pid}/maps") as f:
            own = [line.split() for line in f if line.rstrip().endswith(env.mvm)]
        check(any(perms == "r-xp" for _, perms, *_ in own), f"mvm does not map itself: {own}")
        for span, perms, *_ in own:
            low, high = (int(x, 16) for x in span.split("-"))
            check("w" not in perms or high - low <= 8192,
                  f"{span} of {env.mvm} is {perms}: the RELRO segment was not protected")
