"""The shelf on LMDB: the agent writes it, this server's workers read it with no call at all.

Names in the map, all in one table so that one transaction sees them together:

    r shard key         a copy                    p principal key  of a principal
    x deadline key      to be looked at then      i                what this server knows of itself
    g shard             a shard's state           e shard          its era, for workers
    l                   the lease                 v                the layout: this one
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec
from msgspec import Raw

from samesession.cluster.copies import Item
from samesession.cluster.placement import shard_of
from samesession.cluster.shelf import Copy, Lease, Self, ShardState, indexed, over_at
from samesession.errors import StoreUnavailableError
from samesession.record import Key
from samesession.stores.lmdb_map import Map, MapError, Transaction

ANONYMOUS, ANYBODY, COPIES = 0.7, 0.8, 0.9
"""Shares of the map up to which new records are made, and others' are taken over; the rest is for
changes and endings."""

LAYOUT = b"2"
"""A map of another layout is begun anew, as that of a server that comes for the first time."""

_HELD = b"\x92\x00"
"""How a held copy begins: an array of two, and the era 0; the packed item follows."""

_pack = msgspec.msgpack.Encoder().encode
_copy = msgspec.msgpack.Decoder(Copy).decode
_shard = msgspec.msgpack.Decoder(ShardState).decode
_lease = msgspec.msgpack.Decoder(Lease).decode
_self = msgspec.msgpack.Decoder(Self).decode
_UNREADABLE = (ValueError, RecursionError, msgspec.MsgspecError)
_NO_LEASE = Lease(0, -1)


# LMDB opens a map once a process, and an application may use the store for loops and the one for
# threads side by side.
_maps: WeakValueDictionary[Path, Map] = WeakValueDictionary()


def map_of(folder: Path, size: int) -> Map:
    """The map of one server: one in each process, whoever asks."""
    fresh = Map(folder / "map", size, "cluster://…/folder?size=64MB")
    return _maps.setdefault(folder.absolute(), fresh)


def read(map_: Map, key: Key, shard: int) -> tuple[Copy | None, int, Lease]:
    """A copy, its shard's era and the lease, as of one moment: for `samesession.cluster.lease`.

    What cannot be read is answered as if it were not there; the agent will be asked.
    """
    with map_.here().begin(buffers=True) as txn:
        raw = txn.get(_place(shard) + key.encode())
        if raw is None:
            return None, 0, _NO_LEASE
        lease, era = txn.get(b"l"), txn.get(b"e%d" % shard)
        try:
            copy = _copy(raw)
            return (
                copy if copy.item.key == key else None,
                0 if era is None else int.from_bytes(era, "big"),
                _NO_LEASE if lease is None else _lease(lease),
            )
        except _UNREADABLE:
            return None, 0, _NO_LEASE


class LmdbShelf:
    """See `samesession.cluster.shelf.Shelf`; everything happens inside `writing`."""

    def __init__(self, map_: Map) -> None:
        """Take a map over, whatever is in it."""
        self._map = map_
        self._txn: Transaction | None = None
        self._seen: dict[Key, Copy | None] = {}
        self._states: dict[int, ShardState] = {}
        with self.writing() as txn, txn.cursor() as cursor:
            if txn.get(b"v") != LAYOUT:
                txn.drop(self._map.here().open_db(txn=txn), delete=False)
                txn.put(b"v", LAYOUT)
            found = cursor.set_range(b"g")
            while found and bytes(cursor.key()[:1]) == b"g":
                with suppress(*_UNREADABLE):
                    self._states[int(cursor.key()[1:])] = _shard(cursor.value())
                found = cursor.next()

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """One write transaction: all of it is kept, or nothing.

        Raises:
            StoreUnavailableError: nothing was kept; the replica's memory may differ from now on.
        """
        try:
            with self._map.here().begin(write=True) as txn:
                self._txn = txn
                self._seen = {}
                yield txn
        except MapError as error:
            raise StoreUnavailableError(f"the cluster's map {self._map}: {error}") from None
        finally:
            self._txn = None

    # -- copies ------------------------------------------------------------------------------------

    def get(self, key: Key) -> Copy | None:
        """See `Shelf`."""
        if key in self._seen:
            return self._seen[key]
        copy = None
        raw = self._writing.get(_place(shard_of(key)) + _encoded(key))
        if raw is not None:
            try:
                copy = _copy(raw)
            except _UNREADABLE:
                copy = None
        if copy is not None and copy.item.key != key:
            copy = None
        self._seen[key] = copy
        return copy

    def packed(self, key: Key) -> Raw | None:
        """See `Shelf`."""
        raw = self._writing.get(_place(shard_of(key)) + _encoded(key))
        held = raw is not None and raw[: len(_HELD)] == _HELD
        return Raw(raw[len(_HELD) :]) if raw is not None and held else None

    def known(self, shard: int, keys: Sequence[Key]) -> set[Key]:
        """See `Shelf`."""
        place = _place(shard)
        with self._writing.cursor() as cursor:
            found = cursor.getmulti([place + _encoded(key) for key in keys])
        return {_decoded(bytes(name[len(place) :])) for name, _ in found}

    def add(self, shard: int, items: Sequence[tuple[Item, Raw]]) -> None:
        """See `Shelf`."""
        place, copies, entries = _place(shard), [], []
        for item, raw in items:
            name = _encoded(item.key)
            copies.append((place + name, _HELD + bytes(raw)))
            entries.append((_deadline(over_at(item)) + name, b""))
            if indexed(item) and item.principal is not None:
                entries.append((_of_principal(item.principal) + name, b""))
            self._seen.pop(item.key, None)
        with self._writing.cursor() as cursor:  # in order, neighbours fill their pages
            cursor.putmulti(sorted(copies))
            cursor.putmulti(sorted(entries))

    def put(self, shard: int, copy: Copy) -> None:
        """See `Shelf`."""
        txn, key = self._writing, copy.item.key
        name, before = _encoded(key), self.get(key)
        if before is not None and before.item.mark is None and copy.item.mark is not None:
            txn.delete(_place(shard) + name)  # LMDB joins pages that have become empty only then
        txn.put(_place(shard) + name, _pack(copy))
        over = over_at(copy.item)
        if before is None or over < over_at(before.item):
            txn.put(_deadline(over) + name, b"")  # a later one moves when it is looked at
        was, now = _member(before), _member(copy)
        if was != now:
            if was is not None:
                txn.delete(was + name)
            if now is not None:
                txn.put(now + name, b"")
        self._seen[key] = copy

    def drop(self, shard: int, key: Key) -> None:
        """See `Shelf`."""
        txn, name, before = self._writing, _encoded(key), self.get(key)
        txn.delete(_place(shard) + name)
        if before is not None:
            txn.delete(_deadline(over_at(before.item)) + name)
            member = _member(before)
            if member is not None:
                txn.delete(member + name)
        self._seen[key] = None

    def keys(self, shard: int) -> Iterable[Key]:
        """See `Shelf`."""
        place, names = _place(shard), []
        with self._writing.cursor() as cursor:
            if cursor.set_range(place):
                for name, copy in cursor.iternext():
                    if name[: len(place)] != place:
                        break
                    if copy[: len(_HELD)] == _HELD:
                        names.append(_decoded(bytes(name[len(place) :])))
        return names

    def held_by(self, principal: str) -> Iterable[Key]:
        """See `Shelf`."""
        return self._names(_of_principal(principal))

    def over(self, wall_ms: int, limit: int) -> list[Key]:
        """See `Shelf`."""
        found: dict[Key, None] = {}
        with self._writing.cursor() as cursor:
            more = cursor.set_range(b"x")
            while more and len(found) < limit:
                entry = bytes(cursor.key())
                if entry[:1] != b"x" or entry[:9] > _deadline(wall_ms):
                    break
                key = _decoded(entry[9:])
                copy = self.get(key)
                if copy is not None and over_at(copy.item) <= wall_ms:
                    found[key] = None
                    more = cursor.next()
                    continue
                more = cursor.delete()  # it has gone, or goes on: entered anew
                if copy is not None:
                    self._writing.put(_deadline(over_at(copy.item)) + entry[9:], b"")
                    more = cursor.set_range(entry)
        return list(found)

    def _names(self, prefix: bytes) -> list[Key]:
        names = []
        with self._writing.cursor() as cursor:
            if cursor.set_range(prefix):
                for name in map(bytes, cursor.iternext(keys=True, values=False)):
                    if not name.startswith(prefix):
                        break
                    names.append(_decoded(name[len(prefix) :]))
        return names

    # -- the rest ----------------------------------------------------------------------------------

    def shards(self) -> Mapping[int, ShardState]:
        """See `Shelf`."""
        return self._states

    def put_shard(self, shard: int, state: ShardState) -> None:
        """See `Shelf`."""
        before = self._states.get(shard)
        self._states[shard] = state
        self._writing.put(b"g%d" % shard, _pack(state))
        if before is None or before.era != state.era:
            self._writing.put(b"e%d" % shard, state.era.to_bytes(8, "big"))

    def put_lease(self, lease: Lease) -> None:
        """See `Shelf`."""
        self._writing.put(b"l", _pack(lease))

    def remembered(self) -> Self:
        """See `Shelf`."""
        raw = self._writing.get(b"i")
        try:
            return Self() if raw is None else _self(raw)
        except _UNREADABLE:
            return Self()

    def remember(self, me: Self) -> None:
        """See `Shelf`."""
        self._writing.put(b"i", _pack(me))

    def room(self, *, anonymous: bool) -> bool:
        """See `Shelf`."""
        return self._map.used() < (ANONYMOUS if anonymous else ANYBODY)

    def room_for_copies(self) -> bool:
        """See `Shelf`."""
        return self._map.used() < COPIES

    @property
    def _writing(self) -> Transaction:
        assert self._txn is not None, "a shelf is written inside `writing` only"
        return self._txn


def _encoded(key: Key) -> bytes:
    return key.encode(errors="surrogatepass")[:256]  # LMDB's names end at 511 bytes


def _decoded(name: bytes) -> Key:
    return Key(name.decode(errors="surrogatepass"))


def _place(shard: int) -> bytes:
    return b"r" + shard.to_bytes(2, "big")


def _deadline(ms: int) -> bytes:
    return b"x" + max(0, ms).to_bytes(8, "big")


def _of_principal(principal: str) -> bytes:
    named = principal.encode(errors="surrogatepass")
    return b"p" + blake2b(named, digest_size=16).digest()


def _member(copy: Copy | None) -> bytes | None:
    """Where a copy stands in its principal's index, if it does."""
    if copy is None or not copy.held or not indexed(copy.item):
        return None
    assert copy.item.principal is not None
    return _of_principal(copy.item.principal)
