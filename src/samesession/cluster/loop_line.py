"""The line to the agent for event loops: one connection each, answers found by their number."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

from samesession.cluster.line import RETRY_S, Frames, framed
from samesession.cluster.presence import Presence
from samesession.errors import StoreUnavailableError
from samesession.store import CircuitBreaker


class LoopLine:
    """One connection for each event loop; answers find their request by its number."""

    suspends = True

    def __init__(self, path: Path, ensure: Callable[[], object]) -> None:
        """Connect at the first request."""
        self._path = path
        self._presence = Presence(path, ensure)
        self._wires: WeakKeyDictionary[asyncio.AbstractEventLoop, _Wire] = WeakKeyDictionary()
        self._wire: _Wire | None = None

    def here(self) -> None:
        """See `Line`."""
        self._presence.here()

    async def ask(self, body: bytes, within_s: float) -> bytes:
        """See `Line`."""
        loop = asyncio.get_running_loop()
        wire = self._wire
        self._presence.here()
        if wire is None or wire.loop is not loop:  # threads may have loops of their own
            wire = self._wires.get(loop)
            if wire is None:
                wire = self._wires[loop] = _Wire(loop, self._path)
            self._wire = wire
        return await wire.ask(body, within_s)

    async def close(self) -> None:
        """See `Line`; connections of other loops went with their loops."""
        wire = self._wires.pop(asyncio.get_running_loop(), None)
        self._wire = None
        if wire is not None:
            wire.close()
        self._presence.close()


class _Wire:
    """One loop's connection, made again when it breaks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path) -> None:
        self.loop = loop
        self._path = path
        self._breaker = CircuitBreaker(clock=time.monotonic)
        self._connected: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    async def ask(self, body: bytes, within_s: float) -> bytes:
        if not self._breaker.allows():
            raise StoreUnavailableError("the cluster's agent did not answer a moment ago")
        until = self.loop.time() + within_s
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
                    self._connecting = self.loop.create_task(self._connect(until))
                    self._connecting.add_done_callback(_quiet)
                with suppress(TimeoutError):  # of whoever asked first
                    self._connected = await asyncio.shield(self._connecting)
                    return self._connected

    async def _connect(self, until: float) -> _Connection:
        while True:
            with suppress(OSError):
                _, connection = await self.loop.create_unix_connection(
                    lambda: _Connection(self.loop), os.fspath(self._path)
                )
                return connection
            if self.loop.time() >= until:
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
