"""Fixtures: a private world for each test, and a server in it."""
import os
import signal

import pytest

from world import BIN, World

PROGRAMS = ("hermes-bus-server", "hermes-busd", "hermes-bus", "notify-hermes", "notify-agent")


def give_up(*_):
    raise KeyboardInterrupt("ended from outside")


def pytest_sessionstart(session):
    # Ended by a timeout, the suite still takes its servers with it.
    signal.signal(signal.SIGTERM, give_up)
    # In the background or under nohup these are ignored, and programs inherit that: a handler of ours they do not.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(ignored) == signal.SIG_IGN:
            signal.signal(ignored, lambda *_: None)
    missing = [p for p in PROGRAMS if not os.access(BIN / p, os.X_OK)]
    if missing:
        pytest.exit("%s not found in %s: run `cargo build --release`, or set HERMES_BIN" % (", ".join(missing), BIN), returncode=3)


@pytest.fixture
def world():
    """Directories, environment and processes that belong to one test; whatever it started ends with it."""
    w = World()
    try:
        yield w
        crashes = w.crashes()
    finally:
        w.end()
    assert not crashes, crashes


@pytest.fixture
def server(world):
    """A foreground server, which must not have died by itself when the test is over."""
    s = world.serve()
    ended_by_test = []
    stop = s.stop
    s.stop = lambda *a, **k: ended_by_test.append(True) or stop(*a, **k)
    yield s
    assert ended_by_test or s.is_alive(), "the server died with status %s: %s" % (s.process.returncode, world.output("hermes-bus-server.out")[-1000:])
