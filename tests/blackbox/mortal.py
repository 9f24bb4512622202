"""A bus that is killed and comes back on the same root, with traffic all the while; and what must be true of all that was
seen when it ends."""
import collections
import os
import random
import signal
import threading
import time

from promises import Began, Got, Settled, broken
from traffic import Traffic
from wire import Connection
from world import BIN, answers, wait_until

START_S = 30.0


class Bus:
    """The daemon of a world, which may die at any moment; with a layer (tests/powerloss), its disk may lose power."""

    def __init__(self, world, layer=None, program=None, env=None):
        self.world, self.layer = world, layer
        # A receiver that dies all the time must not make a dead letter of what it is to get in the end.
        self.program = program or [BIN / "hermes-bus-server", "--set", "delivery.deliveries_max=1000000"]
        self.env = dict(env or {}, **(layer.environment() if layer else {}))
        self.up = threading.Event()
        self.process = None
        self.starts = 0

    @property
    def socket_path(self):
        return self.world.socket_path

    @property
    def pid(self):
        return self.process.pid

    def start(self):
        """Starts it without waiting for it."""
        self.starts += 1
        self.process = self.world.spawn(self.program, env=self.env, output="bus.out")

    def wait_until_up(self):
        wait_until(lambda: self.process.poll() is not None or answers(self.socket_path), "the bus to answer", START_S)
        assert self.process.poll() is None, "the bus ended with status %s: %s" % (self.process.returncode, self.world.output("bus.out")[-2000:])
        self.up.set()

    def kill(self):
        assert self.process.poll() is None, "the bus had ended by itself, with status %s: %s" % (
            self.process.returncode, self.world.output("bus.out")[-2000:])
        self.up.clear()
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.up.clear()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.world.output("bus.out")[-2000:]

    def waiting(self):
        """Messages that wait for endpoints, in memory or on disk."""
        with Connection(self.socket_path) as asker:
            asker.send({"type": "list_endpoints", "protocol": 2})
            details = asker.expect("endpoint_list")["details"]
        return sum((each.get(where) or {}).get("messages", 0) for each in details for where in ("pending", "mailbox"))


class Story:
    """Traffic over a row of deaths, and the verdict."""

    def __init__(self, bus, seed, **traffic):
        self.bus, self.seed = bus, seed
        self.random = random.Random(seed)
        self.traffic = Traffic(bus, seed, **traffic)
        self.deaths = collections.Counter()
        self.unsynced_bytes = 0

    @property
    def log(self):
        return self.traffic.ledger.events

    def begin(self):
        print("seed %d" % self.seed)
        self.bus.start()
        self.bus.wait_until_up()
        self.traffic.start()

    def die(self, losses=None, events=(1, 1500)):
        """Death at some moment of the traffic, sometimes again while it comes back. `losses`: what the power takes with it."""
        self.traffic.progress(self.random.randint(*events))
        # Not in step with what was just logged.
        time.sleep(self.random.uniform(0, 0.01))
        self.death("under load", losses)
        while self.random.random() < 0.2:
            self.bus.start()
            time.sleep(self.random.uniform(0, 0.1))
            self.death("coming back", losses)
        self.bus.start()
        self.bus.wait_until_up()

    def death(self, when, losses):
        self.bus.kill()
        self.deaths[when] += 1
        if losses:
            loss = self.random.choice(losses)
            self.unsynced_bytes += self.bus.layer.lose_power(self.random, loss)
            self.deaths[loss] += 1

    def end(self):
        """Everything is drained; then the bus is stopped in good order, started again, and asked whether something is left."""
        self.traffic.settle()
        self.bus.stop()
        self.log.append(Settled())
        self.bus.start()
        self.bus.wait_until_up()
        for number, habits in enumerate(self.traffic.habits):
            self.look_for_leftovers(habits, -1 - number)

    def look_for_leftovers(self, habits, session):
        with Connection(self.bus.socket_path) as c:
            options = {"protocol": 2, "mailbox": habits.mailbox, "ack": True} if habits.level == 2 else {}
            c.send({"type": "register", "endpoint": habits.name, **options}, {"type": "ping"})
            wanted = c.expect("registered").get("mailbox_depth", 0)
            self.log.append(Began(habits.name, session))
            answered = False
            while not answered or wanted > 0:
                frame = c.recv()
                if frame["type"] == "pong":
                    answered = True
                    continue
                wanted -= 1
                self.log.append(Got(habits.name, session, frame["id"], frame.get("delivery", 1), frame.get("seq")))
                if frame.get("seq"):
                    c.send({"type": "ack", "seqs": [frame["seq"]]})

    def verdict(self):
        """Broken promises, in words."""
        return broken(self.log, unmarked=[each.name for each in self.traffic.habits if each.level == 1])

    def report(self):
        kinds = collections.Counter(type(event).__name__.lower() for event in self.log)
        return "seed %d; deaths %s; %s; %d bytes had not been synced" % (
            self.seed, dict(self.deaths), ", ".join("%s %d" % each for each in sorted(kinds.items())), self.unsynced_bytes)

    def check(self):
        found = self.verdict()
        print(self.report())
        assert not found, "%d broken promises (%s):\n%s" % (len(found), self.report(), "\n".join(found[:20]))


def a_seed():
    """A new one each time; HERMES_CRASH_SEED repeats one, as far as the choices go."""
    return int(os.environ.get("HERMES_CRASH_SEED") or random.SystemRandom().randrange(1 << 32))


