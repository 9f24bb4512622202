"""`hermes-bus rules`: mistakes with their places, and what a message would do."""
import json

import pytest

from test_agent import run, write_rules

RULES = """# rules
callbacks:
  - name: alarms
    match_type: task_error
    when: busy
    context: true
  - match_type: [task_error, task_done]
    sender: ci
    text: (?i)build
    context: true
    merge_s: 30
    command: "make report"
    continue: true
  - from: "*"
    json: {$.level: [1, high]}
    print_format: "{color:red}{text}{reset}"
"""


def test_check(world):
    write_rules(world, RULES)
    done = run(world, "rules", "check")
    assert (done.stdout, done.stderr) == ("ok: 3 rules\n", "")
    told = json.loads(run(world, "rules", "check", world.root / "bus-rules.yaml", "--json").stdout)
    assert (told["ok"], told["rules"], told["warnings"]) == (True, 3, [])
    assert world.processes() == [], "it needs no bus"


def test_check_names_every_mistake_with_its_place(world):
    """Path, line and column in front, as editors read them; exit code 1."""
    path = world.directory / "r.yaml"
    path.write_text("callbacks:\n  - match_type: a\n    form: x\n  - when: never\n    text: '('\n")
    done = run(world, "rules", "check", path, code=1)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "%s:3:5: unknown key 'form': did you mean 'from'?" % path,
        "%s:4:11: 'when' must be 'idle' or 'busy'" % path,
        "%s:5:11: 'text' is no regular expression: unclosed group" % path,
    ]
    told = json.loads(run(world, "rules", "check", path, "--json", code=1).stdout)
    assert (told["ok"], told["error"]) == (False, "invalid_rules")
    assert [(p["line"], p["column"]) for p in told["problems"]] == [(3, 5), (4, 11), (5, 11)]


@pytest.mark.parametrize("text, expected", [
    ("callbacks: [", ":1:"), ("callbacks:\n\t- a", ":2:"), ("- a\n", "must be a mapping"), ("\x00", ":1:"), ("callbacks: 5", ":1:12: 'callbacks' must be a list of rules"),
], ids=repr)
def test_what_is_no_rules_file(world, text, expected):
    path = world.directory / "r.yaml"
    path.write_text(text)
    assert expected in run(world, "rules", "check", path, code=1).stderr


def test_files_that_are_not_there(world):
    """The usual one need not be there; one that is named must be."""
    done = run(world, "rules", "check")
    assert done.stdout == "ok: 0 rules\n" and "there is no" in done.stderr
    assert "none.yaml: no such file" in run(world, "rules", "check", world.directory / "none.yaml", code=1).stderr


def test_check_warns(world):
    write_rules(world, "callbacks:\n- {print: false}\n- {match_type: a, description: x}\n")
    done = run(world, "rules", "check")
    assert done.stdout == "ok: 2 rules\n" and done.stderr.count("warning: ") == 2


def test_test_says_which_rule_and_what_it_does(world):
    write_rules(world, RULES)
    path = world.root / "bus-rules.yaml"
    done = run(world, "rules", "test", "--type", "task_error", "--from", "ci", "the Build broke", "--color", "always")
    assert done.stdout.splitlines() == [
        "rule 1 'alarms' (%s:3) is not: 'when': the agent is idle" % path,
        "rule 2 (%s:7) is for it" % path,
        "rule 3 (%s:14) is not: 'json': $.level finds nothing" % path,
        "command, for 600 s at most:",
        "    make report",
        "context, when its time to be merged is over:",
        done.stdout.splitlines()[6],
        "    | the Build broke",
    ]
    assert done.stdout.splitlines()[6].startswith("    hermes-bus message from endpoint 'ci' (attested by the bus), type 'task_error', 2")
    done = run(world, "rules", "test", "--body", '{"level": 1.0, "text": "x\\u001b[5my"}', "--from", "w", "--color", "always")
    assert done.stdout.splitlines()[-2:] == ["print:", "    \x1b[31mxy\x1b[0m"]


def test_test_of_a_forged_sender(world):
    write_rules(world, RULES)
    done = run(world, "rules", "test", "--type", "task_done", "--from", "ci", "--sender", "mallory", "build")
    assert "is not: 'sender': the message has 'mallory'" in done.stdout
    assert done.stdout.splitlines()[3:] == ["no rule is for it, so it is printed", "print:", "    build"]


def test_test_in_json(world):
    write_rules(world, RULES)
    told = json.loads(run(world, "rules", "test", "--type", "task_error", "--state", "busy", "x", "--json").stdout)
    assert [(r["rule"], r["line"], r["matches"]) for r in told["rules"]] == [(1, 3, True)]
    assert [(a["action"], a["text"].splitlines()[-1]) for a in told["actions"]] == [("context", "| x")]


def test_test_of_a_whole_message(world):
    """As `listen --json` prints it."""
    write_rules(world, "callbacks:\n- {from: w, print_format: '{from} {text}'}\n")
    message = json.dumps({"type": "message", "from": "w", "body": {"text": "hi"}})
    for how, data in ((message, None), ("-", message.encode())):
        assert run(world, "rules", "test", "--message", how, data=data).stdout.splitlines()[-1] == "    w hi"
    assert "no JSON object" in run(world, "rules", "test", "--message", "[1]", code=1).stderr
    assert "Invalid JSON body" in run(world, "rules", "test", "--body", "{", code=1).stderr
    run(world, "rules", "test", "--state", "sleepy", "x", code=2)
    run(world, "rules", "test", "--body", "{}", "x", code=2)
