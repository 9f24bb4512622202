"""`hermes-bus config`: check, show, path. No bus runs."""
import json
import os

import pytest

from world import BIN

TOKEN = "correct-horse-battery"


def config(world, *arguments, **more):
    done = world.run([BIN / "hermes-bus", "config", *arguments], **more)
    assert "panicked" not in done.stderr, done.stderr
    return done


def done_well(done):
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stdout, done.stderr)
    return done.stdout


def write(world, text, mode=0o600):
    path = world.root / "hermes-bus" / "config.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def shown(world, *arguments, **more):
    """What `config show --json` says, by key."""
    lines = done_well(config(world, "show", "--json", *arguments, **more)).splitlines()
    return {line["key"]: line for line in map(json.loads, lines)}


def test_path_says_where_the_file_is_and_whether_it_is_there(world):
    """The usual place, a root, a variable, an option; all exit with 0."""
    usual = world.root / "hermes-bus" / "config.yaml"
    done = config(world, "path")
    assert (done.returncode, done.stdout) == (0, "%s\n" % usual)
    assert "no such file" in done.stderr
    write(world, "")
    assert done_well(config(world, "path")) == "%s\n" % usual
    assert json.loads(done_well(config(world, "path", "--json"))) == {"path": str(usual), "exists": True}
    for arguments, env, expected in (
        (["--root", "/x"], None, "/x/hermes-bus/config.yaml"),
        ([], {"HERMES_BUS_CONFIG": "/y.yaml"}, "/y.yaml"),
        (["--config", "/z.yaml"], {"HERMES_BUS_CONFIG": "/y.yaml"}, "/z.yaml"),
    ):
        assert config(world, "path", *arguments, env=env).stdout.strip() == expected


def test_check_is_content_with_no_file_and_with_a_good_one(world):
    assert done_well(config(world, "check")) == "ok\n"
    write(world, "sessions:\n  linger: 5s\n")
    assert done_well(config(world, "check")) == "ok\n"
    assert json.loads(done_well(config(world, "check", "--json")))["ok"] is True
    assert not os.path.exists(world.socket_path), "looking starts no bus"


def test_check_tells_every_mistake_with_its_place(world):
    """One line for each, as compilers write it, on standard error; exit code 1."""
    path = write(world, "sessions:\n  lingr: 5s\n  heartbeat: 0\nlog: {level: loud}\n")
    done = config(world, "check", env={"HERMES_BUS_HOOKS_TIMEOUT": "never"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "%s:2:3: sessions.lingr: unknown key (did you mean 'sessions.linger'?)" % path,
        "%s:3:14: sessions.heartbeat: 0s is under the least value, 1s" % path,
        "%s:4:14: log.level: 'loud' is not one of error, warn, info, debug" % path,
        "HERMES_BUS_HOOKS_TIMEOUT: 'never' is no time: write 90s, 700ms, 2m, or a number of seconds",
    ]
    done = config(world, "check", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], answer["problems_total"]) == (1, False, 3)
    assert (answer["problems"][1]["key"], answer["problems"][1]["line"], answer["problems"][1]["column"]) == ("sessions.heartbeat", 3, 14)


def test_check_of_a_file_looks_at_nothing_else(world):
    write(world, "zebra: 1\n")
    other = world.directory / "other.yaml"
    other.write_text("log: {level: debug}\n")
    assert done_well(config(world, "check", other, env={"HERMES_BUS_LOG": "zebra"})) == "ok\n"
    missing = config(world, "check", world.directory / "missing.yaml")
    assert missing.returncode == 1 and missing.stderr.endswith("missing.yaml: no such file\n")
    assert config(world, "check", other, "--set", "log.level=info").returncode == 2


def test_show_says_what_holds_and_why(world):
    path = write(world, "sessions:\n  linger: 4s\n  drain: 4s\n  answer: 400ms\n")
    env = {"HERMES_BUS_SESSIONS_DRAIN": "5", "HERMES_BUS_SESSIONS_ANSWER": "0.5", "HERMES_BUS_LOG": ""}
    by_key = shown(world, "--set", "sessions.answer=600ms", env=env)
    expected = {
        "sessions.linger": (4.0, "%s:2" % path),
        "sessions.drain": (5.0, "HERMES_BUS_SESSIONS_DRAIN"),
        "sessions.answer": (0.6, "--set"),
        "sessions.heartbeat": (90.0, "default"),
        "queues.bytes_max": (16 * 1024 * 1024, "default"),
        "sessions.messages_per_s": (None, "default"),
        "log.level": ("info", "default"),
    }
    for key, (value, origin) in expected.items():
        assert (by_key[key]["value"], by_key[key]["origin"]) == (value, origin), by_key[key]
    assert shown(world, "--default")["sessions.linger"]["value"] == 3.0


def test_what_show_prints_is_a_configuration_file(world):
    write(world, "access: {allow_uids: [5], protected: [{name: 'a: \"b\"', uid: 7}]}\nqueues: {bytes_max: 32MiB}\nlog: {levels: {hooks: debug}}\n")
    before = shown(world)
    printed = done_well(config(world, "show"))
    write(world, printed)
    after = shown(world)
    assert {k: v["value"] for k, v in before.items()} == {k: v["value"] for k, v in after.items()}
    assert done_well(config(world, "check")) == "ok\n"


def test_every_variable_that_show_names_is_read(world):
    """What is set to the value it has already is taken without a word, from the variable."""
    before = shown(world)
    assert len(before) > 30
    env = {line["variable"]: line["text"] for line in before.values()}
    after = shown(world, env=env)
    for key, line in after.items():
        assert (line["value"], line["origin"]) == (before[key]["value"], line["variable"])


def test_a_misspelt_variable_and_an_open_file_are_warnings(world):
    write(world, "log: {level: warn}\n", mode=0o622)
    done = config(world, "check", env={"HERMES_BUS_SESSION_LINGER": "5s", "HERMES_BUS_HOOKS": "none"})
    assert (done.returncode, done.stdout) == (0, "ok\n")
    assert "other users may change this file" in done.stderr
    assert "did you mean HERMES_BUS_SESSIONS_LINGER?" in done.stderr
    assert done.stderr.count("\n") == 2


def test_tokens_are_never_shown(world):
    text = "access:\n  protected:\n    - {name: lead, token: %s}\n" % TOKEN
    write(world, text)
    for arguments in (["show"], ["show", "--json"], ["check", "--json"]):
        assert TOKEN not in done_well(config(world, *arguments))
    by_key = shown(world)
    assert by_key["access.protected"]["value"][0]["has_token"] is True
    write(world, text, mode=0o644)
    done = config(world, "check")
    assert done.returncode == 1 and "closed to other users" in done.stderr and TOKEN not in done.stderr
    done = config(world, "check", "--set", "access.protected=[{name: lead, token: %s}]" % TOKEN)
    assert done.returncode == 1 and "token_file" in done.stderr and TOKEN not in done.stderr


def bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += ["a%d: &a%d [%s]" % (n, n, ", ".join(["*a%d" % (n - 1)] * 9)) for n in range(1, 40)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [bomb(), "[" * 200000, "a: " * 80000, b"\xff\xfe", b"\0" * 1000, "k: {" * 1000, "- " * 100000, "'" * 1001])
def test_hostile_files_end_in_an_error(world, text):
    """In bounded memory: the program may have 512 MiB of addresses in all."""
    write(world, text)
    done = world.run(["bash", "-c", 'ulimit -v 524288; exec "$0" config check', BIN / "hermes-bus"])
    assert done.returncode == 1 and done.stdout == "", (done.returncode, done.stdout, done.stderr)
    assert "config.yaml:" in done.stderr and len(done.stderr) < 20000 and "panicked" not in done.stderr


def test_huge_files_and_pipes_are_not_read(world):
    path = write(world, "")
    with open(path, "r+b") as file:
        file.truncate(1 << 30)
    done = config(world, "check")
    assert done.returncode == 1 and "over the limit of 262144 bytes" in done.stderr
    path.unlink()
    os.mkfifo(path)
    done = config(world, "check")
    assert done.returncode == 1 and "no regular file" in done.stderr


def test_names_of_files_cannot_steer_a_terminal(world):
    odd = world.directory / "x\x1b[31m.yaml"
    odd.write_text("sessions: {linger: 4s}\n\"\\e[31m\": 1\n")
    done = config(world, "check", odd)
    assert done.returncode == 1 and "\x1b" not in done.stderr + done.stdout
    odd.write_text("sessions: {linger: 4s}\n")
    assert "\x1b" not in done_well(config(world, "show", "--config", odd))
