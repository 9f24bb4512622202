"""What the bus takes for JSON is what Python's json module takes for it: documents, whole and damaged, judged by both."""
import json
import random
import sys

import pytest

from wire import Closed

STRINGS = ['""', '"text"', '"\\u00e9"', '"\\ud83d\\ude00"', '"\\ud800"', '"é漢😀"', '"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\x7f\u2028"', '"%s"' % ("x" * 70)]
NUMBERS = ["0", "-0", "7", "-12", "1.5", "-0.0", "1e5", "1E400", "2.5e-7", "1e+2", "NaN", "Infinity", "-Infinity", str(2 ** 70), "1" * 40]
EDITS = ['"', "\\", "{", "}", "[", "]", ":", ",", "0", "9", "-", ".", "e", "E", "u", "N", "I", " ", "\n", "\t", "\x01", "é", "\ufeff", "'"]


def value(random_, depth=0):
    kind = random_.randrange(10 if depth < 5 else 7)
    space = random_.choice(["", "", "", " ", "\n\t"])
    if kind < 3:
        return space + random_.choice(STRINGS)
    if kind < 6:
        return random_.choice(NUMBERS) + space
    if kind == 6:
        return random_.choice(["true", "false", "null"])
    items = [value(random_, depth + 1) for _ in range(random_.randrange(4))]
    if kind == 7:
        return "[" + space + ",".join(items) + space + "]"
    return "{" + ",".join("%s%s:%s" % (random_.choice(STRINGS), space, item) for item in items) + space + "}"


def damaged(random_, text):
    for _ in range(random_.randrange(1, 4)):
        at = random_.randrange(len(text))
        edit = random_.randrange(3)
        text = text[:at] + (random_.choice(EDITS) if edit else "") + text[at + (edit != 1):]
    return text


def opinion_of_python(payload):
    """None, or the code of the error that the bus should give."""
    try:
        document = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError):
        return "invalid_json"
    return None if isinstance(document, dict) else "invalid_frame"


def opinion_of_the_bus(server, payload):
    with server.connect() as c:
        # The ping behind it is answered only if the connection has survived the document.
        c.send(payload, {"type": "ping"})
        frames = []
        try:
            while not frames or frames[-1]["type"] != "pong":
                frames.append(c.recv())
        except Closed:
            pass
        errors = [frame["code"] for frame in frames if frame["type"] == "error"]
        assert len(errors) <= 1
        return errors[0] if errors else None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="older versions read integers of any length")
@pytest.mark.parametrize("seed", range(4))
def test_documents_are_judged_as_python_judges_them(server, seed):
    random_ = random.Random(seed)
    for _ in range(400):
        # A key that the bus does not know: whole documents are ignored, and what counts is the judgement.
        text = '{"anything":%s}' % value(random_)
        if random_.randrange(3):
            text = damaged(random_, text)
        payload = text.encode("utf-8", "surrogatepass")
        if payload:
            assert opinion_of_the_bus(server, payload) == opinion_of_python(payload), payload
