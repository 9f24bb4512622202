"""`hermes-bus bench`: every workload, on a bus of its own and on one that runs; what it counts, and what it leaves alone."""
import json
import os
import resource
import signal
import socket
import struct
import threading
import time
import xml.etree.ElementTree

import pytest

from wire import encode
from world import BIN, wait_until

# Every workload with options that make it short, what is sent, and what arrives.
WORKLOADS = {
    "round-trip": ([], 600, 600),
    "one-way": ([], 300, 300),
    "steady": (["--rate", "20000"], 300, 300),
    "one-to-one": ([], 300, 300),
    "fan-in": (["--peers", "3"], 300, 300),
    "pairs": (["--peers", "3"], 300, 300),
    "group": (["--peers", "3"], 300, 300),
    "broadcast": (["--peers", "5"], 300, 1500),
    "topic": (["--peers", "5"], 300, 1500),
    "durable": (["--outstanding", "16"], 300, 300),
    "connect": ([], 300, 300),
    "idle": (["--connections", "50"], 0, 0),
}
WITH_LATENCY = ("round-trip", "one-way", "steady", "durable", "connect")


def bench(world, *arguments, within_s=60, **more):
    done = world.run([BIN / "hermes-bus", "bench", *arguments], within_s=within_s, **more)
    assert "panicked" not in done.stderr, done.stderr
    return done


def report(world, *arguments, **more):
    """What it says in JSON; all must be well."""
    done = bench(world, *arguments, "--json", **more)
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stderr)
    assert done.stdout.count("\n") == 1
    told = json.loads(done.stdout)
    assert told["ok"] is True and told["failures"] == []
    return told


def reason(done, code=1):
    assert (done.returncode, done.stdout) == (code, ""), (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def nothing_is_left(world):
    wait_until(lambda: world.processes() == [], "all processes to end")
    wait_until(lambda: os.listdir(world.temporary) == [], "the private bus's directory to go")


def check_row(row, workload, rounds=1):
    _, sent, received = WORKLOADS[workload]
    assert (row["workload"], row["rounds"]) == (workload, rounds)
    assert (row["messages_sent"], row["messages_received"]) == (sent * rounds, received * rounds)
    assert (row["latency"] is not None) == (workload in WITH_LATENCY)
    if row["latency"]:
        low, high = row["latency"]["p50_us"], row["latency"]["max_us"]
        assert 0 < low["min"] <= low["median"] <= low["max"] <= high["max"]
        assert row["latency"]["count"] > 0
    if workload == "idle":
        assert row["idle"]["connections"] == row["idle"]["connections_asked"] == 50 and row["idle"]["ended_by"] is None
    else:
        assert row["messages_per_s"]["median"] > 0 and row["bytes_per_s"]["median"] > row["messages_per_s"]["median"]
        assert row["frame_bytes"] > row["text_bytes"] == 128
    assert row["daemon_peak_bytes"]["median"] >= row["daemon_resident_bytes"]["median"] > 1_000_000


@pytest.mark.parametrize("workload", sorted(WORKLOADS))
def test_each_workload_on_a_bus_of_its_own(world, workload):
    """Everything that was sent arrived and was counted; the user's own bus was not started, and nothing is left."""
    world.root.rmdir()
    told = report(world, workload, *WORKLOADS[workload][0], "--messages", "300", "--rounds", "2")
    assert told["bus"]["is_private"] and told["bus"]["server"].startswith("hermes-bus/")
    assert told["machine"]["cores"] >= 1 and told["settings"]["messages"] == 300
    (row,) = told["results"]
    check_row(row, workload, rounds=2)
    assert not world.root.exists()
    nothing_is_left(world)


@pytest.mark.parametrize("workload", sorted(set(WORKLOADS) - {"broadcast", "topic"}))
def test_each_workload_on_a_bus_that_others_use(server, workload):
    """Its figures are of that bus; those who are connected get nothing, and afterwards all is as it was."""
    world = server.world
    one, two = server.connect("lead-agent"), server.connect()
    two.send({"type": "register", "endpoint": "worker", "protocol": 2, "groups": ["builders"], "topics": ["build.>"]})
    two.expect("registered")
    before = server.endpoints()
    told = report(world, workload, *WORKLOADS[workload][0], "--messages", "300", "--rounds", "1", "--root", world.root)
    assert not told["bus"]["is_private"] and told["bus"]["place"] == str(world.root)
    check_row(told["results"][0], workload)
    for resident in (one, two):
        resident.fence()
    wait_until(lambda: server.endpoints() == before, "its sessions to end")
    kept = world.run([BIN / "hermes-bus", "mailbox", "list", "--json"])
    assert "bench-" not in kept.stdout, kept.stdout
    dead = world.run([BIN / "hermes-bus", "dead", "list"])
    assert "bench-" not in dead.stdout, dead.stdout
    assert os.listdir(world.temporary) == []


def test_everybody_is_left_alone_unless_that_is_asked_for(server):
    """A broadcast would reach who is connected: it is refused, with their name; with --broadcast they get it."""
    world = server.world
    resident = server.connect("lead-agent")
    short = ["--messages", "20", "--peers", "2", "--rounds", "1", "--root", world.root]
    said = reason(bench(world, "broadcast", *short))
    assert "'lead-agent'" in said and "--broadcast" in said
    resident.fence()
    told = json.loads(bench(world, "broadcast", "--json", *short).stdout)
    assert (told["ok"], told["error"]) == (False, "others_connected")
    resident.fence()
    told = report(world, "broadcast", "--broadcast", *short)
    assert told["results"][0]["messages_received"] == 40
    assert [resident.expect("message")["to"] for _ in range(20)] == [""] * 20
    resident.fence()


def test_a_subscriber_of_everything_gets_no_topic_of_the_bench(server):
    """Others may have topics, but a pattern that matches any topic is a reason not to publish."""
    world = server.world
    short = ["topic", "--messages", "20", "--peers", "2", "--rounds", "1", "--root", world.root]
    narrow = server.connect()
    narrow.send({"type": "register", "endpoint": "narrow", "protocol": 2, "topics": ["build.>"]})
    narrow.expect("registered")
    assert report(world, *short)["results"][0]["messages_received"] == 40
    wide = server.connect()
    wide.send({"type": "register", "endpoint": "wide", "protocol": 2, "topics": [">"]})
    wide.expect("registered")
    assert "'wide'" in reason(bench(world, *short))
    for resident in (narrow, wide):
        resident.fence()


def test_a_suite_on_a_bus_that_others_use_leaves_out_what_would_reach_them(server):
    """Nobody has asked for these in particular: that is no failure, and is said."""
    world = server.world
    resident = server.connect("lead-agent")
    told = report(world, "--messages", "20", "--rounds", "1", "--connections", "20", "--root", world.root, within_s=120)
    assert [case["workload"] for case in told["left_out"]] == ["broadcast"]
    measured = [row["workload"] for row in told["results"]]
    assert set(measured) == set(WORKLOADS) - {"broadcast"}
    resident.fence()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_interrupted_leaves_nothing_behind(world, how):
    """Ctrl-C, a polite signal, and kill -9 in the middle of a load: its bus ends, and its directory goes."""
    running = world.spawn([BIN / "hermes-bus", "bench", "one-to-one", "--duration", "60"], output="bench.out")
    wait_until(lambda: [d for d in os.listdir(world.temporary) if os.path.exists(world.temporary / d / "hermes-bus.sock")], "the private bus")
    running.send_signal(how)
    assert running.wait(20) == -how
    nothing_is_left(world)
    assert "panicked" not in world.output("bench.out")


def test_ctrl_c_takes_its_mailbox_along(server):
    """Messages that were stored on a bus that runs are removed, and so is the mailbox."""
    world = server.world

    def boxes():
        listed = world.run([BIN / "hermes-bus", "mailbox", "list", "--json"])
        return [line for line in listed.stdout.splitlines() if "bench-" in line]
    running = world.spawn([BIN / "hermes-bus", "bench", "durable", "--duration", "60", "--root", world.root], output="bench.out")
    wait_until(boxes, "messages to be stored")
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == -signal.SIGINT
    assert boxes() == []
    dead = world.run([BIN / "hermes-bus", "dead", "list"])
    assert "bench-" not in dead.stdout
    wait_until(lambda: server.endpoints() == {}, "its sessions to end")


STALL_S = 0.3


class BadBus:
    """A bus of level 1 for one sender and one receiver, which does one thing wrong."""

    def __init__(self, path, fault):
        self.fault, self.receiver, self.seen, self.kept = fault, None, 0, None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        stream = connection.makefile("rb")
        try:
            while header := stream.read(4):
                self._frame(connection, stream.read(struct.unpack(">I", header)[0]))
        except OSError:
            pass

    def _frame(self, connection, payload):
        kind = json.loads(payload)["type"]
        if kind == "register":
            self.receiver = connection
            connection.sendall(encode({"type": "registered", "endpoint": "x", "session_id": "1"}))
        elif kind == "list_endpoints":
            connection.sendall(encode({"type": "endpoints_list", "endpoints": {}}))
        elif kind == "ping":
            connection.sendall(encode({"type": "pong"}))
        else:
            self._message(connection, payload)

    def _message(self, sender, payload):
        self.seen += 1
        frames = [payload]
        if self.fault == "loses the last" and self.seen == 100 or self.fault == "loses one" and self.seen == 50:
            frames = []
        elif self.fault == "doubles" and self.seen == 50:
            frames = [payload, payload]
        elif self.fault == "swaps" and self.seen in (50, 51):
            frames = [] if self.seen == 50 else [payload, self.kept]
            self.kept = payload
        elif self.fault == "cuts" and self.seen == 50:
            frames = [payload.replace(b"abcdef", b"", 1)]
        elif self.fault == "refuses" and self.seen == 50:
            sender.sendall(encode({"type": "error", "code": "over_limit", "detail": "the queue is full"}))
            frames = []
        elif self.fault == "stalls" and self.seen == 20:
            time.sleep(STALL_S)
        elif self.fault == "hangs up" and self.seen == 50:
            self.receiver.shutdown(socket.SHUT_RDWR)
        for frame in frames:
            self.receiver.sendall(encode(frame))


FAULTS = {
    "loses one": ("wrong_messages", "1 messages of sender 1 were lost before message 50"),
    "loses the last": ("no_answer", "1 of 100 messages did not arrive within 1s"),
    "doubles": ("wrong_messages", "came once more"),
    "swaps": ("wrong_messages", "lost before message 50"),
    "cuts": ("wrong_messages", "was not sent like that"),
    "refuses": ("wrong_messages", "lost before message 50"),
    "hangs up": ("closed", "closed the connection"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
@pytest.mark.parametrize("workload", ["one-to-one", "steady"])
def test_what_is_lost_doubled_or_changed_is_an_error(world, workload, fault):
    """A figure of a bus that loses messages is worth nothing: there is none, but the reason, and exit code 1."""
    path = world.directory / "bad.sock"
    BadBus(path, fault)
    done = bench(world, workload, "--messages", "100", "--rounds", "1", "--timeout", "1s", "--socket", path, "--json")
    assert done.returncode == 1, done.stdout
    told = json.loads(done.stdout)
    code, words = FAULTS[fault]
    assert told["ok"] is False and told["error"] == code and words in told["detail"], told


def test_a_stall_counts_for_all_that_should_have_been_sent_during_it(world):
    """The bus takes nothing for 300 ms, and the sender cannot write: 60 of 100 messages become due meanwhile. Their wait is
    part of the latency, so half of all are late. (Seen from when they were written, only one would be.)"""
    path = world.directory / "bad.sock"
    BadBus(path, "stalls")
    told = report(world, "steady", "--rate", "200", "--messages", "100", "--size", "128KiB", "--rounds", "1", "--socket", path)
    (row,) = told["results"]
    assert row["messages_received"] == 100
    assert row["latency"]["p50_us"]["median"] > 40_000 and row["steady"]["sender_lag_max_us"] > 100_000


def test_a_bus_that_refuses_the_only_message_is_quoted(world):
    """With one message outstanding nothing shows the loss but silence; what the bus said to the sender is the reason."""
    path = world.directory / "bad.sock"
    BadBus(path, "refuses")
    done = bench(world, "one-way", "--messages", "100", "--timeout", "1s", "--socket", path)
    assert "the queue is full" in reason(done)


def test_a_case_that_fails_spares_the_others(world):
    """What could be measured is printed; what failed is said; the exit code is 1."""
    path = world.directory / "bad.sock"
    BadBus(path, "none")
    done = bench(world, "one-way", "topic", "--messages", "50", "--rounds", "1", "--timeout", "1s", "--socket", path, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert [row["workload"] for row in told["results"]] == ["one-way"] and told["ok"] is False
    assert [(case["workload"], case["error"]) for case in told["failures"]] == [("topic", "needs_level_2")]
    assert "topic" in done.stderr


@pytest.mark.parametrize("size,text_bytes", [("16", 16), ("4KiB", 4096), ("1MiB", 1 << 20)])
def test_sizes_are_those_of_the_text(world, size, text_bytes):
    """And all of them arrive."""
    told = report(world, "one-to-one", "group", "--size", size, "--messages", "12", "--rounds", "1")
    assert [(row["text_bytes"], row["messages_received"]) for row in told["results"]] == [(text_bytes, 12)] * 2


def test_the_largest_frames_to_one_and_to_many(world):
    """10 MiB is the largest frame: the text is cut to what fits, and the frame is exactly at the limit."""
    told = report(world, "one-to-one", "broadcast", "durable", "--size", "10MiB", "--peers", "3", "--messages", "3", "--rounds", "1")
    assert len(told["results"]) == 3
    for row in told["results"]:
        assert row["frame_bytes"] == 4 + 10 * 1024 * 1024 and row["text_bytes"] < 10 * 1024 * 1024
        assert row["messages_received"] == (9 if row["workload"] == "broadcast" else 3)


def test_a_duration_is_an_end_as_well(world):
    """Without a number of messages it sends for a while, and counts what that comes to."""
    told = report(world, "throughput", "connect", "durable", "--duration", "50ms", "--rounds", "1", "--peers", "2")
    assert all(row["messages_sent"] > 0 and row["messages_received"] >= row["messages_sent"] for row in told["results"])
    assert len(told["results"]) == 8


def test_the_table_is_markdown_and_says_on_what_it_was_measured(world):
    """It can be pasted into an issue: versions, processors, kernel, and a row for each case."""
    done = bench(world, "round-trip", "one-to-one", "idle", "--size", "128,4KiB", "--messages", "50", "--rounds", "2", "--connections", "20")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("hermes-bus/") and "cores" in lines[1] and os.uname().release in lines[1]
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 5 and len({line.count("|") for line in rows}) == 1 and len({len(line) for line in rows}) == 1
    assert rows[1].replace("-", "").replace(":", "").replace("|", "").strip() == ""
    assert any("20 idle sessions" in line and "memory each" in line for line in lines)


def test_the_picture_is_xml_with_a_line_for_each_latency(world):
    """--plot writes it beside the table."""
    picture = world.directory / "latency.svg"
    report(world, "round-trip", "steady", "one-to-one", "--messages", "200", "--rounds", "1", "--plot", picture)
    root = xml.etree.ElementTree.parse(picture).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert root.tag == svg + "svg" and len(root.findall(svg + "polyline")) == 2


def test_a_sender_that_cannot_keep_its_rate_says_so(world):
    """Ten million a second are too many for anybody: the run ends all the same, and what was sent is counted."""
    told = report(world, "steady", "--rate", "10000000", "--duration", "100ms", "--rounds", "1")
    (row,) = told["results"]
    assert row["steady"]["sender_kept_the_rate"] is False and row["steady"]["sent_per_s"]["median"] < 10_000_000
    assert row["messages_received"] == row["messages_sent"]
    done = bench(world, "steady", "--rate", "10000000", "--duration", "100ms", "--rounds", "1")
    assert "could not keep the rate" in done.stdout


def test_idle_sessions_end_at_the_hard_limit_of_open_files(world):
    """As many as there may be, and the limit is named; nothing fails."""
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
    told = report(world, "idle", "--connections", "1000", "--rounds", "1", preexec_fn=limit)
    idle = told["results"][0]["idle"]
    assert 100 < idle["connections"] < 200 and "200 files" in idle["ended_by"] and idle["connections_asked"] == 1000


def test_live_means_the_bus_that_other_commands_use_and_starts_it(world):
    """As they would; --no-start keeps it from that."""
    said = reason(bench(world, "one-way", "--messages", "10", "--live", "--no-start"))
    assert "Start it with 'hermes-busd start'" in said
    told = report(world, "one-way", "--messages", "10", "--live")
    assert not told["bus"]["is_private"] and told["bus"]["place"] == str(world.root)
    assert world.pid_in_file() in world.processes()
    assert world.busd("stop").returncode == 0


@pytest.mark.parametrize("arguments,code,words", [
    (["nonsense"], 2, "round-trip"),
    (["one-to-one", "--size", "11MiB"], 2, "16 B to 10 MiB"),
    (["one-to-one", "--size", "8"], 2, "16 B to 10 MiB"),
    (["one-to-one", "--rounds", "0"], 2, "--rounds"),
    (["one-to-one", "--messages", "0"], 2, "--messages"),
    (["one-to-one", "--private", "--live"], 2, "--private"),
    (["one-to-one", "--private", "--root", "/nowhere"], 2, "--private"),
    (["one-to-one", "--plot", "x.svg"], 2, "--plot draws latencies"),
    (["one-way", "--plot", "/no/such/directory/x.svg"], 1, "no such directory"),
    (["one-way", "--dir", "/no/such/directory"], 1, "/no/such/directory"),
    (["one-way", "--dir", "/tmp/" + "x" * 120], 1, "too long"),
    (["one-way", "--socket", "/no/such/socket"], 1, "/no/such/socket"),
])
def test_what_cannot_be_done_is_said(world, arguments, code, words):
    """Before anything was started."""
    done = bench(world, *arguments)
    assert done.returncode == code and done.stdout == "" and words in done.stderr, done.stderr
    nothing_is_left(world)


def test_a_reader_that_leaves_is_no_failure(world):
    """`hermes-bus bench … | head -1`"""
    done = world.run(["bash", "-c", "hermes-bus bench one-way --messages 10 | head -n 1; exit ${PIPESTATUS[0]}"])
    assert done.returncode == 0 and "panicked" not in done.stderr, done.stderr
    nothing_is_left(world)


def test_several_at_once_on_one_bus_do_not_meet(server):
    """Their names are their own: each counts exactly its own messages."""
    world = server.world
    command = [BIN / "hermes-bus", "bench", "one-to-one", "pairs", "group", "topic", "durable", "--messages", "2000", "--rounds", "2", "--root", world.root, "--json"]
    both = [world.spawn(command, output="bench-%d.out" % n) for n in range(2)]
    assert [one.wait(60) for one in both] == [0, 0], [world.output("bench-%d.out" % n) for n in range(2)]
    for n in range(2):
        told = json.loads(world.output("bench-%d.out" % n))
        assert {row["workload"]: row["messages_sent"] for row in told["results"]} == dict.fromkeys(["one-to-one", "pairs", "group", "topic", "durable"], 4000)
