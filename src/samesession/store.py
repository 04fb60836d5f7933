"""The protocol that every engine and every layer over one speaks, and the circuit breaker.

A whole store in twenty lines, to copy from, is `samesession.stores.memory`; the suite that a new
one must pass is `samesession.testing.StoreContract`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from samesession.record import Delta, Ending, Key, Mark, Outcome, Record, Version
from samesession.settings import Quota


class Store(Protocol):
    """Where records live. Absence and refusal are values, faults are `StoreUnavailableError`.

    One object serves many requests at once. A store opened for threads never suspends in any of
    these coroutines. Every method may be called twice with the same arguments, since an answer
    can be lost.
    """

    lags: bool
    """Whether a load may answer from a copy; then responses also carry newer versions they read."""

    suspends: bool
    """Whether its coroutines wait on an event loop; if not, threads may share the object."""

    limits: bool
    """Whether `admit` can keep to a quota, on all servers."""

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        """Return the record, the mark of an ended one, or None when it is unknown.

        Args:
            key: of the record; deadlines are the caller's to judge (`Record.ends_ms`).
            at_least: version from the cookie; a copy that does not cover it must ask further.

        Raises:
            StoreUnavailableError: no answer within ``deadline`` (URL parameter, default 250 ms).
            StoreCorruptError: something is stored under the key that is no record of ours.
        """
        ...

    async def commit(self, delta: Delta) -> Outcome:
        """Make, change or touch a record as `samesession.record.merge` says, in one atomic step.

        Raises:
            StoreUnavailableError: no answer in time. The outcome is unknown, and sending the same
                delta again is harmless.
            StoreCorruptError: something is stored under the key that is no record of ours.
        """
        ...

    async def end(self, key: Key, ending: Ending) -> Mark:
        """End a record, absent or not, and return the mark that stands, as `finish` says."""
        ...

    async def admit(
        self,
        principal: str,
        key: Key,
        until_ms: int,
        *,
        replaces: Key | None = None,
        quota: Quota | None = None,
    ) -> tuple[Key, ...] | None:
        """Enter a record in its principal's index, before it is made.

        With a quota this is one atomic step, as `samesession.quota.displaced` decides it. Whoever
        is displaced has been ended (`Reason.DISPLACED`) when this returns, those included whom a
        server displaced that died before it could end them.

        Args:
            principal: whose record it will be.
            key: the record's.
            until_ms: its absolute deadline, after which the entry may go.
            replaces: the principal's record whose place it takes; the two count once.
            quota: how many the principal may have; asked for only where `limits` is true.

        Returns:
            The keys of those displaced; None when it is refused, and then nothing was entered.
        """
        ...

    async def dismiss(self, principal: str, key: Key) -> None:
        """Take a record out of its principal's index, after it ended."""
        ...

    async def held_by(self, principal: str) -> list[Record]:
        """Return the live records of a principal, oldest first; each one verified."""
        ...

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        """End every record of a principal but ``keep``, those being made and moved included.

        Returns:
            How many were alive.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and files; a later call opens them again."""
        ...


class Exchanging(ABC):
    """What a store can do beside the protocol that has its records at hand, in this process.

    A subclass that has another `commit` and says nothing of `exchange` has no short way past it.
    """

    def __init_subclass__(cls) -> None:
        """Keep the two together."""
        own = cls.__dict__
        if "commit" in own and "exchange" not in own:
            cls.exchange = _never  # type: ignore[method-assign]
        super().__init_subclass__()

    @abstractmethod
    def exchange(self, before: Record, after: Record, now_ms: int) -> bool:
        """Put a record in the place of the very one that `load` returned, in one atomic step.

        The short way for most commits: nobody came between, so there is nothing to merge.

        Args:
            before: the object itself; one that only says the same is another one.
            after: what `samesession.record.with_changes` makes of it.
            now_ms: the sender's clock.

        Returns:
            False: nothing was done, for whatever reason; `Store.commit` decides and says why.
        """


def _never(self: Exchanging, before: Record, after: Record, now_ms: int) -> bool:
    return False


async def end_with_successors(store: Store, key: Key, ending: Ending) -> Mark:
    """End a record and every record in which it went on, so that no rotation outruns a logout.

    Returns:
        The last mark of the chain; its token tells whether this ending ended anything.
    """
    mark = await store.end(key, ending)
    for _ in range(MOVES_FOLLOWED):
        if mark.successor is None or mark.token == ending.token:
            break
        mark = await store.end(mark.successor, ending)
    return mark


MOVES_FOLLOWED = 1000
"""A bound for loops; each link of the chain is at most `MARK_MS` old."""


class CircuitBreaker:
    """Stops asking an engine that does not answer, and lets one request try again.

    Args:
        failures: in a row, until the circuit opens.
        open_s: seconds before one request may probe.
        clock: monotonic seconds.
    """

    def __init__(
        self, *, clock: Callable[[], float], failures: int = 3, open_s: float = 0.5
    ) -> None:
        """Start closed."""
        self._clock = clock
        self._failures = failures
        self._open_s = open_s
        self._in_a_row = 0
        self._probe_at = 0.0

    @property
    def closed(self) -> bool:
        """Whether requests go through as usual."""
        return self._in_a_row < self._failures

    def allows(self) -> bool:
        """Whether this request may go; when open, one in ``open_s`` does."""
        if self._in_a_row < self._failures:
            return True
        now = self._clock()
        if now < self._probe_at:
            return False
        self._probe_at = now + self._open_s
        return True

    def succeeded(self) -> None:
        """Close the circuit."""
        self._in_a_row = 0

    def failed(self) -> None:
        """Count a failure; the last one allowed opens the circuit."""
        self._in_a_row += 1
        if self._in_a_row >= self._failures:
            self._probe_at = self._clock() + self._open_s
