"""asyncio: the same, and every wait can be cancelled."""
import asyncio

import sys

import pytest

from hermes_bus import ClosedError, ConnectError, InvalidMessageError, NoAnswerError, RefusedError, aio


def run(main):
    """A test that hangs is a failure."""
    return asyncio.run(asyncio.wait_for(main(), 60))


async def take(client, count):
    return [(await asyncio.wait_for(client.next(), 10))["body"] for _ in range(count)]


def test_a_life_of_a_client(server):
    async def main():
        client = aio.BusClient("svc")
        assert not client.is_connected() and client.poll() == [] and client.bus_session_id is None
        with pytest.raises(ClosedError):
            await client.send("svc", 1)
        await client.connect()
        await client.connect()
        assert client.is_connected() and client.name == "svc" and len(client.local_id) == 8
        assert await aio.list_endpoints() == {"svc": client.bus_session_id}
        await client.send("svc", {"n": 2**80, "x": "\ud800"})
        assert await take(client, 1) == [{"n": 2**80, "x": "\ud800"}]
        with pytest.raises(InvalidMessageError):
            await client.send("svc", object())
        await client.close()
        await client.close()
        assert client.closed_reason[0] == "client_closed" and await client.next() is None
        await client.connect()
        assert client.is_connected()
        await client.disconnect()
    run(main)


def test_asking_and_answering(server):
    async def main():
        async with aio.BusClient("oracle") as oracle, aio.BusClient("curious") as curious:
            async def answer():
                async for question in oracle:
                    await oracle.reply(question, question["body"] + 1)
            answering = asyncio.create_task(answer())
            replies = await asyncio.gather(*(curious.request("oracle", n) for n in range(100)))
            assert [reply["body"] for reply in replies] == list(range(1, 101))
            answering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await answering
            with pytest.raises(RefusedError) as refused:
                await curious.request("orcale", 1)
            assert refused.value.code == "endpoint_not_found"
            with pytest.raises(NoAnswerError):
                await curious.request("curious", 1, 0.1)
    run(main)


def test_a_cancelled_wait_loses_nothing(server):
    """Waits that end at any moment, while messages come: all of them arrive, in order."""
    async def main():
        async with aio.BusClient("svc") as client, aio.BusClient("sender") as sender:
            async def send():
                for n in range(300):
                    await sender.send("svc", n)
                    await asyncio.sleep(0.001)
            sending, got, cancelled = asyncio.create_task(send()), [], 0
            while len(got) < 300:
                try:
                    got.append((await asyncio.wait_for(client.next(), 0.0007))["body"])
                except asyncio.TimeoutError:
                    cancelled += 1
            await sending
            assert got == list(range(300)) and cancelled > 10
    run(main)


def test_a_cancelled_request_leaves_nothing_behind(server):
    async def main():
        async with aio.BusClient("svc") as client:
            request = asyncio.create_task(client.request("svc", "question", 600, id="q"))
            assert await take(client, 1) == ["question"]
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await client.send("svc", "late", reply_to="q")
            assert await take(client, 1) == ["late"], "nobody waits for that reply any more"
    run(main)


def test_a_cancelled_send_is_not_sent_later(world):
    """The bus is away: who gives up has not sent, who waits has."""
    async def main():
        world.start_daemon()
        async with aio.BusClient("svc") as client:
            world.busd("stop")
            while client.is_connected():
                await asyncio.sleep(0.01)
            given_up = asyncio.create_task(client.send("svc", "given up"))
            waiting = asyncio.create_task(client.send("svc", "waited"))
            await asyncio.sleep(0.1)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            world.start_daemon()
            await waiting
            await client.send("svc", "last")
            assert await take(client, 2) == ["waited", "last"]
    run(main)


def test_a_cancelled_connect(world):
    """On a bus that never answers."""
    import socket

    async def main():
        silent = socket.socket(socket.AF_UNIX)
        path = str(world.directory / "silent.sock")
        silent.bind(path)
        silent.listen()
        client = aio.BusClient("x", path)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.connect(), 0.2)
        assert not client.is_connected()
        silent.close()
        with pytest.raises(ConnectError):
            await client.connect()
    run(main)


def test_receipts_mailboxes_groups_topics(server):
    async def main():
        async with aio.BusClient("w", mailbox=True, acknowledge="explicit", groups=["g"]) as w, aio.BusClient("lead") as lead:
            stored = await lead.submit("w", 1, "stored")
            acked = await lead.submit("w", 2, "acked")
            assert (await stored).status in ("stored", "delivered", "acked")
            for _ in range(2):
                assert w.ack(await w.next())
            assert (await acked).status == "acked"
            with pytest.raises(RefusedError):
                await (await lead.submit("nobody", 1))
            assert await w.subscribe("t.>") == ["t.>"] and await w.join("h") == ["g", "h"]
            await lead.publish("t.x", 3)
            await lead.send("@h", 4)
            got = [await w.next() for _ in range(2)]
            assert [m["via"] for m in got] == ["#t.x", "@h"]
            assert w.nack(got[0]) and w.reject(got[1], "no")
            again = await w.next()
            assert again["body"] == 3 and again["delivery"] == 2
            assert (await lead.trace((await lead.submit("lead", 1, id="t1")).id))["states"]
            assert await w.unsubscribe("t.>") == [] and await w.leave("g", "h") == []
            handled = []

            async def handler(message):
                handled.append(message["body"])
                await w.close()
            await lead.send("w", "serve me")
            await w.serve(handler)
            assert handled in ([3], ["serve me"])
    run(main)


def test_one_shot_calls(server):
    async def main():
        async with aio.BusClient("svc") as client:
            receipt = await aio.send_message("svc", 1, from_ep="me")
            assert receipt.status in ("accepted", "delivered") and (await client.next())["from"] == "me"
            with pytest.raises(RefusedError) as refused:
                await aio.send_message("nobody", 1)
            assert refused.value.code == "endpoint_not_found"
            await asyncio.gather(*(aio.send_message("svc", n) for n in range(50)))
            assert sorted(await take(client, 50)) == list(range(50))
            await aio.ensure_bus_running()
    run(main)


def test_others_get_their_turn(server):
    """A task that never has to wait, and one that counts."""
    async def main():
        turns = 0

        async def count():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)
        async with aio.BusClient("svc") as client:
            counting = asyncio.create_task(count())
            for n in range(1_000):
                await client.send("svc", n)
            assert await take(client, 1_000) == list(range(1_000))
            counting.cancel()
        assert turns > 10
    run(main)


def test_the_end_of_a_client_ends_its_waits(server):
    async def main():
        client = aio.BusClient("svc")
        await client.connect()
        waiting = [asyncio.create_task(client.next()) for _ in range(3)]
        asking = asyncio.create_task(client.request("svc", 1, 600))
        await asyncio.sleep(0.05)
        await client.close()
        results = await asyncio.gather(*waiting, asking, return_exceptions=True)
        assert sum(result is None for result in results[:3]) >= 2 and isinstance(results[3], ClosedError)
    run(main)


def test_several_loops_one_after_the_other_and_one_that_is_left_in_the_middle(world):
    """A loop that ends while something goes on, and an interpreter that does: no crash, no hang."""
    world.serve()
    code = """
import asyncio
from hermes_bus import aio
client = aio.BusClient('svc')
async def first():
    await client.connect()
    asyncio.create_task(client.next())
    await asyncio.sleep(0.05)
asyncio.run(first())
async def second():
    await client.send('svc', 'x')
    return (await asyncio.wait_for(client.next(), 10))['body']
print(asyncio.run(second()))
loop = asyncio.new_event_loop()
task = loop.create_task(client.next())
loop.run_until_complete(asyncio.sleep(0.05))
print('end')
"""
    done = world.run([sys.executable, "-W", "ignore", "-c", code], within_s=30)
    assert done.stdout.split() == ["x", "end"] and done.returncode == 0, done.stderr


def test_a_client_comes_back(world):
    async def main():
        world.start_daemon()
        async with aio.BusClient("loyal") as client:
            first = client.bus_session_id
            loop = asyncio.get_running_loop()
            assert (await loop.run_in_executor(None, world.busd, "restart")).returncode == 0
            while not client.is_connected() or client.bus_session_id == first:
                await asyncio.sleep(0.01)
            await client.send("loyal", "back")
            assert await take(client, 1) == ["back"]
            assert [event["event"] for event in client.events()][-1] == "connected"
    run(main)
