"""Taking over a running site without a logout: readers of what another session library left.

    Sessions.from_url(…, adopt=[FlaskCookie("the application's SECRET_KEY")])
    Sessions.from_url(…, adopt=[FlaskSessionRedis("redis://127.0.0.1:6379/0")])

On the first request with the old cookie, and none of ours, its data moves into a new session of
ours; the answer sets our cookie and expires the old one. Read only, limited in size, never
unpickled. What nobody can read means a stranger. Take the line out when the old cookies have
expired.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Protocol, TypeGuard, cast

from samesession.adopt.cookies import (
    AiohttpFernetCookie,
    AiohttpNaClCookie,
    FlaskCookie,
    StarletteCookie,
)
from samesession.adopt.formats import PickledError
from samesession.adopt.records import (
    AiohttpSessionRedis,
    FlaskSessionRedis,
    LitestarRedis,
    QuartSessionRedis,
    StarsessionsRedis,
)
from samesession.errors import ConfigError

__all__ = [
    "AiohttpFernetCookie",
    "AiohttpNaClCookie",
    "AiohttpSessionRedis",
    "FlaskCookie",
    "FlaskSessionRedis",
    "LitestarRedis",
    "PickledError",
    "QuartSessionRedis",
    "Reader",
    "Shelf",
    "StarletteCookie",
    "StarsessionsRedis",
    "StoredReader",
    "checked",
    "is_stored",
    "text_of",
]

LONGEST = 16 * 1024
"""Characters of a cookie's value: four times what a browser keeps."""

LARGEST = 1024 * 1024
"""Bytes of an old record: sixteen times what a session of ours may have by default."""


class Reader(Protocol):
    """Reads one kind of old cookie that holds its session; an application may bring its own."""

    cookie: str
    path: str
    domain: str | None

    def read(self, value: str) -> dict[str, Any] | None:
        """The contents, or None for what was not written by the old site; may raise ValueError."""
        ...


class StoredReader(Protocol):
    """Reads one kind of old session whose cookie only names it; an application may bring its own.

    Attributes:
        url: of the old store, such as ``redis://127.0.0.1:6379/0?deadline=250ms``; where it is
            another kind of store, any name, and ``open_shelf(opener)`` returns its `Shelf`
            (``opener``: ``"open_loop"`` or ``"open_threads"``).
        max_age: how long the old store may keep a record: so long it is remembered that one has
            moved, so that it does not come back after a logout.
    """

    cookie: str
    path: str
    domain: str | None
    url: str
    max_age: timedelta

    def name(self, value: str) -> str | None:
        """The record's name in the old store, or None for what the old site never gave out."""
        ...

    def contents(self, raw: bytes) -> dict[str, Any] | None:
        """What the record holds.

        Raises:
            PickledError: a pickle, which is never opened.
            ValueError: it is unreadable otherwise.
        """
        ...


class Shelf(Protocol):
    """Where the old records stand; one for event loops and one for threads, like a `Store`."""

    async def get(self, name: str) -> bytes | None:
        """The record, of which no more than `LARGEST` bytes and one are read; it is left alone.

        Raises:
            StoreUnavailableError: no answer in time.
            StoreCorruptError: something else stands under that name.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


def is_stored(reader: Reader | StoredReader) -> TypeGuard[StoredReader]:
    """Whether the cookie only names a record."""
    return hasattr(reader, "url")


def checked(readers: object) -> tuple[Reader | StoredReader, ...]:
    """Refuse what is no list of readers.

    Raises:
        ConfigError: naming it.
    """
    given = tuple(readers) if isinstance(readers, list | tuple) else (None,)
    for reader in given:
        reads = "contents" if hasattr(reader, "url") else "read"
        if not (hasattr(reader, "cookie") and callable(getattr(reader, reads, None))):
            raise ConfigError(
                f"adopt={readers!r} is no list of readers; "
                "write adopt=[FlaskCookie(…)] (samesession.adopt has them)"
            )
    return cast("tuple[Reader | StoredReader, ...]", given)


def text_of(value: bytes) -> str | None:
    """A cookie's value as text, without the quotes that some libraries set it in."""
    if len(value) > LONGEST or not value.isascii():
        return None
    if len(value) > 1 and value[:1] == value[-1:] == b'"':
        value = value[1:-1]
    return value.decode("ascii")
