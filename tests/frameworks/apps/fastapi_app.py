"""FastAPI."""

from __future__ import annotations

from typing import Any

from fastapi import BackgroundTasks, FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from frameworks.probe import SERVER, on_loops
from samesession import Sessions
from samesession.web.asgi import SessionMiddleware
from samesession.web.fastapi import SessionDep

sessions = Sessions.from_env()
app = FastAPI()
app.add_middleware(SessionMiddleware, sessions=sessions)
probe = on_loops(sessions)


@app.get("/x/stream/{how}")
async def stream(session: SessionDep, how: str) -> StreamingResponse:
    session["streamed"] = how
    return StreamingResponse(probe.pieces(session, how))


@app.post("/x/background")
async def background(session: SessionDep, tasks: BackgroundTasks) -> dict[str, Any]:
    session["early"] = 1
    tasks.add_task(probe.afterwards, session)
    return {}


@app.websocket("/api/socket")
async def socket(websocket: WebSocket, session: SessionDep) -> None:
    await websocket.accept()
    try:
        await websocket.send_json({"server": SERVER, "principal": session.principal})
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        return


@app.api_route("/{path:path}", methods=["GET", "HEAD", "PUT", "POST", "DELETE"])
async def everything(request: Request, session: SessionDep) -> Response:
    async def opened() -> Any:
        return session

    body = await request.body()
    path = request.url.path
    reply = await probe.answer(request.method, path, request.query_params, body, opened)
    return Response(reply.body, reply.status, reply.headers)
