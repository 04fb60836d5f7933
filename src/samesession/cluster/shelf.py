"""What a server keeps: copies, the state of its shards, and the lease that its workers read.

The rules for who implements it (LMDB in `samesession.stores`; `DictShelf` here for the simulator):

1. Only the agent writes. Each input of the replica is one write transaction, and what the replica
   says goes out after it is committed: nothing is acknowledged that a killed process forgets.
2. Workers read. `samesession.cluster.lease.answer` says whether a copy may answer without a call;
   it needs the copy, its shard's era and the lease from one read transaction.
3. A copy is *held* (``era`` 0: this server owns its shard; part of the digest; as good as its
   shard's era) or *cached* (a positive era: good while the lease is of that same era).
4. What cannot be read is as good as absent; `put` never fails for want of room while `room` says
   True. If it does fail, the agent ends itself and starts anew: its memory may differ from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Raw, Struct

from samesession.cluster.copies import Item, packed
from samesession.cluster.digest import Digest
from samesession.record import Key


class Copy(Struct, frozen=True, array_like=True):
    """An item, and why it is here."""

    era: int
    item: Item

    @property
    def held(self) -> bool:
        """Whether this server is an owner of it."""
        return self.era == 0


class ShardState(Struct, frozen=True, array_like=True):
    """What a server knows of a shard.

    Attributes:
        epoch: the highest that it promised to obey; lower ones are refused.
        holder: the name of that epoch's authority ("" when there was none).
        boot: of the holder, when it claimed; another boot of it is nobody.
        seq: of the last write that this server made as the authority.
        era: in which its copies were last known to lack no ending; workers compare it.
        owners: the last known ones, for a start after an unclean stop.
        digest: of the held copies.
        level: the last epoch in which this server was its authority, or level with it.
    """

    epoch: int = 0
    holder: str = ""
    boot: int = 0
    seq: int = 0
    era: int = 0
    owners: tuple[str, ...] = ()
    digest: Digest = Digest()
    level: int = 0


class Lease(Struct, frozen=True, array_like=True, gc=False):
    """What a worker compares before it answers from a copy.

    Attributes:
        until_ms: CLOCK_BOOTTIME; over at that moment.
        era: copies of another one are not to be used.
    """

    until_ms: int
    era: int


class Self(Struct, frozen=True, array_like=True):
    """What a server remembers of itself across a restart.

    Attributes:
        era: raised at each start and after each doubt.
        members: the servers that were there when last looked at.
        forgotten: those that an operator gave up; one that comes all the same is not any more.
    """

    era: int = 0
    members: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()


class Shelf(Protocol):
    """The local storage, inside one write transaction."""

    def get(self, key: Key) -> Copy | None:
        """The copy of a record, held or cached."""
        ...

    def packed(self, key: Key) -> Raw | None:
        """A held copy's item as it lies here, unread; None where there is none."""
        ...

    def known(self, shard: int, keys: Sequence[Key]) -> set[Key]:
        """Those of these keys, all of one shard, that have a copy here."""
        ...

    def add(self, shard: int, items: Sequence[tuple[Item, Raw]]) -> None:
        """Put items that have no copy here, each with its packed form, as held ones."""
        ...

    def put(self, shard: int, copy: Copy) -> None:
        """Replace the copy of ``copy.item.key``, and its entry in the principal's index.

        The index holds every *held* copy that has a principal and is a record, or a mark whose
        reason `moved` (those are needed for a while by a sign-out everywhere).
        """
        ...

    def drop(self, shard: int, key: Key) -> None:
        """Forget a copy, wherever it is indexed."""
        ...

    def keys(self, shard: int) -> Iterable[Key]:
        """The keys of the held copies of a shard; nothing is written while it is iterated."""
        ...

    def held_by(self, principal: str) -> Iterable[Key]:
        """The keys in a principal's index."""
        ...

    def over(self, wall_ms: int, limit: int) -> list[Key]:
        """Up to ``limit`` keys whose item's ``until_ms`` or record's ``ends_ms`` has passed."""
        ...

    def shards(self) -> Mapping[int, ShardState]:
        """Every shard's state that was ever put."""
        ...

    def put_shard(self, shard: int, state: ShardState) -> None:
        """Replace a shard's state."""
        ...

    def put_lease(self, lease: Lease) -> None:
        """Replace the lease that workers read."""
        ...

    def remembered(self) -> Self:
        """What was last put by `remember`."""
        ...

    def remember(self, me: Self) -> None:
        """Replace what this server knows of itself."""
        ...

    def room(self, *, anonymous: bool) -> bool:
        """Whether one more new record may be made; there is more room for who signs in."""
        ...

    def room_for_copies(self) -> bool:
        """Whether a page of items that were not here may be taken over."""
        ...


class DictShelf:
    """A shelf in memory, for the simulator: a crash keeps it or throws it away."""

    def __init__(self) -> None:
        """Start empty."""
        self.copies: dict[Key, Copy] = {}
        self.lease = Lease(0, 0)
        self._shards: dict[int, ShardState] = {}
        self._held: dict[int, dict[Key, None]] = {}
        self._members: dict[str, dict[Key, None]] = {}
        self._self = Self()
        self.full = False
        self.crammed = False

    def get(self, key: Key) -> Copy | None:
        """See `Shelf`."""
        return self.copies.get(key)

    def packed(self, key: Key) -> Raw | None:
        """See `Shelf`."""
        copy = self.copies.get(key)
        return packed(copy.item) if copy is not None and copy.held else None

    def known(self, shard: int, keys: Sequence[Key]) -> set[Key]:
        """See `Shelf`."""
        return self.copies.keys() & set(keys)

    def add(self, shard: int, items: Sequence[tuple[Item, Raw]]) -> None:
        """See `Shelf`."""
        for item, _ in items:
            self.put(shard, Copy(0, item))

    def put(self, shard: int, copy: Copy) -> None:
        """See `Shelf`."""
        key = copy.item.key
        self.drop(shard, key)
        self.copies[key] = copy
        if copy.held:
            self._held.setdefault(shard, {})[key] = None
            if indexed(copy.item) and copy.item.principal is not None:
                self._members.setdefault(copy.item.principal, {})[key] = None

    def drop(self, shard: int, key: Key) -> None:
        """See `Shelf`."""
        copy = self.copies.pop(key, None)
        if copy is None:
            return
        self._held.get(shard, {}).pop(key, None)
        if copy.item.principal is not None:
            self._members.get(copy.item.principal, {}).pop(key, None)

    def keys(self, shard: int) -> Iterable[Key]:
        """See `Shelf`."""
        return self._held.get(shard, {})

    def held_by(self, principal: str) -> Iterable[Key]:
        """See `Shelf`."""
        return self._members.get(principal, {})

    def over(self, wall_ms: int, limit: int) -> list[Key]:
        """See `Shelf`."""
        found = [key for key, copy in self.copies.items() if over_at(copy.item) <= wall_ms]
        return found[:limit]

    def shards(self) -> Mapping[int, ShardState]:
        """See `Shelf`."""
        return self._shards

    def put_shard(self, shard: int, state: ShardState) -> None:
        """See `Shelf`."""
        self._shards[shard] = state

    def put_lease(self, lease: Lease) -> None:
        """See `Shelf`."""
        self.lease = lease

    def remembered(self) -> Self:
        """See `Shelf`."""
        return self._self

    def remember(self, me: Self) -> None:
        """See `Shelf`."""
        self._self = me

    def room(self, *, anonymous: bool) -> bool:
        """See `Shelf`."""
        return not (self.full and anonymous)

    def room_for_copies(self) -> bool:
        """See `Shelf`."""
        return not self.crammed


def over_at(item: Item) -> int:
    """When an item's time is over, by the wall clock (milliseconds)."""
    return item.until_ms if item.record is None else min(item.until_ms, item.record.ends_ms)


def indexed(item: Item) -> bool:
    """Whether a held item belongs into its principal's index."""
    if item.principal is None:
        return False
    return item.record is not None or (item.mark is not None and item.mark.reason.moved)
