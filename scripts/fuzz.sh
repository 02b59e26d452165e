#!/bin/sh
# fuzz.sh DIR SECONDS NAME...   libFuzzer on each target for that long; new inputs go to DIR/corpus
# fuzz.sh --replay DIR          the stored corpus and a fixed number of mutations of it, plain build
set -u
cd "$(dirname "$0")/.." || exit 2

if [ "$1" = --replay ]; then
	passed=0 failed=0
	for f in tests/fuzz/*.c; do
		name=$(basename "$f" .c)
		case $name in kit | replay) continue ;; esac
		if timeout 120 "$2/$name-replay" tests/fuzz/corpus/"$name"; then
			passed=$((passed + 1))
		else
			failed=$((failed + 1))
			echo "FAIL fuzz: $name"
		fi
	done
	echo "$passed passed, $failed failed, 0 skipped"
	[ "$failed" = 0 ]
	exit
fi

dir=$1 seconds=$2
shift 2
status=0
for name in "$@"; do
	mkdir -p "$dir/corpus/$name"
	[ -d "tests/fuzz/corpus/$name" ] && seeds=tests/fuzz/corpus/$name || seeds=
	if "$dir/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
		-artifact_prefix="$dir/$name-crash-" "$dir/corpus/$name" $seeds >"$dir/$name.log" 2>&1; then
		awk -v n="$name" '/number_of_executed_units/ { u = $2 } /average_exec_per_sec/ { s = $2 }
			/inline 8-bit counters/ { of = substr($5, 2) } / cov: / { for (i = 1; i < NF; i++)
			if ($i == "cov:") c = $(i + 1) } END { printf "%-8s %9d runs, %6d a second, %5d of %d edges, no finding\n",
			n, u, s, c, of }' "$dir/$name.log"
	else
		echo "FAIL $name: see $dir/$name.log and the input $dir/$name-crash-*"
		status=1
	fi
done
exit $status
