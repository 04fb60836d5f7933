"""The life of a session over one store: opened, committed, moved, ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from samesession._bridge import ready
from samesession.commits import Commits, Tools
from samesession.errors import (
    RetryableError,
    SessionTooLargeError,
    StoreCorruptError,
    StoreUnavailableError,
    TooManySessionsError,
    ValueNotStorableError,
)
from samesession.known import known_of
from samesession.life import Client, Done, Life
from samesession.moves import Moves
from samesession.record import BEYOND, MARK_MS, Key, Mark, Reason, Record, Version
from samesession.session import Session
from samesession.store import Store, end_with_successors
from samesession.token import Token

OVERSIZE = 16
"""A record that is so many times over the limit was not written by us, and is not believed."""

_request: ContextVar[Life | None] = ContextVar("samesession_request", default=None)


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
        self.commits = Commits(store, tools)
        self.moves = Moves(self.commits)
        self.counts = tools.counts
        self._signer = tools.signer
        self._clock = tools.clock
        self._login_keys = tools.login_keys
        self._size_limit = tools.limits.size_bytes
        self._fresh_ms = self.commits.fresh_ms

    # -- open ------------------------------------------------------------------------------------

    async def open(
        self,
        value: bytes | None,
        client: Callable[[], Client] = Client,
        kind: type[Session] = Session,
    ) -> Session:
        """See `Sessions.open`; ``kind`` is how a framework calls it."""
        now = self._clock()
        life = Life(now, self._size_limit, client, self.fresh, self._login_keys)
        _request.set(life)
        if value is None:
            return kind(life)
        token = self._signer.loads(value, now_ms=now)
        if not isinstance(token, Token):
            self.counts.add(token.value)
            return kind(life)
        life.token, seen = token, token.version
        life.seen = seen.number
        try:
            found = await self.store.load(token.key, at_least=seen)
        except StoreUnavailableError as failure:
            self.counts.add("unavailable")
            life.failure = failure
        except StoreCorruptError:
            self.counts.add("corrupt")
        else:
            if isinstance(found, Record):
                # A record that was decoded before was looked at before.
                if not (found.__dict__ or self._is_ours(found)):
                    pass
                elif found.idle_until_ms <= now or found.origin.absolute_ms <= now:
                    self.counts.add("lapsed")
                else:
                    life.record, newest = found, found.commits[-1]
                    if newest.number != seen.number or not newest.token.startswith(seen.tag):
                        self._note_difference(life, seen, found)
            elif isinstance(found, Mark) and now - found.at_ms < MARK_MS:
                self.counts.add("quiet")
                life.quiet, life.ended = True, found.reason
            else:  # unknown, or a mark that has done its time and is not swept yet
                self.counts.add("absent")
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
            self.counts.add("unavailable")
            life.failure, life.failed = unavailable, True
            raise
        except StoreCorruptError:
            self.counts.add("corrupt")
        session.mark_accessed()
        record = found if isinstance(found, Record) and self._is_ours(found) else None
        if record is not None and not self.is_live(record, now):
            record = None
        if record is not None:
            self._note_difference(life, (life.record or life.token).version, record)
        mark = found if isinstance(found, Mark) and now - found.at_ms < MARK_MS else None
        life.quiet, life.ended = mark is not None, mark.reason if mark else None
        session.renew(record)

    def is_live(self, found: Record, now: int) -> bool:
        """Whether neither deadline has passed; counts when one has."""
        if found.idle_until_ms <= now or found.origin.absolute_ms <= now:
            self.counts.add("lapsed")
            return False
        return True

    def _is_ours(self, found: Record) -> bool:
        values = found.values
        if sum(map(len, values.values())) > OVERSIZE * self._size_limit:
            self.counts.add("corrupt")
            return False
        unreadable = len(values) - len(known_of(found).contents)
        if unreadable:
            self.counts.add("corrupt", unreadable)
        return True

    def _note_difference(self, life: Life, seen: Version, found: Record) -> None:
        """A record is not at the version that the browser's cookie names."""
        if not found.covers(seen):
            self.counts.add("lost")
        elif self.store.lags and found.version.number > seen.number:
            life.seen = found.version.number
            life.cookie, life.catches_up = self.commits.cookie(life, found), True

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
                await self.moves.logout(life)
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
                await self.moves.note(life.adopted)
            if life.catches_up and life.cookie:  # a logout deletes it whoever went on
                await self.ask_once_more(life)

    async def ask_once_more(self, life: Life) -> None:
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
        if record.idle_until_ms <= life.arrived_ms + self._fresh_ms and self.commits.touch(
            record, life.arrived_ms
        ):
            return False
        return session.unchanged()

    def commit(self, session: Session) -> Coroutine[Any, Any, None]:
        """See `Sessions.commit`."""
        life = session._life
        if life.record is None or life.leaving or life.login_keys or not session._used:
            return self._commit_otherwise(session, life)
        return self.commits.change(session, life, life.record)

    async def _commit_otherwise(self, session: Session, life: Life) -> None:
        session.mark_accessed()
        if life.login_keys:
            session.follow()
        try:
            if life.leaving is not None:
                await self.moves.leave(session, life, life.leaving)
            elif life.record is None:
                await self.commits.make(session, life)
            else:
                await self.commits.change(session, life, life.record)
        except TooManySessionsError:
            self.counts.add("too_many")
            session.restore()
            raise
        except RetryableError as failure:
            self.commits.fails(life, failure)
            raise

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
        ending = self.commits.ending(Reason.REVOKED, _request.get())
        mark = await end_with_successors(self.store, Key(handle), ending)
        ended = mark.token == ending.token
        if ended:
            self.counts.add("ended")
        return ended

    async def end_all(self, principal: str, *, keep: Session | None = None) -> int:
        """See `Sessions.end_all`."""
        kept = None if keep is None else keep.handle
        ending = self.commits.ending(Reason.REVOKED, _request.get())
        ended = await self.store.end_all(principal, ending, keep=kept)
        self.counts.add("ended", ended)
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


def _datetime(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
