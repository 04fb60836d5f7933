"""What a request knows of its session beside the contents; the layers above read and write it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from msgspec import Struct

from samesession.errors import RetryableError
from samesession.record import Delta, Reason, Record
from samesession.token import Token

UNKNOWN = object()
"""Stands for what nobody has looked at."""

_NO_INSTANCES: Mapping[str, tuple[Any, Any]] = MappingProxyType({})


class Client(NamedTuple):
    """Who asks, as the adapter knows it; kept with a signed-in session for its owner's list."""

    user_agent: str = ""
    address: str = ""


class Adopted(NamedTuple):
    """An old session that has moved into one of ours (`samesession.takeover`).

    Attributes:
        gone: Set-Cookie's value that expires the old cookie; empty where ours takes its place.
        note: makes the record that remembers the move, once the session is used.
    """

    gone: bytes
    note: Delta | None = None


class Life(Struct, eq=False):
    """What a session knows beside its contents; the lifecycle and the adapters read it.

    Attributes:
        arrived_ms: when the request came.
        size_limit: bytes of all keys and encoded values.
        client: who asks; called when a signed-in record is made.
        renews: loads the session again, for `Session.fresh`.
        login_keys: a change of the first is a login or logout; the others are written with it.
        token: the valid cookie that came, if one did.
        seen: the highest version number that the browser has seen.
        record: as loaded or last committed; None while the session is new.
        principal: who is signed in, as far as this request knows.
        quiet: the cookie's record ended a moment ago, so nothing new is made for it (S6).
        ended: why it did.
        leaving: how the loaded record will end at the commit: logout, login or rotation.
        carries: whether the contents go along when the record is left.
        started: the response began; a new cookie can no longer be sent.
        refused: 503 was sent in the place of the answer.
        failure: why loading failed; raised at every use.
        failed: the failure was shown to the handler, so the answer must be 503.
        told: a value that cannot be stored was refused at a commit, and the handler heard of it.
        ending_token: of every end that this request asks for, so that it knows its own marks.
        cookie: the value to set; "" deletes the cookie; None leaves it alone.
        catches_up: that value only says that a newer version was read than the browser had seen.
        followed: what the first login key said when it was last looked at.
        by_header: the token travels in a header of its own, not in the cookie.
        adopted: what becomes of the old cookie whose data moved here.
        persistent: this cookie has Max-Age though the setting says no.
        keep_empty: a session without a key is kept all the same (Django's `save`).
        typed: instances that `as_` handed out by their keys, and their fields as they were then.
        drawn: the id of a new record, where its handle was asked for before it is made.
    """

    # A Struct, because making one with all these defaults is one step in C.
    arrived_ms: int
    size_limit: int
    client: Callable[[], Client]
    renews: Callable[[Any], Awaitable[None]] | None = None
    login_keys: Sequence[str] = ()
    token: Token | None = None
    seen: int = 0
    record: Record | None = None
    principal: str | None = None
    quiet: bool = False
    ended: Reason | None = None
    leaving: Reason | None = None
    carries: bool = True
    started: bool = False
    refused: bool = False
    failure: RetryableError | None = None
    failed: bool = False
    told: bool = False
    ending_token: bytes = b""
    cookie: str | None = None
    catches_up: bool = False
    followed: Any = UNKNOWN
    by_header: bool = False
    adopted: Adopted | None = None
    persistent: bool = False
    keep_empty: bool = False
    typed: Mapping[str, tuple[Any, Any]] = _NO_INSTANCES
    drawn: str = ""


class Done:
    """What can be awaited, and need not be."""

    def __await__(self) -> Generator[None, None, None]:
        """Have nothing to wait for."""
        yield from ()
