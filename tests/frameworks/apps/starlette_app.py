"""Starlette."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from frameworks.probe import SERVER, on_loops
from samesession import Sessions
from samesession.web.asgi import SessionMiddleware

sessions = Sessions.from_env()
probe = on_loops(sessions)


async def stream(request: Request) -> Response:
    how = request.path_params["how"]
    request.session["streamed"] = how
    return StreamingResponse(probe.pieces(request.session, how))


async def background(request: Request) -> Response:
    request.session["early"] = 1
    return JSONResponse({}, background=BackgroundTask(probe.afterwards, request.session))


async def everything(request: Request) -> Response:
    async def opened() -> Any:
        return request.session

    body = await request.body()
    path = request.url.path
    reply = await probe.answer(request.method, path, request.query_params, body, opened)
    return Response(reply.body, reply.status, reply.headers)


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        await websocket.send_json(
            {"server": SERVER, "principal": websocket.session.principal}  # type: ignore[attr-defined]
        )
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        return


app = Starlette(
    routes=[
        Route("/x/stream/{how}", stream),
        Route("/x/background", background, methods=["POST"]),
        WebSocketRoute("/api/socket", socket),
        Route("/{path:path}", everything, methods=["GET", "PUT", "POST", "DELETE"]),
    ]
)
app.add_middleware(SessionMiddleware, sessions=sessions)
