"""``NEW?from=OLD``: a layer that moves sessions from one store to another while both serve.

Every record is in one of the stores, or in the new one and, for a moment, in both; so the new one
is always asked first. A record is moved in an order that stays right wherever the process dies:
a copy into the new store (insert only, so a mark forbids it), an end of the old one that returns
its final contents, and a delta with what was written meanwhile. An end leaves its mark in the new
store even if only the old one had the record: without it 8 of 10 schedules brought a session back
(MEASURED 9).

Two steps, each on every server before the next begins: ``NEW?from=OLD&write=old`` reads both and
writes where a record is; ``NEW?from=OLD`` moves each record at its first write.
"""

from __future__ import annotations

from collections.abc import Callable

from samesession.errors import StoreCorruptError
from samesession.record import (
    Absent,
    Applied,
    Delta,
    Ended,
    Ending,
    Key,
    Mark,
    Outcome,
    Reason,
    Record,
    Version,
)
from samesession.settings import Quota
from samesession.store import Store, end_with_successors

TRIES = 20
"""A record that is looked for while it is moved by others is found after two."""


class Moving:
    """Two stores as one: read the new one, else the old one; write the new one."""

    def __init__(
        self, old: Store, new: Store, clock_ms: Callable[[], int], *, write_old: bool = False
    ) -> None:
        """Compose.

        Args:
            old: the store to leave.
            new: the store to move to.
            clock_ms: for marks in the old store.
            write_old: the first of the two steps: move nothing yet.
        """
        self.lags = old.lags or new.lags
        self.suspends = old.suspends or new.suspends
        self.limits = old.limits and new.limits
        self._old = old
        self._new = new
        self._clock_ms = clock_ms
        self._write_old = write_old

    async def ready(self, within_s: float = 10.0) -> bool:
        """Wait until both can answer: a cluster's server has to join first."""
        joins = [getattr(store, "ready", None) for store in (self._new, self._old)]
        return all([await join(within_s) for join in joins if join is not None])

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        """See `Store`."""
        for _ in range(TRIES):
            found = await self._new.load(key, at_least=at_least)
            if isinstance(found, Mark):
                return await self._standing(found, key)
            if found is not None:
                return found
            found = await self._old.load(key, at_least=at_least)
            if not _has_moved(found, key):
                return found
        return None

    async def commit(self, delta: Delta) -> Outcome:
        """See `Store`."""
        if delta.origin is not None:
            return await (self._old if self._write_old else self._new).commit(delta)
        for _ in range(TRIES):
            outcome = await self._new.commit(delta)
            if isinstance(outcome, Ended) and outcome.mark.token == delta.token:
                # This commit took the last key away; a mover that died may have left it here.
                await self._old.end(delta.key, _ending_of(outcome.mark))
            if not isinstance(outcome, Absent):
                return outcome
            if self._write_old:
                outcome = await self._old.commit(delta)
                if not (isinstance(outcome, Ended) and _has_moved(outcome.mark, delta.key)):
                    return outcome
            else:
                found = await self.move(delta.key)
                if found is None:
                    return Absent()
                if isinstance(found, Mark):
                    return Ended(found)
        return Absent()

    async def end(self, key: Key, ending: Ending) -> Mark:
        """See `Store`: in both, so that nothing can bring it back from either."""
        found = await self._new.load(key)
        if isinstance(found, Mark):
            stands = await self._standing(found, key)
            await self._old.end(key, _ending_of(stands))  # whoever ended it may have died
            return stands
        if found is None:
            found = await self._in_old(key)
            if isinstance(found, Mark) and not _has_moved(found, key):
                # The first end stands, in the new store too.
                await self._new.end(key, _ending_of(found))
                return found
            if ending.reason.moved and found is not None:
                if self._write_old:
                    mark = await self._old.end(key, ending)
                    if not _has_moved(mark, key):
                        stands = await self._new.end(key, _ending_of(mark))
                        return mark if stands.token == mark.token else stands
                else:
                    await self.move(key)  # its final contents are the new store's to return
        mark = await self._new.end(key, ending)
        there = await self._old.end(key, ending)
        went_on = there.successor
        if ending.reason.final and went_on is not None and went_on != key:
            # Just now, by somebody who had not seen our mark: so that is over, too.
            await end_with_successors(self, went_on, ending)
        return mark

    async def admit(
        self,
        principal: str,
        key: Key,
        until_ms: int,
        *,
        replaces: Key | None = None,
        quota: Quota | None = None,
    ) -> tuple[Key, ...] | None:
        """See `Store`.

        A quota is decided by the store that is written: all that the other still has is brought
        over before, or does not count yet (the first of the two steps).
        """
        if self._write_old:
            going = await self._old.admit(principal, key, until_ms, replaces=replaces, quota=quota)
            if going is not None:
                await self._new.admit(principal, key, until_ms, replaces=replaces)
            return going
        if quota is not None:
            for record in await self._old.held_by(principal):
                await self.move(record.key)
        return await self._new.admit(principal, key, until_ms, replaces=replaces, quota=quota)

    async def dismiss(self, principal: str, key: Key) -> None:
        """See `Store`."""
        await self._new.dismiss(principal, key)
        await self._old.dismiss(principal, key)

    async def held_by(self, principal: str) -> list[Record]:
        """See `Store`: what either holds; each one that only the old one has is looked for."""
        held = {record.key: record for record in await self._old.held_by(principal)}
        for key in tuple(held):
            found = await self._new.load(key)
            if found is not None:
                del held[key]  # moved, or ended there
        held |= {record.key: record for record in await self._new.held_by(principal)}
        return sorted(held.values(), key=lambda record: record.origin.created_ms)

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        """See `Store`.

        The old store's list comes first: what is moved out of it later is ended by its key, and
        what had been moved before is in the new one.
        """
        left = [record.key for record in await self._old.held_by(principal) if record.key != keep]
        ended = await self._new.end_all(principal, ending, keep=keep)
        for key in left:
            already = await self._new.load(key)
            mark = await end_with_successors(self, key, ending)
            ended += mark.token == ending.token and not isinstance(already, Mark)
        if self._write_old:
            ended += await self._old.end_all(principal, ending, keep=keep)
        return ended

    async def close(self) -> None:
        """See `Store`."""
        await self._new.close()
        await self._old.close()

    async def move(self, key: Key) -> Record | Mark | None:
        """Bring a record over, if only the old store has it.

        Returns:
            The record as it was found there, the mark of one that had ended, or None.
        """
        found = await self._in_old(key)
        if not isinstance(found, Record):
            # Another server is moving it, or has: what stands in the new store counts.
            return await self._new.load(key) if _has_moved(found, key) else found
        if found.origin.principal is not None:
            await self._new.admit(found.origin.principal, key, found.origin.absolute_ms)
        outcome = await self._new.commit(_copy(found))
        if isinstance(outcome, Ended):
            # A logout was quicker, and its server may die before it comes to the old one.
            await self._old.end(key, _ending_of(outcome.mark))
            return outcome.mark
        token = found.commits[-1].token  # whoever moves the same contents is the same mover
        moved = Ending(Reason.ROTATED, self._clock_ms(), token, key)
        mark = await self._old.end(key, moved)
        if not _has_moved(mark, key):
            # Ended in the old store while it was copied: so is the copy.
            return await self._new.end(key, _ending_of(mark))
        if mark.final is not None:
            await self._carry(found if isinstance(outcome, Applied) else None, mark.final)
        if found.origin.principal is not None:
            await self._old.dismiss(found.origin.principal, key)
        return found

    async def _standing(self, mark: Mark, key: Key) -> Mark:
        """The new store's mark; the old one may have the same with the final contents."""
        if mark.reason.moved and mark.final is None:
            there = await self._in_old(key)
            if isinstance(there, Mark) and there.token == mark.token:
                return there
        return mark

    async def _in_old(self, key: Key) -> Record | Mark | None:
        try:
            return await self._old.load(key)
        except StoreCorruptError:
            return None

    async def _carry(self, copied: Record | None, final: Record) -> None:
        """Bring over what was committed to the old record after it was copied.

        Args:
            copied: what this mover copied; None when another one had, who may have died since.
            final: the old record's last contents.
        """
        if copied is None:
            there = await self._new.load(final.key)
            tokens = [commit.token for commit in final.commits]
            if not isinstance(there, Record) or there.commits[-1].token not in tokens:
                return  # it has gone on in the new store
            copied = there
        if (final.commits, final.idle_until_ms) == (copied.commits, copied.idle_until_ms):
            return
        known = copied.values
        await self._new.commit(
            Delta(
                key=final.key,
                token=final.commits[-1].token,
                now_ms=final.seen_ms,
                idle_until_ms=final.idle_until_ms,
                sets={k: v for k, v in final.values.items() if known.get(k) != v},
                removes=tuple(k for k in known if k not in final.values),
                floor=final.commits[-1].number - 1,
                keep_empty=True,
            )
        )


def _copy(record: Record) -> Delta:
    """A delta that makes the same record: same newest commit, so that the cookie covers it."""
    newest = record.commits[-1]
    return Delta(
        key=record.key,
        token=newest.token,
        now_ms=record.seen_ms,
        idle_until_ms=record.idle_until_ms,
        sets=record.values,
        origin=record.origin,
        floor=newest.number - 1,
    )


def _has_moved(found: Record | Mark | None, key: Key) -> bool:
    """Whether the old store's mark says that the record went on in the new one."""
    return isinstance(found, Mark) and found.successor == key


def _ending_of(mark: Mark) -> Ending:
    return Ending(mark.reason, mark.at_ms, mark.token, mark.successor)
