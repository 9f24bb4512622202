"""Senders and receivers that go on through any number of deaths of the bus, and write down what they see (see promises.py).

All their choices come from one seed; the moments at which threads and kills meet do not.
"""
import dataclasses
import random
import select
import socket
import struct
import threading

from promises import Acking, Began, Got, Refused, Sent, Told
from wire import Closed, Connection, Silence
from world import wait_until

SETTLE_S = 60.0
_RANK = ("accepted", "stored", "delivered", "acked")


class Ledger:
    """The log that all threads write to."""

    def __init__(self):
        self.events = []
        self.answers = 0
        self.failed = False
        self._grown = threading.Condition()

    def add(self, *events):
        with self._grown:
            self.events.extend(events)
            self.answers += sum(isinstance(event, (Told, Got)) for event in events)
            self._grown.notify_all()

    def fail(self):
        """Nobody needs to wait for more."""
        with self._grown:
            self.failed = True
            self._grown.notify_all()

    def wait_for_more(self, count, within_s=SETTLE_S):
        """Waits until the bus has done so much more than now: receipts and deliveries."""
        with self._grown:
            wanted = self.answers + count
            assert self._grown.wait_for(lambda: self.failed or self.answers >= wanted, within_s), "only %d of %d receipts and deliveries in %.0f s" % (
                count - wanted + self.answers, count, within_s)


def text_of(id, bytes_max):
    """The body of a message: known from its id."""
    fresh = random.Random(id)
    return id + "/" + "".join(fresh.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(8)) * (fresh.randint(0, bytes_max) // 8)


class Peer(threading.Thread):
    """A client that comes back until it is told to finish. What goes wrong in it is kept, and raised by `result`."""

    def __init__(self, name, bus, ledger, seed):
        super().__init__(name=name, daemon=True)
        self.bus, self.ledger, self.random = bus, ledger, random.Random("%s/%s" % (seed, name))
        self.finishing = threading.Event()
        self.over = threading.Event()
        self.problem = None
        self.connection = None

    def run(self):
        try:
            while not self.done():
                if not self.bus.up.wait(0.05):
                    continue
                try:
                    with Connection(self.bus.socket_path) as self.connection:
                        credentials = self.connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                        self.process = struct.unpack("3i", credentials)[0]
                        self.session()
                except TimeoutError:
                    raise AssertionError("the bus took nothing from it for a long time") from None
                except (OSError, Closed):
                    continue
        except BaseException as problem:
            self.problem = problem
            self.ledger.fail()
        finally:
            self.over.set()

    def register(self, **options):
        self.connection.send({"type": "register", "endpoint": self.name, **options})
        answer = self.connection.expect("registered")
        assert answer["endpoint"] == self.name
        return answer

    def frames(self, wait_s):
        """Frames that are there, after waiting for the first of them. At the end of the connection, those that came whole first."""
        while True:
            try:
                frame = self.connection.recv(wait_s)
            except Silence:
                return
            yield frame
            wait_s = 0

    def result(self, within_s=SETTLE_S):
        """Waits until it is done."""
        ended = self.over.wait(within_s)
        if self.problem:
            raise AssertionError("%s: %r" % (self.name, self.problem)) from self.problem
        assert ended, "%s does not come to an end: %s" % (self.name, self.state())

    def done(self):
        return self.finishing.is_set()

    def state(self):
        return ""


class Sender(Peer):
    """Sends to all endpoints, with different wishes, so many at a time. After a crash it sends again what it has not heard of,
    or gives it up."""

    def __init__(self, name, bus, ledger, seed, targets, outstanding_max=64, bytes_max=2000):
        super().__init__(name, bus, ledger, seed)
        self.targets, self.outstanding_max, self.bytes_max = targets, outstanding_max, bytes_max
        self.outstanding = {}
        self.count = 0

    def done(self):
        return self.finishing.is_set() and not self.outstanding

    def state(self):
        return "no answer to %r" % list(self.outstanding.items())[:5]

    def session(self):
        self.register(protocol=2)
        again = list(self.outstanding.items()) if self.finishing.is_set() or self.random.random() < 0.7 else []
        self.outstanding = {}
        # Sometimes a trickle, so that the bus is also seen with little to do.
        self.room = self.random.choice((1, 8, self.outstanding_max, self.outstanding_max))
        for id, (to, wanted) in again:
            self.put(id, to, wanted)
        while not self.done():
            room = self.room - len(self.outstanding)
            for _ in range(0 if self.finishing.is_set() else min(room, self.random.randint(1, 16))):
                self.put_new()
            self.hear(0.02 if room <= 0 or self.finishing.is_set() else 0)

    def put_new(self):
        self.count += 1
        to = self.random.choice(self.targets)
        wanted = self.random.choice(to.wanted)
        if wanted != "stored" and sum(wanted != "stored" for _, wanted in self.outstanding.values()) >= self.room // 2:
            # What waits for receivers must not hold up what waits for the disk.
            wanted = "stored"
        self.put("%s.%d" % (self.name, self.count), to.name, wanted)

    def put(self, id, to, wanted):
        self.outstanding[id] = (to, wanted)
        self.ledger.add(Sent(self.name, to, id, wanted, self.process))
        self.connection.message(to, text_of(id, self.bytes_max), id=id, receipt=wanted, queue=True)

    def hear(self, wait_s):
        events = []
        try:
            for frame in self.frames(wait_s):
                events += self.handle(frame)
        finally:
            self.ledger.add(*events)

    def handle(self, frame):
        kind = frame["type"]
        if kind == "bye":
            return []
        assert kind in ("receipt", "error"), frame
        id = frame["id"]
        to, wanted = self.outstanding.get(id, (None, None))
        if kind == "error":
            self.outstanding.pop(id, None)
            status = [Told(id, frame["status"])] if frame.get("status") in _RANK else []
            return status + [Refused(id, frame["code"])]
        # A repetition is answered with what became of the first one.
        assert frame["status"] in _RANK and (wanted is None or frame.get("to") == to), frame
        self.outstanding.pop(id, None)
        return [Told(id, frame["status"])]


@dataclasses.dataclass(frozen=True)
class Habits:
    """How a receiver behaves, and what senders ask for when they write to it."""
    name: str
    level: int = 2
    mailbox: bool = True
    in_flight: int = 64
    here: float = 1.0               # the share of the time that it is connected
    messages_a_session: int = 400   # on average, before it goes without a word
    wanted: tuple = ("stored", "stored", "acked", "delivered")


# Present and quick, often dead, mostly away, without a mailbox, with a window of one, and one that cannot acknowledge.
EVERYBODY = (
    Habits("quick", in_flight=256, messages_a_session=100_000),
    Habits("mortal", messages_a_session=60),
    Habits("away", here=0.2, messages_a_session=300, wanted=("stored",)),
    Habits("queued", mailbox=False, here=0.7),
    Habits("careful", in_flight=1),
    Habits("old", level=1, mailbox=False, here=0.8, wanted=("stored",)),
)


class Receiver(Peer):
    """Acknowledges in batches, and sometimes leaves without having acknowledged everything. When it is told to finish it
    stays, and acknowledges all."""

    sessions = 0
    _numbering = threading.Lock()

    def __init__(self, habits, bus, ledger, seed, bytes_max=2000):
        super().__init__(habits.name, bus, ledger, seed)
        self.habits, self.bytes_max = habits, bytes_max
        self.unacknowledged = []
        self.leaving = threading.Event()

    def done(self):
        return self.leaving.is_set()

    def state(self):
        return "it holds %d messages" % len(self.unacknowledged)

    def session(self):
        habits = self.habits
        if not self.finishing.is_set() and self.random.random() > habits.here:
            # Away until something else has happened.
            self.finishing.wait(self.random.uniform(0, 0.2))
            return
        self.unacknowledged = []
        if habits.level == 2:
            self.register(protocol=2, mailbox=habits.mailbox, ack=True, in_flight=habits.in_flight)
        else:
            self.register()
        with Receiver._numbering:
            Receiver.sessions += 1
            self.number = Receiver.sessions
        self.ledger.add(Began(self.name, self.number))
        left = int(self.random.expovariate(1 / habits.messages_a_session)) + 1
        while not self.leaving.is_set():
            left -= self.take()
            if left < 0 and not self.finishing.is_set():
                return
            if habits.level == 2 and self.unacknowledged and (self.finishing.is_set() or self.random.random() < 0.5):
                self.acknowledge()
        if habits.level == 2:
            # The pong says that the acknowledgements before it have been handled.
            self.connection.send({"type": "ping"})
            while self.connection.recv()["type"] != "pong":
                pass

    def take(self):
        """Everything that is there."""
        count, events = 0, []
        try:
            for frame in self.frames(0.02):
                if frame["type"] != "message":
                    assert frame["type"] in ("bye", "pong"), frame
                    continue
                count += 1
                id, seq = frame["id"], frame.get("seq")
                assert (seq is None) == (self.habits.level == 1), frame
                events.append(Got(self.name, self.number, id, frame.get("delivery", 1), seq, frame["body"] == text_of(id, self.bytes_max)))
                self.unacknowledged.append((seq, id))
                assert self.habits.level == 1 or len(self.unacknowledged) <= self.habits.in_flight, "more than it takes at a time: %s" % self.state()
                # One that cannot acknowledge has read what it took out of its socket: it leaves nothing of that behind.
                if count >= 64 and self.habits.level == 2:
                    break
        finally:
            self.ledger.add(*events)
        if self.habits.level == 1:
            self.unacknowledged = []
        return count

    def acknowledge(self):
        count = len(self.unacknowledged) if self.finishing.is_set() else self.random.randint(1, len(self.unacknowledged))
        now, self.unacknowledged = self.unacknowledged[:count], self.unacknowledged[count:]
        self.ledger.add(Acking(self.name, tuple(id for _, id in now)))
        if self.random.random() < 0.5:
            self.connection.send({"type": "ack", "up_to": now[-1][0]})
        else:
            self.connection.send({"type": "ack", "seqs": [seq for seq, _ in now]})


class Traffic:
    """Senders and receivers together."""

    def __init__(self, bus, seed, habits=EVERYBODY, senders=4, settle_s=SETTLE_S, **options):
        self.bus, self.ledger = bus, Ledger()
        self.habits, self.settle_s = habits, settle_s
        self.receivers = [Receiver(each, bus, self.ledger, seed) for each in habits]
        self.senders = [Sender("sender-%d" % number, bus, self.ledger, seed, habits, **options) for number in range(senders)]

    def start(self):
        for peer in self.receivers + self.senders:
            peer.start()

    def progress(self, events):
        self.ledger.wait_for_more(events)
        for peer in self.receivers + self.senders:
            if peer.problem:
                peer.result()

    def settle(self):
        """Nothing new is sent; waits until every sender has its answers and every receiver has acknowledged all that came."""
        for peer in self.receivers + self.senders:
            peer.finishing.set()
        for sender in self.senders:
            sender.result(self.settle_s)
        wait_until(lambda: self.ledger.failed or self.bus.waiting() == 0, "every receiver to have acknowledged everything", self.settle_s)
        for receiver in self.receivers:
            receiver.leaving.set()
        for receiver in self.receivers:
            receiver.result(self.settle_s)
