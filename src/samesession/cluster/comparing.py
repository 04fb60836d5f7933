"""Comparing an authority's copies with everybody's: claims, their answers, and what differs.

1. A claim carries the digest of a shard; whoever promises says how its own copies stand.
2. Where they differ, it lists what lies in the buckets that do; what the authority lacks it
   fetches, and what the other lacks, if that is an owner, is owed to it.
3. What somebody else knows of a record is merged (`samesession.cluster.copies.healed`), and sent to
   the other owners.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from samesession.cluster.claims import Claims
from samesession.cluster.clocks import item_by_our_clock
from samesession.cluster.copies import Item, healed, packed, sound
from samesession.cluster.digest import BUCKETS, bucket_of, sum_of
from samesession.cluster.members import Members
from samesession.cluster.news import Newsroom
from samesession.cluster.roles import Role, Side
from samesession.cluster.shelf import over_at
from samesession.cluster.state import State
from samesession.cluster.wire import (
    PAGE,
    Claim,
    Claimed,
    Fence,
    Fetch,
    Fetched,
    Holding,
    Listed,
    Listing,
    Message,
    Offer,
)
from samesession.record import Key

ASK_MS = 500
"""How long a server may take to list or show what it has."""


class Comparing:
    """The comparisons of one server."""

    def __init__(
        self,
        state: State,
        members: Members,
        claims: Claims,
        news: Callable[[], Newsroom],
        overtaken: Callable[[Item, Item], None],
    ) -> None:
        """Compare nothing yet.

        Args:
            state: shared.
            members: who is there.
            claims: the shards of this server.
            news: where endings are told.
            overtaken: called with an end that stands and one that it beat.
        """
        self._state = state
        self._members = members
        self._claims = claims
        self._news = news
        self._overtaken = overtaken

    def claim_came(self, sender: str, boot: int, claim: Claim) -> None:
        """Somebody claims or compares: promise, and say how this server's copies stand."""
        holdings, fences = [], []
        for offer in claim.offers:
            shard = offer.shard
            if shard >= self._state.settings.shards:
                continue
            known = self._state.shard(shard)
            theirs = (known.holder, known.boot) == (sender, boot)
            if offer.epoch < known.epoch or (offer.epoch == known.epoch and not theirs):
                fences.append(self._state.fence(shard))
                continue
            self._claims.learn(Fence(shard, offer.epoch, sender, boot))
            sure = self._state.sure(shard)
            sums = () if known.digest.whole == offer.whole else known.digest.sums
            knew = () if sure else known.owners
            holdings.append(Holding(shard, offer.epoch, known.level, sure, knew, sums))
        self._is_an_authority(sender, boot)
        self._state.tell(
            sender, Claimed(claim.number, self._state.era, tuple(holdings), tuple(fences))
        )

    def _is_an_authority(self, sender: str, boot: int) -> None:
        peer = self._members.peers.get(sender)
        if peer is not None and peer.boot == boot and not peer.settled:
            peer.settled = True  # its beat that says so is late
            self._members.change()

    def claimed(self, sender: str, claimed: Claimed) -> None:
        """Somebody promised, or did not."""
        asked = self._claims.letters.answered(claimed.number)
        if asked is None or asked.server != sender or sender not in self._members.peers:
            return
        for fence in claimed.fences:
            self._claims.learn(fence)
        for holding in claimed.holdings:
            role, offer = self._claims.roles.get(holding.shard), asked.offers.get(holding.shard)
            if role is not None and offer is not None and role.epoch == holding.epoch:
                self._compared(sender, claimed.era, role, offer, holding)
                if self._claims.roles.get(holding.shard) is role:
                    self._claims.confirmed(role, sender, claimed.number)

    def _compared(self, sender: str, era: int, role: Role, offer: Offer, holding: Holding) -> None:
        shard = holding.shard
        if role.serving and role.base < holding.before < role.epoch:
            self._claims.rival(shard, holding.before)
            return
        if holding.before != role.epoch:
            role.base = max(role.base, holding.before)
        digest = self._state.shard(shard).digest
        before = role.sides.get(sender)
        holds = any(holding.sums) if holding.sums else offer.whole != 0
        side = Side(era, holding.before, holding.sure, holding.owners, holds)
        if before is not None and before.before:
            side.before, side.sure = max(before.before, side.before), before.sure or side.sure
        role.sides[sender] = side
        busy = digest.whole != offer.whole
        if before is not None and before.level and before.era == era and busy:
            side.level = side.merged = True  # it was level, and is written to; look another time
            return
        if not holding.sums and not busy:
            self._claims.merged(shard, role, sender, side)
            return
        sums = holding.sums
        buckets = digest.differing(sums) if sums else list(range(BUCKETS))
        if not buckets or (sums and not any(sums[n] for n in buckets)):
            self._listed(shard, role, sender, side, buckets, Listed(era, {}))
            return

        def listed(message: Message | None) -> None:
            if self._current(shard, role, sender, side):
                if isinstance(message, Listed):
                    self._listed(shard, role, sender, side, buckets, message)
                else:
                    self._again(shard, sender)

        self._state.ask(sender, Listing(shard, tuple(buckets)), listed, within_ms=ASK_MS)

    def _current(self, shard: int, role: Role, sender: str, side: Side) -> bool:
        return self._claims.roles.get(shard) is role and role.sides.get(sender) is side

    def _again(self, shard: int, sender: str) -> None:
        """Compare anew; until then it obeys as before, and what it lacks is waited for."""
        if sender in self._members.peers:
            self._claims.letters.offer(sender, shard)

    def _listed(
        self,
        shard: int,
        role: Role,
        sender: str,
        side: Side,
        buckets: list[int],
        listed: Listed,
    ) -> None:
        side.era = listed.era
        keys = [*self._state.shelf.keys(shard)]
        if len(buckets) < BUCKETS:
            keys = [key for key in keys if bucket_of(key) in buckets]
        if not listed.sums:  # a joiner: there is nothing to compare
            self._pull(shard, role, sender, side, [], keys)
            return
        found = {key: item for key in keys if (item := self._state.held(key)) is not None}
        mine = {key: sum_of(item) for key, item in found.items()}
        pull = [key for key, one in listed.sums.items() if mine.get(key) != one]
        push = [key for key, one in mine.items() if listed.sums.get(key) != one]
        self._state.counts["repairs"] += len({*pull, *push})
        self._pull(shard, role, sender, side, pull, push)

    def _pull(
        self,
        shard: int,
        role: Role,
        sender: str,
        side: Side,
        pull: list[Key],
        push: list[Key],
    ) -> None:
        if not pull:
            if sender in self._claims.owners(shard):
                side.holds = side.holds or bool(push)
                for key in push:
                    self._claims.followers.owe(sender, shard, key)
            self._claims.merged(shard, role, sender, side)
            return
        page, rest = pull[:PAGE], pull[PAGE:]

        def fetched(message: Message | None) -> None:
            if self._current(shard, role, sender, side):
                if isinstance(message, Fetched):
                    push.extend(self._absorb_all(shard, role, sender, message))
                    self._pull(shard, role, sender, side, rest, push)
                else:
                    self._again(shard, sender)

        self._state.ask(sender, Fetch(shard, tuple(page)), fetched, within_ms=ASK_MS)

    def seek(self, shard: int, role: Role, key: Key, told: Callable[[], None]) -> None:
        """Merge what everybody else has of one record; then, or when time is over, ``told``."""
        waiting = {name for name in role.sides if name in self._members.peers}

        def fetched(sender: str, message: Message | None) -> None:
            if isinstance(message, Fetched) and self._claims.serving(shard) is role:
                self._absorb_all(shard, role, sender, message)
            waiting.discard(sender)
            if not waiting:
                told()

        for name in sorted(waiting):
            self._state.ask(name, Fetch(shard, (key,)), partial(fetched, name), within_ms=ASK_MS)
        if not waiting:
            told()

    def _absorb_all(self, shard: int, role: Role, sender: str, fetched: Fetched) -> list[Key]:
        """Merge what somebody sent; the keys of which they lack something."""
        ahead = self._members.skew_of(sender) or 0
        items = [item_by_our_clock(item, ahead) for item in fetched.items if sound(item)]
        new = self._take(shard, role, sender, items)
        return [i.key for i in items if i.key not in new and self.absorb(shard, role, i)]

    def _take(self, shard: int, role: Role, sender: str, items: Sequence[Item]) -> set[Key]:
        """Keep what has no copy here, and send it to the other owners, as pages; returns it.

        An empty server may have become the authority before those came who hold everything.
        """
        live = [i for i in items if over_at(i) > self._state.now.wall_ms]
        ours = {i.key: i for i in live if self._state.shard_of(i.key) == shard}
        for key in self._state.shelf.known(shard, [*ours]):
            del ours[key]
        if not ours:
            return set()
        page = {key: packed(item) for key, item in ours.items()}
        self._state.hold_new(shard, [(ours[key], raw) for key, raw in page.items()])
        marks = {key: raw for key, raw in page.items() if ours[key].mark is not None}
        for server in self._claims.following(shard):
            lacks = marks if server == sender else page  # it may have heard of an end, and no more
            if lacks:
                role.sides[server].holds = True
                self._state.tell(
                    server, self._claims.followers.page(server, shard, role.epoch, lacks)
                )
        return set(ours)

    def absorb(self, shard: int, role: Role, theirs: Item) -> bool:
        """Merge somebody's copy into the authority's; whether theirs lacks something."""
        mine = self._state.held(theirs.key)
        if self._state.shard_of(theirs.key) != shard:
            return False
        if mine is None:
            if over_at(theirs) > self._state.now.wall_ms:
                self._claims.write(shard, role, theirs)
            return False
        result = healed(mine, theirs)
        if mine.mark is not None and theirs.mark is not None:
            self._overtaken(result, theirs if result is mine else mine)
        copy = self._state.shelf.get(mine.key)
        if result is not mine or (copy is not None and not copy.held):
            self._state.counts["healed"] += 1
            self._claims.write(shard, role, result)
        if result.mark is not None and mine.mark is None:
            self._news().say((result,))
        return sum_of(result) != sum_of(theirs)
