"""One small application in each framework: ``use(session, path)`` answers every path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

import flask
import httpx
import quart
from aiohttp import DummyCookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI
from litestar import Litestar, Request, get
from starlette.responses import PlainTextResponse

from samesession import Sessions
from samesession.web import aiohttp, asgi, wsgi
from samesession.web import flask as our_flask
from samesession.web import quart as our_quart
from samesession.web.fastapi import SessionDep
from samesession.web.litestar import current_session as current_in_litestar
from samesession.web.litestar import session_middleware


class Said(NamedTuple):
    """An answer: its headers, their names in lower case, and its text."""

    headers: dict[str, str]
    text: str

    @property
    def cookie(self) -> str:
        """What a browser sends from now on."""
        return self.headers["set-cookie"].partition(";")[0]


Ask = Callable[..., Awaitable[Said]]
"""``await ask("/path", Cookie="session=…")``; each request is a new client's."""

Use = Callable[[Any, str], str]


def _of_asgi(app: Any) -> Ask:
    async def ask(path: str, **headers: str) -> Said:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            answer = await client.get(f"http://shop{path}", headers=_named(headers))
            return Said(dict(answer.headers), answer.text)

    return ask


def _of_wsgi(app: Any) -> Ask:
    async def ask(path: str, **headers: str) -> Said:
        with httpx.Client(transport=httpx.WSGITransport(app)) as client:
            answer = client.get(f"http://shop{path}", headers=_named(headers))
            return Said(dict(answer.headers), answer.text)

    return ask


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@asynccontextmanager
async def over_fastapi(sessions: Sessions, use: Use) -> AsyncIterator[Ask]:
    app = FastAPI()
    app.add_middleware(asgi.SessionMiddleware, sessions=sessions)

    @app.get("/{path}", response_class=PlainTextResponse)
    async def index(session: SessionDep, path: str) -> str:
        return use(session, f"/{path}")

    yield _of_asgi(app)


@asynccontextmanager
async def over_litestar(sessions: Sessions, use: Use) -> AsyncIterator[Ask]:
    @get("/{path:path}", media_type="text/plain")
    async def index(request: Request[Any, Any, Any]) -> str:
        return use(current_in_litestar(request), request.url.path)

    yield _of_asgi(Litestar([index], middleware=[session_middleware(sessions)]))


@asynccontextmanager
async def over_quart(sessions: Sessions, use: Use) -> AsyncIterator[Ask]:
    app = quart.Quart("shop")
    our_quart.init_app(app, sessions)

    @app.get("/<path>")
    async def index(path: str) -> str:
        return use(our_quart.current_session(), f"/{path}")

    yield _of_asgi(app)


@asynccontextmanager
async def over_flask(sessions: Sessions, use: Use) -> AsyncIterator[Ask]:
    app = flask.Flask("shop")
    our_flask.init_app(app, sessions)
    app.add_url_rule("/<path>", view_func=lambda path: use(our_flask.current_session(), f"/{path}"))
    yield _of_wsgi(app)


@asynccontextmanager
async def over_wsgi(sessions: Sessions, use: Use) -> AsyncIterator[Ask]:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = use(wsgi.current_session(environ), environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body.encode()]

    yield _of_wsgi(wsgi.SessionMiddleware(app, sessions))


@asynccontextmanager
async def over_aiohttp(sessions: Sessions, use: Use) -> AsyncIterator[Ask]:
    async def index(request: web.Request) -> web.Response:
        return web.Response(text=use(await aiohttp.get_session(request), request.path))

    app = web.Application()
    aiohttp.setup(app, sessions)
    app.router.add_get("/{path}", index)
    async with TestClient(TestServer(app), cookie_jar=DummyCookieJar()) as client:

        async def ask(path: str, **headers: str) -> Said:
            answer = await client.get(path, headers=_named(headers))
            said = {name.lower(): value for name, value in answer.headers.items()}
            return Said(said, await answer.text())

        yield ask


Over = Callable[[Sessions, Use], AbstractAsyncContextManager[Ask]]
SMALL: dict[str, Over] = {
    "aiohttp": over_aiohttp,
    "fastapi": over_fastapi,
    "flask": over_flask,
    "litestar": over_litestar,
    "quart": over_quart,
    "wsgi": over_wsgi,
}
