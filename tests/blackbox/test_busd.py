"""The daemon manager on good days: start, stop, status, restart."""
import json
import os
import re
import signal
import stat
import subprocess

import pytest

import procfs
from wire import message
from world import BIN, alarms_in, answers, leave_dead_socket, wait_until


def pid_said(text):
    return int(re.search(r"\(pid=(\d+)\)", text).group(1))


def test_start_tells_where_everything_is(world):
    """The three lines that scripts read, a pid file with the truth, and a bus that answers already."""
    done = world.busd("start")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert answers(world.socket_path)
    pid = world.pid_in_file()
    assert done.stdout.splitlines() == ["busd started (pid=%d)" % pid, "  socket: " + world.socket_path, "  log:    %s" % world.log_file]
    assert procfs.alive(pid)
    assert stat.S_IMODE(os.stat(world.socket_path).st_mode) == 0o600


def test_a_second_start_finds_the_daemon(world):
    """Nothing is started twice."""
    pid = world.start_daemon()
    identity = world.socket_identity()
    again = world.busd("start")
    assert (again.returncode, again.stdout) == (0, "busd already running (pid=%d)\n" % pid)
    assert world.processes() == [pid] and world.socket_identity() == identity


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("leftover", [False, True], ids=["clean", "dead-socket"])
def test_starts_at_the_same_moment_give_one_daemon(world, count, leftover):
    """Several shells start the bus at once: one daemon, and every command succeeds and names it."""
    if leftover:
        leave_dead_socket(world.socket_path)
    starters = [subprocess.Popen([str(BIN / "hermes-busd"), "start"], env=world.environment, cwd=world.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, universal_newlines=True) for _ in range(count)]
    said = [s.communicate(timeout=30)[0] for s in starters]
    assert [s.returncode for s in starters] == [0] * count, said
    pid = world.pid_in_file()
    assert {pid_said(text) for text in said} == {pid}, said
    wait_until(lambda: world.processes() == [pid], "exactly one daemon to be left")
    assert answers(world.socket_path)


def test_stop_ends_the_daemon_and_removes_its_traces(world):
    """Process, socket and pid file are gone when the command returns."""
    pid = world.start_daemon()
    client = world.connect("client")
    done = world.busd("stop")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "Stopping busd (pid=%d)..." % pid and done.stdout.splitlines()[-1] == "busd stopped"
    assert not procfs.alive(pid) and not os.path.exists(world.socket_path) and not world.pid_file.exists()
    assert client.rest() == []


def test_a_signal_ends_the_daemon_as_well(world):
    """SIGTERM from a service manager: what is queued is handed over, socket and pid file are removed."""
    pid = world.start_daemon()
    receiver, sender = world.connect("receiver"), world.connect("sender")
    sender.send(*[message("receiver", [n, "x" * 9900]) for n in range(100)])
    sender.fence()
    os.kill(pid, signal.SIGTERM)
    assert [f["body"][0] for f in receiver.rest()] == list(range(100))
    wait_until(lambda: not procfs.alive(pid), "the daemon to end")
    assert not os.path.exists(world.socket_path) and not world.pid_file.exists()


def test_stop_where_nothing_runs(world):
    """No daemon is a fine state: said so, exit 0."""
    done = world.busd("stop")
    assert done.returncode == 0 and done.stdout.startswith("busd not running (no PID file)")


def test_restart_gives_a_new_daemon(world):
    """Stopped and started in one command; the new one answers."""
    old = world.start_daemon()
    done = world.busd("restart")
    assert done.returncode == 0
    new = world.pid_in_file()
    assert new != old and not procfs.alive(old) and answers(world.socket_path)
    assert "busd stopped" in done.stdout and "busd started (pid=%d)" % new in done.stdout


def test_restart_where_nothing_runs_starts(world):
    """`restart` is what plugins call when they are worried."""
    done = world.busd("restart")
    assert done.returncode == 0 and "busd started (pid=%d)" % world.pid_in_file() in done.stdout


def test_status_of_a_healthy_daemon(world):
    """First who runs and where, then the endpoints in order, in the form that the original prints; no word that makes a plugin restart the bus."""
    pid = world.start_daemon()
    assert world.busd("status").stdout.splitlines()[:4] == ["busd running (pid=%d)" % pid, "  socket: %s ✓" % world.socket_path, "  log:    %s" % world.log_file,
                                                            "  No connected endpoints"]
    sessions = {name: world.connect(name).session_id for name in ("zeta", "alpha", "mid")}
    done = world.busd("status")
    lines = done.stdout.splitlines()
    start = lines.index("  Connected endpoints (3):")
    assert lines[start + 1:start + 4] == ["    %s  (sid=%s...)" % (name, sessions[name][:8]) for name in sorted(sessions)]
    assert done.returncode == 0 and alarms_in(done.stdout + done.stderr) == []
    assert world.endpoints() == sessions, "status must not register anything"


@pytest.mark.parametrize("name", ["stale-checker", "not running", "No Socket here", "it does not respond"])
def test_no_endpoint_can_raise_the_alarm_by_its_name(world, name):
    """A healthy bus with an unluckily named endpoint must not be restarted by a plugin that searches for words."""
    world.start_daemon()
    world.connect(name)
    done = world.busd("status")
    assert "  Connected endpoints (1):" in done.stdout.splitlines()
    assert alarms_in(done.stdout + done.stderr) == []


def test_no_old_log_line_can_raise_the_alarm(world):
    """The log may tell of bad days; the status of a good day must not."""
    world.start_daemon()
    with open(world.log_file, "a") as log:
        log.write("[2026-01-01T00:00:00.000000Z] connection refused: stale socket file, not running, not responding\n")
    done = world.busd("status")
    assert "busd running" in done.stdout and alarms_in(done.stdout + done.stderr) == []


def test_status_for_scripts(world):
    """`--json` is one object that names the daemon and its endpoints, and says as much when nothing runs."""
    idle = world.busd("status", "--json")
    assert idle.returncode == 0 and isinstance(json.loads(idle.stdout), dict)
    pid = world.start_daemon()
    session = world.connect('odd "name"').session_id
    done = world.busd("status", "--json")
    status = json.loads(done.stdout)
    assert done.returncode == 0 and isinstance(status, dict)
    assert status.get("pid") == pid
    text = json.dumps(status)
    assert json.dumps('odd "name"') in text and session in text


def test_the_daemon_is_on_its_own(world):
    """It outlives its starter, in a session of its own, with no terminal and no borrowed pipe."""
    pid = world.start_daemon()
    assert os.getsid(pid) == pid
    assert os.readlink("/proc/%d/fd/0" % pid) == "/dev/null"
    kept = [os.readlink("/proc/%d/fd/%s" % (pid, fd)) for fd in ("1", "2")]
    assert not [k for k in kept if k.startswith("pipe:")], "whoever reads the starter's output would wait for the daemon: %r" % kept


def test_a_daemon_for_another_root(world):
    """`--root` wins over the environment, and two roots are two buses."""
    here = world.start_daemon()
    other = world.directory / "other"
    done = world.busd("start", "--root", other)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "  socket: %s/hermes-bus.sock" % other in done.stdout.splitlines()
    assert answers(str(other / "hermes-bus.sock")) and stat.S_IMODE(other.stat().st_mode) == 0o700
    assert world.busd("stop", "--root", other).returncode == 0
    assert not os.path.exists(other / "hermes-bus.sock") and procfs.alive(here) and answers(world.socket_path)


def test_an_empty_variable_counts_as_not_set(world):
    """Set to nothing means the home directory."""
    done = world.busd("start", env={"HERMES_BUS_ROOT": "", "HERMES_HOME": ""})
    assert done.returncode == 0
    assert "  socket: %s/.hermes/hermes-bus.sock" % world.directory in done.stdout.splitlines()
    assert answers(world.socket_path)


def test_paths_are_printed_as_they_were_given(world):
    """A root reached over a link is shown as the user knows it."""
    (world.directory / "link").symlink_to(world.root)
    done = world.busd("start", env={"HERMES_BUS_ROOT": world.directory / "link"})
    assert "  socket: %s/link/hermes-bus.sock" % world.directory in done.stdout.splitlines()


def test_the_log_speaks_of_start_and_stop(world):
    """Each line with its time in UTC."""
    pid = world.start_daemon()
    world.busd("stop")
    log = world.log_file.read_text()
    stamp = r"^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z\] "
    assert re.search(stamp + "start: server pid=%d" % pid, log, re.M)
    assert re.search(stamp + "stop: complete", log, re.M)


def test_a_long_log_is_cut_in_place(world):
    """Over 500,000 bytes only the last 250,000 stay, in the same file, and what is written afterwards follows them."""
    world.log_file.parent.mkdir(parents=True)
    world.log_file.write_text("".join("old line %06d %s\n" % (n, "." * 30) for n in range(20000)))
    inode = world.log_file.stat().st_ino
    world.start_daemon()
    world.busd("stop")
    log = world.log_file.read_bytes()
    assert world.log_file.stat().st_ino == inode
    assert 200_000 < len(log) < 300_000
    assert b"old line 019999" in log and b"old line 000000" not in log and b"\0" not in log
    assert log.index(b"old line 019999") < log.index(b"stop: complete")


@pytest.mark.parametrize("arguments", [[], ["bogus"], ["start", "extra"], ["--nope"]], ids=["none", "unknown", "too-many", "unknown-option"])
def test_wrong_usage(world, arguments):
    """Usage on stderr, exit 2, and nothing started."""
    done = world.busd(*arguments)
    assert done.returncode == 2 and "usage:" in done.stderr.lower() and done.stdout == ""
    assert world.processes() == []
