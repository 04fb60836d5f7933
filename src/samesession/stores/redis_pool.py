"""A bounded number of blocking connections to one server; who waits longest is served first."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Generic, Protocol, TypeVar

from samesession._process import pid


class Connection(Protocol):
    """What a pool needs to know of it."""

    def disconnect(self) -> object:
        """Close the socket; the next use connects again."""
        ...


C = TypeVar("C", bound=Connection)


class Pool(Generic[C]):
    """Lends each connection to one thread at a time, and lets threads wait rather than fail."""

    def __init__(self, make: Callable[[], C], size: int) -> None:
        """Make nothing yet.

        Args:
            make: a connection that connects at its first use.
            size: how many there may be.
        """
        self._make = make
        self._size = size
        self._begin()

    def borrow(self, until: float) -> C | None:
        """A connection for this thread alone; None when none was to be had by then.

        Args:
            until: by `time.monotonic`.
        """
        if self._pid != pid():
            self._begin()  # forked: the sockets are the parent's
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._made < self._size:
                self._made += 1
                return self._make()
            ticket = _Ticket[C]()
            self._queue.append(ticket)
        if not ticket.served.acquire(timeout=max(until - time.monotonic(), 0)):
            with self._lock:
                if ticket.connection is None:
                    self._queue.remove(ticket)
        return ticket.connection

    def give_back(self, connection: C) -> None:
        """Hand a connection to whoever waits longest, else keep it."""
        with self._lock:
            if self._queue:
                ticket = self._queue.popleft()
                ticket.connection = connection
                ticket.served.release()
            else:
                self._idle.append(connection)

    def close(self) -> None:
        """Disconnect those that nobody uses."""
        with self._lock:
            for connection in self._idle:
                connection.disconnect()

    def _begin(self) -> None:
        self._pid = pid()
        self._lock = Lock()
        self._idle: list[C] = []
        self._made = 0
        self._queue: deque[_Ticket[C]] = deque()


class _Ticket(Generic[C]):
    """One thread's place in the queue."""

    def __init__(self) -> None:
        self.connection: C | None = None
        self.served = Lock()
        self.served.acquire()
