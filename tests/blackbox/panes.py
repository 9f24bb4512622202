"""A private tmux server, and programs in its panes."""
import json
import pathlib
import shlex
import shutil
import sys

from world import BIN, wait_until

PROGRAM = pathlib.Path(__file__).with_name("pane_program.py")
TMUX = shutil.which("tmux")


class Tmux:
    """The tmux server of one world. Nothing of it is left when the test is over."""

    def __init__(self, world):
        self.world = world
        world.environment["TMUX_TMPDIR"] = str(world.directory)

    def __call__(self, *arguments):
        done = self.world.run([TMUX, "-u", "-f", "/dev/null", *arguments])
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    def session(self, name, command, size=(100, 30)):
        """A session with a program that is not yet known to be ready."""
        self("new-session", "-d", "-s", name, "-x", size[0], "-y", size[1], command)
        return Session(self, name)

    def cat(self, name="lead", **more):
        """`cat` into a file: a program that knows nothing of terminals."""
        session = self.session(name, "exec cat > %s" % shlex.quote(name + ".txt"), **more)
        return session.records(self.world.directory / (name + ".txt"))

    def program(self, kind, name="lead", **more):
        """One of pane_program.py's kinds, ready."""
        record = self.world.directory / (name + ".txt")
        session = self.session(name, "exec %s %s %s %s" % (shlex.quote(sys.executable), shlex.quote(str(PROGRAM)), kind, shlex.quote(str(record))), **more)
        return session.records(record)

    def shell(self, command, name="lead", **more):
        """A shell that has shown its prompt."""
        session = self.session(name, "PS1='ready$ ' exec " + command, **more)
        wait_until(lambda: "ready$" in session.screen(), "the prompt of " + command)
        return session

    def left_over(self):
        """Buffers and lock files that somebody forgot."""
        buffers = self.world.run([TMUX, "-f", "/dev/null", "list-buffers"]).stdout.splitlines()
        return buffers + [str(path) for path in self.world.directory.glob("**/*.lock")]

    def end(self):
        self.world.run([TMUX, "-f", "/dev/null", "kill-server"])


class Session:
    def __init__(self, tmux, name):
        self.tmux, self.name = tmux, name
        self.target = "=%s:" % name
        self.pane = tmux("display-message", "-p", "-t", self.target, "#{pane_id}").strip()

    def records(self, path):
        self._record = path
        wait_until(path.exists, "the program in session '%s' to be ready" % self.name)
        return self

    def screen(self):
        return self.tmux("capture-pane", "-p", "-t", self.pane)

    def got(self):
        """What the program got: bytes."""
        return self._record.read_bytes()

    def got_soon(self, expected):
        """Waits for these bytes, and fails with what came instead."""
        last = []
        try:
            wait_until(lambda: last.append(self.got()) or last[-1] == expected, "%d bytes" % len(expected), 5)
        except AssertionError:
            assert shortened(last[-1]) == shortened(expected)
            raise

    def submissions(self, count):
        """What a box was given: at least this many."""
        read = lambda: [json.loads(line) for line in self.got().splitlines()]
        wait_until(lambda: len(read()) >= count, "%d submissions" % count)
        return read()

    def format(self, text):
        return self.tmux("display-message", "-p", "-t", self.pane, text).strip()


def shortened(data):
    return data if len(data) < 4000 else (len(data), data[:500], data[-500:])


def notify(world, *words, **more):
    return world.run([BIN / "notify-agent", *words], **more)
