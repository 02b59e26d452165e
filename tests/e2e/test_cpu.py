"""The software CPU's ring 0, by a guest that checks itself."""

import os
import re

from harness import Scratch, Vm, check, expect_error, initrd_shell, run, test


@test()
def privileged_state_behaves_as_in_the_manual(env):
    for accel in ("interp", "tcg"):
        r = run(env, "--kernel", env.tiny("privileged"), "--accel", accel)
        check(r.returncode == 1, f"{accel}: check {r.returncode >> 1} of privileged.S failed: {r.stderr!r}")


def perf_map(pid):
    """Its lines as (start, end, name), checked as perf would need them; the file is removed."""
    path = f"/tmp/perf-{pid}.map"
    check(os.path.exists(path), f"no {path}")
    with open(path) as f:
        lines = f.read().splitlines()
    os.unlink(path)
    found = [re.fullmatch(r"([0-9a-f]+) ([0-9a-f]+) ([a-z0-9_]+:\w+)", line) for line in lines]
    check(lines and all(found), f"not lines of a perf map: {[a for a, m in zip(lines, found) if not m][:3]}")
    return sorted({(int(m[1], 16), int(m[1], 16) + int(m[2], 16), m[3]) for m in found})


def check_no_overlap(blocks):
    for a, b in zip(blocks, blocks[1:]):
        check(a[1] <= b[0], f"two names for one address: {a} {b}")


@test(weight=30)
def perf_map_names_translated_blocks(env):
    """Two vCPUs and so little code memory that it is used again and again."""
    with Scratch() as s:
        with open(s.path("err"), "wb") as err:
            with Vm(env, *env.linux(), "--cpus", "2", "--perf-map", "--sandbox", "off", "--tcg-stats", "--tcg-cache", "1M",
                    "--accel", "tcg", stderr=err) as vm:
                initrd_shell(vm)
                vm.command("md5sum /bin/busybox & md5sum /bin/busybox; wait")
                vm.send("poweroff -f\n")
                vm.expect_exit(0, 30)
        blocks = perf_map(vm.proc.pid)
        check_no_overlap(blocks)
        kinds = {name.split(":")[0] for _, _, name in blocks}
        check({"guest_kernel", "mvm_translator"} <= kinds <= {"guest_kernel", "guest_user", "mvm_translator"},
              f"names of kinds {kinds}")
        with open(s.path("err")) as f:
            text = f.read()
        stats = re.findall(r"cpu(\d): (\d+) blocks translated: .* all evicted (\d+) times", text)
        check([n for n, _, _ in stats] == ["0", "1"], f"statistics: {text}")
        check(int(stats[0][2]) > 0, f"1 MiB of code memory was enough: {text}")


@test()
def statistics_count_what_runs(env):
    """A guest of known length."""
    r = run(env, "--kernel", env.tiny("bench_loop"), "--accel", "tcg", "--tcg-stats", timeout=60)
    text = r.stderr.decode()
    m = re.search(r"cpu0: (\d+) instructions: (\d+) translated \(99.9 %\), (\d+) interpreted", text)
    check(m and 0.999e9 < int(m[1]) == int(m[2]) + int(m[3]) < 1.001e9, f"not 10^9 instructions: {text}")
    m = re.search(r"(\d+) bytes to (\d+) \((\d+)\.\d times\)", text)
    check(m and int(m[2]) // int(m[1]) == int(m[3]), f"expansion: {text}")


@test()
def perf_map_needs_the_translator(env):
    expect_error(env, 2, ["--perf-map", "--accel tcg"], "--kernel", env.tiny("spin"), "--accel", "interp",
                 "--perf-map", "--sandbox", "off")
