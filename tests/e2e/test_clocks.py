"""The guest's clocks against the host's: tests/guest/clocks.S counts, we compare."""

import re
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
