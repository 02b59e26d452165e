#!/usr/bin/env python3
"""soak.py [--mvm FILE] [--minutes N]: one Debian guest with two vCPUs under all that tests/work has and stress-ng
with its checks on, round after round, for N minutes; then its kernel's log must be clean and its disk sound.
Ends with '1 passed, 0 failed, 0 skipped'."""

import argparse
import itertools
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness
import test_work

STRESSORS = test_work.STRESSORS + (
    "--cpu 2 --cpu-method all", "--matrix 2", "--vm 2 --vm-bytes 64M --vm-method all", "--fp 1 --fp-error 1",
    "--memcpy 1 --str 1", "--wcs 1 --hash 1", "--cache 2", "--futex 1 --sem 1", "--timer 1 --nanosleep 1",
    "--sigfpe 1 --sigsegv 1", "--mergesort 1 --heapsort 1", "--crypt 1 --zlib 1", "--atomic 1 --lockbus 1",
    "--membarrier 1 --mcontend 1", "--malloc 1 --mremap 1 --mremap-bytes 16M", "--exec 1 --vfork 1 --clone 1",
    "--context 1 --goto 1 --branch 1", "--mprotect 1 --pagemove 1", "--tree 1 --skiplist 1", "--regs 1 --tsc 1",
    "--shm 1 --shm-bytes 8M --userfaultfd 1", "--stack 1 --bad-altstack 1", "--vecwide 1 --far-branch 1",
    "--switch 1 --sigtrap 1")


def soak(env, minutes):
    end = time.monotonic() + minutes * 60
    stressors = itertools.cycle(STRESSORS)
    with harness.Scratch() as s, test_work.generic(env, s) as w:
        wanted = test_work.host_sums(s)
        checks = [lambda: test_work.check_sums(w, wanted), lambda: test_work.check_jits(w),
                  lambda: test_work.check_packages(w), lambda: test_work.check_archives(w),
                  lambda: test_work.check_kernel(w, "BPF="), lambda: w.run("python3 filter.py")]
        for n in itertools.count(1):
            for check in checks:
                if time.monotonic() < end:
                    check()
                    test_work.check_stress(w, next(stressors), 5)
            print(f"soak: round {n}, {max(0, end - time.monotonic()):.0f} s left", flush=True)
            if time.monotonic() >= end:
                break
        w.end()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mvm", default=os.path.join(harness.TOP, "build/mvm"))
    parser.add_argument("--guests", default=os.environ.get("GUEST_DIR", os.path.join(harness.TOP, "build/guest")))
    parser.add_argument("--minutes", type=float, default=10)
    args = parser.parse_args()
    try:
        soak(harness.Env(args.mvm, args.guests), args.minutes)
    except (harness.Failure, harness.Skip) as e:
        print(f"{'FAIL' if isinstance(e, harness.Failure) else 'SKIP'} soak: {e}")
        print("0 passed, 1 failed, 0 skipped" if isinstance(e, harness.Failure) else "0 passed, 0 failed, 1 skipped")
        return isinstance(e, harness.Failure)
    print("1 passed, 0 failed, 0 skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
