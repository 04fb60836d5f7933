"""What two servers compare to find out whether they hold the same: XORs, kept incrementally.

1. An item's sum is over its key, its newest commit, its idle deadline and how it ended; not over
   a mark's kept contents, which go after 30 s.
2. A shard's digest is 16 XORs, one for each bucket of keys; putting or dropping an item changes
   one of them. A full scan of 900 000 items takes 2.1 s (MEASURED 6), so there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from msgspec import Struct

from samesession.cluster.copies import Item
from samesession.record import Key

BUCKETS = 16
_NOTHING = (0,) * BUCKETS


class Digest(Struct, frozen=True, array_like=True, gc=False):
    """The XORs of a shard's items, by bucket."""

    sums: tuple[int, ...] = _NOTHING

    @property
    def whole(self) -> int:
        """One number for the whole shard."""
        whole = 0
        for one in self.sums:
            whole ^= one
        return whole

    def exchanged(self, pairs: Iterable[tuple[Item | None, Item | None]]) -> Digest:
        """The digest after items were put in others' places, or dropped, or added."""
        sums = list(self.sums)
        for before, after in pairs:
            item = after or before
            if item is None:
                continue
            change = 0 if before is None else sum_of(before)
            if after is not None:
                change ^= sum_of(after)
            if change:
                sums[bucket_of(item.key)] ^= change
        return Digest(tuple(sums))

    def added(self, items: Iterable[Item]) -> Digest:
        """The digest after items were added that were not there."""
        sums = list(self.sums)
        for item in items:
            sums[bucket_of(item.key)] ^= sum_of(item)
        return Digest(tuple(sums))

    def differing(self, sums: tuple[int, ...]) -> list[int]:
        """The buckets in which somebody else's sums differ."""
        return [n for n in range(BUCKETS) if n >= len(sums) or sums[n] != self.sums[n]]


def bucket_of(key: Key) -> int:
    """A key's bucket inside its shard."""
    return blake2b(key.encode(errors="surrogatepass"), digest_size=1).digest()[0] % BUCKETS


def sum_of(item: Item) -> int:
    """An item in 64 bits; equal for items that need no reconciling."""
    record, mark = item.record, item.mark
    if record is not None:
        newest = record.commits[-1]
        text = b"r%d %d %s" % (newest.number, record.idle_until_ms, newest.token)
    else:
        assert mark is not None
        text = b"m%s %s" % (mark.reason.encode(), mark.token)
    named = item.key.encode(errors="surrogatepass")
    return int.from_bytes(blake2b(b"%b\0%b" % (named, text), digest_size=8).digest(), "big")
