"""One connection to Redis or Valkey for all threads of a process, which hears of changes.

There is no thread that listens: whoever is about to use a copy first reads what has arrived, unless
another thread is reading just then. Threads do not wait for each other to send: answers come in the
order of the commands, and one of those who wait reads for all.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from samesession._process import pid
from samesession.errors import StoreUnavailableError
from samesession.stores.redis_client import (
    BrokenError,
    Message,
    NoScriptError,
    RedisError,
    ResponseError,
    SlowError,
    ThreadConnection,
    elsewhere,
    only_asks,
    teller,
    thread_connection,
    track_thread,
    translated,
)
from samesession.stores.redis_endings import Endings
from samesession.stores.redis_target import Node, Target
from samesession.stores.redis_threads import Server, ThreadWire
from samesession.stores.redis_wire import Command, Listener, Reply, Tracker

Heartbeat = Callable[[Tracker], "tuple[Command, Callable[[], None]] | None"]
"""A command to be sent now on a connection, and what to do with its answer; None: none is due."""


L = TypeVar("L", bound=Listener)


class TrackedThreadWire(ThreadWire, Generic[L]):
    """A wire with one connection a process and server; see `samesession.stores.redis_wire.Wire`."""

    def __init__(
        self,
        target: Target,
        scripts: Sequence[str],
        endings: Endings,
        listener: Callable[[], L],
    ) -> None:
        """Connect at the first call; ``listener`` makes who is told in each process."""
        super().__init__(replace(target, pool=1), scripts, endings)
        self._make_listener = listener
        self._forking = Lock()
        self._begin()

    def listener(self) -> L:
        """This process's; after a fork the parent's connection is left alone."""
        if self._pid != pid():
            with self._forking:
                if self._pid != pid():
                    self._begin()
        return self._listener

    def read_news(self, node: Node, heartbeat: Heartbeat | None) -> None:
        """Read what has arrived from a server, without waiting; send a heartbeat if one is given.

        A server that nobody has asked anything has no news.
        """
        server = self._servers.get(node)
        if server is not None:
            assert isinstance(server, TrackedServer)
            server.read_news(heartbeat)

    def _begin(self) -> None:
        self._servers = {}
        self._listener = self._make_listener()
        self._pid = pid()

    def _make(self, node: Node) -> Server:
        return TrackedServer(
            node,
            self._target,
            self._scripts,
            only_primary=self._map.by_sentinel,
            endings=self._endings,
            tracker=self.listener().tracker(node),
        )


class Due(Protocol):
    """Whoever an answer is due to."""

    def settle(self, reply: Reply) -> None:
        """Here it is."""
        ...

    def wake(self) -> None:
        """Look again: the connection broke, or nobody reads any more."""
        ...


class Beat:
    """A heartbeat: nobody waits for its answer."""

    def __init__(self, talk: Talk, answered: Callable[[], None]) -> None:
        """Call ``answered`` then."""
        self._talk = talk
        self._answered = answered
        talk.beats = True

    def settle(self, reply: Reply) -> None:
        """See `Due`."""
        self._talk.beats = False
        if not isinstance(reply, Exception):
            self._answered()

    def wake(self) -> None:
        """See `Due`."""


class Asked(Struct, eq=False):
    """Commands of one thread, which waits until the last is answered.

    Attributes:
        left: answers that are still due.
        told: hears of each.
        turn: released once: look again; None while the thread has not looked in vain since.
    """

    # A Struct, because making one is one step in C.
    left: int
    told: Callable[[], None]
    replies: list[Reply] = []
    turn: Lock | None = None

    def settle(self, reply: Reply) -> None:
        """See `Due`."""
        self.told()
        self.replies.append(reply)
        self.left -= 1
        if not self.left:
            self.wake()

    def wake(self) -> None:
        """See `Due`."""
        turn, self.turn = self.turn, None
        if turn is not None:
            try:  # noqa: SIM105  (suppress() costs more than the rest)
                turn.release()
            except RuntimeError:  # somebody else has, in this very moment
                pass


class Talk:
    """A connection while it stands, and who waits for an answer on it.

    Attributes:
        reading: held by the thread that reads for all.
        over: why it stands no more.
        beats: whether a heartbeat is on its way.
    """

    def __init__(
        self, connection: ThreadConnection, changed: Callable[[bytes | None], None]
    ) -> None:
        """Take it over, connected; ``changed`` hears of what others change."""
        self.connection: Any = connection
        self._tell = teller(changed)
        self.due: deque[Due] = deque()
        self.reading = Lock()
        self.over: Exception | None = None
        self.beats = False

    def send(self, commands: Sequence[Command], asked: Asked) -> None:
        """Send commands whose answers are due then; one thread at a time."""
        packed = self.connection.pack_commands(commands)
        self.due.extend([asked] * len(commands))
        self.connection.send_packed_command(packed)

    def read_one(self, within_s: float) -> None:
        """Read the next answer or message, and hand it out."""
        reply = self.connection.read(within_s)
        if type(reply) is Message:
            self._tell(reply)
        elif self.due:
            self.due.popleft().settle(reply)
        else:
            raise BrokenError("an answer that nobody asked for")

    def stop_reading(self) -> None:
        """Let somebody else read, if somebody waits: he was there before this looks."""
        self.reading.release()
        if self.due:
            for due in tuple(self.due):
                due.wake()
                if type(due) is Asked:
                    break


class TrackedServer(Server):
    """One server and the one connection to it: answers come in order, and between them the news."""

    def __init__(
        self,
        node: Node,
        target: Target,
        scripts: Sequence[str],
        *,
        only_primary: bool,
        endings: Endings | None,
        tracker: Tracker,
    ) -> None:
        """Connect at the first exchange."""
        super().__init__(node, target, scripts, only_primary=only_primary, endings=endings)
        self._tracker = tracker
        self._sending = Lock()
        self._ending = Lock()
        self._talk: Talk | None = None

    def ask(self, command: Command) -> Reply:
        """`exchange` of one command within the deadline; short, while the connection stands."""
        until = time.monotonic() + self._target.deadline_s
        if self._talk is None or not self._breaker.closed:
            return self.exchange([command], until)[0]
        try:
            (reply,) = self._once((command,), until, durable=False)
        except BrokenError:
            return self.exchange([command], until)[0]
        except RedisError:
            self._breaker.failed()
            raise
        if isinstance(reply, NoScriptError):
            return self.exchange([command], until)[0]
        self._breaker.succeeded()
        return reply

    def read_news(self, heartbeat: Heartbeat | None) -> None:
        """See `TrackedThreadWire`; somebody who waits for an answer reads the news himself."""
        talk = self._talk
        if talk is None or talk.over is not None:
            return
        if talk.reading.acquire(blocking=False):
            try:
                while talk.connection.arrived():
                    talk.read_one(self._target.deadline_s)
            except (RedisError, OSError) as error:
                self._end(talk, error)
            finally:
                talk.stop_reading()
        if heartbeat is not None and not talk.beats:
            self._beat(talk, heartbeat)

    def close(self) -> None:
        """Disconnect; whoever waits connects anew."""
        if self._talk is not None:
            self._end(self._talk, BrokenError("closed"))

    def _beat(self, talk: Talk, heartbeat: Heartbeat) -> None:
        """Send a heartbeat when one is due, unless somebody is sending just now."""
        if not self._sending.acquire(blocking=False):
            return
        try:
            due = None if talk.over is not None else heartbeat(self._tracker)
            if due is not None:
                command, answered = due
                talk.due.append(Beat(talk, answered))
                talk.connection.send_command(*command, check_health=False)
        except (RedisError, OSError) as error:
            self._end(talk, error)
        finally:
            self._sending.release()

    def _once(
        self, commands: Sequence[Command], until: float, *, durable: bool, afresh: bool = False
    ) -> list[Reply]:
        assert not durable  # that is another wire's business
        asked, sending = Asked(len(commands), self._tracker.answered), self._sending
        if not (sending.acquire(False) or sending.acquire(timeout=_left_s(until))):
            raise StoreUnavailableError(
                f"{self._called} took no commands for {self._target.deadline_s:g} s"
            )
        try:
            talk = self._talk
            if talk is None or talk.over is not None:
                talk = self._connected(until)
            with self._ending:  # or it is said of a connection on which it is not asked
                if talk.over is None:
                    for command in commands:
                        self._tracker.asked(command)
            try:
                talk.send(commands, asked)
            except BaseException as error:
                self._end(talk, error)
                raise
        finally:
            sending.release()
        try:
            self._wait(talk, asked, until)
        except BaseException as error:
            self._end(talk, error)
            raise
        for reply in asked.replies:
            if isinstance(reply, Exception):
                if elsewhere(reply) and not only_asks(reply):
                    self._tracker.refused()
                if isinstance(reply, BrokenError):  # it is loading its data, for one
                    raise reply
        return asked.replies

    def _wait(self, talk: Talk, asked: Asked, until: float) -> None:
        while asked.left:
            if talk.over is not None:
                raise BrokenError(f"the connection broke: {talk.over}")
            if talk.reading.acquire(False):
                try:
                    while asked.left:
                        talk.read_one(_left_s(until))
                finally:
                    talk.stop_reading()
            elif (turn := asked.turn) is None:
                asked.turn = _taken()  # and look again: who reads now wakes those who have one
            elif not turn.acquire(timeout=_left_s(until)):
                raise SlowError("time-out at a read")

    def _connected(self, until: float) -> Talk:
        """Connect, and listen; nobody else reads yet."""
        connection = thread_connection(self._target, self._node, tracked=True)
        try:
            self._connect(connection, until)
            try:
                track_thread(connection, self._tracker.changed)
            except ResponseError as error:  # then it is never told anything, and trusts no copy
                translated(error, self._called)
            else:
                self._tracker.listening()
        except BaseException:
            connection.disconnect()
            raise
        self._talk = talk = Talk(connection, self._tracker.changed)
        return talk

    def _end(self, talk: Talk, error: BaseException) -> None:
        """Break off; whoever waits for an answer sends once more, on another connection."""
        with self._ending:
            if talk.over is None:
                # In this order: the next connection's tracker is this one, and must not be lost.
                self._tracker.lost()
                talk.over = error if isinstance(error, Exception) else BrokenError("given up")
        talk.connection.disconnect()
        for due in tuple(talk.due):
            due.wake()


def _taken() -> Lock:
    lock = Lock()
    lock.acquire()
    return lock


def _left_s(until: float) -> float:
    return max(until - time.monotonic(), 0.001)
