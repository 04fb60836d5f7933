"""After the first byte (S11): changes are committed explicitly or raise; nothing is dropped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgi_visits import Answer, App, Visitor, app_of
from visits import World, sets

from samesession import Session, Sessions
from samesession.errors import ResponseStartedError, StoreUnavailableError
from samesession.web.asgi import SessionMiddleware

pytestmark = pytest.mark.anyio
Late = Callable[[Session, Sessions], Awaitable[object]]


@pytest.fixture
def world() -> World:
    return World()


async def nothing(session: Session, sessions: Sessions) -> None:
    dict(session)


async def write(session: Session, sessions: Sessions) -> None:
    session["late"] = 1


async def append(session: Session, sessions: Sessions) -> None:
    session["list"].append(1)


async def write_and_commit(session: Session, sessions: Sessions) -> None:
    session["late"] = 1
    await sessions.commit(session)
    session["list"].append(2)
    await sessions.commit(session)


async def login(session: Session, sessions: Sessions) -> None:
    session.login("ann")


async def rotate(session: Session, sessions: Sessions) -> None:
    session.rotate()


async def logout(session: Session, sessions: Sessions) -> None:
    session.logout()


async def logout_and_write(session: Session, sessions: Sessions) -> None:
    session.logout()
    session["late"] = 1


async def logout_and_commit(session: Session, sessions: Sessions) -> None:
    session.logout()
    await sessions.commit(session)


async def logout_and_fail(session: Session, sessions: Sessions) -> None:
    session.logout()
    raise ZeroDivisionError


def streaming(world: World, late: Late) -> App:
    """The change comes between two pieces of the body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        dict(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await late(scope["session"], world.sessions)
        await send({"type": "http.response.body", "body": b" last"})

    return SessionMiddleware(app, world.sessions)


def in_background(world: World, late: Late) -> App:
    """The change comes after the whole body, as in Starlette's background tasks."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first last"})
        await late(scope["session"], world.sessions)

    return SessionMiddleware(app, world.sessions)


WAYS = [streaming, in_background]


async def answer_to(world: World, way: Callable[[World, Late], App], late: Late) -> Answer:
    visitor = Visitor(app_of(world, sets(list=[])))
    await visitor.asks()
    visitor.app = way(world, late)
    return await visitor.asks()


def stored(world: World) -> dict[str, bytes]:
    return dict(world.record.values)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("late", [nothing, write_and_commit])
async def test_what_is_committed_explicitly_is_kept(world: World, way: Any, late: Late) -> None:
    answer = await answer_to(world, way, late)
    assert (answer.status, answer.body, answer.error) == (200, b"first last", None)
    assert ("late" in stored(world)) == (late is write_and_commit)
    assert answer.all("set-cookie") == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("late", [write, append])
async def test_a_change_that_nobody_commits_raises(world: World, way: Any, late: Late) -> None:
    answer = await answer_to(world, way, late)
    assert isinstance(answer.error, ResponseStartedError)
    assert "sessions.commit" in str(answer.error)
    assert answer.whole == (way is in_background), "a stream is cut off before its end"
    assert set(stored(world)) == {"list"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("late", [login, rotate])
async def test_a_login_or_rotation_is_refused(world: World, way: Any, late: Late) -> None:
    answer = await answer_to(world, way, late)
    assert isinstance(answer.error, ResponseStartedError)
    assert stored(world)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("late", [logout, logout_and_commit, logout_and_fail, logout_and_write])
async def test_a_logout_ends_the_record_on_every_server(world: World, way: Any, late: Late) -> None:
    answer = await answer_to(world, way, late)
    expected = {logout_and_fail: ZeroDivisionError, logout_and_write: ResponseStartedError}
    assert type(answer.error) is expected.get(late, type(None))
    assert [mark.reason for mark in world.records.values()] == ["logout"]
    assert answer.all("set-cookie") == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_new_session_can_no_longer_begin(world: World, way: Any) -> None:
    for late in (write, write_and_commit):
        answer = await Visitor(way(world, late)).asks()
        assert isinstance(answer.error, ResponseStartedError)
    assert world.records == {}


async def test_a_change_that_was_caught_is_said_once(world: World) -> None:
    """An application that swallows the error ends as it wants to."""

    async def careless(scope: Any, receive: Any, send: Any) -> None:
        try:
            await inner(scope, receive, send)
        except ResponseStartedError:
            await send({"type": "http.response.body", "body": b""})

    inner = streaming(world, write).app  # type: ignore[attr-defined]
    visitor = Visitor(app_of(world, sets(a=1)))
    await visitor.asks()
    visitor.app = SessionMiddleware(careless, world.sessions)
    answer = await visitor.asks()
    assert (answer.whole, answer.error) == (True, None)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("late", [write_and_commit, logout_and_commit, logout])
async def test_a_store_that_fails_after_the_start_is_raised(
    world: World, way: Any, late: Late
) -> None:
    visitor = Visitor(app_of(world, sets(list=[])))
    await visitor.asks()

    async def fails(session: Session, sessions: Sessions) -> None:
        world.store.down = {"commit", "end"}
        await late(session, sessions)

    visitor.app = way(world, fails)
    answer = await visitor.asks()
    assert isinstance(answer.error, StoreUnavailableError)
    assert answer.whole == (way is in_background)


async def test_a_change_before_the_first_byte_of_a_stream_needs_nothing(world: World) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["early"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope["session"].get("early")
        for piece in (b"a", b"b"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    visitor = Visitor(SessionMiddleware(app, world.sessions))
    assert (await visitor.asks()).body == b"ab"
    assert visitor.cookie


async def test_a_change_between_start_and_body_raises(world: World) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        session["a"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        session["b"] = 2
        await send({"type": "http.response.body", "body": b"ok"})

    answer = await Visitor(SessionMiddleware(app, world.sessions)).asks()
    assert isinstance(answer.error, ResponseStartedError)
    assert set(stored(world)) == {"a"}


async def test_a_second_start_is_the_servers_to_refuse(world: World) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["a"] = 1
        for _ in range(2):
            await send({"type": "http.response.start", "status": 200, "headers": []})

    answer = await Visitor(SessionMiddleware(app, world.sessions)).asks()
    assert isinstance(answer.error, AssertionError)
    assert world.store.calls == ["commit"]


@pytest.mark.parametrize("kind", ["lifespan", "something new"])
async def test_other_scopes_pass_through(world: World, kind: str) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        assert "session" not in scope

    await SessionMiddleware(app, world.sessions)({"type": kind}, None, None)  # type: ignore[arg-type]
    assert seen == [kind]
