"""``sticky://``: an LMDB map in shared memory, one for each server, shared by its worker processes.

URL: ``sticky://`` or ``sticky:///folder``, with ``size=64MB``. The folder holds one map for each
server of this machine, named by ``SAMESESSION_SERVER``. Nothing is synced: what is in it outlives
every process, not the machine. The whole file is allocated when the map is opened, because a
sparse one dies by SIGBUS when somebody else fills the file system (MEASURED 6).
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from threading import Lock

import lmdb
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

SWEEP_BATCH = 100
"""A sweep of 500 held the write lock up to 74 ms (MEASURED 6)."""

SWEEP_EVERY_MS = 1000
KEPT, KEPT_BYTES = 2048, 4096
"""Records remembered decoded by a process, and the largest such: 8 MB of bytes at most."""

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
        self._folder = folder
        self._size = size
        self._clock_ms = clock_ms
        self._opening = Lock()
        self._opened: lmdb.Environment | None = None
        self._pid = 0
        self._sweep_at = 0
        self._read = _Read()

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        """See `Store`; every worker of the server reads the one map."""
        with self._map.begin() as txn:
            raw = txn.get(_name(key))
        return None if raw is None else self._read.decoded(key, bytes(raw))

    async def commit(self, delta: Delta) -> Outcome:
        """See `Store`."""
        anonymous = delta.origin is not None and delta.origin.principal is None
        if anonymous and self._used() > 1 - RESERVED and self._sweep() == 0:
            raise StoreUnavailableError(
                f"the local store is full ({self._folder}, {self._size >> 20} MB): new anonymous "
                "sessions wait until others end; raise sticky://?size="
            )
        with self._writing() as txn:
            stored = _get(txn, delta.key, self._read)
            outcome, written = merge(stored, delta)
            if written is not None:
                raw = _put(txn, delta.key, written, before=stored)
                self._read.keep(delta.key, raw, written)
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
        with self._map.begin() as txn:
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
        with self._opening:
            if self._opened is not None and self._pid == os.getpid():
                self._opened.close()
            self._opened = None

    # -- the map -----------------------------------------------------------------------------------

    @property
    def _map(self) -> lmdb.Environment:
        if self._opened is None or self._pid != os.getpid():
            self._open()
        assert self._opened is not None
        return self._opened

    def _open(self) -> None:
        with self._opening:
            if self._opened is not None:
                if self._pid == os.getpid():
                    return
                self._opened.close()  # a fork's: LMDB opens a map once a process
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._opened = lmdb.open(
                    os.fspath(self._folder),
                    map_size=self._size,
                    mode=0o600,
                    max_readers=2048,
                    writemap=True,
                    sync=False,
                    metasync=False,
                    readahead=False,
                )
                data = os.open(self._folder / "data.mdb", os.O_RDWR)
                try:
                    os.posix_fallocate(data, 0, self._size)
                finally:
                    os.close(data)
            except (OSError, lmdb.Error) as error:
                if self._opened is not None:
                    self._opened.close()
                    self._opened = None
                raise StoreUnavailableError(
                    f"the local store {self._folder} ({self._size >> 20} MB) cannot be opened: "
                    f"{error}; make room, or name another folder: sticky:///folder?size=64MB"
                ) from None
            self._opened.reader_check()
            self._pid = os.getpid()

    @contextmanager
    def _writing(self) -> Iterator[lmdb.Transaction]:
        now = self._clock_ms()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY_MS
            self._sweep()
        try:
            with self._map.begin(write=True) as txn:
                yield txn
        except lmdb.MapFullError:
            self._sweep()
            raise StoreUnavailableError(
                f"the local store {self._folder} is full ({self._size >> 20} MB); "
                "raise sticky://?size="
            ) from None
        except lmdb.Error as error:
            raise StoreUnavailableError(f"the local store {self._folder}: {error}") from None

    def _used(self) -> float:
        pages = self._map.stat()
        used = pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"]
        return float(used * pages["psize"] / self._size)

    def _sweep(self) -> int:
        """Drop up to a batch of what is over; returns how many."""
        now, dropped = self._clock_ms(), 0
        try:
            with self._map.begin(write=True) as txn, txn.cursor() as cursor:
                found = cursor.set_range(b"x")
                while found and dropped < SWEEP_BATCH and cursor.key() < _deadline(now):
                    key = bytes(cursor.key()[9:])
                    found = cursor.delete()
                    if key.isascii():  # ours are
                        dropped += _drop_if_over(txn, Key(key.decode()), now)
        except lmdb.Error:
            return dropped
        return dropped


class _Read:
    """What some bytes of the map mean, so that the same bytes are decoded once.

    Browsers come in bursts: bytes are still read and compared every time, so nothing can be stale.
    """

    def __init__(self) -> None:
        self._kept: dict[Key, tuple[bytes, Record | Mark]] = {}

    def decoded(self, key: Key, raw: bytes) -> Record | Mark:
        kept = self._kept.get(key)
        if kept is not None and kept[0] == raw:
            return kept[1]
        value = _decoded(key, raw)
        self.keep(key, raw, value)
        return value

    def keep(self, key: Key, raw: bytes, value: Record | Mark) -> None:
        if len(raw) <= KEPT_BYTES:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[key] = raw, value


def _drop_if_over(txn: lmdb.Transaction, key: Key, now: int) -> bool:
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


def _end(txn: lmdb.Transaction, key: Key, ending: Ending) -> Mark:
    stored = _get(txn, key)
    mark = finish(stored, ending)
    if stored is not mark:
        _put(txn, key, mark, before=stored)
    return mark


def _put(
    txn: lmdb.Transaction, key: Key, value: Record | Mark, *, before: Record | Mark | None
) -> bytes:
    """Write a record or mark, and its index entries where they change; return its bytes.

    A touch moves no entry: the sweep finds the old one and enters the new deadline.
    """
    raw = (_RECORD if isinstance(value, Record) else _MARK) + _pack(value)
    txn.put(_name(key), raw)
    if before is None or isinstance(value, Mark):
        txn.put(_deadline(_forget_ms(value)) + key.encode(), b"")
    principal = value.origin.principal if isinstance(value, Record) else None
    if before is None and principal is not None:
        txn.put(_member(principal, key), b"")
    if isinstance(value, Mark) and isinstance(before, Record) and before.origin.principal:
        txn.delete(_member(before.origin.principal, key))
    return raw


def _forget_ms(value: Record | Mark) -> int:
    return (value.ends_ms if isinstance(value, Record) else value.at_ms) + MARK_MS


def _get(txn: lmdb.Transaction, key: Key, read: _Read | None = None) -> Record | Mark | None:
    """What is stored, for those who will write: something unreadable is as good as nothing."""
    raw = txn.get(_name(key))
    try:
        return None if raw is None else (read or _Read()).decoded(key, bytes(raw))
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


def _members(txn: lmdb.Transaction, principal: str) -> list[Key]:
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
    server = os.environ.get("SAMESESSION_SERVER", "server")
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", server) is None:
        raise ConfigError(f"SAMESESSION_SERVER={server!r}; use letters, digits, - and _")
    folder = Path(url.path) if url.path.strip("/") else _default_folder()
    size = max(url.size_bytes("size", 64 << 20), 1 << 20)
    page = os.sysconf("SC_PAGE_SIZE")
    return LocalStore(folder / server, size // page * page, lambda: time.time_ns() // 1_000_000)


open_threads = open_loop


def _default_folder() -> Path:
    shared = Path("/dev/shm")  # noqa: S108  (tmpfs; the folder below it is private, 0700)
    root = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return root / f"samesession-{os.getuid()}"
