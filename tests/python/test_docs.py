"""Every example of the documentation runs."""
import pathlib
import re
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FILES = ("python/README.md", "README.md")


def examples():
    for name in FILES:
        text = (REPOSITORY / name).read_text()
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)):
            yield pytest.param(block, id="%s-%d" % (name, number + 1))


@pytest.mark.parametrize("block", list(examples()))
def test_an_example(world, block):
    """In an empty world: it starts the bus by itself. What stands behind an expression or a print as a comment, beginning with
    the output, is what it prints."""
    done = world.run([sys.executable, "-c", block], within_s=60)
    assert done.returncode == 0, done.stderr
    promised = re.findall(r"print\(.*\)\s+# (True|False|acked|stored|@builders #build.done|endpoint_not_found)", block)
    for words in promised:
        assert words in done.stdout


def test_there_are_examples():
    assert len(list(examples())) >= 7
