"""Django: ``SESSION_ENGINE = "samesession.web.django"`` and ``SAMESESSION = {"url": …}``.

Django's own ``SessionMiddleware`` stays in place and writes the cookie by the ``SESSION_COOKIE_*``
settings. What it keeps as the session's key is our token; the application sees the session's name.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

from django.apps import AppConfig
from django.conf import settings
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.core.exceptions import AppRegistryNotReady
from django.utils import timezone
from django.utils.module_loading import import_string

from samesession._bridge import ready
from samesession.contents import Changes
from samesession.errors import SessionTooLargeError, ValueNotStorableError
from samesession.life import Client
from samesession.lifecycle import Lifecycle
from samesession.record import Reason, Record
from samesession.session import Session
from samesession.token import Token
from samesession.web._django_adopt import old_cookies
from samesession.web._django_answers import complete
from samesession.web._django_settings import (
    ENGINE,
    LOGIN_KEYS,
    check_middleware,
    get_sessions,
    is_engine,
)

__all__ = ["Config", "SessionStore", "get_sessions"]

T = TypeVar("T")

_EXPIRY = "_session_expiry"
_UNTIL = "_samesession_until"
"""When an expiry in seconds of inactivity is over: Django counts it from the last save."""


class SessionStore(SessionBase):
    """Django's session over ours: plain methods on the blocking core, ``a…`` on the loop's."""

    def __init__(self, session_key: str | None = None) -> None:
        """Load nothing yet."""
        # Not `SessionBase.__init__`, which looks up a serializer that nobody asks for.
        self._modified = self._deleted = self._cycled = False
        self._disowned: Changes | None = None
        self.client: Callable[[], Client] = Client
        self.by_header = self.accessed = self.answering = False
        self.unstorable: Exception | None = None
        self._session_key = session_key

    serializer = property(lambda self: import_string(settings.SESSION_SERIALIZER))

    # What a session knows and does beside Django's words.

    principal = property(lambda self: self._session.principal)
    authenticated_at = property(lambda self: self._session.authenticated_at)
    created_at = property(lambda self: self._session.created_at)
    expires_at = property(lambda self: self._session.expires_at)
    handle = property(lambda self: self._session.handle)
    version = property(lambda self: self._session.version)
    is_new = property(lambda self: self._session.is_new)

    def as_(self, kind: type[T]) -> T:
        """As `Session.as_`."""
        return self._get_session().as_(kind)

    def fresh(self) -> None:
        """See `Session.fresh`."""
        self._get_session().fresh()

    async def afresh(self) -> None:
        """See `Session.fresh`."""
        await (await self._aget_session()).fresh()

    def login(self, principal: str) -> None:
        """As `Session.login`; `django.contrib.auth.login` needs no such call."""
        self._session.login(principal)
        self.modified = True

    def logout(self) -> None:
        """As `Session.logout`, at once: Django's `flush`."""
        self.flush()

    def rotate(self) -> None:
        """As `Session.rotate`, at once: Django's `cycle_key`."""
        self.cycle_key()

    # Django's seam.

    @property
    def session_key(self) -> str | None:
        """The session's name, the same until it is cycled: applications keep it, and load by it.

        The token has the version, too; it is what the middleware puts into its cookie.
        Who asks while a login is under way (a receiver of ``user_logged_in``), or after
        `cycle_key`, has it stored at once: only then its key is the one that stays, as Django's is.
        """
        if self.answering:
            return self._session_key
        session: Session | None = self.__dict__.get("_session_cache")
        if session is not None and (self._cycled or _signs_in(session)):
            self.save()
        value: str | None = self._session_key
        if value is None:
            return None
        core = get_sessions().threads
        token = _token(core, value)
        return value if token is None else core.commits.signer.name(token)

    @property
    def modified(self) -> bool:
        """Whether there is something to save; nested changes are noticed."""
        session = self.__dict__.get("_session_cache")
        if self._modified or session is None:
            return bool(self._modified)
        if session._life.failed:
            raise session._life.failure.with_traceback(None)
        if not (session._written or session._lent):
            return False
        changes = self._changes(session)
        return bool(changes) and changes != self._disowned

    @modified.setter
    def modified(self, value: bool) -> None:
        self._modified = value
        session = self.__dict__.get("_session_cache")
        if not value and session is not None:
            self._disowned = self._changes(session)

    def _changes(self, session: Session) -> Changes | None:
        """What changed; None where that cannot be stored, and nobody said that it shall be."""
        try:
            return session.changes()
        except (SessionTooLargeError, ValueNotStorableError) as error:
            self.unstorable = error
            return None

    def _get_session(self, no_load: bool = False) -> Session:
        self.accessed = True
        if "_session_cache" not in self.__dict__:
            self._session_cache = ready(self._opened(get_sessions().threads, loops=False))
        return self._session_cache

    _session = property(_get_session)

    async def _aget_session(self, no_load: bool = False) -> Session:
        self.accessed = True
        if "_session_cache" not in self.__dict__:
            self._session_cache = await self._opened(get_sessions().loops, loops=True)
        return self._session_cache

    def clear(self) -> None:
        """Empty the session; its key stays."""
        self._session.clear()
        self.modified = True

    def is_empty(self) -> bool:
        """Whether there is neither a key nor anything to save; who is signed in is something."""
        session = self.__dict__.get("_session_cache")
        if session is not None and (session._life.leaving or session._life.principal):
            return False
        return bool(super().is_empty())

    def load(self) -> Session:
        """Read the session anew."""
        return ready(self._opened(get_sessions().threads, loops=False))

    async def aload(self) -> Session:
        """As `load`."""
        return await self._opened(get_sessions().loops, loops=True)

    def exists(self, session_key: str | None) -> bool:
        """Whether a key leads to a live session."""
        return ready(_exists(get_sessions().threads, session_key))

    async def aexists(self, session_key: str | None) -> bool:
        """As `exists`."""
        return await _exists(get_sessions().loops, session_key)

    def create(self) -> None:
        """Go on as a new session, stored at once."""
        ready(self._create(get_sessions().threads))

    async def acreate(self) -> None:
        """As `create`."""
        await self._create(get_sessions().loops)

    def save(self, must_create: bool = False) -> None:
        """Keep what changed.

        Raises:
            UpdateError: the session was ended meanwhile.
            RetryableError: not kept, or nobody knows; the answer is 503.
        """
        ready(self._save(get_sessions().threads, self._get_session(), must_create))

    async def asave(self, must_create: bool = False) -> None:
        """As `save`."""
        await self._save(get_sessions().loops, await self._aget_session(), must_create)

    def delete(self, session_key: str | None = None) -> None:
        """End a session, this one by default; a key that leads nowhere is no error."""
        ready(self._delete(get_sessions().threads, session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        """As `delete`."""
        await self._delete(get_sessions().loops, session_key)

    def flush(self) -> None:
        """End the session everywhere, at once; what follows is another one."""
        ready(self._flush(get_sessions().threads, self._get_session()))

    async def aflush(self) -> None:
        """As `flush`."""
        await self._flush(get_sessions().loops, await self._aget_session())

    def cycle_key(self) -> None:
        """Go on under a new key, at once: the same data."""
        ready(self._cycle(get_sessions().threads, self._get_session()))

    async def acycle_key(self) -> None:
        """As `cycle_key`."""
        await self._cycle(get_sessions().loops, await self._aget_session())

    @classmethod
    def clear_expired(cls) -> None:
        """Nothing to do: every store of ours lets expired records go by itself."""

    @classmethod
    async def aclear_expired(cls) -> None:
        """As `clear_expired`."""

    def get_session_cookie_age(self) -> int:
        """Seconds that the cookie lives: no longer than the session can."""
        lifetime_s = get_sessions().limits.lifetime_ms // 1000
        return min(int(settings.SESSION_COOKIE_AGE), lifetime_s)

    # One body for threads and for loops.

    async def _opened(self, core: Lifecycle, *, loops: bool) -> Session:
        value = (self._session_key or "").encode("utf-8", "replace")
        # Not `self`, which holds the session: only the collector would free such a circle.
        session = await core.open(value or None, self.client)
        sessions = get_sessions()
        if sessions.adopt and value:
            header = b"%s=%s" % (sessions.cookie.name.encode(), value)
            session = await old_cookies(sessions, loops=loops).moved_in(session, [header])
            if session._life.adopted is not None:  # whoever asks uses it
                await core.moves.note(session._life.adopted)
                self._modified = True
        if _is_over(session):
            session = await core.open(None, self.client)
        life = session._life
        life.login_keys = LOGIN_KEYS
        if life.failure is None and life.record is None:
            self._session_key = None
        elif life.cookie:
            self._session_key = life.cookie  # a newer version than the browser has seen
        return session

    async def _create(self, core: Lifecycle) -> None:
        contents = dict(self.__dict__.get("_session_cache", ()))
        session = await core.open(None, self.client)
        session._life.login_keys = LOGIN_KEYS
        session.update(contents)
        self._session_key, self._session_cache = None, session
        self._deleted, self.modified = False, True
        await self._save(core, session, must_create=False)

    async def _save(self, core: Lifecycle, session: Session, must_create: bool) -> None:
        life, self._cycled = session._life, False
        if self._deleted:
            raise UpdateError
        if must_create and life.record is not None:
            raise CreateError
        if life.keep_empty and life.record is None and life.quiet:
            raise UpdateError  # an earlier save of this request found it ended
        before, leaves = life.record, life.leaving
        life.keep_empty = True
        _set_until(session)
        await core.commit(session)
        if before is not None and life.record is None and leaves is None:
            raise UpdateError
        self._follow(session)

    async def _delete(self, core: Lifecycle, session_key: str | None) -> None:
        own = _token(core, self._session_key)
        token = own if session_key is None else _token(core, session_key)
        if token is not None:
            await core.end(token.key)
            self._deleted |= own is not None and token.key == own.key

    async def _flush(self, core: Lifecycle, session: Session) -> None:
        session.logout()
        session._life.keep_empty = False
        await core.commit(session)
        self._session_key, self._deleted, self.modified = None, False, True
        self._cycled = False

    async def _cycle(self, core: Lifecycle, session: Session) -> None:
        if session._life.record is not None:
            session.rotate()
            await core.commit(session)
            self._follow(session)
        else:
            self._cycled = True  # stored when its key is asked for: a login makes another one
        self.modified = True

    def _follow(self, session: Session) -> None:
        cookie = session._life.cookie
        if cookie is not None:
            self._session_key = cookie or None
            self.modified = True  # the middleware shall send it


async def _exists(core: Lifecycle, session_key: str | None) -> bool:
    token = _token(core, session_key)
    if token is None:
        return False
    found = await core.store.load(token.key)
    return isinstance(found, Record) and found.ends_ms > core.commits.clock()


def _token(core: Lifecycle, session_key: str | None) -> Token | None:
    if not session_key:
        return None
    value = session_key.encode("utf-8", "replace")
    token = core.commits.signer.loads(value, now_ms=core.commits.clock())
    return token if isinstance(token, Token) else None


def _signs_in(session: Session) -> bool:
    """Whether a login is under way, and can still be answered with its cookie."""
    life = session._life
    if life.started or life.leaving is Reason.LOGOUT or (life.quiet and life.keep_empty):
        return False
    who = dict.get(session, LOGIN_KEYS[0])
    return life.leaving is Reason.LOGIN or (who is not None and str(who) != life.principal)


def _is_over(session: Session) -> bool:
    """Whether Django's own expiry has passed (`set_expiry`)."""
    expiry, until = dict.get(session, _EXPIRY), dict.get(session, _UNTIL)
    if isinstance(expiry, str):
        moment = datetime.fromisoformat(expiry)
        now = timezone.now() if timezone.is_aware(moment) else datetime.now()  # noqa: DTZ005
        return moment <= now
    return isinstance(until, int) and until <= _now_s()


def _set_until(session: Session) -> None:
    expiry = dict.get(session, _EXPIRY)
    if isinstance(expiry, int) and expiry:
        session[_UNTIL] = _now_s() + expiry
    elif dict.__contains__(session, _UNTIL):
        del session[_UNTIL]


def _now_s() -> int:
    return int(timezone.now().timestamp())


class Config(AppConfig):
    """For ``INSTALLED_APPS``: with it, wrong settings fail every command of ``manage.py``."""

    name = "samesession.web.django"
    label = "samesession"

    def ready(self) -> None:
        """Stop a server whose settings are wrong, or whose requests would have no session."""
        if is_engine():
            get_sessions()
            check_middleware()


complete(SessionStore)
if settings.configured and settings.SESSION_ENGINE == ENGINE:
    with suppress(AppRegistryNotReady):  # an old engine with a model of its own; `Config` goes on
        get_sessions()  # wrong settings stop the server here
