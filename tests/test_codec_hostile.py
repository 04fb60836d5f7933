"""Bytes that are none of ours: unreadable, counted by the reader, and nothing else happens."""

from __future__ import annotations

import os
import pickle
import time
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_codec import TEXT, VALUES, decoded, same

from samesession.codec import DEPTH, decode, encode
from samesession.errors import StoreCorruptError


def ext(code: int, data: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, data))


def deep_extension(depth: int, code: int) -> bytes:
    raw = b"\x01"
    for _ in range(depth):
        raw = ext(code, b"\x91" + raw)
    return raw


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.abort, ()


HOSTILE = {
    "nothing": b"",
    "pickle": pickle.dumps(Bomb()),
    "pickle of data": pickle.dumps({"a": 1}),
    "json": b'{"a": 1}',
    "two values": encode("k", 1) * 2,
    "never used byte": b"\xc1",
    "lists 100 000 deep": b"\x91" * 100_000 + b"\x01",
    "dicts 100 000 deep": b"\x81\xa1a" * 100_000 + b"\x01",
    "lists one too deep": b"\x91" * (DEPTH + 1) + b"\x01",
    "tuples one too deep": deep_extension(DEPTH + 1, 1),
    "tuples 3000 deep": deep_extension(3000, 1),
    "frozensets 3000 deep": deep_extension(3000, 3),
    "a list that says four milliards": b"\xdd\xff\xff\xff\xff",
    "a dict that says four milliards": b"\xdf\xff\xff\xff\xff\x01",
    "text that says four milliards": b"\xdb\xff\xff\xff\xff",
    "an extension that says four milliards": b"\xc9\xff\xff\xff\xff\x01",
    "text that is not UTF-8": b"\xa2\xff\xfe",
    "set of a list": ext(2, b"\x91\x90"),
    "tuple of no list": ext(1, b"\x01"),
    "datetime": ext(4, b"not a date"),
    "datetime not UTF-8": ext(4, b"\xff"),
    "datetime year 0": ext(4, b"0000-01-01T00:00:00"),
    "date": ext(5, b"2026-13-45"),
    "timedelta too long": ext(6, b"\x93\xcf" + b"\xff" * 8 + b"\x00\x00"),
    "timedelta of text": ext(6, b"\x91\xa1a"),
    "timedelta with eight parts": ext(6, b"\x98" + b"\x00" * 8),
    "Decimal": ext(7, b"1,5"),
    "Decimal of a surrogate": ext(7, b"\xed\xa0\x80"),
    "UUID of 15 bytes": ext(8, b"x" * 15),
    "Markup not UTF-8": ext(9, b"\xff"),
    **{f"extension {code}": ext(code, b"\x90") for code in (-128, -2, -1, 0, 10, 42, 127)},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_corrupt_and_nothing_else(case: str) -> None:
    raw = HOSTILE[case]
    with pytest.raises(StoreCorruptError):
        decode(raw)
    good = encode("good", [1])
    assert decoded({"bad": raw, "good": good}) == {"good": [1]}


@given(VALUES)
@settings(max_examples=30)
def test_a_value_cut_off_at_any_byte_is_corrupt(value: Any) -> None:
    raw = encode("key", value)
    for length in range(len(raw)):
        with pytest.raises(StoreCorruptError):
            decode(raw[:length])


@given(st.binary(max_size=80))
@settings(max_examples=400)
@example(b"\xd6\xff\x00\x00\x00\x00")  # msgpack's own timestamp: a datetime, and harmless
def test_any_bytes_are_a_value_or_corrupt(raw: bytes) -> None:
    try:
        value = decode(raw)
    except StoreCorruptError:
        assert decoded({"key": raw}) == {}
    else:
        assert same(decoded({"key": raw})["key"], value)


@given(VALUES, st.data())
def test_a_flipped_byte_is_another_value_or_corrupt(value: Any, data: st.DataObject) -> None:
    raw = bytearray(encode("key", value))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    if len(decoded({"key": bytes(raw)})) == 0:
        with pytest.raises(StoreCorruptError):
            decode(bytes(raw))


def test_a_long_hostile_value_is_judged_quickly() -> None:
    """Nested extensions copy what they hold; half a megabyte of them must not take seconds."""
    raw = deep_extension(20_000, 1)
    began = time.perf_counter()
    with pytest.raises(StoreCorruptError):
        decode(raw)
    assert time.perf_counter() - began < 2


def test_a_value_of_fifty_megabytes_is_only_a_value() -> None:
    raw = b"\xdb" + (50_000_000).to_bytes(4, "big") + b"x" * 50_000_000
    assert len(decode(raw)) == 50_000_000


@given(
    st.dictionaries(TEXT, VALUES, min_size=1, max_size=5),
    st.data(),
    st.sampled_from(["cut", "flip", "more", "other"]),
)
@settings(max_examples=200)
def test_one_bad_value_costs_only_itself(
    values: dict[str, Any], data: st.DataObject, damage: str
) -> None:
    raw = {key: encode(key, value) for key, value in values.items()}
    bad = data.draw(st.sampled_from(sorted(raw)))
    at = data.draw(st.integers(0, len(raw[bad]) - 1))
    raw[bad] = {
        "cut": raw[bad][:at],
        "flip": raw[bad][:at] + bytes([raw[bad][at] ^ 0xFF]) + raw[bad][at + 1 :],
        "more": raw[bad] + raw[bad][at:],
        "other": data.draw(st.binary(max_size=20)),
    }[damage]
    found = decoded(raw)
    for key, value in values.items():
        if key != bad:
            assert same(found[key], value)
    try:
        expected = decode(raw[bad])
    except StoreCorruptError:
        assert bad not in found
    else:
        assert same(found[bad], expected)
