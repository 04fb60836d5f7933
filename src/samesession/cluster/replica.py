"""One server of a cluster as a state machine: no clock, no randomness, no threads, no network.

The agent drives it: one input at a time, each inside one write transaction of the shelf; what an
input returns is done after the transaction is committed, in that order. The parts, each with its
own rules at its head:

    members     who is there, and the lease           claims      who is a shard's authority
    comparing   what others hold of a shard           followers   what the other owners lack
    news        what everybody must hear              letters     what claims tell the others
    desk        what an authority decides             counter     what workers ask

Frames that cannot be read, or are nothing that a peer says that way, are counted and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from samesession.cluster import report
from samesession.cluster.claims import Claims
from samesession.cluster.clocks import answer_by_our_clock, item_by_our_clock
from samesession.cluster.comparing import Comparing
from samesession.cluster.copies import Item, changed, healed, packed, sound, unpacked
from samesession.cluster.counter import Counter
from samesession.cluster.desk import Desk
from samesession.cluster.digest import bucket_of, sum_of
from samesession.cluster.members import Members, Peer
from samesession.cluster.news import Newsroom
from samesession.cluster.settings import (
    Ask,
    Left,
    Now,
    Output,
    Reply,
    Said,
    Settings,
    Tell,
)
from samesession.cluster.shelf import Copy, Lease, Shelf, over_at
from samesession.cluster.state import State
from samesession.cluster.wire import (
    CARRIES,
    Ack,
    Admissions,
    Admit,
    Beat,
    Claim,
    Claimed,
    CommitDelta,
    Committed,
    End,
    EndMany,
    Farewell,
    Fence,
    Fenced,
    Fetch,
    Fetched,
    Fill,
    Forget,
    Frame,
    Hand,
    Heard,
    Holders,
    Level,
    Listed,
    Listing,
    Load,
    Message,
    Missed,
    News,
    Put,
    Refusal,
    Release,
    Request,
    Unavailable,
)
from samesession.record import MARK_MS, Key

__all__ = ["Ask", "Left", "Now", "Output", "Replica", "Reply", "Said", "Settings", "Tell"]

SWEEP_MS = 1000
SWEPT_AT_ONCE = 100
"""A sweep of 500 held the write lock up to 74 ms (MEASURED 6)."""

GRACE_MS = 60_000
"""Items are kept so much longer than they live: the clocks of two servers may differ by as much."""


class Replica:
    """The inputs; each returns what to do."""

    def __init__(self, settings: Settings, shelf: Shelf) -> None:
        """Take a shelf over, whatever is on it; `start` is to be called first."""
        self._settings = settings
        self._state = state = State(settings, shelf)
        self._members = Members(state, self._doubt)
        self._claims = Claims(state, self._members, lambda: self._news, lost=self._lost)
        self._comparing = Comparing(
            state, self._members, self._claims, lambda: self._news, self._overtaken
        )
        self._news = Newsroom(
            state, self._members, read=self._read, claims=self._claims.standing, doubt=self._doubt
        )
        self._desk = Desk(state, self._claims, self._comparing, self._news)
        self._counter = Counter(state, self._members, self._claims, self._desk)
        self._takes = self._table()
        self._later: dict[tuple[str, int], list[int]] = {}
        self._swept_ms = 0
        self._left = False

    # -- inputs ------------------------------------------------------------------------------------

    def start(self, now: Now) -> list[Output]:
        """Begin; once. Takes the lease from this server's workers before anybody hears of it."""
        self._state.now = now
        self._state.shelf.put_lease(Lease(0, self._state.era))
        self._state.remember()
        self._members.renew()
        self._members.beat()
        return self._done()

    def tick(self, now: Now) -> list[Output]:
        """Let time pass; every 50 ms or so, also when nothing happens."""
        state = self._state
        state.now = now
        self._members.tick()
        self._members.renew()
        state.expire()
        state.trim()
        for (server, boot), numbers in self._later.items():
            if (peer := self._members.peers.get(server)) is not None and peer.boot == boot:
                state.tell(server, Ack(tuple(numbers)))
        self._later.clear()
        self._claims.tick()
        self._desk.look()
        self._counter.tick()
        if now.mono_ms - self._swept_ms >= SWEEP_MS:
            self._swept_ms = now.mono_ms
            for key in state.shelf.over(now.wall_ms - GRACE_MS, SWEPT_AT_ONCE):
                state.forget(key)
        self._leave_if_done()
        return self._done()

    def linked(self, now: Now, server: str, *, up: bool) -> list[Output]:
        """The transport sees a server, or no longer."""
        self._state.now = now
        if server != self._settings.name:
            self._members.linked(server, up=up)
            self._members.renew()
        return self._done()

    def heard(self, now: Now, frame: bytes) -> list[Output]:
        """Something was published to this server's mailbox or to all."""
        self._state.now = now
        read = self._loads(frame)
        if read is not None:
            self._hear(read)
        return self._done()

    def asked(self, now: Now, question: int, frame: bytes) -> list[Output]:
        """A query came; ``question`` names it in a `Reply`, now or later or never."""
        self._state.now = now
        read = self._loads(frame)
        if read is not None:
            self._answer(question, read)
        return self._done()

    def replied(self, now: Now, number: int, frame: bytes | None) -> list[Output]:
        """A query was answered, or will not be (None)."""
        self._state.now = now
        read = None if frame is None else self._loads(frame)
        self._state.replied(number, None if read is None else self._kept(read))
        return self._done()

    def request(
        self, now: Now, ticket: int, request: Request, *, within_ms: int = 250
    ) -> list[Output]:
        """A worker asks; there is always one `Said`, at the latest at the tick after the deadline.

        ``Store.dismiss`` needs no request: principals are found in the records themselves. An end
        may take the lease's length, so it wants ``within_ms`` above `Settings.lease_ms`. What is
        left of a worker's patience counts: an agent that was paused must not do what nobody waits
        for (a late sign-out everywhere would end the sessions of a newer login).
        """
        self._state.now = now
        if self._left:
            self._state.said(ticket, Unavailable("this server has left the cluster"))
        elif within_ms <= 0:
            self._state.said(ticket, Unavailable("the agent came to it too late; nothing was done"))
        else:
            self._counter.request(ticket, request, now.mono_ms + within_ms)
        return self._done()

    def refused(self, why: Refusal) -> None:
        """Count what a worker sent and nobody could read."""
        self._state.counts[why.value] += 1

    def leave(self, now: Now) -> list[Output]:
        """Hand everything over; `Left` follows. Worth a bound by the agent: 10 s."""
        self._state.now = now
        self._members.leaving = True
        self._members.change()
        self._members.beat()
        self._leave_if_done()
        return self._done()

    def forget(self, now: Now, names: Iterable[str]) -> list[Output]:
        """Wait for these servers no more, here and everywhere: an operator knows they are gone.

        What only they knew is lost: endings, too, so that a session whose end nobody else heard of
        may be served again. Servers that are here are not given up.
        """
        self._state.now = now
        given_up = tuple(names)
        self._members.forget(given_up)
        self._members.renew()
        self._state.tell_all(Forget(given_up))
        return self._done()

    @property
    def ready(self) -> bool:
        """Whether a balancer may send requests here."""
        members, claims = self._members, self._claims
        if not members.settled or members.leaving or not members.valid or members.skewed():
            return False
        return all(role.serving for role in claims.roles.values())

    @property
    def far_off(self) -> dict[str, int]:
        """Servers whose clocks differ by more than a minute, and how many milliseconds ahead."""
        return self._members.far_off()

    @property
    def counts(self) -> dict[str, int]:
        """What happened, by name."""
        return dict(self._state.counts)

    def status(self, now: Now) -> dict[str, object]:
        """What `samesession cluster status` shows, of this server: plain data."""
        return report.of(self._state, self._members, self._claims, now, ready=self.ready)

    # -- what peers say ----------------------------------------------------------------------------

    def _loads(self, raw: bytes) -> Frame | None:
        frame = self._state.codec.loads(raw)
        if isinstance(frame, Refusal):
            self._state.counts[frame.value] += 1
            return None
        if frame.sender == self._settings.name:
            self._state.counts["own_name"] += 1
            return None
        return frame

    def _hear(self, frame: Frame) -> None:
        take = self._takes.get(type(frame.message))
        if take is None:
            self._state.counts["misplaced"] += 1
        else:
            take(frame.sender, frame.boot, frame.message)

    def _table(self) -> dict[type, Callable[[str, int, Any], object]]:
        """What is done with what peers publish."""
        claims, comparing, news = self._claims, self._comparing, self._news
        return {
            Beat: self._beat,
            News: self._news_came,
            Heard: self._heard_ours,
            Missed: lambda sender, _, missed: news.missed(sender, missed),
            Claim: comparing.claim_came,
            Claimed: lambda sender, _, claimed: comparing.claimed(sender, claimed),
            Put: self._store,
            Fill: self._store,
            Ack: self._acked,
            Fenced: self._fenced,
            Level: claims.levelled,
            Hand: claims.handed,
            Release: claims.released,
            Farewell: self._farewell,
            Forget: self._forgotten,
        }

    def _beat(self, sender: str, boot: int, beat: Beat) -> None:
        behind = self._members.heard(sender, boot, beat)
        if behind is not None:
            self._news.ask(behind)
        self._members.renew()

    def _news_came(self, sender: str, boot: int, news: News) -> None:
        self._news.came(sender, boot, news)
        self._members.renew()

    def _heard_ours(self, sender: str, _boot: int, heard: Heard) -> None:
        keys = self._news.heard(sender, heard)
        for shard in dict.fromkeys(map(self._state.shard_of, keys)):
            self._desk.look_at(shard)

    def _acked(self, sender: str, _boot: int, ack: Ack) -> None:
        for shard in self._claims.followers.acked(sender, ack):
            self._claims.level_if_so(sender, shard)
            self._desk.look_at(shard)

    def _fenced(self, _sender: str, _boot: int, fenced: Fenced) -> None:
        for fence in fenced.fences:
            self._claims.learn(fence)

    def _farewell(self, sender: str, boot: int, _farewell: Farewell) -> None:
        self._members.farewell(sender, boot)
        self._members.renew()

    def _forgotten(self, _sender: str, _boot: int, forget: Forget) -> None:
        self._members.forget(forget.names)
        self._members.renew()

    def _read(self, peer: Peer, news: News) -> None:
        """Take in a piece of news."""
        for claim in news.claims:
            peer.settled = True
            self._claims.learn(Fence(claim.shard, claim.epoch, peer.name, peer.boot))
            self._claims.moved.add(claim.shard)  # it was promised before, and is served now
        for item in news.endings:
            self._hear_of_an_end(item_by_our_clock(item, peer.skew_ms))

    def _hear_of_an_end(self, item: Item) -> None:
        state, copy = self._state, self._state.shelf.get(item.key)
        if item.mark is None or not sound(item):
            return
        if copy is not None and copy.item.mark is not None and copy.item.stamp == item.stamp:
            return  # of one write: as an owner, it was told already
        shard = state.shard_of(item.key)
        if copy is not None and copy.held:
            result = healed(copy.item, item)
            if result is not copy.item:
                state.hold(shard, result)
        elif copy is None or copy.item.mark is None:
            until = min(item.until_ms, state.now.wall_ms + 2 * MARK_MS)
            kept = Item(item.key, item.stamp, until, None, item.mark, item.principal)
            state.shelf.put(shard, Copy(state.era, kept))
            state.remember_end(kept)

    def _kept(self, frame: Frame) -> Message | None:
        """A reply, once this server keeps what it carries; None, as if none came, if it cannot.

        Without a lease this server may have been given up meanwhile, and what it keeps with it.
        """
        message = answer_by_our_clock(frame.message, self._members.skew_of(frame.sender) or 0)
        if not isinstance(message, Committed) or message.carries is None:
            return message
        # The third owner tells the authority soon that it has it, and nobody waits for us.
        later = len(self._claims.owners(message.carries.shard)) > 2
        if self._settings.protocol >= CARRIES and not (
            self._store(frame.sender, frame.boot, message.carries, later=later)
            and self._members.valid
        ):
            self._state.counts["not_carried"] += 1
            return None
        return replace(message, carries=None)

    def _store(self, sender: str, boot: int, message: Put | Fill, *, later: bool = False) -> bool:
        """Keep what an authority sent to one of its owners, and say so; whether it is kept."""
        state, shard = self._state, message.shard
        if shard >= self._settings.shards:
            state.counts["misplaced"] += 1
            return False
        known = state.shard(shard)
        if message.epoch < known.epoch:
            state.counts["fenced"] += 1
            state.tell(sender, Fenced((state.fence(shard),)))
            return False
        self._claims.learn(Fence(shard, message.epoch, sender, boot))
        if isinstance(message, Fill):
            if not self._keep(shard, message.items, self._members.skew_of(sender)):
                return False
            self._ack(sender, boot, message.number, later=later)
            return True
        if self._change(shard, message):
            self._ack(sender, boot, message.number, later=later)
            return True
        state.tell(sender, Ack((), (message.number,)))
        return False

    def _ack(self, sender: str, boot: int, number: int, *, later: bool) -> None:
        """Say that something is kept: now, or with the next one and at the latest at the tick."""
        if later:
            self._later.setdefault((sender, boot), []).append(number)
        else:
            late = self._later.pop((sender, boot), ())
            self._state.tell(sender, Ack((*late, number)))

    def _keep(self, shard: int, items: Iterable[Raw], ahead_ms: int | None) -> bool:
        """Take items in; False if not all could be taken: who sent them will again."""
        state, came = self._state, dict[Key, tuple[Item, Raw]]()
        known, all_ = list[Item](), True
        for raw in items:
            sent = unpacked(raw)
            if sent is None:
                state.counts["unsound"] += 1
                continue
            if sent.mark is not None and ahead_ms is None:
                state.counts["clock_unknown"] += 1
                all_ = False
                continue
            item = item_by_our_clock(sent, ahead_ms or 0)
            if state.shard_of(item.key) != shard:
                continue
            if item.key in came:
                known.append(item)
            else:
                came[item.key] = item, raw if item is sent else packed(item)
        here = state.shelf.known(shard, [*came])
        known = [came[key][0] for key in came if key in here] + known
        fresh = [pair for key, pair in came.items() if key not in here]
        if fresh and not state.shelf.room_for_copies():
            records = [item for item, _ in fresh if item.mark is None]
            state.counts["no_room"] += len(records)
            fresh = [pair for pair in fresh if pair[0].mark is not None]
            all_ = all_ and not records
        if fresh:
            state.hold_new(shard, fresh)
        return self._merge(shard, known) and all_

    def _merge(self, shard: int, items: list[Item]) -> bool:
        """Take in items that mostly are here already; False if there was no room for all."""
        state, kept, all_ = self._state, dict[Key, Item](), True
        for item in items:
            copy = state.shelf.get(item.key)
            if item.key in kept:
                kept[item.key] = healed(kept[item.key], item)
                continue
            if copy is None and item.mark is None and not state.shelf.room_for_copies():
                state.counts["no_room"] += 1
                all_ = False
                continue
            counts = copy is not None and (copy.held or copy.item.mark is not None)
            result = healed(item, copy.item) if copy is not None and counts else item
            if copy is None or not copy.held or result is not copy.item:
                kept[item.key] = result
        state.hold_all(shard, [*kept.values()])
        return all_

    def _change(self, shard: int, put: Put) -> bool:
        change = put.change
        copy = self._state.shelf.get(change.key)
        if copy is None or self._state.shard_of(change.key) != shard:
            return False
        item = copy.item
        if item.mark is not None:
            return copy.held
        if not copy.held or item.record is None:
            return False
        if item.stamp >= change.stamp:
            return item.stamp.epoch == change.stamp.epoch
        if sum_of(item) != change.base:
            return False
        self._state.hold(shard, changed(item, change))
        return True

    def _answer(self, question: int, frame: Frame) -> None:
        state, message = self._state, frame.message
        match message:
            case Listing():
                wanted = set(message.buckets)
                items = map(state.held, state.shelf.keys(message.shard))
                sums = {i.key: sum_of(i) for i in items if i and bucket_of(i.key) in wanted}
                state.reply(question, Listed(state.era, sums), frame.protocol)
            case Fetch():
                found = [state.held(key) for key in message.keys]
                live = state.now.wall_ms - GRACE_MS
                items_ = tuple(item for item in found if item and over_at(item) > live)
                state.reply(question, Fetched(items_), frame.protocol)
            case Load() | CommitDelta() | End() | Admit() | Admissions() | Holders() | EndMany():
                self._desk.serve(
                    message,
                    lambda answer: state.reply(question, answer, frame.protocol),
                    frame.sender if frame.protocol >= CARRIES else None,
                )
            case _:
                state.counts["misplaced"] += 1

    # -- between the parts -------------------------------------------------------------------------

    def _doubt(self) -> None:
        """Something may have been missed for good: nothing here is sure any more."""
        state = self._state
        state.era += 1
        state.counts["doubts"] += 1
        state.remember()
        state.shelf.put_lease(Lease(0, state.era))
        self._claims.doubt()

    def _lost(self, shard: int) -> None:
        self._desk.lost(shard)

    def _overtaken(self, winner: Item, loser: Item) -> None:
        self._counter.succeed(winner, loser)

    def _leave_if_done(self) -> None:
        if not self._members.leaving or self._left:
            return
        others = any(peer.settled for peer in self._members.peers.values())
        if others and (self._claims.roles or self._claims.holds_any()):
            return
        self._left = True
        self._state.shelf.put_lease(Lease(0, self._state.era))
        self._state.tell_all(Farewell())
        self._state.out.append(Left())

    def _done(self) -> list[Output]:
        if not self._left:
            self._claims.look()
            moved, self._claims.moved = self._claims.moved, set()
            if moved:
                self._counter.kick(moved)
        out, self._state.out = self._state.out, []
        return out
