"""A listener whose bus goes away: what crashed is brought back, what was stopped stays stopped."""
import os
import signal
import time

import pytest

from world import BIN, answers, wait_until


@pytest.fixture
def listener(world):
    """`hermes-bus listen ear`, connected to a daemon that it found running."""
    world.start_daemon()
    world.spawn([BIN / "hermes-bus", "listen", "ear", "--json"], output="listen.out")
    wait_until(lambda: "listening as ear" in world.output("listen.out"), "the listener")
    return world


def hears(world, text):
    """Sends a text to the listener, and waits until it has printed it."""
    sent = world.run([BIN / "notify-hermes", "--to", "ear", text])
    assert sent.returncode == 0, sent.stderr
    wait_until(lambda: text in world.output("listen.out"), "the listener to print %r" % text)


def test_a_daemon_that_was_killed_is_started_again(listener):
    hears(listener, "before")
    old = listener.pid_in_file()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: "listening again" in listener.output("listen.out"), "the listener to come back")
    assert listener.pid_in_file() != old
    hears(listener, "after")


def test_a_daemon_that_was_stopped_is_not_started_again(listener):
    assert listener.busd("stop").returncode == 0
    wait_until(lambda: "coming back" in listener.output("listen.out"), "the listener to notice")
    # Long enough for some attempts; nothing announces that something does not happen.
    time.sleep(1.5)
    assert not answers(listener.socket_path) and not listener.pid_file.exists()
    listener.start_daemon()
    wait_until(lambda: "listening again" in listener.output("listen.out"), "the listener to come back")
    hears(listener, "after")


def test_restart_upon_restart_and_the_listener_is_there_after_each(listener):
    for number in range(20):
        done = listener.busd("restart")
        assert done.returncode == 0, done.stdout
        wait_until(lambda: listener.output("listen.out").count("listening again") == number + 1, "the listener to come back")
    hears(listener, "after all of them")


def test_a_socket_that_was_removed_is_no_reason_for_a_second_daemon(listener):
    pid = listener.pid_in_file()
    os.unlink(listener.socket_path)
    # Asks `hermes-busd start`, which asks the daemon to look.
    hears(listener, "through the new socket")
    assert listener.pid_in_file() == pid
    assert "coming back" not in listener.output("listen.out")
