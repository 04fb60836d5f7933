"""Records as they were last read, so that the same bytes are not taken apart twice.

No copy is ever served from here: the server is asked each time, and what it answers is compared.
But a record that answers with the same bytes as a moment ago is the same record, and what was
decoded of it is kept with it (`samesession.record.Record`). Most requests only read.
"""

from __future__ import annotations

from threading import Lock
from typing import NamedTuple

from samesession.record import Applied, Delta, Key, Record, after, alone
from samesession.stores.near_copies import cost_of
from samesession.stores.redis_fields import field, stands
from samesession.stores.redis_wire import Reply

LIMIT_BYTES = 4 << 20
"""In a process, for each store: about 500 sessions of 600 bytes."""


class Reading(NamedTuple):
    """A record, the answer that it was read from, and what both take in memory.

    Attributes:
        answer: to HGETALL in RESP2: field, value, …
    """

    answer: list[bytes]
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

    def same(self, key: Key, answer: Reply) -> Record | None:
        """The record, if this is the answer that it was read from."""
        kept = self._kept.get(key)
        return kept.record if kept is not None and kept.answer == answer else None

    def keep(self, answer: list[bytes], record: Record) -> None:
        """Keep what was read."""
        kept = self._kept.get(record.key)
        if kept is not None and kept.record is record:
            return
        # As a copy in a near cache; the three fields of our own make up for the answer itself.
        reading = Reading(answer, record, cost_of(len(answer) // 2, len(b"".join(answer))))
        with self._lock:
            self._drop(record.key)
            self._cost += reading.cost
            if self._cost > self._limit:
                self._kept.clear()
                self._cost = 0
            else:
                self._kept[record.key] = reading

    def changed(self, delta: Delta, applied: Applied, answer: bytes) -> Applied:
        """Guess what the next reading will be, after a commit of our own.

        Args:
            delta: the commit.
            applied: what the engine said to it.
            answer: in its own words.

        Returns:
            ``applied``, with the record where nobody else has committed since it was read.
        """
        kept = self._kept.get(delta.key)
        if kept is None or not alone(kept.record, delta, applied):
            return applied
        record = after(kept.record, delta, applied)
        guess = kept.answer.copy()
        for name in map(field, delta.removes):
            if name in guess[::2]:
                at = 2 * guess[::2].index(name)
                del guess[at : at + 2]
        names = guess[::2]
        commits, times = stands(answer)
        sets = [(field(name), raw) for name, raw in delta.sets.items()]
        for name, raw in [(b"c", commits), (b"t", times), *sets]:
            if name in names:
                guess[2 * names.index(name) + 1] = raw
            else:
                guess += (name, raw)
        self.keep(guess, record)
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
