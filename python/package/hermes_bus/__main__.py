"""``python -m hermes_bus``: which version this is, and where everything is."""
import os
import sys

import hermes_bus
from hermes_bus import _native, _programs


def main() -> None:
    root = _native.default_root()
    rows = [
        ("hermes-bus", hermes_bus.__version__),
        ("python", f"{sys.version.split()[0]}  {sys.executable}"),
        ("package", os.path.dirname(os.path.abspath(hermes_bus.__file__))),
        ("root", root),
        ("socket", _native.default_socket()),
        ("log", os.path.join(root, "run", "busd.log")),
    ]
    for name in ("hermes-busd", "hermes-bus-server", "hermes-bus"):
        rows.append((name, _programs.find(name) or "not found"))
    try:
        listing = hermes_bus.list_endpoints(start=False)
        rows.append(("bus", f"runs, {len(listing)} endpoint(s)"))
    except hermes_bus.BusError as error:
        rows.append(("bus", str(error)))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    main()
