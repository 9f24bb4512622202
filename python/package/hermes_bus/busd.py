"""The daemon manager: the program ``hermes-busd``."""
import sys

from hermes_bus import _programs


def main() -> None:
    """Runs ``hermes-busd`` with the arguments of this program. Exits if it fails."""
    code = _programs.run("hermes-busd")
    if code != 0:
        sys.exit(code)


if __name__ == "__main__":
    _programs.become("hermes-busd")
