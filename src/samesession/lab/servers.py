"""The programs that serve applications, and how each is started."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from samesession.errors import ConfigError
from samesession.lab.application import Interface
from samesession.lab.ports import LOOPBACK

TARGET = "samesession.lab.serve:app"

# Quiet about each request, since the balancer asks for /health twice a second, and done with slow
# ones before the supervisor's patience ends (child.STOP_S).
_ASGI: dict[str, str] = {
    "uvicorn": "--host {host} --port {port} --workers {workers} --log-level warning --no-access-log"
    " --timeout-graceful-shutdown 3",
    "granian": "--interface asgi --host {host} --port {port} --workers {workers}"
    " --log-level warning --respawn-failed-workers --workers-kill-timeout 3",
    "hypercorn": "--bind {host}:{port} --workers {workers}"
    " --log-level warning --graceful-timeout 3",
}
_WSGI = {
    "gunicorn": "--bind {host}:{port} --workers {workers}"
    " --config python:samesession.lab.gunicorn_conf"
}
SOFTWARE = tuple(_ASGI)


def software_for(interface: Interface, wanted: str | None) -> str:
    """Return the program to use: the wanted one for ASGI, gunicorn for WSGI.

    Raises:
        ConfigError: it is not installed.
    """
    software = "gunicorn" if interface == "wsgi" else wanted or "uvicorn"
    if importlib.util.find_spec(software) is None:
        raise ConfigError(
            f"{interface.upper()} applications are served by {software}, which is not installed: "
            f"pip install {software}"
        )
    return software


def command(software: str, *, port: int, workers: int) -> Sequence[str]:
    """Return the command that serves the application on ``port``."""
    options = (_ASGI | _WSGI)[software].format(host=LOOPBACK, port=port, workers=workers)
    return [sys.executable, "-m", software, TARGET, *options.split()]
