"""Flask's documentation about sessions, example by example, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import flask
import pytest
from flask import Flask, flash, get_flashed_messages, render_template_string, session
from markupsafe import Markup

from samesession import Cookie, Sessions
from samesession.errors import ConfigError, ValueNotStorableError
from samesession.web.flask import init_app
from samesession.web.wsgi import SessionMiddleware


@pytest.fixture
def sessions() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


@pytest.fixture
def app(sessions: Sessions) -> Flask:
    made = Flask(__name__)
    made.config["TESTING"] = True
    init_app(made, sessions)
    return made


def test_the_quickstart(app: Flask) -> None:
    @app.route("/")
    def index() -> str:
        if "username" in session:
            return f"Logged in as {session['username']}"
        return "You are not logged in"

    @app.route("/login", methods=["POST"])
    def login() -> Any:
        session["username"] = flask.request.form["username"]
        return flask.redirect(flask.url_for("index"))

    @app.route("/logout")
    def logout() -> Any:
        session.pop("username", None)
        return flask.redirect(flask.url_for("index"))

    client = app.test_client()
    assert client.get("/").text == "You are not logged in"
    client.post("/login", data={"username": "ann"})
    assert client.get("/").text == "Logged in as ann"
    client.get("/logout")
    assert client.get_cookie("session") is None, "an emptied session is gone, as Flask does it"
    assert client.get("/").text == "You are not logged in"


VALUES = {
    "tuple": (1, (2, 3)),
    "bytes": b"\x00\xff",
    "markup": Markup("<b>safe</b>"),
    "uuid": UUID("12345678123456781234567812345678"),
    "datetime": datetime(2026, 11, 22, 20, 0, tzinfo=UTC),
    "nested": {"list": [(1, b"x")]},
}


def test_the_types_of_flasks_serializer_come_back(app: Flask) -> None:
    @app.get("/put")
    def put() -> str:
        session.update(VALUES)
        return "ok"

    found: dict[str, Any] = {}

    @app.get("/get")
    def get() -> str:
        found.update(session)
        return "ok"

    client = app.test_client()
    client.get("/put")
    client.get("/get")
    assert found == VALUES
    assert [type(found[key]) for key in VALUES] == [type(value) for value in VALUES.values()]


@dataclass
class Item:
    name: str
    sizes: tuple[int, ...] = (1, 2)


def test_what_flasks_serializer_makes_plain_comes_back_plain(app: Flask) -> None:
    @app.get("/put")
    def put() -> str:
        session["item"] = Item("tea")
        session.update(items=[Item("milk")])
        session.setdefault("later", []).append(Item("bread"))
        return "ok"

    @app.get("/get")
    def get() -> Any:
        return dict(session)

    @app.get("/refused")
    def refused() -> str:
        session["item"] = object()
        return "ok"

    client = app.test_client()
    client.get("/put")
    found = client.get("/get").json
    tea, milk, bread = ({"name": name, "sizes": [1, 2]} for name in ("tea", "milk", "bread"))
    assert found == {"item": tea, "items": [milk], "later": [bread]}
    with pytest.raises(ValueNotStorableError, match=r"'item'.*object"):
        client.get("/refused")
    assert client.get("/get").json == found


def test_flashed_messages(app: Flask) -> None:
    @app.get("/flash")
    def flashing() -> str:
        flash("saved")
        flash("really", "error")
        return "ok"

    page = (
        "{% for c, m in get_flashed_messages(with_categories=true) %}{{ c }}:{{ m }} {% endfor %}"
    )

    @app.get("/")
    def index() -> str:
        return render_template_string(page)

    @app.get("/none")
    def none() -> str:
        return str(get_flashed_messages())

    client = app.test_client()
    client.get("/flash")
    assert client.get("/").text == "message:saved error:really "
    assert client.get("/none").text == "[]"


def test_session_transaction_of_the_test_client(app: Flask) -> None:
    @app.get("/")
    def index() -> str:
        return str(session.get("user_id"))

    with app.test_client() as client:
        with client.session_transaction() as opened:
            opened["user_id"] = 1
        assert client.get("/").text == "1"
        assert session["user_id"] == 1  # still there inside the block, as Flask's page says
        with client.session_transaction() as opened:
            assert opened.pop("user_id") == 1
        assert client.get("/").text == "None"


def test_the_attributes_of_the_session(app: Flask) -> None:
    seen: list[Any] = []

    @app.get("/")
    def index() -> str:
        seen.append((session.new, session.modified, session.permanent))
        session["n"] = [1]
        session.modified = True
        session.permanent = True
        seen.append((session.modified, session.permanent, session.accessed))
        return "ok"

    client = app.test_client()
    answer = client.get("/")
    assert seen == [(True, False, False), (True, True, True)]
    assert "Max-Age=43200" in answer.headers["Set-Cookie"], "permanent: it outlives the browser"
    client.get("/")
    assert seen[2] == (False, False, True)


def test_a_template_that_shows_no_session_uses_none(app: Flask) -> None:
    app.add_url_rule("/", view_func=lambda: render_template_string("hello"))
    assert "Vary" not in app.test_client().get("/").headers


def test_a_request_without_the_middleware_still_has_a_session(app: Flask) -> None:
    with app.test_request_context("/"):
        session["a"] = 1
        assert session["a"] == 1


# -- Flask-Login -----------------------------------------------------------------------------------


def cookie_of(client: Any) -> str:
    cookie = client.get_cookie("session")
    return cookie.value if cookie else ""


def test_the_tutorials_login() -> None:
    """The blog of Flask's tutorial: it clears the session and sets ``user_id`` by itself."""
    cookie = Cookie(secure=False)
    sessions = Sessions.from_url("memory://", cookie=cookie, principal_key="user_id")
    app = Flask(__name__)
    app.testing = True
    init_app(app, sessions)

    @app.before_request
    def load_logged_in_user() -> None:
        flask.g.user = session.get("user_id")

    @app.post("/auth/login")
    def login() -> Any:
        session.clear()
        session["user_id"] = int(flask.request.form["id"])
        return flask.redirect("/")

    @app.get("/auth/logout")
    def logout() -> Any:
        session.clear()
        return flask.redirect("/")

    @app.get("/")
    def index() -> str:
        return str(flask.g.user)

    with app.test_client() as client:
        with client.session_transaction() as before:
            before["basket"] = ["tea"]
        anonymous = cookie_of(client)
        client.post("/auth/login", data={"id": "7"})
        assert session["user_id"] == 7
        assert client.get("/").text == "7"
        assert flask.g.user == 7
        assert cookie_of(client) != anonymous
        assert len(sessions.blocking.held_by("7")) == 1
        thief = app.test_client()
        thief.set_cookie("session", cookie_of(client))
        client.get("/auth/logout")
        assert "user_id" not in session
        assert (client.get("/").text, thief.get("/").text) == ("None", "None")
        assert sessions.blocking.held_by("7") == []


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "write"),
    [
        ("SESSION_COOKIE_NAME", "shop", "Cookie(name='shop')"),
        ("SESSION_COOKIE_SECURE", True, "Cookie(secure=True)"),
        ("SESSION_COOKIE_HTTPONLY", False, "Cookie(http_only=False)"),
        ("SESSION_COOKIE_SAMESITE", "Strict", "Cookie(same_site='strict')"),
        ("SESSION_COOKIE_DOMAIN", "example.org", "Cookie(domain='example.org')"),
        ("SESSION_COOKIE_PATH", "/shop", "Cookie(path='/shop')"),
        ("PERMANENT_SESSION_LIFETIME", timedelta(days=7), "idle=datetime.timedelta(days=7)"),
    ],
)
def test_a_contradictory_setting_is_refused_at_the_start(
    sessions: Sessions, setting: str, value: object, write: str
) -> None:
    app = Flask(__name__)
    app.config[setting] = value
    with pytest.raises(ConfigError) as said:
        init_app(app, sessions)
    assert setting in str(said.value)
    assert write in str(said.value)


def test_a_setting_that_comes_after_init_app_is_refused_at_the_first_request(app: Flask) -> None:
    app.config["SESSION_COOKIE_NAME"] = "shop"
    with pytest.raises(ConfigError, match=r"Cookie\(name='shop'\)"):
        app.test_client().get("/")


def test_settings_that_agree_are_welcome() -> None:
    app = Flask(__name__)
    app.config.update(
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="Strict",
        PERMANENT_SESSION_LIFETIME=3600,  # Flask takes seconds too
    )
    cookie = Cookie(same_site="strict")
    init_app(app, Sessions.from_url("memory://", idle=timedelta(hours=1), cookie=cookie))
    interface = app.session_interface
    assert interface.get_cookie_name(app) == "__Host-session"
    assert interface.get_cookie_samesite(app) == "Strict"
    assert (interface.get_cookie_secure(app), interface.get_cookie_httponly(app)) == (True, True)
    assert (interface.get_cookie_path(app), interface.get_cookie_domain(app)) == ("/", None)
    assert not interface.get_cookie_partitioned(app)


def test_two_lines_where_one_would_do_are_refused(app: Flask, sessions: Sessions) -> None:
    with pytest.raises(ConfigError, match="twice"):
        init_app(app, sessions)
    with pytest.raises(ConfigError, match="twice"):
        SessionMiddleware(app.wsgi_app, sessions)
    with pytest.raises(ConfigError, match=r"Sessions\.from_url"):
        init_app(Flask("other"), "memory://")  # type: ignore[arg-type]


def test_objects_in_the_rows_of_a_stored_cart_are_shown_and_not_kept(
    app: Flask, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    """Flask's own does not notice nested changes; whoever marks or writes something means them."""

    @app.route("/cart", methods=["GET", "POST"])
    def cart() -> str:
        if flask.request.method == "POST":
            session["cart"] = {"7": {"price": "9.90"}}
            return ""
        row = session["cart"]["7"]
        row["product"] = object()
        session.modified = "marked" in flask.request.args
        if "committed" in flask.request.args:
            sessions.blocking.commit(session)
        return str(row["price"])

    client = app.test_client()
    client.post("/cart")
    assert [client.get("/cart").text for _ in range(2)] == ["9.90", "9.90"]
    assert "session['cart'] holds a object" in caplog.text
    with client.session_transaction() as kept:
        assert kept["cart"] == {"7": {"price": "9.90"}}
    for meant in ("marked", "committed"):
        with pytest.raises(ValueNotStorableError):
            client.get(f"/cart?{meant}=1")
