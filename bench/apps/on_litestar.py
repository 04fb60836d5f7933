"""The shop in Litestar: without sessions, with its server-side sessions on Redis, with ours."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Request, get, post
from litestar.enums import MediaType

from bench.apps.payload import payload

_everybodys = payload(0)


def plain(url: str) -> Litestar:
    """Return the shop on one dict of the process; `url` is unused."""
    return _shop()


def peer(url: str) -> Litestar:
    """Return the shop with Litestar's own server-side sessions, every setting at its default."""
    from litestar.middleware.session.server_side import ServerSideSessionConfig
    from litestar.stores.redis import RedisStore

    middleware = [ServerSideSessionConfig().middleware]
    return _shop(middleware=middleware, stores={"sessions": RedisStore.with_client(url)})


def ours(url: str) -> Litestar:
    """Return the shop with samesession."""
    from samesession import Cookie, Sessions
    from samesession.web.litestar import session_middleware

    sessions = Sessions.from_url(url, keys=["k" * 43], cookie=Cookie(secure=False))
    return _shop(
        middleware=[session_middleware(sessions)],
        on_startup=[sessions.ready],
        on_shutdown=[sessions.close],
    )


def _shop(**different: Any) -> Litestar:
    handlers = [login, read, write]
    return Litestar(handlers, openapi_config=None, logging_config=None, **different)


def _session(request: Request[Any, Any, Any]) -> Any:
    session = request.scope.get("session")
    return _everybodys if session is None else session


@post("/login", media_type=MediaType.TEXT, status_code=200)
async def login(request: Request[Any, Any, Any], start: int) -> str:
    _session(request).update(payload(start))
    return str(start)


@get("/read", media_type=MediaType.TEXT)
async def read(request: Request[Any, Any, Any]) -> str:
    return str(_session(request)["count"])


@post("/write", media_type=MediaType.TEXT, status_code=200)
async def write(request: Request[Any, Any, Any]) -> str:
    session = _session(request)
    session["count"] += 1
    return str(session["count"])
