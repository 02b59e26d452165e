"""Bad and odd command lines and files: one line, the documented status, nothing left behind."""

import json
import os
import re
import shutil
import subprocess

from harness import TOP, Scratch, Vm, check, error_line, expect_error, run, test


@test()
def no_arguments_say_what_is_missing(env):
    expect_error(env, 1, ["--kernel", "--help"])


@test()
def unknown_option_is_named(env):
    expect_error(env, 1, ["--frobnicate", "--help"], "--frobnicate", "--kernel", "x")
    expect_error(env, 1, ["stray"], "--kernel", "x", "stray")


@test()
def option_without_its_value(env):
    expect_error(env, 1, ["--kernel"], "--kernel")


@test()
def memory_sizes_that_cannot_be(env):
    kernel = env.guest("vmlinuz")
    for size in ("0", "-1", "12Q", "", "99999999999999999999", "2000G", "1"):
        expect_error(env, 1, ["--mem"], "--kernel", kernel, "--mem", size)
    expect_error(env, (1, 2), ["mem"], "--kernel", kernel, "--mem", "1T")


@test()
def cpu_numbers_that_cannot_be(env):
    for n in ("0", "-1", "65", "two", "1.5"):
        expect_error(env, 1, ["--cpus"], "--kernel", env.guest("vmlinuz"), "--cpus", n)


@test()
def kernel_missing(env):
    expect_error(env, 2, ["/nonexistent/bzImage"], "--kernel", "/nonexistent/bzImage")


@test()
def kernel_is_a_directory(env):
    expect_error(env, 2, ["/usr"], "--kernel", "/usr")


@test()
def kernel_is_a_text_file(env):
    with Scratch() as s:
        text = s.file("notes.txt", b"I am not a kernel\n" * 400)
        expect_error(env, 2, ["notes.txt"], "--kernel", text)
        expect_error(env, 2, ["empty"], "--kernel", s.file("empty"))


@test()
def kernel_truncated(env):
    with open(env.guest("vmlinuz"), "rb") as f:
        image = f.read()
    with Scratch() as s:
        for n in (100, 0x1f2, 0x210, 1024, 16000, 1 << 20, len(image) // 2, len(image) - 100000):
            expect_error(env, 2, ["cut"], "--kernel", s.file("cut", image[:n]))


@test()
def initrd_missing(env):
    expect_error(env, 2, ["/nonexistent/initrd"], "--kernel", env.guest("vmlinuz"),
                 "--initrd", "/nonexistent/initrd")


@test()
def initrd_larger_than_memory(env):
    with Scratch() as s:
        expect_error(env, (1, 2), ["big"], "--kernel", env.guest("vmlinuz"), "--mem", "128M",
                     "--initrd", s.sparse("big", 1 << 30))


def disk_error(env, words, path, **more):
    expect_error(env, 2, words, "--kernel", env.guest("vmlinuz"), "--disk", path, **more)


@test()
def disk_missing(env):
    disk_error(env, ["/nonexistent/d.img"], "/nonexistent/d.img")


@test()
def disk_is_a_directory(env):
    disk_error(env, ["/usr"], "/usr")


@test()
def disk_of_no_length(env):
    with Scratch() as s:
        disk_error(env, ["empty.img"], s.file("empty.img"))


@test()
def disk_not_writable(env):
    with Scratch() as s:
        path = s.sparse("ro.img", 1 << 20)
        os.chmod(path, 0o444)
        who = {}
        if os.geteuid() == 0:  # root may write anything, so be nobody, with a mvm that nobody can reach
            os.chmod(s.dir, 0o755)
            who = {"user": 65534, "group": 65534}
        mvm = shutil.copy(env.mvm, s.path("mvm"))
        kernel = shutil.copy(env.tiny("poweroff"), s.path("kernel"))
        r = subprocess.run([mvm, "--kernel", kernel, "--disk", path], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20, **who)
        check(r.returncode == 2 and "ro.img" in error_line(r), f"status {r.returncode}: {r.stderr!r}")
        r = subprocess.run([mvm, "--kernel", kernel, "--disk", path + ",ro"], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20, **who)
        check(r.returncode == 0, f",ro: status {r.returncode}: {r.stderr!r}")


@test()
def disk_locked_by_another(env):
    with Scratch() as s:
        path = s.sparse("one.img", 1 << 20)
        with Vm(env, "--kernel", env.tiny("echo"), "--disk", path, tty=False) as first:
            first.expect("READY", 20)
            disk_error(env, ["one.img"], path)
            expect_error(env, 2, ["one.img"], "--kernel", env.tiny("echo"), "--disk", path + ",ro")
            first.send("q")
            first.expect_exit(0)
        # two readers share it
        with Vm(env, "--kernel", env.tiny("echo"), "--disk", path + ",ro", tty=False) as a, \
                Vm(env, "--kernel", env.tiny("echo"), "--disk", path + ",ro", tty=False) as b:
            a.expect("READY", 20)
            b.expect("READY", 20)


@test()
def disk_given_twice(env):
    with Scratch() as s:
        path = s.sparse("twice.img", 1 << 20)
        expect_error(env, 2, ["twice.img"], "--kernel", env.tiny("echo"), "--disk", path, "--disk", path)


@test()
def disk_words_are_checked(env):
    with Scratch() as s:
        path = s.sparse("d.img", 1 << 20)
        expect_error(env, 1, ["qcow9"], "--kernel", "x", "--disk", path + ",format=qcow9")
        expect_error(env, 1, ["banana"], "--kernel", "x", "--disk", path + ",banana")


@test()
def files_stay_as_they_were_on_errors(env):
    with Scratch() as s:
        data = os.urandom(1 << 20)
        path = s.file("d.img", data)
        expect_error(env, 2, ["/nonexistent"], "--kernel", "/nonexistent", "--disk", path)
        with open(path, "rb") as f:
            check(f.read() == data, "the disk was changed")
        check(os.listdir(s.dir) == ["d.img"], f"files were left behind: {os.listdir(s.dir)}")


@test()
def help_and_version_agree_with_the_documents(env):
    help_text = run(env, "--help").stdout.decode()
    options = set(re.findall(r"^  (--[a-z0-9-]+)", help_text, re.M))
    check({"--kernel", "--disk", "--mem", "--cpus", "--accel"} <= options, f"--help shows only {options}")
    with open(os.path.join(os.path.dirname(env.mvm), "mvm.1")) as f:
        man = f.read()
    for o in options:
        check("Fl -" + o[2:] in man, f"{o} is not in the manual page")
    with open(os.path.join(TOP, "README.md")) as f:
        readme = f.read()
    commands = "\n".join(line for line in readme.splitlines() if re.match(r"\s*(\$ )?(build/)?mvm ", line))
    for o in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", commands)):
        check(o in options or o in ("--append",), f"README uses {o}, which --help does not know")
    version = run(env, "--version").stdout.decode()
    check(re.fullmatch(r"mvm \d+\.\d+\.\d+\n", version), f"--version prints {version!r}")


@test()
def output_that_cannot_be_written_is_an_error(env):
    with open("/dev/full", "w") as full:
        r = subprocess.run([env.mvm, "--help"], stdout=full, stderr=subprocess.PIPE, timeout=20)
    check(r.returncode == 2, f"--help into a full disk: status {r.returncode}")


@test()
def dry_run_prints_json(env):
    with Scratch() as s:
        path = s.sparse("d.img", 1 << 20)
        r = run(env, "--dry-run", "--kernel", env.guest("vmlinuz"), "--disk", path, "--mem", "512M",
                "--cmdline", 'quotes " and \\ too')
        check(r.returncode == 0, f"status {r.returncode}: {r.stderr!r}")
        text = json.dumps(json.loads(r.stdout))
        check("d.img" in text and '"mem_size_mib": 512' in text, f"the JSON lacks the disk or the memory: {text[:600]}")


@test()
def dry_run_runs_nothing(env):
    with Scratch() as s:
        out = s.path("serial.log")
        run(env, "--dry-run", "--kernel", env.tiny("poweroff"), "--serial", "file=" + out)
        check(not os.path.exists(out) or os.path.getsize(out) == 0, "the guest ran")
