"""A Litestar `Store` in our stores: for rate limits, response caches and whatever else wants one.

An entry is a record of its own. Deleting marks its value as over rather than ending the record,
since an ended record refuses every write for 30 s; `delete_all` changes the generation that every
entry of the namespace carries. Engines keep a record that is over for a while, and it can be
neither changed nor made anew: so records outlive their values by `SLACK_MS`, and an entry has two
places, one of them free. A read is one round trip: both places and the generations together.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Self

from litestar.stores.base import NamespacedStore

from samesession._random import random_bytes
from samesession.errors import StoreUnavailableError
from samesession.record import TOKEN_BYTES, Applied, Delta, Key, Origin, Record
from samesession.sessions import Sessions
from samesession.token import key_of
from samesession.web._checks import check_sessions

LIFETIME_MS = 400 * 24 * 3_600_000
"""Of an entry without an expiry: the longest that anything of ours lives."""

SLACK_MS = 3_600_000
"""How long a record outlives its value; a value that comes back within it is a change."""

_VALUE, _EXPIRES, _GENERATION = "value", "expires_ms", "generation"
_NEVER = b"0"


class SharedStore(NamespacedStore):
    """``Litestar(stores={"response_cache": SharedStore(sessions)})``: the same on every server."""

    __slots__ = ("_lineage", "_store", "sessions")

    def __init__(self, sessions: Sessions, *, namespace: str = "litestar") -> None:
        """Keep values beside the sessions, under a namespace of their own."""
        check_sessions(sessions, "SharedStore(sessions)")
        self.sessions = sessions
        self._store = sessions.loops.store
        self._lineage: tuple[str, ...] = (namespace,)

    def with_namespace(self, namespace: str) -> Self:
        """Return a store below this one; what deletes everything here deletes it there too."""
        child = type(self)(self.sessions)
        child._lineage = (*self._lineage, namespace)
        return child

    async def set(
        self, key: str, value: str | bytes, expires_in: int | timedelta | None = None
    ) -> None:
        """Keep a value; None never expires (400 days)."""
        now = _now_ms()
        expires_ms = _later(now, expires_in)
        values = {
            _VALUE: value.encode() if isinstance(value, str) else bytes(value),
            _EXPIRES: str(expires_ms).encode() if expires_in else _NEVER,
            _GENERATION: await self._generations(),
        }
        await self._put(self._places(key), values, now, expires_ms)

    async def get(self, key: str, renew_for: int | timedelta | None = None) -> bytes | None:
        """Return a value that is not over; ``renew_for`` moves an expiry that it has."""
        record = await self._live(key)
        if record is None:
            return None
        if renew_for and record.values[_EXPIRES] != _NEVER:
            now = _now_ms()
            expires_ms = _later(now, renew_for)
            await self._put([record.key], {_EXPIRES: str(expires_ms).encode()}, now, expires_ms)
        return record.values[_VALUE]

    async def delete(self, key: str) -> None:
        """Delete a value; one that is not there is deleted already."""
        now = _now_ms()
        sets = {_VALUE: b"", _EXPIRES: str(now).encode()}
        for place in self._places(key):
            await self._store.commit(Delta(place, random_bytes(TOKEN_BYTES), now, sets=sets))

    async def delete_all(self) -> None:
        """Delete every value of this namespace and of those below it."""
        now = _now_ms()
        generation = {_GENERATION: random_bytes(TOKEN_BYTES)}
        await self._put([_namespace_key(self._lineage)], generation, now, now + LIFETIME_MS)

    async def delete_expired(self) -> None:
        """Nothing to do: every store of ours lets expired values go by itself."""

    async def exists(self, key: str) -> bool:
        """Whether a value is there and not over."""
        return await self._live(key) is not None

    async def expires_in(self, key: str) -> int | None:
        """Seconds until a value is over; None when it is not there, -1 when it never is."""
        record = await self._live(key)
        if record is None:
            return None
        expires = record.values[_EXPIRES]
        return -1 if expires == _NEVER else max(0, (int(expires) - _now_ms()) // 1000)

    def _places(self, key: str) -> list[Key]:
        path = ("litestar store", *self._lineage, "", key)
        return [key_of("\x1f".join((number, *path))) for number in "01"]

    async def _live(self, key: str) -> Record | None:
        loads = map(self._store.load, self._places(key))
        generations, *found = await asyncio.gather(self._generations(), *loads)
        for record in found:
            if isinstance(record, Record) and record.values.get(_GENERATION) == generations:
                expires = record.values[_EXPIRES]
                if expires == _NEVER or int(expires) > _now_ms():
                    return record
        return None

    async def _generations(self) -> bytes:
        depths = range(1, len(self._lineage) + 1)
        keys = [_namespace_key(self._lineage[:depth]) for depth in depths]
        found = await asyncio.gather(*map(self._store.load, keys))
        return b".".join(
            one.values.get(_GENERATION, b"") if isinstance(one, Record) else b"" for one in found
        )

    async def _put(
        self, places: list[Key], values: dict[str, bytes], now: int, expires_ms: int
    ) -> None:
        """Change the record that is there, or make one where none is in the way."""
        idle_until = min(expires_ms + SLACK_MS, now + LIFETIME_MS)
        made_by = (None, Origin(now, now + LIFETIME_MS), None)  # again: another may have made it
        for origin in made_by:
            for place in places:
                token = random_bytes(TOKEN_BYTES)
                delta = Delta(place, token, now, idle_until, sets=values, origin=origin)
                if isinstance(await self._store.commit(delta), Applied):
                    return
        raise StoreUnavailableError("a value was not kept: too many write it at the same time")


def _namespace_key(lineage: tuple[str, ...]) -> Key:
    return key_of("\x1f".join(("litestar namespace", *lineage)))


def _later(now: int, expires_in: int | timedelta | None) -> int:
    if not expires_in:
        return now + LIFETIME_MS
    seconds = expires_in.total_seconds() if isinstance(expires_in, timedelta) else expires_in
    return now + min(round(seconds * 1000), LIFETIME_MS)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
