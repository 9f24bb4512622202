"""The demonstration: what a newcomer runs first."""
import os
import signal

import pytest

from world import BIN, wait_until


def test_the_demo_tells_its_story_and_leaves_nothing_behind(world):
    """It runs by itself, shows all three agents at work, ends well, and there is no file, no directory and no process afterwards."""
    world.root.rmdir()
    done = world.run([BIN / "hermes-bus", "demo"], within_s=60)
    assert done.returncode == 0, (done.stdout[-1000:], done.stderr[-1000:])
    for word in ("lead-agent", "worker-alpha", "worker-beta", "task_done"):
        assert word in done.stdout, word
    assert len(done.stdout.splitlines()) >= 8
    assert os.listdir(world.temporary) == []
    assert not world.root.exists(), "the demo has a bus of its own"
    assert world.processes() == []


def test_the_demo_does_not_touch_the_users_bus(world):
    """A bus runs already: nobody on it hears or sees anything of the demo."""
    server = world.serve()
    resident = server.connect("lead-agent")
    assert world.run([BIN / "hermes-bus", "demo"], within_s=60).returncode == 0
    resident.fence()
    assert server.endpoints() == {"lead-agent": resident.session_id}


def test_two_demos_at_once(world):
    """Each has a private place."""
    both = [world.spawn([BIN / "hermes-bus", "demo"], output="demo-%d.out" % n) for n in range(2)]
    assert [d.wait(60) for d in both] == [0, 0]
    assert os.listdir(world.temporary) == []
    assert world.processes() == []


def test_the_demo_ends_cleanly_when_its_reader_leaves(world):
    """`hermes-bus demo | head -1`: no crash report, nothing left."""
    done = world.run(["sh", "-c", "hermes-bus demo | head -n 1"], within_s=60)
    assert "panicked" not in done.stderr
    assert done.stdout.count("\n") == 1
    assert world.processes() == []
    assert os.listdir(world.temporary) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_interrupted_cleans_up(world, how):
    """Ctrl-C, a polite signal, and kill -9 in the middle of the story: its bus ends and its directory goes all the same."""
    demo = world.spawn([BIN / "hermes-bus", "demo"], output="demo.out")
    wait_until(lambda: "worker-beta is connected" in world.output("demo.out"), "the story to begin")
    demo.send_signal(how)
    demo.wait(10)
    wait_until(lambda: world.processes() == [], "the demo's bus to end")
    assert os.listdir(world.temporary) == []
