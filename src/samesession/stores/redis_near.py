"""What makes a near cache over Redis and Valkey right: server-assisted invalidation.

All loads and commits of a process, or of an event loop, go over one connection of their own, on
which the server tells what others change of the keys that were read there (``CLIENT TRACKING ON
NOLOOP``). Answers and news come in the order in which things happened at the server, so a heartbeat
is a PING on the same connection: its answer says that nothing older is still to come.

In a cluster there is one such connection to each primary that has a key in use. A node that is a
replica now would answer a PING all the same, and hear of changes late. So there a heartbeat asks
for a key (``EXISTS``): who answers it has its slot, and with it all that it had. A failover takes a
node all its slots; a slot that moves takes its keys along one by one, which deletes them, and a
deletion is told. A node that sends on a command to another one has nothing to say any more.

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
from samesession.stores.near_copies import Copies, Witness
from samesession.stores.redis import RedisStore, clock_ms, prefix_of, wiring
from samesession.stores.redis_loops import Lines, LoopWire, nobody
from samesession.stores.redis_near_threads import TrackedThreadWire
from samesession.stores.redis_target import Node, Target
from samesession.stores.redis_threads import ThreadWire
from samesession.stores.redis_topology import key_of
from samesession.stores.redis_wire import Command, Tracker

BEAT_MS = 100
"""Between two heartbeats while copies are in use: one may be lost before the lease lapses."""


class Told:
    """What is heard in one event loop, or in one process: about its copies."""

    def __init__(self, copies: Copies, prefix: str, *, scattered: bool = False) -> None:
        """Listen for keys that begin with ``prefix``.

        Args:
            scattered: whether several servers speak, each of its own keys.
        """
        self.copies = copies
        self.speaker: Speaker | None = None
        self.prefix = prefix
        self.scattered = scattered
        self._prefix = prefix.encode()

    def tracker(self, node: Node) -> Speaker:
        """See `samesession.stores.redis_wire.Listener`."""
        return Speaker(self, node)

    def key_of(self, name: bytes) -> Key | None:
        """The session's key that the engine calls so."""
        if not name.startswith(self._prefix):
            return None
        return Key(name[len(self._prefix) :].decode("latin-1"))

    def heartbeat(self, witness: Witness) -> Command:
        """What a server answers only while what it has told counts."""
        return ("EXISTS", f"{self.prefix}{witness.used}") if self.scattered else ("PING",)


class Speaker:
    """One connection, to one server; of one that is replaced what counts is the newest's word."""

    def __init__(self, told: Told, node: Node) -> None:
        """Say nothing yet."""
        self.witness = Witness(node)
        self._told = told

    def listening(self) -> None:
        """See `samesession.stores.redis_wire.Tracker`."""
        self.witness.listening = True

    def asked(self, command: Command) -> None:
        """See `Tracker`."""
        told = self._told
        told.copies.asked(Key(str(key_of(command)).removeprefix(told.prefix)), self.witness)

    def answered(self) -> None:
        """See `Tracker`: where one server takes another one's place, the former is out."""
        told = self._told
        if told.speaker is not self and not told.scattered:
            if told.speaker is not None:
                told.speaker.refused()
            told.speaker = self

    def changed(self, name: bytes | None) -> None:
        """See `Tracker`; never raises, since redis-py would swallow it."""
        told = self._told
        key = None if name is None else told.key_of(name)
        if name is None or key is not None:
            told.copies.changed(key)

    def refused(self) -> None:
        """See `Tracker`; the connection stands, and what is read on it from now on is told."""
        self._begin(listening=self.witness.listening)

    def lost(self) -> None:
        """See `Tracker`."""
        self._begin(listening=False)
        if self._told.speaker is self:
            self._told.speaker = None

    def _begin(self, *, listening: bool) -> None:
        before = self.witness
        self.witness = Witness(before.where, listening=listening)
        self._told.copies.lost(before)


class LoopFeed:
    """The connections of an event loop, and a timer for each that has copies in use."""

    def __init__(self, wire: LoopWire[Told]) -> None:
        """Follow a wire whose connections are tracked."""
        self._wire = wire

    def at_hand(self) -> Copies:
        """See `Feed`."""
        return self._wire.here().listener.copies

    def here(self, key: Key) -> Copies:
        """See `Feed`; whoever listens on the loop has read everything."""
        return self._wire.here().listener.copies

    def keep_up(self, witness: Witness) -> None:
        """See `Feed`."""
        witness.beating = True
        lines = self._wire.here()
        asyncio.get_running_loop().call_later(BEAT_MS / 1000, self._beat, lines, witness)

    def _beat(self, lines: Lines[Told], witness: Witness) -> None:
        witness.beating = False
        if witness.over or not (witness.used and witness.listening):
            return
        if self._wire.here() is not lines:  # closed
            return
        told, asked = lines.listener, boot_ms()
        heartbeat = told.heartbeat(witness)
        witness.used = None

        def answered(reply: asyncio.Future[object]) -> None:
            if not reply.cancelled() and reply.exception() is None:
                witness.heard(asked)

        # In a cluster it is asked of this very node.
        sent = lines.send(heartbeat, witness.where if told.scattered else None)
        sent.add_done_callback(answered)
        self.keep_up(witness)

    async def pause(self, ms: int) -> None:
        """See `Feed`."""
        await asyncio.sleep(ms / 1000)


class ThreadFeed:
    """The connections of a process; whoever uses a copy reads what has arrived on its own."""

    def __init__(self, wire: TrackedThreadWire[Told]) -> None:
        """Follow a wire whose connections are tracked."""
        self._wire = wire

    def at_hand(self) -> Copies:
        """See `Feed`."""
        return self._wire.listener().copies

    def here(self, key: Key) -> Copies:
        """See `Feed`."""
        told = self._wire.listener()
        witness = told.copies.witness(key)
        if not witness.over:
            due = witness.used and witness.listening and boot_ms() >= witness.heard_ms + BEAT_MS
            heartbeat = partial(self._beat, told, witness) if due else None
            self._wire.read_news(witness.where, heartbeat)
        return told.copies

    def _beat(
        self, told: Told, witness: Witness, connection: Tracker
    ) -> tuple[Command, Callable[[], None]] | None:
        """The heartbeat and what to do with its answer, if one is due on a connection."""
        now = boot_ms()
        assert type(connection) is Speaker
        if connection.witness is not witness or not (witness.used and witness.listening):
            return None
        if now < witness.heard_ms + BEAT_MS:  # it was among what has just been read
            return None
        heartbeat = told.heartbeat(witness)
        witness.used = None
        return heartbeat, lambda: witness.heard(now)

    def keep_up(self, witness: Witness) -> None:
        """See `Feed`; there is nobody to do it between two uses."""

    async def pause(self, ms: int) -> None:
        """See `Feed`."""
        time.sleep(ms / 1000)  # noqa: ASYNC251  (a thread's coroutine never suspends)


def near_loop(url: Url, limit_bytes: int, count: Count = uncounted) -> tuple[Store, Feed]:
    """Open for event loops: the store, and what tells of changes to it."""
    target, scripts, endings = wiring(url, count)
    listener = _told(url, limit_bytes, target)
    tracked = LoopWire(target, scripts, endings, listener=listener)
    wire = LoopWire(target, scripts, endings, listener=nobody, count=count)
    return RedisStore(wire, prefix_of(url), clock_ms, endings, tracked), LoopFeed(tracked)


def near_threads(url: Url, limit_bytes: int, count: Count = uncounted) -> tuple[Store, Feed]:
    """Open for threads."""
    target, scripts, endings = wiring(url, count)
    tracked = TrackedThreadWire(target, scripts, endings, _told(url, limit_bytes, target))
    wire = ThreadWire(target, scripts, endings, count=count)
    return RedisStore(wire, prefix_of(url), clock_ms, endings, tracked), ThreadFeed(tracked)


def _told(url: Url, limit_bytes: int, target: Target) -> Callable[[], Told]:
    prefix, scattered = f"{prefix_of(url)}:s:", target.topology == "cluster"
    return lambda: Told(Copies(limit_bytes), prefix, scattered=scattered)
