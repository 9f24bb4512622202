"""Under a service manager: the socket that it hands over, what it is told, and the files that are installed for it."""
import contextlib
import os
import select
import shutil
import signal
import socket
import time

import pytest

from world import BIN, answers, wait_until

SERVER = BIN / "hermes-bus-server"


class Manager:
    """A service manager's part: it listens for good, and starts the server when somebody comes."""

    def __init__(self, world, path=None):
        self.world = world
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path or world.socket_path)
        self.listener.listen(16)
        self.identity = world.socket_identity() if path is None else None

    def wait_for_client(self):
        assert select.select([self.listener], [], [], 10)[0], "nobody connects"

    def start(self, arguments=(), process="LISTEN_PID=$$"):
        # The process id is part of the bargain: the shell becomes the server.
        command = process + ' exec "$0" "$@"'
        variables = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "hermes-bus.socket"}
        with at_descriptor_3(self.listener.fileno()):
            return self.world.spawn(["/bin/sh", "-c", command, SERVER, *arguments], env=variables, pass_fds=[3], output="hermes-bus-server.out")

    def close(self):
        self.listener.close()


@contextlib.contextmanager
def at_descriptor_3(fd):
    """Where the protocol wants it; whatever stands there in this process comes back."""
    try:
        saved = os.dup(3)
    except OSError:
        saved = None
    os.dup2(fd, 3)
    try:
        yield
    finally:
        if saved is None:
            os.close(3)
        else:
            os.dup2(saved, 3)
            os.close(saved)


@pytest.fixture
def manager(world):
    m = Manager(world)
    yield m
    m.close()


def test_the_first_client_starts_the_server_and_its_message_arrives(world, manager):
    sender = world.connect()
    sender.send({"type": "register", "endpoint": "early"})
    sender.message("early", {"n": 1})
    manager.wait_for_client()
    server = manager.start()
    sender.expect("registered")
    assert sender.expect("message")["body"] == {"n": 1}
    assert world.socket_identity() == manager.identity, "it has bound nothing of its own"
    server.terminate()
    assert server.wait(10) == 0


def test_the_socket_outlives_the_server_and_who_comes_meanwhile_is_served_by_the_next(world, manager):
    server = manager.start()
    wait_until(lambda: answers(world.socket_path), "the first server")
    server.terminate()
    assert server.wait(10) == 0
    assert world.socket_identity() == manager.identity
    waiting = world.connect()
    waiting.send({"type": "ping"})
    server = manager.start()
    waiting.expect("pong")
    server.terminate()
    assert server.wait(10) == 0


def test_status_and_stop_mean_the_server_and_leave_the_managers_socket(world, manager):
    """The other end of the socket is the server, not whoever opened it: this very process would be signalled otherwise."""
    server = manager.start(["--detached"])
    wait_until(lambda: answers(world.socket_path), "the server")
    assert world.busd("status").stdout.startswith("busd running (pid=%d)\n" % server.pid)
    with world.connect() as c:
        credentials = c.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert int.from_bytes(credentials[:4], "little") == server.pid
    done = world.busd("stop")
    assert done.returncode == 0 and "busd stopped" in done.stdout, (done.stdout, done.stderr)
    assert server.wait(10) == 0
    assert world.socket_identity() == manager.identity


def test_stop_signals_nobody_where_only_a_manager_listens(world, manager):
    """Nothing serves: neither the process that opened the socket nor one that served it once may be taken for the bus."""
    received = []
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        server = manager.start()
        wait_until(lambda: answers(world.socket_path), "the server")
        server.terminate()
        server.wait(10)
        done = world.busd("stop")
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert not received
    assert "Stopping" not in done.stdout, done.stdout
    assert world.socket_identity() == manager.identity


def test_the_managers_socket_is_opened_to_users_who_may_connect(world, manager):
    """Its unit does not know of them. A reload closes it again."""
    os.chmod(world.socket_path, 0o600)
    (world.root / "hermes-bus").mkdir(exist_ok=True)
    config = world.root / "hermes-bus" / "config.yaml"
    config.write_text("access: {allow_uids: [12345]}")
    os.chmod(config, 0o600)
    manager.start(["--detached"])
    assert answers(world.socket_path)
    mode = lambda: os.stat(world.socket_path).st_mode & 0o777
    assert mode() == 0o666
    for text, expected in (("", 0o600), ("access: {allow_uids: [12345]}", 0o666)):
        config.write_text(text)
        assert world.busd("reload").returncode == 0
        assert mode() == expected


def test_a_socket_of_another_place_is_refused(world):
    elsewhere = str(world.directory / "elsewhere.sock")
    manager = Manager(world, elsewhere)
    server = manager.start()
    assert server.wait(10) == 1
    said = world.output("hermes-bus-server.out")
    assert elsewhere in said and world.socket_path in said, said
    assert not os.path.exists(world.socket_path)
    manager.close()


@pytest.mark.parametrize("process", ["", "LISTEN_PID=1"], ids=["nobody", "another"])
def test_sockets_that_are_meant_for_another_process_are_left_alone(world, process):
    """The variables are inherited by children of children; only the process that is named may take them."""
    manager = Manager(world, str(world.directory / "elsewhere.sock"))
    server = manager.start(process=process)
    wait_until(lambda: server.poll() is not None or answers(world.socket_path), "a server on a socket of its own")
    assert server.poll() is None, world.output("hermes-bus-server.out")
    server.terminate()
    assert server.wait(10) == 0
    manager.close()


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not installed")
def test_systemd_activates_it(world):
    """The real thing: it waits for a client, and becomes the server."""
    keep = ["-E" + name for name in ("HOME", "HERMES_HOME", "HERMES_BUS_ROOT", "PATH")]
    activator = world.spawn(["systemd-socket-activate", *keep, "-l", world.socket_path, SERVER], output="hermes-bus-server.out")
    wait_until(lambda: os.path.exists(world.socket_path), "the activator's socket")
    identity = world.socket_identity()
    done = world.run([BIN / "hermes-bus", "list"])
    assert done.returncode == 0, done.stderr
    receiver, sender = world.connect("receiver"), world.connect("sender")
    sender.message("receiver", "hello")
    assert receiver.expect("message")["body"] == "hello"
    activator.terminate()
    assert activator.wait(10) == 0
    assert world.socket_identity() == identity


# ---- what the manager is told ----

class Ear:
    """A service manager's ear."""

    def __init__(self, world):
        self.path = str(world.directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(10)

    def next(self):
        return self.socket.recv(4096).decode().split("\n")


def test_the_manager_is_told_of_life_and_end(world):
    ear = Ear(world)
    server = world.spawn([SERVER], env={"NOTIFY_SOCKET": ear.path, "WATCHDOG_USEC": "400000"}, output="hermes-bus-server.out")
    first = ear.next()
    assert "READY=1" in first and any(line == "STATUS=listening on " + world.socket_path for line in first), first
    assert answers(world.socket_path), "it is ready when it says so"
    for _ in range(4):
        assert "WATCHDOG=1" in ear.next()
    server.terminate()
    wait_until(lambda: "STOPPING=1" in ear.next(), "the farewell")
    assert server.wait(10) == 0


def test_a_manager_that_has_gone_costs_one_line(world):
    server = world.serve(env={"NOTIFY_SOCKET": str(world.directory / "nobody"), "WATCHDOG_USEC": "100000"})
    started = time.monotonic()
    wait_until(lambda: time.monotonic() > started + 0.5, "several signs of life")
    assert server.stop() == 0
    assert world.output("hermes-bus-server.out").count("service manager cannot be told") == 1


# ---- the files ----

@pytest.fixture
def systemctl(world):
    """A stand-in that notes how it was called; it fails while the file `broken` exists."""
    tools = world.directory / "tools"
    tools.mkdir()
    program = tools / "systemctl"
    program.write_text('#!/bin/sh\necho "$@" >> "%s/calls"\n[ ! -e "%s/broken" ]\n' % (tools, tools))
    program.chmod(0o755)
    world.environment["PATH"] = "%s:%s" % (tools, world.environment["PATH"])
    world.environment.pop("XDG_CONFIG_HOME", None)
    return tools


def calls(tools):
    path = tools / "calls"
    made = path.read_text().splitlines() if path.exists() else []
    path.write_text("")
    return made


def units(world):
    directory = world.directory / ".config/systemd/user"
    return sorted(p.name for p in directory.iterdir()) if directory.exists() else []


def test_install_and_uninstall(world, systemctl):
    done = world.busd("install-service")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert units(world) == ["hermes-bus.service", "hermes-bus.socket"]
    assert calls(systemctl) == ["--user show-environment", "--user daemon-reload", "--user enable --now hermes-bus.socket"]
    again = world.busd("install-service")
    assert again.returncode == 0, again.stderr
    calls(systemctl)
    done = world.busd("uninstall-service")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert units(world) == []
    assert calls(systemctl) == ["--user show-environment", "--user disable --now hermes-bus.socket", "--user stop hermes-bus.service", "--user daemon-reload"]
    done = world.busd("uninstall-service")
    assert done.returncode == 0 and "no service is installed" in done.stdout
    assert calls(systemctl) == []


def test_a_dry_run_changes_nothing(world, systemctl):
    done = world.busd("install-service", "--dry-run")
    assert done.returncode == 0 and "ListenStream=%h/.hermes/hermes-bus.sock" in done.stdout and "systemctl --user enable --now hermes-bus.socket" in done.stdout
    assert units(world) == [] and calls(systemctl) == []
    world.busd("install-service")
    calls(systemctl)
    done = world.busd("uninstall-service", "--dry-run")
    assert done.returncode == 0 and "hermes-bus.service" in done.stdout
    assert units(world) == ["hermes-bus.service", "hermes-bus.socket"] and calls(systemctl) == []


def test_without_a_manager_the_files_are_written_and_the_commands_named(world, systemctl):
    (systemctl / "broken").touch()
    done = world.busd("install-service")
    assert done.returncode == 0, done.stderr
    assert "systemctl --user enable --now hermes-bus.socket" in done.stdout
    assert units(world) == ["hermes-bus.service", "hermes-bus.socket"]
    assert calls(systemctl) == ["--user show-environment"]
    assert world.busd("uninstall-service").returncode == 0
    assert units(world) == []


@pytest.mark.parametrize("name", ["hermes-bus.service", "hermes-bus.socket"])
def test_files_of_somebody_else_stay(world, systemctl, name):
    directory = world.directory / ".config/systemd/user"
    directory.mkdir(parents=True)
    (directory / name).write_text("[Unit]\nDescription=mine\n")
    for command in ("install-service", "uninstall-service"):
        done = world.busd(command)
        assert done.returncode == 1 and str(directory / name) in done.stderr, (done.stdout, done.stderr)
    assert (directory / name).read_text() == "[Unit]\nDescription=mine\n"
    assert units(world) == [name] and calls(systemctl) == []


def test_a_bus_that_was_started_by_hand_is_not_pushed_aside(world, systemctl):
    pid = world.start_daemon()
    done = world.busd("install-service")
    assert done.returncode == 1 and "pid=%d" % pid in done.stderr and "hermes-busd stop" in done.stderr, done.stderr
    assert units(world) == [] and calls(systemctl) == []
    assert "hermes-busd stop" in world.busd("install-service", "--dry-run").stdout
    assert world.busd("stop").returncode == 0
    assert world.busd("install-service").returncode == 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("root", [None, "an \"odd\" 100% $HOME\\root"], ids=["default", "odd"])
def test_systemd_understands_the_units(world, systemctl, root):
    options = ["--root", world.directory / root] if root else []
    assert world.busd(*map(str, options), "install-service").returncode == 0
    runtime = world.directory / "runtime"
    runtime.mkdir()
    for name in units(world):
        done = world.run(["systemd-analyze", "--user", "verify", "--man=no", world.directory / ".config/systemd/user" / name], env={"XDG_RUNTIME_DIR": str(runtime)})
        assert done.returncode == 0 and not done.stderr.strip(), (name, done.stderr)


# ---- a restart under a manager ----
def test_a_restart_keeps_the_managers_socket_and_tells_it_who_goes_on(world, manager):
    ear = Ear(world)
    with at_descriptor_3(manager.listener.fileno()):
        old = world.spawn(["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"', SERVER, "--set", "sessions.linger=7s"], pass_fds=[3], output="hermes-bus-server.out",
                          env={"LISTEN_FDS": "1", "NOTIFY_SOCKET": ear.path, "WATCHDOG_USEC": "300000", "WATCHDOG_PID": None})
    wait_until(lambda: "READY=1" in ear.next(), "the server")
    with world.connect("name") as client:
        restarted = world.busd("restart", "--set", "sessions.linger=1s")
        assert restarted.returncode == 0, restarted.stdout
        client.rest()
    assert old.wait(10) == 0
    said = []
    wait_until(lambda: said.extend(ear.next()) or "READY=1" in said, "the new server")
    (new,) = [line[len("MAINPID="):] for line in said if line.startswith("MAINPID=")]
    assert "pid=%s" % new in world.busd("status").stdout
    assert said.index("MAINPID=" + new) < said.index("READY=1"), "the manager believes the old one first"
    wait_until(lambda: "WATCHDOG=1" in ear.next(), "a sign of life of the new one")
    assert world.socket_identity() == manager.identity
    # The manager's files say how it runs, not whoever asks for the restart.
    (world.root / "hermes-bus").mkdir(exist_ok=True)
    (world.root / "hermes-bus" / "config.yaml").write_text("sessions:\n  linger: 9s\n")
    assert "linger" not in world.busd("reload").stdout, "--set still holds"
    os.kill(int(new), signal.SIGTERM)
    wait_until(lambda: "STOPPING=1" in ear.next(), "the farewell")
    wait_until(lambda: "(pid=%s)" % new not in world.busd("status").stdout, "its end")
    assert world.socket_identity() == manager.identity, "it is not unlinked"


def test_a_reload_is_told_to_the_manager(world):
    ear = Ear(world)
    server = world.spawn([SERVER], env={"NOTIFY_SOCKET": ear.path}, output="hermes-bus-server.out")
    wait_until(lambda: "READY=1" in ear.next(), "the server")
    os.kill(server.pid, signal.SIGHUP)
    first = ear.next()
    assert "RELOADING=1" in first and any(line.startswith("MONOTONIC_USEC=") for line in first), first
    assert "READY=1" in ear.next()
    server.terminate()
    assert server.wait(10) == 0
