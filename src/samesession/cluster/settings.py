"""Who a server of a cluster is and how long it waits; what goes into a replica and comes out."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from msgspec import Struct

from samesession.cluster.placement import SHARDS
from samesession.cluster.wire import PROTOCOL, Answer

COUNTER_SHIFT = 24
"""An epoch counts above these bits; below them it names the server and its boot."""


class Now(Struct, frozen=True, gc=False):
    """The time of an input, in milliseconds.

    Attributes:
        mono_ms: CLOCK_BOOTTIME, for leases; runs on during pauses.
        wall_ms: since the epoch, for the sessions' deadlines only.
    """

    mono_ms: int
    wall_ms: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Who a server is, and how long it waits.

    Attributes:
        name: stable, and different from every other server's.
        boot: random, 56 bits; another one each time the agent starts.
        copies: owners of a shard; 0 for all servers.
        refuse: ``partition=refuse``: a minority answers nothing.
        accept_stale: ``stale=accept``: a copy answers when nobody else does.
        lease_ms: L.
        dead_ms: a peer silent for so long is dead; less than L by two beats.
        settle_ms: how long a new server looks for others before it claims anything.
        alone_ms: how long a server whose lease lapsed looks for those it knew.
        round_ms: between two comparisons of digests.
        retry_ms: until what was not acknowledged is sent again.
        lifetime_ms: for the marks of records that nobody had.
        protocol: the highest that it speaks; lower only to play an earlier build.
    """

    name: str
    boot: int
    copies: int = 3
    shards: int = SHARDS
    refuse: bool = False
    accept_stale: bool = False
    lease_ms: int = 3000
    beat_ms: int = 500
    dead_ms: int = 2000
    settle_ms: int = 1000
    alone_ms: int = 5000
    round_ms: int = 10_000
    retry_ms: int = 100
    lifetime_ms: int = 12 * 3_600_000
    protocol: int = PROTOCOL

    def epoch_after(self, epoch: int) -> int:
        """The first epoch of this server's that is higher: no other server's ever equals it."""
        text = f"{self.name}/{self.boot}".encode()
        mine = int.from_bytes(blake2b(text, digest_size=COUNTER_SHIFT // 8).digest(), "big")
        return ((epoch >> COUNTER_SHIFT) + 1) << COUNTER_SHIFT | mine


class Tell(Struct, frozen=True, gc=False):
    """Publish a frame to a server's mailbox, or to `samesession.cluster.transport.ALL`."""

    topic: str
    frame: bytes


class Ask(Struct, frozen=True, gc=False):
    """Query a server; its reply comes back by `Replica.replied` with this number."""

    server: str
    number: int
    frame: bytes
    within_ms: int


class Reply(Struct, frozen=True, gc=False):
    """Reply to the question that came in by `Replica.asked` with this number."""

    question: int
    frame: bytes


class Said(Struct, frozen=True):
    """Answer the request that came in by `Replica.request` with this number."""

    ticket: int
    answer: Answer


class Left(Struct, frozen=True, gc=False):
    """Everything is handed over and farewell is said: the agent may go."""


Output = Tell | Ask | Reply | Said | Left
