"""The token by header, for programs and mobile clients, over ASGI, WSGI and aiohttp."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from aiohttp import DummyCookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI

from samesession import Carrier, Cookie, Sessions
from samesession.errors import ConfigError
from samesession.web import aiohttp, asgi, wsgi
from samesession.web.fastapi import SessionDep

pytestmark = pytest.mark.anyio

Ask = Callable[..., Awaitable[tuple[dict[str, str], str]]]


def changed(session: Any, path: str) -> str:
    if path == "/logout":
        session.logout()
    elif path == "/count":
        session["n"] = session.get("n", 0) + 1
    return str(session.get("n"))


async def over_asgi(sessions: Sessions) -> AsyncIterator[Ask]:
    app = FastAPI()
    app.add_middleware(asgi.SessionMiddleware, sessions=sessions)

    @app.get("/{path}")
    async def index(session: SessionDep, path: str) -> str:
        return changed(session, f"/{path}")

    async def ask(path: str, **headers: str) -> tuple[dict[str, str], str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            answer = await client.get(f"http://shop{path}", headers=named(headers))
            return dict(answer.headers), answer.text.strip('"')

    yield ask


async def over_wsgi(sessions: Sessions) -> AsyncIterator[Ask]:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = changed(environ["samesession"], environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body.encode()]

    wrapped = wsgi.SessionMiddleware(app, sessions)

    async def ask(path: str, **headers: str) -> tuple[dict[str, str], str]:
        with httpx.Client(transport=httpx.WSGITransport(wrapped)) as client:
            answer = client.get(f"http://shop{path}", headers=named(headers))
            return dict(answer.headers), answer.text

    yield ask


async def over_aiohttp(sessions: Sessions) -> AsyncIterator[Ask]:
    async def index(request: web.Request) -> web.Response:
        return web.Response(text=changed(await aiohttp.get_session(request), request.path))

    app = web.Application()
    aiohttp.setup(app, sessions)
    app.router.add_get("/{path}", index)
    async with TestClient(TestServer(app), cookie_jar=DummyCookieJar()) as client:

        async def ask(path: str, **headers: str) -> tuple[dict[str, str], str]:
            answer = await client.get(path, headers=named(headers))
            return {name.lower(): v for name, v in answer.headers.items()}, await answer.text()

        yield ask


def named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture(params=[over_asgi, over_wsgi, over_aiohttp])
def over(request: pytest.FixtureRequest) -> Any:
    return request.param


def sessions_by(carrier: Carrier) -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False), carrier=carrier)


async def test_by_header_only(over: Any) -> None:
    async for ask in over(sessions_by(Carrier.HEADER)):
        said, body = await ask("/count")
        assert body == "1"
        token = said["session-token"]
        assert "set-cookie" not in said
        assert (said["vary"], said["cache-control"]) == ("Session-Token", "no-store")
        said, body = await ask("/count", Session_Token=token)
        assert body == "2"
        assert said["session-token"] != token, "it carries the newer version"
        said, body = await ask("/read", Session_Token=token)
        assert body == "2"
        assert "session-token" not in said
        said, _ = await ask("/read", Cookie=f"session={token}")
        assert _ == "None", "cookies are not asked"
        said, _ = await ask("/logout", Session_Token=token)
        assert said["session-token"] == ""
        assert (await ask("/read", Session_Token=token))[1] == "None"


async def test_by_header_for_whoever_sends_it(over: Any) -> None:
    async for ask in over(sessions_by(Carrier.BOTH)):
        said, _ = await ask("/count")
        assert "session-token" not in said
        assert said["vary"] == "Cookie, Session-Token"
        cookie = said["set-cookie"].partition(";")[0]
        said, _ = await ask("/count", Session_Token="")
        assert "set-cookie" not in said
        token = said["session-token"]
        assert (await ask("/count", Cookie=cookie, Session_Token=token))[1] == "2"
        assert (await ask("/count", Cookie=cookie))[1] == "2"


async def test_by_cookie_a_header_means_nothing(over: Any) -> None:
    async for ask in over(sessions_by(Carrier.COOKIE)):
        said, _ = await ask("/count", Session_Token="")
        token = said["set-cookie"].partition(";")[0].partition("=")[2]
        assert (await ask("/read", Session_Token=token))[1] == "None"
        assert said["vary"] == "Cookie"


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="'cookie', 'header', 'both'"):
        Sessions.from_url("memory://", carrier="url")  # type: ignore[arg-type]
    env = {"SAMESESSION_URL": "memory://", "SAMESESSION_CARRIER": "header"}
    assert Sessions.from_env(env).carrier is Carrier.HEADER
