"""Websockets: the cookie goes with the accept, and a socket ends with its session (PROMISES 14)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgi_visits import Socket, Visitor, app_of
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from visits import VERBS, Browser, World, sets

from samesession import Session
from samesession.errors import ResponseStartedError, StoreUnavailableError
from samesession.web import _sockets
from samesession.web.asgi import SessionMiddleware

pytestmark = pytest.mark.anyio
Handler = Callable[[Session, Any, Any], Awaitable[None]]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _sockets.LOOK_EVERY_S <= 0.5, "PROMISES 14: closed within a second"
    monkeypatch.setattr(_sockets, "LOOK_EVERY_S", 0.01)


def socket_app(world: World, handler: Handler, before: Callable[[Session], object] = dict) -> Any:
    """Use the session, accept, say hello, then what the handler does."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        assert (await receive())["type"] == "websocket.connect"
        before(session)
        await send({"type": "websocket.accept", "headers": [(b"x-app", b"1")]})
        await send({"type": "websocket.send", "text": "hello"})
        await handler(session, receive, send)

    return SessionMiddleware(app, world.sessions)


async def echo(session: Session, receive: Any, send: Any) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def leave(session: Session, receive: Any, send: Any) -> None:
    pass


async def signed_in(world: World, name: str = "ann") -> Visitor:
    visitor = Visitor(app_of(world, lambda s: s.login(name)))
    await visitor.asks()
    return visitor


async def hello(socket: Socket) -> None:
    assert (await socket.hears())["type"] == "websocket.accept"
    assert (await socket.hears())["text"] == "hello"


def browser_of(world: World, visitor: Visitor) -> Browser:
    assert visitor.cookie
    return Browser(world, visitor.cookie.encode())


# -- the accept ------------------------------------------------------------------------------------


async def test_a_session_begins_at_the_accept(world: World) -> None:
    visitor = Visitor(socket_app(world, leave, sets(a=1)))
    async with Socket(visitor) as socket:
        await hello(socket)
    assert socket.error is None
    assert visitor.cookie
    assert socket.answer["x-app"] == "1"
    assert socket.answer["cache-control"] == "no-store"
    assert world.record.values


async def test_who_does_not_use_the_session_gets_no_header_of_ours(world: World) -> None:
    visitor = Visitor(socket_app(world, leave, lambda _session: None))
    async with Socket(visitor) as socket:
        await hello(socket)
    assert socket.answer.headers == [("x-app", "1")]


async def test_a_login_in_the_handshake_is_a_new_record_that_is_watched(world: World) -> None:
    visitor = await signed_in(world)
    old = visitor.cookie
    visitor.app = socket_app(world, echo, lambda s: s.login("bob"))
    async with Socket(visitor) as socket:
        await hello(socket)
        assert visitor.cookie != old
        await world.sessions.end_all("bob")
        assert await socket.hears() == {"type": "websocket.close", "code": 1008}


@pytest.mark.parametrize("denial", [True, False])
@pytest.mark.parametrize("swallow", [True, False])
@pytest.mark.parametrize("down", [{"load"}, {"commit"}])
async def test_a_store_that_does_not_answer_refuses_the_handshake(
    world: World, denial: bool, swallow: bool, down: set[str]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            scope["session"]["a"] = 1
            await send({"type": "websocket.accept"})
        except StoreUnavailableError:
            if not swallow:
                raise

    visitor = await signed_in(world)
    cookie, visitor.app = visitor.cookie, SessionMiddleware(app, world.sessions)
    world.store.down = set(down)
    async with Socket(visitor, denial=denial) as socket:
        await socket.ends()
    assert (socket.accepted, socket.error, visitor.cookie) == (None, None, cookie)
    if denial:
        assert (socket.answer.status, socket.answer["retry-after"]) == (503, "1")
        assert socket.answer.whole
    else:
        assert socket.closed == 1013


async def test_a_handshake_that_does_not_use_the_session_does_not_notice(world: World) -> None:
    visitor = await signed_in(world)
    visitor.app = socket_app(world, leave, lambda _session: None)
    world.store.down = set(VERBS)
    async with Socket(visitor) as socket:
        await hello(socket)
    assert socket.error is None


# -- the end of the session ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        lambda session: session.logout(),
        lambda session: session.rotate(),
        lambda session: session.login("ann"),
        lambda session: session.login("bob"),
    ],
)
async def test_a_socket_closes_when_its_session_ends_elsewhere(
    world: World, end: Callable[[Session], None]
) -> None:
    visitor = await signed_in(world)
    visitor.app = socket_app(world, echo)
    other = await signed_in(world, "carl")
    other.app = visitor.app
    async with Socket(visitor) as socket, Socket(visitor) as second, Socket(other) as bystander:
        for one in (socket, second, bystander):
            await hello(one)
        browser_of(world, visitor).visits(end)
        for one in (socket, second):
            assert await one.hears() == {"type": "websocket.close", "code": 1008}
            await one.ends()
            assert one.error is None
        await bystander.says("still here")
        assert (await bystander.hears())["text"] == "still here"
        assert bystander.closed is None


async def test_a_socket_closes_when_its_session_idles_out(world: World) -> None:
    visitor = await signed_in(world)
    visitor.app = socket_app(world, echo)
    async with Socket(visitor) as socket:
        await hello(socket)
        world.clock.goes_on(world.sessions.limits.idle_ms)
        assert (await socket.hears())["code"] == 1008


async def test_a_store_that_does_not_answer_closes_no_socket(world: World) -> None:
    visitor = await signed_in(world)
    visitor.app = socket_app(world, echo)
    async with Socket(visitor) as socket:
        await hello(socket)
        asked: asyncio.Queue[str] = asyncio.Queue()
        world.store.before = asked.put_nowait
        world.store.down = {"load"}
        for _ in range(2):
            assert await asked.get() == "load"
        assert socket.closed is None
        world.store.down = set()
        await world.sessions.end_all("ann")
        assert (await socket.hears())["code"] == 1008


async def test_a_handler_that_ends_the_session_itself_closes_its_other_sockets(
    world: World,
) -> None:
    async def handler(session: Session, receive: Any, send: Any) -> None:
        if (await receive()).get("text") == "log out":
            session.logout()
            await world.sessions.commit(session)
            await echo(session, receive, send)

    visitor = await signed_in(world)
    visitor.app = socket_app(world, handler)
    async with Socket(visitor) as socket, Socket(visitor) as second:
        for one in (socket, second):
            await hello(one)
        await socket.says("log out")
        for one in (socket, second):
            assert (await one.hears())["code"] == 1008


async def test_a_client_that_has_gone_keeps_nobody_elses_socket_open(world: World) -> None:
    visitor = await signed_in(world)
    visitor.app = socket_app(world, echo)
    fresh = await signed_in(world, "bob")
    fresh.app = visitor.app
    gone, second, later = Socket(visitor), Socket(visitor), Socket(fresh)
    async with gone, second, later:
        for socket in (gone, second, later):
            await hello(socket)
        gone.gone = True
        await world.sessions.end_all("ann")
        assert (await second.hears())["code"] == 1008
        await world.sessions.end_all("bob")
        assert (await later.hears())["code"] == 1008


async def test_a_handler_that_waits_with_a_time_limit_loses_no_message(world: World) -> None:
    async def handler(session: Session, receive: Any, send: Any) -> None:
        for _ in range(3):
            try:
                await asyncio.wait_for(receive(), 0.01)
            except TimeoutError:
                await send({"type": "websocket.send", "text": "still waiting"})
        await echo(session, receive, send)

    visitor = await signed_in(world)
    visitor.app = socket_app(world, handler)
    async with Socket(visitor) as socket:
        await hello(socket)
        for _ in range(3):
            assert (await socket.hears())["text"] == "still waiting"
        for text in ("one", "two", "three"):
            await socket.says(text)
        assert [(await socket.hears())["text"] for _ in range(3)] == ["one", "two", "three"]


async def test_nobody_watches_when_no_socket_is_open(world: World) -> None:
    visitor = await signed_in(world)
    visitor.app = socket_app(world, echo)
    for _ in range(2):
        async with Socket(visitor) as socket:
            await hello(socket)
            assert visitor.app._sockets._looking is not None
        assert visitor.app._sockets._looking is None
    assert not visitor.app._sockets._open


# -- changes in a socket ---------------------------------------------------------------------------


async def test_a_change_is_committed_explicitly_or_raises(world: World) -> None:
    async def handler(session: Session, receive: Any, send: Any) -> None:
        session["committed"] = 1
        await world.sessions.commit(session)
        session["dropped"] = 1

    visitor = await signed_in(world)
    visitor.app = socket_app(world, handler)
    async with Socket(visitor) as socket:
        await socket.ends()
    assert isinstance(socket.error, ResponseStartedError)
    assert set(world.record.values) == {"committed"}


@pytest.mark.parametrize("fails", [True, False])
async def test_a_logout_in_a_socket_counts_without_a_commit(world: World, fails: bool) -> None:
    async def handler(session: Session, receive: Any, send: Any) -> None:
        session.logout()
        if fails:
            raise ZeroDivisionError

    visitor = await signed_in(world)
    visitor.app = socket_app(world, handler)
    async with Socket(visitor) as socket:
        await socket.ends()
    assert type(socket.error) is (ZeroDivisionError if fails else type(None))
    assert browser_of(world, visitor).visits().is_new


@pytest.mark.parametrize("verb", ["login", "rotate"])
async def test_a_login_or_rotation_after_the_accept_is_refused(world: World, verb: str) -> None:
    async def handler(session: Session, receive: Any, send: Any) -> None:
        if verb == "login":
            session.login("bob")
        session.rotate()

    visitor = await signed_in(world)
    visitor.app = socket_app(world, handler)
    async with Socket(visitor) as socket:
        await socket.ends()
    assert isinstance(socket.error, ResponseStartedError)


async def test_a_commit_that_is_not_answered_closes_with_try_again_later(world: World) -> None:
    async def handler(session: Session, receive: Any, send: Any) -> None:
        world.store.down = {"commit"}
        session["a"] = 1
        await world.sessions.commit(session)

    visitor = await signed_in(world)
    visitor.app = socket_app(world, handler)
    async with Socket(visitor) as socket:
        await socket.ends()
    assert (socket.closed, socket.error) == (1013, None)


# -- Starlette -------------------------------------------------------------------------------------


async def test_starlettes_websocket_session(world: World) -> None:
    ended: list[int] = []

    async def chat(websocket: WebSocket) -> None:
        websocket.session["visits"] = websocket.session.get("visits", 0) + 1
        await websocket.accept()
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
        except WebSocketDisconnect as gone:
            ended.append(gone.code)

    app = Starlette(routes=[WebSocketRoute("/", chat)])
    app.add_middleware(SessionMiddleware, sessions=world.sessions)  # type: ignore[arg-type]
    visitor = await signed_in(world)
    visitor.app = app
    async with Socket(visitor) as socket:
        await socket.hears()
        await socket.says("hi")
        assert (await socket.hears())["text"] == "hi"
        await world.sessions.end_all("ann")
        assert (await socket.hears())["code"] == 1008
    assert (socket.error, ended) == (None, [1008])


async def test_a_server_that_stops_closes_the_store(world: World) -> None:
    closed: list[str] = []
    world.store.before = closed.append
    app = Starlette()
    app.add_middleware(SessionMiddleware, sessions=world.sessions)  # type: ignore[arg-type]
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    said: list[str] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        said.append(message["type"])
        assert ("close" in closed) == ("shutdown" in message["type"])

    await app({"type": "lifespan", "app": app}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
