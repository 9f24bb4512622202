"""The crash harness itself: a small bus that keeps its promises passes, and each way of breaking one is found."""
import pathlib
import sys

import pytest

import disk
from disk import LOSSES, NOTHING, Layer
from mortal import Bus, Story

TOY = [sys.executable, pathlib.Path(__file__).with_name("toy_bus.py")]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return disk.build(tmp_path_factory.mktemp("powerloss"))


def layer_of(world, library):
    return Layer(library, world.root, world.directory / "work")


def kinds(story):
    return {words.split(":")[0] for words in story.verdict()}


def found_in(story, kind, deaths, losses=None):
    """Plays until this kind of broken promise is found, or to the end."""
    story.begin()
    for _ in range(deaths):
        story.die(losses, events=(1, 400))
        # What is missing now may still come.
        if kind not in ("lost", "forgotten") and kind in kinds(story):
            return True
    story.end()
    return kind in kinds(story)


def test_a_bus_that_keeps_its_promises_passes(world):
    story = Story(Bus(world, program=TOY), seed=1)
    story.begin()
    for _ in range(5):
        story.die(events=(1, 600))
    story.end()
    story.check()
    assert story.deaths["under load"] == 5


def test_a_bus_that_syncs_survives_power_losses(world, library):
    story = Story(Bus(world, layer_of(world, library), program=TOY), seed=2)
    story.begin()
    for _ in range(5):
        story.die(LOSSES, events=(1, 600))
    story.end()
    story.check()


@pytest.mark.parametrize("fault, kind", [
    ("forgets", "forgotten"), ("unmarked", "unmarked"), ("reorders", "order"), ("reuses", "ambiguous"), ("overstates", "early"),
    ("repeats", "again"), ("invents", "invented"),
])
def test_a_broken_promise_is_found(world, fault, kind):
    story = Story(Bus(world, program=TOY + [fault]), seed=3)
    assert found_in(story, kind, deaths=6)


def test_a_receipt_before_the_sync_is_found(world, library):
    """The disk is slow, so that the process dies between the receipt and the sync."""
    layer = layer_of(world, library)
    layer.set("slow_ms", 5)
    story = Story(Bus(world, layer, program=TOY + ["early"]), seed=4)
    assert found_in(story, "lost", deaths=8, losses=[NOTHING])


def test_a_disk_that_lies_is_found(world, library):
    """The same bus that passes, on a disk that says to have synced and has not."""
    layer = layer_of(world, library)
    story = Story(Bus(world, layer, program=TOY), seed=5)
    layer.set("lie")
    assert found_in(story, "lost", deaths=2, losses=[NOTHING])
