"""The daemon manager on bad days: hung, killed, misleading files, no room to start, and servers that it did not start."""
import os
import signal

import pytest

import procfs
from world import alarms_in, answers, leave_dead_socket, wait_until


@pytest.fixture
def bystander(world):
    """A live program that has nothing to do with the bus. It must survive everything."""
    process = world.spawn(["sleep", "600"])
    yield process
    assert process.poll() is None, "a program that a PID file merely names was ended"


def write_pid_file(world, text):
    world.pid_file.parent.mkdir(parents=True, exist_ok=True)
    world.pid_file.write_text(str(text))


def dead_pid(world):
    child = world.spawn(["true"])
    child.wait(10)
    return child.pid


def no_debris(done):
    """What a user reads is a sentence, not the inside of a program."""
    text = done.stdout + done.stderr
    assert not [word for word in ("Traceback", "panicked", "RUST_BACKTRACE", "Os {") if word in text], text
    return text


# ---- hung ----
@pytest.fixture
def hung(world):
    """The pid of a daemon that is stopped in its tracks, as a hung one would be."""
    pid = world.start_daemon()
    os.kill(pid, signal.SIGSTOP)
    yield pid
    if procfs.alive(pid):
        os.kill(pid, signal.SIGCONT)


def test_status_of_a_hung_daemon(world, hung):
    """It says so within the five seconds that plugins wait, in words that plugins understand, and touches nothing."""
    done = world.busd("status", within_s=5)
    assert "pid=%d exists but socket is unresponsive (does not respond)" % hung in done.stdout
    assert done.returncode == 0 and "not respond" in alarms_in(done.stdout)
    assert procfs.alive(hung) and os.path.exists(world.socket_path)


def test_stop_of_a_hung_daemon(world, hung):
    """It cannot answer the polite signal, so it is ended; its traces go too."""
    done = world.busd("stop")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "busd stopped"
    wait_until(lambda: not procfs.alive(hung), "the hung daemon to be gone")
    assert not os.path.exists(world.socket_path) and not world.pid_file.exists()


def test_restart_of_a_hung_daemon(world, hung):
    """What plugins do about it, within the ten seconds that they wait: a new daemon answers."""
    done = world.busd("restart", within_s=10)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert world.pid_in_file() != hung and answers(world.socket_path)
    wait_until(lambda: not procfs.alive(hung), "the hung daemon to be gone")


# ---- killed ----
def test_after_a_kill_status_raises_the_alarm_and_start_helps(world):
    """kill -9: plugins can read that the bus is gone, and one `start` makes it new; a client registers again."""
    old = world.start_daemon()
    world.connect("client")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not procfs.alive(old), "the killed daemon to be gone")
    done = world.busd("status")
    assert done.returncode == 0 and alarms_in(done.stdout)
    new = world.start_daemon()
    assert new != old
    client = world.connect("client")
    assert world.endpoints() == {"client": client.session_id}


@pytest.mark.parametrize("kills", [30, pytest.param(3000, marks=pytest.mark.soak)])
def test_kills_in_a_row(world, kills):
    """Killed in the middle of traffic again and again: each start succeeds and the bus works."""
    for n in range(kills):
        pid = world.start_daemon()
        receiver, sender = world.connect("receiver"), world.connect("sender")
        for k in range(200):
            sender.message("receiver", [n, k])
        assert receiver.expect("message")["body"] == [n, 0]
        for c in (receiver, sender):
            c.hang_up()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not procfs.alive(pid), "the killed daemon to be gone")


# ---- misleading files ----
@pytest.mark.parametrize("command", ["start", "stop", "status", "restart"])
def test_a_pid_file_that_names_somebody_else(world, bystander, command):
    """The daemon died long ago and its number belongs to another program now: that program is never signalled."""
    write_pid_file(world, bystander.pid)
    leave_dead_socket(world.socket_path)
    done = world.busd(command)
    assert done.returncode == 0
    no_debris(done)
    if command in ("start", "restart"):
        assert world.pid_in_file() != bystander.pid and answers(world.socket_path)
    elif command == "status":
        assert alarms_in(done.stdout)
    assert bystander.poll() is None


def test_stop_finds_the_real_daemon_behind_a_wrong_pid_file(world, bystander):
    """Somebody overwrote the file: who owns the socket is known to the kernel."""
    pid = world.start_daemon()
    write_pid_file(world, bystander.pid)
    assert world.busd("stop").returncode == 0
    wait_until(lambda: not procfs.alive(pid), "the daemon to be gone")
    assert bystander.poll() is None and not os.path.exists(world.socket_path)


def test_start_finds_the_running_daemon_behind_a_wrong_pid_file(world, bystander):
    """No second daemon, and the true number is told."""
    pid = world.start_daemon()
    identity = world.socket_identity()
    write_pid_file(world, bystander.pid)
    done = world.busd("start")
    assert (done.returncode, done.stdout) == (0, "busd already running (pid=%d)\n" % pid)
    assert world.socket_identity() == identity


# Never a number below 2 in here: a program that took it for a pid would signal everything at once, the test included.
@pytest.mark.parametrize("garbage", ["abc\n", "", "12 34", "99999999999999999999", "\x00\xff"], ids=["text", "empty", "two", "huge", "binary"])
@pytest.mark.parametrize("command", ["start", "stop", "status"])
def test_a_garbage_pid_file(world, command, garbage):
    """Whatever stands in the file, each command does its work and explains itself in words."""
    write_pid_file(world, garbage)
    done = world.busd(command)
    assert done.returncode == 0
    no_debris(done)
    if command == "start":
        assert procfs.alive(world.pid_in_file()) and answers(world.socket_path)
    elif command == "stop":
        assert not world.pid_file.exists()


def test_a_dead_pid_and_a_dead_socket(world):
    """The rest of a crash: status calls it by its name, start clears it away."""
    pid = dead_pid(world)
    write_pid_file(world, pid)
    leave_dead_socket(world.socket_path)
    assert world.busd("status").stdout.startswith("busd not running (pid=%d" % pid)
    write_pid_file(world, pid)
    assert world.start_daemon() != pid


def test_stop_clears_a_dead_socket(world):
    """Nobody runs, only the file is left: removed."""
    leave_dead_socket(world.socket_path)
    assert world.busd("status").stdout.lower().count("stale") >= 1
    assert world.busd("stop").returncode == 0
    assert not os.path.exists(world.socket_path)


# ---- a server that was started by hand ----
def test_status_of_a_foreground_server(world):
    """It is seen, with its endpoints, and no word raises an alarm."""
    server = world.serve()
    client = server.connect("client")
    done = world.busd("status")
    assert done.returncode == 0 and "socket is alive" in done.stdout
    assert "    client  (sid=%s...)" % client.session_id[:8] in done.stdout.splitlines()
    assert alarms_in(done.stdout + done.stderr) == []
    assert not world.pid_file.exists(), "the original tells a foreground server by the missing file"


def test_start_beside_a_foreground_server(world):
    """There is a bus already: nothing is started, its clients stay."""
    server = world.serve()
    client = server.connect("client")
    identity = world.socket_identity()
    done = world.busd("start")
    assert done.returncode == 0 and "busd already running (pid=%d)" % server.pid in done.stdout
    assert server.endpoints() == {"client": client.session_id} and world.socket_identity() == identity
    client.fence()


def test_stop_of_a_foreground_server(world):
    """`stop` means the bus of this root, whoever started it."""
    server = world.serve()
    done = world.busd("stop")
    assert done.returncode == 0
    assert server.process.wait(10) == 0
    assert not os.path.exists(world.socket_path)


# ---- no way to start ----
def refused(world, **more):
    done = world.busd("start", **more)
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    wait_until(lambda: world.processes() == [], "a failed start to leave no process behind")
    return no_debris(done)


def test_a_directory_where_the_socket_should_be(world):
    """The reason names the path; the directory and what is in it stay."""
    os.makedirs(world.socket_path)
    (world.root / "hermes-bus.sock" / "keep").write_text("x")
    assert world.socket_path in refused(world)
    assert (world.root / "hermes-bus.sock" / "keep").exists()
    assert not world.pid_file.exists()


def test_a_root_that_cannot_be_made(world):
    """A file stands where a directory is needed: the reason names the place."""
    (world.directory / "file").write_text("x")
    root = world.directory / "file" / "root"
    assert str(root) in refused(world, env={"HERMES_BUS_ROOT": root, "HERMES_HOME": root})


def test_a_path_too_long_for_a_socket(world):
    """The kernel takes 107 bytes: said in words, not by a number of the system."""
    root = world.directory / ("deep" * 30)
    text = refused(world, env={"HERMES_BUS_ROOT": root, "HERMES_HOME": root})
    assert "too long" in text.lower() or "107" in text or "108" in text


def test_a_regular_file_where_the_socket_should_be(world):
    """It is not ours to delete."""
    with open(world.socket_path, "w") as f:
        f.write("precious")
    refused(world)
    with open(world.socket_path) as f:
        assert f.read() == "precious"
