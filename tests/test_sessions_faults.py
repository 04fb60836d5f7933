"""A store that does not answer (S13): 503 for whoever used the session, and nothing half done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from visits import MINUTE, VERBS, Browser, World, looks, sets

from samesession import Session
from samesession.errors import RetryableError, StoreUnavailableError
from samesession.record import Record

REQUESTS: dict[str, Callable[[Session], object]] = {
    "read": looks,
    "write": sets(a=1),
    "empty": lambda s: s.clear(),
    "login": lambda s: s.login("ann"),
    "login over": lambda s: s.login("bob"),
    "rotate": lambda s: s.rotate(),
    "logout": lambda s: s.logout(),
    "logout and write": lambda s: [s.logout(), s.update(a=1)],
    "logout and login": lambda s: [s.logout(), s.login("bob")],
}


@pytest.fixture
def world() -> World:
    return World()


def visitor(world: World, principal: str | None) -> Browser:
    browser = Browser(world)
    browser.visits(sets(basket=["tea"]))
    if principal is not None:
        browser.visits(lambda s: s.login(principal))
    world.clock.goes_on(5 * MINUTE)  # a touch is due, so even a read writes
    return browser


@pytest.mark.parametrize("principal", [None, "ann"])
@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("carried_out", [False, True])
def test_a_fault_at_any_step_is_said_and_a_second_try_succeeds(
    request_: str, principal: str | None, carried_out: bool
) -> None:
    for step in range(1, 12):
        world = World()
        browser = visitor(world, principal)
        world.store.fails(step, carried_out)
        cookie = browser.cookie
        try:
            session = browser.visits(REQUESTS[request_])
        except RetryableError:
            pass
        else:
            assert world.store.faults == 0
            break
        assert world.store.faults == 1, "said without a fault"
        assert browser.cookie == cookie, "a 503 touches no cookie"
        assert world.counted("unavailable") == {"unavailable": 1}
        session = tried_again(browser, REQUESTS[request_])
        after = Browser(world, browser.cookie).visits()
        assert (after.principal, dict(after)) == (session.principal, dict(session))
        assert sum(isinstance(r, Record) for r in world.records.values()) <= 2, "one orphan at most"
    else:
        pytest.fail("it never succeeds")


def tried_again(browser: Browser, change: Callable[[Session], object]) -> Session:
    """As a person would: again, and half a minute later once more."""
    with suppress(RetryableError):
        return browser.visits(change)
    browser.world.clock.goes_on(MINUTE)
    return browser.visits(change)


@pytest.mark.parametrize("verb", sorted(VERBS - {"held_by", "end_all"}))
@pytest.mark.parametrize("request_", [name for name in REQUESTS if name != "read"])
def test_who_swallows_the_fault_is_answered_503_all_the_same(
    world: World, verb: str, request_: str
) -> None:
    browser = visitor(world, "ann")
    world.store.down = {verb}
    session = browser.opens()
    with suppress(StoreUnavailableError):
        REQUESTS[request_](session)
        world.sessions.blocking.commit(session)
    if not world.store.faults:
        return  # this request does not ask for it
    world.store.down = set()
    with pytest.raises(StoreUnavailableError):
        world.sessions.blocking.finish(session)
    assert session._life.cookie is None


def test_who_does_not_use_the_session_is_not_harmed(world: World) -> None:
    browser = visitor(world, "ann")
    world.store.down = set(VERBS)
    session = browser.answered(browser.opens())
    assert session._life.cookie is None
    assert world.counted("unavailable") == {"unavailable": 1}


def test_a_failed_request_stays_failed_when_the_store_is_back(world: World) -> None:
    """What was read as missing may have been decided upon."""
    browser = visitor(world, "ann")
    world.store.down = {"load"}
    session = browser.opens()
    with suppress(StoreUnavailableError):
        session.get("basket")
    world.store.down = set()
    with pytest.raises(StoreUnavailableError):
        browser.answered(session)
    assert browser.visits().principal == "ann"


def test_a_stop_of_the_store_logs_nobody_out(world: World) -> None:
    browser = visitor(world, "ann")
    world.store.down = set(VERBS)
    for change in REQUESTS.values():
        with pytest.raises(StoreUnavailableError):
            browser.visits(change)
    world.store.down = set()
    assert browser.visits().principal == "ann"
    assert browser.reads() == {"basket": ["tea"]}


def test_a_commit_whose_answer_was_lost_is_there_or_not_and_the_answer_is_503(
    world: World,
) -> None:
    browser = visitor(world, None)
    world.store.lost = {"commit"}
    with pytest.raises(StoreUnavailableError):
        browser.visits(sets(a=1))
    world.store.lost = set()
    browser.visits(lambda s: s.update(n=s.get("a", 0)))
    assert browser.reads() == {"basket": ["tea"], "a": 1, "n": 1}


def test_administration_says_that_the_store_did_not_answer(world: World) -> None:
    handle = visitor(world, "ann").visits().handle
    assert handle is not None
    world.store.down = set(VERBS)
    blocking = world.sessions.blocking
    for ask in (
        lambda: blocking.held_by("ann"),
        lambda: blocking.end_all("ann"),
        lambda: blocking.end(handle),
    ):
        with pytest.raises(StoreUnavailableError):
            ask()


def test_a_logout_in_a_failed_request_whose_store_is_down_is_said(world: World) -> None:
    browser = visitor(world, "ann")
    session = browser.opens()
    session.logout()
    world.store.down = {"end"}
    with pytest.raises(StoreUnavailableError):
        world.sessions.blocking.finish(session, failed=True)
