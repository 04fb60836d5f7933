"""Litestar: ``middleware=[session_middleware(sessions)]``; then ``request.session`` and its verbs.

The ASGI middleware loads and commits. `set_session` and `clear_session` put something else into the
scope, which is taken for what it means just before the response starts.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, cast
from uuid import UUID

import msgspec
from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import LitestarException
from litestar.middleware import DefineMiddleware
from litestar.middleware.session.base import SessionMiddleware as LitestarsMiddleware
from litestar.middleware.session.server_side import (
    ServerSideSessionBackend,
    ServerSideSessionConfig,
)
from litestar.serialization import get_serializer
from litestar.types import ASGIApp, Empty, Message, Receive, Scope, Scopes, Send
from litestar.utils.scope.state import ScopeState

from samesession.commits import Commits
from samesession.errors import ConfigError
from samesession.session import Session
from samesession.sessions import Sessions
from samesession.web import asgi
from samesession.web._checks import called_as, check_once, check_sessions
from samesession.web._litestar_store import SharedStore

__all__ = [
    "SessionConfig",
    "SessionMiddleware",
    "SharedStore",
    "current_session",
    "session_middleware",
]

_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


@called_as("middleware=[session_middleware(sessions)]")
def session_middleware(
    sessions: Sessions,
    *,
    exclude: str | list[str] | None = None,
    exclude_opt_key: str = "skip_session",
) -> DefineMiddleware:
    """Return what belongs into the list ``middleware=[…]``: the one line that switches.

    Args:
        sessions: shared by all requests; Litestar's ``on_startup=[sessions.ready]`` and
            ``on_shutdown=[sessions.close]`` open and close it.
        exclude: patterns of paths that have no session.
        exclude_opt_key: of routes that have none.
    """
    return SessionConfig(sessions, exclude=exclude, exclude_opt_key=exclude_opt_key).middleware


class LitestarSession(Session):
    """A session that takes what Litestar can turn into JSON: models, dataclasses, enums, paths."""

    __slots__ = ("handler",)
    handler: Any
    """The route's, whose type encoders count; not the scope, which holds the session."""

    def _translated(self, value: Any) -> Any:
        """As plain data, by Litestar's serializer."""
        handler = getattr(self, "handler", None)
        encoders = handler.resolve_type_encoders() if handler is not None else None
        with suppress(TypeError, ValueError, RecursionError, LitestarException):
            return msgspec.to_builtins(
                value, builtin_types=_KEPT, str_keys=True, enc_hook=get_serializer(encoders)
            )
        return value


_OURS = "samesession"
"""In the scope: the session, whatever stands in its place for Litestar."""

_KEPT = (bytes, datetime, date, timedelta, Decimal, UUID)
"""Types that stay what they are."""


class _Adapter(asgi.SessionMiddleware):
    kind = LitestarSession


class SessionBackend(ServerSideSessionBackend):
    """Litestar's seam for what asks a backend; in a request the middleware loads and stores."""

    config: SessionConfig  # pyrefly: ignore[bad-override-mutable-attribute]

    def get_session_id(self, connection: ASGIConnection[Any, Any, Any, Any]) -> str:
        """The session's handle, a public name; of a new one that which it will be stored under."""
        session = connection.scope.get("session")
        if not isinstance(session, Session):
            return ""
        return self.config.sessions.loops.commits.draw(session._life)

    async def delete(self, session_id: str, store: Any) -> None:
        """End a session by its handle, as ``litestar sessions delete`` does."""
        await self.config.sessions.end(session_id)

    async def store_in_message(
        self, scope_session: Any, message: Message, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> None:
        """Commit for who asks outside of a request, such as ``TestClient.set_session_data``."""
        if isinstance(connection.scope.get("session"), Session):
            return
        session = await self._opened(connection)
        _replace(session, scope_session)
        await self.config.sessions.finish(session)
        said = cast("dict[str, Any]", message)
        given = said["headers"]
        outer = _Adapter(cast(Any, _nobody), self.config.sessions)
        given[:] = outer.headers(session, said)["headers"]  # in place: who asked holds the list

    async def load_from_connection(
        self, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> dict[str, Any]:
        """The session that the middleware loaded; outside of a request what the cookie names."""
        given = connection.scope.get("session")
        return given if isinstance(given, Session) else await self._opened(connection)

    async def _opened(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Session:
        name = self.config.key
        cookie = f"{name}={connection.cookies[name]}" if name in connection.cookies else ""
        scope = {"headers": [(b"cookie", cookie.encode("latin-1"))]}
        return await _Adapter(cast(Any, _nobody), self.config.sessions).open(scope)


class SessionConfig(ServerSideSessionConfig):
    """Litestar's configuration object, for `SessionAuth` and whatever else wants one."""

    _backend_class = SessionBackend

    def __init__(
        self,
        sessions: Sessions,
        *,
        exclude: str | list[str] | None = None,
        exclude_opt_key: str = "skip_session",
    ) -> None:
        """Describe ``sessions``; its cookie is what Litestar is told.

        Raises:
            ConfigError: no `Sessions`.
        """
        check_sessions(sessions, "session_middleware(sessions)")
        cookie = sessions.cookie
        self.sessions = sessions
        self.key = cookie.name
        self.max_age = sessions.limits.lifetime_ms // 1000
        self.scopes: Scopes = {ScopeType.HTTP, ScopeType.WEBSOCKET}
        self.path = cookie.path
        self.domain = cookie.domain
        self.secure = cookie.secure
        self.httponly = cookie.http_only
        self.samesite: Literal["lax", "strict", "none"] = cookie.same_site
        self.exclude = exclude
        self.exclude_opt_key = exclude_opt_key

    def get_store_from_app(self, app: Litestar) -> Any:
        """What keeps the sessions; ``litestar sessions clear`` finds that it cannot be cleared."""
        return self.sessions

    @property
    def middleware(self) -> DefineMiddleware:
        """What belongs into a layer's ``middleware``."""
        return DefineMiddleware(SessionMiddleware, backend=SessionBackend(config=self))


class SessionMiddleware(LitestarsMiddleware[SessionBackend]):
    """Our ASGI middleware in Litestar's dress, which its plugins look for (`FlashPlugin`)."""

    @called_as("middleware=[session_middleware(sessions)]")
    def __init__(self, app: ASGIApp, backend: SessionBackend) -> None:
        """Wrap ``app``; Litestar makes one for each route.

        Raises:
            ConfigError: installed twice, such as for the application and for a route.
        """
        check_once(app, SessionMiddleware)
        super().__init__(app, backend)
        sessions = backend.config.sessions
        self._inner = _Adapter(cast(Any, _Settling(app, sessions.loops.commits)), sessions)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Answer one request or socket; Litestar asks only for those that are not excluded."""
        return self._inner(cast(Any, scope), cast(Any, receive), cast(Any, send))


class _Settling:
    """What stands between the session and Litestar's ways to replace it."""

    def __init__(self, app: ASGIApp, commits: Commits) -> None:
        self.app = app
        self._commits = commits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = cast("LitestarSession", scope["session"])
        cast("dict[str, Any]", scope)[_OURS] = session
        session.handler = scope.get("route_handler")
        state = ScopeState.from_scope(scope)
        state.session_id = self._commits.draw(session._life)

        async def sending(message: Message) -> None:
            if message["type"] in _STARTS:
                _settle(scope, session)
            await send(message)

        await self.app(scope, receive, sending)
        _settle(scope, session)


def current_session(connection: ASGIConnection[Any, Any, Any, Any]) -> Session:
    """The session of a request or websocket, typed; what `set_session` has set is in it.

    Raises:
        ConfigError: the middleware is missing, or excluded for this route.
    """
    session = cast("dict[str, Any]", connection.scope).get(_OURS)
    if session is None:
        raise ConfigError(
            "this request has no session; write middleware=[session_middleware(sessions)] with "
            "session_middleware from samesession.web.litestar"
        )
    _settle(connection.scope, session)
    return cast(Session, session)


def _settle(scope: Scope, session: Session) -> None:
    """Make the session what the handler put in its place."""
    given: Any = scope.get("session")
    if given is session:
        return
    _replace(session, given)
    scope["session"] = session


def _replace(session: Session, given: Any) -> None:
    if given is Empty or given is None:
        session.logout()
    else:
        contents = _contents(session, given)
        session.clear()
        session.update(contents)


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """What is wrapped where there is no request."""


def _contents(session: Session, given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    data = session._translated(given)
    return data if isinstance(data, dict) else dict(given)
