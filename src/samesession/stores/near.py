"""``?near=16MB``: a layer that answers from the records that this process has in use.

What it serves is right as of less than `LEASE_MS` ago (`samesession.stores.near_copies` has the
rules), and never older than the cookie says. The price: an end of a signed-in record is answered
only when every copy's lease has lapsed, wherever it may be, so a logout takes that long (S16).

Where the authority has provably lost commits that a copy still has, the copy repairs it (S5):
by compare-and-swap, and only if nobody has gone on from what the authority has. It never inserts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from msgspec.structs import replace

from samesession.errors import StoreUnavailableError
from samesession.record import (
    Applied,
    Commit,
    Delta,
    Ending,
    Key,
    Lost,
    Mark,
    Outcome,
    Reason,
    Record,
    Version,
    after,
    alone,
    made,
)
from samesession.settings import Quota
from samesession.store import Store
from samesession.stores.near_copies import LEASE_MS, Copies, Errand, Witness

HOLD_MS = LEASE_MS + 10
"""How long an end is held back: two machines' clocks do not run at quite the same speed."""

STALE_MS = 30_000
"""For how long ``stale=accept`` serves a copy after it was last known to be right."""


# Linux' CLOCK_MONOTONIC stands still while the machine sleeps; macOS' runs on, and is its only one.
_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_ms() -> int:
    """By a clock that runs on while the machine sleeps, and does not jump."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


class Feed(Protocol):
    """Where an engine tells what changed; its own connections for each process or event loop.

    Its store loads on those connections, and what it has committed, and says so, was written or
    read there; whatever else it does may take another one.
    """

    def at_hand(self) -> Copies:
        """The copies that a command sent now is about."""
        ...

    def here(self, key: Key) -> Copies:
        """The same, when everything is read that has arrived about a key."""
        ...

    def keep_up(self, witness: Witness) -> None:
        """Its copies are in use: ask now and then, so that their lease does not lapse."""
        ...

    async def pause(self, ms: int) -> None:
        """Wait."""
        ...


@runtime_checkable
class Repairable(Protocol):
    """A store that may lose commits (it replicates asynchronously, or was restored)."""

    async def repair(self, record: Record, lost_after: Commit) -> bool:
        """Put a record's contents and commits back, if its newest commit is the given one.

        The idle deadline becomes the later of the two.

        Returns:
            Whether it was; False when somebody has gone on, ended it, or it is not there at all.

        Raises:
            StoreUnavailableError: nobody knows; sending it again is harmless.
        """
        ...


class NearCache:
    """A store's records in use, kept in this process."""

    lags = True

    def __init__(
        self,
        store: Store,
        feed: Feed,
        *,
        clock_ms: Callable[[], int],
        boot_ms: Callable[[], int],
        count: Callable[[str], None],
        accept_stale: bool = False,
    ) -> None:
        """Compose.

        Args:
            store: the authority.
            feed: its news.
            clock_ms: since the epoch, for deadlines.
            boot_ms: of CLOCK_BOOTTIME, for leases.
            count: of `samesession.counts.NAMES`.
            accept_stale: serve copies for `STALE_MS` while the store does not answer.
        """
        self.suspends = store.suspends
        self.limits = store.limits
        self._store = store
        self._feed = feed
        self._clock_ms = clock_ms
        self._boot_ms = boot_ms
        self._count = count
        self._stale_ms = STALE_MS if accept_stale else 0

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        """See `Store`: from the copy while its lease runs, else from the store."""
        copies = self._feed.here(key)
        asked = self._boot_ms()
        copy = copies.get(key, asked)
        if copy is not None:
            record, now = copy.record, self._clock_ms()
            if (
                (at_least is None or record.covers(at_least))
                and record.idle_until_ms > now  # else somebody may have touched it (S10)
                and record.origin.absolute_ms > now
            ):
                witness = copy.witness
                witness.used = key
                if not witness.beating:
                    self._feed.keep_up(witness)
                self._count("near")
                return record
        errand = copies.begin(key)
        try:
            found = await self._store.load(key, at_least=at_least)
            if errand.witness is not None:
                errand.witness.heard(asked)
            if not isinstance(found, Record):
                copies.changed(key)
                return found
            if at_least is not None and not found.covers(at_least):
                repaired = await self._repaired(copies, key, found.commits, at_least)
                if repaired is not None:
                    return repaired
            copies.keep(errand, found)
            return found
        except StoreUnavailableError:
            stale = self._stale(copies, key, at_least)
            if stale is None:
                raise
            return stale
        finally:
            copies.over(errand)

    async def commit(self, delta: Delta) -> Outcome:
        """See `Store`; the answer is enough to put the copy right."""
        copies = self._feed.at_hand()
        outcome = await self._commit(copies, delta)
        if isinstance(outcome, Lost) and delta.at_least is not None:
            repaired = await self._repaired(copies, delta.key, outcome.commits, delta.at_least)
            if repaired is not None:
                outcome = await self._commit(self._feed.at_hand(), delta)
        return outcome

    async def _commit(self, copies: Copies, delta: Delta) -> Outcome:
        key = delta.key
        errand = copies.begin(key, writes=True)
        try:
            # Its answer says nothing about the lease: it may have come on another connection.
            return self._settled(copies, errand, delta, await self._store.commit(delta))
        except StoreUnavailableError:
            only_touches = not delta.changes and delta.origin is None
            stale = self._stale(copies, key, delta.at_least) if only_touches else None
            if stale is None:
                copies.doubt(errand)
                raise
            # Its page is served; it is touched again by the next one.
            copies.over(errand)
            return Applied(stale.commits, stale.seen_ms, stale.idle_until_ms)
        except BaseException:
            copies.doubt(errand)
            raise

    def _settled(self, copies: Copies, errand: Errand, delta: Delta, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Lost):
            copies.over(errand)
            return outcome  # the copy may be what repairs it
        record = _known(copies.kept(delta.key), delta, outcome)
        if record is None:
            copies.changed(delta.key)
            copies.over(errand)
            return outcome
        copies.keep(errand, record)
        assert isinstance(outcome, Applied)
        return outcome if outcome.record is record else replace(outcome, record=record)

    async def end(self, key: Key, ending: Ending) -> Mark:
        """See `Store`; answered when no copy of a signed-in record can be served any more."""
        copies = self._feed.at_hand()
        known = copies.kept(key)
        try:
            mark = await self._store.end(key, ending)
        finally:
            copies.changed(key)
        # Whose a record is never changes, so an old copy is good enough to know.
        anonymous = known is not None and known.origin.principal is None
        followed = ending.reason.final and mark.successor and mark.token != ending.token
        if not followed and not (anonymous and ending.reason is not Reason.LOGIN):
            await self._feed.pause(HOLD_MS)
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
        """See `Store`; who was displaced is signed in nowhere any more when this returns."""
        gone = await self._store.admit(principal, key, until_ms, replaces=replaces, quota=quota)
        if gone:
            for displaced in gone:
                self._feed.at_hand().changed(displaced)
            await self._feed.pause(HOLD_MS)
        return gone

    async def dismiss(self, principal: str, key: Key) -> None:
        """See `Store`."""
        await self._store.dismiss(principal, key)

    async def held_by(self, principal: str) -> list[Record]:
        """See `Store`; the store is asked."""
        return await self._store.held_by(principal)

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        """See `Store`; the feed tells this process too, and all of them are waited for once."""
        ended = await self._store.end_all(principal, ending, keep=keep)
        await self._feed.pause(HOLD_MS)
        return ended

    async def close(self) -> None:
        """See `Store`."""
        await self._store.close()

    async def _repaired(
        self, copies: Copies, key: Key, there: tuple[Commit, ...], at_least: Version
    ) -> Record | None:
        """Give the store back what it has lost, where a copy here has it."""
        copy, newest = copies.kept(key), there[-1]
        if copy is None or not copy.covers(at_least) or not isinstance(self._store, Repairable):
            return None
        if newest == copy.commits[-1] or newest not in copy.commits:
            return None  # others have gone on, and repair would roll them back
        errand = copies.begin(key, writes=True)
        try:
            if not await self._store.repair(copy, newest):
                return None
            self._count("repaired")
            copies.keep(errand, copy)
            return copy
        except BaseException:
            copies.doubt(errand)
            raise
        finally:
            copies.over(errand)

    def _stale(self, copies: Copies, key: Key, at_least: Version | None) -> Record | None:
        """A copy to go on with while the store is down, where that was asked for."""
        right_at, copy = copies.witness(key).heard_ms, copies.kept(key)
        if not self._stale_ms or copy is None:
            return None
        if self._boot_ms() - right_at > self._stale_ms or copy.ends_ms <= self._clock_ms():
            return None
        if at_least is not None and not copy.covers(at_least):
            return None
        self._count("stale")
        return copy


def _known(copy: Record | None, delta: Delta, outcome: Outcome) -> Record | None:
    """What is stored now, if this process can tell."""
    if not isinstance(outcome, Applied):
        return None
    if outcome.record is not None:
        return outcome.record
    if delta.origin is not None:
        record = made(delta, delta.origin)
        return record if record.commits == outcome.commits else None
    if copy is None:
        return None
    same = alone(copy, delta, outcome) if delta.changes else copy.commits == outcome.commits
    return after(copy, delta, outcome) if same else None
