"""The copies that connections to the authority vouch for: which, and until when (S16).

The rules:

1. Whoever changes a record makes the authority say so on the connection on which the record was
   read, in the order in which things happened there. So when an answer to something asked at a time
   T is here, everything that changed before T has been heard, and every copy that was read on that
   connection and is left is right as of T.
2. A copy is served for `LEASE_MS` after such a T, by a clock that runs on while the machine sleeps.
   So a process that was paused, or that hears nothing any more, serves nothing.
3. When the connection breaks its witness is over: no copy of it is served before it was asked for
   again, on another one. It is kept all the same, for repair and for ``stale=accept``.
4. What was on its way while its key was said to have changed is not kept; nor is what was asked on
   two connections, for nobody knows which of them answered.

Where the authority is several servers (Redis Cluster), each connection is the witness of what was
read from its server, as long as that server says that it has the keys.

No clock and no connection here: times come in as milliseconds of CLOCK_BOOTTIME.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock
from typing import Any

from msgspec import Struct

from samesession.record import Key, Record

LEASE_MS = 250
"""How long a copy is served without news; the end of a signed-in session waits for it (S16)."""

FIXED_COST, COST_PER_KEY, COST_PER_BYTE = 1700, 220, 6
"""Bytes that a copy takes in memory, beside its encoded values what was decoded from them.

Measured with tracemalloc (Python 3.11), with and without decoded contents: 1.3 to 1.6 KB a record,
75 B and 50 B a key, and text once in UTF-8 and once as str, which takes four bytes a character as
soon as one of them is wide, and its UTF-8 again once it was encoded (tests/test_near_memory.py).
"""

_NEVER_MS = -(1 << 62)


class Witness:
    """One connection to the authority, for as long as what it says counts.

    Attributes:
        where: whose it is, for who made it.
        heard_ms: everything that changed before was heard.
        listening: whether the authority promised to tell.
        over: whether the connection broke, or its server has nothing to say any more.
        used: the key of a copy that was served since somebody last looked.
        beating: whether somebody keeps the lease from lapsing.
    """

    __slots__ = ("beating", "heard_ms", "listening", "over", "used", "where")

    def __init__(self, where: Any = None, *, listening: bool = False) -> None:
        """Have heard nothing."""
        self.where = where
        self.heard_ms = _NEVER_MS
        self.listening = listening
        self.over = False
        self.used: Key | None = None
        self.beating = False

    def heard(self, asked_ms: int) -> None:
        """An answer is here to something asked at a time."""
        if self.listening and not self.over and asked_ms > self.heard_ms:
            self.heard_ms = asked_ms


_NOBODY = Witness()
_NOBODY.over = True


def cost_of(keys: int, size: int) -> int:
    """Bytes in memory of a record with so many keys, and so many bytes in them and their values."""
    return FIXED_COST + COST_PER_KEY * keys + COST_PER_BYTE * size


class Copy:
    """One record, and who vouches for it."""

    __slots__ = ("cost", "record", "witness")

    def __init__(self, record: Record, witness: Witness = _NOBODY) -> None:
        """Weigh it."""
        self.record = record
        self.witness = witness
        values = record.values
        self.cost = cost_of(len(values), len("".join(values)) + len(b"".join(values.values())))


class Errand(Struct, eq=False):
    """A load or a commit on its way.

    Attributes:
        witness: the connection on which it was asked; None: on none yet, or on several.
        writes: a commit, whose answer says itself what happened before it.
        clean: whether nothing was heard of its key since.
        over: whether it has come, or failed.
    """

    # A Struct, because making one is one step in C.
    key: Key
    writes: bool
    witness: Witness | None = None
    clean: bool = True
    over: bool = False


class Copies:
    """A bounded number of copies, least recently used first to go; threads may share it."""

    def __init__(self, limit_bytes: int) -> None:
        """Start empty."""
        self.cost = 0
        self._limit = limit_bytes
        self._copies: OrderedDict[Key, Copy] = OrderedDict()
        self._errands: dict[Key, list[Errand]] = {}
        self._lock = Lock()

    # -- what is served ----------------------------------------------------------------------------

    def get(self, key: Key, now_ms: int) -> Copy | None:
        """The copy of a record, if it may be served now."""
        copy = self._copies.get(key)
        if copy is None:
            return None
        witness = copy.witness
        if witness.over or now_ms >= witness.heard_ms + LEASE_MS:
            return None
        try:
            self._copies.move_to_end(key)
        except KeyError:  # another thread has just dropped it
            return None
        return copy

    def kept(self, key: Key) -> Record | None:
        """The copy of a record, whether it may be served or not."""
        copy = self._copies.get(key)
        return None if copy is None else copy.record

    def witness(self, key: Key) -> Witness:
        """Who vouches for the copy of a record, or did; somebody who knows nothing if none does."""
        copy = self._copies.get(key)
        return _NOBODY if copy is None else copy.witness

    def __len__(self) -> int:
        """How many."""
        return len(self._copies)

    # -- what is heard -----------------------------------------------------------------------------

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

    def lost(self, witness: Witness) -> None:
        """A connection broke: what changes now is not heard."""
        with self._lock:  # whoever keeps something just now has finished
            witness.over = True

    # -- what this process asks and does -----------------------------------------------------------

    def begin(self, key: Key, *, writes: bool = False) -> Errand:
        """Note that something about a key is on its way."""
        errand = Errand(key, writes)
        with self._lock:
            others = self._errands.get(key)
            if others is None:
                self._errands[key] = [errand]
            else:
                others.append(errand)
        return errand

    def asked(self, key: Key, witness: Witness) -> None:
        """Something about a key is sent on a connection."""
        with self._lock:
            for errand in self._errands.get(key, ()):
                if errand.witness is None and errand.clean:
                    errand.witness = witness
                elif errand.witness is not witness:
                    errand.witness, errand.clean = None, False

    def keep(self, errand: Errand, record: Record) -> None:
        """Keep what an errand brought, unless something was heard of its key meanwhile.

        It is over then.
        """
        with self._lock:
            self._finish(errand)
            witness = errand.witness
            if errand.clean and witness and witness.listening and not witness.over:
                self._put(Copy(record, witness))
            elif errand.writes:
                self._drop(errand.key)

    def over(self, errand: Errand) -> None:
        """It has come, or failed; once is enough."""
        with self._lock:
            self._finish(errand)

    def doubt(self, errand: Errand) -> None:
        """Nobody knows what became of a commit: ask before the copy is served again."""
        with self._lock:
            self._finish(errand)
            copy = self._copies.get(errand.key)
            if copy is not None:
                self._copies[errand.key] = Copy(copy.record)
            self._spoil((errand.key,))

    def _finish(self, errand: Errand) -> None:
        if errand.over:
            return
        errand.over = True
        others = self._errands[errand.key]
        if len(others) == 1:
            del self._errands[errand.key]
            return
        others.remove(errand)
        if errand.writes:  # loads that are on their way may be older
            for other in others:
                other.clean = other.clean and other.writes

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
