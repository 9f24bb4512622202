"""Hooks through the running server: which ones, for which messages, and that routing never waits for them."""
import json
import os
import shutil
import socket

import pytest

import procfs
from wire import PATIENCE_S, message
from world import wait_until

RECORD = """import json, os, sys
own = os.path.abspath(__file__)
told = {k[len("HERMES_BUS_MESSAGE_"):]: v for k, v in os.environ.items() if k.startswith("HERMES_BUS_MESSAGE_")}
record = json.dumps({"text": sys.stdin.read(), "told": told, "args": sys.argv[1:], "cwd": os.getcwd()})
name = "%s.%d" % (own, os.getpid())
open(name + ".new", "w").write(record)
os.rename(name + ".new", name + ".record")
"""


def script(world, name, text, mode=0o755):
    path = world.directory / name
    path.write_text(text)
    path.chmod(mode)
    return path


def recorder(world, name="hook.py"):
    """A Python hook that records each call in a file of its own."""
    return script(world, name, RECORD, 0o644)


def records(hook, count, within_s=PATIENCE_S):
    """The recorded calls of a hook, once there are so many, in no order."""
    pattern = hook.name + ".*.record"
    wait_until(lambda: len(list(hook.parent.glob(pattern))) >= count, "%d calls of %s" % (count, hook.name), within_s)
    return [json.loads(path.read_text()) for path in hook.parent.glob(pattern)]


def messages(hook, count):
    return [json.loads(record["text"]) for record in records(hook, count)]


def children(pid):
    """Processes whose parent this is, zombies too."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % entry) as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[1] == str(pid):
            found.append(int(entry))
    return found


def served(world, *hooks, **more):
    return world.serve(env=dict({"HERMES_BUS_HOOKS": json.dumps([str(hook) for hook in hooks])}, **more))


def test_each_message_goes_to_each_hook_once_whatever_becomes_of_it(world):
    """Accepted, broadcast, to nobody, from nobody; and nothing that is no message."""
    first, second = recorder(world, "first.py"), recorder(world, "second.py")
    server = served(world, first, second)
    a, anonymous = server.connect("a"), server.connect()
    a.message("a", {"n": 1})
    a.message("nobody", {"n": 2})
    anonymous.message("nobody", {"n": 3})
    anonymous.message("", {"n": 4})
    assert [a.expect("message")["body"]["n"] for _ in range(2)] == [1, 4]
    a.fence()
    a.endpoints()
    for hook in (first, second):
        assert sorted(m["body"]["n"] for m in messages(hook, 4)) == [1, 2, 3, 4]
    a.message("nobody", {"n": 5})
    assert len(messages(first, 5)) == 5, "a register, a ping or a list is no message"


def test_a_held_message_is_told_once(world):
    """It goes to the hook when it is held, and not again when it is delivered."""
    hook = recorder(world)
    server = served(world, hook)
    away = server.connect("away")
    away.hang_up()
    sender = server.connect("sender")
    sender.message("away", {"n": 1}, id="held-1")
    (record,) = records(hook, 1)
    assert record["told"]["OUTCOME"] == "held"
    back = server.connect("away")
    assert back.expect("message")["id"] == "held-1"
    sender.message("sender", {"n": 2}, id="last")
    assert sorted(m["id"] for m in messages(hook, 2)) == ["held-1", "last"]


def test_a_hook_gets_what_a_receiver_gets(world):
    """The same bytes, with the fields that the bus adds; and the environment says the same."""
    hook = recorder(world)
    server = served(world, hook)
    receiver, sender = server.connect("b\u00e9"), server.connect("sender")
    sender.message("b\u00e9", {"text": "h\u00e9", "type": "ack"})
    received = receiver.recv_bytes().decode("utf-8")
    (record,) = records(hook, 1)
    assert record["text"] == received
    keys = json.loads(received)
    told = {"ID": keys["id"], "TYPE": "ack", "FROM": "sender", "TO": "b\u00e9", "OUTCOME": "accepted"}
    assert {key: record["told"][key] for key in told} == told
    assert float(record["told"]["TS"]) == keys["ts"]
    assert record["cwd"] == str(world.directory)


def test_a_large_message_arrives_whole(world):
    hook = recorder(world)
    server = served(world, hook)
    server.connect("sender").message("nobody", {"text": "z" * 9_000_000})
    assert len(messages(hook, 1)[0]["body"]["text"]) == 9_000_000


def test_shell_python_and_compiled_hooks(world):
    """What can run by itself does, everything else is Python, as always."""
    shell = script(world, "h.sh", "#!/bin/sh\ncat > $0.new && mv $0.new $0.out\n")
    python = recorder(world)
    compiled = world.directory / "tee"
    shutil.copy(os.path.realpath("/usr/bin/tee"), compiled)
    hooks = world.root / "hermes-bus" / "hooks.yaml"
    hooks.parent.mkdir()
    hooks.write_text("- %s\n- %s\n- path: %s\n  args: [%s]\n" % (shell, python, compiled, world.directory / "tee.out"))
    server = world.serve()
    server.connect("sender").message("nobody", {"n": 1}, id="one")
    assert [m["id"] for m in messages(python, 1)] == ["one"]
    wait_until((world.directory / "h.sh.out").exists, "the shell hook")
    assert json.loads((world.directory / "h.sh.out").read_text())["id"] == "one"
    wait_until(lambda: (world.directory / "tee.out").exists() and (world.directory / "tee.out").read_text().endswith("}"), "the compiled hook")


def test_a_hook_for_some_messages_only(world):
    """`match` looks at the ends and at the type in the body."""
    hook = recorder(world)
    hooks = world.root / "hermes-bus" / "hooks.yaml"
    hooks.parent.mkdir()
    hooks.write_text("hooks:\n  - path: %s\n    match: {to: lead, from: 'worker-*', type: [ack, done]}\n    env: {X: one}\n    args: [one]\n" % hook)
    server = world.serve()
    assert "warn" not in world.output("hermes-bus-server.out")
    sender = server.connect("sender")
    for number, (to, who, kind) in enumerate([("lead", "worker-1", "ack"), ("other", "worker-1", "ack"), ("lead", "me", "ack"),
                                              ("lead", "worker-2", "text"), ("lead", "worker-2", "done")]):
        sender.message(to, {"type": kind}, id=str(number), sender=who)
    got = records(hook, 2)
    assert sorted(r["told"]["ID"] for r in got) == ["0", "4"]
    assert {tuple(r["args"]) for r in got} == {("one",)}


@pytest.mark.parametrize("value", ["none", "NONE", "   ", "[]"])
def test_hooks_are_switched_off(world, value):
    """The variable wins over the file, and the server says that there are none."""
    hook = recorder(world)
    (world.root / "hermes-bus").mkdir(exist_ok=True)
    (world.root / "hermes-bus" / "hooks.yaml").write_text("- %s\n" % hook)
    server = world.serve(env={"HERMES_BUS_HOOKS": value})
    sender = server.connect("sender")
    sender.message("nobody", {})
    sender.fence()
    server.stop()
    assert not list(world.directory.glob("*.record"))
    assert "[HermesBus] hooks: (none)" in world.output("hermes-bus-server.out")


def test_the_server_says_which_hooks_it_has(world):
    """An empty variable counts as unset: the file is read. Below HERMES_HOME first, then below the root."""
    home = world.directory / "home"
    for place, name in ((home, "/home.py"), (world.root, "/root.py")):
        (place / "hermes-bus").mkdir(parents=True)
        (place / "hermes-bus" / "hooks.yaml").write_text("# a comment\nhooks:\n  - %s\n  - '~/x.py'\n" % name)
    world.serve(env={"HERMES_BUS_HOOKS": "", "HERMES_HOME": home}).stop()
    assert "[HermesBus] hooks: /home.py, %s/x.py\n" % world.directory in world.output("hermes-bus-server.out")
    (home / "hermes-bus" / "hooks.yaml").unlink()
    world.serve(env={"HERMES_BUS_HOOKS": "", "HERMES_HOME": home}).stop()
    assert "[HermesBus] hooks: /root.py, %s/x.py\n" % world.directory in world.output("hermes-bus-server.out")


def test_a_list_with_odd_items_is_survived_and_told(world):
    hook = recorder(world)
    server = world.serve(env={"HERMES_BUS_HOOKS": json.dumps([1, None, str(hook)])})
    server.connect("sender").message("nobody", {}, id="one")
    assert len(messages(hook, 1)) == 1
    assert "item 1 of the list is no text" in world.output("hermes-bus-server.out")


def test_a_missing_hook_is_skipped_until_it_is_there(world):
    late, other = world.directory / "late.py", recorder(world)
    server = served(world, late, other)
    sender = server.connect("sender")
    sender.message("nobody", {"n": 1})
    assert len(messages(other, 1)) == 1
    recorder(world, "late.py")
    sender.message("nobody", {"n": 2})
    assert [m["body"]["n"] for m in messages(late, 1)] == [2]
    assert world.output("hermes-bus-server.out").count("late.py: there is no such file") == 1


def test_a_failure_is_logged_with_its_reason(world):
    """Exit code, and the end of what it wrote, in one line; what succeeds is not mentioned."""
    bad = script(world, "bad.py", "import sys\nprint('why')\nsys.exit('because')\n")
    good = script(world, "good.py", "print('fine')\n")
    served(world, bad, good).connect("sender").message("nobody", {})
    wait_until(lambda: "bad.py: failed with exit code 1" in world.output("hermes-bus-server.out"), "the log line")
    line = next(line for line in world.output("hermes-bus-server.out").splitlines() if "bad.py: failed" in line)
    assert line.endswith(": why | because") or line.endswith(": because | why"), line
    assert "fine" not in world.output("hermes-bus-server.out")


def test_hooks_that_hang_hold_up_nobody(world):
    """Four that never end fill all places; routing goes on, and what waits is bounded."""
    hang = script(world, "hang.sh", "#!/bin/sh\necho >> $0.began\nexec sleep 600\n")
    server = served(world, hang)
    a, b = server.connect("a"), server.connect("b")
    for number in range(3_000):
        a.message("b", {"n": number})
        if number % 100 == 99:
            assert [b.expect("message")["body"]["n"] for _ in range(100)] == list(range(number - 99, number + 1))
    began = world.directory / "hang.sh.began"
    wait_until(lambda: began.exists() and len(began.read_text()) == 4, "four calls")
    assert len(children(server.pid)) == 4
    wait_until(lambda: "hang.sh: a call was dropped" in world.output("hermes-bus-server.out"), "the log line")


def test_no_descriptor_of_the_server_is_inherited(world):
    """Not even one that the server was given by its starter."""
    hook = script(world, "h.sh", "#!/bin/sh\nls /proc/self/fd | tr '\\n' ' ' > $0.new; mv $0.new $0.out\n")
    held, other = socket.socketpair()
    server = world.serve(env={"HERMES_BUS_HOOKS": hook}, pass_fds=(held.fileno(),))
    assert str(held.fileno()) in os.listdir("/proc/%d/fd" % server.pid), "the server has been given it"
    clients = [server.connect("c%d" % number) for number in range(20)]
    clients[0].message("nobody", {})
    out = world.directory / "h.sh.out"
    wait_until(out.exists, "the hook")
    assert out.read_text().split() == ["0", "1", "2", "3"], "the fourth is the directory itself"
    held.close()
    other.close()


def test_a_stop_asks_hooks_that_run_to_end(world):
    hook = script(world, "h.sh", "#!/bin/sh\ntrap 'echo > $0.asked; exit 0' TERM\necho $$ > $0.began\nwhile :; do sleep 0.05; done\n")
    server = served(world, hook)
    server.connect("sender").message("nobody", {})
    began = world.directory / "h.sh.began"
    wait_until(lambda: began.exists() and began.read_text().strip(), "the hook's begin")
    assert server.stop() == 0
    assert (world.directory / "h.sh.asked").exists()
    assert not procfs.alive(int(began.read_text()))


@pytest.mark.slow
def test_ten_thousand_messages_with_three_hooks(world):
    """Every message arrives, memory stays bounded, and no zombie is left."""
    text = "#!/bin/sh\ncat > /dev/null\n[ \"$HERMES_BUS_MESSAGE_TYPE\" != last ] || echo > $0.last\n"
    hooks = [script(world, name, text) for name in ("a.sh", "b.sh", "c.sh")]
    server = served(world, *hooks)
    receiver, sender = server.connect("receiver"), server.connect("sender")
    before = procfs.rss_bytes(server.pid)
    for first in range(0, 10_000, 500):
        sender.send(*[message("receiver", {"n": number, "text": "x" * 500}) for number in range(first, first + 500)])
        assert [receiver.expect("message")["body"]["n"] for _ in range(500)] == list(range(first, first + 500))
    # The newest call is never dropped, and each hook's calls are started in order.
    sender.message("receiver", {"type": "last"})
    wait_until(lambda: len(list(world.directory.glob("*.last"))) == 3, "the last calls", 120)
    wait_until(lambda: not children(server.pid), "the end of all hooks, zombies too")
    assert procfs.peak_rss_bytes(server.pid) - before < 64 * 1024 * 1024
    assert server.is_alive()
