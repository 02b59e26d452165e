#!/usr/bin/env python3
"""run.py [--mvm FILE]: measures mvm beside QEMU's TCG and the bare host, in turn, in one run.

Prints a table; keeps every raw figure in build/bench/raw.tsv (and the guest benchmark's in
build/bench/suite-*.tsv) and the same tables as markdown in build/bench/tables.md, from where they go
to doc/PERFORMANCE.md.  Figures are medians; CPU time is that of the whole process."""

import argparse
import glob
import datetime
import os
import platform
import re
import select
import shutil
import statistics
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GUEST = os.environ.get("GUEST_DIR", os.path.join(TOP, "build/guest"))
OUT = os.path.join(TOP, "build/bench")
MEM_MIB = 256


def host_mhz():
    with open("/proc/cpuinfo") as f:
        return float(re.search(r"^cpu MHz\s*: ([\d.]+)", f.read(), re.M).group(1))


class Machine:
    """One of the monitors compared: how to start a tiny guest, and Linux."""

    def __init__(self, name, program):
        self.name, self.program = name, program
        self.more = []  # options


class Mvm(Machine):
    def tiny(self, elf):
        return [self.program, "--quiet", "--mem", str(MEM_MIB), "--kernel", elf]

    def linux(self, initrd, words, mem=MEM_MIB):
        return [self.program, "--quiet", "--mem", str(mem), "--kernel", os.path.join(GUEST, "vmlinuz"),
                "--initrd", initrd, "--cmdline", "quiet " + words, *self.more]


class Qemu(Machine):
    def base(self, mem):
        return [self.program, "-accel", "tcg", "-cpu", "max", "-M", "microvm,rtc=on,pit=on,pic=on", "-m", str(mem),
                "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]

    def tiny(self, elf):
        return self.base(MEM_MIB) + ["-kernel", elf]

    def linux(self, initrd, words, mem=MEM_MIB):
        # Under TCG a microvm cannot calibrate the TSC, so it is told the rate.
        khz = int(host_mhz() * 1000)
        return self.base(mem) + ["-kernel", os.path.join(GUEST, "vmlinuz"), "-initrd", initrd, "-append",
                                 f"console=ttyS0 quiet panic=-1 reboot=t tsc=reliable tsc_early_khz={khz} " + words]


class Run:
    """A started monitor: waits for words on its console, tells wall and CPU time so far."""

    def __init__(self, command):
        self.began = time.monotonic()
        self.proc = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL)
        self.text = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.proc.kill()
        self.proc.wait()
        self.proc.stdin.close()
        self.proc.stdout.close()

    def wait_for(self, word, timeout=300):
        """(wall, cpu) seconds since the start, when the word arrived."""
        end = time.monotonic() + timeout
        while word not in self.text:
            ready, _, _ = select.select([self.proc.stdout], [], [], max(0, end - time.monotonic()))
            data = os.read(self.proc.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise RuntimeError(f"no {word!r} from {self.proc.args[0]}; it said {self.text[-300:]!r}")
            self.text += data
        wall = time.monotonic() - self.began
        return wall, self.cpu()

    def pids(self):
        """The process and its descendants: mvm's sandbox runs the guest in a child."""
        found = [self.proc.pid]
        for pid in found:
            with open(f"/proc/{pid}/task/{pid}/children") as f:
                found += map(int, f.read().split())
        return found

    def cpu(self):
        total = 0
        for pid in self.pids():
            for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
                with open(path) as f:
                    total += int(f.read().split()[0])
        return total / 1e9

    def overhead_kib(self):
        return sum(overhead_kib(pid, MEM_MIB) for pid in self.pids())


def overhead_kib(pid, mem_mib):
    """Memory written to that is not the guest's RAM (the mapping of its size or more).  What is shared is
    code memory, which is mapped twice."""
    total = size = 0
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            if line.startswith("Size:"):
                size = int(line.split()[1])
            elif size < mem_mib * 1024 * 3 // 4 and line.startswith("Private_Dirty:"):
                total += int(line.split()[1])
            elif size < mem_mib * 1024 * 3 // 4 and line.startswith("Shared_Dirty:"):
                total += int(line.split()[1]) // 2
    return total


raw = []


def note(figure, machine, value):
    raw.append((figure, machine, value))


def measure_start(m, tiny):
    with Run(m.tiny(os.path.join(tiny, "bench_start.elf"))) as r:
        wall, cpu = r.wait_for(b"READY")
        note("process start to first guest words, ms", m.name, wall * 1e3)
        note("... its CPU time, ms", m.name, cpu * 1e3)
        note("memory over guest RAM, bare guest, KiB", m.name, r.overhead_kib())


def measure_rate(m, tiny, elf, figure, count):
    with Run(m.tiny(os.path.join(tiny, elf))) as r:
        _, before = r.wait_for(b"READY")
        _, after = r.wait_for(b"DONE")
        note(figure, m.name, count / (after - before))


def measure_latency(m, tiny):
    """How late a guest's timer is at worst: in seconds of 1000 Hz, computing and asleep."""
    with Run(m.tiny(os.path.join(tiny, "clocks.elf"))) as r:
        r.wait_for(b"done")
        value = {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", r.text.decode())}
        for name, what in (("busy", "longest time between 1000 Hz ticks, busy guest, us"),
                           ("deadline", "latest wake by TSC deadline, us"), ("oneshot", "latest wake by one-shot count, us")):
            note(what, m.name, value[name + "_late"] * 1000 / value["khz"])


def measure_sandbox(m, tiny):
    """What the walls cost: on and off in turn, the difference of each pair."""
    start, ports = (os.path.join(tiny, name) for name in ("bench_start.elf", "bench_ports.elf"))
    took = {}
    for way in ("on", "off"):
        with Run(m.tiny(start) + ["--sandbox", way]) as r:
            took[way] = r.wait_for(b"READY")
    for i, what in enumerate(("sandbox start, ms", "... its CPU time, ms")):
        note(what, m.name, (took["on"][i] - took["off"][i]) * 1e3)
    for way in ("on", "off"):
        with Run(m.tiny(ports) + ["--sandbox", way]) as r:
            _, before = r.wait_for(b"READY")
            _, after = r.wait_for(b"DONE")
            took[way] = after - before
    note("sandbox: time of a port write, on / off", m.name, took["on"] / took["off"])


def measure_linux(m):
    with Run(m.linux(os.path.join(GUEST, "bench.cpio"), "bench=none bhalt=off")) as r:
        wall, cpu = r.wait_for(b"MVM-READY")
        note("Linux (Debian cloud) start to init, wall s", m.name, wall)
        note("Linux (Debian cloud) start to init, CPU s", m.name, cpu)
    if isinstance(m, Mvm):
        with Run(m.linux(os.path.join(GUEST, "bench.cpio"), "bench=none bhalt=off") + ["--transport", "pci"]) as r:
            note("... with a PCI bus, CPU s", m.name, r.wait_for(b"MVM-READY")[1])


def measure_idle(m):
    """Memory and CPU of a booted guest that waits at a shell."""
    with Run(m.linux(os.path.join(GUEST, "initrd.img"), "shell")) as r:
        r.wait_for(b"# ")
        time.sleep(2)
        before = r.cpu()
        time.sleep(3)
        note("memory over guest RAM, Linux at a shell, KiB", m.name, r.overhead_kib())
        note("idle Linux, CPU % of one core", m.name, (r.cpu() - before) / 3 * 100)


def suite_once(label, i, command):
    """The guest benchmark through hrun, kept as run i: test -> (cost, checksum)."""
    path = os.path.join(OUT, f"suite-{label}-{i}.tsv")
    native = ["-n"] if label == "native" else []
    subprocess.run([os.path.join(GUEST, "bench/hrun"), "-l", label, "-t", "3600", "-o", path, *native, "--", *command],
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    rows = {}
    with open(path) as f:
        for line in f:
            _, test, cost, _, _, _, checksum = line.rstrip("\n").split("\t")
            rows[test] = (float(cost), checksum)
    return rows


NO_TESTS = ("boot_ready", "wall", "rss_kib")


def suite_join(runs, pick):
    """Several runs as one: test -> (cost picked from all, checksum)."""
    return {t: (pick([r[t][0] for r in runs if t in r]), row[1])
            for t, row in runs[0].items() if t not in NO_TESTS}


def suite(label, command, runs):
    return suite_join([suite_once(label, i, command) for i in range(runs)], statistics.median)


def show(value):
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def table(rows, head):
    widths = [max(len(str(r[i])) for r in [head, *rows]) for i in range(len(head))]
    line = lambda r: "| " + " | ".join(str(c).ljust(w) for c, w in zip(r, widths)) + " |"
    return "\n".join([line(head), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows)])


def figures_table(names):
    figures = list(dict.fromkeys(f for f, _, _ in raw))
    rows = []
    for f in figures:
        cells = []
        for n in names:
            values = [v for g, m, v in raw if g == f and m == n]
            cells.append(show(statistics.median(values)) if values else "-")
        rows.append([f, *cells])
    return table(rows, ["median", *names])


def suite_table(results):
    labels = list(results)
    rows = []
    for t in results["native"]:
        cells, note_ = [], "same"
        for label in labels:
            cost, checksum = results[label].get(t, (None, None))
            cells.append(f"{cost:.4f}" if cost is not None else "-")
            if checksum not in (None, results["native"][t][1]):
                note_ = f"differs: {label}"
        m, q = results["mvm"].get(t), results.get("qemu", {}).get(t)
        cells.append(f"{m[0] / q[0]:.2f}" if m and q and q[0] else "-")
        rows.append([t, *cells, note_])
    return table(rows, ["test", *[f"{n}, CPU s" for n in labels], "mvm/qemu", "checksum"])


def repeat(n, machines, what):
    """In turn, A B A B, so that a machine that drifts drifts for both."""
    for _ in range(n):
        for m in machines:
            try:
                what(m)
            except RuntimeError as e:
                print(f"bench: {m.name}: {e}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mvm", default=os.path.join(TOP, "build/mvm"))
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    parser.add_argument("--runs", type=int, default=3, help="of the guest benchmark and of Linux boots")
    parser.add_argument("--starts", type=int, default=15)
    parser.add_argument("--tests", default="all", help="names for the guest benchmark, or none")
    parser.add_argument("--scale", default="0.1")
    args = parser.parse_args()
    os.makedirs(OUT, exist_ok=True)
    mvm = os.path.abspath(args.mvm)
    tiny = os.path.join(os.path.dirname(mvm), "guest-tests")
    machines = [Mvm("mvm", mvm)]
    qemu = shutil.which(args.qemu)
    if qemu:
        machines.append(Qemu("qemu", qemu))
    else:
        print("bench: SKIP qemu: no qemu-system-x86_64 here; scripts/setup.sh bench installs it")

    repeat(args.starts, machines, lambda m: measure_start(m, tiny))
    repeat(args.starts, machines[:1], lambda m: measure_sandbox(m, tiny))
    repeat(3, machines, lambda m: measure_rate(m, tiny, "bench_loop.elf", "integer instructions per second", 1e9))
    repeat(3, machines, lambda m: measure_rate(m, tiny, "bench_ports.elf", "port writes (exits) per second", 1e6))
    repeat(1, machines[:1], lambda m: measure_latency(m, tiny))  # QEMU's TCG has neither x2APIC nor deadlines
    if os.path.exists(os.path.join(GUEST, "bench.cpio")):
        repeat(args.runs, machines, measure_linux)
    repeat(1, machines, measure_idle)
    for m in machines:
        note("size of the program, KiB", m.name, os.path.getsize(m.program) / 1024)
    text = [f"{datetime.date.today()}, {cpu_name()}, {os.cpu_count()} CPUs, Linux {platform.release()}", "",
            figures_table([m.name for m in machines]), ""]
    print("\n".join(text))

    if args.tests != "none" and os.path.exists(os.path.join(GUEST, "bench.cpio")):
        names = args.tests.split(",")
        words = f"bench={args.tests} bscale={args.scale}"
        results = {"native": suite("native", [os.path.join(GUEST, "bench/bench"), "-x", args.scale, *names],
                                   args.runs)}
        for m in machines:
            results[m.name] = suite(m.name, m.linux(os.path.join(GUEST, "bench.cpio"), words, 512), args.runs)
        text += [f"Guest benchmark, scale {args.scale}, median of {args.runs}:", "", suite_table(results), ""]
        print("\n".join(text[-4:]))
    with open(os.path.join(OUT, "tables.md"), "w") as f:
        f.write("\n".join(text))
    with open(os.path.join(OUT, "raw.tsv"), "w") as f:
        f.writelines(f"{a}\t{b}\t{c}\n" for a, b, c in raw)


def cpu_name():
    with open("/proc/cpuinfo") as f:
        return re.search(r"^model name\s*: (.*)", f.read(), re.M).group(1)


if __name__ == "__main__":
    main()
