"""Bodies and messages as text and back, with Python's own ``json``: NaN, lone halves of surrogate pairs and integers of
any size are what they always were."""
import json
import logging
from json import encoder as _encoder
from typing import Any, Callable, Optional, Tuple

from hermes_bus.errors import InvalidMessageError

_log = logging.getLogger("hermes_bus")


def _make_encoder() -> Callable[[Any], str]:
    """``json.dumps(body, ensure_ascii=False)``, without making an encoder for each body where that can be had."""
    plain = json.JSONEncoder(ensure_ascii=False)
    make: Any = getattr(_encoder, "c_make_encoder", None)
    text = getattr(_encoder, "encode_basestring", None)
    if make is None or text is None:
        return plain.encode
    try:
        # Without marks for what is being written, a body that contains itself is a RecursionError.
        encode = make(None, plain.default, text, None, ": ", ", ", False, False, True)
        probe = {"a": [1, 0.5, None, True, "\u00e9\n"], "b": {}, "2": float("inf")}
        if "".join(encode(probe, 0)) != plain.encode(probe):
            return plain.encode
    except Exception:
        return plain.encode
    join = "".join
    return lambda body: join(encode(body, 0))


_encode = _make_encoder()

#: Reads one JSON value at a place of a text; gives it and where it ends.
scan: Callable[[str, int], Tuple[Any, int]] = getattr(json.JSONDecoder(), "scan_once", json.JSONDecoder().raw_decode)


def dumps(body: Any) -> str:
    """The text of a body."""
    try:
        text = _encode(body)
    except RecursionError:
        raise InvalidMessageError("the body contains itself, or is nested too deep", "invalid_json") from None
    except (TypeError, ValueError) as error:
        raise InvalidMessageError(f"the body has no JSON form: {error}", "invalid_json") from error
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # Half of a surrogate pair has no UTF-8, but an escape.
            return json.dumps(body)
    return text


loads = json.loads


def unreadable(message_id: Optional[str], error: BaseException) -> None:
    """A message came that cannot be read here."""
    _log.warning("message %s cannot be read, and is dropped: %s", message_id, str(error))
