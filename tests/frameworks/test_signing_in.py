"""`samesession.testing.sign_in` with each framework's test client, over http and in memory."""

from __future__ import annotations

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
from litestar.testing import TestClient as LitestarClient

from samesession import Cookie, Sessions
from samesession.testing import sign_in
from samesession.web import aiohttp as our_aiohttp
from samesession.web import flask as our_flask
from samesession.web import quart as our_quart
from samesession.web import wsgi
from samesession.web.asgi import SessionMiddleware
from samesession.web.fastapi import SessionDep
from samesession.web.litestar import session_middleware


@pytest.fixture
def sessions() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False), principal_key="user_id")


SEEN = {"principal": "ann", "data": {"user_id": "ann", "basket": ["tea"]}}


def shown(session: Any) -> dict[str, Any]:
    return {"principal": session.principal, "data": dict(session)}


def test_flask(sessions: Sessions) -> None:
    app = flask.Flask(__name__)
    our_flask.init_app(app, sessions)
    app.add_url_rule("/", view_func=lambda: shown(flask.session))
    client = app.test_client()
    sign_in(client, sessions, "ann", basket=["tea"])
    assert client.get("/").json == SEEN


@pytest.mark.anyio
async def test_quart(sessions: Sessions) -> None:
    app = quart.Quart(__name__)
    our_quart.init_app(app, sessions)

    @app.get("/")
    async def index() -> dict[str, Any]:
        return shown(quart.session)

    client = app.test_client()
    sign_in(client, sessions, "ann", basket=["tea"])
    assert await (await client.get("/")).get_json() == SEEN


@pytest.mark.anyio
async def test_fastapi_and_every_client_like_httpx(sessions: Sessions) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, sessions=sessions)

    @app.get("/")
    async def index(session: SessionDep) -> dict[str, Any]:
        return shown(session)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        sign_in(client, sessions, "ann", basket=["tea"])
        assert (await client.get("/")).json() == SEEN


def test_litestar(sessions: Sessions) -> None:
    @get("/", sync_to_thread=False)
    def index(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return shown(request.session)

    with LitestarClient(Litestar([index], middleware=[session_middleware(sessions)])) as client:
        sign_in(client, sessions, "ann", basket=["tea"])
        assert client.get("/").json() == SEEN


def test_falcon(sessions: Sessions) -> None:
    class Index:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.media = shown(req.env["samesession"])

    app = falcon.App()
    app.add_route("/", Index())
    client = falcon.testing.TestClient(wsgi.SessionMiddleware(app, sessions))
    sign_in(client, sessions, "ann", basket=["tea"])
    assert client.simulate_get("/").json == SEEN


@pytest.mark.anyio
async def test_aiohttp(sessions: Sessions) -> None:
    async def index(request: web.Request) -> web.Response:
        return web.json_response(shown(await our_aiohttp.get_session(request)))

    app = web.Application()
    our_aiohttp.setup(app, sessions)
    app.router.add_get("/", index)
    async with AiohttpClient(TestServer(app)) as client:
        sign_in(client, sessions, "ann", basket=["tea"])
        assert await (await client.get("/")).json() == SEEN
