"""The software CPU's ring 0, by a guest that checks itself."""

import os
import re
import subprocess

from harness import Scratch, Vm, check, expect_error, initrd_shell, run, test
from test_kvm import newc


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


@test(weight=30)
def words_of_32_bits_under_a_64_bit_kernel(env):
    """One program as 32-bit and as 64-bit process, and its 64-bit form on the host: all say the same."""
    native = subprocess.run([env.tiny("words-64")], stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()
    check(native.count("\n") == 24, f"the host says: {native}")
    more = b""
    for name in ("words-32", "words-64"):
        with open(env.tiny(name), "rb") as f:
            more += newc(name, f.read(), 0o100755)
    with open(env.guest("initrd.img"), "rb") as f:
        first = f.read()
    with Scratch() as s:
        initrd = s.file("initrd.img", first + bytes(-len(first) % 4) + more + newc("TRAILER!!!", b"", 0))
        with Vm(env, "--kernel", env.guest("vmlinuz"), "--initrd", initrd, "--cmdline", "shell", "--accel", "tcg") as vm:
            initrd_shell(vm)
            for name in ("words-64", "words-32"):
                status, out = vm.command(f"/{name}")
                check(status == 0 and out.split() == native.split(), f"{name}: {out}, not {native}")
            # Both at a time, at the same addresses, in processes that take turns.
            status, out = vm.command("/words-32 >/a & /words-64 >/b & /words-32 >/c; wait; cmp /a /b && cmp /b /c")
            check(status == 0, f"together: {out}")
            vm.send("poweroff -f\n")
            vm.expect_exit(0, 30)
