"""Bottle, as any WSGI application."""

from __future__ import annotations

from typing import Any

import bottle

from frameworks.probe import on_threads, stepped
from samesession import Sessions
from samesession._bridge import ready
from samesession.web.wsgi import SessionMiddleware

sessions = Sessions.from_env()
bottle.BaseRequest.MEMFILE_MAX = 10_000_000
application = bottle.Bottle()
probe = on_threads(sessions)


@application.get("/x/stream/<how>")
def stream(how: str) -> Any:
    session = bottle.request.environ["samesession"]
    session["streamed"] = how
    return stepped(probe.pieces(session, how))


@application.post("/x/background")
def background() -> Any:
    session = bottle.request.environ["samesession"]
    session["early"] = 1

    def body() -> Any:
        yield b"{}"
        ready(probe.afterwards(session))

    return body()


@application.route("/<path:path>", method=["GET", "PUT", "POST", "DELETE"])
def everything(path: str) -> Any:
    request = bottle.request

    async def opened() -> Any:
        return request.environ["samesession"]

    query, body = dict(request.query), request.body.read()
    reply = ready(probe.answer(request.method, request.path, query, body, opened))
    return bottle.HTTPResponse(reply.body, reply.status, reply.headers)


app = SessionMiddleware(application, sessions)
