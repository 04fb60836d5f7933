"""PROMISES scenario 15: from Redis to PostgreSQL under load, in two rollouts and one command."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tables import started

from samesession._bridge import ready
from samesession.lab import engines
from samesession.record import Applied, Key, Record
from samesession.settings import Url
from samesession.stores import sql_check
from samesession.stores.sql import _owner
from samesession.stores.sql_drivers import Target
from samesession.strategies import strategy_of
from samesession.testing import created, fresh_key
from scenarios.conftest import Figure
from scenarios.site import Site, eventually
from scenarios.visitors import Visitor, visiting

SLEEPING = int(os.environ.get("SAMESESSION_MOVED", "400"))
"""Sessions that nobody uses meanwhile, so that only the command moves them."""

VISITORS = 6
SERVERS = 2
COMMAND = Path(sys.executable).parent / "samesession"


class Rolling:
    """Servers that are exchanged one by one; each request goes to any that is there."""

    shared = True

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._chance = random.Random(15)

    def door(self, _name: str | None = None) -> str:
        return self._chance.choice(self.urls)

    def roll(self, site: Site) -> None:
        """Put a site's servers in the place of the present ones, one after the other."""
        for at, name in enumerate(site.names):
            url = site.fleet.server_url(name)
            self.urls[at : at + 1] = [url]
            time.sleep(0.7)  # both builds serve side by side; what was under way is answered


def samesession(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, timeout=900, check=False
    )


def asleep(url: str) -> list[Key]:
    """Sessions that are there and stay so; each says which it is."""
    store = strategy_of(url).open_threads()
    keys = [fresh_key() for _ in range(SLEEPING)]
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(
            lambda key: ready(store.commit(created(key, "asleep", n=key.encode()))), keys
        )
        assert all(isinstance(outcome, Applied) for outcome in made)
    ready(store.close())
    return keys


def awake(url: str, keys: Sequence[Key]) -> int:
    """How many of them are as they were."""
    store = strategy_of(url).open_threads()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda key: ready(store.load(key)), keys))
    ready(store.close())
    return sum(
        isinstance(one, Record) and one.values == {"n": key.encode()}
        for key, one in zip(keys, found, strict=True)
    )


def killed_under_way(old: str, new: str) -> int:
    """Move, and be killed in the middle of it; how many rows had arrived."""
    target = Target.of(Url.parse(new))

    def arrived() -> int:
        count = f"SELECT count(*) FROM samesession WHERE principal = '{_owner('asleep')}'"
        return int(sql_check.once(target, lambda c: c.exec_driver_sql(count).scalar_one()))

    mover = subprocess.Popen(
        [COMMAND, "move", old, new], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    eventually(lambda: arrived() > SLEEPING / 4, within=120)
    mover.kill()
    assert mover.wait() == -signal.SIGKILL
    return arrived()


@pytest.mark.timeout(400 if SLEEPING <= 400 else 1800)
def test_nobody_is_logged_out_and_nothing_is_lost_while_redis_is_left_for_postgresql(
    figure: Figure,
) -> None:
    with ExitStack() as stack:
        engine = stack.enter_context(engines.start())
        new, _ = stack.enter_context(started("postgresql"))
        old, new = f"{engine.url}?deadline=2s", f"{new}?deadline=2s"
        urls = [old, f"{new}&from={old}&write=old", f"{new}&from={old}", new]
        key = {"SAMESESSION_KEYS": "k" * 48}
        sites = [Site(url, servers=SERVERS, env=key) for url in urls]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(stack.enter_context, sites))
        rolling = Rolling()
        rolling.roll(sites[0])
        sleeping = asleep(old)
        visitors = [Visitor(rolling, f"v{seed}", seed) for seed in range(VISITORS)]  # type: ignore[arg-type]
        idle = [Visitor(rolling, f"idle{seed}", seed) for seed in range(20)]  # type: ignore[arg-type]
        for visitor in idle:
            visitor._log_in()
            visitor._ask("PUT", "/api/session/k0", json=[visitor.name, 1])
            visitor.kept["k0"] = [visitor.name, 1]
        with visiting(visitors):
            time.sleep(1)
            rolling.roll(sites[1])
            rolling.roll(sites[2])
            assert samesession("move", old, new, "--check").returncode == 1  # the idle ones
            arrived = killed_under_way(old, new)
            assert SLEEPING / 4 < arrived < SLEEPING
            began = time.monotonic()
            done = samesession("move", old, new)
            took = time.monotonic() - began
            assert done.returncode == 0, done
            check = samesession("move", old, new, "--check")
            assert check.returncode == 0, check
            rolling.roll(sites[3])
            engine.kill()
            time.sleep(1)
        assert awake(new, sleeping) == SLEEPING
        for visitor in idle:
            assert visitor._read()
            visitor.browser.close()
        complaints = [line for site in sites for line in site.complaints()]
        answered = sum(visitor.answered for visitor in visitors)
        failed = [failure for visitor in visitors for failure in visitor.failures]
        figure(
            f"15 Redis to PostgreSQL under load: {answered} requests of {VISITORS} jars and "
            f"{len(idle)} idle sessions, 0 logouts, 0 lost writes, {len(failed)} answered 503; "
            f"the mover killed after {arrived} of {SLEEPING} that slept, then in {took:.1f} s: "
            f"{done.stdout.strip()}"
        )
    for visitor in (*visitors, *idle):
        assert visitor.signed_out == 0, visitor.name
        assert visitor.lost == []
        assert visitor.foreign == []
        assert visitor.wrong == []
    assert answered > 200
    assert complaints == []
