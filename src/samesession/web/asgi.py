"""ASGI: ``app.add_middleware(SessionMiddleware, sessions=sessions)``.

The session stands in ``scope["session"]``, so it is Starlette's and FastAPI's ``request.session``
and ``websocket.session``. It is loaded before the handler, since neither can await, and committed
before the first byte of the response.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from samesession.errors import AnsweredError, ConfigError
from samesession.life import Client
from samesession.session import Session
from samesession.sessions import Sessions
from samesession.web._adopt import OldCookies
from samesession.web._checks import (
    called_as,
    check_alone,
    check_mounted,
    check_once,
    check_plain,
    check_sessions,
    is_wsgi,
)
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

    @called_as("app.add_middleware(SessionMiddleware, sessions=sessions)")
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
        if self.kind is Session:
            check_plain(app)
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
        self._kind = self.kind

    async def __call__(  # noqa: C901  (a request from top to bottom; each call more costs every request)
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer one request, one socket, or one server's life."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        if "session" in scope:
            check_alone(scope["session"])
        core, headers = self._core, scope["headers"]
        if self._plain:  # one call less, for most
            cookie = self._cookie(headers)
            session = await core.open(
                cookie, partial(_client, headers, scope.get("client")), self._kind
            )
            scope["session"] = session
        else:
            session = await self.open(scope)
        life = session._life
        streams = False

        def sending(message: Message) -> Awaitable[None]:
            # A plain function: most messages pass without a coroutine of ours.
            nonlocal streams
            if life.started:
                if message.get("more_body"):
                    streams = True
                elif (
                    streams
                    and message["type"] == "http.response.body"
                    and core.uncommitted(session)
                ):
                    return self._completed(session, message, send)
            elif life.refused:
                return _nothing()
            elif message["type"] == "http.response.start":
                if not core.only_read(session):
                    return self._committed(session, message, send)
                life.started = True
                message = self.headers(session, message)
            return send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            if not await self._failed(session, error, send):
                raise
        else:
            if (
                (session._written or session._lent or life.leaving)
                and life.started
                and core.uncommitted(session)
            ):
                await nothing_left(core, session)

    async def _committed(self, session: Session, message: Message, send: Send) -> None:
        """Commit before the first byte; where that fails, 503 is the answer."""
        life = session._life
        try:
            await self._core.finish(session)
        except AnsweredError as error:
            life.refused = True
            await _refuse(error, send)
            return
        life.started = True
        await send(self.headers(session, message))

    async def _completed(self, session: Session, message: Message, send: Send) -> None:
        """End a stream, unless something is left: the client shall not see a whole answer then."""
        await nothing_left(self._core, session)
        await send(message)

    async def _failed(self, session: Session, error: Exception, send: Send) -> bool:
        """Answer 503 when the session was the reason; whether that is all there is to say."""
        life = session._life
        with suppress(AnsweredError):  # a logout counts
            await self._core.finish(session, failed=True)
        retryable = isinstance(error, AnsweredError)
        failure = error if retryable else life.failure if life.failed else None
        if failure is not None and not (life.started or life.refused):
            life.refused = True
            await _refuse(failure, send)  # also where the handler made something else of it
        return retryable and life.refused

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "websocket":
            if "session" in scope:
                check_alone(scope["session"])
            session = await self.open(scope)
            committing = self._committing(session, send)
            await self._sockets.run(self.app, session, scope, receive, send, committing)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def open(self, scope: Scope) -> Session:
        """Open the session that a request's cookie names."""
        headers = scope["headers"]
        cookie, by_header = self._cookie(headers), False
        if not self._codec.plain:
            tokens = [value for name, value in headers if name == TOKEN_HEADER]
            cookie, by_header = self._codec.carried(tokens[0] if tokens else None, cookie)
        session = await self._core.open(
            cookie, partial(_client, headers, scope.get("client")), self.kind
        )
        session._life.by_header = by_header
        cookies = (value for name, value in headers if name == b"cookie")
        scope["session"] = session = await self._old.moved_in(session, cookies)
        return session

    def _cookie(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """The value of the one cookie of our name, if there is one."""
        values: list[bytes] | None = None
        for name, header in headers:
            if name == b"cookie":  # HTTP/2 may split the header (RFC 9113 8.2.3)
                found = self._codec.values(header)
                values = found if values is None else values + found
        if not values:
            return None
        if len(values) > 1 and any(other != values[0] for other in values):
            # Which of the two is meant cannot be known, and one may be planted.
            self.sessions.counts.add("ambiguous")
            return None
        return values[0]

    def headers(self, session: Session, message: Message) -> Message:
        """The response's start with what the session adds to its headers.

        A new message: a cache of responses inside may keep the application's, and what stands in it
        would be everybody's.
        """
        if not session._used:
            return message
        headers = self._codec.answered(message.get("headers", ()), session._life)
        return {**message, "headers": headers}

    def _committing(self, session: Session, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] in {"websocket.accept", "websocket.http.response.start"}:
                await self._core.finish(session)
                message = self.headers(session, message)
                session._life.started = True
            await send(message)

        return sending

    def check(self) -> None:
        """See, when the server starts, that no other layer takes our place.

        Raises:
            ConfigError: naming its line.
        """
        check_mounted(self.app, SessionMiddleware, self.sessions.cookie.name)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.check()
        except ConfigError as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise

        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self.sessions.ready()
            if message["type"] in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
                await self.sessions.close()
            await send(message)

        await self.app(scope, receive, sending)


class Connection(Protocol):
    """A request or a websocket, Starlette's or any other that knows its scope."""

    @property
    def scope(self) -> Any:
        """The ASGI scope."""
        ...


def current_session(connection: Connection) -> Session:
    """The session of a request or websocket, typed: ``request.session`` for type checkers.

    Raises:
        ConfigError: the middleware is missing.
    """
    session = connection.scope.get("session")
    if not isinstance(session, Session):
        raise ConfigError(
            "this request has no session of samesession's; write app.add_middleware("
            "SessionMiddleware, sessions=sessions) with SessionMiddleware from samesession.web.asgi"
        )
    return session


async def _nothing() -> None:
    """What becomes of the rest of an answer when 503 was sent in its place."""


async def _refuse(error: Exception, send: Send) -> None:
    status, headers, body = refusal(error)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _client(headers: Iterable[tuple[bytes, bytes]], address: Sequence[Any] | None) -> Client:
    """Who asks. Not told by the scope: that holds the session, and would hold it in a circle."""
    agents = [value for name, value in headers if name == b"user-agent"]
    return client_of(agents[0].decode("latin-1") if agents else "", address[0] if address else "")
