"""`samesession.testing.sign_in` with each framework's test client, over http and in memory.

A client that is signed in goes on as a browser does: what it is answered takes the place of the
cookie that it was given, and a logout signs it out.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import falcon
import falcon.testing
import flask
import httpx
import pytest
import quart
from aiohttp import web
from aiohttp.test_utils import TestClient as AiohttpClient
from aiohttp.test_utils import TestServer
from fastapi import FastAPI
from litestar import Litestar, Request, get
from litestar.testing import AsyncTestClient as AsyncLitestarClient
from litestar.testing import TestClient as LitestarClient

from samesession import Carrier, Cookie, Sessions
from samesession.errors import ConfigError
from samesession.testing import sign_in
from samesession.web import aiohttp as our_aiohttp
from samesession.web import flask as our_flask
from samesession.web import quart as our_quart
from samesession.web import wsgi
from samesession.web.asgi import SessionMiddleware
from samesession.web.fastapi import SessionDep
from samesession.web.litestar import session_middleware

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have httpx2
    from starlette.testclient import TestClient as StarletteClient

pytestmark = pytest.mark.anyio

PATHS = ("/add", "/add", "/add", "/logout", "/add")
SEEN = ["ann ann tea 1", "ann ann tea 2", "ann ann tea 3", "None None None 0", "None None None 1"]
BY_HEADER = ["ann ann tea 1", "ann ann tea 2", "ann ann tea 3", "None None None 0"]
"""A header of all requests stays what it was, so the signed-out client writes no more."""


def done(session: Any, path: str) -> str:
    if path.strip("/") == "logout":
        session.logout()
    else:
        session["n"] = session.get("n", 0) + 1
    said = (session.principal, session.get("user_id"), session.get("basket"), session.get("n", 0))
    return " ".join(map(str, said))


def flasks(sessions: Sessions) -> Any:
    app = flask.Flask(__name__)
    our_flask.init_app(app, sessions)
    app.add_url_rule("/<path>", view_func=lambda path: done(flask.session, path))
    return app.test_client()


def starlettes(sessions: Sessions, base_url: str = "http://testserver") -> Any:
    return StarletteClient(fastapi(sessions), base_url=base_url)


def fastapi(sessions: Sessions) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, sessions=sessions)

    @app.get("/{path}")
    async def index(session: SessionDep, path: str) -> str:
        return done(session, path)

    return app


def litestar(sessions: Sessions) -> Litestar:
    @get(["/add", "/logout"], sync_to_thread=False)
    def index(request: Request[Any, Any, Any]) -> str:
        return done(request.session, request.url.path)

    return Litestar([index], middleware=[session_middleware(sessions)])


class Falcon:
    def on_get(self, req: falcon.Request, resp: falcon.Response, path: str) -> None:
        resp.text = done(req.env["samesession"], path)


def falcons(sessions: Sessions) -> Any:
    app = falcon.App()
    app.add_route("/{path}", Falcon())
    return falcon.testing.TestClient(wsgi.SessionMiddleware(app, sessions))


async def by_flask(sessions: Sessions) -> list[str]:
    client = flasks(sessions)
    sign_in(client, sessions, "ann", basket="tea")
    return [client.get(path).text for path in PATHS]


async def by_quart(sessions: Sessions) -> list[str]:
    app = quart.Quart(__name__)
    our_quart.init_app(app, sessions)

    @app.get("/<path>")
    async def index(path: str) -> str:
        return done(quart.session, path)

    client = app.test_client()
    sign_in(client, sessions, "ann", basket="tea")
    return [await (await client.get(path)).get_data(as_text=True) for path in PATHS]


async def by_starlette(sessions: Sessions) -> list[str]:
    client = starlettes(sessions)
    sign_in(client, sessions, "ann", basket="tea")
    return [client.get(path).json() for path in PATHS]


async def by_httpx(sessions: Sessions, base_url: str = "http://shop") -> list[str]:
    transport = httpx.ASGITransport(fastapi(sessions))
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
        sign_in(client, sessions, "ann", basket="tea")
        host = "" if base_url else "http://127.0.0.1"
        return [(await client.get(host + path)).json() for path in PATHS]


async def by_httpx_of_any_host(sessions: Sessions) -> list[str]:
    return await by_httpx(sessions, base_url="")


async def by_litestar(sessions: Sessions) -> list[str]:
    with LitestarClient(litestar(sessions)) as client:
        sign_in(client, sessions, "ann", basket="tea")
        return [client.get(path).text for path in PATHS]


async def by_litestar_on_a_loop(sessions: Sessions) -> list[str]:
    async with AsyncLitestarClient(litestar(sessions)) as client:
        sign_in(client, sessions, "ann", basket="tea")
        return [(await client.get(path)).text for path in PATHS]


async def by_aiohttp(sessions: Sessions) -> list[str]:
    async def index(request: web.Request) -> web.Response:
        return web.Response(text=done(await our_aiohttp.get_session(request), request.path))

    app = web.Application()
    our_aiohttp.setup(app, sessions)
    app.router.add_get("/{path}", index)
    async with AiohttpClient(TestServer(app)) as client:
        sign_in(client, sessions, "ann", basket="tea")
        return [await (await client.get(path)).text() for path in PATHS]


CLIENTS: list[Callable[[Sessions], Awaitable[list[str]]]] = [
    by_aiohttp,
    by_flask,
    by_httpx,
    by_httpx_of_any_host,
    by_litestar,
    by_litestar_on_a_loop,
    by_quart,
    by_starlette,
]


def made(**more: Any) -> Sessions:
    cookie = more.pop("cookie", Cookie(secure=False))
    return Sessions.from_url("memory://", cookie=cookie, principal_key="user_id", **more)


@pytest.mark.parametrize("by", CLIENTS, ids=lambda by: by.__name__)
async def test_a_client_is_signed_in_until_it_signs_out(
    by: Callable[[Sessions], Awaitable[list[str]]],
) -> None:
    assert await by(made()) == SEEN


def test_falcons_client_keeps_no_cookies_and_shows_this_one_always() -> None:
    sessions = made()
    client = falcons(sessions)
    sign_in(client, sessions, "ann", basket="tea")
    assert [client.simulate_get(path).text for path in PATHS[:-1]] == SEEN[:-1]


async def test_by_header() -> None:
    sessions = made(carrier=Carrier.HEADER)
    for client in (starlettes(sessions), flasks(sessions), falcons(sessions)):
        sign_in(client, sessions, "ann", basket="tea")
        ask = getattr(client, "simulate_get", client.get)
        assert [ask(path).text.strip('"') for path in PATHS[:-1]] == BY_HEADER
    assert (await by_aiohttp(sessions))[:-1] == BY_HEADER
    assert (await by_quart(sessions))[:-1] == BY_HEADER
    with pytest.raises(ConfigError, match="carrier='both'"):
        sign_in(object(), sessions, "ann")


async def test_quarts_websockets_send_the_header_too() -> None:
    sessions = made(carrier=Carrier.HEADER)
    app = quart.Quart(__name__)
    our_quart.init_app(app, sessions)

    @app.websocket("/socket")
    async def socket() -> None:
        await quart.websocket.send(str(our_quart.current_session().principal))

    client = app.test_client()
    sign_in(client, sessions, "ann")
    async with client.websocket("/socket") as opened:
        assert await opened.receive() == "ann"


def test_a_secure_cookie_over_plain_http_is_refused() -> None:
    sessions = made(cookie=Cookie())
    with pytest.raises(ConfigError, match=r"http://testserver.*Cookie\(secure=False\)"):
        sign_in(starlettes(sessions), sessions, "ann")
    client = starlettes(sessions, "https://testserver")
    sign_in(client, sessions, "ann", basket="tea")
    assert [client.get(path).json() for path in PATHS] == SEEN


def test_whoever_signs_in_needs_no_hypothesis() -> None:
    code = "import sys; sys.modules['hypothesis'] = sys.modules['pytest'] = None; "
    code += "from samesession.testing import sign_in"
    subprocess.run([sys.executable, "-c", code], check=True)
