"""The log: what is in it, in which form, and what happens when it cannot be written."""
import json
import os
import re
import shutil
import signal
import struct
import subprocess

import pytest

import wire
from world import BIN, answers, wait_until

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


def lines(world):
    return world.log_file.read_text().splitlines()


def traffic(world):
    """What a healthy bus is for."""
    a, b = world.connect("a"), world.connect("b")
    for n in range(50):
        a.message("b", n)
    for n in range(50):
        assert b.expect("message")["body"] == n
    a.message("", "to everyone")
    for receiver in (a, b):
        assert receiver.expect("message")["body"] == "to everyone"
    b.hang_up()
    world.connect("b").fence()
    a.fence()


def test_a_healthy_bus_writes_of_its_start_and_end_only(world):
    world.start_daemon()
    traffic(world)
    assert world.busd("stop").returncode == 0
    said = [line.split("] ", 1)[1] for line in lines(world)]
    expected = [r"info: listening on .*", r"start: server pid=\d+, version=.*", r"stop: sending SIGTERM to pid=\d+", "info: stopping", "info: stopped", "stop: complete"]
    assert sorted(said) == sorted(line for pattern in expected for line in said if re.fullmatch(pattern, line)) and len(said) == len(expected), said
    assert all(re.match(r"\[%s\] " % STAMP, line) for line in lines(world))


def test_a_healthy_foreground_server_is_silent(world):
    server = world.serve()
    traffic(world)
    assert server.stop() == 0
    said = [line for line in world.output("hermes-bus-server.out").splitlines() if not line.startswith("[HermesBus]")]
    assert [line.split("] ", 1)[1] for line in said] == ["info: stopping", "info: stopped"]


def log_of(world, pattern, count=1):
    """The lines that match, when there are so many."""
    def found():
        matching = [line for line in world.output("hermes-bus-server.out").splitlines() if re.search(pattern, line)]
        return matching if len(matching) >= count else None
    return wait_until(found, "%d log lines like %r" % (count, pattern))


@pytest.mark.parametrize("name", ["villain", None], ids=["registered", "anonymous"])
@pytest.mark.parametrize("deed", ["not_found", "too_large", "ignored", "invalid"])
def test_refusals_name_who_is_to_blame(world, server, name, deed):
    """One line with the endpoint, the process and the user."""
    c = world.connect(name)
    if deed == "not_found":
        c.message("nobody", 1)
        said = "wrote to an endpoint that is not there"
    elif deed == "too_large":
        head = b'{"type":"message","to":"x","body":"'
        c.write(wire.encode(head + b"x" * (wire.FRAME_BYTES_MAX - len(head) - 2) + b'"}'))
        said = "a message was refused"
    elif deed == "ignored":
        c.send({"type": "wish"})
        said = "a frame was passed over: its type is unknown"
    else:
        c.write(wire.encode(b"no JSON"))
        said = "invalid_json"
    who = '"villain" \\(' if name else "peer "
    (line,) = log_of(world, said)
    assert re.search(r"warn: %spid=%d uid=%d\b" % (who, os.getpid(), os.getuid()), line), line


def test_a_flood_is_summed_up_and_hides_nobody_else(world, server):
    loud, quiet = world.connect("loud"), world.connect("quiet")
    for n in range(500):
        loud.message("nobody", n)
    loud.fence()
    quiet.message("nobody", 1)
    quiet.fence()
    assert server.stop() == 0
    said = log_of(world, "wrote to an endpoint that is not there", 12)
    assert len([line for line in said if '"loud"' in line and "more like this" not in line]) == 10
    assert len([line for line in said if '"quiet"' in line]) == 1
    assert [line for line in said if re.search(r'warn: 490 more like this: "loud" ', line)]
    assert len(said) == 12


def test_no_name_forges_a_line(world, server):
    name = "x\n[2026-01-01T00:00:00.000000Z] error: forged"
    world.connect(name).message("nobody", 1)
    (line,) = log_of(world, "wrote to an endpoint")
    assert "\\n[2026" in line


def test_a_log_that_was_deleted_or_moved_is_opened_anew(world):
    pid = world.start_daemon()
    c = world.connect("c")
    for change in (lambda: world.log_file.unlink(), lambda: world.log_file.rename(world.log_file.with_name("moved"))):
        change()
        c.send({"type": "wish"})
        wait_until(lambda: world.log_file.exists() and [line for line in lines(world) if "passed over" in line], "the line in a new file")
    with open("/proc/%d/fd/2" % pid) as errors:
        assert os.fstat(errors.fileno()).st_ino == world.log_file.stat().st_ino, "what else it says follows"
    assert "start: server pid" not in world.log_file.read_text()


def test_a_full_disk_costs_lines_and_is_spoken_of_afterwards(world):
    pid = world.start_daemon()
    world.log_file.unlink()
    world.log_file.symlink_to("/dev/full")
    c = world.connect("c")
    for _ in range(3):
        c.send({"type": "wish"})
    # A line is written in the turn of its frame; the second answer comes from a later one.
    c.fence()
    c.fence()
    world.log_file.unlink()
    c.send({"type": "wish"})
    said = wait_until(lambda: world.log_file.exists() and len(lines(world)) > 1 and lines(world), "lines in the new file")
    assert "log lines that could not be written: 3 (No space left on device" in said[0], said
    assert "passed over" in said[1] and len(said) == 2
    assert world.pid_in_file() == pid and answers(world.socket_path)


def test_nobody_who_does_not_read_its_errors_holds_up_the_bus(world):
    """A pipe that is full: lines are lost, messages are not."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(theirs, b"x" * 4096)
    os.set_blocking(theirs, True)
    server = subprocess.Popen([str(BIN / "hermes-bus-server")], env=world.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, start_new_session=True)
    world._children.append(server)
    os.close(theirs)
    wait_until(lambda: answers(world.socket_path), "the server")
    c = world.connect("c")
    c.send({"type": "wish"})
    traffic(world)
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
    os.close(ours)


def test_levels_come_from_the_environment_and_a_wrong_word_is_said(world):
    server = world.serve(env={"HERMES_BUS_LOG": "debug"})
    world.connect("somebody")
    assert "debug" in log_of(world, 'register: "somebody"')[0]
    assert server.stop() == 0
    refused = world.run([BIN / "hermes-bus-server"], env={"HERMES_BUS_LOG": "loud"})
    assert refused.returncode == 1 and "HERMES_BUS_LOG: 'loud' is not one of error, warn, info, debug" in refused.stderr
    before = world.output("hermes-bus-server.out")
    server = world.serve(env={"HERMES_BUS_LOG": "error"})
    world.connect("somebody").send({"type": "wish"})
    assert server.stop() == 0
    said = world.output("hermes-bus-server.out")[len(before):].splitlines()
    assert all(line.startswith("[HermesBus]") for line in said), said


# ---- with a configuration file ----



def configure(world, text):
    path = world.root / "hermes-bus" / "config.yaml"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(text)


def test_json_lines(world):
    configure(world, "log:\n  to: file\n  format: json\n")
    server = world.serve()
    world.connect("villain").message("nobody", "a secret")
    wait_until(lambda: world.log_file.exists() and any("nobody" in line or "not there" in line for line in lines(world)), "the line")
    assert server.stop() == 0
    records = [json.loads(line) for line in lines(world)]
    assert all(re.fullmatch(STAMP, r["ts"]) and r["level"] and r["target"] and r["message"] for r in records), records
    (refusal,) = [r for r in records if r.get("event") == "not_found"]
    assert (refusal["endpoint"], refusal["pid"], refusal["uid"]) == ("villain", os.getpid(), os.getuid())
    assert (refusal["level"], refusal["target"]) == ("warn", "router")
    assert "a secret" not in world.log_file.read_text()


def test_levels_of_single_targets(world):
    configure(world, "log:\n  level: error\n  levels:\n    router: debug\n")
    server = world.serve()
    world.connect("somebody")
    log_of(world, 'register: "somebody"')
    assert server.stop() == 0
    assert "info: stopping" not in world.output("hermes-bus-server.out")


def test_older_logs_are_kept(world):
    configure(world, "log:\n  to: file\n  level: debug\n  file_bytes_max: 10000\n  files_kept: 2\n")
    server = world.serve()
    for n in range(400):
        world.connect("session-%04d" % n).hang_up()
    assert server.stop() == 0
    files = [world.log_file.with_name("busd.log" + end) for end in (".2", ".1", "")]
    assert all(f.exists() and f.stat().st_size < 10_500 for f in files)
    assert not world.log_file.with_name("busd.log.3").exists()
    numbers = [int(n) for f in files for n in re.findall(r'register: "session-(\d+)"', f.read_text())]
    assert numbers == list(range(numbers[0], 400)), "none is missing in between"


def test_a_reload_changes_levels_and_format(world):
    configure(world, "log:\n  level: error\n")
    pid = world.start_daemon()
    configure(world, "log:\n  level: debug\n  format: json\n")
    os.kill(pid, signal.SIGHUP)

    def debugs():
        world.connect("somebody").hang_up()
        return any(line.startswith("{") and json.loads(line)["level"] == "debug" for line in lines(world))
    wait_until(debugs, "debug lines in JSON")


@pytest.mark.skipif(os.path.exists("/run/systemd/journal/socket"), reason="a journal runs here")
def test_a_journal_that_is_not_there_is_an_error(world):
    configure(world, "log:\n  to: journal\n")
    done = world.run([BIN / "hermes-bus-server"])
    assert done.returncode == 1
    assert "journal" in done.stderr and "/run/systemd/journal/socket" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs a mount namespace of its own")
def test_the_journal_gets_fields(world):
    """A journal's socket in a namespace of its own; what arrives there is taken apart as the journal does."""
    configure(world, "log:\n  to: journal\n")
    script = """
import os, socket, subprocess, sys
os.makedirs("/run/systemd/journal")
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.bind("/run/systemd/journal/socket")
journal.settimeout(20)
server = subprocess.Popen([sys.argv[1]], stdout=subprocess.DEVNULL)
while b"passed over" not in (entry := journal.recv(65536)):
    pass
sys.stdout.buffer.write(entry)
server.terminate()
sys.exit(server.wait())
"""
    command = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /run && exec "$0" "$@"', shutil.which("python3"), "-c", script, BIN / "hermes-bus-server"]
    with subprocess.Popen([str(a) for a in command], env=world.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        wait_until(lambda: child.poll() is not None or answers(world.socket_path), "the server")
        assert child.poll() is None, child.stderr.read()
        c = world.connect("villain")
        c.send({"type": "wish"})
        c.fence()
        entry, _ = child.communicate(timeout=20)
    fields = {}
    while entry:
        name, rest = entry.split(b"\n", 1)
        (length,) = struct.unpack("<Q", rest[:8])
        fields[name.decode()] = rest[8:8 + length].decode()
        entry = rest[9 + length:]
    assert fields["PRIORITY"] == "4" and fields["SYSLOG_IDENTIFIER"] == "hermes-bus-server"
    assert (fields["HERMES_BUS_EVENT"], fields["HERMES_BUS_ENDPOINT"]) == ("ignored", "villain")
    assert "villain" in fields["MESSAGE"]


def test_a_log_at_the_limit_of_a_file_costs_lines_and_not_the_bus(world):
    """`ulimit -f`: who writes beyond it gets a signal that ends most programs."""
    command = ["/bin/sh", "-c", 'ulimit -f 8 && exec "$0" "$@"', BIN / "hermes-bus-server", "--detached", "--set", "log.file_bytes_max=1MiB", "--set", "log.level=debug"]
    server = world.spawn(command)
    wait_until(lambda: answers(world.socket_path), "the server")
    with world.connect() as c:
        for n in range(400):
            world.connect("name-%d" % n).hang_up()
        c.fence()
    assert 4096 <= world.log_file.stat().st_size <= 8192, "the limit was reached"
    assert answers(world.socket_path) and server.poll() is None
