"""Flask."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, redirect, request, session

from frameworks.probe import on_threads, stepped
from samesession import Sessions
from samesession._bridge import ready
from samesession.web.flask import init_app

sessions = Sessions.from_env()
app = Flask(__name__)
init_app(app, sessions)
probe = on_threads(sessions)


async def opened() -> Any:
    return session._get_current_object()  # type: ignore[attr-defined]


@app.get("/x/stream/<how>")
def stream(how: str) -> Response:
    session["streamed"] = how
    mine = session._get_current_object()  # type: ignore[attr-defined]
    return Response(stepped(probe.pieces(mine, how)), content_type="text/plain")


@app.post("/x/background")
def background() -> Response:
    session["early"] = 1
    mine = session._get_current_object()  # type: ignore[attr-defined]
    response = Response("{}")
    response.call_on_close(lambda: ready(probe.afterwards(mine)))
    return response


@app.route("/<path:path>", methods=["GET", "PUT", "POST", "DELETE"])
def everything(path: str) -> Any:
    reply = ready(
        probe.answer(request.method, request.path, request.args, request.get_data(), opened)
    )
    if reply.location is not None:
        return redirect(reply.location, reply.status)
    return Response(reply.body, reply.status, reply.headers)
