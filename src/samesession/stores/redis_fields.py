"""What stands in a session's hash, and what the commit script is told and says: bytes and values.

No input or output; `samesession.stores.redis_scripts` describes the hash and is the other side.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from samesession.errors import StoreCorruptError
from samesession.record import (
    COMMITS_KEPT,
    LATEST_MS,
    MARK_MS,
    Absent,
    Applied,
    Commit,
    Delta,
    Ended,
    Ending,
    Key,
    Lost,
    Mark,
    Ms,
    Origin,
    Outcome,
    Reason,
    Record,
    Taken,
)
from samesession.stores import redis_scripts as lua
from samesession.stores.redis_wire import Reply

Fields = Mapping[bytes, bytes]

# Token, now, floor, idle until, at_least's number and tag; whether the record is to be made, may
# stay empty, and is a near cache's; how many keys are set, and removed. One argument, because each
# costs more on its way and in the server than what it says.
_SAID = struct.Struct(">8sQQQQ2s???II").pack
_ENTRY = struct.Struct(">I8s")
_TIMES = struct.Struct(">QQQ")
_APPLIED = {
    _TIMES.size + _ENTRY.size * kept: struct.Struct(">QQQ" + "I8s" * kept).unpack
    for kept in range(1, COMMITS_KEPT + 1)
}
_pack = msgspec.msgpack.Encoder().encode
_unpack_origin = msgspec.msgpack.Decoder(tuple[str, Origin]).decode
_unpack_mark = msgspec.msgpack.Decoder(tuple[Reason, Ms, bytes, str | None]).decode

# What unpacking bytes that are none of ours may raise.
_UNREADABLE = (
    KeyError,
    TypeError,
    ValueError,  # UnicodeDecodeError is one
    RecursionError,
    struct.error,
    msgspec.MsgspecError,
)


# -- the commit script -----------------------------------------------------------------------------


def arguments(delta: Delta, *, tracked: bool = False) -> list[str | bytes | int]:
    """A delta as the commit script's arguments.

    Args:
        tracked: whether the connection is a near cache's.
    """
    seen, origin, sets, removes = delta.at_least, delta.origin, delta.sets, delta.removes
    number, tag = (0, b"") if seen is None else (seen.number, seen.tag)
    said = _SAID(
        delta.token,
        delta.now_ms,
        delta.floor,
        delta.idle_until_ms,
        number,
        tag,
        origin is not None,
        delta.keep_empty,
        tracked,
        len(sets),
        len(removes),
    )
    what: list[str | bytes | int] = [said]
    if origin is not None:
        # The key stands inside too: a record copied under another key is not believed.
        kind = b"a" if origin.principal is None else b"s"
        what += (kind + _pack((delta.key, origin)), origin.absolute_ms)
    if removes:  # only what takes a key away can empty a record
        what += (_pack((Reason.EMPTIED, delta.now_ms, delta.token, None)), MARK_MS)
    for name, raw in sets.items():
        what += (field(name), raw)
    if removes:
        what += map(field, removes)
    return what


def outcome_of(reply: Reply) -> Outcome:
    """What the commit script says.

    Raises:
        StoreCorruptError: it, or we, cannot read what stands there.
    """
    if type(reply) is bytes:
        return _applied(reply)
    kind = reply[0]
    if kind == lua.ENDED:
        if len(reply) == 2:
            return Ended(unmark(reply[1]))
        return Ended(Mark(Reason.EXPIRED, int(reply[2]), b""))
    if kind == lua.LOST:
        return Lost(_commits(reply[1]))
    if kind == lua.UNREADABLE:
        raise StoreCorruptError("the commits or the times of a session are unreadable")
    return Taken() if kind == lua.TAKEN else Absent()


def stands(reply: bytes) -> tuple[bytes, bytes]:
    """The fields of commits and of times, as they stand after a commit that was applied."""
    return reply[_TIMES.size :], reply[: _TIMES.size]


def _applied(reply: bytes) -> Applied:
    unpack = _APPLIED.get(len(reply))
    if unpack is None:  # of another build, which keeps more commits
        commits, times = stands(reply)
        return Applied(_commits(commits), *_times(times))
    seen, idle_until, _absolute, *entries = unpack(reply)
    _check_times(seen, idle_until)
    return Applied(tuple(map(Commit, entries[::2], entries[1::2])), seen, idle_until)


# -- the hash --------------------------------------------------------------------------------------


def field(name: str) -> bytes:
    """The field of one of the application's keys."""
    return b"." + name.encode()


def packed(commits: Iterable[Commit]) -> bytes:
    """The field of commits."""
    return b"".join(_ENTRY.pack(commit.number, commit.token) for commit in commits)


def fields_in(reply: Reply) -> Fields:
    """What HGETALL answers: a map in RESP3, a list in RESP2 and from scripts."""
    return dict(zip(reply[::2], reply[1::2], strict=True)) if type(reply) is list else reply


def stored(key: Key, fields: Fields) -> Record | Mark | None:
    """What a session's fields say.

    Raises:
        StoreCorruptError: it cannot be read.
    """
    if not fields:
        return None
    return _mark(key, fields) if b"e" in fields else _record(key, fields)


def readable(key: Key, reply: Reply) -> Record | Mark | None:
    """The same of what HGETALL answers; None, too, when it cannot be read."""
    try:
        return None if isinstance(reply, StoreCorruptError) else stored(key, fields_in(reply))
    except StoreCorruptError:
        return None


def standing(key: Key, fields: Fields, ending: Ending) -> Mark:
    """The mark that stands after an end; one that is unreadable ended something, too."""
    try:
        return _mark(key, fields)
    except StoreCorruptError:
        return Mark(Reason.EXPIRED, ending.at_ms, b"")


def unmark(raw: bytes) -> Mark:
    """A mark, without what stands beside it.

    Raises:
        StoreCorruptError: it cannot be read.
    """
    try:
        reason, at_ms, token, successor = _unpack_mark(raw)
    except _UNREADABLE as error:
        raise StoreCorruptError(f"the mark of an ended session is unreadable: {error}") from None
    return Mark(reason, at_ms, token, None if successor is None else Key(successor))


def ends_ms(times: bytes) -> int:
    """The earlier of its deadlines; 0 when they cannot be read."""
    return min(_TIMES.unpack(times)[1:]) if len(times) == _TIMES.size else 0


def _record(key: Key, fields: Fields) -> Record:
    try:
        owner, origin = _unpack_origin(fields[b"m"][1:])
        seen, idle_until = _times(fields[b"t"])
        commits = _commits(fields[b"c"])
        values = {name[1:].decode(): raw for name, raw in fields.items() if name[:1] == b"."}
    except _UNREADABLE as error:
        raise StoreCorruptError(f"record {key} is unreadable: {error}") from None
    if owner != key:
        raise StoreCorruptError(f"record {key} is another one's")
    return Record(key, origin, commits, seen, idle_until, values)


def _mark(key: Key, fields: Fields) -> Mark:
    mark = unmark(fields[b"e"])
    return replace(mark, final=_record(key, fields)) if b"c" in fields else mark


def _commits(raw: bytes) -> tuple[Commit, ...]:
    if not raw or len(raw) % _ENTRY.size:
        raise StoreCorruptError(f"{len(raw)} bytes are no list of commits")
    return tuple([Commit(number, token) for number, token in _ENTRY.iter_unpack(raw)])


def _times(raw: bytes) -> tuple[int, int]:
    """When the session was last seen, and its idle deadline."""
    if len(raw) != _TIMES.size:
        raise StoreCorruptError(f"{len(raw)} bytes are no times")
    seen, idle_until, _absolute = _TIMES.unpack(raw)
    _check_times(seen, idle_until)
    return seen, idle_until


def _check_times(seen: int, idle_until: int) -> None:
    if seen > LATEST_MS or idle_until > LATEST_MS:
        raise StoreCorruptError("its times lie beyond the year 9999")
