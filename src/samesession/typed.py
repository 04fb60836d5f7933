"""Typed contents: an instance of a class, kept under one key of the session with a schema number.

    @dataclass
    class Cart:
        items: list[str] = field(default_factory=list)

    @migrates(Cart, 1, 2)
    def items_were_one_text(old: dict[str, Any]) -> dict[str, Any]:
        return {"items": old["items"].split()}

    session.as_(Cart).items.append("tea")

1. What is stored is a dict of plain data, so other code and other builds can read it.
2. A migration is applied on reading, and stored only when something was written: while a deployment
   rolls, servers of the older build go on reading what they know.
3. Fields that a class does not know are kept beside what it writes, and a newer build's number with
   them. So adding a field with a default is safe in both directions, with a new number or without.
4. What cannot be read as the class counts as missing, and stays until something is written. What is
   written over a newer build's contents then has this build's shape and number: both can read it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar, cast
from uuid import UUID

import msgspec

from samesession.errors import ConfigError

T = TypeVar("T")
Fields = dict[str, Any]
Migration = Callable[[Fields], Fields]

SCHEMA = "@schema"
_KEPT = (bytes, datetime, date, timedelta, Decimal, UUID)
_migrations: dict[type, dict[int, tuple[int, Migration]]] = {}


def migrates(kind: type, old: int, new: int) -> Callable[[Migration], Migration]:
    """Register how fields of schema ``old`` become those of ``new``; the highest one is current.

    Raises:
        ConfigError: it leads nowhere, or another one begins at ``old``.
    """
    if not 0 < old < new:
        raise ConfigError(f"@migrates({kind.__name__}, {old}, {new}): write a lower number first")
    steps = _migrations.setdefault(kind, {})
    if old in steps:
        raise ConfigError(f"@migrates({kind.__name__}, {old}, …) stands twice; keep one")

    def register(migration: Migration) -> Migration:
        steps[old] = (new, migration)
        return migration

    return register


def key_for(kind: type) -> str:
    """The session's key: ``__session_key__`` of the class, or its name in lower case."""
    return str(getattr(kind, "__session_key__", kind.__name__.lower()))


def loads(kind: type[T], stored: object) -> T:
    """The instance that was stored; one made without arguments where nothing can be read."""
    read = _read(kind, stored)
    return kind() if read is None else read[0]


def dumps(instance: object, stored: object) -> Fields:
    """What is stored for an instance, over what was stored before."""
    kind, kept = type(instance), {}
    number = _number(kind)
    read = _read(kind, stored)
    if read is not None:
        kept, number = read[1], max(number, _schema(read[1]))
    elif isinstance(stored, dict) and _schema(stored) > number:
        kept = stored
    return {**kept, **plain(instance), SCHEMA: number}


def plain(instance: object) -> Fields:
    """An instance's fields as plain data, to store and to compare."""
    if hasattr(instance, "model_dump"):  # pydantic
        return cast(Fields, instance.model_dump())
    return cast(Fields, msgspec.to_builtins(instance, builtin_types=_KEPT))


def _convert(fields: Fields, kind: type[T]) -> T:
    if hasattr(kind, "model_validate"):
        return cast(T, cast(Any, kind).model_validate(fields))
    return msgspec.convert(fields, kind, builtin_types=_KEPT)


def _read(kind: type[T], stored: object) -> tuple[T, Fields] | None:
    """An instance, and all fields that it was made of."""
    if not isinstance(stored, dict):
        return None
    number = _schema(stored)
    fields = {name: value for name, value in stored.items() if name != SCHEMA}
    steps = _migrations.get(kind, {})
    try:
        while number in steps:
            number, migration = steps[number]
            fields = migration(fields)
        return _convert(fields, kind), {**fields, SCHEMA: number}
    except Exception:  # noqa: BLE001  (a migration may fail as it likes)
        return None


def _schema(stored: Fields) -> int:
    number = stored.get(SCHEMA, 1)
    return number if isinstance(number, int) else 1


def _number(kind: type) -> int:
    return max((new for new, _ in _migrations.get(kind, {}).values()), default=1)
