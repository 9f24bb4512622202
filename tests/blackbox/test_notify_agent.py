"""notify-agent into real panes: what is typed, what is refused, what is said."""
import fcntl
import os
import shutil
import stat
import subprocess

import pytest

from panes import TMUX, Tmux, notify
from world import BIN, wait_until

pytestmark = pytest.mark.skipif(TMUX is None, reason="needs tmux")

MENU_REASON = "a menu waits for a choice there"
TEXTS = {
    "plain": "Task queue is empty",
    "quotes": "say \"hi\" to 'them' for $5 `now` $HOME \\n \\",
    "semicolon-at-end": "make test;",
    "semicolon-alone": ";",
    "escaped-semicolon": "x \\;",
    "dash": "-x looks like a flag",
    "double-dash": "-- --to nobody",
    "key-name": "Enter",
    "interrupt-name": "C-c",
    "formats": "#{pane_id} #S %1 %H:%M {text} #(touch pwned)",
    "tabs": "a\tb\t\tc",
    "wide": "测试 ünï e\u0301 ｆｕｌｌ",
    "emoji": "📬 👩\u200d💻 🇪🇺 done",
    "symbols-only": "📬",
    "lines": "first\n\n  third\tline\nlast",
    "line-at-end": "one\n",
    "long-line": "0123456789" * 400,
    "question": "Do you want to proceed?",
    "yes-no": "shall I overwrite the file? [y/N]",
    "spaces": "  two  spaces  ",
}


@pytest.fixture
def tmux(world):
    server = Tmux(world)
    try:
        yield server
        left_over = server.left_over()
    finally:
        server.end()
    assert left_over == []


def assert_ok(done, session="lead", warning=""):
    assert (done.returncode, done.stdout) == (0, "OK: notified %s\n" % session), done.stderr
    assert warning in done.stderr if warning else done.stderr == "", done.stderr


def assert_refused(done, *reasons):
    assert (done.returncode, done.stdout) == (1, ""), done.stdout
    assert done.stderr.startswith("ERROR: "), done.stderr
    for reason in reasons:
        assert reason in done.stderr, done.stderr


def pasted(text):
    """What a program in raw mode gets: a terminal's Enter is a carriage return, also in a paste."""
    return b"\x1b[200~" + text.replace("\n", "\r").encode() + b"\x1b[201~\r"


# ---- what arrives -------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_program_on_a_plain_terminal_gets_the_text_exactly(world, tmux, text):
    lead = tmux.cat()
    assert_ok(notify(world, "lead", text))
    lead.got_soon(text.encode() + b"\n")
    assert not (world.directory / "pwned").exists()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("kind", ["echo", "box"])
def test_a_program_that_knows_pastes_gets_one_paste_and_one_enter(world, tmux, kind, text):
    lead = tmux.program(kind)
    assert_ok(notify(world, "lead", text))
    if kind == "echo":
        lead.got_soon(pasted(text))
    else:
        # Enter behind a backslash would make a line break there.
        typed = text + " " if text.endswith("\\") else text
        assert lead.submissions(1) == [{"text": typed, "enters": 1}]


def test_the_same_text_again_is_seen_again(world, tmux):
    """Its first copy is still on the screen and must not be taken for the second."""
    lead = tmux.program("echo")
    for count in (1, 2, 3):
        assert_ok(notify(world, "lead", "build done"))
        lead.got_soon(pasted("build done") * count)


def test_a_hundred_kilobytes_of_lines(world, tmux):
    """More than a pipe or a terminal's buffer holds. Lines of a plain terminal have a limit of 4095 bytes."""
    lead = tmux.cat()
    text = "\n".join("%05d %s" % (n, "é" * 40) for n in range(1200))
    assert 100 * 1024 < len(text.encode()) < 128 * 1024
    assert_ok(notify(world, "lead", text))
    lead.got_soon(text.encode() + b"\n")


@pytest.mark.parametrize("kind", ["echo", "box", "collapse"])
def test_a_hundred_kilobytes_in_one_piece(world, tmux, kind):
    lead = tmux.program(kind)
    text = "".join("%08d" % n for n in range(100 * 128))
    assert len(text) == 100 * 1024
    assert_ok(notify(world, "lead", text))
    if kind == "echo":
        lead.got_soon(pasted(text))
    else:
        assert lead.submissions(1) == [{"text": text, "enters": 1}]


def test_escape_sequences_do_not_get_out_of_the_paste(world, tmux):
    lead = tmux.program("echo")
    assert_ok(notify(world, "lead", "a\x1b[201~\x03rm -rf x\r\x9b201~b\x7f\x08\x00c".replace("\x00", "")))
    lead.got_soon(pasted("a[201~rm -rf x\n201~bc"))


def test_a_text_of_control_characters_only_is_refused(world, tmux):
    lead = tmux.program("echo")
    assert_refused(notify(world, "lead", "\x1b\x03\x08"), "control characters")
    assert lead.got() == b""


def test_a_program_that_shows_nothing_gets_one_enter_and_that_is_said(world, tmux):
    lead = tmux.program("raw")
    assert_ok(notify(world, "lead", "quiet please"), warning="did not show the text")
    lead.got_soon(pasted("quiet please"))


@pytest.mark.parametrize("shell", ["sh", "bash --norc --noprofile -i"])
def test_shells_run_what_they_are_told_once(world, tmux, shell):
    """With and without a line editor, and with a message of two lines."""
    lead = tmux.shell(shell)
    assert_ok(notify(world, "lead", "echo \"it's done;\" >> out.txt\necho second >> out.txt;"))
    out = world.directory / "out.txt"
    wait_until(lambda: out.exists() and out.read_text() == "it's done;\nsecond\n", "both commands to have run")
    assert "ready$" in lead.screen()


def test_a_message_that_ends_its_pane_is_delivered(world, tmux):
    """After Enter there is neither pane nor server left to look at."""
    tmux.shell("sh")
    assert_ok(notify(world, "lead", "exit"))


def test_a_narrow_pane(world, tmux):
    lead = tmux.program("echo", size=(12, 4))
    assert_ok(notify(world, "lead", "a text that needs many more lines than there are in this pane"))
    lead.got_soon(pasted("a text that needs many more lines than there are in this pane"))


def test_nothing_is_interrupted(world, tmux):
    lead = tmux.session("lead", "trap 'echo INT >> int.txt' INT; touch ready; while read -r l; do echo \"$l\" >> out.txt; done")
    wait_until((world.directory / "ready").exists, "the loop to run")
    assert_ok(notify(world, "lead", "build done"))
    wait_until(lambda: (world.directory / "out.txt").exists(), "the line")
    assert (world.directory / "out.txt").read_text() == "build done\n"
    assert not (world.directory / "int.txt").exists() and lead.screen()


def test_many_at_once_take_turns(world, tmux):
    """Texts come whole, each with its own Enter, however many are typed at the same time."""
    lead = tmux.program("box")
    texts = ["message %d: %s" % (n, str(n) * 50) for n in range(10)]
    running = [subprocess.Popen([str(BIN / "notify-agent"), "lead", text], env=world.environment, cwd=world.directory, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True) for text in texts]
    said = [r.communicate(timeout=60)[0] for r in running]
    assert said == ["OK: notified lead\n"] * 10
    got = lead.submissions(10)
    assert sorted(g["text"] for g in got) == texts
    assert [g["enters"] for g in got] == list(range(1, 11))


def test_a_turn_is_waited_for(world, tmux):
    lead = tmux.program("echo")
    path = os.path.join(os.path.dirname(lead.format("#{socket_path}")), "hermes-bus-default-%s.lock" % lead.pane.lstrip("%"))
    with open(path, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = world.spawn([BIN / "notify-agent", "lead", "my turn"])

        def waits():
            assert waiting.poll() is None, world.output("notify-agent.out")
            links = ["/proc/%d/fd/%s" % (waiting.pid, fd) for fd in os.listdir("/proc/%d/fd" % waiting.pid)]
            return any(os.path.lexists(link) and os.path.exists(link) and os.path.samefile(link, path) for link in links)
        wait_until(waits, "it to wait for the lock")
        assert lead.got() == b""
    assert waiting.wait(10) == 0
    assert lead.got() == pasted("my turn")


# ---- Enter ------------------------------------------------------------------------------------------
def test_an_enter_that_is_lost_is_pressed_again_and_the_text_is_not_repeated(world, tmux):
    lead = tmux.program("deaf")
    assert_ok(notify(world, "lead", "wake up"))
    assert lead.submissions(1) == [{"text": "wake up", "enters": 2}]


def test_enter_waits_until_the_text_shows(world, tmux):
    """A program that is slow over a paste would take an early Enter for a part of it."""
    lead = tmux.program("slow")
    assert_ok(notify(world, "lead", "take your time"))
    assert lead.submissions(1) == [{"text": "take your time", "enters": 1}]


def test_a_menu_that_appears_after_the_text_is_not_answered(world, tmux):
    lead = tmux.program("late")
    done = notify(world, "lead", "please go on with the task")
    assert_refused(done, "the text is in pane " + lead.pane, "was not submitted", MENU_REASON, "❯ 1. Yes")
    assert lead.got() == b"" and "please go on" in lead.screen()


def test_a_full_screen_program_that_does_not_show_the_text_gets_no_enter(world, tmux):
    """Its menu shows the selection by colour only: Enter would approve something."""
    lead = tmux.program("colour")
    done = notify(world, "lead", "please go on with the task")
    assert_refused(done, "does not show there", "Enter was not pressed", "pane " + lead.pane)
    assert lead.got() == pasted("please go on with the task")[:-1]


def test_a_program_that_reads_a_line_without_showing_it_gets_one_enter(world, tmux):
    tmux.session("lead", "bash -c 'touch ready; read -rs line; echo \"$line\" > line.txt; read -rs -t 3 more; echo $? > more.txt'")
    wait_until((world.directory / "ready").exists, "the program")
    assert_ok(notify(world, "lead", "nobody sees this"), warning="did not show the text")
    wait_until(lambda: (world.directory / "more.txt").exists(), "the wait for a second line to end")
    assert (world.directory / "line.txt").read_text() == "nobody sees this\n"
    assert int((world.directory / "more.txt").read_text()) > 128, "there was another line"


def test_a_program_that_shows_the_text_late_gets_exactly_one_enter(world, tmux):
    lead = tmux.program("tardy")
    assert_ok(notify(world, "lead", "no hurry"))
    assert lead.submissions(1) == [{"text": "no hurry", "enters": 1}]
    assert_ok(notify(world, "lead", "again, no hurry"))
    assert lead.submissions(2)[1:] == [{"text": "again, no hurry", "enters": 2}]


@pytest.mark.parametrize("text", ["please ask @a", "a line ends \\"])
def test_a_text_whose_end_means_something_to_agents_is_submitted(world, tmux, text):
    """By a space behind it; programs that read lines get it as it is."""
    lead, plain = tmux.program("complete"), tmux.cat("plain")
    assert_ok(notify(world, "lead", text))
    assert lead.submissions(1) == [{"text": text + " ", "enters": 1}]
    assert_ok(notify(world, "plain", text), "plain")
    plain.got_soon(text.encode() + b"\n")


def test_a_text_that_stays_in_the_input_line_is_told(world, tmux):
    lead = tmux.program("keep")
    assert_ok(notify(world, "lead", "are you there"), warning="may not have been submitted: the text still stands in the input line")
    assert lead.got() == b"" and "clock 1" in lead.screen()


def shim(world, when, what):
    """A tmux on PATH that does something just before the call that types."""
    directory = world.directory / "shim"
    directory.mkdir()
    program = directory / "tmux"
    program.write_text("#!/bin/sh\ncase \"$*\" in *%s*) %s;; esac\nexec %s \"$@\"\n" % (when, what, TMUX))
    program.chmod(0o755)
    return {"PATH": "%s:%s" % (directory, world.environment["PATH"])}


@pytest.mark.parametrize("enters_mode", ["copy-mode", "choose-tree", "clock-mode"])
def test_a_pane_that_enters_a_mode_at_the_last_moment_gets_nothing(world, tmux, enters_mode):
    """tmux itself checks again in the step that puts the text in."""
    lead = tmux.program("echo")
    done = notify(world, "lead", "q", env=shim(world, "load-buffer", "%s %s -t %s" % (TMUX, enters_mode, lead.pane)))
    assert_refused(done, "nothing was typed", "-mode")
    assert lead.got() == b"" and lead.format("#{pane_in_mode}") == "1"


def test_a_pane_that_enters_a_mode_before_enter_gets_no_enter(world, tmux):
    lead = tmux.program("echo")
    done = notify(world, "lead", "hello", env=shim(world, "send-keys", "%s copy-mode -t %s" % (TMUX, lead.pane)))
    assert_refused(done, "was not submitted", "copy-mode")
    assert lead.got() == pasted("hello")[:-1]


def test_a_pane_that_closes_at_the_last_moment(world, tmux):
    tmux.cat("other")
    lead = tmux.program("echo")
    assert_refused(notify(world, "lead", "x", env=shim(world, "load-buffer", "%s kill-session -t =lead" % TMUX)), "has been closed")


# ---- what is refused ----------------------------------------------------------------------------------
def test_an_approval_menu_is_left_alone(world, tmux):
    lead = tmux.program("menu")
    assert_refused(notify(world, "lead", "1"), "nothing was typed into pane %s (session 'lead')" % lead.pane, MENU_REASON)
    assert lead.got() == b""


@pytest.mark.parametrize("prompt,reason", [("Overwrite? [y/N] ", "a question waits"), ("Password: ", "a secret is asked for"), ("Do you want to continue? ", "a question waits"),
                                          ("rm: remove regular file a? ", "a question waits"), ("API token: ", "a secret is asked for"), ("Press any key", "a question waits"),
                                          ("<  OK  >    <Cancel>", "a menu waits")])
def test_questions_are_left_alone(world, tmux, prompt, reason):
    lead = tmux.session("lead", "printf '%s'; read -r answer; echo \"$answer\" > answer.txt" % prompt)
    wait_until(lambda: prompt.strip() in lead.screen(), "the prompt")
    assert_refused(notify(world, "lead", "y"), reason, "nothing was typed")
    assert not (world.directory / "answer.txt").exists() and lead.screen().strip() == prompt.strip()


@pytest.mark.parametrize("name,reason", [("less", "would take the text for keys"), ("more", "would take the text for keys"), ("vim", "would take the text for commands")])
def test_pagers_and_editors_are_left_alone(world, tmux, name, reason):
    """Stand-ins by that name."""
    tmux.session("lead", "exec bash -c 'exec -a %s cat > lead.txt'" % name)
    wait_until(lambda: notify(world, "--dry-run", "lead", "x").returncode == 1, "the program by that name")
    assert_refused(notify(world, "lead", "dd"), "'%s'" % name, reason)
    assert (world.directory / "lead.txt").read_bytes() == b""


@pytest.mark.skipif(shutil.which("vim") is None, reason="needs vim")
def test_an_editor_in_its_insert_mode_takes_text(world, tmux):
    lead = tmux.session("lead", "exec vim -u NONE -N -n notes.txt")
    wait_until(lambda: "notes.txt" in lead.screen() and lead.format("#{pane_current_command}") == "vim", "vim")
    assert_refused(notify(world, "lead", "dd"), "'vim' would take the text for commands")
    tmux("send-keys", "-t", lead.pane, "i")
    wait_until(lambda: "-- INSERT --" in lead.screen(), "its insert mode")
    assert_ok(notify(world, "lead", "a line"))
    tmux("send-keys", "-t", lead.pane, "Escape", ":wq", "Enter")
    wait_until(lambda: (world.directory / "notes.txt").exists(), "the file")
    assert (world.directory / "notes.txt").read_text() == "a line\n\n"


@pytest.mark.parametrize("mode", ["copy-mode", "choose-tree", "clock-mode"])
def test_a_mode_of_tmux_takes_no_text(world, tmux, mode):
    """`q` would leave it, and the rest would be commands of the mode."""
    lead = tmux.cat()
    tmux(mode, "-t", lead.pane)
    name = lead.format("#{pane_mode}")
    assert_refused(notify(world, "lead", "qqq"), name, "--interrupt")
    assert lead.got() == b"" and lead.format("#{pane_mode}") == name


def test_a_dead_pane(world, tmux):
    lead = tmux.cat()
    tmux("set-option", "-t", lead.target, "remain-on-exit", "on")
    tmux("send-keys", "-t", lead.pane, "C-d")
    wait_until(lambda: lead.format("#{pane_dead}") == "1", "the program to end")
    for more in ([], ["--interrupt"], ["--dry-run"]):
        assert_refused(notify(world, *more, "lead", "x"), "has ended")


def test_input_that_is_switched_off(world, tmux):
    lead = tmux.cat()
    tmux("select-pane", "-d", "-t", lead.pane)
    assert_refused(notify(world, "lead", "x"), "select-pane -e")
    tmux("select-pane", "-e", "-t", lead.pane)
    assert_ok(notify(world, "lead", "x"))
    lead.got_soon(b"x\n")


def test_synchronized_panes(world, tmux):
    """Enter, and Ctrl-C, would go to the neighbour as well. Without a neighbour there is no harm."""
    lead = tmux.cat()
    tmux("set-option", "-w", "-t", lead.target, "synchronize-panes", "on")
    assert_ok(notify(world, "lead", "alone"))
    lead.got_soon(b"alone\n")
    tmux("split-window", "-d", "-t", lead.pane, "trap 'echo INT >> int.txt' INT; cat > neighbour.txt")
    for more in ([], ["--interrupt"]):
        assert_refused(notify(world, *more, "lead", "x"), "synchronize-panes")
    assert lead.got() == b"alone\n" and not (world.directory / "int.txt").exists()


# ---- targets ------------------------------------------------------------------------------------------
def test_a_session_is_named_by_its_whole_name(world, tmux):
    """tmux by itself takes beginnings and patterns: the text would reach the wrong agent."""
    near, far = tmux.cat("lead-agent"), tmux.cat("zebra")
    for name in ("lead", "lead*", "=lead", "lead-agen?", "ebra"):
        assert_refused(notify(world, name, "x"), "no tmux session is called", "'lead-agent'", "'zebra'")
    said = notify(world, "lead", "x").stderr
    assert said.index("'lead-agent'") < said.index("'zebra'")
    assert near.got() == far.got() == b""


def test_an_odd_name_is_a_name(world, tmux):
    for name in ("-t", "x y", "x;y", "a'b\"c", "*", "{last}", "测试"):
        session = tmux.cat(name)
        assert_ok(notify(world, "--to", name, "hello"), name)
        session.got_soon(b"hello\n")


def test_names_beyond_ascii_in_a_plain_locale(world, tmux):
    session = tmux.cat("测试")
    assert_ok(notify(world, "测试", "到了 📬", env={"LC_ALL": "C", "LANG": None}), "测试")
    session.got_soon("到了 📬\n".encode())


def test_windows_panes_and_ids(world, tmux):
    lead = tmux.cat()
    tmux("new-window", "-d", "-t", lead.target, "-n", "other", "exec cat > w1.txt")
    tmux("split-window", "-d", "-t", lead.pane, "exec cat > p1.txt")
    files = {name: world.directory / name for name in ("w1.txt", "p1.txt", "lead.txt")}
    wait_until(lambda: all(f.exists() for f in files.values()), "all programs to run")
    window = tmux("list-windows", "-t", lead.target, "-F", "#{window_id} #{window_index}").splitlines()[1].split()[0]
    pane = tmux("list-panes", "-t", lead.target, "-F", "#{pane_id}").split()[1]
    for target, name in (("lead:1", "w1.txt"), ("lead:other", "w1.txt"), (window, "w1.txt"), ("lead.1", "p1.txt"), ("lead:0.1", "p1.txt"), (pane, "p1.txt"),
                         ("lead", "lead.txt"), ("=lead", "lead.txt"), (lead.format("#{session_id}"), "lead.txt"), (lead.pane, "lead.txt")):
        before = files[name].read_text()
        assert_ok(notify(world, target, "to " + target), target)
        wait_until(lambda: files[name].read_text() == before + "to %s\n" % target, "%s to reach %s" % (target, name))
    for target in ("lead:9", "lead:0.7", "lead.7", "%99", "@99", "$99", "lead:nosuch"):
        assert_refused(notify(world, target, "x"), "there is no pane '%s'" % target)
    for target in (":0", ".1", "="):
        assert_refused(notify(world, target, "x"), "names no session")


def test_no_server(world):
    world.environment["TMUX_TMPDIR"] = str(world.directory)
    assert_refused(notify(world, "lead", "x"), "no tmux server can be reached")


def test_no_tmux(world):
    assert_refused(notify(world, "lead", "x", env={"PATH": str(world.temporary)}), "tmux is not installed")


def test_a_tmux_that_hangs(world):
    """Said after 3 seconds, and the hanging program is not left behind."""
    env = shim(world, "", "exec sleep 600")
    assert_refused(notify(world, "lead", "x", env=env), "did not answer within 3 s")
    assert world.processes() == []


# ---- options ------------------------------------------------------------------------------------------
def test_interrupt_stops_what_runs(world, tmux):
    lead = tmux.shell("bash --norc --noprofile -i")
    assert_ok(notify(world, "lead", "touch running; sleep 600"))
    wait_until((world.directory / "running").exists, "the command to run")
    assert_ok(notify(world, "--interrupt", "lead", "touch interrupted"))
    wait_until((world.directory / "interrupted").exists, "the next command")
    assert "^C" in lead.screen()


def test_interrupt_leaves_copy_mode(world, tmux):
    lead = tmux.cat()
    tmux("copy-mode", "-t", lead.pane)
    assert_ok(notify(world, "--interrupt", "lead", "back again"))
    lead.got_soon(b"back again\n")


def test_interrupt_does_not_excuse_the_checks(world, tmux):
    lead = tmux.program("menu")
    assert_refused(notify(world, "--interrupt", "lead", "x"), MENU_REASON)
    assert lead.got() == b"\x03"


def test_dry_run_types_nothing(world, tmux):
    lead = tmux.cat()
    done = notify(world, "--dry-run", "lead", "a\tb\n\"c\" 测试")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["would type into pane %s (session 'lead', running 'cat'): the text, then Enter" % lead.pane,
                                        "text of 14 bytes: a\\tb\\n\"c\" 测试"]
    assert "Ctrl-C, then the text" in notify(world, "--dry-run", "--interrupt", "lead", "x").stdout
    assert lead.got() == b"" and lead.screen().strip() == ""
    assert_refused(notify(world, "--dry-run", "nobody", "x"), "no tmux session is called 'nobody'")
    tmux("copy-mode", "-t", lead.pane)
    assert_refused(notify(world, "--dry-run", "lead", "x"), "copy-mode")


USAGE = "Usage: notify-agent [--config <path>] [--from <sender>] [--to <session>] [--simple] [--interrupt] [--dry-run] <session> <message>\n"


@pytest.mark.parametrize("words,said", [([], USAGE), (["--simple"], USAGE), (["--from"], "Usage: --from <sender_name>\n"), (["--to"], "Usage: --to <session>\n"),
                                        (["--to", "s", "--config"], "Usage: --config <path>\n"), (["s"], "Usage: a message text is required\n"),
                                        (["--to", "s", ""], "Usage: a message text is required\n")])
def test_usage(world, words, said):
    done = notify(world, *words)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_help_and_version(world):
    for word in ("-h", "--help"):
        done = notify(world, word)
        assert (done.returncode, done.stderr) == (0, "") and "--interrupt" in done.stdout and USAGE in done.stdout
    assert notify(world, "--version").stdout.startswith("notify-agent ")


def test_words_after_the_session_are_text(world, tmux):
    lead = tmux.cat()
    assert_ok(notify(world, "--simple", "lead", "several", "words  here", "--from", "x", "-h", "--", "-"))
    lead.got_soon(b"several words  here --from x -h -- -\n")


def test_an_argument_that_is_no_text(world, tmux):
    tmux.cat()
    done = subprocess.run([str(BIN / "notify-agent").encode(), b"lead", b"caf\xe9"], env=world.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, timeout=30)
    assert_refused(done, "not valid UTF-8")


def test_output_that_nobody_reads(world, tmux):
    """A closed pipe is no failure: the message has been delivered."""
    lead = tmux.cat()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([str(BIN / "notify-agent"), "lead", "x"], env=world.environment, cwd=world.directory, stdin=subprocess.DEVNULL, stdout=writer,
                          stderr=subprocess.PIPE, timeout=30)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    lead.got_soon(b"x\n")


# ---- senders ------------------------------------------------------------------------------------------
RULES = "role_map:\n  worker-alpha: {name: Alpha, color: bold_yellow}\n  noname: {color: white}\ncallbacks: []\n"


@pytest.mark.parametrize("sender,name", [("worker-alpha", "Alpha"), ("Alpha", "Alpha"), ("noname", "noname"), ("MyBot", "MyBot")])
def test_a_sender_is_shown_by_its_display_name(world, tmux, sender, name):
    (world.root / "bus-rules.yaml").write_text(RULES)
    lead = tmux.cat()
    assert_ok(notify(world, "--from", sender, "lead", "build", "done"))
    lead.got_soon(("⚕ [%s]: build done\n" % name).encode())


def test_a_sender_without_a_message(world, tmux):
    lead = tmux.cat()
    assert_ok(notify(world, "--from", "w", "lead"))
    lead.got_soon("⚕ [w]: \n".encode())


def test_a_file_of_rules_by_name(world, tmux):
    rules = world.directory / "other.yaml"
    rules.write_text(RULES)
    lead = tmux.cat()
    assert_ok(notify(world, "--config", rules, "--from", "worker-alpha", "lead", "hi"))
    lead.got_soon("⚕ [Alpha]: hi\n".encode())


def test_trouble_with_the_rules_is_told_and_delays_nothing(world, tmux):
    lead = tmux.cat()
    missing = world.directory / "none.yaml"
    assert_ok(notify(world, "--from", "w", "lead", "1"))
    assert_ok(notify(world, "--config", missing, "--from", "w", "lead", "2"), warning="WARNING: %s: no such file" % missing)
    (world.root / "bus-rules.yaml").write_text("role_map: [unclosed\n  : :")
    assert_ok(notify(world, "--from", "w", "lead", "3"), warning="WARNING: %s:" % (world.root / "bus-rules.yaml"))
    (world.root / "bus-rules.yaml").write_text("- a list\n")
    assert_ok(notify(world, "--from", "w", "lead", "4"), warning="the file must be a mapping")
    (world.root / "bus-rules.yaml").write_text("role_map: {w: Alpha, x: {name: X}}\n")
    assert_ok(notify(world, "--from", "w", "lead", "5"), warning="left out: w")
    lead.got_soon("".join("⚕ [w]: %d\n" % n for n in range(1, 6)).encode())


def test_a_role_map_that_is_none_matters_only_to_a_sender(world, tmux):
    (world.root / "bus-rules.yaml").write_text("role_map: [a, b]\n")
    lead = tmux.cat()
    assert_refused(notify(world, "--from", "w", "lead", "x"), "'role_map' must be a mapping")
    assert_ok(notify(world, "lead", "y"))
    lead.got_soon(b"y\n")


def test_locks_of_a_server_whose_directory_cannot_be_written(world, tmux):
    """They go to a directory of the user's own then."""
    lead = tmux.cat()
    directory = os.path.dirname(lead.format("#{socket_path}"))
    blocker = os.path.join(directory, "hermes-bus-default-%s.lock" % lead.pane.lstrip("%"))
    os.symlink("/nonexistent", blocker)
    assert_ok(notify(world, "lead", "x"))
    os.unlink(blocker)
    lead.got_soon(b"x\n")
    own = world.temporary / ("hermes-bus-%d" % os.geteuid())
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
