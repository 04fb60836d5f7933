"""A strict ASGI server for tests: what an application sends must be a whole, legal response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from visits import World

from samesession import Session
from samesession.web.asgi import SessionMiddleware

App = Callable[[Any, Any, Any], Awaitable[None]]
Message = dict[str, Any]


@dataclass
class Answer:
    """What the client got, and the error that reached the server."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False
    error: BaseException | None = None
    length: int | None = None  # of the body's pieces, where WSGI tells

    def all(self, name: str) -> list[str]:
        return [value for said, value in self.headers if said.lower() == name]

    def __getitem__(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) <= 1, f"{name} twice: {found}"
        return found[0] if found else None

    def sent(self, message: Message) -> None:
        assert not self.whole, f"after the end of the response: {message}"
        if message["type"] == "http.response.start":
            assert self.status == 0, "a second start"
            self.status = message["status"]
            self.headers = [(n.decode("ascii"), v.decode("latin-1")) for n, v in message["headers"]]
        else:
            assert message["type"] == "http.response.body", message
            assert self.status, "a body before the start"
            self.body += message.get("body", b"")
            self.whole = not message.get("more_body", False)


class Visitor:
    """One browser at one application."""

    def __init__(self, app: App, name: str = "__Host-session", cookie: str | None = None) -> None:
        self.app = app
        self.name = name
        self.cookie = cookie

    async def asks(
        self,
        path: str = "/",
        method: str = "GET",
        cookies: Iterable[bytes] | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> Answer:
        """Make a request; ``cookies`` are whole Cookie headers instead of the browser's own."""
        if cookies is None:
            cookies = [f"{self.name}={self.cookie}".encode()] if self.cookie else []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"shop"), *headers, *((b"cookie", value) for value in cookies)],
            "client": ("10.1.2.3", 5000),
            "server": ("shop", 443),
        }
        answer, over = Answer(), asyncio.Event()
        received: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Message:
            if received:
                return received.pop()
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            answer.sent(message)
            if answer.whole:
                over.set()

        try:
            await self.app(scope, receive, send)
        except Exception as error:  # noqa: BLE001  (the server's log)
            answer.error = error
        self.keeps(answer)
        return answer

    def keeps(self, answer: Answer) -> None:
        """As a browser does."""
        for line in answer.all("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            if name == self.name:
                self.cookie = value or None


class Socket:
    """One websocket's client, and the server in between."""

    def __init__(self, visitor: Visitor, *, denial: bool = False, path: str = "/") -> None:
        self.visitor = visitor
        self.answer = Answer()
        self.accepted: Message | None = None
        self.closed: int | None = None
        self.gone = False  # the client has gone, and the server has not noticed
        self.error: BaseException | None = None
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._to_client: asyncio.Queue[Message] = asyncio.Queue()
        cookie = f"{visitor.name}={visitor.cookie}".encode() if visitor.cookie else b""
        self._scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "scheme": "wss",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"cookie", cookie)] if cookie else [],
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}} if denial else {},
            "client": None,
        }

    async def __aenter__(self) -> Socket:
        self._to_app.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": 1001})
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(self._task, 5)

    async def _run(self) -> None:
        try:
            await self.visitor.app(self._scope, self._to_app.get, self._send)
        except Exception as error:  # noqa: BLE001  (the server's log)
            self.error = error
        self._to_client.put_nowait({"type": "over"})

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self.gone:
            raise OSError("the client has gone")
        assert self.closed is None, f"after the close: {message}"
        if kind == "websocket.accept":
            assert self.accepted is None
            assert not self.answer.status
            self.accepted = message
            self.answer.headers = [
                (name.decode(), value.decode("latin-1"))
                for name, value in message.get("headers", ())
            ]
            self.visitor.keeps(self.answer)
        elif kind == "websocket.close":
            self.closed = message["code"]
            self._to_app.put_nowait({"type": "websocket.disconnect", "code": message["code"]})
        elif kind.startswith("websocket.http.response."):
            assert self.accepted is None
            self.answer.sent({**message, "type": kind.removeprefix("websocket.")})
        else:
            assert self.accepted, f"before the accept: {message}"
        self._to_client.put_nowait(message)

    async def says(self, text: str) -> None:
        self._to_app.put_nowait({"type": "websocket.receive", "text": text})

    async def hears(self) -> Message:
        """The next message from the application, or that it is over."""
        return await asyncio.wait_for(self._to_client.get(), 5)

    async def ends(self) -> None:
        """Wait until the application is done."""
        await asyncio.wait_for(asyncio.shield(self._task), 5)


Handler = Callable[[Session], object]


def app_of(world: World, *handlers: Handler, status: int = 200) -> SessionMiddleware:
    """A plain application: each request is answered by the next handler, the last one for ever."""
    waiting = list(handlers)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        handler = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        result = handler(scope["session"])
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": repr(result).encode()})

    return SessionMiddleware(app, world.sessions)
