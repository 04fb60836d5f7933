"""Versions and time: what a browser has seen, and how long a session lives (S5, S10)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from visits import IDLE, LIFETIME, MINUTE, SECOND, Browser, World, sets

from samesession.errors import NotSavedError
from samesession.life import Client
from samesession.record import Mark


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ann(world: World) -> Browser:
    """A browser with an anonymous session that holds a basket."""
    browser = Browser(world)
    browser.visits(sets(basket=["tea"]))
    return browser


# -- S5: versions ----------------------------------------------------------------------------------


def test_each_commit_raises_the_version_and_the_cookie_carries_it(
    world: World, ann: Browser
) -> None:
    for number in range(2, 9):
        session = ann.visits(sets(n=number))
        token = ann.token
        assert token.version == world.record.version
        assert token.version.number == session.version == number
        assert len(world.record.commits) <= 4


def test_a_commit_that_the_store_lost_is_counted_and_the_cookie_keeps_its_number(
    world: World, ann: Browser
) -> None:
    restored = world.record
    ann.visits(sets(a=1))
    ann.visits(sets(a=2))
    world.records[restored.key] = restored
    session = ann.visits()
    assert dict(session) == {"basket": ["tea"]}
    assert session.version == 3
    assert session._life.cookie is None
    assert world.counted("lost") == {"lost": 1}
    ann.visits(sets(a=3))
    assert ann.token.version.number == world.record.version.number == 4
    assert ann.reads() == {"basket": ["tea"], "a": 3}
    assert world.counted("lost") == {"lost": 2}


def test_a_lost_commit_is_noticed_when_others_have_reached_its_number(
    world: World, ann: Browser
) -> None:
    restored, tab = world.record, ann.copy()
    ann.visits(sets(a="lost"))
    world.records[restored.key] = restored
    tab.visits(sets(b=1))
    assert tab.token.version.number == ann.token.version.number == 2
    assert ann.reads() == {"basket": ["tea"], "b": 1}
    tab.visits(sets(b=2))
    tab.visits(sets(b=3))
    ann.reads()
    assert world.counted("lost") == {"lost": 2}


def test_a_store_that_goes_back_between_load_and_commit_is_gone_on_with(
    world: World, ann: Browser
) -> None:
    restored = world.record
    ann.visits(sets(a=1))
    session = ann.opens()
    world.records[restored.key] = restored
    session["b"] = 2
    ann.answered(session)
    assert ann.reads() == {"basket": ["tea"], "b": 2}
    assert ann.token.version.number == 3
    assert world.counted("lost") == {"lost": 1}


def test_where_copies_lag_a_newer_version_that_was_read_goes_into_the_cookie(
    world: World, ann: Browser
) -> None:
    tab = ann.copy()
    ann.visits(sets(a=1))
    assert tab.visits()._life.cookie is None
    world.store.lags = True
    tab.visits()
    assert tab.token == ann.token
    assert tab.visits()._life.cookie is None


@pytest.mark.parametrize("end", ["login", "logout", "down"])
@pytest.mark.parametrize("writes", [False, True])
def test_such_a_cookie_does_not_replace_that_of_a_login_meanwhile(
    world: World, ann: Browser, end: str, writes: bool
) -> None:
    tab = ann.copy()
    ann.visits(sets(a=1))
    world.store.lags = True
    late = tab.opens()
    late.mark_accessed()
    if end == "down":
        world.store.down = {"load"}
    else:
        ann.visits(lambda session: session.login("ann") if end == "login" else session.logout())
    if writes:
        late["b"] = 1
    try:
        tab.answered(late)
    except NotSavedError:
        assert writes
        assert end == "login"
    assert (late._life.cookie is None) == (not writes or end != "down")


def test_a_logout_that_read_a_newer_version_deletes_the_cookie(world: World, ann: Browser) -> None:
    tab = ann.copy()
    ann.visits(sets(a=1))
    world.store.lags = True
    assert tab.visits(lambda session: session.logout())._life.cookie == ""


# -- S10: time -------------------------------------------------------------------------------------


def test_an_idle_session_is_over_at_its_deadline(world: World, ann: Browser) -> None:
    world.clock.goes_on(IDLE - 1)
    assert not ann.copy().opens().is_new
    world.clock.goes_on(1)
    assert ann.visits().is_new
    assert world.counted("lapsed") == {"lapsed": 1}


def test_reads_keep_a_session_alive_up_to_its_lifetime(world: World, ann: Browser) -> None:
    born = world.clock.now_ms
    end = datetime.fromtimestamp((born + LIFETIME) / 1000, UTC)
    while world.clock.now_ms < born + LIFETIME - MINUTE:
        world.clock.goes_on(MINUTE)
        session = ann.visits()
        assert not session.is_new
        assert session.expires_at is not None
        assert session.expires_at <= end
    world.clock.goes_on(MINUTE - 1)
    assert not ann.visits().is_new
    world.clock.goes_on(1)
    assert ann.visits().is_new
    assert world.counted("expired") == {"expired": 1}


def test_writes_do_not_move_the_absolute_deadline(world: World, ann: Browser) -> None:
    deadline = ann.token.absolute_ms
    for _ in range(30):
        world.clock.goes_on(10 * MINUTE)
        ann.visits(lambda s: s.update(n=s.get("n", 0) + 1))
        ann.visits(lambda s: s.rotate())
        assert ann.token.absolute_ms == world.record.origin.absolute_ms == deadline


def test_a_touch_is_stored_once_a_twentieth_of_the_idle_limit(world: World, ann: Browser) -> None:
    for _ in range(180):  # 30 minutes, one read each ten seconds
        world.clock.goes_on(10 * SECOND)
        ann.visits()
    assert world.counted("touched") == {"touched": 20}
    assert world.store.calls.count("commit") == 1 + 20
    assert ann.token.version.number == 1


def test_a_touch_rides_on_a_commit(world: World, ann: Browser) -> None:
    world.clock.goes_on(5 * MINUTE)
    assert world.calls_of(lambda: ann.visits(sets(a=1))) == ["load", "commit"]
    assert IDLE * 19 // 20 < world.record.idle_until_ms - world.clock.now_ms <= IDLE
    assert world.counted("touched") == {}


def test_a_touch_of_a_session_that_just_ended_is_quiet(world: World, ann: Browser) -> None:
    world.clock.goes_on(5 * MINUTE)
    session = ann.opens()
    ann.copy().visits(lambda s: s.logout())
    ann.answered(session)
    assert session._life.cookie is None
    assert isinstance(world.records[ann.token.key], Mark)


def test_a_slow_request_shortens_no_deadline(world: World, ann: Browser) -> None:
    slow = ann.opens()
    world.clock.goes_on(20 * MINUTE)
    ann.copy().visits()
    until = world.record.idle_until_ms
    world.clock.goes_on(-15 * MINUTE)  # a server whose clock is behind
    slow["a"] = 1
    ann.answered(slow)
    assert world.record.idle_until_ms == until


def test_a_request_slower_than_the_idle_limit_keeps_its_write_beside_a_polling_one(
    world: World, ann: Browser
) -> None:
    slow = ann.opens()
    for _ in range(8):
        world.clock.goes_on(IDLE // 2)
        ann.copy().visits()
    slow["a"] = 1
    ann.answered(slow)
    assert ann.reads() == {"basket": ["tea"], "a": 1}


def test_a_write_of_a_request_slower_than_the_idle_limit_is_refused_quietly(
    world: World, ann: Browser
) -> None:
    """It expired meanwhile (S4): the page is served, nothing is set, nothing is made."""
    slow = ann.opens()
    world.clock.goes_on(IDLE)
    slow["a"] = 1
    ann.answered(slow)
    assert slow._life.cookie is None
    assert world.counted("refused") == {"refused": 1}
    assert len(world.records) == 1


def test_an_hour_of_one_session_writes_no_marks_and_no_records(world: World, ann: Browser) -> None:
    for _ in range(60):
        world.clock.goes_on(MINUTE)
        ann.visits(sets(n=world.clock.now_ms))
    assert len(world.records) == 1


# -- who -------------------------------------------------------------------------------------------


def test_a_session_says_who_when_and_until_when(world: World) -> None:
    browser = Browser(world)
    began = datetime.fromtimestamp(world.clock.now_ms / 1000, UTC)
    browser.visits(sets(a=1))
    world.clock.goes_on(MINUTE)
    browser.visits(lambda s: s.login("ann"))
    world.clock.goes_on(MINUTE)
    browser.visits(lambda s: s.rotate())
    session = browser.visits()
    minute = timedelta(minutes=1)
    assert session.principal == "ann"
    assert session.authenticated_at == began + minute
    assert session.created_at == began + minute
    assert session.expires_at == began + 2 * minute + timedelta(milliseconds=IDLE)
    assert session.handle == browser.token.key
    assert session.version == 3


def test_a_list_of_sessions_says_where_each_began(world: World) -> None:
    client = Client("Lynx/2.9", "10.1.2.0/24")
    session = world.sessions.blocking.open(None, lambda: client)
    session.login("ann")
    world.sessions.blocking.finish(session)
    Browser(world).visits(lambda s: s.login("bob"))
    (held,) = world.sessions.blocking.held_by("ann")
    assert (held.handle, held.user_agent, held.address) == (session.handle, *client)
    assert held.created_at == held.last_seen == session.created_at
    assert held.expires_at == session.expires_at
    world.clock.goes_on(IDLE)
    assert world.sessions.blocking.held_by("ann") == []


def test_the_client_is_asked_for_only_at_a_login(world: World) -> None:
    def unasked() -> Client:
        raise AssertionError("asked")

    session = world.sessions.blocking.open(None, unasked)
    session["a"] = 1
    world.sessions.blocking.finish(session)


@pytest.mark.parametrize("handle", ["", "x", "../../x", "x" * 25, "é" * 24, "x" * 23 + "\n"])
def test_a_handle_that_is_none_is_refused(world: World, handle: str) -> None:
    with pytest.raises(ValueError, match="no handle"):
        world.sessions.blocking.end(handle)


def test_a_handle_is_useless_as_a_cookie(world: World, ann: Browser) -> None:
    handle = ann.visits().handle
    assert handle is not None
    assert Browser(world, handle.encode()).visits().is_new
