"""A bus in the foreground: the program ``hermes-bus-server`` as a child of this process."""
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Dict, List, Optional

from hermes_bus import _native, _programs
from hermes_bus.client import MAX_PAYLOAD_BYTES, _endpoints, list_endpoints
from hermes_bus.errors import BusError

__all__ = ["BusServer", "MAX_PAYLOAD_BYTES", "main", "run_server"]

#: Seconds. A session that is silent for longer than the timeout is closed.
HEARTBEAT_INTERVAL = 60
HEARTBEAT_TIMEOUT = 90
HEARTBEAT_CHECK_EVERY = 15

#: How long a server may take to end, in seconds; it writes what is queued for 2 s at most.
_END = 10.0


class BusServer:
    """A bus on a socket. ``start()`` blocks until it ends; ``stop()`` ends it, from any thread.

    ``hook_scripts``: programs that are run for every message; ``None``: those that the environment or ``hooks.yaml``
    name; ``[]``: none.
    """

    def __init__(self, socket_path: Optional[str] = None, hook_scripts: Optional[List[str]] = None) -> None:
        self.socket_path: str = socket_path or _native.default_socket()
        self.server_socket = None
        self.running = False
        self.lock = threading.Lock()
        self._hook_scripts = hook_scripts
        self._process: Optional["subprocess.Popen[bytes]"] = None
        self._link: Optional[str] = None
        self._stopping = False

    @property
    def hook_scripts(self) -> List[str]:
        """The hooks, as far as they were given here."""
        return list(self._hook_scripts or [])

    @property
    def sessions(self) -> Dict[str, Dict[str, Any]]:
        """Who is connected at this moment: session id to ``endpoint``, ``socket`` (always ``None``: it is in another
        process) and ``last_ping`` (the time of this call: a session that is silent for too long is not listed)."""
        now = time.time()
        return {sid: {"endpoint": name, "socket": None, "last_ping": now} for name, sid in self.endpoint_map.items()}

    @property
    def endpoint_map(self) -> Dict[str, str]:
        """Who is connected at this moment: name to session id."""
        try:
            return list_endpoints(self.socket_path, start=False)
        except BusError:
            return {}

    def _arguments(self) -> List[str]:
        """Where the server is to live. Its socket has a fixed name in its root directory; for a path of another name,
        a link leads there."""
        directory, name = os.path.split(os.path.abspath(self.socket_path))
        if name == "hermes-bus.sock":
            return ["--root", directory]
        root = tempfile.mkdtemp(prefix="hermes-bus-")
        if os.path.lexists(self.socket_path):
            if _answers(self.socket_path):
                os.rmdir(root)
                raise BusError(f"another bus listens on {self.socket_path}", "address_in_use")
            os.unlink(self.socket_path)
        os.symlink(os.path.join(root, "hermes-bus.sock"), self.socket_path)
        self._link = root
        return ["--root", root]

    def start(self) -> None:
        """Serves until ``stop()`` is called, or Ctrl-C is pressed. Raises if the server cannot begin, or fails."""
        with self.lock:
            if self._process is not None:
                raise BusError("this server runs already", "busy")
            environment = dict(os.environ)
            if self._hook_scripts is not None:
                hooks = json.dumps([os.fspath(hook) for hook in self._hook_scripts])
                environment["HERMES_BUS_HOOKS"] = hooks if self._hook_scripts else "none"
            command = [_programs.demand("hermes-bus-server"), *self._arguments()]
            self._stopping = False
            self._process = process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
            self.running = True
        ended = _programs.forward_sigterm(process)
        try:
            code = process.wait()
            if code != 0 and not self._stopping:
                raise BusError(f"hermes-bus-server ended with status {code}; it has said why", "server_failed")
        finally:
            self._end()
            ended()

    def stop(self) -> None:
        """Ends the server, and returns when it has ended."""
        self._stopping = True
        self._end()

    def _end(self) -> None:
        process, self.running = self._process, False
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        with self.lock:
            self._process = None
            link, self._link = self._link, None
        if link is not None:
            import shutil

            if os.path.islink(self.socket_path) and os.path.dirname(os.readlink(self.socket_path)) == link:
                os.unlink(self.socket_path)
            shutil.rmtree(link, ignore_errors=True)


def _answers(path: str) -> bool:
    try:
        _endpoints(path)
        return True
    except BusError:
        return False


def run_server() -> None:
    """Serves the default bus until Ctrl-C."""
    server = BusServer()
    try:
        server.start()
    except KeyboardInterrupt:
        print("\n[HermesBus] shutting down...")
    except BusError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        server.stop()


def main() -> None:
    """The program ``hermes-bus-server``."""
    code = _programs.run("hermes-bus-server")
    if code != 0:
        sys.exit(code)


if __name__ == "__main__":
    _programs.become("hermes-bus-server")
