"""``memory://``: records in this process, for tests and single-process development.

Also the store to copy from: each verb is one step, and `merge` and `finish` decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from samesession.record import (
    MARK_MS,
    Delta,
    Ending,
    Key,
    Mark,
    Outcome,
    Record,
    Version,
    finish,
    merge,
)
from samesession.settings import Url
from samesession.store import Store, end_with_successors

SWEEP_EVERY = 256
"""Writes between two looks for what is over, at least; one look costs a record's time a write."""


class MemoryStore:
    """A dict of records and marks under one lock."""

    lags = False
    suspends = False

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        """Start empty."""
        self._clock_ms = clock_ms
        self._lock = Lock()
        self._stored: dict[Key, Record | Mark] = {}
        self._writes = 0

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

    async def end(self, key: Key, ending: Ending) -> Mark:
        """See `Store`."""
        with self._lock:
            mark = finish(self._stored.get(key), ending)
            self._put(key, mark)
        return mark

    async def admit(self, principal: str, key: Key, until_ms: int) -> None:
        """See `Store`; the records themselves are the index."""

    async def dismiss(self, principal: str, key: Key) -> None:
        """See `Store`; the records themselves are the index."""

    async def held_by(self, principal: str) -> list[Record]:
        """See `Store`."""
        with self._lock:
            held = [
                record
                for record in self._stored.values()
                if isinstance(record, Record) and record.origin.principal == principal
            ]
        now = self._clock_ms()
        live = (record for record in held if record.ends_ms > now)
        return sorted(live, key=lambda record: record.origin.created_ms)

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        """See `Store`."""
        held = [record.key for record in await self.held_by(principal) if record.key != keep]
        marks = [await end_with_successors(self, key, ending) for key in held]
        return sum(mark.token == ending.token for mark in marks)

    async def close(self) -> None:
        """See `Store`; what is in memory stays as long as the object."""

    def _put(self, key: Key, value: Record | Mark) -> None:
        self._stored[key] = value
        self._writes += 1
        if self._writes >= max(SWEEP_EVERY, len(self._stored)):
            self._writes = 0
            now = self._clock_ms()
            for old in [k for k, v in self._stored.items() if _over(v, now)]:
                del self._stored[old]


def _over(value: Record | Mark, now_ms: int) -> bool:
    ends_ms = value.ends_ms if isinstance(value, Record) else value.at_ms
    return ends_ms + MARK_MS < now_ms


def open_loop(url: Url) -> Store:
    """Open an empty store."""
    url.only()
    return MemoryStore(lambda: time.time_ns() // 1_000_000)


open_threads = open_loop
