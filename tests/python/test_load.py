"""Many messages, none lost; and what is left over afterwards: nothing.

HERMES_PYTHON_SECONDS  how long the test of memory lasts (default 60)
"""
import asyncio
import gc
import os
import threading
import time

import pytest

from conftest import descriptors, threads
from hermes_bus import BusClient, ClosedError, RefusedError, aio, send_message
from world import wait_until

EACH = 500_000


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_million_messages_through_threads(server, in_thread):
    """Two threads send, each to a client that another thread reads: every message once, in order."""
    counted = {}

    def read(name):
        expected = 0
        with readers[name] as reader:
            ready.wait(30)
            while expected < EACH:
                for message in reader.poll(30):
                    assert message["body"]["n"] == expected
                    expected += 1
        counted[name] = expected

    def write(name):
        ready.wait(30)
        for n in range(EACH):
            assert writer.send(name, {"n": n})
    ready = threading.Barrier(4)
    readers = {name: BusClient(name) for name in ("one", "two")}
    with BusClient("writer") as writer:
        for name in readers:
            in_thread(read, name)
        wait_until(lambda: {"one", "two"} <= set(server.endpoints()), "the readers")
        for name in readers:
            in_thread(write, name)
        wait_until(lambda: len(counted) == 2, "all messages", 300)
    assert counted == {"one": EACH, "two": EACH}


@pytest.mark.slow
def test_a_million_messages_through_asyncio(server):
    async def read(reader):
        expected = 0
        async for message in reader:
            assert message["body"]["n"] == expected
            expected += 1
            if expected == EACH:
                return expected

    async def write(writer, name):
        for n in range(EACH):
            await writer.send(name, {"n": n})

    async def main():
        async with aio.BusClient("one") as one, aio.BusClient("two") as two, aio.BusClient("writer") as writer:
            work = [read(one), read(two), write(writer, "one"), write(writer, "two")]
            return await asyncio.wait_for(asyncio.gather(*work), 300)
    assert asyncio.run(main())[:2] == [EACH, EACH]


def test_two_hundred_connects_leave_nothing_behind(server):
    def some():
        for n in range(20):
            client = BusClient("svc")
            assert client.connect() and client.send("svc", n) and client.poll(10)
            client.disconnect()
            assert send_message("nobody", 1) is False

    async def others():
        for n in range(20):
            async with aio.BusClient("svc") as client:
                await client.send("svc", n)
                assert await client.next()
            await aio.list_endpoints()
    some()
    asyncio.run(others())
    gc.collect()
    before = threads(), descriptors()
    for _ in range(5):
        some()
        asyncio.run(others())
    gc.collect()
    # The thread of a one-shot call of asyncio ends by itself, a moment later.
    wait_until(lambda: len(threads()) <= len(before[0]), "the threads to end")
    assert len(descriptors()) == len(before[1]), (before[1], descriptors())
    assert threading.active_count() == 1


def test_a_disconnect_ends_the_thread_at_once(server):
    before = threads()
    client = BusClient("svc")
    client.connect()
    assert len(threads()) > len(before)
    outstanding = client.submit("svc", 1)
    impossible = client.submit("svc", 1, "acked")
    assert outstanding.wait(10) and client.trace("nothing")
    client.disconnect()
    assert len(threads()) == len(before), "whatever is still held"
    with pytest.raises(RefusedError):
        impossible.wait(10)  # the bus said so before the end
    with pytest.raises(ClosedError):
        client.request("svc", 1)


@pytest.mark.slow
def test_memory_does_not_grow(server, caplog):
    """Everything that a program does all the time, all the time."""
    seconds = float(os.environ.get("HERMES_PYTHON_SECONDS") or 60)

    def turn():
        with BusClient("worker", acknowledge="explicit") as worker, BusClient("lead") as lead:
            for n in range(300):
                lead.send("worker", {"text": "x" * n, "list": [n] * 10, "\u00e9": None})
                outstanding = lead.submit("worker", n, "acked")
                got = 0
                while got < 2:
                    for message in worker.poll(10):
                        worker.ack(message)
                        got += 1
                assert outstanding.wait(10)
            lead.send("worker", {"large": "y" * 2_000_000})
            assert worker.ack(worker.poll(10)[0])
            lead.send("worker", object())
            send_message("nobody", 1)

    def until(end):
        while time.monotonic() < end:
            turn()
        gc.collect()
        return resident_bytes()
    caplog.set_level("CRITICAL", "hermes_bus")
    began = time.monotonic()
    first = until(began + seconds / 4)
    last = until(began + seconds)
    assert last < first + 8 * 1024 * 1024, "grown from %d to %d KiB" % (first / 1024, last / 1024)


def test_a_reader_that_does_not_read_holds_little(server):
    """What does not fit into the queue of a client waits at the bus, and comes when there is room."""
    with BusClient("slow") as slow, BusClient("sender") as sender:
        before = resident_bytes()
        for n in range(400):
            assert sender.send("slow", {"n": n, "pad": "x" * 100_000})
        assert resident_bytes() < before + 40 * 1024 * 1024
        got = []
        while len(got) < 400:
            got += [message["body"]["n"] for message in slow.poll(10)]
        assert got == list(range(400))
