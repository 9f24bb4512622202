"""What is kept on disk: it survives restarts and kill -9, trouble with the disk is refused loudly and passes, and the bus's
owner can see and remove all of it."""
import json
import os
import resource
import signal
import stat

import pytest

from wire import Connection, message
from world import BIN, as_user, wait_until

STRANGER = 4242


def admin(world, op, **arguments):
    """The answer to an `admin` request, which may be an error."""
    with world.connect() as asker:
        asker.send(dict({"type": "admin", "op": op, "protocol": 2, "req": op}, **arguments))
        answer = asker.recv()
        assert answer["req"] == op, answer
        return answer


def session(world, name, **options):
    """A level 2 session, and what it was welcomed with."""
    connection = world.connect()
    connection.send(dict({"type": "register", "endpoint": name, "protocol": 2}, **options))
    return connection, connection.expect("registered")


def store(sender, to, *ids, **keys):
    """Sends messages that must be stored, and waits until they are."""
    for one in ids:
        sender.message(to, {"text": "this is " + one}, id=one, receipt="stored", **keys)
    for one in ids:
        receipt = sender.expect("receipt")
        assert (receipt["id"], receipt["status"], receipt["to"]) == (one, "stored", to)


def mailbox(world, name="box"):
    """An endpoint with a mailbox that is away."""
    connection, _ = session(world, name, mailbox=True)
    connection.hang_up()
    wait_until(lambda: [m for m in admin(world, "mailbox.list")["mailboxes"] if m["endpoint"] == name and not m["online"]], name + " to be away")


def take(world, count, name="box"):
    """What a receiver gets that acknowledges, one after the other."""
    receiver, welcome = session(world, name, mailbox=True, ack=True)
    frames = [receiver.expect("message") for _ in range(count)]
    receiver.send({"type": "ack", "up_to": frames[-1]["seq"]}) if frames else None
    receiver.fence()
    receiver.hang_up()
    return welcome, frames


def counters(world):
    with world.connect() as asker:
        asker.send({"type": "list_endpoints", "protocol": 2})
        return asker.recv()["server"]["counters"]


def log(world):
    return world.output("hermes-bus-server.out")


def refused_without_a_store(world):
    """What must be kept is refused, and what need not is routed. Returns the sender."""
    world.connect("away").hang_up()
    receiver = world.connect("live")
    sender, _ = session(world, "sender")
    wait_until(lambda: "away" not in world.endpoints(), "its session to end")
    for keys in ({"receipt": "stored"}, {"queue": True, "receipt": "acked"}):
        sender.message("away", "x", id="m1", **keys)
        error = sender.expect("error")
        assert (error["code"], error["id"]) == ("store_unavailable", "m1")
    sender.message("live", "routed all the same")
    assert receiver.expect("message")["body"] == "routed all the same"
    return sender


IDS = ["m%d" % number for number in range(20)]


def test_what_is_stored_survives_kill_9_and_comes_marked(world):
    server = world.serve()
    mailbox(world)
    sender, _ = session(world, "sender")
    store(sender, "box", *IDS)
    server.stop(signal.SIGKILL)
    world.serve()
    welcome, frames = take(world, len(IDS))
    assert welcome["mailbox_depth"] == len(IDS)
    assert [frame["id"] for frame in frames] == IDS, "all of them, in order"
    assert all(frame["delivery"] >= 2 for frame in frames), "nobody knows whether they had come before"
    seqs = [frame["seq"] for frame in frames]
    assert seqs == sorted(set(seqs))
    assert take(world, 0)[0]["mailbox_depth"] == 0, "what was acknowledged is gone"
    assert "did not end in good order" in log(world)


def test_what_is_stored_survives_a_stop_and_is_not_marked(world):
    server = world.serve()
    mailbox(world)
    sender, _ = session(world, "sender")
    store(sender, "box", *IDS)
    assert server.stop() == 0
    world.serve()
    _, frames = take(world, len(IDS))
    assert [frame["id"] for frame in frames] == IDS
    assert not any("delivery" in frame for frame in frames), "the bus ended in good order"
    assert "good order" not in log(world)


def test_what_is_stored_goes_on_to_the_process_that_follows(world):
    world.start_daemon()
    mailbox(world)
    sender, _ = session(world, "sender")
    store(sender, "box", *IDS[:10])
    done = world.busd("restart")
    assert done.returncode == 0, done
    sender, _ = session(world, "sender")
    store(sender, "box", *IDS[10:])
    _, frames = take(world, len(IDS))
    assert [frame["id"] for frame in frames] == IDS
    assert not any("delivery" in frame for frame in frames), "the store was closed before the next process opened it"
    assert admin(world, "store")["state"] == "open"


def test_a_released_client_has_a_mailbox_by_configuration(world):
    env = {"HERMES_BUS_STORE_MAILBOXES": "[old]", "HERMES_BUS_SESSIONS_LINGER": "0"}
    server = world.serve(env=env)
    with world.connect() as sender:
        sender.message("old", {"text": "hi"}, id="m1", receipt="stored")
        assert sender.expect("receipt")["status"] == "stored"
    server.stop(signal.SIGKILL)
    world.serve(env=env)
    old = world.connect("old")
    frame = old.expect("message")
    assert frame["id"] == "m1" and not {"seq", "sender", "via", "delivery"} & set(frame), "nothing that level 1 does not know"
    # It cannot acknowledge; that it has read everything is seen in the kernel.
    wait_until(lambda: [m["messages"] for m in admin(world, "mailbox.list")["mailboxes"]] == [0], "the mailbox to be empty")


def test_files_are_for_the_owner_alone(world):
    world.serve()
    directory = world.root / "hermes-bus"
    assert stat.S_IMODE(os.stat(str(directory)).st_mode) == 0o700
    for file in directory.iterdir():
        assert stat.S_IMODE(os.stat(str(file)).st_mode) == 0o600, file


def test_without_a_store_nothing_is_promised(world):
    world.serve(env={"HERMES_BUS_STORE_ENABLED": "off"})
    refused_without_a_store(world)
    for op in ("mailbox.list", "mailbox.show", "mailbox.drain", "mailbox.purge"):
        assert admin(world, op, endpoint="box")["code"] == "store_unavailable", op
    assert admin(world, "store")["state"] == "off"
    assert not (world.root / "hermes-bus").exists()


# ---- trouble ----------------------------------------------------------------------------------------

def test_a_full_disk_is_refused_and_passes(world):
    server = world.serve()
    mailbox(world)
    receiver = world.connect("live")
    sender, _ = session(world, "sender")
    store(sender, "box", "before")
    # No file may grow any more, as on a full disk.
    unlimited = resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    sender.message("box", "x", id="refused", receipt="stored")
    error = sender.expect("error", within_s=20)
    assert (error["code"], error["id"]) == ("store_unavailable", "refused")
    state = admin(world, "store")
    assert state["state"] == "trouble" and state["why"]
    sender.message("live", "routed all the same")
    assert receiver.expect("message")["body"] == "routed all the same"
    status = world.run([str(BIN / "hermes-busd"), "status"]).stdout
    assert "Nothing can be kept on disk" in status
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
    wait_until(lambda: admin(world, "store")["state"] == "open", "the store to be written again", 20)
    store(sender, "box", "after")
    _, frames = take(world, 2)
    assert [frame["id"] for frame in frames] == ["before", "after"], "what was refused never comes"
    # The log could not grow either, until it was over.
    assert "the disk takes messages again" in log(world)


def test_a_store_that_cannot_be_opened_is_tried_again(world):
    in_the_way = world.root / "hermes-bus" / "store.db"
    in_the_way.mkdir(parents=True)
    world.serve()
    sender = refused_without_a_store(world)
    # Who is known stands on that disk: nobody is said to be unknown.
    sender.message("here-last-week", "x", id="m1", queue=True)
    assert sender.expect("error")["code"] == "store_unavailable"
    assert admin(world, "mailbox.list")["code"] == "store_unavailable"
    state = admin(world, "store")
    assert state["state"] == "failed" and str(in_the_way) in state["why"]
    assert "nothing is kept on disk, and what must be is refused" in log(world)
    in_the_way.rmdir()
    wait_until(lambda: admin(world, "store")["state"] == "open", "the store to be opened", 20)
    mailbox(world)
    store(sender, "box", "m2")
    assert [frame["id"] for frame in take(world, 1)[1]] == ["m2"]


def test_a_store_in_use_is_nobody_elses(world):
    server = world.serve()
    mailbox(world)
    sender, _ = session(world, "sender")
    store(sender, "box", "m1")
    # A second root whose store is the same.
    other_root = world.directory / "other"
    other_root.mkdir()
    (other_root / "hermes-bus").symlink_to(world.root / "hermes-bus")
    other = world.spawn([str(BIN / "hermes-bus-server"), "--root", str(other_root)], output="other.out")
    path = str(other_root / "hermes-bus.sock")
    wait_until(lambda: os.path.exists(path) and "in use" in world.output("other.out"), "the other bus to begin without a store")
    with Connection(path) as asker:
        asker.send({"type": "admin", "op": "store", "protocol": 2})
        state = asker.recv()
        assert state["state"] == "failed" and "process %d" % server.pid in state["why"], state
    store(sender, "box", "m2")
    server.stop()
    # As soon as it is free, it has it.
    def is_open():
        with Connection(path) as asker:
            asker.send({"type": "admin", "op": "store", "protocol": 2})
            return asker.recv()["messages"] == 2
    wait_until(is_open, "the other bus to open the store", 20)
    assert other.poll() is None


@pytest.mark.parametrize("damage", ["header", "middle", "not a database"])
def test_a_damaged_store_is_set_aside_and_the_bus_goes_on(world, damage):
    server = world.serve()
    mailbox(world)
    sender, _ = session(world, "sender")
    store(sender, "box", *["big-%d" % n for n in range(50)], filler="x" * 4000)
    assert server.stop() == 0
    file = world.root / "hermes-bus" / "store.db"
    content = bytearray(file.read_bytes())
    if damage == "header":
        content[:100] = b"\xff" * 100
    elif damage == "middle":
        third = len(content) // 3
        content[third:third + 20000] = os.urandom(20000)
    else:
        content = b"this is no database at all\n" * 1000
    file.write_bytes(bytes(content))
    world.serve()
    assert admin(world, "store")["state"] == "open"
    sender, _ = session(world, "sender")
    mailbox(world, "other")
    store(sender, "other", "new")
    aside = [name for name in os.listdir(str(file.parent)) if name not in ("store.db", "store.db-wal", "store.db-shm", "store.db.lock", "store.lock")]
    assert aside, os.listdir(str(file.parent))
    doctor = world.run([str(BIN / "hermes-bus"), "doctor", "--json"])
    findings = [f for f in json.loads(doctor.stdout)["findings"] if "set aside" in f["what"]]
    assert findings, doctor.stdout
    assert "set aside" in log(world)


# ---- what the owner may ask -------------------------------------------------------------------------

def test_a_mailbox_is_listed_shown_drained_and_purged(world):
    world.serve()
    mailbox(world)
    sender, _ = session(world, "sender")
    store(sender, "box", *IDS)
    [listed] = admin(world, "mailbox.list")["mailboxes"]
    assert (listed["endpoint"], listed["messages"], listed["online"]) == ("box", len(IDS), False)
    assert listed["bytes"] > 0 and listed["oldest_ts"] > 1.7e9
    shown, after = [], None
    while True:
        page = admin(world, "mailbox.show", endpoint="box", limit=7, **({"after": after} if after else {}))
        shown += page["messages"]
        after = page.get("next")
        if after is None:
            break
    assert [m["id"] for m in shown] == IDS
    first = shown[0]
    assert first["message"]["body"] == {"text": "this is m0"} and first["sender"]["endpoint"] == "sender" and first["sender"]["uid"] == os.getuid()
    drained = admin(world, "mailbox.drain", endpoint="box", limit=5)
    assert [m["id"] for m in drained["messages"]] == IDS[:5] and drained["more"] is True
    assert admin(world, "mailbox.list")["mailboxes"][0]["messages"] == len(IDS) - 5
    purged = admin(world, "mailbox.purge", endpoint="box")
    assert purged["messages"] == len(IDS) - 5 and purged["bytes"] > 0
    assert admin(world, "mailbox.purge", endpoint="box")["messages"] == 0
    wait_until(lambda: not admin(world, "mailbox.show", endpoint="box")["messages"], "the disk to have let go of them")
    assert take(world, 0)[0]["mailbox_depth"] == 0


def test_what_a_session_holds_is_drained_around(world):
    """More than a page of it, so that who drains does not get past it without going on behind it."""
    world.serve()
    mailbox(world)
    sender, _ = session(world, "sender")
    held, waiting = ["h%d" % number for number in range(250)], ["w%d" % number for number in range(5)]
    store(sender, "box", *(held + waiting))
    receiver, _ = session(world, "box", mailbox=True, ack=True, in_flight=250)
    assert [receiver.expect("message")["id"] for _ in held] == held
    done = world.run([str(BIN / "hermes-bus"), "mailbox", "drain", "box", "--json"])
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == held + waiting
    assert (done.returncode, done.stderr) == (0, "hermes-bus: 5 messages removed; 250 messages in the hands of its session: left there\n")
    receiver.hang_up()
    again, welcome = session(world, "box", mailbox=True, ack=True, in_flight=250)
    assert (welcome["mailbox_depth"], [again.expect("message")["id"] for _ in held]) == (250, held)


def test_dead_letters_are_listed_tried_again_and_dropped(world):
    world.serve()
    receiver, _ = session(world, "box", mailbox=True, ack=True)
    sender, _ = session(world, "sender")
    for one in ("m1", "m2", "m3"):
        sender.message("box", {"text": one}, id=one, receipt="acked")
        receiver.send({"type": "nack", "seq": receiver.expect("message")["seq"], "requeue": False, "reason": "not for me"})
        error = sender.expect("error")
        assert (error["code"], error["id"]) == ("rejected", one)
    wait_until(lambda: len(admin(world, "dead.list")["dead"]) == 3, "the dead letters to be on disk")
    dead = admin(world, "dead.list", endpoint="box")["dead"]
    assert [d["id"] for d in dead] == ["m3", "m2", "m1"]
    assert (dead[0]["reason"], dead[0]["detail"], dead[0]["endpoint"]) == ("rejected", "not for me", "box")
    assert admin(world, "dead.show", key=dead[0]["key"])["message"]["body"] == {"text": "m3"}
    assert admin(world, "dead.list", endpoint="nobody")["dead"] == []
    assert admin(world, "dead.retry", key=dead[2]["key"])["retried"] == 1
    again = receiver.expect("message")
    assert again["id"] == "m1"
    receiver.send({"type": "ack", "seqs": [again["seq"]]})
    receiver.fence()
    assert admin(world, "dead.drop", key=dead[1]["key"])["dropped"] == 1
    assert [d["id"] for d in admin(world, "dead.list")["dead"]] == ["m3"]
    assert admin(world, "dead.drop", all=True)["dropped"] == 1
    assert admin(world, "dead.list")["dead"] == []
    assert admin(world, "dead.retry", all=True)["retried"] == 0
    gone = str(dead[0]["key"])
    for op in ("show", "retry", "drop"):
        assert admin(world, "dead." + op, key=int(gone))["code"] == "rejected"
        done = world.run([str(BIN / "hermes-bus"), "dead", op, gone])
        assert (done.returncode, done.stdout) == (1, "") and "there is no dead letter " + gone in done.stderr, done


def test_dead_letters_that_find_no_place_stay_and_are_a_failure(world):
    world.serve(env={"HERMES_BUS_STORE_MAILBOX_BYTES_MAX": "16MiB"})
    receiver, _ = session(world, "box", mailbox=True, ack=True)
    sender, _ = session(world, "sender")
    sender.message("box", "x" * 9_000_000, id="large", receipt="acked")
    receiver.send({"type": "nack", "seq": receiver.expect("message")["seq"], "requeue": False})
    assert sender.expect("error")["code"] == "rejected"
    receiver.hang_up()
    wait_until(lambda: "box" not in world.endpoints(), "its session to end")
    sender.message("box", "y" * 9_000_000, id="in the way", receipt="stored")
    assert sender.expect("receipt")["status"] == "stored"
    done = world.run([str(BIN / "hermes-bus"), "dead", "retry", "--all"])
    assert (done.returncode, done.stdout) == (1, "0 dead letters retried\n"), done
    assert done.stderr.startswith("hermes-bus: 1 not retried, and kept: mailbox_full: "), done
    assert [d["id"] for d in admin(world, "dead.list")["dead"]] == ["large"]


def spill(world, count=400):
    """A receiver that does not read, with more for it than fits into memory: every second message asks for a receipt. Returns it,
    and the ids of those of them that are missed if they are lost."""
    slow = world.connect("slow")
    sender, _ = session(world, "sender")
    for number in range(count):
        sender.message("slow", "x" * 50_000, id="m%d" % number, **({"receipt": "acked"} if number % 2 else {}))
    sender.send({"type": "ping"})
    # What is in its socket already cannot be acknowledged, and is not missed.
    handed_over = set()
    while (answer := sender.recv())["type"] != "pong":
        assert answer["code"] == "receipt_impossible", answer
        handed_over.add(answer["id"])
    assert counters(world)["spilled"] > count // 2
    wait_until(lambda: (now := counters(world))["stored"] == now["spilled"], "all of that to be on disk")
    return slow, sender, {"m%d" % number for number in range(1, count, 2)} - handed_over


def dead_of(world, endpoint):
    dead, after = [], {}
    while after is not None:
        page = admin(world, "dead.list", endpoint=endpoint, **after)
        dead += page["dead"]
        after = {"after": page["next"]} if "next" in page else None
    return dead


SPILLING = {"HERMES_BUS_QUEUES_BYTES_MAX": "1MiB", "HERMES_BUS_SESSIONS_LINGER": "100ms"}


def test_what_was_spilled_and_is_missed_is_a_dead_letter_when_its_receiver_is_gone(world):
    world.serve(env=SPILLING)
    slow, sender, missed = spill(world)
    slow.hang_up()
    failed = [sender.expect("error") for _ in missed]
    assert {(error["code"], error["to"]) for error in failed} == {("receiver_gone", "slow")}
    # One that was cut off in the middle is none.
    dead = wait_until(lambda: dead if len(dead := dead_of(world, "slow")) >= len(failed) - 1 else None, "all of it to be dead letters")
    ids = [d["id"] for d in dead]
    assert len(set(ids)) == len(ids) and set(ids) <= missed
    assert {d["reason"] for d in dead} == {"receiver_gone"} and "went away" in dead[0]["detail"]
    assert counters(world)["dead_letters"] == len(dead)
    # It is found and tried again like any other.
    assert admin(world, "dead.show", key=dead[0]["key"])["message"]["body"] == "x" * 50_000
    answer = admin(world, "dead.retry", key=dead[0]["key"])
    assert answer["retried"] == 1, answer
    again, _ = session(world, "slow", ack=True)
    assert again.expect("message")["id"] == ids[0]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_what_was_spilled_and_is_missed_is_a_dead_letter_when_its_bus_has_ended(world, end):
    server = world.serve(env=SPILLING)
    _, _, missed = spill(world)
    server.stop(end)
    world.serve()
    # They are buried one after the other, the oldest first.
    wait_until(lambda: "m399" in [d["id"] for d in dead_of(world, "slow")], "the last one to be a dead letter")
    dead = dead_of(world, "slow")
    ids = [d["id"] for d in dead]
    assert len(set(ids)) == len(ids) > len(missed) // 2 and set(ids) <= missed
    assert {(d["reason"], d["detail"]) for d in dead} == {("receiver_gone", "the bus has ended")}
    assert admin(world, "mailbox.list")["mailboxes"] == []


def test_a_trace_right_behind_an_acknowledgement_says_that_it_is_over(world):
    world.serve()
    receiver, _ = session(world, "box", mailbox=True, ack=True)
    sender, _ = session(world, "sender")
    for number in range(50):
        one = "m%d" % number
        sender.message("box", "x", id=one, receipt="stored")
        seq = receiver.expect("message")["seq"]
        sender.expect("receipt")
        # In one write: the disk cannot have heard of the one when it is asked for the other.
        receiver.send({"type": "ack", "seqs": [seq]}, {"type": "trace", "id": one})
        traced = receiver.expect("traced")
        assert traced["states"][-1]["state"] == "acked" and "standings" not in traced, traced


def test_a_dead_letter_that_is_tried_again_is_never_between_two_chairs(world):
    """Its receiver is away: the message waits in the mailbox, over a kill -9, and the letter is gone."""
    server = world.serve()
    receiver, _ = session(world, "box", mailbox=True, ack=True)
    sender, _ = session(world, "sender")
    sender.message("box", {"text": "x"}, id="m1", queue=True)
    receiver.send({"type": "nack", "seq": receiver.expect("message")["seq"], "requeue": False})
    wait_until(lambda: admin(world, "dead.list")["dead"], "the dead letter")
    receiver.hang_up()
    assert admin(world, "dead.retry", all=True)["retried"] == 1
    server.stop(signal.SIGKILL)
    world.serve()
    assert admin(world, "dead.list")["dead"] == []
    assert [frame["id"] for frame in take(world, 1)[1]] == ["m1"]


def test_groups_and_their_members_are_listed(world):
    world.serve()
    session(world, "one", groups=["crew"])
    session(world, "two", groups=["crew", "other"])
    listed = admin(world, "groups")["groups"]
    members = {group["group"]: [m["endpoint"] for m in group["members"]] for group in listed}
    assert members == {"crew": ["one", "two"], "other": ["two"]}
    [crew] = admin(world, "groups", group="crew")["groups"]
    assert all(m["online"] is True and m["load"] == 0 for m in crew["members"])
    assert admin(world, "groups", group="nobody")["groups"] == []


@pytest.mark.parametrize("kept", ["none", "envelopes", "messages"])
def test_history_is_kept_as_configured(world, kept):
    world.serve(env={"HERMES_BUS_STORE_HISTORY": kept})
    receiver = world.connect("receiver")
    with world.connect() as sender:
        sender.message("receiver", {"text": "a needle in a haystack"}, id="m1")
        receiver.expect("message")
        sender.message("nobody", {"text": "unheard"}, id="m2")
    if kept == "none":
        mailbox(world)
        stored, _ = session(world, "sender")
        store(stored, "box", "later")
        assert [e["id"] for e in admin(world, "history")["entries"]] == ["later"], "only what waits on disk"
        return
    wait_until(lambda: len(admin(world, "history")["entries"]) == 2, "the history to be written")
    entries = admin(world, "history", order="oldest")["entries"]
    assert [(e["id"], e["to"], e["outcome"]) for e in entries] == [("m1", "receiver", "accepted"), ("m2", "nobody", "endpoint_not_found")]
    assert ("body" in entries[0]["message"]) == (kept == "messages")
    assert [e["id"] for e in admin(world, "history", to="nobody")["entries"]] == ["m2"]
    first = admin(world, "history", order="oldest", limit=1)
    assert [e["id"] for e in admin(world, "history", order="oldest", after=first["next"])["entries"]] == ["m2"]
    if kept == "messages":
        wait_until(lambda: [e["id"] for e in admin(world, "history", search="needle")["entries"]] == ["m1"], "search to know the message")


def test_a_stored_message_is_traced_over_a_restart(world):
    server = world.serve()
    mailbox(world)
    sender, _ = session(world, "sender")
    store(sender, "box", "m1")
    server.stop()
    world.serve()
    asker, _ = session(world, "asker")
    asker.send({"type": "trace", "id": "m1", "req": 5})
    traced = asker.expect("traced")
    assert traced["req"] == 5 and traced["id"] == "m1"
    assert [s["state"] for s in traced["states"]] == ["accepted", "stored"]
    assert [s["endpoint"] for s in traced["standings"]] == ["box"]
    take(world, 1)
    asker.send({"type": "trace", "id": "m1"})
    def words():
        asker.send({"type": "trace", "id": "m1"})
        return [s["state"] for s in asker.expect("traced")["states"]]
    asker.expect("traced")
    wait_until(lambda: words()[-1] == "acked", "the end of the message")


def test_configuration_metrics_and_a_copy(world):
    world.serve(env={"HERMES_BUS_SESSIONS_LINGER": "7s"})
    mailbox(world)
    sender, _ = session(world, "sender")
    store(sender, "box", "m1")
    config = {entry["key"]: entry for entry in admin(world, "config")["config"]}
    assert config["sessions.linger"]["value"] == 7 and config["store.enabled"]["value"] is True
    text = admin(world, "metrics")["text"]
    assert "hermes_bus_store_waiting_messages 1\n" in text and "hermes_bus_store_up 1\n" in text
    copy = world.directory / "copy.db"
    assert admin(world, "backup", path=str(copy))["bytes"] > 0
    assert stat.S_IMODE(os.stat(str(copy)).st_mode) == 0o600
    # The copy is a store.
    other_root = world.directory / "other"
    (other_root / "hermes-bus").mkdir(parents=True)
    copy.rename(other_root / "hermes-bus" / "store.db")
    world.spawn([str(BIN / "hermes-bus-server"), "--root", str(other_root)], output="other.out")
    path = str(other_root / "hermes-bus.sock")
    wait_until(lambda: os.path.exists(path), "the other bus")
    with Connection(path) as asker:
        asker.send({"type": "admin", "op": "mailbox.list", "protocol": 2})
        assert [m["messages"] for m in asker.recv()["mailboxes"]] == [1]


def test_status_says_what_waits_without_an_alarm(world):
    world.start_daemon()
    assert "Mailboxes" not in world.busd("status").stdout
    mailbox(world)
    sender, _ = session(world, "sender")
    store(sender, "box", "m1", "m2")
    assert "Mailboxes: 2 messages" in world.busd("status").stdout
    assert json.loads(world.busd("status", "--json").stdout)["store"]["messages"] == 2


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_what_is_kept_is_the_owners_business(world):
    world.directory.chmod(0o755)
    world.root.chmod(0o755)
    world.serve(env={"HERMES_BUS_ACCESS_ALLOW_UIDS": "[%d]" % STRANGER})
    mailbox(world)
    sender, _ = session(world, "sender")
    store(sender, "box", "m1")

    def ask():
        answers = []
        for op, arguments in [("mailbox.list", {}), ("mailbox.show", {"endpoint": "box"}), ("mailbox.drain", {"endpoint": "box"}),
                              ("dead.list", {}), ("history", {}), ("store", {}), ("backup", {"path": "/tmp/x"}), ("config", {})]:
            with Connection(world.socket_path) as asker:
                asker.send(dict({"type": "admin", "op": op, "protocol": 2}, **arguments))
                answers.append(asker.recv().get("code"))
        with Connection(world.socket_path) as asker:
            asker.send({"type": "register", "endpoint": "stranger", "protocol": 2})
            asker.expect("registered")
            asker.send({"type": "trace", "id": "m1"})
            answers.append(len(asker.expect("traced")["states"]))
        return json.dumps(answers)

    assert json.loads(as_user(STRANGER, ask)) == ["forbidden"] * 8 + [0]
    assert admin(world, "mailbox.list")["mailboxes"][0]["messages"] == 1
