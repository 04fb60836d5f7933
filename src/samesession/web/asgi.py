"""ASGI: ``app.add_middleware(SessionMiddleware, sessions=sessions)``.

The session stands in ``scope["session"]``, so it is Starlette's and FastAPI's ``request.session``
and ``websocket.session``. It is loaded before the handler, since neither can await, and committed
before the first byte of the response.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import Any

from samesession.errors import RetryableError
from samesession.session import Client, Session
from samesession.sessions import Sessions
from samesession.web._http import (
    CookieCodec,
    client_of,
    nothing_left,
    unavailable,
    uncached,
    varied,
)
from samesession.web._sockets import Sockets

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TRY_AGAIN_LATER = 1013
"""RFC 6455's registry of close codes: the server cannot do it now."""


class SessionMiddleware:
    """Gives every http and websocket request its session."""

    def __init__(self, app: App, sessions: Sessions) -> None:
        """Wrap ``app``.

        Args:
            app: any ASGI application.
            sessions: shared by all requests; closed when the server shuts down.
        """
        self.app = app
        self.sessions = sessions
        self._core = sessions.loops
        self._codec = CookieCodec(sessions.cookie)
        self._sockets = Sockets(self._core)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, one socket, or one server's life."""
        kind = scope["type"]
        if kind == "http":
            session = await self._open(scope)
            await _Http(self, session, send).run(scope, receive)
        elif kind == "websocket":
            session = await self._open(scope)
            committing = self._committing(session, send)
            await self._sockets.run(self.app, session, scope, receive, send, committing)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _open(self, scope: Scope) -> Session:
        values: list[bytes] = []
        for name, header in scope["headers"]:
            if name == b"cookie":  # HTTP/2 may split the header (RFC 9113 8.2.3)
                values += self._codec.values(header)
        value = values[0] if values else None
        if len(values) > 1 and any(other != value for other in values):
            # Which of the two is meant cannot be known, and one may be planted.
            self.sessions.counts.add("ambiguous")
            value = None
        session = await self._core.open(value, partial(_client, scope))
        scope["session"] = session
        return session

    def headers(self, session: Session, message: Message) -> Message:
        """The response's start with what the session adds to its headers."""
        if session._used:
            headers = varied(list(message.get("headers", ())))
            if session._life.cookie is not None:
                cookie = self._codec.set(session._life).encode("latin-1")
                headers = [*uncached(headers), (b"set-cookie", cookie)]
            message["headers"] = headers
        return message

    def _committing(self, session: Session, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] in {"websocket.accept", "websocket.http.response.start"}:
                await self._core.finish(session)
                message = self.headers(session, message)
                session._life.started = True
            await send(message)

        return sending

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self.sessions.ready()
            if message["type"] in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
                await self.sessions.close()
            await send(message)

        await self.app(scope, receive, sending)


class _Http:
    """One http request: the send that commits before the first byte."""

    __slots__ = ("_core", "_middleware", "_refused", "_send", "_session", "_streams")

    def __init__(self, middleware: SessionMiddleware, session: Session, send: Send) -> None:
        self._middleware = middleware
        self._core = middleware._core
        self._session = session
        self._send = send
        self._refused = self._streams = False

    async def run(self, scope: Scope, receive: Receive) -> None:
        life = self._session._life
        try:
            await self._middleware.app(scope, receive, self.send)
        except Exception as error:
            with suppress(RetryableError):  # a logout counts
                await self._core.finish(self._session, failed=True)
            retryable = isinstance(error, RetryableError)
            failure = error if retryable else life.failure if life.failed else None
            if failure is not None and not (life.started or self._refused):
                await self._refuse(failure)  # also where the handler made something else of it
            if not (retryable and self._refused):
                raise
            return
        if life.started and self._core.uncommitted(self._session):
            await nothing_left(self._core, self._session)

    async def send(self, message: Message) -> None:
        if self._refused:
            return  # 503 was the answer
        kind = message["type"]
        session = self._session
        if kind == "http.response.start" and not session._life.started:
            if not self._core.only_read(session):
                try:
                    await self._core.finish(session)
                except RetryableError as error:
                    await self._refuse(error)
                    return
            session._life.started = True
            message = self._middleware.headers(session, message)
        elif kind == "http.response.body":
            if message.get("more_body"):
                self._streams = True
            elif self._streams and self._core.uncommitted(session):
                await nothing_left(self._core, session)  # the client shall not see a whole answer
        await self._send(message)

    async def _refuse(self, error: Exception) -> None:
        self._refused = True
        headers, body = unavailable(error)
        await self._send({"type": "http.response.start", "status": 503, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _client(scope: Scope) -> Client:
    agents = [value for name, value in scope["headers"] if name == b"user-agent"]
    address = scope.get("client")
    return client_of(agents[0].decode("latin-1") if agents else "", address[0] if address else "")
