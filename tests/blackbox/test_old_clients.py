"""The unmodified original clients, 0.5.0 and 0.7.0, on our bus: they are what is in the field."""
import os
import signal
import time

import pytest

import procfs
from world import BIN, ORIGINALS, alarms_in, answers, wait_until

both = pytest.mark.parametrize("version", sorted(ORIGINALS))


@both
def test_connect_send_receive_disconnect(server, version):
    """A long-lived client registers, writes to a peer and to itself, receives, and leaves."""
    peer = server.connect("peer")
    puppet = server.world.puppet(version)
    joined = puppet.ask("connect", name="old-client")
    assert joined["connected"] is True
    assert server.endpoints() == {"peer": peer.session_id, "old-client": joined["session_id"]}
    assert puppet.ask("send", to="peer", body={"text": "hello", "n": 1.5})
    got = peer.expect("message")
    assert (got["from"], got["body"]) == ("old-client", {"text": "hello", "n": 1.5})
    for n in range(100):
        peer.message("old-client", n)
    assert puppet.bodies(100) == list(range(100))
    puppet.ask("send", to="old-client", body="to myself")
    assert puppet.bodies(1) == ["to myself"]
    puppet.ask("disconnect")
    assert puppet.ask("is_connected") is False


@both
def test_two_old_clients_talk_to_each_other(server, version):
    """Both ends unmodified, of either version."""
    one, other = server.world.puppet(version), server.world.puppet("0.5.0" if version == "0.7.0" else "0.7.0")
    assert one.ask("connect", name="one")["connected"] and other.ask("connect", name="other")["connected"]
    for n in range(50):
        one.ask("send", to="other", body={"n": n})
    assert other.bodies(50) == [{"n": n} for n in range(50)]
    other.ask("send", to="one", body="thanks")
    assert one.bodies(1) == ["thanks"]


@both
def test_an_idle_client_stays_and_loses_nothing(server, version):
    """A client of this kind hangs up after a second of silence. On our bus that happens at most at first: it stays registered
    under one session, and every message of twelve seconds arrives, in order."""
    puppet = server.world.puppet(version)
    puppet.ask("connect", name="idle")
    sender = server.connect("sender")
    sessions, sent, got, began = [], 0, [], time.monotonic()
    while time.monotonic() - began < 12:
        passed_s = time.monotonic() - began
        if passed_s >= 1.7 * (sent + 1):
            sender.message("idle", sent)
            sent += 1
        if passed_s > 5:
            sessions.append(sender.endpoints().get("idle"))
        got += [m["body"] for m in puppet.ask("poll") if m["type"] == "message"]
        time.sleep(0.1)  # the pace of the sampling
    if len(got) < sent:
        got += puppet.bodies(sent - len(got))
    assert got == list(range(sent)) and sent >= 6
    assert len(sessions) > 20 and len(set(sessions)) == 1 and sessions[0], "the client came and went: %r" % set(sessions)


@both
def test_nothing_but_messages_reaches_the_application(server, version):
    """No receipt, no error and no other frame of the bus gets into the queue of a long-lived client."""
    puppet = server.world.puppet(version)
    puppet.ask("connect", name="app")
    server.connect("peer")
    puppet.ask("send", to="peer", body=1)
    puppet.ask("send", to="nobody", body=2)
    server.connect("sender").message("app", "marker")
    frames = []

    def marker_came():
        frames.extend(puppet.ask("poll"))
        return any(f.get("body") == "marker" for f in frames)
    wait_until(marker_came, "the marker")
    time.sleep(2.5)  # an idle second, a reconnect and some keep-alives
    frames += puppet.ask("poll")
    assert [f["type"] for f in frames] == ["message"]


@both
def test_a_client_comes_back_after_a_restart_of_the_bus(world, version):
    """`hermes-busd restart` under a connected client: it registers again by itself and is reached."""
    world.start_daemon()
    puppet = world.puppet(version)
    first = puppet.ask("connect", name="loyal")["session_id"]
    assert world.busd("restart").returncode == 0
    wait_until(lambda: world.endpoints().get("loyal") not in (None, first), "the old client to register again", 20)
    world.connect("sender").message("loyal", "welcome back")
    assert puppet.bodies(1) == ["welcome back"]


@both
def test_send_message_returns_at_once(server, version):
    """The released function waits a whole second for an answer that the original never gives. Ours answers: each of ten calls is over long before."""
    receiver = server.connect("receiver")
    puppet = server.world.puppet(version)
    for n in range(10):
        result = puppet.ask("send_message", to="receiver", body={"n": n})
        assert result["ok"] is True and result["took_s"] < 0.5
        assert receiver.expect("message")["body"] == {"n": n}


@both
def test_send_message_knows_failure(server, version):
    """To nobody: False. To a name that left a moment ago and does not return: False too, although the bus first waits for it."""
    puppet = server.world.puppet(version)
    assert puppet.ask("send_message", to="nobody", body=1)["ok"] is False
    server.connect("left").hang_up()
    wait_until(lambda: "left" not in server.endpoints(), "the name to leave the list")
    assert puppet.ask("send_message", to="left", body=1)["ok"] is False
    assert puppet.ask("send_message", to="", body="a broadcast to nobody")["ok"] is True


@both
def test_three_hundred_senders_at_once(server, version):
    """A burst that made the original's clients delete the live socket: all 300 succeed, all arrive, and the socket is the same."""
    receiver = server.connect("receiver")
    identity = server.world.socket_identity()
    puppet = server.world.puppet(version)
    assert puppet.ask("burst", within_s=90, to="receiver", count=300) == {"succeeded": 300, "failed": 0}
    assert sorted(receiver.expect("message")["body"]["number"] for _ in range(300)) == list(range(300))
    assert server.world.socket_identity() == identity
    assert server.endpoints() == {"receiver": receiver.session_id}


def is_ours(world):
    """True when the daemon that the PID file names is one of the programs under test."""
    return os.path.realpath(procfs.executable(world.pid_in_file())).startswith(os.path.realpath(BIN))


@both
def test_a_client_starts_our_daemon_from_path(world, version):
    """No bus runs: the client calls `hermes-busd start`, and it is ours that answers."""
    puppet = world.puppet(version)
    assert puppet.ask("connect", name="first")["connected"] is True
    wait_until(world.pid_file.exists, "the PID file")
    assert is_ours(world)
    wait_until(lambda: "first" in world.endpoints(), "the client to be listed")
    assert world.puppet(version).ask("send_message", to="first", body="hi")["ok"] is True
    assert puppet.bodies(1) == ["hi"]


@both
def test_ensure_bus_running(world, version):
    """Called twice: one daemon."""
    puppet = world.puppet(version)
    puppet.ask("ensure_bus_running")
    wait_until(lambda: answers(world.socket_path), "the bus")
    identity, pid = world.socket_identity(), world.pid_in_file()
    puppet.ask("ensure_bus_running")
    assert world.socket_identity() == identity and world.pid_in_file() == pid


@both
def test_who_deleted_the_live_socket_finds_the_same_daemon_again(world, version):
    """A released client deletes the socket after one failed connect and calls `start`: the same daemon is there again, with all its clients."""
    pid = world.start_daemon()
    resident = world.connect("resident")
    os.unlink(world.socket_path)
    puppet = world.puppet(version)
    assert puppet.ask("send_message", to="resident", body="found")["ok"] is True
    assert resident.expect("message")["body"] == "found"
    assert world.pid_in_file() == pid
    assert world.endpoints() == {"resident": resident.session_id}


def test_an_original_of_0_5_0_finds_the_bus_through_hermes_home(world):
    """It only knows HERMES_HOME; the bus lives in HERMES_BUS_ROOT; the link brings them together."""
    profile = world.directory / "profile"
    profile.mkdir()
    server = world.serve(env={"HERMES_HOME": profile})
    receiver = server.connect("receiver")
    puppet = world.puppet("0.5.0", env={"HERMES_HOME": profile})
    assert puppet.ask("send_message", to="receiver", body="over the link")["ok"] is True
    assert receiver.expect("message")["body"] == "over the link"


def original_busd(world, version, *arguments):
    return world.run([ORIGINALS[version], "-m", "hermes_bus.busd", *arguments])


@both
def test_the_original_manager_recognises_our_daemon(world, version):
    """Its `status` and `start` find ours healthy and leave it alone; its `stop` ends it."""
    pid = world.start_daemon()
    client = world.connect("client")
    status = original_busd(world, version, "status").stdout
    assert "busd running (pid=%d)" % pid in status and "    client  (sid=%s...)" % client.session_id[:8] in status
    assert alarms_in(status) == [], "the log of ours is part of what the original prints"
    assert original_busd(world, version, "start").stdout == "busd already running (pid=%d)\n" % pid
    client.fence()
    assert original_busd(world, version, "stop").stdout.splitlines()[-1] == "busd stopped"
    wait_until(lambda: not procfs.alive(pid), "our daemon to end")


@both
def test_the_original_manager_sees_our_foreground_server(server, version):
    """Without a PID file it says that the socket is alive, and lists who is there."""
    client = server.connect("client")
    status = original_busd(server.world, version, "status").stdout
    assert "socket is alive" in status and "    client  (sid=%s...)" % client.session_id[:8] in status


@both
def test_the_original_sender_program(server, version):
    """`notify-hermes` of the original: delivered and said so; refused for somebody absent."""
    receiver = server.connect("lead-agent")
    sender = [ORIGINALS[version], "-m", "hermes_notify.notify_hermes", "--from", "worker", "--type", "ack"]
    done = server.world.run(sender + ["--to", "lead-agent", "on my way"])
    assert (done.returncode, done.stdout) == (0, "OK: notified lead-agent\n")
    assert receiver.expect("message")["body"] == {"text": "on my way", "type": "ack"}
    assert server.world.run(sender + ["--to", "absent", "hello?"]).returncode == 1


@pytest.mark.soak
@both
def test_a_day_in_the_life_of_an_old_client(world, version):
    """A hundred kills and starts under a connected client: each time it returns by itself and is reached."""
    pid = world.start_daemon()
    puppet = world.puppet(version)
    puppet.ask("connect", name="survivor")
    for n in range(100):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not procfs.alive(pid), "the killed daemon to be gone")
        pid = world.start_daemon()
        wait_until(lambda: "survivor" in world.endpoints(), "the old client to register again", 60)
        world.connect().message("survivor", n)
        assert puppet.bodies(1) == [n]
