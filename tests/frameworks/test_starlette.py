"""What Starlette's and FastAPI's pages do with a session, and Starlette's own tests of it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from jinja2 import DictLoader, Environment
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    BaseUser,
    SimpleUser,
    requires,
)
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.templating import Jinja2Templates

from samesession import Cookie, Sessions
from samesession.errors import ResponseStartedError
from samesession.testing import sign_in
from samesession.web.asgi import SessionMiddleware
from samesession.web.fastapi import SessionDep

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have httpx2
    from starlette.testclient import TestClient

Next = Callable[[Request], Awaitable[Response]]


@pytest.fixture
def sessions() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


def view_session(request: Request) -> Response:
    return JSONResponse({"session": request.session})


async def update_session(request: Request) -> Response:
    request.session.update(await request.json())
    return JSONResponse({"session": request.session})


async def clear_session(request: Request) -> Response:
    request.session.clear()
    return JSONResponse({"session": request.session})


def no_session_access(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


ROUTES = [
    Route("/view_session", view_session),
    Route("/update_session", update_session, methods=["POST"]),
    Route("/clear_session", clear_session, methods=["POST"]),
    Route("/no_session", no_session_access),
]


def test_starlettes_own_test_of_it(sessions: Sessions) -> None:
    app = Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, sessions=sessions)])
    with TestClient(app) as client:
        assert client.get("/view_session").json() == {"session": {}}
        said = client.post("/update_session", json={"some": "data"})
        assert said.json() == {"session": {"some": "data"}}
        assert ("set-cookie" in said.headers, said.headers["vary"]) == (True, "Cookie")
        said = client.get("/view_session")
        assert said.json() == {"session": {"some": "data"}}
        assert ("set-cookie" in said.headers, said.headers["vary"]) == (False, "Cookie")
        assert "vary" not in client.get("/no_session").headers
        said = client.post("/clear_session")
        assert said.json() == {"session": {}}
        assert client.get("/view_session").json() == {"session": {}}
        assert "session" not in client.cookies, "and the cookie has gone"


def test_the_words_of_starlettes_session(sessions: Sessions) -> None:
    seen: list[tuple[bool, bool]] = []

    def index(request: Request) -> Response:
        session: Any = request.session
        seen.append((session.accessed, session.modified))
        session.mark_accessed()
        seen.append((session.accessed, session.modified))
        session.setdefault("list", []).append(1)
        session.mark_modified()
        seen.append((session.accessed, session.modified))
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", index)])
    app.add_middleware(SessionMiddleware, sessions=sessions)
    with TestClient(app) as client:
        assert "cookie" in client.get("/").headers["vary"].lower()
    assert seen == [(True, False), (True, False), (True, True)], (
        "`request.session` marks it accessed"
    )


def test_a_mounted_application_shares_the_session(sessions: Sessions) -> None:
    app = Starlette(
        routes=[Mount("/inner", Starlette(routes=ROUTES)), *ROUTES],
        middleware=[Middleware(SessionMiddleware, sessions=sessions)],
    )
    with TestClient(app) as client:
        client.post("/inner/update_session", json={"n": 1})
        assert client.get("/view_session").json() == {"session": {"n": 1}}


class BySession(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        name = conn.session.get("user")
        return (AuthCredentials(["authenticated"]), SimpleUser(name)) if name else None


@requires("authenticated")
async def dashboard(request: Request) -> Response:
    return PlainTextResponse(request.user.display_name)


class Counted(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Next) -> Response:
        request.session["seen"] = request.session.get("seen", 0) + 1
        answer = await call_next(request)
        answer.headers["X-Seen"] = str(request.session["seen"])
        return answer


def test_authentication_and_a_middleware_by_the_session(sessions: Sessions) -> None:
    app = Starlette(
        routes=[*ROUTES, Route("/dashboard", dashboard)],
        middleware=[
            Middleware(SessionMiddleware, sessions=sessions),
            Middleware(Counted),
            Middleware(AuthenticationMiddleware, backend=BySession()),
        ],
    )
    with TestClient(app) as client:
        assert client.get("/dashboard").status_code == 403
        client.post("/update_session", json={"user": "ann"})
        shown = client.get("/dashboard")
        assert (shown.text, shown.headers["X-Seen"]) == ("ann", "3")


class Page(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        request.session["hits"] = request.session.get("hits", 0) + 1
        environment = Environment(
            loader=DictLoader({"page": "{{ request.session.hits }} {{ request.session['hits'] }}"})
        )
        return Jinja2Templates(env=environment).TemplateResponse(request, "page")


class Echo(WebSocketEndpoint):
    encoding = "json"

    async def on_connect(self, websocket: WebSocket) -> None:
        websocket.session["connected"] = True
        await websocket.accept()

    async def on_receive(self, websocket: WebSocket, data: Any) -> None:
        await websocket.send_json(dict(websocket.session))


def test_endpoints_templates_and_websockets(sessions: Sessions) -> None:
    app = Starlette(routes=[Route("/", Page), WebSocketRoute("/ws", Echo), *ROUTES])
    app.add_middleware(SessionMiddleware, sessions=sessions)
    with TestClient(app) as client:
        client.get("/")
        assert client.get("/").text == "2 2"
        with client.websocket_connect("/ws") as socket:
            socket.send_json("what is there?")
            assert socket.receive_json() == {"hits": 2, "connected": True}
        assert client.get("/view_session").json() == {"session": {"hits": 2, "connected": True}}


# -- FastAPI -----------------------------------------------------------------------------------


def current_user(session: SessionDep) -> str:
    return str(session.get("user", "nobody"))


async def counted(session: SessionDep) -> AsyncIterator[int]:
    session["count"] = session.get("count", 0) + 1
    yield session["count"]


def test_dependencies_routers_and_threads(sessions: Sessions) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, sessions=sessions)

    @app.get("/sync")
    def in_a_thread(
        request: Request,
        user: Annotated[str, Depends(current_user)],
        count: Annotated[int, Depends(counted)],
    ) -> dict[str, Any]:
        return {"user": user, "count": count, "same": request.session["count"]}

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, session: SessionDep) -> None:
        await websocket.accept()
        await websocket.send_json(session.principal)

    with TestClient(app) as client:
        sign_in(client, sessions, "ann", user="Ann")
        assert client.get("/sync").json() == {"user": "Ann", "count": 1, "same": 1}
        assert client.get("/sync").json()["count"] == 2
        with client.websocket_connect("/ws") as socket:
            assert socket.receive_json() == "ann"


def test_background_tasks_and_streams_commit_or_say_so(sessions: Sessions) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, sessions=sessions)

    async def later(session: SessionDep, commits: bool) -> None:
        session["later"] = commits
        if commits:
            await sessions.commit(session)

    @app.get("/background/{commits}")
    async def background(session: SessionDep, tasks: BackgroundTasks, commits: bool) -> None:
        session["early"] = True
        tasks.add_task(later, session, commits)

    @app.get("/stream/{commits}")
    async def stream(session: SessionDep, commits: bool) -> StreamingResponse:
        session["early"] = True

        async def pieces() -> AsyncIterator[bytes]:
            yield b"one "
            await later(session, commits)
            await asyncio.sleep(0)
            yield b"two"

        return StreamingResponse(pieces())

    @app.get("/")
    async def shown(session: SessionDep) -> dict[str, Any]:
        return session

    for way in ("background", "stream"):
        silent = pytest.raises(ResponseStartedError, match=r"sessions\.commit\(session\)")
        with TestClient(app) as client, silent:
            client.get(f"/{way}/false")
        with TestClient(app) as client:
            client.get(f"/{way}/true")
            assert client.get("/").json() == {"early": True, "later": True}
