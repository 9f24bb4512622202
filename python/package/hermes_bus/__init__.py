"""A client of the hermes bus, and the programs of it.

``BusClient`` is a client with a name, ``send_message`` sends one message without one. ``hermes_bus.aio`` has the
same for asyncio.
"""
from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from hermes_bus.client import BusClient, Outstanding, Receipt, ensure_bus_running, list_endpoints, send_message
from hermes_bus.errors import (
    BusError,
    ClosedError,
    ConnectError,
    ForkedError,
    InvalidMessageError,
    NoAnswerError,
    RefusedError,
)

if TYPE_CHECKING:
    from hermes_bus.server import BusServer, run_server

__version__ = "0.8.0"

__all__ = [
    "BusClient",
    "BusError",
    "BusServer",
    "ClosedError",
    "ConnectError",
    "ForkedError",
    "InvalidMessageError",
    "NoAnswerError",
    "Outstanding",
    "Receipt",
    "RefusedError",
    "ensure_bus_running",
    "list_endpoints",
    "run_server",
    "send_message",
]


def __getattr__(name: str) -> Any:
    # Most programs that import this package serve no bus.
    if name in ("BusServer", "run_server"):
        return getattr(_import_module("hermes_bus.server"), name)
    raise AttributeError(f"module 'hermes_bus' has no attribute {name!r}")
