"""Whether this server has joined its cluster: before that a balancer should send nobody here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress

from samesession._bridge import ready
from samesession.errors import StoreUnavailableError
from samesession.store import Store
from samesession.strategies import strategy_of

AGAIN_S = 0.1

Join = Callable[[], Coroutine[None, None, bool]]


class Joining:
    """Waits in a thread of its own; WSGI has no start-up in which an adapter could."""

    def __init__(self, url: str | None) -> None:
        """Begin, and with it start the server's agent.

        Args:
            url: the application's strategy; None where it has none of ours.
        """
        self._store: Store | None = None
        self._wanted = threading.Event()
        strategy = strategy_of(url) if url else None
        old = strategy.old if strategy else None
        if strategy and "cluster" in {strategy.name, old.name if old else ""}:
            # Kept open: an agent that no worker is connected to ends.
            self._store = strategy.open_threads()
            self._wanted.set()
            threading.Thread(target=self._wait, name="samesession-joining", daemon=True).start()

    def over(self) -> bool:
        """Whether it has joined; what needs not join has."""
        return not self._wanted.is_set()

    def close(self) -> None:
        """Wait no more, and let the agent end."""
        self._wanted.clear()
        if self._store is not None:
            ready(self._store.close())

    def _wait(self) -> None:
        join: Join = getattr(self._store, "ready")  # noqa: B009  (no other store has it)
        while self._wanted.is_set():
            with suppress(StoreUnavailableError):
                if ready(join()):
                    self._wanted.clear()
                    return
            time.sleep(AGAIN_S)
