"""Records as they were last read, so that the same bytes are not taken apart twice.

No copy is ever served from here: the server is asked each time, and what it answers is compared.
But a record that answers with the same bytes as a moment ago is the same record, and what was
decoded of it is kept with it (`samesession.record.Record`). Most requests only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import NamedTuple

from samesession.record import Applied, Delta, Key, Record, after, alone
from samesession.stores.near_copies import Copy

LIMIT_BYTES = 4 << 20
"""In a process, for each store: about 700 sessions of 600 bytes."""

FIELDS_COST = 1200
"""Bytes of the dict of fields, beside what a copy in a near cache takes."""


class Reading(NamedTuple):
    """A record, the fields that it was read from, and what both take in memory."""

    fields: Mapping[bytes, bytes]
    record: Record
    cost: int


class Readings:
    """The last reading of each record; when they are too many, all are forgotten.

    Threads may share it.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """Have read nothing."""
        self._limit = limit_bytes
        self._cost = 0
        self._kept: dict[Key, Reading] = {}
        self._lock = Lock()

    def same(self, key: Key, fields: Mapping[bytes, bytes]) -> Record | None:
        """The record, if these are the fields that it was read from."""
        kept = self._kept.get(key)
        return kept.record if kept is not None and kept.fields == fields else None

    def keep(self, fields: Mapping[bytes, bytes], record: Record) -> None:
        """Keep what was read."""
        kept = self._kept.get(record.key)
        if kept is not None and kept.record is record:
            return
        reading = Reading(fields, record, Copy(record).cost + FIELDS_COST)
        with self._lock:
            self._drop(record.key)
            self._cost += reading.cost
            if self._cost > self._limit:
                self._kept.clear()
                self._cost = 0
            else:
                self._kept[record.key] = reading

    def changed(self, delta: Delta, applied: Applied, commits: bytes, times: bytes) -> Applied:
        """Guess what the next reading will be, after a commit of our own.

        Args:
            delta: the commit.
            applied: what the engine said to it.
            commits: the field as it is stored now.
            times: the field as it is stored now.

        Returns:
            ``applied``, with the record where nobody else has committed since it was read.
        """
        kept = self._kept.get(delta.key)
        if kept is None or not alone(kept.record, delta, applied):
            return applied
        record = after(kept.record, delta, applied)
        fields = {**kept.fields, b"c": commits, b"t": times}
        for name in delta.removes:
            fields.pop(b"." + name.encode(), None)
        for name, raw in delta.sets.items():
            fields[b"." + name.encode()] = raw
        self.keep(fields, record)
        return Applied(applied.commits, applied.seen_ms, applied.idle_until_ms, record)

    def forget(self, key: Key) -> None:
        """It is over: its data shall not lie here."""
        if key in self._kept:
            with self._lock:
                self._drop(key)

    def _drop(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._cost -= kept.cost

    def __len__(self) -> int:
        """How many."""
        return len(self._kept)
