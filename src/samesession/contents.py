"""The contents of a session: a dict in every respect, judged by comparison at commit.

Values are decoded into the real dict at once, because C libraries (orjson, msgspec, ``dict(s)``,
``{**s}``) read a dict subclass past its methods. For the same reason nothing is tracked by flags:
what changed is found by comparing the contents with what was loaded, values of mutable types by
their bytes. So a change inside a list is noticed, and a C library's change too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Self

from msgspec import Struct

from samesession import typed
from samesession.codec import ATOMS, encode, is_still, pack, split
from samesession.errors import SessionTooLargeError, ValueNotStorableError
from samesession.known import KNOWN, Known, known_of
from samesession.life import UNKNOWN, Life
from samesession.record import Record
from samesession.storable import encode_or_keep, weight_of, weight_of_key

log = logging.getLogger("samesession")

_MISSING = object()
_COMMITTED = object()  # stands for a value that a commit has replaced; only its bytes are known
_NOTHING: dict[str, Any] = {}  # shared, never written


class Changes(Struct, frozen=True, eq=False):
    """What a request did to its session: encoded values to set, and keys to remove.

    Attributes:
        atoms: the values to set, where all of them are known and cannot change in place.
        weight: with `atoms`, bytes of the whole session at most.
    """

    sets: Mapping[str, bytes]
    removes: tuple[str, ...]
    atoms: dict[str, Any] | None = None
    weight: int = 0

    def __bool__(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.sets or self.removes)

    def __eq__(self, other: object) -> bool:
        """Whether they say the same."""
        if not isinstance(other, Changes):
            return NotImplemented
        return (self.sets, self.removes) == (other.sets, other.removes)

    def __ne__(self, other: object) -> bool:
        """The opposite: a Struct's own would compare identities."""
        return not self == other

    __hash__ = None  # type: ignore[assignment]


_NO_CHANGES = Changes({}, ())


class Contents(dict[str, Any]):
    """One visitor's data, and what it was when it was loaded or last committed.

    What is kept beside the contents, to judge them by:

    - ``_used``, ``_written``: the answer depends on it; something may have been changed.
    - ``_lent``: somebody was given a value that can change in place.
    - ``_saved``: the encoded values as loaded or last committed.
    - ``_base``: the decoded values that stood here then, but for ``_committed``, which came since.
    - ``_fresh``: those of them that can change in place, as loaded; ``_packed`` is their bytes.
    - ``_atoms``: what was set key by key since and cannot change in place; ``_raws`` its bytes.
    - ``_room``: bytes that may still be written at least, once something was.
    """

    __slots__ = (
        *("_atoms", "_base", "_committed", "_fresh", "_lent", "_life", "_packed", "_raws"),
        *("_room", "_saved", "_used", "_written"),
    )

    nested_is_meant = True
    """Whether a nested change that cannot be stored is an error whoever made it (`forgets`)."""

    def __init__(self, life: Life) -> None:
        """Fill the dict from the record that was loaded, if any."""
        self._life = life
        self._used = self._written = self._lent = False
        self._committed: tuple[Changes, ...] = ()
        self._atoms: dict[str, Any] | None = None
        self._raws: dict[str, bytes] | None = None
        self._room: int | None = None
        record = life.record
        if record is None:
            self._base: dict[str, Any] = _NOTHING
            self._saved: Mapping[str, bytes] = _NOTHING
            self._packed, self._fresh = b"", _NOTHING
        else:
            self._fill(life, record)

    def mark_accessed(self) -> None:
        """Note that the answer depends on the session (``Vary: Cookie``); every method does."""
        if self._life.failure is None:
            self._used = True
        elif not self._used:
            self._use()

    @property
    def modified(self) -> bool:
        """Whether there is something to commit; nested changes are noticed."""
        return self._life.leaving is not None or bool(self.changes())

    @modified.setter
    def modified(self, value: bool) -> None:
        """Nothing to do but to look closely: what changed is found by comparison."""
        self.mark_accessed()
        if value:
            self._written = self._lent = True

    @property
    def accessed(self) -> bool:
        """Whether the answer depends on the session."""
        return self._used

    @accessed.setter
    def accessed(self, value: bool) -> None:
        if value:
            self.mark_accessed()

    def mark_modified(self) -> None:
        """Look closely at the commit, as ``modified = True`` does; nobody needs to."""
        self.modified = True

    # -- a dict that says no ---------------------------------------------------------------------

    def __setitem__(self, key: str, value: Any) -> None:
        """Set one key, refusing what could not be stored while the writer is still there."""
        if not self._used:
            self._use()
        weighs = len(key) if type(key) is str and key.isascii() else weight_of_key(key)
        try:
            raw = encode(key, value)
        except ValueNotStorableError:
            value = self._translated(value)
            raw = encode(key, value)
        room = self._room
        if room is None:
            room = self._whole_room()
        self._room = room = room - len(raw) - weighs
        if room < 0:
            self._weigh({key: raw})
        self._written, item = True, {key: value}
        if type(value) not in ATOMS:
            self._lent = True  # the writer still holds it
        elif (atoms := self._atoms) is None or (raws := self._raws) is None:
            self._atoms, self._raws = item, {key: raw}
        else:
            atoms[key], raws[key] = value, raw
        _update(self, item)  # a third of what `dict.__setitem__` costs as a function

    def __getitem__(self, key: str, /) -> Any:
        """As dict does; by far the most used way to read, so it is written out."""
        if not self._used:
            self._use()
        value = _getitem(self, key)
        if type(value) not in ATOMS:
            self._lent = True  # it may be changed in place from now on
        return value

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        """As dict does."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, /, *others: Any, **more: Any) -> None:
        """As dict does, all or nothing."""
        self.mark_accessed()
        new = dict(*others, **more)
        self._check(new)
        self._written = self._lent = True
        super().update(new)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        """As dict does, all or nothing."""
        self.update(other)
        return self

    @classmethod
    def fromkeys(cls, keys: Iterable[str], value: Any = None, /) -> dict[str, Any]:  # type: ignore[override]
        """Return a plain dict: there is one session a request."""
        return dict.fromkeys(keys, value)

    def __copy__(self) -> dict[str, Any]:
        """Return a plain dict: there is one session a request."""
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        """Return a plain dict, deeply copied."""
        from copy import deepcopy  # noqa: PLC0415  (rare, and copy is not needed elsewhere)

        return deepcopy(self.copy(), memo)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the process as a plain dict."""
        return dict, (self.copy(),)

    # -- for the sessions module and the adapters ----------------------------------------------

    def changes(self) -> Changes:
        """Compare the contents with what was loaded or last committed.

        Raises:
            ValueNotStorableError: a nested value became one that cannot be stored.
            SessionTooLargeError: a nested value grew past the limit.
        """
        life = self._life
        try:
            if life.typed:
                self._take_typed()
            base = self._base_now() if self._committed else self._base
            atoms, raws, saved = self._atoms, self._raws, self._saved
            # Unless somebody was given a value that can change: if C calls see nothing beyond what
            # was set key by key, that is all.
            if self._lent or not self._stands_on(base | atoms if atoms else base):
                return self._closely_compared(base, saved)
            if atoms is None or raws is None:
                return _NO_CHANGES
            for key, raw in raws.items():
                if saved.get(key) == raw:
                    sets = {key: raw for key, raw in raws.items() if saved.get(key) != raw}
                    return Changes(sets, ())
            return Changes(raws, (), atoms, life.size_limit - (self._room or 0))
        except (SessionTooLargeError, ValueNotStorableError):
            life.told = True
            raise

    def take(self) -> Changes:
        """The changes to commit now; what is written from here on belongs to the next commit.

        Raises:
            ValueNotStorableError: see `changes`.
            SessionTooLargeError: see `changes`.
        """
        try:
            changes = self.changes()
        except (SessionTooLargeError, ValueNotStorableError) as error:
            if self.nested_is_meant or not self.forgets(error):
                raise
            changes = self.changes()
        self._atoms = self._raws = None
        self._written = False
        return changes

    def forgets(self, error: Exception) -> bool:
        """Whether a nested change that cannot be stored was meant by nobody; it is gone then.

        For frameworks whose own sessions do not notice nested changes: a page may put objects into
        the rows of a stored cart to show them. Who sets, removes or marks something means it.
        """
        life = self._life
        if self._written or life.typed or life.leaving is not None:
            return False
        log.warning("a nested change is not kept: %s", error)
        self.restore()
        life.told = False
        return True

    def unchanged(self) -> bool:
        """Whether C calls can tell that nothing changed; False: compare closely."""
        if self._written or self._lent or self._committed:
            return False
        # Nobody wrote, and nobody was given a value that can change, unless by a C library.
        return self._stands_on(self._base)

    def _stands_on(self, base: dict[str, Any]) -> bool:
        """Whether the contents are these, and what can change in place is as it was loaded."""
        packed = self._packed
        try:
            return _equal(self, base) and (not packed or pack(self._fresh) == packed)
        except Exception:  # noqa: BLE001  (whatever it is, encoding it finds words for it)
            return False

    def saw(self, changes: Changes, saved: Mapping[str, bytes] | None = None) -> None:
        """Take the contents as committed: later changes are compared with them.

        Args:
            changes: what was committed.
            saved: the values with these changes, where somebody has put them together already.
        """
        if saved is None:
            saved = {**self._saved, **changes.sets}
            for key in changes.removes:
                saved.pop(key, None)
        self._saved = saved
        self._atoms = self._raws = None
        self._committed = (*self._committed, changes)
        if self._life.told:
            self._life.told = False

    def _base_now(self) -> dict[str, Any]:
        """What stood in the dict when it was loaded or last committed.

        Few requests look again after a commit, so it is brought up to date only then; of what was
        committed only the bytes are known.
        """
        if self._committed:
            base = dict(self._base)
            for changes in self._committed:
                base.update(dict.fromkeys(changes.sets, _COMMITTED))
                for key in changes.removes:
                    base.pop(key, None)
            self._base, self._committed = base, ()
        return self._base

    def restore(self) -> None:
        """Go back to what was loaded or last committed: nothing that came since is kept."""
        life = self._life
        record = life.record
        self._start_empty()
        life.leaving, life.carries, life.principal = None, True, None
        life.followed, self._written, self._lent = UNKNOWN, False, False
        if record is not None:
            self._fill(life, record)

    def renew(self, record: Record | None) -> None:
        """Take the contents of a record that was loaded again, and own changes on top."""
        changes = self.changes()
        mine = {key: dict.__getitem__(self, key) for key in changes.sets}
        self._life.record, typed_ = record, self._life.typed
        self.restore()
        dict.update(self, mine)
        for key in changes.removes:
            dict.pop(self, key, None)
        self._life.typed = typed_  # their holders still may change them
        self._written = self._lent = bool(changes or typed_)

    def _closely_compared(self, base: Mapping[str, Any], saved: Mapping[str, bytes]) -> Changes:
        sets: dict[str, bytes] = {}
        for key, value in dict.items(self):
            before, raw = base.get(key, _MISSING), saved.get(key)
            if before is value:
                if type(value) in ATOMS or (raw is not None and is_still(value, raw)):
                    continue
            elif before is not _COMMITTED:
                before = _MISSING
            try:
                fresh = encode_or_keep(key, value, None if before is _MISSING else raw)
            except ValueNotStorableError:
                fresh = encode(key, self._translated(value))
            if fresh != raw:
                weight_of_key(key)
                sets[key] = fresh
        removes = tuple(key for key in base if not dict.__contains__(self, key))
        limit = self._life.size_limit
        if sets and sum(map(len, sets.values())) + sum(map(len, saved.values())) > limit:
            self._weigh(sets)
        return Changes(sets, removes)

    def _fill(self, life: Life, record: Record) -> None:
        known: Known = record.__dict__.get(KNOWN) or known_of(record)
        self._fresh = fresh = split(known.packed) if known.packed else _NOTHING
        self._packed = known.packed
        self._base = base = known.contents | fresh if fresh else known.contents
        self._saved = record.values
        _update(self, base)
        principal = record.origin.principal
        if principal is not None:
            life.principal = principal

    def _take_typed(self) -> None:
        life = self._life
        for key, (instance, before) in life.typed.items():
            now = typed.plain(instance)
            if now != before:
                self[key] = typed.dumps(instance, dict.get(self, key))
                life.typed = {**life.typed, key: (instance, now)}

    def _use(self) -> None:
        failure = self._life.failure
        if failure is not None:
            self._life.failed = True
            raise failure.with_traceback(None)
        self._used = True

    def _start_empty(self) -> None:
        super().clear()
        self._base, self._saved, self._room, self._committed = {}, {}, None, ()
        self._fresh, self._packed = {}, b""
        self._atoms = self._raws = None
        life = self._life
        life.followed, life.typed = None, {}
        self._written = True

    def _translated(self, value: Any) -> Any:
        """A value that is refused as plain data, where a framework's own sessions know how."""
        return value

    def _check(self, new: dict[str, Any]) -> None:
        for key in new:
            weight_of_key(key)
        try:
            sets = {key: encode(key, value) for key, value in new.items()}
        except ValueNotStorableError:
            new.update({key: self._storable(key, value) for key, value in new.items()})
            sets = {key: encode(key, value) for key, value in new.items()}
        if self._room is None:
            self._room = self._whole_room()
        self._room -= weight_of(sets)
        if self._room < 0:
            self._weigh(sets)

    def _storable(self, key: str, value: Any) -> Any:
        try:
            encode(key, value)
        except ValueNotStorableError:
            return self._translated(value)
        return value

    def _whole_room(self) -> int:
        """Bytes that may be written before anything is."""
        life = self._life
        record = life.record
        if record is None or self._saved is not record.values:
            return life.size_limit - weight_of(self._saved)
        known = known_of(record)
        weight = known.weight
        if weight is None:
            weight = known.weight = weight_of(self._saved)
        return life.size_limit - weight

    def _weigh(self, sets: Mapping[str, bytes]) -> None:
        """Add up exactly: what was removed or replaced since counts no longer."""
        life = self._life
        items = dict.items(self)
        contents = {key: encode(key, self._storable(key, value)) for key, value in items}
        size = weight_of({**contents, **sets})
        self._room = life.size_limit - size
        if self._room < 0:
            self._room = life.size_limit - weight_of(contents)
            key = max(sets, key=lambda name: len(sets[name]))
            raise SessionTooLargeError(
                f"session[{key!r}] has {len(sets[key])} bytes and makes the session {size}; "
                f"the limit is {life.size_limit} (store it elsewhere and keep its id, "
                "or raise max_size)"
            )


_getitem, _update, _equal = dict.__getitem__, dict.update, dict.__eq__


def _watch(name: str) -> None:
    """Make a method of dict note the use first; `in` and `len` are uses too (S12)."""
    plain = getattr(dict, name)

    def method(self: Contents, *args: Any) -> Any:
        if not self._used:
            self._use()
        return plain(self, *args)

    method.__name__, method.__doc__ = name, plain.__doc__
    setattr(Contents, name, method)


def _watch_lending(name: str) -> None:
    """The same for a method that hands out values, which may be changed in place from then on."""
    plain = getattr(dict, name)

    def method(self: Contents, *args: Any) -> Any:
        if not self._used:
            self._use()
        found = plain(self, *args)
        if type(found) not in ATOMS:
            self._lent = True
        return found

    method.__name__, method.__doc__ = name, plain.__doc__
    setattr(Contents, name, method)


def _watch_removal(name: str) -> None:
    """The same for a method that takes something out."""
    plain = getattr(dict, name)

    def method(self: Contents, *args: Any) -> Any:
        if not self._used:
            self._use()
        self._written = True
        return plain(self, *args)

    method.__name__, method.__doc__ = name, plain.__doc__
    setattr(Contents, name, method)


for _name in (
    *("__contains__", "__len__", "__iter__", "__reversed__", "__repr__"),
    *("__eq__", "__ne__", "keys"),
):
    _watch(_name)
for _name in ("get", "values", "items", "copy", "__or__", "__ror__"):
    _watch_lending(_name)
for _name in ("__delitem__", "pop", "popitem", "clear"):
    _watch_removal(_name)
