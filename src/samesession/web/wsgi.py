"""WSGI: ``SessionMiddleware(app, sessions)``; the session stands in ``environ["samesession"]``.

It is loaded before the application and committed when the response's first byte is asked for.
The ``write`` callable of PEP 3333 commits too, since it sends at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any

from samesession._bridge import ready
from samesession.errors import AnsweredError, ConfigError
from samesession.lifecycle import Lifecycle
from samesession.session import Session
from samesession.sessions import Sessions
from samesession.web._adopt import OldCookies
from samesession.web._checks import (
    called_as,
    check_alone,
    check_once,
    check_plain,
    check_sessions,
    is_asgi,
)
from samesession.web._http import (
    CookieCodec,
    client_of,
    nothing_left,
    refusal,
)

log = logging.getLogger("samesession")

Environ = dict[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class SessionMiddleware:
    """Gives every request its session."""

    kind: type[Session] = Session
    login_keys: Sequence[str] = ()
    """Where the framework's own login marks who it is, unless ``principal_key`` says otherwise."""

    @called_as("SessionMiddleware(app, sessions)")
    def __init__(self, app: App, sessions: Sessions) -> None:
        """Wrap ``app``; ``sessions`` is shared by all requests and threads.

        Raises:
            ConfigError: installed twice, no `Sessions`, or an ASGI application.
        """
        check_sessions(sessions, "SessionMiddleware(app, sessions)")
        check_once(app, SessionMiddleware)
        if self.kind is Session:
            check_plain(app)
        if is_asgi(app):
            raise ConfigError(
                "samesession.web.wsgi wraps WSGI applications, and this one is ASGI; "
                "write: from samesession.web.asgi import SessionMiddleware"
            )
        self.app = app
        self.sessions = sessions
        self._core: Lifecycle = sessions.threads
        self._codec = CookieCodec(sessions.cookie, sessions.carrier)
        self._old = OldCookies(
            lambda: sessions.old_threads,
            sessions.adopt,
            sessions.cookie,
            sessions.login_keys or self.login_keys,
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        if "samesession" in environ:
            check_alone(environ["samesession"])
        session = self.open(environ)
        environ["samesession"] = session
        response = _Response(self, session, environ, start_response)
        body: Iterable[bytes] = ()
        try:
            body = self.app(environ, response.start)
            return response.body(body)
        except Exception as error:  # noqa: BLE001  (raised again, unless the session was the reason)
            _close(body)
            return response.failed(error)

    def open(self, environ: Environ) -> Session:
        """Open the session that a request's cookie names."""
        header = environ.get("HTTP_COOKIE", "")
        raw = header.encode("latin-1", "replace")
        values = self._codec.values(raw) if header else []
        if len(values) > 1:
            # Which of the two is meant cannot be known, and one may be planted.
            self.sessions.counts.add("ambiguous")
            values = []
        value, by_header = values[0] if values else None, False
        if not self._codec.plain:
            token = environ.get("HTTP_SESSION_TOKEN")
            sent = None if token is None else token.encode("latin-1", "replace")
            value, by_header = self._codec.carried(sent, value)
        # Not told by the environment: that holds the session, and would hold it in a circle.
        agent, address = environ.get("HTTP_USER_AGENT", ""), environ.get("REMOTE_ADDR", "")
        session = ready(self._core.open(value, partial(client_of, agent, address), self.kind))
        session._life.by_header = by_header
        return ready(self._old.moved_in(session, [raw])) if header and self._old else session

    def headers(self, session: Session, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """A response's headers with what the session adds to them."""
        if not session._used:
            return headers
        added = self._codec.added([name.lower() for name, _ in headers], session._life)
        if added is not None:
            return [*headers, *added]
        said = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        raw = self._codec.answered(said, session._life)
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]


def current_session(environ: Environ) -> Session:
    """The request's session, typed: ``environ["samesession"]`` for type checkers.

    Raises:
        ConfigError: the middleware is missing.
    """
    session = environ.get("samesession")
    if not isinstance(session, Session):
        raise ConfigError(
            "this request has no session; write app = SessionMiddleware(app, sessions) with "
            "SessionMiddleware from samesession.web.wsgi"
        )
    return session


class _Response:
    """One response: what the application said, held back until the session is committed."""

    def __init__(
        self,
        middleware: SessionMiddleware,
        session: Session,
        environ: Environ,
        start_response: StartResponse,
    ) -> None:
        self._middleware = middleware
        self._session = session
        self._environ = environ
        self._start_response = start_response
        self._said: tuple[str, list[tuple[str, str]], ExcInfo] | None = None
        self._write: Callable[[bytes], object] | None = None

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo = None
    ) -> Callable[[bytes], object]:
        """Hold the status and headers back: until the first byte they may change (PEP 3333)."""
        if exc_info is not None and exc_info[1] is not None and self._write is not None:
            raise exc_info[1].with_traceback(exc_info[2])
        self._said = (status, headers, exc_info)
        return self.write

    def write(self, data: bytes) -> None:
        """Send at once, as PEP 3333's write does."""
        self.commit()
        assert self._write is not None
        self._write(data)

    def body(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """The application's body, its first piece asked for before anything is sent."""
        if self._said is not None:
            self.commit()
            if type(body) in (list, tuple, self._environ.get("wsgi.file_wrapper")):
                return body  # none of the application's code runs any more: as the server likes it
            return (_Sized if hasattr(body, "__len__") else _Body)(self, body, None)
        pieces = iter(body)  # an application that is a generator speaks at its first piece
        first = next(pieces, b"")
        self.commit()
        return _Body(self, body, pieces, first)

    def commit(self) -> None:
        """Commit the session and say what was held back, once."""
        if self._write is not None:
            return
        if self._said is None:
            raise AssertionError("the application sent a body before start_response (PEP 3333)")
        session, core = self._session, self._middleware._core
        if not core.only_read(session):
            ready(core.finish(session))
        session._life.started = True
        status, headers, exc_info = self._said
        headers = self._middleware.headers(session, headers)
        self._write = self._start_response(status, headers, exc_info)

    def failed(self, error: Exception) -> Iterable[bytes]:
        """Answer 503 when the session was the reason, whatever the application made of it.

        Raises:
            Exception: the error itself, if it was another reason or the response has begun.
        """
        self.logged_out()
        life = self._session._life
        retryable = isinstance(error, AnsweredError)
        failure = error if retryable else life.failure if life.failed else None
        if failure is None or self._write is not None:
            raise error
        if not retryable:
            log.error("the application failed after its session could not be had", exc_info=error)
        status, headers, body = refusal(failure)
        said = [(name.decode(), value.decode()) for name, value in headers]
        self._start_response(f"{status} {HTTPStatus(status).phrase}", said)
        return [] if self._environ.get("REQUEST_METHOD") == "HEAD" else [body]

    def logged_out(self) -> None:
        """Carry out a logout though nothing else of the request counts."""
        if self._session._life.leaving is None:
            return
        with suppress(AnsweredError):
            ready(self._middleware._core.finish(self._session, failed=True))

    def nothing_left(self) -> None:
        """Nothing is dropped silently: a change after the start was committed, or raises."""
        core = self._middleware._core
        if core.uncommitted(self._session):
            ready(nothing_left(core, self._session))


class _Body:
    """The application's body; at its end nothing of the session may be left."""

    def __init__(
        self,
        response: _Response,
        body: Iterable[bytes],
        pieces: Iterator[bytes] | None,
        first: bytes = b"",
    ) -> None:
        self._response = response
        self._body = body
        self._pieces = pieces
        self._first = first

    def __iter__(self) -> Iterator[bytes]:
        if self._pieces is not None:
            yield self._first
        yield from self._body if self._pieces is None else self._pieces
        self._response.nothing_left()

    def close(self) -> None:
        try:
            _close(self._body)
        finally:
            self._response.logged_out()  # also when it failed, or the client has gone


class _Sized(_Body):
    """A body that knows its length; servers set Content-Length by it (PEP 3333)."""

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


def _close(body: Iterable[bytes]) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()
