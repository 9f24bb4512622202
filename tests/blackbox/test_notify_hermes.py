"""`notify-hermes`: beside the original program of that name, argument for argument, and beyond it."""
import concurrent.futures
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid

import pytest

import procfs
from wire import FRAME_BYTES_MAX, Connection, encode
from world import BIN, ORIGINALS, World, answers, leave_dead_socket, listen_at, wait_until

OURS = [str(BIN / "notify-hermes")]
ORIGINAL = [ORIGINALS["0.7.0"], "-m", "hermes_notify.notify_hermes"]
SENDERS = {"ours": OURS, "original": ORIGINAL}
NEEDS_TEXT = "ERROR: Either message text or --body is required\n"
FAKE_TMUX = """#!/bin/sh
echo "$*" >> "$FAKE_TMUX_LOG"
[ -z "$FAKE_TMUX_HANGS" ] || exec sleep 60
[ -z "$FAKE_SESSION" ] || printf '%b\\n' "$FAKE_SESSION"
exit ${FAKE_TMUX_RC:-0}
"""
RULES = """role_map:
  worker-alpha: {name: Alpha, color: bold_yellow}
  noname: {color: white}
  empty-name: {name: ""}
  spaced: {name: "A  B"}
  "": {name: Nobody}
  测试: {name: Ünï 📬}
callbacks: []
"""

both = pytest.mark.parametrize("version", sorted(ORIGINALS))


# ---- side by side --------------------------------------------------------------------------------------

class Case:
    """Arguments for both programs. `@TO` in an argument stands for an endpoint that is connected, `@RULES` for a file with the text of `rules`,
    which is also what HERMES_HOME leads to."""

    def __init__(self, *arguments, rules=None, **env):
        self.arguments, self.rules, self.env = arguments, rules, env

    def __repr__(self):
        shown = [a if isinstance(a, str) else repr(a) for a in self.arguments]
        shown = [a if len(a) < 60 else a[:25] + "..." + str(len(a)) for a in shown]
        extra = ["%s=%s" % item for item in sorted(self.env.items())] + (["rules:" + self.rules[:40]] if self.rules is not None else [])
        return " ".join(json.dumps(s, ensure_ascii=True)[1:-1] or "''" for s in extra + shown)


def text(*arguments, **more):
    return Case("--to", "@TO", *arguments, **more)


def body(json_text, *arguments, **more):
    return Case("--to", "@TO", "--body", json_text, *arguments, **more)


PANE = {"TMUX": "/tmp/none,1,0", "TMUX_PANE": "%1"}

ALIKE = [
    # plain texts
    text("hello world"), text("第一行\nsecond\t\"quoted\" 📬 \\ $HOME `id` $(id)"), text("ends\n"), text("\n"), text(" "), text("\x01\x1b[31m\x7f\u2028\u202e"),
    text("x" * 100_000), text("'"), text("null"), text("{\"text\": 1}"), text("ünïcode e\u0301"),
    # no text
    text(), text(""), text("", ""), Case(), Case("text"), Case("--to"), Case("text", "--to"), Case("--to", "--type", "x", "t"),
    # order, forms, abbreviations
    Case("done", "--type=ack", "--to=@TO"), Case("--type", "ack", "done", "--to", "@TO"), text("--ty", "ack", "t"), text("--ty=ack", "t"), text("--b", '{"k": 1}'),
    text("--fr", "me", "t"), text("--f=me", "t"), text("--ch", "a:b", "t"), text("--co", "/nowhere", "t"), text("--c", "x", "t"), text("--c=x", "t"),
    Case("--t", "@TO", "t"), Case("--t=@TO", "t"), Case("-to", "@TO", "t"), Case("-t", "@TO", "t"), text("--s=", "t"), text("--so", "", "t"),
    # repeated: the last one counts
    Case("--to", "nobody", "--to", "@TO", "t"), text("--type", "a", "--type", "b", "t"), text("--type", "a", "--type=", "t"), text("--from", "a", "--fro", "b", "t"),
    body('{"a": 1}', "--body", '{"b": 2}'), body('{"a": 1}', "--body", "", "t"), text("a", "b"), text("a", "--type", "t", "b"),
    # dashes
    text("- one"), text("--- cut here ---"), text("-5"), text("-0.5"), text("-.5"), text("-5."), text("-5e3"), text("-5=x"), text("-x"), text("-x y"), text("--"),
    text("--", "-x"), text("--", "--to"), text("--", "--"), text("--", "-h"), text("a", "--"), text("a", "--", "b"), text("--", "a", "--type", "t"), text("---"), text("--=x"), text("-=x"),
    text("--bogus"), text("--bogus", "x"), text("--bogus=x", "t"), text("--bogus x"), text("--to x"), text("--to=nobody x", "t"), text("-1", "--type", "-2"),
    text("-hx"), text("-h=x"), text("-h x"), text("--help=x", "t"), text("--typex", "a", "t"),
    Case("--", "t", "--to", "@TO"), Case("--to", "--", "t"), Case("--to", "-5", "t"), Case("--to", "- x", "t"), Case("--to=-x", "t"), Case("--to=--type", "t"), Case("--to=@TO=x", "t"),
    text("--type", "-x y", "t"), text("--type", "-", "t"), text("--type", "--channel", "t"), text("--type=--channel", "t"), text("--type", "-5", "t"), text("--type", "--", "t"),
    text("--channel", "--from"), text("--from=-x", "t"), text("--body", "-1"), text("--body", "-x"), text("--body", "- 1"), text("t", "--type"), text("t", "--config"),
    # empty options
    text("--type", "", "t"), text("--channel", "", "t"), text("--type=", "--channel=", "--from=", "--config=", "--socket=", "--body=", "t"), text("--from", "", "t"),
    text("--config", "", "t", rules=RULES), text("--socket", "", "t"), text("--body", ""), text("--body", "", ""), Case("--to="), Case("--to=", ""),
    # body: every kind
    body('{"text": "hello", "version": "2.1.0", "n": [1, {"a": null}]}'), body('{}'), body('[]'), body('[1, "a", null]'), body('"text"'), body('""'), body("5"), body("0"), body("-0.0"),
    body("true"), body("false"), body("null"), body("NaN"), body("-Infinity"), body('{"a": NaN, "b": Infinity}'), body('{"n": 123456789012345678901234567890}'),
    body('{"n": 1.0, "m": 1E5, "o": -0, "p": 0.1000000000000000055511151231257827, "q": 1e400}'), body('{"a": 1, "a": 2}'), body(' \n\t{"a" :\n 1 }\r\n'),
    body('{"a": "\\u00e9\\ud83d\\udcec\\n\\u0000\\u001b"}'), body('{"é": "📬"}'), body('{"k": 1}', "ignored"), body('{"z": 1, "a": 2, "m": 3}'), body("[" * 500 + "]" * 500), body('{"n": ' + "9" * 4300 + "}"),
    # body: with type and channel
    body('{"text": "x", "type": "ack", "channel": "a:b"}', "--type", "progress", "--channel", "c:d"), body("{}", "--type", "t"), body("{}", "--channel", "c"), body('{"a": 1, "a": 2}', "--type", "t"),
    body('{"ty\\u0070e": 1}', "--type", "t"), body('{"type": 1, "type": 2}', "--type", "t"), body('{"type": {"a": 1}, "z": 1}', "--type", "\"q\"\n"), body("{}", "--type", "", "--channel", ""), body("[1]", "--type", ""),
    text("t", "--type", "task_done", "--channel", "feishu:oc_abc123"), text("t", "--type", "my own/type!"), text("t", "--type", "测试"),
    # body: not JSON
    body("{nope"), body(" "), body("{"), body("{'a': 1}"), body('{"a": 01}'), body('{"a": +1}'), body('{"a": .5}'), body('{"a": 1.}'), body('{"a": 1,}'), body("{} {}"), body("\ufeff{}"), body('{"a": "\t"}'),
    body('{"a": "\\x"}'), body('{"a": "\\u12"}'), body("nan"), body("True"), body("\x0c{}"), body('"a'), body("/"), body("nope", "text"), body("-"), body('{1: 2}'),
    # bodies that the original dies of
    body("[1]", "--type", "t"), body('"s"', "--channel", "c"), body("null", "--type", "t"), body("5", "--type", "t"), body("[" * 2000 + "]" * 2000), body('{"n": ' + "9" * 4301 + "}"),
    # whom it is for
    Case("--to", "nobody-of-that-name", "t"), Case("--to", "@TO ", "t"), Case("--to", "测试", "t"), Case("--to", "a\nb", "t"), Case("--to", "x" * 5000, "t"),
    # bytes that are not UTF-8
    text(b"\xff"), text(b"a\xe9 b"), Case("--to", b"\xff", "t"), text("--type", b"\xff", "t"), text("--from", b"\xff", "t"), text("--channel", b"\xff", "t"), body(b"\xff"), body(b'{"a": "\xff"}'),
    text("--config", b"/nowhere/\xff", "t"), text(b"--config=/nowhere/\xff", "t"), text("--socket", b"/nowhere/\xff", "t"), text(b"--socket=/nowhere/\xff", "t"), text(b"-\xff"), text(b"--\xff", "t"),
    # who sends
    text("--from", "ci-pipeline", "t"), text("--from", "  ", "t"), text("--from", "测试", "t"), text("--from", "a\nb", "t"),
    *[text("--from", token, "t", rules=RULES) for token in ("worker-alpha", "Alpha", "noname", "empty-name", "spaced", "测试", "MyBot", "color", "Nobody", "")],
    text("--from", "worker-alpha", "--config", "@RULES", "t", rules=RULES, HERMES_HOME="/nowhere"), text("--from", "worker-alpha", "--config", "/nowhere", "t", rules=RULES),
    text("--from", "a", "t", rules="role_map: {a: {name: 'x: \\u0041'}}"), text("--from", "a", "t", rules='role_map: {a: {name: "\\u0041"}}'), text("--from", "a", "t", rules="role_map: &r {a: {name: A}}\nother: *r"),
    text("--from", "a", "t", rules="x: &n {name: A}\nrole_map:\n  a: *n\n"), text("--from", "a", "t", rules="role_map: {a: {name: A}, a: {name: B}}"), text("--from", "a", "t", rules="role_map: {a: {}}"),
    text("--from", "a", "t", rules="\ufeffrole_map: {a: {name: A}}"), text("--from", "a", "t", rules="role_map: {a: {name: A}}\r\ncallbacks: []\r\n"), text("--from", "a", "t", rules="role_map: {a: {name: |\n  A\n  }}"),
    text("--from", "a", "t", rules="role_map:\n  a:\n    name: >-\n      long\n      name\n"), text("--from", "a", "t", rules="%YAML 1.1\n---\nrole_map: {a: {name: A}}\n"),
    text("--from", "a", "t", rules="role_map:\n  <<: {a: {name: A}}\n"), text("--from", "a", "t", rules="role_map: {a: {name: A}}\n---\nmore: 1\n"),
    # files that are no rules
    text("--from", "z", "t", rules=""), text("--from", "z", "t", rules="# nothing\n"), text("--from", "z", "t", rules="role_map: [unclosed\n  : :"), text("--from", "z", "t", rules="{}"), text("--from", "z", "t", rules="null"),
    text("--from", "z", "t", rules="[]"), text("--from", "z", "t", rules="role_map: {}"), text("--from", "z", "t", rules="[1, 2]"), text("t", rules="[1, 2]"), text("t", rules="just text"),
    text("--from", "z", "t", rules="role_map: [1]"), text("t", rules="role_map: [1]"), text("t", rules="role_map: 5"), text("t", rules="role_map:"), text("t", rules="role_map: {a: text}"), text("--config", "/etc", "t"),
    # tmux
    text("t", FAKE_SESSION="worker-alpha", rules=RULES, **PANE), text("t", FAKE_SESSION="other-session", rules=RULES, **PANE), text("t", FAKE_SESSION="", **PANE), text("t", FAKE_SESSION="a", FAKE_TMUX_RC="1", **PANE),
    text("t", FAKE_SESSION="  a b  ", **PANE), text("t", FAKE_SESSION="测试", rules=RULES, **PANE), text("--from", "me", "t", FAKE_SESSION="a", **PANE), text("--from=", "t", FAKE_SESSION="a", **PANE),
    text("t", FAKE_TMUX_HANGS="1", **PANE), text("t", FAKE_SESSION="a\\nb", **PANE), text("t", FAKE_SESSION="a", PATH="/nowhere", **PANE),
    # the environment
    text("t", HERMES_HOME="/nowhere"), Case("--to", "@TO", "--socket", "@SOCKET", "t", HERMES_BUS_ROOT="/nowhere", HERMES_HOME="/nowhere"), text("t", HERMES_BUS_ROOT=None), text("t", HERMES_BUS_ROOT=None, HERMES_HOME=None),
    text("--from", "worker-alpha", "t", rules=RULES, HERMES_BUS_ROOT=None), text("t", NO_COLOR="1"),
]

# The original, then ours: exit code, and what is received of `from` and `body` (None: nothing).
UNLIKE = [
    ("a lone surrogate cannot be encoded by the original", body('{"text": "\\ud800"}'), (1, None), (0, {"body": {"text": "\ud800"}})),
    ("only the original takes a stranger's session", text("t", FAKE_SESSION="stranger"), (0, {"from": "stranger"}), (0, {"from": "notify-hermes"})),
    ("a pane of nothing is no pane", text("t", FAKE_SESSION="stranger", TMUX_PANE=""), (0, {"from": "stranger"}), (0, {"from": "notify-hermes"})),
    ("--json is new", text("--json", "t"), (2, None), (0, {"body": {"text": "t"}})),
    ("so is its beginning", text("--j", "t"), (2, None), (0, {"body": {"text": "t"}})),
    ("a role map of nothing is none", text("--from", "z", "t", rules="role_map:"), (1, None), (0, {"from": "z"})),
    ("so is an entry of nothing", text("--from", "z", "t", rules="role_map: {a: null}"), (1, None), (0, {"from": "z"})),
    ("a tag that nobody knows is passed over", text("--from", "a", "t", rules="role_map: !x {a: {name: A}}"), (0, {"from": "a"}), (0, {"from": "A"})),
    ("a text after a tab is a text", text("t", rules="\tx"), (0, {"from": "notify-hermes"}), (1, None)),
    ("- is standard input, here an empty one", text("-"), (0, {"body": {"text": "-"}}), (1, None)),
    ("an entry that is no mapping gives no name", text("--from", "a", "t", rules="role_map: {a: text}"), (1, None), (0, {"from": "a"})),
    ("nor does it harm others", text("--from", "b", "t", rules="role_map: {a: text, b: {name: B}, c: [1]}"), (0, {"from": "B"}), (0, {"from": "B"})),
    ("names are texts", text("--from", "a", "t", rules="role_map: {a: {name: 5}}"), (0, {"from": 5}), (0, {"from": "5"})),
    ("a name of null is none", text("--from", "a", "t", rules="role_map: {a: {name: null}}"), (0, {"from": None}), (0, {"from": "a"})),
    ("so are keys", text("--from", "0", "t", rules="role_map: {0: {name: Zero}}"), (0, {"from": "0"}), (0, {"from": "Zero"})),
]


class Outcome:
    def __init__(self, done, received, took_s):
        self.code, self.stdout, self.stderr, self.received, self.took_s = done.returncode, done.stdout, done.stderr, received, took_s


class Stage:
    """One bus for all cases, and one endpoint for each run of a case."""

    def __init__(self):
        self.world = World()
        self.world.serve()
        fake = self.world.directory / "fake"
        fake.mkdir()
        (fake / "tmux").write_text(FAKE_TMUX)
        (fake / "tmux").chmod(0o755)
        self.world.environment["PATH"] = "%s:%s" % (fake, self.world.environment["PATH"])
        self._pool = concurrent.futures.ThreadPoolExecutor(6)
        self._lock = threading.Lock()
        self._runs = {}
        self._number = 0

    def begin(self, cases):
        for case in cases:
            for who in sorted(SENDERS):
                self._runs[who, id(case)] = self._pool.submit(self.play, who, case)

    def outcome(self, who, case):
        return self._runs[who, id(case)].result(90)

    def play(self, who, case):
        with self._lock:
            self._number += 1
            to = "case-%d" % self._number
        home = self.world.directory / to
        home.mkdir()
        if case.rules is not None:
            (home / "bus-rules.yaml").write_text(case.rules, encoding="utf-8")
        places = {"@TO": to, "@RULES": str(home / "bus-rules.yaml"), "@SOCKET": self.world.socket_path}

        def placed(argument):
            for mark, value in places.items():
                argument = argument.replace(mark.encode(), value.encode()) if isinstance(argument, bytes) else argument.replace(mark, value)
            return argument
        env = dict({"HERMES_HOME": home, "FAKE_TMUX_LOG": home / "tmux.log"}, **case.env)
        with Connection(self.world.socket_path) as receiver:
            receiver.register(to)
            began = time.monotonic()
            done = subprocess.run(SENDERS[who] + [placed(a) for a in case.arguments], env=self.world._environment(env), cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
            took_s = time.monotonic() - began
            receiver.send({"type": "ping"})
            frames = []
            while not frames or frames[-1]["type"] != "pong":
                frames.append(receiver.recv())
        # stdout is text, or the test fails; the name of the endpoint differs between the runs.
        done.stdout = done.stdout.decode().replace(to, "@TO")
        done.stderr = done.stderr.decode(errors="backslashreplace").replace(to, "@TO")
        assert len(frames) <= 2, frames
        received = frames[0] if len(frames) == 2 else None
        if received is not None:
            assert received.pop("to") == to and received.pop("type") == "message"
            assert str(uuid.UUID(received.pop("id"))) and abs(received.pop("ts") - time.time()) < 100
        return Outcome(done, received, took_s)

    def end(self):
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.world.end()


@pytest.fixture(scope="module")
def stage(request):
    wanted = [item.callspec.params["case"] for item in request.session.items if isinstance(getattr(item, "callspec", None) and item.callspec.params.get("case"), Case)]
    s = Stage()
    try:
        s.begin(wanted)
        yield s
    finally:
        s.end()


def shape(value):
    """A body with everything that counts: the order of keys, and what Python's == takes for the same."""
    return repr(value)


@pytest.mark.parametrize("case", ALIKE, ids=repr)
def test_as_the_original_does(stage, case):
    """The same exit code, the same words on standard output, the same message; and a reason for every failure, in one line that is no crash report."""
    original, ours = stage.outcome("original", case), stage.outcome("ours", case)
    assert (ours.code, ours.stdout) == (original.code, original.stdout), (ours.stderr, original.stderr)
    assert shape(ours.received) == shape(original.received)
    assert "Traceback" not in ours.stderr and "panicked" not in ours.stderr
    if original.code == 2:
        assert "usage:" in ours.stderr.lower()
    elif original.code == 1:
        assert ours.stderr.startswith("ERROR: ") and len(ours.stderr) > 20 and ours.stderr.count("\n") == 1
        if original.stderr == NEEDS_TEXT:
            assert ours.stderr == NEEDS_TEXT
        if original.stderr.startswith("ERROR: Invalid JSON body: ") and "not UTF-8" not in ours.stderr:
            assert ours.stderr.startswith("ERROR: Invalid JSON body: ")
    else:
        # Nothing but a word about the configuration, which may have been meant otherwise.
        assert all(line.startswith("WARNING: ") for line in ours.stderr.splitlines()), ours.stderr


@pytest.mark.parametrize("why,case,original_does,ours_does", UNLIKE, ids=[u[0] for u in UNLIKE])
def test_where_it_differs_on_purpose(stage, why, case, original_does, ours_does):
    """Each difference, with what the original does, so that nobody takes one for a mistake."""
    for who, (code, received) in (("original", original_does), ("ours", ours_does)):
        outcome = stage.outcome(who, case)
        assert outcome.code == code, (who, outcome.stderr)
        assert (outcome.received is None) == (received is None), who
        for key, value in (received or {}).items():
            assert shape(outcome.received[key]) == shape(value), who


HELPS = [Case("-h"), Case("--help"), Case("--he"), Case("--bogus", "-h"), Case("--to", "@TO", "x", "-h"), Case("-h", "--to")]


@pytest.mark.parametrize("case", HELPS, ids=repr)
def test_help(stage, case):
    """Asked for anywhere, it names every option, and nothing is sent."""
    original, ours = stage.outcome("original", case), stage.outcome("ours", case)
    assert (ours.code, ours.received, ours.stderr) == (original.code, None, "")
    assert ours.code == 0 and "usage:" in ours.stdout.lower()
    for option in ("--to", "--body", "--socket", "--from", "--type", "--channel", "--config", "--json"):
        assert option in ours.stdout


def test_tmux_is_asked_only_within_tmux(stage):
    """Not outside of it, and not where --from says who sends; within, for the pane that this runs in."""
    log = stage.world.directory / "asked.log"
    env = {"FAKE_TMUX_LOG": log, "FAKE_SESSION": "s"}
    with stage.world.connect("asked"):
        for arguments, more, asked in [([], {}, False), (["--from", "x"], PANE, False), ([], PANE, True)]:
            assert stage.world.run(OURS + ["--to", "asked", "t", *arguments], env=dict(env, **more)).returncode == 0
            assert log.exists() == asked
    assert log.read_text().split()[0] == "display-message" and "%1" in log.read_text().split()


# ---- old and new together ------------------------------------------------------------------------------

def quickest_s(act):
    """The shortest of three times: a busy machine may slow down one."""
    times = []
    for _ in range(3):
        began = time.monotonic()
        act()
        times.append(time.monotonic() - began)
    return min(times)


def original_server(world, version):
    return world.serve(program=os.path.join(os.path.dirname(ORIGINALS[version]), "hermes-bus-server"))


@both
def test_on_the_original_bus(world, version):
    """It gives no receipts: what proves the way is the answer to a ping, and neither success nor failure needs the whole second that the original's sender waits."""
    original_server(world, version)
    lead = world.connect("lead")

    def send():
        done = world.run(OURS + ["--to", "lead", "--type", "ack", "hello"])
        assert (done.returncode, done.stdout, done.stderr) == (0, "OK: notified lead\n", "")
        got = lead.expect("message")
        assert (got["from"], got["body"]) == ("notify-hermes", {"text": "hello", "type": "ack"})
    assert quickest_s(send) < 0.9
    absent = world.run(OURS + ["--to", "leed", "x"])
    assert (absent.returncode, absent.stdout) == (1, "") and "'leed'" in absent.stderr and "'lead'" in absent.stderr
    everybody = world.run(OURS + ["--to", "", "all"])
    assert (everybody.returncode, everybody.stdout) == (0, "OK: notified \n")
    assert lead.expect("message")["body"] == {"text": "all"}
    told = json.loads(world.run(OURS + ["--to", "lead", "--json", "x"]).stdout)
    assert (told["ok"], told["status"]) == (True, "accepted"), "what the original did with it is not known"


@both
def test_the_original_in_front_of_ours(server, version):
    """Success without its second of waiting, failure, and a start of our bus are what scripts see of the original sender now."""
    lead = server.connect("lead")
    sender = [ORIGINALS[version], "-m", "hermes_notify.notify_hermes", "--to"]

    def send():
        done = server.world.run(sender + ["lead", "hello"])
        assert (done.returncode, done.stdout) == (0, "OK: notified lead\n")
        assert lead.expect("message")["body"] == {"text": "hello"}
    assert quickest_s(send) < 0.9
    assert server.world.run(sender + ["nobody", "hello"]).returncode == 1


# ---- no bus --------------------------------------------------------------------------------------------

def test_the_bus_is_started_where_none_runs(world):
    """Nobody can be connected to it yet, so the message is refused, and says so; to all, that is nobody, it is taken."""
    done = world.run(OURS + ["--to", "lead", "x"])
    assert (done.returncode, done.stdout) == (1, "") and "'lead' is not connected" in done.stderr
    assert procfs.executable(world.pid_in_file()) == os.path.realpath(BIN / "hermes-busd") or answers(world.socket_path)
    lead = world.connect("lead")
    assert world.run(OURS + ["--to", "lead", "x"]).returncode == 0
    assert lead.expect("message")["body"] == {"text": "x"}


def test_many_at_once_start_one_bus(world):
    """Ten senders find no bus at the same moment: one daemon, and each gets its answer from it."""
    senders = [world.spawn(OURS + ["--to", "", str(n)], output="sender-%d.out" % n) for n in range(10)]
    assert [s.wait(30) for s in senders] == [0] * 10, [world.output("sender-%d.out" % n) for n in range(10)]
    daemons = [pid for pid in world.processes() if "notify" not in procfs.executable(pid)]
    assert daemons == [world.pid_in_file()]


def test_a_dead_socket_is_no_bus(world):
    """What a crash left behind is replaced."""
    leave_dead_socket(world.socket_path)
    assert world.run(OURS + ["--to", "", "x"]).returncode == 0
    assert answers(world.socket_path)


def alone(world, name="alone"):
    """The program in a directory where there is no manager beside it."""
    directory = world.directory / name
    directory.mkdir()
    return [shutil.copy(OURS[0], directory / "notify-hermes")]


def with_manager(world, script):
    """The program with a manager of ours beside it, a shell script."""
    program = alone(world)
    manager = os.path.join(os.path.dirname(program[0]), "hermes-busd")
    with open(manager, "w") as file:
        file.write("#!/bin/sh\n" + script)
    os.chmod(manager, 0o755)
    return program


def failed(done):
    """The reason, of a program that did not do what it was asked."""
    assert done.returncode == 1 and done.stdout == "", (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("ERROR: ") and done.stderr.count("\n") == 1 and "panicked" not in done.stderr
    return done.stderr


def test_without_a_manager(world):
    """No bus and no hermes-busd, neither beside the program nor on PATH: both are said."""
    reason = failed(world.run(alone(world) + ["--to", "a", "x"], env={"PATH": "/nowhere"}))
    assert world.socket_path in reason and "hermes-busd" in reason and "PATH" in reason


def test_the_manager_on_path_is_found(world):
    """The program was copied somewhere else; PATH leads to the manager."""
    assert world.run(alone(world) + ["--to", "", "x"]).returncode == 0
    assert answers(world.socket_path)


def test_a_manager_that_fails(world):
    """What it printed is in the reason."""
    program = with_manager(world, "echo the disk is full >&2\nexit 3\n")
    reason = failed(world.run(program + ["--to", "a", "x"]))
    assert "the disk is full" in reason and "3" in reason and world.socket_path in reason


def test_a_manager_that_lies(world):
    """It says that it started a bus, but there is none: within the patience there is a reason."""
    program = with_manager(world, "exit 0\n")
    began = time.monotonic()
    assert world.socket_path in failed(world.run(program + ["--to", "a", "x"]))
    assert time.monotonic() - began < 10


def test_a_manager_whose_child_keeps_its_output_open(world):
    """Its end counts, not that of the pipe."""
    program = with_manager(world, "sleep 60 &\necho the disk is full\nexit 3\n")
    began = time.monotonic()
    assert "the disk is full" in failed(world.run(program + ["--to", "a", "x"], within_s=55))
    assert time.monotonic() - began < 20


def test_a_manager_that_hangs(world):
    """It is ended by force, and the program ends with a reason."""
    program = with_manager(world, "exec sleep 600\n")
    assert "did not end within" in failed(world.run(program + ["--to", "a", "x"], within_s=60))
    assert world.processes() == []


def test_a_manager_that_lies_about_in_the_directory_is_not_run(world):
    """Relative directories on PATH are passed over."""
    program = alone(world)
    trap = world.directory / "hermes-busd"
    trap.write_text("#!/bin/sh\ntouch '%s/trapped'\n" % world.directory)
    trap.chmod(0o755)
    for path in ("", ".", "/nowhere:", ":/nowhere"):
        assert "hermes-busd was not found" in failed(world.run(program + ["--to", "a", "x"], env={"PATH": path}))
    assert not (world.directory / "trapped").exists()


def test_a_root_that_cannot_be_used(world):
    """A file stands where the directory should be."""
    path = world.directory / "file"
    path.write_text("")
    assert str(path) in failed(world.run(OURS + ["--to", "a", "x"], env={"HERMES_BUS_ROOT": path}))


def test_a_socket_to_nowhere(world):
    """--socket names a bus of somebody else's making: it is not started, and neither is any other."""
    reason = failed(world.run(OURS + ["--to", "a", "--socket", world.directory / "no.sock", "x"]))
    assert str(world.directory / "no.sock") in reason
    assert world.processes() == [] and not os.path.exists(world.socket_path)


@pytest.mark.parametrize("path", ["/", "/etc/passwd", "/tmp/" + "x" * 200])
def test_a_socket_that_is_none(world, path):
    assert path in failed(world.run(OURS + ["--to", "a", "--socket", path, "x"]))
    assert world.processes() == []


# ---- a bus that is not well ----------------------------------------------------------------------------

class Impostor:
    """Listens where the bus should, and does with every connection what the test says."""

    def __init__(self, world, act):
        self._listener = listen_at(world.socket_path)
        self._connections = []
        self._thread = threading.Thread(target=self._serve, args=(act,), daemon=True)
        self._thread.start()

    def _serve(self, act):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            try:
                act(connection)
            except OSError:
                pass

    def end(self):
        # A thread in accept() is not woken by close() alone.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for connection in self._connections:
            connection.close()


@pytest.fixture
def impostor(world):
    impostors = []
    yield lambda act: impostors.append(Impostor(world, act))
    for one in impostors:
        one.end()


def test_a_bus_that_never_reads(world):
    """It accepts connections by its backlog only. Within the patience: a reason, and no OK."""
    with listen_at(world.socket_path):
        began = time.monotonic()
        reason = failed(world.run(OURS + ["--to", "a", "x"]))
        assert "did not answer" in reason and world.socket_path in reason
        assert time.monotonic() - began < 12


def test_a_bus_that_reads_and_never_answers(world, impostor):
    impostor(lambda connection: connection.recv(65536))
    began = time.monotonic()
    assert "did not answer" in failed(world.run(OURS + ["--to", "a", "x"]))
    assert time.monotonic() - began < 12


def test_a_bus_that_closes_without_an_answer(world, impostor):
    """The message may have arrived or not, so there is no OK."""
    impostor(lambda connection: (connection.recv(65536), connection.close()))
    reason = failed(world.run(OURS + ["--to", "a", "x"]))
    assert "closed the connection" in reason and world.socket_path in reason


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x02hi", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", encode([1]), encode({"type": "receipt", "status": "eaten"})])
def test_something_that_is_no_bus(world, impostor, answer):
    impostor(lambda connection: (connection.recv(65536), connection.sendall(answer)))
    assert world.socket_path in failed(world.run(OURS + ["--to", "a", "x"]))


def test_an_answer_cannot_steer_the_terminal(world, impostor):
    """Nor add lines to the reason."""
    evil = {"type": "error", "code": "endpoint_not_found\x1b]0;x\x07", "detail": "\x1b[2Jnot\nconnected\r\u202e"}
    impostor(lambda connection: (connection.recv(65536), connection.sendall(encode(evil))))
    reason = failed(world.run(OURS + ["--to", "a", "x"]))
    assert not any(c in reason for c in "\x1b\x07\r\u202e")


def test_a_name_cannot_steer_the_terminal(server):
    """Names of others are shown where an endpoint is unknown."""
    server.connect("lead\x1b[2J\nERROR: x")
    reason = failed(server.world.run(OURS + ["--to", "leadx", "x"]))
    assert "\x1b" not in reason


def test_a_bus_that_ends_during_the_send(world):
    """A large message to a bus that is killed half-way is not OK."""
    server = world.serve()
    server.process.send_signal(19)
    sender = subprocess.Popen(OURS + ["--to", "a", "-"], env=world._environment(None), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    world._children.append(sender)
    sender.stdin.write(b"x" * 5_000_000)
    sender.stdin.close()
    wait_until(lambda: procfs.alive(sender.pid) and os.path.exists("/proc/%d/fd" % sender.pid) and any("socket" in os.readlink("/proc/%d/fd/%s" % (sender.pid, fd)) for fd in os.listdir("/proc/%d/fd" % sender.pid)), "the sender to connect")
    server.stop(9)
    code = sender.wait(20)
    out, err = sender.stdout.read(), sender.stderr.read()
    assert (code, out) == (1, b"") and err.startswith(b"ERROR: "), err


# ---- names ---------------------------------------------------------------------------------------------

def test_an_unknown_endpoint_with_the_nearest_names(server):
    for name in ("lead-agent", "worker-alpha", "unrelated"):
        server.connect(name)
    reason = failed(server.world.run(OURS + ["--to", "laed-agent", "x"]))
    assert "'laed-agent'" in reason and "'lead-agent'" in reason and "unrelated" not in reason
    assert "No endpoint" not in reason


def test_a_receiver_that_comes_back_at_once(server):
    """Its name was there a moment ago: the message waits for it, and OK is said only when it is there again."""
    server.connect("worker").hang_up()
    wait_until(lambda: "worker" not in server.endpoints(), "the name to leave the list")
    sender = server.world.spawn(OURS + ["--to", "worker", "held"], output="held.out")
    wait_until(lambda: json.loads(server.world.busd("status", "--json").stdout)["server"]["counters"]["held"], "the message to be held")
    assert sender.poll() is None and server.world.output("held.out") == ""
    back = server.connect("worker")
    assert back.expect("message")["body"] == {"text": "held"}
    assert sender.wait(10) == 0 and server.world.output("held.out") == "OK: notified worker\n"


def test_a_receiver_that_does_not_come_back(server):
    """After about 0.7 s it is clear, and the message is not delivered later."""
    server.connect("worker").hang_up()
    wait_until(lambda: "worker" not in server.endpoints(), "the name to leave the list")
    began = time.monotonic()
    assert "'worker'" in failed(server.world.run(OURS + ["--to", "worker", "in vain"]))
    assert 0.4 < time.monotonic() - began < 5
    server.connect("worker").fence()


def test_nothing_is_registered(server):
    """The sender leaves no name behind, not even its own."""
    lead = server.connect("lead")
    for n in range(3):
        assert server.world.run(OURS + ["--to", "lead", "--from", "lead", str(n)]).returncode == 0
    assert server.endpoints() == {"lead": lead.session_id}


# ---- standard input ------------------------------------------------------------------------------------

def run_with_input(world, data, *arguments, within_s=60):
    done = subprocess.run(OURS + list(arguments), input=data, env=world._environment(None), cwd=world.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=within_s)
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


@pytest.mark.parametrize("data,expected", [
    (b"one line\n", "one line"), (b"one line", "one line"), (b"two\nlines\n\n", "two\nlines\n"), (b" spaces \t\n", " spaces \t"), (b"dos\r\n", "dos"), ("📬 ünï\n".encode(), "📬 ünï"),
    (b"nul \0 \x1b[31m", "nul \0 \x1b[31m"), (b"\n\n", "\n"), (b"-", "-"), (b"x" * 1_000_000 + b"\n", "x" * 1_000_000), (b'{"a": 1}', '{"a": 1}'),
], ids=["line", "without-end", "lines", "spaces", "dos", "unicode", "controls", "ends-only", "dash", "megabyte", "json"])
def test_text_from_standard_input(server, data, expected):
    """As it is, but for one line end at its end."""
    lead = server.connect("lead")
    done = run_with_input(server.world, data, "--to", "lead", "-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "OK: notified lead\n", "")
    assert lead.expect("message")["body"] == {"text": expected}


def test_standard_input_is_read_only_for_a_dash(server):
    """A terminal is never waited for otherwise: not for a text, not for a body, not without both."""
    server.connect("lead")
    reader, writer = os.pipe()
    try:
        for arguments, code in [(["x"], 0), (["--body", "{}"], 0), (["--body", "{}", "-"], 0), (["--body", "-"], 1), ([], 1)]:
            done = subprocess.run(OURS + ["--to", "lead", *arguments], stdin=reader, env=server.world._environment(None), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
            assert done.returncode == code, arguments
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("data", [b"", b"\n"], ids=["nothing", "an-end-of-line"])
def test_empty_standard_input(server, data):
    server.connect("lead")
    assert "standard input was empty" in failed(run_with_input(server.world, data, "--to", "lead", "-"))


def refused_input(done):
    assert (done.returncode, done.stdout) == (4, ""), (done.returncode, done.stderr)
    assert done.stderr.startswith("ERROR: standard input cannot be read") and done.stderr.count("\n") == 1
    return done.stderr


def test_standard_input_that_is_no_text(server):
    lead = server.connect("lead")
    assert "not text" in refused_input(run_with_input(server.world, b"ok \xff\xfe", "--to", "lead", "-"))
    lead.fence()


def test_standard_input_that_cannot_be_read(server):
    """A directory; and none at all."""
    lead = server.connect("lead")
    refused_input(server.world.run(["sh", "-c", "exec notify-hermes --to lead - < /"]))
    closed = server.world.run(["sh", "-c", 'exec notify-hermes --to lead - <&-'])
    assert closed.returncode in (1, 4) and closed.stdout == "" and closed.stderr.startswith("ERROR: ")
    lead.fence()


@pytest.mark.parametrize("size", [FRAME_BYTES_MAX, FRAME_BYTES_MAX - 50, 3 * FRAME_BYTES_MAX], ids=["limit", "just-under", "three-times"])
def test_standard_input_that_is_too_large(server, size):
    """A message over the limit of a frame is refused before it is sent, with the reason, and without reading for ever."""
    lead = server.connect("lead")
    reason = failed(run_with_input(server.world, b"x" * size, "--to", "lead", "-"))
    assert str(FRAME_BYTES_MAX) in reason or "10 MiB" in reason or "large" in reason
    lead.fence()


def test_an_endless_input(server):
    """It is not read to its end."""
    server.connect("lead")
    done = server.world.run(["sh", "-c", "exec notify-hermes --to lead - < /dev/zero"])
    assert done.returncode == 1 and done.stderr.startswith("ERROR: ")


def test_nine_megabytes_go_through(server):
    lead = server.connect("lead")
    assert run_with_input(server.world, b"y" * 9_000_000, "--to", "lead", "-").returncode == 0
    assert len(lead.expect("message")["body"]["text"]) == 9_000_000


# ---- --json --------------------------------------------------------------------------------------------

def outcome_of(done, code):
    """The one object on standard output."""
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stdout.count("\n") == 1
    told = json.loads(done.stdout)
    assert told["ok"] is (code == 0)
    if code:
        assert done.stderr == "ERROR: %s\n" % told["detail"] and told["error"]
    return told


def test_json_of_success(server):
    lead = server.connect("lead")
    told = outcome_of(server.world.run(OURS + ["--json", "--to", "lead", "x"]), 0)
    assert told == {"ok": True, "to": "lead", "id": lead.expect("message")["id"], "status": "delivered"}
    told = outcome_of(server.world.run(OURS + ["--to", "", "x", "--json"]), 0)
    assert (told["to"], told["endpoints"]) == ("", 1)


@pytest.mark.parametrize("arguments,code,error", [
    (["--to", "lead"], 1, "no_message"), (["--to", "lead", "--body", "{nope"], 1, "invalid_body"), (["--to", "lead", "--body", "[1]", "--type", "t"], 1, "invalid_body"),
    (["--to", "leed", "x"], 1, "endpoint_not_found"), (["--to", "lead", "-"], 1, "no_message"), (["--to", "lead", "x", "--socket", "/nowhere/s"], 1, "no_bus"),
    (["--to", "lead", "x", "--config", "odd.yaml"], 1, "invalid_rules"), (["--to", "lead", "x", "--socket", "/tmp/" + "x" * 200], 1, "cannot_connect"),
])
def test_json_of_failure(server, arguments, code, error):
    server.connect("lead")
    (server.world.directory / "odd.yaml").write_text("[1]")
    told = outcome_of(server.world.run(OURS + ["--json", *arguments]), code)
    assert told["error"] == error
    assert told.get("suggestions") == (["lead"] if error == "endpoint_not_found" else None)


def test_json_of_a_bus_that_is_not_well(world, impostor):
    impostor(lambda connection: (connection.recv(65536), connection.close()))
    assert outcome_of(world.run(OURS + ["--json", "--to", "a", "x"]), 1)["error"] == "closed"


def test_json_without_a_manager(world):
    assert outcome_of(world.run(alone(world) + ["--json", "--to", "a", "x"], env={"PATH": "/nowhere"}), 1)["error"] == "start_failed"


def test_json_of_input_that_cannot_be_read(server):
    done = run_with_input(server.world, b"\xff", "--json", "--to", "lead", "-")
    assert outcome_of(done, 4)["error"] == "unreadable_input"


# ---- pipes ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-", "> /dev/full", "| true"])
def test_a_message_that_was_sent_stays_sent(server, closing):
    """Whether somebody reads about it or not, nothing crashes, and the exit code tells."""
    lead = server.connect("lead")
    done = server.world.run(["bash", "-c", 'set -o pipefail; notify-hermes --to lead x %s; echo "code $?"' % closing])
    assert "code 0" in done.stdout and "panicked" not in done.stderr
    assert lead.expect("message")["body"] == {"text": "x"}
    done = server.world.run(["bash", "-c", 'set -o pipefail; notify-hermes --to nobody x %s; echo "code $?"' % closing])
    assert "code 1" in done.stdout and "panicked" not in done.stderr
