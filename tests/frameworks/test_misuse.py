"""What is wrong at the start is said by one `ConfigError` that names the line: a table of both.

Where nothing can be known at the start (the layer is missing, or an application inside another has
one, too), the first request says it.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import aiohttp_session
import falcon
import flask
import flask_session
import httpx
import pytest
import quart
import redis
import starsessions
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from fastapi import FastAPI, Request
from litestar import Litestar, get
from litestar import Request as LitestarRequest
from litestar.middleware import DefineMiddleware
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesOwn
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from samesession import Cookie, Sessions
from samesession.errors import ConfigError
from samesession.web import aiohttp as our_aiohttp
from samesession.web import asgi, wsgi
from samesession.web import flask as our_flask
from samesession.web import litestar as our_litestar
from samesession.web import quart as our_quart
from samesession.web.fastapi import SessionDep
from samesession.web.litestar import SessionConfig, session_middleware
from samesession.web.litestar import current_session as current_in_litestar

Mistake = Callable[[Sessions], object]


@pytest.fixture
def sessions() -> Sessions:
    return made()


def made() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


def asked(app: Any) -> None:
    async def visit() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            await client.get("http://shop/")

    asyncio.run(visit())


def flask_app() -> flask.Flask:
    app = flask.Flask("shop")
    app.testing = True
    app.add_url_rule("/", view_func=lambda: dict(flask.session))
    return app


# -- the layer is missing --------------------------------------------------------------------------


def fastapi_without(_sessions: Sessions) -> None:
    app = FastAPI()

    @app.get("/")
    async def index(session: SessionDep) -> None: ...

    asked(app)


def starlette_without(_sessions: Sessions) -> None:
    asgi.current_session(HTTPConnection({"type": "http", "headers": []}))


def litestar_without(_sessions: Sessions) -> None:
    @get("/", sync_to_thread=False)
    def index(request: LitestarRequest[Any, Any, Any]) -> None:
        current_in_litestar(request)

    with LitestarClient(Litestar([index], debug=True)) as client:
        raise ConfigError(client.get("/").text)  # Litestar answers 500 with the words


def flask_without(_sessions: Sessions) -> None:
    with flask.Flask("shop").test_request_context():
        our_flask.current_session()


def quart_without(_sessions: Sessions) -> None:
    async def visit() -> None:
        async with quart.Quart("shop").test_request_context("/"):
            our_quart.current_session()

    asyncio.run(visit())


def wsgi_without(_sessions: Sessions) -> None:
    wsgi.current_session({})


def aiohttp_without(_sessions: Sessions) -> None:
    request = make_mocked_request("GET", "/", app=web.Application())
    asyncio.run(our_aiohttp.get_session(request))


# -- it is there twice, for two `Sessions`, or beside another library's ----------------------------


def starlette_twice(sessions: Sessions) -> None:
    app = Starlette()
    app.add_middleware(asgi.SessionMiddleware, sessions=sessions)
    app.add_middleware(asgi.SessionMiddleware, sessions=made())
    app.build_middleware_stack()


def starlette_mounted(sessions: Sessions) -> None:
    inner = Starlette()
    inner.add_middleware(asgi.SessionMiddleware, sessions=made())
    outer = Starlette(routes=[Mount("/", inner)])
    outer.add_middleware(asgi.SessionMiddleware, sessions=sessions)
    asked(outer)


def starlettes_own_inside(sessions: Sessions) -> None:
    app = Starlette()
    app.add_middleware(StarlettesOwn, secret_key="the old one")
    app.add_middleware(asgi.SessionMiddleware, sessions=sessions)
    app.build_middleware_stack()


def starlettes_own_around(sessions: Sessions) -> None:
    app = FastAPI()
    app.add_middleware(asgi.SessionMiddleware, sessions=sessions)
    app.add_middleware(StarlettesOwn, secret_key="the old one")

    @app.get("/")
    async def index(request: Request) -> None: ...

    asked(app)


def starsessions_beside(sessions: Sessions) -> None:
    app = Starlette()
    app.add_middleware(starsessions.SessionMiddleware, store=starsessions.InMemoryStore())
    app.add_middleware(asgi.SessionMiddleware, sessions=sessions)
    app.build_middleware_stack()


@get("/", sync_to_thread=False)
def shown() -> None: ...


def litestar_twice(sessions: Sessions) -> None:
    Litestar([shown], middleware=[session_middleware(sessions), session_middleware(made())])


def litestars_own_inside(sessions: Sessions) -> None:
    own = ServerSideSessionConfig().middleware
    Litestar([shown], middleware=[session_middleware(sessions), own])


def litestars_own_around(sessions: Sessions) -> None:
    own = ServerSideSessionConfig().middleware
    app = Litestar([shown], middleware=[own, session_middleware(sessions)], debug=True)
    with LitestarClient(app, raise_server_exceptions=True) as client:
        raise ConfigError(client.get("/").text)  # Litestar answers 500 with the words


def flask_twice(sessions: Sessions) -> None:
    app = flask_app()
    our_flask.init_app(app, sessions)
    our_flask.init_app(app, made())


def flask_wrapped(sessions: Sessions) -> None:
    app = flask_app()
    our_flask.init_app(app, sessions)
    wsgi.SessionMiddleware(app.wsgi_app, sessions)


def flask_mounted(sessions: Sessions) -> None:
    app = flask_app()
    our_flask.init_app(app, sessions)
    outer = wsgi.SessionMiddleware(DispatcherMiddleware(bare_wsgi, {"/in": app}), made())
    with httpx.Client(transport=httpx.WSGITransport(outer)) as client:
        client.get("http://shop/in/")


def flask_session_after(sessions: Sessions) -> None:
    app = flask_app()
    our_flask.init_app(app, sessions)
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.Redis())  # never asked
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations
        flask_session.Session(app)
    app.test_client().get("/")


def quart_twice(sessions: Sessions) -> None:
    app = quart.Quart("shop")
    our_quart.init_app(app, sessions)
    our_quart.init_app(app, made())


def quart_replaced(sessions: Sessions) -> None:
    app = quart.Quart("shop")
    our_quart.init_app(app, sessions)
    app.session_interface = quart.sessions.SecureCookieSessionInterface()

    starting(app)


def aiohttp_twice(sessions: Sessions) -> None:
    app = web.Application()
    our_aiohttp.setup(app, sessions)
    our_aiohttp.setup(app, made())


def aiohttp_session_beside(sessions: Sessions) -> None:
    app = web.Application()
    our_aiohttp.setup(app, sessions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its keys are text, which aiohttp 3.14 warns of
        aiohttp_session.setup(app, aiohttp_session.SimpleCookieStorage())
    asyncio.run(web.AppRunner(app).setup())


def wsgi_twice(sessions: Sessions) -> None:
    inner = wsgi.SessionMiddleware(lambda _environ, _start: [], sessions)
    wsgi.SessionMiddleware(inner, sessions)


# -- the wrong kind of application, store or argument ----------------------------------------------


async def bare_asgi(scope: Any, receive: Any, send: Any) -> None: ...


def bare_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


def starting(app: Any) -> None:
    """Start and stop as a server does, and fail as it is told to."""
    told: list[Any] = []
    asks = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, str]:
        return {"type": next(asks)}

    async def send(message: Any) -> None:
        told.append(message)

    with suppress(ConfigError):
        asyncio.run(app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))
    if told[0]["type"] == "lifespan.startup.failed":
        raise ConfigError(told[0]["message"])


def admin_mounted(sessions: Sessions, *layers: Middleware) -> FastAPI:
    """As sqladmin does it."""
    app = FastAPI()
    app.add_middleware(asgi.SessionMiddleware, sessions=sessions)
    app.mount("/admin", Starlette(routes=[Mount("/", Starlette(middleware=layers))]))
    return app


def starlettes_own_mounted(sessions: Sessions) -> None:
    starting(admin_mounted(sessions, Middleware(StarlettesOwn, secret_key="its own")))


def ours_mounted(sessions: Sessions) -> None:
    starting(admin_mounted(sessions, Middleware(asgi.SessionMiddleware, sessions=made())))


def starlette_given(**given: Any) -> Mistake:
    def mistake(sessions: Sessions) -> None:
        app = FastAPI()
        app.add_middleware(asgi.SessionMiddleware, **given)
        app.build_middleware_stack()

    return mistake


def litestar_given(layer: Any) -> Mistake:
    return lambda _sessions: Litestar([shown], middleware=[layer])


def wrong(wrap: Callable[..., object], app: Any) -> Mistake:
    return lambda sessions: wrap(app, sessions)


TABLE: dict[str, tuple[Mistake, str]] = {
    "fastapi without": (fastapi_without, r"add_middleware\(SessionMiddleware"),
    "starlette without": (starlette_without, r"add_middleware\(SessionMiddleware"),
    "litestar without": (litestar_without, r"middleware=\[session_middleware\(sessions\)\]"),
    "flask without": (flask_without, r"init_app\(app, sessions\)"),
    "quart without": (quart_without, r"init_app\(app, sessions\)"),
    "wsgi without": (wsgi_without, r"SessionMiddleware\(app, sessions\)"),
    "aiohttp without": (aiohttp_without, r"setup\(app, sessions\)"),
    "starlette twice": (starlette_twice, "twice; keep one of the two lines"),
    "starlette mounted": (starlette_mounted, "twice: for an application and for one inside it"),
    "starlette's own inside": (starlettes_own_inside, "starlette.*SessionMiddleware is installed"),
    "starlette's own around": (
        starlettes_own_around,
        "another session middleware.*remove its line",
    ),
    "starsessions beside": (starsessions_beside, "starsessions.*remove its line"),
    "litestar twice": (litestar_twice, "twice"),
    "litestar's own inside": (litestars_own_inside, "litestar.*remove its line"),
    "litestar's own around": (litestars_own_around, "another session middleware"),
    "flask twice": (flask_twice, r"init_app\(app, sessions\) was called twice"),
    "flask wrapped": (flask_wrapped, "twice"),
    "flask mounted": (flask_mounted, "twice: for an application and for one inside it"),
    "flask-session after": (flask_session_after, "flask_session.*remove its line"),
    "quart twice": (quart_twice, r"init_app\(app, sessions\) was called twice"),
    "quart replaced": (quart_replaced, "SecureCookieSessionInterface.*remove its line"),
    "aiohttp twice": (aiohttp_twice, r"setup\(app, sessions\) was called twice"),
    "aiohttp-session beside": (aiohttp_session_beside, "aiohttp_session.*remove its line"),
    "wsgi twice": (wsgi_twice, "twice"),
    "fastapi under wsgi": (wrong(wsgi.SessionMiddleware, FastAPI()), r"samesession\.web\.asgi"),
    "starlette under wsgi": (wrong(wsgi.SessionMiddleware, Starlette()), r"samesession\.web\.asgi"),
    "a coroutine under wsgi": (wrong(wsgi.SessionMiddleware, bare_asgi), r"samesession\.web\.asgi"),
    "a function under asgi": (wrong(asgi.SessionMiddleware, bare_wsgi), r"samesession\.web\.wsgi"),
    "flask under asgi": (wrong(asgi.SessionMiddleware, flask_app()), r"samesession\.web\.flask"),
    "flask in a plain layer": (
        wrong(wsgi.SessionMiddleware, flask_app()),
        r"does not reach Flask's own.*init_app\(app, sessions\).*samesession\.web\.flask",
    ),
    "flask's wsgi_app in a plain layer": (
        wrong(wsgi.SessionMiddleware, ProxyFix(flask_app().wsgi_app)),
        r"samesession\.web\.flask",
    ),
    "quart in a plain layer": (
        wrong(asgi.SessionMiddleware, quart.Quart("shop")),
        r"samesession\.web\.quart",
    ),
    "litestar in a plain layer": (
        wrong(asgi.SessionMiddleware, Litestar([shown])),
        r"middleware=\[session_middleware\(sessions\)\]",
    ),
    "django in a plain layer": (
        wrong(wsgi.SessionMiddleware, WSGIHandler.__new__(WSGIHandler)),
        r'SESSION_ENGINE = "samesession\.web\.django"',
    ),
    "django in a plain ASGI layer": (
        wrong(asgi.SessionMiddleware, ASGIHandler.__new__(ASGIHandler)),
        r'SESSION_ENGINE = "samesession\.web\.django"',
    ),
    "a plain layer among litestar's": (
        lambda sessions: Litestar(
            [shown], middleware=[DefineMiddleware(asgi.SessionMiddleware, sessions=sessions)]
        ),
        r"middleware=\[session_middleware\(sessions\)\]",
    ),
    "quart's for flask": (wrong(our_quart.init_app, flask_app()), r"samesession\.web\.flask"),
    "flask's for quart": (
        wrong(our_flask.init_app, quart.Quart("shop")),
        r"init_app\(app, sessions\) with init_app from samesession\.web\.quart",
    ),
    "aiohttp's for flask": (wrong(our_aiohttp.setup, flask_app()), r"samesession\.web\.flask"),
    "starlette's own mounted": (
        starlettes_own_mounted,
        "mounted at '/admin' has a starlette.*sqladmin.*another session_cookie",
    ),
    "starlette mounted, at the start": (
        ours_mounted,
        "twice: for an application and for one inside it",
    ),
    "starlette without sessions": (
        starlette_given(),
        r"missing.*'sessions'; write app.add_middleware\(SessionMiddleware, sessions=sessions\)",
    ),
    "starlette with the old line's words": (
        starlette_given(secret_key="the old one", https_only=True),
        r"write app.add_middleware\(SessionMiddleware, sessions=sessions\)",
    ),
    "litestar's layer uncalled": (
        litestar_given(session_middleware),
        r"write middleware=\[session_middleware\(sessions\)\]",
    ),
    "litestar's class itself": (
        litestar_given(our_litestar.SessionMiddleware),
        r"write middleware=\[session_middleware\(sessions\)\]",
    ),
    "falcon under asgi": (wrong(asgi.SessionMiddleware, falcon.App()), r"samesession\.web\.wsgi"),
}
for _name, _wrap in {
    "asgi": lambda given: asgi.SessionMiddleware(bare_asgi, given),
    "wsgi": lambda given: wsgi.SessionMiddleware(bare_wsgi, given),
    "flask": lambda given: our_flask.init_app(flask_app(), given),
    "quart": lambda given: our_quart.init_app(quart.Quart("shop"), given),
    "aiohttp": lambda given: our_aiohttp.setup(web.Application(), given),
    "litestar": SessionConfig,
}.items():
    TABLE[f"a URL for {_name}"] = (lambda _, w=_wrap: w("redis://x"), r"Sessions\.from_url")  # type: ignore[misc]


for _name, _call, _line in (
    ("wsgi", wsgi.SessionMiddleware, "SessionMiddleware"),
    ("flask", our_flask.init_app, "init_app"),
    ("quart", our_quart.init_app, "init_app"),
    ("aiohttp", our_aiohttp.setup, "setup"),
):
    TABLE[f"{_name} without sessions"] = (
        lambda _, call=_call: call(object()),  # type: ignore[misc]
        rf"missing.*'sessions'; write {_line}\(app, sessions\)",
    )


@pytest.mark.parametrize("name", TABLE)
def test_a_mistake_is_one_error_that_names_the_line(name: str, sessions: Sessions) -> None:
    mistake, says = TABLE[name]
    with pytest.raises(ConfigError, match=f"(?s){says}"):
        mistake(sessions)


def test_a_mounted_application_may_have_sessions_of_its_own(sessions: Sessions) -> None:
    own = Middleware(StarlettesOwn, secret_key="its own", session_cookie="admin")
    starting(admin_mounted(sessions, own, Middleware(partial(StarlettesOwn, secret_key="its own"))))
