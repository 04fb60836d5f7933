"""Litestar's documentation about sessions and stores, example by example."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pydantic
import pytest
from click.testing import CliRunner
from litestar import Controller, Litestar, MediaType, Request, asgi, delete, get, post
from litestar.cli._utils import LitestarEnv
from litestar.cli.main import litestar_group
from litestar.config.response_cache import ResponseCacheConfig
from litestar.connection import ASGIConnection
from litestar.middleware.rate_limit import RateLimitConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.plugins.flash import FlashConfig, FlashPlugin, flash
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Template
from litestar.security.session_auth import SessionAuth
from litestar.stores.registry import StoreRegistry
from litestar.template.config import TemplateConfig
from litestar.testing import AsyncTestClient, TestClient
from litestar.types import Receive, Scope, Send

from samesession import Cookie, Sessions
from samesession.errors import ConfigError
from samesession.lab.engines import Engine
from samesession.web.litestar import SessionConfig, SharedStore, current_session, session_middleware

Asked = Request[Any, Any, Any]


@pytest.fixture
def sessions() -> Sessions:
    return Sessions.from_url("memory://", cookie=Cookie(secure=False))


@get("/session", sync_to_thread=False)
def check_session_handler(request: Asked) -> dict[str, bool]:
    return {"has_session": request.session != {}}


@post("/session", sync_to_thread=False)
def create_session_handler(request: Asked) -> None:
    if not request.session:
        request.set_session({"username": "moishezuchmir"})


@delete("/session", sync_to_thread=False)
def delete_session_handler(request: Asked) -> None:
    if request.session:
        request.clear_session()


def test_the_page_about_sessions(sessions: Sessions) -> None:
    handlers = [check_session_handler, create_session_handler, delete_session_handler]
    app = Litestar(handlers, middleware=[session_middleware(sessions)])
    with TestClient(app) as client:
        assert client.get("/session").json() == {"has_session": False}
        client.post("/session")
        assert client.get("/session").json() == {"has_session": True}
        gone = client.delete("/session")
        assert "Max-Age=0" in gone.headers["set-cookie"]
        assert client.get("/session").json() == {"has_session": False}


class Own:
    def __init__(self, colour: str) -> None:
        self.colour = colour


@dataclass
class Cart:
    items: list[str]
    total: int


@post("/cart", sync_to_thread=False)
def put_cart(request: Asked) -> None:
    request.set_session(Cart(["tea"], 3))


@get("/cart", sync_to_thread=False)
def show_cart(request: Asked) -> dict[str, Any]:
    return {"data": dict(request.session), "id": request.get_session_id()}


def test_set_session_with_a_class(sessions: Sessions) -> None:
    app = Litestar([put_cart, show_cart], middleware=[SessionConfig(sessions).middleware])
    with TestClient(app) as client:
        assert client.get("/cart").json()["data"] == {}
        client.post("/cart")
        assert client.get("/cart").json()["data"] == {"items": ["tea"], "total": 3}


@post(["/named", "/named/kept", "/named/login"], sync_to_thread=False)
def named(request: Asked) -> str | None:
    handle = request.get_session_id()
    if request.url.path == "/named/kept":
        request.session["kept"] = True
    elif request.url.path == "/named/login":
        current_session(request).login("ann")
    return handle


def test_a_session_has_its_id_before_it_is_stored(sessions: Sessions) -> None:
    """Litestar's words: if there is no id, one is generated; it is stored under that later."""
    app = Litestar([named, show_cart], middleware=[session_middleware(sessions)])
    with TestClient(app) as client:
        assert client.post("/named").text != client.post("/named").text, "nothing was stored"
        first = client.post("/named/kept").text
        assert len(first) == 32, "the handle: useless as a cookie"
        assert client.get("/cart").json() == {"data": {"kept": True}, "id": first}
        client.post("/named/login")
        assert client.get("/cart").json()["id"] != first, "a login goes on under another one"


def test_litestars_command_deletes_a_session(sessions: Sessions) -> None:
    app = Litestar([named, show_cart], middleware=[session_middleware(sessions)])
    with TestClient(app) as client:
        handle = client.post("/named/kept").text
        for command, says in (
            (["delete", handle], f"Deleted session '{handle}'"),
            (["clear"], "does not support clearing all sessions"),
        ):
            runner = CliRunner(env={"COLUMNS": "200"})
            env = LitestarEnv("shop:app", app, cwd=Path.cwd())  # as its `--app` makes one
            said = runner.invoke(litestar_group, ["sessions", *command], obj=env, input="y\n")
            assert says in said.output
        assert client.get("/cart").json()["data"] == {}


class Colour(Enum):
    RED = "red"


class Model(pydantic.BaseModel):
    url: pydantic.HttpUrl = pydantic.HttpUrl("http://shop/")
    carts: list[Cart] = [Cart(["tea"], 3)]


MODELS: dict[str, Any] = {
    "a model": Model(),
    "nested": {"cart": Cart(["tea"], 3), "colour": Colour.RED, "at": Path("/tmp")},
    "an own type": {"colours": [Own("red")]},
}


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_what_litestars_serializer_makes_plain_comes_back_plain(
    sessions: Sessions, name: str, theirs: bool
) -> None:
    """Its own sessions are the second witness."""

    @post("/whole", sync_to_thread=False)
    def whole(request: Asked) -> None:
        request.set_session(MODELS[name])

    @post("/key", sync_to_thread=False)
    def key(request: Asked) -> None:
        request.session["key"] = MODELS[name]
        request.session.setdefault("list", []).append(MODELS[name])

    @post("/refused", sync_to_thread=False)
    def refused(request: Asked) -> None:
        request.session["key"] = object()

    config: Any = ServerSideSessionConfig() if theirs else SessionConfig(sessions)
    app = Litestar(
        [whole, key, refused, show_cart],
        middleware=[config.middleware],
        type_encoders={Own: lambda own: own.colour},
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        client.post("/whole")
        plain = client.get("/cart").json()["data"]
        assert plain == PLAIN[name]
        client.post("/key")
        assert client.get("/cart").json()["data"] == {**plain, "key": plain, "list": [plain]}
        assert client.post("/refused").status_code == 500
        assert client.get("/cart").json()["data"] == {**plain, "key": plain, "list": [plain]}


PLAIN = {
    "a model": {"url": "http://shop/", "carts": [{"items": ["tea"], "total": 3}]},
    "nested": {"cart": {"items": ["tea"], "total": 3}, "colour": "red", "at": "/tmp"},
    "an own type": {"colours": ["red"]},
}


USERS = {"1": "ann"}


async def retrieve_user_handler(
    session: dict[str, Any], connection: ASGIConnection[Any, Any, Any, Any]
) -> str | None:
    return USERS.get(session.get("user_id", ""))


class Account(Controller):
    @post("/login", sync_to_thread=False)
    def login(self, request: Asked) -> None:
        request.set_session({**request.session, "user_id": "1"})

    @get("/user", sync_to_thread=False)
    def user(self, request: Asked) -> str:
        return str(request.user)


def test_the_typed_session_holds_what_was_set(sessions: Sessions) -> None:
    @post("/", sync_to_thread=False)
    def index(request: Asked) -> dict[str, Any]:
        request.set_session({"basket": ["tea"]})
        session = current_session(request)
        session.login("ann")
        return {"principal": session.principal, **session}

    with TestClient(Litestar([index, show_cart], middleware=[session_middleware(sessions)])) as c:
        assert c.post("/").json() == {"principal": "ann", "basket": ["tea"]}
        assert c.get("/cart").json()["data"] == {"basket": ["tea"]}
        assert len(sessions.blocking.held_by("ann")) == 1


def test_session_auth_with_a_principal_key() -> None:
    cookie = Cookie(secure=False)
    sessions = Sessions.from_url("memory://", cookie=cookie, principal_key="user_id")
    auth = SessionAuth[Any, Any](
        retrieve_user_handler=retrieve_user_handler,
        session_backend_config=SessionConfig(sessions),
        exclude=["/login", "/schema"],
    )
    app = Litestar([Account], on_app_init=[auth.on_app_init])
    with TestClient(app) as client:
        assert client.get("/user").status_code == 401
        client.post("/login")
        assert client.get("/user").text == "ann"
        (held,) = sessions.blocking.held_by("1")
        sessions.blocking.end(held.handle)
        assert client.get("/user").status_code == 401


def test_session_auth_answers_options_and_keeps_no_cookie_of_a_stranger(
    sessions: Sessions,
) -> None:
    auth = SessionAuth[Any, Any](
        retrieve_user_handler=retrieve_user_handler,
        session_backend_config=SessionConfig(sessions),
        exclude=["/login", "/schema"],
    )
    with TestClient(Litestar([Account], on_app_init=[auth.on_app_init])) as client:
        assert client.options("/user").status_code == 204
        refused = client.get("/user", headers={"Cookie": "session=invented"})
        assert (refused.status_code, "set-cookie" in refused.headers) == (401, False)


@post("/test", sync_to_thread=False)
def set_session_data(request: Asked) -> None:
    request.session["foo"] = "bar"


@get("/test", sync_to_thread=False)
def get_session_data(request: Asked) -> dict[str, Any]:
    return request.session


def test_the_page_about_testing(sessions: Sessions) -> None:
    config = SessionConfig(sessions)
    app = Litestar([set_session_data, get_session_data], middleware=[config.middleware])
    with TestClient(app, session_config=config) as client:
        assert client.get_session_data() == {}
        client.set_session_data({"foo": "from outside"})
        assert client.get("/test").json() == {"foo": "from outside"}
        client.post("/test")
        assert client.get_session_data() == {"foo": "bar"}
        client.set_session_data({"other": [1]})
        assert client.get("/test").json() == {"other": [1]}


@pytest.mark.anyio
async def test_the_page_about_testing_on_a_loop(engine: Engine) -> None:
    config = SessionConfig(over(engine, "litestar-client"))
    app = Litestar([set_session_data, get_session_data], middleware=[config.middleware])
    async with AsyncTestClient(app, session_config=config) as client:
        await client.set_session_data({"foo": "from outside"})
        assert (await client.get("/test")).json() == {"foo": "from outside"}
        await client.post("/test")
        assert await client.get_session_data() == {"foo": "bar"}


def test_the_page_about_flash_messages(sessions: Sessions) -> None:
    @get("/")
    async def index() -> Template:
        return Template(
            template_str="{% for message in get_flashes() %}"
            "{{ message.message }} ({{ message.category }}){% endfor %}"
        )

    @post("/")
    async def add(request: Asked) -> None:
        flash(request, "Oh no! I've been flashed!", category="error")

    pages = TemplateConfig(engine=JinjaTemplateEngine, directory=".")
    app = Litestar(
        [index, add],
        plugins=[FlashPlugin(config=FlashConfig(template_config=pages))],
        template_config=pages,
        middleware=[session_middleware(sessions)],
    )
    with TestClient(app) as client:
        client.post("/")
        assert client.get("/").text == "Oh no! I&#39;ve been flashed! (error)"
        assert client.get("/").text == ""


def test_excluded_paths_have_no_session(sessions: Sessions) -> None:
    @get("/none", skip_session=True, sync_to_thread=False)
    def none(request: Asked) -> bool:
        return "session" in request.scope

    @get("/static/none", sync_to_thread=False)
    def static(request: Asked) -> bool:
        return "session" in request.scope

    @asgi("/mounted", is_mount=True, copy_scope=True)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        said = b"true" if "session" in scope else b"false"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said, "more_body": False})

    handlers = [none, static, mounted, show_cart]
    exclude = ["^/static", "^/mounted/without"]
    app = Litestar(handlers, middleware=[session_middleware(sessions, exclude=exclude)])
    with TestClient(app) as client:
        assert client.get("/none").json() is False
        assert client.get("/static/none").json() is False
        assert client.get("/mounted/without").json() is False
        assert client.get("/mounted/with").json() is True
        assert client.get("/cart").json()["data"] == {}


def test_hooks_around_a_handler(sessions: Sessions) -> None:
    async def before(request: Asked) -> None:
        request.session["asked"] = request.session.get("asked", 0) + 1

    async def after_response(request: Asked) -> None:
        request.session["answered"] = request.session.get("answered", 0) + 1
        await sessions.commit(request.session)  # type: ignore[arg-type]

    app = Litestar(
        [show_cart],
        middleware=[session_middleware(sessions)],
        before_request=before,
        after_response=after_response,
    )
    with TestClient(app) as client:
        assert client.get("/cart").json()["data"] == {"asked": 1}
        assert client.get("/cart").json()["data"] == {"asked": 2, "answered": 1}


def test_a_second_layer_is_refused_at_the_start(sessions: Sessions) -> None:
    @get("/", middleware=[session_middleware(sessions)], sync_to_thread=False)
    def index() -> None: ...

    with pytest.raises(ConfigError, match="twice"):
        Litestar([index], middleware=[session_middleware(sessions)])
    with pytest.raises(ConfigError, match=r"Sessions\.from_url"):
        session_middleware("memory://")  # type: ignore[arg-type]


def over(engine: Engine, prefix: str) -> Sessions:
    keys = ["the key of every server in the frameworks' tests"]
    url = f"{engine.url}?prefix={prefix}"
    return Sessions.from_url(url, keys=keys, cookie=Cookie(secure=False))


def test_rate_limits_and_cached_responses_count_on_two_servers(engine: Engine) -> None:
    calls: list[str] = []

    def server(name: str) -> Litestar:
        @get("/cached", cache=60, media_type=MediaType.TEXT, sync_to_thread=False)
        def cached(request: Asked) -> str:
            request.session["visited"] = name
            calls.append(name)
            return name

        sessions = over(engine, "litestar-servers")
        stores = StoreRegistry(default_factory=SharedStore(sessions).with_namespace)
        limits = RateLimitConfig(rate_limit=("minute", 3), exclude=["/schema"])
        return Litestar(
            [cached, show_cart],
            stores=stores,
            response_cache_config=ResponseCacheConfig(store="response_cache"),
            middleware=[limits.middleware, session_middleware(sessions)],
            on_startup=[sessions.ready],
            on_shutdown=[sessions.close],
        )

    with TestClient(server("s1")) as first, TestClient(server("s2")) as second:
        answers = [client.get("/cached") for client in (first, second, first, second, first)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert {answer.text for answer in answers[:3]} == {"s1"}
        assert calls == ["s1"], "the other server has it from the cache"
        assert "set-cookie" in answers[0].headers
        assert "set-cookie" not in answers[1].headers, "nobody gets another's cookie from it"


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, engine: Engine) -> SharedStore:
    sessions = request.getfixturevalue("sessions")
    return SharedStore(sessions if request.param == "memory" else over(engine, "litestar-store"))


@pytest.mark.anyio
async def test_the_store_keeps_renews_and_forgets(store: SharedStore) -> None:
    assert await store.get("a") is None
    assert await store.expires_in("a") is None
    await store.set("a", "text")
    assert (await store.get("a"), await store.expires_in("a")) == (b"text", -1)
    await store.set("a", b"bytes", expires_in=60)
    left = await store.expires_in("a")
    assert left is not None
    assert 50 < left <= 60
    assert await store.get("a", renew_for=600) == b"bytes"
    left = await store.expires_in("a")
    assert left is not None
    assert left > 500
    await store.delete("a")
    assert not await store.exists("a")
    await store.set("a", b"again")
    assert await store.get("a") == b"again", "a value may come back at once, unlike a session"
    await store.delete("never there")
    child = store.with_namespace("child")
    await child.set("a", b"child's")
    assert (await store.get("a"), await child.get("a")) == (b"again", b"child's")
    await child.delete_expired()
    await child.delete_all()
    assert (await store.get("a"), await child.get("a")) == (b"again", None)
    await child.set("a", b"new")
    await store.delete_all()
    assert (await store.get("a"), await child.get("a")) == (None, None)
    await store.sessions.close()


@pytest.mark.anyio
async def test_a_value_that_is_over_can_be_set_anew(store: SharedStore) -> None:
    await store.set("short", b"1", expires_in=0.001)  # type: ignore[arg-type]
    while await store.exists("short"):
        pass
    await store.set("short", b"2", expires_in=60)
    assert await store.get("short") == b"2"
    await store.sessions.close()
