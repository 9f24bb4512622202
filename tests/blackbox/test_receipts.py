"""The courtesy receipt: it lets released senders go at once, and nobody else ever sees one."""
import pytest

from wire import message


def test_a_delivered_message_is_receipted_with_its_id(server):
    """A released `send_message` connects, sends one message and waits: it hears `delivered`."""
    receiver = server.connect("b")
    c = server.connect()
    c.message("b", {"n": 1}, id="the-id", ts=1.0, sender="anonymous")
    assert c.recv() == {"type": "receipt", "id": "the-id", "status": "delivered"}
    assert receiver.expect("message")["body"] == {"n": 1}


def test_the_receipt_names_the_id_that_the_bus_gave(server):
    """Sender and receiver learn the same id when there was none."""
    receiver = server.connect("b")
    c = server.connect()
    c.message("b", 1)
    assert c.expect("receipt")["id"] == receiver.expect("message")["id"]


def test_a_message_that_waits_for_a_slow_receiver_is_only_accepted(server):
    """The receiver's socket is full, so the bytes are not in it yet: the receipt must not say `delivered`."""
    receiver = server.connect("slow")
    sender = server.connect("sender")
    sender.send(*[message("slow", "x" * 10_000) for _ in range(200)])
    sender.fence()
    c = server.connect()
    c.message("slow", "last", id="late")
    assert c.recv() == {"type": "receipt", "id": "late", "status": "accepted"}
    for _ in range(200):
        receiver.expect("message")
    assert receiver.expect("message")["body"] == "last"


def test_a_broadcast_to_nobody_is_accepted_by_none(server):
    """Nobody is registered: no error, and the sender can see that it reached no one."""
    c = server.connect()
    c.message("", "all", id="b")
    assert c.recv() == {"type": "receipt", "id": "b", "status": "accepted", "endpoints": 0}


def test_a_broadcast_to_somebody_is_receipted_once(server):
    """Two receivers, one receipt."""
    receivers = [server.connect("r%d" % n) for n in range(2)]
    c = server.connect()
    c.message("", "all", id="b")
    receipt = c.expect("receipt")
    assert receipt["id"] == "b" and receipt["status"] in ("delivered", "accepted")
    c.fence()
    for r in receivers:
        assert r.expect("message")["body"] == "all"


@pytest.mark.parametrize("company", [{"type": "ping"}, {"type": "list_endpoints"}], ids=["ping", "list"])
def test_who_sends_more_in_the_same_write_gets_no_receipt(server, company):
    """A client that reads its answers by position finds the answer to its question, and nothing before it."""
    receiver = server.connect("b")
    c = server.connect()
    c.send(message("b", 1), company)
    assert c.recv()["type"] == {"ping": "pong", "list_endpoints": "endpoints_list"}[company["type"]]
    c.fence()
    assert receiver.expect("message")["body"] == 1


def test_a_burst_of_messages_gets_no_receipt(server):
    """Three messages in one write: only errors are answered, and later messages get none either."""
    receiver = server.connect("b")
    c = server.connect()
    c.send(message("b", 1), message("nobody", 2, id="lost"), message("b", 3))
    assert c.expect("error")["id"] == "lost"
    c.message("b", 4)
    c.fence()
    assert [receiver.expect("message")["body"] for _ in range(3)] == [1, 3, 4]


def test_only_the_first_message_is_receipted(server):
    """A connection that goes on to send hears of its later messages only when they fail."""
    receiver = server.connect("b")
    c = server.connect()
    c.message("b", 1)
    c.expect("receipt")
    c.message("b", 2)
    c.fence()
    c.message("nobody", 3)
    c.expect("error")
    assert [receiver.expect("message")["body"] for _ in range(2)] == [1, 2]


def test_after_an_error_nothing_is_receipted(server):
    """The first message failed: the sender knows that this connection answers failures only."""
    server.connect("b")
    c = server.connect()
    c.message("nobody", 1)
    c.expect("error")
    c.message("b", 2)
    c.fence()


def test_questions_before_the_first_message_do_not_cost_the_receipt(server):
    """Ping first, then a message alone."""
    server.connect("b")
    c = server.connect()
    c.fence()
    c.message("b", 1)
    c.expect("receipt")


def test_registered_senders_never_get_one(server):
    """Released long-lived clients would hand it to the application."""
    server.connect("b")
    a = server.connect("a")
    a.message("b", 1)
    a.fence()
    a.message("", 2)
    assert a.expect("message")["body"] == 2
    a.fence()


def test_a_half_closed_sender_still_hears_its_receipt(server):
    """`send and shut down` is what shell scripts do."""
    server.connect("b")
    c = server.connect()
    c.message("b", 1, id="x")
    c.half_close()
    frames = c.rest()
    assert [f["type"] for f in frames] in (["receipt"], []) and all(f["id"] == "x" for f in frames)
