"""redis-py behind two calls: one command, or many in one write; for event loops and for threads.

Every command that our stores send may be sent twice, so a command whose connection broke is sent
once more. A command that was not answered within its deadline is not: nobody knows what became of
it. For an event loop all requests share one connection: the commands of one tick leave in one
write, and answers come back in order, so a cancelled request cannot read another one's answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary

import redis
import redis.asyncio as redis_asyncio
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as BrokenError,
)
from redis.exceptions import (
    TimeoutError as SlowError,
)
from redis.retry import Retry

from samesession.errors import ConfigError, StoreCorruptError, StoreUnavailableError
from samesession.settings import Url
from samesession.store import CircuitBreaker

log = logging.getLogger("samesession")

Command: TypeAlias = tuple[str | bytes | int, ...]
Reply: TypeAlias = Any


class Wire(Protocol):
    """The seam: everything above speaks commands and replies."""

    suspends: bool

    async def call(self, *command: str | bytes | int) -> Reply:
        """Send one command and return its reply.

        Raises:
            StoreUnavailableError: no answer within the deadline, or the server refused.
            StoreCorruptError: something that is no session stands under the key.
        """
        ...

    async def many(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one write and return their replies.

        Where `call` would raise a StoreCorruptError, it stands in its reply's place.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Which server, and how long it may take.

    Attributes:
        options: of redis-py's connection.
        deadline_s: of one step, connecting included.
    """

    name: str
    kind: str
    options: dict[str, Any]
    deadline_s: float
    pool: int

    @classmethod
    def of(cls, url: Url) -> Target:
        """Read a URL's parts.

        Raises:
            ConfigError: an unknown parameter, or a database that is no number.
        """
        kind = {"redis+unix": "unix", "rediss": "tls", "valkeys": "tls"}.get(url.scheme, "tcp")
        known = {"tcp": ("deadline", "prefix", "pool"), "tls": ("deadline", "prefix", "pool", "ca")}
        url.single()
        url.only(*known.get(kind, ("deadline", "prefix", "pool", "db")))
        database = url.parameters.get("db", "0") if kind == "unix" else url.path.strip("/") or "0"
        if not database.isdecimal():
            raise ConfigError(f"{url.scheme}://…/{database}: the database is a number, such as /0")
        options: dict[str, Any] = {
            "db": int(database),
            "username": url.username,
            "password": url.password,
            "protocol": 3,
        }
        if kind == "unix":
            options["path"] = url.path
            name = url.path
        else:
            options["host"] = url.host or "127.0.0.1"
            options["port"] = url.port or 6379
            name = f"{options['host']}:{options['port']}"
            if "ca" in url.parameters:
                options["ssl_ca_certs"] = url.parameters["ca"]
        deadline_s = url.duration_ms("deadline", 250) / 1000
        return cls(name, kind, options, deadline_s, url.count("pool", 50))

    def loop_connection(self) -> redis_asyncio.Connection:
        """A connection without time-outs of its own: the wire keeps the deadline."""
        kinds = {
            "tcp": redis_asyncio.Connection,
            "tls": redis_asyncio.SSLConnection,
            "unix": redis_asyncio.UnixDomainSocketConnection,
        }
        return kinds[self.kind](  # type: ignore[no-any-return]
            **self.options,
            **_QUIET,
            socket_timeout=None,
            socket_connect_timeout=self.deadline_s,
            retry=redis_asyncio.retry.Retry(NoBackoff(), 0),
        )

    def thread_pool(self) -> redis.BlockingConnectionPool:
        """A pool that waits, within the deadline, instead of raising."""
        kinds = {
            "tcp": redis.Connection,
            "tls": redis.SSLConnection,
            "unix": redis.UnixDomainSocketConnection,
        }
        return redis.BlockingConnectionPool(
            connection_class=kinds[self.kind],
            max_connections=self.pool,
            timeout=self.deadline_s,
            **self.options,
            **_QUIET,
            socket_timeout=self.deadline_s,
            socket_connect_timeout=self.deadline_s,
            retry=Retry(NoBackoff(), 0),
        )


# redis-py introduces itself with commands of its own on each connection; we do without.
_QUIET: dict[str, Any] = {"driver_info": None}


def _translated(error: Exception, target: Target) -> Exception:
    """redis-py's errors in our words: whose fault it was decides the class."""
    # Redis 6 puts the script's name and place in front of what a script's command said.
    if isinstance(error, ResponseError) and "WRONGTYPE " in str(error):
        return StoreCorruptError(
            f"{target.name} holds something under a session's key that is none"
        )
    if isinstance(error, ResponseError) and not isinstance(error, BusyLoadingError):
        # No access, out of memory, read-only replica: a wrong set-up, told in the log too.
        log.error("%s refused a command: %s", target.name, error)
    return StoreUnavailableError(f"{target.name}: {error}")


def _checked(replies: Sequence[Reply]) -> list[Reply]:
    """Replies of which nothing worse is known than that one is no session."""
    for reply in replies:
        if isinstance(reply, Exception) and not isinstance(reply, StoreCorruptError):
            raise reply
    return list(replies)


class ThreadWire:
    """Blocking connections, one a thread at a time; its coroutines never suspend."""

    suspends = False

    def __init__(self, target: Target, scripts: Sequence[str]) -> None:
        """Connect at the first call."""
        self._target = target
        self._scripts = scripts
        self._breaker = CircuitBreaker(clock=time.monotonic)
        self._pool = target.thread_pool()

    async def call(self, *command: str | bytes | int) -> Reply:
        """See `Wire`."""
        (reply,) = self._run([command])
        if isinstance(reply, StoreCorruptError):
            raise reply
        return reply

    async def many(self, commands: Sequence[Command]) -> list[Reply]:
        """See `Wire`."""
        return self._run(commands) if commands else []

    async def close(self) -> None:
        """See `Wire`."""
        self._pool.disconnect()

    def _run(self, commands: Sequence[Command]) -> list[Reply]:
        if not self._breaker.allows():
            raise StoreUnavailableError(f"{self._target.name} did not answer a moment ago")
        try:
            replies = self._exchange(commands)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                self._exchange([("SCRIPT", "LOAD", script) for script in self._scripts])
                replies = self._exchange(commands)
        except RedisError as error:
            self._breaker.failed()
            raise _translated(error, self._target) from None
        self._breaker.succeeded()
        return _checked(
            [
                _translated(reply, self._target) if isinstance(reply, Exception) else reply
                for reply in replies
            ]
        )

    def _exchange(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            return self._exchange_once(commands)
        except SlowError:
            raise
        except BrokenError:
            return self._exchange_once(commands)  # the server was restarted, for one

    def _exchange_once(self, commands: Sequence[Command]) -> list[Reply]:
        connection = self._pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            return [self._read(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # its next answer would be somebody else's
            raise
        finally:
            self._pool.release(connection)

    def _read(self, connection: Any) -> Reply:
        try:
            return connection.read_response()
        except ResponseError as error:
            return error


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
        return _checked(await asyncio.gather(*sent, return_exceptions=True))

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
        connection = self._target.loop_connection()
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

    async def _load_scripts(self, connection: redis_asyncio.Connection) -> None:
        commands = [("SCRIPT", "LOAD", script) for script in self._scripts]
        await connection.send_packed_command(connection.pack_commands(commands))
        for _ in commands:
            with contextlib.suppress(ResponseError):  # told when a script is called
                await connection.read_response()

    async def _write(self, connection: redis_asyncio.Connection) -> None:
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

    async def _read(self, connection: redis_asyncio.Connection) -> None:
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
                sent.answer.set_exception(_translated(reply, self._target))

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
                sent.answer.set_exception(_translated(error, self._target))
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
