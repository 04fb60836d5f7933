"""The bytes of old sessions as plain data: JSON, msgpack, Flask's tags; never a pickle."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from datetime import timedelta
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import Any
from uuid import UUID

import msgspec

from samesession.errors import ConfigError


class PickledError(ValueError):
    """Bytes that only running somebody's code could read."""


def contents(data: object) -> dict[str, Any] | None:
    """A session's contents, or None where there are none."""
    return data if isinstance(data, dict) and data else None


def from_json(raw: bytes) -> Any:
    """Python's own JSON, which libraries write by default: it has NaN, too."""
    return json.loads(raw)


def from_msgpack(raw: bytes) -> Any:
    """Plain msgpack; its extension types stay what they are, and are refused later."""
    return msgspec.msgpack.decode(raw)


def dict_from(raw: bytes, *decoders: Callable[[bytes], Any]) -> dict[str, Any]:
    """The first decoder's dict that these bytes make.

    Raises:
        PickledError: they look like a pickle.
        ValueError: they make no dict otherwise.
    """
    for decode in decoders:
        try:
            data = decode(raw)
        except (ValueError, RecursionError, msgspec.MsgspecError):
            continue
        if isinstance(data, dict):
            return data
    # A pickle ends with its STOP; from protocol 2 on it begins with its number, before with a dict.
    if raw[-1:] == b"." and raw[:1] in {b"\x80", b"(", b"}", b"c"}:
        raise PickledError("a pickle is never opened")
    raise ValueError("no session that can be read")


def untagged(value: Any) -> Any:
    """Flask's ``json.tag``: a dict of one key that begins with a space is another type."""
    if isinstance(value, list):
        return [untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, inner),) = value.items()
        untag = _TAGS.get(tag)
        if untag is not None:
            return untag(inner)
    return {key: untagged(item) for key, item in value.items()}


def age_of(max_age: object, reader: object) -> timedelta:
    """How long an old session is believed.

    Raises:
        ConfigError: seconds, as most old libraries count, or None, which would be for ever.
    """
    if isinstance(max_age, timedelta):
        return max_age
    write = f"timedelta(seconds={max_age})" if isinstance(max_age, int) else "timedelta(days=14)"
    raise ConfigError(
        f"adopt=[{type(reader).__name__}(…)]: max_age={max_age!r} is no timedelta; "
        f"write max_age={write}"
    )


def library(name: str, pip: str, wants: str) -> Any:
    """Import what a reader needs.

    Raises:
        ConfigError: it is missing.
    """
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(f"adopt=[{wants}(…)] needs {pip}; pip install {pip}") from None


def _markup(text: str) -> str:
    try:
        marked: str = import_module("markupsafe").Markup(text)
    except ImportError:
        return text
    return marked


_TAGS: dict[str, Callable[[Any], Any]] = {
    " t": lambda items: tuple(untagged(item) for item in items),
    " b": lambda text: b64decode(text, validate=True),
    " m": _markup,
    " u": UUID,
    " d": parsedate_to_datetime,
    # A dict whose only key looks like a tag: Flask adds two underscores to it.
    " di": lambda inner: {key.removesuffix("__"): untagged(item) for key, item in inner.items()},
}
