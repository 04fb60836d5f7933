"""A bare ASGI application."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from frameworks.probe import SERVER, on_loops
from samesession import Sessions
from samesession.web.asgi import SessionMiddleware

sessions = Sessions.from_env()
probe = on_loops(sessions)


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    session = scope["session"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        text = json.dumps({"server": SERVER, "principal": session.principal})
        await send({"type": "websocket.send", "text": text})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return

    async def opened() -> Any:
        return session

    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    body += message.get("body", b"")
    path = scope["path"]
    plain = [(b"content-type", b"text/plain")]
    if path.startswith("/x/stream/"):
        how = path.rpartition("/")[2]
        session["streamed"] = how
        await send({"type": "http.response.start", "status": 200, "headers": plain})
        async for piece in probe.pieces(session, how):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})
        return
    if path == "/x/background":
        session["early"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": plain})
        await send({"type": "http.response.body", "body": b"{}"})
        await probe.afterwards(session)
        return
    query = dict(parse_qsl(scope["query_string"].decode()))
    reply = await probe.answer(scope["method"], path, query, body, opened)
    headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


app = SessionMiddleware(application, sessions)
