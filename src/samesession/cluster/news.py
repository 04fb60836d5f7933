"""What everybody must hear: endings and claims, numbered, so that nobody misses one unknowingly.

1. A server numbers its news from 1 in each of its lives, and sends each to all at once.
2. Who finds a gap asks; who can no longer be told what is missing hears the number only, and the
   claims that stand: it then doubts all that it has (`samesession.cluster.members`).
3. An ending is *known everywhere* when each server that could read when it was said has heard it,
   or started anew, or has no lease any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from samesession.cluster.copies import Item
from samesession.cluster.members import Members, Peer
from samesession.cluster.state import State, without_contents
from samesession.cluster.wire import ClaimOf, Heard, Missed, News
from samesession.record import Key

KEPT = 2000
"""News kept for those who missed them."""

AT_ONCE = 50
"""News sent at once to who missed them."""

REMEMBERED = 10_000
"""Endings whose being known everywhere is remembered."""

Saying = tuple[int, Mapping[str, tuple[int, int]]]
"""A number of our news, and who could read when it was said: boot, and until when, by name."""


class Newsroom:
    """One server's own news, and its way through the others'."""

    def __init__(
        self,
        state: State,
        members: Members,
        *,
        read: Callable[[Peer, News], None],
        claims: Callable[[], tuple[ClaimOf, ...]],
        doubt: Callable[[], None],
    ) -> None:
        """Start with number 0.

        Args:
            state: shared.
            members: whose news.
            read: takes in one piece of news, in order.
            claims: all that this server is the authority of.
            doubt: called when news were lost for good.
        """
        self._state = state
        self._members = members
        self._read = read
        self._claims = claims
        self._doubt = doubt
        self._kept: deque[News] = deque(maxlen=KEPT)
        self._said: dict[Key, Saying] = {}

    # -- our own -----------------------------------------------------------------------------------

    def say(self, endings: tuple[Item, ...] = (), claims: tuple[ClaimOf, ...] = ()) -> None:
        """Tell everybody."""
        self._members.news += 1
        endings = tuple(without_contents(item) for item in endings)
        news = News(self._members.news, endings, claims)
        self._kept.append(news)
        readers = self._members.readers()
        for item in endings:
            self._said[item.key] = news.number, readers
            if len(self._said) > REMEMBERED:
                del self._said[next(iter(self._said))]
        self._state.tell_all(news)

    def said(self, key: Key) -> Saying | None:
        """When this server said, in this life and not too long ago, that a record ended."""
        return self._said.get(key)

    def known_everywhere(self, saying: Saying) -> bool:
        """Whether nobody can show any more what was said to have ended."""
        number, readers = saying
        now = self._state.now.mono_ms
        return all(
            until <= now or self._members.heard_by(name, boot, number)
            for name, (boot, until) in readers.items()
        )

    def missed(self, sender: str, missed: Missed) -> None:
        """Somebody lacks some of ours."""
        if missed.boot != self._state.settings.boot:
            return
        last, known = self._members.news, max(missed.number, 0)
        first = self._kept[0].number if self._kept else last + 1
        if missed.number >= last:
            return
        if first <= known + 1 and last > known:
            at = known + 1 - first
            for number in range(at, min(at + AT_ONCE, len(self._kept))):
                self._state.tell(sender, self._kept[number])
            return
        self._state.tell(sender, News(last, (), self._claims(), whole=True))

    def heard(self, sender: str, heard: Heard) -> list[Key]:
        """Somebody has ours up to a number; returns what ended in those that it did not have."""
        peer = self._members.peers.get(sender)
        if peer is None or heard.boot != self._state.settings.boot or not self._kept:
            return []
        before, first = peer.acked, self._kept[0].number
        peer.acked = max(before, heard.number)
        fresh = range(max(before + 1, first), min(peer.acked, self._members.news) + 1)
        return [item.key for number in fresh for item in self._kept[number - first].endings]

    # -- the others' -------------------------------------------------------------------------------

    def came(self, sender: str, boot: int, news: News) -> None:
        """Take in what fits, keep what is ahead, ask for what is between."""
        peer = self._members.peers.get(sender)
        if peer is None or peer.boot != boot:
            return
        if news.number <= peer.have and not news.whole:
            self._state.tell(sender, Heard(boot, peer.have))
            return
        if news.whole:
            if news.number <= peer.have:
                return
            if news.number > max(peer.have, 0):
                self._state.counts["news_lost"] += 1
                self._doubt()
            self._take(peer, news)
        else:
            peer.ahead[news.number] = news
        while peer.have + 1 in peer.ahead or (peer.have < 0 and 1 in peer.ahead):
            self._take(peer, peer.ahead.pop(max(peer.have, 0) + 1))
        for number in [n for n in peer.ahead if n <= peer.have]:
            del peer.ahead[number]
        if peer.ahead or peer.have < peer.news:
            self.ask(peer)
        self._state.tell(sender, Heard(boot, max(peer.have, 0)))

    def ask(self, peer: Peer) -> None:
        """Ask for what is missing, not too often."""
        now = self._state.now.mono_ms
        if now - peer.asked_ms >= self._state.settings.retry_ms // 2:
            peer.asked_ms = now
            self._state.tell(peer.name, Missed(peer.boot, peer.have))
        for number in sorted(peer.ahead)[KEPT:]:
            del peer.ahead[number]

    def _take(self, peer: Peer, news: News) -> None:
        self._read(peer, news)
        peer.has_news(news.number)
