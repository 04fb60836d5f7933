"""The copies that one connection to the authority vouches for: which, and until when (S16).

The rules:

1. Whoever changes a record makes the authority say so on this connection, in the order in which
   things happened there. So when an answer to something asked at a time T is here, everything that
   changed before T has been heard, and every copy that is left is right as of T.
2. A copy is served for `LEASE_MS` after such a T, by a clock that runs on while the machine sleeps.
   So a process that was paused, or that hears nothing any more, serves nothing.
3. When the connection breaks a new era begins: no copy of an older one is served before it was
   asked for again. It is kept all the same, for repair and for ``stale=accept``.
4. What was on its way while its key was said to have changed is not kept.

No clock and no connection here: times come in as milliseconds of CLOCK_BOOTTIME.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock

from samesession.record import Key, Record

LEASE_MS = 250
"""How long a copy is served without news; the end of a signed-in session waits for it (S16)."""

FIXED_COST, COST_PER_KEY, COST_PER_BYTE = 1700, 220, 6
"""Bytes that a copy takes in memory, beside its encoded values what was decoded from them.

Measured with tracemalloc (Python 3.11), with and without decoded contents: 1.3 to 1.6 KB a record,
75 B and 50 B a key, and text once in UTF-8 and once as str, which takes four bytes a character as
soon as one of them is wide, and its UTF-8 again once it was encoded (tests/test_near_memory.py).
"""

ERAS_KEPT = 8


class Copy:
    """One record, and the era of the connection that vouches for it."""

    __slots__ = ("cost", "era", "record")

    def __init__(self, record: Record, era: int) -> None:
        """Weigh it."""
        self.record = record
        self.era = era
        values = record.values
        size = sum(map(len, values)) + sum(map(len, values.values()))
        self.cost = FIXED_COST + COST_PER_KEY * len(values) + COST_PER_BYTE * size


class Errand:
    """A load or a commit on its way.

    Attributes:
        era: of the connection when it began.
        writes: a commit, whose answer says itself what happened before it.
        clean: whether nothing was heard of its key since.
    """

    __slots__ = ("clean", "era", "key", "writes")

    def __init__(self, key: Key, era: int, *, writes: bool) -> None:
        """Begin."""
        self.key = key
        self.era = era
        self.writes = writes
        self.clean = True


class Copies:
    """A bounded number of copies, least recently used first to go; threads may share it.

    Attributes:
        era: how often the connection has broken.
        heard_ms: everything that changed before was heard.
        listening: whether the authority promised to tell.
        used: whether a copy was served since somebody last looked.
        beating: whether somebody keeps the lease from lapsing.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Start empty, hearing nothing."""
        self.era = 0
        self.heard_ms = -LEASE_MS
        self.listening = False
        self.used = False
        self.beating = False
        self.cost = 0
        self._limit = limit_bytes
        self._copies: OrderedDict[Key, Copy] = OrderedDict()
        self._errands: dict[Key, list[Errand]] = {}
        self._vouched: dict[int, int] = {}
        self._lock = Lock()

    # -- what is served ----------------------------------------------------------------------------

    def get(self, key: Key, now_ms: int) -> Record | None:
        """The copy of a record, if it may be served now."""
        copy = self._copies.get(key)
        if copy is None or copy.era != self.era or now_ms >= self.heard_ms + LEASE_MS:
            return None
        try:
            self._copies.move_to_end(key)
        except KeyError:  # another thread has just dropped it
            return None
        return copy.record

    def kept(self, key: Key) -> Record | None:
        """The copy of a record, whether it may be served or not."""
        copy = self._copies.get(key)
        return None if copy is None else copy.record

    def right_at_ms(self, key: Key) -> int | None:
        """When the copy was last known to be right; None when nobody knows."""
        copy = self._copies.get(key)
        if copy is None:
            return None
        return self.heard_ms if copy.era == self.era else self._vouched.get(copy.era)

    def __len__(self) -> int:
        """How many."""
        return len(self._copies)

    # -- what is heard -----------------------------------------------------------------------------

    def listen(self) -> None:
        """The authority promised to tell on this connection what changes."""
        self.listening = True

    def heard(self, era: int, asked_ms: int) -> None:
        """An answer is here to something asked at a time, on the connection of an era."""
        if era == self.era and self.listening and asked_ms > self.heard_ms:
            self.heard_ms = asked_ms

    def changed(self, key: Key | None) -> None:
        """Somebody changed a record; None: everything may have changed."""
        with self._lock:
            if key is None:
                self._copies.clear()
                self.cost = 0
                self._spoil(self._errands)
            else:
                self._drop(key)
                self._spoil((key,))

    def lost(self) -> None:
        """The connection broke: what changes now is not heard."""
        with self._lock:
            self._vouched[self.era] = self.heard_ms
            self._vouched.pop(self.era - ERAS_KEPT, None)
            self.era += 1
            self.heard_ms = -LEASE_MS
            self.listening = False
            self._spoil(self._errands)

    # -- what this process asks and does -----------------------------------------------------------

    def begin(self, key: Key, *, writes: bool = False) -> Errand:
        """Note that something about a key is on its way."""
        errand = Errand(key, self.era, writes=writes)
        with self._lock:
            self._errands.setdefault(key, []).append(errand)
        return errand

    def over(self, errand: Errand) -> None:
        """It has come, or failed."""
        with self._lock:
            others = self._errands[errand.key]
            others.remove(errand)
            if not others:
                del self._errands[errand.key]

    def keep(self, errand: Errand, record: Record) -> None:
        """Keep what an errand brought, unless something was heard of its key meanwhile."""
        with self._lock:
            if errand.writes:
                self._outdate(errand.key)
            if errand.clean and self.listening:
                self._put(Copy(record, errand.era))
            elif errand.writes:
                self._drop(errand.key)

    def wrote(self, key: Key) -> None:
        """This process committed: loads that are on their way may be older."""
        with self._lock:
            self._outdate(key)

    def doubt(self, key: Key) -> None:
        """Nobody knows what became of a commit: ask before the copy is served again."""
        with self._lock:
            copy = self._copies.get(key)
            if copy is not None:
                copy.era = -1
            self._spoil((key,))

    def _outdate(self, key: Key) -> None:
        for errand in self._errands.get(key, ()):
            errand.clean = errand.clean and errand.writes

    def _spoil(self, keys: Iterable[Key]) -> None:
        for key in keys:
            for errand in self._errands.get(key, ()):
                errand.clean = False

    def _put(self, copy: Copy) -> None:
        self._drop(copy.record.key)
        if copy.cost > self._limit:
            return
        self._copies[copy.record.key] = copy
        self.cost += copy.cost
        while self.cost > self._limit:
            _key, oldest = self._copies.popitem(last=False)
            self.cost -= oldest.cost

    def _drop(self, key: Key) -> None:
        copy = self._copies.pop(key, None)
        if copy is not None:
            self.cost -= copy.cost
