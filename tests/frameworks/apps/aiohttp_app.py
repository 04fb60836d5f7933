"""aiohttp; run by itself: ``python -m frameworks.serve_aiohttp PORT``, or by gunicorn's worker."""

from __future__ import annotations

from typing import Any

from aiohttp import WSMsgType, web

from frameworks.probe import SERVER, on_loops
from samesession import Sessions
from samesession.web.aiohttp import get_session, setup

sessions = Sessions.from_env()
probe = on_loops(sessions)


async def stream(request: web.Request) -> web.StreamResponse:
    how = request.match_info["how"]
    session = await get_session(request)
    session["streamed"] = how
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    async for piece in probe.pieces(session, how):
        await response.write(piece)
    return response


async def background(request: web.Request) -> web.StreamResponse:
    session = await get_session(request)
    session["early"] = 1
    response = web.json_response({})
    await response.prepare(request)
    await response.write_eof()
    await probe.afterwards(session)
    return response


async def socket(request: web.Request) -> web.StreamResponse:
    session = await get_session(request)
    response = web.WebSocketResponse()
    await response.prepare(request)
    await response.send_json({"server": SERVER, "principal": session.principal})
    async for message in response:
        if message.type is WSMsgType.TEXT:
            await response.send_str(message.data)
    return response


async def everything(request: web.Request) -> web.Response:
    async def opened() -> Any:
        return await get_session(request)

    body = await request.read()
    reply = await probe.answer(request.method, request.path, request.query, body, opened)
    if reply.location is not None:
        raise web.HTTPSeeOther(reply.location)
    return web.Response(body=reply.body, status=reply.status, headers=reply.headers)


app = web.Application(client_max_size=10_000_000)
setup(app, sessions)
app.add_routes(
    [
        web.get("/x/stream/{how}", stream),
        web.post("/x/background", background),
        web.get("/api/socket", socket),
        web.route("*", "/{path:.*}", everything),
    ]
)
