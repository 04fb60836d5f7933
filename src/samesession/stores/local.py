"""``sticky://``: an LMDB map in shared memory, one for each server, shared by its worker processes.

URL: ``sticky://`` or ``sticky:///folder``, with ``size=64MB``. The folder holds one map for each
server of this machine, named by ``SAMESESSION_SERVER`` (`samesession.stores.lmdb_map`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import msgspec

from samesession.errors import ConfigError, StoreCorruptError, StoreUnavailableError
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
from samesession.store import Store
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
RESERVED = 0.2
"""The share of the map that new anonymous sessions may not use: it is for those who are known."""

_pack = msgspec.msgpack.Encoder().encode
_unpack_record = msgspec.msgpack.Decoder(Record).decode
_unpack_mark = msgspec.msgpack.Decoder(Mark).decode
_RECORD, _MARK = b"r", b"m"


class LocalStore:
    """Records, their deadlines and their principals in one map; `merge` and `finish` decide."""

    lags = False
    suspends = False

    def __init__(self, folder: Path, size: int, clock_ms: Callable[[], int]) -> None:
        """Name the map; it is opened at the first use, in the process that uses it."""
        self._map = Map(folder, size, "sticky:///folder?size=64MB")
        self._clock_ms = clock_ms
        self._sweep_at = 0

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        """See `Store`; every worker of the server reads the one map."""
        with self._map.here.begin() as txn:
            raw = txn.get(_name(key))
        return None if raw is None else _decoded(key, bytes(raw))

    async def commit(self, delta: Delta) -> Outcome:
        """See `Store`."""
        anonymous = delta.origin is not None and delta.origin.principal is None
        if anonymous and self._map.used() > 1 - RESERVED and self._sweep() == 0:
            raise StoreUnavailableError(
                f"the local store {self._map} is full: new anonymous sessions wait "
                "until others end; raise sticky://?size="
            )
        with self._writing() as txn:
            stored = _get(txn, delta.key)
            outcome, written = merge(stored, delta)
            if written is not None:
                _put(txn, delta.key, written, before=stored)
        return outcome

    async def end(self, key: Key, ending: Ending) -> Mark:
        """See `Store`."""
        with self._writing() as txn:
            return _end(txn, key, ending)

    async def admit(self, principal: str, key: Key, until_ms: int) -> None:
        """See `Store`; the index is written with the record, in one transaction."""

    async def dismiss(self, principal: str, key: Key) -> None:
        """See `Store`; the index is written with the record, in one transaction."""

    async def held_by(self, principal: str) -> list[Record]:
        """See `Store`."""
        now = self._clock_ms()
        with self._map.here.begin() as txn:
            held = [_get(txn, key) for key in _members(txn, principal)]
        live = [r for r in held if isinstance(r, Record) and r.ends_ms > now]
        return sorted(live, key=lambda record: record.origin.created_ms)

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        """See `Store`: one transaction, so no login or rotation is half in it."""
        ended = 0
        with self._writing() as txn:
            for key in _members(txn, principal):
                record = _get(txn, key)
                if key != keep and isinstance(record, Record):
                    _end(txn, key, ending)
                    ended += record.ends_ms > ending.at_ms
        return ended

    async def close(self) -> None:
        """See `Store`; the map itself stays for the server's next process."""
        self._map.close()

    # -- the map -----------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[Transaction]:
        now = self._clock_ms()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY_MS
            self._sweep()
        try:
            with self._map.here.begin(write=True) as txn:
                yield txn
        except MapFullError:
            self._sweep()
            raise StoreUnavailableError(
                f"the local store {self._map} is full; raise sticky://?size="
            ) from None
        except MapError as error:
            raise StoreUnavailableError(f"the local store {self._map.folder}: {error}") from None

    def _sweep(self) -> int:
        """Drop up to a batch of what is over; returns how many."""
        now, dropped = self._clock_ms(), 0
        try:
            with self._map.here.begin(write=True) as txn, txn.cursor() as cursor:
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
    forget = _forget_ms(stored)
    if forget > now:
        txn.put(_deadline(forget) + key.encode(), b"")
        return False
    txn.delete(_name(key))
    if isinstance(stored, Record) and stored.origin.principal is not None:
        txn.delete(_member(stored.origin.principal, key))
    return True


def _end(txn: Transaction, key: Key, ending: Ending) -> Mark:
    stored = _get(txn, key)
    mark = finish(stored, ending)
    if stored is not mark:
        _put(txn, key, mark, before=stored)
    return mark


def _put(txn: Transaction, key: Key, value: Record | Mark, *, before: Record | Mark | None) -> None:
    """Write a record or mark, and its index entries where they change.

    A touch moves no entry: the sweep finds the old one and enters the new deadline.
    """
    kind = _RECORD if isinstance(value, Record) else _MARK
    txn.put(_name(key), kind + _pack(value))
    if before is None or isinstance(value, Mark):
        txn.put(_deadline(_forget_ms(value)) + key.encode(), b"")
    principal = value.origin.principal if isinstance(value, Record) else None
    if before is None and principal is not None:
        txn.put(_member(principal, key), b"")
    if isinstance(value, Mark) and isinstance(before, Record) and before.origin.principal:
        txn.delete(_member(before.origin.principal, key))


def _forget_ms(value: Record | Mark) -> int:
    return (value.ends_ms if isinstance(value, Record) else value.at_ms) + MARK_MS


def _get(txn: Transaction, key: Key) -> Record | Mark | None:
    """What is stored, for those who will write: something unreadable is as good as nothing."""
    raw = txn.get(_name(key))
    try:
        return None if raw is None else _decoded(key, bytes(raw))
    except StoreCorruptError:
        return None


def _decoded(key: Key, raw: bytes) -> Record | Mark:
    try:
        if raw[:1] == _MARK:
            return _unpack_mark(raw[1:])
        record = _unpack_record(raw[1:])
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:  # text that is no UTF-8
        raise StoreCorruptError(f"record {key} is unreadable: {error}") from None
    if raw[:1] != _RECORD or record.key != key or not record.commits:
        raise StoreCorruptError(f"record {key} is another one's")
    return record


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
    folder = Path(url.path) if url.path.strip("/") else default_folder()
    size = url.size_bytes("size", 64 << 20)
    return LocalStore(folder / server_name(), size, lambda: time.time_ns() // 1_000_000)


open_threads = open_loop
