"""`principal_key`: a change of the application's own login key is a login or a logout."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from visits import Browser, World, sets

from samesession import Session


@pytest.fixture
def world() -> World:
    made = World()
    made.sessions._tools = replace(made.sessions._tools, login_keys=("user_id", "fresh"))
    return made


def removes(*keys: str) -> Any:
    return lambda session: [session.pop(key) for key in keys]


def test_setting_the_key_is_a_login(world: World) -> None:
    browser = Browser(world)
    browser.visits(sets(basket=["tea"]))
    planted = browser.copy()
    browser.visits(sets(user_id=7, fresh=True))
    assert browser.visits().principal == "7"
    assert browser.reads() == {"basket": ["tea"], "user_id": 7, "fresh": True}
    assert planted.reads() == {}


def test_a_stranger_may_begin_with_a_login(world: World) -> None:
    browser = Browser(world)
    browser.visits(sets(user_id=7))
    assert world.record.origin.principal == "7"


def test_removing_the_key_is_a_logout_and_the_rest_goes_on(world: World) -> None:
    browser = Browser(world)
    browser.visits(sets(user_id=7, basket=["tea"]))
    before = browser.copy()
    browser.visits(removes("user_id"))
    session = browser.visits()
    assert (session.principal, dict(session)) == (None, {"basket": ["tea"]})
    assert before.reads() == {}
    browser.visits(sets(user_id=7))
    browser.visits(removes("user_id", "basket"))
    assert browser.cookie is None, "nothing was left"


def test_another_value_is_another_principal_and_starts_empty(world: World) -> None:
    browser = Browser(world)
    browser.visits(sets(user_id=7, fresh=True, basket=["tea"]))
    browser.visits(sets(user_id=8, fresh=True, note="mine"))
    assert browser.visits().principal == "8"
    assert browser.reads() == {"user_id": 8, "fresh": True, "note": "mine"}


def test_the_same_value_again_is_nothing_new(world: World) -> None:
    browser = Browser(world)
    browser.visits(sets(user_id=7))
    handle = browser.visits().handle
    browser.visits(sets(user_id=7))
    assert browser.visits().handle == handle


def test_a_commit_in_the_middle_is_one_login(world: World) -> None:
    browser = Browser(world)

    def change(session: Session) -> None:
        session["user_id"] = 7
        world.sessions.blocking.commit(session)
        session["more"] = 1

    browser.visits(change)
    assert world.counted("created", "moved", "ended") == {"created": 1}
    assert browser.reads() == {"user_id": 7, "more": 1}


def test_a_logout_and_the_same_key_again_is_a_new_login(world: World) -> None:
    browser = Browser(world)
    browser.visits(sets(user_id=7))
    handle = browser.visits().handle

    def change(session: Session) -> None:
        session.logout()
        session["user_id"] = 7

    browser.visits(change)
    session = browser.visits()
    assert (session.principal, session.handle != handle) == ("7", True)


def test_what_the_application_says_itself_counts_first(world: World) -> None:
    browser = Browser(world)

    def change(session: Session) -> None:
        session["user_id"] = 7
        session.login("ann")

    browser.visits(change)
    assert browser.visits().principal == "ann"
    browser.visits(sets(note=1))
    assert browser.visits().principal == "ann"
