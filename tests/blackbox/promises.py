"""What a bus has promised, held against what came: a pure check of a log of what senders and receivers saw.

The log is a list of the events below, in the order in which they happened at their peers: a message is logged before its
first byte is written, an acknowledgement too; what arrives is logged when it has been read. `bus` is which process of the bus
the connection led to, so that a crash lies between two events whose `bus` differs.
"""
import collections
import dataclasses
from typing import Optional

# States that survive the end of the process and of the power.
KEPT = ("stored", "acked")
# A refusal after which a message may still be on its way to the one who had it handed over.
LATE_REFUSALS = ("expired", "rejected", "deliveries_exceeded", "receiver_gone", "receipt_impossible")


@dataclasses.dataclass(frozen=True)
class Sent:
    """A message, perhaps only in part, was written to the bus. The same id again is a repetition."""
    sender: str
    to: str
    id: str
    wanted: Optional[str]
    bus: int


@dataclasses.dataclass(frozen=True)
class Told:
    """A receipt."""
    id: str
    status: str


@dataclasses.dataclass(frozen=True)
class Refused:
    """An error about a message."""
    id: str
    code: str


@dataclasses.dataclass(frozen=True)
class Began:
    """A receiver's session was registered."""
    endpoint: str
    session: int


@dataclasses.dataclass(frozen=True)
class Got:
    """A message arrived. `delivery` is 1 where it said nothing; `seq` is None where the session does not acknowledge."""
    endpoint: str
    session: int
    id: str
    delivery: int = 1
    seq: Optional[int] = None
    intact: bool = True


@dataclasses.dataclass(frozen=True)
class Acking:
    """A receiver is about to acknowledge these."""
    endpoint: str
    ids: tuple


@dataclasses.dataclass(frozen=True)
class Settled:
    """All that was acknowledged has been handled, and the bus was stopped in good order: nothing of before may come any more."""


def broken(log, unmarked=()):
    """Every broken promise in a log that ends when all mailboxes have been emptied, in words; none is an empty list.

    `unmarked`: endpoints whose receivers neither acknowledge nor can be told that a message came before, and may get it again
    without a word."""
    check = _Check(frozenset(unmarked))
    for number, event in enumerate(log):
        getattr(check, type(event).__name__.lower())(number, event)
    return check.found + check.at_the_end()


class _Check:
    def __init__(self, unmarked):
        self.unmarked = unmarked
        self.found = []
        self.sendings = collections.defaultdict(list)     # id → (number, event)
        self.told_kept = {}                               # id → number of the first such receipt
        self.told_acked = {}
        self.refused_at = {}                              # id → (number, code)
        self.in_doubt = set()                             # ids that an earlier process had been sent, and had not refused
        self.acknowledged = set()
        self.came = collections.defaultdict(int)          # id → how often
        self.came_unmarked = collections.defaultdict(int)
        self.first = {}                                   # id → number of its first arrival
        self.reached = {}                                 # (sender, endpoint) → number of the sending that came last
        self.began_at = {}
        self.last_seq = {}                                # session → seq
        self.named = {}                                   # (endpoint, seq) → id
        self.is_over = False

    def sent(self, number, event):
        before = self.sendings.get(event.id)
        if before and before[-1][1].bus != event.bus and event.id not in self.refused_at:
            # It may have been kept without a word: a refusal of this one says nothing of that one.
            self.in_doubt.add(event.id)
        self.sendings[event.id].append((number, event))
        self.refused_at.pop(event.id, None)

    def told(self, number, event):
        if event.id not in self.sendings:
            self.found.append("invented: a receipt for %s, which nobody sent" % event.id)
            return
        if event.status in KEPT:
            self.told_kept.setdefault(event.id, number)
        if event.status == "acked":
            self.told_acked.setdefault(event.id, number)
            if event.id not in self.acknowledged:
                self.found.append("early: %s is said to be acked, and nobody acknowledged it" % event.id)

    def refused(self, number, event):
        if event.code not in LATE_REFUSALS and event.id not in self.in_doubt:
            self.refused_at[event.id] = (number, event.code)

    def began(self, number, event):
        self.began_at[event.session] = number

    def acking(self, number, event):
        self.acknowledged.update(event.ids)

    def settled(self, number, event):
        self.is_over = True

    def got(self, number, event):
        sendings = self.sendings.get(event.id)
        if not sendings:
            self.found.append("invented: %s came to %s, and nobody sent it" % (event.id, event.endpoint))
            return
        original = sendings[0][1]
        if original.to != event.endpoint:
            self.found.append("astray: %s for %s came to %s" % (event.id, original.to, event.endpoint))
            return
        if not event.intact:
            self.found.append("changed: %s came to %s with another body" % (event.id, event.endpoint))
        self.sequence(event)
        self.came[event.id] += 1
        if self.is_over:
            self.found.append("again: %s came to %s after it was acknowledged and the bus stopped in good order" % (event.id, event.endpoint))
        self.duplicate(number, event, sendings)
        if event.id not in self.first:
            self.first[event.id] = number
            self.order(event, original.sender, sendings)
            self.comeback(event)

    def sequence(self, event):
        if event.seq is None:
            return
        last = self.last_seq.get(event.session, 0)
        if event.seq <= last:
            self.found.append("order: %s came to %s with seq %d after seq %d" % (event.id, event.endpoint, event.seq, last))
        self.last_seq[event.session] = event.seq
        other = self.named.setdefault((event.endpoint, event.seq), event.id)
        if other != event.id:
            self.found.append("ambiguous: seq %d of %s is both %s and %s" % (event.seq, event.endpoint, other, event.id))

    def duplicate(self, number, event, sendings):
        """Once unmarked, and once more for each further process of the bus to which it was sent in doubt."""
        if event.delivery > 1 or event.endpoint in self.unmarked:
            return
        self.came_unmarked[event.id] += 1
        promised = self.told_kept.get(event.id, number)
        allowed = len({sending.bus for at, sending in sendings if at < promised})
        again = self.came[event.id] > 1
        if again and self.came_unmarked[event.id] > allowed or again and allowed < 2:
            self.found.append("unmarked: %s came to %s again as if for the first time" % (event.id, event.endpoint))

    def order(self, event, sender, sendings):
        """First arrivals follow the sendings. What was sent again may have arrived by any of them."""
        key = (sender, event.endpoint)
        reached = self.reached.get(key, -1)
        after = [at for at, _ in sendings if at > reached]
        if after:
            self.reached[key] = after[0]
        else:
            self.found.append("order: %s of %s came to %s after something that was sent later" % (event.id, sender, event.endpoint))

    def comeback(self, event):
        refused, code = self.refused_at.get(event.id, (None, None))
        if refused is not None and self.began_at.get(event.session, -1) > refused:
            self.found.append("returned: %s was refused with %s, and came to a session of %s that began after that" % (event.id, code, event.endpoint))

    def at_the_end(self):
        found = []
        for id in sorted(self.told_kept, key=self.told_kept.get):
            to, said = self.sendings[id][0][1].to, "acked" if id in self.told_acked else "stored"
            if id not in self.first:
                found.append("lost: %s for %s was said to be %s, and never came" % (id, to, said))
            elif to not in self.unmarked and id not in self.acknowledged:
                found.append("forgotten: %s for %s was said to be %s, and never came again until it was acknowledged" % (id, to, said))
        return found
