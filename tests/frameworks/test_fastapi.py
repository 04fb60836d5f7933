"""FastAPI's pages where a session may be used: dependencies, sockets, sub-applications."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from typing import Annotated, Any

import flask
import pytest
from fastapi import (
    Depends,
    FastAPI,
    HTTPException,
    Request,
    Response,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
    status,
)
from fastapi.responses import RedirectResponse

from samesession import Cookie, Sessions
from samesession.errors import ResponseStartedError
from samesession.web.asgi import SessionMiddleware
from samesession.web.fastapi import SessionDep, session_of
from samesession.web.flask import init_app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # they would rather have httpx2 and a2wsgi
    from fastapi.middleware.wsgi import WSGIMiddleware
    from fastapi.testclient import TestClient


@pytest.fixture
def sessions() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


def counting(sessions: Sessions | None = None) -> FastAPI:
    app = FastAPI()
    if sessions is not None:
        app.add_middleware(SessionMiddleware, sessions=sessions)

    @app.get("/count")
    def count(session: SessionDep) -> dict[str, Any]:
        session["n"] = session.get("n", 0) + 1
        return session

    @app.get("/")
    def index(session: SessionDep) -> dict[str, Any]:
        return session

    return app


def test_what_follows_a_yield(sessions: Sessions) -> None:
    """It runs after the response, unless the dependency's scope is the function."""
    seen: list[int] = []

    async def read(session: SessionDep) -> AsyncIterator[None]:
        yield
        seen.append(session["n"])

    async def write(session: SessionDep) -> AsyncIterator[None]:
        yield
        session["after"] = True

    async def commit(session: SessionDep) -> AsyncIterator[None]:
        yield
        session["committed"] = True
        await sessions.commit(session)

    async def refused(session: SessionDep) -> AsyncIterator[None]:
        try:
            yield
        except HTTPException as error:  # before its answer
            session["refused"] = error.detail
            raise

    app = counting(sessions)

    @app.get("/teapot", dependencies=[Depends(refused)])
    def teapot() -> None:
        raise HTTPException(418, "a teapot")

    def route(path: str, dependency: Any) -> None:
        @app.get(path, dependencies=[dependency])
        def used(session: SessionDep) -> None:
            session["n"] = session.get("n", 0) + 1

    route("/read", Depends(read))
    route("/write", Depends(write))
    route("/write/function", Depends(write, scope="function"))
    route("/commit", Depends(commit))

    with TestClient(app) as client:
        client.get("/read")
        assert seen == [1]
        with pytest.raises(ResponseStartedError, match=r"sessions\.commit"):
            client.get("/write")
        client.get("/commit")
        assert client.get("/").json() == {"n": 3, "committed": True}
        client.get("/write/function")
        assert client.get("/").json() == {"n": 4, "committed": True, "after": True}
        assert client.get("/teapot").status_code == 418
        assert client.get("/").json()["refused"] == "a teapot"


@pytest.mark.parametrize("inner", [False, True])
def test_an_application_inside_another_one(sessions: Sessions, inner: bool) -> None:
    """The layer may be the outer one's, for all of them, or an inner one's, for itself."""
    app = counting(None if inner else sessions)
    app.mount("/sub", counting(sessions if inner else None))
    with TestClient(app) as client:
        assert [client.get("/sub/count").json()["n"] for _ in range(2)] == [1, 2]
        if not inner:
            assert client.get("/count").json() == {"n": 3}


def test_flask_inside_shares_the_session(sessions: Sessions) -> None:
    inside = flask.Flask("inside")
    init_app(inside, sessions)

    @inside.get("/add")
    def add() -> dict[str, Any]:
        flask.session["flask"] = True
        return dict(flask.session)

    @inside.get("/logout")
    def logout() -> str:
        flask.session.clear()
        return ""

    app = counting(sessions)
    app.mount("/v1", WSGIMiddleware(inside))
    with TestClient(app) as client:
        client.get("/count")
        answer = client.get("/v1/add")
        assert answer.json() == {"n": 1, "flask": True}
        assert len(answer.headers.get_list("set-cookie")) == 1
        assert client.get("/count").json() == {"n": 2, "flask": True}
        client.get("/v1/logout")
        assert client.get("/").json() == {}


async def user_of(websocket: WebSocket, session: SessionDep) -> str:
    if "user" not in session:
        raise WebSocketException(code=status.WS_1008_POLICY_VIOLATION)
    return str(session["user"])


def test_a_socket_whose_dependency_wants_a_session(sessions: Sessions) -> None:
    app = counting(sessions)

    @app.post("/login/{name}")
    def login(request: Request, name: str) -> None:
        request.session["user"] = name

    @app.websocket("/items/{item}/ws")
    async def ws(websocket: WebSocket, item: str, user: Annotated[str, Depends(user_of)]) -> None:
        await websocket.accept()
        await websocket.send_text(f"{user} {item} {await websocket.receive_text()}")

    with TestClient(app) as client:
        with (
            pytest.raises(WebSocketDisconnect) as refused,
            client.websocket_connect("/items/7/ws"),
        ):
            pass
        assert refused.value.code == 1008
        client.post("/login/ann")
        with client.websocket_connect("/items/7/ws") as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "ann 7 hello"


def test_a_test_may_override_the_session() -> None:
    app = counting()
    app.dependency_overrides[session_of] = lambda: {"n": 6}
    assert TestClient(app).get("/count").json() == {"n": 7}


def test_an_exception_handler_may_leave_a_message(sessions: Sessions) -> None:
    app = counting(sessions)

    @app.get("/fails")
    def fails() -> None:
        raise ValueError("not in stock")

    @app.exception_handler(ValueError)
    async def explained(request: Request, error: ValueError) -> Response:
        request.session["flash"] = str(error)
        return RedirectResponse("/")

    assert TestClient(app).get("/fails").json() == {"flash": "not in stock"}
