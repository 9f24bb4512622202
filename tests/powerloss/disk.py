"""What a disk holds after a power loss: replays the journal that powerloss.c keeps of a program's changes.

Two states of every file and of all names are followed: what programs see, and what is durable. A change of data becomes
durable when a sync of its file ends that began after it; a change of names when its directory is synced. Of what is not
durable, a power loss may leave nothing, all, or any part: `Loss` says which.
"""
import contextlib
import os
import pathlib
import shutil
import stat
import struct
import subprocess
import sys

SOURCE = pathlib.Path(__file__).with_name("powerloss.c")
HEADER = struct.Struct("<IIQqQ")
MAGIC = 0x484C4450
(CREATE, WRITE, FAILED, TRUNCATE, SYNC_BEGIN, SYNC_END, SYNC_FAILED, DIR_SYNC,
 RENAME, UNLINK, LINK, MKDIR, RMDIR, MAPPED) = range(1, 15)
SECTOR_BYTES = 512

# What is left of the changes that were not durable.
NOTHING = "nothing"        # the disk as the last syncs left it
PREFIX = "prefix"          # as many as fit, in order; of the next one some sectors
SUBSET = "subset"          # each one with probability 1/2, some of them torn
EVERYTHING = "everything"  # all: what kill -9 leaves
LOSSES = (NOTHING, PREFIX, SUBSET, EVERYTHING)


def build(directory):
    """Compiles the layer with the system's C compiler; returns the library's path."""
    library = pathlib.Path(directory) / "powerloss.so"
    compiler = os.environ.get("CC") or "cc"
    subprocess.run([*compiler.split(), "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread",
                    str(SOURCE), "-o", str(library)], check=True)
    return library


class Unseen(Exception):
    """The program changed files in a way that the layer does not see: what it says about them is worth nothing."""


class Record:
    __slots__ = ("op", "file", "offset", "data")

    def __init__(self, op, file, offset, data):
        self.op, self.file, self.offset, self.data = op, file, offset, data

    def paths(self):
        return [part.decode("utf-8", "surrogateescape") for part in self.data.split(b"\0")[:-1]]


def read_journal(path):
    """The records, without those that failed. An incomplete last one was never carried out: its process was killed before."""
    records = []
    data = pathlib.Path(path).read_bytes()
    at = 0
    while at + HEADER.size <= len(data):
        magic, op, file, offset, length = HEADER.unpack_from(data, at)
        if magic != MAGIC:
            raise ValueError("no record at byte %d of the journal" % at)
        at += HEADER.size
        if at + length > len(data):
            break
        record = Record(op, file, offset, data[at:at + length])
        at += length
        if op != FAILED:
            records.append(record)
        elif offset < 0:
            records.pop()
        else:
            records[-1].data = records[-1].data[:offset]
    return records


def put(content, offset, data):
    """Writes into a bytearray as into a file."""
    if not data:
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset:offset + len(data)] = data


def resize(content, size):
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def apply(content, change):
    if change.op == WRITE:
        put(content, change.offset, change.data)
    else:
        resize(content, change.offset)


class File:
    """The data of one file, whatever its names."""

    def __init__(self, content=b"", mode=0o600):
        self.mode = mode
        self.seen = bytearray(content)
        self.durable = bytearray(content)
        self.pending = []
        self.changes = 0       # all that there ever were
        self.settled = 0       # the first of them that are no longer pending
        self.syncs = {}

    def change(self, record):
        apply(self.seen, record)
        self.pending.append(record)
        self.changes += 1

    def sync_begins(self, number):
        self.syncs[number] = self.changes

    def sync_ends(self, number, failed):
        """A sync that failed may have marked the pages as clean: what was to become durable never will."""
        until = self.syncs.pop(number)
        count = max(0, until - self.settled)
        if not failed:
            for record in self.pending[:count]:
                apply(self.durable, record)
        del self.pending[:count]
        self.settled += count

    def after_a_loss(self, random, loss):
        content = bytearray(self.durable)
        if loss == EVERYTHING:
            return self.seen
        if loss == PREFIX:
            whole = random.randint(0, len(self.pending))
            for record in self.pending[:whole]:
                apply(content, record)
            for record in self.pending[whole:whole + 1]:
                tear(content, record, random)
        elif loss == SUBSET:
            for record in self.pending:
                fate = random.random()
                if fate < 0.4:
                    apply(content, record)
                elif fate < 0.6:
                    tear(content, record, random)
        return content


def tear(content, record, random):
    """Some sectors of a write; a change of size happens or not."""
    if record.op == TRUNCATE:
        if random.random() < 0.5:
            resize(content, record.offset)
        return
    start, end = record.offset, record.offset + len(record.data)
    at = start
    while at < end:
        until = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if random.random() < 0.5:
            put(content, at, record.data[at - start:until - start])
        at = until


class NameChange:
    """Names that appear, or disappear (None), together: durable when all directories that they are in were synced."""

    def __init__(self, names):
        self.names = names
        self.unsynced = {os.path.dirname(name) for name in names}


DIRECTORY = object()


class Disk:
    """The state of a directory tree: as programs see it, and as it is durable."""

    def __init__(self, names, inodes):
        """`names`: path → File or DIRECTORY, all durable; `inodes`: inode → File."""
        self.seen = dict(names)
        self.durable = dict(names)
        self.inodes = dict(inodes)
        self.pending = []
        self.last = None
        self.syncs = 0

    @classmethod
    def of_tree(cls, root):
        names, inodes = {}, {}
        for path, status in walk(root):
            if stat.S_ISDIR(status.st_mode):
                names[path] = DIRECTORY
            elif stat.S_ISREG(status.st_mode) and not path.endswith("-shm"):
                file = inodes.get(status.st_ino)
                if file is None:
                    file = inodes[status.st_ino] = File((pathlib.Path(root) / path).read_bytes(), stat.S_IMODE(status.st_mode))
                names[path] = file
        return cls(names, inodes)

    def replay(self, records):
        for record in records:
            self.step(record)
        return self

    def step(self, record):
        self.last = record
        op = record.op
        if op in (WRITE, TRUNCATE):
            self.file(record).change(record)
        elif op == SYNC_BEGIN:
            self.file(record).sync_begins(record.offset)
        elif op in (SYNC_END, SYNC_FAILED):
            self.syncs += op == SYNC_END
            self.file(record).sync_ends(record.offset, op == SYNC_FAILED)
        elif op == CREATE:
            self.inodes[record.file] = file = File(mode=record.offset)
            self.rename({record.paths()[0]: file})
        elif op == MKDIR:
            self.rename({record.paths()[0]: DIRECTORY})
        elif op in (UNLINK, RMDIR):
            self.rename({record.paths()[0]: None})
        elif op == RENAME:
            self.move(*record.paths())
        elif op == LINK:
            old, new = record.paths()
            self.rename({new: self.seen.get(old)})
        elif op == DIR_SYNC:
            self.directory_synced(record.paths()[0])
        elif op == MAPPED:
            raise Unseen("%s is written through a shared mapping" % record.paths()[0])
        else:
            raise ValueError("record of kind %d" % op)

    def file(self, record):
        try:
            return self.inodes[record.file]
        except KeyError:
            raise Unseen("inode %d is changed, and nobody saw where it came from" % record.file) from None

    def move(self, old, new):
        names = {old: None, new: self.seen.get(old)}
        if self.seen.get(old) is DIRECTORY:
            for name, what in self.seen.items():
                if name.startswith(old + "/"):
                    names[name] = None
                    names[new + name[len(old):]] = what
        change = self.rename(names)
        change.unsynced = {os.path.dirname(old), os.path.dirname(new)}

    def rename(self, names):
        change = NameChange(names)
        set_names(self.seen, names)
        self.pending.append(change)
        return change

    def directory_synced(self, directory):
        directory = "" if directory == "." else directory
        left = []
        for change in self.pending:
            change.unsynced.discard(directory)
            if change.unsynced:
                left.append(change)
            else:
                set_names(self.durable, change.names)
        self.pending = left

    def after_a_loss(self, random, loss):
        """path → content, or DIRECTORY. Names that changed without a sync survive in order, as far as they do."""
        names = dict(self.durable)
        count = {NOTHING: 0, EVERYTHING: len(self.pending)}.get(loss)
        for change in self.pending[:random.randint(0, len(self.pending)) if count is None else count]:
            set_names(names, change.names)
        tree = {}
        for name, what in sorted(names.items()):
            if all(names.get(str(parent)) is DIRECTORY for parent in list(pathlib.PurePath(name).parents)[:-1]):
                tree[name] = what if what is DIRECTORY else (what.after_a_loss(random, loss), what.mode)
        return tree

    def differences(self, root):
        """Where the files below `root` are not what the records say, in words. The last record's own change may be incomplete."""
        last = self.last
        found = []
        live = {path: status for path, status in walk(root) if not path.endswith("-shm")}
        regular = {path for path, status in live.items() if stat.S_ISREG(status.st_mode)}
        seen = {path for path, what in self.seen.items() if what is not DIRECTORY}
        excused = set(last.paths()) if last and last.op in (UNLINK, RENAME, LINK) else set()
        for path in sorted((regular ^ seen) - excused):
            just_created = path in regular and live[path].st_size == 0
            if not just_created:
                found.append("%s %s" % (path, "is there" if path in regular else "is not there"))
        for path in sorted(regular & seen - excused):
            content = bytearray((pathlib.Path(root) / path).read_bytes())
            file = self.seen[path]
            wanted = bytearray(file.seen)
            if last is not None and self.inodes.get(last.file) is file and last.op in (WRITE, TRUNCATE):
                excuse(content, wanted, last, file)
            if content != wanted:
                at = next((i for i, (a, b) in enumerate(zip(content, wanted)) if a != b), min(len(content), len(wanted)))
                found.append("%s (%d bytes, should be %d) differs from byte %d on" % (path, len(content), len(wanted), at))
        return found


def excuse(content, wanted, last, file):
    """Makes equal what a last change, complete or not, may have made of a file."""
    before = bytearray(file.durable)
    for record in file.pending[:-1]:
        apply(before, record)
    end = last.offset + len(last.data) if last.op == WRITE else 0
    for each in (content, wanted):
        if last.op == WRITE and len(before) >= end:
            each[last.offset:end] = bytes(len(last.data))
        else:
            del each[min(last.offset, len(before)):]


def set_names(names, changes):
    for name, what in changes.items():
        if what is None:
            names.pop(name, None)
        else:
            names[name] = what


def walk(root):
    """Every path below a directory, relative to it, with its status; what goes away meanwhile is left out."""
    for directory, folders, files in os.walk(root):
        for name in sorted(folders) + sorted(files):
            whole = os.path.join(directory, name)
            with contextlib.suppress(FileNotFoundError):
                yield os.path.relpath(whole, root), os.lstat(whole)


class Layer:
    """The layer under the programs of one test: what they are to be started with, what their disk does, and its losses."""

    def __init__(self, library, root, work):
        """`root`: the tree that is watched; `work`: a directory for journal and flags, not below it."""
        self.root = pathlib.Path(os.path.realpath(root))
        self.library = library
        self.journal = pathlib.Path(work) / "journal"
        self.control = pathlib.Path(work) / "control"
        self.control.mkdir(parents=True, exist_ok=True)
        self.begin()

    def environment(self):
        return {"LD_PRELOAD": str(self.library), "POWERLOSS_DIR": str(self.root), "POWERLOSS_JOURNAL": str(self.journal),
                "POWERLOSS_CONTROL": str(self.control)}

    def begin(self):
        """Everything that is there now is durable. No program may run."""
        self.before = Disk.of_tree(self.root)
        self.journal.write_bytes(b"")

    def set(self, flag, text=""):
        """Switches a flag on; what it says is complete when it appears."""
        fresh = self.control / (flag + ".new")
        fresh.write_text(str(text))
        fresh.rename(self.control / flag)

    def clear(self, flag):
        (self.control / flag).unlink(missing_ok=True)

    def replayed(self):
        """The state now, with `differences` checked: every program that wrote must have ended. It can be asked once a `begin`."""
        disk = self.before.replay(read_journal(self.journal))
        found = disk.differences(self.root)
        if found:
            raise Unseen("; ".join(found))
        return disk

    def lose_power(self, random, loss):
        """Replaces the tree by what a power loss may leave of it. Returns the bytes written that had not been synced."""
        disk = self.replayed()
        tree = disk.after_a_loss(random, loss)
        for path in self.root.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for name, what in tree.items():
            path = self.root / name
            if what is DIRECTORY:
                path.mkdir(mode=0o700)
            else:
                content, mode = what
                path.write_bytes(content)
                path.chmod(mode)
        # What is mapped is not followed; whoever maps must be able to live with anything.
        for name in list(tree):
            if name.endswith("-wal") and random.random() < 0.5:
                (self.root / (name[:-4] + "-shm")).write_bytes(random.randbytes(32768) if hasattr(random, "randbytes") else os.urandom(32768))
        unsynced = sum(len(record.data) for file in disk.inodes.values() for record in file.pending)
        self.begin()
        return unsynced


if __name__ == "__main__":
    for record in read_journal(sys.argv[1]):
        print(record.op, record.file, record.offset, len(record.data), *(record.paths() if record.op not in (WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, SYNC_FAILED) else []))
