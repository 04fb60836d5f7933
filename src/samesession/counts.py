"""What happened, in numbers: the accidents that did not happen are the point of this library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import TypeAlias

Count: TypeAlias = Callable[[str], None]
"""Counts one of `NAMES`; stores are given it when they are opened."""


def uncounted(_name: str) -> None:
    """For whoever keeps no `Counts`."""


NAMES = {
    "created": "records made",
    "adopted": "sessions taken over from another library",
    "pickled": "records of another library that hold a pickle, which nobody opened",
    "not_adopted": "sessions of another library that were unreadable, too large or too many",
    "committed": "commits that changed a key",
    "touched": "idle deadlines moved without another change",
    "moved": "logins and rotations",
    "ended": "records ended by this process",
    "displaced": "sessions ended because their principal signed in once more than allowed; with "
    "Redis two logins at once may both count one",
    "too_many": "logins refused because their principal has as many sessions as allowed",
    "merged": "commits onto a record that another request had changed meanwhile",
    "refused": "late writes refused because the session had been ended",
    "not_saved": "writes answered 503 because the session went on under another id",
    "quiet": "requests with a cookie whose record ended a moment ago",
    "absent": "valid cookies whose record the store does not know",
    "lapsed": "valid cookies whose record had passed its idle deadline",
    "lost": "records older than the cookie says: the store lost a commit",
    "malformed": "cookies that are no token",
    "forged": "cookies whose signature no key verifies",
    "expired": "cookies past their absolute deadline",
    "ambiguous": "requests with several different cookies of our name",
    "corrupt": "records or single keys that could not be read",
    "unavailable": "steps that the store did not answer in time",
    "near": "loads answered from a copy in this process, without asking the store",
    "stale": "copies served while the store did not answer (stale=accept)",
    "repaired": "records that the store had lost a commit of, given back from a copy",
    "ended_again": "sessions that a failover or a backup had brought back",
    "weak": "logins, rotations and ends that no replica had when they were answered",
    "repeated": "commands sent again after a connection broke",
}


class Counts(Mapping[str, int]):
    """Counters since this process started, one for each of `NAMES`."""

    def __init__(self) -> None:
        """Start at zero."""
        self._lock = Lock()
        self._numbers = dict.fromkeys(NAMES, 0)

    def add(self, name: str, number: int = 1) -> None:
        """Count; threads may."""
        with self._lock:
            self._numbers[name] += number

    def __getitem__(self, name: str) -> int:
        """How often."""
        return self._numbers[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._numbers)

    def __len__(self) -> int:
        """How many names."""
        return len(self._numbers)

    def __repr__(self) -> str:
        """Those above zero."""
        return f"Counts({ {name: number for name, number in self.items() if number} })"
