"""A record or a mark as one value, for engines that keep values whole."""

from __future__ import annotations

import msgspec

from samesession.errors import StoreCorruptError
from samesession.record import MARK_MS, Key, Mark, Record

_RECORD, _MARK = b"r", b"m"
_pack = msgspec.msgpack.Encoder().encode
_unpack_record = msgspec.msgpack.Decoder(Record).decode
_unpack_mark = msgspec.msgpack.Decoder(Mark).decode


def dumps(value: Record | Mark) -> bytes:
    """The bytes of a record or a mark."""
    return (_RECORD if isinstance(value, Record) else _MARK) + _pack(value)


def loads(key: Key, raw: bytes) -> Record | Mark:
    """What the bytes under a key say.

    Raises:
        StoreCorruptError: they are unreadable, or another record's.
    """
    try:
        if raw[:1] == _MARK:
            return _unpack_mark(raw[1:])
        record = _unpack_record(raw[1:])
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:  # text that is no UTF-8
        raise StoreCorruptError(f"record {key} is unreadable: {error}") from None
    if raw[:1] != _RECORD or record.key != key or not record.commits:
        raise StoreCorruptError(f"record {key} is another one's")
    return record


def readable(key: Key, raw: bytes) -> Record | Mark | None:
    """The same for those who list or end: something unreadable is as good as nothing."""
    try:
        return loads(key, raw)
    except StoreCorruptError:
        return None


def forget_ms(value: Record | Mark) -> int:
    """When a record or a mark may go: not before `MARK_MS` after its end."""
    return (value.ends_ms if isinstance(value, Record) else value.at_ms) + MARK_MS
