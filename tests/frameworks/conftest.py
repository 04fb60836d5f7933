"""One engine for all, one site at a time."""

from __future__ import annotations

import os
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
        given = [f"{name}-redis" for name in rows]
        # What is in memory goes through the same adapter: two rows show it, `make prove` all.
        given += [f"{name}-memory" for name in rows if PROVE or name in {"starlette", "flask"}]
        metafunc.parametrize("site", given, indirect=True, scope="module")


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Site]:
    name, _, store = request.param.rpartition("-")
    url = "memory://" if store == "memory" else f"{engine.url}?prefix={name}"
    opened = Site(ROWS[name], url)
    yield opened
    opened.close()


@pytest.fixture
def browser(site: Site) -> Iterator[Browser]:
    with Browser(site) as opened:
        yield opened
