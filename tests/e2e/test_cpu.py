"""The software CPU's ring 0, by a guest that checks itself."""

from harness import check, run, test


@test()
def privileged_state_behaves_as_in_the_manual(env):
    for accel in ("interp", "tcg"):
        r = run(env, "--kernel", env.tiny("privileged"), "--accel", accel)
        check(r.returncode == 1, f"{accel}: check {r.returncode >> 1} of privileged.S failed: {r.stderr!r}")
