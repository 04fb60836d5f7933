"""Flask: ``init_app(app, sessions)``; then ``flask.session`` is the same on every server.

The WSGI middleware loads and commits; the interface hands its session to Flask. So a stream, a
``write`` and an exception are what they are for any WSGI application.
"""

from __future__ import annotations

from abc import ABCMeta
from datetime import timedelta
from typing import Any, Final, cast

from flask import Flask, Request, Response
from flask import request as current
from flask import session as proxy
from flask.json.tag import TaggedJSONSerializer
from flask.sessions import SessionInterface, SessionMixin

from samesession.errors import ConfigError, TooManySessionsError
from samesession.session import Session
from samesession.sessions import Sessions
from samesession.web._checks import (
    another,
    called_as,
    check_application,
    check_lifetime,
    check_sessions,
    contradictions,
    cookie_settings,
)
from samesession.web._http import refused
from samesession.web.wsgi import App, SessionMiddleware

LOGIN_KEYS: Final = ("_user_id", "_fresh", "_id")
"""What Flask-Login sets at a login; the first is who."""


_TAGGED = TaggedJSONSerializer()


class FlaskSession(Session):
    """A session with the attributes that Flask's documentation names."""

    __slots__ = ()
    nested_is_meant = False

    @property
    def new(self) -> bool:
        """Whether no record was found for this visitor."""
        return self.is_new

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser; kept in the session, as Flask does."""
        return bool(self.get("_permanent", False))

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self["_permanent"] = bool(value)

    def _translated(self, value: Any) -> Any:
        """As Flask's and Quart's own cookie would bring it back: a dataclass as a dict."""
        try:
            return _TAGGED.loads(_TAGGED.dumps(value))
        except (TypeError, ValueError, RecursionError):
            return value


cast(ABCMeta, SessionMixin).register(FlaskSession)


class _Middleware(SessionMiddleware):
    kind, login_keys = FlaskSession, LOGIN_KEYS
    served: Flask

    def open(self, environ: dict[str, Any]) -> Session:
        """As for any WSGI application, if no other extension has taken our place since."""
        check_interface(self.served.session_interface)
        return super().open(environ)


class CookieAnswers:
    """What the browser really gets, for extensions that ask a session interface."""

    sessions: Sessions

    def get_cookie_name(self, app: Any) -> str:
        """The cookie's name."""
        return self.sessions.cookie.name

    def get_cookie_domain(self, app: Any) -> str | None:
        """The cookie's domain."""
        return self.sessions.cookie.domain

    def get_cookie_path(self, app: Any) -> str:
        """The cookie's path."""
        return self.sessions.cookie.path

    def get_cookie_httponly(self, app: Any) -> bool:
        """Whether scripts are kept from the cookie."""
        return self.sessions.cookie.http_only

    def get_cookie_secure(self, app: Any) -> bool:
        """Whether the cookie needs https."""
        return self.sessions.cookie.secure

    def get_cookie_samesite(self, app: Any) -> str:
        """The cookie's SameSite."""
        return self.sessions.cookie.same_site.capitalize()

    def get_cookie_partitioned(self, app: Any) -> bool:
        """Whether the cookie is partitioned."""
        return self.sessions.cookie.partitioned


class Interface(CookieAnswers, SessionInterface):
    """Flask's seam over the middleware; commits by itself only in `session_transaction`."""

    def __init__(self, middleware: SessionMiddleware, sessions: Sessions) -> None:
        """Hand out the sessions that ``middleware`` opens."""
        self.sessions = sessions
        self._middleware = middleware
        self._checked = False

    def open_session(self, app: Flask, request: Request) -> SessionMixin:
        """Return the request's session; one of its own outside of a request, as in tests."""
        if not self._checked:
            self.check(app)  # again: the application may have been configured since
            self._checked = True
        session = request.environ.get("samesession")
        if not isinstance(session, FlaskSession):
            session = cast("FlaskSession", self._middleware.open(request.environ))
        if not session._life.login_keys:
            session._life.login_keys = LOGIN_KEYS
        return cast("SessionMixin", session)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Leave the commit to the middleware, unless there is none around."""
        ours = cast("FlaskSession", session)
        ours._life.persistent = bool(dict.get(ours, "_permanent"))
        if current.environ.get("samesession") is ours:
            return
        self.sessions.blocking.finish(ours)
        headers = self._middleware.headers(ours, list(response.headers.items()))
        response.headers.clear()
        response.headers.extend(headers)

    def check(self, app: Flask) -> None:
        """Refuse a configuration of Flask's that says something else than ours.

        Raises:
            ConfigError: naming the line.
        """
        defaults: dict[str, Any] = dict(app.default_config)
        check_config("Flask", dict(app.config), defaults, self.sessions)


def check_config(
    framework: str, config: dict[str, Any], defaults: dict[str, Any], sessions: Sessions
) -> None:
    """Refuse a configuration of Flask's or Quart's that says something else than ours."""
    found = contradictions(config, cookie_settings(sessions, defaults))
    lifetime, usual = (which["PERMANENT_SESSION_LIFETIME"] for which in (config, defaults))
    given = lifetime if isinstance(lifetime, timedelta) else timedelta(seconds=lifetime)
    found += check_lifetime(given, usual, sessions)
    if found:
        raise ConfigError(f"{framework}'s " + "; ".join(found))


def check_interface(interface: object) -> None:
    """Refuse another extension's session interface in the place of ours.

    Raises:
        ConfigError: naming it.
    """
    if not isinstance(interface, CookieAnswers):
        raise another(interface)


def current_session() -> FlaskSession:
    """The request's session, typed: ``flask.session`` for type checkers.

    Raises:
        ConfigError: the application has not been given the sessions.
    """
    return checked_session(proxy)


def checked_session(proxied: object) -> FlaskSession:
    """What stands behind Flask's or Quart's ``session``.

    Raises:
        ConfigError: not a session of ours.
    """
    session = cast(Any, proxied)._get_current_object()
    if not isinstance(session, FlaskSession):
        raise ConfigError(
            "this application has no sessions of samesession's; write init_app(app, sessions) "
            "where it is made"
        )
    return session


@called_as("init_app(app, sessions)")
def init_app(app: Flask, sessions: Sessions) -> None:
    """Give ``app`` the sessions: the one line that switches.

    Args:
        app: configured already; a contradictory ``SESSION_COOKIE_*`` is refused.
        sessions: shared by all requests and threads.

    Raises:
        ConfigError: called twice, or a setting of Flask's says something else.
    """
    check_sessions(sessions, "init_app(app, sessions)")
    check_application(app, "flask", "init_app(app, sessions)")
    if isinstance(app.session_interface, Interface):
        raise ConfigError("init_app(app, sessions) was called twice for this application; keep one")
    middleware = _Middleware(cast("App", app.wsgi_app), sessions)
    middleware.served = app
    interface = Interface(middleware, sessions)
    interface.check(app)
    app.session_interface = interface
    app.wsgi_app = middleware  # type: ignore[method-assign]
    app.register_error_handler(TooManySessionsError, refused)
    app.extensions["samesession"] = sessions
