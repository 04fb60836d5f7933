"""``sqlite://``, ``postgresql://``, ``mysql://``, ``mariadb://``: a row a session, guarded.

URL: ``postgresql://user:password@host[:5432]/database``, ``mysql://…``, ``sqlite:///file.db``.
Parameters: ``deadline=250ms`` for each statement, ``pool=10`` connections a process, ``table=``,
``tls=1`` (verified), ``ca=FILE``, ``socket=PATH``. The table is made by ``samesession doctor URL
--create``; SQLite's is made when it is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sqlalchemy.sql import Executable

from samesession.errors import StoreUnavailableError
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
from samesession.settings import Quota, Url
from samesession.store import Store, end_with_successors
from samesession.stores.blob import dumps, forget_ms, loads, readable
from samesession.stores.sql_check import checked
from samesession.stores.sql_drivers import Target
from samesession.stores.sql_quota import Admission
from samesession.stores.sql_table import Statements
from samesession.stores.sql_wire import (
    ConflictError,
    LoopWire,
    Row,
    ThreadWire,
    Wire,
)

TRIES = 100
"""Each time that one request must try again, another one's write has succeeded."""

PAGE = 1000
"""Rows a statement when all sessions of a principal are read."""

BATCH = 5000
"""Rows a statement when they are ended, where they lie in the order of their keys (MariaDB)."""

AT_ONCE_S = 10.0
"""How long a statement may take that ends more than that."""

_EVER = 1 << 62

_LAST = "g"  # after every key, which are hexadecimal digits

PARTS = {"postgresql": ("5", "b", _LAST), "sqlite": (_LAST,)}
"""The last keys of the parts in which rows are ended that lie in the order in which they came.

PostgreSQL writes a new row beside each old one, and to every index when their page is full. After
a third of the rows the next third finds room where the first one's old rows were: 100 000 small
ones take 0.25 s of its CPU, at once 0.9, in twenty parts, of which each touches every page, 3.1.
"""

SWEEP_BATCH = 200
SWEEP_EVERY_MS = 1000
CLOCKS_APART_MS = 10 * 60_000
"""Rows stay so much longer than they must: a server whose clock is ahead sweeps nothing early."""


class SqlStore:
    """Records and marks in one table; `merge` and `finish` decide, a version guards the writing."""

    lags = False
    limits = True

    def __init__(self, wire: Wire, target: Target, clock_ms: Callable[[], int]) -> None:
        """Name the table; nothing is connected yet."""
        self._parts = PARTS.get(target.dialect)
        self.suspends = wire.suspends
        self._wire = wire
        self._say = Statements(target.table, target.dialect)
        self._clock_ms = clock_ms
        self._sweep_at = 0

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        """See `Store`; the primary is asked, so it covers all that exists."""
        row = await self._row(key)
        return None if row is None else loads(key, row[1])

    async def commit(self, delta: Delta) -> Outcome:
        """See `Store`."""
        # Nobody has the key of a record that is to be made; its first writing is also the look.
        row = None if delta.origin is not None else await self._row(delta.key)
        for _ in range(TRIES):
            stored = None if row is None else loads(delta.key, row[1])
            outcome, written = merge(stored, delta)
            if written is None:
                return outcome
            if await self._written(delta.key, row, written):
                await self._sweep()
                return outcome
            row = await self._row(delta.key)
        raise StoreUnavailableError(f"session {delta.key} was changed {TRIES} times meanwhile")

    async def end(self, key: Key, ending: Ending) -> Mark:
        """See `Store`; what cannot be read is ended too."""
        for _ in range(TRIES):
            row = await self._row(key)
            stored = None if row is None else readable(key, row[1])
            mark = finish(stored, ending)
            if mark is stored or await self._written(key, row, mark):
                return mark
        raise StoreUnavailableError(f"session {key} was changed {TRIES} times meanwhile")

    async def admit(
        self,
        principal: str,
        key: Key,
        until_ms: int,
        *,
        replaces: Key | None = None,
        quota: Quota | None = None,
    ) -> tuple[Key, ...] | None:
        """See `Store`; the records themselves are the index."""
        if quota is None:
            return ()
        ask = Admission(
            self._say, _owner(principal), key, until_ms, replaces, quota, self._clock_ms()
        )
        for _ in range(TRIES):
            with suppress(ConflictError):
                return await self._wire.together(ask)
            with suppress(ConflictError):
                await self._wire.insert(self._say.insert, **ask.lock_row())
        raise StoreUnavailableError(f"{TRIES} others signed the same principal in meanwhile")

    async def dismiss(self, principal: str, key: Key) -> None:
        """See `Store`; the records themselves are the index."""

    async def held_by(self, principal: str) -> list[Record]:
        """See `Store`."""
        now = self._clock_ms()
        rows = await self._rows(self._say.held, owner=_owner(principal))
        held = [readable(Key(key), raw) for key, raw in rows]
        live = [
            record
            for record in held
            if isinstance(record, Record)
            and record.origin.principal == principal
            and record.ends_ms > now
        ]
        return sorted(live, key=lambda record: record.origin.created_ms)

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        """See `Store`: all that were there, and what these went on as meanwhile."""
        owner, raw = _owner(principal), dumps(finish(None, ending))
        values = {"owner": owner, "keep": keep or "", "raw": raw}
        parts, more_s = await self._parts_of(owner)
        since = ending.at_ms + MARK_MS
        ended = await self._end_parts(parts, more_s, since=since, till=_EVER, **values)
        left = await self._rows(self._say.live, owner=owner)
        if any(forget <= since for _, forget in left):  # those that are over, and not counted
            await self._end_parts(parts, more_s, since=0, till=since, **values)
            left = await self._rows(self._say.live, owner=owner)
        late = {key for key, _ in left if key != keep}
        if late:
            # Whoever rotated before we came to it had made its successor before; so it is in sight.
            for key, mark_raw in await self._rows(self._say.marks, owner=owner, raw=raw):
                mark = readable(Key(key), mark_raw)
                went_on = mark.successor if isinstance(mark, Mark) and key != keep else None
                if went_on is not None and went_on in late:
                    final = await end_with_successors(self, went_on, ending)
                    ended += final.token == ending.token
        return ended

    async def close(self) -> None:
        """See `Store`."""
        await self._wire.close()

    async def keys(self, cursor: str, most: int) -> tuple[list[Key], str]:
        """See `samesession.stores.listing.Listing`; in the order of the primary key."""
        rows = await self._wire.rows(self._say.page, after=cursor, most=most)
        keys = [Key(key) for (key,) in rows]
        return keys, keys[-1] if len(keys) == most else ""

    async def _row(self, key: Key) -> Row | None:
        rows = await self._wire.rows(self._say.load, key=key)
        return rows[0] if rows else None

    async def _written(self, key: Key, row: Row | None, value: Record | Mark) -> bool:
        """Write where nothing was, or where what was read still is."""
        over = int(isinstance(value, Mark))
        raw, until = dumps(value), forget_ms(value)
        try:
            if row is not None:
                values = {"key": key, "seen": row[0], "over": over, "until": until, "raw": raw}
                return await self._wire.change(self._say.update, **values) == 1
            owner = None
            if isinstance(value, Record) and value.origin.principal is not None:
                owner = _owner(value.origin.principal)
            values = {"key": key, "over": over, "owner": owner, "until": until, "raw": raw}
            return await self._wire.insert(self._say.insert, **values)
        except ConflictError:
            return False

    async def _rows(self, statement: Executable, **values: Any) -> list[Row]:
        """A principal's rows, page by page."""
        found: list[Row] = []
        while True:
            after = found[-1][0] if found else ""
            page = await self._wire.rows(statement, **values, after=after, most=PAGE)
            found += page
            if len(page) < PAGE:
                return found

    async def _parts_of(self, owner: str) -> tuple[Sequence[str], float]:
        """The last keys of the parts in which to end a principal's rows, and how patiently."""
        if self._parts is not None:
            many = await self._wire.rows(self._say.more_than, owner=owner, most=BATCH - 1)
            return self._parts, AT_ONCE_S if many else 0
        parts = [""]
        while parts[-1] != _LAST:
            page = {"owner": owner, "after": parts[-1], "most": BATCH - 1}
            rows = await self._wire.rows(self._say.last_of_page, **page)
            parts.append(rows[0][0] if rows else _LAST)
        return parts[1:], 0

    async def _end_parts(self, parts: Sequence[str], more_s: float, **values: Any) -> int:
        """End a principal's rows, part by part; returns how many."""
        ended, after = 0, ""
        for last in parts:
            ended += await self._end_part(more_s=more_s, after=after, last=last, **values)
            after = last
        return ended

    async def _end_part(self, **values: Any) -> int:
        for _ in range(TRIES):
            with suppress(ConflictError):
                return await self._wire.change(self._say.end_part, **values)
        raise StoreUnavailableError("a principal's sessions are being ended by others")

    async def _sweep(self) -> None:
        """Delete a batch of what is over, now and then; more often while there is more."""
        now = self._clock_ms()
        if now < self._sweep_at:
            return
        self._sweep_at = now + SWEEP_EVERY_MS
        with suppress(StoreUnavailableError, ConflictError):
            before = now - CLOCKS_APART_MS
            swept = await self._wire.sweep(self._say, before_ms=before, most=SWEEP_BATCH)
            if swept == SWEEP_BATCH:
                self._sweep_at = 0


def _owner(principal: str) -> str:
    return blake2b(principal.encode(), digest_size=16).hexdigest()


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


def open_loop(url: Url) -> Store:
    """Open for event loops; SQLite's store never suspends and serves both."""
    target = checked(Target.of(url))
    wire = ThreadWire(target) if target.dialect == "sqlite" else LoopWire(target)
    return SqlStore(wire, target, _clock_ms)


def open_threads(url: Url) -> Store:
    """Open for threads."""
    target = checked(Target.of(url))
    return SqlStore(ThreadWire(target), target, _clock_ms)


def place(url: Url) -> Path | None:
    """SQLite's file."""
    target = Target.of(url)
    return Path(target.url.database or "") if target.dialect == "sqlite" else None
