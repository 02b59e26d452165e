#!/usr/bin/env python3
"""bar.py [--mvm FILE] [--runs N] [--scale X]: the software CPU against its bar.

Runs the guest benchmark (scripts/guest.sh bench) natively, in mvm's translator and in QEMU's TCG, in turn, and
prints cost as a multiple of native: by class with its bar, by row, what is slower than QEMU, boot, memory and
how two processes on two vCPUs compare with one.  Cost is CPU time, the least of the runs.  Raw figures stay in
build/bench/suite-*.tsv, the tables in build/bench/bar.md.  Exit status 0 whatever the figures are: a loaded
machine's are worth nothing, and only a reader knows."""

import argparse
import datetime
import fnmatch
import itertools
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from run import GUEST, OUT, TOP, Mvm, Qemu, Run, cpu_name, overhead_kib, suite_join, suite_once, table

# Class, its rows, the first bar and the next: times native, geometric mean.
CLASSES = [
    ("all", "*", 2.0, 1.5),
    # A host that is itself a guest may be slow at system calls and locked instructions, which flatters the first line.
    ("all but system calls and locked instructions",
     "int_* fp* x87 mem_* br_* call_* str_* sha256_* aes_* smc_* lz bb_gzip bb_bzip2", 2.0, 1.5),
    ("integer, sorting, hashing, compression", "int_* sha256_c aes_c lz bb_gzip bb_bzip2", 2.3, 1.5),
    ("floating point in registers, x87, AES, SHA", "fp_spectral fp_mandel fp_convert fpa_spectral x87 *_ni", 1.3, 1.1),
    ("floating point bound by loads", "fp_matmul fp_nbody fpv_* fpa_matmul", 2.3, 1.4),
    ("rep movs and stos above 256 bytes, memcpy", "str_movsb_4k str_movsq_1m str_stosq_4k mem_copy", 1.2, 1.05),
    ("calls and returns, indirect branches", "call_* br_switch br_goto br_virtual", 3.0, 2.0),
    ("system calls, faults, signals, pipes, fork, exec", "sys_* bb_shell bb_forks", 2.4, 1.5),
    ("code that rewrites itself", "smc_*", 10.0, 4.0),
]
BOOT_FASTER = (2.5, 4.0)  # than QEMU, CPU time from start to init
MEMORY_MIB = 64
TWO_CPUS = 1.9
SUITE_MIB = 512
COMPUTE = "for i in 1 2 3 4 5 6; do sha256sum {} >/dev/null; done"


def geomean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def show(x):
    return "-" if x is None else f"{x:.2f}" if x < 100 else f"{x:.0f}"


def verdict(value, first, then, less=True):
    if value is None:
        return "-"
    met = [value <= bar if less else value >= bar for bar in (first, then)]
    return "meets the next" if met[1] else "meets the first" if met[0] else "MISSED"


class Watch(threading.Thread):
    """The most memory that the newest child of this command's name had beside the guest's RAM."""

    def __init__(self, program):
        super().__init__(daemon=True)
        self.program, self.peak, self.over = os.path.realpath(program), 0, False

    def run(self):
        while not self.over:
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if os.readlink(f"/proc/{pid}/exe") == self.program:
                        self.peak = max(self.peak, overhead_kib(pid, SUITE_MIB))
                except OSError:
                    pass
            time.sleep(1)


def measure(machines, runs, scale, tests):
    """label -> its runs; label -> peak KiB."""
    words = f"bench={tests} bscale={scale}"
    commands = {"native": [os.path.join(GUEST, "bench/bench"), "-x", scale, *tests.split(",")]}
    commands.update({m.name: m.linux(os.path.join(GUEST, "bench.cpio"), words, SUITE_MIB) for m in machines})
    found, memory = {label: [] for label in commands}, {}
    for i in range(runs):
        for label, command in commands.items():
            print(f"bar: run {i + 1} of {runs}: {label}", file=sys.stderr)
            watch = Watch(command[0])
            watch.start()
            found[label].append(suite_once(label, i, command))
            watch.over = True
            memory[label] = max(memory.get(label, 0), watch.peak)
    return found, memory


def ratios(least, label):
    native = least["native"]
    return {t: c / native[t][0] for t, (c, _) in least.get(label, {}).items() if t in native and c * native[t][0] > 0}


def class_rows(mvm, qemu):
    for name, patterns, first, then in CLASSES:
        of = lambda r: geomean([x for t, x in r.items() if any(fnmatch.fnmatch(t, p) for p in patterns.split())])
        yield [name, show(of(qemu)), show(of(mvm)), f"{first:.2f}", f"{then:.2f}", verdict(of(mvm), first, then)]


def test_rows(least, mvm, qemu):
    for t, (cost, checksum) in least["native"].items():
        differ = [n for n in least if least[n].get(t, (0, checksum))[1] != checksum]
        cells = [least[n].get(t, (None,))[0] for n in ("mvm", "qemu") if n in least]
        yield [t, f"{cost * 1e3:.1f}", *["-" if c is None else f"{c * 1e3:.1f}" for c in cells], show(mvm.get(t)),
               show(qemu.get(t)), "differs: " + " ".join(differ) if differ else "same"]


def throughput(runs, timed, work):
    """Of two processes at a time against one after the other, by wall clock; the least of the runs each."""
    one = min(timed(f"{work}; {work}") for _ in range(runs))
    both = min(timed(f"({work}) & ({work}); wait") for _ in range(runs))
    return one / both


def two_cpus(m, runs):
    """Two processes on two vCPUs."""
    with Run(m.linux(os.path.join(GUEST, "initrd.img"), "shell") + ["--cpus", "2"]) as r:
        marks = itertools.count(1)

        def timed(text):
            n = next(marks)
            r.proc.stdin.write(f"{text}; echo DO''NE {n}.\n".encode())
            r.proc.stdin.flush()
            began = time.monotonic()
            r.wait_for(f"DONE {n}.".encode())
            return time.monotonic() - began

        r.wait_for(b"# ")
        work = COMPUTE.format("/tmp/zero")
        timed("mount -t tmpfs none /tmp; head -c 64M /dev/zero >/tmp/zero; " + work)
        return throughput(runs, timed, work)


def two_native(runs):
    """The same on the host itself, whose processors may share a core."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as zero:
        def timed(text):
            began = time.monotonic()
            subprocess.run(["sh", "-c", text], check=True)
            return time.monotonic() - began

        zero.truncate(64 << 20)
        work = COMPUTE.format(zero.name)
        timed(work)
        return throughput(runs, timed, work)


def other_rows(machines, found, memory, runs):
    boot = {n: min(r["boot_ready"][0] for r in found[n] if "boot_ready" in r) for n in found if n != "native"}
    if "qemu" in boot:
        gain = boot["qemu"] / boot["mvm"]
        yield [f"start to init, CPU s: mvm {boot['mvm']:.2f}, QEMU {boot['qemu']:.2f}; times faster", show(gain),
               "2.50", verdict(gain, *BOOT_FASTER, less=False)]
    mib = memory["mvm"] / 1024
    yield ["memory beside guest RAM at its peak, MiB", show(mib), str(MEMORY_MIB),
           verdict(mib, MEMORY_MIB, 0)]
    speedup = two_cpus(machines[0], runs)
    native = show(two_native(runs))
    yield [f"two processes on two vCPUs against one, throughput (native: {native})", show(speedup), str(TWO_CPUS),
           verdict(speedup, TWO_CPUS, 2.0, less=False)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mvm", default=os.path.join(TOP, "build/mvm"))
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scale", default="1")
    parser.add_argument("--tests", default="all")
    args = parser.parse_args()
    if not os.path.exists(os.path.join(GUEST, "bench.cpio")):
        sys.exit("bar: SKIP: no guest benchmark; scripts/guest.sh bench makes it, from sources in MVM_BENCH_DIR")
    os.makedirs(OUT, exist_ok=True)
    machines = [Mvm("mvm", os.path.abspath(args.mvm))]
    machines[0].more = ["--accel", "tcg"]
    if shutil.which(args.qemu):
        machines.append(Qemu("qemu", shutil.which(args.qemu)))
    else:
        print("bar: SKIP qemu: no qemu-system-x86_64 here; scripts/setup.sh bench installs it")
    found, memory = measure(machines, args.runs, args.scale, args.tests)
    least = {label: suite_join(runs, min) for label, runs in found.items()}
    mvm, qemu = ratios(least, "mvm"), ratios(least, "qemu")
    slower = [f"{t} ({mvm[t] / qemu[t]:.2f})" for t in mvm if t in qemu and mvm[t] > qemu[t]]
    absent = [t for t in least["native"] if t not in mvm]
    names = ["mvm", "qemu"] if qemu else ["mvm"]
    text = "\n".join([
        f"{datetime.date.today()}, {cpu_name()}, {os.cpu_count()} CPUs, Linux {platform.release()}; scale {args.scale}, "
        f"least of {args.runs}, load {os.getloadavg()[0]:.1f}", "",
        table(list(class_rows(mvm, qemu)), ["times native, geometric mean", "QEMU", "mvm", "bar", "next", ""]), "",
        table(list(other_rows(machines, found, memory, args.runs)), ["", "mvm", "bar", ""]), "",
        f"Slower than QEMU: {', '.join(slower) or 'none'}.  Not run, or nothing measured: {', '.join(absent) or 'none'}.", "",
        table(list(test_rows(least, mvm, qemu)),
              ["test", "native, ms", *[f"{n}, ms" for n in names], "mvm", "QEMU", "checksum"]), ""])
    print(text)
    with open(os.path.join(OUT, "bar.md"), "w") as f:
        f.write(text)


if __name__ == "__main__":
    main()
