"""The steps towards the store that keep a session, and the cookie that says what was kept.

Each is one of the protocol's calls, made in an order that stays right whatever races with it and
wherever the process dies (DESIGN S4 to S6). No clock, no randomness and no event loop: they are
passed in, so a test can run every interleaving of two requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from samesession.contents import Changes, Contents
from samesession.counts import Counts
from samesession.errors import (
    NotSavedError,
    ResponseStartedError,
    RetryableError,
    StoreCorruptError,
    StoreUnavailableError,
    TooManySessionsError,
)
from samesession.known import builds_on
from samesession.life import Life
from samesession.record import (
    TAG_BYTES,
    TOKEN_BYTES,
    Absent,
    Applied,
    Delta,
    Ended,
    Ending,
    Key,
    Lost,
    Origin,
    Outcome,
    Reason,
    Record,
    Version,
    after,
    alone,
    made,
    with_changes,
)
from samesession.settings import Limits, Quota
from samesession.store import Exchanging, Store
from samesession.token import ID_BYTES, Signer, Token, id_from, key_of

TOUCH_FRACTION = 20
"""One write an idle/20; costs 5 % of idle precision (DESIGN S10)."""

LATE_MS = 25_000
"""A request older than this may meet a record whose mark is gone: 5 s less than `MARK_MS`."""


class Tools(Struct, frozen=True):
    """What a life needs beside a store.

    Attributes:
        clock: milliseconds since the epoch.
        random: that many unpredictable bytes (`samesession._random`).
        login_keys: see `Life`.
    """

    signer: Signer
    limits: Limits
    counts: Counts
    clock: Callable[[], int]
    random: Callable[[int], bytes]
    login_keys: tuple[str, ...] = ()


class Commits:
    """What a request asks of one store, to make a session and to change it.

    Attributes:
        fresh_ms: an idle deadline further away than this is left alone.
    """

    def __init__(self, store: Store, tools: Tools) -> None:
        """Compose."""
        self.store = store
        self._exchange = store.exchange if isinstance(store, Exchanging) else None
        self.signer = tools.signer
        self.limits = tools.limits
        self.counts = tools.counts
        self.clock = tools.clock
        self.random = tools.random
        self._step_ms = tools.limits.idle_ms // TOUCH_FRACTION or 1
        self.fresh_ms = tools.limits.idle_ms - self._step_ms

    def touch(self, record: Record, now: int) -> int:
        """The idle deadline to ask for, or 0 when it would move by less than a step.

        On steps of idle/20 since the record was made: requests of the same moment ask for the
        same deadline, so the first touch serves a whole burst of reads.
        """
        if record.idle_until_ms > now + self.fresh_ms:
            return 0
        origin, exact = record.origin, now + self.fresh_ms + self._step_ms
        idle_until = min(exact - (exact - origin.created_ms) % self._step_ms, origin.absolute_ms)
        return idle_until if idle_until > record.idle_until_ms else 0

    async def change(self, session: Contents, life: Life, record: Record) -> None:
        """Commit what changed, or move the idle deadline when that is due."""
        now = self.clock()
        changes, fresh = session.take(), record.idle_until_ms > now + self.fresh_ms
        idle_until = 0 if fresh else self.touch(record, now)
        sets, removes = changes.sets, changes.removes
        if not (sets or removes):
            if not idle_until:
                return
        elif idle_until:
            idle_until = min(now + self.limits.idle_ms, record.origin.absolute_ms)
        newest, token = record.commits[-1], self.random(TOKEN_BYTES)
        if fresh and self._exchanged(session, life, record, changes, token, now):
            return
        delta = Delta(
            key=record.key,
            token=token,
            now_ms=now,
            idle_until_ms=idle_until,
            sets=sets,
            removes=removes,
            at_least=Version(newest.number, newest.token[:TAG_BYTES]),
            floor=life.seen,
            keep_empty=life.keep_empty or record.origin.principal is not None,
        )
        try:
            outcome = await self.store.commit(delta)
        except StoreCorruptError:
            outcome = self._unreadable()
        except RetryableError as failure:
            self.fails(life, failure)
            raise
        applied: Applied | None
        if isinstance(outcome, Applied):
            applied = outcome
        else:
            applied = await self._insist(session, life, delta, changes, outcome)
            if applied is None:
                return
        if not (sets or removes):
            self.counts.add("touched")
            life.record = after(record, delta, applied)
            return
        self.counts.add("committed")
        stored = applied.record
        if not alone(record, delta, applied):
            # What others wrote meanwhile is not in this request's session.
            self.counts.add("merged")
            stored = None
        elif stored is not None:
            builds_on(stored, record, changes.atoms, changes.weight)
        self.keep(session, life, changes, stored or after(record, delta, applied))

    def _exchanged(
        self,
        session: Contents,
        life: Life,
        record: Record,
        changes: Changes,
        token: bytes,
        now: int,
    ) -> bool:
        """Change a record the short way, where the store has one and nobody came between."""
        exchange = self._exchange
        if exchange is None or record.origin.absolute_ms <= now:
            return False
        stored = with_changes(record, changes.sets, changes.removes, token, life.seen)
        if not (stored.values and exchange(record, stored, now)):
            return False
        self.counts.add("committed")
        builds_on(stored, record, changes.atoms, changes.weight)
        self.keep(session, life, changes, stored)
        return True

    async def _insist(
        self, session: Contents, life: Life, delta: Delta, changes: Changes, outcome: Outcome
    ) -> Applied | None:
        """Ask once more where the store has gone back; None when the change is refused."""
        try:
            if isinstance(outcome, Lost):
                # Between our load and this commit; what is there is gone on with.
                self.counts.add("lost")
                outcome = await self.send(replace(delta, at_least=None))
            if isinstance(outcome, Applied):
                return outcome
            self._refused(session, life, delta, changes, outcome)
        except RetryableError as failure:
            self.fails(life, failure)
            raise
        return None

    def _refused(
        self, session: Contents, life: Life, delta: Delta, changes: Changes, outcome: Outcome
    ) -> None:
        # Nobody is signed in any more: a second commit of this request must not sign in anew.
        life.record, life.principal, life.quiet = None, None, True
        if isinstance(outcome, Ended):
            mark = outcome.mark
            if mark.token == delta.token:  # this commit took the last key away
                self.counts.add("ended")
                life.cookie, life.quiet = (None if life.started else ""), False
                session.saw(changes)
                return
            if not (mark.reason.moved or mark.reason is Reason.EMPTIED):
                self.counts.add("refused")
                session.saw(changes)
                return
            if mark.final is not None and mark.final.has(delta.token):
                # Sent again, and answered after the session went on elsewhere with this change.
                self.counts.add("committed")
                session.saw(changes)
                return
        if changes:
            raise self.not_saved()

    async def make(self, session: Contents, life: Life) -> None:
        """Store a session for the first time, if there is anything to store."""
        changes = session.changes()
        signs_in = life.principal is not None
        if not (changes or signs_in or life.keep_empty):
            return
        now = self.clock()
        absent_and_late = life.token is not None and now - life.arrived_ms > LATE_MS
        if (life.quiet or absent_and_late) and not signs_in:
            raise self.not_saved()
        if life.started:
            raise ResponseStartedError(
                "a new session needs a cookie, and the response has begun; "
                "write to the session before the first byte"
            )
        session._written = False  # as `take` says
        origin = self.origin(life, now)
        drawn, life.drawn = life.drawn or None, ""
        id_, record = await self.create(origin, changes.sets, now, floor=life.seen, id_=drawn)
        if record is None:
            raise self.not_saved()
        life.token = Token(id_, record.version, origin.absolute_ms, record.key)
        life.quiet, life.carries = False, True
        self.keep(session, life, changes, record)

    def draw(self, life: Life) -> Key:
        """The handle of a session; of a new one that which it will have, if it is ever stored."""
        if life.record is not None:
            return life.record.key
        life.drawn = life.drawn or id_from(self.random(ID_BYTES))
        return key_of(life.drawn)

    def origin(self, life: Life, now: int) -> Origin:
        """What is fixed of a record that is made now."""
        absolute = now + self.limits.lifetime_ms
        if life.principal is None:
            return Origin(now, absolute)
        client = life.client()
        return Origin(now, absolute, life.principal, now, client.user_agent, client.address)

    async def create(
        self,
        origin: Origin,
        values: Mapping[str, bytes],
        now: int,
        floor: int,
        id_: str | None = None,
        old: Record | None = None,
    ) -> tuple[str, Record | None]:
        """Enter the index, then insert; the other way round a sign-out everywhere could miss it."""
        if id_ is None:
            id_ = id_from(self.random(ID_BYTES))
        key = key_of(id_)
        if origin.principal is not None:
            await self._admit(origin, origin.principal, key, old)
        delta = Delta(
            key=key,
            token=self.random(TOKEN_BYTES),
            now_ms=now,
            idle_until_ms=min(now + self.limits.idle_ms, origin.absolute_ms),
            sets=values,
            origin=origin,
            floor=floor,
        )
        outcome = await self.send(delta)
        if not isinstance(outcome, Applied):
            if isinstance(outcome, Ended) and outcome.mark.reason is Reason.DISPLACED:
                raise _overtaken(self.limits.quota)
            return id_, None  # a sign-out everywhere met it in the index, and marked it
        self.counts.add("created")
        return id_, made(delta, origin)

    async def _admit(self, origin: Origin, principal: str, key: Key, old: Record | None) -> None:
        quota, until_ms = self.limits.quota, origin.absolute_ms
        if quota is None:
            await self.store.admit(principal, key, until_ms)
            return
        replaces = None
        if old is not None and old.origin.principal == principal:
            replaces = old.key
            if old.origin is origin:
                # A rotation has its record's place, or none: it displaces nobody.
                quota = Quota(quota.most, evicts=False)
        gone = await self.store.admit(principal, key, until_ms, replaces=replaces, quota=quota)
        if gone is None:
            raise _too_many(quota)
        self.counts.add("displaced", len(gone))

    def keep(self, session: Contents, life: Life, changes: Changes, record: Record) -> None:
        """Note what was committed, and the cookie that says so."""
        life.record = record
        if life.catches_up:
            life.catches_up = False
        life.seen = max(life.seen, record.commits[-1].number)
        session.saw(changes, record.values)
        if not life.started:
            life.cookie = self.cookie(life, record)

    def cookie(self, life: Life, record: Record) -> str:
        """The cookie of a record; after a proven loss it keeps the number that was seen."""
        token, newest = life.token, record.commits[-1]
        assert token is not None
        if newest.number < life.seen:
            version = token.version
        else:
            version = Version(newest.number, newest.token[:TAG_BYTES])
        return self.signer.dumps(Token(token.id, version, record.origin.absolute_ms, record.key))

    async def send(self, delta: Delta) -> Outcome:
        """Commit as the store does; a record that became unreadable is no record."""
        try:
            return await self.store.commit(delta)
        except StoreCorruptError:
            return self._unreadable()

    def _unreadable(self) -> Absent:
        self.counts.add("corrupt")
        return Absent()

    def ending(self, reason: Reason, life: Life | None) -> Ending:
        """An end that a request asks for, or nobody's request."""
        token = self.random(TOKEN_BYTES) if life is None else self._token_of(life)
        return Ending(reason, self.clock(), token)

    def _token_of(self, life: Life) -> bytes:
        """One token for whatever a request ends for good, so that it knows its own marks again."""
        if not life.ending_token:
            life.ending_token = self.random(TOKEN_BYTES)
        return life.ending_token

    def fails(self, life: Life, failure: RetryableError) -> None:
        """Nobody knows what was kept, so 503 is the answer whatever the handler makes of it."""
        if life.failure is failure:
            return
        if isinstance(failure, StoreUnavailableError):
            self.counts.add("unavailable")
        life.failure, life.failed, life.cookie = failure, True, None

    def not_saved(self) -> NotSavedError:
        """What a write is told whose session went on under another id."""
        self.counts.add("not_saved")
        return NotSavedError("the session went on elsewhere meanwhile; this change was not kept")


def _too_many(quota: Quota) -> TooManySessionsError:
    return TooManySessionsError(
        f"signed in {quota.most} times already, which is the most; sign out elsewhere and try again"
    )


def _overtaken(quota: Quota | None) -> TooManySessionsError:
    """Newer logins took its place before its record was made: nobody needs to sign out."""
    most = "some" if quota is None else quota.most
    return TooManySessionsError(
        f"overtaken by newer sign-ins, of which {most} may stay; sign in again to stay yourself"
    )
