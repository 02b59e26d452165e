#!/bin/bash
# test.sh OUT [SUITE...]: runs the suites against the programs in OUT, prints one line for each and
# ends with "N passed, N failed, N skipped" over all of them.  Suites: gate unit oracle fuzz lint kvm e2e
# san; the last is unit and e2e of the build with ASan and UBSan beside OUT.
# A suite's own output goes to OUT/test-SUITE.log; what failed or was skipped is shown here too.
set -u
cd "$(dirname "$0")/.." || exit 2
out=$1
shift
[ $# -gt 0 ] || set -- gate unit oracle fuzz lint kvm e2e san
passed=0 failed=0 skipped=0

# add NAME LOG STATUS: takes "N passed, N failed, N skipped" from the log's last such line
add()
{
	local line p f s
	line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$2" | tail -n 1)
	read -r p f s < <(echo "$line" | sed -E 's/^([0-9]+) passed, ([0-9]+) failed(, ([0-9]+) skipped)?.*/\1 \2 \4/')
	p=${p:-0} f=${f:-0} s=${s:-0}
	# a suite that died without counting, or failed without saying what, is a failure
	[ "$3" = 0 ] || [ "$f" != 0 ] || f=1
	[ "$3" != 0 ] || [ -n "$line" ] || { f=1; echo "$1: printed no result" >>"$2"; }
	grep -E '^(SKIP|FAIL|NOTE)' "$2" | sed "s/^/  /"
	[ "$f" = 0 ] || { grep -vE '^(SKIP|FAIL|NOTE)' "$2" | tail -n 25 | sed 's/^/    /'; }
	printf '%-8s %5d passed, %d failed, %d skipped  (%d s)\n' "$1:" "$p" "$f" "$s" $((SECONDS - began))
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

suite_gate()
{
	scripts/gate.sh "$out/mvm" -v && echo "1 passed, 0 failed, 0 skipped"
}
suite_unit() { "$out/mvm-test"; }
suite_oracle()
{
	[ -x "$out/mvm-oracle" ] || { echo "SKIP oracle: this tree has none"; echo "0 passed, 0 failed, 1 skipped"; return; }
	"$out/mvm-oracle"
}
suite_fuzz() { scripts/fuzz.sh --replay "$out/fuzz"; }
suite_lint() { scripts/lint.sh --quick "$out"; }
# With a /dev/kvm of the host's own, suite_unit has run these tests already.
suite_kvm()
{
	[ ! -w /dev/kvm ] || { echo "SKIP kvm nested: the host has KVM, see unit"; echo "0 passed, 0 failed, 1 skipped"; return; }
	timeout 300 scripts/kvm-nested.sh "$out/mvm-test" kvm_
}
# Of a sanitized build only some boots: their sum is what the others do, and they take several times as long.
suite_e2e()
{
	local names=
	case $out in
	*/san-*)
		names="power_off reset_ends halt_with triple_fault debug_exit signals_end privileged small_things two_cpus"
		export MVM_E2E_SLOW=${MVM_E2E_SLOW:-6}
		;;
	esac
	# shellcheck disable=SC2086
	python3 tests/e2e/run.py --mvm "$out/mvm" $names
}
suite_san() { scripts/test.sh "$out/san-address" unit e2e; }

for suite in "$@"; do
	declare -F "suite_$suite" >/dev/null || { echo "test: no suite $suite" >&2; exit 2; }
	log=$out/test-$suite.log
	began=$SECONDS
	"suite_$suite" >"$log" 2>&1 </dev/null
	add "$suite" "$log" $?
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
