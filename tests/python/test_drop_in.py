"""What a script of the old package relies on, and where that was wrong before."""
import inspect
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

import hermes_bus
from hermes_bus import BusClient, BusServer, ForkedError, ensure_bus_running, run_server, send_message
from world import answers, wait_until


def script(world, code, *arguments, timeout=30, **more):
    done = world.run([sys.executable, "-c", code, *arguments], within_s=timeout, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_names_and_signatures():
    """All public names, and the arguments by position and by name."""
    from hermes_bus import busd, client, server
    assert client.BusClient is BusClient and client.send_message is send_message
    assert client.ensure_bus_running is ensure_bus_running
    assert server.BusServer is BusServer and server.run_server is run_server
    assert callable(server.main) and callable(busd.main)
    assert list(inspect.signature(send_message).parameters) == ["to", "body", "socket_path", "from_ep"]
    assert inspect.signature(send_message).parameters["from_ep"].default == "anonymous"
    assert list(inspect.signature(BusClient).parameters)[:2] == ["endpoint", "socket_path"]
    assert list(inspect.signature(BusServer).parameters) == ["socket_path", "hook_scripts"]
    assert client.MAX_PAYLOAD_BYTES == server.MAX_PAYLOAD_BYTES == 10485760
    assert (server.HEARTBEAT_INTERVAL, server.HEARTBEAT_TIMEOUT, server.HEARTBEAT_CHECK_EVERY) == (60, 90, 15)
    assert tuple(int(part) for part in hermes_bus.__version__.split(".")) >= (0, 7)


def test_a_life_of_a_client(server):
    """Every attribute and method, with the values that they always had."""
    peer = server.connect("peer")
    client = BusClient("svc")
    assert (client.endpoint, client.socket_path) == ("svc", server.world.socket_path)
    assert re.fullmatch("[0-9a-f]{8}", client.local_id)
    assert (client.bus_session_id, client.is_connected(), client.poll(), client.send("peer", {})) == (None, False, [], False)
    assert client.disconnect() is None
    assert client.connect() is True and client.connect() is True
    assert client.is_connected() is True and client.bus_session_id == server.endpoints()["svc"]
    assert client.send("peer", {"n": 1.5}) is True
    got = peer.expect("message")
    assert (got["from"], got["to"], got["body"]) == ("svc", "peer", {"n": 1.5}) and got["id"] and got["ts"]
    peer.message("svc", {"hi": 1})
    messages = client.poll(10)
    assert type(messages) is list and type(messages[0]) is dict and messages[0]["body"] == {"hi": 1}
    assert (messages[0]["type"], messages[0]["from"]) == ("message", "peer")
    assert client.poll() == []
    session_id = client.bus_session_id
    assert client.disconnect() is None and client.disconnect() is None
    assert (client.is_connected(), client.send("peer", {}), client.bus_session_id) == (False, False, session_id)
    wait_until(lambda: "svc" not in server.endpoints(), "the name to be free")
    assert client.connect() is True and client.bus_session_id != session_id
    client.disconnect()


def test_what_came_before_the_end_can_still_be_polled(server):
    client = BusClient("svc")
    client.connect()
    client.send("svc", 1)
    wait_until(lambda: client._native.ready().wait(1), "the message")
    client.disconnect()
    client.connect()
    client.send("svc", 2)
    assert [m["body"] for m in client.poll(10)] == [1]
    assert [m["body"] for m in client.poll(10)] == [2]
    client.disconnect()


@pytest.mark.parametrize("body", [
    {"text": "x"}, "text", None, True, 0, -1.5, [], {}, [1, [2, {"a": None}]], 2**70, -2**200, 1e300, 1e-7, math.inf, -math.inf,
    "\u00e9\u4e2d\U0001f600", "\ud800", {"\udfff": "a\ud800b"}, "\x00\x1f\"\\/", {"1": 2}, " ",
], ids=lambda body: ascii(body)[:30])
def test_bodies_come_as_they_were_sent(server, body):
    """Also those that strict JSON has no room for; by a client with a name and by one without."""
    with BusClient("svc") as client:
        assert client.send("svc", body) and send_message("svc", body)
        got = []
        while len(got) < 2:
            got += client.poll(10)
        assert [m["body"] for m in got] == [body, body]


def test_bodies_that_json_changes_are_changed_as_ever(server):
    with BusClient("svc") as client:
        client.send("svc", {1: (2, 3), None: math.nan, False: 0.1})
        body = client.poll(10)[0]["body"]
        assert math.isnan(body.pop("null")) and body == {"1": [2, 3], "false": 0.1}


def test_what_cannot_be_sent_is_false_and_harms_nothing(server):
    loop = []
    loop.append(loop)
    with BusClient("svc") as client:
        session = client.bus_session_id
        for to, body in [("svc", object()), ("svc", {1, 2}), ("svc", loop), ("svc", "x" * 10485760), (5, "x"), ("\ud800", "x"),
                         ("svc", {"a": {(1, 2): 3}})]:
            assert client.send(to, body) is False
            assert send_message(to, body) is False
        assert client.send("svc", "fine") and client.poll(10)[0]["body"] == "fine"
        assert client.bus_session_id == session


def test_a_large_body(server):
    with BusClient("svc") as client:
        body = {"text": "\u00e9" * 3_000_000, "n": list(range(100_000))}
        assert client.send("svc", body) and client.poll(30)[0]["body"] == body


def test_everybody(server):
    """Whatever is false as `to` means all, the sender too."""
    with BusClient("one") as one, BusClient("two") as two:
        for to in ("", None):
            assert one.send(to, "all") and send_message(to, "all")
        for client in (one, two):
            got = []
            while len(got) < 4:
                got += client.poll(10)
            assert [m["body"] for m in got] == ["all"] * 4


def test_send_message(server):
    peer = server.connect("peer")
    assert send_message("peer", {"a": 1}, server.world.socket_path, "me") is True
    assert peer.expect("message")["from"] == "me"
    assert send_message("peer", 1) is True and peer.expect("message")["from"] == "anonymous"
    assert send_message("nobody", {}) is False
    assert send_message("peer", {}, "/nonexistent/bus.sock") is False


def test_a_socket_of_ones_own_starts_nothing(world):
    """The old package started a daemon at the default path instead."""
    path = str(world.directory / "other.sock")
    assert send_message("x", {}, path) is False
    client = BusClient("x", path)
    assert client.connect() is False and client.last_error.code == "no_bus"
    client.disconnect()
    assert not os.path.exists(world.socket_path)


def test_the_bus_is_started_where_there_is_none(world):
    client = BusClient("first")
    assert client.connect() is True
    assert world.pid_in_file() and "first" in world.endpoints()
    client.disconnect()
    assert ensure_bus_running() is None and world.busd("stop").returncode == 0
    assert ensure_bus_running() is None and answers(world.socket_path)
    assert send_message("first", {}) is False


def test_after_false_the_client_comes_when_the_bus_does(world):
    """In the old package that thread had lost its socket."""
    path = str(world.root / "sub" / "hermes-bus.sock")
    os.mkdir(world.root / "sub")
    client = BusClient("patient", path)
    assert client.connect() is False and client.is_connected() is False
    assert client.send("x", {}) is False and client.poll(0.05) == []
    world.spawn([sys.executable, "-c", "import sys; from hermes_bus import BusServer; BusServer(sys.argv[1]).start()", path])
    wait_until(client.is_connected, "the client")
    assert client.send("patient", "at last") and client.poll(10)[0]["body"] == "at last"
    assert client.connect() is True
    client.disconnect()


def test_a_client_comes_back(world):
    world.start_daemon()
    with BusClient("loyal") as client:
        first = client.bus_session_id
        assert world.busd("restart").returncode == 0
        wait_until(lambda: client.is_connected() and client.bus_session_id != first, "the client")
        assert send_message("loyal", "welcome") and client.poll(10)[0]["body"] == "welcome"
        kinds = [event["event"] for event in client.events()]
        assert kinds[0] == "disconnected" and kinds[-1] == "connected"


def test_who_was_replaced_stays_away(server):
    old, new = BusClient("dup"), BusClient("dup")
    assert old.connect() and new.connect()
    wait_until(lambda: old.closed_reason, "the old one to hear")
    assert old.closed_reason[0] == "replaced" and not old.is_connected() and old.send("x", 1) is False
    assert list(old) == [] and new.is_connected() and server.endpoints()["dup"] == new.bus_session_id
    assert old.connect() is True
    wait_until(lambda: new.closed_reason, "the other one to hear")
    old.disconnect()
    new.disconnect()


def test_a_refused_name_is_not_tried_again(server):
    client = BusClient("bus.mine")
    assert client.connect() is False and client.last_error.code == "forbidden"
    assert client._native is None


def test_many_threads(server, in_thread):
    """Sends from four threads, polls from two: each message comes once, and those of one thread in order."""
    got, lock = [], threading.Lock()
    with BusClient("svc") as client:
        def send(number):
            for n in range(2_000):
                assert client.send("svc", [number, n])

        def receive():
            while len(got) < 8_000:
                messages = client.poll(0.2)
                with lock:
                    got.extend(m["body"] for m in messages)
        for _ in range(2):
            in_thread(receive)
        for number in range(4):
            in_thread(send, number)
        wait_until(lambda: len(got) == 8_000, "all messages", 60)
    assert sorted(got) == [[number, n] for number in range(4) for n in range(2_000)]


def test_a_waiting_call_lets_others_run_and_ends_with_the_client(server, in_thread):
    client = BusClient("svc")
    client.connect()
    results = []
    in_thread(lambda: results.append(client.poll(None)))
    in_thread(lambda: results.append(list(client)))
    began = time.monotonic()
    assert sum(range(1000)) == 499500 and client.poll() == []
    assert time.monotonic() - began < 5
    client.disconnect()
    wait_until(lambda: len(results) == 2, "both to end")
    assert results == [[], []]


def test_ctrl_c(world):
    """KeyboardInterrupt in a call that waits; the client is still good for something afterwards."""
    world.serve()
    code = """
import os, signal, sys, threading, time
from hermes_bus import BusClient
client = BusClient('svc'); client.connect()
for wait in (lambda: client.poll(None), lambda: next(iter(client)), lambda: client.request('svc', 1, 600),
             lambda: client.submit('svc', 1, receipt='accepted') and client.poll(None, 1) and client.poll(None) and client.poll(None)):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        wait()
    except KeyboardInterrupt:
        client.poll()
        client.send('svc', 'still here')
        print(client.poll(10)[-1]['body'])
"""
    assert script(world, code) == ["still here"] * 4


def test_fork(world):
    """A client belongs to its process: a child gets a clear error, may make one of its own, and ends in peace."""
    world.serve()
    code = """
import os, sys, warnings
warnings.simplefilter('ignore')
from hermes_bus import BusClient, ForkedError, send_message
client = BusClient('svc'); client.connect()
pid = os.fork()
if pid == 0:
    try:
        for call in (lambda: client.send('svc', 1), client.connect, client.poll, lambda: client.poll(1), client.events):
            try:
                call()
            except ForkedError as error:
                assert error.code == 'forked' and 'new one' in str(error)
            else:
                raise SystemExit('no error')
        assert client.is_connected() is False
        client.disconnect()
        own = BusClient('child')
        assert own.connect() and own.send('svc', 'from the child') and send_message('svc', 'and again')
        own.disconnect()
        del client
    except BaseException as problem:
        print(repr(problem), flush=True); os._exit(1)
    sys.exit(0)
print(os.waitpid(pid, 0)[1])
bodies = []
while len(bodies) < 2: bodies += [m['body'] for m in client.poll(10)]
print(bodies, client.is_connected())
client.disconnect()
"""
    assert script(world, code) == ["0", "['from the child', 'and again'] True"]


def test_multiprocessing_with_a_pool_of_forked_workers(world):
    world.serve()
    code = """
import multiprocessing, warnings
warnings.simplefilter('ignore')
from hermes_bus import BusClient, send_message
def work(n): return send_message('svc', n)
if __name__ == '__main__':
    with BusClient('svc') as client:
        with multiprocessing.get_context('fork').Pool(4) as pool: print(all(pool.map(work, range(40))))
        bodies = []
        while len(bodies) < 40: bodies += [m['body'] for m in client.poll(10)]
        print(sorted(bodies) == list(range(40)))
"""
    assert script(world, code) == ["True", "True"]


@pytest.mark.parametrize("end", ["pass", "client.disconnect()", "sys.exit()", "del client", "raise SystemExit(0)"])
def test_what_was_sent_before_the_end_of_a_program_arrives(server, end):
    peer = server.connect("peer")
    script(server.world, "import sys\nfrom hermes_bus import BusClient\nclient = BusClient('x'); client.connect()\n"
           "for n in range(500): assert client.send('peer', n)\n" + end)
    assert [peer.expect("message")["body"] for _ in range(500)] == list(range(500))


def test_a_server_as_an_object(world, in_thread):
    """`start` blocks, in any thread; `stop` ends it; who is connected can be looked at."""
    server = BusServer(hook_scripts=[])
    assert (server.socket_path, server.running, server.sessions, server.endpoint_map) == (world.socket_path, False, {}, {})
    assert server.hook_scripts == []
    thread = in_thread(server.start)
    wait_until(lambda: answers(world.socket_path), "the bus")
    with BusClient("svc") as client:
        assert server.running and server.endpoint_map == {"svc": client.bus_session_id}
        assert server.sessions[client.bus_session_id]["endpoint"] == "svc"
    server.stop()
    thread.join(10)
    assert not thread.is_alive() and not server.running and not os.path.exists(world.socket_path)


def test_a_server_at_a_path_of_another_name_and_with_hooks(world, in_thread):
    hook, seen = world.directory / "hook.py", world.directory / "seen"
    hook.write_text("import sys; open(%r, 'a').write(sys.stdin.read())" % str(seen))
    path = str(world.directory / "odd.sock")
    server = BusServer(path, [str(hook)])
    in_thread(server.start)
    wait_until(lambda: answers(path), "the bus")
    with BusClient("svc", path) as client:
        assert send_message("svc", {"text": "hooked"}, path) and client.poll(10)
    wait_until(lambda: seen.exists() and "hooked" in seen.read_text(), "the hook")
    server.stop()
    assert not os.path.lexists(path)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_run_server_ends_with_its_signal_and_leaves_nothing(world, how):
    process = world.spawn([sys.executable, "-c", "from hermes_bus import run_server; run_server()"], output="serving")
    wait_until(lambda: answers(world.socket_path), "the bus")
    process.send_signal(how)
    status = process.wait(15)
    assert not os.path.exists(world.socket_path)
    if how == signal.SIGINT:
        assert status == 0 and "[HermesBus] shutting down..." in world.output("serving")


def test_modules_as_programs(world):
    started = world.run([sys.executable, "-m", "hermes_bus.busd", "start"])
    assert started.returncode == 0 and started.stdout.startswith("busd started (pid=")
    status = world.run([sys.executable, "-c", "import sys; sys.argv[1:] = ['status']; from hermes_bus.busd import main; main()"])
    assert status.returncode == 0 and status.stdout.startswith("busd running (pid=")
    assert world.run([sys.executable, "-m", "hermes_bus.busd", "dance"]).returncode == 2
    assert world.run([sys.executable, "-c", "import sys; sys.argv[1:] = ['x']; from hermes_bus.busd import main; main()"]).returncode == 2
    shown = world.run([sys.executable, "-m", "hermes_bus"])
    assert shown.returncode == 0, shown.stderr
    for part in (hermes_bus.__version__, world.socket_path, "hermes-bus-server", "runs, 0 endpoint(s)"):
        assert part in shown.stdout
    assert world.run([sys.executable, "-m", "hermes_bus.busd", "stop"]).returncode == 0
    assert "no bus listens on" in world.run([sys.executable, "-m", "hermes_bus"]).stdout
    serving = world.spawn([sys.executable, "-m", "hermes_bus.server"])
    wait_until(lambda: answers(world.socket_path), "the bus")
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(10) == 0


def test_native_programs_are_installed(world):
    """Not scripts of Python: a sender is done before an interpreter has begun."""
    for name in ("hermes-busd", "hermes-bus-server", "hermes-bus", "notify-hermes", "notify-agent"):
        with open(os.path.join(os.path.dirname(sys.executable), name), "rb") as program:
            assert program.read(4) == b"\x7fELF"
    world.start_daemon()
    with BusClient("lead") as client:
        sent = subprocess.run([sys.executable, "-m", "hermes_notify.notify_hermes", "--to", "lead", "--from", "me", "hi"],
                              capture_output=True, text=True, env=world.environment)
        assert (sent.returncode, sent.stdout) == (0, "OK: notified lead\n"), sent.stderr
        assert client.poll(10)[0]["body"] == {"text": "hi"}
    assert world.run([sys.executable, "-m", "hermes_notify.notify_agent"]).returncode != 0


def test_exceptions_can_be_pickled():
    import pickle
    error = pickle.loads(pickle.dumps(hermes_bus.RefusedError("no", "endpoint_not_found", ["a"], "accepted")))
    assert (str(error), error.code, error.suggestions, error.reached) == ("no", "endpoint_not_found", ["a"], "accepted")
    assert isinstance(ForkedError("x"), RuntimeError) and json.dumps({"code": error.code})
