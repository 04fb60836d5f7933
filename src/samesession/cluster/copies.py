"""A record's copy as servers keep it and send it: with the stamps that order its keys.

The rules:

1. A stamp is (epoch, seq): who wrote, as which authority, and its how-manieth write of the shard.
   Two stamps are equal only if they are of one write; no clock orders anything.
2. Each key carries the stamp of the write that set or removed it; a removed key keeps its stamp
   while the record lives, so that an older set of it cannot come back.
3. `healed` is commutative, associative and idempotent: an end wins; keys merge by the higher
   stamp; a copy that contains the other is taken as it is, else the version is the higher + 1.
4. What a record holds is decided by `samesession.record`; here are only the stamps.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec
from msgspec import Raw, Struct

from samesession.record import (
    COMMITS_KEPT,
    TOKEN_BYTES,
    Commit,
    Delta,
    Key,
    Mark,
    Record,
)


class Stamp(Struct, frozen=True, array_like=True, order=True, gc=False):
    """One write, in the order of the authorities."""

    epoch: int
    seq: int


class Item(Struct, frozen=True, array_like=True):
    """A record or the mark of one, and what orders it.

    Attributes:
        key: the record's.
        stamp: of the last write, touches included.
        until_ms: wall clock; nobody needs it any more then (the absolute deadline).
        record: None once it has ended.
        mark: None until it has ended.
        principal: whose it is or was.
        stamps: of each key, removed ones included; empty once it has ended.
    """

    key: Key
    stamp: Stamp
    until_ms: int
    record: Record | None
    mark: Mark | None
    principal: str | None
    stamps: Mapping[str, Stamp] = {}

    @property
    def value(self) -> Record | Mark:
        """The record, or its mark."""
        value = self.record or self.mark
        assert value is not None
        return value


class Change(Struct, frozen=True, array_like=True, gc=False):
    """What one commit did to a record, for those who hold it as it was before.

    Attributes:
        base: `samesession.cluster.digest.sum_of` the copy before.
    """

    key: Key
    base: int
    stamp: Stamp
    commit: Commit | None
    seen_ms: int
    idle_until_ms: int
    sets: Mapping[str, bytes]
    removes: tuple[str, ...]


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Item).decode


def packed(item: Item) -> Raw:
    """An item as it is sent and kept."""
    return Raw(_pack(item))


def unpacked(raw: Raw) -> Item | None:
    """An item that came; None if it is none: a peer may be of another build, or broken."""
    try:
        item = _unpack(raw)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None
    return item if sound(item) else None


def sound(item: Item) -> bool:
    """Whether an item is one: a peer may be of another build, or broken."""
    record, mark = item.record, item.mark
    if record is None:
        return mark is not None
    return mark is None and record.key == item.key and bool(record.commits)


def changed(item: Item, change: Change) -> Item:
    """The copy after a change of what it is."""
    before = item.record
    assert before is not None
    values, stamps = dict(before.values), dict(item.stamps)
    for name in change.removes:
        values.pop(name, None)
        stamps[name] = change.stamp
    for name, value in change.sets.items():
        values[name] = value
        stamps[name] = change.stamp
    commits = before.commits
    if change.commit is not None:
        commits = (*commits, change.commit)[-COMMITS_KEPT:]
    record = Record(
        before.key, before.origin, commits, change.seen_ms, change.idle_until_ms, values
    )
    return Item(item.key, change.stamp, item.until_ms, record, None, item.principal, stamps)


def change_of(item: Item, base: int, delta: Delta, after: Record, stamp: Stamp) -> Change:
    """What a delta did to a copy; ``after`` is what `samesession.record.merge` made of it."""
    before = item.record
    assert before is not None
    commit = after.commits[-1] if after.commits != before.commits else None
    removes = tuple(n for n in delta.removes if n not in delta.sets and n in before.values)
    return Change(
        item.key,
        base,
        stamp,
        commit,
        after.seen_ms,
        after.idle_until_ms,
        delta.sets,
        removes,
    )


def healed(one: Item, other: Item) -> Item:
    """The copy that two servers agree on."""
    if one.mark is not None or other.mark is not None:
        return _ended(one, other)
    if contains(one, other):
        return one
    if contains(other, one):
        return other
    return _merged(one, other)


def contains(one: Item, other: Item) -> bool:
    """Whether one copy has everything that another has."""
    mine, theirs = one.record, other.record
    if theirs is None:
        return mine is None
    if mine is None:
        return True
    if mine.idle_until_ms < theirs.idle_until_ms or mine.seen_ms < theirs.seen_ms:
        return False
    if not _knows(mine, theirs):
        return False
    nothing = Stamp(0, 0)
    return all(one.stamps.get(name, nothing) >= at for name, at in other.stamps.items())


def _ended(one: Item, other: Item) -> Item:
    """An end wins; of two, the one that somebody wanted, then the first, by a total order."""
    if one.mark is None or other.mark is None:
        return one if one.mark is not None else other
    return min(one, other, key=_precedence)


def _precedence(item: Item) -> tuple[bool, Stamp, bool, bytes]:
    mark = item.mark
    assert mark is not None
    return (not mark.reason.final, item.stamp, mark.final is None, mark.token)


def _merged(one: Item, other: Item) -> Item:
    mine, theirs = one.record, other.record
    assert mine is not None
    assert theirs is not None
    nothing = Stamp(0, 0)
    values, stamps = {}, {}
    for name in sorted(one.stamps.keys() | other.stamps.keys()):
        left, right = one.stamps.get(name, nothing), other.stamps.get(name, nothing)
        source = mine if left >= right else theirs
        stamps[name] = max(left, right)
        if name in source.values:
            values[name] = source.values[name]
    known = sorted(
        {*mine.commits, *theirs.commits}, key=lambda commit: (commit.number, commit.token)
    )
    if _knows(mine, theirs) or _knows(theirs, mine):
        commits = max(mine.commits, theirs.commits, key=lambda c: (c[-1].number, c[-1].token))
    else:
        # The token follows from the two, so whoever merges them makes the same commit of it.
        newest = sorted((mine.commits[-1].token, theirs.commits[-1].token))
        token = blake2b(b"".join(newest), digest_size=TOKEN_BYTES).digest()
        commits = (*known, Commit(known[-1].number + 1, token))[-COMMITS_KEPT:]
    record = Record(
        mine.key,
        mine.origin,
        commits,
        max(mine.seen_ms, theirs.seen_ms),
        max(mine.idle_until_ms, theirs.idle_until_ms),
        values,
    )
    principal = mine.origin.principal
    stamp = max(one.stamp, other.stamp)
    return Item(one.key, stamp, max(one.until_ms, other.until_ms), record, None, principal, stamps)


def _knows(one: Record, other: Record) -> bool:
    """Whether a record was made with the other's newest commit in it."""
    newest = other.commits[-1]
    return newest in one.commits or newest.number < one.commits[0].number
