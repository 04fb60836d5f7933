"""Litestar."""

from __future__ import annotations

from typing import Any

from litestar import HttpMethod, Litestar, Request, Response, WebSocket, get, post, route, websocket
from litestar.background_tasks import BackgroundTask
from litestar.exceptions import WebSocketDisconnect
from litestar.response import Stream

from frameworks.probe import SERVER, on_loops
from samesession import Sessions
from samesession.web.litestar import session_middleware

sessions = Sessions.from_env()
probe = on_loops(sessions)


@get("/x/stream/{how:str}")
async def stream(request: Request[Any, Any, Any], how: str) -> Stream:
    request.session["streamed"] = how
    return Stream(probe.pieces(request.session, how))


@post("/x/background", status_code=200)
async def background(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    request.session["early"] = 1
    return Response({}, background=BackgroundTask(probe.afterwards, request.session))


@websocket("/api/socket")
async def socket(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    try:
        session: Any = socket.session
        await socket.send_json({"server": SERVER, "principal": session.principal})
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        return


METHODS = [HttpMethod.GET, HttpMethod.PUT, HttpMethod.POST, HttpMethod.DELETE, HttpMethod.HEAD]


PATHS = ["/health", "/api/{path:path}", "/x/{path:path}"]


@route(PATHS, http_method=METHODS, status_code=200)
async def everything(request: Request[Any, Any, Any]) -> Response[bytes]:
    async def opened() -> Any:
        return request.session

    body = await request.body()
    query = {key: str(value) for key, value in request.query_params.items()}
    reply = await probe.answer(request.method, request.url.path, query, body, opened)
    return Response(
        reply.body,
        status_code=reply.status,
        headers=reply.headers,
        media_type="application/json",
    )


app = Litestar(
    [stream, background, socket, everything],
    middleware=[session_middleware(sessions)],
    on_startup=[sessions.ready],
    on_shutdown=[sessions.close],
    request_max_body_size=10_000_000,
)
