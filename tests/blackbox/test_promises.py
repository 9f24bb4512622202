"""The check of what a bus promised finds every kind of broken promise, and lets pass what the protocol allows."""
import pytest

from promises import Acking, Began, Got, Refused, Sent, Settled, Told, broken


def sent(id, bus=1, sender="s", to="box"):
    return Sent(sender, to, id, "stored", bus)


def got(id, session=1, delivery=1, seq=None, to="box", intact=True):
    return Got(to, session, id, delivery, seq, intact)


def acking(*ids):
    return Acking("box", ids)


KEPT = [
    ("nothing", []),
    ("a message and its receipt", [sent("a"), Told("a", "stored"), got("a"), acking("a")]),
    ("its receipt after it", [sent("a"), got("a"), acking("a"), Told("a", "acked")]),
    ("lost without a promise", [sent("a"), sent("b"), Told("a", "accepted"), Told("b", "delivered")]),
    ("lost after a refusal", [sent("a"), Refused("a", "store_unavailable")]),
    ("again, and marked", [sent("a"), Told("a", "stored"), got("a"), got("a", 2, delivery=2), got("a", 3, delivery=2), acking("a")]),
    ("again, although it was acknowledged", [sent("a"), Told("a", "stored"), got("a"), acking("a"), got("a", 2, delivery=2)]),
    ("marked at once", [sent("a"), got("a", delivery=2)]),
    ("sent again to another process, in doubt", [sent("a", 1), got("a", 1), sent("a", 2), got("a", 2)]),
    ("sent again and delivered late", [sent("a", 1), sent("b", 1), got("b"), sent("a", 2), got("a")]),
    ("senders do not wait for each other", [sent("a", sender="s"), sent("b", sender="t"), got("b"), got("a")]),
    ("endpoints do not wait for each other", [sent("a", to="x"), sent("b", to="y"), got("b", to="y"), got("a", to="x")]),
    ("redelivered in order before anything new", [sent("a"), sent("b"), got("a", 1, 1, 7), got("a", 2, 2, 7), got("b", 2, 1, 8)]),
    ("refused, but handed over before", [sent("a"), Began("box", 1), Refused("a", "store_unavailable"), got("a", 1)]),
    ("refused, and sent again", [sent("a"), Refused("a", "store_unavailable"), sent("a"), Began("box", 1), got("a", 1)]),
    ("refused by one process, and kept in doubt by the one before", [
        sent("a", 1), sent("a", 2), Refused("a", "store_unavailable"), Began("box", 1), got("a", 1)]),
    ("expired in a receiver's hands", [sent("a"), Refused("a", "expired"), Began("box", 1), got("a", 1)]),
    ("something new after the good end", [sent("a"), got("a"), acking("a"), Settled()]),
]

BROKEN = [
    ("lost", [sent("a"), Told("a", "stored")]),
    ("lost", [sent("a"), sent("b"), Told("a", "stored"), got("b")]),
    ("lost", [sent("a"), got("b", to="box"), Told("a", "stored"), sent("b")]),
    ("lost", [sent("a"), acking("a"), Told("a", "acked")]),
    ("forgotten", [sent("a"), Told("a", "stored"), got("a")]),
    ("early", [sent("a"), got("a"), Told("a", "acked"), acking("a")]),
    ("invented", [got("a")]),
    ("invented", [Told("a", "stored")]),
    ("astray", [sent("a", to="x"), got("a", to="y")]),
    ("changed", [sent("a"), got("a", intact=False)]),
    ("unmarked", [sent("a"), got("a"), got("a")]),
    ("unmarked", [sent("a"), got("a", delivery=2), got("a")]),
    ("unmarked", [sent("a", 1), sent("a", 1), got("a"), got("a")]),
    ("unmarked", [sent("a", 1), Told("a", "stored"), sent("a", 2), got("a"), got("a")]),
    ("unmarked", [sent("a", 1), sent("a", 2), got("a"), got("a"), got("a")]),
    ("order", [sent("a"), sent("b"), got("b"), got("a")]),
    ("order", [sent("a", 1), sent("b", 1), sent("a", 2), sent("c", 2), got("b"), got("c"), got("a")]),
    ("order", [sent("a"), sent("b"), got("a", 1, 1, 7), got("b", 1, 1, 6)]),
    ("order", [sent("a"), got("a", 1, 1, 7), got("a", 1, 2, 7)]),
    ("ambiguous", [sent("a"), sent("b"), got("a", 1, 1, 7), got("b", 2, 1, 7)]),
    ("returned", [sent("a"), Refused("a", "store_unavailable"), Began("box", 2), got("a", 2)]),
    ("returned", [sent("a", 1), sent("a", 1), Refused("a", "store_unavailable"), Began("box", 2), got("a", 2)]),
    ("returned", [
        sent("a", 1), Refused("a", "store_unavailable"), sent("a", 2), Refused("a", "store_unavailable"), Began("box", 2), got("a", 2)]),
    ("again", [sent("a"), got("a"), acking("a"), Settled(), got("a", 2, delivery=2)]),
]


@pytest.mark.parametrize("log", [log for _, log in KEPT], ids=[name for name, _ in KEPT])
def test_what_the_protocol_allows(log):
    assert broken(log) == []


@pytest.mark.parametrize("kind, log", BROKEN, ids=["%s-%d" % (kind, number) for number, (kind, _) in enumerate(BROKEN)])
def test_what_it_does_not(kind, log):
    assert kind in {words.split(":")[0] for words in broken(log)}


def test_who_cannot_be_told_may_get_it_again():
    log = [sent("a"), got("a"), Told("a", "stored"), got("a")]
    assert broken(log, unmarked=["box"]) == []
    assert broken(log, unmarked=["other"]) != []
