"""Login, rotation and logout: how a session goes on in another record, or nowhere (DESIGN S6)."""

from __future__ import annotations

from collections.abc import Mapping

from samesession.commits import Commits
from samesession.contents import Changes, Contents
from samesession.errors import TooManySessionsError
from samesession.life import Adopted, Life
from samesession.record import (
    TOKEN_BYTES,
    Applied,
    Delta,
    Ending,
    Key,
    Mark,
    Origin,
    Reason,
    Record,
    after,
)
from samesession.store import end_with_successors
from samesession.token import Token, key_of


class Moves:
    """The verbs that end a record."""

    def __init__(self, commits: Commits) -> None:
        """Compose."""
        self._commits = commits
        self._store = commits.store

    async def leave(self, session: Contents, life: Life, reason: Reason) -> None:
        """Carry out what the request decided, and go on in a new record unless there is nothing."""
        record = life.record
        if reason is Reason.LOGOUT:
            await self.logout(life)
        elif record is not None:
            await self._move(session, life, record, reason)
            return
        life.leaving, life.carries = None, True
        await self._commits.make(session, life)

    async def logout(self, life: Life) -> None:
        """End the record, and what a login or rotation made of it a moment ago."""
        record = life.record
        if life.adopted is not None:
            await self.note(life.adopted)
        if life.token is None or not (record is not None or life.quiet):
            if life.adopted is not None and not life.started:
                life.cookie = ""  # the old cookie that came goes with it
            return
        ending = self._commits.ending(Reason.LOGOUT, life)
        mark = await end_with_successors(self._store, life.token.key, ending)
        if record is not None and record.origin.principal is not None:
            await self._store.dismiss(record.origin.principal, record.key)
        life.record, life.token = None, None
        if mark.token == ending.token:
            # Only the response of the request that ended it clears the cookie: a late one would
            # delete a newer login's.
            self._commits.counts.add("ended")
            life.cookie = None if life.started else ""
        else:
            life.quiet = True

    async def _move(self, session: Contents, life: Life, old: Record, reason: Reason) -> None:
        """Go on in a new record: index, create, end the old one, carry over what raced."""
        changes = session.take()
        now = self._commits.clock()
        login = reason is Reason.LOGIN
        origin = self._commits.origin(life, now) if login else old.origin
        kept = session._saved if life.carries else {}
        values = {k: v for k, v in kept.items() if k not in changes.removes}
        values.update(changes.sets)
        try:
            id_, new = await self._commits.create(origin, values, now, floor=life.seen, old=old)
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
        token = self._commits.random(TOKEN_BYTES)
        mark = await self._store.end(old.key, Ending(reason, now, token, new.key))
        if not _may_go_on(mark, new, login):
            await end_with_successors(self._store, new.key, self._commits.ending(_why(mark), life))
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
            await self._store.dismiss(old.origin.principal, old.key)
        self._commits.counts.add("moved")
        life.token = Token(id_, new.version, origin.absolute_ms, new.key)
        life.leaving, life.carries, life.quiet = None, True, False
        self._commits.keep(session, life, changes, new)

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
        self._commits.counts.add("merged")
        delta = Delta(
            key=new.key,
            token=self._commits.random(TOKEN_BYTES),
            now_ms=self._commits.clock(),
            sets=late,
            removes=gone,
            keep_empty=True,
        )
        outcome = await self._commits.send(delta)
        return after(new, delta, outcome) if isinstance(outcome, Applied) else None

    def _give_up(self, session: Contents, life: Life, changes: Changes, *, must_say: bool) -> None:
        """The old record was ended by somebody else: be quiet, or say that something was lost."""
        life.record, life.principal, life.leaving, life.quiet = None, None, None, True
        if must_say:
            raise self._commits.not_saved()
        self._commits.counts.add("refused")
        session.saw(changes)

    async def _forget(self, origin: Origin, key: Key) -> None:
        if origin.principal is not None:
            await self._store.dismiss(origin.principal, key)

    async def note(self, adopted: Adopted) -> None:
        """Remember that an old session was moved and used; so it does not come back."""
        if adopted.note is not None:
            await self._commits.send(adopted.note)


def _may_go_on(mark: Mark, new: Record, login: bool) -> bool:
    """Whether a login or rotation stands, after what it found when it ended the old record."""
    if mark.successor == new.key:
        # A rotation of a record that had gone is no rotation; a login needs no old record.
        return login or mark.final is not None
    # Ended by somebody else: a rotation is over; a login is, if they wanted the session over.
    return login and not mark.reason.final


def _why(mark: Mark) -> Reason:
    return mark.reason if mark.reason.final else Reason.EXPIRED
