"""SMP guests: many vCPUs on few host CPUs, and the ways a kernel finds and interrupts them."""

import re

from harness import Scratch, Vm, check, initrd_shell, run, test
from test_linux import check_dmesg
from test_work import Work, check_stress


def check_cpus(vm, n):
    """All are there, none is idle for ever: each takes its turn at work pinned to it."""
    _, out = vm.command("grep -c ^processor /proc/cpuinfo")
    check(out.split()[-1] == str(n), f"the guest sees {out} CPUs, not {n}")
    status, out = vm.command(f"i=0; while [ $i -lt {n} ]; do "
                             "taskset $(printf %x $((1 << i))) md5sum /bin/busybox & i=$((i + 1)); done; wait", 120)
    sums = re.findall(r"[0-9a-f]{32}  /bin/busybox", out)
    check(len(sums) == n and len(set(sums)) == 1, f"{len(sums)} sums of {n}: {out[-400:]}")
    check_dmesg(vm)


@test()
def smp_a_second_cpu_starts_and_answers(env):
    """INIT, SIPI, IPIs and NMIs with xAPICs and x2APICs: tests/guest/smp.S."""
    for accel in ("tcg", "interp"):
        r = run(env, "--accel", accel, "--cpus", "2", "--kernel", env.tiny("smp"), timeout=60)
        check(r.returncode == 0 and r.stdout.split() == [b"xapic", b"done", b"x2apic", b"done"], f"{accel}: {r}")


@test()
def smp_code_that_another_cpu_changes(env):
    """Cross-modifying code as the SDM wants it: tests/guest/crossmod.S."""
    for accel in ("tcg", "interp"):
        r = run(env, "--accel", accel, "--cpus", "2", "--kernel", env.tiny("crossmod"), timeout=120)
        check(r.returncode == 0 and r.stdout == b"done\r\n", f"{accel}: {r}")


@test(weight=60)
def smp_64_cpus(env):
    with Vm(env, *env.linux(), "--cpus", "64", "--mem", "512M") as vm:
        initrd_shell(vm, 240)
        check_cpus(vm, 64)
        _, out = vm.command("dmesg | grep -E 'smpboot: Total|x2apic'")
        check("Total of 64 processors" in out and "x2apic" in out, f"dmesg: {out}")
        vm.send("poweroff -f\n")
        vm.expect_exit(0, 60)


@test(weight=40)
def smp_by_logical_destinations(env):
    """Without x2APIC, Linux addresses up to eight CPUs by logical destination; then with its timer in one-shot mode."""
    for words in ("nox2apic", "nox2apic lapic=notscdeadline"):
        with Vm(env, *env.linux(), "--cpus", "4", "--cmdline", words) as vm:
            initrd_shell(vm)
            check_cpus(vm, 4)


@test(weight=40)
def smp_by_mp_table(env):
    """A kernel without ACPI finds its CPUs in the MP table (Debian's cloud kernel cannot read one)."""
    with Vm(env, "--kernel", env.guest("vmlinuz-generic"), "--initrd", env.guest("initrd-generic.img"),
            "--cpus", "4", "--cmdline", "acpi=off") as vm:
        initrd_shell(vm)
        check_cpus(vm, 4)


@test(weight=40)
def smp_cpus_go_and_come(env):
    """INIT and start-up again and again, by Linux's CPU hotplug."""
    with Vm(env, *env.linux(), "--cpus", "4") as vm:
        initrd_shell(vm)
        status, out = vm.command("cd /sys/devices/system/cpu; for n in 1 2 3 4 5; do for c in 1 2 3; do "
                                 "echo 0 >cpu$c/online && test $(cat cpu$c/online) = 0 || exit 1; done; "
                                 "for c in 3 1 2; do echo 1 >cpu$c/online || exit 1; done; done; cat online", 120)
        check(status == 0 and "0-3" in out, f"CPUs off and on: {out}")
        check_cpus(vm, 4)


def latency(w):
    """The worst CPU's median, 99th percentile and maximum, in microseconds."""
    rows = re.findall(r"median (\d+), .* 99% (\d+), max (\d+)", w.run("/tmp/latency 2000"))
    check(len(rows) == w.cpus, f"latency: {rows}")
    return "/".join(str(max(int(row[i]) for row in rows)) for i in range(3))


@test(weight=60)
def smp_compiles_and_stress(env):
    """Compilers beside each other make the same of the same; stress-ng verifies itself; the kernel has no complaints."""
    said = []
    for cpus in (2, 4):
        with Scratch() as s, Work(env, s, cpus=cpus) as w:
            w.run("gcc -O1 -w -o /tmp/latency latency.c -lpthread")
            idle = latency(w)
            w.run(f"for i in $(seq {cpus}); do gcc -O1 -w -c sums.c -o /tmp/$i.o & done; wait; "
                  f"for i in $(seq {cpus}); do cmp /tmp/1.o /tmp/$i.o || exit 1; done", 120)
            check_stress(w, f"--cpu {cpus} --switch 1 --futex 1 --fork 1 --timer 1", 3)
            w.run(f"stress-ng -q --cpu {cpus} --timeout 60s & sleep 1")
            busy = latency(w)
            w.run("kill $(pidof stress-ng-cpu); wait; true")
            w.end()
            said.append(f"{cpus} vCPUs idle {idle}, busy {busy}")
    return "us late at 1000 Hz, median/99 %/max: " + "; ".join(said)
