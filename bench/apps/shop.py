"""The application that every contestant serves: fill a session, read one key, change one key."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bench.apps.payload import payload


def shop(session_of: Callable[[Request], MutableMapping[str, Any]]) -> Starlette:
    """Return the application; `session_of` says where a request's session is.

    Each answer is the session's counter, so a client that knows what it should be
    has proof that the session was really read, and that its last write was really kept.
    """

    async def login(request: Request) -> Response:
        start = int(request.query_params["start"])
        session_of(request).update(payload(start))
        return PlainTextResponse(str(start))

    async def read(request: Request) -> Response:
        return PlainTextResponse(str(session_of(request)["count"]))

    async def write(request: Request) -> Response:
        session = session_of(request)
        session["count"] += 1
        return PlainTextResponse(str(session["count"]))

    return Starlette(
        routes=[
            Route("/login", login, methods=["POST"]),
            Route("/read", read, methods=["GET"]),
            Route("/write", write, methods=["POST"]),
        ]
    )


def session_in_request(request: Request) -> MutableMapping[str, Any]:
    """Find the session where Starlette's convention puts it."""
    return request.session
