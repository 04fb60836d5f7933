"""Sites shared by the files of one worker, and browsers that are closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from scenarios.browser import Browser
from scenarios.site import PROVE, Site, Sites

Browsers = Callable[..., Browser]
Figure = Callable[[str], None]


@pytest.fixture(scope="session")
def sites() -> Iterator[Sites]:
    sites = Sites()
    yield sites
    sites.close()


STRATEGIES = ["memory", "sticky", "cluster", "redis", "postgresql"]
if PROVE:
    STRATEGIES += ["sqlite", "memcached", "near"]


@pytest.fixture(params=STRATEGIES)
def site(request: pytest.FixtureRequest, sites: Sites) -> Site:
    """Each strategy in turn."""
    return sites[request.param]


@pytest.fixture
def redis_site(sites: Sites) -> Site:
    """Three servers over one engine, any of which serves any session."""
    return sites["redis"]


@pytest.fixture
def browsers(request: pytest.FixtureRequest) -> Iterator[Browsers]:
    """Make browsers; all of them are closed after the test."""
    made: list[Browser] = []

    def make(site: Site, like: Browser | None = None) -> Browser:
        made.append(Browser(site, like))
        return made[-1]

    yield make
    for browser in made:
        browser.close()


@pytest.fixture
def figure(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Figure:
    """Note a measured figure, with its N; `tests/conftest.py` prints them after the run."""
    variant = request.node.name.partition("[")[2].rstrip("]")
    return lambda text: record_property("figure", f"{text} ({variant})" if variant else text)
