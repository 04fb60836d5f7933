"""Unpredictable bytes from the operating system, a system call for many commit tokens at once."""

from __future__ import annotations

import os
import secrets
from collections import deque

_DRAWN = 64

# deque.pop is one step, so no two threads get the same token; and no two processes, because a
# fork forgets what was drawn (a forked generator gave the same id in 8 of 8 workers, MEASURED 10).
_drawn: dict[int, deque[bytes]] = {}
os.register_at_fork(after_in_child=_drawn.clear)


def random_bytes(count: int) -> bytes:
    """Return ``count`` fresh bytes: ids (16 or more) by themselves, short tokens from one draw."""
    if count >= 16:
        return secrets.token_bytes(count)
    try:
        return _drawn[count].pop()
    except (KeyError, IndexError):
        tokens = _drawn.setdefault(count, deque())
        fresh = secrets.token_bytes(count * _DRAWN)
        tokens.extend(fresh[at : at + count] for at in range(count, len(fresh), count))
        return fresh[:count]
