#!/usr/bin/env python3
"""check_tree.py levels|lines|policy: what no compiler checks.

levels   a file includes headers of its own or a lower level only (ARCHITECTURE.md, "Direction")
lines    no line beyond column 100, no trailing blanks, no spaces for indentation, no file over 800
         lines (tables excepted), no unfinished business left in comments
policy   each reason in seccomp/policy.def names functions that exist in the file it names
Each prints file:line: text for what it finds and exits with 1 if there is anything."""

import glob
import os
import re
import sys

DIRS = [".", "devices", "devices/virtio", "host", "boot", "tcg", "seccomp", "api"]
findings = 0


def complain(path, line, text):
    global findings
    findings += 1
    print(f"{path}:{line}: {text}")


def sources(patterns=("*.c", "*.h"), tests=False):
    dirs = DIRS + (["tests", "tests/unit", "tests/contract", "tests/conform", "tests/fuzz", "tools"] if tests else [])
    for d in dirs:
        for p in patterns:
            yield from sorted(os.path.normpath(f) for f in glob.glob(os.path.join(d, p)))


# --- levels ---------------------------------------------------------------------------------------
# First match wins.  A file may include headers whose level is at most its own.
LEVELS = [
    (r"base\.", 0),
    (r"seccomp/", 1),
    (r"(memory|state|loop|trace|options|blob)\.", 1),
    (r"(bus|irq)\.h", 2),
    (r"devices/(device|chardev|chipset)\.h", 3),
    (r"host/", 3),
    (r"devices/lapic[a-z_]*\.", 5),                    # the local APIC is a part of the CPU
    (r"(devices/|bus\.c)", 4),                       # bus.c calls a device's ops
    (r"(vcpu|cpuid|msr)\.", 5),
    (r"irq\.c", 5),                                  # irq.c kicks a vCPU
    (r"(kvm[a-z_]*\.|tcg/|boot/)", 6),
    (r"snapshot\.", 7),
    (r"(machine|board|doorbell)\.", 8),
    (r"(api/|main\.)", 9),
]
# Same or lower level, but still out of bounds: (including file, included file).
NEVER = [
    (r"devices/[a-z0-9_]+\.", r"host/"),             # chips know their back-end as a vtable only
    (r"devices/(?!lapic)", r"(vcpu|kvm|tcg/)"),
    (r"host/", r"devices/virtio/"),
    (r"tcg/", r"(kvm|boot/|devices/(?!lapic))"),
    (r"boot/", r"(kvm|tcg/)"),
    (r"seccomp/", r"(?!base\.h|seccomp/|seccomp_filters)"),
]


def level(path):
    for pattern, n in LEVELS:
        if re.match(pattern, path):
            return n
    return None


def check_levels():
    for path in sources():
        own = level(path)
        if own is None:
            complain(path, 1, "this file has no level in tools/check_tree.py")
            continue
        with open(path) as f:
            for i, line in enumerate(f, 1):
                m = re.match(r'\s*#include "([^"]+)"', line)
                if m:
                    check_include(path, own, i, m.group(1))
                if re.match(r"\s*#include <linux/kvm", line) and not path.startswith("kvm"):
                    complain(path, i, "only the KVM engine includes linux/kvm.h")


def check_include(path, own, line, name):
    target = os.path.normpath(os.path.join(os.path.dirname(path), name))
    if not os.path.exists(target):
        target = os.path.normpath(name)
    theirs = level(target)
    if theirs is not None and theirs > own:
        complain(path, line, f"level {own} includes {target} of level {theirs}")
    for who, what in NEVER:
        if re.match(who, path) and re.match(what, target):
            complain(path, line, f"{path} must not see {target}")


# --- lines ----------------------------------------------------------------------------------------
def check_lines():
    for path in sources(("*.c", "*.h", "*.def", "*.S"), tests=True):
        with open(path) as f:
            lines = f.read().split("\n")
        table = path.endswith(".def") or path.startswith("tests/")
        if len(lines) > 800 and not table:
            complain(path, len(lines), f"{len(lines)} lines; split it by what it owns")
        for i, line in enumerate(lines, 1):
            if len(line.expandtabs(8)) > 100 and not path.endswith(".def"):
                complain(path, i, f"{len(line.expandtabs(8))} columns")
            if line != line.rstrip():
                complain(path, i, "blanks at the end of the line")
            if re.match(r" {8}", line) and not path.endswith(".def") and not line.endswith("\\"):
                complain(path, i, "indented with spaces")
            if re.search(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b", line):
                complain(path, i, "unfinished: finish it or file an issue")


# --- policy ---------------------------------------------------------------------------------------
def check_policy():
    path = "seccomp/policy.def"
    with open(path) as f:
        for i, line in enumerate(f, 1):
            m = re.match(r'SYS(?:_ARG)?\(\s*(\w+),.*"(.*)"\)', line)
            if not m:
                if line.startswith("SYS"):
                    complain(path, i, "not a row on one line")
                continue
            check_reason(path, i, m.group(2))


def check_reason(path, line, why):
    named = re.findall(r"([a-z0-9_/]+\.[ch]) ([A-Za-z0-9_]+)", why)
    if not named and not why.startswith("libc:"):
        complain(path, line, f'"{why}" names neither "file.c function" nor libc:')
    for source, function in named:
        if not os.path.exists(source):
            complain(path, line, f"no file {source}")
            continue
        with open(source) as f:
            if not re.search(r"^[^\s#/].*\b" + function + r"\(", f.read(), re.M):
                complain(path, line, f"{source} has no function {function}")


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    checks = {"levels": check_levels, "lines": check_lines, "policy": check_policy}
    if len(sys.argv) != 2 or sys.argv[1] not in checks:
        sys.exit(__doc__)
    checks[sys.argv[1]]()
    sys.exit(findings > 0)
