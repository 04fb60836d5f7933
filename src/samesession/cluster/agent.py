"""One server's part in the cluster: ``python -m samesession.cluster.agent``, spawned by a worker.

It drives a `Replica`: what workers ask, what the others say and the ticks are inputs, one at a
time on one event loop, each in one transaction of the shelf; what the replica returns is done
after the transaction. It ends by itself `LONELY_S` after the last worker has gone, and when asked
to (SIGTERM, SIGHUP) as soon as its workers have gone, or `WORKERS_S` later; both times it first
hands its shards over. SIGINT is the workers' business: a Ctrl-C reaches the whole group.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import count
from typing import cast

from samesession.cluster import election, replica, wire
from samesession.cluster.client import FORGET, LEASE_S, READY, STATUS, boot_ms
from samesession.cluster.inbox import Inbox
from samesession.cluster.line import Frames, framed
from samesession.cluster.lmdb_shelf import LmdbShelf, map_of
from samesession.cluster.options import Options, resolve, shown
from samesession.cluster.replica import Now, Output, Replica
from samesession.cluster.transport import ALL, Question, mailbox
from samesession.cluster.zenoh import LEASE_MS, Place, ZenohTransport
from samesession.errors import SameSessionError, StoreUnavailableError
from samesession.settings import Url

log = logging.getLogger("samesession.cluster")

TICK_S = 0.05
LONELY_S = 3.0
FIRST_S = 5.0
"""For the first worker to connect."""

WORKERS_S = 3.0
HAND_OVER_S = 10.0
QUESTION_S = 10.0
LOOK_AROUND_S = 2.0
BROKEN_MS = LEASE_MS * 3 // 4
"""After a pause as long the others may have ended their links: zenoh speaks every quarter."""

REMEMBER_S = 600.0
RETRY_S = 1.0
LOG_EVERY_S = 60.0
TIDY_S = 10.0

SWITCH_S = 0.0002
"""What zenoh's threads wait at most for the loop to let them post; Python's own is 5 ms."""

COLLECT = (20_000, 10, 20)
"""Hardly anything here refers to itself; Python's own 700 cost a tenth of taking sessions over."""

_LONGER: dict[type, float] = {wire.End: LEASE_S, wire.HeldBy: LEASE_S, wire.EndAll: 2 * LEASE_S}


class Agent:
    """The replica, its shelf, its transport and its workers, on one event loop."""

    def __init__(self, options: Options) -> None:
        """Take over what the last agent of this server left."""
        self._options = options
        self._listen = options.listening()
        self._map = map_of(options.folder, options.size)
        self._shelf = LmdbShelf(self._map)
        self._settings = replica.Settings(
            name=options.server,
            boot=secrets.randbits(56),
            copies=options.copies,
            refuse=options.refuse,
        )
        with self._shelf.writing():
            self._replica = Replica(self._settings, self._shelf)
        self._loop = asyncio.get_running_loop()
        self._outputs: list[Output] | None = None
        self._inbox = Inbox(self._loop, lambda: nullcontext() if self._failed else self._together())
        self._numbers = count(1)
        self._workers: set[_Worker] = set()
        self._tickets: dict[int, tuple[_Worker, int]] = {}
        self._questions: dict[int, tuple[float, Question]] = {}
        self._waiting: list[tuple[_Worker, int]] = []
        self._lonely_at = time.monotonic() + FIRST_S
        self._addresses: dict[str, float] = {}
        self._told: dict[str, int] = {}
        self._log_at = self._tidy_at = 0.0
        self._asked = asyncio.Event()
        self._left = asyncio.Event()
        self._failed = False
        self._transport: ZenohTransport

    async def run(self) -> int:
        """Live; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._asked.set)
        self._transport = await self._join()
        path = self._options.socket
        with suppress(FileNotFoundError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink()  # the lock is ours, so whose it was is gone
        server = await self._loop.create_unix_server(partial(_Worker, self), os.fspath(path))
        tasks = [self._loop.create_task(work) for work in (self._ticks(), self._look_around())]
        try:
            await self._end_wanted()
            await self._leave()
        finally:
            for task in tasks:
                task.cancel()
            server.close()
            with suppress(FileNotFoundError):
                path.unlink()
            self._transport.close()
        return int(self._failed)

    # -- inputs ------------------------------------------------------------------------------------

    def step(self, take: Callable[..., list[Output]], *arguments: object, **named: object) -> None:
        """Give the replica one input, and do what it says."""
        if self._failed:
            return
        if self._outputs is None:
            with self._together():
                self.step(take, *arguments, **named)
        else:
            self._outputs += take(_now(), *arguments, **named)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Have the inputs of a block in one transaction; what they say goes out after it."""
        outputs, begun = list[Output](), False
        self._outputs = outputs
        try:
            with self._shelf.writing():
                begun = True
                yield
            self._outputs = None
            for output in sorted(outputs, key=_haste):
                self._do(output)
        except Exception:
            self._outputs = None
            # Its memory may differ from the shelf, or from what was said: the next agent starts
            # from the shelf.
            log.exception("the agent of %s ends and is started anew", self._settings.name)
            self._fail()
            if not begun:
                yield

    def _fail(self) -> None:
        """End at once, and hand nothing over."""
        self._failed = True
        self._left.set()
        self._asked.set()

    def request(self, worker: _Worker, number: int, body: bytes) -> None:
        """A worker asks."""
        if body == READY:
            self._waiting.append((worker, number))
            self._answer_ready()
        elif body == STATUS:
            worker.send(number, self._status())
        elif body.startswith(FORGET) and (names := wire.unpack_names(body[len(FORGET) :])):
            self.step(self._replica.forget, names)
            worker.send(number, self._status())
        else:
            request = wire.unpack_request(body)
            if isinstance(request, wire.Refusal):
                self._replica.refused(request)
                worker.send(number, wire.pack(wire.Unavailable(f"a {request} request")))
                return
            ticket = next(self._numbers)
            self._tickets[ticket] = worker, number
            longer = isinstance(request, wire.Admit) and request.most
            more_ms = round(1000 * (LEASE_S if longer else _LONGER.get(type(request), 0)))
            # The worker gives up after the whole deadline, and should rather hear why.
            within_ms = self._options.deadline_ms * 4 // 5 + more_ms
            self.step(self._replica.request, ticket, request, within_ms=within_ms)

    def came(self, worker: _Worker) -> None:
        """A worker connected."""
        self._workers.add(worker)

    def went(self, worker: _Worker) -> None:
        """A worker has gone."""
        self._workers.discard(worker)
        if not self._workers:
            self._lonely_at = time.monotonic() + LONELY_S

    def _heard(self, frame: bytes) -> None:
        self.step(self._replica.heard, frame)

    def _linked(self, server: str, up: bool) -> None:
        self.step(self._replica.linked, server, up=up)

    def _queried(self, question: Question, frame: bytes) -> None:
        number = next(self._numbers)
        self._questions[number] = time.monotonic() + QUESTION_S, question
        self.step(self._replica.asked, number, frame)

    # -- outputs -----------------------------------------------------------------------------------

    def _do(self, output: Output) -> None:
        match output:
            case replica.Tell():
                self._transport.publish(output.topic, output.frame)
            case replica.Ask():
                replied = partial(self.step, self._replica.replied, output.number)
                self._transport.query(
                    output.server, output.frame, replied, within_ms=output.within_ms
                )
            case replica.Reply():
                _, question = self._questions.pop(output.question, (0.0, None))
                if question is not None:
                    question.reply(output.frame)
            case replica.Said():
                worker, number = self._tickets.pop(output.ticket)
                worker.send(number, wire.pack(output.answer))
            case replica.Left():
                self._left.set()

    def _answer_ready(self) -> None:
        if self._waiting and self._replica.ready:
            waiting, self._waiting = self._waiting, []
            for worker, number in waiting:
                worker.send(number, READY)

    def _status(self) -> bytes:
        with self._shelf.writing():
            told = self._replica.status(_now())
        mine = {
            "pid": os.getpid(),
            "listen": shown(self._listen),
            "linked": self._transport.linked,
            "workers": len(self._workers),
            "map": str(self._options.folder),
            "map_used": round(self._map.used(), 3),
        }
        told = {"counts": self._replica.counts, **told}
        return json.dumps({**told, "agent": mine}).encode()

    # -- time --------------------------------------------------------------------------------------

    async def _ticks(self) -> None:
        """Let time pass; end after a pause so long that the others ended their links with us.

        When a server wakes, its new link may be there before the other side is done with the old
        one, and what was declared on the new one goes with the old one: after one in some ten
        such pauses two servers never heard of one another again. A new agent is somebody new.
        """
        ticked_ms, linked = _idle_ms(), False
        while True:
            idle_ms = _idle_ms()
            paused_ms, ticked_ms = idle_ms - ticked_ms, idle_ms
            if paused_ms > BROKEN_MS and linked:  # as before the pause: by now links may be gone
                log.warning("paused for %.1f s: a new agent takes over", paused_ms / 1000)
                self._fail()
                return
            linked = bool(self._transport.linked)
            self.step(self._replica.tick)
            self._answer_ready()
            now = time.monotonic()
            for number in [n for n, (until, _) in self._questions.items() if until < now]:
                del self._questions[number]
            self._warn(now)
            if now >= self._tidy_at:
                self._tidy_at = now + TIDY_S
                self._map.forget_the_dead()
            await asyncio.sleep(TICK_S)

    def _warn(self, now: float) -> None:
        """Once a minute at most: who sends rubbish must not fill the log."""
        if now < self._log_at:
            return
        refused = {str(name): self._replica.counts.get(name, 0) for name in wire.Refusal}
        fresh = {name: count - self._told.get(name, 0) for name, count in refused.items()}
        off = {name: f"{ms / 1000:+.0f} s" for name, ms in self._replica.far_off.items()}
        self._told = refused
        if any(fresh.values()):
            log.warning("frames refused in the last minute: %s", fresh)
        if off:
            log.warning(
                "clocks more than a minute from that of %s: %s; a server whose clock differs from "
                "most others' is not ready",
                self._settings.name,
                off,
            )
        if off or any(fresh.values()):
            self._log_at = now + LOG_EVERY_S

    async def _look_around(self) -> None:
        """Introduce ourselves to servers that can be reached, and that nobody is linked with."""
        own = shown(self._listen)
        while True:
            await asyncio.sleep(LOOK_AROUND_S)
            now = time.monotonic()
            listed = await asyncio.to_thread(resolve, self._options.seeds)
            linked = set(self._transport.linked.values())
            self._addresses |= dict.fromkeys([*map(shown, listed), *linked], now + REMEMBER_S)
            self._addresses = {a: until for a, until in self._addresses.items() if until > now}
            apart = [a for a in self._addresses if a not in linked and a != own]
            found = await asyncio.gather(*map(_answers, apart))
            self._transport.reach([a for a, there in zip(apart, found, strict=True) if there])

    # -- beginning and end -------------------------------------------------------------------------

    async def _join(self) -> ZenohTransport:
        own = shown(self._listen)
        told_at = 0.0
        while True:
            listed = await asyncio.to_thread(resolve, self._options.seeds)
            place = Place(
                self._settings.name,
                own,
                tuple(a for a in map(shown, listed) if a != own),
                self._options.tls,
                self._options.multicast,
            )
            try:
                transport = await asyncio.to_thread(ZenohTransport, place, self._inbox.post)
            except StoreUnavailableError as error:
                # Rather than end and be spawned again by every worker in turn.
                if time.monotonic() >= told_at:
                    told_at = time.monotonic() + LOG_EVERY_S
                    log.error("%s; trying again", error)  # noqa: TRY400  (it says it all)
                if self._asked.is_set():
                    raise
                await asyncio.sleep(RETRY_S)
                continue
            self._transport = transport
            self.step(self._replica.start)
            transport.reply(self._queried)
            transport.subscribe(ALL, self._heard)
            transport.subscribe(mailbox(self._settings.name), self._heard)
            transport.liveness(self._linked)
            return transport

    async def _end_wanted(self) -> None:
        """Return when the last worker has gone, or when we were asked to end and may."""
        asked_at = 0.0
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), None if asked_at else TICK_S)
            now = time.monotonic()
            if self._failed or (not self._workers and now >= self._lonely_at):
                return
            if self._asked.is_set():
                asked_at = asked_at or now
                if not self._workers or now > asked_at + WORKERS_S:
                    return
                await asyncio.sleep(TICK_S)

    async def _leave(self) -> None:
        self.step(self._replica.leave)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._left.wait(), HAND_OVER_S)
        await asyncio.sleep(TICK_S)  # for what was said last to leave


class _Worker(asyncio.Protocol):
    """One connection of a worker."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's inherits from nothing
        self._agent.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._agent.went(self)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except ValueError:
            if self._transport is not None:
                self._transport.close()
            return
        for number, body in frames:
            self._agent.request(self, number, body)

    def send(self, number: int, body: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():  # uvloop may raise
            self._transport.write(framed(number, body))


async def _answers(address: str) -> bool:
    """Whether somebody listens there; zenoh would try much longer to find out."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(0.5):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
    except OSError:  # TimeoutError is one
        return False
    return True


def _haste(output: Output) -> bool:
    """False, so first, for what a worker waits for.

    What goes to other servers keeps its order: an answer may carry a change that comes after one
    that is told.
    """
    return not isinstance(output, replica.Said)


def _idle_ms() -> int:
    """A clock that runs while this process does not, whoever keeps it from running."""
    return boot_ms() - time.process_time_ns() // 1_000_000


def _now() -> Now:
    return Now(boot_ms(), time.time_ns() // 1_000_000)


def main() -> int:
    """Hold the lock, and run until the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    logging.basicConfig(format="%(name)s: %(message)s")
    url = os.environ.pop(election.URL)
    given = os.environ.pop(election.LOCK_FD, None)
    try:
        options = Options.of(Url.parse(url))
        lock = election.take(options.lock) if given is None else int(given)
        if lock is None:
            return 0  # another agent lives
        election.sign(lock, os.getpid())
        sys.setswitchinterval(SWITCH_S)
        gc.freeze()
        gc.set_threshold(*COLLECT)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_live(options))
    except SameSessionError as error:
        log.error("%s", error)  # noqa: TRY400  (it says it all)
        return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The quicker loop where it is installed, as with uvicorn; asyncio's own elsewhere."""
    try:
        import uvloop  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


async def _live(options: Options) -> int:
    return await Agent(options).run()


if __name__ == "__main__":
    sys.exit(main())
