"""The life of a session over one store: opened, committed, moved, ended.

Every step towards the store is one of the protocol's calls, made in an order that stays right
whatever races with it and wherever the process dies (DESIGN S4 to S6). No clock, no randomness and
no event loop: they are passed in, so a test can run every interleaving of two requests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from samesession._bridge import ready
from samesession.counts import Counts
from samesession.errors import (
    NotSavedError,
    ResponseStartedError,
    RetryableError,
    SessionTooLargeError,
    StoreCorruptError,
    StoreUnavailableError,
    TooManySessionsError,
    ValueNotStorableError,
)
from samesession.record import (
    BEYOND,
    MARK_MS,
    TAG_BYTES,
    TOKEN_BYTES,
    Absent,
    Applied,
    Delta,
    Ended,
    Ending,
    Key,
    Lost,
    Mark,
    Origin,
    Outcome,
    Reason,
    Record,
    Version,
    after,
    alone,
    made,
)
from samesession.session import (
    Adopted,
    Changes,
    Client,
    Done,
    Life,
    Session,
    builds_on,
    known_of,
)
from samesession.settings import Limits, Quota
from samesession.store import Store, end_with_successors
from samesession.token import ID_BYTES, Signer, Token, id_from, key_of

TOUCH_FRACTION = 20
"""One write an idle/20; costs 5 % of idle precision (DESIGN S10)."""

OVERSIZE = 16
"""A record that is so many times over the limit was not written by us, and is not believed."""

LATE_MS = 25_000
"""A request older than this may meet a record whose mark is gone: 5 s less than `MARK_MS`."""

_request: ContextVar[Life | None] = ContextVar("samesession_request", default=None)


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


@dataclass(frozen=True, slots=True)
class Held:
    """One entry of a principal's list of sessions.

    Attributes:
        handle: what `Sessions.end` takes; useless as a cookie.
        last_seen: exact to a twentieth of the idle limit.
        user_agent: of the browser that signed in, at most 128 characters.
        address: the client's network (/24 or /48), not its address.
    """

    handle: Key
    created_at: datetime
    last_seen: datetime
    expires_at: datetime
    user_agent: str
    address: str


class Lifecycle:
    """The verbs, over one store."""

    def __init__(self, store: Store, tools: Tools) -> None:
        """Compose."""
        self.store = store
        self._tools = tools
        self._signer = tools.signer
        self._counts = tools.counts
        self._clock = tools.clock
        self._login_keys = tools.login_keys
        self._size_limit = tools.limits.size_bytes
        self._step_ms = tools.limits.idle_ms // TOUCH_FRACTION or 1
        self._fresh_ms = tools.limits.idle_ms - self._step_ms

    # -- open ------------------------------------------------------------------------------------

    async def open(
        self,
        value: bytes | None,
        client: Callable[[], Client] = Client,
        kind: type[Session] = Session,
    ) -> Session:
        """See `Sessions.open`; ``kind`` is how a framework calls it."""
        now = self._clock()
        life = Life(now, self._size_limit, client, self, self._login_keys)
        _request.set(life)
        if value is None:
            return kind(life)
        token = self._signer.loads(value, now_ms=now)
        if not isinstance(token, Token):
            self._counts.add(token.value)
            return kind(life)
        life.token, seen = token, token.version
        life.seen = seen.number
        try:
            found = await self.store.load(token.key, at_least=seen)
        except StoreUnavailableError as failure:
            self._counts.add("unavailable")
            life.failure = failure
        except StoreCorruptError:
            self._counts.add("corrupt")
        else:
            if isinstance(found, Record):
                # A record that was decoded before was looked at before.
                if not (found.__dict__ or self._is_ours(found)):
                    pass
                elif found.idle_until_ms <= now or found.origin.absolute_ms <= now:
                    self._counts.add("lapsed")
                else:
                    life.record, newest = found, found.commits[-1]
                    if newest.number != seen.number or not newest.token.startswith(seen.tag):
                        self._note_difference(life, seen, found)
            elif isinstance(found, Mark) and now - found.at_ms < MARK_MS:
                self._counts.add("quiet")
                life.quiet = True
            else:  # unknown, or a mark that has done its time and is not swept yet
                self._counts.add("absent")
        return kind(life)

    def fresh(self, session: Session) -> Awaitable[None]:
        """See `Session.fresh`."""
        life = session._life
        renewing = self._renew(session, life, life.failure, failed=life.failed)
        if not self.store.suspends:
            ready(renewing)
            return Done()
        # Whoever forgets to await is told: by this error at the next use, and by 503 at the end.
        life.failure, life.failed = RetryableError("write: await session.fresh()"), True
        session._used = False
        return renewing

    async def _renew(
        self, session: Session, life: Life, failure: RetryableError | None, *, failed: bool
    ) -> None:
        life.failure, life.failed = None, False
        if life.token is None or life.leaving is not None:  # nothing is stored that it could miss
            life.failure, life.failed = failure, failed
            session.mark_accessed()
            return
        now = self._clock()
        found: Record | Mark | None = None
        try:
            found = await self.store.load(life.token.key, at_least=BEYOND)
        except StoreUnavailableError as unavailable:
            self._counts.add("unavailable")
            life.failure, life.failed = unavailable, True
            raise
        except StoreCorruptError:
            self._counts.add("corrupt")
        session.mark_accessed()
        record = found if isinstance(found, Record) and self._is_ours(found) else None
        if record is not None and not self._is_live(record, now):
            record = None
        if record is not None:
            self._note_difference(life, (life.record or life.token).version, record)
        life.quiet = isinstance(found, Mark) and now - found.at_ms < MARK_MS
        session.renew(record)

    def _is_live(self, found: Record, now: int) -> bool:
        if found.idle_until_ms <= now or found.origin.absolute_ms <= now:
            self._counts.add("lapsed")
            return False
        return True

    def _is_ours(self, found: Record) -> bool:
        values = found.values
        if sum(map(len, values.values())) > OVERSIZE * self._size_limit:
            self._counts.add("corrupt")
            return False
        unreadable = len(values) - len(known_of(found).contents)
        if unreadable:
            self._counts.add("corrupt", unreadable)
        return True

    def _note_difference(self, life: Life, seen: Version, found: Record) -> None:
        """A record is not at the version that the browser's cookie names."""
        if not found.covers(seen):
            self._counts.add("lost")
        elif self.store.lags and found.version.number > seen.number:
            life.seen = found.version.number
            life.cookie, life.catches_up = self._cookie(life, found), True

    # -- commit ----------------------------------------------------------------------------------

    def finish(self, session: Session, *, failed: bool = False) -> Coroutine[Any, Any, None]:
        """See `Sessions.finish`."""
        life = session._life
        odd = failed or life.failure or life.told or life.adopted or life.catches_up
        return self.commit(session) if not odd and session._used else self._finish(session, failed)

    async def _finish(self, session: Session, failed: bool) -> None:
        life = session._life
        if failed:
            if life.leaving is Reason.LOGOUT:
                await self._logout(life)
                life.leaving = None
            return
        if life.failure is not None:
            if life.failed:
                raise life.failure.with_traceback(None)
            return
        if session._used:
            told = life.told
            try:
                await self.commit(session)
            except (SessionTooLargeError, ValueNotStorableError):
                if not told:
                    raise
                # Said once: the error page that follows is sent, and nothing is kept.
                await self._finish(session, failed=True)
            if life.adopted is not None:
                await self.note_the_move(life.adopted)
            if life.catches_up and life.cookie:  # a logout deletes it whoever went on
                await self._ask_once_more(life)

    async def note_the_move(self, adopted: Adopted) -> None:
        """Remember that an old session was moved and used; so it does not come back."""
        if adopted.note is not None:
            await self._commit(adopted.note)

    async def _ask_once_more(self, life: Life) -> None:
        """A cookie that only says what was read shall not replace that of a login meanwhile."""
        life.catches_up, record = False, life.record
        try:
            found = record and await self.store.load(record.key, at_least=record.version)
        except (StoreCorruptError, StoreUnavailableError):
            found = None
        if not isinstance(found, Record):
            life.cookie = None

    def only_read(self, session: Session) -> bool:
        """Whether there is nothing to finish: most requests, so it costs no coroutine."""
        life = session._life
        if session._written or life.failure is not None:
            return False
        if not session._used:
            return True
        record = life.record
        if record is None or life.leaving is not None or life.catches_up:
            return False
        if record.idle_until_ms <= life.arrived_ms + self._fresh_ms and self._touch(
            record, life.arrived_ms
        ):
            return False
        return session.unchanged()

    def _touch(self, record: Record, now: int) -> int:
        """The idle deadline to ask for, or 0 when it would move by less than a step.

        On steps of idle/20 since the record was made: requests of the same moment ask for the
        same deadline, so the first touch serves a whole burst of reads.
        """
        if record.idle_until_ms > now + self._fresh_ms:
            return 0
        origin, exact = record.origin, now + self._fresh_ms + self._step_ms
        idle_until = min(exact - (exact - origin.created_ms) % self._step_ms, origin.absolute_ms)
        return idle_until if idle_until > record.idle_until_ms else 0

    def commit(self, session: Session) -> Coroutine[Any, Any, None]:
        """See `Sessions.commit`."""
        life = session._life
        if life.record is None or life.leaving or life.login_keys or not session._used:
            return self._commit_otherwise(session, life)
        return self._change(session, life, life.record)

    async def _commit_otherwise(self, session: Session, life: Life) -> None:
        session.mark_accessed()
        if life.login_keys:
            session.follow()
        try:
            if life.leaving is not None:
                await self._leave(session, life, life.leaving)
            elif life.record is None:
                await self._make(session, life)
            else:
                await self._change(session, life, life.record)
        except TooManySessionsError:
            self._counts.add("too_many")
            session.restore()
            raise
        except RetryableError as failure:
            self._fails(life, failure)
            raise

    def _fails(self, life: Life, failure: RetryableError) -> None:
        """Nobody knows what was kept, so 503 is the answer whatever the handler makes of it."""
        if life.failure is failure:
            return
        if isinstance(failure, StoreUnavailableError):
            self._counts.add("unavailable")
        life.failure, life.failed, life.cookie = failure, True, None

    async def _change(self, session: Session, life: Life, record: Record) -> None:
        now = self._clock()
        changes, idle_until = session.take(), 0
        if record.idle_until_ms <= now + self._fresh_ms:
            idle_until = self._touch(record, now)
        sets, removes = changes.sets, changes.removes
        if not (sets or removes):
            if not idle_until:
                return
        elif idle_until:
            idle_until = min(now + self._tools.limits.idle_ms, record.origin.absolute_ms)
        newest = record.commits[-1]
        delta = Delta(
            key=record.key,
            token=self._tools.random(TOKEN_BYTES),
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
            self._fails(life, failure)
            raise
        applied: Applied | None
        if isinstance(outcome, Applied):
            applied = outcome
        else:
            applied = await self._insist(session, life, delta, changes, outcome)
            if applied is None:
                return
        if not (sets or removes):
            self._counts.add("touched")
            life.record = after(record, delta, applied)
            return
        self._counts.add("committed")
        stored = applied.record
        if not alone(record, delta, applied):
            # What others wrote meanwhile is not in this request's session.
            self._counts.add("merged")
            stored = after(record, delta, applied)
        elif stored is None:
            stored = after(record, delta, applied)
        else:
            builds_on(stored, record, changes)
        self._keep(session, life, changes, stored)

    async def _insist(
        self, session: Session, life: Life, delta: Delta, changes: Changes, outcome: Outcome
    ) -> Applied | None:
        """Ask once more where the store has gone back; None when the change is refused."""
        try:
            if isinstance(outcome, Lost):
                # Between our load and this commit; what is there is gone on with.
                self._counts.add("lost")
                outcome = await self._commit(replace(delta, at_least=None))
            if isinstance(outcome, Applied):
                return outcome
            self._refused(session, life, delta, changes, outcome)
        except RetryableError as failure:
            self._fails(life, failure)
            raise
        return None

    def _refused(
        self, session: Session, life: Life, delta: Delta, changes: Changes, outcome: Outcome
    ) -> None:
        # Nobody is signed in any more: a second commit of this request must not sign in anew.
        life.record, life.principal, life.quiet = None, None, True
        if isinstance(outcome, Ended):
            mark = outcome.mark
            if mark.token == delta.token:  # this commit took the last key away
                self._counts.add("ended")
                life.cookie, life.quiet = (None if life.started else ""), False
                session.saw(changes)
                return
            if not (mark.reason.moved or mark.reason is Reason.EMPTIED):
                self._counts.add("refused")
                session.saw(changes)
                return
        if changes:
            raise self._not_saved()

    def _keep(self, session: Session, life: Life, changes: Changes, record: Record) -> None:
        life.record = record
        if life.catches_up:
            life.catches_up = False
        life.seen = max(life.seen, record.commits[-1].number)
        session.saw(changes, record.values)
        if not life.started:
            life.cookie = self._cookie(life, record)

    async def _commit(self, delta: Delta) -> Outcome:
        try:
            return await self.store.commit(delta)
        except StoreCorruptError:
            return self._unreadable()

    def _unreadable(self) -> Absent:
        """A record that became unreadable since it was loaded is no record."""
        self._counts.add("corrupt")
        return Absent()

    # -- make ------------------------------------------------------------------------------------

    async def _make(self, session: Session, life: Life) -> None:
        """Store a session for the first time, if there is anything to store."""
        changes = session.changes()
        signs_in = life.principal is not None
        if not (changes or signs_in or life.keep_empty):
            return
        now = self._clock()
        absent_and_late = life.token is not None and now - life.arrived_ms > LATE_MS
        if (life.quiet or absent_and_late) and not signs_in:
            raise self._not_saved()
        if life.started:
            raise ResponseStartedError(
                "a new session needs a cookie, and the response has begun; "
                "write to the session before the first byte"
            )
        session._written = False  # as `take` says
        origin = self._origin(life, now)
        id_, record = await self._create(origin, changes.sets, now, floor=life.seen)
        if record is None:
            raise self._not_saved()
        life.token = Token(id_, record.version, origin.absolute_ms, record.key)
        life.quiet, life.carries = False, True
        self._keep(session, life, changes, record)

    def _origin(self, life: Life, now: int) -> Origin:
        absolute = now + self._tools.limits.lifetime_ms
        if life.principal is None:
            return Origin(now, absolute)
        client = life.client()
        return Origin(now, absolute, life.principal, now, client.user_agent, client.address)

    async def _create(
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
            id_ = id_from(self._tools.random(ID_BYTES))
        key = key_of(id_)
        if origin.principal is not None:
            await self._admit(origin, origin.principal, key, old)
        delta = Delta(
            key=key,
            token=self._tools.random(TOKEN_BYTES),
            now_ms=now,
            idle_until_ms=min(now + self._tools.limits.idle_ms, origin.absolute_ms),
            sets=values,
            origin=origin,
            floor=floor,
        )
        outcome = await self._commit(delta)
        if not isinstance(outcome, Applied):
            if isinstance(outcome, Ended) and outcome.mark.reason is Reason.DISPLACED:
                raise self._too_many(self._tools.limits.quota)
            return id_, None  # a sign-out everywhere met it in the index, and marked it
        self._counts.add("created")
        return id_, made(delta, origin)

    async def _admit(self, origin: Origin, principal: str, key: Key, old: Record | None) -> None:
        quota, until_ms = self._tools.limits.quota, origin.absolute_ms
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
            raise self._too_many(quota)
        self._counts.add("displaced", len(gone))

    # -- leave -----------------------------------------------------------------------------------

    async def _leave(self, session: Session, life: Life, reason: Reason) -> None:
        record = life.record
        if reason is Reason.LOGOUT:
            await self._logout(life)
        elif record is not None:
            await self._move(session, life, record, reason)
            return
        life.leaving, life.carries = None, True
        await self._make(session, life)

    async def _logout(self, life: Life) -> None:
        """End the record, and what a login or rotation made of it a moment ago."""
        record = life.record
        if life.adopted is not None:
            await self.note_the_move(life.adopted)
        if life.token is None or not (record is not None or life.quiet):
            if life.adopted is not None and not life.started:
                life.cookie = ""  # the old cookie that came goes with it
            return
        ending = self._ending(Reason.LOGOUT, life)
        mark = await end_with_successors(self.store, life.token.key, ending)
        if record is not None and record.origin.principal is not None:
            await self.store.dismiss(record.origin.principal, record.key)
        life.record, life.token = None, None
        if mark.token == ending.token:
            # Only the response of the request that ended it clears the cookie: a late one would
            # delete a newer login's.
            self._counts.add("ended")
            life.cookie = None if life.started else ""
        else:
            life.quiet = True

    async def _move(self, session: Session, life: Life, old: Record, reason: Reason) -> None:
        """Go on in a new record: index, create, end the old one, carry over what raced."""
        changes = session.take()
        now = self._clock()
        login = reason is Reason.LOGIN
        origin = self._origin(life, now) if login else old.origin
        kept = session._saved if life.carries else {}
        values = {k: v for k, v in kept.items() if k not in changes.removes}
        values.update(changes.sets)
        try:
            id_, new = await self._create(origin, values, now, floor=life.seen, old=old)
        except TooManySessionsError:
            if login:
                raise
            # The record was ended meanwhile, else its rotation would have had its place.
            self._give_up(session, life, changes, must_say=bool(changes))
            return
        if new is None:
            await self._forget(origin, key_of(id_))
            self._give_up(session, life, changes, must_say=login)
            return
        token = self._tools.random(TOKEN_BYTES)
        mark = await self.store.end(old.key, Ending(reason, now, token, new.key))
        if not _may_go_on(mark, new, login):
            await end_with_successors(self.store, new.key, self._ending(_why(mark), life))
            await self._forget(origin, new.key)
            elsewhere = mark.reason.moved and bool(changes)
            self._give_up(session, life, changes, must_say=login or elsewhere)
            return
        if life.carries and mark.successor == new.key and mark.final is not None:
            moved = await self._carry(new, kept, mark.final.values, changes)
            if moved is None:
                self._give_up(session, life, changes, must_say=login)
                return
            new = moved
        if old.origin.principal is not None:
            await self.store.dismiss(old.origin.principal, old.key)
        self._counts.add("moved")
        life.token = Token(id_, new.version, origin.absolute_ms, new.key)
        life.leaving, life.carries, life.quiet = None, True, False
        self._keep(session, life, changes, new)

    async def _carry(
        self,
        new: Record,
        known: Mapping[str, bytes],
        final: Mapping[str, bytes],
        changes: Changes,
    ) -> Record | None:
        """Bring over what others committed to the old record while the new one was made."""
        ours = changes.sets.keys() | set(changes.removes)
        late = {k: v for k, v in final.items() if known.get(k) != v and k not in ours}
        gone = tuple(k for k in known if k not in final and k not in ours)
        if not (late or gone):
            return new
        self._counts.add("merged")
        delta = Delta(
            key=new.key,
            token=self._tools.random(TOKEN_BYTES),
            now_ms=self._clock(),
            sets=late,
            removes=gone,
            keep_empty=True,
        )
        outcome = await self._commit(delta)
        return after(new, delta, outcome) if isinstance(outcome, Applied) else None

    def _give_up(self, session: Session, life: Life, changes: Changes, *, must_say: bool) -> None:
        """The old record was ended by somebody else: be quiet, or say that something was lost."""
        life.record, life.principal, life.leaving, life.quiet = None, None, None, True
        if must_say:
            raise self._not_saved()
        self._counts.add("refused")
        session.saw(changes)

    async def _forget(self, origin: Origin, key: Key) -> None:
        if origin.principal is not None:
            await self.store.dismiss(origin.principal, key)

    @staticmethod
    def _too_many(quota: Quota | None) -> TooManySessionsError:
        most = 0 if quota is None else quota.most
        return TooManySessionsError(
            f"signed in {most} times already, which is the most; sign out elsewhere and try again"
        )

    def _not_saved(self) -> NotSavedError:
        self._counts.add("not_saved")
        return NotSavedError("the session went on elsewhere meanwhile; this change was not kept")

    # -- administration ----------------------------------------------------------------------------

    async def held_by(self, principal: str) -> list[Held]:
        """See `Sessions.held_by`."""
        now = self._clock()
        return [
            Held(
                handle=record.key,
                created_at=_datetime(record.origin.created_ms),
                last_seen=_datetime(record.seen_ms),
                expires_at=_datetime(record.ends_ms),
                user_agent=record.origin.user_agent,
                address=record.origin.address,
            )
            for record in await self.store.held_by(principal)
            if record.ends_ms > now
        ]

    async def end(self, handle: str) -> bool:
        """See `Sessions.end`."""
        ending = self._ending(Reason.REVOKED, _request.get())
        mark = await end_with_successors(self.store, Key(handle), ending)
        ended = mark.token == ending.token
        if ended:
            self._counts.add("ended")
        return ended

    async def end_all(self, principal: str, *, keep: Session | None = None) -> int:
        """See `Sessions.end_all`."""
        kept = None if keep is None else keep.handle
        ending = self._ending(Reason.REVOKED, _request.get())
        ended = await self.store.end_all(principal, ending, keep=kept)
        self._counts.add("ended", ended)
        return ended

    def uncommitted(self, session: Session) -> bool:
        """Whether something changed since the last commit; after the response began, a fault."""
        life = session._life
        if life.leaving is not None:
            return not life.told
        if not (session._written or session._lent) or life.told:
            return False
        return bool(session.changes())

    async def ended(self, session: Session) -> bool:
        """Whether a loaded session is over by now; asks the store (for websockets)."""
        record = session._life.record
        if record is None:
            return False
        found = await self.store.load(record.key, at_least=record.version)
        return not isinstance(found, Record) or found.ends_ms <= self._clock()

    def _ending(self, reason: Reason, life: Life | None) -> Ending:
        token = self._tools.random(TOKEN_BYTES) if life is None else self._token_of(life)
        return Ending(reason, self._clock(), token)

    def _token_of(self, life: Life) -> bytes:
        """One token for whatever a request ends for good, so that it knows its own marks again."""
        if not life.ending_token:
            life.ending_token = self._tools.random(TOKEN_BYTES)
        return life.ending_token

    def _cookie(self, life: Life, record: Record) -> str:
        token, newest = life.token, record.commits[-1]
        assert token is not None
        if newest.number < life.seen:  # a proven loss: the cookie keeps the number it has seen
            version = token.version
        else:
            version = Version(newest.number, newest.token[:TAG_BYTES])
        return self._signer.dumps(Token(token.id, version, record.origin.absolute_ms, record.key))


def _may_go_on(mark: Mark, new: Record, login: bool) -> bool:
    """Whether a login or rotation stands, after what it found when it ended the old record."""
    if mark.successor == new.key:
        # A rotation of a record that had gone is no rotation; a login needs no old record.
        return login or mark.final is not None
    # Ended by somebody else: a rotation is over; a login is, if they wanted the session over.
    return login and not mark.reason.final


def _why(mark: Mark) -> Reason:
    return mark.reason if mark.reason.final else Reason.EXPIRED


def _datetime(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
