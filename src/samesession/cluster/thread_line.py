"""The line to the agent for threads: blocking connections, one a thread at a time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from samesession.cluster.line import HEAD, RETRY_S, framed
from samesession.cluster.presence import Presence
from samesession.errors import StoreUnavailableError
from samesession.store import CircuitBreaker


class ThreadLine:
    """Blocking connections, one a thread at a time; its coroutines never suspend."""

    suspends = False

    def __init__(self, path: Path, ensure: Callable[[], object]) -> None:
        """Connect at the first request."""
        self._path = path
        self._presence = Presence(path, ensure)
        self._breaker = CircuitBreaker(clock=time.monotonic)
        self._pid = os.getpid()
        self._idle: list[socket.socket] = []

    def here(self) -> None:
        """See `Line`."""
        self._presence.here()

    async def ask(self, body: bytes, within_s: float) -> bytes:
        """See `Line`."""
        if not self._breaker.allows():
            raise StoreUnavailableError("the cluster's agent did not answer a moment ago")
        self._presence.here()
        until = time.monotonic() + within_s
        try:
            while True:
                try:
                    answer = self._ask_once(body, until)
                except (ConnectionError, EOFError):
                    continue
                self._breaker.succeeded()
                return answer
        except TimeoutError:
            self._breaker.failed()
            raise StoreUnavailableError(
                f"the cluster's agent did not answer within {within_s:g} s"
            ) from None

    async def close(self) -> None:
        """See `Line`."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self._presence.close()

    def _ask_once(self, body: bytes, until: float) -> bytes:
        connection = self._connection(until)
        try:
            connection.settimeout(_left(until))
            connection.sendall(framed(1, body))
            length, _ = HEAD.unpack(_exactly(connection, HEAD.size, until))
            answer = _exactly(connection, length, until)
        except BaseException:
            connection.close()  # its next answer would be somebody else's
            raise
        self._idle.append(connection)
        return answer

    def _connection(self, until: float) -> socket.socket:
        if self._pid != os.getpid():  # a fork's: they belong to the parent
            self._idle, self._pid = [], os.getpid()
        with suppress(IndexError):
            return self._idle.pop()
        while True:
            left = _left(until)
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(left)
            try:
                connection.connect(os.fspath(self._path))
            except OSError:
                connection.close()
                time.sleep(min(RETRY_S, left))
            else:
                return connection


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _exactly(connection: socket.socket, count_: int, until: float) -> bytes:
    """So many bytes, or EOFError, or TimeoutError."""
    parts = []
    while count_:
        connection.settimeout(_left(until))
        part = connection.recv(min(count_, 1 << 18))
        if not part:
            raise EOFError
        parts.append(part)
        count_ -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
