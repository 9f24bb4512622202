"""Tests of the installed wheel: they run within the virtual environment that it was installed into."""
import os
import pathlib
import sys
import threading

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "blackbox"))
os.environ.setdefault("HERMES_BIN", os.path.dirname(sys.executable))

from world import World  # noqa: E402


@pytest.fixture
def world(monkeypatch):
    """Directories and an environment of its own, for this process too."""
    w = World()
    for key in ("HOME", "HERMES_HOME", "HERMES_BUS_ROOT", "PATH"):
        monkeypatch.setenv(key, w.environment[key])
    try:
        yield w
        crashes = w.crashes()
    finally:
        w.end()
    assert not crashes, crashes


@pytest.fixture
def server(world):
    return world.serve()


def threads():
    return sorted(os.listdir("/proc/self/task"))


def descriptors():
    return {number: os.readlink("/proc/self/fd/" + number) for number in os.listdir("/proc/self/fd")
            if os.path.exists("/proc/self/fd/" + number) or os.path.islink("/proc/self/fd/" + number)}


@pytest.fixture
def in_thread():
    """Runs functions in threads that are joined at the end, and whose exceptions fail the test."""
    started, failed = [], []

    def begin(function, *arguments):
        def guarded():
            try:
                function(*arguments)
            except BaseException as problem:
                failed.append(problem)
        thread = threading.Thread(target=guarded)
        thread.start()
        started.append(thread)
        return thread
    yield begin
    for thread in started:
        thread.join(60)
        assert not thread.is_alive()
    assert not failed, failed
