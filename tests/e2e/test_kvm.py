"""The KVM engine with a real kernel.  Where the host has /dev/kvm, on it; else inside a Debian kernel with
kvm-amd on QEMU's emulated SVM (scripts/kvm-nested.sh): a real KVM, only slow."""

import json
import os
import re
import shutil
import subprocess

from harness import SLOW, TOP, Failure, Scratch, Skip, check, run, test

NESTED = os.path.join(TOP, "scripts/kvm-nested.sh")


def newc(path, data, mode):
    """One member of a cpio archive, Documentation/driver-api/early-userspace/buffer-format.rst."""
    name = path.encode() + b"\0"
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
    head = b"070701" + b"".join(b"%08x" % f for f in fields) + name
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initramfs(env, s):
    with open(env.tiny("linux_init"), "rb") as f:
        init = f.read()
    return s.file("init.cpio", newc("init", init, 0o100755) + newc("TRAILER!!!", b"", 0))


def kvm(env, files, *args, timeout):
    """What mvm --accel kvm prints with these files, and its status; NAME in args stands for a file."""
    if os.access("/dev/kvm", os.W_OK):
        r = run(env, "--accel", "kvm", *[files.get(a, a) for a in args], timeout=timeout)
        return r.returncode, (r.stdout + r.stderr).decode(errors="replace")
    if not shutil.which("qemu-system-x86_64"):
        raise Skip("no /dev/kvm, and no QEMU to emulate a machine that has one")
    inside = [f"/files/{os.path.basename(files[a])}" if a in files else a for a in args]
    try:
        r = subprocess.run([NESTED, env.mvm, "--accel", "kvm", *inside], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout * SLOW,
                           env={**os.environ, "FILES": " ".join(files.values()), "GUEST": env.guest_dir})
    except subprocess.TimeoutExpired as e:
        raise Failure(f"not done after {timeout} s; it said: {(e.stdout or b'')[-900:]!r}")
    return r.returncode, r.stdout.decode(errors="replace")


def emulated(env):
    """Does /dev/kvm exist without hardware behind it?"""
    if not os.access("/dev/kvm", os.W_OK):
        return False
    r = run(env, "--dry-run", "--kernel", env.tiny("poweroff"))
    return json.loads(r.stdout)["engine"] != "kvm"


def look(env, chip, status, out):
    check("Run /init as init process" in out, f"{chip}: the kernel did not come to its init: {out[-1500:]}")
    m = re.search(r"(\d+) instructions executed here", out)
    if emulated(env):
        # On such hosts the first SYSCALL of init faults, so this is as far as any monitor gets.
        check(m and int(m.group(1)) > 0, f"{chip}: the software CPU executed no instruction: {out[-600:]}")
        return
    check("INIT-RUNS" in out, f"{chip}: init said nothing: {out[-1500:]}")
    check(status == 0 and m, f"{chip}: status {status}, statistics {m}: {out[-600:]}")


@test(weight=150)
def kvm_small_kernel_reaches_init(env):
    """No parameters for KVM's sake: what its start-up executes must run, on the software CPU if need be."""
    with Scratch() as s:
        files = {"K": env.guest("mini/vmlinux"), "I": initramfs(env, s)}
        for chip in ("split", "kernel", "user"):
            look(env, chip, *kvm(env, files, "--kernel", "K", "--initrd", "I", "--mem", "64M", "--irqchip", chip,
                                 "--tcg-stats", timeout=300))


@test(weight=90)
def kvm_a_second_cpu_starts_and_answers(env):
    """INIT, SIPI, IPIs and NMIs with xAPICs and x2APICs, by each kind of irqchip."""
    for chip in ("split", "kernel", "user"):
        status, out = kvm(env, {"K": env.tiny("smp")}, "--kernel", "K", "--cpus", "2", "--irqchip", chip, timeout=200)
        # KVM has x2APICs only in the kernel.
        check(status == 0 and "xapic done" in out and ("x2apic done" in out) == (chip != "user"),
              f"{chip}: status {status}: {out[-600:]}")
