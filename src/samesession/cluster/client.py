"""``cluster://``: the worker's side. It reads this server's map, and asks the agent for the rest.

URL: ``cluster://host1[:7420],host2,…[/folder]`` with every server, or a name that resolves to all
of them. Parameters: ``copies=3`` (or ``all``), ``ack=replicated(1)`` or ``authority``,
``partition=accept`` or ``refuse``, ``tls=FOLDER`` with ca.pem, cert.pem and key.pem,
``listen=host:port`` of this server, ``affinity=cookie``, ``size=64MB``, ``deadline=250ms``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from samesession.cluster import election, wire
from samesession.cluster.lease import answer
from samesession.cluster.line import Line
from samesession.cluster.lmdb_shelf import map_of, read
from samesession.cluster.loop_line import LoopLine
from samesession.cluster.options import Options
from samesession.cluster.placement import shard_of
from samesession.cluster.thread_line import ThreadLine
from samesession.errors import StoreUnavailableError
from samesession.record import Delta, Ending, Key, Mark, Outcome, Record, Version
from samesession.settings import Quota, Url
from samesession.store import Store

LEASE_S = 3.0
"""How much longer an end may take: a server that does not answer has to be waited out (S16)."""

START_S = 5.0
"""How long the first requests of a process wait for the agent to join; then it is a fault."""

A = TypeVar("A", bound=wire.Answer)


class ClusterStore:
    """The cluster as one of its workers sees it; see `Store`."""

    lags = True
    limits = True

    def __init__(self, line: Line, options: Options) -> None:
        """Name the agent; nothing is opened before the first use."""
        self.suspends = line.suspends
        self._line = line
        self._map = map_of(options.folder, options.size)
        self._deadline_s = options.deadline_ms / 1000
        self._ack = options.ack
        self._known_to = 0
        self._patient_until = 0.0

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        """See `Store`: from this server's copy while its lease runs, else from the authority."""
        if self._known_to == os.getpid():
            copy, era, lease = read(self._map, key, shard_of(key))
            found = answer(
                copy, era, lease, now_ms=boot_ms(), wall_ms=_wall_ms(), at_least=at_least
            )
            if found is not None:
                return found
        loaded = await self._ask(wire.Load(key, at_least), wire.Loaded)
        return loaded.record or loaded.mark

    async def commit(self, delta: Delta) -> Outcome:
        """See `Store`."""
        if delta.ack != self._ack:
            delta = replace(delta, ack=self._ack)
        return (await self._ask(wire.CommitDelta(delta), wire.Committed)).outcome

    async def end(self, key: Key, ending: Ending) -> Mark:
        """See `Store`; the end of a signed-in record waits until every server knows it (S16)."""
        return (await self._ask(wire.End(key, ending), wire.Marked, more_s=LEASE_S)).mark

    async def admit(
        self,
        principal: str,
        key: Key,
        until_ms: int,
        *,
        replaces: Key | None = None,
        quota: Quota | None = None,
    ) -> tuple[Key, ...] | None:
        """See `Store`; with a quota whoever makes room is ended first, as by `end`."""
        if quota is None:
            await self._ask(wire.Admit(principal, key), wire.Done)
            return ()
        request = wire.Admit(principal, key, until_ms, replaces, quota.most, quota.evicts)
        decided = await self._ask(request, wire.Displaced, more_s=LEASE_S)
        return None if decided.refused else decided.keys

    async def dismiss(self, principal: str, key: Key) -> None:
        """See `Store`; principals are found in the records themselves."""

    async def held_by(self, principal: str) -> list[Record]:
        """See `Store`."""
        return [*(await self._ask(wire.HeldBy(principal), wire.Records, more_s=LEASE_S)).records]

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        """See `Store`."""
        request = wire.EndAll(principal, ending, keep)
        return (await self._ask(request, wire.Ends, more_s=2 * LEASE_S)).number

    async def ready(self, within_s: float = 10.0) -> bool:
        """Wait until this server has joined; True when it has."""
        return await self._line.ask(READY, within_s) == READY

    async def close(self) -> None:
        """See `Store`; the agent lives on for the server's other workers."""
        await self._line.close()
        self._map.close()

    async def _ask(self, request: wire.Request, kind: type[A], *, more_s: float = 0) -> A:
        within_s = self._deadline_s + more_s
        if self._known_to != os.getpid():
            within_s = self._patience(within_s)
        answered = wire.unpack_answer(await self._line.ask(wire.pack(request), within_s))
        self._known_to = os.getpid()
        if isinstance(answered, kind):
            return answered
        why = answered.why if isinstance(answered, wire.Unavailable) else f"said {answered!r}"
        raise StoreUnavailableError(f"the cluster: {why}")

    def _patience(self, within_s: float) -> float:
        """The first to ask on a server starts its agent, which has to join: that takes a while."""
        now = time.monotonic()
        self._patient_until = self._patient_until or now + START_S
        return max(within_s, self._patient_until - now)


READY = b"ready?"
"""A question beside the requests, answered by itself once this server has joined."""

STATUS = b"status?"
"""A question beside the requests, answered with the replica's status as JSON."""


FORGET = b"forget "
"""A question beside the requests: names as a JSON list follow; answered as `STATUS` is."""


def boot_ms() -> int:
    """CLOCK_BOOTTIME: it runs on while the machine sleeps, and does not jump."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def open_loop(url: Url) -> Store:
    """Open for event loops."""
    return _open(url, LoopLine)


def open_threads(url: Url) -> Store:
    """Open for threads."""
    return _open(url, ThreadLine)


def _open(url: Url, line: Callable[..., Line]) -> Store:
    options = Options.of(url)
    options.listening()  # what is wrong with it is told here, at start-up
    return ClusterStore(line(options.socket, partial(election.ensure, options)), options)
