"""Who is a shard's authority: claims, promises, taking over, handing over, and levelling copies.

1. A shard's authority serves in an epoch that every server it is linked with promised to obey;
   whoever promised refuses lower epochs, so an authority that was paused writes nothing.
2. Nobody claims while the present authority is there, or seen by anybody there, unless it asked
   to (`Hand`) or is the one. Else the first settled server in line claims, with a higher epoch.
3. Before it serves, it has compared its copies with everybody's, and merged what differs: so when
   it says *absent* or *lost*, nobody linked knows better.
4. What it has itself counts only if it is sure of it, or if more than half of the shard's last
   known owners (or all of them that there are) have compared. Owners that are gone for good an
   operator gives up (`Forget`), and what only they knew with them.
5. A server is *level* in a shard when it has all that the authority had at some moment since it
   last doubted: only then its workers answer from it.
6. The same comparison is made with who holds a shard every ``round_ms``, and with all when a
   server appears, and when one doubts.
7. What ended lately it tells everybody once more: the authority before it may have died over it,
   and a server that only used the record is in no comparison.
8. An authority that was paused, and does not know yet that another one took over, would call lost
   what that one was told. So it asks the other owners once more before it says so (`confirm`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from samesession.cluster.copies import Change, Item, by_our_clock, healed, packed, sound
from samesession.cluster.digest import BUCKETS, bucket_of, sum_of
from samesession.cluster.followers import Followers
from samesession.cluster.members import Members
from samesession.cluster.news import Newsroom
from samesession.cluster.placement import owners, ranking
from samesession.cluster.shelf import over_at
from samesession.cluster.state import State
from samesession.cluster.wire import (
    PAGE,
    Claim,
    Claimed,
    ClaimOf,
    Fence,
    Fetch,
    Fetched,
    Fill,
    Hand,
    Holding,
    Level,
    Listed,
    Listing,
    Message,
    Offer,
    Put,
    Release,
)
from samesession.record import Key

OFFERS = 256
"""Shards in one claim."""

ASK_MS = 500
"""How long a server may take to list or show what it has."""

WIDER_ROUND = 6
"""Every so many rounds compare with those too that should hold nothing: a late message may have
filled them. In each they would make what a round costs grow with the number of servers."""

LOOK_EVERY_MS = 1000
HAND_EVERY_MS = 500


@dataclass(slots=True)
class Side:
    """What an authority knows of one server's copy of a shard."""

    era: int
    before: int
    sure: bool
    owners: tuple[str, ...]
    holds: bool
    merged: bool = False
    level: bool = False


@dataclass(slots=True)
class Role:
    """A shard that this server claims or serves.

    Attributes:
        doubted: what waits for the other owners to say that they still obey.
        base: the latest epoch that this one follows upon.
        waiting: who has not answered yet, or whose copies are not merged yet.
        knew: the last known owners, and in which epoch, unless this server is sure.
    """

    epoch: int
    base: int
    sure: bool
    knew: tuple[int, tuple[str, ...]]
    waiting: set[str]
    serving: bool = False
    sides: dict[str, Side] = field(default_factory=dict)
    doubted: list[_Doubt] = field(default_factory=list)
    handed_ms: int = -1_000_000
    claimed_ms: int = 0


@dataclass(slots=True, eq=False)
class _Doubt:
    """Told True once everybody answered a claim after ``since``, False if one does not obey."""

    since: int
    waiting: set[str]
    told: Callable[[bool], None]


@dataclass(slots=True)
class _Asked:
    server: str
    offers: dict[int, Offer]
    sent_ms: int


class Claims:
    """The shards of one server."""

    def __init__(
        self,
        state: State,
        members: Members,
        news: Callable[[], Newsroom],
        *,
        lost: Callable[[int], None],
        overtaken: Callable[[Item, Item], None],
    ) -> None:
        """Serve nothing.

        Args:
            state: shared.
            members: who is there.
            news: where endings and claims are told.
            lost: called when a shard is not served any more.
            overtaken: called with an end that stands and one that it beat.
        """
        self._state = state
        self._members = members
        self._news = news
        self._lost = lost
        self._overtaken = overtaken
        self.roles: dict[int, Role] = {}
        self.followers = Followers(state, self._epoch_of)
        self._offers: dict[str, dict[int, None]] = {}
        self._asked: dict[int, _Asked] = {}
        self._awaited: dict[tuple[str, int], int] = {}
        self._levels: dict[tuple[str, int], list[ClaimOf]] = {}
        self._hands: dict[str, list[ClaimOf]] = {}
        self._releases: dict[str, list[ClaimOf]] = {}
        self._new: list[ClaimOf] = []
        self._number = 0
        self._look: set[int] = set()
        self.moved: set[int] = set()
        self._looked_ms = -LOOK_EVERY_MS
        self._round_ms = 0

    # -- what the others ask -----------------------------------------------------------------------

    def serving(self, shard: int) -> Role | None:
        """The role of a shard whose authority this server is and may act as."""
        role = self.roles.get(shard)
        return role if role is not None and role.serving and self._members.valid else None

    def standing(self) -> tuple[ClaimOf, ...]:
        """All that this server is the authority of."""
        return tuple(ClaimOf(s, role.epoch) for s, role in self.roles.items() if role.serving)

    def owners(self, shard: int) -> tuple[str, ...]:
        """Who should hold a shard."""
        return owners(shard, self._members.eligible(), self._state.settings.copies)

    def holds_any(self) -> bool:
        """Whether this server still has anything that it has not been released of."""
        shards = range(self._state.settings.shards)
        return any(self._state.shard(shard).digest.whole for shard in shards)

    def following(self, shard: int) -> list[str]:
        """The other owners that obey this authority."""
        role = self.roles.get(shard)
        if role is None:
            return []
        me, peers = self._state.settings.name, self._members.peers
        return [n for n in self.owners(shard) if n != me and n in role.sides and n in peers]

    def write(
        self,
        shard: int,
        role: Role,
        item: Item,
        change: Change | None = None,
        asker: str | None = None,
    ) -> Put | Fill | None:
        """Keep what the authority decided, and send it to the other owners.

        Returns:
            What the ``asker`` is to keep, if it is an owner: it goes with the answer.
        """
        # What is merged may be of an earlier write: a number must not be given twice.
        seq = max(self._state.shard(shard).seq, item.stamp.seq)
        self._state.hold(shard, item, seq=seq)
        carried = None
        for server in self.following(shard):
            role.sides[server].holds = True
            sent = self.followers.owed(server, shard, role.epoch, item, change)
            if server == asker:
                carried = sent
            else:
                self._state.tell(server, sent)
        return carried

    def write_page(self, shard: int, role: Role, items: list[Item]) -> None:
        """Keep many at once, and send them to the other owners in one frame each."""
        self._state.hold_all(shard, items, seq=items[-1].stamp.seq)
        page = {item.key: packed(item) for item in items}
        for server in self.following(shard):
            role.sides[server].holds = True
            self._state.tell(server, self.followers.page(server, shard, role.epoch, page))

    def confirm(self, shard: int, role: Role, told: Callable[[bool], None]) -> None:
        """Ask the other owners whether this server still is the authority."""
        doubt = _Doubt(self._number, set(self.following(shard)), told)
        role.doubted.append(doubt)
        for name in doubt.waiting:
            self._offer(name, shard)
        self._confirmed(role, "")

    def _confirmed(self, role: Role, server: str, number: int | None = None) -> None:
        """A server obeys, as it said in answer to a claim, or is there no more."""
        for doubt in [*role.doubted]:
            if number is None or number > doubt.since:
                doubt.waiting.discard(server)
            if not doubt.waiting:
                role.doubted.remove(doubt)
                doubt.told(True)

    # -- claiming ----------------------------------------------------------------------------------

    def look(self) -> None:
        """See what is to be claimed, offered, handed over; after every input."""
        now = self._state.now.mono_ms
        everything = self._members.changed or now - self._looked_ms >= LOOK_EVERY_MS
        if self._members.doubters:
            for name in sorted(self._members.doubters):
                for shard in self.roles:
                    self._offer(name, shard)
            self._members.doubters.clear()
        if everything:
            if self._members.changed:
                self._gone()
            self._members.changed = False
            self._looked_ms = now
            self._look.clear()
            for shard in range(self._state.settings.shards):
                self._look_at(shard)
        elif self._look:
            for shard in sorted(self._look):
                self._look.discard(shard)
                self._look_at(shard)
        if self._offers or self._new or self._levels or self._hands or self._releases:
            self._flush()
        self.followers.flush()

    def tick(self) -> None:
        """Ask again, and compare now and then."""
        now, settings = self._state.now.mono_ms, self._state.settings
        for number, asked in list(self._asked.items()):
            if now - asked.sent_ms >= 2 * settings.retry_ms:
                self._no_longer_asked(number)
                for shard, offer in asked.offers.items():
                    if self._epoch_of(shard) == offer.epoch:
                        self._offer(asked.server, shard)
        if now - self._round_ms >= settings.round_ms:
            self._round_ms = now
            self._round()
        self.followers.tick()

    def doubt(self) -> None:
        """Serve nothing until it has been compared again."""
        for shard in list(self.roles):
            self._lose(shard)

    def _gone(self) -> None:
        here, gone = self._members.peers, set()
        for role in self.roles.values():
            role.waiting &= here.keys()
            for name in [n for n in role.sides if n not in here]:
                del role.sides[name]
                gone.add(name)
                self._confirmed(role, name)
        for name in sorted(gone):
            self.followers.forget_server(name)
        for number in [n for n, asked in self._asked.items() if asked.server not in here]:
            self._no_longer_asked(number)
        for name in [n for n in self._offers if n not in here]:
            del self._offers[name]

    def _look_at(self, shard: int) -> None:
        role = self.roles.get(shard)
        if role is None:
            if self._members.settled and self._members.valid and self._may_claim(shard):
                self._claim(shard)
            return
        for name, peer in self._members.peers.items():
            if peer.boot and name not in role.sides and name not in role.waiting:
                if not role.serving:
                    role.waiting.add(name)
                if (name, shard) not in self._awaited:
                    self._offer(name, shard)
        if not role.serving:
            self._serve_if_ready(shard, role)
            return
        self._settle_owners(shard, role)
        first, now = self._first(shard), self._state.now.mono_ms
        side = role.sides.get(first)
        if side is not None and side.level and now - role.handed_ms >= HAND_EVERY_MS:
            role.handed_ms = now
            self._hands.setdefault(first, []).append(ClaimOf(shard, role.epoch))

    def _settle_owners(self, shard: int, role: Role) -> None:
        """Once every owner is level, let all know who they are, and the others forget."""
        held_by, me = self.owners(shard), self._state.settings.name
        sides = role.sides
        if not all(n == me or (n in sides and sides[n].level) for n in held_by):
            return
        if held_by != self._state.shard(shard).owners:
            self._state.save(shard, owners=held_by)
            for name in held_by:
                if name != me:
                    self._levels.setdefault((name, sides[name].era), []).append(
                        ClaimOf(shard, role.epoch)
                    )
        for name, side in sides.items():
            if name not in held_by and side.holds and side.merged:
                side.holds = side.level = False
                self._releases.setdefault(name, []).append(ClaimOf(shard, role.epoch))
                self._offer(name, shard)  # to see that it did
            elif name not in held_by and name in self._members.leaving_peers():
                self._offer(name, shard)

    def _may_claim(self, shard: int) -> bool:
        state, settings = self._state.shard(shard), self._state.settings
        if state.holder == settings.name and state.boot == settings.boot:
            return True
        if self._members.present(state.holder, state.boot) or self._members.seen(state.holder):
            return False
        if settings.refuse and state.holder in self._members.gone:
            # It may be alive behind a cut, and answer until its lease is over.
            return False
        return self._first(shard) == settings.name

    def _first(self, shard: int) -> str:
        """The first settled server in line."""
        me = self._state.settings.name
        for name in ranking(shard, self._members.eligible()):
            if name == me or self._members.peers[name].settled:
                return name
        return me

    def _claim(self, shard: int) -> None:
        state, settings = self._state.shard(shard), self._state.settings
        epoch = settings.epoch_after(state.epoch)
        others = [name for name, peer in self._members.peers.items() if peer.boot]
        sure, knew = self._state.sure(shard), (state.level, state.owners)
        base = max(state.epoch, state.level)
        self.roles[shard] = role = Role(epoch, base, sure, knew, set(others))
        role.claimed_ms = self._state.now.mono_ms
        self._state.save(shard, fence=Fence(shard, epoch, settings.name, settings.boot))
        self._state.counts["claims"] += 1
        for name in others:
            self._offer(name, shard)
        self._look.add(shard)
        if not others:
            self._serve_if_ready(shard, role)

    def _serve_if_ready(self, shard: int, role: Role) -> None:
        if role.serving or role.waiting & self._members.peers.keys():
            return
        if not (self._members.settled and self._enough(role)):
            return
        role.serving = True
        self.moved.add(shard)
        held_by = self.owners(shard)
        self._state.save(shard, era=self._state.era, owners=held_by, level=role.epoch)
        self._new.append(ClaimOf(shard, role.epoch))
        for name in role.sides:
            self._level_if_so(shard, role, name)

    def _enough(self, role: Role) -> bool:
        """Whether those who compared know all that was ever acknowledged (rule 4)."""
        sides = role.sides
        if role.sure or any(side.sure and side.before for side in sides.values()):
            return True
        known = [(role.knew, self._state.settings.name)]
        known += [((side.before, side.owners), name) for name, side in sides.items()]
        last = self._last_owners(role)
        have = {name for (before, _), name in known if before}
        here = {name for _, name in known}
        return 2 * len(have & last) > len(last) or here >= last

    def _last_owners(self, role: Role) -> set[str]:
        """Those who held a shard when anybody here last knew, but for who was given up."""
        known = [role.knew, *((side.before, side.owners) for side in role.sides.values())]
        return set(max(known)[1]) - self._state.forgotten

    def missed(self) -> set[str]:
        """Who must come back, or be given up, before a shard is served that nobody is sure of."""
        missed: set[str] = set()
        for role in self.roles.values():
            if not (role.serving or role.waiting or self._enough(role)):
                missed |= self._last_owners(role) - role.sides.keys()
        return missed - {self._state.settings.name}

    def _lose(self, shard: int) -> None:
        role = self.roles.pop(shard, None)
        if role is not None:
            self.followers.forget_shard(shard)
            self._look.add(shard)
            self._lost(shard)
            for doubt in role.doubted:
                doubt.told(False)

    def learn(self, fence: Fence) -> None:
        """Somebody is a shard's authority, or was."""
        shard = fence.shard
        if shard >= self._state.settings.shards:
            return
        if fence.epoch > self._state.shard(shard).epoch:
            self._lose(shard)
            self._state.save(shard, fence=fence)
            self._look.add(shard)
            self.moved.add(shard)
        else:
            self._rival(shard, fence.epoch)

    def _rival(self, shard: int, epoch: int) -> None:
        """Claim anew if somebody else served beside this server: what it did is to be merged."""
        role = self.roles.get(shard)
        if role is None or not role.base < epoch < role.epoch:
            return
        role.base = epoch
        if role.serving:
            self._state.counts["rivals"] += 1
            self._lose(shard)
            self._claim(shard)

    # -- comparing ---------------------------------------------------------------------------------

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
            self.learn(Fence(shard, offer.epoch, sender, boot))
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
        asked = self._no_longer_asked(claimed.number)
        if asked is None or asked.server != sender or sender not in self._members.peers:
            return
        for fence in claimed.fences:
            self.learn(fence)
        for holding in claimed.holdings:
            role, offer = self.roles.get(holding.shard), asked.offers.get(holding.shard)
            if role is not None and offer is not None and role.epoch == holding.epoch:
                self._compared(sender, claimed.era, role, offer, holding)
                if self.roles.get(holding.shard) is role:
                    self._confirmed(role, sender, claimed.number)

    def _compared(self, sender: str, era: int, role: Role, offer: Offer, holding: Holding) -> None:
        shard = holding.shard
        if role.serving and role.base < holding.before < role.epoch:
            self._rival(shard, holding.before)
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
            self._merged(shard, role, sender, side)
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
                    self._again(shard, role, sender)

        self._state.ask(sender, Listing(shard, tuple(buckets)), listed, within_ms=ASK_MS)

    def _current(self, shard: int, role: Role, sender: str, side: Side) -> bool:
        return self.roles.get(shard) is role and role.sides.get(sender) is side

    def _again(self, shard: int, role: Role, sender: str) -> None:
        role.sides.pop(sender, None)
        if sender in self._members.peers:
            self._offer(sender, shard)

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
            if sender in self.owners(shard):
                side.holds = side.holds or bool(push)
                for key in push:
                    self.followers.owe(sender, shard, key)
            self._merged(shard, role, sender, side)
            return
        page, rest = pull[:PAGE], pull[PAGE:]

        def fetched(message: Message | None) -> None:
            if self._current(shard, role, sender, side):
                if isinstance(message, Fetched):
                    push.extend(self._absorb_all(shard, role, sender, message))
                    self._pull(shard, role, sender, side, rest, push)
                else:
                    self._again(shard, role, sender)

        self._state.ask(sender, Fetch(shard, tuple(page)), fetched, within_ms=ASK_MS)

    def seek(self, shard: int, role: Role, key: Key, told: Callable[[], None]) -> None:
        """Merge what everybody else has of one record; then, or when time is over, ``told``."""
        waiting = {name for name in role.sides if name in self._members.peers}

        def fetched(sender: str, message: Message | None) -> None:
            if isinstance(message, Fetched) and self.serving(shard) is role:
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
        ahead = self._members.skew_of(sender)
        items = [by_our_clock(item, ahead) for item in fetched.items if sound(item)]
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
        for server in self.following(shard):
            lacks = marks if server == sender else page  # it may have heard of an end, and no more
            if lacks:
                role.sides[server].holds = True
                self._state.tell(server, self.followers.page(server, shard, role.epoch, lacks))
        return set(ours)

    def absorb(self, shard: int, role: Role, theirs: Item) -> bool:
        """Merge somebody's copy into the authority's; whether theirs lacks something."""
        mine = self._state.held(theirs.key)
        if self._state.shard_of(theirs.key) != shard:
            return False
        if mine is None:
            if over_at(theirs) > self._state.now.wall_ms:
                self.write(shard, role, theirs)
            return False
        result = healed(mine, theirs)
        if mine.mark is not None and theirs.mark is not None:
            self._overtaken(result, theirs if result is mine else mine)
        copy = self._state.shelf.get(mine.key)
        if result is not mine or (copy is not None and not copy.held):
            self._state.counts["healed"] += 1
            self.write(shard, role, result)
        if result.mark is not None and mine.mark is None:
            self._news().say((result,))
        return sum_of(result) != sum_of(theirs)

    def _merged(self, shard: int, role: Role, sender: str, side: Side) -> None:
        side.merged = True
        role.waiting.discard(sender)
        self._serve_if_ready(shard, role)
        self._level_if_so(shard, role, sender)

    def level_if_so(self, server: str, shard: int) -> None:
        """A server lacks a little less now."""
        role = self.roles.get(shard)
        if role is not None:
            self._level_if_so(shard, role, server)

    def _level_if_so(self, shard: int, role: Role, server: str) -> None:
        side = role.sides.get(server)
        if side is None or side.level or not (side.merged and role.serving):
            return
        if server in self.owners(shard) and not self.followers.behind(server, shard):
            side.level = side.holds = True
            self._levels.setdefault((server, side.era), []).append(ClaimOf(shard, role.epoch))

    def levelled(self, sender: str, boot: int, level: Level) -> None:
        """This server lacks nothing of these shards."""
        if level.era != self._state.era:
            return
        for claim in level.claims:
            known = self._state.shard(claim.shard)
            if (known.epoch, known.holder, known.boot) == (claim.epoch, sender, boot):
                held_by = self.owners(claim.shard)
                self._state.save(claim.shard, era=level.era, owners=held_by, level=claim.epoch)

    def handed(self, sender: str, boot: int, hand: Hand) -> None:
        """The authority of these wants this server to go on with them."""
        for claim in hand.claims:
            known = self._state.shard(claim.shard)
            same = (known.epoch, known.holder, known.boot) == (claim.epoch, sender, boot)
            if same and self._members.settled and self._members.valid:
                self._claim(claim.shard)

    def released(self, sender: str, boot: int, release: Release) -> None:
        """This server is no owner any more, and all owners have what it has."""
        for claim in release.claims:
            shard = claim.shard
            known = self._state.shard(shard)
            same = (known.epoch, known.holder, known.boot) == (claim.epoch, sender, boot)
            if same and self._state.settings.name not in self.owners(shard):
                self._state.forget_shard(shard)
                self._state.save(shard, era=0, owners=(), level=0)

    # -- sending -----------------------------------------------------------------------------------

    def _round(self) -> None:
        self._state.counts["rounds"] += 1
        everybody = self._state.counts["rounds"] % WIDER_ROUND == 0
        for shard, role in self.roles.items():
            if not role.serving:
                continue
            held_by = self.owners(shard)
            for name, side in role.sides.items():
                if everybody or side.holds or name in held_by:
                    self._offer(name, shard)

    def _offer(self, name: str, shard: int) -> None:
        self._offers.setdefault(name, {})[shard] = None

    def _epoch_of(self, shard: int) -> int | None:
        role = self.roles.get(shard)
        return None if role is None else role.epoch

    def _flush(self) -> None:
        for name, released in self._releases.items():
            self._state.tell(name, Release(tuple(released)))
        self._releases.clear()
        for name, shards in self._offers.items():
            chosen = [s for s in shards if s in self.roles]
            for at in range(0, len(chosen), OFFERS):
                self._send_claim(name, chosen[at : at + OFFERS])
        self._offers.clear()
        if self._new:
            lately = self._state.lately_ended({claim.shard for claim in self._new})
            for at in range(0, len(lately), PAGE):
                self._news().say(tuple(lately[at : at + PAGE]))
            self._news().say((), tuple(self._new))
            self._new = []
        for (name, era), claims in self._levels.items():
            self._state.tell(name, Level(era, tuple(claims)))
        self._levels.clear()
        for name, claims in self._hands.items():
            self._state.tell(name, Hand(tuple(claims)))
        self._hands.clear()

    def _no_longer_asked(self, number: int) -> _Asked | None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            for shard in asked.offers:
                if self._awaited.get((asked.server, shard)) == number:
                    del self._awaited[asked.server, shard]
        return asked

    def _send_claim(self, name: str, shards: list[int]) -> None:
        self._number += 1
        offers = {
            shard: Offer(shard, self.roles[shard].epoch, self._state.shard(shard).digest.whole)
            for shard in shards
        }
        self._asked[self._number] = _Asked(name, offers, self._state.now.mono_ms)
        self._awaited |= dict.fromkeys([(name, shard) for shard in shards], self._number)
        self._state.tell(name, Claim(self._number, tuple(offers.values())))
