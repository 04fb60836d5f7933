"""What a transport's threads bring, taken on the event loop in the order in which it came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

AT_ONCE = 16
"""More would keep sockets and ticks waiting: pages of sessions take a millisecond each."""


class Inbox:
    """A queue that wakes its loop once, however much comes before the loop gets there."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        together: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Begin empty; handlers are called inside a block ``together``, `AT_ONCE` at most."""
        self._loop = loop
        self._together = together
        self._posted: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._awake = False

    def post(self, take: Callable[..., object], *arguments: object) -> None:
        """Have a handler called on the loop; any thread may."""
        self._posted.append((take, arguments))
        # Two threads here at once wake the loop twice. Were it "the first in the queue wakes it",
        # each might take the other for the first, and everything would wait for ever.
        if not self._awake:
            self._awake = True
            with suppress(RuntimeError):  # the loop is closed: nothing matters any more
                self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        try:
            # Those that come meanwhile are taken by the next turn: sockets and ticks get theirs.
            with self._together():
                for _ in range(min(len(self._posted), AT_ONCE)):
                    take, arguments = self._posted.popleft()
                    take(*arguments)
        finally:  # whatever a handler raised, the rest is heard
            self._awake = False
            if self._posted:
                self._awake = True
                self._loop.call_soon(self._drain)
