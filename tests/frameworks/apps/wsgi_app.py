"""A bare WSGI application."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from frameworks.probe import Reply, on_threads, stepped
from samesession import Sessions
from samesession._bridge import ready
from samesession.web.wsgi import SessionMiddleware

sessions = Sessions.from_env()
probe = on_threads(sessions)


class Closing:
    """A body with work to do when the response is over (PEP 3333's close)."""

    def __init__(self, body: list[bytes], close: Any) -> None:
        self.body, self.close = body, close

    def __iter__(self) -> Any:
        return iter(self.body)


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    session = environ["samesession"]

    async def opened() -> Any:
        return session

    if path.startswith("/x/stream/"):
        how = path.rpartition("/")[2]
        session["streamed"] = how
        start_response("200 OK", [("Content-Type", "text/plain")])
        return stepped(probe.pieces(session, how))
    if path == "/x/background":
        session["early"] = 1
        start_response("200 OK", [("Content-Type", "application/json")])
        return Closing([b"{}"], lambda: ready(probe.afterwards(session)))
    query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    reply: Reply = ready(probe.answer(method, path, query, body, opened))
    status = HTTPStatus(reply.status)
    start_response(f"{status.value} {status.phrase}", list(reply.headers.items()))
    return [] if method == "HEAD" else [reply.body]


app = SessionMiddleware(application, sessions)
