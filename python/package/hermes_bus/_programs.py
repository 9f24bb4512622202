"""Where the programs of this package are."""
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any, Callable, Iterator, List, Optional


def _directories() -> Iterator[str]:
    # <prefix>/lib/pythonX.Y/site-packages/hermes_bus: the programs are in <prefix>/bin.
    package = os.path.dirname(os.path.abspath(__file__))
    yield os.path.normpath(os.path.join(package, "..", "..", "..", "..", "bin"))
    # pip install --target
    yield os.path.normpath(os.path.join(package, "..", "bin"))
    if sys.executable:
        yield os.path.dirname(sys.executable)


def installed(name: str) -> Optional[str]:
    """The program that was installed together with this package."""
    for directory in _directories():
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def find(name: str) -> Optional[str]:
    """The program of this package, else the first one on PATH."""
    return installed(name) or shutil.which(name)


def demand(name: str) -> str:
    """The same, or an error that says what to do."""
    path = find(name)
    if path is None:
        raise FileNotFoundError(f"{name} was found neither beside this package nor on PATH: install hermes-bus anew")
    return path


def run(name: str) -> int:
    """Runs a program with the arguments of this one, and returns its exit code."""
    try:
        process = subprocess.Popen([demand(name), *sys.argv[1:]])
    except OSError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    ended = forward_sigterm(process)
    try:
        while True:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                continue  # it has got the signal as well
            return code if code >= 0 else 128 - code
    finally:
        ended()


def forward_sigterm(process: "subprocess.Popen[bytes]") -> Callable[[], None]:
    """A program is not to outlive the process that has started it, if that is asked to end. What is returned is to be called
    when the program has ended: then this process ends in the same way."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return lambda: None
    received: List[int] = []

    def forward(number: int, _frame: Any) -> None:
        received.append(number)
        process.terminate()

    def ended() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, forward)
    return ended


def become(name: str) -> None:
    """Has a program take the place of this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        path = demand(name)
        os.execv(path, [path, *sys.argv[1:]])
    except OSError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(1)
