"""One connection to Redis or Valkey for all threads of a process, which hears of changes.

There is no thread that listens: whoever is about to use a copy first reads what has arrived, unless
another thread is reading just then. Commands take turns; at 0.2 ms each that is 5 000 a second,
and what a near cache answers itself sends none.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock

from samesession.stores.redis_client import (
    PUSHED,
    RedisError,
    ResponseError,
    ThreadConnection,
    track_thread,
    translated,
)
from samesession.stores.redis_endings import Endings
from samesession.stores.redis_target import Node, Target
from samesession.stores.redis_threads import Server, ThreadWire
from samesession.stores.redis_wire import Command, Listener, Reply, Tracker

Heartbeat = Callable[[Tracker], Callable[[], None] | None]
"""What to do with the answer of a PING that is sent now on a connection; None: none is due."""


class TrackedThreadWire(ThreadWire):
    """A wire with one connection a process and server; see `samesession.stores.redis_wire.Wire`."""

    def __init__(
        self,
        target: Target,
        scripts: Sequence[str],
        endings: Endings,
        listener: Callable[[], Listener],
    ) -> None:
        """Connect at the first call; ``listener`` makes who is told in each process."""
        super().__init__(replace(target, pool=1), scripts, endings)
        self._make_listener = listener
        self._forking = Lock()
        self._begin()

    def listener(self) -> Listener:
        """This process's; after a fork the parent's connection is left alone."""
        if self._pid != os.getpid():
            with self._forking:
                if self._pid != os.getpid():
                    self._begin()
        return self._listener

    def read_news(self, heartbeat: Heartbeat) -> None:
        """Read what has arrived, without waiting, and send a heartbeat when one is due."""
        for server in tuple(self._servers.values()):
            assert isinstance(server, TrackedServer)
            server.read_news(heartbeat)

    def _begin(self) -> None:
        self._servers = {}
        self._listener = self._make_listener()
        self._pid = os.getpid()

    def _make(self, node: Node) -> Server:
        return TrackedServer(
            node,
            self._target,
            self._scripts,
            only_primary=self._map.by_sentinel,
            endings=self._endings,
            tracker=self.listener().tracker(),
        )


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
        self._beats: deque[Callable[[], None]] = deque()

    def ask(self, command: Command) -> Reply:
        """As any exchange: news and heartbeats' answers may come first."""
        return self.exchange([command], time.monotonic() + self._target.deadline_s)[0]

    def read_news(self, heartbeat: Heartbeat) -> None:
        """See `TrackedThreadWire`; somebody who waits for an answer reads the news himself."""
        connection = self._pool.borrow(0)
        if connection is None:
            return
        try:
            if not connection.is_connected:
                return
            while connection.can_read(timeout=0):
                self._heard(_read(connection, self._target.deadline_s))
            answered = None if self._beats else heartbeat(self._tracker)
            if answered is not None:
                connection.send_command("PING", check_health=False)
                self._beats.append(answered)
        except (RedisError, OSError):
            self._let_go(connection)
        finally:
            self._pool.give_back(connection)

    def close(self) -> None:
        """Disconnect."""
        super().close()
        self._beats.clear()
        self._tracker.lost()

    def _connect(self, connection: ThreadConnection, until: float) -> None:
        self._beats.clear()
        super()._connect(connection, until)
        try:
            track_thread(connection, self._tracker.changed)
        except ResponseError as error:  # then it is never told anything, and trusts no copy
            translated(error, self._called)
        else:
            self._tracker.listening()

    def _exchange_on(
        self, connection: ThreadConnection, commands: Sequence[Command], until: float
    ) -> list[Reply]:
        try:
            return super()._exchange_on(connection, commands, until)
        except BaseException:
            self._let_go(connection)
            raise

    def _read(self, connection: ThreadConnection, until: float) -> Reply:
        while True:
            reply = _read(connection, max(until - time.monotonic(), 0.001))
            if not self._heard(reply):
                self._tracker.answered()
                return reply

    def _heard(self, reply: Reply) -> bool:
        """Whether it was news, or the answer to a heartbeat; those were sent before."""
        if reply is PUSHED:
            return True
        if not self._beats:
            return False
        answered = self._beats.popleft()
        if not isinstance(reply, Exception):
            answered()
        return True

    def _let_go(self, connection: ThreadConnection) -> None:
        self._beats.clear()
        connection.disconnect()
        self._tracker.lost()


def _read(connection: ThreadConnection, within_s: float) -> Reply:
    try:
        return connection.read_response(timeout=within_s, push_request=True)
    except ResponseError as error:
        return error
