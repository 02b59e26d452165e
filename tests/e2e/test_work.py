"""Whole systems under load on two vCPUs: what Debian's own programs compute there, a kernel that rewrites its own
code, and stressors that check themselves.  tests/work holds what runs in the guest; it gets there as a tar
archive on a second disk."""

import os
import re
import subprocess
import tarfile

from harness import TOP, Failure, Scratch, Vm, check, fsck, login, test
from test_linux import check_dmesg

WORK = os.path.join(TOP, "tests/work")


def deb(scratch):
    """A package of our own: a program, a configuration file, a script that runs at installation."""
    root = scratch.path("deb")
    files = {
        "DEBIAN/control": "Package: mvm-work\nVersion: 1.0\nArchitecture: all\nMaintainer: mvm <mvm@localhost>\n"
                          "Depends: perl-base, libc6\nDescription: a package to install and remove\n",
        "DEBIAN/postinst": "#!/bin/sh\nset -e\necho configured >/var/lib/mvm-work\n",
        "DEBIAN/postrm": "#!/bin/sh\nset -e\nrm -f /var/lib/mvm-work\n",
        "DEBIAN/conffiles": "/etc/mvm-work.conf\n",
        "etc/mvm-work.conf": "one = 1\n",
        "usr/bin/mvm-work": "#!/usr/bin/perl\nprint 'works ', 6 * 7, \"\\n\";\n",
    }
    for name, text in files.items():
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o755 if text.startswith("#!") else 0o644)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zxz", "-b", root, scratch.path("mvm-work.deb")], check=True,
                   stdout=subprocess.DEVNULL)
    return scratch.path("mvm-work.deb")


def work_disk(scratch):
    path = scratch.path("work.tar")
    with tarfile.open(path, "w") as tar:
        for name in sorted(os.listdir(WORK)):
            tar.add(os.path.join(WORK, name), name)
        tar.add(deb(scratch), "mvm-work.deb")
    return path


def host(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=WORK).stdout.decode()


def host_sums(scratch):
    """What the host itself prints, by the name of the guest's command."""
    subprocess.run(["gcc", "-O2", "-w", "-o", scratch.path("sums"), os.path.join(WORK, "sums.c"), "-lm", "-lpthread"],
                   check=True)
    return {"c": host(scratch.path("sums")), "perl": host("perl", "sums.pl"), "python": host("python3", "sums.py")}


GUEST_SUMS = {
    "c": "gcc -O2 -w -o /tmp/sums sums.c -lm -lpthread && /tmp/sums",
    "perl": "perl sums.pl",
    "python": "python3 sums.py",
}
# A compiler and its interpreter must agree.
JITS = {
    "luajit": ("luajit sums.lua", "luajit -joff sums.lua"),
    "node": ("node sums.js | cat", "node --jitless sums.js 2>/dev/null | cat"),
}
STRESS = "(cd /tmp && stress-ng --verify --metrics-brief --temp-path /tmp --timeout {seconds}s {stressors})"
STRESSORS = ("--cpu 1 --matrix 1", "--vm 1 --vm-bytes 48M --vecmath 1", "--qsort 1 --opcode 1",
             "--mmap 1 --mmap-bytes 16M --pipe 1 --fork 1 --icache 1")


class Work:
    """A guest with a copy of the work disk, logged in, in the folder with tests/work."""

    def __init__(self, env, scratch, kernel="vmlinuz", initrd="initrd.img", cpus=2, more=()):
        self.cpus = cpus
        self.disk = scratch.copy(env.guest("work.img"))
        self.vm = Vm(env, "--kernel", env.guest(kernel), "--initrd", env.guest(initrd), "--accel", "tcg", "--mem", "768M",
                     "--cpus", str(cpus), "--disk", self.disk, "--disk", work_disk(scratch) + ",ro", *more)

    def __enter__(self):
        self.vm.__enter__()
        login(self.vm)
        self.run("mount -t tmpfs -o size=256M none /tmp && mkdir /tmp/work && cd /tmp/work && tar xf /dev/vdb")
        return self

    def __exit__(self, *exc):
        self.vm.__exit__(*exc)

    def run(self, command, timeout=300):
        status, out = self.vm.command(command, timeout)
        check(status == 0, f"{command}: status {status}: {out[-1500:]}")
        return out

    def end(self):
        check_dmesg(self.vm)
        self.vm.send("poweroff\n")
        self.vm.expect_exit(0, 60)
        fsck(self.disk)


def check_sums(w, wanted):
    for name, command in GUEST_SUMS.items():
        got = w.run(command)
        check(got == wanted[name], f"{name}: the guest computes\n{got}the host\n{wanted[name]}")


def check_jits(w):
    for name, (compiled, interpreted) in JITS.items():
        a, b = w.run(compiled), w.run(interpreted, 240)
        check(a == b and len(a) > 100, f"{name}: compiled code computes\n{a}interpreted\n{b}")


def check_packages(w):
    w.run("dpkg -i mvm-work.deb && mvm-work | grep -q 'works 42' && grep -q configured /var/lib/mvm-work")
    w.run("echo two = 2 >>/etc/mvm-work.conf; dpkg --verify mvm-work | grep -q '^??5.* c /etc/mvm-work.conf'")
    w.run("apt-get -qq remove -y mvm-work >/dev/null && test ! -e /usr/bin/mvm-work && apt-get -qq check")
    # All files of all packages, but those that the image leaves out.
    bad = w.run("dpkg --verify | grep -v ' /usr/share/\\(doc\\|man\\|info\\|locale\\)/\\|mvm-work.conf' | head -n 5; true")
    check("/" not in bad, f"dpkg --verify: {bad}")


def check_archives(w):
    w.run("tar cf all.tar /usr/lib/x86_64-linux-gnu/perl-base && for z in 'gzip -6' 'bzip2 -1' 'xz -1 -T2'; do "
          "$z <all.tar >all.z && ${z%% *} -dc all.z | cmp - all.tar || exit 1; done; rm all.*", 120)


def check_stress(w, stressors, seconds):
    out = w.run(STRESS.format(seconds=seconds, stressors=stressors), seconds * 4 + 60)
    check("successful run completed" in out, f"stress-ng {stressors}: {out[-1500:]}")
    return out


def check_kernel(w, settings=""):
    out = w.run(f"{settings} bash kernel.sh 2>&1", 300)
    check("kernel: all well" in out, f"kernel.sh: {out[-1500:]}")
    return out


def generic(env, scratch):
    return Work(env, scratch, "vmlinuz-generic", "initrd-generic.img")


@test(weight=100)
def debian_programs_compute_what_the_host_does(env):
    with Scratch() as s, Work(env, s) as w:
        check_sums(w, host_sums(s))
        check_packages(w)
        check_archives(w)
        w.end()


@test(weight=80)
def work_goes_on_while_code_is_evicted(env):
    """Code memory that holds a small part of what four CPUs run, so that it is emptied again and again."""
    with Scratch() as s, Work(env, s, cpus=4, more=("--tcg-cache", "1M")) as w:
        check_sums(w, host_sums(s))
        check_stress(w, STRESSORS[2], 3)
        w.end()


@test(weight=90)
def programs_that_write_code_agree_with_their_interpreters(env):
    with Scratch() as s, Work(env, s) as w:
        check_jits(w)
        w.run("python3 filter.py")
        for stressors in STRESSORS:
            check_stress(w, stressors, 3)
        w.end()


@test(weight=90)
def a_kernel_rewrites_its_own_code(env):
    """Function tracer, probes, static keys, modules and BPF, while both CPUs are busy."""
    with Scratch() as s, generic(env, s) as w:
        check_kernel(w)
        w.run("python3 filter.py")
        w.end()
