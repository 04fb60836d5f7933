"""The shop in FastAPI: without sessions, with starsessions on Redis, with samesession."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from bench.apps.payload import payload

_everybodys = payload(0)


def plain(url: str) -> FastAPI:
    """Return the shop on one dict of the process; `url` is unused."""
    return _shop()


def peer(url: str) -> FastAPI:
    """Return the shop with starsessions, as its README sets up Redis."""
    from redis.asyncio import Redis
    from starsessions import SessionAutoloadMiddleware, SessionMiddleware
    from starsessions.stores.redis import RedisStore

    app = _shop()
    store = RedisStore(connection=Redis.from_url(url))
    # The last one added runs first: the session is opened, then loaded.
    app.add_middleware(SessionAutoloadMiddleware)
    app.add_middleware(SessionMiddleware, store=store, cookie_https_only=False)
    return app


def ours(url: str) -> FastAPI:
    """Return the shop with samesession."""
    from samesession import Cookie, Sessions
    from samesession.web.asgi import SessionMiddleware

    app = _shop()
    sessions = Sessions.from_url(url, keys=["k" * 43], cookie=Cookie(secure=False))
    app.add_middleware(SessionMiddleware, sessions=sessions)
    return app


def _shop() -> FastAPI:
    app = FastAPI(openapi_url=None, default_response_class=PlainTextResponse)
    app.post("/login")(login)
    app.get("/read")(read)
    app.post("/write")(write)
    return app


def _session(request: Request) -> Any:
    return request.scope.get("session", _everybodys)


async def login(request: Request, start: int) -> str:
    _session(request).update(payload(start))
    return str(start)


async def read(request: Request) -> str:
    return str(_session(request)["count"])


async def write(request: Request) -> str:
    session = _session(request)
    session["count"] += 1
    return str(session["count"])
