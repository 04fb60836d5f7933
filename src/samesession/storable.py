"""What may stand in a session: which keys, which values, and how many bytes they have together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from samesession.codec import ATOMS, decode, encode
from samesession.errors import ValueNotStorableError


def weight_of_key(key: object) -> int:
    """Its bytes, of a key that can be stored."""
    if not isinstance(key, str):
        raise ValueNotStorableError(
            f"session[{key!r}] has a key of type {type(key).__qualname__}; use str"
        )
    if not key.isascii():
        encode(key, key)  # a lone surrogate is refused here, by name
    return len(key.encode())


def encode_or_keep(key: str, value: Any, loaded: bytes | None) -> bytes:
    """Encode a value; one that was loaded and is the same counts as its loaded bytes."""
    try:
        raw = encode(key, value)
        if loaded is None or raw == loaded or type(value) in ATOMS:
            return raw
        # Another build may have spelled the same value differently.
        return loaded if encode(key, decode(loaded)) == raw else raw
    except ValueNotStorableError:
        if loaded is not None and _also_refused(key, loaded):
            return loaded
        raise


def _also_refused(key: str, loaded: bytes) -> bool:
    try:
        encode(key, decode(loaded))
    except ValueNotStorableError:
        return True
    return False


def weight_of(values: Mapping[str, bytes]) -> int:
    """Bytes of keys and values."""
    return len("".join(values).encode()) + sum(map(len, values.values()))
