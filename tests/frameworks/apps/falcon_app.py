"""Falcon, as any WSGI application and as any ASGI application: ``app`` and ``asgi``."""

from __future__ import annotations

from typing import Any

import falcon
import falcon.asgi
from falcon.constants import WebSocketPayloadType

from frameworks.probe import SERVER, Reply, on_loops, on_threads, stepped
from samesession import Sessions
from samesession._bridge import ready
from samesession.web import asgi as our_asgi
from samesession.web import wsgi as our_wsgi

sessions = Sessions.from_env()


def say(reply: Reply, resp: Any) -> None:
    resp.status, resp.data = reply.status, reply.body
    for name, value in reply.headers.items():
        resp.set_header(name, value)


class Everything:
    def __init__(self) -> None:
        self.probe = on_threads(sessions)

    def __call__(self, req: falcon.Request, resp: falcon.Response, **_parts: str) -> None:
        session = req.env["samesession"]
        match req.path.strip("/").split("/"):
            case ["x", "stream", how]:
                session["streamed"] = how
                resp.stream = stepped(self.probe.pieces(session, how))
                return
            case ["x", "background"]:
                session["early"] = 1
                resp.stream = self._afterwards(session)
                return

        async def opened() -> Any:
            return session

        body = req.bounded_stream.read()
        say(ready(self.probe.answer(req.method, req.path, req.params, body, opened)), resp)

    def _afterwards(self, session: Any) -> Any:
        yield b"{}"
        ready(self.probe.afterwards(session))


class EverythingAsync:
    def __init__(self) -> None:
        self.probe = on_loops(sessions)

    async def __call__(self, req: Any, resp: Any, **_parts: str) -> None:
        session = req.scope["session"]
        match req.path.strip("/").split("/"):
            case ["x", "stream", how]:
                session["streamed"] = how
                resp.stream = self.probe.pieces(session, how)
                return
            case ["x", "background"]:
                session["early"] = 1
                resp.data = b"{}"

                async def afterwards() -> None:
                    await self.probe.afterwards(session)

                resp.schedule(afterwards)
                return

        async def opened() -> Any:
            return session

        body = await req.stream.read()
        say(await self.probe.answer(req.method, req.path, req.params, body, opened), resp)


class Socket:
    async def on_websocket(self, req: Any, socket: falcon.asgi.WebSocket) -> None:
        await socket.accept()
        try:
            media = {"server": SERVER, "principal": req.scope["session"].principal}
            await socket.send_media(media, WebSocketPayloadType.TEXT)
            while True:
                await socket.send_text(await socket.receive_text())
        except falcon.WebSocketDisconnected:
            return


def made(application: Any, everything: Any) -> Any:
    application.add_sink(everything, "/")
    return application


app = our_wsgi.SessionMiddleware(made(falcon.App(), Everything()), sessions)
_asgi = falcon.asgi.App()
_asgi.add_route("/api/socket", Socket())
asgi = our_asgi.SessionMiddleware(made(_asgi, EverythingAsync().__call__), sessions)
