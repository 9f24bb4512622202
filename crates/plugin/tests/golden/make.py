"""Writes golden.json: what the released plugin (hermes-bus-plugin 0.8.0) makes of rules, templates and names.

    python3 -m venv v && v/bin/pip install --no-deps hermes-bus-plugin==0.8.0 && v/bin/pip install pyyaml
    TZ=UTC v/bin/python make.py > golden.json

A message that makes the plugin fail is left out: what is done instead is tested in Rust.
"""
import json
import os
import pwd
import sys
import tempfile

assert os.environ.get("TZ") == "UTC", "run it with TZ=UTC"
home = tempfile.mkdtemp()
os.environ["HERMES_HOME"] = home
import hermes_bus_plugin as plugin
from hermes_bus_plugin import hooks

plugin._log = hooks._log = lambda message: None
WORKER = {"type": "message", "to": "x", "from": "worker", "ts": 1716307200.123}


def message(body, **more):
    return dict(WORKER, body=body, **more)


FORMATS = [
    ("{text}", message({"text": "hi"})),
    ("{from}: {text} [{type}] {text}", message({"text": "hi", "type": "ack"})),
    ("{from}|{type}|{text}", {"type": "message", "ts": 0, "body": {}}),
    ("{text}", message("a string")),
    ("{text}|{type}", message(42)),
    ("{color:cyan}a{reset}{color:bold_green}b{reset} {bold}c{reset}", message({"text": ""})),
    ("{color:BOLD_red}a{color:Bold_}b{color:bold}c{color:red_bold}d{color:nosuch}e{color:}f{color:white", message({"text": ""})),
    ("".join("{color:%s}{color:bold_%s}" % (c, c) for c in "black red green yellow blue magenta cyan white".split()), message({"text": ""})),
    ("{ts}|{ts:}|{ts:%Y-%m-%d %H:%M:%S}|{ts:%H:%M}|{ts", message({"text": ""})),
    ("{ts}|{ts:%s}", dict(message({"text": ""}), ts="1716307200.9")),
    ("{ts}", dict(message({"text": ""}), ts=-1.5)),
    ("{ts:%f|%z|%Z|%%|%c|%x|%X|%D|%T|%R|%r|%F}", message({"text": ""})),
    ("{ts:%a %A %b %B %d %e %H %I %j %k %l %m %M %p %P %S %u %U %V %w %W %y %Y %C %g %G %h %n %t}", message({"text": ""})),
    ("{ts:%-d %-m %-H %_d %^a %-j}", dict(message({"text": ""}), ts=1709283723.5)),
    ("{unknown} {text} {", message({"text": "t"})),
    ("{text}", message({"text": "{type} {ts:%H} {color:red}x{reset}{bold} {from}", "type": "ack"})),
    ("{from}", dict(message({"text": "t", "type": "ack"}), **{"from": "{text}{type}"})),
    ("{type}", message({"text": "t", "type": "{text}{ts}"})),
    ("{te{from}xt}", dict(message({"text": "t"}), **{"from": ""})),
    ("", message({"text": "x"})),
    ("~/no/such/script {text}", message({"text": "x"})),
    ("/no/such/script {text}", message({"text": "x"})),
    ("行 {text} ⚕", message({"text": "测试 \U0001f4ec"})),
    ("a\nb {text}", message({"text": "two\nlines"})),
    ("{text}", message({"text": "\x1b[31mred\x1b[0m"})),
]

RULES = '''
role_map: {worker: {name: Worker}}
default_sender: somebody
callbacks:
  - match_type: ack
    print: true
    print_format: "{color:cyan}[{from}]{reset} {text}"
  - match_type: progress
    print: false
    context: true
    context_format: "{from} progress: {text}"
  - match_type: task_done
    print: true
    context: true
    command: "play done.wav"
  - match_type: quiet
    print: no
  - match_type: ack
    print_format: second never used
  - match_type: cmd
    print: off
    command: run-me
  - match_type: both
    command: run-me-too
  - match_type: nothing
    print:
    command: ""
  - match_type: empty
    print: ""
    context: []
  - match_type: listed
    print: [1]
  - match_type: odd
    context: "yes"
  - match_type: "7"
    print_format: "seven"
  - print_format: never
  - match_type: ""
    print_format: never
  - match_type: Ack
    print_format: "another case"
    unknown_key: passed over
'''
BODIES = ["a string", {}, {"text": "none"}, {"text": "x", "type": ""}, {"text": "ch", "type": "ack", "channel": "feishu:oc_1"},
          {"text": "s", "type": "5"}, {"text": "s", "type": "7"}]
BODIES += [{"text": "t-" + kind, "type": kind} for kind in "ack progress task_done quiet unknown cmd both nothing empty listed odd Ack ACK".split()]
PROCESS = [(RULES, [message(body) for body in BODIES] + [{"type": "pong"}, {"type": "ping"}, {"type": "message", "body": {"text": "no sender", "type": "progress"}}])]
PROCESS += [(text, [message({"text": "t", "type": "ack"})]) for text in
            ("", "# nothing\n", "{}", "callbacks: []", "callbacks:\n- {match_type: ack, print: false}\n- {match_type: ack, command: never}\n",
             "callbacks:\n- {match_type: other}\ncallbacks:\n- {match_type: ack, print_format: last}\n",
             "base: &b {match_type: ack, print_format: merged}\ncallbacks:\n- <<: *b\n")]

REAL_HOME = pwd.getpwuid(os.getuid()).pw_dir
ENDPOINTS = [({}, None), ({"HERMES_BUS_ENDPOINT": "mine"}, "bus: {endpoint: y}"), ({}, "bus: {endpoint: y}"), ({}, "bus: {endpoint: ' y z '}"), ({}, "bus: {endpoint: 5}"),
             ({}, "bus: {endpoint: ''}"), ({}, "bus: []"), ({}, "bus: {}"), ({"HERMES_BUS_ENDPOINT": ""}, "bus: {endpoint: y}"), ({"_HERMES_GATEWAY": "1"}, None),
             ({"_HERMES_GATEWAY": "0"}, None), ({"_HERMES_GATEWAY": "1", "HERMES_BUS_ENDPOINT": "mine"}, None), ({"_HERMES_GATEWAY": "1"}, "bus: {endpoint: y}"),
             ({"HERMES_HOME": "~/.hermes/profiles/work"}, None), ({"HERMES_HOME": "~/.hermes/profiles/work", "_HERMES_GATEWAY": "1"}, None), ({"HERMES_HOME": "/srv/profiles/work"}, None)]


def formats():
    return [{"template": template, "msg": msg, "expected": hooks._resolve_format(template, msg)} for template, msg in FORMATS]


def write_rules(text):
    path = os.path.join(home, "bus-rules.yaml")
    if os.path.exists(path):
        os.unlink(path)
    if text is not None:
        with open(path, "w") as f:
            f.write(text)
    hooks._notify_config = None


def process(rules, msgs):
    write_rules(rules)
    cases = []
    for msg in msgs:
        printed, commands = [], []
        hooks._cprint = printed.append
        hooks._run_command = lambda rule, msg: commands.append(rule["command"])
        hooks._send_via_gateway_runner = lambda channel, text: False
        hooks._bus_messages.clear()
        try:
            hooks._process_bus_message(msg)
        except TypeError:
            continue
        cases.append({"msg": msg, "printed": printed, "context": list(hooks._bus_messages), "command": commands})
    return {"rules_yaml": rules, "cases": cases}


def endpoint(env, rules):
    write_rules(rules)
    before = dict(os.environ)
    for key in ("HERMES_BUS_ENDPOINT", "_HERMES_GATEWAY"):
        os.environ.pop(key, None)
    # Where the variable is set, the rules are not in reach, as in the cases above.
    os.environ.update({key: value.replace("~", REAL_HOME) for key, value in env.items()})
    sys.argv = ["hermes"]
    name = plugin._default_endpoint()
    os.environ.clear()
    os.environ.update(before)
    return {"env": env, "rules_yaml": rules, "expected": name}


print(json.dumps({"format": formats(), "process": [process(*p) for p in PROCESS], "endpoint": [endpoint(*e) for e in ENDPOINTS]}, indent=1))
