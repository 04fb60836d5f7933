"""``memcached://``: one value a session, `gets` and `cas` with merge and retry.

URL: ``memcached://host[:11211]``. Parameters: ``deadline=250ms`` for each step, ``pool=20``
connections a process, ``prefix=samesession`` of every key.

Memcached forgets: what it evicts, and everything at its restart, is a session lost. It has no way
to find a principal's sessions either, so listing them and signing out everywhere are refused.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import NoReturn

from samesession.errors import ConfigError, StoreUnavailableError
from samesession.record import Delta, Ending, Key, Mark, Outcome, Record, Version, finish, merge
from samesession.settings import Quota, Url
from samesession.store import Store
from samesession.stores.blob import dumps, forget_ms, loads, readable
from samesession.stores.memcached_wire import LoopWire, ThreadWire, Wire

TRIES = 100
"""Each time that one request must try again, another one's write has succeeded."""

SLACK_S = 60
"""Memcached's clock and ours may differ; deadlines are judged by ours."""

_RELATIVE_S = 30 * 24 * 3600  # beyond it, Memcached reads a number as seconds since the epoch
_PREFIX = re.compile(r"[!-~]{1,100}")


class MemcachedStore:
    """Records and marks as values; `merge` and `finish` decide."""

    lags = False
    limits = False

    def __init__(self, wire: Wire, prefix: str, clock_ms: Callable[[], int]) -> None:
        """Name the keys; nothing is connected yet."""
        self.suspends = wire.suspends
        self._wire = wire
        self._prefix = f"{prefix}:s:"
        self._clock_ms = clock_ms

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        """See `Store`; there is one copy, or none: an evicted session is a lost one."""
        found = await self._wire.gets(self._prefix + key)
        return None if found is None else loads(key, found[0])

    async def commit(self, delta: Delta) -> Outcome:
        """See `Store`."""
        name = self._prefix + delta.key
        found = None if delta.origin is not None else await self._wire.gets(name)
        for _ in range(TRIES):
            stored = None if found is None else loads(delta.key, found[0])
            outcome, written = merge(stored, delta)
            if written is None or await self._written(name, found, written):
                return outcome
            found = await self._wire.gets(name)
        raise StoreUnavailableError(f"session {delta.key} was changed {TRIES} times meanwhile")

    async def end(self, key: Key, ending: Ending) -> Mark:
        """See `Store`; the mark takes the record's place."""
        name = self._prefix + key
        for _ in range(TRIES):
            found = await self._wire.gets(name)
            stored = None if found is None else readable(key, found[0])
            mark = finish(stored, ending)
            if mark is stored or await self._written(name, found, mark):
                return mark
        raise StoreUnavailableError(f"session {key} was changed {TRIES} times meanwhile")

    async def admit(
        self,
        principal: str,
        key: Key,
        until_ms: int,
        *,
        replaces: Key | None = None,
        quota: Quota | None = None,
    ) -> tuple[Key, ...] | None:
        """See `Store`; there is no index, and a login needs none."""
        return ()

    async def dismiss(self, principal: str, key: Key) -> None:
        """See `Store`; there is no index."""

    async def held_by(self, principal: str) -> list[Record]:
        """See `Store`.

        Raises:
            ConfigError: always.
        """
        _refuse("list the sessions of a principal")

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        """See `Store`.

        Raises:
            ConfigError: always.
        """
        _refuse("sign a principal out everywhere")

    async def close(self) -> None:
        """See `Store`."""
        await self._wire.close()

    async def _written(
        self, name: str, found: tuple[bytes, object] | None, value: Record | Mark
    ) -> bool:
        now = self._clock_ms()
        seconds = max(math.ceil((forget_ms(value) - now) / 1000), 0) + SLACK_S
        expire = seconds if seconds < _RELATIVE_S else now // 1000 + seconds
        if found is None:
            return await self._wire.add(name, dumps(value), expire)
        return await self._wire.cas(name, dumps(value), expire, found[1])


def _refuse(what: str) -> NoReturn:
    raise ConfigError(
        f"memcached:// cannot {what}: Memcached has no index of principals; "
        "redis://, postgresql://, mysql:// and sqlite:// have one (samesession move OLD NEW)"
    )


def _wiring(url: Url) -> tuple[str, int, float, int]:
    url.only("deadline", "pool", "prefix")
    # Two of them would have to be chosen alike in loops and threads, and the clients choose
    # differently; a proxy such as mcrouter chooses for both.
    url.single()
    if url.path.strip("/") or url.username:
        raise ConfigError("memcached:// takes no user and no path; write memcached://host:11211")
    deadline_s = url.duration_ms("deadline", 250) / 1000
    return url.host or "127.0.0.1", url.port or 11211, deadline_s, url.count("pool", 20)


def _prefix(url: Url) -> str:
    prefix = url.parameters.get("prefix", "samesession")
    if _PREFIX.fullmatch(prefix) is None:
        raise ConfigError(
            f"memcached://?prefix={prefix!r}: up to 100 visible ASCII characters, no spaces"
        )
    return prefix


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


def open_loop(url: Url) -> Store:
    """Open for event loops."""
    return MemcachedStore(LoopWire(*_wiring(url)), _prefix(url), _clock_ms)


def open_threads(url: Url) -> Store:
    """Open for threads."""
    return MemcachedStore(ThreadWire(*_wiring(url)), _prefix(url), _clock_ms)
