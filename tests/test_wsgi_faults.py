"""WSGI: exceptions, changes after the first byte, and a store that does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from test_wsgi import TEXT, unused
from visits import IDLE, VERBS, Browser, World, sets
from wsgi_visits import App, Visitor, app_of, checked

from samesession import Session
from samesession.errors import ResponseStartedError, StoreUnavailableError, ValueNotStorableError
from samesession.web.wsgi import SessionMiddleware


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ann(world: World) -> Visitor:
    """A browser with a session in which a list is."""
    visitor = Visitor(app_of(world, sets(list=[])))
    visitor.asks()
    return visitor


def failing(change: Callable[[Session], object]) -> Callable[[Session], object]:
    def handler(session: Session) -> None:
        change(session)
        raise ZeroDivisionError

    return handler


def test_an_exception_commits_nothing_but_a_logout_counts(world: World, ann: Visitor) -> None:
    ann.app = app_of(world, failing(sets(b=2)), dict, failing(lambda s: s.logout()), dict)
    assert isinstance(ann.asks().error, ZeroDivisionError)
    assert ann.asks().body == b"{'list': []}"
    assert isinstance(ann.asks().error, ZeroDivisionError)
    assert ann.asks().body == b"{}"


def late(change: Callable[[Session, World], object], world: World) -> App:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        session = environ["samesession"]
        dict(session)
        start_response("200 OK", TEXT)
        yield b"first"
        change(session, world)
        yield b" last"

    return checked(app, world)


def commit(session: Session, world: World) -> None:
    session["late"] = 1
    world.sessions.blocking.commit(session)


def logout_and_fail(session: Session, world: World) -> None:
    session.logout()
    raise ZeroDivisionError


def test_a_late_change_is_committed_explicitly(world: World, ann: Visitor) -> None:
    ann.app = late(commit, world)
    answer = ann.asks()
    assert (answer.body, answer.error) == (b"first last", None)
    assert set(world.record.values) == {"list", "late"}


@pytest.mark.parametrize(
    "change",
    [
        lambda s, _world: s.update(late=1),
        lambda s, _world: s["list"].append(1),
        lambda s, _world: s.login("ann"),
        lambda s, _world: s.rotate(),
    ],
)
def test_a_late_change_that_nobody_commits_raises(
    world: World, ann: Visitor, change: Callable[[Session, World], object]
) -> None:
    ann.app = late(change, world)
    assert isinstance(ann.asks().error, ResponseStartedError)
    assert set(world.record.values) == {"list"}


@pytest.mark.parametrize("change", [lambda s, _world: s.logout(), logout_and_fail])
def test_a_late_logout_ends_the_record(
    world: World, ann: Visitor, change: Callable[[Session, World], object]
) -> None:
    ann.app = late(change, world)
    ann.asks()
    assert Browser(world, str(ann.cookie).encode()).visits().is_new


def test_a_late_logout_counts_when_the_client_has_gone(world: World, ann: Visitor) -> None:
    app = SessionMiddleware(late_logout, world.sessions)
    environ = {"HTTP_COOKIE": f"__Host-session={ann.cookie}", "REQUEST_METHOD": "GET"}
    body: Any = app(environ, lambda *_: lambda _data: None)
    pieces = iter(body)
    assert [next(pieces), next(pieces)] == [b"first", b" middle"]
    body.close()
    assert Browser(world, str(ann.cookie).encode()).visits().is_new


def late_logout(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"first"
    environ["samesession"].logout()
    yield b" middle"
    yield b" last"


def test_a_value_refused_at_the_commit_is_raised_once_and_the_error_page_is_sent(
    world: World, ann: Visitor
) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        session = environ["samesession"]
        session["list"].append(object())
        try:
            world.sessions.blocking.commit(session)
        except ValueNotStorableError as error:
            start_response("422 No", TEXT)
            return [str(error).encode()]
        raise AssertionError

    ann.app = checked(app, world)
    answer = ann.asks()
    assert (answer.status, b"'list'" in answer.body, answer.error) == (422, True, None)
    ann.app = app_of(world, lambda s: s["list"].append(object()))
    assert isinstance(ann.asks().error, ValueNotStorableError)


# -- the store does not answer ---------------------------------------------------------------------


def swallowing(session: Session) -> None:
    try:
        dict(session)
    except StoreUnavailableError:
        return


def wrapping(session: Session) -> None:
    try:
        dict(session)
    except StoreUnavailableError as error:
        raise LookupError from error


@pytest.mark.parametrize("use", [dict, sets(a=2), swallowing, wrapping])
@pytest.mark.parametrize("down", [{"load"}, VERBS])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_store_that_does_not_answer_is_503_for_who_uses_the_session(
    world: World, ann: Visitor, use: Callable[[Session], object], down: set[str], method: str
) -> None:
    ann.app, cookie = app_of(world, use), ann.cookie
    world.clock.goes_on(IDLE // 2)
    world.store.down = set(down)
    answer = ann.asks(method=method)
    assert (answer.status, answer["retry-after"], answer.error) == (503, "1", None)
    assert (answer.body == b"") == (method == "HEAD")
    assert (answer["cache-control"], answer["set-cookie"]) == ("no-store", None)
    assert ann.cookie == cookie


def test_who_does_not_use_the_session_does_not_notice(world: World, ann: Visitor) -> None:
    ann.app = SessionMiddleware(unused, world.sessions)
    world.store.down = set(VERBS)
    assert ann.asks().status == 200
