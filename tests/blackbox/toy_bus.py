"""A small bus with mailboxes, only for the tests of the tests: it keeps its promises, or, told so, breaks one.

    toy_bus.py [FAULT]     on $HERMES_BUS_ROOT/hermes-bus.sock

Everything that arrived in a turn is committed at once (SQLite, WAL, synchronous FULL), before anybody hears of it.
"""
import collections
import fcntl
import itertools
import json
import os
import selectors
import signal
import socket
import sqlite3
import struct
import sys

FAULTS = ("early", "forgets", "unmarked", "reorders", "reuses", "overstates", "repeats", "invents")
TIOCOUTQ = 0x5411


class Peer:
    def __init__(self, connection):
        self.connection = connection
        self.name = None
        self.level, self.acks, self.in_flight = 1, False, 64
        self.input, self.output = bytearray(), bytearray()
        self.unacknowledged = {}      # seq → entry
        self.unread = []              # seqs written to a level 1 receiver


class Entry:
    def __init__(self, seq, id, payload, deliveries, asker=None, wanted=None):
        self.seq, self.id, self.payload, self.deliveries, self.asker, self.wanted = seq, id, payload, deliveries, asker, wanted


class Bus:
    def __init__(self, root, fault):
        self.fault = fault
        os.makedirs(root + "/toy", exist_ok=True)
        self.db = sqlite3.connect(root + "/toy/toy.db", isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("PRAGMA wal_autocheckpoint = 100")
        self.db.execute("CREATE TABLE IF NOT EXISTS message (seq INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT, id TEXT, payload BLOB)")
        self.db.execute("CREATE TABLE IF NOT EXISTS recent (id TEXT PRIMARY KEY, status TEXT)")
        for place in (root + "/toy", root):
            directory = os.open(place, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
        self.queues = collections.defaultdict(collections.deque)
        for seq, endpoint, id, payload in self.db.execute("SELECT seq, endpoint, id, payload FROM message ORDER BY seq"):
            self.queues[endpoint].append(Entry(seq, id, payload, 1))
        taken = {entry.seq for queue in self.queues.values() for entry in queue}
        self.gaps = (seq for seq in itertools.count(1) if seq not in taken) if fault == "reuses" else itertools.repeat(None)
        self.recent = dict(self.db.execute("SELECT id, status FROM recent"))
        self.names, self.after_commit, self.is_in_turn = {}, [], False
        path = root + "/hermes-bus.sock"
        if os.path.exists(path):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(4096)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)

    def change(self, statement, *values):
        if not self.is_in_turn:
            self.db.execute("BEGIN")
            self.is_in_turn = True
        return self.db.execute(statement, values)

    def run(self):
        while True:
            for key, _ in self.selector.select(0.02):
                if key.fileobj is self.listener:
                    self.selector.register(fresh := self.listener.accept()[0], selectors.EVENT_READ, Peer(fresh))
                else:
                    self.read(key.data)
            if self.fault == "early":
                self.tell_all()
            if self.is_in_turn:
                self.db.execute("COMMIT")
                self.is_in_turn = False
            self.tell_all()
            for peer in list(self.names.values()):
                self.deliver(peer)

    def tell_all(self):
        for peer, frame in self.after_commit:
            self.send(peer, frame)
        self.after_commit = []

    def read(self, peer):
        try:
            data = peer.connection.recv(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            return self.end(peer)
        peer.input += data
        while len(peer.input) >= 4:
            (length,) = struct.unpack(">I", peer.input[:4])
            if len(peer.input) < 4 + length:
                return
            payload = bytes(peer.input[4:4 + length])
            del peer.input[:4 + length]
            frame = json.loads(payload)
            getattr(self, "on_" + frame["type"])(peer, frame, payload)

    def end(self, peer):
        self.selector.unregister(peer.connection)
        peer.connection.close()
        if self.names.get(peer.name) is peer:
            del self.names[peer.name]
            for entry in reversed([e for _, e in sorted(peer.unacknowledged.items())]):
                self.queues[peer.name].appendleft(entry)

    def send(self, peer, frame, payload=None):
        payload = payload or json.dumps(frame).encode()
        try:
            peer.connection.sendall(struct.pack(">I", len(payload)) + payload)
        except OSError:
            pass

    def on_ping(self, peer, frame, payload):
        self.after_commit.append((peer, {"type": "pong"}))

    def on_register(self, peer, frame, payload):
        peer.name, peer.level = frame["endpoint"], frame.get("protocol", 1)
        peer.acks, peer.in_flight = frame.get("ack", False), frame.get("in_flight", 64)
        if peer.name in self.names:
            self.end(self.names[peer.name])
        self.names[peer.name] = peer
        self.send(peer, {"type": "registered", "endpoint": peer.name, "session_id": "x", "protocol": peer.level,
                         "mailbox_depth": len(self.queues[peer.name])})

    def on_list_endpoints(self, peer, frame, payload):
        details = [{"endpoint": name, "pending": {"messages": 0}, "mailbox": {
            "messages": len(queue) + (len(self.names[name].unacknowledged) if name in self.names else 0)}} for name, queue in self.queues.items()]
        self.send(peer, {"type": "endpoint_list", "endpoints": {}, "details": details})

    def on_message(self, peer, frame, payload):
        id, to, wanted = frame["id"], frame["to"], frame.get("receipt")
        if id in self.recent:
            self.after_commit.append((peer, {"type": "receipt", "id": id, "status": self.recent[id], "to": to}))
            return
        self.recent[id] = "stored"
        self.change("INSERT INTO recent VALUES (?, 'stored')", id)
        seq = self.change("INSERT INTO message VALUES (?, ?, ?, ?)", next(self.gaps), to, id, payload).lastrowid
        self.queues[to].append(Entry(seq, id, payload, 0, peer, wanted))
        if wanted == "stored" or self.fault == "overstates":
            self.after_commit.append((peer, {"type": "receipt", "id": id, "status": "acked" if self.fault == "overstates" else "stored", "to": to}))

    def on_ack(self, peer, frame, payload):
        seqs = frame.get("seqs") or [seq for seq in peer.unacknowledged if seq <= frame["up_to"]]
        for seq in seqs:
            entry = peer.unacknowledged.pop(seq, None)
            if entry is not None:
                self.release(peer, entry, "acked")

    def release(self, peer, entry, status):
        if self.fault != "repeats":
            self.change("DELETE FROM message WHERE seq = ?", entry.seq)
        self.change("UPDATE recent SET status = ? WHERE id = ?", status, entry.id)
        if entry.asker and entry.wanted == "acked" and status == "acked":
            self.after_commit.append((entry.asker, {"type": "receipt", "id": entry.id, "status": "acked", "to": peer.name}))

    def deliver(self, peer):
        """Level 1: what was written goes when the kernel shows that all has been read."""
        if peer.unread and struct.unpack("i", fcntl.ioctl(peer.connection, TIOCOUTQ, b"\0" * 4))[0] == 0:
            for seq in peer.unread:
                self.release(peer, peer.unacknowledged.pop(seq), "stored")
            peer.unread = []
        queue = self.queues[peer.name]
        while queue and len(peer.unacknowledged) < (peer.in_flight if peer.acks else 16):
            entry = queue.pop() if self.fault == "reorders" else queue.popleft()
            entry.deliveries += 1
            peer.unacknowledged[entry.seq] = entry
            self.send(peer, None, self.as_delivered(peer, entry))
            if not peer.acks:
                peer.unread.append(entry.seq)
            elif self.fault == "forgets":
                self.change("DELETE FROM message WHERE seq = ?", entry.seq)
            if entry.asker and entry.wanted == "delivered" and entry.deliveries == 1:
                self.after_commit.append((entry.asker, {"type": "receipt", "id": entry.id, "status": "delivered", "to": peer.name}))

    def as_delivered(self, peer, entry):
        if not peer.acks:
            return entry.payload
        extra = ', "seq": %d' % entry.seq
        if entry.deliveries > 1 and self.fault != "unmarked":
            extra += ', "delivery": %d' % entry.deliveries
        payload = entry.payload[:-1] + extra.encode() + b"}"
        return payload.replace(b'"id": "sender', b'"id": "nobody') if self.fault == "invents" and entry.seq % 50 == 0 else payload


def main():
    fault = sys.argv[1] if len(sys.argv) > 1 else None
    assert fault is None or fault in FAULTS
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    Bus(os.environ["HERMES_BUS_ROOT"], fault).run()


if __name__ == "__main__":
    main()
