"""A session as a versioned map, and the pure functions that decide what a commit or an end does.

The rules, which every store keeps by calling `merge` and `finish` in one atomic step of its engine
(or by saying the same in the engine's own language, as `stores/redis_scripts.py` does):

1. Creating inserts only, committing updates only; nothing here is an upsert.
2. An ended record beats every write. What ended it stays as a mark.
3. Deltas merge per key. On the same key the later commit in the authority's order wins.
4. Each commit that changes a key raises the version; a touch alone does not, and never shortens.
5. A token seen before changes nothing: a commit may be sent twice.
6. A principal and an absolute deadline belong to a record from its making on.

No clock, no randomness, no input or output: times come in as milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, NewType

from msgspec import Meta, Struct
from msgspec.structs import replace

Key = NewType("Key", str)
"""The engine's name of a record: a hash of the id, so that a dump of a store holds no cookie."""

LATEST_MS = 253_402_300_799_999
"""The last millisecond since the epoch that a date can say: the end of the year 9999."""

Ms = Annotated[int, Meta(ge=0, le=LATEST_MS)]
"""Milliseconds since the epoch that a date can say; others are not decoded."""

TOKEN_BYTES = 8
TAG_BYTES = 2
COMMITS_KEPT = 4
"""With one stored token, a retry that came after another commit was applied again (MEASURED 9)."""

MARK_MS = 30_000
"""How long every engine keeps the mark of an ended record, at least."""


class Reason(StrEnum):
    """Why a record ended."""

    LOGOUT = "logout"
    LOGIN = "login"
    ROTATED = "rotated"
    REVOKED = "revoked"
    DISPLACED = "displaced"
    EMPTIED = "emptied"
    EXPIRED = "expired"

    @property
    def moved(self) -> bool:
        """Whether the session went on in another record."""
        return self in _MOVED

    @property
    def final(self) -> bool:
        """Whether somebody wanted the session over, and so its successors too."""
        return self in _FINAL


_MOVED = frozenset({Reason.LOGIN, Reason.ROTATED})
_FINAL = frozenset({Reason.LOGOUT, Reason.REVOKED, Reason.DISPLACED})


class Version(Struct, frozen=True, array_like=True, gc=False):
    """A point in a record's life: the number of a commit, and two bytes of that commit's token."""

    number: int
    tag: bytes


BEYOND = Version(1 << 32, b"")
"""Above the number of every commit: no copy covers it, so the authority is asked."""


class Commit(Struct, frozen=True, array_like=True, gc=False):
    """One commit that a record remembers."""

    number: Annotated[int, Meta(ge=1, le=0xFFFF_FFFF)]
    token: bytes

    @property
    def version(self) -> Version:
        """What the cookie carries of it."""
        return Version(self.number, self.token[:TAG_BYTES])


class Origin(Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """What is fixed when a record is made, and never changes hands."""

    created_ms: Ms
    absolute_ms: Ms
    principal: str | None = None
    authenticated_ms: Ms | None = None
    user_agent: str = ""
    address: str = ""


class Record(Struct, frozen=True, array_like=True, dict=True):
    """One session: who, how long, which commits, and each key's encoded value.

    Its ``__dict__`` is never stored nor compared: it keeps what was derived from the fields, for
    stores that return the same object again (`samesession.session` keeps what it decoded).
    """

    key: Key
    origin: Origin
    commits: tuple[Commit, ...]
    seen_ms: Ms
    idle_until_ms: Ms
    values: Mapping[str, bytes]

    @property
    def version(self) -> Version:
        """The newest commit's version."""
        newest = self.commits[-1]
        return Version(newest.number, newest.token[:TAG_BYTES])

    @property
    def ends_ms(self) -> int:
        """The idle or the absolute deadline, whichever is earlier."""
        return min(self.idle_until_ms, self.origin.absolute_ms)

    def has(self, token: bytes) -> bool:
        """Whether the commit of this token is among those remembered."""
        return token in [commit.token for commit in self.commits]

    def covers(self, seen: Version) -> bool:
        """Whether this record holds what the commit ``seen`` wrote.

        A number alone would be fooled by a store that lost a commit and has passed its number
        since; so the commits still remembered are compared by their tags too.
        """
        newest = self.commits[-1]
        if newest.number == seen.number and newest.token[:TAG_BYTES] == seen.tag:
            return True
        another = False  # of that number: two servers may have given it on two sides of a partition
        for commit in reversed(self.commits):
            if commit.number < seen.number:
                return False
            if commit.number == seen.number:
                if commit.token[:TAG_BYTES] == seen.tag:
                    return True
                another = True
        return not another


class Mark(Struct, frozen=True, array_like=True):
    """What stays of an ended record.

    Attributes:
        token: of the request that ended it, so that its retry is recognised.
        successor: the record in which the session went on (login, rotation).
        final: the contents at the end, kept for a login's or a rotation's retry.
    """

    reason: Reason
    at_ms: Ms
    token: bytes
    successor: Key | None = None
    final: Record | None = None


class Delta(Struct, frozen=True, array_like=True):
    """Everything that one commit asks for.

    Attributes:
        token: makes a second sending harmless; random, `TOKEN_BYTES` long.
        now_ms: the sender's clock, for deadlines.
        idle_until_ms: the idle deadline that the sender wants at least; 0 leaves it alone.
        origin: present when the record is to be made, absent when it is to be changed.
        at_least: what the sender built on; a record that does not cover it answers `Lost`.
        floor: the highest version number that the browser has seen.
        keep_empty: lets an anonymous record live without a key.
        ack: copies that must hold the commit before it is answered (clusters).
    """

    key: Key
    token: bytes
    now_ms: int
    idle_until_ms: int = 0
    sets: Mapping[str, bytes] = {}
    removes: tuple[str, ...] = ()
    origin: Origin | None = None
    at_least: Version | None = None
    floor: int = 0
    keep_empty: bool = False
    ack: int = 1

    @property
    def changes(self) -> bool:
        """Whether it sets or removes a key; otherwise it is a touch, or makes a record."""
        return bool(self.sets or self.removes)


class Ending(Struct, frozen=True, array_like=True):
    """Everything that one end asks for."""

    reason: Reason
    at_ms: int
    token: bytes
    successor: Key | None = None


class Applied(Struct, frozen=True):
    """The delta holds; what the engine decided, since it need not send the record back.

    Attributes:
        record: what is stored now, where the store has it at hand.
    """

    commits: tuple[Commit, ...]
    seen_ms: int
    idle_until_ms: int
    record: Record | None = None


class Ended(Struct, frozen=True):
    """The record is over, and the delta was refused (or ended it: `Reason.EMPTIED`)."""

    mark: Mark


class Absent(Struct, frozen=True):
    """There is no such record and no mark of one; the delta was refused."""


class Taken(Struct, frozen=True):
    """A record was to be made and another one has its key."""


class Lost(Struct, frozen=True):
    """The record does not cover what the delta was built on; nothing was written."""

    commits: tuple[Commit, ...]


Outcome = Applied | Ended | Absent | Taken | Lost


def merge(stored: Record | Mark | None, delta: Delta) -> tuple[Outcome, Record | Mark | None]:
    """Decide what a delta does to what is stored.

    Returns:
        The outcome, and what to write in the same atomic step (None: nothing).
    """
    if not isinstance(stored, Record):
        if stored is not None:
            return Ended(stored), None
        return (Absent(), None) if delta.origin is None else _create(delta, delta.origin)
    newest, seen, lost = stored.commits[-1], delta.at_least, False
    if seen is None or newest.number != seen.number or not newest.token.startswith(seen.tag):
        # Most deltas are built on the newest commit: then they were not applied before.
        if stored.has(delta.token):
            return _applied(stored), None
        lost = seen is not None and not stored.covers(seen)
    if delta.origin is not None:
        return Taken(), None
    if stored.idle_until_ms <= delta.now_ms or stored.origin.absolute_ms <= delta.now_ms:
        return Ended(Mark(Reason.EXPIRED, stored.ends_ms, b"")), None
    if lost:
        return Lost(stored.commits), None
    return _update(stored, delta)


def alone(record: Record, delta: Delta, applied: Applied) -> bool:
    """Whether nobody else committed between the sender's snapshot and this change of a key."""
    commits = applied.commits
    return record.commits[-1] in commits[-2:-1] and commits[-1].token == delta.token


def after(record: Record, delta: Delta, applied: Applied) -> Record:
    """The record as the sender of a delta knows it now: its snapshot, and its own change."""
    return Record(
        record.key,
        record.origin,
        applied.commits,
        applied.seen_ms,
        applied.idle_until_ms,
        _merged(record.values, delta.sets, delta.removes),
    )


def made(delta: Delta, origin: Origin) -> Record:
    """The record that a creating delta makes."""
    first = Commit(delta.floor + 1, delta.token)
    return Record(delta.key, origin, (first,), delta.now_ms, delta.idle_until_ms, dict(delta.sets))


def finish(stored: Record | Mark | None, ending: Ending) -> Mark:
    """Decide which mark stands after an end: the first one, whoever asks again."""
    if isinstance(stored, Mark):
        return stored
    expired = stored is not None and stored.ends_ms <= ending.at_ms
    kept = stored if ending.reason.moved and not expired else None
    return Mark(ending.reason, ending.at_ms, ending.token, ending.successor, kept)


def _create(delta: Delta, origin: Origin) -> tuple[Outcome, Record]:
    record = made(delta, origin)
    return _applied(record), record


def with_changes(
    stored: Record, sets: Mapping[str, bytes], removes: tuple[str, ...], token: bytes, floor: int
) -> Record:
    """The record after a commit that changes keys; its deadlines are left alone."""
    newest = Commit(max(stored.commits[-1].number, floor) + 1, token)
    return Record(
        stored.key,
        stored.origin,
        (*stored.commits[1 - COMMITS_KEPT :], newest),
        stored.seen_ms,
        stored.idle_until_ms,
        _merged(stored.values, sets, removes),
    )


def _update(stored: Record, delta: Delta) -> tuple[Outcome, Record | Mark | None]:
    record = stored
    if delta.sets or delta.removes:
        record = with_changes(stored, delta.sets, delta.removes, delta.token, delta.floor)
        if not (record.values or delta.keep_empty or stored.origin.principal is not None):
            mark = Mark(Reason.EMPTIED, delta.now_ms, delta.token)
            return Ended(mark), mark
    elif delta.idle_until_ms <= stored.idle_until_ms:
        return _applied(stored), None
    if delta.idle_until_ms > stored.idle_until_ms:
        seen_ms = max(stored.seen_ms, delta.now_ms)
        record = replace(record, seen_ms=seen_ms, idle_until_ms=delta.idle_until_ms)
    return _applied(record), record


def _merged(
    values: Mapping[str, bytes], sets: Mapping[str, bytes], removes: tuple[str, ...]
) -> dict[str, bytes]:
    merged = {**values, **sets}
    for name in removes:
        if name not in sets:
            merged.pop(name, None)
    return merged


def _applied(record: Record) -> Applied:
    return Applied(record.commits, record.seen_ms, record.idle_until_ms, record)
