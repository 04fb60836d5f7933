"""The SQL store's admission within a quota: one transaction, one principal at a time.

Who is about to make a record stands in a row of its own for `MAKING_MS` (``ended`` is `ASIDE`), and
so does the name of the principal, whose row is locked: admissions of one principal wait for each
other, those of others do not. It is the first that each locks; what else it changes it locks in
the order of the primary key. So two cannot wait for one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from samesession.quota import MAKING_MS, displaced
from samesession.record import TOKEN_BYTES, Ending, Key, Reason, Record, finish
from samesession.settings import Quota
from samesession.stores.blob import dumps, forget_ms, readable
from samesession.stores.sql_table import ASIDE, Statements
from samesession.stores.sql_wire import ConflictError

LOCK_MS = 24 * 3_600_000
"""How long a principal's own row stays; it is made again when it is needed."""

PAGE = 1000
"""Rows that one statement changes."""


class _Making(msgspec.Struct, frozen=True, array_like=True):
    """Whose record will be made, and whose place it takes."""

    key: Key
    absolute_ms: int
    replaces: Key | None


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Making).decode


@dataclass(frozen=True, slots=True)
class Admission:
    """One record that asks to be made."""

    say: Statements
    owner: str
    key: Key
    until_ms: int
    replaces: Key | None
    quota: Quota
    now_ms: int

    def lock_row(self) -> dict[str, Any]:
        """The row that stands for the principal."""
        until = self.now_ms + LOCK_MS
        return _row(f"p{self.owner}", None, until, b"")

    def __call__(self, connection: Connection) -> tuple[Key, ...] | None:
        """Decide and write; within a transaction that sees what others have committed.

        Raises:
            ConflictError: somebody was in the way, or the principal has no row yet.
        """
        # SQLite has one writer at a time, and this is it.
        locked = connection.execute(self.say.lock, {"key": f"p{self.owner}"}).first()
        if locked is None and connection.dialect.name != "sqlite":
            raise ConflictError
        held, moving = self._standing(connection)
        going = displaced(held, moving, self.key, self.replaces, self.quota)
        if going is None:
            return None
        try:
            self._end(connection, sorted(going))
            if self.key not in held:
                raw = _pack(_Making(self.key, self.until_ms, self.replaces))
                until = self.now_ms + MAKING_MS
                row = _row(f"+{self.key}", self.owner, until, raw)
                connection.execute(self.say.insert, row)
        except IntegrityError:
            raise ConflictError from None  # a record was made meanwhile, or this was sent before
        return going

    def _standing(self, connection: Connection) -> tuple[dict[Key, int], dict[Key, Key]]:
        """The principal's records, live or being made, and what moves into what."""
        aside = [
            _unpack(raw)
            for _, forget, raw in self._pages(connection, self.say.aside)
            if forget > self.now_ms
        ]
        made = {one.key for one in aside}
        if made:
            made = set(connection.execute(self.say.known, {"keys": sorted(made)}).scalars())
        held = {one.key: one.absolute_ms for one in aside if one.key not in made}
        for key, _, raw in self._pages(connection, self.say.owned):
            record = readable(Key(key), raw)
            if isinstance(record, Record) and record.ends_ms > self.now_ms:
                held[record.key] = record.origin.absolute_ms
        moving = {one.replaces: one.key for one in aside if one.replaces is not None}
        return held, moving

    def _pages(self, connection: Connection, statement: Any) -> list[Any]:
        found: list[Any] = []
        while True:
            after = found[-1][0] if found else ""
            values = {"owner": self.owner, "after": after, "most": PAGE}
            page = connection.execute(statement, values).all()
            found += page
            if len(page) < PAGE:
                return found

    def _end(self, connection: Connection, keys: Sequence[Key]) -> None:
        """End those who make room: their records, or what would have become one."""
        for key in keys:
            token = key.encode()[:TOKEN_BYTES]
            mark = finish(None, Ending(Reason.DISPLACED, self.now_ms, token))
            until, raw = forget_ms(mark), dumps(mark)
            over = {"keys": [key], "until": until, "raw": raw}
            if connection.execute(self.say.end_many, over).rowcount == 0:
                # Not there yet; if it comes or ends just now, this fails: all is looked at anew.
                row = {**_row(key, self.owner, until, raw), "over": 1}
                connection.execute(self.say.insert, row)


def _row(key: str, owner: str | None, until: int, raw: bytes) -> dict[str, Any]:
    return {"key": key, "over": ASIDE, "owner": owner, "until": until, "raw": raw}
