"""The program ``notify-agent``."""
import sys

from hermes_bus import _programs


def main() -> None:
    """Runs ``notify-agent`` with the arguments of this program. Exits if it fails."""
    code = _programs.run("notify-agent")
    if code != 0:
        sys.exit(code)


if __name__ == "__main__":
    _programs.become("notify-agent")
