"""One engine for all, one site at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from frameworks.sites import ROWS, Browser, Site
from samesession.lab.engines import Engine, start

PROVE = os.environ.get("SAMESESSION_PROVE") == "1"


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    with start() as started:
        yield started


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "site" in metafunc.fixturenames:
        sockets = "sockets" in {mark.name for mark in metafunc.definition.iter_markers()}
        rows = [name for name, row in ROWS.items() if row.sockets or not sockets]
        # The adapter is the same over any store: one shows it, `make prove` runs all of these.
        stores = ("redis", "near", "sqlite", "sticky", "memory") if PROVE else ("redis",)
        given = [f"{name}-{store}" for store in stores for name in rows]
        metafunc.parametrize("site", given, indirect=True, scope="module")


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    name, _, store = request.param.rpartition("-")
    folder = tmp_path_factory.mktemp(name)
    url = {
        "redis": f"{engine.url}?prefix={name}",
        "near": f"{engine.url}?prefix={name}-near&near=16MB",
        "sqlite": f"sqlite:///{folder}/sessions.sqlite3?deadline=5s",
        "sticky": f"sticky://{folder}",
        "memory": "memory://",
    }[store]
    if store == "sqlite":
        make = [sys.executable, "-m", "samesession", "doctor", url, "--create"]
        subprocess.run(make, check=False, capture_output=True)  # it advises against SQLite
    opened = Site(ROWS[name], url)
    yield opened
    opened.close()


@pytest.fixture
def browser(site: Site) -> Iterator[Browser]:
    with Browser(site) as opened:
        yield opened
