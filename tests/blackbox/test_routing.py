"""Where a message goes, what is added to it, and who is told."""
import json
import os
import threading
import time
import uuid

import pytest

from wire import message
from world import wait_until

FALSY = {"empty": b'""', "null": b"null", "false": b"false", "0": b"0", "-0": b"-0", "-0.0": b"-0.0", "0.0": b"0.0", "0e5": b"0e5", "underflow": b"1e-400",
         "list": b"[]", "spaced-list": b"[ ]", "object": b"{}", "spaced-object": b"{ \n}", "absent": None}


def to_as(raw):
    """A complete message whose `to` is this text."""
    return b'{"type":"message",' + (b"" if raw is None else b'"to":' + raw + b",") + b'"id":"i","ts":1,"from":"f","body":1}'


def added(sent, delivered):
    """The keys that the bus inserted, in order; every other byte must be as it was."""
    end = sent.rindex(b"}")
    before, after = sent[:end], sent[end:]
    assert delivered.startswith(before) and delivered.endswith(after), "bytes changed:\n%r\n%r" % (sent, delivered)
    insertion = delivered[len(before):len(delivered) - len(after)]
    if not insertion:
        return []
    assert insertion.startswith(b","), insertion
    return json.loads(b"{" + insertion[1:] + b"}", object_pairs_hook=list)


ODD_BODY = b'{"z" : 1.50,"a":[1E400,-0, 1.0e+5 ,NaN],"k":1,"k":2, "esc":"\\/\\u00e9\\ud800","big":1180591620717411303424,"id":0,"ts":0,"from":0,"u":"\xe6\xbc\xa2"}'


@pytest.mark.parametrize("present, missing", [(b"", ["id", "ts", "from"]), (b'"id":"mine",', ["ts", "from"]), (b'"ts":null,', ["id", "from"]), (b'"from":"",', ["id", "ts"]),
                                              (b'"id":null,"from":null,', ["ts"]), (b'"\\u0069d":1,"t\\u0073":2,"fro\\u006d":3,', []), (b'"from":[1],"ts":"noon","id":{"a":1},', [])],
                         ids=["none-present", "id-present", "ts-null", "from-empty", "two-null", "escaped-keys", "all-of-odd-types"])
def test_missing_keys_are_inserted_and_no_other_byte_is_touched(server, present, missing):
    """A message with odd spacing, numbers, escapes and duplicates arrives byte for byte, plus `id`, `ts`, `from` where the key was absent."""
    receiver = server.connect("b")
    sender = server.connect("a")
    sent = b' {  "type":"message" ,' + present + b'"to":"b",\t"body":' + ODD_BODY + b' ,"more":[ ]  }\r\n '
    began = time.time()
    sender.send(sent)
    pairs = added(sent, receiver.recv_bytes())
    assert [key for key, _ in pairs] == missing
    values = dict(pairs)
    if "id" in values:
        assert str(uuid.UUID(values["id"])) == values["id"]
    if "ts" in values:
        assert isinstance(values["ts"], float) and began - 5 <= values["ts"] <= time.time() + 5
    if "from" in values:
        assert values["from"] == "a"


def test_an_anonymous_sender_gets_no_from(server):
    """Who has no name is not given one."""
    receiver = server.connect("b")
    sent = b'{"type":"message","to":"b","body":1}'
    server.connect().send(sent)
    assert [key for key, _ in added(sent, receiver.recv_bytes())] == ["id", "ts"]


def test_each_message_gets_an_id_of_its_own(server):
    """A hundred messages without id arrive with a hundred different ones."""
    c = server.connect("self")
    c.send(*[message("self", n) for n in range(100)])
    assert len({c.expect("message")["id"] for _ in range(100)}) == 100


def test_a_broadcast_is_the_same_bytes_for_everybody(server):
    """Three receivers of one broadcast see one id and one ts."""
    receivers = [server.connect("r%d" % n) for n in range(3)]
    server.connect("a").send(b'{"type":"message","body":"all"}')
    assert len({r.recv_bytes() for r in receivers}) == 1


@pytest.mark.parametrize("to", FALSY.values(), ids=FALSY.keys())
def test_a_false_address_means_everybody(server, to):
    """Any `to` that Python takes as false reaches every registered endpoint, the sender too, and no anonymous connection."""
    a, b, anonymous = server.connect("a"), server.connect("b"), server.connect()
    a.send(to_as(to))
    assert a.recv_bytes() == b.recv_bytes() == to_as(to)
    anonymous.fence()


@pytest.mark.parametrize("to, shown", [(b"5", "5"), (b"true", "True"), (b"1.5", "1.5"), (b"-3", "-3"), (b'"*"', "*"), (b'"it\'s \\"x\\""', "it's \"x\""), (b'"two\\nlines"', "two\nlines"),
                                       (b'"\\u6d4b\\u8bd5"', "测试"), (b'"' + b"n" * 8000 + b'"', "n" * 8000)],
                         ids=["5", "true", "1.5", "-3", "star", "quotes", "newline", "unicode", "long"])
def test_an_anonymous_sender_hears_of_an_unknown_endpoint(server, to, shown):
    """The words are exact: scripts compare them. Numbers and true are names that nobody has, even where a string looks the same."""
    namesakes = [server.connect(n) for n in ("5", "True", "true", "1.5")]
    c = server.connect()
    c.send(to_as(to))
    assert c.expect("error") == {"type": "error", "code": "endpoint_not_found", "detail": "Endpoint '%s' is not connected" % shown, "id": "i"}
    for n in namesakes:
        n.fence()
    c.send(to_as(b'"still-nobody"'))
    assert c.expect("error")["code"] == "endpoint_not_found"


@pytest.mark.parametrize("id_text", [b"7", b"null", b'""', b"1.50", b'{"a" : [1]}', b'"\\u00e9"'])
def test_an_error_echoes_the_id_as_it_came(server, id_text):
    """Whatever the sender uses as id comes back in the error, text for text."""
    c = server.connect()
    c.send(b'{"type":"message","to":"nobody","id":' + id_text + b',"body":1}')
    answer = c.recv_bytes()
    assert json.loads(answer)["code"] == "endpoint_not_found"
    assert answer.rstrip().endswith(id_text + b"}") or b'"id":' + id_text in answer.replace(b'"id": ', b'"id":')


def test_a_registered_sender_hears_nothing_of_an_unknown_endpoint(server):
    """Old clients would put the error into the application's queue."""
    a = server.connect("a")
    a.message("nobody", 1)
    a.fence()


@pytest.mark.parametrize("name", ["a", None], ids=["registered", "anonymous"])
@pytest.mark.parametrize("to", [b"[1]", b'["b"]', b'{"a":1}', b'{"b":{}}'])
def test_a_list_or_object_is_no_address(server, name, to):
    """The sender hears `invalid_field` and is closed; nothing is delivered."""
    b = server.connect("b")
    c = server.connect(name)
    c.send(to_as(to))
    error = c.only_error()
    assert error["code"] == "invalid_field" and "to" in error["detail"]
    b.fence()


def test_duplicate_keys_the_last_one_counts(server):
    """Type and address twice: the later ones decide, and the bytes go through as they are."""
    a, b = server.connect("a"), server.connect("b")
    sent = b'{"type":"ping","to":"a","type":"message","to":"b","id":1,"ts":1,"from":"x","body":1,"body":2}'
    server.connect("s").send(sent)
    assert b.recv_bytes() == sent
    a.fence()


def test_keys_inside_the_body_are_not_addresses(server):
    """A body that looks like a frame is only a body."""
    a, b = server.connect("a"), server.connect("b")
    body = {"type": "register", "endpoint": "evil", "to": "a", "nested": [{"to": "a"}]}
    server.connect("s").message("b", body)
    assert b.expect("message")["body"] == body
    a.fence()
    assert set(a.endpoints()) == {"a", "b", "s"}


@pytest.mark.parametrize("name", ["a", "with space", "测试端点", "📬", "@team", "#topic", "*", "a\u0000b", "x" * 8192],
                         ids=["plain", "space", "chinese", "emoji", "at", "hash", "star", "nul", "8192-bytes"])
def test_any_string_up_to_8_kib_is_a_level_1_name(server, name):
    """The name is listed as it is, and an exact match comes before any other meaning of the address."""
    c = server.connect(name)
    assert server.endpoints() == {name: c.session_id}
    server.connect("s").message(name, "hello")
    assert c.expect("message")["body"] == "hello"


def test_the_empty_name_is_reached_by_broadcast_only(server):
    """An endpoint may be called nothing at all."""
    c = server.connect("")
    server.connect("s").message("", "all")
    assert c.expect("message")["body"] == "all"


@pytest.mark.parametrize("register, codes", [(b'{"type":"register"}', {"invalid_field"}), (b'{"type":"register","endpoint":null}', {"invalid_field"}),
                                             (b'{"type":"register","endpoint":5}', {"invalid_field"}), (b'{"type":"register","endpoint":["a"]}', {"invalid_field"}),
                                             (b'{"type":"register","endpoint":"x\\ud800y"}', {"name_invalid"}),
                                             (b'{"type":"register","endpoint":"' + b"x" * 8193 + b'"}', {"name_invalid", "invalid_field"})],
                         ids=["missing", "null", "number", "list", "lone-surrogate", "8193-bytes"])
def test_a_registration_without_a_usable_name_is_refused(server, register, codes):
    """One error that says so, and the end."""
    c = server.connect()
    c.send(register)
    assert c.only_error()["code"] in codes
    assert server.endpoints() == {}


def test_names_of_the_bus_itself_cannot_be_taken(server):
    """What begins with `bus.` is not for clients."""
    c = server.connect()
    c.send({"type": "register", "endpoint": "bus.control"})
    c.expect("error")
    assert server.endpoints() == {}


def test_a_second_registration_on_a_connection_is_ignored(server):
    """No answer, no change of name."""
    c = server.connect("one")
    c.send({"type": "register", "endpoint": "two"})
    c.fence()
    assert c.endpoints() == {"one": c.session_id}


def test_the_listing_for_released_clients(server):
    """Names to session ids, anonymous connections left out, under the name of the type that released clients insist on."""
    a, b = server.connect("a"), server.connect("b")
    asking = server.connect()
    for request in ({"type": "list_endpoints"}, {"type": "list_endpoints", "protocol": 1}):
        asking.send(request)
        assert asking.recv() == {"type": "endpoints_list", "endpoints": {"a": a.session_id, "b": b.session_id}}
    assert uuid.UUID(a.session_id) != uuid.UUID(b.session_id)


def test_the_listing_for_newer_clients_carries_details(server):
    """With `"protocol": 2` the answer has the documented name and says who each endpoint is."""
    began = time.time()
    a, b = server.connect("a"), server.connect("b")
    asking = server.connect()
    asking.send({"type": "list_endpoints", "protocol": 2})
    answer = asking.expect("endpoint_list")
    assert answer["endpoints"] == {"a": a.session_id, "b": b.session_id}
    details = {d["endpoint"]: d for d in answer["details"]}
    assert set(details) == {"a", "b"} and len(answer["details"]) == 2
    for c in (a, b):
        d = details[c.endpoint]
        assert (d["session_id"], d["protocol"], d["uid"], d["pid"]) == (c.session_id, 1, os.getuid(), os.getpid())
        assert began - 5 <= d["connected_at"] <= time.time() + 5
        assert isinstance(d["state"], str) and d["state"]
        assert d["pending"]["messages"] == 0 and d["pending"]["bytes"] == 0


def test_details_show_what_waits_for_a_receiver(server):
    """Somebody who does not read can be seen: the listing counts what is queued for it."""
    idle = server.connect("idle")
    sender = server.connect("sender")
    sender.send(*[message("idle", "x" * 10_000) for _ in range(200)])
    sender.fence()
    asking = server.connect()
    asking.send({"type": "list_endpoints", "protocol": 2})
    pending = {d["endpoint"]: d["pending"] for d in asking.expect("endpoint_list")["details"]}
    assert 0 < pending["idle"]["messages"] <= 200 and 10_000 <= pending["idle"]["bytes"] <= 2_100_000
    assert pending["sender"] == {"messages": 0, "bytes": 0}
    for _ in range(200):
        idle.expect("message")
    idle.fence()


def test_registered_comes_first_however_busy_the_name_is(server):
    """A name that others write to all the time is registered anew 150 times: the first frame is always `registered`."""
    over = threading.Event()
    writers = [server.connect("writer-%d" % n) for n in range(2)]

    def write(c):
        while not over.is_set():
            c.send(*[message("busy", "x" * 50) for _ in range(20)])
            c.fence()
    threads = [threading.Thread(target=write, args=(w,)) for w in writers]
    for t in threads:
        t.start()
    try:
        for _ in range(150):
            with server.connect() as c:
                c.send({"type": "register", "endpoint": "busy"})
                assert c.recv()["type"] == "registered"
    finally:
        over.set()
        for t in threads:
            t.join(20)


def test_one_sender_one_receiver_keep_their_order_among_others(server):
    """Four senders at once: each one's messages arrive in the order it sent them."""
    sink = server.connect("sink")
    senders = [server.connect("s%d" % n) for n in range(4)]
    for step in range(50):
        for number, s in enumerate(senders):
            s.send(*[message("sink", [number, step * 10 + k]) for k in range(10)])
    got = [sink.expect("message")["body"] for _ in range(2000)]
    for number in range(4):
        assert [n for who, n in got if who == number] == list(range(500))


def test_a_name_is_free_when_its_client_is_gone(server):
    """Registered, closed, gone from the list; again and again."""
    other = server.connect("other")
    for _ in range(20):
        with server.connect("again"):
            assert "again" in other.endpoints()
        wait_until(lambda: "again" not in other.endpoints(), "the name to leave the list")
