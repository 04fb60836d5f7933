"""The endings that this process has heard of lately, and ends again where they were forgotten.

A failover can promote a replica that had not heard of an end, and a restored backup has heard of
none: the session is back. So whenever a server turns out to be another one than before, the first
thing it is told on a new connection is what has ended. A record that is loaded all the same is
ended then. What no server has heard of, or longer ago, is `samesession doctor --restored`'s.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha1
from threading import Lock

import msgspec

from samesession.counts import Count
from samesession.record import MARK_MS, Ending, Key, Mark
from samesession.stores import redis_scripts as lua
from samesession.stores.redis_target import Node
from samesession.stores.redis_wire import Command, Reply

REMEMBERED_MS = 600_000
"""By the clock that runs on while the machine sleeps."""

MOST = 4096
"""Endings a process; telling a server all of them takes it some 20 ms."""

_END_SHA = sha1(lua.END.encode(), usedforsecurity=False).hexdigest()
_pack = msgspec.msgpack.Encoder().encode


class Endings:
    """What ended, by key; threads may share it."""

    def __init__(self, prefix: str, boot_ms: Callable[[], int], count: Count) -> None:
        """Begin with none.

        Args:
            prefix: of a session's key in the engine.
            boot_ms: of CLOCK_BOOTTIME.
            count: told "ended_again".
        """
        self._prefix = prefix
        self._boot_ms = boot_ms
        self._count = count
        self._kept: OrderedDict[Key, tuple[int, Ending]] = OrderedDict()
        self._identities: dict[Node, str] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        """How many."""
        return len(self._kept)

    def remember(self, keys: Sequence[Key], mark: Mark) -> None:
        """Somebody ended records, all with the same mark; the newest endings are kept."""
        ending = Ending(mark.reason, mark.at_ms, mark.token, mark.successor)
        with self._lock:
            entry = self._boot_ms(), ending
            for key in keys[-MOST:]:
                self._kept.setdefault(key, entry)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)

    def of(self, key: Key) -> Ending | None:
        """How a record ended, if that is not long ago."""
        kept = self._kept.get(key)
        return None if kept is None or self._old(kept[0]) else kept[1]

    def due(self, node: Node, identity: str) -> list[Command]:
        """What a server has to be told that we have just connected to.

        Args:
            node: where it is.
            identity: of what it holds; a restart or a promotion gives it another one.
        """
        with self._lock:
            if self._identities.get(node) == identity:
                return []
            self._identities[node] = identity
            kept = [(key, ending) for key, (at, ending) in self._kept.items() if not self._old(at)]
        return [self.command(key, ending) for key, ending in kept]

    def told(self, reply: Reply) -> None:
        """A server's answer to one of those."""
        if isinstance(reply, list) and reply[-2:] == [b"alive", b"1"]:
            self.came_back()

    def came_back(self) -> None:
        """A record was there that had ended, and has been ended again."""
        self._count("ended_again")

    def command(self, key: Key, ending: Ending) -> Command:
        """Ends a record, absent or not."""
        mark = _pack((ending.reason, ending.at_ms, ending.token, ending.successor))
        moved = int(ending.reason.moved)
        return "EVALSHA", _END_SHA, 1, self._prefix + key, mark, ending.at_ms, moved, MARK_MS

    def _old(self, at_ms: int) -> bool:
        return self._boot_ms() - at_ms > REMEMBERED_MS


def identity_in(info: Reply) -> str:
    """Of what a server holds, by its INFO replication; nothing where it may not be asked."""
    if isinstance(info, Mapping):
        return str(info.get("master_replid", ""))
    text = info.decode() if isinstance(info, bytes) else str(info)
    found = re.search(r"master_replid:(\w+)", text)
    return found[1] if found else ""
