"""Which servers own a record: a fixed number of shards, and rendezvous hashing over the servers.

1. A key's shard never changes; 1024 shards leave no server of a hundred without work.
2. A shard's owners are the K servers with the highest scores; when one goes, only what it owned
   moves, and when one comes, it takes an equal share from everybody.
3. Everybody computes the same from the same names: nothing is agreed on, nothing is stored.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from hashlib import blake2b
from zlib import crc32

from samesession.record import Key

SHARDS = 1024
EVERYBODY = 0
"""As a number of copies: every server owns every shard."""


def shard_of(key: Key | str, shards: int = SHARDS) -> int:
    """The shard of a key; also of keys that an administrator made up."""
    return crc32(key.encode(errors="surrogatepass")) % shards


def owners(shard: int, servers: Collection[str], copies: int) -> tuple[str, ...]:
    """The owners of a shard, the first in line for its authority first.

    Args:
        shard: its number.
        servers: the names of those that may own; a tuple is sorted already.
        copies: K; `EVERYBODY` for all.
    """
    ranked = ranking(shard, servers if isinstance(servers, tuple) else tuple(sorted(servers)))
    return ranked if copies == EVERYBODY else ranked[:copies]


@lru_cache(maxsize=1 << 15)
def ranking(shard: int, servers: tuple[str, ...]) -> tuple[str, ...]:
    """All of these servers, by their score for a shard."""
    return tuple(sorted(servers, key=lambda name: _score(shard, name), reverse=True))


@lru_cache(maxsize=1 << 17)
def _score(shard: int, server: str) -> tuple[bytes, str]:
    scored = blake2b(f"{shard}/{server}".encode(), digest_size=8, person=b"samesession.own")
    return scored.digest(), server
