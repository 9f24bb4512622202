"""Programs for panes of tmux: `pane_program.py KIND RECORD`. Each writes what it gets to RECORD, which exists as soon as the program is ready.

raw     raw mode, bracketed paste; every byte is recorded. Shows nothing.
echo    the same, but shows what it gets.
box     a full-screen program: its input line is a box in which text is wrapped; Enter submits. A submission is a line of JSON in RECORD.
deaf    box, but the first Enter is lost.
late    box, but a menu appears as soon as text has come.
menu    box with an approval menu from the start; every byte is recorded.
slow    box, but it takes its time over a paste, and takes all that has come meanwhile for a part of it.
tardy   box, but it shows a paste only after three seconds.
complete  box, but Enter after a word with an @ takes a completion, and after a backslash makes a line break.
keep    box, but Enter never submits; the cursor is in the input line, and a clock runs.
colour  a full-screen menu whose selection is a colour, and that says nothing of keys; every byte is recorded.
collapse  box, but shows a placeholder instead of a pasted text.
"""
import json
import os
import select
import sys
import textwrap
import time
import tty

START, END = b"\x1b[200~", b"\x1b[201~"
MENU = " Do you want to proceed?\r\n ❯ 1. Yes\r\n   2. Yes, and don't ask again\r\n   3. No, and tell me what to do differently (esc)\r\n"


def show(text):
    data = text.encode()
    while data:
        data = data[os.write(1, data):]


def draw_box(text, below=""):
    lines = [piece for line in text.replace("\r", "\n").split("\n") for piece in (textwrap.wrap(line, 30, drop_whitespace=False, break_on_hyphens=False) or [""])][-8:]
    lines[0] = "> " + lines[0]
    body = "".join("│ %s │\r\n" % line.ljust(34) for line in lines)
    show("\x1b[2J\x1b[H● ready\r\n\r\n╭%s╮\r\n%s╰%s╯\r\n%s\x1b[H" % ("─" * 36, body, "─" * 36, below))


class Box:
    """A full-screen program with one input line."""

    def __init__(self, kind, record):
        self.kind, self.record = kind, record
        self.pending, self.text, self.pasting, self.enters = b"", b"", False, 0
        show("\x1b[?1049h\x1b[?25l")
        self.draw()

    def draw(self):
        if self.kind == "colour":
            show("\x1b[2J\x1b[H  △ It wants to write a file\r\n\r\n   \x1b[7mGo ahead\x1b[0m   Every time   Not now\r\n")
            return
        text = self.text.decode(errors="ignore")
        if self.kind == "collapse" and len(text) > 100:
            text = "[Pasted text #1 +%d lines]" % text.count("\r")
        draw_box(text, MENU if self.kind == "menu" or self.kind == "late" and self.text else "")
        if self.kind == "keep":
            show("clock %d\x1b[4;3H" % self.enters)

    def feed(self, data):
        if self.kind in ("menu", "colour"):
            os.write(self.record, data)
            return
        self.pending += data
        while self.pending:
            if START.startswith(self.pending[:6]) and len(self.pending) < 6 or END.startswith(self.pending[:6]) and len(self.pending) < 6:
                break
            if self.pending.startswith(START):
                self.pasting, self.pending = True, self.pending[6:]
            elif self.pending.startswith(END):
                self.pasting, self.pending = False, self.pending[6:]
                if self.kind == "tardy":
                    time.sleep(3)
                if self.kind == "slow":
                    time.sleep(0.6)
                    while select.select([0], [], [], 0)[0]:
                        self.text += os.read(0, 65536)
            else:
                byte, self.pending = self.pending[:1], self.pending[1:]
                if byte == b"\r" and not self.pasting:
                    self.enter()
                else:
                    self.text += byte
        if not self.pasting:
            self.draw()

    def enter(self):
        self.enters += 1
        if self.kind == "deaf" and self.enters == 1:
            return
        if self.kind == "keep":
            return
        if self.kind == "complete" and self.text.endswith(b"\\"):
            self.text = self.text[:-1] + b"\r"
            return
        if self.kind == "complete" and b"@" in self.text[self.text.rfind(b" ") + 1:]:
            self.text += b".completed "
            return
        os.write(self.record, (json.dumps({"text": self.text.decode().replace("\r", "\n"), "enters": self.enters}) + "\n").encode())
        self.text = b""


def main(kind, path):
    tty.setraw(0)
    show("\x1b[?2004h")
    record = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    box = Box(kind, record) if kind not in ("raw", "echo") else None
    os.rename(path + ".new", path)
    while True:
        data = os.read(0, 65536)
        if not data:
            return
        if box:
            box.feed(data)
            continue
        os.write(record, data)
        if kind == "echo":
            show(data.decode(errors="ignore").replace("\x1b[200~", "").replace("\x1b[201~", "").replace("\r", "\r\n"))


main(*sys.argv[1:])
