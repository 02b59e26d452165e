"""The walls where the host offers less or is asked for more, and what a guest can do to the monitor around
it: spin on registers, be killed while the walls go up."""

import glob
import os
import random
import re
import signal
import subprocess
import time

from harness import Failure, Scratch, Skip, Vm, check, run, test
from test_sandbox import guest_pid, status_of


@test()
def walls_left_stand_where_namespaces_are_refused(env):
    """In a user namespace that may not have others: one line for each wall that is missing."""
    refuse = ["unshare", "-U", "-r", "sh", "-c", 'for f in /proc/sys/user/max_*_namespaces; do echo 0 >$f; done && exec "$@"',
              "sh"]
    if subprocess.run([*refuse, "true"], stderr=subprocess.DEVNULL).returncode:
        raise Skip("no user namespace to be had here")
    with Vm(env, "--kernel", env.tiny("echo"), prefix=refuse) as vm:
        vm.expect(r"mvm: sandbox: no namespaces here \(.*\): filters and Landlock stand alone; .*max_user_namespaces", 20)
        vm.expect("mvm: sandbox: no empty root here", 20)
        vm.expect("READY", 20)
        st = status_of(f"/proc/{guest_pid(vm)}")
        check(st["Seccomp"] == "2" and st["NoNewPrivs"] == "1" and int(st["CapEff"], 16) == 0, f"{st}")
        vm.send("q")
        vm.expect_exit(0)


@test()
def cgroup_is_joined_by_both_processes(env):
    for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"):
        path = f"{top}/mvm-test-{os.getpid()}"
        if os.path.exists(top + "/cgroup.procs"):
            try:
                os.mkdir(path)
                break
            except OSError:
                continue
    else:
        raise Skip("no control group can be made here")
    try:
        with Vm(env, "--kernel", env.tiny("echo"), "--cgroup", path) as vm:
            vm.expect("READY", 20)
            with open(path + "/cgroup.procs") as f:
                inside = {int(n) for n in f.read().split()}
            check({vm.proc.pid, guest_pid(vm)} <= inside, f"in the group: {inside}")
            vm.send("q")
            vm.expect_exit(0)
    finally:
        time.sleep(0.1)
        os.rmdir(path)


@test()
def netns_is_entered(env):
    """What the walls leave of it (nothing: they give an empty one) is not looked at here."""
    with Scratch() as s:
        net = s.file("net")
        made = subprocess.run(["unshare", "--net=" + net, "true"], stderr=subprocess.DEVNULL)
        if made.returncode:
            raise Skip("no network namespace can be made and kept here")
        try:
            with Vm(env, "--kernel", env.tiny("echo"), "--netns", net, "--sandbox", "off") as vm:
                vm.expect("READY", 20)
                check(os.stat(f"/proc/{vm.proc.pid}/ns/net").st_ino == os.stat(net).st_ino, "it is elsewhere")
            with Vm(env, "--kernel", env.tiny("echo"), "--netns", net) as vm:
                vm.expect("READY", 20)
                vm.send("q")
                vm.expect_exit(0)
        finally:
            subprocess.run(["umount", net], check=True)


def rss_kib(pid):
    return int(status_of(f"/proc/{pid}")["VmRSS"].split()[0])


@test(weight=20)
def guest_spinning_on_registers_starves_nobody(env):
    """One CPU on each register in turn, the other reads the disk; the monitor does not grow, its keys work."""
    with Scratch() as s, Vm(env, "--kernel", env.tiny("registers"), "--cpus", "2", "--mem", "16M", "--transport",
                            "mmio", "--disk", s.sparse("d.img", 1 << 20)) as vm:
        for _ in range(4):
            vm.expect("reads", 60)
        before = rss_kib(guest_pid(vm))
        vm.expect("DONE", 120)
        counts = [int(n) for n in re.findall(rb"reads (\d+)", vm.log)]
        grown = rss_kib(guest_pid(vm)) - before
        check(len(counts) > 30 and min(counts) > 0, f"reads of the disk while the other spins: {counts}")
        check(grown < 2048, f"{grown} KiB more than before")
        vm.send("\x01x")
        vm.expect_exit(0, 10)


def of_this_test(folder):
    """Processes with a file of the folder on their command line."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as f:
                if folder.encode() in f.read():
                    found.append(int(path.split("/")[2]))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


@test(weight=15)
def guests_killed_while_walls_go_up_leave_nothing(env):
    """50, each ended at a moment of its first 30 ms: before, in and after the fork, while threads start."""
    chance = random.Random(7)
    with Scratch() as s:
        procs = []
        disks = [s.sparse(f"d{i}", 1 << 20) for i in range(50)]
        for d in disks:
            p = subprocess.Popen([env.mvm, "--mem", "16M", "--stop-timeout", "0", "--disk", d, "--kernel", env.tiny("echo")],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            procs.append(p)
            time.sleep(chance.random() * 0.03)
            ways = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGSEGV)
            child = [pid for pid in of_this_test(d) if pid != p.pid] if chance.random() < 0.5 else []
            try:
                # The child is the first of its PID namespace, whom only SIGKILL ends for certain.
                os.kill(*((child[0], signal.SIGKILL) if child else (p.pid, chance.choice(ways))))
            except ProcessLookupError:
                pass
        for p in procs:
            try:
                p.wait(30)
            except subprocess.TimeoutExpired:
                raise Failure(f"still there: {status_of(f'/proc/{p.pid}')}")
        end = time.monotonic() + 10
        while of_this_test(s.dir) and time.monotonic() < end:
            time.sleep(0.1)
        check(not of_this_test(s.dir), f"left: {of_this_test(s.dir)}")
        check(len(os.listdir(s.dir)) == len(disks), f"files left: {os.listdir(s.dir)}")
        for d in disks[::5]:
            r = run(env, "--kernel", env.tiny("poweroff"), "--mem", "16M", "--disk", d)
            check(r.returncode == 0, f"{d}: status {r.returncode}: {r.stderr!r}")
