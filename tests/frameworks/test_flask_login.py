"""Flask-Login's documentation, example by example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Flask, Request, flash, get_flashed_messages, redirect, request, session
from flask.sessions import SecureCookieSessionInterface
from flask_login import (
    FlaskLoginClient,
    LoginManager,
    UserMixin,
    confirm_login,
    current_user,
    fresh_login_required,
    login_required,
    login_user,
    logout_user,
)
from werkzeug.wrappers import Response

from samesession import Cookie, Sessions
from samesession.errors import ConfigError
from samesession.web.flask import init_app


@pytest.fixture
def sessions() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


@pytest.fixture
def app(sessions: Sessions) -> Flask:
    made = Flask(__name__)
    made.config["TESTING"] = True
    init_app(made, sessions)
    return made


class User(UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


@pytest.fixture
def guarded(app: Flask) -> Flask:
    app.secret_key = "only for the remember-me cookie"
    manager = LoginManager(app)
    manager.user_loader(User)

    @app.get("/basket")
    def basket() -> str:
        session.setdefault("basket", []).append("tea")
        return str(session["basket"])

    @app.get("/login/<name>")
    def login(name: str) -> str:
        login_user(User(name))
        return "ok"

    @app.get("/logout")
    def logout() -> str:
        logout_user()
        return "ok"

    @app.get("/me")
    @login_required
    def me() -> str:
        return str(current_user.id)

    return app


def cookie_of(client: Any) -> str:
    cookie = client.get_cookie("session")
    return cookie.value if cookie else ""


def test_flask_login_rotates_at_login_and_ends_at_logout(
    guarded: Flask, sessions: Sessions
) -> None:
    client, thief = guarded.test_client(), guarded.test_client()
    client.get("/basket")
    thief.set_cookie("session", cookie_of(client))
    client.get("/login/ann")
    assert client.get("/me").text == "ann"
    assert client.get("/basket").text == "['tea', 'tea']"
    assert thief.get("/me").status_code == 401
    (held,) = sessions.blocking.held_by("ann")
    assert held.user_agent.startswith("Werkzeug")
    thief.set_cookie("session", cookie_of(client))
    client.get("/logout")
    assert sessions.blocking.held_by("ann") == []
    assert (client.get("/me").status_code, thief.get("/me").status_code) == (401, 401)
    assert client.get("/basket").text == "['tea', 'tea', 'tea']", "what is not the login's stays"


def test_flask_login_over_another_user_starts_empty(guarded: Flask, sessions: Sessions) -> None:
    client = guarded.test_client()
    client.get("/login/ann")
    client.get("/basket")
    client.get("/login/bob")
    assert client.get("/me").text == "bob"
    assert client.get("/basket").text == "['tea']"
    assert [len(sessions.blocking.held_by(name)) for name in ("ann", "bob")] == [0, 1]


def test_an_administrator_ends_a_session_of_flask_login(guarded: Flask, sessions: Sessions) -> None:
    client = guarded.test_client()
    client.get("/login/ann")
    assert sessions.blocking.end_all("ann") == 1
    assert client.get("/me").status_code == 401


def test_remember_me_and_strong_protection(guarded: Flask, sessions: Sessions) -> None:
    guarded.extensions.get("login_manager", guarded.login_manager).session_protection = "strong"  # type: ignore[attr-defined]

    @guarded.get("/remember/<name>")
    def remember(name: str) -> str:
        login_user(User(name), remember=True)
        return "ok"

    client = guarded.test_client()
    client.get("/remember/ann", headers={"User-Agent": "hers"})
    assert client.get("/me", headers={"User-Agent": "hers"}).text == "ann"
    client.delete_cookie("session")
    assert client.get("/me", headers={"User-Agent": "hers"}).text == "ann", "she is remembered"
    assert len(sessions.blocking.held_by("ann")) == 2, "and has a session of her own again"
    client.delete_cookie("remember_token")
    assert client.get("/me", headers={"User-Agent": "another's"}).status_code == 401
    assert len(sessions.blocking.held_by("ann")) == 1, "whose browser changed is signed out"


# -- the page, with its own login view -------------------------------------------------------------

USERS: dict[str, User] = {}


@pytest.fixture
def page(app: Flask) -> Flask:
    app.secret_key = "only for the remember-me cookie"
    manager = LoginManager(app)
    manager.login_view = manager.refresh_view = "login"
    USERS.update({name: User(name) for name in ("ann", "bob")})

    @manager.user_loader
    def load_user(name: str) -> User | None:
        return USERS.get(name)

    @manager.request_loader
    def load_user_from_request(asked: Request) -> User | None:
        return USERS.get(asked.headers.get("Authorization", ""))

    @app.route("/login", methods=["GET", "POST"])
    def login() -> str | Response:
        if request.method == "GET":
            return str(get_flashed_messages())
        login_user(USERS[request.form["name"]], remember="remember" in request.form)
        flash("Logged in successfully.")
        return redirect(request.args.get("next") or session.get("next") or "/")

    def show(path: str, guard: Callable[..., Any] = lambda view: view) -> None:
        @guard
        def view() -> str:
            shown = getattr(current_user, "id", None), get_flashed_messages()
            return " ".join(str(part) for part in shown if part)

        app.add_url_rule(path, path, view)

    show("/")
    show("/settings", login_required)
    show("/password", fresh_login_required)

    @app.get("/confirm")
    def confirm() -> str:
        confirm_login()
        return ""

    return app


@pytest.mark.parametrize("by_session", [False, True])
def test_who_is_sent_to_the_login_comes_back(page: Flask, by_session: bool) -> None:
    page.config["USE_SESSION_FOR_NEXT"] = by_session
    client = page.test_client()
    sent = client.get("/settings").location
    assert sent == ("/login" if by_session else "/login?next=%2Fsettings")
    assert client.get("/login").text == "['Please log in to access this page.']"
    assert client.post(sent, data={"name": "ann"}).location == "/settings"
    assert client.get("/settings").text == "ann ['Logged in successfully.']"


def test_a_remembered_login_is_not_fresh_until_it_is_confirmed(page: Flask) -> None:
    client = page.test_client()
    client.post("/login", data={"name": "ann", "remember": "yes"})
    assert client.get("/password").text.startswith("ann")
    client.delete_cookie("session")
    assert client.get("/settings").text == "ann"
    assert client.get("/password").location == "/login?next=%2Fpassword"
    client.get("/confirm")
    assert client.get("/password").text.startswith("ann")


def test_a_user_who_is_no_more_is_signed_out(page: Flask) -> None:
    client = page.test_client()
    client.post("/login", data={"name": "bob"})
    USERS.pop("bob")
    assert client.get("/settings").status_code == 302


def test_the_client_for_tests(page: Flask) -> None:
    page.login_manager.session_protection = None  # type: ignore[attr-defined]  (its page says so)
    page.test_client_class = FlaskLoginClient
    for fresh, status in ((True, 200), (False, 302)):
        with page.test_client(user=USERS["ann"], fresh_login=fresh) as client:
            assert client.get("/settings").text == "ann"
            assert client.get("/password").status_code == status


def test_whom_a_header_names_gets_no_cookie_and_needs_no_interface_for_it(page: Flask) -> None:
    """The page's custom interface skips saving; here nothing is written, so nothing is saved."""
    answer = page.test_client().get("/settings", headers={"Authorization": "ann"})
    assert (answer.text, answer.headers.get("Set-Cookie")) == ("ann", None)

    class CustomSessionInterface(SecureCookieSessionInterface):
        def save_session(self, *words: Any, **more: Any) -> None:
            if not flask.g.get("login_via_request"):
                super().save_session(*words, **more)

    page.session_interface = CustomSessionInterface()
    with pytest.raises(ConfigError, match=r"CustomSessionInterface.*remove its line"):
        page.test_client().get("/settings")
