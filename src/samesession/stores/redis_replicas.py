"""When to wait until a replica has what was written, and what the waiting said; no I/O.

``WAIT`` holds up every command behind it on its connection, and where no replica is attached it
would last as long as it may. So a server is asked for its replicas first (``ROLE``), while it has
none once a second, and after a ``WAIT`` that was in vain again only a second later.
"""

from __future__ import annotations

from collections.abc import Callable

from samesession.stores.redis_client import ResponseError
from samesession.stores.redis_topology import replicas_in
from samesession.stores.redis_wire import Command, Reply

PAUSE_S = 1.0


class Replicas:
    """Those of one server, as far as is known.

    Args:
        wait_s: how long to wait for one of them.
        clock: monotonic seconds.
    """

    def __init__(self, wait_s: float, clock: Callable[[], float]) -> None:
        """Know nothing."""
        self._wait: Command = ("WAIT", 1, max(round(wait_s * 1000), 1))
        self._clock = clock
        self._attached = False
        self._again_at = clock()

    def question(self) -> Command | None:
        """What to send behind a write, on its connection; None: nothing, it stays weak."""
        if self._attached:
            return self._wait
        return ("ROLE",) if self._clock() >= self._again_at else None

    def answered(self, question: Command, reply: Reply) -> bool | None:
        """Whether a replica has what was written; None: ask the next `question`."""
        if question is self._wait:
            if not isinstance(reply, ResponseError) and reply >= 1:
                return True
            # They lag behind, or went away; or this user may not ask.
            self._attached = False
        elif not isinstance(reply, ResponseError) and replicas_in(reply):
            self._attached = True
            return None
        self._again_at = self._clock() + PAUSE_S
        return False
