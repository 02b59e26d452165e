#!/bin/sh
# gate.sh FILE: fails unless FILE is a stripped static-pie program as mvm promises: no interpreter, no
# needed library, no text relocation, RELRO, BIND_NOW, a stack that cannot be executed, 1 MiB at most.
set -eu
file=$1
max=1048576
fail() { echo "gate: $file: $1" >&2; exit 1; }

head=$(readelf -hW "$file")
segs=$(readelf -lW "$file")
dyn=$(readelf -dW "$file")
has() { printf '%s\n' "$1" | grep -Eq "$2"; }

has "$head" 'Type: +DYN' || fail "not position independent"
! has "$segs" INTERP || fail "has a program interpreter: it is dynamically linked"
has "$segs" GNU_RELRO || fail "no RELRO segment"
has "$segs" 'GNU_STACK .* RW +0x' || fail "the stack is executable"
! has "$segs" 'LOAD .* RWE' || fail "a segment is writable and executable"
! has "$dyn" '\(NEEDED\)' || fail "needs a shared library"
! has "$dyn" TEXTREL || fail "has text relocations"
has "$dyn" 'BIND_NOW|NOW' || fail "not bound at start"
! has "$dyn" '\(RELASZ\) +[1-9]' || fail "has relocations that tools/start.c does not apply"
size=$(stat -c %s "$file")
[ "$size" -le $max ] || fail "$size bytes, more than $max"
[ "${2:-}" != -v ] || echo "gate: $file: $size bytes of $max, static-pie, RELRO, BIND_NOW, NX"
