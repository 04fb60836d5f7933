"""``samesession move OLD NEW``: every record of one store into another, page by page.

The work on each record is `samesession.stores.moving`'s, which servers do as well; so this may run
beside them, be interrupted, and be run again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from samesession._bridge import ready
from samesession.errors import ConfigError, StoreCorruptError, StoreUnavailableError
from samesession.record import TOKEN_BYTES, Ending, Key, Reason, Record
from samesession.settings import redacted
from samesession.store import Store
from samesession.stores.listing import keys_of
from samesession.stores.moving import Moving
from samesession.strategies import Strategy, strategy_of

T = TypeVar("T")

PAGE = 500
WORKERS = 8
TRIES = 10
WAIT_S = 0.5
"""Between two tries of a record whose store does not answer: the circuit closes meanwhile."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of the records of the old store.

    Attributes:
        seen: records and marks that were listed.
        moved: records that this run brought over.
        left: live records that only the old store has.
        unreadable: of no use to anybody; they stay.
    """

    seen: int
    moved: int
    left: int
    unreadable: int

    def __str__(self) -> str:
        """One line."""
        spoilt = f", {self.unreadable} unreadable and left alone" if self.unreadable else ""
        return f"{self.moved} sessions moved, {self.left} left of {self.seen} looked at{spoilt}"


def run(old: str, new: str, progress: Callable[[int, int], object], *, check: bool = False) -> Done:
    """Move what is there, or only look.

    Args:
        progress: told how many records are done, of how many.
        check: move nothing.

    Raises:
        ConfigError: a URL is wrong, both name one store, or the old one cannot list what it holds.
        StoreUnavailableError: a store went away and did not come back for five seconds.
    """
    leaving, coming = strategy_of(old), strategy_of(new)
    for strategy, text in ((leaving, old), (coming, new)):
        if strategy.old is not None:
            raise ConfigError(f"{redacted(text)}: give OLD and NEW each without from=")
        if strategy.name == "memory":
            raise ConfigError("memory:// is inside its process; nothing can be moved from outside")
    if old == new:
        raise ConfigError(f"{redacted(old)} is both OLD and NEW")
    leaving.must_be_there()  # or it would be empty, and every session moved
    sources, targets = _opened(leaving), _opened(coming)
    try:
        if _patiently(partial(_one_store, sources, targets)):
            raise ConfigError(f"{redacted(old)} and {redacted(new)} are one store")
        return _run(sources, targets, progress, check=check)
    finally:
        ready(sources.close())
        ready(targets.close())


def _one_store(old: Store, new: Store) -> bool:
    """Whether two URLs name the same store: what was moved out of it would then be over.

    Nobody has the key that is ended here; the mark of it goes like any other.
    """
    nobody, now_ms = Key(secrets.token_hex(16)), time.time_ns() // 1_000_000
    ready(new.end(nobody, Ending(Reason.EXPIRED, now_ms, secrets.token_bytes(TOKEN_BYTES))))
    return ready(old.load(nobody)) is not None


def _run(old: Store, new: Store, progress: Callable[[int, int], object], *, check: bool) -> Done:
    moving = Moving(old, new, lambda: time.time_ns() // 1_000_000)
    step = partial(_left, old, new) if check else partial(_moved, moving)
    total = sum(len(page) for page in _pages(old))
    seen = 0
    counts = {"moved": 0, "left": 0, "unreadable": 0, "gone": 0}
    with ThreadPoolExecutor(WORKERS) as pool:
        for page in _pages(old):
            for outcome in pool.map(step, page):
                counts[outcome] += 1
            seen += len(page)
            progress(seen, max(total, seen))
    return Done(seen, counts["moved"], counts["left"], counts["unreadable"])


def _pages(store: Store) -> Iterator[list[Key]]:
    cursor = ""
    while True:
        keys, cursor = _patiently(partial(_page, store, cursor))
        yield keys
        if not cursor:
            return


def _page(store: Store, cursor: str) -> tuple[list[Key], str]:
    return ready(keys_of(store, cursor, PAGE))


def _moved(moving: Moving, key: Key) -> str:
    """Bring one record over; the name of what became of it."""

    def step() -> str:
        try:
            before = ready(moving._old.load(key))
        except StoreCorruptError:
            return "unreadable"
        if not isinstance(before, Record):
            return "gone"
        ready(moving.move(key))
        return "moved"

    return _patiently(step)


def _left(old: Store, new: Store, key: Key) -> str:
    """Whether a live record is in the old store only."""

    def step() -> str:
        try:
            found = ready(old.load(key))
        except StoreCorruptError:
            return "unreadable"
        if not isinstance(found, Record) or found.ends_ms < time.time_ns() // 1_000_000:
            return "gone"
        return "gone" if ready(new.load(key)) is not None else "left"

    return _patiently(step)


def _patiently(step: Callable[[], T]) -> T:
    for _ in range(TRIES - 1):
        try:
            return step()
        except StoreUnavailableError:
            time.sleep(WAIT_S)
    return step()


def _opened(strategy: Strategy) -> Store:
    store = replace(strategy, near=None).open_threads()
    if store.suspends:
        raise ConfigError(f"{strategy.scheme}:// cannot be moved from here; use NEW?from=OLD alone")
    return store
