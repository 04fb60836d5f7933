"""``memory://``: records in this process, for tests and single-process development.

Also the store to copy from: each verb is one step, and `merge` and `finish` decide. Leave out
`exchange`, which is no verb of the protocol but a short way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from samesession.quota import MAKING_MS, displaced
from samesession.record import (
    MARK_MS,
    TOKEN_BYTES,
    Delta,
    Ending,
    Key,
    Mark,
    Outcome,
    Reason,
    Record,
    Version,
    finish,
    merge,
)
from samesession.settings import Quota, Url
from samesession.store import Exchanging, Store, end_with_successors

SWEEP_EVERY = 256
"""Writes between two looks for what is over, at least; one look costs a record's time a write."""


class _Making(NamedTuple):
    """A login or rotation under way, and until when it counts though its record is not there."""

    until_ms: int
    absolute_ms: int
    replaces: Key | None


class MemoryStore(Exchanging):
    """A dict of records and marks under one lock."""

    lags = False
    limits = True
    suspends = False

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        """Start empty."""
        self._clock_ms = clock_ms
        self._lock = Lock()
        self._stored: dict[Key, Record | Mark] = {}
        self._until_sweep = SWEEP_EVERY
        self._making: dict[str, dict[Key, _Making]] = {}

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        """See `Store`; there is one copy, so it covers all that exists."""
        return self._stored.get(key)

    async def commit(self, delta: Delta) -> Outcome:
        """See `Store`."""
        with self._lock:
            outcome, written = merge(self._stored.get(delta.key), delta)
            if written is not None:
                self._put(delta.key, written)
        return outcome

    def exchange(self, before: Record, after: Record, now_ms: int) -> bool:
        """See `Exchanging`."""
        with self._lock:
            if self._stored.get(before.key) is not before:
                return False
            self._put(before.key, after)
        return True

    async def end(self, key: Key, ending: Ending) -> Mark:
        """See `Store`."""
        with self._lock:
            mark = finish(self._stored.get(key), ending)
            self._put(key, mark)
        return mark

    async def admit(
        self,
        principal: str,
        key: Key,
        until_ms: int,
        *,
        replaces: Key | None = None,
        quota: Quota | None = None,
    ) -> tuple[Key, ...] | None:
        """See `Store`; the records themselves are the index, and who is about to make one."""
        if quota is None:
            return ()
        now = self._clock_ms()
        with self._lock:
            making = {
                one: entry
                for one, entry in self._making.get(principal, {}).items()
                if entry.until_ms > now and not isinstance(self._stored.get(one), Mark)
            }
            held = {
                one: entry.absolute_ms for one, entry in making.items() if one not in self._stored
            }
            held |= {r.key: r.origin.absolute_ms for r in self._live(principal, now)}
            moving = {entry.replaces: one for one, entry in making.items() if entry.replaces}
            going = displaced(held, moving, key, replaces, quota)
            if going is None:
                return None
            for one in going:
                ending = Ending(Reason.DISPLACED, now, one.encode()[:TOKEN_BYTES])
                self._put(one, finish(self._stored.get(one), ending))
                making.pop(one, None)
            making[key] = _Making(now + MAKING_MS, until_ms, replaces)
            self._making[principal] = making
        return going

    async def dismiss(self, principal: str, key: Key) -> None:
        """See `Store`; the records themselves are the index."""

    async def held_by(self, principal: str) -> list[Record]:
        """See `Store`."""
        with self._lock:
            live = self._live(principal, self._clock_ms())
        return sorted(live, key=lambda record: record.origin.created_ms)

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        """See `Store`."""
        held = [record.key for record in await self.held_by(principal) if record.key != keep]
        marks = [await end_with_successors(self, key, ending) for key in held]
        return sum(mark.token == ending.token for mark in marks)

    async def close(self) -> None:
        """See `Store`; what is in memory stays as long as the object."""

    def _live(self, principal: str, now_ms: int) -> list[Record]:
        return [
            record
            for record in self._stored.values()
            if isinstance(record, Record)
            and record.origin.principal == principal
            and record.ends_ms > now_ms
        ]

    def _put(self, key: Key, value: Record | Mark) -> None:
        self._stored[key] = value
        self._until_sweep -= 1
        if self._until_sweep <= 0:
            self._until_sweep = max(SWEEP_EVERY, len(self._stored))
            now = self._clock_ms()
            for old in [k for k, v in self._stored.items() if _over(v, now)]:
                del self._stored[old]
            for principal, making in [*self._making.items()]:
                if all(entry.until_ms <= now for entry in making.values()):
                    del self._making[principal]


def _over(value: Record | Mark, now_ms: int) -> bool:
    ends_ms = value.ends_ms if isinstance(value, Record) else value.at_ms
    return ends_ms + MARK_MS < now_ms


def open_loop(url: Url) -> Store:
    """Open an empty store."""
    url.only()
    return MemoryStore(lambda: time.time_ns() // 1_000_000)


open_threads = open_loop
