"""D1, D2, D3 and L1, counted for each engine while its servers and the store itself are hurt."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle

import httpx
import pytest
from tables import started

from samesession.lab import engines
from samesession.lab.daemon import Daemon
from scenarios.browser import COOKIE, Browser
from scenarios.conftest import Figure
from scenarios.site import PROVE, Site
from scenarios.visitors import Visitor, visiting

READS = int(os.environ.get("SAMESESSION_READS", "3000" if PROVE else "150"))
"""Trials of D1 and D2; those of D3 and L1 come with them."""

LONGEST_S = 20 * 60 if PROVE else 60
VISITORS = 9
ENGINES = ["redis", *(["valkey", "near", "postgresql", "mariadb", "sqlite", "memcached"] * PROVE)]
# Written before it is answered, so kill -9 loses nothing ("everysec" may hold it back for 2 s).
KEPT = {"appendonly": "yes", "appendfsync": "no"}


@dataclass
class Counted(Visitor):
    """A visitor who also logs out, keeps the dead cookies, and knocks with them at every server.

    Attributes:
        reads: how many were compared with what was known, and `across`: of them, how many another
            server answered than the request before.
        writes: how many were acknowledged; each is looked for by the reads that follow.
        probes: requests with a dead cookie that were answered, and `alive`: what these showed.
    """

    reads: int = 0
    across: int = 0
    writes: int = 0
    probes: int = 0
    logouts: int = 0
    alive: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dice = random.Random(-self.seed)
        self.thief = Browser(self.site)
        self.dead: list[str] = []
        self.crossed = self.refused = False

    def _act(self) -> None:
        if self.refused:
            # No login or rotation now: one that was cut in two would excuse its user's loss.
            self._read()
            return
        chance = self.dice.random()
        if chance < 0.05:
            self._log_out()
        elif chance < 0.3 and self.dead:
            self._knock()
        else:
            super()._act()

    def _ask(self, method: str, path: str, **more: object) -> httpx.Response | None:
        before = self.home
        answer = super()._ask(method, path, **more)
        self.refused = answer is None
        if answer is not None:
            self.crossed = self.home != before
            self.writes += path.startswith(("/api/slow", "/api/session/"))
        return answer

    def _compare(self, principal: str, data: dict[str, object]) -> None:
        self.reads += 1
        self.across += self.crossed
        super()._compare(principal, data)

    def _log_out(self) -> None:
        cookie = self.browser.cookie
        if self._ask("POST", "/api/logout") is None:
            self.half_way = True  # nobody knows
            return
        if cookie is not None:
            self.logouts += 1
            self.dead.append(cookie)
        self._take({}, [])
        self.half_way = self.doubted = False
        self._log_in()

    def _knock(self) -> None:
        cookie, name = self.dice.choice(self.dead[-20:]), self.dice.choice(self.site.names)
        try:
            url = self.site.door(name) + "/api/session"
            answer = self.thief.http.get(url, headers={"cookie": f"{COOKIE}={cookie}"}, timeout=10)
        except httpx.TransportError:
            return
        if answer.status_code == 200:
            seen = answer.json()
            self.probes += 1
            if seen["known"] or seen["principal"] is not None:
                self.alive.append((name, seen))

    def run(self, until: object) -> None:
        """See `Visitor`."""
        with self.thief:
            super().run(until)  # type: ignore[arg-type]


@pytest.fixture(params=ENGINES)
def hurt(request: pytest.FixtureRequest) -> Iterator[tuple[Site, Daemon | None]]:
    """Three servers over a store that keeps what it has when it is killed."""
    kind = request.param
    with ExitStack() as stack:
        if kind in {"redis", "valkey", "near"}:
            name = "Valkey" if kind == "valkey" else "Redis"
            binary = next(found for found in engines.redis_like() if found.name == name)
            server: Daemon | None = stack.enter_context(engines.start(binary, settings=KEPT))
            assert server is not None
            url = f"{server.url}?deadline=1s" + ("&near=16MB" if kind == "near" else "")
        else:
            found, server = stack.enter_context(started(kind))
            url = f"{found}?deadline=1s"
        site = stack.enter_context(Site(url))
        yield site, server
        assert site.complaints() == []


def faults_of(site: Site, store: Daemon | None) -> dict[str, Callable[[str], None]]:
    """What can happen; each takes the name of the server that it may happen to."""

    def killed(name: str) -> None:
        site.fleet.kill(name)
        site.fleet.wait_ready()

    def paused(name: str) -> None:
        site.fleet.pause(name)
        time.sleep(0.5)
        site.fleet.resume(name)

    def store_frozen(_name: str) -> None:
        assert store is not None
        store.freeze()
        time.sleep(1.5)
        store.thaw()

    def store_killed(_name: str) -> None:
        assert store is not None
        store.kill()
        time.sleep(0.3)
        store.restart()

    faults = {"server killed": killed, "server paused": paused}
    if store is not None:
        faults["store frozen"] = store_frozen
        if not site.store_url.startswith("memcached"):  # whose restart forgets, as it says
            faults["store killed"] = store_killed
    return faults


@pytest.mark.timeout(LONGEST_S + 120)
def test_nothing_is_read_back_in_time_lost_or_brought_back_whatever_is_killed_or_frozen(
    hurt: tuple[Site, Daemon | None], figure: Figure
) -> None:
    site, store = hurt
    visitors = [Counted(site, f"v{seed}", seed) for seed in range(VISITORS)]
    faults, done = faults_of(site, store), Counter[str]()
    began = time.monotonic()
    with visiting([*visitors]):
        turns = cycle(zip(cycle(site.names), [*faults, *faults, *faults], strict=False))
        while sum(v.reads for v in visitors) < READS or len(done) < len(faults):
            assert time.monotonic() < began + LONGEST_S, done
            time.sleep(0.7)  # load between them
            name, fault = next(turns)
            faults[fault](name)
            done[fault] += 1
    reads, across = sum(v.reads for v in visitors), sum(v.across for v in visitors)
    writes, probes = sum(v.writes for v in visitors), sum(v.probes for v in visitors)
    logouts, failed = sum(v.logouts for v in visitors), sum(len(v.failures) for v in visitors)
    lost = [one for v in visitors for one in v.lost]
    figure(
        f"D1, D2: {len(lost)} of {reads} reads, {across} across servers; D3: {len(lost)} of "
        f"{writes} acknowledged writes; L1: {sum(len(v.alive) for v in visitors)} of {probes} "
        f"probes after {logouts} logouts; {failed} requests failed, "
        f"{', '.join(f'{fault} {times}' for fault, times in done.items())}"
    )
    assert lost == []
    for visitor in visitors:
        assert visitor.alive == []
        assert visitor.signed_out == 0, "\n".join(visitor.story)
        assert visitor.foreign == []
        assert visitor.wrong == []
        assert visitor.heard
    # They were exercised.
    assert reads >= READS
    assert across >= reads / 2
    assert writes >= reads / 2
    assert probes >= reads / 20
    assert logouts >= VISITORS
    assert failed >= len(faults) - 1  # a pause may pass unnoticed
