"""What is wrong at the start is said by one `ConfigError` that names the line to change."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from samesession import Cookie, Sessions
from samesession.errors import ConfigError
from samesession.web import asgi, wsgi
from samesession.web.fastapi import SessionDep


@pytest.fixture
def sessions() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


@pytest.mark.anyio
async def test_the_middleware_is_missing() -> None:
    app = FastAPI()

    @app.get("/")
    async def index(session: SessionDep) -> None: ...

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        with pytest.raises(ConfigError, match="add_middleware"):
            await client.get("http://shop/")


def test_the_middleware_is_installed_twice_or_for_two_sessions(sessions: Sessions) -> None:
    app = Starlette()
    app.add_middleware(asgi.SessionMiddleware, sessions=sessions)
    app.add_middleware(asgi.SessionMiddleware, sessions=Sessions.from_url("memory://"))
    with pytest.raises(ConfigError, match="twice"):
        app.build_middleware_stack()
    inner = wsgi.SessionMiddleware(lambda _environ, _start: [], sessions)
    with pytest.raises(ConfigError, match="twice"):
        wsgi.SessionMiddleware(inner, sessions)


def test_an_asgi_application_under_the_wsgi_middleware(sessions: Sessions) -> None:
    async def bare(scope: Any, receive: Any, send: Any) -> None: ...

    for app in (FastAPI(), Starlette(), bare):
        with pytest.raises(ConfigError, match=r"samesession\.web\.asgi"):
            wsgi.SessionMiddleware(app, sessions)  # type: ignore[arg-type]


def test_a_wsgi_application_under_the_asgi_middleware(sessions: Sessions) -> None:
    def bare(environ: Any, start_response: Any) -> list[bytes]:
        return []

    with pytest.raises(ConfigError, match=r"samesession\.web\.wsgi"):
        asgi.SessionMiddleware(bare, sessions)  # type: ignore[arg-type]


def test_a_url_where_sessions_belong() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(ConfigError, match=r"Sessions\.from_url"):
        asgi.SessionMiddleware(app, "redis://127.0.0.1")  # type: ignore[arg-type]


def test_the_secret_is_missing_and_the_principal_key_is_none() -> None:
    with pytest.raises(ConfigError, match="needs keys"):
        Sessions.from_url("redis://127.0.0.1:1")
    with pytest.raises(ConfigError, match="principal_key=''"):
        Sessions.from_url("memory://", principal_key="")
