#!/usr/bin/env python3
# Spike: correctness of a variant: split frames, a 3 MB frame, 40 MB to a late reader, write-then-close, broadcast.
# Every frame must arrive byte for byte and in order, and descriptors must be given back after EOF.
# Usage: check.py
import os, socket, struct, subprocess, time
from bench import VARIANTS, DIR, SOCK

def frame(s): return struct.pack(">I", len(s)) + s
def msg(to, text): return frame(b'{"type":"message","to":"%s","body":"%s"}' % (to, text))
def conn(name=None):
    s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(SOCK)
    if name: s.sendall(frame(b'{"type":"register","endpoint":"%s"}' % name)); assert b"registered" in get(s, 25)
    return s
def get(s, n):
    b = bytearray()
    while len(b) < n:
        k = s.recv(min(n - len(b), 1 << 20)); assert k; b += k
    return bytes(b)

for v, cmd in VARIANTS.items():
    if os.path.exists(SOCK): os.remove(SOCK)
    p = subprocess.Popen([f"{DIR}/{cmd[0]}", *cmd[1:]])
    while not os.path.exists(SOCK): time.sleep(0.01)
    fds = lambda: len(os.listdir(f"/proc/{p.pid}/fd"))
    try:
        base = fds(); r = conn(b"r"); q = conn(b"q"); s = conn()
        m = msg(b"r", b"split")
        for i in range(len(m)): s.sendall(m[i:i + 1]); time.sleep(0.0005)
        assert get(r, len(m)) == m
        big = msg(b"r", b"x" * 3_000_000); s.sendall(big); assert get(r, len(big)) == big
        # exactly one full read buffer, and one byte more: the edge is spent while data remains
        for extra in (0, 1):
            z = msg(b"r", b""); z = msg(b"r", b"y" * ((256 << 10) + extra - len(z))); s.sendall(z); assert get(r, len(z)) == z
        many = b"".join(msg(b"r", b"%07d" % i + b"z" * 1000) for i in range(40000)); s.sendall(many); time.sleep(0.3); assert get(r, len(many)) == many
        for i in range(500):
            c = conn(); c.sendall(msg(b"r", b"bye%03d" % i)); c.close()
        # order between different senders is free
        one = len(msg(b"r", b"bye000")); b = get(r, one * 500); assert sorted(b[i * one:(i + 1) * one] for i in range(500)) == [msg(b"r", b"bye%03d" % i) for i in range(500)]
        m = msg(b"", b"all"); s.sendall(m); assert get(r, len(m)) == m == get(q, len(m))
        q.close(); r.close(); s.close(); time.sleep(0.3); assert fds() == base, (fds(), base)
        print(v, "ok")
    except Exception as e: print(v, "FAILED", repr(e))
    finally: p.kill(); p.wait()
