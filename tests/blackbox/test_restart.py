"""A new server follows the old one: nobody is refused, nothing that was sent is lost, and if the new one fails the old one goes on."""
import json
import os
import shutil
import signal
import socket
import stat
import threading
import time

import pytest

import procfs
from wire import Closed, Connection, Silence, message
from world import BIN, ORIGINALS, answers, listen_at, wait_until


def restart(world, **more):
    done = world.busd("restart", **more)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def leave_order(world, program, **arguments):
    """What is to be started stands in a file of the root: not everybody who reaches the socket may say."""
    order = world.root / "run" / "successor.json"
    order.write_text(json.dumps(dict({"program": str(program)}, **arguments)))
    order.chmod(0o600)
    return order


def order_restart(world, asker, program=BIN / "hermes-bus-server"):
    """What `hermes-busd restart` does, on a connection that is open already."""
    leave_order(world, program, environment=world._environment(None))
    asker.send({"type": "admin", "op": "restart", "protocol": 2, "req": 1})


def ask_for_restart(world, program):
    """The request that `hermes-busd restart` makes, with another program; returns the answer."""
    with world.connect() as asker:
        order_restart(world, asker, program)
        answer = asker.recv(within_s=20)
        assert answer["req"] == 1
        return answer


def hold_the_end(world):
    """A connection that leaves a large answer unread: a bus that ends gives it a second for that."""
    names = [world.connect("%d-%s" % (number, "x" * 8000)) for number in range(60)]
    rude = world.connect()
    rude.send({"type": "list_endpoints"})
    names[-1].fence()
    return rude


def script(world, name, text):
    path = world.directory / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_another_process_listens_on_the_same_socket(world):
    old = world.start_daemon()
    identity = world.socket_identity()
    text = restart(world)
    new = world.pid_in_file()
    assert new != old and "Stopping busd (pid=%d)..." % old in text and "busd started (pid=%d)" % new in text
    assert world.socket_identity() == identity, "the socket was never unlinked"
    wait_until(lambda: not procfs.alive(old), "the old process to end")
    assert "pid=%d" % new in world.busd("status").stdout


def test_the_lock_and_everything_else_belong_to_the_new_process(world):
    world.start_daemon()
    restart(world)
    new = world.pid_in_file()
    os.unlink(world.socket_path)
    # Without the socket only the lock says who the server is.
    assert "pid=%d" % new in world.busd("start").stdout, "it was asked to bind anew"
    assert stat.S_IMODE(os.stat(world.socket_path).st_mode) == 0o600
    second = world.run([BIN / "hermes-bus-server"])
    assert second.returncode == 1 and "runs" in second.stderr
    stopped = world.busd("stop")
    assert "Stopping busd (pid=%d)..." % new in stopped.stdout
    assert not os.path.exists(world.socket_path) and not world.pid_file.exists()


def test_no_connect_is_refused_and_no_accepted_message_is_lost_while_it_restarts(world):
    """Scripts send all the time, each on a connection of its own, to an endpoint that comes back after each restart."""
    world.start_daemon()
    stop, refused, told = threading.Event(), [], []
    got = set()

    def receive():
        while not stop.is_set():
            try:
                with Connection(world.socket_path) as receiver:
                    receiver.register("ear")
                    while True:
                        got.add(receiver.expect("message")["id"])
            except Closed:
                pass
            except (OSError, Silence) as error:
                refused.append(error)

    def send(worker):
        number = 0
        while not stop.is_set():
            number += 1
            name = "%d-%d" % (worker, number)
            try:
                with Connection(world.socket_path) as sender:
                    sender.message("ear", "x", id=name)
                    answer = sender.recv()
                    if answer["type"] == "receipt":
                        told.append(name)
                    else:
                        refused.append(answer)
            except Closed:
                # Not said to be taken: the sender knows that it does not know.
                pass
            except (OSError, Silence) as error:
                refused.append(error)

    threads = [threading.Thread(target=receive)] + [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads[:1]:
        thread.start()
    wait_until(lambda: "ear" in world.endpoints(), "the receiver")
    for thread in threads[1:]:
        thread.start()
    for _ in range(10):
        before = len(told)
        restart(world)
        wait_until(lambda: len(told) > before + 20, "traffic after the restart")
    stop.set()
    for thread in threads[1:]:
        thread.join()
    wait_until(lambda: set(told) <= got, "everything that was said to be taken to arrive")
    world.busd("stop")
    threads[0].join()
    refused = [error for error in refused if not isinstance(error, (FileNotFoundError, ConnectionRefusedError)) or not stop.is_set()]
    assert refused == [], refused[:5]


def test_connections_that_have_said_nothing_yet_go_on_in_the_new_process(world):
    world.start_daemon()
    ear = world.connect("ear")
    quiet = [world.connect() for _ in range(450)]
    quiet[-1].fence()
    begun = world.connect()
    begun.write(b"\0")
    quiet[-1].fence()
    restart(world)
    ear.rest()
    ear = world.connect("ear")
    for number, connection in enumerate(quiet[:-1]):
        connection.message("ear", number)
    for connection in quiet[:-1]:
        # Some hundreds of small writes fill the socket of somebody who does not read yet.
        assert connection.recv()["status"] in ("accepted", "delivered")
    assert sorted(ear.expect("message")["body"] for _ in quiet[:-1]) == list(range(len(quiet) - 1))
    # Others can know that they were cut off.
    quiet[-1].rest()
    begun.rest()


def test_what_is_sent_while_the_receiver_is_on_its_way_back_is_held_for_it(world):
    world.start_daemon()
    ear, mouth = world.connect("ear"), world.connect("mouth")
    ear.fence()
    restart(world)
    ear.rest()
    with world.connect("mouth") as mouth:
        mouth.message("ear", "meanwhile")
        mouth.fence()
        ear = world.connect("ear")
        assert ear.expect("message")["body"] == "meanwhile"


def test_what_the_receiver_had_not_read_goes_on_to_the_new_process(world):
    world.start_daemon()
    ear, mouth = world.connect("ear"), world.connect("mouth")
    ear.fence()
    # More than its socket takes, so that some of it waits in the bus.
    sent = ["%d:%s" % (number, "x" * 50_000) for number in range(20)]
    mouth.send(*[message("ear", text) for text in sent])
    mouth.fence()
    restarted = threading.Thread(target=restart, args=(world,))
    restarted.start()
    mouth.rest()
    # The old process gives its clients two seconds to read. This one does not use them.
    restarted.join()
    first = [frame["body"] for frame in map(json.loads, whole_frames(ear)) if frame["type"] == "message"]
    again = world.connect("ear")
    # The one whose bytes had begun to leave was cut off, and is counted.
    rest = [again.expect("message")["body"] for _ in range(len(sent) - len(first) - 1)]
    assert first + sent[len(first):len(first) + 1] + rest == sent, "each once, in order"
    assert rest, "some of it went through the new process"
    again.fence()


def test_what_is_known_of_messages_in_memory_goes_on_with_them(world):
    long = {"HERMES_BUS_SESSIONS_LINGER": "60s"}
    world.start_daemon(env=long)
    ear, mouth = world.connect(), world.connect()
    register = {"type": "register", "endpoint": "ear", "protocol": 2, "ack": True, "in_flight": 1}
    ear.send(register)
    ear.expect("registered")
    mouth.send({"type": "register", "endpoint": "mouth", "protocol": 2})
    mouth.expect("registered")
    sent = time.monotonic()
    mouth.send(message("ear", "in its hands"), message("ear", "short", ttl_s=1.5), message("ear", "long", ttl_s=60))
    assert ear.expect("message")["body"] == "in its hands"
    mouth.fence()
    restart(world, env=long)
    ear.rest()
    # Its time goes on while nobody is there.
    wait_until(lambda: time.monotonic() > sent + 1.5, "the end of a time to live")
    again = world.connect()
    again.send(register)
    again.expect("registered")
    first = again.expect("message")
    assert (first["body"], first.get("delivery")) == ("in its hands", 2)
    again.send({"type": "ack", "seqs": [first["seq"]]})
    second = again.expect("message")
    assert (second["body"], second.get("delivery")) == ("long", None), "what has expired is not delivered"
    senders = [(frame["sender"]["uid"], frame["sender"]["endpoint"]) for frame in (first, second)]
    assert senders == [(os.getuid(), "mouth")] * 2
    assert first["seq"] < second["seq"]


def whole_frames(connection):
    """What a receiver finds in its socket when the bus has closed, a frame that was cut off left out."""
    frames = []
    try:
        while True:
            frames.append(connection.recv_bytes())
    except Closed:
        return frames


@pytest.mark.parametrize("turn", range(5))
def test_messages_that_had_just_arrived_are_not_lost(world, turn):
    world.start_daemon()
    ear, mouth = world.connect("ear"), world.connect("mouth")
    ear.fence()
    asker = world.connect()
    order_restart(world, asker)
    sent = 0
    with pytest.raises((OSError, Closed)):
        while True:
            mouth.message("ear", sent, id=str(sent))
            sent += 1
    got = [json.loads(frame)["body"] for frame in whole_frames(ear)]
    with world.connect("ear") as again:
        while len(got) < sent:
            got.append(again.expect("message")["body"])
        again.fence()
    assert got == list(range(sent)), "each message that was written as a whole, once, in order"


def test_what_a_sender_over_its_rate_has_written_is_not_lost(world):
    directory = world.root / "hermes-bus"
    directory.mkdir()
    (directory / "config.yaml").write_text("sessions:\n  messages_per_s: 1\n")
    world.start_daemon()
    ear, mouth = world.connect("ear"), world.connect("mouth")
    ear.fence()
    mouth.send(*[message("ear", number) for number in range(500)])
    restart(world)
    got = [json.loads(frame)["body"] for frame in whole_frames(ear)]
    with world.connect("ear") as again:
        while len(got) < 500:
            got.append(again.expect("message")["body"])
    assert got == list(range(500))


@pytest.mark.parametrize("what", ["ends at once", "ends when it is ready", "talks nonsense", "cannot be started", "is no absolute path"])
def test_if_the_new_process_fails_the_old_one_goes_on(world, what):
    pid = world.start_daemon()
    programs = {
        "ends at once": lambda: script(world, "ends", "#!/bin/sh\nexit 7\n"),
        "ends when it is ready": lambda: script(world, "ready", "#!/bin/sh\necho ready >&0\nhead -c 1 >/dev/null\n"),
        "talks nonsense": lambda: script(world, "nonsense", "#!/bin/sh\necho hello >&0\n"),
        "cannot be started": lambda: world.directory / "nothing",
        "is no absolute path": lambda: "hermes-bus-server",
    }
    ear = world.connect("ear")
    answer = ask_for_restart(world, programs[what]())
    if what == "ends when it is ready":
        # It was ready, so the connections were ended; then it had nobody to hand over to.
        assert answer["type"] == "admin_result"
        ear.rest()
        wait_until(lambda: "this process goes on" in world.log_file.read_text(), "the old process to notice")
        ear = world.connect("ear")
    else:
        assert answer["type"] == "error" and answer["detail"], answer
    with world.connect() as script_:
        script_.message("ear", "still here")
        assert script_.recv()["status"] == "delivered"
    assert ear.expect("message")["body"] == "still here"
    assert world.pid_in_file() == pid
    assert [child for child in world.processes() if child != pid and procfs.alive(child)] == []
    restart(world)
    assert world.pid_in_file() != pid


def test_a_failed_restart_says_so(world):
    pid = world.start_daemon()
    # The new server reads its environment before it says that it is ready.
    world.run(["chmod", "000", world.log_file])
    if os.access(world.log_file, os.W_OK):
        world.run(["chmod", "600", world.log_file])
        os.rename(world.log_file, str(world.log_file) + ".old")
        os.mkdir(world.log_file)
    done = world.busd("restart")
    assert done.returncode == 1 and "a bus goes on (pid=%d)" % pid in done.stdout + done.stderr, (done.stdout, done.stderr)
    assert world.endpoints() == {}


def test_a_pid_file_that_cannot_be_written_neither_undoes_a_restart_nor_takes_the_socket_away(world):
    home = world.directory / "elsewhere"
    home.mkdir()
    world.environment["HERMES_HOME"] = str(home)
    old = world.start_daemon()
    identity, link = world.socket_identity(), home / "hermes-bus.sock"
    assert link.is_symlink()
    world.pid_file.unlink()
    world.pid_file.symlink_to(world.directory / "missing" / "pid")
    restart(world)
    wait_until(lambda: not procfs.alive(old), "the old process to end")
    assert world.socket_identity() == identity and link.is_symlink()
    assert "cannot write" in world.log_file.read_text()
    assert world.busd("stop").returncode == 0
    assert not os.path.exists(world.socket_path) and not link.is_symlink()


def test_a_socket_that_was_deleted_is_bound_anew_by_the_new_process(world):
    old = world.start_daemon()
    with world.connect() as asker:
        asker.fence()
        os.unlink(world.socket_path)
        order_restart(world, asker)
        new = asker.expect("admin_result")["pid"]
    wait_until(lambda: not procfs.alive(old), "the old process to end")


    def connected():
        # It is bound a moment before it listens.
        try:
            return world.connect("ear")
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    with wait_until(connected, "the socket to be bound anew") as ear:
        ear.fence()
    assert world.pid_in_file() == new


def test_the_new_process_leaves_a_foreign_socket_at_its_path_alone(world):
    world.start_daemon()
    with world.connect() as asker:
        asker.fence()
        os.unlink(world.socket_path)
        with listen_at(world.socket_path):
            foreign = world.socket_identity()
            order_restart(world, asker)
            new = asker.expect("admin_result")["pid"]
            wait_until(lambda: "another process" in world.log_file.read_text(), "the new process to say so")
            os.kill(new, signal.SIGTERM)
            wait_until(lambda: not procfs.alive(new), "the new process to end")
            assert world.socket_identity() == foreign


def test_requests_that_make_no_sense_are_refused(world):
    world.start_daemon()
    for request in ({"op": "fly"}, {"op": 5}, {}):
        with world.connect() as asker:
            asker.send(dict({"type": "admin", "protocol": 2, "req": "r"}, **request))
            answer = asker.recv()
            assert (answer["type"], answer["code"], answer["req"]) == ("error", "invalid_field", "r") and "op" in answer["detail"], answer
            asker.fence()


def test_nothing_is_started_that_does_not_stand_in_a_file_of_the_root_alone(world):
    """Who can reach the socket, from a sandbox perhaps, cannot have the daemon run what he likes."""
    pid = world.start_daemon()
    evil = script(world, "evil", "#!/bin/sh\ntouch \"$0.ran\"\n")

    def refusal():
        with world.connect() as asker:
            asker.send({"type": "admin", "op": "restart", "protocol": 2, "program": str(evil), "environment": {}})
            answer = asker.recv()
            assert (answer["type"], answer["code"]) == ("error", "rejected"), answer
            return answer["detail"]
    assert "successor.json" in refusal()
    order = leave_order(world, evil)
    order.chmod(0o622)
    assert "this user alone" in refusal()
    order = leave_order(world, evil)
    order.rename(world.directory / "elsewhere")
    order.symlink_to(world.directory / "elsewhere")
    assert "successor.json" in refusal()
    order.unlink()
    order.write_text("{")
    order.chmod(0o600)
    assert "is no order" in refusal()
    assert not order.exists() and not (world.directory / "evil.ran").exists()
    assert world.pid_in_file() == pid


def test_a_stop_in_the_middle_of_a_restart_stops(world):
    pid = world.start_daemon()
    sleeper = script(world, "sleeper", "#!/bin/sh\nexec sleep 60\n")
    asker = world.connect()
    order_restart(world, asker, sleeper)
    wait_until(lambda: "starting the process that follows" in world.log_file.read_text(), "the restart to begin")
    assert world.busd("stop").returncode == 0
    assert not procfs.alive(pid) and not os.path.exists(world.socket_path)
    wait_until(lambda: not [child for child in world.processes() if procfs.alive(child)], "the process that was to follow to end")


def test_a_stop_while_connections_are_ended_for_the_next_process_stops(world):
    old = world.start_daemon()
    ear = world.connect("ear")
    rude = hold_the_end(world)
    with world.connect("away") as away:
        away.fence()
    sender = world.connect()
    sender.message("away", "x", id="w")
    world.endpoints()
    with world.connect() as asker:
        order_restart(world, asker)
        new = asker.expect("admin_result")["pid"]
    ear.rest()
    os.kill(old, signal.SIGTERM)
    assert sender.expect("error")["code"] == "endpoint_not_found", "it was to go on waiting there, and is told here"
    wait_until(lambda: not procfs.alive(old) and not procfs.alive(new), "the end of it and of the process that was to follow")
    assert "handed over to" not in world.log_file.read_text(), "it was stopped in the middle"
    assert not os.path.exists(world.socket_path) and not world.pid_file.exists()
    rude.hang_up()


def test_a_reload_while_another_process_is_about_to_follow_is_refused(world):
    world.start_daemon()
    sleeper = script(world, "sleeper", "#!/bin/sh\nexec cat >/dev/null\n")
    with world.connect() as asker, world.connect() as other:
        order_restart(world, asker, sleeper)
        wait_until(lambda: "starting the process that follows" in world.log_file.read_text(), "the restart to begin")
        other.send({"type": "admin", "op": "reload", "protocol": 2})
        assert other.expect("error")["code"] == "shutting_down"


def test_a_released_bus_is_replaced_by_this_one(world):
    old = world.spawn([ORIGINALS["0.7.0"], "-m", "hermes_bus.server"])
    wait_until(lambda: os.path.exists(world.socket_path), "the original to listen")
    text = restart(world)
    assert "busd started" in text
    wait_until(lambda: old.poll() is not None, "the original to end")
    with world.connect("ear") as ear:
        ear.fence()


def test_if_the_old_process_is_killed_in_the_middle_the_new_one_begins_anew(world):
    old = world.start_daemon()
    ear = world.connect("ear")
    rude = hold_the_end(world)
    with world.connect() as asker:
        order_restart(world, asker)
        new = asker.expect("admin_result")["pid"]
    ear.rest()
    os.kill(old, signal.SIGKILL)
    assert "handed over to" not in world.log_file.read_text(), "it was killed in the middle"
    with wait_until(lambda: answers(world.socket_path) and world.connect("ear"), "the new process to serve") as ear:
        ear.fence()
    wait_until(lambda: world.pid_in_file() == new, "the PID file to name it")
    assert "pid=%d" % new in world.busd("status").stdout
    rude.hang_up()


def test_hooks_of_the_old_process_do_their_work_and_those_that_wait_too(world):
    gate = world.directory / "gate"
    hook = script(world, "hook", "#!/bin/sh\necho a line, to whoever reads it\nwhile [ ! -e %s ]; do sleep 0.01; done\necho another\necho $HERMES_BUS_MESSAGE_ID >> $0.did\n" % gate)
    hooks = world.root / "hermes-bus"
    hooks.mkdir()
    (hooks / "hooks.yaml").write_text("- path: %s\n  concurrency: 1\n" % hook)
    old = world.start_daemon()
    mouth = world.connect("mouth")
    for number in range(5):
        mouth.message("nobody", 1, id="before-%d" % number)
    mouth.fence()
    restart(world)
    with world.connect("mouth") as mouth:
        mouth.message("nobody", 1, id="after")
        mouth.fence()
    assert procfs.alive(old), "it lives on for them"
    second = world.run([BIN / "hermes-bus-server"])
    assert second.returncode == 1, "the lock is the new one's alone"
    gate.touch()
    wait_until(lambda: not procfs.alive(old), "the old process to end")
    did = (world.directory / "hook.did").read_text().split()
    assert [name for name in did if name != "after"] == ["before-%d" % number for number in range(5)]
    wait_until(lambda: "after" in (world.directory / "hook.did").read_text(), "the new one's hook")
    assert "failed" not in world.log_file.read_text()


def test_a_stop_ends_old_processes_too_that_still_have_hooks_to_run(world):
    hook = script(world, "hook", "#!/bin/sh\necho $$ >> $0.began\nexec sleep 600\n")
    hooks = world.root / "hermes-bus"
    hooks.mkdir()
    (hooks / "hooks.yaml").write_text("- %s\n" % hook)
    servers = [world.start_daemon()]
    for number in range(2):
        with world.connect("mouth") as mouth:
            mouth.message("nobody", number)
            mouth.fence()
        began = world.directory / "hook.began"
        wait_until(lambda: began.exists() and len(began.read_text().split()) == number + 1, "the hook")
        restart(world)
        servers.append(world.pid_in_file())
    assert all(procfs.alive(pid) for pid in servers)
    assert world.busd("stop").returncode == 0
    wait_until(lambda: not any(procfs.alive(pid) for pid in servers + [int(pid) for pid in began.read_text().split()]), "the end of all of them")


def test_a_sender_that_waits_for_an_endpoint_goes_on_waiting_in_the_new_process(world):
    world.start_daemon()
    ear = world.connect("ear")
    ear.fence()
    ear.hang_up()
    sender = world.connect()
    sender.message("ear", "patience", id="p")
    world.endpoints()
    restart(world)
    with world.connect("ear") as ear:
        assert ear.expect("message")["body"] == "patience"
        assert sender.recv() == {"type": "receipt", "id": "p", "status": "delivered"}


def test_a_receiver_that_does_not_read_makes_nobody_wait(world):
    world.start_daemon()
    stuck, mouth = world.connect("stuck"), world.connect("mouth")
    stuck.fence()
    mouth.send(*[message("stuck", "%d:%s" % (number, "x" * 30_000)) for number in range(40)])
    mouth.fence()
    with world.connect() as asker:
        order_restart(world, asker)
        asker.expect("admin_result")
    wait_until(lambda: "handed over to" in world.log_file.read_text(), "the hand-over")
    assert "did not read" not in world.log_file.read_text(), "its time was not waited for"
    first = [frame["body"] for frame in map(json.loads, whole_frames(stuck)) if frame["type"] == "message"]
    with world.connect("stuck") as again:
        rest = [again.expect("message")["body"] for _ in range(40 - len(first))]
    assert [int(body.split(":")[0]) for body in first + rest] == list(range(40))


def test_nothing_is_stopped_where_nothing_could_be_started(world):
    pid = world.start_daemon()
    lonely = world.directory / "lonely"
    lonely.mkdir()
    shutil.copy(BIN / "hermes-busd", lonely)
    done = world.run([lonely / "hermes-busd", "restart"], env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 1 and "neither beside this program nor on PATH" in done.stderr, done.stderr
    assert world.pid_in_file() == pid and world.endpoints() == {}


def test_flags_are_kept_unless_others_are_given(world):
    started = world.busd("start", "--set", "sessions.linger=7s")
    assert started.returncode == 0
    restart(world)
    path = world.root / "hermes-bus" / "config.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text("sessions:\n  linger: 9s\n")
    assert "linger" not in world.busd("reload").stdout
    assert world.busd("restart", "--set", "sessions.drain=1s").returncode == 0
    path.write_text("sessions:\n  linger: 8s\n")
    assert "sessions.linger: 9s -> 8s" in world.busd("reload").stdout


def test_a_client_of_ours_comes_back_by_itself(world):
    world.start_daemon()
    world.spawn([BIN / "hermes-bus", "listen", "ear", "--json"], output="listen.out")
    wait_until(lambda: "listening as ear" in world.output("listen.out"), "the listener")
    restart(world)
    # Right away, while the listener is on its way back.
    sent = world.run([BIN / "notify-hermes", "--to", "ear", "welcome back"])
    assert sent.returncode == 0, sent.stderr
    wait_until(lambda: "welcome back" in world.output("listen.out"), "the listener to print it")


def test_the_successor_flag_is_not_for_people(world):
    done = world.run([BIN / "hermes-bus-server", "--successor"])
    assert done.returncode == 1 and "another one starts" in done.stderr
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = world.spawn([BIN / "hermes-bus-server", "--successor"], output="successor.out", stdin=theirs)
        theirs.close()
        assert ours.recv(16) == b"ready\n"
        assert not os.path.exists(world.socket_path), "it waits for its turn"
        ours.close()
        wait_until(lambda: answers(world.socket_path), "it to begin anew, since nobody hands over")
        child.terminate()
        assert child.wait(10) == 0
