"""Servers' maps as agents left them, with many sessions in them: written without an agent, since
through one a hundred thousand would take minutes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from samesession.cluster.copies import Item, Stamp
from samesession.cluster.lmdb_shelf import LmdbShelf, map_of
from samesession.cluster.placement import owners
from samesession.cluster.settings import Settings
from samesession.cluster.state import State
from samesession.cluster.wire import Fence
from samesession.record import TOKEN_BYTES, Commit, Key, Origin, Record

HOUR_MS = 3_600_000


def store(
    folder: Path,
    names: Sequence[str],
    sessions: int,
    *,
    map_size: int,
    size: int = 500,
    copies: int = 3,
    principal: str | None = None,
) -> list[str]:
    """Write sessions into the maps of the servers that own them; returns their keys.

    Args:
        folder: the one in the servers' URL.
        names: of all servers.
        sessions: how many.
        copies: owners of each.
        map_size: bytes, as in the URL.
        size: bytes of a session's value.
        principal: whose they all are.
    """
    settings = [Settings(name, secrets.randbits(56)) for name in names]
    boots = {one.name: one for one in settings}
    epoch = settings[0].epoch_after(0)
    made = [_item(epoch, size, principal) for _ in range(sessions)]
    for mine in settings:
        map_ = map_of(folder / "cluster" / mine.name, map_size)
        shelf = LmdbShelf(map_)
        with shelf.writing():
            state = State(mine, shelf)
        shards: dict[int, list[Item]] = {}
        for item in made:
            shards.setdefault(state.shard_of(item.key), []).append(item)
        for first in range(0, mine.shards, 64):
            with shelf.writing():
                for shard in range(first, first + 64):
                    held_by = owners(shard, names, copies)
                    holder = boots[held_by[0]]
                    fence = Fence(shard, epoch, holder.name, holder.boot)
                    if mine.name in held_by:
                        state.save(shard, fence=fence, owners=held_by, level=epoch, seq=sessions)
                        state.hold_all(shard, shards.get(shard, ()))
        with shelf.writing():
            state.members = set(names)
            state.remember()
        map_.close()
    return [item.key for item in made]


def _item(epoch: int, size: int, principal: str | None) -> Item:
    now = time.time_ns() // 1_000_000
    key, stamp = Key(secrets.token_hex(16)), Stamp(epoch, 1)
    authenticated = None if principal is None else now
    origin = Origin(now, now + HOUR_MS, principal, authenticated)
    commits = (Commit(1, secrets.token_bytes(TOKEN_BYTES)),)
    record = Record(key, origin, commits, now, now + HOUR_MS // 2, {"a": b"x" * size})
    return Item(key, stamp, origin.absolute_ms, record, None, principal, {"a": stamp})
