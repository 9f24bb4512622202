"""A disk that fails, fills up, cannot be written, is slow, or is damaged: who wants a message kept hears `store_unavailable`
or waits, never a promise that does not hold; what needs no disk goes on; and when the disk is well again, so is the bus."""
import os
import random

import pytest

import disk
from disk import LOSSES, NOTHING, Layer
from mortal import Bus, Story, a_seed
from wire import Silence
from world import wait_until

DATABASE = "hermes-bus/store.db"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return disk.build(tmp_path_factory.mktemp("powerloss"))


@pytest.fixture
def bus(world, library):
    """The daemon on a disk that is well as yet, and an endpoint `box` whose mailbox waits for it."""
    b = Bus(world, Layer(library, world.root, world.directory / "work"))
    b.start()
    b.wait_until_up()
    register_box(world).hang_up()
    return b


def register_box(world):
    box = world.connect()
    box.send({"type": "register", "endpoint": "box", "protocol": 2, "mailbox": True, "ack": True, "in_flight": 1000})
    box.depth = box.expect("registered")["mailbox_depth"]
    return box


class Sender:
    """Sends numbered messages to the box, one at a time, and keeps the ids of those that it was told are stored."""

    def __init__(self, world, name="sender"):
        self.connection = world.connect()
        self.connection.send({"type": "register", "endpoint": name, "protocol": 2})
        self.connection.expect("registered")
        self.name, self.count, self.stored, self.refused = name, 0, [], []

    def send(self, filling=""):
        self.count += 1
        id = "%s.%d" % (self.name, self.count)
        self.connection.message("box", filling, id=id, receipt="stored")
        return id

    def hear(self, within_s=10):
        answer = self.connection.recv(within_s)
        assert answer["type"] in ("receipt", "error"), answer
        if answer["type"] == "receipt":
            assert answer["status"] == "stored", answer
            self.stored.append(answer["id"])
            return "stored"
        self.refused.append(answer["id"])
        return answer["code"]

    def try_one(self, filling=""):
        self.send(filling)
        return self.hear()


def live_traffic_flows(world):
    """A message between two who are there, with nothing to be kept."""
    receiver = world.connect("here-%d" % random.randrange(1 << 30))
    sender = world.connect()
    sender.message(receiver.endpoint, "live")
    assert receiver.expect("message")["body"] == "live"
    receiver.hang_up()
    sender.hang_up()


def empty_the_box(world):
    """The ids of all that waits in it, acknowledged."""
    box = register_box(world)
    ids = []
    for _ in range(box.depth):
        frame = box.expect("message")
        ids.append(frame["id"])
        box.send({"type": "ack", "seqs": [frame["seq"]]})
    box.fence()
    box.hang_up()
    return ids


def is_well_again(sender):
    wait_until(lambda: sender.try_one() == "stored", "the store to take messages again", 30)


@pytest.mark.parametrize("flag", ["eio", "enospc", "erofs"])
def test_what_cannot_be_kept_is_refused_and_the_rest_goes_on(world, bus, flag):
    sender = Sender(world)
    assert [sender.try_one() for _ in range(20)] == ["stored"] * 20
    bus.layer.set(flag)
    # A full disk may have room left in files that have it already.
    wait_until(lambda: sender.try_one("x" * 50_000) == "store_unavailable", "the disk's trouble to be noticed")
    live_traffic_flows(world)
    assert sender.try_one("x" * 50_000) == "store_unavailable"
    bus.layer.clear(flag)
    is_well_again(sender)
    assert empty_the_box(world) == sender.stored, "all that was stored, and nothing that was refused"


@pytest.mark.parametrize("flag", ["eio", "enospc", "erofs"])
def test_what_was_stored_survives_a_disk_in_trouble_that_loses_power(world, bus, flag):
    sender = Sender(world)
    for _ in range(20):
        sender.try_one()
    bus.layer.set(flag)
    wait_until(lambda: sender.try_one("x" * 50_000) == "store_unavailable", "the disk's trouble to be noticed")
    bus.kill()
    bus.layer.clear(flag)
    bus.layer.lose_power(random.Random(1), NOTHING)
    bus.start()
    bus.wait_until_up()
    after = Sender(world, "later")
    assert after.try_one() == "stored"
    assert empty_the_box(world) == sender.stored + after.stored


def test_one_sync_that_fails(world, bus):
    """The sync after the one that failed succeeds and says nothing about what the failed one was to save."""
    sender = Sender(world)
    for round in range(1, 6):
        assert sender.try_one() == "stored"
        bus.layer.set("eio", round)
        for _ in range(20):
            sender.try_one()
        bus.layer.clear("eio")
        is_well_again(sender)
    assert sender.refused, "no sync failed"
    bus.kill()
    bus.layer.lose_power(random.Random(1), NOTHING)
    bus.start()
    bus.wait_until_up()
    assert empty_the_box(world) == sender.stored


def test_syncs_that_fail_under_load(world, library):
    """Now and then a sync fails, and now and then the power does."""
    layer = Layer(library, world.root, world.directory / "work")
    story = Story(Bus(world, layer), a_seed())
    story.begin()
    for _ in range(8):
        story.traffic.progress(story.random.randint(50, 500))
        layer.set("eio", story.random.randint(1, 20))
        story.die(LOSSES, events=(50, 500))
        layer.clear("eio")
    story.end()
    story.check()


def test_a_slow_disk_holds_up_only_who_waits_for_it(world, bus):
    bus.layer.set("slow_ms", 3000)
    sender = Sender(world)
    sender.send()
    for _ in range(20):
        live_traffic_flows(world)
    with pytest.raises(Silence):
        sender.hear(0)
    assert sender.hear(30) == "stored"


def test_a_second_daemon_on_the_same_store(world, bus):
    sender = Sender(world)
    assert sender.try_one() == "stored"
    before = (world.root / DATABASE).stat().st_ino
    second = world.run(bus.program)
    assert second.returncode != 0
    assert sender.try_one() == "stored" and bus.process.poll() is None
    assert (world.root / DATABASE).stat().st_ino == before
    assert empty_the_box(world) == sender.stored


def damaged(world, bus, damage):
    """The bus stored 200 messages and was stopped; then its database is damaged, and it is started again. Returns the sender
    and the damaged bytes."""
    sender = Sender(world)
    for _ in range(200):
        assert sender.try_one("x" * 2000) == "stored"
    sender.connection.hang_up()
    bus.stop()
    path = world.root / DATABASE
    assert not path.with_name(path.name + "-wal").exists() or path.with_name(path.name + "-wal").stat().st_size == 0
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    bus.layer.begin()
    bus.start()
    bus.wait_until_up()
    return sender, bytes(content)


def noise_in_the_middle(content):
    """One page of many."""
    at = len(content) // 2 // 4096 * 4096
    content[at:at + 4096] = os.urandom(4096)


def noise_at_the_beginning(content):
    content[0:4096] = os.urandom(4096)


def cut_short(content):
    del content[len(content) * 3 // 4:]


@pytest.mark.parametrize("damage", [noise_in_the_middle, noise_at_the_beginning, cut_short])
def test_a_damaged_database_is_never_thrown_away(world, bus, damage):
    """It starts, it says so, the damaged file is still there byte for byte or was not needed, what can be read is delivered, and
    new messages are kept."""
    sender, content = damaged(world, bus, damage)
    left = empty_the_box(world)
    assert left == [id for id in sender.stored if id in set(left)], "in order, each once, and nothing else"
    if damage is noise_in_the_middle:
        assert len(left) > 100, "one page of noise cannot have cost more than a few messages, but %d of 200 are left" % len(left)
    if left != sender.stored:
        kept = [path for path in (world.root / "hermes-bus").rglob("*") if path.is_file() and path.read_bytes() == content]
        assert kept, "the damaged file was set aside as it was: %s" % sorted(os.listdir(world.root / "hermes-bus"))
        told = world.run([bus.program[0].parent / "hermes-bus", "doctor"])
        assert any(path.name in told.stdout for path in kept), told.stdout
    fresh = Sender(world, "fresh")
    assert fresh.try_one() == "stored"
    bus.kill()
    bus.start()
    bus.wait_until_up()
    assert empty_the_box(world) == fresh.stored
