"""Login and rotation: a record never changes hands (S6)."""

from __future__ import annotations

import pytest
from visits import IDLE, LIFETIME, MINUTE, SECOND, Browser, Change, World, looks, sets

from samesession import Session
from samesession.errors import NotSavedError
from samesession.record import Mark, Reason, Record


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def visitor(world: World) -> Browser:
    """A browser with an anonymous session that holds a basket."""
    browser = Browser(world)
    browser.visits(sets(basket=["tea"]))
    return browser


@pytest.fixture
def ann(visitor: Browser) -> Browser:
    """The same browser, signed in."""
    visitor.visits(login("ann"))
    return visitor


def login(principal: str) -> Change:
    return lambda session: session.login(principal)


def logout(session: Session) -> None:
    session.logout()


def rotate(session: Session) -> None:
    session.rotate()


def alive(world: World) -> list[Record]:
    return [found for found in world.records.values() if isinstance(found, Record)]


def marks(world: World) -> list[Reason]:
    return [found.reason for found in world.records.values() if isinstance(found, Mark)]


# -- login and rotation ----------------------------------------------------------------------------


@pytest.mark.parametrize("move", [login("ann"), rotate])
def test_a_move_makes_a_new_record_with_the_same_basket(
    world: World, visitor: Browser, move: Change
) -> None:
    old = visitor.copy()
    handle = old.visits().handle
    visitor.visits(lambda s: [s.update(more=1), move(s)])
    assert visitor.cookie != old.cookie
    assert visitor.reads() == {"basket": ["tea"], "more": 1}
    assert visitor.visits().handle != handle
    assert old.visits().is_new
    assert len(alive(world)) == 1
    assert world.counted("moved", "quiet") == {"moved": 1, "quiet": 1}


def test_a_new_visitor_may_sign_in_at_once(world: World) -> None:
    browser = Browser(world)
    session = browser.visits(login("ann"))
    assert (session.principal, session.is_new, session.version) == ("ann", False, 1)
    assert browser.visits().principal == "ann"
    assert world.counted() == {"created": 1}


def test_signing_in_again_is_a_new_record_and_a_new_deadline(world: World, ann: Browser) -> None:
    world.clock.goes_on(MINUTE)
    ann.visits(login("ann"))
    (record,) = alive(world)
    assert record.origin.absolute_ms == world.clock.now_ms + LIFETIME
    assert record.origin.authenticated_ms == world.clock.now_ms
    assert ann.reads() == {"basket": ["tea"]}


def test_a_rotation_keeps_who_since_when_and_the_deadline(world: World, ann: Browser) -> None:
    (before,) = alive(world)
    world.clock.goes_on(MINUTE)
    ann.visits(rotate)
    (after,) = alive(world)
    assert after.origin == before.origin
    assert after.key != before.key
    assert after.idle_until_ms == world.clock.now_ms + IDLE


def test_signing_in_over_somebody_else_starts_empty(world: World, ann: Browser) -> None:
    ann.visits(lambda s: [s.update(secret=1), s.login("bob"), s.update(mine=2)])
    assert ann.reads() == {"mine": 2}
    assert ann.visits().principal == "bob"
    assert world.sessions.blocking.held_by("ann") == []


def test_two_logins_in_one_request_are_the_last_one_and_empty(
    world: World, visitor: Browser
) -> None:
    visitor.visits(lambda s: [s.login("ann"), s.update(anns=1), s.login("bob")])
    assert visitor.visits().principal == "bob"
    assert visitor.reads() == {}
    assert len(alive(world)) == 1


def test_a_rotation_of_nothing_makes_nothing(world: World) -> None:
    browser = Browser(world)
    assert browser.visits(rotate).is_new
    assert (browser.cookie, world.store.calls) == (None, [])
    browser.visits(lambda s: [s.rotate(), s.update(a=1)])
    assert browser.reads() == {"a": 1}


def test_what_was_written_while_a_move_was_under_way_is_carried_over(
    world: World, ann: Browser
) -> None:
    tab = ann.copy()
    moving = ann.opens()
    tab.visits(lambda s: [s.update(late=1, both="tab"), s.pop("basket")])
    moving["both"] = "mover"
    moving.rotate()
    ann.answered(moving)
    assert ann.reads() == {"late": 1, "both": "mover"}


def test_a_move_and_then_more_writes_and_commits_in_one_request(
    world: World, visitor: Browser
) -> None:
    def change(session: Session) -> None:
        session.login("ann")
        world.sessions.blocking.commit(session)
        session["after"] = 1
        world.sessions.blocking.commit(session)
        session.rotate()

    visitor.visits(change)
    assert visitor.reads() == {"basket": ["tea"], "after": 1}
    assert visitor.visits().principal == "ann"
    assert len(alive(world)) == 1


# -- the cookie from before ------------------------------------------------------------------------


@pytest.mark.parametrize("move", [login("ann"), rotate, logout])
def test_the_old_cookie_is_anonymous_and_quiet(
    world: World, visitor: Browser, move: Change
) -> None:
    old = visitor.copy()
    visitor.visits(move)
    for use in (looks, dict, lambda s: s.pop("a", None), rotate):
        session = old.visits(use)
        assert session.is_new
        assert session.principal is None
        assert dict(session) == {}
        assert session._life.cookie is None
    with pytest.raises(NotSavedError):
        old.visits(sets(a=1))
    assert world.calls_of(old.visits) == ["load"]


@pytest.mark.parametrize("move", [login("ann"), rotate])
def test_a_logout_with_the_old_cookie_ends_what_it_became(
    world: World, visitor: Browser, move: Change
) -> None:
    """A second click, or a second tab: who wanted out is out."""
    old = visitor.copy()
    visitor.visits(move)
    assert old.visits(logout)._life.cookie == ""
    assert visitor.visits().is_new
    assert alive(world) == []


@pytest.mark.parametrize("move", [login("ann"), rotate, logout])
def test_a_login_is_possible_with_the_old_cookie(
    world: World, visitor: Browser, move: Change
) -> None:
    old = visitor.copy()
    visitor.visits(move)
    old.visits(lambda s: [s.update(mine=1), s.login("bob")])
    assert old.visits().principal == "bob"
    assert old.reads() == {"mine": 1}


def test_after_thirty_seconds_the_old_cookie_may_begin_anew(world: World, visitor: Browser) -> None:
    old = visitor.copy()
    visitor.visits(rotate)
    world.clock.goes_on(30 * SECOND - 1)
    with pytest.raises(NotSavedError):
        old.visits(sets(a=1))
    world.clock.goes_on(1)
    old.visits(sets(a=1))
    assert old.reads() == {"a": 1}
    assert visitor.reads() == {"basket": ["tea"]}


@pytest.mark.parametrize(("age_s", "refused"), [(25, False), (26, True)])
def test_a_late_request_makes_nothing_where_a_mark_may_have_gone(
    world: World, visitor: Browser, age_s: int, refused: bool
) -> None:
    world.records.clear()
    slow = visitor.opens()
    world.clock.goes_on(age_s * SECOND)
    slow["a"] = 1
    if refused:
        with pytest.raises(NotSavedError):
            visitor.answered(slow)
        assert world.records == {}
    else:
        visitor.answered(slow)
        assert visitor.reads() == {"a": 1}


def test_a_late_request_without_a_cookie_may_begin(world: World) -> None:
    browser = Browser(world)
    slow = browser.opens()
    world.clock.goes_on(MINUTE)
    slow["a"] = 1
    browser.answered(slow)
    assert browser.reads() == {"a": 1}
