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

from collections.abc import Callable

from samesession.cluster.copies import Change, Item, packed
from samesession.cluster.followers import Followers
from samesession.cluster.letters import Letters
from samesession.cluster.members import Members
from samesession.cluster.news import Newsroom
from samesession.cluster.placement import owners, ranking
from samesession.cluster.roles import Doubt, Role, Side
from samesession.cluster.state import State
from samesession.cluster.wire import (
    PAGE,
    ClaimOf,
    Fence,
    Fill,
    Hand,
    Level,
    Put,
    Release,
)

OFFERS = 256
"""Shards in one claim."""

ASK_MS = 500
"""How long a server may take to list or show what it has."""

WIDER_ROUND = 6
"""Every so many rounds compare with those too that should hold nothing: a late message may have
filled them. In each they would make what a round costs grow with the number of servers."""

LOOK_EVERY_MS = 1000
HAND_EVERY_MS = 500


class Claims:
    """The shards of one server."""

    def __init__(
        self,
        state: State,
        members: Members,
        news: Callable[[], Newsroom],
        *,
        lost: Callable[[int], None],
    ) -> None:
        """Serve nothing.

        Args:
            state: shared.
            members: who is there.
            news: where endings and claims are told.
            lost: called when a shard is not served any more.
        """
        self._state = state
        self._members = members
        self._news = news
        self._lost = lost
        self.roles: dict[int, Role] = {}
        self.followers = Followers(state, self._epoch_of)
        self.letters = Letters(state, self._epoch_of)
        self._new: list[ClaimOf] = []
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
        doubt = Doubt(self.letters.number, set(self.following(shard)), told)
        role.doubted.append(doubt)
        for name in doubt.waiting:
            self.letters.offer(name, shard)
        self.confirmed(role, "")

    def confirmed(self, role: Role, server: str, number: int | None = None) -> None:
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
                    self.letters.offer(name, shard)
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
        if self._new:
            self._tell_new()
        self.letters.flush()
        self.followers.flush()

    def tick(self) -> None:
        """Ask again, and compare now and then."""
        now, settings = self._state.now.mono_ms, self._state.settings
        for asked in self.letters.overdue(2 * settings.retry_ms):
            for shard, offer in asked.offers.items():
                if self._epoch_of(shard) == offer.epoch:
                    self.letters.offer(asked.server, shard)
        if now - self._round_ms >= settings.round_ms:
            self._round_ms = now
            self._round()
        self.followers.tick()

    def doubt(self) -> None:
        """Serve nothing until it has been compared again."""
        for shard in list(self.roles):
            self._lose(shard)

    def _gone(self) -> None:
        """Forget who was dropped; who is here again is in its next life and may have lost all."""
        members, gone = self._members, set()
        here = members.peers.keys() - members.dropped
        members.dropped.clear()
        for role in self.roles.values():
            role.waiting &= here
            for name in [n for n in role.sides if n not in here]:
                del role.sides[name]
                gone.add(name)
                self.confirmed(role, name)
        for name in sorted(gone):
            self.followers.forget_server(name)
        self.letters.keep_only(here)

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
                self._offer(name, shard)
        if not role.serving:
            self._serve_if_ready(shard, role)
            return
        self._settle_owners(shard, role)
        first, now = self._first(shard), self._state.now.mono_ms
        side = role.sides.get(first)
        if side is not None and side.level and now - role.handed_ms >= HAND_EVERY_MS:
            role.handed_ms = now
            self.letters.hand(first, ClaimOf(shard, role.epoch))

    def _offer(self, server: str, shard: int) -> None:
        """Claim or compare, unless the answer to that is awaited."""
        if not self.letters.awaits(server, shard):
            self.letters.offer(server, shard)

    def _settle_owners(self, shard: int, role: Role) -> None:
        """Once every owner is level, let all know who they are, and the others forget."""
        held_by, me = self.owners(shard), self._state.settings.name
        sides = role.sides
        behind = [n for n in held_by if n != me and not (n in sides and sides[n].level)]
        for name in behind:
            side = sides.get(name)
            if side is not None and side.merged and not side.holds:
                self._offer(name, shard)  # an owner since somebody went: it has nothing yet
        if behind:
            return
        if held_by != self._state.shard(shard).owners:
            self._state.save(shard, owners=held_by)
            for name in held_by:
                if name != me:
                    self.letters.level(name, sides[name].era, ClaimOf(shard, role.epoch))
        for name, side in sides.items():
            if name not in held_by and side.holds and side.merged:
                side.holds = side.level = False
                self.letters.release(name, ClaimOf(shard, role.epoch))
                self.letters.offer(name, shard)  # to see that it did
            elif name not in held_by and name in self._members.leaving_peers():
                self.letters.offer(name, shard)

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
            self.letters.offer(name, shard)
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
            self.rival(shard, fence.epoch)

    def rival(self, shard: int, epoch: int) -> None:
        """Claim anew if somebody else served beside this server: what it did is to be merged."""
        role = self.roles.get(shard)
        if role is None or not role.base < epoch < role.epoch:
            return
        role.base = epoch
        if role.serving:
            self._state.counts["rivals"] += 1
            self._lose(shard)
            self._claim(shard)

    # -- levelling ---------------------------------------------------------------------------------

    def merged(self, shard: int, role: Role, sender: str, side: Side) -> None:
        """What a server had is with this one's, and what it lacks is owed to it."""
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
            self.letters.level(server, side.era, ClaimOf(shard, role.epoch))

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
                    self.letters.offer(name, shard)

    def _epoch_of(self, shard: int) -> int | None:
        role = self.roles.get(shard)
        return None if role is None else role.epoch

    def _tell_new(self) -> None:
        lately = self._state.lately_ended({claim.shard for claim in self._new})
        for at in range(0, len(lately), PAGE):
            self._news().say(tuple(lately[at : at + PAGE]))
        self._news().say((), tuple(self._new))
        self._new = []
