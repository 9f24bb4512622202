"""`hermes-bus doctor`: every trouble is provoked, named, and repaired where that is safe."""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import time

import pytest

import procfs
from wire import encode
from world import BIN, ORIGINALS, answers, leave_dead_socket, listen_at, wait_until

# What the machine that the tests run on is like is not theirs to say.
MACHINE = {"disk", "waiting connections", "open files", "plugin log"}
PROGRAMS = ("hermes-busd", "hermes-bus-server", "hermes-bus", "notify-hermes", "notify-agent")


class Report:
    """What the doctor said, as JSON."""

    def __init__(self, done):
        assert done.stderr == "" and done.stdout.count("\n") == 1, (done.stdout, done.stderr)
        said = json.loads(done.stdout)
        self.findings, self.repairs, self.ok, self.root = said["findings"], said["repairs"], said["ok"], said["root"]
        assert done.returncode == (0 if self.ok else 1)
        assert self.ok == (not [f for f in self.findings if f["severity"] in ("warning", "problem")])
        # Whoever reads that something is wrong reads what to do.
        assert all(f["advice"] for f in self.findings if f["severity"] in ("warning", "problem")), self.findings
        assert not [f for f in self.findings if f["fixable"] and f["severity"] not in ("warning", "problem")]

    def of(self, check):
        found = [f for f in self.findings if f["check"] == check]
        assert found, (check, self.findings)
        return max(found, key=lambda f: ["ok", "note", "warning", "problem"].index(f["severity"]))

    def troubles(self):
        return {f["check"] for f in self.findings if f["severity"] in ("warning", "problem")} - MACHINE


def doctor(world, *arguments, within_s=20, **more):
    return Report(world.run([BIN / "hermes-bus", "doctor", "--json", *arguments], within_s=within_s, **more))


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def write_pid_file(world, text):
    world.pid_file.parent.mkdir(mode=0o700, exist_ok=True)
    world.pid_file.write_text(str(text))


def dead_pid(world):
    child = world.spawn(["true"])
    child.wait(10)
    return child.pid


# ---- nothing is wrong ----
def test_a_fresh_root_is_fine_and_stays_as_it_is(world):
    """No bus is no trouble. Nothing is started, nothing is made."""
    report = doctor(world, "--fix")
    assert report.troubles() == set() and report.repairs == [] and report.root == str(world.root)
    assert report.of("bus")["severity"] == "note" and "hermes-busd start" in report.of("bus")["advice"]
    assert world.processes() == [] and list(world.root.iterdir()) == []


def test_a_missing_root_is_not_made(world):
    """Looking changes nothing."""
    report = doctor(world, "--fix", env={"HERMES_BUS_ROOT": world.directory / "none", "HERMES_HOME": None})
    assert report.troubles() == set() and not (world.directory / "none").exists()


def test_a_healthy_bus_is_fine(world):
    """Daemon, socket, lock, PID file and versions agree."""
    pid = world.start_daemon()
    world.connect("worker")
    report = doctor(world, "--fix")
    assert report.troubles() == set() and report.repairs == []
    assert all("pid %d" % pid in report.of(check)["what"] for check in ("bus", "lock", "PID file"))
    assert "1 endpoints" in report.of("bus")["what"]
    assert report.of("HERMES_HOME")["severity"] == "ok"
    assert [report.of(program)["severity"] for program in PROGRAMS] == ["ok"] * 5
    assert world.endpoints().keys() == {"worker"}, "the doctor registers nothing"


def test_a_foreground_server_is_fine(world, server):
    """It has no PID file, which is right."""
    report = doctor(world)
    assert report.troubles() == set() and "foreground" in report.of("PID file")["what"]


def test_for_people_there_is_a_line_a_check_and_a_summary(world):
    """Aligned, without escapes when it is not on a terminal; advice stands below."""
    leave_dead_socket(world.socket_path)
    done = world.run([BIN / "hermes-bus", "doctor"])
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and done.stderr == "" and "\x1b" not in done.stdout
    assert re.match(r"ok       root  +/", lines[0]), lines[0]
    place = next(i for i, line in enumerate(lines) if line.startswith("warning  socket  "))
    assert lines[place + 1].strip().startswith("→ ")
    assert lines[place].index(world.socket_path) == lines[place + 1].index("→")
    assert re.match(r"\d+ things? to do, 1 of them with 'hermes-bus doctor --fix'$", lines[-1]), lines[-1]
    done = world.run([BIN / "hermes-bus", "doctor", "--fix"])
    assert done.stdout.startswith("fixed: ") and not os.path.exists(world.socket_path)


# ---- what a dead bus leaves behind ----
@pytest.mark.parametrize("text", ["dead", "garbage", "0", "bystander"])
def test_a_wrong_pid_file_is_removed(world, text):
    """Whatever it holds; a process that it merely names is left alone."""
    bystander = world.spawn(["sleep", "600"])
    write_pid_file(world, {"dead": dead_pid(world), "bystander": bystander.pid}.get(text, text))
    report = doctor(world)
    assert report.troubles() == {"PID file"} and report.of("PID file")["fixable"] and world.pid_file.exists()
    report = doctor(world, "--fix")
    assert report.troubles() == set() and [r["ok"] for r in report.repairs] == [True]
    assert not world.pid_file.exists() and bystander.poll() is None
    assert doctor(world).troubles() == set()


def test_after_a_crash_all_is_cleaned_up_at_once(world):
    """Socket and PID file of a bus that was killed."""
    pid = world.start_daemon()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not procfs.alive(pid), "the daemon to be gone")
    assert doctor(world).troubles() == {"socket", "PID file"}
    report = doctor(world, "--fix")
    assert report.troubles() == set() and len(report.repairs) == 1
    assert not os.path.exists(world.socket_path) and not world.pid_file.exists()


def test_open_modes_are_closed(world):
    """Of what the bus made: run directory, log, socket. The root is the user's, and only told about."""
    world.start_daemon()
    for path, wrong in ((world.root, 0o777), (world.root / "run", 0o777), (world.log_file, 0o666), (world.socket_path, 0o666)):
        os.chmod(path, wrong)
    report = doctor(world)
    assert report.troubles() == {"root", "run directory", "log", "socket"}
    assert [c for c in ("root", "run directory", "log", "socket") if report.of(c)["fixable"]] == ["run directory", "log", "socket"]
    report = doctor(world, "--fix")
    assert report.troubles() == {"root"} and report.of("root")["advice"] == "chmod go-w %s" % world.root
    assert (mode(world.root), mode(world.root / "run"), mode(world.log_file), mode(world.socket_path)) == (0o777, 0o700, 0o600, 0o600)
    assert answers(world.socket_path)


def test_a_socket_that_the_bus_itself_has_opened_to_others_stays_open(world):
    """Its command line or environment lets others connect; the doctor's own does not say so."""
    os.chmod(world.directory, 0o711)
    os.chmod(world.root, 0o711)
    for arguments, env in ((["--set", "access.allow_uids=[12345]"], {}), ([], {"HERMES_BUS_ACCESS_ALLOW_UIDS": "[12345]"})):
        assert world.busd("start", *arguments, env=env).returncode == 0
        report = doctor(world, "--fix")
        assert report.troubles() == set() and report.repairs == []
        assert mode(world.socket_path) == 0o666
        assert world.busd("stop").returncode == 0


def test_a_root_that_the_others_who_may_connect_cannot_enter(world):
    """The socket is open to them, and a directory above it is not; the bus says so too."""
    os.chmod(world.directory, 0o711)
    assert world.busd("start", "--set", "access.allow_uids=[12345]").returncode == 0
    assert "%s is closed to them" % world.root in world.log_file.read_text()
    findings = [f for f in doctor(world).findings if f["check"] == "socket" and f["severity"] == "warning"]
    assert [f["advice"] for f in findings] == ["chmod o+x %s" % world.root]


def test_files_of_the_user_are_never_touched(world):
    """A file in the socket's place, a link in the log's place."""
    (world.root / "hermes-bus.sock").write_text("precious")
    (world.root / "run").mkdir(mode=0o700)
    (world.directory / "precious.log").write_text("precious")
    os.chmod(world.directory / "precious.log", 0o644)
    world.log_file.symlink_to(world.directory / "precious.log")
    report = doctor(world, "--fix")
    assert report.of("socket")["severity"] == "problem" and not report.of("socket")["fixable"]
    assert (world.root / "hermes-bus.sock").read_text() == "precious"
    assert mode(world.directory / "precious.log") == 0o644 and world.log_file.is_symlink()


# ---- a bus that is not well ----
def test_a_stopped_bus_is_named_without_waiting_for_it(world):
    """The doctor does not hang with it, and does not touch it."""
    pid = world.start_daemon()
    os.kill(pid, signal.SIGSTOP)
    try:
        report = doctor(world, "--fix")
        assert {"bus", "socket"} <= report.troubles() and report.repairs == []
        assert report.of("bus")["advice"].startswith("kill -CONT %d" % pid)
        assert procfs.alive(pid) and os.path.exists(world.socket_path) and world.pid_in_file() == pid
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: doctor(world).troubles() == set(), "the bus to go on")


def test_a_hung_bus_is_named(world):
    """A listener that never answers, while it runs: its process is told, and how to end it."""
    with listen_at(world.socket_path):
        report = doctor(world)
        assert {"bus", "socket"} <= report.troubles()
        assert str(os.getpid()) in report.of("bus")["what"] and "hermes-busd restart" in report.of("bus")["advice"]


def test_a_socket_that_is_gone_while_the_bus_is_stopped(world):
    """Somebody deleted it; a healthy bus binds it anew, this one cannot."""
    pid = world.start_daemon()
    os.kill(pid, signal.SIGSTOP)
    try:
        os.unlink(world.socket_path)
        report = doctor(world)
        assert {"bus", "socket"} <= report.troubles() and "is gone" in report.of("socket")["what"]
    finally:
        os.kill(pid, signal.SIGCONT)


def test_two_that_fight_over_a_root_are_told_apart(world):
    """One has the lock, the path leads to another one."""
    pid = world.start_daemon()
    os.kill(pid, signal.SIGSTOP)
    try:
        os.unlink(world.socket_path)
        with listen_at(world.socket_path):
            lock = doctor(world).of("lock")
            assert lock["severity"] == "problem" and str(pid) in lock["what"] and str(os.getpid()) in lock["what"]
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_pid_file_that_names_another_process_than_the_bus(world):
    """It is told, and left for the bus to write anew."""
    world.start_daemon()
    write_pid_file(world, os.getpid())
    report = doctor(world, "--fix")
    assert report.troubles() == {"PID file"} and world.pid_in_file() == os.getpid()


def fake_bus(world, answer):
    """A bus of another version: answers every listing with this."""
    script = ("import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1]); s.listen(16)\n"
              "while True:\n    c, _ = s.accept()\n    c.recv(65536); c.sendall(bytes.fromhex(sys.argv[2])); c.close()\n")
    child = world.spawn([shutil.which("python3"), "-c", script, world.socket_path, encode(answer).hex()], output="fake.out")
    wait_until(lambda: os.path.exists(world.socket_path), "the other bus")
    return child


def test_an_older_bus_than_the_program(world):
    """Both versions are named, and how to get to one."""
    server = {"server": "hermes-bus/0.0.1", "uptime_s": 5.0, "counters": {}}
    fake_bus(world, {"type": "endpoint_list", "endpoints": {}, "details": [], "server": server})
    version = doctor(world).of("version")
    assert version["severity"] == "warning" and "hermes-bus/0.0.1" in version["what"] and "restart" in version["advice"]


@pytest.mark.parametrize("original", sorted(ORIGINALS))
def test_a_released_python_bus_is_recognised(world, original):
    """It runs on this root; the way to this one is told."""
    python = ORIGINALS[original]
    world.spawn([python, "-m", "hermes_bus.server"], output="original.out")
    wait_until(lambda: answers(world.socket_path), "the original server")
    report = doctor(world)
    version = report.of("version")
    assert version["severity"] == "problem" and "Python" in version["what"] and "hermes_bus.server" in version["what"]
    assert "hermes-busd restart" in version["advice"]
    assert world.busd("restart").returncode == 0
    assert doctor(world).troubles() <= {"log", "run directory"}


def test_few_open_files(world):
    """The limit that the daemon runs with, not the one of the doctor."""
    world.serve(open_files=(256, 256))
    finding = doctor(world).of("open files")
    assert finding["severity"] == "warning" and "256" in finding["what"] and "ulimit" in finding["advice"]


def test_nearly_all_open_files_in_use(world):
    """Connections are about to be turned away."""
    world.serve(open_files=(2048, 2048))
    with contextlib.ExitStack() as crowd:
        for _ in range(1700):
            s = crowd.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            s.connect(world.socket_path)
        finding = wait_until(lambda: (lambda f: f["severity"] == "warning" and f)(doctor(world).of("open files")), "the daemon to have let them in")
        assert "of 2048 are in use" in finding["what"]


# ---- places ----
def test_a_path_that_is_too_long(world):
    """No socket fits; a shorter root is asked for."""
    root = world.directory / ("r" * 100)
    finding = doctor(world, env={"HERMES_BUS_ROOT": root, "HERMES_HOME": root}).of("socket")
    assert finding["severity"] == "problem" and "too long" in finding["what"] and "HERMES_BUS_ROOT" in finding["advice"]


def test_a_root_that_is_a_file(world):
    """Nothing else can be examined, and nothing breaks."""
    (world.directory / "file").write_text("x")
    report = doctor(world, env={"HERMES_BUS_ROOT": world.directory / "file"})
    assert report.of("root")["severity"] == "problem"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user(world):
    """A root and a run directory that this user could not use."""
    (world.root / "run").mkdir()
    os.chown(world.root, 12345, 12345)
    os.chown(world.root / "run", 12345, 12345)
    report = doctor(world, "--fix")
    assert {"root", "run directory"} <= report.troubles() and "12345" in report.of("root")["what"]
    os.chown(world.root, 0, 0)


def test_files_from_the_future(world):
    """The clock was set back: worth knowing, nothing to do."""
    world.start_daemon()
    later = time.time() + 3600
    os.utime(world.log_file, (later, later))
    clock = doctor(world).of("clock")
    assert clock["severity"] == "note" and "busd.log" in clock["what"]


def test_an_open_configuration(world):
    """Who can write it decides who may connect."""
    (world.root / "hermes-bus").mkdir(exist_ok=True)
    config = world.root / "hermes-bus" / "config.yaml"
    config.write_text("")
    os.chmod(config, 0o666)
    report = doctor(world, "--fix")
    assert report.of("configuration")["severity"] == "warning" and mode(config) == 0o666


def test_a_configuration_in_another_place(world):
    """The file that counts is the one that is told."""
    config = world.directory / "mine.yaml"
    config.write_text("log: {level: warn}")
    os.chmod(config, 0o600)
    finding = doctor(world, env={"HERMES_BUS_CONFIG": config}).of("configuration")
    assert (finding["severity"], finding["what"]) == ("ok", str(config))


# ---- released versions ----
def test_an_empty_root_variable(world):
    """Released clients take it for the directory that they are in."""
    report = doctor(world, env={"HERMES_BUS_ROOT": ""})
    assert report.troubles() == {"HERMES_BUS_ROOT"} and report.root == str(world.root)


def test_where_clients_of_0_5_0_look(world):
    """A link to the socket, or a way to get one."""
    home = world.directory / "home"
    home.mkdir()
    place = home / "hermes-bus.sock"
    world.start_daemon(env={"HERMES_HOME": home})
    env = {"HERMES_HOME": home}
    assert doctor(world, env=env).of("HERMES_HOME")["severity"] == "ok"
    place.unlink()
    finding = doctor(world, env=env).of("HERMES_HOME")
    assert finding["severity"] == "warning" and "hermes-busd restart" in finding["advice"]
    leave_dead_socket(place)
    finding = doctor(world, "--fix", env=env).of("HERMES_HOME")
    assert finding["severity"] == "warning" and "rm %s" % place in finding["advice"] and place.is_socket()
    place.unlink()
    world.busd("restart", env=env)
    assert doctor(world, env=env).of("HERMES_HOME")["severity"] == "ok"


def test_a_bus_in_the_usual_place_beside_this_one(world):
    """Clients without the variable go there."""
    pid = world.start_daemon()
    env = {"HERMES_BUS_ROOT": world.directory / "other", "HERMES_HOME": None}
    finding = doctor(world, env=env).of("other bus")
    assert finding["severity"] == "note" and "pid %d" % pid in finding["what"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not procfs.alive(pid), "the daemon to be gone")
    finding = doctor(world, env=env).of("other bus")
    assert "--root %s --fix" % world.root in finding["advice"]
    assert doctor(world, "--root", str(world.root), "--fix").repairs


@pytest.mark.parametrize("original", sorted(ORIGINALS))
def test_programs_of_the_python_package_on_path(world, original):
    """First on PATH they win: said, with what to put where. Behind these they are only worth a note."""
    theirs = os.path.dirname(ORIGINALS[original])
    system = "/usr/bin:/bin"
    report = doctor(world, env={"PATH": "%s:%s:%s" % (theirs, BIN, system)})
    assert report.troubles() == {"hermes-busd", "hermes-bus-server", "notify-hermes", "notify-agent"}
    assert report.of("hermes-busd")["severity"] == "problem" and report.of("notify-hermes")["severity"] == "warning"
    assert report.of("hermes-busd")["advice"].startswith("put %s before %s on PATH" % (os.path.realpath(BIN), theirs))
    report = doctor(world, env={"PATH": "%s:%s:%s" % (BIN, theirs, system)})
    assert report.troubles() == set() and report.of("hermes-busd")["severity"] == "note"
    report = doctor(world, env={"PATH": system})
    assert report.troubles() == set() and "not on PATH" in report.of("hermes-bus")["what"]


def test_the_doctor_takes_the_root_from_the_socket(world):
    """`--socket` in a root directory means that root; elsewhere it has to be given."""
    assert doctor(world, "--socket", world.socket_path, env={"HERMES_BUS_ROOT": None, "HOME": "/nonexistent"}).root == str(world.root)
    done = world.run([BIN / "hermes-bus", "doctor", "--socket", str(world.directory / "other.sock")])
    assert done.returncode == 1 and "--root" in done.stderr
