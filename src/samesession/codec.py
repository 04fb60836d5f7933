"""Values as bytes and back, exactly: msgpack for plain data, extension types for the rest.

msgspec alone turns a tuple into a list and a Decimal into text without a word (MEASURED 5); so
values are walked first, and what is not plain is tagged. Nothing here can run code: there is no
pickle, and an unknown tag is an unreadable value, not an import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from samesession.errors import StoreCorruptError, ValueNotStorableError

DEPTH = 32
"""Containers inside containers; OWASP asks for a bound, and no session needs more."""

ATOMS = frozenset(
    {str, int, float, bool, type(None), bytes, datetime, date, timedelta, Decimal, UUID}
)
"""Types that cannot change in place: the same object is the same value."""

_BASES: tuple[type[Any], ...] = (int, float, tuple, list)
_PLAIN = frozenset({str, float, bool, type(None), bytes})
_STR = frozenset({str})
LEAVES = _PLAIN | {int}
"""Atoms that msgpack has itself: decoding their bytes gives nothing but the same values again."""

_NESTING = LEAVES | {list, dict}
_KEYS = frozenset({str, int, float, bool, type(None), bytes})
_SECOND = timedelta(seconds=1)
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1
_TOO_GREAT = "holds an int beyond 64 bits; store it as str or Decimal"
# A container's header in msgpack; the same bytes inside text only make `decode` look closer.
_HEADERS = bytes(
    int(0x80 <= byte <= 0x9F or 0xC7 <= byte <= 0xC9 or 0xD4 <= byte <= 0xDF) for byte in range(256)
)

pack = msgspec.msgpack.Encoder().encode


class _UnstorableError(Exception):
    """Carries the reason up to where the key's name is known."""


def encode(key: str, value: Any) -> bytes:
    """Encode one value.

    Args:
        key: for the message only.
        value: None, bool, int (64 bits), float, str, bytes, list, dict, tuple, set, frozenset,
            datetime, date, timedelta, Decimal, UUID, Markup, nested up to `DEPTH`. Subclasses of
            str, int, float, list, dict and tuple are stored as their base, as JSON does.

    Raises:
        ValueNotStorableError: anything else; names the key and the type.
    """
    kind = type(value)
    try:
        if kind in LEAVES:
            return pack(value)
        if kind is dict or kind is list:
            raw = _packed_if_plain(value)
            if raw is not None:
                return raw
        return pack(_tagged(value, DEPTH))
    except _UnstorableError as error:
        raise ValueNotStorableError(f"session[{key!r}] {error}") from None
    except OverflowError:
        raise ValueNotStorableError(f"session[{key!r}] {_TOO_GREAT}") from None
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        raise ValueNotStorableError(f"session[{key!r}] cannot be stored: {error}") from None


def decode(raw: bytes) -> Any:
    """Decode one value.

    Raises:
        StoreCorruptError: these bytes are none of ours, or nest too deep.
    """
    try:
        value = _unpack(raw)
        if _may_be_deep(raw):
            _tagged(value, DEPTH)
    except (msgspec.MsgspecError, _UnstorableError, RecursionError) as error:
        raise StoreCorruptError(f"unreadable value: {error}") from None
    except Exception as error:  # noqa: BLE001  (a hostile extension may fail in any constructor)
        raise StoreCorruptError(f"unreadable value: {type(error).__name__}") from None
    return value


def decode_all(values: Mapping[str, bytes]) -> dict[str, Any]:
    """Decode every value that can be read; the keys of the others are missing."""
    try:
        contents = {key: _unpack(raw) for key, raw in values.items()}
        nests = [values[key] for key, value in contents.items() if type(value) not in ATOMS]
        if not any(map(_may_be_deep, nests)):
            return contents
    except Exception:  # noqa: BLE001, S110  (whatever it was, now each value by itself)
        pass
    contents = {}
    for key, raw in values.items():
        with suppress(StoreCorruptError):
            contents[key] = decode(raw)
    return contents


def joined(raws: Mapping[str, bytes]) -> bytes:
    """Several encoded values as one, for `split`."""
    return pack(dict(zip(raws, map(msgspec.Raw, raws.values()), strict=True)))


def is_still(value: Any, raw: bytes) -> bool:
    """Whether a value is what its bytes say, as C calls can tell; False: look closer.

    Equal bytes alone would miss a list that became a tuple, equal values alone a 1 that became 1.0.
    """
    try:
        return pack(value) == raw and bool(_unpack(raw) == value)
    except Exception:  # noqa: BLE001  (whatever it is, encoding it finds words for it)
        return False


def _may_be_deep(raw: bytes) -> bool:
    """Deep nesting needs many headers; counting them is C, so honest values pay 0.2 µs."""
    return len(raw) > DEPTH and raw.translate(_HEADERS).count(1) > DEPTH


def _packed_if_plain(value: Any) -> bytes | None:
    """Encode a list or dict if msgpack has every type in it: a third of the price of a walk."""
    try:
        raw = pack(value)  # first, because it gives up on a cycle at once
    except Exception:  # noqa: BLE001  (whatever it is, the walk finds words for it)
        return None
    level = [value]
    for _ in range(DEPTH):
        below: list[Any] = []
        for container in level:
            items = container
            if type(container) is dict:
                if not _STR.issuperset(map(type, container)):
                    return None
                items = container.values()
            kinds = set(map(type, items))
            if not kinds <= LEAVES:
                if not kinds <= _NESTING:
                    return None
                below += [item for item in items if type(item) is dict or type(item) is list]
        if not below:
            return raw
        level = below
    return None


def _tagged(value: Any, depth: int) -> Any:
    """Return ``value`` with everything that msgpack does not have wrapped in an extension."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise _UnstorableError(_TOO_GREAT)
        return value
    if depth == 0:
        raise _UnstorableError(f"nests deeper than {DEPTH} containers; flatten it")
    if kind is list:
        return [_tagged(item, depth - 1) for item in value]
    if kind is dict:
        return {_dict_key(key): _tagged(item, depth - 1) for key, item in value.items()}
    tag = _TAGS.get(kind)
    if tag is not None:
        code, write = tag
        return msgspec.msgpack.Ext(code, write(value, depth))
    if isinstance(value, str):
        text = str.__str__(value)
        marked = hasattr(value, "__html__")  # text that says it is safe HTML stays so marked
        return msgspec.msgpack.Ext(_MARKUP, text.encode()) if marked else text
    plainer = _base(value, depth)
    return plainer if type(plainer) is msgspec.msgpack.Ext else _tagged(plainer, depth)


def _dict_key(key: Any) -> Any:
    kind = type(key)
    if kind is int and not _INT_MIN <= key <= _INT_MAX:
        raise _UnstorableError("holds a dict key beyond 64 bits")
    if kind not in _KEYS:
        if isinstance(key, str):
            return str.__str__(key)
        raise _UnstorableError(f"holds a dict key of type {kind.__qualname__}; use str")
    return key


def _base(value: Any, depth: int) -> Any:
    """A subclass of a plain type as that type."""
    if isinstance(value, dict):
        # By its own `items`, as JSON does: forms (`request.form`, `request.GET`) hold lists below.
        return dict(type(value).items(value))
    for base in _BASES:
        if isinstance(value, base):
            return base(value)
    for base, (code, write) in _TAGS.items():
        if isinstance(value, base):  # pendulum's; freezegun's, which stand under our names, too
            return msgspec.msgpack.Ext(code, write(value, depth))
    raise _UnstorableError(
        f"holds a {type(value).__qualname__}, which is not plain data; "
        "store str, numbers, lists, dicts, dates or an id of it"
    )


def _sequence(value: Any, depth: int) -> bytes:
    return pack([_tagged(item, depth - 1) for item in value])


def _sorted(value: Any, depth: int) -> bytes:
    # A set's order differs from process to process; its bytes must not.
    items = [_tagged(item, depth - 1) for item in value]
    return pack(sorted(items, key=pack))


def _text(value: Any, _depth: int) -> bytes:
    return Decimal.__str__(value).encode()


def _day(value: date, _depth: int) -> bytes:
    return date.isoformat(value).encode()


def _moment(value: datetime, _depth: int) -> bytes:
    offset = value.utcoffset()
    if offset and abs(offset) < _SECOND:  # Python reads what it writes of one as UTC
        raise _UnstorableError("holds a datetime less than a second off UTC; use a real zone")
    text = datetime.isoformat(value)
    return f"{text}~".encode() if value.fold else text.encode()


def _interval(value: timedelta, _depth: int) -> bytes:
    return pack(timedelta.__reduce__(value)[1])  # a subclass may count its days otherwise


_MARKUP = 9
_TAGS: dict[type, tuple[int, Callable[[Any, int], bytes]]] = {
    tuple: (1, _sequence),
    set: (2, _sorted),
    frozenset: (3, _sorted),
    datetime: (4, _moment),
    date: (5, _day),
    timedelta: (6, _interval),
    Decimal: (7, _text),
    UUID: (8, lambda value, _depth: value.bytes),
}


def _markup(data: bytes) -> str:
    # Without markupsafe in the process nothing renders it as HTML, so text is the safe reading.
    try:
        from markupsafe import Markup  # noqa: PLC0415
    except ImportError:
        return data.decode()
    return Markup(data.decode())  # noqa: S704  (it was Markup when the application stored it)


def _datetime(data: bytes) -> datetime:
    text = data.decode()
    if text.endswith("~"):
        return datetime.fromisoformat(text[:-1]).replace(fold=1)
    return datetime.fromisoformat(text)


def _read_extension(code: int, data: memoryview) -> Any:
    reader = _READERS.get(code)
    if reader is None:
        raise StoreCorruptError(f"unknown extension type {code}")
    return reader(bytes(data))


_unpack = msgspec.msgpack.Decoder(ext_hook=_read_extension).decode
_unpack_list: Callable[[bytes], list[Any]]
_unpack_list = msgspec.msgpack.Decoder(list, ext_hook=_read_extension).decode

split: Callable[[bytes], dict[str, Any]]
split = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_read_extension).decode
"""Decode values that were `joined`, each of which `decode_all` has read before."""

_READERS: dict[int, Callable[[bytes], Any]] = {
    1: lambda data: tuple(_unpack_list(data)),
    2: lambda data: set(_unpack_list(data)),
    3: lambda data: frozenset(_unpack_list(data)),
    4: _datetime,
    5: lambda data: date.fromisoformat(data.decode()),
    6: lambda data: timedelta(*_unpack_list(data)),
    7: lambda data: Decimal(data.decode()),
    8: lambda data: UUID(bytes=data),
    _MARKUP: _markup,
}
