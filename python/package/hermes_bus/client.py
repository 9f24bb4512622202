"""Clients for programs with threads, or with one: every call here may be made from any thread.

``send_message`` sends one message without a name. ``BusClient`` has a name, gets what is sent to it, and comes back by
itself when its session ends.
"""
import atexit
import logging
import os
import threading
import time
import uuid
import weakref
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from hermes_bus import _json, _native, _programs
from hermes_bus.errors import BusError, ClosedError, ConnectError, ForkedError, InvalidMessageError, NoAnswerError

__all__ = [
    "BusClient",
    "MAX_PAYLOAD_BYTES",
    "Outstanding",
    "Receipt",
    "ensure_bus_running",
    "list_endpoints",
    "send_message",
]

#: What a message may take as JSON, in bytes.
MAX_PAYLOAD_BYTES = 10 * 1024 * 1024

Message = Dict[str, Any]
_log = logging.getLogger("hermes_bus")
_PATIENCE = 5.0
_CLOSE_AT_EXIT = 2.0
#: What a message asks for that asks for nothing.
_NOTHING = (None,) * 5

os.register_at_fork(after_in_child=_native.forked)


class Receipt(NamedTuple):
    """How far a message has come."""

    #: The id of the message.
    id: str
    #: ``accepted``, ``stored``, ``delivered`` or ``acked``.
    status: str
    #: The endpoint that took it, where the bus says so.
    to: Optional[str] = None
    #: For a message to everybody or to a topic: how many endpoints that were,
    endpoints: Optional[int] = None
    #: and how many of them could not be brought to that state.
    failed: Optional[int] = None


def _bus(socket_path: Optional[str], start: bool = True, patience: float = _PATIENCE) -> _native.Bus:
    path = os.fspath(socket_path) if socket_path else None
    return _native.Bus(path, start=start, manager=_programs.installed("hermes-busd"), patience=patience)


def _address(to: Any) -> str:
    """Whom a message is for. Whatever is false means everybody, as it does on the bus."""
    if not to:
        return ""
    if not isinstance(to, str):
        raise InvalidMessageError(f"'to' must be a string, not {type(to).__name__}", "invalid_field")
    try:
        to.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessageError(f"'to' is no text: {error}", "name_invalid") from None
    return to


# ---- without a name ---------------------------------------------------------------------------------------------------


def send_message(to: str, body: Any, socket_path: Optional[str] = None, from_ep: str = "anonymous") -> bool:
    """Sends one message on a connection of its own, and says whether the bus has taken it for that endpoint.

    ``False``: nobody has that name, there is no bus and none could be started, or it did not answer within 5 s. Why is in
    the log (``hermes_bus``). A bus is started only where the default one is meant.
    """
    try:
        _one_shot(to, body, socket_path, {"sender": from_ep}, False).wait()
        return True
    except BusError as error:
        _log.info("a message to %r was not sent: %s", to, str(error))
        return False


def _one_shot(
    to: str, body: Any, socket_path: Optional[str], options: Dict[str, Any], threaded: bool, patience: float = _PATIENCE
) -> _native.Operation:
    message = _native.Outgoing(_address(to), _json.dumps(body), **options)
    return _bus(socket_path, patience=patience).send(message, threaded)


def list_endpoints(socket_path: Optional[str] = None, *, start: bool = True) -> Dict[str, str]:
    """Who is connected: name to session id. Raises ``ConnectError`` if there is no bus, and none could be started or
    ``start`` is false."""
    return _endpoints(socket_path, start)


def _endpoints(socket_path: Optional[str], start: bool = False) -> Dict[str, str]:
    endpoints: Dict[str, str] = _json.loads(_bus(socket_path, start).list(False).wait())["endpoints"]
    return endpoints


def ensure_bus_running() -> None:
    """Starts the default bus where none runs, and returns when it does. Nothing is removed or restarted."""
    try:
        _bus(None).open(False).wait()
    except BusError as error:
        _log.warning("the bus could not be started: %s", str(error))


# ---- with a name ------------------------------------------------------------------------------------------------------


class _Options(NamedTuple):
    """What a client may ask for, besides its name."""

    mailbox: Optional[bool]
    acknowledge: str
    in_flight: Optional[int]
    groups: List[str]
    topics: List[str]
    conflict: str
    token: Optional[str]
    meta: Optional[str]
    hide_repeats: bool


def _options(
    mailbox: Optional[bool],
    acknowledge: str,
    in_flight: Optional[int],
    groups: Sequence[str],
    topics: Sequence[str],
    conflict: str,
    token: Optional[str],
    meta: Optional[Dict[str, Any]],
    hide_repeats: bool,
) -> _Options:
    if acknowledge not in ("never", "explicit", "automatic"):
        raise ValueError(f"acknowledge must be 'never', 'explicit' or 'automatic', not {acknowledge!r}")
    if conflict not in ("replace", "refuse", "suffix"):
        raise ValueError(f"conflict must be 'replace', 'refuse' or 'suffix', not {conflict!r}")
    for names in (groups, topics):
        if isinstance(names, str):
            raise TypeError(f"a list of names is wanted, not the string {names!r}")
    text = None if meta is None else _json.dumps(meta)
    return _Options(
        mailbox, acknowledge, in_flight, list(groups), list(topics), conflict, token, text, hide_repeats
    )


def _begin(bus: _native.Bus, endpoint: str, options: _Options, later: bool) -> _native.Operation:
    return bus.connect(endpoint, later=later, **options._asdict())


def _key(message: Message) -> Optional[Tuple[int, Optional[str]]]:
    """By what the bus knows a message that was handed out."""
    seq, message_id = message.get("seq"), message.get("id")
    if not isinstance(seq, int) or isinstance(seq, bool) or seq < 0:
        return None
    return seq, message_id if isinstance(message_id, str) else None


def _reply_to(message: Message) -> Tuple[str, Optional[str]]:
    """Where an answer to a message goes."""
    sender, message_id = message.get("from"), message.get("id")
    if not isinstance(sender, str) or not sender:
        raise InvalidMessageError("the message does not say who sent it", "no_sender")
    return sender, message_id if isinstance(message_id, str) else None


def _topic(topic: str) -> str:
    return topic if topic.startswith("#") else "#" + topic


class Outstanding:
    """A message that the bus has, and has not given the receipt for yet."""

    def __init__(self, message_id: str, operation: _native.Operation) -> None:
        #: The id of the message.
        self.id = message_id
        self._operation = operation

    def wait(self, timeout: Optional[float] = None) -> Receipt:
        """Waits for the receipt, ``timeout`` seconds at the most; after ``NoAnswerError`` it may be called again.
        Raises ``RefusedError`` if the message will not come as far as was asked for, and ``ClosedError`` if nobody
        knows, because the session has ended."""
        return Receipt(*self._operation.wait(timeout))


class BusClient:
    """A client with a name.

    ::

        with BusClient("my-service") as client:
            client.send("lead-agent", {"text": "hello"})
            for message in client:
                print(message["from"], message["body"])

    Messages are plain dicts. The client comes back by itself when its session ends; one whose name was taken by another
    session stays away (``closed_reason``), until ``connect()`` is called again.

    ``mailbox``: whether what is sent to the name waits on disk while it is away. ``acknowledge``: ``"never"``;
    ``"explicit"``, with ``ack(message)``; or ``"automatic"``, where asking for more messages acknowledges those before.
    ``in_flight``: how many unacknowledged ones the bus hands over. ``groups``, ``topics``: to be joined from the beginning.
    ``conflict``: if the name is taken, ``"replace"`` who has it, ``"refuse"`` to connect, or take a ``"suffix"``.
    ``token``: the secret of a protected name. ``meta``: what listings show about this client. ``hide_repeats``: what was
    acknowledged once is not handed out again.
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
        #: Why the last ``connect()`` returned ``False``.
        self.last_error: Optional[BusError] = None
        self._options = _options(
            mailbox, acknowledge, in_flight, groups, topics, conflict, token, meta, hide_repeats
        )
        self._lock = threading.Lock()
        self._native: Optional[_native.Client] = None
        self._before: List[_native.Client] = []
        self._local_id = uuid.uuid4().hex[:8]
        self._last_session_id: Optional[str] = None
        _live.add(self)

    def __repr__(self) -> str:
        state = "connected" if self.is_connected() else "not connected"
        return f"<BusClient {self.endpoint!r} on {self.socket_path}, {state}>"

    # ---- the session -----------------------------------------------------------------------------------------------

    @property
    def local_id(self) -> str:
        """Eight hexadecimal digits that this object has made up for itself."""
        return self._local_id

    @property
    def bus_session_id(self) -> Optional[str]:
        """UUID of the session; while there is none, that of the last one."""
        native = self._native
        if native is not None and native.is_ours():
            self._last_session_id = native.session_id() or self._last_session_id
        return self._last_session_id

    @property
    def name(self) -> str:
        """The name that the client has got, which is another one than ``endpoint`` with ``conflict="suffix"``."""
        native = self._native
        return native.name() if native is not None and native.is_ours() else self.endpoint

    @property
    def mailbox_depth(self) -> int:
        """How many messages waited in the mailbox when the session began."""
        native = self._native
        welcome = native.welcome() if native is not None else None
        return welcome[2] if welcome is not None else 0

    @property
    def closed_reason(self) -> Optional[Tuple[str, str]]:
        """Why the client does not come back by itself: a code (``replaced``, ``client_closed``, or that of a refusal) and
        words for people. ``None`` as long as it does."""
        native = self._native
        return native.closed() if native is not None else None

    def connect(self) -> bool:
        """Connects and registers, and where there is no bus, starts the default one. ``True`` if there is a session
        then, or was already. ``False``: it goes on trying in the background, unless the bus has refused the name
        (``last_error`` says why)."""
        with self._lock:
            native = self._native
            if native is not None:
                if not native.is_ours():
                    raise ForkedError(_FORKED, "forked")
                if native.closed() is None:
                    return native.is_connected()
                self._put_aside()
            bus = _bus(self.socket_path)
            try:
                self._native = _begin(bus, self.endpoint, self._options, False).wait()
                self.last_error = None
                return True
            except BusError as error:
                self.last_error = error
                _log.info("%r is not connected: %s", self.endpoint, str(error))
                if _is_for_good(error):
                    return False
            self._native = _begin(bus, self.endpoint, self._options, True).wait()
            return self._native.is_connected()

    def disconnect(self) -> None:
        """Ends the session, after what was sent before is in the socket, and the thread that it lived on. What has come
        can still be polled. May be called at any time, and more than once."""
        with self._lock:
            native = self._native
            if native is None or not native.is_ours():
                return
            self._close(native, None)

    def _close(self, native: _native.Client, timeout: Optional[float]) -> None:
        self.bus_session_id
        try:
            native.close().wait(timeout)
        except BusError:
            pass  # it was closed before
        native.end()

    def _put_aside(self) -> None:
        """A new session gets a new native client. What the old one has received comes first."""
        native, self._native = self._native, None
        if native is not None:
            native.end()
            self._before.append(native)

    def is_connected(self) -> bool:
        """Whether there is a session at this moment."""
        native = self._native
        return native is not None and native.is_connected()

    def events(self) -> List[Dict[str, Any]]:
        """What has happened to the session since the last call: dicts with ``event`` (``connected``, ``disconnected``,
        ``retry_failed``, ``refused``, ``dropped``, ``gap``, ``closed``, ``missed``) and what there is to say about it."""
        native = self._native
        return native.events() if native is not None else []

    def __enter__(self) -> "BusClient":
        if not self.connect():
            error = self.last_error or ConnectError(f"{self.endpoint!r} is not connected", "no_bus")
            self.disconnect()
            raise error
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def _there(self) -> _native.Client:
        native = self._native
        if native is None:
            raise ClosedError("the client is not connected: call connect() first", "not_connected")
        return native

    # ---- sending ---------------------------------------------------------------------------------------------------

    def send(
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
    ) -> bool:
        """Sends a message; an empty ``to`` means everybody. ``True``: all of it is in the socket of the session. Whether
        somebody has that name is not said (``submit`` does). ``False``: there is no session, or it cannot be a message;
        why is in the log.

        ``queue``: have the bus keep it for a known name that is away. ``ttl``: for how many seconds it is wanted.
        """
        native = self._native
        if native is None:
            return False
        if not native.is_connected():
            if not native.is_ours():
                raise ForkedError(_FORKED, "forked")
            return False
        try:
            if not queue and (id, reply_to, ttl, hops, traceparent) == _NOTHING:
                sending = native.send(to if type(to) is str else _address(to), self.endpoint, _json.dumps(body))
            else:
                sending = native.send_message(
                    self._message(
                        to, body, id=id, reply_to=reply_to, queue=queue, ttl=ttl, hops=hops, traceparent=traceparent
                    )
                )
            if sending is not None:
                sending.wait()
            return True
        except ForkedError:
            raise
        except (BusError, UnicodeEncodeError) as error:
            _log.warning("a message to %r was not sent: %s", to, str(error))
            return False

    def _message(self, to: str, body: Any, **options: Any) -> _native.Outgoing:
        return _native.Outgoing(_address(to), _json.dumps(body), sender=self.endpoint, **options)

    def submit(
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
        """Sends a message whose receipt can be waited for: that it has come as far as ``accepted``, ``stored`` (on disk),
        ``delivered`` or ``acked``. Returns when it is in the socket, so many can be outstanding at once.

        ``retry_for``: for so many seconds it is sent again when a session ends before the bus has answered; the bus
        recognises the repetition of what asks for ``stored`` or ``acked``, or for ``queue``.
        """
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
        return Outstanding(*self._there().submit(message).wait())

    def request(self, to: str, body: Any, timeout: float = 30.0, *, id: Optional[str] = None) -> Message:
        """Sends a message and waits for its reply: one whose ``reply_to`` is the id of this one. The reply does not come
        out of ``poll``. Raises ``RefusedError`` at once if nobody has that name, ``NoAnswerError`` after ``timeout``."""
        reply: Message = self._there().request(self._message(to, body, id=id), timeout).wait()
        return reply

    def reply(self, message: Message, body: Any) -> bool:
        """Answers a message."""
        to, message_id = _reply_to(message)
        return self.send(to, body, reply_to=message_id)

    def publish(self, topic: str, body: Any) -> bool:
        """Sends to all subscribers of a topic, ``build.done`` for example."""
        return self.send(_topic(topic), body)

    # ---- receiving -------------------------------------------------------------------------------------------------

    def poll(self, timeout: Optional[float] = 0.0, limit: Optional[int] = None) -> List[Message]:
        """What has come since the last call. Does not wait; with a ``timeout`` it waits so many seconds for the first
        message, with ``None`` until one comes or the client is closed."""
        messages = self._take(limit)
        if messages or timeout == 0:
            return messages
        deadline = None if timeout is None else time.monotonic() + max(timeout, 0.0)
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not self._wait(left):
                return []
            messages = self._take(limit)
            if messages:
                return messages

    def _take(self, limit: Optional[int]) -> List[Message]:
        native = self._native
        if self._before:
            return self._take_from_before(limit)
        return native.poll(limit) if native is not None else []

    def _take_from_before(self, limit: Optional[int]) -> List[Message]:
        with self._lock:
            while self._before:
                messages = self._before[0].poll(limit) if self._before[0].is_ours() else []
                if messages:
                    return messages
                self._before.pop(0)
            native = self._native
        return native.poll(limit) if native is not None else []

    def _wait(self, timeout: Optional[float]) -> bool:
        """Waits until something has come. ``False``: it did not, or nothing will come any more."""
        native = self._native
        if native is None:
            if timeout is None:
                raise ClosedError("the client is not connected: call connect() first", "not_connected")
            time.sleep(timeout)
            return False
        try:
            return bool(native.ready().wait(timeout))
        except NoAnswerError:
            return False
        except ClosedError:
            if timeout is not None:
                time.sleep(timeout)  # whoever polls in a loop is not to spin
            return False

    def __iter__(self) -> Iterator[Message]:
        """The messages as they come, however long that takes. Ends when the client is closed."""
        while True:
            messages = self.poll(None, limit=1)
            if not messages:
                return
            yield messages[0]

    def serve(self, handler: Callable[[Message], Any]) -> None:
        """Calls ``handler`` for each message until the client is closed. With ``acknowledge`` other than ``"never"`` a
        message is acknowledged when it returns, and given back to the bus if it raises an ``Exception``."""
        for message in self:
            try:
                handler(message)
            except Exception as error:
                if "seq" not in message:
                    raise
                _log.exception("message %s is given back", message.get("id"))
                self.nack(message, f"{type(error).__name__}: {error}")
            else:
                self.ack(message)

    def ack(self, message: Message) -> bool:
        """Confirms a message: it does not come again, and its sender hears ``acked``. ``False``: there was nothing to
        confirm; if its session is over, the bus delivers it again."""
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

    def subscribe(self, *topics: str) -> List[str]:
        """Subscribes to patterns of topics: ``*`` stands for one part between dots, ``>`` at the end for one or more.
        Returns all that the client is subscribed to now."""
        return self._change("subscribe", topics)[0]

    def unsubscribe(self, *topics: str) -> List[str]:
        """Ends subscriptions. Returns those that are left."""
        return self._change("unsubscribe", topics)[0]

    def join(self, *groups: str) -> List[str]:
        """Becomes a member of groups; a message to ``@GROUP`` goes to one member. Returns all groups of the client."""
        return self._change("join", groups)[1]

    def leave(self, *groups: str) -> List[str]:
        """Leaves groups. Returns those that are left."""
        return self._change("leave", groups)[1]

    def _change(self, what: str, names: Tuple[str, ...]) -> Tuple[List[str], List[str]]:
        topics, groups = self._there().change(what, list(names)).wait()
        return topics, groups

    def trace(self, id: str) -> Dict[str, Any]:
        """Where the message with this id is, and what has happened to it: ``states`` and ``standings``."""
        trace: Dict[str, Any] = _json.loads(self._there().trace(id).wait())
        return trace


_FORKED = "this client belongs to the process that made it: make a new one after a fork"
#: Refusals that another attempt will meet as well.
_FOR_GOOD = frozenset(
    ["name_invalid", "forbidden", "invalid_field", "unauthorized", "name_taken", "needs_level_2", "over_limit"]
)


def _is_for_good(error: BusError) -> bool:
    return error.code in _FOR_GOOD


_live: "weakref.WeakSet[BusClient]" = weakref.WeakSet()


def _at_exit() -> None:
    # Acknowledgements leave with the next write of the session's thread.
    for client in list(_live):
        native = client._native
        if native is not None and native.is_ours():
            client._close(native, _CLOSE_AT_EXIT)


atexit.register(_at_exit)

