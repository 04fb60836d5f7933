"""What makes a near cache over Redis and Valkey right: server-assisted invalidation.

All loads and commits of a process, or of an event loop, go over one connection of their own, on
which the server tells what others change of the keys that were read there (``CLIENT TRACKING ON
NOLOOP``). Answers and news come in the order in which things happened at the server, so a heartbeat
is a PING on the same connection: its answer says that nothing older is still to come.

``BCAST`` would tell each process of every change of every session, its own too (scripts are not
excepted by NOLOOP), several changes as one: no process could keep what it wrote itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from samesession.counts import Count, uncounted
from samesession.record import Key
from samesession.settings import Url
from samesession.store import Store
from samesession.stores.near import Feed, boot_ms
from samesession.stores.near_copies import Copies
from samesession.stores.redis import RedisStore, clock_ms, prefix_of, wiring
from samesession.stores.redis_loops import LoopWire
from samesession.stores.redis_near_threads import TrackedThreadWire
from samesession.stores.redis_threads import ThreadWire

BEAT_MS = 100
"""Between two heartbeats while copies are in use: one may be lost before the lease lapses."""


class Told:
    """What is heard in one event loop, or in one process: about its copies."""

    def __init__(self, copies: Copies, prefix: str) -> None:
        """Listen for keys that begin with ``prefix``."""
        self.copies = copies
        self.speaker: Speaker | None = None
        self.prefix = prefix.encode()

    def tracker(self) -> Speaker:
        """See `samesession.stores.redis_wire.Listener`."""
        return Speaker(self)


class Speaker:
    """One connection, to one server. After a failover another one answers, and a new era begins."""

    def __init__(self, told: Told) -> None:
        """Say nothing yet."""
        self._told = told
        self._tells = False

    def listening(self) -> None:
        """See `samesession.stores.redis_wire.Tracker`."""
        self._tells = True

    def answered(self) -> None:
        """See `Tracker`."""
        told = self._told
        if told.speaker is not self:
            if told.speaker is not None:
                told.copies.lost()
            told.speaker = self
        if self._tells and not told.copies.listening:
            told.copies.listen()

    def changed(self, name: bytes | None) -> None:
        """See `Tracker`; never raises, since redis-py would swallow it."""
        told = self._told
        if name is None:
            told.copies.changed(None)
        elif name.startswith(told.prefix):
            told.copies.changed(Key(name[len(told.prefix) :].decode("latin-1")))

    def lost(self) -> None:
        """See `Tracker`."""
        self._tells = False
        if self._told.speaker is self:
            self._told.speaker = None
            self._told.copies.lost()


class LoopFeed:
    """One connection an event loop, and a timer while copies are in use."""

    def __init__(self, wire: LoopWire) -> None:
        """Follow a wire whose connections are tracked."""
        self._wire = wire

    def here(self) -> Copies:
        """See `Feed`; whoever listens on the loop has read everything."""
        told = self._wire.here().listener
        assert type(told) is Told
        return told.copies

    at_hand = here

    def keep_up(self, copies: Copies) -> None:
        """See `Feed`."""
        copies.beating = True
        asyncio.get_running_loop().call_later(BEAT_MS / 1000, self._beat, copies)

    def _beat(self, copies: Copies) -> None:
        copies.beating = False
        if not (copies.used and copies.listening) or self.here() is not copies:
            return
        copies.used = False
        era, asked = copies.era, boot_ms()

        def answered(reply: asyncio.Future[object]) -> None:
            if not reply.cancelled() and reply.exception() is None:
                copies.heard(era, asked)

        self._wire.here().send(("PING",)).add_done_callback(answered)
        self.keep_up(copies)

    async def pause(self, ms: int) -> None:
        """See `Feed`."""
        await asyncio.sleep(ms / 1000)


class ThreadFeed:
    """One connection a process; whoever uses a copy reads what has arrived."""

    def __init__(self, wire: TrackedThreadWire) -> None:
        """Follow a wire whose connection is tracked."""
        self._wire = wire

    def at_hand(self) -> Copies:
        """See `Feed`."""
        told = self._wire.listener()
        assert type(told) is Told
        return told.copies

    def here(self) -> Copies:
        """See `Feed`."""
        told = self._wire.listener()
        assert type(told) is Told
        copies = told.copies
        due = copies.used and copies.listening and boot_ms() >= copies.heard_ms + BEAT_MS
        self._wire.read_news(partial(self._beat, told) if due else None)
        return copies

    def _beat(self, told: Told, connection: object) -> Callable[[], None] | None:
        """What to do with the answer of a heartbeat, if one is due on a connection."""
        copies, now = told.copies, boot_ms()
        if told.speaker is not connection or not (copies.used and copies.listening):
            return None
        if now < copies.heard_ms + BEAT_MS:  # it was among what has just been read
            return None
        era = copies.era
        copies.used = False
        return lambda: copies.heard(era, now)

    def keep_up(self, copies: Copies) -> None:
        """See `Feed`; there is nobody to do it between two uses."""

    async def pause(self, ms: int) -> None:
        """See `Feed`."""
        time.sleep(ms / 1000)  # noqa: ASYNC251  (a thread's coroutine never suspends)


def near_loop(url: Url, limit_bytes: int, count: Count = uncounted) -> tuple[Store, Feed]:
    """Open for event loops: the store, and what tells of changes to it."""
    target, scripts, endings = wiring(url, count)
    tracked = LoopWire(target, scripts, endings, listener=_told(url, limit_bytes))
    wire = LoopWire(target, scripts, endings, count=count)
    return RedisStore(wire, prefix_of(url), clock_ms, endings, tracked), LoopFeed(tracked)


def near_threads(url: Url, limit_bytes: int, count: Count = uncounted) -> tuple[Store, Feed]:
    """Open for threads."""
    target, scripts, endings = wiring(url, count)
    tracked = TrackedThreadWire(target, scripts, endings, _told(url, limit_bytes))
    wire = ThreadWire(target, scripts, endings, count=count)
    return RedisStore(wire, prefix_of(url), clock_ms, endings, tracked), ThreadFeed(tracked)


def _told(url: Url, limit_bytes: int) -> Callable[[], Told]:
    prefix = f"{prefix_of(url)}:s:"
    return lambda: Told(Copies(limit_bytes), prefix)
