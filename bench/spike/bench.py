#!/usr/bin/env python3
# Spike: interleaved rounds of busbench against each variant; prints medians, spread and ratios.
# A fresh server per variant, workload and round (so that memory is comparable), ended by its own PID.
# Usage: [PIN="SERVER_CPU LOAD_CPU"] bench.py ROUNDS [WORKLOAD,...] [VARIANT,...]; also records the server's CPU milliseconds and page faults per run.
import os, re, statistics as st, subprocess, sys, time

BUSBENCH, DIR, SOCK = "/tmp/busbench/target/release/busbench", "/tmp/spike/target/release", "/tmp/spike/x.sock"
VARIANTS = {"mio-turn": ["mio_bus", SOCK], "mio-each": ["mio_bus", SOCK, "each"], "tokio-self": ["tokio_bus", SOCK, "self"], "tokio-task": ["tokio_bus", SOCK, "task"], "tokio-naive": ["tokio_naive", SOCK]}
WORK = {"tput": ["n=1000000", "size=128"], "rtt": ["n=20000"], "pairs": ["c=4", "n=400000"], "fanin": ["c=4", "n=400000"], "idle": ["n=9000"],
        "tput+": ["n=5000000", "size=128"], "pairs+": ["c=4", "n=3000000"], "fanin+": ["c=4", "n=3000000"]}
VALUE = {"rtt": r"p50 ([\d.]+).*p99 ([\d.]+)", "idle": r"([\d.]+) kB each"}

PIN = os.environ.get("PIN", "").split()
def pinned(i): return ["taskset", "-c", PIN[i]] if PIN else []

def run(variant, work):
    if os.path.exists(SOCK): os.remove(SOCK)
    cmd = VARIANTS[variant]
    p = subprocess.Popen([*pinned(0), f"{DIR}/{cmd[0]}", *cmd[1:]])
    while not os.path.exists(SOCK): time.sleep(0.01)
    time.sleep(0.1)
    try:
        out = subprocess.run([*pinned(1), BUSBENCH, work.rstrip("+"), "hermes", f"unix:{SOCK}", *WORK[work], f"pid={p.pid}"], capture_output=True, text=True, timeout=60).stdout
        cpu = int(open(f"/proc/{p.pid}/schedstat").read().split()[0]) / 1e6  # ms on a CPU
        flt = int(open(f"/proc/{p.pid}/stat").read().rsplit(")", 1)[1].split()[7])
    except subprocess.TimeoutExpired: out, cpu, flt = "", 0, 0
    finally: p.kill(); p.wait()
    m = re.search(VALUE.get(work, r"([\d.]+) msg/s"), out)
    print(f"{variant:12} {out.strip() or 'HUNG'} cpu {cpu:.1f} ms minflt {flt}", file=sys.stderr, flush=True)
    return ([float(x) for x in m.groups()] if m else []) + [cpu, flt]

if __name__ == "__main__":
    works = sys.argv[2].split(",") if len(sys.argv) > 2 else list(WORK)[:5]
    variants = sys.argv[3].split(",") if len(sys.argv) > 3 else list(VARIANTS)
    res = {}
    for r in range(int(sys.argv[1])):
        for w in works:
            for v in variants[r % len(variants):] + variants[:r % len(variants)]:
                res.setdefault((w, v), []).append(run(v, w))
    for w in works:
        ref = [st.median(c) for c in zip(*res[w, variants[0]])]
        for v in variants:
            cols = list(zip(*res[w, v])); med = [st.median(c) for c in cols]
            print(f"{w:6} {v:12} n={len(res[w, v])} " + "  ".join(f"{m:.2f} [{min(c):.2f}..{max(c):.2f}] ratio {variants[0]}/this {a / m if m else 0:.2f}" for m, c, a in zip(med, cols, ref)))
