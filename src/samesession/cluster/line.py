"""The unix socket between a worker and its agent: requests out, answers back by number.

A frame is its length and a number (4 bytes each, big endian) and a body. Every request may be
asked twice, so one whose connection broke is asked again, of the next agent, until its deadline;
one that was not answered in time is not: nobody knows what became of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Protocol, cast
from weakref import WeakKeyDictionary

from samesession.errors import StoreUnavailableError
from samesession.store import CircuitBreaker

HEAD = struct.Struct(">II")
LARGEST = 64 << 20
"""Bytes of a frame; a longer one is no frame of ours."""

RETRY_S = 0.01
WATCH_S = 0.05


class Line(Protocol):
    """One request, one answer."""

    suspends: bool

    def here(self) -> None:
        """Let the agent know that this process lives, and start an agent when there is none."""
        ...

    async def ask(self, body: bytes, within_s: float) -> bytes:
        """Return the agent's answer.

        Raises:
            StoreUnavailableError: no agent, or no answer, within ``within_s``.
        """
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...


def framed(number: int, body: bytes) -> bytes:
    """A frame."""
    return HEAD.pack(len(body), number) + body


class Frames:
    """Takes a stream of bytes apart."""

    def __init__(self) -> None:
        """Start between two frames."""
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the frames that are whole now.

        Raises:
            ValueError: what came is no frame of ours.
        """
        data = self._rest + data if self._rest else data
        frames, at = [], 0
        while len(data) - at >= HEAD.size:
            length, number = HEAD.unpack_from(data, at)
            if length > LARGEST:
                raise ValueError(f"a frame of {length} bytes")
            end = at + HEAD.size + length
            if end > len(data):
                break
            frames.append((number, data[at + HEAD.size : end]))
            at = end
        self._rest = data[at:]
        return frames


class Presence:
    """Tells the agent that this process lives, and starts an agent when there is none.

    A thread that sleeps in the kernel until the agent's end of its connection closes.
    """

    def __init__(self, path: Path, ensure: Callable[[], object]) -> None:
        """Begin with the first `here` in each process."""
        self._path = path
        self._ensure = ensure
        self._lock = threading.Lock()
        self._pid = 0
        self._over = threading.Event()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def here(self) -> None:
        """Be present, in this process."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._over = threading.Event()
            self._socket = None
            self._ensure()
            self._thread = threading.Thread(
                target=self._watch, args=(self._over,), name="samesession-agent", daemon=True
            )
            self._thread.start()
            self._pid = os.getpid()

    def close(self) -> None:
        """Go; the agent ends itself when nobody is left."""
        with self._lock:
            if self._pid != os.getpid():
                return
            self._pid = 0
            self._over.set()
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            thread = self._thread
        if thread is not None:
            thread.join(1)

    def _watch(self, over: threading.Event) -> None:
        while not over.is_set():
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(os.fspath(self._path))
                self._socket = connection
                while not over.is_set() and connection.recv(1):
                    pass
            except OSError:
                pass
            finally:
                connection.close()
            if not over.wait(WATCH_S):
                with suppress(StoreUnavailableError):
                    self._ensure()


class LoopLine:
    """One connection for each event loop; answers find their request by its number."""

    suspends = True

    def __init__(self, path: Path, ensure: Callable[[], object]) -> None:
        """Connect at the first request."""
        self._path = path
        self._presence = Presence(path, ensure)
        self._wires: WeakKeyDictionary[asyncio.AbstractEventLoop, _Wire] = WeakKeyDictionary()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wire: _Wire | None = None

    def here(self) -> None:
        """See `Line`."""
        self._presence.here()

    async def ask(self, body: bytes, within_s: float) -> bytes:
        """See `Line`."""
        loop = asyncio.get_running_loop()
        wire = self._wire
        self._presence.here()
        if loop is not self._loop or wire is None:
            wire = self._wires.get(loop)
            if wire is None:
                wire = self._wires[loop] = _Wire(loop, self._path)
            self._loop, self._wire = loop, wire
        return await wire.ask(body, within_s)

    async def close(self) -> None:
        """See `Line`; connections of other loops went with their loops."""
        wire = self._wires.pop(asyncio.get_running_loop(), None)
        self._loop = self._wire = None
        if wire is not None:
            wire.close()
        self._presence.close()


class _Wire:
    """One loop's connection, made again when it breaks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path) -> None:
        self._loop = loop
        self._path = path
        self._breaker = CircuitBreaker(clock=time.monotonic)
        self._connected: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    async def ask(self, body: bytes, within_s: float) -> bytes:
        if not self._breaker.allows():
            raise StoreUnavailableError("the cluster's agent did not answer a moment ago")
        until = self._loop.time() + within_s
        try:
            while True:
                connection = self._connected
                if connection is None or connection.broken:
                    connection = await self._connection(until)
                try:
                    answer = await connection.ask(body, until)
                except ConnectionError:  # the agent is gone: the next one may be asked the same
                    continue
                self._breaker.succeeded()
                return answer
        except TimeoutError:
            self._breaker.failed()
            raise StoreUnavailableError(
                f"the cluster's agent did not answer within {within_s:g} s"
            ) from None

    def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    async def _connection(self, until: float) -> _Connection:
        """The connection that all requests share; whoever waits for it may be cancelled."""
        async with asyncio.timeout_at(until):
            while True:
                if self._connecting is None or self._connecting.done():
                    self._connecting = self._loop.create_task(self._connect(until))
                    self._connecting.add_done_callback(_quiet)
                with suppress(TimeoutError):  # of whoever asked first
                    self._connected = await asyncio.shield(self._connecting)
                    return self._connected

    async def _connect(self, until: float) -> _Connection:
        while True:
            with suppress(OSError):
                _, connection = await self._loop.create_unix_connection(
                    lambda: _Connection(self._loop), os.fspath(self._path)
                )
                return connection
            if self._loop.time() >= until:
                raise TimeoutError
            await asyncio.sleep(RETRY_S)


def _quiet(task: asyncio.Task[_Connection]) -> None:
    if not task.cancelled():
        task.exception()


class _Connection(asyncio.Protocol):
    """Requests on their way, by number."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.broken = False
        self._loop = loop
        self._frames = Frames()
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's inherits from nothing

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except ValueError:
            self.close()
            return
        for number, body in frames:
            answer = self._waiting.pop(number, None)  # too late: nobody waits any more
            if answer is not None and not answer.done():
                answer.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the cluster's agent is gone"))
        self._waiting.clear()

    async def ask(self, body: bytes, until: float) -> bytes:
        if self._transport is None or self.broken:
            raise ConnectionResetError("the cluster's agent is gone")
        number = next(self._numbers) & 0xFFFF_FFFF
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[number] = answer
        timer = self._loop.call_at(until, _late, answer)
        try:
            self._transport.write(framed(number, body))
            return await answer
        finally:
            timer.cancel()
            self._waiting.pop(number, None)

    def close(self) -> None:
        self.broken = True
        if self._transport is not None:
            self._transport.close()


def _late(answer: asyncio.Future[bytes]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


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
