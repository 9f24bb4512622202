"""`hermes-bus`: send, listen, request, list, ping, version, completions, man."""
import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

import procfs
from wire import FRAME_BYTES_MAX, Connection, encode
from world import BIN, ORIGINALS, Server, answers, listen_at, wait_until

PROGRAM = str(BIN / "hermes-bus")
PROGRAMS = ("hermes-bus", "hermes-busd", "hermes-bus-server", "notify-hermes", "notify-agent")
CSI = "\x1b["
both = pytest.mark.parametrize("version", sorted(ORIGINALS))


def bus(world, *arguments, data=None, env=None, within_s=30):
    """Runs it to its end."""
    how = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    done = subprocess.run([PROGRAM] + [str(a) for a in arguments], env=world._environment(env), cwd=world.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=within_s, **how)
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    assert "panicked" not in done.stderr, done.stderr
    return done


def done_well(done):
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stderr)
    return done.stdout


def reason(done, code=1):
    """What was said about a failure, in one line; nothing on standard output."""
    assert (done.returncode, done.stdout) == (code, ""), (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("hermes-bus: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def reason_json(done, code=1):
    """The same, as the one object on standard output; people hear the same on standard error."""
    assert done.returncode == code and done.stdout.count("\n") == 1, (done.returncode, done.stdout, done.stderr)
    told = json.loads(done.stdout)
    assert told["ok"] is False and told["error"]
    assert done.stderr == "hermes-bus: %s\n" % told["detail"]
    return told


class Ear:
    """A listener that runs. Its name stands in the list before this returns."""

    number = 0

    def __init__(self, world, *arguments, env=None, before=()):
        Ear.number += 1
        self.world = world
        self.out_path, self.err_path = world.directory / ("ear-%d.out" % Ear.number), world.directory / ("ear-%d.err" % Ear.number)
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen([*before, PROGRAM, "listen", *[str(a) for a in arguments]], env=world._environment(env), cwd=world.directory, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        world._children.append(self.process)
        wait_until(lambda: "listening as " in self.err() or self.process.poll() is not None, "the listener")
        assert "listening as " in self.err(), self.err()

    def out(self):
        return self.out_path.read_text(encoding="utf-8")

    def err(self):
        return self.err_path.read_text(encoding="utf-8", errors="replace")

    def notes(self):
        """What it said after its greeting."""
        return self.err().splitlines()[1:]

    def lines(self, count):
        wait_until(lambda: self.out().count("\n") >= count, "%d lines of the listener" % count)
        return self.out().splitlines()

    def wait(self, code=0, within_s=20):
        assert self.process.wait(within_s) == code, (self.process.returncode, self.err())
        return self.out()

    def end(self):
        self.process.terminate()
        self.process.wait(10)


# ---- send ----------------------------------------------------------------------------------------------

def test_send(server):
    """The sentence says how far the message has come, and which one it is."""
    lead = server.connect("lead")
    said = done_well(bus(server.world, "send", "lead", "hello", "--type", "ack", "--channel", "a:b", "--from", "me", "--reply-to", "r", "--id", "i-1"))
    assert said == "handed over to lead (id i-1)\n"
    got = lead.expect("message")
    assert (got["from"], got["body"], got["reply_to"], got["id"]) == ("me", {"text": "hello", "type": "ack", "channel": "a:b"}, "r", "i-1")


def test_send_json(server):
    lead = server.connect("lead")
    told = json.loads(done_well(bus(server.world, "send", "lead", "--body", '{"n": 1.0}', "--json")))
    got = lead.expect("message")
    assert told == {"ok": True, "to": "lead", "id": got["id"], "status": "delivered"}
    assert (got["body"], got["from"]) == ({"n": 1.0}, "hermes-bus")


def test_options_that_are_set_to_nothing_count_as_not_set(server):
    lead = server.connect("lead")
    done_well(bus(server.world, "send", "lead", "x", "--from", "", "--type", "", "--channel=", "--id", "", "--reply-to", ""))
    got = lead.expect("message")
    assert (got["from"], got["body"], len(got["id"])) == ("hermes-bus", {"text": "x"}, 36) and "reply_to" not in got


def test_send_to_all(server):
    """The number of endpoints is said, also where it is none."""
    assert done_well(bus(server.world, "send", "", "x")).startswith("accepted for 0 endpoints (id ")
    one = server.connect("one")
    assert done_well(bus(server.world, "send", "", "x")).startswith("handed over to 1 endpoint (id ")
    two = server.connect("two")
    assert json.loads(done_well(bus(server.world, "send", "", "x", "--json")))["endpoints"] == 2
    assert [c["body"]["text"] for c in (one.recv(), one.recv(), two.recv())] == ["x", "x", "x"]


def test_send_from_standard_input(server):
    """Text, or a whole body."""
    lead = server.connect("lead")
    done_well(bus(server.world, "send", "lead", "-", data="two\nlines 📬\n".encode()))
    done_well(bus(server.world, "send", "lead", "--body", "-", data=b' {"k": [1, 2.50]}\n'))
    assert lead.expect("message")["body"] == {"text": "two\nlines 📬"}
    assert b"2.50" in lead.recv_bytes()
    assert "JSON" in reason(bus(server.world, "send", "lead", "--body", "-", data=b"nope"))
    assert "empty" in reason(bus(server.world, "send", "lead", "-", data=b""))
    assert "not text" in reason(bus(server.world, "send", "lead", "-", data=b"\xff"), code=4)
    assert reason_json(bus(server.world, "send", "lead", "-", "--json", data=b"\xff"), code=4)["error"] == "unreadable_input"
    lead.fence()


def test_send_large(server):
    """Nine megabytes go through; what is over the limit is refused before it is sent."""
    lead = server.connect("lead")
    done_well(bus(server.world, "send", "lead", "-", data=b"y" * 9_000_000))
    assert len(lead.expect("message")["body"]["text"]) == 9_000_000
    reason(bus(server.world, "send", "lead", "-", data=b"y" * FRAME_BYTES_MAX))
    assert reason_json(bus(server.world, "send", "lead", "--body", "-", "--json", data=b'"%s"' % (b"y" * FRAME_BYTES_MAX)))["error"]
    lead.fence()


def test_send_to_nobody(server):
    """With the names that may have been meant, else with those that there are."""
    assert "No endpoint is connected" in reason(bus(server.world, "send", "lead", "x"))
    for name in ["lead-agent"] + ["w%02d" % n for n in range(12)]:
        server.connect(name)
    assert "Did you mean 'lead-agent'?" in reason(bus(server.world, "send", "leadagent", "x"))
    said = reason(bus(server.world, "send", "zzzzzzzz", "x"))
    assert "'w03'" in said and "and 3 more" in said
    assert reason_json(bus(server.world, "send", "laed-agent", "x", "--json"))["suggestions"] == ["lead-agent"]


@pytest.mark.parametrize("arguments", [
    ["send"], ["send", "a"], ["send", "a", "b", "c"], ["send", "a", "-x"], ["send", "a", "b", "--body", "{}"], ["send", "a", "b", "--bogus"], ["send", "a", "b", "--root", "/x", "--socket", "/y"],
    [], ["bogus"], ["listen", "a", "b"], ["listen", "--count", "0"], ["listen", "--count", "x"], ["listen", "--timeout", "-1"], ["listen", "--timeout", "soon"], ["listen", "--timeout", "NaN"],
    ["request", "a"], ["request", "a", "b", "--timeout", ""], ["list", "x"], ["ping", "--count", "0"], ["version", "x"], ["completions"], ["completions", "csh"], ["man", "a", "--dir", "b"],
    ["send", "a", "b", "-j"], ["--color", "sometimes", "list"], ["send", b"\xff", "x"], ["list", "--count", "1"],
], ids=repr)
def test_wrong_usage(world, arguments):
    """2, with words, and without a bus being started."""
    done = subprocess.run([PROGRAM, *arguments], env=world._environment(None), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
    assert (done.returncode, done.stdout) == (2, b"") and len(done.stderr) > 20
    assert not os.path.exists(world.socket_path)


def test_a_body_that_cannot_be_sent(server):
    lead = server.connect("lead")
    for arguments in (["--body", "{nope"], ["--body", "[1]", "--type", "t"], ["--body", "'"], ["--body", '{"a": 01}']):
        assert reason_json(bus(server.world, "send", "lead", "--json", *arguments))["error"] == "invalid_body"
    lead.fence()


def test_send_starts_a_bus_unless_told_otherwise(world):
    """--no-start, and a --socket of somebody else's making: none is started, and the reason says how one would be."""
    said = reason(bus(world, "send", "a", "x", "--no-start"))
    assert world.socket_path in said and "'hermes-busd start'" in said
    other = world.directory / "other"
    said = reason(bus(world, "send", "a", "x", "--no-start", "--root", other))
    assert "'hermes-busd start --root %s'" % other in said
    said = reason(bus(world, "send", "a", "x", "--socket", world.directory / "no.sock"))
    assert "no.sock" in said and "hermes-busd start" not in said, "that would start another bus"
    assert world.processes() == []
    assert "'a' is not connected" in reason(bus(world, "send", "a", "x"))
    assert answers(world.socket_path)
    bus(world, "send", "a", "x", "--root", other)
    assert answers(str(other / "hermes-bus.sock"))


def test_the_advice_is_right(world):
    """The command that is recommended does help."""
    root = world.directory / "elsewhere"
    said = reason(bus(world, "list", "--root", root))
    command = re.search(r"'(hermes-busd start[^']*)'", said).group(1)
    assert world.run(["sh", "-c", command]).returncode == 0
    assert bus(world, "list", "--root", root).returncode == 0


# ---- listen --------------------------------------------------------------------------------------------

def test_listen(server):
    """A line for each message: time, sender, type, text; what has no text is shown as its JSON."""
    ear = Ear(server.world, "lead", "--count", 4, env={"TZ": "UTC"})
    assert ear.err() == "listening as lead on %s\n" % server.world.socket_path
    sender = server.connect("worker")
    sender.message("lead", {"text": "done", "type": "task_done"}, ts=3661.5)
    sender.message("lead", {"text": "two\nlines"}, ts=0)
    sender.message("lead", {"n": [1, 2.50]}, sender="other")
    sender.message("", "a string")
    lines = ear.wait().splitlines()
    assert lines[0] == "01:01:01  worker  task_done: done"
    assert lines[1:3] == ["00:00:00  worker  two", "          lines"]
    assert re.fullmatch(r'\d\d:\d\d:\d\d  other  \{"n": \[1, 2.50?\]\}', lines[3])
    assert lines[4].endswith('  worker  "a string"') and len(lines) == 5
    assert ear.notes() == []


def test_listen_json(server):
    """One message a line, as it came: numbers and key order untouched, line ends between values made spaces."""
    ear = Ear(server.world, "lead", "--json", "--count", 2)
    sender = server.connect("worker")
    sender.send(b'{"type": "message",\n "to": "lead",\r\n\t"body": {"z": 1.50,\n"a": 123456789012345678901234567890, "text": "x\\ny\\u00e9"}}')
    sender.message("lead", "second")
    lines = ear.wait().splitlines()
    assert len(lines) == 2 and json.loads(lines[1])["body"] == "second"
    assert '"z": 1.50, "a": 123456789012345678901234567890, "text": "x\\ny\\u00e9"' in lines[0]
    assert json.loads(lines[0])["from"] == "worker"


@pytest.mark.parametrize("arguments", [[], [""]], ids=["none", "empty"])
def test_listen_without_a_name(server, arguments):
    """It is called after its process, so two never meet."""
    ears = [Ear(server.world, *arguments) for _ in range(2)]
    assert set(server.endpoints()) == {"listen-%d" % e.process.pid for e in ears}


def test_listen_prints_at_once_into_a_pipe(server):
    """Nothing is held back until a buffer is full."""
    ear = Ear(server.world, "lead")
    bus(server.world, "send", "lead", "one")
    assert "one" in ear.lines(1)[0]
    assert ear.process.poll() is None


def test_listen_ends_in_time(server):
    """--timeout alone is how long to listen; with --count it is a deadline."""
    began = time.monotonic()
    Ear(server.world, "a", "--timeout", "300ms").wait(0)
    ear = Ear(server.world, "b", "--timeout", "0.3", "--count", 2)
    bus(server.world, "send", "b", "x")
    ear.wait(3)
    assert ear.notes() == ["hermes-bus: time ran out after 1 of 2 messages"]
    assert time.monotonic() - began > 0.6
    assert server.endpoints() == {}


@pytest.mark.parametrize("time_text", ["1.8e19", "1e18", "500000000000y", "0.2"])
def test_listen_for_any_time(server, time_text):
    """Also for longer than clocks can tell."""
    ear = Ear(server.world, "a", "--timeout", time_text, "--count", 1)
    if time_text == "0.2":
        ear.wait(3)
    else:
        server.connect("b").message("a", "x")
        assert '"x"' in ear.wait()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_listen_is_gone_after_a_signal(server, how):
    ear = Ear(server.world, "a")
    ear.process.send_signal(how)
    ear.process.wait(10)
    wait_until(lambda: server.endpoints() == {}, "the name to leave the list")
    assert "panicked" not in ear.err()


def test_listen_survives_a_restart_of_the_bus(world):
    """It comes back by itself, says so, and prints what is sent then."""
    world.start_daemon()
    ear = Ear(world, "lead")
    bus(world, "send", "lead", "before")
    assert world.busd("restart").returncode == 0
    wait_until(lambda: "listening again" in ear.err(), "the listener to come back")
    done_well(bus(world, "send", "lead", "after"))
    lines = ear.lines(2)
    assert "before" in lines[0] and "after" in lines[1]
    assert len(ear.notes()) == 2 and "coming back" in ear.notes()[0]


def test_listen_survives_a_killed_bus(world):
    """Nobody else starts a new one: the listener does."""
    pid = world.start_daemon()
    ear = Ear(world, "lead")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "listening again" in ear.err(), "the listener to come back", 20)
    assert world.pid_in_file() != pid
    done_well(bus(world, "send", "lead", "after"))
    assert "after" in ear.lines(1)[0]


def test_listen_does_not_start_a_bus_that_was_stopped(world):
    """Who stops the bus wants it stopped. Once it is started again, the listener is there again."""
    world.start_daemon()
    ear = Ear(world, "lead")
    assert world.busd("stop").returncode == 0
    wait_until(lambda: "coming back" in ear.err(), "the listener to notice")
    time.sleep(1.5)  # for what must not happen
    assert world.busd("status", "--json").stdout and not answers(world.socket_path)
    world.start_daemon()
    wait_until(lambda: "lead" in world.endpoints(), "the listener to come back", 20)
    assert ear.process.poll() is None


def test_listen_on_a_name_that_is_taken(server):
    """Refused, with what can be done; whoever has the name keeps it."""
    lead = server.connect("lead")
    said = reason(bus(server.world, "listen", "lead"))
    assert "'lead'" in said and "--replace" in said and server.world.socket_path in said
    assert reason_json(bus(server.world, "listen", "lead", "--json"))["error"] == "name_taken"
    lead.fence()
    assert server.endpoints() == {"lead": lead.session_id}


def test_listen_replaces(server):
    """With --replace the name is taken, and the one that loses it ends with 5 and does not come back."""
    first = Ear(server.world, "lead")
    second = Ear(server.world, "lead", "--replace")
    first.wait(5)
    assert first.notes()[-1] == "hermes-bus: another session has taken the name ('lead')"
    done_well(bus(server.world, "send", "lead", "x"))
    assert "x" in second.lines(1)[0] and first.out() == ""


def test_the_loser_says_so_in_json(server):
    first = Ear(server.world, "lead", "--json")
    second = Ear(server.world, "lead", "--replace")
    told = json.loads(first.wait(5))
    assert (told["ok"], told["error"]) == (False, "replaced")
    assert second.process.poll() is None


def test_two_listeners_of_one_name_never_fight(server):
    """Started at the same moment: one of them has the name in the end, the other has ended, and the bus has seen no more than a few sessions."""
    for _ in range(5):
        pair = [server.world.spawn([PROGRAM, "listen", "lead"], output="pair.out") for _ in range(2)]
        wait_until(lambda: any(p.poll() is not None for p in pair), "one of them to give way")
        loser = next(p for p in pair if p.poll() is not None)
        assert loser.returncode in (1, 5)
        winner = next(p for p in pair if p is not loser)
        done_well(bus(server.world, "send", "lead", "x"))
        assert winner.poll() is None
        winner.terminate()
        winner.wait(10)
        wait_until(lambda: server.endpoints() == {}, "the name to be free")


def test_what_was_held_for_a_name_is_heard(server):
    """A listener that ends and is started anew within the linger misses nothing."""
    Ear(server.world, "lead", "--timeout", "0.1").wait()
    sender = server.connect("sender")
    sender.message("lead", "meanwhile")
    sender.fence()
    assert '"meanwhile"' in Ear(server.world, "lead", "--count", 1).wait()


def test_a_slow_reader_of_a_listener_gets_everything(server):
    """What is printed into a pipe that nobody reads for a while arrives in the end, in order."""
    process = subprocess.Popen([PROGRAM, "listen", "lead", "--json", "--count", "400"], env=server.world._environment(None), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    server.world._children.append(process)
    assert b"listening as" in process.stderr.readline()
    sender = server.connect("sender")
    for n in range(400):
        sender.message("lead", {"n": n, "bulk": "x" * 1000})
    sender.fence()
    out, _ = process.communicate(timeout=30)
    assert [json.loads(line)["body"]["n"] for line in out.splitlines()] == list(range(400))


def test_a_listener_that_cannot_print_still_lives(server):
    """Nobody reads what it prints: its session goes on all the same, and takes from the bus what there is."""
    process = subprocess.Popen([PROGRAM, "listen", "lead"], env=server.world._environment(None), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    server.world._children.append(process)
    assert b"listening as" in process.stderr.readline()
    sender = server.connect("sender")
    for n in range(200):
        sender.message("lead", {"text": "x" * 10_000})
    sender.fence()

    def all_taken():
        lead = json.loads(bus(server.world, "list", "--json").stdout)["endpoints"][0]
        return (lead["received"]["messages"], lead["pending"]["messages"]) == (200, 0)
    wait_until(all_taken, "the session to take all messages")


# ---- listen --exec -------------------------------------------------------------------------------------

def test_exec(server):
    """A shell command for each message, one after the other: the message on standard input, its parts in the environment."""
    show = 'printf "%s|%s|%s|%s|%s|%s\\n" "$FROM" "$TYPE" "$TEXT" "$CHANNEL" "$ID" "$TS"; printf "%s\\n" "$MESSAGE"; cat'
    ear = Ear(server.world, "lead", "--count", 2, "--exec", show, env={"TYPE": "inherited", "CHANNEL": "inherited"})
    sender = server.connect("worker")
    sender.message("lead", {"text": "a \"b\" $HOME `id`\nc", "type": "t", "channel": "x:y"}, id="i", ts=1.5)
    sender.message("lead", [1])
    lines = ear.wait().splitlines()
    assert lines[0] == 'worker|t|a "b" $HOME `id`' and lines[1] == "c|x:y|i|1.5"
    assert lines[2] == lines[3] and json.loads(lines[2])["body"]["type"] == "t"
    assert lines[4].startswith("worker||||"), "what the message does not have is not set, not even from outside"
    assert json.loads(lines[5])["body"] == [1]


def test_exec_runs_one_after_the_other(server):
    ear = Ear(server.world, "lead", "--count", 5, "--exec", 'echo "begin $TEXT"; sleep 0.05; echo "end $TEXT"')
    sender = server.connect("worker")
    for n in range(5):
        sender.message("lead", {"text": str(n)})
    assert ear.wait().split("\n")[:-1] == [w + str(n) for n in range(5) for w in ("begin ", "end ")]


def test_exec_that_fails(server):
    """The next message is still worked on, and the exit code tells at the end."""
    ear = Ear(server.world, "lead", "--count", 3, "--exec", '[ "$TEXT" != bad ] || exit 7; echo "$TEXT"')
    sender = server.connect("worker")
    for word in ("one", "bad", "two"):
        sender.message("lead", {"text": word})
    assert ear.wait(6) == "one\ntwo\n"
    assert len(ear.notes()) == 1 and "7" in ear.notes()[0]
    for command in ("kill -9 $$", "no-such-program-here", "syntax error ("):
        ear = Ear(server.world, "lead", "--count", 1, "--exec", command)
        sender.message("lead", "x")
        ear.wait(6)


def test_exec_that_fails_before_the_time_is_over(server):
    ear = Ear(server.world, "lead", "--timeout", "1", "--exec", "exit 1")
    server.connect("worker").message("lead", "x")
    ear.wait(6)


def test_exec_with_large_messages(server):
    """What does not fit into an environment is on standard input all the same; a command that does not read it does no harm."""
    ear = Ear(server.world, "lead", "--count", 3, "--exec", 'echo "${#TEXT} ${#MESSAGE} $(head -c 9999999 | wc -c)"')
    sender = server.connect("worker")
    for size in (10, 200_000, 5_000_000):
        sender.message("lead", {"text": "x" * size})
    sizes = [[int(n) for n in line.split()] for line in ear.wait().splitlines()]
    assert sizes[0][0] == 10 and sizes[1][:2] == [0, 0] and sizes[2][:2] == [0, 0]
    assert [s[2] > size for s, size in zip(sizes, (10, 200_000, 5_000_000))] == [True] * 3
    ear = Ear(server.world, "lead", "--count", 1, "--exec", "exec true")
    sender.message("lead", {"text": "x" * 5_000_000})
    ear.wait(0)


def test_exec_with_odd_texts(server):
    """NUL cannot stand in an environment; nothing in a message runs as a command."""
    ear = Ear(server.world, "lead", "--count", 2, "--exec", 'echo "${TEXT-unset}|$TYPE|$FROM"')
    sender = server.connect("worker")
    sender.send(b'{"type": "message", "to": "lead", "from": "$(touch pwned)", "body": {"text": "a\\u0000b", "type": "`touch pwned`; touch pwned"}}')
    sender.send(b'{"type": "message", "to": "lead", "body": {"text": "\\ud800", "type": ""}}')
    lines = ear.wait().splitlines()
    assert lines[0] == "unset|`touch pwned`; touch pwned|$(touch pwned)"
    assert not (server.world.directory / "pwned").exists()


def test_exec_keeps_the_session_alive(server):
    """While a command runs, the name stays registered."""
    ear = Ear(server.world, "lead", "--count", 1, "--exec", "read -r x; sleep 1; echo slept")
    sender = server.connect("worker")
    sender.message("lead", "x")
    assert "lead" in sender.endpoints()
    assert ear.wait() == "slept\n"


# ---- request -------------------------------------------------------------------------------------------

@contextlib.contextmanager
def answering(server, name, answer):
    """An endpoint that answers every message by a function of it."""
    connection = server.connect(name)

    def serve():
        with contextlib.suppress(Exception):
            while True:
                asked = connection.recv(30)
                for frame in answer(asked):
                    connection.send(frame)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield
    connection.socket.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def reply(asked, body, **keys):
    return dict({"type": "message", "to": asked["from"], "reply_to": asked["id"], "body": body}, **keys)


def test_request(server):
    """The text of the reply, or its body where it has none; with --json the whole message."""
    with answering(server, "service", lambda asked: [reply(asked, {"text": "you said " + asked["body"]["text"]})]):
        assert done_well(bus(server.world, "request", "service", "hello")) == "you said hello\n"
        told = json.loads(done_well(bus(server.world, "request", "service", "hello", "--json", "--id", "q")))
        assert (told["reply_to"], told["body"]["text"], told["from"]) == ("q", "you said hello", "service")
    with answering(server, "other", lambda asked: [reply(asked, {"n": [1, 2]})]):
        assert json.loads(done_well(bus(server.world, "request", "other", "--body", "{}"))) == {"n": [1, 2]}
    assert server.endpoints() == {}


def test_listen_ends_with_its_reader(server):
    """Not only at the next message, which would then be handed over to nobody."""
    done = subprocess.Popen(["bash", "-c", "hermes-bus listen ear | head -1"], env=server.world._environment(None), stdout=subprocess.PIPE, text=True)
    server.world._children.append(done)
    wait_until(lambda: "ear" in server.endpoints(), "the listener")
    with server.connect() as sender:
        sender.message("ear", {"text": "only one"})
        assert "only one" in done.communicate(timeout=10)[0]
    assert done.returncode == 0
    wait_until(lambda: "ear" not in server.endpoints(), "the listener to be gone")


def test_request_waits_for_its_own_reply(server):
    """Other messages, replies to others among them, are not it; that they came is said."""
    def answer(asked):
        return [reply(asked, "no", reply_to="another"), {"type": "message", "to": asked["from"], "body": "no"}, reply(asked, {"text": "yes"})]
    with answering(server, "service", answer):
        done = bus(server.world, "request", "service", "-", "--from", "asker", data=b"question")
    assert (done.returncode, done.stdout) == (0, "yes\n")
    assert done.stderr == "hermes-bus: 2 more came for 'asker' meanwhile and were not read\n"


def test_request_without_a_reply(server):
    """3, when the time is over, and not long after."""
    server.connect("service")
    began = time.monotonic()
    assert "'service'" in reason(bus(server.world, "request", "service", "x", "--timeout", "300ms"), code=3)
    assert 0.3 <= time.monotonic() - began < 5
    assert reason_json(bus(server.world, "request", "service", "x", "--timeout", "0.1", "--json"), code=3)["error"] == "no_reply"


def test_request_to_nobody(server):
    """No waiting for the time to be over."""
    server.connect("service")
    began = time.monotonic()
    assert "'service'" in reason(bus(server.world, "request", "servcie", "x", "--timeout", "20"))
    assert time.monotonic() - began < 5


def test_request_from_a_name_that_is_taken(server):
    asker = server.connect("asker")
    server.connect("service")
    assert "--from" in reason(bus(server.world, "request", "service", "x", "--from", "asker"))
    asker.fence()


# ---- list, ping, version -------------------------------------------------------------------------------

def test_list(server):
    lead = server.connect("lead")
    server.connect("worker").message("lead", "x")
    lead.expect("message")
    lines = done_well(bus(server.world, "list")).splitlines()
    assert lines[0].split() == ["endpoint", "pid", "sent", "received", "queued", "dropped"]
    assert lines[1].split() == ["lead", str(os.getpid()), "0", "1", "0", "0"] and lines[2].split() == ["worker", str(os.getpid()), "1", "0", "0", "0"]
    told = json.loads(done_well(bus(server.world, "list", "--json")))
    assert [e["endpoint"] for e in told["endpoints"]] == ["lead", "worker"] and told["endpoints"][0]["session_id"] == lead.session_id
    assert told["truncated"] is False and told["server"]["server"].startswith("hermes-bus/")


def test_list_of_nobody(server):
    assert server.world.socket_path in done_well(bus(server.world, "list"))
    assert json.loads(done_well(bus(server.world, "list", "--json")))["endpoints"] == []


def test_list_of_many(server):
    """A thousand, in order, each on its line."""
    names = ["name-%04d" % n for n in range(1000)]
    for name in names:
        server.connect(name)
    lines = done_well(bus(server.world, "list")).splitlines()
    assert [line.split()[0] for line in lines[1:]] == names


@both
def test_looking_at_the_original_bus(world, version):
    """It says less: names and sessions, no counts and no version."""
    world.serve(program=os.path.join(os.path.dirname(ORIGINALS[version]), "hermes-bus-server"))
    lead = world.connect("lead")
    assert done_well(bus(world, "list")) == "lead      session %s\n" % lead.session_id
    assert json.loads(done_well(bus(world, "list", "--json")))["endpoints"] == [{"endpoint": "lead", "session_id": lead.session_id}]
    assert "does not say its version" in done_well(bus(world, "version"))
    assert json.loads(done_well(bus(world, "version", "--json")))["bus"] is None
    assert "answers in" in done_well(bus(world, "ping"))
    assert done_well(bus(world, "send", "lead", "hi")).startswith("accepted for lead (id ")
    assert lead.expect("message")["body"] == {"text": "hi"}
    assert "'lead'" in reason(bus(world, "send", "leed", "hi"))


@both
def test_listening_and_asking_on_the_original_bus(world, version):
    world.serve(program=os.path.join(os.path.dirname(ORIGINALS[version]), "hermes-bus-server"))
    ear = Ear(world, "lead", "--count", 1)
    done_well(bus(world, "send", "lead", "hi"))
    assert ear.wait().endswith("  hermes-bus  hi\n")
    server = type("Any", (), {"connect": staticmethod(world.connect)})
    with answering(server, "service", lambda asked: [reply(asked, {"text": "yes"})]):
        assert done_well(bus(world, "request", "service", "x")) == "yes\n"


def test_ping(server):
    assert re.fullmatch(r"%s answers in \d+\.\d{3} ms\n" % re.escape(server.world.socket_path), done_well(bus(server.world, "ping")))
    told = [json.loads(line) for line in done_well(bus(server.world, "ping", "--json", "--count", "3")).splitlines()]
    assert len(told) == 3 and all(t["ok"] is True and 0 < t["ms"] < 5000 for t in told)


@pytest.mark.parametrize("command", ["ping", "list"])
def test_who_only_looks_starts_nothing(world, command):
    said = reason(bus(world, command))
    assert world.socket_path in said and "hermes-busd start" in said
    assert reason_json(bus(world, command, "--json"))["error"] == "no_bus"
    assert world.processes() == [] and not os.path.exists(world.socket_path)


def test_version(server, world):
    """Of the program, and of the bus that runs."""
    said = done_well(bus(server.world, "version")).splitlines()
    number = subprocess.run([PROGRAM, "--version"], stdout=subprocess.PIPE).stdout.decode().split()[1]
    assert said == ["hermes-bus " + number, "%s runs hermes-bus/%s" % (server.world.socket_path, number)]
    told = json.loads(done_well(bus(server.world, "version", "--json")))
    assert told == {"version": number, "running": True, "bus": "hermes-bus/" + number, "socket": server.world.socket_path}


def test_version_without_a_bus(world):
    """A program always knows its own version."""
    assert "no bus listens on " + world.socket_path in done_well(bus(world, "version"))
    assert json.loads(done_well(bus(world, "version", "--json")))["running"] is False
    assert world.processes() == []


# ---- a bus that is not well ----------------------------------------------------------------------------

@pytest.mark.parametrize("arguments", [["send", "a", "x"], ["listen", "a"], ["request", "a", "x"], ["list"], ["ping"], ["version"]], ids=lambda a: a[0])
def test_a_bus_that_never_answers(world, arguments):
    """Within the patience there is a reason that names the socket, and what to do."""
    with listen_at(world.socket_path):
        began = time.monotonic()
        said = reason(bus(world, *arguments))
        assert "did not answer" in said and world.socket_path in said
        assert time.monotonic() - began < 12


@pytest.mark.parametrize("arguments", [["send", "a", "x"], ["listen", "a"], ["request", "a", "x"], ["list"], ["ping"], ["version"]], ids=lambda a: a[0])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x02hi", encode({"type": "error", "code": "x", "detail": "\x1b[2J\nno"})], ids=["end", "http", "no-json", "error"])
def test_something_that_is_no_bus(world, arguments, answer):
    listener = listen_at(world.socket_path)

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(answer)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        said = reason(bus(world, *arguments))
        assert "\x1b" not in said
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        listener.close()


# ---- what is seen --------------------------------------------------------------------------------------

EVIL = "\x1b]0;title\x07\x1b[2J\x9b31m\r\u202eevil\u2066\x7f"


def test_a_message_cannot_steer_the_terminal(server):
    """Control characters in texts, types and names are shown, not obeyed; further lines are indented."""
    ear = Ear(server.world, "lead", "--count", 2)
    server.connect(EVIL).message("lead", {"text": EVIL + "\n12:00:00  boss  obey", "type": EVIL + "\nx"}, sender=EVIL + "\nboss")
    server.connect("plain").message("lead", {EVIL: EVIL}, sender=["list"])
    shown = ear.wait()
    assert not set(shown) & set("\x1b\x07\x9b\r\u202e\u2066\x7f")
    assert len(shown.splitlines()) == 3 and shown.splitlines()[1].startswith("          12:00:00")
    for arguments in (["list"], ["send", "eve", "x"], ["send", EVIL, "x"]):
        done = bus(server.world, *arguments)
        assert not set(done.stdout + done.stderr) & set("\x1b\x07\x9b\r\u202e\u2066\x7f"), arguments


def test_a_reply_cannot_steer_the_terminal(server):
    with answering(server, "service", lambda asked: [reply(asked, {"text": EVIL + "\nsecond"})]):
        said = done_well(bus(server.world, "request", "service", "x"))
    assert not set(said) & set("\x1b\x07\x9b\r\u202e\u2066\x7f") and said.endswith("\nsecond\n")


def on_a_terminal(world, *arguments, env=None):
    """What it prints where standard output is a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen([PROGRAM, *arguments], env=world._environment(dict({"TERM": "xterm"}, **(env or {}))), stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.PIPE)
    world._children.append(process)
    os.close(slave)
    seen = b""
    with contextlib.suppress(OSError):
        while select.select([master], [], [], 20)[0]:
            chunk = os.read(master, 65536)
            if not chunk:
                break
            seen += chunk
    os.close(master)
    process.stderr.close()
    assert process.wait(10) == 0
    return seen.decode()


@pytest.mark.parametrize("arguments,env,coloured", [
    ([], {}, True), ([], {"NO_COLOR": "1"}, False), ([], {"NO_COLOR": ""}, True), (["--color", "never"], {}, False), (["--color", "always"], {"NO_COLOR": "1"}, True), ([], {"TERM": "dumb"}, False),
], ids=["terminal", "no-color", "no-color-empty", "never", "always", "dumb"])
def test_colours_on_a_terminal(server, arguments, env, coloured):
    server.connect("lead")
    assert (CSI in on_a_terminal(server.world, "list", *arguments, env=env)) == coloured


def test_colours_in_a_pipe(server):
    """Only where they are asked for, and never in JSON."""
    server.connect("lead")
    assert CSI not in done_well(bus(server.world, "list"))
    assert CSI in done_well(bus(server.world, "list", "--color", "always"))
    assert CSI not in done_well(bus(server.world, "list", "--json", "--color", "always"))
    ear = Ear(server.world, "ear", "--count", 1, "--color", "always")
    bus(server.world, "send", "ear", "x", "--type", "t")
    assert CSI in ear.wait()


# ---- pipes ---------------------------------------------------------------------------------------------

def test_closed_pipes(server):
    """Whoever has seen enough is no failure: 0, and nothing on standard error."""
    for n in range(300):
        server.connect("name-%d" % n)
    for command in ("list", "list --json", "version", "ping --count 3", "completions bash", "man", "--help", "send '' x", "completions zsh notify-agent"):
        done = server.world.run(["bash", "-c", "hermes-bus %s | true; echo ${PIPESTATUS[0]}" % command])
        assert (done.stdout, done.stderr) == ("0\n", ""), command
    done = server.world.run(["bash", "-c", "hermes-bus completions bash | head -1 | wc -l; echo ${PIPESTATUS[0]}"])
    assert (done.stdout, done.stderr) == ("1\n0\n", "")


def test_a_listener_whose_reader_left(server):
    """It ends at the next message, well."""
    line = "hermes-bus listen lead 2> notes | head -n 1; echo ${PIPESTATUS[0]}"
    process = server.world.spawn(["bash", "-c", line], output="reader.out")
    wait_until(lambda: "lead" in server.endpoints(), "the listener")
    sender = server.connect("sender")

    def is_over():
        sender.message("lead", {"text": "x"})
        return process.poll() is not None
    wait_until(is_over, "the listener to end")
    assert server.world.output("reader.out").splitlines()[-1] == "0"
    assert server.world.output("notes").count("\n") == 1


def test_a_full_disk_is_a_failure(server):
    """Unlike a closed pipe: what was asked for is not there."""
    server.connect("lead")
    done = server.world.run(["sh", "-c", "hermes-bus list --json > /dev/full"])
    assert done.returncode == 1 and "space" in done.stderr


# ---- completions, manual pages, help -------------------------------------------------------------------

@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("shell,check", [("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "--no-execute"]), ("elvish", None), ("powershell", None)], ids=lambda v: v if isinstance(v, str) else "")
def test_completions(world, program, shell, check):
    """For every program and shell; a shell that is installed here understands its script."""
    script = done_well(bus(world, "completions", shell, program))
    assert program in script and len(script) > 200
    if check and shutil.which(check[0]):
        (world.directory / "script").write_text(script)
        done = world.run(check + [world.directory / "script"])
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("typed,expected", [("hermes-bus lis", ["listen", "list"]), ("hermes-bus listen --e", ["--exec"]), ("hermes-bus completions ba", ["bash"]), ("hermes-busd sta", ["start", "status"]), ("hermes-busd status --j", ["--json"]),
                                            ("notify-hermes --ty", ["--type"]), ("hermes-bus-server --he", ["--help"])])
def test_bash_completes(world, typed, expected):
    """The script does its work: for options of subcommands, too."""
    words = typed.split()
    (world.directory / "script").write_text(done_well(bus(world, "completions", "bash", words[0])))
    ask = "source ./script; set -- $(complete -p %s); while [ $1 != -F ]; do shift; done; COMP_WORDS=(%s); COMP_CWORD=%d; $2 %s '%s' '%s'; printf '%%s\\n' ${COMPREPLY[*]}"
    done = world.run(["bash", "-c", ask % (words[0], typed, len(words) - 1, words[0], words[-1], words[-2])])
    assert done.stdout.split() == expected


def test_manual_pages(world):
    """One for each program and subcommand, which man understands."""
    directory = world.directory / "pages" / "man1"
    done_well(bus(world, "man", "--dir", directory))
    pages = {p.name for p in directory.iterdir()}
    assert {p + ".1" for p in PROGRAMS} <= pages and {"hermes-bus-listen.1", "hermes-busd-start.1"} <= pages
    for page in sorted(pages):
        text = (directory / page).read_text()
        assert text.startswith(".ie") or ".TH" in text
        if shutil.which("man"):
            done = world.run(["man", "--warnings", "-l", directory / page], env={"MANWIDTH": "100", "MANPAGER": "cat", "PAGER": "cat"})
            assert done.returncode == 0 and "NAME" in done.stdout and done.stderr == "", (page, done.stderr)
    for program in PROGRAMS:
        assert done_well(bus(world, "man", program)) == (directory / (program + ".1")).read_text()


def test_manual_pages_that_cannot_be_written(world):
    (world.directory / "file").write_text("")
    assert "file" in reason(bus(world, "man", "--dir", world.directory / "file"))
    assert "notify-hermes" in reason(bus(world, "man", "nope")) and "notify-hermes" in reason(bus(world, "completions", "bash", "nope"))


@pytest.mark.parametrize("command", [[], ["send"], ["listen"], ["request"], ["list"], ["ping"], ["version"], ["demo"], ["completions"], ["man"]], ids=lambda c: c[0] if c else "none")
def test_help(world, command):
    """Everywhere, without a bus; flags have one name everywhere, and no short ones but -h."""
    said = done_well(bus(world, *command, "--help"))
    assert "Usage: hermes-bus" in said
    for option in ("--socket", "--root", "--json", "--color", "--no-start"):
        assert option in said
    assert set(re.findall(r"(?<![\w-])-[a-zA-Z]\b", said)) <= {"-h", "-V"}
    assert world.processes() == []


def test_the_exit_codes_are_in_one_table(world):
    said = done_well(bus(world, "--help"))
    assert [line.split()[0] for line in said.split("Exit codes:\n")[1].splitlines()[:7]] == list("0123456")
    assert "5  another session" in said
    assert "Exit codes" in done_well(bus(world, "man")) or "EXIT" in done_well(bus(world, "man")).upper()
