#!/bin/sh
# Spike: system calls of one variant under one workload, counted by strace -c (which slows it: read the counts only).
# The server is ended by the PID that was started here.
# Usage: trace.sh WORKLOAD "BINARY ARGS" [busbench keys...]
w=$1; set -- "$2" "$w" "$@"; cmd=$1; shift 4; rm -f /tmp/spike/x.sock
/tmp/spike/target/release/$cmd & pid=$!
sleep 0.3
strace -c -f -p $pid -o /tmp/spike/strace.out & st=$!
sleep 0.5
/tmp/busbench/target/release/busbench $w hermes unix:/tmp/spike/x.sock "$@"
kill -INT $st; wait $st
sed -n 1,14p /tmp/spike/strace.out; awk '{print "minflt", $10}' /proc/$pid/stat; kill $pid
