"""One server of a cluster as a state machine: no clock, no randomness, no threads, no network.

The agent drives it: one input at a time, each inside one write transaction of the shelf; what an
input returns is done after the transaction is committed, in that order. See `Settings` for times.
"""

from __future__ import annotations

from dataclasses import dataclass

from samesession.cluster.placement import SHARDS
from samesession.cluster.shelf import Shelf
from samesession.cluster.wire import Answer, Request


@dataclass(frozen=True, slots=True)
class Now:
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


@dataclass(frozen=True, slots=True)
class Tell:
    """Publish a frame to a server's mailbox, or to `samesession.cluster.transport.ALL`."""

    topic: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """Query a server; its reply comes back by `Replica.replied` with this number."""

    server: str
    number: int
    frame: bytes
    within_ms: int


@dataclass(frozen=True, slots=True)
class Reply:
    """Reply to the question that came in by `Replica.asked` with this number."""

    question: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class Said:
    """Answer the request that came in by `Replica.request` with this number."""

    ticket: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Left:
    """Everything is handed over and farewell is said: the agent may go."""


Output = Tell | Ask | Reply | Said | Left


class Replica:
    """The inputs; each returns what to do."""

    def __init__(self, settings: Settings, shelf: Shelf) -> None:
        """Take a shelf over, whatever is on it."""

    def start(self, now: Now) -> list[Output]:
        """Begin; once."""
        raise NotImplementedError

    def tick(self, now: Now) -> list[Output]:
        """Let time pass; every 50 ms or so, also when nothing happens."""
        raise NotImplementedError

    def linked(self, now: Now, server: str, *, up: bool) -> list[Output]:
        """The transport sees a server, or no longer."""
        raise NotImplementedError

    def heard(self, now: Now, frame: bytes) -> list[Output]:
        """Something was published to this server's mailbox or to all."""
        raise NotImplementedError

    def asked(self, now: Now, question: int, frame: bytes) -> list[Output]:
        """A query came; ``question`` names it in a `Reply`, now or later or never."""
        raise NotImplementedError

    def replied(self, now: Now, number: int, frame: bytes | None) -> list[Output]:
        """A query was answered, or will not be (None)."""
        raise NotImplementedError

    def request(
        self, now: Now, ticket: int, request: Request, *, within_ms: int = 250
    ) -> list[Output]:
        """A worker asks; there is always one `Said`, at the latest at the tick after the deadline.

        ``Store.dismiss`` needs no request: principals are found in the records themselves.
        """
        raise NotImplementedError

    def leave(self, now: Now) -> list[Output]:
        """Hand everything over; `Left` follows. Worth a bound by the agent: 10 s."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether a balancer may send requests here."""
        raise NotImplementedError

    @property
    def counts(self) -> dict[str, int]:
        """What happened, by name."""
        raise NotImplementedError

    def status(self, now: Now) -> dict[str, object]:
        """What `samesession cluster status` shows, of this server: plain data."""
        raise NotImplementedError
