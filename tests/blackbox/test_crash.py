"""The daemon dies at random moments under load, by kill -9 and by power loss, and comes back on the same root: no message
is lost for which a sender was told `stored` or `acked`, none comes twice unmarked, in another order, or out of nowhere.

HERMES_CRASH_SEED repeats a run, as far as its choices go; HERMES_CRASH_DEATHS makes it longer or shorter.
"""
import os

import pytest

import disk
from disk import LOSSES, NOTHING, Layer
from mortal import Bus, Story, a_seed


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return disk.build(tmp_path_factory.mktemp("powerloss"))


def layer_of(world, library):
    return Layer(library, world.root, world.directory / "work")


def deaths(count):
    return int(os.environ.get("HERMES_CRASH_DEATHS") or count)


def play(world, count, layer=None, losses=None):
    story = Story(Bus(world, layer), a_seed())
    story.begin()
    for _ in range(deaths(count)):
        story.die(losses)
    story.end()
    story.check()
    return story


def test_kills(world):
    play(world, 10)


@pytest.mark.soak
def test_three_hundred_kills(world):
    play(world, 300)


def test_power_losses(world, library):
    """As above, and of every file only that is left which had been synced, with or without some of the rest."""
    play(world, 10, layer_of(world, library), LOSSES)


@pytest.mark.soak
def test_a_hundred_power_losses(world, library):
    play(world, 100, layer_of(world, library), LOSSES)


def test_power_losses_of_a_slow_disk(world, library):
    """Between a write and the end of its sync there is much time to die, and to say too early that it is stored."""
    layer = layer_of(world, library)
    layer.set("slow_ms", 10)
    play(world, 5, layer, [NOTHING])


def test_a_disk_that_lies_is_found_out(world, library):
    """What these tests show they show of the daemon: on a disk that says to have synced and has not, it loses messages."""
    layer = layer_of(world, library)
    story = Story(Bus(world, layer), a_seed(), settle_s=5)
    story.begin()
    story.traffic.progress(200)
    layer.set("lie")
    try:
        for _ in range(3):
            story.die([NOTHING], events=(200, 600))
        story.end()
    except AssertionError as problem:
        # Without what it relied on, it may do whatever it likes.
        print(problem)
    assert {"lost", "forgotten"} & {words.split(":")[0] for words in story.verdict()}
