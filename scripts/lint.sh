#!/bin/bash
# lint.sh [--quick] OUT   check the sources; --quick leaves out line lengths and what needs clang's tools
#                         and cppcheck
# Each check that fails is shown; the last line counts them.
set -u
cd "$(dirname "$0")/.." || exit 2

quick=
[ "${1:-}" != --quick ] || { quick=1; shift; }
out=${1:-build}
passed=0 failed=0

# check NAME COMMAND...
check()
{
	local name=$1 text
	shift
	if text=$("$@" 2>&1); then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		printf '%s\n' "$text" | head -n 40
		echo "FAIL lint: $name"
	fi
}

headers_compile_alone()
{
	local h status=0
	for h in $(git ls-files '*.h' | grep -v '^tests/guest/'); do
		echo "#include \"$h\"" | musl-gcc -std=gnu17 -D_GNU_SOURCE -mgeneral-regs-only -Wall -Wextra \
			-Wno-unused-parameter -Werror -isystem "$out/inc" -I. "-I$out/gen" -fsyntax-only -x c - || status=1
	done
	return $status
}

# doc/FUZZING.md says which tests keep which class of bugs away.
tests_named_exist()
{
	local t status=0
	for t in $(grep '^|' doc/FUZZING.md | grep -oE '`[a-z0-9]+_[a-z0-9_]+`' | tr -d '`' | sort -u); do
		git grep -qE "^(TEST\(|def )$t[()]" -- tests || { echo "doc/FUZZING.md: no test $t"; status=1; }
	done
	return $status
}

cppcheck_is_quiet()
{
	# shellcheck disable=SC2046
	cppcheck -q --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 \
		--suppress=missingInclude --suppress=syntaxError -D__x86_64__ -D__GNUC__=12 -j 2 \
		$(git ls-files '*.c' | grep -v '^tests/')
}

tidy_is_quiet()
{
	git ls-files '*.c' | grep -v '^tests/\|^tools/' | xargs -P 2 -n 8 sh -c '
		clang-tidy --quiet "$@" -- -std=gnu17 -D_GNU_SOURCE -DMVM_VERSION=\"0\" -nostdinc \
			-isystem /usr/include/x86_64-linux-musl -isystem '"$out"'/inc \
			-isystem "$(clang -print-resource-dir)/include" -I. -I'"$out"'/gen 2>/dev/null' tidy
}

check "include levels" tools/check_tree.py levels
check "policy reasons" tools/check_tree.py policy
check "headers alone" headers_compile_alone
check "tests named" tests_named_exist
if [ -z "$quick" ]; then
	check "lines" tools/check_tree.py lines
	check "cppcheck" cppcheck_is_quiet
	check "clang-tidy" tidy_is_quiet
fi
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
