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
from aiohttp.hdrs import COOKIE
from multidict import CIMultiDict, CIMultiDictProxy

from samesession.errors import AnsweredError, ConfigError
from samesession.life import Client
from samesession.lifecycle import Lifecycle
from samesession.record import Key
from samesession.session import Session
from samesession.sessions import Sessions
from samesession.web._adopt import OldCookies
from samesession.web._checks import another, called_as, check_application, check_sessions
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
_NO_VALUES: list[bytes] = []  # shared, never written
_VISIT: Any = web.RequestKey("samesession", object) if hasattr(web, "RequestKey") else "samesession"


class AiohttpSession(Session):
    """A session with the attributes that aiohttp-session's documentation names."""

    __slots__ = ()
    nested_is_meant = False

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
        """Seconds since the epoch; of a new session when its request came."""
        created = self.created_at
        return self._life.arrived_ms // 1000 if created is None else int(created.timestamp())

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
        """Say that a nested change is meant; it is noticed anyway, where it can be stored."""
        self.modified = True

    def invalidate(self) -> None:
        """Clear it; an anonymous session left without a key is ended."""
        self.clear()


async def get_session(request: web.Request) -> AiohttpSession:
    """Return the request's session, loaded at the first call.

    Raises:
        ConfigError: the application was not set up.
    """
    try:
        visit: _Visit = request[_VISIT]
    except KeyError:
        raise ConfigError(
            "this application has no sessions; write setup(app, sessions) where it is made"
        ) from None
    return await visit.opened(request) if visit.session is None else visit.session


async def new_session(request: web.Request) -> AiohttpSession:
    """End the session that the request came with, and return an empty one under a new id."""
    session = await get_session(request)
    session.logout()
    return session


@called_as("setup(app, sessions)")
def setup(app: web.Application, sessions: Sessions) -> None:
    """Give ``app`` the sessions: the one line that switches.

    Args:
        app: the outermost application.
        sessions: shared by all requests; closed when the server shuts down.

    Raises:
        ConfigError: called twice, or no `Sessions`.
    """
    check_sessions(sessions, "setup(app, sessions)")
    check_application(app, "aiohttp", "setup(app, sessions)")
    if SESSIONS in app:
        raise ConfigError("setup(app, sessions) was called twice for this application; keep one")
    adapter = _Adapter(sessions)
    app[SESSIONS] = sessions

    app.middlewares.insert(0, adapter.around)
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

    __slots__ = ("_adapter", "_others", "committed", "failed", "session", "socket")

    def __init__(self, adapter: _Adapter) -> None:
        self._adapter = adapter
        self._others: list[asyncio.Future[None]] | None = None  # who waits while one task opens it
        self.committed = False
        self.failed = False
        self.session: AiohttpSession | None = None
        self.socket: _Socket | None = None

    async def opened(self, request: web.Request) -> AiohttpSession:
        # Not kept here: the request holds the visit, and only the collector would free a circle.
        while self.session is None:
            if self._others is None:
                self._others = []
                try:
                    self.session = await self._adapter.open(request)
                finally:
                    for other in self._others:
                        if not other.done():
                            other.set_result(None)
                    self._others = None
            else:
                other = asyncio.get_running_loop().create_future()
                self._others.append(other)
                await other
        return self.session


class _Adapter:
    """The middleware and the signal of one application."""

    def __init__(self, sessions: Sessions) -> None:
        self.sockets = Sockets(sessions.loops)
        self._sessions = sessions
        self._core: Lifecycle = sessions.loops
        self._codec = CookieCodec(sessions.cookie, sessions.carrier)
        self._plain = self._codec.plain and not sessions.adopt
        self._old = OldCookies(
            lambda: sessions.old_loops, sessions.adopt, sessions.cookie, sessions.login_keys
        )

    async def open(self, request: web.Request) -> AiohttpSession:
        headers, values = request.headers, _NO_VALUES
        for said in headers.getall(COOKIE, ()):
            found = self._codec.values(said.encode("utf-8", "surrogateescape"))
            values = values + found if values else found
        if len(values) > 1 and len(set(values)) > 1:
            # Which of the two is meant cannot be known, and one may be planted.
            self._sessions.counts.add("ambiguous")
            values = _NO_VALUES
        value, by_header = values[0] if values else None, False
        # Not told by the request: that holds the session, and would hold it in a circle.
        client = partial(_client, headers, request.remote)
        if self._plain:
            return cast("AiohttpSession", await self._core.open(value, client, AiohttpSession))
        if not self._codec.plain:
            token = headers.get("Session-Token")
            header = None if token is None else token.encode("utf-8", "surrogateescape")
            value, by_header = self._codec.carried(header, value)
        session = await self._core.open(value, client, AiohttpSession)
        session._life.by_header = by_header
        raw = (said.encode("utf-8", "surrogateescape") for said in headers.getall(COOKIE, ()))
        return cast("AiohttpSession", await self._old.moved_in(session, raw))

    @web.middleware
    async def around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        visit = _Visit(self)
        if request.setdefault(_VISIT, visit) is not visit:
            raise ConfigError(
                "setup(app, sessions) was called for an application inside another "
                "one that has sessions; keep the outer one"
            )
        try:
            response = await handler(request)
            if visit.session is not None:
                await self._commit(visit, visit.session)
        except web.HTTPException:
            try:
                if visit.session is not None:
                    await self._commit(visit, visit.session)  # an answer, though it is raised
            except AnsweredError as error:
                return _refused(error)
            raise
        except Exception as error:  # noqa: BLE001  (raised again, unless the session was the reason)
            return await self._failed(visit, error)
        finally:
            if visit.socket is not None:
                self.sockets.leave(visit.socket)
        return response

    async def _commit(self, visit: _Visit, session: Session) -> None:
        """Commit, or see that nothing is left when the response has begun already."""
        if not session._life.started:
            if not self._core.only_read(session):
                await self._core.finish(session)
            visit.committed = True
        elif self._core.uncommitted(session):
            await nothing_left(self._core, session)

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
        try:
            visit: _Visit = request[_VISIT]
        except KeyError:
            return
        session = visit.session
        if session is None or session._life.started:
            return
        kind = type(response)
        if visit.committed:
            if self._core.uncommitted(session):  # by another one's signal
                await self._core.finish(session)
        elif not (visit.failed or kind is _Refusal or self._core.only_read(session)):
            await self._core.finish(session)
        session._life.started = True
        if session._used:
            self._say(session, response)
        if kind is not web.Response and isinstance(response, web.WebSocketResponse):
            record = session._life.record
            if record is not None:
                visit.socket = _Socket(session, response, record.key)
                self.sockets.enter(visit.socket)

    def _say(self, session: Session, response: web.StreamResponse) -> None:
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


def _client(headers: CIMultiDictProxy[str], address: str | None) -> Client:
    return client_of(headers.get("User-Agent", ""), address or "")


class _Refusal(web.Response):
    """The 503: nothing is committed with it."""


def _refused(error: Exception) -> web.Response:
    status, headers, body = refusal(error)
    said = {name.decode(): value.decode() for name, value in headers}
    return _Refusal(status=status, headers=said, body=body)
