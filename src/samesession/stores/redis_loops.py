"""Commands of an event loop to Redis or Valkey: one shared connection to each server.

The commands of one tick leave in one write, and answers come back in order, so a cancelled request
cannot read another one's answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from samesession.counts import Count, uncounted
from samesession.errors import StoreUnavailableError
from samesession.stores.redis_client import (
    AskError,
    MovedError,
    RedisError,
    loop_connection,
    translated,
)
from samesession.stores.redis_endings import Endings
from samesession.stores.redis_line import DurableLine, Line, Sent
from samesession.stores.redis_target import Node, Target, address
from samesession.stores.redis_topology import Map, map_of
from samesession.stores.redis_wire import Command, Listener, Reply, checked

REFRESH_S = 0.05
"""Between two questions where things are, at least: nobody knows better sooner."""

HOPS = 5
"""How often a command is sent on by servers that do not have its key."""


L = TypeVar("L", bound=Listener | None)


def nobody() -> None:
    """Who is told by connections that are not tracked."""


class LoopWire(Generic[L]):
    """The lines of each event loop that asks."""

    suspends = True

    def __init__(
        self,
        target: Target,
        scripts: Sequence[str],
        endings: Endings | None = None,
        *,
        listener: Callable[[], L],
        count: Count = uncounted,
    ) -> None:
        """Connect at the first call.

        Args:
            endings: what servers are told that may have forgotten it.
            listener: makes who is told, in each event loop, what others change; or `nobody`.
            count: told what is weak.
        """
        self._target = target
        self.scattered = target.topology == "cluster"
        self._scripts = scripts
        self._endings = endings
        self._count = count
        self._listener = listener
        self._map = map_of(target)
        self._all: WeakKeyDictionary[asyncio.AbstractEventLoop, Lines[L]] = WeakKeyDictionary()
        self._lines: Lines[L] | None = None

    def call(self, *command: str | bytes | int) -> asyncio.Future[Reply]:
        """See `Wire`."""
        return self.here().send(command)

    async def many(self, commands: Sequence[Command]) -> list[Reply]:
        """See `Wire`."""
        lines = self.here()
        sent = [lines.send(command) for command in commands]
        return checked(await asyncio.gather(*sent, return_exceptions=True))

    async def durable(self, commands: Sequence[Command]) -> list[Reply]:
        """See `Wire`."""
        lines = self.here()
        sent = [lines.send(command, durable=True) for command in commands]
        return checked(await asyncio.gather(*sent, return_exceptions=True))

    async def call_at(self, node: Node, *command: str | bytes | int) -> Reply:
        """See `Wire`."""
        return await self.here().send(command, node)

    async def primaries(self) -> tuple[Node, ...]:
        """See `Wire`."""
        if self._map.moves:
            await self.here().look()
        return self._map.primaries()

    async def close(self) -> None:
        """See `Wire`; connections of other loops went with their loops."""
        lines = self._all.pop(asyncio.get_running_loop(), None)
        self._lines = None
        if lines is not None:
            await lines.close()

    def here(self) -> Lines[L]:
        """The running loop's."""
        loop, lines = asyncio.get_running_loop(), self._lines
        if lines is None or lines.loop is not loop:  # threads may have loops of their own
            lines = self._all.get(loop)
            if lines is None:
                lines = self._all[loop] = Lines(
                    loop,
                    self._target,
                    self._scripts,
                    self._map,
                    self._endings,
                    self._count,
                    self._listener(),
                )
            self._lines = lines
        return lines


class Lines(Generic[L]):
    """One loop's lines by server, and what waits until somebody said which server it is."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        target: Target,
        scripts: Sequence[str],
        map_: Map,
        endings: Endings | None,
        count: Count,
        listener: L,
    ) -> None:
        """Connect to nobody yet."""
        self.listener = listener
        self.loop = loop
        self._target = target
        self._scripts = scripts
        self._map = map_
        self._endings = endings
        self._count = count
        self._lines: dict[Node, Line] = {}
        self._durable_lines: dict[Node, DurableLine] = {}
        self._parked: list[Sent] = []
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = -REFRESH_S
        self._trouble = ""
        # Where there is only one server: its line, once somebody has asked.
        self._only: Line | None = None

    def send(
        self, command: Command, node: Node | None = None, *, durable: bool = False
    ) -> asyncio.Future[Reply]:
        """Queue a command for this tick's write; the future has its reply or our error."""
        loop = self.loop
        answer: asyncio.Future[Reply] = loop.create_future()
        if self._only is not None and node is None and not durable:
            self._only.send(Sent(command, answer, loop.time() + self._target.deadline_s))
            return answer
        # One batch may be waited for before this one is, and each waits for a replica.
        patience_s = self._target.deadline_s + (2 * self._target.wait_s if durable else 0)
        sent = Sent(command, answer, loop.time() + patience_s, durable=durable)
        if node is None:
            self._route(sent)
        else:
            self._line(node).send(sent)
        return answer

    async def look(self) -> None:
        """Ask where things are, even if we believe that we know."""
        self._ask_somebody()
        assert self._asking is not None
        await asyncio.wait([self._asking])
        if self._trouble:
            raise StoreUnavailableError(f"{self._target.name}: {self._trouble}")

    async def close(self) -> None:
        """Break off."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        for line in (*self._lines.values(), *self._durable_lines.values()):
            await line.close()

    def _route(self, sent: Sent) -> None:
        node = self._map.node_of(sent.command)
        if node is None:
            self._park(sent)
        else:
            self._line(node, sent.durable).send(sent)

    def _line(self, node: Node, durable: bool = False) -> Line:
        if durable:
            return self._durable_line(node)
        line = self._lines.get(node)
        if line is None:
            listener: Listener | None = self.listener
            line = self._lines[node] = Line(
                self.loop,
                node,
                self._target,
                self._scripts,
                self if self._map.moves else None,
                only_primary=self._map.by_sentinel,
                endings=self._endings,
                tracker=None if listener is None else listener.tracker(node),
            )
            if not self._map.moves:
                self._only = line
        return line

    def _durable_line(self, node: Node) -> DurableLine:
        line = self._durable_lines.get(node)
        if line is None:
            line = self._durable_lines[node] = DurableLine(
                self.loop,
                node,
                self._target,
                self._scripts,
                self if self._map.moves else None,
                only_primary=self._map.by_sentinel,
                endings=self._endings,
                count=self._count,
            )
        return line

    def lost(self, node: Node) -> None:
        """See `Home`."""
        self._map.lost(node)

    def elsewhere(self, sent: Sent, node: Node, error: Exception) -> None:
        """See `Home`."""
        sent.asking = False
        sent.hops += 1
        if sent.hops > HOPS:
            sent.answer.set_exception(translated(error, self._target.called(node)))
        elif isinstance(error, AskError):
            there = (error.host or node[0], error.port)
            if isinstance(error, MovedError):
                self._map.moved(error.slot_id, there)
                self._ask_somebody()  # one slot moved: so have others
            else:
                sent.asking = True
            self._line(there, sent.durable).send(sent)
        else:
            self._map.lost(node)
            self._route(sent)

    # -- asking where things are -------------------------------------------------------------------

    def _park(self, sent: Sent) -> None:
        self._parked.append(sent)
        self.loop.call_at(sent.until, self._expire, sent)
        self._ask_somebody()

    def _expire(self, sent: Sent) -> None:
        if sent in self._parked and not sent.answer.done():
            sent.answer.set_exception(
                StoreUnavailableError(
                    f"{self._target.name}: nobody said within {self._target.deadline_s:g} s "
                    "which server it is"
                )
            )

    def _ask_somebody(self) -> None:
        if self._asking is None:
            self._asking = self.loop.create_task(self._ask())

    async def _ask(self) -> None:
        self._trouble = "closed"
        try:
            await asyncio.sleep(max(0.0, self._asked_at + REFRESH_S - self.loop.time()))
            self._trouble = await self._ask_in_turn()
        finally:
            self._asking = None
            self._asked_at = self.loop.time()
            parked, self._parked = self._parked, []
            for sent in parked:
                if sent.answer.done():
                    continue
                if self._map.node_of(sent.command) is None or self._trouble:
                    why = self._trouble or "no server has this key's slot"
                    sent.answer.set_exception(StoreUnavailableError(f"{self._target.name}: {why}"))
                else:
                    self._route(sent)

    async def _ask_in_turn(self) -> str:
        """Ask one place after another; what was wrong with all of them, if something was."""
        places = self._map.places()
        share_s = self._target.deadline_s / len(places)
        trouble = []
        for place in places:
            try:
                async with asyncio.timeout(share_s):
                    reply = await self._asked(place)
                if self._map.learn(place, reply):
                    return ""
                trouble.append(f"{address(place)} knows of no such primary")
            except TimeoutError:
                trouble.append(f"{address(place)} does not answer")
            except (RedisError, OSError, ValueError, TypeError) as error:
                trouble.append(f"{address(place)}: {error}")
        return "; ".join(trouble)

    async def _asked(self, place: Node) -> Reply:
        connection = loop_connection(self._target, place, sentinel=self._map.by_sentinel)
        try:
            await connection.connect()
            await connection.send_command(*self._map.question)
            return await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)
