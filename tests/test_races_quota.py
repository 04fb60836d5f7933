"""Interleavings of logins within a quota, and every crash point: never above it (L5).

A quota takes up to eight commands of Redis, so that only a sample of their interleavings is run,
beside all those of the store's calls.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_races import (
    SIGNER,
    Browser,
    Request,
    Scene,
    Stepping,
    World,
    login,
    orders,
    rotate,
    stepping,
)

from samesession._bridge import ready
from samesession._random import random_bytes
from samesession.commits import Tools
from samesession.counts import Counts
from samesession.errors import TooManySessionsError
from samesession.lab import engines
from samesession.lifecycle import Lifecycle
from samesession.record import Mark, Reason
from samesession.sessions import now_ms
from samesession.settings import Limits, Quota
from samesession.store import Store
from samesession.stores.redis import RedisStore
from samesession.strategies import strategy_of
from samesession.testing import fresh_key


@pytest.fixture(scope="module", params=["memory", "redis", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Store]:
    if request.param == "redis":
        with engines.start() as engine:
            yield strategy_of(engine.url).open_threads()
        return
    folder: Path = tmp_path_factory.mktemp("sql")
    url = {"memory": "memory://", "sqlite": f"sqlite:///{folder}/sessions.db?deadline=10s"}
    opened = strategy_of(url[request.param]).open_loop()
    yield opened
    ready(opened.close())


class Limited(World):
    """Ann may have one session; she has one already where ``principal`` says so."""

    def __init__(
        self, store: Store, *, evicts: bool, principal: str | None = None, fine: bool = False
    ) -> None:
        self.store = store
        self.step = stepping if fine else Stepping
        self.quota = Quota(1, evicts)
        self.plain = self.core(store)
        ready(self.plain.end_all("ann"))
        session = ready(self.plain.open(None))
        session["basket"] = ["tea"]
        if principal is not None:
            session.login(principal)
        ready(self.plain.finish(session))
        assert session._life.cookie
        self.cookie = session._life.cookie.encode()

    def core(self, store: Store) -> Lifecycle:
        limits = Limits(quota=self.quota)
        return Lifecycle(store, Tools(SIGNER, limits, Counts(), now_ms, random_bytes))

    def browser(self) -> Browser:
        return Browser(self.core(self.step(self.store)), self.cookie)

    def stranger(self) -> bytes | None:
        """Sign in from nowhere; the answer's cookie, or None when it was refused."""
        session = ready(self.plain.open(None))
        session.login("ann")
        try:
            ready(self.plain.finish(session))
        except TooManySessionsError:
            return None
        assert session._life.cookie
        return session._life.cookie.encode()

    def held(self) -> int:
        return len(ready(self.plain.held_by("ann")))


def from_nowhere(browser: Browser) -> Coroutine[Any, Any, None]:
    """A login beside the session that is there."""
    browser.cookie = None  # type: ignore[assignment]
    return refusable(browser)


async def refusable(browser: Browser) -> None:
    try:
        await login(browser)
    except TooManySessionsError:
        browser.status = 409


Ended = Iterator[tuple[tuple[int, ...], Scene]]


def sampled(world: Callable[[], World], first: Request, second: Request) -> Ended:
    """Take the steps of two requests in orders that a seed chooses."""
    for seed in range(SAMPLE):
        chance, scene, order = random.Random(seed), Scene(world(), first, second), []
        while any(scene.alive):
            order.append(chance.choice([which for which in (0, 1) if scene.alive[which]]))
            scene.take(order[-1])
        yield tuple(order), scene


def both(
    store: Store, first: Request, second: Request, *, evicts: bool, principal: str | None = None
) -> Ended:
    """Every order of the store's calls, and some of what it sends for them."""

    def coarse() -> World:
        return Limited(store, evicts=evicts, principal=principal)

    def fine() -> World:
        return Limited(store, evicts=evicts, principal=principal, fine=True)

    yield from orders(coarse, first, second)
    yield from sampled(fine, first, second)


SAMPLE = 2000 if os.environ.get("SAMESESSION_PROVE") == "1" else 20


@pytest.mark.parametrize("evicts", [True, False], ids=["evicts", "refuses"])
def test_two_logins_at_once_leave_one(store: Store, evicts: bool) -> None:
    """In every order of their steps; who is not signed in was displaced, or told."""
    tried = 0
    for order, scene in both(store, from_nowhere, from_nowhere, evicts=evicts):
        tried += 1
        world = scene.world
        assert isinstance(world, Limited)
        live = [one for one in scene.browsers if world.signed_in(one.answered)]
        assert len(live) == 1, order
        assert world.held() == 1, order
        statuses = sorted(one.status for one in scene.browsers)
        assert statuses == [200, 409] or (evicts and statuses == [200, 200]), order
    assert tried > 5


@pytest.mark.parametrize("evicts", [True, False], ids=["evicts", "refuses"])
def test_a_rotation_counts_once_beside_a_login(store: Store, evicts: bool) -> None:
    """A refused login leaves the rotation alone; one that evicts ends it and what it came from."""
    for order, scene in both(store, rotate, from_nowhere, evicts=evicts, principal="ann"):
        rotating, entering = scene.browsers
        world = scene.world
        assert isinstance(world, Limited)
        live = [one for one in (rotating, entering) if world.signed_in(one.answered)]
        assert not world.signed_in(world.cookie) or rotating.status == 503, order
        if evicts:
            assert entering.status == 200, order
            assert live == [entering], order
            assert world.held() == 1, order
        else:
            assert (rotating.status, entering.status) == (200, 409), order
            assert live == [rotating], order


@pytest.mark.parametrize("evicts", [True, False], ids=["evicts", "refuses"])
@pytest.mark.parametrize("there", [None, "ann"], ids=["first", "second"])
def test_a_crash_at_any_step_of_a_login_leaves_no_more(
    store: Store, evicts: bool, there: str | None
) -> None:
    """At no step are there more than allowed; and who was displaced is ended by the next."""
    for crash_after in range(1, 8):
        scene = Scene(Limited(store, evicts=evicts, principal=there, fine=True), from_nowhere)
        world = scene.world
        assert isinstance(world, Limited)
        for _ in range(crash_after):
            scene.take(0)
            assert sum(map(world.signed_in, (world.cookie, scene.browsers[0].answered))) <= 1
        scene.abandon()
        cookie = world.stranger()
        assert world.held() <= 1
        handed_out = [world.cookie, cookie, scene.browsers[0].answered]
        assert sum(map(world.signed_in, handed_out)) <= 1
        if evicts:
            assert world.signed_in(cookie)


def test_whoever_reads_of_a_displaced_session_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that displaced it died before it could (Redis: the others do both at once)."""
    with engines.start() as engine:
        store = strategy_of(engine.url).open_threads()
        for read in (
            lambda: store.held_by("ann"),
            lambda: store.admit("ann", fresh_key(), now_ms() + 60_000, quota=Quota(9)),
        ):
            world = Limited(store, evicts=True, principal="ann")
            (old,) = ready(store.held_by("ann"))
            with monkeypatch.context() as patched:
                patched.setattr(RedisStore, "_displace", _dies)
                with pytest.raises(KeyboardInterrupt):
                    world.stranger()
            assert world.signed_in(world.cookie)  # not yet
            ready(read())
            assert not world.signed_in(world.cookie)
            found = ready(store.load(old.key))
            assert isinstance(found, Mark)
            assert found.reason is Reason.DISPLACED
        ready(store.close())


async def _dies(*_: object) -> None:
    raise KeyboardInterrupt
