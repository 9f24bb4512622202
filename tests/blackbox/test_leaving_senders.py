"""Senders that leave while the bus keeps them waiting, and random crowds: what was sent is delivered, whole and in order."""
import json
import random
import shutil
import threading
import time

import pytest

from wire import Silence, encode, message
from world import BIN, wait_until

LIVE_QUEUE_BYTES = 16 * 1024 * 1024


def fill_queue_of(server, name):
    """Somebody else fills the live queue of an endpoint that does not read; returns how many messages that takes."""
    filler = server.connect("filler")
    text = "f" * 60_000
    count = LIVE_QUEUE_BYTES // (len(text) + 300) - 1
    for _ in range(count):
        filler.message(name, text)
    filler.fence()
    return count


def read_bodies(receiver, count):
    return [receiver.expect("message")["body"] for _ in range(count)]


@pytest.mark.parametrize("leaving", ["closes", "closes and is written to", "closes and comes back"])
def test_what_a_waiting_sender_had_sent_arrives_though_it_has_gone(server, leaving):
    """The receiver's queue is full, the sender is kept waiting in the middle of what it wrote, and hangs up. The bus has its bytes
    (or the kernel has them for the bus): nothing of it may vanish."""
    receiver = server.connect("receiver")
    before = fill_queue_of(server, "receiver")
    sender = server.connect("sender")
    frames = [encode(message("receiver", n, pad="p" * 2000)) for n in range(60)]
    sender.write(encode(message("receiver", "large", pad="P" * 200_000)) + b"".join(frames))
    sender.hang_up()
    if leaving == "closes and is written to":
        server.connect().message("sender", "nobody reads this")
    if leaving == "closes and comes back":
        again = server.connect("sender")
        again.fence()
    assert len(read_bodies(receiver, before)) == before
    assert read_bodies(receiver, 61) == ["large"] + list(range(60))


def test_a_peer_that_the_bus_cannot_see_may_connect(world):
    """The bus runs in a container of its own, so the kernel can name no process for its clients: the user still counts."""
    unshare = shutil.which("unshare")
    probe = world.run([unshare, "--pid", "--fork", "true"]) if unshare else None
    if probe is None or probe.returncode != 0:
        pytest.skip("a PID namespace cannot be made here")
    world.spawn([unshare, "--pid", "--fork", "--kill-child", BIN / "hermes-bus-server"], output="namespace.out")
    wait_until(lambda: (world.root / "hermes-bus.sock").exists(), "the socket")
    outside = world.connect("outside")
    outside.message("outside", 1)
    assert outside.expect("message")["body"] == 1


class Reader(threading.Thread):
    """An endpoint that reads in pieces of any size, with pauses, and remembers what came from whom."""

    def __init__(self, server, name, seed):
        super().__init__(daemon=True)
        self.connection = server.connect(name)
        self.random, self.over = random.Random(seed), threading.Event()
        self.heard, self.problem = {}, None

    def run(self):
        try:
            while True:
                try:
                    frame = self.connection.recv(0.3)
                except Silence:
                    if self.over.is_set():
                        return
                    self.connection.send({"type": "ping"})
                    continue
                if frame["type"] == "message":
                    sender, number, size = frame["s"], frame["n"], frame["size"]
                    expected = self.heard.get(sender, -1) + 1
                    assert number == expected, "from %s came %d instead of %d" % (sender, number, expected)
                    assert len(frame["body"]) == size
                    self.heard[sender] = number
                if self.random.random() < 0.005:
                    time.sleep(self.random.random() * 0.1)
        except Exception as problem:  # told by the test
            self.problem = problem


class Crowd(threading.Thread):
    """Senders that come, send in batches cut anywhere, and leave in every way."""
    SIZES = [10, 100, 1_000, 5_000, 16_400, 33_000, 65_400, 65_600, 131_000, 300_000, 2_000_000]
    WEIGHTS = [30, 30, 20, 10, 4, 4, 4, 4, 4, 3, 0.5]

    def __init__(self, server, readers, seed, until):
        super().__init__(daemon=True)
        self.server, self.readers, self.until = server, readers, until
        self.random, self.seed = random.Random(seed), seed
        self.sent, self.problem = {}, None

    def run(self):
        try:
            turn = 0
            while time.monotonic() < self.until:
                self.one("%d.%d" % (self.seed, turn))
                turn += 1
        except Exception as problem:  # told by the test
            self.problem = problem

    def one(self, name):
        pick, counts = self.random, {}
        connection = self.server.connect(name if pick.random() < 0.5 else None, patience_s=30)
        for _ in range(pick.choice([1, 1, 3, 10])):
            batch = bytearray()
            for _ in range(pick.choice([1, 2, 5, 30])):
                to = pick.choice(self.readers)
                size = pick.choices(self.SIZES, self.WEIGHTS)[0]
                number = counts.get(to, -1) + 1
                counts[to] = number
                batch += encode(message(to, "y" * size, s=name, n=number, size=size))
            at = 0
            while at < len(batch):
                cut = at + pick.choice([1, 3, 4, 5, 1_000, 30_000, 1 << 20, 1 << 20])
                connection.write(batch[at:cut])
                at = cut
        ending = pick.choice(["close", "half", "partial"])
        if ending == "partial":
            connection.write(b'\0\0\1\0{"a')
        if ending == "half":
            connection.half_close()
            connection.rest(20)
        connection.hang_up()
        for to, number in counts.items():
            self.sent[to, name] = number


@pytest.mark.parametrize("seed", [1, 2])
def test_random_crowds_lose_nothing(server, seed):
    """Four readers of varying speed, three crowds of senders, sizes from 10 bytes to 2 MB, five seconds: every message arrives once,
    whole and in order, and when all is over nothing is charged to anybody."""
    readers = {name: Reader(server, name, seed * 10 + n) for n, name in enumerate(["r0", "r1", "r2", "r3"])}
    crowds = [Crowd(server, list(readers), seed * 100 + n, time.monotonic() + 5) for n in range(3)]
    for thread in [*readers.values(), *crowds]:
        thread.start()
    for crowd in crowds:
        crowd.join(60)
        assert not crowd.is_alive() and crowd.problem is None, crowd.problem
    for reader in readers.values():
        reader.over.set()
        reader.join(60)
        assert not reader.is_alive() and reader.problem is None, reader.problem
    sent = {key: number for crowd in crowds for key, number in crowd.sent.items()}
    heard = {(to, sender): number for to, reader in readers.items() for sender, number in reader.heard.items()}
    assert heard == sent
    assert len(sent) > 20, "a crowd that says nothing proves nothing"

    def at_rest():
        status = json.loads(server.world.busd("status", "--json").stdout)["server"]["counters"]
        return all(status[name] == 0 for name in ("queued_bytes", "intake_bytes", "held_bytes", "answer_bytes")) and status
    counters = wait_until(at_rest, "all budgets to be back at 0")
    assert not [name for name, count in counters.items() if name.startswith("dropped_") and count]
