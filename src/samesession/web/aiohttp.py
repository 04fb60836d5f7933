"""aiohttp: ``setup(app, sessions)``, then ``await get_session(request)``.

The session is loaded at its first use, so a request that does not ask for it costs nothing. It is
committed when its response is prepared: before the first byte, also of a stream or a websocket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

from aiohttp import web
from multidict import CIMultiDict

from samesession.errors import AnsweredError, ConfigError
from samesession.lifecycle import Lifecycle
from samesession.record import Key
from samesession.session import Session
from samesession.sessions import Sessions
from samesession.web._adopt import OldCookies
from samesession.web._checks import another, check_sessions
from samesession.web._http import (
    CookieCodec,
    client_of,
    nothing_left,
    refusal,
)
from samesession.web._sockets import POLICY_VIOLATION, Sockets

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SESSIONS = web.AppKey("samesession", Sessions)
# aiohttp 3.14 warns of keys that are text, and older ones have no other.
_VISIT: Any = web.RequestKey("samesession", object) if hasattr(web, "RequestKey") else "samesession"


class AiohttpSession(Session):
    """A session with the attributes that aiohttp-session's documentation names."""

    __slots__ = ()

    @property
    def new(self) -> bool:
        """Whether no record was found for this visitor."""
        return self.is_new

    @property
    def identity(self) -> str | None:
        """Its public name; the secret one is nobody's business."""
        return self.handle

    @property
    def created(self) -> int:
        """Seconds since the epoch; 0 before the first commit."""
        created = self.created_at
        return 0 if created is None else int(created.timestamp())

    @property
    def empty(self) -> bool:
        """Whether it holds nothing."""
        return not len(self)

    @property
    def max_age(self) -> int | None:
        """Seconds until it ends if nobody uses it again; None before the first commit.

        `Sessions` decides, for all of them: it cannot be set for one.
        """
        ends = self.expires_at
        return None if ends is None else max(0, round(ends.timestamp() - time.time()))

    def set_new_identity(self, identity: object) -> None:
        """Refuse: ids are always random ones of ours, so that nobody can plant one.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a session's id is never chosen; for a new one call session.rotate()")

    def changed(self) -> None:
        """Nothing to do: nested changes are noticed."""
        self.mark_accessed()

    def invalidate(self) -> None:
        """Clear it; an anonymous session left without a key is ended."""
        self.clear()


async def get_session(request: web.Request) -> AiohttpSession:
    """Return the request's session, loaded at the first call.

    Raises:
        ConfigError: the application was not set up.
    """
    visit: _Visit | None = request.get(_VISIT)
    if visit is None:
        raise ConfigError(
            "this application has no sessions; write setup(app, sessions) where it is made"
        )
    return await visit.opened()


async def new_session(request: web.Request) -> AiohttpSession:
    """End the session that the request came with, and return an empty one under a new id."""
    session = await get_session(request)
    session.logout()
    return session


def setup(app: web.Application, sessions: Sessions) -> None:
    """Give ``app`` the sessions: the one line that switches.

    Args:
        app: the outermost application.
        sessions: shared by all requests; closed when the server shuts down.

    Raises:
        ConfigError: called twice, or no `Sessions`.
    """
    check_sessions(sessions, "setup(app, sessions)")
    if SESSIONS in app:
        raise ConfigError("setup(app, sessions) was called twice for this application; keep one")
    adapter = _Adapter(sessions)
    app[SESSIONS] = sessions

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await adapter.around(request, handler)

    app.middlewares.insert(0, middleware)
    app.on_response_prepare.append(adapter.prepare)

    async def ready(app: web.Application) -> None:
        for other in app.middlewares:
            if getattr(other, "__module__", "").partition(".")[0] == "aiohttp_session":
                raise another(other)
        await sessions.ready()

    async def close(_app: web.Application) -> None:
        await sessions.close()

    app.on_startup.append(ready)
    app.on_cleanup.append(close)


class _Visit:
    """One request's session, opened once whoever asks for it."""

    __slots__ = ("_adapter", "_lock", "failed", "request", "session", "socket")

    def __init__(self, adapter: _Adapter, request: web.Request) -> None:
        self._adapter = adapter
        self._lock = asyncio.Lock()
        self.failed = False
        self.request = request
        self.session: AiohttpSession | None = None
        self.socket: _Socket | None = None

    async def opened(self) -> AiohttpSession:
        if self.session is None:
            async with self._lock:
                if self.session is None:
                    self.session = await self._adapter.open(self.request)
        return self.session


class _Adapter:
    """The middleware and the signal of one application."""

    def __init__(self, sessions: Sessions) -> None:
        self.sockets = Sockets(sessions.loops)
        self._sessions = sessions
        self._core: Lifecycle = sessions.loops
        self._codec = CookieCodec(sessions.cookie, sessions.carrier)
        self._old = OldCookies(
            lambda: sessions.old_loops, sessions.adopt, sessions.cookie, sessions.login_keys
        )

    async def open(self, request: web.Request) -> AiohttpSession:
        values: list[bytes] = []
        for said in request.headers.getall("Cookie", ()):
            values += self._codec.values(said.encode("utf-8", "surrogateescape"))
        if len(values) > 1 and len(set(values)) > 1:
            # Which of the two is meant cannot be known, and one may be planted.
            self._sessions.counts.add("ambiguous")
            values = []
        value, by_header = values[0] if values else None, False
        if not self._codec.plain:
            token = request.headers.get("Session-Token")
            header = None if token is None else token.encode("utf-8", "surrogateescape")
            value, by_header = self._codec.carried(header, value)
        # Not told by the request: that holds the session, and would hold it in a circle.
        agent, address = request.headers.get("User-Agent", ""), request.remote or ""
        session = await self._core.open(value, partial(client_of, agent, address), AiohttpSession)
        session._life.by_header = by_header
        if not self._old:
            return cast("AiohttpSession", session)
        cookies = request.headers.getall("Cookie", ())
        raw = (said.encode("utf-8", "surrogateescape") for said in cookies)
        return cast("AiohttpSession", await self._old.moved_in(session, raw))

    async def around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if _VISIT in request:
            raise ConfigError(
                "setup(app, sessions) was called for an application inside another "
                "one that has sessions; keep the outer one"
            )
        visit = request[_VISIT] = _Visit(self, request)
        try:
            response = await handler(request)
            await self._commit(visit)
        except web.HTTPException:
            try:
                await self._commit(visit)  # an answer like any other, though it is raised
            except AnsweredError as error:
                return _refused(error)
            raise
        except Exception as error:  # noqa: BLE001  (raised again, unless the session was the reason)
            return await self._failed(visit, error)
        finally:
            if visit.socket is not None:
                self.sockets.leave(visit.socket)
        return response

    async def _commit(self, visit: _Visit) -> None:
        """Commit, or see that nothing is left when the response has begun already."""
        session = visit.session
        if session is None:
            return
        if not session._life.started:
            await self._finish(session)
        elif self._core.uncommitted(session):
            await nothing_left(self._core, session)

    async def _finish(self, session: Session) -> None:
        if not self._core.only_read(session):
            await self._core.finish(session)

    async def _failed(self, visit: _Visit, error: Exception) -> web.Response:
        session = visit.session
        if session is None:
            raise error
        life, visit.failed = session._life, True
        with suppress(AnsweredError):  # a logout counts
            await self._core.finish(session, failed=True)
        retryable = isinstance(error, AnsweredError)
        failure = error if retryable else life.failure if life.failed else None
        if failure is None or life.started:
            raise error
        return _refused(failure)

    async def prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Commit before the first byte, and say so in the headers."""
        visit: _Visit | None = request.get(_VISIT)
        session = None if visit is None else visit.session
        if visit is None or session is None or session._life.started:
            return
        if not (visit.failed or isinstance(response, _Refusal)):
            await self._finish(session)
        session._life.started = True
        self._say(session, response)
        record = session._life.record
        if isinstance(response, web.WebSocketResponse) and record is not None:
            visit.socket = _Socket(session, response, record.key)
            self.sockets.enter(visit.socket)

    def _say(self, session: Session, response: web.StreamResponse) -> None:
        if not session._used:
            return
        added = self._codec.added(response.headers, session._life)
        if added is not None:
            response.headers.extend(added)
            return
        raw = [(name.encode(), value.encode()) for name, value in response.headers.items()]
        headers = self._codec.answered(raw, session._life)
        said = CIMultiDict((name.decode(), value.decode()) for name, value in headers)
        response.headers.clear()
        response.headers.extend(said)


class _Socket:
    """A websocket whose session is being watched."""

    def __init__(self, session: Session, response: web.WebSocketResponse, watched: Key) -> None:
        self.session = session
        self.watched: Key | None = watched
        self._response = response
        self._closing: asyncio.Task[bool] | None = None

    async def close(self) -> None:
        """Begin to; the client's own close may take its time."""
        if self._closing is None:
            closing = self._response.close(code=POLICY_VIOLATION, message=b"")
            self._closing = asyncio.ensure_future(closing)


class _Refusal(web.Response):
    """The 503: nothing is committed with it."""


def _refused(error: Exception) -> web.Response:
    status, headers, body = refusal(error)
    said = {name.decode(): value.decode() for name, value in headers}
    return _Refusal(status=status, headers=said, body=body)
