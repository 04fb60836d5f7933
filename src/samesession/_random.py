"""Unpredictable bytes from the operating system, a system call for many commit tokens at once."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from struct import Struct

from samesession._process import pid

_SHORT = 8  # a commit token's length; what is longer is drawn by itself
_DRAWN = 256
_TOKENS = Struct(f"{_SHORT}s")

# Advancing it is one step, so no two threads get the same token; and no two processes, because
# a fork draws anew (a forked generator gave the same id in 8 of 8 workers, MEASURED 10).
_drawn: Iterator[tuple[bytes]] = iter(())
_drawn_by = 0


def random_bytes(count: int) -> bytes:
    """Return ``count`` fresh bytes: ids by themselves, commit tokens from a draw of many."""
    if count != _SHORT:
        return secrets.token_bytes(count)
    if _drawn_by == pid():
        for (token,) in _drawn:
            return token
    _draw()
    return secrets.token_bytes(count)


def _draw() -> None:
    global _drawn, _drawn_by  # noqa: PLW0603  (threads that draw at once waste one draw)
    _drawn = _TOKENS.iter_unpack(secrets.token_bytes(_SHORT * _DRAWN))
    _drawn_by = pid()
