"""The console: keys, terminal, pipes, files."""

import fcntl
import os
import signal
import struct
import subprocess
import termios
import time

from harness import Scratch, Vm, check, run, test


@test()
def keys_reach_the_guest(env):
    with Vm(env, "--kernel", env.tiny("echo")) as vm:
        vm.expect("READY", 20)
        vm.send("Z")
        vm.expect(r"<5a>", 10)
        vm.send(b"\x03")  # Ctrl-C is the guest's, not ours
        vm.expect(r"<03>", 10)
        vm.send(b"\x1a\x1c\x04")
        vm.expect(r"<1a><1c><04>", 10)
        vm.send("q")
        vm.expect_exit(0)


@test()
def ctrl_a_x_leaves(env):
    with Vm(env, "--kernel", env.tiny("echo")) as vm:
        vm.expect("READY", 20)
        vm.send(b"\x01x")
        check(vm.wait(10) == 0, f"status {vm.proc.returncode}")
        vm.check_terminal()


@test()
def ctrl_a_keys(env):
    with Vm(env, "--kernel", env.tiny("echo")) as vm:
        vm.expect("READY", 20)
        vm.send(b"\x01h")
        vm.expect(r"(?i)ctrl-a x", 10)
        vm.send(b"\x01\x01")  # twice: one for the guest
        vm.expect(r"<01>", 10)
        vm.send("q")
        vm.expect_exit(0)


@test()
def terminal_is_raw_meanwhile(env):
    with Vm(env, "--kernel", env.tiny("echo")) as vm:
        vm.expect("READY", 20)
        local = termios.tcgetattr(vm.slave)[3]
        check(not local & (termios.ECHO | termios.ICANON | termios.ISIG), "the terminal is not raw")
        vm.send("q")
        vm.expect_exit(0)


@test()
def terminal_may_be_resized(env):
    with Vm(env, "--kernel", env.tiny("echo")) as vm:
        vm.expect("READY", 20)
        for rows in (20, 50, 1):
            fcntl.ioctl(vm.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 100, 0, 0))
            vm.signal(signal.SIGWINCH)
        vm.send("Z")
        vm.expect("<5a>", 10)
        vm.send("q")
        vm.expect_exit(0)


@test()
def stopped_and_continued(env):
    with Vm(env, "--kernel", env.tiny("echo")) as vm:
        vm.expect("READY", 20)
        vm.signal(signal.SIGSTOP)
        time.sleep(0.2)
        vm.signal(signal.SIGCONT)
        vm.send("Z")
        vm.expect("<5a>", 10)
        vm.send("q")
        vm.expect_exit(0)


@test()
def works_on_pipes(env):
    r = subprocess.run([env.mvm, "--kernel", env.tiny("echo")], input=b"abcq", stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=20)
    check(r.returncode == 0, f"status {r.returncode}: {r.stderr!r}")
    check(b"<61><62><63>" in r.stdout, f"the console printed {r.stdout!r}")


@test()
def a_long_paste_loses_nothing(env):
    data = bytes(0x21 + i % 64 for i in range(20000)).replace(b"q", b"r")
    r = subprocess.run([env.mvm, "--kernel", env.tiny("echo")], input=data + b"q", stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=60)
    check(r.returncode == 0, f"status {r.returncode}: {r.stderr[-300:]!r}")
    want = b"".join(b"<%02x>" % b for b in data)
    check(want in r.stdout, "typed bytes were lost or reordered")


@test()
def end_of_input_is_not_the_end(env):
    r = run(env, "--kernel", env.tiny("poweroff"))  # stdin is /dev/null
    check(r.returncode == 0, f"status {r.returncode}: {r.stderr!r}")


@test()
def stdin_closed(env):
    r = subprocess.run(["sh", "-c", 'exec "$0" "$@" <&-', env.mvm, "--kernel", env.tiny("poweroff")],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
    check(r.returncode == 0 and b"hello" in r.stdout, f"status {r.returncode}: {r.stdout!r} {r.stderr!r}")


@test()
def stdin_and_stdout_closed(env):
    with Scratch() as s:
        disk = s.sparse("d.img", 1 << 20)
        r = subprocess.run(["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', env.mvm, "--kernel",
                            env.tiny("poweroff"), "--disk", disk], timeout=20)
        check(r.returncode == 0, f"status {r.returncode}")
        with open(disk, "rb") as f:
            check(f.read() == bytes(1 << 20), "console output was written into the disk")


@test()
def reader_of_the_console_goes_away(env):
    r = subprocess.run(["sh", "-c", '"$0" "$@" | true; exit 0', env.mvm, "--kernel", env.tiny("poweroff")],
                       stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=20)
    check(r.returncode == 0, f"status {r.returncode}")


@test()
def slow_reader_does_not_stop_the_guest_for_good(env):
    with Vm(env, "--kernel", env.tiny("chatter"), tty=False) as vm:
        time.sleep(1)  # nobody reads: the pipe fills
        vm.expect("chatter done", 60)
        vm.expect_exit(0)


@test()
def serial_to_a_file(env):
    with Scratch() as s:
        out = s.path("serial.log")
        r = run(env, "--kernel", env.tiny("poweroff"), "--serial", "file=" + out)
        check(r.returncode == 0, f"status {r.returncode}: {r.stderr!r}")
        with open(out, "rb") as f:
            check(b"hello from the guest" in f.read(), "the file lacks the guest's words")
        check(b"hello" not in r.stdout, "the words also went to stdout")


@test()
def serial_file_that_cannot_be_made(env):
    r = run(env, "--kernel", env.tiny("poweroff"), "--serial", "file=/nonexistent/x")
    check(r.returncode == 2 and b"/nonexistent/x" in r.stderr, f"status {r.returncode}: {r.stderr!r}")


@test()
def no_controlling_terminal(env):
    r = subprocess.run(["setsid", "--wait", env.mvm, "--kernel", env.tiny("poweroff")], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
    check(r.returncode == 0 and b"hello" in r.stdout, f"status {r.returncode}: {r.stderr!r}")
