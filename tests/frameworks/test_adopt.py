"""Old cookies move in: Starlette's and Flask's signed ones, over ASGI and WSGI."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import flask
import httpx
import pytest
from fastapi import FastAPI, Request
from markupsafe import Markup
from starlette.datastructures import Secret
from starlette.middleware.sessions import SessionMiddleware as StarlettesOwn

from samesession import Cookie, Sessions
from samesession.adopt import (
    AiohttpFernetCookie,
    AiohttpNaClCookie,
    FlaskCookie,
    FlaskSessionRedis,
    StarletteCookie,
    StarsessionsRedis,
)
from samesession.errors import ConfigError
from samesession.web.asgi import SessionMiddleware
from samesession.web.fastapi import SessionDep
from samesession.web.flask import init_app

pytestmark = pytest.mark.anyio
SECRET = "the old application's secret key"
URL = "http://shop/"


def sessions_with(*readers: Any, name: str = "session") -> Sessions:
    cookie = Cookie(secure=False, name=name)
    return Sessions.from_url("memory://", cookie=cookie, adopt=readers, principal_key="user")


async def asked(app: Any, cookie: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return await client.get(URL, headers={"Cookie": cookie.encode("latin-1")})


async def starlettes_cookie(**data: Any) -> str:
    old = FastAPI()
    old.add_middleware(StarlettesOwn, secret_key=SECRET)

    @old.get("/")
    async def index(request: Request) -> None:
        request.session.update(data)

    return (await asked(old, "")).headers["set-cookie"].partition(";")[0]


def shop(sessions: Sessions) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, sessions=sessions)

    @app.get("/")
    async def index(session: SessionDep) -> dict[str, Any]:
        return dict(session)

    return app


async def test_starlettes_cookie_moves_in_and_is_expired() -> None:
    sessions = sessions_with(StarletteCookie(SECRET), name="ours")
    app = shop(sessions)
    old = await starlettes_cookie(user="ann", basket=["tea"])
    answer = await asked(app, old)
    assert answer.json() == {"user": "ann", "basket": ["tea"]}
    ours, gone = sorted(answer.headers.get_list("set-cookie"), key=lambda said: said[:4] != "ours")
    assert gone.startswith("session=; Path=/")
    assert "Max-Age=0" in gone
    assert sessions.counts["adopted"] == 1
    assert len(await sessions.held_by("ann")) == 1, "and she is signed in, by principal_key"
    ours = ours.partition(";")[0]
    again = await asked(app, f"{ours}; {old}")
    assert again.json() == answer.json()
    assert sessions.counts["adopted"] == 1, "ours counts"
    await sessions.end_all("ann")
    late = await asked(app, f"{ours}; {old}")
    assert late.json() == {}, "signed out is signed out"


async def test_a_cookie_of_the_same_name_is_replaced() -> None:
    sessions = sessions_with(StarletteCookie(SECRET))
    answer = await asked(shop(sessions), await starlettes_cookie(basket=["tea"]))
    assert answer.json() == {"basket": ["tea"]}
    (cookie,) = answer.headers.get_list("set-cookie")
    assert "Max-Age" not in cookie


async def test_a_site_whose_settings_stand_in_the_environment_takes_over_too() -> None:
    env = {"SAMESESSION_URL": "memory://", "SAMESESSION_SECURE": "0"}
    sessions = Sessions.from_env(env, adopt=[StarletteCookie(SECRET)])
    answer = await asked(shop(sessions), await starlettes_cookie(basket=["tea"]))
    assert answer.json() == {"basket": ["tea"]}
    with pytest.raises(ConfigError, match="no list of readers"):
        Sessions.from_env(env, adopt=[StarletteCookie])  # type: ignore[list-item]


async def test_the_key_may_be_what_starlettes_page_about_settings_makes_of_it() -> None:
    sessions = sessions_with(StarletteCookie(Secret(SECRET)))
    answer = await asked(shop(sessions), await starlettes_cookie(basket=["tea"]))
    assert answer.json() == {"basket": ["tea"]}


@pytest.mark.parametrize(
    ("reader", "says"),
    [
        (lambda: StarletteCookie(SECRET, max_age=1209600), r"timedelta\(seconds=1209600\)"),
        (lambda: AiohttpNaClCookie(b"x" * 32, max_age=None), r"write max_age=timedelta\(days=14\)"),
        (lambda: StarsessionsRedis("redis://h", max_age=3600), r"timedelta\(seconds=3600\)"),
        (lambda: FlaskCookie(None), r"FlaskCookie\(None\).*the old site's"),
        (lambda: StarletteCookie(""), "has no key"),
        (lambda: AiohttpFernetCookie(b"short"), "AiohttpFernetCookie.*32 url-safe"),
        (lambda: AiohttpFernetCookie(7), "AiohttpFernetCookie"),
        (lambda: AiohttpNaClCookie(b"short"), "AiohttpNaClCookie.*32 bytes"),
        (lambda: FlaskSessionRedis("redis://h", signed_with=True), "give it the old SECRET_KEY"),
    ],
)
def test_a_wrong_word_is_said_at_the_start(reader: Any, says: str) -> None:
    """In the words of the old libraries, who count in seconds."""
    with pytest.raises(ConfigError, match=says):
        reader()


@pytest.mark.parametrize(
    "cookie",
    ["session=forged", "session=" + "x" * 20_000, "session=e30=.aaaa.bbbb", "session=\u00e4"],
)
async def test_what_nobody_signed_is_a_stranger(cookie: str) -> None:
    sessions = sessions_with(StarletteCookie(SECRET), FlaskCookie(SECRET))
    answer = await asked(shop(sessions), cookie)
    assert (answer.status_code, answer.json()) == (200, {})
    assert "set-cookie" not in answer.headers
    assert sessions.counts["adopted"] == 0


async def test_a_cookie_of_another_key_or_too_old_is_a_stranger() -> None:
    old = await starlettes_cookie(basket=["tea"])
    for reader in (
        StarletteCookie("another key"),
        StarletteCookie(SECRET, max_age=timedelta(seconds=-1)),
    ):
        assert (await asked(shop(sessions_with(reader)), old)).json() == {}


def test_flasks_cookie_moves_in_with_its_types() -> None:
    data = {
        "tuple": (1, (2, b"\x00")),
        "markup": Markup("<b>"),
        "uuid": UUID(int=7),
        "at": datetime(2026, 11, 22, 12, tzinfo=UTC),
        "tagged": {" t": [1]},
        "long": "x" * 2000,  # compressed
    }
    found: dict[str, Any] = {}

    def serving(adopt: bool) -> flask.Flask:
        app = flask.Flask("shop")
        app.secret_key = SECRET
        if adopt:
            init_app(app, sessions_with(FlaskCookie(SECRET)))

        @app.get("/put")
        def put() -> str:
            flask.session.update(data)
            return ""

        @app.get("/")
        def index() -> str:
            found.update(flask.session)
            return ""

        return app

    old = serving(adopt=False).test_client()
    old.get("/put")
    cookie = old.get_cookie("session")
    assert cookie is not None
    client = serving(adopt=True).test_client()
    client.set_cookie("session", cookie.value)
    client.get("/")
    assert found == data
    assert [type(found[key]) for key in data] == [type(value) for value in data.values()]
    ours = client.get_cookie("session")
    assert ours is not None
    assert ours.value != cookie.value


class Cabinet:
    """An application's own reader, and where its records stand."""

    cookie, path, domain, url, max_age = "old", "/", None, "the cabinet", timedelta(days=1)

    def __init__(self) -> None:
        self.closed = 0

    def open_shelf(self, _opener: str) -> Cabinet:
        return self

    def name(self, value: str) -> str:
        return value

    async def get(self, _name: str) -> bytes:
        return b"tea"

    def contents(self, raw: bytes) -> dict[str, Any]:
        return {"basket": raw.decode()}

    async def close(self) -> None:
        self.closed += 1


def test_threads_let_go_of_the_old_store_too() -> None:
    cabinet = Cabinet()
    app = flask.Flask("shop")
    sessions = sessions_with(cabinet)
    init_app(app, sessions)
    app.add_url_rule("/", view_func=lambda: dict(flask.session))
    client = app.test_client()
    client.set_cookie("old", "ann's")
    assert client.get("/").json == {"basket": "tea"}
    sessions.blocking.close()
    assert cabinet.closed == 1
