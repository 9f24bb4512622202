"""What the old package had no words for: waiting, asking, receipts, acknowledgements, mailboxes, groups, topics."""
import threading
import time

import pytest

import hermes_bus
from hermes_bus import (
    BusClient, ClosedError, ConnectError, InvalidMessageError, NoAnswerError, RefusedError, list_endpoints,
)
from world import wait_until


def bodies(client, count):
    got = []
    while len(got) < count:
        more = client.poll(10)
        assert more, "only %r came" % got
        got += [m["body"] for m in more]
    return got


def test_polling_with_patience(server):
    with BusClient("svc") as client:
        began = time.monotonic()
        assert client.poll(0.2) == [] and 0.15 < time.monotonic() - began < 5
        for n in range(5):
            client.send("svc", n)
        assert bodies(client, 5) == list(range(5))
        for n in range(5):
            client.send("svc", n)
        wait_until(lambda: client._native.ready().wait(1), "a message")
        assert len(client.poll(1, limit=1)) == 1


def test_iterating(server, in_thread):
    with BusClient("svc") as client:
        for n in range(10):
            client.send("svc", n)
        seen = []
        for message in client:
            seen.append(message["body"])
            if len(seen) == 5:
                break
        assert seen + [m["body"] for _, m in zip(range(5), client)] == list(range(10))


def test_a_block_that_cannot_connect_says_why(world):
    with pytest.raises(ConnectError) as caught:
        with BusClient("x", str(world.directory / "none.sock")):
            pass
    assert caught.value.code == "no_bus" and "none.sock" in str(caught.value)


def test_requests(server, in_thread):
    def oracle():
        for question in answering:
            if question["body"] == "enough":
                return
            answering.reply(question, {"echo": question["body"]})
    with BusClient("oracle") as answering, BusClient("curious") as asking:
        in_thread(oracle)
        assert asking.request("oracle", 1, 10)["body"] == {"echo": 1}
        reply = asking.request("oracle", "\ud800", 10, id="mine")
        assert reply["reply_to"] == "mine" and reply["body"] == {"echo": "\ud800"} and asking.poll() == []
        with pytest.raises(RefusedError) as refused:
            asking.request("orcale", 1)
        assert refused.value.code == "endpoint_not_found"
        asking.send("oracle", "enough")
        with pytest.raises(NoAnswerError) as late:
            asking.request("curious", 1, 0.2)
        assert late.value.code == "no_reply" and isinstance(late.value, TimeoutError)
        assert asking.poll(5)[0]["body"] == 1
        with pytest.raises(InvalidMessageError) as invalid:
            asking.request("oracle", object())
        assert invalid.value.code == "invalid_json" and isinstance(invalid.value, ValueError)
    with pytest.raises(ClosedError):
        asking.request("oracle", 1)
    with pytest.raises(InvalidMessageError):
        answering.reply({"id": "x"}, 1)


def test_receipts(server):
    with BusClient("lead") as lead, BusClient("worker") as worker:
        assert lead.submit("worker", 1, "delivered").wait(10).status == "delivered"
        many = [lead.submit("worker", n) for n in range(200)]
        assert {outstanding.wait(10).status for outstanding in many} <= {"accepted", "delivered"}
        with pytest.raises(RefusedError) as refused:
            lead.submit("wroker", 1).wait(10)
        assert (refused.value.code, refused.value.suggestions) == ("endpoint_not_found", ["worker"])
        with pytest.raises(RefusedError) as impossible:
            lead.submit("worker", 1, "acked").wait(10)
        assert (impossible.value.code, impossible.value.reached) == ("receipt_impossible", "delivered")
        with pytest.raises(InvalidMessageError):
            lead.submit("worker", 1, "framed")
        everybody = lead.submit("", 1, "delivered").wait(10)
        assert (everybody.endpoints, everybody.failed) == (2, 0)
        assert worker.poll(5)


def test_an_outstanding_receipt_can_be_waited_for_again(server):
    with BusClient("lead") as lead, BusClient("worker", acknowledge="explicit") as worker:
        outstanding = lead.submit("worker", 1, "acked", id="m1")
        assert outstanding.id == "m1"
        with pytest.raises(NoAnswerError):
            outstanding.wait(0.1)
        message = worker.poll(10)[0]
        assert worker.ack(message) is True and worker.ack(message) is False
        assert outstanding.wait(10) == hermes_bus.Receipt("m1", "acked", "worker", None, None)
        states = [state["state"] for state in lead.trace("m1")["states"]]
        assert states[0] == "accepted" and states[-1] == "acked"


def test_a_mailbox_and_what_is_not_acknowledged_comes_again(server):
    with BusClient("worker", mailbox=True):
        pass
    with BusClient("lead") as lead:
        for n in range(3):
            assert lead.submit("worker", n, "stored").wait(10).status == "stored"
        with BusClient("worker", mailbox=True, acknowledge="explicit") as worker:
            assert worker.mailbox_depth == 3
            first = worker.poll(10, limit=1)[0]
            assert first["body"] == 0 and worker.ack(first)
        with BusClient("worker", mailbox=True, acknowledge="explicit") as worker:
            assert worker.ack(first) is False, "it is of another session"
            got = []
            while len(got) < 2:
                got += worker.poll(10)
            assert [(m["body"], m["delivery"]) for m in got] == [(1, 2), (2, 2)]
            assert worker.nack(got[0], "later") and worker.reject(got[1], "never")
            again = worker.poll(10)[0]
            assert again["body"] == 1 and again["delivery"] == 3 and worker.ack(again)
            assert worker.ack({"body": 1}) is False and worker.ack({"seq": "x"}) is False


def test_asking_for_more_acknowledges_what_came_before(server):
    with BusClient("lead") as lead:
        with BusClient("worker", acknowledge="automatic") as worker:
            first = lead.submit("worker", 1, "acked")
            assert worker.poll(10)
            with pytest.raises(NoAnswerError):
                first.wait(0.2)
            assert worker.poll() == [] and first.wait(10).status == "acked"
            second = lead.submit("worker", 2, "acked")
            third = lead.submit("worker", 3, "acked")
            for message in worker:
                if message["body"] == 3:
                    break
            assert second.wait(10).status == "acked"
            with pytest.raises(NoAnswerError):
                third.wait(0.2)


def test_serving(server, in_thread):
    """What a handler has dealt with is acknowledged, what it fails at comes again."""
    seen = []

    def handler(message):
        seen.append(message["body"])
        if seen.count("hard") == 1 and message["body"] == "hard":
            raise RuntimeError("not yet")
    with BusClient("lead") as lead, BusClient("worker", acknowledge="explicit") as worker:
        in_thread(worker.serve, handler)
        receipts = [lead.submit("worker", body, "acked") for body in ("hard", "easy")]
        assert [receipt.wait(20).status for receipt in receipts] == ["acked", "acked"]
        assert seen == ["hard", "easy", "hard"]
    with BusClient("worker") as worker:
        worker.send("worker", "x")
        with pytest.raises(ZeroDivisionError):
            worker.serve(lambda message: 1 / 0)


def test_groups_and_topics(server):
    with BusClient("a", groups=["@team"]) as a, BusClient("b", topics=["build.*"]) as b, BusClient("lead") as lead:
        assert lead.submit("@team", 1).wait(10).to == "a" and a.poll(10)[0]["via"] == "@team"
        assert b.join("team", "others") == ["others", "team"] and a.leave("team") == []
        lead.send("@team", 2)
        assert bodies(b, 1) == [2]
        lead.publish("build.done", 3)
        assert bodies(b, 1) == [3]
        assert b.subscribe("#x.>") == ["build.*", "x.>"] and b.unsubscribe("build.*") == ["x.>"]
        lead.publish("#x.y.z", 4)
        assert bodies(b, 1) == [4]
        with pytest.raises(RefusedError) as refused:
            lead.submit("@nobody", 1).wait(10)
        assert refused.value.code == "endpoint_not_found"


def test_names_that_are_taken(server):
    with BusClient("svc"):
        with pytest.raises(ConnectError) as taken:
            BusClient("svc", conflict="refuse").__enter__()
        assert taken.value.code == "name_taken"
        with BusClient("svc", conflict="suffix", meta={"role": "second"}) as second:
            assert second.name == "svc-2" and second.endpoint == "svc"
            assert set(list_endpoints()) == {"svc", "svc-2"}
            assert second.send("svc-2", "to myself") and second.poll(10)[0]["sender"]["endpoint"] == "svc-2"


def test_messages_that_wait_or_expire(server):
    with BusClient("away"):
        pass
    with BusClient("lead") as lead:
        wait_until(lambda: "away" not in list_endpoints(), "it to be away")
        assert lead.send("away", "kept", queue=True, id="k", ttl=60, hops=1, traceparent="00-ab")
        assert lead.submit("away", "kept too", "stored", retry_for=5).wait(10).status == "stored"
        with BusClient("away") as away:
            got = away.poll(10)
            while len(got) < 2:
                got += away.poll(10)
            assert [m["body"] for m in got] == ["kept", "kept too"]
            assert (got[0]["id"], got[0]["hops"], got[0]["traceparent"]) == ("k", 1, "00-ab")


def test_a_receipt_of_a_bus_that_dies(world):
    import os
    import signal
    pid = world.start_daemon()
    with BusClient("worker", acknowledge="explicit"), BusClient("lead") as lead:
        outstanding = lead.submit("worker", 1, "acked")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ClosedError) as caught:
            outstanding.wait(20)
        assert caught.value.code == "fate_unknown"


@pytest.mark.parametrize("wrong", [{"acknowledge": "x"}, {"conflict": "x"}, {"groups": "x"}, {"meta": [1]}])
def test_wrong_options_are_refused_at_once(server, wrong):
    with pytest.raises((ValueError, TypeError)):
        BusClient("x", **wrong).connect()


def test_a_message_that_this_program_cannot_read_does_not_stop_others(server):
    """A body nested deeper than the stack of the receiver allows."""
    import sys
    deep = 1
    for _ in range(900):
        deep = [deep]
    results = []

    def shallow():
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(400)
        try:
            results.extend(m["body"] for m in client.poll())
        finally:
            sys.setrecursionlimit(before)
    with BusClient("svc") as client:
        client.send("svc", deep)
        client.send("svc", "fine")
        wait_until(lambda: len(server.endpoints()) == 1 and client._native.ready().wait(1), "the messages")
        time.sleep(0.2)
        thread = threading.Thread(target=shallow)
        thread.start()
        thread.join()
        assert results[-1] == "fine"
