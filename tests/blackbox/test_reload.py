"""A running bus reads its configuration and hooks again: what holds at once, what after a restart, and what of a bad file."""
import contextlib
import json
import os
import signal
import socket
import stat

import pytest

import procfs
from wire import Closed, Connection, message
from world import BIN, as_user, wait_until


def configure(world, text, name="config.yaml"):
    path = world.root / "hermes-bus" / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def reload(world, code=0):
    done = world.busd("reload")
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_change_holds_at_once_and_is_said(world):
    pid = world.start_daemon()
    mouth = world.connect("mouth")
    mouth.message("nobody", 1, sender="somebody else")
    mouth.fence()
    configure(world, "access:\n  strict_from: true\nsessions:\n  linger: 5s\n")
    text = reload(world)
    assert "busd reloaded (pid=%d)" % pid in text
    assert "access.strict_from: off -> on" in text and "sessions.linger: 3s -> 5s" in text
    mouth.message("nobody", 1, sender="somebody else", id="x")
    assert mouth.expect("error")["code"] == "forbidden", "the session that was there is held to it too"
    assert world.pid_in_file() == pid
    assert "strict_from" not in reload(world), "the second time nothing is different"


def test_what_needs_a_restart_is_said_and_holds_after_it(world):
    world.start_daemon()
    metrics = world.root / "run" / "metrics.sock"
    assert metrics.exists()
    configure(world, "metrics:\n  socket: false\n")
    assert "metrics.socket: on -> off (after a restart)" in reload(world)
    assert metrics.exists()
    assert "metrics.socket: on -> off (after a restart)" in reload(world), "it still is"
    assert world.busd("restart").returncode == 0
    wait_until(lambda: not metrics.exists(), "the old process to remove its socket")
    assert "restart" not in reload(world)


def test_dead_letters_that_are_too_many_by_a_reload_go_and_are_counted(world):
    world.start_daemon()
    receiver, sender = world.connect(), world.connect()
    receiver.send({"type": "register", "endpoint": "box", "protocol": 2, "ack": True})
    receiver.expect("registered")
    for number in range(3):
        sender.message("box", "x" * 5_000_000, id="m%d" % number, receipt="acked")
        receiver.send({"type": "nack", "seq": receiver.expect("message")["seq"], "requeue": False})
        assert sender.expect("error")["code"] == "rejected"

    def letters():
        listed = world.run([str(BIN / "hermes-bus"), "dead", "list", "--json"]).stdout
        return [json.loads(line)["id"] for line in listed.splitlines()]

    wait_until(lambda: len(letters()) == 3, "the dead letters")
    configure(world, "store:\n  dead_letters_bytes_max: 11MiB\n")
    assert "store.dead_letters_bytes_max: 64MiB -> 11MiB" in reload(world)
    wait_until(lambda: letters() == ["m2", "m1"], "the oldest to go")

    def displaced():
        sender.send({"type": "admin", "op": "store", "protocol": 2})
        return sender.expect("admin_result")["dead_letters_displaced"]

    assert wait_until(displaced, "it to be counted") == 1


def test_a_bad_file_changes_nothing_and_says_why(world):
    pid = world.start_daemon()
    path = configure(world, "access:\n  strict_from: true\n  alow_uids: [1]\nsessions:\n  linger: soon\n")
    text = reload(world, code=1)
    assert "keeps its old configuration" in text and "%s:3:3: access.alow_uids" % path in text and "access.allow_uids" in text, text
    assert "%s:5:11: sessions.linger" % path in text
    mouth = world.connect("mouth")
    mouth.message("mouth", "as before", sender="somebody else")
    assert mouth.expect("message")["body"] == "as before"
    assert world.pid_in_file() == pid
    assert "alow_uids" in world.log_file.read_text()
    # A restart is refused by the new process, before the old one has ended anything.
    done = world.busd("restart")
    assert done.returncode == 1 and "a bus goes on (pid=%d)" % pid in done.stdout and "alow_uids" in done.stdout
    mouth.fence()


def test_the_signal_does_the_same(world):
    pid = world.start_daemon()
    configure(world, "access:\n  strict_from: true\n")
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: "access.strict_from: off -> on" in world.log_file.read_text(), "the reload")
    mouth = world.connect("mouth")
    mouth.message("mouth", 1, sender="somebody else")
    assert mouth.expect("error")["code"] == "forbidden"
    configure(world, "access: 5\n")
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: "the old configuration goes on" in world.log_file.read_text(), "the refusal")
    mouth.fence()


def test_a_server_in_a_terminal_reloads_too_and_ends_with_its_terminal(world):
    outside, inside = os.openpty()
    server = world.spawn(["setsid", "--ctty", "--wait", BIN / "hermes-bus-server"], output="terminal.out", stdin=inside)
    wait_until(lambda: os.path.exists(world.socket_path) and "listening" in world.output("terminal.out"), "the server")
    pid = next(p for p in world.processes() if procfs.executable(p).endswith("hermes-bus-server"))
    configure(world, "access:\n  strict_from: true\n")
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: "strict_from" in world.output("terminal.out"), "the reload")
    assert world.endpoints() == {}
    os.close(inside)
    os.close(outside)
    wait_until(lambda: not procfs.alive(pid), "the server to end with its terminal")
    assert not os.path.exists(world.socket_path)
    server.wait(10)


def test_who_may_connect_opens_and_closes_the_socket(world):
    world.start_daemon()
    assert mode_of(world.socket_path) == 0o600
    configure(world, "access:\n  allow_uids: [4242]\n")
    reload(world)
    assert mode_of(world.socket_path) == 0o666
    assert world.busd("restart").returncode == 0
    assert mode_of(world.socket_path) == 0o666
    configure(world, "")
    reload(world)
    assert mode_of(world.socket_path) == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become others")
def test_only_users_of_the_list_come_in_and_none_of_them_reloads(world):
    configure(world, "access:\n  allow_uids: [4242]\n")
    for directory in (world.directory, world.root):
        directory.chmod(0o755)
    world.start_daemon()

    def ask(uid, frame):
        def do():
            with Connection(world.socket_path) as c:
                # Who may not come in is told so before it has said anything.
                with contextlib.suppress(OSError):
                    c.send(frame)
                return json.dumps(c.recv())
        return json.loads(as_user(uid, do))
    assert ask(4242, {"type": "register", "endpoint": "guest"})["type"] == "registered"
    assert ask(4243, {"type": "ping"})["code"] == "forbidden"
    assert ask(4242, {"type": "admin", "op": "reload", "protocol": 2})["code"] == "forbidden"
    assert ask(4242, {"type": "admin", "op": "restart", "protocol": 2})["code"] == "forbidden"
    reload(world)


def test_a_protected_name_needs_its_token(world):
    token = configure(world, "  s3cret \n", name="vault.token")
    configure(world, "access:\n  protected:\n    - name: vault\n      token_file: %s\n" % token)
    world.start_daemon()
    for attempt in ({}, {"token": "guess"}, {"token": 1}):
        with world.connect() as thief:
            thief.send(dict({"type": "register", "endpoint": "vault"}, **attempt))
            assert thief.recv()["code"] == "unauthorized"
            with pytest.raises(Closed):
                thief.recv()
    with world.connect() as owner:
        owner.send({"type": "register", "endpoint": "vault", "token": "s3cret"})
        assert owner.expect("registered")["endpoint"] == "vault"
    assert "s3cret" not in world.log_file.read_text() + reload(world)
    token.write_text("other")
    assert "access.protected: another token" in reload(world)
    with world.connect() as late:
        late.send({"type": "register", "endpoint": "vault", "token": "s3cret"})
        assert late.recv()["code"] == "unauthorized"


def test_a_fast_sender_is_slowed_down_and_nothing_is_lost(world):
    configure(world, "sessions:\n  messages_per_s: 50\n")
    world.start_daemon()
    ear, mouth = world.connect("ear"), world.connect("mouth")
    mouth.send(*[message("ear", number) for number in range(80)])
    with world.connect() as quick:
        quick.message("ear", "others are not slowed down")
        assert quick.recv()["type"] == "receipt"
    bodies = [ear.expect("message")["body"] for _ in range(81)]
    assert bodies.index("others are not slowed down") < 80
    assert [body for body in bodies if isinstance(body, int)] == list(range(80))
    counters = json.loads(world.busd("status", "--json").stdout)["server"]["counters"]
    assert counters["pace_waits"] >= 10


def test_hooks_come_go_and_change(world):
    def hook(name):
        path = world.directory / name
        path.write_text("#!/bin/sh\ncat > \"$0.new\"; mv \"$0.new\" \"$0.$HERMES_BUS_MESSAGE_ID\"\n")
        path.chmod(0o755)
        return path
    first, second = hook("first"), hook("second")

    def has_run(path, name):
        return wait_until((world.directory / ("%s.%s" % (path.name, name))).exists, "%s for %s" % (path, name))
    world.start_daemon()
    mouth = world.connect("mouth")
    configure(world, "- %s\n" % first, name="hooks.yaml")
    reload(world)
    mouth.message("nobody", 1, id="a")
    has_run(first, "a")
    configure(world, "- %s\n" % second, name="hooks.yaml")
    assert "hooks: %s\n" % second in reload(world)
    assert "hooks:" not in reload(world)
    mouth.message("nobody", 1, id="b")
    has_run(second, "b")
    assert not (world.directory / "first.b").exists()
    configure(world, "hooks:\n  - path: %s\n    timeout: 5\n" % second, name="hooks.yaml")
    assert "hooks.yaml:3:" in reload(world, code=1)
    mouth.message("nobody", 1, id="c")
    has_run(second, "c")
    configure(world, "", name="hooks.yaml")
    reload(world)
    mouth.message("nobody", 1, id="d")
    mouth.fence()
    assert world.busd("stop").returncode == 0
    assert sorted(path.name for path in world.directory.glob("*.?") if path.suffix in (".a", ".b", ".c", ".d")) == ["first.a", "second.b", "second.c"]


def test_flags_win_over_the_environment_over_the_file_and_survive_a_restart(world):
    path = configure(world, "sessions:\n  linger: 4s\n  drain: 4s\n  answer: 400ms\n", name="other.yaml")
    env = {"HERMES_BUS_SESSIONS_DRAIN": "5s", "HERMES_BUS_SESSIONS_ANSWER": "500ms"}
    started = world.busd("start", "--config", os.path.relpath(path, world.directory), "--set", "sessions.answer=600ms", env=env)
    assert started.returncode == 0, started.stdout
    path.write_text("sessions:\n  linger: 9s\n  drain: 9s\n  answer: 500ms\n")
    text = reload(world)
    assert "sessions.linger: 4s -> 9s" in text and "drain" not in text and "answer" not in text, text
    # The restart is told anew what is to hold, as a start is.
    assert world.busd("restart", "--set", "sessions.linger=1s").returncode == 0
    assert "linger" not in reload(world)


def test_a_server_does_not_start_with_a_bad_configuration(world):
    path = configure(world, "log:\n  level: zebra\n")
    done = world.run([BIN / "hermes-bus-server"])
    assert done.returncode == 1 and "%s:2:10: log.level: 'zebra'" % path in done.stderr, done.stderr
    done = world.busd("start")
    assert done.returncode == 1 and "zebra" in done.stdout
    assert not os.path.exists(world.socket_path)
    assert world.busd("start", "--set", "log.level=warn").returncode == 1, "the file is wrong all the same"


def test_reload_of_nothing(world):
    assert "not running" in reload(world, code=1)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(world.socket_path)
    assert "not running" in reload(world, code=1)
