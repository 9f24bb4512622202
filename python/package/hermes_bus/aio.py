"""The same for asyncio. Every call may be cancelled: a message that is not yet in the socket is then not sent, and one
that has come is not lost."""
import asyncio
import logging
import os
import uuid
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, List, Optional, Sequence, Tuple

from hermes_bus import _json, _native
from hermes_bus.client import (
    _NOTHING,
    Message,
    Receipt,
    _address,
    _begin,
    _bus,
    _key,
    _one_shot,
    _options,
    _reply_to,
    _topic,
)
from hermes_bus.errors import ClosedError

__all__ = ["BusClient", "Outstanding", "ensure_bus_running", "list_endpoints", "send_message"]

_log = logging.getLogger("hermes_bus")
#: After so many calls that did not have to wait, others get a turn.
_IN_A_ROW = 64


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


async def _done(operation: _native.Operation) -> Any:
    """Waits for an operation, without a thread."""
    loop = asyncio.get_running_loop()
    future: "asyncio.Future[None]" = loop.create_future()

    def done() -> None:
        try:
            loop.call_soon_threadsafe(_wake, future)
        except RuntimeError:
            pass  # the loop is closed, and nobody waits any more

    operation.start(done)
    try:
        await future
    except asyncio.CancelledError:
        operation.cancel()
        raise
    return operation.result()


async def send_message(
    to: str,
    body: Any,
    socket_path: Optional[str] = None,
    from_ep: str = "anonymous",
    *,
    receipt: Optional[str] = None,
    queue: bool = False,
    ttl: Optional[float] = None,
    timeout: float = 5.0,
) -> Receipt:
    """Sends one message on a connection of its own, and returns what the bus says to it: how far it has come, or
    ``RefusedError``. A bus is started where none runs, if the default one is meant."""
    options = {"sender": from_ep, "receipt": receipt, "queue": queue, "ttl": ttl}
    return Receipt(*await _done(_one_shot(to, body, socket_path, options, True, timeout)))


async def list_endpoints(socket_path: Optional[str] = None, *, start: bool = True) -> Dict[str, str]:
    """Who is connected: name to session id."""
    endpoints: Dict[str, str] = _json.loads(await _done(_bus(socket_path, start).list(True)))["endpoints"]
    return endpoints


async def ensure_bus_running() -> None:
    """Starts the default bus where none runs, and returns when it does. Raises ``ConnectError`` if that fails."""
    await _done(_bus(None).open(True))


class Outstanding:
    """A message that the bus has, and has not given the receipt for yet. Awaiting it gives the ``Receipt``, or raises
    ``RefusedError``; it can be awaited once."""

    def __init__(self, message_id: str, operation: _native.Operation) -> None:
        #: The id of the message.
        self.id = message_id
        self._operation = operation

    def __await__(self) -> Any:
        return self.receipt().__await__()

    async def receipt(self) -> Receipt:
        """The receipt."""
        return Receipt(*await _done(self._operation))


class BusClient:
    """A client with a name.

    ::

        async with BusClient("my-service") as client:
            await client.send("lead-agent", {"text": "hello"})
            async for message in client:
                print(message["from"], message["body"])

    For the arguments see ``hermes_bus.BusClient``. Unlike there, whatever fails raises a ``BusError``.
    """

    def __init__(
        self,
        endpoint: str,
        socket_path: Optional[str] = None,
        *,
        mailbox: Optional[bool] = None,
        acknowledge: str = "never",
        in_flight: Optional[int] = None,
        groups: Sequence[str] = (),
        topics: Sequence[str] = (),
        conflict: str = "replace",
        token: Optional[str] = None,
        meta: Optional[Dict[str, Any]] = None,
        hide_repeats: bool = False,
    ) -> None:
        #: The name; with ``conflict="suffix"`` the one that was asked for.
        self.endpoint = endpoint
        #: The socket of the bus.
        self.socket_path: str = os.fspath(socket_path) if socket_path else _native.default_socket()
        self._options = _options(
            mailbox, acknowledge, in_flight, groups, topics, conflict, token, meta, hide_repeats
        )
        self._native: Optional[_native.Client] = None
        self._local_id = uuid.uuid4().hex[:8]
        self._in_a_row = 0

    def __repr__(self) -> str:
        state = "connected" if self.is_connected() else "not connected"
        return f"<aio.BusClient {self.endpoint!r} on {self.socket_path}, {state}>"

    def _there(self) -> _native.Client:
        native = self._native
        if native is None:
            raise ClosedError("the client is not connected: call connect() first", "not_connected")
        return native

    # ---- the session -----------------------------------------------------------------------------------------------

    @property
    def local_id(self) -> str:
        """Eight hexadecimal digits that this object has made up for itself."""
        return self._local_id

    @property
    def bus_session_id(self) -> Optional[str]:
        """UUID of the session, while there is one."""
        return self._native.session_id() if self._native is not None else None

    @property
    def name(self) -> str:
        """The name that the client has got, which is another one than ``endpoint`` with ``conflict="suffix"``."""
        return self._native.name() if self._native is not None else self.endpoint

    @property
    def mailbox_depth(self) -> int:
        """How many messages waited in the mailbox when the session began."""
        welcome = self._native.welcome() if self._native is not None else None
        return welcome[2] if welcome is not None else 0

    @property
    def closed_reason(self) -> Optional[Tuple[str, str]]:
        """Why the client does not come back by itself: a code and words for people. ``None`` as long as it does."""
        return self._native.closed() if self._native is not None else None

    async def connect(self) -> None:
        """Connects and registers, and where there is no bus, starts the default one. Later the client comes back by
        itself."""
        native = self._native
        if native is not None:
            if native.closed() is None:
                return
            self._native = None
            native.end()
        operation = _begin(_bus(self.socket_path), self.endpoint, self._options, False)
        connected: _native.Client = await _done(operation)
        self._native = connected

    async def close(self) -> None:
        """Ends the session, after what was sent before is in the socket. What has come can still be polled."""
        native = self._native
        if native is None:
            return
        try:
            await _done(native.close())
        except ClosedError:
            pass  # it was closed before
        native.end()

    disconnect = close

    def is_connected(self) -> bool:
        """Whether there is a session at this moment."""
        return self._native is not None and self._native.is_connected()

    def events(self) -> List[Dict[str, Any]]:
        """What has happened to the session since the last call; see ``hermes_bus.BusClient.events``."""
        return self._native.events() if self._native is not None else []

    async def __aenter__(self) -> "BusClient":
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- sending ---------------------------------------------------------------------------------------------------

    async def send(
        self,
        to: str,
        body: Any,
        *,
        id: Optional[str] = None,
        reply_to: Optional[str] = None,
        queue: bool = False,
        ttl: Optional[float] = None,
        hops: Optional[int] = None,
        traceparent: Optional[str] = None,
    ) -> None:
        """Sends a message; an empty ``to`` means everybody. Returns when all of it is in the socket of a session, and
        waits up to 5 s for one."""
        native = self._there()
        if not queue and (id, reply_to, ttl, hops, traceparent) == _NOTHING:
            sending = native.send(_address(to), self.endpoint, _json.dumps(body))
        else:
            message = self._message(
                to, body, id=id, reply_to=reply_to, queue=queue, ttl=ttl, hops=hops, traceparent=traceparent
            )
            sending = native.send_message(message)
        if sending is not None:
            await _done(sending)
        await self._take_turns()

    def _message(self, to: str, body: Any, **options: Any) -> _native.Outgoing:
        return _native.Outgoing(_address(to), _json.dumps(body), sender=self.endpoint, **options)

    async def _take_turns(self) -> None:
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)

    async def submit(
        self,
        to: str,
        body: Any,
        receipt: str = "accepted",
        *,
        id: Optional[str] = None,
        reply_to: Optional[str] = None,
        queue: bool = False,
        ttl: Optional[float] = None,
        hops: Optional[int] = None,
        traceparent: Optional[str] = None,
        retry_for: Optional[float] = None,
    ) -> Outstanding:
        """Sends a message whose receipt can be awaited: ``receipt = await (await client.submit(...))``. See
        ``hermes_bus.BusClient.submit``."""
        message = self._message(
            to,
            body,
            receipt=receipt,
            id=id,
            reply_to=reply_to,
            queue=queue,
            ttl=ttl,
            hops=hops,
            traceparent=traceparent,
            retry_for=retry_for,
        )
        return Outstanding(*await _done(self._there().submit(message)))

    async def request(self, to: str, body: Any, timeout: float = 30.0, *, id: Optional[str] = None) -> Message:
        """Sends a message and waits for its reply."""
        reply: Message = await _done(self._there().request(self._message(to, body, id=id), timeout))
        return reply

    async def reply(self, message: Message, body: Any) -> None:
        """Answers a message."""
        to, message_id = _reply_to(message)
        await self.send(to, body, reply_to=message_id)

    async def publish(self, topic: str, body: Any) -> None:
        """Sends to all subscribers of a topic."""
        await self.send(_topic(topic), body)

    # ---- receiving -------------------------------------------------------------------------------------------------

    def poll(self, limit: Optional[int] = None) -> List[Message]:
        """What has come since the last call. Does not wait."""
        return self._native.poll(limit) if self._native is not None else []

    async def next(self) -> Optional[Message]:
        """The next message; ``None`` when the client is closed. May be cancelled, by ``asyncio.wait_for`` for example."""
        native = self._there()
        while True:
            messages = native.poll(1)
            if messages:
                await self._take_turns()
                return messages[0]
            try:
                if not await _done(native.ready()):
                    return None
            except ClosedError:
                return None

    async def __aiter__(self) -> AsyncIterator[Message]:
        """The messages as they come. Ends when the client is closed."""
        while True:
            message = await self.next()
            if message is None:
                return
            yield message

    async def serve(self, handler: Callable[[Message], Awaitable[Any]]) -> None:
        """Calls ``handler`` for each message until the client is closed, one after the other. With ``acknowledge`` other
        than ``"never"`` a message is acknowledged when it returns, and given back if it raises an ``Exception``."""
        async for message in self:
            try:
                await handler(message)
            except Exception as error:
                if "seq" not in message:
                    raise
                _log.exception("message %s is given back", message.get("id"))
                self.nack(message, f"{type(error).__name__}: {error}")
            else:
                self.ack(message)

    def ack(self, message: Message) -> bool:
        """Confirms a message; see ``hermes_bus.BusClient.ack``."""
        key = _key(message)
        return key is not None and self._there().ack(*key)

    def nack(self, message: Message, reason: str = "") -> bool:
        """Gives a message back: it comes again after a pause."""
        key = _key(message)
        return key is not None and self._there().nack(*key, reason, True)

    def reject(self, message: Message, reason: str = "") -> bool:
        """Refuses a message for good: it becomes a dead letter."""
        key = _key(message)
        return key is not None and self._there().nack(*key, reason, False)

    # ---- groups, topics, and where a message is --------------------------------------------------------------------

    async def subscribe(self, *topics: str) -> List[str]:
        """Subscribes to patterns of topics. Returns all that the client is subscribed to now."""
        return (await self._change("subscribe", topics))[0]

    async def unsubscribe(self, *topics: str) -> List[str]:
        """Ends subscriptions. Returns those that are left."""
        return (await self._change("unsubscribe", topics))[0]

    async def join(self, *groups: str) -> List[str]:
        """Becomes a member of groups. Returns all groups of the client."""
        return (await self._change("join", groups))[1]

    async def leave(self, *groups: str) -> List[str]:
        """Leaves groups. Returns those that are left."""
        return (await self._change("leave", groups))[1]

    async def _change(self, what: str, names: Tuple[str, ...]) -> Tuple[List[str], List[str]]:
        topics, groups = await _done(self._there().change(what, list(names)))
        return topics, groups

    async def trace(self, id: str) -> Dict[str, Any]:
        """Where the message with this id is, and what has happened to it."""
        trace: Dict[str, Any] = _json.loads(await _done(self._there().trace(id)))
        return trace
