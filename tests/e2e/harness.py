"""What the end-to-end tests share: starting mvm on a pty or on pipes, talking to its console, scratch
disks, and the registration of tests.  Only the standard library is used."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import tempfile
import termios
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# One number scales every time limit: MVM_E2E_SLOW=3 for a machine three times slower.
SLOW = float(os.environ.get("MVM_E2E_SLOW", "1"))


class Skip(Exception):
    """Raised by a test that cannot run here; the text says why."""


class Failure(Exception):
    """Raised by a check that does not hold."""


tests = []


def test(weight=0, idle=False):
    """Registers a test.  weight: rough seconds, so that the long ones start first; idle: it mostly sleeps, and runs
    beside the others."""

    def register(function):
        tests.append((function, weight, idle))
        return function

    return register


def check(condition, text):
    if not condition:
        raise Failure(text)


class Env:
    """Where things are; one for the whole run."""

    def __init__(self, mvm, guest_dir):
        self.mvm = os.path.abspath(mvm)
        self.guest_dir = guest_dir
        self.tiny_dir = os.path.join(os.path.dirname(self.mvm), "guest-tests")

    def guest(self, name):
        path = os.path.join(self.guest_dir, name)
        if not os.path.exists(path):
            raise Skip(f"no {name}; scripts/guest.sh makes it")
        return path

    def tiny(self, name):
        """One of tests/guest/*.S, built."""
        return os.path.join(self.tiny_dir, name + ".elf")

    def linux(self):
        return ["--kernel", self.guest("vmlinuz"), "--initrd", self.guest("initrd.img")]


class Scratch:
    """A folder for one test, removed with its copies of disks at the end."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="mvm-e2e-")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def file(self, name, data=b""):
        with open(self.path(name), "wb") as f:
            f.write(data)
        return self.path(name)

    def sparse(self, name, size):
        with open(self.path(name), "wb") as f:
            f.truncate(size)
        return self.path(name)

    def copy(self, source, name="disk.img"):
        target = self.path(name)
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", source, target], check=True)
        return target


def run(env, *args, timeout=20, stdin=subprocess.DEVNULL, **more):
    """mvm with its output taken; for what ends by itself.  A time-out is a failure."""
    try:
        return subprocess.run([env.mvm, *args], stdin=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=timeout * SLOW, **more)
    except subprocess.TimeoutExpired as e:
        out = (e.stdout or b"")[-600:].decode(errors="replace")
        raise Failure(f"mvm {' '.join(args)}: still running after {timeout} s; it said: {out}")


def error_line(result):
    """The one line of an error, checked for the form that every error has."""
    text = result.stderr.decode(errors="replace")
    check(text.startswith("mvm: ") and text.count("\n") == 1 and text.endswith("\n"),
          f"not one line of the form 'mvm: ...': {text!r}")
    return text


def expect_error(env, status, words, *args, **more):
    """mvm must end with this status (or one of these) and a line that holds all of words."""
    result = run(env, *args, **more)
    statuses = status if isinstance(status, tuple) else (status,)
    check(result.returncode in statuses,
          f"status {result.returncode}, expected {status}; it said {result.stderr[-400:]!r}")
    line = error_line(result)
    for word in words:
        check(word in line, f"{word!r} is not in the error {line!r}")
    check(result.stdout == b"", f"an error also printed {result.stdout[:200]!r} on stdout")


class Vm:
    """A running mvm with its console on a pty (as a user has it) or on pipes."""

    def __init__(self, env, *args, tty=True, stderr=None, prefix=(), environ=None):
        self.log = b""
        self.seen = 0
        self.tty = tty
        self.args = args
        command = [*prefix, env.mvm, *args]
        if tty:
            self.master, self.slave = pty.openpty()
            self.before = termios.tcgetattr(self.slave)
            self.proc = subprocess.Popen(command, stdin=self.slave, stdout=self.slave,
                                         stderr=stderr or self.slave, start_new_session=True, env=environ)
            self.reader = self.master
        else:
            self.proc = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=stderr or subprocess.STDOUT, start_new_session=True, env=environ)
            self.reader = self.proc.stdout.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        if self.tty:
            os.close(self.master)
            os.close(self.slave)
        else:
            for f in (self.proc.stdin, self.proc.stdout):
                if f and not f.closed:
                    try:
                        f.close()
                    except BrokenPipeError:
                        pass

    def _pump(self, seconds):
        """Take what the console has, waiting at most this long; False at its end."""
        ready, _, _ = select.select([self.reader], [], [], max(0, seconds))
        if not ready:
            return True
        try:
            data = os.read(self.reader, 65536)
        except OSError:
            return False
        self.log += data
        return bool(data)

    def tail(self, n=1500):
        return self.log[-n:].decode(errors="replace")

    def send(self, text):
        data = text if isinstance(text, bytes) else text.encode()
        if self.tty:
            while data:
                # A pty holds 4 KiB: keep reading while writing, or both sides stall.
                _, ready, _ = select.select([], [self.master], [], 0.05)
                if ready:
                    n = os.write(self.master, data[:512])
                    data = data[n:]
                self._pump(0)
        else:
            self.proc.stdin.write(data)
            self.proc.stdin.flush()

    def expect(self, pattern, timeout=60):
        """Wait for a regular expression in what was printed since the last match; its match object."""
        regex = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        end = time.monotonic() + timeout * SLOW
        over = False
        while True:
            m = regex.search(self.log, self.seen)
            if m:
                self.seen = m.end()
                return m
            left = end - time.monotonic()
            if left <= 0:
                raise Failure(f"no {pattern!r} within {timeout} s; the console ends with:\n{self.tail()}")
            if over:
                raise Failure(f"mvm ended ({self.proc.poll()}) before {pattern!r}; the console ends with:\n"
                              f"{self.tail()}")
            # Once it has ended, what is still in the pipe is looked through before giving up.
            ended = self.proc.poll() is not None
            over = not self._pump(min(left, 1)) or (ended and not self._more())

    def _more(self):
        before = len(self.log)
        self._pump(0)
        return len(self.log) != before

    def command(self, text, timeout=60):
        """Run a command in the guest's shell; what it printed, and its status as last line checked."""
        mark = f"E{time.monotonic_ns() % 1000000}D"
        # The typed text must not contain the mark itself, or its echo would be taken for the answer.
        self.send(f"{text}; echo {mark[:2]}''{mark[2:]} $?\n")
        start = self.seen
        m = self.expect(re.escape(mark) + r" (\d+)\r*\n", timeout)
        out = self.log[start:m.start()].decode(errors="replace").replace("\r", "")
        return int(m.group(1)), out

    def wait(self, timeout=30):
        """The exit status; everything printed meanwhile is taken."""
        end = time.monotonic() + timeout * SLOW
        while self.proc.poll() is None:
            if time.monotonic() > end:
                raise Failure(f"mvm still runs after {timeout} s; the console ends with:\n{self.tail()}")
            if not self._pump(0.1):
                time.sleep(0.02)
        for _ in range(64):
            if not self._more():
                break
        return self.proc.returncode

    def expect_exit(self, status, timeout=30):
        got = self.wait(timeout)
        check(got == status, f"exit status {got}, expected {status}; the console ends with:\n{self.tail()}")
        self.check_terminal()

    def signal(self, number):
        os.kill(self.proc.pid, number)

    def check_terminal(self):
        """The terminal's settings are those from before."""
        if self.tty:
            check(termios.tcgetattr(self.slave) == self.before, "the terminal was not restored")


def login(vm, timeout=150):
    """From the boot to a root shell without echo or prompts that get in the way."""
    vm.expect(r"login: ", timeout)
    vm.send("root\n")
    vm.expect(r"[#] ", 60)
    shell_ready(vm)


def shell_ready(vm):
    vm.send("stty -echo; PS1=; bind 'set enable-bracketed-paste off' 2>/dev/null; echo shell''-ready\n")
    vm.expect(r"shell-ready\r*\n", 60)


def initrd_shell(vm, timeout=120):
    """The shell of the initrd, which comes up when there is no disk."""
    vm.expect(r"shell in the initrd|shell, as asked", timeout)
    vm.expect(r"# ", 30)
    shell_ready(vm)


def fsck(path):
    """e2fsck -fn must find nothing."""
    r = subprocess.run(["e2fsck", "-fn", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    check(r.returncode == 0, f"e2fsck -fn {path}: status {r.returncode}\n{r.stdout[-800:].decode(errors='replace')}")
