#!/bin/bash
# kernel.sh - makes a running kernel rewrite its own code, on all CPUs, while they are busy, and looks at
# what comes of it: function tracer, probes, static keys, modules.  The last line is "kernel: all well".
# ROUNDS (1): how often each thing is done.  BPF (0,700): which of test_bpf's tests; all if
# empty, of which the last 300 take a minute.
set -u
rounds=${ROUNDS:-1}
bpf=${BPF-0,700}
t=/sys/kernel/tracing
dmesg -n 1
[ -e $t/trace ] || mount -t tracefs tracefs $t

die() { echo "kernel: $*"; kill %% 2>/dev/null; exit 1; }

# what a probe counted, all CPUs together
hits() { awk -v p="$1" '$1 == p { print $2 }' $t/kprobe_profile; }
opens() { for _ in $(seq "$1"); do cat /etc/hostname; done >/dev/null; }

busy() { renice -n 19 $BASHPID >/dev/null; while :; do opens 1; done; }

# traced TRACER PATTERN LEAST: lines of a trace while files are opened
traced()
{
	local n
	echo "$1" >$t/current_tracer || die "no tracer $1"
	echo 1 >$t/tracing_on
	opens 3
	echo 0 >$t/tracing_on
	n=$(grep -c "$2" $t/trace)
	echo nop >$t/current_tracer
	[ "$n" -ge "$3" ] || die "$1: $n lines with '$2', not $3"
}

# The function tracer on and off, for a few functions and for all.
ftrace()
{
	echo 512 >$t/buffer_size_kb
	for _ in $(seq "$rounds"); do
		echo 'vfs_*' >$t/set_ftrace_filter || die "no filter"
		traced function 'vfs_open <-' 3
		echo >$t/set_ftrace_filter
		echo vfs_read >$t/set_graph_function
		traced function_graph 'vfs_read() {' 3
		echo >$t/set_graph_function
		traced function ' <-' 1000
	done
	echo 1 >$t/tracing_on
	echo "ftrace: well ($SECONDS s)"
}

# A probe at a function's start (by ftrace), behind it (a breakpoint, then a jump), and at its return.
probes()
{
	local n at
	for n in $(seq "$rounds"); do
		echo 'p:start do_sys_openat2' >$t/kprobe_events
		echo 'r:back do_sys_openat2 result=$retval' >>$t/kprobe_events
		at=
		for off in 5 9; do
			echo "p:inner do_sys_openat2+$off" >>$t/kprobe_events 2>/dev/null && at=$off && break
		done
		[ -n "$at" ] || die "no probe inside do_sys_openat2"
		echo 1 >$t/events/kprobes/enable || die "probes cannot be enabled"
		opens 20
		sleep 0.3 # the breakpoint becomes a jump meanwhile
		opens 20
		echo 0 >$t/events/kprobes/enable
		[ "$(hits start)" -ge 80 ] || die "probe at the start: $(hits start) hits"
		# what was on its way through the function when they were switched is in one count only
		for p in inner back; do
			[ "$(hits $p)" -ge 80 ] || die "probe $p: $(hits $p) hits"
		done
		echo >$t/kprobe_events
	done
	echo "probes: well ($SECONDS s)"
}

# Tracepoints and scheduler statistics: static keys, static calls.
keys()
{
	for _ in $(seq $((rounds * 4))); do
		echo 1 >$t/events/sched/enable
		echo 1 >$t/events/syscalls/enable
		echo 1 >/proc/sys/kernel/sched_schedstats
		opens 2
		echo 0 >$t/events/enable
		echo 0 >/proc/sys/kernel/sched_schedstats
	done
	grep -q 'sched_switch:' $t/trace && grep -q 'sys_openat' $t/trace || die "no tracepoint fired"
	echo >$t/trace
	echo "keys: well ($SECONDS s)"
}

# Modules that pick code by what the CPU has, and the kernel's own test of its BPF compiler.
modules()
{
	local m line
	[ -e /root/modules ] || return 0
	for _ in $(seq "$rounds"); do
		for m in /root/modules/*.ko; do
			case $m in *test_bpf*) continue ;; esac
			insmod "$m" || die "cannot load $m"
		done
		rmmod raid6_pq xor || die "cannot unload"
	done
	echo 1 >/proc/sys/net/core/bpf_jit_enable
	insmod /root/modules/*-test_bpf.ko ${bpf:+test_range=$bpf} || die "test_bpf failed: $(dmesg | grep test_bpf | tail -n 3)"
	rmmod test_bpf
	line=$(dmesg | grep 'test_bpf: Summary' | head -n 1)
	echo "$line" | grep -q ' 0 FAILED' || die "test_bpf: $line"
	echo "$line" | sed 's/.*Summary/test_bpf/'
	echo "modules: well ($SECONDS s)"
}

busy & busy &
ftrace
probes
keys
modules
kill %1 %2
echo "kernel: all well"
