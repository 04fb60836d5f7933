"""``sticky://``: an LMDB map in shared memory, one for each server, shared by its worker processes.

URL: ``sticky://`` or ``sticky:///folder``, with ``size=64MB``. The folder holds one map for each
server of this machine, named by ``SAMESESSION_SERVER`` (`samesession.stores.lmdb_map`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from samesession.errors import ConfigError, StoreUnavailableError
from samesession.record import (
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
from samesession.store import Exchanging, Store
from samesession.stores.blob import dumps, forget_ms, loads, readable
from samesession.stores.lmdb_map import (
    Map,
    MapError,
    MapFullError,
    Transaction,
    default_folder,
    server_name,
)

SWEEP_BATCH = 100
"""A sweep of 500 held the write lock up to 74 ms (MEASURED 6)."""

SWEEP_EVERY_MS = 1000
KEPT, KEPT_BYTES = 2048, 4096
"""Records remembered decoded by a process, and the largest such: 8 MB of bytes at most."""

RESERVED = 0.2
"""The share of the map that new anonymous sessions may not use: it is for those who are known."""

T = TypeVar("T")


class LocalStore(Exchanging):
    """Records, their deadlines and their principals in one map; `merge` and `finish` decide."""

    lags = False
    limits = False
    suspends = False

    def __init__(self, folder: Path, size: int, clock_ms: Callable[[], int]) -> None:
        """Name the map; it is opened at the first use, in the process that uses it."""
        self._map = Map(folder, size, "sticky:///folder?size=64MB")
        self._clock_ms = clock_ms
        self._sweep_at = 0
        # What some bytes of the map mean, so that the same bytes are decoded once: browsers come in
        # bursts. Bytes are still read and compared every time, so nothing can be stale.
        self._kept: dict[Key, tuple[bytes, Record | Mark]] = {}

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        """See `Store`; every worker of the server reads the one map."""
        txn = self._map.here().begin()
        try:
            raw = txn.get(b"s" + key.encode())
        finally:
            txn.abort()
        kept = self._kept.get(key)
        if kept is not None and kept[0] == raw:
            return kept[1]
        if raw is None:
            return None
        value = loads(key, bytes(raw))
        self._keep(key, bytes(raw), value)
        return value

    async def commit(self, delta: Delta) -> Outcome:
        """See `Store`."""
        if delta.origin is not None and delta.origin.principal is None:
            self._room_for_anonymous()
        if delta.now_ms >= self._sweep_at:
            self._sweep_at = delta.now_ms + SWEEP_EVERY_MS
            self._sweep()
        key = delta.key
        name = b"s" + key.encode()
        try:
            with self._map.here().begin(write=True) as txn:
                found, kept = txn.get(name), self._kept.get(key)
                if kept is not None and kept[0] == found:
                    stored: Record | Mark | None = kept[1]
                else:
                    stored = None if found is None else readable(key, bytes(found))
                outcome, written = merge(stored, delta)
                if written is None:
                    return outcome
                raw = dumps(written)
                txn.put(name, raw)
                if stored is None or not isinstance(written, Record):
                    _enter(txn, key, written, before=stored)
        except MapError as error:
            raise self._failed(error) from None
        self._keep(key, raw, written)
        return outcome

    def exchange(self, before: Record, after: Record, now_ms: int) -> bool:
        """See `Exchanging`; what is in the map is compared byte for byte."""
        key = before.key
        kept = self._kept.get(key)
        if kept is None or kept[1] is not before or now_ms >= self._sweep_at:
            return False
        name, raw = b"s" + key.encode(), dumps(after)
        try:
            with self._map.here().begin(write=True) as txn:
                if txn.get(name) != kept[0]:
                    return False
                txn.put(name, raw)
        except (MapError, StoreUnavailableError):
            return False
        self._keep(key, raw, after)
        return True

    async def end(self, key: Key, ending: Ending) -> Mark:
        """See `Store`."""
        return self._write(_end, key, ending)

    async def admit(
        self,
        principal: str,
        key: Key,
        until_ms: int,
        *,
        replaces: Key | None = None,
        quota: Quota | None = None,
    ) -> tuple[Key, ...] | None:
        """See `Store`; the index is written with the record, in one transaction."""
        return ()

    async def dismiss(self, principal: str, key: Key) -> None:
        """See `Store`; the index is written with the record, in one transaction."""

    async def held_by(self, principal: str) -> list[Record]:
        """See `Store`."""
        now = self._clock_ms()
        with self._map.here().begin() as txn:
            held = [_get(txn, key) for key in _members(txn, principal)]
        live = [r for r in held if isinstance(r, Record) and r.ends_ms > now]
        return sorted(live, key=lambda record: record.origin.created_ms)

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        """See `Store`: one transaction, so no login or rotation is half in it."""
        return self._write(_end_all, principal, ending, keep)

    async def close(self) -> None:
        """See `Store`; the map itself stays for the server's next process."""
        self._map.close()

    async def keys(self, cursor: str, most: int) -> tuple[list[Key], str]:
        """See `samesession.stores.listing.Listing`; in the order of the map."""
        keys: list[Key] = []
        with self._map.here().begin() as txn, txn.cursor() as names:
            names.set_range(_name(Key(cursor + "\0" if cursor else "")))
            for found in names.iternext(values=False):
                name = bytes(found)
                if not name.startswith(b"s") or len(keys) == most:
                    break
                if name.isascii():
                    keys.append(Key(name[1:].decode()))
        return keys, keys[-1] if len(keys) == most else ""

    def _keep(self, key: Key, raw: bytes, value: Record | Mark) -> None:
        if len(raw) <= KEPT_BYTES:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[key] = raw, value

    # -- the map -----------------------------------------------------------------------------------

    def _write(self, step: Callable[..., T], *arguments: Any) -> T:
        """Do one step in one transaction."""
        try:
            with self._map.here().begin(write=True) as txn:
                return step(txn, *arguments)
        except MapError as error:
            raise self._failed(error) from None

    def _failed(self, error: MapError) -> StoreUnavailableError:
        if isinstance(error, MapFullError):
            self._sweep()
            return StoreUnavailableError(
                f"the local store {self._map} is full; raise sticky://?size="
            )
        return StoreUnavailableError(f"the local store {self._map.folder}: {error}")

    def _room_for_anonymous(self) -> None:
        if self._map.used() > 1 - RESERVED and self._sweep() == 0:
            raise StoreUnavailableError(
                f"the local store {self._map} is full: new anonymous sessions wait "
                "until others end; raise sticky://?size="
            )

    def _sweep(self) -> int:
        """Drop up to a batch of what is over; returns how many."""
        now, dropped = self._clock_ms(), 0
        try:
            with self._map.here().begin(write=True) as txn, txn.cursor() as cursor:
                found = cursor.set_range(b"x")
                while found and dropped < SWEEP_BATCH and cursor.key() < _deadline(now):
                    key = bytes(cursor.key()[9:])
                    found = cursor.delete()
                    if key.isascii():  # ours are
                        dropped += _drop_if_over(txn, Key(key.decode()), now)
        except MapError:
            return dropped
        return dropped


def _drop_if_over(txn: Transaction, key: Key, now: int) -> bool:
    """Drop what its deadline's entry named; what was touched since is entered anew."""
    stored = _get(txn, key)
    if stored is None:
        return False
    forget = forget_ms(stored)
    if forget > now:
        txn.put(_deadline(forget) + key.encode(), b"")
        return False
    txn.delete(_name(key))
    if isinstance(stored, Record) and stored.origin.principal is not None:
        txn.delete(_member(stored.origin.principal, key))
    return True


def _end_all(txn: Transaction, principal: str, ending: Ending, keep: Key | None) -> int:
    ended = 0
    for key in _members(txn, principal):
        record = _get(txn, key)
        if key != keep and isinstance(record, Record):
            _end(txn, key, ending)
            ended += record.ends_ms > ending.at_ms
    return ended


def _end(txn: Transaction, key: Key, ending: Ending) -> Mark:
    stored = _get(txn, key)
    mark = finish(stored, ending)
    if stored is not mark:
        txn.put(_name(key), dumps(mark))
        _enter(txn, key, mark, before=stored)
    return mark


def _enter(
    txn: Transaction, key: Key, value: Record | Mark, *, before: Record | Mark | None
) -> None:
    """Write the index entries of what was made or ended.

    A touch moves no entry: the sweep finds the old one and enters the new deadline.
    """
    txn.put(_deadline(forget_ms(value)) + key.encode(), b"")
    principal = value.origin.principal if isinstance(value, Record) else None
    if before is None and principal is not None:
        txn.put(_member(principal, key), b"")
    if isinstance(value, Mark) and isinstance(before, Record) and before.origin.principal:
        txn.delete(_member(before.origin.principal, key))


def _get(txn: Transaction, key: Key) -> Record | Mark | None:
    """What is stored, for those who will write: something unreadable is as good as nothing."""
    raw = txn.get(_name(key))
    return None if raw is None else readable(key, bytes(raw))


def _members(txn: Transaction, principal: str) -> list[Key]:
    prefix = _member(principal, Key(""))
    with txn.cursor() as cursor:
        cursor.set_range(prefix)
        keys = []
        for found in cursor.iternext(values=False):
            name = bytes(found)
            if not name.startswith(prefix):
                break
            if name[len(prefix) :].isascii():
                keys.append(Key(name[len(prefix) :].decode()))
    return keys


def _name(key: Key) -> bytes:
    return b"s" + key.encode()


def _deadline(ms: int) -> bytes:
    return b"x" + ms.to_bytes(8, "big")


def _member(principal: str, key: Key) -> bytes:
    # Hashed, because LMDB's keys end at 511 bytes.
    return b"p" + blake2b(principal.encode(), digest_size=16).digest() + key.encode()


def open_loop(url: Url) -> Store:
    """Open this server's map (``SAMESESSION_SERVER``); nothing happens before its first use."""
    url.only("size")
    if url.host:
        raise ConfigError(
            f"{url.text!r} names a host; a folder has three slashes: sticky:///folder"
        )
    size = url.size_bytes("size", 64 << 20)
    return LocalStore(place(url), size, lambda: time.time_ns() // 1_000_000)


open_threads = open_loop


def place(url: Url) -> Path:
    """The folder of this server's map."""
    folder = Path(url.path) if url.path.strip("/") else default_folder()
    return folder / server_name()
