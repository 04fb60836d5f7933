"""Blocking connections to Redis or Valkey, one a thread at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Lock
from typing import Any

from samesession.counts import Count, uncounted
from samesession.errors import StoreUnavailableError
from samesession.store import CircuitBreaker
from samesession.stores.redis_client import (
    AGAIN,
    AskError,
    BrokenError,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
    SlowError,
    ThreadConnection,
    elsewhere,
    thread_connection,
    translated,
)
from samesession.stores.redis_endings import Endings, identity_in
from samesession.stores.redis_pool import Pool
from samesession.stores.redis_replicas import Replicas
from samesession.stores.redis_target import Node, Target, address
from samesession.stores.redis_topology import map_of, replicas_in
from samesession.stores.redis_wire import Command, Reply, checked

HOPS = 5
"""How often a command is sent on by servers that do not have its key."""

REFRESH_S = 0.05
"""Between two questions where things are, at least: nobody knows better sooner."""


REMINDER_S = 5.0
"""Patience with a server that is told what it may have forgotten, before it is asked anything."""

REMINDED_AT_ONCE = 500


class ThreadWire:
    """Its coroutines never suspend."""

    suspends = False

    def __init__(
        self,
        target: Target,
        scripts: Sequence[str],
        endings: Endings | None = None,
        *,
        count: Count = uncounted,
    ) -> None:
        """Connect at the first call.

        Args:
            endings: what servers are told that may have forgotten it.
            count: told what is weak.
        """
        self._endings = endings
        self._count = count
        self._target = target
        self.scattered = target.topology == "cluster"
        self._scripts = scripts
        self._map = map_of(target)
        # The only one: nobody sends anything on.
        self._only = None if self._map.moves else self._map.primaries()[0]
        self._servers: dict[Node, Server] = {}
        self._asking = Lock()
        self._asked_at = -REFRESH_S

    async def call(self, *command: str | bytes | int) -> Reply:
        """See `Wire`."""
        node = self._only
        if node is None:
            return _one(self._run([command]))
        server = self._servers.get(node) or self._server(node)
        try:
            reply = server.ask(command)
        except RedisError as error:
            raise translated(error, self._target.called(node)) from None
        if isinstance(reply, Exception):
            raise translated(reply, self._target.called(node))
        return reply

    async def many(self, commands: Sequence[Command]) -> list[Reply]:
        """See `Wire`."""
        return checked(self._run(commands))

    async def durable(self, commands: Sequence[Command]) -> list[Reply]:
        """See `Wire`."""
        return checked(self._run(commands, durable=True))

    async def call_at(self, node: Node, *command: str | bytes | int) -> Reply:
        """See `Wire`."""
        until = time.monotonic() + self._target.deadline_s
        try:
            (reply,) = self._server(node).exchange([command], until)
        except RedisError as error:
            raise translated(error, self._target.called(node)) from None
        if isinstance(reply, Exception):
            raise translated(reply, self._target.called(node))
        return reply

    async def primaries(self) -> tuple[Node, ...]:
        """See `Wire`."""
        if self._map.moves:
            trouble = self._ask_in_turn(time.monotonic() + self._target.deadline_s)
            if trouble:
                raise StoreUnavailableError(f"{self._target.name}: {trouble}")
        return self._map.primaries()

    async def close(self) -> None:
        """See `Wire`."""
        for server in tuple(self._servers.values()):
            server.close()

    def _run(self, commands: Sequence[Command], *, durable: bool = False) -> list[Reply]:
        """Send each command to its server, and on to another one while they say so."""
        until = time.monotonic() + self._target.deadline_s
        replies: list[Reply] = [None] * len(commands)
        left = list(range(len(commands)))
        broken = False
        for hop in range(HOPS + 1):
            again: list[int] = []
            for node, places in self._by_server(commands, left, until).items():
                try:
                    asked = [commands[at] for at in places]
                    got = self._server(node).exchange(asked, until, durable=durable)
                    for at, reply in zip(places, got, strict=True):
                        if hop < HOPS and self._sent_on(reply, node):
                            again.append(at)
                        elif self._map.moves and type(reply) is AskError:
                            replies[at] = self._asked(commands[at], node, reply, until, durable)
                        else:
                            replies[at] = self._worded(reply, node)
                except RedisError as error:
                    self._map.lost(node)
                    if isinstance(error, SlowError) or broken or not self._map.moves:
                        raise translated(error, self._target.called(node)) from None
                    broken = True
                    again = [at for at in left if at in places or at in again]
            if not again:
                break
            left = again
        return replies

    def _sent_on(self, reply: Reply, node: Node) -> bool:
        """Whether a server said that it is not the one for a command; then look again."""
        if not (self._map.moves and isinstance(reply, Exception) and elsewhere(reply)):
            return False
        if type(reply) is AskError:
            return False  # this once only
        self._map.lost(node)
        if isinstance(reply, MovedError):
            self._map.moved(reply.slot_id, (reply.host or node[0], reply.port))
        return True

    def _asked(
        self, command: Command, node: Node, error: AskError, until: float, durable: bool
    ) -> Reply:
        """Send a command to where its slot is moving just now."""
        there = (error.host or node[0], error.port)
        both = [("ASKING",), command]
        return self._worded(self._server(there).exchange(both, until, durable=durable)[1], there)

    def _worded(self, reply: Reply, node: Node) -> Reply:
        if isinstance(reply, Exception):
            return translated(reply, self._target.called(node))
        return reply

    def _by_server(
        self, commands: Sequence[Command], left: Sequence[int], until: float
    ) -> dict[Node, list[int]]:
        groups: dict[Node, list[int]] = {}
        for at in left:
            node = self._map.node_of(commands[at])
            if node is None:
                node = self._found(commands[at], until)
            groups.setdefault(node, []).append(at)
        return groups

    def _server(self, node: Node) -> Server:
        server = self._servers.get(node)
        if server is None:
            server = self._servers.setdefault(node, self._make(node))
        return server

    def _make(self, node: Node) -> Server:
        return Server(
            node,
            self._target,
            self._scripts,
            only_primary=self._map.by_sentinel,
            endings=self._endings,
            count=self._count,
        )

    # -- asking where things are -------------------------------------------------------------------

    def _found(self, command: Command, until: float) -> Node:
        """Ask one place after another; one thread asks for all."""
        trouble = "nobody said in time which server it is"
        if self._asking.acquire(timeout=max(until - time.monotonic(), 0)):
            try:
                node = self._map.node_of(command)
                if node is not None:
                    return node  # somebody has asked meanwhile
                time.sleep(max(self._asked_at + REFRESH_S - time.monotonic(), 0))
                trouble = self._ask_in_turn(until)
                self._asked_at = time.monotonic()
            finally:
                self._asking.release()
        node = self._map.node_of(command)
        if node is None or trouble:
            raise StoreUnavailableError(
                f"{self._target.name}: {trouble or 'no server has this slot'}"
            )
        return node

    def _ask_in_turn(self, until: float) -> str:
        """What was wrong with all places, if something was."""
        places = self._map.places()
        share_s = self._target.deadline_s / len(places)
        trouble = []
        for place in places:
            try:
                reply = self.ask_place(place, *self._map.question, within_s=share_s)
                if self._map.learn(place, reply):
                    return ""
                trouble.append(f"{address(place)} knows of no such primary")
            except (RedisError, OSError, ValueError, TypeError) as error:
                trouble.append(f"{address(place)}: {error}")
            if time.monotonic() > until:
                break
        return "; ".join(trouble)

    def ask_place(self, place: Node, *command: str | bytes | int, within_s: float) -> Reply:
        """Ask a sentinel, or some server of a cluster, on a connection of its own.

        Raises:
            RedisError: it refused, or is not there.
        """
        connection = thread_connection(self._target, place, sentinel=self._map.by_sentinel)
        connection.socket_connect_timeout = connection.socket_timeout = within_s
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()


class Server:
    """One server: its connections, and whether it answered lately."""

    def __init__(
        self,
        node: Node,
        target: Target,
        scripts: Sequence[str],
        *,
        only_primary: bool,
        endings: Endings | None,
        count: Count = uncounted,
    ) -> None:
        """Connect at the first exchange."""
        self._node = node
        self._endings = endings
        self._count = count
        self._replicas = Replicas(target.wait_s, time.monotonic)
        self._called = target.called(node)
        self._target = target
        self._scripts = scripts
        self._only_primary = only_primary
        self._breaker = CircuitBreaker(clock=time.monotonic, open_s=target.probe_s)
        self._pool = Pool(lambda: thread_connection(target, node), target.pool)

    def exchange(
        self, commands: Sequence[Command], until: float, *, durable: bool = False
    ) -> list[Reply]:
        """Send commands in one write; once more when the connection breaks.

        Errors that are answers to one command stand in their places.

        Args:
            commands: all for this server.
            until: when an answer is late, by `time.monotonic`.
            durable: whether to wait for a replica then.
        """
        if not self._breaker.allows():
            raise StoreUnavailableError(f"{self._called} did not answer a moment ago")
        try:
            replies = self._twice(commands, until, durable=durable)
            if NoScriptError in map(type, replies):
                # The server forgot its scripts (SCRIPT FLUSH, a failover): teach it again.
                self._twice([("SCRIPT", "LOAD", script) for script in self._scripts], until)
                replies = self._twice(commands, until, durable=durable)
        except RedisError:
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        return replies

    def ask(self, command: Command) -> Reply:
        """`exchange` of one command within the deadline; short, where a connection stands."""
        deadline_s = self._target.deadline_s
        until = time.monotonic() + deadline_s
        connection: Any = self._pool.borrow(until) if self._breaker.closed else None
        if connection is None:
            return self.exchange([command], until)[0]
        try:
            reply = connection.ask(command, deadline_s)
        except BrokenError as error:
            reply = error
        except RedisError:
            self._breaker.failed()
            raise
        finally:
            self._pool.give_back(connection)
        if isinstance(reply, AGAIN):
            return self.exchange([command], until)[0]
        self._breaker.succeeded()
        return reply

    def close(self) -> None:
        """Disconnect."""
        self._pool.close()

    def _twice(
        self, commands: Sequence[Command], until: float, *, durable: bool = False
    ) -> list[Reply]:
        try:
            return self._once(commands, until, durable=durable)
        except SlowError:
            raise
        except BrokenError:
            # The server was restarted, for one; so other idle connections are broken, too.
            return self._once(commands, until, durable=durable, afresh=True)

    def _once(
        self, commands: Sequence[Command], until: float, *, durable: bool, afresh: bool = False
    ) -> list[Reply]:
        connection = self._pool.borrow(until)
        if connection is None:
            # No fault of the server's, so the circuit stays closed.
            raise StoreUnavailableError(
                f"{self._called}: all {self._target.pool} connections were busy for "
                f"{self._target.deadline_s:g} s; raise the URL's pool="
            )
        try:
            if afresh:
                connection.disconnect()
            replies = self._exchange_on(connection, commands, until)
            if durable and not self._reached_a_replica(connection):
                for reply in replies:
                    if not isinstance(reply, Exception):
                        self._count("weak")
            return replies
        except BaseException:
            connection.disconnect()  # its next answer would be somebody else's
            raise
        finally:
            self._pool.give_back(connection)

    def _exchange_on(
        self, connection: ThreadConnection, commands: Sequence[Command], until: float
    ) -> list[Reply]:
        if not connection.is_connected:
            self._connect(connection, until)
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        return [self._read(connection, until) for _ in commands]

    def _connect(self, connection: ThreadConnection, until: float) -> None:
        # redis-py greets and signs in within its own time-out: what is left of ours.
        left_s = max(until - time.monotonic(), 0.001)
        connection.socket_connect_timeout = connection.socket_timeout = left_s
        connection.connect()
        if self._only_primary:
            connection.send_command("ROLE", check_health=False)
            reply = self._read(connection, until)
            if not isinstance(reply, Exception) and replicas_in(reply) is None:
                raise BrokenError("a replica, which the sentinels take for the primary")
        if self._endings:
            self._remind(connection, self._endings, until)

    def _remind(self, connection: ThreadConnection, endings: Endings, until: float) -> None:
        """Tell a server that is another one than before what has ended."""
        connection.send_command("INFO", "replication", check_health=False)
        due = endings.due(self._node, identity_in(self._read(connection, until)))
        if due:
            due[:0] = [("SCRIPT", "LOAD", script) for script in self._scripts]
        patience = time.monotonic() + REMINDER_S
        for at in range(0, len(due), REMINDED_AT_ONCE):
            some = due[at : at + REMINDED_AT_ONCE]
            connection.send_packed_command(connection.pack_commands(some), check_health=False)
            for _ in some:
                endings.told(self._read(connection, patience))

    def _reached_a_replica(self, connection: ThreadConnection) -> bool:
        while (question := self._replicas.question()) is not None:
            until = time.monotonic() + self._target.wait_s + self._target.deadline_s
            connection.send_command(*question, check_health=False)
            reached = self._replicas.answered(question, self._read(connection, until))
            if reached is not None:
                return reached
        return False

    def _read(self, connection: ThreadConnection, until: float) -> Reply:
        try:
            return connection.read_response(timeout=max(until - time.monotonic(), 0.001))
        except ResponseError as error:
            return error


def _one(replies: Sequence[Reply]) -> Reply:
    (reply,) = replies
    if isinstance(reply, Exception):
        raise reply
    return reply
