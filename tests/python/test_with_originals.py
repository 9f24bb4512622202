"""The old package at the other end, and old packages on top of this one.

HERMES_PYTHON_070    python with the original hermes-bus 0.7.0 (default: .venv/original-0.7.0/bin/python)
HERMES_PYTHON_ADDED  python with this package, and the original hermes-notify 0.8.1 and hermes-bus-plugin 0.8.0 on top of it
"""
import os
import subprocess
import sys
import threading

import pytest

from hermes_bus import BusClient, NoAnswerError, aio, list_endpoints, send_message
from world import ORIGINALS, wait_until

ORIGINAL = ORIGINALS["0.7.0"]
ADDED = os.environ.get("HERMES_PYTHON_ADDED")
needs_added = pytest.mark.skipif(not ADDED, reason="HERMES_PYTHON_ADDED is not set")


@pytest.fixture
def old_server(world):
    """The original's daemon."""
    process = world.spawn([ORIGINAL, "-m", "hermes_bus.server"], output="old-server")
    wait_until(lambda: os.path.exists(world.socket_path) and "listening" in world.output("old-server"), "the original server")
    yield process
    assert process.poll() is None


def test_our_client_on_the_originals_daemon(old_server, world):
    """Everything of level 1: names, messages, broadcasts, one-shot messages, requests, coming back; and a clear word about the
    rest."""
    with BusClient("ours") as ours, BusClient("other") as other:
        assert ours.send("other", {"n": 2**70}) and other.poll(10)[0]["body"] == {"n": 2**70}
        assert send_message("ours", "hi") is True and ours.poll(10)[0]["from"] == "anonymous"
        assert send_message("nobody", "hi") is False
        assert set(list_endpoints()) == {"ours", "other"}
        threading.Timer(0.2, lambda: other.reply(other.poll(10)[0], "42")).start()
        assert ours.request("other", "?", 10)["body"] == "42"
        ours.send("", "all")
        assert [client.poll(10)[0]["body"] for client in (ours, other)] == ["all", "all"]
        puppet = world.puppet("0.7.0")
        assert puppet.ask("connect", name="old")["connected"] and puppet.ask("send", to="ours", body="from old")
        assert ours.poll(10)[0]["body"] == "from old"
        assert ours.send("old", "to old") and puppet.bodies(1) == ["to old"]
        for call in (lambda: ours.submit("other", 1), lambda: ours.subscribe("a"), lambda: ours.trace("x")):
            with pytest.raises(Exception) as caught:
                call()
            assert caught.value.code == "needs_level_2" and "too old" in str(caught.value)
        with pytest.raises(NoAnswerError):
            ours.request("other", "?", 0.1)
    mailbox = BusClient("kept", mailbox=True)
    assert mailbox.connect() is False and mailbox.last_error.code == "needs_level_2"


def test_ours_replaces_the_original_under_its_clients(world):
    """The original's daemon ends, ours comes: our client is there again, with all of level 2."""
    old = world.spawn([ORIGINAL, "-m", "hermes_bus.server"], output="old-server")
    wait_until(lambda: os.path.exists(world.socket_path), "the original server")
    with BusClient("ours") as ours:
        old.terminate()
        old.wait(10)
        world.start_daemon()
        wait_until(ours.is_connected, "our client")
        assert ours.submit("ours", 1, "delivered").wait(10).status == "delivered"


def test_the_originals_client_on_our_daemon(server):
    """Both directions, with both of our clients."""
    import asyncio
    puppet = server.world.puppet("0.7.0")
    puppet.ask("connect", name="old")
    with BusClient("ours") as ours:
        for n in range(50):
            assert ours.send("old", n) and puppet.ask("send", to="ours", body=n)
        assert puppet.bodies(50) == list(range(50))
        got = []
        while len(got) < 50:
            got += [m["body"] for m in ours.poll(10)]
        assert got == list(range(50))

    async def main():
        async with aio.BusClient("ours") as client:
            await client.send("old", "x")
            assert puppet.bodies(1) == ["x"] and puppet.ask("send_message", to="ours", body=1)["ok"]
            assert (await asyncio.wait_for(client.next(), 10))["body"] == 1
    asyncio.run(main())


@needs_added
def test_the_original_hermes_notify_on_top_of_ours(server):
    """Its senders import our `send_message`, and take a moment instead of a second."""
    where = server.world.run([ADDED, "-c", "import hermes_bus, hermes_notify.notify_hermes as n; print(hermes_bus.__version__, n.send_message)"])
    assert where.returncode == 0 and where.stdout.startswith("0.8.0"), where.stderr
    peer = server.connect("lead")
    sender = [ADDED, "-m", "hermes_notify.notify_hermes"]
    done = server.world.run(sender + ["--to", "lead", "--from", "me", "--type", "ack", "--channel", "weixin", "hi"])
    assert (done.returncode, done.stdout) == (0, "OK: notified lead\n"), done.stderr
    got = peer.expect("message")
    assert (got["from"], got["body"]) == ("me", {"text": "hi", "type": "ack", "channel": "weixin"})
    assert server.world.run(sender + ["--to", "nobody", "hi"]).returncode == 1
    done = server.world.run(sender + ["--to", "lead", "--from", "me", "--body", '{"n": 1e400}'])
    assert done.returncode == 0 and peer.expect("message")["body"]["n"] == float("inf")


PLUGIN = r"""
import os, sys, time
import hermes_bus_plugin, hermes_bus
class Context:
    def __init__(self): self.tools, self.hooks = {}, {}
    def register_tool(self, name, plugin, schema, handler): self.tools[name] = handler
    def register_hook(self, name, function): self.hooks[name] = function
    def register_skill(self, *a, **k): pass
    def __getattr__(self, name): return lambda *a, **k: None
context = Context()
hermes_bus_plugin.register(context)
print('\nHOOKS', *context.hooks, flush=True)
sys.stdin.readline()
told = ''
while 'told' not in told:
    told += str(context.hooks['pre_llm_call']())
    time.sleep(0.02)
print('\nTOLD', told, flush=True)
print('\nSTATUS', context.tools['bus_status']())
print('\nSENT', context.tools['bus_send']({'target': 'lead', 'type': 'ack', 'text': 'thanks'}), flush=True)
os._exit(0)
"""


@needs_added
def test_the_original_plugin_on_top_of_ours(world):
    """It starts the bus with our manager, registers, gets what we send, and has its tools."""
    (world.root / "bus-rules.yaml").write_text("callbacks:\n- match_type: ack\n  context: true\n  context_format: 'told: {text}'\n")
    environment = dict(world.environment, HERMES_BUS_ENDPOINT="agent")
    process = subprocess.Popen([ADDED, "-c", PLUGIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    world._children.append(process)
    hooks = next(line for line in process.stdout if line.startswith("HOOKS"))
    assert "pre_llm_call" in hooks
    wait_until(lambda: os.path.exists(world.socket_path) and "agent" in list_endpoints(start=False), "the plugin to register", 30)
    with BusClient("lead") as lead:
        assert lead.submit("agent", {"text": "done", "type": "ack"}, "delivered").wait(10).status == "delivered"
        process.stdin.write("\n")
        out, _ = process.communicate(timeout=30)
        assert "told: done" in next(line for line in out.splitlines() if line.startswith("TOLD"))
        assert "STATUS Bus running. Endpoints (2): agent" in out and "SENT Sent ack to lead: thanks" in out
        assert lead.poll(10)[0]["body"] == {"text": "thanks", "type": "ack"}


def test_this_interpreter_has_no_old_package():
    import hermes_bus
    assert os.path.dirname(hermes_bus.__file__).startswith(sys.prefix) and hermes_bus.__version__ == "0.8.0"
