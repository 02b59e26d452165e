#!/usr/bin/env python3
"""run.py [--mvm FILE] [-v] [SUBSTRING...]: the end-to-end tests.  Ends with 'N passed, N failed, N
skipped'; exits with 0 if none failed.  --jobs N runs that many at a time (as many as there are CPUs)."""

import argparse
import concurrent.futures
import importlib
import os
import sys
import threading
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness


LABELS = {"passed": "NOTE", "skipped": "SKIP", "failed": "FAIL"}


def load():
    here = os.path.dirname(os.path.abspath(__file__))
    for name in sorted(os.listdir(here)):
        if name.startswith("test_") and name.endswith(".py"):
            importlib.import_module(name[:-3])


def run_one(function, env):
    began = time.monotonic()
    try:
        result, text = "passed", function(env) or ""
    except harness.Skip as e:
        result, text = "skipped", str(e)
    except harness.Failure as e:
        result, text = "failed", str(e)
    except Exception:  # a bug in the test is a failure too
        result, text = "failed", traceback.format_exc()
    return result, text, time.monotonic() - began


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mvm", default=os.path.join(harness.TOP, "build/mvm"))
    parser.add_argument("--guests", default=os.environ.get("GUEST_DIR", os.path.join(harness.TOP, "build/guest")))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("-v", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    load()
    env = harness.Env(args.mvm, args.guests)
    wanted = [t for t in harness.tests
              if not args.names or any(n in t[0].__module__ + "." + t[0].__name__ for n in args.names)]
    wanted.sort(key=lambda t: -t[1])
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    lock = threading.Lock()

    def job(entry):
        function, *_ = entry
        result, text, seconds = run_one(function, env)
        with lock:
            counts[result] += 1
            name = f"{function.__module__}.{function.__name__}"
            if text:
                print(f"{LABELS[result]} {name}: {text}")
            elif args.v:
                print(f"ok   {name} ({seconds:.1f} s)")
            sys.stdout.flush()

    idle = [t for t in wanted if t[2]]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool, \
            concurrent.futures.ThreadPoolExecutor(max(1, len(idle))) as beside:
        beside.map(job, idle)
        list(pool.map(job, [t for t in wanted if not t[2]]))
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
