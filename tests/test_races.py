"""Every interleaving of two requests over one session, and every crash point: no survivor.

Each call to the store is one step; between steps anything may happen. Two requests are stepped by
hand in every order their steps allow, so what is proved is proved for any timing; and each is also
abandoned after each of its steps, as a killed server would leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextvars import copy_context
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from test_near import ScriptedFeed

from samesession._bridge import ready
from samesession._random import random_bytes
from samesession.commits import Tools
from samesession.counts import Counts
from samesession.errors import RetryableError
from samesession.lab import databases, engines
from samesession.lifecycle import Lifecycle
from samesession.record import Record
from samesession.session import Session
from samesession.sessions import now_ms
from samesession.settings import Limits
from samesession.store import Store
from samesession.stores.memcached import MemcachedStore
from samesession.stores.memory import MemoryStore
from samesession.stores.moving import Moving
from samesession.stores.near import NearCache
from samesession.stores.redis import RedisStore
from samesession.stores.sql import SqlStore
from samesession.strategies import strategy_of
from samesession.token import Signer

Request = Callable[["Browser"], Coroutine[Any, Any, None]]
SIGNER = Signer((b"k" * 32,))


class _Turn:
    """Waits for its turn: the step's place between two calls to the store."""

    def __await__(self) -> Iterator[None]:
        yield None


class Stepping:
    """A layer that waits for its turn before every call to what it wraps: a store, or a wire."""

    suspends = True
    scattered = limits = False
    lags = False

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._wrapped, verb)

        async def stepped(*args: Any, **kwargs: Any) -> Any:
            await _Turn()
            return await call(*args, **kwargs)

        return stepped


class Deaf(MemoryStore):
    """A store whose servers have warm copies and hear nothing, as they may for a lease."""


def deaf(store: Deaf) -> Store:
    """One server's near cache over it, taking turns where it asks."""
    feed = ScriptedFeed()
    for key, found in store._stored.items():
        if isinstance(found, Record):
            errand = feed.copies.begin(key)
            feed.asked(key)
            feed.copies.keep(errand, found)
    feed.witness.heard(0)
    authority: Any = Stepping(store)
    return NearCache(authority, feed, clock_ms=now_ms, boot_ms=lambda: 0, count=lambda _name: None)


def stepping(store: Store) -> Store:
    """The store, taking turns: at every command or statement that it sends, else at every verb."""
    if isinstance(store, Deaf):
        return deaf(store)
    if isinstance(store, RedisStore | SqlStore | MemcachedStore):
        wired: Any = copy(store)
        wired._wire = wired._tracked = Stepping(store._wire)
        return wired
    if isinstance(store, Moving):
        moving: Any = copy(store)
        moving._old, moving._new = Stepping(store._old), Stepping(store._new)
        return moving
    return Stepping(store)


@dataclass
class Browser:
    """One server's view of a visitor: a core over the store, and the cookie that was sent."""

    core: Lifecycle
    cookie: bytes
    answered: bytes | None = None  # the cookie of the answer, once it is sent
    status: int = 0
    session: Session | None = field(default=None, repr=False)

    async def request(self, change: Callable[[Session], None]) -> None:
        session = self.session = await self.core.open(self.cookie)
        try:
            session.mark_accessed()
            change(session)
            await self.core.finish(session)
        except RetryableError:
            self.status = 503
            return
        self.status = 200
        if session._life.cookie is not None:
            self.answered = session._life.cookie.encode()


def core_over(store: Store) -> Lifecycle:
    return Lifecycle(store, Tools(SIGNER, Limits(), Counts(), now_ms, random_bytes))


def login(browser: Browser) -> Coroutine[Any, Any, None]:
    return browser.request(lambda session: session.login("ann"))


def rotate(browser: Browser) -> Coroutine[Any, Any, None]:
    return browser.request(lambda session: session.rotate())


def write(browser: Browser) -> Coroutine[Any, Any, None]:
    return browser.request(lambda session: session.update(late="write"))


def logout(browser: Browser) -> Coroutine[Any, Any, None]:
    return browser.request(lambda session: session.logout())


async def end_all(browser: Browser) -> None:
    await browser.core.end_all("ann")
    browser.status = 200


class World:
    """A store with one session of ann's in it, and two servers that step through requests."""

    def __init__(self, store: Store, principal: str | None = "ann") -> None:
        self.store = store
        self.plain = core_over(store)
        session = ready(self.plain.open(None))
        session["basket"] = ["tea"]
        if principal is not None:
            session.login(principal)
        ready(self.plain.finish(session))
        assert session._life.cookie
        self.cookie = session._life.cookie.encode()

    def browser(self) -> Browser:
        return Browser(core_over(stepping(self.store)), self.cookie)

    def shows(self, cookie: bytes | None) -> Session | None:
        """What a server shows for a cookie, or None for an anonymous page."""
        if not cookie:
            return None
        session = ready(self.plain.open(cookie))
        return None if session.is_new else session

    def signed_in(self, cookie: bytes | None) -> bool:
        session = self.shows(cookie)
        return session is not None and session.principal is not None


def step(coroutine: Coroutine[Any, Any, None]) -> bool:
    """Run to the next step; False when the request is over."""
    try:
        coroutine.send(None)
    except StopIteration:
        return False
    return True


def orders(
    world: Callable[[], World], first: Request, second: Request
) -> Iterator[tuple[tuple[int, ...], Scene]]:
    """Take the steps of two requests in every order, and yield each order with how it ended."""
    pending: list[tuple[int, ...]] = [()]
    while pending:
        order = list(pending.pop())
        scene = Scene(world(), first, second)
        for which in order:
            assert scene.take(which) or not scene.alive[which]
        while any(scene.alive):
            if all(scene.alive):
                pending.append((*order, 1))
            order.append(0 if scene.alive[0] else 1)
            scene.take(order[-1])
        yield tuple(order), scene


class Scene:
    """Two requests under way."""

    def __init__(self, world: World, *requests: Request) -> None:
        self.world = world
        self.browsers = [world.browser() for _ in requests]
        self.coroutines = [
            request(browser) for request, browser in zip(requests, self.browsers, strict=True)
        ]
        self._contexts = [copy_context() for _ in requests]  # as two tasks or threads have
        self.alive = [True for _ in requests]

    def take(self, which: int) -> bool:
        if not self.alive[which]:
            return False
        self.alive[which] = self._contexts[which].run(step, self.coroutines[which])
        return True

    def finish(self, which: int) -> Browser:
        while self.take(which):
            pass
        return self.browsers[which]

    def abandon(self) -> None:
        for coroutine in self.coroutines:
            coroutine.close()


@pytest.fixture(params=["memory", "near", "local", "redis", "sqlite", "memcached"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "near":
        yield Deaf(now_ms)
        return
    if request.param == "redis":
        with engines.start() as engine:
            yield strategy_of(engine.url).open_threads()
        return
    if request.param == "memcached":
        if "end_all" in request.node.name:
            pytest.skip("memcached cannot sign out everywhere, and says so (test_stores.py)")
        with databases.Memcached() as server:
            opened = strategy_of(f"{server.url}?deadline=10s").open_threads()
            yield opened
            ready(opened.close())
        return
    urls = {
        "memory": "memory://",
        "local": f"sticky://{tmp_path}?size=8MB",
        "sqlite": f"sqlite:///{tmp_path}/sessions.db?deadline=10s",
    }
    opened = strategy_of(urls[request.param]).open_loop()
    yield opened
    ready(opened.close())


MOVES = {"login": login, "rotate": rotate}
ENDS = {"logout": logout, "end_all": end_all}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("end", ENDS)
def test_no_login_or_rotation_outruns_an_end(store: Store, move: str, end: str) -> None:
    """Whatever the order, no cookie that was handed out before or during the end is signed in."""
    tried = 0
    for order, scene in orders(lambda: World(store), MOVES[move], ENDS[end]):
        tried += 1
        moving, ending = scene.browsers
        assert ending.status == 200
        assert not scene.world.signed_in(scene.world.cookie), order
        if not (move == "login" and _came_after(store, order, end)):
            assert not scene.world.signed_in(moving.answered), order
    assert tried > 20


def _came_after(store: Store, order: tuple[int, ...], end: str) -> bool:
    """Whether a login began when the end had been done already: then it is a new one (S6)."""
    sql = isinstance(store, SqlStore | MemcachedStore)
    if end == "logout":
        return _nth(order, 0, LOADS) > _nth(order, 1, ENDS_ITS_OWN + sql)
    return _nth(order, 0, CREATES - sql) > _nth(order, 1, LISTS_THE_INDEX)


# Which of its turns a request uses for what; the first only brings it to its first call. SQL and
# Memcached have no index to enter before the record is made, and read before they end.
LOADS, CREATES = 2, 4
ENDS_ITS_OWN, LISTS_THE_INDEX = 3, 2


def _nth(order: tuple[int, ...], which: int, turn: int) -> int:
    return [at for at, taken in enumerate(order) if taken == which][turn - 1]


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("end", ENDS)
def test_a_crash_at_any_step_leaves_no_survivor(store: Store, move: str, end: str) -> None:
    """The moving server dies after each of its steps; the sign-out comes before, between, after."""
    for crash_after in range(1, 8):
        for end_at in range(crash_after + 1):
            scene = Scene(World(store), MOVES[move], ENDS[end])
            moving, ending = scene.browsers
            for _ in range(end_at):
                scene.take(0)
            scene.finish(1)
            for _ in range(crash_after - end_at):
                scene.take(0)
            scene.coroutines[0].close()
            assert ending.status == 200
            assert not scene.world.signed_in(scene.world.cookie)
            if scene.alive[0]:
                assert moving.answered is None  # nobody holds the cookie of what it left


@pytest.mark.parametrize("move", MOVES)
def test_no_write_is_lost_silently_in_a_move(store: Store, move: str) -> None:
    """A write that was acknowledged is in the new record; one that could not be kept said 503."""
    for order, scene in orders(lambda: World(store), MOVES[move], write):
        moving, writing = scene.browsers
        assert moving.status == 200
        assert scene.world.shows(scene.world.cookie) is None
        after = scene.world.shows(moving.answered)
        assert after is not None
        assert after["basket"] == ["tea"]
        assert ("late" in after) == (writing.status == 200), order
        if writing.status == 200 and order[-1] == 1:
            assert writing.answered is None or not scene.world.signed_in(writing.answered)


def test_racing_logins_give_two_separate_sessions(store: Store) -> None:
    """Neither locks the other out, and no old cookie shows what came after."""
    for _order, scene in orders(lambda: World(store, None), login, login):
        one, other = scene.browsers
        assert (one.status, other.status) == (200, 200)
        assert one.answered != other.answered
        assert scene.world.signed_in(one.answered)
        assert scene.world.signed_in(other.answered)
        assert scene.world.shows(scene.world.cookie) is None


def test_a_planted_cookie_never_shows_its_victim(store: Store) -> None:
    """The attacker rotates the planted anonymous cookie while the victim logs in with it."""
    for _order, scene in orders(lambda: World(store, None), rotate, login):
        attacker, victim = scene.browsers
        assert victim.status == 200
        assert scene.world.signed_in(victim.answered)
        assert not scene.world.signed_in(attacker.answered)
        assert not scene.world.signed_in(scene.world.cookie)


def test_a_logout_beats_every_late_write(store: Store) -> None:
    """The write is refused or swept away; its answer is no error and sets nothing."""
    for _order, scene in orders(lambda: World(store), write, logout):
        writing, ending = scene.browsers
        assert ending.status == 200
        assert ending.answered == b""
        assert not scene.world.signed_in(scene.world.cookie)
        assert not scene.world.signed_in(writing.answered)


def test_two_rotations_leave_one_session(store: Store) -> None:
    """The second finds the record ended by the first, and ends its own."""
    for order, scene in orders(lambda: World(store), rotate, rotate):
        shown = [scene.world.shows(browser.answered) for browser in scene.browsers]
        alive = [session.handle for session in shown if session is not None]
        assert len(alive) == 1, order
        if isinstance(store, MemcachedStore):
            continue  # it cannot list
        held = ready(scene.world.plain.held_by("ann"))
        handles = {entry.handle for entry in held}
        assert alive[0] in handles
        for handle in handles:
            ready(scene.world.plain.end(handle))
