"""The shop in aiohttp: without sessions, with aiohttp-session on Redis, with samesession."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aiohttp import web

from bench.apps.payload import payload

_everybodys = payload(0)


def plain(url: str) -> web.Application:
    """Return the shop on one dict of the process; `url` is unused."""

    async def everybodys(request: web.Request) -> MutableMapping[str, Any]:
        return _everybodys

    return _shop(everybodys)


def peer(url: str) -> web.Application:
    """Return the shop with aiohttp-session, as its documentation sets up Redis."""
    from aiohttp_session import get_session, setup
    from aiohttp_session.redis_storage import RedisStorage
    from redis.asyncio import Redis

    app = _shop(get_session)
    setup(app, RedisStorage(Redis.from_url(url)))
    return app


def ours(url: str) -> web.Application:
    """Return the shop with samesession."""
    from samesession import Cookie, Sessions
    from samesession.web.aiohttp import get_session, setup

    app = _shop(get_session)
    setup(app, Sessions.from_url(url, keys=["k" * 43], cookie=Cookie(secure=False)))
    return app


def _shop(
    session_of: Callable[[web.Request], Awaitable[MutableMapping[str, Any]]],
) -> web.Application:
    async def login(request: web.Request) -> web.Response:
        start = int(request.query["start"])
        (await session_of(request)).update(payload(start))
        return web.Response(text=str(start))

    async def read(request: web.Request) -> web.Response:
        return web.Response(text=str((await session_of(request))["count"]))

    async def write(request: web.Request) -> web.Response:
        session = await session_of(request)
        session["count"] += 1
        return web.Response(text=str(session["count"]))

    app = web.Application()
    app.add_routes([web.post("/login", login), web.get("/read", read), web.post("/write", write)])
    return app
