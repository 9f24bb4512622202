"""The power-loss layer itself (tests/powerloss): that it sees what programs do to their files, and that a power loss takes
what was not synced, and nothing else. The programs are small ones in Python, and SQLite."""
import os
import random
import signal
import sqlite3
import subprocess
import sys

import pytest

import disk
from disk import EVERYTHING, LOSSES, NOTHING, PREFIX, SUBSET, Layer, Unseen

PROLOGUE = """
import errno, mmap, os, sqlite3, sys
def say(*words):
    print(*words, flush=True)
def put(path, data, sync=True, flags=os.O_CREAT | os.O_WRONLY):
    fd = os.open(path, flags, 0o600)
    try:
        os.write(fd, data)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
def sync_directory(path="."):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return disk.build(tmp_path_factory.mktemp("powerloss"))


class Place:
    """A watched directory, and programs that run in it."""

    def __init__(self, library, directory):
        self.root = directory / "disk"
        self.root.mkdir()
        self.layer = Layer(library, self.root, directory / "work")
        self.programs = []

    def start(self, program):
        """A program of which the output can be read line by line."""
        child = subprocess.Popen([sys.executable, "-c", PROLOGUE + program], cwd=self.root, env={**os.environ, **self.layer.environment()},
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.programs.append(child)
        return child

    def run(self, program):
        child = self.start(program)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        return out.split()

    def lose(self, loss=NOTHING, seed=1):
        return self.layer.lose_power(random.Random(seed), loss)

    def read(self, name):
        path = self.root / name
        return path.read_bytes() if path.exists() else None

    def end(self):
        for child in self.programs:
            child.kill()
            child.wait()
            child.stdout.close()
            child.stderr.close()


@pytest.fixture
def place(library, tmp_path):
    p = Place(library, tmp_path)
    yield p
    p.end()


def test_what_was_synced_survives_and_the_rest_does_not(place):
    place.run("""
put("synced", b"one")
put("unsynced", b"two", sync=False)
sync_directory()
put("synced", b"ONE and more", sync=False)
""")
    assert place.read("synced") == b"ONE and more"
    place.lose()
    assert (place.read("synced"), place.read("unsynced")) == (b"one", b"")


def test_a_name_is_durable_when_its_directory_was_synced(place):
    place.run("""
os.mkdir("d")
put("d/new", b"x")
sync_directory("d")
put("here", b"y")
sync_directory()
put("late", b"z")
""")
    place.lose()
    assert place.read("here") == b"y" and place.read("late") is None
    assert place.read("d/new") == b"x"
    place.run('os.mkdir("e"); put("e/new", b"x"); sync_directory("e")')
    place.lose()
    assert not (place.root / "e").exists(), "the directory above was not synced"


def test_a_file_that_is_replaced_is_the_old_or_the_new_one(place):
    replace = """
put("new", b"second, longer" , sync=%s)
os.rename("new", "file")
"""
    place.run('put("file", b"first"); sync_directory()')
    place.run(replace % True)
    place.lose()
    assert place.read("file") == b"first", "the directory was not synced"
    place.run(replace % True + "sync_directory()")
    place.lose()
    assert place.read("file") == b"second, longer" and place.read("new") is None
    place.run(replace % False + "sync_directory()")
    place.lose()
    assert place.read("file") == b"", "the name was synced, the data was not"


def test_all_kinds_of_writes_are_seen(place):
    place.run("""
fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o600)
os.write(fd, b"0123456789")
os.pwrite(fd, b"ab", 4)
os.writev(fd, [b"x", b"yz"])
os.pwritev(fd, [b"P", b"Q"], 20)
os.ftruncate(fd, 21)
again = os.open("f", os.O_WRONLY | os.O_APPEND)
os.write(again, b"end")
os.posix_fallocate(fd, 0, 30)
os.truncate("f", 28)
os.link("f", "g")
os.fdatasync(fd)
os.unlink("f")
os.open("gone", os.O_CREAT | os.O_WRONLY)
os.unlink("gone")
put("short", b"123456")
os.open("short", os.O_WRONLY | os.O_TRUNC)
import shutil
shutil.copyfile("g", "copy")
sync_directory()
""")
    data = b"0123ab6789xyz" + bytes(7) + b"Pend" + bytes(4)
    assert (place.read("g"), place.read("f"), place.read("copy")) == (data, None, data)
    place.lose(EVERYTHING)
    assert (place.read("g"), place.read("f"), place.read("short"), place.read("copy")) == (data, None, b"", data)


def test_a_change_that_fails_is_none(place):
    place.run("""
put("a", b"x")
for attempt in (lambda: os.rename("nothing", "b"), lambda: os.unlink("nothing"), lambda: os.mkdir("a"), lambda: os.rmdir("a")):
    try:
        attempt()
    except OSError:
        continue
    raise SystemExit("it worked")
""")
    place.lose(EVERYTHING)
    assert sorted(os.listdir(place.root)) == ["a"]


@pytest.mark.parametrize("change", [
    'm = mmap.mmap(os.open("f", os.O_RDWR), 8192); m[0:3] = b"abc"; m.flush()',
    'import ctypes; fd = os.open("f", os.O_RDWR); ctypes.CDLL(None).syscall(1, fd, b"raw", 3)',
    'import ctypes; ctypes.CDLL(None).syscall(87, b"f")',
])
def test_changes_that_it_cannot_see_are_not_passed_over(place, change):
    place.run('put("f", b"0" * 8192); sync_directory()')
    place.run(change)
    with pytest.raises(Unseen):
        place.lose()


def test_what_a_failed_sync_was_about_never_becomes_durable(place):
    """As on Linux: the pages are clean afterwards, and the next sync, which succeeds, has nothing to write."""
    place.run('put("f", b"old"); sync_directory()')
    place.layer.set("eio", 1)
    said = place.run("""
fd = os.open("f", os.O_WRONLY)
os.write(fd, b"lost")
try:
    os.fsync(fd)
except OSError as problem:
    say(errno.errorcode[problem.errno])
os.pwrite(fd, b"kept", 4)
os.fsync(fd)
say("synced")
""")
    assert said == ["EIO", "synced"]
    place.lose()
    assert place.read("f") == b"old\0kept"


def test_a_write_during_a_sync_waits_for_the_next(place):
    place.run('put("f", b"first"); sync_directory()')
    place.layer.set("slow_ms", 300)
    place.run("""
import threading
fd = os.open("f", os.O_WRONLY)
os.pwrite(fd, b"FIRST", 0)
begun = os.path.getsize(os.environ["POWERLOSS_JOURNAL"])
syncing = threading.Thread(target=os.fsync, args=[fd])
syncing.start()
while os.path.getsize(os.environ["POWERLOSS_JOURNAL"]) == begun:
    pass
os.pwrite(fd, b"second", 5)
assert syncing.is_alive()
syncing.join()
""")
    place.lose()
    assert place.read("f") == b"FIRST"


def test_a_full_disk_takes_what_needs_no_room(place):
    place.run('put("f", b"0123"); sync_directory()')
    place.layer.set("enospc")
    said = place.run("""
fd = os.open("f", os.O_RDWR)
os.pwrite(fd, b"ab", 0)
for attempt in (lambda: os.pwrite(fd, b"xyz", 3), lambda: os.open("new", os.O_CREAT | os.O_WRONLY), lambda: os.ftruncate(fd, 9), lambda: os.mkdir("d")):
    try:
        attempt()
        say("took")
    except OSError as problem:
        say(errno.errorcode[problem.errno])
os.fsync(fd)
""")
    assert said == ["ENOSPC"] * 4
    place.layer.clear("enospc")
    place.run('put("new", b"z"); sync_directory()')
    place.lose()
    assert (place.read("f"), place.read("new")) == (b"ab23", b"z")


def test_a_read_only_disk_can_be_read(place):
    place.run('put("f", b"0123"); sync_directory()')
    place.layer.set("erofs")
    said = place.run("""
say(os.read(os.open("f", os.O_RDONLY), 9).decode())
for attempt in (lambda: os.open("f", os.O_RDWR), lambda: os.unlink("f"), lambda: os.rename("f", "g"), lambda: os.open("n", os.O_CREAT | os.O_WRONLY)):
    try:
        attempt()
        say("took")
    except OSError as problem:
        say(errno.errorcode[problem.errno])
""")
    assert said == ["0123"] + ["EROFS"] * 4
    place.lose(EVERYTHING)
    assert place.read("f") == b"0123"


WRITER = """
db = sqlite3.connect("db", isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = %s")
db.execute("PRAGMA wal_autocheckpoint = %d")
db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, filling TEXT)")
sync_directory()
(begin,) = db.execute("SELECT coalesce(max(n), 0) FROM t").fetchone()
say(begin)
for n in range(begin + 1, begin + 100000):
    db.execute("INSERT INTO t VALUES (?, ?)", (n, "x" * (n %% 3000)))
    say(n)
"""


def write_and_lose(place, seed, loss, synchronous, checkpoint_pages=20):
    """Rows are added until the process is killed at some moment; returns how many were reported and how many are left."""
    chance = random.Random(seed)
    child = place.start(WRITER % (synchronous, checkpoint_pages))
    for _ in range(chance.randint(2, 60)):
        last = child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    # What it still said had been committed, too.
    rest = child.stdout.read().splitlines(keepends=True)
    child.wait()
    reported = int(([last] + [line for line in rest if line.endswith("\n")])[-1])
    place.layer.lose_power(chance, loss)
    db = sqlite3.connect(place.root / "db")
    rows = db.execute("SELECT count(*), coalesce(max(n), 0) FROM t").fetchone()
    sound = db.execute("PRAGMA integrity_check").fetchone()[0]
    db.close()
    place.layer.begin()
    return reported, rows, sound


@pytest.mark.parametrize("loss", LOSSES)
def test_a_database_that_syncs_loses_nothing(place, loss):
    for seed in range(8):
        reported, (count, last), sound = write_and_lose(place, seed, loss, "FULL")
        assert sound == "ok" and count == last, "seed %d" % seed
        assert last >= reported, "seed %d: %d rows were reported, %d are left" % (seed, reported, last)


def test_a_database_that_does_not_sync_loses(place):
    """That it shows something at all: commits without a sync are gone, and with one on a disk that lies, too."""
    reported, (_, last), _ = write_and_lose(place, 1, NOTHING, "FULL")
    assert last >= reported
    reported, (_, last), sound = write_and_lose(place, 2, NOTHING, "NORMAL", checkpoint_pages=0)
    assert sound == "ok" and last < reported, "no checkpoint has synced in between"
    place.layer.set("lie")
    reported, (_, last), _ = write_and_lose(place, 3, NOTHING, "FULL")
    assert last < reported


def test_torn_writes_are_made(place):
    """Sectors of one unsynced write come through and others do not; in order, or anyhow."""
    place.run('put("f", b"o" * 20480); sync_directory()')
    seen = {PREFIX: set(), SUBSET: set()}
    for seed in range(30):
        for loss in seen:
            place.run("""
fd = os.open("f", os.O_WRONLY)
for i in range(5):
    os.pwrite(fd, b"abcde"[i:i+1] * 4096, i * 4096)
""")
            place.lose(loss, seed)
            content = place.read("f")
            whole = "".join("-" if set(page) == {ord("o")} else "+" if ord("o") not in page else "~" for page in (content[i * 4096:][:4096] for i in range(5)))
            seen[loss].add(whole)
            (place.root / "f").write_bytes(b"o" * 20480)
            place.layer.begin()
    assert all("~" not in w.rstrip("-")[:-1] and "-" not in w.rstrip("-") for w in seen[PREFIX]), seen
    assert any("~" in w for w in seen[PREFIX]) and any("~" in w for w in seen[SUBSET])
    assert any("-" in w.rstrip("-") for w in seen[SUBSET])
