"""The foreground server as a process: its socket, who may connect, how it ends."""
import contextlib
import os
import shutil
import signal
import stat
import time

import pytest

import procfs
from wire import Closed, Connection, message
from world import BIN, answers, as_user, leave_dead_socket, listen_at, wait_until

STRANGER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_the_socket_is_private_whatever_the_umask(world):
    """A careless umask opens nothing: the socket is 0600, a root directory that the bus makes is 0700."""
    root = world.directory / "made" / "by-the-bus"
    before = os.umask(0)
    try:
        world.spawn([BIN / "hermes-bus-server"], env={"HERMES_BUS_ROOT": root, "HERMES_HOME": None})
    finally:
        os.umask(before)
    path = root / "hermes-bus.sock"
    wait_until(lambda: answers(str(path)), "the server to answer")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_an_existing_root_keeps_its_mode(world):
    """The directory is the user's: the bus does not change it."""
    world.root.chmod(0o755)
    world.serve()
    assert stat.S_IMODE(world.root.stat().st_mode) == 0o755


def test_the_server_says_where_it_listens(world):
    """The line that people and scripts look for."""
    server = world.serve()
    server.stop()
    assert "[HermesBus] listening on " + world.socket_path in world.output("hermes-bus-server.out")


def test_a_second_server_on_the_same_root_is_refused(world):
    """The second one ends with a reason that names the place; the first keeps its socket and its clients."""
    server = world.serve()
    client = server.connect("client")
    identity = world.socket_identity()
    second = world.run([BIN / "hermes-bus-server"])
    assert second.returncode != 0
    assert str(world.root) in second.stdout + second.stderr
    assert world.socket_identity() == identity
    assert server.endpoints() == {"client": client.session_id}
    client.fence()


def test_a_dead_socket_is_replaced(world):
    """A socket file that nobody listens on is in nobody's way."""
    leave_dead_socket(world.socket_path)
    world.serve().connect("a").fence()


def test_kill_and_restart(world):
    """kill -9 leaves socket and lock behind; the next server starts over them, and clients register again. Five times."""
    for n in range(5):
        server = world.serve()
        client = server.connect("client")
        assert server.endpoints() == {"client": client.session_id}
        server.stop(signal.SIGKILL)
        with pytest.raises((Closed, OSError)):
            client.fence()
        assert os.path.exists(world.socket_path), "a killed server cannot clean up"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_an_orderly_end_hands_over_what_is_queued(world, how):
    """A receiver has messages waiting in the bus when the signal comes: it gets them all, then its end; the socket is gone, the status is 0."""
    server = world.serve()
    receiver = server.connect("receiver")
    sender = server.connect("sender")
    sender.send(*[message("receiver", [n, "x" * 9900]) for n in range(100)])
    sender.fence()
    server.process.send_signal(how)
    got = [f["body"][0] for f in receiver.rest() if f["type"] == "message"]
    assert got == list(range(100))
    assert sender.rest() == []
    assert server.process.wait(10) == 0
    assert not os.path.exists(world.socket_path)


def test_an_orderly_end_does_not_wait_for_ever(world):
    """A receiver that never reads cannot keep the bus from ending."""
    server = world.serve()
    server.connect("receiver")
    sender = server.connect("sender")
    sender.send(*[message("receiver", "x" * 9900) for _ in range(200)])
    sender.fence()
    assert server.stop(within_s=8) == 0
    assert not os.path.exists(world.socket_path)


def test_a_deleted_socket_comes_back(world):
    """Released clients delete a live socket when one connect fails: the bus notices, binds anew, and keeps the clients that it has."""
    server = world.serve()
    client = server.connect("client")
    os.unlink(world.socket_path)
    wait_until(lambda: answers(world.socket_path), "the socket to come back")
    assert server.endpoints() == {"client": client.session_id}
    assert stat.S_IMODE(os.stat(world.socket_path).st_mode) == 0o600
    client.fence()


def test_a_foreign_live_socket_is_left_alone(world):
    """Somebody else's live socket stands in the place of the bus's own: it stays there, also when the bus ends, and the bus says so."""
    server = world.serve()
    client = server.connect("client")
    foreign = listen_at(world.root / "foreign.sock")
    os.rename(world.root / "foreign.sock", world.socket_path)
    identity = world.socket_identity()
    said_before = len(world.output("hermes-bus-server.out"))
    wait_until(lambda: len(world.output("hermes-bus-server.out")) > said_before, "a word about the foreign socket")
    assert world.socket_identity() == identity
    client.fence()
    assert server.stop() == 0
    assert world.socket_identity() == identity
    foreign.close()


def test_an_empty_variable_counts_as_not_set(world):
    """HERMES_BUS_ROOT and HERMES_HOME set to nothing mean the home directory, not the current one."""
    server = world.serve(env={"HERMES_BUS_ROOT": "", "HERMES_HOME": "", "HERMES_BUS_HOOKS": ""})
    assert os.path.exists(world.directory / ".hermes" / "hermes-bus.sock")
    server.connect("a").fence()


def test_a_link_leads_older_clients_to_the_socket(world):
    """Clients of 0.5.0 look into HERMES_HOME: where it is another directory, it holds a link to the socket while the bus runs."""
    profile = world.directory / "profile"
    profile.mkdir()
    server = world.serve(env={"HERMES_HOME": profile})
    link = profile / "hermes-bus.sock"
    wait_until(link.is_symlink, "the link")
    assert os.path.realpath(link) == os.path.realpath(world.socket_path)
    Connection(str(link)).fence()
    assert server.stop() == 0
    assert not os.path.lexists(link)


def test_no_link_where_somebody_lives_or_where_nothing_is(world):
    """A live socket in HERMES_HOME stays what it is; a directory that does not exist is not made."""
    profile = world.directory / "profile"
    profile.mkdir()
    foreign = listen_at(profile / "hermes-bus.sock")
    server = world.serve(env={"HERMES_HOME": profile})
    server.connect().fence()
    assert not (profile / "hermes-bus.sock").is_symlink()
    assert server.stop() == 0
    assert os.path.exists(profile / "hermes-bus.sock")
    foreign.close()
    server = world.serve(env={"HERMES_HOME": world.directory / "absent"})
    server.connect().fence()
    assert server.stop() == 0
    assert not (world.directory / "absent").exists()


def as_stranger(path):
    """Connects as another user; returns what happened as text."""
    def connect():
        try:
            c = Connection(path, patience_s=5)
        except PermissionError:
            return "cannot connect"
        with contextlib.suppress(OSError):
            c.send({"type": "ping"})
        frame = c.recv()
        return frame["type"] if frame["type"] != "error" else "error %s, %s" % (frame["code"], c.rest() or "then closed")
    return as_user(STRANGER, connect)


@as_root
def test_another_user_cannot_connect(world):
    """The mode of the socket keeps others out; and where that was loosened by hand, the bus looks at who it is, says `forbidden`, and closes."""
    for directory in (world.directory, world.root):
        directory.chmod(0o711)
    server = world.serve()
    client = server.connect("client")
    assert as_stranger(world.socket_path) == "cannot connect"
    os.chmod(world.socket_path, 0o666)
    assert as_stranger(world.socket_path) == "error forbidden, then closed"
    assert server.endpoints() == {"client": client.session_id}


@as_root
def test_root_may_look_after_another_users_bus(world):
    """The bus runs as somebody else: that user is at home there, and root is let in."""
    program = world.directory / "hermes-bus-server"
    shutil.copy(BIN / "hermes-bus-server", program)
    program.chmod(0o755)
    world.directory.chmod(0o711)
    os.chown(world.root, STRANGER, STRANGER)
    server = world.serve(program=program, user=STRANGER, group=STRANGER, extra_groups=[])
    server.connect("root-was-here").fence()
    assert as_stranger(world.socket_path) == "pong"


def test_a_bus_at_rest_rests(world):
    """At rest it uses no processor time worth mentioning."""
    server = world.serve()
    for n in range(20):
        server.connect("idle-%d" % n)
    used_before = procfs.cpu_s(server.pid)
    time.sleep(1.5)  # the span over which the processor time is read
    assert procfs.cpu_s(server.pid) - used_before < 0.2


def test_logs_never_hold_a_message_body(world):
    """What people write to each other is not for the log, at whatever happens to the message."""
    server = world.serve()
    receiver = server.connect("receiver")
    anonymous = server.connect()
    anonymous.message("receiver", "SECRET-WORDS")
    anonymous.expect("receipt")
    receiver.expect("message")
    anonymous.message("nobody", "SECRET-WORDS")
    anonymous.expect("error")
    anonymous.send(b'{"type":"message","to":["x"],"body":"SECRET-WORDS"}')
    anonymous.rest()
    broken = server.connect("broken")
    broken.send(b'{"type":"message","to":"receiver","body":"SECRET-WORDS')
    broken.rest()
    server.stop()
    assert "SECRET-WORDS" not in world.output("hermes-bus-server.out")
