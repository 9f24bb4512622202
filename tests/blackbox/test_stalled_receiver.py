"""A receiver that never reads: the one thing that must never become everybody's problem."""
import threading
import time

import pytest

import procfs
from wire import PATIENCE_S, Silence, encode, message

MEMORY_BOUND_BYTES = 64 * 1024 * 1024  # for the whole bus, above what it needs at rest: four times the live queue of one receiver
STALL_BOUND_S = 4.0                    # the protocol allows a sender to be held up for 2 s by one stalled receiver
TEXT = "x" * 65_000


class Flood(threading.Thread):
    """A registered sender that writes numbered messages to one endpoint as fast as the bus takes them."""

    def __init__(self, server, to, total_bytes, for_s):
        super().__init__(daemon=True)
        self.connection = server.connect("flooder", patience_s=30)
        self.to, self.total_bytes, self.for_s = to, total_bytes, for_s
        self.longest_wait_s, self.sent, self.problem = 0.0, 0, None

    def run(self):
        head, tail = encode(message(self.to, ["NUMBERNUMBER", TEXT], id="f", ts=1.0, sender="flooder")).split(b'"NUMBERNUMBER"')
        over = time.monotonic() + self.for_s
        try:
            while self.sent * len(tail) < self.total_bytes and time.monotonic() < over:
                frame = head + b"%14d" % self.sent + tail
                began = time.monotonic()
                self.connection.write(frame)
                self.longest_wait_s = max(self.longest_wait_s, time.monotonic() - began)
                self.sent += 1
            self.connection.fence()
        except Exception as problem:  # told by `finish`, in the thread that can fail
            self.problem = problem

    def finish(self, within_s):
        self.join(within_s)
        assert not self.is_alive(), "the sender is stuck: %d messages sent" % self.sent
        assert self.problem is None, "the sender failed: %r after %d messages" % (self.problem, self.sent)


def others_are_served_during(flood, stalled, server, within_s):
    """Round trips between two bystanders, registrations and listings for as long as the flood lasts; returns how many.
    The stalled one reads nothing, but gives a sign of life now and then: it is to be stalled, not dead."""
    a, b = server.connect("a"), server.connect("b")
    rounds, deadline, sign_of_life = 0, time.monotonic() + within_s, time.monotonic() + 30
    while (flood.is_alive() or rounds < 20) and time.monotonic() < deadline:
        if time.monotonic() > sign_of_life:
            stalled.message("nobody", "I am still here")
            sign_of_life += 30
        a.message("b", rounds)
        assert b.expect("message")["body"] == rounds
        b.message("a", rounds)
        assert a.expect("message")["body"] == rounds
        with server.connect("late-%d" % (rounds % 7)) as late:
            assert "stalled" in late.endpoints()
        rounds += 1
    return rounds


def flood_a_stalled_receiver(server, total_bytes, within_s=60, for_s=3600):
    stalled = server.connect("stalled")
    server.connect().fence()
    procfs.forget_peak(server.pid)
    at_rest = procfs.rss_bytes(server.pid)
    flood = Flood(server, "stalled", total_bytes, for_s)
    flood.start()
    rounds = others_are_served_during(flood, stalled, server, within_s)
    flood.finish(5)
    assert rounds >= 20
    assert flood.longest_wait_s < STALL_BOUND_S, "a sender was held up for %.1f s" % flood.longest_wait_s
    grown = procfs.peak_rss_bytes(server.pid) - at_rest
    assert grown < MEMORY_BOUND_BYTES, "the bus grew by %d MiB" % (grown >> 20)
    return stalled, flood


def test_a_receiver_that_never_reads_stops_nobody(server):
    """64 MiB for an endpoint that does not read: others talk, register and list as before, the sender gets through, memory stays bounded."""
    flood_a_stalled_receiver(server, 64 << 20)


@pytest.mark.slow
def test_two_gigabytes_for_a_receiver_that_never_reads(server):
    """The same with 2 GB, more than any of its bounds, as fast as the bus takes it."""
    flood_a_stalled_receiver(server, 2_000_000_000, within_s=600)


@pytest.mark.soak
def test_five_minutes_by_the_clock_for_a_receiver_that_never_reads(server):
    """The same without a pause for 300 seconds."""
    flood_a_stalled_receiver(server, 10**15, within_s=400, for_s=300)


def test_who_wakes_up_gets_the_oldest_in_order_and_then_what_is_new(server):
    """The stalled receiver begins to read: first what was kept, with no hole in it, then new messages again."""
    stalled, flood = flood_a_stalled_receiver(server, 32 << 20)
    sender = server.connect("sender")
    kept, fresh, deadline = [], None, time.monotonic() + 30
    while fresh is None:
        assert time.monotonic() < deadline, "no new message after %d kept ones" % len(kept)
        try:
            body = stalled.expect("message", 0.2)["body"]
        except Silence:
            sender.message("stalled", "fresh")
            continue
        if body == "fresh":
            fresh = body
        else:
            kept.append(body[0])
    assert kept == list(range(len(kept))), "a hole in what was kept"
    assert 8 << 20 <= len(kept) * len(TEXT) <= 32 << 20, "kept %d messages" % len(kept)


def test_a_sender_to_both_gets_through_to_the_one_that_reads(server):
    """A client writes to the stalled endpoint and to a healthy one in turn: the healthy one gets everything."""
    flood_a_stalled_receiver(server, 32 << 20)
    healthy = server.connect("healthy")
    sender = server.connect("fair", patience_s=30)
    for n in range(100):
        sender.send(message("stalled", TEXT), message("healthy", n))
    assert [healthy.expect("message")["body"] for _ in range(100)] == list(range(100))


def test_a_broadcast_passes_a_stalled_receiver(server):
    """One of three does not read; the other two hear every broadcast."""
    flood_a_stalled_receiver(server, 32 << 20)
    listeners = [server.connect("l1"), server.connect("l2")]
    sender = server.connect()
    sender.send(*[message("", n) for n in range(200)])
    for listener in listeners:
        assert [listener.expect("message")["body"] for _ in range(200)] == list(range(200))


def test_many_receivers_that_never_read(server):
    """Twenty stalled endpoints, each flooded with 2 MiB: a reader among them gets its own 200 messages, and the sender goes on."""
    stalled = [server.connect("stalled-%d" % n) for n in range(20)]
    reader = server.connect("reader")
    sender = server.connect("sender", patience_s=60)
    got = []

    def read():
        while len(got) < 200:
            got.append(reader.expect("message")["body"])
    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    for n in range(200):
        for k in range(n % 2, 20, 2):
            sender.message("stalled-%d" % k, TEXT[:20_000])
        sender.message("reader", n)
    reading.join(PATIENCE_S)
    assert got == list(range(200))
    assert set(sender.endpoints()) == {"reader", "sender"} | {"stalled-%d" % n for n in range(20)}
    assert all(s.session_id for s in stalled)


def test_waiting_for_a_stalled_receiver_costs_no_processor_time(server):
    """After the flood everybody rests: the bus must rest too."""
    flood_a_stalled_receiver(server, 32 << 20)
    used_before = procfs.cpu_s(server.pid)
    time.sleep(1.5)  # the span over which the processor time is read
    assert procfs.cpu_s(server.pid) - used_before < 0.5


def test_a_sender_that_does_not_read_its_answers_is_held_back(server):
    """A client asks without end and never reads: its own asking is paused, memory stays bounded, others are served, and in the end it gets its answers."""
    for n in range(50):
        server.connect("endpoint-with-a-long-name-%03d" % n)
    asker = server.connect("asker")
    procfs.forget_peak(server.pid)
    at_rest = procfs.rss_bytes(server.pid)
    question = encode({"type": "list_endpoints"}) * 1000
    asker.socket.settimeout(1.0)
    accepted_bytes = 0
    try:
        while accepted_bytes < 400 << 20:
            accepted_bytes += asker.socket.send(question[accepted_bytes % len(question):])
    except OSError:
        pass
    assert accepted_bytes < 400 << 20, "the bus read questions for ever whose answers nobody took"
    server.connect("other").fence()
    assert procfs.peak_rss_bytes(server.pid) - at_rest < MEMORY_BOUND_BYTES
    whole = accepted_bytes // len(encode({"type": "list_endpoints"}))
    for _ in range(min(whole, 5000)):
        asker.expect("endpoints_list")
