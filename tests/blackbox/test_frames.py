"""Bytes on the wire: what passes, what is refused, and with which words."""
import struct

import pytest

import procfs
from wire import FRAME_BYTES_MAX, INTEGER_DIGITS_MAX, NESTING_MAX, Closed, encode, filled_message, message
from world import wait_until


def nested(levels, opening=b"[", closing=b"]"):
    """A message whose nesting, the outermost object counted, is exactly this deep."""
    return b'{"type":"message","to":"sink","id":"n","ts":1,"from":"x","body":' + opening * (levels - 1) + closing * (levels - 1) + b"}"


NOT_JSON = {
    "cut-short": b'{"type":"ping"', "text": b"hello there", "trailing-data": b'{"type":"ping"}{', "single-quotes": b"{'type':'ping'}",
    "byte-order-mark": b'\xef\xbb\xbf{"type":"ping"}', "raw-newline-in-string": b'{"type":"pi\nng"}', "raw-nul-in-string": b'{"type":"ping","x":"\x00"}',
    "trailing-comma": b'{"type":"ping",}', "leading-zero": b'{"type":"ping","n":01}', "plus-sign": b'{"type":"ping","n":+1}', "bare-point": b'{"type":"ping","n":1.}',
    "half-literal": b'{"type":"ping","t":tru}', "bad-escape": b'{"type":"ping","x":"\\x41"}', "short-unicode-escape": b'{"type":"ping","x":"\\u12"}',
    "missing-colon": b'{"type" "ping"}', "unquoted-key": b'{type:"ping"}', "comment": b'{"type":"ping"/**/}', "only-blanks": b"   ", "nul-byte": b"\x00",
    "mismatched-brackets": b'{"type":"ping","x":[1}]', "damage-inside-the-body": b'{"type":"message","to":"nobody","body":{"a":[1,2,{"b":nul}]}}',
}

NOT_UTF8 = {
    "stray-byte": b'{"type":"ping","x":"\xff"}', "cut-sequence": b'{"type":"ping","x":"\xe4\xbd"}', "overlong": b'{"type":"ping","x":"\xc0\xaf"}',
    "encoded-surrogate": b'{"type":"ping","x":"\xed\xa0\x80"}', "beyond-unicode": b'{"type":"ping","x":"\xf4\x90\x80\x80"}', "in-a-key": b'{"type":"ping","\xfe":1}',
}

TOO_MUCH_FOR_PYTHON = {
    "951-lists": nested(NESTING_MAX + 1), "951-objects": nested(NESTING_MAX + 1, b'{"k":', b"}").replace(b'{"k":}', b"{}"), "bomb": nested(200_000),
    "open-bomb": b'{"type":"ping","x":' + b"[" * 100_000, "4301-digits": b'{"type":"ping","n":' + b"7" * (INTEGER_DIGITS_MAX + 1) + b"}",
    "minus-4301-digits": b'{"type":"ping","n":[-' + b"7" * (INTEGER_DIGITS_MAX + 1) + b"]}",
}

NOT_AN_OBJECT = {"list": b"[]", "null": b"null", "number": b"5", "string": b'"ping"', "true": b"true", "list-of-object": b' [{"type":"ping"}] '}


def refused(**groups):
    return [pytest.param(payload, code, id="%s-%s" % (code, name)) for code, cases in groups.items() for name, payload in cases.items()]


@pytest.mark.parametrize("payload, code", refused(invalid_json={**NOT_JSON, **NOT_UTF8, **TOO_MUCH_FOR_PYTHON}, invalid_frame={"length-0": b"", **NOT_AN_OBJECT}))
def test_a_bad_frame_gets_one_error_with_its_code_and_the_end(server, payload, code):
    """A client sends rubbish: it hears once what was wrong and is closed; its name is free, and others notice nothing."""
    other = server.connect("other")
    bad = server.connect("bad")
    bad.send(payload)
    assert bad.only_error()["code"] == code
    wait_until(lambda: list(other.endpoints()) == ["other"], "the closed client to leave the list")


@pytest.mark.parametrize("length", [FRAME_BYTES_MAX + 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x47455420], ids=["limit+1", "2-GiB", "4-GiB", "http-get"])
def test_a_length_over_the_limit_is_refused_from_its_header_alone(server, length):
    """Four bytes announce too much: the bus answers `frame_too_large` without waiting for the rest, whose bytes may already be there."""
    for payload_begun in (b"", b"x" * 5000):
        with server.connect() as c:
            c.write(struct.pack(">I", length) + payload_begun)
            assert c.only_error()["code"] == "frame_too_large"
    server.connect().fence()


def test_what_stands_before_a_bad_frame_counts_and_what_stands_behind_it_does_not(server):
    """Good, bad and good in one write: the first is delivered, then comes the error; the last was never read."""
    sink = server.connect("sink")
    c = server.connect("mixed")
    c.send(message("sink", "before"), b"[]", message("sink", "after"))
    assert c.only_error()["code"] == "invalid_frame"
    assert sink.expect("message")["body"] == "before"
    sink.fence()


def test_the_deepest_allowed_nesting_passes(server):
    """950 levels, the outermost object counted, go through untouched, as lists, as objects, and as brackets inside a string."""
    sink = server.connect("sink")
    sender = server.connect("sender")
    for payload in (nested(NESTING_MAX), nested(NESTING_MAX, b'{"k":', b"}").replace(b'{"k":}', b"{}"),
                    b'{"type":"message","to":"sink","id":"s","ts":1,"from":"x","body":"' + b"[{" * 5000 + b'"}'):
        sender.send(payload)
        assert sink.recv_bytes() == payload


@pytest.mark.parametrize("number", [b"9" * INTEGER_DIGITS_MAX, b"-" + b"9" * INTEGER_DIGITS_MAX, b"9" * 5000 + b".5", b"9" * 5000 + b"e0", b"1E400", b"-0", b"1e-400",
                                    b"NaN", b"Infinity", b"-Infinity"],
                         ids=["4300-digits", "minus-4300-digits", "long-fraction", "long-exponent", "1E400", "-0", "1e-400", "nan", "infinity", "-infinity"])
def test_numbers_that_python_reads_pass_as_they_are(server, number):
    """Whatever a Python receiver can read is let through, digit for digit."""
    sink = server.connect("sink")
    payload = b'{"type":"message","to":"sink","id":1,"ts":2,"from":3,"body":[' + number + b"]}"
    server.connect("sender").send(payload)
    assert sink.recv_bytes() == payload


def test_a_frame_one_byte_at_a_time(server):
    """A client dribbles; after each byte somebody else is served, so every byte is a read of its own, and the frames count all the same."""
    sink = server.connect("sink")
    other = server.connect("other")
    dribbler = server.connect()
    for byte in encode({"type": "register", "endpoint": "dribbler"}) + encode(message("sink", {"n": 1})):
        dribbler.write(bytes([byte]))
        other.fence()
    assert dribbler.expect("registered")["endpoint"] == "dribbler"
    assert sink.expect("message")["body"] == {"n": 1}


def test_thousands_of_frames_in_one_write(server):
    """5,000 messages leave the sender as one piece of memory: all arrive, in order, and the question behind them is answered."""
    sink = server.connect("sink")
    sender = server.connect("sender")
    sender.send(*[message("sink", n) for n in range(5000)], {"type": "ping"})
    assert [sink.expect("message")["body"] for _ in range(5000)] == list(range(5000))
    sender.expect("pong")


def test_answers_come_in_the_order_of_the_questions(server):
    """2,000 pings and listings in one write from a client that reads only afterwards."""
    c = server.connect()
    c.send(*[{"type": "ping"} if n % 2 else {"type": "list_endpoints"} for n in range(2000)])
    assert [c.recv()["type"] for _ in range(2000)] == ["pong" if n % 2 else "endpoints_list" for n in range(2000)]


def test_a_half_closed_client_is_served_to_the_end(server):
    """A client says all it has to say and shuts its sending side: everything is handled and answered, then the bus closes too."""
    sink = server.connect("sink")
    c = server.connect()
    c.send({"type": "register", "endpoint": "short"}, message("sink", "last words"), message("short", "to myself"), {"type": "list_endpoints"})
    c.half_close()
    assert [f["type"] for f in c.rest()] == ["registered", "message", "endpoints_list"]
    assert sink.expect("message")["body"] == "last words"
    wait_until(lambda: list(sink.endpoints()) == ["sink"], "the half-closed client to leave the list")


def test_a_frame_cut_off_by_the_end_is_dropped(server):
    """A client hangs up in the middle of a frame, at each of several places: nothing of it is routed, and its name is free."""
    sink = server.connect("sink")
    frame = encode(message("sink", "never"))
    for cut in (1, 3, 4, 5, len(frame) - 1):
        c = server.connect("cutter")
        c.write(frame[:cut])
        c.hang_up()
        wait_until(lambda: list(sink.endpoints()) == ["sink"], "the cutter to leave the list")


def test_clients_that_reset_their_connection_leave_nothing_behind(server):
    """A hundred clients close with unread messages in their sockets, which is a reset: the bus forgets them and keeps no descriptor."""
    sender = server.connect("sender")
    sender.fence()
    files_before = procfs.open_files(server.pid)
    for n in range(100):
        c = server.connect("r%d" % n)
        sender.message("r%d" % n, "unread")
        sender.fence()
        c.hang_up()
    wait_until(lambda: list(sender.endpoints()) == ["sender"], "the reset clients to leave the list")
    wait_until(lambda: procfs.open_files(server.pid) <= files_before, "the bus to close the descriptors of the reset clients")


def test_a_frame_of_exactly_the_limit_passes(server):
    """10 MiB to the byte, nothing missing in it: it arrives as it left."""
    sink = server.connect("sink", patience_s=30)
    head, bulk_bytes, tail = filled_message("sink", "big", FRAME_BYTES_MAX)
    frame = head + b"x" * bulk_bytes + tail
    server.connect("sender", patience_s=30).write(frame)
    assert sink.recv_bytes() == frame[4:]


@pytest.mark.parametrize("name", ["sender", None], ids=["registered", "anonymous"])
def test_a_frame_that_would_outgrow_the_limit_by_what_is_added_is_refused(server, name):
    """10 MiB without id and ts: the bus may not make it larger than a receiver takes, says so to the sender, and delivers nothing."""
    sink = server.connect("sink")
    sender = server.connect(name, patience_s=30)
    head = b'{"type":"message","to":"sink","body":"'
    sender.send(head + b"x" * (FRAME_BYTES_MAX - len(head) - 2) + b'"}')
    assert sender.expect("error")["code"] == "frame_too_large"
    sender.fence()
    sink.fence()


@pytest.mark.parametrize("payload", [b' \r\n\t{ "type" : "ping" }\n ', b'{"\\u0074ype":"p\\u0069ng"}', b'{"type":"list_endpoints","type":"ping"}', b'{"type":"ping","x":"\\ud800"}'],
                         ids=["white-space", "escapes", "last-duplicate-counts", "lone-surrogate"])
def test_frames_are_read_as_python_reads_them(server, payload):
    """White space, escaped keys and values, duplicate keys and lone surrogates are all part of what is in the field."""
    c = server.connect()
    c.send(payload)
    c.expect("pong")


@pytest.mark.parametrize("frame", [{}, {"type": None}, {"type": "unknown"}, {"type": "PING"}, {"type": 7}, {"type": ["ping"]}, {"type": "pong"}, {"type": "registered"}])
def test_an_unknown_type_is_ignored(server, frame):
    """Frames of a type that level 1 does not know get no answer, registered or not, and the connection goes on."""
    for c in (server.connect(), server.connect("somebody")):
        c.send(frame)
        c.fence()


def test_a_thousand_connections_one_after_the_other(server):
    """Short-lived clients come and go; each is served, and the bus holds no more descriptors than before."""
    server.connect().fence()
    files_before = procfs.open_files(server.pid)
    for _ in range(1000):
        with server.connect() as c:
            c.fence()
    wait_until(lambda: procfs.open_files(server.pid) <= files_before, "the descriptors of the short-lived clients to be closed")


def test_a_silent_death_of_a_receiver_does_not_harm_its_sender(server):
    """A receiver goes away while a sender keeps writing to it: the sender stays connected and hears nothing."""
    receiver = server.connect("receiver")
    sender = server.connect("sender")
    receiver.hang_up()
    for n in range(50):
        sender.message("receiver", n)
    sender.fence()
    with pytest.raises((Closed, OSError)):
        receiver.fence()
