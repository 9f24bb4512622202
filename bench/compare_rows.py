"""The work that bench/compare measures: how each row is measured, what its figure is, and what the goals are.

A row's `sample(bench, kind)` measures one broker once and returns what it has measured, by name; `figure` names the value
that stands in the table. Goals look at the medians of all rounds.
"""
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import brokers

ALL = ("ours", "nats", "redis", "mosquitto", "original", "floor")
BROKERS = ("ours", "nats", "redis", "mosquitto", "original")
# A frame of 10 MiB at most, with what stands around the text.
LARGE_TEXT = 10 * 2 ** 20 - 1024
FORMATS = {
    "per_s": lambda value: "%s /s" % format(value, ",.0f"),
    "mb_per_s": lambda value: "%s MB/s" % format(value, ",.0f"),
    "us": lambda value: "%.1f µs" % value if value < 1e4 else "%.1f ms" % (value / 1e3),
    "ms": lambda value: "%.1f ms" % value,
    "bytes": lambda value: "%s B" % format(value, ",.0f"),
    "percent": lambda value: "%.3f %%" % value,
    "s": lambda value: "%.1f s" % value,
}


class Row:
    """One line of the table."""

    kinds = BROKERS
    # Which of the figures stands in the table, in what unit, and whether more is better.
    figure, unit, more_is_better = "per_s", "per_s", True
    # Further figures to show behind it: name and unit.
    also = ()
    rounds_max = None

    def __init__(self, key, title, goals=(), **settings):
        self.key, self.title, self.goals = key, title, goals
        for name, value in settings.items():
            setattr(self, name, value)

    def sample_all(self, bench, kinds):
        """One round: each broker once, one after the other."""
        return {kind: self.sample(bench, kind) for kind in kinds}

    def show(self, figures):
        text = FORMATS[self.unit](figures[self.figure])
        return text + "".join(" / " + FORMATS[unit](figures[name]) for name, unit in self.also)

    def advantage(self, ours, other):
        """How many times better this bus is."""
        a, b = ours[self.figure], other[self.figure]
        if min(a, b) <= 0:
            return None
        return a / b if self.more_is_better else b / a


# ---- goals: what they say, and what came of it --------------------------------------------------


def times(factor, other, figure=None):
    """At least `factor` times as good as another broker."""
    def check(row, medians):
        if other not in medians:
            return None
        ours, theirs = medians["ours"][figure or row.figure], medians[other][figure or row.figure]
        ratio = ours / theirs
        return "%.2f ×" % ratio, ratio >= factor
    return "≥ %g × %s" % (factor, brokers.TITLES[other]), check


def at_most_times(factor, figure, other, its_figure, text):
    def check(_, medians):
        if other not in medians:
            return None
        ratio = medians["ours"][figure] / medians[other][its_figure]
        return "%.2f ×" % ratio, ratio <= factor
    return text, check


def at_most(limit, figure, unit, text):
    def check(_, medians):
        value = medians["ours"][figure]
        return FORMATS[unit](value), value <= limit
    return text, check


def memory(limit_mib):
    def check(_, medians):
        peak = medians["ours"]["peak_kib"] / 1024
        return "%.0f MiB" % peak, peak <= limit_mib
    return "memory ≤ %d MiB" % limit_mib, check


def unchanged(percent):
    def check(_, medians):
        change = medians["ours"]["change_percent"]
        return "%+.0f %%" % change, change < percent
    return "p99 changes by < %d %%" % percent, check


def works(count):
    def check(_, medians):
        return "%s sessions" % format(medians["ours"]["n"], ",.0f"), medians["ours"]["n"] >= count
    return "%s sessions work" % format(count, ","), check


# ---- rows ---------------------------------------------------------------------------------------


class Throughput(Row):
    """Messages a second, or bytes; the broker's processor time for each."""

    work, options, n, n_original = "tput", "", 0, 0

    def sample(self, bench, kind):
        server = bench.server(kind)
        count = self.n_original if kind == "original" else self.n
        # A tenth of the messages; but of large ones as many as show anything.
        count = max(count // 10, min(count, 20)) if bench.quick else count
        measured = brokers.load(server, self.work, self.options, count)
        measured["peak_kib"] = server.status_kib("VmHWM")
        return measured


class RoundTrip(Row):
    figure, unit, more_is_better, kinds = "p50_us", "us", False, ALL
    also = (("p99_us", "us"),)
    pinned = False

    def sample(self, bench, kind):
        server = bench.server(kind)
        processors = {max(os.sched_getaffinity(0))} if self.pinned else None
        server.keep_to(processors or os.sched_getaffinity(0))
        return brokers.load(server, "rtt", "size=128", 2_000 if bench.quick else 20_000, processors=processors)


class OneShot(Row):
    figure, unit, more_is_better = "per_s", "per_s", True
    also = (("p50_us", "us"),)

    def sample(self, bench, kind):
        options = "size=128" + (" confirm=ping" if kind == "original" else "")
        return brokers.load(bench.server(kind), "oneshot", options, 500 if bench.quick else 5_000)


class OneWay(Row):
    figure, unit, more_is_better = "p50_us", "us", False
    also = (("p99_us", "us"), ("p999_us", "us"))

    def sample(self, bench, kind):
        return brokers.load(bench.server(kind), "oneway", "size=128 rate=100000 secs=%g" % (1 if bench.quick else 4))


class Idle(Row):
    figure, unit, more_is_better = "bytes_each", "bytes", False
    rounds_max = 3
    level = 1

    def sample(self, bench, kind):
        with bench.fresh(kind) as server:
            return brokers.load(server, "idle", "level=%d" % self.level, 1_000 if bench.quick else 10_000)


class IdleProcessor(Row):
    """All at the same time: they do next to nothing."""

    figure, unit, more_is_better = "cpu_percent", "percent", False
    rounds_max = 2

    def sample_all(self, bench, kinds):
        options = "secs=%d" % (3 if bench.quick else 20)
        servers = {kind: bench.server(kind) for kind in kinds}
        with ThreadPoolExecutor(len(servers)) as pool:
            running = {kind: pool.submit(brokers.load, server, "idle", options, 1_000) for kind, server in servers.items()}
            return {kind: result.result() for kind, result in running.items()}


class Ring(Row):
    figure, unit, more_is_better, kinds = "seconds", "s", False, ("ours",)
    also = (("connect_s", "s"),)
    rounds_max = 2
    n = 18_000

    def sample(self, bench, kind):
        with bench.fresh(kind) as server:
            return brokers.load(server, "ring", "size=128", 2_000 if bench.quick else self.n)


class Start(Row):
    figure, unit, more_is_better = "ms", "ms", False
    kinds = ("ours", "nats", "redis", "mosquitto", "original")

    def sample(self, bench, kind):
        with tempfile.TemporaryDirectory(prefix="s-", dir=bench.directory) as directory:
            command = brokers.Command(kind, directory)
            environment = {key: value for key, value in os.environ.items() if not key.startswith("HERMES_")}
            words = [brokers.BUSBENCH, "start", command.protocol, command.address, "--", *command.words]
            return brokers.figures(brokers.run(*words, env={**environment, **command.environment}))


class Stalled(Row):
    """The p99 of a pair at a steady rate, beside a receiver that reads and beside one that does not, with a sender that goes
    on sending to it. Both in each round, each with a fresh server."""

    figure, unit, more_is_better, kinds = "p99_us", "us", False, ("ours", "nats")
    also = (("stalled_p99_us", "us"),)

    def sample(self, bench, kind):
        options = "size=128 rate=10000 secs=%g beside=" % (1 if bench.quick else 5)
        measured = {}
        for beside in ("reads", "stalls"):
            with bench.fresh(kind) as server:
                measured[beside] = brokers.load(server, "oneway", options + beside)
        stalled = measured["stalls"]["p99_us"]
        reads = measured["reads"]["p99_us"]
        return {**measured["reads"], "stalled_p99_us": stalled, "change_percent": (stalled / reads - 1) * 100}


NATS_2 = (times(2, "nats"),)
ROWS = [
    Throughput("tput-128", "1→1, 128 B of text", (times(2.5, "nats"), times(30, "original"), times(0.6, "floor")),
               options="size=128", n=1_500_000, n_original=60_000, kinds=ALL),
    Throughput("tput-4k", "1→1, 4 KiB", (times(1.5, "nats"),), options="size=4096", n=300_000, n_original=20_000, kinds=ALL),
    Throughput("tput-64k", "1→1, 64 KiB", (times(1.5, "nats"),), options="size=65536", n=30_000, n_original=3_000, kinds=ALL),
    Throughput("tput-10m", "1→1, 10 MiB", (times(0.5, "floor"), memory(64)), options="size=%d" % LARGE_TEXT, n=150, n_original=20,
               kinds=ALL, figure="mb_per_s", unit="mb_per_s"),
    Throughput("fanin", "4→1, 128 B", NATS_2, work="fanin", options="size=128 c=4", n=1_000_000, n_original=40_000),
    Throughput("pairs-4", "4 pairs, 128 B", NATS_2, work="pairs", options="size=128 c=4", n=1_000_000, n_original=40_000),
    Throughput("pairs-64", "64 pairs, 128 B", NATS_2, work="pairs", options="size=128 c=64", n=1_000_000, n_original=40_000),
    Throughput("broadcast", "1→64 broadcast, 128 B (deliveries)", (times(2, "redis"),), work="fanout", options="size=128 c=64",
               n=40_000, n_original=1_000),
    Throughput("topic", "1→64 topic, 128 B (deliveries)", (times(2, "redis"),), work="topic", options="size=128 c=64",
               n=40_000, kinds=("ours", "nats", "redis", "mosquitto")),
    RoundTrip("rtt", "round trip, 128 B: p50 / p99",
              (at_most_times(1.3, "p50_us", "floor", "p50_us", "p50 ≤ 1.3 × floor"),
               at_most_times(1, "p99_us", "nats", "p50_us", "p99 ≤ nats-server's p50"))),
    RoundTrip("rtt-one-core", "the same, all on one processor", (
        at_most_times(1.3, "p50_us", "floor", "p50_us", "p50 ≤ 1.3 × floor"),
        at_most_times(1, "p99_us", "nats", "p50_us", "p99 ≤ nats-server's p50")), pinned=True),
    OneShot("oneshot", "connect, send, wait for the receipt, close: rate / p50", (times(4, "nats"),)),
    OneWay("oneway", "one way at 100,000 /s: p50 / p99 / p99.9", (at_most(1000, "p999_us", "us", "p99.9 ≤ 1 ms"),)),
    Idle("idle", "an idle session's memory, of 10,000", (at_most(4096, "bytes_each", "bytes", "≤ 4 KiB"),)),
    Idle("idle-2", "the same, of level 2", (at_most(4096, "bytes_each", "bytes", "≤ 4 KiB"),), level=2, kinds=("ours",)),
    Ring("sessions", "18,000 sessions, each sends and hears: time / connecting", (works(18_000),)),
    IdleProcessor("idle-cpu", "1,000 idle sessions: processor time", (at_most(0.1, "cpu_percent", "percent", "< 0.1 %"),)),
    Start("start", "program start to first answer", (at_most(20, "ms", "ms", "< 20 ms"),)),
    Stalled("stalled", "p99 of a pair at 10,000 /s, beside one that reads / that does not", (unchanged(10),)),
]
