"""Unpredictable bytes from the operating system, a system call for many commit tokens at once."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from struct import Struct

_SHORT = 8  # a commit token's length; what is longer is drawn by itself
_DRAWN = 256
_TOKENS = Struct(f"{_SHORT}s")

# Advancing it is one step, so no two threads get the same token; and no two processes, because a
# fork forgets what was drawn (a forked generator gave the same id in 8 of 8 workers, MEASURED 10).
_drawn: Iterator[tuple[bytes]] = iter(())


def random_bytes(count: int) -> bytes:
    """Return ``count`` fresh bytes: ids by themselves, commit tokens from a draw of many."""
    if count != _SHORT:
        return secrets.token_bytes(count)
    for (token,) in _drawn:
        return token
    _draw()
    return secrets.token_bytes(count)


def _draw() -> None:
    global _drawn  # noqa: PLW0603  (threads that draw at once draw one more than needed)
    _drawn = _TOKENS.iter_unpack(secrets.token_bytes(_SHORT * _DRAWN))


def _forget() -> None:
    global _drawn  # noqa: PLW0603
    _drawn = iter(())


os.register_at_fork(after_in_child=_forget)
