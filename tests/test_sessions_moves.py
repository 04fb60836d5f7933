"""Login, rotation and logout: a record never changes hands (S6), and an ended one wins (S4)."""

from __future__ import annotations

from collections.abc import Callable

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


# -- logout ----------------------------------------------------------------------------------------


def test_a_logout_ends_the_session_on_every_server(world: World, ann: Browser) -> None:
    thief = ann.copy()
    session = ann.visits(logout)
    assert session._life.cookie == ""
    assert (session.principal, dict(session), session.is_new) == (None, {}, True)
    assert ann.cookie is None
    assert thief.visits(sessions=world.server()).is_new
    assert world.sessions.blocking.held_by("ann") == []
    assert marks(world) == [Reason.LOGIN, Reason.LOGOUT]


def test_only_the_request_that_ended_the_session_clears_the_cookie(
    world: World, ann: Browser
) -> None:
    first, second = ann.opens(), ann.copy().opens()
    for session in (first, second):
        session.logout()
    world.sessions.blocking.finish(first)
    world.sessions.blocking.finish(second)
    assert (first._life.cookie, second._life.cookie) == ("", None)


def test_a_logout_beats_every_late_write_and_the_page_is_served(world: World, ann: Browser) -> None:
    slow = ann.opens()
    ann.copy().visits(logout)
    slow["a"] = 1
    ann.answered(slow)
    assert slow._life.cookie is None
    assert alive(world) == []
    assert world.counted("refused") == {"refused": 1}


def test_a_late_write_to_a_session_that_moved_says_that_it_was_not_saved(
    world: World, ann: Browser
) -> None:
    for move in (rotate, login("ann")):
        slow, tab = ann.opens(), ann.copy()
        ann.visits(move)
        slow["a"] = 1
        with pytest.raises(NotSavedError):
            tab.answered(slow)
        assert slow._life.cookie is None
    assert "a" not in ann.reads()
    assert world.counted("not_saved") == {"not_saved": 2}


def test_a_second_commit_after_a_refused_one_signs_nobody_in(world: World, ann: Browser) -> None:
    slow = ann.opens()
    ann.copy().visits(logout)
    slow["a"] = 1
    world.sessions.blocking.commit(slow)
    assert (slow.principal, slow.is_new) == (None, True)
    world.sessions.blocking.commit(slow)
    slow["b"] = 2
    with pytest.raises(NotSavedError):
        world.sessions.blocking.commit(slow)
    assert alive(world) == []


def test_a_logout_follows_the_session_where_it_went(world: World, ann: Browser) -> None:
    stale = ann.opens()
    for _ in range(5):
        ann.visits(rotate)
    ann.visits(login("ann"))
    stale.logout()
    world.sessions.blocking.finish(stale)
    assert ann.visits().is_new
    assert alive(world) == []


def test_a_rotation_under_way_does_not_outrun_a_logout(world: World, ann: Browser) -> None:
    moving = ann.opens()
    moving.rotate()

    def meanwhile(verb: str) -> None:
        if verb == "end":
            ann.copy().visits(logout)

    world.store.before = meanwhile
    ann.answered(moving)
    assert moving._life.cookie is None
    assert moving.principal is None
    assert alive(world) == []


def test_a_login_after_a_logout_in_one_request_is_a_new_session(world: World, ann: Browser) -> None:
    ann.visits(lambda s: [s.logout(), s.login("bob"), s.update(a=1)])
    assert ann.visits().principal == "bob"
    assert ann.reads() == {"a": 1}
    assert len(alive(world)) == 1


def test_a_write_after_a_logout_in_one_request_is_a_new_anonymous_session(
    world: World, ann: Browser
) -> None:
    old = ann.copy()
    ann.visits(lambda s: [s.update(gone=1), s.logout(), s.update(flash="bye"), s.rotate()])
    assert ann.reads() == {"flash": "bye"}
    assert ann.visits().principal is None
    assert old.visits().is_new
    assert ann.visits().handle != old.visits().handle


def test_a_logout_after_a_login_in_one_request_signs_nobody_in(
    world: World, visitor: Browser
) -> None:
    visitor.visits(lambda s: [s.login("ann"), s.update(a=1), s.logout()])
    assert visitor.cookie is None
    assert alive(world) == []
    fresh = Browser(world)
    fresh.visits(lambda s: [s.login("ann"), s.logout()])
    assert fresh.cookie is None
    assert alive(world) == []


def test_a_logout_of_nothing_asks_nobody(world: World) -> None:
    assert world.calls_of(lambda: Browser(world).visits(logout)) == []


# -- from outside ----------------------------------------------------------------------------------


def test_sign_out_everywhere_keeps_the_one_that_is_named(world: World, ann: Browser) -> None:
    others = [Browser(world) for _ in range(3)]
    for browser in others:
        browser.visits(login("ann"))
    bob = Browser(world)
    bob.visits(login("bob"))
    session = ann.opens()
    assert world.sessions.blocking.end_all("ann", keep=session) == 3
    assert [browser.visits().is_new for browser in others] == [True] * 3
    assert ann.visits().principal == "ann"
    assert bob.visits().principal == "bob"
    assert world.sessions.blocking.end_all("ann") == 1
    assert world.sessions.blocking.end_all("ann") == 0
    assert ann.visits().is_new


@pytest.mark.parametrize("everything", [True, False])
def test_sign_out_everywhere_and_logout_in_one_request_clear_the_cookie(
    world: World, ann: Browser, everything: bool
) -> None:
    """The request knows its own marks, whichever of its calls made them."""
    session = ann.opens()
    if everything:
        world.sessions.blocking.end_all("ann")
    else:
        assert session.handle is not None
        world.sessions.blocking.end(session.handle)
    session.logout()
    ann.answered(session)
    assert session._life.cookie == ""
    assert ann.cookie is None


def test_an_end_says_whether_it_ended_anything(world: World, ann: Browser) -> None:
    handle = ann.visits().handle
    assert handle is not None
    ann.visits(rotate)
    assert world.sessions.blocking.end(handle) is True  # where it went
    Browser(world).opens()  # another request
    assert world.sessions.blocking.end(handle) is False
    assert ann.visits().is_new


@pytest.mark.parametrize(
    "again", [lambda world, key: world.sessions.blocking.end(key), lambda *_: None]
)
def test_ending_an_absent_record_leaves_a_mark_that_forbids_it(
    world: World, visitor: Browser, again: Callable[[World, str], object]
) -> None:
    handle = visitor.visits().handle
    assert handle is not None
    kept = dict(world.records)
    world.records.clear()
    world.sessions.blocking.end(handle)
    again(world, handle)
    assert isinstance(world.records[handle], Mark)
    assert visitor.visits().is_new
    assert kept.keys() == world.records.keys()


def test_a_write_to_a_session_that_was_revoked_is_refused_quietly(
    world: World, ann: Browser
) -> None:
    slow = ann.opens()
    world.sessions.blocking.end_all("ann")
    Browser(world).opens()
    slow["a"] = 1
    ann.answered(slow)
    assert slow._life.cookie is None
    assert alive(world) == []
