"""Idle and absolute limits on two servers; a slow request neither ends nor loses its session.

And what it costs the store that reading keeps a session alive.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest
from scenarios.resp import Monitor

from frameworks.conftest import PROVE
from frameworks.sites import ROWS, Browser, Site
from samesession.lab.engines import Engine, start

IDLE_S = 2.0
SLOW_S = 4.0
LIFETIME_S = 10.0


# One of each adapter; the rest shares theirs, and `make prove` runs them too.
FIRST = ("aiohttp", "django", "flask", "litestar", "quart", "starlette")
NAMES = sorted(ROWS) if PROVE else FIRST
AT_ONCE = len(FIRST)
BUDGET = 10
SCALE = 1 if PROVE else 10
"""Ten times shorter in CI; the budget is the same, since it counts the steps of idle/20 that pass:
20 s / 3 s = 2 s / 0.3 s = 6.7."""


@pytest.fixture(scope="module")
def lived(engine: Engine) -> Iterator[dict[str, Future[None]]]:
    """Many at the same time: what is measured are real seconds, mostly of waiting."""
    with TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            name: pool.submit(live, name, engine.url, Path(mkdtemp(dir=folder))) for name in NAMES
        }


def live(name: str, url: str, folder: Path) -> None:
    site = Site(
        replace(ROWS[name], workers=1),
        f"{url}?prefix=idle-{name}",
        SAMESESSION_IDLE=f"{IDLE_S}s",
        SAMESESSION_LIFETIME=f"{LIFETIME_S}s",
    )
    try:
        with Browser(site) as browser, ThreadPoolExecutor(1) as pool:
            begins = time.monotonic()
            browser.put("first", 0)
            begun = time.monotonic()
            servers = cycle((2, 1))
            with browser.twin() as tab:
                slow = pool.submit(tab.ask, "PUT", f"/x/held/a?at={folder}", json="late")
                ends = time.monotonic() + SLOW_S
                while time.monotonic() < ends or not (folder / "in-a").exists():
                    browser.read(next(servers))  # a use, twenty times an idle time
                    time.sleep(IDLE_S / 20)
                browser.put("b", "quick", at=2)
                (folder / "go").touch()
                assert slow.result(30).status_code == 200
            lives_until, dies_until = begins + LIFETIME_S, begun + LIFETIME_S
            while (asked := time.monotonic()) <= dies_until + 0.1:
                data = browser.read(next(servers))["data"]
                if time.monotonic() < lives_until:
                    assert data == {"first": 0, "a": "late", "b": "quick"}
                time.sleep(IDLE_S / 20)
            assert asked > dies_until
            assert browser.is_nobody(), "no use extends the absolute limit"
            browser.put("second", 0)
            time.sleep(IDLE_S * 1.2)  # nobody asks: it is over
            assert browser.is_nobody()
    finally:
        site.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_slow_request_does_not_kill_its_session_and_its_limits_do(
    name: str, lived: dict[str, Future[None]]
) -> None:
    lived[name].result()


# -- PROMISES 8: reading ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read(lived: dict[str, Future[None]]) -> Iterator[dict[str, Future[None]]]:
    """While those above wait."""
    with ThreadPoolExecutor(3) as pool:
        yield {name: pool.submit(read_only, name) for name in sorted(ROWS)}


def read_only(name: str) -> None:
    reads, within_s, idle_s = 1000 // SCALE, 20 / SCALE, 60 / SCALE
    with start() as engine:
        row = replace(ROWS[name], workers=1)
        site = Site(row, f"{engine.url}?deadline=5s", SAMESESSION_IDLE=f"{idle_s}s", servers=1)
        try:
            with Browser(site) as browser:
                browser.put("a", 1)
                with Monitor(engine.port) as monitor:
                    begins = time.monotonic()
                    for turn in range(reads):
                        time.sleep(max(0.0, begins + turn * within_s / reads - time.monotonic()))
                        assert browser.read()["known"]
                    took_s = time.monotonic() - begins
        finally:
            site.close()
    assert monitor.sent["HGETALL"] == reads, "one command a read"
    writes = monitor.sent["EVALSHA"]
    assert monitor.sent.keys() <= {"HGETALL", "EVALSHA", "HELLO"}
    due = took_s / (idle_s / 20)
    assert writes >= due / 2, "it was exercised"
    assert writes <= BUDGET * max(1.0, took_s / within_s)  # a busy machine takes longer


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_thousand_reads_cost_the_store_ten_writes_at_most(
    name: str, read: dict[str, Future[None]]
) -> None:
    read[name].result()
