"""One connection to Redis or Valkey for each event loop, shared by all of its requests.

The commands of one tick leave in one write, and answers come back in order, so a cancelled request
cannot read another one's answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from samesession.errors import StoreUnavailableError
from samesession.store import CircuitBreaker
from samesession.stores.redis_client import (
    BrokenError,
    LoopConnection,
    NoScriptError,
    RedisError,
    ResponseError,
    loop_connection,
    translated,
)
from samesession.stores.redis_target import Target
from samesession.stores.redis_wire import Command, Reply, checked


class LoopWire:
    """One shared connection for each event loop that asks."""

    suspends = True

    def __init__(self, target: Target, scripts: Sequence[str]) -> None:
        """Connect at the first call."""
        self._target = target
        self._scripts = scripts
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line: _Line | None = None

    async def call(self, *command: str | bytes | int) -> Reply:
        """See `Wire`."""
        return await self._here().send(command)

    async def many(self, commands: Sequence[Command]) -> list[Reply]:
        """See `Wire`."""
        line = self._here()
        sent = [line.send(command) for command in commands]
        return checked(await asyncio.gather(*sent, return_exceptions=True))

    async def close(self) -> None:
        """See `Wire`; connections of other loops went with their loops."""
        line = self._lines.pop(asyncio.get_running_loop(), None)
        self._loop = self._line = None
        if line is not None:
            await line.close()

    def _here(self) -> _Line:
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._line is None:
            self._loop = loop
            self._line = self._lines.get(loop)
            if self._line is None:
                self._line = self._lines[loop] = _Line(loop, self._target, self._scripts)
        return self._line


class _Sent:
    """One command on its way."""

    __slots__ = ("again", "answer", "command", "until")

    def __init__(self, command: Command, answer: asyncio.Future[Reply], until: float) -> None:
        self.command = command
        self.answer = answer
        self.until = until
        self.again = False


class _Line:
    """One connection: commands out in one write a tick, answers back in order."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, target: Target, scripts: Sequence[str]
    ) -> None:
        self._loop = loop
        self._target = target
        self._scripts = scripts
        self._breaker = CircuitBreaker(clock=time.monotonic)
        self._outbox: list[_Sent] = []
        self._waiting: deque[_Sent] = deque()
        self._wanted = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def send(self, command: Command) -> asyncio.Future[Reply]:
        """Queue a command for this tick's write; the future has its reply or our error."""
        answer: asyncio.Future[Reply] = self._loop.create_future()
        if not self._breaker.allows():
            answer.set_exception(
                StoreUnavailableError(f"{self._target.name} did not answer a moment ago")
            )
            return answer
        self._queue(_Sent(command, answer, self._loop.time() + self._target.deadline_s))
        return answer

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        if self._timer is not None:
            self._timer.cancel()

    def _queue(self, sent: _Sent) -> None:
        self._outbox.append(sent)
        if self._timer is None:
            self._timer = self._loop.call_at(sent.until, self._expire)
        if self._running is None:
            self._running = self._loop.create_task(self._run())
            self._running.add_done_callback(self._over)
        self._wanted.set()

    async def _run(self) -> None:
        """Connect, then write and read until the connection breaks."""
        connection = loop_connection(self._target)
        writing: asyncio.Task[None] | None = None
        broke: Exception = BrokenError("closed")
        try:
            await connection.connect()
            await self._load_scripts(connection)
            writing = self._loop.create_task(self._write(connection))
            await self._read(connection)
        except (RedisError, OSError) as error:
            broke = error
        finally:
            if writing is not None:
                writing.cancel()
            self._running = None
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
            self._broken(broke, connected=writing is not None)

    def _over(self, running: asyncio.Task[None]) -> None:
        """Clean up after a run that was cancelled before its first step: its own end never ran."""
        if self._running is running:
            self._running = None
            self._broken(BrokenError("closed"), connected=True)

    async def _load_scripts(self, connection: LoopConnection) -> None:
        commands = [("SCRIPT", "LOAD", script) for script in self._scripts]
        await connection.send_packed_command(connection.pack_commands(commands))
        for _ in commands:
            with contextlib.suppress(ResponseError):  # told when a script is called
                await connection.read_response()

    async def _write(self, connection: LoopConnection) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            batch = [sent for sent in self._outbox if not sent.answer.done()]
            self._outbox.clear()
            if not batch:
                continue
            self._waiting.extend(batch)
            packed = connection.pack_commands([sent.command for sent in batch])
            try:
                await connection.send_packed_command(packed, check_health=False)
            except RedisError:
                return  # the reader meets the same break, and tells everybody

    async def _read(self, connection: LoopConnection) -> None:
        waiting = self._waiting
        while True:
            try:
                reply = await connection.read_response(timeout=math.inf)
            except ResponseError as error:
                reply = error
            if not waiting:
                raise BrokenError("an answer that nobody asked for")
            sent = waiting.popleft()
            self._breaker.succeeded()
            if sent.answer.done():
                continue
            if not isinstance(reply, Exception):
                sent.answer.set_result(reply)
            elif isinstance(reply, NoScriptError) and not sent.again:
                # The server forgot its scripts (SCRIPT FLUSH, a failover): teach it again.
                sent.again = True
                for script in self._scripts:
                    self._queue(_Sent(("SCRIPT", "LOAD", script), self._ignored(), sent.until))
                self._queue(sent)
            else:
                sent.answer.set_exception(translated(reply, self._target))

    def _ignored(self) -> asyncio.Future[Reply]:
        answer: asyncio.Future[Reply] = self._loop.create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        return answer

    def _broken(self, error: Exception, *, connected: bool) -> None:
        """Send again once what was on its way; fail what cannot even be connected for."""
        on_the_way = [sent for sent in (*self._waiting, *self._outbox) if not sent.answer.done()]
        self._waiting.clear()
        self._outbox.clear()
        self._wanted.clear()
        again = [sent for sent in on_the_way if connected and not sent.again]
        if self._loop.is_closed():
            return
        if on_the_way and not again:
            self._breaker.failed()
        for sent in on_the_way:
            if sent not in again:
                sent.answer.set_exception(translated(error, self._target))
        for sent in again:
            sent.again = True
            self._queue(sent)

    def _expire(self) -> None:
        """Tell those whose deadline has passed; a server that is silent so long loses its line."""
        self._timer = None
        now = self._loop.time()
        late = False
        earliest = math.inf
        for sent in (*self._waiting, *self._outbox):
            if sent.answer.done():
                continue
            if sent.until <= now:
                late = True
                sent.answer.set_exception(
                    StoreUnavailableError(
                        f"{self._target.name} did not answer within {self._target.deadline_s:g} s"
                    )
                )
            else:
                earliest = min(earliest, sent.until)
        if late:
            self._breaker.failed()
            if self._running is not None:
                self._running.cancel()
        if earliest < math.inf:
            self._timer = self._loop.call_at(earliest, self._expire)
