"""Quart."""

from __future__ import annotations

from typing import Any

from quart import Quart, Response, redirect, request, session, websocket

from frameworks.probe import SERVER, on_loops
from samesession import Sessions
from samesession.web.quart import init_app

sessions = Sessions.from_env()
app = Quart(__name__)
init_app(app, sessions)
probe = on_loops(sessions)


def current() -> Any:
    return session._get_current_object()  # type: ignore[attr-defined]


async def opened() -> Any:
    return current()


@app.get("/x/stream/<how>")
async def stream(how: str) -> Response:
    session["streamed"] = how
    return Response(probe.pieces(current(), how), content_type="text/plain")


@app.post("/x/background")
async def background() -> dict[str, Any]:
    session["early"] = 1
    app.add_background_task(probe.afterwards, current())
    return {}


@app.websocket("/api/socket")
async def socket() -> None:
    await websocket.send_json({"server": SERVER, "principal": current().principal})
    while True:
        await websocket.send(await websocket.receive())


@app.route("/<path:path>", methods=["GET", "PUT", "POST", "DELETE"])
async def everything(path: str) -> Any:
    body = await request.get_data()
    reply = await probe.answer(request.method, request.path, request.args, body, opened)
    if reply.location is not None:
        return redirect(reply.location, reply.status)
    return Response(reply.body, reply.status, reply.headers)
