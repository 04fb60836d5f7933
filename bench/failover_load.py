"""Visitors under load while the primary's machine is lost, and what they find afterwards.

Half of the visitors sign in and write page after page; the others sign in, write a few, rotate,
sign out and begin again. Each sends one request after another and notes what was acknowledged. At
the first request that fails after the loss it stops. Once the replica serves, each finds out
whether it is signed in, whether what it ended is over, and how many of its writes are there.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from redis.asyncio import sentinel as redis_sentinel

from samesession import Sessions
from samesession.errors import RetryableError
from samesession.lab.ports import LOOPBACK
from samesession.lab.replicated import SERVICE, Sentinelled

RECENT_S = 2.0
"""Moves and ends that are looked at again: older ones have long been everywhere."""

RECOVERY_S = 60.0
KEYS = ["k" * 32]


@dataclass
class Found:
    """What a cookie shows."""

    principal: str | None
    number: int
    noticed: bool
    repaired: bool


class Layer(Protocol):
    """A session layer, by the requests of a visitor; a cookie in, a cookie out."""

    async def login(self, cookie: str | None, principal: str) -> str:
        """Sign in."""
        ...

    async def write(self, cookie: str, number: int) -> str:
        """Change one key."""
        ...

    async def rotate(self, cookie: str) -> str:
        """Go on under a new id."""
        ...

    async def logout(self, cookie: str) -> None:
        """Sign out."""
        ...

    async def look(self, cookie: str) -> Found:
        """What is there."""
        ...

    async def close(self) -> None:
        """Let go."""
        ...


class Ours:
    """samesession, as one server's process uses it."""

    failures: tuple[type[Exception], ...] = (RetryableError,)

    def __init__(self, url: str) -> None:
        self._sessions = Sessions.from_url(url, keys=KEYS)
        self.counts = self._sessions.counts

    async def login(self, cookie: str | None, principal: str) -> str:
        session = await self._open(cookie)
        session.login(principal)
        session["n"] = 0
        return await self._finish(session, None)

    async def write(self, cookie: str, number: int) -> str:
        session = await self._open(cookie)
        session["n"] = number
        return await self._finish(session, cookie)

    async def rotate(self, cookie: str) -> str:
        session = await self._open(cookie)
        session.rotate()
        return await self._finish(session, cookie)

    async def logout(self, cookie: str) -> None:
        session = await self._open(cookie)
        session.logout()
        await self._finish(session, None)

    async def look(self, cookie: str) -> Found:
        before = dict(self.counts)
        session = await self._open(cookie)
        found = session.principal, session.get("n", -1)
        change = Counter(self.counts) - Counter(before)
        return Found(*found, bool(change["lost"]), bool(change["repaired"]))

    async def close(self) -> None:
        await self._sessions.close()

    async def _open(self, cookie: str | None) -> Any:
        return await self._sessions.open(None if cookie is None else cookie.encode())

    async def _finish(self, session: Any, cookie: str | None) -> str:
        await self._sessions.finish(session)
        return session._life.cookie or cookie or ""


class Plain:
    """The usual way: JSON under a random key, GET and SET by redis-py, replicated as it may be."""

    failures: tuple[type[Exception], ...] = (Exception,)

    def __init__(self, engines: Sentinelled) -> None:
        self.counts: Counter[str] = Counter()
        sentinels = [(LOOPBACK, sentinel.port) for sentinel in engines.sentinels]
        self._sentinel: Any = redis_sentinel.Sentinel(sentinels, socket_timeout=2)
        self._redis: Any = self._sentinel.master_for(SERVICE, socket_timeout=2)

    async def login(self, cookie: str | None, principal: str) -> str:
        new = await self._save(secrets.token_hex(16), {"principal": principal, "n": 0})
        if cookie is not None:
            await self._redis.delete(cookie)
        return new

    async def write(self, cookie: str, number: int) -> str:
        return await self._save(cookie, {**await self._load(cookie), "n": number})

    async def rotate(self, cookie: str) -> str:
        new = await self._save(secrets.token_hex(16), await self._load(cookie))
        await self._redis.delete(cookie)
        return new

    async def logout(self, cookie: str) -> None:
        await self._redis.delete(cookie)

    async def look(self, cookie: str) -> Found:
        there = await self._load(cookie)
        return Found(there.get("principal"), there.get("n", -1), noticed=False, repaired=False)

    async def close(self) -> None:
        await self._redis.aclose()
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()

    async def _load(self, key: str) -> dict[str, Any]:
        raw = await self._redis.get(key)
        return json.loads(raw) if raw else {}

    async def _save(self, key: str, contents: dict[str, Any]) -> str:
        await self._redis.set(key, json.dumps(contents), ex=1800)
        return key


@dataclass
class Visitor:
    """One browser, and what was acknowledged to it."""

    name: str
    moves: bool
    cookie: str | None = None
    number: int = 0
    moved_by: str = ""
    moved_at: float = 0.0
    pending: str = ""
    over_and_out: bool = False
    over: list[tuple[float, str, str]] = field(default_factory=list)
    acknowledged: Counter[str] = field(default_factory=Counter)

    async def visit(self, layer: Any, lost: asyncio.Event) -> None:
        """Request after request, until one fails after the loss."""
        for verb in self._plan():
            if self.over_and_out:  # a task that is in redis-py's hands may not hear a cancel
                return
            self.pending = verb
            try:
                await self._ask(layer, verb)
            except layer.failures:
                if not lost.is_set():
                    raise
                return
            self.pending = ""
            self.acknowledged[verb] += 1

    def _plan(self) -> Iterator[str]:
        yield "login"
        while not self.moves:
            yield "write"
        while True:
            for verb in ("rotate", random.choice(("logout", "login"))):
                # By chance, or a crowd that waits for one replica moves in step.
                yield from ["write"] * random.randrange(8)
                yield verb
            if verb == "logout":
                yield "login"

    async def _ask(self, layer: Layer, verb: str) -> None:
        before = self.cookie
        if verb == "write":
            assert before is not None
            self.cookie = await layer.write(before, self.number + 1)
            self.number += 1
            return
        if verb == "login":
            self.cookie = await layer.login(before, self.name)
            self.number = 0
        elif verb == "rotate":
            assert before is not None
            self.cookie = await layer.rotate(before)
        else:
            assert before is not None
            await layer.logout(before)
            self.cookie = None
        self.moved_by, self.moved_at = verb, time.monotonic()
        if before is not None:
            self.over.append((time.monotonic(), verb, before))


@dataclass
class Result:
    """What one layer's visitors were told, and what they found.

    Attributes:
        acknowledged: by verb.
        lost: moves and ends that are not there: "login", "rotate", "logout" and ended by those.
        looked_at: how many moves and ends were looked at again.
        writes_lost: acknowledged page writes that are not there.
        sessions_hit: sessions that lack some.
        noticed: of those, the ones that were counted as lost, or repaired.
        repaired: of those, the ones that came back whole.
        weak: moves and ends that were answered without a replica, before the loss.
        recovery_s: until a write was acknowledged again.
    """

    layer: str
    acknowledged: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    looked_at: Counter[str] = field(default_factory=Counter)
    writes_lost: int = 0
    sessions_hit: int = 0
    noticed: int = 0
    repaired: int = 0
    weak: int = 0
    recovery_s: float = 0.0


async def lose_a_primary(
    engines: Sentinelled, *, visitors: int, load_s: float, patience: str = ""
) -> list[Result]:
    """Load all layers at once, lose the primary's machine, and look.

    Args:
        engines: fresh ones.
        visitors: of each layer.
        load_s: before the loss.
        patience: of our URL's parameters, on a crowded machine.
    """
    url = f"{engines.url}?prefix=shop{patience}"
    near = f"{engines.url}?prefix=near&near=16MB{patience}"
    layers: dict[str, Any] = {
        "samesession": Ours(url),
        "samesession, near cache": Ours(near),
        "plain redis-py": Plain(engines),
    }
    crowds = {
        name: [Visitor(f"{name} {number}", moves=number % 2 == 0) for number in range(visitors)]
        for name in layers
    }
    for layer in layers.values():  # connected
        await _recovery_s(layer, time.monotonic())
    lost = asyncio.Event()
    visits = [
        asyncio.ensure_future(visitor.visit(layers[name], lost))
        for name, crowd in crowds.items()
        for visitor in crowd
    ]
    ended, _ = await asyncio.wait(visits, timeout=load_s, return_when=asyncio.FIRST_COMPLETED)
    if ended:  # nobody fails before the loss
        for visitor in (visitor for crowd in crowds.values() for visitor in crowd):
            visitor.over_and_out = True
        await asyncio.gather(*visits)
    weak = {name: layer.counts["weak"] for name, layer in layers.items()}
    engines.lose_primary()
    lost_at = time.monotonic()
    lost.set()
    recoveries = [asyncio.ensure_future(_recovery_s(layer, lost_at)) for layer in layers.values()]
    for result in await asyncio.gather(*visits, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
    recovered = await asyncio.gather(*recoveries)
    # Whoever asked before remembers what ended, and says so to the new primary: here it may not.
    # Copies stay, though: that a server keeps them is what repairs.
    await layers["samesession"].close()
    layers["samesession"] = Ours(url)
    results = []
    for (name, layer), recovery_s in zip(layers.items(), recovered, strict=True):
        result = Result(name, weak=weak[name], recovery_s=recovery_s)
        for visitor in crowds[name]:
            result.acknowledged.update(visitor.acknowledged)
            await _judge(result, layer, visitor, lost_at)
        results.append(result)
        await layer.close()
    return results


async def _recovery_s(layer: Any, lost_at: float) -> float:
    """Until somebody can sign in again; asked every 20 ms, as one more visitor."""
    while True:
        try:
            await layer.write(await layer.login(None, "late"), 1)
        except layer.failures:
            if time.monotonic() > lost_at + RECOVERY_S:
                raise
            await asyncio.sleep(0.02)
        else:
            return time.monotonic() - lost_at


async def _judge(result: Result, layer: Any, visitor: Visitor, lost_at: float) -> None:
    for at, verb, cookie in visitor.over:
        if at > lost_at - RECENT_S:
            result.looked_at["end"] += 1
            found = await layer.look(cookie)
            if found.principal is not None:
                result.lost[f"ended by {verb}"] += 1
    # A move that was not answered may have happened, half of it too: nobody was told anything.
    if visitor.cookie is None or visitor.pending in {"login", "rotate", "logout"}:
        return
    if visitor.moved_at > lost_at - RECENT_S:
        result.looked_at[visitor.moved_by] += 1
    found = await layer.look(visitor.cookie)
    if found.principal != visitor.name:
        result.lost[visitor.moved_by] += 1
        return
    missing = visitor.number - found.number
    if missing > 0 or found.repaired:
        result.sessions_hit += 1
        result.noticed += found.noticed or found.repaired
        result.repaired += found.repaired and missing <= 0
        result.writes_lost += max(missing, 0)
