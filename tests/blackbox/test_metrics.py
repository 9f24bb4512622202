"""Metrics: read by the parser that scrapers use, over the socket and through `hermes-bus metrics`."""
import json
import os
import shutil
import socket
import stat
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import procfs
from wire import message
from world import BIN, leave_dead_socket, wait_until

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def path_of(world):
    return str(world.root / "run" / "metrics.sock")


def http(world, request, within_s=30):
    """Status, header fields and body of an answer; the connection ends with it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(within_s)
        s.connect(path_of(world))
        s.sendall(request.encode())
        answer = b""
        while True:
            chunk = s.recv(65536)
            if not chunk:
                break
            answer += chunk
    head, body = answer.decode().split("\r\n\r\n", 1)
    lines = head.split("\r\n")
    fields = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
    return int(lines[0].split()[1]), fields, body


def get(world, target="/metrics", method="GET"):
    return http(world, "%s %s HTTP/1.1\r\nHost: bus\r\n\r\n" % (method, target))


class Metrics:
    """What a scrape gave."""

    def __init__(self, text):
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in self.families.values() for s in f.samples}

    def __call__(self, name, **labels):
        return self.samples[("hermes_bus_" + name, tuple(sorted(labels.items())))]

    def labels(self, name, label):
        return {dict(labels)[label] for sample, labels in self.samples if sample == "hermes_bus_" + name}


def scrape(world):
    status, fields, body = get(world)
    assert status == 200, (status, body)
    return Metrics(body)


def program(world, *arguments, **more):
    return world.run([BIN / "hermes-bus", "metrics", *arguments], **more)


def test_a_scraper_reads_every_figure_of_known_traffic(server, world):
    """What went through is what is counted, and each family has its type and unit."""
    receiver, sender = world.connect("receiver"), world.connect("sender")
    before = scrape(world)
    sender.send(*[message("receiver", n) for n in range(10)], message("nobody", 1), message("", "all"))
    assert len([receiver.recv() for _ in range(11)]) == 11 and sender.recv()["body"] == "all"
    wait_until(lambda: scrape(world)("messages_total", outcome="handed_over") - before("messages_total", outcome="handed_over") == 12, "everything to be handed over")
    m = scrape(world)
    grown = lambda name, **labels: m(name, **labels) - before(name, **labels)
    assert grown("messages_total", outcome="accepted") in (11, 12)
    assert grown("broadcasts_total") == 1
    assert grown("refused_total", reason="endpoint_not_found") == 1
    assert grown("message_bytes_total", outcome="handed_over") > 12 * 50
    assert m("sessions") == 2 and m("open_connections") >= 2
    assert m("endpoint_sent_messages_total", endpoint="sender") >= 11
    assert m("endpoint_received_messages_total", endpoint="receiver") == 11
    assert m("endpoint_queue_bytes", endpoint="receiver") == 0
    assert m("endpoint_queue_peak_bytes", endpoint="receiver") > 0
    assert m.families["hermes_bus_messages"].type == "counter" and m.families["hermes_bus_message_bytes"].unit == "bytes"
    assert m.families["hermes_bus_build"].type == "info" and m("build_info", server=next(iter(m.labels("build_info", "server")))) == 1
    assert 0 < m("uptime_seconds") < 3600
    assert all(family.documentation for family in m.families.values())


BY_PREFIX = {"refused_": "refused_total", "dropped_": "dropped_messages_total", "ignored_": "ignored_frames_total", "timeout_": "timeouts_total"}
BY_NAME = {
    "messages": ("messages_total", {"outcome": "accepted"}), "handed_over": ("messages_total", {"outcome": "handed_over"}),
    "held": ("messages_total", {"outcome": "held"}), "held_delivered": ("messages_total", {"outcome": "held_delivered"}),
    "message_bytes": ("message_bytes_total", {"outcome": "accepted"}), "handed_over_bytes": ("message_bytes_total", {"outcome": "handed_over"}),
    "replaced": ("replaced_sessions_total", {}), "sender_waits": ("sender_waits_total", {"reason": "queue_full"}), "pace_waits": ("sender_waits_total", {"reason": "pace"}),
    "queued_bytes": ("memory_bytes", {"of": "queues"}), "answer_bytes": ("memory_bytes", {"of": "answers"}),
    "intake_bytes": ("memory_bytes", {"of": "intake"}), "held_bytes": ("memory_bytes", {"of": "held"}), "open_connections": ("open_connections", {}),
    "published": ("published_messages_total", {}), "dead_letters": ("followed_messages_total", {"step": "dead"}),
}
STEPS = ("kept", "spilled", "stored", "acked", "nacked", "rerouted", "repeated", "given_up", "expired", "purged", "retried")
BY_NAME.update({step: ("followed_messages_total", {"step": step}) for step in STEPS})


def place_of(counter):
    """Where a counter of the listing stands among the metrics."""
    for prefix, family in BY_PREFIX.items():
        if counter.startswith(prefix):
            return family, {"reason": counter[len(prefix):]}
    return BY_NAME.get(counter, (counter + "_total", {}))


def test_counters_never_go_down_and_all_of_the_listing_are_there(server, world):
    """Each counter that a level 2 listing shows has a series with the same figure."""
    sender = world.connect("a")
    sender.send(message("nobody", 1), message("a", 2))
    assert sender.recv()["body"] == 2
    first = scrape(world)
    with world.connect() as c:
        c.send({"type": "list_endpoints", "protocol": 2})
        listed = c.recv()["server"]["counters"]
        second = scrape(world)
    counters = {key: value for key, value in first.samples.items() if key[0].endswith("_total") and "endpoint_" not in key[0]}
    assert all(second.samples[key] >= value for key, value in counters.items())
    assert listed["messages"] >= 1 and listed["refused_endpoint_not_found"] == 1
    for counter, count in listed.items():
        family, labels = place_of(counter)
        # What is asked for on the way changes only these.
        if counter not in ("answer_bytes", "connections"):
            assert second(family, **labels) == count, counter
        else:
            assert second(family, **labels) >= 0, counter


@pytest.mark.parametrize("name", ["a \"quoted\" name", "back\\slash", "two\nlines", "测试端点 🚀", "", "a=b,c}", "# EOF", "trailing\\"])
def test_any_name_can_be_a_label(server, world, name):
    """Names are any text; the parser gives them back as they were."""
    world.connect(name)
    assert scrape(world)("endpoint_queue_bytes", endpoint=name) == 0


@pytest.mark.parametrize("name", ["esc \x1b[31m", "bell\x07\r", "x" * 8000, "bidi \u202e"])
def test_a_name_that_would_steer_a_terminal_or_is_long_is_shown_changed(server, world, name):
    """Still one series, short and harmless, and not mistaken for another."""
    world.connect(name)
    world.connect(name[:-1] + "~")
    labels = scrape(world).labels("endpoint_queue_bytes", "endpoint")
    assert len(labels) == 2 and name not in labels
    assert all(len(label) < 200 and not any(c in label for c in "\x1b\x07\r\u202e") for label in labels)


def test_histograms_are_cumulative_and_agree_with_their_counts(server, world):
    """Buckets never fall, the last one holds all, and the sum fits."""
    receiver, sender = world.connect("receiver"), world.connect("sender")
    sender.send(*[message("receiver", n) for n in range(50)])
    [receiver.recv() for _ in range(50)]
    wait_until(lambda: scrape(world)("delivery_seconds_count") >= 50, "50 deliveries to be measured")
    m = scrape(world)
    for name in ("delivery_seconds", "turn_seconds"):
        buckets = [(s.labels["le"], s.value) for s in m.families["hermes_bus_" + name].samples if s.name.endswith("_bucket")]
        counts = [count for _, count in buckets]
        bounds = [float(le) for le, _ in buckets]
        assert counts == sorted(counts) and bounds == sorted(set(bounds)), buckets
        assert buckets[-1] == ("+Inf", m(name + "_count")) and m(name + "_count") > 0
        assert 0 < m(name + "_sum") <= sum(count - before for (count, before) in zip(counts, [0] + counts)) * 67.2
        assert m.families["hermes_bus_" + name].type == "histogram" and m.families["hermes_bus_" + name].unit == "seconds"


def test_many_endpoints_are_cut_and_counted(server, world):
    """1,000 have series of their own; one gauge says how many have not, and old series stay."""
    world.connect("first")
    crowd = [world.connect("e%04d" % n) for n in range(1_020)]
    m = scrape(world)
    labels = m.labels("endpoint_queue_bytes", "endpoint")
    assert len(labels) == 1_000 and "first" in labels and m("endpoints_left_out") == 21 and m("sessions") == 1_021
    for c in crowd:
        c.hang_up()


def test_the_program_prints_the_same_text_and_json(server, world):
    """`hermes-bus metrics`, plain and as one object."""
    world.connect("a \"quoted\" name")
    done = program(world)
    assert (done.returncode, done.stderr) == (0, "")
    assert Metrics(done.stdout)("sessions") == 1
    done = program(world, "--json")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 1
    families = {f["name"]: f for f in json.loads(done.stdout)["families"]}
    assert families["hermes_bus_sessions"]["samples"] == [{"name": "hermes_bus_sessions", "labels": {}, "value": 1}]
    assert families["hermes_bus_endpoint_queue_bytes"]["samples"][0]["labels"] == {"endpoint": "a \"quoted\" name"}
    assert program(world, "--socket", world.socket_path, env={"HERMES_BUS_ROOT": None, "HOME": "/nonexistent"}).returncode == 0


def test_without_a_bus_the_program_says_what_to_do(world):
    """Nothing is started; there is one line and exit code 1, for scripts an object."""
    done = program(world)
    assert (done.returncode, done.stdout) == (1, "") and "hermes-busd start" in done.stderr and done.stderr.count("\n") == 1
    done = program(world, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["error"] == "no_bus"
    assert world.processes() == []
    done = program(world, "--socket", str(world.directory / "other.sock"))
    assert done.returncode == 1 and "--root" in done.stderr


def test_without_a_metrics_socket_the_program_says_so(server, world):
    """A bus runs, but its metrics cannot be reached: that is said, and not that there is no bus."""
    os.unlink(path_of(world))
    done = program(world)
    assert done.returncode == 1 and "a bus runs" in done.stderr and "metrics.sock" in done.stderr


def test_curl_and_other_http_clients(server, world):
    """Content type and status as scrapers want them; nothing but /metrics, only GET and HEAD."""
    status, fields, body = get(world)
    assert (status, fields["content-type"]) == (200, CONTENT_TYPE) and int(fields["content-length"]) == len(body.encode())
    status, fields, body = get(world, method="HEAD")
    assert (status, fields["content-type"], body) == (200, CONTENT_TYPE, "")
    assert get(world, "/")[0] == 404 and get(world, "/metrics/x")[0] == 404
    status, fields, _ = get(world, method="DELETE")
    assert status == 405 and fields["allow"] == "GET, HEAD"
    if shutil.which("curl"):
        done = world.run(["curl", "-sS", "-f", "--unix-socket", path_of(world), "-w", "%{content_type}", "http://bus/metrics"])
        assert done.returncode == 0, done.stderr
        text, kind = done.stdout.rsplit("# EOF\n", 1)
        assert kind == CONTENT_TYPE and Metrics(text + "# EOF\n")("sessions") == 0


def test_readers_that_send_or_read_nothing_keep_nobody_waiting(server, world):
    """Neither the bus nor other readers; and they cost the bus no descriptors for long."""
    before = procfs.open_files(server.pid)
    silent = []
    for _ in range(100):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.connect(path_of(world))
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: bus\r\n\r\n" if len(silent) % 2 else b"GET /me")
        silent.append(s)
    assert scrape(world)("sessions") == 0
    assert procfs.open_files(server.pid) <= before + 40
    with world.connect("worker") as c:
        c.fence()
    for s in silent:
        s.close()
    wait_until(lambda: procfs.open_files(server.pid) <= before + 1, "their descriptors to be given back")


def test_the_socket_is_private_and_goes_with_the_bus(world):
    """Mode 0600 from the first moment, a left over one is replaced, and it is removed at the end."""
    (world.root / "run").mkdir()
    leave_dead_socket(path_of(world))
    server = world.serve()
    assert scrape(world)("sessions") == 0
    assert stat.S_IMODE(os.stat(path_of(world)).st_mode) == 0o600
    assert server.stop() == 0 and not os.path.exists(path_of(world))


def test_a_bus_whose_metrics_socket_is_taken_still_runs(world):
    """Metrics are no reason not to route: the file stays, the log says why there are none."""
    (world.root / "run").mkdir()
    (world.root / "run" / "metrics.sock").write_text("precious")
    world.start_daemon()
    assert (world.root / "run" / "metrics.sock").read_text() == "precious"
    assert "metrics.sock" in world.log_file.read_text()


def test_a_hung_bus_is_said_to_hang(world):
    """A bus that is stopped answers nothing: the program gives up and says what to do."""
    pid = world.start_daemon()
    os.kill(pid, 19)
    try:
        done = program(world, within_s=30)
        assert done.returncode == 1 and "hermes-busd" in done.stderr and done.stdout == ""
    finally:
        os.kill(pid, 18)


@pytest.mark.skipif(not shutil.which("socat"), reason="socat is not installed")
def test_a_scraper_over_tcp_through_socat(server, world):
    """The documented way for a scraper that knows no Unix sockets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world.spawn(["socat", "TCP-LISTEN:%d,bind=127.0.0.1,fork,reuseaddr" % port, "UNIX-CONNECT:" + path_of(world)])

    def text():
        done = subprocess.run(["curl", "-sS", "-f", "http://127.0.0.1:%d/metrics" % port], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=30)
        return done.stdout if done.returncode == 0 else None
    assert Metrics(wait_until(text, "socat to pass a scrape on"))("sessions") == 0
