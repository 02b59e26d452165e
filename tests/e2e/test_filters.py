"""Every row of seccomp/policy.def is needed: for each thread that it names there is a run that dies without
it.  build/mvm-without is mvm with the row named by MVM_WITHOUT left out (tests/without.c)."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time

from harness import SLOW, TOP, Scratch, Skip, Vm, check, test
from test_kvm import NESTED as NESTED_KVM
from test_sandbox import guest_pid

NUMBERS = {"read": 0, "write": 1, "ioctl": 16, "rt_sigreturn": 15, "sched_yield": 24, "madvise": 28, "sendto": 44,
           "futex": 202, "restart_syscall": 219, "clock_gettime": 228, "exit_group": 231, "tgkill": 234,
           "ppoll": 271, "fdatasync": 75, "fallocate": 285, "preadv2": 327, "pwritev": 296, "getrandom": 318,
           "membarrier": 324}

# Takes interrupts, which the guest of errands does without, a host with a larger XSAVE area, or (rt_sigreturn)
# a kick that meets the thread outside KVM_RUN: it does now and then.
UNTRIED = {f"{t}:ioctl:KVM_{c}" for t in ("kvm", "loop") for c in ("SIGNAL_MSI", "IRQ_LINE", "SET_GSI_ROUTING")} | {
    "kvm:ioctl:KVM_INTERRUPT", "kvm:ioctl:KVM_NMI", "kvm:ioctl:KVM_GET_XSAVE2", "loop:ioctl:KVM_IOEVENTFD",
    "kvm:tgkill", "kvm:restart_syscall", "kvm:rt_sigreturn"}
NESTED = """cd /tmp; dd if=/dev/zero of=d.img bs=1024 count=1024 2>/dev/null; mkfifo keys
for row in %s; do
	(sleep 1; printf rwfde; sleep 2; printf q; sleep 1) >keys &
	MVM_WITHOUT=$row /files/mvm-without --accel kvm --irqchip split --transport mmio --mem 32M --disk d.img \\
		--kernel /files/errands.elf <keys >out 2>&1 &
	pid=$!
	sleep 2; kill -TSTP $pid; sleep 0.3; kill -CONT $pid
	wait $pid
	echo "ROW $row $? $(grep -o '[a-z]* thread: system call [0-9]* ' out)"
done
"""


def rows():
    """THREAD:CALL[:VALUE] for each row of the policy and each thread in it."""
    groups = {"VCPU": "tcg kvm", "RUN": "loop tcg kvm disk"}
    with open(os.path.join(TOP, "seccomp/policy.def")) as f:
        text = f.read()
    for name, threads in re.findall(r"^SYS\((\w+),\s*([A-Z|]+),", text, re.M):
        for t in threads.split("|"):
            yield from (f"{x}:{name}" for x in groups.get(t, t.lower()).split())
    for name, threads, value in re.findall(r"^SYS_ARG\((\w+),\s*([A-Z|]+),\s*\d,\s*\w+,\s*(\w+),", text, re.M):
        for t in threads.split("|"):
            yield from (f"{x}:{name}:{value}" for x in groups.get(t, t.lower()).split())


def of_kvm(row):
    return row.startswith("kvm:") or ":KVM_" in row or row == "loop:tgkill"


class Run:
    """mvm-without with a terminal, pipes or a socket for its console, and a guest that does errands by key."""

    def __init__(self, env, scratch, row):
        self.env, self.scratch = env, scratch
        self.program = os.path.join(os.path.dirname(env.mvm), "mvm-without")
        self.environ = {**os.environ, "MVM_WITHOUT": row}
        if not os.path.exists(self.program):
            raise Skip("no mvm-without: a sanitizer's run-time makes calls of its own")
        self.base = ["--transport", "mmio", "--mem", "32M", "--disk", scratch.sparse("d.img", 1 << 20),
                     "--accel", "tcg", "--kernel", env.tiny("errands"),
                     "--fw-cfg", "name=opt/x,file=" + scratch.file("x", b"x")]

    def popen(self, *more, prefix=(), **how):
        return subprocess.Popen([*prefix, self.program, *self.base, *more], env=self.environ, **how)

    def errands(self, keys, *more, **how):
        """On pipes, to the end."""
        p = self.popen(*more, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how)
        try:
            out, _ = p.communicate(keys.encode(), timeout=10 * SLOW)
        except subprocess.TimeoutExpired:
            p.kill()
            out, _ = p.communicate()
        return p.returncode, out.decode(errors="replace")

    def on_a_socket(self):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            p = self.popen(stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
            theirs.close()
            ours.sendall(b"q")
            _, err = p.communicate(timeout=30 * SLOW)
        return p.returncode, err.decode(errors="replace")

    def as_nobody(self):
        """Who may not open the pipes again: their flags are changed and put back."""
        if os.getuid() != 0:
            raise Skip("not root, who alone can become another user")
        os.chmod(self.scratch.dir, 0o755)
        os.chmod(self.scratch.path("d.img"), 0o666)
        self.program = self.readable(self.program)
        self.base = [self.readable(a) if a.endswith(".elf") else a for a in self.base]
        return self.errands("q", prefix=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])

    def readable(self, path):
        copy = self.scratch.copy(path, os.path.basename(path))
        os.chmod(copy, 0o755)
        return copy

    def past_the_cache(self):
        self.base[5] += ",direct"
        return self.errands("rq")

    def on_a_block_device(self):
        loop = subprocess.run(["losetup", "-f", "--show", self.scratch.path("d.img")], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL)
        if loop.returncode:
            raise Skip("no loop device to be had")
        device = loop.stdout.decode().strip()
        try:
            self.base = [device if a.endswith("d.img") else a for a in self.base]
            return self.errands("dq")
        finally:
            subprocess.run(["losetup", "-d", device])

    def restart_linux(self):
        """A kernel that finds no root restarts at once."""
        self.base += ["--kernel", self.env.guest("vmlinuz"), "--mem", "128M", "--on-reboot", "restart",
                      "--cmdline", "quiet panic=-1 reboot=t"]
        return self.on_a_terminal(lambda vm: vm.expect("(?s)starting again.*panic", 60) and vm.send("\x01x"),
                                  "panic")

    def on_a_terminal(self, then, ready="READY"):
        vm = Vm(type("", (), {"mvm": self.program}), *self.base, environ=self.environ)
        with vm:
            try:
                vm.expect(ready, 20)
                then(vm)
            except Exception:  # it may be dead already; its end is what matters
                pass
            return vm.wait(20), vm.tail()


def stop_and_go(vm):
    vm.send("z")
    vm.expect(r"\.", 20)
    time.sleep(0.3)
    pid = guest_pid(vm)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.1)
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.3)
    vm.send("\x01x")


def background_and_back(vm):
    os.kill(vm.proc.pid, signal.SIGCONT)
    time.sleep(0.3)
    vm.send("q")


def terminate(vm):
    vm.signal(signal.SIGTERM)


def kill_the_guest(vm):
    os.kill(guest_pid(vm), signal.SIGKILL)


RUNS = {
    **dict.fromkeys("loop:futex loop:ppoll loop:read loop:write loop:exit_group tcg:futex tcg:write loop:clock_gettime "
                    "tcg:clock_gettime disk:futex watch:exit_group watch:rt_sigtimedwait watch:wait4".split(),
                    lambda r: r.errands("zq")),
    "loop:fdatasync": lambda r: r.errands("wq"),
    "loop:sendto": Run.on_a_socket,
    "loop:membarrier:MEMBARRIER_CMD_PRIVATE_EXPEDITED": lambda r: r.errands("rrq"),
    "loop:getrandom": lambda r: r.errands("eq"),
    "loop:preadv2": lambda r: r.errands("b", "--on-reboot", "restart", "--initrd", r.base[-1].split("file=")[1]),
    "loop:madvise:MADV_DONTNEED": lambda r: r.errands("b", "--on-reboot", "restart"),
    "loop:madvise:MADV_POPULATE_WRITE": lambda r: r.restart_linux(),
    "loop:ioctl:TCSETS": lambda r: r.on_a_terminal(background_and_back),
    "watch:ioctl:TCSETS": lambda r: r.on_a_terminal(kill_the_guest),
    "watch:fcntl:F_SETFL": Run.as_nobody,
    "watch:write": lambda r: r.on_a_terminal(kill_the_guest),
    "watch:rt_sigqueueinfo": lambda r: r.on_a_terminal(terminate),
    "tcg:restart_syscall": lambda r: r.on_a_terminal(stop_and_go),
    "tcg:sched_yield": lambda r: r.errands("ppq", "--cpus", "2"),
    "tcg:rt_sigreturn": lambda r: r.errands("v"),
    "tcg:preadv2": lambda r: r.errands("cq"),
    "tcg:madvise:MADV_POPULATE_READ": lambda r: r.errands("mq"),
    "tcg:madvise:MADV_POPULATE_WRITE": lambda r: r.errands("mq"),
    "disk:write": lambda r: r.errands("wq"),
    "disk:preadv2": Run.past_the_cache,
    "disk:pwritev": lambda r: r.errands("wq"),
    "disk:fdatasync": lambda r: r.errands("wfq"),
    "disk:ioctl:BLKDISCARD": Run.on_a_block_device,
    "disk:fallocate": lambda r: r.errands("dq"),
}


def dies_without(row, status, out):
    thread, call = row.split(":")[:2]
    if thread == "watch":
        return status == -signal.SIGSYS
    name = {"tcg": "vcpu", "kvm": "vcpu"}.get(thread, thread)
    return status == 4 and re.search(rf"{name} thread: system call {NUMBERS[call]} ", out)


@test(weight=20)
def filters_have_no_row_too_many(env):
    ours = [r for r in rows() if not of_kvm(r)]
    check(sorted(ours) == sorted(RUNS), f"rows without a run: {set(ours) - set(RUNS)}, runs without: {set(RUNS) - set(ours)}")
    idle = []
    for row in ours:
        with Scratch() as s:
            run = Run(env, s, row)
            try:
                status, out = RUNS[row](run)
            except Skip as e:
                print(f"filters: {row} is not tried: {e}")
                continue
        if not dies_without(row, status, out):
            idle.append(f"{row} (status {status}: {out[-200:]!r})")
    check(not idle, "nothing dies without " + "; ".join(idle))


@test()
def filters_let_every_errand_pass(env):
    """With all rows no run of the above ends in the sandbox."""
    for run in sorted(set(RUNS.values()), key=id):
        with Scratch() as s:
            r = Run(env, s, "none")
            try:
                status, out = run(r)
            except Skip as e:
                continue
        check(status not in (4, -signal.SIGSYS) and "sandbox" not in out, f"status {status}: {out[-300:]!r}")


@test()
def bug_of_ours_ends_with_a_line_and_132(env):
    """An ASSERT, in a thread under its filter."""
    with Scratch() as s:
        r = Run(env, s, "none")
        r.environ["MVM_BUG"] = "1"
        status, out = r.errands("zq")
    check(status == 132, f"status {status}: {out[-300:]!r}")
    check(re.search(r"^mvm: bug: tests/without.c:\d+: .* does not hold; please report this line", out, re.M), out[-300:])


@test(weight=150)
def filters_have_no_row_too_many_under_kvm(env):
    """In the emulated machine of test_kvm.py, pauses included; all rows in one boot."""
    if not shutil.which("qemu-system-x86_64"):
        raise Skip("no QEMU to emulate a machine that has KVM")
    wanted = sorted(r for r in rows() if of_kvm(r) and r not in UNTRIED)
    with Scratch() as s:
        Run(env, s, "none")
        script = s.file("rows.sh", (NESTED % " ".join(["none", *wanted])).encode())
        small = s.path("mvm-without")
        subprocess.run(["strip", "-o", small, os.path.join(os.path.dirname(env.mvm), "mvm-without")], check=True)
        r = subprocess.run([NESTED_KVM, script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=600 * SLOW,
                           env={**os.environ, "FILES": f"{small} {env.tiny('errands')}", "GUEST": env.guest_dir})
    got = {row: (int(status), text) for row, status, text in
           re.findall(r"^ROW (\S+) (\d+) (.*?)\s*$", r.stdout.decode(errors="replace"), re.M)}
    check(got.get("none") == (0, ""), f"with all rows: {got.get('none')}: {r.stdout[-300:]!r}")
    idle = [row for row in wanted if not (row in got and dies_without(row, got[row][0], got[row][1] + " "))]
    check(not idle, f"nothing dies without {', '.join(f'{row} {got.get(row)}' for row in idle)}")
