"""Logout, and ends from outside: an ended record beats every write (S4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from test_sessions_moves import alive, login, logout, marks, rotate
from visits import Browser, Change, World, sets

from samesession.errors import NotSavedError
from samesession.record import Delta, Mark, Outcome, Reason


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


@pytest.mark.parametrize("move", [rotate, login("ann")])
def test_a_write_that_is_sent_again_after_the_session_moved_with_it_was_saved(
    world: World, ann: Browser, monkeypatch: pytest.MonkeyPatch, move: Change
) -> None:
    """As a cluster does when an authority dies with its answer."""
    slow, tab = ann.opens(), ann.copy()
    commit = world.memory.commit

    async def answered_too_late(delta: Delta) -> Outcome:
        await commit(delta)
        monkeypatch.undo()
        ann.visits(move)
        return await commit(delta)

    monkeypatch.setattr(world.memory, "commit", answered_too_late)
    slow["a"] = 1
    tab.answered(slow)
    assert slow._life.cookie is None  # the move has set a newer one
    assert (slow.principal, slow.is_new) == (None, True)
    assert ann.reads()["a"] == 1
    assert world.counted("not_saved", "refused") == {}


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


@pytest.mark.parametrize("move", [rotate, login("ann")])
@pytest.mark.parametrize("end", ["logout", "end", "end_all"])
def test_a_move_under_way_does_not_outrun_who_wants_the_session_over(
    world: World, ann: Browser, move: Change, end: str
) -> None:
    moving, tab = ann.opens(), ann.copy()
    move(moving)
    handle = str(tab.visits().handle)

    def meanwhile(verb: str) -> None:
        if verb == "end":
            if end == "logout":
                tab.visits(logout)
            elif end == "end":
                world.sessions.blocking.end(handle)
            else:
                world.sessions.blocking.end_all("ann")

    world.store.before = meanwhile
    if move is rotate:
        ann.answered(moving)
    else:
        with pytest.raises(NotSavedError):  # the login was not done, and must not look done
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
