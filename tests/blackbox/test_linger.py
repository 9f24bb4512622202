"""Names that change hands: linger, replacement, fights, and clients that lose patience."""
import select
import time

import pytest

from wire import Closed, Silence, message
from world import wait_until


def gone(server, name):
    """Waits until the bus has seen that this client is away."""
    with server.connect() as watcher:
        wait_until(lambda: name not in watcher.endpoints(), "%s to leave the list" % name)


@pytest.mark.parametrize("noticed", [True, False], ids=["absence-noticed", "in-the-same-moment"])
def test_what_is_sent_to_a_name_that_was_there_a_moment_ago_waits_for_it(server, noticed):
    """A worker drops its connection and comes back within three seconds: it gets what was sent meanwhile, in order, before anything new."""
    sender = server.connect("sender")
    server.connect("worker").hang_up()
    if noticed:
        gone(server, "worker")
    for n in range(5):
        sender.message("worker", n)
    sender.fence()
    back = server.connect("worker")
    sender.message("worker", "new")
    assert [back.expect("message")["body"] for _ in range(6)] == [0, 1, 2, 3, 4, "new"]


def test_a_lingering_name_is_not_listed_and_gets_no_broadcast(server):
    """Away is away: only what is addressed to the name itself waits."""
    sender = server.connect("sender")
    server.connect("worker").hang_up()
    gone(server, "worker")
    sender.message("", "for those present")
    assert sender.expect("message")["body"] == "for those present"
    sender.message("worker", "for the worker")
    sender.fence()
    assert list(sender.endpoints()) == ["sender"]
    back = server.connect("worker")
    assert back.expect("message")["body"] == "for the worker"
    back.fence()


def test_an_anonymous_sender_that_waits_is_told_before_its_patience_ends(server):
    """Released senders take one second of silence as success. Nobody comes back, so after about 0.7 s the answer is an error, and the message is not delivered later."""
    server.connect("worker").hang_up()
    gone(server, "worker")
    c = server.connect()
    c.message("worker", "in vain", id="v")
    began = time.monotonic()
    error = c.recv()
    waited_s = time.monotonic() - began
    assert error == {"type": "error", "code": "endpoint_not_found", "detail": "Endpoint 'worker' is not connected", "id": "v"}
    assert 0.4 < waited_s < 1.0, "the answer must come after the chance to return and before the sender's second is over: %.2f s" % waited_s
    server.connect("worker").fence()


def test_an_anonymous_sender_gets_its_receipt_when_the_name_returns_in_time(server):
    """The worker returns while the sender waits: delivered, and receipted only now."""
    server.connect("worker").hang_up()
    gone(server, "worker")
    c = server.connect()
    c.message("worker", "just in time", id="t")
    with pytest.raises(Silence):
        c.recv_bytes(0.1)
    back = server.connect("worker")
    assert back.expect("message")["body"] == "just in time"
    receipt = c.expect("receipt")
    assert receipt["id"] == "t" and receipt["status"] in ("delivered", "accepted")


def test_after_the_linger_the_message_is_gone(server):
    """Nobody takes the name for more than three seconds: a later owner does not get old mail."""
    sender = server.connect("sender")
    server.connect("worker").hang_up()
    gone(server, "worker")
    sender.message("worker", "too late")
    sender.fence()
    time.sleep(4.0)  # the end of a linger is silent: only time tells
    late = server.connect("worker")
    late.fence()
    c = server.connect()
    late.hang_up()
    gone(server, "worker")
    sender.message("worker", "second chance")
    server.connect("worker").expect("message")
    c.fence()


def contiguous_to_the_end(numbers, last):
    return numbers and numbers == list(range(numbers[0], last + 1))


def read_numbers(connection, last, within_s=10):
    """Numbers of the messages up to this one."""
    got = []
    while not got or got[-1] != last:
        got.append(connection.expect("message", within_s)["body"]["n"])
    return got


def test_what_was_queued_for_a_lost_session_goes_to_the_next_one(server):
    """A slow reader dies with messages that never reached its socket: its successor gets exactly those, in order."""
    slow = server.connect("slow")
    sender = server.connect("sender")
    sender.send(*[message("slow", {"n": n, "x": "x" * 9900}) for n in range(100)])
    sender.fence()
    slow.hang_up()
    gone(server, "slow")
    back = server.connect("slow")
    got = read_numbers(back, 99)
    assert contiguous_to_the_end(got, 99) and len(got) >= 40, got


def test_what_was_queued_for_a_replaced_session_goes_to_the_new_one(server):
    """The same, but the name is taken over: between them the two sessions see every message once, save one that was cut in the middle."""
    old = server.connect("slow")
    sender = server.connect("sender")
    sender.send(*[message("slow", {"n": n, "x": "x" * 9900}) for n in range(100)])
    sender.fence()
    new = server.connect("slow")
    to_new = read_numbers(new, 99)
    to_old = [f["body"]["n"] for f in old.rest() if f["type"] == "message"]
    assert contiguous_to_the_end(to_new, 99)
    assert to_old == list(range(len(to_old)))
    assert not set(to_old) & set(to_new), "delivered twice"
    assert len(set(range(100)) - set(to_old) - set(to_new)) <= 1, "lost more than the one that was being written"


def test_a_replaced_session_sees_its_end_and_the_new_one_has_the_name(server):
    """Two clients of one name: the first is closed at once, the second is listed and reached."""
    old = server.connect("dup")
    new = server.connect("dup")
    assert old.rest() == []
    assert new.endpoints() == {"dup": new.session_id} and new.session_id != old.session_id
    server.connect("s").message("dup", 1)
    assert new.expect("message")["body"] == 1


def test_the_end_of_a_replaced_session_does_not_touch_the_new_one(server):
    """The old client hangs up late; the name stays where it is."""
    old = server.connect("dup")
    new = server.connect("dup")
    old.hang_up()
    new.fence()
    assert server.endpoints() == {"dup": new.session_id}


def fight(server, name, rounds):
    """Registers one name again and again without leaving it; returns the clients and how long each waited for `registered`."""
    fighters, waits = [], []
    for _ in range(rounds):
        began = time.monotonic()
        fighters.append(server.connect(name))
        waits.append(time.monotonic() - began)
    return fighters, waits


def test_the_first_replacements_are_free(server):
    """Three times a name changes hands without delay. (A machine that stumbles gets another try with another name.)"""
    assert any(max(fight(server, "throne-%d" % attempt, 4)[1]) < 0.09 for attempt in range(8))


def test_a_fight_for_a_name_is_slowed_down(server):
    """Clients that keep throwing each other out wait longer and longer for `registered`, up to about a second; only the last one stays."""
    fighters, waits = fight(server, "throne", 9)
    assert all(w >= least for w, least in zip(waits[4:], (0.09, 0.18, 0.36, 0.7, 0.9))), "each next one waits longer: %r" % waits
    assert max(waits) < 3, waits
    for loser in fighters[:-1]:
        assert loser.rest() == []
    fighters[-1].fence()


def test_a_fight_does_not_slow_down_others(server):
    """While one waits for its fought-over name, somebody else registers and is answered first."""
    fight(server, "throne", 8)
    fighter = server.connect()
    fighter.send({"type": "register", "endpoint": "throne"})
    server.connect("elsewhere").fence()
    assert not select.select([fighter.socket], [], [], 0)[0], "the other one had to wait as long as the fighter"
    fighter.expect("registered")


def test_while_a_fighter_waits_the_old_session_is_already_closed(server):
    """The name changes hands at once; only the answer is held back, and what is sent meanwhile comes behind it."""
    sender = server.connect("sender")
    last = fight(server, "throne", 7)[0][-1]
    newcomer = server.connect()
    newcomer.send({"type": "register", "endpoint": "throne"})
    assert last.rest(0.6) == []
    sender.message("throne", "for the new owner")
    assert newcomer.expect("registered")["endpoint"] == "throne"
    assert newcomer.expect("message")["body"] == "for the new owner"


def test_who_is_overtaken_while_waiting_is_closed(server):
    """Two claim a fought-over name at the same moment: one gets it, the other sees its end and never `registered`."""
    fight(server, "throne", 8)
    rivals = [server.connect(), server.connect()]
    for r in rivals:
        r.send({"type": "register", "endpoint": "throne"})
    outcomes = {}
    for r in rivals:
        try:
            outcomes[r] = r.recv()["type"]
        except Closed:
            outcomes[r] = "closed"
    assert sorted(outcomes.values()) == ["closed", "registered"]
    next(r for r in rivals if outcomes[r] == "registered").fence()


def test_coming_back_to_an_own_name_is_no_fight(server):
    """A client that hung up before it returned replaces nobody, however often it does so."""
    began = time.monotonic()
    for _ in range(15):
        server.connect("restless").hang_up()
    assert time.monotonic() - began < 3, "a client that returns must not be slowed down like one that fights"


def lose_patience(server, name):
    """What released clients do: register, hear nothing for one second, hang up. Tried again where the machine was too slow for that."""
    for _ in range(5):
        c = server.connect(name)
        began = time.monotonic()
        time.sleep(1.05)
        c.hang_up()
        if time.monotonic() - began < 1.4:
            return
    pytest.skip("this machine cannot wait for one second")


def test_an_impatient_client_is_kept_awake_and_nobody_else(server):
    """A client that hung up after a second of silence and returns gets a pong whenever nothing else came for half a second; a patient one never does."""
    patient = server.connect("patient")
    lose_patience(server, "hasty")
    hasty = server.connect("hasty")
    for _ in range(4):
        assert hasty.recv(0.95) == {"type": "pong"}
    patient.fence()


def test_an_impatient_name_is_remembered(server):
    """The next session of the same name needs no second of silence to be known."""
    lose_patience(server, "hasty")
    server.connect("hasty").hang_up()
    gone(server, "hasty")
    assert server.connect("hasty").recv(0.95) == {"type": "pong"}


def test_leaving_quickly_or_leaving_late_is_not_impatience(server):
    """Only silence of about one second is the mark: others who come back are left in peace."""
    server.connect("quick").hang_up()
    late = server.connect("late")
    time.sleep(2.0)
    late.hang_up()
    gone(server, "late")
    back = [server.connect("quick"), server.connect("late")]
    time.sleep(1.3)
    for c in back:
        c.fence()
