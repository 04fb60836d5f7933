"""Poisoned bytes: what a broken program, a broken disk or an enemy may leave in a store."""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

pack = msgspec.msgpack.encode
HUGE = (1 << 64) - 1
DEPTH = 100_000


class Executed:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self._witness}",)


def values(witness: Path) -> Mapping[str, bytes]:
    """One key's value, poisoned; the rest of the record is honest."""
    ext = msgspec.msgpack.Ext
    return {
        "pickle": pickle.dumps(Executed(witness)),
        "pickle in an extension": pack(ext(4, pickle.dumps(Executed(witness)))),
        "unknown extension": pack(ext(99, b"x")),
        "negative extension": pack(ext(-5, b"x")),
        "timestamp out of range": b"\xc7\x0c\xff\xff\xff\xff\xff" + b"\xff" * 8,
        **{f"empty extension {code}": pack(ext(code, b"")) for code in range(1, 10)},
        **{f"junk in extension {code}": pack(ext(code, b"\xff\x00junk")) for code in range(1, 10)},
        "date of another calendar": pack(ext(5, b"9999-99-99")),
        "endless decimal": pack(ext(7, b"1e999999999")),
        "signalling decimal": pack(ext(7, b"sNaN")),
        "set of a list": pack(ext(2, pack([[1]]))),
        "interval beyond": pack(ext(6, pack([10**18, 0, 0]))),
        "interval of text": pack(ext(6, pack(["a"]))),
        "deep list": b"\x91" * DEPTH + b"\xc0",
        "deep map": b"\x81\xa1a" * DEPTH + b"\xc0",
        "deep tuples": nested_extensions(3000),
        "33 deep": b"\x91" * 33 + b"\xc0",
        "not a number": pack(float("nan")),
        "infinite": pack(float("inf")),
        "map with odd keys": b"\x83\xc0\x01\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x02\xc3\x03",
        "map with a list as a key": b"\x81\x91\x01\x01",
        "map with a key twice": b"\x82\xa1a\x01\xa1a\x02",
        "length that lies": b"\xdb\xff\xff\xff\xffabc",
        "map length that lies": b"\xdf\xff\xff\xff\xff",
        "text that is no UTF-8": b"\xa2\xff\xfe",
        "lone surrogate": b"\xa3\xed\xa0\x80",
        "nothing": b"",
        "two values": b"\x01\x02",
        "reserved": b"\xc1",
        "headers": b"Set-Cookie: x\r\n\r\n",
        "line ends": pack("a\r\nSet-Cookie: session=evil\r\n\r\n<script>"),
        "path": pack("../../x"),
        "zero": pack("\0"),
    }


def nested_extensions(depth: int) -> bytes:
    raw = pack(1)
    for _ in range(depth):
        raw = pack(msgspec.msgpack.Ext(1, b"\x91" + raw))
    return raw


def structures(honest: bytes) -> Mapping[str, bytes]:
    """A packed structure, poisoned: times, names and lengths that cannot be."""
    return {
        "nothing": b"",
        "nil": b"\xc0",
        "number": b"\x01",
        "reserved": b"\xc1",
        "text": pack("x"),
        "map": pack({"a": 1}),
        "empty list": b"\x90",
        "list of nil": pack([None] * 8),
        "list of huge": pack([HUGE] * 8),
        "list of negative": pack([-1] * 8),
        "deep": b"\x91" * DEPTH + b"\xc0",
        "pickle": pickle.dumps({"a": 1}),
        "more behind it": honest + b"\x91" * DEPTH,
        "path": b"../../x",
        "line ends": b"\r\n\r\n",
        "zeros": b"\0" * len(honest),
        "ones": b"\xff" * len(honest),
    }


def truncated(honest: bytes) -> Iterator[bytes]:
    """Cut at each byte."""
    return (honest[:at] for at in range(len(honest)))


def damaged(honest: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, removed, added or repeated."""
    raw = bytearray(honest)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(raw) + 1)
        match chance.randrange(5):
            case 0 if raw:
                raw[at % len(raw)] ^= 1 << chance.randrange(8)
            case 1 if raw:
                raw[at % len(raw)] = chance.choice(
                    b"\x00\x7f\x80\x8f\x90\x9f\xc0\xc1\xc7\xd9\xdd\xdf\xff"
                )
            case 2:
                raw[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 3:
                del raw[at : at + chance.randrange(1, 9)]
            case _:
                raw[at:at] = raw[at : at + chance.randrange(1, 20)]
    return bytes(raw)


def times(*numbers: int) -> bytes:
    """The times of a record as Redis keeps them."""
    return struct.pack(">QQQ", *numbers)
