"""A cluster in one process, under one seed: hosts, their clocks, and a network that misbehaves.

Everything that happens is an event at a simulated millisecond; the seed decides what is delayed,
lost, doubled or overtaken. The replicas are the real ones, and frames go through the real codec.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Coroutine, Iterator
from contextvars import copy_context
from typing import Any

from samesession.cluster.lease import answer
from samesession.cluster.placement import shard_of
from samesession.cluster.replica import Ask, Left, Now, Output, Replica, Reply, Said, Settings, Tell
from samesession.cluster.shelf import DictShelf
from samesession.cluster.transport import ALL
from samesession.cluster.wire import (
    OLDEST,
    PROTOCOL,
    Admit,
    CommitDelta,
    Committed,
    Done,
    End,
    EndAll,
    Ends,
    HeldBy,
    Load,
    Loaded,
    Marked,
    Records,
    Request,
    Unavailable,
)
from samesession.errors import StoreUnavailableError
from samesession.record import Delta, Ending, Key, Mark, Outcome, Record, Version

TICK_MS = 100
WALL_MS = 1_800_000_000_000
CALM_MS = 20
LINK_LEASE_MS = 2000
"""How long the transport takes to notice a peer that says nothing (zenoh's lease)."""


class Host:
    """One server: its clocks, its shelf, its agent, its link to the others."""

    def __init__(self, world: World, name: str) -> None:
        rng = world.rng
        self.world = world
        self.name = name
        self.uptime_ms = rng.randrange(1_000, 10_000_000)
        self.skew_ms = rng.randrange(-20_000, 20_000)
        self.shelf = DictShelf()
        self.agent: Replica | None = None
        self.life = 0
        self.agent_paused = False
        self.workers_up = False
        self.backlog: list[Callable[[], None]] = []
        self.tickets: dict[int, Callable[[Any], None]] = {}
        self.questions: dict[int, tuple[str, int, int]] = {}
        self.linked: set[str] = set()
        self.left = False
        self._now = Now(0, 0)

    @property
    def now(self) -> Now:
        at = self.world.now
        if self._now.mono_ms != self.uptime_ms + at:
            self._now = Now(self.uptime_ms + at, WALL_MS + self.skew_ms + at)
        return self._now

    def start(self) -> None:
        """Start the agent over whatever is on the shelf."""
        self.life += 1
        self.agent_paused, self.workers_up, self.left = False, True, False
        self.backlog, self.tickets, self.questions = [], {}, {}
        if self.life > 1:
            self.world.old_builds.discard(self.name)
        settings = self.world.settings(self.name)
        self.agent = self.world.build(settings, self.shelf)
        self.do(self.agent.start(self.now))
        self.world.after(TICK_MS, self._ticker(self.life))
        self.world.links()

    def stop(self, *, workers: bool = True, disk: bool = True, silently: bool = False) -> None:
        """Die; the others' transport notices at once, or after its lease."""
        self.agent, self.life = None, self.life + 1
        self.workers_up = self.workers_up and not workers
        if not disk:
            self.shelf = DictShelf()
        for ticket in list(self.tickets):
            self.tickets.pop(ticket)(None)
        self.linked.clear()
        self.world.links(silently=self.name if silently else None)

    def pause(self, ms: int, *, workers: bool) -> None:
        """Stop the agent, and maybe the whole host; what comes meanwhile waits."""
        life = self.life
        self.agent_paused = True
        if workers:
            self.workers_up = False
        paused_at = self.world.now

        def resume() -> None:
            if self.life != life:
                return
            self.agent_paused = False
            self.workers_up = True
            waiting, self.backlog = self.backlog, []
            if self.world.now - paused_at > LINK_LEASE_MS:
                self.world.relink(self.name)
            if self.world.rng.random() < 0.5:
                self.tick()
            for event in waiting:
                event()
            self.world.after(TICK_MS, self._ticker(life))

        self.world.after(ms, resume)

    def receive(self, event: Callable[[Replica], list[Output]]) -> None:
        """Let the agent take something in, now or when it runs again."""
        life = self.life

        def take() -> None:
            if self.life == life and self.agent is not None:
                self.do(event(self.agent))

        if self.agent_paused:
            self.backlog.append(take)
        else:
            take()

    def tick(self) -> None:
        self.receive(lambda agent: agent.tick(self.now))

    def _ticker(self, life: int) -> Callable[[], None]:
        def ticker() -> None:
            if self.life == life and not self.agent_paused:
                self.tick()
                self.world.after(TICK_MS, ticker)

        return ticker

    def do(self, outputs: list[Output]) -> None:
        world = self.world
        for output in outputs:
            if isinstance(output, Tell):
                if output.topic == ALL:
                    for other in world.hosts.values():
                        if other is not self:
                            world.send(self, other, lambda a, h, f=output.frame: a.heard(h.now, f))
                else:
                    other = world.hosts.get(output.topic.removeprefix("to/"))
                    if other is not None:
                        world.send(self, other, lambda a, h, f=output.frame: a.heard(h.now, f))
            elif isinstance(output, Ask):
                self._ask(output)
            elif isinstance(output, Reply):
                self._reply(output)
            elif isinstance(output, Said):
                waiting = self.tickets.pop(output.ticket, None)
                if waiting is not None:
                    waiting(output.answer)
            elif isinstance(output, Left):
                self.left = True
                world.after(1, lambda life=self.life: self.life == life and self.stop())

    def _ask(self, ask: Ask) -> None:
        assert ask.within_ms > 0, "zenoh raises"
        other = self.world.hosts.get(ask.server)
        if other is None:
            return
        question = self.world.number()
        life = self.life

        def asked(agent: Replica, host: Host) -> list[Output]:
            host.questions[question] = (self.name, ask.number, life)
            return agent.asked(host.now, question, ask.frame)

        self.world.send(self, other, asked)

    def _reply(self, reply: Reply) -> None:
        name, number, life = self.questions.pop(reply.question, ("", 0, 0))
        other = self.world.hosts.get(name)
        if other is not None:
            self.world.send(
                self,
                other,
                lambda a, h: a.replied(h.now, number, reply.frame) if h.life == life else [],
            )


class World:
    """Hosts, a clock, a network."""

    def __init__(
        self,
        seed: int,
        names: list[str],
        *,
        build: Callable[[Settings, DictShelf], Replica] = Replica,
        **settings: Any,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 0
        self.build = build
        self.loss = self.doubled = self.slow = 0.0
        self.slowest_ms = 300
        self.cut: set[tuple[str, str]] = set()
        self._events: list[tuple[int, int, Callable[[], object]]] = []
        self._number = 0
        self._looked_ms = -CALM_MS
        self._settings = {"shards": 8, "round_ms": 2000, **settings}
        self.old_builds: set[str] = set()
        """Servers that still run the build before this one; a restart brings them this one."""
        self.hosts = {name: Host(self, name) for name in names}

    def settings(self, name: str) -> Settings:
        protocol = OLDEST if name in self.old_builds else PROTOCOL
        boot = self.rng.getrandbits(56)
        return Settings(name=name, boot=boot, protocol=protocol, **self._settings)

    def number(self) -> int:
        self._number += 1
        return self._number

    def after(self, ms: int, event: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now + ms, self.number(), event))

    def run(self, until_ms: int, stop: Callable[[], bool] | None = None) -> bool:
        """Run to a time; True if ``stop`` said so before, or at it."""
        events, pop = self._events, heapq.heappop
        while events and events[0][0] <= until_ms:
            self.now, _, event = pop(events)
            event()
            if stop is not None and stop():
                return True
        self.now = until_ms
        return False

    # -- the network -------------------------------------------------------------------------------

    def send(self, sender: Host, to: Host, take: Callable[[Replica, Host], list[Output]]) -> None:
        chance = self.rng.random
        copies = 1
        if self.loss and chance() < self.loss:
            copies = 0
        elif self.doubled and chance() < self.doubled:
            copies = 2
        life, mine = to.life, sender.life
        for _ in range(copies):
            delay = 1 + int(3 * chance())
            if self.slow and chance() < self.slow:
                delay = self.rng.randrange(4, self.slowest_ms)

            def arrive() -> None:
                if sender.life != mine and chance() < 0.5:
                    return  # it died with this in its buffers
                if (sender.name, to.name) not in self.cut and to.life == life:
                    to.receive(lambda agent: take(agent, to))

            self.after(delay, arrive)

    def reachable(self, one: Host, other: Host) -> bool:
        both = {(one.name, other.name), (other.name, one.name)}
        return one.agent is not None and other.agent is not None and not both & self.cut

    def links(self, silently: str | None = None) -> None:
        """Let each transport notice who is there, soon if they come, late if they are cut off."""
        for one in self.hosts.values():
            for other in self.hosts.values():
                if one is other or one.agent is None:
                    continue
                here, seen = self.reachable(one, other), other.name in one.linked
                if here == seen:
                    continue
                gone_quietly = other.agent is not None or silently == other.name
                late = self.rng.randrange(LINK_LEASE_MS - 200, LINK_LEASE_MS + 200)
                soon = self.rng.randrange(3, 600) if here else self.rng.randrange(1, 8)
                delay = late if not here and gone_quietly else soon
                self.after(
                    delay, lambda a=one, b=other, up=here, n=one.life: self._link(a, b, up, n)
                )

    def _link(self, one: Host, other: Host, up: bool, life: int) -> None:
        if one.life != life or one.agent is None or self.reachable(one, other) != up:
            return
        if up == (other.name in one.linked):
            return
        (one.linked.add if up else one.linked.discard)(other.name)
        one.receive(lambda agent: agent.linked(one.now, other.name, up=up))

    def relink(self, name: str) -> None:
        """The links of a host that was paused for long broke, and come back."""
        host = self.hosts[name]
        for other in self.hosts.values():
            if other is host:
                continue
            for one, two in ((host, other), (other, host)):
                if two.name in one.linked:
                    one.linked.discard(two.name)
                    one.receive(lambda agent, a=one, b=two: agent.linked(a.now, b.name, up=False))
        self.links()

    def paused_for_long(self, name: str) -> None:
        """The others' transport gives a paused host up."""
        host = self.hosts[name]
        for other in self.hosts.values():
            if other is not host and name in other.linked and host.agent_paused:
                other.linked.discard(name)
                other.receive(lambda agent, a=other: agent.linked(a.now, name, up=False))

    def partition(self, pairs: set[tuple[str, str]]) -> None:
        """Cut these directions, and only these."""
        self.cut = pairs
        self.links()

    # -- what to wait for --------------------------------------------------------------------------

    def calm(self) -> bool:
        """Whether every server that runs is settled, and every shard is served and level."""
        if 0 <= self.now - self._looked_ms < CALM_MS:
            return False  # looking at everything after every event would take a tenth of a history
        self._looked_ms = self.now
        running = [host for host in self.hosts.values() if host.agent is not None and not host.left]
        if not running or any(host.agent_paused for host in running):
            return False
        for host in running:
            agent = host.agent
            if not agent.ready or set(agent._members.peers) != {
                other.name for other in running if other is not host
            }:
                return False
        for shard in range(self._settings["shards"]):
            serving = [h.agent for h in running if h.agent._claims.serving(shard) is not None]
            if len(serving) != 1:
                return False
            claims = serving[0]._claims
            for name in claims.following(shard):
                side = claims.roles[shard].sides[name]
                if not side.level or claims.followers.behind(name, shard):
                    return False
            if len(claims.following(shard)) + 1 < len(claims.owners(shard)):
                return False
        return True


# -- workers ---------------------------------------------------------------------------------------


class _Call:
    """A worker waits for its agent."""

    def __init__(self, host: Host, request: Request, within_ms: int) -> None:
        self.host, self.request, self.within_ms = host, request, within_ms

    def __await__(self) -> Iterator[Any]:
        return (yield self)

    def begin(self, done: Callable[[Any], None]) -> None:
        host, world = self.host, self.host.world
        if host.agent is None:
            world.after(1, lambda: done(None))
            return
        ticket, answered = world.number(), False

        def once(result: Any) -> None:
            nonlocal answered
            if not answered:
                answered = True
                host.tickets.pop(ticket, None)
                done(result)

        host.tickets[ticket] = once
        world.after(self.within_ms + 200, lambda: once(None))
        deadline = world.now + self.within_ms
        host.receive(
            lambda agent: agent.request(
                host.now, ticket, self.request, within_ms=deadline - world.now
            )
        )


class WorkerStore:
    """The `Store` that a worker of a host has: reads its shelf, asks its agent."""

    lags = True
    suspends = True

    def __init__(self, host: Host, *, within_ms: int = 250, ack: int = 1) -> None:
        self._host = host
        self._within_ms = within_ms
        self._ack = ack
        self.weak = False
        self.found = False
        self.principal: str | None = None

    async def load(self, key: Key, *, at_least: Version | None = None) -> Record | Mark | None:
        found = reads(self._host, key, at_least)
        if found is not None:
            return found
        loaded = await self._ask(Load(key, at_least))
        assert isinstance(loaded, Loaded)
        return loaded.record or loaded.mark

    async def commit(self, delta: Delta) -> Outcome:
        committed = await self._ask(CommitDelta(delta))
        assert isinstance(committed, Committed)
        self.weak = self.weak or committed.weak
        return committed.outcome

    async def end(self, key: Key, ending: Ending) -> Mark:
        marked = await self._ask(End(key, ending), 4500)
        assert isinstance(marked, Marked)
        return marked.mark

    async def admit(self, principal: str, key: Key, until_ms: int) -> None:
        assert isinstance(await self._ask(Admit(principal, key)), Done)

    async def dismiss(self, principal: str, key: Key) -> None: ...

    async def held_by(self, principal: str) -> list[Record]:
        records = await self._ask(HeldBy(principal))
        assert isinstance(records, Records)
        return list(records.records)

    async def end_all(self, principal: str, ending: Ending, *, keep: Key | None = None) -> int:
        ends = await self._ask(EndAll(principal, ending, keep), 4500)
        assert isinstance(ends, Ends)
        return ends.number

    async def close(self) -> None: ...

    async def _ask(self, request: Request, within_ms: int = 0) -> Any:
        result = await _Call(self._host, request, within_ms or self._within_ms)
        if result is None or isinstance(result, Unavailable):
            raise StoreUnavailableError("nobody answered")
        return result


def reads(host: Host, key: Key, at_least: Version | None = None) -> Record | Mark | None:
    """What a worker reads without a call."""
    copy = host.shelf.get(key)
    shards = host.world._settings["shards"]
    state = host.shelf.shards().get(shard_of(key, shards))
    return answer(
        copy,
        0 if state is None else state.era,
        host.shelf.lease,
        now_ms=host.now.mono_ms,
        wall_ms=host.now.wall_ms,
        at_least=at_least,
    )


def spawn(
    coroutine: Coroutine[Any, Any, Any], done: Callable[[Any, BaseException | None], None]
) -> None:
    """Run a worker's request through the simulated time; ``done`` gets its result or its fault."""
    context = copy_context()

    def step(value: Any) -> None:
        try:
            call = context.run(coroutine.send, value)
        except StopIteration as stop:
            done(stop.value, None)
        except Exception as fault:  # noqa: BLE001  (whatever a request raises is its outcome)
            done(None, fault)
        else:
            call.begin(step)

    step(None)
