"""What goes wrong. Every exception has a ``code`` for programs; its text is for people."""
from typing import Any, List, Optional, Sequence, Tuple


class BusError(Exception):
    """Something about the bus went wrong."""

    #: One word: an error code of the bus (``endpoint_not_found``, ``mailbox_full``, ...), or of this package
    #: (``no_bus``, ``no_answer``, ``client_closed``, ...).
    code: str
    #: Names of endpoints that may have been meant.
    suggestions: List[str]
    #: How far a message has come all the same: ``accepted``, ``stored``, ``delivered``.
    reached: Optional[str]

    def __init__(
        self,
        message: str = "",
        code: str = "error",
        suggestions: Sequence[str] = (),
        reached: Optional[str] = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.suggestions = list(suggestions)
        self.reached = reached

    def __reduce__(self) -> Tuple[Any, ...]:
        return (type(self), (str(self), self.code, self.suggestions, self.reached))


class ConnectError(BusError, ConnectionError):
    """There is no connection to the bus, or the bus refused the name."""


class RefusedError(BusError):
    """The bus refused what was asked, or says that a message will not come as far as was wanted."""


class NoAnswerError(BusError, TimeoutError):
    """It did not happen in time. A message may have arrived all the same."""


class ClosedError(BusError):
    """The client is closed, or was while something was waited for."""


class InvalidMessageError(BusError, ValueError):
    """It cannot be a message: it has no JSON form, is nested too deep, or too large."""


class ForkedError(BusError, RuntimeError):
    """The client belongs to the process that made it, and this is a child of that one."""


def _make(name: str, code: str, message: str, suggestions: Sequence[str], reached: Optional[str]) -> BusError:
    made: BusError = globals()[name](message, code, suggestions, reached)
    return made
