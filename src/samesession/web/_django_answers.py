"""Django's middleware completed with what an engine cannot do by itself, for engines of ours only.

503 instead of 500 when the store does not answer, ``no-store`` beside a cookie, its flags when it
is deleted, and an error for what changes after the response began.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpResponse
from django.utils.cache import patch_vary_headers

from samesession._bridge import ready
from samesession.errors import AnsweredError
from samesession.session import Session
from samesession.settings import Carrier
from samesession.web._django_settings import get_sessions
from samesession.web._http import client_of, nothing_left, refusal

log = logging.getLogger("samesession")

_process_request = SessionMiddleware.process_request
_process_response = SessionMiddleware.process_response
_stores: tuple[type, ...] = ()
CARRIED = "Session-Token"


def complete(store: type) -> None:
    """Have Django's own middleware do the rest for sessions of this type, and for no others."""
    global _stores  # noqa: PLW0603  (Django's class is one a process, too)
    _stores = (*_stores, store)
    SessionMiddleware.process_request = process_request
    SessionMiddleware.process_response = process_response
    SessionMiddleware.process_exception = process_exception


def process_request(self: Any, request: Any) -> None:
    """Give the request its session, as Django does; the token may have come by header."""
    _process_request(self, request)
    store: Any = request.session
    if not issubclass(type(store), _stores):
        return
    carrier, token = get_sessions().carrier, request.META.get("HTTP_SESSION_TOKEN")
    if carrier is Carrier.HEADER or (carrier is Carrier.BOTH and token is not None):
        # Django's middleware goes on as if it had come by cookie.
        request.COOKIES.pop(settings.SESSION_COOKIE_NAME, None)
        if token:
            request.COOKIES[settings.SESSION_COOKIE_NAME] = token
        store = request.session = self.SessionStore(token or None)
        store.by_header = True
    meta = request.META
    store.client = partial(
        client_of, meta.get("HTTP_USER_AGENT", ""), meta.get("REMOTE_ADDR", "") or ""
    )


def process_exception(_self: Any, _request: Any, error: Exception) -> Any:
    """Answer 503 where the session was the reason; a view's own `save` is told as Django's is.

    Raises:
        SessionInterrupted: the view saved a session that had ended; Django answers 400.
    """
    if isinstance(error, UpdateError):
        raise SessionInterrupted("the session was ended before this request was over") from error
    return _unavailable(error) if isinstance(error, AnsweredError) else None


def process_response(self: Any, request: Any, response: Any) -> Any:
    """Save before the first byte, as Django does; say what was not saved."""
    store: Any = getattr(request, "session", None)
    if not issubclass(type(store), _stores):
        return _process_response(self, request, response)
    session: Session | None = store.__dict__.get("_session_cache")
    if session is not None and not store._modified and _only_read(session):
        vary = response.headers.get("Vary")
        if vary is None:
            response.headers["Vary"] = "Cookie"
        elif vary != "Cookie":
            patch_vary_headers(response, ("Cookie",))
        _begun(response, session)
        return response
    try:
        if session is not None and session._life.failed and session._life.failure is not None:
            raise session._life.failure  # also where the view made something else of it
        if session is not None and session._life.catches_up:
            ready(get_sessions().threads.ask_once_more(session._life))
            store._modified = session._life.cookie is not None
        varied = response.get("Vary")
        response = _djangos_own(self, request, response)
        _touch(store)
    except AnsweredError as error:
        return _unavailable(error)
    cookie = response.cookies.get(settings.SESSION_COOKIE_NAME)
    if cookie is not None:
        response.headers["Cache-Control"] = "no-store"
        if response.headers.get("Vary") != "Cookie":
            # Django 4.2 leaves it out of a mere renewal.
            patch_vary_headers(response, ("Cookie",))
        # Django's deletion leaves flags out, and a browser may take it for another cookie's.
        cookie["httponly"] = settings.SESSION_COOKIE_HTTPONLY or ""
        cookie["secure"] = settings.SESSION_COOKIE_SECURE or ""
    if get_sessions().carrier is not Carrier.COOKIE and (store.accessed or cookie is not None):
        _carry(response, store, varied)
    session = store.__dict__.get("_session_cache")
    if session is not None:
        _begun(response, session)
    return response


def _djangos_own(self: Any, request: Any, response: Any) -> Any:
    store = request.session
    store.answering = True
    try:
        response = _process_response(self, request, response)
    finally:
        store.answering = False
    if store.unstorable is not None and not store._modified:
        store._session.forgets(store.unstorable)
    return response


def _only_read(session: Session) -> bool:
    """Whether Django's own middleware would find nothing to do either, but for ``Vary``."""
    sessions = get_sessions()
    return (
        sessions.threads.only_read(session)
        and session._life.record is not None
        and sessions.carrier is Carrier.COOKIE
        and not settings.SESSION_SAVE_EVERY_REQUEST
    )


def _begun(response: Any, session: Session) -> None:
    session._life.started = True
    if response.status_code < 500:  # Django keeps nothing of these
        _watch(response, session)


def _touch(store: Any) -> None:
    """Move the idle deadline of what was only read; Django itself counts writes alone (S10)."""
    session: Session | None = store.__dict__.get("_session_cache")
    if session is None or session._life.failure is not None:
        return
    core, record = get_sessions().threads, session._life.record
    if record is None or not core.commits.touch(record, session._life.arrived_ms):
        return
    if not session.changes():  # what the view wants forgotten is not kept this way
        ready(core.commit(session))


def _carry(response: Any, store: Any, varied: str | None) -> None:
    """Answer by header whoever asks by header; the answer depends on it, whoever asks."""
    if get_sessions().carrier is Carrier.HEADER:
        del response["Vary"]
        if varied is not None:
            response["Vary"] = varied  # what other middleware said of cookies
    patch_vary_headers(response, (CARRIED,))
    if store.by_header:
        cookie = response.cookies.pop(settings.SESSION_COOKIE_NAME, None)
        if cookie is not None:
            response[CARRIED] = cookie.value


def _watch(response: Any, session: Session) -> None:
    """Drop nothing silently that changes once the response has begun."""
    if not response.streaming:
        response._resource_closers.append(partial(_say_what_is_left, session))
    elif response.is_async:
        response.streaming_content = _checked_on_a_loop(response.streaming_content, session)
    else:
        response.streaming_content = _checked(response.streaming_content, session)


def _checked(pieces: Any, session: Session) -> Iterator[Any]:
    yield from pieces
    core = get_sessions().threads
    if core.uncommitted(session):
        ready(nothing_left(core, session))


async def _checked_on_a_loop(pieces: Any, session: Session) -> AsyncIterator[Any]:
    async for piece in pieces:
        yield piece
    core = get_sessions().loops
    if core.uncommitted(session):
        await nothing_left(core, session)


def _say_what_is_left(session: Session) -> None:
    if get_sessions().threads.uncommitted(session):
        log.error(
            "ResponseStartedError: the session was changed after its response began, and is not "
            "kept; call request.session.save()"
        )


def _unavailable(error: Exception) -> Any:
    status, headers, body = refusal(error)
    said = {name.decode(): value.decode() for name, value in headers}
    return HttpResponse(body, status=status, headers=said)
