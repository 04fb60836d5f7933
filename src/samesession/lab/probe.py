"""Import the user's application once, in a process of its own, and write down what it is.

The supervisor asks through ``python -m samesession.lab.probe FILE``: it never runs foreign code.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from samesession.errors import ConfigError
from samesession.lab.application import interface_of, load
from samesession.lab.variables import APP


def report() -> dict[str, object]:
    """Return ``{"interface", "from_env"}``, or ``{"problem"}``."""
    spec = os.environ[APP]
    try:
        interface = interface_of(load(spec))
    except ConfigError as error:
        return {"problem": str(error)}
    if interface is None:
        return {"problem": f"{spec!r} is neither an ASGI nor a WSGI application"}
    # Not imported here: an application that does not use samesession would then load it too.
    sessions = sys.modules.get("samesession.sessions")
    return {"interface": interface, "from_env": getattr(sessions, "opened_from_env", False)}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(report()))
    sys.stdout.flush()
    os._exit(0)  # threads or handlers that the application left behind are not waited for
