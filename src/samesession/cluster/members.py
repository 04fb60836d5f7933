"""Who is there, and for how long copies may answer: beats, echoes, drops and the lease (S16).

1. A lease runs L from this server's own stamp that a peer echoed, once this server has all the
   news that the peer had said by then. It is the earliest over every peer that could contradict:
   those linked, those that a linked one sees settled, and those remembered from before.
2. Silence is counted in ticks, not in time, so a pause of this server declares nobody dead. While
   the lease runs, a peer is dropped at once when its link breaks, or after ``dead_ms``; once the
   lease lapsed only after ``alone_ms``, and then this server *doubts* all that it has.
3. *Settled* is who has heard every peer long enough to become an authority. Only settled peers are
   passed on, so a badly linked joiner stops nobody.
4. Who is dropped may still read: an end waits for the lease that its last echo gave it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from samesession.cluster.settings import Settings
from samesession.cluster.shelf import Lease
from samesession.cluster.state import State
from samesession.cluster.wire import OLDEST, Beat, Echo, News

TICK_MS = 100
"""No tick counts for more silence than this."""

PAUSE_MS = 1000
"""A longer time between two ticks is a pause of this server."""

ASIDE_MS = 1000
"""After so long behind a broken link between two settled servers, one of them steps aside."""

SKEW_MS = 60_000
"""A server whose clock differs by more is reported, and not ready."""


@dataclass(slots=True)
class Peer:
    """Another server, in one of its lives.

    Attributes:
        silent_ms: ticks since its last beat.
        stamp_ms: its last stamp, ``stamp_at_ms`` when it came, by our clock.
        echoed_ms: when the last stamp came that we have echoed: its lease counts from there at
            the latest.
        fresh_ms: our newest stamp that it echoed with all its news known here.
        promised: pairs of (its news, our stamp) whose news are not all here.
        have: its news up to here are known; -1: none. It has said ``news``.
        ahead: its news beyond a gap.
        acked: our news that it has.
        skews: how much its clock was ahead at its last beats; those before it was dropped count
            until the next one.
    """

    name: str
    boot: int = 0
    beats: int = 0
    silent_ms: int = 0
    stamp_ms: int = 0
    stamp_at_ms: int = 0
    echoed_ms: int = 0
    fresh_ms: int = -1
    promised: list[tuple[int, int]] = field(default_factory=list)
    have: int = -1
    news: int = 0
    ahead: dict[int, News] = field(default_factory=dict)
    asked_ms: int = -1_000_000
    acked: int = -1
    settled: bool = False
    leaving: bool = False
    sees: tuple[str, ...] = ()
    skews: deque[int] = field(default_factory=deque)
    era: int = 0

    @property
    def skew_ms(self) -> int:
        """How much its clock is ahead; a beat that came late makes it seem behind, so the most."""
        return max(self.skews, default=0)

    def has_news(self, number: int) -> None:
        """Its news are known up to here: what its echoes promised counts now."""
        self.have = number
        kept = []
        for news, stamp in self.promised:
            if news <= number:
                self.fresh_ms = max(self.fresh_ms, stamp)
            else:
                kept.append((news, stamp))
        self.promised = kept


class Members:
    """The peers of one server, and its lease."""

    def __init__(self, state: State, doubt: Callable[[], None]) -> None:
        """Know nobody but those remembered."""
        self._state = state
        self._settings: Settings = state.settings
        self._doubt = doubt
        self.peers: dict[str, Peer] = {}
        self.doubters: set[str] = set()
        self.dropped: set[str] = set()
        self.gone: dict[str, tuple[int, int]] = {}
        self.expected: dict[str, int] = dict.fromkeys(state.members - {state.settings.name}, 0)
        self.settled = False
        self.leaving = False
        self.changed = True
        self._eligible: tuple[str, ...] | None = None
        self._seen: frozenset[str] | None = None
        self.news = 0
        self.until_ms = 0
        self._unseen: set[str] = set()
        self._was_fresh: dict[str, int] = {}
        self._departed: set[str] = set()
        self._known: dict[tuple[str, int], int] = {}
        self._boots: dict[str, set[int]] = {}
        self._skews: dict[str, deque[int]] = {}
        self._unlinked: set[str] = set()
        self._doubtful = False
        self._was_quorate = False
        self._said = Lease(0, 0)
        self._ran_ms = 0
        self._ticked_ms = -1
        self._woke_ms = -1_000_000_000
        self._beat_ms = -1_000_000
        self._lapsed_ms = 0

    # -- the lease ---------------------------------------------------------------------------------

    @property
    def valid(self) -> bool:
        """Whether this server may answer for what it has."""
        return self._state.now.mono_ms < self.until_ms and self._quorate()

    def renew(self) -> None:
        """Compute the lease anew, and doubt if somebody left after it lapsed."""
        now, length = self._state.now.mono_ms, self._settings.lease_ms
        required = dict.fromkeys(self.expected, -1)
        for peer in self.peers.values():
            # Who is not settled has never been an authority, unless we have heard it before.
            if peer.settled or peer.fresh_ms >= 0 or not self.settled:
                required[peer.name] = peer.fresh_ms
        self._gossip(required)
        quorate = self._quorate()
        if self._was_quorate and not quorate:
            self._doubtful = True  # the majority goes on from here, and knows better from now on
        self._was_quorate = quorate
        if self._doubtful:
            self._doubtful = False
            self._doubt()
        earliest = min(required.values(), default=now)
        until = earliest + length if earliest >= 0 else 0
        if not 0 <= until - self.until_ms < self._settings.beat_ms // 2:
            self.until_ms = until  # a little less than it might be saves writing it at every tick
        lease = Lease(self.until_ms if quorate else 0, self._state.era)
        if lease != self._said:
            self._said = lease
            self._state.shelf.put_lease(lease)

    def _gossip(self, required: dict[str, int]) -> None:
        """Require those too that only others are linked with; doubt when one of them goes."""
        now, length = self._state.now.mono_ms, self._settings.lease_ms
        unseen = set()
        for name in self._seen_by_others():
            if name in required or name in self._departed:
                continue
            # Dropped here, and not yet there: what it echoed last still counts.
            required[name] = self._was_fresh.get(name, -1)
            unseen.add(name)
        if self._unseen:
            for name in self._unseen - unseen - required.keys() - self._departed:
                if now >= self._was_fresh.get(name, -length) + length:
                    self._doubtful = True
        self._unseen = unseen

    def _seen_by_others(self) -> frozenset[str]:
        """Who is linked with somebody who is linked with us; the lease needs them all."""
        if self._seen is None:
            sees = [peer.sees for peer in self.peers.values()]
            self._seen = frozenset().union(*sees) - {self._settings.name}
        return self._seen

    def _quorate(self) -> bool:
        if not self._settings.refuse:
            return True
        known = self._state.members | {self._settings.name}
        heard = {peer.name for peer in self.peers.values() if peer.fresh_ms >= 0}
        here = (heard | {self._settings.name}) & known
        if 2 * len(here) == len(known):
            return min(known) in here
        return 2 * len(here) > len(known)

    # -- inputs ------------------------------------------------------------------------------------

    def linked(self, name: str, *, up: bool) -> None:
        """The transport sees a server, or no longer."""
        peer = self.peers.get(name)
        if up:
            self._unlinked.discard(name)
            if peer is None:
                self._met(name)
            self.beat()
            return
        self._unlinked.add(name)
        if peer is not None and self._smoothly and not self._lapsed(peer):
            self._drop(peer)
            self.beat()

    def heard(self, name: str, boot: int, beat: Beat) -> Peer | None:
        """A beat came; returns the peer if its news are not all known."""
        if name in self._unlinked:
            return None  # it is late: what the transport says of the dead counts more
        peer = self._peer_of(name, boot, beat)
        if peer is None:
            return None
        self._state.learn_speech(name, beat.speaks)
        now, first = self._state.now, peer.beats == 0
        peer.beats += 1
        peer.silent_ms = 0
        said = (beat.settled, beat.leaving, beat.settled_peers)
        if first or (peer.settled, peer.leaving, peer.sees) != said:
            self.change()
        if peer.era != beat.era:
            peer.era = beat.era
            self.doubters.add(name)
        peer.settled, peer.leaving = beat.settled, beat.leaving
        peer.sees, peer.news = beat.settled_peers, max(peer.news, beat.news)
        if first:
            peer.skews.clear()
        peer.skews.append(beat.wall_ms - now.wall_ms)
        if beat.stamp_ms > peer.stamp_ms:
            peer.stamp_ms, peer.stamp_at_ms = beat.stamp_ms, now.mono_ms
        self._echoed(peer, beat)
        if first:
            self.beat()
        return peer if beat.news > peer.have or peer.have < 0 else None

    def _peer_of(self, name: str, boot: int, beat: Beat) -> Peer | None:
        """The peer in the life that a beat is of; None if that is an earlier one."""
        peer = self.peers.get(name)
        if peer is not None and peer.boot not in (0, boot):
            if boot in self._boots.get(name, ()):
                return None
            self._drop(peer)
            peer = None
        if peer is None:
            peer = self._met(name)
        if peer.boot == 0:
            peer.boot = boot
            peer.have = self._known.get((name, boot), 0 if beat.news == 0 else -1)
            if name in self.gone and self.gone[name][0] != boot:
                del self.gone[name]  # its new agent took the lease from its workers at its start
        return peer

    def _echoed(self, peer: Peer, beat: Beat) -> None:
        echo = beat.echoes.get(self._settings.name)
        if echo is not None and echo.boot == self._settings.boot:
            if echo.stamp_ms > peer.fresh_ms:
                peer.promised = [*peer.promised[-20:], (beat.news, echo.stamp_ms)]
            peer.acked = max(peer.acked, echo.news)
        peer.has_news(peer.have)
        if peer.fresh_ms >= 0:
            self.expected.pop(peer.name, None)

    def farewell(self, name: str, boot: int) -> None:
        """A server has handed over and answers no more."""
        peer = self.peers.get(name)
        if peer is not None and peer.boot == boot:
            self._drop(peer, farewell=True)
            self.gone.pop(name, None)
            self._departed.add(name)
            self._unlinked.add(name)
            self._state.members.discard(name)
            self._state.remember()

    def forget(self, names: Iterable[str]) -> None:
        """An operator gives servers up; those that are here are not gone."""
        gone = set(names) - self.peers.keys() - {self._settings.name}
        for name in gone:
            self.expected.pop(name, None)
        self._state.members -= gone
        self._state.forgotten |= gone
        self._state.remember()
        self.change()

    def tick(self) -> None:
        """Count the silence, settle, beat."""
        now = self._state.now.mono_ms
        if not self._smoothly:
            self._woke_ms = max(self._woke_ms, now if now - self._ticked_ms > PAUSE_MS else 0)
        gap = TICK_MS if self._ticked_ms < 0 else min(TICK_MS, max(0, now - self._ticked_ms))
        self._ticked_ms = now
        self._ran_ms += gap
        for name in list(self.expected):
            self.expected[name] += gap
            if self.expected[name] >= self._settings.alone_ms and name not in self.peers:
                del self.expected[name]
                self.change()
        before = len(self.peers)
        for peer in list(self.peers.values()):
            peer.silent_ms += gap
            patience = self._settings.dead_ms
            if peer.fresh_ms >= 0 and (self._lapsed(peer) or not self._smoothly):
                patience = self._settings.alone_ms
            if peer.silent_ms >= patience:
                self._drop(peer)
        for name, (_, release) in list(self.gone.items()):
            if release <= now:
                del self.gone[name]
        self._lapsed_ms = 0 if now < self.until_ms else self._lapsed_ms + gap
        self._settle()
        if now - self._beat_ms >= self._settings.beat_ms or len(self.peers) < before:
            self.beat()  # the others must know soon that a peer is not seen here any more

    def beat(self) -> None:
        """Say that this server is here."""
        now = self._state.now
        self._beat_ms = now.mono_ms
        echoes = {}
        for peer in self.peers.values():
            if peer.stamp_ms:
                echoes[peer.name] = Echo(peer.boot, peer.stamp_ms, peer.have)
                peer.echoed_ms = peer.stamp_at_ms
        settled = tuple(peer.name for peer in self.peers.values() if peer.settled)
        self._state.tell_all(
            Beat(
                now.mono_ms,
                now.wall_ms,
                self.news,
                self.settled,
                self.leaving,
                settled,
                echoes,
                self._state.era,
                self._settings.protocol,
            ),
            OLDEST,  # whoever comes must understand it
        )

    # -- what the others ask -----------------------------------------------------------------------

    def present(self, name: str, boot: int) -> bool:
        """Whether this life of a server is there and may be an authority."""
        if name == self._settings.name:
            return boot == self._settings.boot
        peer = self.peers.get(name)
        return peer is not None and peer.boot == boot and peer.settled

    def seen(self, name: str) -> bool:
        """Whether somebody is linked with a settled server that we are not linked with."""
        peer = self.peers.get(name)
        if peer is not None and peer.boot:
            return False
        return any(name in peer.sees for peer in self.peers.values())

    def leaving_peers(self) -> set[str]:
        """Those that hand over."""
        return {peer.name for peer in self.peers.values() if peer.leaving}

    def change(self) -> None:
        """Who is there, or may do what, is not as it was."""
        self.changed, self._eligible, self._seen = True, None, None

    def eligible(self) -> tuple[str, ...]:
        """Those that may own shards."""
        if self._eligible is not None:
            return self._eligible
        names = [peer.name for peer in self.peers.values() if peer.boot and not peer.leaving]
        if not self.leaving or not names:
            names.append(self._settings.name)
        self._eligible = tuple(sorted(names))
        return self._eligible

    def readers(self) -> dict[str, tuple[int, int]]:
        """Who may still read without having heard: (boot, until when) by name."""
        length = self._settings.lease_ms
        readers = dict(self.gone)
        for peer in self.peers.values():
            if peer.echoed_ms:
                readers[peer.name] = peer.boot, peer.echoed_ms + length
        return readers

    def heard_by(self, name: str, boot: int, number: int) -> bool:
        """Whether a server has our news up to a number, or is not the one any more."""
        peer = self.peers.get(name)
        if peer is None or peer.boot == 0:
            return False
        return peer.boot != boot or peer.acked >= number

    def skew_of(self, name: str) -> int | None:
        """How much a server's clock is ahead of ours, in milliseconds; None: no beat has told."""
        return max(self._skews.get(name, ()), default=None)

    def far_off(self) -> dict[str, int]:
        """Whose clocks differ too much from ours, and by how many milliseconds they are ahead."""
        skews = {name: peer.skew_ms for name, peer in self.peers.items()}
        return {name: skew for name, skew in skews.items() if abs(skew) > SKEW_MS}

    def skewed(self) -> bool:
        """Whether this server's clock differs from those of more than half of all servers."""
        return 2 * len(self.far_off()) > len(self.peers) + 1

    # -- inside ------------------------------------------------------------------------------------

    def _met(self, name: str) -> Peer:
        skews = self._skews.setdefault(name, deque(maxlen=8))
        peer = self.peers[name] = Peer(name, skews=skews)
        self._departed.discard(name)
        self.change()
        if name not in self._state.members or name in self._state.forgotten:
            self._state.members.add(name)
            self._state.forgotten.discard(name)
            self._state.remember()
        return peer

    @property
    def _smoothly(self) -> bool:
        """Whether this server was not paused lately: if it was, its links broke because of that."""
        now = self._state.now.mono_ms
        paused = 0 <= self._ticked_ms < now - PAUSE_MS
        return not paused and now - self._woke_ms >= self._settings.alone_ms

    def _lapsed(self, peer: Peer) -> bool:
        fresh = peer.fresh_ms
        return fresh >= 0 and self._state.now.mono_ms >= fresh + self._settings.lease_ms

    def _drop(self, peer: Peer, *, farewell: bool = False) -> None:
        if not farewell and self._lapsed(peer):
            self._doubtful = True
        del self.peers[peer.name]
        self.dropped.add(peer.name)
        self._state.learn_speech(peer.name, None)
        self._was_fresh[peer.name] = peer.fresh_ms
        self._known[peer.name, peer.boot] = peer.have
        self._boots.setdefault(peer.name, set()).add(peer.boot)
        if peer.echoed_ms:
            self.gone[peer.name] = peer.boot, peer.echoed_ms + self._settings.lease_ms
        self.change()
        self._state.counts["dropped"] += 1

    def _settle(self) -> None:
        if self.settled:
            if self._lapsed_ms >= ASIDE_MS and self._cut_off():
                self.settled = False
                self._ran_ms = 0
                self._state.counts["aside"] += 1
                self.beat()
            return
        known = all(peer.fresh_ms >= 0 for peer in self.peers.values())
        ran = self._ran_ms >= self._settings.settle_ms
        if ran and known and not self.expected and self.valid and not self.skewed():
            self.settled = True
            self.change()
            self.beat()

    def _cut_off(self) -> bool:
        """Whether a peer sees a settled server that we do not, and whose name goes before ours."""
        return any(name < self._settings.name for name in self._unseen)
