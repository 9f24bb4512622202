"""Clients that begin a frame and do not end it."""
import time

import pytest

from wire import Closed, Silence, encode, message
from world import wait_until

GUARD_S = 30  # a frame must be complete within this time of its first byte


def ended_after(connections, began, within_s):
    """Waits for the bus to close each; returns the seconds that each took."""
    took = {}

    def look():
        for name, c in connections.items():
            if name in took:
                continue
            try:
                c.recv_bytes(0.01)
            except Closed:
                took[name] = time.monotonic() - began
            except Silence:
                pass
        return len(took) == len(connections)
    wait_until(look, "the half-sent frames to be given up; so far: %r" % took, within_s)
    return took


@pytest.mark.slow
def test_a_frame_that_is_not_finished_in_time_ends_its_connection_only(server):
    """Two bytes of a header, a header and a byte, a frame without its last byte, one byte a second: all are closed after about 30 s, and nobody else is."""
    patient = server.connect("patient")
    silent = server.connect()
    frame = encode(message("patient", "x" * 500))
    slow = {"header-begun": server.connect(), "body-begun": server.connect("sloth"), "almost-done": server.connect(), "drip": server.connect()}
    began = time.monotonic()
    slow["header-begun"].write(frame[:2])
    slow["body-begun"].write(frame[:5])
    slow["almost-done"].write(frame[:-1])
    for n in range(GUARD_S - 3):
        slow["drip"].write(frame[n:n + 1])
        patient.fence()
        time.sleep(1)  # the drip's own pace
    took = ended_after(slow, began, GUARD_S)
    assert all(GUARD_S - 1 <= s <= GUARD_S + 10 for s in took.values()), took
    patient.fence()
    silent.fence()
    assert list(patient.endpoints()) == ["patient"]


def test_a_slow_frame_does_not_hold_up_a_quick_one(server):
    """Fifty connections each hold back the end of a frame: a whole frame passes them at once, and each half one counts when it is finished."""
    sink = server.connect("sink")
    slow = [server.connect() for _ in range(50)]
    frames = [encode(message("sink", n)) for n in range(50)]
    for c, frame in zip(slow, frames):
        c.write(frame[:-1])
    server.connect().message("sink", "quick")
    assert sink.expect("message")["body"] == "quick"
    for n in reversed(range(50)):
        slow[n].write(frames[n][-1:])
        assert sink.expect("message")["body"] == n


@pytest.mark.slow
def test_a_client_without_words_is_left_alone(server):
    """No byte of a frame, no clock: silent connections, named or not, are still there after the guard's time."""
    quiet = [server.connect(), server.connect("quiet")]
    time.sleep(GUARD_S + 5)  # what is proved is that nothing happens
    for c in quiet:
        c.fence()


@pytest.mark.soak
def test_heartbeats(server):
    """Ninety seconds without a frame end a registered session, and its client sees it; any kind of frame keeps one alive; anonymous ones need none."""
    kinds = {"pinger": {"type": "ping"}, "talker": message("nobody", 1), "lister": {"type": "list_endpoints"}, "odd-one": {"type": "no-such-type"}}
    lively = {name: server.connect(name) for name in kinds}
    silent, anonymous = server.connect("silent"), server.connect()
    began = time.monotonic()
    ended_s = None
    while time.monotonic() - began < 125:
        for name, c in lively.items():
            c.send(kinds[name])
        if ended_s is None:
            try:
                silent.recv_bytes(5)
            except Closed:
                ended_s = time.monotonic() - began
            except Silence:
                pass
        else:
            time.sleep(5)
    assert ended_s is not None and 85 <= ended_s <= 115, ended_s
    listed = set(server.endpoints())
    assert listed == set(kinds)
    anonymous.fence()
