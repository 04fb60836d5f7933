"""One connection to one server: commands out in one write a tick, answers back in order."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from samesession.counts import Count
from samesession.errors import StoreUnavailableError
from samesession.store import CircuitBreaker
from samesession.stores.redis_client import (
    BrokenError,
    LoopConnection,
    NoScriptError,
    RedisError,
    ResponseError,
    Talk,
    elsewhere,
    loop_connection,
    only_asks,
    teller,
    track_loop,
    translated,
)
from samesession.stores.redis_endings import Endings, identity_in
from samesession.stores.redis_replicas import Replicas
from samesession.stores.redis_target import Node, Target
from samesession.stores.redis_topology import replicas_in
from samesession.stores.redis_wire import Command, Reply, Tracker

REMINDER_S = 30.0
"""Patience with what no request waits for."""


class Sent:
    """One command on its way."""

    __slots__ = ("again", "answer", "asking", "command", "durable", "hops", "until")

    def __init__(
        self,
        command: Command,
        answer: asyncio.Future[Reply],
        until: float,
        *,
        durable: bool = False,
    ) -> None:
        """Begin."""
        self.command = command
        self.answer = answer
        self.until = until
        self.durable = durable
        self.again = False  # whether a connection has broken under it
        self.asking = False  # whether the server must be told that another one sent us
        self.hops = 0


class Home(Protocol):
    """Who knows other servers."""

    def lost(self, node: Node) -> None:
        """A server does not answer any more."""
        ...

    def elsewhere(self, sent: Sent, node: Node, error: Exception) -> None:
        """Take a command over that this server cannot serve, for this reason."""
        ...


class Line:
    """The line of one event loop to one server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        node: Node,
        target: Target,
        scripts: Sequence[str],
        home: Home | None,
        *,
        only_primary: bool,
        endings: Endings | None,
        tracker: Tracker | None = None,
    ) -> None:
        """Connect at the first command.

        Args:
            home: who knows other servers; None when there is no other one.
            only_primary: whether to refuse a server that says that it is a replica.
            endings: what a server is told that may have forgotten it.
            tracker: is told what others change of the keys that are read here.
        """
        self._loop = loop
        self._node = node
        self._called = target.called(node)
        self._target = target
        self._scripts = scripts
        self._home = home
        self._only_primary = only_primary
        self._endings = endings
        self._tracker = tracker
        self._breaker = CircuitBreaker(clock=time.monotonic, open_s=target.probe_s)
        self._outbox: list[Sent] = []
        self._waiting: deque[Sent] = deque()
        self._talking: Talk | None = None
        self._writing: asyncio.Handle | None = None
        self._running: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def send(self, sent: Sent) -> None:
        """Queue a command for this tick's write; its future has the reply or our error."""
        if not self._breaker.allows():
            sent.answer.set_exception(
                StoreUnavailableError(f"{self._called} did not answer a moment ago")
            )
            return
        if self._tracker is not None:
            self._tracker.asked(sent.command)
        if self._talking is None or self._timer is None or sent.asking:
            self._queue(sent)
        else:  # as almost always
            self._outbox.append(sent)
            if self._writing is None:
                self._writing = self._loop.call_soon(self._write)

    async def close(self) -> None:
        """Break off."""
        for sent in (*self._waiting, *self._outbox):
            if not sent.answer.done():
                sent.answer.set_exception(StoreUnavailableError(f"{self._called}: closed"))
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        if self._timer is not None:
            self._timer.cancel()

    def _queue(self, sent: Sent) -> None:
        if sent.asking:
            self._outbox.append(self._aside("ASKING", until=sent.until))
        self._outbox.append(sent)
        if self._timer is None:
            self._timer = self._loop.call_at(sent.until, self._expire)
        if self._running is None:
            self._running = self._loop.create_task(self._run())
            self._running.add_done_callback(self._over)
        self._wake()

    async def _run(self) -> None:
        """Connect, then write and read until the connection breaks."""
        tracked = self._tracker is not None
        connection = loop_connection(self._target, self._node, tracked=tracked)
        connected = False
        broke: Exception = BrokenError("closed")
        try:
            async with asyncio.timeout(self._target.deadline_s):
                await connection.connect()
                await self._greet(connection)
                if self._tracker is not None:
                    await self._track(connection, self._tracker)
            connected = True
            await self._talk(connection)
        except TimeoutError:
            broke = BrokenError("it does not answer")
        except (RedisError, OSError) as error:
            broke = error
        finally:
            self._running = None
            if self._tracker is not None:
                self._tracker.lost()
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
            self._broken(broke, connected=connected)

    def _over(self, running: asyncio.Task[None]) -> None:
        """Clean up after a run that was cancelled before its first step: its own end never ran."""
        if self._running is running:
            self._running = None
            self._broken(BrokenError("closed"), connected=True)

    async def _greet(self, connection: LoopConnection) -> None:
        """Teach the server our scripts, see that it is the one that we want, and what it holds."""
        commands: list[Command] = [("SCRIPT", "LOAD", script) for script in self._scripts]
        if self._only_primary:
            commands.append(("ROLE",))
        if self._endings:
            commands.append(("INFO", "replication"))
        # What is refused here is told when a script is called.
        for (word, *_), reply in zip(commands, await _exchanged(connection, commands), strict=True):
            if word == "ROLE" and not isinstance(reply, Exception) and replicas_in(reply) is None:
                raise BrokenError("a replica, which the sentinels take for the primary")
            if word == "INFO" and self._endings:
                due = self._endings.due(self._node, identity_in(reply))
                self._outbox[:0] = [self._reminder(command, self._endings) for command in due]
                self._wake()

    def _reminder(self, command: Command, endings: Endings) -> Sent:
        """Tells of an end, before whatever is asked on this connection."""

        def told(answer: asyncio.Future[Reply]) -> None:
            if not answer.cancelled() and answer.exception() is None:
                endings.told(answer.result())

        answer: asyncio.Future[Reply] = self._loop.create_future()
        answer.add_done_callback(told)
        return Sent(command, answer, self._loop.time() + REMINDER_S)

    async def _track(self, connection: LoopConnection, tracker: Tracker) -> None:
        try:
            await track_loop(connection, tracker.changed)
        except ResponseError as error:  # then it is never told anything, and trusts no copy
            translated(error, self._called)
        else:
            tracker.listening()

    async def _talk(self, connection: LoopConnection) -> None:
        pushed = None if self._tracker is None else teller(self._tracker.changed)
        self._talking = Talk(connection, self._answered, pushed)
        try:
            self._write()
            await self._talking.over
        finally:
            self._talking.close()
            self._talking = None

    def _wake(self) -> None:
        """Something has been queued: it leaves at this tick's end."""
        if self._writing is None and self._talking is not None:
            self._writing = self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._writing = None
        if self._talking is None:
            return  # it broke meanwhile; the next connection begins with what is queued
        batch = self._batch()
        if batch:
            self._waiting.extend(batch)
            self._talking.send([sent.command for sent in batch])

    def _batch(self) -> list[Sent]:
        batch = [sent for sent in self._outbox if not sent.answer.done()]
        self._outbox.clear()
        return batch

    def _answered(self, reply: Reply) -> None:
        if not self._waiting:
            raise BrokenError("an answer that nobody asked for")
        sent = self._waiting.popleft()
        self._breaker.succeeded()
        if self._tracker is not None:
            self._tracker.answered()
        answer = sent.answer
        if answer.done():
            return
        if isinstance(reply, Exception):
            self._settle(sent, reply)
        else:
            answer.set_result(reply)

    def _settle(self, sent: Sent, reply: Reply) -> None:
        if not isinstance(reply, Exception):
            sent.answer.set_result(reply)
        elif isinstance(reply, NoScriptError) and not sent.again:
            # The server forgot its scripts (SCRIPT FLUSH, a failover): teach it again.
            sent.again = True
            for script in self._scripts:
                self._queue(self._aside("SCRIPT", "LOAD", script, until=sent.until))
            self._queue(sent)
        elif self._home is not None and elsewhere(reply):
            if self._tracker is not None and not only_asks(reply):
                self._tracker.refused()
            self._home.elsewhere(sent, self._node, reply)
        else:
            sent.answer.set_exception(translated(reply, self._called))

    def _aside(self, *command: str, until: float) -> Sent:
        """A command of our own, whose answer nobody waits for."""
        answer: asyncio.Future[Reply] = self._loop.create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        return Sent(command, answer, until)

    def _broken(self, error: Exception, *, connected: bool) -> None:
        """Send again once what was on its way; fail what cannot even be connected for."""
        on_the_way = [sent for sent in (*self._waiting, *self._outbox) if not sent.answer.done()]
        self._waiting.clear()
        self._outbox.clear()
        if self._loop.is_closed():
            return
        if self._home is not None:
            self._home.lost(self._node)
        somewhere = connected or self._home is not None
        again = [sent for sent in on_the_way if somewhere and not sent.again]
        if on_the_way and not again:
            self._breaker.failed()
        for sent in on_the_way:
            if sent not in again:
                sent.answer.set_exception(translated(error, self._called))
        for sent in again:
            sent.again = True
            if self._home is None:
                self._queue(sent)
            else:
                self._home.elsewhere(sent, self._node, error)

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
                sent.answer.set_exception(self._too_late())
            else:
                earliest = min(earliest, sent.until)
        if late:
            self._breaker.failed()
            if self._running is not None:
                self._running.cancel()
        if earliest < math.inf:
            self._timer = self._loop.call_at(earliest, self._expire)

    def _too_late(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"{self._called} did not answer within {self._target.deadline_s:g} s"
        )


class DurableLine(Line):
    """A line that answers when a replica has what was written, too, if one is attached.

    ``WAIT`` blocks its connection, and counts what was written on it: so this is one of its own.
    While one batch is waited for, the next one gathers.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        node: Node,
        target: Target,
        scripts: Sequence[str],
        home: Home | None,
        *,
        only_primary: bool,
        endings: Endings | None,
        count: Count,
    ) -> None:
        """See `Line`.

        Args:
            count: told "weak" for each command that no replica had when it was answered.
        """
        super().__init__(
            loop, node, target, scripts, home, only_primary=only_primary, endings=endings
        )
        self._replicas = Replicas(target.wait_s, time.monotonic)
        self._count = count
        self._wanted = asyncio.Event()

    def _wake(self) -> None:
        self._wanted.set()

    async def _talk(self, connection: LoopConnection) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            batch = self._batch()
            if not batch:
                continue
            self._waiting.extend(batch)
            try:
                async with asyncio.timeout(self._target.deadline_s):
                    replies = await _exchanged(connection, [sent.command for sent in batch])
            except TimeoutError:
                # Nobody knows what became of them, so they are not sent again.
                for sent in batch:
                    if not sent.answer.done():
                        sent.answer.set_exception(self._too_late())
                self._breaker.failed()
                raise
            durable = await self._reached_a_replica(connection)
            self._waiting.clear()
            self._breaker.succeeded()
            for sent, reply in zip(batch, replies, strict=True):
                if sent.durable and not durable and not isinstance(reply, Exception):
                    self._count("weak")
                if not sent.answer.done():
                    self._settle(sent, reply)

    async def _reached_a_replica(self, connection: LoopConnection) -> bool:
        while (question := self._replicas.question()) is not None:
            async with asyncio.timeout(self._target.wait_s + self._target.deadline_s):
                (reply,) = await _exchanged(connection, [question])
            reached = self._replicas.answered(question, reply)
            if reached is not None:
                return reached
        return False


async def _exchanged(connection: LoopConnection, commands: Sequence[Command]) -> list[Reply]:
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Reply] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response(timeout=math.inf))
        except ResponseError as error:
            replies.append(error)
    return replies
