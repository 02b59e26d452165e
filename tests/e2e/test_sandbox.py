"""The walls around a running mvm as /proc shows them, what happens to a thread that makes a forbidden
call, and what is left of guests that are killed."""

import ctypes
import glob
import os
import random
import re
import shutil
import signal
import subprocess
import time

from harness import Failure, Scratch, Skip, Vm, check, error_line, fsck, login, run, test

NAMESPACES = ("user", "mnt", "net", "ipc", "uts")
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
PTRACE_CONT, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_ATTACH, PTRACE_DETACH = 7, 12, 13, 16, 17
WALL = 0x40000000
REGS = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base " \
       "gs_base ds es fs gs"


class Regs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in REGS.split()]


def ptrace(request, tid, data=None):
    if libc.ptrace(request, tid, None, data) < 0:
        raise Skip(f"ptrace is not allowed here: {os.strerror(ctypes.get_errno())}")


def guest_pid(vm):
    """The process of the guest: the child of the one that was started."""
    pid = vm.proc.pid
    for _ in range(100):
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            children = f.read().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise Failure("mvm has no child")


def status_of(path):
    with open(path + "/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def threads(pid):
    """Name -> thread IDs."""
    found = {}
    for path in glob.glob(f"/proc/{pid}/task/*"):
        with open(path + "/comm") as f:
            found.setdefault(f.read().strip(), []).append(int(os.path.basename(path)))
    return found


def inject(tid, number, *args):
    """Have the thread make a system call, wherever it is: by the instruction with which its process's main
    thread, which waits, made its last."""
    with open(f"/proc/{tid}/status") as f:
        leader = re.search(r"^Tgid:\s*(\d+)", f.read(), re.M).group(1)
    with open(f"/proc/{leader}/syscall") as f:
        words = f.read().split()
    check(len(words) > 2, f"the main thread does not wait: {words}")
    regs = Regs()
    ptrace(PTRACE_ATTACH, tid)
    os.waitpid(tid, WALL)
    ptrace(PTRACE_GETREGS, tid, ctypes.byref(regs))
    regs.rip = int(words[-1], 16) - 2
    regs.rax, regs.orig_rax = number, 2**64 - 1
    regs.rdi, regs.rsi, regs.rdx = (*args, 0, 0, 0)[:3]
    ptrace(PTRACE_SETREGS, tid, ctypes.byref(regs))
    ptrace(PTRACE_CONT, tid)


def see_it_die(tid):
    """Pass on what it is sent; the signal that it died of."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        pid, status = os.waitpid(tid, WALL | os.WNOHANG)
        if pid == 0:
            time.sleep(0.02)
        elif os.WIFSIGNALED(status):
            return os.WTERMSIG(status)
        else:
            check(os.WIFSTOPPED(status), f"it ended with status {status}")
            libc.ptrace(PTRACE_CONT, tid, None, os.WSTOPSIG(status))
    raise Failure(f"thread {tid} is still there: {status_of(f'/proc/{tid}')['State']}, "
                  f"{open(f'/proc/{tid}/syscall').read().strip()}")


def echo(env, scratch, *args):
    """A guest that sleeps until a key comes, with a disk and so with disk workers."""
    disk = scratch.sparse("d.img", 1 << 20)
    vm = Vm(env, "--kernel", env.tiny("echo"), "--disk", disk, *args)
    vm.__enter__()
    vm.expect("READY", 20)
    time.sleep(0.3)
    return vm


@test()
def walls_are_up_for_every_thread(env):
    with Scratch() as s:
        vm = echo(env, s)
        try:
            child = guest_pid(vm)
            for pid in (vm.proc.pid, child):
                for task in glob.glob(f"/proc/{pid}/task/*"):
                    st = status_of(task)
                    for cap in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                        check(int(st[cap], 16) == 0, f"{task} has {cap} {st[cap]}")
                    check(st["NoNewPrivs"] == "1" and st["Seccomp"] == "2",
                          f"{task}: no_new_privs {st['NoNewPrivs']}, seccomp {st['Seccomp']}")
                for name in NAMESPACES:
                    check(os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"),
                          f"process {pid} shares our {name} namespace")
                check(os.listdir(f"/proc/{pid}/root/") == [], f"the root of {pid} is not empty")
                check(os.readlink(f"/proc/{pid}/cwd") == "/", f"{pid} is in {os.readlink(f'/proc/{pid}/cwd')}")
            check(os.readlink(f"/proc/{child}/ns/pid") != os.readlink("/proc/self/ns/pid"), "it shares our PIDs")
            check(status_of(f"/proc/{child}")["NSpid"].split()[-1] == "1", "it is not the first of its PIDs")
            names = threads(child)
            check(len(names["vcpu"]) == 1 and len(names["disk"]) == 4, f"threads {names}")
        finally:
            vm.__exit__()


@test()
def walls_keep_no_stray_descriptor(env):
    with Scratch() as s, open("/dev/null") as stray, open("/etc/passwd") as other:
        os.set_inheritable(stray.fileno(), True)
        os.set_inheritable(other.fileno(), True)
        with Vm(env, "--kernel", env.tiny("echo"), "--disk", s.sparse("d.img", 1 << 20)) as vm:
            vm.proc.kill()
        proc = subprocess.Popen([env.mvm, "--kernel", env.tiny("echo"), "--disk", s.path("d.img")],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                close_fds=False)
        try:
            proc.stdout.read(5)
            with open(f"/proc/{proc.pid}/task/{proc.pid}/children") as f:
                child = int(f.read().split()[0])
            links = {fd: os.readlink(f"/proc/{child}/fd/{fd}") for fd in os.listdir(f"/proc/{child}/fd")}
            strays = [l for fd, l in links.items() if int(fd) > 2 and "d.img" not in l
                      and not l.startswith(("anon_inode:", "pipe:"))]
            check(not strays, f"open in the guest's process: {strays}")
            check(sorted(os.listdir(f"/proc/{proc.pid}/fd")) == ["0", "1", "2"], "the parent has more than 0, 1, 2")
        finally:
            proc.kill()
            proc.wait()
            proc.stdin.close()
            proc.stdout.close()


@test()
def forbidden_call_kills_and_is_explained(env):
    """socket(2), in each kind of thread."""
    for name in ("mvm", "vcpu", "disk"):
        with Scratch() as s:
            vm = echo(env, s)
            try:
                child = guest_pid(vm)
                tid = threads(child)[name][0]
                inject(tid, 41, 1, 2, 3)
                check(see_it_die(tid) == signal.SIGSYS, f"{name}: not killed by SIGSYS")
                vm.expect(r"sandbox: %s thread: system call 41 \(0x1, 0x2, 0x3\) at mvm\+0x[0-9a-f]+, which .*report"
                          % name.replace("mvm", "loop"), 10)
                vm.expect_exit(4, 10)
                check(not os.path.exists(f"/proc/{child}"), "the guest's process is still there")
            finally:
                vm.__exit__()


@test()
def forbidden_memory_cannot_be_had(env):
    """mmap and mprotect, with and without execution."""
    for number, args in ((9, (0, 4096, 7)), (9, (0, 4096, 3)), (10, (0, 4096, 5)), (25, ()), (12, ())):
        with Scratch() as s:
            vm = echo(env, s)
            try:
                tid = threads(guest_pid(vm))["vcpu"][0]
                inject(tid, number, *args)
                check(see_it_die(tid) == signal.SIGSYS, f"system call {number}: not killed by SIGSYS")
                vm.expect(f"system call {number} ", 10)
                vm.expect_exit(4, 10)
            finally:
                vm.__exit__()


@test()
def forbidden_call_is_only_reported_when_asked(env):
    with Scratch() as s:
        vm = echo(env, s, "--sandbox", "log")
        try:
            tid = threads(guest_pid(vm))["vcpu"][0]
            inject(tid, 39)
            vm.expect("vcpu thread: system call 39 .*would have been killed", 10)
            os.waitpid(tid, WALL | os.WNOHANG)
            os.kill(tid, 0)
        finally:
            vm.__exit__()


@test()
def forbidden_call_of_the_parent_ends_both(env):
    with Scratch() as s:
        vm = echo(env, s)
        try:
            child = guest_pid(vm)
            inject(vm.proc.pid, 41)
            check(see_it_die(vm.proc.pid) == signal.SIGSYS, "not killed by SIGSYS")
            for _ in range(100):
                if not os.path.exists(f"/proc/{child}"):
                    break
                time.sleep(0.05)
            check(not os.path.exists(f"/proc/{child}"), "the child outlived the parent")
        finally:
            vm.__exit__()


@test()
def sandbox_off_is_one_process(env):
    with Scratch() as s:
        vm = echo(env, s, "--sandbox", "off")
        try:
            with open(f"/proc/{vm.proc.pid}/task/{vm.proc.pid}/children") as f:
                check(not f.read().split(), "it has children")
            check(status_of(f"/proc/{vm.proc.pid}")["Seccomp"] == "0", "it has a filter")
            vm.send("q")
            vm.expect_exit(0)
        finally:
            vm.__exit__()


@test()
def violent_ends_are_explained_and_leave_the_terminal(env):
    for number in (signal.SIGKILL, signal.SIGSEGV):
        with Scratch() as s:
            vm = echo(env, s)
            try:
                os.kill(guest_pid(vm), number)
                vm.expect(f"ended by signal {int(number)}", 10)
                vm.expect_exit(128 + number, 10)
            finally:
                vm.__exit__()


def nobody(env, scratch):
    """A copy of mvm that nobody may execute, and how to become nobody."""
    if os.getuid() != 0:
        return env.mvm, []
    os.chmod(scratch.dir, 0o755)
    mvm = scratch.path("mvm")
    shutil.copy(env.mvm, mvm)
    os.chmod(mvm, 0o755)
    return mvm, ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def copy_for_all(scratch, path, name):
    shutil.copy(path, scratch.path(name))
    os.chmod(scratch.path(name), 0o644)
    return scratch.path(name)


@test(weight=60)
def sandbox_needs_no_root(env):
    """The main job as nobody, who has no /dev/kvm: Debian from its disk to a login, a file written, off again."""
    with Scratch() as s:
        mvm, become = nobody(env, s)
        kernel, initrd = (copy_for_all(s, env.guest(n), n) for n in ("vmlinuz", "initrd.img"))
        disk = s.copy(env.guest("root.img"))
        os.chmod(disk, 0o666)
        env2 = type(env)(mvm, env.guest_dir)
        with Vm(env2, "--kernel", kernel, "--initrd", initrd, "--disk", disk, "--accel", "tcg", prefix=become) as vm:
            login(vm)
            st = status_of(f"/proc/{guest_pid(vm)}")
            check(st["Uid"].split()[1] != "0" or os.getuid() != 0, f"it runs as {st['Uid']}")
            check(st["Seccomp"] == "2" and int(st["CapBnd"], 16) == 0, f"the walls are not up: {st}")
            status, _ = vm.command("echo kept > /root/kept && sync")
            check(status == 0, "the disk cannot be written to")
            vm.send("poweroff\n")
            vm.expect_exit(0, 60)
        fsck(disk)
        check(b"kept" in subprocess.run(["debugfs", "-R", "cat /root/kept", disk], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL).stdout, "the file is not on the disk")


@test()
def sandbox_drops_what_root_has(env):
    if os.getuid() != 0:
        raise Skip("needs root to have something to drop")
    with Scratch() as s:
        os.chmod(s.dir, 0o755)
        copy_for_all(s, env.tiny("echo"), "echo.elf")
        with Vm(env, "--kernel", "/echo.elf", "--chroot", s.dir, "--uid", "65534", "--gid", "65533") as vm:
            vm.expect("READY", 20)
            st = status_of(f"/proc/{guest_pid(vm)}")
            check(st["Uid"].split() == ["65534"] * 4 and st["Gid"].split() == ["65533"] * 4, f"{st['Uid']} {st['Gid']}")
            check(st["Groups"].split() in ([], ["65533"]), f"groups {st['Groups']}")
            vm.send("q")
            vm.expect_exit(0)


@test()
def sandbox_mistakes_are_named(env):
    for args, status, words in ((["--cgroup", "no/such"], 2, "cgroup no/such"), (["--netns", "nosuch"], 2, "netns nosuch"),
                                (["--chroot", "/nonexistent"], 2, "chroot /nonexistent"),
                                (["--uid", "root"], 1, "numeric"), (["--sandbox", "maybe"], 1, "on,off,log")):
        r = run(env, "--kernel", env.tiny("poweroff"), *args)
        check(r.returncode == status, f"{args}: status {r.returncode}: {r.stderr!r}")
        check(words in error_line(r), f"{args}: {r.stderr!r}")


@test(weight=15)
def killed_guests_leave_nothing(env):
    """50 at once, ended in five ways at random moments."""
    chance = random.Random(5)
    ways = ("kill parent", "kill guest", "term", "hup", "segv guest")
    with Scratch() as s:
        before = set(os.listdir(s.dir))
        disks = [s.sparse(f"d{i}", 1 << 20) for i in range(50)]
        procs = [subprocess.Popen([env.mvm, "--mem", "16M", "--stop-timeout", "0", "--disk", d, "--kernel",
                                   env.tiny(("echo", "spin", "chatter")[i % 3])], stdin=subprocess.PIPE,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for i, d in enumerate(disks)]
        pids = {p.pid for p in procs}
        for p in chance.sample(procs, len(procs)):
            time.sleep(chance.random() * 0.04)
            way = chance.choice(ways)
            try:
                with open(f"/proc/{p.pid}/task/{p.pid}/children") as f:
                    children = [int(c) for c in f.read().split()]
            except FileNotFoundError:
                children = []
            pids.update(children)
            if way == "term" or way == "hup":
                p.send_signal(signal.SIGTERM if way == "term" else signal.SIGHUP)
            elif way == "kill parent" or not children:
                p.kill()
            else:
                for c in children:
                    try:
                        os.kill(c, signal.SIGKILL if way == "kill guest" else signal.SIGSEGV)
                    except ProcessLookupError:
                        pass
        for p in procs:
            p.wait(30)
            p.stdin.close()
        end = time.monotonic() + 10
        while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < end:
            time.sleep(0.1)
        stuck = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
        check(not stuck, f"processes left: {stuck}")
        check(set(os.listdir(s.dir)) == before | {os.path.basename(d) for d in disks}, "files left")
        for d in disks:  # the lock is gone: another may have the disk
            r = run(env, "--kernel", env.tiny("poweroff"), "--mem", "16M", "--disk", d)
            check(r.returncode == 0, f"{d}: status {r.returncode}: {r.stderr!r}")
