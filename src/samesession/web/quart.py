"""Quart: ``init_app(app, sessions)``; then ``quart.session`` is the same on every server.

The ASGI middleware loads and commits, also for websockets; the interface hands its session to
Quart. Its words are Flask's.
"""

from __future__ import annotations

from typing import Any, cast

from quart import Quart, Response, has_request_context
from quart import request as current
from quart import session as proxy
from quart.sessions import SessionInterface, SessionMixin
from quart.wrappers.base import BaseRequestWebsocket
from werkzeug.wrappers import Response as WerkzeugResponse

from samesession.errors import ConfigError, TooManySessionsError
from samesession.session import Session
from samesession.sessions import Sessions
from samesession.web._checks import called_as, check_application, check_sessions
from samesession.web._http import refused
from samesession.web.asgi import SessionMiddleware
from samesession.web.flask import (
    LOGIN_KEYS,
    CookieAnswers,
    FlaskSession,
    check_config,
    check_interface,
    checked_session,
)


class _Middleware(SessionMiddleware):
    kind, login_keys = FlaskSession, LOGIN_KEYS
    served: Quart

    def check(self) -> None:
        """See that no other extension has taken our place since."""
        check_interface(self.served.session_interface)


class Interface(CookieAnswers, SessionInterface):
    """Quart's seam over the middleware; commits by itself only in `session_transaction`."""

    def __init__(self, middleware: SessionMiddleware, sessions: Sessions) -> None:
        """Hand out the sessions that ``middleware`` opens."""
        self.sessions = sessions
        self._middleware = middleware
        self._checked = False

    async def open_session(self, app: Quart, request: BaseRequestWebsocket) -> SessionMixin:
        """Return the request's session; one of its own outside of a request, as in tests."""
        if not self._checked:
            self.check(app)  # again: the application may have been configured since
            self._checked = True
        scope: Any = request.scope
        session: Session | None = scope.get("session")
        if not isinstance(session, FlaskSession):
            headers = [(n.lower().encode(), v.encode("latin-1")) for n, v in request.headers]
            session = await self._middleware.open({**scope, "headers": headers})
        if not session._life.login_keys:
            session._life.login_keys = LOGIN_KEYS
        return cast("SessionMixin", session)

    async def save_session(
        self, app: Quart, session: SessionMixin, response: Response | WerkzeugResponse | None
    ) -> None:
        """Leave the commit to the middleware, unless there is none around."""
        ours = cast("FlaskSession", session)
        ours._life.persistent = bool(dict.get(ours, "_permanent"))
        scope: Any = current.scope if has_request_context() else {"session": ours}
        if scope.get("session") is ours:
            return
        await self.sessions.finish(ours)
        if response is None:
            return
        raw = [(n.lower().encode(), v.encode("latin-1")) for n, v in response.headers.items()]
        said = self._middleware.headers(ours, {"headers": raw})["headers"]
        response.headers.clear()
        response.headers.extend([(n.decode(), v.decode("latin-1")) for n, v in said])

    def check(self, app: Quart) -> None:
        """Refuse a configuration of Quart's that says something else than ours.

        Raises:
            ConfigError: naming the line.
        """
        check_config("Quart", dict(app.config), dict(app.default_config), self.sessions)


def current_session() -> FlaskSession:
    """The request's or websocket's session, typed: ``quart.session`` for type checkers.

    Raises:
        ConfigError: the application has not been given the sessions.
    """
    return checked_session(proxy)


@called_as("init_app(app, sessions)")
def init_app(app: Quart, sessions: Sessions) -> None:
    """Give ``app`` the sessions: the one line that switches.

    Args:
        app: configured already; a contradictory ``SESSION_COOKIE_*`` is refused.
        sessions: shared by all requests; closed when the server shuts down.

    Raises:
        ConfigError: called twice, or a setting of Quart's says something else.
    """
    check_sessions(sessions, "init_app(app, sessions)")
    check_application(app, "quart", "init_app(app, sessions)")
    quart = cast(Any, app)  # its annotations know only its own interface
    if isinstance(quart.session_interface, Interface):
        raise ConfigError("init_app(app, sessions) was called twice for this application; keep one")
    middleware = _Middleware(quart.asgi_app, sessions)
    middleware.served = app
    interface = Interface(middleware, sessions)
    interface.check(app)
    quart.session_interface, quart.asgi_app = interface, middleware
    app.register_error_handler(TooManySessionsError, refused)
    app.extensions["samesession"] = sessions
