"""Values as bytes and back: exactly the same value, or a refusal that names the key."""
# ruff: noqa: DTZ001, DTZ901  (naive times are values too)

from __future__ import annotations

import enum
import math
import os
import subprocess
import sys
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from django.utils.datastructures import MultiValueDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from werkzeug.datastructures import CombinedMultiDict, MultiDict

from samesession import codec
from samesession.codec import DEPTH, decode, decode_all, encode
from samesession.errors import ValueNotStorableError

Point = namedtuple("Point", "x y")


def decoded(values: dict[str, bytes]) -> dict[str, Any]:
    """All values of a record, as a session decodes them."""
    return decode_all(values)


class Size(enum.StrEnum):
    LARGE = "large"


class Level(enum.IntEnum):
    HIGH = 3


class OldSize(str, enum.Enum):  # noqa: UP042  (what code from before Python 3.11 does)
    SMALL = "small"


class Plain(enum.Enum):
    ONE = 1


LIES = {"isoformat": lambda _self: "lie", "__str__": lambda _self: "lie", "days": 7}


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types all the way down; a NaN is itself, -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and (
            one == other or (math.isnan(one) and math.isnan(other))
        )
    if isinstance(one, Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, datetime):
        return one == other and one.fold == other.fold and one.utcoffset() == other.utcoffset()
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    return bool(one == other)


DAY_S = 86_400
OFFSETS = st.integers(1 - DAY_S, DAY_S - 1).map(lambda seconds: timedelta(seconds=seconds))
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False),
    TEXT,
    st.binary(max_size=20),
    st.datetimes(allow_imaginary=False),
    st.datetimes(timezones=OFFSETS.map(timezone)).map(lambda when: when.replace(fold=1)),
    st.dates(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
SCALARS = HASHABLE | st.just(math.nan) | st.decimals() | TEXT.map(Markup)
DICT_KEYS = TEXT | st.integers(-(1 << 63), (1 << 64) - 1) | st.booleans() | st.none()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(DICT_KEYS, inner, max_size=4),
        st.sets(HASHABLE, max_size=4),
        st.frozensets(HASHABLE | st.frozensets(HASHABLE, max_size=2), max_size=4),
    ),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=400)
@example({"nested": [({1, 2}, frozenset({b""})), Markup("<b>")], "": None})
@example([Decimal("sNaN123"), Decimal("-0.00"), Decimal("1E+999999"), Decimal("Infinity")])
@example([datetime.max, datetime.min, date.max, date.min, timedelta.max, timedelta.min])
@example([datetime(1, 1, 1, fold=1), datetime(2024, 5, 5, 1, 30, tzinfo=UTC)])
@example([(1 << 64) - 1, -(1 << 63), 5e-324, -0.0, math.inf, True, 1, 1.0])
@example([[("x",)] * 40, "\U0001f600" * 40, b"\x80" * 40])
@example({1: "int", "1": "str", None: "none"})
def test_every_value_comes_back_exactly(value: Any) -> None:
    raw = encode("key", value)
    assert same(decode(raw), value)
    assert same(decoded({"key": raw})["key"], value)


@given(VALUES)
def test_encoding_twice_gives_the_same_bytes(value: Any) -> None:
    raw = encode("key", value)
    assert encode("key", decode(raw)) == raw


class EasyDict(dict[str, Any]):
    """As libraries of that name: every key is an attribute, over its methods, too."""

    def __init__(self, contents: dict[str, Any]) -> None:
        super().__init__(contents)
        self.__dict__.update(contents)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Point(1, (2, Point(3, 4))), (1, (2, (3, 4)))),
        (Size.LARGE, "large"),
        (OldSize.SMALL, "small"),
        (Level.HIGH, 3),
        ([Size.LARGE, {Level.HIGH}], ["large", {3}]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (Counter("aab"), {"a": 2, "b": 1}),
        # Forms, which JSON asks for their `items`.
        ({"form": MultiDict([("a", "1"), ("a", "2")])}, {"form": {"a": "1"}}),
        (CombinedMultiDict([MultiDict({"a": "1"}), MultiDict({"b": "2"})]), {"a": "1", "b": "2"}),
        (MultiValueDict({"a": ["1", "2"]}), {"a": "2"}),
        (EasyDict({"items": [1]}), {"items": [1]}),
        ({Size.LARGE: 1}, {"large": 1}),
        (type("Words", (list,), {})(["x"]), ["x"]),
        (type("Metres", (float,), {})(1.5), 1.5),
        (type("Text", (str,), {"__str__": lambda _self: "lie"})("truth"), "truth"),
        ({"at": Markup("<i>")}, {"at": Markup("<i>")}),
        (
            [type("Frozen", (datetime,), LIES)(2026, 1, 2, 3, tzinfo=UTC)],
            [datetime(2026, 1, 2, 3, tzinfo=UTC)],
        ),
        (type("Day", (date,), LIES)(2026, 1, 2), date(2026, 1, 2)),
        (type("Span", (timedelta,), LIES)(1, 2, 3), timedelta(1, 2, 3)),
        (type("Price", (Decimal,), LIES)("1.50"), Decimal("1.50")),
        (type("Names", (set,), {})({"a"}), {"a"}),
        ({"id": type("Id", (UUID,), {})(int=7)}, {"id": UUID(int=7)}),
    ],
    ids=str,
)
def test_a_subclass_of_a_plain_type_is_stored_as_its_base(value: Any, stored: Any) -> None:
    assert same(decode(encode("key", value)), stored)


def test_a_test_that_freezes_time_puts_its_own_datetime_in_place_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen = type("FakeDatetime", (datetime,), {})
    monkeypatch.setattr(codec, "datetime", frozen)
    back = decode(encode("key", frozen(2026, 1, 14, tzinfo=UTC)))
    assert back == datetime(2026, 1, 14, tzinfo=UTC)


@pytest.mark.parametrize("zone", [ZoneInfo("Europe/Berlin"), ZoneInfo("America/St_Johns")])
@pytest.mark.parametrize("fold", [0, 1])
def test_a_time_in_a_named_zone_keeps_its_moment(zone: tzinfo, fold: int) -> None:
    """The name of the zone is not kept: an offset is data, a rule of a country is not."""
    when = datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=fold)
    back = decode(encode("key", when))
    assert back.timestamp() == when.timestamp()
    assert (back.utcoffset(), back.fold) == (when.utcoffset(), fold)


@dataclass
class Thing:
    name: str


def nested(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


def endless() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


REFUSED = {
    "object": object(),
    "function": len,
    "class": int,
    "dataclass": Thing("x"),
    "enum": Plain.ONE,
    "int beyond 64 bits": 1 << 64,
    "int below 64 bits": -(1 << 63) - 1,
    "dict key beyond 64 bits": {1 << 64: 1},
    "tuple as a dict key": {(1, 2): 3},
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "deque": deque([1]),
    "UserDict": UserDict(a=1),
    "generator": (n for n in [1]),
    "complex": 1j,
    "Fraction": Fraction(1, 3),
    "path": PurePosixPath("/x"),
    "time zone": UTC,
    "offset below a second": datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
    "time": datetime(2026, 1, 1).time(),
    "exception": ValueError("x"),
    "lone surrogate": "\ud800",
    "lone surrogate inside": ["\udfff"],
    "lone surrogate in Markup": Markup("\ud800"),
    "lone surrogate as a dict key": {"\ud800": 1},
    "msgspec's own extension": msgspec.msgpack.Ext(1, b"x"),
    "ready-made msgpack": msgspec.Raw(b"\x01"),
    "too deep": nested(DEPTH + 1),
    "a set too deep": nested(DEPTH + 1, lambda inner: frozenset({inner})),
    "a tuple too deep": nested(DEPTH + 1, lambda inner: (inner,)),
    "a dict too deep": nested(DEPTH + 1, lambda inner: {"a": inner}),
    "far too deep": nested(100_000),
    "endless": endless(),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"deep": [value]}])
def test_what_is_not_plain_data_is_refused_by_its_key(
    case: str, wrap: Callable[[Any], Any]
) -> None:
    with pytest.raises(ValueNotStorableError, match=r"session\['bas\\nket'\]"):
        encode("bas\nket", wrap(REFUSED[case]))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: [inner],
        lambda inner: (inner,),
        lambda inner: {"a": inner},
        lambda inner: frozenset({inner}),
    ],
)
def test_the_deepest_value_that_is_taken_also_comes_back(wrap: Callable[[Any], Any]) -> None:
    value = nested(DEPTH, wrap)
    assert decode(encode("key", value)) == value
    assert decoded({"key": encode("key", value)}) == {"key": value}


SET_BYTES = """
from samesession import codec
from samesession.codec import encode
words = {f"word {n}" for n in range(50)} | {1, 2.5, None, b"x", (1, 2), frozenset("abc")}
print(encode("k", [words, frozenset(words), {"deep": {"x", "y", "z"}}]).hex())
"""


def test_a_set_has_the_same_bytes_in_every_process() -> None:
    seen = {
        subprocess.run(
            [sys.executable, "-c", SET_BYTES],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("0", "1", "424242")
    }
    assert len(seen) == 1


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_values_of_a_record_are_decoded_as_each_by_itself(values: dict[str, Any]) -> None:
    raw = {key: encode(key, value) for key, value in values.items()}
    assert same(decoded(raw), {key: decode(value) for key, value in raw.items()})


def test_markup_without_markupsafe_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encode("key", Markup("<b>"))
    monkeypatch.setitem(sys.modules, "markupsafe", None)
    assert type(decode(raw)) is str
    assert decode(raw) == "<b>"


def test_a_uuid_of_any_kind_is_a_uuid() -> None:
    value = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")
    assert type(decode(encode("key", value))) is UUID
