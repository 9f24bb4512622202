"""Not run: mypy and pyright read it, as a program of a user that is typed throughout."""
import asyncio
from typing import Any, Dict, List, Optional, Tuple

from hermes_bus import (
    BusClient,
    BusError,
    BusServer,
    Outstanding,
    Receipt,
    RefusedError,
    aio,
    ensure_bus_running,
    list_endpoints,
    run_server,
    send_message,
)


def threads() -> None:
    sent: bool = send_message("a", {"text": "x"}, socket_path="/x", from_ep="me")
    ensure_bus_running()
    everybody: Dict[str, str] = list_endpoints(start=False)
    with BusClient("a", mailbox=True, acknowledge="explicit", groups=["g"], topics=["t.>"], meta={"a": 1}) as client:
        local_id: str = client.local_id
        session_id: Optional[str] = client.bus_session_id
        why: Optional[Tuple[str, str]] = client.closed_reason
        messages: List[Dict[str, Any]] = client.poll(1.5, limit=3)
        for message in client:
            done: bool = client.ack(message)
            client.reply(message, done)
        outstanding: Outstanding = client.submit("b", 1, "stored", ttl=1.5, retry_for=2)
        receipt: Receipt = outstanding.wait(1)
        reply: Dict[str, Any] = client.request("b", [1], timeout=2)
        topics: List[str] = client.subscribe("a", "b")
        try:
            client.serve(print)
        except RefusedError as error:
            code: str = error.code
            print(code, error.suggestions, isinstance(error, BusError))
    print(sent, everybody, local_id, session_id, why, messages, receipt.status, reply, topics)


def serve() -> None:
    server = BusServer("/x", hook_scripts=["a.py"])
    server.start()
    names: Dict[str, str] = server.endpoint_map
    server.stop()
    run_server()
    print(names)


async def loop() -> None:
    receipt: Receipt = await aio.send_message("a", 1, receipt="stored")
    async with aio.BusClient("a") as client:
        await client.send("b", {"a": 1})
        message: Optional[Dict[str, Any]] = await asyncio.wait_for(client.next(), 1)
        async for further in client:
            await client.reply(further, 1)
        outstanding: aio.Outstanding = await client.submit("b", 1)
        receipt = await outstanding
    print(receipt, message)
