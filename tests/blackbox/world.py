"""A private world for one test: directories, environment, the programs under test, and an end to all of them.

HERMES_BIN         directory of the programs under test     (default: target/release of this repository)
HERMES_PYTHON_050  python with the original 0.5.0 installed (default: .venv/original-0.5.0/bin/python)
HERMES_PYTHON_070  python with the original 0.7.0 installed (default: .venv/original-0.7.0/bin/python)
"""
import contextlib
import json
import os
import pathlib
import resource
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import procfs
from wire import PATIENCE_S, Closed, Connection, Silence

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("HERMES_BIN") or REPOSITORY / "target" / "release").absolute()
ORIGINALS = {
    "0.5.0": os.environ.get("HERMES_PYTHON_050") or str(REPOSITORY / ".venv/original-0.5.0/bin/python"),
    "0.7.0": os.environ.get("HERMES_PYTHON_070") or str(REPOSITORY / ".venv/original-0.7.0/bin/python"),
}
MARK = "HERMES_BLACKBOX_WORLD"
ALARM_WORDS = ("not running", "stale", "no socket", "not respond")


def alarms_in(text):
    """The words at which released plugins restart the bus."""
    return [word for word in ALARM_WORDS if word in text.lower()]


def wait_until(predicate, what, within_s=PATIENCE_S):
    """Waits for a state of the outside world; only for what no connection announces."""
    deadline = time.monotonic() + within_s
    while True:
        value = predicate()
        if value:
            return value
        assert time.monotonic() < deadline, "waited %.0f s for: %s" % (within_s, what)
        time.sleep(0.02)


def answers(path, within_s=2.0):
    """True when a bus at this path answers a ping."""
    try:
        with Connection(path, patience_s=within_s) as c:
            c.fence()
            return True
    except (OSError, Closed, Silence):
        return False


def as_user(uid, do):
    """Calls a function as another user, in a child; returns the text that it returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            try:
                result = do()
            except BaseException as problem:
                result = "%s: %s" % (type(problem).__name__, problem)
            os.write(writing, result.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        result = pipe.read().decode()
    os.waitpid(child, 0)
    return result


def _base_directory():
    # Socket paths are short, and another user must be able to walk to them.
    return "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else tempfile.gettempdir()


class World:
    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="hb-", dir=_base_directory()))
        self.root = self.directory / ".hermes"
        self.root.mkdir(mode=0o700)
        self.temporary = self.directory / "t"
        self.temporary.mkdir()
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("HERMES_", "_HERMES", "TMUX"))}
        self.environment.update({
            "HOME": str(self.directory), "HERMES_HOME": str(self.root), "HERMES_BUS_ROOT": str(self.root),
            "TMPDIR": str(self.temporary), "PATH": "%s:%s" % (BIN, os.environ["PATH"]),
            "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1", MARK: str(self.directory),
        })
        self._children = []
        self._connections = []

    # ---- places ----
    @property
    def socket_path(self):
        return str(self.root / "hermes-bus.sock")

    @property
    def pid_file(self):
        return self.root / "run" / "busd.pid"

    @property
    def log_file(self):
        return self.root / "run" / "busd.log"

    def pid_in_file(self):
        return int(self.pid_file.read_text().strip())

    # ---- programs ----
    def _environment(self, changes):
        env = dict(self.environment)
        for key, value in (changes or {}).items():
            if value is None:
                env.pop(key, None)
            else:
                env[key] = str(value)
        return env

    def spawn(self, argv, env=None, output=None, open_files=None, stop_group=True, stdin=subprocess.DEVNULL, **more):
        """Starts a program whose output goes to a file of this world (default: its name + .out)."""
        def limit():
            if open_files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
        name = output or (os.path.basename(str(argv[0])) + ".out")
        with open(self.directory / name, "ab") as sink:
            child = subprocess.Popen([str(a) for a in argv], env=self._environment(env), cwd=self.directory, stdin=stdin, stdout=sink,
                                     stderr=subprocess.STDOUT, start_new_session=stop_group, preexec_fn=limit if open_files else None, **more)
        self._children.append(child)
        return child

    def run(self, argv, env=None, within_s=30, **more):
        """Runs a program to its end and returns it with stdout and stderr as text."""
        return subprocess.run([str(a) for a in argv], env=self._environment(env), cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, universal_newlines=True, timeout=within_s, **more)

    def busd(self, *arguments, **more):
        return self.run([BIN / "hermes-busd", *arguments], **more)

    def start_daemon(self, **more):
        """`hermes-busd start`, which must succeed; returns the daemon's pid."""
        done = self.busd("start", **more)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return self.pid_in_file()

    def serve(self, env=None, open_files=None, **more):
        return Server(self, env, open_files, **more)

    def connect(self, name=None, path=None, **more):
        """A raw connection to this world's bus, registered when a name is given. It stays open until it is hung up or the world ends."""
        connection = Connection(path or self.socket_path, **more)
        self._connections.append(connection)
        if name is not None:
            connection.register(name)
        return connection

    def endpoints(self):
        with self.connect() as c:
            return c.endpoints()

    def puppet(self, version, env=None):
        return Puppet(self, version, env)

    def processes(self):
        """Pids of all that this world started and that still runs, whoever its parent is now."""
        return procfs.processes_with_environment(("%s=%s" % (MARK, self.directory)).encode() + b"\0")

    def socket_identity(self):
        status = os.stat(self.socket_path)
        return status.st_dev, status.st_ino

    # ---- the end ----
    def output(self, name):
        path = self.directory / name
        return path.read_text(errors="replace") if path.exists() else ""

    def crashes(self):
        """Lines of any output or log of this world that speak of a crash of ours."""
        texts = [p for p in list(self.directory.glob("*.out")) + list(self.directory.glob("**/busd.log")) if p.is_file()]
        return [line for p in texts for line in p.read_text(errors="replace").splitlines() if "panicked at" in line]

    def end(self):
        for connection in self._connections:
            connection.hang_up()
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.wait(10)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


class Server:
    """The foreground server of a world."""

    def __init__(self, world, env=None, open_files=None, program=None, **more):
        self.world = world
        self.process = world.spawn([program or BIN / "hermes-bus-server"], env=env, open_files=open_files, output="hermes-bus-server.out", **more)
        wait_until(lambda: self.process.poll() is not None or answers(world.socket_path), "the server to answer on " + world.socket_path, 15)
        assert self.process.poll() is None, "the server ended at its start: " + world.output("hermes-bus-server.out")[-1000:]

    @property
    def pid(self):
        return self.process.pid

    def connect(self, name=None, **more):
        return self.world.connect(name, **more)

    def endpoints(self):
        return self.world.endpoints()

    def is_alive(self):
        return self.process.poll() is None

    def stop(self, how=signal.SIGTERM, within_s=PATIENCE_S):
        """Signals the server and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(within_s)


class Puppet:
    """The unmodified original client in a process of its own, led by one line of JSON at a time."""

    def __init__(self, world, version, env=None):
        python = ORIGINALS[version]
        assert os.path.exists(python), "%s is missing: ./test makes it (or set HERMES_PYTHON_%s)" % (python, version.replace(".", ""))
        script = pathlib.Path(__file__).with_name("puppet.py")
        self._process = subprocess.Popen([python, str(script)], env=world._environment(env), cwd=world.directory, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, start_new_session=True)
        world._children.append(self._process)
        self._buffer = b""

    def ask(self, do, within_s=30, **arguments):
        self.tell(do, **arguments)
        return self.answer(within_s)

    def tell(self, do, **arguments):
        self._process.stdin.write((json.dumps(dict(arguments, do=do)) + "\n").encode())
        self._process.stdin.flush()

    def answer(self, within_s=30):
        deadline = time.monotonic() + within_s
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            assert left > 0, "the old client did not answer within %.0f s" % within_s
            if select.select([pipe], [], [], left)[0]:
                chunk = os.read(pipe, 65536)
                assert chunk, "the old client ended"
                self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        reply = json.loads(line)
        assert "failed" not in reply, reply["failed"]
        return reply["result"]

    def bodies(self, count, within_s=PATIENCE_S):
        """Polls until this many messages have come; returns their bodies in order."""
        got = []

        def enough():
            got.extend(m["body"] for m in self.ask("poll") if m.get("type") == "message")
            return len(got) >= count
        wait_until(enough, "%d messages at the old client" % count, within_s)
        return got


def listen_at(path):
    """A live socket of somebody else at this path."""
    other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    other.bind(str(path))
    other.listen(16)
    return other


def leave_dead_socket(path):
    """A socket file that nobody listens on any more."""
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(path))
    dead.close()
