"""Every way of asking a session something; each one makes the answer depend on it (S12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MAPPING: dict[str, Callable[[Any], object]] = {
    "in": lambda s: "a" in s,
    "len": len,
    "bool": bool,
    "iter": lambda s: list(iter(s)),
    "get": lambda s: s.get("a"),
    "keys": lambda s: list(s.keys()),
    "values": lambda s: list(s.values()),
    "items": lambda s: list(s.items()),
    "copy": lambda s: s.copy(),
    "eq": lambda s: s == {"a": 1},
    "or": lambda s: s | {},
    "repr": lambda s: repr(s)[:0],
    "dict": lambda s: dict(s.items()),
    "reversed": lambda s: list(reversed(s)),
    "setdefault": lambda s: s.setdefault("a", 1),
    "pop": lambda s: s.pop("not there", None),
    "getitem": lambda s: s["a"],
    "ne": lambda s: s != {"a": 1},
}

CHANGING: dict[str, Callable[[Any], object]] = {
    "setitem": lambda s: s.__setitem__("set", 2),
    "delitem": lambda s: s.__delitem__("a"),
    "update": lambda s: s.update({"updated": 2}),
    "ior": lambda s: s.__ior__({"merged": 2})["merged"],
    "popped": lambda s: s.pop("a"),
    "popitem": lambda s: list(s.popitem()),
    "clear": lambda s: s.clear(),
    "defaulted": lambda s: s.setdefault("default", 2),
}
"""Every way of changing one; each sets the cookie and forbids caching."""
