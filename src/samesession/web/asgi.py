"""ASGI: ``app.add_middleware(SessionMiddleware, sessions=sessions)``.

The session stands in ``scope["session"]``, so it is Starlette's and FastAPI's ``request.session``
and ``websocket.session``. It is loaded before the handler, since neither can await, and committed
before the first byte of the response.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from samesession.errors import AnsweredError, ConfigError
from samesession.session import Client, Session
from samesession.sessions import Sessions
from samesession.web._adopt import OldCookies
from samesession.web._checks import check_once, check_sessions, is_wsgi
from samesession.web._http import (
    TOKEN_HEADER,
    CookieCodec,
    client_of,
    nothing_left,
    refusal,
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

    kind: type[Session] = Session
    login_keys: Sequence[str] = ()
    """Where the framework's own login marks who it is, unless ``principal_key`` says otherwise."""

    def __init__(self, app: App, sessions: Sessions) -> None:
        """Wrap ``app``.

        Args:
            app: any ASGI application.
            sessions: shared by all requests; closed when the server shuts down.

        Raises:
            ConfigError: installed twice, no `Sessions`, or a WSGI application.
        """
        check_sessions(sessions, "SessionMiddleware(app, sessions)")
        check_once(app, SessionMiddleware)
        if is_wsgi(app):
            raise ConfigError(
                "samesession.web.asgi wraps ASGI applications, and this one is WSGI; "
                "write: from samesession.web.wsgi import SessionMiddleware"
            )
        self.app = app
        self.sessions = sessions
        self._core = sessions.loops
        self._codec = CookieCodec(sessions.cookie, sessions.carrier)
        self._plain = self._codec.plain and not sessions.adopt
        self._old = OldCookies(
            lambda: sessions.old_loops,
            sessions.adopt,
            sessions.cookie,
            sessions.login_keys or self.login_keys,
        )
        self._sockets = Sockets(self._core)

    async def __call__(  # noqa: C901  (a request from top to bottom; each call more costs every request)
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer one request, one socket, or one server's life."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        core = self._core
        if self._plain:  # one call less, for most
            cookie = self._cookie(scope["headers"])
            session = scope["session"] = await core.open(cookie, partial(_client, scope), self.kind)
        else:
            session = await self.open(scope)
        life = session._life
        refused = streams = False

        async def sending(message: Message) -> None:
            nonlocal refused, streams
            if refused:
                return  # 503 was the answer
            kind = message["type"]
            if kind == "http.response.start" and not life.started:
                refused = not (core.only_read(session) or await self._finished(session, send))
                if refused:
                    return
                life.started = True
                message = self.headers(session, message)
            elif kind == "http.response.body":
                if message.get("more_body"):
                    streams = True
                elif streams and core.uncommitted(session):
                    await nothing_left(core, session)  # the client shall not see a whole answer
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            if not await self._failed(session, error, send, refused=refused):
                raise
        else:
            if life.started and core.uncommitted(session):
                await nothing_left(core, session)

    async def _finished(self, session: Session, send: Send) -> bool:
        """Commit before the first byte; where that fails, 503 is the answer."""
        try:
            await self._core.finish(session)
        except AnsweredError as error:
            await _refuse(error, send)
            return False
        return True

    async def _failed(
        self, session: Session, error: Exception, send: Send, *, refused: bool
    ) -> bool:
        """Answer 503 when the session was the reason; whether that is all there is to say."""
        life = session._life
        with suppress(AnsweredError):  # a logout counts
            await self._core.finish(session, failed=True)
        retryable = isinstance(error, AnsweredError)
        failure = error if retryable else life.failure if life.failed else None
        if failure is not None and not (life.started or refused):
            refused = True
            await _refuse(failure, send)  # also where the handler made something else of it
        return retryable and refused

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "websocket":
            session = await self.open(scope)
            committing = self._committing(session, send)
            await self._sockets.run(self.app, session, scope, receive, send, committing)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def open(self, scope: Scope) -> Session:
        """Open the session that a request's cookie names."""
        cookie, by_header = self._cookie(scope["headers"]), False
        if not self._codec.plain:
            tokens = [value for name, value in scope["headers"] if name == TOKEN_HEADER]
            cookie, by_header = self._codec.carried(tokens[0] if tokens else None, cookie)
        session = await self._core.open(cookie, partial(_client, scope), self.kind)
        session._life.by_header = by_header
        cookies = (value for name, value in scope["headers"] if name == b"cookie")
        scope["session"] = session = await self._old.moved_in(session, cookies)
        return session

    def _cookie(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """The value of the one cookie of our name, if there is one."""
        values: list[bytes] = []
        for name, header in headers:
            if name == b"cookie":  # HTTP/2 may split the header (RFC 9113 8.2.3)
                values += self._codec.values(header)
        if not values:
            return None
        if len(values) > 1 and any(other != values[0] for other in values):
            # Which of the two is meant cannot be known, and one may be planted.
            self.sessions.counts.add("ambiguous")
            return None
        return values[0]

    def headers(self, session: Session, message: Message) -> Message:
        """The response's start with what the session adds to its headers."""
        if session._used:
            life = session._life
            message["headers"] = self._codec.answered(message.get("headers", ()), life)
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


async def _refuse(error: Exception, send: Send) -> None:
    status, headers, body = refusal(error)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _client(scope: Scope) -> Client:
    agents = [value for name, value in scope["headers"] if name == b"user-agent"]
    address = scope.get("client")
    return client_of(agents[0].decode("latin-1") if agents else "", address[0] if address else "")
