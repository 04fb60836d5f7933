"""What a record's values say, decoded once and kept with the record."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from samesession.codec import ATOMS, LEAVES, decode_all, joined
from samesession.record import Record

KNOWN = "known"
"""Where a record's ``__dict__`` keeps it."""

_ANEW = object()  # stands for a value that can change in place: each session decodes its own


class Known(Struct):
    """What a record's values say, kept with the record.

    Attributes:
        contents: every value that can be read; not to be changed. Of those that can change in
            place only the keys: decoded they take up to 65 times their bytes.
        packed: these with their values, encoded as one, to decode them for each session anew;
            empty: none.
        weight: bytes of all keys and encoded values at most, once somebody has asked.
    """

    contents: dict[str, Any]
    packed: bytes
    weight: int | None = None


def known_of(record: Record) -> Known:
    """Decode a record, unless that was done before and every value could be read."""
    known: Known | None = record.__dict__.get(KNOWN)
    if known is None:
        values = record.values
        contents = decode_all(values)
        changeable = [key for key, value in contents.items() if type(value) not in ATOMS]
        packed = joined({key: values[key] for key in changeable}) if changeable else b""
        contents.update(dict.fromkeys(changeable, _ANEW))
        known = Known(contents, packed)
        if len(contents) == len(values):
            record.__dict__[KNOWN] = known
    return known


def builds_on(record: Record, before: Record, atoms: dict[str, Any] | None, weight: int) -> None:
    """Spare the next request the decoding of what a commit left alone, where that is easy.

    Args:
        record: as committed.
        before: what it was built on.
        atoms: the values that the commit set; None: not all of them are known.
        weight: bytes of the whole session at most.
    """
    known: Known | None = before.__dict__.get(KNOWN)
    if known is None or atoms is None:
        return
    contents = known.contents
    for key, value in atoms.items():
        # A value that can change in place and was replaced is not in `packed` any more.
        if type(value) not in LEAVES or contents.get(key) is _ANEW:
            return
    record.__dict__[KNOWN] = Known(contents | atoms, known.packed, weight)
