"""The session that an application holds: its contents, who is signed in, and until when."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import TypeVar, cast

from samesession import typed
from samesession.contents import Contents
from samesession.errors import ResponseStartedError, ValueNotStorableError
from samesession.life import UNKNOWN, Done, Life
from samesession.record import Key, Reason, Record

T = TypeVar("T")

PRINCIPAL_BYTES = 256


class Session(Contents):
    """One visitor's data, the same on every server."""

    __slots__ = ()

    @property
    def principal(self) -> str | None:
        """Who is signed in, or None."""
        self.mark_accessed()
        return self._life.principal

    @property
    def authenticated_at(self) -> datetime | None:
        """When the principal signed in; rotation keeps it."""
        record = self._opened()
        return None if record is None else _datetime(record.origin.authenticated_ms)

    @property
    def created_at(self) -> datetime | None:
        """When the record was made; None before the first commit."""
        record = self._opened()
        return None if record is None else _datetime(record.origin.created_ms)

    @property
    def expires_at(self) -> datetime | None:
        """When it ends if nobody uses it again, and at the latest; None before the first commit."""
        record = self._opened()
        return None if record is None else _datetime(record.ends_ms)

    @property
    def is_new(self) -> bool:
        """Whether no record was found for this visitor."""
        return self._opened() is None

    @property
    def handle(self) -> Key | None:
        """Public name for lists and logs: the engine's key, a hash, useless as a cookie."""
        record = self._opened()
        return None if record is None else record.key

    @property
    def version(self) -> int:
        """The number of the last commit that this browser can have seen; 0 before the first."""
        record = self._opened()
        return max(self._life.seen, 0 if record is None else record.version.number)

    @property
    def ended(self) -> Reason | None:
        """Why the session whose cookie came is over, if it ended within the last 30 s.

        For a page that says so: ``"displaced"`` (signed in once more than allowed), ``"revoked"``
        (ended from elsewhere), ``"logout"``; ``"login"`` and ``"rotated"`` when it went on under
        another cookie. None while it lives, and when nobody knows any more.
        """
        self.mark_accessed()
        return self._life.ended

    def login(self, principal: str) -> None:
        """Sign in: at the commit a new record with a new cookie takes over (S6).

        Over no principal or the same one the contents stay; over another one it starts empty.

        Args:
            principal: 1 to 256 bytes of text, such as ``str(user.id)``.
        """
        if not 0 < _bytes_of(principal) <= PRINCIPAL_BYTES:
            raise ValueNotStorableError(
                f"login({principal!r}): a principal is a str of 1 to {PRINCIPAL_BYTES} bytes"
            )
        life = self._changeable("login()")
        if life.principal not in {None, principal}:
            self._start_empty()
            life.carries = False
        if life.leaving is not Reason.LOGOUT:
            life.leaving = Reason.LOGIN
        life.principal = principal

    def logout(self) -> None:
        """End the session everywhere, at the commit; it wins over every late write."""
        self.mark_accessed()
        life = self._life
        life.leaving = Reason.LOGOUT
        life.carries = False
        life.principal = None
        self._start_empty()

    def rotate(self) -> None:
        """Go on under a new id: same data, same principal, same deadline."""
        life = self._changeable("rotate()")
        if life.leaving is None:
            life.leaving = Reason.ROTATED

    def as_(self, kind: type[T]) -> T:
        """Return the contents of one key as an instance of a class; its changes are noticed.

        Args:
            kind: a dataclass, msgspec Struct or pydantic model whose fields all have defaults
                (`samesession.typed`).
        """
        self.mark_accessed()
        key, life = typed.key_for(kind), self._life
        if key in life.typed and isinstance(life.typed[key][0], kind):
            return cast(T, life.typed[key][0])
        instance = typed.loads(kind, dict.get(self, key))
        life.typed = {**life.typed, key: (instance, typed.plain(instance))}
        self._lent = True
        return instance

    def fresh(self) -> Awaitable[None]:
        """Load the session again past every copy, for what must not miss the last 250 ms.

        Write ``await session.fresh()`` on an event loop; in a thread ``session.fresh()`` is enough.
        What was changed here and is not committed yet stays on top. A session that was ended
        meanwhile is anonymous and empty from here on. Without a near cache it asks as well.

        Raises:
            StoreUnavailableError: the store does not answer; the answer will be 503.
        """
        renews = self._life.renews
        return Done() if renews is None else renews(self)

    def follow(self) -> None:
        """Take a change of the first login key for the login or logout that it is (S6).

        For applications that mark it themselves: what stood beside a login stays, what stood beside
        another principal goes, and after a logout the rest goes on under a new id.
        """
        life = self._life
        if not life.login_keys:
            return
        key = life.login_keys[0]
        value = dict.get(self, key)
        before = self._base_now().get(key) if life.followed is UNKNOWN else life.followed
        life.followed = value
        if value == before or life.leaving is Reason.LOGIN:  # said by the application itself
            return
        contents, principal = dict.copy(self), "" if value is None else str(value)
        if not principal:
            self.logout()
            self.update(contents)
            life.followed = value
        elif life.principal in {None, principal}:
            self.login(principal)
        else:
            base = dict(self._base_now())
            mine = {k: v for k, v in contents.items() if base.get(k, UNKNOWN) is not v}
            mine.update({k: contents[k] for k in life.login_keys if k in contents})
            self.login(principal)
            self.update(mine)
            life.followed = value

    def _opened(self) -> Record | None:
        self.mark_accessed()
        return self._life.record

    def _changeable(self, what: str) -> Life:
        self.mark_accessed()
        if self._life.started:
            raise ResponseStartedError(
                f"session.{what} after the response began: its new cookie cannot be sent any more; "
                "call it before the first byte"
            )
        return self._life


def _bytes_of(text: object) -> int:
    """How long it is in UTF-8; 0 when it is no text, or has a lone surrogate."""
    try:
        return len(text.encode()) if isinstance(text, str) else 0
    except UnicodeEncodeError:
        return 0


def _datetime(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
