"""The guest's clocks against the host's: tests/guest/clocks.S counts, we compare."""

import re
import signal
import time

from harness import Vm, check, test

PIT_HZ, PM_HZ, RTC_HZ, MS_HZ = 1193182 / 1193, 3579545, 1024, 1000


@test(weight=20)
def clocks_keep_time_while_the_cpu_is_busy(env):
    """Ten seconds of arithmetic: no clock drifts and none of 1000 interrupts a second is lost; then sleep by deadlines."""
    for accel in ("tcg", "interp"):
        with Vm(env, "--kernel", env.tiny("clocks"), "--accel", accel, tty=False) as vm:
            vm.expect("begin", 20)
            began = time.monotonic()
            vm.expect("end", 40)
            host = time.monotonic() - began
            vm.expect("done", 30)
            vm.expect_exit(0)
            v = {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", vm.log.decode())}
            seconds = v["busy_tsc"] / v["khz"] / 1000
            check(abs(host - seconds) < 0.3 + host / 1000, f"{host:.3f} s of the host were {seconds:.3f} s of TSC")
            for name, hz in (("kvmclock", 1e9), ("pm", PM_HZ)):
                check(abs(v["busy_" + name] / hz / seconds - 1) < 0.001, f"{name}: {v['busy_' + name]} in {seconds} s")
            # At the end, what fell into the longest time without a tick may not have been made up for.
            hole = v["busy_late"] / v["khz"]
            for name, hz in (("pit", PIT_HZ), ("rtc", RTC_HZ), ("periodic", MS_HZ)):
                n, want = v["busy_" + name], seconds * hz
                check(abs(n - want) < 3 + want / 1000 + 2 * hole, f"{accel}: {name}: {n} ticks, not {want:.0f}: {v}")
            check(v["deadline_ticks"] == v["oneshot_ticks"] == 3000, f"{accel}: sleeps: {v}")


SAMPLE = r"tsc (\d+)\s+pit (\d+)\s+rtc (\d+)\s+periodic (\d+)\s+pm (\d+)\s+kvmclock (\d+)\r*\n"
RATES = {"pit": PIT_HZ, "rtc": RTC_HZ, "periodic": MS_HZ, "pm": PM_HZ, "kvmclock": 1e9}


def samples(vm, seconds):
    """What the guest says for so long: host time, and each clock's in seconds; the first is the TSC."""
    rows, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        tsc, *ticks = map(int, vm.expect(SAMPLE, 20).groups())
        rows.append([time.monotonic(), tsc / vm.hz] + [n / hz for n, hz in zip(ticks, RATES.values())])
    return rows


def drift(rows, a, b):
    """Clock b against a over all rows.  Load makes b late now and then, never early, so what counts is how late it is
    at least: in the first and in the last two seconds."""
    late = [row[a] - row[b] for row in rows]
    return (min(late[-8:]) - min(late[:8])) / (rows[-1][0] - rows[0][0])


@test(weight=80, idle=True)
def clocks_minute_is_a_minute(env):
    """A guest that sleeps between 3000 interrupts a second, for some seconds, over a pause, and for a minute."""
    with Vm(env, "--kernel", env.tiny("minute"), tty=False) as vm:
        vm.hz = 1000 * int(vm.expect(r"khz (\d+)", 20).group(1))
        before = samples(vm, 5)
        vm.signal(signal.SIGTSTP)
        vm.expect("until SIGCONT", 10)
        time.sleep(3)
        vm.signal(signal.SIGCONT)
        minute = samples(vm, 60)
        vm.signal(signal.SIGTERM)
        vm.expect_exit(128 + signal.SIGTERM)
    check(len(minute) > 60, f"{len(minute)} samples in a minute")
    off = drift(minute, 0, 1)
    check(abs(off) < 0.001, f"the TSC is off by {off * 1e6:.0f} ppm")
    for column, name in enumerate(RATES, 2):
        off = drift(minute, 1, column)
        check(abs(off) < 0.001, f"{name} is off by {off * 1e6:.0f} ppm of the TSC")
        # None is lost or too many, not in the pause either.
        step = drift([before[i] for i in range(8)] + minute[-8:], 1, column) * (minute[-1][0] - before[0][0])
        check(abs(step) < 0.02, f"{name}: {step:.3f} s lost around a pause")
