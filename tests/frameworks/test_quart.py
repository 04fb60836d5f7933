"""Quart's documentation about sessions, example by example, and its settings."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from quart import Quart, flash, get_flashed_messages, redirect, request, session, url_for, websocket
from quart.typing import ResponseReturnValue

from samesession import Cookie, Sessions
from samesession.errors import ConfigError
from samesession.web.quart import init_app

pytestmark = pytest.mark.anyio


@pytest.fixture
def sessions() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


@pytest.fixture
def app(sessions: Sessions) -> Quart:
    made = Quart(__name__)
    made.testing = True
    init_app(made, sessions)
    return made


async def test_the_page_about_sessions(app: Quart) -> None:
    @app.route("/")
    async def index() -> str:
        if "name" in session:
            return f"hello {session['name']}"
        return "who are you?"

    @app.route("/login", methods=["POST"])
    async def login() -> ResponseReturnValue:
        session["name"] = (await request.form)["name"]
        session["types"] = (1, b"x", datetime(2026, 1, 1, tzinfo=UTC))
        session.permanent = True
        return redirect(url_for("index"))

    client = app.test_client()
    assert await (await client.get("/")).get_data(as_text=True) == "who are you?"
    answer = await client.post("/login", form={"name": "ann"})
    assert "Max-Age=43200" in answer.headers["Set-Cookie"]
    assert await (await client.get("/")).get_data(as_text=True) == "hello ann"


async def test_flashed_messages(app: Quart) -> None:
    @app.route("/flash")
    async def flashing() -> str:
        await flash("saved")
        return "ok"

    @app.route("/")
    async def index() -> str:
        return str(get_flashed_messages())

    client = app.test_client()
    await client.get("/flash")
    assert await (await client.get("/")).get_data(as_text=True) == "['saved']"
    assert await (await client.get("/")).get_data(as_text=True) == "[]"


async def test_session_transaction_of_the_test_client(app: Quart) -> None:
    @app.route("/")
    async def index() -> str:
        return str(session.get("a"))

    client = app.test_client()
    async with client.session_transaction() as opened:
        opened["a"] = 1
    assert await (await client.get("/")).get_data(as_text=True) == "1"
    async with client.session_transaction() as opened:
        assert opened["a"] == 1


async def test_an_object_in_a_stored_row_is_shown_and_not_kept(app: Quart) -> None:
    @app.route("/<how>")
    async def index(how: str) -> str:
        if how == "make":
            session["row"] = {"price": 9}
        session["row"]["product"] = object() if how == "show" else 0
        return str(session["row"]["price"])

    client = app.test_client()
    await client.get("/make")
    assert await (await client.get("/show")).get_data(as_text=True) == "9"
    async with client.session_transaction() as opened:
        assert opened["row"] == {"price": 9, "product": 0}


async def test_a_websocket_writes_before_it_is_accepted(app: Quart) -> None:
    @app.websocket("/ws")
    async def ws() -> None:
        session["from"] = "a socket"
        await websocket.accept()
        await websocket.send(session["from"])

    @app.route("/")
    async def index() -> str:
        return str(session.get("from"))

    client = app.test_client()
    async with client.websocket("/ws") as connected:
        assert await connected.receive() == "a socket"


async def test_contradictions_and_second_lines_are_refused(app: Quart, sessions: Sessions) -> None:
    with pytest.raises(ConfigError, match="twice"):
        init_app(app, sessions)
    other = Quart("other")
    other.config["SESSION_COOKIE_SAMESITE"] = "Strict"
    with pytest.raises(ConfigError, match=r"Quart's SESSION_COOKIE_SAMESITE.*same_site='strict'"):
        init_app(other, sessions)
    late = Quart("late")
    late.testing = True
    init_app(late, sessions)
    late.config["SESSION_COOKIE_NAME"] = "shop"
    late.testing = False
    with pytest.raises(ConfigError, match=r"Cookie\(name='shop'\)"):
        await late.test_client().get("/")
