"""Frames on a Unix socket as a client sees them.

Nothing in here knows how the bus is built. Every wait has a deadline; what did not happen in time is an
exception that says what was awaited. Reading is buffered per connection, so frames are never lost between calls.
"""
import contextlib
import json
import socket
import struct
import time

FRAME_BYTES_MAX = 10 * 1024 * 1024
NESTING_MAX = 950
INTEGER_DIGITS_MAX = 4300
PATIENCE_S = 10.0


class Closed(Exception):
    """The bus ended the connection: by an orderly end, or by a reset."""


class Silence(Exception):
    """Nothing (or not enough) came before the deadline."""


def encode(payload):
    """A frame around an object, or around bytes that are sent exactly as they are."""
    data = payload if isinstance(payload, (bytes, bytearray)) else json.dumps(payload, ensure_ascii=False).encode("utf-8")
    return struct.pack(">I", len(data)) + data


def message(to, body, **keys):
    """A message frame as an object; `sender=` stands for the key `from`."""
    if "sender" in keys:
        keys["from"] = keys.pop("sender")
    return dict({"type": "message", "to": to, "body": body}, **keys)


def filled_message(to, id_text, total_bytes):
    """A complete message of exactly `total_bytes` of JSON that needs nothing added: its beginning with header and keys,
    how many letters of bulk must follow, and its end."""
    empty = json.dumps({"type": "message", "to": to, "id": id_text, "ts": 1.5, "from": "filler", "body": ""}).encode()
    before, after = empty[:-2], empty[-2:]
    return struct.pack(">I", total_bytes) + before, total_bytes - len(empty), after


class Connection:
    """One raw connection to the bus."""

    def __init__(self, path, patience_s=PATIENCE_S):
        self.patience_s = patience_s
        self.session_id = None
        self.endpoint = None
        self._buffer = bytearray()
        self._ended = None
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A blocking connect waits for room in the queue; with a Python timeout it would fail at once instead.
        limit = struct.pack("ll", int(patience_s) or 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            self.socket.connect(path)
        except BaseException:
            self.socket.close()
            raise
        self.socket.settimeout(patience_s)

    # ---- out ----
    def write(self, data):
        """Bytes as they are, all of them, within the patience."""
        self.socket.sendall(data)

    def send(self, *payloads):
        """Frames, all in one write."""
        self.write(b"".join(encode(p) for p in payloads))

    def message(self, to, body, **keys):
        self.send(message(to, body, **keys))

    # ---- in ----
    def _fill(self, wanted, deadline):
        while len(self._buffer) < wanted:
            if self._ended:
                raise Closed(self._ended)
            left = deadline - time.monotonic()
            if left <= 0:
                raise Silence("%d of %d bytes arrived" % (len(self._buffer), wanted))
            self.socket.settimeout(left)
            try:
                chunk = self.socket.recv(max(65536, min(wanted - len(self._buffer), 1 << 20)))
            except socket.timeout:
                continue
            except (ConnectionResetError, BrokenPipeError):
                self._ended = "reset"
                continue
            finally:
                self.socket.settimeout(self.patience_s)
            if not chunk:
                self._ended = "end"
                continue
            self._buffer += chunk

    def recv_bytes(self, within_s=None):
        """The JSON bytes of the next frame, exactly as they came."""
        deadline = time.monotonic() + (self.patience_s if within_s is None else within_s)
        self._fill(4, deadline)
        (length,) = struct.unpack(">I", bytes(self._buffer[:4]))
        # A frame that has begun may take longer than the wait for its beginning.
        self._fill(4 + length, max(deadline, time.monotonic() + self.patience_s))
        payload = bytes(self._buffer[4:4 + length])
        del self._buffer[:4 + length]
        return payload

    def recv(self, within_s=None):
        return json.loads(self.recv_bytes(within_s).decode("utf-8"))

    def expect(self, kind, within_s=None):
        """The next frame, which must be of this type."""
        frame = self.recv(within_s)
        assert frame.get("type") == kind, "wanted %r, got %.600r" % (kind, frame)
        return frame

    def rest(self, within_s=None):
        """All frames up to the end of the connection, which must come in time."""
        deadline = time.monotonic() + (self.patience_s if within_s is None else within_s)
        frames = []
        while True:
            try:
                frames.append(self.recv(max(0.01, deadline - time.monotonic())))
            except Closed:
                return frames
            except Silence:
                raise AssertionError("the connection stayed open; frames so far: %.600r" % (frames,))

    def only_error(self, within_s=None):
        """The one error frame after which the bus closes this connection."""
        frames = self.rest(within_s)
        assert len(frames) == 1 and frames[0].get("type") == "error", "wanted one error and the end, got %.600r" % (frames,)
        error = frames[0]
        assert set(error) <= {"type", "code", "detail", "id"}, "keys that level 1 does not know: %.600r" % (error,)
        assert isinstance(error.get("detail"), str) and error["detail"], "an error without words: %.600r" % (error,)
        return error

    def nothing(self, for_s):
        """No frame begins to arrive for this long and the connection stays open. For what only silence can prove."""
        try:
            frame = self.recv_bytes(for_s)
        except Silence:
            assert not self._buffer, "a piece of a frame: %r" % bytes(self._buffer[:100])
            return
        raise AssertionError("unexpected frame %r" % frame[:300])

    # ---- both ----
    def register(self, name):
        self.send({"type": "register", "endpoint": name})
        frame = self.expect("registered")
        assert frame["endpoint"] == name
        self.endpoint, self.session_id = name, frame["session_id"]
        return frame

    def fence(self):
        """All that this connection sent has been handled, and the bus had written nothing more to it: its next frame is the pong."""
        self.send({"type": "ping"})
        self.expect("pong")

    def endpoints(self):
        self.send({"type": "list_endpoints"})
        return self.expect("endpoints_list")["endpoints"]

    def hang_up(self):
        with contextlib.suppress(OSError):
            self.socket.close()

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.hang_up()
