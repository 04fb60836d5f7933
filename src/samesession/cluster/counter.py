"""What a worker's requests become: an answer from a copy, or questions to authorities.

1. A load is answered from a copy where that may answer (`samesession.cluster.lease`).
2. Everything else is asked of the shard's authority, again and again until the request's time is
   over: tokens make that harmless. Then it is *unavailable*, which means that nobody knows.
3. What was loaded or committed for a worker is kept as a cached copy, of the era in which it was
   asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType

from samesession.cluster.claims import Claims
from samesession.cluster.copies import Item, Stamp
from samesession.cluster.desk import Asked, Desk
from samesession.cluster.lease import answer
from samesession.cluster.members import Members
from samesession.cluster.principals import Search, Searches, SignOut
from samesession.cluster.quotas import Quotas
from samesession.cluster.shelf import Lease
from samesession.cluster.state import State
from samesession.cluster.wire import (
    Admit,
    CommitDelta,
    Committed,
    Displaced,
    Done,
    End,
    EndAll,
    EndMany,
    Ends,
    HeldBy,
    Load,
    Loaded,
    Marked,
    Message,
    NotMine,
    Records,
    Request,
    Unavailable,
)
from samesession.record import (
    MARK_MS,
    Applied,
    Delta,
    Ending,
    Key,
    Mark,
    Record,
    after,
    made,
)

SLOWEST_RETRY_MS = 1000
PAGE_TRIES = 2
"""A page of ends takes as many times longer than one: as if it had been asked for so often."""

SUCCESSION_MS = 30_000
"""How long this server tries to end what a merged rotation led to."""


@dataclass(slots=True)
class _Job:
    """One question that is asked until it is answered, or too late.

    Attributes:
        on: called with the answer, or with None when time is over.
        to: the server, where not a shard's authority.
        tries: raises the time between two.
    """

    asked: Asked
    until_ms: int
    on: Callable[[Message | None], None]
    to: str | None = None
    tries: int = 0
    again_ms: int = 0
    over: bool = False
    at_once: int = 2


class Counter:
    """The requests of one server's workers."""

    def __init__(self, state: State, members: Members, claims: Claims, desk: Desk) -> None:
        """Serve workers."""
        self._state = state
        self._members = members
        self._claims = claims
        self._desk = desk
        self._jobs: list[_Job] = []
        self._searches = Searches(state, members, desk)
        self._quotas = Quotas(state, desk, self._searches, self.ask)

    def request(self, ticket: int, request: Request, until_ms: int) -> None:
        """See `samesession.cluster.replica.Replica.request`."""
        match request:
            case Load():
                self._load(ticket, request, until_ms)
            case CommitDelta():
                self._commit(ticket, request, until_ms)
            case End():
                self._simply(ticket, request, until_ms, Marked)
            case Admit():
                self._simply(ticket, request, until_ms, Done | Displaced)
            case HeldBy():
                self._held_by(ticket, request, until_ms)
            case EndAll():
                self._end_all(ticket, request, until_ms)

    def tick(self) -> None:
        """Ask again, give up."""
        now = self._state.now.mono_ms
        for job in [*self._jobs]:
            if job.over:
                continue
            if now >= job.until_ms:
                self._over(job, None)
            elif now >= job.again_ms:
                self._try(job)
        self._jobs = [job for job in self._jobs if not job.over]
        self._searches.tick()

    def kick(self, shards: set[int]) -> None:
        """Ask at once where another server is the authority now."""
        for job in [*self._jobs]:
            if not job.over and self._desk.shard_of(job.asked) in shards:
                job.tries = 0
                self._try(job)

    # -- one record --------------------------------------------------------------------------------

    def _load(self, ticket: int, load: Load, until_ms: int) -> None:
        found = self._own(load)
        if found is not None:
            record = found if isinstance(found, Record) else None
            mark = found if isinstance(found, Mark) else None
            self._state.said(ticket, Loaded(record, mark))
            return
        era = self._state.era

        def loaded(message: Message | None) -> None:
            record = message.record if isinstance(message, Loaded) else None
            broken = record is not None and not (record.commits and record.key == load.key)
            if isinstance(message, Loaded) and not broken:
                self._keep(message.record, message.mark, load.key, era)
                newer = self._state.held(load.key)
                if newer is not None and newer.mark is not None:
                    message = Loaded(None, newer.mark)
                self._state.said(ticket, message)
                return
            copy = self._state.shelf.get(load.key)
            if self._state.settings.accept_stale and copy is not None:
                self._state.counts["stale"] += 1
                item = copy.item
                self._state.said(ticket, Loaded(item.record, item.mark, stale=True))
                return
            self._state.said(ticket, self._unavailable(message))

        self.ask(load, until_ms, loaded)

    def _own(self, load: Load) -> Record | Mark | None:
        state = self._state
        lease = Lease(self._members.until_ms if self._members.valid else 0, state.era)
        return answer(
            state.shelf.get(load.key),
            state.shard(state.shard_of(load.key)).era,
            lease,
            now_ms=state.now.mono_ms,
            wall_ms=state.now.wall_ms,
            at_least=load.at_least,
        )

    def _keep(self, record: Record | Mark | None, mark: Mark | None, key: Key, era: int) -> None:
        if isinstance(record, Record):
            until, principal = record.origin.absolute_ms, record.origin.principal
            self._state.cache(Item(key, Stamp(0, 0), until, record, None, principal), era)
        elif mark is not None:
            until = self._state.now.wall_ms + 2 * MARK_MS
            self._state.cache(Item(key, Stamp(0, 0), until, None, mark, None), era)

    def _commit(self, ticket: int, commit: CommitDelta, until_ms: int) -> None:
        era = self._state.era

        def committed(message: Message | None) -> None:
            if isinstance(message, Committed):
                if message.applied is not None:
                    self._follow(commit.delta, message.applied, era)
                if message.weak:
                    self._state.counts["weak_answers"] += 1
                self._state.said(ticket, message)
            else:
                self._state.said(ticket, self._unavailable(message))

        self.ask(commit, until_ms, committed)

    def _follow(self, delta: Delta, applied: Applied, era: int) -> None:
        """Bring the cached copy on by what was committed, if it is what that was built on."""
        copy = self._state.shelf.get(delta.key)
        if copy is None:
            if delta.origin is not None and applied.commits[-1].token == delta.token:
                self._keep(made(delta, delta.origin), None, delta.key, era)
            return
        before = copy.item.record
        if copy.held or before is None or copy.era != era:
            return
        if delta.changes and applied.commits[-1].token != delta.token:
            return  # a retry, and others have committed since
        known = applied.commits[:-1] if delta.changes else applied.commits
        if known and known[-1] == before.commits[-1]:
            self._keep(after(before, delta, applied), None, delta.key, era)

    def _simply(
        self, ticket: int, asked: End | Admit, until_ms: int, kind: type | UnionType
    ) -> None:
        def answered(message: Message | None) -> None:
            if isinstance(message, Marked | Done | Displaced) and isinstance(message, kind):
                self._state.said(ticket, message)
            else:
                self._state.said(ticket, self._unavailable(message))

        self.ask(asked, until_ms, answered)

    def _unavailable(self, message: Message | None) -> Unavailable:
        self._state.counts["unavailable"] += 1
        if isinstance(message, Unavailable):
            return message
        return Unavailable("no authority answered in time; what was asked for may happen yet")

    # -- a principal -------------------------------------------------------------------------------

    def _held_by(self, ticket: int, request: HeldBy, until_ms: int) -> None:
        def found(search: Search | None) -> None:
            if search is None:
                self._state.said(ticket, self._unavailable(None))
                return
            now = self._state.now.wall_ms
            live = [r for r in search.records.values() if r.ends_ms > now]
            live.sort(key=lambda record: record.origin.created_ms)
            self._state.said(ticket, Records(tuple(live)))

        self._searches.begin(request.principal, until_ms, found)

    def _end_all(self, ticket: int, request: EndAll, until_ms: int) -> None:
        def ended(alive: int | None) -> None:
            if alive is None:
                self._state.said(ticket, self._unavailable(None))
            else:
                self._state.said(ticket, Ends(alive))

        SignOut(self._state, self.ask, self._searches, request, until_ms, ended).begin()

    # -- asking ------------------------------------------------------------------------------------

    def succeed(self, winner: Item, loser: Item) -> None:
        """Two ends of one record met: if somebody wanted it over, so is what it moved to."""
        end, moved = winner.mark, loser.mark
        if end is None or moved is None or moved.successor is None or not end.reason.final:
            return
        if moved.reason.final:
            return
        until = self._state.now.mono_ms + SUCCESSION_MS
        self._end_chain(moved.successor, Ending(end.reason, end.at_ms, end.token), until)

    def _end_chain(self, key: Key, ending: Ending, until_ms: int) -> None:
        def ended(message: Message | None) -> None:
            if isinstance(message, Marked):
                mark = message.mark
                if mark.successor is not None and mark.token != ending.token:
                    self._end_chain(mark.successor, ending, until_ms)

        self.ask(End(key, ending), until_ms, ended)

    def ask(self, asked: Asked, until_ms: int, on: Callable[[Message | None], None]) -> None:
        """Ask a shard's authority until it answers, or time is over (None)."""
        job = _Job(asked, until_ms, on, tries=PAGE_TRIES if isinstance(asked, EndMany) else 0)
        self._jobs.append(job)
        self._try(job)

    def _over(self, job: _Job, message: Message | None) -> None:
        if not job.over:
            job.over = True
            job.on(message)

    def _try(self, job: _Job) -> None:
        now, settings = self._state.now.mono_ms, self._state.settings
        if now >= job.until_ms:  # nobody waits for it any more, and the tick comes later
            self._over(job, None)
            return
        shard = self._desk.shard_of(job.asked)
        wait = min(settings.retry_ms << job.tries, SLOWEST_RETRY_MS)
        job.tries += 1
        job.again_ms = now + wait

        def answered(message: Message | None) -> None:
            if job.over or message is None:
                return
            if asked is not None and self._members.peers.get(asked.name) is not asked:
                return  # it was on the other side of a partition since: not our side's word
            if isinstance(message, NotMine):
                before = self._state.shard(shard).epoch
                if message.fence.shard == shard:
                    self._claims.learn(message.fence)
                job.again_ms = min(job.again_ms, self._state.now.mono_ms + settings.retry_ms // 5)
                job.tries = 0
                if self._state.shard(shard).epoch > before and job.at_once:
                    job.at_once -= 1
                    self._try(job)
                return
            self._over(job, message)

        known = self._state.shard(shard)
        here = self._members.present(known.holder, known.boot)
        asked = self._members.peers.get(known.holder) if here else None
        if shard in self._claims.roles:
            self._desk.serve(job.asked, answered)
            return
        if asked is not None:
            self._state.ask(known.holder, job.asked, answered, within_ms=job.until_ms - now)
        else:
            job.again_ms = now + settings.retry_ms // 5
