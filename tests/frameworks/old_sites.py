"""Sites as they run today, by the real libraries over a real Redis, and the same ones switched.

Each old site writes its real cookie and record; the switched one answers the routes of `changed`.
"""

from __future__ import annotations

import asyncio
import secrets
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp_session
import flask
import flask_session
import httpx
import redis
import redis.asyncio
import starsessions
from aiohttp import DummyCookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp_session.redis_storage import RedisStorage
from fastapi import FastAPI, Request, Response
from litestar import Litestar, get
from litestar import Request as LitestarRequest
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.redis import RedisStore as LitestarStore
from starsessions.stores.redis import RedisStore

from samesession import Sessions
from samesession.adopt import (
    AiohttpSessionRedis,
    FlaskSessionRedis,
    LitestarRedis,
    StarsessionsRedis,
    StoredReader,
)
from samesession.web import aiohttp as our_aiohttp
from samesession.web import asgi
from samesession.web import flask as our_flask
from samesession.web.litestar import session_middleware

SECRET = "the old application's secret key"


@dataclass
class Answer:
    status: int
    body: Any
    cookies: list[str]


class Ask(Protocol):
    def __call__(self, path: str, cookie: str) -> Awaitable[Answer]: ...


@dataclass(frozen=True)
class OldSite:
    """One library.

    Attributes:
        written: lets the old site keep that data; its cookie header and its record's name.
        reader: of what it has left, by its Redis' URL.
        switched: the same site with our sessions.
        cookie: the old one's name.
        prefix: of its records' names.
    """

    written: Callable[[str, dict[str, Any]], Awaitable[tuple[str, str]]]
    reader: Callable[[str], StoredReader]
    switched: Callable[[Sessions], Any]
    cookie: str
    prefix: str


def changed(session: Any, path: str) -> Any:
    """What every switched site does: reads, sets the key that is named, or signs out."""
    match path.strip("/").split("/"):
        case ["plain"]:
            return {}
        case ["set", key]:
            session[key] = 1
        case ["logout"]:
            session.logout()
    return dict(session.items())


# -- Flask-Session


def _flask_session(**config: Any) -> Callable[..., Awaitable[tuple[str, str]]]:
    async def written(url: str, data: dict[str, Any]) -> tuple[str, str]:
        old = flask.Flask("old")
        old.secret_key = SECRET
        old.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.Redis.from_url(url), **config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own signer is deprecated
            flask_session.Session(old)

        @old.get("/")
        def index() -> str:
            flask.session.update(data)
            return str(flask.session.sid)  # type: ignore[attr-defined]

        answer = await asyncio.to_thread(old.test_client().get, "/")
        old.config["SESSION_REDIS"].close()
        return answer.headers["Set-Cookie"].partition(";")[0], f"session:{answer.text}"

    return written


@asynccontextmanager
async def _switched_flask(sessions: Sessions) -> AsyncIterator[Ask]:
    app = flask.Flask("new")
    our_flask.init_app(app, sessions)

    @app.get("/<path:path>")
    def index(path: str) -> Any:
        return {} if path == "plain" else changed(flask.session, path)

    async def ask(path: str, cookie: str) -> Answer:
        def visit() -> Answer:
            with httpx.Client(transport=httpx.WSGITransport(app)) as client:
                answer = client.get(f"http://shop{path}", headers={"Cookie": cookie})
                return _answer(answer)

        return await asyncio.to_thread(visit)

    yield ask


# -- starsessions


async def _by_starsessions(url: str, data: dict[str, Any]) -> tuple[str, str]:
    old = FastAPI()
    connection = redis.asyncio.Redis.from_url(url)

    @old.get("/")
    async def index(request: Request) -> Response:
        await starsessions.load_session(request)
        request.session.update(data)
        return Response()

    store = RedisStore(connection=connection)
    old.add_middleware(
        starsessions.SessionMiddleware, store=store, lifetime=3600, cookie_https_only=False
    )
    cookie = await _first_cookie(old)
    await connection.aclose()
    return cookie, f"starsessions.{cookie.partition('=')[2]}"


@asynccontextmanager
async def _switched_fastapi(sessions: Sessions) -> AsyncIterator[Ask]:
    app = FastAPI()
    app.add_middleware(asgi.SessionMiddleware, sessions=sessions)

    @app.get("/{path:path}")
    async def index(request: Request, path: str) -> Any:
        return {} if path == "plain" else changed(request.session, path)

    async def ask(path: str, cookie: str) -> Answer:
        return await _asked(app, path, cookie)

    yield ask


async def _asked(app: Any, path: str, cookie: str) -> Answer:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return _answer(await client.get(f"http://shop{path}", headers={"Cookie": cookie}))


async def _first_cookie(app: Any) -> str:
    (cookie,) = (await _asked(app, "/", "")).cookies
    return cookie.partition(";")[0]


# -- Litestar


def _litestar(namespace: str | None) -> Callable[..., Awaitable[tuple[str, str]]]:
    async def written(url: str, data: dict[str, Any]) -> tuple[str, str]:
        @get("/")
        async def index(request: LitestarRequest[Any, Any, Any]) -> None:
            request.set_session(data)

        connection = redis.asyncio.Redis.from_url(url)
        store = LitestarStore(connection)
        store = store.with_namespace(namespace) if namespace else store
        old = Litestar(
            [index],
            stores={"sessions": store},
            middleware=[ServerSideSessionConfig().middleware],
        )
        cookie = await _first_cookie(old)
        await connection.aclose()
        prefix = f"LITESTAR_{namespace}:" if namespace else "LITESTAR:"
        return cookie, prefix + cookie.partition("=")[2]

    return written


@asynccontextmanager
async def _switched_litestar(sessions: Sessions) -> AsyncIterator[Ask]:
    @get("/{path:path}")
    async def index(request: LitestarRequest[Any, Any, Any]) -> Any:
        return {} if request.url.path == "/plain" else changed(request.session, request.url.path)

    app = Litestar([index], middleware=[session_middleware(sessions)])

    async def ask(path: str, cookie: str) -> Answer:
        return await _asked(app, path, cookie)

    yield ask


# -- aiohttp-session


async def by_aiohttp_session(storage: Any, data: dict[str, Any]) -> str:
    """The cookie that a storage of aiohttp-session's sets."""

    async def index(request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        session.update(data)
        return web.Response()

    old = web.Application()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its keys are text, which aiohttp 3.14 warns of
        aiohttp_session.setup(old, storage)
        old.router.add_get("/", index)
        async with TestClient(TestServer(old), cookie_jar=DummyCookieJar()) as client:
            answer = await client.get("/")
    return answer.headers["Set-Cookie"].partition(";")[0]


async def _by_its_redis(url: str, data: dict[str, Any]) -> tuple[str, str]:
    connection = redis.asyncio.Redis.from_url(url)
    cookie = await by_aiohttp_session(RedisStorage(connection, max_age=3600), data)
    await connection.aclose()
    return cookie, cookie.replace("=", "_")


@asynccontextmanager
async def switched_aiohttp(sessions: Sessions) -> AsyncIterator[Ask]:
    async def index(request: web.Request) -> web.Response:
        if request.path == "/plain":
            return web.json_response({})
        session = await our_aiohttp.get_session(request)
        return web.json_response(changed(session, request.path))

    app = web.Application()
    our_aiohttp.setup(app, sessions)
    app.router.add_get("/{path:.*}", index)
    async with TestClient(TestServer(app), cookie_jar=DummyCookieJar()) as client:

        async def ask(path: str, cookie: str) -> Answer:
            answer = await client.get(path, headers={"Cookie": cookie})
            body = await answer.json() if answer.status == 200 else await answer.text()
            return Answer(answer.status, body, answer.headers.getall("Set-Cookie", []))

        yield ask


def _answer(answer: httpx.Response) -> Answer:
    is_json = answer.status_code == 200 and answer.content
    body = answer.json() if is_json else answer.text
    return Answer(answer.status_code, body, answer.headers.get_list("set-cookie"))


OLD_SITES = {
    "flask-session": OldSite(
        _flask_session(), FlaskSessionRedis, _switched_flask, "session", "session:"
    ),
    "flask-session-json": OldSite(
        _flask_session(SESSION_SERIALIZATION_FORMAT="json"),
        FlaskSessionRedis,
        _switched_flask,
        "session",
        "session:",
    ),
    "flask-session-signed": OldSite(
        _flask_session(SESSION_USE_SIGNER=True),
        lambda url: FlaskSessionRedis(url, signed_with=SECRET),
        _switched_flask,
        "session",
        "session:",
    ),
    "starsessions": OldSite(
        _by_starsessions, StarsessionsRedis, _switched_fastapi, "session", "starsessions."
    ),
    "litestar": OldSite(_litestar(None), LitestarRedis, _switched_litestar, "session", "LITESTAR:"),
    "litestar-namespace": OldSite(
        _litestar("sessions"),
        lambda url: LitestarRedis(url, namespace="LITESTAR_sessions"),
        _switched_litestar,
        "session",
        "LITESTAR_sessions:",
    ),
    "aiohttp-session": OldSite(
        _by_its_redis, AiohttpSessionRedis, switched_aiohttp, "AIOHTTP_SESSION", "AIOHTTP_SESSION_"
    ),
}


def unheard_of(old: OldSite) -> str:
    """A cookie that names nothing, of the right shape."""
    return f"{old.cookie}={secrets.token_hex(16)}"
