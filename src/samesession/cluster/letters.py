"""What claims tell other servers: gathered, so that a thousand shards go in one frame to each."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import TypeVar

from samesession.cluster.state import State
from samesession.cluster.wire import Claim, ClaimOf, Hand, Level, Offer, Release

K = TypeVar("K")
V = TypeVar("V")

OFFERS = 256
"""Shards in one claim."""


@dataclass(slots=True)
class Asked:
    """A claim that waits for its answer."""

    server: str
    offers: dict[int, Offer]
    sent_ms: int


class Letters:
    """What is to be sent, and the claims that wait for an answer."""

    def __init__(self, state: State, epoch_of: Callable[[int], int | None]) -> None:
        """Nothing is to be sent.

        Args:
            state: shared.
            epoch_of: in which this server claims or serves a shard, or None.
        """
        self._state = state
        self._epoch_of = epoch_of
        self._offers: dict[str, dict[int, None]] = {}
        self._levels: dict[tuple[str, int], list[ClaimOf]] = {}
        self._hands: dict[str, list[ClaimOf]] = {}
        self._releases: dict[str, list[ClaimOf]] = {}
        self._asked: dict[int, Asked] = {}
        self._awaited: dict[tuple[str, int], int] = {}
        self.number = 0
        """Of the last claim that was sent."""

    def offer(self, server: str, shard: int) -> None:
        """Claim a shard, or compare its copies."""
        self._offers.setdefault(server, {})[shard] = None

    def level(self, server: str, era: int, claim: ClaimOf) -> None:
        """Say that a server lacks nothing of a shard."""
        self._levels.setdefault((server, era), []).append(claim)

    def hand(self, server: str, claim: ClaimOf) -> None:
        """Want a server to go on with a shard."""
        self._hands.setdefault(server, []).append(claim)

    def release(self, server: str, claim: ClaimOf) -> None:
        """Let a server forget a shard that it does not own."""
        self._releases.setdefault(server, []).append(claim)

    # -- answers -----------------------------------------------------------------------------------

    def awaits(self, server: str, shard: int) -> bool:
        """Whether a server was asked about a shard, and has not answered."""
        return (server, shard) in self._awaited

    def answered(self, number: int) -> Asked | None:
        """Wait for a claim's answer no more."""
        asked = self._asked.pop(number, None)
        if asked is not None:
            for shard in asked.offers:
                if self._awaited.get((asked.server, shard)) == number:
                    del self._awaited[asked.server, shard]
        return asked

    def overdue(self, patience_ms: int) -> Iterator[Asked]:
        """The claims that were not answered in time; they are waited for no more."""
        now = self._state.now.mono_ms
        for number in [n for n, one in self._asked.items() if now - one.sent_ms >= patience_ms]:
            asked = self.answered(number)
            if asked is not None:
                yield asked

    def keep_only(self, here: Container[str]) -> None:
        """Tell and ask the others nothing."""
        for number in [n for n, asked in self._asked.items() if asked.server not in here]:
            self.answered(number)
        for name in [n for n in self._offers if n not in here]:
            del self._offers[name]

    # -- sending -----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send it all; after every input, and most leave nothing to be sent."""
        if not (self._offers or self._levels or self._hands or self._releases):
            return
        tell = self._state.tell
        for name, claims in _taken(self._releases):
            tell(name, Release(tuple(claims)))
        for name, shards in _taken(self._offers):
            epochs = {s: epoch for s in shards if (epoch := self._epoch_of(s)) is not None}
            chosen = [*epochs]
            for at in range(0, len(chosen), OFFERS):
                self._claim(name, {s: epochs[s] for s in chosen[at : at + OFFERS]})
        for (name, era), claims in _taken(self._levels):
            tell(name, Level(era, tuple(claims)))
        for name, claims in _taken(self._hands):
            tell(name, Hand(tuple(claims)))

    def _claim(self, name: str, epochs: dict[int, int]) -> None:
        self.number += 1
        offers = {
            shard: Offer(shard, epoch, self._state.shard(shard).digest.whole)
            for shard, epoch in epochs.items()
        }
        self._asked[self.number] = Asked(name, offers, self._state.now.mono_ms)
        self._awaited |= dict.fromkeys([(name, shard) for shard in offers], self.number)
        self._state.tell(name, Claim(self.number, tuple(offers.values())))


def _taken(gathered: dict[K, V]) -> list[tuple[K, V]]:
    taken = [*gathered.items()]
    gathered.clear()
    return taken
