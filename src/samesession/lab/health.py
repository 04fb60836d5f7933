"""``/health`` in front of any application: 200 (up), 404 (draining), 503 (joining, stopping)."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from types import FrameType
from typing import Any

PATH = "/health"
METHODS = ("GET", "HEAD")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]
StartResponse = Callable[..., Any]
Wsgi = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

_LINES = {200: "200 OK", 404: "404 Not Found", 503: "503 Service Unavailable"}
_TEXTS = {200: b"up\n", 404: b"draining\n", 503: b"joining or stopping\n"}


class Health:
    """How this server feels.

    Args:
        drain: while this file exists the server drains: balancers send it nobody new.
        joined: whether its sessions can be answered for; a cluster's server has to join first.
    """

    def __init__(self, drain: Path, joined: Callable[[], bool] = lambda: True) -> None:
        self.stopping = False
        self._drain = drain
        self._joined = joined

    @property
    def status(self) -> int:
        """The status that ``/health`` answers."""
        if self.stopping or not self._joined():
            return 503
        return 404 if self._drain.exists() else 200

    def stop_on_sigterm(self) -> None:
        """Note SIGTERM, then let the server's own handler do what it does."""
        theirs = signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: FrameType | None) -> None:
            self.stopping = True
            if callable(theirs):
                theirs(number, frame)
            else:  # the default action, which a handler in Python cannot call
                signal.signal(number, theirs or signal.SIG_DFL)
                signal.raise_signal(number)

        signal.signal(signal.SIGTERM, handle)


def asgi(application: Asgi, health: Health) -> Asgi:
    """Wrap an ASGI application; websockets and the lifespan pass through."""

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] not in METHODS:
            await application(scope, receive, send)
            return
        status = health.status
        body = _TEXTS[status]
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", b"text/plain"),
                    (b"content-length", b"%d" % len(body)),
                    (b"cache-control", b"no-store"),
                ],
            }
        )
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )

    return wrapped


def wsgi(application: Wsgi, health: Health) -> Wsgi:
    """Wrap a WSGI application."""

    def wrapped(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != PATH or environ["REQUEST_METHOD"] not in METHODS:
            return application(environ, start_response)
        status = health.status
        body = _TEXTS[status]
        start_response(
            _LINES[status],
            [
                ("Content-Type", "text/plain"),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
            ],
        )
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    return wrapped
